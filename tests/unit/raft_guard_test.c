/* The guard between libraft and its disk and network: each rule seen at work.
 *
 * libraft itself is played by the test: a zeroed `struct raft` and callbacks that do what its code
 * is known to do. (The rules together are tried by the simulator against the real library.)
 */
#include "raft-meta/raft_io_guard.h"

#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define ADDRESS "1@x"

struct fixture {
    struct raft raft;
    struct raft_io inner;
    struct guard *guard;
    struct raft_io *io;
    /* the disk */
    struct raft_io_append *append;
    raft_io_append_cb append_cb;
    struct raft_io_snapshot_put *put;
    raft_io_snapshot_put_cb put_cb;
    raft_io_close_cb close_cb;
    int append_error, load_batches;
    raft_time now;
    /* the network */
    struct raft_message sent;
    int sent_count;
    raft_io_tick_cb tick;
    raft_io_recv_cb recv;
    /* libraft */
    int ticks, received, appended, append_status, closed, sends_done, send_status;
    struct raft_message last_received;
    void (*on_receive)(struct fixture *f);
    int fatals, restarts, leads;
};

/* ---- the inner io ---- */

static int inner_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                       raft_io_recv_cb recv)
{
    struct fixture *current = io->impl;

    (void)msecs;
    current->tick = tick;
    current->recv = recv;
    return 0;
}

static int inner_send(struct raft_io *io, struct raft_io_send *request,
                      const struct raft_message *m, raft_io_send_cb cb)
{
    struct fixture *current = io->impl;

    current->sent = *m;
    current->sent_count++;
    cb(request, 0);
    return 0;
}

static int inner_append(struct raft_io *io, struct raft_io_append *request,
                        const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct fixture *current = io->impl;

    (void)entries;
    (void)n;
    if (current->append_error != 0)
        return current->append_error;
    current->append = request;
    current->append_cb = cb;
    return 0;
}

static int inner_snapshot_put(struct raft_io *io, unsigned trailing,
                              struct raft_io_snapshot_put *request,
                              const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct fixture *current = io->impl;

    (void)trailing;
    (void)snapshot;
    current->put = request;
    current->put_cb = cb;
    return 0;
}

static void inner_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct fixture *current = io->impl;

    current->close_cb = cb;
}

static raft_time inner_time(struct raft_io *io)
{
    struct fixture *current = io->impl;

    return current->now;
}

static int inner_set_term(struct raft_io *io, raft_term term)
{
    (void)io;
    (void)term;
    return RAFT_IOERR;
}

/* Three entries in one allocation, as raft_uv loads them. */
static int inner_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                      struct raft_snapshot **snapshot, raft_index *start,
                      struct raft_entry *entries[], size_t *count)
{
    uint8_t *batch = raft_malloc(24);

    (void)io;
    *term = 1;
    *voted_for = 0;
    *snapshot = NULL;
    *start = 1;
    *count = 3;
    *entries = raft_calloc(3, sizeof **entries);
    for (int i = 0; i < 3; i++) {
        memset(batch + 8 * i, 'a' + i, 8);
        (*entries)[i] = (struct raft_entry){
            .term = 1, .type = RAFT_COMMAND, .buf = {batch + 8 * i, 8}, .batch = batch};
    }
    return 0;
}

/* ---- libraft's callbacks ---- */

static void lib_tick(struct raft_io *io)
{
    struct fixture *current = io->data;

    current->ticks++;
}

static void lib_recv(struct raft_io *io, struct raft_message *m)
{
    struct fixture *current = io->data;

    current->received++;
    current->last_received = *m;
    if (current->on_receive != NULL)
        current->on_receive(current);
}

static void lib_append_done(struct raft_io_append *request, int status)
{
    struct fixture *current = request->data;

    current->appended++;
    current->append_status = status;
}

static void lib_put_done(struct raft_io_snapshot_put *request, int status)
{
    (void)request;
    (void)status;
}

static void lib_send_done(struct raft_io_send *request, int status)
{
    struct fixture *current = request->data;

    current->sends_done++;
    current->send_status = status;
}

static void lib_closed(struct raft_io *io)
{
    struct fixture *current = io->data;

    current->closed++;
}

static void on_fatal(void *ctx, const char *what, int raft_error)
{
    (void)what;
    (void)raft_error;
    ((struct fixture *)ctx)->fatals++;
}

static void on_restart(void *ctx)
{
    ((struct fixture *)ctx)->restarts++;
}

