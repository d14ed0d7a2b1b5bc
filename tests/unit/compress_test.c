/* The codecs: what is written reads back, and what is damaged, cut or too much is refused. */
#include "protocol/compress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <lz4frame.h>
#include <snappy-c.h>
#include <zstd.h>
#include <cmocka.h>

#define LIMIT ((size_t)8 << 20)

static const int codecs[] = {COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_SNAPPY,
                             COMPRESSION_LZ4, COMPRESSION_ZSTD};

/* Bytes that compress, with some that do not. */
static uint8_t *sample(size_t size)
{
    uint8_t *b = malloc(size + 1);
    uint64_t random = 88172645463325252u;

    for (size_t i = 0; i < size; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        b[i] = (i / 512) % 4 == 3 ? (uint8_t)random : (uint8_t)("kafka "[i % 6]);
    }
    return b;
}

/* Reads in pieces of `piece` bytes; the total, or the error with *total as far as it came. */
static enum err read_in_pieces(struct decompressor *d, size_t piece, uint8_t *out, size_t *total)
{
    size_t got;
    enum err err;

    *total = 0;
    while ((err = decompressor_read(d, out + *total, piece, &got)) == ERR_NONE && got > 0)
        *total += got;
    return err;
}

static void assert_decompresses(int codec, const uint8_t *in, size_t in_size, const uint8_t *want,
                                size_t want_size)
{
    struct iobuf *b;

    assert_int_equal(decompress_all(codec, in, in_size, LIMIT, &b), ERR_NONE);
    assert_int_equal(b->len, want_size);
    assert_memory_equal(b->ptr, want, want_size);
    iobuf_unref(b);
}

static enum err decompress_error(int codec, const uint8_t *in, size_t in_size, size_t limit)
{
    struct iobuf *b;
    enum err err = decompress_all(codec, in, in_size, limit, &b);

    if (err == ERR_NONE)
        iobuf_unref(b);
    return err;
}

/* Every codec gives back what it was given, whole or in pieces, from a context used before. */
static void round_trips(void **state)
{
    static const size_t sizes[] = {0, 1, 100, 32768, 32769, 65536, 1000003};
    uint8_t *in = sample(1000003), *out = malloc(1000003 + 70000);
    struct decompressor d;
    (void)state;

    decompressor_init(&d);
    for (size_t c = 0; c < ARRAY_COUNT(codecs); c++) {
        for (size_t s = 0; s < ARRAY_COUNT(sizes); s++) {
            struct iobuf *packed;
            size_t total;
            assert_int_equal(
                compress_all(codecs[c], COMPRESSION_LEVEL_DEFAULT, in, sizes[s], &packed),
                ERR_NONE);
            if (codecs[c] != COMPRESSION_NONE && sizes[s] > 10000)
                assert_true(packed->len < sizes[s] / 2);
            assert_decompresses(codecs[c], packed->ptr, packed->len, in, sizes[s]);
            for (size_t piece = 7; piece < 70000; piece *= 97) {
                assert_int_equal(decompressor_start(&d, codecs[c], packed->ptr, packed->len, LIMIT),
                                 ERR_NONE);
                assert_int_equal(read_in_pieces(&d, piece, out, &total), ERR_NONE);
                assert_int_equal(total, sizes[s]);
                assert_memory_equal(out, in, total);
            }
            iobuf_unref(packed);
        }
    }
    decompressor_deinit(&d);
    free(out);
    free(in);
}

/* A level outside the codec's range works as the nearest one inside. */
static void levels_are_brought_into_range(void **state)
{
    static const int32_t levels[] = {INT32_MIN + 1, -1, 0, 1, 9, 22, INT32_MAX};
    uint8_t *in = sample(5000);
    (void)state;

    for (size_t c = 0; c < ARRAY_COUNT(codecs); c++) {
        for (size_t l = 0; l < ARRAY_COUNT(levels); l++) {
            struct iobuf *packed;
            assert_int_equal(compress_all(codecs[c], levels[l], in, 5000, &packed), ERR_NONE);
            assert_decompresses(codecs[c], packed->ptr, packed->len, in, 5000);
            iobuf_unref(packed);
        }
    }
    free(in);
}

