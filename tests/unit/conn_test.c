/* A connection: frames however they are cut, answers in order, and a closed connection for what
 * cannot be answered. The stream is scripted; the rest is real up to the handlers, of which only
 * ApiVersions is called. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "broker/conn.h"
#include "broker/node.h"
#include "protocol/api.h"
#include "protocol/frame.h"
#include "tests/support/test_env.h"

#define BYTES_MAX     (256 * 1024)
#define REQUEST_BYTES 15 /* of ApiVersions v99 without client id */

struct script {
    struct stream stream;
    uint8_t in[BYTES_MAX];
    size_t in_size, in_at;
    size_t read_max; /* bytes a read may return */
    bool eof, closed;
    size_t send_room; /* bytes the peer takes before the socket is full */
    uint8_t out[BYTES_MAX];
    size_t out_size;
    unsigned wanted;
};

struct fixture {
    struct test_env t;
    struct config config;
    struct node node;
    struct worker *worker;
    struct listener_config listener;
    struct script *script;
};

/* ---- the scripted stream ---- */

static struct script *script_of(const struct stream *s)
{
    return CONTAINER_OF((struct stream *)(uintptr_t)s, struct script, stream);
}

static void script_attach(struct stream *s)
{
    (void)s;
}

static void script_want(struct stream *s, unsigned events)
{
    script_of(s)->wanted = events;
}

static enum err script_read(struct stream *stream, void *p, size_t size, size_t *n_read)
{
    struct script *s = script_of(stream);
    size_t n = MIN(MIN(size, s->read_max), s->in_size - s->in_at);

    if (n == 0 && !s->eof)
        return ERR_AGAIN;
    memcpy(p, s->in + s->in_at, n);
    s->in_at += n;
    *n_read = n;
    return ERR_NONE;
}

static enum err script_send(struct stream *stream, struct ioqueue *q)
{
    struct script *s = script_of(stream);
    const struct ioslice *sl;

    while ((sl = ioqueue_at(q, 0)) != NULL) {
        size_t n = MIN(sl->len, s->send_room);

        if (n == 0)
            return ERR_AGAIN;
        assert_true(s->out_size + n <= BYTES_MAX);
        memcpy(s->out + s->out_size, sl->buf->ptr + sl->offset, n);
        s->out_size += n;
        s->send_room -= n;
        ioqueue_consume(q, n);
    }
    return ERR_NONE;
}

static const char *script_peer(const struct stream *s)
{
    (void)s;
    return "192.0.2.1:4711";
}

static const char *script_peer_host(const struct stream *s)
{
    (void)s;
    return "192.0.2.1";
}

static void script_close(struct stream *s)
{
    script_of(s)->closed = true;
}

static const struct stream_ops script_ops = {
    .attach = script_attach,
    .want = script_want,
    .read = script_read,
    .send = script_send,
    .peer = script_peer,
    .peer_host = script_peer_host,
    .close = script_close,
};

/* ---- the fixture ---- */

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct errmsg why = {""};

    test_env_init(&f->t);
    f->config.workers = 1;
    f->config.socket_request_max_bytes = 100000;
    f->config.connections_max_idle_ms = 600000;
    f->config.connection_inflight_requests_max = 64;
    f->config.connection_inflight_bytes_max = 1 << 20;
    f->config.queued_max_request_bytes = 1 << 24;
    f->node.env = &f->t.env;
    f->node.config = &f->config;
    image_slot_init(&f->node.images, &f->t.env);
    connection_limits_init(&f->node.connections, &f->t.env);
    assert_int_equal(worker_new(&f->node, 0, &f->worker, &why), ERR_NONE);
    f->script = calloc(1, sizeof *f->script);
    f->script->stream.ops = &script_ops;
    f->script->read_max = SIZE_MAX;
    f->script->send_room = SIZE_MAX;
    assert_true(connection_limits_open(&f->node.connections, "192.0.2.1", 10, 10));
    atomic_fetch_add(&f->worker->conn_count, 1);
    conn_open(f->worker, &f->script->stream, &f->listener);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (!f->script->closed)
        conn_close(f->script->stream.ctx);
    assert_int_equal(f->worker->inflight_bytes, 0);
    loop_timer_stop(&f->worker->tick);
    worker_free(f->worker);
    connection_limits_deinit(&f->node.connections);
    image_slot_deinit(&f->node.images);
    test_env_deinit(&f->t);
    free(f->script);
    free(f);
    return 0;
}

