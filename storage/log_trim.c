/* What makes a log shorter: DeleteRecords, retention, truncation. */
#include <stdlib.h>
#include <string.h>

#include "storage/cleaner.h"
#include "storage/log_manager.h"

static void remove_files(struct log *l, int64_t base_offset)
{
    /* The records first: what a crash leaves behind is a hint without them, which the next start
     * removes. Views hold the inode; they read on. */
    log_discard_file(l, base_offset, ".log");
    log_discard_file(l, base_offset, ".index");
    log_discard_file(l, base_offset, ".timeindex");
    log_discard_file(l, base_offset, ".txnindex");
    log_discard_file(l, base_offset, ".snapshot");
}

static void tell_start(struct log *l)
{
    struct log_observer o;

    mutex_lock(&l->lock);
    o = l->observer;
    mutex_unlock(&l->lock);
    log_dir_start_moved(l->dir);
    if (o.on_start_offset != NULL)
        o.on_start_offset(o.ctx, l);
}

/* Moves the start to `offset`; epochs follow it. */
static void set_start(struct log *l, int64_t offset) REQUIRES(l->lock)
{
    atomic_store_explicit(&l->start_offset, offset, memory_order_release);
    leader_epochs_truncate_start(&l->epochs, offset);
    if (l->recovery_point < offset)
        atomic_store_explicit(&l->recovery_point, offset, memory_order_release);
}

static enum err sync_folder(struct log *l, struct errmsg *why)
{
    char path[LOG_PATH_MAX];

    log_path(l, "", path);
    return dir_sync(l->env, path, why);
}

/* The active segment goes too when nothing of it is left to read: a new, empty one takes its
 * place, so that the log's end is remembered by its name: before the old names go. */
static enum err roll_when_all_gone(struct log *l, struct errmsg *why)
{
    mutex_lock(&l->lock);
    const struct segment *s = log_active(l);
    bool gone = s != NULL && s->size_bytes > 0 && l->start_offset >= l->end_offset;

    if (gone)
        l->room_closed = true;
    mutex_unlock(&l->lock);
    if (!gone)
        return ERR_NONE;

    /* An append may have come in before the room was closed: then it stays. */
    enum err e = log_roll(l, 0, why);

    mutex_lock(&l->lock);
    l->room_closed = false;
    mutex_unlock(&l->lock);
    return e == ERR_NONE ? sync_folder(l, why) : e;
}

/* What the segments that go say of producers is in a snapshot at their end, and that is on stable
 * storage, with its name, before they go: else a power failure would let a batch that is sent again
 * be stored twice (P5). *end: where the last one ends, -1: none goes. */
static enum err keep_producers(struct log *l, int64_t *end, struct errmsg *why)
{
    *end = -1;
    mutex_lock(&l->lock);
    for (int i = 1; i < l->segment_count && l->segments[i]->base_offset <= l->start_offset; i++)
        *end = l->segments[i]->base_offset;

    bool none = producer_state_count(&l->producers) == 0; /* those that there were have expired */

    mutex_unlock(&l->lock);
    if (*end < 0 || none)
        return ERR_NONE;

    enum err e = log_keep_producers(l, *end, why);

    return e == ERR_NONE ? sync_folder(l, why) : e;
}

/* Before a start may be written down. */
static enum err keep_identity(struct log *l, bool names_changed, struct errmsg *why)
{
    mutex_lock(&l->lock);
    bool moved = l->start_offset > l->settled_start;

    mutex_unlock(&l->lock);

    enum err e = names_changed || moved ? sync_folder(l, why) : ERR_NONE;

    return e == ERR_NONE && moved ? log_sync_identity(l, why) : e;
}

