#include "storage/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/mutant.h"
#include "storage/log_internal.h"

/* ---- life ---- */

struct log *log_new(struct log_dir *dir, const struct log_identity *id,
                    const struct log_config *config)
{
    struct log *l = xcalloc(1, sizeof *l);

    l->refs = 1;
    l->env = dir->env;
    l->logger = dir->logger;
    l->dir = dir;
    l->id = *id;
    l->stray_snapshot = -1;
    l->checkpointed_high_watermark = -1;
    mutex_init(&l->sync_lock, dir->env);
    mutex_init(&l->structure, dir->env);
    mutex_init(&l->opening, dir->env);
    mutex_init(&l->lock, dir->env);
    list_init(&l->waiters);
    producer_state_init(&l->producers, env_random_u64(dir->env));
    l->job.work = log_work;
    log_configure(l, config);
    log_manager_ref(dir->manager);
    return l;
}

struct log *log_ref(struct log *l)
{
    atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
    return l;
}

void log_unref(struct log *l)
{
    if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1)
        return;
    CHECK(list_empty(&l->waiters));
    for (int i = 0; i < l->segment_count; i++)
        segment_unref(l->segments[i]);
    free(l->segments);
    leader_epochs_deinit(&l->epochs);
    producer_state_deinit(&l->producers);
    free(l->hints);
    for (int i = 0; i < l->older_cut_count; i++)
        free(l->older_cuts[i]);
    free(l->older_cuts);
    free((char *)(uintptr_t)l->offline);
    mutex_deinit(&l->lock);
    mutex_deinit(&l->opening);
    mutex_deinit(&l->structure);
    mutex_deinit(&l->sync_lock);
    log_manager_unref(l->dir->manager);
    free(l);
}

const struct log_identity *log_identity(const struct log *l)
{
    return &l->id;
}

struct log_dir *log_directory(const struct log *l)
{
    return l->dir;
}

void log_path(const struct log *l, const char *name, char out[LOG_PATH_MAX])
{
    int n = snprintf(out, LOG_PATH_MAX, "%s/%s-%d%s%s", l->dir->path, l->id.topic, l->id.partition,
                     name[0] != '\0' ? "/" : "", name);

    CHECK(n > 0 && n < LOG_PATH_MAX); /* the directory's own length was checked at start */
}

void log_name(const struct log *l, char out[288])
{
    (void)snprintf(out, 288, "%s-%d", l->id.topic, l->id.partition);
}

void log_configure(struct log *l, const struct log_config *config)
{
    mutex_lock(&l->lock);
    l->config = *config;
    l->config.segment_bytes =
        MIN(MAX(config->segment_bytes, (int64_t)1), (int64_t)SEGMENT_BYTES_MAX);
    l->config.index_interval_bytes = MAX(config->index_interval_bytes, (int64_t)0);
    /* Logs that began together do not roll together. */
    l->roll_jitter_ms =
        config->segment_jitter_ms > 0
            ? (int64_t)(env_random_u64(l->env) % (uint64_t)config->segment_jitter_ms)
            : 0;
    mutex_unlock(&l->lock);
}

void log_observe(struct log *l, const struct log_observer *o)
{
    mutex_lock(&l->lock);
    l->observer = *o;
    mutex_unlock(&l->lock);
}

/* ---- offline, work, activity ---- */

void log_set_offline(struct log *l, const char *fmt, ...)
{
    char reason[512], name[288];
    const char *none = NULL;
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);

    char *copy = xstrdup(reason);

    if (!atomic_compare_exchange_strong(&l->offline, &none, copy)) {
        free(copy);
        return;
    }
    log_name(l, name);
    log_error(l->logger, "storage", "%s is offline: %s", name, reason);
}

const char *log_offline_reason(const struct log *l)
{
    const char *own = atomic_load(&l->offline);

    return own != NULL ? own : atomic_load(&l->dir->offline);
}

void log_want(struct log *l, unsigned work)
{
    l->work |= work;
}

