/* The follower's side (replication/replica_fetcher.h): what it asks for, what it takes, and what it
 * refuses. Each test says the rule; Fn are the invariants of replication/README.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/record_batch.h"
#include "replication/replica_fetcher.h"

#define MS         1000000ull
#define SECOND     (1000 * MS)
#define EPOCH      5 /* of the leader */
#define BYTES_MAX  1000
#define ANSWER_MAX 2000
#define SESSION    77

/* Connected, session made, the first long poll out: partitions 0 and 1, logs 0..100 of epoch 5,
 * high watermark 80. */
struct fixture {
    struct replica_fetcher *f;
    struct replica_fetcher_config config;
    struct fetch_order sent; /* the last request */
    struct fetch_effect effect;
    uint64_t now_ns;
    uint8_t bytes[8192]; /* batches of the next part */
    size_t size;
};

static struct fetch_key key(int32_t partition)
{
    return (struct fetch_key){.topic_id = {{9}}, .partition = partition};
}

static struct fetch_log_view log_to(int64_t end)
{
    return (struct fetch_log_view){
        .log_end_offset = end,
        .durable_end_offset = end,
        .high_watermark = MIN(end, INT64_C(80)),
        .last_epoch = end > 0 ? EPOCH : -1,
    };
}

static void follow_as(struct fixture *f, int32_t partition, int32_t epoch,
                      struct fetch_log_view log)
{
    struct fetch_key k = key(partition);

    replica_fetcher_follow(f->f, &k,
                           &(struct fetch_follow){.leader_epoch = epoch, .recovering_epoch = -1},
                           &log, f->now_ns);
}

static void expect_send(struct fixture *f, int32_t asks, int32_t forgotten)
{
    assert_int_equal(replica_fetcher_poll(f->f, f->now_ns, &f->sent), FETCH_SEND);
    assert_int_equal(f->sent.ask_count, asks);
    assert_int_equal(f->sent.forgotten_count, forgotten);
}

static void expect_quiet(struct fixture *f)
{
    struct fetch_order ignored;

    assert_int_equal(replica_fetcher_poll(f->f, f->now_ns, &ignored), FETCH_NOTHING);
}

static enum err answer_to(struct fixture *f, int32_t correlation_id, enum err err,
                          int32_t session_id, const struct fetch_part *parts, int32_t count)
{
    return replica_fetcher_on_answer(f->f,
                                     &(struct fetch_answer){
                                         .correlation_id = correlation_id,
                                         .err = err,
                                         .session_id = session_id,
                                         .parts = parts,
                                         .part_count = count,
                                     },
                                     f->now_ns);
}

static struct fetch_part part_of(int32_t partition)
{
    return (struct fetch_part){
        .key = key(partition),
        .high_watermark = 80,
        .diverging_epoch = -1,
        .diverging_end_offset = -1,
    };
}

/* Answers the last request with one part. */
static void answer(struct fixture *f, struct fetch_part part)
{
    assert_int_equal(answer_to(f, f->sent.correlation_id, ERR_NONE, SESSION, &part, 1), ERR_NONE);
}

static void answer_nothing(struct fixture *f)
{
    assert_int_equal(answer_to(f, f->sent.correlation_id, ERR_NONE, SESSION, NULL, 0), ERR_NONE);
}

static void answer_error(struct fixture *f, enum err err)
{
    assert_int_equal(answer_to(f, f->sent.correlation_id, err, 0, NULL, 0), ERR_NONE);
}

/* A batch behind those in `bytes`. Returns where it lies. */
static uint8_t *add_batch(struct fixture *f, int64_t base_offset, int records, int32_t epoch,
                          int32_t value_size)
{
    static const uint8_t zeros[4096];
    struct record_batch_builder b;
    struct iobuf *made = NULL;
    uint8_t *at = f->bytes + f->size;

    record_batch_builder_init(&b, base_offset);
    b.partition_leader_epoch = epoch;
    for (int i = 0; i < records; i++)
        record_batch_builder_add(&b, 1, BYTES_NULL, (struct bytes){zeros, value_size}, NULL, 0);
    assert_int_equal(record_batch_builder_finish(&b, &made), ERR_NONE);
    assert_true(f->size + made->len <= sizeof f->bytes);
    memcpy(at, made->ptr, made->len);
    f->size += made->len;
    iobuf_unref(made);
    record_batch_builder_deinit(&b);
    return at;
}

static struct fetch_part records_part(const struct fixture *f, int32_t partition)
{
    struct fetch_part part = part_of(partition);

    part.records = f->bytes;
    part.records_size = f->size;
    return part;
}

static void expect_effect(struct fixture *f, enum fetch_effect_kind kind)
{
    assert_true(replica_fetcher_next(f->f, &f->effect));
    assert_int_equal(f->effect.kind, kind);
}

static void expect_no_effect(struct fixture *f)
{
    assert_false(replica_fetcher_next(f->f, &f->effect));
}

static void expect_trouble(struct fixture *f, enum fetch_trouble trouble)
{
    expect_effect(f, FETCH_EFFECT_TROUBLE);
    assert_int_equal(f->effect.trouble, trouble);
    expect_no_effect(f);
}

/* The outcome of the last effect. */
static void done(struct fixture *f, enum err err, struct fetch_log_view log)
{
    replica_fetcher_on_done(f->f, &f->effect.key, f->effect.ticket, err, &log, f->now_ns);
}

static void epoch_end(struct fixture *f, int32_t epoch, int64_t end, struct fetch_log_view log)
{
    replica_fetcher_on_epoch_end(f->f, &f->effect.key, f->effect.ticket, epoch, end, &log,
                                 f->now_ns);
}

/* Partition 0 stands back: it is forgotten, and asked for again after `pause_ns`. */
static void sit_out(struct fixture *f, uint64_t pause_ns)
{
    expect_send(f, 0, 1);
    f->now_ns += pause_ns - 1;
    expect_quiet(f);
    assert_int_equal(replica_fetcher_deadline_ns(f->f), f->now_ns + 1);
    f->now_ns++;
    expect_send(f, 1, 0);
    assert_true(f->sent.supersedes);
    assert_int_equal(
        answer_to(f, f->sent.correlation_id - 1, ERR_INVALID_FETCH_SESSION_EPOCH, 0, NULL, 0),
        ERR_NONE);
}

static const struct replica_fetcher_stats *stats(const struct fixture *f)
{
    return replica_fetcher_stats(f->f);
}

static struct fetch_status status(const struct fixture *f, int32_t partition)
{
    struct fetch_key k = key(partition);
    struct fetch_status s;

    assert_true(replica_fetcher_status(f->f, &k, &s));
    return s;
}

static void connect_link(struct fixture *f)
{
    struct fetch_order ignored;

    assert_int_equal(replica_fetcher_poll(f->f, f->now_ns, &ignored), FETCH_CONNECT);
    replica_fetcher_on_connected(f->f, f->now_ns);
}

