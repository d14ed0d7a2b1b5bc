/* raft-meta/raft_proposals.c -- the way of commands and barriers; see raft_node_internal.h.
 *
 * A command waits in `control` or `bulk`. When this node leads it goes into the next entry; else,
 * one of a lane at a time, to the leader. Then it is in `sent`, under its number, until this node
 * applies it: whoever stored it, the proposer finds it again by its request id. After a change of
 * the leader, or of the connection to it, it is sent again as it was; applied twice it is a
 * repetition, which changes nothing [H13]. A proposer whose time is over is answered, but its
 * command keeps its place in the lane until its fate is known.
 *
 * When this node has become the leader and its barrier is applied (G2), what is still in `sent` is
 * in no log: it is given new numbers. For that to be so, a leader drops what others forwarded when
 * it is deposed, and a forwarded command names the term of the leadership that it was sent to.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/api.h"
#include "raft-meta/raft_node_internal.h"

#define WAITING_MAX 65536 /* commands; beyond them the newest are refused */
#define SCAN_MAX    4096  /* of them looked at when a lane is free */

/* A barrier that another node asked for. */
struct remote_barrier {
    struct barrier_wait wait;
    int32_t node_id;
    int64_t request_id;
};

void proposals_init(struct raft_node *n)
{
    list_init(&n->control);
    list_init(&n->bulk);
    list_init(&n->sent);
    list_init(&n->resolved);
    list_init(&n->barriers);
    list_init(&n->barriers_asked);
    list_init(&n->barriers_known);
    /* No earlier process of this node has used these: its commands may still be applied. */
    n->next_request_id = env_random_u64(n->o.env);
}

static struct submission *submission_at(struct list_node *node)
{
    return list_entry(node, struct submission, node);
}

static struct list *list_for(struct raft_node *n, const struct submission *s)
{
    return command_is_control(s->command) ? &n->control : &n->bulk;
}

static bool is_own(const struct raft_node *n, const struct submission *s)
{
    return s->origin == n->o.node_id;
}

/* ---- answering ---- */

static void send_result(struct raft_node *n, int32_t node_id, int64_t request_id, enum err e,
                        const MetaOutcome *o)
{
    struct peer_forward_result r;
    struct ioqueue payload, out;
    uint8_t *bytes = NULL;
    enum err encoded;

    codec_init(&peer_forward_result_desc, &r);
    r.request_id = request_id;
    r.error = e;
    if (o != NULL) {
        size_t size = meta_outcome__get_packed_size(o);

        bytes = xmalloc(size + 1);
        (void)meta_outcome__pack(o, bytes);
        r.outcome = (struct bytes){bytes, to_int32_checked((int64_t)size)};
    }
    ioqueue_init(&payload);
    ioqueue_init(&out);
    encoded = codec_encode(&peer_forward_result_desc, 0, &r, &payload);
    CHECK(encoded == ERR_NONE);
    peer_frame_write(PEER_FORWARD_RESULT, &payload, &out);
    (void)transport_answer(n->transport, node_id, &out);
    ioqueue_deinit(&payload);
    ioqueue_deinit(&out);
    free(bytes);
}

/* What gets no place in an entry; frees the submission and takes the outcome. */
static void answer_unstored(void *ctx, struct submission *s, enum err e, MetaOutcome *o)
{
    struct raft_node *n = ctx;

    if (!is_own(n, s) && n->transport != NULL)
        send_result(n, s->origin, (int64_t)s->command->request_id, e, o);
    if (s->proposal != NULL) {
        s->proposal->outcome = o;
        s->proposal->index = image_index(n->image);
        proposal_answer(s->proposal, e);
        o = NULL;
    }
    if (o != NULL)
        meta_outcome__free_unpacked(o, NULL);
    submission_free(s);
}

static void refuse_list(struct raft_node *n, struct list *l, enum err e)
{
    struct list_node *node;

    while ((node = list_pop_front(l)) != NULL) {
        struct submission *s = submission_at(node);

        if (s->proposal != NULL)
            proposal_answer(s->proposal, e);
        submission_free(s);
    }
    (void)n;
}

