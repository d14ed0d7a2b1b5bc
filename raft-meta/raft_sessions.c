/* raft-meta/raft_sessions.c -- sessions with the controller, and what it does by itself; see
 * session.h and raft_node_internal.h.
 *
 * Each node tells the leader's node that it is alive: every heartbeat interval, and at once when
 * another node leads, the connection to it came up, or its own fence was lifted or set. The leader
 * tells itself without a message. Where this node leads, the sessions are looked at with each sweep
 * and each piece of evidence; what they decide goes through the log like every command.
 *
 * Decisions are of the moment: a leader that is deposed forgets them (they are never forwarded),
 * and its successor decides anew.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "protocol/api.h"
#include "protocol/base/mutant.h"
#include "raft-meta/raft_node_internal.h"

#define DECISIONS_PER_LOOK 32
#define ABSENCE_NS         (20ull * SWEEP_NS)
#define MS                 ((uint64_t)1000000)

/* A command of the controller's own on its way. */
struct decided {
    struct proposal proposal;
    struct session_decision decision;
    bool balances;
};

static uint64_t session_now_ns(const struct raft_node *n)
{
    if (MUTANT(22))
        return (uint64_t)env_unix_ms(n->o.env) * MS;
    return node_now_ns(n);
}

static bool is_controller(const struct raft_node *n)
{
    return n->sessions != NULL && n->guard != NULL && n->state == STATE_READY &&
           guard_leads(n->guard);
}

/* ---- the controller's own commands ---- */

static void on_decided(struct proposal *p)
{
    struct decided *d = CONTAINER_OF(p, struct decided, proposal);
    struct raft_node *n = p->raft;
    bool applied = p->err == ERR_NONE && p->outcome->error == ERR_NONE;

    if (!d->balances && n->sessions != NULL)
        sessions_on_outcome(n->sessions, &d->decision, applied);
    if (d->balances && applied)
        counter_add(&n->balanced, p->outcome->n_items);
    proposal_release(p);
    free(d);
}

/* `c` is copied. */
static void propose(struct raft_node *n, const MetaCommand *c, struct decided *d)
{
    struct submission *s = submission_new(c, &d->proposal, n->o.node_id);

    CHECK(s != NULL);
    d->proposal.raft = n;
    d->proposal.lane = META_LANE_CONTROLLER;
    d->proposal.loop = n->o.loop;
    d->proposal.done = on_decided;
    s->command->lane = META_LANE_CONTROLLER;
    s->command->request_id = n->next_request_id++;
    n->waiting_count++;
    list_push_back(&n->control, &s->node);
    node_post_pump(n);
}

static void carry_out(struct raft_node *n, const struct session_decision *decision)
{
    struct decided *d = xcalloc(1, sizeof *d);
    MetaUnfenceBroker unfence = META_UNFENCE_BROKER__INIT;
    MetaFenceBroker fence = META_FENCE_BROKER__INIT;
    MetaCommand c = META_COMMAND__INIT;

    d->decision = *decision;
    if (decision->action == SESSION_FENCE) {
        fence.node = decision->node_id;
        fence.broker_epoch = decision->broker_epoch;
        fence.cause = d->decision.cause;
        c.body_case = META_COMMAND__BODY_FENCE_BROKER;
        c.fence_broker = &fence;
    } else {
        unfence.node = decision->node_id;
        unfence.broker_epoch = decision->broker_epoch;
        c.body_case = META_COMMAND__BODY_UNFENCE_BROKER;
        c.unfence_broker = &unfence;
    }
    log_info(n->o.logger, "raft", "node %d is to be %s: %s", decision->node_id,
             decision->action == SESSION_FENCE ? "fenced" : "unfenced", decision->cause);
    propose(n, &c, d);
}

/* Leaders go home: so many at a time that nothing waits long behind them. */
static void balance(struct raft_node *n, uint64_t now_ns)
{
    struct decided *d;
    MetaCommand *c;

    if (n->o.balance_interval_ms <= 0 || now_ns < n->balance_due_ns)
        return;
    n->balance_due_ns = now_ns + (uint64_t)n->o.balance_interval_ms * MS;
    c = controller_balance(n->image);
    if (c == NULL)
        return;
    if (c->elect_leaders->n_items == BALANCE_MAX) /* there are more */
        n->balance_due_ns = now_ns + SWEEP_NS;
    log_info(n->o.logger, "raft", "%zu leaders move back to their preferred replicas",
             c->elect_leaders->n_items);
    d = xcalloc(1, sizeof *d);
    d->balances = true;
    propose(n, c, d);
    meta_command__free_unpacked(c, NULL);
}

