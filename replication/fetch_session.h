/* replication/fetch_session.h -- incremental fetch sessions (KIP-227), a pure core.
 *
 * A session remembers which partitions a client fetches and what it was told last, so that
 * requests carry only changes and answers only news. What a session shows is what full fetches
 * would show [H48 g].
 *
 * Rules [H32]: sessions are evicted by Kafka's rule (slots; one unused for 2 minutes, or a
 * smaller unprivileged one, makes room); FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH,
 * FETCH_SESSION_TOPIC_ID_ERROR; a session made with topic ids (v13+) never mixes with one by
 * names; partitions that gave records rotate to the end of the order.
 *
 * A request may overlap the one before it in the same session (the client gave up waiting): the
 * newer one wins, and the older one's answer is INVALID_FETCH_SESSION_EPOCH.
 *
 * Thread: the cache has a lock inside and is shared by all workers; a context belongs to the
 * request that made it.
 */
#ifndef FLUXMQ_REPLICATION_FETCH_SESSION_H
#define FLUXMQ_REPLICATION_FETCH_SESSION_H

#include "protocol/base/arena.h"
#include "protocol/base/env.h"
#include "protocol/base/err.h"
#include "protocol/base/metrics.h"

/* Partitions that all sessions together remember. Beyond it no session is made (clients then send
 * full requests), and one that would grow past it is closed. No single request may name more. */
#define FETCH_SESSION_PARTITIONS_MAX 200000

struct fetch_session_cache;

struct fetch_session_cache *fetch_session_cache_new(struct env *env, int32_t slots);
void fetch_session_cache_free(struct fetch_session_cache *c);
void fetch_session_cache_register_metrics(struct fetch_session_cache *c, struct metrics *m);

/* One partition of a request or session. */
struct fetch_partition {
    struct uuid topic_id;  /* zero when the request speaks by name */
    struct str topic_name; /* null when it speaks by id; borrowed or the session's */
    int32_t partition;
    int64_t fetch_offset, log_start_offset;
    int32_t current_leader_epoch, last_fetched_epoch;
    int32_t partition_max_bytes;
    /* Of followers; a consumer's session does not look at them. */
    int64_t durable_end_offset; /* [H12]; -1: not told */
    int64_t high_watermark;     /* that the follower has, from version 18 on; -1: not told */
};

struct fetch_request_view {
    int32_t session_id, session_epoch;
    bool by_topic_id;                         /* version >= 13 */
    bool from_follower;                       /* privileged: a replica of the cluster */
    const struct fetch_partition *partitions; /* those the request names */
    int32_t partition_count;
    const struct fetch_partition *forgotten; /* only topic and partition matter */
    int32_t forgotten_count;
};

struct fetch_context; /* sessionless, full (new session), incremental, or final */

/* A partition that is named twice counts once, as named last.
 * ERR_FETCH_SESSION_ID_NOT_FOUND, ERR_INVALID_FETCH_SESSION_EPOCH,
 * ERR_FETCH_SESSION_TOPIC_ID_ERROR: the answer is that error with no partitions.
 * ERR_TOO_LARGE: more than FETCH_SESSION_PARTITIONS_MAX partitions. */
MUST_USE enum err fetch_session_begin(struct fetch_session_cache *c,
                                      const struct fetch_request_view *q, uint64_t now_ns,
                                      struct fetch_context **out);
void fetch_session_end(struct fetch_context *x); /* frees the context; NULL is harmless */

/* What to fetch, in the order in which bytes are to be given out. */
int32_t fetch_context_count(const struct fetch_context *x);
const struct fetch_partition *fetch_context_at(const struct fetch_context *x, int32_t i);

/* The high watermark that the follower was told last, or said it has when it named the partition
 * since: the answer before may have been dropped there (F1). -1: not known. */
int64_t fetch_context_told_high_watermark(const struct fetch_context *x, int32_t i);

/* What became of partition i. */
struct fetch_outcome {
    enum err err;
    size_t records_bytes;
    int64_t high_watermark, last_stable_offset, log_start_offset;
    int32_t preferred_read_replica; /* -1: none */
    bool diverging;
};
/* Whether partition i must be in the answer: always in a full or sessionless one; in an
 * incremental one only with records, an error, or news. */
bool fetch_context_includes(const struct fetch_context *x, int32_t i,
                            const struct fetch_outcome *o);
/* Once, when the answer is made: the session remembers what was said; `session_id` is what the
 * answer carries (0: no session). ERR_INVALID_FETCH_SESSION_EPOCH when another request has used
 * the session meanwhile: the answer is that error with no partitions. */
MUST_USE enum err fetch_session_commit(struct fetch_context *x,
                                       const struct fetch_outcome *outcomes, uint64_t now_ns,
                                       int32_t *session_id);

#endif
