/* The leader/follower core (replication/partition.h): who may acknowledge, and what consumers may
 * see. Each test says the rule; Rn are the invariants of replication/README.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "replication/partition.h"

#define SECOND   1000000000ull
#define LAG_MAX  (30 * SECOND)
#define EPOCH_OF 1000 /* broker n is registered with epoch EPOCH_OF + n */

/* Broker 1 leads from epoch 5 on; replicas 1, 2, 3; ISR 1, 2; its log is 0..100. */
struct fixture {
    struct partition *p;
    struct partition_state state;
    struct log_view log;
    struct effects effects; /* of the last event */
    uint64_t now_ns;
};

static struct partition_state state_of(int32_t leader, int32_t leader_epoch,
                                       int32_t partition_epoch)
{
    struct partition_state s = {
        .leader = leader,
        .leader_epoch = leader_epoch,
        .partition_epoch = partition_epoch,
        .replicas = {1, 2, 3},
        .replica_count = 3,
        .isr = {1, 2},
        .isr_broker_epochs = {EPOCH_OF + 1, EPOCH_OF + 2},
        .isr_count = 2,
        .live_broker_epochs = {EPOCH_OF + 1, EPOCH_OF + 2, EPOCH_OF + 3},
        .effective_min_isr = 2,
    };

    return s;
}

static void tell_state(struct fixture *f)
{
    partition_on_state(f->p, &f->state, &f->log, f->now_ns, &f->effects);
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    f->now_ns = 100 * SECOND;
    f->log = (struct log_view){.log_end_offset = 100, .durable_end_offset = 100};
    f->p = partition_new(1, 0);
    f->state = state_of(1, 5, 10);
    tell_state(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    partition_free(f->p);
    free(f);
    return 0;
}

#define fetch(f, ...) fetch_as((f), (struct replica_fetch){__VA_ARGS__})

static enum err fetch_as(struct fixture *f, struct replica_fetch q)
{
    if (q.broker_epoch == 0)
        q.broker_epoch = EPOCH_OF + q.replica;
    if (q.leader_epoch == 0)
        q.leader_epoch = 5;
    if (q.durable_end_offset == 0)
        q.durable_end_offset = -1;
    return partition_on_replica_fetch(f->p, &q, &f->log, f->now_ns, &f->effects);
}

static void grow_to(struct fixture *f, int64_t log_end_offset)
{
    f->log.log_end_offset = log_end_offset;
    partition_on_log(f->p, &f->log, f->now_ns, &f->effects);
}

static void tick(struct fixture *f)
{
    partition_on_tick(f->p, &f->log, LAG_MAX, f->now_ns, &f->effects);
}

static const struct effect *find_effect(const struct fixture *f, enum effect_kind kind)
{
    for (int i = 0; i < f->effects.count; i++)
        if (f->effects.list[i].kind == kind)
            return &f->effects.list[i];
    return NULL;
}

static void expect_proposal(const struct fixture *f, int count, int32_t a, int32_t b, int32_t c)
{
    const struct effect *e = find_effect(f, EFFECT_ALTER_ISR);
    const int32_t expected[] = {a, b, c};

    assert_non_null(e);
    assert_int_equal(e->isr_count, count);
    for (int i = 0; i < count; i++)
        assert_int_equal(e->isr[i], expected[i]);
    assert_int_equal(e->epoch, f->state.leader_epoch);
    assert_int_equal(e->partition_epoch, f->state.partition_epoch);
}

static int64_t high_watermark(const struct fixture *f)
{
    return partition_high_watermark(f->p);
}

/* ---- the high watermark ---- */

/* It is the lowest end in the ISR, the leader's own included (R3). */
static void hw_is_the_lowest_end_in_the_isr(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 90), ERR_NONE);
    assert_int_equal(high_watermark(f), 90);
    assert_int_equal(find_effect(f, EFFECT_HW_ADVANCED)->offset, 90);
    grow_to(f, 110);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 110), ERR_NONE);
    assert_int_equal(high_watermark(f), 110);
}

/* A follower cannot have what its leader does not: should it say so, nothing of it counts, or the
 * high watermark would pass records that it never had. */
static void a_fetch_beyond_the_leaders_end_counts_as_nothing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 101), ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = -1), ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(f->effects.count, 0);
    grow_to(f, 200);
    assert_int_equal(high_watermark(f), 0);
}

