/* replication/partition.h -- one replica of one topic-partition, as leader or follower.
 *
 * A pure core: it reads no clock and touches no socket, file or lock. The caller says what
 * happened and when; the partition changes its state and lists what must be done (effects).
 *
 * Invariants (Rn in replication/README.md; checks and tests cite them)
 *  R1  At most one leader per leader epoch; events of an older epoch change nothing (P3).
 *  R2  A leader's high watermark never decreases within its epoch.
 *  R3  high watermark = min log end offset over the maximal ISR, and it does not move while the
 *      committed ISR is smaller than the effective min ISR [H4].
 *  R4  A follower that has not fetched in this leader and broker epoch counts as -1 [H5], and one
 *      that is caught up and may join holds the high watermark like a member.
 *  R5  For topics with flush.messages=1 a replica's durable end takes the place of its log end
 *      offset, the leader's own included [H12].
 *  R6  A new leader says OFFSET_NOT_AVAILABLE until its HW has passed its epoch's start [H18].
 *  R7  At most one ISR proposal is in flight; one whose outcome is unknown stays in the maximal
 *      ISR until a newer partition epoch is seen [H4].
 *
 * Thread:    one at a time; replica_manager.c holds the replica's lock around each call.
 * Ownership: borrows the log's numbers through `log_view` of each event; owns its follower table.
 * Units:     offsets count records, `*_ns` are monotonic nanoseconds.
 */
#ifndef FLUXMQ_REPLICATION_PARTITION_H
#define FLUXMQ_REPLICATION_PARTITION_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/base/bytes.h"
#include "protocol/base/err.h"

/* The state machine refuses more. */
#define PARTITION_REPLICAS_MAX 128

enum partition_role { PARTITION_OFFLINE, PARTITION_LEADER, PARTITION_FOLLOWER };

/* What the image says of the partition; carried here by node.c (replication knows no image). */
struct partition_state {
    int32_t leader, leader_epoch, partition_epoch;
    int32_t replicas[PARTITION_REPLICAS_MAX],
        isr[PARTITION_REPLICAS_MAX];                   /* isr: a subset of replicas */
    int64_t isr_broker_epochs[PARTITION_REPLICAS_MAX]; /* of isr[i] as registered */
    /* Of replicas[i] while its broker is registered, unfenced and not shutting down, else -1: only
     * such a replica may join the ISR (KIP-903) and counts as live. When brokers change, the same
     * partition epoch is told again with new values. */
    int64_t live_broker_epochs[PARTITION_REPLICAS_MAX];
    int replica_count, isr_count;
    int effective_min_isr;
    bool recovering;          /* unclean or last-known-leader election not settled yet [H21c] */
    int32_t recovering_epoch; /* the last that began so, also when it has been settled; -1: none */
};

/* The log's numbers at the moment of the event. */
struct log_view {
    int64_t log_start_offset, log_end_offset, durable_end_offset;
    bool durable_counts; /* flush.messages=1 (R5) */
};

enum effect_kind {
    EFFECT_HW_ADVANCED,  /* offset: the new high watermark */
    EFFECT_ALTER_ISR,    /* propose `isr` with these epochs; answer by partition_on_isr_result() */
    EFFECT_BEGIN_EPOCH,  /* this replica leads from now on: log_begin_leader_epoch(epoch) */
    EFFECT_FAIL_WAITERS, /* leadership gone: everyone who waits gets `err` */
};

struct effect {
    enum effect_kind kind;
    enum err err;
    int64_t offset;
    int32_t epoch, partition_epoch;
    int32_t isr[PARTITION_REPLICAS_MAX];
    int64_t isr_broker_epochs[PARTITION_REPLICAS_MAX]; /* as last fetched with; -1: not checked */
    int isr_count;
    bool recovered; /* EFFECT_ALTER_ISR: also propose that the recovery is settled [H21c] */
};

/* One event has at most one of each kind. */
#define EFFECTS_MAX 4
/* Each event sets it anew. */
struct effects {
    struct effect list[EFFECTS_MAX];
    int count;
};

struct partition;

MUST_USE struct partition *partition_new(int32_t node_id, int64_t high_watermark_checkpoint);
void partition_free(struct partition *p);

