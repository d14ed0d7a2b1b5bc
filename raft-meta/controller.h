/* raft-meta/controller.h -- what the raft leader decides before a command enters the log.
 *
 * The state machine throws no dice and reads no clock, so whatever has to be drawn, placed or
 * defaulted is written into the command here: topic ids, assignments, the time. Every decision is
 * checked again when the command is applied, since the image may have moved on by then.
 *
 * A pure core: (image, command, time, random source) -> completed command. It runs on the leader
 * only, on the meta thread; it keeps no state, so a new leader has nothing to learn.
 */
#ifndef FLUXMQ_RAFT_META_CONTROLLER_H
#define FLUXMQ_RAFT_META_CONTROLLER_H

#include "meta_command.pb-c.h"
#include "raft-meta/image.h"

struct controller {
    int voter_count;
    bool (*is_voter)(void *ctx, int32_t node);
    /* The registered incarnation of the node is silent or gone [H21b]; NULL: nobody knows. */
    bool (*session_is_over)(void *ctx, int32_t node);
    void (*random)(void *ctx, void *out, size_t size);
    void *ctx;
};

/* Completes `c` in place against the newest image. What cannot be decided (too few brokers) is
 * noted in the command, for the state machine to answer in the order of Kafka's checks. */
void controller_complete(const struct controller *k, const struct image *i, int64_t now_unix_ms,
                         MetaCommand *c);

/* The replication factor of topics that ask for the default and whose cluster has none set:
 * min(3, max(voters, registered nodes)). What is created before all have registered is refused,
 * as in Kafka, and not under-replicated for ever. */
int32_t controller_default_replication_factor(const struct controller *k, const struct image *i);

/* Leaders that go back to their preferred (first) replica, where it is in the ISR and may lead: a
 * command for at most BALANCE_MAX of them, in the order of topics; NULL: all are at home. */
#define BALANCE_MAX 1000
MetaCommand *controller_balance(const struct image *i);

/* A random (version 4) id that is neither zero nor reserved, and whose text does not begin with
 * '-' (tools would take it for an option). */
void controller_random_uuid(const struct controller *k, struct uuid *out);

#endif