/* A follower outside the ISR that is not caught up must not hold it back. */
static void hw_ignores_replicas_outside_isr(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 90), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 10), ERR_NONE);
    assert_int_equal(high_watermark(f), 90);
}

/* A member that has not fetched from this leader counts as -1: nothing is committed yet (R4). */
static void hw_waits_for_the_first_fetch_of_each_member(void **state)
{
    struct fixture *f = *state;

    grow_to(f, 200);
    assert_int_equal(high_watermark(f), 0);
    assert_null(find_effect(f, EFFECT_HW_ADVANCED));
}

/* It never moves back within an epoch, whatever a follower says (R2). */
static void hw_never_moves_back(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 90), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 50), ERR_NONE);
    assert_int_equal(high_watermark(f), 90);
}

/* It does not move while the committed ISR is smaller than the effective min ISR [H4]: an ELR
 * member must hold everything that was ever readable. */
static void hw_stands_still_below_min_isr(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 90), ERR_NONE);
    f->now_ns += 2 * LAG_MAX; /* nobody is about to join */
    f->state.isr_count = 1;
    f->state.partition_epoch++;
    tell_state(f);
    grow_to(f, 300);
    assert_int_equal(high_watermark(f), 90);
    assert_true(partition_under_min_isr(f->p));

    f->state.isr_count = 2;
    f->state.partition_epoch++;
    tell_state(f);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 300), ERR_NONE);
    assert_int_equal(high_watermark(f), 300);
}

/* With one replica every append is committed at once. */
static void hw_of_a_single_replica_is_its_end(void **state)
{
    struct fixture *f = *state;

    f->state.replica_count = f->state.isr_count = f->state.effective_min_isr = 1;
    f->state.partition_epoch++;
    tell_state(f);
    assert_int_equal(high_watermark(f), 100);
    grow_to(f, 101);
    assert_int_equal(high_watermark(f), 101);
}

/* Where durable ends count, what is not on every member's disk is not committed, the leader's own
 * disk included (R5, [H12]). */
static void hw_uses_durable_ends_when_they_count(void **state)
{
    struct fixture *f = *state;

    f->log.durable_counts = true;
    f->log.durable_end_offset = 80;
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100, .durable_end_offset = 70),
                     ERR_NONE);
    assert_int_equal(high_watermark(f), 70);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100, .durable_end_offset = 100),
                     ERR_NONE);
    assert_int_equal(high_watermark(f), 80);
    f->log.durable_end_offset = 100;
    partition_on_log(f->p, &f->log, f->now_ns, &f->effects);
    assert_int_equal(high_watermark(f), 100);
    assert_int_equal(find_effect(f, EFFECT_HW_ADVANCED)->offset, 100);
}

/* A follower cannot have more on its disk than it has at all. */
static void durable_end_is_never_beyond_the_fetch_offset(void **state)
{
    struct fixture *f = *state;

    f->log.durable_counts = true;
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 60, .durable_end_offset = 100),
                     ERR_NONE);
    assert_int_equal(high_watermark(f), 60);
}

/* ---- incarnations and epochs ---- */

/* What a follower said in an earlier life does not count: it may have come back with less [H5]. */
static void a_restarted_follower_counts_as_nothing_until_it_fetches(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 90), ERR_NONE);
    f->state.isr_broker_epochs[1] = f->state.live_broker_epochs[1] = 2000;
    tell_state(f);
    grow_to(f, 200);
    assert_int_equal(high_watermark(f), 90);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 95, .broker_epoch = 2000), ERR_NONE);
    assert_int_equal(high_watermark(f), 95);
}

/* A fetch that an earlier incarnation sent, and that arrives late, changes nothing. */
static void a_fetch_of_an_older_incarnation_is_refused(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 50, .broker_epoch = 2000), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 90), ERR_NOT_LEADER_OR_FOLLOWER);
    assert_int_equal(high_watermark(f), 0);
}

static void fetches_are_fenced_by_leader_epoch(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .leader_epoch = 4), ERR_FENCED_LEADER_EPOCH);
    assert_int_equal(fetch(f, .replica = 2, .leader_epoch = 6), ERR_UNKNOWN_LEADER_EPOCH);
    assert_int_equal(fetch(f, .replica = 9), ERR_UNKNOWN_LEADER_EPOCH);
    assert_int_equal(fetch(f, .replica = 9, .leader_epoch = -1), ERR_NOT_LEADER_OR_FOLLOWER);
    assert_int_equal(fetch(f, .replica = 1), ERR_UNKNOWN_LEADER_EPOCH);
    assert_int_equal(f->effects.count, 0);
}