static void feed(struct fixture *f, const void *p, size_t size)
{
    struct script *s = f->script;

    assert_true(s->in_size + size <= BYTES_MAX);
    memcpy(s->in + s->in_size, p, size);
    s->in_size += size;
}

/* Turns, as long as the connection wants to read and there is something. */
static void run(struct fixture *f)
{
    struct script *s = f->script;

    for (int i = 0; i < 100000 && !s->closed; i++) {
        bool readable = (s->wanted & STREAM_READABLE) && (s->in_at < s->in_size || s->eof);
        bool writable = (s->wanted & STREAM_WRITABLE) && s->send_room > 0;

        if (!readable && !writable)
            break;
        s->stream.on_event(&s->stream, (readable ? (unsigned)STREAM_READABLE : 0u) |
                                           (writable ? (unsigned)STREAM_WRITABLE : 0u));
        conn_flush_all(f->worker);
    }
    if (!s->closed)
        conn_flush_all(f->worker);
}

/* ApiVersions v99, of which nothing but the header counts. */
static size_t unknown_versions(uint8_t *p, int32_t correlation_id)
{
    store_be32(p, REQUEST_BYTES - 4);
    store_be16(p + 4, 18);
    store_be16(p + 6, 99);
    store_be32(p + 8, (uint32_t)correlation_id);
    store_be16(p + 12, 0xffff); /* no client id */
    p[14] = 0;                  /* no tagged fields */
    return REQUEST_BYTES;
}

/* ---- tests ---- */

/* A version of ApiVersions that we do not know is answered in version 0 with error 35 and the one
 * range that helps: the bytes of a stock 4.4.0 broker (KIP-511). */
static void unknown_api_versions_is_answered_like_kafka(void **state)
{
    static const uint8_t expected[] = {0, 0, 0, 16, 0, 0,  0, 7, 0, 35,
                                       0, 0, 0, 1,  0, 18, 0, 0, 0, 5};
    struct fixture *f = *state;
    uint8_t request[REQUEST_BYTES];

    feed(f, request, unknown_versions(request, 7));
    run(f);
    assert_int_equal(f->script->out_size, sizeof expected);
    assert_memory_equal(f->script->out, expected, sizeof expected);
    assert_false(f->script->closed);
}

/* However the bytes are cut, each request is answered once, in order (B2). */
static void frames_arrive_in_pieces(void **state)
{
    struct fixture *f = *state;
    uint8_t request[REQUEST_BYTES];

    f->script->read_max = 1;
    for (int32_t i = 0; i < 50; i++)
        feed(f, request, unknown_versions(request, i));
    run(f);
    assert_int_equal(f->script->out_size, 50 * 20);
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(load_be32(f->script->out + i * 20 + 4), i);
}

/* An ApiVersions v99 of `size` bytes in all; what follows the header is not looked at. */
static void feed_large(struct fixture *f, int32_t correlation_id, size_t size)
{
    uint8_t *p = xcalloc(1, size);

    (void)unknown_versions(p, correlation_id);
    store_be32(p, (uint32_t)size - 4);
    feed(f, p, size);
    free(p);
}

/* The same when large and small ones alternate, which are received in different ways. */
static void large_frames_arrive_in_pieces(void **state)
{
    static const size_t reads[] = {SIZE_MAX, 65536, 4096, 4095, 997};
    uint8_t small[REQUEST_BYTES];

    for (size_t i = 0; i < ARRAY_COUNT(reads); i++) {
        struct fixture *f = *state;

        f->script->in_size = f->script->in_at = f->script->out_size = 0;
        f->script->read_max = reads[i];
        feed_large(f, 0, 90000);
        feed(f, small, unknown_versions(small, 1));
        feed_large(f, 2, 65536 + 4);
        feed_large(f, 3, 65536 + 3);
        feed(f, small, unknown_versions(small, 4));
        feed(f, small, unknown_versions(small, 5));
        run(f);
        assert_int_equal(f->script->out_size, 6 * 20);
        for (uint32_t k = 0; k < 6; k++)
            assert_int_equal(load_be32(f->script->out + k * 20 + 4), k);
        assert_int_equal(f->worker->inflight_bytes, 0);
    }
}

/* Where large requests follow each other, one is served before the next is received: all use one
 * buffer. */
static void a_large_frame_is_served_at_once(void **state)
{
    struct fixture *f = *state;

    feed_large(f, 0, 80000);
    run(f);
    feed_large(f, 1, 80000);
    feed_large(f, 2, 80000);
    run(f);
    assert_int_equal(f->script->out_size, 3 * 20);
    assert_int_equal(f->worker->frames_cached_bytes, 128 * 1024);
}