static void finish_barriers(struct list *l, enum err e)
{
    struct list_node *node;

    while ((node = list_pop_front(l)) != NULL) {
        struct barrier_wait *w = list_entry(node, struct barrier_wait, node);

        w->err = e;
        loop_post(w->loop, &w->message);
    }
}

void proposals_refuse(struct raft_node *n, enum err e)
{
    refuse_list(n, &n->control, e);
    refuse_list(n, &n->bulk, e);
    n->waiting_count = 0;
    finish_barriers(&n->barriers, e);
    if (!n->flying)
        refuse_list(n, &n->sent, e);
    if (!n->barrier_flying)
        finish_barriers(&n->barriers_asked, e);
    finish_barriers(&n->barriers_known, e);
}

bool proposals_waiting(const struct raft_node *n)
{
    return n->waiting_count > 0 || n->flying || !list_empty(&n->sent) ||
           !list_empty(&n->barriers) || !list_empty(&n->barriers_asked) ||
           !list_empty(&n->barriers_known);
}

void proposals_resolve(struct raft_node *n, const MetaCommand *c, uint64_t index, MetaOutcome *o)
{
    list_for_each (node, &n->sent) {
        struct submission *s = submission_at(node);

        if (s->command->request_id != c->request_id)
            continue;
        list_remove(node);
        if (s->proposal != NULL) {
            s->proposal->outcome = o;
            s->proposal->index = index;
            o = NULL;
        }
        list_push_back(&n->resolved, &s->node);
        break;
    }
    if (o != NULL)
        meta_outcome__free_unpacked(o, NULL);
}

void proposals_answer_resolved(struct raft_node *n)
{
    struct list_node *node;

    while ((node = list_pop_front(&n->resolved)) != NULL) {
        struct submission *s = submission_at(node);

        if (s->proposal != NULL)
            proposal_answer(s->proposal, ERR_NONE);
        submission_free(s);
    }
}

void proposals_after_restore(struct raft_node *n)
{
    list_for_each_safe (node, &n->sent) {
        struct submission *s = submission_at(node);
        const struct lane_image *l = image_lane(n->image, s->origin, s->command->lane);

        if (s->command->seq == 0 || l == NULL || l->broker_epoch != s->command->broker_epoch ||
            l->seq < s->command->seq)
            continue;
        list_remove(node);
        if (s->proposal != NULL) {
            if (l->seq == s->command->seq)
                s->proposal->outcome =
                    meta_outcome__unpack(NULL, (size_t)l->outcome.len, l->outcome.ptr);
            s->proposal->index = image_index(n->image);
            proposal_answer(s->proposal,
                            s->proposal->outcome != NULL ? ERR_NONE : ERR_REQUEST_TIMED_OUT);
        }
        submission_free(s);
    }
}

/* ---- as the leader: one entry at a time (Q4) ---- */

static void on_applied(struct raft_apply *request, int status, void *result)
{
    struct raft_node *n = request->data;

    (void)result;
    n->flying = false;
    if (status != 0 && (n->state == STATE_CLOSING || node_voter_count(n) <= 1))
        refuse_list(n, &n->sent, n->state == STATE_CLOSING ? ERR_CLOSED : ERR_REQUEST_TIMED_OUT);
    quorum_update(n);
    node_post_pump(n);
}

/* Back to where they came from, in their order; `sent` holds the commands of this node only. */
static void take_back(struct raft_node *n)
{
    while (!list_empty(&n->sent)) {
        struct submission *s = submission_at(n->sent.head.prev);

        list_remove(&s->node);
        s->sent_term = 0;
        if (s->proposal == NULL) { /* in no log, and nobody waits for it */
            submission_free(s);
            continue;
        }
        n->waiting_count++;
        counter_add(&n->retried, 1);
        list_push_front(list_for(n, s), &s->node);
    }
}

