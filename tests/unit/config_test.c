/* Configuration: the properties syntax, the table of keys, loading, listeners, voters, what the
 * API may change, what is in force and how it is described. Sentences and orders that clients see
 * were taken from Apache Kafka 4.3.1's answers to the same questions. */
#include "broker/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "broker/config_keys.h"
#include "broker/properties.h"
#include "raft-meta/image_edit.h"
#include "tests/support/config_docs.h"
#include "tests/support/test_env.h"

/* ---- fixtures ---- */

struct loaded {
    struct config *config; /* NULL when it was refused */
    enum err err;
    struct errmsg why;
    char path[64];
};

static const char *no_environment(const char *name)
{
    (void)name;
    return NULL;
}

/* Loads a file with this text, or none. */
static struct loaded load_with(const char *text, const char *const *overrides, int count,
                               const char *(*environment)(const char *name))
{
    struct loaded l = {.path = "/tmp/config_test.XXXXXX"};
    struct config_arguments a = {
        .override_count = count,
        .overrides = overrides,
        .environment = environment,
        .hostname = "this-machine",
    };

    if (text != NULL) {
        int fd = mkstemp(l.path);
        FILE *f = fdopen(fd, "w");

        assert_non_null(f);
        fputs(text, f);
        fclose(f);
        a.file = l.path;
    }
    l.err = config_load(&a, &l.config, &l.why);
    if (text != NULL)
        unlink(l.path);
    if (l.err != ERR_NONE) {
        assert_int_equal(l.err, ERR_CONFIG);
        l.config = NULL;
    }
    return l;
}

static struct config *load_ok(const char *text)
{
    struct loaded l = load_with(text, NULL, 0, no_environment);

    if (l.err != ERR_NONE)
        fail_msg("refused: %s\n%s", l.why.text, text);
    return l.config;
}

static void assert_contains(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("expected \"%s\" in \"%s\"", part, text);
}

static void assert_refused(const char *text, const char *part)
{
    struct loaded l = load_with(text, NULL, 0, no_environment);

    if (l.err == ERR_NONE)
        fail_msg("accepted: %s", text);
    assert_contains(l.why.text, part);
}

static void assert_str(struct str s, const char *expected)
{
    if (!str_eq_lit(s, expected))
        fail_msg("expected \"%s\", found \"%.*s\"", expected, STR_ARG(s));
}

static void put(struct image *i, enum config_resource type, const char *name, const char *key,
                const char *value)
{
    image_put_config(i, type, str_from(name), str_from(key), str_from(value));
}

static void put_topic(struct image *i, const char *name)
{
    struct uuid id = {{0}};

    memcpy(id.b, name, MIN(strlen(name), sizeof id.b));
    image_put_topic(i, &id, str_from(name), 1);
}

/* What config_report() writes, all lines. */
struct capture {
    char text[65536];
    size_t size;
};

static void capture_line(void *ctx, const char *line, size_t size)
{
    struct capture *c = ctx;

    assert_true(c->size + size < sizeof c->text);
    memcpy(c->text + c->size, line, size);
    c->size += size;
    c->text[c->size] = '\0';
}

static char *report_of(const struct config *c)
{
    struct capture *out = xcalloc(1, sizeof *out);
    struct test_env env;
    struct logger l;
    char *text;

    test_env_init(&env);
    logger_init(&l, &env.env, LOG_TRACE, false, capture_line, out);
    config_report(c, &l);
    test_env_deinit(&env);
    text = xstrdup(out->text);
    free(out);
    return text;
}

static int count_of(const char *text, const char *part)
{
    int n = 0;

    for (const char *p = strstr(text, part); p != NULL; p = strstr(p + 1, part))
        n++;
    return n;
}

/* ---- the syntax of properties files ---- */

/* Each line means what java.util.Properties says it means. */
static void properties_are_read_as_java_reads_them(void **state)
{
    static const struct {
        const char *text, *key, *value;
        int line;
    } cases[] = {
        {"a=b", "a", "b", 1},
        {"a:b", "a", "b", 1},
        {"a b", "a", "b", 1},
        {"a\tb", "a", "b", 1},
        {"a\fb", "a", "b", 1},
        {"  a  =  b ", "a", "b ", 1},
        {"a = = b", "a", "= b", 1},
        {"a : b", "a", "b", 1},
        {"a", "a", "", 1},
        {"a=", "a", "", 1},
        {"=b", "", "b", 1},
        {"a\\=b=c", "a=b", "c", 1},
        {"a\\ b=c", "a b", "c", 1},
        {"a\\:b:c", "a:b", "c", 1},
        {"\n\r\n# no\n! no\n  # no\na=b\n", "a", "b", 6},
        {"#no\\\na=b", "a", "b", 2}, /* a comment cannot be continued */
        {"a=b\\\n  c", "a", "bc", 1},
        {"a=b\\\r\n\tc", "a", "bc", 1},
        {"a=b\\\rc", "a", "bc", 1},
        {"a=b\\\\\nc=d", "a", "b\\", 1}, /* an escaped backslash continues nothing */
        {"a\\\n  b=c", "ab", "c", 1},
        {"a\\\n=c", "a", "c", 1},
        {"a=b\\\n#c", "a", "b#c", 1}, /* not a comment */
        {"a=b\\", "a", "b", 1},
        {"a=\\t\\n\\r\\f\\q\\\\", "a", "\t\n\r\fq\\", 1},
        {"a=\\u0041\\u00e9\\u20AC", "a", "A\xc3\xa9\xe2\x82\xac", 1},
        {"a=\\ud83d\\ude00", "a", "\xf0\x9f\x98\x80", 1},
        {"a=b#c!d", "a", "b#c!d", 1},
        {"a=\xc3\xa9", "a", "\xc3\xa9", 1},
    };
    struct properties p;
    struct errmsg why;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        enum err err = properties_parse(cases[i].text, strlen(cases[i].text), &p, &why);

        assert_int_equal(err, ERR_NONE);
        assert_true(p.count >= 1);
        assert_string_equal(p.items[0].key, cases[i].key);
        assert_string_equal(p.items[0].value, cases[i].value);
        assert_int_equal(p.items[0].line, cases[i].line);
        properties_deinit(&p);
    }
}

/* What cannot be text is refused with its line, and so is a file beyond the limit. */
static void properties_refuse_what_is_no_text(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"a=\\u12", "line 1: a \\u escape"},     {"a=b\nc=\\u12g4", "line 2: a \\u escape"},
        {"a=\\ud83d", "line 1: half of"},        {"a=\\ud83dxxxxxx", "line 1: half of"},
        {"a=\\ud83d\\u0041", "line 1: half of"}, {"a=\\ude00", "line 1: half of"},
        {"\n\na=\\u0000", "line 3: a zero"},
    };
    char *big = xcalloc(1, PROPERTIES_FILE_BYTES_MAX + 1);
    struct properties p;
    struct errmsg why;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        assert_int_equal(properties_parse(cases[i].text, strlen(cases[i].text), &p, &why),
                         ERR_MALFORMED);
        assert_contains(why.text, cases[i].why);
    }
    assert_int_equal(properties_parse("a=\0b", 4, &p, &why), ERR_MALFORMED);
    memset(big, '#', PROPERTIES_FILE_BYTES_MAX + 1);
    assert_int_equal(properties_parse(big, PROPERTIES_FILE_BYTES_MAX + 1, &p, &why), ERR_TOO_LARGE);
    assert_int_equal(properties_parse(big, PROPERTIES_FILE_BYTES_MAX, &p, &why), ERR_NONE);
    assert_int_equal(p.count, 0);
    properties_deinit(&p);
    assert_int_equal(properties_parse(NULL, 0, &p, &why), ERR_NONE);
    properties_deinit(&p);
    free(big);
}

/* ---- the table ---- */

static void check_table(const struct config_key *keys, int count)
{
    struct config_fault f;

    for (int i = 0; i < count; i++) {
        if (i > 0 && strcmp(keys[i - 1].name, keys[i].name) >= 0)
            fail_msg("%s stands before %s", keys[i - 1].name, keys[i].name);
        if (keys[i].default_value != NULL && keys[i].effect != CONFIG_REFUSED &&
            !config_check_value(&keys[i], str_from(keys[i].default_value), &f))
            fail_msg("%s: its own default is refused", keys[i].name);
        assert_true(strlen(keys[i].doc) > 10);
        assert_true(keys[i].dynamic != keys[i].read_only);
        assert_int_equal(keys[i].sensitive, keys[i].type == CONFIG_TYPE_PASSWORD);
    }
}

