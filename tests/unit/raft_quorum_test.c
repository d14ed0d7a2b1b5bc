/* Three voters in one process, each with its own loop, directory and connections over loopback. */
#include "raft-meta/raft_node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "broker/env_uv.h"
#include "protocol/api.h"
#include "raft-meta/command.h"
#include "raft-meta/raft_node_internal.h"
#include "raft-meta/snapshot.h"

#define NODES     3
#define WAIT_S    20
#define TIME_OUT  300
#define HEARTBEAT 30
#define SESSION   900 /* ms; a heartbeat every 100 */

struct cluster;

struct member {
    struct cluster *c;
    int32_t id;
    struct loop *loop;
    char dir[96];
    const char *secret;
    uint8_t directory;   /* its directory id */
    uint8_t incarnation; /* of the process */
    bool noted, up, ready, failed, closed, began;
    struct image_slot slot;
    struct raft_node *raft;
    struct logger logger;
    struct errmsg why;
    enum err err;
    _Atomic int deltas;
    _Atomic bool serving;
    struct message start, stop, ready_message, closed_message;
    bool at_once;
};

struct cluster {
    struct env *env;
    char dir[64];
    bool sessions;
    int ports[NODES];
    struct member members[NODES];
    pthread_mutex_t lock;
    pthread_cond_t moved;
};

/* ---- waiting ---- */

static void flag(struct cluster *c, bool *what)
{
    pthread_mutex_lock(&c->lock);
    *what = true;
    pthread_cond_broadcast(&c->moved);
    pthread_mutex_unlock(&c->lock);
}

static bool flag_wait(struct cluster *c, const bool *what, int seconds)
{
    struct timespec until;
    bool ok;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&c->lock);
    while (!*what && pthread_cond_timedwait(&c->moved, &c->lock, &until) == 0)
        ;
    ok = *what;
    pthread_mutex_unlock(&c->lock);
    return ok;
}

/* What another thread brings about: asked every millisecond. */
#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        uint64_t began_ = env_now_ns(c->env);                                                      \
        while (!(condition)) {                                                                     \
            assert_true(env_now_ns(c->env) - began_ < WAIT_S * 1000000000ull);                     \
            usleep(1000);                                                                          \
        }                                                                                          \
    } while (0)

/* ---- one member ---- */

static void sink(void *ctx, const char *line, size_t size)
{
    const struct member *m = ctx;

    print_message("  node %d: %.*s", m->id, (int)size, line);
}

static void on_delta(void *ctx, const struct image_delta *delta)
{
    (void)delta;
    ((struct member *)ctx)->deltas++;
}

static enum err on_note(void *ctx, struct errmsg *why)
{
    (void)why;
    ((struct member *)ctx)->noted = true;
    return ERR_NONE;
}

static void on_fatal(void *ctx, const char *why)
{
    struct member *m = ctx;

    errmsg_set(&m->why, "%s", why);
    flag(m->c, &m->failed);
}

static void on_ready(struct message *message)
{
    struct member *m = CONTAINER_OF(message, struct member, ready_message);

    flag(m->c, &m->ready);
}

static void on_closed(struct message *message)
{
    struct member *m = CONTAINER_OF(message, struct member, closed_message);

    flag(m->c, &m->closed);
}

static void vitals(void *ctx, struct node_vitals *out)
{
    *out = (struct node_vitals){.serving = ((struct member *)ctx)->serving};
}

static void on_start(struct message *message)
{
    struct member *m = CONTAINER_OF(message, struct member, start);
    struct voter voters[NODES];
    struct raft_node_options o = {
        .env = m->c->env,
        .loop = m->loop,
        .uv_loop = env_uv_loop(m->loop),
        .logger = &m->logger,
        .dir = m->dir,
        .node_id = m->id,
        .directory_id = {{1, m->directory, (uint8_t)m->id}},
        .incarnation = {{2, m->incarnation, (uint8_t)m->id}},
        .voters = voters,
        .voter_count = NODES,
        .listen_host = "127.0.0.1",
        .listen_port = m->c->ports[m->id - 1],
        .secret = m->secret,
        .cluster_id = "",
        .had_raft_files = m->noted,
        .election_timeout_ms = TIME_OUT,
        .heartbeat_ms = HEARTBEAT,
        .session_timeout_ms = m->c->sessions ? SESSION : 0,
        .session_heartbeat_ms = 100,
        .vitals = vitals,
        .slot = &m->slot,
        .on_delta = on_delta,
        .on_note_raft_files = on_note,
        .on_fatal = on_fatal,
        .ctx = m,
    };

    for (int i = 0; i < NODES; i++)
        voters[i] = (struct voter){.node_id = i + 1, .host = "127.0.0.1", .port = m->c->ports[i]};
    m->err = raft_node_new(&o, m->loop, &m->ready_message, &m->raft, &m->why);
    flag(m->c, &m->began);
}

static void member_start(struct member *m)
{
    struct errmsg why;

    m->ready = m->failed = m->closed = m->began = false;
    m->incarnation++;
    m->deltas = 0;
    m->serving = false;
    logger_init(&m->logger, m->c->env, LOG_INFO, false, sink, m);
    assert_int_equal(env_loop_new(m->c->env, "meta", NULL, NULL, &m->loop, &why), ERR_NONE);
    image_slot_init(&m->slot, m->c->env);
    m->start.run = on_start;
    m->ready_message.run = on_ready;
    loop_post(m->loop, &m->start);
    assert_true(flag_wait(m->c, &m->began, WAIT_S));
    m->up = m->err == ERR_NONE;
}

