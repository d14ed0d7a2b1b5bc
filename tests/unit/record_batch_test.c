/* Record batches: Java's are read, ours hold what was put in, and what a client must not send is
 * refused with Kafka's error. */
#include "protocol/record_batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "protocol/crc32c.h"

#define LIMIT ((size_t)8 << 20)
#define NOW   INT64_C(1700000001000)

enum {
    AT_BASE_OFFSET = 0,
    AT_LENGTH = 8,
    AT_MAGIC = 16,
    AT_CRC = 17,
    AT_ATTRIBUTES = 21,
    AT_LAST_OFFSET_DELTA = 23,
    AT_MAX_TIMESTAMP = 35,
    AT_PRODUCER_ID = 43,
    AT_PRODUCER_EPOCH = 51,
    AT_BASE_SEQUENCE = 53,
    AT_RECORD_COUNT = 57,
};

/* Written by kafka-clients 4.4.0 (MemoryRecords.withRecords): producer 4711, epoch 3, first
 * sequence 2^31-2, and four records:
 *   1700000000000 "k0"  "value value value value"  h="1", h=null
 *   1700000000005 null  ""
 *   1699999999990 ""    null
 *   1700000000005 "k3"  200 zero bytes             ""="" */
static const char java_none[] =
    "00000000000000000000013bffffffff02bd0f4ca20000000000030000018bcfe568000000018bcfe5680500"
    "0000000000126700037ffffffe000000044c000000046b302e76616c75652076616c75652076616c75652076"
    "616c756504026802310268010c000a020100000c001304000100a603000a06046b3390030000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "00000000000000000000000000000000020000";
static const char java_gzip[] =
    "00000000000000000000007bffffffff028d8dc5b80001000000030000018bcfe568000000018bcfe5680500"
    "0000000000126700037ffffffe000000041f8b08000000000000fff361606060c936d02b4bcc294d55c02059"
    "9832980c9932187918b8981819187818845918181996313370b1b1641b4f6066182680898101002516c31b0a"
    "010000";
static const char java_snappy[] =
    "00000000000000000000008affffffff02e6db71b90002000000030000018bcfe568000000018bcfe5680500"
    "0000000000126700037ffffffe0000000482534e41505059000000000100000001000000458a02344c000000"
    "046b302e76616c7565204206008004026802310268010c000a020100000c001304000100a603000a06046b33"
    "900300fe0100fe0100fe01000d0108020000";
static const char java_lz4[] =
    "00000000000000000000007dffffffff0250813c4a0003000000030000018bcfe568000000018bcfe5680500"
    "0000000000126700037ffffffe0000000404224d186040823d000000ed4c000000046b302e76616c75652006"
    "00ff1204026802310268010c000a020100000c001304000100a603000a06046b339003000100b25000000200"
    "0000000000";
static const char java_zstd[] =
    "00000000000000000000007affffffff029d15985d0004000000030000018bcfe568000000018bcfe5680500"
    "0000000000126700037ffffffe0000000428b52ffd0058ec010024034c000000046b302e76616c7565200402"
    "6802310268010c000a020100000c001304000100a603000a06046b33900300020000020021e2a82773510201"
    "0000";

static const char *const java_batches[] = {java_none, java_gzip, java_snappy, java_lz4, java_zstd};

static uint8_t *from_hex(const char *hex, size_t *size)
{
    *size = strlen(hex) / 2;
    uint8_t *b = malloc(*size);
    for (size_t i = 0; i < *size; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        b[i] = (uint8_t)byte;
    }
    return b;
}

static struct bytes text(const char *s)
{
    return s == NULL ? BYTES_NULL : (struct bytes){(const uint8_t *)s, (int32_t)strlen(s)};
}

static void fix_crc(uint8_t *p, size_t size)
{
    store_be32(p + AT_CRC, crc32c(0, p + AT_ATTRIBUTES, size - AT_ATTRIBUTES));
}

/* A batch in memory of its own, for tests that change it. */
struct sample {
    uint8_t *ptr;
    size_t size;
};

static struct sample finish(struct record_batch_builder *b)
{
    struct iobuf *made;

    assert_int_equal(record_batch_builder_finish(b, &made), ERR_NONE);
    struct sample s = {malloc(made->len), made->len};
    memcpy(s.ptr, made->ptr, s.size);
    iobuf_unref(made);
    record_batch_builder_deinit(b);
    return s;
}

/* `count` records, one millisecond apart, the last one at NOW. */
static struct sample plain_batch(int codec, int32_t count)
{
    struct record_batch_builder b;

    record_batch_builder_init(&b, 0);
    b.codec = codec;
    for (int32_t i = 0; i < count; i++) {
        char key[16], value[64];
        snprintf(key, sizeof key, "key-%d", i);
        snprintf(value, sizeof value, "the value of record number %d", i);
        record_batch_builder_add(&b, NOW - count + 1 + i, text(key), text(value), NULL, 0);
    }
    return finish(&b);
}

/* An uncompressed batch around record bytes that a builder would not make. */
static struct sample raw_batch(const uint8_t *records, size_t records_size, int32_t count)
{
    struct sample plain = plain_batch(COMPRESSION_NONE, 1);
    struct sample s = {malloc(61 + records_size), 61 + records_size};

    memcpy(s.ptr, plain.ptr, 61);
    memcpy(s.ptr + 61, records, records_size);
    free(plain.ptr);
    store_be32(s.ptr + AT_LENGTH, (uint32_t)s.size - 12);
    store_be32(s.ptr + AT_LAST_OFFSET_DELTA, (uint32_t)count - 1);
    store_be32(s.ptr + AT_RECORD_COUNT, (uint32_t)count);
    store_be64(s.ptr + AT_MAX_TIMESTAMP, (uint64_t)NOW);
    fix_crc(s.ptr, s.size);
    return s;
}

static const struct record_validation default_rules = {
    .produce_version = 12,
    .max_message_bytes = 1048588,
    .now_unix_ms = NOW,
    .timestamp_before_max_ms = INT64_MAX,
    .timestamp_after_max_ms = 3600000,
    .compression_type = RECORD_COMPRESSION_PRODUCER,
    .compression_level = COMPRESSION_LEVEL_DEFAULT,
    .decompressed_bytes_max = LIMIT,
};

