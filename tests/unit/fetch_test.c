/* Fetch (broker/handlers/fetch.c): who gets how many bytes (KIP-74), when a request waits and what
 * ends the wait, and sessions [H32]. Each record of the stand-in log is a batch of 100 bytes. */
#include "protocol/fetch_tags.h"
#include "protocol/record_batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/handler_fixture.h"

static struct fetch_request *request(struct fixture *f, int16_t version)
{
    struct fetch_request *in = fixture_request(f, API_FETCH, version);

    in->max_wait_ms = 500;
    in->min_bytes = 1;
    in->max_bytes = 100000;
    in->session_epoch = -1;
    assert_true(CODEC_ARRAY(&f->r.arena, in->topics, 8, fetch_request_fetch_topic));
    in->topics.n = 0;
    return in;
}

static struct fetch_request_fetch_partition *add(struct fixture *f, const char *topic, uint8_t id,
                                                 int32_t partition, int64_t offset)
{
    struct fetch_request *in = f->r.body;
    struct fetch_request_fetch_topic *t = &in->topics.v[in->topics.n++];

    if (f->r.version < 13)
        t->topic = str_from(topic);
    else
        t->topic_id = (struct uuid){{id}};
    assert_true(CODEC_ARRAY(&f->r.arena, t->partitions, 1, fetch_request_fetch_partition));
    t->partitions.v[0].partition = partition;
    t->partitions.v[0].fetch_offset = offset;
    t->partitions.v[0].partition_max_bytes = 50000;
    return &t->partitions.v[0];
}

static void fetch(struct fixture *f)
{
    handle_fetch(&f->r);
    fixture_run(f);
}

static const struct fetch_response *response(struct fixture *f)
{
    expect_end(f, SENT);
    return f->r.response;
}

/* The i-th partition of the answer, in order. */
static const struct fetch_response_partition_data *answer(struct fixture *f, int i)
{
    const struct fetch_response *out = response(f);

    for (int32_t t = 0; t < out->responses.n; t++) {
        if (i < out->responses.v[t].partitions.n)
            return &out->responses.v[t].partitions.v[i];
        i -= out->responses.v[t].partitions.n;
    }
    fail_msg("the answer has fewer partitions");
    return NULL;
}

static size_t bytes_of(struct fixture *f, int i)
{
    const struct records *r = &answer(f, i)->records;

    return r->queue != NULL ? r->queue->bytes_total : (size_t)r->len;
}

/* Broker 1 appends one record of 100 bytes. */
static void append(struct fixture *f, int log)
{
    struct record_batch b = {.record_count = 1};
    uint8_t bytes[1] = {0};
    struct replica_append_result out;
    struct replica *r = fixture_replica(f, log);

    assert_int_equal(
        replica_append(
            r, &(struct replica_append){.batch = &b, .bytes = bytes, .acks = 1, .leader_epoch = -1},
            &out),
        ERR_NONE);
    replica_unref(r);
}

/* ---- bytes ---- */

static void what_is_there_is_answered_at_once(void **state)
{
    struct fixture *f = *state;

    request(f, 12);
    add(f, "a", 1, 0, 90);
    add(f, "b", 2, 1, 100);
    fetch(f);
    assert_int_equal(bytes_of(f, 0), 1000);
    assert_int_equal(answer(f, 0)->high_watermark, 100);
    assert_int_equal(answer(f, 0)->last_stable_offset, 100);
    assert_int_equal(answer(f, 0)->log_start_offset, 0);
    assert_int_equal(answer(f, 0)->preferred_read_replica, -1);
    assert_int_equal(answer(f, 0)->aborted_transactions.n, -1);
    assert_int_equal(answer(f, 1)->records.len, 0);
    assert_true(str_eq_lit(response(f)->responses.v[1].topic, "b"));
    assert_int_equal(response(f)->session_id, 0);
    assert_int_equal(counter_get(&f->worker.metrics.bytes_out), 1000);
}

/* The first batch goes out whole whatever the limits; from then on they hold (KIP-74). */
static void a_consumer_always_gets_on(void **state)
{
    struct fixture *f = *state;

    request(f, 12)->max_bytes = 50;
    add(f, "a", 1, 0, 100); /* empty: does not use up the privilege */
    add(f, "a", 1, 1, 90)->partition_max_bytes = 10;
    add(f, "b", 2, 0, 90);
    fetch(f);
    assert_int_equal(bytes_of(f, 0), 0);
    assert_int_equal(bytes_of(f, 1), 100);
    assert_int_equal(bytes_of(f, 2), 0);
}

