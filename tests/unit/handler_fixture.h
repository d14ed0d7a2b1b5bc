/* tests/unit/handler_fixture.h -- handlers of the data path without sockets, disk and quorum: the
 * request's functions, the image and the logs are stand-ins; replicas, sessions and everything
 * between are real. It defines the functions, so that the real ones are not linked.
 *
 * The node is broker 1. Topics "a" (id 1) and "b" (id 2) have partitions 0 and 1 here, which broker
 * 1 leads in epoch 5; "elsewhere" (id 3) has one that broker 2 leads. Each log is 0..100.
 *
 * Include it once per test, after cmocka.h.
 */
#ifndef FLUXMQ_TESTS_HANDLER_FIXTURE_H
#define FLUXMQ_TESTS_HANDLER_FIXTURE_H

#include <stdio.h>

#include "broker/config.h"
#include "broker/handlers/handlers.h"
#include "broker/node.h"
#include "broker/topic_settings_cache.h"
#include "protocol/compress.h"
#include "tests/support/test_env.h"
#include "tests/unit/fake_log.h"

#define FIXTURE_LOGS 4 /* a-0 a-1 b-0 b-1 */

struct image {
    struct topic_image topics[3];
    int count;
    uint64_t index;
    struct partition_image here, there;
    struct broker_image brokers[2];
    struct endpoint_image endpoints[2];
};

enum fixture_end { PENDING, SENT, SILENT, SILENT_FAILED, REJECTED };

struct fixture {
    struct test_env t;
    struct node node;
    struct worker worker;
    struct config config;
    struct listener_config listener;
    struct topic_settings settings; /* of every topic */
    const char *selector;           /* replica.selector.class */
    struct image image;
    struct log logs[FIXTURE_LOGS];
    struct partition_state states[FIXTURE_LOGS];
    /* The request under test. */
    struct request r;
    struct api_desc api;
    enum fixture_end end;
    int appended, pool_jobs, posts, proposals;
    void (*posted)(struct request *r);
    void (*deadline)(struct request *r);
    uint64_t deadline_ns;
    void (*proposed)(struct request *r);
};

static struct fixture *fixture_of(const struct request *r)
{
    return CONTAINER_OF((struct request *)(uintptr_t)r, struct fixture, r);
}

/* ---- broker/request.h ---- */

void *request_response(struct request *r)
{
    r->response = arena_alloc(&r->arena, r->api->response->size);
    codec_init(r->api->response, r->response);
    return r->response;
}

/* What a handler answers must be something that its version can carry. */
void request_send(struct request *r)
{
    assert_int_equal(fixture_of(r)->end, PENDING);
    assert_true(codec_size(r->api->response, r->version, r->response) != SIZE_MAX);
    fixture_of(r)->end = SENT;
}

void request_finish_silent(struct request *r, bool failed)
{
    assert_int_equal(fixture_of(r)->end, PENDING);
    fixture_of(r)->end = failed ? SILENT_FAILED : SILENT;
}

void request_reject(struct request *r, const char *reason)
{
    (void)reason;
    assert_int_equal(fixture_of(r)->end, PENDING);
    fixture_of(r)->end = REJECTED;
}

void request_overflow(struct request *r)
{
    request_reject(r, "memory");
}

void request_appended(struct request *r)
{
    fixture_of(r)->appended++;
}

void request_post(struct request *r, void (*resume)(struct request *r))
{
    assert_null(fixture_of(r)->posted); /* one at a time */
    fixture_of(r)->posts++;
    fixture_of(r)->posted = resume;
}

void request_park(struct request *r, uint64_t deadline_ns, void (*resume)(struct request *r))
{
    fixture_of(r)->deadline_ns = deadline_ns;
    fixture_of(r)->deadline = resume;
}

void request_unpark(struct request *r)
{
    fixture_of(r)->deadline = NULL;
}

void request_on_pool(struct request *r, void (*work)(struct request *r),
                     void (*resume)(struct request *r))
{
    fixture_of(r)->pool_jobs++;
    work(r);
    request_post(r, resume);
}

void request_propose(struct request *r, MetaCommand *command, int32_t timeout_ms,
                     void (*done)(struct request *r))
{
    assert_non_null(command);
    assert_true(timeout_ms > 0);
    fixture_of(r)->proposals++;
    fixture_of(r)->proposed = done;
}

uint64_t request_now_ns(const struct request *r)
{
    return fixture_of(r)->t.now_ns;
}

int64_t request_unix_ms(const struct request *r)
{
    return fixture_of(r)->t.unix_ms;
}

const struct image *request_image(const struct request *r)
{
    return &fixture_of(r)->image;
}

const struct listener_config *request_listener(const struct request *r)
{
    return &fixture_of(r)->listener;
}

const char *request_peer_host(const struct request *r)
{
    (void)r;
    return "test";
}

const char *request_peer(const struct request *r)
{
    (void)r;
    return "192.0.2.1:4711";
}

struct str request_text(struct request *r, const char *fmt, ...)
{
    char text[1024];
    struct str out = STR_NULL;
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    assert_true(arena_str(&r->arena, str_from(text), &out));
    return out;
}

