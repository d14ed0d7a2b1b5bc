#include "tests/sim/faults.h"

#include <stdlib.h>
#include <string.h>

#include "tests/sim/net.h"

#define READY_WITHIN_NS   SIM_S(60)
#define STOPPED_WITHIN_NS SIM_S(60)
#define POLL_NS           SIM_MS(5)

/* The clients' machines have these numbers; the nemesis reaches each of them. */
#define CLIENT_MACHINE_FIRST 100

struct faults {
    struct run *run;
    uint64_t until;
    int fibers;    /* that still run */
    int in_force;  /* for run_was_quiet() */
    bool disk_bad; /* an error of the disk is being injected */
    bool eio;      /* there was one in this life: some logs may be offline until the next */
    bool changing; /* the node is being stopped or started */
};

static const char *const fault_names[] = {
#define FAULT_TEXT_(name, text) text,
    FAULTS(FAULT_TEXT_)
#undef FAULT_TEXT_
};

const char *fault_name(enum fault_kind f)
{
    return fault_names[f];
}

struct faults *faults_new(struct run *r)
{
    struct faults *f = xcalloc(1, sizeof *f);

    f->run = r;
    return f;
}

static struct sim *sim_of(const struct faults *f)
{
    return f->run->sim;
}

static uint64_t below(const struct faults *f, uint64_t n)
{
    return sim_below(sim_of(f), DICE_FAULTS, n);
}

static bool chance(const struct faults *f, double p)
{
    return sim_chance(sim_of(f), DICE_FAULTS, p);
}

/* A fault that lasts for the rest of the run would hide all others. */
static void wait_about(const struct faults *f, uint64_t typical)
{
    fiber_sleep(sim_of(f), MIN(sim_delay_ns(sim_of(f), DICE_FAULTS, typical), typical * 4));
}

static void disturb(struct faults *f, bool begins)
{
    f->in_force += begins ? 1 : -1;
    f->run->disturbed_ns = f->in_force > 0 ? UINT64_MAX : sim_now(sim_of(f));
}

static void began(const struct faults *f, enum fault_kind kind)
{
    char what[80];

    snprintf(what, sizeof what, "fault: %s", fault_name(kind));
    sim_trace(sim_of(f), "%s", what);
    sim_count(sim_of(f), what);
}

/* ---- the node's life ---- */

static void ended_by_itself(struct faults *f)
{
    struct machine *m = f->run->machine;

    /* P10: only an error in the quorum's own directory stops the process. */
    sim_checked(sim_of(f), "P10");
    if (!f->eio)
        sim_violation(sim_of(f), "P10", "the node ended by itself with %d: %s",
                      machine_exit_code(m), machine_exit_reason(m));
    sim_count(sim_of(f), "node ended by an error of its disk");
    oracle_killed(f->run->oracle);
}

bool faults_start_node(struct faults *f)
{
    struct machine *m = f->run->machine;
    uint64_t deadline = sim_now(sim_of(f)) + READY_WITHIN_NS;

    f->eio = f->disk_bad;
    machine_start(m);
    while (!machine_is_ready(m)) {
        if (machine_exit_code(m) >= 0) {
            ended_by_itself(f);
            return false;
        }
        if (sim_now(sim_of(f)) >= deadline && !f->disk_bad && f->in_force <= 1)
            sim_violation(sim_of(f), "H48o", "the node is not ready after %llu s",
                          (unsigned long long)(READY_WITHIN_NS / SIM_S(1)));
        fiber_sleep(sim_of(f), POLL_NS);
    }
    sim_count(sim_of(f), "node started");
    oracle_started(f->run->oracle);
    return true;
}

void faults_stop_node(struct faults *f)
{
    struct machine *m = f->run->machine;
    uint64_t deadline = sim_now(sim_of(f)) + STOPPED_WITHIN_NS;

    machine_stop(m);
    while (machine_node(m) != NULL) {
        if (machine_exit_code(m) > 0) {
            ended_by_itself(f);
            return;
        }
        if (sim_now(sim_of(f)) >= deadline)
            sim_violation(sim_of(f), "H48o", "a clean stop is not done after %llu s",
                          (unsigned long long)(STOPPED_WITHIN_NS / SIM_S(1)));
        fiber_sleep(sim_of(f), POLL_NS);
    }
    oracle_stopped(f->run->oracle);
}

