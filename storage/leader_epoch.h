/* storage/leader_epoch.h -- where each leader epoch begins in a log (KIP-101, KIP-279, KIP-320).
 *
 * Epochs and their start offsets both grow. The file (leader-epoch-checkpoint, Kafka's version 0)
 * is a hint: after an unclean stop the part above what was known to be whole is rebuilt from the
 * batches, which carry their epoch.
 *
 * Thread: belongs to its log's lock.
 */
#ifndef FLUXMQ_STORAGE_LEADER_EPOCH_H
#define FLUXMQ_STORAGE_LEADER_EPOCH_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/base/err.h"
#include "storage/checkpoint.h"

struct leader_epoch {
    int32_t epoch;
    int64_t start_offset;
};

struct leader_epochs {
    struct leader_epoch *v; /* ascending; NULL while empty */
    int32_t count, capacity;
    bool dirty; /* differs from the file */
};

void leader_epochs_deinit(struct leader_epochs *e);
/* Epoch `epoch` begins at `start_offset`. What contradicts it (epochs not below it, or that begin
 * at or behind it) goes, as in Kafka; the latest epoch again, from a later offset, is nothing new.
 */
void leader_epochs_assign(struct leader_epochs *e, int32_t epoch, int64_t start_offset);
/* The log was cut to end at `offset`. */
void leader_epochs_truncate_end(struct leader_epochs *e, int64_t offset);
/* The log now begins at `offset`: the epoch that holds it begins there. */
void leader_epochs_truncate_start(struct leader_epochs *e, int64_t offset);

int32_t leader_epochs_latest(const struct leader_epochs *e);             /* -1 when empty */
int32_t leader_epochs_at(const struct leader_epochs *e, int64_t offset); /* -1 when unknown */
/* Answers OffsetForLeaderEpoch: -1, -1 for an epoch above the latest, or none. */
void leader_epochs_end_offset(const struct leader_epochs *e, int32_t requested,
                              int64_t log_end_offset, int32_t *epoch_out, int64_t *end_out);

void leader_epochs_format(const struct leader_epochs *e, struct text *t);
/* ERR_MALFORMED when lines cannot be read or do not ascend; `out` then holds those before. */
MUST_USE enum err leader_epochs_parse(const uint8_t *p, size_t size, struct leader_epochs *out,
                                      struct errmsg *why);

#endif
