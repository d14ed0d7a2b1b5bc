/* The follower's side of a replica: what its leader sent is appended, and what its leader never had
 * is cut. Everything is fenced by the leader epoch that it was fetched in (F1). */
#include <stdlib.h>

#include "replication/replica_internal.h"

bool replica_following(struct replica *r, struct replica_following *out)
{
    mutex_lock(&r->lock);
    *out = (struct replica_following){
        .leader = partition_leader(r->partition),
        .leader_epoch = partition_leader_epoch(r->partition),
        .recovering_epoch = r->recovering_epoch,
        .gaps_allowed = r->cleanup_compact,
    };

    bool follows = !r->removed && log_offline_reason(r->log) == NULL &&
                   partition_role(r->partition) == PARTITION_FOLLOWER && out->leader >= 0;

    mutex_unlock(&r->lock);
    return follows;
}

bool replica_fetch_view(struct replica *r, struct fetch_log_view *out)
{
    mutex_lock(&r->lock);

    bool whole = !r->cutting;

    *out = (struct fetch_log_view){
        .log_start_offset = log_start_offset(r->log),
        .log_end_offset = log_end_offset(r->log),
        .high_watermark = partition_high_watermark(r->partition),
        .last_epoch = log_latest_epoch(r->log),
        .durable_end_offset = log_durable_end_offset(r->log),
        .durable_counts = r->durable_counts,
    };
    mutex_unlock(&r->lock);
    return whole;
}

/* Whether what the leader of `leader_epoch` said still holds here. */
static enum err check_follower(struct replica *r, int32_t leader_epoch) REQUIRES(r->lock)
{
    if (r->removed)
        return ERR_UNKNOWN_TOPIC_OR_PARTITION;
    if (log_offline_reason(r->log) != NULL)
        return ERR_KAFKA_STORAGE_ERROR;
    if (r->cutting || partition_role(r->partition) != PARTITION_FOLLOWER ||
        partition_leader_epoch(r->partition) != leader_epoch)
        return ERR_FENCED_LEADER_EPOCH;
    return ERR_NONE;
}

/* ---- taking ---- */

static enum err append_batches(struct replica *r, const struct replica_take *t, size_t *taken,
                               size_t *room) REQUIRES(r->lock)
{
    struct record_batch_iterator it = {t->records, t->records_size};
    struct record_batch b;

    while (it.left > 0) {
        enum err e = record_batch_next(&it, &b);

        if (e != ERR_NONE)
            return ERR_MALFORMED;
        e = log_append_replicated(r->log, &b, b.ptr, t->now_unix_ms);
        if (e == ERR_AGAIN)
            *room = (size_t)b.size_bytes;
        if (e != ERR_NONE)
            return e;
        *taken += (size_t)b.size_bytes;
    }
    return ERR_NONE;
}

/* Neither ever back, and the start never beyond what is committed here. */
static enum err follow_start(struct replica *r, int64_t leader_start) REQUIRES(r->lock)
{
    int64_t start = MIN(leader_start, partition_high_watermark(r->partition));

    if (start <= log_start_offset(r->log))
        return ERR_NONE;
    return log_advance_start(r->log, start);
}

static enum err take(struct replica *r, const struct replica_take *t, size_t *taken, size_t *room,
                     struct effects *effects) REQUIRES(r->lock)
{
    enum err e = check_follower(r, t->leader_epoch);

    if (e == ERR_NONE && log_end_offset(r->log) != t->expected_end)
        e = ERR_OFFSET_OUT_OF_RANGE;
    if (e != ERR_NONE)
        return e;
    e = append_batches(r, t, taken, room);

    struct log_view view = replica_log_view(r);

    partition_on_leader_high_watermark(r->partition, t->leader_high_watermark, &view, effects);
    replica_apply(r, effects);

    enum err moved = follow_start(r, t->leader_log_start_offset);

    return e != ERR_NONE ? e : moved;
}

enum err replica_take(struct replica *r, const struct replica_take *t, size_t *taken, size_t *room)
{
    struct effects effects = {.count = 0};

    *taken = 0;
    *room = 0;
    mutex_lock(&r->lock);

    enum err e = take(r, t, taken, room, &effects);
    bool sync = *taken > 0 && r->durable_counts;

    mutex_unlock(&r->lock);
    if (sync)
        log_request_sync(r->log);
    return e;
}

/* ---- cutting ---- */

static enum err begin_cut(struct replica *r, const struct replica_cut *c, bool *lowered)
{
    mutex_lock(&r->lock);

    enum err e = check_follower(r, c->leader_epoch);

    if (e == ERR_NONE) {
        r->cutting = true;
        *lowered = partition_lower_high_watermark(r->partition, c->offset);
        replica_wake_all(r); /* who reads here goes elsewhere */
    }
    mutex_unlock(&r->lock);
    return e;
}

/* The numbers are as they are now; and what came in meanwhile takes its course. */
static void end_cut(struct replica *r)
{
    const struct replica_follower_observer *o = &r->manager->follower;
    struct effects effects = {.count = 0}, later = {.count = 0};
    struct partition_state *pending;

    mutex_lock(&r->lock);

    struct log_view view = replica_log_view(r);

    r->cutting = false;
    partition_on_log(r->partition, &view, replica_now_ns(r), &effects);
    replica_apply(r, &effects);
    pending = r->pending;
    r->pending = NULL;
    if (pending != NULL)
        replica_take_state(r, pending, &later);
    mutex_unlock(&r->lock);
    replica_tell_node(r, &later);
    if (pending != NULL && o->on_state != NULL)
        o->on_state(o->ctx, r);
    free(pending);
}

enum err replica_cut(struct replica *r, const struct replica_cut *c)
{
    bool lowered = false;
    enum err e = begin_cut(r, c, &lowered);

    if (e != ERR_NONE)
        return e;
    if (lowered)
        e = log_save_checkpoints(r->log);
    if (e == ERR_NONE)
        e = c->restart ? log_restart(r->log, c->offset) : log_truncate(r->log, c->offset);
    end_cut(r);
    return e;
}