static void on_stop(struct message *message)
{
    struct member *m = CONTAINER_OF(message, struct member, stop);

    m->raft->close_at_once = m->at_once;
    raft_node_close(m->raft, m->loop, &m->closed_message);
}

/* `at_once`: as its process would end by a kill: leadership is not handed over. */
static void member_stop(struct member *m, bool at_once)
{
    if (m->up) {
        m->at_once = at_once;
        m->stop.run = on_stop;
        m->closed_message.run = on_closed;
        loop_post(m->loop, &m->stop);
        assert_true(flag_wait(m->c, &m->closed, WAIT_S));
    }
    m->up = false;
    env_loop_stop(m->loop);
    image_slot_deinit(&m->slot);
    m->raft = NULL;
    m->loop = NULL;
}

/* An empty machine in its place. */
static void member_wipe(struct member *m)
{
    struct errmsg why;

    assert_int_equal(disk_remove_tree(m->c->env, m->dir, &why), ERR_NONE);
    assert_int_equal(disk_mkdir(m->c->env, m->dir, &why), ERR_NONE);
    m->noted = false;
    m->directory++;
}

/* ---- commands ---- */

struct call {
    struct proposal proposal;
    struct member *m;
    bool done;
    MetaCreateTopics body;
    MetaCreateTopics__Topic topic, *topics[1];
    MetaCommand command;
    char name[32];
};

static void on_call_done(struct proposal *p)
{
    struct call *call = CONTAINER_OF(p, struct call, proposal);

    flag(call->m->c, &call->done);
}

static void call_begin(struct member *m, struct call *call, MetaCommand *command, uint32_t lane,
                       uint64_t within_ms)
{
    call->m = m;
    call->done = false;
    call->proposal = (struct proposal){
        .command = command,
        .lane = lane,
        .loop = m->loop,
        .done = on_call_done,
        .deadline_ns = env_now_ns(m->c->env) + within_ms * 1000000ull,
    };
    raft_node_propose(m->raft, &call->proposal);
}

static void create_begin(struct member *m, struct call *call, const char *name, uint32_t lane)
{
    meta_create_topics__init(&call->body);
    meta_create_topics__topic__init(&call->topic);
    meta_command__init(&call->command);
    (void)snprintf(call->name, sizeof call->name, "%s", name);
    call->topic.name = call->name;
    call->topic.num_partitions = 2;
    call->topic.replication_factor = 1;
    call->topics[0] = &call->topic;
    call->body.n_topics = 1;
    call->body.topics = call->topics;
    call->command.body_case = META_COMMAND__BODY_CREATE_TOPICS;
    call->command.create_topics = &call->body;
    call_begin(m, call, &call->command, lane, WAIT_S * 1000);
}

static enum err call_wait(struct call *call)
{
    enum err e;

    assert_true(flag_wait(call->m->c, &call->done, WAIT_S + 5));
    e = call->proposal.err != ERR_NONE ? call->proposal.err
                                       : (enum err)call->proposal.outcome->error;
    if (e == ERR_NONE && call->proposal.outcome->n_items > 0)
        e = (enum err)call->proposal.outcome->items[0]->error;
    proposal_release(&call->proposal);
    return e;
}

static bool has_topic(struct member *m, const char *name)
{
    struct image *i = image_slot_acquire(&m->slot);
    bool has = image_topic(i, str_from(name)) != NULL;

    image_unref(i);
    return has;
}

/* The node that acknowledged shows what it acknowledged (P8). */
static void create(struct member *m, const char *name)
{
    struct call call;

    create_begin(m, &call, name, META_LANE_WORKER_FIRST);
    assert_int_equal(call_wait(&call), ERR_NONE);
    assert_true(has_topic(m, name));
}

static void register_node(struct member *m)
{
    uint8_t id[16] = {2, m->incarnation, (uint8_t)m->id}, directory[16] = {9, (uint8_t)m->id};
    ProtobufCBinaryData directories[] = {{sizeof directory, directory}};
    MetaRegisterBroker r = META_REGISTER_BROKER__INIT;
    MetaUnfenceBroker u = META_UNFENCE_BROKER__INIT;
    MetaCommand command = META_COMMAND__INIT;
    struct call call;

    r.node = m->id;
    r.incarnation = (ProtobufCBinaryData){sizeof id, id};
    r.metadata_directory = directories[0];
    r.n_directories = 1;
    r.directories = directories;
    command.body_case = META_COMMAND__BODY_REGISTER_BROKER;
    command.register_broker = &r;
    call_begin(m, &call, &command, META_LANE_NODE, WAIT_S * 1000);
    assert_true(flag_wait(m->c, &call.done, WAIT_S + 5));
    assert_int_equal(call.proposal.err, ERR_NONE);
    assert_int_equal(call.proposal.outcome->error, ERR_NONE);
    u.node = m->id;
    u.broker_epoch = call.proposal.outcome->value;
    assert_int_equal(u.broker_epoch, call.proposal.index);
    proposal_release(&call.proposal);
    command.body_case = META_COMMAND__BODY_UNFENCE_BROKER;
    command.unfence_broker = &u;
    call_begin(m, &call, &command, META_LANE_NODE, WAIT_S * 1000);
    assert_int_equal(call_wait(&call), ERR_NONE);
    m->serving = true;
}

