/* broker/main.c -- the process: arguments, signals, descriptors, standard error, systemd.
 *
 * The only file with mutable file-scope data (none so far) and the only one that knows that there
 * is one node in the process.
 */
#include <errno.h>
#include <malloc.h>
#include <netdb.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "broker/cli.h"
#include "broker/config.h"
#include "broker/env_uv.h"
#include "broker/http/http.h"
#include "broker/node.h"

#define OVERRIDES_MAX 256
#define DESCRIPTORS_WANTED                                                                         \
    20000 /* below this, thousands of partitions and clients run out [H41]                         \
           */
#define STDERR_LINE_ATTEMPTS  8
#define QUEUED_BYTES_FALLBACK (256ll * 1024 * 1024)

struct process {
    struct env *env;
    struct config *config;
    struct logger logger;
    struct node *node;
    struct http_server *http;
    sem_t stopped;
    uint64_t started_ns;
};

struct arguments {
    const char *file;
    const char *overrides[OVERRIDES_MAX];
    int override_count;
    char *made[OVERRIDES_MAX]; /* those that flags became; ours to free */
    int made_count;
    bool print_config;
};

/* ---- systemd (sd_notify's protocol: one datagram to the socket it names) ---- */

static void notify_systemd(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t size = path != NULL ? strlen(path) : 0;

    if (size == 0 || size >= sizeof to.sun_path || (path[0] != '/' && path[0] != '@'))
        return;
    memcpy(to.sun_path, path, size);
    if (to.sun_path[0] == '@')
        to.sun_path[0] = '\0'; /* the abstract namespace */

    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return;
    (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to,
                 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size));
    close(fd);
}

/* ---- standard error ---- */

static void write_line(void *ctx, const char *line, size_t size)
{
    (void)ctx;
    for (int i = 0; i < STDERR_LINE_ATTEMPTS && size > 0; i++) {
        ssize_t n = write(STDERR_FILENO, line, size);

        if (n < 0 && errno != EINTR)
            return; /* nobody listens; the node goes on */
        if (n > 0) {
            line += n;
            size -= (size_t)n;
        }
    }
}

/* ---- limits [H41] ---- */

