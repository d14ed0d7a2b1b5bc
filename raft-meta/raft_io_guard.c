/* raft-meta/raft_io_guard.c -- see raft_io_guard.h for the rules G1-G23. */
#include "raft-meta/raft_io_guard.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base/mutant.h"
#include "raft-meta/raft_wire.h"

#define ADDRESS_MAX   256
#define FOLLOWERS_MAX 64

struct guard_append {
    struct raft_io_append inner;
    struct guard *guard;
    struct raft_io_append *request;
    raft_io_append_cb cb;
    raft_term term;  /* when it was submitted (G11) */
    raft_index last; /* index of its last entry */
    raft_time begun;
    bool told;                 /* M18: the library believes that it is stored */
    struct guard_append *next; /* in the order of submission */
};

struct guard_put {
    struct raft_io_snapshot_put inner;
    struct guard *guard;
    struct raft_io_snapshot_put *request;
    raft_io_snapshot_put_cb cb;
    bool is_install;
};

/* A send whose completion is ours to decide (G13, G15). */
struct guard_send {
    struct raft_io_send inner;
    struct guard *guard;
    struct raft_io_send *request;
    raft_io_send_cb cb;
    raft_id to;
    raft_index snapshot_index;
    raft_time sent;
    bool inner_done, over;
    int status;
    struct guard_send *next;
};

enum closing { CLOSING_NO, CLOSING_WAITS, CLOSING_INNER };

struct guard {
    struct raft_io io, *inner;
    struct raft *raft;
    struct guard_options options;
    raft_io_tick_cb tick;
    raft_io_recv_cb recv;
    raft_io_close_cb close_cb;

    bool leads;           /* as of the last look */
    bool holds_acks;      /* G2: until the barrier is on our disk */
    bool barrier_pending; /* G2, G17: until it is committed */
    raft_index barrier_index;
    struct raft_barrier barrier;

    bool delivering_entries, delivering_snapshot;
    raft_index delivered_last; /* of the AppendEntries being delivered (G1) */

    struct guard_append *appends, *append_in_cb;
    raft_term append_term; /* of the newest append */
    bool putting, installing;
    struct guard_put *put, *install; /* while they are under way */

    struct guard_send *sends;
    int peer_installing;

    struct raft_message held; /* the one InstallSnapshot that waits for our disk (G14) */
    char held_address[ADDRESS_MAX];
    bool is_held;
    struct raft_message handover; /* a TimeoutNow that waits for the disk (G22) */
    char handover_address[ADDRESS_MAX];
    bool has_handover;

    struct guard_follower followers[FOLLOWERS_MAX]; /* of this leadership */
    int follower_count;
    struct raft_transfer transfer;
    bool transferring, silent; /* [H14 b] */
    raft_time clock_offset;    /* [H15] */
    raft_id led_by;            /* whose entries were delivered last, and in which term */
    raft_term led_term;
    raft_id gone_leader;
    raft_term gone_term; /* 0: no mark */

    raft_index loaded_change; /* index of the last configuration that load() gave (G19) */
    bool restart_pending, restarting, failed, busy;
    enum closing closing;
    struct guard_counts counts;
};

static struct guard *guard_of(struct raft_io *io)
{
    return io->impl;
}

/* `at_top`: not inside a disk callback of the inner io, so that closing is allowed (G16). */
static void after_event(struct guard *g, bool at_top);

static void fail(struct guard *g, const char *what, int rv)
{
    if (g->failed)
        return;
    g->failed = true;
    g->options.on_fatal(g->options.ctx, what, rv);
}

static bool is_dead(const struct guard *g)
{
    return g->failed || g->restarting;
}

static void restart(struct guard *g)
{
    if (g->restarting)
        return;
    g->restarting = true;
    g->options.on_restart(g->options.ctx);
}

/* ---- what libraft holds ---- */

/* The term of an entry that is in memory, else 0. */
static raft_term term_of(const struct raft *r, raft_index index)
{
    const struct raft_log *l = &r->log;
    size_t count = l->size > 0 ? (l->back + l->size - l->front) % l->size : 0;

    if (index <= l->offset || index > l->offset + count)
        return 0;
    return l->entries[(l->front + (size_t)(index - l->offset - 1)) % l->size].term;
}

static void free_entries(struct raft_append_entries *a)
{
    void *last = NULL;

    for (unsigned i = 0; i < a->n_entries; i++) {
        if (a->entries[i].batch != last) {
            last = a->entries[i].batch;
            raft_free(last);
        }
    }
    if (a->entries != NULL)
        raft_free(a->entries);
    a->entries = NULL;
    a->n_entries = 0;
}

