/* What the pool does to a log: rooms for appends, rolls, indexes, syncs, rest. */
#include <stdlib.h>
#include <string.h>

#include "protocol/base/mutant.h"

#include "storage/log_internal.h"

/* ---- files ---- */

static void segment_path(const struct log *l, int64_t base_offset, const char *suffix,
                         char out[LOG_PATH_MAX])
{
    char name[SEGMENT_NAME_SIZE];

    segment_file_name(base_offset, suffix, name);
    log_path(l, name, out);
}

void log_discard_file(struct log *l, int64_t base_offset, const char *suffix)
{
    char path[LOG_PATH_MAX];
    struct errmsg why;

    segment_path(l, base_offset, suffix, path);

    enum err e = disk_unlink(l->env, path, &why);

    if (e != ERR_NONE && e != ERR_NOT_FOUND)
        log_warn(l->logger, "storage", "%s", why.text);
}

void log_failed(struct log *l, enum err e, const struct errmsg *why)
{
    if (e == ERR_NONE || e == ERR_AGAIN)
        return;
    if (e == ERR_NO_SPACE) {
        log_dir_no_space(l->dir);
        return;
    }
    if (e == ERR_NO_DESCRIPTORS) {
        log_dir_crowded(l->dir);
        return;
    }
    log_set_offline(l, "%s", why->text);
    mutex_lock(&l->lock);
    log_want(l, LOG_WORK_REPORT_OFFLINE);
    mutex_unlock(&l->lock);
}

/* One that is gone is a hint that is gone: log_check_indexes() makes it anew. */
static enum err open_index(struct log *l, struct segment *s, const char *suffix, struct file **out,
                           struct errmsg *why)
{
    char path[LOG_PATH_MAX];

    segment_path(l, s->base_offset, suffix, path);

    enum err e = file_open(l->env, path, 0, out, why);

    if (e != ERR_NOT_FOUND)
        return e;
    mutex_lock(&l->lock);
    s->index_checked = false;
    mutex_unlock(&l->lock);
    return ERR_NONE;
}

/* Opens what is closed; the file must hold what the segment says. Under `lock` only in between. */
static enum err open_closed(struct log *l, struct segment *s, struct errmsg *why)
    REQUIRES(l->opening)
{
    char path[LOG_PATH_MAX];
    struct file *log_file = NULL, *offsets = NULL, *times = NULL;
    enum err e = ERR_NONE;

    mutex_lock(&l->lock);
    bool closed = l->closed; /* its folder's name may be another's by now */
    bool need_log = s->file == NULL;
    bool need_offsets = s->offsets.file == NULL && s->offsets.stored_count > 0;
    bool need_times = s->times.file == NULL && s->times.stored_count > 0;
    uint64_t size = s->size_bytes;
    bool active = s == log_active(l);

    mutex_unlock(&l->lock);
    if (closed)
        return ERR_AGAIN;
    segment_path(l, s->base_offset, ".log", path);
    if (need_log)
        e = file_open(l->env, path, FILE_HELD, &log_file, why);
    if (e == ERR_NONE && log_file != NULL && file_size(log_file) < size) {
        errmsg_set(why, "%s: found %llu bytes, expected %llu", path,
                   (unsigned long long)file_size(log_file), (unsigned long long)size);
        e = ERR_CORRUPT;
    }
    /* Room that could not be given back before the power went. */
    if (e == ERR_NONE && log_file != NULL && active && file_size(log_file) > size)
        e = file_truncate(log_file, size, why);
    if (e == ERR_NONE && need_offsets)
        e = open_index(l, s, ".index", &offsets, why);
    if (e == ERR_NONE && need_times)
        e = open_index(l, s, ".timeindex", &times, why);

    struct file *spare[3] = {log_file, offsets, times};

    mutex_lock(&l->lock);
    if (e == ERR_NONE) {
        struct file **places[3] = {&s->file, &s->offsets.file, &s->times.file};

        for (int i = 0; i < 3; i++) {
            if (spare[i] == NULL || *places[i] != NULL)
                continue;
            *places[i] = spare[i];
            spare[i] = NULL;
        }
        s->idle_ticks = 0;
        log_touch(l);
    }
    mutex_unlock(&l->lock);
    for (int i = 0; i < 3; i++) {
        if (spare[i] != NULL)
            file_unref(spare[i]);
    }
    return e;
}

static enum err open_segment(struct log *l, struct segment *s, struct errmsg *why)
{
    mutex_lock(&l->opening);

    enum err e = open_closed(l, s, why);

