#include "protocol/record_batch.h"

#include <stdlib.h>

#include "protocol/base/check.h"
#include "protocol/crc32c.h"

enum field {
    AT_BASE_OFFSET = 0,
    AT_LENGTH = 8,
    AT_LEADER_EPOCH = 12,
    AT_MAGIC = 16,
    AT_CRC = 17,
    AT_ATTRIBUTES = 21,
    AT_LAST_OFFSET_DELTA = 23,
    AT_BASE_TIMESTAMP = 27,
    AT_MAX_TIMESTAMP = 35,
    AT_PRODUCER_ID = 43,
    AT_PRODUCER_EPOCH = 51,
    AT_BASE_SEQUENCE = 53,
    AT_RECORD_COUNT = 57,
};

/* A message of magic 0 counts at least this much after its length field. */
#define LEGACY_LENGTH_MIN 14

/* Length 1, attributes 1, both deltas 1, key and value length 1, header count 1. */
#define RECORD_BODY_MIN 6
#define RECORD_SIZE_MIN (RECORD_BODY_MIN + 1)
/* A header is at least a key length and a value length. */
#define RECORD_HEADER_MIN 2

/* ---- one batch ---- */

/* Decodes what is there; `p` holds a whole header. */
static void decode_header(const uint8_t *p, struct record_batch *out)
{
    *out = (struct record_batch){
        .ptr = p,
        .size_bytes = (int32_t)load_be32(p + AT_LENGTH) + RECORD_BATCH_PREFIX_SIZE,
        .base_offset = (int64_t)load_be64(p + AT_BASE_OFFSET),
        .partition_leader_epoch = (int32_t)load_be32(p + AT_LEADER_EPOCH),
        .magic = (int8_t)p[AT_MAGIC],
        .crc = load_be32(p + AT_CRC),
        .attributes = (int16_t)load_be16(p + AT_ATTRIBUTES),
        .last_offset_delta = (int32_t)load_be32(p + AT_LAST_OFFSET_DELTA),
        .base_timestamp = (int64_t)load_be64(p + AT_BASE_TIMESTAMP),
        .max_timestamp = (int64_t)load_be64(p + AT_MAX_TIMESTAMP),
        .producer_id = (int64_t)load_be64(p + AT_PRODUCER_ID),
        .producer_epoch = (int16_t)load_be16(p + AT_PRODUCER_EPOCH),
        .base_sequence = (int32_t)load_be32(p + AT_BASE_SEQUENCE),
        .record_count = (int32_t)load_be32(p + AT_RECORD_COUNT),
    };
}

enum err record_batch_frame(const uint8_t *p, size_t n, struct record_batch *out)
{
    out->size_bytes = 0;
    if (n < RECORD_BATCH_PREFIX_SIZE)
        return ERR_AGAIN;

    int32_t length = (int32_t)load_be32(p + AT_LENGTH);
    if (length < LEGACY_LENGTH_MIN || length > INT32_MAX - RECORD_BATCH_PREFIX_SIZE)
        return ERR_MALFORMED;
    out->size_bytes = length + RECORD_BATCH_PREFIX_SIZE;
    if (n <= AT_MAGIC)
        return ERR_AGAIN;
    int8_t magic = (int8_t)p[AT_MAGIC];
    if (magic < 0 || magic > RECORD_BATCH_MAGIC)
        return ERR_MALFORMED;
    if (magic == RECORD_BATCH_MAGIC && out->size_bytes < RECORD_BATCH_HEADER_SIZE)
        return ERR_MALFORMED;
    if (n < (size_t)out->size_bytes)
        return ERR_AGAIN;
    if (magic != RECORD_BATCH_MAGIC)
        return ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT;
    decode_header(p, out);
    return ERR_NONE;
}

enum err record_batch_parse(const uint8_t *p, size_t n, struct record_batch *out)
{
    int64_t last_offset;
    enum err err = record_batch_frame(p, n, out);

