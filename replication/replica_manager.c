#include "replication/replica_internal.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base/mutant.h"

/* ---- finding ---- */

static uint64_t replica_hash(const struct replica_manager *m, const struct uuid *topic_id,
                             int32_t partition)
{
    uint64_t seed = m->seed ^ ((uint64_t)(uint32_t)partition * 0x9e3779b97f4a7c15ull);

    return hash_bytes(seed, topic_id->b, sizeof topic_id->b);
}

static struct replica *find(struct replica_manager *m, const struct uuid *topic_id,
                            int32_t partition) REQUIRES(m->lock)
{
    for (struct hmap_node *n =
             hmap_first_with_hash(&m->replicas, replica_hash(m, topic_id, partition));
         n != NULL; n = hmap_next_with_hash(n)) {
        struct replica *r = CONTAINER_OF(n, struct replica, node);
        const struct log_identity *id = log_identity(r->log);

        if (id->partition == partition && uuid_eq(&id->topic_id, topic_id))
            return r;
    }
    return NULL;
}

struct replica *replica_ref(struct replica *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void replica_unref(struct replica *r)
{
    if (r == NULL || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) > 1)
        return;
    CHECK(list_empty(&r->waits) && list_empty(&r->follower_waits));
    partition_free(r->partition);
    free(r->pending);
    log_unref(r->log);
    mutex_deinit(&r->lock);
    free(r);
}

struct log *replica_log(struct replica *r)
{
    return r->log;
}

struct replica *replica_manager_find(struct replica_manager *m, const struct uuid *topic_id,
                                     int32_t partition)
{
    mutex_lock(&m->lock);

    struct replica *r = find(m, topic_id, partition);

    if (r != NULL)
        replica_ref(r);
    mutex_unlock(&m->lock);
    return r;
}

/* ---- effects and waits ---- */

struct log_view replica_log_view(const struct replica *r)
{
    return (struct log_view){
        .log_start_offset = log_start_offset(r->log),
        .log_end_offset = log_end_offset(r->log),
        .durable_end_offset = log_durable_end_offset(r->log),
        .durable_counts = r->durable_counts,
    };
}

static void wake(struct replica_wait *w, enum replica_event event)
{
    list_remove(&w->node);
    w->replica = NULL;
    w->wake(w, event); /* w may be gone now */
}

void replica_wake_all(struct replica *r)
{
    list_for_each_safe (n, &r->waits)
        wake(list_entry(n, struct replica_wait, node), REPLICA_CHANGED);
    list_for_each_safe (n, &r->follower_waits)
        wake(list_entry(n, struct replica_wait, node), REPLICA_CHANGED);
}

/* Followers hear of records that are not committed yet, and of a high watermark that they do not
 * know [H18]. */
static void wake_followers(struct replica *r) REQUIRES(r->lock)
{
    if (list_empty(&r->follower_waits))
        return;

    int64_t high_watermark = partition_high_watermark(r->partition);
    int64_t end = log_end_offset(r->log);

    list_for_each_safe (n, &r->follower_waits) {
        struct replica_wait *w = list_entry(n, struct replica_wait, node);

        if (end >= w->offset || high_watermark > w->high_watermark)
            wake(w, REPLICA_ADVANCED);
    }
}

static void wake_reached(struct replica *r) REQUIRES(r->lock)
{
    if (list_empty(&r->waits))
        return;

    int64_t high_watermark = partition_high_watermark(r->partition);
    int64_t durable_end = log_durable_end_offset(r->log);

    list_for_each_safe (n, &r->waits) {
        struct replica_wait *w = list_entry(n, struct replica_wait, node);

        if (w->offset < 0 || w->offset <= (w->durable ? durable_end : high_watermark))
            wake(w, REPLICA_ADVANCED);
    }
}

