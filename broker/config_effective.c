/* broker/config_effective.c -- what is in force: static values under the image's dynamic ones.
 *
 * A topic's value comes from the topic, else from the broker key that is its default; a broker
 * key's from this broker's dynamic values, else the cluster-wide ones, else file, environment and
 * command line, else the table. A dynamic value that does not fit its key (a newer node wrote it)
 * counts as absent.
 */
#include "broker/config_keys.h"

#include <stdio.h>

static struct str node_name(const struct config *c, char out[16])
{
    snprintf(out, 16, "%d", (int)c->node_id);
    return str_from(out);
}

/* One level of dynamic values. */
static bool dynamic_value(const struct image *i, enum config_resource type, struct str name,
                          const struct config_key *k, struct str *out)
{
    struct config_fault f;

    if (!image_config_get(i, type, name, str_from(k->name), out) ||
        !config_check_value(k, *out, &f))
        return false;
    *out = config_trim(*out);
    if (k->type == CONFIG_TYPE_BOOLEAN)
        *out = str_eq_nocase(*out, "true") ? STR_LIT("true") : STR_LIT("false");
    return true;
}

struct str config_value(const struct config *c, const struct image *i, const char *name)
{
    const struct config_key *k = config_key_find(str_from(name));
    char self[16];
    struct str v;

    CHECK(k != NULL);
    if (i != NULL && k->dynamic) {
        if (!k->cluster_only && dynamic_value(i, CONFIG_BROKER, node_name(c, self), k, &v))
            return v;
        if (dynamic_value(i, CONFIG_BROKER, STR_EMPTY, k, &v))
            return v;
    }
    return config_static_text(c, name);
}

int64_t config_number(const struct config *c, const struct image *i, const char *name)
{
    int64_t v = 0;

    CHECK(config_parse_integer(CONFIG_TYPE_LONG, config_value(c, i, name), &v));
    return v;
}

/* `number` holds the text when it had to be converted (hours to ms). */
static struct str inherited_by_topic(const struct config *c, const struct image *i,
                                     const struct config_key *k, char number[24])
{
    const struct config_synonyms *s = config_topic_synonyms(k->name);

    for (int b = 0; s != NULL && b < 3 && s->broker[b] != NULL; b++) {
        struct str v = config_value(c, i, s->broker[b]);
        int64_t n;

        if (str_is_null(v))
            continue;
        if (s->multiplier[b] == 1)
            return v;
        CHECK(config_parse_integer(CONFIG_TYPE_INT, v, &n));
        snprintf(number, 24, "%lld", (long long)(n < 0 ? -1 : n * s->multiplier[b]));
        return str_from(number);
    }
    return str_from(k->default_value);
}

/* "group." and the key is the broker key that bounds or gives it, where there is one. */
static const struct config_key *group_broker_key(const struct config_key *k)
{
    char name[128];

    snprintf(name, sizeof name, "group.%s", k->name);
    return config_key_find(str_from(name));
}

struct str config_inherited(const struct config *c, const struct image *i,
                            enum config_resource type, const struct config_key *k, char number[24])
{
    const struct config_key *b = NULL;

    if (type == CONFIG_TOPIC)
        return inherited_by_topic(c, i, k, number);
    if (type == CONFIG_GROUP && (b = group_broker_key(k)) != NULL)
        return config_value(c, i, b->name);
    if (type == CONFIG_BROKER)
        return config_static_text(c, k->name);
    return str_from(k->default_value);
}

/* ---- topics ---- */

static struct str topic_value(const struct config *c, const struct image *i, struct str topic,
                              const struct config_key *k, char number[24])
{
    struct str v;

    if (i != NULL && dynamic_value(i, CONFIG_TOPIC, topic, k, &v))
        return v;
    return inherited_by_topic(c, i, k, number);
}

struct topic_reader {
    const struct config *c;
    const struct image *i;
    struct str topic;
    char number[24];
};

static struct str read_text(struct topic_reader *r, const char *key)
{
    const struct config_key *k = config_topic_key_find(str_from(key));

    CHECK(k != NULL);
    return topic_value(r->c, r->i, r->topic, k, r->number);
}

static int64_t read_number(struct topic_reader *r, const char *key)
{
    int64_t v = 0;

    CHECK(config_parse_integer(CONFIG_TYPE_LONG, read_text(r, key), &v));
    return v;
}

static bool read_bool(struct topic_reader *r, const char *key)
{
    return str_eq_nocase(read_text(r, key), "true");
}

static bool list_has(struct str list, const char *word)
{
    struct str item;

    while (config_list_next(&list, &item))
        if (str_eq_lit(item, word))
            return true;
    return false;
}

