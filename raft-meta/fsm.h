/* raft-meta/fsm.h -- the state machine: (image, index, command) -> (image, outcome).
 *
 * Deterministic and total: it looks at the command, the image and the time in the command alone,
 * never fails for a local reason, and answers every command with Kafka's error codes and words.
 * A command that is refused changes nothing but its lane. Items of one command (topics, resources,
 * partitions) are judged one by one.
 *
 * The commands of one raft entry make one step from one published image to the next:
 *
 *     struct fsm_step *s = fsm_begin(image, index);
 *     for each command: outcome = fsm_apply(s, command);
 *     const struct image_delta *d = fsm_finish(s);      // d->after is the new image
 *     ...publish it with a reference of your own...
 *     fsm_step_free(s);
 *
 * A step that is freed without fsm_finish() never happened: that is validate_only.
 *
 * Thread: one at a time.
 */
#ifndef FLUXMQ_RAFT_META_FSM_H
#define FLUXMQ_RAFT_META_FSM_H

#include "meta_command.pb-c.h"
#include "raft-meta/image.h"

/* A partition has at most this many replicas; more are refused. */
#define REPLICAS_MAX 128

struct fsm_step;

struct fsm_step *fsm_begin(const struct image *base, uint64_t index);
/* Freed by meta_outcome__free_unpacked. Never NULL. */
MetaOutcome *fsm_apply(struct fsm_step *s, const MetaCommand *c);
/* Judges a command as fsm_apply() would, without its lane or time. */
MetaOutcome *fsm_validate(struct fsm_step *s, const MetaCommand *c);
/* Ends the step; the delta and its image live until fsm_step_free(). */
const struct image_delta *fsm_finish(struct fsm_step *s);
/* The image as far as it has been made. */
struct image *fsm_step_image(struct fsm_step *s);
void fsm_step_free(struct fsm_step *s);

/* Why a name cannot be a topic's, in Kafka's words; false when it can. */
bool topic_name_is_bad(struct str name, struct errmsg *why);

#endif