enum partition_role partition_role(const struct partition *p);
int32_t partition_leader(const struct partition *p); /* -1: none */
int32_t partition_leader_epoch(const struct partition *p);
int64_t partition_high_watermark(const struct partition *p);
bool partition_under_min_isr(const struct partition *p);
int partition_isr_count(const struct partition *p);
int partition_replica_count(const struct partition *p);

/* The image moved: becomes leader, follower or neither. States of an older partition epoch change
 * nothing (R1). */
void partition_on_state(struct partition *p, const struct partition_state *s,
                        const struct log_view *log, uint64_t now_ns, struct effects *out);

/* Whether a client's request may be served here: ERR_NONE, ERR_NOT_LEADER_OR_FOLLOWER,
 * ERR_FENCED_LEADER_EPOCH or ERR_UNKNOWN_LEADER_EPOCH (KIP-320; epoch -1: not checked). */
MUST_USE enum err partition_check_leader(const struct partition *p, int32_t leader_epoch);
/* Before an acks=all append: also ERR_NOT_ENOUGH_REPLICAS. */
MUST_USE enum err partition_check_append(const struct partition *p, bool acks_all);

/* The log grew, became durable further, or its start moved. */
void partition_on_log(struct partition *p, const struct log_view *log, uint64_t now_ns,
                      struct effects *out);

struct replica_fetch {
    int32_t replica;
    int64_t broker_epoch; /* -1: unknown (old versions) */
    int32_t leader_epoch;
    int64_t fetch_offset;
    int64_t durable_end_offset; /* -1: absent, so not known: where it counts, -1 [H12] */
    int64_t log_start_offset;
};
/* A follower asked for records from `f->fetch_offset`: so it has everything before it. To be called
 * only when its last fetched epoch shows that its log agrees with ours up to there: one that is
 * told to truncate has acknowledged nothing (KIP-595). May advance the high watermark or propose a
 * larger ISR.
 * Errors: ERR_FENCED_LEADER_EPOCH, ERR_UNKNOWN_LEADER_EPOCH (also: no replica of this partition),
 * ERR_NOT_LEADER_OR_FOLLOWER (also: from an older incarnation of that broker),
 * ERR_OFFSET_OUT_OF_RANGE (beyond our end); after an error nothing has changed. */
MUST_USE enum err partition_on_replica_fetch(struct partition *p, const struct replica_fetch *f,
                                             const struct log_view *log, uint64_t now_ns,
                                             struct effects *out);
/* The ISR proposal made in `partition_epoch` was refused, or its outcome is unknown (it then stays
 * in the maximal ISR until a newer partition epoch is seen). One that succeeded is seen as a newer
 * partition epoch; what comes later about it changes nothing. */
void partition_on_isr_result(struct partition *p, int32_t partition_epoch, bool refused,
                             const struct log_view *log, uint64_t now_ns, struct effects *out);
/* Follower: the log is about to be cut to end at `offset`. The only way back for a high watermark
 * [H21c]; returns whether it lay above. */
MUST_USE bool partition_lower_high_watermark(struct partition *p, int64_t offset);
/* Follower: what came from the leader is appended, and the leader's high watermark was this. */
void partition_on_leader_high_watermark(struct partition *p, int64_t high_watermark,
                                        const struct log_view *log, struct effects *out);
/* Looks for followers that lag longer than `lag_max_ns` and proposes to drop them. */
void partition_on_tick(struct partition *p, const struct log_view *log, uint64_t lag_max_ns,
                       uint64_t now_ns, struct effects *out);

/* KIP-392: a live member of the ISR whose log, as it last told, holds `offset`; the most caught-up
 * first, this node before others. -1: none of those for which wanted() is true. */
int32_t partition_preferred_replica(const struct partition *p, int64_t offset,
                                    const struct log_view *log,
                                    bool (*wanted)(void *ctx, int32_t replica), void *ctx);

/* Least log start offset of the live replicas, for DeleteRecords [H34]. */
int64_t partition_low_watermark(const struct partition *p, const struct log_view *log);

/* Where a consumer's reading ends: HW, or last stable offset with read_committed. A leader that
 * has not settled (R6) says so: ERR_OFFSET_NOT_AVAILABLE, which is for who asks where the end is;
 * who reads takes *end, which is set all the same. */
MUST_USE enum err partition_readable_end(const struct partition *p, int64_t first_unstable_offset,
                                         bool read_committed, int64_t *end);

#endif
