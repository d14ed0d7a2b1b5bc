"""aiokafka under the commands of tests/cluster/README.md."""
import asyncio
import sys

import aiokafka
from aiokafka.admin import (AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete)
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

import commands

TIMEOUT_MS = 15000


def raise_code(code):
    if code:
        raise for_code(code)


class Client:
    """Each command is one coroutine; one loop runs them all."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap,
                                         request_timeout_ms=TIMEOUT_MS)

    async def version(self):
        return {"version": aiokafka.__version__}

    async def create(self, topic, partitions, config):
        wanted = NewTopic(topic, partitions, 1, topic_configs=config)
        answer = await self.admin.create_topics([wanted])
        raise_code(answer.topic_errors[0][1])

    async def describe(self, topic):
        (found,) = await self.admin.describe_topics([topic])
        raise_code(found["error_code"])
        return {"partitions": sum(p["leader"] >= 0 for p in found["partitions"])}

    async def config(self, topic, names):
        asked = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(names))
        (answer,) = await self.admin.describe_configs([asked])
        raise_code(answer.resources[0][0])
        found = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        return {"config": {name: found[name] for name in names}}

    async def alter(self, topic, config):
        (answer,) = await self.admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic, config)])
        raise_code(answer.resources[0][0])

    async def grow(self, topic, partitions):
        await self.admin.create_partitions({topic: NewPartitions(partitions)})

    async def delete_records(self, topic, before):
        await self.admin.delete_records({aiokafka.TopicPartition(topic, p): RecordsToDelete(o)
                                    for p, o in enumerate(before)})

    async def delete(self, topic):
        answer = await self.admin.delete_topics([topic])
        raise_code(answer.topic_error_codes[0][1])

    async def offsets(self, topic, partitions, at):
        async with consumer_of(self.bootstrap, topic, partitions) as (consumer, assigned):
            if at == "earliest":
                return {"offsets": list_by(assigned, await consumer.beginning_offsets(assigned))}
            if at == "latest":
                return {"offsets": list_by(assigned, await consumer.end_offsets(assigned))}
            return {"offsets": await offsets_at_time(consumer, assigned, at)}

    async def produce(self, bootstrap, topic, plan, out, compression="none", idempotent=None,
                      in_flight=None, batch_bytes=None):
        options = {"enable_idempotence": idempotent, "max_batch_size": batch_bytes}
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=bootstrap, linger_ms=5, request_timeout_ms=TIMEOUT_MS, acks="all",
            compression_type=None if compression == "none" else compression,
            **{k: v for k, v in options.items() if v is not None})
        await producer.start()
        notes, futures = [], []
        try:
            for line, key, value, headers in commands.load(plan):
                notes.append(line)
                futures.append(await producer.send(topic, value, key, line["partition"],
                                                   line["timestamp"], headers))
            for line, answer in zip(notes, await asyncio.gather(*futures)):
                line["offset"], line["answered_timestamp"] = answer.offset, answer.timestamp
        finally:
            await producer.stop()
        commands.save(out, notes)

    async def read(self, bootstrap, topic, partitions, out, offsets=None, time=None):
        async with consumer_of(bootstrap, topic, partitions) as (consumer, assigned):
            ends = list_by(assigned, await consumer.end_offsets(assigned))
            if time is not None:
                found = await offsets_at_time(consumer, assigned, time)
                offsets = [end if o < 0 else o for o, end in zip(found, ends)]
            starts = offsets or list_by(assigned, await consumer.beginning_offsets(assigned))
            for tp, start in zip(assigned, starts):
                consumer.seek(tp, start)
            progress = commands.Progress(starts, ends)
            try:
                while progress.more():
                    for m in (m for ms in (await consumer.getmany(timeout_ms=200)).values()
                              for m in ms):
                        progress.add(commands.record_line(m.partition, m.offset, m.timestamp,
                                                        m.timestamp_type == 1, m.key, m.value,
                                                        m.headers))
            finally:
                commands.save(out, progress.lines)


class consumer_of:
    """An assigned consumer for the length of a block, with its assignment."""

    def __init__(self, bootstrap, topic, partitions):
        self.assigned = [aiokafka.TopicPartition(topic, p) for p in range(partitions)]
        self.consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False,
            auto_offset_reset="none", request_timeout_ms=TIMEOUT_MS)

    async def __aenter__(self):
        await self.consumer.start()
        self.consumer.assign(self.assigned)
        return self.consumer, self.assigned

    async def __aexit__(self, *_):
        await self.consumer.stop()


async def offsets_at_time(consumer, assigned, ms):
    found = await consumer.offsets_for_times(dict.fromkeys(assigned, ms))
    return [found[tp].offset if found[tp] else -1 for tp in assigned]


def list_by(assigned, found):
    return [found[tp] for tp in assigned]


def error_name(error):
    return getattr(error, "message", None)


async def connected():
    client = Client(sys.argv[1])
    await client.admin.start()
    return client


loop = asyncio.new_event_loop()
commands.serve(loop.run_until_complete(connected()), error_name, loop.run_until_complete)
