/* ListOffsets, OffsetForLeaderEpoch, DeleteRecords and InitProducerId: the small handlers of the
 * data path. */
#include "protocol/record_batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/handler_fixture.h"

/* ---- ListOffsets ---- */

static struct list_offsets_request *list_request(struct fixture *f, int16_t version)
{
    struct list_offsets_request *in = fixture_request(f, API_LIST_OFFSETS, version);

    in->replica_id = -1;
    assert_true(CODEC_ARRAY(&f->r.arena, in->topics, 8, list_offsets_request_list_offsets_topic));
    in->topics.n = 0;
    return in;
}

static struct list_offsets_request_list_offsets_partition *ask(struct fixture *f, const char *topic,
                                                               int32_t partition, int64_t timestamp)
{
    struct list_offsets_request *in = f->r.body;
    struct list_offsets_request_list_offsets_topic *t = &in->topics.v[in->topics.n++];

    t->name = str_from(topic);
    assert_true(
        CODEC_ARRAY(&f->r.arena, t->partitions, 1, list_offsets_request_list_offsets_partition));
    t->partitions.v[0].partition_index = partition;
    t->partitions.v[0].timestamp = timestamp;
    return &t->partitions.v[0];
}

static void list(struct fixture *f)
{
    handle_list_offsets(&f->r);
    fixture_run(f);
    expect_end(f, SENT);
}

static void expect_offset(struct fixture *f, int i, enum err e, int64_t timestamp, int64_t offset,
                          int32_t epoch)
{
    const struct list_offsets_response *out = f->r.response;
    const struct list_offsets_response_list_offsets_partition_response *p =
        &out->topics.v[i].partitions.v[0];

    assert_int_equal(p->error_code, e);
    assert_int_equal(p->timestamp, timestamp);
    assert_int_equal(p->offset, offset);
    assert_int_equal(p->leader_epoch, epoch);
}

static void both_ends_are_answered_without_looking(void **state)
{
    struct fixture *f = *state;

    f->logs[0].start = 20;
    list_request(f, 11);
    ask(f, "a", 0, -1);
    ask(f, "a", 1, -2);
    ask(f, "b", 0, -4);
    list(f);
    expect_offset(f, 0, ERR_NONE, -1, 100, 5);
    expect_offset(f, 1, ERR_NONE, -1, 0, 0);
    expect_offset(f, 2, ERR_NONE, -1, 0, 0);
    assert_int_equal(f->pool_jobs, 0);
}

/* There is no tiered storage: such an offset does not exist. */
static void tiered_offsets_do_not_exist(void **state)
{
    struct fixture *f = *state;

    list_request(f, 11);
    ask(f, "a", 0, -5);
    ask(f, "a", 1, -6);
    list(f);
    expect_offset(f, 0, ERR_NONE, -1, -1, -1);
    expect_offset(f, 1, ERR_NONE, -1, -1, -1);
}

/* Each special timestamp came with a version; before it, and for numbers that mean nothing, the
 * partition is refused. */
static void special_timestamps_came_with_versions(void **state)
{
    static const int16_t first_version[] = {0, 1, 1, 7, 8, 9, 11};
    struct fixture *f = *state;

    for (int timestamp = 3; timestamp <= 6; timestamp++) {
        list_request(f, (int16_t)(first_version[timestamp] - 1));
        ask(f, "a", 0, -timestamp);
        list(f);
        expect_offset(f, 0, ERR_UNSUPPORTED_VERSION, -1, -1, -1);
        list_request(f, first_version[timestamp]);
        ask(f, "a", 0, -timestamp);
        list(f);
        expect_offset(f, 0, ERR_NONE, -1, timestamp == 4 ? 0 : -1, timestamp == 4 ? 0 : -1);
    }
    list_request(f, 11);
    ask(f, "a", 0, -7);
    list(f);
    expect_offset(f, 0, ERR_UNSUPPORTED_VERSION, -1, -1, -1);
}

/* Looking into records is done on the pool, all partitions in one job; what lies beyond the
 * readable end is not found [H33]. */
