/* tests/sim/core_check.c -- the simulator checks itself, without clients and oracle.
 *
 *   sim_core_check                all checks
 *   sim_core_check SEED [--trace] one run of the story of a node; prints its hash and figures
 *   sim_core_check --seeds N      the story for the seeds 1 to N, for measuring
 *
 * The story: a node boots under virtual time, answers, survives kill -9 (in the midst of a start
 * too), power failures and clean stops. V1: the same seed gives the same trace, on each CRC path
 * and on a heap that lies otherwise.
 * The disk: over many seeds what is synced is never lost, and what is not is lost, kept and torn.
 * The rules V2 to V5 and H48n: each breach is found.
 *
 * Each run is a process of its own, as the simulator's are.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "protocol/base/bytes.h"
#include "protocol/crc32c.h"
#include "tests/sim/disk_sim.h"
#include "tests/sim/env_sim.h"
#include "tests/sim/machine.h"
#include "tests/sim/net.h"
#include "tests/sim/sim.h"

#define SEEDS_TWICE 6
#define SEEDS_DISK  300
#define SEEDS_CALLS 50
#define RUN_NS      SIM_S(30)

/* What a child tells its parent. */
struct result {
    uint64_t hash, events;
    int answers;
    unsigned seen; /* enum seen, of a disk's run */
    char invariant[16];
};

/* ---- the story ---- */

struct world {
    struct sim *sim;
    struct machine *machine;
    struct process *client;
    int answers;
};

/* ApiVersions, version 0. */
static bool ask(struct world *w, int32_t correlation_id)
{
    static const uint8_t request[] = {0, 0, 0, 13, 0, 18, 0, 0, 0, 0, 0, 0, 0, 3, 's', 'i', 'm'};
    uint64_t deadline = sim_now(w->sim) + SIM_S(2);
    struct net_socket *c;
    uint8_t bytes[sizeof request], head[8];
    enum err e = net_connect(w->client, 1, machine_port(w->machine), deadline, &c);

    if (e != ERR_NONE)
        return false;
    memcpy(bytes, request, sizeof bytes);
    store_be32(bytes + 8, (uint32_t)correlation_id);
    e = net_write(c, bytes, sizeof bytes, deadline);
    if (e == ERR_NONE)
        e = net_read(c, head, sizeof head, deadline);
    net_close(c);
    if (e != ERR_NONE)
        return false;
    if (load_be32(head + 4) != (uint32_t)correlation_id)
        sim_violation(w->sim, "P9", "an answer with correlation id %" PRIu32, load_be32(head + 4));
    w->answers++;
    return true;
}

static void wait_until_answered(struct world *w)
{
    for (int i = 1; i < 200; i++) {
        if (ask(w, i))
            return;
        fiber_sleep(w->sim, SIM_MS(100));
        if (machine_node(w->machine) == NULL && machine_exit_code(w->machine) >= 0)
            sim_violation(w->sim, "P10", "the node has ended: %s", machine_exit_reason(w->machine));
    }
    sim_violation(w->sim, "H48o", "no answer within 20 s");
}

static void wait_until_down(struct world *w)
{
    for (int i = 0; i < 200 && machine_process(w->machine) != NULL; i++)
        fiber_sleep(w->sim, SIM_MS(50));
    if (machine_process(w->machine) != NULL)
        sim_violation(w->sim, "H48o", "a clean stop takes more than 10 s");
}

static void story(void *arg)
{
    struct world *w = arg;

    machine_start(w->machine);
    wait_until_answered(w);
    for (int round = 0; round < 3; round++) {
        fiber_sleep(w->sim, sim_below(w->sim, DICE_FAULTS, SIM_MS(500)));
        machine_crash(w->machine, CRASH_PROCESS);
        machine_start(w->machine);
        wait_until_answered(w);
        /* Also in the middle of a start. */
        machine_crash(w->machine, CRASH_PROCESS);
        machine_start(w->machine);
        fiber_sleep(w->sim, sim_below(w->sim, DICE_FAULTS, SIM_MS(30)));
        machine_crash(w->machine, CRASH_POWER);
        fiber_sleep(w->sim, SIM_MS(200));
        machine_start(w->machine);
        wait_until_answered(w);
        machine_stop(w->machine);
        wait_until_down(w);
        machine_start(w->machine);
        wait_until_answered(w);
    }
}

static void print_count(void *ctx, const char *what, uint64_t count)
{
    (void)ctx;
    printf("  %6" PRIu64 "  %s\n", count, what);
}