/* ---- the cluster ---- */

static int setup(void **state)
{
    struct cluster *c = xcalloc(1, sizeof *c);
    struct errmsg why;

    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->moved, NULL);
    (void)snprintf(c->dir, sizeof c->dir, "/tmp/raft_quorum_test.XXXXXX");
    if (mkdtemp(c->dir) == NULL || env_uv_new(2, &c->env, &why) != ERR_NONE)
        return -1;
    for (int i = 0; i < NODES; i++) {
        struct member *m = &c->members[i];

        m->c = c;
        m->id = i + 1;
        m->directory = 1;
        c->ports[i] = 20000 + (int)(env_random_u64(c->env) % 12000);
        (void)snprintf(m->dir, sizeof m->dir, "%s/%d", c->dir, m->id);
        if (disk_mkdir(c->env, m->dir, &why) != ERR_NONE)
            return -1;
    }
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    struct cluster *c = *state;
    struct errmsg why;

    for (int i = 0; i < NODES; i++) {
        if (c->members[i].loop != NULL)
            member_stop(&c->members[i], true);
    }
    (void)!disk_remove_tree(c->env, c->dir, &why);
    env_uv_free(c->env);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->moved);
    free(c);
    return 0;
}

static void all_ready(struct cluster *c)
{
    for (int i = 0; i < NODES; i++)
        assert_true(flag_wait(c, &c->members[i].ready, WAIT_S));
}

static void start_all(struct cluster *c)
{
    for (int i = 0; i < NODES; i++)
        member_start(&c->members[i]);
    all_ready(c);
}

static int32_t leader_as_seen_by(struct member *m)
{
    struct quorum_view v;

    raft_node_quorum(m->raft, &v);
    return v.leader_id;
}

/* The member that leads and whom `by` follows. */
static struct member *leader_of(struct cluster *c, struct member *by)
{
    int32_t id = -1;

    UNTIL((id = leader_as_seen_by(by)) > 0 && c->members[id - 1].up &&
          leader_as_seen_by(&c->members[id - 1]) == id);
    return &c->members[id - 1];
}

static struct member *other_than(struct cluster *c, const struct member *a, const struct member *b)
{
    for (int i = 0; i < NODES; i++) {
        if (&c->members[i] != a && &c->members[i] != b)
            return &c->members[i];
    }
    return NULL;
}

static uint64_t digest_of(struct member *m)
{
    struct image *i = image_slot_acquire(&m->slot);
    uint64_t digest = snapshot_digest(i);

    image_unref(i);
    return digest;
}

static void all_equal(struct cluster *c)
{
    UNTIL(digest_of(&c->members[0]) == digest_of(&c->members[1]) &&
          digest_of(&c->members[1]) == digest_of(&c->members[2]));
}

/* ---- tests ---- */

static bool knows_all(const struct quorum_view *v)
{
    bool all = v->voter_count == NODES && v->leader_id > 0;

    for (int k = 0; k < v->voter_count; k++)
        all = all && v->voters[k].log_end_offset > 0 && v->voters[k].last_fetch_ms > 0 &&
              v->voters[k].last_caught_up_ms > 0;
    return all;
}

/* Three empty nodes with one voter list form one cluster, and whoever is asked to change it does:
 * the proposer sees its own change. */
static void forms_and_serves_everywhere(void **state)
{
    struct cluster *c = *state;
    struct quorum_view v;
    char name[16];

    start_all(c);
    for (int i = 0; i < NODES; i++)
        register_node(&c->members[i]);
    for (int i = 0; i < NODES; i++) {
        (void)snprintf(name, sizeof name, "t%d", i);
        create(&c->members[i], name);
    }
    all_equal(c);
    /* Every node can say who votes, who leads, and how far each is. */
    for (int i = 0; i < NODES; i++) {
        UNTIL((raft_node_quorum(c->members[i].raft, &v), knows_all(&v)));
        for (int k = 0; k < NODES; k++)
            assert_int_equal(v.voters[k].node_id, k + 1);
    }
}

/* Many at once from every node, in several lanes: each is answered once, none is applied twice. */
static void many_from_everywhere(void **state)
{
    enum { COUNT = 240 };
    struct cluster *c = *state;
    struct call *calls = xcalloc(COUNT, sizeof *calls);
    struct image *i;

    start_all(c);
    for (int k = 0; k < NODES; k++)
        register_node(&c->members[k]);
    for (int k = 0; k < COUNT; k++) {
        char name[16];

        (void)snprintf(name, sizeof name, "t%d", k);
        create_begin(&c->members[k % NODES], &calls[k], name,
                     META_LANE_WORKER_FIRST + (uint32_t)(k / NODES % 4));
    }
    for (int k = 0; k < COUNT; k++)
        assert_int_equal(call_wait(&calls[k]), ERR_NONE);
    all_equal(c);
    i = image_slot_acquire(&c->members[0].slot);
    assert_int_equal(image_topic_count(i), COUNT);
    image_unref(i);
    free(calls);
}

/* The leader dies without a word while commands are under way: the others go on, each command is
 * done once, and the dead one catches up when it comes back. */
