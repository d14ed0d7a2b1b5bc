/* Produce (broker/handlers/produce.c): order, errors partition by partition, and waiting for
 * acknowledgements. */
#include "protocol/record_batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/handler_fixture.h"

/* A batch of three records, in the arena as if it had been received. */
static struct records batch_as(struct fixture *f, int codec, int16_t attributes, size_t value_size)
{
    struct record_batch_builder b;
    struct iobuf *out = NULL;
    uint8_t *value = xcalloc(1, value_size + 1), *copy;
    struct bytes v = {value, (int32_t)value_size};

    record_batch_builder_init(&b, 0);
    b.codec = codec;
    b.attributes = attributes;
    if (attributes & RECORD_BATCH_TRANSACTIONAL) {
        b.producer_id = 9;
        b.producer_epoch = 0;
        b.base_sequence = 0;
    }
    for (int i = 0; i < 3; i++)
        record_batch_builder_add(&b, f->t.unix_ms, v, v, NULL, 0);
    assert_int_equal(record_batch_builder_finish(&b, &out), ERR_NONE);
    copy = arena_alloc(&f->r.arena, out->len);
    memcpy(copy, out->ptr, out->len);

    struct records r = {copy, (int32_t)out->len, NULL};

    iobuf_unref(out);
    record_batch_builder_deinit(&b);
    free(value);
    return r;
}

static struct records batch(struct fixture *f)
{
    return batch_as(f, COMPRESSION_NONE, 0, 10);
}

static struct produce_request *request(struct fixture *f, int16_t version, int16_t acks)
{
    struct produce_request *in = fixture_request(f, API_PRODUCE, version);

    in->transactional_id = STR_NULL;
    in->acks = acks;
    in->timeout_ms = 1000;
    assert_true(CODEC_ARRAY(&f->r.arena, in->topic_data, 8, produce_request_topic_produce_data));
    in->topic_data.n = 0;
    return in;
}

/* Each partition in a topic entry of its own. */
static void add(struct fixture *f, const char *topic, uint8_t id, int32_t partition,
                struct records records)
{
    struct produce_request *in = f->r.body;
    struct produce_request_topic_produce_data *t = &in->topic_data.v[in->topic_data.n++];

    if (f->r.version < 13)
        t->name = str_from(topic);
    else
        t->topic_id = (struct uuid){{id}};
    assert_true(
        CODEC_ARRAY(&f->r.arena, t->partition_data, 1, produce_request_partition_produce_data));
    t->partition_data.v[0].index = partition;
    t->partition_data.v[0].records = records;
}

static void produce(struct fixture *f)
{
    handle_produce(&f->r);
    fixture_run(f);
}

static const struct produce_response_partition_produce_response *answer(struct fixture *f, int i)
{
    const struct produce_response *out = f->r.response;

    return &out->responses.v[i].partition_responses.v[0];
}

static void expect_error(struct fixture *f, int i, enum err e)
{
    expect_end(f, SENT);
    assert_int_equal(answer(f, i)->error_code, e);
    assert_int_equal(answer(f, i)->base_offset, -1);
}

/* ---- appending ---- */

static void records_are_appended_and_acknowledged(void **state)
{
    struct fixture *f = *state;

    request(f, 9, 1);
    add(f, "a", 1, 0, batch(f));
    add(f, "b", 2, 1, batch(f));
    produce(f);
    expect_end(f, SENT);
    assert_int_equal(answer(f, 0)->error_code, ERR_NONE);
    assert_int_equal(answer(f, 0)->base_offset, 100);
    assert_int_equal(answer(f, 0)->log_append_time_ms, -1);
    assert_int_equal(answer(f, 0)->log_start_offset, 0);
    assert_int_equal(f->logs[0].end, 103);
    assert_int_equal(f->logs[3].end, 103);
    assert_int_equal(f->logs[1].end, 100);
    assert_int_equal(counter_get(&f->worker.metrics.messages_in), 6);
    assert_int_equal(f->appended, 0); /* nothing was waited for */
}

/* From version 13 on topics are known by id (KIP-516). */
static void topics_may_be_known_by_id(void **state)
{
    struct fixture *f = *state;

    request(f, 13, 1);
    add(f, NULL, 2, 0, batch(f));
    add(f, NULL, 77, 0, batch(f));
    add(f, NULL, 2, 5, batch(f));
    produce(f);
    assert_int_equal(answer(f, 0)->base_offset, 100);
    expect_error(f, 1, ERR_UNKNOWN_TOPIC_ID);
    expect_error(f, 2, ERR_UNKNOWN_TOPIC_OR_PARTITION);
}

