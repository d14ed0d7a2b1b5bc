"""kafka-python under the commands of tests/cluster/README.md."""
import sys

import kafka
from kafka.admin import ConfigResource, OffsetSpec

import commands

TIMEOUT_MS = 15000


class Client:
    def __init__(self, bootstrap):
        self.admin = kafka.KafkaAdminClient(bootstrap_servers=bootstrap,
                                            request_timeout_ms=TIMEOUT_MS)

    def version(self):
        return {"version": kafka.__version__}

    def create(self, topic, partitions, config):
        self.admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1,
                                          "configs": config}})

    def describe(self, topic):
        (found,) = self.admin.describe_topics([topic])
        if found["error_code"]:
            raise kafka.errors.for_code(found["error_code"])
        return {"partitions": sum(p["leader_id"] >= 0 for p in found["partitions"])}

    def config(self, topic, names):
        found = self.admin.describe_configs([ConfigResource("topic", topic, dict.fromkeys(names))],
                                            config_filter="all")["topic"][topic]
        return {"config": {name: str(found[name]["value"]) for name in names}}

    def alter(self, topic, config):
        answer = self.admin.alter_configs([ConfigResource("topic", topic, config)],
                                          incremental=True)["topic"][topic]
        if answer != "OK":  # the text of an error class, which begins with "[Error NUMBER]"
            raise kafka.errors.for_code(int(answer.split("]")[0].split()[-1]))

    def grow(self, topic, partitions):
        self.admin.create_partitions({topic: partitions})

    def offsets(self, topic, partitions, at):
        spec = {"earliest": OffsetSpec.EARLIEST, "latest": OffsetSpec.LATEST}.get(at, at)
        assigned = assignment(topic, partitions)
        found = self.admin.list_partition_offsets(dict.fromkeys(assigned, spec))
        return {"offsets": [found[tp].offset for tp in assigned]}

    def delete_records(self, topic, before):
        self.admin.delete_records(dict(zip(assignment(topic, len(before)), before)))

    def delete(self, topic):
        self.admin.delete_topics([topic])

    def produce(self, bootstrap, topic, plan, out, compression="none", idempotent=None,
                in_flight=None, batch_bytes=None):
        options = {"enable_idempotence": idempotent, "batch_size": batch_bytes,
                   "max_in_flight_requests_per_connection": in_flight}
        producer = kafka.KafkaProducer(
            bootstrap_servers=bootstrap, linger_ms=5, request_timeout_ms=TIMEOUT_MS,
            delivery_timeout_ms=TIMEOUT_MS + 1000, reconnect_backoff_max_ms=200,
            compression_type=None if compression == "none" else compression,
            **{k: v for k, v in options.items() if v is not None})
        sent = [(line, producer.send(topic, value, key, headers, line["partition"],
                                     line["timestamp"]))
                for line, key, value, headers in commands.load(plan)]
        try:
            producer.flush(TIMEOUT_MS / 1000)
            for line, future in sent:
                answer = future.get(1)
                line["offset"] = answer.offset
                line["answered_timestamp"] = answer.timestamp
        finally:
            producer.close(timeout=1)
        commands.save(out, [line for line, _ in sent])

    def read(self, bootstrap, topic, partitions, out, offsets=None, time=None):
        consumer = kafka.KafkaConsumer(bootstrap_servers=bootstrap, group_id=None,
                                       auto_offset_reset="none", enable_auto_commit=False,
                                       reconnect_backoff_max_ms=200)
        assigned = assignment(topic, partitions)
        consumer.assign(assigned)
        ends = list_by(assigned, consumer.end_offsets(assigned))
        if time is not None:
            found = consumer.offsets_for_times(dict.fromkeys(assigned, time))
            offsets = [found[tp].offset if found[tp] and found[tp].offset >= 0 else end
                       for tp, end in zip(assigned, ends)]
        starts = offsets or list_by(assigned, consumer.beginning_offsets(assigned))
        for tp, start in zip(assigned, starts):
            consumer.seek(tp, start)
        progress = commands.Progress(starts, ends)
        try:
            while progress.more():
                for m in (m for ms in consumer.poll(200).values() for m in ms):
                    progress.add(commands.record_line(m.partition, m.offset, m.timestamp,
                                                    m.timestamp_type == 1, m.key, m.value,
                                                    m.headers))
        finally:
            commands.save(out, progress.lines)
            consumer.close(autocommit=False)


def assignment(topic, partitions):
    return [kafka.TopicPartition(topic, p) for p in range(partitions)]


def list_by(assigned, found):
    return [found[tp] for tp in assigned]


def error_name(error):
    # delete_records() folds the errors of all partitions into one text of class names.
    if type(error) is kafka.errors.BrokerResponseError and "OffsetOutOfRangeError" in str(error):
        return "OFFSET_OUT_OF_RANGE"
    return getattr(error, "message", None)


commands.serve(Client(sys.argv[1]), error_name)