bool worker_first_offence(struct worker *w, const char *host, const char *reason)
{
    (void)w;
    (void)host;
    (void)reason;
    return false;
}

int64_t node_broker_epoch(const struct node *n)
{
    (void)n;
    return 1001;
}

/* ---- the image ---- */

uint64_t image_index(const struct image *i)
{
    return i->index;
}

const struct topic_image *image_topic(const struct image *i, struct str name)
{
    for (int t = 0; t < i->count; t++)
        if (str_eq(i->topics[t].name, name))
            return &i->topics[t];
    return NULL;
}

const struct topic_image *image_topic_by_id(const struct image *i, const struct uuid *id)
{
    for (int t = 0; t < i->count; t++)
        if (uuid_eq(&i->topics[t].id, id))
            return &i->topics[t];
    return NULL;
}

const struct partition_image *topic_partition(const struct topic_image *t, int32_t partition)
{
    /* "elsewhere" stands last and knows only broker 2. */
    const struct image *i = CONTAINER_OF((struct topic_image *)(uintptr_t)(t - (t->id.b[0] - 1)),
                                         struct image, topics[0]);

    if (partition < 0 || partition >= t->partition_count)
        return NULL;
    return str_eq_lit(t->name, "elsewhere") ? &i->there : &i->here;
}

const struct broker_image *image_broker(const struct image *i, int32_t id)
{
    return id == 1 || id == 2 ? &i->brokers[id - 1] : NULL;
}

const struct endpoint_image *node_endpoint(const struct broker_image *b, const char *listener)
{
    (void)listener;
    return b->endpoint_count > 0 ? b->endpoints : NULL;
}

static struct topic_settings *fixture_settings(const struct config *c)
{
    return &CONTAINER_OF((struct config *)(uintptr_t)c, struct fixture, config)->settings;
}

struct str config_value(const struct config *c, const struct image *i, const char *name)
{
    (void)i;
    assert_string_equal(name, "replica.selector.class");

    const char *v = CONTAINER_OF((struct config *)(uintptr_t)c, struct fixture, config)->selector;

    return v != NULL ? str_from(v) : STR_NULL;
}

void config_topic_settings(const struct config *c, const struct image *i, struct str topic,
                           struct topic_settings *out)
{
    (void)i;
    (void)topic;
    *out = *fixture_settings(c);
}

/* ---- set-up ---- */

static void on_alter_isr(void *ctx, const struct log_identity *id, const struct effect *e)
{
    (void)ctx;
    (void)id;
    (void)e;
}

static void on_offline(void *ctx, const struct log_identity *id, const char *why)
{
    (void)ctx;
    (void)id;
    (void)why;
}

static void fixture_add_topic(struct fixture *f, const char *name, int32_t partitions)
{
    int n = f->image.count++;

    f->image.topics[n] = (struct topic_image){
        .id = {{(uint8_t)(n + 1)}}, .name = str_from(name), .partition_count = partitions};
}

static struct replica *fixture_replica(struct fixture *f, int log)
{
    struct replica *r = replica_manager_find(f->node.replicas, &f->logs[log].id.topic_id,
                                             f->logs[log].id.partition);

    assert_non_null(r);
    return r;
}

static void fixture_tell_state(struct fixture *f, int log)
{
    struct replica *r = fixture_replica(f, log);

    replica_set_state(r, &f->states[log]);
    replica_unref(r);
}

static void fixture_add_log(struct fixture *f, int n)
{
    struct log *l = &f->logs[n];

    *l = (struct log){
        .refs = 1, .end = 100, .durable_end = 100, .unstable = INT64_MAX, .found = {-1, -1, -1}};
    l->id = (struct log_identity){.topic_id = {{(uint8_t)(n / 2 + 1)}}, .partition = n % 2};
    l->id.topic[0] = n / 2 == 0 ? 'a' : 'b';
    f->states[n] = (struct partition_state){
        .leader = 1,
        .leader_epoch = 5,
        .partition_epoch = 10,
        .replicas = {1},
        .isr = {1},
        .isr_broker_epochs = {1001},
        .live_broker_epochs = {1001},
        .replica_count = 1,
        .isr_count = 1,
        .effective_min_isr = 1,
    };
    replica_unref(replica_manager_add(f->node.replicas, l, 0));
    fixture_tell_state(f, n);
}

/* Broker 2 joins the ISR of the log: nothing is committed by broker 1 alone any more. */
static void fixture_add_follower(struct fixture *f, int log)
{
    struct partition_state *s = &f->states[log];

    s->partition_epoch++;
    s->replicas[1] = s->isr[1] = 2;
    s->isr_broker_epochs[1] = s->live_broker_epochs[1] = 2001;
    s->replica_count = s->isr_count = 2;
    fixture_tell_state(f, log);
}

/* It leaves again: everything is committed. */
static void fixture_drop_follower(struct fixture *f, int log)
{
    f->states[log].partition_epoch++;
    f->states[log].isr_count = 1;
    test_env_advance_ms(&f->t, 60000); /* nor is it about to join */
    fixture_tell_state(f, log);
}

