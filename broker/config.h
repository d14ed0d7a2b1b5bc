/* broker/config.h -- configuration: where each value comes from, what it is, who may change it.
 *
 * Three sources make the static configuration, each stronger than the one before: the file
 * (server.properties), the environment (FLUXMQ_*), the command line (--override and the flags).
 * On it lie the dynamic values of the metadata image: cluster-wide defaults, this broker's, the
 * topic's. One table (config_keys) has every key that Kafka 4.4 has, with type, default, rule,
 * documentation and how we treat it; everything else (defaults, validation, DescribeConfigs,
 * --print-config, warnings) is derived from it.
 *
 * Thread: a struct config is immutable once loaded (any thread); what is resolved against an
 * image is borrowed from both.
 */
#ifndef FLUXMQ_BROKER_CONFIG_H
#define FLUXMQ_BROKER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "protocol/base/arena.h"
#include "protocol/base/bytes.h"
#include "protocol/base/err.h"
#include "protocol/base/logger.h"
#include "raft-meta/image.h"
#include "storage/log.h"

enum config_type { /* Kafka's DescribeConfigs numbers */
                   CONFIG_TYPE_UNKNOWN = 0,
                   CONFIG_TYPE_BOOLEAN = 1,
                   CONFIG_TYPE_STRING = 2,
                   CONFIG_TYPE_INT = 3,
                   CONFIG_TYPE_SHORT = 4,
                   CONFIG_TYPE_LONG = 5,
                   CONFIG_TYPE_DOUBLE = 6,
                   CONFIG_TYPE_LIST = 7,
                   CONFIG_TYPE_CLASS = 8,
                   CONFIG_TYPE_PASSWORD = 9,
};

enum config_source { /* Kafka's DescribeConfigs numbers */
                     CONFIG_SOURCE_UNKNOWN = 0,
                     CONFIG_SOURCE_TOPIC = 1,
                     CONFIG_SOURCE_DYNAMIC_BROKER = 2,
                     CONFIG_SOURCE_DYNAMIC_DEFAULT_BROKER = 3,
                     CONFIG_SOURCE_STATIC_BROKER = 4,
                     CONFIG_SOURCE_DEFAULT = 5,
                     CONFIG_SOURCE_DYNAMIC_BROKER_LOGGER = 6,
                     CONFIG_SOURCE_CLIENT_METRICS = 7,
                     CONFIG_SOURCE_GROUP = 8,
};

enum config_effect {
    CONFIG_WORKS,    /* does what Kafka's documentation says */
    CONFIG_ACCEPTED, /* no effect here; one line at start says so (num.io.threads) */
    CONFIG_REFUSED,  /* asks for protection or a plug-in that does not exist: exit 2 when set */
};

struct config_key {
    const char *name;
    enum config_type type;
    const char *default_value; /* NULL: null */
    const char *valid;         /* rule in a small language of config.c: "[1,]", "in:a|b", ... */
    const char *doc;
    const char *topic_name; /* the topic config that this broker key is the default of, or NULL */
    enum config_effect effect;
    bool dynamic;   /* may be changed at run time through the API */
    bool read_only; /* what DescribeConfigs says */
    bool sensitive;
    bool deviates;     /* our default is not Kafka's: --print-config marks it, README lists it */
    bool cluster_only; /* dynamic, but not for one broker [H6] */
    bool unlisted;     /* DescribeConfigs shows it only where it is set */
    bool ours;         /* Kafka has no such key */
};

struct listener_config {
    char name[64];  /* upper case */
    char host[256]; /* as configured; "" = all addresses */
    int port;
    int16_t security_protocol;
    bool controller;   /* named by controller.listener.names: the peer port, not for clients */
    bool inter_broker; /* the one client listener by which other nodes replicate */
    char advertised_host[256];
    int advertised_port; /* 0: the bound port (listeners with :0) */
};

#define CONFIG_LISTENERS_MAX 16
#define CONFIG_DIRS_MAX      64
#define CONFIG_VOTERS_MAX    16

