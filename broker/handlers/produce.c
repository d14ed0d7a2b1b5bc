/* broker/handlers/produce.c -- Produce, versions 3 to 13.
 *
 * The partitions of a request are appended one after the other, in the order in which they stand
 * there; what would have to wait (validation of large compressed batches, room in the log) goes to
 * the pool and the walk continues from that partition. So appends of one connection to one
 * partition happen in request order [H11]. Then the request waits, if its acks ask for it, until
 * every partition is acknowledged or the timeout is over.
 *
 * Errors are Kafka's, partition by partition; a request whose acks are none of 0, 1 and -1, or
 * whose batches are transactional while it names no transactional id, is refused for all of them.
 */
#include "broker/handlers/handlers.h"
#include "broker/handlers/target.h"
#include "broker/handlers/waiter.h"
#include "broker/node.h"
#include "broker/topic_settings_cache.h"
#include "protocol/record_batch.h"

/* Compressed batches from this size on are looked into on the pool: decompressing one takes longer
 * than the hop there and back, and the worker's other connections would wait. */
#define POOL_BYTES_MIN (128 * 1024)
/* A small batch may decompress to much: beyond this the worker lets the pool begin again. */
#define WORKER_DECOMPRESSED_BYTES_MAX (1024 * 1024)

enum append_state {
    APPEND_NEW,
    APPEND_VALIDATED, /* or found wrong: `err` */
    APPEND_WAITS,     /* appended, not acknowledged yet */
    APPEND_DONE,
};

/* One partition of the request. */
struct append {
    /* Their strings and records lie in the receive buffer, which goes when all is appended. */
    const struct produce_request_topic_produce_data *topic;
    const struct produce_request_partition_produce_data *in;
    struct produce_response_partition_produce_response *out;
    enum append_state state;
    enum err err;
    struct uuid topic_id; /* of the image's topic; zero: there is none */
    struct replica *replica;
    const struct record_validation *rules;
    struct record_verdict *verdict;
    uint8_t *bytes; /* what will be appended */
    struct iobuf *rewritten;
    int64_t required_offset;
    int32_t leader_epoch;
};

struct produce {
    struct waiter waiter; /* first: waiter_of() */
    int16_t acks;
    struct append *appends;
    int32_t count, next; /* `next`: the one that is being appended */
    int32_t waiting;     /* how many are APPEND_WAITS */
    struct log_room_waiter room;
    struct request *request;
    bool failed;
};

static struct produce *produce_of(struct request *r)
{
    return r->handler_state;
}

static bool by_topic_id(const struct request *r)
{
    return r->version >= 13; /* KIP-516 */
}

/* The topic was deleted since we found it [H19]. */
static enum err gone(const struct request *r)
{
    return by_topic_id(r) ? ERR_UNKNOWN_TOPIC_ID : ERR_UNKNOWN_TOPIC_OR_PARTITION;
}

/* ---- the answer ---- */

static void answer_error(struct append *a, enum err e)
{
    a->state = APPEND_DONE;
    a->err = e;
    a->out->error_code = err_to_wire(e);
}

static void answer_faults(struct request *r, struct append *a)
{
    const struct record_verdict *v = a->verdict;
    int32_t shown = MIN(v->record_error_count, RECORD_ERRORS_MAX);

    if (v->reason != NULL)
        a->out->error_message = str_from(v->reason);
    if (!CODEC_ARRAY(&r->arena, a->out->record_errors, shown,
                     produce_response_batch_index_and_error_message))
        return; /* the error code says enough */
    for (int32_t i = 0; i < shown; i++) {
        char text[256];

        record_error_text(&v->record_errors[i], a->rules, text, sizeof text);
        a->out->record_errors.v[i].batch_index = v->record_errors[i].batch_index;
        a->out->record_errors.v[i].batch_index_error_message = request_text(r, "%s", text);
    }
}

