/* raft-meta/fsm_config.c -- the cluster itself: its formation, dynamic configs, features and
 * producer ids.
 *
 * Values of configs were checked by the front end that knows their types (broker/config). APPEND
 * and SUBTRACT are resolved here, where the value they start from cannot change meanwhile.
 */
#include "raft-meta/fsm_internal.h"

#include <stdlib.h>
#include <string.h>

#define CONFIG_NAME_MAX        255
#define CONFIG_KEY_BYTES_MAX   255
#define CONFIG_VALUE_MAX       32767 /* Kafka's; it has no longer short strings */
#define CONFIG_ENTRIES_MAX     1024  /* of one resource */
#define FEATURE_NAME_MAX       255
#define FEATURES_FINALIZED_MAX 64
#define PRODUCER_ID_BLOCK      1000
#define PRODUCER_ID_BLOCK_MAX  1000000

/* ---- FormCluster ---- */

MetaOutcome *fsm_form_cluster(struct fsm_step *s, const MetaFormCluster *c)
{
    struct str id = proto_view(c->cluster_id), old = image_cluster_id(s->after);
    MetaOutcome *o;

    if (old.len > 0 && !str_eq(old, id))
        return outcome_new(ERR_INCONSISTENT_CLUSTER_ID,
                           "Expected cluster ID %.*s, but got cluster ID %.*s", STR_ARG(old),
                           STR_ARG(id));
    if (id.len <= 0 || id.len > CLUSTER_ID_MAX || c->n_features > FEATURES_FINALIZED_MAX ||
        c->n_configs > CONFIG_ENTRIES_MAX)
        return outcome_new(ERR_INVALID_REQUEST, "The cluster cannot be formed like this.");
    if (old.len == 0) {
        image_set_cluster_id(s->after, id);
        for (size_t i = 0; i < c->n_features; i++) {
            struct str name = proto_view(c->features[i]->name);

            if (name.len > 0 && name.len <= FEATURE_NAME_MAX && c->features[i]->level > 0 &&
                c->features[i]->level <= INT16_MAX)
                image_put_feature(s->after, name, (int16_t)c->features[i]->level);
        }
        for (size_t i = 0; i < c->n_configs; i++)
            image_put_config(s->after, CONFIG_BROKER, STR_EMPTY, proto_view(c->configs[i]->key),
                             proto_view(c->configs[i]->value));
        if (c->n_configs > 0)
            step_config_changed(s, CONFIG_BROKER, STR_EMPTY);
        image_set_features_epoch(s->after, (int64_t)s->index);
        s->features_changed = true;
    }
    o = outcome_new(ERR_NONE, NULL);
    o->value = image_features_epoch(s->after);
    return o;
}

/* ---- configs ---- */

static bool resource_exists(const struct fsm_step *s, const MetaSetConfigs__Resource *r,
                            MetaItemOutcome *item)
{
    struct str name = proto_view(r->name);
    int32_t node;

    if (name.len > CONFIG_NAME_MAX) {
        item_set(item, ERR_INVALID_REQUEST, "The resource name is too long.");
        return false;
    }
    switch (r->type) {
    case CONFIG_TOPIC:
        if (image_topic(s->after, name) != NULL)
            return true;
        item_set(item, ERR_UNKNOWN_TOPIC_OR_PARTITION, "The topic '%.*s' does not exist.",
                 STR_ARG(name));
        return false;
    case CONFIG_BROKER:
        if (name.len == 0)
            return true;
        if (parse_int32(name, &node) && image_broker(s->after, node) != NULL)
            return true;
        item_set(item, ERR_BROKER_ID_NOT_REGISTERED, "No broker with id %.*s found.",
                 STR_ARG(name));
        return false;
    case CONFIG_CLIENT_METRICS:
    case CONFIG_GROUP:
        return true;
    default:
        item_set(item, ERR_INVALID_REQUEST, "Unsupported resource type %d.", r->type);
        return false;
    }
}

/* One comma-separated element, spaces kept as Kafka keeps them; false at the end. */
static bool next_part(struct str *rest, struct str *part)
{
    const char *comma;

    if (rest->len < 0)
        return false;
    comma = rest->len > 0 ? memchr(rest->ptr, ',', (size_t)rest->len) : NULL;
    if (comma == NULL) {
        *part = *rest;
        *rest = STR_NULL;
    } else {
        *part = (struct str){rest->ptr, (int32_t)(comma - rest->ptr)};
        *rest = (struct str){comma + 1, (int32_t)(rest->ptr + rest->len - comma - 1)};
    }
    return true;
}

