/* broker/handlers/fetch.c -- Fetch, versions 4 to 18, from consumers and followers.
 *
 * One pass reads every partition of the session or request in the order in which bytes are given
 * out (KIP-74): the first batch of the first partition that has any is returned whole, whatever
 * the limits, so that a consumer always gets on. What must come from the disk first is loaded on
 * the pool, and the pass is made again.
 *
 * A request that finds less than min.bytes parks in the replicas' wait lists until enough can be
 * read (up to the high watermark, or the last stable offset with read_committed), something fails
 * or has parted from our log, or max.wait is over; then a last pass makes the answer. An error in
 * one partition completes at once [H32]; that a topic is unknown does only when all are.
 *
 * Records go from the log into the answer as slices, uncopied.
 *
 * A follower (replica id >= 0) is one that comes in by the inter-broker listener and says its
 * registered broker epoch and the token of that registration; whoever else says that he is one is
 * told to come again. It reads to the log's end, and asking is acknowledging: each request counts
 * for all partitions of its session (partition.h), once, before anything is read. Its wait ends
 * also when the high watermark moves beyond what it knows [H18], and when its next Fetch arrives
 * [H12].
 *
 * A consumer may be sent to a follower in its own rack, and be served by it (KIP-392).
 */
#include <stdlib.h>

#include "broker/handlers/handlers.h"
#include "broker/handlers/target.h"
#include "broker/handlers/waiter.h"
#include "broker/node.h"
#include "broker/topic_settings_cache.h"
#include "protocol/compress.h"
#include "protocol/fetch_tags.h"

/* Reading again after loading normally finds everything in memory; under memory pressure it may be
 * gone again. Then the answer goes out without what is not there. */
#define LOAD_ATTEMPTS_MAX 3
#define LOAD_BYTES        ((size_t)64 * 1024)

struct fetch_item {
    const struct fetch_partition *at; /* the context's */
    struct replica *replica;          /* one reference, or NULL */
    struct uuid topic_id;             /* of the image's topic; zero: there is none */
    enum err err;
    enum err load_err;
    bool must_load; /* set by a pass, cleared when loaded */
    bool counted;   /* a follower's: once per request */
    enum err count_err;
    int32_t preferred; /* KIP-392: who should be asked instead; -1: nobody */
    struct replica_read_result read;
};

struct fetch {
    struct waiter waiter; /* first: waiter_of() */
    struct fetch_context *context;
    struct fetch_item *items;
    int32_t count;
    int32_t replica_id; /* -1: consumer; -2: debugging consumer */
    int64_t broker_epoch;
    bool follower; /* it is who it says */
    size_t bytes_max, bytes_min, bytes;
    bool read_committed;
    bool from_any;   /* a consumer that may be served by followers (KIP-392) */
    struct str rack; /* where it is, when it is to be sent to one nearby; null: not */
    bool last;       /* the pass that makes the answer */
    int load_attempts;
};

static struct fetch *fetch_of(struct request *r)
{
    return r->handler_state;
}

static bool by_topic_id(const struct request *r)
{
    return r->version >= 13; /* KIP-516 */
}

/* ---- reading ---- */

static void drop_read(struct fetch_item *item)
{
    ioqueue_deinit(&item->read.data.data);
    free(item->read.data.aborted);
    item->read = (struct replica_read_result){
        .high_watermark = -1,
        .last_stable_offset = -1,
        .log_start_offset = -1,
        .leader_id = -1,
        .leader_epoch = -1,
        .diverging_epoch = -1,
        .diverging_end_offset = -1,
    };
    ioqueue_init(&item->read.data.data);
}

static void drop_all(void *p)
{
    struct fetch *s = p;

    for (int32_t i = 0; i < s->count; i++) {
        drop_read(&s->items[i]);
        replica_unref(s->items[i].replica);
    }
    fetch_session_end(s->context);
}

/* KIP-110: clients before version 10 cannot read what the topic is configured to hold. */
static bool is_unreadable(struct request *r, const struct topic_image *t)
{
    return r->version < 10 &&
           topic_settings_cache_get(r->worker->topic_settings, request_image(r), t)
                   ->compression_type == COMPRESSION_ZSTD;
}