    mutex_unlock(&l->opening);
    return e;
}

enum err log_view_segment(struct log *l, struct segment *s, struct segment_view *out,
                          struct errmsg *why)
{
    enum err e = open_segment(l, s, why);

    if (e != ERR_NONE)
        return e;
    mutex_lock(&l->lock);
    if (s->file == NULL)
        e = ERR_AGAIN; /* put to rest meanwhile */
    else
        segment_view_take(s, out);
    mutex_unlock(&l->lock);
    return e;
}

/* ---- indexes ---- */

static enum err store_index(struct log *l, struct segment *s, struct index *x, const char *suffix,
                            bool make, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    struct index_view v;
    struct file *file;
    enum err e = ERR_NONE;

    segment_path(l, s->base_offset, suffix, path);
    mutex_lock(&l->lock);
    index_view_take(x, &v);
    mutex_unlock(&l->lock);
    if (v.tail_count > 0 || (make && v.stored_count == 0 && v.file == NULL)) {
        e = index_store(&v, l->env, path, &file, why);
        if (e == ERR_NONE) {
            mutex_lock(&l->lock);
            index_stored(x, &v, file);
            s->index_dirty = true;
            mutex_unlock(&l->lock);
        }
    }
    index_view_drop(&v);
    return e;
}

static enum err store_aborted(struct log *l, struct segment *s, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    uint8_t *bytes = NULL;
    uint32_t first = 0, count = 0;
    size_t size = 0;
    struct file *f;

    mutex_lock(&l->lock);
    if (s->aborted != NULL && s->aborted->count > s->aborted->stored_count) {
        first = s->aborted->stored_count;
        count = s->aborted->count;
        bytes = txn_index_encode(s->aborted, first, &size);
        l->directory_dirty = true;
    }
    mutex_unlock(&l->lock);
    if (bytes == NULL)
        return ERR_NONE;
    segment_path(l, s->base_offset, ".txnindex", path);

    enum err e = file_open(l->env, path, FILE_CREATE, &f, why);

    if (e == ERR_NONE) {
        e = file_write(f, (uint64_t)first * TXN_INDEX_ENTRY_BYTES, bytes, size, why);
        file_unref(f);
    }
    free(bytes);
    if (e == ERR_NONE) {
        mutex_lock(&l->lock);
        s->aborted->stored_count = count;
        mutex_unlock(&l->lock);
    }
    return e;
}

enum err log_store_indexes(struct log *l, struct segment *s, struct errmsg *why)
{
    mutex_lock(&l->lock);
    bool have_times = index_count(&s->times) > 0; /* Kafka's tools read one beside the other */

    mutex_unlock(&l->lock);

    enum err e = store_index(l, s, &s->offsets, ".index", have_times, why);

    if (e == ERR_NONE)
        e = store_index(l, s, &s->times, ".timeindex", false, why);
    if (e == ERR_NONE)
        e = store_aborted(l, s, why);
    return e;
}

enum err log_write_snapshot(struct log *l, int64_t offset, const uint8_t *p, size_t size,
                            struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    struct file *f;

    segment_path(l, offset, ".snapshot", path);

    enum err e = file_open(l->env, path, FILE_CREATE | FILE_TRUNCATE, &f, why);

    if (e != ERR_NONE)
        return e;
    e = file_write(f, 0, p, size, why);
    file_unref(f);
    if (e != ERR_NONE)
        log_discard_file(l, offset, ".snapshot"); /* half of one helps nobody */
    return e;
}

/* ---- room ---- */

/* One second of this partition's rate. */
static uint64_t next_step(struct log *l) REQUIRES(l->lock)
{
    uint64_t now = env_now_ns(l->env);
    uint64_t elapsed_ms = MAX((now - l->rate_began_ns) / 1000000u, (uint64_t)1);
    uint64_t step = l->rate_began_ns == 0 ? 0 : l->rate_bytes * 1000u / elapsed_ms;

    l->rate_bytes = 0;
    l->rate_began_ns = now;
    step = MIN(MAX(step, STEP_BYTES_MIN), STEP_BYTES_MAX);
    l->step_bytes = step;
    return step;
}

/* A whole step, or when the disk has no room for it what is needed now. */
static enum err ready(struct file *f, uint64_t end, uint64_t end_needed, struct errmsg *why)
{
    enum err e = file_ready(f, end, why);

    if (e == ERR_NO_SPACE && end_needed < end)
        e = file_ready(f, end_needed, why);
    return e;
}

