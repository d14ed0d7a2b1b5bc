#include "protocol/compress.h"

#include <stdlib.h>

#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

#include "protocol/base/check.h"

#define GZIP_WINDOW_BITS (15 + 16) /* + 16: a gzip header, nothing else */

#define LZ4_FRAME_MAGIC 0x184d2204u /* little endian, as is zstd's */

/* What a worker's context may keep between inputs: the window of zstd's usual levels fits. */
#define ZSTD_KEPT_BYTES_MAX   ((size_t)4 << 20)
#define SNAPPY_KEPT_BYTES_MAX ((size_t)256 << 10)

static const uint8_t snappy_magic[8] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0};
#define SNAPPY_HEADER_SIZE 16
#define SNAPPY_VERSION     1
#define SNAPPY_BLOCK_BYTES ((size_t)32 << 10) /* what Java cuts its input into */
/* Three bytes of a copy element make at most 64 bytes of output. */
#define SNAPPY_EXPANSION_MAX 22

#define COMPRESS_BYTES_MAX ((size_t)1 << 30)

const char *compression_name(int codec)
{
    switch (codec) {
    case COMPRESSION_NONE:
        return "none";
    case COMPRESSION_GZIP:
        return "gzip";
    case COMPRESSION_SNAPPY:
        return "snappy";
    case COMPRESSION_LZ4:
        return "lz4";
    case COMPRESSION_ZSTD:
        return "zstd";
    default:
        return "unknown";
    }
}

/* ---- decompression: the life of a context ---- */

void decompressor_init(struct decompressor *d)
{
    *d = (struct decompressor){.failed = ERR_CLOSED};
}

void decompressor_deinit(struct decompressor *d)
{
    if (d->gzip != NULL) {
        inflateEnd(d->gzip);
        free(d->gzip);
    }
    LZ4F_freeDecompressionContext(d->lz4);
    ZSTD_freeDCtx(d->zstd);
    free(d->block);
    decompressor_init(d);
}

static void prepare_gzip(struct decompressor *d)
{
    if (d->gzip == NULL) {
        z_stream *z = xcalloc(1, sizeof *z);
        CHECK(inflateInit2(z, GZIP_WINDOW_BITS) == Z_OK);
        d->gzip = z;
        return;
    }
    CHECK(inflateReset(d->gzip) == Z_OK);
}

/* Java reads frames of version 1 with independent blocks and without a dictionary; what it cannot
 * read must not get into a log that it consumes. */
static bool lz4_header_ok(const uint8_t *in, size_t in_left)
{
    return in_left >= 6 && load_le32(in) == LZ4_FRAME_MAGIC && (in[4] & 0xe3) == 0x60;
}

static void prepare_lz4(struct decompressor *d)
{
    if (d->lz4 == NULL) {
        LZ4F_dctx *context;
        CHECK(!LZ4F_isError(LZ4F_createDecompressionContext(&context, LZ4F_VERSION)));
        d->lz4 = context;
        return;
    }
    LZ4F_resetDecompressionContext(d->lz4);
}

/* The library may also have been built to read its formats of before version 1. */
static bool zstd_frame_ok(const uint8_t *in, size_t in_left)
{
    return in_left >= 4 && load_le32(in) == ZSTD_MAGICNUMBER;
}

static void prepare_zstd(struct decompressor *d)
{
    if (d->zstd != NULL && ZSTD_sizeof_DCtx(d->zstd) > ZSTD_KEPT_BYTES_MAX) {
        ZSTD_freeDCtx(d->zstd);
        d->zstd = NULL;
    }
    if (d->zstd == NULL) {
        /* The library's limit of the window, 128 MB, is what its highest level uses. The window is
         * touched only as far as output fills it, and so costs at most the caller's limit. */
        d->zstd = ZSTD_createDCtx();
        CHECK(d->zstd != NULL);
        return;
    }
    ZSTD_DCtx_reset(d->zstd, ZSTD_reset_session_only);
}

static void prepare_snappy(struct decompressor *d)
{
    d->block_at = d->block_end = 0;
    if (d->block_capacity > SNAPPY_KEPT_BYTES_MAX) {
        free(d->block);
        d->block = NULL;
        d->block_capacity = 0;
    }
    d->snappy_framed =
        d->in_left >= sizeof snappy_magic && memcmp(d->in, snappy_magic, sizeof snappy_magic) == 0;
}

