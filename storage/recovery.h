/* storage/recovery.h -- what a log is after a stop that was not clean [H16].
 *
 * The recovery point was moved only after a successful fsync of everything below it. So
 *  - below it any invalid byte is corruption: nothing is cut, the replica goes offline;
 *  - above it the log ends before the first batch that is not whole and valid. Zeros behind it were
 *    preallocated; anything else is kept beside the log as BASE.OFFSET.cut, later segments as
 *    BASE.log.cut;
 *  - indexes, epochs and producer snapshots are hints: what is sound is used, the rest is made anew
 *    from the batches.
 * A start never fails for one bad file: the log is offline with a reason.
 *
 * Segments that end at or below the recovery point are not read through; their indexes are checked
 * and the last piece is walked, so that a file that has become shorter is noticed.
 */
#ifndef FLUXMQ_STORAGE_RECOVERY_H
#define FLUXMQ_STORAGE_RECOVERY_H

#include "storage/segment.h"

/* The files of a partition's folder, by kind; also for tools that look at a folder offline. */
struct folder {
    int64_t *segments; /* base offsets, ascending */
    int segment_count;
    int64_t *snapshots; /* offsets, ascending */
    int snapshot_count;
    char **leftovers; /* names of files that a crash left and nobody needs */
    int leftover_count;
};
MUST_USE enum err folder_read(struct env *env, const char *path, struct folder *out,
                              struct errmsg *why);
void folder_deinit(struct folder *f);

#endif
