/* raft-meta/fsm_topic.c -- topics come, grow and go. Errors and their words are Kafka's, so that
 * stock tools print the same.
 *
 * Placement was decided by the controller and is in the command; here it is only checked.
 */
#include "raft-meta/fsm_internal.h"

#include <stdlib.h>
#include <string.h>

#define TOPIC_NAME_MAX        249
#define CONFIGS_PER_TOPIC_MAX 256

bool topic_name_is_bad(struct str name, struct errmsg *why)
{
    if (name.len <= 0) {
        errmsg_set(why, "Topic name is invalid: the empty string is not allowed");
        return true;
    }
    if (str_eq_lit(name, ".") || str_eq_lit(name, "..")) {
        errmsg_set(why, "Topic name is invalid: '%.*s' is not allowed", STR_ARG(name));
        return true;
    }
    if (name.len > TOPIC_NAME_MAX) {
        errmsg_set(why,
                   "Topic name is invalid: the length of '%.*s' is longer than the max allowed "
                   "length %d",
                   STR_ARG(name), TOPIC_NAME_MAX);
        return true;
    }
    for (int32_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];

        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            c == '.' || c == '_' || c == '-')
            continue;
        errmsg_set(why,
                   "Topic name is invalid: '%.*s' contains one or more characters other than "
                   "ASCII alphanumerics, '.', '_' and '-'",
                   STR_ARG(name));
        return true;
    }
    return false;
}

/* ---- assignments ---- */

/* Kafka's checks of a manual assignment; `factor` is the replication factor of the others, 0 for
 * the first. */
static bool manual_is_bad(const struct fsm_step *s, const int32_t *replicas, size_t count,
                          int32_t factor, struct errmsg *why)
{
    if (count == 0) {
        errmsg_set(why, "The manual partition assignment includes an empty replica list.");
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < i && count <= REPLICAS_MAX; k++) {
            if (replicas[k] != replicas[i])
                continue;
            errmsg_set(why,
                       "The manual partition assignment includes the broker %d more than once.",
                       replicas[i]);
            return true;
        }
        if (image_broker(s->after, replicas[i]) == NULL) {
            errmsg_set(why,
                       "The manual partition assignment includes broker %d, but no such broker is "
                       "registered.",
                       replicas[i]);
            return true;
        }
    }
    if (count > REPLICAS_MAX) {
        errmsg_set(why, "A partition has at most %d replicas.", REPLICAS_MAX);
        return true;
    }
    if (factor > 0 && count != (size_t)factor) {
        errmsg_set(why,
                   "The manual partition assignment includes a partition with %zu replica(s), but "
                   "this is not consistent with previous partitions, which have %d replica(s).",
                   count, factor);
        return true;
    }
    return false;
}

/* Whether a placement by the controller still holds: brokers may have left since. */
static bool placement_is_stale(const struct fsm_step *s, const MetaAssignment *a, size_t factor)
{
    if (a->n_replicas == 0 || a->n_replicas > REPLICAS_MAX || a->n_replicas != factor)
        return true;
    for (size_t i = 0; i < a->n_replicas; i++) {
        if (image_broker(s->after, a->replicas[i]) == NULL)
            return true;
        for (size_t k = 0; k < i; k++) {
            if (a->replicas[k] == a->replicas[i])
                return true;
        }
    }
    return false;
}

static bool any_active(const struct fsm_step *s, const int32_t *replicas, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (broker_is_active(s->after, replicas[i]))
            return true;
    }
    return false;
}

/* A new partition: in sync are those that are active, the first of them leads; where a node has
 * one log dir its replicas live there. */
