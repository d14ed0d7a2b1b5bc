#include "tests/sim/run.h"

#include <stdlib.h>
#include <string.h>

#include "tests/sim/client.h"
#include "tests/sim/faults.h"

#define CLIENT_MACHINE_FIRST 100
#define DRIVER_MACHINE       99
/* After healing everybody must be done, and everything read, within this virtual time. */
#define CONVERGE_NS      SIM_S(90)
#define DISK_BYTES       (INT64_C(2) << 30)
#define OPERATIONS_LEAST 300
/* Nothing is said about how long something takes right after a fault. */
#define CALM_NS SIM_S(2)

static const char *const workload_names[] = {
#define WORKLOAD_TEXT_(name, text) text,
    WORKLOADS(WORKLOAD_TEXT_)
#undef WORKLOAD_TEXT_
};

const char *workload_name(enum workload w)
{
    return workload_names[w];
}

/* ---- the plan ---- */

/* The plan's own generator (splitmix64), so that it can be drawn without a simulator. */
static uint64_t draw(uint64_t *x)
{
    uint64_t z = *x += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t draw_below(uint64_t *x, uint64_t n)
{
    return draw(x) % n;
}

static bool draw_chance(uint64_t *x, int percent)
{
    return draw_below(x, 100) < (uint64_t)percent;
}

static int64_t draw_of(uint64_t *x, const int64_t *of, size_t n)
{
    return of[draw_below(x, n)];
}

static void draw_kinds(struct plan *p, uint64_t *x)
{
    for (int i = 0; i < WORKLOAD_COUNT; i++)
        if (draw_chance(x, 55))
            p->workloads |= 1u << i;
    if ((p->workloads & (1u << WORKLOAD_PLAIN)) == 0 || draw_chance(x, 50))
        p->workloads |= 1u << WORKLOAD_IDEMPOTENT;
    p->workloads |= 1u << WORKLOAD_CONSUMER;
    if (__builtin_popcount(p->workloads) < 3)
        p->workloads |= 1u << WORKLOAD_POLLER;
    for (int i = 0; i < FAULT_COUNT; i++)
        if (draw_chance(x, 30))
            p->faults |= 1u << i;
    /* Something must go down, or little happens. */
    if ((p->faults & (1u << FAULT_KILL | 1u << FAULT_STOP | 1u << FAULT_POWER)) == 0)
        p->faults |= 1u << draw_below(x, FAULT_POWER + 1);
}

static void draw_clients(struct plan *p, uint64_t *x)
{
    for (int i = 0; i < WORKLOAD_COUNT; i++)
        if ((p->workloads & (1u << i)) != 0)
            p->clients[i] = 1;
    p->clients[WORKLOAD_IDEMPOTENT] *= 1 + (int)draw_below(x, 3);
    p->clients[WORKLOAD_PLAIN] *= 1 + (int)draw_below(x, 2);
    p->clients[WORKLOAD_CONSUMER] *= 1 + (int)draw_below(x, 3);
}

void plan_draw(struct plan *p, uint64_t seed)
{
    static const int64_t index_bytes[] = {8, 16, 24, 64, 400, 1 << 20};
    static const int64_t intervals[] = {0, 1, 100, 4096};
    static const int64_t segment_ms[] = {200, 1000, 5000, 60000, 86400000};
    static const int64_t checkpoints[] = {100, 1000, 5000, 60000};
    static const int64_t checks[] = {100, 1000, 10000, 300000};
    static const int64_t delays[] = {0, 10, 1000, 60000};
    uint64_t x = seed * UINT64_C(0x2545f4914f6cdd1d) + 1;

    *p = (struct plan){.seed = seed};
    draw_kinds(p, &x);
    draw_clients(p, &x);
    p->topics = 1 + (int)draw_below(&x, 3);
    p->partitions = 1 + (int)draw_below(&x, 3);
    p->workers = 1 + (int)draw_below(&x, 4);
    p->value_bytes = draw_chance(&x, 20) ? 3000 : 20 + (int)draw_below(&x, 300);
    p->faults_ns = SIM_S(30) + SIM_MS(draw_below(&x, 5000));
    p->fault_gap_ns = SIM_MS(500 + draw_below(&x, 2500));
    p->think_ns = SIM_MS(40 + draw_below(&x, 160));
    p->segment_index_bytes = draw_of(&x, index_bytes, ARRAY_COUNT(index_bytes));
    p->index_interval_bytes = draw_of(&x, intervals, ARRAY_COUNT(intervals));
    p->segment_ms = draw_of(&x, segment_ms, ARRAY_COUNT(segment_ms));
    p->checkpoint_ms = draw_of(&x, checkpoints, ARRAY_COUNT(checkpoints));
    p->retention_check_ms = draw_of(&x, checks, ARRAY_COUNT(checks));
    p->delete_delay_ms = draw_of(&x, delays, ARRAY_COUNT(delays));
    p->flush_share = draw_chance(&x, 25) ? 1.0 : draw_chance(&x, 25) ? 0 : 0.4;
}

/* ---- the machine ---- */

#define OVERRIDES_MAX 8

struct overrides {
    char text[OVERRIDES_MAX][96];
    const char *v[OVERRIDES_MAX];
    int count;
};

static void override(struct overrides *o, const char *key, int64_t value)
{
    snprintf(o->text[o->count], sizeof o->text[0], "%s=%lld", key, (long long)value);
    o->v[o->count] = o->text[o->count];
    o->count++;
}

static void make_machine(struct run *r)
{
    struct overrides *o = xcalloc(1, sizeof *o); /* as long as the machine */
    const struct plan *p = &r->plan;

    override(o, "log.flush.offset.checkpoint.interval.ms", p->checkpoint_ms);
    override(o, "log.flush.start.offset.checkpoint.interval.ms", p->checkpoint_ms);
    override(o, "log.retention.check.interval.ms", p->retention_check_ms);
    r->machine = machine_new(r->sim, &(struct machine_options){
                                         .number = 1,
                                         .workers = p->workers,
                                         .disk_bytes = DISK_BYTES,
                                         .overrides = o->v,
                                         .override_count = o->count,
                                     });
}

/* ---- clients ---- */

struct client_start {
    struct run *run;
    struct client client;
    void (*work)(struct client *c);
};

static void run_client(void *arg)
{
    struct client_start *s = arg;

    s->work(&s->client);
    client_deinit(&s->client);
    s->run->clients_running--;
    s->run->clients_mask &= ~(UINT64_C(1) << (s->client.number - CLIENT_MACHINE_FIRST));
}

static enum client_age draw_age(struct run *r, enum workload w)
{
    /* Who makes topics must be new enough to learn their ids. */
    if (w == WORKLOAD_TOPICS)
        return CLIENT_NEWEST;
    return (enum client_age)sim_below(r->sim, DICE_CLIENTS, 3);
}

static void start_client(struct run *r, enum workload w, void (*work)(struct client *c))
{
    struct client_start *s = xcalloc(1, sizeof *s);
    struct process *p = process_new(r->sim, r->next_client++, workload_name(w));
    char what[80];

    s->run = r;
    s->work = work;
    client_init(&s->client, r, p, draw_age(r, w));
    r->clients_running++;
    r->clients_mask |= UINT64_C(1) << (s->client.number - CLIENT_MACHINE_FIRST);
    snprintf(what, sizeof what, "client: %s", workload_name(w));
    sim_count(r->sim, what);
    (void)fiber_spawn(p, "client", run_client, s);
}

static void start_clients(struct run *r)
{
    static void (*const works[])(struct client * c) = {
        [WORKLOAD_IDEMPOTENT] = workload_idempotent, [WORKLOAD_PLAIN] = workload_plain,
        [WORKLOAD_CONSUMER] = workload_consumer,     [WORKLOAD_LOOKUP] = workload_lookup,
        [WORKLOAD_DELETER] = workload_deleter,       [WORKLOAD_TOPICS] = workload_topics,
        [WORKLOAD_PARTITIONS] = workload_partitions, [WORKLOAD_CONFIGS] = workload_configs,
        [WORKLOAD_POLLER] = workload_poller,         [WORKLOAD_HOSTILE] = workload_hostile,
    };

    for (int w = 0; w < WORKLOAD_COUNT; w++)
        for (int i = 0; i < r->plan.clients[w]; i++)
            start_client(r, (enum workload)w, works[w]);
}

bool run_was_quiet(const struct run *r, uint64_t since_ns)
{
    return r->disturbed_ns != UINT64_MAX && since_ns > r->disturbed_ns + CALM_NS;
}

/* ---- the phases ---- */

static void make_topics(struct run *r, struct client *c)
{
    for (int i = 0; i < r->plan.topics; i++) {
        char name[ORACLE_TOPIC_NAME_SIZE];

        snprintf(name, sizeof name, "t%d", i);
        (void)workload_create_topic(c, name, 1 + i % r->plan.partitions);
    }
}

static void wait_for_clients(struct run *r)
{
    uint64_t deadline = sim_now(r->sim) + CONVERGE_NS;

    while (r->clients_running > 0) {
        if (sim_now(r->sim) >= deadline)
            sim_violation(r->sim, "H48o",
                          "%d clients, the first of them c%d, do not end, %llu s after all faults "
                          "did",
                          r->clients_running,
                          CLIENT_MACHINE_FIRST + __builtin_ctzll(r->clients_mask | 1ull << 63),
                          (unsigned long long)(CONVERGE_NS / SIM_S(1)));
        fiber_sleep(r->sim, SIM_MS(20));
    }
}

static void read_everything(struct run *r, struct client *c)
{
    struct oracle *o = r->oracle;

    oracle_final_begin(o);
    for (int t = 0; t < oracle_topic_count(o); t++) {
        if (oracle_topic_state(o, t) != TOPIC_THERE)
            continue;
        for (int32_t i = 0; i < oracle_topic_partitions(o, t); i++) {
            uint64_t patience = oracle_is_damaged(o, t, i) ? SIM_S(1) : CONVERGE_NS;

            (void)client_read_whole(c, t, i, sim_now(r->sim) + patience);
        }
    }
}

static void drive(void *arg)
{
    struct run *r = arg;
    struct client c;
    uint64_t end;

    client_init(&c, r, r->driver, CLIENT_NEWEST);
    (void)faults_start_node(r->faults);
    make_topics(r, &c);
    client_close(&c);
    start_clients(r);
    end = sim_now(r->sim) + r->plan.faults_ns;
    faults_begin(r->faults, end);
    while (!faults_are_over(r->faults))
        fiber_sleep(r->sim, SIM_MS(20));
    sim_trace(r->sim, "healing");
    faults_heal(r->faults);
    fiber_sleep(r->sim, SIM_S(3));
    /* Where most of the time was an outage the clients get some more. */
    while (r->operations < OPERATIONS_LEAST && sim_now(r->sim) < end + CONVERGE_NS)
        fiber_sleep(r->sim, SIM_MS(100));
    r->stopping = true;
    sim_trace(r->sim, "clients finish");
    wait_for_clients(r);
    sim_trace(r->sim, "last read");
    read_everything(r, &c);
    client_deinit(&c);
    faults_stop_node(r->faults);
    oracle_finish(r->oracle);
    sim_stop(r->sim);
}

void run_seed(struct run *r, const struct plan *p, const struct sim_options *o)
{
    *r = (struct run){
        .plan = *p,
        .sim = sim_new(o),
        .next_client = CLIENT_MACHINE_FIRST,
        .disturbed_ns = 0,
    };
    (void)net_new(r->sim);
    r->oracle = oracle_new(r->sim);
    make_machine(r);
    r->faults = faults_new(r);
    r->driver = process_new(r->sim, DRIVER_MACHINE, "driver");
    (void)fiber_spawn(r->driver, "driver", drive, r);
    sim_run(r->sim, SIM_S(600));
    if (!r->stopping || r->clients_running > 0)
        sim_violation(r->sim, "H48o", "the run is not over after 600 virtual seconds");
    if (r->operations < OPERATIONS_LEAST)
        sim_count(r->sim, "fewer than 300 operations");
}
