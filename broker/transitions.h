/* broker/transitions.h -- the node's replicas follow the image.
 *
 * Image deltas are queued on the meta thread and carried out in order by one pool job at a time
 * (folders are made and renamed): logs are created and deleted, replicas added, removed, made
 * leaders or followers, configured. replication and raft-meta do not know each other; this is
 * where one becomes the other. When brokers change, every replica is told anew who lives, and the
 * fetchers where the others are reached.
 *
 * Thread: push, begin and end on the meta thread; after() from any.
 */
#ifndef FLUXMQ_BROKER_TRANSITIONS_H
#define FLUXMQ_BROKER_TRANSITIONS_H

#include "protocol/base/env.h"
#include "raft-meta/image.h"
#include "storage/log_dir.h"

struct node;
struct transitions;

struct transitions *transitions_new(struct node *n);
void transitions_free(struct transitions *t);
/* The logs are open: start with the image as it is now; deltas pushed before are part of it. */
void transitions_begin(struct transitions *t);
void transitions_push(struct transitions *t, const struct image_delta *delta);
/* Tries again, every few seconds at most, to make the logs that could not be made (a full disk). On
 * the meta thread. */
void transitions_retry(struct transitions *t, uint64_t now_ns);
/* Posts `m` once everything pushed before has been carried out. */
void transitions_after(struct transitions *t, struct loop *loop, struct message *m);
/* Before the logs close: nothing more is carried out (what is under way ends after its current
 * partition), and then `m` is posted. What is left out, the next start finds in the image. */
void transitions_end(struct transitions *t, struct loop *loop, struct message *m);

/* What the image says of a folder, by its name and the topic id in it; for
 * log_manager_set_aside_strays(). */
enum log_claim transitions_claim(const struct image *i, int32_t node_id,
                                 const struct log_identity *folder, struct uuid *right_id);

#endif