static void add_partition(struct fsm_step *s, const struct uuid *id, const int32_t *replicas,
                          size_t count, int16_t min_isr)
{
    int32_t copy[REPLICAS_MAX], isr[REPLICAS_MAX];
    struct uuid directories[REPLICAS_MAX];
    struct partition_image p = {.replicas = copy,
                                .replica_count = (int16_t)count,
                                .isr = isr,
                                .directories = directories,
                                .leader = -1,
                                .effective_min_isr = min_isr};

    for (size_t i = 0; i < count; i++) {
        const struct broker_image *b = image_broker(s->after, replicas[i]);

        copy[i] = replicas[i];
        directories[i] = (struct uuid){0};
        if (b->directory_count == 1)
            directories[i] = b->directories[0];
        if (broker_is_active(s->after, replicas[i]))
            isr[p.isr_count++] = replicas[i];
    }
    CHECK(p.isr_count > 0);
    p.leader = isr[0];
    image_add_partition(s->after, id, &p);
    step_topic_changed(s, id);
}

/* ---- CreateTopics ---- */

/* A checked manual assignment by partition: it may come in any order. Freed by the caller. */
static const MetaCreateTopics__Topic__ManualAssignment **manual_by_partition(
    const MetaCreateTopics__Topic *t)
{
    const MetaCreateTopics__Topic__ManualAssignment **list = xcalloc(t->n_manual + 1, sizeof *list);

    for (size_t i = 0; i < t->n_manual; i++)
        list[t->manual[i]->partition] = t->manual[i];
    return list;
}

static bool check_manual(struct fsm_step *s, const MetaCreateTopics__Topic *t,
                         MetaItemOutcome *item)
{
    uint8_t *seen;
    int32_t factor = 0, missing = 0;
    struct errmsg why;

    if (t->replication_factor != -1) {
        item_set(item, ERR_INVALID_REQUEST,
                 "A manual partition assignment was specified, but replication factor was not set "
                 "to -1.");
        return false;
    }
    if (t->num_partitions != -1) {
        item_set(item, ERR_INVALID_REQUEST,
                 "A manual partition assignment was specified, but numPartitions was not set to "
                 "-1.");
        return false;
    }
    seen = xcalloc(t->n_manual, 1);
    for (size_t i = 0; i < t->n_manual; i++) {
        const MetaCreateTopics__Topic__ManualAssignment *m = t->manual[i];
        bool in_range = m->partition >= 0 && (size_t)m->partition < t->n_manual;

        if (in_range && seen[m->partition]) {
            item_set(item, ERR_INVALID_REPLICA_ASSIGNMENT,
                     "Found multiple manual partition assignments for partition %d", m->partition);
            goto fail;
        }
        if (manual_is_bad(s, m->replicas, m->n_replicas, factor, &why)) {
            item_set(item, ERR_INVALID_REPLICA_ASSIGNMENT, "%s", why.text);
            goto fail;
        }
        factor = (int32_t)m->n_replicas;
        if (!any_active(s, m->replicas, m->n_replicas)) {
            item_set(item, ERR_INVALID_REPLICA_ASSIGNMENT,
                     "All brokers specified in the manual partition assignment for partition %d "
                     "are fenced or in controlled shutdown.",
                     m->partition);
            goto fail;
        }
        if (in_range)
            seen[m->partition] = 1;
        else
            missing++;
    }
    if (missing > 0) {
        item_set(item, ERR_INVALID_REPLICA_ASSIGNMENT,
                 "partitions should be a consecutive 0-based integer sequence");
        goto fail;
    }
    free(seen);
    return true;

fail:
    free(seen);
    return false;
}

