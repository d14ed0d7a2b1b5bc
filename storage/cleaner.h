/* storage/cleaner.h -- the seam for compaction [H26].
 *
 * Until the cleaner exists, a topic with cleanup.policy=compact alone is never trimmed by time or
 * size: a policy treated as `delete` would eat what its owner keeps for ever. `compact,delete` is
 * trimmed as `delete`. DeleteRecords moves the start of any log.
 *
 * What will come stands beside log_structure.c: a pool job that rewrites sealed segments into new
 * files and renames them over, as log_truncate() does, so that reads in flight keep the old ones.
 */
#ifndef FLUXMQ_STORAGE_CLEANER_H
#define FLUXMQ_STORAGE_CLEANER_H

#include "storage/log.h"

static inline bool cleaner_may_trim(const struct log_config *c)
{
    return c->cleanup_delete;
}

/* The topic asks for compaction that does not happen (metric LogCleanerMissing). */
static inline bool cleaner_missing(const struct log_config *c)
{
    return c->cleanup_compact;
}

#endif
