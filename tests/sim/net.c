#include "tests/sim/net.h"

#include <stdlib.h>
#include <string.h>

#define MACHINES_MAX      128
#define PORT_ANY_FIRST    30000
#define LOOPBACK_NS       SIM_US(20)
#define RESENT_AFTER_NS   SIM_MS(100) /* what was held by a cut comes about so long after it */
#define CONNECT_AGAIN_NS  SIM_MS(500)
#define WRITES_CUT_ONE_IN 12 /* one write in so many is taken in part */

/* Where the bytes of a direction are up to `end`, and when they arrive. */
struct segment {
    uint64_t when, end;
};

/* One direction. Positions count all bytes ever: read <= delivered <= written. */
struct pipe {
    uint8_t *ring; /* `window` bytes, from the first write on */
    size_t window;
    uint64_t written, delivered, read;
    struct segment *segments; /* on their way, a ring */
    size_t segment_head, segment_count, segment_capacity;
    uint64_t last_when;
    bool fin_written, fin_delivered;
    bool scheduled;        /* an event will look at the first segment */
    bool stalled;          /* by a cut, or the receiver's machine is off */
    uint64_t stall_number; /* a patience that ends must be that of this stall */
    bool writer_waits;
};

struct net_end {
    struct list_node node; /* of its owner */
    struct connection *connection;
    int side;
    struct net_process *owner; /* NULL: closed, or its process is gone */
    bool reset;
    void (*changed)(void *ctx);
    void *ctx;
};

struct connection {
    struct list_node node; /* of the net */
    struct net *net;
    int number, refs; /* open ends and pending events */
    int machines[2], ports[2];
    struct net_end ends[2];
    struct pipe pipes[2]; /* by the side that writes */
    uint64_t patience_ns;
    struct list_node waiting; /* in a listener, for side 1 */
};

struct net_listener {
    struct list_node node; /* of the net */
    struct list_node own;  /* of its process */
    struct net *net;
    struct net_process *owner;
    int machine, port, backlog, waiting_count;
    struct list waiting; /* connections */
    void (*changed)(void *ctx);
    void *ctx;
};

struct net_attempt {
    struct list_node node; /* of its process */
    struct net *net;
    struct net_process *owner; /* NULL: cancelled or over */
    int refs;                  /* owner and pending events */
    int from, to, port;
    uint64_t deadline;
    struct connection *made; /* the other side has it already */
    void (*done)(void *ctx, enum err e, struct net_end *end);
    void *ctx;
};

/* What a process has in the network. */
struct net_process {
    struct list_node node;
    struct net *net;
    struct process *process;
    struct list ends, listeners, attempts;
};

struct net {
    struct sim *sim;
    uint64_t latency_ns; /* typical, of this run */
    size_t window_bytes;
    bool cut[MACHINES_MAX][MACHINES_MAX];
    uint64_t slow_ns[MACHINES_MAX][MACHINES_MAX];
    bool refuses[MACHINES_MAX], off[MACHINES_MAX];
    struct list connections, listeners, processes;
    int connection_count, port_next;
};

struct net_socket {
    struct net_end *end;
    struct sim *sim;
    struct fiber *waiter; /* NULL: nobody waits */
};

/* ---- the net ---- */

struct net *net_new(struct sim *s)
{
    static const size_t windows[] = {4096, 16384, 65536, 262144};
    struct net *n = xcalloc(1, sizeof *n);

    n->sim = s;
    n->latency_ns = SIM_US(20) << sim_below(s, DICE_NET, 7);
    n->window_bytes = windows[sim_below(s, DICE_NET, ARRAY_COUNT(windows))];
    n->port_next = PORT_ANY_FIRST;
    list_init(&n->connections);
    list_init(&n->listeners);
    list_init(&n->processes);
    sim_set_net(s, n);
    return n;
}