/* `f` is NULL when the segment was at rest. The room may be there again after a power failure:
 * recovery takes zeros at the end of a segment for what they are. */
static void trim_sealed(struct log *l, struct segment *s, struct file *f)
{
    struct errmsg why = {""};
    enum err e = log_store_indexes(l, s, &why);

    if (e == ERR_NONE && f != NULL)
        e = file_trim(f, &why);
    log_failed(l, e, &why);
}

static enum err new_segment_file(struct log *l, int64_t base, uint64_t want, struct file **out,
                                 struct errmsg *why)
{
    char path[LOG_PATH_MAX];

    segment_path(l, base, ".log", path);

    enum err e = file_open(l->env, path, FILE_CREATE | FILE_TRUNCATE | FILE_HELD, out, why);

    if (e == ERR_NO_DESCRIPTORS)
        log_discard_file(l, base, ".log");
    if (e != ERR_NONE)
        return e;
    e = want == 0 ? ERR_NONE : ready(*out, MAX(STEP_BYTES_MIN, want), want, why);
    if (e != ERR_NONE) {
        file_unref(*out);
        log_discard_file(l, base, ".log");
    }
    return e;
}

/* The snapshot of the producers at the roll, and the end of one that a clean stop left. */
static void snapshot_at_roll(struct log *l, int64_t base, const uint8_t *bytes, size_t size,
                             int64_t stray)
{
    struct errmsg why = {""};

    if (bytes != NULL)
        log_failed(l, log_write_snapshot(l, base, bytes, size, &why), &why);
    if (stray >= 0 && stray != base)
        log_discard_file(l, stray, ".snapshot");
}

enum err log_roll(struct log *l, uint64_t want, struct errmsg *why)
{
    struct segment *old, *fresh;
    struct file *file, *old_file = NULL;
    uint8_t *snapshot = NULL;
    size_t snapshot_size = 0;
    int64_t base = log_end_offset(l), stray; /* room_closed: it does not move */

    CHECK(l->room_closed);
    if (log_active(l) != NULL && log_active(l)->base_offset == base)
        return ERR_NONE; /* empty: it is the new one already */

    enum err e = new_segment_file(l, base, want, &file, why);

    if (e != ERR_NONE)
        return e;
    /* Strays of an earlier life under the new segment's name. */
    log_discard_file(l, base, ".index");
    log_discard_file(l, base, ".timeindex");
    log_discard_file(l, base, ".txnindex");
    fresh = segment_new(l->env, base);
    fresh->file = file;
    fresh->modified_ms = env_unix_ms(l->env);

    mutex_lock(&l->lock);
    old = log_active(l);
    if (old != NULL) {
        segment_seal(old);
        (void)segment_ref(old);
        old_file = old->file != NULL ? file_ref(old->file) : NULL;
        producer_state_expire(&l->producers, l->config.producer_id_expiration_ms);
        snapshot = producer_state_encode(&l->producers, &snapshot_size);
    }
    log_push_segment(l, fresh);
    l->directory_dirty = true;
    l->roll_wanted = false;
    l->room_closed = false;
    stray = l->stray_snapshot;
    l->stray_snapshot = -1;
    if (l->dirty_since_ns == 0)
        l->dirty_since_ns = 1;
    log_touch(l);
    mutex_unlock(&l->lock);

    /* Appends go on; what follows is behind them. */
    snapshot_at_roll(l, base, snapshot, snapshot_size, stray);
    free(snapshot);
    if (old != NULL) {
        trim_sealed(l, old, old_file);
        segment_unref(old);
    }
    if (old_file != NULL)
        file_unref(old_file);
    return ERR_NONE;
}

static void wake_waiters(struct log *l)
{
    struct list woken;

    list_init(&woken);
    mutex_lock(&l->lock);
    list_splice_back(&woken, &l->waiters);
    mutex_unlock(&l->lock);
    for (struct list_node *n; (n = list_pop_front(&woken)) != NULL;) {
        struct log_room_waiter *w = list_entry(n, struct log_room_waiter, node);

        w->ready(w);
    }
}

static enum err grow(struct log *l, struct segment *s, uint64_t want, struct errmsg *why)
{
    enum err e = open_segment(l, s, why);

    if (e != ERR_NONE)
        return e;
    mutex_lock(&l->lock);
    struct file *f = s->file != NULL ? file_ref(s->file) : NULL;
    uint64_t size = s->size_bytes, limit = (uint64_t)l->config.segment_bytes;
    uint64_t step = next_step(l);