    if (err != ERR_NONE)
        return err;
    if (out->base_offset < 0 || out->last_offset_delta < 0 ||
        __builtin_add_overflow(out->base_offset, out->last_offset_delta, &last_offset))
        return ERR_MALFORMED;
    /* Compaction removes records and keeps their offsets, so there may be fewer; never more. */
    if (out->record_count < 0 || out->record_count > (int64_t)out->last_offset_delta + 1)
        return ERR_MALFORMED;
    int32_t records_bytes = out->size_bytes - RECORD_BATCH_HEADER_SIZE;
    if (record_batch_codec(out) == COMPRESSION_NONE &&
        out->record_count > records_bytes / RECORD_SIZE_MIN)
        return ERR_MALFORMED;
    return ERR_NONE;
}

static uint32_t crc_of(const uint8_t *p, int32_t size_bytes)
{
    return crc32c(0, p + RECORD_BATCH_CRC_START, (size_t)size_bytes - RECORD_BATCH_CRC_START);
}

bool record_batch_crc_ok(const struct record_batch *b)
{
    return crc_of(b->ptr, b->size_bytes) == b->crc;
}

void record_batch_patch(uint8_t *p, int64_t base_offset, int32_t leader_epoch)
{
    store_be64(p + AT_BASE_OFFSET, (uint64_t)base_offset);
    store_be32(p + AT_LEADER_EPOCH, (uint32_t)leader_epoch);
}

void record_batch_set_timestamp(struct record_batch *b, uint8_t *p, bool log_append_time,
                                int64_t max_timestamp)
{
    int attributes = b->attributes & ~RECORD_BATCH_LOG_APPEND_TIME;

    if (log_append_time)
        attributes |= RECORD_BATCH_LOG_APPEND_TIME;
    store_be16(p + AT_ATTRIBUTES, (uint16_t)attributes);
    store_be64(p + AT_MAX_TIMESTAMP, (uint64_t)max_timestamp);
    store_be32(p + AT_CRC, crc_of(p, b->size_bytes));
    decode_header(p, b);
}

enum err record_batch_next(struct record_batch_iterator *it, struct record_batch *out)
{
    if (it->left == 0)
        return ERR_NOT_FOUND;
    enum err err = record_batch_parse(it->ptr, it->left, out);
    if (err != ERR_NONE)
        return err;
    it->ptr += out->size_bytes;
    it->left -= (size_t)out->size_bytes;
    return ERR_NONE;
}

/* ---- records: the window ----
 *
 * ptr[at..end) are the record bytes at hand. For an uncompressed batch that is all of them. For a
 * compressed one it is a piece of the output, refilled as it is used up; it grows only to hold a
 * record that is asked for whole, and then only as its bytes arrive. */

#define WINDOW_BYTES_FIRST ((size_t)16 << 10)

enum err record_iterator_init(struct record_iterator *it, const struct record_batch *b,
                              enum record_iterator_mode mode, struct decompressor *scratch,
                              size_t limit)
{
    const uint8_t *records = b->ptr + RECORD_BATCH_HEADER_SIZE;
    size_t records_size = (size_t)b->size_bytes - RECORD_BATCH_HEADER_SIZE;
    int codec = record_batch_codec(b);

    CHECK(b->size_bytes >= RECORD_BATCH_HEADER_SIZE);
    it->batch = *b;
    it->mode = mode;
    it->index = 0;
    it->last_delta = -1;
    it->record_bytes_max = SIZE_MAX;
    it->failed = ERR_NONE;
    it->at = it->end = 0;
    it->base = 0;
    it->window = NULL;
    it->window_size = 0;
    it->decompressor = NULL;
    decompressor_init(&it->own);
    if (codec == COMPRESSION_NONE) {
        it->ptr = records;
        it->end = records_size;
        return ERR_NONE;
    }
    struct decompressor *d = scratch != NULL ? scratch : &it->own;
    enum err err = decompressor_start(d, codec, records, records_size, limit);
    if (err != ERR_NONE)
        return err;
    it->decompressor = d;
    it->window = xmalloc(WINDOW_BYTES_FIRST);
    it->window_size = WINDOW_BYTES_FIRST;
    it->ptr = it->window;
    return ERR_NONE;
}

void record_iterator_deinit(struct record_iterator *it)
{
    free(it->window);
    decompressor_deinit(&it->own);
    it->window = NULL;
    it->failed = ERR_CLOSED;
}

/* More bytes behind those at hand, which move to the front if need be. ERR_NOT_FOUND: there are
 * no more. Pointers into the window are void afterwards. */
static enum err refill(struct record_iterator *it)
{
    size_t got;

