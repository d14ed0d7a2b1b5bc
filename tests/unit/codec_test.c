/* tests/unit/codec_test.c -- what the codec and the frame promise, apart from agreeing with Kafka's
 * classes byte for byte, which tests/wire shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "protocol/api.h"
#include "protocol/frame.h"

struct codec_fixture {
    struct arena arena;
    struct ioqueue out;
};

static int set_up(void **state)
{
    struct codec_fixture *f = xcalloc(1, sizeof *f);

    arena_init(&f->arena, 1 << 20);
    ioqueue_init(&f->out);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct codec_fixture *f = *state;

    ioqueue_deinit(&f->out);
    arena_deinit(&f->arena);
    free(f);
    return 0;
}

/* Decodes from memory of exactly that size, so that sanitizers see a read beyond it. The copy
 * lives in the arena: what is decoded points into it. */
static enum err decode(struct codec_fixture *f, const struct codec_struct *d, int16_t version,
                       const void *bytes, size_t size, void *out)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    size_t used = 0;

    assert_non_null(copy);
    memcpy(copy, bytes, size);
    arena_hold(&f->arena, copy, free);
    enum err err = codec_decode(d, version, copy, size, &f->arena, out, &used);
    if (err == ERR_NONE)
        assert_int_equal(used, size);
    return err;
}

static void assert_out(struct codec_fixture *f, const void *expected, size_t size)
{
    size_t at = 0;

    assert_int_equal(f->out.bytes_total, size);
    for (size_t i = 0; i < f->out.count; i++) {
        const struct ioslice *s = ioqueue_at(&f->out, i);
        assert_memory_equal(s->buf->ptr + s->offset, (const uint8_t *)expected + at, s->len);
        at += s->len;
    }
}

#define LITERAL(s) (s), (sizeof(s) - 1)

/* ---- defaults ---- */

/* A message starts with the schema's defaults, and what has none is 0, "" or an empty array. */
static void init_sets_the_schemas_defaults(void **state)
{
    struct metadata_request metadata;
    struct describe_topic_partitions_request describe;
    struct fetch_response_partition_data partition;
    struct produce_request produce;

    (void)state;
    memset(&metadata, 0xaa, sizeof metadata);
    codec_init(&metadata_request_desc, &metadata);
    assert_true(metadata.allow_auto_topic_creation);
    assert_int_equal(metadata.topics.n, 0);
    assert_null(metadata.unknown_tags);

    memset(&describe, 0xaa, sizeof describe);
    codec_init(&describe_topic_partitions_request_desc, &describe);
    assert_int_equal(describe.response_partition_limit, 2000);
    assert_null(describe.cursor);

    memset(&partition, 0xaa, sizeof partition);
    codec_init(&fetch_response_partition_data_desc, &partition);
    assert_int_equal(partition.preferred_read_replica, -1);
    assert_int_equal(partition.diverging_epoch.end_offset, -1);
    assert_int_equal(partition.records.len, -1);
    assert_null(partition.records.queue);

    memset(&produce, 0xaa, sizeof produce);
    codec_init(&produce_request_desc, &produce);
    assert_true(str_is_null(produce.transactional_id));
}

/* A field that the version does not carry has its default after decoding. */
static void decode_fills_in_what_the_version_lacks(void **state)
{
    struct metadata_request m;

    memset(&m, 0xaa, sizeof m);
    assert_int_equal(decode(*state, &metadata_request_desc, 0, LITERAL("\0\0\0\1\0\1a"), &m),
                     ERR_NONE);
    assert_int_equal(m.topics.n, 1);
    assert_true(str_eq_lit(m.topics.v[0].name, "a"));
    assert_true(uuid_is_zero(&m.topics.v[0].topic_id));
    assert_true(m.allow_auto_topic_creation);
    assert_false(m.include_topic_authorized_operations);
}

/* ---- what is malformed ---- */

/* A message cut short anywhere is malformed, and nothing behind its end is read. */
static void decode_refuses_every_truncation(void **state)
{
    static const char whole[] = "\3tx\377\377\0\0\0\7\2\2t\2\0\0\0\5\4abc\0\0\0";
    struct produce_request p;

    assert_int_equal(decode(*state, &produce_request_desc, 9, whole, sizeof whole - 1, &p),
                     ERR_NONE);
    assert_int_equal(p.acks, -1);
    assert_int_equal(p.timeout_ms, 7);
    assert_int_equal(p.topic_data.v[0].partition_data.v[0].records.len, 3);
    for (size_t size = 0; size < sizeof whole - 1; size++)
        assert_int_equal(decode(*state, &produce_request_desc, 9, whole, size, &p), ERR_MALFORMED);
}

