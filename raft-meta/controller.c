/* raft-meta/controller.c -- see controller.h. */
#include "raft-meta/controller.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/hmap.h"
#include "raft-meta/command.h"
#include "raft-meta/placement.h"

#define PLACEMENT_SEED 0x706c6163656dull

void controller_random_uuid(const struct controller *k, struct uuid *out)
{
    do {
        k->random(k->ctx, out->b, sizeof out->b);
        out->b[6] = (uint8_t)((out->b[6] & 0x0f) | 0x40); /* version 4: never a reserved id */
        out->b[8] = (uint8_t)((out->b[8] & 0x3f) | 0x80);
    } while (out->b[0] >> 2 == 62); /* '-' in URL-safe base64 */
}

int32_t controller_default_replication_factor(const struct controller *k, const struct image *i)
{
    int32_t nodes = MAX(image_broker_count(i), (int32_t)k->voter_count);

    return nodes < 1 ? 1 : MIN(3, nodes);
}

static MetaAssignment **assignments_new(const int32_t *replicas, int32_t count, int32_t factor)
{
    MetaAssignment **list = xcalloc((size_t)count + 1, sizeof *list);

    for (int32_t p = 0; p < count; p++) {
        list[p] = xmalloc(sizeof **list);
        meta_assignment__init(list[p]);
        list[p]->n_replicas = (size_t)factor;
        list[p]->replicas = xcalloc((size_t)factor, sizeof *list[p]->replicas);
        memcpy(list[p]->replicas, replicas + (size_t)p * (size_t)factor,
               (size_t)factor * sizeof *replicas);
    }
    return list;
}

static void assignments_free(MetaAssignment ***list, size_t *count)
{
    for (size_t i = 0; i < *count; i++)
        meta_assignment__free_unpacked((*list)[i], NULL);
    free(*list);
    *list = NULL;
    *count = 0;
}

/* ---- CreateTopics ---- */

static void place_topic(const struct image *i, MetaCreateTopics__Topic *t, int32_t partitions,
                        int32_t factor)
{
    uint64_t seed = hash_bytes(PLACEMENT_SEED, t->topic_id.data, t->topic_id.len);
    int32_t *replicas;
    struct errmsg why;
    enum err e;

    t->resolved_replication_factor = factor;
    /* More replicas than brokers can never be; do not ask for the memory. */
    replicas = xcalloc((size_t)partitions,
                       sizeof *replicas * (size_t)(MIN(factor, image_broker_count(i)) + 1));
    e = placement_place(i, seed, 0, partitions, factor, replicas, &why);
    if (e == ERR_NONE) {
        t->assignments = assignments_new(replicas, partitions, factor);
        t->n_assignments = (size_t)partitions;
    } else {
        char text[sizeof why.text + 64];

        snprintf(text, sizeof text, "Unable to replicate the partition %d time(s): %s", factor,
                 why.text);
        t->placement_error = e;
        proto_set_str(&t->placement_message, str_from(text));
    }
    free(replicas);
}

static void complete_create_topics(const struct controller *k, const struct image *i,
                                   MetaCreateTopics *c)
{
    int64_t total = 0;

    for (size_t n = 0; n < c->n_topics; n++) {
        MetaCreateTopics__Topic *t = c->topics[n];
        int32_t partitions = t->num_partitions, factor = t->replication_factor;
        struct uuid id;

        if (t->topic_id.len != sizeof id.b) { /* an adopted topic brings its own (clients cannot) */
            controller_random_uuid(k, &id);
            proto_set_bytes(&t->topic_id, id.b, sizeof id.b);
        }
        assignments_free(&t->assignments, &t->n_assignments);
        t->placement_error = 0;
        if (t->n_manual > 0) {
            total += (int64_t)t->n_manual;
            continue;
        }
        if (partitions == -1)
            partitions = c->default_num_partitions > 0 ? c->default_num_partitions : 1;
        if (factor == -1)
            factor = c->default_replication_factor > 0
                         ? c->default_replication_factor
                         : controller_default_replication_factor(k, i);
        if (partitions <= 0 || factor <= 0)
            continue; /* the state machine says so */
        total += partitions;
        if (total > COMMAND_PARTITIONS_MAX) {
            t->placement_error = ERR_POLICY_VIOLATION;
            return;
        }
        place_topic(i, t, partitions, factor);
    }
}

/* ---- CreatePartitions ---- */

