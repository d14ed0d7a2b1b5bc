/* tests/sim/workload_admin.c -- who changes and watches the metadata: topics, partitions, configs.
 *
 * What was asked for and not answered is asked again until it is known: then the oracle knows what
 * must be shown. A topic's name belongs to one client; a name that is created again is a new topic
 * to the oracle.
 */
#include <string.h>

#include "tests/sim/client.h"

#define TIMEOUT_MS  4000
#define CONFIGS_MAX 12

static struct oracle *oracle_of(struct client *c)
{
    return c->run->oracle;
}

/* ---- Metadata ---- */

static bool ask_metadata(struct client *c, const char *name, void **answer)
{
    struct metadata_request q;
    struct metadata_request_metadata_request_topic t;

    codec_init(&metadata_request_desc, &q);
    codec_init(&metadata_request_metadata_request_topic_desc, &t);
    q.topics.n = client_version(c, API_METADATA) == 0 ? 0 : -1;
    /* Older ones create what they ask for. */
    if (name != NULL && client_version(c, API_METADATA) >= 4) {
        t.name = str_from(name);
        q.topics.v = &t;
        q.topics.n = 1;
        q.allow_auto_topic_creation = false;
    }
    return client_call(c, API_METADATA, &q, 0, answer) == ERR_NONE;
}

static void check_metadata(struct client *c, const struct metadata_response *a, uint64_t asked_ns,
                           bool whole)
{
    oracle_metadata_begin(oracle_of(c));
    for (int32_t i = 0; i < a->topics.n; i++) {
        const struct metadata_response_metadata_response_topic *t = &a->topics.v[i];
        char name[64];

        client_check_error(c, API_METADATA, t->error_code);
        if (t->error_code == ERR_UNKNOWN_TOPIC_OR_PARTITION || t->name.len >= (int)sizeof name)
            continue;
        memcpy(name, t->name.ptr, (size_t)t->name.len);
        name[t->name.len] = '\0';
        oracle_metadata_topic(oracle_of(c), asked_ns, name, &t->topic_id, t->partitions.n);
    }
    if (whole)
        oracle_metadata_end(oracle_of(c), asked_ns);
}

/* The id of a topic that exists; only for clients that are new enough to see ids. */
static bool find_id(struct client *c, const char *name, struct uuid *id)
{
    void *answer = NULL;

    CHECK(client_version(c, API_METADATA) >= 10);
    if (!ask_metadata(c, name, &answer))
        return false;

    const struct metadata_response *a = answer;

    if (a->topics.n != 1)
        sim_violation(c->run->sim, "P9", "Metadata of one topic is answered with %d", a->topics.n);
    if (a->topics.v[0].error_code != ERR_NONE)
        return false;
    *id = a->topics.v[0].topic_id;
    return true;
}

/* ---- CreateTopics ---- */

struct topic_wish {
    struct create_topics_request_creatable_topic_config configs[CONFIGS_MAX];
    int32_t count;
    char numbers[CONFIGS_MAX][24];
    bool flush;
};

static void wish(struct topic_wish *w, const char *key, int64_t value)
{
    struct create_topics_request_creatable_topic_config *e = &w->configs[w->count];

    codec_init(&create_topics_request_creatable_topic_config_desc, e);
    snprintf(w->numbers[w->count], sizeof w->numbers[0], "%lld", (long long)value);
    e->name = str_from(key);
    e->value = str_from(w->numbers[w->count++]);
}

static void draw_wish(struct client *c, struct topic_wish *w)
{
    const struct plan *p = &c->run->plan;

    *w = (struct topic_wish){.flush = client_chance(c, p->flush_share)};
    wish(w, "segment.index.bytes", p->segment_index_bytes);
    wish(w, "index.interval.bytes", p->index_interval_bytes);
    wish(w, "segment.ms", p->segment_ms);
    wish(w, "file.delete.delay.ms", p->delete_delay_ms);
    wish(w, "segment.bytes", 1 << 20);
    if (w->flush)
        wish(w, "flush.messages", 1);
}

/* The error code, or -1000 without an answer. */
static int create_once(struct client *c, const char *name, int partitions, struct topic_wish *w,
                       struct uuid *id)
{
    struct create_topics_request q;
    struct create_topics_request_creatable_topic t;
    const struct create_topics_response *a;
    void *answer = NULL;