/* The same where lengths are wide and the end is a number. */
static void decode_refuses_every_old_truncation(void **state)
{
    static const char whole[] = "\0\1t\377\377\0\0\0\7\0\0\0\1\0\1t\0\0\0\1\0\0\0\5\0\0\0\3"
                                "abc";
    struct produce_request p;
    struct heartbeat_response h;

    assert_int_equal(decode(*state, &produce_request_desc, 3, whole, sizeof whole - 1, &p),
                     ERR_NONE);
    for (size_t size = 0; size < sizeof whole - 1; size++)
        assert_int_equal(decode(*state, &produce_request_desc, 3, whole, size, &p), ERR_MALFORMED);
    assert_int_equal(decode(*state, &heartbeat_response_desc, 0, "\0\33", 2, &h), ERR_NONE);
    assert_int_equal(decode(*state, &heartbeat_response_desc, 0, "\0\33", 1, &h), ERR_MALFORMED);
    assert_int_equal(decode(*state, &heartbeat_response_desc, 0, "", 0, &h), ERR_MALFORMED);
}

static void decode_refuses_truncated_numbers_of_each_size(void **state)
{
    static const char id[] = "\0\0\0\1\0\2\0\0\0\0\0\0\0\3\0\4";
    static const char topics[] = "\2\0"
                                 "0123456789abcdef"
                                 "\0\0\0\0\5\0";
    struct init_producer_id_response i;
    struct delete_topics_request t;
    struct metadata_request m;

    assert_int_equal(decode(*state, &init_producer_id_response_desc, 0, id, sizeof id - 1, &i),
                     ERR_NONE);
    for (size_t size = 0; size < sizeof id - 1; size++)
        assert_int_equal(decode(*state, &init_producer_id_response_desc, 0, id, size, &i),
                         ERR_MALFORMED);
    assert_int_equal(decode(*state, &delete_topics_request_desc, 6, topics, sizeof topics - 1, &t),
                     ERR_NONE);
    for (size_t size = 0; size < sizeof topics - 1; size++)
        assert_int_equal(decode(*state, &delete_topics_request_desc, 6, topics, size, &t),
                         ERR_MALFORMED);
    assert_int_equal(decode(*state, &metadata_request_desc, 4, LITERAL("\0\0\0\0"), &m),
                     ERR_MALFORMED);
}

/* Also a compact string, whose length could say more, ends at CODEC_STRING_MAX. */
static void decode_refuses_long_strings(void **state)
{
    uint8_t *input = xcalloc(1, 3 + CODEC_STRING_MAX + 1 + 2);
    struct api_versions_request m;

    for (uint32_t length = CODEC_STRING_MAX; length <= CODEC_STRING_MAX + 1; length++) {
        size_t size = uvarint32_write(input, length + 1);
        memset(input + size, 'a', length);
        memcpy(input + size + length, "\1\0", 2);
        assert_int_equal(
            decode(*state, &api_versions_request_desc, 3, input, size + length + 2, &m),
            length > CODEC_STRING_MAX ? ERR_MALFORMED : ERR_NONE);
    }
    free(input);
}

/* An array may be null where its elements may not. */
static void decode_refuses_null_elements(void **state)
{
#define HEARTBEAT "\1\1\0\0\0\0\0\0\0\0\0\0"
    struct consumer_group_heartbeat_request h;

    assert_int_equal(decode(*state, &consumer_group_heartbeat_request_desc, 0,
                            LITERAL(HEARTBEAT "\0\0\0\0"), &h),
                     ERR_NONE);
    assert_int_equal(h.subscribed_topic_names.n, -1);
    assert_int_equal(decode(*state, &consumer_group_heartbeat_request_desc, 0,
                            LITERAL(HEARTBEAT "\2\1\0\0\0"), &h),
                     ERR_NONE);
    assert_int_equal(h.subscribed_topic_names.n, 1);
    assert_int_equal(decode(*state, &consumer_group_heartbeat_request_desc, 0,
                            LITERAL(HEARTBEAT "\2\0\0\0\0"), &h),
                     ERR_MALFORMED);
}

