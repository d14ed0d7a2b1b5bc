/* One voter over the real loop and the real disk: what was answered is there after any restart. */
#include "raft-meta/raft_node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "broker/env_uv.h"
#include "raft-meta/command.h"
#include "raft-meta/raft_files.h"
#include "raft-meta/snapshot.h"

#define NODE_ID 7

struct fixture {
    struct env *env;
    struct loop *loop;
    char dir[64], raft_dir[96];
    bool noted;
    uint8_t directory;
    struct image_slot slot;
    struct raft_node *raft;
    struct errmsg why;
    enum err start_err;
    int deltas, fatals;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int ready, closed;
    struct message start, stop, ready_message, closed_message;
};

struct call {
    struct proposal proposal;
    struct fixture *f;
    bool done;
};

static void signal_count(struct fixture *f, int *count)
{
    pthread_mutex_lock(&f->lock);
    ++*count;
    pthread_cond_broadcast(&f->moved);
    pthread_mutex_unlock(&f->lock);
}

static void wait_count(struct fixture *f, const int *count, int value)
{
    pthread_mutex_lock(&f->lock);
    while (*count < value)
        pthread_cond_wait(&f->moved, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

static void on_loop_start(struct loop *loop, void *ctx)
{
    (void)loop;
    (void)ctx;
}

static void on_delta(void *ctx, const struct image_delta *delta)
{
    (void)delta;
    ((struct fixture *)ctx)->deltas++;
}

static enum err on_note(void *ctx, struct errmsg *why)
{
    (void)why;
    ((struct fixture *)ctx)->noted = true;
    return ERR_NONE;
}

static void on_fatal(void *ctx, const char *why)
{
    print_message("fatal: %s\n", why);
    ((struct fixture *)ctx)->fatals++;
}

static void on_ready(struct message *m)
{
    struct fixture *f = CONTAINER_OF(m, struct fixture, ready_message);

    signal_count(f, &f->ready);
}

static void on_closed(struct message *m)
{
    struct fixture *f = CONTAINER_OF(m, struct fixture, closed_message);

    signal_count(f, &f->closed);
}

static void on_start(struct message *m)
{
    struct fixture *f = CONTAINER_OF(m, struct fixture, start);
    struct voter voter = {.node_id = NODE_ID, .host = "127.0.0.1", .port = 9093};
    struct raft_node_options o = {
        .env = f->env,
        .loop = f->loop,
        .uv_loop = env_uv_loop(f->loop),
        .dir = f->dir,
        .node_id = NODE_ID,
        .directory_id = {{1, f->directory, 3}},
        .voters = &voter,
        .voter_count = 1,
        .cluster_id = "",
        .had_raft_files = f->noted,
        .election_timeout_ms = 500,
        .heartbeat_ms = 50,
        .slot = &f->slot,
        .on_delta = on_delta,
        .on_note_raft_files = on_note,
        .on_fatal = on_fatal,
        .ctx = f,
    };

    f->start_err = raft_node_new(&o, f->loop, &f->ready_message, &f->raft, &f->why);
    if (f->start_err != ERR_NONE)
        signal_count(f, &f->ready);
}

static enum err start(struct fixture *f)
{
    struct errmsg why;
    int before = f->ready;

    f->why.text[0] = 0;
    assert_int_equal(env_loop_new(f->env, "meta", on_loop_start, f, &f->loop, &why), ERR_NONE);
    image_slot_init(&f->slot, f->env);
    f->start.run = on_start;
    f->ready_message.run = on_ready;
    loop_post(f->loop, &f->start);
    wait_count(f, &f->ready, before + 1);
    return f->start_err;
}

static void on_stop(struct message *m)
{
    struct fixture *f = CONTAINER_OF(m, struct fixture, stop);

    raft_node_close(f->raft, f->loop, &f->closed_message);
}

static void stop(struct fixture *f)
{
    if (f->start_err == ERR_NONE) {
        int before = f->closed;

        f->stop.run = on_stop;
        f->closed_message.run = on_closed;
        loop_post(f->loop, &f->stop);
        wait_count(f, &f->closed, before + 1);
    }
    env_loop_stop(f->loop);
    image_slot_deinit(&f->slot);
    f->raft = NULL;
}

static void on_call_done(struct proposal *p)
{
    struct call *c = CONTAINER_OF(p, struct call, proposal);

    pthread_mutex_lock(&c->f->lock);
    c->done = true;
    pthread_cond_broadcast(&c->f->moved);
    pthread_mutex_unlock(&c->f->lock);
}

static void call_begin(struct fixture *f, struct call *c, MetaCommand *command, uint32_t lane)
{
    *c = (struct call){.f = f};
    c->proposal.command = command;
    c->proposal.lane = lane;
    c->proposal.loop = f->loop;
    c->proposal.done = on_call_done;
    raft_node_propose(f->raft, &c->proposal);
}

/* The whole command's error, or the first item's. */
static enum err call_wait(struct call *c)
{
    enum err e;

    pthread_mutex_lock(&c->f->lock);
    while (!c->done)
        pthread_cond_wait(&c->f->moved, &c->f->lock);
    pthread_mutex_unlock(&c->f->lock);
    e = c->proposal.err != ERR_NONE ? c->proposal.err : (enum err)c->proposal.outcome->error;
    if (e == ERR_NONE && c->proposal.outcome->n_items > 0)
        e = (enum err)c->proposal.outcome->items[0]->error;
    return e;
}

static int64_t register_and_unfence(struct fixture *f, uint8_t incarnation)
{
    uint8_t id[16] = {incarnation}, directory[16] = {9};
    ProtobufCBinaryData directories[] = {{sizeof directory, directory}};
    MetaRegisterBroker r = META_REGISTER_BROKER__INIT;
    MetaUnfenceBroker u = META_UNFENCE_BROKER__INIT;
    MetaCommand c = META_COMMAND__INIT;
    struct call call;
    int64_t epoch;

    r.node = NODE_ID;
    r.incarnation = (ProtobufCBinaryData){sizeof id, id};
    r.metadata_directory = directories[0];
    r.n_directories = 1;
    r.directories = directories;
    c.body_case = META_COMMAND__BODY_REGISTER_BROKER;
    c.register_broker = &r;
    call_begin(f, &call, &c, META_LANE_NODE);
    assert_int_equal(call_wait(&call), ERR_NONE);
    epoch = call.proposal.outcome->value;
    assert_int_equal(epoch, call.proposal.index);
    proposal_release(&call.proposal);

    u.node = NODE_ID;
    u.broker_epoch = epoch;
    c.body_case = META_COMMAND__BODY_UNFENCE_BROKER;
    c.unfence_broker = &u;
    call_begin(f, &call, &c, META_LANE_NODE);
    assert_int_equal(call_wait(&call), ERR_NONE);
    proposal_release(&call.proposal);
    return epoch;
}

struct create {
    MetaCreateTopics body;
    MetaCreateTopics__Topic topic, *topics[1];
    MetaCommand command;
    char name[32];
};

static MetaCommand *create_topic(struct create *c, const char *name, int32_t partitions)
{
    meta_create_topics__init(&c->body);
    meta_create_topics__topic__init(&c->topic);
    meta_command__init(&c->command);
    (void)snprintf(c->name, sizeof c->name, "%s", name);
    c->topic.name = c->name;
    c->topic.num_partitions = partitions;
    c->topic.replication_factor = -1;
    c->topics[0] = &c->topic;
    c->body.n_topics = 1;
    c->body.topics = c->topics;
    c->command.body_case = META_COMMAND__BODY_CREATE_TOPICS;
    c->command.create_topics = &c->body;
    return &c->command;
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);
    struct errmsg why;

    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->moved, NULL);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/raft_node_test.XXXXXX");
    if (mkdtemp(f->dir) == NULL || env_uv_new(2, &f->env, &why) != ERR_NONE)
        return -1;
    (void)snprintf(f->raft_dir, sizeof f->raft_dir, "%s/fluxmq-raft", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct errmsg why;

    (void)!disk_remove_tree(f->env, f->dir, &why);
    env_uv_free(f->env);
    free(f);
    return 0;
}

/* An empty node forms a cluster with an id of its own, and min.insync.replicas as a value of the
 * whole cluster. */
static void forms_a_cluster(void **state)
{
    struct fixture *f = *state;
    struct image *i;
    struct str value;
    struct uuid id;

    assert_int_equal(start(f), ERR_NONE);
    assert_true(f->noted);
    i = image_slot_acquire(&f->slot);
    assert_true(uuid_parse(image_cluster_id(i), &id));
    assert_true(
        image_config_get(i, CONFIG_BROKER, STR_EMPTY, STR_LIT("min.insync.replicas"), &value));
    assert_true(str_eq_lit(value, "2"));
    image_unref(i);
    stop(f);
}

/* Everything that was answered is there after a restart, byte for byte. */
static void state_survives_restart(void **state)
{
    struct fixture *f = *state;
    struct create create;
    struct call call;
    struct image *i;
    uint64_t digest;

    assert_int_equal(start(f), ERR_NONE);
    (void)register_and_unfence(f, 1);
    for (int k = 0; k < 50; k++) {
        char name[32];

        (void)snprintf(name, sizeof name, "topic-%d", k);
        call_begin(f, &call, create_topic(&create, name, 1 + k % 5), META_LANE_WORKER_FIRST);
        assert_int_equal(call_wait(&call), ERR_NONE);
        assert_int_equal(call.proposal.outcome->items[0]->replication_factor, 1);
        proposal_release(&call.proposal);
    }
    i = image_slot_acquire(&f->slot);
    assert_int_equal(image_topic_count(i), 50);
    digest = snapshot_digest(i);
    image_unref(i);
    stop(f);

    assert_int_equal(start(f), ERR_NONE);
    i = image_slot_acquire(&f->slot);
    assert_true(snapshot_digest(i) == digest);
    image_unref(i);
    stop(f);
}

/* A second incarnation takes over at once, and leads what the first one led. */
static void restart_supersedes(void **state)
{
    struct fixture *f = *state;
    const struct partition_image *p;
    struct create create;
    struct call call;
    struct image *i;
    int64_t first, second;

    assert_int_equal(start(f), ERR_NONE);
    first = register_and_unfence(f, 1);
    call_begin(f, &call, create_topic(&create, "t", 1), META_LANE_WORKER_FIRST);
    assert_int_equal(call_wait(&call), ERR_NONE);
    proposal_release(&call.proposal);
    stop(f);

    assert_int_equal(start(f), ERR_NONE);
    second = register_and_unfence(f, 2);
    assert_true(second > first);
    i = image_slot_acquire(&f->slot);
    p = topic_partition(image_topic(i, STR_LIT("t")), 0);
    assert_int_equal(p->leader, NODE_ID);
    assert_int_equal(p->leader_epoch, 2);
    image_unref(i);
    stop(f);
}

/* Many proposals at once share entries, and each gets its own outcome. */
static void concurrent_proposals_are_packed(void **state)
{
    enum { COUNT = 500 };
    struct fixture *f = *state;
    struct create *creates = xcalloc(COUNT, sizeof *creates);
    struct call *calls = xcalloc(COUNT, sizeof *calls);
    struct quorum_view before, after;

    assert_int_equal(start(f), ERR_NONE);
    (void)register_and_unfence(f, 1);
    raft_node_quorum(f->raft, &before);
    for (int k = 0; k < COUNT; k++) {
        char name[32];

        (void)snprintf(name, sizeof name, "t%d", k / 2); /* every second exists already */
        call_begin(f, &calls[k], create_topic(&creates[k], name, 1),
                   META_LANE_WORKER_FIRST + (uint32_t)(k % 3));
    }
    for (int k = 0; k < COUNT; k++) {
        enum err e = call_wait(&calls[k]);

        /* Same lane or not, the two of a pair are in one order for all. */
        assert_true(e == ERR_NONE || e == ERR_TOPIC_ALREADY_EXISTS);
        proposal_release(&calls[k].proposal);
    }
    raft_node_quorum(f->raft, &after);
    assert_int_equal(after.leader_id, NODE_ID);
    assert_true(after.voters[0].log_end_offset - before.voters[0].log_end_offset < COUNT / 2);

    struct image *i = image_slot_acquire(&f->slot);

    assert_int_equal(image_topic_count(i), COUNT / 2);
    image_unref(i);
    stop(f);
    free(creates);
    free(calls);
}

/* validate_only is judged like the real thing and leaves no trace. */
static void validate_only_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct create create;
    struct call call;
    struct image *i;

    assert_int_equal(start(f), ERR_NONE);
    (void)register_and_unfence(f, 1);
    (void)create_topic(&create, "maybe", 3);
    create.body.validate_only = true;
    call_begin(f, &call, &create.command, META_LANE_WORKER_FIRST);
    assert_int_equal(call_wait(&call), ERR_NONE);
    assert_int_equal(call.proposal.outcome->items[0]->partition_count, 3);
    proposal_release(&call.proposal);
    (void)create_topic(&create, "bad name", 3);
    create.body.validate_only = true;
    call_begin(f, &call, &create.command, META_LANE_WORKER_FIRST);
    assert_int_equal(call_wait(&call), ERR_INVALID_TOPIC_EXCEPTION);
    proposal_release(&call.proposal);
    i = image_slot_acquire(&f->slot);
    assert_int_equal(image_topic_count(i), 0);
    image_unref(i);
    stop(f);
}