void log_kick(struct log *l)
{
    mutex_lock(&l->lock);
    if (atomic_load_explicit(&l->offline, memory_order_relaxed) != NULL && !l->closed &&
        !list_empty(&l->waiters))
        l->work |= LOG_WORK_ROOM; /* they must hear of it */

    bool submit = l->work != 0 && !l->working;

    if (submit)
        l->working = true;
    mutex_unlock(&l->lock);
    if (submit) {
        (void)log_ref(l);
        env_pool_submit(l->env, JOB_SHORT, &l->job);
    }
}

void log_touch(struct log *l)
{
    atomic_store_explicit(&l->active, true, memory_order_relaxed);
    if (l->in_active || l->closed)
        return;
    l->in_active = true;
    (void)log_ref(l);
    mutex_lock(&l->dir->lock);
    list_push_back(&l->dir->active, &l->active_node);
    mutex_unlock(&l->dir->lock);
}

/* ---- segments ---- */

void log_push_segment(struct log *l, struct segment *s)
{
    if (l->segment_count == l->segment_capacity) {
        l->segment_capacity = l->segment_capacity == 0 ? 1 : l->segment_capacity * 2;
        l->segments = xrealloc(l->segments, (size_t)l->segment_capacity * sizeof *l->segments);
    }
    l->segments[l->segment_count++] = s;
}

