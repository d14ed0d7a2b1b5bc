#include "protocol/base/iobuf.h"

#include <stdlib.h>
#include <string.h>

#define SLICES_FIRST 8
#define CHUNK_BYTES  ((size_t)4096)

/* ---- iobuf ---- */

static void release_heap(struct iobuf *b)
{
    free(b);
}

static struct iobuf *heap_iobuf(size_t len, void (*release)(struct iobuf *b))
{
    CHECK(len <= SIZE_MAX - sizeof(struct iobuf));

    struct iobuf *b = xmalloc(sizeof *b + len);
    atomic_init(&b->refs, 1);
    b->len = len;
    b->ptr = (const uint8_t *)(b + 1);
    b->file = NULL;
    b->file_offset = 0;
    b->release = release;
    return b;
}

struct iobuf *iobuf_new(size_t len)
{
    return heap_iobuf(len, release_heap);
}

static bool iobuf_is_alone(struct iobuf *b)
{
    return atomic_load_explicit(&b->refs, memory_order_acquire) == 1;
}

uint8_t *iobuf_bytes(struct iobuf *b)
{
    /* Only memory that lies behind its header is ours to write. */
    CHECK(b->ptr == (const uint8_t *)(b + 1));
    CHECK(iobuf_is_alone(b));
    return (uint8_t *)(b + 1);
}

struct iobuf *iobuf_ref(struct iobuf *b)
{
    int before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    CHECK(before > 0);
    return b;
}

void iobuf_unref(struct iobuf *b)
{
    int before = atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel);
    CHECK(before > 0);
    if (before == 1)
        b->release(b);
}

/* ---- ioqueue ---- */

/* Its address marks the buffers that ioqueue_push_copy() made: only behind their slices is there
 * room that nobody else knows of. (The same work as release_heap, but another function.) */
static void release_chunk(struct iobuf *b)
{
    release_heap(b);
}

static struct ioslice *slice_at(const struct ioqueue *q, size_t i)
{
    return &q->slices[(q->head + i) & (q->capacity - 1)];
}

void ioqueue_init(struct ioqueue *q)
{
    *q = (struct ioqueue){0};
}

void ioqueue_deinit(struct ioqueue *q)
{
    for (size_t i = 0; i < q->count; i++)
        iobuf_unref(slice_at(q, i)->buf);
    free(q->slices);
    ioqueue_init(q);
}

static void grow(struct ioqueue *q)
{
    size_t capacity = q->capacity == 0 ? SLICES_FIRST : q->capacity * 2;
    struct ioslice *slices = xcalloc(capacity, sizeof *slices);

    for (size_t i = 0; i < q->count; i++)
        slices[i] = *slice_at(q, i);
    free(q->slices);
    q->slices = slices;
    q->head = 0;
    q->capacity = capacity;
}

void ioqueue_push(struct ioqueue *q, struct iobuf *b, size_t offset, size_t len)
{
    CHECK(offset <= b->len);
    CHECK(len <= b->len - offset);
    if (len == 0) {
        iobuf_unref(b);
        return;
    }
    if (q->count == q->capacity)
        grow(q);
    *slice_at(q, q->count++) = (struct ioslice){.buf = b, .offset = offset, .len = len};
    q->bytes_total += len;
}

/* Room for `len` bytes behind the last slice; NULL when there is none that is ours alone. */
static struct ioslice *tail_with_room(struct ioqueue *q, size_t len)
{
    if (q->count == 0)
        return NULL;
    struct ioslice *tail = slice_at(q, q->count - 1);
    if (tail->buf->release != release_chunk || !iobuf_is_alone(tail->buf))
        return NULL;
    return tail->buf->len - tail->offset - tail->len >= len ? tail : NULL;
}

void ioqueue_push_copy(struct ioqueue *q, const void *ptr, size_t len)
{
    if (len == 0)
        return;
    struct ioslice *tail = tail_with_room(q, len);
    if (tail != NULL) {
        memcpy(iobuf_bytes(tail->buf) + tail->offset + tail->len, ptr, len);
        tail->len += len;
        q->bytes_total += len;
        return;
    }
    struct iobuf *chunk = heap_iobuf(MAX(len, CHUNK_BYTES), release_chunk);
    memcpy(iobuf_bytes(chunk), ptr, len);
    ioqueue_push(q, chunk, 0, len);
}

void ioqueue_splice(struct ioqueue *to, struct ioqueue *from)
{
    CHECK(to != from);
    for (size_t i = 0; i < from->count; i++) {
        const struct ioslice *s = slice_at(from, i);
        ioqueue_push(to, s->buf, s->offset, s->len);
    }
    from->head = from->count = 0;
    from->bytes_total = 0;
}

const struct ioslice *ioqueue_at(const struct ioqueue *q, size_t i)
{
    return i < q->count ? slice_at(q, i) : NULL;
}

void ioqueue_consume(struct ioqueue *q, size_t len)
{
    CHECK(len <= q->bytes_total);
    q->bytes_total -= len;
    while (len > 0) {
        struct ioslice *s = slice_at(q, 0);
        if (len < s->len) {
            s->offset += len;
            s->len -= len;
            return;
        }
        len -= s->len;
        iobuf_unref(s->buf);
        q->head = (q->head + 1) & (q->capacity - 1);
        q->count--;
    }
}