/* Kafka's readers take any byte but 0 for true, and any not negative one for a struct that is
 * there; what we send on is 1. */
static void decode_takes_bools_and_presence_as_kafka_does(void **state)
{
    struct codec_fixture *f = *state;
    struct metadata_request m;
    struct describe_topic_partitions_request d;

    assert_int_equal(decode(f, &metadata_request_desc, 4, LITERAL("\0\0\0\0\7"), &m), ERR_NONE);
    assert_int_equal(codec_encode(&metadata_request_desc, 4, &m, &f->out), ERR_NONE);
    assert_out(f, LITERAL("\0\0\0\0\1"));
    ioqueue_consume(&f->out, f->out.bytes_total);

    assert_int_equal(decode(f, &describe_topic_partitions_request_desc, 0,
                            LITERAL("\1\0\0\0\5\0\2t\0\0\0\1\0\0"), &d),
                     ERR_NONE);
    assert_non_null(d.cursor);
    assert_int_equal(codec_encode(&describe_topic_partitions_request_desc, 0, &d, &f->out),
                     ERR_NONE);
    assert_out(f, LITERAL("\1\0\0\0\5\1\2t\0\0\0\1\0\0"));
}

/* A null that the version does not allow, and a length below -1, are malformed. */
static void decode_refuses_null_where_there_is_none(void **state)
{
    struct metadata_request m;

    /* Metadata's topics may be null from version 1 on. */
    assert_int_equal(decode(*state, &metadata_request_desc, 1, LITERAL("\377\377\377\377"), &m),
                     ERR_NONE);
    assert_int_equal(m.topics.n, -1);
    assert_int_equal(decode(*state, &metadata_request_desc, 0, LITERAL("\377\377\377\377"), &m),
                     ERR_MALFORMED);
    assert_int_equal(decode(*state, &metadata_request_desc, 1, LITERAL("\377\377\377\376"), &m),
                     ERR_MALFORMED);
    assert_int_equal(decode(*state, &metadata_request_desc, 0, LITERAL("\0\0\0\1\377\377"), &m),
                     ERR_MALFORMED);
}

/* An array that the input cannot hold is refused before memory is taken for it. */
static void decode_checks_counts_before_it_allocates(void **state)
{
    struct codec_fixture *f = *state;
    struct metadata_request m;
    size_t before = f->arena.bytes_used;
    size_t used;

    assert_int_equal(
        codec_decode(&metadata_request_desc, 0, "\x7f\377\377\377", 4, &f->arena, &m, &used),
        ERR_MALFORMED);
    assert_int_equal(codec_decode(&metadata_request_desc, 12, "\377\377\377\377\17\0\0\0\0\0", 10,
                                  &f->arena, &m, &used),
                     ERR_MALFORMED);
    assert_int_equal(
        codec_decode(&metadata_request_desc, 0, "\0\17\102\100", 4, &f->arena, &m, &used),
        ERR_MALFORMED);
    /* Three topics take at least six bytes. */
    assert_int_equal(
        codec_decode(&metadata_request_desc, 0, "\0\0\0\3\0\0\0\0\0", 9, &f->arena, &m, &used),
        ERR_MALFORMED);
    assert_int_equal(f->arena.bytes_used, before);
}

/* Arrays end at CODEC_ARRAY_MAX elements, though the input may hold more. */
static void decode_limits_arrays(void **state)
{
    struct codec_fixture *f = *state;
    size_t size = 4 + 2 * (CODEC_ARRAY_MAX + 1);
    uint8_t *input = xcalloc(1, size);
    struct arena arena;
    struct metadata_request m;
    size_t used;

    (void)f;
    arena_init(&arena, 1ull << 30);
    store_be32(input, CODEC_ARRAY_MAX + 1);
    assert_int_equal(codec_decode(&metadata_request_desc, 0, input, size, &arena, &m, &used),
                     ERR_MALFORMED);
    assert_int_equal(arena.bytes_used, 0);
    store_be32(input, CODEC_ARRAY_MAX);
    assert_int_equal(codec_decode(&metadata_request_desc, 0, input, size, &arena, &m, &used),
                     ERR_NONE);
    arena_deinit(&arena);
    free(input);
}

