/* The shell around partition and log (replication/replica_manager.h): acknowledgements, reads, and
 * that nobody waits for what has happened (R8-R10). The log is a stand-in, whose
 * numbers the tests set. */
#include "replication/replica_manager.h"
#include "tests/support/test_env.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/fake_log.h"

/* ---- a node's replica: broker 1 leads topic "t" partition 0 in epoch 5, alone ---- */

struct waiter {
    struct replica_wait wait;
    int woken;
    enum replica_event event;
};

struct fixture {
    struct test_env t;
    struct log log;
    struct replica_manager *m;
    struct replica *r;
    struct partition_state state;
    int proposals, offlines;
    struct effect proposal;
};

static void on_alter_isr(void *ctx, const struct log_identity *id, const struct effect *e)
{
    struct fixture *f = ctx;

    assert_string_equal(id->topic, "t");
    f->proposals++;
    f->proposal = *e;
}

static void on_offline(void *ctx, const struct log_identity *id, const char *why)
{
    struct fixture *f = ctx;

    assert_string_equal(id->topic, "t");
    assert_non_null(why);
    f->offlines++;
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    test_env_init(&f->t);
    f->log =
        (struct log){.id = {.topic = "t", .topic_id = {{7}}}, .refs = 1, .unstable = INT64_MAX};
    f->log.end = f->log.durable_end = 100;
    f->m = replica_manager_new(&(struct replica_manager_options){
        .env = &f->t.env,
        .node_id = 1,
        .on_alter_isr = on_alter_isr,
        .on_offline = on_offline,
        .ctx = f,
    });
    f->r = replica_manager_add(f->m, &f->log, 0);
    f->state = (struct partition_state){
        .leader = 1,
        .leader_epoch = 5,
        .partition_epoch = 10,
        .replicas = {1},
        .isr = {1},
        .isr_broker_epochs = {1000},
        .live_broker_epochs = {1000},
        .replica_count = 1,
        .isr_count = 1,
        .effective_min_isr = 1,
    };
    replica_set_state(f->r, &f->state);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    replica_unref(f->r);
    replica_manager_free(f->m);
    assert_int_equal(f->log.refs, 1);
    test_env_deinit(&f->t);
    free(f);
    return 0;
}

/* Broker 2 is in the ISR too: nothing is committed by broker 1 alone. */
static void add_follower(struct fixture *f)
{
    f->state.partition_epoch++;
    f->state.replicas[1] = f->state.isr[1] = 2;
    f->state.isr_broker_epochs[1] = f->state.live_broker_epochs[1] = 2000;
    f->state.replica_count = f->state.isr_count = f->state.effective_min_isr = 2;
    replica_set_state(f->r, &f->state);
}

static void configure(struct fixture *f, int64_t flush_messages)
{
    replica_configure(
        f->r, &(struct log_config){.flush_messages = flush_messages, .cleanup_delete = true});
}

static void made_durable(struct fixture *f)
{
    f->log.durable_end = f->log.end;
    f->log.observer.on_durable(f->log.observer.ctx, &f->log);
}

static struct replica_append_result append(struct fixture *f, int16_t acks)
{
    struct record_batch batch = {.record_count = 10};
    uint8_t bytes[1] = {0};
    struct replica_append_result out;

    assert_int_equal(
        replica_append(f->r,
                       &(struct replica_append){
                           .batch = &batch, .bytes = bytes, .acks = acks, .leader_epoch = -1},
                       &out),
        ERR_NONE);
    return out;
}

static enum err append_error(struct fixture *f, int16_t acks, int32_t leader_epoch)
{
    struct record_batch batch = {.record_count = 10};
    uint8_t bytes[1] = {0};
    struct replica_append_result out;

    return replica_append(
        f->r,
        &(struct replica_append){
            .batch = &batch, .bytes = bytes, .acks = acks, .leader_epoch = leader_epoch},
        &out);
}

