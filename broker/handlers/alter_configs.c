/* broker/handlers/alter_configs.c -- AlterConfigs, IncrementalAlterConfigs.
 *
 * The old API names all that a resource shall have, the new one changes; both become the same list
 * of operations, are judged by broker/config and proposed as one command. The log level (resource
 * type BROKER_LOGGER, the logger "root") is this process's alone and changes at once.
 */
#include <stdlib.h>
#include <strings.h>

#include "broker/config.h"
#include "broker/handlers/admin.h"
#include "broker/handlers/handlers.h"
#include "broker/node.h"

#define ALTER_TIMEOUT_MS 30000

/* One resource of either request. */
struct change {
    int8_t type;
    struct str name;
    struct config_op *ops;
    int32_t op_count;
    enum err err; /* the verdict so far */
    struct str message;
    int32_t item; /* its place in the command, or -1 */
};

struct alteration {
    struct change *changes;
    int32_t count;
    bool replace_all, validate_only;
    void (*answer)(struct request *r, const struct alteration *a);
    MetaSetConfigs command;
};

/* ---- judging ---- */

static int by_resource(const void *x, const void *y)
{
    const struct change *a = *(const struct change *const *)x,
                        *b = *(const struct change *const *)y;

    return a->type != b->type ? a->type - b->type : str_cmp(a->name, b->name);
}

static bool mark_duplicates(struct request *r, struct alteration *a)
{
    struct change **sorted = arena_array(&r->arena, (size_t)a->count + 1, sizeof(struct change *));

    if (sorted == NULL)
        return false;
    for (int32_t i = 0; i < a->count; i++)
        sorted[i] = &a->changes[i];
    qsort(sorted, (size_t)a->count, sizeof(struct change *), by_resource);
    for (int32_t i = 1; i < a->count; i++) {
        if (by_resource(&sorted[i - 1], &sorted[i]) != 0)
            continue;
        for (int32_t k = i - 1; k <= i; k++) {
            sorted[k]->err = ERR_INVALID_REQUEST;
            sorted[k]->message = STR_LIT("Each resource must appear at most once.");
        }
    }
    return true;
}

/* A topic that is not there says so before anything else is wrong with the request. */
static void judge(struct request *r, const struct alteration *a, struct change *c)
{
    struct errmsg why = {""};

    if (c->err != ERR_NONE)
        return;
    c->err = config_check_alter(r->home->config, request_image(r), (enum config_resource)c->type,
                                c->name, c->ops, c->op_count, a->replace_all, &r->arena, &why);
    if (c->err == ERR_INVALID_CONFIG && c->type == CONFIG_TOPIC &&
        image_topic(request_image(r), c->name) == NULL) {
        c->err = ERR_UNKNOWN_TOPIC_OR_PARTITION;
        errmsg_set(&why, "The topic '%.*s' does not exist.", STR_ARG(c->name));
    }
    c->message = admin_message(r, why.text);
}

/* ---- the log level ---- */

static enum err check_level(const struct config_op *op, enum log_level *level, struct errmsg *why)
{
    char text[16];

    if (!str_eq_lit(op->key, "root")) {
        errmsg_set(why, "Logger %.*s does not exist!", STR_ARG(op->key));
        return ERR_INVALID_CONFIG;
    }
    if (op->op == CONFIG_OP_APPEND || op->op == CONFIG_OP_SUBTRACT) {
        errmsg_set(why, "%s operation is not allowed for the BROKER_LOGGER resource",
                   op->op == CONFIG_OP_APPEND ? "APPEND" : "SUBTRACT");
        return ERR_INVALID_REQUEST;
    }
    if (op->op != CONFIG_OP_SET || str_is_null(op->value)) {
        errmsg_set(why, "Removing the log level of the root logger is not allowed");
        return ERR_INVALID_REQUEST;
    }
    snprintf(text, sizeof text, "%.*s", STR_ARG(op->value));
    if (strcasecmp(text, "FATAL") == 0)
        snprintf(text, sizeof text, "ERROR");
    if (op->value.len >= (int32_t)sizeof text || !log_level_parse(text, level)) {
        errmsg_set(why,
                   "Cannot set the log level of root to %.*s as it is not a supported log level. "
                   "Valid log levels are DEBUG,ERROR,FATAL,INFO,TRACE,WARN",
                   STR_ARG(op->value));
        return ERR_INVALID_CONFIG;
    }
    return ERR_NONE;
}