/* Structs that are much larger than their bytes on the wire end at the arena's budget. */
static void decode_keeps_to_the_budget(void **state)
{
    enum { COUNT = 10000 };
    uint8_t *input = xcalloc(1, 4 + 2 * COUNT);
    struct arena arena;
    struct metadata_request m;
    size_t used;

    (void)state;
    arena_init(&arena, 64 << 10);
    store_be32(input, COUNT);
    assert_int_equal(
        codec_decode(&metadata_request_desc, 0, input, 4 + 2 * COUNT, &arena, &m, &used),
        ERR_TOO_LARGE);
    assert_true(arena.bytes_used <= 64 << 10);
    arena_deinit(&arena);
    free(input);
}

/* ---- tagged fields (KIP-482) ---- */

/* Unknown tags are kept and sent again behind the known ones. */
static void unknown_tags_survive(void **state)
{
    /* ApiVersions 3: two names, then tag 5 with "ab" and tag 300 with nothing. */
    static const char bytes[] = "\2a\2b\2\5\2ab\254\2\0";
    struct codec_fixture *f = *state;
    struct api_versions_request m;

    assert_int_equal(decode(f, &api_versions_request_desc, 3, LITERAL(bytes), &m), ERR_NONE);
    assert_non_null(m.unknown_tags);
    assert_int_equal(m.unknown_tags->tag, 5);
    assert_int_equal(m.unknown_tags->next->tag, 300);
    assert_int_equal(codec_encode(&api_versions_request_desc, 3, &m, &f->out), ERR_NONE);
    assert_out(f, LITERAL(bytes));

    /* A version that is not flexible cannot carry them. */
    assert_int_equal(codec_encode(&api_versions_request_desc, 0, &m, &f->out),
                     ERR_UNSUPPORTED_VERSION);
}

static void tags_must_ascend_and_fit(void **state)
{
    struct api_versions_request m;
    struct fetch_request fetch;

    assert_int_equal(decode(*state, &api_versions_request_desc, 3, LITERAL("\1\1\2\6\0\5\0"), &m),
                     ERR_MALFORMED);
    assert_int_equal(decode(*state, &api_versions_request_desc, 3, LITERAL("\1\1\2\5\0\5\0"), &m),
                     ERR_MALFORMED);
    assert_int_equal(decode(*state, &api_versions_request_desc, 3, LITERAL("\1\1\1\5\2a"), &m),
                     ERR_MALFORMED);

#define FETCH_12 "\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\0\4\0\0\0\5\0\0\0\6\1\1\1"
    /* Tag 0 is the cluster id, "c"; then the same with a size that is one too large. */
    assert_int_equal(decode(*state, &fetch_request_desc, 12, LITERAL(FETCH_12 "\1\0\2\2c"), &fetch),
                     ERR_NONE);
    assert_true(str_eq_lit(fetch.cluster_id, "c"));
    assert_int_equal(
        decode(*state, &fetch_request_desc, 12, LITERAL(FETCH_12 "\1\0\3\2c\0"), &fetch),
        ERR_MALFORMED);
}

/* A tag that only another version knows is an error, as in Kafka's readers: it cannot be sent on
 * without being taken for that version's field. Neither can an unknown tag that is known. */
static void known_tags_are_never_unknown(void **state)
{
    struct codec_fixture *f = *state;
    struct fetch_snapshot_response r;
    struct unknown_tags tag = {.tag = 0, .value = {(const uint8_t *)"", 0}};

    assert_int_equal(
        decode(f, &fetch_snapshot_response_desc, 0, LITERAL("\0\0\0\0\0\0\1\1\0\1\1"), &r),
        ERR_MALFORMED);
    assert_int_equal(
        decode(f, &fetch_snapshot_response_desc, 1, LITERAL("\0\0\0\0\0\0\1\1\0\1\1"), &r),
        ERR_NONE);
    r.unknown_tags = &tag;
    assert_int_equal(codec_encode(&fetch_snapshot_response_desc, 1, &r, &f->out),
                     ERR_INVALID_REQUEST);
    tag.tag = 1;
    assert_int_equal(codec_encode(&fetch_snapshot_response_desc, 1, &r, &f->out), ERR_NONE);
}

