/* storage/repair.h -- what would make verify content, as a plan; and carrying it out.
 *
 * What verify found about one partition, or about a log directory's own files, becomes steps:
 *   patch      a base offset or leader epoch, which no CRC covers, gets the value that everything
 *              around it says it had
 *   cut        a log ends before its first damaged batch; what follows is kept in BASE.OFFSET.cut,
 *              later segments as BASE.log.cut. This loses records, and the plan says which.
 *   rebuild    indexes, the transaction index and leader-epoch-checkpoint from the batches
 *   set aside  a file that cannot be trusted and is not needed, as NAME.cut
 *   rewrite    an offset checkpoint from its sound lines and from the logs
 * and, where nothing can be derived (a topic id, a directory's identity, an unreadable file), a
 * line that says so. Of what a crash leaves nothing is touched: a start repairs it.
 *
 * Thread: one at a time; the directories' locks are the caller's business (D1). [pool]
 */
#ifndef FLUXMQ_STORAGE_REPAIR_H
#define FLUXMQ_STORAGE_REPAIR_H

#include "storage/verify.h"

enum repair_kind {
    REPAIR_PATCH_OFFSET,
    REPAIR_PATCH_EPOCH,
    REPAIR_CUT,
    REPAIR_SET_ASIDE,
    REPAIR_REBUILD_INDEX,
    REPAIR_REBUILD_EPOCHS,
    REPAIR_REWRITE_METADATA,
    REPAIR_REWRITE_CHECKPOINT,
    REPAIR_FORGET_CLEAN_STATE,
    REPAIR_IMPOSSIBLE,
};

struct repair_step {
    enum repair_kind kind;
    char *path;          /* of the file */
    char *folder;        /* of the partition; NULL: a directory's own file */
    int64_t base_offset; /* of the segment */
    uint64_t position;
    int64_t value; /* the offset to cut at, or the number to patch in */
    struct uuid topic_id;
    char *text; /* for the operator */
};

struct repair_plan {
    struct repair_step *v;
    size_t count, capacity;
    size_t impossible;
};
void repair_plan_deinit(struct repair_plan *p);

/* From the report of this partition alone. */
void repair_plan_partition(struct repair_plan *p, struct env *env, const char *folder,
                           const struct partition_facts *facts, const struct verify_report *r);
/* From the report of the directory's own files and of verify_together(), after its partitions;
 * `contradicted`: a partition's report says that the checkpoints are wrong. */
void repair_plan_dir(struct repair_plan *p, const struct log_dir_facts *d,
                     const struct verify_report *r, bool contradicted);
/* Carries out every step but the impossible ones, in order. Stops at the first that fails. */
MUST_USE enum err repair_apply(const struct repair_plan *p, struct env *env,
                               const struct log_dir_facts *dirs, size_t dir_count,
                               struct errmsg *why);

#endif
