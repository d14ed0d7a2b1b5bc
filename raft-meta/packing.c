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

bool command_is_validation(const MetaCommand *c)
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

struct submission *submission_new(const MetaCommand *c, struct proposal *p, int32_t origin)
{
    size_t size = meta_command__get_packed_size(c);
    struct submission *s;
    uint8_t *bytes;

    if (size > COMMAND_BYTES_MAX)
        return NULL;
    bytes = xmalloc(size + 1);
    (void)meta_command__pack(c, bytes);
    s = xcalloc(1, sizeof *s);
    s->command = meta_command__unpack(NULL, size, bytes);
    CHECK(s->command != NULL);
    s->proposal = p;
    s->origin = origin;
    free(bytes);
    return s;
}

void submission_free(struct submission *s)
{
    meta_command__free_unpacked(s->command, NULL);
    free(s);
}

void submission_number(struct submission *s, const struct image *image, uint64_t ahead)
{
    const struct broker_image *b = image_broker(image, s->origin);
    const struct lane_image *l = image_lane(image, s->origin, s->command->lane);
    MetaCommand *c = s->command;

    c->node = s->origin;
    c->broker_epoch = b != NULL ? b->epoch : -1;
    c->seq = 0;
    if (b == NULL || c->body_case == META_COMMAND__BODY_FORM_CLUSTER ||
        c->body_case == META_COMMAND__BODY_REGISTER_BROKER)
        return;
    c->seq = (l != NULL && l->broker_epoch == b->epoch ? l->seq : 0) + ahead + 1;
}

/* ---- the entry ---- */

void packing_init(struct packing *k, const struct packing_options *o)
{
    *k = (struct packing){.o = *o};
    list_init(&k->packed);
    entry_writer_init(&k->writer);
}

void packing_deinit(struct packing *k)
{
    entry_writer_deinit(&k->writer);
    free(k->lanes);
}

static struct packing_lane *lane_of(struct packing *k, uint32_t lane)
{
    for (int i = 0; i < k->lane_count; i++) {
        if (k->lanes[i].lane == lane)
            return &k->lanes[i];
    }
    k->lanes = xrealloc(k->lanes, ((size_t)k->lane_count + 1) * sizeof *k->lanes);
    k->lanes[k->lane_count] = (struct packing_lane){.lane = lane};
    return &k->lanes[k->lane_count++];
}

/* validate_only: judged by the newest image; leaves no trace. */
static void validate(struct packing *k, struct submission *s)
{
    struct fsm_step *step = fsm_begin(k->o.image, image_index(k->o.image) + 1);
    MetaOutcome *o = fsm_validate(step, s->command);

    fsm_step_free(step);
    k->o.answer(k->o.ctx, s, ERR_NONE, o);
}

static bool changes_brokers(const MetaCommand *c)
{
    switch (c->body_case) {
    case META_COMMAND__BODY_REGISTER_BROKER:
    case META_COMMAND__BODY_UNFENCE_BROKER:
    case META_COMMAND__BODY_FENCE_BROKER:
    case META_COMMAND__BODY_CONTROLLED_SHUTDOWN:
    case META_COMMAND__BODY_UNREGISTER_BROKER:
        return true;
    default:
        return false;
    }
}

/* Which brokers live is looked at when it is completed. */
static bool is_placed(const MetaCommand *c)
{
    return c->body_case == META_COMMAND__BODY_CREATE_TOPICS ||
           c->body_case == META_COMMAND__BODY_CREATE_PARTITIONS;
}

bool packing_add(struct packing *k, struct submission *s)
{
    MetaCommand *c = s->command;
    bool validation = command_is_validation(c);
    struct packing_lane *lane = NULL;
    enum err e;

    /* What would be placed on a broker that this very entry fences waits for the next one. */
    if (k->brokers_change && is_placed(c))
        return false;
    if (!validation && (k->o.room == ROOM_NONE || (k->o.room == ROOM_RESERVED && !makes_room(c)))) {
        k->refused++;
        k->o.answer(k->o.ctx, s, ERR_NO_SPACE, NULL);
        return true;
    }
    controller_complete(k->o.controller, k->o.image, k->o.unix_ms, c);
    if (s->origin == k->o.node_id) {
        lane = lane_of(k, c->lane);
        submission_number(s, k->o.image, lane->count);
    }
    if (validation) {
        validate(k, s);
        return true;
    }
    e = entry_writer_add(&k->writer, c);
    if (e == ERR_AGAIN)
        return false;
    if (e != ERR_NONE) {
        k->o.answer(k->o.ctx, s, e, NULL);
        return true;
    }
    if (lane != NULL && c->seq != 0)
        lane->count++;
    k->brokers_change = k->brokers_change || changes_brokers(c);
    list_push_back(&k->packed, &s->node);
    k->count++;
    return true;
}

uint8_t *packing_take(struct packing *k, size_t *size)
{
    return entry_writer_take(&k->writer, size);
}
