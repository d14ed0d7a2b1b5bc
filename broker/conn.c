#include "broker/conn.h"

#include <stdlib.h>

#include "broker/dispatch.h"
#include "broker/node.h"
#include "broker/request.h"
#include "protocol/frame.h"

/* Answers that the peer has not read yet: beyond this nothing new starts for it. File ranges
 * count as well; they cost no memory, but a peer that reads nothing gets nothing more. */
#define OUT_BYTES_MAX (1024 * 1024)
/* One connection's share of a turn. */
#define READ_BYTES_PER_EVENT (4 * 1024 * 1024)
/* After a frame this large another is expected: the read that finds its length takes little more,
 * so that the rest is received in place. */
#define LARGE_FRAME_BYTES WORKER_SCRATCH_BYTES
#define SHORT_READ_BYTES  4096
/* A frame that has begun must go on. */
#define FRAME_STALL_NS (60ull * 1000000000u)

struct conn {
    struct list_node node;         /* worker->conns */
    struct list_node flush_node;   /* worker->flush */
    struct list_node starved_node; /* worker->starved */
    struct worker *worker;
    struct stream *stream;
    const struct listener_config *listener;
    struct list requests; /* in order of arrival */
    int request_count;
    int64_t inflight_bytes;
    struct ioqueue out;
    uint8_t length[FRAME_LENGTH_SIZE]; /* of the frame that is arriving */
    size_t length_have;
    struct iobuf *frame; /* being filled */
    size_t frame_have;
    bool large_frames;      /* the last one was */
    struct iobuf *leftover; /* read from the socket and not looked at yet (C3) */
    size_t leftover_offset;
    uint64_t active_ns;
    bool blocked;      /* the socket takes no more for now */
    bool reading_over; /* the peer ended its side, or sent what cannot be followed */
    bool pumping;
};

const char *conn_peer(const struct conn *c)
{
    return stream_peer(c->stream);
}

const char *conn_peer_host(const struct conn *c)
{
    return stream_peer_host(c->stream);
}

struct conn *conn_of_node(struct list_node *n)
{
    return list_entry(n, struct conn, node);
}

static void touch(struct conn *c)
{
    c->active_ns = loop_now_ns(c->worker->loop);
    list_remove(&c->node);
    list_push_back(&c->worker->conns, &c->node);
}

/* ---- closing ---- */

static void account(struct conn *c, int64_t bytes)
{
    c->inflight_bytes += bytes;
    c->worker->inflight_bytes += bytes;
}

static void drop_request(struct conn *c, struct request *r)
{
    list_remove(&r->node);
    c->request_count--;
    account(c, -(int64_t)r->frame_bytes);
    request_detach(r);
}

void conn_close(struct conn *c)
{
    struct worker *w = c->worker;

    list_for_each_safe (n, &c->requests)
        drop_request(c, list_entry(n, struct request, node));
    account(c, -(int64_t)c->frame_have);
    DCHECK(c->inflight_bytes == 0);
    if (c->frame != NULL)
        iobuf_unref(c->frame);
    if (c->leftover != NULL)
        iobuf_unref(c->leftover);
    ioqueue_deinit(&c->out);
    list_remove(&c->node);
    if (w->finishing == c)
        w->finishing = NULL;
    if (list_linked(&c->flush_node))
        list_remove(&c->flush_node);
    if (list_linked(&c->starved_node))
        list_remove(&c->starved_node);
    atomic_fetch_sub(&w->conn_count, 1);
    connection_limits_close(&w->node->connections, stream_peer_host(c->stream));
    counter_add(&w->metrics.connections_closed, 1);
    stream_close(c->stream);
    free(c);
    conn_resume_starved(w);
}

/* The peer sent something that cannot be answered (C4): what came before is still served. */
static void refuse(struct conn *c, const char *reason)
{
    struct worker *w = c->worker;

    counter_add(&w->metrics.bad_requests, 1);
    if (worker_first_offence(w, conn_peer_host(c), reason))
        log_warn(w->node->logger, "conn", "%s: closing: %s (told once for this peer)", conn_peer(c),
                 reason);
    c->reading_over = true;
}

/* ---- sending ---- */

static void update_interest(struct conn *c);
static void pump(struct conn *c);

static void schedule_flush(struct conn *c)
{
    if (!list_linked(&c->flush_node))
        list_push_back(&c->worker->flush, &c->flush_node);
}