int log_delete_below_start(struct log *l)
{
    struct errmsg why = {""};
    int count = 0;
    int64_t end = -1;
    enum err e = roll_when_all_gone(l, &why);

    if (e == ERR_NONE)
        e = keep_producers(l, &end, &why);
    if (e != ERR_NONE) {
        log_failed(l, e, &why);
        return 0;
    }
    mutex_lock(&l->lock);
    struct segment **gone = xmalloc(((size_t)l->segment_count + 1) * sizeof(struct segment *));

    while (count + 1 < l->segment_count && l->segments[count + 1]->base_offset <= end) {
        gone[count] = l->segments[count];
        count++;
    }
    if (count > 0) {
        memmove(l->segments, l->segments + count,
                (size_t)(l->segment_count - count) * sizeof *l->segments);
        l->segment_count -= count;
        l->directory_dirty = true;
    }
    mutex_unlock(&l->lock);
    for (int i = 0; i < count; i++) {
        remove_files(l, gone[i]->base_offset);
        segment_unref(gone[i]);
    }
    free(gone);
    e = keep_identity(l, count > 0, &why);
    if (e != ERR_NONE) {
        log_failed(l, e, &why);
        return count;
    }
    mutex_lock(&l->lock);
    bool settled = l->settled_start < l->start_offset &&
                   (l->segment_count == 0 || l->start_offset <= l->segments[0]->base_offset);

    if (settled)
        l->settled_start = l->start_offset; /* what is left begins with a name that is synced */
    mutex_unlock(&l->lock);
    if (settled)
        log_dir_start_moved(l->dir); /* what was written meanwhile does not have it */
    return count;
}

static bool is_settled(struct log *l)
{
    mutex_lock(&l->lock);
    bool settled = l->settled_start >= l->start_offset || log_offline_reason(l) != NULL ||
                   l->closed || l->stopping;

    mutex_unlock(&l->lock);
    return settled;
}

void log_settle_start(struct log *l)
{
    if (is_settled(l))
        return;
    mutex_lock(&l->structure);
    if (!is_settled(l))
        (void)log_delete_below_start(l);
    mutex_unlock(&l->structure);
    if (!is_settled(l))
        log_sync(l);
}

bool log_start_is_settled(struct log *l, int64_t offset)
{
    mutex_lock(&l->lock);
    bool settled = l->settled_start >= offset;

    mutex_unlock(&l->lock);
    return settled;
}

enum err log_advance_start(struct log *l, int64_t offset)
{
    mutex_lock(&l->lock);
    bool offline = log_offline_reason(l) != NULL || l->closed || l->stopping;
    bool valid = offset >= 0 && offset <= l->end_offset;
    bool moved = valid && !offline && offset > l->start_offset;

    if (moved) {
        set_start(l, offset);
        log_want(l, LOG_WORK_DELETE_BELOW);
        log_touch(l);
    }
    mutex_unlock(&l->lock);
    if (offline)
        return ERR_KAFKA_STORAGE_ERROR;
    if (!valid)
        return ERR_OFFSET_OUT_OF_RANGE;
    if (moved) {
        log_dir_start_moved(l->dir);
        log_kick(l);
    }
    return ERR_NONE;
}

/* ---- retention ---- */

/* The youngest record's timestamp; a segment without any counts from its last write [H37]. */
static int64_t youngest_ms(const struct segment *s)
{
    return s->max_timestamp_ms >= 0 ? s->max_timestamp_ms : s->modified_ms;
}

/* Where the log should begin by time and by size; never beyond `limit`. */
static int64_t retained_start(const struct log *l, int64_t limit, int64_t now_unix_ms)
    REQUIRES(l->lock)
{
    const struct log_config *c = &l->config;
    int64_t start = l->start_offset, size = 0;
    int i = 0;

    if (!cleaner_may_trim(c))
        return start;
    for (int k = 0; k < l->segment_count; k++)
        size += (int64_t)l->segments[k]->size_bytes;
    for (; i < l->segment_count; i++) {
        const struct segment *s = l->segments[i];
        bool active = i == l->segment_count - 1;
        bool old = c->retention_ms >= 0 && s->size_bytes > 0 &&
                   now_unix_ms - youngest_ms(s) > c->retention_ms;
        bool too_much = !active && c->retention_bytes >= 0 &&
                        size - (int64_t)s->size_bytes >= c->retention_bytes;
        int64_t end = active ? l->end_offset : l->segments[i + 1]->base_offset;

        if ((!old && !too_much) || end > limit)
            break;
        size -= (int64_t)s->size_bytes;
        start = MAX(start, end);
    }
    return start;
}