static bool acknowledged(struct fixture *f, int16_t acks, int64_t required, enum err *e)
{
    return replica_acknowledged(f->r, acks, 5, required, e);
}

static void on_wake(struct replica_wait *w, enum replica_event event)
{
    struct waiter *x = CONTAINER_OF(w, struct waiter, wait);

    x->woken++;
    x->event = event;
}

static void wait_for(struct fixture *f, struct waiter *w, int64_t offset)
{
    w->wait.offset = offset;
    w->wait.wake = on_wake;
    replica_wait_add(f->r, &w->wait);
}

static enum err read_error(struct fixture *f, int64_t offset)
{
    struct replica_read_result out;
    enum err e = replica_read(f->r,
                              &(struct replica_read){.log = {.offset = offset},
                                                     .leader_epoch = -1,
                                                     .last_fetched_epoch = -1,
                                                     .replica_id = -1},
                              &out);

    ioqueue_deinit(&out.data.data);
    return e;
}

static size_t read_bytes(struct fixture *f, int64_t offset, int32_t replica_id)
{
    struct replica_read_result out;

    assert_int_equal(
        replica_read(f->r,
                     &(struct replica_read){.log = {.offset = offset, .bytes_max = 1000000},
                                            .leader_epoch = -1,
                                            .last_fetched_epoch = -1,
                                            .replica_id = replica_id},
                     &out),
        ERR_NONE);
    ioqueue_deinit(&out.data.data);
    return out.data.bytes;
}

/* ---- acknowledgements ---- */

static void one_replica_acknowledges_at_once(void **state)
{
    struct fixture *f = *state;
    struct replica_append_result a = append(f, -1);

    assert_true(a.done);
    assert_int_equal(a.log.base_offset, 100);
    assert_int_equal(a.required_offset, 110);
    assert_int_equal(a.leader_id, 1);
    assert_int_equal(a.leader_epoch, 5);
    assert_int_equal(f->log.syncs, 0);
}

/* acks=all waits for the ISR, acks=1 for nobody, acks=0 neither. */
static void acks_all_waits_for_the_isr(void **state)
{
    struct fixture *f = *state;
    enum err e = ERR_NONE;

    add_follower(f);
    assert_true(append(f, 0).done);
    assert_true(append(f, 1).done);
    assert_false(append(f, -1).done);
    assert_false(acknowledged(f, -1, 130, &e));
    assert_true(acknowledged(f, 1, 130, &e));
    assert_int_equal(e, ERR_NONE);
}

/* A duplicate waits like the first one: it may have been appended and not be safe [H17]. */
static void a_duplicate_waits_like_the_first(void **state)
{
    struct fixture *f = *state;

    add_follower(f);
    assert_false(append(f, -1).done);
    f->log.duplicate = true;

    struct replica_append_result again = append(f, -1);

    assert_true(again.log.duplicate);
    assert_false(again.done);
    assert_int_equal(again.required_offset, 110);
}

/* flush.messages=1: acknowledged once it is on the disk, for acks=1 too; a sync is asked for. */
static void durable_topics_wait_for_the_disk(void **state)
{
    struct fixture *f = *state;
    struct waiter w = {.wait = {.durable = true}};
    enum err e = ERR_NONE;

    configure(f, 1);
    assert_int_equal(f->log.syncs, 1); /* for what was there before */
    assert_false(append(f, 1).done);
    assert_false(append(f, -1).done);
    assert_int_equal(f->log.syncs, 3);
    assert_false(acknowledged(f, -1, 120, &e));
    wait_for(f, &w, 120);
    made_durable(f);
    assert_int_equal(w.woken, 1);
    assert_true(acknowledged(f, 1, 120, &e) && acknowledged(f, -1, 120, &e));
}

