/* tests/support/memory_disk.h -- a disk in memory behind env.h, for fuzz targets: fast, and gone
 * with the input. Directories are there when a file below them is; everything is always synced.
 */
#ifndef FLUXMQ_TESTS_MEMORY_DISK_H
#define FLUXMQ_TESTS_MEMORY_DISK_H

#include "tests/support/test_env.h"

/* Puts the disk in the place of the real one. At most one per test_env. */
void memory_disk_init(struct test_env *t);
void memory_disk_deinit(struct test_env *t);
/* Makes or replaces a file. */
void memory_disk_put(struct test_env *t, const char *path, const void *p, size_t size);

#endif
