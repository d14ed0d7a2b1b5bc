#include "broker/peer_fetch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/fetch_tags.h"
#include "protocol/frame.h"

/* Records that wait for room in their logs; beyond it they are fetched again. */
#define RETAINED_BYTES_MAX ((size_t)32 * 1024 * 1024)
#define BUFFER_BYTES       ((size_t)64 * 1024)
/* Decoded arrays of one answer, and one request's. */
#define ARENA_BYTES_MAX ((size_t)64 * 1024 * 1024)
#define LOOK_NS         1000000000u
/* A log that is being cut by somebody else is looked at again. */
#define DEFERRED_NS 10000000u

struct peer_fetch {
    struct peer_fetch_options options;
    struct replica_fetcher *core;
    const struct api_desc *api;
    int16_t version;
    int64_t broker_epoch; /* -1: not registered yet */
    struct uuid token;
    char host[256];
    int port;
    struct str client_id;
    char client_id_text[32];
    /* the connection */
    struct connecting connecting;
    struct stream *stream; /* NULL: none */
    struct ioqueue out;
    uint8_t *in; /* bytes received, from the beginning of a frame on */
    size_t in_have, in_capacity;
    struct loop_timer timer;
    bool driving;
    /* what is under way */
    struct list deferred; /* struct deferred_follow */
    int jobs;
    size_t retained_bytes;
    bool closing;
    void (*quiet)(void *ctx);
    void *quiet_ctx;
    uint64_t look_due_ns;
    _Atomic int64_t lag_max, partitions, failed;
    _Atomic uint64_t requests, records_bytes, truncations, below_high_watermark, troubles;
};

static void drive(struct peer_fetch *f);
static void carry_out_effects(struct peer_fetch *f);

static uint64_t now_ns(const struct peer_fetch *f)
{
    return env_now_ns(f->options.env);
}

static struct replica *find_replica(const struct peer_fetch *f, const struct fetch_key *key)
{
    return replica_manager_find(f->options.replicas, &key->topic_id, key->partition);
}

/* ---- the connection ---- */

static void hang_up(struct peer_fetch *f)
{
    if (f->connecting.attempt != NULL)
        loop_connect_cancel(&f->connecting);
    if (f->stream != NULL)
        stream_close(f->stream);
    f->stream = NULL;
    ioqueue_deinit(&f->out);
    ioqueue_init(&f->out);
    free(f->in);
    f->in = NULL;
    f->in_have = f->in_capacity = 0;
}

static void lose(struct peer_fetch *f)
{
    hang_up(f);
    replica_fetcher_on_disconnected(f->core, now_ns(f));
}

static void refuse(struct peer_fetch *f, const char *reason)
{
    log_warn(f->options.logger, "fetcher", "node %d answers a fetch with %s: closing",
             f->options.leader, reason);
    lose(f);
}

static void on_event(struct stream *s, unsigned events);

static void on_connected(struct connecting *c, enum err err, struct stream *s)
{
    struct peer_fetch *f = CONTAINER_OF(c, struct peer_fetch, connecting);

    if (err == ERR_NONE) {
        f->stream = s;
        stream_attach(s, f->options.loop, on_event, f);
        stream_want(s, STREAM_READABLE);
        replica_fetcher_on_connected(f->core, now_ns(f));
    } else {
        log_debug(f->options.logger, "fetcher", "node %d at %s:%d cannot be reached: %s",
                  f->options.leader, f->host, f->port, err_name(err));
        replica_fetcher_on_disconnected(f->core, now_ns(f));
    }
    drive(f);
}

static void dial(struct peer_fetch *f)
{
    if (f->host[0] == '\0') {
        replica_fetcher_on_disconnected(f->core, now_ns(f));
        return;
    }
    f->connecting = (struct connecting){
        .host = f->host,
        .port = f->port,
        .deadline_ns = now_ns(f) + f->options.connect_timeout_ns,
        .done = on_connected,
    };
    loop_connect(f->options.loop, &f->connecting);
}

static void flush(struct peer_fetch *f)
{
    enum err e = stream_send(f->stream, &f->out);

    if (e == ERR_CLOSED)
        lose(f);
    else
        stream_want(f->stream, STREAM_READABLE | (e == ERR_AGAIN ? STREAM_WRITABLE : 0u));
}

/* ---- requests ---- */