    codec_init(&create_topics_request_desc, &q);
    codec_init(&create_topics_request_creatable_topic_desc, &t);
    t.name = str_from(name);
    t.num_partitions = partitions;
    t.replication_factor = 1;
    t.configs.v = w->configs;
    t.configs.n = w->count;
    q.topics.v = &t;
    q.topics.n = 1;
    q.timeout_ms = TIMEOUT_MS;
    if (client_call(c, API_CREATE_TOPICS, &q, SIM_MS(TIMEOUT_MS), &answer) != ERR_NONE)
        return -1000;
    a = answer;
    if (a->topics.n != 1)
        sim_violation(c->run->sim, "P9", "CreateTopics of one is answered with %d", a->topics.n);
    client_check_error(c, API_CREATE_TOPICS, a->topics.v[0].error_code);
    *id = a->topics.v[0].topic_id;
    return a->topics.v[0].error_code;
}

bool workload_create_topic(struct client *c, const char *name, int partitions)
{
    struct oracle *o = oracle_of(c);
    int topic = oracle_topic_creating(o, name, partitions);
    bool uncertain = false;
    struct topic_wish w;

    draw_wish(c, &w);
    oracle_setting_changing(o, topic, SETTING_FLUSH, w.flush);
    oracle_setting_changed(o, topic, SETTING_FLUSH, w.flush);
    while (!c->run->stopping) {
        struct uuid id = {{0}};
        int code = -1000;

        arena_reset(&c->arena);
        if (client_connect(c, SIM_S(5)))
            code = create_once(c, name, partitions, &w, &id);
        if (code == ERR_TOPIC_ALREADY_EXISTS && !uncertain)
            sim_violation(c->run->sim, "P8", "topic %s exists before it was created", name);
        if ((code == ERR_NONE || code == ERR_TOPIC_ALREADY_EXISTS) &&
            (!uuid_is_zero(&id) || find_id(c, name, &id))) {
            oracle_topic_created(o, topic, &id);
            sim_count(c->run->sim, "topic created");
            return true;
        }
        uncertain = true;
        fiber_sleep(c->run->sim, SIM_MS(30));
    }
    return false;
}

/* ---- DeleteTopics ---- */

static int delete_once(struct client *c, int topic)
{
    struct delete_topics_request q;
    struct delete_topics_request_delete_topic_state t;
    const struct delete_topics_response *a;
    struct str name = client_topic_name(c, topic);
    void *answer = NULL;

    codec_init(&delete_topics_request_desc, &q);
    codec_init(&delete_topics_request_delete_topic_state_desc, &t);
    if (client_version(c, API_DELETE_TOPICS) >= 6) {
        if (client_chance(c, 0.5))
            t.name = name;
        else
            t.topic_id = *oracle_topic_id(oracle_of(c), topic);
        q.topics.v = &t;
        q.topics.n = 1;
    } else {
        q.topic_names.v = &name;
        q.topic_names.n = 1;
    }
    q.timeout_ms = TIMEOUT_MS;
    if (client_call(c, API_DELETE_TOPICS, &q, SIM_MS(TIMEOUT_MS), &answer) != ERR_NONE)
        return -1000;
    a = answer;
    if (a->responses.n != 1)
        sim_violation(c->run->sim, "P9", "DeleteTopics of one is answered with %d", a->responses.n);
    client_check_error(c, API_DELETE_TOPICS, a->responses.v[0].error_code);
    return a->responses.v[0].error_code;
}

static bool delete_topic(struct client *c, int topic)
{
    bool uncertain = false;

    oracle_topic_deleting(oracle_of(c), topic);
    while (!c->run->stopping) {
        int code = -1000;
        bool unknown;

        arena_reset(&c->arena);
        if (client_connect(c, SIM_S(5)))
            code = delete_once(c, topic);
        unknown = code == ERR_UNKNOWN_TOPIC_OR_PARTITION || code == ERR_UNKNOWN_TOPIC_ID;
        if (unknown && !uncertain)
            sim_violation(c->run->sim, "P8", "topic %s was gone before it was deleted",
                          oracle_topic_name(oracle_of(c), topic));
        if (code == ERR_NONE || unknown) {
            oracle_topic_deleted(oracle_of(c), topic);
            sim_count(c->run->sim, "topic deleted");
            return true;
        }
        uncertain = true;
        fiber_sleep(c->run->sim, SIM_MS(30));
    }
    return false;
}

static int topic_named(struct client *c, const char *name)
{
    for (int t = oracle_topic_count(oracle_of(c)) - 1; t >= 0; t--)
        if (strcmp(oracle_topic_name(oracle_of(c), t), name) == 0)
            return oracle_topic_state(oracle_of(c), t) == TOPIC_THERE ? t : -1;
    return -1;
}

