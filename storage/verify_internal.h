/* storage/verify_internal.h -- the walk over one partition, shared by verify.c (the partition),
 * verify_segment.c (a log file and its indexes) and verify_state.c (producers and transactions).
 */
#ifndef FLUXMQ_STORAGE_VERIFY_INTERNAL_H
#define FLUXMQ_STORAGE_VERIFY_INTERNAL_H

#include "storage/leader_epoch.h"
#include "storage/producer_state.h"
#include "storage/segment.h"
#include "storage/txn_index.h"
#include "storage/verify.h"

#define VERIFY_PATH_MAX       4096
#define VERIFY_FILE_BYTES_MAX ((size_t)1 << 30) /* of anything that is read whole */

struct snapshot_file {
    int64_t offset;
    bool seen;
};

struct walk {
    struct env *env;
    const char *folder;
    const struct partition_facts *facts;
    const struct verify_options *options;
    struct verify_report *report;

    int64_t next_offset; /* where the next batch must begin, -1: not known after damage */
    int64_t other_next;  /* or there: what a batch with a wrong base offset says of itself */
    int32_t last_epoch;
    int32_t complained_epoch, complained_expected; /* one finding for each run of batches */
    bool ended;                                    /* torn: nothing behind counts */
    bool whole;                                    /* no fault so far that hides batches */
    bool last_segment, only_segment;
    int64_t next_base; /* of the segment behind, INT64_MAX */

    struct leader_epochs epochs;
    bool has_epochs;
    int64_t log_start; /* as far as it is known: epochs are known from there on */
    int32_t epoch_at;  /* the first entry that lies at or above the batches seen */

    struct producer_state producers;
    bool producers_complete; /* everything that they did is known */
    struct snapshot_file *snapshots;
    int snapshot_count, snapshot_at;

    uint8_t *buffer;
    size_t buffer_size;
    struct file *buffered;
    uint64_t buffer_position;
    size_t buffer_have;
    struct decompressor scratch;
};

/* The segment's part of the walk. */
struct segment_walk {
    int64_t base;
    char path[VERIFY_PATH_MAX]; /* of the .log */
    uint64_t size;
    struct index_entry *offsets, *times;
    size_t offset_count, time_count, offset_at, time_at;
    bool has_offsets, has_times;       /* the files are there */
    int64_t max_timestamp, max_offset; /* so far */
    int64_t indexed_max;               /* max_timestamp at the last offset entry */
    struct txn_index aborted;          /* as the batches say */
};

static inline bool walk_in_cleaned(const struct walk *w, int64_t offset)
{
    return w->options->allow_gaps || offset < w->facts->first_dirty;
}
/* What is wrong at this offset is as a crash leaves it. */
static inline enum finding_weight walk_weight(const struct walk *w, int64_t offset)
{
    return w->facts->known && !w->facts->clean && offset >= w->facts->recovery_point
               ? FINDING_CRASH
               : FINDING_DAMAGE;
}

void walk_path(const struct walk *w, int64_t base, const char *suffix, char out[VERIFY_PATH_MAX]);
/* A whole small file; NULL when it is not there (or cannot be read, which is reported). */
uint8_t *walk_slurp(struct walk *w, const char *path, size_t *size);

/* verify_segment.c: walks the segment, w->next_offset being where it must begin. */
void walk_segment(struct walk *w, int64_t base);

/* verify_state.c */
void walk_load_first_snapshot(struct walk *w, int64_t base);
/* Snapshots at or below `offset` must show the producers as they are now. */
void walk_check_snapshots(struct walk *w, int64_t offset);
void walk_check_late_snapshots(struct walk *w, int64_t end);
void walk_producers(struct walk *w, struct segment_walk *s, const struct record_batch *b);
void walk_check_txn_index(struct walk *w, const struct segment_walk *s);

#endif