static void drop_foreign(struct raft_node *n, struct list *l)
{
    list_for_each_safe (node, l) {
        struct submission *s = submission_at(node);

        if (is_own(n, s))
            continue;
        list_remove(node);
        n->waiting_count--;
        answer_unstored(n, s, ERR_NOT_CONTROLLER, NULL);
    }
}

/* The next leader forms, if it must, and decides for itself. What was under way here and is stored
 * after all is in the image before this node numbers a command of that lane again. */
static void drop_decisions(struct list *l, const struct raft_node *n)
{
    list_for_each_safe (node, l) {
        struct submission *s = submission_at(node);

        if (s->command->lane != META_LANE_CONTROLLER)
            continue;
        list_remove(node);
        if (s->proposal != NULL && s->proposal != &n->form)
            proposal_answer(s->proposal, ERR_NOT_CONTROLLER);
        submission_free(s);
    }
}

static void stop_leading(struct raft_node *n)
{
    int waiting = 0;

    drop_foreign(n, &n->control);
    drop_foreign(n, &n->bulk);
    drop_decisions(&n->control, n);
    drop_decisions(&n->sent, n);
    list_for_each (node, &n->control)
        waiting++;
    list_for_each (node, &n->bulk)
        waiting++;
    n->waiting_count = waiting;
    if (n->state == STATE_FORMING)
        n->state = STATE_JOINING;
}

static void fly(struct raft_node *n, struct packing *k)
{
    struct raft_buffer buf;
    struct list foreign;
    struct list_node *node;
    uint8_t *bytes = packing_take(k, &buf.len);
    int rv;

    list_init(&foreign);

    buf.base = raft_malloc(buf.len);
    CHECK(buf.base != NULL);
    memcpy(buf.base, bytes, buf.len);
    free(bytes);
    n->flying = true;
    n->apply.data = n;
    while ((node = list_pop_front(&k->packed)) != NULL) {
        struct submission *s = submission_at(node);

        if (!is_own(n, s)) {
            list_push_back(&foreign, &s->node);
            continue;
        }
        s->sent_term = n->leader_term;
        s->attempts++;
        list_push_back(&n->sent, &s->node);
    }
    rv = raft_apply(&n->raft, &n->apply, &buf, 1, on_applied);
    while ((node = list_pop_front(&foreign)) != NULL) {
        if (rv != 0)
            answer_unstored(n, submission_at(node), ERR_NOT_CONTROLLER, NULL);
        else /* its proposer finds it in the log */
            submission_free(submission_at(node));
    }
    if (rv != 0) { /* it never entered the log */
        raft_free(buf.base);
        n->flying = false;
        if (node_voter_count(n) <= 1)
            refuse_list(n, &n->sent, ERR_NOT_CONTROLLER);
        else
            take_back(n);
    }
    guard_poll(n->guard);
}

/* Every command that leaves the list is in the entry or answered. */
static bool pack_list(struct raft_node *n, struct packing *k, struct list *l)
{
    struct list_node *node;

    while ((node = list_pop_front(l)) != NULL) {
        /* Out of the list first: who is answered may be gone at once. */
        if (!packing_add(k, submission_at(node))) {
            list_push_front(l, node);
            return false;
        }
        n->waiting_count--;
    }
    return true;
}

static void pack_and_fly(struct raft_node *n)
{
    struct packing k;

    if (n->flying)
        return;
    if (!list_empty(&n->sent))
        take_back(n);
    if (list_empty(&n->control) && list_empty(&n->bulk))
        return;
    packing_init(&k,
                 &(struct packing_options){
                     .node_id = n->o.node_id,
                     .image = n->image,
                     .controller = &n->controller,
                     .unix_ms = env_unix_ms(n->o.env),
                     .room = raft_space_check(n->space, ENTRY_BULK_BYTES_MAX, n->snapshot_bytes),
                     .answer = answer_unstored,
                     .ctx = n,
                 });
    if (pack_list(n, &k, &n->control))
        (void)pack_list(n, &k, &n->bulk);
    counter_add(&n->refused, k.refused);
    if (k.count > 0)
        fly(n, &k);
    packing_deinit(&k);
}