static enum err validate(const struct sample *s, struct record_verdict *v)
{
    enum err err = record_batch_validate(s->ptr, s->size, &default_rules, v);
    assert_true((err == ERR_NONE) == (v->reason == NULL));
    return err;
}

/* The error of walking over the whole batch; ERR_NOT_FOUND is a good end. */
static enum err walk(const struct record_batch *b, enum record_iterator_mode mode, size_t limit,
                     int32_t *count)
{
    struct record_iterator it;
    struct record r;
    enum err err = record_iterator_init(&it, b, mode, NULL, limit);

    *count = 0;
    if (err != ERR_NONE)
        return err;
    while ((err = record_iterator_next(&it, &r)) == ERR_NONE)
        ++*count;
    assert_int_equal(record_iterator_next(&it, &r), err);
    record_iterator_deinit(&it);
    return err;
}

/* ---- reading ---- */

static void assert_bytes(struct bytes got, const char *want)
{
    if (want == NULL) {
        assert_int_equal(got.len, -1);
        return;
    }
    assert_int_equal(got.len, strlen(want));
    assert_memory_equal(got.ptr, want, strlen(want));
}

static void assert_java_records(const struct record_batch *b, struct decompressor *scratch)
{
    static const int64_t timestamps[] = {1700000000000, 1700000000005, 1699999999990,
                                         1700000000005};
    static const char *const keys[] = {"k0", NULL, "", "k3"};
    static const int32_t value_lengths[] = {23, 0, -1, 200};
    struct record_iterator it;
    struct record r;
    struct str name;
    struct bytes value;

    assert_int_equal(record_iterator_init(&it, b, RECORDS_WHOLE, scratch, LIMIT), ERR_NONE);
    for (int32_t i = 0; i < 4; i++) {
        assert_int_equal(record_iterator_next(&it, &r), ERR_NONE);
        assert_int_equal(r.offset, b->base_offset + i);
        assert_int_equal(r.offset_delta, i);
        assert_int_equal(r.timestamp, timestamps[i]);
        assert_bytes(r.key, keys[i]);
        assert_int_equal(r.value.len, value_lengths[i]);
        struct bytes headers = r.headers;
        if (i == 0) {
            assert_bytes(r.value, "value value value value");
            assert_int_equal(r.header_count, 2);
            assert_true(record_header_next(&headers, &name, &value));
            assert_true(str_eq_lit(name, "h"));
            assert_bytes(value, "1");
            assert_true(record_header_next(&headers, &name, &value));
            assert_true(str_eq_lit(name, "h"));
            assert_bytes(value, NULL);
        }
        if (i == 3) {
            assert_true(record_header_next(&headers, &name, &value));
            assert_int_equal(name.len, 0);
            assert_bytes(value, "");
        }
        assert_false(record_header_next(&headers, &name, &value));
    }
    assert_int_equal(record_iterator_next(&it, &r), ERR_NOT_FOUND);
    record_iterator_deinit(&it);
}

/* What Java's client writes, in each codec, is read field by field and accepted as it is. */
static void java_batches_are_read_and_accepted(void **state)
{
    struct decompressor scratch;
    (void)state;

    decompressor_init(&scratch);
    for (int codec = 0; codec < 5; codec++) {
        struct record_batch b;
        struct record_verdict v;
        struct sample s;
        s.ptr = from_hex(java_batches[codec], &s.size);

        assert_int_equal(record_batch_parse(s.ptr, s.size, &b), ERR_NONE);
        assert_int_equal(b.size_bytes, s.size);
        assert_int_equal(record_batch_codec(&b), codec);
        assert_true(record_batch_crc_ok(&b));
        assert_int_equal(b.producer_id, 4711);
        assert_int_equal(b.producer_epoch, 3);
        assert_int_equal(b.base_sequence, 2147483646);
        assert_int_equal(record_batch_last_sequence(&b), 1);
        assert_int_equal(record_batch_last_offset(&b), 3);
        assert_java_records(&b, NULL);
        assert_java_records(&b, &scratch);

        assert_int_equal(validate(&s, &v), ERR_NONE);
        assert_int_equal(v.rewrite, RECORD_REWRITE_NONE);
        assert_int_equal(v.max_timestamp, 1700000000005);
        assert_int_equal(v.max_timestamp_offset_delta, 1);
        free(s.ptr);
    }
    decompressor_deinit(&scratch);
}

/* What goes into a builder comes out of an iterator, large records and all codecs included. */
static void builder_and_iterator_agree(void **state)
{
    enum { COUNT = 2000, LARGE = 900000 };
    char *large = malloc(LARGE + 1);
    (void)state;

    memset(large, 'v', LARGE);
    large[LARGE] = '\0';
    for (int codec = 0; codec < 5; codec++) {
        const struct record_header headers[] = {{STR_LIT("trace"), text("abc")},
                                                {STR_LIT("none"), BYTES_NULL}};
        struct record_batch_builder builder;
        struct record_batch b;
        struct record_iterator it;
        struct record r;
        char key[16];

        record_batch_builder_init(&builder, 1000);
        builder.codec = codec;
        builder.attributes = RECORD_BATCH_TRANSACTIONAL;
        for (int i = 0; i < COUNT; i++) {
            snprintf(key, sizeof key, "%d", i);
            record_batch_builder_add(&builder, NOW + i % 7, text(key),
                                     i == 1234 ? text(large) : text("v"), headers, i % 3);
        }
        struct sample s = finish(&builder);
        assert_int_equal(record_batch_parse(s.ptr, s.size, &b), ERR_NONE);
        assert_true(record_batch_crc_ok(&b));
        assert_true(record_batch_is_transactional(&b));
        assert_false(record_batch_is_control(&b));
        assert_int_equal(b.max_timestamp, NOW + 6);

        assert_int_equal(record_iterator_init(&it, &b, RECORDS_WHOLE, NULL, LIMIT), ERR_NONE);
        for (int i = 0; i < COUNT; i++) {
            assert_int_equal(record_iterator_next(&it, &r), ERR_NONE);
            snprintf(key, sizeof key, "%d", i);
            assert_bytes(r.key, key);
            assert_bytes(r.value, i == 1234 ? large : "v");
            assert_int_equal(r.header_count, i % 3);
            assert_int_equal(r.offset, 1000 + i);
            assert_int_equal(r.timestamp, NOW + i % 7);
        }
        assert_int_equal(record_iterator_next(&it, &r), ERR_NOT_FOUND);
        record_iterator_deinit(&it);

        /* Structure alone takes no more memory for a large record than for a small one. */
        assert_int_equal(record_iterator_init(&it, &b, RECORDS_SKIP, NULL, LIMIT), ERR_NONE);
        size_t window_before = it.window_size;
        int32_t count = 0;
        for (; record_iterator_next(&it, &r) == ERR_NONE; count++)
            assert_int_equal(r.value.len, count == 1234 ? LARGE : 1);
        assert_int_equal(count, COUNT);
        assert_int_equal(it.window_size, window_before);
        record_iterator_deinit(&it);
        free(s.ptr);
    }
    free(large);
}

