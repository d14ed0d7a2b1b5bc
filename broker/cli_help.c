/* broker/cli_help.c -- the texts of --help. */
#include "broker/cli.h"

#include <string.h>

static const char program_help[] =
    "fluxmq is a message broker that speaks Kafka's protocol: any Kafka client uses it as it is.\n"
    "\n"
    "Usage: fluxmq COMMAND [OPTION]...\n"
    "\n"
    "  server   run a node\n"
    "  dump     print a segment or an index as Kafka's dump tool does\n"
    "  verify   check data directories while no server uses them\n"
    "  repair   show, and on request do, what makes a damaged data directory usable\n"
    "\n"
    "  fluxmq COMMAND --help   more of one command\n"
    "  fluxmq --version        the version\n"
    "\n"
    "A first node, with nothing configured, and a word with it:\n"
    "\n"
    "  fluxmq server                     # data in ./fluxmq-data, clients on port 9092\n"
    "  kcat -b localhost:9092 -L         # lists one broker\n"
    "  echo hello | kcat -b localhost:9092 -P -t greetings\n"
    "  kcat -b localhost:9092 -C -t greetings -e\n"
    "\n"
    "Exit codes: 0 ok, 1 a finding or a refusal, 2 usage or configuration, 3 not reachable.\n";

static const char server_help[] =
    "Usage: fluxmq server [FILE] [--override KEY=VALUE]... [FLAG]...\n"
    "\n"
    "Runs a node until SIGTERM or Ctrl-C, which stop it cleanly. A server.properties made for\n"
    "Kafka (KRaft) starts it as it is. With no configuration at all it is a cluster of its own:\n"
    "clients on port 9092 of all addresses, the controller on 127.0.0.1:9093, data in\n"
    "./fluxmq-data, metrics on http://127.0.0.1:9644/metrics.\n"
    "\n"
    "  FILE, --config FILE   Kafka's server.properties\n"
    "  --override KEY=VALUE  one key of such a file; may be repeated\n"
    "  --print-config        print every key, its value and where it comes from, and stop\n"
    "\n"
    "Short ways to say the same:\n"
    "\n"
    "  --host HOST           address of the client listener (default: all)\n"
    "  --port PORT           port of the client listener (default: 9092; 0: any free one)\n"
    "  --data-dir DIR        where data lives; several with commas     log.dirs\n"
    "  --broker-id N         this node's number (default: 1)           node.id\n"
    "  --log-level LEVEL     error, warn, info, debug or trace         log.level\n"
    "  --metrics-port PORT   metrics on 127.0.0.1:PORT                 metrics.listener\n"
    "  --adopt-log-dirs      take over the data directory of a Kafka node that ran alone and\n"
    "                        was stopped cleanly\n"
    "  --recovery-mode       taken, and without effect: logs are always recovered\n"
    "\n"
    "Not built yet, so a node that is asked for them does not start: --enable-consumer-groups,\n"
    "--enable-tls, --tls-cert, --tls-key, --enable-acl, --acl-config, --super-users, listeners\n"
    "with SSL or SASL, authorizers. Clusters of several nodes (controller.quorum.voters) are "
    "under\n"
    "test: no data that matter on them.\n"
    "\n"
    "Environment: FLUXMQ_HOST, FLUXMQ_PORT, FLUXMQ_DATA_DIR, FLUXMQ_LOG_LEVEL. A file yields to\n"
    "the environment, the environment to the command line; of flags and --override the last\n"
    "counts. What the API sets (kafka-configs) lies on top of all three.\n"
    "\n"
    "Clients are told to connect to advertised.listeners; without it, to the listener's own host,\n"
    "or to this machine's name where that is empty. In a container, say it:\n"
    "\n"
    "  fluxmq server --override advertised.listeners=PLAINTEXT://broker.example:9092\n"
    "\n"
    "Keys are those of Kafka 4.4; docs/CONFIG.md lists which work, which are taken without\n"
    "effect, which are refused, and where a default differs. Signals: SIGTERM and SIGINT stop,\n"
    "SIGHUP reads log.level again. Log lines go to standard error (log.format=text or json).\n"
    "\n"
    "Exit codes: 0 stopped as asked, 1 could not start or had to stop, 2 usage or configuration.\n";

static const char dump_help[] =
    "Usage: fluxmq dump [OPTION]... FILE...\n"
    "\n"
    "Prints files of a partition as Kafka's dump tool does, one line per batch: segments (.log),\n"
    "indexes (.index, .timeindex, .txnindex) and producer snapshots (.snapshot).\n"
    "\n"
    "  --files A,B             as Kafka's tool takes them; the same as naming them\n"
    "  --deep-iteration        each record too\n"
    "  --print-data-log        each record with key and value\n"
    "  --skip-record-metadata  with it: keys and values alone\n"
    "  --index-sanity-check    indexes: check instead of print\n"
    "  --verify-index-only     indexes: hold them against their log, print only what is wrong\n"
    "  --max-bytes N           of each file\n";

static const char verify_help[] =
    "Usage: fluxmq verify [OPTION]... DIR...\n"
    "\n"
    "Checks data directories that no server has open, fluxmq's and Kafka's: checksums and offsets\n"
    "of all batches, leader epochs, indexes against logs, producer snapshots. Changes nothing.\n"
    "Prints one line for each finding with file and offset.\n"
    "\n"
    "  --jobs N      partitions at a time (default: one a core)\n"
    "  --deep        decompress, and look at each record\n"
    "  --strict      what a crash leaves, and a start repairs, counts as a finding\n"
    "  --allow-gaps  offsets may be missing anywhere, not only where the cleaner has been\n"
    "\n"
    "Exit codes: 0 all is well, 1 findings, 2 usage.\n";

static const char repair_help[] =
    "Usage: fluxmq repair [OPTION]... DIR...\n"
    "\n"
    "Prints what would make damaged data directories usable: which files would be cut and where,\n"
    "which set aside, and what would be lost. Does so only when told to.\n"
    "\n"
    "  --yes         carry the plan out\n"
    "  --deep        look for damage as verify --deep does\n"
    "  --allow-gaps  as for verify\n"
    "\n"
    "Exit codes: 0 nothing to do or done, 1 there is something to do, 2 usage.\n";

int cli_print_help(FILE *out, const char *command)
{
    static const struct {
        const char *command, *text;
    } texts[] = {
        {"server", server_help},
        {"dump", dump_help},
        {"verify", verify_help},
        {"repair", repair_help},
    };

    if (command == NULL) {
        fputs(program_help, out);
        return EXIT_OK;
    }
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (strcmp(texts[i].command, command) == 0) {
            fputs(texts[i].text, out);
            return EXIT_OK;
        }
    }
    return EXIT_USAGE;
}
