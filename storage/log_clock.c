/* What the log manager does by the clock (syncs behind, space, retention, checkpoints, removals),
 * and its end: a clean stop. */
#include <stdlib.h>
#include <string.h>

#include "storage/clean_state.h"
#include "storage/cleaner.h"
#include "storage/log_manager.h"

#define TICK_NS           UINT64_C(1000000000)
#define RESERVE_BYTES_MAX (INT64_C(1) << 30)
#define RESERVE_PART      20 /* 5 % */
#define SYNCS_EACH_MAX    32 /* unsynced logs at a stop; more are synced as one */
#define REMOVALS_AT_ONCE  64 /* folders; then other jobs of the pool have their turn */

/* ---- the clock's work ---- */

static void look_at_space(struct log_dir *d, bool *is_short)
{
    int64_t reserve = d->manager->options.reserve_bytes;
    struct disk_space space;
    struct errmsg why;

    *is_short = false;
    if (disk_space(d->env, d->path, &space, &why) != ERR_NONE)
        return; /* whoever writes next will learn of it */
    if (reserve < 0)
        reserve = MIN(RESERVE_BYTES_MAX, (int64_t)(space.total_bytes / RESERVE_PART));
    atomic_store(&d->reserve_bytes, reserve);
    *is_short = (int64_t)space.free_bytes < reserve * 2 || space.free_bytes == 0;
    if ((int64_t)space.free_bytes < reserve) {
        if (!atomic_exchange(&d->below_reserve, true))
            log_warn(d->logger, "storage",
                     "log directory %s: %llu MiB free, below the reserve of %lld MiB; appends are "
                     "refused",
                     d->path, (unsigned long long)(space.free_bytes >> 20),
                     (long long)(reserve >> 20));
        return;
    }
    if (space.free_bytes > 0) {
        if (atomic_exchange(&d->below_reserve, false))
            log_info(d->logger, "storage", "log directory %s: there is room again", d->path);
        /* Logs that found no room try again; 0 means "there is room" and is skipped. */
        if (atomic_fetch_add(&d->space_epoch, 1) == UINT32_MAX)
            atomic_store(&d->space_epoch, 1);
    }
}

static struct log **active_logs(struct log_dir *d, size_t *count)
{
    struct log **v = NULL;
    size_t n = 0, capacity = 0;

    mutex_lock(&d->lock);
    list_for_each (node, &d->active) {
        if (n == capacity) {
            capacity = MAX(capacity * 2, (size_t)64);
            v = xrealloc(v, capacity * sizeof(struct log *));
        }
        v[n++] = log_ref(list_entry(node, struct log, active_node));
    }
    mutex_unlock(&d->lock);
    *count = n;
    return v;
}

static void tick_dir(struct log_dir *d)
{
    int64_t sync_behind_ms = d->manager->options.sync_behind_ms;
    bool is_short, crowded;
    size_t count;

    if (atomic_load(&d->offline) != NULL)
        return;
    look_at_space(d, &is_short);

    struct log **active = active_logs(d, &count);
    int64_t most = d->manager->options.open_logs_max / d->manager->dir_count;

    crowded = atomic_exchange(&d->crowded, false) || (most > 0 && (int64_t)count > most);

    for (size_t i = 0; i < count; i++) {
        if (log_tick(active[i], is_short, crowded, sync_behind_ms))
            log_request_sync(active[i]);
        log_unref(active[i]);
    }
    free(active);
}

static struct removal *take_due(struct log_manager *m)
{
    uint64_t now = env_now_ns(m->env);
    struct removal *due = NULL;

    mutex_lock(&m->lock);
    list_for_each_safe (n, &m->removals) {
        struct removal *r = list_entry(n, struct removal, node);

        if (!m->closing && r->due_ns <= now) {
            list_remove(n);
            due = r;
            break;
        }
    }
    m->removing = due != NULL;
    mutex_unlock(&m->lock);
    return due;
}

static void removal_job(struct job *j)
{
    struct log_manager *m = CONTAINER_OF(j, struct log_manager, removal_job);
    struct removal *r;
    struct errmsg why;

    for (int i = 0; i < REMOVALS_AT_ONCE; i++) {
        r = take_due(m);
        if (r == NULL) {
            log_manager_unref(m);
            return;
        }
        if (disk_remove_tree(m->env, r->path, &why) != ERR_NONE)
            log_warn(m->logger, "storage", "%s", why.text);
        free(r->path);
        free(r);
    }
    env_pool_submit(m->env, JOB_LONG, &m->removal_job);
}

