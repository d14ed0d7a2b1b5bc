/* tests/sim/oracle_check.c -- the oracle against histories made by hand: what is legal passes, and
 * each broken promise is named by its number.
 */
#include "tests/sim/oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct sim *sim;
    struct oracle *o;
    int topic;
    jmp_buf broken;
    char invariant[16];
};

static void on_violation(struct sim *s, void *ctx, const char *invariant, const char *text)
{
    struct fixture *f = ctx;

    (void)s;
    (void)text;
    snprintf(f->invariant, sizeof f->invariant, "%s", invariant);
    longjmp(f->broken, 1);
}

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);
    struct uuid id = {{1}};

    f->sim = sim_new(&(struct sim_options){.seed = 1, .on_violation = on_violation, .ctx = f});
    f->o = oracle_new(f->sim);
    f->topic = oracle_topic_creating(f->o, "t", 1);
    oracle_topic_created(f->o, f->topic, &id);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    sim_free(f->sim);
    free(f);
    return 0;
}

/* The statement breaks this promise. */
#define assert_breaks(f, number, statement)                                                        \
    do {                                                                                           \
        (f)->invariant[0] = '\0';                                                                  \
        if (setjmp((f)->broken) == 0)                                                              \
            statement;                                                                             \
        assert_string_equal((f)->invariant, number);                                               \
    } while (0)

/* The rest of a test must break nothing. */
#define assert_holds(f)                                                                            \
    do {                                                                                           \
        if (setjmp((f)->broken) != 0)                                                              \
            fail_msg("broke %s", (f)->invariant);                                                  \
    } while (0)

static struct oracle_batch batch(struct fixture *f, int32_t count, int64_t producer,
                                 int32_t sequence)
{
    return (struct oracle_batch){
        .topic = f->topic,
        .first_value = oracle_values_new(f->o, count),
        .count = count,
        .producer_id = producer,
        .base_sequence = sequence,
        .acks = -1,
    };
}

static struct oracle_batch send_acked(struct fixture *f, int32_t count, int64_t offset)
{
    struct oracle_batch b = batch(f, count, -1, -1);
    struct oracle_mark m = oracle_sending(f->o, &b);

    oracle_sent(f->o, &m, &b, ORACLE_ACKED, offset);
    return b;
}

static void see(struct fixture *f, int64_t offset, uint64_t value)
{
    struct oracle_mark m = oracle_mark(f->o, f->topic, 0);
    struct oracle_fetch q = {.topic = f->topic, .fetch_offset = offset, .high_watermark = 1000};

    oracle_read_record(f->o, &m, &q, offset, 0, value);
}

static void read_all(struct fixture *f, int64_t start, int64_t end)
{
    struct oracle_mark m = oracle_mark(f->o, f->topic, 0);

    oracle_partition_read(f->o, &m, f->topic, 0, start, end);
}

/* ---- what must be noticed ---- */

static void a_lost_record(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = send_acked(f, 3, 0);

    oracle_killed(f->o);
    oracle_final_begin(f->o);
    see(f, 0, b.first_value);
    see(f, 1, b.first_value + 1);
    assert_breaks(f, "P1", read_all(f, 0, 2));
}

static void another_record_in_its_place(void **state)
{
    struct fixture *f = *state;

    send_acked(f, 1, 0);
    oracle_killed(f->o);
    assert_breaks(f, "P4", send_acked(f, 1, 0));
}

static void a_power_failure_takes_a_suffix(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = send_acked(f, 3, 0);
    struct oracle_batch later;

    assert_holds(f);
    oracle_power_failed(f->o);
    later = send_acked(f, 1, 1);
    oracle_final_begin(f->o);
    see(f, 0, b.first_value);
    see(f, 1, later.first_value);
    read_all(f, 0, 2);
}

static void a_power_failure_leaves_no_hole(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = send_acked(f, 3, 0);

    oracle_power_failed(f->o);
    send_acked(f, 1, 1);
    assert_breaks(f, "P1", see(f, 2, b.first_value + 2));
}

static void two_power_failures_are_told_apart(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch a = send_acked(f, 2, 0), b;

    assert_holds(f);
    oracle_power_failed(f->o);
    b = send_acked(f, 2, 1);
    oracle_power_failed(f->o);
    send_acked(f, 1, 2);
    oracle_final_begin(f->o);
    see(f, 0, a.first_value);
    see(f, 1, b.first_value);
    assert_breaks(f, "P1", read_all(f, 0, 2));
}