/* The tables are sorted, every default passes its own rule, and every key is explained. */
static void tables_are_sound(void **state)
{
    (void)state;
    check_table(config_broker_keys, config_broker_key_count);
    check_table(config_topic_keys, config_topic_key_count);
    check_table(config_group_keys, config_group_key_count);
    check_table(config_metrics_keys, config_metrics_key_count);
}

/* We know every key of Kafka 4.4 with its default, except where the table marks the default as
 * ours; and no other key is listed that is not marked as ours. */
static void every_key_of_kafka_is_there_with_its_default(void **state)
{
    FILE *f = fopen("tests/support/config/kafka-4.4.0-configs.txt", "re");
    int brokers = 0, topics = 0, groups = 0, listed = 0;
    char line[512], type[16], pair[400];

    (void)state;
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        const struct config_key *k;
        char *value;

        if (line[0] == '#')
            continue;
        line[strcspn(line, "\n")] = '\0';
        assert_int_equal(sscanf(line, "%15s %399[^\n]", type, pair), 2);
        value = strchr(pair, '=');
        if (value != NULL)
            *value++ = '\0';
        brokers += strcmp(type, "broker") == 0;
        topics += strcmp(type, "topic") == 0;
        groups += strcmp(type, "group") == 0;
        k = config_resource_key_find(type[0] == 'b'   ? CONFIG_BROKER
                                     : type[0] == 't' ? CONFIG_TOPIC
                                                      : CONFIG_GROUP,
                                     str_from(pair));
        if (k == NULL)
            fail_msg("%s is missing", pair);
        assert_false(k->ours);
        assert_false(k->unlisted);
        if (k->deviates || (value != NULL && strcmp(value, "?") == 0))
            continue;
        if ((value == NULL) != (k->default_value == NULL) ||
            (value != NULL && strcmp(value, k->default_value) != 0))
            fail_msg("%s: expected %s, found %s", pair, value != NULL ? value : "null",
                     k->default_value != NULL ? k->default_value : "null");
    }
    fclose(f);
    for (int i = 0; i < config_broker_key_count; i++)
        listed += !config_broker_keys[i].ours && !config_broker_keys[i].unlisted;
    assert_int_equal(brokers, 349);
    assert_int_equal(listed, brokers);
    assert_int_equal(topics, config_topic_key_count);
    assert_int_equal(groups, config_group_key_count);
}

/* A topic key, the broker keys that are its default, and what they say of it agree. */
static void synonyms_agree_with_the_table(void **state)
{
    (void)state;
    for (int t = 0; t < config_topic_key_count; t++) {
        const struct config_synonyms *s = config_topic_synonyms(config_topic_keys[t].name);

        for (int b = 0; s != NULL && b < 3 && s->broker[b] != NULL; b++) {
            const struct config_key *k = config_key_find(str_from(s->broker[b]));

            assert_non_null(k);
            assert_non_null(k->topic_name);
            assert_string_equal(k->topic_name, config_topic_keys[t].name);
            assert_true(s->multiplier[b] >= 1);
        }
    }
}

/* docs/CONFIG.md says what the tables say. */
static void documentation_is_up_to_date(void **state)
{
    FILE *f = fopen("docs/CONFIG.md", "re"), *out;
    char *expected = NULL, *found;
    size_t size = 0, n;

    (void)state;
    assert_non_null(f);
    out = open_memstream(&expected, &size);
    config_docs_write(out);
    fclose(out);
    found = xcalloc(1, size + 2);
    n = fread(found, 1, size + 1, f);
    fclose(f);
    if (n != size || memcmp(found, expected, size) != 0)
        fail_msg("write it again: config_test --docs > docs/CONFIG.md");
    free(found);
    free(expected);
}

/* ---- loading ---- */

/* Without file, environment and flags a node is a cluster of its own. */
static void nothing_configured_is_a_node_of_its_own(void **state)
{
    struct config *c = load_ok(NULL);

    (void)state;
    assert_int_equal(c->node_id, 1);
    assert_int_equal(c->listener_count, 2);
    assert_string_equal(c->listeners[0].name, "PLAINTEXT");
    assert_string_equal(c->listeners[0].host, "");
    assert_int_equal(c->listeners[0].port, 9092);
    assert_string_equal(c->listeners[0].advertised_host, "localhost");
    assert_true(c->listeners[0].inter_broker);
    assert_true(c->listeners[1].controller);
    assert_string_equal(c->listeners[1].host, "127.0.0.1");
    assert_int_equal(c->voter_count, 1);
    assert_int_equal(c->voters[0].node_id, 1);
    assert_int_equal(c->log_dir_count, 1);
    assert_string_equal(c->log_dirs[0], "./fluxmq-data");
    assert_string_equal(c->metadata_log_dir, "./fluxmq-data");
    assert_string_equal(c->metrics_host, "127.0.0.1");
    assert_int_equal(c->metrics_port, 9644);
    assert_int_equal(c->broker_session_timeout_ms, 3000);
    assert_int_equal(c->election_timeout_ms, 500);
    assert_int_equal(c->default_replication_factor, 0);
    assert_true(c->workers >= 1);
    assert_true(c->auto_create_topics);
    assert_null(c->rack);
    assert_null(c->cluster_secret);
    config_free(c);
}

/* [H27] The example files of Kafka start one node in either form, and nothing in them is a
 * mistake; every key without effect is named once. */
static void stock_files_start_one_node(void **state)
{
    static const char *const files[] = {"tests/support/config/kraft-voters.properties",
                                        "tests/support/config/kraft-bootstrap.properties"};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        struct config_arguments a = {.file = files[i]};
        struct config *c = NULL;
        struct errmsg why;
        char *report;

        if (config_load(&a, &c, &why) != ERR_NONE)
            fail_msg("%s", why.text);
        assert_int_equal(c->node_id, 1);
        assert_int_equal(c->voter_count, 1);
        assert_int_equal(c->voters[0].port, 9093);
        assert_int_equal(c->listener_count, 2);
        assert_string_equal(c->listeners[0].advertised_host, "localhost");
        assert_string_equal(c->log_dirs[0], "/tmp/kraft-combined-logs");
        assert_int_equal(c->recovery_threads_per_dir, 1);
        report = report_of(c);
        assert_int_equal(count_of(report, "WARN"), 0);
        assert_int_equal(count_of(report, "num.io.threads"), 1);
        assert_int_equal(count_of(report, "offsets.topic.replication.factor"), 1);
        free(report);
        config_free(c);
    }
}

/* Values lose white space around them, as Kafka's types do. */
static void values_are_trimmed(void **state)
{
    struct config *c = load_ok("num.partitions = 7 \t\nbroker.rack= east  \n");

    (void)state;
    assert_int_equal(c->num_partitions, 7);
    assert_string_equal(c->rack, "east");
    config_free(c);
}

/* One line for each thing that will not be as the file says, and no more. */
static void odd_lines_are_reported_once(void **state)
{
    struct config *c = load_ok("num.partitions=2\nnum.partitions=3\nmy.plugin.key=x\n"
                               "my.plugin.key=y\nnum.io.threads=4\n"
                               "listener.name.plaintext.max.connections=4\n");
    char *report = report_of(c);

    (void)state;
    assert_int_equal(c->num_partitions, 3);
    assert_int_equal(count_of(report, ":2: num.partitions: stands in line 1 too"), 1);
    assert_int_equal(count_of(report, ":3: my.plugin.key: unknown key, ignored"), 1);
    assert_int_equal(count_of(report, "my.plugin.key"), 1);
    assert_int_equal(count_of(report, "num.io.threads: accepted, but has no effect"), 1);
    assert_int_equal(count_of(report, "settings of single listeners have no effect"), 1);
    assert_int_equal(count_of(report, "\n"), 4);
    free(report);
    config_free(c);
}