static void searches_go_to_the_pool(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 3; i++)
        f->logs[i].found = (struct timestamp_offset){7000, 42, 3};
    f->logs[2].unstable = 42;
    list_request(f, 7)->isolation_level = 1;
    ask(f, "a", 0, 6000);
    ask(f, "a", 1, -3);
    ask(f, "b", 0, 6000);
    ask(f, "a", 0, 8000)->partition_index = 7;
    list(f);
    assert_int_equal(f->pool_jobs, 1);
    expect_offset(f, 0, ERR_NONE, 7000, 42, 3);
    expect_offset(f, 1, ERR_NONE, 7000, 42, 3);
    expect_offset(f, 2, ERR_NONE, -1, -1, -1);
    expect_offset(f, 3, ERR_UNKNOWN_TOPIC_OR_PARTITION, -1, -1, -1);
    f->logs[0].load_err = ERR_IO;
    list_request(f, 7);
    ask(f, "a", 0, 6000);
    list(f);
    expect_offset(f, 0, ERR_KAFKA_STORAGE_ERROR, -1, -1, -1);
}

/* Versions before 4 know no leader epoch. */
static void old_versions_get_no_epoch(void **state)
{
    struct fixture *f = *state;

    list_request(f, 3);
    ask(f, "a", 0, -1);
    list(f);
    expect_offset(f, 0, ERR_NONE, -1, 100, -1);
}

/* The isolation level decides what "latest" means for a consumer; others see the log's end. */
static void latest_depends_on_who_asks(void **state)
{
    struct fixture *f = *state;

    fixture_add_follower(f, 0);
    f->logs[0].end = 110;
    f->logs[0].unstable = 90;
    list_request(f, 7);
    ask(f, "a", 0, -1);
    list(f);
    expect_offset(f, 0, ERR_NONE, -1, 100, 5);
    list_request(f, 7)->isolation_level = 1;
    ask(f, "a", 0, -1);
    list(f);
    expect_offset(f, 0, ERR_NONE, -1, 90, 5);
    list_request(f, 7)->replica_id = -2;
    ask(f, "a", 0, -1);
    list(f);
    expect_offset(f, 0, ERR_NONE, -1, 110, 5);
}

/* A leader that has not settled does not know where the committed part ends (R6, [H18]); what lies
 * below is known. */
static void a_new_leader_does_not_know_the_end(void **state)
{
    struct fixture *f = *state;

    fixture_add_follower(f, 0);
    f->logs[0].end = 120;
    f->states[0].leader_epoch = 9;
    f->states[0].partition_epoch++;
    fixture_tell_state(f, 0);
    f->logs[0].found = (struct timestamp_offset){7000, 42, 3};
    for (int16_t version = 4; version <= 5; version++) {
        list_request(f, version);
        ask(f, "a", 0, -1);
        list(f);
        expect_offset(f, 0, version == 4 ? ERR_LEADER_NOT_AVAILABLE : ERR_OFFSET_NOT_AVAILABLE, -1,
                      -1, -1);
    }
    list_request(f, 5);
    ask(f, "a", 0, 6000);
    list(f);
    expect_offset(f, 0, ERR_NONE, 7000, 42, 3);
    list_request(f, 5);
    ask(f, "a", 0, 8000);
    list(f);
    expect_offset(f, 0, ERR_OFFSET_NOT_AVAILABLE, -1, -1, -1);
}

static void a_repeated_partition_is_refused_everywhere(void **state)
{
    struct fixture *f = *state;

    list_request(f, 7);
    ask(f, "a", 0, -1);
    ask(f, "a", 1, -1);
    ask(f, "a", 0, -2);
    list(f);
    expect_offset(f, 0, ERR_INVALID_REQUEST, -1, -1, -1);
    expect_offset(f, 1, ERR_NONE, -1, 100, 5);
    expect_offset(f, 2, ERR_INVALID_REQUEST, -1, -1, -1);
}

static void epochs_and_leaders_are_checked(void **state)
{
    struct fixture *f = *state;

    f->logs[3].offline = "broken";
    list_request(f, 7);
    ask(f, "a", 0, -1)->current_leader_epoch = 4;
    ask(f, "a", 1, -1)->current_leader_epoch = 6;
    ask(f, "elsewhere", 0, -1);
    ask(f, "b", 1, -1);
    list(f);
    expect_offset(f, 0, ERR_FENCED_LEADER_EPOCH, -1, -1, -1);
    expect_offset(f, 1, ERR_UNKNOWN_LEADER_EPOCH, -1, -1, -1);
    expect_offset(f, 2, ERR_NOT_LEADER_OR_FOLLOWER, -1, -1, -1);
    expect_offset(f, 3, ERR_KAFKA_STORAGE_ERROR, -1, -1, -1);
}