/* Exactly the limit is allowed, one byte more is not, and the error stays. */
static void output_is_limited(void **state)
{
    enum { SIZE = 100000 };
    uint8_t *in = sample(SIZE), *out = malloc(SIZE + 64);
    struct decompressor d;
    size_t total;
    (void)state;

    decompressor_init(&d);
    for (size_t c = 0; c < ARRAY_COUNT(codecs); c++) {
        struct iobuf *packed;
        assert_int_equal(compress_all(codecs[c], COMPRESSION_LEVEL_DEFAULT, in, SIZE, &packed),
                         ERR_NONE);
        assert_int_equal(decompress_error(codecs[c], packed->ptr, packed->len, SIZE), ERR_NONE);
        assert_int_equal(decompress_error(codecs[c], packed->ptr, packed->len, SIZE - 1),
                         ERR_TOO_LARGE);
        assert_int_equal(decompress_error(codecs[c], packed->ptr, packed->len, 0), ERR_TOO_LARGE);

        assert_int_equal(decompressor_start(&d, codecs[c], packed->ptr, packed->len, 40000),
                         ERR_NONE);
        assert_int_equal(read_in_pieces(&d, 64, out, &total), ERR_TOO_LARGE);
        assert_true(total <= 40000);
        assert_memory_equal(out, in, total);
        assert_int_equal(read_in_pieces(&d, 64, out, &total), ERR_TOO_LARGE);
        iobuf_unref(packed);
    }
    decompressor_deinit(&d);
    free(out);
    free(in);
}

/* An input that ends early is never taken for a whole one. */
static void cut_input_is_corrupt(void **state)
{
    enum { SIZE = 3000 };
    uint8_t *in = sample(SIZE);
    (void)state;

    for (size_t c = 1; c < ARRAY_COUNT(codecs); c++) {
        struct iobuf *packed;
        assert_int_equal(compress_all(codecs[c], COMPRESSION_LEVEL_DEFAULT, in, SIZE, &packed),
                         ERR_NONE);
        for (size_t n = 0; n < packed->len; n++) {
            if (codecs[c] == COMPRESSION_SNAPPY && n == 16)
                continue; /* Java's header without a block is a whole, empty stream */
            assert_int_equal(decompress_error(codecs[c], packed->ptr, n, LIMIT),
                             ERR_CORRUPT_MESSAGE);
        }
        iobuf_unref(packed);
    }
    free(in);
}

/* No single changed byte does harm, and a context that failed works for the next input. */
static void damage_is_survived(void **state)
{
    enum { SIZE = 2000 };
    uint8_t *in = sample(SIZE), *out = malloc(LIMIT / 8 + 4096);
    struct decompressor d;
    size_t total;
    (void)state;

    decompressor_init(&d);
    for (size_t c = 1; c < ARRAY_COUNT(codecs); c++) {
        struct iobuf *packed;
        assert_int_equal(compress_all(codecs[c], COMPRESSION_LEVEL_DEFAULT, in, SIZE, &packed),
                         ERR_NONE);
        uint8_t *bad = malloc(packed->len);
        for (size_t i = 0; i < packed->len; i++) {
            memcpy(bad, packed->ptr, packed->len);
            bad[i] ^= (uint8_t)(1 << i % 8);
            assert_int_equal(decompressor_start(&d, codecs[c], bad, packed->len, LIMIT / 8),
                             ERR_NONE);
            enum err err = read_in_pieces(&d, 4096, out, &total);
            assert_true(err == ERR_NONE || err == ERR_CORRUPT_MESSAGE || err == ERR_TOO_LARGE);
        }
        assert_int_equal(decompressor_start(&d, codecs[c], packed->ptr, packed->len, LIMIT),
                         ERR_NONE);
        assert_int_equal(read_in_pieces(&d, 4096, out, &total), ERR_NONE);
        assert_int_equal(total, SIZE);
        free(bad);
        iobuf_unref(packed);
    }
    decompressor_deinit(&d);
    free(out);
    free(in);
}