static int setup_empty(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    f->now_ns = 100 * SECOND;
    f->config = (struct replica_fetcher_config){
        .max_wait_ms = 500,
        .min_bytes = 1,
        .response_bytes_max = ANSWER_MAX,
        .partition_bytes_max = BYTES_MAX,
        .backoff_ns = SECOND,
        .request_timeout_ns = 30 * SECOND,
    };
    f->f = replica_fetcher_new(&f->config, 1000, 1);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    setup_empty(state);

    struct fixture *f = *state;

    follow_as(f, 0, EPOCH, log_to(100));
    follow_as(f, 1, EPOCH, log_to(100));
    connect_link(f);
    expect_send(f, 2, 0);
    answer_nothing(f);
    expect_send(f, 0, 0);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    replica_fetcher_free(f->f);
    free(f);
    return 0;
}

/* ---- requests ---- */

/* The request that makes the session waits for nothing: while it waited nothing new could be told.
 * It names all, with what the leader needs to fence and to find where the logs part. */
static void the_first_request_is_full_and_does_not_wait(void **state)
{
    struct fixture *f = *state;

    follow_as(f, 3, EPOCH,
              (struct fetch_log_view){.log_start_offset = 20,
                                      .log_end_offset = 90,
                                      .high_watermark = 70,
                                      .last_epoch = 4,
                                      .durable_end_offset = 60,
                                      .durable_counts = true});
    connect_link(f);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.session_id, 0);
    assert_int_equal(f->sent.session_epoch, 0);
    assert_int_equal(f->sent.max_wait_ms, 0);
    assert_int_equal(f->sent.broker_epoch, 1000);
    assert_int_equal(f->sent.min_bytes, 1);
    assert_int_equal(f->sent.max_bytes, ANSWER_MAX);
    assert_int_equal(f->sent.partition_max_bytes, BYTES_MAX);
    assert_false(f->sent.supersedes);

    const struct fetch_ask *a = &f->sent.asks[0];

    assert_int_equal(a->key.partition, 3);
    assert_int_equal(a->current_leader_epoch, EPOCH);
    assert_int_equal(a->last_fetched_epoch, 4);
    assert_int_equal(a->fetch_offset, 90);
    assert_int_equal(a->log_start_offset, 20);
    assert_int_equal(a->durable_end_offset, 60);
    assert_int_equal(a->high_watermark, 70);
}

/* From then on exactly one request is in the leader's long poll. */
static void one_request_is_always_in_the_long_poll(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(f->sent.session_id, SESSION);
    assert_int_equal(f->sent.session_epoch, 1);
    assert_int_equal(f->sent.max_wait_ms, 500);
    expect_quiet(f);
    for (int i = 2; i < 5; i++) {
        answer_nothing(f);
        expect_send(f, 0, 0);
        assert_int_equal(f->sent.session_epoch, i);
        expect_quiet(f);
    }
}

/* What was appended is acknowledged at once, and only that is told. */
static void appended_records_are_acknowledged_at_once(void **state)
{
    struct fixture *f = *state;

    add_batch(f, 100, 3, EPOCH, 10);
    answer(f, records_part(f, 1));
    expect_effect(f, FETCH_EFFECT_TAKE);
    assert_int_equal(f->effect.offset, 100);
    assert_int_equal(f->effect.leader_epoch, EPOCH);
    assert_int_equal(f->effect.leader_high_watermark, 80);
    assert_int_equal(f->effect.records_size, f->size);
    assert_ptr_equal(f->effect.records, f->bytes);
    expect_no_effect(f);
    done(f, ERR_NONE, log_to(103));
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].key.partition, 1);
    assert_int_equal(f->sent.asks[0].fetch_offset, 103);
    expect_quiet(f);
}

/* The leader's high watermark and log start arrive without records too (F5). */
static void the_leaders_numbers_arrive_without_records(void **state)
{
    struct fixture *f = *state;
    struct fetch_part part = part_of(0);
    struct fetch_log_view log = log_to(100);

    part.high_watermark = 95;
    part.log_start_offset = 30;
    answer(f, part);
    expect_effect(f, FETCH_EFFECT_TAKE);
    assert_int_equal(f->effect.records_size, 0);
    assert_int_equal(f->effect.leader_high_watermark, 95);
    assert_int_equal(f->effect.leader_log_start_offset, 30);
    log.high_watermark = 95;
    log.log_start_offset = 30;
    done(f, ERR_NONE, log);
    expect_send(f, 1, 0); /* for the log start; the high watermark alone is not told */
    assert_int_equal(f->sent.asks[0].log_start_offset, 30);
    assert_int_equal(status(f, 0).lag, 0);
}

/* Where durable ends count, the end of a sync is told at once, by a request that supersedes the one
 * in the long poll [H12]; there are never more than two (F8). */
static void a_durable_end_supersedes_the_long_poll(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(0);
    struct fetch_log_view log = log_to(100);
    int32_t first = f->sent.correlation_id;

    log.durable_counts = true;
    log.durable_end_offset = 70;
    replica_fetcher_on_log(f->f, &k, &log);
    expect_send(f, 1, 0);
    assert_true(f->sent.supersedes);
    assert_int_equal(f->sent.asks[0].durable_end_offset, 70);
    assert_int_equal(f->sent.session_epoch, 2);
    log.durable_end_offset = 90;
    replica_fetcher_on_log(f->f, &k, &log);
    expect_quiet(f);

    /* The superseded one ends; that is no error of the session. */
    assert_int_equal(answer_to(f, first, ERR_INVALID_FETCH_SESSION_EPOCH, 0, NULL, 0), ERR_NONE);
    assert_int_equal(stats(f)->session_errors, 0);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].durable_end_offset, 90);
    assert_int_equal(f->sent.session_epoch, 3);
    log.durable_end_offset = 100; /* told too: a tag that is left out says nothing */
    replica_fetcher_on_log(f->f, &k, &log);
    assert_int_equal(
        answer_to(f, f->sent.correlation_id - 1, ERR_INVALID_FETCH_SESSION_EPOCH, 0, NULL, 0),
        ERR_NONE);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].durable_end_offset, 100);
}

/* Where they do not count they cost no request. */
static void durable_ends_that_do_not_count_are_not_told(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(0);
    struct fetch_log_view log = log_to(100);

    log.durable_end_offset = 70;
    replica_fetcher_on_log(f->f, &k, &log);
    expect_quiet(f);
}

/* A new partition does not wait for the long poll to end: after a failover that would be half a
 * second without acknowledgements. */
static void a_new_partition_supersedes_the_long_poll(void **state)
{
    struct fixture *f = *state;

    follow_as(f, 2, EPOCH, log_to(40));
    expect_send(f, 1, 0);
    assert_true(f->sent.supersedes);
    assert_int_equal(f->sent.asks[0].key.partition, 2);
    assert_int_equal(f->sent.asks[0].fetch_offset, 40);
}

/* Nor does a new registration: what the leader knows is of the life before [H5]. */
static void a_new_broker_epoch_supersedes_the_long_poll(void **state)
{
    struct fixture *f = *state;

    replica_fetcher_set_broker_epoch(f->f, 2000);
    expect_send(f, 0, 0);
    assert_true(f->sent.supersedes);
    assert_int_equal(f->sent.broker_epoch, 2000);
    expect_quiet(f);
}