    mutex_unlock(&l->lock);
    if (f == NULL)
        return ERR_NONE; /* put to rest meanwhile: the waiter asks again */

    uint64_t there = file_ready_end(f), needed = size + want;
    uint64_t end = MAX(needed, MIN(there + step, MAX(limit, needed)));

    if (needed > there || there - size < step / 2)
        e = ready(f, end, needed, why);
    file_unref(f);
    return e;
}

static void make_room(struct log *l)
{
    struct errmsg why = {""};
    enum err e = ERR_NONE;

    mutex_lock(&l->lock);
    struct segment *s = log_active(l);
    uint64_t want = l->room_wanted;
    bool dead = l->closed || l->stopping || log_offline_reason(l) != NULL;
    bool roll = s == NULL || l->roll_wanted ||
                (s->size_bytes > 0 && s->size_bytes + want > (uint64_t)l->config.segment_bytes);

    l->room_wanted = 0;
    l->room_closed = roll && !dead;
    mutex_unlock(&l->lock);

    if (!dead) {
        e = roll ? log_roll(l, want, &why) : grow(l, s, want, &why);
        mutex_lock(&l->lock);
        l->room_closed = false;
        l->roll_wanted = false;
        bool refused = e == ERR_NO_SPACE || e == ERR_NO_DESCRIPTORS;

        l->no_space_epoch = refused ? atomic_load(&l->dir->space_epoch) : 0;
        s = log_active(l);
        bool full =
            e == ERR_NONE && s != NULL && s->offsets.tail_count >= INDEX_TAIL_ENTRIES_MAX / 2;

        mutex_unlock(&l->lock);
        if (full)
            e = log_store_indexes(l, s, &why);
        log_failed(l, e, &why);
    }
    wake_waiters(l);
}

/* ---- giving back ---- */

static void give_back(struct log *l)
{
    struct errmsg why = {""};
    struct file *f = NULL;

    mutex_lock(&l->lock);
    struct segment *s = log_active(l);

    if (s != NULL && s->file != NULL && file_ready_end(s->file) > s->size_bytes) {
        f = file_ref(s->file);
        l->room_closed = true;
        l->step_bytes = 0;
        l->rate_began_ns = 0;
        l->rate_bytes = 0;
    }
    mutex_unlock(&l->lock);
    if (f == NULL)
        return;
    log_failed(l, file_trim(f, &why), &why);
    file_unref(f);
    mutex_lock(&l->lock);
    l->room_closed = false;
    mutex_unlock(&l->lock);
}

/* Takes the descriptors of a segment that holds nothing unsynced. */
static int take_files(struct segment *s, struct file **out, int n)
{
    struct file **places[3] = {&s->file, &s->offsets.file, &s->times.file};

    for (int i = 0; i < 3; i++) {
        if (*places[i] == NULL)
            continue;
        out[n++] = *places[i];
        *places[i] = NULL;
    }
    return n;
}

/* Whether everything that was written is synced, the indexes too. */
static bool is_synced(const struct log *l) REQUIRES(l->lock)
{
    if (l->syncing || l->dirty_since_ns != 0)
        return false;
    for (int i = 0; i < l->segment_count; i++) {
        if (l->segments[i]->dirty || l->segments[i]->index_dirty)
            return false;
    }
    return true;
}

static void close_all(struct log *l)
{
    mutex_lock(&l->lock);
    struct file **files = xmalloc(((size_t)l->segment_count * 3 + 1) * sizeof(struct file *));
    bool leave = false;
    int n = 0;

    if (is_synced(l) && !atomic_load_explicit(&l->active, memory_order_relaxed)) {
        for (int i = 0; i < l->segment_count; i++)
            n = take_files(l->segments[i], files, n);
        free(l->hints);
        l->hints = NULL;
        leave = l->in_active;
        l->in_active = false;
        mutex_lock(&l->dir->lock);
        if (leave)
            list_remove(&l->active_node);
        mutex_unlock(&l->dir->lock);
    }
    mutex_unlock(&l->lock);
    for (int i = 0; i < n; i++)
        file_unref(files[i]);
    free(files);
    if (leave)
        log_unref(l);
}

static void store_tails(struct log *l)
{
    struct errmsg why = {""};

    mutex_lock(&l->lock);
    struct segment *s = log_active(l);
    bool unstored =
        s != NULL && (s->offsets.tail_count > 0 || s->times.tail_count > 0 || s->aborted != NULL);

    mutex_unlock(&l->lock);
    if (unstored && log_offline_reason(l) == NULL)
        log_failed(l, log_store_indexes(l, s, &why), &why);
}