static void leader_dies(void **state)
{
    enum { COUNT = 60 };
    struct cluster *c = *state;
    struct call *calls = xcalloc(COUNT, sizeof *calls);
    struct member *leader, *a, *b;
    uint64_t began_ns;

    start_all(c);
    for (int k = 0; k < NODES; k++)
        register_node(&c->members[k]);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    b = other_than(c, leader, a);
    for (int k = 0; k < COUNT; k++) {
        char name[16];

        (void)snprintf(name, sizeof name, "t%d", k);
        create_begin(k % 2 == 0 ? a : b, &calls[k], name,
                     META_LANE_WORKER_FIRST + (uint32_t)(k / 2 % 3));
        if (k == COUNT / 2) {
            began_ns = env_now_ns(c->env);
            member_stop(leader, true);
        }
    }
    for (int k = 0; k < COUNT; k++)
        assert_int_equal(call_wait(&calls[k]), ERR_NONE);
    print_message("  answered %.0f ms after the leader's end\n",
                  (double)(env_now_ns(c->env) - began_ns) / 1e6);
    member_start(leader);
    assert_true(flag_wait(c, &leader->ready, WAIT_S));
    assert_true(has_topic(leader, "t59")); /* ready: it has what was committed before */
    all_equal(c);
    free(calls);
}

/* A clean stop hands leadership over: no election time-out passes. */
static void clean_stop_hands_over(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a;
    uint64_t began_ns;

    start_all(c);
    for (int k = 0; k < NODES; k++)
        register_node(&c->members[k]);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    began_ns = env_now_ns(c->env);
    member_stop(leader, false);
    create(a, "after");
    print_message("  %.0f ms for a clean stop and a command\n",
                  (double)(env_now_ns(c->env) - began_ns) / 1e6);
    assert_true(env_now_ns(c->env) - began_ns < TIME_OUT * 1000000ull);
}

struct barrier_call {
    struct barrier_wait wait;
    struct cluster *c;
    bool done;
};

static void on_barrier_done(struct barrier_wait *w)
{
    struct barrier_call *b = CONTAINER_OF(w, struct barrier_call, wait);

    flag(b->c, &b->done);
}

/* After a barrier a node shows what any other had acknowledged before it was asked for. */
static void barriers_are_linearizable(void **state)
{
    struct cluster *c = *state;

    start_all(c);
    for (int k = 0; k < NODES; k++)
        register_node(&c->members[k]);
    for (int k = 0; k < 30; k++) {
        struct member *reader = &c->members[(k + 1 + k / 3 % 2) % NODES];
        struct barrier_call b = {.c = c};
        char name[16];

        (void)snprintf(name, sizeof name, "t%d", k);
        create(&c->members[k % NODES], name);
        b.wait.loop = reader->loop;
        b.wait.done = on_barrier_done;
        raft_node_barrier(reader->raft, &b.wait);
        assert_true(flag_wait(c, &b.done, WAIT_S));
        assert_int_equal(b.wait.err, ERR_NONE);
        assert_true(has_topic(reader, name));
    }
}

/* All stop and start again: the same cluster, nothing lost. */
static void survives_a_restart_of_all(void **state)
{
    struct cluster *c = *state;
    uint64_t digest;

    start_all(c);
    register_node(&c->members[0]);
    create(&c->members[0], "kept");
    all_equal(c);
    digest = digest_of(&c->members[0]);
    for (int i = 0; i < NODES; i++)
        member_stop(&c->members[i], true);
    start_all(c);
    for (int i = 0; i < NODES; i++)
        assert_true(digest_of(&c->members[i]) == digest);
}

/* [H1] An empty machine under the node id of a voter neither votes nor forms a cluster of its own:
 * with one of the other two away there is no quorum; when it returns there is, and nothing is
 * lost. */
static void wiped_voter_does_not_vote(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a, *b;
    struct call call;

    start_all(c);
    for (int k = 0; k < NODES; k++)
        register_node(&c->members[k]);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    b = other_than(c, leader, a);
    create(leader, "before");
    member_stop(a, true);
    member_wipe(a);
    member_start(a);
    create(b, "without");
    member_stop(leader, true);
    create_begin(b, &call, "alone", META_LANE_WORKER_FIRST);
    assert_false(flag_wait(c, &call.done, 3));
    assert_false(a->ready);
    assert_false(a->failed);
    assert_int_equal(a->raft->state, STATE_OUTSIDE);
    member_start(leader);
    assert_int_equal(call_wait(&call), ERR_NONE);
    assert_true(has_topic(b, "before") && has_topic(b, "without"));
    assert_false(a->ready);
}

/* Noted files that are gone are no empty machine: the node does not start. */
static void missing_files_are_refused(void **state)
{
    struct cluster *c = *state;
    struct member *m = &c->members[2];
    char path[128];
    struct errmsg why;

    start_all(c);
    member_stop(m, true);
    (void)snprintf(path, sizeof path, "%s/fluxmq-raft", m->dir);
    assert_int_equal(disk_remove_tree(c->env, path, &why), ERR_NONE);
    member_start(m);
    assert_int_equal(m->err, ERR_CONFIG);
}