/* The values that code reads by name; the rest is looked up by key. */
struct config {
    int32_t node_id;
    int workers; /* at least 1 */
    struct listener_config listeners[CONFIG_LISTENERS_MAX];
    int listener_count;
    const char *log_dirs[CONFIG_DIRS_MAX];
    int log_dir_count;
    const char *metadata_log_dir;
    struct {
        int32_t node_id;
        char host[256];
        int port;
    } voters[CONFIG_VOTERS_MAX];
    int voter_count;  /* controller.quorum.voters, or this node alone [H27] */
    const char *rack; /* NULL: none */
    int32_t socket_request_max_bytes;
    int64_t connections_max_idle_ms;
    int32_t max_connections, max_connections_per_ip;
    int32_t connection_inflight_requests_max; /* [H11] */
    int64_t connection_inflight_bytes_max;    /* [H11] */
    int64_t queued_max_request_bytes;         /* node-wide; -1: a share of memory */
    int32_t fetch_max_bytes;                  /* fetch.max.bytes */
    int32_t fetch_session_slots;              /* max.incremental.fetch.session.cache.slots */
    int32_t max_request_partition_size_limit; /* max.request.partition.size.limit */
    bool auto_create_topics, delete_topic_enable;
    int32_t num_partitions;
    int16_t default_replication_factor; /* 0: min(3, nodes) */
    int64_t log_dir_reserve_bytes;
    int32_t recovery_threads_per_dir;
    int64_t retention_check_ms, checkpoint_interval_ms;
    int64_t producer_id_expiration_ms;
    int32_t election_timeout_ms, heartbeat_ms; /* raft */
    int32_t broker_session_timeout_ms, broker_heartbeat_interval_ms;
    int32_t listen_backlog;
    const char *cluster_secret; /* NULL: none */
    bool allow_insecure_peers;
    char metrics_host[256];
    int metrics_port; /* -1: off */
    enum log_level log_level;
    bool log_json;
    bool adopt_log_dirs;
    struct config_store *store; /* every key's value and where it came from */
};

struct config_arguments {
    const char *file; /* --config, or NULL */
    int override_count;
    const char *const *overrides;                 /* "key=value", in order */
    const char *(*environment)(const char *name); /* getenv, or a test's; NULL: none */
    const char *hostname; /* advertised where a listener has no host of its own; NULL: localhost */
};

/* What a flag of `fluxmq server` means as "key=value": --host, --port, --data-dir, --broker-id,
 * --log-level, --metrics-port, --adopt-log-dirs, and those that ask for TLS or access control
 * (ERR_CONFIG with the reason). Empty for a flag that changes nothing (--recovery-mode).
 * ERR_NOT_FOUND for any other. `value` is NULL for a flag without one; *takes_value says whether
 * it must have one. `out` may be NULL to ask only that. */
MUST_USE enum err config_flag_to_override(const char *flag, const char *value, bool *takes_value,
                                          char out[512], struct errmsg *why);

/* ERR_CONFIG with "file:line: key: found x, expected y". Warnings (unknown keys, keys without
 * effect) are kept and written by config_report() once there is a logger. */
MUST_USE enum err config_load(const struct config_arguments *a, struct config **out,
                              struct errmsg *why);
void config_free(struct config *c);
/* The peer port; NULL: none. */
const struct listener_config *config_controller_listener(const struct config *c);
void config_report(const struct config *c, struct logger *l);
/* --print-config: key=value lines sorted by key, each with its source and whether it deviates. */
void config_print(const struct config *c, FILE *out);

/* ---- keys ---- */

const struct config_key *config_key_find(struct str name);       /* broker keys */
const struct config_key *config_topic_key_find(struct str name); /* topic keys */
/* The key of a resource of any type that we describe, or NULL. */
const struct config_key *config_resource_key_find(enum config_resource type, struct str name);
/* Checks a value as Kafka would; `why` has Kafka's sentence ("Invalid value x for configuration
 * y: ..."). ERR_INVALID_CONFIG. */