/* Consecutive ones of a topic share an entry; the order is the core's. */
static int32_t run_length(const struct fetch_ask *asks, int32_t i, int32_t count)
{
    int32_t end = i + 1;

    while (end < count && uuid_eq(&asks[end].key.topic_id, &asks[i].key.topic_id))
        end++;
    return end - i;
}

static bool fill_ask(struct arena *a, const struct fetch_order *order, const struct fetch_ask *ask,
                     struct fetch_request_fetch_partition *out)
{
    out->partition = ask->key.partition;
    out->current_leader_epoch = ask->current_leader_epoch;
    out->fetch_offset = ask->fetch_offset;
    out->last_fetched_epoch = ask->last_fetched_epoch;
    out->log_start_offset = ask->log_start_offset;
    out->partition_max_bytes = order->partition_max_bytes;
    out->high_watermark = ask->high_watermark;
    return ask->durable_end_offset < 0 ||
           fetch_tags_set_durable_end(a, out, ask->durable_end_offset);
}

static bool fill_asks(struct arena *a, const struct fetch_order *order, struct fetch_request *q)
{
    int32_t topics = 0;

    for (int32_t i = 0; i < order->ask_count; i += run_length(order->asks, i, order->ask_count))
        topics++;
    if (!CODEC_ARRAY(a, q->topics, topics, fetch_request_fetch_topic))
        return false;
    for (int32_t i = 0, t = 0; i < order->ask_count; t++) {
        struct fetch_request_fetch_topic *topic = &q->topics.v[t];
        int32_t n = run_length(order->asks, i, order->ask_count);

        topic->topic_id = order->asks[i].key.topic_id;
        if (!CODEC_ARRAY(a, topic->partitions, n, fetch_request_fetch_partition))
            return false;
        for (int32_t p = 0; p < n; p++, i++)
            if (!fill_ask(a, order, &order->asks[i], &topic->partitions.v[p]))
                return false;
    }
    return true;
}

static bool fill_forgotten(struct arena *a, const struct fetch_order *order,
                           struct fetch_request *q)
{
    if (!CODEC_ARRAY(a, q->forgotten_topics_data, order->forgotten_count,
                     fetch_request_forgotten_topic))
        return false;
    for (int32_t i = 0; i < order->forgotten_count; i++) {
        struct fetch_request_forgotten_topic *t = &q->forgotten_topics_data.v[i];

        t->topic_id = order->forgotten[i].topic_id;
        if (!CODEC_ARRAY_PLAIN(a, t->partitions, 1))
            return false;
        t->partitions.v[0] = order->forgotten[i].partition;
    }
    return true;
}

static void send_request(struct peer_fetch *f, const struct fetch_order *order)
{
    struct fetch_request q;
    struct arena a;

    arena_init(&a, ARENA_BYTES_MAX);
    codec_init(f->api->request, &q);
    q.replica_state.replica_id = f->options.node_id;
    q.replica_state.replica_epoch = order->broker_epoch;
    q.max_wait_ms = order->max_wait_ms;
    q.min_bytes = order->min_bytes;
    q.max_bytes = order->max_bytes;
    q.session_id = order->session_id;
    q.session_epoch = order->session_epoch;

    bool whole = fill_asks(&a, order, &q) && fill_forgotten(&a, order, &q) &&
                 fetch_tags_set_token(&a, &q, &f->token) &&
                 request_encode(f->api, f->version, order->correlation_id, f->client_id, &q,
                                &f->out) == ERR_NONE;

    arena_deinit(&a);
    if (whole)
        flush(f);
    else
        refuse(f, "more partitions than one request can name");
}

/* ---- answers ---- */

static enum err from_wire(int16_t code)
{
    return code >= -1 ? (enum err)code : ERR_UNKNOWN_SERVER_ERROR;
}

static void take_part(const struct uuid *topic_id, const struct fetch_response_partition_data *in,
                      struct fetch_part *out)
{
    *out = (struct fetch_part){
        .key = {.topic_id = *topic_id, .partition = in->partition_index},
        .err = from_wire(in->error_code),
        .high_watermark = in->high_watermark,
        .log_start_offset = in->log_start_offset,
        .diverging_epoch = in->diverging_epoch.epoch,
        .diverging_end_offset = in->diverging_epoch.end_offset,
        .records = in->records.ptr,
        .records_size = in->records.len > 0 ? (size_t)in->records.len : 0,
    };
}

