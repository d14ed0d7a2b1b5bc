import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Reads a topic from the beginning with assigned partitions: AssignedConsumer BOOTSTRAP TOPIC PARTITIONS RECORDS. */
public final class AssignedConsumer {
    public static void main(String[] args) {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("enable.auto.commit", "false");
        p.put("max.poll.records", "10000");
        List<TopicPartition> partitions = new ArrayList<>();
        for (int i = 0; i < Integer.parseInt(args[2]); i++)
            partitions.add(new TopicPartition(args[1], i));
        long wanted = Long.parseLong(args[3]), records = 0, bytes = 0;
        try (KafkaConsumer<byte[], byte[]> c = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            c.assign(partitions);
            c.seekToBeginning(partitions);
            long start = System.nanoTime(), last = start;
            while (records < wanted) {
                var batch = c.poll(Duration.ofSeconds(1));
                if (!batch.isEmpty())
                    last = System.nanoTime();
                else if (System.nanoTime() - last > 30_000_000_000L)
                    throw new IllegalStateException("nothing for 30 s, " + records + " of " + wanted);
                for (ConsumerRecord<byte[], byte[]> r : batch) {
                    records++;
                    bytes += r.value().length;
                }
            }
            System.out.printf("{\"records\": %d, \"bytes\": %d, \"seconds\": %.6f}%n", records, bytes,
                    (System.nanoTime() - start) / 1e9);
        }
    }
}
