/* tests/sim/raft_disk_sim.h -- libraft's disk on the simulated one, in the place of raft_uv.
 *
 * Writes the files that raft_uv writes (raft-meta/raft_files.h has the format), so that the node
 * checks them at each start and a power failure tears what it would tear there. As in raft_uv:
 * several appends may be in flight and share a write; term and vote are written before the call
 * returns; an append is durable when it is reported; a snapshot is written beside appends, but
 * one that is installed waits for them and they for it; close() lets what is being written end
 * and cancels the rest. Sends are refused: a transport comes before it, as before raft_disk_uv.
 *
 * Thread: the meta loop's, and two fibers of its own that wait for the disk.
 */
#ifndef FLUXMQ_TESTS_SIM_RAFT_DISK_SIM_H
#define FLUXMQ_TESTS_SIM_RAFT_DISK_SIM_H

#include <raft.h>

#include "protocol/base/env.h"

/* On the loop that it reports to. `dir` exists and is its own. Its memory goes with the run. */
struct raft_io *raft_disk_sim_new(struct env *env, const char *dir);

#endif