static void crash(struct faults *f, enum crash_kind kind)
{
    machine_crash(f->run->machine, kind);
    if (kind == CRASH_POWER)
        oracle_power_failed(f->run->oracle);
    else
        oracle_killed(f->run->oracle);
}

/* Until it is ready; a disk that still fails is mended after some attempts. */
static void start_again(struct faults *f)
{
    static const struct disk_fault_options none = {.kind = DISK_FAULT_NONE};

    for (int attempt = 0; !faults_start_node(f); attempt++) {
        if (attempt > 2) {
            machine_set_disk_fault(f->run->machine, &none);
            f->disk_bad = false;
        }
        wait_about(f, SIM_MS(200));
    }
}

static bool node_is_up(struct faults *f)
{
    return machine_node(f->run->machine) != NULL && machine_is_ready(f->run->machine);
}

static void flip_bits(struct faults *f)
{
    static const char *const patterns[] = {".log", ".log", ".index", ".timeindex", ".snapshot"};
    char what[256];

    for (int i = 0; i < 1 + (int)below(f, 3); i++) {
        if (!machine_flip_bit(f->run->machine, patterns[below(f, ARRAY_COUNT(patterns))], what))
            continue;
        if (oracle_damaged(f->run->oracle, what))
            began(f, FAULT_BIT_FLIP);
    }
}

static void down_and_up(struct faults *f, enum fault_kind kind)
{
    f->changing = true;
    began(f, kind);
    if (kind == FAULT_STOP)
        faults_stop_node(f);
    else
        crash(f, kind == FAULT_KILL || kind == FAULT_BIT_FLIP ? CRASH_PROCESS : CRASH_POWER);
    wait_about(f, chance(f, 0.5) ? SIM_MS(20) : SIM_S(1));
    if (kind == FAULT_BIT_FLIP)
        flip_bits(f);
    if (kind == FAULT_POWER_AGAIN) {
        machine_start(f->run->machine);
        wait_about(f, SIM_MS(chance(f, 0.5) ? 3 : 40));
        if (machine_exit_code(f->run->machine) < 0)
            crash(f, chance(f, 0.3) ? CRASH_PROCESS : CRASH_POWER);
        wait_about(f, SIM_MS(50));
    }
    start_again(f);
    f->changing = false;
}

/* ---- the disk ---- */

static const char *pick_pattern(struct faults *f)
{
    static const char *const patterns[] = {
        ".log", ".log", ".index", ".timeindex", ".snapshot", "-0/", "-1/", "t0-", "checkpoint",
    };

    if (chance(f, 0.04))
        return "raft";
    return patterns[below(f, ARRAY_COUNT(patterns))];
}

static enum fault_kind next_stop(struct faults *f)
{
    return chance(f, 0.5) ? FAULT_KILL : chance(f, 0.5) ? FAULT_STOP : FAULT_POWER;
}

static void disk_fault(struct faults *f, enum fault_kind kind)
{
    struct disk_fault_options o = {.pattern = NULL};
    static const struct disk_fault_options none = {.kind = DISK_FAULT_NONE};

    switch (kind) {
    case FAULT_DISK_FULL:
        o.kind = DISK_FAULT_FULL;
        break;
    case FAULT_DISK_SLOW:
        o.kind = DISK_FAULT_SLOW;
        o.ns = SIM_MS(1 + below(f, 200));
        break;
    case FAULT_DISK_STALL:
        o.kind = DISK_FAULT_STALL;
        break;
    default:
        o.kind = kind == FAULT_WRITE_EIO  ? DISK_FAULT_WRITE_EIO
                 : kind == FAULT_READ_EIO ? DISK_FAULT_READ_EIO
                                          : DISK_FAULT_SYNC_EIO;
        o.pattern = pick_pattern(f);
        o.count = chance(f, 0.5) ? 1 + (int)below(f, 3) : 0;
        f->eio = f->disk_bad = true;
        break;
    }
    began(f, kind);
    oracle_disk_failing(f->run->oracle);
    if (kind == FAULT_SYNC_EIO)
        oracle_sync_failing(f->run->oracle);
    machine_set_disk_fault(f->run->machine, &o);
    wait_about(f, SIM_S(1));
    machine_set_disk_fault(f->run->machine, &none);
    f->disk_bad = false;
    if (!f->eio)
        return;
    /* What went offline stays so until a restart. */
    wait_about(f, SIM_S(1));
    down_and_up(f, next_stop(f));
}

