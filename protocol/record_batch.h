/* protocol/record_batch.h -- batches of records, magic 2 (KIP-98): what a producer sends, what the
 * log stores and what a consumer gets are the same bytes.
 *
 *   at  size
 *    0   8   base offset                    assigned by the leader, outside the CRC
 *    8   4   length of what follows         size_bytes - 12
 *   12   4   partition leader epoch         assigned by the leader, outside the CRC
 *   16   1   magic                          2
 *   17   4   CRC-32C of everything from 21 on
 *   21   2   attributes                     bits 0-2 codec, 3 LogAppendTime, 4 transactional,
 *                                           5 control, 6 delete horizon (KIP-534)
 *   23   4   last offset delta              survives compaction, which may remove the last record
 *   27   8   base timestamp                 of the first record; the delete horizon if bit 6
 *   35   8   max timestamp                  the append time if bit 3
 *   43   8   producer id                    -1: none
 *   51   2   producer epoch
 *   53   4   base sequence
 *   57   4   record count
 *   61       records, compressed as a whole by the codec
 *
 * A record: varint length of the rest, int8 attributes (none defined), varlong timestamp delta,
 * varint offset delta, varint key length (-1: null) and key, the same for the value, varint count
 * of headers; a header: varint length and key (never null), varint length (-1: null) and value.
 *
 * Nothing here owns a batch's bytes: a `struct record_batch` is a view of them.
 *
 * Thread: any; iterators and decompressors one at a time.
 */
#ifndef FLUXMQ_RECORD_BATCH_H
#define FLUXMQ_RECORD_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/base/bytes.h"
#include "protocol/base/err.h"
#include "protocol/base/iobuf.h"
#include "protocol/compress.h"

#define RECORD_BATCH_MAGIC       2
#define RECORD_BATCH_HEADER_SIZE 61
#define RECORD_BATCH_LENGTH_AT   8
#define RECORD_BATCH_CRC_START   21 /* the first byte under the CRC; the attributes */
/* Base offset and length: what must be read to know a batch's size. */
#define RECORD_BATCH_PREFIX_SIZE 12

#define RECORD_NO_TIMESTAMP    INT64_C(-1)
#define RECORD_NO_PRODUCER_ID  INT64_C(-1)
#define RECORD_NO_SEQUENCE     (-1)
#define RECORD_NO_LEADER_EPOCH (-1)

enum record_batch_attribute {
    RECORD_BATCH_CODEC_MASK = 0x07,
    RECORD_BATCH_LOG_APPEND_TIME = 0x08,
    RECORD_BATCH_TRANSACTIONAL = 0x10,
    RECORD_BATCH_CONTROL = 0x20,
    RECORD_BATCH_DELETE_HORIZON = 0x40,
};

struct record_batch {
    const uint8_t *ptr;
    int32_t size_bytes; /* the whole batch */
    int64_t base_offset;
    int32_t partition_leader_epoch;
    int8_t magic;
    uint32_t crc;
    int16_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp, max_timestamp;
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;
    int32_t record_count;
};

static inline int record_batch_codec(const struct record_batch *b)
{
    return b->attributes & RECORD_BATCH_CODEC_MASK;
}
static inline bool record_batch_is_log_append_time(const struct record_batch *b)
{
    return (b->attributes & RECORD_BATCH_LOG_APPEND_TIME) != 0;
}
static inline bool record_batch_is_transactional(const struct record_batch *b)
{
    return (b->attributes & RECORD_BATCH_TRANSACTIONAL) != 0;
}
static inline bool record_batch_is_control(const struct record_batch *b)
{
    return (b->attributes & RECORD_BATCH_CONTROL) != 0;
}
static inline bool record_batch_has_producer_id(const struct record_batch *b)
{
    return b->producer_id > RECORD_NO_PRODUCER_ID;
}
static inline int64_t record_batch_last_offset(const struct record_batch *b)
{
    return b->base_offset + b->last_offset_delta;
}
/* From when on the cleaner may drop the batch's tombstones (KIP-534); -1: not set. */
static inline int64_t record_batch_delete_horizon(const struct record_batch *b)
{
    return (b->attributes & RECORD_BATCH_DELETE_HORIZON) != 0 ? b->base_timestamp : -1;
}
/* Sequences run from 0 to 2^31-1 and begin again at 0. Both arguments >= 0. */
static inline int32_t record_sequence_add(int32_t sequence, int32_t increment)
{
    return (int32_t)(((uint32_t)sequence + (uint32_t)increment) & INT32_MAX);
}
/* RECORD_NO_SEQUENCE when the batch has none. */
static inline int32_t record_batch_last_sequence(const struct record_batch *b)
{
    return b->base_sequence < 0 ? RECORD_NO_SEQUENCE
                                : record_sequence_add(b->base_sequence, b->last_offset_delta);
}