/* KIP-951: who leads instead, for each partition that is not led here. */
static void add_leaders(struct request *r, struct produce *s)
{
    struct produce_response *out = r->response;
    struct int32_array ids = {0};
    int32_t id_count = 0;

    if (r->version < 10 || !CODEC_ARRAY_PLAIN(&r->arena, ids, s->count))
        return;
    for (int32_t i = 0; i < s->count; i++) {
        struct append *a = &s->appends[i];

        if (a->err != ERR_NOT_LEADER_OR_FOLLOWER || uuid_is_zero(&a->topic_id))
            continue;

        struct leader_hint hint =
            target_leader(r, target_topic(r, STR_NULL, &a->topic_id), a->in->index);

        a->out->current_leader.leader_id = hint.id;
        a->out->current_leader.leader_epoch = hint.epoch;
        target_add_node(ids.v, &id_count, hint.id);
    }
    if (id_count == 0 ||
        !CODEC_ARRAY(&r->arena, out->node_endpoints, id_count, produce_response_node_endpoint))
        return;

    int32_t n = 0;

    for (int32_t i = 0; i < id_count; i++) {
        struct produce_response_node_endpoint *e = &out->node_endpoints.v[n];

        e->node_id = ids.v[i];
        if (target_endpoint(r, ids.v[i], &e->host, &e->port, &e->rack))
            n++;
    }
    out->node_endpoints.n = n;
}

static void finish(struct request *r)
{
    struct produce *s = produce_of(r);
    bool failed = false;

    for (int32_t i = 0; i < s->count; i++)
        failed = failed || s->appends[i].err != ERR_NONE;
    if (failed)
        counter_add(&r->worker->metrics.failed_produce_requests, 1);
    if (s->acks == 0) {
        request_finish_silent(r, failed);
        return;
    }
    if (failed)
        add_leaders(r, s);
    request_send(r);
}

/* ---- waiting for acknowledgements ---- */

static void acknowledge(struct produce *s, struct append *a)
{
    enum err e = ERR_NONE;

    if (a->state != APPEND_WAITS ||
        !replica_acknowledged(a->replica, s->acks, a->leader_epoch, a->required_offset, &e))
        return;
    s->waiting--;
    answer_error(a, e == ERR_UNKNOWN_TOPIC_OR_PARTITION ? gone(s->request) : e);
}

/* Looks at what was woken; registers again what is still not there, and looks once more. */
static void check(struct request *r)
{
    struct produce *s = produce_of(r);

    for (int32_t i = 0; i < s->count; i++) {
        struct append *a = &s->appends[i];

        if (a->state != APPEND_WAITS || !waiter_take_woken(&s->waiter, i))
            continue;
        acknowledge(s, a);
        if (a->state != APPEND_WAITS)
            continue;
        waiter_watch(&s->waiter, i, a->replica, a->required_offset, s->acks == 1);
        acknowledge(s, a);
        if (a->state != APPEND_WAITS)
            waiter_unwatch(&s->waiter, i);
    }
    if (s->waiting == 0)
        waiter_stop(&s->waiter, finish);
}

static void expire(struct request *r)
{
    struct produce *s = produce_of(r);

    for (int32_t i = 0; i < s->count; i++) {
        acknowledge(s, &s->appends[i]);
        if (s->appends[i].state == APPEND_WAITS)
            answer_error(&s->appends[i], ERR_REQUEST_TIMED_OUT);
    }
    s->waiting = 0;
    waiter_stop(&s->waiter, finish);
}

/* The answer outlives the receive buffer that its topics' names lie in. */
static bool keep_names(struct request *r)
{
    struct produce_response *out = r->response;

    for (int32_t t = 0; t < out->responses.n; t++)
        if (!arena_str(&r->arena, out->responses.v[t].name, &out->responses.v[t].name))
            return false;
    return true;
}

static void all_appended(struct request *r)
{
    struct produce *s = produce_of(r);
    const struct produce_request *in = r->body;

    if (s->waiting == 0) {
        finish(r);
        return;
    }
    if (!keep_names(r) || !waiter_init(&s->waiter, r, s->count, check, expire)) {
        request_overflow(r);
        return;
    }
    waiter_set_deadline(&s->waiter,
                        request_now_ns(r) + (uint64_t)MAX(in->timeout_ms, 0) * 1000000u);
    for (int32_t i = 0; i < s->count; i++) {
        struct append *a = &s->appends[i];

        if (a->state != APPEND_WAITS)
            continue;
        waiter_watch(&s->waiter, i, a->replica, a->required_offset, s->acks == 1);
        acknowledge(s, a); /* it may have been so before we stood in the list */
        if (a->state != APPEND_WAITS)
            waiter_unwatch(&s->waiter, i);
    }
    /* The next Produce of the connection may start, inside this call: nothing after it. */
    if (s->waiting > 0)
        request_appended(r);
    else
        waiter_stop(&s->waiter, finish);
}

