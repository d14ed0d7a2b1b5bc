/* broker/config.c -- loading the static configuration: file, environment, command line.
 *
 * Each source only notes text (set_value); what is wrong is judged once all have spoken, so that
 * a flag can put right what a file says. Then the values that code reads by name are filled in.
 */
#include "broker/config_keys.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "broker/cli_machine.h"
#include "broker/properties.h"

/* Far more than PROPERTIES_FILE_BYTES_MAX and an argument list can need. */
#define ARENA_BYTES_MAX ((size_t)64 * 1024 * 1024)
#define UNKNOWN_MAX     1000

/* ---- the store ---- */

const char *config_keep(struct config_store *s, struct str text)
{
    char *copy = arena_alloc(&s->arena, (size_t)MAX(text.len, 0) + 1);

    CHECK(copy != NULL);
    if (text.len > 0)
        memcpy(copy, text.ptr, (size_t)text.len);
    return copy;
}

void config_warn(struct config_store *s, enum log_level level, const char *fmt, ...)
{
    struct config_warning *w = arena_alloc(&s->arena, sizeof *w);
    char text[1024];
    va_list args;

    CHECK(w != NULL);
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    w->level = level;
    w->text = config_keep(s, str_from(text));
    *s->warnings_end = w;
    s->warnings_end = &w->next;
}

const struct config_static_value *config_static(const struct config *c, const char *name)
{
    int i = config_key_index(str_from(name));

    CHECK(i >= 0);
    return &c->store->values[i];
}

struct str config_static_text(const struct config *c, const char *name)
{
    return str_from(config_static(c, name)->text);
}

bool config_is_set(const struct config *c, const char *name)
{
    return config_static(c, name)->origin != ORIGIN_DEFAULT;
}

int64_t config_static_number(const struct config *c, const char *name)
{
    int64_t v = 0;

    CHECK(config_parse_integer(CONFIG_TYPE_LONG, config_static_text(c, name), &v));
    return v;
}

bool config_static_bool(const struct config *c, const char *name)
{
    return str_eq_nocase(config_static_text(c, name), "true");
}

static const char *where(const struct config *c, const struct config_static_value *v,
                         const char *name, char out[512])
{
    switch (v->origin) {
    case ORIGIN_FILE:
        snprintf(out, 512, "%s:%d: %s", c->store->file, v->line, name);
        break;
    case ORIGIN_ENVIRONMENT:
        snprintf(out, 512, "%s: %s", v->variable, name);
        break;
    case ORIGIN_OVERRIDE:
        snprintf(out, 512, "command line: %s", name);
        break;
    default:
        snprintf(out, 512, "%s", name);
        break;
    }
    return out;
}

const char *config_where(const struct config *c, const char *name, char out[512])
{
    return where(c, config_static(c, name), name, out);
}

/* ---- sources ---- */

static int by_key(const void *a, const void *b)
{
    return str_cmp(((const struct config_entry *)a)->key, ((const struct config_entry *)b)->key);
}

static struct config_entry *find_unknown(struct config_store *s, struct str key)
{
    for (int i = 0; i < s->unknown_count; i++)
        if (str_eq(s->unknown[i].key, key))
            return &s->unknown[i];
    return NULL;
}

/* A key that nobody knows, or one of a listener's own: a warning, and DescribeConfigs shows that
 * it stands there. */
static void note_unknown(struct config *c, const char *key, const char *value,
                         const struct config_static_value *from)
{
    struct config_store *s = c->store;
    struct config_entry *e = find_unknown(s, str_from(key));
    char place[512];

    if (e == NULL && s->unknown_count < UNKNOWN_MAX) {
        e = &s->unknown[s->unknown_count++];
        e->key = str_from(config_keep(s, str_from(key)));
        where(c, from, key, place);
        if (strncmp(key, "listener.name.", 14) == 0)
            config_warn(s, LOG_WARN, "%s: settings of single listeners have no effect yet", place);
        else
            config_warn(s, LOG_WARN, "%s: unknown key, ignored", place);
    }
    if (e != NULL)
        e->value = str_from(config_keep(s, str_from(value)));
}

