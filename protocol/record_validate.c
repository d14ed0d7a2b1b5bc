/* What a leader checks of a batch that a client sent, and what it rewrites (record_batch.h). The
 * order of the checks is Kafka's: a batch with several faults gets the answer it gets there. */
#include "protocol/record_batch.h"

#include <inttypes.h>
#include <stdio.h>

#include "protocol/base/check.h"
#include "protocol/base/mutant.h"

#define PRODUCE_VERSION_ZSTD 7 /* KIP-110 */

static enum err refuse(struct record_verdict *v, enum err err, const char *reason)
{
    v->reason = reason;
    return err;
}

/* ---- the batch as a whole ---- */

static enum err check_frame(const uint8_t *p, size_t n, struct record_verdict *v)
{
    switch (record_batch_frame(p, n, &v->batch)) {
    case ERR_NONE:
        return ERR_NONE;
    case ERR_AGAIN:
        return refuse(v, ERR_INVALID_RECORD, "there is no whole record batch for the partition");
    case ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
        return refuse(v, ERR_INVALID_RECORD, "only record batches of magic 2 can be produced");
    default:
        return refuse(v, ERR_CORRUPT_MESSAGE, "size or magic of the record batch is impossible");
    }
}

static enum err check_integrity(size_t n, const struct record_validation *rules,
                                struct record_verdict *v)
{
    const struct record_batch *b = &v->batch;

    if (record_batch_codec(b) == COMPRESSION_ZSTD && rules->produce_version < PRODUCE_VERSION_ZSTD)
        return refuse(v, ERR_UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7 or later");
    if ((size_t)b->size_bytes != n)
        return refuse(v, ERR_INVALID_RECORD, "there is more than one record batch for a partition");
    if (b->base_offset != 0)
        return refuse(v, ERR_INVALID_RECORD, "the base offset of a produced batch must be 0");
    if (b->size_bytes > rules->max_message_bytes)
        return refuse(v, ERR_MESSAGE_TOO_LARGE, "the record batch is over max.message.bytes");
    if (!record_batch_crc_ok(b) && !MUTANT(119))
        return refuse(v, ERR_CORRUPT_MESSAGE, "the record batch has a wrong CRC");
    if (record_batch_codec(b) > COMPRESSION_ZSTD)
        return refuse(v, ERR_UNSUPPORTED_COMPRESSION_TYPE, "the codec is unknown");
    return ERR_NONE;
}

/* The CRC is right, so from here on a contradiction is what the client meant to send. */
static enum err check_meaning(struct record_verdict *v)
{
    const struct record_batch *b = &v->batch;

    if (b->record_count <= 0)
        return refuse(v, ERR_INVALID_RECORD, "the record batch has no records");
    if (b->last_offset_delta != b->record_count - 1)
        return refuse(v, ERR_INVALID_RECORD, "last offset delta and record count contradict");
    if (record_batch_is_control(b))
        return refuse(v, ERR_INVALID_RECORD, "clients must not write control records");
    if (record_batch_has_producer_id(b) && b->base_sequence < 0)
        return refuse(v, ERR_INVALID_RECORD, "a producer id needs a sequence");
    if (record_batch_has_producer_id(b) && b->producer_epoch < 0)
        return refuse(v, ERR_INVALID_RECORD, "a producer id needs an epoch");
    if (record_batch_is_transactional(b) && !record_batch_has_producer_id(b))
        return refuse(v, ERR_INVALID_RECORD, "a transaction needs a producer id");
    /* Kafka lets some of these through and clears the bit, which changes the times it has just
     * checked; no client sends one. */
    if (record_batch_is_log_append_time(b))
        return refuse(v, ERR_INVALID_TIMESTAMP, "a producer must not set LogAppendTime");
    return ERR_NONE;
}

/* ---- its records ---- */

static void note_record_error(struct record_verdict *v, int32_t index, enum record_error_kind kind,
                              int64_t timestamp)
{
    if (v->record_error_count < RECORD_ERRORS_MAX)
        v->record_errors[v->record_error_count] =
            (struct record_error){.batch_index = index, .kind = kind, .timestamp = timestamp};
    v->record_error_count++;
}

/* A record without a timestamp is in time; so is every one when the append time counts. */
static bool timestamp_ok(const struct record_validation *rules, int64_t timestamp)
{
    int64_t age_ms;

    if (rules->log_append_time || timestamp == RECORD_NO_TIMESTAMP)
        return true;
    if (__builtin_sub_overflow(rules->now_unix_ms, timestamp, &age_ms))
        return false; /* further off than any limit can say */
    return age_ms <= rules->timestamp_before_max_ms && age_ms >= -rules->timestamp_after_max_ms;
}

static void look_at_record(const struct record *r, const struct record_validation *rules,
                           int32_t index, bool *late, struct record_verdict *v)
{
    if (rules->compacted && r->key.len < 0) {
        note_record_error(v, index, RECORD_ERROR_NO_KEY, r->timestamp);
    } else if (!timestamp_ok(rules, r->timestamp)) {
        note_record_error(v, index, RECORD_ERROR_TIMESTAMP, r->timestamp);
        *late = true;
    }
    if (r->timestamp > v->max_timestamp) {
        v->max_timestamp = r->timestamp;
        v->max_timestamp_offset_delta = r->offset_delta;
    }
}

static enum err refuse_structure(struct record_verdict *v, enum err err)
{
    if (err == ERR_TOO_LARGE)
        return refuse(v, ERR_MESSAGE_TOO_LARGE, "the record batch decompresses to too much");
    if (err == ERR_CORRUPT_MESSAGE)
        return refuse(v, ERR_INVALID_RECORD, "the records cannot be decompressed");
    return refuse(v, err,
                  "the records are malformed, out of order, not as many as declared, or one is "
                  "over max.decompressed.message.bytes");
}

static size_t decompressed_max(const struct record_batch *b)
{
    return MAX((size_t)b->size_bytes * RECORD_BATCH_EXPANSION_MAX, RECORD_BATCH_DECOMPRESSED_MIN);
}

/* The common case: all records in one walk, none of which needs to be named in the answer. False:
 * nothing is known yet. */
static bool records_are_plainly_right(const struct record_validation *rules,
                                      struct record_verdict *v)
{
    struct record_survey seen;