/* A partition that is followed no more is forgotten with the next request. */
static void what_is_unfollowed_is_forgotten(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(1);

    replica_fetcher_unfollow(f->f, &k);
    assert_int_equal(replica_fetcher_count(f->f), 1);
    expect_quiet(f);
    answer_nothing(f);
    expect_send(f, 0, 1);
    assert_int_equal(f->sent.forgotten[0].partition, 1);
    answer_nothing(f);
    expect_send(f, 0, 0);
}

/* Back before the session has forgotten it: told anew, and not forgotten. */
static void what_is_followed_again_is_not_forgotten(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(1);

    replica_fetcher_unfollow(f->f, &k);
    follow_as(f, 1, EPOCH + 1, log_to(90));
    answer_nothing(f);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].fetch_offset, 90);
    assert_int_equal(f->sent.asks[0].current_leader_epoch, EPOCH + 1);
}

/* A leader without room for a session gets full requests, which then do wait. In them, whoever got
 * records stands behind the others. */
static void without_a_session_requests_are_full_and_rotate(void **state)
{
    struct fixture *f = *state;
    struct fetch_part part;

    for (int i = 0; i < 3; i++)
        follow_as(f, i, EPOCH, log_to(100));
    connect_link(f);
    expect_send(f, 3, 0);
    assert_int_equal(answer_to(f, f->sent.correlation_id, ERR_NONE, 0, NULL, 0), ERR_NONE);
    expect_send(f, 3, 0);
    assert_int_equal(f->sent.session_epoch, 0);
    assert_int_equal(f->sent.max_wait_ms, 500);
    follow_as(f, 3, EPOCH, log_to(100)); /* cannot be told before the answer */
    expect_quiet(f);
    add_batch(f, 100, 1, EPOCH, 10);
    part = records_part(f, 0);
    assert_int_equal(answer_to(f, f->sent.correlation_id, ERR_NONE, 0, &part, 1), ERR_NONE);
    expect_effect(f, FETCH_EFFECT_TAKE);
    done(f, ERR_NONE, log_to(101));
    expect_send(f, 4, 0);
    assert_int_equal(f->sent.asks[0].key.partition, 1);
    assert_int_equal(f->sent.asks[3].key.partition, 0);
}

/* ---- sessions and the connection ---- */

/* An unknown session is made anew at once, and a disagreeing one closed by its successor. */
static void a_lost_session_is_made_anew(void **state)
{
    struct fixture *f = *state;

    answer_error(f, ERR_FETCH_SESSION_ID_NOT_FOUND);
    expect_send(f, 2, 0);
    assert_int_equal(f->sent.session_id, 0);
    assert_int_equal(f->sent.session_epoch, 0);
    assert_int_equal(f->sent.max_wait_ms, 0);
    answer_nothing(f);
    expect_send(f, 0, 0);
    answer_nothing(f); /* it was of use */
    expect_send(f, 0, 0);
    answer_error(f, ERR_INVALID_FETCH_SESSION_EPOCH);
    expect_send(f, 2, 0);
    assert_int_equal(f->sent.session_id, SESSION);
    assert_int_equal(f->sent.session_epoch, 0);
    assert_int_equal(stats(f)->session_errors, 2);
}

/* A session that is lost again and again, before it was of any use, does not make a spin. */
static void sessions_that_do_not_last_are_made_with_pauses(void **state)
{
    struct fixture *f = *state;

    answer_error(f, ERR_FETCH_SESSION_ID_NOT_FOUND);
    expect_send(f, 2, 0);
    answer_error(f, ERR_FETCH_SESSION_ID_NOT_FOUND);
    expect_quiet(f);
    assert_int_equal(replica_fetcher_deadline_ns(f->f), f->now_ns + 10 * MS);
    f->now_ns += 10 * MS;
    expect_send(f, 2, 0);
}

/* An error of the whole answer: pause, then begin anew, and say so once. */
static void a_peer_that_refuses_is_left_alone_for_a_while(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 2; i++) {
        answer_error(f, ERR_UNKNOWN_SERVER_ERROR);
        if (i == 0) {
            expect_effect(f, FETCH_EFFECT_TROUBLE);
            assert_int_equal(f->effect.key.partition, -1);
            assert_int_equal(f->effect.err, ERR_UNKNOWN_SERVER_ERROR);
        }
        expect_no_effect(f);
        expect_quiet(f);
        f->now_ns += SECOND;
        expect_send(f, 2, 0);
        assert_int_equal(f->sent.session_epoch, 0);
    }
    assert_int_equal(stats(f)->troubles[FETCH_TROUBLE_LEADER], 2);
}

/* A lost connection is made again with growing pauses; what was outstanding is void, and the new
 * session closes the old one. */
static void a_lost_connection_is_made_again(void **state)
{
    struct fixture *f = *state;
    struct fetch_order ignored;
    int32_t before = f->sent.correlation_id;

    for (uint64_t pause = 10 * MS; pause < 2 * SECOND; pause *= 2) {
        replica_fetcher_on_disconnected(f->f, f->now_ns);
        expect_quiet(f);
        assert_int_equal(replica_fetcher_deadline_ns(f->f), f->now_ns + MIN(pause, SECOND));
        f->now_ns += MIN(pause, SECOND);
        assert_int_equal(replica_fetcher_poll(f->f, f->now_ns, &ignored), FETCH_CONNECT);
        expect_quiet(f);
    }
    replica_fetcher_on_connected(f->f, f->now_ns);
    expect_send(f, 2, 0);
    assert_int_equal(f->sent.session_id, SESSION);
    assert_int_equal(f->sent.session_epoch, 0);
    assert_int_equal(answer_to(f, before, ERR_NONE, SESSION, NULL, 0), ERR_MALFORMED);
    answer_nothing(f);
    replica_fetcher_on_disconnected(f->f, f->now_ns);
    assert_int_equal(replica_fetcher_deadline_ns(f->f), f->now_ns + 10 * MS);
}

/* A peer that is silent for too long is hung up on. */
static void a_silent_peer_is_hung_up_on(void **state)
{
    struct fixture *f = *state;
    struct fetch_order ignored;

    assert_int_equal(replica_fetcher_deadline_ns(f->f), f->now_ns + 30 * SECOND);
    f->now_ns += 30 * SECOND;
    assert_int_equal(replica_fetcher_poll(f->f, f->now_ns, &ignored), FETCH_CLOSE);
    expect_quiet(f);
}

/* Without partitions there is no connection; with the next one it is made at once. */
static void a_connection_without_partitions_is_closed(void **state)
{
    struct fixture *f = *state;
    struct fetch_order ignored;

    for (int32_t i = 0; i < 2; i++)
        replica_fetcher_unfollow(f->f, &(struct fetch_key){key(i).topic_id, i});
    assert_int_equal(replica_fetcher_poll(f->f, f->now_ns, &ignored), FETCH_CLOSE);
    expect_quiet(f);
    assert_true(replica_fetcher_deadline_ns(f->f) == UINT64_MAX);
    follow_as(f, 0, EPOCH, log_to(100));
    connect_link(f);
    expect_send(f, 1, 0);
}

