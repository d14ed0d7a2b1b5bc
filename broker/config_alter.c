/* broker/config_alter.c -- whether a resource may be changed as an Admin client asks.
 *
 * Judged is the whole that the resource would have afterwards, since rules between keys concern
 * it. The state machine then makes the change; APPEND and SUBTRACT are worked out there, so here
 * it is enough that every element that would come is allowed.
 */
#include "broker/config_keys.h"

#include <stdlib.h>

#include "raft-meta/fsm.h"

static int by_key(const void *a, const void *b)
{
    return str_cmp((*(const struct config_op *const *)a)->key,
                   (*(const struct config_op *const *)b)->key);
}

static enum err check_duplicates(const struct config_op *ops, int32_t count, struct arena *a,
                                 struct errmsg *why)
{
    const struct config_op **sorted = arena_array(a, (size_t)count + 1, sizeof *sorted);

    if (sorted == NULL)
        return ERR_TOO_LARGE;
    for (int32_t n = 0; n < count; n++)
        sorted[n] = &ops[n];
    qsort(sorted, (size_t)count, sizeof *sorted, by_key);
    for (int32_t n = 1; n < count; n++) {
        if (str_eq(sorted[n - 1]->key, sorted[n]->key)) {
            errmsg_set(why, "Error due to duplicate config keys");
            return ERR_INVALID_REQUEST;
        }
    }
    return ERR_NONE;
}

static enum err check_nulls(const struct config_op *ops, int32_t count, struct errmsg *why)
{
    char names[400] = "";
    size_t used = 0;

    for (int32_t n = 0; n < count; n++) {
        if (ops[n].op == CONFIG_OP_DELETE || !str_is_null(ops[n].value))
            continue;
        if (used + (size_t)MAX(ops[n].key.len, 0) + 3 < sizeof names)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%.*s",
                                     used > 0 ? ", " : "", STR_ARG(ops[n].key));
        else if (used == 0)
            used = (size_t)snprintf(names, sizeof names, "...");
    }
    if (used == 0)
        return ERR_NONE;
    errmsg_set(why, "Null value not supported for : %s", names);
    return ERR_INVALID_REQUEST;
}

static bool has_zero_byte(struct str s)
{
    return s.len > 0 && memchr(s.ptr, '\0', (size_t)s.len) != NULL;
}

static enum err refuse(struct errmsg *why, const char *sentence)
{
    errmsg_set(why, "%s", sentence);
    return ERR_INVALID_REQUEST;
}

static enum err check_name(const struct config *c, enum config_resource type, struct str name,
                           struct errmsg *why)
{
    int32_t id;

    if (has_zero_byte(name))
        return refuse(why, "The resource name contains a zero byte.");
    switch (type) {
    case CONFIG_TOPIC:
        if (name.len <= 0)
            return refuse(why, "Default topic resources are not allowed.");
        return topic_name_is_bad(name, why) ? ERR_INVALID_TOPIC_EXCEPTION : ERR_NONE;
    case CONFIG_GROUP:
        return name.len > 0 ? ERR_NONE : refuse(why, "Default group resources are not allowed.");
    case CONFIG_CLIENT_METRICS:
        return name.len > 0 ? ERR_NONE : refuse(why, "Subscription name can't be empty");
    case CONFIG_BROKER:
        if (name.len <= 0)
            return ERR_NONE;
        if (!parse_int32(name, &id)) {
            errmsg_set(why, "Node id must be an integer, but it is: %.*s", STR_ARG(name));
            return ERR_INVALID_REQUEST;
        }
        if (id != c->node_id) {
            errmsg_set(why, "Unexpected broker id, expected %d, but received %.*s", (int)c->node_id,
                       STR_ARG(name));
            return ERR_INVALID_REQUEST;
        }
        return ERR_NONE;
    default:
        errmsg_set(why, "Unknown resource type %d", (int)type);
        return ERR_INVALID_REQUEST;
    }
}

/* APPEND and SUBTRACT need a list. A key that nobody knows is found out later, unless it only
 * goes. */
static enum err check_op(enum config_resource type, const struct config_op *op, struct errmsg *why)
{
    const struct config_key *k = config_resource_key_find(type, op->key);
    const char *word = op->op == CONFIG_OP_APPEND ? "append" : "subtract";