static void set_value(struct config *c, const char *key, const char *value,
                      struct config_static_value from)
{
    struct config_store *s = c->store;
    int i = config_key_index(config_trim(str_from(key)));

    if (i < 0) {
        note_unknown(c, key, value, &from);
        return;
    }
    if (from.origin == ORIGIN_FILE && s->values[i].origin == ORIGIN_FILE)
        config_warn(s, LOG_WARN, "%s:%d: %s: stands in line %d too; the last one counts", s->file,
                    from.line, config_broker_keys[i].name, s->values[i].line);
    from.text = config_keep(s, config_trim(str_from(value)));
    s->values[i] = from;
}

static enum err load_file(struct config *c, const char *path, struct errmsg *why)
{
    struct properties p;
    struct errmsg reason;
    size_t size = 0;
    char *bytes = NULL;
    enum err err = cli_read_file(path, PROPERTIES_FILE_BYTES_MAX, &bytes, &size, why);

    if (err != ERR_NONE)
        return ERR_CONFIG;
    c->store->file = config_keep(c->store, str_from(path));
    err = properties_parse(bytes, size, &p, &reason);
    free(bytes);
    if (err != ERR_NONE) {
        errmsg_set(why, "%s: %.400s", path, reason.text);
        return ERR_CONFIG;
    }
    for (size_t i = 0; i < p.count; i++)
        set_value(c, p.items[i].key, p.items[i].value,
                  (struct config_static_value){.origin = ORIGIN_FILE, .line = p.items[i].line});
    properties_deinit(&p);
    return ERR_NONE;
}

static void load_environment(struct config *c, const char *(*environment)(const char *name))
{
    static const char *const variables[][2] = {
        {"FLUXMQ_HOST", "host"},
        {"FLUXMQ_PORT", "port"},
        {"FLUXMQ_DATA_DIR", "log.dirs"},
        {"FLUXMQ_LOG_LEVEL", "log.level"},
    };

    for (size_t i = 0; environment != NULL && i < ARRAY_COUNT(variables); i++) {
        const char *value = environment(variables[i][0]);

        if (value != NULL && value[0] != '\0')
            set_value(c, variables[i][1], value,
                      (struct config_static_value){.origin = ORIGIN_ENVIRONMENT,
                                                   .variable = variables[i][0]});
    }
}

static enum err load_overrides(struct config *c, const struct config_arguments *a,
                               struct errmsg *why)
{
    for (int i = 0; i < a->override_count; i++) {
        const char *equals = strchr(a->overrides[i], '=');
        struct str key = {a->overrides[i], 0};

        if (equals == NULL || equals == a->overrides[i]) {
            errmsg_set(why, "command line: found --override %.200s, expected key=value",
                       a->overrides[i]);
            return ERR_CONFIG;
        }
        key.len = (int32_t)(equals - a->overrides[i]);
        set_value(c, config_keep(c->store, key), equals + 1,
                  (struct config_static_value){.origin = ORIGIN_OVERRIDE});
    }
    return ERR_NONE;
}

/* ---- what a flag means ---- */