/* A state of an older partition epoch changes nothing (R1). */
static void older_states_change_nothing(void **state)
{
    struct fixture *f = *state;
    struct partition_state old = state_of(2, 4, 9);

    partition_on_state(f->p, &old, &f->log, f->now_ns, &f->effects);
    assert_int_equal(partition_role(f->p), PARTITION_LEADER);
    assert_int_equal(partition_leader_epoch(f->p), 5);
    assert_int_equal(f->effects.count, 0);
}

/* A new leader records where its epoch begins before it appends. */
static void becoming_leader_begins_an_epoch(void **state)
{
    struct fixture *f = *state;
    const struct effect *e = find_effect(f, EFFECT_BEGIN_EPOCH);

    assert_non_null(e);
    assert_int_equal(e->epoch, 5);
    f->state.partition_epoch++; /* the ISR changed: the epoch goes on */
    tell_state(f);
    assert_null(find_effect(f, EFFECT_BEGIN_EPOCH));
}

/* Who waits on a deposed leader is told at once. */
static void losing_the_leadership_fails_who_waits(void **state)
{
    struct fixture *f = *state;

    f->state = state_of(2, 6, 11);
    tell_state(f);
    assert_int_equal(partition_role(f->p), PARTITION_FOLLOWER);
    assert_int_equal(partition_leader(f->p), 2);
    assert_int_equal(find_effect(f, EFFECT_FAIL_WAITERS)->err, ERR_NOT_LEADER_OR_FOLLOWER);
    assert_int_equal(partition_check_append(f->p, false), ERR_NOT_LEADER_OR_FOLLOWER);
}

/* A new epoch of the same leader forgets what followers said in the old one (R4). */
static void a_new_epoch_asks_every_follower_anew(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 90), ERR_NONE);
    f->state = state_of(1, 7, 12);
    tell_state(f);
    assert_non_null(find_effect(f, EFFECT_FAIL_WAITERS));
    grow_to(f, 200);
    assert_int_equal(high_watermark(f), 90);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 200, .leader_epoch = 7), ERR_NONE);
    assert_int_equal(high_watermark(f), 200);
}

static void a_partition_that_is_not_here_is_offline(void **state)
{
    struct fixture *f = *state;

    f->state = state_of(2, 6, 11);
    f->state.replicas[0] = 4;
    f->state.isr[0] = 4;
    tell_state(f);
    assert_int_equal(partition_role(f->p), PARTITION_OFFLINE);
    assert_int_equal(partition_check_leader(f->p, -1), ERR_NOT_LEADER_OR_FOLLOWER);
}

/* ---- clients ---- */

static void clients_are_fenced_by_leader_epoch(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(partition_check_leader(f->p, -1), ERR_NONE);
    assert_int_equal(partition_check_leader(f->p, 5), ERR_NONE);
    assert_int_equal(partition_check_leader(f->p, 4), ERR_FENCED_LEADER_EPOCH);
    assert_int_equal(partition_check_leader(f->p, 6), ERR_UNKNOWN_LEADER_EPOCH);
}

/* acks=all is refused below min ISR; acks=1 is not. */
static void acks_all_needs_enough_replicas(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(partition_check_append(f->p, true), ERR_NONE);
    f->state.isr_count = 1;
    f->state.partition_epoch++;
    tell_state(f);
    assert_int_equal(partition_check_append(f->p, true), ERR_NOT_ENOUGH_REPLICAS);
    assert_int_equal(partition_check_append(f->p, false), ERR_NONE);
}

/* Until its high watermark has passed its epoch's start, a new leader does not know where the
 * committed part ends (R6, [H18]); reading what is known to be committed goes on. */
static void a_new_leader_does_not_know_the_end_yet(void **state)
{
    struct fixture *f = *state;
    int64_t end = -1;

    assert_int_equal(partition_readable_end(f->p, 100, false, &end), ERR_OFFSET_NOT_AVAILABLE);
    assert_int_equal(end, 0);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    assert_int_equal(partition_readable_end(f->p, 100, false, &end), ERR_NONE);
    assert_int_equal(end, 100);
}

