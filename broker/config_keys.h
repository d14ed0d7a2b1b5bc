/* broker/config_keys.h -- the tables behind config.h, and what its files share.
 *
 * Included only by broker/config*.c and their tests; everybody else needs config.h alone.
 */
#ifndef FLUXMQ_BROKER_CONFIG_KEYS_H
#define FLUXMQ_BROKER_CONFIG_KEYS_H

#include "broker/config.h"

/* Rows of the tables. `flags` are of enum config_flag. */
enum config_flag {
    DYNAMIC = 1,      /* may be changed at run time */
    CLUSTER_ONLY = 2, /* ... but for the whole cluster only */
    UNLISTED = 4,     /* shown by DescribeConfigs only where it is set */
    OURS = 8,         /* Kafka has no such key */
    DEVIATES = 16,    /* our default is not Kafka's */
};

#define CONFIG_KEY(effect_, name_, type_, default_, valid_, topic_, flags_, doc_)                  \
    {                                                                                              \
        .name = (name_), .type = CONFIG_TYPE_##type_, .default_value = (default_),                 \
        .valid = (valid_), .doc = doc_, .topic_name = (topic_), .effect = (effect_),               \
        .dynamic = ((flags_)&DYNAMIC) != 0, .read_only = ((flags_)&DYNAMIC) == 0,                  \
        .sensitive = CONFIG_TYPE_##type_ == CONFIG_TYPE_PASSWORD,                                  \
        .deviates = ((flags_)&DEVIATES) != 0, .cluster_only = ((flags_)&CLUSTER_ONLY) != 0,        \
        .unlisted = ((flags_)&UNLISTED) != 0, .ours = ((flags_)&OURS) != 0                         \
    }
#define WORKS(name, type, default_value, valid, topic, flags, doc)                                 \
    CONFIG_KEY(CONFIG_WORKS, name, type, default_value, valid, topic, flags, doc)
#define ACCEPTED(name, type, default_value, valid, topic, flags, doc)                              \
    CONFIG_KEY(CONFIG_ACCEPTED, name, type, default_value, valid, topic, flags,                    \
               doc " (Accepted; no effect here.)")
#define REFUSED(name, type, default_value, valid, topic, flags, doc)                               \
    CONFIG_KEY(CONFIG_REFUSED, name, type, default_value, valid, topic, flags, doc)

extern const struct config_key config_broker_keys[], config_topic_keys[], config_group_keys[],
    config_metrics_keys[];
extern const int config_broker_key_count, config_topic_key_count, config_group_key_count,
    config_metrics_key_count;

/* A broker key's place in its table: the index of its value in the store. -1: unknown. */
int config_key_index(struct str name);

/* Broker keys that give the same setting, strongest first, and what one of them counts in units
 * of the topic key; `topic` is NULL-ended by itself. */
struct config_synonyms {
    const char *topic;     /* the topic key, "retention.ms" */
    const char *broker[3]; /* "log.retention.ms", "log.retention.minutes", ... or NULL */
    int64_t multiplier[3]; /* 1, 60000, ... */
};
/* NULL: no broker key is its default. */
const struct config_synonyms *config_topic_synonyms(const char *topic_key);
/* Those that a broker key is one of, or NULL when it stands alone. */
const struct config_synonyms *config_broker_synonyms(const char *broker_key);

/* ---- text ---- */

struct str config_trim(struct str s); /* as Java's String.trim() */
/* The next trimmed item of a list; start with `rest` = the list. An empty list has one empty
 * item. */
bool config_list_next(struct str *rest, struct str *item);
bool str_eq_nocase(struct str a, const char *b);
bool config_parse_integer(enum config_type type, struct str text, int64_t *out);
bool config_parse_double(struct str text, double *out);

/* ---- checks ---- */

struct config_fault {
    const char *lead;   /* "Value must be " */
    char expected[384]; /* "at least 5" */
    char found[128];
    bool sentence; /* `expected` is a whole sentence of Kafka's */
};
bool config_check_value(const struct config_key *k, struct str value, struct config_fault *f);

/* What a topic's or group's key has without a value of its own. */
struct str config_inherited(const struct config *c, const struct image *i,
                            enum config_resource type, const struct config_key *k, char number[24]);

/* ---- the static configuration while it is loaded ---- */

enum config_origin { /* weakest first */
                     ORIGIN_DEFAULT,
                     ORIGIN_FILE,
                     ORIGIN_ENVIRONMENT,
                     ORIGIN_OVERRIDE,
};

struct config_static_value {
    const char *text; /* trimmed; NULL: null */
    enum config_origin origin;
    int line;             /* ORIGIN_FILE */
    const char *variable; /* ORIGIN_ENVIRONMENT */
};

struct config_warning {
    enum log_level level;
    const char *text;
    struct config_warning *next;
};

struct config_store {
    struct arena arena;                 /* every string of the configuration */
    struct config_static_value *values; /* one per key of config_broker_keys */
    struct config_entry *unknown;       /* keys that nobody knows, in the order of the file */
    int unknown_count;
    const char *file;     /* NULL: none */
    const char *hostname; /* never NULL */
    struct config_warning *warnings, **warnings_end;
};

/* A copy that lives as long as the configuration. What is copied is bounded: the file by
 * PROPERTIES_FILE_BYTES_MAX, the rest by what the kernel passes to a process. */
const char *config_keep(struct config_store *s, struct str text);
void config_warn(struct config_store *s, enum log_level level, const char *fmt, ...) PRINTF(3, 4);
const struct config_static_value *config_static(const struct config *c, const char *name);
/* The static or default value, never trimmed again; the null string when null. */
struct str config_static_text(const struct config *c, const char *name);
int64_t config_static_number(const struct config *c, const char *name);
bool config_static_bool(const struct config *c, const char *name);
/* Whether anyone set it. */
bool config_is_set(const struct config *c, const char *name);
/* "server.properties:12: log.dirs" for messages. */
const char *config_where(const struct config *c, const char *name, char out[512]);

/* host:port, IPv6 in brackets; the host may be empty. */
bool config_parse_host_port(struct str text, char *host, size_t host_size, int *port);
/* Fill c->listeners and c->voters; ERR_CONFIG. */
MUST_USE enum err config_resolve_listeners(struct config *c, struct errmsg *why);
MUST_USE enum err config_resolve_voters(struct config *c, struct errmsg *why);

#endif