/* Another secret: not heard, and the two others are a quorum. */
static void wrong_secret_is_not_heard(void **state)
{
    struct cluster *c = *state;

    for (int i = 0; i < NODES; i++)
        c->members[i].secret = "one";
    start_all(c);
    member_stop(&c->members[1], true);
    c->members[1].secret = "two";
    member_start(&c->members[1]);
    register_node(&c->members[0]);
    create(&c->members[0], "t");
    UNTIL(transport_refused(c->members[0].raft->transport) > 0);
    assert_false(c->members[1].ready);
    assert_false(has_topic(&c->members[1], "t"));
    member_stop(&c->members[1], true);
    c->members[1].secret = "one";
    member_start(&c->members[1]);
    assert_true(flag_wait(c, &c->members[1].ready, WAIT_S));
    assert_true(has_topic(&c->members[1], "t"));
}

/* A voter whose log the leader has compacted away is sent a snapshot, under load. */
static void lagging_voter_gets_a_snapshot(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a;

    start_all(c);
    for (int k = 0; k < NODES; k++)
        register_node(&c->members[k]);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    member_stop(a, true);
    for (int i = 0; i < NODES; i++) { /* a snapshot after each entry, with hardly any trail */
        if (c->members[i].up)
            c->members[i].raft->snapshot_always = true;
    }
    for (int k = 0; k < 50; k++) {
        char name[16];

        (void)snprintf(name, sizeof name, "t%d", k);
        create(leader, name);
    }
    member_start(a);
    assert_true(flag_wait(c, &a->ready, WAIT_S));
    assert_true(has_topic(a, "t49"));
    assert_true(a->raft->restored > 0);
    assert_true(a->deltas > 0);
    create(a, "more");
    all_equal(c);
}

/* ---- sessions ---- */

static int setup_sessions(void **state)
{
    if (setup(state) != 0)
        return -1;
    ((struct cluster *)*state)->sessions = true;
    return 0;
}

static void start_and_register(struct cluster *c)
{
    start_all(c);
    for (int k = 0; k < NODES; k++)
        register_node(&c->members[k]);
    all_equal(c);
}

static bool is_fenced(struct member *by, const struct member *who)
{
    struct image *i = image_slot_acquire(&by->slot);
    bool fenced = image_broker(i, who->id)->fenced;

    image_unref(i);
    return fenced;
}

static int64_t epoch_of(struct member *by, const struct member *who)
{
    struct image *i = image_slot_acquire(&by->slot);
    int64_t epoch = image_broker(i, who->id)->epoch;

    image_unref(i);
    return epoch;
}

static double ms_since(struct cluster *c, uint64_t began_ns)
{
    return (double)(env_now_ns(c->env) - began_ns) / 1e6;
}

/* Nobody is fenced or unfenced by anyone, as long as this takes. */
static void nothing_changes(struct cluster *c, struct member *by, int ms)
{
    uint64_t began_ns = env_now_ns(c->env);

    while (ms_since(c, began_ns) < ms) {
        for (int k = 0; k < NODES; k++)
            assert_false(c->members[k].up && is_fenced(by, &c->members[k]));
        usleep(2000);
    }
}

struct on_loop {
    struct message message;
    struct member *m;
    struct peer_identity who;
    int ms;
    bool done;
};

static void run_stall(struct message *message)
{
    struct on_loop *o = CONTAINER_OF(message, struct on_loop, message);

    usleep((unsigned)o->ms * 1000);
    flag(o->m->c, &o->done);
}

static void run_gone(struct message *message)
{
    struct on_loop *o = CONTAINER_OF(message, struct on_loop, message);

    node_sessions_on_gone(o->m->raft, &o->who);
    flag(o->m->c, &o->done);
}

static void post(struct member *m, struct on_loop *o, void (*run)(struct message *message))
{
    o->m = m;
    o->done = false;
    o->message.run = run;
    loop_post(m->loop, &o->message);
}

/* A process that hangs, its sockets open: there is no evidence, and its session ends in time, not
 * earlier. When it goes on it is unfenced. */
static void silent_node_is_fenced(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a;
    struct on_loop stall = {.ms = 2 * SESSION};
    uint64_t began_ns;
    double took;

    start_and_register(c);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    nothing_changes(c, leader, SESSION + 200);
    began_ns = env_now_ns(c->env);
    post(a, &stall, run_stall);
    UNTIL(is_fenced(leader, a));
    took = ms_since(c, began_ns);
    print_message("  fenced after %.0f ms of silence\n", took);
    assert_true(took > SESSION - 150 && took < SESSION + 500);
    assert_true(flag_wait(c, &stall.done, WAIT_S));
    UNTIL(!is_fenced(leader, a));
    UNTIL(!is_fenced(a, a));
}

/* A process that ends: fenced as soon as its connections and its port are gone. */
static void dead_node_is_fenced_at_once(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a;
    uint64_t began_ns;

    start_and_register(c);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    began_ns = env_now_ns(c->env);
    member_stop(a, true);
    UNTIL(is_fenced(leader, a));
    print_message("  fenced %.0f ms after the process began to end\n", ms_since(c, began_ns));
    assert_true(ms_since(c, began_ns) < SESSION / 2);
    member_start(a);
    assert_true(flag_wait(c, &a->ready, WAIT_S));
    register_node(a);
    nothing_changes(c, leader, SESSION + 200);
}

/* Evidence against a process that lives: unfenced with its next heartbeat, and not fenced by the
 * same mistake again. */