static void fixture_move_leader(struct fixture *f, int log)
{
    f->states[log].partition_epoch++;
    f->states[log].leader_epoch++;
    f->states[log].leader = 2;
    fixture_tell_state(f, log);
}

/* The image forgets it first, then the replica goes, as in a node. */
static void fixture_delete_topic_b(struct fixture *f)
{
    f->image.topics[1].name = STR_EMPTY;
    f->image.topics[1].id = (struct uuid){{99}};
    f->image.index++;
    replica_manager_remove(f->node.replicas, &f->logs[2].id.topic_id, 0);
    replica_manager_remove(f->node.replicas, &f->logs[3].id.topic_id, 1);
}

static int fixture_setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    test_env_init(&f->t);
    f->t.now_ns = 1000000000;
    f->t.unix_ms = 1700000000000;
    f->image.index = 1;
    fixture_add_topic(f, "a", 2);
    fixture_add_topic(f, "b", 2);
    fixture_add_topic(f, "elsewhere", 1);
    f->image.here = (struct partition_image){.leader = 1, .leader_epoch = 5};
    f->image.there = (struct partition_image){.leader = 2, .leader_epoch = 8};
    f->image.endpoints[1] = (struct endpoint_image){.host = STR_LIT("two.example"), .port = 9093};
    for (int i = 0; i < 2; i++)
        f->image.brokers[i] = (struct broker_image){.id = i + 1,
                                                    .rack = STR_NULL,
                                                    .endpoints = &f->image.endpoints[i],
                                                    .endpoint_count = 1};
    f->settings = (struct topic_settings){
        .max_message_bytes = 1000000,
        .compression_type = RECORD_COMPRESSION_PRODUCER,
        .compression_level = COMPRESSION_LEVEL_DEFAULT,
        .timestamp_before_max_ms = INT64_MAX,
        .timestamp_after_max_ms = INT64_MAX,
        .max_decompressed_bytes = 100000000,
    };
    f->config.fetch_max_bytes = 1000000;
    f->node.env = &f->t.env;
    f->node.config = &f->config;
    f->node.replicas = replica_manager_new(&(struct replica_manager_options){
        .env = &f->t.env, .node_id = 1, .on_alter_isr = on_alter_isr, .on_offline = on_offline});
    f->node.fetch_sessions = fetch_session_cache_new(&f->t.env, 10);
    f->worker.node = &f->node;
    list_init(&f->worker.producer_id_waiters);
    f->worker.topic_settings = topic_settings_cache_new(&f->config, 1);
    f->worker.decompressor = xmalloc(sizeof *f->worker.decompressor);
    decompressor_init(f->worker.decompressor);
    for (int i = 0; i < FIXTURE_LOGS; i++)
        fixture_add_log(f, i);
    arena_init(&f->r.arena, 64 * 1024 * 1024);
    *state = f;
    return 0;
}

static int fixture_teardown(void **state)
{
    struct fixture *f = *state;

    arena_deinit(&f->r.arena);
    replica_manager_free(f->node.replicas);
    for (int i = 0; i < FIXTURE_LOGS; i++)
        assert_int_equal(f->logs[i].refs, 1);
    fetch_session_cache_free(f->node.fetch_sessions);
    topic_settings_cache_free(f->worker.topic_settings);
    decompressor_deinit(f->worker.decompressor);
    free(f->worker.decompressor);
    test_env_deinit(&f->t);
    free(f);
    return 0;
}

/* ---- running a request ---- */

/* A new request of this API; its body with the schema's defaults. The one before must have ended.
 */
static void *fixture_request(struct fixture *f, int16_t api, int16_t version)
{
    assert_null(f->posted);
    arena_deinit(&f->r.arena);
    f->r = (struct request){.worker = &f->worker, .home = &f->node, .version = version};
    f->r.api = api_find(api);
    assert_true(version >= f->r.api->version_min && version <= f->r.api->version_max);
    arena_init(&f->r.arena, 64 * 1024 * 1024);
    f->r.started_ns = f->t.now_ns;
    f->r.body = arena_alloc(&f->r.arena, f->r.api->request->size);
    codec_init(f->r.api->request, f->r.body);
    f->end = PENDING;
    f->appended = f->pool_jobs = f->posts = 0;
    f->deadline = NULL;
    return f->r.body;
}

/* Delivers what was posted to the worker. */
static void fixture_run(struct fixture *f)
{
    while (f->posted != NULL) {
        void (*resume)(struct request *) = f->posted;

        f->posted = NULL;
        resume(&f->r);
    }
}

/* The deadline, if one is set. */
static void fixture_expire(struct fixture *f)
{
    void (*deadline)(struct request *) = f->deadline;

    assert_non_null(deadline);
    f->t.now_ns = MAX(f->t.now_ns, f->deadline_ns);
    f->deadline = NULL;
    deadline(&f->r);
    fixture_run(f);
}

/* Whatever ends a request leaves no timer and no message behind. */
static void expect_end(struct fixture *f, enum fixture_end end)
{
    assert_int_equal(f->end, end);
    if (end != PENDING) {
        assert_null(f->deadline);
        assert_null(f->posted);
    }
}

#define fixture_test(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

#endif