static enum err take_answer(struct peer_fetch *f, int32_t correlation_id,
                            const struct fetch_response *in, struct arena *a)
{
    int64_t count = 0;

    for (int32_t t = 0; t < in->responses.n; t++)
        count += MAX(in->responses.v[t].partitions.n, 0);

    struct fetch_part *parts = arena_array(a, (size_t)count + 1, sizeof *parts);
    struct fetch_part *at = parts;

    if (parts == NULL || count > INT32_MAX)
        return ERR_TOO_LARGE;
    for (int32_t t = 0; t < in->responses.n; t++) {
        const struct fetch_response_fetchable_topic_response *topic = &in->responses.v[t];

        for (int32_t p = 0; p < topic->partitions.n; p++)
            take_part(&topic->topic_id, &topic->partitions.v[p], at++);
    }
    return replica_fetcher_on_answer(f->core,
                                     &(struct fetch_answer){
                                         .correlation_id = correlation_id,
                                         .err = from_wire(in->error_code),
                                         .session_id = in->session_id,
                                         .parts = parts,
                                         .part_count = (int32_t)count,
                                     },
                                     now_ns(f));
}

/* The bytes stay until what they brought has been carried out. */
static enum err take_frame(struct peer_fetch *f, const uint8_t *frame, size_t size)
{
    struct fetch_response in;
    struct arena a;
    int32_t correlation_id;
    size_t used, body;
    enum err e = response_header_read(f->api, f->version, frame, size, &correlation_id, &used);

    if (e != ERR_NONE)
        return e;
    arena_init(&a, ARENA_BYTES_MAX);
    e = codec_decode(f->api->response, f->version, frame + used, size - used, &a, &in, &body);
    if (e == ERR_NONE && body != size - used)
        e = ERR_MALFORMED;
    if (e == ERR_NONE)
        e = take_answer(f, correlation_id, &in, &a);
    arena_deinit(&a);
    if (e == ERR_NONE)
        carry_out_effects(f);
    return e;
}

/* Serves the whole frames that have come; false when the connection has been given up. */
static bool take_frames(struct peer_fetch *f)
{
    size_t used = 0, length = 0;

    while (f->in_have - used >= FRAME_LENGTH_SIZE) {
        enum err e =
            frame_length(f->in + used, f->in_have - used, f->options.answer_bytes_max, &length);

        if (e != ERR_NONE) {
            refuse(f, "a length that no answer has");
            return false;
        }
        if (f->in_have - used < FRAME_LENGTH_SIZE + length)
            break;
        if (take_frame(f, f->in + used + FRAME_LENGTH_SIZE, length) != ERR_NONE) {
            refuse(f, "what is no answer to it");
            return false;
        }
        used += FRAME_LENGTH_SIZE + length;
        length = 0;
    }
    f->in_have -= used;
    memmove(f->in, f->in + used, f->in_have);
    if (FRAME_LENGTH_SIZE + length > f->in_capacity) {
        f->in_capacity = FRAME_LENGTH_SIZE + length;
        f->in = xrealloc(f->in, f->in_capacity);
    }
    return true;
}

static void on_readable(struct peer_fetch *f)
{
    size_t n = 0;

    if (f->in == NULL) {
        f->in_capacity = BUFFER_BYTES;
        f->in = xmalloc(f->in_capacity);
    }
    for (;;) {
        enum err e = stream_read(f->stream, f->in + f->in_have, f->in_capacity - f->in_have, &n);

        if (e == ERR_AGAIN)
            return;
        if (e != ERR_NONE || n == 0) {
            lose(f);
            return;
        }

        bool filled = n == f->in_capacity - f->in_have;

        f->in_have += n;
        if (!take_frames(f) || !filled)
            return;
    }
}

static void on_event(struct stream *s, unsigned events)
{
    struct peer_fetch *f = s->ctx;

    if (events & STREAM_READABLE)
        on_readable(f);
    else if (events & STREAM_HANGUP)
        lose(f);
    if (f->stream != NULL && (events & STREAM_WRITABLE))
        flush(f);
    drive(f);
}

/* ---- effects: taking ---- */