static bool check_placed(struct fsm_step *s, const MetaCreateTopics__Topic *t,
                         MetaItemOutcome *item)
{
    int32_t factor = t->resolved_replication_factor;

    if (t->replication_factor < -1 || t->replication_factor == 0) {
        item_set(item, ERR_INVALID_REPLICATION_FACTOR,
                 "Replication factor must be larger than 0, or -1 to use the default value.");
        return false;
    }
    if (t->num_partitions < -1 || t->num_partitions == 0) {
        item_set(item, ERR_INVALID_PARTITIONS,
                 "Number of partitions was set to an invalid non-positive value.");
        return false;
    }
    if (t->placement_error != 0) {
        item_set(item, (enum err)t->placement_error, "%s", proto_view(t->placement_message).ptr);
        return false;
    }
    if (t->n_assignments == 0) {
        item_set(item, ERR_INVALID_REQUEST, "The topic was not placed.");
        return false;
    }
    for (size_t i = 0; i < t->n_assignments; i++) {
        if (factor <= 0 || placement_is_stale(s, t->assignments[i], (size_t)factor)) {
            item_set(item, ERR_NOT_CONTROLLER, "The brokers have changed meanwhile; try again.");
            return false;
        }
        if (!any_active(s, t->assignments[i]->replicas, t->assignments[i]->n_replicas)) {
            item_set(item, ERR_INVALID_REPLICATION_FACTOR,
                     "Unable to replicate the partition %d time(s): All brokers are currently "
                     "fenced or in controlled shutdown.",
                     factor);
            return false;
        }
    }
    return true;
}

static bool check_name(struct fsm_step *s, struct str name, MetaItemOutcome *item)
{
    struct errmsg why;
    struct str other;

    if (topic_name_is_bad(name, &why)) {
        item_set(item, ERR_INVALID_TOPIC_EXCEPTION, "%s", why.text);
        return false;
    }
    /* Kafka's log of the metadata; ours is no topic, and the name must not suggest one. */
    if (str_eq_lit(name, "__cluster_metadata")) {
        item_set(item, ERR_INVALID_REQUEST, "Creation of internal topic %.*s is prohibited.",
                 STR_ARG(name));
        return false;
    }
    if (image_topic(s->after, name) != NULL) {
        item_set(item, ERR_TOPIC_ALREADY_EXISTS, "Topic '%.*s' already exists.", STR_ARG(name));
        return false;
    }
    other = image_colliding_topic(s->after, name);
    if (!str_is_null(other)) {
        item_set(item, ERR_INVALID_TOPIC_EXCEPTION,
                 "Topic '%.*s' collides with existing topic: %.*s", STR_ARG(name), STR_ARG(other));
        return false;
    }
    return true;
}

static void create_topic(struct fsm_step *s, const MetaCreateTopics__Topic *t,
                         MetaItemOutcome *item)
{
    struct str name = proto_view(t->name);
    size_t partitions = t->n_manual > 0 ? t->n_manual : t->n_assignments;
    const MetaCreateTopics__Topic__ManualAssignment **manual;
    struct uuid id;
    int32_t factor;
    int16_t min_isr;

    proto_set_str(&item->name, name);
    if (!check_name(s, name, item))
        return;
    if (t->n_configs > CONFIGS_PER_TOPIC_MAX) {
        item_set(item, ERR_INVALID_CONFIG, "Too many configs");
        return;
    }
    if (!(t->n_manual > 0 ? check_manual(s, t, item) : check_placed(s, t, item)))
        return;
    if (!proto_uuid(&t->topic_id, &id) || uuid_is_zero(&id) ||
        image_topic_by_id(s->after, &id) != NULL) {
        item_set(item, ERR_INVALID_REQUEST, "The topic has no id of its own.");
        return;
    }

    image_put_topic(s->after, &id, name, s->index);
    step_topic_changed(s, &id);
    for (size_t i = 0; i < t->n_configs; i++)
        image_put_config(s->after, CONFIG_TOPIC, name, proto_view(t->configs[i]->key),
                         proto_view(t->configs[i]->value));
    if (t->n_configs > 0)
        step_config_changed(s, CONFIG_TOPIC, name);
    factor = (int32_t)(t->n_manual > 0 ? t->manual[0]->n_replicas : t->assignments[0]->n_replicas);
    min_isr = effective_min_isr(s->after, name, factor);
    manual = manual_by_partition(t);
    for (size_t p = 0; p < partitions; p++)
        add_partition(s, &id, t->n_manual > 0 ? manual[p]->replicas : t->assignments[p]->replicas,
                      (size_t)factor, min_isr);
    free(manual);
    proto_set_bytes(&item->topic_id, id.b, sizeof id.b);
    item->partition_count = (int32_t)partitions;
    item->replication_factor = factor;
}