/* An answer to nothing, or of another session, is not listened to. */
static void an_answer_to_nothing_is_malformed(void **state)
{
    struct fixture *f = *state;
    int32_t id = f->sent.correlation_id;

    assert_int_equal(answer_to(f, id + 1, ERR_NONE, SESSION, NULL, 0), ERR_MALFORMED);
    assert_int_equal(answer_to(f, id, ERR_NONE, SESSION + 1, NULL, 0), ERR_MALFORMED);
    assert_int_equal(answer_to(f, id, ERR_NONE, SESSION, NULL, 0), ERR_NONE);
    assert_int_equal(answer_to(f, id, ERR_NONE, SESSION, NULL, 0), ERR_MALFORMED);
}

/* ---- errors of one partition ---- */

/* Any error stops that partition alone: it is forgotten, and asked for again after a pause (F6,
 * F7). What passes when both nodes know the new leader is tried again soon. */
static void an_error_stops_one_partition_for_a_while(void **state)
{
    struct fixture *f = *state;
    const struct {
        enum err err;
        bool transient;
    } errors[] = {
        {ERR_NOT_LEADER_OR_FOLLOWER, true},
        {ERR_FENCED_LEADER_EPOCH, true},
        {ERR_UNKNOWN_LEADER_EPOCH, true},
        {ERR_UNKNOWN_TOPIC_ID, true},
        {ERR_UNKNOWN_TOPIC_OR_PARTITION, true},
        {ERR_INCONSISTENT_TOPIC_ID, true},
        {ERR_OFFSET_MOVED_TO_TIERED_STORAGE, false},
        {ERR_KAFKA_STORAGE_ERROR, false},
        {ERR_CORRUPT_MESSAGE, false},
        {ERR_UNKNOWN_SERVER_ERROR, false},
    };

    for (size_t i = 0; i < ARRAY_COUNT(errors); i++) {
        struct fetch_part part = part_of(0);
        int32_t epoch = EPOCH + 1 + (int32_t)i;
        uint64_t pause = errors[i].transient ? 10 * MS : SECOND;

        follow_as(f, 0, epoch, log_to(100)); /* well again */
        answer_nothing(f);
        expect_send(f, 1, 0);
        part.err = errors[i].err;
        answer(f, part);
        expect_trouble(f, FETCH_TROUBLE_LEADER);
        assert_int_equal(f->effect.err, errors[i].err);
        assert_int_equal(f->effect.transient, errors[i].transient);
        assert_false(status(f, 0).asked_for);
        assert_true(status(f, 1).asked_for);
        sit_out(f, pause);
        assert_int_equal(f->sent.asks[0].fetch_offset, 100);
    }
}

/* Such pauses grow, up to the configured one; the same trouble is told once. */
static void pauses_grow_and_trouble_is_told_once(void **state)
{
    struct fixture *f = *state;
    struct fetch_part part = part_of(0);
    struct fetch_key k = key(1);

    replica_fetcher_unfollow(f->f, &k);
    part.err = ERR_UNKNOWN_LEADER_EPOCH;
    for (uint64_t pause = 10 * MS; pause < 3 * SECOND; pause *= 2) {
        answer(f, part);
        assert_int_equal(replica_fetcher_deadline_ns(f->f), f->now_ns + MIN(pause, SECOND));
        f->now_ns += MIN(pause, SECOND);
        assert_int_equal(replica_fetcher_poll(f->f, f->now_ns, &f->sent), FETCH_SEND);
    }
    expect_trouble(f, FETCH_TROUBLE_LEADER);
    assert_true(stats(f)->troubles[FETCH_TROUBLE_LEADER] > 5);
    answer(f, part_of(0));
    expect_effect(f, FETCH_EFFECT_TAKE);
    done(f, ERR_NONE, log_to(100));
    assert_int_equal(status(f, 0).trouble, FETCH_TROUBLE_NONE);
}

/* A new epoch ends the pause. */
static void a_new_epoch_ends_the_pause(void **state)
{
    struct fixture *f = *state;
    struct fetch_part part = part_of(0);

    part.err = ERR_FENCED_LEADER_EPOCH;
    answer(f, part);
    expect_send(f, 0, 1);
    follow_as(f, 0, EPOCH + 1, log_to(100));
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].current_leader_epoch, EPOCH + 1);
}

/* An older epoch changes nothing (R1). */
static void an_older_epoch_changes_nothing(void **state)
{
    struct fixture *f = *state;

    follow_as(f, 0, EPOCH - 1, log_to(50));
    expect_quiet(f);
}

/* ---- out of range ---- */

static struct fetch_part out_of_range(int64_t log_start_offset)
{
    struct fetch_part part = part_of(0);

    part.err = ERR_OFFSET_OUT_OF_RANGE;
    part.high_watermark = -1;
    part.log_start_offset = log_start_offset;
    return part;
}

/* The leader's log begins behind our end: ours begins anew where it does. */
static void a_log_that_ends_before_the_leaders_start_begins_anew(void **state)
{
    struct fixture *f = *state;
    struct fetch_log_view log = log_to(300);

    answer(f, out_of_range(300));
    expect_effect(f, FETCH_EFFECT_RESTART);
    assert_int_equal(f->effect.offset, 300);
    assert_int_equal(f->effect.records_size, 0);
    assert_false(f->effect.below_high_watermark);
    expect_no_effect(f);
    expect_send(f, 0, 1);
    log.log_start_offset = 300;
    log.last_epoch = -1;
    done(f, ERR_NONE, log);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].fetch_offset, 300);
    assert_int_equal(f->sent.asks[0].last_fetched_epoch, -1);
    assert_int_equal(stats(f)->restarts, 1);
}

/* It knows no place for us within its log: all would have to go, which below our high watermark is
 * not done (F4). */
static void a_log_is_not_dropped_below_the_high_watermark(void **state)
{
    struct fixture *f = *state;

    answer(f, out_of_range(10));
    expect_trouble(f, FETCH_TROUBLE_HIGH_WATERMARK);
    assert_int_equal(stats(f)->restarts, 0);
}

/* But after an unclean election; and a log without records loses nothing [H21c]. */
static void a_log_is_dropped_after_an_unclean_election_or_when_empty(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(0);
    struct fetch_log_view log = log_to(100);

    replica_fetcher_follow(
        f->f, &k, &(struct fetch_follow){.leader_epoch = EPOCH + 2, .recovering_epoch = EPOCH + 1},
        &log, f->now_ns);
    expect_send(f, 1, 0);
    assert_int_equal(
        answer_to(f, f->sent.correlation_id - 1, ERR_INVALID_FETCH_SESSION_EPOCH, 0, NULL, 0),
        ERR_NONE);
    answer(f, out_of_range(10));
    expect_effect(f, FETCH_EFFECT_RESTART);
    assert_true(f->effect.below_high_watermark);
    log = log_to(10);
    log.log_start_offset = 10;
    log.last_epoch = -1;
    done(f, ERR_NONE, log);
    expect_send(f, 1, 0);
    answer(f, out_of_range(5)); /* empty now */
    expect_effect(f, FETCH_EFFECT_RESTART);
    assert_int_equal(f->effect.offset, 5);
    assert_false(f->effect.below_high_watermark);
    assert_int_equal(stats(f)->truncations_below_high_watermark, 1);
}

