/* tests/sim/raft_only/raft_sim.c -- the quorum alone: libraft under raft_io_guard, many instances
 * in one process on virtual time, from one seed.
 *
 *     fluxmq_raft_sim FIRST_SEED COUNT [-v] [--mutant N]
 *
 * prints a summary; a violation ends it with exit code 1. --mutant: in a build with planted bugs.
 *
 * Each seed draws 1, 3 or 5 servers and its faults: lost messages, cuts (one-way too), crashes that
 * lose what was not synced or keep a part of it, orderly closes, slow and stalled disks, pauses,
 * changes of members, transfers of leadership, false evidence that the leader is gone. After 30 s
 * of that all is healed, and all servers must become equal and have a leader.
 *
 * Checked while it runs: one leader per term (election safety); a new leader's log holds everything
 * committed (leader completeness); equal (index, term) is equal content, for what is committed (log
 * matching); all servers apply the same commands in the same order, each once (state machine
 * safety); what was acknowledged is applied; no server becomes unavailable; no disk is given a log
 * with a hole. Messages go through raft_wire, bytes and all.
 */
#include <raft.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/bytes.h"
#include "protocol/base/mutant.h"
#include "raft-meta/raft_io_guard.h"
#include "raft-meta/raft_wire.h"

#define SERVERS_MAX      5
#define ELECTION_MS      300
#define HEARTBEAT_MS     50
#define FAULTS_MS        30000
#define CALM_MS          9000
#define CLIENTS_END_MS   2000 /* before the end */
#define SNAPSHOT_ENTRIES 60
#define TRAIL_ENTRIES    20
#define LATENCY_MAX_MS   25

/* ---- the world ---- */

struct stored {
    raft_term term;
    unsigned short type;
    uint8_t *bytes;
    size_t size;
};

struct disk_image { /* durable */
    raft_term term;
    raft_id vote;
    raft_index start; /* index of entries[0] */
    struct stored *entries;
    size_t count;
    bool has_snapshot;
    raft_index snapshot_index, configuration_index;
    raft_term snapshot_term;
    struct raft_configuration configuration;
    uint64_t state[2]; /* commands applied, and their hash */
};

enum op_kind { OP_APPEND, OP_TRUNCATE, OP_SNAPSHOT };

struct op { /* on its way to the disk */
    enum op_kind kind;
    raft_index index;
    const struct raft_entry *entries;
    unsigned count, trailing;
    const struct raft_snapshot *snapshot;
    struct raft_io_append *append;
    struct raft_io_snapshot_put *put;
    struct op *next;
};

struct world;

struct server {
    struct world *w;
    int number; /* its raft id - 1 */
    bool up, closing, restart;
    uint64_t life; /* events of earlier lives are dropped */
    uint64_t paused_until;
    struct raft raft;
    struct raft_io io;
    struct raft_fsm fsm;
    struct guard *guard;
    struct disk_image disk;
    struct op *ops, **ops_end;
    raft_index next_index; /* of the log with all ops done */
    uint64_t disk_free_at;
    int disk_ms;
    raft_io_tick_cb tick;
    uint64_t applied, hash; /* the state machine */
    bool leads;
    bool applying; /* a client's command is in flight */
    char address[WIRE_ADDRESS_MAX];
};

enum event_kind {
    EVENT_TICK,
    EVENT_DISK,
    EVENT_DELIVER,
    EVENT_SNAPSHOT_GET,
    EVENT_SENT,
    EVENT_NEMESIS,
    EVENT_CLIENT
};

struct event {
    uint64_t at, order, life;
    enum event_kind kind;
    int server, from;
    void *what;
    size_t size;
};

struct committed {
    raft_term term;
    raft_term
        by;      /* term of the server that was first seen to apply it: committed in it or before */
    uint64_t id; /* 0: no command */
};

struct allocation {
    struct allocation *next, *prev;
    size_t size, pad;
};

struct world {
    uint64_t seed, random, now, order;
    int n;
    bool verbose, quiet, slow, members, lossy, pauses, evidence, transfers;
    struct server servers[SERVERS_MAX];
    bool cut[SERVERS_MAX][SERVERS_MAX];
    uint64_t fifo[SERVERS_MAX][SERVERS_MAX];
    struct event *events;
    size_t event_count, event_capacity;
    struct allocation allocations; /* of libraft */
    /* what the oracle knows */
    uint64_t *sequence, *hashes; /* ids in the order of application; the hash behind each */
    size_t sequence_count, sequence_capacity;
    struct committed *committed; /* by index */
    size_t committed_count;
    raft_index committed_last;
    uint8_t *fate; /* by id: 1 applied, 2 acknowledged */
    size_t fate_count;
    uint64_t next_id;
    int *leaders; /* by term */
    size_t leader_count;
    /* what happened */
    uint64_t acked, crashes, changes, elections, installs, jumps, transfers_made, restarts,
        silences;
};

struct totals {
    uint64_t seeds, acked, crashes, changes, elections, installs, jumps, transfers, restarts,
        silences, events;
};