/* ---- one batch ---- */

/* Reads the header of the batch that begins at `p`, of which `n` bytes are there, and checks what
 * can be checked without its records: sizes, counts and deltas that cannot be, offsets that
 * overflow. Neither the CRC nor the records are looked at.
 * Errors: ERR_AGAIN: the batch is longer than `n`; out->size_bytes is its size, or 0 when fewer
 *   than RECORD_BATCH_PREFIX_SIZE bytes are there (out is otherwise not set).
 *   ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT: magic 0 or 1, of before Kafka 0.11.
 *   ERR_MALFORMED: this is no batch. */
MUST_USE enum err record_batch_parse(const uint8_t *p, size_t n, struct record_batch *out);

/* The same without the checks of counts, deltas and offsets: before the CRC is known to be right
 * a fault there is damage and not a lie. */
MUST_USE enum err record_batch_frame(const uint8_t *p, size_t n, struct record_batch *out);

MUST_USE bool record_batch_crc_ok(const struct record_batch *b);

/* Writes what the leader assigns; both lie outside the CRC. `p` is a whole batch. */
void record_batch_patch(uint8_t *p, int64_t base_offset, int32_t leader_epoch);

/* Walks over batches that follow each other in memory: begin with {p, n}. */
struct record_batch_iterator {
    const uint8_t *ptr;
    size_t left;
};
/* ERR_NOT_FOUND at the very end; ERR_AGAIN when what is left is the beginning of a batch; else as
 * record_batch_parse(). After an error the iterator still stands before what caused it. */
MUST_USE enum err record_batch_next(struct record_batch_iterator *it, struct record_batch *out);

/* ---- records ---- */

struct record {
    int64_t offset, timestamp; /* the batch's max timestamp under LogAppendTime */
    int32_t offset_delta;
    int32_t size_bytes;      /* with its length field, uncompressed */
    struct bytes key, value; /* null: len -1 */
    struct bytes headers;    /* encoded; see record_header_next() */
    int32_t header_count;
    int8_t attributes;
};

enum record_iterator_mode {
    /* Keys, values and headers can be read until the next record is asked for. A record of a
     * compressed batch is held in memory as a whole. */
    RECORDS_WHOLE,
    /* Structure alone: lengths are right, pointers are NULL. Memory is constant. */
    RECORDS_SKIP,
};

struct record_iterator {
    struct record_batch batch;
    enum record_iterator_mode mode;
    int32_t index;      /* of the next record */
    int32_t last_delta; /* of the record before; -1 */
    /* Of one record of a compressed batch; no limit unless set after init. */
    size_t record_bytes_max;
    enum err failed;

    /* A window of the record bytes: ptr[at..end) are there, and ptr[0] is byte `base` of all. An
     * uncompressed batch is its own window. */
    const uint8_t *ptr;
    size_t at, end;
    uint64_t base;
    uint8_t *window; /* of a compressed batch */
    size_t window_size;
    struct decompressor *decompressor; /* NULL: not compressed */
    struct decompressor own;
};

/* `scratch` keeps codec contexts from one batch to the next, and is busy until the iterator is
 * deinitialised; NULL: the iterator makes its own. At most `limit` bytes are decompressed.
 * ERR_UNSUPPORTED_COMPRESSION_TYPE (then there is nothing to deinitialise). */
MUST_USE enum err record_iterator_init(struct record_iterator *it, const struct record_batch *b,
                                       enum record_iterator_mode mode, struct decompressor *scratch,
                                       size_t limit);