/* ---- what surrounds it ---- */

static void cut_links(struct faults *f, uint64_t typical)
{
    struct net *n = sim_net(sim_of(f));
    int node = machine_number(f->run->machine);
    int clients = f->run->next_client - CLIENT_MACHINE_FIRST;
    bool both = chance(f, 0.6), inward = chance(f, 0.5);

    for (int i = 0; i < clients; i++) {
        if (chance(f, 0.4))
            continue;
        if (both || inward)
            net_cut(n, CLIENT_MACHINE_FIRST + i, node, true);
        if (both || !inward)
            net_cut(n, node, CLIENT_MACHINE_FIRST + i, true);
    }
    wait_about(f, typical);
    net_heal(n);
}

static void slow_links(struct faults *f)
{
    struct net *n = sim_net(sim_of(f));
    int node = machine_number(f->run->machine);
    int clients = f->run->next_client - CLIENT_MACHINE_FIRST;

    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < clients; i++) {
            uint64_t extra = pass == 0 ? SIM_MS(1 + below(f, 300)) : 0;

            net_slow(n, CLIENT_MACHINE_FIRST + i, node, extra);
            net_slow(n, node, CLIENT_MACHINE_FIRST + i, extra);
        }
        if (pass == 0)
            wait_about(f, SIM_S(2));
    }
}

static void reset_storm(struct faults *f)
{
    int rounds = 1 + (int)below(f, 10);

    for (int i = 0; i < rounds; i++) {
        net_reset(sim_net(sim_of(f)), machine_number(f->run->machine), -1);
        wait_about(f, SIM_MS(60));
    }
}

static void pause_node(struct faults *f)
{
    struct process *p = machine_process(f->run->machine);

    if (!node_is_up(f))
        return;
    process_pause(p, true);
    wait_about(f, chance(f, 0.5) ? SIM_MS(100) : SIM_S(3));
    if (machine_process(f->run->machine) == p && process_alive(p))
        process_pause(p, false);
}

static void move_clock(struct faults *f, enum fault_kind kind)
{
    int64_t range = kind == FAULT_CLOCK_SKEW ? 5000 : 9 * 3600 * INT64_C(1000);

    machine_set_wall_skew_ms(f->run->machine, sim_between(sim_of(f), DICE_FAULTS, -range, range));
    wait_about(f, SIM_S(2));
    if (chance(f, 0.5))
        machine_set_wall_skew_ms(f->run->machine, 0);
}

static void world_fault(struct faults *f, enum fault_kind kind)
{
    struct net *n = sim_net(sim_of(f));

    began(f, kind);
    switch (kind) {
    case FAULT_PAUSE:
        pause_node(f);
        break;
    case FAULT_CLOCK_SKEW:
    case FAULT_CLOCK_JUMP:
        move_clock(f, kind);
        break;
    case FAULT_CUT_SHORT:
        cut_links(f, SIM_MS(200));
        break;
    case FAULT_CUT_LONG:
        cut_links(f, SIM_S(8));
        break;
    case FAULT_RESETS:
        reset_storm(f);
        break;
    case FAULT_REFUSALS:
        net_refuse(n, machine_number(f->run->machine), true);
        wait_about(f, SIM_MS(500));
        net_refuse(n, machine_number(f->run->machine), false);
        break;
    default:
        slow_links(f);
        break;
    }
}