static uint64_t draw(struct world *w)
{
    uint64_t z = (w->random += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t between(struct world *w, uint64_t low, uint64_t high)
{
    return low + draw(w) % (high - low + 1);
}

static bool one_in(struct world *w, uint64_t n)
{
    return draw(w) % n == 0;
}

static void violation(const struct world *w, const char *fmt, ...) PRINTF(2, 3);
static void violation(const struct world *w, const char *fmt, ...)
{
    va_list ap;

    printf("VIOLATION seed %" PRIu64 " at %" PRIu64 " ms, %d servers: ", w->seed, w->now, w->n);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\nagain: fluxmq_raft_sim %" PRIu64 " 1 -v\n", w->seed);
    fflush(stdout);
    exit(1);
}

static void say(const struct world *w, const char *fmt, ...) PRINTF(2, 3);
static void say(const struct world *w, const char *fmt, ...)
{
    va_list ap;

    if (!w->verbose)
        return;
    printf("%6" PRIu64 " ", w->now);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

/* ---- libraft's memory: a killed server leaves it behind ---- */

static void *heap_malloc(void *data, size_t size)
{
    struct world *w = data;
    struct allocation *a = xmalloc(sizeof *a + size);

    a->size = size;
    a->next = w->allocations.next;
    a->prev = &w->allocations;
    a->next->prev = a;
    w->allocations.next = a;
    return a + 1;
}

static void heap_free(void *data, void *p)
{
    struct allocation *a = p;

    (void)data;
    if (p == NULL)
        return;
    a--;
    a->prev->next = a->next;
    a->next->prev = a->prev;
    free(a);
}

static void *heap_calloc(void *data, size_t count, size_t size)
{
    void *p = heap_malloc(data, count * size);

    memset(p, 0, count * size);
    return p;
}

static void *heap_realloc(void *data, void *old, size_t size)
{
    void *p = heap_malloc(data, size);

    if (old != NULL)
        memcpy(p, old, MIN(size, ((struct allocation *)old)[-1].size));
    heap_free(data, old);
    return p;
}

static void *heap_aligned(void *data, size_t alignment, size_t size)
{
    (void)alignment;
    return heap_malloc(data, size);
}

static void heap_aligned_free(void *data, size_t alignment, void *p)
{
    (void)alignment;
    heap_free(data, p);
}

/* ---- events ---- */

static bool before(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void post(struct world *w, struct event e)
{
    size_t i = w->event_count++;

    if (w->event_count > w->event_capacity) {
        w->event_capacity = MAX((size_t)1024, 2 * w->event_capacity);
        w->events = xrealloc(w->events, w->event_capacity * sizeof *w->events);
    }
    e.order = w->order++;
    while (i > 0 && before(&e, &w->events[(i - 1) / 2])) {
        w->events[i] = w->events[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->events[i] = e;
}

static struct event take(struct world *w)
{
    struct event first = w->events[0], e = w->events[--w->event_count];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= w->event_count)
            break;
        if (child + 1 < w->event_count && before(&w->events[child + 1], &w->events[child]))
            child++;
        if (!before(&w->events[child], &e))
            break;
        w->events[i] = w->events[child];
        i = child;
    }
    w->events[i] = e;
    return first;
}

static void post_own(struct server *s, uint64_t in_ms, enum event_kind kind, void *what)
{
    post(s->w, (struct event){.at = s->w->now + in_ms,
                              .kind = kind,
                              .server = s->number,
                              .life = s->life,
                              .what = what});
}

/* ---- the oracle ---- */

static struct committed *committed_at(struct world *w, raft_index index)
{
    if (index >= w->committed_count) {
        size_t count = MAX((size_t)index + 1, 2 * w->committed_count);

        w->committed = xrealloc(w->committed, count * sizeof *w->committed);
        memset(w->committed + w->committed_count, 0,
               (count - w->committed_count) * sizeof *w->committed);
        w->committed_count = count;
    }
    return &w->committed[index];
}

static const struct raft_entry *entry_of(const struct raft *r, raft_index index)
{
    const struct raft_log *l = &r->log;
    size_t count = l->size > 0 ? (l->back + l->size - l->front) % l->size : 0;

    if (index <= l->offset || index > l->offset + count)
        return NULL;
    return &l->entries[(l->front + (size_t)(index - l->offset - 1)) % l->size];
}

static uint64_t chain(uint64_t hash, uint64_t id)
{
    return (hash ^ id) * 0x9e3779b97f4a7c15ull + (hash >> 29);
}

static void check_applied(struct server *s, uint64_t id)
{
    struct world *w = s->w;
    size_t at = (size_t)s->applied++;

    s->hash = chain(s->hash, id);
    if (at < w->sequence_count) {
        if (w->sequence[at] != id)
            violation(w, "server %d applies %" PRIu64 " as command %zu, another applied %" PRIu64,
                      s->number + 1, id, at, w->sequence[at]);
        return;
    }
    if (w->sequence_count == w->sequence_capacity) {
        w->sequence_capacity = MAX((size_t)1024, 2 * w->sequence_capacity);
        w->sequence = xrealloc(w->sequence, w->sequence_capacity * sizeof *w->sequence);
        w->hashes = xrealloc(w->hashes, w->sequence_capacity * sizeof *w->hashes);
    }
    w->sequence[w->sequence_count] = id;
    w->hashes[w->sequence_count++] = s->hash;
    if (id >= w->next_id || (w->fate[id] & 1) != 0)
        violation(w, "command %" PRIu64 " is applied a second time, or was never given", id);
    w->fate[id] |= 1;
}

/* What is committed stays, under its term. */
static void check_committed(struct server *s)
{
    struct world *w = s->w;
    raft_index last = s->raft.last_applied;

    for (raft_index i = last; i > 0; i--) {
        const struct raft_entry *e = entry_of(&s->raft, i);
        struct committed *c = committed_at(w, i);
        uint64_t id = 0;

        if (e == NULL)
            break;
        if (e->type == RAFT_COMMAND)
            memcpy(&id, e->buf.base, sizeof id);
        if (c->term != 0 && (c->term != e->term || c->id != id))
            violation(w, "server %d holds index %llu of term %llu, term %llu was committed there",
                      s->number + 1, i, e->term, c->term);
        if (c->term != 0)
            break;
        *c = (struct committed){e->term, s->raft.current_term, id};
    }
    w->committed_last = MAX(w->committed_last, last);
}

static void check_leader(struct server *s)
{
    struct world *w = s->w;
    raft_term term = s->raft.current_term;

    if (term >= w->leader_count) {
        size_t count = MAX((size_t)term + 1, 2 * w->leader_count);

        w->leaders = xrealloc(w->leaders, count * sizeof *w->leaders);
        memset(w->leaders + w->leader_count, 0, (count - w->leader_count) * sizeof *w->leaders);
        w->leader_count = count;
    }
    if (w->leaders[term] != 0 && w->leaders[term] != s->number + 1)
        violation(w, "servers %d and %d lead in term %llu", w->leaders[term], s->number + 1, term);
    if (w->leaders[term] == 0) {
        w->elections++;
        say(w, "server %d leads in term %llu", s->number + 1, term);
    }
    w->leaders[term] = s->number + 1;
    /* Of an earlier term it may have been elected late; then it commits nothing. */
    for (raft_index i = s->raft.log.offset + 1; i <= w->committed_last; i++) {
        const struct raft_entry *e = entry_of(&s->raft, i);
        const struct committed *c = committed_at(w, i);

        if (c->term != 0 && c->by < term && (e == NULL || e->term != c->term))
            violation(w, "leader %d of term %llu lacks what was committed at %llu in term %llu",
                      s->number + 1, term, i, c->by);
    }
}

static void look(struct server *s)
{
    bool leads;

    if (!s->up || s->closing || s->restart)
        return;
    if (raft_state(&s->raft) == RAFT_UNAVAILABLE)
        violation(s->w, "server %d is unavailable: %s", s->number + 1, raft_errmsg(&s->raft));
    check_committed(s);
    leads = raft_state(&s->raft) == RAFT_LEADER;
    if (leads && !s->leads)
        check_leader(s);
    s->leads = leads;
}

/* ---- the state machine ---- */

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct server *s = fsm->data;
    uint64_t id;

    memcpy(&id, buf->base, sizeof id);
    check_applied(s, id);
    *result = NULL;
    return 0;
}

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n)
{
    struct server *s = fsm->data;
    uint64_t state[2] = {s->applied, s->hash};

    if (!guard_may_snapshot(s->guard))
        return RAFT_BUSY;
    *n = 1;
    *bufs = raft_malloc(sizeof **bufs);
    (*bufs)[0] = (struct raft_buffer){raft_malloc(sizeof state), sizeof state};
    memcpy((*bufs)[0].base, state, sizeof state);
    return 0;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct server *s = fsm->data;
    uint64_t state[2];

    memcpy(state, buf->base, sizeof state);
    raft_free(buf->base);
    s->applied = state[0];
    s->hash = state[1];
    if (s->applied > s->w->sequence_count ||
        (s->applied > 0 && s->w->hashes[s->applied - 1] != s->hash))
        violation(s->w, "server %d restores a state that never was", s->number + 1);
    return 0;
}

/* ---- the disk ---- */

static void store(struct disk_image *d, const struct raft_entry *e)
{
    struct stored *x;

    d->entries = xrealloc(d->entries, (d->count + 1) * sizeof *d->entries);
    x = &d->entries[d->count++];
    *x = (struct stored){e->term, e->type, xmalloc(e->buf.len), e->buf.len};
    memcpy(x->bytes, e->buf.base, e->buf.len);
}

static void cut_entries(struct disk_image *d, size_t count)
{
    while (d->count > count)
        free(d->entries[--d->count].bytes);
}

static void copy_configuration(struct raft_configuration *to, const struct raft_configuration *from)
{
    raft_configuration_init(to);
    for (unsigned i = 0; i < from->n; i++)
        CHECK(raft_configuration_add(to, from->servers[i].id, from->servers[i].address,
                                     from->servers[i].role) == 0);
}

static void store_snapshot(struct disk_image *d, const struct raft_snapshot *s, unsigned trailing)
{
    size_t drop;

    if (d->has_snapshot)
        raft_configuration_close(&d->configuration);
    d->has_snapshot = true;
    d->snapshot_index = s->index;
    d->snapshot_term = s->term;
    d->configuration_index = s->configuration_index;
    copy_configuration(&d->configuration, &s->configuration);
    memcpy(d->state, s->bufs[0].base, sizeof d->state);
    if (trailing == 0) {
        cut_entries(d, 0);
        d->start = s->index + 1;
        return;
    }
    if (s->index <= trailing || s->index - trailing <= d->start)
        return;
    drop = MIN((size_t)(s->index - trailing - d->start), d->count);
    for (size_t i = 0; i < drop; i++)
        free(d->entries[i].bytes);
    memmove(d->entries, d->entries + drop, (d->count - drop) * sizeof *d->entries);
    d->count -= drop;
    d->start += drop;
}

static void do_op(struct server *s, const struct op *o, unsigned count)
{
    struct disk_image *d = &s->disk;

    if (o->kind == OP_SNAPSHOT) {
        store_snapshot(d, o->snapshot, o->trailing);
        return;
    }
    if (o->kind == OP_APPEND && o->index > d->start + d->count)
        violation(s->w, "server %d writes a log with a hole", s->number + 1);
    if (o->index < d->start + d->count)
        cut_entries(d, o->index > d->start ? (size_t)(o->index - d->start) : 0);
    for (unsigned i = 0; o->kind == OP_APPEND && i < count; i++)
        store(d, &o->entries[i]);
}

static struct server *server_of(struct raft_io *io)
{
    return io->impl;
}

static void begin_op(struct server *s, struct op *o, uint64_t ms)
{
    s->disk_free_at = MAX(s->disk_free_at, s->w->now) + ms;
    *s->ops_end = o;
    s->ops_end = &o->next;
    post_own(s, s->disk_free_at - s->w->now, EVENT_DISK, o);
}

static void end_op(struct server *s)
{
    struct op *o = s->ops; /* in their order, also after a pause */

    s->ops = o->next;
    if (s->ops == NULL)
        s->ops_end = &s->ops;
    do_op(s, o, o->count);
    if (o->kind == OP_APPEND)
        o->append->cb(o->append, 0);
    else if (o->kind == OP_SNAPSHOT)
        o->put->cb(o->put, 0);
    free(o);
}

static int io_init(struct raft_io *io, raft_id id, const char *address)
{
    (void)io;
    (void)id;
    (void)address;
    return 0;
}

static void io_close(struct raft_io *io, raft_io_close_cb cb)
{
    cb(io);
}

static struct raft_snapshot *load_snapshot(const struct disk_image *d)
{
    struct raft_snapshot *s = raft_calloc(1, sizeof *s);

    s->index = d->snapshot_index;
    s->term = d->snapshot_term;
    s->configuration_index = d->configuration_index;
    copy_configuration(&s->configuration, &d->configuration);
    s->n_bufs = 1;
    s->bufs = raft_malloc(sizeof *s->bufs);
    s->bufs[0] = (struct raft_buffer){raft_malloc(sizeof d->state), sizeof d->state};
    memcpy(s->bufs[0].base, d->state, sizeof d->state);
    return s;
}

static int io_load(struct raft_io *io, raft_term *term, raft_id *vote,
                   struct raft_snapshot **snapshot, raft_index *start, struct raft_entry *entries[],
                   size_t *count)
{
    struct server *s = server_of(io);
    const struct disk_image *d = &s->disk;
    size_t bytes = 0, at = 0;
    uint8_t *batch;

    *term = d->term;
    *vote = d->vote;
    *snapshot = d->has_snapshot ? load_snapshot(d) : NULL;
    *start = d->start;
    *count = d->count;
    *entries = NULL;
    s->next_index = d->start + d->count;
    for (size_t i = 0; i < d->count; i++)
        bytes += d->entries[i].size;
    if (d->count == 0)
        return 0;
    batch = raft_malloc(bytes);
    *entries = raft_calloc(d->count, sizeof **entries);
    for (size_t i = 0; i < d->count; i++) {
        const struct stored *e = &d->entries[i];

        memcpy(batch + at, e->bytes, e->size);
        (*entries)[i] = (struct raft_entry){
            .term = e->term, .type = e->type, .buf = {batch + at, e->size}, .batch = batch};
        at += e->size;
    }
    return 0;
}

static int io_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct server *s = server_of(io);

    (void)recv; /* messages go to the guard itself */
    s->tick = tick;
    post_own(s, msecs, EVENT_TICK, NULL);
    return 0;
}

static int io_bootstrap(struct raft_io *io, const struct raft_configuration *c)
{
    struct server *s = server_of(io);
    struct raft_entry e = {.term = 1, .type = RAFT_CHANGE};

    CHECK(raft_configuration_encode(c, &e.buf) == 0);
    s->disk.term = 1;
    store(&s->disk, &e);
    raft_free(e.buf.base);
    return 0;
}

static int io_recover(struct raft_io *io, const struct raft_configuration *c)
{
    (void)io;
    (void)c;
    return RAFT_INVALID;
}

static int io_set_term(struct raft_io *io, raft_term term)
{
    server_of(io)->disk.term = term;
    server_of(io)->disk.vote = 0;
    return 0;
}

static int io_set_vote(struct raft_io *io, raft_id id)
{
    server_of(io)->disk.vote = id;
    return 0;
}

static int io_append(struct raft_io *io, struct raft_io_append *request,
                     const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct server *s = server_of(io);
    struct world *w = s->w;
    struct op *o = xcalloc(1, sizeof *o);
    uint64_t ms = between(w, 1, (uint64_t)s->disk_ms);

    if (w->slow && !w->quiet && one_in(w, 60))
        ms = between(w, 300, 3000);
    request->cb = cb;
    *o = (struct op){.kind = OP_APPEND,
                     .append = request,
                     .entries = entries,
                     .count = n,
                     .index = s->next_index};
    s->next_index += n;
    begin_op(s, o, ms);
    return 0;
}

static int io_truncate(struct raft_io *io, raft_index index)
{
    struct server *s = server_of(io);
    struct op *o;

    if (index >= s->next_index)
        return 0;
    o = xcalloc(1, sizeof *o);
    *o = (struct op){.kind = OP_TRUNCATE, .index = index};
    s->next_index = index;
    begin_op(s, o, 1);
    return 0;
}

static int io_snapshot_put(struct raft_io *io, unsigned trailing,
                           struct raft_io_snapshot_put *request,
                           const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct server *s = server_of(io);
    struct op *o = xcalloc(1, sizeof *o);

    request->cb = cb;
    *o = (struct op){
        .kind = OP_SNAPSHOT, .put = request, .snapshot = snapshot, .trailing = trailing};
    if (trailing == 0) {
        s->next_index = snapshot->index + 1;
        s->w->installs++;
    }
    begin_op(s, o, between(s->w, 5, s->w->slow && !s->w->quiet ? 1500 : 60));
    return 0;
}

static int io_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *request,
                           raft_io_snapshot_get_cb cb)
{
    request->cb = cb;
    post_own(server_of(io), 5, EVENT_SNAPSHOT_GET, request);
    return 0;
}