/* read_committed ends at the first open transaction, and never beyond the high watermark. */
static void read_committed_ends_at_the_last_stable_offset(void **state)
{
    struct fixture *f = *state;
    int64_t end = -1;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    assert_int_equal(partition_readable_end(f->p, 40, true, &end), ERR_NONE);
    assert_int_equal(end, 40);
    assert_int_equal(partition_readable_end(f->p, 40, false, &end), ERR_NONE);
    assert_int_equal(end, 100);
    grow_to(f, 200);
    assert_int_equal(partition_readable_end(f->p, 200, true, &end), ERR_NONE);
    assert_int_equal(end, 100);
}

/* A checkpoint may be older than the log's start, or newer than a log that was cut. */
static void a_checkpointed_hw_is_brought_into_the_log(void **state)
{
    struct fixture *f = *state;
    struct log_view log = {.log_start_offset = 30, .log_end_offset = 60};
    struct partition *p = partition_new(1, 10), *q = partition_new(1, 90);

    partition_on_state(p, &f->state, &log, f->now_ns, &f->effects);
    partition_on_state(q, &f->state, &log, f->now_ns, &f->effects);
    assert_int_equal(partition_high_watermark(p), 30);
    assert_int_equal(partition_high_watermark(q), 60);
    partition_free(p);
    partition_free(q);
}

/* DeleteRecords is done when every live replica has moved its start [H34]. */
static void the_low_watermark_is_of_live_replicas(void **state)
{
    struct fixture *f = *state;

    f->log.log_start_offset = 50;
    assert_int_equal(partition_low_watermark(f->p, &f->log), -1);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 90, .log_start_offset = 50), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 90, .log_start_offset = 20), ERR_NONE);
    assert_int_equal(partition_low_watermark(f->p, &f->log), 20);
    f->state.live_broker_epochs[2] = -1;
    tell_state(f);
    assert_int_equal(partition_low_watermark(f->p, &f->log), 50);
}

/* ---- the ISR ---- */

/* A follower that has all that is committed, and all of earlier epochs, is proposed; from then on
 * it holds the high watermark, before anybody has agreed. */
static void a_follower_that_caught_up_is_proposed_and_holds_the_hw(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 99), ERR_NONE);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    expect_proposal(f, 3, 1, 2, 3);
    assert_int_equal(find_effect(f, EFFECT_ALTER_ISR)->isr_broker_epochs[2], EPOCH_OF + 3);

    f->now_ns += 2 * LAG_MAX; /* no longer held for being caught up, but for being proposed */
    grow_to(f, 200);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 200), ERR_NONE);
    assert_int_equal(high_watermark(f), 100);
}

/* Having what is committed is not enough: between the HW and the epoch's start may lie what an
 * earlier leader acknowledged. */
static void a_follower_below_the_epoch_start_is_not_proposed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(high_watermark(f), 0);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 50), ERR_NONE);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
}

/* Fenced, shutting down, or known only from an earlier life: not proposed (KIP-903). */
static void only_a_live_known_incarnation_is_proposed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    f->state.live_broker_epochs[2] = -1;
    tell_state(f);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
    f->state.live_broker_epochs[2] = 2000; /* it has registered again */
    tell_state(f);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NOT_LEADER_OR_FOLLOWER);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100, .broker_epoch = 2000), ERR_NONE);
    expect_proposal(f, 3, 1, 2, 3);
}

/* A follower that is caught up holds the HW even before it is proposed: else it could chase a
 * moving end for ever. It lets go when it falls behind. */
static void who_is_about_to_join_holds_the_hw(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    partition_on_isr_result(f->p, 10, true, &f->log, f->now_ns, &f->effects);
    grow_to(f, 200);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 200), ERR_NONE);
    assert_int_equal(high_watermark(f), 100);
    f->now_ns += LAG_MAX + SECOND;
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 200), ERR_NONE);
    tick(f);
    assert_int_equal(high_watermark(f), 200);
}

/* It had fetched all before it was unfenced: its next fetch may be a long poll away, so it is
 * proposed when the image says that it is live. */
static void who_is_unfenced_is_proposed_without_another_fetch(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    f->state.live_broker_epochs[2] = -1;
    tell_state(f);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
    f->state.live_broker_epochs[2] = EPOCH_OF + 3;
    tell_state(f);
    expect_proposal(f, 3, 1, 2, 3);
}