/* Commands enough for a snapshot: it is taken, and the restart stands on it. */
static void snapshot_and_restart(void **state)
{
    struct fixture *f = *state;
    MetaSetConfigs__Entry entry = META_SET_CONFIGS__ENTRY__INIT, *entries[] = {&entry};
    MetaSetConfigs__Resource resource = META_SET_CONFIGS__RESOURCE__INIT, *list[] = {&resource};
    MetaSetConfigs body = META_SET_CONFIGS__INIT;
    MetaCommand command = META_COMMAND__INIT;
    struct raft_files_report r;
    char *value = xcalloc(1, 30001), key[16];
    struct image *i;
    uint64_t digest;

    memset(value, 'v', 30000);
    entry.key = key;
    entry.value = value;
    resource.type = CONFIG_GROUP;
    resource.name = "g";
    resource.n_entries = 1;
    resource.entries = entries;
    body.n_resources = 1;
    body.resources = list;
    command.body_case = META_COMMAND__BODY_SET_CONFIGS;
    command.set_configs = &body;
    assert_int_equal(start(f), ERR_NONE);
    for (int k = 0; k < 700; k++) {
        struct call call;

        (void)snprintf(key, sizeof key, "key.%d", k % 20);
        value[0] = (char)('a' + k % 26);
        call_begin(f, &call, &command, META_LANE_WORKER_FIRST);
        assert_int_equal(call_wait(&call), ERR_NONE);
        proposal_release(&call.proposal);
    }
    i = image_slot_acquire(&f->slot);
    digest = snapshot_digest(i);
    image_unref(i);
    stop(f);

    assert_int_equal(
        raft_files_check(&(struct raft_files_options){.env = f->env, .dir = f->raft_dir}, &r,
                         &f->why),
        ERR_NONE);
    assert_int_equal(r.corrupt_count, 0);
    assert_true(r.snapshot_index > 0);
    assert_int_equal(start(f), ERR_NONE);
    i = image_slot_acquire(&f->slot);
    assert_true(snapshot_digest(i) == digest);
    image_unref(i);
    stop(f);
    free(value);
}