static void on_leading(void *ctx)
{
    ((struct fixture *)ctx)->leads++;
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    f->inner = (struct raft_io){.version = 2,
                                .start = inner_start,
                                .send = inner_send,
                                .append = inner_append,
                                .snapshot_put = inner_snapshot_put,
                                .close = inner_close,
                                .time = inner_time,
                                .set_term = inner_set_term,
                                .load = inner_load};
    f->raft.state = RAFT_FOLLOWER;
    f->raft.current_term = 3;
    f->raft.election_timeout = 500;
    f->guard = guard_new(&(struct guard_options){.inner = &f->inner,
                                                 .raft = &f->raft,
                                                 .on_fatal = on_fatal,
                                                 .on_restart = on_restart,
                                                 .on_leading = on_leading,
                                                 .ctx = f});
    f->inner.impl = f; /* what the callbacks find their fixture by */
    f->io = guard_io(f->guard);
    f->io->data = f;
    assert_int_equal(f->io->start(f->io, 50, lib_tick, lib_recv), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    guard_free(f->guard);
    free(f);
    return 0;
}

static struct raft_message append_entries(raft_term term, raft_index prev, unsigned n)
{
    struct raft_message m = {
        .type = RAFT_IO_APPEND_ENTRIES, .server_id = 2, .server_address = ADDRESS};

    m.append_entries.term = term;
    m.append_entries.prev_log_index = prev;
    m.append_entries.leader_commit = 100;
    m.append_entries.n_entries = n;
    m.append_entries.entries = n > 0 ? raft_calloc(n, sizeof *m.append_entries.entries) : NULL;
    return m;
}

static void answer_ten(struct fixture *f)
{
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES_RESULT,
                             .server_id = 2,
                             .server_address = ADDRESS,
                             .append_entries_result = {.term = 3, .last_log_index = 10}};
    struct raft_io_send request = {.data = f};

    assert_int_equal(f->io->send(f->io, &request, &m, lib_send_done), 0);
}

static void begin_append(struct fixture *f, struct raft_io_append *request)
{
    struct raft_entry e = {.term = f->raft.current_term};

    assert_int_equal(f->io->append(f->io, request, &e, 1, lib_append_done), 0);
}

/* G1: an AppendEntries up to 5 is not answered with the stale tail up to 10, nor does it move the
 * commit index beyond what it brought. */
static void acknowledgement_is_capped(void **state)
{
    struct fixture *f = *state;
    struct raft_message m = append_entries(3, 5, 0);

    f->on_receive = answer_ten;
    f->recv(&f->inner, &m);
    assert_int_equal(f->last_received.append_entries.leader_commit, 5);
    assert_int_equal(f->sent.append_entries_result.last_log_index, 5);
    assert_int_equal(guard_counts(f->guard)->capped, 1);
}

/* A follower passes acknowledgements on (to be ignored), leads nothing and changes no members. G2
 * itself needs the library's barrier: raft_node_test waits for it at every start. */
static void follower_does_not_lead(void **state)
{
    struct fixture *f = *state;
    struct raft_message ack = {
        .type = RAFT_IO_APPEND_ENTRIES_RESULT, .server_id = 2, .server_address = ADDRESS};

    f->raft.state = RAFT_FOLLOWER;
    f->recv(&f->inner, &ack);
    assert_int_equal(f->received, 1);
    assert_false(guard_leads(f->guard));
    assert_false(guard_may_change(f->guard));
}

/* G3: a failed append is final: told once, and libraft never hears of it. */
static void failed_append_is_final(void **state)
{
    struct fixture *f = *state;
    struct raft_io_append a = {.data = f}, b = {.data = f};

    begin_append(f, &a);
    f->append_cb(f->append, RAFT_NOSPACE);
    assert_int_equal(f->fatals, 1);
    assert_int_equal(f->appended, 0);
    assert_true(guard_has_failed(f->guard));
    f->append_error = RAFT_IOERR;
    begin_append(f, &b);
    assert_int_equal(f->io->set_term(f->io, 4), 0);
    f->tick(&f->inner);
    assert_int_equal(f->fatals, 1);
    assert_int_equal(f->ticks, 0);
    guard_abandon(f->guard, lib_closed);
    f->close_cb(&f->inner);
    assert_int_equal(f->closed, 1);
}

static void failed_term_is_final(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(f->io->set_term(f->io, 4), 0);
    assert_int_equal(f->fatals, 1);
}