/* ---- one partition: find, validate, append ---- */

static void release_replica(void *p)
{
    replica_unref(p);
}

static enum err find_replica(struct request *r, struct append *a,
                             const struct topic_image **topic_out)
{
    bool by_id = by_topic_id(r);
    const struct topic_image *t =
        target_topic(r, a->topic->name, by_id ? &a->topic->topic_id : NULL);
    int64_t end = 0;
    int32_t epoch = 0;

    *topic_out = t;
    /* Authorization, once it exists: WRITE on the topic, before anything is told about it. */
    if (t != NULL) {
        a->topic_id = t->id;
        if (target_is_internal(t->name))
            return ERR_INVALID_TOPIC_EXCEPTION;
    }

    enum err e = target_replica(r, t, by_id, a->in->index, &a->replica);

    if (e != ERR_NONE)
        return e;
    arena_hold(&r->arena, a->replica, release_replica);
    /* Checked again with the append; here it saves looking at records in vain. */
    return replica_end_offset(a->replica, -1, REPLICA_END_LOG, false, &end, &epoch);
}

static const struct record_validation *make_rules(struct request *r, const struct topic_settings *s)
{
    struct record_validation *rules = arena_alloc(&r->arena, sizeof *rules);

    if (rules != NULL)
        *rules = (struct record_validation){
            .produce_version = r->version,
            .max_message_bytes = s->max_message_bytes,
            .now_unix_ms = request_unix_ms(r),
            .log_append_time = s->log_append_time,
            .timestamp_before_max_ms = s->timestamp_before_max_ms,
            .timestamp_after_max_ms = s->timestamp_after_max_ms,
            .compacted = s->compacted,
            .compression_type = s->compression_type,
            .compression_level = s->compression_level,
            .decompressed_bytes_max = (size_t)s->max_decompressed_bytes,
        };
    return rules;
}

/* Any thread: touches nothing but this partition's own. */
static void validate(struct append *a, struct decompressor *scratch, size_t patience_bytes)
{
    struct record_validation rules = *a->rules;
    const struct records *records = &a->in->records;
    struct record_verdict *v = a->verdict;

    rules.scratch = scratch;
    rules.patience_bytes = patience_bytes;
    a->err = record_batch_validate(records->ptr, (size_t)MAX(records->len, 0), &rules, v);
    if (a->err != ERR_NONE)
        return;
    /* The receive buffer is this request's alone: it is patched and rewritten in place. */
    a->bytes = (uint8_t *)(uintptr_t)records->ptr;
    if (v->rewrite == RECORD_REWRITE_HEADER) {
        record_batch_set_timestamp(&v->batch, a->bytes, a->rules->log_append_time,
                                   v->max_timestamp);
    } else if (v->rewrite == RECORD_REWRITE_ALL) {
        a->err = record_batch_rewrite(v, &rules, &a->rewritten);
        if (a->err == ERR_NONE)
            a->bytes = iobuf_bytes(a->rewritten);
    }
}

/* Large, and to be decompressed or compressed. */
static bool is_for_pool(const struct append *a)
{
    const struct records *records = &a->in->records;
    struct record_batch b;

    if (records->len < POOL_BYTES_MIN ||
        record_batch_parse(records->ptr, (size_t)records->len, &b) != ERR_NONE)
        return false;
    return record_batch_codec(&b) != COMPRESSION_NONE ||
           a->rules->compression_type > COMPRESSION_NONE;
}

static void walk(struct request *r);

static void validate_on_pool(struct request *r)
{
    struct produce *s = produce_of(r);

    validate(&s->appends[s->next], NULL, 0);
}

static void on_room(struct log_room_waiter *w)
{
    request_post(CONTAINER_OF(w, struct produce, room)->request, walk);
}