void log_rest(struct log *l)
{
    store_tails(l);
    mutex_lock(&l->lock);
    bool synced = is_synced(l);

    if (!synced) {
        l->idle_ticks = IDLE_TICKS_MAX - 1; /* the next tick syncs, and the one after asks again */
        if (l->dirty_since_ns == 0)
            l->dirty_since_ns = 1;
    }
    mutex_unlock(&l->lock);
    if (!synced)
        return;
    give_back(l);
    close_all(l);
}

bool log_tick(struct log *l, bool space_is_short, bool crowded, int64_t sync_behind_ms)
{
    uint64_t now = env_now_ns(l->env);
    struct file *files[48];
    int n = 0;

    mutex_lock(&l->lock);
    if (atomic_exchange(&l->active, false))
        l->idle_ticks = 0;
    else if (l->idle_ticks < IDLE_TICKS_MAX) {
        l->idle_ticks = crowded ? IDLE_TICKS_MAX : l->idle_ticks + 1;
        if (l->idle_ticks == IDLE_TICKS_MAX)
            log_want(l, LOG_WORK_REST);
    }
    if (space_is_short)
        log_want(l, LOG_WORK_GIVE_BACK);
    if (l->dirty_since_ns == 1)
        l->dirty_since_ns = now;

    int64_t dirty_ms = l->dirty_since_ns == 0 ? 0 : (int64_t)((now - l->dirty_since_ns) / 1000000u);
    bool due = l->dirty_since_ns != 0 &&
               (dirty_ms >= sync_behind_ms / 2 || dirty_ms >= l->config.flush_ms ||
                l->idle_ticks >= IDLE_TICKS_MAX - 1);

    /* Segments that nobody reads any more give their descriptors back. */
    for (int i = 0; i < l->segment_count && n + 3 <= (int)ARRAY_COUNT(files); i++) {
        struct segment *s = l->segments[i];

        if (!s->sealed || s->dirty || s->index_dirty || l->syncing)
            continue;
        if (s->idle_ticks < IDLE_TICKS_MAX && !crowded)
            s->idle_ticks++;
        else
            n = take_files(s, files, n);
    }
    mutex_unlock(&l->lock);
    for (int i = 0; i < n; i++)
        file_unref(files[i]);
    log_kick(l);
    return due;
}

/* ---- syncing ---- */

/* What one sync covers, picked up under the lock. */
struct sync_set {
    struct file **files;
    int count;
    int64_t start_offset, end_offset;
    uint32_t truncations;
    bool directory, metadata;
    bool in_sync, cut_is_due; /* when it began */
    struct text epochs;
};

static void add_file(struct sync_set *set, struct file *f)
{
    if (f != NULL)
        set->files[set->count++] = file_ref(f);
}

/* The epochs of a log of one segment are found by a short walk; ten thousand small logs need no
 * file for them. */
static bool epochs_are_due(const struct log *l) REQUIRES(l->lock)
{
    return l->epochs.dirty &&
           (l->epochs_saved || l->segment_count > 1 ||
            (l->segment_count > 0 && l->start_offset > l->segments[0]->base_offset)); /* S13 */
}

/* Whether a sync lets go of something that recovery had cut. */
static bool cut_is_due(const struct log *l) REQUIRES(l->lock)
{
    return l->cut_kept && (l->in_sync || (l->alone && l->older_cut_count > 0));
}

static bool pick_up(struct log *l, struct sync_set *set)
{
    mutex_lock(&l->lock);
    if (log_offline_reason(l) != NULL || l->closed) {
        mutex_unlock(&l->lock);
        return false;
    }
    l->syncing = true;
    set->files = xmalloc(((size_t)l->segment_count * 3 + 1) * sizeof(struct file *));
    set->start_offset = l->start_offset;
    set->end_offset = l->end_offset;
    set->truncations = l->truncations;
    for (int i = 0; i < l->segment_count; i++) {
        struct segment *s = l->segments[i];

        if (s->dirty)
            add_file(set, s->file);
        s->dirty = false;
        /* Hints: those of a busy segment are synced when it is sealed, or comes to rest. */
        if (s->index_dirty && (s->sealed || l->stopping || l->idle_ticks >= IDLE_TICKS_MAX - 1)) {
            add_file(set, s->offsets.file);
            add_file(set, s->times.file);
            s->index_dirty = false;
        }
    }
    set->directory = l->directory_dirty;
    set->metadata = l->metadata_dirty;
    set->in_sync = l->in_sync;
    set->cut_is_due = cut_is_due(l);
    if (epochs_are_due(l)) {
        leader_epochs_format(&l->epochs, &set->epochs);
        l->epochs.dirty = false;
        l->epochs_saved = true;
    }
    l->directory_dirty = false;
    l->dirty_since_ns = 0;
    mutex_unlock(&l->lock);
    return true;
}