static uint64_t latency(struct net *n, int from, int to)
{
    return from == to ? sim_delay_ns(n->sim, DICE_NET, LOOPBACK_NS)
                      : sim_delay_ns(n->sim, DICE_NET, n->latency_ns) + n->slow_ns[from][to];
}

/* Nothing that is sent now arrives. */
static bool is_silent(const struct net *n, int from, int to)
{
    return n->off[to] || n->off[from] || n->cut[from][to];
}

static void on_process_death(void *arg, bool silent);

static struct net_process *process_of(struct net *n, struct process *p)
{
    list_for_each (node, &n->processes) {
        struct net_process *np = list_entry(node, struct net_process, node);

        if (np->process == p)
            return np;
    }

    struct net_process *np = xcalloc(1, sizeof *np);

    CHECK(process_machine(p) >= 0 && process_machine(p) < MACHINES_MAX);
    np->net = n;
    np->process = p;
    list_init(&np->ends);
    list_init(&np->listeners);
    list_init(&np->attempts);
    list_push_back(&n->processes, &np->node);
    process_on_death(p, on_process_death, np);
    return np;
}

/* ---- connections ---- */

static void connection_unref(struct connection *c)
{
    if (--c->refs > 0)
        return;
    list_remove(&c->node);
    for (int i = 0; i < 2; i++) {
        free(c->pipes[i].ring);
        free(c->pipes[i].segments);
    }
    free(c);
}

static struct connection *connection_new(struct net *n, const struct net_attempt *a)
{
    struct connection *c = xcalloc(1, sizeof *c);

    c->net = n;
    c->number = ++n->connection_count;
    c->machines[0] = a->from;
    c->machines[1] = a->to;
    c->ports[0] = 40000 + c->number % 20000;
    c->ports[1] = a->port;
    c->patience_ns = SIM_S(4) + sim_below(n->sim, DICE_NET, SIM_S(12));
    for (int i = 0; i < 2; i++) {
        c->ends[i] = (struct net_end){.connection = c, .side = i};
        c->pipes[i].window = n->window_bytes;
    }
    list_push_back(&n->connections, &c->node);
    return c;
}

static void end_open(struct net_end *e, struct net_process *owner)
{
    e->owner = owner;
    e->connection->refs++;
    list_push_back(&owner->ends, &e->node);
}

static void changed(struct net_end *e)
{
    if (e->owner != NULL && e->changed != NULL)
        e->changed(e->ctx);
}

/* An event about one direction of a connection; it holds the connection. */
static void pipe_event(struct connection *c, int side, uint64_t when, void (*fn)(void *arg))
{
    c->refs++;
    sim_at(c->net->sim, NULL, when, fn, &c->ends[side]);
}

static void set_reset(struct net_end *e)
{
    if (e->reset || e->owner == NULL)
        return;
    sim_trace(e->connection->net->sim, "connection %d: m%d's side is reset", e->connection->number,
              e->connection->machines[e->side]);
    e->reset = true;
    changed(e);
}

/* The other side's RST arrives at `arg`. */
static void on_rst(void *arg)
{
    struct net_end *e = arg;
    struct connection *c = e->connection;

    if (!is_silent(c->net, c->machines[!e->side], c->machines[e->side]))
        set_reset(e);
    connection_unref(c);
}

static void send_rst(struct connection *c, int to_side)
{
    struct net *n = c->net;

    pipe_event(c, to_side,
               sim_now(n->sim) + latency(n, c->machines[!to_side], c->machines[to_side]), on_rst);
}

/* The writer's patience is over. */
static void on_patience(void *arg)
{
    struct net_end *e = arg;
    struct connection *c = e->connection;

    if (c->pipes[e->side].stalled)
        set_reset(e);
    connection_unref(c);
}

static void on_delivery(void *arg);

static void stall(struct connection *c, int side)
{
    struct pipe *p = &c->pipes[side];

    p->stalled = true;
    p->stall_number++;
    sim_count(c->net->sim, "net: held by a cut");
    pipe_event(c, side, sim_now(c->net->sim) + c->patience_ns, on_patience);
}