void replica_apply(struct replica *r, const struct effects *effects)
{
    for (int i = 0; i < effects->count; i++) {
        const struct effect *e = &effects->list[i];

        if (e->kind == EFFECT_BEGIN_EPOCH)
            log_begin_leader_epoch(r->log, e->epoch);
        else if (e->kind == EFFECT_FAIL_WAITERS)
            replica_wake_all(r);
        else if (e->kind == EFFECT_HW_ADVANCED) {
            wake_reached(r);
            wake_followers(r);
        }
    }
}

void replica_tell_node(struct replica *r, const struct effects *effects)
{
    const struct replica_manager_options *o = &r->manager->options;

    for (int i = 0; i < effects->count; i++)
        if (effects->list[i].kind == EFFECT_ALTER_ISR)
            o->on_alter_isr(o->ctx, log_identity(r->log), &effects->list[i]);
}

uint64_t replica_now_ns(const struct replica *r)
{
    return env_now_ns(r->manager->options.env);
}

void replica_wait_add(struct replica *r, struct replica_wait *w)
{
    mutex_lock(&r->lock);
    CHECK(w->replica == NULL);
    w->replica = r;
    list_push_back(w->log_end ? &r->follower_waits : &r->waits, &w->node);
    mutex_unlock(&r->lock);
}

void replica_wait_remove(struct replica *r, struct replica_wait *w)
{
    mutex_lock(&r->lock);
    if (w->replica != NULL) {
        CHECK(w->replica == r);
        list_remove(&w->node);
        w->replica = NULL;
    }
    mutex_unlock(&r->lock);
}

/* ---- what the log tells; its owner may have gone meanwhile, so the replica is looked up ---- */

static struct replica *replica_of_log(struct replica_manager *m, struct log *l)
{
    const struct log_identity *id = log_identity(l);

    return replica_manager_find(m, &id->topic_id, id->partition);
}

static void on_log_moved(void *ctx, struct log *l)
{
    struct replica_manager *m = ctx;
    struct replica *r = replica_of_log(m, l);
    struct effects effects;

    if (r == NULL)
        return;
    mutex_lock(&r->lock);
    if (r->cutting) { /* whoever cuts looks afterwards */
        mutex_unlock(&r->lock);
        replica_unref(r);
        return;
    }

    struct log_view view = replica_log_view(r);
    bool follows = partition_role(r->partition) == PARTITION_FOLLOWER;

    partition_on_log(r->partition, &view, replica_now_ns(r), &effects);
    replica_apply(r, &effects);
    wake_reached(r); /* the durable end or the start has moved, if not the high watermark */
    mutex_unlock(&r->lock);
    replica_tell_node(r, &effects);
    if (follows && m->follower.on_log != NULL)
        m->follower.on_log(m->follower.ctx, r);
    replica_unref(r);
}

static void on_log_offline(void *ctx, struct log *l, const char *why)
{
    struct replica_manager *m = ctx;
    struct replica *r = replica_of_log(m, l);

    if (r == NULL)
        return;
    mutex_lock(&r->lock);
    replica_wake_all(r);
    mutex_unlock(&r->lock);
    m->options.on_offline(m->options.ctx, log_identity(l), why);
    if (m->follower.on_state != NULL)
        m->follower.on_state(m->follower.ctx, r);
    replica_unref(r);
}

/* ---- life ---- */

struct replica_manager *replica_manager_new(const struct replica_manager_options *o)
{
    struct replica_manager *m = xcalloc(1, sizeof *m);

    m->options = *o;
    m->seed = env_random_u64(o->env);
    mutex_init(&m->lock, o->env);
    hmap_init(&m->replicas, m->seed);
    return m;
}

static void take_out(struct replica *r)
{
    mutex_lock(&r->lock);
    r->removed = true;
    replica_wake_all(r);
    mutex_unlock(&r->lock);
    if (r->manager->follower.on_state != NULL)
        r->manager->follower.on_state(r->manager->follower.ctx, r);
    replica_unref(r);
}