/* Each pass looks anew: the topic may have been deleted, or come to this node. */
static enum err locate(struct request *r, struct fetch *s, struct fetch_item *item)
{
    bool by_id = by_topic_id(r);
    const struct topic_image *t =
        target_topic(r, item->at->topic_name, by_id ? &item->at->topic_id : NULL);

    replica_unref(item->replica);
    item->replica = NULL;
    item->topic_id = t != NULL ? t->id : (struct uuid){{0}};
    /* Authorization, once it exists: READ on the topic, before anything is told about it. */
    if (s->replica_id >= 0 && !s->follower)
        return item->at->current_leader_epoch >= 0 ? ERR_UNKNOWN_LEADER_EPOCH
                                                   : ERR_NOT_LEADER_OR_FOLLOWER;

    enum err e = target_replica(r, t, by_id, item->at->partition, &item->replica);

    if (e == ERR_NONE && is_unreadable(r, t))
        e = ERR_UNSUPPORTED_COMPRESSION_TYPE;
    return e;
}

static void read_one(struct fetch *s, struct fetch_item *item, size_t bytes_left, bool first)
{
    const struct fetch_partition *at = item->at;
    size_t partition_max = (size_t)MAX(at->partition_max_bytes, 0);

    item->err = replica_read(item->replica,
                             &(struct replica_read){
                                 .log =
                                     {
                                         .offset = at->fetch_offset,
                                         .bytes_max = MIN(partition_max, bytes_left),
                                         .at_least_one = first,
                                         .need_aborted = s->read_committed,
                                     },
                                 .leader_epoch = at->current_leader_epoch,
                                 .last_fetched_epoch = at->last_fetched_epoch,
                                 .read_committed = s->read_committed,
                                 .replica_id = s->replica_id,
                                 .from_any = s->from_any,
                             },
                             &item->read);
    if (item->err == ERR_AGAIN) {
        item->err = ERR_NONE;
        item->must_load = true;
    } else if (item->err == ERR_NONE && item->read.data.cold) {
        item->must_load = true;
    }
}

/* What the follower has of this partition counts, in the request's first pass. An offset that is
 * not in the log is found again by reading, which says where the log starts. */
static enum err count_follower(const struct fetch *s, struct fetch_item *item)
{
    const struct fetch_partition *at = item->at;
    struct replica_fetch f = {
        .replica = s->replica_id,
        .broker_epoch = s->broker_epoch,
        .leader_epoch = at->current_leader_epoch,
        .fetch_offset = at->fetch_offset,
        .durable_end_offset = at->durable_end_offset,
        .log_start_offset = at->log_start_offset,
    };

    if (!item->counted)
        item->count_err = replica_on_fetch(item->replica, &f, at->last_fetched_epoch, &item->read);
    item->counted = true;
    return item->count_err == ERR_OFFSET_OUT_OF_RANGE ? ERR_NONE : item->count_err;
}

struct rack_query {
    const struct request *request;
    struct str rack;
};

static bool is_in_rack(void *ctx, int32_t id)
{
    const struct rack_query *q = ctx;
    const struct broker_image *b = image_broker(request_image(q->request), id);

    return b != NULL && !b->fenced && str_eq(b->rack, q->rack);
}

/* KIP-392: -1, or the replica in the client's rack that should be asked instead of this node. */
static int32_t preferred_replica(const struct request *r, const struct fetch *s,
                                 const struct fetch_item *item)
{
    struct rack_query q = {.request = r, .rack = s->rack};
    int32_t id;

    if (str_is_null(s->rack))
        return -1;
    id = replica_preferred(item->replica, item->at->fetch_offset, is_in_rack, &q);
    return id == r->home->config->node_id ? -1 : id;
}