/* A struct has at most CODEC_TAGS_MAX tagged fields. */
static void tags_have_a_limit(void **state)
{
    struct codec_fixture *f = *state;
    struct api_versions_request m;
    uint8_t *input = xmalloc(16 + 4 * (CODEC_TAGS_MAX + 1));

    for (uint32_t count = CODEC_TAGS_MAX; count <= CODEC_TAGS_MAX + 1; count++) {
        size_t size = 2;
        memcpy(input, "\1\1", 2);
        size += uvarint32_write(input + size, count);
        for (uint32_t tag = 0; tag < count; tag++) {
            size += uvarint32_write(input + size, tag);
            input[size++] = 0;
        }
        assert_int_equal(decode(f, &api_versions_request_desc, 3, input, size, &m),
                         count > CODEC_TAGS_MAX ? ERR_MALFORMED : ERR_NONE);
    }
    free(input);
}

/* A tagged field equal to its default is not sent. */
static void default_tags_are_not_sent(void **state)
{
    struct codec_fixture *f = *state;
    struct produce_response r;

    codec_init(&produce_response_desc, &r);
    assert_int_equal(codec_encode(&produce_response_desc, 10, &r, &f->out), ERR_NONE);
    assert_out(f, LITERAL("\1\0\0\0\0\0"));
}

/* ---- what a version cannot carry ---- */

static void encode_refuses_what_would_be_lost(void **state)
{
    struct codec_fixture *f = *state;
    struct metadata_request m;

    /* allowAutoTopicCreation came with version 4 and must not be dropped when it says no. */
    codec_init(&metadata_request_desc, &m);
    assert_int_equal(codec_encode(&metadata_request_desc, 3, &m, &f->out), ERR_NONE);
    m.allow_auto_topic_creation = false;
    assert_int_equal(codec_encode(&metadata_request_desc, 3, &m, &f->out), ERR_UNSUPPORTED_VERSION);
    assert_int_equal(codec_size(&metadata_request_desc, 3, &m), SIZE_MAX);
    assert_int_equal(codec_encode(&metadata_request_desc, 99, &m, &f->out),
                     ERR_UNSUPPORTED_VERSION);
    assert_int_equal(codec_encode(&metadata_request_desc, -1, &m, &f->out),
                     ERR_UNSUPPORTED_VERSION);

    codec_init(&metadata_request_desc, &m);
    m.topics.n = -1;
    assert_int_equal(codec_encode(&metadata_request_desc, 1, &m, &f->out), ERR_NONE);
    assert_int_equal(codec_encode(&metadata_request_desc, 0, &m, &f->out), ERR_INVALID_REQUEST);
}

/* An ignorable field is dropped without a word: clients of old versions never knew it. */
static void encode_drops_what_may_be_dropped(void **state)
{
    struct codec_fixture *f = *state;
    struct metadata_response r;

    codec_init(&metadata_response_desc, &r);
    r.throttle_time_ms = 5;
    r.cluster_id = STR_LIT("c");
    r.controller_id = 7;
    assert_int_equal(codec_encode(&metadata_response_desc, 0, &r, &f->out), ERR_NONE);
    assert_out(f, LITERAL("\0\0\0\0\0\0\0\0"));
}

static void encode_refuses_long_strings(void **state)
{
    struct codec_fixture *f = *state;
    struct api_versions_request m;
    char *text = xcalloc(1, CODEC_STRING_MAX + 1);

    codec_init(&api_versions_request_desc, &m);
    m.client_software_name = (struct str){text, CODEC_STRING_MAX};
    assert_int_equal(codec_encode(&api_versions_request_desc, 3, &m, &f->out), ERR_NONE);
    m.client_software_name.len++;
    assert_int_equal(codec_encode(&api_versions_request_desc, 3, &m, &f->out), ERR_TOO_LARGE);
    free(text);
}

/* ---- records ---- */

static void make_fetch_response(struct codec_fixture *f, struct fetch_response *r,
                                struct ioqueue *records)
{
    codec_init(&fetch_response_desc, r);
    assert_true(CODEC_ARRAY(&f->arena, r->responses, 1, fetch_response_fetchable_topic_response));
    r->responses.v[0].topic = STR_LIT("t");
    assert_true(
        CODEC_ARRAY(&f->arena, r->responses.v[0].partitions, 1, fetch_response_partition_data));
    r->responses.v[0].partitions.v[0].records = RECORDS_QUEUE(records);
}

