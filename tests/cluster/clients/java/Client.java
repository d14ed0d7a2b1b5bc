import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeoutException;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ApiException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The Java client under the commands of tests/cluster/README.md: one JSON command a line on stdin,
 * one JSON answer a line on stdout. The same source runs with each version of kafka-clients.
 */
public final class Client {
    private static final int TIMEOUT_MS = 15_000;
    private static final Duration READ_MAX = Duration.ofSeconds(20);
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final HexFormat HEX = HexFormat.of();

    private final Admin admin;

    private Client(String bootstrap) {
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap,
                "default.api.timeout.ms", TIMEOUT_MS, "request.timeout.ms", TIMEOUT_MS));
    }

    public static void main(String[] args) throws Exception {
        Client client = new Client(args[0]);
        BufferedReader in = new BufferedReader(
                new InputStreamReader(System.in, StandardCharsets.UTF_8));

        for (String line = in.readLine(); line != null; line = in.readLine()) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                client.run(JSON.readTree(line), answer);
            } catch (Exception e) {
                e.printStackTrace();
                answer.put("error", nameOf(e));
            }
            System.out.println(answer);
        }
        client.admin.close(Duration.ofSeconds(1));
    }

    /** Kafka's name of an error that the broker sent, else the exception's own text. */
    private static String nameOf(Throwable e) {
        while ((e instanceof ExecutionException || e instanceof CompletionException)
                && e.getCause() != null) {
            e = e.getCause();
        }
        return e instanceof ApiException ? Errors.forException(e).name() : e.toString();
    }

    private void run(JsonNode c, ObjectNode answer) throws Exception {
        String topic = c.path("topic").asText();
        switch (c.get("do").asText()) {
            case "version" -> answer.put("version", version());
            case "create" -> admin.createTopics(List.of(
                    new NewTopic(topic, c.get("partitions").asInt(), (short) 1)
                            .configs(texts(c.get("config"))))).all().get();
            case "describe" -> answer.put("partitions", admin.describeTopics(List.of(topic))
                    .allTopicNames().get().get(topic).partitions().stream()
                    .filter(p -> p.leader() != null).count());
            case "config" -> config(topic, c.get("names"), answer.putObject("config"));
            case "alter" -> alter(topic, texts(c.get("config")));
            case "grow" -> admin.createPartitions(Map.of(topic,
                    NewPartitions.increaseTo(c.get("partitions").asInt()))).all().get();
            case "offsets" -> offsets(topic, c, answer.putArray("offsets"));
            case "delete_records" -> deleteRecords(topic, c.get("before"));
            case "delete" -> admin.deleteTopics(List.of(topic)).all().get();
            case "produce" -> produce(topic, c);
            case "read" -> read(topic, c);
            default -> throw new IllegalArgumentException("unknown command");
        }
    }

    private static String version() throws Exception {
        Properties properties = new Properties();
        try (var in = Admin.class.getResourceAsStream("/kafka/kafka-version.properties")) {
            properties.load(in);
        }
        return properties.getProperty("version");
    }

    private static Map<String, String> texts(JsonNode object) {
        Map<String, String> map = new HashMap<>();
        object.properties().forEach(e -> map.put(e.getKey(), e.getValue().asText()));
        return map;
    }

    // --- administration

    private void config(String topic, JsonNode names, ObjectNode found) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        var all = admin.describeConfigs(List.of(resource)).all().get().get(resource);
        for (JsonNode name : names) {
            found.put(name.asText(), all.get(name.asText()).value());
        }
    }

    private void alter(String topic, Map<String, String> config) throws Exception {
        List<AlterConfigOp> operations = new ArrayList<>();
        config.forEach((name, value) -> operations.add(
                new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET)));
        admin.incrementalAlterConfigs(Map.of(
                new ConfigResource(ConfigResource.Type.TOPIC, topic), operations)).all().get();
    }

    private void offsets(String topic, JsonNode c, ArrayNode found) throws Exception {
        JsonNode at = c.get("at");
        OffsetSpec spec = at.isNumber() ? OffsetSpec.forTimestamp(at.asLong())
                : at.asText().equals("earliest") ? OffsetSpec.earliest() : OffsetSpec.latest();
        List<TopicPartition> assignment = assignment(topic, c);
        var offsets = admin.listOffsets(byPartition(assignment, tp -> spec)).all().get();
        assignment.forEach(tp -> found.add(offsets.get(tp).offset()));
    }

    private void deleteRecords(String topic, JsonNode before) throws Exception {
        Map<TopicPartition, RecordsToDelete> deletions = new HashMap<>();
        for (int p = 0; p < before.size(); p++) {
            deletions.put(new TopicPartition(topic, p),
                    RecordsToDelete.beforeOffset(before.get(p).asLong()));
        }
        admin.deleteRecords(deletions).all().get();
    }

    // --- producing

    private static void produce(String topic, JsonNode c) throws Exception {
        Map<String, Object> config = new HashMap<>(Map.of(
                "bootstrap.servers", c.get("bootstrap").asText(), "linger.ms", 5,
                "delivery.timeout.ms", TIMEOUT_MS + 1000, "request.timeout.ms", TIMEOUT_MS,
                "max.block.ms", TIMEOUT_MS));
        copy(c, "compression", config, "compression.type");
        copy(c, "idempotent", config, "enable.idempotence");
        copy(c, "in_flight", config, "max.in.flight.requests.per.connection");
        copy(c, "batch_bytes", config, "batch.size");

        List<ObjectNode> notes = new ArrayList<>();
        List<Future<RecordMetadata>> answers = new ArrayList<>();
        try (var plan = Files.newBufferedReader(Path.of(c.get("plan").asText()));
                var producer = new KafkaProducer<>(config, new ByteArraySerializer(),
                        new ByteArraySerializer())) {
            for (String line = plan.readLine(); line != null; line = plan.readLine()) {
                ObjectNode note = (ObjectNode) JSON.readTree(line);
                notes.add(note);
                answers.add(producer.send(recordOf(topic, note)));
            }
            producer.flush();
        }
        for (int i = 0; i < notes.size(); i++) {
            RecordMetadata answer = answers.get(i).get();
            notes.get(i).put("offset", answer.offset());
            notes.get(i).put("answered_timestamp", answer.timestamp());
        }
        save(c, notes);
    }

    private static void copy(JsonNode c, String from, Map<String, Object> config, String to) {
        if (c.hasNonNull(from)) {
            config.put(to, c.get(from).asText());
        }
    }

    private static ProducerRecord<byte[], byte[]> recordOf(String topic, JsonNode note) {
        List<Header> headers = new ArrayList<>();
        for (JsonNode header : note.get("headers")) {
            headers.add(new RecordHeader(header.get(0).asText(), unhex(header.get(1))));
        }
        return new ProducerRecord<>(topic, note.get("partition").asInt(),
                note.get("timestamp").asLong(), unhex(note.get("key")), unhex(note.get("value")),
                headers);
    }

    // --- reading

    private static void read(String topic, JsonNode c) throws Exception {
        List<ObjectNode> lines = new ArrayList<>();
        try (var consumer = new KafkaConsumer<>(Map.<String, Object>of(
                "bootstrap.servers", c.get("bootstrap").asText(), "enable.auto.commit", false,
                "auto.offset.reset", "none", "default.api.timeout.ms", TIMEOUT_MS,
                "max.poll.records", 5000), new ByteArrayDeserializer(),
                new ByteArrayDeserializer())) {
            List<TopicPartition> assignment = assignment(topic, c);
            consumer.assign(assignment);
            readAll(consumer, starts(consumer, assignment, c), consumer.endOffsets(assignment),
                    lines);
        } finally {
            save(c, lines);
        }
    }

    private static Map<TopicPartition, Long> starts(KafkaConsumer<byte[], byte[]> consumer,
            List<TopicPartition> assignment, JsonNode c) {
        if (c.has("offsets")) {
            return byPartition(assignment, tp -> c.get("offsets").get(tp.partition()).asLong());
        }
        if (!c.has("time")) {
            return consumer.beginningOffsets(assignment);
        }
        long ms = c.get("time").asLong();
        Map<TopicPartition, Long> starts = new HashMap<>(consumer.endOffsets(assignment));
        consumer.offsetsForTimes(byPartition(assignment, tp -> ms)).forEach((tp, found) -> {
            if (found != null) {
                starts.put(tp, found.offset());
            }
        });
        return starts;
    }

    /** Reads until each partition has reached its end. */
    private static void readAll(KafkaConsumer<byte[], byte[]> consumer,
            Map<TopicPartition, Long> starts, Map<TopicPartition, Long> ends,
            List<ObjectNode> lines) throws TimeoutException {
        long deadline = System.nanoTime() + READ_MAX.toNanos();
        starts.forEach(consumer::seek);
        while (ends.entrySet().stream()
                .anyMatch(e -> consumer.position(e.getKey()) < e.getValue())) {
            if (System.nanoTime() > deadline) {
                throw new TimeoutException("not at the end after " + READ_MAX);
            }
            consumer.poll(Duration.ofMillis(200)).forEach(r -> lines.add(lineOf(r)));
        }
    }

    private static ObjectNode lineOf(ConsumerRecord<byte[], byte[]> r) {
        ObjectNode line = JSON.createObjectNode()
                .put("partition", r.partition()).put("offset", r.offset())
                .put("timestamp", r.timestamp())
                .put("timestamp_type",
                        r.timestampType() == TimestampType.LOG_APPEND_TIME ? "append" : "create")
                .put("key", hex(r.key())).put("value", hex(r.value()));
        ArrayNode headers = line.putArray("headers");
        for (Header header : r.headers()) {
            headers.addArray().add(header.key()).add(hex(header.value()));
        }
        return line;
    }

    // --- small things

    private static List<TopicPartition> assignment(String topic, JsonNode c) {
        return IntStream.range(0, c.get("partitions").asInt())
                .mapToObj(p -> new TopicPartition(topic, p)).toList();
    }

    private static <V> Map<TopicPartition, V> byPartition(List<TopicPartition> assignment,
            Function<TopicPartition, V> value) {
        return assignment.stream().collect(Collectors.toMap(tp -> tp, value));
    }

    private static String hex(byte[] bytes) {
        return bytes == null ? null : HEX.formatHex(bytes);
    }

    private static byte[] unhex(JsonNode text) {
        return text.isNull() ? null : HEX.parseHex(text.asText());
    }

    private static void save(JsonNode c, List<ObjectNode> lines) throws Exception {
        try (BufferedWriter out = Files.newBufferedWriter(Path.of(c.get("out").asText()))) {
            for (ObjectNode line : lines) {
                out.write(line.toString());
                out.newLine();
            }
        }
    }
}
