/* Nothing is served that this process does not know: bytes below the recovery point, and all bytes
 * after a clean stop, were written by an earlier life, and a disk may have changed them since. Each
 * is checked once, when somebody first asks for it.
 *
 * A check goes from one place whose offset is known by two witnesses to another: the front of the
 * segment, a batch whose index entry names its last offset, the end of a range that was checked,
 * the segment's end. Base offsets and leader epochs lie outside a batch's CRC; between two such
 * places one that lies contradicts a neighbour. What contradicts an index entry may be the entry's
 * fault: then the whole segment is walked from its front, and either the log is corrupt or the
 * indexes are made anew.
 */
#include <stdlib.h>
#include <string.h>

#include "storage/log_internal.h"

/* Who reads on finds this much checked ahead of need: one visit to the pool for several reads. */
#define CHECK_AHEAD_BYTES ((uint64_t)4 << 20)

/* What is known of the batches before the next one. */
struct check {
    const struct segment_view *view;
    struct batch_reader reader;
    int64_t next_offset;
    int32_t epoch, epoch_max; /* epoch_max -1: nothing is known of epochs */
};

static enum err contradiction(struct errmsg *why, uint64_t position, const char *what,
                              int64_t found, int64_t expected)
{
    errmsg_set(why, "position %llu: found %s %lld, expected %lld", (unsigned long long)position,
               what, (long long)found, (long long)expected);
    return ERR_CORRUPT;
}

/* The next batch, its bytes and everything that its neighbours say about it. ERR_NOT_FOUND: the
 * end, where the offset is the right one. */
static enum err check_next(struct check *c, struct record_batch *b, struct errmsg *why)
{
    uint64_t position = c->reader.position;
    enum err e = batch_reader_next(&c->reader, true, b, why);

    if (e == ERR_NOT_FOUND && c->next_offset != c->view->next_offset)
        return contradiction(why, position, "an end at offset", c->next_offset,
                             c->view->next_offset);
    if (e != ERR_NONE)
        return e;
    if (b->base_offset < c->next_offset)
        return contradiction(why, position, "base offset", b->base_offset, c->next_offset);
    if (record_batch_last_offset(b) >= c->view->next_offset)
        return contradiction(why, position, "last offset", record_batch_last_offset(b),
                             c->view->next_offset - 1);
    if (b->partition_leader_epoch < c->epoch)
        return contradiction(why, position, "leader epoch", b->partition_leader_epoch, c->epoch);
    if (c->epoch_max >= 0 && b->partition_leader_epoch > c->epoch_max)
        return contradiction(why, position, "leader epoch", b->partition_leader_epoch,
                             c->epoch_max);
    c->next_offset = record_batch_last_offset(b) + 1;
    c->epoch = b->partition_leader_epoch;
    return ERR_NONE;
}

static void check_init(struct check *c, struct log *l, const struct segment_view *v,
                       uint64_t position, uint8_t *buffer)
{
    *c = (struct check){.view = v, .next_offset = v->base_offset, .epoch = INT32_MIN};
    c->epoch_max = log_latest_epoch(l);
    batch_reader_init(&c->reader, v->file, position, v->size_bytes, buffer, BATCH_READER_LARGE);
}

static void note_checked(struct log *l, struct segment *s, uint64_t from, const struct check *c)
{
    mutex_lock(&l->lock);
    checked_add(&s->checked, from, c->reader.position, c->next_offset);
    mutex_unlock(&l->lock);
}

/* ---- a piece ---- */

/* Where a check of [from, ...) begins; *key is the last offset that the batch there must have, -1
 * when nothing is said of it. */
static uint64_t begin_check(struct log *l, struct segment *s, struct check *c,
                            struct index_cursor *index, uint64_t from, int64_t *key)
{
    const struct index_entry *e;
    struct index_entry before;
    uint64_t begin = 0;

    *key = -1;
    mutex_lock(&l->lock);
    const struct checked_range *r = checked_at(&s->checked, from);

    if (r != NULL) {
        begin = r->to;
        c->next_offset = r->next_offset;
    }
    mutex_unlock(&l->lock);
    if (begin == 0 && index_floor_value(&c->view->offsets, (int64_t)from, &before)) {
        begin = (uint64_t)before.value;
        *key = before.key;
    }
    index_cursor_init(index, &c->view->offsets, (int64_t)begin);
    if (*key >= 0 && index_cursor_peek(index, &e) && e != NULL)
        index->next++; /* the one that is looked at as *key */
    return begin;
}

