/* Any bytes as record batches: parsed, walked, searched and validated without harm; what is
 * accepted can be rewritten to every codec, and is then accepted again with the same times. */
#include <stdlib.h>

#include "protocol/base/check.h"
#include "protocol/crc32c.h"
#include "protocol/record_batch.h"

#define LIMIT ((size_t)1 << 20)
#define NOW   INT64_C(1700000001000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Touches every byte that an iterator hands out. */
static unsigned touch(struct bytes b)
{
    unsigned sum = 0;
    for (int32_t i = 0; i < b.len; i++)
        sum += b.ptr[i];
    return sum;
}

static int32_t walk(const struct record_batch *b, enum record_iterator_mode mode,
                    struct decompressor *scratch, enum err *err)
{
    struct record_iterator it;
    struct record r;
    struct str name;
    struct bytes value;
    int32_t count = 0;

    *err = record_iterator_init(&it, b, mode, scratch, LIMIT);
    if (*err != ERR_NONE)
        return 0;
    while ((*err = record_iterator_next(&it, &r)) == ERR_NONE) {
        count++;
        CHECK(r.offset >= b->base_offset);
        CHECK(r.offset <= record_batch_last_offset(b));
        if (mode == RECORDS_SKIP)
            continue;
        unsigned sum = touch(r.key) + touch(r.value);
        int32_t headers = 0;
        while (headers < r.header_count && record_header_next(&r.headers, &name, &value)) {
            sum += touch((struct bytes){(const uint8_t *)name.ptr, name.len}) + touch(value);
            headers++;
        }
        CHECK(headers == r.header_count);
        __asm__ volatile("" : : "r"(sum));
    }
    record_iterator_deinit(&it);
    return count;
}

static void check_batch(const struct record_batch *b, struct decompressor *scratch)
{
    enum err whole, skip;
    struct record r;

    int32_t count = walk(b, RECORDS_WHOLE, NULL, &whole);
    CHECK(walk(b, RECORDS_SKIP, scratch, &skip) == count);
    /* The errors may differ (a whole record is decompressed before its structure is looked at). */
    CHECK((whole == ERR_NOT_FOUND) == (skip == ERR_NOT_FOUND));
    struct record_survey seen;
    bool surveyed = record_batch_survey(b, &seen);
    CHECK(!surveyed || whole == ERR_NOT_FOUND);
    (void)!record_batch_find_timestamp(b, NOW, 0, scratch, LIMIT, &r);
    enum err err = record_batch_find_max_timestamp(b, scratch, LIMIT, &r);
    CHECK((err == ERR_NONE) == (whole == ERR_NOT_FOUND && count > 0));
    if (surveyed && count > 0) {
        CHECK(r.timestamp == seen.timestamp_max);
        CHECK(r.offset_delta == seen.timestamp_max_delta);
    }
}

static void check_rewrite(const struct record_verdict *accepted,
                          const struct record_validation *rules)
{
    const struct record_batch *b = &accepted->batch;
    struct iobuf *plain;

    if (decompress_all(record_batch_codec(b), b->ptr + RECORD_BATCH_HEADER_SIZE,
                       (size_t)b->size_bytes - RECORD_BATCH_HEADER_SIZE, LIMIT, &plain) != ERR_NONE)
        return; /* fine, but too slow to go through every codec */
    iobuf_unref(plain);
    for (int codec = RECORD_COMPRESSION_PRODUCER; codec <= COMPRESSION_ZSTD; codec++) {
        struct record_verdict v = *accepted, again;
        struct record_validation wanted = *rules;
        struct iobuf *out;

        wanted.compression_type = (int8_t)codec;
        if (codec != RECORD_COMPRESSION_PRODUCER && codec != record_batch_codec(&v.batch))
            v.rewrite = RECORD_REWRITE_ALL;
        CHECK(record_batch_rewrite(&v, &wanted, &out) == ERR_NONE);
        CHECK(record_batch_validate(out->ptr, out->len, &wanted, &again) == ERR_NONE);
        CHECK(again.rewrite == RECORD_REWRITE_NONE);
        CHECK(again.max_timestamp == accepted->max_timestamp);
        CHECK(again.max_timestamp_offset_delta == accepted->max_timestamp_offset_delta);
        iobuf_unref(out);
    }
}

/* First byte: bit 0 corrects the CRC of the first batch, so that mutations get beyond it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct decompressor scratch;
    struct record_batch b;
    struct record_verdict v;

    if (size < 1)
        return 0;
    size_t n = size - 1;
    uint8_t *p = malloc(n > 0 ? n : 1);
    if (n > 0)
        memcpy(p, data + 1, n);
    if ((data[0] & 1) != 0 && record_batch_frame(p, n, &b) == ERR_NONE)
        store_be32(p + 17, crc32c(0, p + RECORD_BATCH_CRC_START,
                                  (size_t)b.size_bytes - RECORD_BATCH_CRC_START));

    decompressor_init(&scratch);
    struct record_batch_iterator it = {p, n};
    while (record_batch_next(&it, &b) == ERR_NONE)
        check_batch(&b, &scratch);

    const struct record_validation rules = {
        .produce_version = 12,
        .max_message_bytes = 16 << 20,
        .now_unix_ms = NOW,
        .timestamp_before_max_ms = INT64_MAX,
        .timestamp_after_max_ms = INT64_MAX,
        .compacted = (data[0] & 2) != 0,
        .compression_type = RECORD_COMPRESSION_PRODUCER,
        .compression_level = 1,
        .decompressed_bytes_max = LIMIT,
        .scratch = &scratch,
    };
    if (record_batch_validate(p, n, &rules, &v) == ERR_NONE)
        check_rewrite(&v, &rules);
    else
        CHECK(v.reason != NULL);
    decompressor_deinit(&scratch);
    free(p);
    return 0;
}