static void drop_message(struct raft_message *m)
{
    if (m->type == RAFT_IO_APPEND_ENTRIES)
        free_entries(&m->append_entries);
    if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        raft_configuration_close(&m->install_snapshot.conf);
        raft_free(m->install_snapshot.data.base);
    }
}

/* ---- sending ---- */

/* Completes the sends whose outcome is known. */
static void reap_sends(struct guard *g)
{
    struct guard_send **at = &g->sends;

    while (*at != NULL) {
        struct guard_send *s = *at;

        if (!s->over || !s->inner_done) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        if (s->cb != NULL) /* a TimeoutNow has none */
            s->cb(s->request, s->status);
        free(s);
        at = &g->sends; /* the callback may have sent more */
    }
}

static struct guard_send *track_send(struct guard *g, struct raft_io_send *request,
                                     raft_io_send_cb cb)
{
    struct guard_send *s = xcalloc(1, sizeof *s);

    s->inner.data = s;
    s->guard = g;
    s->request = request;
    s->cb = cb;
    s->next = g->sends;
    g->sends = s;
    request->cb = cb;
    return s;
}

static void on_snapshot_sent(struct raft_io_send *inner, int status)
{
    struct guard_send *s = inner->data;

    s->inner_done = true;
    s->sent = s->guard->inner->time(s->guard->inner);
    if (status != 0 && !s->over) {
        s->over = true;
        s->status = status;
    }
}

/* Whatever became of it: nobody waits for it any more. */
static void give_up_send(const struct guard *g, struct guard_send *s)
{
    s->over = true;
    if (g->options.send != NULL) /* there is no inner request that would complete */
        s->inner_done = true;
}

/* G15: the request stays open until the peer has answered. */
static int send_snapshot(struct guard *g, struct raft_io_send *request,
                         const struct raft_message *m, raft_io_send_cb cb)
{
    struct guard_send *s;
    int rv;

    for (s = g->sends; s != NULL; s = s->next) {
        if (s->to == m->server_id && !s->over)
            give_up_send(g, s);
    }
    s = track_send(g, request, cb);
    s->to = m->server_id;
    s->snapshot_index = m->install_snapshot.last_index;
    if (g->options.send != NULL) {
        s->status = g->options.send(g->options.ctx, m);
        s->over = s->inner_done = s->status != 0;
        return 0;
    }
    rv = g->inner->send(g->inner, &s->inner, m, on_snapshot_sent);
    if (rv != 0) {
        g->sends = s->next;
        free(s);
    }
    return rv;
}

/* What a successful AppendEntriesResult may claim (G1, G11, G21). */
static void cap_result(struct guard *g, struct raft_append_entries_result *a)
{
    if (g->delivering_entries && a->last_log_index > g->delivered_last) {
        a->last_log_index = g->delivered_last;
        g->counts.capped++;
    }
    /* G21: our snapshot is newer than the one we were sent, and all of it is committed. */
    if (g->delivering_snapshot && a->last_log_index < g->raft->log.snapshot.last_index)
        a->last_log_index = g->raft->log.snapshot.last_index;
    if (g->append_in_cb == NULL)
        return;
    if (g->append_in_cb->term != g->raft->current_term) {
        a->rejected = g->append_in_cb->last + 1;
        g->counts.rejected++;
    } else if (a->last_log_index > g->append_in_cb->last) {
        a->last_log_index = g->append_in_cb->last;
        g->counts.capped++;
    }
}

/* A send that has been decided on; the library hears of it at the end of the event (G9). */
static int complete_send(struct guard *g, struct raft_io_send *request, raft_io_send_cb cb,
                         int status)
{
    struct guard_send *s = track_send(g, request, cb);

    s->over = s->inner_done = true;
    s->status = status;
    return 0;
}

static struct guard_follower *follower_of(struct guard *g, raft_id id)
{
    for (int i = 0; i < g->follower_count; i++) {
        if (g->followers[i].id == id)
            return &g->followers[i];
    }
    if (g->follower_count == FOLLOWERS_MAX)
        return NULL;
    g->followers[g->follower_count] = (struct guard_follower){.id = id};
    return &g->followers[g->follower_count++];
}

/* What the follower will know when it has this. */
static void note_told(struct guard *g, const struct raft_message *m)
{
    const struct raft_append_entries *a = &m->append_entries;
    struct guard_follower *f = follower_of(g, m->server_id);

    if (f != NULL)
        f->told = MAX(f->told, MIN(a->leader_commit, a->prev_log_index + a->n_entries));
}

