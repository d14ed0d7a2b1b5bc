/* Incremental fetch sessions (replication/fetch_session.h): what a session shows is what full
 * fetches would show, and Kafka's rules for who keeps one. */
#include "replication/fetch_session.h"
#include "tests/support/test_env.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#define MINUTE_NS (60ull * 1000000000u)

struct fixture {
    struct test_env t;
    struct fetch_session_cache *cache;
    uint64_t now_ns;
};

static int setup_slots(void **state, int32_t slots)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    test_env_init(&f->t);
    f->cache = fetch_session_cache_new(&f->t.env, slots);
    f->now_ns = 10 * MINUTE_NS;
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_slots(state, 2);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    fetch_session_cache_free(f->cache);
    test_env_deinit(&f->t);
    free(f);
    return 0;
}

static struct fetch_partition named(const char *topic, int32_t partition, int64_t offset)
{
    return (struct fetch_partition){
        .topic_name = str_from(topic), .partition = partition, .fetch_offset = offset};
}

static struct fetch_partition with_id(uint8_t id, int32_t partition)
{
    return (struct fetch_partition){
        .topic_id = {{id}}, .topic_name = STR_NULL, .partition = partition};
}

#define view(...) (&(struct fetch_request_view){__VA_ARGS__})

static struct fetch_context *begin(struct fixture *f, const struct fetch_request_view *q)
{
    struct fetch_context *x = NULL;

    assert_int_equal(fetch_session_begin(f->cache, q, f->now_ns, &x), ERR_NONE);
    assert_non_null(x);
    return x;
}

static enum err begin_error(struct fixture *f, const struct fetch_request_view *q)
{
    struct fetch_context *x = NULL;
    enum err e = fetch_session_begin(f->cache, q, f->now_ns, &x);

    assert_null(x);
    return e;
}

static struct fetch_outcome quiet(int64_t high_watermark)
{
    return (struct fetch_outcome){.high_watermark = high_watermark, .preferred_read_replica = -1};
}

static int32_t commit(struct fixture *f, struct fetch_context *x, const struct fetch_outcome *o)
{
    int32_t id = -1;

    assert_int_equal(fetch_session_commit(x, o, f->now_ns, &id), ERR_NONE);
    fetch_session_end(x);
    return id;
}

/* A session of `count` partitions of topic "t", each with high watermark 10. */
static int32_t new_session(struct fixture *f, int32_t count, bool from_follower)
{
    struct fetch_partition *p = xcalloc((size_t)count, sizeof *p);
    struct fetch_outcome *o = xcalloc((size_t)count, sizeof *o);

    for (int32_t i = 0; i < count; i++) {
        p[i] = named("t", i, 5);
        o[i] = quiet(10);
    }

    struct fetch_context *x =
        begin(f, view(.partitions = p, .partition_count = count, .from_follower = from_follower));
    int32_t id = commit(f, x, o);

    free(p);
    free(o);
    return id;
}

static bool is_alive(struct fixture *f, int32_t id)
{
    /* An epoch that is never right: alive sessions say so. */
    enum err e = begin_error(f, view(.session_id = id, .session_epoch = 1000));

    assert_true(e == ERR_INVALID_FETCH_SESSION_EPOCH || e == ERR_FETCH_SESSION_ID_NOT_FOUND);
    return e == ERR_INVALID_FETCH_SESSION_EPOCH;
}

/* ---- what a context holds ---- */

/* Without a session every partition is answered. */
static void a_final_epoch_makes_no_session(void **state)
{
    struct fixture *f = *state;
    struct fetch_partition p[] = {named("a", 0, 1), named("b", 3, 2)};
    struct fetch_context *x =
        begin(f, view(.session_epoch = -1, .partitions = p, .partition_count = 2));
    struct fetch_outcome o[] = {quiet(-1), quiet(-1)};

    assert_int_equal(fetch_context_count(x), 2);
    assert_int_equal(fetch_context_at(x, 1)->partition, 3);
    assert_true(fetch_context_includes(x, 0, &o[0]));
    assert_int_equal(commit(f, x, o), 0);
}

/* A partition that is named twice counts once, as named last. */
static void repetitions_count_once(void **state)
{
    struct fixture *f = *state;
    struct fetch_partition p[] = {named("a", 0, 1), named("b", 0, 2), named("a", 0, 7)};
    struct fetch_context *x =
        begin(f, view(.session_epoch = 0, .partitions = p, .partition_count = 3));

    assert_int_equal(fetch_context_count(x), 2);
    assert_int_equal(fetch_context_at(x, 0)->fetch_offset, 7);
    fetch_session_end(x);
}