/* ---- as a follower: to the leader ---- */

static bool send_forward(struct raft_node *n, struct submission *s)
{
    size_t size = meta_command__get_packed_size(s->command);
    uint8_t *bytes = xmalloc(size + 1);
    struct ioqueue payload, out;
    struct peer_forward f;
    enum err e;
    bool ok;

    (void)meta_command__pack(s->command, bytes);
    codec_init(&peer_forward_desc, &f);
    f.term = (int64_t)n->leader_term;
    f.request_id = (int64_t)s->command->request_id;
    f.command = (struct bytes){bytes, to_int32_checked((int64_t)size)};
    ioqueue_init(&payload);
    ioqueue_init(&out);
    e = codec_encode(&peer_forward_desc, 0, &f, &payload);
    CHECK(e == ERR_NONE);
    peer_frame_write(PEER_FORWARD, &payload, &out);
    ok = quorum_send_leader(n, &out, !command_is_control(s->command));
    ioqueue_deinit(&payload);
    ioqueue_deinit(&out);
    free(bytes);
    if (!ok)
        return false;
    counter_add(&n->forwarded, 1);
    counter_add(&n->retried, s->attempts > 0 ? 1 : 0);
    s->attempts++;
    s->sent_term = n->leader_term;
    s->sent_link = n->link;
    return true;
}

/* The first command of a lane in `sent` is the one outstanding. */
static bool lane_is_busy(const struct raft_node *n, uint32_t lane, const struct submission *before)
{
    list_for_each (node, &n->sent) {
        struct submission *s = submission_at(node);

        if (s == before)
            return false;
        if (s->command->lane == lane)
            return true;
    }
    return false;
}

static void resend(struct raft_node *n)
{
    list_for_each (node, &n->sent) {
        struct submission *s = submission_at(node);

        if ((s->sent_term == n->leader_term && s->sent_link == n->link) ||
            lane_is_busy(n, s->command->lane, s))
            continue;
        if (!send_forward(n, s))
            return;
    }
}

static void forward_list(struct raft_node *n, struct list *l)
{
    int scanned = 0;

    list_for_each_safe (node, l) {
        struct submission *s = submission_at(node);

        if (++scanned > SCAN_MAX)
            return;
        if (lane_is_busy(n, s->command->lane, NULL))
            continue;
        submission_number(s, n->image, 0);
        if (!send_forward(n, s))
            return;
        list_remove(node);
        n->waiting_count--;
        list_push_back(&n->sent, &s->node);
    }
}

static void on_result(struct raft_node *n, const struct peer_forward_result *r, MetaOutcome *o)
{
    struct submission *s = NULL;

    list_for_each (node, &n->sent) {
        if (submission_at(node)->command->request_id == (uint64_t)r->request_id)
            s = submission_at(node);
    }
    if (s == NULL || r->error == ERR_NOT_CONTROLLER) {
        if (s != NULL)
            s->sent_term = 0; /* again with the next sweep, or the next leader */
        if (o != NULL)
            meta_outcome__free_unpacked(o, NULL);
        return;
    }
    /* A command that an earlier leader may have stored keeps its place. */
    if (s->attempts > 1 && !command_is_validation(s->command)) {
        if (s->proposal != NULL)
            proposal_answer(s->proposal, (enum err)r->error);
        s->proposal = NULL;
        s->sent_term = 0;
        if (o != NULL)
            meta_outcome__free_unpacked(o, NULL);
        return;
    }
    list_remove(&s->node);
    answer_unstored(n, s, (enum err)r->error, o);
    node_post_pump(n);
}

/* ---- barriers ---- */