/* Reads everything, in order; returns whether something must be loaded first. */
static bool read_all(struct request *r, struct fetch *s)
{
    bool must_load = false;

    s->bytes = 0;
    for (int32_t i = 0; i < s->count; i++) {
        struct fetch_item *item = &s->items[i];

        drop_read(item);
        item->must_load = false;
        item->preferred = -1;
        item->err = item->load_err != ERR_NONE ? item->load_err : locate(r, s, item);
        if (item->err == ERR_NONE && s->follower)
            item->err = count_follower(s, item);
        if (item->err != ERR_NONE)
            continue;
        item->preferred = preferred_replica(r, s, item);
        if (item->preferred >= 0)
            read_one(s, item, 0, false); /* only where it stands */
        else
            read_one(s, item, s->bytes_max > s->bytes ? s->bytes_max - s->bytes : 0, s->bytes == 0);
        s->bytes += item->read.data.bytes;
        must_load = must_load || item->must_load;
    }
    return must_load;
}

/* A follower does not know how far the log is committed: it serves readers too, and may lead next
 * [H18]. */
static bool knows_less(const struct fetch *s, int32_t i)
{
    int64_t told = s->follower ? fetch_context_told_high_watermark(s->context, i) : -1;

    return told >= 0 && s->items[i].read.high_watermark > told;
}

/* Whether nothing is to be waited for, whatever the bytes. */
static bool is_news(const struct fetch *s, int32_t i)
{
    const struct fetch_item *item = &s->items[i];

    return item->err != ERR_NONE || item->read.diverging_epoch >= 0 || item->preferred >= 0 ||
           knows_less(s, i);
}

/* ---- the answer ---- */

static enum err shown_error(const struct request *r, const struct fetch_item *item)
{
    enum err e = item->err;

    if (e == ERR_UNKNOWN_TOPIC_OR_PARTITION && item->replica != NULL && by_topic_id(r))
        return ERR_UNKNOWN_TOPIC_ID; /* deleted while we waited [H19] */
    /* Clients before version 6 do not know the error and would not retry. */
    return e == ERR_KAFKA_STORAGE_ERROR && r->version <= 5 ? ERR_NOT_LEADER_OR_FOLLOWER : e;
}

static bool fill_aborted(struct request *r, const struct fetch *s, struct fetch_item *item,
                         struct fetch_response_partition_data *out)
{
    const struct log_read_result *read = &item->read.data;

    out->aborted_transactions.n = -1; /* null: not asked for */
    if (!s->read_committed || item->err != ERR_NONE)
        return true;
    if (!CODEC_ARRAY(&r->arena, out->aborted_transactions, (int64_t)read->aborted_count,
                     fetch_response_aborted_transaction))
        return false;
    for (size_t i = 0; i < read->aborted_count; i++) {
        out->aborted_transactions.v[i].producer_id = read->aborted[i].producer_id;
        out->aborted_transactions.v[i].first_offset = read->aborted[i].first_offset;
    }
    return true;
}

static bool fill_partition(struct request *r, const struct fetch *s, struct fetch_item *item,
                           struct fetch_response_partition_data *out)
{
    bool whole = item->err == ERR_NONE;
    /* A follower that is out of range must know where to begin anew. */
    bool told = whole || (s->follower && item->err == ERR_OFFSET_OUT_OF_RANGE);

    out->partition_index = item->at->partition;
    out->error_code = err_to_wire(shown_error(r, item));
    out->high_watermark = told ? item->read.high_watermark : -1;
    out->last_stable_offset = whole ? item->read.last_stable_offset : -1;
    out->log_start_offset = told ? item->read.log_start_offset : -1;
    out->preferred_read_replica = whole ? item->preferred : -1;
    out->records = item->read.data.bytes > 0 ? RECORDS_QUEUE(&item->read.data.data)
                                             : (struct records){(const uint8_t *)"", 0, NULL};
    if (r->version >= 12 && item->read.diverging_epoch >= 0) {
        out->diverging_epoch.epoch = item->read.diverging_epoch;
        out->diverging_epoch.end_offset = item->read.diverging_end_offset;
    }
    return fill_aborted(r, s, item, out);
}

static bool needs_leader(const struct fetch_item *item)
{
    return (item->err == ERR_NOT_LEADER_OR_FOLLOWER || item->err == ERR_FENCED_LEADER_EPOCH) &&
           !uuid_is_zero(&item->topic_id);
}