static raft_time io_time(struct raft_io *io)
{
    return server_of(io)->w->now;
}

static int io_random(struct raft_io *io, int min, int max)
{
    return (int)between(server_of(io)->w, (uint64_t)min, (uint64_t)max - 1);
}

/* ---- the network ---- */

static struct uuid directory_of(int number)
{
    return (struct uuid){{0xd1, (uint8_t)(number + 1)}};
}

static uint8_t *flatten(struct ioqueue *q, size_t *size)
{
    uint8_t *bytes = xmalloc(q->bytes_total + 1);
    size_t n = 0;

    for (size_t i = 0; i < q->count; i++) {
        const struct ioslice *s = ioqueue_at(q, i);

        memcpy(bytes + n, s->buf->ptr + s->offset, s->len);
        n += s->len;
    }
    ioqueue_deinit(q);
    *size = n;
    return bytes;
}

static void transmit(struct server *s, int to, struct ioqueue *frames)
{
    struct world *w = s->w;
    size_t size;
    uint8_t *bytes = flatten(frames, &size);
    uint64_t at = MAX(w->now + between(w, 1, LATENCY_MAX_MS), w->fifo[s->number][to]);

    if (w->cut[s->number][to] || (w->lossy && !w->quiet && one_in(w, 50))) {
        free(bytes);
        return;
    }
    w->fifo[s->number][to] = at;
    post(w, (struct event){.at = at,
                           .kind = EVENT_DELIVER,
                           .server = to,
                           .from = s->number,
                           .life = w->servers[to].life,
                           .what = bytes,
                           .size = size});
}