/* While the log makes room the walk stands still: what follows in the request is appended later. */
static void no_room_holds_what_follows(void **state)
{
    struct fixture *f = *state;

    f->logs[0].append_err = ERR_AGAIN;
    request(f, 9, 1);
    add(f, "a", 1, 0, batch(f));
    add(f, "a", 1, 1, batch(f));
    produce(f);
    expect_end(f, PENDING);
    assert_int_equal(f->logs[1].end, 100);

    struct log_room_waiter *w = f->logs[0].room;

    assert_non_null(w);
    f->logs[0].room = NULL;
    f->logs[0].append_err = ERR_NONE;
    w->ready(w);
    fixture_run(f);
    expect_end(f, SENT);
    assert_int_equal(answer(f, 0)->base_offset, 100);
    assert_int_equal(answer(f, 1)->base_offset, 100);
}

/* A large compressed batch is looked into on the pool; order and answer are the same. */
static void large_compressed_batches_go_to_the_pool(void **state)
{
    struct fixture *f = *state;
    struct records large = {NULL, 0, NULL};

    f->settings.compression_type = COMPRESSION_ZSTD;
    request(f, 9, 1);
    large = batch_as(f, COMPRESSION_NONE, 0, 50000);
    add(f, "a", 1, 0, large);
    add(f, "a", 1, 1, batch(f));
    produce(f);
    expect_end(f, SENT);
    assert_int_equal(f->pool_jobs, 1);
    assert_int_equal(answer(f, 0)->base_offset, 100);
    assert_int_equal(answer(f, 1)->base_offset, 100);
}

/* One bad partition does not touch the others. */
static void a_bad_batch_is_refused_alone(void **state)
{
    struct fixture *f = *state;
    struct records bad = {NULL, 0, NULL};

    request(f, 9, 1);
    bad = batch(f);
    ((uint8_t *)(uintptr_t)bad.ptr)[bad.len - 1] ^= 1;
    add(f, "a", 1, 0, bad);
    add(f, "a", 1, 1, batch(f));
    add(f, "b", 2, 0, (struct records){(const uint8_t *)"", 0, NULL});
    add(f, "b", 2, 1, RECORDS_NULL);
    produce(f);
    expect_error(f, 0, ERR_CORRUPT_MESSAGE);
    assert_int_equal(answer(f, 1)->base_offset, 100);
    expect_error(f, 2, ERR_INVALID_RECORD);
    expect_error(f, 3, ERR_INVALID_RECORD);
    assert_int_equal(f->logs[0].end, 100);
}

/* The topic's own rules, and the records that broke them by index (KIP-467). */
static void the_topics_rules_hold(void **state)
{
    struct fixture *f = *state;

    f->settings.max_message_bytes = 80;
    request(f, 9, 1);
    add(f, "a", 1, 0, batch(f));
    produce(f);
    expect_error(f, 0, ERR_MESSAGE_TOO_LARGE);

    f->settings.max_message_bytes = 1000000;
    f->settings.timestamp_before_max_ms = 1000;
    f->image.index++;
    request(f, 9, 1);
    add(f, "a", 1, 0, batch(f));
    f->t.unix_ms += 5000;
    produce(f);
    expect_error(f, 0, ERR_INVALID_TIMESTAMP);
    assert_int_equal(answer(f, 0)->record_errors.n, 3);
    assert_int_equal(answer(f, 0)->record_errors.v[2].batch_index, 2);
    assert_true(answer(f, 0)->error_message.len > 0);
}

/* A partition that is named twice is stored once; the second is refused, not silently dropped. */
static void a_repeated_partition_is_refused(void **state)
{
    struct fixture *f = *state;

    request(f, 9, 1);
    add(f, "a", 1, 0, batch(f));
    add(f, "a", 1, 0, batch(f));
    produce(f);
    assert_int_equal(answer(f, 0)->base_offset, 100);
    expect_error(f, 1, ERR_INVALID_REQUEST);
    assert_int_equal(f->logs[0].end, 103);
}

/* ---- what is not done at all ---- */

static void other_acks_are_refused(void **state)
{
    struct fixture *f = *state;

    request(f, 9, 2);
    add(f, "a", 1, 0, batch(f));
    add(f, "nowhere", 9, 0, batch(f));
    produce(f);
    expect_error(f, 0, ERR_INVALID_REQUIRED_ACKS);
    expect_error(f, 1, ERR_INVALID_REQUIRED_ACKS);
    assert_int_equal(answer(f, 0)->log_start_offset, -1);
    assert_int_equal(f->logs[0].end, 100);
}