static void change_level(struct request *r, const struct alteration *a, struct change *c)
{
    enum log_level level = LOG_INFO;
    struct errmsg why = {""};
    int32_t id;

    if (c->err != ERR_NONE)
        return;
    if (!parse_int32(c->name, &id) || id != r->home->config->node_id) {
        c->err = ERR_INVALID_REQUEST;
        errmsg_set(&why, "Unexpected broker id, expected %d, but received %.*s",
                   (int)r->home->config->node_id, STR_ARG(c->name));
    }
    for (int32_t i = 0; i < c->op_count && c->err == ERR_NONE; i++)
        c->err = check_level(&c->ops[i], &level, &why);
    c->message = admin_message(r, why.text);
    if (c->err == ERR_NONE && c->op_count > 0 && !a->validate_only)
        atomic_store(&r->home->logger->level, (int)level);
}

/* ---- the command ---- */

static MetaSetConfigs__Entry *entry_new(struct request *r, const struct config_op *op)
{
    MetaSetConfigs__Entry *e = arena_alloc(&r->arena, sizeof *e);

    if (e == NULL)
        return NULL;
    meta_set_configs__entry__init(e);
    e->key = admin_text(r, op->key);
    e->value = admin_text(r, op->value);
    e->default_value = admin_text(r, op->inherited);
    e->op = (MetaSetConfigs__Op)op->op;
    return e->key != NULL && e->value != NULL && e->default_value != NULL ? e : NULL;
}

/* False: no memory left in the request's budget. */
static bool add_resource(struct request *r, struct alteration *a, struct change *c)
{
    MetaSetConfigs__Resource *m = arena_alloc(&r->arena, sizeof *m);

    if (m == NULL)
        return false;
    meta_set_configs__resource__init(m);
    m->type = c->type;
    m->name = admin_text(r, c->name);
    m->replace_all = a->replace_all;
    m->entries = arena_array(&r->arena, (size_t)c->op_count + 1, sizeof *m->entries);
    if (m->name == NULL || m->entries == NULL)
        return false;
    for (int32_t i = 0; i < c->op_count; i++) {
        m->entries[m->n_entries] = entry_new(r, &c->ops[i]);
        if (m->entries[m->n_entries++] == NULL)
            return false;
    }
    c->item = (int32_t)a->command.n_resources;
    a->command.resources[a->command.n_resources++] = m;
    return true;
}

static void on_altered(struct request *r)
{
    struct alteration *a = r->handler_state;
    enum err whole = admin_command_error(r);

    for (int32_t i = 0; i < a->count; i++) {
        struct change *c = &a->changes[i];
        const MetaItemOutcome *o = NULL;

        if (c->item < 0)
            continue;
        if (whole == ERR_NONE)
            o = r->proposal.outcome->items[c->item];
        c->err = o != NULL ? (enum err)o->error : whole;
        c->message = o != NULL ? admin_message(r, o->message) : STR_NULL;
    }
    a->answer(r, a);
    admin_send_when_followed(r);
}

static void alter(struct request *r, struct alteration *a)
{
    MetaCommand *command = arena_alloc(&r->arena, sizeof *command);

    meta_set_configs__init(&a->command);
    a->command.validate_only = a->validate_only;
    a->command.resources =
        arena_array(&r->arena, (size_t)a->count + 1, sizeof *a->command.resources);
    if (command == NULL || a->command.resources == NULL || !mark_duplicates(r, a)) {
        request_overflow(r);
        return;
    }
    for (int32_t i = 0; i < a->count; i++) {
        struct change *c = &a->changes[i];

        c->item = -1;
        if (c->type == CONFIG_BROKER_LOGGER && !a->replace_all) {
            change_level(r, a, c);
            continue;
        }
        judge(r, a, c);
        if (c->err == ERR_TOO_LARGE || (c->err == ERR_NONE && !add_resource(r, a, c))) {
            request_overflow(r);
            return;
        }
    }
    r->handler_state = a;
    if (a->command.n_resources == 0) {
        a->answer(r, a);
        request_send(r);
        return;
    }
    meta_command__init(command);
    command->body_case = META_COMMAND__BODY_SET_CONFIGS;
    command->set_configs = &a->command;
    request_propose(r, command, ALTER_TIMEOUT_MS, on_altered);
}

