/* protocol/crc32c.h -- CRC-32C (Castagnoli), the checksum of record batches.
 *
 * The value is Java's CRC32C.getValue(), RFC 3720's "CRC32C": polynomial 0x1EDC6F41, reflected,
 * preset and inverted with all ones. The fastest path that this CPU offers is taken; all of them
 * give the same value, and tests/unit/crc32c_test.c holds each to the one without any
 * instructions of its own.
 *
 * Thread: any; there is no state.
 */
#ifndef FLUXMQ_CRC32C_H
#define FLUXMQ_CRC32C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The checksum of what `crc` is the checksum of, followed by `n` more bytes; 0 begins. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);

/* One way to compute it, for tests and benchmarks. Only a supported one may be called. */
struct crc32c_path {
    const char *name;
    bool supported; /* by this CPU */
    uint32_t (*fn)(uint32_t crc, const void *p, size_t n);
};

#define CRC32C_PATH_COUNT 5
/* Fastest first; the last one is supported everywhere. `i` < CRC32C_PATH_COUNT. */
struct crc32c_path crc32c_path(int i);

#endif