/* The index against the batch at `position`. *anchored: they agree about it. */
static enum err check_entry(struct index_cursor *index, uint64_t position,
                            const struct record_batch *b, bool *anchored, struct errmsg *why)
{
    const struct index_entry *e;

    *anchored = false;
    if (!index_cursor_peek(index, &e))
        return ERR_CORRUPT;
    if (e == NULL || (uint64_t)e->value > position)
        return ERR_NONE;
    if ((uint64_t)e->value < position || e->key != record_batch_last_offset(b))
        return contradiction(why, position, "last offset", record_batch_last_offset(b), e->key);
    index->next++;
    *anchored = true;
    return ERR_NONE;
}

/* Checks what is not known of [from, to), as far as the next anchor. */
static enum err check_piece(struct log *l, struct segment *s, const struct segment_view *v,
                            uint64_t from, uint64_t to, struct errmsg *why)
{
    uint8_t *buffer = xmalloc(BATCH_READER_LARGE);
    struct index_cursor index;
    struct record_batch b;
    struct check c;
    bool anchored = true;
    int64_t key;
    enum err e = ERR_NONE;

    check_init(&c, l, v, 0, buffer);

    uint64_t begin = begin_check(l, s, &c, &index, from, &key);

    c.reader.position = begin;
    while (e == ERR_NONE && (c.reader.position < to || !anchored)) {
        uint64_t position = c.reader.position;

        e = check_next(&c, &b, why);
        if (e == ERR_NONE && key >= 0 && record_batch_last_offset(&b) != key)
            e = contradiction(why, position, "last offset", record_batch_last_offset(&b), key);
        else if (e == ERR_NONE && key >= 0)
            anchored = true;
        else if (e == ERR_NONE)
            e = check_entry(&index, position, &b, &anchored, why);
        key = -1;
    }
    if (e == ERR_NOT_FOUND)
        e = ERR_NONE;
    if (e == ERR_NONE)
        note_checked(l, s, begin, &c);
    free(buffer);
    return e;
}

/* ---- the whole segment ---- */

/* All of it from the front; with `fresh` its indexes are made there. */
static enum err walk_whole(struct log *l, struct segment *s, const struct segment_view *v,
                           struct segment *fresh, struct errmsg *why)
{
    uint8_t *buffer = xmalloc(BATCH_READER_LARGE);
    struct record_batch b;
    struct check c;
    enum err e;

    mutex_lock(&l->lock);
    int64_t interval = l->config.index_interval_bytes;

    mutex_unlock(&l->lock);
    check_init(&c, l, v, 0, buffer);
    while ((e = check_next(&c, &b, why)) == ERR_NONE) {
        if (fresh == NULL)
            continue;
        if (fresh->offsets.tail_count >= INDEX_TAIL_ENTRIES_MAX ||
            fresh->times.tail_count >= INDEX_TAIL_ENTRIES_MAX)
            e = log_store_indexes(l, fresh, why);
        if (e != ERR_NONE)
            break;
        segment_account(fresh, &b, interval);
    }
    free(buffer);
    if (e != ERR_NOT_FOUND)
        return e;
    note_checked(l, s, 0, &c);
    return ERR_NONE;
}

enum err log_check_whole(struct log *l, struct segment *s, const struct segment_view *v,
                         struct errmsg *why)
{
    struct errmsg what = {""};

    mutex_lock(&l->lock);
    bool known = checked_covers(&s->checked, 0, v->size_bytes);

    mutex_unlock(&l->lock);

    enum err e = known ? ERR_NONE : walk_whole(l, s, v, NULL, &what);

    if (e == ERR_CORRUPT)
        errmsg_set(why, "%020lld.log: %s", (long long)v->base_offset, what.text);
    return e;
}

/* The segment takes the indexes that were made beside it; nothing is appended meanwhile. */
static void take_indexes(struct log *l, struct segment *s, struct segment *fresh)
{
    mutex_lock(&l->lock);
    index_deinit(&s->offsets);
    index_deinit(&s->times);
    s->offsets = fresh->offsets;
    s->times = fresh->times;
    s->bytes_since_index = fresh->bytes_since_index;
    s->max_timestamp_ms = fresh->max_timestamp_ms;
    s->max_timestamp_offset = fresh->max_timestamp_offset;
    s->index_dirty = s->index_dirty || fresh->index_dirty;
    s->index_checked = true;
    l->directory_dirty = true;
    if (l->dirty_since_ns == 0)
        l->dirty_since_ns = 1;
    mutex_unlock(&l->lock);
    index_init(&fresh->offsets, INDEX_OFFSETS, s->base_offset);
    index_init(&fresh->times, INDEX_TIMES, s->base_offset);
}