static void false_evidence(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a;
    struct on_loop gone = {.ms = 0};

    start_and_register(c);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    gone.who = (struct peer_identity){.node_id = a->id,
                                      .directory_id = a->raft->o.directory_id,
                                      .incarnation = a->raft->o.incarnation};
    post(leader, &gone, run_gone);
    UNTIL(counter_get(&sessions_counts(leader->raft->sessions)->fences) == 1);
    UNTIL(!is_fenced(leader, a));
    assert_int_equal(counter_get(&sessions_counts(leader->raft->sessions)->false_fences), 1);
    assert_true(flag_wait(c, &gone.done, WAIT_S));
    post(leader, &gone, run_gone);
    assert_true(flag_wait(c, &gone.done, WAIT_S));
    nothing_changes(c, leader, SESSION);
}

/* The controller dies: the next one fences it at once, by what it had seen before it was elected,
 * and nobody else. */
static void controller_dies(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a;
    uint64_t began_ns;

    start_and_register(c);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    began_ns = env_now_ns(c->env);
    member_stop(leader, true);
    UNTIL(is_fenced(a, leader));
    print_message("  controller fenced by the next one after %.0f ms\n", ms_since(c, began_ns));
    nothing_changes(c, a, SESSION + 300);
}

/* A fence of an earlier controller that is stored late: lifted by the present one. */
static void late_fence(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a;
    MetaFenceBroker f = META_FENCE_BROKER__INIT;
    MetaCommand command = META_COMMAND__INIT;
    struct call call;
    _Atomic int deltas;

    start_and_register(c);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    deltas = leader->deltas;
    f.node = a->id;
    f.broker_epoch = epoch_of(a, a);
    f.cause = (char *)(uintptr_t) "";
    command.body_case = META_COMMAND__BODY_FENCE_BROKER;
    command.fence_broker = &f;
    call_begin(other_than(c, leader, a), &call, &command, META_LANE_NODE, WAIT_S * 1000);
    assert_int_equal(call_wait(&call), ERR_NONE);
    UNTIL(leader->deltas > deltas && !is_fenced(leader, a));
    nothing_changes(c, leader, SESSION);
    /* And one of an earlier registration is refused. */
    f.broker_epoch--;
    call_begin(leader, &call, &command, META_LANE_WORKER_FIRST, WAIT_S * 1000);
    assert_int_equal(call_wait(&call), ERR_STALE_BROKER_EPOCH);
}

/* Restarted before anyone noticed: its new process is registered at once, and what the old one's
 * end shows afterwards is not held against it [H21b]. */
static void restart_supersedes(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a;
    uint64_t began_ns;
    int64_t epoch;

    start_and_register(c);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    epoch = epoch_of(leader, a);
    began_ns = env_now_ns(c->env);
    member_stop(a, true);
    member_start(a);
    assert_true(flag_wait(c, &a->ready, WAIT_S));
    register_node(a);
    print_message("  back after %.0f ms\n", ms_since(c, began_ns));
    assert_true(epoch_of(a, a) > epoch);
    nothing_changes(c, a, SESSION + 300);
}

/* Another process registers with this one's node id and directory: this one ends [H21b]. */
static void superseded_process_ends(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a, twin;

    start_and_register(c);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    memcpy(&twin, other_than(c, leader, a), sizeof twin);
    twin.id = a->id;
    twin.incarnation = (uint8_t)(a->incarnation + 1);
    register_node(&twin);
    assert_true(flag_wait(c, &a->failed, WAIT_S));
    assert_non_null(strstr(a->why.text, "another process has registered"));
    create(other_than(c, leader, a), "goes-on");
}

/* [H30] Controlled shutdown: leaders move, every ISR is left, and nobody unfences or elects it. */
static void controlled_shutdown(void **state)
{
    struct cluster *c = *state;
    struct member *leader, *a;
    MetaControlledShutdown s = META_CONTROLLED_SHUTDOWN__INIT;
    MetaCommand command = META_COMMAND__INIT;
    struct call call;
    struct image *i;
    int led = 0;

    start_and_register(c);
    leader = leader_of(c, &c->members[0]);
    a = other_than(c, leader, NULL);
    create_begin(a, &call, "replicated", META_LANE_WORKER_FIRST);
    assert_int_equal(call_wait(&call), ERR_NONE);
    create_begin(a, &call, "three", META_LANE_WORKER_FIRST);
    assert_int_equal(call_wait(&call), ERR_NONE);
    call.topic.replication_factor = 3;
    call.topic.num_partitions = 12;
    (void)snprintf(call.name, sizeof call.name, "spread");
    call_begin(a, &call, &call.command, META_LANE_WORKER_FIRST, WAIT_S * 1000);
    assert_int_equal(call_wait(&call), ERR_NONE);
    i = image_slot_acquire(&a->slot);
    for (int p = 0; p < 12; p++)
        led += topic_partition(image_topic(i, STR_LIT("spread")), p)->leader == a->id;
    image_unref(i);
    assert_int_equal(led, 4);

    s.node = a->id;
    s.broker_epoch = epoch_of(a, a);
    command.body_case = META_COMMAND__BODY_CONTROLLED_SHUTDOWN;
    command.controlled_shutdown = &s;
    call_begin(a, &call, &command, META_LANE_NODE, WAIT_S * 1000);
    assert_int_equal(call_wait(&call), ERR_NONE);
    i = image_slot_acquire(&a->slot); /* its own image: it knows when it may go */
    assert_true(image_broker(i, a->id)->in_controlled_shutdown);
    for (int p = 0; p < 12; p++) {
        const struct partition_image *x = topic_partition(image_topic(i, STR_LIT("spread")), p);

        assert_true(x->leader > 0 && x->leader != a->id);
        assert_int_equal(x->isr_count, 2);
        for (int k = 0; k < 2; k++)
            assert_int_not_equal(x->isr[k], a->id);
    }
    image_unref(i);
    member_stop(a, false);
    UNTIL(is_fenced(leader, a));
}