/* Transactions do not exist yet: no partition can have been added to one. */
static enum err check_batch(struct append *a)
{
    if (!record_batch_is_transactional(&a->verdict->batch))
        return ERR_NONE;
    a->out->error_message = STR_LIT("Partition was not added to the transaction");
    return ERR_INVALID_TXN_STATE;
}

static void count_append(struct request *r, const struct append *a, bool duplicate)
{
    struct worker_metrics *m = &r->worker->metrics;

    if (duplicate) {
        counter_add(&m->duplicate_batches, 1);
        return;
    }
    counter_add(&m->bytes_in, (uint64_t)a->in->records.len);
    counter_add(&m->messages_in, (uint64_t)a->verdict->batch.record_count);
}

/* False: there is no room yet, and walk() will be called again. */
static bool append(struct request *r, struct produce *s, struct append *a)
{
    struct replica_append_result result;
    enum err e = replica_append(a->replica,
                                &(struct replica_append){
                                    .batch = &a->verdict->batch,
                                    .bytes = a->bytes,
                                    .acks = s->acks,
                                    .now_unix_ms = a->rules->now_unix_ms,
                                    .leader_epoch = -1,
                                },
                                &result);

    if (e == ERR_AGAIN) {
        s->room.ready = on_room;
        log_wait_for_room(replica_log(a->replica), (size_t)a->verdict->batch.size_bytes, &s->room);
        return false;
    }
    if (e != ERR_NONE) {
        /* Kafka tells the start offset only with errors that concern the batch. */
        if (e != ERR_NOT_LEADER_OR_FOLLOWER && e != ERR_KAFKA_STORAGE_ERROR &&
            e != ERR_RECORD_LIST_TOO_LARGE && e != ERR_UNKNOWN_TOPIC_OR_PARTITION)
            a->out->log_start_offset = result.log_start_offset;
        answer_error(a, e == ERR_UNKNOWN_TOPIC_OR_PARTITION ? gone(r) : e);
        return true;
    }
    a->out->base_offset = result.log.base_offset;
    a->out->log_append_time_ms = result.log.log_append_time_ms;
    a->out->log_start_offset = result.log_start_offset;
    a->required_offset = result.required_offset;
    a->leader_epoch = result.leader_epoch;
    count_append(r, a, result.log.duplicate);
    if (result.done) {
        answer_error(a, ERR_NONE);
    } else {
        a->state = APPEND_WAITS;
        s->waiting++;
    }
    return true;
}

/* Finds the replica and validates, or sends the validation to the pool. */
static bool prepare(struct request *r, struct produce *s, struct append *a)
{
    const struct topic_image *t = NULL;
    enum err e = find_replica(r, a, &t);

    if (e == ERR_NONE) {
        a->rules =
            make_rules(r, topic_settings_cache_get(r->worker->topic_settings, request_image(r), t));
        a->verdict = arena_alloc(&r->arena, sizeof *a->verdict);
        if (a->rules == NULL || a->verdict == NULL)
            e = ERR_TOO_LARGE;
    }
    if (e == ERR_INVALID_TOPIC_EXCEPTION && s->acks != 0)
        a->out->error_message =
            request_text(r, "Cannot append to internal topic %.*s", STR_ARG(t->name));
    if (e != ERR_NONE) {
        answer_error(a, e);
        return true;
    }
    a->state = APPEND_VALIDATED;
    if (!is_for_pool(a)) {
        validate(a, r->worker->decompressor, WORKER_DECOMPRESSED_BYTES_MAX);
        if (a->err != ERR_AGAIN)
            return true;
    }
    request_on_pool(r, validate_on_pool, walk);
    return false;
}

static void judge(struct request *r, struct append *a)
{
    if (a->err != ERR_NONE) {
        answer_faults(r, a);
        answer_error(a, a->err);
        return;
    }

    enum err e = check_batch(a);

    if (e != ERR_NONE)
        answer_error(a, e);
}

/* Stored or refused: a rewritten copy is not needed any more. */
static void drop_rewritten(struct append *a)
{
    if (a->rewritten != NULL)
        iobuf_unref(a->rewritten);
    a->rewritten = NULL;
    a->bytes = NULL;
}

