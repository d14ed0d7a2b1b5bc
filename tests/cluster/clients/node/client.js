// kafkajs under the commands of tests/cluster/README.md: one JSON command a line on stdin, one JSON
// answer a line on stdout. It does not read: kafkajs reads only as a member of a group.
'use strict'

const fs = require('fs')
const readline = require('readline')
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes } = require('kafkajs')
const { version } = require('kafkajs/package.json')
const { ZstdCodec } = require('zstd-codec')
const lz4 = require('lz4-napi')

const TIMEOUT_MS = 15000

// kafkajs brings gzip; the other codecs are for its user to supply.
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: encoder => lz4.compressFrame(encoder.buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: encoder =>
    new Promise(resolve =>
      ZstdCodec.run(zstd => resolve(Buffer.from(new zstd.Simple().compress(encoder.buffer))))
    ),
})

const COMPRESSION = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
}

const connect = bootstrap =>
  new Kafka({
    brokers: [bootstrap],
    requestTimeout: TIMEOUT_MS,
    retry: { initialRetryTime: 50, retries: 8 },
    logCreator: () => ({ log }) => console.error(log.message, log.error || ''),
  })

const unhex = text => (text === null ? null : Buffer.from(text, 'hex'))

// kafkajs takes headers as an object; the values of a repeated name become a list.
const headersOf = list => {
  const headers = {}
  for (const [name, value] of list) (headers[name] = headers[name] || []).push(unhex(value))
  return headers
}

const messageOf = note => ({
  partition: note.partition,
  key: unhex(note.key),
  value: unhex(note.value),
  headers: headersOf(note.headers),
  timestamp: String(note.timestamp),
})

const chunksOf = (notes, bytesMax) => {
  const chunks = []
  let bytes = Infinity
  for (const note of notes) {
    const size = ((note.value || '').length + (note.key || '').length) / 2 + 60
    if (bytes + size > bytesMax) {
      chunks.push([])
      bytes = 0
    }
    chunks[chunks.length - 1].push(note)
    bytes += size
  }
  return chunks
}

// A send is one batch per partition, answered with the offset of its first record.
const sendChunk = async (producer, topic, compression, notes) => {
  const answers = await producer.send({
    topic,
    compression: COMPRESSION[compression],
    messages: notes.map(messageOf),
  })
  const next = {}
  for (const { partition, baseOffset, logAppendTime } of answers) {
    next[partition] = { offset: Number(baseOffset), time: Number(logAppendTime) }
  }
  for (const note of notes) {
    note.offset = next[note.partition].offset++
    note.answered_timestamp = next[note.partition].time
  }
}

const produce = async c => {
  const producer = connect(c.bootstrap).producer({
    idempotent: Boolean(c.idempotent),
    // kafkajs keeps the promises of an idempotent producer only with one request at a time.
    maxInFlightRequests: c.idempotent ? 1 : c.in_flight,
    createPartitioner: () => ({ message }) => message.partition,
  })
  const notes = fs.readFileSync(c.plan, 'utf8').trim().split('\n').map(JSON.parse)

  await producer.connect()
  try {
    const concurrent = c.in_flight && !c.idempotent
    const sends = []
    for (const chunk of chunksOf(notes, c.batch_bytes || 64 * 1024)) {
      sends.push(sendChunk(producer, c.topic, c.compression || 'none', chunk))
      if (!concurrent) await sends[sends.length - 1]
    }
    await Promise.all(sends)
  } finally {
    await producer.disconnect()
  }
  fs.writeFileSync(c.out, notes.map(note => JSON.stringify(note) + '\n').join(''))
}

const byPartition = (partitions, field, found) => {
  const offsets = new Array(partitions).fill(-1)
  for (const entry of found) offsets[entry.partition] = Number(entry[field])
  return offsets
}

const offsets = async (admin, { topic, partitions, at }) => {
  if (typeof at === 'string') {
    const found = await admin.fetchTopicOffsets(topic)
    return { offsets: byPartition(partitions, at === 'earliest' ? 'low' : 'high', found) }
  }
  // fetchTopicOffsetsByTimestamp() answers the end of a partition where nothing is as new.
  const [found, ends] = await Promise.all([
    admin.fetchTopicOffsetsByTimestamp(topic, at),
    admin.fetchTopicOffsets(topic),
  ])
  const end = byPartition(partitions, 'high', ends)
  return {
    offsets: byPartition(partitions, 'offset', found).map((o, p) => (o === end[p] ? -1 : o)),
  }
}

const commands = {
  version: async () => ({ version }),
  create: async (admin, { topic, partitions, config }) => {
    const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }))
    const topics = [{ topic, numPartitions: partitions, replicationFactor: 1, configEntries }]
    // With one topic that exists kafkajs only answers false.
    if (!(await admin.createTopics({ topics }))) throw { type: 'TOPIC_ALREADY_EXISTS' }
  },
  describe: async (admin, { topic }) => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    return { partitions: topics[0].partitions.filter(p => p.leader >= 0).length }
  },
  config: async (admin, { topic, names }) => {
    const { resources } = await admin.describeConfigs({
      resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: names }],
    })
    const entries = resources[0].configEntries
    return { config: Object.fromEntries(entries.map(e => [e.configName, e.configValue])) }
  },
  alter: async (admin, { topic, config }) => {
    const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }))
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries }]
    await admin.alterConfigs({ resources })
  },
  grow: (admin, { topic, partitions }) =>
    admin.createPartitions({ topicPartitions: [{ topic, count: partitions }] }),
  offsets,
  delete_records: (admin, { topic, before }) =>
    admin.deleteTopicRecords({
      topic,
      partitions: before.map((offset, partition) => ({ partition, offset: String(offset) })),
    }),
  delete: (admin, { topic }) => admin.deleteTopics({ topics: [topic] }),
  produce: (admin, c) => produce(c),
}

const nameOf = e => {
  const inner = e.cause || (e.partitions && e.partitions[0].error)
  return e.type || (inner && nameOf(inner)) || String(e.message || e)
}

const main = async () => {
  const admin = connect(process.argv[2]).admin()

  await admin.connect()
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const c = JSON.parse(line)
    let answer
    try {
      answer = (await commands[c.do](admin, c)) || {}
    } catch (e) {
      console.error(e)
      answer = { error: nameOf(e) }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  }
  await admin.disconnect()
}

main()