MetaOutcome *fsm_create_topics(struct fsm_step *s, const MetaCreateTopics *c)
{
    MetaOutcome *o;
    size_t partitions = 0;

    for (size_t i = 0; i < c->n_topics; i++) {
        partitions +=
            c->topics[i]->n_manual > 0 ? c->topics[i]->n_manual : c->topics[i]->n_assignments;
        if (c->topics[i]->placement_error == ERR_POLICY_VIOLATION ||
            partitions > COMMAND_PARTITIONS_MAX)
            return outcome_new(ERR_POLICY_VIOLATION,
                               "Excessively large number of partitions per request.");
    }
    o = outcome_new(ERR_NONE, NULL);
    outcome_set_items(o, c->n_topics);
    for (size_t i = 0; i < c->n_topics; i++)
        create_topic(s, c->topics[i], o->items[i]);
    return o;
}

/* ---- DeleteTopics ---- */

static void delete_topic(struct fsm_step *s, const MetaDeleteTopics__Topic *in,
                         MetaItemOutcome *item)
{
    struct str by_name = proto_view(in->name);
    const struct topic_image *t = NULL;
    struct uuid id = {0};

    proto_set_str(&item->name, by_name);
    if (by_name.len > 0) {
        t = image_topic(s->after, by_name);
        if (t == NULL) {
            item_set(item, ERR_UNKNOWN_TOPIC_OR_PARTITION,
                     "This server does not host this topic-partition.");
            return;
        }
    } else {
        if (!proto_uuid(&in->topic_id, &id) || uuid_is_zero(&id)) {
            item_set(item, ERR_INVALID_REQUEST, "Neither topic name nor id were specified.");
            return;
        }
        proto_set_bytes(&item->topic_id, id.b, sizeof id.b);
        t = image_topic_by_id(s->after, &id);
        if (t == NULL) {
            item_set(item, ERR_UNKNOWN_TOPIC_ID, "This server does not host this topic ID.");
            return;
        }
    }
    id = t->id;
    proto_set_str(&item->name, t->name);
    proto_set_bytes(&item->topic_id, id.b, sizeof id.b);
    item->partition_count = t->partition_count;
    step_topic_changed(s, &id);
    /* Its configs go with it: a topic of the same name later is another topic [H19]. */
    image_remove_config_resource(s->after, CONFIG_TOPIC, t->name);
    step_config_changed(s, CONFIG_TOPIC, t->name);
    image_remove_topic(s->after, &id);
}

MetaOutcome *fsm_delete_topics(struct fsm_step *s, const MetaDeleteTopics *c)
{
    MetaOutcome *o = outcome_new(ERR_NONE, NULL);

    outcome_set_items(o, c->n_topics);
    for (size_t i = 0; i < c->n_topics; i++)
        delete_topic(s, c->topics[i], o->items[i]);
    return o;
}

/* ---- CreatePartitions ---- */

static bool check_growth(const struct topic_image *t, const MetaCreatePartitions__Topic *in,
                         MetaItemOutcome *item)
{
    int32_t now = t->partition_count;

    if (in->count == now) {
        item_set(item, ERR_INVALID_PARTITIONS, "Topic already has %d partition(s).", now);
        return false;
    }
    if (in->count < now) {
        item_set(item, ERR_INVALID_PARTITIONS,
                 "The topic %.*s currently has %d partition(s); %d would not be an increase.",
                 STR_ARG(t->name), now, in->count);
        return false;
    }
    if (in->count - now > COMMAND_PARTITIONS_MAX) {
        item_set(item, ERR_POLICY_VIOLATION, "Excessively large number of partitions per request.");
        return false;
    }
    if (in->has_manual && in->n_manual != (size_t)(in->count - now)) {
        item_set(item, ERR_INVALID_REPLICA_ASSIGNMENT,
                 "Attempted to add %d additional partition(s), but only %zu assignment(s) were "
                 "specified.",
                 in->count - now, in->n_manual);
        return false;
    }
    return true;
}