    if (!record_batch_survey(&v->batch, &seen) || (rules->compacted && seen.has_null_key))
        return false;
    /* Between two that are in time all are, but for RECORD_NO_TIMESTAMP, which always is. */
    if (seen.timestamp_min < 0 || !timestamp_ok(rules, seen.timestamp_min) ||
        !timestamp_ok(rules, seen.timestamp_max))
        return false;
    v->max_timestamp = seen.timestamp_max;
    v->max_timestamp_offset_delta = seen.timestamp_max_delta;
    return true;
}

static enum err check_records(const struct record_validation *rules, struct record_verdict *v)
{
    if (records_are_plainly_right(rules, v))
        return ERR_NONE;

    struct record_iterator it;
    struct record r;
    int32_t index = 0;
    size_t limit = decompressed_max(&v->batch);
    bool late = false, hasty = rules->patience_bytes > 0 && rules->patience_bytes < limit;
    enum err err = record_iterator_init(&it, &v->batch, RECORDS_SKIP, rules->scratch,
                                        hasty ? rules->patience_bytes : limit);

    if (err != ERR_NONE)
        return refuse(v, err, "the codec is unknown");
    it.record_bytes_max = rules->decompressed_bytes_max;
    /* Deltas grow and do not pass the last one, which is count - 1: so they are 0, 1, 2, ... */
    while ((err = record_iterator_next(&it, &r)) == ERR_NONE)
        look_at_record(&r, rules, index++, &late, v);
    record_iterator_deinit(&it);

    if (err == ERR_TOO_LARGE && hasty)
        return ERR_AGAIN;
    if (err != ERR_NOT_FOUND)
        return refuse_structure(v, err);
    if (late)
        return refuse(v, ERR_INVALID_TIMESTAMP,
                      "one or more records have been rejected due to invalid timestamp");
    if (v->record_error_count > 0)
        return refuse(v, ERR_INVALID_RECORD,
                      "one or more records have been rejected: a compacted topic needs keys");
    return ERR_NONE;
}

static enum record_rewrite needed_rewrite(const struct record_validation *rules,
                                          const struct record_verdict *v)
{
    const struct record_batch *b = &v->batch;

    if (rules->compression_type != RECORD_COMPRESSION_PRODUCER &&
        rules->compression_type != record_batch_codec(b))
        return RECORD_REWRITE_ALL;
    /* A max timestamp that no record has would mislead every search by time. */
    if (rules->log_append_time || b->max_timestamp != v->max_timestamp)
        return RECORD_REWRITE_HEADER;
    return RECORD_REWRITE_NONE;
}

enum err record_batch_validate(const uint8_t *p, size_t n, const struct record_validation *rules,
                               struct record_verdict *out)
{
    enum err err;

    out->batch = (struct record_batch){.ptr = p};
    out->rewrite = RECORD_REWRITE_NONE;
    out->max_timestamp = RECORD_NO_TIMESTAMP;
    out->max_timestamp_offset_delta = 0;
    out->reason = NULL;
    out->record_error_count = 0;

