/* raft-meta/raft_files.h -- reads raft_uv's files without libraft: is what was stored still there?
 *
 * libraft drops everything behind the first bad batch of an open segment, bytes that were
 * acknowledged included, and names no offset where it refuses. So the files are checked before it
 * opens them, and `fluxmq verify` and `fluxmq repair` use the same reader.
 *
 *   metadata1, metadata2   four u64: format 1, version, term, vote; the higher version counts
 *   open-N                 a segment being written, preallocated with zeros: u64 format 1, batches
 *   FIRST-LAST             a closed segment: the same, cut behind its last batch
 *   batch                  u32 crc of header, u32 crc of data, header: u64 count,
 *                          count times (u64 term, u8 type, 3 unused, u32 size); data
 *   snapshot-TERM-INDEX-TIME, and .meta: u64 format 1, u64 crc, u64 configuration index, u64
 *                          size, configuration
 *   forming                ours: the first bootstrap has begun and may not have ended
 *
 * All numbers are little endian; the CRC is CRC-32 with the polynomial 04C11DB7, most significant
 * bit first, begun with 0 and not inverted.
 *
 * A batch that does not check, with nothing but garbage behind it in the last segment with data,
 * is a write that was torn by a crash: nobody was told of it, and it is cut. A valid batch behind
 * a bad one, a bad batch in an earlier segment, or a gap between segments is corruption of what
 * was acknowledged: it is reported and never cut but by `fluxmq repair`.
 *
 * Thread: any, while nobody writes the files.
 */
#ifndef FLUXMQ_RAFT_META_RAFT_FILES_H
#define FLUXMQ_RAFT_META_RAFT_FILES_H

#include "protocol/base/bytes.h"
#include "protocol/base/env.h"

enum raft_finding_kind {
    RAFT_TORN, /* a torn tail of the last segment: normal after a crash */
    RAFT_CORRUPT_FILE,
};

struct raft_finding {
    enum raft_finding_kind kind;
    char file[300];
    uint64_t offset;
    char what[160];
    uint64_t first_lost, last_lost; /* indexes that a repair gives up; 0: none known */
};

struct raft_files_report {
    bool any;     /* there are raft files at all */
    bool forming; /* the first bootstrap may not have ended */
    uint64_t term, snapshot_index, first_index, last_index; /* 0: none */
    int segment_count, snapshot_count;
    uint64_t bytes_total;
    int corrupt_count, torn_count;
    struct raft_finding first; /* the first corruption */
};

struct raft_files_options {
    struct env *env;
    const char *dir; /* .../fluxmq-raft */
    /* As a start does: torn tails are cut, and so are the zeros that were preallocated behind the
     * data, so that libraft does not read them all again. */
    bool cut_torn;
    /* Each finding as it is made; may be NULL. */
    void (*on_finding)(void *ctx, const struct raft_finding *f);
    /* Each entry of the log that checks, for `fluxmq dump` and deep checks; may be NULL. */
    void (*on_entry)(void *ctx, uint64_t index, uint64_t term, int type, struct bytes data);
    void *ctx;
};

/* [pool] An absent directory is no error: report->any is false.
 * Errors: ERR_IO. Corruption is in the report. */
MUST_USE enum err raft_files_check(const struct raft_files_options *o,
                                   struct raft_files_report *report, struct errmsg *why);

/* [pool] What would make the files loadable: cuts the log at the first corruption, sets later
 * segments and bad snapshots aside as FILE.cut. Prints its plan line by line; acts when `act`.
 * Entries that are cut were acknowledged: the caller has told the operator. */
MUST_USE enum err raft_files_repair(const struct raft_files_options *o, bool act,
                                    void (*print)(void *ctx, const char *line), struct errmsg *why);

#endif