/* A voter that has forgotten its log and its votes must not begin anew [H1]. */
static void missing_files_are_refused(void **state)
{
    struct fixture *f = *state;
    struct errmsg why;

    assert_int_equal(start(f), ERR_NONE);
    stop(f);
    assert_int_equal(disk_remove_tree(f->env, f->raft_dir, &why), ERR_NONE);
    assert_int_equal(start(f), ERR_CONFIG);
    stop(f);
}

/* ...but one that was killed between the note and its first bootstrap has forgotten nothing. */
static void unfinished_formation_begins_anew(void **state)
{
    struct fixture *f = *state;
    struct errmsg why;
    char path[128];

    f->noted = true;
    (void)snprintf(path, sizeof path, "%s/forming", f->raft_dir);
    assert_int_equal(disk_mkdir(f->env, f->raft_dir, &why), ERR_NONE);
    assert_int_equal(file_replace(f->env, path, "1\n", 2, &why), ERR_NONE);
    assert_int_equal(start(f), ERR_NONE);
    stop(f);
    assert_int_equal(start(f), ERR_NONE);
    stop(f);
}

/* ---- crashes and damage ---- */

static void copy_file(void *ctx, const struct dir_entry *e)
{
    struct fixture *f = ctx;
    char from[400], to[400];
    struct errmsg why;
    uint8_t *p;
    size_t size;

    (void)snprintf(from, sizeof from, "%s/%s", f->raft_dir, e->name);
    (void)snprintf(to, sizeof to, "%s/crash/%s", f->dir, e->name);
    assert_int_equal(file_slurp(f->env, from, 64 << 20, &p, &size, &why), ERR_NONE);
    assert_int_equal(file_replace(f->env, to, p, size, &why), ERR_NONE);
    free(p);
}