    if (has_zero_byte(op->key) || has_zero_byte(op->value))
        return refuse(why, "A config contains a zero byte.");
    if (op->op == CONFIG_OP_SET || op->op == CONFIG_OP_DELETE)
        return ERR_NONE;
    if (op->op != CONFIG_OP_APPEND && op->op != CONFIG_OP_SUBTRACT) {
        errmsg_set(why, "Unknown operations type %d", (int)op->op);
        return ERR_INVALID_REQUEST;
    }
    if (k != NULL && k->type == CONFIG_TYPE_LIST)
        return ERR_NONE;
    if (type == CONFIG_BROKER)
        errmsg_set(why, "Config value %s is not allowed for config key: %.*s", word,
                   STR_ARG(op->key));
    else
        errmsg_set(why, "Can't %s to key %.*s because its type is not LIST.",
                   op->op == CONFIG_OP_APPEND ? "APPEND" : "SUBTRACT", STR_ARG(op->key));
    return ERR_INVALID_CONFIG;
}

/* What would be there afterwards. */
struct outcome {
    struct config_entry *entries;
    int32_t count;
};

static bool is_touched(const struct config_op *ops, int32_t count, struct str key)
{
    for (int32_t n = 0; n < count; n++)
        if (str_eq(ops[n].key, key))
            return true;
    return false;
}

/* What stands there and stays. A key that this version does not know is not judged again. */
static void keep_untouched(const struct image *i, enum config_resource type, struct str name,
                           const struct config_op *ops, int32_t count, struct outcome *out)
{
    const struct config_entry *old;
    int32_t old_count = 0;

    if (!image_config_entries(i, type, name, &old, &old_count))
        return;
    for (int32_t n = 0; n < old_count; n++)
        if (config_resource_key_find(type, old[n].key) != NULL &&
            !is_touched(ops, count, old[n].key))
            out->entries[out->count++] = old[n];
}

static enum err add_changed(const struct config *c, const struct image *i,
                            enum config_resource type, struct str name, struct config_op *op,
                            struct arena *a, struct outcome *out)
{
    const struct config_key *k = config_resource_key_find(type, op->key);
    struct config_entry *e = &out->entries[out->count];
    struct str from;
    char number[24];

    op->inherited = STR_EMPTY;
    if (op->op == CONFIG_OP_DELETE)
        return ERR_NONE;
    *e = (struct config_entry){op->key, op->value};
    out->count++;
    if (op->op == CONFIG_OP_SET)
        return ERR_NONE;
    /* A list, so never a converted number: it lives as long as configuration or image do. */
    op->inherited = config_inherited(c, i, type, k, number);
    if (str_is_null(op->inherited))
        op->inherited = STR_EMPTY;
    if (!image_config_get(i, type, name, op->key, &from))
        from = op->inherited;
    if (op->op == CONFIG_OP_SUBTRACT)
        e->value = from; /* less of what is allowed is allowed */
    else if (from.len > 0)
        e->value = arena_printf(a, "%.*s,%.*s", STR_ARG(from), STR_ARG(op->value));
    return str_is_null(e->value) ? ERR_TOO_LARGE : ERR_NONE;
}

static enum err judge(const struct config *c, const struct image *i, enum config_resource type,
                      struct str name, const struct outcome *o, struct errmsg *why)
{
    switch (type) {
    case CONFIG_TOPIC:
        return config_check_topic(o->entries, o->count, why);
    case CONFIG_GROUP:
        return config_check_group(c, i, o->entries, o->count, why);
    case CONFIG_CLIENT_METRICS:
        return config_check_metrics(o->entries, o->count, why);
    default:
        return config_check_broker(name, name.len <= 0, o->entries, o->count, why);
    }
}

enum err config_check_alter(const struct config *c, const struct image *i,
                            enum config_resource type, struct str name, struct config_op *ops,
                            int32_t count, bool replace_all, struct arena *a, struct errmsg *why)
{
    const struct config_entry *old;
    struct outcome out = {0};
    int32_t old_count = 0;
    enum err err;

    if ((err = check_duplicates(ops, count, a, why)) != ERR_NONE ||
        (err = check_nulls(ops, count, why)) != ERR_NONE ||
        (err = check_name(c, type, name, why)) != ERR_NONE)
        return err;
    (void)image_config_entries(i, type, name, &old, &old_count);
    out.entries = arena_array(a, (size_t)count + (size_t)old_count + 1, sizeof *out.entries);
    if (out.entries == NULL)
        return ERR_TOO_LARGE;
    for (int32_t n = 0; n < count; n++) {
        if ((err = check_op(type, &ops[n], why)) != ERR_NONE ||
            (err = add_changed(c, i, type, name, &ops[n], a, &out)) != ERR_NONE)
            return err;
    }
    if (!replace_all)
        keep_untouched(i, type, name, ops, count, &out);
    return judge(c, i, type, name, &out, why);
}