static void schedule_delivery(struct connection *c, int side)
{
    struct pipe *p = &c->pipes[side];

    if (p->scheduled || p->stalled || p->segment_count == 0)
        return;
    p->scheduled = true;
    pipe_event(c, side, p->segments[p->segment_head].when, on_delivery);
}

/* What has arrived of the direction that `arg` writes. */
static void on_delivery(void *arg)
{
    struct net_end *writer = arg;
    struct connection *c = writer->connection;
    struct pipe *p = &c->pipes[writer->side];
    struct net_end *reader = &c->ends[!writer->side];
    int from = c->machines[writer->side], to = c->machines[!writer->side];
    bool arrived = false;

    p->scheduled = false;
    if (p->segment_count > 0 && is_silent(c->net, from, to)) {
        stall(c, writer->side);
        connection_unref(c);
        return;
    }
    while (p->segment_count > 0 && p->segments[p->segment_head].when <= sim_now(c->net->sim)) {
        p->delivered = p->segments[p->segment_head].end;
        p->segment_head = (p->segment_head + 1) % p->segment_capacity;
        p->segment_count--;
        arrived = true;
    }
    if (arrived && p->fin_written && p->segment_count == 0)
        p->fin_delivered = true;
    if (arrived && reader->owner == NULL && (p->delivered > p->read || !p->fin_delivered))
        send_rst(c, writer->side);
    else if (arrived)
        changed(reader);
    schedule_delivery(c, writer->side);
    connection_unref(c);
}

static void push_segment(struct connection *c, int side)
{
    struct pipe *p = &c->pipes[side];
    struct net *n = c->net;

    if (p->segment_count == p->segment_capacity) {
        size_t capacity = p->segment_capacity == 0 ? 8 : p->segment_capacity * 2;
        struct segment *v = xcalloc(capacity, sizeof *v);

        for (size_t i = 0; i < p->segment_count; i++)
            v[i] = p->segments[(p->segment_head + i) % p->segment_capacity];
        free(p->segments);
        p->segments = v;
        p->segment_capacity = capacity;
        p->segment_head = 0;
    }
    p->last_when =
        MAX(p->last_when + 1, sim_now(n->sim) + latency(n, c->machines[side], c->machines[!side]));
    p->segments[(p->segment_head + p->segment_count++) % p->segment_capacity] =
        (struct segment){.when = p->last_when, .end = p->written};
    schedule_delivery(c, side);
}

/* After a change of the links: what was held is sent again. */
static void resume_stalled(struct net *n)
{
    list_for_each (node, &n->connections) {
        struct connection *c = list_entry(node, struct connection, node);

        for (int side = 0; side < 2; side++) {
            struct pipe *p = &c->pipes[side];

            if (!p->stalled || is_silent(n, c->machines[side], c->machines[!side]))
                continue;
            p->stalled = false;
            p->last_when = sim_now(n->sim) + sim_delay_ns(n->sim, DICE_NET, RESENT_AFTER_NS);
            for (size_t i = 0; i < p->segment_count; i++)
                p->segments[(p->segment_head + i) % p->segment_capacity].when = p->last_when;
            schedule_delivery(c, side);
        }
    }
}

/* ---- ends ---- */

void net_end_watch(struct net_end *e, void (*fn)(void *ctx), void *ctx)
{
    e->changed = fn;
    e->ctx = ctx;
}

bool net_end_readable(const struct net_end *e)
{
    const struct pipe *in = &e->connection->pipes[!e->side];

    return e->reset || in->delivered > in->read || in->fin_delivered;
}

static size_t room(const struct net_end *e)
{
    const struct pipe *out = &e->connection->pipes[e->side];

    return out->window - (size_t)(out->written - out->read);
}