/* Every beginning of a batch asks for more, and says how much as soon as it can be known. */
static void beginnings_ask_for_more(void **state)
{
    struct sample s = plain_batch(COMPRESSION_NONE, 3);
    struct record_batch b;
    (void)state;

    for (size_t n = 0; n < s.size; n++) {
        uint8_t *beginning =
            malloc(n + 1); /* of its size, so that a sanitizer sees a read beyond */
        memcpy(beginning + 1, s.ptr, n);
        assert_int_equal(record_batch_parse(beginning + 1, n, &b), ERR_AGAIN);
        assert_int_equal(b.size_bytes, n < RECORD_BATCH_PREFIX_SIZE ? 0 : s.size);
        free(beginning);
    }
    assert_int_equal(record_batch_parse(s.ptr, s.size, &b), ERR_NONE);
    free(s.ptr);
}

/* A header that contradicts itself is no batch, whatever its CRC says. */
static void impossible_headers_are_malformed(void **state)
{
    static const struct {
        int at, size;
        int64_t value;
        enum err want;
    } cases[] = {
        {AT_LENGTH, 4, -1, ERR_MALFORMED},
        {AT_LENGTH, 4, 13, ERR_MALFORMED},
        {AT_LENGTH, 4, 48, ERR_MALFORMED},
        {AT_LENGTH, 4, INT32_MAX, ERR_MALFORMED},
        {AT_LENGTH, 4, INT32_MAX - 12, ERR_AGAIN},
        {AT_MAGIC, 1, 3, ERR_MALFORMED},
        {AT_MAGIC, 1, -1, ERR_MALFORMED},
        {AT_MAGIC, 1, 0, ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT},
        {AT_MAGIC, 1, 1, ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT},
        {AT_BASE_OFFSET, 8, -1, ERR_MALFORMED},
        {AT_BASE_OFFSET, 8, INT64_MAX, ERR_MALFORMED},
        {AT_BASE_OFFSET, 8, INT64_MAX - 2, ERR_NONE},
        {AT_LAST_OFFSET_DELTA, 4, -1, ERR_MALFORMED},
        {AT_LAST_OFFSET_DELTA, 4, 1, ERR_MALFORMED},
        {AT_LAST_OFFSET_DELTA, 4, 100, ERR_NONE}, /* compacted */
        {AT_RECORD_COUNT, 4, -1, ERR_MALFORMED},
        {AT_RECORD_COUNT, 4, 4, ERR_MALFORMED},
        {AT_RECORD_COUNT, 4, 0, ERR_NONE}, /* compacted to nothing, kept for its producer */
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct sample s = plain_batch(COMPRESSION_NONE, 3);
        struct record_batch b;
        uint8_t wide[8];
        store_be64(wide, (uint64_t)cases[i].value);
        memcpy(s.ptr + cases[i].at, wide + 8 - cases[i].size, (size_t)cases[i].size);
        enum err err = record_batch_parse(s.ptr, s.size, &b);
        if (err != cases[i].want)
            fail_msg("case %zu: %s, not %s", i, err_name(err), err_name(cases[i].want));
        free(s.ptr);
    }
}

/* The CRC covers everything from the attributes on, and nothing of what the leader assigns. */
static void crc_covers_what_the_client_said(void **state)
{
    struct sample s = plain_batch(COMPRESSION_NONE, 3);
    struct record_batch b;
    (void)state;

    record_batch_patch(s.ptr, 123456789012, 17);
    assert_int_equal(record_batch_parse(s.ptr, s.size, &b), ERR_NONE);
    assert_int_equal(b.base_offset, 123456789012);
    assert_int_equal(b.partition_leader_epoch, 17);
    assert_true(record_batch_crc_ok(&b));
    for (size_t i = AT_CRC; i < s.size; i++) {
        s.ptr[i] ^= 0x40;
        if (record_batch_parse(s.ptr, s.size, &b) == ERR_NONE)
            assert_false(record_batch_crc_ok(&b));
        s.ptr[i] ^= 0x40;
    }
    free(s.ptr);
}

/* Batches are walked in order; a partial one at the end is named, and nothing is skipped. */
static void batches_are_walked_in_order(void **state)
{
    struct sample a = plain_batch(COMPRESSION_NONE, 3), b = plain_batch(COMPRESSION_LZ4, 50);
    uint8_t *both = malloc(a.size + b.size);
    struct record_batch out;
    (void)state;

    memcpy(both, a.ptr, a.size);
    memcpy(both + a.size, b.ptr, b.size);
    struct record_batch_iterator it = {both, a.size + b.size};
    assert_int_equal(record_batch_next(&it, &out), ERR_NONE);
    assert_int_equal(out.record_count, 3);
    assert_int_equal(record_batch_next(&it, &out), ERR_NONE);
    assert_int_equal(out.record_count, 50);
    assert_int_equal(record_batch_next(&it, &out), ERR_NOT_FOUND);

    it = (struct record_batch_iterator){both, a.size + b.size - 1};
    assert_int_equal(record_batch_next(&it, &out), ERR_NONE);
    assert_int_equal(record_batch_next(&it, &out), ERR_AGAIN);
    assert_ptr_equal(it.ptr, both + a.size);
    free(both);
    free(a.ptr);
    free(b.ptr);
}

static void sequences_begin_again_at_zero(void **state)
{
    (void)state;
    assert_int_equal(record_sequence_add(INT32_MAX, 1), 0);
    assert_int_equal(record_sequence_add(INT32_MAX - 1, 3), 1);
    assert_int_equal(record_sequence_add(INT32_MAX, INT32_MAX), INT32_MAX - 1);
    assert_int_equal(record_sequence_add(5, 0), 5);
    assert_int_equal(record_batch_last_sequence(&(struct record_batch){.base_sequence = -1}), -1);
}

