"""confluent-kafka (librdkafka) under the commands of tests/cluster/README.md."""
import sys

import confluent_kafka as ck
from confluent_kafka import admin as ca

import commands

TIMEOUT = 15


def only(futures):
    """The result of a call about one thing."""
    (future,) = futures.values()
    return future.result(TIMEOUT)


class Client:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.admin = ca.AdminClient({"bootstrap.servers": bootstrap})

    def version(self):
        return {"version": f"{ck.__version__} (librdkafka {ck.libversion()[0]})"}

    def create(self, topic, partitions, config):
        only(self.admin.create_topics([ca.NewTopic(topic, partitions, 1, config=config)]))

    def describe(self, topic):
        found = only(self.admin.describe_topics(ck.TopicCollection([topic])))
        return {"partitions": sum(p.leader is not None for p in found.partitions)}

    def config(self, topic, names):
        found = only(self.admin.describe_configs([ca.ConfigResource("topic", topic)]))
        return {"config": {name: found[name].value for name in names}}

    def alter(self, topic, config):
        entries = [ca.ConfigEntry(k, v, incremental_operation=ca.AlterConfigOpType.SET)
                   for k, v in config.items()]
        only(self.admin.incremental_alter_configs(
            [ca.ConfigResource("topic", topic, incremental_configs=entries)]))

    def grow(self, topic, partitions):
        only(self.admin.create_partitions([ca.NewPartitions(topic, partitions)]))

    def offsets(self, topic, partitions, at):
        spec = {"earliest": ca.OffsetSpec.earliest, "latest": ca.OffsetSpec.latest}.get(at)
        spec = spec() if spec else ca.OffsetSpec.for_timestamp(at)
        found = self.admin.list_offsets(
            {ck.TopicPartition(topic, p): spec for p in range(partitions)})
        by_partition = {tp.partition: f.result(TIMEOUT).offset for tp, f in found.items()}
        return {"offsets": [by_partition[p] for p in range(partitions)]}

    def delete_records(self, topic, before):
        for future in self.admin.delete_records(
                [ck.TopicPartition(topic, p, o) for p, o in enumerate(before)]).values():
            future.result(TIMEOUT)

    def delete(self, topic):
        only(self.admin.delete_topics([topic]))

    def produce(self, bootstrap, topic, plan, out, compression="none", idempotent=None,
                in_flight=None, batch_bytes=None):
        options = {"bootstrap.servers": bootstrap, "compression.type": compression,
                   "enable.idempotence": idempotent, "batch.size": batch_bytes,
                   "max.in.flight.requests.per.connection": in_flight, "linger.ms": 5,
                   "delivery.timeout.ms": TIMEOUT * 1000}
        producer = ck.Producer({k: v for k, v in options.items() if v is not None})
        notes, failures = [], []

        def on_delivery(line, error, message):
            if error:
                failures.append(error)
            else:
                line["offset"] = message.offset()
                line["answered_timestamp"] = message.timestamp()[1]

        for line, key, value, headers in commands.load(plan):
            notes.append(line)
            producer.produce(topic, value, key, line["partition"], timestamp=line["timestamp"],
                             headers=headers,
                             on_delivery=lambda e, m, line=line: on_delivery(line, e, m))
            producer.poll(0)
        if producer.flush(TIMEOUT):
            raise TimeoutError("records without an answer")
        if failures:
            raise ck.KafkaException(failures[0])
        commands.save(out, notes)

    def read(self, bootstrap, topic, partitions, out, offsets=None, time=None):
        consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": "assigned-only",
                                "enable.auto.commit": False, "auto.offset.reset": "error"})
        watermarks = [consumer.get_watermark_offsets(ck.TopicPartition(topic, p), TIMEOUT)
                      for p in range(partitions)]
        ends = [high for _, high in watermarks]
        if time is not None:
            asked = [ck.TopicPartition(topic, p, time) for p in range(partitions)]
            offsets = [tp.offset if tp.offset >= 0 else ends[tp.partition]
                       for tp in consumer.offsets_for_times(asked, TIMEOUT)]
        starts = offsets or [low for low, _ in watermarks]
        progress = commands.Progress(starts, ends)
        consumer.assign([ck.TopicPartition(topic, p, o) for p, o in enumerate(starts)])
        try:
            while progress.more():
                for m in consumer.consume(500, 0.2):
                    if m.error():
                        raise ck.KafkaException(m.error())
                    kind, timestamp = m.timestamp()
                    progress.add(commands.record_line(
                        m.partition(), m.offset(), timestamp,
                        kind == ck.TIMESTAMP_LOG_APPEND_TIME, m.key(), m.value(), m.headers()))
        finally:
            commands.save(out, progress.lines)
            consumer.close()


def error_name(error):
    is_kafka = isinstance(error, ck.KafkaException)
    return error.args[0].name() if is_kafka else None


commands.serve(Client(sys.argv[1]), error_name)