/* Errors: ERR_NOT_FOUND after the last record, when there is nothing behind it either;
 * ERR_INVALID_RECORD (a record's structure, or bytes too few or too many for record_count);
 * ERR_CORRUPT_MESSAGE (cannot be decompressed); ERR_TOO_LARGE (over the limit). They stay. */
MUST_USE enum err record_iterator_next(struct record_iterator *it, struct record *out);
void record_iterator_deinit(struct record_iterator *it);

/* What a walk over all records of a batch has seen. */
struct record_survey {
    int64_t timestamp_min, timestamp_max;
    int32_t timestamp_max_delta; /* offset delta of the first record with timestamp_max */
    bool has_null_key;
};

/* The walk in the common case, several times as fast: an uncompressed batch with CreateTime, every
 * record short and without headers. True: its structure is what the iterator accepts, and *out is
 * filled. False says nothing about the batch; the iterator must look. */
bool record_batch_survey(const struct record_batch *b, struct record_survey *out);

/* Takes the first header off `headers` (begin with a copy of record.headers); false when there is
 * none left. What a RECORDS_WHOLE iterator has returned is known to be well-formed. */
MUST_USE bool record_header_next(struct bytes *headers, struct str *key, struct bytes *value);

/* The first record with timestamp >= `timestamp` and offset >= `offset_min` [H33]. Errors:
 * ERR_NOT_FOUND, and those of record_iterator_init() and _next(). */
MUST_USE enum err record_batch_find_timestamp(const struct record_batch *b, int64_t timestamp,
                                              int64_t offset_min, struct decompressor *scratch,
                                              size_t limit, struct record *out);
/* The first record that has the batch's greatest timestamp (ListOffsets -3); same errors. Only
 * numbers are set in `out`, here and above: offset, timestamp, deltas and sizes. */
MUST_USE enum err record_batch_find_max_timestamp(const struct record_batch *b,
                                                  struct decompressor *scratch, size_t limit,
                                                  struct record *out);

/* ---- what a client may produce ---- */

#define RECORD_COMPRESSION_PRODUCER (-1) /* compression.type=producer: leave it as it is */

struct record_validation {
    int16_t produce_version;   /* zstd came with version 7 (KIP-110) */
    int32_t max_message_bytes; /* max.message.bytes */
    int64_t now_unix_ms;
    bool log_append_time; /* message.timestamp.type */
    int64_t timestamp_before_max_ms, timestamp_after_max_ms;
    bool compacted;                /* every record needs a key [H26] */
    int8_t compression_type;       /* RECORD_COMPRESSION_PRODUCER, or a codec */
    int32_t compression_level;     /* of that codec */
    size_t decompressed_bytes_max; /* max.decompressed.message.bytes: of one compressed record */
    struct decompressor *scratch;  /* may be NULL */
    /* Give up with ERR_AGAIN, which says nothing about the batch, once more than this would have
     * to be decompressed: the caller then validates where it may take longer. 0: no such end. */
    size_t patience_bytes;
};

/* What must change before the batch is stored. */
enum record_rewrite {
    RECORD_REWRITE_NONE,   /* stored as sent */
    RECORD_REWRITE_HEADER, /* max timestamp and its type, and so the CRC */
    RECORD_REWRITE_ALL,    /* another codec */
};

enum record_error_kind { RECORD_ERROR_NO_KEY, RECORD_ERROR_TIMESTAMP };

/* One refused record, for the answer's record_errors (KIP-467). */
struct record_error {
    int32_t batch_index;
    enum record_error_kind kind;
    int64_t timestamp;
};

/* An answer names the first ones; `record_error_count` counts all. */
#define RECORD_ERRORS_MAX 32

struct record_verdict {
    struct record_batch batch; /* set once the header could be read; see the errors */
    enum record_rewrite rewrite;
    int64_t max_timestamp; /* of the records as they will be stored; -1: none has one */
    int32_t max_timestamp_offset_delta;
    const char *reason; /* why it was refused, a constant for the answer and the log; else NULL */
    int32_t record_error_count;
    struct record_error record_errors[RECORD_ERRORS_MAX];
};

/* A batch may decompress to this many times its size, and in any case to this much. Only zstd can
 * make more; a client that meets the limit splits its batch. */
#define RECORD_BATCH_EXPANSION_MAX    1024
#define RECORD_BATCH_DECOMPRESSED_MIN ((size_t)64 << 20)