static int send_message(void *ctx, const struct raft_message *m)
{
    struct server *s = ctx;
    int to = (int)m->server_id - 1;
    struct wire_envelope e = {.from = (raft_id)s->number + 1,
                              .to = m->server_id,
                              .from_directory = directory_of(s->number),
                              .to_directory = directory_of(to),
                              .installing = guard_is_installing(s->guard)};
    struct ioqueue q;

    if (to >= s->w->n)
        return RAFT_NOCONNECTION;
    ioqueue_init(&q);
    if (m->type == RAFT_IO_APPEND_ENTRIES) {
        unsigned next = 0;
        /* Some are split, as large ones are; a part of them may be lost. */
        bool more = true;

        while (more) {
            struct raft_append_entries part = m->append_entries;

            if (one_in(s->w, 3) && part.n_entries > next + 1)
                part.n_entries = next + 1 + (unsigned)(draw(s->w) % (part.n_entries - next - 1));
            (void)wire_encode_entries(&e, &part, next, &next, &q);
            transmit(s, to, &q);
            ioqueue_init(&q);
            more = next < m->append_entries.n_entries;
        }
        ioqueue_deinit(&q);
        return 0;
    }
    if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        struct iobuf *data;

        wire_encode_snapshot(&e, &m->install_snapshot, &q, &data);
        for (size_t at = 0; at < data->len;)
            at = wire_encode_chunk(m->install_snapshot.last_index, data, at, &q);
        iobuf_unref(data);
        post(s->w, (struct event){.at = s->w->now + between(s->w, 1, 20),
                                  .kind = EVENT_SENT,
                                  .server = s->number,
                                  .life = s->life,
                                  .from = to});
    } else {
        wire_encode(&e, m, &q);
    }
    transmit(s, to, &q);
    return 0;
}