/* Appends from `next` on; comes back here after each wait. */
static void walk(struct request *r)
{
    struct produce *s = produce_of(r);

    while (s->next < s->count) {
        struct append *a = &s->appends[s->next];

        if (a->state == APPEND_NEW && !prepare(r, s, a))
            return;
        if (a->state == APPEND_VALIDATED)
            judge(r, a);
        if (a->state == APPEND_VALIDATED && !append(r, s, a))
            return;
        drop_rewritten(a);
        s->next++;
    }
    all_appended(r);
}

/* ---- the request ---- */

/* Makes the answer's shape and one struct append per partition; false when the request has been
 * ended instead. */
static bool lay_out(struct request *r, struct produce *s)
{
    const struct produce_request *in = r->body;
    struct produce_response *out = request_response(r);
    int64_t count = 0;

    for (int32_t t = 0; t < in->topic_data.n; t++)
        count += in->topic_data.v[t].partition_data.n;
    s->appends = arena_array(&r->arena, (size_t)count + 1, sizeof *s->appends);
    if (s->appends == NULL || !CODEC_ARRAY(&r->arena, out->responses, in->topic_data.n,
                                           produce_response_topic_produce_response))
        return false;
    for (int32_t t = 0; t < in->topic_data.n; t++) {
        const struct produce_request_topic_produce_data *topic = &in->topic_data.v[t];
        struct produce_response_topic_produce_response *answer = &out->responses.v[t];

        answer->name = topic->name;
        answer->topic_id = topic->topic_id;
        if (!CODEC_ARRAY(&r->arena, answer->partition_responses, topic->partition_data.n,
                         produce_response_partition_produce_response))
            return false;
        for (int32_t p = 0; p < topic->partition_data.n; p++) {
            struct append *a = &s->appends[s->count++];

            a->topic = topic;
            a->in = &topic->partition_data.v[p];
            a->out = &answer->partition_responses.v[p];
            a->out->index = a->in->index;
            a->out->base_offset = -1;
        }
    }
    return true;
}

static bool has_transactional(const struct produce *s)
{
    struct record_batch b;

    for (int32_t i = 0; i < s->count; i++) {
        const struct records *records = &s->appends[i].in->records;

        if (records->len > 0 &&
            record_batch_parse(records->ptr, (size_t)records->len, &b) == ERR_NONE &&
            record_batch_is_transactional(&b))
            return true;
    }
    return false;
}

/* What refuses the request as a whole, though it is told partition by partition. */
static enum err check_request(const struct request *r, const struct produce *s)
{
    const struct produce_request *in = r->body;

    if (in->acks != -1 && in->acks != 0 && in->acks != 1)
        return ERR_INVALID_REQUIRED_ACKS;
    if (str_is_null(in->transactional_id) && has_transactional(s))
        return ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    return ERR_NONE;
}

/* A partition that is named twice is appended once; Kafka would store the last one and answer for
 * that, so that a client never knows what became of the first. */
static void refuse_repetitions(struct request *r, struct produce *s)
{
    struct target_set *seen = s->count > 1 ? target_set_new(r, s->count) : NULL;

    for (int32_t i = 0; seen != NULL && i < s->count; i++) {
        struct append *a = &s->appends[i];

        if (target_set_repeats(seen, a->topic->name, &a->topic->topic_id, a->in->index))
            answer_error(a, ERR_INVALID_REQUEST);
    }
}

void handle_produce(struct request *r)
{
    const struct produce_request *in = r->body;
    struct produce *s = arena_alloc(&r->arena, sizeof *s);

    if (s == NULL) {
        request_overflow(r);
        return;
    }
    r->handler_state = s;
    s->request = r;
    s->acks = in->acks;
    if (!lay_out(r, s)) {
        request_overflow(r);
        return;
    }
    counter_add(&r->worker->metrics.produce_requests, 1);

    enum err e = check_request(r, s);

    if (e == ERR_NONE) {
        refuse_repetitions(r, s);
        walk(r);
        return;
    }
    for (int32_t i = 0; i < s->count; i++)
        answer_error(&s->appends[i], e);
    finish(r);
}