    if (it->decompressor == NULL)
        return ERR_NOT_FOUND;
    if (it->at > 0) {
        memmove(it->window, it->window + it->at, it->end - it->at);
        it->base += it->at;
        it->end -= it->at;
        it->at = 0;
    }
    if (it->end == it->window_size) {
        uint8_t *larger = realloc(it->window, it->window_size * 2);
        if (larger == NULL)
            return ERR_TOO_LARGE;
        it->window = larger;
        it->ptr = larger;
        it->window_size *= 2;
    }
    enum err err =
        decompressor_read(it->decompressor, it->window + it->end, it->window_size - it->end, &got);
    if (err != ERR_NONE)
        return err;
    it->end += got;
    return got > 0 ? ERR_NONE : ERR_NOT_FOUND;
}

/* A record that needs bytes which do not come is malformed. */
static enum err refill_or_invalid(struct record_iterator *it)
{
    enum err err = refill(it);
    return err == ERR_NOT_FOUND ? ERR_INVALID_RECORD : err;
}

static enum err take_varint64_slowly(struct record_iterator *it, int64_t *out)
{
    for (;;) {
        size_t left = it->end - it->at;
        size_t used = varint64_read(it->ptr + it->at, left, out);
        if (used > 0) {
            it->at += used;
            return ERR_NONE;
        }
        if (left >= VARINT64_MAX)
            return ERR_INVALID_RECORD;
        enum err err = refill_or_invalid(it);
        if (err != ERR_NONE)
            return err;
    }
}

/* Most varints of a record are one byte long. */
static inline enum err take_varint64(struct record_iterator *it, int64_t *out)
{
    if (UNLIKELY(it->at >= it->end || it->ptr[it->at] >= 0x80))
        return take_varint64_slowly(it, out);
    uint32_t byte = it->ptr[it->at++];
    *out = (int64_t)(byte >> 1) ^ -(int64_t)(byte & 1);
    return ERR_NONE;
}

static inline enum err take_varint32(struct record_iterator *it, int32_t *out)
{
    int64_t wide;
    enum err err = take_varint64(it, &wide);

    if (UNLIKELY(err != ERR_NONE))
        return err;
    if (UNLIKELY(wide < INT32_MIN || wide > INT32_MAX))
        return ERR_INVALID_RECORD;
    *out = (int32_t)wide;
    return ERR_NONE;
}

static inline uint64_t position(const struct record_iterator *it)
{
    return it->base + it->at;
}

static enum err skip_slowly(struct record_iterator *it, size_t size)
{
    while (size > it->end - it->at) {
        size -= it->end - it->at;
        it->at = it->end;
        enum err err = refill_or_invalid(it);
        if (err != ERR_NONE)
            return err;
    }
    it->at += size;
    return ERR_NONE;
}

/* A length and that many bytes, which must end at or before position `stop`. Any negative length
 * is null, as Java has it, though writers know only -1. */
static inline enum err take_bytes(struct record_iterator *it, uint64_t stop, struct bytes *out)
{
    int32_t len;
    enum err err = take_varint32(it, &len);

    if (UNLIKELY(err != ERR_NONE))
        return err;
    if (len <= 0) {
        *out = len == 0 ? (struct bytes){(const uint8_t *)"", 0} : BYTES_NULL;
        return ERR_NONE;
    }
    uint64_t here = position(it);
    if (UNLIKELY(here > stop || (uint64_t)len > stop - here))
        return ERR_INVALID_RECORD;
    *out = (struct bytes){it->mode == RECORDS_WHOLE ? it->ptr + it->at : NULL, len};
    if (UNLIKELY((size_t)len > it->end - it->at))
        return skip_slowly(it, (size_t)len);
    it->at += (size_t)len;
    return ERR_NONE;
}

/* ---- records: their structure ---- */

static enum err skip_headers(struct record_iterator *it, uint64_t stop, struct record *out)
{
    struct bytes key, value;
    enum err err = take_varint32(it, &out->header_count);