static struct alteration *alteration_new(struct request *r, int32_t count)
{
    struct alteration *a = arena_alloc(&r->arena, sizeof *a);

    if (a == NULL)
        return NULL;
    a->count = MAX(count, 0);
    a->changes = arena_array(&r->arena, (size_t)a->count + 1, sizeof *a->changes);
    return a->changes != NULL ? a : NULL;
}

static bool change_init(struct request *r, struct change *c, int8_t type, struct str name,
                        int32_t op_count)
{
    *c = (struct change){.type = type, .name = name, .message = STR_NULL};
    c->op_count = MAX(op_count, 0);
    c->ops = arena_array(&r->arena, (size_t)c->op_count + 1, sizeof *c->ops);
    return c->ops != NULL;
}

/* ---- AlterConfigs ---- */

static void answer_alter(struct request *r, const struct alteration *a)
{
    struct alter_configs_response *out = r->response;

    for (int32_t i = 0; i < a->count; i++) {
        out->responses.v[i].error_code = err_to_wire(a->changes[i].err);
        out->responses.v[i].error_message = a->changes[i].message;
        out->responses.v[i].resource_type = a->changes[i].type;
        out->responses.v[i].resource_name = a->changes[i].name;
    }
}

void handle_alter_configs(struct request *r)
{
    const struct alter_configs_request *in = r->body;
    struct alter_configs_response *out = request_response(r);
    struct alteration *a = alteration_new(r, in->resources.n);

    REQUEST_ARRAY(r, out->responses, in->resources.n,
                  alter_configs_response_alter_configs_resource_response);
    for (int32_t i = 0; a != NULL && i < a->count; i++) {
        const struct alter_configs_request_alter_configs_resource *from = &in->resources.v[i];
        struct change *c = &a->changes[i];

        if (!change_init(r, c, from->resource_type, from->resource_name, from->configs.n)) {
            request_overflow(r);
            return;
        }
        for (int32_t n = 0; n < c->op_count; n++)
            c->ops[n] = (struct config_op){.key = from->configs.v[n].name,
                                           .value = from->configs.v[n].value,
                                           .op = CONFIG_OP_SET};
    }
    if (a == NULL) {
        request_overflow(r);
        return;
    }
    a->replace_all = true;
    a->validate_only = in->validate_only;
    a->answer = answer_alter;
    alter(r, a);
}

/* ---- IncrementalAlterConfigs ---- */

static void answer_incremental(struct request *r, const struct alteration *a)
{
    struct incremental_alter_configs_response *out = r->response;

    for (int32_t i = 0; i < a->count; i++) {
        out->responses.v[i].error_code = err_to_wire(a->changes[i].err);
        out->responses.v[i].error_message = a->changes[i].message;
        out->responses.v[i].resource_type = a->changes[i].type;
        out->responses.v[i].resource_name = a->changes[i].name;
    }
}

void handle_incremental_alter_configs(struct request *r)
{
    const struct incremental_alter_configs_request *in = r->body;
    struct incremental_alter_configs_response *out = request_response(r);
    struct alteration *a = alteration_new(r, in->resources.n);

    REQUEST_ARRAY(r, out->responses, in->resources.n,
                  incremental_alter_configs_response_alter_configs_resource_response);
    for (int32_t i = 0; a != NULL && i < a->count; i++) {
        const struct incremental_alter_configs_request_alter_configs_resource *from =
            &in->resources.v[i];
        struct change *c = &a->changes[i];

        if (!change_init(r, c, from->resource_type, from->resource_name, from->configs.n)) {
            request_overflow(r);
            return;
        }
        for (int32_t n = 0; n < c->op_count; n++) {
            c->ops[n].key = from->configs.v[n].name;
            c->ops[n].value = from->configs.v[n].value;
            c->ops[n].op = (unsigned int)from->configs.v[n].config_operation;
        }
    }
    if (a == NULL) {
        request_overflow(r);
        return;
    }
    a->validate_only = in->validate_only;
    a->answer = answer_incremental;
    alter(r, a);
}