void workload_topics(struct client *c)
{
    char name[ORACLE_TOPIC_NAME_SIZE];
    int topic;

    snprintf(name, sizeof name, "churn-%d", c->number);
    while (!c->run->stopping) {
        client_think(c);
        if (!workload_create_topic(c, name, 1 + (int)client_below(c, 3)))
            return;
        client_pause(c, SIM_S(3));
        topic = topic_named(c, name);
        if (topic < 0 || c->run->stopping || !delete_topic(c, topic))
            return;
        if (client_chance(c, 0.3))
            client_pause(c, SIM_S(1));
    }
}

/* ---- CreatePartitions ---- */

static int add_once(struct client *c, int topic, int count)
{
    struct create_partitions_request q;
    struct create_partitions_request_create_partitions_topic t;
    const struct create_partitions_response *a;
    void *answer = NULL;

    codec_init(&create_partitions_request_desc, &q);
    codec_init(&create_partitions_request_create_partitions_topic_desc, &t);
    t.name = client_topic_name(c, topic);
    t.count = count;
    t.assignments.n = -1;
    q.topics.v = &t;
    q.topics.n = 1;
    q.timeout_ms = TIMEOUT_MS;
    if (client_call(c, API_CREATE_PARTITIONS, &q, SIM_MS(TIMEOUT_MS), &answer) != ERR_NONE)
        return -1000;
    a = answer;
    if (a->results.n != 1)
        sim_violation(c->run->sim, "P9", "CreatePartitions of one is answered with %d",
                      a->results.n);
    client_check_error(c, API_CREATE_PARTITIONS, a->results.v[0].error_code);
    return a->results.v[0].error_code;
}

void workload_partitions(struct client *c)
{
    while (!c->run->stopping) {
        int topic, count, code = -1000;

        client_think(c);
        client_pause(c, SIM_S(3));
        topic = client_pick_lasting(c);
        if (topic < 0)
            continue;
        count = oracle_topic_partitions(oracle_of(c), topic) + 1;
        if (count > ORACLE_PARTITIONS_MAX / 2)
            continue;
        oracle_partitions_adding(oracle_of(c), topic, count);
        while (!c->run->stopping && code != ERR_NONE && code != ERR_INVALID_PARTITIONS &&
               oracle_topic_state(oracle_of(c), topic) == TOPIC_THERE) {
            arena_reset(&c->arena);
            code = client_connect(c, SIM_S(5)) ? add_once(c, topic, count) : -1000;
            if (code == -1000)
                fiber_sleep(c->run->sim, SIM_MS(30));
        }
        if (code != ERR_NONE && code != ERR_INVALID_PARTITIONS)
            continue;
        oracle_partitions_added(oracle_of(c), topic, count);
        sim_count(c->run->sim, "partition added");
    }
}

/* ---- configs ---- */

struct change {
    const char *key;
    const char *value; /* NULL: back to the default */
    int setting;       /* enum oracle_setting, -1: none */
    bool on;
};

static const struct change changes[] = {
    {"flush.messages", "1", SETTING_FLUSH, true},
    {"flush.messages", "1", SETTING_FLUSH, true},
    {"flush.messages", NULL, SETTING_FLUSH, false},
    {"retention.bytes", "30000", SETTING_RETENTION, true},
    {"retention.bytes", NULL, -1, false},
    {"retention.ms", "5000", SETTING_RETENTION, true},
    {"retention.ms", NULL, -1, false},
    {"max.message.bytes", "3000", -1, false},
    {"max.message.bytes", NULL, -1, false},
    {"message.timestamp.type", "LogAppendTime", -1, false},
    {"message.timestamp.type", "CreateTime", -1, false},
    {"compression.type", "gzip", -1, false},
    {"compression.type", "lz4", -1, false},
    {"compression.type", "zstd", -1, false},
    {"compression.type", "uncompressed", -1, false},
    {"compression.type", NULL, -1, false},
    {"segment.index.bytes", "16", -1, false},
    {"segment.index.bytes", "4000", -1, false},
    {"segment.ms", "300", -1, false},
    {"segment.ms", "60000", -1, false},
};

