/* tests/fuzz/snapshot_fuzz.c -- any bytes as a snapshot, or as the records of one.
 *
 * Hashes keep a fuzzer out, so an input whose first byte is odd is taken as one chunk and wrapped
 * in a manifest that vouches for it. What decodes is encoded and decoded again, to the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "meta_snapshot.pb-c.h"
#include "protocol/base/hmap.h"
#include "raft-meta/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *wrap(const uint8_t *chunk, size_t chunk_size, size_t *size)
{
    MetaSnapshotManifest m = META_SNAPSHOT_MANIFEST__INIT;
    MetaSnapshotChunk c = META_SNAPSHOT_CHUNK__INIT, *list[] = {&c};
    size_t length;
    uint8_t *bytes;

    c.size = chunk_size;
    c.hash = hash_bytes(SNAPSHOT_HASH_SEED, chunk, chunk_size);
    m.format = SNAPSHOT_FORMAT;
    m.index = 5;
    m.n_chunks = 1;
    m.chunks = list;
    length = meta_snapshot_manifest__get_packed_size(&m);
    *size = SNAPSHOT_HEADER_SIZE + length + chunk_size;
    bytes = xcalloc(1, *size);
    memcpy(bytes, "FMQS", 4);
    store_be16(bytes + 4, SNAPSHOT_FORMAT);
    store_be32(bytes + 8, (uint32_t)length);
    (void)meta_snapshot_manifest__pack(&m, bytes + SNAPSHOT_HEADER_SIZE);
    store_be64(bytes + 12, hash_bytes(SNAPSHOT_HASH_SEED, bytes + SNAPSHOT_HEADER_SIZE, length));
    if (chunk_size > 0)
        memcpy(bytes + SNAPSHOT_HEADER_SIZE + length, chunk, chunk_size);
    return bytes;
}

static void check(const uint8_t *bytes, size_t size)
{
    struct image *i, *again;
    struct errmsg why = {""};
    struct snapshot s;
    uint8_t *flat;
    size_t at = 0;
    enum err e;

    if (snapshot_decode(bytes, size, &i, &why) != ERR_NONE) {
        CHECK(why.text[0] != 0);
        return;
    }
    snapshot_encode(i, &s);
    flat = xmalloc(s.bytes_total);
    for (size_t k = 0; k < s.part_count; k++) {
        memcpy(flat + at, s.parts[k].bytes, s.parts[k].size);
        at += s.parts[k].size;
    }
    e = snapshot_decode(flat, at, &again, &why);
    CHECK(e == ERR_NONE);
    CHECK(snapshot_digest(i) == snapshot_digest(again));
    image_unref(i);
    image_unref(again);
    snapshot_deinit(&s);
    free(flat);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *wrapped;
    size_t wrapped_size;

    if (size == 0 || size > (256 << 10))
        return 0;
    if (data[0] % 2 == 0) {
        check(data + 1, size - 1);
        return 0;
    }
    wrapped = wrap(data + 1, size - 1, &wrapped_size);
    check(wrapped, wrapped_size);
    free(wrapped);
    return 0;
}