static void receive(struct server *s, int from, const uint8_t *bytes, size_t size)
{
    struct wire_assembly assembly = {.active = false};
    uint64_t life = s->life;

    for (size_t at = 0; at < size;) {
        const uint8_t *payload = bytes + at + PEER_FRAME_HEADER_SIZE;
        struct raft_message m;
        struct wire_envelope e;
        struct peer_frame f;
        bool done = true;

        CHECK(peer_frame_read(bytes + at, size - at, true, &f) == ERR_NONE);
        CHECK(peer_frame_check(bytes + at, &f));
        at += PEER_FRAME_HEADER_SIZE + f.length;
        if (f.type == PEER_SNAPSHOT_BEGIN) {
            CHECK(wire_assembly_begin(&assembly, payload, f.length) == ERR_NONE);
            continue;
        }
        e = assembly.envelope;
        if (f.type == PEER_SNAPSHOT_CHUNK)
            CHECK(wire_assembly_chunk(&assembly, payload, f.length, &done, &m) == ERR_NONE);
        else if (wire_decode(f.type, payload, f.length, &e, &m) != ERR_NONE)
            violation(s->w, "server %d sends a message that cannot be right", from + 1);
        if (!done)
            continue;
        if (!s->up || s->life != life) {
            wire_drop(&m);
            continue;
        }
        m.server_address = s->w->servers[from].address;
        guard_receive(s->guard, &m, e.installing);
    }
    wire_assembly_reset(&assembly);
}

/* ---- servers come and go ---- */

static void on_fatal(void *ctx, const char *what, int raft_error)
{
    const struct server *s = ctx;

    violation(s->w, "server %d: %s failed: %s", s->number + 1, what, raft_strerror(raft_error));
}

static void on_restart(void *ctx)
{
    ((struct server *)ctx)->restart = true;
}

static void on_leading(void *ctx)
{
    (void)ctx;
}

static void first_configuration(struct server *s)
{
    struct raft_configuration c;

    raft_configuration_init(&c);
    for (int i = 0; i < s->w->n; i++)
        CHECK(raft_configuration_add(&c, (raft_id)i + 1, s->w->servers[i].address, RAFT_VOTER) ==
              0);
    CHECK(raft_bootstrap(&s->raft, &c) == 0);
    raft_configuration_close(&c);
}