static int guard_send(struct raft_io *io, struct raft_io_send *request,
                      const struct raft_message *m, raft_io_send_cb cb)
{
    struct guard *g = guard_of(io);
    struct raft_message copy = *m;

    if (m->server_id == 0 || m->server_address == NULL) { /* G13 */
        g->counts.unsent++;
        return complete_send(g, request, cb, RAFT_NOCONNECTION);
    }
    if (g->silent && (m->type == RAFT_IO_APPEND_ENTRIES || m->type == RAFT_IO_INSTALL_SNAPSHOT))
        return complete_send(g, request, cb, RAFT_NOCONNECTION);
    if (m->type == RAFT_IO_APPEND_ENTRIES)
        note_told(g, m);
    if (m->type == RAFT_IO_INSTALL_SNAPSHOT)
        return send_snapshot(g, request, m, cb);
    if (m->type == RAFT_IO_APPEND_ENTRIES_RESULT && m->append_entries_result.rejected == 0)
        cap_result(g, &copy.append_entries_result);
    if (m->type == RAFT_IO_REQUEST_VOTE_RESULT && !m->request_vote_result.vote_granted &&
        m->request_vote_result.pre_vote == raft_tribool_true &&
        m->request_vote_result.term < g->raft->current_term) /* G18 */
        copy.request_vote_result.term = g->raft->current_term;
    if (g->options.send != NULL)
        return complete_send(g, request, cb, g->options.send(g->options.ctx, &copy));
    return g->inner->send(g->inner, request, &copy, cb);
}

/* ---- receiving ---- */

/* What DescribeQuorum tells, and how far a commit may be announced. */
static void note_follower(struct guard *g, const struct raft_message *m)
{
    const struct raft_append_entries_result *a = &m->append_entries_result;
    raft_index last = raft_last_index(g->raft);
    struct guard_follower *f;

    if (a->term != g->raft->current_term || (f = follower_of(g, m->server_id)) == NULL)
        return;
    if (a->rejected == 0)
        f->match = MAX(f->match, MIN(a->last_log_index, last));
    if (f->match >= last)
        f->caught_up = g->inner->time(g->inner);
    else if (f->match >= f->last_at_heard && f->heard > 0)
        f->caught_up = MAX(f->caught_up, f->heard);
    f->heard = g->inner->time(g->inner);
    f->last_at_heard = last;
}

/* G15: the answer to an InstallSnapshot, or a sign that it was lost. */
static void note_result(struct guard *g, const struct raft_message *m)
{
    const struct raft_append_entries_result *a = &m->append_entries_result;

    for (struct guard_send *s = g->sends; s != NULL; s = s->next) {
        if (s->to != m->server_id || s->over)
            continue;
        /* Completing with an error always leaves the library's snapshot state, which a success
         * that brings no news does not. */
        if (a->rejected == 0 && a->last_log_index >= s->snapshot_index) {
            s->over = true;
            s->status = RAFT_NOCONNECTION;
        } else if (a->rejected != 0 && g->peer_installing == 0 && s->inner_done &&
                   g->inner->time(g->inner) >= s->sent + g->raft->election_timeout) {
            s->over = true;
            s->status = RAFT_NOCONNECTION;
            g->counts.retried++;
        }
    }
}

/* G19: would these entries roll back a change of members that cannot be rolled back? */
static bool rolls_back_members(const struct guard *g, const struct raft_append_entries *a)
{
    const struct raft *r = g->raft;

    if (r->configuration_uncommitted_index == 0 || r->configuration_index > r->log.offset ||
        a->term < r->current_term)
        return false;
    for (unsigned i = 0; i < a->n_entries; i++) {
        raft_index index = a->prev_log_index + 1 + i;
        raft_term term = term_of(r, index);

        if (term != 0 && term != a->entries[i].term && index <= r->configuration_uncommitted_index)
            return true;
    }
    return false;
}

/* G21: what precedes our snapshot is committed; the entries begin behind it. */
static void rebase_entries(struct guard *g, struct raft_append_entries *a)
{
    const struct raft_log *l = &g->raft->log;
    raft_index skip;

    if (g->installing || a->term < g->raft->current_term ||
        a->prev_log_index >= l->snapshot.last_index || a->prev_log_index > l->offset ||
        (a->prev_log_index == 0 && l->offset == 0))
        return;
    skip = l->snapshot.last_index - a->prev_log_index;
    if (skip >= a->n_entries) {
        free_entries(a);
    } else {
        memmove(a->entries, a->entries + skip, (size_t)(a->n_entries - skip) * sizeof *a->entries);
        a->n_entries -= (unsigned)skip;
    }
    a->prev_log_index = l->snapshot.last_index;
    a->prev_log_term = l->snapshot.last_term;
    g->counts.rebased++;
}