static void read_compression(struct topic_reader *r, struct topic_settings *out)
{
    static const struct {
        const char *name;
        int8_t codec; /* as in a batch's attributes */
        const char *level;
    } types[] = {
        {"producer", -1, NULL},
        {"uncompressed", 0, NULL},
        {"gzip", 1, "compression.gzip.level"},
        {"snappy", 2, NULL},
        {"lz4", 3, "compression.lz4.level"},
        {"zstd", 4, "compression.zstd.level"},
    };
    struct str name = read_text(r, "compression.type");

    out->compression_type = -1;
    out->compression_level = INT32_MIN;
    for (size_t t = 0; t < ARRAY_COUNT(types); t++) {
        if (!str_eq_lit(name, types[t].name))
            continue;
        out->compression_type = types[t].codec;
        if (types[t].level != NULL)
            out->compression_level = (int32_t)read_number(r, types[t].level);
        if (types[t].codec == 1 && out->compression_level == -1)
            out->compression_level = INT32_MIN; /* gzip's way to say "your default" */
    }
}

void config_topic_settings(const struct config *c, const struct image *i, struct str topic,
                           struct topic_settings *out)
{
    struct topic_reader r = {.c = c, .i = i, .topic = topic};
    struct str policy = read_text(&r, "cleanup.policy");

    *out = (struct topic_settings){
        .log =
            {
                .segment_bytes = read_number(&r, "segment.bytes"),
                .segment_ms = read_number(&r, "segment.ms"),
                .segment_jitter_ms = read_number(&r, "segment.jitter.ms"),
                .segment_index_bytes = read_number(&r, "segment.index.bytes"),
                .index_interval_bytes = read_number(&r, "index.interval.bytes"),
                .retention_ms = MAX(read_number(&r, "retention.ms"), -1),
                .retention_bytes = MAX(read_number(&r, "retention.bytes"), -1),
                .flush_messages = read_number(&r, "flush.messages"),
                .flush_ms = read_number(&r, "flush.ms"),
                .file_delete_delay_ms = read_number(&r, "file.delete.delay.ms"),
                .producer_id_expiration_ms = config_number(c, i, "producer.id.expiration.ms"),
                .cleanup_delete = list_has(policy, "delete"),
                .cleanup_compact = list_has(policy, "compact"),
            },
        .max_message_bytes = (int32_t)read_number(&r, "max.message.bytes"),
        .timestamp_before_max_ms = read_number(&r, "message.timestamp.before.max.ms"),
        .timestamp_after_max_ms = read_number(&r, "message.timestamp.after.max.ms"),
        .min_insync_replicas = (int16_t)MIN(read_number(&r, "min.insync.replicas"), INT16_MAX),
        .unclean_leader_election = read_bool(&r, "unclean.leader.election.enable"),
        .max_decompressed_bytes = read_number(&r, "max.decompressed.message.bytes"),
    };
    out->compacted = out->log.cleanup_compact;
    out->log_append_time = str_eq_lit(read_text(&r, "message.timestamp.type"), "LogAppendTime");
    read_compression(&r, out);
}

/* ---- DescribeConfigs ---- */

#define SYNONYMS_MAX 16

struct describer {
    const struct config *c;
    const struct image *i;
    struct arena *arena;
    char self[16];
    struct config_synonym synonyms[SYNONYMS_MAX]; /* of the entry in work */
    int32_t count;
};

static void add_synonym(struct describer *d, const struct config_key *k, struct str value,
                        enum config_source source)
{
    CHECK(d->count < SYNONYMS_MAX);
    d->synonyms[d->count++] = (struct config_synonym){
        .name = str_from(k->name),
        .value = k->sensitive ? STR_NULL : value,
        .source = source,
    };
}

/* The broker keys that give a setting, level by level: this broker's dynamic values of all of
 * them, the cluster-wide ones, the static ones, the defaults. As Kafka does, what stands before
 * the first mention of `name` itself is dropped, even when it is what decides (a static
 * log.retention.hours is so not listed under retention.ms). */