/* One sync of the parent directory covers every folder that had been made by then. */
static enum err sync_parent(struct log *l, struct errmsg *why)
{
    struct log_dir *d = l->dir;
    uint64_t made = atomic_load(&d->folders_made);

    if (atomic_load(&d->folders_synced) >= l->folder_number)
        return ERR_NONE;

    enum err e = dir_sync(l->env, d->path, why);

    for (uint64_t was = atomic_load(&d->folders_synced);
         e == ERR_NONE && was < made &&
         !atomic_compare_exchange_weak(&d->folders_synced, &was, made);)
        ;
    return e;
}

enum err log_sync_identity(struct log *l, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    struct file *f;

    mutex_lock(&l->lock);
    bool dirty = l->metadata_dirty;

    mutex_unlock(&l->lock);
    if (!dirty)
        return ERR_NONE;
    log_path(l, "partition.metadata", path);

    enum err e = file_open(l->env, path, 0, &f, why);

    if (e != ERR_NONE)
        return e;
    e = file_sync(f, why);
    file_unref(f);
    if (e == ERR_NONE)
        e = sync_parent(l, why);
    if (e == ERR_NONE) {
        mutex_lock(&l->lock);
        l->metadata_dirty = false;
        mutex_unlock(&l->lock);
    }
    return e;
}

/* What is written by name, which a deletion may be changing. */
static enum err sync_names(struct log *l, const struct sync_set *set, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    enum err e = ERR_NONE;

    if (set->epochs.size > 0) {
        log_path(l, "leader-epoch-checkpoint", path);
        e = file_replace(l->env, path, set->epochs.ptr, set->epochs.size, why);
        if (e == ERR_NO_SPACE) { /* a hint: written again when there is room */
            mutex_lock(&l->lock);
            l->epochs.dirty = true;
            mutex_unlock(&l->lock);
            e = ERR_NONE;
        }
    }
    log_path(l, "", path);
    if (e == ERR_NONE && set->directory)
        e = dir_sync(l->env, path, why);
    if (e == ERR_NONE && set->metadata)
        e = log_sync_identity(l, why);
    return e;
}

static enum err sync_set(struct log *l, struct sync_set *set, struct errmsg *why)
{
    enum err e = ERR_NONE;

    for (int i = 0; i < set->count && (e == ERR_NONE || MUTANT(20)); i++)
        e = file_sync(set->files[i], why);
    e = MUTANT(20) ? ERR_NONE : e;
    if (e == ERR_NONE && (set->epochs.size > 0 || set->directory || set->metadata)) {
        mutex_lock(&l->structure);
        if (!l->closed)
            e = sync_names(l, set, why);
        mutex_unlock(&l->structure);
    }
    return e;
}

static void sync_once(struct log *l)
{
    struct sync_set set = {.count = 0};
    struct errmsg why = {""};
    struct log_observer observer;
    bool moved = false, settled = false;

    if (!pick_up(l, &set))
        return;

    int slot = log_dir_io_begin(l->dir);
    enum err e = sync_set(l, &set, &why);

    log_dir_io_end(l->dir, slot);
    for (int i = 0; i < set.count; i++)
        file_unref(set.files[i]);
    free(set.files);
    text_deinit(&set.epochs);
    mutex_lock(&l->lock);
    l->syncing = false;
    mutex_unlock(&l->lock);
    if (e != ERR_NONE) {
        /* Final: the kernel may have dropped the pages, so nothing above the recovery point is
         * known to be there (S3). */
        log_set_offline(l, "%s", why.text);
        mutex_lock(&l->lock);
        log_want(l, LOG_WORK_REPORT_OFFLINE);
        mutex_unlock(&l->lock);
        log_kick(l);
        return;
    }
    mutex_lock(&l->lock);
    if (!l->truncating && set.truncations == l->truncations && set.end_offset > l->recovery_point) {
        atomic_store_explicit(&l->recovery_point, set.end_offset, memory_order_release);
        moved = true;
    }
    if (set.truncations == l->truncations && set.start_offset > l->settled_start &&
        !epochs_are_due(l) &&
        (l->segment_count < 2 || l->segments[1]->base_offset > set.start_offset)) {
        l->settled_start = set.start_offset;
        settled = true;
    }
    l->in_sync_synced = l->in_sync && set.in_sync && set.truncations == l->truncations;
    if (set.cut_is_due && cut_is_due(l))
        log_want(l, LOG_WORK_DISCARD_CUT);
    observer = l->observer;
    mutex_unlock(&l->lock);
    if (settled)
        log_dir_start_moved(l->dir); /* what was written meanwhile does not have it */
    log_kick(l);
    if (moved && observer.on_durable != NULL)
        observer.on_durable(observer.ctx, l);
}

