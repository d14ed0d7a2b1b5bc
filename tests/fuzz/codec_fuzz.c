/* tests/fuzz/codec_fuzz.c -- any bytes as any message.
 *
 *     byte 0      API key; 254: a request header; 255: a message that belongs to no API
 *     byte 1      bit 7: response; else: request. For 255: which message, from the first
 *     byte 2      version, from the lowest that is known
 *     the rest    the message
 *
 * What decodes must encode, the result must decode again, and that must encode to the same bytes:
 * the codec's form of a message is one. No input costs more memory than the arena's budget.
 */
#include <stdlib.h>

#include "protocol/api.h"
#include "protocol/frame.h"

#define ARENA_MAX_BYTES (4u << 20)

enum { KEY_HEADER = 254, KEY_OTHER = 255 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *encode(const struct codec_struct *d, int16_t version, const void *message,
                       size_t *size)
{
    struct ioqueue q;
    size_t at = 0;

    ioqueue_init(&q);
    enum err err = codec_encode(d, version, message, &q);
    CHECK(err == ERR_NONE);
    CHECK(codec_size(d, version, message) == q.bytes_total);

    uint8_t *all = xmalloc(q.bytes_total + 1);
    for (size_t i = 0; i < q.count; i++) {
        const struct ioslice *s = ioqueue_at(&q, i);
        memcpy(all + at, s->buf->ptr + s->offset, s->len);
        at += s->len;
    }
    *size = at;
    ioqueue_deinit(&q);
    return all;
}

static void try_message(const struct codec_struct *d, int16_t version, const uint8_t *data,
                        size_t size)
{
    struct arena arena, arena_again;
    size_t used = 0;
    char text[256];

    arena_init(&arena, ARENA_MAX_BYTES);
    arena_init(&arena_again, ARENA_MAX_BYTES);
    void *message = xcalloc(1, d->size);
    enum err err = codec_decode(d, version, data, size, &arena, message, &used);
    CHECK(arena.bytes_used <= ARENA_MAX_BYTES);
    if (err == ERR_NONE) {
        size_t size_once, size_twice, used_again;
        void *again = xcalloc(1, d->size);

        CHECK(used <= size);
        (void)codec_print(d, version, message, text, sizeof text);
        uint8_t *once = encode(d, version, message, &size_once);
        err = codec_decode(d, version, once, size_once, &arena_again, again, &used_again);
        CHECK(err == ERR_NONE);
        CHECK(used_again == size_once);
        uint8_t *twice = encode(d, version, again, &size_twice);
        CHECK(size_once == size_twice);
        CHECK(memcmp(once, twice, size_once) == 0);
        free(twice);
        free(once);
        free(again);
    }
    free(message);
    arena_deinit(&arena_again);
    arena_deinit(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct codec_struct *d = NULL;
    struct frame_header header;

    if (size < 3)
        return 0;
    if (data[0] == KEY_HEADER) {
        if (request_header_read(data + 3, size - 3, &header) == ERR_NONE)
            CHECK(header.used <= size - 3);
        return 0;
    }
    if (data[0] == KEY_OTHER) {
        d = codec_messages[data[1] % codec_message_count];
    } else {
        const struct api_desc *api = api_find(data[0]);
        if (api == NULL)
            return 0;
        d = data[1] & 0x80 ? api->response : api->request;
    }
    int version_count = d->version_max - d->version_min + 1;
    int16_t version = (int16_t)(d->version_min + data[2] % version_count);
    try_message(d, version, data + 3, size - 3);
    return 0;
}
