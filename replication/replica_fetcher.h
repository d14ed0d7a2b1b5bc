/* replication/replica_fetcher.h -- the follower's side: what this node fetches from one leader.
 *
 * A pure core for one (peer, shard): the partitions that this node follows on that peer, one
 * ordered connection, and one incremental fetch session (KIP-227) on it. It knows no socket, log
 * or clock: what the log says comes in as `struct fetch_log_view`, what must be appended,
 * truncated or sent goes out.
 *
 * The shell (on the worker that owns the connection) does after each event:
 *
 *     while (replica_fetcher_next(f, &effect))
 *         carry the effect out; tell its outcome (on_done, on_epoch_end)
 *     switch (replica_fetcher_poll(f, now, &request))
 *         connect, send, close, or nothing
 *     set a timer to replica_fetcher_deadline_ns(f)
 *
 * How it runs: a full request without waiting makes the session; from then on exactly one request
 * is in the leader's long poll. What an answer brings is validated, appended, and acknowledged by
 * the next request, which goes out at once. When something else must be told while a request is in
 * the long poll (a durable end [H12], a new partition or epoch, an end of truncation), a second
 * one of the same session *supersedes* it: the leader ends the first (with
 * INVALID_FETCH_SESSION_EPOCH if it had nothing yet) and answers the second. Answers come in the
 * order of the requests. A leader that knows no superseding answers late, never wrongly.
 *
 * Invariants (F1-F9 in replication/README.md; checks and tests cite them)
 *  F1  Nothing is appended but what the leader of the partition's present epoch sent in answer to
 *      a request of that epoch, at the offset where the log ends.
 *  F2  What is appended has been validated whole: contiguous, magic 2, CRC, no epoch above the
 *      present one nor below the log's last, no more bytes than asked for but for one batch. Else
 *      nothing of the answer is appended.
 *  F3  Truncation goes to min(our end of the leader's diverging epoch, its end there), where we
 * lack that epoch to the end of our next lower one: always between two batches. It repeats until
 *      the epochs agree (KIP-101/279/320/595); nothing is appended in between.
 *  F4  It goes below the high watermark only if an unclean election stands between what the log
 *      holds and the present epoch [H21c]; else the partition stops, saying so.
 *  F5  The high watermark follows the leader's only while the logs are known to agree up to our
 *      end, and is never above it.
 *  F6  The session names no partition that cannot take what it would bring: one that waits (for
 *      room, truncation, backoff, quota) is forgotten and told anew.
 *  F7  No partition waits for another: trouble, a full log or a truncation stop one alone.
 *  F8  At most two requests are outstanding, and the first of two is superseded by the second.
 *  F9  Every effect handed out with a ticket is answered once; an answer that comes after the
 *      partition was removed changes nothing.
 *
 * Thread:    one: the worker that owns the connection.
 * Ownership: copies all it keeps. Records in effects point into the answer's bytes: they must stay
 *            until replica_fetcher_next() has returned false, or be copied.
 * Units:     offsets count records, `*_ns` are monotonic nanoseconds.
 */
#ifndef FLUXMQ_REPLICATION_REPLICA_FETCHER_H
#define FLUXMQ_REPLICATION_REPLICA_FETCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/base/bytes.h"
#include "protocol/base/err.h"

struct replica_fetcher;

/* The keys replica.fetch.* and replica.socket.timeout.ms. */
struct replica_fetcher_config {
    int32_t max_wait_ms, min_bytes;
    int32_t response_bytes_max, partition_bytes_max;
    uint64_t backoff_ns; /* the longest pause after a failure */
    uint64_t request_timeout_ns;
};

/* `seed`: of the hash map. `broker_epoch`: this node's registration (KIP-903). */
MUST_USE struct replica_fetcher *replica_fetcher_new(const struct replica_fetcher_config *config,
                                                     int64_t broker_epoch, uint64_t seed);
void replica_fetcher_free(struct replica_fetcher *f);
void replica_fetcher_configure(struct replica_fetcher *f,
                               const struct replica_fetcher_config *config);
/* Registered anew: told to the leader at once, for what it knows of us is of the old life [H5]. */
void replica_fetcher_set_broker_epoch(struct replica_fetcher *f, int64_t broker_epoch);

/* ---- what is followed ---- */

struct fetch_key {
    struct uuid topic_id;
    int32_t partition;
};

/* The replica's log at the moment of the event, read then and not before. */
struct fetch_log_view {
    int64_t log_start_offset, log_end_offset, high_watermark;
    /* log_latest_epoch(): also of an epoch that has no records yet, so that the leader finds out
     * that it is no epoch of its log. -1: none. */
    int32_t last_epoch;
    int64_t durable_end_offset;
    bool durable_counts; /* flush.messages=1: the leader is told durable_end_offset [H12] */
};

struct fetch_follow {
    int32_t leader_epoch;
    /* The greatest epoch up to leader_epoch whose election was unclean or of a last known leader
     * [H21c], also when it has been settled since; -1: none. */
    int32_t recovering_epoch;
    bool gaps_allowed; /* compaction: offsets may be missing between batches */
    bool throttled;    /* in follower.replication.throttled.replicas (or its leader's list) */
};