/* ---- the structure of records ---- */

/* A good record, and each way to get one wrong; the batch says that there is `count` of them. */
static void malformed_records_are_refused(void **state)
{
#define GOOD 0x0e, 0, 0, 0, 0x01, 0x02, 'v', 0 /* null key, value "v", no headers */
    static const struct {
        const char *what;
        int32_t count;
        int size;
        uint8_t records[32];
        enum err want;
    } cases[] = {
        {"good", 1, 8, {GOOD}, ERR_NOT_FOUND},
        {"a record too few", 2, 8, {GOOD}, ERR_INVALID_RECORD},
        {"a byte too many", 1, 9, {GOOD, 0}, ERR_INVALID_RECORD},
        {"a record too many", 1, 16, {GOOD, 0x0e, 0, 0, 2, 0x01, 0x02, 'v', 0}, ERR_INVALID_RECORD},
        {"two good", 2, 16, {GOOD, 0x0e, 0, 0, 2, 0x01, 0x02, 'v', 0}, ERR_NOT_FOUND},
        {"offset twice", 2, 16, {GOOD, GOOD}, ERR_INVALID_RECORD},
        {"offset beyond last", 1, 8, {0x0e, 0, 0, 2, 0x01, 0x02, 'v', 0}, ERR_INVALID_RECORD},
        {"negative offset", 1, 8, {0x0e, 0, 0, 1, 0x01, 0x02, 'v', 0}, ERR_INVALID_RECORD},
        {"length negative", 1, 8, {0x01, 0, 0, 0, 0x01, 0x02, 'v', 0}, ERR_INVALID_RECORD},
        {"length short", 1, 8, {0x0c, 0, 0, 0, 0x01, 0x02, 'v', 0}, ERR_INVALID_RECORD},
        {"length long", 1, 8, {0x10, 0, 0, 0, 0x01, 0x02, 'v', 0}, ERR_INVALID_RECORD},
        {"key length -2", 1, 8, {0x0e, 0, 0, 0, 0x03, 0x02, 'v', 0}, ERR_NOT_FOUND},
        {"value over the end", 1, 8, {0x0e, 0, 0, 0, 0x01, 0x40, 'v', 0}, ERR_INVALID_RECORD},
        {"header count -1", 1, 8, {0x0e, 0, 0, 0, 0x01, 0x02, 'v', 1}, ERR_INVALID_RECORD},
        {"header missing", 1, 8, {0x0e, 0, 0, 0, 0x01, 0x02, 'v', 2}, ERR_INVALID_RECORD},
        {"header", 1, 11, {0x14, 0, 0, 0, 0x01, 0x02, 'v', 2, 2, 'h', 1}, ERR_NOT_FOUND},
        {"header key null", 1, 10, {0x12, 0, 0, 0, 0x01, 0x02, 'v', 2, 1, 1}, ERR_INVALID_RECORD},
        {"header count huge",
         1,
         12,
         {0x16, 0, 0, 0, 0x01, 0x02, 'v', 0xfe, 0xff, 0xff, 0xff, 0x0f},
         ERR_INVALID_RECORD},
        {"endless varint",
         1,
         16,
         {0x1e, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 0},
         ERR_INVALID_RECORD},
        {"length over 32 bits",
         1,
         8,
         {0xfe, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0},
         ERR_INVALID_RECORD},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct sample s = raw_batch(cases[i].records, (size_t)cases[i].size, cases[i].count);
        struct record_batch b;
        struct record_verdict v;
        int32_t count;
        /* The frame only: some of these counts are more than the bytes could hold. */
        assert_int_equal(record_batch_frame(s.ptr, s.size, &b), ERR_NONE);
        for (int mode = RECORDS_WHOLE; mode <= RECORDS_SKIP; mode++) {
            enum err err = walk(&b, (enum record_iterator_mode)mode, LIMIT, &count);
            if (err != cases[i].want)
                fail_msg("%s: %s", cases[i].what, err_name(err));
        }
        enum err want = cases[i].want == ERR_NOT_FOUND ? ERR_NONE : ERR_INVALID_RECORD;
        assert_int_equal(validate(&s, &v), want);

        /* The same through every codec. */
        for (int codec = 1; codec < 5; codec++) {
            struct iobuf *packed;
            assert_int_equal(compress_all(codec, COMPRESSION_LEVEL_DEFAULT, cases[i].records,
                                          (size_t)cases[i].size, &packed),
                             ERR_NONE);
            struct sample c = raw_batch(packed->ptr, packed->len, cases[i].count);
            store_be16(c.ptr + AT_ATTRIBUTES, (uint16_t)codec);
            fix_crc(c.ptr, c.size);
            if (validate(&c, &v) != want)
                fail_msg("%s in %s", cases[i].what, compression_name(codec));
            iobuf_unref(packed);
            free(c.ptr);
        }
        free(s.ptr);
    }
#undef GOOD
}

/* Data behind the last record is also seen when that record ends just where the window does. */
static void hidden_records_are_refused(void **state)
{
    enum { WINDOW = 16384, VALUE = WINDOW - 11 };
    char *value = malloc(VALUE + 1);
    (void)state;

    memset(value, 'v', VALUE);
    value[VALUE] = '\0';
    for (int codec = 0; codec < 5; codec++) {
        struct record_batch_builder builder;
        struct record_verdict v;
        record_batch_builder_init(&builder, 0);
        builder.codec = codec;
        record_batch_builder_add(&builder, NOW, BYTES_NULL, text(value), NULL, 0);
        assert_int_equal(builder.records_size, WINDOW);
        record_batch_builder_add(&builder, NOW, BYTES_NULL, text("hidden"), NULL, 0);
        struct sample s = finish(&builder);
        assert_int_equal(validate(&s, &v), ERR_NONE);
        store_be32(s.ptr + AT_RECORD_COUNT, 1);
        store_be32(s.ptr + AT_LAST_OFFSET_DELTA, 0);
        fix_crc(s.ptr, s.size);
        assert_int_equal(validate(&s, &v), ERR_INVALID_RECORD);
        free(s.ptr);
    }
    free(value);
}