/* The slices of a records queue are moved into the output as they are: the same memory, no copy. */
static void encode_moves_records(void **state)
{
    struct codec_fixture *f = *state;
    struct iobuf *batch = iobuf_new(20000);
    struct ioqueue records;
    struct fetch_response r, decoded;

    memset(iobuf_bytes(batch), 'r', 20000);
    ioqueue_init(&records);
    ioqueue_push(&records, batch, 0, 20000);
    make_fetch_response(f, &r, &records);
    size_t size = codec_size(&fetch_response_desc, 12, &r);
    assert_int_equal(codec_encode(&fetch_response_desc, 12, &r, &f->out), ERR_NONE);
    assert_int_equal(f->out.bytes_total, size);
    assert_int_equal(f->out.count, 3); /* before, records, behind */
    assert_ptr_equal(ioqueue_at(&f->out, 1)->buf, batch);
    assert_ptr_equal(ioqueue_at(&f->out, 0)->buf, ioqueue_at(&f->out, 2)->buf);
    assert_int_equal(records.bytes_total, 0);

    uint8_t *all = xmalloc(size);
    size_t at = 0;
    for (size_t i = 0; i < 3; i++) {
        const struct ioslice *s = ioqueue_at(&f->out, i);
        memcpy(all + at, s->buf->ptr + s->offset, s->len);
        at += s->len;
    }
    assert_int_equal(decode(f, &fetch_response_desc, 12, all, size, &decoded), ERR_NONE);
    assert_int_equal(decoded.responses.v[0].partitions.v[0].records.len, 20000);
    free(all);
    ioqueue_consume(&f->out, f->out.bytes_total);

    /* Nothing follows the records in version 4, so no empty slice does. */
    ioqueue_push_copy(&records, "batch", 5);
    make_fetch_response(f, &r, &records);
    assert_int_equal(codec_encode(&fetch_response_desc, 4, &r, &f->out), ERR_NONE);
    assert_int_equal(f->out.count, 2);
    ioqueue_deinit(&records);
}

/* An encoding that fails takes nothing and appends nothing. */
static void failed_encode_leaves_all_in_place(void **state)
{
    struct codec_fixture *f = *state;
    struct ioqueue records;
    struct fetch_response r;

    ioqueue_init(&records);
    ioqueue_push_copy(&records, "batch", 5);
    make_fetch_response(f, &r, &records);
    r.responses.v[0].topic = STR_NULL;
    assert_int_equal(codec_encode(&fetch_response_desc, 12, &r, &f->out), ERR_INVALID_REQUEST);
    assert_int_equal(records.bytes_total, 5);
    assert_int_equal(f->out.bytes_total, 0);
    ioqueue_deinit(&records);
}

/* ---- arrays for answers ---- */

static void arrays_start_with_defaults_and_keep_to_the_budget(void **state)
{
    struct codec_fixture *f = *state;
    struct fetch_response_fetchable_topic_response topic;
    struct metadata_response_metadata_response_partition partition;

    codec_init(&fetch_response_fetchable_topic_response_desc, &topic);
    assert_true(CODEC_ARRAY(&f->arena, topic.partitions, 3, fetch_response_partition_data));
    assert_int_equal(topic.partitions.n, 3);
    assert_int_equal(topic.partitions.v[2].log_start_offset, -1);

    assert_true(CODEC_ARRAY(&f->arena, topic.partitions, -1, fetch_response_partition_data));
    assert_int_equal(topic.partitions.n, 0);
    assert_false(CODEC_ARRAY(&f->arena, topic.partitions, 1 << 30, fetch_response_partition_data));
    assert_int_equal(topic.partitions.n, 0);

    codec_init(&metadata_response_metadata_response_partition_desc, &partition);
    assert_true(CODEC_ARRAY_PLAIN(&f->arena, partition.isr_nodes, 2));
    assert_int_equal(partition.isr_nodes.n, 2);
    assert_int_equal(partition.isr_nodes.v[1], 0);
}

/* ---- printing ---- */