/* A bad value names file, line, key, what was found and what was expected. */
static void bad_values_say_where_and_what(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"\nlog.segment.bytes=5", ":2: log.segment.bytes: found 5, expected at least 1048576"},
        {"num.partitions=many", ":1: num.partitions: found many, expected a number of type INT"},
        {"num.partitions=", ":1: num.partitions: found nothing, expected a number of type INT"},
        {"num.partitions=3000000000", "expected a number of type INT"},
        {"delete.topic.enable=yes", "found yes, expected true or false"},
        {"compression.type=lzo", "found lzo, expected one of: uncompressed, zstd, lz4, snappy"},
        {"log.cleanup.policy=compact,shred", "found shred, expected one of: compact, delete"},
        {"process.roles=broker,boss", "found boss, expected one of: broker, controller"},
        {"log.cleaner.min.cleanable.ratio=1.5", "found 1.5, expected no more than 1"},
        {"log.level=loud", "expected one of (case insensitive): error, warn, info"},
        {"node.id=-3", "node.id: found -3, expected at least 0"},
        {"log.dirs=/a,,/b", "log.dirs: found /a,,/b, expected no empty values in the list"},
        {"log.dirs=", "log.dirs: found , expected the names of directories"},
        {"log.dirs=/a,/b,/a", "expected each directory once"},
        {"log.retention.hours=0", "log.retention.hours: found 0, expected -1"},
        {"metrics.listener=9000", "metrics.listener: found 9000, expected host:port, or none"},
        {"controller.quorum.election.timeout.ms=60", "at least twice raft.heartbeat.interval.ms"},
        {"broker.id=1\nnode.id=2", "broker.id: found 1, expected the same as node.id"},
        {"a=\\uXYZ1", "line 1: a \\u escape"},
        {"zookeeper.connect=localhost:2181", "neither Kafka 4 nor fluxmq uses ZooKeeper"},
    };
    struct config_arguments a = {.file = "/nonexistent/server.properties"};
    struct config *c;
    struct errmsg why;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        assert_refused(cases[i].text, cases[i].why);
    assert_int_equal(config_load(&a, &c, &why), ERR_CONFIG);
    assert_contains(why.text, "/nonexistent/server.properties: No such file");
}

/* What asks for protection or a plug-in that does not exist is refused; what says in the same key
 * that none is wanted is not. */
static void protection_that_does_not_exist_is_refused(void **state)
{
    static const char *const refused[] = {
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users=User:admin",
        "ssl.keystore.location=/etc/keystore",
        "ssl.keystore.password=secret",
        "ssl.truststore.certificates=PEM",
        "ssl.client.auth=required",
        "sasl.enabled.mechanisms=PLAIN",
        "sasl.jaas.config=x",
        "sasl.mechanism.inter.broker.protocol=PLAIN",
        "listener.name.plaintext.plain.sasl.jaas.config=x",
        "listener.name.plaintext.ssl.keystore.location=/x",
        "security.inter.broker.protocol=SSL",
        "listeners=SSL://:9092",
        "listeners=SASL_PLAINTEXT://:9092",
        "listeners=OUT://:9092\nlistener.security.protocol.map=OUT:SASL_SSL",
        "create.topic.policy.class.name=com.example.Policy",
        "client.quota.callback.class=com.example.Quota",
        "principal.builder.class=com.example.Builder",
        "config.providers=env",
        "delegation.token.secret.key=x",
        "remote.log.storage.system.enable=true",
    };
    struct config *c;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++)
        assert_refused(refused[i], "");
    assert_refused("ssl.keystore.password=hunter2", "found a value");
    c = load_ok("authorizer.class.name=\nsuper.users=\nssl.client.auth=none\n"
                "sasl.enabled.mechanisms=GSSAPI\nremote.log.storage.system.enable=FALSE\n"
                "ssl.keystore.location=\nconfig.providers=\n");
    config_free(c);
}

static const char *some_environment(const char *name)
{
    if (strcmp(name, "FLUXMQ_PORT") == 0)
        return "7001";
    if (strcmp(name, "FLUXMQ_DATA_DIR") == 0)
        return "/from/environment";
    if (strcmp(name, "FLUXMQ_LOG_LEVEL") == 0)
        return "debug";
    return strcmp(name, "FLUXMQ_HOST") == 0 ? "" : NULL;
}

/* File < environment < command line, and of the command line the last. */
static void stronger_sources_win(void **state)
{
    static const char *const overrides[] = {"log.dirs=/from/a", "log.dirs=/from/b"};
    const char *file = "log.dirs=/from/file\nlisteners=PLAINTEXT://10.0.0.1:9092\n"
                       "log.level=warn\n";
    struct loaded l = load_with(file, NULL, 0, no_environment);
    char *text = NULL;
    size_t size = 0;
    FILE *out;

    (void)state;
    assert_string_equal(l.config->log_dirs[0], "/from/file");
    config_free(l.config);
    l = load_with(file, NULL, 0, some_environment);
    assert_string_equal(l.config->log_dirs[0], "/from/environment");
    assert_int_equal(l.config->log_level, LOG_DEBUG);
    assert_int_equal(l.config->listeners[0].port, 7001);
    assert_string_equal(l.config->listeners[0].host, "10.0.0.1");
    config_free(l.config);
    l = load_with(file, overrides, 2, some_environment);
    assert_string_equal(l.config->log_dirs[0], "/from/b");

    out = open_memstream(&text, &size);
    config_print(l.config, out);
    fclose(out);
    assert_contains(text, "\nlog.dirs=/from/b  # command line\n");
    assert_contains(text, "\nlog.level=debug  # FLUXMQ_LOG_LEVEL\n");
    assert_contains(text, ":2\n");
    assert_contains(text, "\ncontroller.quorum.election.timeout.ms=500  # default, not Kafka's\n");
    assert_contains(text, "\nnum.io.threads=8  # default, no effect\n");
    free(text);
    config_free(l.config);

    l = load_with(NULL, (const char *const[]){"num.partitions"}, 1, NULL);
    assert_int_equal(l.err, ERR_CONFIG);
    assert_contains(l.why.text, "expected key=value");
    l = load_with(NULL, (const char *const[]){"num.partitions=x"}, 1, NULL);
    assert_contains(l.why.text, "command line: num.partitions: found x");
}

/* --host and --port move the client listener, unless the same source or a stronger one has named
 * listeners itself. */
static void host_and_port_move_the_client_listener(void **state)
{
    struct loaded l = load_with("listeners=CONTROLLER://:9093,PLAINTEXT://10.0.0.1:9092\n",
                                (const char *const[]){"host=[::1]", "port=0"}, 2, no_environment);

    (void)state;
    assert_string_equal(l.config->listeners[1].host, "::1");
    assert_int_equal(l.config->listeners[1].port, 0);
    assert_int_equal(l.config->listeners[0].port, 9093);
    config_free(l.config);
    l = load_with(NULL, (const char *const[]){"listeners=PLAINTEXT://:5000"}, 1, some_environment);
    assert_int_equal(l.config->listeners[0].port, 5000); /* not FLUXMQ_PORT's 7001 */
    config_free(l.config);
    l = load_with("listeners=PLAINTEXT://10.0.0.1:9092\nhost=10.0.0.2\n", NULL, 0, no_environment);
    assert_string_equal(l.config->listeners[0].host, "10.0.0.2"); /* the same source */
    config_free(l.config);
    l = load_with(NULL, (const char *const[]){"host=0.0.0.0"}, 1, no_environment);
    assert_string_equal(l.config->listeners[0].host, "");
    assert_string_equal(l.config->listeners[0].advertised_host, "this-machine");
    config_free(l.config);
    l = load_with(NULL, (const char *const[]){"port=9093"}, 1, no_environment);
    assert_contains(l.why.text, "would bind the same port 9093");
    l = load_with(NULL, (const char *const[]){"port=70000"}, 1, no_environment);
    assert_contains(l.why.text, "no more than 65535");
}

