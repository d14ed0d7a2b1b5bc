/* broker/config_check.c -- whether a value fits its key, as Kafka's ConfigDef decides it.
 *
 * Who reads the verdict differs: an Admin client gets Kafka's sentence ("Invalid value x for
 * configuration y: ..."), whoever starts a server gets "key: found x, expected y". So a check
 * ends in the parts of both (struct config_fault).
 *
 * Rules (struct config_key's `valid`): "" anything of the type; "[a,b]" a number in this range,
 * either end may be left out; "in:a|b" one of these words; "ini:a|b" the same in any case;
 * "list:a|b" a list of these words; "nonempty"; "gzip" 1 to 9 or -1; "throttled" a list of
 * partition:broker, or *; "offsetreset" where a share group begins to read.
 */
#include "broker/config_keys.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

/* What Java's String.trim() takes away. */
struct str config_trim(struct str s)
{
    while (s.len > 0 && (unsigned char)s.ptr[0] <= ' ') {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && (unsigned char)s.ptr[s.len - 1] <= ' ')
        s.len--;
    return s;
}

bool config_list_next(struct str *rest, struct str *item)
{
    if (rest->len < 0)
        return false;

    const char *comma = rest->len > 0 ? memchr(rest->ptr, ',', (size_t)rest->len) : NULL;

    if (comma == NULL) {
        *item = config_trim(*rest);
        rest->len = -1;
        return true;
    }
    *item = config_trim((struct str){rest->ptr, (int32_t)(comma - rest->ptr)});
    rest->len -= (int32_t)(comma - rest->ptr) + 1;
    rest->ptr = comma + 1;
    return true;
}

bool str_eq_nocase(struct str a, const char *b)
{
    size_t n = strlen(b);

    return a.len >= 0 && (size_t)a.len == n && strncasecmp(a.ptr, b, n) == 0;
}

/* Java's parsers take a leading '+' too. */
static struct str skip_plus(struct str s)
{
    if (s.len > 1 && s.ptr[0] == '+' && s.ptr[1] != '-') {
        s.ptr++;
        s.len--;
    }
    return s;
}

bool config_parse_double(struct str text, double *out)
{
    char last = text.len > 0 ? text.ptr[text.len - 1] : '\0';

    if (last == 'd' || last == 'D' || last == 'f' || last == 'F')
        text.len--; /* Java's literal suffixes */
    return parse_double(skip_plus(text), out) && isfinite(*out);
}

bool config_parse_integer(enum config_type type, struct str text, int64_t *out)
{
    if (!parse_int64(skip_plus(text), out))
        return false;
    if (type == CONFIG_TYPE_INT)
        return *out >= INT32_MIN && *out <= INT32_MAX;
    if (type == CONFIG_TYPE_SHORT)
        return *out >= INT16_MIN && *out <= INT16_MAX;
    return true;
}

static const char *type_name(enum config_type type)
{
    switch (type) {
    case CONFIG_TYPE_INT:
        return "INT";
    case CONFIG_TYPE_SHORT:
        return "SHORT";
    case CONFIG_TYPE_LONG:
        return "LONG";
    default:
        return "DOUBLE";
    }
}

/* Double.toString() for what stands in configurations: the shortest digits that read back the
 * same, with a point. */
static void format_double(double v, char *out, size_t size)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, size, "%.*g", digits, v);
        if (strtod(out, NULL) == v)
            break;
    }
    if (strpbrk(out, ".e") == NULL) {
        size_t used = strlen(out);

        snprintf(out + used, size - used, ".0");
    }
}