static void print_cuts_to_fit_and_says_the_length(void **state)
{
    static const char whole[] = "{\"clientSoftwareName\":\"a\\\"\\u000a\",\"clientSoftwareVersion\""
                                ":\"\"}";
    struct api_versions_request m;
    char text[200];

    (void)state;
    codec_init(&api_versions_request_desc, &m);
    m.client_software_name = STR_LIT("a\"\n");
    assert_int_equal(codec_print(&api_versions_request_desc, 3, &m, text, sizeof text),
                     sizeof whole - 1);
    assert_string_equal(text, whole);
    assert_int_equal(codec_print(&api_versions_request_desc, 3, &m, text, 10), sizeof whole - 1);
    assert_string_equal(text, "{\"clientS");
    assert_int_equal(codec_print(&api_versions_request_desc, 3, &m, NULL, 0), sizeof whole - 1);
}

/* ---- APIs and frames ---- */

static void apis_are_known_by_key(void **state)
{
    (void)state;
    assert_string_equal(api_find(API_PRODUCE)->name, "Produce");
    assert_int_equal(api_find(API_PRODUCE)->version_min, 3);
    assert_int_equal(api_find(API_PRODUCE)->version_max, 13);
    assert_null(api_find(4)); /* LeaderAndIsr, removed in Kafka 4 */
    assert_null(api_find(-1));
    /* KIP-939's version is not offered until Kafka calls it stable. */
    assert_int_equal(api_find(API_INIT_PRODUCER_ID)->version_max, 6);
    assert_int_equal(api_find(API_INIT_PRODUCER_ID)->version_max_stable, 5);
    for (size_t i = 1; i < api_count; i++)
        assert_true(api_at(i - 1)->key < api_at(i)->key);
}

static void request_headers_follow_the_apis_version(void **state)
{
    struct frame_header h;

    (void)state;
    assert_int_equal(request_header_read(LITERAL("\0\3\0\1\0\0\0\7\0\2mebody"), &h), ERR_NONE);
    assert_int_equal(h.api_key, 3);
    assert_int_equal(h.api_version, 1);
    assert_int_equal(h.correlation_id, 7);
    assert_true(str_eq_lit(h.client_id, "me"));
    assert_int_equal(h.used, 12);

    assert_int_equal(request_header_read(LITERAL("\0\3\0\1\0\0\0\7\377\377"), &h), ERR_NONE);
    assert_true(str_is_null(h.client_id));

    /* Flexible: the client id is still not compact, and tagged fields are stepped over. */
    assert_int_equal(request_header_read(LITERAL("\0\3\0\14\0\0\0\7\0\2me\1\5\2ab"), &h), ERR_NONE);
    assert_int_equal(h.used, 17);
    assert_int_equal(request_header_read(LITERAL("\0\3\0\14\0\0\0\7\0\2me\1\5\3ab"), &h),
                     ERR_MALFORMED);

    /* Newer than we know: readable, for it must be answered. */
    assert_int_equal(request_header_read(LITERAL("\0\22\0\143\0\0\0\7\0\0\0"), &h), ERR_NONE);
    assert_int_equal(h.api->key, API_API_VERSIONS);

    assert_int_equal(request_header_read(LITERAL("\x03\xe7\0\1\0\0\0\7\0\0"), &h),
                     ERR_UNSUPPORTED_VERSION);
    assert_int_equal(h.api_key, 999);
    assert_null(h.api);
    for (size_t size = 0; size < 12; size++)
        assert_int_equal(request_header_read("\0\3\0\1\0\0\0\7\0\2me", size, &h), ERR_MALFORMED);
    assert_int_equal(request_header_read(LITERAL("\0\3\0\1\0\0\0\7\377\376"), &h), ERR_MALFORMED);
}

static void frames_have_limits(void **state)
{
    size_t length = 0;

    (void)state;
    assert_int_equal(frame_length("\0\0\0", 3, 100, &length), ERR_AGAIN);
    assert_int_equal(frame_length("\0\0\0\144", 4, 100, &length), ERR_NONE);
    assert_int_equal(length, 100);
    assert_int_equal(frame_length("\0\0\0\145", 4, 100, &length), ERR_TOO_LARGE);
    assert_int_equal(frame_length("\0\0\0\7", 4, 100, &length), ERR_MALFORMED);
    assert_int_equal(frame_length("\377\377\377\377", 4, 100, &length), ERR_MALFORMED);
}

/* A response is one buffer: length, correlation id, header tags from the flexible versions on,
 * body. ApiVersions never has header tags (KIP-511). */
