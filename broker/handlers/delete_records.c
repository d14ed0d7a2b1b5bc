/* broker/handlers/delete_records.c -- DeleteRecords: the start of a partition moves up [H34].
 *
 * The leader moves its own start at once; the answer waits until every live replica has moved too
 * (the low watermark), or the timeout is over, and until the new start is on stable storage.
 */
#include "broker/handlers/handlers.h"
#include "broker/handlers/target.h"
#include "broker/handlers/waiter.h"
#include "broker/node.h"

struct deletion {
    struct delete_records_response_delete_records_partition_result *out;
    struct replica *replica;
    int64_t requested;
    bool waits;
};

struct delete_records {
    struct waiter waiter; /* first: waiter_of() */
    struct deletion *deletions;
    int32_t count, waiting;
};

static void release_replica(void *p)
{
    replica_unref(p);
}

static void settle(struct delete_records *s, struct deletion *d, enum err e)
{
    d->out->error_code = err_to_wire(e);
    if (d->waits)
        s->waiting--;
    d->waits = false;
}

static void begin(struct request *r, struct delete_records *s, struct str topic, int64_t offset,
                  struct deletion *d)
{
    /* Authorization, once it exists: DELETE on the topic. */
    enum err e = target_named_replica(r, topic, d->out->partition_index, &d->replica);

    if (e == ERR_NONE) {
        arena_hold(&r->arena, d->replica, release_replica);
        e = target_is_internal(topic)
                ? ERR_INVALID_TOPIC_EXCEPTION
                : replica_delete_records(d->replica, offset, &d->requested, &d->out->low_watermark);
    }
    if (e != ERR_NONE || d->out->low_watermark >= d->requested) {
        settle(s, d, e);
        return;
    }
    d->waits = true;
    s->waiting++;
}

static void look(struct delete_records *s, struct deletion *d)
{
    enum err e = ERR_NONE;

    if (d->waits && replica_deleted(d->replica, d->requested, &d->out->low_watermark, &e))
        settle(s, d, e);
}

/* [pool] The new starts outlive a crash before anyone hears of them. */
static void save(struct request *r)
{
    struct delete_records *s = r->handler_state;
    struct errmsg why = {""};

    enum err e = log_manager_save_starts(r->home->logs, &why);

    if (e != ERR_NONE)
        log_error(r->home->logger, "storage", "log start offsets cannot be saved: %s", why.text);
    for (int32_t i = 0; i < s->count; i++) {
        struct deletion *d = &s->deletions[i];

        /* A log that went offline meanwhile may not have come so far. */
        if (d->out->error_code == ERR_NONE &&
            (e != ERR_NONE || !log_start_is_settled(replica_log(d->replica), d->requested)))
            d->out->error_code = err_to_wire(ERR_KAFKA_STORAGE_ERROR);
    }
}

static void finish(struct request *r)
{
    request_on_pool(r, save, request_send);
}

static void check(struct request *r)
{
    struct delete_records *s = r->handler_state;

    for (int32_t i = 0; i < s->count; i++) {
        struct deletion *d = &s->deletions[i];

        if (!d->waits || !waiter_take_woken(&s->waiter, i))
            continue;
        waiter_watch(&s->waiter, i, d->replica, -1, false);
        look(s, d);
        if (!d->waits)
            waiter_unwatch(&s->waiter, i);
    }
    if (s->waiting == 0)
        waiter_stop(&s->waiter, finish);
}

static void expire(struct request *r)
{
    struct delete_records *s = r->handler_state;

    for (int32_t i = 0; i < s->count; i++) {
        look(s, &s->deletions[i]);
        if (s->deletions[i].waits)
            settle(s, &s->deletions[i], ERR_REQUEST_TIMED_OUT);
    }
    waiter_stop(&s->waiter, finish);
}

void handle_delete_records(struct request *r)
{
    const struct delete_records_request *in = r->body;
    struct delete_records_response *out = request_response(r);
    struct delete_records *s = arena_alloc(&r->arena, sizeof *s);
    int64_t count = 0;

    for (int32_t t = 0; t < in->topics.n; t++)
        count += in->topics.v[t].partitions.n;
    if (s == NULL ||
        (s->deletions = arena_array(&r->arena, (size_t)count + 1, sizeof *s->deletions)) == NULL) {
        request_overflow(r);
        return;
    }
    r->handler_state = s;
    REQUEST_ARRAY(r, out->topics, in->topics.n,
                  delete_records_response_delete_records_topic_result);
    for (int32_t t = 0; t < in->topics.n; t++) {
        out->topics.v[t].name = in->topics.v[t].name;
        REQUEST_ARRAY(r, out->topics.v[t].partitions, in->topics.v[t].partitions.n,
                      delete_records_response_delete_records_partition_result);
        for (int32_t p = 0; p < in->topics.v[t].partitions.n; p++) {
            struct deletion *d = &s->deletions[s->count++];

            d->out = &out->topics.v[t].partitions.v[p];
            d->out->partition_index = in->topics.v[t].partitions.v[p].partition_index;
            d->out->low_watermark = -1;
            begin(r, s, in->topics.v[t].name, in->topics.v[t].partitions.v[p].offset, d);
        }
    }
    if (s->waiting == 0) {
        finish(r);
        return;
    }
    if (!waiter_init(&s->waiter, r, s->count, check, expire)) {
        request_overflow(r);
        return;
    }
    waiter_set_deadline(&s->waiter,
                        request_now_ns(r) + (uint64_t)MAX(in->timeout_ms, 0) * 1000000u);
    check(r); /* nothing stands in a list yet: it looks at all */
}