/* May these bytes, a partition's `records` of a Produce request of version >= 3, be appended? In
 * Kafka's order, so that a batch with several faults gets Kafka's answer:
 *   ERR_INVALID_RECORD               nothing whole in it, or magic 0 or 1
 *   ERR_CORRUPT_MESSAGE              a size or magic that cannot be
 *   ERR_UNSUPPORTED_COMPRESSION_TYPE zstd before version 7; after the CRC, codecs 5 to 7
 *   ERR_INVALID_RECORD               more than one batch, or bytes behind it; a base offset that
 *                                    is not 0
 *   ERR_MESSAGE_TOO_LARGE            over max.message.bytes
 *   ERR_CORRUPT_MESSAGE              the CRC
 *   ERR_INVALID_RECORD               counts and deltas that contradict each other or the records;
 *                                    a control batch; a producer id without sequence; a record
 *                                    that is malformed or, compressed, over its limit
 *   ERR_INVALID_TIMESTAMP            some record is outside the allowed times (record_errors)
 *   ERR_INVALID_RECORD               none is, but some lack a key (record_errors)
 * Where Kafka is laxer or vague: data that cannot be decompressed is ERR_INVALID_RECORD (Kafka:
 * UNKNOWN_SERVER_ERROR), more of it than above is ERR_MESSAGE_TOO_LARGE; offset deltas must be 0,
 * 1, 2, ... (Kafka rewrites or stores others); a producer id needs an epoch, a transaction a
 * producer id; a batch that claims LogAppendTime is always ERR_INVALID_TIMESTAMP.
 *
 * Every record is looked at. Memory stays constant, but for a block of snappy. */
MUST_USE enum err record_batch_validate(const uint8_t *p, size_t n,
                                        const struct record_validation *rules,
                                        struct record_verdict *out);

/* The sentence for record_errors[].batch_index_error_message; terminated, cut to fit. */
void record_error_text(const struct record_error *e, const struct record_validation *rules,
                       char *out, size_t size);

/* RECORD_REWRITE_HEADER in place: sets type and max timestamp and computes the CRC anew. `p` are
 * the writable bytes of `b`, which is brought up to date. */
void record_batch_set_timestamp(struct record_batch *b, uint8_t *p, bool log_append_time,
                                int64_t max_timestamp);

/* The batch of an accepted verdict as the rules want it stored, in a buffer of its own; also when
 * nothing had to change. verdict->batch then describes, and points into, the new bytes.
 * ERR_MESSAGE_TOO_LARGE (the new size is over max.message.bytes), and what decompressing may
 * return; then *out is untouched. */
MUST_USE enum err record_batch_rewrite(struct record_verdict *verdict,
                                       const struct record_validation *rules, struct iobuf **out);

/* ---- making batches: control batches, and tests ---- */

struct record_header {
    struct str key;
    struct bytes value;
};

struct record_batch_builder {
    /* Set before finishing; record_batch_builder_init() has put in what a plain batch has. */
    int64_t base_offset;
    int32_t partition_leader_epoch;
    int codec;
    int32_t compression_level;
    int16_t attributes; /* enum record_batch_attribute without the codec */
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;

    int64_t base_timestamp, max_timestamp;
    int32_t record_count, last_offset_delta;
    uint8_t *records;
    size_t records_size, records_capacity;
};

void record_batch_builder_init(struct record_batch_builder *b, int64_t base_offset);
void record_batch_builder_deinit(struct record_batch_builder *b);
/* The next record, one offset after the last one. */
void record_batch_builder_add(struct record_batch_builder *b, int64_t timestamp, struct bytes key,
                              struct bytes value, const struct record_header *headers,
                              int32_t header_count);
/* At this offset delta, which grows from record to record (the cleaner leaves gaps). */
void record_batch_builder_add_at(struct record_batch_builder *b, int32_t offset_delta,
                                 int64_t timestamp, struct bytes key, struct bytes value,
                                 const struct record_header *headers, int32_t header_count);
/* The batch. The builder is as after init, but for its settings. Errors as compress_all(). */
MUST_USE enum err record_batch_builder_finish(struct record_batch_builder *b, struct iobuf **out);

#endif
