/* raft-meta/packing.c -- see packing.h. */
#include "raft-meta/packing.h"

#include <stdlib.h>

#include "raft-meta/fsm.h"
#include "raft-meta/image_edit.h"

/* ---- answering ---- */

static void run_done(struct message *m)
{
    struct proposal *p = CONTAINER_OF(m, struct proposal, message);

    p->done(p);
}

void proposal_answer(struct proposal *p, enum err e)
{
    p->err = e;
    p->message.run = run_done;
    loop_post(p->loop, &p->message);
}

void proposal_release(struct proposal *p)
{
    if (p->outcome != NULL)
        meta_outcome__free_unpacked(p->outcome, NULL);
    p->outcome = NULL;
}

/* ---- one command ---- */

static bool is_validation(const MetaCommand *c)
{
    switch (c->body_case) {
    case META_COMMAND__BODY_CREATE_TOPICS:
        return c->create_topics->validate_only;
    case META_COMMAND__BODY_CREATE_PARTITIONS:
        return c->create_partitions->validate_only;
    case META_COMMAND__BODY_SET_CONFIGS:
        return c->set_configs->validate_only;
    case META_COMMAND__BODY_UPDATE_FEATURES:
        return c->update_features->validate_only;
    default:
        return false;
    }
}

static bool makes_room(const MetaCommand *c)
{
    return command_is_control(c) || c->body_case == META_COMMAND__BODY_DELETE_TOPICS;
}

/* The proposer's command stays as it was given; what is completed is a copy. */
static MetaCommand *copy_command(const MetaCommand *c)
{
    size_t size = meta_command__get_packed_size(c);
    MetaCommand *copy;
    uint8_t *bytes;

    if (size > COMMAND_BYTES_MAX)
        return NULL;
    bytes = xmalloc(size + 1);
    (void)meta_command__pack(c, bytes);
    copy = meta_command__unpack(NULL, size, bytes);
    free(bytes);
    return copy;
}

/* The command's place in its lane [H13]. What makes a registration has none: it is guarded by its
 * own preconditions. */
static void number_command(struct packing *k, uint32_t lane, MetaCommand *c)
{
    const struct broker_image *b = image_broker(k->image, k->node_id);
    const struct lane_image *l = image_lane(k->image, k->node_id, lane);
    struct packing_lane *at = NULL;

    c->broker_epoch = b != NULL ? b->epoch : -1;
    c->lane = lane;
    c->seq = 0;
    if (b == NULL || c->body_case == META_COMMAND__BODY_FORM_CLUSTER ||
        c->body_case == META_COMMAND__BODY_REGISTER_BROKER)
        return;
    for (int i = 0; i < k->lane_count && at == NULL; i++)
        at = k->lanes[i].lane == lane ? &k->lanes[i] : NULL;
    if (at == NULL) {
        k->lanes = xrealloc(k->lanes, ((size_t)k->lane_count + 1) * sizeof *k->lanes);
        at = &k->lanes[k->lane_count++];
        *at = (struct packing_lane){.lane = lane};
    }
    c->seq = (l != NULL && l->broker_epoch == b->epoch ? l->seq : 0) + at->count + 1;
}

static void count_lane(struct packing *k, const MetaCommand *c)
{
    for (int i = 0; c->seq != 0 && i < k->lane_count; i++) {
        if (k->lanes[i].lane == c->lane)
            k->lanes[i].count++;
    }
}

/* validate_only: judged by the newest image; leaves no trace. */
static void validate(struct packing *k, struct proposal *p, const MetaCommand *c)
{
    struct fsm_step *s = fsm_begin(k->image, image_index(k->image) + 1);

    p->outcome = fsm_validate(s, c);
    p->index = image_index(k->image);
    fsm_step_free(s);
    proposal_answer(p, ERR_NONE);
}

/* ---- the entry ---- */

void packing_init(struct packing *k, int32_t node_id, const struct image *image,
                  const struct controller *controller, int64_t unix_ms, enum raft_room room)
{
    *k = (struct packing){.node_id = node_id,
                          .image = image,
                          .controller = controller,
                          .unix_ms = unix_ms,
                          .room = room};
    entry_writer_init(&k->writer);
}

void packing_deinit(struct packing *k)
{
    entry_writer_deinit(&k->writer);
    free(k->proposals);
    free(k->lanes);
}

/* Completes and writes; true unless the entry is full. */
static bool write_command(struct packing *k, struct proposal *p, MetaCommand *c)
{
    enum err e;

    controller_complete(k->controller, k->image, k->unix_ms, c);
    c->node = k->node_id;
    if (is_validation(c)) {
        validate(k, p, c);
        return true;
    }
    number_command(k, p->lane, c);
    e = entry_writer_add(&k->writer, c);
    if (e == ERR_AGAIN)
        return false;
    if (e != ERR_NONE) {
        proposal_answer(p, e);
        return true;
    }
    k->proposals = xrealloc(k->proposals, ((size_t)k->count + 1) * sizeof(void *));
    k->proposals[k->count++] = p;
    count_lane(k, c);
    return true;
}

bool packing_add(struct packing *k, struct proposal *p)
{
    MetaCommand *c;
    bool ok;

    if (!is_validation(p->command) &&
        (k->room == ROOM_NONE || (k->room == ROOM_RESERVED && !makes_room(p->command)))) {
        k->refused++;
        proposal_answer(p, ERR_NO_SPACE);
        return true;
    }
    c = copy_command(p->command);
    if (c == NULL) {
        proposal_answer(p, ERR_TOO_LARGE);
        return true;
    }
    ok = write_command(k, p, c);
    meta_command__free_unpacked(c, NULL);
    return ok;
}

struct proposal **packing_take(struct packing *k, int *count, uint8_t **bytes, size_t *size)
{
    struct proposal **list = k->proposals;

    *count = k->count;
    *bytes = entry_writer_take(&k->writer, size);
    k->proposals = NULL;
    k->count = 0;
    return list;
}