/* A leader that does not say where its log begins, or begins where we stand, is asked again. */
static void out_of_range_without_a_way_out_is_asked_again(void **state)
{
    struct fixture *f = *state;

    answer(f, out_of_range(-1));
    expect_trouble(f, FETCH_TROUBLE_LEADER);
    assert_int_equal(f->effect.err, ERR_OFFSET_OUT_OF_RANGE);
}

/* ---- diverging ---- */

static struct fetch_part diverging(int32_t epoch, int64_t end)
{
    struct fetch_part part = part_of(0);

    part.diverging_epoch = epoch;
    part.diverging_end_offset = end;
    part.high_watermark = 1000; /* must not be believed */
    return part;
}

/* Truncation to the lesser of our end of the leader's epoch and its own, again until they agree
 * (F3); nothing is asked for meanwhile. */
static void diverging_logs_are_truncated_until_they_agree(void **state)
{
    struct fixture *f = *state;
    struct fetch_log_view log = log_to(100);

    answer(f, diverging(4, 95)); /* the leader's 4 ends at 95, ours at 92 */
    expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
    assert_int_equal(f->effect.epoch, 4);
    expect_no_effect(f);
    epoch_end(f, 4, 92, log);
    expect_effect(f, FETCH_EFFECT_TRUNCATE);
    assert_int_equal(f->effect.offset, 92);
    assert_int_equal(f->effect.leader_epoch, EPOCH);
    assert_false(f->effect.below_high_watermark);
    expect_no_effect(f);
    expect_send(f, 0, 1);
    log = log_to(92);
    log.last_epoch = 4;
    done(f, ERR_NONE, log);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].fetch_offset, 92);
    assert_int_equal(f->sent.asks[0].last_fetched_epoch, 4);
    assert_int_equal(
        answer_to(f, f->sent.correlation_id - 1, ERR_INVALID_FETCH_SESSION_EPOCH, 0, NULL, 0),
        ERR_NONE);

    answer(f, diverging(3, 90)); /* its 3 ends at 90, ours at 91 */
    expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
    epoch_end(f, 3, 91, log);
    expect_effect(f, FETCH_EFFECT_TRUNCATE);
    assert_int_equal(f->effect.offset, 90);
    log = log_to(90);
    log.last_epoch = 3;
    done(f, ERR_NONE, log);
    assert_int_equal(stats(f)->truncations, 2);
    assert_int_equal(stats(f)->truncations_below_high_watermark, 0);
}

/* The leader's epoch is not in our log: what we have of later ones goes, whatever the leader's end
 * (KIP-279): that may lie within a batch of ours. */
static void an_epoch_that_we_lack_truncates_what_is_later(void **state)
{
    struct fixture *f = *state;

    answer(f, diverging(4, 83));
    expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
    epoch_end(f, 2, 85, log_to(100));
    expect_effect(f, FETCH_EFFECT_TRUNCATE);
    assert_int_equal(f->effect.offset, 85);
}

/* All that we have is later than what the leader knows: all goes, where that may be. */
static void a_log_without_a_common_epoch_is_emptied(void **state)
{
    struct fixture *f = *state;
    struct fetch_log_view log = log_to(100);

    log.log_start_offset = log.high_watermark = 80;
    answer(f, diverging(2, 99));
    expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
    epoch_end(f, -1, -1, log);
    expect_effect(f, FETCH_EFFECT_RESTART);
    assert_int_equal(f->effect.offset, 80);
}

/* Never below the high watermark (F4): the replica stands still and says so. */
static void truncation_stops_at_the_high_watermark(void **state)
{
    struct fixture *f = *state;

    answer(f, diverging(4, 79));
    expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
    epoch_end(f, 4, 95, log_to(100));
    expect_trouble(f, FETCH_TROUBLE_HIGH_WATERMARK);
    assert_int_equal(status(f, 0).trouble, FETCH_TROUBLE_HIGH_WATERMARK);
    assert_int_equal(stats(f)->truncations, 0);
}

/* But when our log is of before an unclean election; it is counted [H21c]. What is of that epoch or
 * later has been through it already. */
static void after_an_unclean_election_truncation_goes_below(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(0);

    for (int32_t i = 0; i < 2; i++) {
        struct fetch_log_view log = log_to(100);

        replica_fetcher_follow(f->f, &k,
                               &(struct fetch_follow){.leader_epoch = EPOCH + 3 + i,
                                                      .recovering_epoch = i == 0 ? EPOCH : 7},
                               &log, f->now_ns);
        answer_nothing(f);
        expect_send(f, 1, 0);
        answer(f, diverging(4, 60));
        expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
        epoch_end(f, 4, 95, log);
        if (i == 0) {
            expect_trouble(f, FETCH_TROUBLE_HIGH_WATERMARK);
            expect_send(f, 0, 1);
            continue;
        }
        expect_effect(f, FETCH_EFFECT_TRUNCATE);
        assert_int_equal(f->effect.offset, 60);
        assert_true(f->effect.below_high_watermark);
    }
    assert_int_equal(stats(f)->truncations_below_high_watermark, 1);
}

/* An epoch that we led and never wrote in: the truncation cuts no record, but the epoch goes. When
 * nothing at all has changed, the answer would be the same for ever: stand back. */
static void a_truncation_must_change_something(void **state)
{
    struct fixture *f = *state;
    struct fetch_log_view log = log_to(100);

    for (int i = 0; i < 2; i++) {
        answer(f, diverging(4 - i, 100));
        expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
        epoch_end(f, 4 - i, 100, log);
        expect_effect(f, FETCH_EFFECT_TRUNCATE);
        assert_int_equal(f->effect.offset, 100);
        log.last_epoch = 4;
        done(f, ERR_NONE, log);
        if (i == 0)
            expect_send(f, 1, 0);
    }
    expect_trouble(f, FETCH_TROUBLE_NO_PROGRESS);
}

/* At or below our own start there is nothing to keep: the log begins anew there. */
static void truncation_below_our_start_begins_anew(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(0);
    struct fetch_log_view log = log_to(100);

    log.log_start_offset = 70;
    replica_fetcher_follow(
        f->f, &k, &(struct fetch_follow){.leader_epoch = EPOCH + 2, .recovering_epoch = EPOCH + 1},
        &log, f->now_ns);
    answer_nothing(f);
    expect_send(f, 1, 0);
    answer(f, diverging(4, 60));
    expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
    epoch_end(f, 4, 95, log);
    expect_effect(f, FETCH_EFFECT_RESTART);
    assert_int_equal(f->effect.offset, 60);
}