/* ---- hostile peers ---- */

static int dial_port(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* Sends, and reads until the node closes; what it said is in `said`. */
static size_t speak(int port, const void *bytes, size_t size, uint8_t *said, size_t said_max)
{
    int fd = dial_port(port);
    size_t n = 0;
    ssize_t got;

    assert_int_equal(write(fd, bytes, size), size);
    while (n < said_max && (got = read(fd, said + n, said_max - n)) > 0)
        n += (size_t)got;
    close(fd);
    return n;
}

static size_t take(struct ioqueue *q, uint8_t *out)
{
    size_t n = 0;

    for (size_t i = 0; i < q->count; i++) {
        const struct ioslice *s = ioqueue_at(q, i);

        memcpy(out + n, s->buf->ptr + s->offset, s->len);
        n += s->len;
    }
    ioqueue_deinit(q);
    return n;
}

static size_t hello_frame(uint8_t *out, int32_t node_id, uint8_t directory, const char *cluster,
                          int16_t version)
{
    uint8_t nonce[32] = {7};
    struct peer_hello h;
    struct ioqueue payload, frames;

    codec_init(&peer_hello_desc, &h);
    h.protocol_version = version;
    h.cluster_id = str_from(cluster);
    h.node_id = node_id;
    h.directory_id = (struct uuid){{9, directory, 9}};
    h.nonce = (struct bytes){nonce, sizeof nonce};
    ioqueue_init(&payload);
    ioqueue_init(&frames);
    assert_int_equal(codec_encode(&peer_hello_desc, 0, &h, &payload), ERR_NONE);
    peer_frame_write(PEER_HELLO, &payload, &frames);
    ioqueue_deinit(&payload);
    return take(&frames, out);
}

/* A proof without a secret: empty. */
static size_t proof_frame(uint8_t *out)
{
    uint8_t nothing[1] = {0};
    struct peer_proof p;
    struct ioqueue payload, frames;

    codec_init(&peer_proof_desc, &p);
    p.mac = (struct bytes){nothing, 0};
    ioqueue_init(&payload);
    ioqueue_init(&frames);
    assert_int_equal(codec_encode(&peer_proof_desc, 0, &p, &payload), ERR_NONE);
    peer_frame_write(PEER_PROOF, &payload, &frames);
    ioqueue_deinit(&payload);
    return take(&frames, out);
}

static size_t frame_of(uint8_t *out, enum peer_frame_type type, const void *payload, size_t size)
{
    struct ioqueue q, frames;

    ioqueue_init(&q);
    ioqueue_init(&frames);
    if (size > 0)
        ioqueue_push_copy(&q, payload, size);
    peer_frame_write(type, &q, &frames);
    ioqueue_deinit(&q);
    return take(&frames, out);
}

/* A RequestVote with a term far above: `from` and `to` as it likes. */
static size_t vote_frame(uint8_t *out, raft_id from, const struct uuid *from_directory, raft_id to,
                         const struct uuid *to_directory)
{
    struct wire_envelope e = {
        .from = from, .to = to, .from_directory = *from_directory, .to_directory = *to_directory};
    struct raft_message m = {.type = RAFT_IO_REQUEST_VOTE};
    struct ioqueue frames;

    m.request_vote = (struct raft_request_vote){.term = 1000,
                                                .candidate_id = from,
                                                .last_log_index = 1000,
                                                .last_log_term = 999,
                                                .disrupt_leader = true};
    ioqueue_init(&frames);
    wire_encode(&e, &m, &frames);
    return take(&frames, out);
}

/* Whatever comes to the port: refused and counted, no term changes, the cluster goes on. */
static void hostile_bytes_change_nothing(void **state)
{
    static const uint8_t kafka[] = {0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 255, 255};
    struct cluster *c = *state;
    struct uuid own = {{1, 1, 1}}, liar = {{9, 9, 9}};
    struct quorum_view before, after;
    uint8_t bytes[8192], said[8192];
    uint64_t refused = 0;
    int port, round = 0;
    size_t n, header;

    start_all(c);
    for (int k = 0; k < NODES; k++)
        register_node(&c->members[k]);
    raft_node_quorum(c->members[0].raft, &before);
    port = c->ports[0];
#define REFUSED_ONCE_MORE()                                                                        \
    do {                                                                                           \
        UNTIL(transport_refused(c->members[0].raft->transport) > refused);                         \
        refused = transport_refused(c->members[0].raft->transport);                                \
        round++;                                                                                   \
    } while (0)
    (void)speak(port, "GET / HTTP/1.0\r\n\r\n", 18, said, sizeof said);
    REFUSED_ONCE_MORE();
    assert_int_equal(speak(port, kafka, sizeof kafka, said, sizeof said), 0);
    REFUSED_ONCE_MORE();
    /* A frame of ours, but its sender has not said who he is. */
    n = vote_frame(bytes, 2, &liar, 1, &own);
    assert_true(speak(port, bytes, n, said, sizeof said) > 0);
    REFUSED_ONCE_MORE();
    /* A length that no hello has; a checksum that is wrong; a version of the future. */
    n = hello_frame(bytes, 9, 9, "", 1);
    store_be32(bytes + 8, 0x7fffffff);
    (void)speak(port, bytes, n, said, sizeof said);
    REFUSED_ONCE_MORE();
    n = hello_frame(bytes, 9, 9, "", 1);
    bytes[n - 1] ^= 1;
    (void)speak(port, bytes, n, said, sizeof said);
    REFUSED_ONCE_MORE();
    n = hello_frame(bytes, 9, 9, "", 77);
    (void)speak(port, bytes, n, said, sizeof said);
    REFUSED_ONCE_MORE();
    /* Another cluster; our own id; the id of a voter that is connected, with another directory. */
    n = hello_frame(bytes, 9, 9, "elsewhere", 1);
    (void)speak(port, bytes, n, said, sizeof said);
    REFUSED_ONCE_MORE();
    n = hello_frame(bytes, 1, 9, "", 1);
    (void)speak(port, bytes, n, said, sizeof said);
    REFUSED_ONCE_MORE();
    n = hello_frame(bytes, 2, 9, "", 1);
    (void)speak(port, bytes, n, said, sizeof said);
    REFUSED_ONCE_MORE();
    /* One who introduces himself properly, under an id of his own, and then lies about raft: every
     * pair he may claim. What does not concern us is dropped; what cannot be read ends it. */
    header = hello_frame(bytes, 9, 9, "", 1);
    header += proof_frame(bytes + header);
    for (raft_id from = 1; from <= 4; from++) {
        n = header;
        n += vote_frame(bytes + n, from, &liar, 1, &own);
        n += vote_frame(bytes + n, from, &(struct uuid){{1, 1, 2}}, 1, &own);
        n += frame_of(bytes + n, PEER_APPEND_ENTRIES, said, 100);
        (void)speak(port, bytes, n, said, sizeof said);
        REFUSED_ONCE_MORE();
    }
    n = header;
    n += frame_of(bytes + n, PEER_SNAPSHOT_CHUNK, said, 100);
    (void)speak(port, bytes, n, said, sizeof said);
    REFUSED_ONCE_MORE();
    n = header;
    n += frame_of(bytes + n, PEER_FORWARD, said, 100);
    (void)speak(port, bytes, n, said, sizeof said);
    REFUSED_ONCE_MORE();
    n = header;
    n += frame_of(bytes + n, PEER_FORWARD_RESULT, said, 100); /* an answer to nothing */
    (void)speak(port, bytes, n, said, sizeof said);
    REFUSED_ONCE_MORE();
#undef REFUSED_ONCE_MORE
    create(&c->members[1], "still");
    raft_node_quorum(c->members[0].raft, &after);
    assert_int_equal(after.leader_epoch, before.leader_epoch);
    assert_int_equal(after.leader_id, before.leader_id);
    assert_int_equal(round, 16);
}

/* What a peer with the secret once said is worth nothing on another connection. */
static void replay_is_refused(void **state)
{
    struct cluster *c = *state;
    uint8_t bytes[8192], said[8192];
    uint64_t refused;
    size_t n, used;

    for (int i = 0; i < NODES; i++)
        c->members[i].secret = "one";
    start_all(c);
    /* The node answers a hello with its own and its proof; both are sent back to it. */
    n = hello_frame(bytes, 9, 9, "", 1);
    {
        int fd = dial_port(c->ports[0]);

        assert_int_equal(write(fd, bytes, n), n);
        for (used = 0; used < PEER_FRAME_HEADER_SIZE ||
                       used < 2 * PEER_FRAME_HEADER_SIZE + load_be32(said + 8) + 34;)
            used += (size_t)read(fd, said + used, sizeof said - used);
        close(fd);
    }
    used = PEER_FRAME_HEADER_SIZE + load_be32(said + 8);
    refused = transport_refused(c->members[0].raft->transport);
    memcpy(bytes + n, said + used, PEER_FRAME_HEADER_SIZE + load_be32(said + used + 8));
    (void)speak(c->ports[0], bytes, n + PEER_FRAME_HEADER_SIZE + load_be32(said + used + 8), said,
                sizeof said);
    UNTIL(transport_refused(c->members[0].raft->transport) > refused);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(forms_and_serves_everywhere),
        TEST(many_from_everywhere),
        TEST(leader_dies),
        TEST(clean_stop_hands_over),
        TEST(barriers_are_linearizable),
        TEST(survives_a_restart_of_all),
        TEST(wiped_voter_does_not_vote),
        TEST(missing_files_are_refused),
        TEST(wrong_secret_is_not_heard),
        TEST(lagging_voter_gets_a_snapshot),
        TEST(hostile_bytes_change_nothing),
        TEST(replay_is_refused),
#define SESSIONS(f) cmocka_unit_test_setup_teardown(f, setup_sessions, teardown)
        SESSIONS(silent_node_is_fenced),
        SESSIONS(dead_node_is_fenced_at_once),
        SESSIONS(false_evidence),
        SESSIONS(controller_dies),
        SESSIONS(late_fence),
        SESSIONS(restart_supersedes),
        SESSIONS(superseded_process_ends),
        SESSIONS(controlled_shutdown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