/* A compacted batch has gaps between offsets: fine to read, not to produce. */
static void gaps_are_read_but_not_produced(void **state)
{
    struct record_batch_builder builder;
    struct record_batch b;
    struct record_verdict v;
    int32_t count;
    (void)state;

    record_batch_builder_init(&builder, 0);
    record_batch_builder_add_at(&builder, 3, NOW, text("k"), text("v"), NULL, 0);
    record_batch_builder_add_at(&builder, 9, NOW, text("k"), text("v"), NULL, 0);
    struct sample s = finish(&builder);
    assert_int_equal(record_batch_parse(s.ptr, s.size, &b), ERR_NONE);
    assert_int_equal(walk(&b, RECORDS_WHOLE, LIMIT, &count), ERR_NOT_FOUND);
    assert_int_equal(count, 2);
    assert_int_equal(validate(&s, &v), ERR_INVALID_RECORD);
    free(s.ptr);
}

/* ---- what may be produced ---- */

static void lie_magic_1(struct sample *s)
{
    s->ptr[AT_MAGIC] = 1;
}
static void lie_magic_3(struct sample *s)
{
    s->ptr[AT_MAGIC] = 3;
}
static void lie_nothing(struct sample *s)
{
    s->size = 0;
}
static void lie_cut(struct sample *s)
{
    s->size--;
}
static void lie_length(struct sample *s)
{
    store_be32(s->ptr + AT_LENGTH, 5);
}
static void lie_trailing(struct sample *s)
{
    s->ptr = realloc(s->ptr, s->size + 1);
    s->ptr[s->size++] = 0;
}
static void lie_twice(struct sample *s)
{
    s->ptr = realloc(s->ptr, s->size * 2);
    memcpy(s->ptr + s->size, s->ptr, s->size);
    s->size *= 2;
}
static void lie_base_offset(struct sample *s)
{
    store_be64(s->ptr + AT_BASE_OFFSET, 1);
}
static void lie_bit(struct sample *s)
{
    s->ptr[s->size - 1] ^= 1;
}
/* Damage to a count is damage, not a lie: the CRC is looked at first, and the client tries again.
 */
static void lie_count_without_crc(struct sample *s)
{
    store_be32(s->ptr + AT_RECORD_COUNT, 7);
}
static void lie_count(struct sample *s)
{
    store_be32(s->ptr + AT_RECORD_COUNT, 7);
    fix_crc(s->ptr, s->size);
}
static void lie_count_zero(struct sample *s)
{
    store_be32(s->ptr + AT_RECORD_COUNT, 0);
    store_be32(s->ptr + AT_LAST_OFFSET_DELTA, UINT32_MAX);
    fix_crc(s->ptr, s->size);
}
static void lie_more_records(struct sample *s)
{
    store_be32(s->ptr + AT_RECORD_COUNT, 4);
    store_be32(s->ptr + AT_LAST_OFFSET_DELTA, 3);
    fix_crc(s->ptr, s->size);
}
static void lie_fewer_records(struct sample *s)
{
    store_be32(s->ptr + AT_RECORD_COUNT, 2);
    store_be32(s->ptr + AT_LAST_OFFSET_DELTA, 1);
    fix_crc(s->ptr, s->size);
}
static void set_attributes(struct sample *s, int attributes)
{
    store_be16(s->ptr + AT_ATTRIBUTES, (uint16_t)attributes);
    fix_crc(s->ptr, s->size);
}
static void lie_control(struct sample *s)
{
    set_attributes(s, RECORD_BATCH_CONTROL);
}
static void lie_log_append_time(struct sample *s)
{
    set_attributes(s, RECORD_BATCH_LOG_APPEND_TIME);
}
static void lie_transactional(struct sample *s)
{
    set_attributes(s, RECORD_BATCH_TRANSACTIONAL);
}
static void lie_codec_5(struct sample *s)
{
    set_attributes(s, 5);
}
static void lie_codec_gzip(struct sample *s)
{
    set_attributes(s, COMPRESSION_GZIP);
}
static void lie_no_sequence(struct sample *s)
{
    store_be64(s->ptr + AT_PRODUCER_ID, 7);
    store_be16(s->ptr + AT_PRODUCER_EPOCH, 0);
    fix_crc(s->ptr, s->size);
}
static void lie_no_epoch(struct sample *s)
{
    store_be64(s->ptr + AT_PRODUCER_ID, 7);
    store_be32(s->ptr + AT_BASE_SEQUENCE, 0);
    fix_crc(s->ptr, s->size);
}

/* Each lie about a good batch of three records gets Kafka's error. */
static void lies_are_refused(void **state)
{
    static const struct {
        const char *what;
        void (*lie)(struct sample *s);
        enum err want;
    } cases[] = {
        {"nothing", lie_nothing, ERR_INVALID_RECORD},
        {"cut", lie_cut, ERR_INVALID_RECORD},
        {"impossible length", lie_length, ERR_CORRUPT_MESSAGE},
        {"magic 1", lie_magic_1, ERR_INVALID_RECORD},
        {"magic 3", lie_magic_3, ERR_CORRUPT_MESSAGE},
        {"trailing byte", lie_trailing, ERR_INVALID_RECORD},
        {"two batches", lie_twice, ERR_INVALID_RECORD},
        {"base offset", lie_base_offset, ERR_INVALID_RECORD},
        {"a flipped bit", lie_bit, ERR_CORRUPT_MESSAGE},
        {"a damaged count", lie_count_without_crc, ERR_CORRUPT_MESSAGE},
        {"count against delta", lie_count, ERR_INVALID_RECORD},
        {"no records", lie_count_zero, ERR_INVALID_RECORD},
        {"fewer records than said", lie_more_records, ERR_INVALID_RECORD},
        {"more records than said", lie_fewer_records, ERR_INVALID_RECORD},
        {"control", lie_control, ERR_INVALID_RECORD},
        {"LogAppendTime", lie_log_append_time, ERR_INVALID_TIMESTAMP},
        {"transactional without id", lie_transactional, ERR_INVALID_RECORD},
        {"codec 5", lie_codec_5, ERR_UNSUPPORTED_COMPRESSION_TYPE},
        {"plain text said to be gzip", lie_codec_gzip, ERR_INVALID_RECORD},
        {"producer id without sequence", lie_no_sequence, ERR_INVALID_RECORD},
        {"producer id without epoch", lie_no_epoch, ERR_INVALID_RECORD},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct sample s = plain_batch(COMPRESSION_NONE, 3);
        struct record_verdict v;
        assert_int_equal(validate(&s, &v), ERR_NONE);
        cases[i].lie(&s);
        enum err err = validate(&s, &v);
        if (err != cases[i].want)
            fail_msg("%s: %s, not %s", cases[i].what, err_name(err), err_name(cases[i].want));
        free(s.ptr);
    }
}