int log_find_segment(const struct log *l, int64_t offset)
{
    int low = 0, high = l->segment_count; /* the first that ends behind `offset` */

    while (low < high) {
        int middle = low + (high - low) / 2;

        if (l->segments[middle]->next_offset > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* ---- hints ---- */

static void hint_appended(struct log *l, int64_t offset, int64_t segment_base, uint64_t position)
{
    if (l->hints == NULL) {
        l->hints = xcalloc(1, sizeof *l->hints);
        for (int i = 0; i < HINTS_APPENDED; i++)
            l->hints->appended[i].offset = -1;
        for (int i = 0; i < HINTS_READ; i++)
            l->hints->read[i].offset = -1;
    }

    struct position_hints *h = l->hints;

    h->appended[h->appended_next++ % HINTS_APPENDED] =
        (struct position_hint){offset, segment_base, position};
}

static void hint_read(struct log *l, int64_t offset, int64_t segment_base, uint64_t position)
{
    struct position_hints *h = l->hints;

    if (h == NULL)
        return;
    for (int i = 0; i < HINTS_READ; i++) {
        if (h->read[i].offset == offset)
            return;
    }
    h->read[h->read_next++ % HINTS_READ] = (struct position_hint){offset, segment_base, position};
}

static bool hint_find(const struct log *l, int64_t offset, int64_t segment_base, uint64_t *position)
{
    const struct position_hints *h = l->hints;

    if (h == NULL)
        return false;
    for (unsigned i = 1; i <= HINTS_APPENDED; i++) {
        const struct position_hint *p = &h->appended[(h->appended_next - i) % HINTS_APPENDED];

        if (p->offset == offset && p->segment_base == segment_base) {
            *position = p->position;
            return true;
        }
    }
    for (int i = 0; i < HINTS_READ; i++) {
        if (h->read[i].offset == offset && h->read[i].segment_base == segment_base) {
            *position = h->read[i].position;
            return true;
        }
    }
    return false;
}

/* ---- append ---- */

static bool must_roll(const struct log *l, const struct segment *s, const struct record_batch *b)
{
    const struct log_config *c = &l->config;

    if (!segment_can_hold(s, l->end_offset + b->last_offset_delta))
        return true;
    if (s->size_bytes == 0)
        return false;
    return (int64_t)s->size_bytes + b->size_bytes > c->segment_bytes ||
           (s->first_timestamp_ms >= 0 && b->max_timestamp >= 0 &&
            b->max_timestamp - s->first_timestamp_ms > c->segment_ms - l->roll_jitter_ms) ||
           index_count(&s->offsets) >= (uint64_t)c->segment_index_bytes / 8 ||
           index_count(&s->times) + 1 >= (uint64_t)c->segment_index_bytes / 12;
}

/* Whether the batch can be written now, without waiting. */
static bool has_room(struct log *l, const struct record_batch *b) REQUIRES(l->lock)
{
    struct segment *s = log_active(l);

    if (l->room_closed || l->roll_wanted || s == NULL || s->file == NULL)
        return false;
    if (must_roll(l, s, b)) {
        l->roll_wanted = true;
        return false;
    }
    return s->size_bytes + (uint64_t)b->size_bytes <= file_ready_end(s->file) &&
           s->offsets.tail_count < INDEX_TAIL_ENTRIES_MAX &&
           s->times.tail_count < INDEX_TAIL_ENTRIES_MAX;
}

/* Asks for what the pool should do ahead of need. */
static void look_ahead(struct log *l) REQUIRES(l->lock)
{
    struct segment *s = log_active(l);
    uint64_t left = file_ready_end(s->file) - s->size_bytes;

    if (left < l->step_bytes / 2 && (int64_t)file_ready_end(s->file) < l->config.segment_bytes)
        log_want(l, LOG_WORK_ROOM);
    if (s->offsets.tail_count >= INDEX_TAIL_ENTRIES_STORE ||
        s->times.tail_count >= INDEX_TAIL_ENTRIES_STORE)
        log_want(l, LOG_WORK_STORE_INDEXES);
}

static bool may_write(struct log *l) REQUIRES(l->lock)
{
    if (l->closed || l->stopping || log_offline_reason(l) != NULL ||
        atomic_load(&l->dir->below_reserve))
        return false;
    return l->no_space_epoch == 0 || l->no_space_epoch != atomic_load(&l->dir->space_epoch);
}

/* The bytes are in place: everything that follows from them, and then the new end (S4). */
static void publish(struct log *l, const struct record_batch *b) REQUIRES(l->lock)
{
    struct segment *s = log_active(l);
    struct completed_transaction ended;

    if (b->partition_leader_epoch > leader_epochs_latest(&l->epochs))
        leader_epochs_assign(&l->epochs, b->partition_leader_epoch, b->base_offset);
    if (producer_state_update(&l->producers, b, l->config.producer_id_expiration_ms, &ended) &&
        ended.aborted) {
        if (s->aborted == NULL)
            s->aborted = xcalloc(1, sizeof *s->aborted);
        txn_index_append(s->aborted, &ended);
        log_want(l, LOG_WORK_STORE_INDEXES);
    }
    hint_appended(l, b->base_offset, s->base_offset, s->size_bytes - (uint64_t)b->size_bytes);
    l->rate_bytes += (uint64_t)b->size_bytes;
    if (l->dirty_since_ns == 0)
        l->dirty_since_ns = 1; /* the next tick puts in the time: no clock is read here */
    atomic_store_explicit(&l->end_offset, record_batch_last_offset(b) + 1, memory_order_release);
    log_touch(l);
    look_ahead(l);
}

static enum err write_batch(struct log *l, const struct record_batch *b, const uint8_t *bytes,
                            int64_t now_unix_ms) REQUIRES(l->lock)
{
    struct errmsg why = {""};
    enum err e =
        segment_append(log_active(l), b, bytes, l->config.index_interval_bytes, now_unix_ms, &why);

    if (e == ERR_NONE) {
        publish(l, b);
        return ERR_NONE;
    }
    if (e == ERR_NO_SPACE) {
        l->no_space_epoch = atomic_load(&l->dir->space_epoch);
        log_dir_no_space(l->dir);
    } else {
        log_set_offline(l, "%s", why.text);
        log_want(l, LOG_WORK_REPORT_OFFLINE);
    }
    return ERR_KAFKA_STORAGE_ERROR;
}

static enum err append_locked(struct log *l, struct record_batch *batch, uint8_t *bytes,
                              enum append_origin origin, int32_t leader_epoch, int64_t now_unix_ms,
                              struct log_append_result *out) REQUIRES(l->lock)
{
    struct producer_verdict verdict;

    if (MUTANT(21) && l->no_space_epoch != 0 && log_active(l) != NULL)
        log_active(l)->size_bytes += (uint64_t)batch->size_bytes / 2;
    if (!may_write(l))
        return ERR_KAFKA_STORAGE_ERROR;
    if (batch->size_bytes > l->config.segment_bytes)
        return ERR_RECORD_LIST_TOO_LARGE;

    enum err e = producer_state_check(&l->producers, batch, origin,
                                      l->config.producer_id_expiration_ms, &verdict);

    if (e != ERR_NONE)
        return e;
    *out = (struct log_append_result){.log_append_time_ms = -1, .duplicate = verdict.duplicate};
    if (verdict.duplicate) {
        out->base_offset = MUTANT(13) ? l->end_offset : verdict.base_offset;
        out->last_offset = verdict.last_offset;
        if (record_batch_is_log_append_time(batch))
            out->log_append_time_ms = verdict.timestamp_ms;
        return ERR_NONE;
    }
    if (!has_room(l, batch))
        return ERR_AGAIN;
    if (origin != APPEND_REPLICA) {
        batch->base_offset = atomic_load_explicit(&l->end_offset, memory_order_relaxed);
        batch->partition_leader_epoch = leader_epoch;
        record_batch_patch(bytes, batch->base_offset, leader_epoch);
    }
    out->base_offset = batch->base_offset;
    out->last_offset = record_batch_last_offset(batch);
    if (record_batch_is_log_append_time(batch))
        out->log_append_time_ms = batch->max_timestamp;
    return write_batch(l, batch, bytes, now_unix_ms);
}

static enum err append(struct log *l, struct record_batch *batch, uint8_t *bytes,
                       enum append_origin origin, int32_t leader_epoch, int64_t now_unix_ms,
                       struct log_append_result *out)
{
    mutex_lock(&l->lock);

    enum err e = append_locked(l, batch, bytes, origin, leader_epoch, now_unix_ms, out);
    bool work = l->work != 0;
    bool sync = e == ERR_NONE && !out->duplicate &&
                l->end_offset - l->recovery_point >= l->config.flush_messages;

    mutex_unlock(&l->lock);
    if (work)
        log_kick(l);
    if (sync)
        log_request_sync(l);
    return e;
}

enum err log_append(struct log *l, struct record_batch *batch, uint8_t *bytes, int32_t leader_epoch,
                    int64_t now_unix_ms, struct log_append_result *out)
{
    return append(l, batch, bytes,
                  record_batch_is_control(batch) ? APPEND_COORDINATOR : APPEND_CLIENT, leader_epoch,
                  now_unix_ms, out);
}

enum err log_append_replicated(struct log *l, const struct record_batch *batch,
                               const uint8_t *bytes, int64_t now_unix_ms)
{
    struct log_append_result ignored;
    struct record_batch b = *batch;

    if (b.base_offset < log_end_offset(l))
        return ERR_OFFSET_OUT_OF_RANGE;
    /* The bytes are not written to: only a leader assigns offsets. */
    return append(l, &b, (uint8_t *)(uintptr_t)bytes, APPEND_REPLICA, b.partition_leader_epoch,
                  now_unix_ms, &ignored);
}

void log_wait_for_room(struct log *l, size_t size, struct log_room_waiter *w)
{
    mutex_lock(&l->lock);
    list_push_back(&l->waiters, &w->node);
    l->room_wanted = MAX(l->room_wanted, (uint64_t)size);
    log_want(l, LOG_WORK_ROOM);
    mutex_unlock(&l->lock);
    log_kick(l);
}

void log_begin_leader_epoch(struct log *l, int32_t leader_epoch)
{
    mutex_lock(&l->lock);
    /* What a clean stop writes down is complete: the epoch begins again in the next life. */
    if (!l->stopping && leader_epoch > leader_epochs_latest(&l->epochs))
        leader_epochs_assign(&l->epochs, leader_epoch,
                             atomic_load_explicit(&l->end_offset, memory_order_relaxed));
    mutex_unlock(&l->lock);
}

/* ---- numbers ---- */

int64_t log_start_offset(const struct log *l)
{
    return atomic_load_explicit(&l->start_offset, memory_order_acquire);
}

int64_t log_end_offset(const struct log *l)
{
    return atomic_load_explicit(&l->end_offset, memory_order_acquire);
}

int64_t log_durable_end_offset(const struct log *l)
{
    return atomic_load_explicit(&l->recovery_point, memory_order_acquire);
}

int64_t log_checkpointed_high_watermark(const struct log *l)
{
    return MIN(l->checkpointed_high_watermark, log_end_offset(l));
}

static struct log *writable(const struct log *l)
{
    return (struct log *)(uintptr_t)l; /* its lock is taken; the log stays as it is */
}

int64_t log_first_unstable_offset(const struct log *l)
{
    struct log *w = writable(l);

    mutex_lock(&w->lock);
    int64_t first = producer_state_first_open(&w->producers);
    int64_t end = w->end_offset;

    mutex_unlock(&w->lock);
    return MIN(first, end);
}

int64_t log_last_stable_offset(struct log *l, int64_t high_watermark)
{
    mutex_lock(&l->lock);
    int64_t first = producer_state_first_unstable(&l->producers, high_watermark);

    mutex_unlock(&l->lock);
    return MIN(first, high_watermark);
}

void log_request_sync(struct log *l)
{
    log_dir_request_sync(l->dir, l);
}

void log_epoch_end_offset(const struct log *l, int32_t leader_epoch, int32_t *epoch_out,
                          int64_t *end_offset_out)
{
    struct log *w = writable(l);

    mutex_lock(&w->lock);
    leader_epochs_end_offset(&w->epochs, leader_epoch, w->end_offset, epoch_out, end_offset_out);
    mutex_unlock(&w->lock);
}

int32_t log_leader_epoch_at(const struct log *l, int64_t offset)
{
    struct log *w = writable(l);

    mutex_lock(&w->lock);
    int32_t epoch = leader_epochs_at(&w->epochs, offset);

    mutex_unlock(&w->lock);
    return epoch;
}

int32_t log_latest_epoch(const struct log *l)
{
    struct log *w = writable(l);

    mutex_lock(&w->lock);
    int32_t epoch = leader_epochs_latest(&w->epochs);

    mutex_unlock(&w->lock);
    return epoch;
}

int64_t log_size_bytes(const struct log *l)
{
    struct log *w = writable(l);
    int64_t size = 0;

    mutex_lock(&w->lock);
    for (int i = 0; i < w->segment_count; i++)
        size += (int64_t)w->segments[i]->size_bytes;
    mutex_unlock(&w->lock);
    return size;
}

int log_segment_count(const struct log *l)
{
    struct log *w = writable(l);

    mutex_lock(&w->lock);
    int count = w->segment_count;

    mutex_unlock(&w->lock);
    return count;
}

bool log_was_cut(const struct log *l)
{
    return l->was_cut;
}

/* Bytes below `offset` in segment i, as if its batches were all alike. */
static int64_t bytes_below(const struct log *l, int64_t offset)
{
    int64_t bytes = 0;

    for (int i = 0; i < l->segment_count; i++) {
        const struct segment *s = l->segments[i];

        if (offset >= s->next_offset) {
            bytes += (int64_t)s->size_bytes;
            continue;
        }
        if (offset > s->base_offset)
            bytes += (int64_t)((double)s->size_bytes * (double)(offset - s->base_offset) /
                               (double)(s->next_offset - s->base_offset));
        break;
    }
    return bytes;
}

int64_t log_bytes_between(const struct log *l, int64_t from, int64_t to)
{
    struct log *w = writable(l);

    if (to <= from)
        return 0;
    mutex_lock(&w->lock);
    int64_t bytes = bytes_below(w, to) - bytes_below(w, from);

    mutex_unlock(&w->lock);
    return MAX(bytes, (int64_t)1);
}

size_t log_producers(const struct log *l, struct producer_view **out)
{
    struct log *w = writable(l);
    uint32_t count;

    mutex_lock(&w->lock);

    const struct producer **all = producer_state_sorted(&w->producers, &count);
    struct producer_view *v = xcalloc(count + 1, sizeof *v);

    for (uint32_t i = 0; i < count; i++) {
        const struct producer_batch *last =
            all[i]->batch_count > 0 ? &all[i]->batches[all[i]->batch_count - 1] : NULL;

        v[i] = (struct producer_view){
            .producer_id = all[i]->producer_id,
            .last_timestamp_ms = last != NULL ? last->timestamp_ms : all[i]->last_timestamp_ms,
            .current_txn_start_offset = all[i]->txn_first_offset,
            .producer_epoch = all[i]->producer_epoch,
            .last_sequence = last != NULL ? last->last_sequence : -1,
            .coordinator_epoch = all[i]->coordinator_epoch,
        };
    }
    mutex_unlock(&w->lock);
    free(all);
    *out = v;
    return count;
}

/* ---- read ---- */

/* What a read knows after it has let go of the lock. */
struct read_plan {
    struct segment_view view;
    struct segment *segment; /* a reference */
    int64_t offset, limit;
    uint64_t start, limit_position; /* valid when known */
    bool start_known, limit_known;
};

/* ERR_NOT_FOUND: nothing to read, which is no error. */
static enum err plan_read(struct log *l, const struct log_read_options *o, struct read_plan *p)
    REQUIRES(l->lock)
{
    int64_t end = l->end_offset;

    if (log_offline_reason(l) != NULL || l->closed)
        return ERR_KAFKA_STORAGE_ERROR;
    if (o->offset < l->start_offset || o->offset > end)
        return ERR_OFFSET_OUT_OF_RANGE;
    p->offset = o->offset;
    p->limit = MIN(o->offset_limit, end);
    if (o->offset >= p->limit)
        return ERR_NOT_FOUND;

    int i = log_find_segment(l, o->offset);

    if (i == l->segment_count || l->segments[i]->base_offset >= p->limit)
        return ERR_NOT_FOUND;

    struct segment *s = l->segments[i];

    if (s->file == NULL || !s->index_checked ||
        (s->offsets.stored_count > 0 && s->offsets.file == NULL))
        return ERR_AGAIN;
    segment_view_take(s, &p->view);
    p->view.resident_only = true;
    p->segment = segment_ref(s);
    p->start_known =
        o->offset == s->base_offset || hint_find(l, o->offset, s->base_offset, &p->start);
    if (o->offset == s->base_offset)
        p->start = 0;
    p->limit_known = p->limit >= s->next_offset;
    if (p->limit_known)
        p->limit_position = s->size_bytes;
    else
        p->limit_known = hint_find(l, p->limit, s->base_offset, &p->limit_position);
    log_touch(l);
    return ERR_NONE;
}

static enum err find_start(struct read_plan *p)
{
    struct batch_position at;

    if (p->start_known)
        return ERR_NONE;
    if (!segment_locate_resident(&p->view, p->offset))
        return ERR_AGAIN;

    enum err e = segment_locate(&p->view, p->offset, 0, &at);

    p->start = at.position;
    p->start_known = e == ERR_NONE;
    return e;
}

static enum err find_limit(struct log *l, struct read_plan *p)
{
    struct batch_position at;
    enum err e = ERR_AGAIN;

    if (p->limit_known)
        return ERR_NONE;
    if (segment_locate_resident(&p->view, p->limit))
        e = segment_locate(&p->view, p->limit, p->start, &at);
    if (e == ERR_AGAIN) {
        mutex_lock(&l->lock);
        p->segment->limit_wanted = p->limit; /* log_load() brings the way to it too */
        mutex_unlock(&l->lock);
        return e;
    }
    p->limit_position = e == ERR_NONE ? at.position : p->view.size_bytes;
    p->limit_known = true;
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

/* Where the batches that may be returned end. */
static enum err find_end(const struct read_plan *p, const struct log_read_options *o, uint64_t *end)
{
    enum err e;
    uint64_t most = p->start + (uint64_t)o->bytes_max;

    if (p->limit_position <= most) {
        *end = MAX(p->limit_position, p->start);
        return ERR_NONE;
    }
    if (!segment_boundary_resident(&p->view, p->start, most))
        return ERR_AGAIN;
    e = segment_boundary(&p->view, p->start, most, end);
    if (e == ERR_NONE && *end == p->start && o->at_least_one) {
        if (!segment_locate_resident(&p->view, p->offset))
            return ERR_AGAIN;
        /* KIP-74: the first batch whole, so that a reader can always go on. */
        struct batch_position first;

        e = segment_locate(&p->view, p->offset, p->start, &first);
        if (e == ERR_NONE && first.position + (uint64_t)first.batch.size_bytes <= p->limit_position)
            *end = first.position + (uint64_t)first.batch.size_bytes;
    }
    return e;
}

/* The offset of what follows, -1: it is not known without a wait. */
static int64_t offset_behind(const struct read_plan *p, uint64_t end)
{
    int64_t next = -1;

    if (end == p->view.size_bytes) {
        next = p->view.next_offset;
    } else if (end == p->limit_position) {
        next = p->limit;
    } else {
        uint8_t base[8];
        size_t n = 0;

        if (file_resident(p->view.file, end, sizeof base) &&
            file_read(p->view.file, end, base, sizeof base, &n) == ERR_NONE && n == sizeof base)
            next = (int64_t)load_be64(base);
    }
    return next;
}

/* Whether this process knows the bytes to be right (S12); then the place where they end is
 * remembered: the reader will be back for what follows. */
static bool is_checked(struct log *l, const struct read_plan *p, uint64_t end)
{
    int64_t next = offset_behind(p, end);

    mutex_lock(&l->lock);
    bool checked = checked_covers(&p->segment->checked, p->start, end);

    if (checked && next >= 0)
        hint_read(l, next, p->view.base_offset, end);
    mutex_unlock(&l->lock);
    return checked;
}

/* What was found where the bytes are not known to be right says nothing yet. */
static bool may_be_misled(struct log *l, const struct read_plan *p)
{
    mutex_lock(&l->lock);
    bool checked = checked_covers(&p->segment->checked, 0, p->view.size_bytes);

    mutex_unlock(&l->lock);
    return !checked;
}

static void collect_aborted(struct log *l, const struct read_plan *p, struct log_read_result *out)
{
    size_t capacity = 0;

    mutex_lock(&l->lock);
    /* The entry stands in the segment of its marker, which may be a later one. */
    for (int i = log_find_segment(l, p->offset); i < l->segment_count; i++) {
        if (l->segments[i]->aborted != NULL)
            txn_index_collect(l->segments[i]->aborted, p->offset, p->limit, &out->aborted,
                              &out->aborted_count, &capacity);
    }
    mutex_unlock(&l->lock);
}

static enum err read_planned(struct log *l, const struct log_read_options *o, struct read_plan *p,
                             struct log_read_result *out)
{
    struct iobuf *view;
    uint64_t end;
    enum err e = find_start(p);

    if (e == ERR_NONE) {
        e = find_limit(l, p);
        if (e == ERR_NONE)
            e = find_end(p, o, &end);
        if (e == ERR_AGAIN) /* as far as the walk to the end goes */
            out->load_bytes = (size_t)o->bytes_max;
    }
    if (e != ERR_NONE || end == p->start)
        return e;

    size_t size = (size_t)(end - p->start);

    if (!is_checked(l, p, end)) {
        out->load_bytes = size;
        return ERR_AGAIN;
    }
    e = file_view(p->view.file, p->start, size, &view);
    if (e != ERR_NONE)
        return e;
    out->cold = view->ptr == NULL && !file_resident(p->view.file, p->start, size);
    out->bytes = size;
    ioqueue_push(&out->data, view, 0, size);
    if (o->need_aborted)
        collect_aborted(l, p, out);
    return ERR_NONE;
}

enum err log_read(struct log *l, const struct log_read_options *o, struct log_read_result *out)
{
    struct read_plan p = {.start = 0};

    *out = (struct log_read_result){.bytes = 0};
    ioqueue_init(&out->data);
    mutex_lock(&l->lock);
    enum err e = plan_read(l, o, &p);

    mutex_unlock(&l->lock);
    if (e != ERR_NONE)
        return e == ERR_NOT_FOUND ? ERR_NONE : e;
    e = read_planned(l, o, &p, out);
    if ((e == ERR_CORRUPT || e == ERR_NOT_FOUND) && may_be_misled(l, &p))
        e = ERR_AGAIN; /* log_load() finds out */
    segment_unref(p.segment);
    segment_view_drop(&p.view);
    if (e == ERR_NONE || e == ERR_AGAIN)
        return e;

    /* What was published cannot be found or read: corrupt, or the disk fails. */
    log_set_offline(l, "%020lld.log: %s at offset %lld", (long long)p.view.base_offset,
                    e == ERR_CORRUPT || e == ERR_NOT_FOUND ? "no valid batch" : "cannot be read",
                    (long long)o->offset);
    mutex_lock(&l->lock);
    log_want(l, LOG_WORK_REPORT_OFFLINE);
    mutex_unlock(&l->lock);
    log_kick(l);
    return ERR_KAFKA_STORAGE_ERROR;
}
