/* bench/rdkafka_load.c -- librdkafka as load: fills a topic, reads it back, or sends at a pace.
 *
 *   rdkafka_load produce BOOTSTRAP TOPIC PARTITIONS RECORDS BYTES    as fast as it goes, acks=all
 *   rdkafka_load consume BOOTSTRAP TOPIC PARTITIONS RECORDS          from the beginning, assigned
 *   rdkafka_load paced   BOOTSTRAP TOPIC PARTITIONS RECORDS BYTES RATE
 *
 * Prints one JSON object: records, bytes, seconds, and for `paced` the latencies in microseconds
 * counted from the time at which each record was due (no coordinated omission).
 *
 * Built by bench/single.py:  cc -O2 rdkafka_load.c -lrdkafka
 */
#include <librdkafka/rdkafka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

struct run {
    rd_kafka_t *client;
    long records, failed, answered;
    double *latency_us; /* paced */
};

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "rdkafka_load: %s: %s\n", what, why);
    exit(1);
}

static void set(rd_kafka_conf_t *c, const char *key, const char *value)
{
    char why[256];

    if (rd_kafka_conf_set(c, key, value, why, sizeof why) != RD_KAFKA_CONF_OK)
        fail(key, why);
}

static void on_delivered(rd_kafka_t *client, const rd_kafka_message_t *m, void *opaque)
{
    struct run *r = opaque;
    const double *due = m->_private;

    (void)client;
    if (m->err)
        r->failed++;
    if (due != NULL)
        r->latency_us[r->answered] = (now_s() - *due) * 1e6;
    r->answered++;
}

static rd_kafka_t *producer(const char *bootstrap, struct run *r, const char *linger_ms)
{
    rd_kafka_conf_t *c = rd_kafka_conf_new();
    char why[256];

    set(c, "bootstrap.servers", bootstrap);
    set(c, "acks", "all");
    set(c, "linger.ms", linger_ms);
    set(c, "queue.buffering.max.messages", "1000000");
    rd_kafka_conf_set_opaque(c, r);
    rd_kafka_conf_set_dr_msg_cb(c, on_delivered);

    rd_kafka_t *p = rd_kafka_new(RD_KAFKA_PRODUCER, c, why, sizeof why);

    if (p == NULL)
        fail("producer", why);
    return p;
}

static void send_one(struct run *r, const char *topic, int partition, const char *value,
                     size_t size, void *due)
{
    for (;;) {
        rd_kafka_resp_err_t e = rd_kafka_producev(
            r->client, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
            RD_KAFKA_V_VALUE((void *)(uintptr_t)value, size),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_OPAQUE(due), RD_KAFKA_V_END);

        if (e == RD_KAFKA_RESP_ERR_NO_ERROR)
            return;
        if (e != RD_KAFKA_RESP_ERR__QUEUE_FULL)
            fail("produce", rd_kafka_err2str(e));
        rd_kafka_poll(r->client, 10);
    }
}

static char *random_value(size_t size)
{
    char *v = malloc(size + 1);

    srand(1);
    for (size_t i = 0; i < size; i++)
        v[i] = (char)('a' + rand() % 26);
    return v;
}

static void finish(struct run *r)
{
    if (rd_kafka_flush(r->client, 60000) != RD_KAFKA_RESP_ERR_NO_ERROR || r->failed > 0)
        fail("produce", "not every record was acknowledged");
}

static void produce(struct run *r, const char *topic, int partitions, size_t size)
{
    char *value = random_value(size);
    double start = now_s();

    for (long i = 0; i < r->records; i++) {
        send_one(r, topic, (int)(i / 1000 % partitions), value, size, NULL);
        if (i % 1000 == 0)
            rd_kafka_poll(r->client, 0);
    }
    finish(r);
    printf("{\"records\": %ld, \"bytes\": %ld, \"seconds\": %.6f}\n", r->records,
           r->records * (long)size, now_s() - start);
    free(value);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void paced(struct run *r, const char *topic, int partitions, size_t size, double rate)
{
    char *value = random_value(size);
    double *due = calloc((size_t)r->records, sizeof *due), start = now_s() + 0.1;

    r->latency_us = calloc((size_t)r->records, sizeof *r->latency_us);
    for (long i = 0; i < r->records; i++) {
        due[i] = start + (double)i / rate;
        while (now_s() < due[i])
            rd_kafka_poll(r->client, 0);
        send_one(r, topic, (int)(i % partitions), value, size, &due[i]);
    }
    finish(r);

    long skip = MIN2((long)(2 * rate), r->records / 2); /* connecting takes librdkafka a second */
    double *l = r->latency_us + skip;
    long n = r->records - skip;

    qsort(l, (size_t)n, sizeof *l, by_value);
    printf("{\"records\": %ld, \"bytes\": %ld, \"seconds\": %.6f, \"p50\": %.0f, \"p99\": %.0f, "
           "\"p99.9\": %.0f, \"max\": %.0f}\n",
           r->records, r->records * (long)size, now_s() - start, l[n / 2], l[n * 99 / 100],
           l[n * 999 / 1000], l[n - 1]);
}

static void consume(const char *bootstrap, const char *topic, int partitions, long records)
{
    rd_kafka_conf_t *c = rd_kafka_conf_new();
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    char why[256];
    long n = 0, bytes = 0;

    set(c, "bootstrap.servers", bootstrap);
    set(c, "group.id", "unused"); /* demanded by the API; partitions are assigned */
    set(c, "enable.auto.commit", "false");
    set(c, "queued.min.messages", "1000000");

    rd_kafka_t *k = rd_kafka_new(RD_KAFKA_CONSUMER, c, why, sizeof why);

    if (k == NULL)
        fail("consumer", why);

    rd_kafka_queue_t *q = rd_kafka_queue_get_consumer(k);
    static rd_kafka_message_t *batch[10000];

    for (int p = 0; p < partitions; p++)
        rd_kafka_topic_partition_list_add(list, topic, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_assign(k, list);

    double start = now_s(), last = start;

    while (n < records) {
        ssize_t got = rd_kafka_consume_batch_queue(q, 1000, batch, 10000);

        if (got > 0)
            last = now_s();
        else if (now_s() - last > 30)
            fail("consume", "nothing for 30 s");
        for (ssize_t i = 0; i < got; i++) {
            if (!batch[i]->err) {
                n++;
                bytes += (long)batch[i]->len;
            }
            rd_kafka_message_destroy(batch[i]);
        }
    }
    printf("{\"records\": %ld, \"bytes\": %ld, \"seconds\": %.6f}\n", n, bytes, now_s() - start);
    fflush(stdout);
    _Exit(0); /* closing the consumer is not what is measured */
}

int main(int argc, char **argv)
{
    struct run r = {0};

    if (argc < 6)
        fail("usage", "see the head of rdkafka_load.c");

    int partitions = atoi(argv[4]);

    r.records = atol(argv[5]);
    if (strcmp(argv[1], "consume") == 0) {
        consume(argv[2], argv[3], partitions, r.records);
    } else if (strcmp(argv[1], "produce") == 0 && argc == 7) {
        r.client = producer(argv[2], &r, "5");
        produce(&r, argv[3], partitions, (size_t)atol(argv[6]));
    } else if (strcmp(argv[1], "paced") == 0 && argc == 8) {
        r.client = producer(argv[2], &r, "0");
        paced(&r, argv[3], partitions, (size_t)atol(argv[6]), atof(argv[7]));
    } else {
        fail("usage", "see the head of rdkafka_load.c");
    }
    return 0;
}