/* Tells the core what became of an effect. */
static void tell_done(struct peer_fetch *f, const struct fetch_effect *e, enum err err,
                      struct replica *r)
{
    struct fetch_log_view view = {.last_epoch = -1};

    if (r != NULL)
        (void)replica_fetch_view(r, &view);
    replica_fetcher_on_done(f->core, &e->key, e->ticket, err, &view, now_ns(f));
}

/* Records that found no room. */
struct kept_take {
    struct log_room_waiter waiter;
    struct message message;
    struct peer_fetch *fetch;
    struct replica *replica;
    struct fetch_effect effect; /* `records`: what is left, a copy; NULL: fetched again */
    uint8_t *copy;
    size_t copied;
};

static void drop_kept(struct kept_take *k)
{
    k->fetch->retained_bytes -= k->copied;
    replica_unref(k->replica);
    free(k->copy);
    free(k);
}

static void on_room(struct message *m);

static void on_log_has_room(struct log_room_waiter *w)
{
    struct kept_take *k = CONTAINER_OF(w, struct kept_take, waiter);

    loop_post(k->fetch->options.loop, &k->message);
}

static enum err try_take(struct peer_fetch *f, struct fetch_effect *e, struct replica *r,
                         size_t *room)
{
    struct replica_take t = {
        .leader_epoch = e->leader_epoch,
        .expected_end = e->offset,
        .records = e->records,
        .records_size = e->records_size,
        .leader_high_watermark = e->leader_high_watermark,
        .leader_log_start_offset = e->leader_log_start_offset,
        .now_unix_ms = env_unix_ms(f->options.env),
    };
    size_t taken;
    enum err err = replica_take(r, &t, &taken, room);

    if (err == ERR_AGAIN) {
        e->records += taken;
        e->records_size -= taken;
        e->offset = log_end_offset(replica_log(r));
    }
    return err;
}

/* Keeps what is left until there is room; with too much kept already the core asks again then. Not
 * so for a log that begins anew: it must not begin where the leader's does not. */
static void keep_take(struct peer_fetch *f, const struct fetch_effect *e, struct replica *r,
                      size_t room)
{
    struct kept_take *k = xcalloc(1, sizeof *k);

    k->fetch = f;
    k->replica = replica_ref(r);
    k->effect = *e;
    k->effect.records = NULL;
    k->message.run = on_room;
    k->waiter.ready = on_log_has_room;
    if (e->kind == FETCH_EFFECT_RESTART ||
        f->retained_bytes + e->records_size <= RETAINED_BYTES_MAX) {
        k->copied = e->records_size;
        k->copy = xmalloc(k->copied);
        memcpy(k->copy, e->records, k->copied);
        k->effect.records = k->copy;
        f->retained_bytes += k->copied;
    } else {
        tell_done(f, e, ERR_AGAIN, r);
    }
    log_wait_for_room(replica_log(r), room, &k->waiter);
}

static void on_room(struct message *m)
{
    struct kept_take *k = CONTAINER_OF(m, struct kept_take, message);
    struct peer_fetch *f = k->fetch;
    struct fetch_log_view view;
    size_t room;
    enum err err;

    if (f->closing) {
        drop_kept(k);
        return;
    }
    if (k->effect.records == NULL) {
        if (replica_fetch_view(k->replica, &view))
            replica_fetcher_on_room(f->core, &k->effect.key, &view);
    } else if ((err = try_take(f, &k->effect, k->replica, &room)) == ERR_AGAIN) {
        log_wait_for_room(replica_log(k->replica), room, &k->waiter);
        return;
    } else {
        tell_done(f, &k->effect, err, k->replica);
    }
    drop_kept(k);
    drive(f);
}

static void take(struct peer_fetch *f, struct fetch_effect *e, struct replica *r)
{
    size_t room = 0;
    enum err err = try_take(f, e, r, &room);

    if (err == ERR_AGAIN)
        keep_take(f, e, r, room);
    else
        tell_done(f, e, err, r);
}

/* ---- effects: cutting, on the pool ---- */

struct cut {
    struct job job;
    struct peer_fetch *fetch;
    struct replica *replica;
    struct fetch_effect effect;
    uint8_t *copy; /* of the effect's records */
    size_t room;   /* that they need, with ERR_AGAIN */
    enum err err;
};