static int alter_once(struct client *c, int topic, const struct change *g)
{
    struct incremental_alter_configs_request q;
    struct incremental_alter_configs_request_alter_configs_resource r;
    struct incremental_alter_configs_request_alterable_config e;
    const struct incremental_alter_configs_response *a;
    void *answer = NULL;

    codec_init(&incremental_alter_configs_request_desc, &q);
    codec_init(&incremental_alter_configs_request_alter_configs_resource_desc, &r);
    codec_init(&incremental_alter_configs_request_alterable_config_desc, &e);
    e.name = str_from(g->key);
    e.value = str_from(g->value);
    e.config_operation = g->value != NULL ? 0 : 1;
    r.resource_type = 2;
    r.resource_name = client_topic_name(c, topic);
    r.configs.v = &e;
    r.configs.n = 1;
    q.resources.v = &r;
    q.resources.n = 1;
    if (client_call(c, API_INCREMENTAL_ALTER_CONFIGS, &q, SIM_MS(TIMEOUT_MS), &answer) != ERR_NONE)
        return -1000;
    a = answer;
    if (a->responses.n != 1)
        sim_violation(c->run->sim, "P9", "one change of configs is answered with %d",
                      a->responses.n);
    client_check_error(c, API_INCREMENTAL_ALTER_CONFIGS, a->responses.v[0].error_code);
    return a->responses.v[0].error_code;
}

/* P8: the node shows what it acknowledged. */
static void check_shown(struct client *c, int topic, const struct change *g)
{
    struct describe_configs_request q;
    struct describe_configs_request_describe_configs_resource r;
    struct str key = str_from(g->key);
    const struct describe_configs_response *a;
    void *answer = NULL;

    codec_init(&describe_configs_request_desc, &q);
    codec_init(&describe_configs_request_describe_configs_resource_desc, &r);
    r.resource_type = 2;
    r.resource_name = client_topic_name(c, topic);
    r.configuration_keys.v = &key;
    r.configuration_keys.n = 1;
    q.resources.v = &r;
    q.resources.n = 1;
    if (!client_connect(c, SIM_S(3)) ||
        client_call(c, API_DESCRIBE_CONFIGS, &q, 0, &answer) != ERR_NONE)
        return;
    a = answer;
    if (oracle_topic_state(oracle_of(c), topic) != TOPIC_THERE)
        return;
    sim_checked(c->run->sim, "P8");
    if (a->results.n != 1 || a->results.v[0].error_code != 0 || a->results.v[0].configs.n != 1 ||
        !str_eq_lit(a->results.v[0].configs.v[0].value, g->value))
        sim_violation(c->run->sim, "P8", "topic %s: %s=%s was acknowledged and is not shown",
                      oracle_topic_name(oracle_of(c), topic), g->key, g->value);
}

static void change_config(struct client *c, int topic, const struct change *g)
{
    struct oracle *o = oracle_of(c);
    int code = -1000;

    if (g->setting >= 0)
        oracle_setting_changing(o, topic, (enum oracle_setting)g->setting, g->on);
    while (!c->run->stopping && code != ERR_NONE && oracle_topic_state(o, topic) == TOPIC_THERE) {
        arena_reset(&c->arena);
        code = client_connect(c, SIM_S(5)) ? alter_once(c, topic, g) : -1000;
        if (code != ERR_NONE)
            fiber_sleep(c->run->sim, SIM_MS(30));
    }
    if (code != ERR_NONE)
        return;
    if (g->setting >= 0)
        oracle_setting_changed(o, topic, (enum oracle_setting)g->setting, g->on);
    sim_count(c->run->sim, "config changed");
    if (g->value != NULL && oracle_topic_state(o, topic) == TOPIC_THERE)
        check_shown(c, topic, g);
}

void workload_configs(struct client *c)
{
    while (!c->run->stopping) {
        int topic;

        client_think(c);
        client_pause(c, SIM_MS(800));
        topic = client_pick_lasting(c);
        if (topic >= 0)
            change_config(c, topic, &changes[client_below(c, ARRAY_COUNT(changes))]);
    }
}

/* ---- who only looks ---- */

void workload_poller(struct client *c)
{
    while (!c->run->stopping) {
        void *answer = NULL;
        uint64_t asked;
        const char *name = NULL;
        int topic;

        client_think(c);
        if (client_chance(c, 0.1))
            client_close(c); /* and asks for the versions again */
        if (!client_connect(c, SIM_S(5)))
            continue;
        topic = client_pick_topic(c);
        if (topic >= 0 && client_chance(c, 0.5))
            name = oracle_topic_name(oracle_of(c), topic);
        asked = sim_now(c->run->sim);
        if (!ask_metadata(c, name, &answer))
            continue;
        check_metadata(c, answer, asked, name == NULL || client_version(c, API_METADATA) < 4);
        sim_count(c->run->sim, "metadata");
    }
}
