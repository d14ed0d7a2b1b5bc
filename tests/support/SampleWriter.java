/* Writes a sample of everything a partition's files can hold, with the official client.
 *
 *     java -cp 'JARS/*' tests/support/SampleWriter.java BOOTSTRAP [RECORDS]
 *
 * Topics: one per codec, idempotent and not, transactions that commit, abort and stay open, null and
 * empty and binary keys and values, headers, LogAppendTime, one that is compacted, and one whose
 * first records are deleted.
 */
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class SampleWriter {
    static final String[] CODECS = {"none", "gzip", "snappy", "lz4", "zstd"};
    static final long T0 = 1700000000000L;
    static String bootstrap;
    static boolean transactions = !"no".equals(System.getenv("TRANSACTIONS"));
    static Random random = new Random(42);

    static KafkaProducer<byte[], byte[]> producer(Object... options) {
        Properties p = new Properties();
        p.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        p.put(ProducerConfig.LINGER_MS_CONFIG, 5);
        p.put(ProducerConfig.BATCH_SIZE_CONFIG, 4096);
        for (int i = 0; i < options.length; i += 2)
            p.put((String) options[i], options[i + 1]);
        return new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static byte[] utf8(String s) {
        return s.getBytes(StandardCharsets.UTF_8);
    }

    static byte[] words(int length) {
        StringBuilder b = new StringBuilder();
        while (b.length() < length)
            b.append(Integer.toString(random.nextInt(1000), 36)).append(' ');
        return utf8(b.substring(0, length));
    }

    static NewTopic topic(String name, int partitions, String... configs) {
        Map<String, String> c = new HashMap<>();
        c.put("segment.bytes", "1048576");
        c.put("index.interval.bytes", "2048");
        for (int i = 0; i < configs.length; i += 2)
            c.put(configs[i], configs[i + 1]);
        return new NewTopic(name, partitions, (short) 1).configs(c);
    }

    static ProducerRecord<byte[], byte[]> record(String topic, int partition, long time, byte[] key,
                                                 byte[] value) {
        return new ProducerRecord<>(topic, partition, time, key, value);
    }

    static void plain(String codec, int count) throws Exception {
        try (KafkaProducer<byte[], byte[]> p = producer("compression.type", codec,
                "enable.idempotence", "false")) {
            for (int i = 0; i < count; i++)
                p.send(record("plain-" + codec, i % 2, T0 + i * 10L - (i % 7) * 25, utf8("key-" + i),
                              words(random.nextInt(400))));
        }
        try (KafkaProducer<byte[], byte[]> p = producer("compression.type", codec)) {
            for (int i = 0; i < count; i++)
                p.send(record("idempotent-" + codec, 0, T0 + i, utf8("key-" + i),
                              words(random.nextInt(400))));
        }
    }

    static void odd() throws Exception {
        byte[] all = new byte[256];
        for (int i = 0; i < 256; i++)
            all[i] = (byte) i;
        byte[][] samples = {null, {}, utf8("plain"), utf8("\u00e4\u20ac\ud83d\ude00"), all,
            {(byte) 0xc3}, {(byte) 0xe2, (byte) 0x82}, {(byte) 0xed, (byte) 0xa0, (byte) 0x80},
            {(byte) 0xf4, (byte) 0x90, (byte) 0x80, (byte) 0x80, 'x'}, {(byte) 0xc0, (byte) 0xaf},
            {(byte) 0xe0, (byte) 0x80, (byte) 0xaf}, {(byte) 0xf0, (byte) 0x9f, (byte) 0x98, 'y'},
            {(byte) 0xf0, (byte) 0x80, 'z'}, {(byte) 0xf8, (byte) 0x88}, utf8("a\nb\tc\r\u0000d"),
            {(byte) 0xe1, (byte) 0xa0, (byte) 0xc0, '!'}};
        for (String codec : CODECS) {
            try (KafkaProducer<byte[], byte[]> p = producer("compression.type", codec)) {
                for (byte[] key : samples) {
                    for (byte[] value : samples) {
                        ProducerRecord<byte[], byte[]> r = record("odd", 0, T0, key, value);
                        r.headers().add("h", value);
                        r.headers().add("", null);
                        r.headers().add("h", new byte[0]);
                        r.headers().add("\u00fc \u20ac", utf8("x"));
                        p.send(r);
                        p.send(new ProducerRecord<>("append-time", 0, key, value));
                    }
                    p.flush();
                }
            }
        }
    }

    static void transactional(String id, int rounds, boolean leaveOpen) throws Exception {
        KafkaProducer<byte[], byte[]> p = producer("transactional.id", id, "compression.type",
                                                   CODECS[Math.floorMod(id.hashCode(), 5)]);
        p.initTransactions();
        for (int t = 0; t < rounds; t++) {
            p.beginTransaction();
            for (int i = 0; i < 1 + random.nextInt(30); i++)
                p.send(record("transactional", i % 2, System.currentTimeMillis(), utf8(id),
                              words(random.nextInt(300))));
            p.flush(); /* else an abort may find nothing that was sent */
            if (t % 3 == 2)
                p.abortTransaction();
            else
                p.commitTransaction();
        }
        if (leaveOpen) {
            p.beginTransaction();
            p.send(record("transactional", 0, System.currentTimeMillis(), utf8(id), utf8("open"))).get();
            p.close(java.time.Duration.ZERO);
        } else {
            p.close();
        }
    }

    static void compacted(int count) throws Exception {
        for (String codec : new String[] {"none", "zstd"}) {
            try (KafkaProducer<byte[], byte[]> p = producer("compression.type", codec)) {
                for (int i = 0; i < count; i++) {
                    byte[] value = i % 50 == 0 ? null : words(200 + random.nextInt(300));
                    p.send(record("compacted", 0, System.currentTimeMillis(),
                                  utf8("k" + random.nextInt(1 + i / 4)), value));
                }
            }
        }
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        int count = args.length > 1 ? Integer.parseInt(args[1]) : 8000;
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            List<NewTopic> topics = new ArrayList<>();
            for (String codec : CODECS) {
                topics.add(topic("plain-" + codec, 2));
                topics.add(topic("idempotent-" + codec, 1));
            }
            topics.add(topic("odd", 1, "index.interval.bytes", "300"));
            topics.add(topic("append-time", 1, "message.timestamp.type", "LogAppendTime"));
            topics.add(topic("empty", 3));
            topics.add(topic("deleted", 1));
            if (transactions)
                topics.add(topic("transactional", 2, "index.interval.bytes", "500"));
            topics.add(topic("compacted", 1, "cleanup.policy", "compact", "min.cleanable.dirty.ratio",
                             "0.01", "delete.retention.ms", "60000"));
            admin.createTopics(topics).all().get();
            for (String codec : CODECS)
                plain(codec, count);
            odd();
            try (KafkaProducer<byte[], byte[]> p = producer()) {
                for (int i = 0; i < 2 * count; i++)
                    p.send(record("deleted", 0, T0 + i, null, words(300)));
            }
            TopicPartition deleted = new TopicPartition("deleted", 0);
            admin.deleteRecords(Map.of(deleted, RecordsToDelete.beforeOffset(count + 17))).all().get();
            if (transactions) {
                for (int i = 0; i < 6; i++)
                    transactional("writer-" + i, 20, i == 5);
            }
            compacted(count);
        }
        System.out.println("written");
        System.exit(0);
    }
}
