/* protocol/compress.h -- Kafka's codecs: gzip, snappy, lz4, zstd; and none.
 *
 * What each codec is on the wire, and what we take:
 *   gzip    RFC 1952; several members in a row are one stream, as Java reads them.
 *   snappy  as Java's SnappyOutputStream frames it: 0x82 "SNAPPY" 0x00, version and compatible
 *           version (two big-endian int32), then blocks of a big-endian int32 length and that many
 *           bytes of raw snappy; a further header may stand where a block could. Without that
 *           header the whole input is one raw snappy block (librdkafka and others send it so).
 *   lz4     one LZ4 frame (v1.6.x) with independent blocks, for Java reads no other; nothing
 *           behind it.
 *   zstd    RFC 8878 frames; several in a row are one stream.
 *
 * Decompression pulls: the caller asks for the next bytes and never needs the whole, and there is
 * a hard limit on what comes out, so that a small input cannot become much work. Memory: the
 * library's window (lz4 some 4 MB, zstd as much of the frame's window as output has filled) and,
 * for snappy, one block, whose size is checked against what its input could expand to.
 *
 * Thread: one at a time per decompressor.
 */
#ifndef FLUXMQ_COMPRESS_H
#define FLUXMQ_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/base/bytes.h"
#include "protocol/base/err.h"
#include "protocol/base/iobuf.h"

/* Kafka's numbers, in the low three bits of a batch's attributes; 5 to 7 are nobody's. */
enum compression {
    COMPRESSION_NONE = 0,
    COMPRESSION_GZIP = 1,
    COMPRESSION_SNAPPY = 2,
    COMPRESSION_LZ4 = 3,
    COMPRESSION_ZSTD = 4,
};

/* Kafka's default level of the codec: gzip -1, lz4 9, zstd 3. */
#define COMPRESSION_LEVEL_DEFAULT INT32_MIN

/* "none", "gzip", "snappy", "lz4", "zstd"; "unknown" for other numbers. */
const char *compression_name(int codec);

/* Keeps the libraries' contexts from one input to the next: give each worker one. */
struct decompressor {
    int codec;
    const uint8_t *in; /* borrowed since decompressor_start(); what has not been read yet */
    size_t in_left;
    size_t out_left; /* until the limit */
    enum err failed; /* stays */
    bool frame_open; /* inside a frame, or before the first: the input may not end here */

    bool snappy_framed;
    uint8_t *block; /* snappy: the decoded block */
    size_t block_at, block_end, block_capacity;

    void *gzip, *lz4, *zstd; /* the libraries' contexts, made when first needed */
};

void decompressor_init(struct decompressor *d);
void decompressor_deinit(struct decompressor *d);

/* Begins another input, which must stay valid while it is read; more than `limit` bytes never come
 * out of it. ERR_UNSUPPORTED_COMPRESSION_TYPE. */
MUST_USE enum err decompressor_start(struct decompressor *d, int codec, const uint8_t *in,
                                     size_t in_size, size_t limit);
/* Up to `size` bytes (> 0) of output; *got is 0 only at the end of the input, which is then known
 * to be whole. Errors stay: ERR_CORRUPT_MESSAGE (cannot be decoded), ERR_TOO_LARGE (there is more
 * than the limit; a part of it may have been handed out). */
MUST_USE enum err decompressor_read(struct decompressor *d, uint8_t *out, size_t size, size_t *got);

/* All of it, as one buffer of at most `limit` bytes. Errors as above; *out is then untouched. */
MUST_USE enum err decompress_all(int codec, const uint8_t *in, size_t in_size, size_t limit,
                                 struct iobuf **out);
/* As Kafka's Java clients write it. A level outside the codec's range is brought into it; snappy
 * has none. ERR_UNSUPPORTED_COMPRESSION_TYPE, ERR_TOO_LARGE (over 1 GB). */
MUST_USE enum err compress_all(int codec, int32_t level, const uint8_t *in, size_t in_size,
                               struct iobuf **out);

#endif
