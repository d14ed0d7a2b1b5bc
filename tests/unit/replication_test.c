/* Replication over real sockets, threads and disks: three nodes in one process, each with its
 * workers, logs, replicas and fetchers, follow each other by Fetch. Only the quorum is the test's:
 * who leads, who is in sync, who is registered. What must hold: what is acknowledged with acks=all
 * is on every member of the ISR; after a change of leaders, restarts and cuts all logs are equal to
 * the byte (P1, P3, P4). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/conn.h"
#include "broker/env_uv.h"
#include "broker/fetchers.h"
#include "broker/node.h"
#include "protocol/record_batch.h"
#include "tests/support/log_fixture.h"
#include "tests/unit/meta_fixture.h"

#define NODES   3
#define WAIT_MS 20000

struct cluster;

struct peer {
    struct cluster *cluster;
    int32_t id;
    int life;
    bool up;
    struct node node;
    struct config *config;
    char dir[160], dirs_setting[200], id_setting[32];
    struct loop *loop;
    struct listener *listener;
    struct fetchers *fetchers;
    struct replica *replica;
    struct worker *worker;
    struct message message;
    struct job job;
    _Atomic int told; /* steps that another thread has done */
};

struct cluster {
    struct env *env;
    char dir[64];
    struct meta *meta;
    struct peer peers[NODES + 1]; /* by id; [0] unused */
    struct uuid topic_id;
    struct log_config log;
    struct mutex lock;
    struct partition_state state GUARDED_BY(lock);
    bool changed GUARDED_BY(lock);
    int proposals GUARDED_BY(lock);
};

/* ---- broker/node.h, as far as connections and handlers ask ---- */

static struct peer *peer_of(const struct node *n)
{
    return CONTAINER_OF((struct node *)(uintptr_t)n, struct peer, node);
}

void node_worker_quiet(struct node *n)
{
    atomic_fetch_add(&peer_of(n)->told, 1);
}

int64_t node_broker_epoch(const struct node *n)
{
    return image_broker(peer_of(n)->cluster->meta->image, peer_of(n)->id)->epoch;
}

bool node_is_ready(const struct node *n)
{
    (void)n;
    return true;
}

int node_listener_port(const struct node *n, int i)
{
    (void)n;
    (void)i;
    return 0;
}

const struct endpoint_image *node_endpoint(const struct broker_image *b, const char *listener)
{
    (void)b;
    (void)listener;
    return NULL;
}

void node_after_transitions(struct node *n, struct loop *loop, struct message *m)
{
    (void)n;
    loop_post(loop, m);
}

/* ---- waiting for other threads ---- */

static void step(struct cluster *c);

#define wait_until(c, condition)                                                                   \
    do {                                                                                           \
        int left_ = WAIT_MS;                                                                       \
        while (!(condition) && left_-- > 0)                                                        \
            step(c);                                                                               \
        assert_true(condition);                                                                    \
    } while (0)

static void on_told(struct message *m)
{
    atomic_fetch_add(&CONTAINER_OF(m, struct peer, message)->told, 1);
}

/* Runs it on the loop and waits. */
static void on_loop(struct peer *p, struct loop *loop, void (*run)(struct message *m))
{
    atomic_store(&p->told, 0);
    p->message.run = run;
    loop_post(loop, &p->message);
    wait_until(p->cluster, atomic_load(&p->told) > 0);
}

/* ---- the quorum ---- */

static void on_alter_isr(void *ctx, const struct log_identity *id, const struct effect *e)
{
    struct cluster *c = ((struct peer *)ctx)->cluster;

    (void)id;
    mutex_lock(&c->lock);
    c->proposals++;
    if (e->epoch == c->state.leader_epoch && e->partition_epoch == c->state.partition_epoch) {
        c->state.isr_count = e->isr_count;
        for (int i = 0; i < e->isr_count; i++)
            c->state.isr[i] = e->isr[i];
        c->state.recovering = false;
        c->state.partition_epoch++;
        c->changed = true;
    }
    mutex_unlock(&c->lock);
}

static void on_offline(void *ctx, const struct log_identity *id, const char *why)
{
    (void)ctx;
    fprintf(stderr, "%s offline: %s\n", id->topic, why);
    abort();
}