void replica_manager_observe_followers(struct replica_manager *m,
                                       const struct replica_follower_observer *o)
{
    m->follower = *o;
}

void replica_manager_free(struct replica_manager *m)
{
    struct hmap_node *n;

    if (m == NULL)
        return;
    while (mutex_lock(&m->lock), (n = hmap_begin(&m->replicas)) != NULL) {
        hmap_remove(&m->replicas, n);
        mutex_unlock(&m->lock);
        take_out(CONTAINER_OF(n, struct replica, node));
    }
    mutex_unlock(&m->lock);
    hmap_deinit(&m->replicas);
    mutex_deinit(&m->lock);
    free(m);
}

static struct replica *replica_new(struct replica_manager *m, struct log *log,
                                   int64_t high_watermark_checkpoint)
{
    struct replica *r = xcalloc(1, sizeof *r);

    atomic_init(&r->refs, 1);
    r->manager = m;
    r->log = log_ref(log);
    mutex_init(&r->lock, m->options.env);
    r->partition = partition_new(m->options.node_id, high_watermark_checkpoint);
    list_init(&r->waits);
    list_init(&r->follower_waits);
    r->recovering_epoch = -1;
    r->cleanup_delete = true;
    r->partition_epoch = -1;
    return r;
}

struct replica *replica_manager_add(struct replica_manager *m, struct log *log,
                                    int64_t high_watermark_checkpoint)
{
    const struct log_identity *id = log_identity(log);

    mutex_lock(&m->lock);

    struct replica *r = find(m, &id->topic_id, id->partition);
    bool added = r == NULL;

    if (added) {
        r = replica_new(m, log, high_watermark_checkpoint);
        hmap_insert(&m->replicas, &r->node, replica_hash(m, &id->topic_id, id->partition));
    }
    replica_ref(r);
    mutex_unlock(&m->lock);
    if (!added)
        return r;
    log_observe(log, &(struct log_observer){
                         .on_durable = on_log_moved,
                         .on_start_offset = on_log_moved,
                         .on_offline = on_log_offline,
                         .ctx = m,
                     });
    if (log_offline_reason(log) != NULL) /* found broken when it was opened */
        on_log_offline(m, log, log_offline_reason(log));
    return r;
}

void replica_manager_remove(struct replica_manager *m, const struct uuid *topic_id,
                            int32_t partition)
{
    mutex_lock(&m->lock);

    struct replica *r = find(m, topic_id, partition);

    if (r != NULL)
        hmap_remove(&m->replicas, &r->node);
    mutex_unlock(&m->lock);
    if (r != NULL)
        take_out(r);
}

/* ---- the image moved ---- */

static void count_isr_change(struct replica *r, int before, bool led) REQUIRES(r->lock)
{
    struct replica_manager *m = r->manager;
    int after = partition_isr_count(r->partition);

    if (!led || partition_role(r->partition) != PARTITION_LEADER || after == before)
        return;
    (void)atomic_fetch_add(after < before ? &m->isr_shrinks : &m->isr_expands, 1);
}

void replica_take_state(struct replica *r, const struct partition_state *s, struct effects *effects)
{
    CHECK(!r->cutting);
    if (r->durable_ends && s->partition_epoch > r->partition_epoch) {
        r->durable_ends = false;
        r->durable_counts = false;
    }
    r->partition_epoch = MAX(r->partition_epoch, s->partition_epoch);
    r->recovering_epoch =
        MAX(r->recovering_epoch, s->recovering ? s->leader_epoch : s->recovering_epoch);

    struct log_view view = replica_log_view(r);
    bool led = partition_role(r->partition) == PARTITION_LEADER;
    int isr_before = partition_isr_count(r->partition);

    partition_on_state(r->partition, s, &view, replica_now_ns(r), effects);
    count_isr_change(r, isr_before, led);
    replica_apply(r, effects);
    wake_reached(r); /* DeleteRecords waits for live followers only [H34] */
}

