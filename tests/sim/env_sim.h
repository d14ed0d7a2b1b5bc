/* tests/sim/env_sim.h -- protocol/base/env.h under virtual time: one env for each process.
 *
 * Loops and pool threads are fibers. A turn runs the timers that are due, then messages and
 * streams in a seeded order, and costs a little virtual time; so does a job. Every call that
 * crosses env (locks, posts, randomness, the disk) is a point at which the seed may let others run
 * first. What the header promises of its callers is checked (Vn, README.md).
 */
#ifndef FLUXMQ_TESTS_SIM_ENV_SIM_H
#define FLUXMQ_TESTS_SIM_ENV_SIM_H

#include "protocol/base/env.h"
#include "tests/sim/net.h"
#include "tests/sim/sim.h"

struct disk;

struct env_sim_options {
    struct process *process;
    struct net *net;
    struct disk *disk;
    int pool_threads;       /* of each class */
    const int64_t *skew_ms; /* of the machine's wall clock; read at each call */
};

/* Its memory goes with the run. */
struct env *env_sim_new(const struct env_sim_options *o);
/* After all loops have been stopped, on a fiber of the process: returns when all jobs have run. */
void env_sim_drain(struct env *env);

struct sim *env_sim_sim(struct env *env);
struct process *env_sim_process(struct env *env);
struct disk *env_sim_disk(struct env *env);

/* The loop on whose fiber the caller runs; NULL: on none. */
struct loop *env_sim_current_loop(struct env *env);
/* No fiber of the process holds a lock: others may look at what the locks guard. */
bool env_sim_is_quiet(struct env *env);
/* The caller runs as a fiber of this process (not in an event, not an oracle's). */
bool env_sim_is_inside(struct env *env);
/* On a worker, which never waits for the disk. */
bool env_sim_is_worker(struct env *env);
/* When the turn began (sim_now()) in which the caller, on a loop's fiber, runs. */
uint64_t env_sim_turn_began(struct env *env);

#endif