static bool list_holds(struct str list, struct str part)
{
    struct str at;

    if (list.len == 0)
        return false;
    while (next_part(&list, &at)) {
        if (str_eq(at, part))
            return true;
    }
    return false;
}

/* Appends ",part" (or "part" to an empty list); the buffer has room for it. */
static void list_push(char *buffer, int32_t *size, struct str part)
{
    if (*size > 0)
        buffer[(*size)++] = ',';
    if (part.len > 0)
        memcpy(buffer + *size, part.ptr, (size_t)part.len);
    *size += MAX(part.len, 0);
}

/* The list `from` with the parts of `change` appended or taken out; malloc'ed. */
static struct str list_change(struct str from, struct str change, bool append)
{
    char *buffer = xmalloc((size_t)from.len + (size_t)change.len + 3);
    int32_t size = 0;
    struct str rest = from, part;

    if (append) {
        if (from.len > 0)
            list_push(buffer, &size, from);
        for (rest = change; next_part(&rest, &part);) {
            if (part.len > 0 && !list_holds((struct str){buffer, size}, part))
                list_push(buffer, &size, part);
        }
    } else {
        while (from.len > 0 && next_part(&rest, &part)) {
            if (!list_holds(change, part))
                list_push(buffer, &size, part);
        }
    }
    return (struct str){buffer, size};
}

/* ELR is sound only when all replicas of a topic are judged by one value [H6], so the value is the
 * topic's or the cluster's: a single broker has none, and the cluster always has one (KIP-966). */
static bool min_isr_rule_broken(const MetaSetConfigs__Resource *r, struct str key, bool removes,
                                MetaItemOutcome *item)
{
    if (r->type != CONFIG_BROKER || !str_eq_lit(key, MIN_INSYNC_REPLICAS))
        return false;
    if (proto_view(r->name).len > 0 && !removes) {
        item_set(item, ERR_INVALID_CONFIG,
                 "Broker-level min.insync.replicas cannot be altered while ELR is enabled.");
        return true;
    }
    if (proto_view(r->name).len == 0 && removes) {
        item_set(item, ERR_INVALID_CONFIG,
                 "Cluster-level min.insync.replicas cannot be removed while ELR is enabled.");
        return true;
    }
    return false;
}

static bool check_entry(const MetaSetConfigs__Resource *r, const MetaSetConfigs__Entry *e,
                        MetaItemOutcome *item)
{
    struct str key = proto_view(e->key), value = proto_view(e->value);

    if (key.len == 0 || key.len > CONFIG_KEY_BYTES_MAX) {
        item_set(item, ERR_INVALID_CONFIG, "The name of a config is empty or too long.");
        return false;
    }
    if (value.len > CONFIG_VALUE_MAX || proto_view(e->default_value).len > CONFIG_VALUE_MAX) {
        item_set(item, ERR_INVALID_CONFIG,
                 "The configuration value cannot be added because it exceeds the maximum value "
                 "size of %d bytes.",
                 CONFIG_VALUE_MAX);
        return false;
    }
    if (e->op < META_SET_CONFIGS__OP__SET || e->op > META_SET_CONFIGS__OP__SUBTRACT) {
        item_set(item, ERR_INVALID_REQUEST, "Unknown operation.");
        return false;
    }
    return !min_isr_rule_broken(r, key, e->op == META_SET_CONFIGS__OP__DELETE, item);
}

static bool apply_entry(struct image *i, const MetaSetConfigs__Resource *r,
                        const MetaSetConfigs__Entry *e, MetaItemOutcome *item)
{
    enum config_resource type = (enum config_resource)r->type;
    struct str name = proto_view(r->name), key = proto_view(e->key), value = proto_view(e->value);
    struct str from, list;

    switch (e->op) {
    case META_SET_CONFIGS__OP__DELETE:
        (void)image_remove_config(i, type, name, key);
        return true;
    case META_SET_CONFIGS__OP__APPEND:
    case META_SET_CONFIGS__OP__SUBTRACT:
        if (!image_config_get(i, type, name, key, &from))
            from = proto_view(e->default_value);
        list = list_change(from, value, e->op == META_SET_CONFIGS__OP__APPEND);
        if (list.len > CONFIG_VALUE_MAX) {
            free((char *)(uintptr_t)list.ptr);
            item_set(item, ERR_INVALID_CONFIG,
                     "The configuration value cannot be added because it exceeds the maximum "
                     "value size of %d bytes.",
                     CONFIG_VALUE_MAX);
            return false;
        }
        image_put_config(i, type, name, key, list);
        free((char *)(uintptr_t)list.ptr);
        return true;
    default:
        image_put_config(i, type, name, key, value);
        return true;
    }
}