/* Without Java's header the whole input is one raw snappy block. */
static void raw_snappy_is_read(void **state)
{
    enum { SIZE = 200000 };
    uint8_t *in = sample(SIZE);
    size_t size = snappy_max_compressed_length(SIZE);
    uint8_t *raw = malloc(size);
    (void)state;

    assert_int_equal(snappy_compress((char *)in, SIZE, (char *)raw, &size), SNAPPY_OK);
    assert_decompresses(COMPRESSION_SNAPPY, raw, size, in, SIZE);
    assert_int_equal(decompress_error(COMPRESSION_SNAPPY, raw, size, SIZE - 1), ERR_TOO_LARGE);
    free(raw);
    free(in);
}

/* A length that so few bytes can never expand to is refused before memory is asked for. */
static void snappy_that_promises_too_much_is_refused(void **state)
{
    static const uint8_t liar[] = {0xff, 0xff, 0xff, 0x7f, 0x00, 'x'};
    struct decompressor d;
    uint8_t out;
    size_t got;
    (void)state;

    decompressor_init(&d);
    assert_int_equal(decompressor_start(&d, COMPRESSION_SNAPPY, liar, sizeof liar, SIZE_MAX),
                     ERR_NONE);
    assert_int_equal(decompressor_read(&d, &out, 1, &got), ERR_CORRUPT_MESSAGE);
    assert_int_equal(d.block_capacity, 0);
    decompressor_deinit(&d);
}

static size_t append(uint8_t *to, size_t at, const void *from, size_t size)
{
    memcpy(to + at, from, size);
    return at + size;
}

/* Java reads streams that were glued together; so do we, where it does. */
static void concatenated_streams(void **state)
{
    static const int together[] = {COMPRESSION_GZIP, COMPRESSION_SNAPPY, COMPRESSION_ZSTD};
    uint8_t glued[1000];
    (void)state;

    for (size_t c = 0; c < ARRAY_COUNT(together); c++) {
        struct iobuf *a, *b;
        assert_int_equal(compress_all(together[c], 1, (const uint8_t *)"hello ", 6, &a), ERR_NONE);
        assert_int_equal(compress_all(together[c], 1, (const uint8_t *)"world", 5, &b), ERR_NONE);
        size_t size = append(glued, append(glued, 0, a->ptr, a->len), b->ptr, b->len);
        assert_decompresses(together[c], glued, size, (const uint8_t *)"hello world", 11);
        iobuf_unref(a);
        iobuf_unref(b);
    }
}

/* Bytes behind the end are refused for every codec that has an end. */
static void trailing_bytes_are_corrupt(void **state)
{
    uint8_t with_tail[1000];
    (void)state;

    for (size_t c = 1; c < ARRAY_COUNT(codecs); c++) {
        struct iobuf *b;
        assert_int_equal(compress_all(codecs[c], 1, (const uint8_t *)"hello", 5, &b), ERR_NONE);
        size_t size = append(with_tail, append(with_tail, 0, b->ptr, b->len), "xyz", 3);
        assert_int_equal(decompress_error(codecs[c], with_tail, size, LIMIT), ERR_CORRUPT_MESSAGE);
        iobuf_unref(b);
    }
}

/* Java reads LZ4 frames with independent blocks only, so linked ones must not get into a log. */
static void linked_lz4_blocks_are_refused(void **state)
{
    const LZ4F_preferences_t linked = {
        .frameInfo = {.blockSizeID = LZ4F_max64KB, .blockMode = LZ4F_blockLinked}};
    uint8_t *in = sample(200000);
    size_t size = LZ4F_compressFrameBound(200000, &linked);
    uint8_t *frame = malloc(size);
    (void)state;

    size = LZ4F_compressFrame(frame, size, in, 200000, &linked);
    assert_false(LZ4F_isError(size));
    assert_int_equal(decompress_error(COMPRESSION_LZ4, frame, size, LIMIT), ERR_CORRUPT_MESSAGE);
    free(frame);
    free(in);
}