/* ---- the two fibers ---- */

static bool is_of_the_world(enum fault_kind kind)
{
    switch (kind) {
    case FAULT_PAUSE:
    case FAULT_CLOCK_SKEW:
    case FAULT_CLOCK_JUMP:
    case FAULT_CUT_SHORT:
    case FAULT_CUT_LONG:
    case FAULT_RESETS:
    case FAULT_REFUSALS:
    case FAULT_LINK_SLOW:
        return true;
    default:
        return false;
    }
}

/* FAULT_COUNT: the plan has none of these. */
static enum fault_kind pick(struct faults *f, bool of_the_world)
{
    enum fault_kind kinds[FAULT_COUNT];
    size_t count = 0;

    for (int i = 0; i < FAULT_COUNT; i++)
        if ((f->run->plan.faults & (1u << i)) != 0 &&
            is_of_the_world((enum fault_kind)i) == of_the_world)
            kinds[count++] = (enum fault_kind)i;
    return count == 0 ? FAULT_COUNT : kinds[below(f, count)];
}

static void machine_fault(struct faults *f, enum fault_kind kind)
{
    switch (kind) {
    case FAULT_KILL:
    case FAULT_STOP:
    case FAULT_POWER:
    case FAULT_POWER_AGAIN:
    case FAULT_BIT_FLIP:
        down_and_up(f, kind);
        break;
    default:
        disk_fault(f, kind);
        break;
    }
}

/* Sleeps, but looks after the node meanwhile: who died by himself is started again. */
static void pass_time(struct faults *f, bool of_the_world)
{
    uint64_t until =
        sim_now(sim_of(f)) + sim_delay_ns(sim_of(f), DICE_FAULTS, f->run->plan.fault_gap_ns);

    while (sim_now(sim_of(f)) < MIN(until, f->until)) {
        fiber_sleep(sim_of(f), SIM_MS(50));
        if (of_the_world || f->changing || machine_exit_code(f->run->machine) < 0)
            continue;
        f->changing = true;
        disturb(f, true);
        ended_by_itself(f);
        start_again(f);
        disturb(f, false);
        f->changing = false;
    }
}

static void run_fiber(struct faults *f, bool of_the_world)
{
    while (sim_now(sim_of(f)) < f->until) {
        enum fault_kind kind = pick(f, of_the_world);

        pass_time(f, of_the_world);
        if (kind == FAULT_COUNT || sim_now(sim_of(f)) >= f->until)
            continue;
        disturb(f, true);
        if (of_the_world)
            world_fault(f, kind);
        else if (machine_exit_code(f->run->machine) < 0)
            machine_fault(f, kind);
        disturb(f, false);
    }
    f->fibers--;
}

static void run_machine_faults(void *arg)
{
    run_fiber(arg, false);
}

static void run_world_faults(void *arg)
{
    run_fiber(arg, true);
}

void faults_begin(struct faults *f, uint64_t until)
{
    f->until = until;
    f->fibers = 2;
    (void)fiber_spawn(f->run->driver, "faults of the machine", run_machine_faults, f);
    (void)fiber_spawn(f->run->driver, "faults of the world", run_world_faults, f);
}

bool faults_are_over(const struct faults *f)
{
    return f->fibers == 0;
}

void faults_heal(struct faults *f)
{
    static const struct disk_fault_options none = {.kind = DISK_FAULT_NONE};
    struct machine *m = f->run->machine;
    bool eio = f->eio;

    disturb(f, true);
    net_heal(sim_net(sim_of(f)));
    machine_set_disk_fault(m, &none);
    f->disk_bad = false;
    machine_set_wall_skew_ms(m, 0);
    if (machine_exit_code(m) >= 0) {
        ended_by_itself(f);
        start_again(f);
    } else if (eio || chance(f, 0.5)) {
        down_and_up(f, next_stop(f));
    }
    disturb(f, false);
}