/* Moves answers that are next in order to the output (C2). */
static void gather(struct conn *c)
{
    struct list_node *n;

    while ((n = list_first(&c->requests)) != NULL) {
        struct request *r = list_entry(n, struct request, node);

        if (r->state != REQUEST_ANSWERED)
            return;
        ioqueue_splice(&c->out, &r->out);
        if (r->close_after)
            c->reading_over = true;

        bool last = r->close_after;

        drop_request(c, r);
        if (last) {
            /* Nothing after it is served; what has not started is forgotten. */
            list_for_each_safe (m, &c->requests)
                drop_request(c, list_entry(m, struct request, node));
        }
    }
}

/* Returns false when the connection has gone. */
static bool flush(struct conn *c)
{
    if (c->out.bytes_total > 0 && !c->blocked) {
        enum err e = stream_send(c->stream, &c->out);

        if (e == ERR_CLOSED) {
            conn_close(c);
            return false;
        }
        c->blocked = e == ERR_AGAIN;
        touch(c);
    }
    if (c->reading_over && c->out.bytes_total == 0 && list_empty(&c->requests)) {
        conn_close(c);
        return false;
    }
    return true;
}

void conn_flush_all(struct worker *w)
{
    struct list_node *n;

    while ((n = list_pop_front(&w->flush)) != NULL) {
        struct conn *c = list_entry(n, struct conn, flush_node);

        if (flush(c))
            pump(c); /* room in the output: what was held back may start */
    }
    conn_resume_starved(w);
}

void conn_request_answered(struct conn *c)
{
    gather(c);
    schedule_flush(c);
    pump(c);
}

/* ---- starting requests ---- */

/* C1 */
static struct request *next_to_start(struct conn *c)
{
    list_for_each (n, &c->requests) {
        struct request *r = list_entry(n, struct request, node);

        if (r->state == REQUEST_QUEUED)
            return n == c->requests.head.next || request_is_produce(r) ? r : NULL;
        if (r->state != REQUEST_APPENDED && r->state != REQUEST_ANSWERED)
            return NULL;
        if (!request_is_produce(r) || r->close_after)
            return NULL;
    }
    return NULL;
}

/* C1: what waits at the front lets the next one of its kind go on. Returns whether it was told. */
static bool supersede(struct conn *c)
{
    struct list_node *n = list_first(&c->requests);

    if (n == NULL || n->next == &c->requests.head)
        return false;

    struct request *first = list_entry(n, struct request, node);
    const struct request *second = list_entry(n->next, struct request, node);
    void (*end_wait)(struct request * r) = first->on_superseded;

    if (first->state != REQUEST_STARTED || end_wait == NULL || second->api != first->api)
        return false;
    first->on_superseded = NULL;
    end_wait(first);
    return true;
}

static bool may_take_more(const struct conn *c)
{
    const struct config *config = c->worker->node->config;

    return !c->reading_over && c->request_count < config->connection_inflight_requests_max &&
           (c->request_count == 0 || c->inflight_bytes < config->connection_inflight_bytes_max) &&
           c->out.bytes_total < OUT_BYTES_MAX;
}

static bool feed_leftover(struct conn *c);

/* Starts what may start; looks at bytes already read once there is room. Handlers that answer at
 * once come back here through conn_request_answered(): the loop is then already running. */
static void pump(struct conn *c)
{
    struct request *r;

    if (c->pumping)
        return;
    c->pumping = true;
    for (;;) {
        if (c->out.bytes_total < OUT_BYTES_MAX && (r = next_to_start(c)) != NULL) {
            dispatch_start(r);
            continue;
        }
        if (supersede(c))
            continue;
        if (c->leftover == NULL || !may_take_more(c) || !feed_leftover(c))
            break;
    }
    c->pumping = false;
    update_interest(c);
    if (c->reading_over && list_empty(&c->requests) && !c->blocked)
        schedule_flush(c); /* which closes it once everything is out */
}

void conn_request_appended(struct conn *c, struct request *r)
{
    account(c, -(int64_t)r->frame_bytes); /* the buffer has been given back */
    r->frame_bytes = 0;
    pump(c);
}

/* ---- receiving ---- */

static const char *not_kafka(const uint8_t *p)
{
    if (p[0] == 0x16 && p[1] == 0x03)
        return "a TLS handshake on a plaintext listener";
    if (memcmp(p, "GET ", 4) == 0 || memcmp(p, "POST", 4) == 0 || memcmp(p, "HEAD", 4) == 0)
        return "an HTTP request on a Kafka listener";
    return NULL;
}

