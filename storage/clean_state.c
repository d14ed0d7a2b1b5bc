#include "storage/clean_state.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/crc32c.h"

#define VERSION    1
#define HEAD_BYTES 16u

/* An entry: int32 size of what follows; int16 length and topic name; topic id; int32 partition;
 * int64 start and end offset, log time, offset of a producer snapshot without segment;
 * int32 whether the epochs are in a file; int32 n and n epochs: int32 epoch, int64 start;
 * int32 n and n segments: int64 base, next, size, first timestamp, max timestamp and its offset,
 *   modified; int32 bytes since the last index entry; int32 stored entries and the last entry
 *   (int64 key, int64 value) of the offset and of the time index; int32 aborted transactions, each
 *   int64 producer id, first, last and last stable offset;
 * int32 size and a producer snapshot, 0: no producers. */

/* ---- writing ---- */

static void put(struct clean_writer *w, const void *p, size_t size)
{
    if (w->size + size > w->capacity) {
        w->capacity = MAX(w->capacity * 2, w->size + size + 4096);
        w->ptr = xrealloc(w->ptr, w->capacity);
    }
    memcpy(w->ptr + w->size, p, size);
    w->size += size;
}

static void put32(struct clean_writer *w, int64_t v)
{
    uint8_t b[4];

    store_be32(b, (uint32_t)v);
    put(w, b, sizeof b);
}

static void put64(struct clean_writer *w, int64_t v)
{
    uint8_t b[8];

    store_be64(b, (uint64_t)v);
    put(w, b, sizeof b);
}

static void put_index(struct clean_writer *w, const struct index *x)
{
    put32(w, x->stored_count);
    put64(w, x->last.key);
    put64(w, x->last.value);
}

static void put_segment(struct clean_writer *w, const struct segment *s)
{
    uint32_t aborted = s->aborted != NULL ? s->aborted->count : 0;

    put64(w, s->base_offset);
    put64(w, s->next_offset);
    put64(w, (int64_t)s->size_bytes);
    put64(w, s->first_timestamp_ms);
    put64(w, s->max_timestamp_ms);
    put64(w, s->max_timestamp_offset);
    put64(w, s->modified_ms);
    put32(w, s->bytes_since_index);
    put_index(w, &s->offsets);
    put_index(w, &s->times);
    put32(w, aborted);
    for (uint32_t i = 0; i < aborted; i++) {
        put64(w, s->aborted->v[i].producer_id);
        put64(w, s->aborted->v[i].first_offset);
        put64(w, s->aborted->v[i].last_offset);
        put64(w, s->aborted->v[i].last_stable_offset);
    }
}

void clean_writer_init(struct clean_writer *w)
{
    *w = (struct clean_writer){.ptr = NULL};
    put(w, "FMQCLEAN", 8);
    put32(w, VERSION);
    put32(w, 0);
}

void clean_writer_add(struct clean_writer *w, const struct log *l)
{
    size_t begin = w->size, topic_size = strlen(l->id.topic);
    uint8_t length[2];

    put32(w, 0);
    store_be16(length, (uint16_t)topic_size);
    put(w, length, sizeof length);
    put(w, l->id.topic, topic_size);
    put(w, l->id.topic_id.b, sizeof l->id.topic_id.b);
    put32(w, l->id.partition);
    put64(w, l->start_offset);
    put64(w, l->end_offset);
    put64(w, l->producers.log_time_ms);
    put64(w, l->stray_snapshot);
    put32(w, l->epochs_saved);
    put32(w, l->epochs.count);
    for (int32_t i = 0; i < l->epochs.count; i++) {
        put32(w, l->epochs.v[i].epoch);
        put64(w, l->epochs.v[i].start_offset);
    }
    put32(w, l->segment_count);
    for (int i = 0; i < l->segment_count; i++)
        put_segment(w, l->segments[i]);
    if (producer_state_count(&l->producers) > 0) {
        size_t size;
        uint8_t *p = producer_state_encode(&l->producers, &size);

        put32(w, (int64_t)size);
        put(w, p, size);
        free(p);
    } else {
        put32(w, 0);
    }
    store_be32(w->ptr + begin, to_uint32_checked((int64_t)(w->size - begin - 4)));
    w->count++;
}

void clean_writer_finish(struct clean_writer *w)
{
    store_be32(w->ptr + 12, w->count);
    put32(w, crc32c(0, w->ptr, w->size));
}

void clean_writer_deinit(struct clean_writer *w)
{
    free(w->ptr);
    *w = (struct clean_writer){.ptr = NULL};
}

/* ---- reading ---- */

/* A piece of the file that is taken apart; `failed` stays once something did not fit. */
struct piece {
    const uint8_t *ptr, *end;
    bool failed;
};

static const uint8_t *take(struct piece *p, size_t size)
{
    if (p->failed || (size_t)(p->end - p->ptr) < size) {
        p->failed = true;
        return NULL;
    }
    p->ptr += size;
    return p->ptr - size;
}

static int32_t take32(struct piece *p)
{
    const uint8_t *b = take(p, 4);

    return b != NULL ? (int32_t)load_be32(b) : 0;
}

static int64_t take64(struct piece *p)
{
    const uint8_t *b = take(p, 8);

    return b != NULL ? (int64_t)load_be64(b) : 0;
}

/* A count of things of at least `size` bytes each. */
static int32_t take_count(struct piece *p, size_t size)
{
    int32_t n = take32(p);

    if (n < 0 || (size_t)n > (size_t)(p->end - p->ptr) / size)
        p->failed = true;
    return p->failed ? 0 : n;
}