/* G10: no two loaded entries share memory. */
static void loaded_entries_are_unshared(void **state)
{
    struct fixture *f = *state;
    struct raft_snapshot *snapshot;
    struct raft_entry *entries;
    raft_term term;
    raft_id voted;
    raft_index start;
    size_t count;

    assert_int_equal(f->io->load(f->io, &term, &voted, &snapshot, &start, &entries, &count), 0);
    assert_int_equal(count, 3);
    for (size_t i = 0; i < count; i++) {
        assert_null(entries[i].batch);
        assert_int_equal(((char *)entries[i].buf.base)[7], 'a' + (int)i);
        raft_free(entries[i].buf.base); /* each on its own: a shared one would be freed thrice */
    }
    raft_free(entries);
}

/* G11: an append that ends in another term is answered as rejected. */
static void answer_from_append(struct raft_io_append *request, int status)
{
    struct fixture *current = request->data;

    (void)status;
    answer_ten(current);
}

static void append_of_an_old_term_is_rejected(void **state)
{
    struct fixture *f = *state;
    struct raft_io_append request = {.data = f};
    struct raft_entry e = {.term = 3};

    assert_int_equal(f->io->append(f->io, &request, &e, 1, answer_from_append), 0);
    f->raft.current_term = 4;
    f->append_cb(f->append, 0);
    assert_int_not_equal(f->sent.append_entries_result.rejected, 0);
}

/* G12: entries of a newer term wait until appends of the older one have ended. */
static void entries_are_stripped_over_old_appends(void **state)
{
    struct fixture *f = *state;
    struct raft_io_append request = {.data = f};
    struct raft_message m;

    begin_append(f, &request);
    m = append_entries(4, 5, 2);
    f->recv(&f->inner, &m);
    assert_int_equal(f->last_received.append_entries.n_entries, 0);
    f->append_cb(f->append, 0);
    assert_int_equal(f->appended, 1);
    m = append_entries(4, 5, 2);
    f->recv(&f->inner, &m);
    assert_int_equal(f->last_received.append_entries.n_entries, 2);
    raft_free(f->last_received.append_entries.entries);
}

/* G13: what is addressed to nobody ends without the network. */
static void nobody_is_sent_nothing(void **state)
{
    struct fixture *f = *state;
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES_RESULT};
    struct raft_io_send request = {.data = f};

    assert_int_equal(f->io->send(f->io, &request, &m, lib_send_done), 0);
    assert_int_equal(f->sent_count, 0);
    assert_int_equal(f->sends_done, 0);
    f->tick(&f->inner);
    assert_int_equal(f->sends_done, 1);
    assert_int_equal(f->send_status, RAFT_NOCONNECTION);
}

/* G14: an InstallSnapshot waits for the disk; while one is installed there is no election. */
static void snapshot_waits_for_the_disk(void **state)
{
    struct fixture *f = *state;
    struct raft_message m = {
        .type = RAFT_IO_INSTALL_SNAPSHOT, .server_id = 2, .server_address = ADDRESS};
    struct raft_io_append request = {.data = f};
    struct raft_io_snapshot_put put;
    struct raft_snapshot snapshot = {.index = 9};

    begin_append(f, &request);
    f->recv(&f->inner, &m);
    assert_int_equal(f->received, 0);
    assert_true(guard_is_installing(f->guard));
    f->append_cb(f->append, 0);
    f->tick(&f->inner);
    assert_int_equal(f->received, 1);
    assert_int_equal(f->last_received.type, RAFT_IO_INSTALL_SNAPSHOT);
    assert_int_equal(f->io->snapshot_put(f->io, 0, &put, &snapshot, lib_put_done), 0);
    f->ticks = 0;
    f->tick(&f->inner);
    assert_int_equal(f->ticks, 0);
    f->put_cb(f->put, 0);
    f->tick(&f->inner);
    assert_int_equal(f->ticks, 1);
}

/* G16: close waits until the disk is done, and is not made inside its callback. */
static void close_waits_for_the_disk(void **state)
{
    struct fixture *f = *state;
    struct raft_io_append request = {.data = f};

    begin_append(f, &request);
    f->io->close(f->io, lib_closed);
    assert_null(f->close_cb);
    f->append_cb(f->append, 0);
    assert_null(f->close_cb);
    f->tick(&f->inner);
    assert_non_null(f->close_cb);
    assert_int_equal(f->ticks, 0);
    f->close_cb(&f->inner);
    assert_int_equal(f->closed, 1);
}

