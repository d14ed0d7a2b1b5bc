#include "tests/sim/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/crc32c.h"
#include "tests/sim/disk_sim.h"
#include "tests/sim/env_sim.h"
#include "tests/sim/net.h"
#include "tests/sim/raft_disk_sim.h"

#define PORT           9092
#define DATA_DIR       "/data"
#define OVERRIDES_MAX  64
#define QUEUED_BYTES   ((int64_t)64 << 20) /* queued.max.request.bytes=-1 */
#define OWN_OVERRIDES  5
#define EXIT_CODE_USER 2 /* as broker/main.c: a configuration that must not start */

/* One life of the node's process. */
struct incarnation {
    struct machine *machine;
    struct process *process;
    struct env *env;
    struct logger logger;
    struct config *config;
    struct node *node;
    struct fiber *main;
    bool ready, stop_asked, stopped;
    uint64_t started;
};

struct machine {
    struct sim *sim;
    struct net *net;
    struct machine_options o;
    char name[16];
    char own[OWN_OVERRIDES][128];
    const char *overrides[OVERRIDES_MAX];
    int override_count;
    struct disk *disk;
    int64_t skew_ms;
    struct incarnation *now; /* NULL: it is not running */
    int exit_code;
    char exit_reason[512];
};

static struct machine *machine_of_incarnation(void *ctx)
{
    return ((struct incarnation *)ctx)->machine;
}

/* ---- what a process of the node does, as broker/main.c ---- */

static void to_trace(void *ctx, const char *line, size_t size)
{
    struct machine *m = machine_of_incarnation(ctx);

    sim_trace(m->sim, "log %.*s", (int)(size > 0 ? size - 1 : 0), line);
}

/* The process ends by itself; does not return when it is of this process. */
static void end(struct incarnation *i, int code, const char *why)
{
    struct machine *m = i->machine;

    m->exit_code = code;
    (void)snprintf(m->exit_reason, sizeof m->exit_reason, "%s", why);
    sim_trace(m->sim, "%s exits with %d: %s", m->name, code, why);
    process_kill(i->process, false);
}

static void on_ready(void *ctx)
{
    struct incarnation *i = ctx;

    i->ready = true;
    sim_count(i->machine->sim, "node: ready");
    sim_trace(i->machine->sim, "%s is ready after %llu us", i->machine->name,
              (unsigned long long)(sim_now(i->machine->sim) - i->started) / 1000);
}

static void on_failed(void *ctx, enum err e, const char *why)
{
    end(ctx, e == ERR_CONFIG ? EXIT_CODE_USER : 1, why);
}

static void on_stopped(void *ctx)
{
    struct incarnation *i = ctx;

    i->stopped = true;
    fiber_wake(i->main);
}

static struct raft_io *raft_disk(void *ctx, struct raft_node *n)
{
    struct incarnation *i = ctx;
    char dir[512];

    (void)n;
    (void)snprintf(dir, sizeof dir, "%s/fluxmq-raft", i->config->metadata_log_dir);
    return raft_disk_sim_new(i->env, dir);
}

static const char *no_environment(const char *name)
{
    (void)name;
    return NULL;
}

static enum err boot(struct incarnation *i, struct errmsg *why)
{
    struct machine *m = i->machine;
    struct config_arguments a = {.override_count = m->override_count,
                                 .overrides = m->overrides,
                                 .environment = no_environment,
                                 .hostname = m->name};
    struct node_options o = {.env = i->env,
                             .logger = &i->logger,
                             .raft_disk_new = raft_disk,
                             .raft_disk_ctx = i,
                             .on_ready = on_ready,
                             .on_failed = on_failed,
                             .on_stopped = on_stopped,
                             .ctx = i};
    enum err e = config_load(&a, &i->config, why);

    if (e != ERR_NONE)
        return e;
    logger_init(&i->logger, i->env, i->config->log_level, i->config->log_json, to_trace, i);
    if (i->config->queued_max_request_bytes < 0)
        i->config->queued_max_request_bytes = QUEUED_BYTES;
    config_report(i->config, &i->logger);
    o.config = i->config;
    return node_start(&o, &i->node, why);
}

static void stop_cleanly(struct incarnation *i)
{
    struct node *n = i->node;

    node_stop(n);
    while (!i->stopped)
        (void)fiber_sleep_until(i->machine->sim, UINT64_MAX);
    i->node = NULL; /* no oracle looks at what is being freed */
    node_free(n);
    env_sim_drain(i->env);
    config_free(i->config);
}

static void process_main(void *arg)
{
    struct incarnation *i = arg;
    struct errmsg why = {""};
    enum err e = boot(i, &why);

    if (e != ERR_NONE)
        end(i, e == ERR_CONFIG ? EXIT_CODE_USER : 1, why.text);
    while (!i->stop_asked)
        (void)fiber_sleep_until(i->machine->sim, UINT64_MAX);
    if (i->ready) /* else a stop is a crash, and recovery knows crashes */
        stop_cleanly(i);
    end(i, 0, "stopped");
}

static void on_death(void *arg, bool silent)
{
    struct incarnation *i = arg;

    (void)silent;
    i->machine->now = NULL;
    disk_on_crash(i->machine->disk);
}

/* ---- the machine ---- */

static void add_override(struct machine *m, const char *pair)
{
    CHECK(m->override_count < OVERRIDES_MAX);
    m->overrides[m->override_count++] = pair;
}