/* KIP-951, for the partitions of the answer; `ids` has room for all. */
static void fill_leader(struct request *r, const struct fetch_item *item,
                        struct fetch_response_partition_data *out, int32_t *ids, int32_t *id_count)
{
    if (ids == NULL || !needs_leader(item))
        return;

    struct leader_hint hint =
        target_leader(r, target_topic(r, STR_NULL, &item->topic_id), item->at->partition);

    out->current_leader.leader_id = hint.id;
    out->current_leader.leader_epoch = hint.epoch;
    target_add_node(ids, id_count, hint.id);
}

static bool fill_endpoints(struct request *r, const int32_t *ids, int32_t id_count)
{
    struct fetch_response *out = r->response;
    int32_t n = 0;

    if (id_count == 0)
        return true;
    if (!CODEC_ARRAY(&r->arena, out->node_endpoints, id_count, fetch_response_node_endpoint))
        return false;
    for (int32_t i = 0; i < id_count; i++) {
        struct fetch_response_node_endpoint *e = &out->node_endpoints.v[n];

        e->node_id = ids[i];
        if (target_endpoint(r, ids[i], &e->host, &e->port, &e->rack))
            n++;
    }
    out->node_endpoints.n = n;
    return true;
}

static bool same_topic(const struct fetch_partition *a, const struct fetch_partition *b)
{
    return uuid_eq(&a->topic_id, &b->topic_id) && str_eq(a->topic_name, b->topic_name);
}

/* `included`: the items of the answer, in order. Consecutive ones of a topic share an entry. */
static bool fill_response(struct request *r, struct fetch *s, const int32_t *included, int32_t n)
{
    struct fetch_response *out = r->response;
    struct int32_array ids = {0};
    int32_t id_count = 0, topics = 0;

    for (int32_t i = 0; i < n; i++)
        topics += i == 0 || !same_topic(s->items[included[i]].at, s->items[included[i - 1]].at);
    if (!CODEC_ARRAY(&r->arena, out->responses, topics, fetch_response_fetchable_topic_response) ||
        (r->version >= 16 && !CODEC_ARRAY_PLAIN(&r->arena, ids, n + 1)))
        return false;
    for (int32_t i = 0, t = 0; i < n; t++) {
        struct fetch_response_fetchable_topic_response *topic = &out->responses.v[t];
        const struct fetch_partition *first = s->items[included[i]].at;
        int32_t end = i;

        while (end < n && same_topic(first, s->items[included[end]].at))
            end++;
        topic->topic = str_is_null(first->topic_name) ? STR_EMPTY : first->topic_name;
        topic->topic_id = first->topic_id;
        if (!CODEC_ARRAY(&r->arena, topic->partitions, end - i, fetch_response_partition_data))
            return false;
        for (int32_t p = 0; i < end; p++, i++) {
            struct fetch_item *item = &s->items[included[i]];

            if (!fill_partition(r, s, item, &topic->partitions.v[p]))
                return false;
            fill_leader(r, item, &topic->partitions.v[p], ids.v, &id_count);
        }
    }
    return fill_endpoints(r, ids.v, id_count);
}

static void send_error(struct request *r, enum err e, int32_t session_id)
{
    struct fetch_response *out = r->response;

    out->error_code = err_to_wire(e);
    out->session_id = session_id;
    request_send(r);
}

static struct fetch_outcome outcome_of(const struct fetch_item *item)
{
    bool whole = item->err == ERR_NONE;

    return (struct fetch_outcome){
        .err = item->err,
        .records_bytes = item->read.data.bytes,
        .high_watermark = whole ? item->read.high_watermark : -1,
        .last_stable_offset = whole ? item->read.last_stable_offset : -1,
        .log_start_offset = whole ? item->read.log_start_offset : -1,
        .preferred_read_replica = whole ? item->preferred : -1,
        .diverging = item->read.diverging_epoch >= 0,
    };
}

static void count_answer(struct request *r, const struct fetch *s)
{
    bool failed = false;

    for (int32_t i = 0; i < s->count; i++)
        failed = failed || s->items[i].err != ERR_NONE;
    counter_add(&r->worker->metrics.bytes_out, s->bytes);
    if (failed)
        counter_add(&r->worker->metrics.failed_fetch_requests, 1);
}