static void look(struct raft_node *n)
{
    struct session_decision decisions[DECISIONS_PER_LOOK];
    uint64_t now_ns = session_now_ns(n);
    int count;

    if (!is_controller(n)) {
        if (n->sessions != NULL && n->sessions_term != 0)
            sessions_end(n->sessions);
        n->sessions_term = 0;
        return;
    }
    if (n->sessions_term != n->raft.current_term) {
        n->sessions_term = n->raft.current_term;
        n->balance_due_ns = node_now_ns(n) + (uint64_t)MAX(n->o.balance_interval_ms, 0) * MS;
        sessions_begin(n->sessions, n->image, now_ns);
    }
    count = sessions_decide(n->sessions, n->image, now_ns, decisions, DECISIONS_PER_LOOK);
    for (int i = 0; i < count; i++)
        carry_out(n, &decisions[i]);
    balance(n, node_now_ns(n));
}

bool node_session_is_over(void *ctx, int32_t node_id)
{
    const struct raft_node *n = ctx;

    return n->sessions != NULL &&
           sessions_is_over(n->sessions, n->image, node_id, session_now_ns(n));
}

/* ---- heartbeats ---- */

static void fill_heartbeat(struct raft_node *n, struct session_heartbeat *h)
{
    const struct broker_image *b = image_broker(n->image, n->o.node_id);
    struct node_vitals v = {0};

    n->o.vitals(n->o.ctx, &v);
    *h = (struct session_heartbeat){
        .broker_epoch = b != NULL && uuid_eq(&b->incarnation, &n->o.incarnation) ? b->epoch : -1,
        .applied_index = image_index(n->image),
        .turn_age_ns = v.turn_age_ns,
        .disk_age_ns = v.disk_age_ns,
        .serving = v.serving,
    };
}

static void send_heartbeat(struct raft_node *n, const struct session_heartbeat *h)
{
    struct peer_heartbeat m;
    struct ioqueue payload, out;
    enum err e;

    codec_init(&peer_heartbeat_desc, &m);
    m.broker_epoch = h->broker_epoch;
    m.applied_index = (int64_t)h->applied_index;
    m.turn_age_ms = (int64_t)(h->turn_age_ns / MS);
    m.disk_age_ms = (int64_t)(h->disk_age_ns / MS);
    m.serving = h->serving;
    ioqueue_init(&payload);
    ioqueue_init(&out);
    e = codec_encode(&peer_heartbeat_desc, 0, &m, &payload);
    CHECK(e == ERR_NONE);
    peer_frame_write(PEER_HEARTBEAT, &payload, &out);
    (void)quorum_send_leader(n, &out, false);
    ioqueue_deinit(&payload);
    ioqueue_deinit(&out);
}

static void beat(struct raft_node *n)
{
    struct peer_identity self = {n->o.node_id, n->o.directory_id, n->o.incarnation};
    struct session_heartbeat h;

    loop_timer_set(&n->beat, node_now_ns(n) + (uint64_t)n->o.session_heartbeat_ms * MS);
    n->beat_term = n->leader_term;
    n->beat_link = n->link;
    if (n->state != STATE_READY || n->leader_id < 0)
        return;
    fill_heartbeat(n, &h);
    if (n->leader_id == n->o.node_id)
        sessions_on_heartbeat(n->sessions, n->image, &self, &h, session_now_ns(n));
    else
        send_heartbeat(n, &h);
}

static void on_beat(struct loop_timer *t)
{
    struct raft_node *n = CONTAINER_OF(t, struct raft_node, beat);

    if (n->state != STATE_CLOSING && n->state != STATE_FAILED)
        beat(n);
}

/* What the image says of this very process. Once it was registered, only another process under its
 * node id and directory id can take its place [H21b]: a copy of the directory, say. */