static enum err rebuild_indexes(struct log *l, struct segment *s, struct errmsg *why)
{
    struct segment *fresh = segment_new(l->env, s->base_offset);
    struct segment_view v;
    char name[288];
    enum err e = log_view_segment(l, s, &v, why);

    if (e == ERR_NONE) {
        log_discard_file(l, s->base_offset, ".index");
        log_discard_file(l, s->base_offset, ".timeindex");
        e = walk_whole(l, s, &v, fresh, why);
        if (e == ERR_NONE && s->sealed)
            segment_seal(fresh);
        if (e == ERR_NONE)
            e = log_store_indexes(l, fresh, why);
        segment_view_drop(&v);
    }
    if (e == ERR_NONE) {
        take_indexes(l, s, fresh);
        log_name(l, name);
        log_warn(l->logger, "storage",
                 "%s: the indexes of %020lld.log did not fit its records and were made anew", name,
                 (long long)s->base_offset);
    }
    segment_unref(fresh);
    return e;
}

/* Whether the segment is still one of the log's. */
static bool is_there(const struct log *l, const struct segment *s) REQUIRES(l->lock)
{
    for (int i = 0; i < l->segment_count; i++) {
        if (l->segments[i] == s)
            return true;
    }
    return false;
}

enum err log_judge(struct log *l, struct segment *s, struct errmsg *why)
{
    struct errmsg what = {""};
    enum err e = ERR_AGAIN;

    mutex_lock(&l->structure);
    mutex_lock(&l->lock);
    bool there = is_there(l, s) && !l->closed && !l->stopping;

    l->room_closed = there;
    mutex_unlock(&l->lock);
    if (there) {
        e = rebuild_indexes(l, s, &what);
        mutex_lock(&l->lock);
        l->room_closed = false;
        mutex_unlock(&l->lock);
    }
    mutex_unlock(&l->structure);
    if (e == ERR_CORRUPT)
        errmsg_set(why, "%020lld.log: %s", (long long)s->base_offset, what.text);
    else if (e != ERR_NONE)
        *why = what;
    return e == ERR_NONE ? ERR_AGAIN : e;
}

/* ---- what readers on the pool call ---- */

enum err log_check_indexes(struct log *l, struct segment *s, const struct segment_view *v,
                           struct errmsg *why)
{
    mutex_lock(&l->lock);
    bool known = s->index_checked;
    struct index_entry offset = s->offsets.last, time = s->times.last;
    bool same = index_count(&s->offsets) == index_view_count(&v->offsets) &&
                index_count(&s->times) == index_view_count(&v->times);

    mutex_unlock(&l->lock);
    if (known)
        return ERR_NONE;
    if (!same)
        return ERR_AGAIN; /* appended to in this moment */
    if (!index_check(&v->offsets, &offset, v->next_offset, v->size_bytes) ||
        !index_check(&v->times, &time, v->next_offset, v->size_bytes))
        return log_judge(l, s, why);
    mutex_lock(&l->lock);
    s->index_checked = true;
    mutex_unlock(&l->lock);
    return ERR_NONE;
}

enum err log_check(struct log *l, struct segment *s, const struct segment_view *v, uint64_t from,
                   uint64_t to, struct errmsg *why)
{
    struct errmsg what = {""};

    to = MIN(to, v->size_bytes);
    mutex_lock(&l->lock);
    const struct checked_range *r = checked_at(&s->checked, from);
    bool known = checked_covers(&s->checked, from, to);
    bool goes_on = r != NULL || from == 0;

    mutex_unlock(&l->lock);
    if (known)
        return ERR_NONE;
    if (goes_on)
        to = MIN(to + CHECK_AHEAD_BYTES, v->size_bytes);

    enum err e = check_piece(l, s, v, from, to, &what);

    if (e == ERR_CORRUPT)
        return log_judge(l, s, why);
    if (e != ERR_NONE && why->text[0] == '\0')
        errmsg_set(why, "%020lld.log: cannot be read", (long long)v->base_offset);
    return e;
}
