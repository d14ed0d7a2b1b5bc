/* replication/replica_internal.h -- a replica from inside, for replica_manager.c (its life, the
 * leader's side) and replica_follow.c (the follower's side).
 */
#ifndef FLUXMQ_REPLICATION_REPLICA_INTERNAL_H
#define FLUXMQ_REPLICATION_REPLICA_INTERNAL_H

#include "protocol/base/hmap.h"
#include "replication/replica_manager.h"

struct replica {
    struct hmap_node node; /* in the manager */
    atomic_int refs;
    struct replica_manager *manager;
    struct log *log; /* one reference */
    struct mutex lock;
    struct partition *partition GUARDED_BY(lock);
    struct list waits GUARDED_BY(lock);          /* in the order they came */
    struct list follower_waits GUARDED_BY(lock); /* those that wait for the log's end */
    bool durable_counts GUARDED_BY(lock);
    bool durable_ends GUARDED_BY(lock); /* durable_counts is to end with the next partition epoch */
    int32_t partition_epoch GUARDED_BY(lock);  /* last told */
    int32_t recovering_epoch GUARDED_BY(lock); /* the greatest that began so [H21c] */
    bool cleanup_delete GUARDED_BY(lock), cleanup_compact GUARDED_BY(lock);
    /* The log is being cut on the pool: nobody appends, looks or leads meanwhile. A state that
     * comes in waits until it is over. */
    bool cutting GUARDED_BY(lock);
    struct partition_state *pending GUARDED_BY(lock);
    bool removed GUARDED_BY(lock);
};

struct replica_manager {
    struct replica_manager_options options;
    struct mutex lock;
    struct hmap replicas GUARDED_BY(lock); /* by topic id and partition */
    uint64_t seed;
    struct replica_follower_observer follower;
    _Atomic uint64_t isr_shrinks, isr_expands;
};

/* The log's numbers, for the core. */
struct log_view replica_log_view(const struct replica *r) REQUIRES(r->lock);
uint64_t replica_now_ns(const struct replica *r);
/* What an event brought, inside the replica. A proposal leaves the node: the caller carries it out
 * with replica_tell_node() once it has let go of the lock. */
void replica_apply(struct replica *r, const struct effects *effects) REQUIRES(r->lock);
void replica_tell_node(struct replica *r, const struct effects *effects);
/* Everyone looks again. */
void replica_wake_all(struct replica *r) REQUIRES(r->lock);
/* Takes a state in; not while the log is being cut. */
void replica_take_state(struct replica *r, const struct partition_state *s, struct effects *effects)
    REQUIRES(r->lock);

#endif