static void on_barrier(struct raft_barrier *b, int status)
{
    struct raft_node *n = b->data;

    n->barrier_flying = false;
    if (status == 0 || n->state == STATE_CLOSING || n->state == STATE_FAILED) {
        finish_barriers(&n->barriers_asked, status == 0 ? ERR_NONE : ERR_CLOSED);
    } else { /* the next leader is asked */
        list_splice_back(&n->barriers, &n->barriers_asked);
    }
    node_post_pump(n);
}

static void lead_barriers(struct raft_node *n)
{
    if (n->barrier_flying)
        return;
    list_splice_back(&n->barriers, &n->barriers_asked); /* asked of an earlier leader */
    if (list_empty(&n->barriers))
        return;
    if (node_voter_count(n) <= 1) { /* nobody else can have committed anything */
        finish_barriers(&n->barriers, ERR_NONE);
        return;
    }
    list_splice_back(&n->barriers_asked, &n->barriers);
    n->barrier.data = n;
    n->barrier_flying = true;
    if (raft_barrier(&n->raft, &n->barrier, on_barrier) != 0) {
        n->barrier_flying = false;
        list_splice_back(&n->barriers, &n->barriers_asked);
    }
    guard_poll(n->guard);
}

static void ask_barriers(struct raft_node *n)
{
    struct ioqueue payload, out;
    struct peer_barrier b;
    enum err e;

    if (n->barrier_flying)
        return;
    if (!list_empty(&n->barriers_asked) &&
        (n->barrier_term != n->leader_term || n->barrier_link != n->link))
        list_splice_back(&n->barriers, &n->barriers_asked);
    /* One question serves all who came before it. */
    if (list_empty(&n->barriers) || !list_empty(&n->barriers_asked))
        return;
    codec_init(&peer_barrier_desc, &b);
    b.term = (int64_t)n->leader_term;
    b.request_id = (int64_t)++n->barrier_id;
    ioqueue_init(&payload);
    ioqueue_init(&out);
    e = codec_encode(&peer_barrier_desc, 0, &b, &payload);
    CHECK(e == ERR_NONE);
    peer_frame_write(PEER_BARRIER, &payload, &out);
    if (quorum_send_leader(n, &out, false)) {
        list_splice_back(&n->barriers_asked, &n->barriers);
        n->barrier_term = n->leader_term;
        n->barrier_link = n->link;
    }
    ioqueue_deinit(&payload);
    ioqueue_deinit(&out);
}

static void on_barrier_result(struct raft_node *n, const struct peer_barrier_result *r)
{
    if ((uint64_t)r->request_id != n->barrier_id || n->barrier_flying)
        return;
    if (r->error != ERR_NONE) {
        n->barrier_term = 0; /* again with the next sweep */
        return;
    }
    list_splice_back(&n->barriers_known, &n->barriers_asked);
    n->barrier_index = MAX(n->barrier_index, (uint64_t)r->index);
    node_post_pump(n);
}

static void run_barrier_done(struct message *m)
{
    struct barrier_wait *w = CONTAINER_OF(m, struct barrier_wait, message);

    w->done(w);
}

static void on_barrier_asked(struct message *m)
{
    struct barrier_wait *w = CONTAINER_OF(m, struct barrier_wait, message);
    struct raft_node *n = w->raft;

    m->run = run_barrier_done;
    if (n->state == STATE_CLOSING || n->state == STATE_FAILED) {
        w->err = ERR_CLOSED;
        loop_post(w->loop, m);
        return;
    }
    list_push_back(&n->barriers, &w->node);
    node_post_pump(n);
}

void raft_node_barrier(struct raft_node *n, struct barrier_wait *w)
{
    w->raft = n;
    w->message.run = on_barrier_asked;
    loop_post(n->o.loop, &w->message);
}

/* ---- what other nodes ask ---- */