enum err decompressor_start(struct decompressor *d, int codec, const uint8_t *in, size_t in_size,
                            size_t limit)
{
    d->codec = codec;
    d->in = in;
    d->in_left = in_size;
    d->out_left = limit;
    d->failed = ERR_NONE;
    d->frame_open = true;
    switch (codec) {
    case COMPRESSION_NONE:
        break;
    case COMPRESSION_GZIP:
        prepare_gzip(d);
        break;
    case COMPRESSION_SNAPPY:
        prepare_snappy(d);
        break;
    case COMPRESSION_LZ4:
        prepare_lz4(d);
        if (!lz4_header_ok(in, in_size))
            d->failed = ERR_CORRUPT_MESSAGE;
        break;
    case COMPRESSION_ZSTD:
        prepare_zstd(d);
        if (!zstd_frame_ok(in, in_size))
            d->failed = ERR_CORRUPT_MESSAGE;
        break;
    default:
        d->failed = ERR_UNSUPPORTED_COMPRESSION_TYPE;
        return d->failed;
    }
    return ERR_NONE;
}

/* ---- decompression: one step of each codec ----
 *
 * Each returns with something in *got, or with nothing at the end of a whole input. */

static void take_input(struct decompressor *d, size_t size)
{
    d->in += size;
    d->in_left -= size;
}

static enum err read_none(struct decompressor *d, uint8_t *out, size_t size, size_t *got)
{
    *got = MIN(size, d->in_left);
    if (*got > 0)
        memcpy(out, d->in, *got);
    take_input(d, *got);
    return ERR_NONE;
}

static enum err read_gzip(struct decompressor *d, uint8_t *out, size_t size, size_t *got)
{
    z_stream *z = d->gzip;

    z->next_out = out;
    z->avail_out = (uInt)MIN(size, COMPRESS_BYTES_MAX);
    size_t asked = z->avail_out;
    do {
        if (!d->frame_open) {
            if (d->in_left == 0)
                break;
            CHECK(inflateReset(z) == Z_OK);
            d->frame_open = true;
        }
        size_t offered = MIN(d->in_left, COMPRESS_BYTES_MAX);
        z->next_in = (z_const Bytef *)d->in;
        z->avail_in = (uInt)offered;
        int result = inflate(z, Z_NO_FLUSH);
        take_input(d, offered - z->avail_in);
        if (result == Z_STREAM_END)
            d->frame_open = false;
        else if (result != Z_OK) /* no progress (Z_BUF_ERROR) means that the input was cut */
            return ERR_CORRUPT_MESSAGE;
    } while (z->avail_out == asked);
    *got = asked - z->avail_out;
    return ERR_NONE;
}

static enum err read_lz4(struct decompressor *d, uint8_t *out, size_t size, size_t *got)
{
    while (d->frame_open && *got == 0) {
        size_t used = d->in_left;
        *got = size;
        size_t hint = LZ4F_decompress(d->lz4, out, got, d->in, &used, NULL);
        if (LZ4F_isError(hint)) {
            *got = 0;
            return ERR_CORRUPT_MESSAGE;
        }
        take_input(d, used);
        if (hint == 0)
            d->frame_open = false;
        else if (used == 0 && *got == 0)
            return ERR_CORRUPT_MESSAGE; /* cut */
    }
    return !d->frame_open && d->in_left > 0 ? ERR_CORRUPT_MESSAGE : ERR_NONE;
}

static enum err read_zstd(struct decompressor *d, uint8_t *out, size_t size, size_t *got)
{
    ZSTD_outBuffer to = {out, size, 0};

    while (to.pos == 0) {
        if (!d->frame_open) {
            if (d->in_left == 0)
                break;
            d->frame_open = true;
            if (!zstd_frame_ok(d->in, d->in_left))
                return ERR_CORRUPT_MESSAGE;
        }
        ZSTD_inBuffer from = {d->in, d->in_left, 0};
        size_t hint = ZSTD_decompressStream(d->zstd, &to, &from);
        if (ZSTD_isError(hint))
            return ERR_CORRUPT_MESSAGE;
        take_input(d, from.pos);
        if (hint == 0)
            d->frame_open = false;
        else if (from.pos == 0 && to.pos == 0)
            return ERR_CORRUPT_MESSAGE; /* cut */
    }
    *got = to.pos;
    return ERR_NONE;
}

/* Decodes one raw block of `len` bytes, which begin at d->in. */
static enum err decode_snappy_block(struct decompressor *d, size_t len)
{
    size_t decoded;