static void work_cut(struct job *j)
{
    struct cut *c = CONTAINER_OF(j, struct cut, job);
    struct fetch_effect *e = &c->effect;

    c->err = replica_cut(c->replica, &(struct replica_cut){
                                         .leader_epoch = e->leader_epoch,
                                         .offset = e->offset,
                                         .restart = e->kind == FETCH_EFFECT_RESTART,
                                     });
    if (c->err == ERR_NONE && e->records_size > 0)
        c->err = try_take(c->fetch, e, c->replica, &c->room);
}

static void retry_deferred(struct peer_fetch *f);

static void end_job(struct peer_fetch *f)
{
    f->jobs--;
    if (f->closing && f->jobs == 0)
        f->quiet(f->quiet_ctx);
}

static void on_cut(struct job *j)
{
    struct cut *c = CONTAINER_OF(j, struct cut, job);
    struct peer_fetch *f = c->fetch;

    if (!f->closing) {
        if (c->err == ERR_AGAIN)
            keep_take(f, &c->effect, c->replica, c->room);
        else
            tell_done(f, &c->effect, c->err, c->replica);
        retry_deferred(f);
        drive(f);
    }
    replica_unref(c->replica);
    free(c->copy);
    free(c);
    end_job(f);
}

static void report_cut(const struct peer_fetch *f, const struct fetch_effect *e, struct replica *r)
{
    const struct log_identity *id = log_identity(replica_log(r));
    struct fetch_log_view v;

    (void)replica_fetch_view(r, &v);
    logger_write(f->options.logger, e->below_high_watermark ? LOG_WARN : LOG_INFO, "fetcher",
                 "%s-%d: %s %" PRId64 " to follow node %d in leader epoch %d (it was %" PRId64
                 " to %" PRId64 ", high watermark %" PRId64 "%s)",
                 id->topic, id->partition,
                 e->kind == FETCH_EFFECT_RESTART ? "begins anew at offset" : "is cut to offset",
                 e->offset, f->options.leader, e->leader_epoch, v.log_start_offset,
                 v.log_end_offset, v.high_watermark,
                 e->below_high_watermark ? "; what was committed beyond is lost here: an unclean "
                                           "election"
                                         : "");
}

static void cut(struct peer_fetch *f, const struct fetch_effect *e, struct replica *r)
{
    struct cut *c = xcalloc(1, sizeof *c);

    report_cut(f, e, r);
    c->fetch = f;
    c->replica = replica_ref(r);
    c->effect = *e;
    if (e->records_size > 0) {
        c->copy = xmalloc(e->records_size);
        memcpy(c->copy, e->records, e->records_size);
        c->effect.records = c->copy;
    }
    c->job.work = work_cut;
    c->job.done = on_cut;
    c->job.report_to = f->options.loop;
    f->jobs++;
    env_pool_submit(f->options.env, JOB_SHORT, &c->job);
}

/* ---- effects ---- */

static void find_epoch(struct peer_fetch *f, const struct fetch_effect *e, struct replica *r)
{
    struct fetch_log_view view;
    int32_t epoch = -1;
    int64_t end = -1;

    log_epoch_end_offset(replica_log(r), e->epoch, &epoch, &end);
    (void)replica_fetch_view(r, &view);
    replica_fetcher_on_epoch_end(f->core, &e->key, e->ticket, epoch, end, &view, now_ns(f));
}

static void report_trouble(struct peer_fetch *f, const struct fetch_effect *e)
{
    struct replica *r = e->key.partition >= 0 ? find_replica(f, &e->key) : NULL;
    const struct log_identity *id = r != NULL ? log_identity(replica_log(r)) : NULL;

    atomic_fetch_add(&f->troubles, 1);
    if (id == NULL)
        log_warn(f->options.logger, "fetcher", "node %d refuses fetches: %s", f->options.leader,
                 err_name(e->err));
    else
        logger_write(f->options.logger, e->transient ? LOG_DEBUG : LOG_WARN, "fetcher",
                     "%s-%d: stops fetching from node %d at offset %" PRId64 " for a while: %s%s%s",
                     id->topic, id->partition, f->options.leader, e->offset,
                     fetch_trouble_text(e->trouble), e->err != ERR_NONE ? ": " : "",
                     e->err != ERR_NONE ? err_name(e->err) : "");
    replica_unref(r);
}