void log_sync_begin(struct log *l)
{
    char path[LOG_PATH_MAX];
    struct errmsg ignored;
    struct file *files[16];
    int n = 0;

    mutex_lock(&l->lock);
    bool metadata = l->metadata_dirty && !l->closed;

    for (int i = l->segment_count - 1; i >= 0 && n < (int)ARRAY_COUNT(files); i--) {
        if (l->segments[i]->dirty && l->segments[i]->file != NULL)
            files[n++] = file_ref(l->segments[i]->file);
    }
    mutex_unlock(&l->lock);
    if (metadata && n < (int)ARRAY_COUNT(files)) {
        log_path(l, "partition.metadata", path);
        if (file_open(l->env, path, 0, &files[n], &ignored) == ERR_NONE)
            n++;
    }
    for (int i = 0; i < n; i++) {
        file_sync_begin(files[i]);
        file_unref(files[i]);
    }
}

void log_sync(struct log *l)
{
    mutex_lock(&l->sync_lock);
    sync_once(l);
    mutex_unlock(&l->sync_lock);
}

void log_close_files(struct log *l)
{
    atomic_store(&l->active, false);
    mutex_lock(&l->structure);
    log_rest(l); /* stores the indexes, which the sync then covers */
    mutex_unlock(&l->structure);
    log_sync(l);
    mutex_lock(&l->structure);
    log_rest(l);
    mutex_unlock(&l->structure);
}

/* ---- a clean stop ---- */

static void snapshot_at_stop(struct log *l)
{
    int64_t end = log_end_offset(l);
    struct errmsg why = {""};
    uint8_t *p = NULL;
    size_t size;

    mutex_lock(&l->lock);
    int64_t stray = l->stray_snapshot;
    const struct segment *s = log_active(l);
    bool needed = producer_state_count(&l->producers) > 0 && s != NULL && s->base_offset != end &&
                  stray != end;

    if (needed) {
        p = producer_state_encode(&l->producers, &size);
        l->stray_snapshot = end;
    }
    mutex_unlock(&l->lock);
    if (p == NULL)
        return;
    log_failed(l, log_write_snapshot(l, end, p, size, &why), &why);
    free(p);
    if (stray >= 0)
        log_discard_file(l, stray, ".snapshot");
}

bool log_stop_writing(struct log *l)
{
    mutex_lock(&l->structure); /* a change that began before the stop ends first */
    mutex_lock(&l->lock);
    l->stopping = true;
    bool busy =
        l->in_active || l->dirty_since_ns != 0 || l->metadata_dirty || l->working || l->syncing;

    mutex_unlock(&l->lock);
    if (busy && log_offline_reason(l) == NULL) {
        store_tails(l);
        snapshot_at_stop(l);
    }
    mutex_lock(&l->lock);
    bool unsynced = busy && (!is_synced(l) || l->metadata_dirty || l->directory_dirty);

    mutex_unlock(&l->lock);
    mutex_unlock(&l->structure);
    return unsynced && log_offline_reason(l) == NULL;
}

void log_stop_synced(struct log *l)
{
    mutex_lock(&l->sync_lock); /* one that is under way, and may fail, ends first */
    mutex_lock(&l->lock);
    CHECK(l->stopping);
    if (log_offline_reason(l) == NULL && !l->closed && !epochs_are_due(l)) {
        for (int i = 0; i < l->segment_count; i++)
            l->segments[i]->dirty = l->segments[i]->index_dirty = false;
        l->directory_dirty = l->metadata_dirty = false;
        l->dirty_since_ns = 0;
        atomic_store_explicit(&l->recovery_point, l->end_offset, memory_order_release);
    }
    mutex_unlock(&l->lock);
    mutex_unlock(&l->sync_lock);
}