    if (err != ERR_NONE)
        return err;
    uint64_t here = position(it);
    if (here > stop || out->header_count < 0 ||
        (uint64_t)out->header_count > (stop - here) / RECORD_HEADER_MIN)
        return ERR_INVALID_RECORD;
    out->headers =
        (struct bytes){it->mode == RECORDS_WHOLE ? it->ptr + it->at : NULL, (int32_t)(stop - here)};
    for (int32_t i = 0; i < out->header_count; i++) {
        err = take_bytes(it, stop, &key);
        if (err != ERR_NONE)
            return err;
        if (key.len < 0)
            return ERR_INVALID_RECORD;
        err = take_bytes(it, stop, &value);
        if (err != ERR_NONE)
            return err;
    }
    return ERR_NONE;
}

static int64_t timestamp_of(const struct record_batch *b, int64_t delta)
{
    /* Wraps as in Java: what Kafka once stored must stay readable. */
    return record_batch_is_log_append_time(b)
               ? b->max_timestamp
               : (int64_t)((uint64_t)b->base_timestamp + (uint64_t)delta);
}

/* What follows the length field, which ends at position `stop`. */
static enum err take_body(struct record_iterator *it, uint64_t stop, struct record *out)
{
    const struct record_batch *b = &it->batch;
    int64_t timestamp_delta;
    enum err err;

    if (it->at == it->end && (err = refill_or_invalid(it)) != ERR_NONE)
        return err;
    out->attributes = (int8_t)it->ptr[it->at++];
    if ((err = take_varint64(it, &timestamp_delta)) != ERR_NONE)
        return err;
    if ((err = take_varint32(it, &out->offset_delta)) != ERR_NONE)
        return err;
    if ((err = take_bytes(it, stop, &out->key)) != ERR_NONE)
        return err;
    if ((err = take_bytes(it, stop, &out->value)) != ERR_NONE)
        return err;
    if ((err = skip_headers(it, stop, out)) != ERR_NONE)
        return err;
    if (position(it) != stop)
        return ERR_INVALID_RECORD;

    if (out->offset_delta <= it->last_delta || out->offset_delta > b->last_offset_delta)
        return ERR_INVALID_RECORD;
    it->last_delta = out->offset_delta;
    out->offset = b->base_offset + out->offset_delta;
    out->timestamp = timestamp_of(b, timestamp_delta);
    return ERR_NONE;
}

static enum err take_record(struct record_iterator *it, struct record *out)
{
    uint64_t start = position(it);
    int32_t body;
    enum err err = take_varint32(it, &body);

    if (err != ERR_NONE)
        return err;
    if (body < RECORD_BODY_MIN)
        return ERR_INVALID_RECORD;
    if (it->decompressor != NULL && (size_t)body > it->record_bytes_max)
        return ERR_INVALID_RECORD;
    uint64_t stop = position(it) + (uint64_t)body;
    if (stop - start > INT32_MAX)
        return ERR_INVALID_RECORD;
    out->size_bytes = (int32_t)(stop - start);
    while (it->mode == RECORDS_WHOLE && it->end - it->at < (size_t)body) {
        if ((err = refill_or_invalid(it)) != ERR_NONE)
            return err;
    }
    return take_body(it, stop, out);
}

/* After the last record nothing may follow. */
static enum err expect_end(struct record_iterator *it)
{
    if (it->at < it->end)
        return ERR_INVALID_RECORD;
    enum err err = refill(it);
    return err == ERR_NONE ? ERR_INVALID_RECORD : err;
}

/* A varint of at most three bytes, all of which are there; NULL: it is longer. */
static inline const uint8_t *short_varint(const uint8_t *p, int32_t *out)
{
    uint32_t v = p[0];

    if (v < 0x80) {
        p += 1;
    } else if (p[1] < 0x80) {
        v = (v & 0x7f) | (uint32_t)p[1] << 7;
        p += 2;
    } else if (p[2] < 0x80) {
        v = (v & 0x7f) | (uint32_t)(p[1] & 0x7f) << 7 | (uint32_t)p[2] << 14;
        p += 3;
    } else {
        return NULL;
    }
    *out = (int32_t)(v >> 1) ^ -(int32_t)(v & 1);
    return p;
}

static inline struct bytes bytes_at(const struct record_iterator *it, const uint8_t *p, int32_t len)
{
    if (len <= 0)
        return len == 0 ? (struct bytes){(const uint8_t *)"", 0} : BYTES_NULL;
    return (struct bytes){it->mode == RECORDS_WHOLE ? p : NULL, len};
}