/* A leader that says we diverge where we do not, or names an epoch above ours, is not believed. */
static void a_divergence_that_cannot_be_is_refused(void **state)
{
    struct fixture *f = *state;
    const struct fetch_part parts[] = {diverging(EPOCH, 100), diverging(EPOCH + 1, 50),
                                       diverging(4, -1)};

    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        answer(f, parts[i]);
        assert_int_equal(status(f, 0).trouble, FETCH_TROUBLE_ANSWER);
        sit_out(f, SECOND);
    }
    expect_trouble(f, FETCH_TROUBLE_ANSWER);
}

/* ---- validation (F2) ---- */

static void expect_refused(struct fixture *f, enum fetch_trouble trouble)
{
    struct fetch_key k = key(0);
    uint64_t before = stats(f)->troubles[trouble];

    answer(f, records_part(f, 0));
    expect_trouble(f, trouble); /* and so nothing is appended */
    assert_int_equal(stats(f)->troubles[trouble], before + 1);
    assert_true(status(f, 1).asked_for);
    expect_send(f, 0, 1);
    replica_fetcher_unfollow(f->f, &k); /* well again */
    follow_as(f, 0, EPOCH, log_to(100));
    answer_nothing(f);
    expect_send(f, 1, 0);
    f->size = 0;
}

/* One bad batch, be it the last, and nothing of the answer is appended. */
static void bad_batches_are_refused_whole(void **state)
{
    struct fixture *f = *state;
    uint8_t *b;

    add_batch(f, 100, 2, EPOCH, 10); /* a gap between batches */
    add_batch(f, 103, 2, EPOCH, 10);
    expect_refused(f, FETCH_TROUBLE_NOT_CONTIGUOUS);

    add_batch(f, 100, 2, EPOCH, 10); /* an overlap */
    add_batch(f, 101, 2, EPOCH, 10);
    expect_refused(f, FETCH_TROUBLE_NOT_CONTIGUOUS);

    add_batch(f, 101, 2, EPOCH, 10); /* not where our log ends */
    expect_refused(f, FETCH_TROUBLE_NOT_CONTIGUOUS);

    add_batch(f, 99, 2, EPOCH, 10); /* that it may begin within a batch is for empty logs */
    expect_refused(f, FETCH_TROUBLE_NOT_CONTIGUOUS);

    add_batch(f, 100, 2, EPOCH, 10);
    b = add_batch(f, 102, 2, EPOCH, 10);
    b[RECORD_BATCH_HEADER_SIZE + 3] ^= 1;
    expect_refused(f, FETCH_TROUBLE_CRC);

    b = add_batch(f, 100, 2, EPOCH, 10);
    b[16] = 1;
    expect_refused(f, FETCH_TROUBLE_MAGIC);

    add_batch(f, 100, 2, EPOCH, 10); /* the beginning of a batch */
    f->size -= 1;
    expect_refused(f, FETCH_TROUBLE_MALFORMED);

    add_batch(f, 100, 2, EPOCH, 10);
    f->size += 5;
    expect_refused(f, FETCH_TROUBLE_MALFORMED);

    b = add_batch(f, 100, 2, EPOCH, 10); /* a length that cannot be */
    store_be32(b + RECORD_BATCH_LENGTH_AT, 0xfffffff0u);
    expect_refused(f, FETCH_TROUBLE_MALFORMED);

    add_batch(f, 100, 2, EPOCH + 1, 10); /* [H10] */
    expect_refused(f, FETCH_TROUBLE_EPOCH_ABOVE);

    add_batch(f, 100, 2, EPOCH - 1, 10);
    expect_refused(f, FETCH_TROUBLE_EPOCH_BELOW);

    add_batch(f, 100, 1, EPOCH, BYTES_MAX); /* more than one, beyond what was asked for */
    add_batch(f, 101, 1, EPOCH, 10);
    expect_refused(f, FETCH_TROUBLE_TOO_LARGE);
}

/* One batch may be larger than asked for, else a follower could not get past it (KIP-74). */
static void one_batch_may_be_larger_than_asked_for(void **state)
{
    struct fixture *f = *state;

    add_batch(f, 100, 1, EPOCH, ANSWER_MAX + 10);
    answer(f, records_part(f, 0));
    expect_effect(f, FETCH_EFFECT_TAKE);
}

/* But only the first of the answer beyond the limit of all. */
static void all_parts_together_keep_the_limit_of_the_answer(void **state)
{
    struct fixture *f = *state;
    struct fetch_part parts[2];

    add_batch(f, 100, 1, EPOCH, 1200);
    parts[0] = records_part(f, 0);
    parts[1] = records_part(f, 1);
    assert_int_equal(answer_to(f, f->sent.correlation_id, ERR_NONE, SESSION, parts, 2), ERR_NONE);
    expect_effect(f, FETCH_EFFECT_TAKE);
    assert_int_equal(f->effect.key.partition, 0);
    expect_trouble(f, FETCH_TROUBLE_TOO_LARGE);
    assert_int_equal(f->effect.key.partition, 1);
}

/* A compacted log has gaps; it never goes back. */
static void compacted_logs_may_have_gaps(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(0);
    struct fetch_log_view log = log_to(100);

    replica_fetcher_follow(
        f->f, &k,
        &(struct fetch_follow){.leader_epoch = EPOCH, .recovering_epoch = -1, .gaps_allowed = true},
        &log, f->now_ns);
    add_batch(f, 105, 2, EPOCH, 10);
    add_batch(f, 106, 2, EPOCH, 10);
    answer(f, records_part(f, 0));
    expect_trouble(f, FETCH_TROUBLE_NOT_CONTIGUOUS);
    expect_send(f, 0, 1);
    f->now_ns += SECOND;
    answer_nothing(f);
    expect_send(f, 1, 0);
    f->size = 0;
    add_batch(f, 105, 2, EPOCH, 10);
    add_batch(f, 109, 2, EPOCH, 10);
    answer(f, records_part(f, 0));
    expect_effect(f, FETCH_EFFECT_TAKE);
}

/* The leader's log may begin within a batch (DeleteRecords). An empty log that begins there takes
 * the batch whole, and so begins before it. */
static void an_empty_log_takes_the_batch_that_holds_its_start(void **state)
{
    struct fixture *f = *state;
    struct fetch_log_view log = {
        .log_start_offset = 105, .log_end_offset = 105, .high_watermark = 105, .last_epoch = -1};

    follow_as(f, 2, EPOCH, log);
    answer_nothing(f);
    expect_send(f, 1, 0);
    add_batch(f, 100, 10, EPOCH, 1);

    struct fetch_part part = records_part(f, 2);

    part.high_watermark = 110;
    part.log_start_offset = 105;
    answer(f, part);
    expect_effect(f, FETCH_EFFECT_RESTART);
    assert_int_equal(f->effect.offset, 100);
    assert_int_equal(f->effect.records_size, f->size);
    assert_int_equal(f->effect.leader_high_watermark, 110);
    assert_int_equal(f->effect.leader_log_start_offset, 105);
    assert_false(f->effect.below_high_watermark);
    log.log_end_offset = log.high_watermark = 110;
    log.last_epoch = EPOCH;
    done(f, ERR_NONE, log);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].fetch_offset, 110);
}