static void flags_become_overrides(void **state)
{
    static const struct {
        const char *flag, *value, *expected;
    } cases[] = {
        {"--host", "::1", "host=::1"},
        {"--port", "9999", "port=9999"},
        {"--data-dir", "/a,/b", "log.dirs=/a,/b"},
        {"--broker-id", "4", "node.id=4"},
        {"--log-level", "debug", "log.level=debug"},
        {"--metrics-port", "9000", "metrics.listener=127.0.0.1:9000"},
        {"--adopt-log-dirs", NULL, "adopt.log.dirs=true"},
        {"--recovery-mode", NULL, ""},
    };
    static const char *const refused[] = {"--enable-tls", "--tls-cert", "--enable-acl",
                                          "--super-users"};
    struct errmsg why = {""};
    bool takes_value;
    char out[512];

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        assert_int_equal(
            config_flag_to_override(cases[i].flag, cases[i].value, &takes_value, out, &why),
            ERR_NONE);
        assert_string_equal(out, cases[i].expected);
        assert_int_equal(takes_value, cases[i].value != NULL);
    }
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++) {
        assert_int_equal(config_flag_to_override(refused[i], "x", &takes_value, out, &why),
                         ERR_CONFIG);
        assert_contains(why.text, "not built yet");
    }
    assert_int_equal(config_flag_to_override("--port", NULL, &takes_value, out, &why), ERR_CONFIG);
    assert_int_equal(config_flag_to_override("--wat", NULL, &takes_value, out, &why),
                     ERR_NOT_FOUND);
}

/* A flag may put right what a file says; node.id and broker.id stay one thing. */
static void a_flag_overrules_a_bad_line(void **state)
{
    struct loaded l =
        load_with("num.partitions=x\nbroker.id=0\n",
                  (const char *const[]){"num.partitions=3", "node.id=5"}, 2, no_environment);

    (void)state;
    assert_int_equal(l.err, ERR_NONE);
    assert_int_equal(l.config->num_partitions, 3);
    assert_int_equal(l.config->node_id, 5);
    config_free(l.config);
}

/* ---- listeners [H38] ---- */

/* Docker's set-up: one listener inside, one for the host, one for the controllers. */
static void three_listeners_as_in_docker(void **state)
{
    struct config *c =
        load_ok("listeners=INTERNAL://0.0.0.0:29092,HOST://0.0.0.0:9092,CONTROLLER://0.0.0.0:9093\n"
                "advertised.listeners=INTERNAL://broker:29092,HOST://localhost:9092\n"
                "listener.security.protocol.map=CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,"
                "HOST:PLAINTEXT\n"
                "inter.broker.listener.name=INTERNAL\ncontroller.listener.names=CONTROLLER\n"
                "controller.quorum.voters=1@broker:9093\nprocess.roles=broker,controller\n");

    (void)state;
    assert_int_equal(c->listener_count, 3);
    assert_string_equal(c->listeners[0].advertised_host, "broker");
    assert_int_equal(c->listeners[0].advertised_port, 29092);
    assert_true(c->listeners[0].inter_broker);
    assert_string_equal(c->listeners[1].advertised_host, "localhost");
    assert_false(c->listeners[1].inter_broker);
    assert_true(c->listeners[2].controller);
    assert_string_equal(c->voters[0].host, "broker");
    config_free(c);
}

static void listeners_are_read_as_written(void **state)
{
    struct config *c = load_ok("listeners=plaintext://[::1]:0 , controller://[fe80::1%eth0]:9093");

    (void)state;
    assert_string_equal(c->listeners[0].name, "PLAINTEXT");
    assert_string_equal(c->listeners[0].host, "::1");
    assert_string_equal(c->listeners[0].advertised_host, "::1");
    assert_int_equal(c->listeners[0].port, 0);
    assert_int_equal(c->listeners[0].advertised_port, 0);
    assert_string_equal(c->listeners[1].host, "fe80::1%eth0");
    assert_true(c->listeners[1].controller);
    config_free(c);

    /* An empty host is advertised as this machine's name. */
    c = load_ok("listeners=PLAINTEXT://:9092");
    assert_string_equal(c->listeners[0].advertised_host, "this-machine");
    assert_int_equal(c->listener_count, 1);
    config_free(c);

    /* The same port for an IPv4 and an IPv6 address is two addresses. */
    c = load_ok("listeners=A://127.0.0.1:9092,B://[::1]:9092\ninter.broker.listener.name=B\n"
                "listener.security.protocol.map=A:PLAINTEXT,B:PLAINTEXT");
    assert_true(c->listeners[1].inter_broker);
    config_free(c);
    c = load_ok("listeners=PLAINTEXT://0.0.0.0:9092,CONTROLLER://[::1]:9092\n"
                "advertised.listeners=PLAINTEXT://broker:9092");
    assert_int_equal(c->listener_count, 2);
    config_free(c);
}

static void bad_listeners_are_refused(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"listeners=PLAINTEXT://h", "found PLAINTEXT://h, expected NAME://host:port"},
        {"listeners=PLAINTEXT://h:70000", "expected NAME://host:port"},
        {"listeners=PLAINTEXT://h:-1", "expected NAME://host:port"},
        {"listeners=PLAINTEXT://::1:9092", "expected NAME://host:port"},
        {"listeners=://h:1", "expected NAME://host:port"},
        {"listeners=PLAINTEXT://a b:1", "expected NAME://host:port"},
        {"listeners=", "expected NAME://host:port"},
        {"listeners=PLAINTEXT://:1,plaintext://:2", "found PLAINTEXT twice"},
        {"listeners=PLAINTEXT://:1,CONTROLLER://h:1", "would bind the same port 1"},
        {"listeners=INSIDE://:1", "expected a protocol for it"},
        {"listeners=SSL://:1", "which is not built yet"},
        {"listeners=CONTROLLER://:1", "at least one listener that controller.listener.names"},
        {"listeners=PLAINTEXT://0.0.0.0:9092", "leads nowhere"},
        {"listeners=PLAINTEXT://[::]:9092", "leads nowhere"},
        {"advertised.listeners=PLAINTEXT://0.0.0.0:9092", "leads nowhere"},
        {"advertised.listeners=OTHER://h:9092", "expected one that stands in listeners"},
        {"advertised.listeners=PLAINTEXT://a:1,PLAINTEXT://b:1", "found PLAINTEXT twice"},
        {"listener.security.protocol.map=PLAINTEXT:FOO,CONTROLLER:PLAINTEXT",
         "found the protocol FOO"},
        {"listener.security.protocol.map=PLAINTEXT:PLAINTEXT", "the listener CONTROLLER"},
        {"inter.broker.listener.name=CONTROLLER", "expected the name of a client listener"},
        {"inter.broker.listener.name=NONE", "expected the name of a client listener"},
        {"inter.broker.listener.name=PLAINTEXT\nsecurity.inter.broker.protocol=PLAINTEXT",
         "only one of it"},
        {"listeners=A://:1,B://:2\nlistener.security.protocol.map=A:PLAINTEXT,B:PLAINTEXT",
         "none is named PLAINTEXT"},
        {"process.roles=controller,broker\ncontroller.listener.names=X\n"
         "listeners=PLAINTEXT://:1",
         "expected at least one that stands in listeners"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        assert_refused(cases[i].text, cases[i].why);
}

/* ---- voters [H25, H27] ---- */

#define CONTROLLER_LISTENER "listeners=PLAINTEXT://:9092,CONTROLLER://:9093"

/* Several voters: with a controller listener where the list says, and a secret once one of them is
 * another machine. */
static void several_voters(void **state)
{
    static const char *const accepted[] = {
        "controller.quorum.voters=1@localhost:9093,2@localhost:9095,3@localhost:9097",
        "controller.quorum.voters=3@c:9093,1@a:9093,2@b:9093\ncluster.secret=x",
        "controller.quorum.voters=1@a:9093,2@b:9093,3@c:9093\nallow.insecure.peers=true",
        "controller.quorum.voters=1@a:19093,2@b:9093,3@c:9093\ncluster.secret=x\n"
        "advertised.listeners=PLAINTEXT://a:9092,CONTROLLER://a:19093",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(accepted); i++) {
        char text[512];
        struct config *c;

        (void)snprintf(text, sizeof text, "%s\n%s", CONTROLLER_LISTENER, accepted[i]);
        c = load_ok(text);
        assert_int_equal(c->voter_count, 3);
        config_free(c);
    }
}