void replica_set_state(struct replica *r, const struct partition_state *s)
{
    const struct replica_follower_observer *o = &r->manager->follower;
    struct effects effects = {.count = 0};

    mutex_lock(&r->lock);
    bool later = r->cutting;

    if (!later) {
        replica_take_state(r, s, &effects);
    } else if (r->pending == NULL || s->partition_epoch >= r->pending->partition_epoch) {
        if (r->pending == NULL)
            r->pending = xmalloc(sizeof *r->pending);
        *r->pending = *s;
    }
    mutex_unlock(&r->lock);
    replica_tell_node(r, &effects);
    if (!later && o->on_state != NULL)
        o->on_state(o->ctx, r);
}

void replica_isr_result(struct replica *r, int32_t partition_epoch, bool refused)
{
    struct effects effects;

    mutex_lock(&r->lock);

    struct log_view view = replica_log_view(r);

    partition_on_isr_result(r->partition, partition_epoch, refused, &view, replica_now_ns(r),
                            &effects);
    replica_apply(r, &effects);
    mutex_unlock(&r->lock);
    replica_tell_node(r, &effects);
}

void replica_configure(struct replica *r, const struct log_config *config)
{
    bool durable = config->flush_messages == 1;
    struct effects effects;

    log_configure(r->log, config);
    mutex_lock(&r->lock);
    r->cleanup_delete = config->cleanup_delete;
    r->cleanup_compact = config->cleanup_compact;
    if (durable) {
        r->durable_counts = true;
        r->durable_ends = false;
    } else if (partition_replica_count(r->partition) > 1) {
        r->durable_ends = r->durable_counts;
    } else {
        r->durable_counts = false;
    }

    struct log_view view = replica_log_view(r);

    partition_on_log(r->partition, &view, replica_now_ns(r), &effects);
    replica_apply(r, &effects);
    wake_reached(r); /* who waits for a sync that is not asked for any more looks again */
    mutex_unlock(&r->lock);
    replica_tell_node(r, &effects);
    if (durable)
        log_request_sync(r->log); /* what was written before the change counts once it is synced */
}

int64_t replica_manager_high_watermark(struct replica_manager *m, struct log *log)
{
    struct replica *r = replica_of_log(m, log);

    if (r == NULL)
        return log_start_offset(log);
    mutex_lock(&r->lock);

    int64_t high_watermark = partition_high_watermark(r->partition);

    mutex_unlock(&r->lock);
    replica_unref(r);
    return high_watermark;
}

void replica_look(struct replica *r, struct replica_view *out)
{
    mutex_lock(&r->lock);

    int64_t high_watermark = partition_high_watermark(r->partition);

    *out = (struct replica_view){
        .role = partition_role(r->partition),
        .leader = partition_leader(r->partition),
        .leader_epoch = partition_leader_epoch(r->partition),
        .log_start_offset = log_start_offset(r->log),
        .high_watermark = high_watermark,
        .last_stable_offset = MIN(high_watermark, log_first_unstable_offset(r->log)),
        .log_end_offset = log_end_offset(r->log),
        .under_min_isr = partition_under_min_isr(r->partition),
        .offline_reason = log_offline_reason(r->log),
    };
    mutex_unlock(&r->lock);
}

/* Whether the replica is here and whole; then what a client's epoch asks of it. */
static enum err check_leader(struct replica *r, int32_t leader_epoch) REQUIRES(r->lock)
{
    if (r->removed)
        return ERR_UNKNOWN_TOPIC_OR_PARTITION;
    if (log_offline_reason(r->log) != NULL)
        return ERR_KAFKA_STORAGE_ERROR;
    return partition_check_leader(r->partition, leader_epoch);
}

/* Whether a client may read here: from a follower too where it can (KIP-392), unless its log is
 * being cut. */
static enum err check_reader(struct replica *r, const struct replica_read *q) REQUIRES(r->lock)
{
    enum err e = check_leader(r, q->leader_epoch);