static bool fault(struct config_fault *f, const char *lead, struct str found, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static bool fault(struct config_fault *f, const char *lead, struct str found, const char *fmt, ...)
{
    va_list args;

    f->lead = lead;
    snprintf(f->found, sizeof f->found, "%.*s", STR_ARG(found));
    va_start(args, fmt);
    vsnprintf(f->expected, sizeof f->expected, fmt, args);
    va_end(args);
    return false;
}

static bool check_range(const struct config_key *k, double v, struct str shown,
                        struct config_fault *f)
{
    const char *comma = strchr(k->valid, ',');
    struct str low = {k->valid + 1, (int32_t)(comma - k->valid - 1)};
    struct str high = {comma + 1, (int32_t)strlen(comma + 1) - 1};
    double limit;

    if (low.len > 0 && parse_double(low, &limit) && v < limit)
        return fault(f, "Value must be ", shown, "at least %.*s", STR_ARG(low));
    if (high.len > 0 && parse_double(high, &limit) && v > limit)
        return fault(f, "Value must be ", shown, "no more than %.*s", STR_ARG(high));
    return true;
}

static bool check_number(const struct config_key *k, struct str raw, struct config_fault *f)
{
    struct str text = config_trim(raw);
    char shown[64];
    int64_t integer = 0;
    double v = 0;

    if (k->type == CONFIG_TYPE_DOUBLE ? !config_parse_double(text, &v)
                                      : !config_parse_integer(k->type, text, &integer))
        return fault(f, "Not ", raw, "a number of type %s", type_name(k->type));
    if (k->type == CONFIG_TYPE_DOUBLE) {
        format_double(v, shown, sizeof shown);
    } else {
        snprintf(shown, sizeof shown, "%lld", (long long)integer);
        v = (double)integer;
    }
    if (strcmp(k->valid, "gzip") == 0) {
        if (integer != -1 && (integer < 1 || integer > 9))
            return fault(f, "Value must be ", str_from(shown), "between 1 and 9 or equal to -1");
        return true;
    }
    return k->valid[0] != '[' || check_range(k, v, str_from(shown), f);
}

/* Whether `text` is one of the words after the rule's colon. */
static bool is_word_of(const char *rule, struct str text)
{
    bool any_case = strncmp(rule, "ini:", 4) == 0;
    const char *word = strchr(rule, ':') + 1;

    for (;;) {
        const char *end = strchrnul(word, '|');
        struct str w = {word, (int32_t)(end - word)};

        if (str_eq(w, text) ||
            (any_case && w.len == text.len && strncasecmp(word, text.ptr, (size_t)w.len) == 0))
            return true;
        if (*end == '\0')
            return false;
        word = end + 1;
    }
}

static bool fault_words(const char *rule, struct str found, struct config_fault *f)
{
    bool any_case = strncmp(rule, "ini:", 4) == 0;
    size_t used;

    (void)fault(f, "String must be ", found, "one of%s: ", any_case ? " (case insensitive)" : "");
    used = strlen(f->expected);
    for (const char *c = strchr(rule, ':') + 1; *c != '\0' && used + 3 < sizeof f->expected; c++) {
        f->expected[used++] = *c == '|' ? ',' : *c;
        if (*c == '|')
            f->expected[used++] = ' ';
    }
    f->expected[used] = '\0';
    return false;
}

/* "*", or partition:broker each. */
static bool check_throttled(const struct config_key *k, struct str text, struct config_fault *f)
{
    struct str rest = text, item;

    if (text.len == 0 || str_eq_lit(text, "*"))
        return true;
    while (config_list_next(&rest, &item)) {
        const char *colon = item.len > 0 ? memchr(item.ptr, ':', (size_t)item.len) : NULL;
        int32_t partition, broker;

        if (colon != NULL &&
            parse_int32((struct str){item.ptr, (int32_t)(colon - item.ptr)}, &partition) &&
            parse_int32((struct str){colon + 1, item.len - (int32_t)(colon - item.ptr) - 1},
                        &broker) &&
            partition >= 0 && broker >= 0)
            continue;
        (void)fault(f, "", text,
                    "%s must be the literal '*' or a list of replicas in the following format: "
                    "[partitionId]:[brokerId],[partitionId]:[brokerId],...",
                    k->name);
        snprintf(f->found, sizeof f->found, "[%.*s]", STR_ARG(text));
        return false;
    }
    return true;
}

static bool check_list(const struct config_key *k, struct str text, struct config_fault *f)
{
    struct str rest = text, item;

    if (text.len == 0)
        return true;
    while (config_list_next(&rest, &item)) {
        if (item.len == 0) {
            f->sentence = true;
            return fault(f, "", text, "Configuration '%s' values must not be empty.", k->name);
        }
        if (strncmp(k->valid, "list:", 5) == 0 && !is_word_of(k->valid, item))
            return fault_words(k->valid, item, f);
    }
    return strcmp(k->valid, "throttled") != 0 || check_throttled(k, text, f);
}

/* An ISO 8601 duration as java.time.Duration prints it: P, days, then T with hours, minutes and
 * seconds; at least one of them, none negative. */
static bool is_duration(struct str s)
{
    const char *units = "D"; /* those that may still follow, in this order */
    bool in_time = false, complete = false;
    int32_t i = 1;

    if (s.len < 1 || (s.ptr[0] != 'P' && s.ptr[0] != 'p'))
        return false;
    while (i < s.len) {
        int32_t begin = i;

        if (!in_time && (s.ptr[i] == 'T' || s.ptr[i] == 't')) {
            in_time = true;
            units = "HMS";
            complete = false;
            i++;
            continue;
        }
        while (i < s.len && ((s.ptr[i] >= '0' && s.ptr[i] <= '9') || s.ptr[i] == '.'))
            i++;
        if (i == begin || i == s.len || s.ptr[i] == '\0')
            return false;
        units = strchr(units, s.ptr[i] & ~0x20);
        if (units == NULL)
            return false;
        units++;
        complete = true;
        i++;
    }
    return complete;
}

static bool check_string(const struct config_key *k, struct str text, struct config_fault *f)
{
    if (strncmp(k->valid, "in:", 3) == 0 || strncmp(k->valid, "ini:", 4) == 0)
        return is_word_of(k->valid, text) || fault_words(k->valid, text, f);
    if (strcmp(k->valid, "nonempty") == 0 && text.len == 0)
        return fault(f, "String must be ", text, "non-empty");
    if (strcmp(k->valid, "offsetreset") == 0 && !str_eq_lit(text, "latest") &&
        !str_eq_lit(text, "earliest")) {
        struct str duration = {text.ptr + 12, text.len - 12};

        if (text.len < 12 || memcmp(text.ptr, "by_duration:", 12) != 0 || !is_duration(duration))
            return fault(f, "", text,
                         "Invalid value `%.*s` for configuration %s. The value must be either "
                         "'earliest', 'latest' or of the format 'by_duration:<PnDTnHnMn.nS>'.",
                         STR_ARG(text), k->name);
    }
    return true;
}

bool config_check_value(const struct config_key *k, struct str value, struct config_fault *f)
{
    struct str text = config_trim(value);

    *f = (struct config_fault){.lead = ""};
    switch (k->type) {
    case CONFIG_TYPE_BOOLEAN:
        return str_eq_nocase(text, "true") || str_eq_nocase(text, "false") ||
               fault(f, "Expected value to be either ", value, "true or false");
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_SHORT:
    case CONFIG_TYPE_LONG:
    case CONFIG_TYPE_DOUBLE:
        return check_number(k, value, f);
    case CONFIG_TYPE_LIST:
        return check_list(k, text, f);
    default:
        return check_string(k, text, f);
    }
}

enum err config_check(const struct config_key *k, struct str value, struct errmsg *why)
{
    struct config_fault f;

    if (config_check_value(k, value, &f))
        return ERR_NONE;
    if (f.sentence)
        errmsg_set(why, "%s", f.expected);
    else
        errmsg_set(why, "Invalid value %s for configuration %s: %s%s",
                   k->sensitive ? "[hidden]" : f.found, k->name, f.lead, f.expected);
    return ERR_INVALID_CONFIG;
}

/* ---- whole resources ---- */

static const struct config_entry *find_entry(const struct config_entry *entries, int32_t count,
                                             const char *key)
{
    for (int32_t i = 0; i < count; i++)
        if (str_eq_lit(entries[i].key, key))
            return &entries[i];
    return NULL;
}

/* Unknown names first, then values, each in the order of the entries. */
static enum err check_entries(enum config_resource type, const char *word,
                              const struct config_entry *entries, int32_t count, struct errmsg *why)
{
    for (int32_t i = 0; i < count; i++) {
        if (config_resource_key_find(type, entries[i].key) == NULL) {
            errmsg_set(why, "Unknown %s config name: %.*s", word, STR_ARG(entries[i].key));
            return ERR_INVALID_CONFIG;
        }
    }
    for (int32_t i = 0; i < count; i++) {
        const struct config_key *k = config_resource_key_find(type, entries[i].key);
        enum err err = config_check(k, entries[i].value, why);

        if (err != ERR_NONE)
            return err;
    }
    return ERR_NONE;
}

static int64_t topic_number(const struct config_entry *entries, int32_t count, const char *key)
{
    const struct config_entry *e = find_entry(entries, count, key);
    const struct config_key *k = config_topic_key_find(str_from(key));
    int64_t v = 0;

    CHECK(config_parse_integer(k->type,
                               config_trim(e != NULL ? e->value : str_from(k->default_value)), &v));
    return v;
}

enum err config_check_topic(const struct config_entry *entries, int32_t count, struct errmsg *why)
{
    enum err err = check_entries(CONFIG_TOPIC, "topic", entries, count, why);

    if (err != ERR_NONE)
        return err;

    const struct config_entry *remote = find_entry(entries, count, "remote.storage.enable");

    if (remote != NULL && str_eq_nocase(config_trim(remote->value), "true")) {
        errmsg_set(why, "Tiered Storage functionality is disabled in the broker. Topic cannot be "
                        "configured with remote log storage.");
        return ERR_INVALID_CONFIG;
    }

    int64_t lag_min = topic_number(entries, count, "min.compaction.lag.ms");
    int64_t lag_max = topic_number(entries, count, "max.compaction.lag.ms");

    if (lag_min > lag_max) {
        errmsg_set(why,
                   "conflict topic config setting min.compaction.lag.ms (%lld) > "
                   "max.compaction.lag.ms (%lld)",
                   (long long)lag_min, (long long)lag_max);
        return ERR_INVALID_CONFIG;
    }
    return ERR_NONE;
}

/* Kafka stores names that it does not know, for plug-ins; we have none, and answer no success for
 * what will have no effect. */
enum err config_check_broker(struct str name, bool cluster_wide, const struct config_entry *entries,
                             int32_t count, struct errmsg *why)
{
    (void)name;
    for (int32_t i = 0; i < count; i++) {
        const struct config_key *k = config_key_find(entries[i].key);

        if (k == NULL) {
            errmsg_set(why, "Unknown broker config name: %.*s", STR_ARG(entries[i].key));
            return ERR_INVALID_CONFIG;
        }
        if (!k->dynamic) {
            errmsg_set(why, "Cannot update these configs dynamically: [%s]", k->name);
            return ERR_INVALID_REQUEST;
        }
        if (k->cluster_only && !cluster_wide) {
            errmsg_set(why, "Broker-level %s cannot be altered while ELR is enabled.", k->name);
            return ERR_INVALID_CONFIG;
        }
        if (config_check(k, entries[i].value, why) != ERR_NONE)
            return ERR_INVALID_REQUEST;
    }
    return ERR_NONE;
}

/* One bound of a group's value: `key` against the broker's `bound`. */
static enum err check_bound(const struct config *c, const struct image *i,
                            const struct config_entry *e, const char *bound, bool lower,
                            struct errmsg *why)
{
    int64_t v = 0;

    if (config_key_find(str_from(bound)) == NULL)
        return ERR_NONE;
    CHECK(config_parse_integer(CONFIG_TYPE_LONG, config_trim(e->value), &v));
    if (lower ? v >= config_number(c, i, bound) : v <= config_number(c, i, bound))
        return ERR_NONE;
    errmsg_set(why, "%.*s must be %s than or equal to %s", STR_ARG(e->key),
               lower ? "greater" : "less", bound);
    return ERR_INVALID_CONFIG;
}

/* "consumer.session.timeout.ms" is bounded by group.consumer.min.session.timeout.ms and
 * group.consumer.max.session.timeout.ms, and so on where such keys exist. */
enum err config_check_group(const struct config *c, const struct image *i,
                            const struct config_entry *entries, int32_t count, struct errmsg *why)
{
    enum err err = check_entries(CONFIG_GROUP, "group", entries, count, why);

    for (int32_t n = 0; n < count && err == ERR_NONE; n++) {
        const struct config_key *k = config_resource_key_find(CONFIG_GROUP, entries[n].key);
        const char *dot = strchr(k->name, '.');
        char bound[128];

        if (k->type != CONFIG_TYPE_INT)
            continue;
        for (int lower = 1; lower >= 0 && err == ERR_NONE; lower--) {
            snprintf(bound, sizeof bound, "group.%.*s.%s.%s", (int)(dot - k->name), k->name,
                     lower ? "min" : "max", dot + 1);
            err = check_bound(c, i, &entries[n], bound, lower != 0, why);
        }
    }
    return err;
}

/* Each of `match` is selector=pattern with one of KIP-714's selectors. */
static bool is_client_match(struct str item)
{
    static const char *const selectors[] = {
        "client_id",
        "client_instance_id",
        "client_software_name",
        "client_software_version",
        "client_source_address",
        "client_source_port",
    };
    const char *equals = item.len > 0 ? memchr(item.ptr, '=', (size_t)item.len) : NULL;

    if (equals == NULL || equals == item.ptr + item.len - 1)
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(selectors); i++)
        if (str_eq_lit(config_trim((struct str){item.ptr, (int32_t)(equals - item.ptr)}),
                       selectors[i]))
            return true;
    return false;
}

enum err config_check_metrics(const struct config_entry *entries, int32_t count, struct errmsg *why)
{
    for (int32_t n = 0; n < count; n++) {
        const struct config_key *k =
            config_resource_key_find(CONFIG_CLIENT_METRICS, entries[n].key);
        struct str rest = config_trim(entries[n].value), item;

        if (k == NULL) {
            errmsg_set(why, "Unknown client metrics configuration: %.*s", STR_ARG(entries[n].key));
            return ERR_INVALID_REQUEST;
        }
        if (config_check(k, entries[n].value, why) != ERR_NONE) {
            if (k->type == CONFIG_TYPE_INT)
                errmsg_set(why,
                           "Invalid value %.*s for interval.ms, interval must be between 100 and "
                           "3600000 (1 hour)",
                           STR_ARG(rest));
            return ERR_INVALID_REQUEST;
        }
        while (strcmp(k->name, "match") == 0 && rest.len != 0 && config_list_next(&rest, &item)) {
            if (!is_client_match(item)) {
                errmsg_set(why, "Illegal client matching pattern: %.*s", STR_ARG(item));
                return ERR_INVALID_CONFIG;
            }
        }
    }
    return ERR_NONE;
}