/* A segment that nobody writes to any more rolls when its time is over, so that retention can take
 * it; Kafka waits for the next append. */
static bool roll_is_due(const struct log *l, int64_t now_unix_ms) REQUIRES(l->lock)
{
    const struct segment *s = log_active(l);

    return s != NULL && s->size_bytes > 0 && s->first_timestamp_ms >= 0 &&
           now_unix_ms - s->first_timestamp_ms > l->config.segment_ms - l->roll_jitter_ms;
}

static void roll_by_time(struct log *l, int64_t now_unix_ms)
{
    struct errmsg why = {""};

    mutex_lock(&l->lock);
    bool due = roll_is_due(l, now_unix_ms);

    l->room_closed = due;
    mutex_unlock(&l->lock);
    if (!due)
        return;
    log_failed(l, log_roll(l, 0, &why), &why);
    mutex_lock(&l->lock);
    l->room_closed = false;
    mutex_unlock(&l->lock);
}

int log_maintain(struct log *l, int64_t offset_limit, int64_t now_unix_ms)
{
    int count = 0;

    mutex_lock(&l->structure);
    if (log_offline_reason(l) == NULL && !l->closed && !l->stopping) {
        roll_by_time(l, now_unix_ms);
        mutex_lock(&l->lock);
        int64_t start = retained_start(l, offset_limit, now_unix_ms);
        bool moved = start > l->start_offset;

        if (moved)
            set_start(l, start);
        producer_state_expire(&l->producers, l->config.producer_id_expiration_ms);
        mutex_unlock(&l->lock);
        count = log_delete_below_start(l);
        if (moved)
            tell_start(l);
    }
    mutex_unlock(&l->structure);
    log_kick(l);
    return count;
}

/* ---- truncation ---- */

static void take_out(struct log *l, int from)
{
    struct segment **gone;
    int count;

    mutex_lock(&l->lock);
    count = l->segment_count - from;
    gone = xmalloc(((size_t)MAX(count, 0) + 1) * sizeof(struct segment *));
    for (int i = 0; i < count; i++)
        gone[i] = l->segments[from + i];
    if (count > 0)
        l->segment_count = from;
    mutex_unlock(&l->lock);
    for (int i = count - 1; i >= 0; i--) { /* the youngest first: a crash leaves no hole */
        remove_files(l, gone[i]->base_offset);
        segment_unref(gone[i]);
    }
    free(gone);
}

static enum err copy_prefix(struct file *from, struct file *to, uint64_t size, struct errmsg *why)
{
    uint8_t *buffer = xmalloc(BATCH_READER_LARGE);
    enum err e = ERR_NONE;
    size_t n = 0;

    for (uint64_t at = 0; e == ERR_NONE && at < size; at += n) {
        e = file_read(from, at, buffer, (size_t)MIN(size - at, BATCH_READER_LARGE), &n);
        if (e == ERR_NONE && n == 0)
            e = ERR_CORRUPT;
        if (e == ERR_NONE)
            e = file_write(to, at, buffer, n, why);
    }
    free(buffer);
    return e;
}

/* A segment object for the kept prefix, which is in `f`. */
static enum err rebuild(struct log *l, const struct segment *old, int64_t offset, struct file *f,
                        struct segment **out, struct errmsg *why)
{
    struct segment *s = segment_new(l->env, old->base_offset);
    uint8_t *buffer = xmalloc(BATCH_READER_LARGE);
    struct batch_reader r;
    struct record_batch b;
    enum err e;

