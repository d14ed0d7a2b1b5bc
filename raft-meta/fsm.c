/* raft-meta/fsm.c -- steps, lanes, time and dispatch; see fsm.h. */
#include "raft-meta/fsm.h"
#include "raft-meta/fsm_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- what changed ---- */

struct change_item {
    struct pmap_item item;
    uint8_t key[];
};

static void change_free(struct pmap_item *item)
{
    free(item);
}

static const struct pmap_item_type change_type = {.free = change_free};

static void note_change(struct pmap *m, struct bytes key)
{
    if (pmap_find(m, key) != NULL)
        return;

    struct change_item *n = xcalloc(1, sizeof *n + (size_t)key.len);

    pmap_item_init(&n->item, &change_type);
    memcpy(n->key, key.ptr, (size_t)key.len);
    n->item.key = (struct bytes){n->key, key.len};
    pmap_put(m, &n->item);
}

void step_topic_changed(struct fsm_step *s, const struct uuid *id)
{
    note_change(&s->changed_topics, (struct bytes){id->b, sizeof id->b});
}

void step_config_changed(struct fsm_step *s, enum config_resource type, struct str name)
{
    size_t size = (size_t)MAX(name.len, 0);
    uint8_t *key = xmalloc(1 + size);

    key[0] = (uint8_t)type;
    if (size > 0)
        memcpy(key + 1, name.ptr, size);
    note_change(&s->changed_configs, (struct bytes){key, (int32_t)size + 1});
    free(key);
}

/* ---- a step ---- */

struct fsm_step *fsm_begin(const struct image *base, uint64_t index)
{
    struct fsm_step *s = xcalloc(1, sizeof *s);

    /* The reference count is the only thing in an image that a reader changes. */
    s->before = image_ref((struct image *)(uintptr_t)base);
    s->after = image_edit(base);
    s->index = index;
    return s;
}

struct image *fsm_step_image(struct fsm_step *s)
{
    return s->after;
}

const struct image_delta *fsm_finish(struct fsm_step *s)
{
    int32_t n = 0;

    image_set_applied(s->after, s->index);
    s->topic_changes =
        xcalloc((size_t)pmap_count(&s->changed_topics) + 1, sizeof *s->topic_changes);
    for (struct pmap_item *i = pmap_next(&s->changed_topics, BYTES_NULL, false); i != NULL;
         i = pmap_next(&s->changed_topics, i->key, false)) {
        struct topic_change *c = &s->topic_changes[n];

        memcpy(c->id.b, i->key.ptr, sizeof c->id.b);
        c->before = image_topic_by_id(s->before, &c->id);
        c->after = image_topic_by_id(s->after, &c->id);
        /* Made and removed again in one step: nothing to tell. */
        n += c->before != NULL || c->after != NULL ? 1 : 0;
    }
    s->delta.topics = s->topic_changes;
    s->delta.topic_count = n;

    s->config_changes =
        xcalloc((size_t)pmap_count(&s->changed_configs) + 1, sizeof *s->config_changes);
    n = 0;
    for (struct pmap_item *i = pmap_next(&s->changed_configs, BYTES_NULL, false); i != NULL;
         i = pmap_next(&s->changed_configs, i->key, false)) {
        struct config_change *c = &s->config_changes[n++];

        c->type = (enum config_resource)i->key.ptr[0];
        c->name = (struct str){(const char *)i->key.ptr + 1, i->key.len - 1};
    }
    s->delta.configs = s->config_changes;
    s->delta.config_count = n;
    s->delta.before = s->before;
    s->delta.after = s->after;
    s->delta.brokers_changed = s->brokers_changed;
    s->delta.features_changed = s->features_changed;
    return &s->delta;
}

void fsm_step_free(struct fsm_step *s)
{
    free(s->topic_changes);
    free(s->config_changes);
    pmap_drop(&s->changed_topics);
    pmap_drop(&s->changed_configs);
    image_unref(s->before);
    image_unref(s->after);
    free(s);
}

/* ---- commands ---- */

MetaOutcome *check_broker_epoch(const struct fsm_step *s, int32_t node, int64_t epoch)
{
    const struct broker_image *b = image_broker(s->after, node);

    if (b == NULL)
        return outcome_new(ERR_BROKER_ID_NOT_REGISTERED, "Broker ID %d is not currently registered",
                           node);
    if (b->epoch != epoch)
        return outcome_new(ERR_STALE_BROKER_EPOCH,
                           "Expected broker epoch %lld, but got broker epoch %lld",
                           (long long)b->epoch, (long long)epoch);
    return NULL;
}