static void a_durable_record_survives_power_failures(void **state)
{
    struct fixture *f = *state;

    oracle_setting_changing(f->o, f->topic, SETTING_FLUSH, true);
    oracle_setting_changed(f->o, f->topic, SETTING_FLUSH, true);
    send_acked(f, 2, 0);
    oracle_power_failed(f->o);
    assert_breaks(f, "P4", send_acked(f, 1, 1));
}

static void an_acknowledgement_on_its_way_counts(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = batch(f, 2, -1, -1);
    struct oracle_mark m;

    oracle_setting_changing(f->o, f->topic, SETTING_FLUSH, true);
    oracle_setting_changed(f->o, f->topic, SETTING_FLUSH, true);
    m = oracle_sending(f->o, &b);
    oracle_power_failed(f->o);
    oracle_sent(f->o, &m, &b, ORACLE_ACKED, 0);
    assert_breaks(f, "P4", send_acked(f, 1, 1));
}

static void a_record_that_was_lost_and_sent_again(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch a = send_acked(f, 1, 0), b = batch(f, 1, 7, 0), c;
    struct oracle_mark m = oracle_sending(f->o, &b);

    (void)a;
    assert_holds(f);
    see(f, 1, b.first_value);
    oracle_power_failed(f->o);
    c = send_acked(f, 1, 0);
    (void)c;
    m = oracle_sending(f->o, &b);
    oracle_sent(f->o, &m, &b, ORACLE_ACKED, 1);
}

static void a_failed_sync_may_lose_at_the_next_stop(void **state)
{
    struct fixture *f = *state;

    send_acked(f, 2, 0);
    oracle_sync_failing(f->o);
    assert_breaks(f, "P4", send_acked(f, 1, 1));
}

static void a_failed_sync_may_lose_after_the_stop(void **state)
{
    struct fixture *f = *state;

    assert_holds(f);
    send_acked(f, 2, 0);
    oracle_sync_failing(f->o);
    oracle_killed(f->o);
    send_acked(f, 1, 1);
}

static void a_clean_stop_makes_durable(void **state)
{
    struct fixture *f = *state;

    send_acked(f, 2, 0);
    oracle_stopped(f->o);
    oracle_power_failed(f->o);
    assert_breaks(f, "P4", send_acked(f, 1, 1));
}

static void a_record_that_is_stored_twice(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = batch(f, 1, 7, 0);
    struct oracle_mark m = oracle_sending(f->o, &b);

    oracle_sent(f->o, &m, &b, ORACLE_ACKED, 0);
    assert_breaks(f, "P5", see(f, 1, b.first_value));
}

static void a_duplicate_with_a_fresh_offset(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = batch(f, 1, 7, 0);
    struct oracle_mark m = oracle_sending(f->o, &b), again;

    oracle_sent(f->o, &m, &b, ORACLE_ACKED, 0);
    again = oracle_sending(f->o, &b);
    assert_breaks(f, "P5", oracle_sent(f->o, &again, &b, ORACLE_ACKED, 5));
}

static void sequences_out_of_order(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch a = batch(f, 1, 7, 0), b = batch(f, 1, 7, 1);

    (void)oracle_sending(f->o, &a);
    (void)oracle_sending(f->o, &b);
    oracle_final_begin(f->o);
    see(f, 0, b.first_value);
    see(f, 1, a.first_value);
    assert_breaks(f, "P5", read_all(f, 0, 2));
}

static void a_refused_record_that_is_there(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = batch(f, 1, -1, -1);
    struct oracle_mark m = oracle_sending(f->o, &b);

    oracle_sent(f->o, &m, &b, ORACLE_REFUSED, -1);
    assert_breaks(f, "P9", see(f, 0, b.first_value));
}

static void a_read_beyond_the_high_watermark(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = send_acked(f, 1, 5);
    struct oracle_mark m = oracle_mark(f->o, f->topic, 0);
    struct oracle_fetch q = {.topic = f->topic, .fetch_offset = 5, .high_watermark = 5};

    assert_breaks(f, "P2", oracle_read_record(f->o, &m, &q, 5, 0, b.first_value));
}

static void a_high_watermark_below_what_was_acknowledged(void **state)
{
    struct fixture *f = *state;
    struct oracle_mark m;

    send_acked(f, 3, 0);
    m = oracle_mark(f->o, f->topic, 0);
    assert_breaks(
        f, "P2",
        oracle_fetched(f->o, &m, &(struct oracle_fetch){.topic = f->topic, .high_watermark = 2}));
}