/* With the data directory, which is the operator's to make. */
static void make_disk(struct machine *m)
{
    m->disk = disk_new(m->sim, m->o.number, m->o.disk_bytes);
    disk_make_directory(m->disk, DATA_DIR);
}

struct machine *machine_new(struct sim *s, const struct machine_options *o)
{
    struct machine *m = xcalloc(1, sizeof *m);
    int n = 0;

    m->sim = s;
    m->net = sim_net(s);
    m->o = *o;
    m->exit_code = -1;
    (void)snprintf(m->name, sizeof m->name, "m%d", o->number);
    (void)snprintf(m->own[n++], sizeof m->own[0], "node.id=%d", o->number);
    (void)snprintf(m->own[n++], sizeof m->own[0], "listeners=PLAINTEXT://%s:%d", m->name, PORT);
    (void)snprintf(m->own[n++], sizeof m->own[0], "log.dirs=" DATA_DIR);
    (void)snprintf(m->own[n++], sizeof m->own[0], "workers=%d", o->workers);
    (void)snprintf(m->own[n++], sizeof m->own[0], "metrics.listener=none");
    for (int i = 0; i < n; i++)
        add_override(m, m->own[i]);
    for (int i = 0; i < o->override_count; i++)
        add_override(m, o->overrides[i]);
    make_disk(m);
    return m;
}

/* ---- which CRC-32C: the linker sends every call of crc32c() here (CMakeLists.txt) ---- */

static uint32_t (*forced_crc32c)(uint32_t crc, const void *p, size_t n);

uint32_t __wrap_crc32c(uint32_t crc, const void *p, size_t n);
uint32_t __real_crc32c(uint32_t crc, const void *p, size_t n);

uint32_t __wrap_crc32c(uint32_t crc, const void *p, size_t n)
{
    return forced_crc32c != NULL ? forced_crc32c(crc, p, n) : __real_crc32c(crc, p, n);
}

bool machine_force_crc32c(int path)
{
    if (path >= 0 && !crc32c_path(path).supported)
        return false;
    forced_crc32c = path >= 0 ? crc32c_path(path).fn : NULL;
    return true;
}

/* ---- what others ask ---- */

int machine_number(const struct machine *m)
{
    return m->o.number;
}

int machine_port(const struct machine *m)
{
    (void)m;
    return PORT;
}

void machine_start(struct machine *m)
{
    struct incarnation *i = xcalloc(1, sizeof *i);

    CHECK(m->now == NULL);
    m->now = i;
    m->exit_code = -1;
    m->exit_reason[0] = '\0';
    net_power(m->net, m->o.number, true);
    i->machine = m;
    i->started = sim_now(m->sim);
    i->process = process_new(m->sim, m->o.number, m->name);
    process_on_death(i->process, on_death, i);
    sim_trace(m->sim, "%s starts", m->name);
    i->env = env_sim_new(&(struct env_sim_options){.process = i->process,
                                                   .net = m->net,
                                                   .disk = m->disk,
                                                   .pool_threads = MAX(2, m->o.workers),
                                                   .skew_ms = &m->skew_ms});
    i->main = fiber_spawn(i->process, "main", process_main, i);
}

struct node *machine_node(const struct machine *m)
{
    return m->now != NULL ? m->now->node : NULL;
}

bool machine_is_ready(const struct machine *m)
{
    return m->now != NULL && m->now->ready && !m->now->stop_asked;
}

bool machine_is_quiet(const struct machine *m)
{
    return m->now != NULL && env_sim_is_quiet(m->now->env);
}

struct process *machine_process(const struct machine *m)
{
    return m->now != NULL ? m->now->process : NULL;
}

void machine_crash(struct machine *m, enum crash_kind kind)
{
    sim_count(m->sim, kind == CRASH_POWER ? "crash: power" : "crash: kill -9");
    if (kind == CRASH_POWER)
        net_power(m->net, m->o.number, false);
    if (m->now != NULL)
        process_kill(m->now->process, kind == CRASH_POWER);
    m->exit_code = -1;
    if (kind == CRASH_POWER)
        disk_on_power_failure(m->disk);
}

void machine_stop(struct machine *m)
{
    if (m->now == NULL || m->now->stop_asked)
        return;
    sim_count(m->sim, "node: clean stop");
    m->now->stop_asked = true;
    fiber_wake(m->now->main);
}

int machine_exit_code(const struct machine *m)
{
    return m->exit_code;
}

const char *machine_exit_reason(const struct machine *m)
{
    return m->exit_reason;
}

void machine_set_wall_skew_ms(struct machine *m, int64_t skew)
{
    sim_trace(m->sim, "%s: wall clock is off by %lld ms", m->name, (long long)skew);
    m->skew_ms = skew;
}

void machine_set_disk_fault(struct machine *m, const struct disk_fault_options *o)
{
    disk_set_fault(m->disk, o);
}

bool machine_flip_bit(struct machine *m, const char *pattern, char what[256])
{
    CHECK(m->now == NULL);
    return disk_flip_bit(m->disk, pattern, what);
}

void machine_wipe(struct machine *m)
{
    CHECK(m->now == NULL);
    sim_trace(m->sim, "%s is replaced by an empty machine", m->name);
    sim_count(m->sim, "machine: wiped");
    disk_free(m->disk);
    make_disk(m);
}