/* The state with the epochs of who is registered now. */
static struct partition_state state_now(struct cluster *c)
{
    struct partition_state s;

    mutex_lock(&c->lock);
    s = c->state;
    mutex_unlock(&c->lock);
    for (int i = 0; i < s.replica_count; i++) {
        const struct peer *p = &c->peers[s.replicas[i]];

        s.live_broker_epochs[i] = p->up ? image_broker(c->meta->image, p->id)->epoch : -1;
    }
    for (int i = 0; i < s.isr_count; i++)
        s.isr_broker_epochs[i] = image_broker(c->meta->image, s.isr[i])->epoch;
    return s;
}

static void tell(struct cluster *c, int32_t id)
{
    struct partition_state s = state_now(c);

    if (c->peers[id].up)
        replica_set_state(c->peers[id].replica, &s);
}

static void tell_all(struct cluster *c)
{
    for (int32_t id = 1; id <= NODES; id++)
        tell(c, id);
}

static void step(struct cluster *c)
{
    mutex_lock(&c->lock);
    bool changed = c->changed;

    c->changed = false;
    mutex_unlock(&c->lock);
    if (changed)
        tell_all(c);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* In the state; told by whoever calls. */
static void elect(struct cluster *c, int32_t leader, bool unclean)
{
    mutex_lock(&c->lock);
    c->state.leader = leader;
    c->state.leader_epoch++;
    c->state.partition_epoch++;
    c->state.recovering = unclean;
    if (unclean) {
        c->state.isr_count = 1;
        c->state.isr[0] = leader;
    }
    mutex_unlock(&c->lock);
}

static void set_isr(struct cluster *c, int count, const int32_t *isr)
{
    mutex_lock(&c->lock);
    c->state.isr_count = count;
    for (int i = 0; i < count; i++)
        c->state.isr[i] = isr[i];
    c->state.partition_epoch++;
    c->changed = true;
    mutex_unlock(&c->lock);
}

static int isr_count(struct cluster *c)
{
    mutex_lock(&c->lock);
    int n = c->state.isr_count;

    mutex_unlock(&c->lock);
    return n;
}

/* ---- a node ---- */

static const char *no_environment(const char *name)
{
    (void)name;
    return NULL;
}

static int64_t high_watermark(void *ctx, struct log *l)
{
    return replica_manager_high_watermark(((struct peer *)ctx)->node.replicas, l);
}

static void open_logs(struct peer *p)
{
    struct cluster *c = p->cluster;
    const char *dirs[] = {p->dir};
    struct log_identity id = {.topic = "t", .topic_id = c->topic_id};
    struct log *l = NULL;
    struct errmsg why = {""};
    struct log_manager_options o = {
        .env = c->env,
        .dirs = dirs,
        .dir_count = 1,
        .node_id = p->id,
        .cluster_id = "cluster",
        .recovery_threads_per_dir = 1,
        .retention_check_ms = 300000,
        .checkpoint_interval_ms = 60000,
        .sync_behind_ms = 30000,
        .default_config = c->log,
        .high_watermark = high_watermark,
        .ctx = p,
    };

    assert_int_equal(log_manager_new(&o, false, &p->node.logs, &why), ERR_NONE);
    p->node.replicas = replica_manager_new(&(struct replica_manager_options){
        .env = c->env,
        .logs = p->node.logs,
        .node_id = p->id,
        .on_alter_isr = on_alter_isr,
        .on_offline = on_offline,
        .ctx = p,
    });
    atomic_store(&p->told, 0);
    p->message.run = on_told;
    log_manager_open_all(p->node.logs, p->loop, &p->message);
    wait_until(c, atomic_load(&p->told) > 0);
    p->fetchers = fetchers_new(&(struct fetchers_options){
        .env = c->env,
        .replicas = p->node.replicas,
        .node_id = p->id,
        .loops = (struct loop *[]){p->worker->loop},
        .loop_count = 1,
        .shards = 1,
        .fetch = {.max_wait_ms = 500,
                  .min_bytes = 1,
                  .response_bytes_max = 1 << 20,
                  .partition_bytes_max = 1 << 16,
                  .backoff_ns = 100000000,
                  .request_timeout_ns = 5000000000},
        .request_bytes_max = 1 << 20,
        .connect_timeout_ns = 1000000000,
    });
    log_manager_start(p->node.logs);
    assert_int_equal(log_manager_create(p->node.logs, &id, &c->log, &l, &why), ERR_NONE);
    p->replica = replica_manager_add(p->node.replicas, l, log_checkpointed_high_watermark(l));
    replica_configure(p->replica, &c->log);
    log_unref(l);
}

static void on_accept(void *ctx, struct stream *s)
{
    struct peer *p = ctx;

    assert_true(connection_limits_open(&p->node.connections, stream_peer_host(s), 100, 100));
    atomic_fetch_add(&p->worker->conn_count, 1);
    conn_open(p->worker, s, &p->config->listeners[0]);
}

static void listen_here(struct message *m)
{
    struct peer *p = CONTAINER_OF(m, struct peer, message);
    struct errmsg why = {""};

    assert_int_equal(
        env_listen(p->worker->loop,
                   &(struct listen_options){
                       .host = "127.0.0.1", .backlog = 16, .on_accept = on_accept, .ctx = p},
                   &p->listener, &why),
        ERR_NONE);
    on_told(m);
}

static void close_listener(struct message *m)
{
    listener_close(CONTAINER_OF(m, struct peer, message)->listener);
    on_told(m);
}

/* Its registration is new in each life. */
static void register_peer(struct peer *p)
{
    struct meta *m = p->cluster->meta;

    p->life++;
    assert_int_equal(meta_do(m, register_broker(p->id, (uint8_t)p->life)), ERR_NONE);
    assert_int_equal(meta_do(m, unfence(m, p->id)), ERR_NONE);
}

static void publish(struct cluster *c)
{
    for (int32_t id = 1; id <= NODES; id++) {
        struct peer *p = &c->peers[id];
        const struct broker_image *me = image_broker(c->meta->image, id);

        if (!p->up)
            continue;
        image_slot_publish(&p->node.images, c->meta->image);
        for (int32_t other = 1; other <= NODES; other++)
            if (other != id && c->peers[other].up)
                fetchers_set_peer(p->fetchers, other, "127.0.0.1",
                                  listener_port(c->peers[other].listener));
        fetchers_set_self(p->fetchers, me->epoch, &me->incarnation);
    }
}

static void start(struct peer *p)
{
    struct cluster *c = p->cluster;
    struct errmsg why = {""};
    const char *overrides[] = {p->id_setting, p->dirs_setting, "listeners=PLAINTEXT://127.0.0.1:1",
                               "metrics.listener=none", "workers=1"};
    struct config_arguments a = {.override_count = ARRAY_COUNT(overrides),
                                 .overrides = overrides,
                                 .environment = no_environment,
                                 .hostname = "here"};

    (void)snprintf(p->dir, sizeof p->dir, "%s/%d", c->dir, p->id);
    (void)snprintf(p->dirs_setting, sizeof p->dirs_setting, "log.dirs=%s", p->dir);
    (void)snprintf(p->id_setting, sizeof p->id_setting, "node.id=%d", p->id);
    if (config_load(&a, &p->config, &why) != ERR_NONE)
        fail_msg("%s", why.text);
    p->node = (struct node){.env = c->env, .config = p->config};
    image_slot_init(&p->node.images, c->env);
    connection_limits_init(&p->node.connections, c->env);
    p->node.fetch_sessions = fetch_session_cache_new(c->env, 100);
    p->node.worker_count = 1;
    p->node.workers = &p->worker;
    assert_int_equal(env_loop_new(c->env, "meta", NULL, NULL, &p->loop, &why), ERR_NONE);
    assert_int_equal(worker_new(&p->node, 0, &p->worker, &why), ERR_NONE);
    open_logs(p);
    on_loop(p, p->worker->loop, listen_here);
    p->up = true;
}

static void work_close_logs(struct job *j)
{
    struct peer *p = CONTAINER_OF(j, struct peer, job);

    log_manager_close(p->node.logs);
}

static void on_closed(struct job *j)
{
    atomic_fetch_add(&CONTAINER_OF(j, struct peer, job)->told, 1);
}

/* In the order of node.c. */
static void stop(struct peer *p)
{
    p->up = false;
    atomic_store(&p->told, 0);
    p->message.run = on_told;
    fetchers_end(p->fetchers, p->loop, &p->message);
    wait_until(p->cluster, atomic_load(&p->told) > 0);
    on_loop(p, p->worker->loop, close_listener);
    atomic_store(&p->told, 0);
    worker_close_connections(p->worker);
    wait_until(p->cluster, atomic_load(&p->told) > 0);
    atomic_store(&p->told, 0);
    p->job = (struct job){.work = work_close_logs, .done = on_closed, .report_to = p->loop};
    env_pool_submit(p->cluster->env, JOB_LONG, &p->job);
    wait_until(p->cluster, atomic_load(&p->told) > 0);
    worker_free(p->worker);
    env_loop_stop(p->loop);
    replica_unref(p->replica);
    fetch_session_cache_free(p->node.fetch_sessions);
    replica_manager_free(p->node.replicas);
    fetchers_free(p->fetchers);
    connection_limits_deinit(&p->node.connections);
    image_slot_deinit(&p->node.images);
    config_free(p->config);
}

/* ---- the cluster ---- */

static int setup(void **state)
{
    struct cluster *c = xcalloc(1, sizeof *c);
    struct errmsg why = {""};
    MetaCommand *topic;

    assert_int_equal(env_uv_new(2, &c->env, &why), ERR_NONE);
    (void)snprintf(c->dir, sizeof c->dir, "/tmp/replication_test.XXXXXX");
    assert_non_null(mkdtemp(c->dir));
    mutex_init(&c->lock, c->env);
    c->log = log_fixture_config();
    c->log.segment_bytes = 64 * 1024; /* several rolls in each test */
    c->log.index_interval_bytes = 4096;
    c->meta = meta_new(0);
    for (int32_t id = 1; id <= NODES; id++) {
        c->peers[id] = (struct peer){.cluster = c, .id = id};
        register_peer(&c->peers[id]);
    }
    topic = create_topic("t", -1, -1);
    add_manual(topic, 0, 3, 1, 2, 3);
    assert_int_equal(meta_do(c->meta, topic), ERR_NONE);
    c->topic_id = image_topic(c->meta->image, str_from("t"))->id;
    mutex_lock(&c->lock);
    c->state = (struct partition_state){
        .leader = 1,
        .leader_epoch = 1,
        .partition_epoch = 1,
        .replicas = {1, 2, 3},
        .isr = {1, 2, 3},
        .replica_count = 3,
        .isr_count = 3,
        .effective_min_isr = 2,
        .recovering_epoch = -1,
    };
    mutex_unlock(&c->lock);
    *state = c;
    for (int32_t id = 1; id <= NODES; id++)
        start(&c->peers[id]);
    publish(c);
    tell_all(c);
    return 0;
}

static int teardown(void **state)
{
    struct cluster *c = *state;
    struct errmsg why = {""};

    for (int32_t id = 1; id <= NODES; id++)
        if (c->peers[id].up)
            stop(&c->peers[id]);
    meta_free(c->meta);
    assert_int_equal(disk_remove_tree(c->env, c->dir, &why), ERR_NONE);
    mutex_deinit(&c->lock);
    env_uv_free(c->env);
    free(c);
    return 0;
}

/* ---- writing and looking ---- */

struct room {
    struct log_room_waiter waiter;
    _Atomic bool there;
};

static void on_room(struct log_room_waiter *w)
{
    atomic_store(&CONTAINER_OF(w, struct room, waiter)->there, true);
}

static struct iobuf *make_batch(char letter, int value_bytes)
{
    struct record_batch_builder b;
    struct iobuf *out;
    uint8_t *value = xmalloc((size_t)value_bytes);

    memset(value, letter, (size_t)value_bytes);
    record_batch_builder_init(&b, 0);
    for (int i = 0; i < 3; i++)
        record_batch_builder_add(&b, 1000 + i, BYTES_NULL, (struct bytes){value, value_bytes}, NULL,
                                 0);
    assert_int_equal(record_batch_builder_finish(&b, &out), ERR_NONE);
    record_batch_builder_deinit(&b);
    free(value);
    return out;
}

/* Returns the offset that must be committed for it to be acknowledged. */
static int64_t append(struct cluster *c, int32_t id, char letter, int16_t acks, int value_bytes)
{
    struct iobuf *bytes = make_batch(letter, value_bytes);
    struct replica_append_result out;
    struct record_batch batch;
    struct replica_append a = {
        .batch = &batch, .bytes = iobuf_bytes(bytes), .acks = acks, .leader_epoch = -1};
    enum err e;

    assert_int_equal(record_batch_parse(bytes->ptr, bytes->len, &batch), ERR_NONE);
    while ((e = replica_append(c->peers[id].replica, &a, &out)) == ERR_AGAIN) {
        struct room room = {.waiter = {.ready = on_room}};

        log_wait_for_room(replica_log(c->peers[id].replica), bytes->len, &room.waiter);
        wait_until(c, atomic_load(&room.there));
    }
    assert_int_equal(e, ERR_NONE);
    iobuf_unref(bytes);
    return out.required_offset;
}

static void append_many(struct cluster *c, int32_t id, char letter, int count)
{
    for (int i = 0; i < count; i++)
        (void)append(c, id, letter, 1, 100 + i * 7 % 900);
}

static struct replica_view look(struct cluster *c, int32_t id)
{
    struct replica_view v;

    replica_look(c->peers[id].replica, &v);
    return v;
}

static bool is_acknowledged(struct cluster *c, int32_t id, int64_t required)
{
    struct replica_view v = look(c, id);
    enum err e = ERR_NONE;
    bool over = replica_acknowledged(c->peers[id].replica, -1, v.leader_epoch, required, &e);

    assert_int_equal(e, ERR_NONE);
    return over;
}

/* All that are up have the leader's end, and know that it is committed. */
static bool has_settled(struct cluster *c)
{
    int64_t end = -1;

    for (int32_t id = 1; id <= NODES; id++) {
        struct replica_view v;

        if (!c->peers[id].up)
            continue;
        v = look(c, id);
        if (end < 0)
            end = v.log_end_offset;
        if (v.log_end_offset != end || v.high_watermark != end)
            return false;
    }
    return true;
}

struct content {
    uint8_t *bytes;
    size_t size;
};

static void add_slice(struct content *to, const struct ioslice *s)
{
    size_t n = s->len;

    to->bytes = xrealloc(to->bytes, to->size + s->len);
    if (s->buf->ptr != NULL)
        memcpy(to->bytes + to->size, s->buf->ptr + s->offset, s->len);
    else
        assert_int_equal(file_read(s->buf->file, s->buf->file_offset + s->offset,
                                   to->bytes + to->size, s->len, &n),
                         ERR_NONE);
    assert_int_equal(n, s->len);
    to->size += s->len;
}

/* Every byte of the log, from its start or `from` on. */
static struct content content_of(struct cluster *c, int32_t id, int64_t from)
{
    struct log *l = replica_log(c->peers[id].replica);
    struct content all = {NULL, 0};
    struct log_read_options o = {.offset = MAX(from, log_start_offset(l)),
                                 .offset_limit = INT64_MAX,
                                 .bytes_max = 1 << 20,
                                 .at_least_one = true};

    while (o.offset < log_end_offset(l)) {
        struct log_read_result r;
        size_t before = all.size;
        enum err e = log_read(l, &o, &r);
        struct record_batch_iterator it;
        struct record_batch b;

        if (e == ERR_AGAIN) {
            assert_int_equal(log_load(l, o.offset, 1 << 20), ERR_NONE);
            continue;
        }
        assert_int_equal(e, ERR_NONE);
        for (size_t i = 0; ioqueue_at(&r.data, i) != NULL; i++)
            add_slice(&all, ioqueue_at(&r.data, i));
        ioqueue_deinit(&r.data);
        it = (struct record_batch_iterator){all.bytes + before, all.size - before};
        while (record_batch_next(&it, &b) == ERR_NONE) {
            assert_true(record_batch_crc_ok(&b));
            o.offset = record_batch_last_offset(&b) + 1;
        }
        assert_int_equal(it.left, 0);
    }
    return all;
}

/* P4: to the byte, leader epochs included. */
static void expect_equal_logs(struct cluster *c)
{
    struct content first = {NULL, 0};
    int64_t from = 0;

    for (int32_t id = 1; id <= NODES; id++)
        if (c->peers[id].up)
            from = MAX(from, look(c, id).log_start_offset);
    for (int32_t id = 1; id <= NODES; id++) {
        struct content this;

        if (!c->peers[id].up)
            continue;
        this = content_of(c, id, from);
        if (first.bytes == NULL) {
            first = this;
            assert_true(first.size > 0);
            continue;
        }
        assert_int_equal(this.size, first.size);
        assert_memory_equal(this.bytes, first.bytes, first.size);
        free(this.bytes);
    }
    free(first.bytes);
}

static bool contains(struct cluster *c, int32_t id, char letter)
{
    struct content all = content_of(c, id, 0);
    char run[21];
    bool found;

    memset(run, letter, sizeof run - 1);
    run[sizeof run - 1] = '\0';
    found = all.size > 0 && memmem(all.bytes, all.size, run, sizeof run - 1) != NULL;
    free(all.bytes);
    return found;
}

/* ---- what must hold ---- */

/* What the leader appends reaches every member of the ISR, is committed then, and is acknowledged;
 * each of them knows how far it is. */
static void followers_have_what_is_acknowledged(void **state)
{
    struct cluster *c = *state;
    int64_t required;

    append_many(c, 1, 'a', 500);
    required = append(c, 1, 'b', -1, 10);
    wait_until(c, is_acknowledged(c, 1, required));
    for (int32_t id = 1; id <= NODES; id++)
        assert_true(look(c, id).log_end_offset >= required);
    wait_until(c, has_settled(c));
    expect_equal_logs(c);
    assert_int_equal(isr_count(c), 3);
}

/* A batch that is larger than what one fetch of a partition may bring comes all the same
 * (KIP-74). */
static void a_large_batch_comes_whole(void **state)
{
    struct cluster *c = *state;

    append_many(c, 1, 'a', 5);
    (void)append(c, 1, 'b', 1, 20000); /* times three; partition_bytes_max is 64 KiB */
    append_many(c, 1, 'c', 5);
    wait_until(c, has_settled(c));
    expect_equal_logs(c);
}

/* A deposed leader that went on writing cuts that off by epoch, and takes what its successor wrote
 * in its place (P3). */
static void a_deposed_leader_cuts_what_nobody_else_has(void **state)
{
    struct cluster *c = *state;
    int64_t committed;

    append_many(c, 1, 'a', 50);
    wait_until(c, has_settled(c));
    committed = look(c, 1).high_watermark;
    elect(c, 2, false);
    tell(c, 2);
    tell(c, 3);
    append_many(c, 1, 'x', 40); /* 1 does not know yet; what it writes is of epoch 1 */
    append_many(c, 2, 'b', 20);
    assert_true(contains(c, 1, 'x'));
    assert_int_equal(look(c, 1).high_watermark, committed);
    tell(c, 1);
    wait_until(c, has_settled(c));
    expect_equal_logs(c);
    for (int32_t id = 1; id <= NODES; id++) {
        assert_false(contains(c, id, 'x'));
        assert_true(contains(c, id, 'b'));
    }
}

/* Leadership goes round, each leader writes, a deposed one sometimes writes on. */
static void leadership_goes_round(void **state)
{
    struct cluster *c = *state;

    for (int round = 0; round < 9; round++) {
        int32_t old = round % 3 + 1, new = (round + 1) % 3 + 1;
        int64_t required;

        append_many(c, old, 'a', 10 + round);
        required = append(c, old, 'k', -1, 30);
        wait_until(c, is_acknowledged(c, old, required));
        elect(c, new, false);
        tell(c, new);
        if (round % 2 == 0)
            append_many(c, old, 'x', 5);
        append_many(c, new, 'b', 5);
        tell_all(c);
        required = append(c, new, 'k', -1, 30);
        wait_until(c, is_acknowledged(c, new, required));
    }
    wait_until(c, has_settled(c));
    expect_equal_logs(c);
    assert_false(contains(c, 1, 'x'));
}

/* A follower that was away is in the ISR again once it has what it missed, under its new
 * registration. */
static void a_follower_that_was_away_catches_up(void **state)
{
    struct cluster *c = *state;

    append_many(c, 1, 'a', 100);
    wait_until(c, has_settled(c));
    stop(&c->peers[3]);
    set_isr(c, 2, (int32_t[]){1, 2});
    append_many(c, 1, 'b', 300);
    wait_until(c, has_settled(c)); /* 1 and 2 */
    register_peer(&c->peers[3]);
    start(&c->peers[3]);
    publish(c);
    tell_all(c);
    wait_until(c, isr_count(c) == 3 && has_settled(c));
    expect_equal_logs(c);
}

/* One that was away while the leader's log lost its front begins anew where that begins. */
static void a_follower_behind_the_leaders_start_begins_anew(void **state)
{
    struct cluster *c = *state;
    int64_t requested, low, start_offset;

    append_many(c, 1, 'a', 100);
    wait_until(c, has_settled(c));
    stop(&c->peers[3]);
    set_isr(c, 2, (int32_t[]){1, 2});
    append_many(c, 1, 'b', 300);
    wait_until(c, has_settled(c));
    start_offset = 700; /* within a batch */
    assert_int_equal(replica_delete_records(c->peers[1].replica, start_offset, &requested, &low),
                     ERR_NONE);
    register_peer(&c->peers[3]);
    start(&c->peers[3]);
    publish(c);
    tell_all(c);
    wait_until(c, isr_count(c) == 3 && has_settled(c));
    wait_until(c, look(c, 3).log_start_offset == start_offset);
    expect_equal_logs(c);
}

/* DeleteRecords is over when every live follower has followed [H34]. */
static void deleted_records_go_everywhere(void **state)
{
    struct cluster *c = *state;
    int64_t requested, low = -1;
    enum err e = ERR_NONE;

    append_many(c, 1, 'a', 100);
    wait_until(c, has_settled(c));
    assert_int_equal(replica_delete_records(c->peers[1].replica, 150, &requested, &low), ERR_NONE);
    (void)append(c, 1, 'b', 1, 10); /* the news comes with an answer */
    wait_until(c, replica_deleted(c->peers[1].replica, requested, &low, &e));
    assert_int_equal(e, ERR_NONE);
    for (int32_t id = 1; id <= NODES; id++)
        assert_int_equal(look(c, id).log_start_offset, 150);
}

/* An unclean leader lacks what was committed: the others cut below their high watermark, and say
 * so [H21c]. */
static void an_unclean_leader_takes_the_others_back(void **state)
{
    struct cluster *c = *state;
    int64_t before;

    append_many(c, 1, 'a', 100);
    wait_until(c, has_settled(c));
    stop(&c->peers[3]);
    set_isr(c, 2, (int32_t[]){1, 2});
    append_many(c, 1, 'b', 100);
    wait_until(c, has_settled(c));
    before = look(c, 1).high_watermark;
    register_peer(&c->peers[3]);
    start(&c->peers[3]);
    elect(c, 3, true);
    publish(c);
    tell_all(c);
    append_many(c, 3, 'c', 10);
    wait_until(c, isr_count(c) == 3 && has_settled(c));
    expect_equal_logs(c);
    assert_true(look(c, 1).high_watermark < before);
    assert_false(contains(c, 1, 'b'));
}

/* Where durable ends count, what is acknowledged is on the disk of every member [H12]; and the end
 * of a sync does not wait for the long poll that is under way. */
static void acknowledged_is_durable_everywhere(void **state)
{
    struct cluster *c = *state;
    uint64_t began_ns;

    c->log.flush_messages = 1;
    for (int32_t id = 1; id <= NODES; id++)
        replica_configure(c->peers[id].replica, &c->log);
    began_ns = env_now_ns(c->env);
    for (int i = 0; i < 20; i++) {
        int64_t required = append(c, 1, 'a', -1, 200);

        wait_until(c, is_acknowledged(c, 1, required));
        for (int32_t id = 1; id <= NODES; id++)
            assert_true(log_durable_end_offset(replica_log(c->peers[id].replica)) >= required);
    }
    assert_true(env_now_ns(c->env) - began_ns < 20 * 400000000ull); /* max.wait is 500 ms */
    wait_until(c, has_settled(c));
    expect_equal_logs(c);
}

int main(void)
{
#define t(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        t(followers_have_what_is_acknowledged),
        t(a_large_batch_comes_whole),
        t(a_deposed_leader_cuts_what_nobody_else_has),
        t(leadership_goes_round),
        t(a_follower_that_was_away_catches_up),
        t(a_follower_behind_the_leaders_start_begins_anew),
        t(deleted_records_go_everywhere),
        t(an_unclean_leader_takes_the_others_back),
        t(acknowledged_is_durable_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
