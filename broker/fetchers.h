/* broker/fetchers.h -- whom this node follows, for all its replicas (Kafka's
 * ReplicaFetcherManager).
 *
 * Each leader has num.replica.fetchers connections (peer_fetch), each on a worker's loop; a
 * partition is always on the same one of them. The replica manager tells of every change of a
 * replica's state; what follows from it is posted to the loops.
 *
 * Thread: any. Lock order: fetchers, then replica.
 */
#ifndef FLUXMQ_BROKER_FETCHERS_H
#define FLUXMQ_BROKER_FETCHERS_H

#include "protocol/base/env.h"
#include "protocol/base/logger.h"
#include "protocol/base/metrics.h"
#include "replication/replica_fetcher.h"
#include "replication/replica_manager.h"

struct fetchers;

struct fetchers_options {
    struct env *env;
    struct logger *logger;
    struct replica_manager *replicas; /* observed from now on */
    int32_t node_id;
    struct loop *const *loops; /* copied */
    int loop_count;
    int shards;                          /* num.replica.fetchers */
    struct replica_fetcher_config fetch; /* replica.fetch.*, replica.socket.timeout.ms */
    size_t request_bytes_max; /* socket.request.max.bytes: no batch of a leader's log is larger */
    uint64_t connect_timeout_ns;
};

/* Before the first replica is added. */
struct fetchers *fetchers_new(const struct fetchers_options *o);
void fetchers_register_metrics(struct fetchers *f, struct metrics *m);
/* This node's registration as the image shows it: broker epoch and incarnation, which is the token
 * (protocol/fetch_tags.h). Nothing is fetched before. */
void fetchers_set_self(struct fetchers *f, int64_t broker_epoch, const struct uuid *token);
/* Where node `id` is reached by the inter-broker listener. */
void fetchers_set_peer(struct fetchers *f, int32_t id, const char *host, int port);
/* Ends all; `m` is posted once nothing is on the pool any more. Before the logs close and before
 * the loops end. */
void fetchers_end(struct fetchers *f, struct loop *loop, struct message *m);
/* After the loops have ended and the replica manager is gone. */
void fetchers_free(struct fetchers *f);

#endif