enum err config_flag_to_override(const char *flag, const char *value, bool *takes_value,
                                 char out[512], struct errmsg *why)
{
    static const struct {
        const char *flag, *format; /* with %s: the flag takes a value */
        const char *refusal;
    } flags[] = {
        {"--host", "host=%s", NULL},
        {"--port", "port=%s", NULL},
        {"--data-dir", "log.dirs=%s", NULL},
        {"--broker-id", "node.id=%s", NULL},
        {"--log-level", "log.level=%s", NULL},
        {"--metrics-port", "metrics.listener=127.0.0.1:%s", NULL},
        {"--adopt-log-dirs", "adopt.log.dirs=true", NULL},
        {"--recovery-mode", "", NULL}, /* the log is always recovered */
        {"--enable-consumer-groups", "", "consumer groups are not built yet"},
        {"--enable-tls", "", "TLS is not built yet"},
        {"--tls-cert", "%s", "TLS is not built yet"},
        {"--tls-key", "%s", "TLS is not built yet"},
        {"--enable-acl", "", "access control is not built yet"},
        {"--acl-config", "%s", "access control is not built yet"},
        {"--super-users", "%s", "access control is not built yet"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        if (strcmp(flags[i].flag, flag) != 0)
            continue;
        *takes_value = strstr(flags[i].format, "%s") != NULL;
        if (out == NULL)
            return ERR_NONE;
        if (flags[i].refusal != NULL) {
            errmsg_set(why, "%s: %s", flag, flags[i].refusal);
            return ERR_CONFIG;
        }
        if (*takes_value) {
            size_t prefix = strlen(flags[i].format) - 2;

            if (value == NULL || strlen(value) > 400) {
                errmsg_set(why, "%s: expected a value of at most 400 characters", flag);
                return ERR_CONFIG;
            }
            snprintf(out, 512, "%.*s%s", (int)prefix, flags[i].format, value);
        } else {
            snprintf(out, 512, "%s", flags[i].format);
        }
        return ERR_NONE;
    }
    return ERR_NOT_FOUND;
}

/* ---- judging ---- */

/* Whether a key that we refuse was set to something else than what Kafka takes for "off". */
static bool asks_for_it(const struct config_key *k, const char *text)
{
    if (text == NULL || text[0] == '\0')
        return false;
    return k->default_value == NULL || strcasecmp(text, k->default_value) != 0;
}

static enum err judge_value(const struct config *c, int i, struct errmsg *why)
{
    const struct config_key *k = &config_broker_keys[i];
    const struct config_static_value *v = &c->store->values[i];
    struct config_fault f;
    char place[512];

    where(c, v, k->name, place);
    if (!config_check_value(k, str_from(v->text), &f)) {
        errmsg_set(why, "%s: found %s, expected %s", place,
                   k->sensitive         ? "a hidden value"
                   : f.found[0] == '\0' ? "nothing"
                                        : f.found,
                   f.sentence ? "no empty values in the list" : f.expected);
        return ERR_CONFIG;
    }
    if (k->effect == CONFIG_REFUSED && asks_for_it(k, v->text)) {
        errmsg_set(why, "%s: found %.100s, which is not supported yet. %s", place,
                   k->sensitive ? "a value" : v->text, k->doc);
        return ERR_CONFIG;
    }
    if (k->effect == CONFIG_ACCEPTED)
        config_warn(c->store, LOG_INFO, "%s: accepted, but has no effect here", place);
    return ERR_NONE;
}

/* Settings of one listener that would protect it; and files of the time before KRaft. */
static enum err judge_unknown(const struct config *c, struct errmsg *why)
{
    for (int i = 0; i < c->store->unknown_count; i++) {
        const struct config_entry *e = &c->store->unknown[i];

        if (str_eq_lit(e->key, "zookeeper.connect")) {
            errmsg_set(why, "zookeeper.connect: neither Kafka 4 nor fluxmq uses ZooKeeper; remove "
                            "it, and see process.roles and controller.quorum.voters");
            return ERR_CONFIG;
        }
        if (strncmp(e->key.ptr, "listener.name.", 14) == 0 && e->value.len > 0 &&
            (strstr(e->key.ptr, ".ssl.") != NULL || strstr(e->key.ptr, ".sasl.") != NULL)) {
            errmsg_set(why, "%.300s: TLS and SASL are not built yet, so fluxmq does not start",
                       e->key.ptr);
            return ERR_CONFIG;
        }
    }
    return ERR_NONE;
}

static enum err judge(const struct config *c, struct errmsg *why)
{
    for (int i = 0; i < config_broker_key_count; i++) {
        if (c->store->values[i].origin == ORIGIN_DEFAULT)
            continue;

        enum err err = judge_value(c, i, why);

        if (err != ERR_NONE)
            return err;
    }
    return judge_unknown(c, why);
}

static enum err bad(const struct config *c, const char *key, struct errmsg *why,
                    const char *expected)
{
    char place[512];

    errmsg_set(why, "%s: found %.*s, expected %s", config_where(c, key, place),
               STR_ARG(config_static_text(c, key)), expected);
    return ERR_CONFIG;
}

/* ---- the values that code reads by name ---- */

static enum err resolve_node_id(struct config *c, struct errmsg *why)
{
    struct config_store *s = c->store;
    int node = config_key_index(STR_LIT("node.id")),
        broker = config_key_index(STR_LIT("broker.id"));

    /* broker.id is the older name of node.id: whichever is set gives both, as in Kafka. */
    if (s->values[node].origin == ORIGIN_DEFAULT && s->values[broker].origin != ORIGIN_DEFAULT) {
        s->values[node] = s->values[broker];
    } else if (s->values[broker].origin == ORIGIN_DEFAULT) {
        s->values[broker] = s->values[node];
    } else if (s->values[node].origin > s->values[broker].origin) {
        s->values[broker] = s->values[node]; /* --broker-id over a file */
    }
    c->node_id = (int32_t)config_static_number(c, "node.id");
    if (c->node_id < 0)
        return bad(c, "node.id", why, "at least 0");
    if (config_static_number(c, "broker.id") != c->node_id)
        return bad(c, "broker.id", why, "the same as node.id");
    return ERR_NONE;
}

static enum err resolve_dirs(struct config *c, struct errmsg *why)
{
    const char *key = config_is_set(c, "log.dirs") ? "log.dirs" : "log.dir";
    struct str list = config_static_text(c, key), item;

    while (config_list_next(&list, &item)) {
        if (item.len == 0)
            return bad(c, key, why, "the names of directories, separated by commas");
        if (c->log_dir_count == CONFIG_DIRS_MAX)
            return bad(c, key, why, "at most 64 directories");
        for (int i = 0; i < c->log_dir_count; i++)
            if (str_eq_lit(item, c->log_dirs[i]))
                return bad(c, key, why, "each directory once");
        c->log_dirs[c->log_dir_count++] = config_keep(c->store, item);
    }
    c->metadata_log_dir = config_static(c, "metadata.log.dir")->text;
    if (c->metadata_log_dir == NULL || c->metadata_log_dir[0] == '\0')
        c->metadata_log_dir = c->log_dirs[0];
    return ERR_NONE;
}

static enum err resolve_metrics(struct config *c, struct errmsg *why)
{
    struct str text = config_static_text(c, "metrics.listener");

    c->metrics_port = -1;
    if (str_eq_nocase(text, "none"))
        return ERR_NONE;
    if (!config_parse_host_port(text, c->metrics_host, sizeof c->metrics_host, &c->metrics_port))
        return bad(c, "metrics.listener", why, "host:port, or none");
    return ERR_NONE;
}

static void resolve_numbers(struct config *c)
{
    const struct {
        const char *key;
        int32_t *out;
    } small[] = {
        {"workers", &c->workers},
        {"socket.request.max.bytes", &c->socket_request_max_bytes},
        {"max.connections", &c->max_connections},
        {"max.connections.per.ip", &c->max_connections_per_ip},
        {"connection.inflight.requests.max", &c->connection_inflight_requests_max},
        {"fetch.max.bytes", &c->fetch_max_bytes},
        {"max.incremental.fetch.session.cache.slots", &c->fetch_session_slots},
        {"max.request.partition.size.limit", &c->max_request_partition_size_limit},
        {"num.partitions", &c->num_partitions},
        {"num.recovery.threads.per.data.dir", &c->recovery_threads_per_dir},
        {"controller.quorum.election.timeout.ms", &c->election_timeout_ms},
        {"raft.heartbeat.interval.ms", &c->heartbeat_ms},
        {"broker.session.timeout.ms", &c->broker_session_timeout_ms},
        {"broker.heartbeat.interval.ms", &c->broker_heartbeat_interval_ms},
        {"socket.listen.backlog.size", &c->listen_backlog},
    };
    const struct {
        const char *key;
        int64_t *out;
    } large[] = {
        {"connections.max.idle.ms", &c->connections_max_idle_ms},
        {"connection.inflight.bytes.max", &c->connection_inflight_bytes_max},
        {"queued.max.request.bytes", &c->queued_max_request_bytes},
        {"log.dir.reserve.bytes", &c->log_dir_reserve_bytes},
        {"log.retention.check.interval.ms", &c->retention_check_ms},
        {"log.flush.offset.checkpoint.interval.ms", &c->checkpoint_interval_ms},
        {"producer.id.expiration.ms", &c->producer_id_expiration_ms},
    };

    for (size_t i = 0; i < ARRAY_COUNT(small); i++)
        *small[i].out = (int32_t)config_static_number(c, small[i].key);
    for (size_t i = 0; i < ARRAY_COUNT(large); i++)
        *large[i].out = config_static_number(c, large[i].key);
    if (c->workers == 0)
        c->workers = MAX(1, cli_core_count() / 2);
    c->default_replication_factor = (int16_t)config_static_number(c, "default.replication.factor");
}

static void resolve_words(struct config *c)
{
    c->rack = config_static(c, "broker.rack")->text;
    if (c->rack != NULL && c->rack[0] == '\0')
        c->rack = NULL;
    c->auto_create_topics = config_static_bool(c, "auto.create.topics.enable");
    c->delete_topic_enable = config_static_bool(c, "delete.topic.enable");
    c->adopt_log_dirs = config_static_bool(c, "adopt.log.dirs");
    c->log_json = str_eq_lit(config_static_text(c, "log.format"), "json");
    c->cluster_secret = config_static(c, "cluster.secret")->text;
    if (c->cluster_secret != NULL && c->cluster_secret[0] == '\0')
        c->cluster_secret = NULL;
    c->allow_insecure_peers = config_static_bool(c, "allow.insecure.peers");
    if (!log_level_parse(config_static(c, "log.level")->text, &c->log_level))
        c->log_level = LOG_INFO; /* the table's rule lets nothing else through */
}

/* Rules between keys, most of them KafkaConfig's. */
static enum err judge_together(const struct config *c, struct errmsg *why)
{
    static const char *const retention[] = {"log.retention.ms", "log.retention.minutes",
                                            "log.retention.hours"};
    static const char *const rolls[] = {"log.roll.ms", "log.flush.interval.ms"};

    for (size_t i = 0; i < ARRAY_COUNT(retention); i++)
        if (config_static(c, retention[i])->text != NULL &&
            config_static_number(c, retention[i]) == 0)
            return bad(c, retention[i], why, "-1 (no limit), or at least 1");
    for (size_t i = 0; i < ARRAY_COUNT(rolls); i++)
        if (config_static(c, rolls[i])->text != NULL && config_static_number(c, rolls[i]) < 1)
            return bad(c, rolls[i], why, "at least 1");
    if (c->max_connections_per_ip == 0 &&
        config_static_text(c, "max.connections.per.ip.overrides").len <= 0)
        return bad(c, "max.connections.per.ip", why, "at least 1");
    if (c->election_timeout_ms < 2 * c->heartbeat_ms)
        return bad(c, "controller.quorum.election.timeout.ms", why,
                   "at least twice raft.heartbeat.interval.ms");
    if (c->broker_heartbeat_interval_ms < 1)
        return bad(c, "broker.heartbeat.interval.ms", why, "at least 1");
    if (c->broker_session_timeout_ms < 1)
        return bad(c, "broker.session.timeout.ms", why, "at least 1");
    if (c->broker_heartbeat_interval_ms > c->broker_session_timeout_ms / 2)
        config_warn(c->store, LOG_WARN,
                    "broker.heartbeat.interval.ms (%d) is more than half of "
                    "broker.session.timeout.ms (%d): one late heartbeat fences this node",
                    (int)c->broker_heartbeat_interval_ms, (int)c->broker_session_timeout_ms);
    return ERR_NONE;
}

static enum err resolve(struct config *c, struct errmsg *why)
{
    enum err err = resolve_node_id(c, why);

    if (err != ERR_NONE)
        return err;
    resolve_numbers(c);
    resolve_words(c);
    if ((err = judge_together(c, why)) != ERR_NONE || (err = resolve_dirs(c, why)) != ERR_NONE ||
        (err = resolve_metrics(c, why)) != ERR_NONE ||
        (err = config_resolve_listeners(c, why)) != ERR_NONE)
        return err;
    return config_resolve_voters(c, why);
}

/* ---- the whole ---- */

static struct config *config_new(const struct config_arguments *a)
{
    struct config *c = xcalloc(1, sizeof *c);
    struct config_store *s = xcalloc(1, sizeof *s);

    c->store = s;
    arena_init(&s->arena, ARENA_BYTES_MAX);
    s->values = xcalloc((size_t)config_broker_key_count, sizeof *s->values);
    s->unknown = xcalloc(UNKNOWN_MAX, sizeof *s->unknown);
    s->warnings_end = &s->warnings;
    s->hostname = config_keep(
        s, str_from(a->hostname != NULL && a->hostname[0] != '\0' && strlen(a->hostname) < 256
                        ? a->hostname
                        : "localhost"));
    for (int i = 0; i < config_broker_key_count; i++)
        s->values[i].text = config_broker_keys[i].default_value;
    return c;
}

enum err config_load(const struct config_arguments *a, struct config **out, struct errmsg *why)
{
    struct config *c = config_new(a);
    enum err err = a->file != NULL ? load_file(c, a->file, why) : ERR_NONE;

    if (err == ERR_NONE) {
        load_environment(c, a->environment);
        err = load_overrides(c, a, why);
    }
    if (err == ERR_NONE)
        err = judge(c, why);
    if (err == ERR_NONE)
        err = resolve(c, why);
    if (err != ERR_NONE) {
        config_free(c);
        return err;
    }
    qsort(c->store->unknown, (size_t)c->store->unknown_count, sizeof *c->store->unknown, by_key);
    *out = c;
    return ERR_NONE;
}

void config_free(struct config *c)
{
    if (c == NULL)
        return;
    arena_deinit(&c->store->arena);
    free(c->store->values);
    free(c->store->unknown);
    free(c->store);
    free(c);
}

void config_report(const struct config *c, struct logger *l)
{
    for (const struct config_warning *w = c->store->warnings; w != NULL; w = w->next)
        logger_write(l, w->level, "config", "%s", w->text);
}

void config_print(const struct config *c, FILE *out)
{
    for (int i = 0; i < config_broker_key_count; i++) {
        const struct config_key *k = &config_broker_keys[i];
        const struct config_static_value *v = &c->store->values[i];
        const char *text = v->text == NULL ? "" : v->text;
        char place[512];

        if (k->unlisted && v->origin == ORIGIN_DEFAULT)
            continue;
        switch (v->origin) {
        case ORIGIN_FILE:
            snprintf(place, sizeof place, "%s:%d", c->store->file, v->line);
            break;
        case ORIGIN_ENVIRONMENT:
            snprintf(place, sizeof place, "%s", v->variable);
            break;
        case ORIGIN_OVERRIDE:
            snprintf(place, sizeof place, "command line");
            break;
        default:
            snprintf(place, sizeof place, "%s%s", v->text == NULL ? "not set" : "default",
                     k->deviates ? ", not Kafka's" : "");
            break;
        }
        fprintf(out, "%s=%s  # %s%s\n", k->name, k->sensitive && text[0] ? "[hidden]" : text, place,
                k->effect == CONFIG_ACCEPTED ? ", no effect" : "");
    }
}