/* Transactions do not exist yet: their batches are never stored. */
static void transactional_batches_are_refused(void **state)
{
    struct fixture *f = *state;

    request(f, 9, 1);
    add(f, "a", 1, 0, batch_as(f, 0, RECORD_BATCH_TRANSACTIONAL, 1));
    add(f, "a", 1, 1, batch(f));
    produce(f);
    expect_error(f, 0, ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    expect_error(f, 1, ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED);

    request(f, 9, 1)->transactional_id = STR_LIT("tx");
    add(f, "a", 1, 0, batch_as(f, 0, RECORD_BATCH_TRANSACTIONAL, 1));
    produce(f);
    expect_error(f, 0, ERR_INVALID_TXN_STATE);
    assert_int_equal(f->logs[0].end, 100);
}

static void unknown_and_offline_partitions_are_refused(void **state)
{
    struct fixture *f = *state;

    f->logs[0].offline = "Input/output error";
    request(f, 9, 1);
    add(f, "nowhere", 0, 0, batch(f));
    add(f, "a", 1, 2, batch(f));
    add(f, "a", 1, -1, batch(f));
    add(f, "a", 1, 0, batch(f));
    produce(f);
    expect_error(f, 0, ERR_UNKNOWN_TOPIC_OR_PARTITION);
    expect_error(f, 1, ERR_UNKNOWN_TOPIC_OR_PARTITION);
    expect_error(f, 2, ERR_UNKNOWN_TOPIC_OR_PARTITION);
    expect_error(f, 3, ERR_KAFKA_STORAGE_ERROR);
}

/* KIP-951: who leads instead, and where. */
static void the_answer_names_the_leader(void **state)
{
    struct fixture *f = *state;

    for (int16_t version = 9; version <= 10; version++) {
        request(f, version, 1);
        add(f, "elsewhere", 3, 0, batch(f));
        produce(f);
        expect_error(f, 0, ERR_NOT_LEADER_OR_FOLLOWER);

        const struct produce_response *out = f->r.response;

        assert_int_equal(out->node_endpoints.n, version >= 10);
        assert_int_equal(answer(f, 0)->current_leader.leader_id, version >= 10 ? 2 : -1);
    }

    const struct produce_response *out = f->r.response;

    assert_int_equal(answer(f, 0)->current_leader.leader_epoch, 8);
    assert_int_equal(out->node_endpoints.v[0].node_id, 2);
    assert_int_equal(out->node_endpoints.v[0].port, 9093);
    assert_true(str_eq_lit(out->node_endpoints.v[0].host, "two.example"));
}

/* ---- acks ---- */

/* acks=0: stored, and no answer; an error closes the connection. */
static void acks_0_is_never_answered(void **state)
{
    struct fixture *f = *state;

    request(f, 9, 0);
    add(f, "a", 1, 0, batch(f));
    produce(f);
    expect_end(f, SILENT);
    assert_int_equal(f->logs[0].end, 103);
    request(f, 9, 0);
    add(f, "nowhere", 0, 0, batch(f));
    add(f, "a", 1, 0, batch(f));
    produce(f);
    expect_end(f, SILENT_FAILED);
    assert_int_equal(f->logs[0].end, 106);
}

/* While acknowledgements are waited for the receive buffer is gone: nothing of the answer may lie
 * in it [H11]. */
static void a_waiting_answer_needs_no_receive_buffer(void **state)
{
    struct fixture *f = *state;
    char received[] = "a";

    fixture_add_follower(f, 0);
    request(f, 9, -1);
    add(f, received, 1, 0, batch(f));
    produce(f);
    expect_end(f, PENDING);
    assert_int_equal(f->appended, 1);
    memset(received, '?', sizeof received);
    fixture_drop_follower(f, 0);
    fixture_run(f);
    expect_end(f, SENT);

    const struct produce_response *out = f->r.response;

    assert_true(str_eq_lit(out->responses.v[0].name, "a"));
}

/* acks=all: answered when the ISR has it; meanwhile the connection may go on [H11]. */
static void acks_all_waits_until_it_is_committed(void **state)
{
    struct fixture *f = *state;

    fixture_add_follower(f, 0);
    fixture_add_follower(f, 3);
    request(f, 9, -1);
    add(f, "a", 1, 0, batch(f));
    add(f, "a", 1, 1, batch(f)); /* alone in its ISR: committed at once */
    add(f, "b", 2, 1, batch(f));
    produce(f);
    expect_end(f, PENDING);
    assert_int_equal(f->appended, 1);
    fixture_drop_follower(f, 0);
    fixture_run(f);
    expect_end(f, PENDING);
    fixture_drop_follower(f, 3);
    fixture_run(f);
    expect_end(f, SENT);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(answer(f, i)->error_code, ERR_NONE);
        assert_int_equal(answer(f, i)->base_offset, 100);
    }
}

