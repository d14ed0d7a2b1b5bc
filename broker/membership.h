/* broker/membership.h -- this node as a member of the cluster: the commands that it proposes for
 * itself.
 *
 * It registers (a new incarnation with each start, its endpoints, directories, features), reports
 * the replicas that are offline, unfences itself, and with --adopt-log-dirs tells the cluster of
 * the topics it found; then it has joined, and leads what it is given. While it is a member it
 * carries the ISR proposals of its partitions and the failures of its replicas. A refusal is
 * repeated, from the registration on when that is what it takes.
 *
 * Leaving [H30]: a member of a cluster asks to be shut down. In one step of the state machine its
 * leaders move, it leaves every ISR and may not come back into one. It goes on serving until its
 * own replicas have followed that, and LINGER_NS more when a leader has moved, so that clients
 * hear where to go; then its listeners close, and its connections to the peers last.
 *
 * [H13] Each lane has one command outstanding; raft_node numbers them. What a command changes comes
 * back through the image, never from here.
 *
 * Thread: the meta thread, but for what says "any thread".
 */
#ifndef FLUXMQ_BROKER_MEMBERSHIP_H
#define FLUXMQ_BROKER_MEMBERSHIP_H

#include "protocol/base/env.h"
#include "replication/partition.h"
#include "storage/log.h"

struct node;
struct membership;

struct membership_options {
    /* Registered, unfenced, and what was to be adopted is in the image; this node's replicas have
     * followed it. Once. */
    void (*on_joined)(void *ctx);
    void (*on_left)(void *ctx); /* membership_leave() is over. Once. */
    void (*on_failed)(void *ctx, enum err err, const char *why); /* the process must end */
    void *ctx;
};

struct membership *membership_new(struct node *n, const struct membership_options *o);
void membership_free(struct membership *m);
/* Once, on the meta loop, before anything else there. */
void membership_attach(struct membership *m, struct loop *meta_loop);
/* The image and the logs are there, and the replicas follow the one (transitions_begin()). */
void membership_join(struct membership *m);
/* Controlled shutdown, then on_left: at once (inside the call) when there is no other voter or this
 * node has not joined; soon when nobody leads the quorum; within LEAVE_NS in any case. */
void membership_leave(struct membership *m);
/* The node stops: no step is tried again. */
void membership_end(struct membership *m);

/* This node has joined: when it is fenced, the controller may unfence it. Any thread. */
bool membership_is_serving(const struct membership *m);
/* Of the last registration, -1 before it. Any thread. */
int64_t membership_broker_epoch(const struct membership *m);
/* Of this process: what it registers with. Any thread. */
const struct uuid *membership_incarnation(const struct membership *m);

/* For replica_manager_options, `ctx` a struct membership. Any thread. */
void membership_propose_isr(void *ctx, const struct log_identity *id, const struct effect *e);
/* Before the registration it is only told to the log: joining reports what is offline then. */
void membership_report_offline(void *ctx, const struct log_identity *id, const char *why);

#endif