    if (e != ERR_NOT_LEADER_OR_FOLLOWER || r->cutting)
        return e;
    if (q->replica_id == -2)
        return ERR_NONE;
    return q->from_any && partition_role(r->partition) == PARTITION_FOLLOWER ? ERR_NONE : e;
}

/* ---- produce ---- */

/* acks=1 of a flush.messages=1 topic waits for this log alone, acks=all for the high watermark. */
static bool is_acknowledged(struct replica *r, int16_t acks, int64_t required_offset)
    REQUIRES(r->lock)
{
    if (acks == 0)
        return true;
    if (acks == 1)
        return !r->durable_counts || log_durable_end_offset(r->log) >= required_offset;
    return partition_high_watermark(r->partition) >= required_offset;
}

static enum err append(struct replica *r, const struct replica_append *a,
                       struct replica_append_result *out, struct effects *effects) REQUIRES(r->lock)
{
    enum err e = check_leader(r, a->leader_epoch);

    effects->count = 0;
    if (e == ERR_NONE)
        e = partition_check_append(r->partition, a->acks == -1);
    if (e == ERR_NONE)
        e = log_append(r->log, a->batch, a->bytes, partition_leader_epoch(r->partition),
                       a->now_unix_ms, &out->log);
    if (e != ERR_NONE)
        return e;

    struct log_view view = replica_log_view(r);

    partition_on_log(r->partition, &view, replica_now_ns(r), effects);
    replica_apply(r, effects);
    wake_followers(r);
    out->required_offset = out->log.last_offset + 1;
    out->done =
        is_acknowledged(r, a->acks, out->required_offset) || (MUTANT(28) && out->log.duplicate);
    return ERR_NONE;
}

enum err replica_append(struct replica *r, const struct replica_append *a,
                        struct replica_append_result *out)
{
    struct effects effects;

    *out = (struct replica_append_result){
        .log = {.base_offset = -1, .last_offset = -1, .log_append_time_ms = -1},
    };
    mutex_lock(&r->lock);

    enum err e = append(r, a, out, &effects);
    bool sync = e == ERR_NONE && r->durable_counts;

    out->log_start_offset = log_start_offset(r->log);
    out->leader_id = partition_leader(r->partition);
    out->leader_epoch = partition_leader_epoch(r->partition);
    mutex_unlock(&r->lock);
    replica_tell_node(r, &effects);
    if (sync)
        log_request_sync(r->log);
    return e;
}

bool replica_acknowledged(struct replica *r, int16_t acks, int32_t leader_epoch,
                          int64_t required_offset, enum err *err)
{
    bool over = true;

    mutex_lock(&r->lock);
    *err = check_leader(r, -1);
    if (*err == ERR_NONE && partition_leader_epoch(r->partition) != leader_epoch)
        *err = ERR_NOT_LEADER_OR_FOLLOWER; /* who leads now may not have what was appended then */
    if (*err == ERR_NONE && !is_acknowledged(r, acks, required_offset))
        over = false;
    else if (*err == ERR_NONE && acks == -1 && partition_under_min_isr(r->partition))
        *err = ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND;
    mutex_unlock(&r->lock);
    return over;
}

/* ---- fetch ---- */

/* KIP-595: has the reader's log parted from ours before where it asks? Then the answer says where
 * to truncate to. */
static enum err check_divergence(struct replica *r, const struct replica_read *q,
                                 struct replica_read_result *out)
{
    int32_t epoch = -1;
    int64_t end = -1;

    if (q->last_fetched_epoch < 0)
        return ERR_NONE;
    if (q->last_fetched_epoch <= log_latest_epoch(r->log))
        log_epoch_end_offset(r->log, q->last_fetched_epoch, &epoch, &end);
    if (epoch < 0 || end < 0 || q->log.offset < out->log_start_offset)
        return ERR_OFFSET_OUT_OF_RANGE;
    if (epoch < q->last_fetched_epoch || end < q->log.offset) {
        out->diverging_epoch = epoch;
        out->diverging_end_offset = end;
    }
    return ERR_NONE;
}