static bool take_starts_dirty(struct log_manager *m)
{
    bool dirty = false;

    for (int i = 0; i < m->dir_count; i++) {
        mutex_lock(&m->dirs[i].lock);
        dirty = dirty || m->dirs[i].starts_dirty;
        mutex_unlock(&m->dirs[i].lock);
    }
    return dirty;
}

static void tick_job(struct job *j)
{
    struct log_manager *m = CONTAINER_OF(j, struct log_manager, tick_job);

    for (int i = 0; i < m->dir_count && !m->closing; i++)
        tick_dir(&m->dirs[i]);
    mutex_lock(&m->lock);
    m->ticking = false;
    mutex_unlock(&m->lock);
    log_manager_unref(m);
}

static void retain(struct log_manager *m, int64_t now_unix_ms)
{
    const struct log_manager_options *o = &m->options;
    size_t count;
    struct log **all = log_manager_all(m, &count);
    uint64_t missing = 0;

    for (size_t i = 0; i < count; i++) {
        int64_t limit =
            o->high_watermark != NULL ? o->high_watermark(o->ctx, all[i]) : log_end_offset(all[i]);

        if (!m->closing && limit >= 0)
            (void)log_maintain(all[i], limit, now_unix_ms);
        mutex_lock(&all[i]->lock);
        missing += cleaner_missing(&all[i]->config);
        mutex_unlock(&all[i]->lock);
        log_unref(all[i]);
    }
    free(all);
    atomic_store_explicit(&m->cleaner_missing.value, missing, memory_order_relaxed);
}

static void maintain_job(struct job *j)
{
    struct log_manager *m = CONTAINER_OF(j, struct log_manager, maintain_job);
    uint64_t now = env_now_ns(m->env);

    if (!m->closing && now >= m->retention_due_ns) {
        m->retention_due_ns = now + (uint64_t)m->options.retention_check_ms * 1000000u;
        retain(m, env_unix_ms(m->env));
    }
    if (!m->closing && (now >= m->checkpoint_due_ns || take_starts_dirty(m))) {
        m->checkpoint_due_ns = now + (uint64_t)m->options.checkpoint_interval_ms * 1000000u;
        for (int i = 0; i < m->dir_count; i++)
            log_dir_checkpoint(&m->dirs[i]);
    }
    mutex_lock(&m->lock);
    m->maintaining = false;
    mutex_unlock(&m->lock);
    log_manager_unref(m);
}

static void on_timer(struct loop_timer *t)
{
    struct log_manager *m = CONTAINER_OF(t, struct log_manager, timer);
    bool tick, maintain, removing;

    mutex_lock(&m->lock);
    tick = !m->ticking && !m->closing;
    maintain = !m->maintaining && !m->closing;
    removing = !m->removing && !m->closing && !list_empty(&m->removals);
    m->removing = m->removing || removing;
    m->ticking = m->ticking || tick;
    m->maintaining = m->maintaining || maintain;
    mutex_unlock(&m->lock);
    if (tick) {
        log_manager_ref(m);
        env_pool_submit(m->env, JOB_SHORT, &m->tick_job);
    }
    if (maintain) {
        log_manager_ref(m);
        env_pool_submit(m->env, JOB_LONG, &m->maintain_job);
    }
    if (removing) {
        log_manager_ref(m);
        env_pool_submit(m->env, JOB_LONG, &m->removal_job);
    }
    loop_timer_set(t, loop_now_ns(m->loop) + TICK_NS);
}

static void on_start(struct message *msg)
{
    struct log_manager *m = CONTAINER_OF(msg, struct log_manager, start_message);

    loop_timer_init(&m->timer, m->loop, on_timer);
    loop_timer_set(&m->timer, loop_now_ns(m->loop) + TICK_NS);
}

static void on_stop(struct message *msg)
{
    struct log_manager *m = CONTAINER_OF(msg, struct log_manager, stop_message);

    loop_timer_stop(&m->timer);
}

void log_manager_start(struct log_manager *m)
{
    struct errmsg why;
    uint64_t now = env_now_ns(m->env);

    m->tick_job.work = tick_job;
    m->maintain_job.work = maintain_job;
    m->removal_job.work = removal_job;
    m->retention_due_ns = now + (uint64_t)MIN(m->options.retention_check_ms, 30000) * 1000000u;
    m->checkpoint_due_ns = now + (uint64_t)m->options.checkpoint_interval_ms * 1000000u;
    if (env_loop_new(m->env, "storage", NULL, NULL, &m->loop, &why) != ERR_NONE) {
        log_error(m->logger, "storage", "no thread for the storage clock: %s", why.text);
        m->loop = NULL;
        return;
    }
    m->start_message.run = on_start;
    loop_post(m->loop, &m->start_message);
}

