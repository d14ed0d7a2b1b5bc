#include "storage/segment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/crc32c.h"

struct segment *segment_new(struct env *env, int64_t base_offset)
{
    struct segment *s = xcalloc(1, sizeof *s);

    s->refs = 1;
    s->env = env;
    s->base_offset = s->next_offset = base_offset;
    s->first_timestamp_ms = s->max_timestamp_ms = s->max_timestamp_offset = -1;
    s->index_checked = true;
    index_init(&s->offsets, INDEX_OFFSETS, base_offset);
    index_init(&s->times, INDEX_TIMES, base_offset);
    return s;
}

struct segment *segment_ref(struct segment *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void segment_unref(struct segment *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    index_deinit(&s->offsets);
    index_deinit(&s->times);
    if (s->aborted != NULL) {
        txn_index_deinit(s->aborted);
        free(s->aborted);
    }
    if (s->file != NULL)
        file_unref(s->file);
    free(s->checked.v);
    free(s);
}

void segment_file_name(int64_t base_offset, const char *suffix, char out[SEGMENT_NAME_SIZE])
{
    (void)snprintf(out, SEGMENT_NAME_SIZE, "%020lld%s", (long long)base_offset, suffix);
}

bool segment_name_offset(const char *name, const char *suffix, int64_t *offset)
{
    if (strspn(name, "0123456789") != 20 || strcmp(name + 20, suffix) != 0)
        return false;
    return parse_int64((struct str){name, 20}, offset);
}

/* ---- appending ---- */

bool segment_can_hold(const struct segment *s, int64_t last_offset)
{
    return last_offset - s->base_offset <= INT32_MAX;
}

/* Timestamps that do not grow make no entry; an index without one stays without a file. */
static void add_time_entry(struct segment *s)
{
    if (s->max_timestamp_ms > s->times.last.key)
        index_append(&s->times, (struct index_entry){s->max_timestamp_ms, s->max_timestamp_offset});
}

void segment_account(struct segment *s, const struct record_batch *b, int64_t index_interval_bytes)
{
    int64_t last_offset = record_batch_last_offset(b);
    uint32_t size = (uint32_t)b->size_bytes;

    if (s->size_bytes == 0)
        s->first_timestamp_ms = b->max_timestamp;
    if (b->max_timestamp > s->max_timestamp_ms) {
        s->max_timestamp_ms = b->max_timestamp;
        s->max_timestamp_offset = last_offset;
    }
    /* Kafka's rule: the batch that finds more than the interval behind it gets the entry. */
    if (s->bytes_since_index > index_interval_bytes) {
        index_append(&s->offsets, (struct index_entry){last_offset, (int64_t)s->size_bytes});
        add_time_entry(s);
        s->bytes_since_index = 0;
    }
    s->bytes_since_index += size;
    s->size_bytes += size;
    s->next_offset = last_offset + 1;
}

enum err segment_append(struct segment *s, const struct record_batch *b, const uint8_t *bytes,
                        int64_t index_interval_bytes, int64_t now_unix_ms, struct errmsg *why)
{
    enum err e = file_write(s->file, s->size_bytes, bytes, (size_t)b->size_bytes, why);

    if (e != ERR_NONE)
        return e;
    segment_account(s, b, index_interval_bytes);
    checked_add(&s->checked, s->size_bytes - (uint64_t)b->size_bytes, s->size_bytes,
                s->next_offset);
    s->modified_ms = now_unix_ms;
    s->dirty = true;
    return ERR_NONE;
}

void segment_seal(struct segment *s)
{
    add_time_entry(s);
    s->sealed = true;
}

/* ---- what was checked ---- */

static void drop_range(struct checked_ranges *c, int i)
{
    memmove(c->v + i, c->v + i + 1, (size_t)(c->count - i - 1) * sizeof *c->v);
    c->count--;
}

static void drop_smallest(struct checked_ranges *c)
{
    int smallest = 0;

    for (int i = 1; i < c->count; i++) {
        if (c->v[i].to - c->v[i].from < c->v[smallest].to - c->v[smallest].from)
            smallest = i;
    }
    drop_range(c, smallest);
}

void checked_add(struct checked_ranges *c, uint64_t from, uint64_t to, int64_t next_offset)
{
    struct checked_range *last = c->count > 0 ? &c->v[c->count - 1] : NULL;

    if (to <= from)
        return;
    if (last != NULL && last->to == from) { /* an append */
        last->to = (uint32_t)to;
        last->next_offset = next_offset;
        return;
    }

    struct checked_range r = {to_uint32_checked((int64_t)from), to_uint32_checked((int64_t)to),
                              next_offset};

    for (int i = c->count - 1; i >= 0; i--) { /* those that it touches become part of it */
        if (c->v[i].from > r.to || c->v[i].to < r.from)
            continue;
        if (c->v[i].to > r.to) {
            r.to = c->v[i].to;
            r.next_offset = c->v[i].next_offset;
        }
        r.from = MIN(r.from, c->v[i].from);
        drop_range(c, i);
    }
    if (c->count == CHECKED_RANGES_MAX)
        drop_smallest(c);
    if (c->count == c->capacity) {
        c->capacity = MAX(c->capacity * 2, 1);
        c->v = xrealloc(c->v, (size_t)c->capacity * sizeof *c->v);
    }

    int at = 0;

    while (at < c->count && c->v[at].from < r.from)
        at++;
    memmove(c->v + at + 1, c->v + at, (size_t)(c->count - at) * sizeof *c->v);
    c->v[at] = r;
    c->count++;
}

const struct checked_range *checked_at(const struct checked_ranges *c, uint64_t position)
{
    for (int i = c->count - 1; i >= 0; i--) { /* the last one is asked for most */
        if (c->v[i].from <= position)
            return position <= c->v[i].to ? &c->v[i] : NULL;
    }
    return NULL;
}

bool checked_covers(const struct checked_ranges *c, uint64_t from, uint64_t to)
{
    const struct checked_range *r = checked_at(c, from);

    return to <= from || (r != NULL && r->to >= to);
}

/* ---- views ---- */

void segment_view_take(struct segment *s, struct segment_view *out)
{
    CHECK(s->file != NULL);
    s->idle_ticks = 0;
    *out = (struct segment_view){
        .base_offset = s->base_offset,
        .next_offset = s->next_offset,
        .size_bytes = s->size_bytes,
        .file = file_ref(s->file),
    };
    index_view_take(&s->offsets, &out->offsets);
    index_view_take(&s->times, &out->times);
}

void segment_view_drop(struct segment_view *v)
{
    index_view_drop(&v->offsets);
    index_view_drop(&v->times);
    file_unref(v->file);
}

static enum err locate_from(const struct segment_view *v, int64_t offset, uint64_t from,
                            struct batch_position *out)
{
    uint8_t buffer[BATCH_READER_SMALL];
    struct batch_reader r;
    struct errmsg why;

    batch_reader_init(&r, v->file, from, v->size_bytes, buffer, sizeof buffer);
    r.resident_only = v->resident_only;
    for (;;) {
        out->position = r.position;

        enum err e = batch_reader_next(&r, false, &out->batch, &why);

        if (e != ERR_NONE)
            return e;
        out->batch.ptr = NULL;
        if (record_batch_last_offset(&out->batch) >= offset)
            return ERR_NONE;
    }
}

static uint64_t best_start(const struct segment_view *v, int64_t offset, uint64_t from)
{
    struct index_entry e;

    if (index_floor_key(&v->offsets, offset, &e) && (uint64_t)e.value > from &&
        (uint64_t)e.value < v->size_bytes)
        return (uint64_t)e.value;
    return from;
}

enum err segment_locate(const struct segment_view *v, int64_t offset, uint64_t from,
                        struct batch_position *out)
{
    uint64_t start = best_start(v, offset, from);
    enum err e = locate_from(v, offset, start, out);

    /* An index is a hint: if it led astray, the way from the front is slow and right. What was
     * found must be a batch that begins at or before the offset, or the first one there is. */
    if (start > from && e != ERR_AGAIN && (e != ERR_NONE || out->batch.base_offset > offset))
        e = locate_from(v, offset, from, out);
    return e;
}

bool segment_locate_resident(const struct segment_view *v, int64_t offset)
{
    return v->size_bytes == 0 || index_resident_key(&v->offsets, offset);
}

enum err segment_locate_load(const struct segment_view *v, int64_t offset, uint64_t from)
{
    uint64_t start = MIN(best_start(v, offset, from), v->size_bytes);

    return file_load(v->file, start, (size_t)MIN(v->size_bytes - start, 2 * BATCH_READER_SMALL));
}

/* Where a walk to `limit` begins: the index may know a batch nearer than `start`. */
static uint64_t walk_start(const struct segment_view *v, uint64_t start, uint64_t limit)
{
    struct index_entry e;

    if (limit - start > BATCH_READER_SMALL && index_floor_value(&v->offsets, (int64_t)limit, &e) &&
        (uint64_t)e.value > start)
        return (uint64_t)e.value;
    return start;
}

bool segment_boundary_resident(const struct segment_view *v, uint64_t start, uint64_t limit)
{
    return limit >= v->size_bytes || limit - start <= BATCH_READER_SMALL ||
           index_resident_value(&v->offsets, (int64_t)limit);
}

enum err segment_boundary(const struct segment_view *v, uint64_t start, uint64_t limit,
                          uint64_t *out)
{
    uint8_t buffer[BATCH_READER_SMALL];
    struct batch_reader r;
    struct record_batch b;
    struct errmsg why;

    limit = MIN(limit, v->size_bytes);
    *out = start;
    if (limit == v->size_bytes) {
        *out = limit;
        return ERR_NONE;
    }
    *out = walk_start(v, start, limit);
    batch_reader_init(&r, v->file, *out, v->size_bytes, buffer, sizeof buffer);
    r.resident_only = v->resident_only;
    while (r.position < limit) {
        enum err err = batch_reader_next(&r, false, &b, &why);

        if (err != ERR_NONE)
            return err;
        if (r.position <= limit)
            *out = r.position;
    }
    return ERR_NONE;
}

/* ---- walking over a file ---- */

void batch_reader_init(struct batch_reader *r, struct file *f, uint64_t position, uint64_t end,
                       uint8_t *buffer, size_t buffer_size)
{
    CHECK(buffer_size >= BATCH_READER_SMALL);
    *r = (struct batch_reader){
        .file = f,
        .position = position,
        .end = end,
        .buffer = buffer,
        .buffer_size = buffer_size,
    };
}

/* Makes [position, position + size) present, as far as the file goes; what there is, in *have. */
static enum err fill(struct batch_reader *r, uint64_t position, size_t size, const uint8_t **p,
                     size_t *have)
{
    size = MIN(size, r->buffer_size);
    size = (size_t)MIN((uint64_t)size, r->end - position);
    if (position < r->buffer_position || position + size > r->buffer_position + r->buffer_have) {
        size_t want = (size_t)MIN((uint64_t)r->buffer_size, r->end - position), kept = 0, n = 0;

        if (position >= r->buffer_position && position < r->buffer_position + r->buffer_have) {
            kept = (size_t)(r->buffer_position + r->buffer_have - position);
            memmove(r->buffer, r->buffer + (position - r->buffer_position), kept);
        }

        if (r->resident_only && !file_resident(r->file, position + kept, want - kept)) {
            r->buffer_have = 0;
            return ERR_AGAIN;
        }

        enum err e = file_read(r->file, position + kept, r->buffer + kept, want - kept, &n);

        r->buffer_position = position;
        r->buffer_have = kept + n;
        if (e != ERR_NONE) {
            r->buffer_have = 0;
            return e;
        }
    }
    *p = r->buffer + (position - r->buffer_position);
    *have = MIN(size, (size_t)(r->buffer_position + r->buffer_have - position));
    return ERR_NONE;
}

static enum err corrupt(struct errmsg *why, uint64_t position, const char *what)
{
    errmsg_set(why, "position %llu: %s", (unsigned long long)position, what);
    return ERR_CORRUPT;
}

/* The CRC of a batch that is larger than the buffer, piece by piece. */
static enum err crc_in_pieces(struct batch_reader *r, const struct record_batch *b,
                              struct errmsg *why)
{
    uint64_t at = r->position + RECORD_BATCH_CRC_START;
    uint64_t end = r->position + (uint64_t)b->size_bytes;
    uint32_t crc = 0;

    while (at < end) {
        const uint8_t *p;
        size_t have;
        enum err e = fill(r, at, (size_t)MIN((uint64_t)r->buffer_size, end - at), &p, &have);

        if (e != ERR_NONE)
            return e;
        if (have == 0)
            return corrupt(why, r->position, "the file ends inside a batch");
        crc = crc32c(crc, p, have);
        at += have;
    }
    return crc == b->crc ? ERR_NONE : corrupt(why, r->position, "CRC mismatch");
}

static enum err check_whole(struct batch_reader *r, bool check_crc, struct record_batch *b,
                            struct errmsg *why)
{
    const uint8_t *p;
    size_t have;

    b->ptr = NULL;
    if (!check_crc && !record_batch_is_control(b))
        return ERR_NONE;
    if ((size_t)b->size_bytes > r->buffer_size)
        return check_crc ? crc_in_pieces(r, b, why) : ERR_NONE;

    enum err e = fill(r, r->position, (size_t)b->size_bytes, &p, &have);

    if (e != ERR_NONE)
        return e;
    if (have < (size_t)b->size_bytes)
        return corrupt(why, r->position, "the file ends inside a batch");
    b->ptr = p;
    if (check_crc && !record_batch_crc_ok(b))
        return corrupt(why, r->position, "CRC mismatch");
    return ERR_NONE;
}

enum err batch_reader_next(struct batch_reader *r, bool check_crc, struct record_batch *out,
                           struct errmsg *why)
{
    const uint8_t *p;
    size_t have;

    if (r->position >= r->end)
        return ERR_NOT_FOUND;

    enum err e = fill(r, r->position, RECORD_BATCH_HEADER_SIZE, &p, &have);

    if (e != ERR_NONE)
        return e;
    if (have < RECORD_BATCH_HEADER_SIZE)
        return corrupt(why, r->position, "the file ends inside a batch header");

    int64_t size = (int64_t)(int32_t)load_be32(p + 8) + RECORD_BATCH_PREFIX_SIZE;

    if (size < RECORD_BATCH_HEADER_SIZE)
        return corrupt(why, r->position, "no batch: the length is too small");
    if ((uint64_t)size > r->end - r->position)
        return corrupt(why, r->position, "the file ends inside a batch");
    /* Only the header is looked at, and the header is there. */
    if (record_batch_parse(p, (size_t)size, out) != ERR_NONE)
        return corrupt(why, r->position, "no batch of magic 2");
    e = check_whole(r, check_crc, out, why);
    if (e == ERR_NONE)
        r->position += (uint64_t)size;
    return e;
}

enum err file_rest_is_zero(struct file *f, uint64_t from, uint64_t end, bool *zero)
{
    uint8_t *buffer = xmalloc(BATCH_READER_LARGE);
    enum err e = ERR_NONE;
    size_t n = 1;

    *zero = true;
    while (e == ERR_NONE && *zero && from < end && n > 0) {
        e = file_read(f, from, buffer, (size_t)MIN(end - from, BATCH_READER_LARGE), &n);
        if (e == ERR_NONE && n > 0)
            *zero = buffer[0] == 0 && memcmp(buffer, buffer + 1, n - 1) == 0;
        from += n;
    }
    free(buffer);
    return e;
}