static void add_broker_synonyms(struct describer *d, const char *name)
{
    const struct config_synonyms *s = config_broker_synonyms(name);
    int32_t begin = d->count, keep;
    struct str v;

    for (int level = 0; level < 4; level++) {
        for (int b = 0; b < 3; b++) {
            const char *key = s != NULL ? s->broker[b] : b == 0 ? name : NULL;
            int index = key == NULL ? -1 : config_key_index(str_from(key));

            if (index < 0)
                continue;

            const struct config_key *k = &config_broker_keys[index];
            const struct config_static_value *fixed = &d->c->store->values[index];

            if (level == 0 && k->dynamic && !k->cluster_only &&
                dynamic_value(d->i, CONFIG_BROKER, str_from(d->self), k, &v))
                add_synonym(d, k, v, CONFIG_SOURCE_DYNAMIC_BROKER);
            if (level == 1 && k->dynamic && dynamic_value(d->i, CONFIG_BROKER, STR_EMPTY, k, &v))
                add_synonym(d, k, v, CONFIG_SOURCE_DYNAMIC_DEFAULT_BROKER);
            if (level == 2 && fixed->origin != ORIGIN_DEFAULT)
                add_synonym(d, k, str_from(fixed->text), CONFIG_SOURCE_STATIC_BROKER);
            if (level == 3 && k->default_value != NULL && !k->unlisted)
                add_synonym(d, k, str_from(k->default_value), CONFIG_SOURCE_DEFAULT);
        }
    }
    for (keep = begin; keep < d->count && !str_eq_lit(d->synonyms[keep].name, name); keep++)
        ;
    memmove(&d->synonyms[begin], &d->synonyms[keep],
            (size_t)(d->count - keep) * sizeof d->synonyms[0]);
    d->count -= keep - begin;
}

/* Fills one line from the synonyms gathered; false when the arena is used up. */
static bool finish_entry(struct describer *d, const struct config_key *k, struct str value,
                         struct config_described *out)
{
    enum config_source source = d->count > 0 ? d->synonyms[0].source : CONFIG_SOURCE_DEFAULT;

    *out = (struct config_described){
        .name = str_from(k->name),
        .doc = k->doc,
        .source = source,
        .type = k->type,
        .read_only = k->read_only,
        .sensitive = k->sensitive,
        .is_default = source == CONFIG_SOURCE_DEFAULT,
        .synonym_count = d->count,
    };
    if (k->type == CONFIG_TYPE_BOOLEAN && value.len > 0)
        value = str_eq_nocase(value, "true") ? STR_LIT("true") : STR_LIT("false");
    if (!arena_str(d->arena, k->sensitive ? STR_NULL : value, &out->value))
        return false;
    if (d->count == 0)
        return true;
    out->synonyms = arena_array(d->arena, (size_t)d->count, sizeof *out->synonyms);
    for (int32_t s = 0; out->synonyms != NULL && s < d->count; s++) {
        out->synonyms[s] = d->synonyms[s];
        if (!arena_str(d->arena, d->synonyms[s].value, &out->synonyms[s].value))
            return false;
    }
    return out->synonyms != NULL;
}

static enum err describe_topic(struct describer *d, struct str topic, struct config_described *out,
                               int32_t *count)
{
    for (int n = 0; n < config_topic_key_count; n++) {
        const struct config_key *k = &config_topic_keys[n];
        const struct config_synonyms *s = config_topic_synonyms(k->name);
        char number[24];
        struct str v;

        d->count = 0;
        if (dynamic_value(d->i, CONFIG_TOPIC, topic, k, &v))
            add_synonym(d, k, v, CONFIG_SOURCE_TOPIC);
        if (s != NULL)
            add_broker_synonyms(d, s->broker[0]);
        if (!finish_entry(d, k, topic_value(d->c, d->i, topic, k, number), &out[(*count)++]))
            return ERR_TOO_LARGE;
    }
    return ERR_NONE;
}

static enum err describe_group(struct describer *d, struct str group, struct config_described *out,
                               int32_t *count)
{
    for (int n = 0; n < config_group_key_count; n++) {
        const struct config_key *k = &config_group_keys[n];
        const struct config_key *b = group_broker_key(k);
        struct str v = str_from(k->default_value);

        d->count = 0;
        if (b != NULL) {
            v = config_value(d->c, d->i, b->name);
            add_broker_synonyms(d, b->name);
        } else {
            add_synonym(d, k, v, CONFIG_SOURCE_DEFAULT);
        }
        if (dynamic_value(d->i, CONFIG_GROUP, group, k, &v)) {
            memmove(&d->synonyms[1], &d->synonyms[0], (size_t)d->count * sizeof d->synonyms[0]);
            d->synonyms[0] = (struct config_synonym){str_from(k->name), v, CONFIG_SOURCE_GROUP};
            d->count++;
        }
        if (!finish_entry(d, k, v, &out[(*count)++]))
            return ERR_TOO_LARGE;
    }
    return ERR_NONE;
}

static enum err describe_metrics(struct describer *d, struct str name, struct config_described *out,
                                 int32_t *count)
{
    for (int n = 0; n < config_metrics_key_count; n++) {
        const struct config_key *k = &config_metrics_keys[n];
        struct str v = str_from(k->default_value);

        d->count = 0;
        if (dynamic_value(d->i, CONFIG_CLIENT_METRICS, name, k, &v))
            add_synonym(d, k, v, CONFIG_SOURCE_CLIENT_METRICS);
        if (!finish_entry(d, k, v, &out[(*count)++]))
            return ERR_TOO_LARGE;
    }
    return ERR_NONE;
}