MUST_USE enum err config_check(const struct config_key *k, struct str value, struct errmsg *why);
/* All topic-level rules together for a topic about to have these entries (min.compaction.lag <=
 * max.compaction.lag, unknown keys, ...). ERR_INVALID_CONFIG. */
MUST_USE enum err config_check_topic(const struct config_entry *entries, int32_t count,
                                     struct errmsg *why);
/* Which broker keys may be changed dynamically and to what; also cluster-wide only ones.
 * ERR_INVALID_REQUEST (as Kafka answers) or ERR_INVALID_CONFIG. */
MUST_USE enum err config_check_broker(struct str name, bool cluster_wide,
                                      const struct config_entry *entries, int32_t count,
                                      struct errmsg *why);
/* The same for what a group or a client-metrics subscription is about to have; `c` gives the
 * broker's bounds of group values. */
MUST_USE enum err config_check_group(const struct config *c, const struct image *i,
                                     const struct config_entry *entries, int32_t count,
                                     struct errmsg *why);
MUST_USE enum err config_check_metrics(const struct config_entry *entries, int32_t count,
                                       struct errmsg *why);

/* One change that AlterConfigs or IncrementalAlterConfigs asks for. */
struct config_op {
    struct str key, value; /* value null: allowed for CONFIG_OP_DELETE alone */
    enum { CONFIG_OP_SET, CONFIG_OP_DELETE, CONFIG_OP_APPEND, CONFIG_OP_SUBTRACT } op;
    struct str inherited; /* out: what APPEND and SUBTRACT of an unset key start from */
};
/* Whether a resource may be changed like this, with the code and the sentence that Kafka answers.
 * What only the state machine can know (that the topic exists) is left to it. `replace_all`:
 * AlterConfigs, whose entries are all there is afterwards. Topics, brokers, groups and
 * client-metrics subscriptions; ERR_INVALID_REQUEST for other types. */
MUST_USE enum err config_check_alter(const struct config *c, const struct image *i,
                                     enum config_resource type, struct str name,
                                     struct config_op *ops, int32_t count, bool replace_all,
                                     struct arena *a, struct errmsg *why);

/* ---- effective values ---- */

/* A broker key's value now: this broker's dynamic value, else the cluster-wide one, else static,
 * else the default; the null string when that is null. `i` may be NULL: static values only. The
 * key must be in the table; config_number() also needs it to be of a numeric type and not null. */
struct str config_value(const struct config *c, const struct image *i, const char *name);
int64_t config_number(const struct config *c, const struct image *i, const char *name);

/* Everything the data path needs of a topic's config, resolved: topic, else this broker's dynamic
 * value, else the cluster-wide one, else static, else default. */
struct topic_settings {
    struct log_config log;
    int32_t max_message_bytes;
    int8_t compression_type;   /* -1: producer; else a codec number; 0 uncompressed */
    int32_t compression_level; /* of that codec; INT32_MIN: its default */
    bool log_append_time;      /* message.timestamp.type */
    int64_t timestamp_before_max_ms, timestamp_after_max_ms;
    bool compacted; /* cleanup.policy contains compact: null keys are refused [H26] */
    int16_t min_insync_replicas;
    bool unclean_leader_election;
    int64_t max_decompressed_bytes; /* max.decompressed.message.bytes */
};
void config_topic_settings(const struct config *c, const struct image *i, struct str topic,
                           struct topic_settings *out);

/* One line of a DescribeConfigs answer. Strings are the arena's or static. */
struct config_synonym {
    struct str name, value;
    enum config_source source;
};
struct config_described {
    struct str name, value; /* value null: null or sensitive */
    const char *doc;
    enum config_source source;
    enum config_type type;
    bool read_only, sensitive, is_default;
    struct config_synonym *synonyms;
    int32_t synonym_count;
};
/* Every key of the resource, sorted by name. ERR_NOT_FOUND for a topic or node that is not there,
 * ERR_INVALID_REQUEST for a resource type that we do not describe. */
MUST_USE enum err config_describe(const struct config *c, const struct image *i,
                                  enum config_resource type, struct str name, struct arena *a,
                                  struct config_described **out, int32_t *count);

#endif