/* ---- OffsetForLeaderEpoch ---- */

static void an_epochs_end_is_told(void **state)
{
    struct fixture *f = *state;
    struct offset_for_leader_epoch_request *in = fixture_request(f, API_OFFSET_FOR_LEADER_EPOCH, 4);
    static const int32_t epochs[] = {3, 6, -1};

    f->logs[0].epoch_end = 60;
    assert_true(CODEC_ARRAY(&f->r.arena, in->topics, 1,
                            offset_for_leader_epoch_request_offset_for_leader_topic));
    in->topics.v[0].topic = STR_LIT("a");
    assert_true(CODEC_ARRAY(&f->r.arena, in->topics.v[0].partitions, 4,
                            offset_for_leader_epoch_request_offset_for_leader_partition));
    for (int i = 0; i < 3; i++)
        in->topics.v[0].partitions.v[i].leader_epoch = epochs[i];
    in->topics.v[0].partitions.v[3].leader_epoch = 3;
    in->topics.v[0].partitions.v[3].current_leader_epoch = 4;
    handle_offset_for_leader_epoch(&f->r);
    expect_end(f, SENT);

    const struct offset_for_leader_epoch_response *out = f->r.response;
    const struct offset_for_leader_epoch_response_epoch_end_offset *p =
        out->topics.v[0].partitions.v;

    assert_int_equal(p[0].leader_epoch, 3);
    assert_int_equal(p[0].end_offset, 60);
    assert_int_equal(p[1].leader_epoch, -1); /* an epoch of the future is not known */
    assert_int_equal(p[1].end_offset, -1);
    assert_int_equal(p[1].error_code, ERR_NONE);
    assert_int_equal(p[2].end_offset, -1);
    assert_int_equal(p[3].error_code, ERR_FENCED_LEADER_EPOCH);
}

/* ---- DeleteRecords ---- */

static const struct delete_records_response_delete_records_partition_result *trim(struct fixture *f,
                                                                                  const char *topic,
                                                                                  int32_t partition,
                                                                                  int64_t offset)
{
    struct delete_records_request *in = fixture_request(f, API_DELETE_RECORDS, 2);

    in->timeout_ms = 2000;
    assert_true(
        CODEC_ARRAY(&f->r.arena, in->topics, 1, delete_records_request_delete_records_topic));
    in->topics.v[0].name = str_from(topic);
    assert_true(CODEC_ARRAY(&f->r.arena, in->topics.v[0].partitions, 1,
                            delete_records_request_delete_records_partition));
    in->topics.v[0].partitions.v[0].partition_index = partition;
    in->topics.v[0].partitions.v[0].offset = offset;
    handle_delete_records(&f->r);
    fixture_run(f);

    const struct delete_records_response *out = f->r.response;

    return &out->topics.v[0].partitions.v[0];
}

/* The low watermark is answered; -1 asks for everything that is committed [H34]. */
static void records_are_deleted(void **state)
{
    struct fixture *f = *state;
    struct replica *r = fixture_replica(f, 0);

    replica_configure(r, &(struct log_config){.flush_messages = 0, .cleanup_delete = true});
    replica_unref(r);
    assert_int_equal(trim(f, "a", 0, 30)->low_watermark, 30);
    expect_end(f, SENT);
    assert_int_equal(trim(f, "a", 0, 20)->low_watermark, 30);
    assert_int_equal(trim(f, "a", 0, -1)->low_watermark, 100);
    assert_int_equal(f->logs[0].start, 100);
}