/* Stops the node and leaves the files as a kill at this moment would have. */
static void crash(struct fixture *f)
{
    struct errmsg why;
    char copy[96];

    (void)snprintf(copy, sizeof copy, "%s/crash", f->dir);
    assert_int_equal(disk_mkdir(f->env, copy, &why), ERR_NONE);
    assert_int_equal(dir_list(f->env, f->raft_dir, copy_file, f, &why), ERR_NONE);
    stop(f);
    assert_int_equal(disk_remove_tree(f->env, f->raft_dir, &why), ERR_NONE);
    assert_int_equal(disk_rename(f->env, copy, f->raft_dir, &why), ERR_NONE);
}

struct search {
    const char *prefix;
    char name[128];
};

static void search_file(void *ctx, const struct dir_entry *e)
{
    struct search *s = ctx;
    size_t size = strlen(e->name);

    if (s->name[0] == 0 && strncmp(e->name, s->prefix, strlen(s->prefix)) == 0 &&
        (size < 5 || strcmp(e->name + size - 5, ".meta") != 0))
        (void)snprintf(s->name, sizeof s->name, "%s", e->name);
}

/* The first file of that kind; `at` < 0 counts from the end of what is not zero. */
static void damage(struct fixture *f, const char *prefix, long at, const char *with, size_t count)
{
    struct search s = {.prefix = prefix};
    char path[256];
    struct errmsg why;
    uint8_t *p;
    size_t size, end;

    assert_int_equal(dir_list(f->env, f->raft_dir, search_file, &s, &why), ERR_NONE);
    assert_true(s.name[0] != 0);
    (void)snprintf(path, sizeof path, "%s/%s", f->raft_dir, s.name);
    assert_int_equal(file_slurp(f->env, path, 64 << 20, &p, &size, &why), ERR_NONE);
    for (end = size; end > 0 && p[end - 1] == 0; end--)
        ;
    end = (end + 7) & ~(size_t)7;
    memcpy(p + (at < 0 ? end + (size_t)(-at) - 8 : (size_t)at), with, count);
    assert_int_equal(file_replace(f->env, path, p, size, &why), ERR_NONE);
    free(p);
}

