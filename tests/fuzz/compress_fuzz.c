/* Any bytes as input of each codec: no read or write outside, no more output than the limit, the
 * same outcome from one read as from many, and what comes out compresses and comes back. */
#include <stdlib.h>

#include "protocol/base/check.h"
#include "protocol/compress.h"

#define LIMIT ((size_t)1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(int codec, const struct iobuf *plain)
{
    struct iobuf *packed, *back;

    CHECK(compress_all(codec, 1, plain->ptr, plain->len, &packed) == ERR_NONE);
    CHECK(decompress_all(codec, packed->ptr, packed->len, LIMIT, &back) == ERR_NONE);
    CHECK(back->len == plain->len);
    CHECK(plain->len == 0 || memcmp(back->ptr, plain->ptr, plain->len) == 0);
    iobuf_unref(packed);
    iobuf_unref(back);
}

/* First byte: the codec, and the size of the pieces to read in. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct decompressor d;
    struct iobuf *plain;
    uint8_t piece[4096];
    size_t total = 0, got = 1;

    if (size == 0)
        return 0;
    int codec = data[0] & 7;
    size_t piece_size = (size_t)1 << (data[0] >> 3) % 13;

    decompressor_init(&d);
    enum err err = decompressor_start(&d, codec, data + 1, size - 1, LIMIT);
    while (err == ERR_NONE && got > 0) {
        err = decompressor_read(&d, piece, piece_size, &got);
        CHECK(got <= piece_size);
        total += got;
        CHECK(total <= LIMIT);
        if (piece_size < 64 && total > 65536)
            break; /* a bomb a byte at a time teaches nothing */
    }
    bool to_the_end = err != ERR_NONE || got == 0;
    decompressor_deinit(&d);

    enum err whole = decompress_all(codec, data + 1, size - 1, LIMIT, &plain);
    if (to_the_end)
        CHECK(whole == err);
    if (whole == ERR_NONE) {
        if (to_the_end)
            CHECK(plain->len == total);
        check_round_trip(codec, plain);
        iobuf_unref(plain);
    }
    return 0;
}