static void what_cannot_be_deleted_is_refused(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(trim(f, "a", 0, 101)->error_code, ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(trim(f, "a", 0, 101)->low_watermark, -1);
    assert_int_equal(trim(f, "a", 0, -2)->error_code, ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(trim(f, "a", 5, 1)->error_code, ERR_UNKNOWN_TOPIC_OR_PARTITION);
    assert_int_equal(trim(f, "elsewhere", 0, 1)->error_code, ERR_NOT_LEADER_OR_FOLLOWER);
    assert_int_equal(f->logs[0].start, 0);
}

/* The answer waits for the live replicas, or for the timeout. */
static void deletion_waits_for_live_replicas(void **state)
{
    struct fixture *f = *state;

    fixture_add_follower(f, 0);

    const struct delete_records_response_delete_records_partition_result *p = trim(f, "a", 0, 30);

    expect_end(f, PENDING);
    fixture_expire(f);
    expect_end(f, SENT);
    assert_int_equal(p->error_code, ERR_REQUEST_TIMED_OUT);
    assert_int_equal(f->logs[0].start, 30);
}

/* ---- InitProducerId ---- */

static void ask_for_id(struct fixture *f)
{
    struct init_producer_id_request *in = fixture_request(f, API_INIT_PRODUCER_ID, 4);

    in->transactional_id = STR_NULL;
}

static const struct init_producer_id_response *id_answer(struct fixture *f)
{
    expect_end(f, SENT);
    return f->r.response;
}

static void grant(struct fixture *f, MetaOutcome *o)
{
    void (*done)(struct request *) = f->proposed;

    assert_non_null(done);
    f->proposed = NULL;
    f->r.proposal.outcome = o;
    done(&f->r);
}

/* A block is asked for once, and used up before the next. */
static void ids_come_from_blocks(void **state)
{
    struct fixture *f = *state;
    MetaOutcome o = META_OUTCOME__INIT;

    o.value = 5000;
    o.count = 2;
    for (int round = 0; round < 2; round++) {
        ask_for_id(f);
        handle_init_producer_id(&f->r);
        expect_end(f, PENDING);
        grant(f, &o);
        assert_int_equal(id_answer(f)->producer_id, o.value);
        assert_int_equal(id_answer(f)->producer_epoch, 0);
        ask_for_id(f);
        handle_init_producer_id(&f->r);
        assert_int_equal(id_answer(f)->producer_id, o.value + 1);
        o.value += 1000;
    }
    assert_int_equal(f->proposals, 2);
}

/* Without a block producers are told to try again; who asks next asks for a block again. */
static void without_a_block_producers_try_again(void **state)
{
    struct fixture *f = *state;
    MetaOutcome o = META_OUTCOME__INIT;

    o.error = ERR_NOT_CONTROLLER;
    ask_for_id(f);
    handle_init_producer_id(&f->r);
    grant(f, &o);
    assert_int_equal(id_answer(f)->error_code, ERR_COORDINATOR_LOAD_IN_PROGRESS);
    assert_int_equal(id_answer(f)->producer_id, -1);
    assert_int_equal(id_answer(f)->producer_epoch, -1);
    ask_for_id(f);
    handle_init_producer_id(&f->r);
    expect_end(f, PENDING);
    assert_int_equal(f->proposals, 2);
    o.error = 0;
    o.value = 7;
    o.count = 1;
    grant(f, &o);
    assert_int_equal(id_answer(f)->producer_id, 7);
}

/* Half an identity makes no sense; transactions do not exist yet. A producer that names the id it
 * has gets a new one all the same (KIP-360). */
static void identities_are_checked(void **state)
{
    struct fixture *f = *state;
    struct init_producer_id_request *in;

    ask_for_id(f);
    in = f->r.body;
    in->producer_id = 9;
    handle_init_producer_id(&f->r);
    assert_int_equal(id_answer(f)->error_code, ERR_INVALID_REQUEST);
    ask_for_id(f);
    in = f->r.body;
    in->transactional_id = STR_LIT("tx");
    handle_init_producer_id(&f->r);
    assert_int_equal(id_answer(f)->error_code, ERR_INVALID_REQUEST);
    f->worker.producer_id_next = 70;
    f->worker.producer_id_end = 71;
    ask_for_id(f);
    in = f->r.body;
    in->producer_id = 9;
    in->producer_epoch = 3;
    handle_init_producer_id(&f->r);
    assert_int_equal(id_answer(f)->producer_id, 70);
    assert_int_equal(id_answer(f)->producer_epoch, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(both_ends_are_answered_without_looking),
        fixture_test(tiered_offsets_do_not_exist),
        fixture_test(special_timestamps_came_with_versions),
        fixture_test(searches_go_to_the_pool),
        fixture_test(old_versions_get_no_epoch),
        fixture_test(latest_depends_on_who_asks),
        fixture_test(a_new_leader_does_not_know_the_end),
        fixture_test(a_repeated_partition_is_refused_everywhere),
        fixture_test(epochs_and_leaders_are_checked),
        fixture_test(an_epochs_end_is_told),
        fixture_test(records_are_deleted),
        fixture_test(what_cannot_be_deleted_is_refused),
        fixture_test(deletion_waits_for_live_replicas),
        fixture_test(ids_come_from_blocks),
        fixture_test(without_a_block_producers_try_again),
        fixture_test(identities_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
