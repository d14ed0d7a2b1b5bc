/* bench/produce_decode_bench.c -- what the interpreter of codec.c costs on the hottest request.
 *
 *     produce_decode_bench
 *
 * Decodes a Produce request of one topic and one partition, versions 9 (topic name) and 13 (topic
 * id), through codec_decode(), and through straight-line code for just that shape which makes the
 * same checks and fills the same structs. Nanoseconds per request, the fastest of 101 interleaved
 * runs (what else the machine does only adds); both include the arena.
 *
 *     B=build/release; gcc -O2 -DNDEBUG -D_GNU_SOURCE -I. -I$B/generated -o produce_decode_bench \
 *         bench/produce_decode_bench.c $B/libfluxmq_protocol.a $B/libfluxmq_generated.a
 */
#include <stdio.h>
#include <time.h>

#include "protocol/api.h"

#define RUNS    101
#define ROUNDS  50000
#define RECORDS 200

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- straight-line: one byte varints, flexible versions ---- */

struct input {
    const uint8_t *at, *end;
};

static bool take_length(struct input *in, uint32_t *out)
{
    size_t used = 1;

    if (in->at >= in->end)
        return false;

    uint32_t v = *in->at;

    if (v >= 0x80)
        used = uvarint32_read(in->at, (size_t)(in->end - in->at), &v);
    if (used == 0)
        return false;
    in->at += used;
    *out = v;
    return true;
}

static bool take_bytes(struct input *in, const uint8_t **ptr, int32_t *len)
{
    uint32_t n;

    if (!take_length(in, &n) || (n > 0 && n - 1 > (uint64_t)(in->end - in->at)))
        return false;
    *ptr = n == 0 ? NULL : in->at;
    *len = (int32_t)n - 1;
    in->at += n > 0 ? n - 1 : 0;
    return true;
}

static bool take_no_tags(struct input *in)
{
    return in->at < in->end && *in->at++ == 0;
}

static bool take_partitions(struct input *in, struct arena *a,
                            struct produce_request_topic_produce_data *t)
{
    uint32_t n;

    if (!take_length(in, &n) || n == 0 || (uint64_t)(n - 1) * 6 > (uint64_t)(in->end - in->at))
        return false;
    t->partition_data.n = (int32_t)n - 1;
    t->partition_data.v = arena_array(a, n - 1, sizeof *t->partition_data.v);
    if (t->partition_data.v == NULL)
        return false;
    for (uint32_t i = 0; i < n - 1; i++) {
        struct produce_request_partition_produce_data *p = &t->partition_data.v[i];

        if (in->end - in->at < 4)
            return false;
        p->index = (int32_t)load_be32(in->at);
        in->at += 4;
        p->records.queue = NULL;
        p->unknown_tags = NULL;
        if (!take_bytes(in, &p->records.ptr, &p->records.len) || !take_no_tags(in))
            return false;
    }
    return true;
}

static bool straight_line(const uint8_t *p, size_t size, int16_t version, struct arena *a,
                          struct produce_request *out)
{
    struct input in = {p, p + size};
    const uint8_t *text;
    uint32_t n;

    if (!take_bytes(&in, &text, &out->transactional_id.len) || in.end - in.at < 6)
        return false;
    out->transactional_id.ptr = (const char *)text;
    out->acks = (int16_t)load_be16(in.at);
    out->timeout_ms = (int32_t)load_be32(in.at + 2);
    in.at += 6;
    if (!take_length(&in, &n) || n == 0 || (uint64_t)(n - 1) * 3 > (uint64_t)(in.end - in.at))
        return false;
    out->topic_data.n = (int32_t)n - 1;
    out->topic_data.v = arena_array(a, n - 1, sizeof *out->topic_data.v);
    if (out->topic_data.v == NULL)
        return false;
    for (uint32_t i = 0; i < n - 1; i++) {
        struct produce_request_topic_produce_data *t = &out->topic_data.v[i];

        if (version >= 13) {
            if (in.end - in.at < 16)
                return false;
            memcpy(&t->topic_id, in.at, 16);
            in.at += 16;
            t->name = STR_EMPTY;
        } else {
            if (!take_bytes(&in, &text, &t->name.len) || t->name.len < 0)
                return false;
            t->name.ptr = (const char *)text;
            memset(&t->topic_id, 0, sizeof t->topic_id);
        }
        t->unknown_tags = NULL;
        if (!take_partitions(&in, a, t) || !take_no_tags(&in))
            return false;
    }
    out->unknown_tags = NULL;
    return take_no_tags(&in) && in.at == in.end;
}

/* ---- the two, side by side ---- */

static struct iobuf *encode(int16_t version)
{
    uint8_t records[RECORDS] = {0};
    struct produce_request_partition_produce_data partition = {
        .index = 3, .records = {.ptr = records, .len = RECORDS}};
    struct produce_request_topic_produce_data topic = {
        .name = version < 13 ? STR_LIT("a-topic-of-usual-length") : STR_EMPTY,
        .partition_data = {&partition, 1},
    };
    struct produce_request request = {
        .transactional_id = STR_NULL, .acks = -1, .timeout_ms = 30000, .topic_data = {&topic, 1}};
    struct ioqueue q;

    if (version >= 13)
        topic.topic_id.b[0] = 1;
    ioqueue_init(&q);
    CHECK(codec_encode(&produce_request_desc, version, &request, &q) == ERR_NONE);

    const struct ioslice *s = ioqueue_at(&q, 0);
    struct iobuf *out = iobuf_new(q.bytes_total);

    CHECK(s->len == q.bytes_total);
    memcpy(iobuf_bytes(out), s->buf->ptr + s->offset, s->len);
    ioqueue_deinit(&q);
    return out;
}

static double run(const struct iobuf *b, int16_t version, bool interpreted)
{
    struct arena a;
    struct produce_request out;
    size_t used;
    double start = seconds();

    arena_init(&a, 1 << 20);
    for (int i = 0; i < ROUNDS; i++) {
        if (interpreted)
            CHECK(codec_decode(&produce_request_desc, version, b->ptr, b->len, &a, &out, &used) ==
                  ERR_NONE);
        else
            CHECK(straight_line(b->ptr, b->len, version, &a, &out));
        __asm__ volatile("" : : "r"(&out) : "memory");
        arena_reset(&a);
    }
    arena_deinit(&a);
    return (seconds() - start) / ROUNDS * 1e9;
}

int main(void)
{
    static const int16_t versions[] = {9, 13};

    for (size_t v = 0; v < ARRAY_COUNT(versions); v++) {
        struct iobuf *b = encode(versions[v]);
        double interpreted = 1e9, straight = 1e9;

        for (int i = 0; i < RUNS; i++) {
            interpreted = MIN(interpreted, run(b, versions[v], true));
            straight = MIN(straight, run(b, versions[v], false));
        }
        printf("Produce v%-2d  codec_decode %5.1f ns  straight-line %5.1f ns  more %5.1f ns\n",
               versions[v], interpreted, straight, interpreted - straight);
        iobuf_unref(b);
    }
    return 0;
}