/* Another connection of the same worker takes the place of the one that feed() and run() mean. */
static struct script *open_another(struct fixture *f)
{
    struct script *before = f->script;

    f->script = calloc(1, sizeof *f->script);
    *f->script = (struct script){
        .stream = {.ops = &script_ops}, .read_max = before->read_max, .send_room = SIZE_MAX};
    assert_true(connection_limits_open(&f->node.connections, "192.0.2.1", 10, 10));
    atomic_fetch_add(&f->worker->conn_count, 1);
    conn_open(f->worker, &f->script->stream, &f->listener);
    return before;
}

static void close_other(struct script *s)
{
    if (!s->closed)
        conn_close(s->stream.ctx);
    free(s);
}

/* A request may be larger than all that its worker should hold (B3). */
static void a_request_beyond_the_share_is_received(void **state)
{
    struct fixture *f = *state;

    f->script->read_max = 4096;
    f->worker->inflight_bytes_max = 66000;
    feed_large(f, 7, 90000);
    run(f);
    assert_int_equal(f->script->out_size, 20);
}

/* What was not read because the worker holds too much (B3) is read once it holds less: here when
 * the connection that was let go on has its answer. */
static void reading_goes_on_when_the_worker_holds_less(void **state)
{
    struct fixture *f = *state;
    struct script *first;

    f->script->read_max = 4096;
    f->worker->inflight_bytes_max = 66000;
    feed_large(f, 7, 90000);
    f->script->in_size -= 10000;
    run(f);
    assert_true(f->script->wanted & STREAM_READABLE);
    first = open_another(f);
    feed_large(f, 8, 90000);
    run(f);
    assert_int_equal(f->script->out_size, 0);
    assert_false(f->script->wanted & STREAM_READABLE);

    struct script *second = f->script;

    f->script = first;
    f->script->in_size += 10000;
    run(f);
    assert_int_equal(f->script->out_size, 20);
    assert_true(second->wanted & STREAM_READABLE);
    f->script = second;
    run(f);
    assert_int_equal(f->script->out_size, 20);
    close_other(first);
}

/* The connection that was let go on may also end: then the next one is, and none is blamed for
 * what we did not read. */
static void a_connection_that_ends_lets_the_next_one_finish(void **state)
{
    struct fixture *f = *state;
    struct script *first;

    f->script->read_max = 4096;
    f->worker->inflight_bytes_max = 66000;
    feed_large(f, 7, 90000);
    f->script->in_size -= 10000;
    run(f);
    first = open_another(f);
    feed_large(f, 8, 90000);
    run(f);
    assert_false(f->script->wanted & STREAM_READABLE);
    test_env_advance_ms(&f->t, 61000);
    conn_check_idle(f->worker, env_now_ns(&f->t.env));
    assert_true(first->closed);
    assert_false(f->script->closed);
    assert_true(f->script->wanted & STREAM_READABLE);
    run(f);
    assert_int_equal(f->script->out_size, 20);
    assert_int_equal(counter_get(&f->worker->metrics.bad_requests), 1);
    close_other(first);
}

/* A peer that sends much and reads nothing is not read any more (B3), and served when it does. */
static void a_peer_that_does_not_read_is_not_read(void **state)
{
    struct fixture *f = *state;
    uint8_t request[REQUEST_BYTES];

    f->script->send_room = 0;
    for (int32_t i = 0; i < 10000; i++)
        feed(f, request, unknown_versions(request, i));
    run(f);
    assert_int_equal(f->script->out_size, 0);
    f->script->send_room = SIZE_MAX;
    run(f);
    assert_int_equal(f->script->out_size, 10000 * 20);
    for (uint32_t i = 0; i < 10000; i++)
        assert_int_equal(load_be32(f->script->out + i * 20 + 4), i);
}

/* What was answered before still goes out when garbage follows (B5). */
static void garbage_closes_after_the_answers(void **state)
{
    struct fixture *f = *state;
    uint8_t request[REQUEST_BYTES];

    feed(f, request, unknown_versions(request, 1));
    feed(f, "\xff\xff\xff\xff garbage", 12);
    run(f);
    assert_int_equal(f->script->out_size, 20);
    assert_true(f->script->closed);
    assert_int_equal(counter_get(&f->worker->metrics.bad_requests), 1);
}

static void closes_on(void **state, const void *bytes, size_t size)
{
    struct fixture *f = *state;

    feed(f, bytes, size);
    run(f);
    assert_int_equal(f->script->out_size, 0);
    assert_true(f->script->closed);
    assert_int_equal(counter_get(&f->worker->metrics.bad_requests), 1);
}