static void the_wait_ends_with_the_timeout(void **state)
{
    struct fixture *f = *state;
    uint64_t began_ns = f->t.now_ns;

    fixture_add_follower(f, 0);
    request(f, 9, -1);
    add(f, "a", 1, 0, batch(f));
    add(f, "a", 1, 1, batch(f));
    produce(f);
    assert_int_equal(f->deadline_ns, began_ns + 1000000000);
    fixture_expire(f);
    expect_end(f, SENT);
    assert_int_equal(answer(f, 0)->error_code, ERR_REQUEST_TIMED_OUT);
    assert_int_equal(answer(f, 0)->base_offset, 100);
    assert_int_equal(answer(f, 1)->error_code, ERR_NONE);
}

/* The deadline and the wake-up come together: the request ends once, when the message that is
 * under way has come. */
static void a_wake_up_under_way_at_the_deadline_does_no_harm(void **state)
{
    struct fixture *f = *state;

    fixture_add_follower(f, 0);
    fixture_add_follower(f, 1);
    request(f, 9, -1);
    add(f, "a", 1, 0, batch(f));
    add(f, "a", 1, 1, batch(f));
    produce(f);
    fixture_drop_follower(f, 0);
    assert_non_null(f->posted);

    void (*deadline)(struct request *) = f->deadline;

    deadline(&f->r);
    expect_end(f, PENDING);
    fixture_run(f);
    expect_end(f, SENT);
    assert_int_equal(answer(f, 0)->error_code, ERR_NONE);
    assert_int_equal(answer(f, 1)->error_code, ERR_REQUEST_TIMED_OUT);
}

static void losing_the_leadership_ends_the_wait(void **state)
{
    struct fixture *f = *state;

    fixture_add_follower(f, 0);
    request(f, 10, -1);
    add(f, "a", 1, 0, batch(f));
    produce(f);
    fixture_move_leader(f, 0);
    fixture_run(f);
    expect_end(f, SENT);
    assert_int_equal(answer(f, 0)->error_code, ERR_NOT_LEADER_OR_FOLLOWER);
}

/* The topic is deleted while the request waits [H19]: told in the words that it asked in. */
static void deleting_the_topic_ends_the_wait(void **state)
{
    struct fixture *f = *state;

    fixture_add_follower(f, 2);
    request(f, 13, -1);
    add(f, NULL, 2, 0, batch(f));
    produce(f);
    fixture_delete_topic_b(f);
    fixture_run(f);
    expect_end(f, SENT);
    assert_int_equal(answer(f, 0)->error_code, ERR_UNKNOWN_TOPIC_ID);
}

/* Too few in-sync replicas: refused before anything is stored, for acks=all only. */
static void too_few_replicas_refuse_acks_all(void **state)
{
    struct fixture *f = *state;

    f->states[0].effective_min_isr = 2;
    f->states[0].partition_epoch++;
    fixture_tell_state(f, 0);
    request(f, 9, -1);
    add(f, "a", 1, 0, batch(f));
    produce(f);
    expect_error(f, 0, ERR_NOT_ENOUGH_REPLICAS);
    assert_int_equal(f->logs[0].end, 100);
    request(f, 9, 1);
    add(f, "a", 1, 0, batch(f));
    produce(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_NONE);
}

/* What the log refuses is told with the code that the producer acts on. */
static void the_logs_errors_are_told(void **state)
{
    static const enum err errors[] = {ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, ERR_INVALID_PRODUCER_EPOCH,
                                      ERR_DUPLICATE_SEQUENCE_NUMBER,    ERR_UNKNOWN_PRODUCER_ID,
                                      ERR_RECORD_LIST_TOO_LARGE,        ERR_KAFKA_STORAGE_ERROR};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_COUNT(errors); i++) {
        f->logs[0].append_err = errors[i];
        request(f, 9, -1);
        add(f, "a", 1, 0, batch(f));
        produce(f);
        expect_error(f, 0, errors[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(records_are_appended_and_acknowledged),
        fixture_test(topics_may_be_known_by_id),
        fixture_test(no_room_holds_what_follows),
        fixture_test(large_compressed_batches_go_to_the_pool),
        fixture_test(a_bad_batch_is_refused_alone),
        fixture_test(the_topics_rules_hold),
        fixture_test(a_repeated_partition_is_refused),
        fixture_test(other_acks_are_refused),
        fixture_test(transactional_batches_are_refused),
        fixture_test(unknown_and_offline_partitions_are_refused),
        fixture_test(the_answer_names_the_leader),
        fixture_test(acks_0_is_never_answered),
        fixture_test(a_waiting_answer_needs_no_receive_buffer),
        fixture_test(acks_all_waits_until_it_is_committed),
        fixture_test(the_wait_ends_with_the_timeout),
        fixture_test(a_wake_up_under_way_at_the_deadline_does_no_harm),
        fixture_test(losing_the_leadership_ends_the_wait),
        fixture_test(deleting_the_topic_ends_the_wait),
        fixture_test(too_few_replicas_refuse_acks_all),
        fixture_test(the_logs_errors_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