bool net_end_writable(const struct net_end *e)
{
    return e->reset || room(e) > 0;
}

bool net_end_is_reset(const struct net_end *e)
{
    return e->reset;
}

int net_end_peer_machine(const struct net_end *e)
{
    return e->connection->machines[!e->side];
}

int net_end_peer_port(const struct net_end *e)
{
    return e->connection->ports[!e->side];
}

/* The news that there is room again reaches the writer. */
static void on_room(void *arg)
{
    struct net_end *writer = arg;

    changed(writer);
    connection_unref(writer->connection);
}

enum err net_end_read(struct net_end *e, void *p, size_t size, size_t *n)
{
    struct connection *c = e->connection;
    struct pipe *in = &c->pipes[!e->side];
    size_t take = MIN(size, (size_t)(in->delivered - in->read));

    if (e->reset)
        return ERR_CLOSED;
    *n = 0;
    if (take == 0)
        return in->fin_delivered ? ERR_NONE : ERR_AGAIN;

    size_t at = (size_t)(in->read % in->window), first = MIN(take, in->window - at);

    memcpy(p, in->ring + at, first);
    memcpy((uint8_t *)p + first, in->ring, take - first);
    in->read += take;
    *n = take;
    if (in->writer_waits) {
        in->writer_waits = false;
        pipe_event(c, !e->side,
                   sim_now(c->net->sim) +
                       latency(c->net, c->machines[e->side], c->machines[!e->side]),
                   on_room);
    }
    return ERR_NONE;
}

enum err net_end_write(struct net_end *e, const void *p, size_t size, size_t *n)
{
    struct connection *c = e->connection;
    struct sim *s = c->net->sim;
    struct pipe *out = &c->pipes[e->side];
    size_t take = MIN(size, room(e));

    if (e->reset)
        return ERR_CLOSED;
    *n = 0;
    if (take > 1 && sim_below(s, DICE_NET, WRITES_CUT_ONE_IN) == 0)
        take = 1 + (size_t)sim_below(s, DICE_NET, take);
    out->writer_waits = take < size;
    if (take == 0)
        return ERR_AGAIN;
    if (out->ring == NULL)
        out->ring = xmalloc(out->window);

    size_t at = (size_t)(out->written % out->window), first = MIN(take, out->window - at);

    memcpy(out->ring + at, p, first);
    memcpy(out->ring, (const uint8_t *)p + first, take - first);
    out->written += take;
    *n = take;
    sim_trace(s, "m%d sends m%d %zu bytes (connection %d)", c->machines[e->side],
              c->machines[!e->side], take, c->number);
    sim_trace_bytes(s, p, take);
    push_segment(c, e->side);
    /* Taken in part though there was room: as if the buffer had been full for a moment. */
    if (out->writer_waits && room(e) > 0) {
        out->writer_waits = false;
        pipe_event(c, e->side, sim_now(s) + latency(c->net, 0, 0), on_room);
    }
    return ERR_NONE;
}

/* As the kernel does it: what was not read makes the end a reset. */
static void end_gone(struct net_end *e, bool silent)
{
    struct connection *c = e->connection;
    struct pipe *in = &c->pipes[!e->side], *out = &c->pipes[e->side];

    if (e->owner == NULL)
        return;
    list_remove(&e->node);
    e->owner = NULL;
    if (silent) {
        out->segment_count = 0;
    } else if (e->reset) {
        /* the other side knows, or will learn it when it sends */
    } else if (in->delivered > in->read) {
        out->segment_count = 0;
        send_rst(c, !e->side);
    } else {
        out->fin_written = true;
        push_segment(c, e->side);
    }
    connection_unref(c);
}

void net_end_close(struct net_end *e)
{
    end_gone(e, false);
}

/* ---- listeners ---- */

static struct net_listener *listener_at(struct net *n, int machine, int port)
{
    list_for_each (node, &n->listeners) {
        struct net_listener *l = list_entry(node, struct net_listener, node);

        if (l->machine == machine && l->port == port)
            return l;
    }
    return NULL;
}

