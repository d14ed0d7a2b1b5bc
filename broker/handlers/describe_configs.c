/* broker/handlers/describe_configs.c -- DescribeConfigs, ListConfigResources.
 *
 * What is described is broker/config's; here are only the answer's form, the filter by names, and
 * the one logger that there is (Kafka's resource type BROKER_LOGGER).
 */
#include "broker/config.h"
#include "broker/handlers/admin.h"
#include "broker/handlers/handlers.h"
#include "broker/node.h"
#include "raft-meta/fsm.h"

/* What one resource needs while it is being described: every broker key, all synonyms. */
#define SCRATCH_BYTES_MAX ((size_t)4 * 1024 * 1024)

/* Without names, every key. */
static bool is_wanted(const struct describe_configs_request_describe_configs_resource *in,
                      struct str key)
{
    for (int32_t i = 0; i < in->configuration_keys.n; i++)
        if (str_eq(in->configuration_keys.v[i], key))
            return true;
    return in->configuration_keys.n <= 0;
}

static bool fill_synonyms(struct request *r, const struct config_described *d,
                          struct describe_configs_response_describe_configs_resource_result *out)
{
    if (!CODEC_ARRAY(&r->arena, out->synonyms, d->synonym_count,
                     describe_configs_response_describe_configs_synonym))
        return false;
    for (int32_t i = 0; i < d->synonym_count; i++) {
        out->synonyms.v[i].name = d->synonyms[i].name;
        out->synonyms.v[i].source = (int8_t)d->synonyms[i].source;
        if (!arena_str(&r->arena, d->synonyms[i].value, &out->synonyms.v[i].value))
            return false;
    }
    return true;
}

static bool fill_config(struct request *r, const struct config_described *d,
                        struct describe_configs_response_describe_configs_resource_result *out)
{
    const struct describe_configs_request *in = r->body;

    out->name = d->name;
    out->read_only = d->read_only;
    out->config_source = (int8_t)d->source;
    out->is_sensitive = d->sensitive;
    out->config_type = (int8_t)d->type;
    out->documentation = in->include_documentation ? str_from(d->doc) : STR_NULL;
    return arena_str(&r->arena, d->value, &out->value) &&
           (!in->include_synonyms || fill_synonyms(r, d, out));
}

/* False: no memory left in the request's budget. */
static bool fill_configs(struct request *r,
                         const struct describe_configs_request_describe_configs_resource *in,
                         const struct config_described *all, int32_t count,
                         struct describe_configs_response_describe_configs_result *out)
{
    int32_t wanted = 0, n = 0;

    for (int32_t i = 0; i < count; i++)
        wanted += is_wanted(in, all[i].name);
    if (!CODEC_ARRAY(&r->arena, out->configs, wanted,
                     describe_configs_response_describe_configs_resource_result))
        return false;
    for (int32_t i = 0; i < count; i++)
        if (is_wanted(in, all[i].name) && !fill_config(r, &all[i], &out->configs.v[n++]))
            return false;
    return true;
}

/* ---- the logger ---- */

static const char *level_name(const struct node *n)
{
    static const char *const names[] = {"ERROR", "WARN", "INFO", "DEBUG", "TRACE"};

    return names[atomic_load(&n->logger->level)];
}

static bool describe_logger(struct request *r,
                            const struct describe_configs_request_describe_configs_resource *in,
                            struct describe_configs_response_describe_configs_result *out)
{
    const struct config_described root = {
        .name = STR_LIT("root"),
        .value = str_from(level_name(r->home)),
        .doc = "",
        .source = CONFIG_SOURCE_DYNAMIC_BROKER_LOGGER,
        .type = CONFIG_TYPE_UNKNOWN,
    };

    return fill_configs(r, in, &root, 1, out);
}

/* ---- one resource ---- */

static void refuse(struct describe_configs_response_describe_configs_result *out, enum err err,
                   struct str message)
{
    out->error_code = err_to_wire(err);
    out->error_message = message;
}

/* Kafka's sentence for a resource that config_describe() cannot find or does not describe. */
static struct str why_not(struct request *r, int8_t type, struct str name)
{
    int node = (int)r->home->config->node_id;
    int32_t id;

    switch (type) {
    case CONFIG_BROKER:
    case CONFIG_BROKER_LOGGER:
        if (name.len <= 0)
            return STR_LIT("Broker id must not be empty");
        if (!parse_int32(name, &id))
            return request_text(r, "Broker id must be an integer, but it is: %.*s", STR_ARG(name));
        return request_text(r, "Unexpected broker id, expected %d%s but received %.*s", node,
                            type == CONFIG_BROKER ? " or empty string," : "", STR_ARG(name));
    case CONFIG_GROUP:
        return STR_LIT("Group name must not be empty");
    case CONFIG_CLIENT_METRICS:
        return STR_LIT("Client metrics subscription name must not be empty");
    default:
        return request_text(r, "Unexpected resource type %d for resource %.*s", (int)type,
                            STR_ARG(name));
    }
}

static bool is_this_node(const struct request *r, struct str name)
{
    int32_t id;

    return parse_int32(name, &id) && id == r->home->config->node_id;
}

