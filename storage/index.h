/* storage/index.h -- a segment's sparse indexes, in Kafka's format.
 *
 * BASE.index:      8 bytes an entry:  int32 offset - base, int32 position in BASE.log.
 *                  The batch at that position ends with that offset.
 * BASE.timeindex:  12 bytes an entry: int64 timestamp, int32 offset - base. Up to that offset (the
 *                  last of a batch) no record is younger than that timestamp.
 * Both grow strictly in their key and are big endian. An entry is written before the append that
 * crosses index.interval.bytes, for the batch of that append.
 *
 * Nothing is mapped. The youngest entries lie in memory (the tail) and go to the file in pieces;
 * the file is made with its first piece. Lookups work on a view: a counted tail and a counted
 * file, so that they need no lock. An index is a hint: whoever follows it checks the batch that it
 * finds there.
 *
 * Thread: an index belongs to its log's lock; a view to whoever took it.
 */
#ifndef FLUXMQ_STORAGE_INDEX_H
#define FLUXMQ_STORAGE_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/base/env.h"

enum index_kind { INDEX_OFFSETS, INDEX_TIMES };

/* Offsets: key is an offset, value a position. Times: key is a timestamp, value an offset. */
struct index_entry {
    int64_t key, value;
};

struct index_tail;

struct index {
    enum index_kind kind;
    int64_t base_offset;
    struct file *file;     /* NULL: closed, or nothing stored yet */
    uint32_t stored_count; /* entries in the file */
    uint32_t tail_count;   /* entries behind them in memory */
    struct index_tail *tail;
    struct index_entry last; /* key -1: empty */
};

/* A picture of an index at one moment. */
struct index_view {
    enum index_kind kind;
    int64_t base_offset;
    struct file *file;
    uint32_t stored_count, tail_count;
    struct index_tail *tail;
};

/* More than this in memory, and appends wait for index_store(). */
#define INDEX_TAIL_ENTRIES_MAX 8192u
/* From here on the tail should go to the file soon. */
#define INDEX_TAIL_ENTRIES_STORE 512u

size_t index_entry_size(enum index_kind kind);
void index_init(struct index *x, enum index_kind kind, int64_t base_offset);
void index_deinit(struct index *x);
static inline uint32_t index_count(const struct index *x)
{
    return x->stored_count + x->tail_count;
}
/* The key must be greater than the last one's; there must be room in the tail. */
void index_append(struct index *x, struct index_entry e);

/* Storing is done in three steps, so that the log's lock is not held while the disk works:
 * index_view_take() under the lock, index_store() without, index_stored() under the lock. */
void index_view_take(const struct index *x, struct index_view *out);
void index_view_drop(struct index_view *v);
/* Opens or makes `path` and writes the view's tail behind what is stored; *file is what to keep
 * open. [pool] */
MUST_USE enum err index_store(const struct index_view *v, struct env *env, const char *path,
                              struct file **file, struct errmsg *why);
/* The view's tail is in `file` (whose reference is taken over). */
void index_stored(struct index *x, const struct index_view *v, struct file *file);

/* Reads an existing file and takes over its entries while they grow as they must and stay below
 * `value_limit` (positions: the segment's size; offsets: the segment's end). False when some did
 * not, or the size was no multiple of an entry: then the index should be rebuilt. The file is not
 * kept open. [pool] */
MUST_USE enum err index_load(struct index *x, struct env *env, const char *path,
                             int64_t value_limit, bool *sound);

/* Forgets, in memory and in the file, entries about offsets above `offset_max`; with -1 all. Only
 * for an index without a tail. [pool] */
MUST_USE enum err index_cut(struct index *x, struct env *env, const char *path, int64_t offset_max,
                            struct errmsg *why);

/* Entry i; false when it cannot be read. */
bool index_get(const struct index_view *v, uint32_t i, struct index_entry *out);
static inline uint32_t index_view_count(const struct index_view *v)
{
    return v->stored_count + v->tail_count;
}
/* The last entry with key <= `key`, or with value <= `value`; false when there is none. */
bool index_floor_key(const struct index_view *v, int64_t key, struct index_entry *out);
bool index_floor_value(const struct index_view *v, int64_t value, struct index_entry *out);
/* Whether a lookup of `key` (or a value) would not wait for the disk. */
bool index_resident_key(const struct index_view *v, int64_t key);
bool index_resident_value(const struct index_view *v, int64_t value);

/* Goes over the entries in their order, a piece of the file at a time. */
#define INDEX_CURSOR_ENTRIES 64u
struct index_cursor {
    const struct index_view *view;
    uint32_t next; /* entry that comes next */
    uint32_t first, count;
    struct index_entry entries[INDEX_CURSOR_ENTRIES];
};
/* Before the first entry whose value is >= `value`. */
void index_cursor_init(struct index_cursor *c, const struct index_view *v, int64_t value);
/* NULL behind the last one; false when it cannot be read. */
bool index_cursor_peek(struct index_cursor *c, const struct index_entry **out);

/* Whether what is stored can be right: as many entries as are known to be there, growing as they
 * must, within [base, end_offset) and below `size_bytes`, before what is in memory. `last`: the
 * youngest entry. [pool] */
bool index_check(const struct index_view *v, const struct index_entry *last, int64_t end_offset,
                 uint64_t size_bytes);

/* One entry in its disk form. */
void index_entry_decode(enum index_kind kind, int64_t base_offset, const uint8_t *p,
                        struct index_entry *out);

#endif