    if (snappy_uncompressed_length((const char *)d->in, len, &decoded) != SNAPPY_OK)
        return ERR_CORRUPT_MESSAGE;
    if (decoded / SNAPPY_EXPANSION_MAX > len)
        return ERR_CORRUPT_MESSAGE;
    if (decoded > d->out_left)
        return ERR_TOO_LARGE;
    if (decoded > d->block_capacity) {
        uint8_t *block = realloc(d->block, decoded);
        if (block == NULL)
            return ERR_TOO_LARGE;
        d->block = block;
        d->block_capacity = decoded;
    }
    d->block_at = 0;
    d->block_end = decoded;
    if (decoded > 0 &&
        snappy_uncompress((const char *)d->in, len, (char *)d->block, &d->block_end) != SNAPPY_OK)
        return ERR_CORRUPT_MESSAGE;
    take_input(d, len);
    return ERR_NONE;
}

/* The next block of Java's framing, over any header before it; none at the end. */
static enum err next_framed_snappy_block(struct decompressor *d)
{
    while (d->in_left >= SNAPPY_HEADER_SIZE &&
           memcmp(d->in, snappy_magic, sizeof snappy_magic) == 0) {
        if (load_be32(d->in + 8) < SNAPPY_VERSION)
            return ERR_CORRUPT_MESSAGE;
        take_input(d, SNAPPY_HEADER_SIZE);
    }
    if (d->in_left == 0)
        return ERR_NONE;
    if (d->in_left < 4)
        return ERR_CORRUPT_MESSAGE;
    size_t len = load_be32(d->in);
    take_input(d, 4);
    if (len == 0 || len > d->in_left)
        return ERR_CORRUPT_MESSAGE;
    return decode_snappy_block(d, len);
}

static enum err read_snappy(struct decompressor *d, uint8_t *out, size_t size, size_t *got)
{
    while (d->block_at == d->block_end) {
        /* A raw block is the whole input, and no block at all is no snappy either. */
        if (d->in_left == 0)
            return d->frame_open ? ERR_CORRUPT_MESSAGE : ERR_NONE;
        d->frame_open = false;
        enum err err =
            d->snappy_framed ? next_framed_snappy_block(d) : decode_snappy_block(d, d->in_left);
        if (err != ERR_NONE)
            return err;
    }
    *got = MIN(size, d->block_end - d->block_at);
    memcpy(out, d->block + d->block_at, *got);
    d->block_at += *got;
    return ERR_NONE;
}

static enum err read_some(struct decompressor *d, uint8_t *out, size_t size, size_t *got)
{
    *got = 0;
    switch (d->codec) {
    case COMPRESSION_GZIP:
        return read_gzip(d, out, size, got);
    case COMPRESSION_SNAPPY:
        return read_snappy(d, out, size, got);
    case COMPRESSION_LZ4:
        return read_lz4(d, out, size, got);
    case COMPRESSION_ZSTD:
        return read_zstd(d, out, size, got);
    default:
        return read_none(d, out, size, got);
    }
}

enum err decompressor_read(struct decompressor *d, uint8_t *out, size_t size, size_t *got)
{
    uint8_t beyond;

    CHECK(size > 0);
    *got = 0;
    if (d->failed != ERR_NONE)
        return d->failed;
    if (d->out_left > 0) {
        d->failed = read_some(d, out, MIN(size, d->out_left), got);
        if (d->failed != ERR_NONE)
            *got = 0;
        d->out_left -= *got;
        return d->failed;
    }
    /* At the limit: fine if the input ends here too. */
    d->failed = read_some(d, &beyond, 1, got);
    if (d->failed == ERR_NONE && *got > 0)
        d->failed = ERR_TOO_LARGE;
    *got = 0;
    return d->failed;
}

/* ---- all at once ---- */

/* Enough for most; doubled as long as output comes, so the limit alone costs nothing. */
#define FIRST_GUESS_FACTOR 4
#define FIRST_GUESS_MIN    ((size_t)4096)

enum err decompress_all(int codec, const uint8_t *in, size_t in_size, size_t limit,
                        struct iobuf **out)
{
    struct decompressor d;
    uint8_t beyond; /* never written: at the limit only the end is looked for */
    size_t used = 0, got = 1;

    decompressor_init(&d);
    enum err err = decompressor_start(&d, codec, in, in_size, limit);
    size_t guess = MIN(MAX(in_size, FIRST_GUESS_MIN), COMPRESS_BYTES_MAX) * FIRST_GUESS_FACTOR;
    struct iobuf *b = iobuf_new(MIN(guess, limit));
    while (err == ERR_NONE && got > 0) {
        if (used == b->len && used < limit) {
            struct iobuf *larger = iobuf_new(MIN(b->len * 2, limit));
            memcpy(iobuf_bytes(larger), b->ptr, used);
            iobuf_unref(b);
            b = larger;
        }
        err = used < b->len ? decompressor_read(&d, iobuf_bytes(b) + used, b->len - used, &got)
                            : decompressor_read(&d, &beyond, 1, &got);
        used += got;
    }
    decompressor_deinit(&d);
    if (err != ERR_NONE) {
        iobuf_unref(b);
        return err;
    }
    b->len = used;
    *out = b;
    return ERR_NONE;
}