static void frame_whole(struct conn *c)
{
    struct iobuf *frame = c->frame;

    c->large_frames = frame->len >= LARGE_FRAME_BYTES;
    c->frame = NULL;
    c->length_have = 0;
    account(c, -(int64_t)c->frame_have);
    c->frame_have = 0;

    const char *reason = NULL;
    struct request *r = dispatch_parse(c, c->worker, c->listener, frame, &reason);

    if (r == NULL) {
        refuse(c, reason);
        return;
    }
    account(c, (int64_t)r->frame_bytes);
    list_push_back(&c->requests, &r->node);
    c->request_count++;
}

static bool frame_begin(struct conn *c)
{
    size_t length = 0;
    enum err e = frame_length(c->length, sizeof c->length,
                              (size_t)c->worker->node->config->socket_request_max_bytes, &length);

    if (e != ERR_NONE) {
        const char *what = not_kafka(c->length);

        if (what == NULL)
            what = e == ERR_TOO_LARGE ? "a request longer than socket.request.max.bytes"
                                      : "a request length that no request can have";
        refuse(c, what);
        return false;
    }
    c->frame = worker_frame_new(c->worker, length);
    c->frame_have = 0;
    return true;
}

/* Takes bytes; returns how many it looked at (all, unless a limit stopped it). */
static size_t feed(struct conn *c, const uint8_t *p, size_t size)
{
    size_t used = 0;

    while (used < size && (c->frame != NULL || may_take_more(c))) {
        size_t rest = size - used, n;

        if (c->frame == NULL) {
            n = MIN(rest, sizeof c->length - c->length_have);
            memcpy(c->length + c->length_have, p + used, n);
            c->length_have += n;
            used += n;
            if (c->length_have < sizeof c->length || !frame_begin(c))
                continue;
        } else {
            n = MIN(rest, c->frame->len - c->frame_have);
            memcpy(worker_frame_bytes(c->frame) + c->frame_have, p + used, n);
            c->frame_have += n;
            account(c, (int64_t)n);
            used += n;
        }
        if (c->frame != NULL && c->frame_have == c->frame->len)
            frame_whole(c);
    }
    return c->reading_over ? size : used;
}

/* Returns whether anything was taken. */
static bool feed_leftover(struct conn *c)
{
    struct iobuf *b = c->leftover;
    size_t before = c->leftover_offset;

    c->leftover_offset += feed(c, b->ptr + before, b->len - before);

    bool moved = c->leftover_offset > before;

    if (c->leftover_offset == b->len) {
        iobuf_unref(b);
        c->leftover = NULL;
    }
    return moved;
}

static void keep_leftover(struct conn *c, const uint8_t *p, size_t size)
{
    c->leftover = iobuf_new(size);
    memcpy(iobuf_bytes(c->leftover), p, size);
    c->leftover_offset = 0;
}

/* One read: into the frame when its rest is large (no copy), else into the worker's scratch.
 * Returns ERR_AGAIN when the socket has no more for now. */
static enum err read_some(struct conn *c, size_t *n)
{
    uint8_t *scratch = c->worker->scratch;
    size_t rest = c->frame != NULL ? c->frame->len - c->frame_have : 0;
    bool direct = rest > SHORT_READ_BYTES && (rest > WORKER_SCRATCH_BYTES / 2 || c->large_frames);
    size_t most = c->large_frames ? SHORT_READ_BYTES : WORKER_SCRATCH_BYTES;
    enum err e = direct
                     ? stream_read(c->stream, worker_frame_bytes(c->frame) + c->frame_have, rest, n)
                     : stream_read(c->stream, scratch, most, n);

    if (e != ERR_NONE)
        return e;
    if (*n == 0)
        return ERR_CLOSED;
    if (direct) {
        c->frame_have += *n;
        account(c, (int64_t)*n);
        if (c->frame_have == c->frame->len)
            frame_whole(c);
        return *n < rest ? ERR_AGAIN : ERR_NONE;
    }

    size_t used = feed(c, scratch, *n);

    if (used < *n)
        keep_leftover(c, scratch + used, *n - used);
    return *n < most ? ERR_AGAIN : ERR_NONE;
}

/* Beyond the worker's share of bytes one connection may receive the rest of the request that it has
 * begun; it keeps that right until the request's buffer is given back. Else requests that have
 * begun could fill the share, each waiting for the others, and one larger than the share would
 * never be whole. */