static void tls_hello_closes(void **state)
{
    closes_on(state, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
}

static void too_long_a_request_closes(void **state)
{
    closes_on(state, "\x00\x01\x86\xa1\x00\x12", 6); /* 100001 bytes */
}

static void an_unknown_api_closes(void **state)
{
    closes_on(state, "\x00\x00\x00\x0a\x7f\x00\x00\x00\x00\x00\x00\x01\xff\xff", 14);
}

static void a_version_that_is_not_offered_closes(void **state)
{
    closes_on(state, "\x00\x00\x00\x0a\x00\x03\x7f\xff\x00\x00\x00\x01\xff\xff", 14);
}

static void bytes_behind_a_request_close(void **state)
{
    /* ApiVersions v0 has an empty body. */
    closes_on(state, "\x00\x00\x00\x0b\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff\x00", 15);
}

/* The peer ends its side: what it asked before is still answered, then it closes. */
static void end_of_stream_after_a_request(void **state)
{
    struct fixture *f = *state;
    uint8_t request[REQUEST_BYTES];

    feed(f, request, unknown_versions(request, 1));
    f->script->eof = true;
    run(f);
    assert_int_equal(f->script->out_size, 20);
    assert_true(f->script->closed);
    assert_int_equal(counter_get(&f->worker->metrics.bad_requests), 0);
}

/* A peer that ends its side while it reads nothing is waited for, not spun for; once it reads, it
 * gets its answers and the connection closes. */
static void end_of_stream_with_a_full_socket(void **state)
{
    struct fixture *f = *state;
    uint8_t request[REQUEST_BYTES];

    f->script->send_room = 0;
    feed(f, request, unknown_versions(request, 1));
    f->script->eof = true;
    run(f);
    assert_false(f->script->closed);
    f->script->send_room = SIZE_MAX;
    run(f);
    assert_int_equal(f->script->out_size, 20);
    assert_true(f->script->closed);
}

/* Nor is it spun for when its side ends within a request. */
static void end_of_stream_within_a_request(void **state)
{
    struct fixture *f = *state;
    uint8_t request[REQUEST_BYTES];

    f->script->send_room = 0;
    feed(f, request, unknown_versions(request, 1));
    feed(f, request, REQUEST_BYTES - 1);
    f->script->eof = true;
    run(f);
    assert_false(f->script->closed);
    assert_false(f->script->wanted & STREAM_READABLE);
    f->script->send_room = SIZE_MAX;
    run(f);
    assert_int_equal(f->script->out_size, 20);
    assert_true(f->script->closed);
}

/* A request that begins and does not go on is given up after a minute; a silent connection only
 * after connections.max.idle.ms. */
static void stalled_frames_and_idle_connections_close(void **state)
{
    struct fixture *f = *state;

    test_env_advance_ms(&f->t, 59000);
    conn_check_idle(f->worker, env_now_ns(&f->t.env));
    assert_false(f->script->closed);
    feed(f, "\x00\x00\x00\x0a\x00", 5);
    run(f);
    test_env_advance_ms(&f->t, 61000);
    conn_check_idle(f->worker, env_now_ns(&f->t.env));
    assert_true(f->script->closed);
}

static void idle_connections_close(void **state)
{
    struct fixture *f = *state;

    test_env_advance_ms(&f->t, 599000);
    conn_check_idle(f->worker, env_now_ns(&f->t.env));
    assert_false(f->script->closed);
    test_env_advance_ms(&f->t, 2000);
    conn_check_idle(f->worker, env_now_ns(&f->t.env));
    assert_true(f->script->closed);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(unknown_api_versions_is_answered_like_kafka),
        CASE(frames_arrive_in_pieces),
        CASE(large_frames_arrive_in_pieces),
        CASE(a_large_frame_is_served_at_once),
        CASE(a_request_beyond_the_share_is_received),
        CASE(reading_goes_on_when_the_worker_holds_less),
        CASE(a_connection_that_ends_lets_the_next_one_finish),
        CASE(a_peer_that_does_not_read_is_not_read),
        CASE(garbage_closes_after_the_answers),
        CASE(tls_hello_closes),
        CASE(too_long_a_request_closes),
        CASE(an_unknown_api_closes),
        CASE(a_version_that_is_not_offered_closes),
        CASE(bytes_behind_a_request_close),
        CASE(end_of_stream_after_a_request),
        CASE(end_of_stream_with_a_full_socket),
        CASE(end_of_stream_within_a_request),
        CASE(stalled_frames_and_idle_connections_close),
        CASE(idle_connections_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