/* max.message.bytes counts the batch as sent, to the byte. */
static void size_is_limited(void **state)
{
    struct sample s = plain_batch(COMPRESSION_NONE, 3);
    struct record_validation rules = default_rules;
    struct record_verdict v;
    (void)state;

    rules.max_message_bytes = (int32_t)s.size;
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_NONE);
    rules.max_message_bytes--;
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_MESSAGE_TOO_LARGE);
    free(s.ptr);
}

/* zstd came with Produce version 7 (KIP-110). */
static void zstd_needs_version_7(void **state)
{
    struct sample s = plain_batch(COMPRESSION_ZSTD, 3);
    struct record_validation rules = default_rules;
    struct record_verdict v;
    (void)state;

    rules.produce_version = 6;
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v),
                     ERR_UNSUPPORTED_COMPRESSION_TYPE);
    rules.produce_version = 7;
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_NONE);
    free(s.ptr);
}

/* A compressed record over max.decompressed.message.bytes is refused; one that was sent as it is
 * has been measured by max.message.bytes. */
static void large_compressed_records_are_refused(void **state)
{
    enum { SIZE = 1 << 20 };
    uint8_t *zeros = calloc(1, SIZE);
    (void)state;

    for (int codec = 0; codec < 5; codec++) {
        struct record_batch_builder b;
        struct record_verdict v;
        struct record_validation rules = default_rules;
        rules.max_message_bytes = INT32_MAX;
        record_batch_builder_init(&b, 0);
        b.codec = codec;
        record_batch_builder_add(&b, NOW, BYTES_NULL, (struct bytes){zeros, SIZE}, NULL, 0);
        struct sample s = finish(&b);
        rules.decompressed_bytes_max = SIZE + 9; /* that record's body */
        assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_NONE);
        rules.decompressed_bytes_max--;
        assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v),
                         codec == COMPRESSION_NONE ? ERR_NONE : ERR_INVALID_RECORD);
        free(s.ptr);
    }
    free(zeros);
}

/* So is a batch of small records that expands beyond all measure. */
static void bombs_are_refused(void **state)
{
    uint8_t *zeros = calloc(1, 1 << 20);
    struct record_batch_builder b;
    struct record_verdict v;
    (void)state;

    record_batch_builder_init(&b, 0);
    b.codec = COMPRESSION_ZSTD;
    for (int i = 0; i < 70; i++)
        record_batch_builder_add(&b, NOW, BYTES_NULL, (struct bytes){zeros, 1 << 20}, NULL, 0);
    struct sample s = finish(&b);
    assert_true(s.size < 65536);
    assert_int_equal(validate(&s, &v), ERR_MESSAGE_TOO_LARGE);
    free(s.ptr);
    free(zeros);
}

/* Under CreateTime every record must be near enough to now; the refused ones are named. */
static void timestamps_are_checked(void **state)
{
    struct record_batch_builder b;
    struct record_validation rules = default_rules;
    struct record_verdict v;
    char sentence[200];
    (void)state;

    rules.timestamp_before_max_ms = 1000;
    rules.timestamp_after_max_ms = 500;
    static const int64_t timestamps[] = {NOW - 1000, NOW - 1001,          NOW + 500, NOW + 501,
                                         INT64_MIN,  RECORD_NO_TIMESTAMP, INT64_MAX};
    record_batch_builder_init(&b, 0);
    for (size_t i = 0; i < ARRAY_COUNT(timestamps); i++)
        record_batch_builder_add(&b, timestamps[i], text("k"), text("v"), NULL, 0);
    struct sample s = finish(&b);
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_INVALID_TIMESTAMP);
    static const int32_t refused[] = {1, 3, 4, 6};
    assert_int_equal(v.record_error_count, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(v.record_errors[i].batch_index, refused[i]);
        assert_int_equal(v.record_errors[i].kind, RECORD_ERROR_TIMESTAMP);
    }
    record_error_text(&v.record_errors[0], &rules, sentence, sizeof sentence);
    assert_string_equal(sentence, "Timestamp 1699999999999 is out of range: it must be within "
                                  "[1700000000000, 1700000001500]");

    /* With the widest limits there is no time that is too old but one that cannot be said. */
    rules.timestamp_before_max_ms = rules.timestamp_after_max_ms = INT64_MAX;
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_INVALID_TIMESTAMP);
    assert_int_equal(v.record_error_count, 1);
    record_error_text(&v.record_errors[0], &rules, sentence, sizeof sentence);

    /* Under LogAppendTime they do not count. */
    rules.timestamp_before_max_ms = rules.timestamp_after_max_ms = 0;
    rules.log_append_time = true;
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_NONE);
    assert_int_equal(v.max_timestamp, NOW);
    free(s.ptr);
}

/* The first and the last in time, and a record without a time, do not hide one that is late. */
static void no_timestamp_hides_a_late_one(void **state)
{
    static const int64_t timestamps[] = {RECORD_NO_TIMESTAMP, NOW - 5000, NOW};
    struct record_validation rules = default_rules;
    struct record_batch_builder b;
    struct record_verdict v;
    (void)state;

    rules.timestamp_before_max_ms = 1000;
    record_batch_builder_init(&b, 0);
    for (size_t i = 0; i < ARRAY_COUNT(timestamps); i++)
        record_batch_builder_add(&b, timestamps[i], text("k"), text("v"), NULL, 0);
    struct sample s = finish(&b);
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_INVALID_TIMESTAMP);
    assert_int_equal(v.record_error_count, 1);
    assert_int_equal(v.record_errors[0].batch_index, 1);
    free(s.ptr);
}