/* Returns the limit; 0: there is none. */
static int64_t raise_descriptor_limit(struct logger *l)
{
    struct rlimit limit;
    unsigned long maps = 0;
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");

    if (f != NULL) {
        if (fscanf(f, "%lu", &maps) != 1)
            maps = 0;
        (void)fclose(f);
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    log_info(l, "main", "descriptor limit %lu, map limit %lu", (unsigned long)limit.rlim_cur, maps);
    if (limit.rlim_cur < DESCRIPTORS_WANTED)
        log_warn(l, "main",
                 "a descriptor limit of %lu is low for a broker: raise it (ulimit -Hn, or "
                 "LimitNOFILE= of the unit) to at least %d",
                 (unsigned long)limit.rlim_cur, DESCRIPTORS_WANTED);
    return limit.rlim_cur == RLIM_INFINITY ? 0 : (int64_t)limit.rlim_cur;
}

/* ---- the node's events, on the meta thread ---- */

static void report_listeners(const struct process *p)
{
    for (int i = 0; i < p->config->listener_count; i++) {
        const struct listener_config *l = &p->config->listeners[i];

        if (!l->controller)
            log_info(&((struct process *)(uintptr_t)p)->logger, "main",
                     "listening on %s://%s:%d, advertised as %s:%d", l->name,
                     l->host[0] != '\0' ? l->host : "*", node_listener_port(p->node, i),
                     l->advertised_host,
                     l->advertised_port != 0 ? l->advertised_port : node_listener_port(p->node, i));
    }
}

static void on_ready(void *ctx)
{
    struct process *p = ctx;

    report_listeners(p);
    log_info(&p->logger, "main", "ready after %.1f ms",
             (double)(env_now_ns(p->env) - p->started_ns) / 1e6);
    notify_systemd("READY=1");
}

/* Also after the start: the quorum's own directory failed (P10). Nothing that is acknowledged
 * depends on an orderly end. */
static void on_failed(void *ctx, enum err e, const char *why)
{
    struct process *p = ctx;

    log_error(&p->logger, "main", "%s", why);
    _exit(e == ERR_CONFIG ? EXIT_USAGE : EXIT_FINDING);
}

static void on_stopped(void *ctx)
{
    sem_post(&((struct process *)ctx)->stopped);
}

/* ---- arguments ---- */

static int usage(const char *what)
{
    fprintf(stderr, "fluxmq server: %s (see `fluxmq server --help`)\n", what);
    return EXIT_USAGE;
}

static int add_override(struct arguments *a, const char *pair)
{
    if (a->override_count == OVERRIDES_MAX)
        return usage("too many --override");
    a->overrides[a->override_count++] = pair;
    return EXIT_OK;
}

/* A flag with a meaning of its own: it becomes a key=value. Returns how many words it took, or
 * minus the exit code. */
static int take_flag(struct arguments *a, const char *flag, const char *value)
{
    bool takes_value = false;
    char text[512];
    struct errmsg why = {""};
    enum err e = config_flag_to_override(flag, value, &takes_value, text, &why);

    if (e == ERR_NOT_FOUND) {
        errmsg_set(&why, "unknown argument %s", flag);
        return -usage(why.text);
    }
    if (e != ERR_NONE)
        return -usage(why.text);
    if (text[0] != '\0') {
        if (a->made_count == OVERRIDES_MAX)
            return -usage("too many flags");
        a->made[a->made_count] = xstrdup(text);
        if (add_override(a, a->made[a->made_count++]) != EXIT_OK)
            return -EXIT_USAGE;
    }
    return takes_value ? 2 : 1;
}

static int parse(int argc, char **argv, struct arguments *a)
{
    for (int i = 1; i < argc;) {
        const char *flag = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        int used = 2;

        if (strcmp(flag, "--print-config") == 0) {
            a->print_config = true;
            used = 1;
        } else if (strcmp(flag, "--config") == 0 || strcmp(flag, "--override") == 0) {
            if (value == NULL)
                return usage("--config and --override need a value");
            if (flag[2] == 'c')
                a->file = value;
            else if (add_override(a, value) != EXIT_OK)
                return EXIT_USAGE;
        } else if (flag[0] != '-' && a->file == NULL) {
            a->file = flag; /* as kafka-server-start.sh takes it */
            used = 1;
        } else if ((used = take_flag(a, flag, value)) < 0) {
            return -used;
        }
        i += used;
    }
    return EXIT_OK;
}

/* ---- running ---- */

static const char *environment(const char *name)
{
    return getenv(name);
}

/* Until SIGTERM or SIGINT. SIGHUP reads log.level again; it cannot change what is running. */
static void wait_for_signal(struct process *p, const sigset_t *signals,
                            const struct config_arguments *a)
{
    for (;;) {
        int s = 0;

        if (sigwait(signals, &s) != 0)
            continue;
        if (s != SIGHUP) {
            log_info(&p->logger, "main", "%s: stopping", s == SIGTERM ? "SIGTERM" : "SIGINT");
            return;
        }

        struct config *c = NULL;
        struct errmsg why = {""};

        if (config_load(a, &c, &why) != ERR_NONE) {
            log_warn(&p->logger, "main", "SIGHUP: configuration not read: %s", why.text);
            continue;
        }
        atomic_store(&p->logger.level, (int)c->log_level);
        log_info(&p->logger, "main", "SIGHUP: log.level read again");
        config_free(c);
    }
}

/* queued.max.request.bytes=-1: a quarter of the machine's memory. */
static void bound_queued_bytes(struct config *c)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

    if (c->queued_max_request_bytes < 0)
        c->queued_max_request_bytes =
            pages > 0 && size > 0 ? (int64_t)pages * size / 4 : QUEUED_BYTES_FALLBACK;
}

