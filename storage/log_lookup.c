/* Lookups that may wait for the disk: cold positions, and records by timestamp. */
#include <stdlib.h>
#include <string.h>

#include "storage/log_internal.h"

#define DECOMPRESSED_BYTES_MAX ((size_t)1 << 30) /* walked through, never held */
#define CHECK_STEP_BYTES       ((uint64_t)1 << 20)
#define ATTEMPTS_MAX           4 /* each has new indexes, or files that were put to rest */

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

/* Brings and checks `bytes` from the batch on that holds `offset`. */
static enum err load(struct log *l, struct segment *s, int64_t offset, size_t bytes,
                     struct errmsg *why)
{
    struct segment_view v;
    struct batch_position at, end;
    enum err e = log_view_segment(l, s, &v, why);

    if (e != ERR_NONE)
        return e;
    mutex_lock(&l->lock);
    int64_t limit = s->limit_wanted;

    s->limit_wanted = 0;
    mutex_unlock(&l->lock);
    e = log_check_indexes(l, s, &v, why);
    if (e == ERR_NONE)
        e = load_index(&v.offsets);
    if (e == ERR_NONE)
        e = segment_locate_load(&v, offset, 0);
    if (e == ERR_NONE && offset < v.next_offset) {
        e = segment_locate(&v, offset, 0, &at);
        if (e == ERR_NONE && limit > offset)
            (void)!segment_locate(&v, limit, at.position, &end); /* read, and so in memory */
        if (e == ERR_CORRUPT || e == ERR_NOT_FOUND) {
            e = log_judge(l, s, why);
        } else if (e == ERR_NONE) {
            bytes = MAX(bytes, (size_t)at.batch.size_bytes);
            e = log_check(l, s, &v, at.position, at.position + bytes, why);
        }
        if (e == ERR_NONE) /* and what a walk to its end reads */
            e = file_load(
                v.file, at.position,
                (size_t)MIN((uint64_t)bytes + 2 * BATCH_READER_SMALL, v.size_bytes - at.position));
    }
    if (e != ERR_NONE && why->text[0] == '\0')
        errmsg_set(why, "%020lld.log: offset %lld cannot be read", (long long)v.base_offset,
                   (long long)offset);
    segment_view_drop(&v);
    return e;
}

enum err log_load(struct log *l, int64_t offset, size_t bytes)
{
    struct errmsg why = {""};
    enum err e = ERR_AGAIN;

    if (log_offline_reason(l) != NULL)
        return ERR_KAFKA_STORAGE_ERROR;

    struct segment *s = segment_at(l, offset);

    if (s == NULL)
        return ERR_NONE;

    int slot = log_dir_io_begin(l->dir);

    for (int i = 0; e == ERR_AGAIN && i < ATTEMPTS_MAX; i++)
        e = load(l, s, offset, bytes, &why);
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

/* One segment that is searched; its bytes are checked before anything is believed of them. */
struct search {
    struct log *log;
    struct segment *segment;
    struct segment_view view;
    struct batch_reader reader;
    uint64_t checked_end;
    struct errmsg *why;
    uint8_t buffer[BATCH_READER_SMALL];
};

static void search_from(struct search *s, uint64_t position)
{
    batch_reader_init(&s->reader, s->view.file, position, s->view.size_bytes, s->buffer,
                      sizeof s->buffer);
    s->checked_end = position;
}

/* The batch at the reader's position. ERR_AGAIN: take another view. */
static enum err search_next(struct search *s, struct batch_position *at)
{
    struct errmsg why;
    enum err e = ERR_NONE;

    at->position = s->reader.position;
    if (at->position >= s->checked_end) {
        uint64_t end = MIN(at->position + CHECK_STEP_BYTES, s->view.size_bytes);

        e = log_check(s->log, s->segment, &s->view, at->position, end, s->why);
        s->checked_end = end;
    }
    if (e == ERR_NONE)
        e = batch_reader_next(&s->reader, false, &at->batch, &why);
    return e == ERR_CORRUPT && s->why->text[0] == '\0' ? log_judge(s->log, s->segment, s->why) : e;
}

/* Whether the time index's entry is about the batch that it names: then it may be believed that
 * nothing before it is younger. */
static enum err check_time_entry(struct search *s, const struct index_entry *t)
{
    struct batch_position at;
    enum err e = segment_locate(&s->view, t->value, 0, &at);