    s->file = file_ref(f);
    for (uint32_t i = 0; old->aborted != NULL && i < old->aborted->count; i++) {
        if (old->aborted->v[i].last_offset >= offset)
            break;
        if (s->aborted == NULL)
            s->aborted = xcalloc(1, sizeof *s->aborted);
        txn_index_append(s->aborted, &old->aborted->v[i]);
    }
    s->modified_ms = env_unix_ms(l->env);
    s->dirty = true;
    mutex_lock(&l->lock);
    int64_t interval = l->config.index_interval_bytes;

    mutex_unlock(&l->lock);
    batch_reader_init(&r, f, 0, file_size(f), buffer, BATCH_READER_LARGE);
    while ((e = batch_reader_next(&r, true, &b, why)) == ERR_NONE) {
        if (s->offsets.tail_count >= INDEX_TAIL_ENTRIES_MAX ||
            s->times.tail_count >= INDEX_TAIL_ENTRIES_MAX) {
            e = log_store_indexes(l, s, why);
            if (e != ERR_NONE)
                break;
        }
        segment_account(s, &b, interval);
    }
    free(buffer);
    if (e != ERR_NOT_FOUND) {
        segment_unref(s);
        return e;
    }
    checked_add(&s->checked, 0, s->size_bytes, s->next_offset);
    *out = s;
    return ERR_NONE;
}

/* Replaces the segment by one that ends before `offset`: a new file, so that what is being sent
 * from the old one stays as it is [H10]. */
static enum err cut_segment(struct log *l, struct segment *old, int64_t offset, struct errmsg *why)
{
    char path[LOG_PATH_MAX], fresh_path[LOG_PATH_MAX], name[SEGMENT_NAME_SIZE];
    struct batch_position at;
    struct segment_view v;
    struct segment *fresh = NULL;
    struct file *f = NULL;
    enum err e = log_view_segment(l, old, &v, why);

    if (e != ERR_NONE)
        return e;
    segment_file_name(old->base_offset, ".log", name);
    log_path(l, name, path);
    segment_file_name(old->base_offset, ".log.fluxmq-cut", name);
    log_path(l, name, fresh_path);

    e = log_check_whole(l, old, &v, why); /* by its own word alone is it known where to cut */
    if (e == ERR_NONE)
        e = segment_locate(&v, offset, 0, &at);
    if (e == ERR_NOT_FOUND) { /* it ends before the offset already */
        at.position = v.size_bytes;
        e = ERR_NONE;
    }
    if (e == ERR_NONE)
        e = file_open(l->env, fresh_path, FILE_CREATE | FILE_TRUNCATE, &f, why);
    if (e == ERR_NONE)
        e = copy_prefix(v.file, f, at.position, why);
    if (e == ERR_NONE)
        e = file_sync(f, why);
    if (e == ERR_NONE) {
        log_discard_file(l, old->base_offset, ".index");
        log_discard_file(l, old->base_offset, ".timeindex");
        log_discard_file(l, old->base_offset, ".txnindex");
        e = disk_rename(l->env, fresh_path, path, why);
    }
    if (e == ERR_NONE)
        e = rebuild(l, old, offset, f, &fresh, why);
    if (e == ERR_NONE) {
        mutex_lock(&l->lock);
        CHECK(log_active(l) == old);
        l->segments[l->segment_count - 1] = fresh;
        mutex_unlock(&l->lock);
        segment_unref(old);
    }
    if (f != NULL)
        file_unref(f);
    segment_view_drop(&v);
    return e;
}