/* A leader whose log begins where ours ends has compared nothing of it. What we hold may be of
 * another history, so it goes, and what follows need not fit to it. */
static void a_log_of_which_nothing_was_compared_begins_anew(void **state)
{
    struct fixture *f = *state;
    struct fetch_part part;

    for (int i = 0; i < 3; i++) {
        f->size = 0;
        if (i > 0)
            add_batch(f, i == 1 ? 100 : 98, 5, EPOCH - 1, 1);
        part = records_part(f, 0);
        part.high_watermark = 105;
        part.log_start_offset = 100;
        answer(f, part);
        expect_effect(f, FETCH_EFFECT_RESTART);
        assert_int_equal(f->effect.offset, i < 2 ? 100 : 98);
        assert_int_equal(f->effect.records_size, f->size);
        assert_false(f->effect.below_high_watermark);
        done(f, ERR_NONE, log_to(100));
        expect_send(f, 0, 0);
    }
}

/* The same when they diverge and all that the leader still has is behind where they parted. */
static void logs_that_parted_before_the_leaders_start_begin_anew(void **state)
{
    struct fixture *f = *state;
    struct fetch_part part = diverging(4, 95);

    part.log_start_offset = 95;
    for (int i = 0; i < 2; i++) {
        struct fetch_log_view log = log_to(100);

        if (i == 1)
            log.high_watermark = 97;
        answer(f, part);
        expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
        epoch_end(f, 4, 99, log);
        if (i == 1) {
            expect_trouble(f, FETCH_TROUBLE_HIGH_WATERMARK);
            break;
        }
        expect_effect(f, FETCH_EFFECT_RESTART);
        assert_int_equal(f->effect.offset, 95);
        done(f, ERR_NONE, log);
        expect_send(f, 0, 0);
    }
}

/* Numbers that cannot be. */
static void impossible_numbers_are_refused(void **state)
{
    struct fixture *f = *state;
    struct fetch_part part = part_of(0);

    part.high_watermark = -1;
    answer(f, part);
    expect_trouble(f, FETCH_TROUBLE_ANSWER);
    sit_out(f, SECOND);
    part.high_watermark = 80;
    part.log_start_offset = 81;
    answer(f, part);
    assert_int_equal(stats(f)->troubles[FETCH_TROUBLE_ANSWER], 2);
}

/* ---- what changes while a request is in flight (F1) ---- */

/* Records for a partition that is followed no more, or anew, or in another epoch, are dropped. */
static void stale_parts_are_dropped(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(0);

    add_batch(f, 100, 2, EPOCH, 10);
    for (int i = 0; i < 3; i++) {
        int32_t before = f->sent.correlation_id;
        struct fetch_part part = records_part(f, 0);

        if (i == 0)
            follow_as(f, 0, EPOCH + 1, log_to(100));
        else
            replica_fetcher_unfollow(f->f, &k);
        if (i == 1)
            follow_as(f, 0, EPOCH + 1, log_to(100));
        assert_int_equal(answer_to(f, before, ERR_NONE, SESSION, &part, 1), ERR_NONE);
        expect_no_effect(f);
        assert_int_equal(stats(f)->stale_parts, i + 1);
        if (i < 2)
            expect_send(f, i == 0, 0);
    }
}

/* The same goes for errors and divergences. */
static void stale_errors_are_dropped(void **state)
{
    struct fixture *f = *state;

    follow_as(f, 0, EPOCH + 1, log_to(100));
    answer(f, diverging(4, 50));
    expect_no_effect(f);
    assert_true(status(f, 0).asked_for);
}

/* A superseded request may have been answered before its successor came: the same records come
 * twice, and are taken once. */
static void records_that_come_twice_are_taken_once(void **state)
{
    struct fixture *f = *state;
    struct fetch_part part;
    int32_t first = f->sent.correlation_id;

    follow_as(f, 2, EPOCH, log_to(40));
    expect_send(f, 1, 0);
    add_batch(f, 100, 2, EPOCH, 10);
    part = records_part(f, 0);
    assert_int_equal(answer_to(f, first, ERR_NONE, SESSION, &part, 1), ERR_NONE);
    expect_effect(f, FETCH_EFFECT_TAKE);
    done(f, ERR_NONE, log_to(102));
    assert_int_equal(replica_fetcher_poll(f->f, f->now_ns, &f->sent), FETCH_SEND);
    assert_int_equal(answer_to(f, f->sent.correlation_id - 1, ERR_NONE, SESSION, &part, 1),
                     ERR_NONE);
    expect_no_effect(f);
    assert_int_equal(stats(f)->stale_parts, 1);
    assert_int_equal(status(f, 0).trouble, FETCH_TROUBLE_NONE);
}

/* A partition named twice in one answer is taken once. */
static void a_partition_named_twice_is_taken_once(void **state)
{
    struct fixture *f = *state;
    struct fetch_part parts[2];

    add_batch(f, 100, 2, EPOCH, 10);
    parts[0] = parts[1] = records_part(f, 0);
    assert_int_equal(answer_to(f, f->sent.correlation_id, ERR_NONE, SESSION, parts, 2), ERR_NONE);
    expect_effect(f, FETCH_EFFECT_TAKE);
    expect_no_effect(f);
}

/* Effects that have not been carried out are void when their partition or epoch has gone, and an
 * outcome that comes too late changes nothing (F9). */
static void effects_of_what_has_gone_are_void(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(0);

    add_batch(f, 100, 2, EPOCH, 10);
    answer(f, records_part(f, 0));
    follow_as(f, 0, EPOCH + 1, log_to(100));
    expect_no_effect(f);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].fetch_offset, 100);

    f->size = 0;
    add_batch(f, 100, 2, EPOCH + 1, 10);
    answer(f, records_part(f, 0));
    expect_effect(f, FETCH_EFFECT_TAKE);
    replica_fetcher_unfollow(f->f, &k);
    follow_as(f, 0, EPOCH + 1, log_to(90));
    done(f, ERR_NONE, log_to(102));
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].fetch_offset, 90);
}

/* A truncation ends in a later epoch than it began in: the partition goes on from there. */
static void a_truncation_may_outlive_its_epoch(void **state)
{
    struct fixture *f = *state;
    struct fetch_log_view log = log_to(90);

    answer(f, diverging(4, 90));
    expect_effect(f, FETCH_EFFECT_FIND_EPOCH);
    epoch_end(f, 4, 95, log_to(100));
    expect_effect(f, FETCH_EFFECT_TRUNCATE);
    follow_as(f, 0, EPOCH + 1, log_to(100));
    expect_send(f, 0, 1); /* still cutting */
    log.last_epoch = 4;
    done(f, ERR_FENCED_LEADER_EPOCH, log);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].fetch_offset, 90);
    assert_int_equal(f->sent.asks[0].current_leader_epoch, EPOCH + 1);
}

/* ---- our own log ---- */