static void deleted_records_come_back(void **state)
{
    struct fixture *f = *state;
    struct oracle_mark m;

    send_acked(f, 9, 0);
    oracle_deleting(f->o, f->topic, 0, 5);
    oracle_deleted(f->o, f->topic, 0, 5);
    oracle_killed(f->o);
    m = oracle_mark(f->o, f->topic, 0);
    assert_breaks(f, "H48h", oracle_listed_start(f->o, &m, f->topic, 0, 4));
}

static void records_go_that_nobody_deleted(void **state)
{
    struct fixture *f = *state;
    struct oracle_mark m;

    send_acked(f, 9, 0);
    m = oracle_mark(f->o, f->topic, 0);
    assert_breaks(f, "H48h", oracle_listed_start(f->o, &m, f->topic, 0, 1));
}

static void a_skipped_batch(void **state)
{
    struct fixture *f = *state;
    struct oracle_mark m = oracle_mark(f->o, f->topic, 0);
    struct oracle_fetch q = {.topic = f->topic, .high_watermark = 100, .next = -1};

    oracle_read_batch(f->o, &m, &q, 0, 4);
    assert_breaks(f, "P1", oracle_read_batch(f->o, &m, &q, 6, 7));
}

static void garbage_is_legal_only_in_damaged_logs(void **state)
{
    struct fixture *f = *state;

    assert_breaks(f, "P4", oracle_read_garbage(f->o, f->topic, 0, 0, "noise"));
    assert_holds(f);
    assert_true(oracle_damaged(f->o, "/data/t-0/00000000000000000000.log"));
    oracle_read_garbage(f->o, f->topic, 0, 0, "noise");
}

static void a_deleted_topic_that_is_shown(void **state)
{
    struct fixture *f = *state;
    struct uuid id = *oracle_topic_id(f->o, f->topic);

    oracle_topic_deleting(f->o, f->topic);
    oracle_topic_deleted(f->o, f->topic);
    assert_breaks(f, "P8", oracle_metadata_topic(f->o, sim_now(f->sim) + 1, "t", &id, 1));
}

static void a_topic_that_is_not_shown(void **state)
{
    struct fixture *f = *state;

    oracle_metadata_begin(f->o);
    assert_breaks(f, "P8", oracle_metadata_end(f->o, sim_now(f->sim) + 1));
}

static void a_record_of_the_topic_before(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = send_acked(f, 1, 0);
    struct uuid id = {{2}};

    oracle_topic_deleting(f->o, f->topic);
    oracle_topic_deleted(f->o, f->topic);
    f->topic = oracle_topic_creating(f->o, "t", 1);
    oracle_topic_created(f->o, f->topic, &id);
    assert_breaks(f, "P4", see(f, 0, b.first_value));
}

static void a_sequence_that_is_refused_for_nothing(void **state)
{
    struct fixture *f = *state;
    struct oracle_batch b = batch(f, 1, 7, 3);

    assert_breaks(f, "P5", oracle_sequence_refused(f->o, &b, oracle_cuts(f->o)));
    assert_holds(f);
    oracle_power_failed(f->o);
    oracle_sequence_refused(f->o, &b, 0);
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(a_lost_record),
        test(another_record_in_its_place),
        test(a_power_failure_takes_a_suffix),
        test(a_power_failure_leaves_no_hole),
        test(two_power_failures_are_told_apart),
        test(a_durable_record_survives_power_failures),
        test(an_acknowledgement_on_its_way_counts),
        test(a_record_that_was_lost_and_sent_again),
        test(a_failed_sync_may_lose_at_the_next_stop),
        test(a_failed_sync_may_lose_after_the_stop),
        test(a_clean_stop_makes_durable),
        test(a_record_that_is_stored_twice),
        test(a_duplicate_with_a_fresh_offset),
        test(sequences_out_of_order),
        test(a_refused_record_that_is_there),
        test(a_read_beyond_the_high_watermark),
        test(a_high_watermark_below_what_was_acknowledged),
        test(deleted_records_come_back),
        test(records_go_that_nobody_deleted),
        test(a_skipped_batch),
        test(garbage_is_legal_only_in_damaged_logs),
        test(a_deleted_topic_that_is_shown),
        test(a_topic_that_is_not_shown),
        test(a_record_of_the_topic_before),
        test(a_sequence_that_is_refused_for_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
