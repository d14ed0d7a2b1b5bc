/* replication/replica_manager.h -- the replicas of this node, and who waits for them.
 *
 * The shell around partition.h and storage/log.h: one short lock per replica, the wait lists (the
 * purgatory), and the calls that handlers make. It decides nothing that partition.h can decide.
 *
 * Thread:    any. Nothing here waits for the disk but what is marked [pool].
 * Ownership: a replica is counted; find returns a reference.
 */
#ifndef FLUXMQ_REPLICATION_REPLICA_MANAGER_H
#define FLUXMQ_REPLICATION_REPLICA_MANAGER_H

#include "protocol/base/env.h"
#include "protocol/base/logger.h"
#include "protocol/base/metrics.h"
#include "replication/partition.h"
#include "replication/replica_fetcher.h"
#include "storage/log.h"
#include "storage/log_dir.h"

struct replica;
struct replica_manager;

struct replica_manager_options {
    struct env *env;
    struct logger *logger;
    struct log_manager *logs;
    int32_t node_id;
    /* Effects that leave the node; any thread, no lock held. */
    void (*on_alter_isr)(void *ctx, const struct log_identity *id, const struct effect *e);
    void (*on_offline)(void *ctx, const struct log_identity *id, const char *why);
    void *ctx;
};

struct replica_manager *replica_manager_new(const struct replica_manager_options *o);
void replica_manager_free(struct replica_manager *m);

/* Who fetches for the followers among the replicas; any thread, no lock held. */
struct replica_follower_observer {
    /* A state was taken in, the log went offline, or the replica was removed: see
     * replica_following(). */
    void (*on_state)(void *ctx, struct replica *r);
    /* A follower's durable end or start moved. */
    void (*on_log)(void *ctx, struct replica *r);
    void *ctx;
};
/* Before the first replica is added. */
void replica_manager_observe_followers(struct replica_manager *m,
                                       const struct replica_follower_observer *o);

/* Makes the replica (its log exists) or returns the one that is there. */
struct replica *replica_manager_add(struct replica_manager *m, struct log *log,
                                    int64_t high_watermark_checkpoint);
/* Takes it out: all who wait get ERR_UNKNOWN_TOPIC_OR_PARTITION (UNKNOWN_TOPIC_ID where they asked
 * by id: the handler knows) [H19]. */
void replica_manager_remove(struct replica_manager *m, const struct uuid *topic_id,
                            int32_t partition);
/* A reference, or NULL. */
struct replica *replica_manager_find(struct replica_manager *m, const struct uuid *topic_id,
                                     int32_t partition);
struct replica *replica_ref(struct replica *r);
void replica_unref(struct replica *r);
struct log *replica_log(struct replica *r); /* borrowed */

/* While the log is being cut the state waits; the newest is taken in when that is over. */
void replica_set_state(struct replica *r, const struct partition_state *s);
/* What became of the proposal that on_alter_isr() carried out in `partition_epoch`: see
 * partition_on_isr_result(). */
void replica_isr_result(struct replica *r, int32_t partition_epoch, bool refused);
/* log_configure(), and whether durable ends count (R5). From then on they count at once; that they
 * do not count any more takes effect with the next partition epoch, or at once when this is the
 * only replica [H12]. */
void replica_configure(struct replica *r, const struct log_config *config);
/* For the high-watermark checkpoint and retention. Without a replica (yet): the log's start. */
int64_t replica_manager_high_watermark(struct replica_manager *m, struct log *log);

struct replica_view {
    enum partition_role role;
    int32_t leader, leader_epoch;
    int64_t log_start_offset, high_watermark, last_stable_offset, log_end_offset;
    bool under_min_isr;
    const char *offline_reason; /* NULL: whole */
};
void replica_look(struct replica *r, struct replica_view *out);

/* ---- produce ---- */

struct replica_append {
    struct record_batch *batch; /* validated */
    uint8_t *bytes;             /* its bytes, writable */
    int16_t acks;
    int64_t now_unix_ms;
    int32_t leader_epoch; /* that the request was built for; -1: not checked */
};
struct replica_append_result {
    struct log_append_result log;
    int64_t log_start_offset;
    int32_t leader_id, leader_epoch; /* the current ones, also after an error (KIP-951) */
    /* What must be true before the answer may go: see replica_acknowledged(). */
    int64_t required_offset; /* last_offset + 1 */
    bool done;               /* it is true already */
};
/* ERR_AGAIN: log_wait_for_room(), then repeat. Else as partition_check_append and log_append. A
 * duplicate waits like the first one [H17]. */