static bool may_finish(const struct conn *c)
{
    const struct worker *w = c->worker;

    return c->frame != NULL && (w->finishing == NULL || w->finishing == c);
}

static bool is_starved(const struct conn *c)
{
    return c->worker->inflight_bytes >= c->worker->inflight_bytes_max &&
           c->inflight_bytes >= WORKER_SCRATCH_BYTES; /* small requests always get through */
}

static bool may_read(const struct conn *c)
{
    if (c->reading_over || c->leftover != NULL || !(c->frame != NULL || may_take_more(c)))
        return false;
    return !is_starved(c) || may_finish(c);
}

/* The same, and takes the right to finish when that is what lets it read. */
static bool begin_reading(struct conn *c)
{
    if (!may_read(c))
        return false;
    if (is_starved(c))
        c->worker->finishing = c;
    return true;
}

static void on_readable(struct conn *c)
{
    size_t total = 0, n = 0;
    enum err e = ERR_NONE;

    touch(c);
    while (e == ERR_NONE && total < READ_BYTES_PER_EVENT && begin_reading(c)) {
        e = read_some(c, &n);
        total += n;
        /* A large request is served while its bytes are in the processor's cache, and before the
         * next one needs a buffer. */
        if (c->large_frames && c->frame == NULL)
            pump(c);
    }
    if (e == ERR_CLOSED)
        c->reading_over = true; /* answers under way still go out; then it closes */
    pump(c);
}

static void update_interest(struct conn *c)
{
    unsigned want = c->blocked ? STREAM_WRITABLE : 0;

    if (begin_reading(c))
        want |= STREAM_READABLE;
    else if (!c->reading_over && !list_linked(&c->starved_node) &&
             c->worker->inflight_bytes >= c->worker->inflight_bytes_max)
        list_push_back(&c->worker->starved, &c->starved_node);
    stream_want(c->stream, want);
}

void conn_resume_starved(struct worker *w)
{
    struct conn *f = w->finishing;
    struct list waiting;
    struct list_node *n;

    if (f != NULL && (f->inflight_bytes < WORKER_SCRATCH_BYTES || f->reading_over))
        w->finishing = NULL;
    if (list_empty(&w->starved) ||
        (w->inflight_bytes >= w->inflight_bytes_max && w->finishing != NULL))
        return;
    list_init(&waiting);
    list_splice_back(&waiting, &w->starved);
    while ((n = list_pop_front(&waiting)) != NULL) {
        struct conn *c = list_entry(n, struct conn, starved_node);

        update_interest(c);
        if (may_read(c))
            touch(c); /* its silence was ours */
    }
}

static void on_event(struct stream *s, unsigned events)
{
    struct conn *c = s->ctx;

    if (events & STREAM_HANGUP) {
        conn_close(c);
        return;
    }
    if (events & STREAM_WRITABLE) {
        c->blocked = false;
        schedule_flush(c);
        update_interest(c);
    }
    if (events & STREAM_READABLE)
        on_readable(c);
}

/* ---- life ---- */

void conn_open(struct worker *w, struct stream *s, const struct listener_config *listener)
{
    struct conn *c = xcalloc(1, sizeof *c);

    c->worker = w;
    c->stream = s;
    c->listener = listener;
    list_init(&c->requests);
    ioqueue_init(&c->out);
    c->active_ns = loop_now_ns(w->loop);
    list_push_back(&w->conns, &c->node);
    counter_add(&w->metrics.connections_accepted, 1);
    stream_attach(s, w->loop, on_event, c);
    update_interest(c);
}

void conn_check_idle(struct worker *w, uint64_t now_ns)
{
    uint64_t idle_max_ns = (uint64_t)w->node->config->connections_max_idle_ms * 1000000u;

    list_for_each_safe (n, &w->conns) {
        struct conn *c = list_entry(n, struct conn, node);
        uint64_t idle_ns = now_ns > c->active_ns ? now_ns - c->active_ns : 0;

        if (idle_ns < FRAME_STALL_NS && idle_ns < idle_max_ns)
            return; /* sorted: the rest has been active since */
        /* What we do not read for now is not the peer's fault. */
        if ((c->frame != NULL || c->length_have > 0) && may_read(c) && idle_ns >= FRAME_STALL_NS) {
            refuse(c, "a request that began and did not go on");
            conn_close(c);
        } else if (idle_ns >= idle_max_ns && (list_empty(&c->requests) || c->blocked)) {
            conn_close(c);
        }
    }
}