/* G18: a refused pre-vote does not hide a higher term. */
static void refused_pre_vote_tells_the_term(void **state)
{
    struct fixture *f = *state;
    struct raft_message m = {.type = RAFT_IO_REQUEST_VOTE_RESULT,
                             .server_id = 2,
                             .server_address = ADDRESS,
                             .request_vote_result = {.term = 2, .pre_vote = raft_tribool_true}};
    struct raft_io_send request = {.data = f};

    assert_int_equal(f->io->send(f->io, &request, &m, lib_send_done), 0);
    assert_int_equal(f->sent.request_vote_result.term, 3);
    m.request_vote_result.vote_granted = true;
    assert_int_equal(f->io->send(f->io, &request, &m, lib_send_done), 0);
    assert_int_equal(f->sent.request_vote_result.term, 2);
}

/* G20: no snapshot while a change of members is not committed. */
static void no_snapshot_of_uncommitted_members(void **state)
{
    struct fixture *f = *state;

    assert_true(guard_may_snapshot(f->guard));
    f->raft.configuration_uncommitted_index = 5;
    assert_false(guard_may_snapshot(f->guard));
}

/* G21: entries that begin below our snapshot are joined to it. */
static void entries_are_joined_to_our_snapshot(void **state)
{
    struct fixture *f = *state;
    struct raft_message m = append_entries(3, 5, 4);

    f->raft.log.snapshot.last_index = 7;
    f->raft.log.snapshot.last_term = 2;
    f->raft.log.offset = 7;
    f->recv(&f->inner, &m);
    assert_int_equal(f->last_received.append_entries.prev_log_index, 7);
    assert_int_equal(f->last_received.append_entries.prev_log_term, 2);
    assert_int_equal(f->last_received.append_entries.n_entries, 2);
    raft_free(f->last_received.append_entries.entries);
}

/* G22: with an append in flight a follower's election timer does not run out, nor does it campaign
 * because it is told to. */
static void no_election_over_an_append(void **state)
{
    struct fixture *f = *state;
    struct raft_io_append a = {.data = f};
    struct raft_message m = {
        .type = RAFT_IO_TIMEOUT_NOW, .server_id = 2, .server_address = ADDRESS};

    begin_append(f, &a);
    f->tick(&f->inner);
    f->recv(&f->inner, &m);
    assert_int_equal(f->ticks, 0);
    assert_int_equal(f->received, 0);
    f->append_cb(f->append, 0);
    f->tick(&f->inner);
    f->recv(&f->inner, &m);
    assert_int_equal(f->ticks, 1);
    assert_int_equal(f->received, 1);
}

/* G23: leadership is being handed to server 3, but this term's vote is given to server 2. */
static void transferee_gets_no_second_vote(void **state)
{
    struct fixture *f = *state;
    struct raft_transfer transfer = {.id = 3};
    struct raft_message m = {.type = RAFT_IO_REQUEST_VOTE,
                             .server_id = 3,
                             .server_address = ADDRESS,
                             .request_vote = {.term = 3, .candidate_id = 3}};

    f->raft.transfer = &transfer;
    f->raft.voted_for = 2;
    f->recv(&f->inner, &m);
    assert_int_equal(f->received, 0);
    m.request_vote.term = 4; /* a term in which it has not voted */
    f->recv(&f->inner, &m);
    assert_int_equal(f->received, 1);
    f->raft.transfer = NULL;
}

/* ---- [H15] ---- */

static void be_led_by(struct fixture *f, raft_id leader)
{
    struct raft_message m = append_entries(f->raft.current_term, 5, 0);

    m.server_id = leader;
    f->raft.follower_state.current_leader.id = leader;
    f->recv(&f->inner, &m);
}

static bool vote_may_disrupt(struct fixture *f)
{
    struct raft_message m = {.type = RAFT_IO_REQUEST_VOTE,
                             .server_id = 3,
                             .server_address = ADDRESS,
                             .request_vote = {.term = f->raft.current_term + 1, .pre_vote = true}};

    f->recv(&f->inner, &m);
    return f->last_received.request_vote.disrupt_leader;
}

/* While it knows that the leader's process is gone, a follower lets a candidate disturb that
 * leader; not before, not when the leader speaks again, and not in another term. */
static void evidence_lets_a_candidate_disrupt(void **state)
{
    struct fixture *f = *state;

    be_led_by(f, 2);
    assert_int_equal(guard_leader(f->guard), 2);
    assert_false(vote_may_disrupt(f));
    guard_mark_leader_gone(f->guard, 3, 3); /* does not lead */
    guard_mark_leader_gone(f->guard, 2, 2); /* not in this term */
    assert_false(vote_may_disrupt(f));
    guard_mark_leader_gone(f->guard, 2, 3);
    assert_true(vote_may_disrupt(f));
    be_led_by(f, 2);
    assert_false(vote_may_disrupt(f));
    guard_mark_leader_gone(f->guard, 2, 3);
    f->raft.current_term = 4;
    assert_int_equal(guard_leader(f->guard), 0);
    assert_false(vote_may_disrupt(f));
}