/* A compacted topic needs keys; an empty one is a key. A wrong time outweighs a missing key. */
static void compacted_topics_need_keys(void **state)
{
    struct record_batch_builder b;
    struct record_validation rules = default_rules;
    struct record_verdict v;
    (void)state;

    rules.compacted = true;
    record_batch_builder_init(&b, 0);
    record_batch_builder_add(&b, NOW, text(""), text("v"), NULL, 0);
    for (int i = 0; i < 100; i++)
        record_batch_builder_add(&b, NOW, BYTES_NULL, text("v"), NULL, 0);
    struct sample s = finish(&b);
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_INVALID_RECORD);
    assert_int_equal(v.record_error_count, 100);
    assert_int_equal(v.record_errors[0].batch_index, 1);
    assert_int_equal(v.record_errors[RECORD_ERRORS_MAX - 1].batch_index, RECORD_ERRORS_MAX);
    assert_int_equal(v.record_errors[0].kind, RECORD_ERROR_NO_KEY);
    rules.compacted = false;
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_NONE);
    free(s.ptr);

    rules.compacted = true;
    record_batch_builder_init(&b, 0);
    record_batch_builder_add(&b, NOW, BYTES_NULL, text("v"), NULL, 0);
    record_batch_builder_add(&b, NOW + 3600001, text("k"), text("v"), NULL, 0);
    s = finish(&b);
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_INVALID_TIMESTAMP);
    assert_int_equal(v.record_error_count, 2);
    free(s.ptr);
}

/* Whatever byte of a batch is changed, under a right CRC: no harm, and one of Kafka's answers. */
static void any_byte_may_be_wrong(void **state)
{
    struct decompressor scratch;
    struct record_validation rules = default_rules;
    (void)state;

    decompressor_init(&scratch);
    rules.scratch = &scratch;
    for (int codec = 0; codec < 5; codec++) {
        size_t size;
        uint8_t *p = from_hex(java_batches[codec], &size);
        for (size_t at = 0; at < size; at++) {
            for (int bit = 0; bit < 8; bit++) {
                struct record_verdict v;
                uint8_t was = p[at];
                p[at] ^= (uint8_t)(1 << bit);
                fix_crc(p, size);
                enum err err = record_batch_validate(p, size, &rules, &v);
                assert_true(err == ERR_NONE || err == ERR_INVALID_RECORD ||
                            err == ERR_CORRUPT_MESSAGE || err == ERR_INVALID_TIMESTAMP ||
                            err == ERR_UNSUPPORTED_COMPRESSION_TYPE ||
                            err == ERR_MESSAGE_TOO_LARGE);
                p[at] = was;
            }
        }
        free(p);
    }
    decompressor_deinit(&scratch);
}

/* ---- rewriting ---- */

static void assert_same_records(const struct record_batch *a, const struct record_batch *b)
{
    struct record_iterator it_a, it_b;
    struct record ra, rb;

    assert_int_equal(record_iterator_init(&it_a, a, RECORDS_WHOLE, NULL, LIMIT), ERR_NONE);
    assert_int_equal(record_iterator_init(&it_b, b, RECORDS_WHOLE, NULL, LIMIT), ERR_NONE);
    while (record_iterator_next(&it_a, &ra) == ERR_NONE) {
        assert_int_equal(record_iterator_next(&it_b, &rb), ERR_NONE);
        assert_int_equal(ra.key.len, rb.key.len);
        assert_int_equal(ra.value.len, rb.value.len);
        assert_memory_equal(ra.value.ptr, rb.value.ptr, (size_t)ra.value.len);
        assert_int_equal(ra.size_bytes, rb.size_bytes);
        if (!record_batch_is_log_append_time(b))
            assert_int_equal(ra.timestamp, rb.timestamp);
        else
            assert_int_equal(rb.timestamp, NOW);
    }
    assert_int_equal(record_iterator_next(&it_b, &rb), ERR_NOT_FOUND);
    record_iterator_deinit(&it_a);
    record_iterator_deinit(&it_b);
}

/* From each codec to each, with and without LogAppendTime: the records are the same, the header
 * says what the rules say, and the CRC is right. */
static void rewriting_keeps_the_records(void **state)
{
    (void)state;
    for (int from = 0; from < 5; from++) {
        struct sample s = plain_batch(from, 300);
        struct record_batch before;
        assert_int_equal(record_batch_parse(s.ptr, s.size, &before), ERR_NONE);
        for (int to = RECORD_COMPRESSION_PRODUCER; to < 5; to++) {
            for (int append_time = 0; append_time < 2; append_time++) {
                struct record_validation rules = default_rules;
                struct record_verdict v;
                struct record_batch after;
                struct iobuf *out;
                rules.compression_type = (int8_t)to;
                rules.log_append_time = append_time == 1;

                assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_NONE);
                bool same_codec = to == from || to == RECORD_COMPRESSION_PRODUCER;
                assert_int_equal(v.rewrite, !same_codec        ? RECORD_REWRITE_ALL
                                            : append_time == 1 ? RECORD_REWRITE_HEADER
                                                               : RECORD_REWRITE_NONE);
                assert_int_equal(record_batch_rewrite(&v, &rules, &out), ERR_NONE);
                assert_int_equal(record_batch_parse(out->ptr, out->len, &after), ERR_NONE);
                assert_ptr_equal(v.batch.ptr, out->ptr);
                assert_int_equal(v.batch.crc, after.crc);
                assert_int_equal(v.batch.attributes, after.attributes);
                assert_int_equal(after.size_bytes, out->len);
                assert_true(record_batch_crc_ok(&after));
                assert_int_equal(record_batch_codec(&after), same_codec ? from : to);
                assert_int_equal(record_batch_is_log_append_time(&after), append_time);
                assert_int_equal(after.max_timestamp, NOW);
                assert_same_records(&before, &after);
                iobuf_unref(out);
            }
        }
        free(s.ptr);
    }
}

/* A max timestamp that no record has is put right, in place or in a copy alike. */
static void wrong_max_timestamp_is_put_right(void **state)
{
    struct sample s = plain_batch(COMPRESSION_GZIP, 10);
    struct record_verdict v;
    struct iobuf *copy;
    (void)state;

    store_be64(s.ptr + AT_MAX_TIMESTAMP, (uint64_t)NOW + 77);
    fix_crc(s.ptr, s.size);
    assert_int_equal(validate(&s, &v), ERR_NONE);
    assert_int_equal(v.rewrite, RECORD_REWRITE_HEADER);
    assert_int_equal(v.max_timestamp, NOW);
    assert_int_equal(v.max_timestamp_offset_delta, 9);

    struct record_batch b = v.batch;
    assert_int_equal(record_batch_rewrite(&v, &default_rules, &copy), ERR_NONE);
    record_batch_set_timestamp(&b, s.ptr, false, v.max_timestamp);
    assert_int_equal(b.max_timestamp, NOW);
    assert_true(record_batch_crc_ok(&b));
    assert_int_equal(copy->len, s.size);
    assert_memory_equal(copy->ptr, s.ptr, s.size);
    assert_int_equal(validate(&s, &v), ERR_NONE);
    assert_int_equal(v.rewrite, RECORD_REWRITE_NONE);
    iobuf_unref(copy);
    free(s.ptr);
}