static void answer(struct request *r)
{
    struct fetch *s = fetch_of(r);
    struct fetch_response *out = r->response;
    struct fetch_outcome *outcomes = arena_array(&r->arena, (size_t)s->count + 1, sizeof *outcomes);
    int32_t *included = arena_array(&r->arena, (size_t)s->count + 1, sizeof *included);
    int32_t n = 0;

    if (outcomes == NULL || included == NULL) {
        request_overflow(r);
        return;
    }
    for (int32_t i = 0; i < s->count; i++) {
        outcomes[i] = outcome_of(&s->items[i]);
        if (fetch_context_includes(s->context, i, &outcomes[i]))
            included[n++] = i;
    }

    enum err e = fetch_session_commit(s->context, outcomes, request_now_ns(r), &out->session_id);

    if (e != ERR_NONE) {
        send_error(r, e, out->session_id);
        return;
    }
    if (!fill_response(r, s, included, n)) {
        request_overflow(r);
        return;
    }
    count_answer(r, s);
    request_send(r);
}

/* ---- loading from disk ---- */

static void read_last(struct request *r);
static void read_first(struct request *r);

/* On the pool. */
static void load(struct request *r)
{
    struct fetch *s = fetch_of(r);

    for (int32_t i = 0; i < s->count; i++) {
        struct fetch_item *item = &s->items[i];

        if (!item->must_load)
            continue;

        /* Without a position nothing is known of the size yet; one step is enough to get on. */
        size_t bytes = item->read.data.bytes > 0 ? item->read.data.bytes
                                                 : MAX(item->read.data.load_bytes, LOAD_BYTES);

        if (log_load(replica_log(item->replica), item->at->fetch_offset, bytes) != ERR_NONE)
            item->load_err = ERR_KAFKA_STORAGE_ERROR;
    }
}

static void on_loaded(struct request *r)
{
    struct fetch *s = fetch_of(r);

    if (s->last)
        read_last(r);
    else
        read_first(r);
}

/* True when it has been sent to the pool. What is cold goes out as it is after some attempts:
 * sendfile then waits for the disk instead. */
static bool load_first(struct request *r, struct fetch *s, bool must_load)
{
    if (!must_load || s->load_attempts >= LOAD_ATTEMPTS_MAX)
        return false;
    s->load_attempts++;
    request_on_pool(r, load, on_loaded);
    return true;
}

static void read_last(struct request *r)
{
    struct fetch *s = fetch_of(r);

    s->last = true;
    if (!load_first(r, s, read_all(r, s)))
        answer(r);
}

/* ---- waiting ---- */

static void complete(struct request *r)
{
    r->on_superseded = NULL;
    waiter_stop(&fetch_of(r)->waiter, read_last);
}

static void watch(struct fetch *s, int32_t i)
{
    struct fetch_item *item = &s->items[i];

    if (s->follower && item->replica != NULL) {
        int64_t told = fetch_context_told_high_watermark(s->context, i);

        waiter_watch_log_end(&s->waiter, i, item->replica, item->at->fetch_offset + 1,
                             told >= 0 ? told : INT64_MAX);
        return;
    }
    /* Any further advance of the high watermark; one that asks beyond it waits for its offset. */
    int64_t from = MAX(item->at->fetch_offset, item->read.high_watermark);

    if (item->replica != NULL)
        waiter_watch(&s->waiter, i, item->replica, from + 1, false);
}

/* Reads one partition again, only for what it would yield. Returns whether it is news. */
static bool look_again(struct fetch *s, int32_t i)
{
    struct fetch_item *item = &s->items[i];

    s->bytes -= item->read.data.bytes;
    drop_read(item);
    read_one(s, item, s->bytes_max > s->bytes ? s->bytes_max - s->bytes : 0, s->bytes == 0);
    /* Only the number of bytes counts until the last pass: hold no file meanwhile. */
    ioqueue_deinit(&item->read.data.data);
    ioqueue_init(&item->read.data.data);
    s->bytes += item->read.data.bytes;
    return is_news(s, i) || item->must_load;
}