/* The numbers that go with the read; `end` is where it ends. */
static enum err begin_read(struct replica *r, const struct replica_read *q,
                           struct replica_read_result *out, int64_t *end)
{
    mutex_lock(&r->lock);

    enum err e = check_reader(r, q);
    int64_t unstable = log_first_unstable_offset(r->log);

    out->high_watermark = partition_high_watermark(r->partition);
    out->last_stable_offset = MIN(out->high_watermark, unstable);
    out->log_start_offset = log_start_offset(r->log);
    out->leader_id = partition_leader(r->partition);
    out->leader_epoch = partition_leader_epoch(r->partition);
    if (q->replica_id != -1)
        *end = log_end_offset(r->log);
    else /* a leader that has not settled is read up to its high watermark all the same [H18] */
        *end = q->read_committed ? out->last_stable_offset : out->high_watermark;
    mutex_unlock(&r->lock);
    return e;
}

enum err replica_read(struct replica *r, const struct replica_read *q,
                      struct replica_read_result *out)
{
    struct log_read_options options = q->log;

    *out = (struct replica_read_result){.diverging_epoch = -1, .diverging_end_offset = -1};
    ioqueue_init(&out->data.data);

    enum err e = begin_read(r, q, out, &options.offset_limit);

    if (MUTANT(10))
        options.offset_limit = log_end_offset(r->log);
    if (e == ERR_NONE)
        e = check_divergence(r, q, out);
    if (e != ERR_NONE || out->diverging_epoch >= 0)
        return e;
    if (options.offset < log_start_offset(r->log) || options.offset > log_end_offset(r->log))
        return ERR_OFFSET_OUT_OF_RANGE;
    if (options.offset >= options.offset_limit)
        return ERR_NONE; /* nothing to read yet; beyond the high watermark one waits [H18] */
    e = log_read(r->log, &options, &out->data);
    if (e != ERR_NONE)
        ioqueue_init(&out->data.data);
    return e;
}

/* Counts what the follower has, after it is clear that its log agrees with ours up to there. */
static enum err count_fetch(struct replica *r, const struct replica_fetch *f,
                            struct effects *effects) REQUIRES(r->lock)
{
    struct log_view view = replica_log_view(r);
    int64_t low = partition_low_watermark(r->partition, &view);
    enum err e = partition_on_replica_fetch(r->partition, f, &view, replica_now_ns(r), effects);

    if (e != ERR_NONE)
        return e;
    replica_apply(r, effects);
    if (partition_low_watermark(r->partition, &view) > low)
        wake_reached(r); /* DeleteRecords waits for it [H34] */
    return ERR_NONE;
}

enum err replica_on_fetch(struct replica *r, const struct replica_fetch *f,
                          int32_t last_fetched_epoch, struct replica_read_result *out)
{
    const struct replica_read q = {.log = {.offset = f->fetch_offset},
                                   .last_fetched_epoch = last_fetched_epoch};
    struct effects effects = {.count = 0};

    mutex_lock(&r->lock);

    enum err e = check_leader(r, f->leader_epoch);

    out->log_start_offset = log_start_offset(r->log);
    out->high_watermark = partition_high_watermark(r->partition);
    if (e == ERR_NONE)
        e = check_divergence(r, &q, out);
    if (e == ERR_NONE && out->diverging_epoch < 0)
        e = count_fetch(r, f, &effects);
    mutex_unlock(&r->lock);
    replica_tell_node(r, &effects);
    return e;
}

int32_t replica_preferred(struct replica *r, int64_t offset,
                          bool (*wanted)(void *ctx, int32_t replica), void *ctx)
{
    mutex_lock(&r->lock);

    struct log_view view = replica_log_view(r);
    int32_t id = partition_preferred_replica(r->partition, offset, &view, wanted, ctx);

    mutex_unlock(&r->lock);
    return id;
}

