/* protocol/base/iobuf.h -- counted pieces of bytes on their way out, in memory or in a file.
 *
 * An answer is a queue of slices: encoded headers (memory), and record batches that stay where
 * they are (a mapped tail, or a range of a file that goes out by sendfile). A slice holds a
 * reference, so that what it names cannot be unmapped, truncated or closed under it [H10].
 *
 * Thread: an iobuf may be referenced from any thread; an ioqueue belongs to one at a time.
 */
#ifndef FLUXMQ_BASE_IOBUF_H
#define FLUXMQ_BASE_IOBUF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/base/check.h"

struct file;

struct iobuf {
    atomic_int refs;
    size_t len;
    const uint8_t *ptr;   /* NULL: not in memory, only in the file */
    struct file *file;    /* NULL: memory alone */
    uint64_t file_offset; /* where byte 0 of this iobuf lies in the file */
    void (*release)(struct iobuf *b);
};

/* Heap memory of `len` bytes behind the header, one reference; writable through iobuf_bytes()
 * until it is shared. */
MUST_USE struct iobuf *iobuf_new(size_t len);
uint8_t *iobuf_bytes(struct iobuf *b);
struct iobuf *iobuf_ref(struct iobuf *b);
void iobuf_unref(struct iobuf *b);

struct ioslice {
    struct iobuf *buf; /* one reference */
    size_t offset, len;
};

/* First in, first out; bytes_total is kept. */
struct ioqueue {
    struct ioslice *slices; /* a ring */
    size_t head, count, capacity;
    size_t bytes_total;
};

void ioqueue_init(struct ioqueue *q);
void ioqueue_deinit(struct ioqueue *q); /* drops what is left */
/* Takes over the caller's reference. */
void ioqueue_push(struct ioqueue *q, struct iobuf *b, size_t offset, size_t len);
/* Copies into a buffer of its own, or behind the last one where it has room. */
void ioqueue_push_copy(struct ioqueue *q, const void *ptr, size_t len);
/* Moves everything of `from` to the end of `to`. */
void ioqueue_splice(struct ioqueue *to, struct ioqueue *from);
/* The i-th slice from the front; NULL past the end. */
const struct ioslice *ioqueue_at(const struct ioqueue *q, size_t i);
/* Drops the first `len` bytes, which have been sent. */
void ioqueue_consume(struct ioqueue *q, size_t len);

#endif
