/* raft-meta/snapshot.h -- the whole image as bytes, and back.
 *
 *   snapshot = "FMQS", u16 format, u16 zero, u32 length of the manifest, u64 its hash,
 *              manifest (MetaSnapshotManifest), chunk, chunk ...
 *   chunk    = up to CHUNK_BYTES_MAX bytes of records: u32 length, a packed MetaSnapshotRecord
 *
 * Numbers of the framing are big endian; a hash is XXH3-64 under a fixed seed. Records come in the
 * order: cluster, features, brokers, topics each with its partitions, configs, lanes; each kind
 * sorted by its key. So equal images give equal bytes, on every node, and snapshot_digest() tells
 * them apart [H24].
 *
 * The image lies inside the libraft snapshot, which fits one file and one message: 10,000
 * partitions take about 1 MiB. The tables that grow without such a bound (offsets, producer ids,
 * transactions) will be chunk files beside it, named by hash, written and synced before the
 * manifest that names them.
 *
 * Thread: encoding from any thread, for an image is immutable.
 */
#ifndef FLUXMQ_RAFT_META_SNAPSHOT_H
#define FLUXMQ_RAFT_META_SNAPSHOT_H

#include "raft-meta/image.h"

#define SNAPSHOT_FORMAT      1
#define SNAPSHOT_HASH_SEED   0x736e6170ull
#define CHUNK_BYTES_MAX      (1 << 20)
#define SNAPSHOT_HEADER_SIZE 20
#define SNAPSHOT_BYTES_MAX   (1ull << 30)

struct snapshot_part {
    uint8_t *bytes; /* malloc'ed */
    size_t size;
};

struct snapshot {
    struct snapshot_part *parts; /* header and manifest, then the chunks */
    size_t part_count;
    size_t bytes_total;
};

void snapshot_encode(const struct image *i, struct snapshot *out);
void snapshot_deinit(struct snapshot *s);

/* Checks everything before it believes it: framing, hashes, order, counts, references.
 * Errors: ERR_CORRUPT, ERR_UNSUPPORTED_VERSION (a newer format); `why` says what and where. */
MUST_USE enum err snapshot_decode(const uint8_t *bytes, size_t size, struct image **out,
                                  struct errmsg *why);

/* Equal for equal images. */
uint64_t snapshot_digest(const struct image *i);

#endif