/* G23: would be granted, whomever this server has voted for. */
static bool would_vote_twice(const struct guard *g, const struct raft_message *m)
{
    const struct raft *r = g->raft;
    const struct raft_request_vote *v = &m->request_vote;

    return m->type == RAFT_IO_REQUEST_VOTE && !v->pre_vote && r->transfer != NULL &&
           r->transfer->id == v->candidate_id && v->term == r->current_term && r->voted_for != 0 &&
           r->voted_for != v->candidate_id;
}

static void deliver(struct guard *g, struct raft_message *m)
{
    struct raft_append_entries *a = &m->append_entries;

    if (m->type == RAFT_IO_APPEND_ENTRIES) {
        if (a->n_entries > 0 && g->appends != NULL && g->append_term < a->term) { /* G12 */
            free_entries(a);
            g->counts.stripped++;
        }
        if (rolls_back_members(g, a)) {
            drop_message(m);
            restart(g);
            return;
        }
        g->delivered_last = a->prev_log_index + a->n_entries;
        rebase_entries(g, a);
        a->leader_commit =
            MUTANT(24) ? g->delivered_last : MIN(a->leader_commit, g->delivered_last); /* G1 */
    }
    if (m->type == RAFT_IO_REQUEST_VOTE && guard_leader_is_marked(g))
        m->request_vote.disrupt_leader = true; /* [H15] */
    g->delivering_entries = m->type == RAFT_IO_APPEND_ENTRIES;
    g->delivering_snapshot = m->type == RAFT_IO_INSTALL_SNAPSHOT;
    if (g->delivering_entries || g->delivering_snapshot) {
        raft_term term = g->delivering_entries ? a->term : m->install_snapshot.term;

        if (term >= g->raft->current_term) {
            g->led_by = m->server_id;
            g->led_term = term;
        }
    }
    g->recv(&g->io, m);
    g->delivering_entries = g->delivering_snapshot = false;
}

static bool disk_is_busy(const struct guard *g)
{
    return g->appends != NULL || g->putting || g->installing;
}

/* G14: the newest one waits. */
static void hold_snapshot(struct guard *g, struct raft_message *m)
{
    size_t size = strnlen(m->server_address, ADDRESS_MAX - 1);

    if (g->is_held)
        drop_message(&g->held);
    g->held = *m;
    memcpy(g->held_address, m->server_address, size);
    g->held_address[size] = 0;
    g->held.server_address = g->held_address;
    g->is_held = true;
    g->counts.delayed++;
}

/* It is obeyed with the tick that finds the disk at rest, as if it had come then: whoever hands
 * leadership over waits a whole election time-out for an answer before it asks again. */
static void hold_timeout_now(struct guard *g, const struct raft_message *m)
{
    size_t size = strnlen(m->server_address, sizeof g->handover_address - 1);

    memcpy(g->handover_address, m->server_address, size);
    g->handover_address[size] = 0;
    g->handover = *m;
    g->handover.server_address = g->handover_address;
    g->has_handover = true;
}

static void obey_timeout_now(struct guard *g)
{
    struct raft_message m = g->handover;

    g->has_handover = false;
    if (raft_state(g->raft) == RAFT_FOLLOWER && m.timeout_now.term == g->raft->current_term)
        deliver(g, &m);
}

static void on_recv(struct raft_io *inner, struct raft_message *m)
{
    struct guard *g = inner->data;

    if (g->closing != CLOSING_NO || g->restart_pending || is_dead(g)) {
        drop_message(m);
        return;
    }
    after_event(g, true);
    if (m->type == RAFT_IO_APPEND_ENTRIES_RESULT) {
        if (g->holds_acks) /* G2 */
            return;
        if (g->leads) {
            note_follower(g, m);
            note_result(g, m);
        }
    }
    if (m->server_id == g->gone_leader &&
        (m->type == RAFT_IO_APPEND_ENTRIES || m->type == RAFT_IO_INSTALL_SNAPSHOT))
        g->gone_term = 0;
    if (m->type == RAFT_IO_TIMEOUT_NOW && (g->installing || g->appends != NULL)) { /* G14, G22 */
        hold_timeout_now(g, m);
        return;
    }
    if (would_vote_twice(g, m))
        return;
    if (m->type == RAFT_IO_INSTALL_SNAPSHOT && disk_is_busy(g)) {
        hold_snapshot(g, m);
        return;
    }
    deliver(g, m);
    after_event(g, true);
}

void guard_receive(struct guard *g, struct raft_message *m, bool installing)
{
    g->peer_installing = installing;
    on_recv(g->inner, m);
    g->peer_installing = -1;
}