/* ---- the other questions ---- */

enum err replica_end_offset(struct replica *r, int32_t leader_epoch, enum replica_end which,
                            bool anywhere, int64_t *end, int32_t *epoch_out)
{
    mutex_lock(&r->lock);

    enum err e = check_leader(r, leader_epoch);

    if (e == ERR_NOT_LEADER_OR_FOLLOWER && anywhere)
        e = ERR_NONE;
    *epoch_out = partition_leader_epoch(r->partition);
    *end = -1;
    if (e == ERR_NONE && which == REPLICA_END_LOG)
        *end = log_end_offset(r->log);
    else if (e == ERR_NONE)
        e = partition_readable_end(r->partition, log_first_unstable_offset(r->log),
                                   which == REPLICA_END_LAST_STABLE, end);
    mutex_unlock(&r->lock);
    return e;
}

enum err replica_epoch_end(struct replica *r, int32_t current_leader_epoch, int32_t leader_epoch,
                           int32_t *epoch_out, int64_t *end_out)
{
    mutex_lock(&r->lock);

    enum err e = check_leader(r, current_leader_epoch);

    mutex_unlock(&r->lock);
    *epoch_out = -1;
    *end_out = -1;
    if (e == ERR_NONE && leader_epoch >= 0 && leader_epoch <= log_latest_epoch(r->log))
        log_epoch_end_offset(r->log, leader_epoch, epoch_out, end_out);
    return e;
}

enum err replica_delete_records(struct replica *r, int64_t offset, int64_t *requested,
                                int64_t *low_watermark)
{
    *requested = -1;
    *low_watermark = -1;
    mutex_lock(&r->lock);

    enum err e = check_leader(r, -1);
    int64_t high_watermark = partition_high_watermark(r->partition);
    int64_t target = offset == -1 ? high_watermark : offset;

    if (e == ERR_NONE && !r->cleanup_delete)
        e = ERR_POLICY_VIOLATION;
    if (e == ERR_NONE && (target < 0 || target > high_watermark))
        e = ERR_OFFSET_OUT_OF_RANGE;
    if (e == ERR_NONE && target > log_start_offset(r->log))
        e = log_advance_start(r->log, target);
    if (e == ERR_NONE) {
        struct log_view view = replica_log_view(r);

        *requested = target;
        *low_watermark = partition_low_watermark(r->partition, &view);
        wake_reached(r); /* another DeleteRecords may have waited for less */
    }
    mutex_unlock(&r->lock);
    return e;
}

bool replica_deleted(struct replica *r, int64_t requested, int64_t *low_watermark, enum err *err)
{
    mutex_lock(&r->lock);
    *err = check_leader(r, -1);
    *low_watermark = -1;
    if (*err == ERR_NONE) {
        struct log_view view = replica_log_view(r);

        *low_watermark = partition_low_watermark(r->partition, &view);
    }
    mutex_unlock(&r->lock);
    return *err != ERR_NONE || *low_watermark >= requested;
}

/* ---- all of them ---- */

static int by_name(const void *a, const void *b)
{
    struct replica *const *x = a, *const *y = b;
    const struct log_identity *i = log_identity((*x)->log), *j = log_identity((*y)->log);
    int c = strcmp(i->topic, j->topic);

    if (c == 0)
        c = (i->partition > j->partition) - (i->partition < j->partition);
    return c != 0 ? c : uuid_cmp(&i->topic_id, &j->topic_id);
}

void replica_manager_each(struct replica_manager *m, void (*fn)(void *ctx, struct replica *r),
                          void *ctx)
{
    size_t count = 0;

    mutex_lock(&m->lock);

    struct replica **all = xcalloc(m->replicas.count + 1, sizeof *all);

    for (struct hmap_node *n = hmap_begin(&m->replicas); n != NULL; n = hmap_after(&m->replicas, n))
        all[count++] = replica_ref(CONTAINER_OF(n, struct replica, node));
    mutex_unlock(&m->lock);
    qsort(all, count, sizeof *all, by_name);
    for (size_t i = 0; i < count; i++) {
        fn(ctx, all[i]);
        replica_unref(all[i]);
    }
    free(all);
}