/* Before the key length: record length, attributes, two deltas, and the key length itself. */
#define SHORT_HEAD_BYTES (1 + 4 * 3)
/* From the value length on: that, and the count of headers. */
#define SHORT_TAIL_BYTES (3 + 1)

/* The shape that nearly every record has: its lengths and deltas are short, and it has no headers.
 */
struct short_record {
    const uint8_t *key_at, *value_at;
    int32_t body, timestamp_delta, offset_delta, key, value; /* body, key, value: lengths */
    int8_t attributes;
};

/* Takes such a record that lies whole in [p, end), with few branches and one check per bound, and
 * returns the position behind it; NULL for any other, malformed ones included. */
static inline __attribute__((always_inline)) const uint8_t *short_record_take(
    const uint8_t *p, const uint8_t *end, struct short_record *r)
{
    if (end - p < SHORT_HEAD_BYTES || (p = short_varint(p, &r->body)) == NULL ||
        r->body < RECORD_BODY_MIN || r->body > end - p)
        return NULL;

    const uint8_t *stop = p + r->body;

    r->attributes = (int8_t)*p++;
    if ((p = short_varint(p, &r->timestamp_delta)) == NULL ||
        (p = short_varint(p, &r->offset_delta)) == NULL || (p = short_varint(p, &r->key)) == NULL)
        return NULL;
    r->key_at = p;
    if (r->key > 0) {
        if (r->key > stop - p)
            return NULL;
        p += r->key;
    }
    if (end - p < SHORT_TAIL_BYTES || (p = short_varint(p, &r->value)) == NULL)
        return NULL;
    r->value_at = p;
    if (r->value > 0) {
        if (r->value > stop - p)
            return NULL;
        p += r->value;
    }
    /* The last byte is the count of headers: none. */
    return p + 1 == stop && *p == 0 ? stop : NULL;
}

/* For anything but a short record in the window: returns false and has changed nothing that
 * take_record(), which then decides, looks at. */
static inline bool take_short_record(struct record_iterator *it, struct record *out)
{
    const struct record_batch *b = &it->batch;
    const uint8_t *start = it->ptr + it->at;
    struct short_record r;
    const uint8_t *stop = short_record_take(start, it->ptr + it->end, &r);

    if (stop == NULL || (size_t)r.body > it->record_bytes_max || r.offset_delta <= it->last_delta ||
        r.offset_delta > b->last_offset_delta)
        return false;
    it->at += (size_t)(stop - start);
    it->last_delta = r.offset_delta;
    out->attributes = r.attributes;
    out->size_bytes = (int32_t)(stop - start);
    out->offset_delta = r.offset_delta;
    out->offset = b->base_offset + r.offset_delta;
    out->timestamp = timestamp_of(b, r.timestamp_delta);
    out->key = bytes_at(it, r.key_at, r.key);
    out->value = bytes_at(it, r.value_at, r.value);
    out->header_count = 0;
    out->headers = (struct bytes){it->mode == RECORDS_WHOLE ? stop : NULL, 0};
    return true;
}

bool record_batch_survey(const struct record_batch *b, struct record_survey *out)
{
    const uint8_t *p = b->ptr + RECORD_BATCH_HEADER_SIZE, *end = b->ptr + b->size_bytes;
    int32_t last_delta = -1;

    if (record_batch_codec(b) != COMPRESSION_NONE || record_batch_is_log_append_time(b))
        return false;
    *out = (struct record_survey){.timestamp_min = INT64_MAX, .timestamp_max = INT64_MIN};
    for (int32_t i = 0; i < b->record_count; i++) {
        struct short_record r;

        p = short_record_take(p, end, &r);
        if (p == NULL || r.offset_delta <= last_delta || r.offset_delta > b->last_offset_delta)
            return false;
        last_delta = r.offset_delta;

        int64_t timestamp = timestamp_of(b, r.timestamp_delta);

        out->has_null_key |= r.key < 0;
        out->timestamp_min = MIN(out->timestamp_min, timestamp);
        if (timestamp > out->timestamp_max) {
            out->timestamp_max = timestamp;
            out->timestamp_max_delta = r.offset_delta;
        }
    }
    return p == end;
}

enum err record_iterator_next(struct record_iterator *it, struct record *out)
{
    if (it->failed != ERR_NONE)
        return it->failed;
    if (it->index < it->batch.record_count) {
        it->index++;
        if (!take_short_record(it, out))
            it->failed = take_record(it, out);
    } else {
        it->failed = expect_end(it);
    }
    return it->failed;
}

