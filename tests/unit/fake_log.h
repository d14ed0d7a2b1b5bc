/* tests/unit/fake_log.h -- storage/log.h for tests of what stands on it: a log that is only
 * numbers, which the test sets. It defines the functions, so that the real ones are not linked.
 *
 * Include it once per test, after cmocka.h.
 */
#ifndef FLUXMQ_TESTS_FAKE_LOG_H
#define FLUXMQ_TESTS_FAKE_LOG_H

#include "storage/log.h"

struct log {
    struct log_identity id;
    int refs;
    int64_t start, end, durable_end, unstable;
    int32_t begun_epoch, latest_epoch;
    int64_t epoch_end; /* of any epoch that is asked for */
    int syncs, reads;
    enum err append_err;
    bool duplicate; /* of the batch that ends at `end` */
    const char *offline;
    struct log_observer observer;
    struct log_read_options last_read;
    /* How often a read still finds its index, or its bytes, not in memory; and what loading says.
     */
    int again, cold, loads;
    enum err load_err;
    struct log_room_waiter *room;  /* who waits for room */
    struct timestamp_offset found; /* by any search */
    int searches;
    struct producer_view producer; /* of id 0: none */
    /* In the middle of a cut, and of writing the checkpoints before it. */
    void (*on_cut)(void *ctx), (*on_save)(void *ctx);
    void *ctx;
    int cuts, restarts, saves;
};

/* Each record is a batch of this size. */
#define FAKE_RECORD_BYTES 100

struct log *log_ref(struct log *l)
{
    l->refs++;
    return l;
}

void log_unref(struct log *l)
{
    l->refs--;
}

const struct log_identity *log_identity(const struct log *l)
{
    return &l->id;
}

void log_configure(struct log *l, const struct log_config *config)
{
    (void)l;
    (void)config;
}

enum err log_append(struct log *l, struct record_batch *batch, uint8_t *bytes, int32_t leader_epoch,
                    int64_t now_unix_ms, struct log_append_result *out)
{
    (void)bytes;
    (void)now_unix_ms;
    assert_int_equal(leader_epoch, l->begun_epoch); /* an epoch begins before its first append */
    if (l->append_err != ERR_NONE)
        return l->append_err;
    if (!l->duplicate)
        l->end += batch->record_count;
    *out = (struct log_append_result){.base_offset = l->end - batch->record_count,
                                      .last_offset = l->end - 1,
                                      .log_append_time_ms = -1,
                                      .duplicate = l->duplicate};
    return ERR_NONE;
}

enum err log_append_replicated(struct log *l, const struct record_batch *batch,
                               const uint8_t *bytes, int64_t now_unix_ms)
{
    (void)bytes;
    (void)now_unix_ms;
    if (l->append_err != ERR_NONE)
        return l->append_err;
    if (batch->base_offset < l->end)
        return ERR_OFFSET_OUT_OF_RANGE;
    l->end = record_batch_last_offset(batch) + 1;
    return ERR_NONE;
}

enum err log_truncate(struct log *l, int64_t offset)
{
    l->cuts++;
    if (l->on_cut != NULL)
        l->on_cut(l->ctx);
    l->end = MIN(l->end, offset);
    return ERR_NONE;
}

bool log_start_is_settled(struct log *l, int64_t offset)
{
    return l->start >= offset;
}

enum err log_restart(struct log *l, int64_t offset)
{
    l->restarts++;
    if (l->on_cut != NULL)
        l->on_cut(l->ctx);
    l->start = l->end = l->durable_end = offset;
    return ERR_NONE;
}

enum err log_save_checkpoints(struct log *l)
{
    l->saves++;
    if (l->on_save != NULL)
        l->on_save(l->ctx);
    return ERR_NONE;
}

void log_begin_leader_epoch(struct log *l, int32_t leader_epoch)
{
    l->begun_epoch = l->latest_epoch = leader_epoch;
}

int64_t log_start_offset(const struct log *l)
{
    return l->start;
}

int64_t log_end_offset(const struct log *l)
{
    return l->end;
}

int64_t log_durable_end_offset(const struct log *l)
{
    return l->durable_end;
}

int64_t log_first_unstable_offset(const struct log *l)
{
    return MIN(l->unstable, l->end);
}

void log_request_sync(struct log *l)
{
    l->syncs++;
}

void log_observe(struct log *l, const struct log_observer *o)
{
    l->observer = *o;
}

const char *log_offline_reason(const struct log *l)
{
    return l->offline;
}

enum err log_read(struct log *l, const struct log_read_options *o, struct log_read_result *out)
{
    size_t records = (size_t)(o->offset_limit - o->offset);
    size_t fit = o->bytes_max / FAKE_RECORD_BYTES;

    l->reads++;
    l->last_read = *o;
    if (l->again > 0) {
        l->again--;
        return ERR_AGAIN;
    }
    if (records > fit)
        records = fit == 0 && o->at_least_one ? 1 : fit;
    out->cold = l->cold > 0;
    l->cold -= out->cold;
    out->bytes = records * FAKE_RECORD_BYTES;
    for (size_t i = 0; i < records; i++)
        ioqueue_push(&out->data, iobuf_new(FAKE_RECORD_BYTES), 0, FAKE_RECORD_BYTES);
    return ERR_NONE;
}

enum err log_load(struct log *l, int64_t offset, size_t bytes)
{
    (void)offset;
    assert_true(bytes > 0);
    l->loads++;
    return l->load_err;
}

void log_wait_for_room(struct log *l, size_t size, struct log_room_waiter *w)
{
    assert_true(size > 0);
    assert_null(l->room);
    l->room = w;
}

int32_t log_leader_epoch_at(const struct log *l, int64_t offset)
{
    return offset >= l->start ? 0 : -1;
}

enum err log_offset_for_timestamp(struct log *l, int64_t timestamp_ms, int64_t offset_limit,
                                  struct timestamp_offset *out)
{
    l->searches++;
    if (l->found.timestamp_ms >= timestamp_ms && l->found.offset < offset_limit)
        *out = l->found;
    return l->load_err;
}

enum err log_max_timestamp(struct log *l, int64_t offset_limit, struct timestamp_offset *out)
{
    return log_offset_for_timestamp(l, 0, offset_limit, out);
}

size_t log_producers(const struct log *l, struct producer_view **out)
{
    *out = xcalloc(1, sizeof **out);
    **out = l->producer;
    return l->producer.producer_id != 0;
}

void log_epoch_end_offset(const struct log *l, int32_t leader_epoch, int32_t *epoch_out,
                          int64_t *end_offset_out)
{
    *epoch_out = leader_epoch;
    *end_offset_out = l->epoch_end;
}

int32_t log_latest_epoch(const struct log *l)
{
    return l->latest_epoch;
}

enum err log_advance_start(struct log *l, int64_t offset)
{
    l->start = offset;
    return ERR_NONE;
}

enum err log_manager_save_starts(struct log_manager *m, struct errmsg *why)
{
    (void)m;
    (void)why;
    return ERR_NONE;
}

#endif