/* Legacy AlterConfigs: what the request does not name goes back to its default. */
static void remove_unnamed(struct image *i, const MetaSetConfigs__Resource *r)
{
    enum config_resource type = (enum config_resource)r->type;
    struct str name = proto_view(r->name);
    const struct config_entry *entries;
    int32_t count;

    if (!image_config_entries(i, type, name, &entries, &count))
        return;
    for (int32_t k = count - 1; k >= 0; k--) {
        bool named = type == CONFIG_BROKER && name.len == 0 &&
                     str_eq_lit(entries[k].key, MIN_INSYNC_REPLICAS);

        for (size_t e = 0; !named && e < r->n_entries; e++)
            named = str_eq(proto_view(r->entries[e]->key), entries[k].key);
        if (named)
            continue;
        (void)image_remove_config(i, type, name, entries[k].key);
        if (!image_config_entries(i, type, name, &entries, &count))
            return;
    }
}

static void set_resource(struct fsm_step *s, const MetaSetConfigs__Resource *r,
                         MetaItemOutcome *item)
{
    struct str name = proto_view(r->name);
    const struct config_entry *entries;
    struct image *scratch;
    bool min_isr = r->replace_all;
    int32_t count;

    item->resource_type = r->type;
    proto_set_str(&item->name, name);
    if (!resource_exists(s, r, item))
        return;
    for (size_t e = 0; e < r->n_entries; e++) {
        if (!check_entry(r, r->entries[e], item))
            return;
    }
    /* All entries of a resource or none: tried on a copy, which costs no more than the change. */
    scratch = image_edit(s->after);
    if (r->replace_all)
        remove_unnamed(scratch, r);
    for (size_t e = 0; e < r->n_entries; e++) {
        if (!apply_entry(scratch, r, r->entries[e], item))
            goto fail;
        min_isr = min_isr || str_eq_lit(proto_view(r->entries[e]->key), MIN_INSYNC_REPLICAS);
    }
    (void)image_config_entries(scratch, (enum config_resource)r->type, name, &entries, &count);
    if (count > CONFIG_ENTRIES_MAX) {
        item_set(item, ERR_INVALID_CONFIG, "The resource has too many configs.");
        goto fail;
    }
    image_unref(s->after);
    s->after = scratch;
    step_config_changed(s, (enum config_resource)r->type, name);
    if (!min_isr)
        return;
    if (r->type == CONFIG_TOPIC) {
        topic_recompute_min_isr(s, name);
    } else if (r->type == CONFIG_BROKER && name.len == 0) {
        for (const struct topic_image *t = image_topic_next(s->after, STR_NULL); t != NULL;) {
            struct uuid id = t->id;

            topic_recompute_min_isr(s, t->name);
            t = image_topic_next(s->after, image_topic_by_id(s->after, &id)->name);
        }
    }
    return;

fail:
    image_unref(scratch);
}

MetaOutcome *fsm_set_configs(struct fsm_step *s, const MetaSetConfigs *c)
{
    MetaOutcome *o = outcome_new(ERR_NONE, NULL);

    outcome_set_items(o, c->n_resources);
    for (size_t i = 0; i < c->n_resources; i++)
        set_resource(s, c->resources[i], o->items[i]);
    return o;
}

/* ---- features ---- */