/* Turning it off counts at once with one replica, else with the next partition epoch [H12]. */
static void durability_ends_with_the_next_partition_epoch(void **state)
{
    struct fixture *f = *state;

    configure(f, 1);
    configure(f, INT64_MAX);
    assert_true(append(f, 1).done);
    add_follower(f);
    configure(f, 1);
    configure(f, INT64_MAX);
    replica_set_state(f->r, &f->state);
    assert_false(append(f, 1).done);
    f->state.partition_epoch++;
    replica_set_state(f->r, &f->state);
    assert_true(append(f, 1).done);
}

/* Appended, replicated, but the ISR shrank below the minimum: an error after the append. */
static void a_shrunken_isr_is_told_after_the_append(void **state)
{
    struct fixture *f = *state;
    struct replica_append_result a = append(f, -1);
    enum err e = ERR_NONE;

    f->state.partition_epoch++;
    f->state.effective_min_isr = 2;
    replica_set_state(f->r, &f->state);
    assert_true(acknowledged(f, -1, a.required_offset, &e));
    assert_int_equal(e, ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND);
    assert_int_equal(append_error(f, -1, -1), ERR_NOT_ENOUGH_REPLICAS);
    assert_int_equal(append_error(f, 1, -1), ERR_NONE);
}

static void appends_are_refused_by_role_epoch_and_disk(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(append_error(f, 1, 4), ERR_FENCED_LEADER_EPOCH);
    f->log.append_err = ERR_AGAIN;
    assert_int_equal(append_error(f, 1, -1), ERR_AGAIN);
    f->log.offline = "broken";
    assert_int_equal(append_error(f, 1, -1), ERR_KAFKA_STORAGE_ERROR);
    f->log.offline = NULL;
    f->state.leader = 2;
    f->state.leader_epoch++;
    f->state.partition_epoch++;
    replica_set_state(f->r, &f->state);
    assert_int_equal(append_error(f, 1, -1), ERR_NOT_LEADER_OR_FOLLOWER);
}

/* ---- waiting ---- */

/* Whoever waits for an offset is woken by the advance that reaches it, and by no earlier one. */
static void an_advance_wakes_whom_it_reaches(void **state)
{
    struct fixture *f = *state;
    struct waiter near = {0}, far = {0}, any = {0};

    wait_for(f, &near, 110);
    wait_for(f, &far, 111);
    wait_for(f, &any, -1);
    (void)append(f, 1);
    assert_int_equal(near.woken, 1);
    assert_int_equal(near.event, REPLICA_ADVANCED);
    assert_int_equal(far.woken, 0);
    assert_int_equal(any.woken, 1);
    (void)append(f, 1);
    assert_int_equal(near.woken, 1); /* waking unregisters */
    assert_int_equal(far.woken, 1);
}

static void who_went_away_is_not_woken(void **state)
{
    struct fixture *f = *state;
    struct waiter w = {0};

    wait_for(f, &w, 110);
    replica_wait_remove(f->r, &w.wait);
    replica_wait_remove(f->r, &w.wait); /* harmless */
    (void)append(f, 1);
    assert_int_equal(w.woken, 0);
}

/* A deposed leader, a failed disk and a deleted topic end every wait, and say how. */
static void whoever_waits_hears_of_every_end(void **state)
{
    struct fixture *f = *state;
    struct waiter a = {0}, b = {0}, c = {0};
    enum err e = ERR_NONE;

    add_follower(f);

    int64_t required = append(f, -1).required_offset;

    wait_for(f, &a, required);
    f->log.offline = "Input/output error";
    f->log.observer.on_offline(f->log.observer.ctx, &f->log, f->log.offline);
    assert_int_equal(a.woken, 1);
    assert_int_equal(a.event, REPLICA_CHANGED);
    assert_int_equal(f->offlines, 1);
    assert_true(acknowledged(f, -1, required, &e));
    assert_int_equal(e, ERR_KAFKA_STORAGE_ERROR);
    f->log.offline = NULL;

    wait_for(f, &b, required);
    f->state.leader = 2;
    f->state.leader_epoch++;
    f->state.partition_epoch++;
    replica_set_state(f->r, &f->state);
    assert_int_equal(b.woken, 1);
    assert_true(acknowledged(f, -1, required, &e));
    assert_int_equal(e, ERR_NOT_LEADER_OR_FOLLOWER);

    wait_for(f, &c, required);
    replica_manager_remove(f->m, &f->log.id.topic_id, 0);
    assert_int_equal(c.woken, 1);
    assert_true(acknowledged(f, -1, required, &e));
    assert_int_equal(e, ERR_UNKNOWN_TOPIC_OR_PARTITION);
    assert_null(replica_manager_find(f->m, &f->log.id.topic_id, 0));
}