static void voters_are_this_node_alone(void **state)
{
    static const char *const one_node[] = {
        "",
        "controller.quorum.voters=1@127.0.0.1:9093",
        "controller.quorum.voters=1@my-own-name.example:9093",
        "controller.quorum.bootstrap.servers=localhost:9093",
        "controller.quorum.bootstrap.servers=127.0.0.1:9093,[::1]:9093",
        "controller.quorum.bootstrap.servers=this-machine:9093",
        ("controller.quorum.bootstrap.servers=broker:9093\n"
         "advertised.listeners=PLAINTEXT://broker:9092"),
        "controller.quorum.bootstrap.servers=localhost:9093\nlisteners=PLAINTEXT://:0",
    };
    static const struct {
        const char *text, *why;
    } refused[] = {
        {"controller.quorum.voters=1@a:9093,2@b:9093,3@c:9093",
         "add the line cluster.secret=SECRET"},
        {"controller.quorum.voters=1@a:9093,2@b:9093\ncluster.secret=x",
         "cannot reach the controller listener CONTROLLER on 127.0.0.1"},
        {"controller.quorum.voters=1@a:9093,2@b:9093\ncluster.secret=x\n"
         "listeners=PLAINTEXT://:9092",
         "add one for port 9093, by which the other voters reach this node"},
        {"controller.quorum.voters=2@localhost:9093,3@localhost:9095", "does not name this node"},
        {"controller.quorum.voters=1@a:9094,2@b:9093\ncluster.secret=x\n" CONTROLLER_LISTENER,
         "is reached at port 9094, but its controller listener CONTROLLER is on port 9093"},
        {"controller.quorum.voters=1@a:9093,2@a:9093\ncluster.secret=x\n" CONTROLLER_LISTENER,
         "gives node 1 and node 2 the same address a:9093"},
        {"controller.quorum.voters=1@localhost:9093,2@b:9093\ncluster.secret="
         "x\n" CONTROLLER_LISTENER,
         "names this node by localhost, where the voter on b cannot reach it"},
        {"controller.quorum.voters=2@localhost:9093", "does not name this node"},
        {"controller.quorum.voters=1@localhost", "expected id@host:port"},
        {"controller.quorum.voters=x@localhost:1", "expected id@host:port"},
        {"controller.quorum.voters=1@:1", "expected id@host:port"},
        {"controller.quorum.voters=1@a:1,1@b:1", "found node 1 twice"},
        {"controller.quorum.bootstrap.servers=other:9093", "names other:9093"},
        {"controller.quorum.bootstrap.servers=localhost:9093,localhost:9095",
         "names localhost:9095"},
        {"controller.quorum.bootstrap.servers=localhost", "expected host:port"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(one_node); i++) {
        struct config *c = load_ok(one_node[i]);

        assert_int_equal(c->voter_count, 1);
        assert_int_equal(c->voters[0].node_id, 1);
        config_free(c);
    }
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++)
        assert_refused(refused[i].text, refused[i].why);
}

/* ---- checks that clients see ---- */

/* Each value gets Kafka's verdict in Kafka's words. */
static void values_get_kafkas_verdict(void **state)
{
    static const struct {
        const char *key, *value, *why; /* NULL: fine */
    } cases[] = {
        {"retention.ms", "abc",
         "Invalid value abc for configuration retention.ms: Not a number of type LONG"},
        {"retention.ms", "5.0",
         "Invalid value 5.0 for configuration retention.ms: Not a number of type LONG"},
        {"retention.ms", "",
         "Invalid value  for configuration retention.ms: Not a number of type LONG"},
        {"retention.ms", "+5", NULL},
        {"retention.ms", " 5 ", NULL},
        {"retention.ms", "-2",
         "Invalid value -2 for configuration retention.ms: Value must be at least -1"},
        {"retention.bytes", "-9", NULL},
        {"segment.bytes", "5",
         "Invalid value 5 for configuration segment.bytes: Value must be at least 1048576"},
        {"segment.bytes", "99999999999",
         "Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT"},
        {"segment.bytes", "1048576 ", NULL},
        {"file.delete.delay.ms", "9223372036854775808",
         "Invalid value 9223372036854775808 for configuration file.delete.delay.ms: Not a number "
         "of type LONG"},
        {"cleanup.policy", "foo",
         "Invalid value foo for configuration cleanup.policy: String must be one of: compact, "
         "delete"},
        {"cleanup.policy", "", NULL},
        {"cleanup.policy", "compact, delete ", NULL},
        {"cleanup.policy", "delete,", "Configuration 'cleanup.policy' values must not be empty."},
        {"min.cleanable.dirty.ratio", "2",
         "Invalid value 2.0 for configuration min.cleanable.dirty.ratio: Value must be no more "
         "than 1"},
        {"min.cleanable.dirty.ratio", "-0.1",
         "Invalid value -0.1 for configuration min.cleanable.dirty.ratio: Value must be at least "
         "0"},
        {"min.cleanable.dirty.ratio", "x",
         "Invalid value x for configuration min.cleanable.dirty.ratio: Not a number of type "
         "DOUBLE"},
        {"min.cleanable.dirty.ratio", "1e-1", NULL},
        {"min.cleanable.dirty.ratio", "0.5d", NULL},
        {"preallocate", "maybe",
         "Invalid value maybe for configuration preallocate: Expected value to be either true or "
         "false"},
        {"preallocate", " True ", NULL},
        {"compression.type", "GZIP",
         "Invalid value GZIP for configuration compression.type: String must be one of: "
         "uncompressed, zstd, lz4, snappy, gzip, producer"},
        {"compression.gzip.level", "0",
         "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 "
         "or equal to -1"},
        {"compression.gzip.level", "-1", NULL},
        {"compression.lz4.level", "99",
         "Invalid value 99 for configuration compression.lz4.level: Value must be no more than "
         "17"},
        {"message.timestamp.type", "createtime",
         "Invalid value createtime for configuration message.timestamp.type: String must be one "
         "of: CreateTime, LogAppendTime"},
        {"max.message.bytes", "-1",
         "Invalid value -1 for configuration max.message.bytes: Value must be at least 0"},
        {"min.insync.replicas", "0",
         "Invalid value 0 for configuration min.insync.replicas: Value must be at least 1"},
        {"leader.replication.throttled.replicas", "foo",
         "Invalid value [foo] for configuration leader.replication.throttled.replicas: "
         "leader.replication.throttled.replicas must be the literal '*' or a list of replicas in "
         "the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],..."},
        {"leader.replication.throttled.replicas", "*", NULL},
        {"leader.replication.throttled.replicas", "1:2, 3:4", NULL},
        {"leader.replication.throttled.replicas", "", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const struct config_key *k = config_topic_key_find(str_from(cases[i].key));
        struct errmsg why = {""};
        enum err err = config_check(k, str_from(cases[i].value), &why);

        assert_int_equal(err, cases[i].why == NULL ? ERR_NONE : ERR_INVALID_CONFIG);
        assert_string_equal(why.text, cases[i].why == NULL ? "" : cases[i].why);
    }
}

static void offset_reset_takes_words_and_durations(void **state)
{
    static const char *const good[] = {"latest", "earliest", "by_duration:PT1H",
                                       "by_duration:P1DT2H3M4.5S", "by_duration:P2D"};
    static const char *const bad[] = {"",
                                      "foo",
                                      "by_duration:",
                                      "by_duration:P",
                                      "by_duration:PT",
                                      "by_duration:1H",
                                      "by_duration:PT1D",
                                      "by_duration:PT1S2H",
                                      "by_duration:PT-1H"};
    const struct config_key *k =
        config_resource_key_find(CONFIG_GROUP, STR_LIT("share.auto.offset.reset"));
    struct errmsg why;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(good); i++)
        assert_int_equal(config_check(k, str_from(good[i]), &why), ERR_NONE);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_int_equal(config_check(k, str_from(bad[i]), &why), ERR_INVALID_CONFIG);
}

/* ---- altering ---- */

struct alter_fixture {
    struct config *config;
    struct image *image;
    struct arena arena;
};

static int alter_setup(void **state)
{
    struct alter_fixture *f = xcalloc(1, sizeof *f);

    f->config = load_ok("node.id=1\nlog.cleanup.policy=compact\n");
    f->image = image_new();
    put_topic(f->image, "plain");
    arena_init(&f->arena, 1 << 20);
    *state = f;
    return 0;
}

static int alter_teardown(void **state)
{
    struct alter_fixture *f = *state;

    arena_deinit(&f->arena);
    image_unref(f->image);
    config_free(f->config);
    free(f);
    return 0;
}

static enum err alter_one(struct alter_fixture *f, enum config_resource type, const char *name,
                          int op, const char *key, const char *value, struct errmsg *why)
{
    struct config_op o = {.key = str_from(key), .value = str_from(value)};

    o.op = (unsigned int)op;
    why->text[0] = '\0';
    return config_check_alter(f->config, f->image, type, str_from(name), &o, 1, false, &f->arena,
                              why);
}