/* Epochs, producers and numbers of a log that now ends at `offset`. */
static void set_end(struct log *l, int64_t offset) REQUIRES(l->lock)
{
    atomic_store_explicit(&l->end_offset, offset, memory_order_release);
    if (l->recovery_point > offset)
        atomic_store_explicit(&l->recovery_point, offset, memory_order_release);
    leader_epochs_truncate_end(&l->epochs, offset);
    l->truncations++;
    l->directory_dirty = true;
    free(l->hints);
    l->hints = NULL;
    if (l->dirty_since_ns == 0)
        l->dirty_since_ns = 1;
    log_touch(l);
}

/* The recovery point that is written down must never say more than the log holds: the next start
 * would miss synced records, and take the log for corrupt. So it is lowered first, in the file
 * too, to the front of the segment that is cut: a batch goes whole, so that the end may come to lie
 * before `offset`. */
static enum err lower_recovery_point(struct log *l, int64_t offset, struct errmsg *why)
{
    mutex_lock(&l->lock);
    int64_t point = offset;

    for (int i = 0; i < l->segment_count && l->segments[i]->base_offset < offset; i++)
        point = l->segments[i]->base_offset;
    point = MIN(MAX(point, l->start_offset), offset);

    bool lower = l->recovery_point > point;

    if (lower)
        atomic_store_explicit(&l->recovery_point, point, memory_order_release);
    l->truncating = true;
    mutex_unlock(&l->lock);
    return lower ? log_dir_write_checkpoints(l->dir, why) : ERR_NONE;
}

static enum err truncate_files(struct log *l, int64_t offset, struct errmsg *why)
{
    mutex_lock(&l->lock);
    int keep = 0; /* segments that begin below `offset` */

    while (keep < l->segment_count && l->segments[keep]->base_offset < offset)
        keep++;
    /* Whole segments go; the first one, emptied, keeps the place. */
    struct segment *last = keep > 0 ? l->segments[keep - 1] : NULL;

    mutex_unlock(&l->lock);
    take_out(l, keep);
    if (last == NULL || last->next_offset <= offset)
        return ERR_NONE;
    return cut_segment(l, last, offset, why);
}

/* Holds appends off until end_cut(), where there is something to cut; false: refused. */
static bool begin_cut(struct log *l, bool nothing) REQUIRES(l->structure)
{
    mutex_lock(&l->lock);
    bool refused = log_offline_reason(l) != NULL || l->closed || l->stopping;

    l->room_closed = !nothing && !refused;
    mutex_unlock(&l->lock);
    return !refused;
}

static void end_cut(struct log *l, enum err e, const struct errmsg *why) REQUIRES(l->structure)
{
    log_failed(l, e, why);
    mutex_lock(&l->lock);
    l->room_closed = false;
    l->truncating = false;
    mutex_unlock(&l->lock);
}

static void set_cut_end(struct log *l, int64_t offset)
{
    mutex_lock(&l->lock);
    struct segment *last = log_active(l);

    if (last != NULL) /* a batch is never cut: the one that holds the offset went whole */
        offset = MIN(offset, last->next_offset);
    set_end(l, offset);
    if (l->start_offset > offset)
        atomic_store_explicit(&l->start_offset, offset, memory_order_release);
    l->settled_start = MIN(l->settled_start, offset);
    if (last != NULL)
        last->sealed = false; /* it takes appends again */
    if (l->stray_snapshot > offset)
        l->stray_snapshot = -1; /* the reload below removes it */
    mutex_unlock(&l->lock);
}

/* Epochs that begin at the end have no records: their leader never wrote here. */
static void drop_empty_epochs(struct log *l)
{
    mutex_lock(&l->lock);
    leader_epochs_truncate_end(&l->epochs, l->end_offset);
    if (l->epochs.dirty && l->dirty_since_ns == 0)
        l->dirty_since_ns = 1;
    log_touch(l);
    mutex_unlock(&l->lock);
}

enum err log_truncate(struct log *l, int64_t offset)
{
    struct errmsg why = {""};
    enum err e = ERR_NONE;

