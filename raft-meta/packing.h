/* raft-meta/packing.h -- commands become one entry.
 *
 * Each command is completed by the controller, given its place in its lane (those of this node; the
 * ones that other nodes forwarded have theirs) and written behind the others. All are completed
 * against one image; the state machine checks again whatever an earlier command of the same entry
 * may have changed. Replicas are not placed behind a command that changes who lives.
 *
 * A command is answered here, at once, when it needs no entry (validate_only) or can have none
 * (too large; no room on the disk: then only control commands and deletions go on [H8]).
 *
 * Thread: the meta loop's.
 */
#ifndef FLUXMQ_RAFT_META_PACKING_H
#define FLUXMQ_RAFT_META_PACKING_H

#include "raft-meta/command.h"
#include "raft-meta/controller.h"
#include "raft-meta/raft_node.h"
#include "raft-meta/raft_space.h"

/* A command on its way through this node: of a proposer here, or forwarded by another node. */
struct submission {
    struct list_node node;
    MetaCommand *command;      /* a copy of the proposer's */
    struct proposal *proposal; /* NULL: of another node, or its proposer has been answered */
    int32_t origin;            /* the node whose command it is */
    /* Of this node's: with which leadership it is; 0: none. */
    uint64_t sent_term, sent_link;
    int attempts;
};

/* NULL: larger than COMMAND_BYTES_MAX. */
struct submission *submission_new(const MetaCommand *c, struct proposal *p, int32_t origin);
void submission_free(struct submission *s);
bool command_is_validation(const MetaCommand *c);

/* Gives a command of this node its place in its lane [H13]: `ahead` commands of the lane that are
 * not in the image come before it. What makes a registration has none: it is guarded by its own
 * preconditions. */
void submission_number(struct submission *s, const struct image *image, uint64_t ahead);

struct packing_lane {
    uint32_t lane;
    uint64_t count; /* of this node's commands in this entry */
};

struct packing_options {
    int32_t node_id;
    const struct image *image;
    const struct controller *controller;
    int64_t unix_ms;
    enum raft_room room;
    /* What gets no place in the entry: `outcome` is handed over, or NULL. `s` is no longer needed:
     * the callee frees it. */
    void (*answer)(void *ctx, struct submission *s, enum err err, MetaOutcome *outcome);
    void *ctx;
};

struct packing {
    struct packing_options o;
    struct entry_writer writer;
    struct list packed; /* struct submission, in order */
    int count;
    struct packing_lane *lanes;
    int lane_count;
    bool brokers_change; /* one of them changes who lives */
    uint64_t refused;    /* for lack of room */
};

void packing_init(struct packing *k, const struct packing_options *o);
void packing_deinit(struct packing *k);
/* `s` is in no list. False: the command belongs to the next entry (this one is full, or changes
 * what the command is completed against). */
MUST_USE bool packing_add(struct packing *k, struct submission *s);
/* Hands over the entry's bytes (free()); what was packed stays in k->packed. */
uint8_t *packing_take(struct packing *k, size_t *size);

/* Posts done() to the proposer's loop. */
void proposal_answer(struct proposal *p, enum err e);

#endif
