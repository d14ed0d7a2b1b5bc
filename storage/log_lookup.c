/* Lookups that may wait for the disk: cold positions, and records by timestamp. */
#include <stdlib.h>
#include <string.h>

#include "storage/log_internal.h"

#define DECOMPRESSED_BYTES_MAX ((size_t)1 << 30) /* walked through, never held */

/* A reference to the segment that holds `offset` or follows it; NULL when there is none. */
static struct segment *segment_at(struct log *l, int64_t offset)
{
    mutex_lock(&l->lock);
    int i = log_find_segment(l, offset);
    struct segment *s = i < l->segment_count ? segment_ref(l->segments[i]) : NULL;

    mutex_unlock(&l->lock);
    return s;
}

static enum err refuse(struct log *l, enum err e, const struct errmsg *why)
{
    if (e == ERR_NONE)
        return e;
    if (e == ERR_AGAIN) /* put to rest or deleted in this moment */
        return l->closed ? ERR_KAFKA_STORAGE_ERROR : ERR_AGAIN;
    log_failed(l, e, why);
    log_kick(l);
    return ERR_KAFKA_STORAGE_ERROR;
}

static enum err load_index(const struct index_view *v)
{
    if (v->file == NULL || v->stored_count == 0)
        return ERR_NONE;
    return file_load(v->file, 0, v->stored_count * index_entry_size(v->kind));
}

enum err log_load(struct log *l, int64_t offset, size_t bytes)
{
    struct errmsg why = {""};
    struct segment_view v;
    struct batch_position at;

    if (log_offline_reason(l) != NULL)
        return ERR_KAFKA_STORAGE_ERROR;

    struct segment *s = segment_at(l, offset);

    if (s == NULL)
        return ERR_NONE;

    int slot = log_dir_io_begin(l->dir);
    enum err e = log_view_segment(l, s, &v, &why);

    if (e == ERR_NONE) {
        e = load_index(&v.offsets);
        if (e == ERR_NONE)
            e = segment_locate_load(&v, offset, 0);
        if (e == ERR_NONE)
            e = segment_locate(&v, offset, 0, &at);
        if (e == ERR_NONE)
            e = file_load(v.file, at.position, /* and what a walk to its end reads */
                          (size_t)MIN((uint64_t)MAX(bytes, (size_t)at.batch.size_bytes) +
                                          2 * BATCH_READER_SMALL,
                                      v.size_bytes - at.position));
        if (e == ERR_NOT_FOUND)
            e = ERR_NONE; /* the segment ends before: the reader will see */
        if (e != ERR_NONE && why.text[0] == '\0')
            errmsg_set(&why, "%020lld.log: offset %lld cannot be read", (long long)v.base_offset,
                       (long long)offset);
        segment_view_drop(&v);
    }
    log_dir_io_end(l->dir, slot);
    segment_unref(s);
    return refuse(l, e, &why);
}

/* ---- timestamps ---- */

/* The whole batch at `position` in memory of its own, its CRC checked. */
static enum err read_batch(const struct segment_view *v, const struct batch_position *at,
                           struct record_batch *out, uint8_t **bytes)
{
    size_t size = (size_t)at->batch.size_bytes, n = 0;

    *bytes = xmalloc(size); /* no larger than its file: batch_reader has checked */

    enum err e = file_read(v->file, at->position, *bytes, size, &n);

    if (e == ERR_NONE && (n != size || record_batch_parse(*bytes, size, out) != ERR_NONE ||
                          !record_batch_crc_ok(out)))
        e = ERR_CORRUPT;
    if (e != ERR_NONE)
        free(*bytes);
    return e;
}

static enum err find_in_batch(const struct segment_view *v, const struct batch_position *at,
                              int64_t timestamp_ms, int64_t start_offset, bool greatest,
                              struct timestamp_offset *out)
{
    struct record_batch b;
    struct record r;
    uint8_t *bytes;
    enum err e = read_batch(v, at, &b, &bytes);

    if (e != ERR_NONE)
        return e;
    e = greatest ? record_batch_find_max_timestamp(&b, NULL, DECOMPRESSED_BYTES_MAX, &r)
                 : record_batch_find_timestamp(&b, timestamp_ms, start_offset, NULL,
                                               DECOMPRESSED_BYTES_MAX, &r);
    free(bytes);
    if (e == ERR_NONE)
        *out = (struct timestamp_offset){r.timestamp, r.offset, b.partition_leader_epoch};
    else if (e != ERR_NOT_FOUND)
        e = ERR_CORRUPT;
    return e;
}

/* Where a walk for a timestamp may begin. */
static uint64_t timestamp_start(const struct segment_view *v, int64_t timestamp_ms,
                                int64_t start_offset)
{
    struct index_entry t, o;
    int64_t offset = start_offset;

    if (index_floor_key(&v->times, timestamp_ms, &t))
        offset = MAX(offset, t.value);
    if (index_floor_key(&v->offsets, offset, &o) && (uint64_t)o.value < v->size_bytes)
        return (uint64_t)o.value;
    return 0;
}

static enum err find_timestamp(const struct segment_view *v, int64_t timestamp_ms,
                               int64_t start_offset, uint64_t from, struct timestamp_offset *out)
{
    uint8_t buffer[BATCH_READER_SMALL];
    struct batch_position at;
    struct batch_reader r;
    struct errmsg why;

    batch_reader_init(&r, v->file, from, v->size_bytes, buffer, sizeof buffer);
    for (;;) {
        at.position = r.position;

        enum err e = batch_reader_next(&r, false, &at.batch, &why);

        if (e != ERR_NONE)
            return e;
        if (at.batch.max_timestamp < timestamp_ms ||
            record_batch_last_offset(&at.batch) < start_offset)
            continue;
        e = find_in_batch(v, &at, timestamp_ms, start_offset, false, out);
        if (e != ERR_NOT_FOUND)
            return e;
    }
}

