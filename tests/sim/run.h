/* tests/sim/run.h -- one seed's run: what it draws, its machine, its clients, its phases.
 *
 *   start    the node boots, the first topics are made
 *   faults   >= 30 virtual seconds of clients, while faults.c does its worst
 *   heal     faults end, the node is started once more, clients finish what they were at
 *   read     everything is read from start to end, the node is stopped and its files are verified
 *
 * Swarm testing: the seed draws which kinds of clients and faults there are at all, so that what
 * one kind hides another run shows.
 */
#ifndef FLUXMQ_TESTS_SIM_RUN_H
#define FLUXMQ_TESTS_SIM_RUN_H

#include "tests/sim/machine.h"
#include "tests/sim/oracle.h"
#include "tests/sim/sim.h"

#define WORKLOADS(X)                                                                               \
    X(IDEMPOTENT, "idempotent producer")                                                           \
    X(PLAIN, "plain producer")                                                                     \
    X(CONSUMER, "consumer")                                                                        \
    X(LOOKUP, "offset lookups")                                                                    \
    X(DELETER, "DeleteRecords")                                                                    \
    X(TOPICS, "topics made and deleted")                                                           \
    X(PARTITIONS, "CreatePartitions")                                                              \
    X(CONFIGS, "config changes")                                                                   \
    X(POLLER, "metadata poller")                                                                   \
    X(HOSTILE, "hostile client")

enum workload {
#define WORKLOAD_ENUM_(name, text) WORKLOAD_##name,
    WORKLOADS(WORKLOAD_ENUM_)
#undef WORKLOAD_ENUM_
        WORKLOAD_COUNT
};
const char *workload_name(enum workload w);

#define FAULTS(X)                                                                                  \
    X(KILL, "kill -9")                                                                             \
    X(STOP, "clean stop")                                                                          \
    X(POWER, "power failure")                                                                      \
    X(POWER_AGAIN, "power failure in recovery")                                                    \
    X(PAUSE, "pause")                                                                              \
    X(DISK_FULL, "disk full")                                                                      \
    X(WRITE_EIO, "EIO on write")                                                                   \
    X(READ_EIO, "EIO on read")                                                                     \
    X(SYNC_EIO, "EIO on fsync")                                                                    \
    X(DISK_SLOW, "slow disk")                                                                      \
    X(DISK_STALL, "stalled disk")                                                                  \
    X(CLOCK_SKEW, "skewed clock")                                                                  \
    X(CLOCK_JUMP, "clock jumps by hours")                                                          \
    X(CUT_SHORT, "short network cut")                                                              \
    X(CUT_LONG, "long network cut")                                                                \
    X(RESETS, "connection resets")                                                                 \
    X(REFUSALS, "connections refused")                                                             \
    X(LINK_SLOW, "slow links")                                                                     \
    X(BIT_FLIP, "bit flip at rest")

enum fault_kind {
#define FAULT_ENUM_(name, text) FAULT_##name,
    FAULTS(FAULT_ENUM_)
#undef FAULT_ENUM_
        FAULT_COUNT
};
const char *fault_name(enum fault_kind f);

/* What a seed draws; the shrinker takes parts of it away. */
struct plan {
    uint64_t seed;
    uint32_t workloads, faults; /* bits */
    int clients[WORKLOAD_COUNT];
    int topics, partitions, workers;
    int value_bytes;       /* typical */
    uint64_t faults_ns;    /* how long the faults last */
    uint64_t fault_gap_ns; /* typically between two of them */
    uint64_t think_ns;     /* typically between two operations of a client */
    int64_t segment_index_bytes, index_interval_bytes, segment_ms;
    int64_t checkpoint_ms, retention_check_ms, delete_delay_ms;
    double flush_share; /* of the topics: flush.messages=1 */
};
void plan_draw(struct plan *p, uint64_t seed);

struct faults;

struct run {
    struct sim *sim;
    struct plan plan;
    struct oracle *oracle;
    struct machine *machine;
    struct faults *faults;
    struct process *driver; /* topics of the start, the faults, the last read */
    bool stopping;          /* clients finish */
    int clients_running;
    uint64_t clients_mask; /* bit i: number i after the first still runs */
    int next_client;
    uint64_t operations;
    uint64_t disturbed_ns; /* when a fault was last in force; UINT64_MAX: one is */
};

/* Runs the seed to its end; a violation does not return. */
void run_seed(struct run *r, const struct plan *p, const struct sim_options *o);

/* H48 e: was the machine left in peace since then? */
bool run_was_quiet(const struct run *r, uint64_t since_ns);

#endif
