/* storage/segment.h -- one piece of a log: BASE.log with its indexes.
 *
 * BASE is the first offset, in 20 digits. The file is a sequence of batches; behind the last one
 * there may be preallocated zeros, which are not part of the log. A batch becomes part of the
 * segment when `size_bytes` moves over it, and never changes from then on (S2).
 *
 * Reading needs no lock: a view is a picture of the segment at one moment, and what it shows stays
 * as it is.
 *
 * Thread: a segment's fields belong to its log's lock; a view and a reader to who made them.
 */
#ifndef FLUXMQ_STORAGE_SEGMENT_H
#define FLUXMQ_STORAGE_SEGMENT_H

#include "protocol/base/env.h"
#include "protocol/record_batch.h"
#include "storage/index.h"
#include "storage/txn_index.h"

#define SEGMENT_NAME_SIZE  40
#define SEGMENT_BYTES_MAX  INT32_MAX /* positions are int32 */
#define BATCH_READER_SMALL ((size_t)4 << 10)
#define BATCH_READER_LARGE ((size_t)256 << 10)

/* Which bytes this process knows: appended here, walked in recovery, or checked since. Each range
 * begins and ends where a batch does. */
#define CHECKED_RANGES_MAX 32
struct checked_range {
    uint32_t from, to;
    int64_t next_offset; /* behind the last batch of it */
};
struct checked_ranges {
    struct checked_range *v; /* ascending, apart from each other */
    int count, capacity;
};

struct segment {
    atomic_int refs;
    struct env *env;
    int64_t base_offset, next_offset;               /* [base, next) */
    uint64_t size_bytes;                            /* published */
    int64_t first_timestamp_ms;                     /* of the first batch, -1: none or unknown */
    int64_t max_timestamp_ms, max_timestamp_offset; /* last offset of the batch that has it; -1 */
    int64_t modified_ms;                            /* wall time of the last append */
    uint32_t bytes_since_index;
    bool dirty;           /* written since the last sync; the file stays open */
    bool index_dirty;     /* entries were stored since the last sync of the index files */
    bool sealed;          /* no longer active: indexes are complete */
    bool index_checked;   /* the files hold what is said of them here; log_check_indexes() */
    int64_t limit_wanted; /* where a read ended that must be loaded; 0: none */
    uint8_t idle_ticks;   /* seconds since it was read or written */
    struct file *file;
    struct index offsets, times;
    struct txn_index *aborted; /* NULL: none */
    struct checked_ranges checked;
};

struct segment *segment_new(struct env *env, int64_t base_offset);
struct segment *segment_ref(struct segment *s);
void segment_unref(struct segment *s);

/* "00000000000000000042" + suffix (".log"). */
void segment_file_name(int64_t base_offset, const char *suffix, char out[SEGMENT_NAME_SIZE]);
/* The offset in a name that ends with `suffix`; false for any other name. */
bool segment_name_offset(const char *name, const char *suffix, int64_t *offset);

/* ---- appending: under the log's lock ---- */

/* Writes the batch behind the last one and publishes it. There must be room in file and index
 * tails. After an error nothing has changed. */
MUST_USE enum err segment_append(struct segment *s, const struct record_batch *b,
                                 const uint8_t *bytes, int64_t index_interval_bytes,
                                 int64_t now_unix_ms, struct errmsg *why);
/* Accounts for a batch that is in the file already (recovery). */
void segment_account(struct segment *s, const struct record_batch *b, int64_t index_interval_bytes);
/* The last entry of a time index is the segment's greatest timestamp; written when it is sealed. */
void segment_seal(struct segment *s);
/* Whether offset `last_offset` can be told as base + int32. */
bool segment_can_hold(const struct segment *s, int64_t last_offset);

/* ---- what was checked: under the log's lock ---- */

/* When there are too many ranges, the smallest other one is forgotten. */
void checked_add(struct checked_ranges *c, uint64_t from, uint64_t to, int64_t next_offset);
bool checked_covers(const struct checked_ranges *c, uint64_t from, uint64_t to);
/* The range that holds the byte at `position`, or ends there; NULL: none. */
const struct checked_range *checked_at(const struct checked_ranges *c, uint64_t position);

/* ---- views ---- */

struct segment_view {
    int64_t base_offset, next_offset;
    uint64_t size_bytes;
    struct file *file;
    struct index_view offsets, times;
    bool resident_only; /* a walk ends with ERR_AGAIN where it would wait for the disk */
};
/* Under the log's lock; the file must be open. */
void segment_view_take(struct segment *s, struct segment_view *out);
void segment_view_drop(struct segment_view *v);

struct batch_position {
    uint64_t position;
    struct record_batch batch; /* ptr NULL */
};
/* The first batch whose last offset is >= `offset`, looked for from `from` (0, or the beginning of
 * a batch that does not lie behind it; the index may know better). ERR_NOT_FOUND, ERR_CORRUPT,
 * ERR_IO, ERR_AGAIN. */
MUST_USE enum err segment_locate(const struct segment_view *v, int64_t offset, uint64_t from,
                                 struct batch_position *out);
/* The greatest batch boundary in [start, limit], `start` being one. */
MUST_USE enum err segment_boundary(const struct segment_view *v, uint64_t start, uint64_t limit,
                                   uint64_t *out);
/* Whether that would not wait for the index. */
bool segment_boundary_resident(const struct segment_view *v, uint64_t start, uint64_t limit);
bool segment_locate_resident(const struct segment_view *v, int64_t offset);
/* Brings what that asks for; the index is in memory. [pool] */
MUST_USE enum err segment_locate_load(const struct segment_view *v, int64_t offset, uint64_t from);

/* ---- walking over a file ---- */

struct batch_reader {
    struct file *file;
    uint64_t position, end; /* of the next batch; of the bytes that may be read */
    uint8_t *buffer;        /* the caller's */
    size_t buffer_size;
    uint64_t buffer_position;
    size_t buffer_have;
    bool resident_only; /* false; set behind batch_reader_init(): ERR_AGAIN instead of a wait */
};
void batch_reader_init(struct batch_reader *r, struct file *f, uint64_t position, uint64_t end,
                       uint8_t *buffer, size_t buffer_size);
/* The batch at r->position, which then stands behind it. With `check_crc` its bytes have been read
 * and the CRC holds. out->ptr is set when the whole batch is in the buffer (always tried with
 * `check_crc`, and for control batches); it is valid until the next call.
 * ERR_NOT_FOUND at the end; ERR_CORRUPT: no whole, valid batch here (`why` says what was found);
 * ERR_IO. After an error the position has not moved. */
MUST_USE enum err batch_reader_next(struct batch_reader *r, bool check_crc,
                                    struct record_batch *out, struct errmsg *why);
/* Whether [from, end) holds nothing but zeros: preallocated, never written. */
MUST_USE enum err file_rest_is_zero(struct file *f, uint64_t from, uint64_t end, bool *zero);

#endif