/* Follow the partition from where its log ends, or: its epoch, settings or log have changed. An
 * epoch older than the one followed changes nothing. A view that was read while a truncation
 * ordered by another fetcher still runs is wrong: the replica manager lets no one look then. */
void replica_fetcher_follow(struct replica_fetcher *f, const struct fetch_key *key,
                            const struct fetch_follow *follow, const struct fetch_log_view *log,
                            uint64_t now_ns);
/* Led by somebody else, or by nobody, deleted, or offline. */
void replica_fetcher_unfollow(struct replica_fetcher *f, const struct fetch_key *key);
int32_t replica_fetcher_count(const struct replica_fetcher *f);

/* The durable end, the start or the high watermark moved (needed only while durable ends count, or
 * when the start moved). Unknown partitions are ignored, here and below. */
void replica_fetcher_on_log(struct replica_fetcher *f, const struct fetch_key *key,
                            const struct fetch_log_view *log);
/* After ERR_AGAIN: the log has room again (log_wait_for_room), or has gone offline. */
void replica_fetcher_on_room(struct replica_fetcher *f, const struct fetch_key *key,
                             const struct fetch_log_view *log);
/* Seam for follower.replication.throttled.rate: while the quota is exceeded, throttled partitions
 * that have not caught up are not asked for. */
void replica_fetcher_set_quota_exceeded(struct replica_fetcher *f, bool exceeded);

/* ---- the connection ---- */

enum fetch_action {
    FETCH_NOTHING, /* until an event, or replica_fetcher_deadline_ns() */
    FETCH_CONNECT, /* answer by on_connected() or on_disconnected() */
    FETCH_SEND,    /* the request; if it cannot be sent: on_disconnected() */
    FETCH_CLOSE,   /* nothing is followed any more, or the peer is silent for too long. It counts
                      as disconnected from now on. */
};

struct fetch_ask {
    struct fetch_key key;
    int32_t current_leader_epoch, last_fetched_epoch;
    int64_t fetch_offset, log_start_offset;
    int64_t durable_end_offset; /* -1: leave the tag out, it does not count here */
    int64_t high_watermark;     /* ours when this was sent; not told again when it moves */
};

/* The content of a Fetch request of version 17 or later; valid until the next call. What is
 * followed is told in the order in which the leader should serve it. */
struct fetch_order {
    int32_t correlation_id;
    int64_t broker_epoch; /* ReplicaState.ReplicaEpoch */
    int32_t session_id, session_epoch;
    int32_t max_wait_ms, min_bytes, max_bytes, partition_max_bytes;
    const struct fetch_ask *asks;
    int32_t ask_count;
    const struct fetch_key *forgotten;
    int32_t forgotten_count;
    bool supersedes; /* the request before it, which has not been answered */
};

MUST_USE enum fetch_action replica_fetcher_poll(struct replica_fetcher *f, uint64_t now_ns,
                                                struct fetch_order *out);
/* When to poll again without an event; UINT64_MAX: not. */
uint64_t replica_fetcher_deadline_ns(const struct replica_fetcher *f);

void replica_fetcher_on_connected(struct replica_fetcher *f, uint64_t now_ns);
/* Lost, refused, or not reached. All outstanding requests are void. */
void replica_fetcher_on_disconnected(struct replica_fetcher *f, uint64_t now_ns);

struct fetch_part {
    struct fetch_key key;
    enum err err;
    int64_t high_watermark, log_start_offset; /* with OFFSET_OUT_OF_RANGE too: the log start */
    int32_t diverging_epoch;                  /* -1: none */
    int64_t diverging_end_offset;
    const uint8_t *records;
    size_t records_size;
};

struct fetch_answer {
    int32_t correlation_id;
    enum err err;
    int32_t session_id;
    const struct fetch_part *parts;
    int32_t part_count;
};

/* ERR_MALFORMED: it answers no request of ours; close the connection and say on_disconnected(). */
MUST_USE enum err replica_fetcher_on_answer(struct replica_fetcher *f,
                                            const struct fetch_answer *answer, uint64_t now_ns);

/* ---- effects ---- */

/* Why a partition, or the peer, stands back for a while. */
enum fetch_trouble {
    FETCH_TROUBLE_NONE,
    FETCH_TROUBLE_LEADER,         /* the leader answered `err` */
    FETCH_TROUBLE_MALFORMED,      /* what came is no sequence of whole batches */
    FETCH_TROUBLE_MAGIC,          /* a batch of an old format */
    FETCH_TROUBLE_CRC,            /* damaged */
    FETCH_TROUBLE_NOT_CONTIGUOUS, /* a batch does not begin where our log, or the last one, ends */
    FETCH_TROUBLE_EPOCH_ABOVE,    /* a batch of a later epoch than the leader's [H10] */
    FETCH_TROUBLE_EPOCH_BELOW,    /* a batch of an earlier epoch than the one before it */
    FETCH_TROUBLE_TOO_LARGE,      /* more bytes than asked for */
    FETCH_TROUBLE_ANSWER,         /* numbers that cannot be */
    FETCH_TROUBLE_HIGH_WATERMARK, /* truncation would go below the high watermark (F4) */
    FETCH_TROUBLE_NO_PROGRESS,    /* a truncation changed nothing */
    FETCH_TROUBLE_LOG,            /* our own log answered `err` */
    FETCH_TROUBLE_COUNT,
};
/* For the log and metrics: "crc mismatch". */
const char *fetch_trouble_text(enum fetch_trouble t);