/* One segment; ERR_NOT_FOUND when it has no such record. */
static enum err search_segment(struct log *l, struct segment *s, int64_t timestamp_ms,
                               struct timestamp_offset *out, struct errmsg *why)
{
    int64_t start = log_start_offset(l);
    struct segment_view v;
    enum err e = log_view_segment(l, s, &v, why);

    if (e != ERR_NONE)
        return e;

    uint64_t from = timestamp_start(&v, timestamp_ms, start);

    e = find_timestamp(&v, timestamp_ms, start, from, out);
    if (e != ERR_NONE && from > 0) /* the index may have led astray */
        e = find_timestamp(&v, timestamp_ms, start, 0, out);
    if (e == ERR_CORRUPT || e == ERR_IO)
        errmsg_set(why, "%020lld.log: cannot be searched for a timestamp",
                   (long long)v.base_offset);
    segment_view_drop(&v);
    return e;
}

/* The next segment behind `after` whose records may matter; NULL at the end. */
static struct segment *next_segment(struct log *l, int64_t after, int64_t offset_limit)
{
    struct segment *found = NULL;

    mutex_lock(&l->lock);
    for (int i = 0; i < l->segment_count && found == NULL; i++) {
        struct segment *s = l->segments[i];

        if (s->base_offset > after && s->base_offset < offset_limit && s->size_bytes > 0)
            found = segment_ref(s);
    }
    mutex_unlock(&l->lock);
    return found;
}

enum err log_offset_for_timestamp(struct log *l, int64_t timestamp_ms, int64_t offset_limit,
                                  struct timestamp_offset *out)
{
    struct errmsg why = {""};
    enum err e = ERR_NOT_FOUND;
    int64_t after = -1;

    *out = (struct timestamp_offset){-1, -1, -1};
    if (log_offline_reason(l) != NULL)
        return ERR_KAFKA_STORAGE_ERROR;
    for (struct segment *s;
         e == ERR_NOT_FOUND && (s = next_segment(l, after, offset_limit)) != NULL;) {
        mutex_lock(&l->lock);
        bool young_enough = s->max_timestamp_ms >= timestamp_ms;

        mutex_unlock(&l->lock);
        after = s->base_offset;
        if (young_enough)
            e = search_segment(l, s, timestamp_ms, out, &why);
        segment_unref(s);
    }
    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e == ERR_NONE && out->offset >= offset_limit)
        *out = (struct timestamp_offset){-1, -1, -1};
    return refuse(l, e, &why);
}

/* The batch with the greatest timestamp in [start, limit) of a segment, by a walk over headers. */
static enum err walk_for_max(const struct segment_view *v, int64_t start, int64_t limit,
                             struct batch_position *best, bool *found)
{
    uint8_t buffer[BATCH_READER_SMALL];
    struct batch_position at;
    struct batch_reader r;
    struct errmsg why;
    enum err e;

    *found = false;
    batch_reader_init(&r, v->file, 0, v->size_bytes, buffer, sizeof buffer);
    for (;;) {
        at.position = r.position;
        e = batch_reader_next(&r, false, &at.batch, &why);
        if (e != ERR_NONE || at.batch.base_offset >= limit)
            break;
        if (record_batch_last_offset(&at.batch) < start ||
            (*found && at.batch.max_timestamp <= best->batch.max_timestamp))
            continue;
        *best = at;
        *found = true;
    }
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err max_of_segment(struct log *l, struct segment *s, int64_t limit,
                               struct timestamp_offset *best, struct errmsg *why)
{
    int64_t start = log_start_offset(l);
    struct batch_position at;
    struct segment_view v;
    bool found = true;

    mutex_lock(&l->lock);
    int64_t greatest = s->max_timestamp_ms, offset = s->max_timestamp_offset;

    mutex_unlock(&l->lock);
    if (greatest <= best->timestamp_ms)
        return ERR_NONE;

    enum err e = log_view_segment(l, s, &v, why);

    if (e != ERR_NONE)
        return e;
    e = offset >= start && offset < limit ? segment_locate(&v, offset, 0, &at)
                                          : walk_for_max(&v, start, limit, &at, &found);
    if (e == ERR_NONE && found && at.batch.max_timestamp > best->timestamp_ms)
        e = find_in_batch(&v, &at, 0, 0, true, best);
    if (e != ERR_NONE)
        errmsg_set(why, "%020lld.log: cannot be searched for a timestamp",
                   (long long)v.base_offset);
    segment_view_drop(&v);
    return e;
}

enum err log_max_timestamp(struct log *l, int64_t offset_limit, struct timestamp_offset *out)
{
    struct errmsg why = {""};
    enum err e = ERR_NONE;
    int64_t after = -1;

    *out = (struct timestamp_offset){-1, -1, -1};
    if (log_offline_reason(l) != NULL)
        return ERR_KAFKA_STORAGE_ERROR;
    for (struct segment *s; e == ERR_NONE && (s = next_segment(l, after, offset_limit)) != NULL;) {
        after = s->base_offset;
        e = max_of_segment(l, s, offset_limit, out, &why);
        segment_unref(s);
    }
    return refuse(l, e, &why);
}