static void carry_out(struct peer_fetch *f, struct fetch_effect *e)
{
    struct replica *r;

    if (e->kind == FETCH_EFFECT_TROUBLE) {
        report_trouble(f, e);
        return;
    }
    r = find_replica(f, &e->key);
    if (r == NULL && e->kind == FETCH_EFFECT_FIND_EPOCH)
        replica_fetcher_unfollow(f->core, &e->key); /* deleted: that is on its way to us */
    else if (r == NULL)
        tell_done(f, e, ERR_UNKNOWN_TOPIC_OR_PARTITION, NULL);
    else if (e->kind == FETCH_EFFECT_TAKE)
        take(f, e, r);
    else if (e->kind == FETCH_EFFECT_FIND_EPOCH)
        find_epoch(f, e, r);
    else
        cut(f, e, r);
    replica_unref(r);
}

static void carry_out_effects(struct peer_fetch *f)
{
    struct fetch_effect e;

    while (replica_fetcher_next(f->core, &e))
        carry_out(f, &e);
}

/* ---- what drives it ---- */

static void look(struct peer_fetch *f)
{
    const struct replica_fetcher_stats *s = replica_fetcher_stats(f->core);

    f->look_due_ns = now_ns(f) + LOOK_NS;
    atomic_store(&f->lag_max, replica_fetcher_lag_max(f->core));
    atomic_store(&f->failed, replica_fetcher_failed_count(f->core));
    atomic_store(&f->partitions, replica_fetcher_count(f->core));
    atomic_store(&f->requests, s->requests);
    atomic_store(&f->records_bytes, s->records_bytes);
    atomic_store(&f->truncations, s->truncations + s->restarts);
    atomic_store(&f->below_high_watermark, s->truncations_below_high_watermark);
}

void peer_fetch_look(const struct peer_fetch *f, struct peer_fetch_view *out)
{
    *out = (struct peer_fetch_view){
        .lag_max = atomic_load(&f->lag_max),
        .partitions = atomic_load(&f->partitions),
        .failed = atomic_load(&f->failed),
        .requests = atomic_load(&f->requests),
        .records_bytes = atomic_load(&f->records_bytes),
        .truncations = atomic_load(&f->truncations),
        .truncations_below_high_watermark = atomic_load(&f->below_high_watermark),
        .troubles = atomic_load(&f->troubles),
    };
}

static void set_timer(struct peer_fetch *f)
{
    uint64_t deadline = replica_fetcher_deadline_ns(f->core);

    if (replica_fetcher_count(f->core) > 0 || atomic_load(&f->partitions) > 0)
        deadline = MIN(deadline, f->look_due_ns);
    if (!list_empty(&f->deferred))
        deadline = MIN(deadline, now_ns(f) + DEFERRED_NS);
    if (f->broker_epoch < 0 || deadline == UINT64_MAX)
        loop_timer_stop(&f->timer);
    else
        loop_timer_set(&f->timer, deadline);
}

static void drive(struct peer_fetch *f)
{
    enum fetch_action action = FETCH_NOTHING;
    struct fetch_order order;

    if (f->driving || f->closing)
        return;
    f->driving = true;
    do {
        carry_out_effects(f);
        action =
            f->broker_epoch >= 0 ? replica_fetcher_poll(f->core, now_ns(f), &order) : FETCH_NOTHING;
        if (action == FETCH_CONNECT)
            dial(f);
        else if (action == FETCH_SEND)
            send_request(f, &order);
        else if (action == FETCH_CLOSE)
            hang_up(f);
    } while (action != FETCH_NOTHING);
    f->driving = false;
    set_timer(f);
}

static void on_timer(struct loop_timer *t)
{
    struct peer_fetch *f = CONTAINER_OF(t, struct peer_fetch, timer);

    if (now_ns(f) >= f->look_due_ns)
        look(f);
    retry_deferred(f);
    drive(f);
}

/* ---- what is followed ---- */

struct deferred_follow {
    struct list_node node;
    struct replica *replica;
    struct replica_following how;
};

static bool follow(struct peer_fetch *f, struct replica *r, const struct replica_following *how)
{
    const struct log_identity *id = log_identity(replica_log(r));
    const struct fetch_key key = {.topic_id = id->topic_id, .partition = id->partition};
    struct fetch_log_view view;

    if (!replica_fetch_view(r, &view))
        return false;
    replica_fetcher_follow(f->core, &key,
                           &(struct fetch_follow){
                               .leader_epoch = how->leader_epoch,
                               .recovering_epoch = how->recovering_epoch,
                               .gaps_allowed = how->gaps_allowed,
                           },
                           &view, now_ns(f));
    return true;
}