static void create_topics(struct fixture *f, int count)
{
    struct create create;
    struct call call;

    (void)register_and_unfence(f, 1);
    for (int k = 0; k < count; k++) {
        char name[32];

        (void)snprintf(name, sizeof name, "topic-%d", k);
        call_begin(f, &call, create_topic(&create, name, 1), META_LANE_WORKER_FIRST);
        assert_int_equal(call_wait(&call), ERR_NONE);
        proposal_release(&call.proposal);
    }
}

static int topic_count(struct fixture *f)
{
    struct image *i = image_slot_acquire(&f->slot);
    int count = image_topic_count(i);

    image_unref(i);
    return count;
}

static void print_plan(void *ctx, const char *line)
{
    (void)ctx;
    print_message("repair: %s\n", line);
}

static void repair(struct fixture *f)
{
    struct raft_files_options o = {.env = f->env, .dir = f->raft_dir};
    struct errmsg why;

    assert_int_equal(raft_files_repair(&o, false, print_plan, &why), ERR_NONE);
    assert_int_equal(raft_files_repair(&o, true, print_plan, &why), ERR_NONE);
}

/* What was answered is there after a kill. */
static void state_survives_a_kill(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(start(f), ERR_NONE);
    create_topics(f, 30);
    crash(f);
    assert_int_equal(start(f), ERR_NONE);
    assert_int_equal(topic_count(f), 30);
    stop(f);
}

/* A last write that was cut, whatever it left behind, was never answered: it is cut off. */
static void torn_tail_is_cut(void **state)
{
    static const char *const tails[] = {"garbage!garbage!", "\1\2\3\4\5\6\7\0\2\0\0\0\0\0\0",
                                        "\1\2\3\4\5\6\7\0\377\377\3\0\0\0\0"};
    struct fixture *f = *state;

    assert_int_equal(start(f), ERR_NONE);
    create_topics(f, 10);
    for (size_t k = 0; k < ARRAY_COUNT(tails); k++) {
        crash(f);
        damage(f, "open-", -8, tails[k], 16);
        assert_int_equal(start(f), ERR_NONE);
        assert_int_equal(topic_count(f), 10);
        (void)register_and_unfence(f, (uint8_t)(2 + k));
    }
    stop(f);
}