static int32_t level_within(int32_t level, int32_t lowest, int32_t highest, int32_t usual)
{
    return level == COMPRESSION_LEVEL_DEFAULT ? usual : MAX(lowest, MIN(level, highest));
}

static struct iobuf *compress_none(const uint8_t *in, size_t in_size)
{
    struct iobuf *b = iobuf_new(in_size);

    if (in_size > 0)
        memcpy(iobuf_bytes(b), in, in_size);
    return b;
}

static struct iobuf *compress_gzip(int32_t level, const uint8_t *in, size_t in_size)
{
    z_stream z = {0};

    CHECK(deflateInit2(&z, level_within(level, -1, 9, -1), Z_DEFLATED, GZIP_WINDOW_BITS, 8,
                       Z_DEFAULT_STRATEGY) == Z_OK);
    struct iobuf *b = iobuf_new(deflateBound(&z, in_size));
    z.next_in = (z_const Bytef *)in;
    z.avail_in = (uInt)in_size;
    z.next_out = iobuf_bytes(b);
    z.avail_out = (uInt)b->len;
    CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END);
    b->len = z.total_out;
    deflateEnd(&z);
    return b;
}

static struct iobuf *compress_snappy(const uint8_t *in, size_t in_size)
{
    size_t blocks = (in_size + SNAPPY_BLOCK_BYTES - 1) / SNAPPY_BLOCK_BYTES;
    struct iobuf *b = iobuf_new(SNAPPY_HEADER_SIZE +
                                blocks * (4 + snappy_max_compressed_length(SNAPPY_BLOCK_BYTES)));
    uint8_t *p = iobuf_bytes(b);

    memcpy(p, snappy_magic, sizeof snappy_magic);
    store_be32(p + 8, SNAPPY_VERSION);
    store_be32(p + 12, SNAPPY_VERSION);
    p += SNAPPY_HEADER_SIZE;
    for (size_t size; in_size > 0; in += size, in_size -= size) {
        size = MIN(in_size, SNAPPY_BLOCK_BYTES);
        size_t packed = snappy_max_compressed_length(SNAPPY_BLOCK_BYTES);
        CHECK(snappy_compress((const char *)in, size, (char *)p + 4, &packed) == SNAPPY_OK);
        store_be32(p, (uint32_t)packed);
        p += 4 + packed;
    }
    b->len = (size_t)(p - b->ptr);
    return b;
}

static struct iobuf *compress_lz4(int32_t level, const uint8_t *in, size_t in_size)
{
    const LZ4F_preferences_t preferences = {
        .frameInfo = {.blockSizeID = LZ4F_max64KB, .blockMode = LZ4F_blockIndependent},
        .compressionLevel = level_within(level, 1, LZ4F_compressionLevel_max(), 9),
    };
    struct iobuf *b = iobuf_new(LZ4F_compressFrameBound(in_size, &preferences));

    size_t size = LZ4F_compressFrame(iobuf_bytes(b), b->len, in, in_size, &preferences);
    CHECK(!LZ4F_isError(size));
    b->len = size;
    return b;
}

static struct iobuf *compress_zstd(int32_t level, const uint8_t *in, size_t in_size)
{
    struct iobuf *b = iobuf_new(ZSTD_compressBound(in_size));

    level = level_within(level, ZSTD_minCLevel(), ZSTD_maxCLevel(), ZSTD_CLEVEL_DEFAULT);
    size_t size = ZSTD_compress(iobuf_bytes(b), b->len, in, in_size, level);
    CHECK(!ZSTD_isError(size));
    b->len = size;
    return b;
}

enum err compress_all(int codec, int32_t level, const uint8_t *in, size_t in_size,
                      struct iobuf **out)
{
    if (in_size > COMPRESS_BYTES_MAX)
        return ERR_TOO_LARGE;
    switch (codec) {
    case COMPRESSION_NONE:
        *out = compress_none(in, in_size);
        return ERR_NONE;
    case COMPRESSION_GZIP:
        *out = compress_gzip(level, in, in_size);
        return ERR_NONE;
    case COMPRESSION_SNAPPY:
        *out = compress_snappy(in, in_size);
        return ERR_NONE;
    case COMPRESSION_LZ4:
        *out = compress_lz4(level, in, in_size);
        return ERR_NONE;
    case COMPRESSION_ZSTD:
        *out = compress_zstd(level, in, in_size);
        return ERR_NONE;
    default:
        return ERR_UNSUPPORTED_COMPRESSION_TYPE;
    }
}