    if (offset < 0)
        return ERR_OFFSET_OUT_OF_RANGE;
    mutex_lock(&l->structure);
    bool nothing = offset >= log_end_offset(l);
    bool may = begin_cut(l, nothing);

    if (may && nothing)
        drop_empty_epochs(l);
    if (may && !nothing) {
        e = lower_recovery_point(l, offset, &why);
        if (e == ERR_NONE)
            e = truncate_files(l, offset, &why);
        if (e == ERR_NONE) {
            set_cut_end(l, offset);
            /* An emptied log keeps its end as the name of an empty segment. */
            e = l->segment_count == 0 ? log_roll(l, 0, &why) : ERR_NONE;
        }
        if (e == ERR_NONE)
            e = log_reload_producers(l, &why);
        end_cut(l, e, &why);
    }
    mutex_unlock(&l->structure);
    log_kick(l);
    return !may || e != ERR_NONE ? ERR_KAFKA_STORAGE_ERROR : ERR_NONE;
}

/* ---- beginning anew ---- */

/* What is written down must be true of a log of which only the front is left, and of an empty one
 * that begins at `offset`: the youngest segments go first. */
static enum err lower_checkpoints(struct log *l, int64_t offset, struct errmsg *why)
{
    mutex_lock(&l->lock);
    int64_t first = l->segment_count > 0 ? l->segments[0]->base_offset : offset;
    int64_t point = MIN(first, offset);

    l->settled_start = MIN(l->settled_start, point);
    if (l->start_offset > point)
        atomic_store_explicit(&l->start_offset, point, memory_order_release);
    if (l->recovery_point > point)
        atomic_store_explicit(&l->recovery_point, point, memory_order_release);
    l->truncating = true;
    mutex_unlock(&l->lock);
    return log_dir_write_checkpoints(l->dir, why);
}

static void set_empty(struct log *l, int64_t offset)
{
    mutex_lock(&l->lock);
    set_end(l, MIN(offset, l->end_offset)); /* also what hangs on it */
    atomic_store_explicit(&l->end_offset, offset, memory_order_release);
    atomic_store_explicit(&l->start_offset, offset, memory_order_release);
    atomic_store_explicit(&l->recovery_point, offset, memory_order_release);
    l->epochs.dirty = l->epochs.dirty || l->epochs.count > 0;
    l->epochs.count = 0;
    l->stray_snapshot = -1;
    mutex_unlock(&l->lock);
}

enum err log_restart(struct log *l, int64_t offset)
{
    struct errmsg why = {""};
    enum err e = ERR_NONE;

    if (offset < 0)
        return ERR_OFFSET_OUT_OF_RANGE;
    mutex_lock(&l->structure);
    bool may = begin_cut(l, false);

    if (may) {
        e = lower_checkpoints(l, offset, &why);
        if (e == ERR_NONE) {
            take_out(l, 0);
            set_empty(l, offset);
            e = log_roll(l, 0, &why); /* its name says where the log begins */
        }
        if (e == ERR_NONE)
            e = sync_folder(l, &why);
        if (e == ERR_NONE)
            e = log_sync_identity(l, &why);
        if (e == ERR_NONE)
            e = log_reload_producers(l, &why);
        if (e == ERR_NONE) {
            mutex_lock(&l->lock);
            l->settled_start = offset;
            mutex_unlock(&l->lock);
        }
        end_cut(l, e, &why);
        log_dir_start_moved(l->dir);
    }
    mutex_unlock(&l->structure);
    log_kick(l);
    return !may || e != ERR_NONE ? ERR_KAFKA_STORAGE_ERROR : ERR_NONE;
}

enum err log_save_checkpoints(struct log *l)
{
    struct errmsg why = {""};
    enum err e = log_dir_write_checkpoints(l->dir, &why);

    log_failed(l, e, &why);
    return e == ERR_NONE ? ERR_NONE : ERR_KAFKA_STORAGE_ERROR;
}