static void complete_create_partitions(const struct image *i, MetaCreatePartitions *c)
{
    int64_t total = 0;

    for (size_t n = 0; n < c->n_topics; n++) {
        MetaCreatePartitions__Topic *t = c->topics[n];
        const struct topic_image *topic = image_topic(i, proto_view(t->name));
        int32_t added, factor, *replicas;
        struct errmsg why;
        enum err e;

        assignments_free(&t->assignments, &t->n_assignments);
        t->placement_error = 0;
        if (topic == NULL || t->has_manual || t->count <= topic->partition_count)
            continue;
        added = t->count - topic->partition_count;
        total += added;
        if (total > COMMAND_PARTITIONS_MAX) {
            t->placement_error = ERR_POLICY_VIOLATION;
            proto_set_str(&t->placement_message,
                          STR_LIT("Excessively large number of partitions per request."));
            continue;
        }
        factor = topic_partition(topic, 0)->replica_count;
        replicas = xcalloc((size_t)added, sizeof *replicas * (size_t)factor);
        t->first_partition = topic->partition_count;
        e = placement_place(i, hash_bytes(PLACEMENT_SEED, topic->id.b, sizeof topic->id.b),
                            t->first_partition, added, factor, replicas, &why);
        if (e == ERR_NONE) {
            t->assignments = assignments_new(replicas, added, factor);
            t->n_assignments = (size_t)added;
        } else {
            t->placement_error = e;
            proto_set_str(&t->placement_message, str_from(why.text));
        }
        free(replicas);
    }
}

/* ---- preferred leaders ---- */

static bool is_away(const struct image *i, const struct partition_image *p)
{
    const struct broker_image *b = image_broker(i, p->replicas[0]);
    bool in_sync = false;

    if (p->leader < 0 || p->leader == p->replicas[0] || b == NULL || b->fenced ||
        b->in_controlled_shutdown)
        return false;
    for (int16_t k = 0; k < p->offline_count; k++) {
        if (p->offline[k] == p->replicas[0])
            return false;
    }
    for (int16_t k = 0; k < p->isr_count; k++)
        in_sync = in_sync || p->isr[k] == p->replicas[0];
    return in_sync;
}

static void add_election(MetaElectLeaders *e, const struct topic_image *t, int32_t partition)
{
    MetaElectLeaders__Item *item = xmalloc(sizeof *item);

    meta_elect_leaders__item__init(item);
    proto_set_bytes(&item->topic_id, t->id.b, sizeof t->id.b);
    item->partition = partition;
    e->items[e->n_items++] = item;
}

MetaCommand *controller_balance(const struct image *i)
{
    MetaElectLeaders *e = NULL;
    MetaCommand *c;

    for (const struct topic_image *t = image_topic_next(i, STR_NULL); t != NULL;
         t = image_topic_next(i, t->name)) {
        for (int32_t p = 0; p < t->partition_count; p++) {
            if (!is_away(i, topic_partition(t, p)) || (e != NULL && e->n_items == BALANCE_MAX))
                continue;
            if (e == NULL) {
                e = xmalloc(sizeof *e);
                meta_elect_leaders__init(e);
                e->items = xcalloc(BALANCE_MAX, sizeof *e->items);
            }
            add_election(e, t, p);
        }
    }
    if (e == NULL)
        return NULL;
    c = xmalloc(sizeof *c);
    meta_command__init(c);
    c->body_case = META_COMMAND__BODY_ELECT_LEADERS;
    c->elect_leaders = e;
    return c;
}

/* ---- every command ---- */

void controller_complete(const struct controller *k, const struct image *i, int64_t now_unix_ms,
                         MetaCommand *c)
{
    c->time_ms = now_unix_ms;
    switch (c->body_case) {
    case META_COMMAND__BODY_CREATE_TOPICS:
        complete_create_topics(k, i, c->create_topics);
        break;
    case META_COMMAND__BODY_CREATE_PARTITIONS:
        complete_create_partitions(i, c->create_partitions);
        break;
    case META_COMMAND__BODY_REGISTER_BROKER:
        c->register_broker->old_session_over =
            k->session_is_over != NULL && k->session_is_over(k->ctx, c->register_broker->node);
        break;
    case META_COMMAND__BODY_UNREGISTER_BROKER:
        c->unregister_broker->is_voter = k->is_voter(k->ctx, c->unregister_broker->node);
        break;
    default:
        break;
    }
}
