/* raft-meta/packing.h -- proposals become one entry.
 *
 * Each command is copied, completed by the controller, given its place in its lane and written
 * behind the others. All are completed against one image; the state machine checks again whatever
 * an earlier command of the same entry may have changed.
 *
 * A proposal is answered here, at once, when it needs no entry (validate_only) or can have none
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

struct packing_lane {
    uint32_t lane;
    uint64_t count; /* of its commands in this entry */
};

struct packing {
    int32_t node_id;
    const struct image *image;
    const struct controller *controller;
    int64_t unix_ms;
    enum raft_room room;
    struct entry_writer writer;
    struct proposal **proposals; /* whose commands are in the entry, in order */
    int count;
    struct packing_lane *lanes;
    int lane_count;
    uint64_t refused; /* for lack of room */
};

void packing_init(struct packing *k, int32_t node_id, const struct image *image,
                  const struct controller *controller, int64_t unix_ms, enum raft_room room);
void packing_deinit(struct packing *k);
/* False: the entry is full, the proposal belongs to the next one. */
MUST_USE bool packing_add(struct packing *k, struct proposal *p);
/* Hands over the list of proposals and the entry's bytes (free() both). */
struct proposal **packing_take(struct packing *k, int *count, uint8_t **bytes, size_t *size);

/* Posts done() to the proposer's loop. */
void proposal_answer(struct proposal *p, enum err e);

#endif