/* An incremental request fetches all that the session remembers, with what it changes, and its
 * answer holds only news. */
static void an_incremental_answer_holds_only_news(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 3, false);
    struct fetch_partition changed = named("t", 1, 8);
    struct fetch_context *x = begin(f, view(.session_id = id, .session_epoch = 1,
                                            .partitions = &changed, .partition_count = 1));

    assert_int_equal(fetch_context_count(x), 3);
    assert_int_equal(fetch_context_at(x, 0)->fetch_offset, 5);
    assert_int_equal(fetch_context_at(x, 1)->fetch_offset, 8);

    struct fetch_outcome o = quiet(10);

    assert_false(fetch_context_includes(x, 0, &o));
    assert_true(fetch_context_includes(x, 0,
                                       &(struct fetch_outcome){.records_bytes = 1,
                                                               .high_watermark = 10,
                                                               .preferred_read_replica = -1}));
    o = quiet(11);
    assert_true(fetch_context_includes(x, 0, &o));
    o = quiet(10);
    o.log_start_offset = 2;
    assert_true(fetch_context_includes(x, 0, &o));
    o = quiet(10);
    o.diverging = true;
    assert_true(fetch_context_includes(x, 0, &o));
    o = quiet(10);
    o.preferred_read_replica = 2;
    assert_true(fetch_context_includes(x, 0, &o));
    o = quiet(10);
    o.err = ERR_OFFSET_OUT_OF_RANGE;
    assert_true(fetch_context_includes(x, 0, &o));
    fetch_session_end(x);
}

/* What was told once is not told again; after an error it is, when the error is over. */
static void what_was_told_is_remembered(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 1, false);
    struct fetch_outcome o = quiet(20);
    struct fetch_context *x = begin(f, view(.session_id = id, .session_epoch = 1));

    assert_int_equal(commit(f, x, &o), id);
    x = begin(f, view(.session_id = id, .session_epoch = 2));
    assert_false(fetch_context_includes(x, 0, &o));
    o.err = ERR_NOT_LEADER_OR_FOLLOWER;
    assert_int_equal(commit(f, x, &o), id);
    o.err = ERR_NONE;
    x = begin(f, view(.session_id = id, .session_epoch = 3));
    assert_true(fetch_context_includes(x, 0, &o));
    fetch_session_end(x);
}

/* Who gave records stands last next time: all get their turn when bytes are scarce (KIP-74). */
static void partitions_with_records_rotate_to_the_end(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 3, false);
    struct fetch_outcome o[] = {quiet(10), quiet(10), quiet(10)};
    struct fetch_context *x = begin(f, view(.session_id = id, .session_epoch = 1));

    o[0].records_bytes = 100;
    assert_int_equal(commit(f, x, o), id);
    x = begin(f, view(.session_id = id, .session_epoch = 2));
    assert_int_equal(fetch_context_at(x, 0)->partition, 1);
    assert_int_equal(fetch_context_at(x, 1)->partition, 2);
    assert_int_equal(fetch_context_at(x, 2)->partition, 0);
    fetch_session_end(x);
}

static void forgotten_partitions_are_not_fetched(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 3, false);
    struct fetch_partition gone[] = {named("t", 1, 0), named("unknown", 1, 0)};
    struct fetch_context *x = begin(
        f, view(.session_id = id, .session_epoch = 1, .forgotten = gone, .forgotten_count = 2));

    assert_int_equal(fetch_context_count(x), 2);
    assert_int_equal(fetch_context_at(x, 1)->partition, 2);
    fetch_session_end(x);
}

/* A session without partitions ends; the request is served without one. */
static void forgetting_everything_closes_the_session(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 1, false);
    struct fetch_partition gone = named("t", 0, 0);
    struct fetch_context *x = begin(
        f, view(.session_id = id, .session_epoch = 1, .forgotten = &gone, .forgotten_count = 1));

    assert_int_equal(fetch_context_count(x), 0);
    assert_int_equal(commit(f, x, NULL), 0);
    assert_false(is_alive(f, id));
}

/* ---- whose session ---- */

static void ids_epochs_and_kinds_are_checked(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 1, false);

    assert_int_equal(begin_error(f, view(.session_id = id ^ 1, .session_epoch = 1)),
                     ERR_FETCH_SESSION_ID_NOT_FOUND);
    assert_int_equal(begin_error(f, view(.session_id = 0, .session_epoch = 1)),
                     ERR_FETCH_SESSION_ID_NOT_FOUND);
    assert_int_equal(begin_error(f, view(.session_id = id, .session_epoch = 2)),
                     ERR_INVALID_FETCH_SESSION_EPOCH);
    assert_int_equal(begin_error(f, view(.session_id = id, .session_epoch = -2)),
                     ERR_INVALID_FETCH_SESSION_EPOCH);
    assert_int_equal(
        begin_error(f, view(.session_id = id, .session_epoch = 1, .by_topic_id = true)),
        ERR_FETCH_SESSION_TOPIC_ID_ERROR);
    fetch_session_end(begin(f, view(.session_id = id, .session_epoch = 1)));
}