static MetaOutcome *dispatch(struct fsm_step *s, const MetaCommand *c)
{
    /* The first command of a cluster is FormCluster; nothing may come before it [H1]. */
    if (image_cluster_id(s->after).len == 0 && c->body_case != META_COMMAND__BODY_FORM_CLUSTER)
        return outcome_new(ERR_COORDINATOR_NOT_AVAILABLE, "The cluster has not been formed yet.");

    switch (c->body_case) {
    case META_COMMAND__BODY_FORM_CLUSTER:
        return fsm_form_cluster(s, c->form_cluster);
    case META_COMMAND__BODY_REGISTER_BROKER:
        return fsm_register_broker(s, c->register_broker);
    case META_COMMAND__BODY_UNFENCE_BROKER:
        return fsm_unfence_broker(s, c->unfence_broker);
    case META_COMMAND__BODY_FENCE_BROKER:
        return fsm_fence_broker(s, c->fence_broker);
    case META_COMMAND__BODY_CONTROLLED_SHUTDOWN:
        return fsm_controlled_shutdown(s, c->controlled_shutdown);
    case META_COMMAND__BODY_UNREGISTER_BROKER:
        return fsm_unregister_broker(s, c->unregister_broker);
    case META_COMMAND__BODY_CREATE_TOPICS:
        return fsm_create_topics(s, c->create_topics);
    case META_COMMAND__BODY_DELETE_TOPICS:
        return fsm_delete_topics(s, c->delete_topics);
    case META_COMMAND__BODY_CREATE_PARTITIONS:
        return fsm_create_partitions(s, c->create_partitions);
    case META_COMMAND__BODY_SET_CONFIGS:
        return fsm_set_configs(s, c->set_configs);
    case META_COMMAND__BODY_ALLOCATE_PRODUCER_IDS:
        return fsm_allocate_producer_ids(s, c->allocate_producer_ids);
    case META_COMMAND__BODY_UPDATE_FEATURES:
        return fsm_update_features(s, c->node, c->update_features);
    case META_COMMAND__BODY_PARTITION_CHANGE:
        return fsm_partition_change(s, c->partition_change);
    case META_COMMAND__BODY_REPLICA_OFFLINE:
        return fsm_replica_offline(s, c->replica_offline);
    case META_COMMAND__BODY_REPLICA_ONLINE:
        return fsm_replica_online(s, c->replica_online);
    case META_COMMAND__BODY_ASSIGN_DIRECTORIES:
        return fsm_assign_directories(s, c->assign_directories);
    case META_COMMAND__BODY_ELECT_LEADERS:
        return fsm_elect_leaders(s, c->elect_leaders);
    case META_COMMAND__BODY_NO_OP:
        return outcome_new(ERR_NONE, NULL);
    default:
        return outcome_new(ERR_INVALID_REQUEST, "A command without a body.");
    }
}

/* The outcome that a sequenced command has before it is even looked at; NULL: it is its turn. */
static MetaOutcome *check_lane(struct fsm_step *s, const MetaCommand *c)
{
    const struct broker_image *b = image_broker(s->after, c->node);
    const struct lane_image *l = image_lane(s->after, c->node, c->lane);
    uint64_t last = l != NULL && l->broker_epoch == c->broker_epoch ? l->seq : 0;

    if (b == NULL || b->epoch != c->broker_epoch)
        return outcome_new(ERR_STALE_BROKER_EPOCH, "The command is of another registration.");
    if (c->seq == last + 1)
        return NULL;
    if (c->seq == last && last > 0) { /* a retry: the first outcome stands */
        MetaOutcome *o = meta_outcome__unpack(NULL, (size_t)l->outcome.len, l->outcome.ptr);

        CHECK(o != NULL);
        return o;
    }
    return outcome_new(ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "Lane %u expects command %llu, not %llu",
                       c->lane, (unsigned long long)last + 1, (unsigned long long)c->seq);
}

static void store_lane(struct fsm_step *s, const MetaCommand *c, const MetaOutcome *o)
{
    const struct broker_image *b = image_broker(s->after, c->node);
    size_t size = meta_outcome__get_packed_size(o);
    uint8_t *packed;

    /* The command itself may have ended the registration, and its lanes with it. */
    if (b == NULL || b->epoch != c->broker_epoch)
        return;
    packed = xmalloc(size + 1);
    (void)meta_outcome__pack(o, packed);
    image_put_lane(s->after, &(struct lane_image){.node = c->node,
                                                  .lane = c->lane,
                                                  .broker_epoch = c->broker_epoch,
                                                  .seq = c->seq,
                                                  .outcome = {packed, (int32_t)size}});
    free(packed);
}

MetaOutcome *fsm_apply(struct fsm_step *s, const MetaCommand *c)
{
    MetaOutcome *o;

    image_advance_time(s->after, c->time_ms);
    if (c->seq == 0)
        return dispatch(s, c);
    o = check_lane(s, c);
    if (o != NULL)
        return o;
    o = dispatch(s, c);
    store_lane(s, c, o);
    return o;
}

MetaOutcome *fsm_validate(struct fsm_step *s, const MetaCommand *c)
{
    return dispatch(s, c);
}