/* The assignment for partition `p` of the topic; NULL when the command has none. */
static const MetaAssignment *growth_of(const MetaCreatePartitions__Topic *in, int32_t now,
                                       int32_t p)
{
    if (in->has_manual)
        return in->manual[p - now];
    if (p < in->first_partition || (size_t)(p - in->first_partition) >= in->n_assignments)
        return NULL;
    return in->assignments[p - in->first_partition];
}

static bool check_growth_replicas(struct fsm_step *s, const struct topic_image *t,
                                  const MetaCreatePartitions__Topic *in, int32_t factor,
                                  MetaItemOutcome *item)
{
    struct errmsg why;

    if (!in->has_manual && in->placement_error != 0) {
        item_set(item, (enum err)in->placement_error, "%s", proto_view(in->placement_message).ptr);
        return false;
    }
    for (int32_t p = t->partition_count; p < in->count; p++) {
        const MetaAssignment *a = growth_of(in, t->partition_count, p);

        if (in->has_manual && manual_is_bad(s, a->replicas, a->n_replicas, factor, &why)) {
            item_set(item, ERR_INVALID_REPLICA_ASSIGNMENT, "%s", why.text);
            return false;
        }
        if (a == NULL || placement_is_stale(s, a, (size_t)factor)) {
            item_set(item, ERR_NOT_CONTROLLER, "The brokers have changed meanwhile; try again.");
            return false;
        }
        if (any_active(s, a->replicas, a->n_replicas))
            continue;
        if (in->has_manual)
            item_set(item, ERR_INVALID_REPLICA_ASSIGNMENT,
                     "All brokers specified in the manual partition assignment for partition %d "
                     "are fenced or in controlled shutdown.",
                     p);
        else
            item_set(item, ERR_INVALID_REPLICATION_FACTOR,
                     "Unable to replicate the partition %d time(s): All brokers are currently "
                     "fenced or in controlled shutdown.",
                     factor);
        return false;
    }
    return true;
}

static void create_partitions(struct fsm_step *s, const MetaCreatePartitions__Topic *in,
                              MetaItemOutcome *item)
{
    struct str name = proto_view(in->name);
    const struct topic_image *t = image_topic(s->after, name);
    int32_t factor, now;
    int16_t min_isr;
    struct uuid id;

    proto_set_str(&item->name, name);
    if (t == NULL) {
        item_set(item, ERR_UNKNOWN_TOPIC_OR_PARTITION,
                 "This server does not host this topic-partition.");
        return;
    }
    if (!check_growth(t, in, item))
        return;
    id = t->id;
    now = t->partition_count;
    CHECK(now > 0);
    factor = topic_partition(t, 0)->replica_count;
    if (!check_growth_replicas(s, t, in, factor, item))
        return;
    min_isr = effective_min_isr(s->after, name, factor);
    for (int32_t p = now; p < in->count; p++) {
        const MetaAssignment *a = growth_of(in, now, p);

        add_partition(s, &id, a->replicas, a->n_replicas, min_isr);
    }
    proto_set_bytes(&item->topic_id, id.b, sizeof id.b);
    item->partition_count = in->count;
    item->replication_factor = factor;
}

MetaOutcome *fsm_create_partitions(struct fsm_step *s, const MetaCreatePartitions *c)
{
    MetaOutcome *o = outcome_new(ERR_NONE, NULL);

    outcome_set_items(o, c->n_topics);
    for (size_t i = 0; i < c->n_topics; i++)
        create_partitions(s, c->topics[i], o->items[i]);
    return o;
}