/* Two come back at once: the second is proposed when the first is in, not with its next fetch. But
 * one that has fallen behind meanwhile is not. */
static void the_second_of_two_is_proposed_when_the_first_is_in(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 2; i++) {
        f->state = state_of(1, 6 + i, 20 + 10 * i);
        f->state.isr_count = 1;
        tell_state(f);
        assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100, .leader_epoch = 6 + i),
                         ERR_NONE);
        expect_proposal(f, 2, 1, 2, 0);
        assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100, .leader_epoch = 6 + i),
                         ERR_NONE);
        assert_null(find_effect(f, EFFECT_ALTER_ISR));
        f->state.isr_count = 2;
        f->state.partition_epoch++;
        if (i == 1) {
            grow_to(f, 101);
            f->now_ns += LAG_MAX + 1;
        }
        tell_state(f);
        if (i == 0)
            expect_proposal(f, 3, 1, 2, 3);
        else
            assert_null(find_effect(f, EFFECT_ALTER_ISR));
        f->log.log_end_offset = 100;
    }
}

/* One proposal at a time (R7). */
static void proposals_do_not_overlap(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    expect_proposal(f, 3, 1, 2, 3);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
    f->now_ns += 2 * LAG_MAX;
    tick(f);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
}

/* A refused proposal was not applied: its members hold nothing any more, and it is made again with
 * the next fetch. */
static void a_refused_proposal_is_forgotten(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    f->now_ns += 2 * LAG_MAX;
    grow_to(f, 200);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 200), ERR_NONE);
    assert_int_equal(high_watermark(f), 100);
    partition_on_isr_result(f->p, 10, true, &f->log, f->now_ns, &f->effects);
    assert_int_equal(high_watermark(f), 200);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 200), ERR_NONE);
    expect_proposal(f, 3, 1, 2, 3);
}

/* A proposal whose answer was lost may have been applied: its members hold the HW until a newer
 * partition epoch says what holds [H4]. */
static void an_unknown_outcome_stays_in_the_maximal_isr(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    partition_on_isr_result(f->p, 10, false, &f->log, f->now_ns, &f->effects);
    f->now_ns += 2 * LAG_MAX;
    grow_to(f, 200);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 200), ERR_NONE);
    assert_int_equal(high_watermark(f), 100);
    f->state.partition_epoch++;
    tell_state(f);
    assert_int_equal(high_watermark(f), 200);
}

/* The late answer to an older proposal must not settle the one in flight. */
static void a_late_answer_settles_nothing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    f->state.partition_epoch = 11;
    tell_state(f);
    expect_proposal(f, 3, 1, 2, 3);
    f->now_ns += 2 * LAG_MAX;
    grow_to(f, 200);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 200), ERR_NONE);
    partition_on_isr_result(f->p, 10, true, &f->log, f->now_ns, &f->effects);
    assert_int_equal(high_watermark(f), 100);
}

/* A member that has not reached the end for longer than the lag time is proposed to leave; it
 * counts until that is committed. */
static void a_lagging_member_is_proposed_to_leave_and_counts_until_then(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 90), ERR_NONE);
    f->now_ns += LAG_MAX;
    tick(f);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
    f->now_ns += SECOND;
    tick(f);
    expect_proposal(f, 1, 1, 0, 0);
    grow_to(f, 150);
    assert_int_equal(high_watermark(f), 90);
    f->state.isr_count = 1;
    f->state.effective_min_isr = 1;
    f->state.partition_epoch++;
    tell_state(f);
    assert_int_equal(high_watermark(f), 150);
}

/* A follower that keeps up with a growing log is never at its end, and yet does not lag: it reaches
 * what was the end when it last asked. */
static void keeping_up_with_a_growing_log_is_not_lagging(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 100; i++) {
        int64_t end = f->log.log_end_offset;

        grow_to(f, end + 10);
        assert_int_equal(fetch(f, .replica = 2, .fetch_offset = end), ERR_NONE);
        f->now_ns += SECOND;
        tick(f);
        assert_null(find_effect(f, EFFECT_ALTER_ISR));
    }
}

/* Where durable ends count, a member that fetches but does not get its records onto its disk lags:
 * it holds the high watermark like one that does not fetch at all [H12]. One whose syncs are slower
 * than its fetches, but go on, does not. */