/* The cluster-wide dynamic values alone, with no other level under them. */
static enum err describe_cluster(struct describer *d, struct config_described *out, int32_t *count)
{
    for (int n = 0; n < config_broker_key_count; n++) {
        const struct config_key *k = &config_broker_keys[n];
        struct str v;

        if (!k->dynamic || !dynamic_value(d->i, CONFIG_BROKER, STR_EMPTY, k, &v))
            continue;
        d->count = 0;
        add_synonym(d, k, v, CONFIG_SOURCE_DYNAMIC_DEFAULT_BROKER);
        if (!finish_entry(d, k, v, &out[(*count)++]))
            return ERR_TOO_LARGE;
    }
    return ERR_NONE;
}

/* default.replication.factor left to us: the number that a topic created now would get. */
static struct str replication_factor(const struct describer *d, struct str value)
{
    int32_t nodes = MAX(d->c->voter_count, image_broker_count(d->i));

    if (!str_eq_lit(value, "0"))
        return value;
    return nodes >= 3 ? STR_LIT("3") : nodes == 2 ? STR_LIT("2") : STR_LIT("1");
}

static bool describe_unknown(struct describer *d, const struct config_entry *e,
                             struct config_described *out)
{
    /* Kafka hides what it does not know: it might be a plug-in's password. */
    struct config_synonym *s = arena_array(d->arena, 1, sizeof *s);

    *out = (struct config_described){
        .name = e->key,
        .value = STR_NULL,
        .source = CONFIG_SOURCE_STATIC_BROKER,
        .type = CONFIG_TYPE_UNKNOWN,
        .read_only = true,
        .sensitive = true,
        .synonyms = s,
        .synonym_count = 1,
    };
    if (s == NULL)
        return false;
    *s = (struct config_synonym){e->key, STR_NULL, CONFIG_SOURCE_STATIC_BROKER};
    return true;
}

static enum err describe_broker(struct describer *d, struct config_described *out, int32_t *count)
{
    const struct config_store *s = d->c->store;
    int u = 0;

    for (int n = 0; n < config_broker_key_count; n++) {
        const struct config_key *k = &config_broker_keys[n];
        struct str v = config_value(d->c, d->i, k->name);

        for (; u < s->unknown_count && str_cmp(s->unknown[u].key, str_from(k->name)) < 0; u++)
            if (!describe_unknown(d, &s->unknown[u], &out[(*count)++]))
                return ERR_TOO_LARGE;
        d->count = 0;
        add_broker_synonyms(d, k->name);
        if (k->unlisted && d->count == 0)
            continue;
        if (strcmp(k->name, "default.replication.factor") == 0)
            v = replication_factor(d, v);
        if (!finish_entry(d, k, v, &out[(*count)++]))
            return ERR_TOO_LARGE;
    }
    for (; u < s->unknown_count; u++)
        if (!describe_unknown(d, &s->unknown[u], &out[(*count)++]))
            return ERR_TOO_LARGE;
    return ERR_NONE;
}

enum err config_describe(const struct config *c, const struct image *i, enum config_resource type,
                         struct str name, struct arena *a, struct config_described **out,
                         int32_t *count)
{
    struct describer d = {.c = c, .i = i, .arena = a};
    size_t max = type == CONFIG_BROKER
                     ? (size_t)config_broker_key_count + (size_t)c->store->unknown_count
                     : (size_t)MAX(config_topic_key_count, config_group_key_count);

    *count = 0;
    node_name(c, d.self);
    if (type == CONFIG_TOPIC && image_topic(i, name) == NULL)
        return ERR_NOT_FOUND;
    if (type == CONFIG_BROKER && name.len > 0 && !str_eq_lit(name, d.self))
        return ERR_NOT_FOUND;
    *out = arena_array(a, max, sizeof **out);
    if (*out == NULL)
        return ERR_TOO_LARGE;
    switch (type) {
    case CONFIG_TOPIC:
        return describe_topic(&d, name, *out, count);
    case CONFIG_BROKER:
        return name.len > 0 ? describe_broker(&d, *out, count) : describe_cluster(&d, *out, count);
    case CONFIG_GROUP:
        return name.len > 0 ? describe_group(&d, name, *out, count) : ERR_INVALID_REQUEST;
    case CONFIG_CLIENT_METRICS:
        return name.len > 0 ? describe_metrics(&d, name, *out, count) : ERR_INVALID_REQUEST;
    default:
        return ERR_INVALID_REQUEST;
    }
}