bool log_stop_end(struct log *l)
{
    mutex_lock(&l->lock);
    bool busy = l->in_active || l->dirty_since_ns != 0 || l->metadata_dirty || l->directory_dirty ||
                !is_synced(l);

    mutex_unlock(&l->lock);
    if (busy)
        log_close_files(l);
    return log_offline_reason(l) == NULL && l->recovery_point == l->end_offset && !l->cut_kept;
}

/* ---- what recovery had cut ---- */

void log_set_in_sync(struct log *l, bool in_sync, bool alone)
{
    mutex_lock(&l->lock);
    bool due = cut_is_due(l);

    l->in_sync = in_sync;
    l->in_sync_synced = l->in_sync_synced && in_sync;
    l->alone = alone;
    due = !due && cut_is_due(l);
    mutex_unlock(&l->lock);
    if (due)
        log_request_sync(l);
}

/* False when it could not be removed. */
static bool discard_cut_file(struct log *l, const char *file, const char *reason)
{
    char path[LOG_PATH_MAX], name[288];
    struct errmsg why;

    log_path(l, file, path);
    log_name(l, name);

    enum err e = disk_unlink(l->env, path, &why);

    if (e == ERR_NONE)
        log_info(l->logger, "storage", "%s: %s: %s is removed", name, reason, file);
    else if (e != ERR_NOT_FOUND)
        log_warn(l->logger, "storage", "%s", why.text);
    return e == ERR_NONE || e == ERR_NOT_FOUND;
}

struct cut_files {
    struct log *log;
    bool left; /* one that could not be removed */
};

static void discard_each_cut(void *ctx, const struct dir_entry *e)
{
    struct cut_files *c = ctx;
    size_t n = strlen(e->name), suffix = strlen(LOG_CUT_SUFFIX);

    if (!e->is_dir && n >= suffix && strcmp(e->name + n - suffix, LOG_CUT_SUFFIX) == 0 &&
        !discard_cut_file(c->log, e->name, "in sync again"))
        c->left = true;
}

static void discard_older_cuts(struct log *l)
{
    for (int i = 0; i < l->older_cut_count; i++) {
        (void)discard_cut_file(l, l->older_cuts[i], "what was cut after it is kept");
        free(l->older_cuts[i]);
    }
    mutex_lock(&l->lock);
    l->older_cut_count = 0;
    mutex_unlock(&l->lock);
}

static void discard_cut(struct log *l)
{
    struct cut_files c = {.log = l};
    char path[LOG_PATH_MAX];
    struct errmsg why;

    mutex_lock(&l->lock);
    bool all = l->in_sync_synced;

    mutex_unlock(&l->lock);
    discard_older_cuts(l);
    log_path(l, "", path);
    if (!all || dir_list(l->env, path, discard_each_cut, &c, &why) != ERR_NONE)
        return; /* what stays is found again at the next start */
    mutex_lock(&l->lock);
    l->cut_kept = c.left;
    mutex_unlock(&l->lock);
}

/* ---- the job ---- */

static void report_offline(struct log *l)
{
    struct log_observer observer;

    mutex_lock(&l->lock);
    observer = l->observer;
    mutex_unlock(&l->lock);
    if (observer.on_offline != NULL)
        observer.on_offline(observer.ctx, l, log_offline_reason(l));
    wake_waiters(l);
}

static void do_work(struct log *l, unsigned work)
{
    struct errmsg why = {""};

    if (work & LOG_WORK_REPORT_OFFLINE)
        report_offline(l);
    if (work & LOG_WORK_ROOM)
        make_room(l);
    if (log_offline_reason(l) != NULL || l->closed || l->stopping)
        return;
    if ((work & LOG_WORK_STORE_INDEXES) && log_active(l) != NULL)
        log_failed(l, log_store_indexes(l, log_active(l), &why), &why);
    if (work & LOG_WORK_DELETE_BELOW)
        (void)log_delete_below_start(l);
    if (work & LOG_WORK_GIVE_BACK)
        give_back(l);
    if (work & LOG_WORK_DISCARD_CUT)
        discard_cut(l);
    if (work & LOG_WORK_REST)
        log_rest(l);
}

void log_work(struct job *j)
{
    struct log *l = CONTAINER_OF(j, struct log, job);

    for (;;) {
        mutex_lock(&l->lock);
        unsigned work = l->work;

        l->work = 0;
        if (work == 0)
            l->working = false;
        mutex_unlock(&l->lock);
        if (work == 0)
            break;

        int slot = log_dir_io_begin(l->dir);

        mutex_lock(&l->structure);
        do_work(l, work);
        mutex_unlock(&l->structure);
        log_dir_io_end(l->dir, slot);
    }
    log_unref(l);
}