struct net_listener *net_listen(struct net *n, struct process *p, int port, int backlog,
                                void (*fn)(void *ctx), void *ctx)
{
    struct net_process *owner = process_of(n, p);
    struct net_listener *l;

    if (port == 0)
        port = n->port_next++;
    if (listener_at(n, process_machine(p), port) != NULL)
        return NULL;
    l = xcalloc(1, sizeof *l);
    l->net = n;
    l->owner = owner;
    l->machine = process_machine(p);
    l->port = port;
    l->backlog = MAX(backlog, 1);
    l->changed = fn;
    l->ctx = ctx;
    list_init(&l->waiting);
    list_push_back(&n->listeners, &l->node);
    list_push_back(&owner->listeners, &l->own);
    sim_trace(n->sim, "m%d listens on port %d", l->machine, port);
    return l;
}

int net_listener_port(const struct net_listener *l)
{
    return l->port;
}

bool net_listener_has(const struct net_listener *l)
{
    return !list_empty(&l->waiting);
}

struct net_end *net_accept(struct net_listener *l)
{
    struct list_node *n = list_pop_front(&l->waiting);

    if (n == NULL)
        return NULL;
    l->waiting_count--;
    return &list_entry(n, struct connection, waiting)->ends[1];
}

static void listener_gone(struct net_listener *l, bool silent)
{
    struct list_node *n;

    while ((n = list_pop_front(&l->waiting)) != NULL)
        end_gone(&list_entry(n, struct connection, waiting)->ends[1], silent);
    list_remove(&l->node);
    list_remove(&l->own);
    free(l);
}

void net_listener_close(struct net_listener *l)
{
    listener_gone(l, false);
}

/* ---- connecting ---- */

static void attempt_unref(struct net_attempt *a)
{
    if (--a->refs == 0)
        free(a);
}

static void attempt_end(struct net_attempt *a, enum err e)
{
    struct net_end *end = NULL;

    if (a->owner == NULL)
        return;
    if (e == ERR_NONE)
        end = &a->made->ends[0];
    else if (a->made != NULL) /* the other side learns it when it sends */
        end_gone(&a->made->ends[0], true);
    list_remove(&a->node);
    a->owner = NULL;
    sim_trace(a->net->sim, "m%d to m%d:%d: %s", a->from, a->to, a->port,
              e == ERR_NONE ? "connected" : err_name(e));
    a->done(a->ctx, e, end);
    attempt_unref(a);
}

static void attempt_event(struct net_attempt *a, uint64_t when, void (*fn)(void *arg))
{
    a->refs++;
    sim_at(a->net->sim, NULL, when, fn, a);
}

static void on_syn(void *arg);

static void try_again(struct net_attempt *a)
{
    attempt_event(a, sim_now(a->net->sim) + sim_delay_ns(a->net->sim, DICE_NET, CONNECT_AGAIN_NS),
                  on_syn);
}

/* The answer of the other machine arrives. */
static void on_answer(void *arg)
{
    struct net_attempt *a = arg;

    if (a->owner != NULL && is_silent(a->net, a->to, a->from))
        try_again(a);
    else if (a->owner != NULL)
        attempt_end(a, a->made == NULL          ? ERR_REFUSED
                       : a->made->ends[0].reset ? ERR_CLOSED
                                                : ERR_NONE);
    attempt_unref(a);
}

