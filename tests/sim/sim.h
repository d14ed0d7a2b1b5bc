/* tests/sim/sim.h -- the world of a simulated run: virtual time, one seed, fibers, a trace.
 *
 * One thread runs everything. A *fiber* is a coroutine: a loop or a pool thread of a node's
 * process, or one client. It runs until it waits, or until a point at which it may be switched (a
 * lock, a post, an image, a disk call of its env), where the seed decides [H45]. A *process* is
 * what dies together: a node's incarnation with all its fibers, timers and connections, or a
 * client. Nothing here depends on addresses, on the machine's clock or on the CPU [H46]: the same
 * seed gives the same trace hash.
 *
 * Each run is made in a process of its own (fork), so what a crashed incarnation leaves in memory
 * goes with it, and a crash of the product is a finding and not the end of the simulator.
 */
#ifndef FLUXMQ_TESTS_SIM_SIM_H
#define FLUXMQ_TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "protocol/base/check.h"
#include "protocol/base/list.h"

struct sim;
struct process;
struct fiber;
struct net;

/* ---- a run ---- */

struct sim_options {
    uint64_t seed;
    bool print; /* --trace: each event on standard output as it happens */
    /* A promise was broken: reports it and ends the process. NULL: prints and exits with 1. */
    void (*on_violation)(struct sim *s, void *ctx, const char *invariant, const char *text);
    void *ctx;
};

struct sim *sim_new(const struct sim_options *o);
/* On the thread's own stack: runs events until the clock reaches `until`, none is left, or
 * sim_stop() was called. May be called again. */
void sim_run(struct sim *s, uint64_t until);
void sim_stop(struct sim *s);
/* Leaves holes in the heap, so that what follows lies at other addresses and in another order: for
 * a run that is compared with one of the same seed (V1). Before anything else. */
void sim_shuffle_heap(uint64_t seed);
uint64_t sim_seed(const struct sim *s);
uint64_t sim_events(const struct sim *s); /* how many have run */
/* Frees what is its own; what processes left stays. */
void sim_free(struct sim *s);

/* The run's network (net.h). */
void sim_set_net(struct sim *s, struct net *n);

/* ---- randomness: one generator for each purpose, so that a draw more in one does not shift the
 * others ---- */

enum sim_dice {
    DICE_SCHEDULE,
    DICE_NET,
    DICE_DISK,
    DICE_FAULTS,
    DICE_CLIENTS,
    DICE_NODE,
    DICE_COUNT
};

uint64_t sim_random(struct sim *s, enum sim_dice d);
uint64_t sim_below(struct sim *s, enum sim_dice d, uint64_t n); /* uniform in [0, n), n > 0 */
int64_t sim_between(struct sim *s, enum sim_dice d, int64_t least, int64_t most); /* inclusive */
bool sim_chance(struct sim *s, enum sim_dice d, double p);
/* Mostly near `typical`, now and then far above it: for delays. */
uint64_t sim_delay_ns(struct sim *s, enum sim_dice d, uint64_t typical);

/* ---- time ---- */

#define SIM_US(n) ((uint64_t)(n)*1000u)
#define SIM_MS(n) ((uint64_t)(n)*1000000u)
#define SIM_S(n)  ((uint64_t)(n)*1000000000u)

uint64_t sim_now(const struct sim *s); /* virtual ns since the start of the run */

/* Runs fn once at `when` (or now, when that has passed); NULL process: outlives them all. */
void sim_at(struct sim *s, struct process *p, uint64_t when, void (*fn)(void *arg), void *arg);

/* ---- processes and fibers ---- */

/* `machine` says where it runs (net.h); clients have machines of their own. */
struct process *process_new(struct sim *s, int machine, const char *name);
/* kill -9: its fibers, timers and connections are gone at once; peers see a reset or, when the
 * machine lost its power, silence. May be called by a fiber of the process itself (it then does
 * not return). */
void process_kill(struct process *p, bool silent);
bool process_alive(const struct process *p);
/* Called by process_kill() when all of it is gone; the newest first. */
void process_on_death(struct process *p, void (*fn)(void *arg, bool silent), void *arg);
/* SIGSTOP and SIGCONT: nothing of it runs meanwhile. */
void process_pause(struct process *p, bool paused);
const char *process_name(const struct process *p);
int process_machine(const struct process *p);
struct sim *process_sim(const struct process *p);

/* Begins at the present time, after the caller has waited. */
struct fiber *fiber_spawn(struct process *p, const char *name, void (*fn)(void *arg), void *arg);
struct fiber *fiber_current(struct sim *s); /* NULL: outside of fibers, in an event */
struct process *fiber_process(const struct fiber *f);
/* A pointer of whoever spawned it; NULL at first. */
void fiber_set_local(struct fiber *f, void *local);
void *fiber_local(const struct fiber *f);
/* Waits until fiber_wake() or the deadline (UINT64_MAX: none); true when it was woken. A wake that
 * came before the sleep counts. */
bool fiber_sleep_until(struct sim *s, uint64_t deadline);
void fiber_sleep(struct sim *s, uint64_t ns); /* wakes do not shorten it */
void fiber_wake(struct fiber *f);
/* A point at which the seed may let others run first. */
void fiber_yield_point(struct sim *s);

/* ---- the trace ---- */

/* Every event, message byte and disk write goes through one of these. The text is formatted only
 * when someone looks (--trace) or for the last events of a failure; the hash takes all arguments.
 */
void sim_trace(struct sim *s, const char *format, ...) PRINTF(2, 3);
void sim_trace_bytes(struct sim *s, const void *p, size_t size); /* into the hash alone */
uint64_t sim_trace_hash(const struct sim *s);
/* The last events, oldest first, as text. */
void sim_print_last(struct sim *s, FILE *to);

/* ---- findings and figures ---- */

/* A broken promise: ends the run. `invariant` is its number as the documents have it ("P1", "R3",
 * "H48n"). */
_Noreturn void sim_violation(struct sim *s, const char *invariant, const char *format, ...)
    PRINTF(3, 4);
/* Counts something that `./dev sim` prints and that must not be rare over the seeds: a fault, an
 * election, a duplicate answer ... Names are compared by text. */
void sim_count(struct sim *s, const char *what);
/* Counts one check of an invariant. */
void sim_checked(struct sim *s, const char *invariant);
/* Both, in the order in which they came up first. */
void sim_each_count(const struct sim *s, bool checks,
                    void (*fn)(void *ctx, const char *what, uint64_t count), void *ctx);

#endif