/* A frame that claims a window of 128 MB, as zstd's highest level does, is read all the same. */
static void zstd_with_the_largest_window_is_read(void **state)
{
    uint8_t *in = sample(300000);
    uint8_t *packed = malloc(ZSTD_compressBound(300000));
    ZSTD_CCtx *z = ZSTD_createCCtx();
    (void)state;

    ZSTD_CCtx_setParameter(z, ZSTD_c_windowLog, 27);
    ZSTD_CCtx_setParameter(z, ZSTD_c_contentSizeFlag, 0);
    ZSTD_outBuffer to = {packed, ZSTD_compressBound(300000), 0};
    ZSTD_inBuffer from = {in, 150000, 0};
    assert_false(ZSTD_isError(ZSTD_compressStream2(z, &to, &from, ZSTD_e_continue)));
    from = (ZSTD_inBuffer){in + 150000, 150000, 0};
    assert_int_equal(ZSTD_compressStream2(z, &to, &from, ZSTD_e_end), 0);
    assert_decompresses(COMPRESSION_ZSTD, packed, to.pos, in, 300000);
    ZSTD_freeCCtx(z);
    free(packed);
    free(in);
}

/* A megabyte that would become a gigabyte stops at the limit. */
static void bombs_stop_at_the_limit(void **state)
{
    enum { SIZE = 64 << 20 };
    uint8_t *zeros = calloc(1, SIZE);
    (void)state;

    for (size_t c = 1; c < ARRAY_COUNT(codecs); c++) {
        struct iobuf *bomb;
        assert_int_equal(compress_all(codecs[c], 1, zeros, SIZE, &bomb), ERR_NONE);
        assert_int_equal(decompress_error(codecs[c], bomb->ptr, bomb->len, 1 << 20), ERR_TOO_LARGE);
        iobuf_unref(bomb);
    }
    free(zeros);
}

static void unknown_codecs_are_unsupported(void **state)
{
    struct decompressor d;
    struct iobuf *b;
    size_t got;
    uint8_t out;
    (void)state;

    decompressor_init(&d);
    for (int codec = 5; codec <= 7; codec++) {
        assert_int_equal(decompressor_start(&d, codec, (const uint8_t *)"x", 1, LIMIT),
                         ERR_UNSUPPORTED_COMPRESSION_TYPE);
        assert_int_equal(decompressor_read(&d, &out, 1, &got), ERR_UNSUPPORTED_COMPRESSION_TYPE);
        assert_int_equal(compress_all(codec, 1, (const uint8_t *)"x", 1, &b),
                         ERR_UNSUPPORTED_COMPRESSION_TYPE);
        assert_string_equal(compression_name(codec), "unknown");
    }
    assert_string_equal(compression_name(COMPRESSION_ZSTD), "zstd");
    decompressor_deinit(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),
        cmocka_unit_test(levels_are_brought_into_range),
        cmocka_unit_test(output_is_limited),
        cmocka_unit_test(cut_input_is_corrupt),
        cmocka_unit_test(damage_is_survived),
        cmocka_unit_test(raw_snappy_is_read),
        cmocka_unit_test(snappy_that_promises_too_much_is_refused),
        cmocka_unit_test(concatenated_streams),
        cmocka_unit_test(trailing_bytes_are_corrupt),
        cmocka_unit_test(linked_lz4_blocks_are_refused),
        cmocka_unit_test(zstd_with_the_largest_window_is_read),
        cmocka_unit_test(bombs_stop_at_the_limit),
        cmocka_unit_test(unknown_codecs_are_unsupported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
