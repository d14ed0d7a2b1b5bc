/* broker/node.h -- one node: its parts, in the order in which they start and stop.
 *
 * The node carries image deltas to partitions and proposals of partitions back: replication and
 * raft-meta do not know each other. The simulator runs this same file on another env.
 *
 * Start: log dirs (locks, meta.properties) -> raft node (image) -> recovery of the logs -> joining
 * (membership.h: registered, leader of its partitions) -> listeners accept -> ready.
 */
#ifndef FLUXMQ_BROKER_NODE_H
#define FLUXMQ_BROKER_NODE_H

#include "broker/config.h"
#include "broker/connection_limits.h"
#include "broker/worker.h"
#include "protocol/base/env.h"
#include "protocol/base/logger.h"
#include "protocol/base/metrics.h"
#include "raft-meta/raft_node.h"
#include "replication/fetch_session.h"
#include "replication/replica_manager.h"
#include "storage/log_dir.h"

/* Lanes of this node's proposals [H13]: one command outstanding in each. */
enum node_lane {
    NODE_LANE_SELF = 1,     /* registration, fencing */
    NODE_LANE_REPLICAS = 2, /* ISR proposals, replicas gone offline */
    NODE_LANE_WORKER_0 = 16,
};
#define NODE_LANE_WORKER(i) ((uint32_t)(NODE_LANE_WORKER_0 + (i)))

struct node_private;

struct node {
    struct env *env;
    struct logger *logger;
    const struct config *config;
    struct metrics *metrics;
    struct log_manager *logs;
    struct replica_manager *replicas;
    struct fetchers *fetchers; /* NULL: this node follows nobody */
    struct fetch_session_cache *fetch_sessions;
    struct image_slot images;
    struct connection_limits connections;
    struct raft_node *raft;
    struct loop *meta_loop;
    struct worker **workers;
    int worker_count;
    struct node_private *private;
};

struct node_options {
    struct env *env;
    struct logger *logger;
    const struct config *config;
    /* The libuv loop under a loop of the real env, for raft_disk_uv; NULL in the simulator. */
    struct uv_loop_s *(*uv_loop)(struct loop *loop);
    struct raft_io *(*raft_disk_new)(void *ctx, struct raft_node *n); /* NULL: raft_disk_uv */
    void *raft_disk_ctx;
    /* How many the process may have; connections get three quarters at most, beside
     * max.connections, so that a flood of them takes none from partitions and quorum. 0: no limit
     */
    int64_t descriptors;
    /* On the meta thread. */
    void (*on_ready)(void *ctx); /* registered, unfenced, accepting */
    void (*on_failed)(void *ctx, enum err err, const char *why); /* the process must end */
    void (*on_stopped)(void *ctx);
    void *ctx;
};

/* What can be checked at once is (log directories, their locks); the rest of the start goes on by
 * itself and ends in on_ready or on_failed. */
MUST_USE enum err node_start(const struct node_options *o, struct node **out, struct errmsg *why);
/* Stops serving, closes the logs cleanly, then on_stopped. After on_ready; from any thread. */
void node_stop(struct node *n);
/* After on_stopped, not from a loop of the node. */
void node_free(struct node *n);

/* A worker that was told to close has neither connections nor requests any more. */
void node_worker_quiet(struct node *n);

bool node_is_ready(const struct node *n); /* any thread */
int64_t node_broker_epoch(const struct node *n);
/* The bound port of the i-th configured listener; 0 before it is bound. */
int node_listener_port(const struct node *n, int i);
/* Where clients of listener `name` reach the broker; NULL: it has no such listener. */
const struct endpoint_image *node_endpoint(const struct broker_image *b, const char *listener);
/* Posts `m` to `loop` once this node's replicas have followed every image published before the
 * call: what was just created can then be written and read here. */
void node_after_transitions(struct node *n, struct loop *loop, struct message *m);

#endif