    if ((err = check_frame(p, n, out)) != ERR_NONE)
        return err;
    if ((err = check_integrity(n, rules, out)) != ERR_NONE)
        return err;
    if ((err = check_meaning(out)) != ERR_NONE)
        return err;
    if ((err = check_records(rules, out)) != ERR_NONE)
        return err;

    if (rules->log_append_time) {
        out->max_timestamp = rules->now_unix_ms;
        out->max_timestamp_offset_delta = 0;
    }
    out->rewrite = needed_rewrite(rules, out);
    return ERR_NONE;
}

static int64_t subtract_clamped(int64_t a, int64_t b)
{
    int64_t result;

    if (__builtin_sub_overflow(a, b, &result))
        return b > 0 ? INT64_MIN : INT64_MAX;
    return result;
}

void record_error_text(const struct record_error *e, const struct record_validation *rules,
                       char *out, size_t size)
{
    switch (e->kind) {
    case RECORD_ERROR_NO_KEY:
        snprintf(out, size, "A compacted topic does not take a record without a key");
        return;
    case RECORD_ERROR_TIMESTAMP:
        snprintf(out, size,
                 "Timestamp %" PRId64 " is out of range: it must be within [%" PRId64 ", %" PRId64
                 "]",
                 e->timestamp, subtract_clamped(rules->now_unix_ms, rules->timestamp_before_max_ms),
                 subtract_clamped(rules->now_unix_ms, -rules->timestamp_after_max_ms));
        return;
    }
}

/* ---- rewriting ---- */

/* The records in the codec that the rules ask for, as a buffer. */
static enum err recompress(const struct record_batch *b, const struct record_validation *rules,
                           struct iobuf **out)
{
    const uint8_t *records = b->ptr + RECORD_BATCH_HEADER_SIZE;
    size_t records_size = (size_t)b->size_bytes - RECORD_BATCH_HEADER_SIZE;
    struct iobuf *plain;
    enum err err =
        decompress_all(record_batch_codec(b), records, records_size, decompressed_max(b), &plain);

    if (err != ERR_NONE)
        return err;
    if (rules->compression_type == COMPRESSION_NONE) {
        *out = plain;
        return ERR_NONE;
    }
    err = compress_all(rules->compression_type, rules->compression_level, plain->ptr, plain->len,
                       out);
    iobuf_unref(plain);
    return err;
}

/* The header of `b` in front of other records, whose codec has taken the old one's place. */
static struct iobuf *join(const struct record_batch *b, int codec, const struct iobuf *records)
{
    struct iobuf *joined = iobuf_new(RECORD_BATCH_HEADER_SIZE + records->len);
    uint8_t *p = iobuf_bytes(joined);

    memcpy(p, b->ptr, RECORD_BATCH_HEADER_SIZE);
    store_be32(p + RECORD_BATCH_LENGTH_AT,
               to_uint32_checked((int64_t)joined->len - RECORD_BATCH_PREFIX_SIZE));
    store_be16(p + RECORD_BATCH_CRC_START,
               (uint16_t)((b->attributes & ~RECORD_BATCH_CODEC_MASK) | codec));
    if (records->len > 0)
        memcpy(p + RECORD_BATCH_HEADER_SIZE, records->ptr, records->len);
    return joined;
}

enum err record_batch_rewrite(struct record_verdict *verdict, const struct record_validation *rules,
                              struct iobuf **out)
{
    struct record_batch *b = &verdict->batch;
    struct iobuf *whole;

    if (verdict->rewrite == RECORD_REWRITE_ALL) {
        struct iobuf *records;
        enum err err = recompress(b, rules, &records);
        if (err != ERR_NONE)
            return refuse_structure(verdict, err);
        if (records->len + RECORD_BATCH_HEADER_SIZE > (size_t)rules->max_message_bytes) {
            iobuf_unref(records);
            return refuse(verdict, ERR_MESSAGE_TOO_LARGE,
                          "the recompressed record batch is over max.message.bytes");
        }
        whole = join(b, rules->compression_type, records);
        iobuf_unref(records);
    } else {
        whole = iobuf_new((size_t)b->size_bytes);
        memcpy(iobuf_bytes(whole), b->ptr, (size_t)b->size_bytes);
    }
    b->ptr = whole->ptr;
    CHECK(record_batch_frame(whole->ptr, whole->len, b) == ERR_NONE);
    if (verdict->rewrite != RECORD_REWRITE_NONE)
        record_batch_set_timestamp(b, iobuf_bytes(whole), rules->log_append_time,
                                   verdict->max_timestamp);
    *out = whole;
    return ERR_NONE;
}