static bool describe(struct request *r,
                     const struct describe_configs_request_describe_configs_resource *in,
                     struct arena *scratch,
                     struct describe_configs_response_describe_configs_result *out)
{
    struct config_described *all = NULL;
    struct errmsg bad_name = {""};
    int32_t count = 0;
    enum err err;

    out->resource_type = in->resource_type;
    out->resource_name = in->resource_name;
    if (in->resource_type == CONFIG_BROKER_LOGGER && is_this_node(r, in->resource_name))
        return describe_logger(r, in, out);
    if (in->resource_type == CONFIG_TOPIC && topic_name_is_bad(in->resource_name, &bad_name)) {
        refuse(out, ERR_INVALID_TOPIC_EXCEPTION, request_text(r, "%s", bad_name.text));
        return true;
    }
    arena_reset(scratch);
    err =
        config_describe(r->home->config, request_image(r), (enum config_resource)in->resource_type,
                        in->resource_name, scratch, &all, &count);
    switch (err) {
    case ERR_NONE:
        return fill_configs(r, in, all, count, out);
    case ERR_TOO_LARGE:
        return false;
    case ERR_NOT_FOUND:
        if (in->resource_type == CONFIG_TOPIC) {
            refuse(out, ERR_UNKNOWN_TOPIC_OR_PARTITION, STR_EMPTY);
            return true;
        }
        /* fallthrough */
    default:
        refuse(out, ERR_INVALID_REQUEST, why_not(r, in->resource_type, in->resource_name));
        return true;
    }
}

void handle_describe_configs(struct request *r)
{
    const struct describe_configs_request *in = r->body;
    struct describe_configs_response *out = request_response(r);
    struct arena scratch;
    bool fits = true;

    REQUEST_ARRAY(r, out->results, in->resources.n,
                  describe_configs_response_describe_configs_result);
    arena_init(&scratch, SCRATCH_BYTES_MAX);
    for (int32_t i = 0; i < in->resources.n && fits; i++)
        fits = describe(r, &in->resources.v[i], &scratch, &out->results.v[i]);
    arena_deinit(&scratch);
    if (fits)
        request_send(r);
    else
        request_overflow(r);
}

/* ---- ListConfigResources ---- */

struct listing {
    struct request *r;
    struct list_config_resources_response *out; /* NULL: only count */
    int32_t count;
};

static void list_one(struct listing *l, struct str name, enum config_resource type)
{
    if (l->out != NULL) {
        struct list_config_resources_response_config_resource *e =
            &l->out->config_resources.v[l->count];

        e->resource_name = name;
        e->resource_type = (int8_t)type;
    }
    l->count++;
}

static void list_type(struct listing *l, const struct image *i, enum config_resource type)
{
    struct str name = STR_NULL;

    switch (type) {
    case CONFIG_TOPIC:
        for (const struct topic_image *t = image_topic_next(i, STR_NULL); t != NULL;
             t = image_topic_next(i, t->name))
            list_one(l, t->name, type);
        break;
    case CONFIG_BROKER:
    case CONFIG_BROKER_LOGGER:
        for (const struct broker_image *b = image_broker_next(i, -1); b != NULL;
             b = image_broker_next(i, b->id))
            if (!b->fenced)
                list_one(l, l->out != NULL ? request_text(l->r, "%d", (int)b->id) : STR_EMPTY,
                         type);
        break;
    default:
        while (image_config_next(i, type, name, &name))
            list_one(l, name, type);
        break;
    }
}

/* Version 0 lists client-metrics subscriptions; later ones what is asked for, or everything. */
static bool lists_type(const struct request *r, enum config_resource type)
{
    const struct list_config_resources_request *in = r->body;

    if (r->version == 0)
        return type == CONFIG_CLIENT_METRICS;
    for (int32_t n = 0; n < in->resource_types.n; n++)
        if (in->resource_types.v[n] == (int8_t)type)
            return true;
    return in->resource_types.n <= 0;
}

static const enum config_resource listed_types[] = {
    CONFIG_GROUP, CONFIG_CLIENT_METRICS, CONFIG_BROKER_LOGGER, CONFIG_BROKER, CONFIG_TOPIC,
};

static void list_all(struct listing *l)
{
    for (size_t t = 0; t < ARRAY_COUNT(listed_types); t++)
        if (lists_type(l->r, listed_types[t]))
            list_type(l, request_image(l->r), listed_types[t]);
}

static bool is_known_type(int8_t type)
{
    for (size_t t = 0; t < ARRAY_COUNT(listed_types); t++)
        if (type == (int8_t)listed_types[t])
            return true;
    return false;
}

void handle_list_config_resources(struct request *r)
{
    const struct list_config_resources_request *in = r->body;
    struct list_config_resources_response *out = request_response(r);
    struct listing counted = {.r = r}, filled = {.r = r, .out = out};

    for (int32_t n = 0; r->version > 0 && n < in->resource_types.n; n++) {
        if (!is_known_type(in->resource_types.v[n])) {
            out->error_code = ERR_UNSUPPORTED_VERSION;
            request_send(r);
            return;
        }
    }
    list_all(&counted);
    REQUEST_ARRAY(r, out->config_resources, counted.count,
                  list_config_resources_response_config_resource);
    list_all(&filled);
    request_send(r);
}