/* The wish to connect arrives; again, when an answer was lost. */
static void on_syn(void *arg)
{
    struct net_attempt *a = arg;
    struct net *n = a->net;
    struct net_listener *l = listener_at(n, a->to, a->port);

    if (a->owner == NULL) {
        attempt_unref(a);
        return;
    }
    if (is_silent(n, a->from, a->to) || (l != NULL && l->waiting_count >= l->backlog)) {
        try_again(a);
        attempt_unref(a);
        return;
    }
    if (a->made == NULL && l != NULL && !n->refuses[a->to]) {
        a->made = connection_new(n, a);
        end_open(&a->made->ends[0], a->owner);
        end_open(&a->made->ends[1], l->owner);
        list_push_back(&l->waiting, &a->made->waiting);
        l->waiting_count++;
        if (l->changed != NULL)
            l->changed(l->ctx);
    }
    attempt_event(a, sim_now(n->sim) + latency(n, a->to, a->from), on_answer);
    attempt_unref(a);
}

static void on_attempt_deadline(void *arg)
{
    struct net_attempt *a = arg;

    attempt_end(a, ERR_TIMED_OUT);
    attempt_unref(a);
}

struct net_attempt *net_attempt(struct net *n, struct process *p, int machine, int port,
                                uint64_t deadline,
                                void (*done)(void *ctx, enum err e, struct net_end *end), void *ctx)
{
    struct net_attempt *a = xcalloc(1, sizeof *a);

    CHECK(machine >= 0 && machine < MACHINES_MAX);
    a->net = n;
    a->owner = process_of(n, p);
    a->refs = 1;
    a->from = process_machine(p);
    a->to = machine;
    a->port = port;
    a->deadline = deadline;
    a->done = done;
    a->ctx = ctx;
    list_push_back(&a->owner->attempts, &a->node);
    attempt_event(a, sim_now(n->sim) + latency(n, a->from, a->to), on_syn);
    if (deadline != UINT64_MAX)
        attempt_event(a, deadline, on_attempt_deadline);
    return a;
}

void net_attempt_cancel(struct net_attempt *a)
{
    if (a->owner == NULL)
        return;
    if (a->made != NULL)
        end_gone(&a->made->ends[0], false);
    list_remove(&a->node);
    a->owner = NULL;
    attempt_unref(a);
}

/* ---- death, power ---- */

static void on_process_death(void *arg, bool silent)
{
    struct net_process *np = arg;
    struct list_node *n;

    while ((n = list_first(&np->attempts)) != NULL)
        net_attempt_cancel(list_entry(n, struct net_attempt, node));
    while ((n = list_first(&np->listeners)) != NULL)
        listener_gone(list_entry(n, struct net_listener, own), silent);
    while ((n = list_first(&np->ends)) != NULL)
        end_gone(list_entry(n, struct net_end, node), silent);
    list_remove(&np->node);
    free(np);
}

void net_power(struct net *n, int machine, bool on)
{
    n->off[machine] = !on;
    if (on)
        resume_stalled(n);
}

/* ---- faults ---- */

void net_cut(struct net *n, int from, int to, bool cut)
{
    if (from == to || n->cut[from][to] == cut)
        return;
    sim_trace(n->sim, "m%d to m%d is %s", from, to, cut ? "cut" : "whole");
    n->cut[from][to] = cut;
    if (!cut)
        resume_stalled(n);
}

bool net_is_cut(const struct net *n, int from, int to)
{
    return n->cut[from][to];
}

void net_heal(struct net *n)
{
    sim_trace(n->sim, "the network heals");
    memset(n->cut, 0, sizeof n->cut);
    memset(n->slow_ns, 0, sizeof n->slow_ns);
    memset(n->refuses, 0, sizeof n->refuses);
    resume_stalled(n);
}

/* A connection that is found goes on after the callbacks: those only post and wake. */
void net_reset(struct net *n, int a, int b)
{
    sim_trace(n->sim, "connections of m%d with m%d are reset", a, b);
    list_for_each_safe (node, &n->connections) {
        struct connection *c = list_entry(node, struct connection, node);
        bool of_a = c->machines[0] == a || c->machines[1] == a;
        bool of_b = c->machines[0] == b || c->machines[1] == b;

        if (of_a && (b == -1 || of_b)) {
            set_reset(&c->ends[0]);
            set_reset(&c->ends[1]);
        }
    }
}