static void tell_story(uint64_t seed, bool print, bool figures, struct result *r)
{
    struct world w = {.sim = sim_new(&(struct sim_options){.seed = seed, .print = print})};

    (void)net_new(w.sim);
    w.machine = machine_new(w.sim, &(struct machine_options){
                                       .number = 1, .workers = 2, .disk_bytes = INT64_C(1) << 30});
    w.client = process_new(w.sim, 100, "client");
    fiber_spawn(w.client, "story", story, &w);
    sim_run(w.sim, RUN_NS);
    *r = (struct result){
        .hash = sim_trace_hash(w.sim), .events = sim_events(w.sim), .answers = w.answers};
    if (figures)
        sim_each_count(w.sim, false, print_count, NULL);
}

/* ---- a run in a child ---- */

struct child {
    void (*run)(uint64_t seed, const void *arg, struct result *r);
    const void *arg;
};

/* False when it did not end well. */
static bool run_forked(const struct child *c, uint64_t seed, struct result *r)
{
    int ends[2], status = 0;
    bool told;
    pid_t child;

    CHECK(pipe(ends) == 0);
    (void)fflush(NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        c->run(seed, c->arg, r);
        CHECK(write(ends[1], r, sizeof *r) == (ssize_t)sizeof *r);
        _exit(0);
    }
    (void)close(ends[1]);
    told = read(ends[0], r, sizeof *r) == (ssize_t)sizeof *r;
    (void)close(ends[0]);
    CHECK(waitpid(child, &status, 0) == child);
    return told && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void run_story(uint64_t seed, const void *arg, struct result *r)
{
    const int *path = arg;

    if (path != NULL) {
        sim_shuffle_heap(seed + (uint64_t)(*path + 2));
        CHECK(machine_force_crc32c(*path));
    }
    tell_story(seed, false, false, r);
}

/* V1 */
static bool check_same_trace(void)
{
    struct child plain = {.run = run_story};

    for (uint64_t seed = 1; seed <= SEEDS_TWICE; seed++) {
        struct result a = {0}, b = {0};

        if (!run_forked(&plain, seed, &a)) {
            printf("seed %" PRIu64 " failed\n", seed);
            return false;
        }
        printf("seed %" PRIu64 ": %016" PRIx64 ", %" PRIu64 " events, %d answers\n", seed, a.hash,
               a.events, a.answers);
        for (int path = -1; path < CRC32C_PATH_COUNT; path++) {
            struct child c = {.run = run_story, .arg = &path};

            if (path >= 0 && !crc32c_path(path).supported)
                continue;
            if (!run_forked(&c, seed, &b) || memcmp(&a, &b, sizeof a) != 0) {
                printf("V1: again with CRC path %d: %016" PRIx64 ", %" PRIu64 " events\n", path,
                       b.hash, b.events);
                return false;
            }
        }
    }
    return true;
}

/* ---- one process on a disk ---- */

struct stage {
    struct sim *sim;
    struct disk *disk;
    struct process *process;
    struct env *env;
    int64_t skew_ms;
    void (*play)(struct stage *s);
    struct result *result;
};

static void play(void *arg)
{
    struct stage *s = arg;

    s->play(s);
}

/* Runs `fn` on the main fiber of a new process. */
static void enter(struct stage *s, const char *name, void (*fn)(struct stage *s))
{
    s->process = process_new(s->sim, 1, name);
    s->env = env_sim_new(&(struct env_sim_options){.process = s->process,
                                                   .net = sim_net(s->sim),
                                                   .disk = s->disk,
                                                   .pool_threads = 1,
                                                   .skew_ms = &s->skew_ms});
    s->play = fn;
    fiber_spawn(s->process, "main", play, s);
    sim_run(s->sim, sim_now(s->sim) + SIM_S(5));
}

static void set_stage(struct stage *s, const struct sim_options *o)
{
    s->sim = sim_new(o);
    (void)net_new(s->sim);
    s->disk = disk_new(s->sim, 1, 64 << 20);
    disk_make_directory(s->disk, "/d");
}

/* ---- power failures ---- */

enum seen {
    SEEN_KEPT = 1, /* unsynced pages */
    SEEN_LOST = 2,
    SEEN_TORN = 4,
    SEEN_NAME_KEPT = 8, /* unsynced names */
    SEEN_NAME_LOST = 16,
    SEEN_NAME_BETWEEN = 32, /* some operations in force, and later ones not */
    SEEN_SIZE_LESS = 64,
    SEEN_ALL = 127,
};

#define PAGES 4

static struct file *open_file(struct stage *s, const char *path, unsigned flags)
{
    struct errmsg why = {""};
    struct file *f = NULL;

    return file_open(s->env, path, flags, &f, &why) == ERR_NONE ? f : NULL;
}

static void write_all(struct stage *s, struct file *f, uint8_t byte)
{
    uint8_t bytes[PAGES * 4096];
    struct errmsg why = {""};

    (void)s;
    memset(bytes, byte, sizeof bytes);
    CHECK(file_write(f, 0, bytes, sizeof bytes, &why) == ERR_NONE);
}

static void play_before(struct stage *s)
{
    struct errmsg why = {""};
    struct file *synced = open_file(s, "/d/synced", FILE_CREATE);
    struct file *over = open_file(s, "/d/over", FILE_CREATE);
    struct file *fresh = open_file(s, "/d/fresh", FILE_CREATE);

    write_all(s, synced, 'a');
    write_all(s, over, 'a');
    CHECK(file_sync(synced, &why) == ERR_NONE);
    CHECK(file_sync(over, &why) == ERR_NONE);
    CHECK(dir_sync(s->env, "/d", &why) == ERR_NONE);
    write_all(s, over, 'b');
    write_all(s, fresh, 'b');
    for (char name[] = "/d/1"; name[3] < '4'; name[3]++)
        file_unref(open_file(s, name, FILE_CREATE));
    CHECK(disk_rename(s->env, "/d/1", "/d/first", &why) == ERR_NONE);
}

/* Each page is one or the other, or torn between sectors. */
static void look_at_pages(struct stage *s, struct file *f, uint8_t before, uint8_t after)
{
    uint8_t page[4096];

    for (int p = 0; p < PAGES; p++) {
        size_t n = 0, fresh = 0;

        CHECK(file_read(f, (uint64_t)p * 4096, page, sizeof page, &n) == ERR_NONE);
        for (size_t i = 0; i < n; i++) {
            CHECK(page[i] == before || page[i] == after);
            CHECK(page[i] == page[i / 512 * 512]);
            fresh += page[i] == after;
        }
        s->result->seen |= fresh == 0 ? SEEN_LOST : fresh == n ? SEEN_KEPT : SEEN_TORN;
    }
}

static bool exists(struct stage *s, const char *path)
{
    struct file *f = open_file(s, path, 0);

    if (f != NULL)
        file_unref(f);
    return f != NULL;
}

static void play_after(struct stage *s)
{
    struct file *synced = open_file(s, "/d/synced", 0), *over = open_file(s, "/d/over", 0);
    struct file *fresh = open_file(s, "/d/fresh", 0);
    bool one = exists(s, "/d/1"), two = exists(s, "/d/2"), three = exists(s, "/d/3");
    bool first = exists(s, "/d/first");
    uint8_t bytes[PAGES * 4096];
    size_t n = 0;

    CHECK(synced != NULL && over != NULL && file_size(synced) == sizeof bytes);
    CHECK(file_read(synced, 0, bytes, sizeof bytes, &n) == ERR_NONE && n == sizeof bytes);
    for (size_t i = 0; i < n; i++)
        CHECK(bytes[i] == 'a');
    look_at_pages(s, over, 'a', 'b');
    if (fresh != NULL) { /* its name was synced; its bytes and size were not */
        s->result->seen |= file_size(fresh) < sizeof bytes ? SEEN_SIZE_LESS : 0;
        look_at_pages(s, fresh, 0, 'b');
    }
    /* In order: 1, 2, 3 are made, then 1 is renamed. */
    CHECK(!(three && !two) && !(two && !one && !first) && !(first && !three) && !(one && first));
    s->result->seen |= first ? SEEN_NAME_KEPT : one ? SEEN_NAME_BETWEEN : SEEN_NAME_LOST;
}

static void fail_power(uint64_t seed, const void *arg, struct result *r)
{
    struct stage s = {.result = r};

    (void)arg;
    set_stage(&s, &(struct sim_options){.seed = seed});
    enter(&s, "before", play_before);
    process_kill(s.process, true);
    disk_on_crash(s.disk);
    disk_on_power_failure(s.disk);
    enter(&s, "after", play_after);
}

static bool check_power_failures(void)
{
    struct child c = {.run = fail_power};
    unsigned seen = 0;

    for (uint64_t seed = 1; seed <= SEEDS_DISK; seed++) {
        struct result r = {0};

        if (!run_forked(&c, seed, &r)) {
            printf("power failure, seed %" PRIu64 ": something synced is lost or out of order\n",
                   seed);
            return false;
        }
        seen |= r.seen;
    }
    printf("power failures: %d seeds, outcomes seen: %x of %x\n", SEEDS_DISK, seen,
           (unsigned)SEEN_ALL);
    return seen == SEEN_ALL;
}

/* ---- connections that a node makes ---- */

#define CALL_PORT  700
#define CALL_BYTES 5

/* A loop that listens and sends back what it reads, on machine 2. */
static void on_echo_event(struct stream *s, unsigned events)
{
    uint8_t bytes[64];
    size_t n = 0;
    struct ioqueue q;

    if ((events & STREAM_HANGUP) || stream_read(s, bytes, sizeof bytes, &n) == ERR_CLOSED ||
        n == 0) {
        stream_close(s);
        return;
    }
    ioqueue_init(&q);
    ioqueue_push_copy(&q, bytes, n);
    while (stream_send(s, &q) == ERR_AGAIN) /* small, and the window is not */
        ;
    ioqueue_deinit(&q);
}

static void on_call(void *ctx, struct stream *s)
{
    stream_attach(s, ctx, on_echo_event, NULL);
    stream_want(s, STREAM_READABLE);
}

static void begin_echo(struct loop *loop, void *ctx)
{
    struct errmsg why = {""};
    struct listener *l;
    struct listen_options o = {
        .host = "", .port = CALL_PORT, .backlog = 4, .on_accept = on_call, .ctx = loop};

    (void)ctx;
    CHECK(env_listen(loop, &o, &l, &why) == ERR_NONE);
}

/* A loop that calls: how each attempt ends, in order of their ends. */
struct caller {
    struct stage *stage;
    struct connecting to_echo, to_nobody, to_cut, to_unknown, cancelled;
    struct stream *stream;
    int refused, timed_out, closed;
    size_t came_back;
};

static void on_answer(struct stream *s, unsigned events)
{
    struct caller *c = s->ctx;
    uint8_t bytes[64];
    size_t n = 0;

    CHECK(!(events & STREAM_HANGUP));
    if (stream_read(s, bytes, sizeof bytes, &n) == ERR_NONE)
        c->came_back += n;
}

static void on_connected(struct connecting *to, enum err e, struct stream *s)
{
    struct caller *c = CONTAINER_OF(to, struct caller, to_echo);
    struct ioqueue q;

    CHECK(e == ERR_NONE);
    c->stream = s;
    stream_attach(s, to->loop, on_answer, c);
    stream_want(s, STREAM_READABLE);
    ioqueue_init(&q);
    ioqueue_push_copy(&q, "hello", CALL_BYTES);
    while (stream_send(s, &q) == ERR_AGAIN)
        ;
    ioqueue_deinit(&q);
}

static void on_refused(struct connecting *to, enum err e, struct stream *s)
{
    CHECK(e == ERR_REFUSED && s == NULL);
    CONTAINER_OF(to, struct caller, to_nobody)->refused++;
}

static void on_timed_out(struct connecting *to, enum err e, struct stream *s)
{
    CHECK(e == ERR_TIMED_OUT && s == NULL);
    CONTAINER_OF(to, struct caller, to_cut)->timed_out++;
}

static void on_unknown(struct connecting *to, enum err e, struct stream *s)
{
    CHECK(e == ERR_CLOSED && s == NULL);
    CONTAINER_OF(to, struct caller, to_unknown)->closed++;
}

static void on_cancelled(struct connecting *to, enum err e, struct stream *s)
{
    (void)to;
    (void)e;
    (void)s;
    CHECK(false);
}

static void begin_calling(struct loop *loop, void *ctx)
{
    struct caller *c = ctx;
    uint64_t deadline = env_now_ns(loop->env) + SIM_S(2);

    c->to_echo = (struct connecting){"m2", CALL_PORT, deadline, on_connected, NULL, NULL};
    c->to_nobody = (struct connecting){"m2", 1, deadline, on_refused, NULL, NULL};
    c->to_cut = (struct connecting){"10.0.0.3", 1, deadline, on_timed_out, NULL, NULL};
    c->to_unknown = (struct connecting){"elsewhere", 1, deadline, on_unknown, NULL, NULL};
    c->cancelled = (struct connecting){"m2", CALL_PORT, deadline, on_cancelled, NULL, NULL};
    loop_connect(loop, &c->to_echo);
    loop_connect(loop, &c->to_nobody);
    loop_connect(loop, &c->to_cut);
    loop_connect(loop, &c->to_unknown);
    loop_connect(loop, &c->cancelled);
    loop_connect_cancel(&c->cancelled);
}

static void play_calls(struct stage *s)
{
    struct process *other = process_new(s->sim, 2, "echo");
    struct env *env = env_sim_new(&(struct env_sim_options){.process = other,
                                                            .net = sim_net(s->sim),
                                                            .disk = s->disk,
                                                            .pool_threads = 1,
                                                            .skew_ms = &s->skew_ms});
    struct caller *c = xcalloc(1, sizeof *c);
    struct errmsg why = {""};
    struct loop *loop;

    net_cut(sim_net(s->sim), 1, 3, true);
    CHECK(env_loop_new(env, "echo", begin_echo, NULL, &loop, &why) == ERR_NONE);
    CHECK(env_loop_new(s->env, "caller", begin_calling, c, &loop, &why) == ERR_NONE);
    fiber_sleep(s->sim, SIM_S(3));
    CHECK(c->refused == 1 && c->timed_out == 1 && c->closed == 1);
    CHECK(c->came_back == CALL_BYTES);
    s->result->seen = 1;
}

static void call(uint64_t seed, const void *arg, struct result *r)
{
    struct stage s = {.result = r};

    (void)arg;
    set_stage(&s, &(struct sim_options){.seed = seed});
    enter(&s, "calls", play_calls);
}

static bool check_calls(void)
{
    struct child c = {.run = call};

    for (uint64_t seed = 1; seed <= SEEDS_CALLS; seed++) {
        struct result r = {0};

        if (!run_forked(&c, seed, &r) || r.seen != 1) {
            printf("connections made by a loop, seed %" PRIu64 ": failed\n", seed);
            return false;
        }
    }
    printf("connections made by a loop: %d seeds\n", SEEDS_CALLS);
    return true;
}

/* ---- breaches of the rules ---- */

struct breach {
    const char *what, *invariant;
    void (*play)(struct stage *s);
};

static void lock_twice(struct stage *s) NO_LOCK_CHECK
{
    struct mutex m;

    mutex_init(&m, s->env);
    mutex_lock(&m);
    mutex_lock(&m);
}

static void unlock_anothers(struct stage *s) NO_LOCK_CHECK
{
    struct mutex m;

    mutex_init(&m, s->env);
    mutex_unlock(&m);
}

static void destroy_held(struct stage *s) NO_LOCK_CHECK
{
    struct mutex m;

    mutex_init(&m, s->env);
    mutex_lock(&m);
    mutex_deinit(&m);
}

struct leaving {
    struct job job;
    struct mutex mutex;
};

static void leave_locked(struct job *j) NO_LOCK_CHECK
{
    mutex_lock(&CONTAINER_OF(j, struct leaving, job)->mutex);
}

static void hold_over_job(struct stage *s)
{
    struct leaving *l = xcalloc(1, sizeof *l);

    mutex_init(&l->mutex, s->env);
    l->job.work = leave_locked;
    env_pool_submit(s->env, JOB_SHORT, &l->job);
    fiber_sleep(s->sim, SIM_S(1));
}

static void sync_on_worker(struct loop *loop, void *ctx)
{
    struct stage *s = ctx;
    struct errmsg why = {""};

    (void)loop;
    CHECK(dir_sync(s->env, "/d", &why) != ERR_NONE);
}

static void wait_on_worker(struct stage *s)
{
    struct errmsg why = {""};
    struct loop *loop;

    CHECK(env_loop_new(s->env, "fluxmq-worker0", sync_on_worker, s, &loop, &why) == ERR_NONE);
}

static void on_nothing(struct loop_timer *t)
{
    (void)t;
}

static void touch_timer(struct stage *s)
{
    struct errmsg why = {""};
    struct loop_timer t;
    struct loop *loop;

    CHECK(env_loop_new(s->env, "loop", NULL, NULL, &loop, &why) == ERR_NONE);
    loop_timer_init(&t, loop, on_nothing);
    loop_timer_set(&t, 0);
}

static void on_accept(void *ctx, struct stream *s)
{
    (void)ctx;
    stream_close(s);
}

static void begin_listening(struct loop *loop, void *ctx)
{
    struct errmsg why = {""};
    struct listener *l;
    struct listen_options o = {.host = "", .port = 1, .backlog = 1, .on_accept = on_accept};

    (void)ctx;
    CHECK(env_listen(loop, &o, &l, &why) == ERR_NONE);
}

static void stop_listening_loop(struct stage *s)
{
    struct errmsg why = {""};
    struct loop *loop;

    CHECK(env_loop_new(s->env, "loop", begin_listening, NULL, &loop, &why) == ERR_NONE);
    env_loop_stop(loop);
}

static void write_over_published(struct stage *s)
{
    uint8_t bytes[128 << 10] = {0};
    struct errmsg why = {""};
    struct file *f = open_file(s, "/d/f", FILE_CREATE);
    struct iobuf *view;

    CHECK(file_ready(f, sizeof bytes, &why) == ERR_NONE);
    memset(bytes, 'a', 4096);
    CHECK(file_write(f, 0, bytes, 4096, &why) == ERR_NONE);
    CHECK(file_view(f, 0, 100, &view) == ERR_NONE && view->ptr != NULL);
    CHECK(file_write(f, 50, "b", 1, &why) == ERR_NONE);
    file_unref(f);
    iobuf_unref(view);
}

static const struct breach breaches[] = {
    {"a lock is taken twice", "V2", lock_twice},
    {"a lock is released by who does not hold it", "V2", unlock_anothers},
    {"a lock is destroyed while it is held", "V2", destroy_held},
    {"a lock is held at the end of a job", "V2", hold_over_job},
    {"a worker waits for the disk", "V3", wait_on_worker},
    {"a timer is set from another thread", "V4", touch_timer},
    {"a loop is stopped with a listener open", "V5", stop_listening_loop},
    {"published bytes are changed", "H48n", write_over_published},
};

/* A violation does not return: its fiber sleeps, and the run ends. */
static void on_violation(struct sim *s, void *ctx, const char *invariant, const char *text)
{
    struct result *r = ctx;

    (void)text;
    (void)snprintf(r->invariant, sizeof r->invariant, "%s", invariant);
    sim_stop(s);
    for (;;)
        fiber_sleep(s, SIM_S(1000));
}

static void commit_breach(uint64_t seed, const void *arg, struct result *r)
{
    const struct breach *b = arg;
    struct stage s = {.result = r};

    set_stage(&s, &(struct sim_options){.seed = seed, .on_violation = on_violation, .ctx = r});
    enter(&s, "breach", b->play);
}

static bool check_breaches(void)
{
    bool all = true;

    for (size_t i = 0; i < ARRAY_COUNT(breaches); i++) {
        struct child c = {.run = commit_breach, .arg = &breaches[i]};
        struct result r = {0};
        bool found = run_forked(&c, 1, &r) && strcmp(r.invariant, breaches[i].invariant) == 0;

        printf("%s: %s\n", breaches[i].what, found ? breaches[i].invariant : "NOT FOUND");
        all = all && found;
    }
    return all;
}

/* ---- */

static int run_many(uint64_t count)
{
    struct child c = {.run = run_story};
    uint64_t failed = 0, events = 0, hash = 0;

    for (uint64_t seed = 1; seed <= count; seed++) {
        struct result r = {0};

        if (!run_forked(&c, seed, &r)) {
            printf("seed %" PRIu64 " failed\n", seed);
            failed++;
        }
        events += r.events;
        hash = hash * 31 + r.hash;
    }
    printf("%" PRIu64 " seeds, %" PRIu64 " failed, %" PRIu64 " events, %016" PRIx64 "\n", count,
           failed, events, hash);
    return failed > 0;
}

int main(int argc, char **argv)
{
    struct result r;

    (void)signal(SIGPIPE, SIG_IGN);
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2)
        return check_same_trace() && check_power_failures() && check_calls() && check_breaches()
                   ? 0
                   : 1;
    if (strcmp(argv[1], "--seeds") == 0 && argc == 3)
        return run_many(strtoull(argv[2], NULL, 10));
    tell_story(strtoull(argv[1], NULL, 10), argc > 2 && strcmp(argv[2], "--trace") == 0, true, &r);
    printf("seed %s: %016" PRIx64 ", %" PRIu64 " events, %d answers\n", argv[1], r.hash, r.events,
           r.answers);
    return 0;
}