/* The codes and sentences that Kafka answers to the same changes. */
static void changes_get_kafkas_verdict(void **state)
{
    static const struct {
        enum config_resource type;
        const char *name, *key, *value;
        enum err err;
        const char *why;
    } cases[] = {
        {CONFIG_TOPIC, "plain", "nope.key", "1", ERR_INVALID_CONFIG,
         "Unknown topic config name: nope.key"},
        {CONFIG_TOPIC, "plain", "retention.ms", "5", ERR_NONE, ""},
        {CONFIG_TOPIC, "plain", "remote.storage.enable", "true", ERR_INVALID_CONFIG,
         "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with "
         "remote log storage."},
        {CONFIG_TOPIC, "bad name", "retention.ms", "1", ERR_INVALID_TOPIC_EXCEPTION,
         "Topic name is invalid: 'bad name' contains one or more characters other than ASCII "
         "alphanumerics, '.', '_' and '-'"},
        {CONFIG_TOPIC, "", "retention.ms", "1", ERR_INVALID_REQUEST,
         "Default topic resources are not allowed."},
        {CONFIG_TOPIC, "plain", "retention.ms", NULL, ERR_INVALID_REQUEST,
         "Null value not supported for : retention.ms"},
        {CONFIG_BROKER, "1", "num.partitions", "3", ERR_INVALID_REQUEST,
         "Cannot update these configs dynamically: [num.partitions]"},
        {CONFIG_BROKER, "", "node.id", "3", ERR_INVALID_REQUEST,
         "Cannot update these configs dynamically: [node.id]"},
        {CONFIG_BROKER, "1", "log.retention.ms", "x", ERR_INVALID_REQUEST,
         "Invalid value x for configuration log.retention.ms: Not a number of type LONG"},
        {CONFIG_BROKER, "", "log.segment.bytes", "1", ERR_INVALID_REQUEST,
         "Invalid value 1 for configuration log.segment.bytes: Value must be at least 1048576"},
        {CONFIG_BROKER, "1", "min.insync.replicas", "1", ERR_INVALID_CONFIG,
         "Broker-level min.insync.replicas cannot be altered while ELR is enabled."},
        {CONFIG_BROKER, "", "min.insync.replicas", "1", ERR_NONE, ""},
        {CONFIG_BROKER, "1", "max.connections", "6000", ERR_NONE, ""},
        {CONFIG_BROKER, "1", "log.cleaner.threads", "2", ERR_NONE, ""},
        {CONFIG_BROKER, "2", "log.retention.ms", "5", ERR_INVALID_REQUEST,
         "Unexpected broker id, expected 1, but received 2"},
        {CONFIG_BROKER, "x", "log.retention.ms", "5", ERR_INVALID_REQUEST,
         "Node id must be an integer, but it is: x"},
        {CONFIG_BROKER, "1", "ssl.keystore.location", "/x", ERR_INVALID_REQUEST,
         "Cannot update these configs dynamically: [ssl.keystore.location]"},
        {CONFIG_GROUP, "g", "consumer.session.timeout.ms", "5", ERR_INVALID_CONFIG,
         "consumer.session.timeout.ms must be greater than or equal to "
         "group.consumer.min.session.timeout.ms"},
        {CONFIG_GROUP, "g", "consumer.heartbeat.interval.ms", "50000", ERR_INVALID_CONFIG,
         "consumer.heartbeat.interval.ms must be less than or equal to "
         "group.consumer.max.heartbeat.interval.ms"},
        {CONFIG_GROUP, "g", "nope", "5", ERR_INVALID_CONFIG, "Unknown group config name: nope"},
        {CONFIG_GROUP, "", "consumer.session.timeout.ms", "50000", ERR_INVALID_REQUEST,
         "Default group resources are not allowed."},
        {CONFIG_GROUP, "g", "consumer.session.timeout.ms", "50000", ERR_NONE, ""},
        {CONFIG_CLIENT_METRICS, "m", "nope", "5", ERR_INVALID_REQUEST,
         "Unknown client metrics configuration: nope"},
        {CONFIG_CLIENT_METRICS, "m", "interval.ms", "5", ERR_INVALID_REQUEST,
         "Invalid value 5 for interval.ms, interval must be between 100 and 3600000 (1 hour)"},
        {CONFIG_CLIENT_METRICS, "m", "match", "x", ERR_INVALID_CONFIG,
         "Illegal client matching pattern: x"},
        {CONFIG_CLIENT_METRICS, "m", "match", "client_id=a.*", ERR_NONE, ""},
        {CONFIG_CLIENT_METRICS, "", "metrics", "a", ERR_INVALID_REQUEST,
         "Subscription name can't be empty"},
        {(enum config_resource)3, "x", "a", "b", ERR_INVALID_REQUEST, "Unknown resource type 3"},
    };
    struct alter_fixture *f = *state;
    struct errmsg why;

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        enum err err = alter_one(f, cases[i].type, cases[i].name, CONFIG_OP_SET, cases[i].key,
                                 cases[i].value, &why);

        assert_string_equal(why.text, cases[i].why);
        assert_int_equal(err, cases[i].err);
    }
}

/* A rule between two keys is judged over what was there and what comes. */
static void a_change_is_judged_with_what_stands(void **state)
{
    struct alter_fixture *f = *state;
    struct config_op both[] = {
        {.key = STR_LIT("max.compaction.lag.ms"), .value = STR_LIT("5")},
        {.key = STR_LIT("min.compaction.lag.ms"), .value = STR_NULL, .op = CONFIG_OP_DELETE},
    };
    struct config_op twice[] = {
        {.key = STR_LIT("retention.ms"), .value = STR_LIT("1")},
        {.key = STR_LIT("retention.bytes"), .value = STR_LIT("1")},
        {.key = STR_LIT("retention.ms"), .value = STR_LIT("2")},
    };
    struct errmsg why = {""};

    put(f->image, CONFIG_TOPIC, "plain", "min.compaction.lag.ms", "100");
    assert_int_equal(
        alter_one(f, CONFIG_TOPIC, "plain", CONFIG_OP_SET, "max.compaction.lag.ms", "5", &why),
        ERR_INVALID_CONFIG);
    assert_string_equal(why.text, "conflict topic config setting min.compaction.lag.ms (100) > "
                                  "max.compaction.lag.ms (5)");
    assert_int_equal(config_check_alter(f->config, f->image, CONFIG_TOPIC, STR_LIT("plain"), both,
                                        2, false, &f->arena, &why),
                     ERR_NONE);
    /* AlterConfigs replaces everything: the old 100 is gone. */
    assert_int_equal(config_check_alter(f->config, f->image, CONFIG_TOPIC, STR_LIT("plain"), both,
                                        1, true, &f->arena, &why),
                     ERR_NONE);
    assert_int_equal(config_check_alter(f->config, f->image, CONFIG_TOPIC, STR_LIT("plain"), twice,
                                        3, false, &f->arena, &why),
                     ERR_INVALID_REQUEST);
    assert_string_equal(why.text, "Error due to duplicate config keys");
}

/* APPEND and SUBTRACT are for lists, start from what is in force, and may bring only what is
 * allowed. */
static void lists_grow_and_shrink(void **state)
{
    struct alter_fixture *f = *state;
    struct config_op o = {
        .key = STR_LIT("cleanup.policy"), .value = STR_LIT("delete"), .op = CONFIG_OP_APPEND};
    struct errmsg why = {""};

    assert_int_equal(config_check_alter(f->config, f->image, CONFIG_TOPIC, STR_LIT("plain"), &o, 1,
                                        false, &f->arena, &why),
                     ERR_NONE);
    assert_str(o.inherited, "compact"); /* the file's log.cleanup.policy */
    assert_int_equal(
        alter_one(f, CONFIG_TOPIC, "plain", CONFIG_OP_APPEND, "cleanup.policy", "shred", &why),
        ERR_INVALID_CONFIG);
    assert_int_equal(
        alter_one(f, CONFIG_TOPIC, "plain", CONFIG_OP_SUBTRACT, "cleanup.policy", "compact", &why),
        ERR_NONE);
    assert_int_equal(
        alter_one(f, CONFIG_TOPIC, "plain", CONFIG_OP_APPEND, "retention.ms", "1", &why),
        ERR_INVALID_CONFIG);
    assert_string_equal(why.text, "Can't APPEND to key retention.ms because its type is not LIST.");
    assert_int_equal(alter_one(f, CONFIG_TOPIC, "plain", CONFIG_OP_SUBTRACT, "nope", "1", &why),
                     ERR_INVALID_CONFIG);
    assert_int_equal(alter_one(f, CONFIG_TOPIC, "plain", CONFIG_OP_DELETE, "nope", NULL, &why),
                     ERR_NONE);
    assert_int_equal(alter_one(f, CONFIG_TOPIC, "plain", 9, "retention.ms", "1", &why),
                     ERR_INVALID_REQUEST);
    assert_int_equal(alter_one(f, CONFIG_TOPIC, "plain", -1, "retention.ms", "1", &why),
                     ERR_INVALID_REQUEST);
}