/* What could not be looked at, because the log was being cut. */
static void retry_deferred(struct peer_fetch *f)
{
    list_for_each_safe (n, &f->deferred) {
        struct deferred_follow *d = list_entry(n, struct deferred_follow, node);

        if (!follow(f, d->replica, &d->how))
            continue;
        list_remove(&d->node);
        replica_unref(d->replica);
        free(d);
    }
}

static bool is_key(const struct replica *r, const struct fetch_key *key)
{
    const struct log_identity *id = log_identity(replica_log((struct replica *)(uintptr_t)r));

    return id->partition == key->partition && uuid_eq(&id->topic_id, &key->topic_id);
}

static void drop_deferred(struct peer_fetch *f, const struct fetch_key *key)
{
    list_for_each_safe (n, &f->deferred) {
        struct deferred_follow *d = list_entry(n, struct deferred_follow, node);

        if (key != NULL && !is_key(d->replica, key))
            continue;
        list_remove(&d->node);
        replica_unref(d->replica);
        free(d);
    }
}

void peer_fetch_follow(struct peer_fetch *f, struct replica *r, const struct replica_following *how)
{
    if (f->closing)
        return;
    if (!follow(f, r, how)) {
        struct deferred_follow *d = xcalloc(1, sizeof *d);

        d->replica = replica_ref(r);
        d->how = *how;
        list_push_back(&f->deferred, &d->node);
    }
    drive(f);
}

void peer_fetch_unfollow(struct peer_fetch *f, const struct fetch_key *key)
{
    if (f->closing)
        return;
    drop_deferred(f, key);
    replica_fetcher_unfollow(f->core, key);
    drive(f);
}

void peer_fetch_on_log(struct peer_fetch *f, const struct fetch_key *key)
{
    struct replica *r = f->closing ? NULL : find_replica(f, key);
    struct fetch_log_view view;

    if (r == NULL)
        return;
    if (replica_fetch_view(r, &view))
        replica_fetcher_on_log(f->core, key, &view);
    replica_unref(r);
    drive(f);
}

void peer_fetch_set_self(struct peer_fetch *f, int64_t broker_epoch, const struct uuid *token)
{
    f->broker_epoch = broker_epoch;
    f->token = *token;
    replica_fetcher_set_broker_epoch(f->core, broker_epoch);
    drive(f);
}

void peer_fetch_set_address(struct peer_fetch *f, const char *host, int port)
{
    (void)snprintf(f->host, sizeof f->host, "%s", host);
    f->port = port;
    drive(f);
}

/* ---- life ---- */

struct peer_fetch *peer_fetch_new(const struct peer_fetch_options *o)
{
    struct peer_fetch *f = xcalloc(1, sizeof *f);

    f->options = *o;
    f->core = replica_fetcher_new(&o->fetch, -1, env_random_u64(o->env));
    f->api = api_find(API_FETCH);
    f->version = f->api->version_max_stable;
    f->broker_epoch = -1;
    (void)snprintf(f->client_id_text, sizeof f->client_id_text, "fluxmq-%d-%d", o->node_id,
                   o->shard);
    f->client_id = str_from(f->client_id_text);
    ioqueue_init(&f->out);
    list_init(&f->deferred);
    loop_timer_init(&f->timer, o->loop, on_timer);
    return f;
}

struct loop *peer_fetch_loop(const struct peer_fetch *f)
{
    return f->options.loop;
}

void peer_fetch_close(struct peer_fetch *f, void (*quiet)(void *ctx), void *ctx)
{
    CHECK(!f->closing);
    f->closing = true;
    f->quiet = quiet;
    f->quiet_ctx = ctx;
    drop_deferred(f, NULL);
    hang_up(f);
    loop_timer_stop(&f->timer);
    if (f->jobs == 0)
        quiet(ctx);
}

void peer_fetch_free(struct peer_fetch *f)
{
    if (f == NULL)
        return;
    CHECK(f->closing && f->jobs == 0);
    replica_fetcher_free(f->core);
    ioqueue_deinit(&f->out);
    free(f->in);
    free(f);
}