/* The clock of the library jumps only while the mark holds. */
static void clock_jumps_on_evidence(void **state)
{
    struct fixture *f = *state;

    f->now = 1000;
    be_led_by(f, 2);
    guard_jump(f->guard);
    assert_int_equal(f->io->time(f->io), 1000);
    assert_int_equal(f->ticks, 0);
    guard_mark_leader_gone(f->guard, 2, 3);
    guard_jump(f->guard);
    assert_int_equal(f->io->time(f->io), 2000);
    assert_int_equal(f->ticks, 1);
}

/* ---- over a disk without a network ---- */

static int send_over(void *ctx, const struct raft_message *m)
{
    struct fixture *f = ctx;

    f->sent = *m;
    f->sent_count++;
    assert_int_equal(f->sends_done, 0);
    return RAFT_NOCONNECTION;
}

static int load_configuration(struct raft_io *io, raft_term *term, raft_id *voted_for,
                              struct raft_snapshot **snapshot, raft_index *start,
                              struct raft_entry *entries[], size_t *count)
{
    struct raft_configuration c;

    (void)io;
    *term = 1;
    *voted_for = 0;
    *snapshot = NULL;
    *start = *count = 1;
    *entries = raft_calloc(1, sizeof **entries);
    raft_configuration_init(&c);
    assert_int_equal(raft_configuration_add(&c, 4, "7@other", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&c, 5, ADDRESS, RAFT_VOTER), 0);
    (*entries)[0] = (struct raft_entry){.term = 1, .type = RAFT_CHANGE};
    assert_int_equal(raft_configuration_encode(&c, &(*entries)[0].buf), 0);
    (*entries)[0].batch = (*entries)[0].buf.base;
    raft_configuration_close(&c);
    return 0;
}

/* G9: what is sent is encoded at once, and completes at the end of the event. The raft id comes
 * from the configuration on the disk. */
static void sends_over_another_way(void **state)
{
    struct fixture *f = *state;
    struct raft_snapshot *snapshot;
    struct raft_entry *entries;
    raft_index start;
    raft_term term;
    raft_id vote;
    size_t count;
    struct raft_io_send request = {.data = f};
    struct raft_message m = {
        .type = RAFT_IO_TIMEOUT_NOW, .server_id = 2, .server_address = ADDRESS};

    guard_free(f->guard);
    f->inner.load = load_configuration;
    f->guard = guard_new(&(struct guard_options){.inner = &f->inner,
                                                 .raft = &f->raft,
                                                 .on_fatal = on_fatal,
                                                 .on_restart = on_restart,
                                                 .on_leading = on_leading,
                                                 .send = send_over,
                                                 .address = ADDRESS,
                                                 .ctx = f});
    f->io = guard_io(f->guard);
    assert_int_equal(f->io->load(f->io, &term, &vote, &snapshot, &start, &entries, &count), 0);
    assert_int_equal(f->raft.id, 5);
    raft_free(entries[0].buf.base);
    raft_free(entries);
    assert_int_equal(f->io->send(f->io, &request, &m, lib_send_done), 0);
    assert_int_equal(f->sent_count, 1);
    assert_int_equal(f->sends_done, 0);
    guard_poll(f->guard);
    assert_int_equal(f->sends_done, 1);
    assert_int_equal(f->send_status, RAFT_NOCONNECTION);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(acknowledgement_is_capped),
        TEST(follower_does_not_lead),
        TEST(failed_append_is_final),
        TEST(failed_term_is_final),
        TEST(loaded_entries_are_unshared),
        TEST(append_of_an_old_term_is_rejected),
        TEST(entries_are_stripped_over_old_appends),
        TEST(nobody_is_sent_nothing),
        TEST(snapshot_waits_for_the_disk),
        TEST(close_waits_for_the_disk),
        TEST(refused_pre_vote_tells_the_term),
        TEST(no_snapshot_of_uncommitted_members),
        TEST(entries_are_joined_to_our_snapshot),
        TEST(no_election_over_an_append),
        TEST(transferee_gets_no_second_vote),
        TEST(evidence_lets_a_candidate_disrupt),
        TEST(clock_jumps_on_evidence),
        TEST(sends_over_another_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