/* Led again, but by a later epoch: what was appended in the old one is not vouched for (R8). */
static void an_acknowledgement_belongs_to_its_leader_epoch(void **state)
{
    struct fixture *f = *state;
    struct waiter w = {0};
    enum err e = ERR_NONE;

    wait_for(f, &w, 500);
    f->state.leader_epoch = 7;
    f->state.partition_epoch++;
    replica_set_state(f->r, &f->state);
    assert_int_equal(w.woken, 1);
    assert_true(acknowledged(f, -1, 100, &e));
    assert_int_equal(e, ERR_NOT_LEADER_OR_FOLLOWER);
}

/* ---- reading ---- */

/* A consumer reads up to the high watermark and no further; beyond it one waits; beyond the log's
 * end, or below its start, the offset is wrong [H18]. */
static void consumers_read_up_to_the_high_watermark(void **state)
{
    struct fixture *f = *state;

    add_follower(f);
    (void)append(f, 1);
    f->log.start = 20;
    assert_int_equal(read_bytes(f, 50, -1), 50 * FAKE_RECORD_BYTES);
    assert_int_equal(f->log.last_read.offset_limit, 100);
    assert_int_equal(read_bytes(f, 100, -1), 0);
    assert_int_equal(read_bytes(f, 105, -1), 0);
    assert_int_equal(f->log.reads, 1);
    assert_int_equal(read_error(f, 111), ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(read_error(f, 19), ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(read_bytes(f, 50, -2), 60 * FAKE_RECORD_BYTES);
}

static void read_committed_stops_at_the_last_stable_offset(void **state)
{
    struct fixture *f = *state;
    struct replica_read_result out;

    f->log.unstable = 70;
    assert_int_equal(
        replica_read(f->r,
                     &(struct replica_read){.log = {.offset = 50, .bytes_max = 1000000},
                                            .leader_epoch = -1,
                                            .last_fetched_epoch = -1,
                                            .read_committed = true,
                                            .replica_id = -1},
                     &out),
        ERR_NONE);
    assert_int_equal(out.data.bytes, 20 * FAKE_RECORD_BYTES);
    ioqueue_deinit(&out.data.data);
    assert_int_equal(out.last_stable_offset, 70);
    assert_int_equal(out.high_watermark, 100);
}

/* A reader whose last epoch ended earlier here is told where its log parted from ours (KIP-595);
 * an epoch that we do not know is an offset that we do not have. */
static void a_reader_learns_where_it_parted(void **state)
{
    struct fixture *f = *state;
    struct replica_read q = {
        .log = {.offset = 50}, .leader_epoch = 5, .last_fetched_epoch = 3, .replica_id = -1};
    struct replica_read_result out;

    f->log.epoch_end = 40;
    assert_int_equal(replica_read(f->r, &q, &out), ERR_NONE);
    assert_int_equal(out.diverging_epoch, 3);
    assert_int_equal(out.diverging_end_offset, 40);
    assert_int_equal(f->log.reads, 0);
    f->log.epoch_end = 60;
    assert_int_equal(replica_read(f->r, &q, &out), ERR_NONE);
    assert_int_equal(out.diverging_epoch, -1);
    ioqueue_deinit(&out.data.data);
    q.last_fetched_epoch = 6;
    assert_int_equal(replica_read(f->r, &q, &out), ERR_OFFSET_OUT_OF_RANGE);
}

/* ---- trimming ---- */

/* Up to the high watermark and no further; -1 means just that [H34]. */
static void records_are_deleted_up_to_the_high_watermark(void **state)
{
    struct fixture *f = *state;
    struct waiter w = {0};
    int64_t requested = 0, low = 0;

    wait_for(f, &w, -1);
    assert_int_equal(replica_delete_records(f->r, 40, &requested, &low), ERR_NONE);
    assert_int_equal(low, 40);
    assert_int_equal(w.woken, 1);
    assert_int_equal(replica_delete_records(f->r, 10, &requested, &low), ERR_NONE);
    assert_int_equal(low, 40); /* the start never moves back */
    assert_int_equal(replica_delete_records(f->r, 101, &requested, &low), ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(replica_delete_records(f->r, -2, &requested, &low), ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(replica_delete_records(f->r, -1, &requested, &low), ERR_NONE);
    assert_int_equal(requested, 100);
    assert_int_equal(low, 100);
    replica_configure(f->r, &(struct log_config){.flush_messages = INT64_MAX});
    assert_int_equal(replica_delete_records(f->r, -1, &requested, &low), ERR_POLICY_VIOLATION);
}

/* It is done when every live replica has moved. */
static void deletion_waits_for_live_replicas(void **state)
{
    struct fixture *f = *state;
    struct waiter follower = {.woken = 0}, death = {.woken = 0};
    struct replica_fetch fetch = {.replica = 2,
                                  .broker_epoch = 2000,
                                  .leader_epoch = 5,
                                  .fetch_offset = 90,
                                  .durable_end_offset = -1,
                                  .log_start_offset = 30};
    struct replica_read_result out = {.diverging_epoch = -1};
    int64_t requested = 0, low = 0;
    enum err e = ERR_NONE;

    add_follower(f);
    assert_int_equal(replica_delete_records(f->r, 40, &requested, &low), ERR_NONE);
    assert_false(replica_deleted(f->r, requested, &low, &e));
    wait_for(f, &follower, -1);
    assert_int_equal(replica_on_fetch(f->r, &fetch, -1, &out), ERR_NONE);
    assert_int_equal(follower.woken, 1);
    assert_false(replica_deleted(f->r, requested, &low, &e));
    assert_int_equal(low, 30);
    wait_for(f, &death, -1);
    f->state.live_broker_epochs[1] = -1;
    replica_set_state(f->r, &f->state);
    assert_int_equal(death.woken, 1);
    assert_true(replica_deleted(f->r, requested, &low, &e));
    assert_int_equal(low, 40);
}

/* ---- the node ---- */

/* A member that does not fetch is proposed to leave, once, and the answer comes back. */
static void lagging_members_are_proposed_to_leave(void **state)
{
    struct fixture *f = *state;

    add_follower(f);
    test_env_advance_ms(&f->t, 29000);
    replica_manager_tick(f->m, 30000000000ull);
    assert_int_equal(f->proposals, 0);
    test_env_advance_ms(&f->t, 2000);
    replica_manager_tick(f->m, 30000000000ull);
    replica_manager_tick(f->m, 30000000000ull);
    assert_int_equal(f->proposals, 1);
    assert_int_equal(f->proposal.isr_count, 1);
    replica_isr_result(f->r, f->proposal.partition_epoch, true);
    replica_manager_tick(f->m, 30000000000ull);
    assert_int_equal(f->proposals, 2);
}

static void the_same_log_is_one_replica(void **state)
{
    struct fixture *f = *state;
    struct replica *again = replica_manager_add(f->m, &f->log, 0);

    assert_ptr_equal(again, f->r);
    replica_unref(again);
    assert_int_equal(replica_manager_high_watermark(f->m, &f->log), 100);
    assert_null(replica_manager_find(f->m, &f->log.id.topic_id, 1));
}

/* A log that was found broken when it was opened is reported like one that breaks later. */
static void a_log_that_is_broken_from_the_start_is_reported(void **state)
{
    struct fixture *f = *state;
    struct log other = {.id = {.topic = "t", .topic_id = {{8}}}, .refs = 1, .offline = "corrupt"};
    struct replica *r = replica_manager_add(f->m, &other, 0);

    assert_int_equal(f->offlines, 1);
    replica_unref(r);
    replica_manager_remove(f->m, &other.id.topic_id, 0);
    assert_int_equal(other.refs, 1);
}

#define t(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* ---- following ---- */

/* Broker 2 leads in epoch 6 from now on; what is below 80 was committed. */
static void follow_broker_2(struct fixture *f)
{
    add_follower(f);
    f->state.partition_epoch++;
    f->state.leader = 2;
    f->state.leader_epoch = 6;
    replica_set_state(f->r, &f->state);
}

/* A batch of ten records at `offset`. */
static struct iobuf *batch_at(int64_t offset)
{
    struct record_batch_builder b;
    struct iobuf *out;

    record_batch_builder_init(&b, offset);
    for (int i = 0; i < 10; i++)
        record_batch_builder_add(&b, 1000, BYTES_NULL, BYTES_NULL, NULL, 0);
    assert_int_equal(record_batch_builder_finish(&b, &out), ERR_NONE);
    record_batch_builder_deinit(&b);
    return out;
}

static enum err take(struct fixture *f, int32_t epoch, int64_t expected_end, int64_t leader_hw,
                     int64_t leader_start)
{
    struct iobuf *batch = batch_at(expected_end);
    size_t taken, room;
    enum err e = replica_take(f->r,
                              &(struct replica_take){.leader_epoch = epoch,
                                                     .expected_end = expected_end,
                                                     .records = batch->ptr,
                                                     .records_size = batch->len,
                                                     .leader_high_watermark = leader_hw,
                                                     .leader_log_start_offset = leader_start},
                              &taken, &room);

    assert_int_equal(taken, e == ERR_NONE ? batch->len : 0);
    iobuf_unref(batch);
    return e;
}

static struct replica_view seen(struct fixture *f)
{
    struct replica_view v;

    replica_look(f->r, &v);
    return v;
}

/* Nothing is taken but of the present epoch's leader, where the log ends (F1); the high watermark
 * and the start follow the leader's as far as the log reaches (F5). */
static void a_follower_takes_only_what_continues_its_log(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(take(f, 5, 100, 100, 0), ERR_FENCED_LEADER_EPOCH); /* it leads */
    follow_broker_2(f);
    assert_int_equal(take(f, 5, 100, 100, 0), ERR_FENCED_LEADER_EPOCH);
    assert_int_equal(take(f, 7, 100, 100, 0), ERR_FENCED_LEADER_EPOCH);
    assert_int_equal(take(f, 6, 110, 110, 0), ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(f->log.end, 100);
    assert_int_equal(take(f, 6, 100, 500, 40), ERR_NONE);
    assert_int_equal(f->log.end, 110);
    assert_int_equal(seen(f).high_watermark, 110);
    assert_int_equal(seen(f).log_start_offset, 40);
    assert_int_equal(take(f, 6, 110, 90, 10), ERR_NONE); /* neither ever back */
    assert_int_equal(seen(f).high_watermark, 110);
    assert_int_equal(seen(f).log_start_offset, 40);
    f->log.append_err = ERR_AGAIN;
    assert_int_equal(take(f, 6, 120, 120, 0), ERR_AGAIN);
    f->log.append_err = ERR_NONE;
    f->log.offline = "gone";
    assert_int_equal(take(f, 6, 120, 120, 0), ERR_KAFKA_STORAGE_ERROR);
}

static void high_watermark_is_down(void *ctx)
{
    struct fixture *f = ctx;

    assert_int_equal(f->log.cuts, 0);
    assert_int_equal(replica_manager_high_watermark(f->m, &f->log), 60);
}

/* A cut below the high watermark lowers that first, on the disk too [H21c]; above it no checkpoint
 * is written. Those of an epoch that has passed are refused. */
static void a_cut_lowers_the_high_watermark_first(void **state)
{
    struct fixture *f = *state;

    follow_broker_2(f);
    assert_int_equal(take(f, 6, 100, 110, 0), ERR_NONE);
    assert_int_equal(seen(f).high_watermark, 110);
    f->log.on_save = high_watermark_is_down;
    f->log.ctx = f;
    assert_int_equal(replica_cut(f->r, &(struct replica_cut){.leader_epoch = 5, .offset = 60}),
                     ERR_FENCED_LEADER_EPOCH);
    assert_int_equal(f->log.cuts + f->log.saves, 0);
    assert_int_equal(replica_cut(f->r, &(struct replica_cut){.leader_epoch = 6, .offset = 60}),
                     ERR_NONE);
    assert_int_equal(f->log.saves, 1);
    assert_int_equal(f->log.cuts, 1);
    assert_int_equal(seen(f).high_watermark, 60);
    assert_int_equal(seen(f).log_end_offset, 60);
    assert_int_equal(
        replica_cut(f->r, &(struct replica_cut){.leader_epoch = 6, .offset = 700, .restart = true}),
        ERR_NONE);
    assert_int_equal(f->log.saves, 1);
    assert_int_equal(seen(f).high_watermark, 700);
    assert_int_equal(seen(f).log_start_offset, 700);
}

/* In the middle of a cut: this broker is elected, and what the deposed leader sent comes late. */
static void elected_meanwhile(void *ctx)
{
    struct fixture *f = ctx;
    struct fetch_log_view view;

    f->state.partition_epoch++;
    f->state.leader = 1;
    f->state.leader_epoch = 7;
    replica_set_state(f->r, &f->state);
    assert_int_equal(seen(f).role, PARTITION_FOLLOWER);
    assert_int_equal(f->log.begun_epoch, 5);
    assert_int_equal(take(f, 6, 100, 100, 0), ERR_FENCED_LEADER_EPOCH);
    assert_false(replica_fetch_view(f->r, &view));
}

/* Nobody leads a log that is being cut; he does as soon as that is over. */
static void a_state_waits_for_the_cut(void **state)
{
    struct fixture *f = *state;

    follow_broker_2(f);
    f->log.on_cut = elected_meanwhile;
    f->log.ctx = f;
    assert_int_equal(replica_cut(f->r, &(struct replica_cut){.leader_epoch = 6, .offset = 100}),
                     ERR_NONE);
    assert_int_equal(seen(f).role, PARTITION_LEADER);
    assert_int_equal(f->log.begun_epoch, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        t(one_replica_acknowledges_at_once),
        t(acks_all_waits_for_the_isr),
        t(a_duplicate_waits_like_the_first),
        t(durable_topics_wait_for_the_disk),
        t(durability_ends_with_the_next_partition_epoch),
        t(a_shrunken_isr_is_told_after_the_append),
        t(appends_are_refused_by_role_epoch_and_disk),
        t(an_advance_wakes_whom_it_reaches),
        t(who_went_away_is_not_woken),
        t(whoever_waits_hears_of_every_end),
        t(an_acknowledgement_belongs_to_its_leader_epoch),
        t(consumers_read_up_to_the_high_watermark),
        t(read_committed_stops_at_the_last_stable_offset),
        t(a_reader_learns_where_it_parted),
        t(records_are_deleted_up_to_the_high_watermark),
        t(deletion_waits_for_live_replicas),
        t(lagging_members_are_proposed_to_leave),
        t(the_same_log_is_one_replica),
        t(a_log_that_is_broken_from_the_start_is_reported),
        t(a_state_waits_for_the_cut),
        t(a_cut_lowers_the_high_watermark_first),
        t(a_follower_takes_only_what_continues_its_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