/* By topic id the name does not count, and ids tell topics apart. */
static void partitions_may_be_known_by_topic_id(void **state)
{
    struct fixture *f = *state;
    struct fetch_partition p[] = {with_id(1, 0), with_id(2, 0), with_id(1, 0)};
    struct fetch_outcome o[] = {quiet(1), quiet(1)};
    struct fetch_context *x =
        begin(f, view(.by_topic_id = true, .partitions = p, .partition_count = 3));

    assert_int_equal(fetch_context_count(x), 2);

    int32_t id = commit(f, x, o);

    x = begin(f, view(.session_id = id, .session_epoch = 1, .by_topic_id = true, .forgotten = &p[0],
                      .forgotten_count = 1));
    assert_int_equal(fetch_context_count(x), 1);
    assert_int_equal(fetch_context_at(x, 0)->topic_id.b[0], 2);
    fetch_session_end(x);
}

/* A full request closes the session that it names. */
static void a_full_request_replaces_its_session(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 1, false);
    struct fetch_partition p = named("t", 0, 0);
    struct fetch_outcome o = quiet(10);
    struct fetch_context *x = begin(
        f, view(.session_id = id, .session_epoch = 0, .partitions = &p, .partition_count = 1));
    int32_t next = commit(f, x, &o);

    assert_true(next != 0 && next != id);
    assert_false(is_alive(f, id));
    assert_true(is_alive(f, next));
}

/* The client gave up waiting and asks again: the newer request has the session, and what the older
 * one would have told is not remembered. */
static void a_newer_request_supersedes_the_one_before(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 2, false);
    struct fetch_partition gone = named("t", 0, 0);
    struct fetch_context *older = begin(f, view(.session_id = id, .session_epoch = 1));
    struct fetch_context *newer = begin(
        f, view(.session_id = id, .session_epoch = 2, .forgotten = &gone, .forgotten_count = 1));
    struct fetch_outcome o[] = {quiet(99), quiet(99)};
    int32_t said = -1;

    assert_int_equal(fetch_context_count(older), 2); /* what it holds stays */
    assert_true(str_eq_lit(fetch_context_at(older, 0)->topic_name, "t"));
    assert_int_equal(fetch_session_commit(older, o, f->now_ns, &said),
                     ERR_INVALID_FETCH_SESSION_EPOCH);
    assert_int_equal(said, id);
    fetch_session_end(older);
    assert_true(fetch_context_includes(newer, 0, &o[0]));
    assert_int_equal(commit(f, newer, o), id);
}

/* A session may go while a request uses it. */
static void a_session_closed_under_a_request_does_no_harm(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 2, false);
    struct fetch_context *x = begin(f, view(.session_id = id, .session_epoch = 1));
    struct fetch_outcome o[] = {quiet(99), quiet(99)};

    fetch_session_end(begin(f, view(.session_id = id, .session_epoch = -1)));
    assert_false(is_alive(f, id));
    o[0].records_bytes = 1;
    assert_int_equal(commit(f, x, o), id);
}

/* ---- who keeps a session when slots run out (2 here) ---- */

/* Fresh sessions are not evicted by a consumer's: it works without one. */
static void a_full_cache_makes_no_session(void **state)
{
    struct fixture *f = *state;
    int32_t a = new_session(f, 1, false), b = new_session(f, 1, false);

    assert_int_equal(new_session(f, 9, false), 0);
    assert_true(is_alive(f, a) && is_alive(f, b));
}

/* One unused for more than two minutes makes room for anybody. */
static void a_stale_session_makes_room(void **state)
{
    struct fixture *f = *state;
    int32_t a = new_session(f, 5, false), b = new_session(f, 1, false);

    f->now_ns += 2 * MINUTE_NS;
    fetch_session_end(begin(f, view(.session_id = b, .session_epoch = 1)));
    assert_int_equal(new_session(f, 1, false), 0); /* exactly two minutes: not yet */
    f->now_ns += 1;
    assert_true(new_session(f, 1, false) != 0);
    assert_false(is_alive(f, a));
    assert_true(is_alive(f, b));
}