enum fetch_effect_kind {
    /* With the replica's lock held, if it still follows in `leader_epoch` and its log ends at
     * `offset`: append the batches of `records` (there may be none); then the high watermark to
     * min(leader_high_watermark, own end) (partition_on_leader_high_watermark), the log's start to
     * min(leader_log_start_offset, own high watermark), neither ever back. Answer by on_done(): the
     * log's error (ERR_AGAIN: also arrange on_room()), ERR_OFFSET_OUT_OF_RANGE when the log ends
     * elsewhere, ERR_FENCED_LEADER_EPOCH when the epoch has passed. What was appended before the
     * error stays. */
    FETCH_EFFECT_TAKE,
    /* Look up log_epoch_end_offset(log, epoch); answer by on_epoch_end(). */
    FETCH_EFFECT_FIND_EPOCH,
    /* [pool] If it still follows in `leader_epoch`, and keeping it from leading meanwhile:
     * log_truncate(log, offset), also when the log ends there (epochs without records go), then
     * partition_on_log(). If `offset` is below the high watermark, its checkpoint is lowered first,
     * on the disk: a restart would else take what comes in its place for committed.
     * `below_high_watermark`: log it with the range. Answer by on_done(). */
    FETCH_EFFECT_TRUNCATE,
    /* [pool] The same, but drop everything: the log becomes empty and begins at `offset`. Then, if
     * there are any, append `records` (copied first) as FETCH_EFFECT_TAKE would. */
    FETCH_EFFECT_RESTART,
    /* Log it; sent once until the partition (key.partition -1: the peer) is well again. No ticket,
     * no answer. */
    FETCH_EFFECT_TROUBLE,
};

struct fetch_effect {
    enum fetch_effect_kind kind;
    uint64_t ticket; /* to be told with the outcome */
    struct fetch_key key;
    int32_t leader_epoch;
    int64_t offset;
    const uint8_t *records;
    size_t records_size;
    int64_t leader_high_watermark, leader_log_start_offset;
    int32_t epoch; /* FIND_EPOCH */
    bool below_high_watermark;
    bool throttled; /* TAKE: its bytes count for the quota */
    enum fetch_trouble trouble;
    enum err err;
    bool transient; /* TROUBLE: as after any change of leaders, until both nodes know of it */
};

/* Takes the next effect; false: none. Those whose partition or epoch has gone are left out. */
bool replica_fetcher_next(struct replica_fetcher *f, struct fetch_effect *out);

/* The outcome of TAKE, TRUNCATE or RESTART, with the log as it is now. */
void replica_fetcher_on_done(struct replica_fetcher *f, const struct fetch_key *key,
                             uint64_t ticket, enum err err, const struct fetch_log_view *log,
                             uint64_t now_ns);
/* The outcome of FIND_EPOCH: the greatest epoch up to the one asked for that our log knows, and
 * where it ends; -1, -1 when it knows none. */
void replica_fetcher_on_epoch_end(struct replica_fetcher *f, const struct fetch_key *key,
                                  uint64_t ticket, int32_t epoch, int64_t end_offset,
                                  const struct fetch_log_view *log, uint64_t now_ns);

/* ---- looking ---- */

struct replica_fetcher_stats {
    uint64_t requests, full_requests, superseding_requests;
    uint64_t answers, records_bytes;
    uint64_t session_errors;
    uint64_t stale_parts; /* of answers: removed, changed or already there */
    uint64_t truncations, truncations_below_high_watermark, restarts;
    uint64_t troubles[FETCH_TROUBLE_COUNT];
};
const struct replica_fetcher_stats *replica_fetcher_stats(const struct replica_fetcher *f);

struct fetch_status {
    bool asked_for;             /* in the session, or about to be */
    enum fetch_trouble trouble; /* why not, NONE also while it is busy */
    enum err err;
    int64_t lag; /* behind the leader's high watermark; -1: not known yet */
};
/* False: not followed here. */
bool replica_fetcher_status(const struct replica_fetcher *f, const struct fetch_key *key,
                            struct fetch_status *out);
/* The greatest lag (Kafka's MaxLag); looks at all. */
int64_t replica_fetcher_lag_max(const struct replica_fetcher *f);
/* Partitions that stand back for what no change of leaders explains (Kafka's
 * FailedPartitionsCount); looks at all. */
int32_t replica_fetcher_failed_count(const struct replica_fetcher *f);

#endif
