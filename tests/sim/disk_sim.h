/* tests/sim/disk_sim.h -- a machine's disk: what the process sees, and what is durable.
 *
 * A file's bytes are pages of 4 KiB. A page that was written holds, until it reaches the disk, what
 * the disk has of it; a name operation stays in its directory's journal until dir_sync. A power
 * failure decides for each (machine.h). Now and then dirty pages and names reach the disk by
 * themselves, and clean pages leave the page cache, so that reading them waits.
 *
 * [pool] calls take virtual time; on a worker's loop that is a violation (V3). The others only
 * offer the seed a point to switch at.
 */
#ifndef FLUXMQ_TESTS_SIM_DISK_SIM_H
#define FLUXMQ_TESTS_SIM_DISK_SIM_H

#include "protocol/base/env.h"
#include "tests/sim/machine.h"

struct disk;

extern const struct disk_ops disk_sim_ops;

struct disk *disk_new(struct sim *s, int machine, int64_t bytes);
void disk_free(struct disk *d);
/* A directory of the operator's, durable: "/data". */
void disk_make_directory(struct disk *d, const char *path);
/* The process that used it is gone: its locks and open files are not any more. */
void disk_on_crash(struct disk *d);
/* After that: what was not durable is, or is not. */
void disk_on_power_failure(struct disk *d);
void disk_set_fault(struct disk *d, const struct disk_fault_options *o);
bool disk_flip_bit(struct disk *d, const char *pattern, char what[256]);

/* For sendfile: exactly `size` bytes as the file holds them now; false when it has fewer. */
bool disk_sim_peek(struct file *f, uint64_t offset, void *p, size_t size);

#endif