static bool is_fenced(struct raft_node *n)
{
    const struct broker_image *b = image_broker(n->image, n->o.node_id);
    bool own = b != NULL && uuid_eq(&b->incarnation, &n->o.incarnation);
    struct errmsg why;

    if (n->was_registered && b != NULL && !own) {
        errmsg_set(&why, "another process has registered as node %d: this one must end",
                   n->o.node_id);
        node_fail(n, why.text);
    }
    n->was_registered = n->was_registered || own;
    return !own || b->fenced;
}

void node_sessions_update(struct raft_node *n)
{
    bool fenced;

    if (n->sessions == NULL || n->state != STATE_READY)
        return;
    fenced = is_fenced(n);
    if (n->state != STATE_READY)
        return;
    if (n->beat_term != n->leader_term || n->beat_link != n->link || fenced != n->was_fenced) {
        if (fenced && !n->was_fenced)
            log_warn(n->o.logger, "raft",
                     "this node is fenced: it leads nothing until the "
                     "controller has heard it");
        n->was_fenced = fenced;
        beat(n);
    }
    look(n);
}

void raft_node_beat(struct raft_node *n)
{
    if (n->sessions != NULL && n->state == STATE_READY)
        beat(n);
}

static void answer_heartbeat(struct raft_node *n, int32_t node_id, enum err error)
{
    const struct broker_image *b = image_broker(n->image, node_id);
    struct peer_heartbeat_result r;
    struct ioqueue payload, out;
    enum err e;

    codec_init(&peer_heartbeat_result_desc, &r);
    r.error = error;
    r.fenced = b == NULL || b->fenced;
    r.applied_index = (int64_t)image_index(n->image);
    ioqueue_init(&payload);
    ioqueue_init(&out);
    e = codec_encode(&peer_heartbeat_result_desc, 0, &r, &payload);
    CHECK(e == ERR_NONE);
    peer_frame_write(PEER_HEARTBEAT_RESULT, &payload, &out);
    (void)transport_answer(n->transport, node_id, &out);
    ioqueue_deinit(&payload);
    ioqueue_deinit(&out);
}

static bool on_heartbeat(struct raft_node *n, const struct peer_identity *from,
                         const struct peer_heartbeat *m)
{
    struct session_heartbeat h = {.broker_epoch = m->broker_epoch,
                                  .applied_index = (uint64_t)m->applied_index,
                                  .turn_age_ns = (uint64_t)m->turn_age_ms * MS,
                                  .disk_age_ns = (uint64_t)m->disk_age_ms * MS,
                                  .serving = m->serving};

    if (m->broker_epoch < -1 || m->applied_index < 0 || m->turn_age_ms < 0 || m->disk_age_ms < 0 ||
        m->turn_age_ms > INT32_MAX || m->disk_age_ms > INT32_MAX)
        return false;
    if (!is_controller(n)) {
        answer_heartbeat(n, from->node_id, ERR_NOT_CONTROLLER);
        return true;
    }
    look(n); /* the sessions of this term have begun */
    sessions_on_heartbeat(n->sessions, n->image, from, &h, session_now_ns(n));
    look(n);
    answer_heartbeat(n, from->node_id, ERR_NONE);
    return true;
}

static bool on_heartbeat_result(struct raft_node *n, const struct peer_heartbeat_result *r)
{
    if (r->applied_index < 0)
        return false;
    if (r->error == ERR_NONE)
        atomic_store_explicit(&n->controller_index.value, (uint64_t)r->applied_index,
                              memory_order_relaxed);
    return true;
}

bool node_sessions_on_frame(struct raft_node *n, const struct peer_identity *from,
                            enum peer_frame_type type, struct bytes payload)
{
    union {
        struct peer_heartbeat heartbeat;
        struct peer_heartbeat_result result;
    } m;
    const struct codec_struct *d =
        type == PEER_HEARTBEAT ? &peer_heartbeat_desc : &peer_heartbeat_result_desc;
    struct arena a;
    size_t used;
    bool ok;