    if (e == ERR_NONE) {
        search_from(s, at.position);
        e = search_next(s, &at);
    }
    if (e == ERR_CORRUPT && s->why->text[0] != '\0')
        return e;
    if (e == ERR_CORRUPT || e == ERR_NOT_FOUND ||
        (e == ERR_NONE && (at.batch.max_timestamp != t->key || at.batch.base_offset > t->value ||
                           record_batch_last_offset(&at.batch) < t->value)))
        return log_judge(s->log, s->segment, s->why);
    return e;
}

/* Where a walk for a timestamp may begin. */
static enum err timestamp_start(struct search *s, int64_t timestamp_ms, int64_t start_offset,
                                uint64_t *from)
{
    struct index_entry t, o;
    int64_t offset = start_offset;

    *from = 0;
    if (index_floor_key(&s->view.times, timestamp_ms, &t)) {
        enum err e = check_time_entry(s, &t);

        if (e != ERR_NONE)
            return e;
        offset = MAX(offset, t.value);
    }
    if (index_floor_key(&s->view.offsets, offset, &o) && (uint64_t)o.value < s->view.size_bytes)
        *from = (uint64_t)o.value;
    return ERR_NONE;
}

static enum err find_timestamp(struct search *s, int64_t timestamp_ms, int64_t start_offset,
                               struct timestamp_offset *out)
{
    struct batch_position at;
    enum err e;

    while ((e = search_next(s, &at)) == ERR_NONE) {
        if (at.batch.max_timestamp < timestamp_ms ||
            record_batch_last_offset(&at.batch) < start_offset)
            continue;
        e = find_in_batch(&s->view, &at, timestamp_ms, start_offset, false, out);
        if (e != ERR_NOT_FOUND)
            break;
    }
    return e;
}

static enum err search_once(struct search *s, int64_t timestamp_ms, struct timestamp_offset *out)
{
    int64_t start = log_start_offset(s->log);
    uint64_t from;
    enum err e = log_view_segment(s->log, s->segment, &s->view, s->why);

    if (e != ERR_NONE)
        return e;
    e = log_check_indexes(s->log, s->segment, &s->view, s->why);
    if (e == ERR_NONE)
        e = timestamp_start(s, timestamp_ms, start, &from);
    if (e == ERR_NONE) {
        search_from(s, from);
        e = find_timestamp(s, timestamp_ms, start, out);
    }
    segment_view_drop(&s->view);
    return e;
}

static enum err explain(struct search *s, enum err e)
{
    if ((e == ERR_CORRUPT || e == ERR_IO) && s->why->text[0] == '\0')
        errmsg_set(s->why, "%020lld.log: cannot be searched for a timestamp",
                   (long long)s->segment->base_offset);
    return e;
}

/* One segment; ERR_NOT_FOUND when it has no such record. */
static enum err search_segment(struct log *l, struct segment *segment, int64_t timestamp_ms,
                               struct timestamp_offset *out, struct errmsg *why)
{
    struct search s = {.log = l, .segment = segment, .why = why};
    enum err e = ERR_AGAIN;

    for (int i = 0; e == ERR_AGAIN && i < ATTEMPTS_MAX; i++)
        e = search_once(&s, timestamp_ms, out);
    return explain(&s, e);
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
static enum err walk_for_max(struct search *s, int64_t start, int64_t limit,
                             struct batch_position *best, bool *found)
{
    struct batch_position at;
    enum err e;

    *found = false;
    search_from(s, 0);
    while ((e = search_next(s, &at)) == ERR_NONE && at.batch.base_offset < limit) {
        if (record_batch_last_offset(&at.batch) < start ||
            (*found && at.batch.max_timestamp <= best->batch.max_timestamp))
            continue;
        *best = at;
        *found = true;
    }
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

/* The batch that holds `offset`. */
static enum err locate_checked(struct search *s, int64_t offset, struct batch_position *at)
{
    enum err e = segment_locate(&s->view, offset, 0, at);

    if (e == ERR_CORRUPT || e == ERR_NOT_FOUND)
        return log_judge(s->log, s->segment, s->why);
    if (e == ERR_NONE) {
        search_from(s, at->position);
        e = search_next(s, at);
    }
    return e;
}

static enum err max_once(struct search *s, int64_t offset, int64_t limit,
                         struct timestamp_offset *best)
{
    int64_t start = log_start_offset(s->log);
    struct batch_position at;
    bool found = true;
    enum err e = log_view_segment(s->log, s->segment, &s->view, s->why);

    if (e != ERR_NONE)
        return e;
    e = log_check_indexes(s->log, s->segment, &s->view, s->why);
    if (e == ERR_NONE)
        e = offset >= start && offset < limit ? locate_checked(s, offset, &at)
                                              : walk_for_max(s, start, limit, &at, &found);
    if (e == ERR_NONE && found && at.batch.max_timestamp > best->timestamp_ms)
        e = find_in_batch(&s->view, &at, 0, 0, true, best);
    segment_view_drop(&s->view);
    return e;
}

static enum err max_of_segment(struct log *l, struct segment *segment, int64_t limit,
                               struct timestamp_offset *best, struct errmsg *why)
{
    struct search s = {.log = l, .segment = segment, .why = why};
    enum err e = ERR_AGAIN;

    mutex_lock(&l->lock);
    int64_t greatest = segment->max_timestamp_ms, offset = segment->max_timestamp_offset;

    mutex_unlock(&l->lock);
    if (greatest <= best->timestamp_ms)
        return ERR_NONE;
    for (int i = 0; e == ERR_AGAIN && i < ATTEMPTS_MAX; i++)
        e = max_once(&s, offset, limit, best);
    return explain(&s, e);
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