static int run(struct process *p, const struct config_arguments *a)
{
    struct node_options o = {.logger = &p->logger,
                             .config = p->config,
                             .uv_loop = env_uv_loop,
                             .on_ready = on_ready,
                             .on_failed = on_failed,
                             .on_stopped = on_stopped,
                             .ctx = p};
    struct errmsg why = {""};
    sigset_t signals;

    /* Blocked before any thread starts, so that only sigwait() below sees them. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    /* Large receive buffers are kept by the workers; what they give back goes back to the system,
     * and few arenas keep idle memory small. */
    mallopt(M_MMAP_THRESHOLD, 1024 * 1024);
    mallopt(M_ARENA_MAX, p->config->workers + 2);

    if (env_uv_new(MAX(2, p->config->workers), &p->env, &why) != ERR_NONE) {
        fprintf(stderr, "fluxmq server: %s\n", why.text);
        return EXIT_FINDING;
    }
    p->started_ns = env_now_ns(p->env);
    logger_init(&p->logger, p->env, p->config->log_level, p->config->log_json, write_line, NULL);
    bound_queued_bytes(p->config);
    log_info(&p->logger, "main", "fluxmq %s, node %d, %d workers", FLUXMQ_VERSION,
             p->config->node_id, p->config->workers);
    o.descriptors = raise_descriptor_limit(&p->logger);
    config_report(p->config, &p->logger);
    CHECK(sem_init(&p->stopped, 0, 0) == 0);

    o.env = p->env;

    enum err e = node_start(&o, &p->node, &why);

    if (e == ERR_NONE && p->config->metrics_port >= 0)
        e = http_server_start(p->node, p->config->metrics_host, p->config->metrics_port, &p->http,
                              &why);
    if (e != ERR_NONE) {
        log_error(&p->logger, "main", "%s", why.text);
        return e == ERR_CONFIG ? EXIT_USAGE : EXIT_FINDING;
    }
    if (p->http != NULL)
        log_info(&p->logger, "main", "metrics on http://%s:%d/metrics", p->config->metrics_host,
                 http_server_port(p->http));

    wait_for_signal(p, &signals, a);
    notify_systemd("STOPPING=1");
    if (!node_is_ready(p->node))
        _exit(EXIT_OK); /* still starting: a stop is then a crash, and recovery knows crashes */
    if (p->http != NULL)
        http_server_stop(p->http); /* a scrape reads what the stop takes apart */
    node_stop(p->node);
    while (sem_wait(&p->stopped) != 0)
        ;
    node_free(p->node);
    env_uv_free(p->env);
    return EXIT_OK;
}

/* What is advertised for a listener on all addresses: a name that at least we can resolve. */
static const char *resolvable_hostname(char out[256])
{
    struct addrinfo *found = NULL;

    out[255] = '\0';
    if (gethostname(out, 255) != 0 || getaddrinfo(out, NULL, NULL, &found) != 0)
        return NULL;
    freeaddrinfo(found);
    return out;
}

static int load_and_run(struct arguments *a)
{
    struct process p = {0};
    struct errmsg why = {""};
    char hostname[256];
    struct config_arguments c = {.file = a->file,
                                 .hostname = resolvable_hostname(hostname),
                                 .override_count = a->override_count,
                                 .overrides = a->overrides,
                                 .environment = environment};
    int code = EXIT_OK;

    if (config_load(&c, &p.config, &why) != ERR_NONE) {
        fprintf(stderr, "fluxmq server: %s\n", why.text);
        return EXIT_USAGE;
    }
    if (a->print_config)
        config_print(p.config, stdout);
    else
        code = run(&p, &c);
    if (p.node == NULL || code == EXIT_OK) /* else threads may still read it; the process ends */
        config_free(p.config);
    return code;
}

static int cli_server(int argc, char **argv)
{
    struct arguments a = {0};
    int code;

    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return cli_print_help(stdout, "server");
    code = parse(argc, argv, &a);
    if (code == EXIT_OK)
        code = load_and_run(&a);
    for (int i = 0; i < a.made_count; i++)
        free(a.made[i]);
    return code;
}

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
};

int main(int argc, char **argv)
{
    static const struct command commands[] = {
        {"server", cli_server},
        {"dump", cli_dump},
        {"verify", cli_verify},
        {"repair", cli_repair},
    };

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        (void)cli_print_help(argc < 2 ? stderr : stdout, argc > 2 ? argv[2] : NULL);
        return argc < 2 ? EXIT_USAGE : EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("fluxmq %s\n", FLUXMQ_VERSION);
        return EXIT_OK;
    }
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "fluxmq: no command %s (see `fluxmq --help`)\n", argv[1]);
    return EXIT_USAGE;
}