void guard_snapshot_sent(struct guard *g, raft_id to)
{
    for (struct guard_send *s = g->sends; s != NULL; s = s->next) {
        if (s->to != to || s->over)
            continue;
        s->inner_done = true;
        s->sent = g->inner->time(g->inner);
    }
}

void guard_peer_lost(struct guard *g, raft_id id)
{
    for (struct guard_send *s = g->sends; s != NULL; s = s->next) {
        if (s->to != id || s->over)
            continue;
        s->status = RAFT_NOCONNECTION;
        give_up_send(g, s);
    }
    after_event(g, true);
}

/* [H14 b] Nothing is committed without the leader's own disk. */
static void check_own_disk(struct guard *g)
{
    uint64_t age = guard_append_age_ms(g);
    unsigned timeout = g->raft->election_timeout;
    unsigned voters = 0;

    for (unsigned i = 0; i < g->raft->configuration.n; i++)
        voters += g->raft->configuration.servers[i].role == RAFT_VOTER;
    if (!g->leads || voters < 2 || age < 2 * timeout) {
        g->silent = false;
        return;
    }
    guard_transfer(g);
    if (age >= 3 * timeout && !g->silent) {
        g->silent = true;
        g->counts.silences++;
    }
}

static void on_tick(struct raft_io *inner)
{
    struct guard *g = inner->data;

    if (g->failed)
        return;
    after_event(g, true);
    if (g->closing == CLOSING_NO && !is_dead(g))
        check_own_disk(g);
    /* G14, G22: no election while the log is being replaced, or written. */
    if (g->closing != CLOSING_NO || g->restart_pending || is_dead(g) ||
        ((g->installing || g->appends != NULL) && raft_state(g->raft) == RAFT_FOLLOWER))
        return;
    if (g->has_handover && !g->installing && g->appends == NULL)
        obey_timeout_now(g);
    g->tick(&g->io);
    after_event(g, true);
}

static int guard_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                       raft_io_recv_cb recv)
{
    struct guard *g = guard_of(io);

    g->tick = tick;
    g->recv = recv;
    return g->inner->start(g->inner, msecs, on_tick, on_recv);
}

/* ---- the disk ---- */

static void remove_append(struct guard *g, struct guard_append *a)
{
    struct guard_append **at = &g->appends;

    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
}

static void on_append(struct raft_io_append *inner, int status)
{
    struct guard_append *a = inner->data;
    struct guard *g = a->guard;

    remove_append(g, a);
    if (status != 0 && status != RAFT_CANCELED)
        fail(g, "append", status);
    if (g->failed || a->told) {
        free(a);
        return;
    }
    g->append_in_cb = a;
    a->cb(a->request, status);
    g->append_in_cb = NULL;
    free(a);
    if (g->restart_pending && g->closing == CLOSING_NO) {
        restart(g);
        return;
    }
    after_event(g, false);
}

static int guard_append(struct raft_io *io, struct raft_io_append *request,
                        const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct guard *g = guard_of(io);
    struct guard_append *a = xcalloc(1, sizeof *a), **at = &g->appends;
    int rv;

    a->inner.data = a;
    a->guard = g;
    a->request = request;
    a->cb = cb;
    a->term = g->raft->current_term;
    a->last = raft_last_index(g->raft);
    a->begun = g->inner->time(g->inner);
    request->cb = cb;
    while (*at != NULL)
        at = &(*at)->next;
    *at = a;
    g->append_term = a->term;
    if (g->failed)
        return 0;
    rv = g->inner->append(g->inner, &a->inner, entries, n, on_append);
    if (rv != 0)
        fail(g, "append", rv);
    return 0; /* G3: the library must not look at a failure */
}

static int guard_truncate(struct raft_io *io, raft_index index)
{
    struct guard *g = guard_of(io);
    int rv;

    if (index <= g->loaded_change)
        g->restart_pending = true; /* G19, once the disk is done */
    rv = g->failed ? 0 : g->inner->truncate(g->inner, index);
    if (rv != 0)
        fail(g, "truncate", rv);
    return 0;
}

static void on_snapshot_put(struct raft_io_snapshot_put *inner, int status)
{
    struct guard_put *p = inner->data;
    struct guard *g = p->guard;

    if (status != 0 && status != RAFT_CANCELED)
        fail(g, "snapshot_put", status);
    if (!g->failed)
        p->cb(p->request, status);
    if (p->is_install) {
        g->installing = false;
        g->install = NULL;
    } else {
        g->putting = false;
        g->put = NULL;
    }
    free(p);
    if (!g->failed)
        after_event(g, false);
}