/* ---- a clean stop ---- */

static int by_folder(const void *a, const void *b)
{
    char x[288], y[288];

    log_name(*(struct log *const *)a, x);
    log_name(*(struct log *const *)b, y);
    return strcmp(x, y);
}

static enum err write_marker(struct log_dir *d, struct clean_writer *w, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    const char *marker = "{\"version\":0,\"brokerEpoch\":-1}";

    clean_writer_finish(w);
    (void)log_dir_path(d, FILE_CLEAN_STATE, path);

    enum err e = file_replace(d->env, path, w->ptr, w->size, why);

    (void)log_dir_path(d, FILE_CLEAN_MARKER, path);
    return e == ERR_NONE ? file_replace(d->env, path, marker, strlen(marker), why) : e;
}

/* Ends all writing, and syncs once for all logs when that is the shorter way: a sync of each costs
 * up to three waits for the disk. An error of that one sync is the directory's; which logs it
 * concerns cannot be told, so none of them is vouched for (S3). */
static void sync_together(struct log_dir *d, struct log **all, size_t count)
{
    struct errmsg why = {""};
    size_t unsynced = 0;

    for (size_t i = 0; i < count; i++)
        unsynced += all[i]->dir == d && log_stop_writing(all[i]);
    if (unsynced > SYNCS_EACH_MAX) {
        int slot = log_dir_io_begin(d);
        enum err e = file_sync_all(d->lock_file, &why);

        log_dir_io_end(d, slot);
        if (e != ERR_NONE && e != ERR_NOT_FOUND)
            log_dir_set_offline(d, why.text);
        for (size_t i = 0; e == ERR_NONE && i < count; i++) {
            if (all[i]->dir == d)
                log_stop_synced(all[i]);
        }
        if (e != ERR_NOT_FOUND)
            return;
    }
    for (size_t i = 0; unsynced > 1 && i < count; i++) {
        if (all[i]->dir == d)
            log_sync_begin(all[i]);
    }
}

static void stop_dir(struct log_dir *d, struct log **all, size_t count)
{
    struct clean_writer w;
    struct errmsg why;

    if (atomic_load(&d->offline) != NULL)
        return;
    sync_together(d, all, count);
    if (atomic_load(&d->offline) != NULL)
        return;
    clean_writer_init(&w);
    for (size_t i = 0; i < count; i++) {
        /* What cannot be vouched for is recovered at the next start. */
        if (all[i]->dir == d && log_stop_end(all[i]))
            clean_writer_add(&w, all[i]);
    }

    enum err e = log_dir_write_last_checkpoints(d, &why);

    if (e == ERR_NONE)
        e = write_marker(d, &w, &why);
    if (e != ERR_NONE)
        log_error(d->logger, "storage", "log directory %s is not stopped cleanly: %s", d->path,
                  why.text);
    clean_writer_deinit(&w);
}

void log_manager_close(struct log_manager *m)
{
    size_t count;

    mutex_lock(&m->lock);
    m->closing = true;
    mutex_unlock(&m->lock);
    if (m->loop != NULL) {
        m->stop_message.run = on_stop;
        loop_post(m->loop, &m->stop_message);
        env_loop_stop(m->loop);
        m->loop = NULL;
    }

    struct log **all = log_manager_all(m, &count);

    if (count > 0)
        qsort(all, count, sizeof(struct log *), by_folder);
    for (int i = 0; i < m->dir_count; i++)
        stop_dir(&m->dirs[i], all, count);
    for (size_t i = 0; i < count; i++) {
        mutex_lock(&m->lock);
        hmap_remove(&m->by_id, &all[i]->by_id);
        mutex_unlock(&m->lock);
        mutex_lock(&all[i]->lock);
        all[i]->closed = true;
        log_want(all[i], LOG_WORK_ROOM);
        mutex_unlock(&all[i]->lock);
        log_kick(all[i]);
        log_leave_lists(all[i]);
        log_unref(all[i]); /* the table's */
        log_unref(all[i]);
    }
    free(all);
    /* The next process may have the directories now, whoever still holds a log. */
    for (int i = 0; i < m->dir_count; i++) {
        if (m->dirs[i].lock_file != NULL)
            file_unref(m->dirs[i].lock_file);
        m->dirs[i].lock_file = NULL;
    }
    if (m->metadata_apart != NULL && m->metadata_apart->lock_file != NULL) {
        file_unref(m->metadata_apart->lock_file);
        m->metadata_apart->lock_file = NULL;
    }
    log_manager_unref(m);
}