/* Takes a length and its bytes off `from`; false when they are not there. */
static bool split_bytes(struct bytes *from, struct bytes *out)
{
    int32_t len;

    if (from->len <= 0)
        return false;
    size_t used = varint32_read(from->ptr, (size_t)from->len, &len);
    int32_t left = from->len - (int32_t)used;
    if (used == 0 || len > left)
        return false;
    *out = len < 0 ? BYTES_NULL : (struct bytes){from->ptr + used, len};
    from->ptr += used + (size_t)MAX(len, 0);
    from->len = left - MAX(len, 0);
    return true;
}

bool record_header_next(struct bytes *headers, struct str *key, struct bytes *value)
{
    struct bytes name;

    if (!split_bytes(headers, &name) || name.len < 0 || !split_bytes(headers, value))
        return false;
    *key = (struct str){(const char *)name.ptr, name.len};
    return true;
}

/* ---- search ---- */

static void forget_bytes(struct record *r)
{
    r->key.ptr = r->value.ptr = r->headers.ptr = NULL;
}

enum err record_batch_find_timestamp(const struct record_batch *b, int64_t timestamp,
                                     int64_t offset_min, struct decompressor *scratch, size_t limit,
                                     struct record *out)
{
    struct record_iterator it;
    enum err err = record_iterator_init(&it, b, RECORDS_SKIP, scratch, limit);

    if (err != ERR_NONE)
        return err;
    do
        err = record_iterator_next(&it, out);
    while (err == ERR_NONE && (out->timestamp < timestamp || out->offset < offset_min));
    record_iterator_deinit(&it);
    forget_bytes(out);
    return err;
}

enum err record_batch_find_max_timestamp(const struct record_batch *b, struct decompressor *scratch,
                                         size_t limit, struct record *out)
{
    struct record_iterator it;
    struct record r;
    bool found = false;
    enum err err = record_iterator_init(&it, b, RECORDS_SKIP, scratch, limit);

    if (err != ERR_NONE)
        return err;
    while ((err = record_iterator_next(&it, &r)) == ERR_NONE) {
        if (!found || r.timestamp > out->timestamp)
            *out = r;
        found = true;
    }
    record_iterator_deinit(&it);
    if (err != ERR_NOT_FOUND)
        return err;
    return found ? ERR_NONE : ERR_NOT_FOUND;
}

/* ---- making batches ---- */

void record_batch_builder_init(struct record_batch_builder *b, int64_t base_offset)
{
    *b = (struct record_batch_builder){
        .base_offset = base_offset,
        .partition_leader_epoch = RECORD_NO_LEADER_EPOCH,
        .codec = COMPRESSION_NONE,
        .compression_level = COMPRESSION_LEVEL_DEFAULT,
        .producer_id = RECORD_NO_PRODUCER_ID,
        .producer_epoch = -1,
        .base_sequence = RECORD_NO_SEQUENCE,
        .base_timestamp = RECORD_NO_TIMESTAMP,
        .max_timestamp = RECORD_NO_TIMESTAMP,
        .last_offset_delta = -1,
    };
}

void record_batch_builder_deinit(struct record_batch_builder *b)
{
    free(b->records);
    b->records = NULL;
}

/* Room for `size` more bytes; the records of a batch must stay addressable by 31 bits. */
static uint8_t *builder_room(struct record_batch_builder *b, size_t size)
{
    size_t needed = b->records_size + size;

    CHECK(needed >= size);
    CHECK(needed <= INT32_MAX - RECORD_BATCH_HEADER_SIZE);
    if (needed > b->records_capacity) {
        b->records_capacity = MAX(needed, b->records_capacity * 2);
        b->records = xrealloc(b->records, b->records_capacity);
    }
    return b->records + b->records_size;
}

static size_t bytes_field_bound(struct bytes v)
{
    return VARINT32_MAX + (size_t)MAX(v.len, 0);
}

static uint8_t *put_bytes(uint8_t *p, struct bytes v)
{
    p += varint32_write(p, MAX(v.len, -1));
    if (v.len > 0)
        memcpy(p, v.ptr, (size_t)v.len);
    return p + MAX(v.len, 0);
}