/* ---- what is in force ---- */

/* Topic, then this broker's dynamic value, then the cluster's, then the file, then the default. */
static void topic_settings_come_from_the_nearest_level(void **state)
{
    struct config *c = load_ok("log.retention.hours=2\nlog.segment.bytes=2000000\n");
    struct image *i = image_new();
    struct topic_settings s;

    (void)state;
    put_topic(i, "t");
    config_topic_settings(c, i, STR_LIT("t"), &s);
    assert_int_equal(s.log.retention_ms, 2 * 3600 * 1000);
    assert_int_equal(s.log.segment_bytes, 2000000);
    assert_int_equal(s.log.segment_ms, 604800000);
    assert_int_equal(s.min_insync_replicas, 2);
    assert_int_equal(s.compression_type, -1);
    assert_int_equal(s.compression_level, INT32_MIN);
    assert_true(s.log.cleanup_delete);
    assert_false(s.compacted);
    assert_int_equal(s.log.flush_messages, INT64_MAX);
    assert_int_equal(s.log.flush_ms, INT64_MAX);
    assert_int_equal(s.max_decompressed_bytes, 2147483639);

    put(i, CONFIG_BROKER, "", "log.retention.ms", "3000");
    config_topic_settings(c, i, STR_LIT("t"), &s);
    assert_int_equal(s.log.retention_ms, 3000);
    put(i, CONFIG_BROKER, "1", "log.retention.ms", "4000");
    config_topic_settings(c, i, STR_LIT("t"), &s);
    assert_int_equal(s.log.retention_ms, 4000);
    put(i, CONFIG_TOPIC, "t", "retention.ms", " 5000 ");
    config_topic_settings(c, i, STR_LIT("t"), &s);
    assert_int_equal(s.log.retention_ms, 5000);
    put(i, CONFIG_TOPIC, "t", "retention.ms", "nonsense of a newer node");
    config_topic_settings(c, i, STR_LIT("t"), &s);
    assert_int_equal(s.log.retention_ms, 4000);

    /* min.insync.replicas has no value of a single broker [H6]. */
    put(i, CONFIG_BROKER, "1", "min.insync.replicas", "7");
    put(i, CONFIG_BROKER, "", "min.insync.replicas", "3");
    put(i, CONFIG_TOPIC, "t", "cleanup.policy", "compact, delete");
    put(i, CONFIG_TOPIC, "t", "compression.type", "zstd");
    put(i, CONFIG_TOPIC, "t", "compression.zstd.level", "9");
    put(i, CONFIG_TOPIC, "t", "message.timestamp.type", "LogAppendTime");
    config_topic_settings(c, i, STR_LIT("t"), &s);
    assert_int_equal(s.min_insync_replicas, 3);
    assert_true(s.compacted && s.log.cleanup_compact && s.log.cleanup_delete);
    assert_int_equal(s.compression_type, 4);
    assert_int_equal(s.compression_level, 9);
    assert_true(s.log_append_time);
    assert_int_equal(config_number(c, i, "log.retention.ms"), 4000);
    image_unref(i);
    config_free(c);
}

/* A negative number of hours means no limit, and ms beat minutes beat hours. */
static void retention_units(void **state)
{
    struct topic_settings s;
    char number[24];
    struct config *c = load_ok("log.retention.hours=-1");

    (void)state;
    config_topic_settings(c, NULL, STR_NULL, &s);
    assert_int_equal(s.log.retention_ms, -1);
    assert_str(config_inherited(c, NULL, CONFIG_TOPIC,
                                config_topic_key_find(STR_LIT("retention.ms")), number),
               "-1");
    config_free(c);
    c = load_ok("log.retention.hours=1\nlog.retention.minutes=1");
    config_topic_settings(c, NULL, STR_NULL, &s);
    assert_int_equal(s.log.retention_ms, 60000);
    config_free(c);
    c = load_ok("log.retention.hours=1\nlog.retention.minutes=1\nlog.retention.ms=7");
    config_topic_settings(c, NULL, STR_NULL, &s);
    assert_int_equal(s.log.retention_ms, 7);
    config_free(c);
}

/* ---- DescribeConfigs ---- */

struct description {
    struct config *config;
    struct image *image;
    struct arena arena;
    struct config_described *all;
    int32_t count;
};

static int describe_setup(void **state)
{
    struct description *d = xcalloc(1, sizeof *d);

    d->config = load_ok("node.id=1\nnum.partitions=4\ncluster.secret=hunter2\nsome.plugin=x\n"
                        "log.cleaner.threads=3\n");
    d->image = image_new();
    put_topic(d->image, "plain");
    put_topic(d->image, "over");
    put(d->image, CONFIG_TOPIC, "over", "retention.ms", "1000");
    put(d->image, CONFIG_TOPIC, "over", "unclean.leader.election.enable", "TRUE");
    put(d->image, CONFIG_BROKER, "", "log.retention.ms", "777777");
    put(d->image, CONFIG_BROKER, "", "min.insync.replicas", "1");
    put(d->image, CONFIG_BROKER, "", "log.cleaner.threads", "1");
    put(d->image, CONFIG_BROKER, "1", "log.segment.bytes", "2000000");
    put(d->image, CONFIG_BROKER, "1", "log.cleaner.threads", "2");
    put(d->image, CONFIG_GROUP, "g1", "consumer.session.timeout.ms", "50000");
    put(d->image, CONFIG_CLIENT_METRICS, "m", "interval.ms", "10000");
    arena_init(&d->arena, 1 << 20);
    *state = d;
    return 0;
}

static int describe_teardown(void **state)
{
    struct description *d = *state;

    arena_deinit(&d->arena);
    image_unref(d->image);
    config_free(d->config);
    free(d);
    return 0;
}

static enum err describe(struct description *d, enum config_resource type, const char *name)
{
    return config_describe(d->config, d->image, type, str_from(name), &d->arena, &d->all,
                           &d->count);
}

static const struct config_described *entry(const struct description *d, const char *name)
{
    for (int32_t i = 0; i < d->count; i++)
        if (str_eq_lit(d->all[i].name, name))
            return &d->all[i];
    return NULL;
}

/* "value source [name=value@source ...]" */
static void assert_entry(const struct description *d, const char *name, const char *expected)
{
    const struct config_described *e = entry(d, name);
    char text[1024];
    int used;

    if (e == NULL)
        fail_msg("%s is not described", name);
    used = snprintf(text, sizeof text, "%.*s %d [", STR_ARG(e->value), (int)e->source);
    for (int32_t s = 0; s < e->synonym_count; s++)
        used += snprintf(text + used, sizeof text - (size_t)used, "%s%.*s=%.*s@%d",
                         s > 0 ? " " : "", STR_ARG(e->synonyms[s].name),
                         STR_ARG(e->synonyms[s].value), (int)e->synonyms[s].source);
    snprintf(text + used, sizeof text - (size_t)used, "]");
    assert_string_equal(text, expected);
    assert_int_equal(e->is_default, e->source == CONFIG_SOURCE_DEFAULT);
}

/* Names, values, sources and the order of synonyms as Kafka answers them; its defaults of
 * min.insync.replicas and our own apart. */