static int guard_snapshot_put(struct raft_io *io, unsigned trailing,
                              struct raft_io_snapshot_put *request,
                              const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct guard *g = guard_of(io);
    struct guard_put *p;
    int rv;

    if (g->closing != CLOSING_NO) /* its encoding has ended after close began; it is given up */
        return RAFT_CANCELED;
    p = xcalloc(1, sizeof *p);
    p->inner.data = p;
    p->guard = g;
    p->request = request;
    p->cb = cb;
    p->is_install = trailing == 0; /* an own snapshot always leaves a trail */
    request->cb = cb;
    if (p->is_install) {
        g->installing = true;
        g->install = p;
    } else {
        g->putting = true;
        g->put = p;
    }
    rv = g->failed
             ? 0
             : g->inner->snapshot_put(g->inner, trailing, &p->inner, snapshot, on_snapshot_put);
    if (rv != 0)
        fail(g, "snapshot_put", rv);
    return 0;
}

struct own_id {
    const char *address;
    raft_id id;
};

static void match_own_id(void *ctx, raft_id id, const char *address, int role)
{
    struct own_id *own = ctx;

    (void)role;
    if (strcmp(own->address, address) == 0)
        own->id = id;
}

/* The newest configuration that names our address says which raft id is ours. */
static void find_own_id(struct guard *g, const struct raft_snapshot *s,
                        const struct raft_entry *entries, size_t count)
{
    struct own_id own = {.address = g->options.address};

    for (size_t i = count; i > 0 && own.id == 0; i--) {
        const struct raft_buffer *b = &entries[i - 1].buf;

        if (entries[i - 1].type == RAFT_CHANGE &&
            wire_read_configuration(b->base, b->len, match_own_id, &own) != ERR_NONE)
            own.id = 0;
    }
    for (unsigned i = 0; s != NULL && own.id == 0 && i < s->configuration.n; i++)
        match_own_id(&own, s->configuration.servers[i].id, s->configuration.servers[i].address, 0);
    if (own.id != 0)
        g->raft->id = own.id;
}

/* G10, and G19's memory of the last configuration. */
static int guard_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                      struct raft_snapshot **snapshot, raft_index *start,
                      struct raft_entry *entries[], size_t *count)
{
    struct guard *g = guard_of(io);
    int rv = g->inner->load(g->inner, term, voted_for, snapshot, start, entries, count);
    void *last = NULL;

    if (rv != 0) {
        memcpy(io->errmsg, g->inner->errmsg, sizeof io->errmsg);
        return rv;
    }
    for (size_t i = 0; i < *count; i++) {
        struct raft_entry *e = &(*entries)[i];
        void *batch = e->batch, *own = raft_malloc(MAX(e->buf.len, (size_t)8));

        CHECK(own != NULL);
        if (e->type == RAFT_CHANGE)
            g->loaded_change = *start + i;
        if (e->buf.len > 0)
            memcpy(own, e->buf.base, e->buf.len);
        e->buf.base = own;
        e->batch = NULL;
        if (batch != last && last != NULL)
            raft_free(last);
        last = batch;
    }
    if (last != NULL)
        raft_free(last);
    if (g->options.address != NULL)
        find_own_id(g, *snapshot, *entries, *count);
    return 0;
}

/* ---- closing ---- */

static void on_inner_closed(struct raft_io *inner)
{
    struct guard *g = inner->data;

    for (struct guard_send *s = g->sends; s != NULL; s = s->next) {
        if (!s->over)
            s->status = RAFT_CANCELED;
        s->over = s->inner_done = true;
    }
    if (!g->failed)
        reap_sends(g);
    g->close_cb(&g->io);
}

static void try_close(struct guard *g)
{
    if (g->closing != CLOSING_WAITS || (!g->failed && disk_is_busy(g)))
        return;
    g->closing = CLOSING_INNER;
    g->inner->close(g->inner, on_inner_closed);
}

static void guard_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct guard *g = guard_of(io);

    g->close_cb = cb;
    g->closing = CLOSING_WAITS;
    if (g->is_held) {
        drop_message(&g->held);
        g->is_held = false;
    }
    try_close(g); /* raft_close() is called from a top-level event */
}

void guard_abandon(struct guard *g, raft_io_close_cb cb)
{
    CHECK(g->failed);
    guard_close(&g->io, cb);
}

/* ---- leadership ---- */

static void on_barrier(struct raft_barrier *b, int status)
{
    struct guard *g = b->data;

    g->barrier_pending = false;
    if (status == 0) /* else leadership is lost, which is noticed by itself */
        g->options.on_leading(g->options.ctx);
}