/* No room yet: that partition alone is not asked for until there is (F7). */
static void a_log_without_room_stops_its_partition_alone(void **state)
{
    struct fixture *f = *state;
    struct fetch_key k = key(0);
    struct fetch_log_view log = log_to(101);

    add_batch(f, 100, 1, EPOCH, 10);
    add_batch(f, 101, 1, EPOCH, 10);
    answer(f, records_part(f, 0));
    expect_effect(f, FETCH_EFFECT_TAKE);
    done(f, ERR_AGAIN, log); /* the first batch found room */
    expect_send(f, 0, 1);
    assert_false(status(f, 0).asked_for);
    assert_true(status(f, 1).asked_for);
    f->now_ns += 10 * SECOND;
    expect_quiet(f);
    replica_fetcher_on_room(f->f, &k, &log);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].fetch_offset, 101);
}

/* An append that fails: a pause, short when only the state has moved on. */
static void an_append_that_fails_makes_a_pause(void **state)
{
    struct fixture *f = *state;
    const struct {
        enum err err;
        uint64_t pause;
    } outcomes[] = {{ERR_KAFKA_STORAGE_ERROR, SECOND},
                    {ERR_FENCED_LEADER_EPOCH, 20 * MS},
                    {ERR_OFFSET_OUT_OF_RANGE, 40 * MS}};

    add_batch(f, 100, 1, EPOCH, 10);
    for (size_t i = 0; i < ARRAY_COUNT(outcomes); i++) {
        answer(f, records_part(f, 0));
        while (replica_fetcher_next(f->f, &f->effect) && f->effect.kind != FETCH_EFFECT_TAKE)
            ;
        done(f, outcomes[i].err, log_to(100));
        assert_int_equal(status(f, 0).trouble, FETCH_TROUBLE_LOG);
        assert_int_equal(status(f, 0).err, outcomes[i].err);
        sit_out(f, outcomes[i].pause);
    }
}

/* ---- throttling ---- */

/* While the quota is exceeded, throttled partitions that lag are not asked for; those that have
 * caught up are, for they cost nothing and would else leave the ISR. */
static void throttled_partitions_wait_for_the_quota(void **state)
{
    struct fixture *f = *state;
    struct fetch_log_view log = log_to(100);
    struct fetch_part parts[2] = {part_of(0), part_of(1)};

    for (int32_t i = 0; i < 2; i++) {
        struct fetch_key k = key(i);

        replica_fetcher_follow(f->f, &k,
                               &(struct fetch_follow){.leader_epoch = EPOCH,
                                                      .recovering_epoch = -1,
                                                      .throttled = true},
                               &log, f->now_ns);
    }
    parts[1].high_watermark = 500;
    assert_int_equal(answer_to(f, f->sent.correlation_id, ERR_NONE, SESSION, parts, 2), ERR_NONE);
    for (int i = 0; i < 2; i++) {
        expect_effect(f, FETCH_EFFECT_TAKE);
        assert_true(f->effect.throttled);
        done(f, ERR_NONE, log);
    }
    assert_int_equal(replica_fetcher_lag_max(f->f), 400);
    replica_fetcher_set_quota_exceeded(f->f, true);
    expect_send(f, 0, 1);
    assert_int_equal(f->sent.forgotten[0].partition, 1);
    replica_fetcher_set_quota_exceeded(f->f, false);
    expect_send(f, 1, 0);
    assert_int_equal(f->sent.asks[0].key.partition, 1);
}

/* Another limit for a partition's bytes is told to the leader with a full request. */
static void a_new_limit_is_told_anew(void **state)
{
    struct fixture *f = *state;

    f->config.partition_bytes_max = 5000;
    replica_fetcher_configure(f->f, &f->config);
    expect_quiet(f);
    answer_nothing(f);
    expect_send(f, 2, 0);
    assert_int_equal(f->sent.session_id, SESSION);
    assert_int_equal(f->sent.session_epoch, 0);
    assert_int_equal(f->sent.partition_max_bytes, 5000);
}

#define t(name)       cmocka_unit_test_setup_teardown(name, setup, teardown)
#define t_empty(name) cmocka_unit_test_setup_teardown(name, setup_empty, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        t_empty(the_first_request_is_full_and_does_not_wait),
        t(one_request_is_always_in_the_long_poll),
        t(appended_records_are_acknowledged_at_once),
        t(the_leaders_numbers_arrive_without_records),
        t(a_durable_end_supersedes_the_long_poll),
        t(durable_ends_that_do_not_count_are_not_told),
        t(a_new_partition_supersedes_the_long_poll),
        t(a_new_broker_epoch_supersedes_the_long_poll),
        t(what_is_unfollowed_is_forgotten),
        t(what_is_followed_again_is_not_forgotten),
        t_empty(without_a_session_requests_are_full_and_rotate),
        t(a_lost_session_is_made_anew),
        t(sessions_that_do_not_last_are_made_with_pauses),
        t(a_peer_that_refuses_is_left_alone_for_a_while),
        t(a_lost_connection_is_made_again),
        t(a_silent_peer_is_hung_up_on),
        t(a_connection_without_partitions_is_closed),
        t(an_answer_to_nothing_is_malformed),
        t(an_error_stops_one_partition_for_a_while),
        t(pauses_grow_and_trouble_is_told_once),
        t(a_new_epoch_ends_the_pause),
        t(an_older_epoch_changes_nothing),
        t(a_log_that_ends_before_the_leaders_start_begins_anew),
        t(a_log_is_not_dropped_below_the_high_watermark),
        t(a_log_is_dropped_after_an_unclean_election_or_when_empty),
        t(out_of_range_without_a_way_out_is_asked_again),
        t(diverging_logs_are_truncated_until_they_agree),
        t(an_epoch_that_we_lack_truncates_what_is_later),
        t(a_log_without_a_common_epoch_is_emptied),
        t(truncation_stops_at_the_high_watermark),
        t(after_an_unclean_election_truncation_goes_below),
        t(a_truncation_must_change_something),
        t(truncation_below_our_start_begins_anew),
        t(a_divergence_that_cannot_be_is_refused),
        t(bad_batches_are_refused_whole),
        t(one_batch_may_be_larger_than_asked_for),
        t(all_parts_together_keep_the_limit_of_the_answer),
        t(compacted_logs_may_have_gaps),
        t(an_empty_log_takes_the_batch_that_holds_its_start),
        t(a_log_of_which_nothing_was_compared_begins_anew),
        t(logs_that_parted_before_the_leaders_start_begin_anew),
        t(impossible_numbers_are_refused),
        t(stale_parts_are_dropped),
        t(stale_errors_are_dropped),
        t(records_that_come_twice_are_taken_once),
        t(a_partition_named_twice_is_taken_once),
        t(effects_of_what_has_gone_are_void),
        t(a_truncation_may_outlive_its_epoch),
        t(a_log_without_room_stops_its_partition_alone),
        t(an_append_that_fails_makes_a_pause),
        t(throttled_partitions_wait_for_the_quota),
        t(a_new_limit_is_told_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