static void limits_hold_per_partition_request_and_node(void **state)
{
    struct fixture *f = *state;

    request(f, 12)->max_bytes = 650;
    add(f, "a", 1, 0, 0)->partition_max_bytes = 300;
    add(f, "a", 1, 1, 0);
    fetch(f);
    assert_int_equal(bytes_of(f, 0), 300);
    assert_int_equal(bytes_of(f, 1), 300);
    f->config.fetch_max_bytes = 400;
    request(f, 12)->max_bytes = INT32_MAX;
    add(f, "a", 1, 0, 0);
    fetch(f);
    assert_int_equal(bytes_of(f, 0), 400);
}

/* What is read is bounded by the high watermark; read_committed by the last stable offset, with the
 * list of aborted transactions, which may be empty. */
static void reading_ends_where_the_isolation_says(void **state)
{
    struct fixture *f = *state;

    f->logs[0].unstable = 95;
    request(f, 12)->isolation_level = 1;
    add(f, "a", 1, 0, 90);
    fetch(f);
    assert_int_equal(bytes_of(f, 0), 500);
    assert_int_equal(answer(f, 0)->last_stable_offset, 95);
    assert_int_equal(answer(f, 0)->aborted_transactions.n, 0);
    assert_true(f->logs[0].last_read.need_aborted);
}

/* ---- waiting ---- */

static void nothing_to_read_waits_for_an_append(void **state)
{
    struct fixture *f = *state;
    uint64_t began_ns = f->t.now_ns;

    request(f, 12);
    add(f, "a", 1, 0, 100);
    add(f, "b", 2, 0, 100);
    fetch(f);
    expect_end(f, PENDING);
    assert_int_equal(f->deadline_ns, began_ns + 500000000);
    append(f, 2);
    fixture_run(f);
    assert_int_equal(bytes_of(f, 0), 0);
    assert_int_equal(bytes_of(f, 1), 100);
    assert_int_equal(answer(f, 1)->high_watermark, 101);
}

static void the_wait_ends_with_max_wait(void **state)
{
    struct fixture *f = *state;

    request(f, 12);
    add(f, "a", 1, 0, 100);
    fetch(f);
    fixture_expire(f);
    assert_int_equal(bytes_of(f, 0), 0);
    assert_int_equal(answer(f, 0)->error_code, ERR_NONE);
    request(f, 12)->max_wait_ms = 0;
    add(f, "a", 1, 0, 100);
    fetch(f);
    assert_int_equal(bytes_of(f, 0), 0);
}

/* min.bytes is what can be read in all partitions together. */
static void min_bytes_adds_up(void **state)
{
    struct fixture *f = *state;

    request(f, 12)->min_bytes = 400;
    add(f, "a", 1, 0, 99);
    add(f, "a", 1, 1, 100);
    fetch(f);
    expect_end(f, PENDING);
    append(f, 0);
    fixture_run(f);
    append(f, 1);
    fixture_run(f);
    expect_end(f, PENDING);
    append(f, 1);
    fixture_run(f);
    assert_int_equal(bytes_of(f, 0), 200);
    assert_int_equal(bytes_of(f, 1), 200);
}

/* Bytes above the high watermark cannot be read, and so do not count. */
static void what_is_not_committed_does_not_count(void **state)
{
    struct fixture *f = *state;

    fixture_add_follower(f, 0);
    request(f, 12);
    add(f, "a", 1, 0, 100);
    fetch(f);
    append(f, 0);
    fixture_run(f);
    expect_end(f, PENDING);
    fixture_drop_follower(f, 0);
    fixture_run(f);
    assert_int_equal(bytes_of(f, 0), 100);
}

/* A request may not wait for more than it may get. */
static void min_bytes_is_at_most_max_bytes(void **state)
{
    struct fixture *f = *state;
    struct fetch_request *in = request(f, 12);

    in->min_bytes = 1000000;
    in->max_bytes = 200;
    add(f, "a", 1, 0, 90);
    fetch(f);
    assert_int_equal(bytes_of(f, 0), 200);
}