MUST_USE enum err replica_append(struct replica *r, const struct replica_append *a,
                                 struct replica_append_result *out);
/* acks=all: HW >= required (then still ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND when the ISR is too
 * small); acks=1: stored, and durable where flush.messages=1. False: wait; true with *err: the
 * wait is over, and so it ended (ERR_NOT_LEADER_OR_FOLLOWER when `leader_epoch` has passed,
 * ERR_KAFKA_STORAGE_ERROR, ERR_UNKNOWN_TOPIC_OR_PARTITION). */
bool replica_acknowledged(struct replica *r, int16_t acks, int32_t leader_epoch,
                          int64_t required_offset, enum err *err);

/* ---- fetch ---- */

struct replica_read {
    struct log_read_options log; /* offset_limit is filled in */
    int32_t leader_epoch;        /* current leader epoch as the client knows it, -1: not checked */
    int32_t last_fetched_epoch;  /* KIP-595 diverging epoch, -1: not checked */
    bool read_committed;
    int32_t replica_id; /* -1: consumer; -2: debugging consumer (reads to the log end, anywhere);
                           else a follower (reads to the log end) */
    bool from_any;      /* a consumer that may read from followers (KIP-392) */
};
struct replica_read_result {
    struct log_read_result data; /* empty queue when nothing is readable */
    int64_t high_watermark, last_stable_offset, log_start_offset;
    int32_t leader_id, leader_epoch;
    int32_t diverging_epoch; /* -1: none */
    int64_t diverging_end_offset;
};
/* ERR_OFFSET_OUT_OF_RANGE, ERR_NOT_LEADER_OR_FOLLOWER, ERR_FENCED_LEADER_EPOCH,
 * ERR_UNKNOWN_LEADER_EPOCH, ERR_KAFKA_STORAGE_ERROR, ERR_AGAIN as log_read(). *out is set in every
 * case (an empty queue after an error) and the queue and `aborted` are the caller's. */
MUST_USE enum err replica_read(struct replica *r, const struct replica_read *q,
                               struct replica_read_result *out);

/* A follower's Fetch: what it says of its log is counted if its last epoch shows that the logs
 * agree up to there; else *out says where they part (diverging_epoch). Once per request and
 * partition of its session, named or not; then replica_read(). Sets also log_start_offset and
 * high_watermark, in every case. Errors: as partition_on_replica_fetch(), ERR_KAFKA_STORAGE_ERROR,
 * ERR_UNKNOWN_TOPIC_OR_PARTITION. */
MUST_USE enum err replica_on_fetch(struct replica *r, const struct replica_fetch *f,
                                   int32_t last_fetched_epoch, struct replica_read_result *out);
/* partition_preferred_replica() */
int32_t replica_preferred(struct replica *r, int64_t offset,
                          bool (*wanted)(void *ctx, int32_t replica), void *ctx);

/* ---- following (replica_follow.c) ---- */

struct replica_following {
    int32_t leader, leader_epoch, recovering_epoch;
    bool gaps_allowed; /* cleanup.policy=compact */
};
/* Whether this replica follows somebody, and whom. */
bool replica_following(struct replica *r, struct replica_following *out);
/* False while the log is being cut: look again when the cut is done. */
bool replica_fetch_view(struct replica *r, struct fetch_log_view *out);

/* What a leader sent (FETCH_EFFECT_TAKE); `records` are whole, validated batches. */
struct replica_take {
    int32_t leader_epoch;
    int64_t expected_end;
    const uint8_t *records;
    size_t records_size;
    int64_t leader_high_watermark, leader_log_start_offset;
    int64_t now_unix_ms;
};
/* Appends, then follows the leader's high watermark and log start as far as our log reaches.
 * *taken: the bytes that were appended, also before an error. ERR_AGAIN: log_wait_for_room() for
 * *room bytes, then repeat with the rest. ERR_FENCED_LEADER_EPOCH (not a follower in that epoch),
 * ERR_OFFSET_OUT_OF_RANGE (the log does not end there), ERR_KAFKA_STORAGE_ERROR and as
 * log_append_replicated(). */