static void responses_are_framed(void **state)
{
    struct codec_fixture *f = *state;
    struct heartbeat_response heartbeat;
    struct api_versions_response versions;
    int32_t correlation_id;
    size_t used;

    codec_init(&heartbeat_response_desc, &heartbeat);
    heartbeat.error_code = 27;
    assert_int_equal(response_encode(api_find(API_HEARTBEAT), 0, 7, &heartbeat, &f->out), ERR_NONE);
    assert_out(f, LITERAL("\0\0\0\6\0\0\0\7\0\33"));
    ioqueue_consume(&f->out, f->out.bytes_total);

    assert_int_equal(response_encode(api_find(API_HEARTBEAT), 4, 7, &heartbeat, &f->out), ERR_NONE);
    assert_int_equal(f->out.count, 1);
    assert_out(f, LITERAL("\0\0\0\14\0\0\0\7\0\0\0\0\0\0\33\0"));
    assert_int_equal(response_header_read(api_find(API_HEARTBEAT), 4,
                                          LITERAL("\0\0\0\7\0\0\0\0\0\0\33\0"), &correlation_id,
                                          &used),
                     ERR_NONE);
    assert_int_equal(correlation_id, 7);
    assert_int_equal(used, 5);
    ioqueue_consume(&f->out, f->out.bytes_total);

    codec_init(&api_versions_response_desc, &versions);
    assert_int_equal(response_encode(api_find(API_API_VERSIONS), 3, 7, &versions, &f->out),
                     ERR_NONE);
    assert_out(f, LITERAL("\0\0\0\14\0\0\0\7\0\0\1\0\0\0\0\0"));
}

/* What a client sends is what a server reads. */
static void requests_are_framed(void **state)
{
    struct codec_fixture *f = *state;
    struct heartbeat_request m;

    codec_init(&heartbeat_request_desc, &m);
    assert_int_equal(request_encode(api_find(API_HEARTBEAT), 4, 9, STR_LIT("me"), &m, &f->out),
                     ERR_NONE);
    assert_int_equal(f->out.count, 1);

    const uint8_t *p = ioqueue_at(&f->out, 0)->buf->ptr;
    size_t length = 0;
    struct frame_header h;
    assert_int_equal(frame_length(p, f->out.bytes_total, 1000, &length), ERR_NONE);
    assert_int_equal(length + FRAME_LENGTH_SIZE, f->out.bytes_total);
    assert_int_equal(request_header_read(p + FRAME_LENGTH_SIZE, length, &h), ERR_NONE);
    assert_int_equal(h.api_key, API_HEARTBEAT);
    assert_int_equal(h.api_version, 4);
    assert_int_equal(h.correlation_id, 9);
    assert_int_equal(
        decode(f, &heartbeat_request_desc, 4, p + FRAME_LENGTH_SIZE + h.used, length - h.used, &m),
        ERR_NONE);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(init_sets_the_schemas_defaults),
        TEST(decode_fills_in_what_the_version_lacks),
        TEST(decode_refuses_every_truncation),
        TEST(decode_refuses_every_old_truncation),
        TEST(decode_refuses_truncated_numbers_of_each_size),
        TEST(decode_refuses_long_strings),
        TEST(decode_refuses_null_elements),
        TEST(decode_takes_bools_and_presence_as_kafka_does),
        TEST(decode_refuses_null_where_there_is_none),
        TEST(decode_checks_counts_before_it_allocates),
        TEST(decode_limits_arrays),
        TEST(decode_keeps_to_the_budget),
        TEST(unknown_tags_survive),
        TEST(tags_must_ascend_and_fit),
        TEST(known_tags_are_never_unknown),
        TEST(tags_have_a_limit),
        TEST(default_tags_are_not_sent),
        TEST(encode_refuses_what_would_be_lost),
        TEST(encode_drops_what_may_be_dropped),
        TEST(encode_refuses_long_strings),
        TEST(encode_moves_records),
        TEST(failed_encode_leaves_all_in_place),
        TEST(arrays_start_with_defaults_and_keep_to_the_budget),
        TEST(print_cuts_to_fit_and_says_the_length),
        TEST(apis_are_known_by_key),
        TEST(request_headers_follow_the_apis_version),
        TEST(frames_have_limits),
        TEST(responses_are_framed),
        TEST(requests_are_framed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