static void a_member_that_does_not_sync_lags_where_that_counts(void **state)
{
    struct fixture *f = *state;

    f->log.durable_counts = true;
    for (int i = 0; i < 300; i++) { /* each sync covers what was the end five fetches before */
        int64_t end = f->log.log_end_offset, durable = 100 + 10 * MAX(i / 5 * 5 - 5, 0);

        grow_to(f, end + 10);
        assert_int_equal(
            fetch(f, .replica = 2, .fetch_offset = end, .durable_end_offset = MIN(durable, end)),
            ERR_NONE);
        f->now_ns += SECOND;
        tick(f);
        assert_null(find_effect(f, EFFECT_ALTER_ISR));
    }
    f->effects.count = 0;
    for (int i = 0; i < 45 && find_effect(f, EFFECT_ALTER_ISR) == NULL; i++) {
        assert_int_equal(fetch(f, .replica = 2, .fetch_offset = f->log.log_end_offset,
                               .durable_end_offset = 2000),
                         ERR_NONE);
        f->now_ns += SECOND;
        tick(f);
    }
    expect_proposal(f, 1, 1, 0, 0);
}

/* Nor does such a follower join [H12]. */
static void a_follower_that_has_not_synced_is_not_proposed(void **state)
{
    struct fixture *f = *state;

    f->log.durable_counts = true;
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100, .durable_end_offset = 99),
                     ERR_NONE);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100), ERR_NONE);
    assert_null(find_effect(f, EFFECT_ALTER_ISR)); /* who says nothing of it may have nothing */
    assert_int_equal(fetch(f, .replica = 3, .fetch_offset = 100, .durable_end_offset = 100),
                     ERR_NONE);
    expect_proposal(f, 3, 1, 2, 3);
}

/* Nothing written: nobody lags, however long ago it fetched. */
static void an_idle_member_that_has_everything_does_not_lag(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 100), ERR_NONE);
    f->now_ns += 10 * LAG_MAX;
    tick(f);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
}

/* An unclean election is settled by the new leader, with a command [H21c]; a lost one is repeated.
 */
static void a_recovering_leader_proposes_that_it_is_settled(void **state)
{
    struct fixture *f = *state;

    f->state = state_of(1, 6, 11);
    f->state.recovering = true;
    tell_state(f);
    expect_proposal(f, 2, 1, 2, 0);
    assert_true(find_effect(f, EFFECT_ALTER_ISR)->recovered);
    partition_on_isr_result(f->p, 11, false, &f->log, f->now_ns, &f->effects);
    tick(f);
    assert_true(find_effect(f, EFFECT_ALTER_ISR)->recovered);
    f->state.recovering = false;
    f->state.partition_epoch++;
    tell_state(f);
    tick(f);
    assert_null(find_effect(f, EFFECT_ALTER_ISR));
}

/* An unclean leader begins with what it has: its high watermark with its log, its ISR with itself.
 * Nothing is committed before another member is in again [H4, H21c]. */
static void an_unclean_leader_begins_with_what_it_has(void **state)
{
    struct fixture *f = *state;
    struct partition *p = partition_new(1, 90);

    partition_free(f->p);
    f->p = p;
    f->log = (struct log_view){.log_end_offset = 60, .durable_end_offset = 60};
    f->state = state_of(1, 6, 11);
    f->state.isr_count = 1;
    f->state.recovering = true;
    tell_state(f);
    assert_int_equal(high_watermark(f), 60);
    expect_proposal(f, 1, 1, 0, 0);
    assert_true(find_effect(f, EFFECT_ALTER_ISR)->recovered);
    grow_to(f, 70);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 70, .leader_epoch = 6), ERR_NONE);
    assert_int_equal(high_watermark(f), 60);
    partition_on_isr_result(f->p, 11, true, &f->log, f->now_ns, &f->effects);
    assert_int_equal(fetch(f, .replica = 2, .fetch_offset = 70, .leader_epoch = 6), ERR_NONE);
    assert_null(find_effect(f, EFFECT_ALTER_ISR)); /* first it is settled */
    tick(f);
    expect_proposal(f, 1, 1, 0, 0);
    assert_true(find_effect(f, EFFECT_ALTER_ISR)->recovered);
    f->state.recovering = false;
    f->state.partition_epoch++;
    tell_state(f);
    expect_proposal(f, 2, 1, 2, 0);
    assert_false(find_effect(f, EFFECT_ALTER_ISR)->recovered);
    assert_int_equal(high_watermark(f), 60);
    f->state.isr_count = 2;
    f->state.partition_epoch++;
    tell_state(f);
    assert_int_equal(high_watermark(f), 70);
}

