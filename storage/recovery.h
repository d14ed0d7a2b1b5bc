/* storage/recovery.h -- what a log is after a stop that was not clean [H16].
 *
 * The recovery point was moved only after a successful fsync of everything below it. So
 *  - below it any invalid byte is corruption: nothing is cut, the replica goes offline;
 *  - above it the log ends before the first batch that is not whole and valid, or that contradicts
 *    what lies before it: a gap, an overlap of two segments, a leader epoch that goes back. Zeros
 *    behind it were preallocated; anything else is kept beside the log as BASE.OFFSET.unsynced.cut,
 *    later segments as BASE.log.unsynced.cut, until another replica has them (log_set_in_sync());
 *  - indexes, epochs and producer snapshots are hints: what is sound is used, the rest is made anew
 *    from the batches.
 * A start never fails for one bad file: the log is offline with a reason. What is cut, and under
 * which names it is kept, is on stable storage before the log is used: else a power failure would
 * bring it back behind, or between, what has been appended since.
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
    char **cuts; /* names of what an earlier recovery cut */
    int cut_count;
};
MUST_USE enum err folder_read(struct env *env, const char *path, struct folder *out,
                              struct errmsg *why);
void folder_deinit(struct folder *f);

#endif