static void begin_leading(struct guard *g)
{
    g->holds_acks = true;
    g->barrier_index = raft_last_index(g->raft) + 1;
    g->barrier_pending = true;
    g->barrier.data = g;
    g->follower_count = 0;
    if (raft_barrier(g->raft, &g->barrier, on_barrier) != 0)
        fail(g, "barrier", RAFT_IOERR);
}

/* M18: acknowledged before it is on the disk. */
static void tell_appends_early(struct guard *g)
{
    for (struct guard_append *a = g->appends; a != NULL; a = a->next) {
        if (a->told)
            continue;
        a->told = true;
        g->append_in_cb = a;
        a->cb(a->request, 0);
        g->append_in_cb = NULL;
    }
}

/* [H14 a] The library would tell it with the next heartbeat. */
static void announce(struct guard *g)
{
    struct raft *r = g->raft;

    for (unsigned i = 0; i < r->configuration.n && g->options.send != NULL && !g->silent; i++) {
        const struct raft_server *server = &r->configuration.servers[i];
        struct guard_follower *f = server->id != r->id ? follower_of(g, server->id) : NULL;
        raft_index known = f != NULL ? MIN(f->match, r->commit_index) : 0;
        struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES,
                                 .server_id = server->id,
                                 .server_address = server->address};
        raft_term term = known > 0 ? term_of(r, f->match) : 0;

        if (term == 0 || known <= f->told)
            continue;
        m.append_entries = (struct raft_append_entries){.term = r->current_term,
                                                        .prev_log_index = f->match,
                                                        .prev_log_term = term,
                                                        .leader_commit = known};
        f->told = known;
        g->counts.announced++;
        (void)g->options.send(g->options.ctx, &m);
    }
}

static void after_event(struct guard *g, bool at_top)
{
    bool leads = raft_state(g->raft) == RAFT_LEADER;

    if (g->busy || g->failed || (g->restart_pending && g->closing == CLOSING_NO))
        return;
    g->busy = true;
    if (g->closing != CLOSING_NO) {
        if (at_top)
            try_close(g);
        g->busy = false;
        return;
    }
    if (MUTANT(18))
        tell_appends_early(g);
    if (leads && !g->leads && !g->barrier_pending) {
        begin_leading(g);
        g->leads = true;
    } else if (!leads) {
        g->leads = false;
    }
    if (g->holds_acks && (!leads || g->raft->last_stored >= g->barrier_index))
        g->holds_acks = false;
    if (!leads) {
        g->silent = false;
        for (struct guard_send *s = g->sends; s != NULL; s = s->next)
            give_up_send(g, s);
    } else {
        announce(g);
    }
    reap_sends(g);
    if (at_top && g->is_held && !disk_is_busy(g)) {
        struct raft_message m = g->held;

        g->is_held = false;
        deliver(g, &m);
    }
    g->busy = false;
    if (g->options.on_event != NULL)
        g->options.on_event(g->options.ctx);
}

static void on_transferred(struct raft_transfer *t)
{
    ((struct guard *)t->data)->transferring = false;
}

void guard_transfer(struct guard *g)
{
    if (g->transferring || is_dead(g) || raft_state(g->raft) != RAFT_LEADER)
        return;
    g->transfer.data = g;
    g->transferring = raft_transfer(g->raft, &g->transfer, 0, on_transferred) == 0;
    g->counts.transfers += g->transferring ? 1 : 0;
}

raft_id guard_leader(const struct guard *g)
{
    if (g->raft->state == RAFT_LEADER)
        return g->raft->id;
    return g->led_term == g->raft->current_term && g->raft->state == RAFT_FOLLOWER ? g->led_by : 0;
}

/* [H15] */
static bool follows(const struct guard *g, raft_id leader, raft_term term)
{
    const struct raft *r = g->raft;

    return r->state == RAFT_FOLLOWER && r->current_term == term &&
           r->follower_state.current_leader.id == leader && guard_leader(g) == leader;
}

void guard_mark_leader_gone(struct guard *g, raft_id leader, raft_term term)
{
    if (!follows(g, leader, term))
        return;
    g->gone_leader = leader;
    g->gone_term = term;
}

bool guard_leader_is_marked(const struct guard *g)
{
    return g->gone_term != 0 && follows(g, g->gone_leader, g->gone_term);
}

void guard_jump(struct guard *g)
{
    if (!guard_leader_is_marked(g) || g->closing != CLOSING_NO || is_dead(g))
        return;
    g->clock_offset += 2 * (raft_time)g->raft->election_timeout;
    g->counts.jumps++;
    on_tick(g->inner);
}

const struct guard_follower *guard_follower(const struct guard *g, raft_id id)
{
    for (int i = 0; i < g->follower_count; i++) {
        if (g->followers[i].id == id)
            return &g->followers[i];
    }
    return NULL;
}