bool clean_reader_init(struct clean_reader *r, const uint8_t *p, size_t size)
{
    *r = (struct clean_reader){.left = 0};
    if (size < HEAD_BYTES + 4 || memcmp(p, "FMQCLEAN", 8) != 0 || load_be32(p + 8) != VERSION ||
        crc32c(0, p, size - 4) != load_be32(p + size - 4))
        return false;
    *r = (struct clean_reader){
        .ptr = p + HEAD_BYTES, .end = p + size - 4, .left = load_be32(p + 12)};
    return true;
}

static bool entry_of(const struct clean_reader *r, struct piece *out)
{
    if (r->left == 0 || r->end - r->ptr < 4)
        return false;

    uint32_t size = load_be32(r->ptr);

    if (size > (size_t)(r->end - r->ptr) - 4)
        return false;
    *out = (struct piece){.ptr = r->ptr + 4, .end = r->ptr + 4 + size};
    return true;
}

static void take_identity(struct piece *p, struct log_identity *out)
{
    const uint8_t *b = take(p, 2);
    size_t size = b != NULL ? load_be16(b) : 0;

    *out = (struct log_identity){.partition = -1};
    if (size == 0 || size >= sizeof out->topic)
        p->failed = true;
    b = take(p, size);
    if (b != NULL)
        memcpy(out->topic, b, size);
    b = take(p, sizeof out->topic_id.b);
    if (b != NULL)
        memcpy(out->topic_id.b, b, sizeof out->topic_id.b);
    out->partition = take32(p);
}

bool clean_reader_peek(const struct clean_reader *r, struct log_identity *out)
{
    struct piece p;

    if (!entry_of(r, &p))
        return false;
    take_identity(&p, out);
    return !p.failed;
}

void clean_reader_skip(struct clean_reader *r)
{
    struct piece p;

    if (!entry_of(r, &p)) {
        r->left = 0;
        return;
    }
    r->ptr = p.end;
    r->left--;
}

static void take_index(struct piece *p, struct index *x)
{
    x->stored_count = (uint32_t)take32(p);
    x->last.key = take64(p);
    x->last.value = take64(p);
}

static struct segment *take_segment(struct piece *p, struct env *env)
{
    struct segment *s = segment_new(env, take64(p));

    s->index_checked = false; /* the files are as this says unless somebody has changed them */
    s->next_offset = take64(p);
    s->size_bytes = (uint64_t)take64(p);
    s->first_timestamp_ms = take64(p);
    s->max_timestamp_ms = take64(p);
    s->max_timestamp_offset = take64(p);
    s->modified_ms = take64(p);
    s->bytes_since_index = (uint32_t)take32(p);
    take_index(p, &s->offsets);
    take_index(p, &s->times);

    int32_t aborted = take_count(p, 32);

    if (aborted > 0)
        s->aborted = xcalloc(1, sizeof *s->aborted);
    for (int32_t i = 0; i < aborted; i++) {
        struct completed_transaction t = {.aborted = true};

        t.producer_id = take64(p);
        t.first_offset = take64(p);
        t.last_offset = take64(p);
        t.last_stable_offset = take64(p);
        txn_index_append(s->aborted, &t);
    }
    if (s->aborted != NULL)
        s->aborted->stored_count = s->aborted->count;
    if (s->base_offset < 0 || s->next_offset < s->base_offset || s->size_bytes > SEGMENT_BYTES_MAX)
        p->failed = true;
    return s;
}

static void take_producers(struct piece *p, struct log *l, int64_t log_time_ms)
{
    int32_t size = take_count(p, 1);
    const uint8_t *b = take(p, (size_t)size);
    struct errmsg why;

    if (size > 0 && b != NULL &&
        producer_state_decode(&l->producers, b, (size_t)size, &why) != ERR_NONE)
        p->failed = true;
    l->producers.log_time_ms = log_time_ms;
}

bool clean_reader_next(struct clean_reader *r, struct log *l)
{
    struct log_identity ignored;
    struct piece p;

    if (!entry_of(r, &p)) {
        r->left = 0;
        return false;
    }
    clean_reader_skip(r);
    take_identity(&p, &ignored);
    l->start_offset = take64(&p);
    l->end_offset = take64(&p);
    l->recovery_point = l->end_offset;

    int64_t log_time_ms = take64(&p);

    l->stray_snapshot = take64(&p);

    l->epochs_saved = take32(&p) != 0;

    int32_t count = take_count(&p, 12);

    for (int32_t i = 0; i < count && !p.failed; i++) {
        int32_t epoch = take32(&p);
        int64_t start = take64(&p);

        if (epoch < 0 || start < 0)
            p.failed = true;
        else
            leader_epochs_assign(&l->epochs, epoch, start);
    }
    l->epochs.dirty = l->epochs.count > 0 && !l->epochs_saved;
    count = take_count(&p, 60);
    for (int32_t i = 0; i < count && !p.failed; i++) {
        struct segment *s = take_segment(&p, l->env);

        s->sealed = i + 1 < count;
        log_push_segment(l, s);
    }
    l->settled_start = l->segment_count > 1 && l->segments[1]->base_offset <= l->start_offset
                           ? l->segments[0]->base_offset /* what lies below is still to go */
                           : l->start_offset;
    take_producers(&p, l, log_time_ms);
    return !p.failed && p.ptr == p.end;
}