static void topics_are_described_as_kafka_does(void **state)
{
    struct description *d = *state;

    assert_int_equal(describe(d, CONFIG_TOPIC, "plain"), ERR_NONE);
    assert_int_equal(d->count, 37);
    for (int32_t i = 1; i < d->count; i++)
        assert_true(str_cmp(d->all[i - 1].name, d->all[i].name) < 0);
    assert_entry(d, "compression.type", "producer 5 [compression.type=producer@5]");
    assert_entry(d, "cleanup.policy", "delete 5 [log.cleanup.policy=delete@5]");
    assert_entry(d, "remote.storage.enable", "false 5 []");
    assert_entry(d, "flush.ms", "9223372036854775807 5 []");
    assert_entry(d, "segment.ms", "604800000 5 []");
    assert_entry(d, "segment.bytes",
                 "2000000 2 [log.segment.bytes=2000000@2 log.segment.bytes=1073741824@5]");
    assert_entry(d, "retention.ms",
                 "777777 3 [log.retention.ms=777777@3 log.retention.hours=168@5]");
    assert_entry(d, "min.insync.replicas", "1 3 [min.insync.replicas=1@3 min.insync.replicas=2@5]");
    assert_false(entry(d, "retention.ms")->read_only);
    assert_int_equal(entry(d, "retention.ms")->type, CONFIG_TYPE_LONG);

    assert_int_equal(describe(d, CONFIG_TOPIC, "over"), ERR_NONE);
    assert_entry(d, "retention.ms",
                 "1000 1 [retention.ms=1000@1 log.retention.ms=777777@3 "
                 "log.retention.hours=168@5]");
    assert_entry(d, "unclean.leader.election.enable",
                 "true 1 [unclean.leader.election.enable=true@1 "
                 "unclean.leader.election.enable=false@5]");
    assert_int_equal(describe(d, CONFIG_TOPIC, "missing"), ERR_NOT_FOUND);
}

static void brokers_are_described_as_kafka_does(void **state)
{
    struct description *d = *state;

    assert_int_equal(describe(d, CONFIG_BROKER, "1"), ERR_NONE);
    for (int32_t i = 1; i < d->count; i++)
        assert_true(str_cmp(d->all[i - 1].name, d->all[i].name) < 0);
    assert_entry(d, "num.partitions", "4 4 [num.partitions=4@4 num.partitions=1@5]");
    assert_true(entry(d, "num.partitions")->read_only);
    assert_entry(d, "log.cleaner.threads",
                 "2 2 [log.cleaner.threads=2@2 log.cleaner.threads=1@3 log.cleaner.threads=3@4 "
                 "log.cleaner.threads=1@5]");
    assert_false(entry(d, "log.cleaner.threads")->read_only);
    assert_entry(d, "log.retention.ms",
                 "777777 3 [log.retention.ms=777777@3 log.retention.hours=168@5]");
    assert_entry(d, "log.retention.hours", "168 5 [log.retention.hours=168@5]");
    assert_entry(d, "log.flush.interval.ms", " 5 []");
    assert_entry(d, "broker.id", "1 4 [broker.id=1@4 broker.id=-1@5]");
    assert_entry(d, "default.replication.factor", "1 5 [default.replication.factor=0@5]");
    /* What may be a secret is never shown. */
    assert_entry(d, "cluster.secret", " 4 [cluster.secret=@4]");
    assert_true(entry(d, "cluster.secret")->sensitive);
    assert_int_equal(entry(d, "cluster.secret")->value.len, -1);
    assert_entry(d, "some.plugin", " 4 [some.plugin=@4]");
    assert_int_equal(entry(d, "some.plugin")->type, CONFIG_TYPE_UNKNOWN);
    assert_null(entry(d, "leader.replication.throttled.rate"));
    assert_null(entry(d, "super.users"));

    assert_int_equal(describe(d, CONFIG_BROKER, ""), ERR_NONE);
    assert_int_equal(d->count, 3);
    assert_entry(d, "log.retention.ms", "777777 3 [log.retention.ms=777777@3]");
    assert_int_equal(describe(d, CONFIG_BROKER, "2"), ERR_NOT_FOUND);
    assert_int_equal(describe(d, CONFIG_BROKER, "x"), ERR_NOT_FOUND);
}

static void groups_and_metrics_are_described_as_kafka_does(void **state)
{
    struct description *d = *state;

    assert_int_equal(describe(d, CONFIG_GROUP, "g1"), ERR_NONE);
    assert_int_equal(d->count, 21);
    assert_entry(d, "consumer.session.timeout.ms",
                 "50000 8 [consumer.session.timeout.ms=50000@8 "
                 "group.consumer.session.timeout.ms=45000@5]");
    assert_entry(d, "share.auto.offset.reset", "latest 5 [share.auto.offset.reset=latest@5]");
    assert_int_equal(describe(d, CONFIG_GROUP, "never seen"), ERR_NONE);
    assert_entry(d, "consumer.session.timeout.ms",
                 "45000 5 [group.consumer.session.timeout.ms=45000@5]");
    assert_int_equal(describe(d, CONFIG_GROUP, ""), ERR_INVALID_REQUEST);

    assert_int_equal(describe(d, CONFIG_CLIENT_METRICS, "m"), ERR_NONE);
    assert_int_equal(d->count, 3);
    assert_entry(d, "interval.ms", "10000 7 [interval.ms=10000@7]");
    assert_int_equal(describe(d, CONFIG_CLIENT_METRICS, "none"), ERR_NONE);
    assert_entry(d, "interval.ms", "300000 5 []");
    assert_int_equal(describe(d, (enum config_resource)99, "x"), ERR_INVALID_REQUEST);
}

/* A budget that is used up is an error, not half an answer. */
static void describing_stays_in_its_budget(void **state)
{
    struct description *d = *state;
    struct arena small;

    for (size_t budget = 0; budget < 60000; budget += 997) {
        arena_init(&small, budget);
        enum err err = config_describe(d->config, d->image, CONFIG_BROKER, STR_LIT("1"), &small,
                                       &d->all, &d->count);
        assert_true(err == ERR_NONE || err == ERR_TOO_LARGE);
        arena_deinit(&small);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--docs") == 0) {
        config_docs_write(stdout);
        return 0;
    }

    const struct CMUnitTest tests[] = {
        cmocka_unit_test(properties_are_read_as_java_reads_them),
        cmocka_unit_test(properties_refuse_what_is_no_text),
        cmocka_unit_test(tables_are_sound),
        cmocka_unit_test(every_key_of_kafka_is_there_with_its_default),
        cmocka_unit_test(synonyms_agree_with_the_table),
        cmocka_unit_test(documentation_is_up_to_date),
        cmocka_unit_test(nothing_configured_is_a_node_of_its_own),
        cmocka_unit_test(stock_files_start_one_node),
        cmocka_unit_test(values_are_trimmed),
        cmocka_unit_test(odd_lines_are_reported_once),
        cmocka_unit_test(bad_values_say_where_and_what),
        cmocka_unit_test(protection_that_does_not_exist_is_refused),
        cmocka_unit_test(stronger_sources_win),
        cmocka_unit_test(host_and_port_move_the_client_listener),
        cmocka_unit_test(flags_become_overrides),
        cmocka_unit_test(a_flag_overrules_a_bad_line),
        cmocka_unit_test(three_listeners_as_in_docker),
        cmocka_unit_test(listeners_are_read_as_written),
        cmocka_unit_test(bad_listeners_are_refused),
        cmocka_unit_test(several_voters),
        cmocka_unit_test(voters_are_this_node_alone),
        cmocka_unit_test(values_get_kafkas_verdict),
        cmocka_unit_test(offset_reset_takes_words_and_durations),
        cmocka_unit_test_setup_teardown(changes_get_kafkas_verdict, alter_setup, alter_teardown),
        cmocka_unit_test_setup_teardown(a_change_is_judged_with_what_stands, alter_setup,
                                        alter_teardown),
        cmocka_unit_test_setup_teardown(lists_grow_and_shrink, alter_setup, alter_teardown),
        cmocka_unit_test(topic_settings_come_from_the_nearest_level),
        cmocka_unit_test(retention_units),
        cmocka_unit_test_setup_teardown(topics_are_described_as_kafka_does, describe_setup,
                                        describe_teardown),
        cmocka_unit_test_setup_teardown(brokers_are_described_as_kafka_does, describe_setup,
                                        describe_teardown),
        cmocka_unit_test_setup_teardown(groups_and_metrics_are_described_as_kafka_does,
                                        describe_setup, describe_teardown),
        cmocka_unit_test_setup_teardown(describing_stays_in_its_budget, describe_setup,
                                        describe_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