/* One that is used, but older than two minutes and smaller, makes room for a larger one. */
static void a_smaller_old_session_makes_room_for_a_larger(void **state)
{
    struct fixture *f = *state;
    int32_t a = new_session(f, 3, false), b = new_session(f, 2, false);

    f->now_ns += 2 * MINUTE_NS + 1;
    fetch_session_end(begin(f, view(.session_id = a, .session_epoch = 1)));
    fetch_session_end(begin(f, view(.session_id = b, .session_epoch = 1)));
    assert_int_equal(new_session(f, 2, false), 0); /* not larger */
    assert_true(new_session(f, 3, false) != 0);
    assert_true(is_alive(f, a));
    assert_false(is_alive(f, b));
}

/* A follower's session takes the place of a consumer's at once, and never the other way round. */
static void followers_sessions_come_first(void **state)
{
    struct fixture *f = *state;
    int32_t a = new_session(f, 5, false), b = new_session(f, 9, false);
    int32_t c = new_session(f, 1, true);

    assert_true(c != 0);
    assert_false(is_alive(f, a));
    assert_true(new_session(f, 1, true) != 0);
    assert_false(is_alive(f, b));
    f->now_ns += 2 * MINUTE_NS + 1;
    assert_int_equal(begin_error(f, view(.session_id = c, .session_epoch = 1)),
                     ERR_FETCH_SESSION_ID_NOT_FOUND); /* a consumer that guesses it */
    fetch_session_end(begin(f, view(.session_id = c, .session_epoch = 1, .from_follower = true)));
    assert_true(new_session(f, 50, false) != 0); /* the other follower's was stale */
    assert_true(is_alive(f, c));
    assert_int_equal(new_session(f, 50, false), 0);
}

/* A follower that names a partition says what it has: what it was told before may have been dropped
 * there. A consumer says nothing. */
static void a_follower_says_what_it_knows(void **state)
{
    struct fixture *f = *state;
    struct fetch_partition p = named("t", 0, 5);
    struct fetch_outcome o = quiet(10);

    for (int follower = 0; follower < 2; follower++) {
        int32_t id = new_session(f, 1, follower == 1); /* told: 10 */
        struct fetch_context *x;

        p.high_watermark = 7;
        x = begin(f, view(.session_id = id, .session_epoch = 1, .partitions = &p,
                          .partition_count = 1, .from_follower = follower == 1));
        assert_int_equal(fetch_context_told_high_watermark(x, 0), follower == 1 ? 7 : 10);
        assert_int_equal(fetch_context_includes(x, 0, &o), follower == 1);
        fetch_session_end(x);
    }
}

/* What all sessions remember is bounded: a session that would outgrow it is closed. */
static void remembered_partitions_are_bounded(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, FETCH_SESSION_PARTITIONS_MAX, false);
    struct fetch_partition more = named("more", 0, 0);

    assert_true(id != 0);
    assert_int_equal(new_session(f, 1, false), 0);
    assert_int_equal(begin_error(f, view(.session_id = id, .session_epoch = 1, .partitions = &more,
                                         .partition_count = 1)),
                     ERR_FETCH_SESSION_ID_NOT_FOUND);
    assert_true(new_session(f, 1, false) != 0);
    assert_int_equal(begin_error(f, view(.partitions = &more,
                                         .partition_count = FETCH_SESSION_PARTITIONS_MAX + 1)),
                     ERR_TOO_LARGE);
}

/* Epochs run to INT32_MAX and begin again at 1: 0 and -1 mean something else. */
static void a_session_lasts_many_requests(void **state)
{
    struct fixture *f = *state;
    int32_t id = new_session(f, 1, false);
    struct fetch_outcome o = quiet(10);

    for (int32_t epoch = 1; epoch < 1000; epoch++)
        assert_int_equal(commit(f, begin(f, view(.session_id = id, .session_epoch = epoch)), &o),
                         id);
}

#define t(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        t(a_final_epoch_makes_no_session),
        t(repetitions_count_once),
        t(an_incremental_answer_holds_only_news),
        t(what_was_told_is_remembered),
        t(partitions_with_records_rotate_to_the_end),
        t(forgotten_partitions_are_not_fetched),
        t(forgetting_everything_closes_the_session),
        t(ids_epochs_and_kinds_are_checked),
        t(partitions_may_be_known_by_topic_id),
        t(a_full_request_replaces_its_session),
        t(a_newer_request_supersedes_the_one_before),
        t(a_session_closed_under_a_request_does_no_harm),
        t(a_full_cache_makes_no_session),
        t(a_stale_session_makes_room),
        t(a_smaller_old_session_makes_room_for_a_larger),
        t(followers_sessions_come_first),
        t(a_follower_says_what_it_knows),
        t(remembered_partitions_are_bounded),
        t(a_session_lasts_many_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