static void boot(struct server *s)
{
    bool first = s->disk.start == 0;
    int rv;

    s->io = (struct raft_io){.version = 1,
                             .impl = s,
                             .init = io_init,
                             .close = io_close,
                             .load = io_load,
                             .start = io_start,
                             .bootstrap = io_bootstrap,
                             .recover = io_recover,
                             .set_term = io_set_term,
                             .set_vote = io_set_vote,
                             .append = io_append,
                             .truncate = io_truncate,
                             .snapshot_put = io_snapshot_put,
                             .snapshot_get = io_snapshot_get,
                             .time = io_time,
                             .random = io_random};
    s->fsm = (struct raft_fsm){.version = 1,
                               .data = s,
                               .apply = fsm_apply,
                               .snapshot = fsm_snapshot,
                               .restore = fsm_restore};
    memset(&s->raft, 0, sizeof s->raft);
    s->applied = s->hash = 0;
    s->ops = NULL;
    s->ops_end = &s->ops;
    s->disk_free_at = 0;
    s->leads = s->applying = s->restart = false;
    s->guard = guard_new(&(struct guard_options){.inner = &s->io,
                                                 .raft = &s->raft,
                                                 .on_fatal = on_fatal,
                                                 .on_leading = on_leading,
                                                 .on_restart = on_restart,
                                                 .send = send_message,
                                                 .address = s->address,
                                                 .ctx = s});
    /* The id comes from the configuration on the disk, but for the first time. */
    rv = raft_init(&s->raft, guard_io(s->guard), &s->fsm, first ? (raft_id)s->number + 1 : 99,
                   s->address);
    CHECK(rv == 0);
    raft_set_election_timeout(&s->raft, ELECTION_MS);
    raft_set_heartbeat_timeout(&s->raft, HEARTBEAT_MS);
    raft_set_install_snapshot_timeout(&s->raft, 5000);
    raft_set_pre_vote(&s->raft, true);
    raft_set_snapshot_threshold(&s->raft, SNAPSHOT_ENTRIES);
    raft_set_snapshot_trailing(&s->raft, TRAIL_ENTRIES);
    if (first) {
        s->disk.start = 1;
        first_configuration(s);
    }
    s->up = true;
    rv = raft_start(&s->raft);
    if (rv != 0)
        violation(s->w, "server %d does not start: %s", s->number + 1, raft_errmsg(&s->raft));
    guard_poll(s->guard);
    say(s->w, "server %d is up", s->number + 1);
}

/* What had not reached the disk is lost, or a part of it is there. */
static void kill_server(struct server *s)
{
    struct world *w = s->w;
    bool reaches = true;

    say(w, "server %d is killed", s->number + 1);
    w->silences += guard_counts(s->guard)->silences;
    w->jumps += guard_counts(s->guard)->jumps;
    w->transfers_made += guard_counts(s->guard)->transfers;
    while (s->ops != NULL) {
        struct op *o = s->ops;

        s->ops = o->next;
        reaches = reaches && one_in(w, 2);
        if (reaches) {
            unsigned part = o->kind == OP_APPEND ? (unsigned)between(w, 0, o->count) : 0;

            do_op(s, o, part);
            reaches = part == o->count;
        }
        free(o);
    }
    guard_free(s->guard);
    s->guard = NULL;
    s->up = s->closing = false;
    s->life++;
}

static void on_closed(struct raft *r)
{
    for (struct server *s = r->data; s != NULL; s = NULL) {
        while (s->ops != NULL) {
            struct op *o = s->ops;

            s->ops = o->next;
            free(o);
        }
        s->restart = true; /* freed from the loop */
    }
}

static void close_server(struct server *s)
{
    say(s->w, "server %d closes", s->number + 1);
    s->closing = true;
    s->raft.data = s;
    raft_close(&s->raft, on_closed);
}

/* ---- clients and faults ---- */

struct command {
    struct raft_apply apply;
    struct server *server;
    uint64_t id;
};

static void on_command(struct raft_apply *a, int status, void *result)
{
    struct command *c = a->data;
    struct world *w = c->server->w;

    (void)result;
    if (status == 0) {
        if ((w->fate[c->id] & 1) == 0)
            violation(w, "command %" PRIu64 " is acknowledged and was not applied", c->id);
        w->fate[c->id] |= 2;
        w->acked++;
    }
    c->server->applying = false;
    raft_free(c);
}

static void client(struct world *w)
{
    for (int i = 0; i < w->n; i++) {
        struct server *s = &w->servers[i];
        struct raft_buffer buf = {.len = 8 * between(w, 1, 40)};
        struct command *c;

        if (!s->up || s->closing || s->applying || !guard_leads(s->guard))
            continue;
        if (w->next_id >= w->fate_count) {
            w->fate_count = MAX((size_t)4096, 2 * w->fate_count);
            w->fate = xrealloc(w->fate, w->fate_count);
        }
        c = raft_calloc(1, sizeof *c);
        c->server = s;
        c->id = w->next_id++;
        c->apply.data = c;
        w->fate[c->id] = 0;
        buf.base = raft_calloc(1, buf.len);
        memcpy(buf.base, &c->id, sizeof c->id);
        s->applying = true;
        if (raft_apply(&s->raft, &c->apply, &buf, 1, on_command) != 0) {
            raft_free(buf.base);
            raft_free(c);
            s->applying = false;
        }
        guard_poll(s->guard);
    }
}

static void on_change(struct raft_change *c, int status)
{
    struct world *w = c->data;

    w->changes += status == 0;
    raft_free(c);
}

/* Adds, removes, promotes or demotes; three voters stay (of three, all). */
static void change_members(struct world *w)
{
    for (int i = 0; i < w->n; i++) {
        struct server *s = &w->servers[i];
        const struct raft_configuration *conf = &s->raft.configuration;
        const struct raft_server *one;
        struct raft_change *c;
        int voters = 0, rv = RAFT_BUSY;

        if (!s->up || s->closing || !guard_may_change(s->guard))
            continue;
        for (unsigned k = 0; k < conf->n; k++)
            voters += conf->servers[k].role == RAFT_VOTER;
        one = &conf->servers[draw(w) % conf->n];
        c = raft_calloc(1, sizeof *c);
        c->data = w;
        if (conf->n < (unsigned)w->n) {
            for (int k = 0; k < w->n && rv == RAFT_BUSY; k++) {
                bool there = false;

                for (unsigned x = 0; x < conf->n; x++)
                    there = there || conf->servers[x].id == (raft_id)k + 1;
                if (!there)
                    rv = raft_add(&s->raft, c, (raft_id)k + 1, w->servers[k].address, on_change);
            }
        } else if (one->id == s->raft.id) {
            rv = RAFT_BUSY;
        } else if (one->role != RAFT_VOTER && one_in(w, 2)) {
            rv = raft_remove(&s->raft, c, one->id, on_change);
        } else if (one->role != RAFT_VOTER) {
            rv = raft_assign(&s->raft, c, one->id, RAFT_VOTER, on_change);
        } else if (voters > 3) {
            rv = raft_assign(&s->raft, c, one->id, RAFT_STANDBY, on_change);
        }
        if (rv != 0)
            raft_free(c);
        guard_poll(s->guard);
    }
}

