/* broker/peer_fetch.h -- one connection by which this node follows a leader: the shell of
 * replica_fetcher.
 *
 * It dials the leader's inter-broker listener, sends the core's requests as Fetch of the newest
 * version (ApiVersions is not asked for: the other node is one of ours, and fluxmq.version gates
 * what is new), decodes answers within bounds, and carries out effects: appends at once, cuts on
 * the pool. What finds no room in the log is kept, up to RETAINED_BYTES_MAX, and appended when
 * there is.
 *
 * Thread: the loop it lives on, but for peer_fetch_new(), _free() and _look().
 * Ownership: replicas are looked up; a reference is held only while something of one is under way.
 */
#ifndef FLUXMQ_BROKER_PEER_FETCH_H
#define FLUXMQ_BROKER_PEER_FETCH_H

#include "protocol/base/env.h"
#include "protocol/base/logger.h"
#include "replication/replica_fetcher.h"
#include "replication/replica_manager.h"

struct peer_fetch;

struct peer_fetch_options {
    struct env *env;
    struct logger *logger;
    struct loop *loop;
    struct replica_manager *replicas;
    int32_t node_id; /* this node */
    int32_t leader;  /* the other one */
    int shard;
    struct replica_fetcher_config fetch;
    size_t answer_bytes_max; /* a longer one ends the connection */
    uint64_t connect_timeout_ns;
};

struct peer_fetch *peer_fetch_new(const struct peer_fetch_options *o);
/* After it is quiet, and its loop has ended. */
void peer_fetch_free(struct peer_fetch *f);

struct loop *peer_fetch_loop(const struct peer_fetch *f);

/* This node's registration: nothing is asked for before it is known. */
void peer_fetch_set_self(struct peer_fetch *f, int64_t broker_epoch, const struct uuid *token);
/* Where the leader is reached; "": not known. Counts from the next connection on. */
void peer_fetch_set_address(struct peer_fetch *f, const char *host, int port);
void peer_fetch_follow(struct peer_fetch *f, struct replica *r,
                       const struct replica_following *how);
void peer_fetch_unfollow(struct peer_fetch *f, const struct fetch_key *key);
/* A follower's durable end or start moved. */
void peer_fetch_on_log(struct peer_fetch *f, const struct fetch_key *key);
/* Ends the connection; quiet() follows, at once or once what is on the pool has ended. What waits
 * for room then still is dropped when the log says so, or closes. */
void peer_fetch_close(struct peer_fetch *f, void (*quiet)(void *ctx), void *ctx);

struct peer_fetch_view {
    int64_t lag_max;
    int64_t partitions, failed; /* failed: that cannot go on by themselves, or not soon */
    uint64_t requests, records_bytes, truncations, truncations_below_high_watermark, troubles;
};
/* As it was within the last second; any thread. */
void peer_fetch_look(const struct peer_fetch *f, struct peer_fetch_view *out);

#endif