/* What grows over max.message.bytes by another codec is refused (the size that is stored counts).
 */
static void rewriting_keeps_the_size_limit(void **state)
{
    struct sample s = plain_batch(COMPRESSION_ZSTD, 1000);
    struct record_validation rules = default_rules;
    struct record_verdict v;
    struct iobuf *out;
    (void)state;

    rules.max_message_bytes = (int32_t)s.size;
    rules.compression_type = COMPRESSION_NONE;
    assert_int_equal(record_batch_validate(s.ptr, s.size, &rules, &v), ERR_NONE);
    assert_int_equal(record_batch_rewrite(&v, &rules, &out), ERR_MESSAGE_TOO_LARGE);
    assert_non_null(v.reason);
    free(s.ptr);
}

/* ---- search by time ---- */

/* The first record at or after a time, not the first batch; and never below an offset [H33]. */
static void times_are_found_in_every_codec(void **state)
{
    (void)state;
    for (int codec = 0; codec < 5; codec++) {
        struct record_batch_builder builder;
        struct record_batch b;
        struct record r;
        static const int64_t timestamps[] = {100, 105, 90, 105, 200};

        record_batch_builder_init(&builder, 50);
        builder.codec = codec;
        for (size_t i = 0; i < ARRAY_COUNT(timestamps); i++)
            record_batch_builder_add(&builder, timestamps[i], text("k"), text("v"), NULL, 0);
        struct sample s = finish(&builder);
        assert_int_equal(record_batch_parse(s.ptr, s.size, &b), ERR_NONE);

        assert_int_equal(record_batch_find_timestamp(&b, 101, 0, NULL, LIMIT, &r), ERR_NONE);
        assert_int_equal(r.offset, 51);
        assert_int_equal(r.timestamp, 105);
        assert_int_equal(record_batch_find_timestamp(&b, 101, 52, NULL, LIMIT, &r), ERR_NONE);
        assert_int_equal(r.offset, 53);
        assert_int_equal(record_batch_find_timestamp(&b, 0, 0, NULL, LIMIT, &r), ERR_NONE);
        assert_int_equal(r.offset, 50);
        assert_int_equal(record_batch_find_timestamp(&b, 201, 0, NULL, LIMIT, &r), ERR_NOT_FOUND);
        assert_int_equal(record_batch_find_max_timestamp(&b, NULL, LIMIT, &r), ERR_NONE);
        assert_int_equal(r.offset, 54);

        /* Under LogAppendTime all records have the time of the batch. */
        record_batch_set_timestamp(&b, s.ptr, true, 150);
        assert_int_equal(record_batch_find_timestamp(&b, 150, 0, NULL, LIMIT, &r), ERR_NONE);
        assert_int_equal(r.offset, 50);
        assert_int_equal(record_batch_find_timestamp(&b, 151, 0, NULL, LIMIT, &r), ERR_NOT_FOUND);
        assert_int_equal(record_batch_find_max_timestamp(&b, NULL, LIMIT, &r), ERR_NONE);
        assert_int_equal(r.offset, 50);
        assert_int_equal(r.timestamp, 150);
        free(s.ptr);
    }
}

/* Of equal timestamps the first record counts. */
static void first_of_equal_timestamps_is_the_max(void **state)
{
    size_t size;
    uint8_t *p = from_hex(java_lz4, &size);
    struct record_batch b;
    struct record r;
    (void)state;

    assert_int_equal(record_batch_parse(p, size, &b), ERR_NONE);
    assert_int_equal(record_batch_find_max_timestamp(&b, NULL, LIMIT, &r), ERR_NONE);
    assert_int_equal(r.offset, 1);
    free(p);
}

/* Searching is as bounded as reading. */
static void search_is_limited(void **state)
{
    struct sample s = plain_batch(COMPRESSION_ZSTD, 5000);
    struct record_batch b;
    struct record r;
    (void)state;

    assert_int_equal(record_batch_parse(s.ptr, s.size, &b), ERR_NONE);
    assert_int_equal(record_batch_find_timestamp(&b, INT64_MAX, 0, NULL, 1000, &r), ERR_TOO_LARGE);
    assert_int_equal(record_batch_find_max_timestamp(&b, NULL, 1000, &r), ERR_TOO_LARGE);
    free(s.ptr);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(java_batches_are_read_and_accepted),
        cmocka_unit_test(builder_and_iterator_agree),
        cmocka_unit_test(beginnings_ask_for_more),
        cmocka_unit_test(impossible_headers_are_malformed),
        cmocka_unit_test(crc_covers_what_the_client_said),
        cmocka_unit_test(batches_are_walked_in_order),
        cmocka_unit_test(sequences_begin_again_at_zero),
        cmocka_unit_test(malformed_records_are_refused),
        cmocka_unit_test(hidden_records_are_refused),
        cmocka_unit_test(gaps_are_read_but_not_produced),
        cmocka_unit_test(lies_are_refused),
        cmocka_unit_test(size_is_limited),
        cmocka_unit_test(zstd_needs_version_7),
        cmocka_unit_test(large_compressed_records_are_refused),
        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(timestamps_are_checked),
        cmocka_unit_test(no_timestamp_hides_a_late_one),
        cmocka_unit_test(compacted_topics_need_keys),
        cmocka_unit_test(any_byte_may_be_wrong),
        cmocka_unit_test(rewriting_keeps_the_records),
        cmocka_unit_test(wrong_max_timestamp_is_put_right),
        cmocka_unit_test(rewriting_keeps_the_size_limit),
        cmocka_unit_test(times_are_found_in_every_codec),
        cmocka_unit_test(first_of_equal_timestamps_is_the_max),
        cmocka_unit_test(search_is_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