/* Evidence that the leader is gone: true or false, at one or at many [H15]. */
static void give_evidence(struct world *w)
{
    bool all = one_in(w, 2);

    for (int i = 0; i < w->n; i++) {
        struct server *s = &w->servers[i];
        raft_id leader = s->up && !s->closing ? guard_leader(s->guard) : 0;

        if (leader == 0 || (!all && one_in(w, 2)))
            continue;
        guard_mark_leader_gone(s->guard, leader, s->raft.current_term);
        if (one_in(w, 2))
            guard_jump(s->guard);
    }
}

static void set_cuts(struct world *w, int isolated, bool random)
{
    memset(w->cut, 0, sizeof w->cut);
    for (int i = 0; i < w->n; i++) {
        for (int k = 0; k < w->n; k++)
            w->cut[i][k] = i != k && (random ? one_in(w, 2) : i == isolated || k == isolated);
    }
}

static void toggle(struct world *w, struct server *s)
{
    if (s->closing)
        return;
    if (!s->up) {
        boot(s);
        return;
    }
    w->crashes++;
    if (one_in(w, 3))
        close_server(s);
    else
        kill_server(s);
}

static void nemesis(struct world *w)
{
    struct server *s = &w->servers[draw(w) % (uint64_t)w->n];

    switch (draw(w) % 9) {
    case 0:
    case 1:
        toggle(w, s);
        break;
    case 2:
        memset(w->cut, 0, sizeof w->cut);
        break;
    case 3:
        set_cuts(w, s->number, false);
        break;
    case 4:
        set_cuts(w, 0, true);
        break;
    case 5: /* the leader */
        for (int i = 0; i < w->n; i++) {
            if (w->servers[i].up && w->servers[i].leads)
                s = &w->servers[i];
        }
        toggle(w, s);
        break;
    case 6:
        if (w->pauses)
            s->paused_until = w->now + between(w, 50, 2000);
        break;
    case 7:
        if (w->evidence)
            give_evidence(w);
        if (w->transfers && s->up && !s->closing)
            guard_transfer(s->guard);
        break;
    default:
        break;
    }
    if (w->members && one_in(w, 2))
        change_members(w);
    if (w->evidence && one_in(w, 4)) { /* connections are lost */
        for (int i = 0; i < w->n; i++) {
            if (w->servers[i].up && !w->servers[i].closing)
                guard_peer_lost(w->servers[i].guard, draw(w) % (uint64_t)w->n + 1);
        }
    }
}

/* ---- one seed ---- */

static void snapshot_get(struct server *s, struct raft_io_snapshot_get *request)
{
    if (!s->disk.has_snapshot) {
        request->cb(request, NULL, RAFT_NOTFOUND);
        return;
    }
    request->cb(request, load_snapshot(&s->disk), 0);
}

static void dispatch(struct world *w, struct event *e)
{
    struct server *s = e->server >= 0 ? &w->servers[e->server] : NULL;
    bool live = s != NULL && s->up && s->life == e->life;

    if (live && w->now < s->paused_until) {
        e->at = s->paused_until;
        post(w, *e);
        return;
    }
    switch (e->kind) {
    case EVENT_TICK:
        if (!live)
            break;
        s->tick(&s->io);
        post_own(s, HEARTBEAT_MS, EVENT_TICK, NULL);
        break;
    case EVENT_DISK:
        if (live)
            end_op(s);
        break;
    case EVENT_DELIVER:
        if (live && !w->cut[e->from][e->server])
            receive(s, e->from, e->what, e->size);
        free(e->what);
        break;
    case EVENT_SNAPSHOT_GET:
        if (live)
            snapshot_get(s, e->what);
        break;
    case EVENT_SENT:
        if (live)
            guard_snapshot_sent(s->guard, (raft_id)e->from + 1);
        break;
    case EVENT_NEMESIS:
        if (w->quiet)
            break;
        nemesis(w);
        post(w, (struct event){
                    .at = w->now + between(w, 50, 900), .kind = EVENT_NEMESIS, .server = -1});
        break;
    case EVENT_CLIENT:
        if (w->now + CLIENTS_END_MS < FAULTS_MS + CALM_MS)
            client(w);
        post(w,
             (struct event){.at = w->now + between(w, 1, 30), .kind = EVENT_CLIENT, .server = -1});
        break;
    }
}

static void heal(struct world *w)
{
    w->quiet = true;
    memset(w->cut, 0, sizeof w->cut);
    for (int i = 0; i < w->n; i++)
        w->servers[i].paused_until = 0;
    say(w, "healed");
}

static void after_event(struct world *w)
{
    for (int i = 0; i < w->n; i++) {
        struct server *s = &w->servers[i];

        if (s->up && s->restart) {
            bool was_closing = s->closing;

            w->restarts += !was_closing;
            kill_server(s);
            if (!was_closing)
                boot(s);
        }
        if (w->quiet && !s->up)
            boot(s);
        look(s);
    }
}

