/* tests/sim/machine.h -- a machine with its disk, and the node that runs on it.
 *
 * The disk outlives the node's process: it has for each file the bytes that the process sees
 * (page cache) and the bytes that are durable. A crash of the process keeps the page cache; a
 * power failure keeps the durable image and of the rest a seeded part: each 4 KiB page of unsynced
 * data present, absent or torn at 512 B; each unsynced name operation (create, rename, unlink) in
 * force or not, in order within a directory.
 */
#ifndef FLUXMQ_TESTS_SIM_MACHINE_H
#define FLUXMQ_TESTS_SIM_MACHINE_H

#include "broker/node.h"
#include "protocol/base/err.h"
#include "tests/sim/sim.h"

struct machine;

struct machine_options {
    int number;  /* its node id, and "mN" in the network */
    int workers; /* of its node */
    int64_t disk_bytes;
    const char *const *overrides; /* "key=value" for the node's configuration, besides its own */
    int override_count;
};

struct machine *machine_new(struct sim *s, const struct machine_options *o);
int machine_number(const struct machine *m);
int machine_port(const struct machine *m); /* of the client listener */

/* Starts the node (boot, or restart); it becomes ready by itself, or fails. */
void machine_start(struct machine *m);
/* NULL while it is not running. Its images, replicas and logs may be looked at between events by
 * the oracles, never changed. */
struct node *machine_node(const struct machine *m);
bool machine_is_ready(const struct machine *m);
/* Whether none of its threads holds a lock. Only then may an oracle call what takes one (it would
 * find it held by a thread that was switched). False while it is not running. */
bool machine_is_quiet(const struct machine *m);
struct process *machine_process(const struct machine *m);

enum crash_kind {
    CRASH_PROCESS, /* kill -9: the page cache stays */
    CRASH_POWER,   /* the page cache is gone; new boot id */
};
void machine_crash(struct machine *m, enum crash_kind kind);
/* SIGTERM: a clean stop; machine_node() is NULL when it has ended. */
void machine_stop(struct machine *m);
/* The node ended by itself (fatal error of the quorum's directory): exit code, -1 while it runs or
 * after a crash. */
int machine_exit_code(const struct machine *m);
/* What the node logged when it ended so. */
const char *machine_exit_reason(const struct machine *m);

/* All machines compute CRC-32C by this path (protocol/crc32c.h), -1: by the fastest. False: the CPU
 * does not have it. A trace must not depend on it [H46]. */
bool machine_force_crc32c(int path);

/* ---- clocks ---- */

void machine_set_wall_skew_ms(struct machine *m, int64_t skew);

/* ---- faults of the disk; each until it is taken back ---- */

enum disk_fault {
    DISK_FAULT_NONE,
    DISK_FAULT_FULL,      /* ENOSPC for everything that needs room; deleting helps */
    DISK_FAULT_WRITE_EIO, /* the next writes to files matching `pattern` fail */
    DISK_FAULT_READ_EIO,
    DISK_FAULT_SYNC_EIO, /* fails, and the unsynced data are gone, as Linux does it */
    DISK_FAULT_SLOW,     /* each wait takes `ns` more */
    DISK_FAULT_STALL,    /* waits do not end until it is taken back */
};
struct disk_fault_options {
    enum disk_fault kind;
    const char *pattern; /* a part of the path: ".log", "fluxmq-raft", "t-3/"; NULL: all */
    int count;           /* how many calls are hit; 0: all until it is taken back */
    uint64_t ns;
};
void machine_set_disk_fault(struct machine *m, const struct disk_fault_options *o);
/* Flips a bit in the durable image of a random file that matches, while the node is down. Writes
 * what it hit. */
bool machine_flip_bit(struct machine *m, const char *pattern, char what[256]);
/* An empty machine with the same number takes its place. */
void machine_wipe(struct machine *m);

#endif