void net_slow(struct net *n, int from, int to, uint64_t extra_ns)
{
    sim_trace(n->sim, "m%d to m%d takes %llu us more", from, to,
              (unsigned long long)extra_ns / 1000);
    n->slow_ns[from][to] = extra_ns;
}

void net_refuse(struct net *n, int machine, bool refuse)
{
    sim_trace(n->sim, "m%d %s connections", machine, refuse ? "refuses" : "takes");
    n->refuses[machine] = refuse;
}

/* ---- clients: blocking ---- */

static void wake_waiter(void *ctx)
{
    struct net_socket *c = ctx;

    if (c->waiter != NULL)
        fiber_wake(c->waiter);
}

struct waiting_connect {
    struct fiber *fiber;
    bool over;
    enum err err;
    struct net_end *end;
};

static void on_connected(void *ctx, enum err e, struct net_end *end)
{
    struct waiting_connect *w = ctx;

    w->over = true;
    w->err = e;
    w->end = end;
    fiber_wake(w->fiber);
}

enum err net_connect(struct process *p, int machine, int port, uint64_t deadline,
                     struct net_socket **out)
{
    struct fiber *f;
    struct net *n;
    struct sim *s = process_sim(p);
    struct waiting_connect w = {.fiber = fiber_current(s)};

    f = w.fiber;
    n = sim_net(s);
    *out = NULL;
    CHECK(f != NULL && fiber_process(f) == p);
    (void)net_attempt(n, p, machine, port, deadline, on_connected, &w);
    while (!w.over)
        (void)fiber_sleep_until(s, UINT64_MAX);
    if (w.err != ERR_NONE)
        return w.err == ERR_TIMED_OUT ? ERR_TIMED_OUT : ERR_CLOSED;
    *out = xcalloc(1, sizeof **out);
    (*out)->end = w.end;
    (*out)->sim = s;
    net_end_watch(w.end, wake_waiter, *out);
    return ERR_NONE;
}

/* Until something has changed at this end. */
static enum err wait_for_change(struct net_socket *c, uint64_t deadline)
{
    bool woken;

    c->waiter = fiber_current(c->sim);
    woken = fiber_sleep_until(c->sim, deadline);
    c->waiter = NULL;
    return woken ? ERR_NONE : ERR_TIMED_OUT;
}

enum err net_write(struct net_socket *c, const void *bytes, size_t size, uint64_t deadline)
{
    const uint8_t *p = bytes;

    while (size > 0) {
        size_t n = 0;
        enum err e = net_end_write(c->end, p, size, &n);

        p += n;
        size -= n;
        if (e == ERR_AGAIN || (e == ERR_NONE && size > 0))
            e = wait_for_change(c, deadline);
        if (e != ERR_NONE)
            return e;
    }
    return ERR_NONE;
}

enum err net_read_some(struct net_socket *c, void *bytes, size_t size, uint64_t deadline,
                       size_t *n_read)
{
    for (;;) {
        enum err e = net_end_read(c->end, bytes, size, n_read);

        if (e == ERR_NONE)
            return *n_read > 0 || size == 0 ? ERR_NONE : ERR_CLOSED;
        if (e == ERR_AGAIN)
            e = wait_for_change(c, deadline);
        if (e != ERR_NONE)
            return e;
    }
}

enum err net_read(struct net_socket *c, void *bytes, size_t size, uint64_t deadline)
{
    uint8_t *p = bytes;

    while (size > 0) {
        size_t n = 0;
        enum err e = net_read_some(c, p, size, deadline, &n);

        if (e != ERR_NONE)
            return e;
        p += n;
        size -= n;
    }
    return ERR_NONE;
}

void net_close(struct net_socket *c)
{
    net_end_watch(c->end, NULL, NULL);
    net_end_close(c->end);
    free(c);
}