void guard_poll(struct guard *g)
{
    after_event(g, false);
}

bool guard_leads(const struct guard *g)
{
    return g->leads && !g->holds_acks && !g->barrier_pending && !is_dead(g) &&
           g->closing == CLOSING_NO && raft_state(g->raft) == RAFT_LEADER;
}

bool guard_may_change(const struct guard *g)
{
    return guard_leads(g);
}

bool guard_may_snapshot(const struct guard *g)
{
    return g->raft->configuration_uncommitted_index == 0 &&
           g->raft->configuration_index <= g->raft->last_applied;
}

bool guard_has_failed(const struct guard *g)
{
    return g->failed;
}

uint64_t guard_append_age_ms(const struct guard *g)
{
    return g->appends != NULL ? g->inner->time(g->inner) - g->appends->begun : 0;
}

bool guard_is_installing(const struct guard *g)
{
    return g->installing || g->is_held;
}

void guard_set_peer_installing(struct guard *g, int installing)
{
    g->peer_installing = installing;
}

const struct guard_counts *guard_counts(const struct guard *g)
{
    return &g->counts;
}

/* ---- what only passes through ---- */

static int guard_init(struct raft_io *io, raft_id id, const char *address)
{
    struct guard *g = guard_of(io);
    int rv = g->inner->init(g->inner, id, address);

    if (rv != 0)
        memcpy(io->errmsg, g->inner->errmsg, sizeof io->errmsg);
    return rv;
}

static int guard_bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    struct guard *g = guard_of(io);
    int rv = g->inner->bootstrap(g->inner, conf);

    if (rv != 0)
        memcpy(io->errmsg, g->inner->errmsg, sizeof io->errmsg);
    return rv;
}

static int guard_recover(struct raft_io *io, const struct raft_configuration *conf)
{
    return guard_of(io)->inner->recover(guard_of(io)->inner, conf);
}

static int guard_set_term(struct raft_io *io, raft_term term)
{
    struct guard *g = guard_of(io);
    int rv = g->failed || MUTANT(118) ? 0 : g->inner->set_term(g->inner, term);

    if (rv != 0)
        fail(g, "set_term", rv);
    return 0;
}

static int guard_set_vote(struct raft_io *io, raft_id id)
{
    struct guard *g = guard_of(io);
    int rv = g->failed || MUTANT(118) ? 0 : g->inner->set_vote(g->inner, id);

    if (rv != 0)
        fail(g, "set_vote", rv);
    return 0;
}

static int guard_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *request,
                              raft_io_snapshot_get_cb cb)
{
    return guard_of(io)->inner->snapshot_get(guard_of(io)->inner, request, cb);
}

static raft_time guard_time(struct raft_io *io)
{
    return guard_of(io)->inner->time(guard_of(io)->inner) + guard_of(io)->clock_offset;
}

static int guard_random(struct raft_io *io, int min, int max)
{
    return guard_of(io)->inner->random(guard_of(io)->inner, min, max);
}

static int guard_async_work(struct raft_io *io, struct raft_io_async_work *request,
                            raft_io_async_work_cb cb)
{
    return guard_of(io)->inner->async_work(guard_of(io)->inner, request, cb);
}

struct guard *guard_new(const struct guard_options *o)
{
    struct guard *g = xcalloc(1, sizeof *g);

    g->options = *o;
    g->inner = o->inner;
    g->raft = o->raft;
    g->peer_installing = -1;
    g->inner->data = g;
    g->io = (struct raft_io){
        .version = 2, /* asynchronous snapshots */
        .impl = g,
        .init = guard_init,
        .close = guard_close,
        .load = guard_load,
        .start = guard_start,
        .bootstrap = guard_bootstrap,
        .recover = guard_recover,
        .set_term = guard_set_term,
        .set_vote = guard_set_vote,
        .send = guard_send,
        .append = guard_append,
        .truncate = guard_truncate,
        .snapshot_put = guard_snapshot_put,
        .snapshot_get = guard_snapshot_get,
        .time = guard_time,
        .random = guard_random,
        .async_work = g->inner->async_work != NULL ? guard_async_work : NULL,
    };
    return g;
}

void guard_free(struct guard *g)
{
    while (g->sends != NULL) {
        struct guard_send *s = g->sends;

        g->sends = s->next;
        free(s);
    }
    while (g->appends != NULL) {
        struct guard_append *a = g->appends;

        g->appends = a->next;
        free(a);
    }
    free(g->put);
    free(g->install);
    if (g->is_held)
        drop_message(&g->held);
    free(g);
}

struct raft_io *guard_io(struct guard *g)
{
    return &g->io;
}