/* ---- followers ---- */

/* A follower's high watermark goes down with its log [H21c], and is never above its end. */
static void a_followers_hw_goes_down_with_its_log(void **state)
{
    struct fixture *f = *state;

    f->state = state_of(2, 6, 11);
    tell_state(f);
    partition_on_leader_high_watermark(f->p, 60, &f->log, &f->effects);
    grow_to(f, 40); /* cut */
    assert_int_equal(high_watermark(f), 40);
    grow_to(f, 45);
    partition_on_leader_high_watermark(f->p, 50, &f->log, &f->effects);
    assert_int_equal(high_watermark(f), 45);
}

/* A follower learns the leader's high watermark, as far as it has the records. */
static void a_follower_takes_the_leaders_hw(void **state)
{
    struct fixture *f = *state;

    f->state = state_of(2, 6, 11);
    tell_state(f);
    partition_on_leader_high_watermark(f->p, 60, &f->log, &f->effects);
    assert_int_equal(high_watermark(f), 60);
    assert_int_equal(find_effect(f, EFFECT_HW_ADVANCED)->offset, 60);
    partition_on_leader_high_watermark(f->p, 500, &f->log, &f->effects);
    assert_int_equal(high_watermark(f), 100);
    partition_on_leader_high_watermark(f->p, 60, &f->log, &f->effects);
    assert_int_equal(high_watermark(f), 100);
}

#define t(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        t(hw_is_the_lowest_end_in_the_isr),
        t(a_fetch_beyond_the_leaders_end_counts_as_nothing),
        t(hw_ignores_replicas_outside_isr),
        t(hw_waits_for_the_first_fetch_of_each_member),
        t(hw_never_moves_back),
        t(hw_stands_still_below_min_isr),
        t(hw_of_a_single_replica_is_its_end),
        t(hw_uses_durable_ends_when_they_count),
        t(durable_end_is_never_beyond_the_fetch_offset),
        t(a_restarted_follower_counts_as_nothing_until_it_fetches),
        t(a_fetch_of_an_older_incarnation_is_refused),
        t(fetches_are_fenced_by_leader_epoch),
        t(older_states_change_nothing),
        t(becoming_leader_begins_an_epoch),
        t(losing_the_leadership_fails_who_waits),
        t(a_new_epoch_asks_every_follower_anew),
        t(a_partition_that_is_not_here_is_offline),
        t(clients_are_fenced_by_leader_epoch),
        t(acks_all_needs_enough_replicas),
        t(a_new_leader_does_not_know_the_end_yet),
        t(read_committed_ends_at_the_last_stable_offset),
        t(a_checkpointed_hw_is_brought_into_the_log),
        t(the_low_watermark_is_of_live_replicas),
        t(a_follower_that_caught_up_is_proposed_and_holds_the_hw),
        t(a_follower_below_the_epoch_start_is_not_proposed),
        t(only_a_live_known_incarnation_is_proposed),
        t(who_is_about_to_join_holds_the_hw),
        t(who_is_unfenced_is_proposed_without_another_fetch),
        t(the_second_of_two_is_proposed_when_the_first_is_in),
        t(proposals_do_not_overlap),
        t(a_refused_proposal_is_forgotten),
        t(an_unknown_outcome_stays_in_the_maximal_isr),
        t(a_late_answer_settles_nothing),
        t(a_lagging_member_is_proposed_to_leave_and_counts_until_then),
        t(keeping_up_with_a_growing_log_is_not_lagging),
        t(a_member_that_does_not_sync_lags_where_that_counts),
        t(a_follower_that_has_not_synced_is_not_proposed),
        t(an_idle_member_that_has_everything_does_not_lag),
        t(a_recovering_leader_proposes_that_it_is_settled),
        t(an_unclean_leader_begins_with_what_it_has),
        t(a_followers_hw_goes_down_with_its_log),
        t(a_follower_takes_the_leaders_hw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
