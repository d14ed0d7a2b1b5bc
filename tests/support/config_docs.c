#include "tests/support/config_docs.h"

#include <string.h>

#include "broker/config_keys.h"

static const char intro[] =
    "# Configuration\n"
    "\n"
    "Made from the tables in `broker/config_keys.c` and `broker/config_keys_topic.c`; a test "
    "holds\n"
    "the two together. Keys, types and limits are those of Apache Kafka 4.4.\n"
    "\n"
    "Where a value comes from, the stronger below:\n"
    "\n"
    "1. the default in these tables\n"
    "2. the file: `fluxmq server --config server.properties` (Java's properties syntax, UTF-8)\n"
    "3. the environment: `FLUXMQ_HOST`, `FLUXMQ_PORT`, `FLUXMQ_DATA_DIR`, `FLUXMQ_LOG_LEVEL`\n"
    "4. the command line: `--override key=value` and the flags of `fluxmq server --help`\n"
    "5. the cluster-wide dynamic value (`kafka-configs --entity-type brokers --entity-default`)\n"
    "6. this broker's dynamic value\n"
    "7. for topics and groups, their own value\n"
    "\n"
    "`fluxmq server --print-config` prints every key with its value and where it comes from. A "
    "bad\n"
    "value, and a key that asks for protection or a plug-in that does not exist, ends the start\n"
    "with file, line, key, what was found and what was expected, and exit code 2. An unknown key\n"
    "and a key without effect are one log line each.\n"
    "\n"
    "*dynamic* keys may be changed while the node runs; what Kafka calls dynamic and we do not\n"
    "(listeners, TLS and SASL) is not built yet. `min.insync.replicas` has no value of a single\n"
    "broker: it would make the replicas of a topic disagree. A dynamic value of a key that no\n"
    "table has is refused; Kafka stores it for plug-ins.\n";

static const char *type_name(enum config_type type)
{
    static const char *const names[] = {"",     "boolean", "string", "int",   "short",
                                        "long", "double",  "list",   "class", "password"};

    return names[type];
}

/* '|' would end the cell. */
static void write_cell(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '|')
            fputc('\\', out);
        fputc(*text, out);
    }
}

static void write_row(FILE *out, const struct config_key *k)
{
    const char *note = strstr(k->doc, " (Accepted; no effect here.)");

    fprintf(out, "| `%s` | %s | ", k->name, type_name(k->type));
    if (k->default_value == NULL)
        fputs("not set", out);
    else if (k->default_value[0] == '\0')
        fputs("empty", out);
    else
        fprintf(out, "`%s`", k->default_value);
    fputs(k->dynamic ? " | yes | " : " | | ", out);
    if (note == NULL) {
        write_cell(out, k->doc);
    } else {
        for (const char *c = k->doc; c < note; c++)
            fputc(*c, out);
    }
    fputs(" |\n", out);
}

enum choice { OUR_KEYS, DEVIATIONS, WORKING, WITHOUT_EFFECT, NOT_BUILT };

static bool is_chosen(const struct config_key *k, enum choice choice)
{
    switch (choice) {
    case OUR_KEYS:
        return k->ours;
    case DEVIATIONS:
        return k->deviates;
    case WORKING:
        return !k->ours && k->effect == CONFIG_WORKS;
    case WITHOUT_EFFECT:
        return !k->ours && k->effect == CONFIG_ACCEPTED;
    default:
        return !k->ours && k->effect == CONFIG_REFUSED;
    }
}

static void write_table(FILE *out, const char *title, const struct config_key *keys, int count,
                        enum choice choice)
{
    fprintf(out, "\n%s\n\n| key | type | default | dynamic | |\n| --- | --- | --- | --- | --- |\n",
            title);
    for (int i = 0; i < count; i++)
        if (is_chosen(&keys[i], choice))
            write_row(out, &keys[i]);
}

static void write_scope(FILE *out, const char *title, const struct config_key *keys, int count)
{
    fprintf(out, "\n## %s\n", title);
    write_table(out, "Which work:", keys, count, WORKING);
    write_table(out, "Which are taken without effect:", keys, count, WITHOUT_EFFECT);
}

void config_docs_write(FILE *out)
{
    fputs(intro, out);
    write_table(out, "## Defaults that are not Kafka's", config_broker_keys,
                config_broker_key_count, DEVIATIONS);
    write_table(out, "## Keys that Kafka does not have", config_broker_keys,
                config_broker_key_count, OUR_KEYS);
    write_scope(out, "Broker keys", config_broker_keys, config_broker_key_count);
    write_table(out,
                "Which end the start when they are set to anything but what Kafka takes for off:",
                config_broker_keys, config_broker_key_count, NOT_BUILT);
    write_scope(out, "Topic keys", config_topic_keys, config_topic_key_count);
    write_table(out, "Which are refused when switched on:", config_topic_keys,
                config_topic_key_count, NOT_BUILT);
    fputs("\n## Group keys\n", out);
    write_table(out, "All are checked and kept; they take effect once groups are built.",
                config_group_keys, config_group_key_count, WITHOUT_EFFECT);
    fputs("\n## Client metrics keys\n", out);
    write_table(out, "All are checked and kept; clients are not asked for metrics yet.",
                config_metrics_keys, config_metrics_key_count, WITHOUT_EFFECT);
}