static void on_remote_barrier(struct barrier_wait *w)
{
    struct remote_barrier *r = CONTAINER_OF(w, struct remote_barrier, wait);
    struct raft_node *n = w->raft;
    struct peer_barrier_result result;
    struct ioqueue payload, out;
    enum err e;

    codec_init(&peer_barrier_result_desc, &result);
    result.request_id = r->request_id;
    result.error = w->err;
    result.index = (int64_t)(n->guard != NULL ? raft_last_applied(&n->raft) : 0);
    ioqueue_init(&payload);
    ioqueue_init(&out);
    e = codec_encode(&peer_barrier_result_desc, 0, &result, &payload);
    CHECK(e == ERR_NONE);
    peer_frame_write(PEER_BARRIER_RESULT, &payload, &out);
    if (n->transport != NULL)
        (void)transport_answer(n->transport, r->node_id, &out);
    ioqueue_deinit(&payload);
    ioqueue_deinit(&out);
    free(r);
}

static bool leads_in(const struct raft_node *n, int64_t term)
{
    return n->guard != NULL && guard_leads(n->guard) && term > 0 &&
           (raft_term)term == n->raft.current_term &&
           (n->state == STATE_READY || n->state == STATE_FORMING);
}

static void serve_barrier(struct raft_node *n, int32_t node_id, const struct peer_barrier *b)
{
    struct remote_barrier *r = xcalloc(1, sizeof *r);

    *r = (struct remote_barrier){.node_id = node_id, .request_id = b->request_id};
    r->wait.raft = n;
    r->wait.loop = n->o.loop;
    r->wait.done = on_remote_barrier;
    r->wait.message.run = run_barrier_done;
    if (!leads_in(n, b->term)) {
        r->wait.err = ERR_NOT_CONTROLLER;
        loop_post(n->o.loop, &r->wait.message);
        return;
    }
    list_push_back(&n->barriers, &r->wait.node);
    node_post_pump(n);
}

static bool serve_forward(struct raft_node *n, int32_t node_id, const struct peer_forward *f)
{
    MetaCommand *c = meta_command__unpack(NULL, (size_t)f->command.len, f->command.ptr);
    struct submission *s;
    enum err e = ERR_NONE;

    /* A node speaks for itself alone. */
    if (c == NULL || c->node != node_id || c->body_case == META_COMMAND__BODY_FORM_CLUSTER ||
        c->request_id != (uint64_t)f->request_id) {
        if (c != NULL)
            meta_command__free_unpacked(c, NULL);
        return false;
    }
    if (!leads_in(n, f->term) || n->state != STATE_READY)
        e = ERR_NOT_CONTROLLER;
    else if (n->waiting_count >= WAITING_MAX)
        e = ERR_REQUEST_TIMED_OUT;
    if (e != ERR_NONE) {
        send_result(n, node_id, f->request_id, e, NULL);
        meta_command__free_unpacked(c, NULL);
        return true;
    }
    s = xcalloc(1, sizeof *s);
    s->command = c;
    s->origin = node_id;
    n->waiting_count++;
    list_push_back(list_for(n, s), &s->node);
    node_post_pump(n);
    return true;
}

bool proposals_on_frame(struct raft_node *n, const struct peer_identity *from,
                        enum peer_frame_type type, struct bytes payload)
{
    union {
        struct peer_forward forward;
        struct peer_forward_result result;
        struct peer_barrier barrier;
        struct peer_barrier_result barrier_result;
    } m;
    const struct codec_struct *d = type == PEER_FORWARD          ? &peer_forward_desc
                                   : type == PEER_FORWARD_RESULT ? &peer_forward_result_desc
                                   : type == PEER_BARRIER        ? &peer_barrier_desc
                                                                 : &peer_barrier_result_desc;
    struct arena a;
    size_t used;
    bool ok;