void record_batch_builder_add_at(struct record_batch_builder *b, int32_t offset_delta,
                                 int64_t timestamp, struct bytes key, struct bytes value,
                                 const struct record_header *headers, int32_t header_count)
{
    size_t bound =
        1 + VARINT64_MAX + 2 * VARINT32_MAX + bytes_field_bound(key) + bytes_field_bound(value);

    CHECK(offset_delta > b->last_offset_delta);
    for (int32_t i = 0; i < header_count; i++)
        bound += 2 * VARINT32_MAX + (size_t)MAX(headers[i].key.len, 0) +
                 (size_t)MAX(headers[i].value.len, 0);
    if (b->record_count == 0)
        b->base_timestamp = timestamp;

    /* The body is written behind the largest length field, then moved up to the real one. */
    uint8_t *start = builder_room(b, VARINT32_MAX + bound);
    uint8_t *body = start + VARINT32_MAX, *p = body;
    *p++ = 0;
    p += varint64_write(p, (int64_t)((uint64_t)timestamp - (uint64_t)b->base_timestamp));
    p += varint32_write(p, offset_delta);
    p = put_bytes(p, key);
    p = put_bytes(p, value);
    p += varint32_write(p, header_count);
    for (int32_t i = 0; i < header_count; i++) {
        const struct str *name = &headers[i].key;
        p = put_bytes(p, (struct bytes){(const uint8_t *)name->ptr, MAX(name->len, 0)});
        p = put_bytes(p, headers[i].value);
    }
    size_t body_size = (size_t)(p - body);
    size_t length_size = varint32_write(start, to_int32_checked((int64_t)body_size));
    memmove(start + length_size, body, body_size);

    b->records_size += length_size + body_size;
    b->max_timestamp = MAX(b->max_timestamp, timestamp);
    b->last_offset_delta = offset_delta;
    b->record_count++;
}

void record_batch_builder_add(struct record_batch_builder *b, int64_t timestamp, struct bytes key,
                              struct bytes value, const struct record_header *headers,
                              int32_t header_count)
{
    record_batch_builder_add_at(b, b->last_offset_delta + 1, timestamp, key, value, headers,
                                header_count);
}

static void write_header(const struct record_batch_builder *b, uint8_t *p, size_t size)
{
    record_batch_patch(p, b->base_offset, b->partition_leader_epoch);
    store_be32(p + AT_LENGTH, to_uint32_checked((int64_t)size - RECORD_BATCH_PREFIX_SIZE));
    p[AT_MAGIC] = RECORD_BATCH_MAGIC;
    store_be16(p + AT_ATTRIBUTES, (uint16_t)(b->attributes | b->codec));
    store_be32(p + AT_LAST_OFFSET_DELTA, (uint32_t)b->last_offset_delta);
    store_be64(p + AT_BASE_TIMESTAMP, (uint64_t)b->base_timestamp);
    store_be64(p + AT_MAX_TIMESTAMP, (uint64_t)b->max_timestamp);
    store_be64(p + AT_PRODUCER_ID, (uint64_t)b->producer_id);
    store_be16(p + AT_PRODUCER_EPOCH, (uint16_t)b->producer_epoch);
    store_be32(p + AT_BASE_SEQUENCE, (uint32_t)b->base_sequence);
    store_be32(p + AT_RECORD_COUNT, (uint32_t)b->record_count);
    store_be32(p + AT_CRC, crc_of(p, (int32_t)size));
}

enum err record_batch_builder_finish(struct record_batch_builder *b, struct iobuf **out)
{
    struct iobuf *packed;

    CHECK(b->record_count > 0);
    enum err err =
        compress_all(b->codec, b->compression_level, b->records, b->records_size, &packed);
    if (err != ERR_NONE)
        return err;
    *out = iobuf_new(RECORD_BATCH_HEADER_SIZE + packed->len);
    uint8_t *p = iobuf_bytes(*out);
    if (packed->len > 0)
        memcpy(p + RECORD_BATCH_HEADER_SIZE, packed->ptr, packed->len);
    iobuf_unref(packed);
    write_header(b, p, (*out)->len);

    b->records_size = 0;
    b->record_count = 0;
    b->last_offset_delta = -1;
    b->base_timestamp = b->max_timestamp = RECORD_NO_TIMESTAMP;
    return ERR_NONE;
}