/* Stands in the replica's list, then looks again: it may have moved before. */
static bool watch_and_look(struct fetch *s, int32_t i)
{
    if (s->items[i].replica == NULL)
        return false;
    watch(s, i);
    return look_again(s, i);
}

static void check(struct request *r)
{
    struct fetch *s = fetch_of(r);
    bool news = false;

    for (int32_t i = 0; i < s->count && !news; i++)
        if (waiter_take_woken(&s->waiter, i))
            news = watch_and_look(s, i);
    if (news || s->bytes >= s->bytes_min)
        complete(r);
}

static void park(struct request *r, struct fetch *s)
{
    const struct fetch_request *in = r->body;

    if (!waiter_init(&s->waiter, r, s->count, check, complete)) {
        request_overflow(r);
        return;
    }
    if (s->follower)
        r->on_superseded = complete;
    /* max.wait counts from when the request was begun. */
    waiter_set_deadline(&s->waiter, r->started_ns + (uint64_t)in->max_wait_ms * 1000000u);
    check(r); /* nothing stands in a list yet: it looks at all */
}

static bool is_unknown(const struct fetch_item *item)
{
    return item->err == ERR_UNKNOWN_TOPIC_OR_PARTITION || item->err == ERR_UNKNOWN_TOPIC_ID;
}

static void read_first(struct request *r)
{
    struct fetch *s = fetch_of(r);
    const struct fetch_request *in = r->body;
    int32_t known = 0;
    bool news = false;

    if (load_first(r, s, read_all(r, s)))
        return;
    /* What was never here is told along with the rest, as in Kafka: a client that goes on asking
     * for a deleted topic would else turn its other partitions' long poll into a spin. */
    for (int32_t i = 0; i < s->count; i++) {
        if (is_unknown(&s->items[i]))
            continue;
        known++;
        news = news || is_news(s, i);
    }
    news = news || known == 0;
    if (news || in->max_wait_ms <= 0 || s->bytes >= s->bytes_min)
        answer(r);
    else
        park(r, s);
}

/* ---- the request ---- */

static void view_partition(struct fetch_partition *out, const struct fetch_request_fetch_topic *t,
                           const struct fetch_request_fetch_partition *p)
{
    *out = (struct fetch_partition){
        .topic_id = t->topic_id,
        .topic_name = t->topic,
        .partition = p->partition,
        .fetch_offset = p->fetch_offset,
        .log_start_offset = p->log_start_offset,
        .current_leader_epoch = p->current_leader_epoch,
        .last_fetched_epoch = p->last_fetched_epoch,
        .partition_max_bytes = p->partition_max_bytes,
        .durable_end_offset = fetch_tags_durable_end(p),
        .high_watermark = p->high_watermark != INT64_MAX ? p->high_watermark : -1,
    };
}

/* The request as the session cache wants to see it; false without memory. */
static bool view_request(struct request *r, bool from_follower, struct fetch_request_view *q)
{
    const struct fetch_request *in = r->body;
    int64_t count = 0, forgotten = 0;

    for (int32_t t = 0; t < in->topics.n; t++)
        count += in->topics.v[t].partitions.n;
    for (int32_t t = 0; t < in->forgotten_topics_data.n; t++)
        forgotten += in->forgotten_topics_data.v[t].partitions.n;

    struct fetch_partition *named =
        arena_array(&r->arena, (size_t)(count + forgotten) + 1, sizeof *named);

    if (named == NULL)
        return false;

    struct fetch_partition *at = named;

    for (int32_t t = 0; t < in->topics.n; t++)
        for (int32_t p = 0; p < in->topics.v[t].partitions.n; p++)
            view_partition(at++, &in->topics.v[t], &in->topics.v[t].partitions.v[p]);
    for (int32_t t = 0; t < in->forgotten_topics_data.n; t++) {
        const struct fetch_request_forgotten_topic *f = &in->forgotten_topics_data.v[t];

        for (int32_t p = 0; p < f->partitions.n; p++)
            *at++ = (struct fetch_partition){
                .topic_id = f->topic_id,
                .topic_name = f->topic,
                .partition = f->partitions.v[p],
            };
    }
    *q = (struct fetch_request_view){
        .session_id = r->version >= 7 ? in->session_id : 0,
        .session_epoch = r->version >= 7 ? in->session_epoch : -1,
        .by_topic_id = by_topic_id(r),
        .from_follower = from_follower,
        .partitions = named,
        .partition_count = (int32_t)count,
        .forgotten = named + count,
        .forgotten_count = (int32_t)forgotten,
    };
    return true;
}