    arena_init(&a, PEER_HELLO_BYTES_MAX);
    ok = codec_decode(d, 0, payload.ptr, (size_t)payload.len, &a, &m, &used) == ERR_NONE &&
         used == (size_t)payload.len;
    if (ok && type == PEER_FORWARD) {
        ok = m.forward.command.len >= 0 && serve_forward(n, from->node_id, &m.forward);
    } else if (ok && type == PEER_FORWARD_RESULT) {
        MetaOutcome *o =
            m.result.outcome.len >= 0
                ? meta_outcome__unpack(NULL, (size_t)m.result.outcome.len, m.result.outcome.ptr)
                : NULL;

        ok = (o != NULL) == (m.result.error == ERR_NONE);
        if (ok)
            on_result(n, &m.result, o);
        else if (o != NULL)
            meta_outcome__free_unpacked(o, NULL);
    } else if (ok && type == PEER_BARRIER) {
        serve_barrier(n, from->node_id, &m.barrier);
    } else if (ok) {
        on_barrier_result(n, &m.barrier_result);
    }
    arena_deinit(&a);
    return ok;
}

/* ---- the lists move ---- */

void proposals_pump(struct raft_node *n)
{
    bool leads = guard_leads(n->guard);

    if (n->was_leading && !leads) /* what others forwarded is theirs to send again */
        stop_leading(n);
    n->was_leading = leads;
    if (!list_empty(&n->barriers_known) && raft_last_applied(&n->raft) >= n->barrier_index)
        finish_barriers(&n->barriers_known, ERR_NONE);
    if (leads) {
        lead_barriers(n);
        pack_and_fly(n);
    } else if (n->transport != NULL && n->leader_id >= 0 && n->leader_id != n->o.node_id) {
        ask_barriers(n);
        resend(n);
        if (n->state == STATE_READY) {
            forward_list(n, &n->control);
            forward_list(n, &n->bulk);
        }
    }
}

static void on_proposed(struct message *m)
{
    struct proposal *p = CONTAINER_OF(m, struct proposal, message);
    struct raft_node *n = p->raft;
    struct submission *s;

    if (n->state == STATE_CLOSING || n->state == STATE_FAILED) {
        proposal_answer(p, n->state == STATE_FAILED ? ERR_IO : ERR_CLOSED);
        return;
    }
    if (n->waiting_count >= WAITING_MAX) {
        counter_add(&n->refused, 1);
        proposal_answer(p, ERR_REQUEST_TIMED_OUT);
        return;
    }
    s = submission_new(p->command, p, n->o.node_id);
    if (s == NULL) {
        proposal_answer(p, ERR_TOO_LARGE);
        return;
    }
    s->command->lane = p->lane;
    s->command->request_id = n->next_request_id++;
    n->waiting_count++;
    list_push_back(list_for(n, s), &s->node);
    if (!loop_timer_is_set(&n->sweep))
        loop_timer_set(&n->sweep, node_now_ns(n) + SWEEP_NS);
    /* Those that came in the same turn join the same entry. */
    node_post_pump(n);
}

void raft_node_propose(struct raft_node *n, struct proposal *p)
{
    p->raft = n;
    p->err = ERR_NONE;
    p->outcome = NULL;
    p->index = 0;
    p->message.run = on_proposed;
    loop_post(n->o.loop, &p->message);
}

static bool is_late(const struct submission *s, uint64_t now_ns)
{
    return s->proposal != NULL && s->proposal->deadline_ns != 0 &&
           s->proposal->deadline_ns <= now_ns;
}

static void sweep_list(struct raft_node *n, struct list *l, uint64_t now_ns)
{
    list_for_each_safe (node, l) {
        struct submission *s = submission_at(node);

        if (!is_late(s, now_ns))
            continue;
        list_remove(node);
        n->waiting_count--;
        proposal_answer(s->proposal, ERR_REQUEST_TIMED_OUT);
        submission_free(s);
    }
}

void proposals_sweep(struct raft_node *n, uint64_t now_ns)
{
    sweep_list(n, &n->control, now_ns);
    sweep_list(n, &n->bulk, now_ns);
    list_for_each (node, &n->sent) {
        struct submission *s = submission_at(node);

        if (!is_late(s, now_ns))
            continue;
        proposal_answer(s->proposal, ERR_REQUEST_TIMED_OUT); /* it may yet be applied */
        s->proposal = NULL;
    }
}
