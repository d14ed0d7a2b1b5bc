/* storage/disk_posix.h -- files on a POSIX system, behind env.h's disk_ops.
 *
 * Two ways in: a write below 32 KB into the mapped, populated step is one memcpy; everything else
 * is a pwrite (the page cache is one, readers see both). A file is extended by fallocate, so that a
 * full disk is an errno and never a SIGBUS. A step of DISK_STEP_UNMAPPED_BYTES or less belongs to
 * a file that is hardly written: it is preallocated behind the file's size and not mapped; nor is
 * one that follows large writes, or that nothing was written before.
 *
 * Two ways out: what lies in a mapped step is handed out as memory that keeps the step mapped; all
 * else as a range of the file for sendfile. Pages that are only on disk are never dereferenced.
 */
#ifndef FLUXMQ_STORAGE_DISK_POSIX_H
#define FLUXMQ_STORAGE_DISK_POSIX_H

#include "protocol/base/env.h"

#define DISK_STEP_UNMAPPED_BYTES (64u << 10)

extern const struct disk_ops disk_posix_ops;

#endif