/* The refusal of one update, in Kafka's words; false when it may be. */
static bool feature_refused(const struct fsm_step *s, int32_t node,
                            const MetaUpdateFeatures__Update *u, MetaItemOutcome *item)
{
    struct str name = proto_view(u->name);
    int16_t current = image_feature(s->after, u->name);
    const char *problem = NULL;
    struct errmsg why;

    if (u->upgrade_type < 1 || u->upgrade_type > 3) {
        problem = "The controller does not support the given upgrade type.";
    } else if (u->level < 0) {
        problem = "A feature version cannot be less than 0.";
    } else if (name.len == 0 || name.len > FEATURE_NAME_MAX || u->supported_max <= 0) {
        errmsg_set(&why, "Local controller %d does not support this feature.", node);
        problem = why.text;
    } else if (u->level > INT16_MAX || u->level < u->supported_min || u->level > u->supported_max) {
        errmsg_set(&why, "Local controller %d only supports versions %d-%d", node, u->supported_min,
                   u->supported_max);
        problem = why.text;
    } else if (u->level < current && u->upgrade_type == 1) {
        problem = "Can't downgrade the version of this feature without setting the upgrade type "
                  "to either safe or unsafe downgrade.";
    } else if (u->level > current && u->upgrade_type != 1) {
        problem = "Can't downgrade to a newer version.";
    }
    for (const struct broker_image *b = image_broker_next(s->after, -1);
         problem == NULL && b != NULL; b = image_broker_next(s->after, b->id)) {
        int32_t min = 0, max = 0;

        for (int32_t f = 0; f < b->feature_count; f++) {
            if (str_eq(b->features[f].name, name)) {
                min = b->features[f].min;
                max = b->features[f].max;
            }
        }
        if (u->level >= min && u->level <= max)
            continue;
        if (max == 0)
            errmsg_set(&why, "Broker %d does not support this feature.", b->id);
        else
            errmsg_set(&why, "Broker %d only supports versions %d-%d", b->id, min, max);
        problem = why.text;
    }
    if (problem == NULL)
        return false;
    item_set(item, ERR_INVALID_UPDATE_VERSION, "Invalid update version %d for feature %.*s. %s",
             u->level, STR_ARG(name), problem);
    return true;
}

MetaOutcome *fsm_update_features(struct fsm_step *s, int32_t node, const MetaUpdateFeatures *c)
{
    const struct feature_image *finalized;
    MetaOutcome *o;
    bool refused = false, changed = false;

    if (c->n_updates > FEATURES_FINALIZED_MAX ||
        image_features(s->after, &finalized) + (int32_t)c->n_updates > 2 * FEATURES_FINALIZED_MAX)
        return outcome_new(ERR_INVALID_REQUEST, "Too many features.");
    o = outcome_new(ERR_NONE, NULL);
    outcome_set_items(o, c->n_updates);
    for (size_t i = 0; i < c->n_updates; i++) {
        proto_set_str(&o->items[i]->name, proto_view(c->updates[i]->name));
        if (feature_refused(s, node, c->updates[i], o->items[i])) {
            refused = true;
            if (o->error == ERR_NONE && c->all_or_nothing) {
                o->error = o->items[i]->error;
                proto_set_str(&o->message, proto_view(o->items[i]->message));
            }
        }
    }
    for (size_t i = 0; i < c->n_updates && !(refused && c->all_or_nothing); i++) {
        const MetaUpdateFeatures__Update *u = c->updates[i];

        if (o->items[i]->error != ERR_NONE || image_feature(s->after, u->name) == u->level)
            continue;
        image_put_feature(s->after, proto_view(u->name), (int16_t)u->level);
        changed = true;
    }
    if (changed) {
        image_set_features_epoch(s->after, (int64_t)s->index);
        s->features_changed = true;
    }
    o->value = image_features_epoch(s->after);
    return o;
}

/* ---- producer ids ---- */

MetaOutcome *fsm_allocate_producer_ids(struct fsm_step *s, const MetaAllocateProducerIds *c)
{
    MetaOutcome *o = check_broker_epoch(s, c->node, c->broker_epoch);
    int32_t count = c->count > 0 ? c->count : PRODUCER_ID_BLOCK;
    int64_t next = image_next_producer_id(s->after);

    if (o != NULL)
        return o;
    if (count > PRODUCER_ID_BLOCK_MAX || next > INT64_MAX - count)
        return outcome_new(ERR_UNKNOWN_SERVER_ERROR,
                           "The block of producer ids is too large, or there are none left.");
    image_set_next_producer_id(s->after, next + count);
    o = outcome_new(ERR_NONE, NULL);
    o->value = next;
    o->count = count;
    return o;
}