/* A partition in trouble completes the request at once. */
static void an_error_completes_at_once(void **state)
{
    struct fixture *f = *state;

    f->logs[3].start = 50;
    request(f, 12);
    add(f, "a", 1, 0, 100);
    add(f, "nowhere", 9, 0, 0);
    add(f, "a", 1, 1, 101);
    add(f, "b", 2, 1, 49);
    add(f, "b", 2, 0, 100)->current_leader_epoch = 6;
    fetch(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_NONE);
    assert_int_equal(answer(f, 1)->error_code, ERR_UNKNOWN_TOPIC_OR_PARTITION);
    assert_int_equal(answer(f, 2)->error_code, ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(answer(f, 2)->high_watermark, -1);
    assert_int_equal(answer(f, 3)->error_code, ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(answer(f, 4)->error_code, ERR_UNKNOWN_LEADER_EPOCH);
}

/* That a topic is unknown is told along with the rest, or at once when there is no rest. */
static void an_unknown_topic_does_not_end_the_wait_of_others(void **state)
{
    struct fixture *f = *state;

    request(f, 12);
    add(f, "nowhere", 9, 0, 0);
    add(f, "a", 1, 0, 100);
    fetch(f);
    expect_end(f, PENDING);
    append(f, 0);
    fixture_run(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_UNKNOWN_TOPIC_OR_PARTITION);
    assert_int_equal(bytes_of(f, 1), 100);
    request(f, 12);
    add(f, "nowhere", 9, 0, 0);
    fetch(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_UNKNOWN_TOPIC_OR_PARTITION);
}

/* A reader learns at once that its log has parted from ours. */
static void a_diverging_epoch_completes_at_once(void **state)
{
    struct fixture *f = *state;

    f->logs[0].epoch_end = 80;
    request(f, 12);
    add(f, "a", 1, 0, 100)->last_fetched_epoch = 4;
    fetch(f);
    assert_int_equal(answer(f, 0)->diverging_epoch.epoch, 4);
    assert_int_equal(answer(f, 0)->diverging_epoch.end_offset, 80);
    assert_int_equal(bytes_of(f, 0), 0);
}

static void losing_the_leadership_ends_the_wait(void **state)
{
    struct fixture *f = *state;

    request(f, 16);
    add(f, NULL, 1, 0, 100)->current_leader_epoch = 5;
    fetch(f);
    f->image.here.leader = 2; /* the image moves first */
    fixture_move_leader(f, 0);
    fixture_run(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_FENCED_LEADER_EPOCH);
    assert_int_equal(answer(f, 0)->current_leader.leader_id, 2);
    assert_int_equal(response(f)->node_endpoints.n, 1);
    assert_int_equal(response(f)->node_endpoints.v[0].port, 9093);
}

static void deleting_the_topic_ends_the_wait(void **state)
{
    struct fixture *f = *state;

    request(f, 13);
    add(f, NULL, 2, 0, 100);
    fetch(f);
    expect_end(f, PENDING);
    fixture_delete_topic_b(f);
    fixture_run(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_UNKNOWN_TOPIC_ID);
}

/* The deadline and a wake-up together are one answer. */
static void a_wake_up_under_way_at_the_deadline_does_no_harm(void **state)
{
    struct fixture *f = *state;
    void (*deadline)(struct request *);

    request(f, 12);
    add(f, "a", 1, 0, 100);
    fetch(f);
    deadline = f->deadline;
    append(f, 0);
    assert_non_null(f->posted);
    deadline(&f->r);
    expect_end(f, PENDING);
    fixture_run(f);
    assert_int_equal(bytes_of(f, 0), 100);
}

/* ---- the disk ---- */

/* What lies on the disk is loaded on the pool before it is answered. */
static void cold_ranges_are_loaded_first(void **state)
{
    struct fixture *f = *state;

    f->logs[0].cold = 1;
    f->logs[1].again = 1;
    request(f, 12);
    add(f, "a", 1, 0, 90);
    add(f, "a", 1, 1, 90);
    fetch(f);
    assert_int_equal(f->pool_jobs, 1);
    assert_int_equal(f->logs[0].loads, 1);
    assert_int_equal(f->logs[1].loads, 1);
    assert_int_equal(bytes_of(f, 0), 1000);
    assert_int_equal(bytes_of(f, 1), 1000);
}

/* When memory is so short that it is gone again each time, the request is still answered. */
static void a_range_that_will_not_stay_is_answered_without(void **state)
{
    struct fixture *f = *state;

    f->logs[0].cold = 1000;
    f->logs[1].again = 1000;
    request(f, 12);
    add(f, "a", 1, 0, 90);
    add(f, "a", 1, 1, 90);
    fetch(f);
    assert_int_equal(f->pool_jobs, 3);
    assert_int_equal(bytes_of(f, 0), 1000);
    assert_int_equal(bytes_of(f, 1), 0);
    assert_int_equal(answer(f, 1)->error_code, ERR_NONE);
}

/* A bad sector is that partition's error; clients before version 6 know no such error. */
static void a_failing_load_is_that_partitions_error(void **state)
{
    struct fixture *f = *state;

    for (int16_t version = 5; version <= 6; version++) {
        f->logs[0].cold = 1;
        f->logs[0].load_err = ERR_IO;
        request(f, version);
        add(f, "a", 1, 0, 90);
        add(f, "a", 1, 1, 90);
        fetch(f);
        assert_int_equal(answer(f, 0)->error_code,
                         version == 5 ? ERR_NOT_LEADER_OR_FOLLOWER : ERR_KAFKA_STORAGE_ERROR);
        assert_int_equal(bytes_of(f, 0), 0);
        assert_int_equal(bytes_of(f, 1), 1000);
    }
}

/* ---- whom, and in which words ---- */

/* zstd is not for clients before version 10 (KIP-110). */
static void old_clients_cannot_read_zstd_topics(void **state)
{
    struct fixture *f = *state;

    f->settings.compression_type = COMPRESSION_ZSTD;
    request(f, 9);
    add(f, "a", 1, 0, 90);
    fetch(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_UNSUPPORTED_COMPRESSION_TYPE);
    request(f, 10);
    add(f, "a", 1, 0, 90);
    fetch(f);
    assert_int_equal(bytes_of(f, 0), 1000);
}

/* Nobody becomes a follower by saying so. */
static void followers_are_told_to_come_again(void **state)
{
    struct fixture *f = *state;

    request(f, 12)->replica_id = 2;
    add(f, "a", 1, 0, 0)->current_leader_epoch = 5;
    add(f, "a", 1, 1, 0);
    fetch(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_UNKNOWN_LEADER_EPOCH);
    assert_int_equal(answer(f, 1)->error_code, ERR_NOT_LEADER_OR_FOLLOWER);
    request(f, 15)->replica_state.replica_id = 2;
    add(f, NULL, 1, 0, 0);
    fetch(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_NOT_LEADER_OR_FOLLOWER);
    assert_int_equal(f->logs[0].reads, 0);
}

static const struct uuid token = {{2, 7, 7}};

/* Broker 2, registered in epoch 2001, by the inter-broker listener, is in the ISR of a-0. */
static void admit_follower(struct fixture *f)
{
    f->listener.inter_broker = true;
    f->image.brokers[1].incarnation = token;
    f->image.brokers[1].epoch = 2001;
    fixture_add_follower(f, 0);
}

static struct fetch_request_fetch_partition *follower_request(struct fixture *f, int64_t offset)
{
    struct fetch_request *in = request(f, 18);
    struct fetch_request_fetch_partition *p = add(f, NULL, 1, 0, offset);

    in->replica_state.replica_id = 2;
    in->replica_state.replica_epoch = 2001;
    assert_true(fetch_tags_set_token(&f->r.arena, in, &token));
    p->current_leader_epoch = 5;
    p->last_fetched_epoch = offset > 0 ? 5 : -1;
    p->high_watermark = 0;
    return p;
}

static int64_t high_watermark_of(struct fixture *f)
{
    struct replica *r = fixture_replica(f, 0);
    struct replica_view v;

    replica_look(r, &v);
    replica_unref(r);
    return v.high_watermark;
}

/* A follower reads beyond the high watermark, and what it asks for says what it has. */
static void a_followers_fetch_is_its_acknowledgement(void **state)
{
    struct fixture *f = *state;

    admit_follower(f);
    f->logs[0].end = 110;
    f->logs[0].epoch_end = 110;
    follower_request(f, 105);
    fetch(f);
    assert_int_equal(answer(f, 0)->error_code, 0);
    assert_int_equal(bytes_of(f, 0), 500);
    assert_int_equal(high_watermark_of(f), 105);
}

/* Nobody else moves it: neither with a wrong token, nor without one, nor by a clients' listener,
 * nor with the epoch of another registration. */
static void nobody_acknowledges_for_a_follower(void **state)
{
    struct fixture *f = *state;
    int64_t before;

    admit_follower(f);
    before = high_watermark_of(f);
    f->logs[0].end = f->logs[0].epoch_end = 110;
    for (int i = 0; i < 4; i++) {
        follower_request(f, 110);
        if (i == 0)
            f->image.brokers[1].incarnation.b[15] = 1;
        else if (i == 1)
            ((struct fetch_request *)f->r.body)->unknown_tags = NULL;
        else if (i == 2)
            f->listener.inter_broker = false;
        else
            ((struct fetch_request *)f->r.body)->replica_state.replica_epoch = 2000;
        fetch(f);
        assert_int_equal(answer(f, 0)->error_code, ERR_UNKNOWN_LEADER_EPOCH);
        assert_int_equal(high_watermark_of(f), before);
        f->image.brokers[1].incarnation = token;
        f->listener.inter_broker = true;
    }
}

/* One whose log has parted from ours has acknowledged nothing, and hears where ours starts. */
static void a_follower_that_must_cut_acknowledges_nothing(void **state)
{
    struct fixture *f = *state;
    int64_t before;

    admit_follower(f);
    before = high_watermark_of(f);
    f->logs[0].start = 3;
    f->logs[0].end = 120;
    f->logs[0].epoch_end = 90;
    follower_request(f, 115)->last_fetched_epoch = 4;
    fetch(f);
    assert_int_equal(answer(f, 0)->diverging_epoch.end_offset, 90);
    assert_int_equal(answer(f, 0)->log_start_offset, 3);
    assert_int_equal(bytes_of(f, 0), 0);
    assert_int_equal(high_watermark_of(f), before);
    follower_request(f, 121)->last_fetched_epoch = -1; /* beyond our end */
    fetch(f);
    assert_int_equal(answer(f, 0)->error_code, ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(answer(f, 0)->log_start_offset, 3);
    assert_int_equal(high_watermark_of(f), before);
}

/* A follower that has everything waits; its next request ends that at once. */
static void the_next_fetch_ends_a_followers_wait(void **state)
{
    struct fixture *f = *state;
    void (*superseded)(struct request * r);

    admit_follower(f);
    f->logs[0].epoch_end = 100;
    follower_request(f, 100)->high_watermark = 100;
    fetch(f);
    expect_end(f, PENDING);
    superseded = f->r.on_superseded;
    assert_non_null(superseded);
    f->r.on_superseded = NULL;
    superseded(&f->r);
    fixture_run(f);
    assert_int_equal(bytes_of(f, 0), 0);
}

/* One that does not know how far the log is committed hears it at once [H18]. */
static void a_follower_hears_of_the_high_watermark_at_once(void **state)
{
    struct fixture *f = *state;

    admit_follower(f);
    f->logs[0].epoch_end = 100;
    follower_request(f, 100)->high_watermark = 90;
    fetch(f);
    assert_int_equal(answer(f, 0)->high_watermark, 100);
}

/* KIP-392: a consumer in the rack of an ISR member is sent there; else it is served here. */
static void a_consumer_is_sent_to_its_rack(void **state)
{
    struct fixture *f = *state;

    admit_follower(f);
    f->logs[0].epoch_end = 100;
    follower_request(f, 100)->high_watermark = 90;
    fetch(f);
    f->selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    f->image.brokers[1].rack = str_from("near");
    request(f, 16)->rack_id = str_from("near");
    add(f, NULL, 1, 0, 90);
    fetch(f);
    assert_int_equal(answer(f, 0)->preferred_read_replica, 2);
    assert_int_equal(bytes_of(f, 0), 0);
    request(f, 16)->rack_id = str_from("far");
    add(f, NULL, 1, 0, 90);
    fetch(f);
    assert_int_equal(answer(f, 0)->preferred_read_replica, -1);
    assert_int_equal(bytes_of(f, 0), 1000);
}

/* Partitions of one topic that follow each other share an entry. */
static void partitions_of_a_topic_stand_together(void **state)
{
    struct fixture *f = *state;

    request(f, 12);
    add(f, "a", 1, 0, 90);
    add(f, "a", 1, 1, 90);
    add(f, "b", 2, 0, 90);
    fetch(f);
    assert_int_equal(response(f)->responses.n, 2);
    assert_int_equal(response(f)->responses.v[0].partitions.n, 2);
    assert_int_equal(response(f)->responses.v[0].partitions.v[1].partition_index, 1);
}

/* ---- sessions ---- */

/* The second answer holds only what is new; an idle session waits. */
static void a_session_answers_only_news(void **state)
{
    struct fixture *f = *state;
    struct fetch_request *in = request(f, 13);
    int32_t session;

    in->session_epoch = 0;
    add(f, NULL, 1, 0, 100);
    add(f, NULL, 2, 0, 90);
    fetch(f);
    assert_int_equal(response(f)->responses.n, 2);
    session = response(f)->session_id;
    assert_true(session != 0);

    in = request(f, 13);
    in->session_id = session;
    in->session_epoch = 1;
    add(f, NULL, 2, 0, 100); /* the consumer has read on */
    fetch(f);
    expect_end(f, PENDING);
    append(f, 0);
    fixture_run(f);
    assert_int_equal(response(f)->session_id, session);
    assert_int_equal(response(f)->responses.n, 1);
    assert_int_equal(response(f)->responses.v[0].topic_id.b[0], 1);
    assert_int_equal(bytes_of(f, 0), 100);

    in = request(f, 13);
    in->session_id = session;
    in->session_epoch = 2;
    in->max_wait_ms = 0;
    add(f, NULL, 1, 0, 101);
    fetch(f);
    assert_int_equal(response(f)->responses.n, 0);
}

static void session_errors_are_the_whole_answer(void **state)
{
    struct fixture *f = *state;
    struct fetch_request *in = request(f, 12);

    in->session_id = 12345;
    in->session_epoch = 1;
    add(f, "a", 1, 0, 0);
    fetch(f);
    assert_int_equal(response(f)->error_code, ERR_FETCH_SESSION_ID_NOT_FOUND);
    assert_int_equal(response(f)->session_id, 0);
    assert_int_equal(response(f)->responses.n, 0);
}

/* Versions before 7 know no sessions. */
static void old_versions_have_no_sessions(void **state)
{
    struct fixture *f = *state;

    request(f, 6)->session_epoch = 0;
    add(f, "a", 1, 0, 90);
    fetch(f);
    assert_int_equal(response(f)->session_id, 0);
    assert_int_equal(bytes_of(f, 0), 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(what_is_there_is_answered_at_once),
        fixture_test(a_consumer_always_gets_on),
        fixture_test(limits_hold_per_partition_request_and_node),
        fixture_test(reading_ends_where_the_isolation_says),
        fixture_test(nothing_to_read_waits_for_an_append),
        fixture_test(the_wait_ends_with_max_wait),
        fixture_test(min_bytes_adds_up),
        fixture_test(what_is_not_committed_does_not_count),
        fixture_test(min_bytes_is_at_most_max_bytes),
        fixture_test(an_error_completes_at_once),
        fixture_test(an_unknown_topic_does_not_end_the_wait_of_others),
        fixture_test(a_diverging_epoch_completes_at_once),
        fixture_test(losing_the_leadership_ends_the_wait),
        fixture_test(deleting_the_topic_ends_the_wait),
        fixture_test(a_wake_up_under_way_at_the_deadline_does_no_harm),
        fixture_test(cold_ranges_are_loaded_first),
        fixture_test(a_range_that_will_not_stay_is_answered_without),
        fixture_test(a_failing_load_is_that_partitions_error),
        fixture_test(old_clients_cannot_read_zstd_topics),
        fixture_test(followers_are_told_to_come_again),
        fixture_test(a_followers_fetch_is_its_acknowledgement),
        fixture_test(nobody_acknowledges_for_a_follower),
        fixture_test(a_follower_that_must_cut_acknowledges_nothing),
        fixture_test(the_next_fetch_ends_a_followers_wait),
        fixture_test(a_follower_hears_of_the_high_watermark_at_once),
        fixture_test(a_consumer_is_sent_to_its_rack),
        fixture_test(partitions_of_a_topic_stand_together),
        fixture_test(a_session_answers_only_news),
        fixture_test(session_errors_are_the_whole_answer),
        fixture_test(old_versions_have_no_sessions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