static void tick_one(void *ctx, struct replica *r)
{
    const uint64_t *lag_max_ns = ctx;
    struct effects effects;

    mutex_lock(&r->lock);

    struct log_view view = replica_log_view(r);

    partition_on_tick(r->partition, &view, *lag_max_ns, replica_now_ns(r), &effects);
    replica_apply(r, &effects);
    mutex_unlock(&r->lock);
    replica_tell_node(r, &effects);
}

void replica_manager_tick(struct replica_manager *m, uint64_t lag_max_ns)
{
    replica_manager_each(m, tick_one, &lag_max_ns);
}

/* ---- metrics ---- */

struct totals {
    int leaders, all, under_replicated, under_min_isr, offline;
};

static void add_up(void *ctx, struct replica *r)
{
    struct totals *t = ctx;

    mutex_lock(&r->lock);
    t->all++;
    t->offline += log_offline_reason(r->log) != NULL;
    if (partition_role(r->partition) == PARTITION_LEADER) {
        t->leaders++;
        t->under_replicated +=
            partition_isr_count(r->partition) < partition_replica_count(r->partition);
        t->under_min_isr += partition_under_min_isr(r->partition);
    }
    mutex_unlock(&r->lock);
}

static struct totals total(struct replica_manager *m)
{
    struct totals t = {0};

    replica_manager_each(m, add_up, &t);
    return t;
}

static double read_leaders(void *ctx)
{
    return total(ctx).leaders;
}

static double read_all(void *ctx)
{
    return total(ctx).all;
}

static double read_under_replicated(void *ctx)
{
    return total(ctx).under_replicated;
}

static double read_under_min_isr(void *ctx)
{
    return total(ctx).under_min_isr;
}

static double read_offline(void *ctx)
{
    return total(ctx).offline;
}

static double read_shrinks(void *ctx)
{
    return (double)atomic_load(&((struct replica_manager *)ctx)->isr_shrinks);
}

static double read_expands(void *ctx)
{
    return (double)atomic_load(&((struct replica_manager *)ctx)->isr_expands);
}

void replica_manager_register_metrics(struct replica_manager *m, struct metrics *metrics)
{
    metrics_add_callback(metrics, METRIC_COUNTER, "kafka_server_replicamanager_isrshrinks_total",
                         "", "In-sync replica sets of led partitions that became smaller",
                         read_shrinks, m);
    metrics_add_callback(metrics, METRIC_COUNTER, "kafka_server_replicamanager_isrexpands_total",
                         "", "In-sync replica sets of led partitions that became larger",
                         read_expands, m);
    metrics_add_callback(metrics, METRIC_GAUGE, "kafka_server_replicamanager_leadercount", "",
                         "Partitions that this node leads", read_leaders, m);
    metrics_add_callback(metrics, METRIC_GAUGE, "kafka_server_replicamanager_partitioncount", "",
                         "Partition replicas on this node", read_all, m);
    metrics_add_callback(
        metrics, METRIC_GAUGE, "kafka_server_replicamanager_underreplicatedpartitions", "",
        "Led partitions with fewer in-sync replicas than replicas", read_under_replicated, m);
    metrics_add_callback(metrics, METRIC_GAUGE,
                         "kafka_server_replicamanager_underminisrpartitioncount", "",
                         "Led partitions with fewer in-sync replicas than the effective minimum",
                         read_under_min_isr, m);
    metrics_add_callback(metrics, METRIC_GAUGE, "kafka_server_replicamanager_offlinereplicacount",
                         "", "Replicas on this node that cannot be used", read_offline, m);
}