static void count_open(void *ctx, const struct dir_entry *e)
{
    uint64_t *count_and_bytes = ctx;

    if (strncmp(e->name, "open-", 5) == 0) {
        count_and_bytes[0]++;
        count_and_bytes[1] += e->size_bytes;
    }
}

/* What was made ahead of need goes before libraft reads it: a start after a kill must be short. */
static void preallocated_zeros_are_given_back(void **state)
{
    struct fixture *f = *state;
    struct raft_files_report r;
    uint64_t before[2] = {0, 0}, after[2] = {0, 0};
    struct errmsg why;

    assert_int_equal(start(f), ERR_NONE);
    create_topics(f, 10);
    crash(f);
    assert_int_equal(dir_list(f->env, f->raft_dir, count_open, before, &why), ERR_NONE);
    assert_int_equal(
        raft_files_check(
            &(struct raft_files_options){.env = f->env, .dir = f->raft_dir, .cut_torn = true}, &r,
            &why),
        ERR_NONE);
    assert_int_equal(r.corrupt_count + r.torn_count, 0);
    assert_int_equal(dir_list(f->env, f->raft_dir, count_open, after, &why), ERR_NONE);
    assert_true(before[0] > after[0] && before[1] > 1000000);
    assert_int_equal(after[0], 1);
    assert_true(after[1] > 8 && after[1] < 100000);
    assert_int_equal(start(f), ERR_NONE);
    assert_int_equal(topic_count(f), 10);
    stop(f);
}

/* A bad batch with others behind it held what was answered: named with file and offset, never cut
 * but by `fluxmq repair`, which keeps what precedes it. */
static void corrupt_batch_is_reported_and_repaired(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(start(f), ERR_NONE);
    create_topics(f, 30);
    crash(f);
    damage(f, "open-", 3000, "\377\376", 2);
    assert_int_equal(start(f), ERR_CORRUPT);
    print_message("%s\n", f->why.text);
    assert_non_null(strstr(f->why.text, "fluxmq-raft/open-1: offset "));
    assert_non_null(strstr(f->why.text, "fluxmq repair "));
    stop(f);
    repair(f);
    assert_int_equal(start(f), ERR_NONE);
    assert_in_range(topic_count(f), 1, 29);
    stop(f);
}

/* The same in a segment that is closed. */
static void corrupt_closed_segment_is_reported_and_repaired(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(start(f), ERR_NONE);
    create_topics(f, 30);
    stop(f);
    damage(f, "0000000000000002", 3000, "\377\376", 2);
    assert_int_equal(start(f), ERR_CORRUPT);
    assert_non_null(strstr(f->why.text, "offset "));
    stop(f);
    repair(f);
    assert_int_equal(start(f), ERR_NONE);
    assert_in_range(topic_count(f), 1, 29);
    stop(f);
}

static void corrupt_metadata_is_reported_and_repaired(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(start(f), ERR_NONE);
    create_topics(f, 3);
    stop(f);
    damage(f, "metadata1", 0, "\377", 1);
    assert_int_equal(start(f), ERR_CORRUPT);
    assert_non_null(strstr(f->why.text, "metadata1: offset 0"));
    stop(f);
    repair(f);
    assert_int_equal(start(f), ERR_NONE);
    assert_int_equal(topic_count(f), 3);
    stop(f);
}

/* Another node's files, or another directory's, are not ours. */
static void foreign_files_are_refused(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(start(f), ERR_NONE);
    stop(f);
    f->directory = 99;
    assert_int_equal(start(f), ERR_CONFIG);
    assert_non_null(strstr(f->why.text, "belongs to voter"));
    stop(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(forms_a_cluster, setup, teardown),
        cmocka_unit_test_setup_teardown(state_survives_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(restart_supersedes, setup, teardown),
        cmocka_unit_test_setup_teardown(concurrent_proposals_are_packed, setup, teardown),
        cmocka_unit_test_setup_teardown(validate_only_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(snapshot_and_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_files_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(unfinished_formation_begins_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(state_survives_a_kill, setup, teardown),
        cmocka_unit_test_setup_teardown(torn_tail_is_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(preallocated_zeros_are_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(corrupt_batch_is_reported_and_repaired, setup, teardown),
        cmocka_unit_test_setup_teardown(corrupt_closed_segment_is_reported_and_repaired, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(corrupt_metadata_is_reported_and_repaired, setup, teardown),
        cmocka_unit_test_setup_teardown(foreign_files_are_refused, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