/* KIP-392 */
static bool selects_by_rack(const struct request *r)
{
    struct str class = config_value(r->home->config, NULL, "replica.selector.class");

    return str_eq_lit(class, "org.apache.kafka.common.replica.RackAwareReplicaSelector");
}

static bool take_context(struct request *r, struct fetch *s)
{
    const struct fetch_request *in = r->body;

    s->items =
        arena_array(&r->arena, (size_t)fetch_context_count(s->context) + 1, sizeof *s->items);
    if (s->items == NULL)
        return false;
    s->count = fetch_context_count(s->context);
    for (int32_t i = 0; i < s->count; i++) {
        s->items[i].at = fetch_context_at(s->context, i);
        ioqueue_init(&s->items[i].read.data.data);
    }
    s->bytes_max = (size_t)MAX(MIN(in->max_bytes, r->home->config->fetch_max_bytes), 0);
    s->bytes_min = MIN((size_t)MAX(in->min_bytes, 0), s->bytes_max);
    s->read_committed = in->isolation_level == 1 && !s->follower;
    s->from_any = s->replica_id == -1 && r->version >= 11;
    s->rack = s->from_any && in->rack_id.len > 0 && selects_by_rack(r) ? in->rack_id : STR_NULL;
    return true;
}

/* Asking is acknowledging: nobody but the registered incarnation of a broker may do it (KIP-903),
 * and that it is one shows in the token of its registration. Its registration may not have reached
 * us yet: it comes again. */
static bool is_follower(const struct request *r, int32_t replica_id)
{
    const struct fetch_request *in = r->body;
    const struct broker_image *b = image_broker(request_image(r), replica_id);
    struct uuid token;

    return r->version >= 15 && request_listener(r)->inter_broker && b != NULL &&
           replica_id != r->home->config->node_id && b->epoch == in->replica_state.replica_epoch &&
           fetch_tags_token(in, &token) && !uuid_is_zero(&token) &&
           uuid_eq(&b->incarnation, &token);
}

static void take_reader(struct request *r, struct fetch *s)
{
    const struct fetch_request *in = r->body;

    s->replica_id = r->version >= 15 ? in->replica_state.replica_id : in->replica_id;
    s->broker_epoch = r->version >= 15 ? in->replica_state.replica_epoch : -1;
    s->follower = s->replica_id >= 0 && is_follower(r, s->replica_id);
    if (s->replica_id >= 0 && !s->follower &&
        worker_first_offence(r->worker, request_peer_host(r), "no follower"))
        log_warn(r->home->logger, "fetch",
                 "%s: fetches as broker %d, which it is not, or not by the inter-broker listener, "
                 "or whose registration is not known here yet (told once for this peer)",
                 request_peer(r), s->replica_id);
}

void handle_fetch(struct request *r)
{
    struct fetch *s = arena_alloc(&r->arena, sizeof *s);
    struct fetch_request_view q;

    request_response(r);
    counter_add(&r->worker->metrics.fetch_requests, 1);
    if (s == NULL) {
        request_overflow(r);
        return;
    }
    take_reader(r, s);
    if (!view_request(r, s->follower, &q)) {
        request_overflow(r);
        return;
    }
    r->handler_state = s;

    enum err e = fetch_session_begin(r->home->fetch_sessions, &q, request_now_ns(r), &s->context);

    if (e == ERR_TOO_LARGE) {
        request_reject(r, "a fetch of more partitions than one may ask for");
        return;
    }
    if (e != ERR_NONE) {
        send_error(r, e, 0);
        return;
    }
    arena_hold(&r->arena, s, drop_all);
    if (!take_context(r, s)) {
        request_overflow(r);
        return;
    }
    read_first(r);
}