    arena_init(&a, PEER_HELLO_BYTES_MAX);
    ok = codec_decode(d, 0, payload.ptr, (size_t)payload.len, &a, &m, &used) == ERR_NONE &&
         used == (size_t)payload.len;
    arena_deinit(&a); /* neither has anything outside itself */
    if (!ok)
        return false;
    return type == PEER_HEARTBEAT ? on_heartbeat(n, from, &m.heartbeat)
                                  : on_heartbeat_result(n, &m.result);
}

void node_sessions_on_gone(struct raft_node *n, const struct peer_identity *who)
{
    if (n->sessions == NULL)
        return;
    sessions_on_gone(n->sessions, who);
    look(n);
}

void node_sessions_on_link(struct raft_node *n, int32_t node_id)
{
    const struct peer_identity *who = transport_peer(n->transport, node_id);

    if (n->sessions != NULL && who != NULL)
        sessions_on_link(n->sessions, who);
}

/* ---- beginning and end ---- */

void node_sessions_init(struct raft_node *n)
{
    uint64_t timeout_ns = (uint64_t)MAX(n->o.session_timeout_ms, 1) * MS;

    loop_timer_init(&n->beat, n->o.loop, on_beat);
    n->was_fenced = true;
    if (n->o.session_timeout_ms <= 0 || n->o.vitals == NULL || n->transport == NULL)
        return;
    n->o.session_heartbeat_ms = MAX(n->o.session_heartbeat_ms, 1);
    n->sessions = sessions_new(&(struct session_options){
        .timeout_ns = timeout_ns,
        .turn_ns_max = timeout_ns / 3,
        /* A slow disk may take its second for a sync; nothing that is well takes a session. */
        .disk_ns_max = timeout_ns,
        .lag_ns = SESSION_LAG_NS,
        .ignore_ns = EVIDENCE_REST_NS,
        .absence_ns = MIN(ABSENCE_NS, timeout_ns / 2),
    });
    loop_timer_set(&n->beat, node_now_ns(n));
}

void node_sessions_deinit(struct raft_node *n)
{
    loop_timer_stop(&n->beat);
}

void node_sessions_free(struct raft_node *n)
{
    if (n->sessions != NULL)
        sessions_free(n->sessions);
    n->sessions = NULL;
}

/* ---- metrics ---- */

void node_sessions_register_metrics(struct raft_node *n, struct metrics *m)
{
    const struct session_counts *c;

    if (n->sessions == NULL)
        return;
    c = sessions_counts(n->sessions);
    metrics_add(m, METRIC_COUNTER, "fluxmq_broker_heartbeats_total", "",
                "Heartbeats of nodes that this node took as the controller", &c->heartbeats);
    metrics_add(m, METRIC_COUNTER, "fluxmq_broker_fences_total", "",
                "Nodes that this node has fenced as the controller", &c->fences);
    metrics_add(m, METRIC_COUNTER, "fluxmq_broker_unfences_total", "",
                "Nodes that this node has unfenced as the controller", &c->unfences);
    metrics_add(m, METRIC_COUNTER, "fluxmq_broker_false_fences_total", "",
                "Nodes that were fenced on evidence and heard again in the same process",
                &c->false_fences);
    metrics_add(m, METRIC_COUNTER, "fluxmq_broker_fence_decisions_total", "cause=\"silence\"",
                "Why this node as the controller decided to fence a node", &c->by_silence);
    metrics_add(m, METRIC_COUNTER, "fluxmq_broker_fence_decisions_total", "cause=\"evidence\"",
                "Why this node as the controller decided to fence a node", &c->by_evidence);
    metrics_add(m, METRIC_COUNTER, "fluxmq_broker_fence_decisions_total", "cause=\"lag\"",
                "Why this node as the controller decided to fence a node", &c->by_lag);
    metrics_add(m, METRIC_COUNTER, "fluxmq_broker_fence_decisions_total", "cause=\"stuck\"",
                "Why this node as the controller decided to fence a node", &c->by_stall);
    metrics_add(m, METRIC_COUNTER, "fluxmq_preferred_elections_total", "",
                "Leaders that this node as the controller has sent back to their preferred replica",
                &n->balanced);
    metrics_add(m, METRIC_GAUGE, "fluxmq_raft_controller_index", "",
                "Index that the controller had applied when it last answered this node",
                &n->controller_index);
}