MUST_USE enum err replica_take(struct replica *r, const struct replica_take *t, size_t *taken,
                               size_t *room);

struct replica_cut {
    int32_t leader_epoch;
    int64_t offset;
    bool restart; /* drop everything, begin at `offset` */
};
/* [pool] log_truncate() or log_restart(). Meanwhile the replica neither leads nor takes. When
 * `offset` is below the high watermark that goes back first, on the disk too: a restart would else
 * take what comes in its place for committed. ERR_FENCED_LEADER_EPOCH, ERR_KAFKA_STORAGE_ERROR. */
MUST_USE enum err replica_cut(struct replica *r, const struct replica_cut *c);

/* ---- the other questions of clients ---- */

enum replica_end { REPLICA_END_LOG, REPLICA_END_HIGH_WATERMARK, REPLICA_END_LAST_STABLE };

/* Where reading ends, and the leader's epoch. *end is set also with ERR_OFFSET_NOT_AVAILABLE (R6;
 * never for REPLICA_END_LOG). Else as partition_check_leader(), unless `anywhere`; and
 * ERR_KAFKA_STORAGE_ERROR, ERR_UNKNOWN_TOPIC_OR_PARTITION. */
MUST_USE enum err replica_end_offset(struct replica *r, int32_t leader_epoch,
                                     enum replica_end which, bool anywhere, int64_t *end,
                                     int32_t *epoch_out);
/* OffsetForLeaderEpoch (KIP-101/279/320): -1, -1 when the epoch is unknown here. */
MUST_USE enum err replica_epoch_end(struct replica *r, int32_t current_leader_epoch,
                                    int32_t leader_epoch, int32_t *epoch_out, int64_t *end_out);
/* DeleteRecords [H34]: moves the start to `offset` (-1: the high watermark) and says which offset
 * that was, and the low watermark, which the caller waits for. ERR_OFFSET_OUT_OF_RANGE (negative,
 * or above the high watermark), ERR_POLICY_VIOLATION (cleanup.policy without delete), and as
 * partition_check_leader(). */
MUST_USE enum err replica_delete_records(struct replica *r, int64_t offset, int64_t *requested,
                                         int64_t *low_watermark);
/* True when the wait is over: all live replicas have passed `requested`, or *err says why not. */
bool replica_deleted(struct replica *r, int64_t requested, int64_t *low_watermark, enum err *err);

/* ---- waiting: register, then check again ---- */

enum replica_event {
    REPLICA_ADVANCED = 1, /* HW, durable end, last stable offset or start offset moved */
    REPLICA_CHANGED = 2,  /* role, epoch, offline, removed: the wait must end */
};
struct replica_wait {
    struct list_node node;
    struct replica *replica; /* borrowed; set while registered */
    int64_t offset;          /* wake when the high watermark is >= this; -1: at any advance */
    bool durable;            /* compare with this log's own durable end instead */
    /* A follower waits: wake when this log's own end is >= offset, or the high watermark is above
     * `high_watermark`. Of the caller, before it is added. */
    bool log_end;
    int64_t high_watermark;
    /* With the replica's lock held, on any thread: post a message and nothing else. The wait has
     * been unregistered, and may be freed by whoever gets the message. */
    void (*wake)(struct replica_wait *w, enum replica_event event);
};
void replica_wait_add(struct replica *r, struct replica_wait *w);
/* Harmless when it is not (any more) registered; after it returns wake() will not be called. */
void replica_wait_remove(struct replica *r, struct replica_wait *w);

/* Followers, lag, ISR: once a second. */
void replica_manager_tick(struct replica_manager *m, uint64_t lag_max_ns);
/* Each replica in the order of topic name and partition; fn borrows it. */
void replica_manager_each(struct replica_manager *m, void (*fn)(void *ctx, struct replica *r),
                          void *ctx);
void replica_manager_register_metrics(struct replica_manager *m, struct metrics *metrics);

#endif