static void check_end(struct world *w)
{
    const struct server *leader = NULL;

    for (int i = 0; i < w->n; i++) {
        if (w->servers[i].leads && guard_leads(w->servers[i].guard))
            leader = &w->servers[i];
    }
    if (leader == NULL)
        violation(w, "nobody leads %d ms after the last fault", CALM_MS);
    for (unsigned i = 0; i < leader->raft.configuration.n; i++) {
        const struct raft_server *m = &leader->raft.configuration.servers[i];
        const struct server *s = &w->servers[m->id - 1];

        if (m->role != RAFT_SPARE && (s->applied != leader->applied || s->hash != leader->hash))
            violation(w, "server %llu applied %" PRIu64 " commands, the leader %" PRIu64, m->id,
                      s->applied, leader->applied);
    }
    for (uint64_t id = 1; id < w->next_id; id++) {
        if (w->fate[id] == 2)
            violation(w, "command %" PRIu64 " was acknowledged and is gone", id);
    }
    if (leader->applied != w->sequence_count)
        violation(w, "the leader applied %" PRIu64 " of %zu commands", leader->applied,
                  w->sequence_count);
}

static void draw_world(struct world *w)
{
    static const int sizes[] = {1, 3, 3, 5};

    w->n = sizes[draw(w) % ARRAY_COUNT(sizes)];
    w->slow = one_in(w, 3);
    w->members = w->n > 3 && one_in(w, 2);
    w->lossy = !one_in(w, 3);
    w->pauses = one_in(w, 3);
    w->evidence = one_in(w, 2);
    w->transfers = one_in(w, 2);
    w->next_id = 1;
    for (int i = 0; i < w->n; i++) {
        struct server *s = &w->servers[i];
        struct uuid directory = directory_of(i);

        s->w = w;
        s->number = i;
        s->disk_ms = (int)between(w, 1, 40);
        wire_address(s->address, i + 1, &directory);
    }
}

static void free_world(struct world *w)
{
    for (int i = 0; i < w->n; i++) {
        struct server *s = &w->servers[i];

        if (s->up)
            kill_server(s);
        cut_entries(&s->disk, 0);
        free(s->disk.entries);
    }
    for (size_t i = 0; i < w->event_count; i++) {
        if (w->events[i].kind == EVENT_DELIVER)
            free(w->events[i].what);
    }
    while (w->allocations.next != &w->allocations)
        heap_free(w, w->allocations.next + 1);
    free(w->events);
    free(w->sequence);
    free(w->hashes);
    free(w->committed);
    free(w->fate);
    free(w->leaders);
    free(w);
}

static void run(uint64_t seed, bool verbose, struct totals *t)
{
    struct world *w = xcalloc(1, sizeof *w);
    struct raft_heap heap = {.data = w,
                             .malloc = heap_malloc,
                             .free = heap_free,
                             .calloc = heap_calloc,
                             .realloc = heap_realloc,
                             .aligned_alloc = heap_aligned,
                             .aligned_free = heap_aligned_free};

    w->seed = w->random = seed;
    w->verbose = verbose;
    w->allocations.next = w->allocations.prev = &w->allocations;
    raft_heap_set(&heap);
    draw_world(w);
    say(w, "%d servers%s%s%s%s%s%s", w->n, w->slow ? ", slow disks" : "",
        w->members ? ", members change" : "", w->lossy ? ", losses" : "",
        w->pauses ? ", pauses" : "", w->evidence ? ", evidence" : "",
        w->transfers ? ", transfers" : "");
    for (int i = 0; i < w->n; i++)
        boot(&w->servers[i]);
    post(w, (struct event){.at = 10, .kind = EVENT_CLIENT, .server = -1});
    post(w, (struct event){.at = between(w, 300, 1000), .kind = EVENT_NEMESIS, .server = -1});
    while (w->event_count > 0 && w->events[0].at <= FAULTS_MS + CALM_MS) {
        struct event e = take(w);

        w->now = e.at;
        t->events++;
        if (w->now >= FAULTS_MS && !w->quiet)
            heal(w);
        dispatch(w, &e);
        after_event(w);
    }
    check_end(w);
    t->seeds++;
    t->acked += w->acked;
    t->crashes += w->crashes;
    t->changes += w->changes;
    t->elections += w->elections;
    t->installs += w->installs;
    t->restarts += w->restarts;
    say(w, "applied %zu, acknowledged %" PRIu64, w->sequence_count, w->acked);
    for (int i = 0; i < w->n; i++) {
        if (w->servers[i].up)
            kill_server(&w->servers[i]);
    }
    t->jumps += w->jumps;
    t->transfers += w->transfers_made;
    t->silences += w->silences;
    free_world(w);
    raft_heap_set_default();
}

int main(int argc, char **argv)
{
    struct totals t = {0};
    int64_t first, count;
    bool verbose = false;

    if (argc < 3 || !parse_int64(str_from(argv[1]), &first) ||
        !parse_int64(str_from(argv[2]), &count)) {
        fprintf(stderr, "usage: fluxmq_raft_sim FIRST_SEED COUNT [-v]\n");
        return 2;
    }
    for (int i = 3; i < argc; i++) {
        verbose = verbose || strcmp(argv[i], "-v") == 0;
#ifdef FLUXMQ_MUTANTS
        if (strcmp(argv[i], "--mutant") == 0 && i + 1 < argc)
            mutant_chosen = atoi(argv[++i]);
#endif
    }
    for (int64_t i = 0; i < count; i++)
        run((uint64_t)(first + i), verbose, &t);
    printf("%" PRIu64 " seeds ok: %" PRIu64 " events, %" PRIu64 " acknowledged, %" PRIu64
           " elections, %" PRIu64 " crashes, %" PRIu64 " changes of members, %" PRIu64
           " snapshots installed, %" PRIu64 " restarts (G19), %" PRIu64 " jumps, %" PRIu64
           " transfers, %" PRIu64 " silences\n",
           t.seeds, t.events, t.acked, t.elections, t.crashes, t.changes, t.installs, t.restarts,
           t.jumps, t.transfers, t.silences);
    return 0;
}
