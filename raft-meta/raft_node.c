/* raft-meta/raft_node.c -- see raft_node.h; the invariants are in README.md.
 *
 * One entry is in flight at a time and holds every command that waited (Q4). Its commands are
 * answered, in order, when it has been applied and the image that shows them is published (Q5).
 * libraft is entered only from events of the loop, never from one of its own callbacks: those post
 * `pump`.
 */
#include "raft-meta/raft_node.h"

#include <inttypes.h>
#include <raft.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "raft-meta/command.h"
#include "raft-meta/controller.h"
#include "raft-meta/fsm.h"
#include "raft-meta/image_edit.h"
#include "raft-meta/packing.h"
#include "raft-meta/raft_disk_uv.h"
#include "raft-meta/raft_files.h"
#include "raft-meta/raft_io_guard.h"
#include "raft-meta/raft_space.h"
#include "raft-meta/snapshot.h"

#define RAFT_DIR_NAME               "fluxmq-raft"
#define FORMING_NAME                "forming"
#define PATH_BYTES_MAX              4096
#define ADDRESS_BYTES_MAX           64
#define SWEEP_NS                    50000000u
#define TRAIL_BYTES                 (32 << 20) /* of log kept in memory for peers that lag */
#define TRAIL_BYTES_ALONE           (1 << 20)
#define SNAPSHOT_NEVER              (UINT32_MAX / 4)
#define WAITING_MAX                 65536 /* proposals; beyond them the newest are refused */
#define MIN_INSYNC_REPLICAS_DEFAULT "2"

enum state {
    STATE_LOADING, /* inside raft_start(): the log is applied, nobody is told */
    STATE_JOINING, /* waits to lead, or to be led */
    STATE_FORMING, /* leads; the first command is on its way */
    STATE_READY,
    STATE_CLOSING,
    STATE_FAILED, /* the quorum's own directory failed; on_fatal was called */
};

/* The entry that libraft is storing, and whose commands are in it. */
struct flight {
    struct raft_apply request;
    struct proposal **proposals; /* NULL: it timed out meanwhile */
    int count;
    bool busy;
};

struct raft_node {
    struct raft_node_options o;
    char dir[PATH_BYTES_MAX], raft_dir[PATH_BYTES_MAX];
    char address[ADDRESS_BYTES_MAX]; /* "node id@directory id" [H1] */
    char cluster_id[CLUSTER_ID_MAX + 1];
    int32_t voter_ids[QUORUM_VOTERS_MAX];
    int voter_count;

    struct raft_disk_uv *disk; /* NULL: the simulator's */
    struct raft_io *inner;
    struct guard *guard;
    struct raft_fsm fsm;
    struct raft raft;
    struct raft_space *space;
    struct controller controller;

    enum state state;
    struct image *image;   /* the newest applied */
    struct errmsg problem; /* why an entry or a snapshot could not be applied */

    struct list control, bulk; /* proposals that wait */
    int waiting_count;
    struct flight flight;
    struct proposal form;
    struct list barriers, barriers_running;
    struct raft_barrier barrier;
    struct message pump;
    bool pump_posted, close_begun;
    struct loop_timer sweep;

    struct image *frozen; /* of the snapshot being taken */
    struct snapshot encoded;
    uint64_t bytes_since_snapshot, entries_since_snapshot;
    size_t snapshot_bytes;

    struct message *ready, *closed;
    struct loop *ready_loop, *closed_loop;
    struct message freeing;

    struct mutex view_lock;
    struct quorum_view view GUARDED_BY(view_lock);

    struct counter commands, entries, entry_bytes, refused, snapshots, applied_index;
};

static void post_pump(struct raft_node *n)
{
    if (n->pump_posted)
        return;
    n->pump_posted = true;
    loop_post(n->o.loop, &n->pump);
}

static void fail(struct raft_node *n, const char *why)
{
    if (n->state == STATE_LOADING) /* raft_node_new() will say it */
        errmsg_set(&n->problem, "%s", why);
    if (n->state == STATE_LOADING || n->state == STATE_CLOSING || n->state == STATE_FAILED)
        return;
    n->state = STATE_FAILED;
    log_error(n->o.logger, "raft", "%s", why);
    n->o.on_fatal(n->o.ctx, why);
}

/* ---- answering ---- */

static void refuse_list(struct raft_node *n, struct list *l, enum err e)
{
    struct list_node *node;

    while ((node = list_pop_front(l)) != NULL) {
        n->waiting_count--;
        proposal_answer(list_entry(node, struct proposal, node), e);
    }
}

static void refuse_waiting(struct raft_node *n, enum err e)
{
    struct list_node *node;

    refuse_list(n, &n->control, e);
    refuse_list(n, &n->bulk, e);
    while ((node = list_pop_front(&n->barriers)) != NULL) {
        struct barrier_wait *w = list_entry(node, struct barrier_wait, node);

        w->err = e;
        loop_post(w->loop, &w->message);
    }
}

/* ---- the published view of the quorum ---- */

static void update_view(struct raft_node *n)
{
    raft_id id = 0;
    const char *address = NULL;
    struct quorum_view v = {.leader_id = -1, .voter_count = 1};

    raft_leader(&n->raft, &id, &address);
    if (id != 0 && address != NULL)
        v.leader_id = (int32_t)strtol(address, NULL, 10);
    v.leader_epoch = (int32_t)MIN(n->raft.current_term, (raft_term)INT32_MAX);
    v.high_watermark = (int64_t)n->raft.commit_index + 1;
    v.voters[0] = (struct quorum_voter_view){
        .node_id = n->o.node_id,
        .directory_id = n->o.directory_id,
        .log_end_offset = (int64_t)raft_last_index(&n->raft) + 1,
        .last_fetch_ms = -1,
        .last_caught_up_ms = -1,
    };
    mutex_lock(&n->view_lock);
    n->view = v;
    mutex_unlock(&n->view_lock);
}

void raft_node_quorum(struct raft_node *n, struct quorum_view *out)
{
    mutex_lock(&n->view_lock);
    *out = n->view;
    mutex_unlock(&n->view_lock);
}

/* ---- the state machine under libraft ---- */

static bool delta_is_empty(const struct image_delta *d)
{
    return d->topic_count == 0 && d->config_count == 0 && !d->brokers_changed &&
           !d->features_changed;
}

/* Hands the outcome of the entry's i-th command to its proposer, when it is one of ours. */
static void take_outcome(struct raft_node *n, bool ours, int i, MetaOutcome *o)
{
    struct proposal *p = ours && i < n->flight.count ? n->flight.proposals[i] : NULL;

    if (p == NULL) {
        meta_outcome__free_unpacked(o, NULL);
        return;
    }
    p->outcome = o;
}

static enum err apply_commands(struct raft_node *n, struct fsm_step *s, uint64_t index, bool ours,
                               const struct raft_buffer *buf)
{
    struct entry_reader r;
    MetaCommand *c;

    entry_reader_init(&r, buf->base, buf->len);
    for (int i = 0;; i++) {
        enum err e = entry_reader_next(&r, &c);

        if (e != ERR_NONE) {
            errmsg_set(&n->problem, "entry %" PRIu64 ", command %d: %s", index, i,
                       e == ERR_UNSUPPORTED_VERSION
                           ? "written by a newer version of fluxmq; this one cannot go on"
                           : "malformed");
            return e;
        }
        if (c == NULL)
            return ERR_NONE;
        take_outcome(n, ours, i, fsm_apply(s, c));
        meta_command__free_unpacked(c, NULL);
        counter_add(&n->commands, 1);
    }
}

static void count_entry(struct raft_node *n, size_t size)
{
    counter_add(&n->entries, 1);
    counter_add(&n->entry_bytes, size);
    n->bytes_since_snapshot += size;
    n->entries_since_snapshot++;
    if (n->bytes_since_snapshot >= SNAPSHOT_AFTER_BYTES)
        raft_set_snapshot_threshold(&n->raft, 1);
}

static int on_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct raft_node *n = fsm->data;
    /* libraft counts it as applied only when we have returned. */
    uint64_t index = raft_last_applied(&n->raft) + 1;
    bool ours = n->flight.busy && n->flight.request.index == index;
    struct fsm_step *s = fsm_begin(n->image, index);
    const struct image_delta *d;

    *result = NULL;
    if (apply_commands(n, s, index, ours, buf) != ERR_NONE) {
        fsm_step_free(s);
        if (n->state != STATE_LOADING)
            fail(n, n->problem.text);
        return RAFT_MALFORMED;
    }
    d = fsm_finish(s);
    image_unref(n->image);
    n->image = image_ref(fsm_step_image(s));
    atomic_store_explicit(&n->applied_index.value, index, memory_order_relaxed);
    if (n->state != STATE_LOADING) {
        image_slot_publish(n->o.slot, n->image);
        if (!delta_is_empty(d))
            n->o.on_delta(n->o.ctx, d);
    }
    fsm_step_free(s);
    count_entry(n, buf->len);
    return 0;
}

static int on_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct raft_node *n = fsm->data;
    struct image *i;
    struct errmsg why;

    if (snapshot_decode(buf->base, buf->len, &i, &why) != ERR_NONE) {
        errmsg_set(&n->problem, "the newest snapshot: %s", why.text);
        return RAFT_CORRUPT;
    }
    n->snapshot_bytes = buf->len;
    raft_free(buf->base);
    image_unref(n->image);
    n->image = i;
    if (n->state != STATE_LOADING)
        image_slot_publish(n->o.slot, n->image);
    return 0;
}

/* ---- snapshots ---- */

static int on_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *count)
{
    struct raft_node *n = fsm->data;
    uint64_t trail = n->voter_count > 1 ? TRAIL_BYTES : TRAIL_BYTES_ALONE;
    uint64_t each = n->bytes_since_snapshot / MAX(n->entries_since_snapshot, (uint64_t)1) + 1;

    *bufs = NULL;
    *count = 0;
    if (n->frozen != NULL || !guard_may_snapshot(n->guard) ||
        raft_space_check(n->space, 0, n->snapshot_bytes) != ROOM_ENOUGH)
        return RAFT_BUSY;
    n->frozen = image_ref(n->image);
    /* libraft counts entries, we bytes: by the average since the last snapshot. */
    raft_set_snapshot_trailing(&n->raft, (unsigned)MAX(trail / each, (uint64_t)1));
    raft_set_snapshot_threshold(&n->raft, SNAPSHOT_NEVER);
    n->bytes_since_snapshot = n->entries_since_snapshot = 0;
    return 0;
}

/* On the pool: the image is immutable. */
static int on_snapshot_async(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *count)
{
    struct raft_node *n = fsm->data;
    struct raft_buffer *list;

    snapshot_encode(n->frozen, &n->encoded);
    list = raft_malloc(n->encoded.part_count * sizeof *list);
    CHECK(list != NULL);
    for (size_t i = 0; i < n->encoded.part_count; i++)
        list[i] = (struct raft_buffer){n->encoded.parts[i].bytes, n->encoded.parts[i].size};
    *bufs = list;
    *count = (unsigned)n->encoded.part_count;
    return 0;
}

static int on_snapshot_finalize(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *count)
{
    struct raft_node *n = fsm->data;

    if (*bufs != NULL)
        raft_free(*bufs);
    *bufs = NULL;
    *count = 0;
    n->snapshot_bytes = n->encoded.bytes_total;
    snapshot_deinit(&n->encoded);
    image_unref(n->frozen);
    n->frozen = NULL;
    counter_add(&n->snapshots, 1);
    return 0;
}

/* ---- one entry at a time ---- */

static void on_applied(struct raft_apply *request, int status, void *result)
{
    struct raft_node *n = request->data;
    enum err e = ERR_NONE;

    (void)result;
    if (status != 0) /* it may yet be committed: the outcome is unknown */
        e = n->state == STATE_CLOSING ? ERR_CLOSED : ERR_REQUEST_TIMED_OUT;
    update_view(n);
    for (int i = 0; i < n->flight.count; i++) {
        struct proposal *p = n->flight.proposals[i];

        if (p == NULL)
            continue;
        CHECK(e != ERR_NONE || p->outcome != NULL);
        p->index = request->index;
        proposal_answer(p, e);
    }
    free(n->flight.proposals);
    n->flight.proposals = NULL;
    n->flight.count = 0;
    n->flight.busy = false;
    post_pump(n);
}

static void fly(struct raft_node *n, struct packing *k)
{
    struct raft_buffer buf;
    size_t size;
    uint8_t *bytes;
    int rv;

    n->flight.proposals = packing_take(k, &n->flight.count, &bytes, &size);
    buf.len = size;
    buf.base = raft_malloc(size);
    CHECK(buf.base != NULL);
    memcpy(buf.base, bytes, size);
    free(bytes);
    n->flight.busy = true;
    n->flight.request.data = n;
    rv = raft_apply(&n->raft, &n->flight.request, &buf, 1, on_applied);
    guard_poll(n->guard);
    if (rv == 0)
        return;
    raft_free(buf.base); /* it never entered the log */
    for (int i = 0; i < n->flight.count; i++)
        proposal_answer(n->flight.proposals[i], ERR_NOT_CONTROLLER);
    free(n->flight.proposals);
    n->flight.proposals = NULL;
    n->flight.count = 0;
    n->flight.busy = false;
}

/* Every proposal that leaves the lists is in the entry or answered. */
static bool pack_list(struct raft_node *n, struct packing *k, struct list *l)
{
    struct list_node *node;

    while ((node = list_pop_front(l)) != NULL) {
        /* Out of the list first: who is answered may be gone at once. */
        if (!packing_add(k, list_entry(node, struct proposal, node))) {
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

    if (n->flight.busy || !guard_leads(n->guard) ||
        (list_empty(&n->control) && list_empty(&n->bulk)))
        return;
    packing_init(&k, n->o.node_id, n->image, &n->controller, env_unix_ms(n->o.env),
                 raft_space_check(n->space, ENTRY_BULK_BYTES_MAX, n->snapshot_bytes));
    if (pack_list(n, &k, &n->control))
        (void)pack_list(n, &k, &n->bulk);
    counter_add(&n->refused, k.refused);
    if (k.count > 0)
        fly(n, &k);
    packing_deinit(&k);
}

/* ---- barriers ---- */

static void finish_barriers(struct raft_node *n, struct list *l, enum err e)
{
    struct list_node *node;

    (void)n;
    while ((node = list_pop_front(l)) != NULL) {
        struct barrier_wait *w = list_entry(node, struct barrier_wait, node);

        w->err = e;
        loop_post(w->loop, &w->message);
    }
}

static void on_barrier(struct raft_barrier *b, int status)
{
    struct raft_node *n = b->data;

    finish_barriers(n, &n->barriers_running, status == 0 ? ERR_NONE : ERR_NOT_CONTROLLER);
    post_pump(n);
}

static void run_barriers(struct raft_node *n)
{
    if (list_empty(&n->barriers) || !guard_leads(n->guard))
        return;
    if (n->voter_count <= 1) { /* nobody else can have committed anything */
        finish_barriers(n, &n->barriers, ERR_NONE);
        return;
    }
    if (!list_empty(&n->barriers_running))
        return;
    list_splice_back(&n->barriers_running, &n->barriers);
    n->barrier.data = n;
    if (raft_barrier(&n->raft, &n->barrier, on_barrier) != 0)
        finish_barriers(n, &n->barriers_running, ERR_NOT_CONTROLLER);
    guard_poll(n->guard);
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
    run_barriers(n);
}

void raft_node_barrier(struct raft_node *n, struct barrier_wait *w)
{
    w->raft = n;
    w->message.run = on_barrier_asked;
    loop_post(n->o.loop, &w->message);
}

/* ---- the meta loop ---- */

static void begin_close(struct raft_node *n);

static void become_ready(struct raft_node *n)
{
    n->state = STATE_READY;
    update_view(n);
    loop_post(n->ready_loop, n->ready);
}

static void on_formed(struct proposal *p)
{
    struct raft_node *n = CONTAINER_OF(p, struct raft_node, form);
    enum err e = p->err != ERR_NONE ? p->err : (enum err)p->outcome->error;
    struct errmsg why;

    proposal_release(p);
    if (n->state != STATE_FORMING)
        return;
    if (e != ERR_NONE) {
        errmsg_set(&why, "the cluster could not be formed: %s", err_name(e));
        fail(n, why.text);
        return;
    }
    log_info(n->o.logger, "raft", "formed cluster %.*s", STR_ARG(image_cluster_id(n->image)));
    become_ready(n);
    post_pump(n);
}

static void lead(struct raft_node *n)
{
    if (image_cluster_id(n->image).len > 0) {
        become_ready(n);
        return;
    }
    n->state = STATE_FORMING; /* the cluster id is the first command [H1] */
    n->waiting_count++;
    list_push_front(&n->control, &n->form.node);
}

static void on_pump(struct message *m)
{
    struct raft_node *n = CONTAINER_OF(m, struct raft_node, pump);

    n->pump_posted = false;
    if (n->state == STATE_FAILED) {
        refuse_waiting(n, ERR_IO);
        return;
    }
    if (n->state == STATE_CLOSING) {
        if (!n->flight.busy)
            begin_close(n);
        return;
    }
    guard_poll(n->guard);
    if (n->state == STATE_JOINING && guard_leads(n->guard))
        lead(n);
    run_barriers(n);
    pack_and_fly(n);
}

static void on_proposed(struct message *m)
{
    struct proposal *p = CONTAINER_OF(m, struct proposal, message);
    struct raft_node *n = p->raft;

    if (n->state == STATE_CLOSING || n->state == STATE_FAILED) {
        proposal_answer(p, n->state == STATE_FAILED ? ERR_IO : ERR_CLOSED);
        return;
    }
    if (n->waiting_count >= WAITING_MAX) {
        counter_add(&n->refused, 1);
        proposal_answer(p, ERR_REQUEST_TIMED_OUT);
        return;
    }
    n->waiting_count++;
    list_push_back(command_is_control(p->command) ? &n->control : &n->bulk, &p->node);
    if (!loop_timer_is_set(&n->sweep))
        loop_timer_set(&n->sweep, env_now_ns(n->o.env) + SWEEP_NS);
    /* Those that came in the same turn join the same entry. */
    post_pump(n);
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

static void sweep_list(struct raft_node *n, struct list *l, uint64_t now_ns)
{
    list_for_each_safe (node, l) {
        struct proposal *p = list_entry(node, struct proposal, node);

        if (p->deadline_ns == 0 || p->deadline_ns > now_ns)
            continue;
        list_remove(node);
        n->waiting_count--;
        proposal_answer(p, ERR_REQUEST_TIMED_OUT);
    }
}

/* Proposals whose time is over; and a look at whether we still lead. */
static void on_sweep(struct loop_timer *t)
{
    struct raft_node *n = CONTAINER_OF(t, struct raft_node, sweep);
    uint64_t now_ns = env_now_ns(n->o.env);

    sweep_list(n, &n->control, now_ns);
    sweep_list(n, &n->bulk, now_ns);
    for (int i = 0; i < n->flight.count; i++) {
        struct proposal *p = n->flight.proposals[i];

        if (p == NULL || p->deadline_ns == 0 || p->deadline_ns > now_ns)
            continue;
        n->flight.proposals[i] = NULL; /* it may yet be applied */
        proposal_answer(p, ERR_REQUEST_TIMED_OUT);
    }
    post_pump(n);
    if (n->waiting_count > 0 || n->flight.busy)
        loop_timer_set(t, now_ns + SWEEP_NS);
}

/* ---- starting ---- */

static void on_guard_fatal(void *ctx, const char *what, int raft_error)
{
    struct raft_node *n = ctx;
    struct errmsg why;

    errmsg_set(&why, "%s: %s failed: %s (%s)", n->raft_dir, what, raft_strerror(raft_error),
               n->inner->errmsg);
    fail(n, why.text);
    post_pump(n);
}

static void on_guard_restart(void *ctx)
{
    fail(ctx, "the log of this voter was rolled back past a change of members; it must restart");
}

static void on_guard_leading(void *ctx)
{
    post_pump(ctx);
}

static bool is_voter(void *ctx, int32_t node)
{
    const struct raft_node *n = ctx;

    for (int i = 0; i < n->voter_count; i++) {
        if (n->voter_ids[i] == node)
            return true;
    }
    return false;
}

static void random_bytes(void *ctx, void *out, size_t size)
{
    env_random(((struct raft_node *)ctx)->o.env, out, size);
}

static enum err write_forming(struct raft_node *n, bool present, struct errmsg *why)
{
    char path[PATH_BYTES_MAX + 16];
    enum err e;

    (void)snprintf(path, sizeof path, "%s/%s", n->raft_dir, FORMING_NAME);
    if (present)
        return file_replace(n->o.env, path, "1\n", 2, why);
    e = disk_unlink(n->o.env, path, why);
    if (e == ERR_NONE || e == ERR_NOT_FOUND)
        e = dir_sync(n->o.env, n->raft_dir, why);
    return e;
}

/* First formation [H1]. The note in meta.properties says for ever that this voter has had files;
 * `forming` says that it may not have had them yet: a voter that has not finished it has never
 * voted nor stored anything, and begins anew. */
static enum err prepare_formation(struct raft_node *n, struct errmsg *why)
{
    enum err e = disk_remove_tree(n->o.env, n->raft_dir, why);

    if (e != ERR_NONE && e != ERR_NOT_FOUND)
        return e;
    if ((e = disk_mkdir(n->o.env, n->raft_dir, why)) != ERR_NONE ||
        (e = write_forming(n, true, why)) != ERR_NONE ||
        (e = dir_sync(n->o.env, n->dir, why)) != ERR_NONE)
        return e;
    return n->o.on_note_raft_files(n->o.ctx, why);
}

static enum err bootstrap(struct raft_node *n, struct errmsg *why)
{
    struct raft_configuration conf;
    int rv;

    raft_configuration_init(&conf);
    rv = raft_configuration_add(&conf, 1, n->address, RAFT_VOTER);
    if (rv == 0)
        rv = raft_bootstrap(&n->raft, &conf);
    raft_configuration_close(&conf);
    if (rv != 0) {
        errmsg_set(why, "%s: cannot begin a log: %s (%s)", n->raft_dir, raft_strerror(rv),
                   guard_io(n->guard)->errmsg);
        return ERR_IO;
    }
    return write_forming(n, false, why);
}

/* What is on the disk decides whether this voter begins, goes on, or must not start. */
static enum err look_at_files(struct raft_node *n, bool *fresh, struct errmsg *why)
{
    struct raft_files_report r;
    enum err e = raft_files_check(
        &(struct raft_files_options){.env = n->o.env, .dir = n->raft_dir, .cut_torn = true}, &r,
        why);

    if (e != ERR_NONE)
        return e;
    *fresh = !r.any || r.forming;
    if (!r.any && !r.forming && n->o.had_raft_files) {
        errmsg_set(why,
                   "%s: the files of this voter are missing, though meta.properties says that it "
                   "has had them: its votes and its log are lost. Put them back, or remove "
                   "meta.properties to begin as an empty node",
                   n->raft_dir);
        return ERR_CONFIG;
    }
    if (*fresh || r.corrupt_count == 0)
        return ERR_NONE;
    errmsg_set(why, "%s/%s: offset %" PRIu64 ": %s. To give up what follows it: fluxmq repair %s",
               n->raft_dir, r.first.file, r.first.offset, r.first.what, n->dir);
    return ERR_CORRUPT;
}

static enum err check_voters(const struct raft_node *n, struct errmsg *why)
{
    if (n->voter_count > 1) {
        errmsg_set(why,
                   "controller.quorum.voters names %d voters; this version forms clusters of "
                   "one",
                   n->voter_count);
        return ERR_CONFIG;
    }
    if (n->voter_count == 1 && n->voter_ids[0] != n->o.node_id) {
        errmsg_set(why, "controller.quorum.voters does not name this node (%d)", n->o.node_id);
        return ERR_CONFIG;
    }
    return ERR_NONE;
}

/* The files must be those of this very voter. */
static enum err check_identity(struct raft_node *n, struct errmsg *why)
{
    const struct raft_configuration *c = &n->raft.configuration;

    for (unsigned i = 0; i < c->n; i++) {
        if (strcmp(c->servers[i].address, n->address) == 0)
            return ERR_NONE;
    }
    errmsg_set(why, "%s: the log belongs to voter %s, not to %s", n->raft_dir,
               c->n > 0 ? c->servers[0].address : "nobody", n->address);
    return ERR_CONFIG;
}

static void init_form(struct raft_node *n)
{
    const struct raft_node_options *o = &n->o;
    MetaCommand *c = xmalloc(sizeof *c);
    MetaFormCluster *f = xmalloc(sizeof *f);
    const struct config_entry defaults[] = {
        {STR_LIT("min.insync.replicas"), STR_LIT(MIN_INSYNC_REPLICAS_DEFAULT)}};
    const struct config_entry *configs = o->form_configs != NULL ? o->form_configs : defaults;
    size_t config_count = o->form_configs != NULL ? (size_t)o->form_config_count : 1;
    size_t feature_count = o->form_features != NULL ? (size_t)o->form_feature_count : 0;

    meta_command__init(c);
    meta_form_cluster__init(f);
    f->cluster_id = proto_str(str_from(n->cluster_id));
    f->features = xcalloc(feature_count + 1, sizeof *f->features);
    for (size_t i = 0; i < feature_count; i++) {
        f->features[i] = xmalloc(sizeof **f->features);
        meta_feature_level__init(f->features[i]);
        f->features[i]->name = proto_str(o->form_features[i].name);
        f->features[i]->level = o->form_features[i].level;
    }
    f->n_features = feature_count;
    f->configs = xcalloc(config_count + 1, sizeof *f->configs);
    for (size_t i = 0; i < config_count; i++) {
        f->configs[i] = xmalloc(sizeof **f->configs);
        meta_config_entry__init(f->configs[i]);
        f->configs[i]->key = proto_str(configs[i].key);
        f->configs[i]->value = proto_str(configs[i].value);
    }
    f->n_configs = config_count;
    c->body_case = META_COMMAND__BODY_FORM_CLUSTER;
    c->form_cluster = f;
    n->form = (struct proposal){.raft = n,
                                .command = c,
                                .lane = META_LANE_CONTROLLER,
                                .loop = n->o.loop,
                                .done = on_formed};
}

static void choose_cluster_id(struct raft_node *n)
{
    struct uuid id;
    char text[UUID_TEXT_SIZE];

    if (n->o.cluster_id != NULL && n->o.cluster_id[0] != 0) {
        (void)snprintf(n->cluster_id, sizeof n->cluster_id, "%s", n->o.cluster_id);
        return;
    }
    controller_random_uuid(&n->controller, &id);
    uuid_format(&id, text);
    memcpy(n->cluster_id, text, sizeof text);
}

static struct raft_node *node_new(const struct raft_node_options *o, struct loop *ready_loop,
                                  struct message *ready)
{
    struct raft_node *n = xcalloc(1, sizeof *n);
    char text[UUID_TEXT_SIZE];

    n->o = *o;
    n->ready_loop = ready_loop;
    n->ready = ready;
    (void)snprintf(n->dir, sizeof n->dir, "%s", o->dir);
    (void)snprintf(n->raft_dir, sizeof n->raft_dir, "%.*s/" RAFT_DIR_NAME,
                   (int)(sizeof n->raft_dir - sizeof RAFT_DIR_NAME - 1), o->dir);
    uuid_format(&o->directory_id, text);
    (void)snprintf(n->address, sizeof n->address, "%d@%s", o->node_id, text);
    n->voter_count = MIN(o->voter_count, QUORUM_VOTERS_MAX);
    for (int i = 0; i < n->voter_count; i++)
        n->voter_ids[i] = o->voters[i].node_id;
    n->controller = (struct controller){.voter_count = MAX(n->voter_count, 1),
                                        .is_voter = is_voter,
                                        .random = random_bytes,
                                        .ctx = n};
    n->state = STATE_LOADING;
    n->image = image_new();
    list_init(&n->control);
    list_init(&n->bulk);
    list_init(&n->barriers);
    list_init(&n->barriers_running);
    n->pump.run = on_pump;
    loop_timer_init(&n->sweep, o->loop, on_sweep);
    mutex_init(&n->view_lock, o->env);
    choose_cluster_id(n);
    init_form(n);
    n->o.voters = NULL; /* borrowed only until here */
    n->o.form_configs = NULL;
    n->o.form_features = NULL;
    n->fsm = (struct raft_fsm){.version = 3,
                               .data = n,
                               .apply = on_apply,
                               .snapshot = on_snapshot,
                               .restore = on_restore,
                               .snapshot_finalize = on_snapshot_finalize,
                               .snapshot_async = on_snapshot_async};
    return n;
}

static void node_free(struct raft_node *n)
{
    if (n->guard != NULL)
        guard_free(n->guard);
    if (n->disk != NULL)
        raft_disk_uv_free(n->disk);
    if (n->space != NULL)
        raft_space_free(n->space);
    meta_command__free_unpacked(n->form.command, NULL);
    image_unref(n->image);
    mutex_deinit(&n->view_lock);
    free(n->flight.proposals);
    free(n);
}

static enum err open_disk(struct raft_node *n, struct errmsg *why)
{
    enum err e;
    int rv;

    n->space = raft_space_new(n->o.env, n->o.loop, n->o.logger, n->dir, n->o.ballast_bytes);
    if (n->o.disk_new != NULL) {
        n->inner = n->o.disk_new(n->o.disk_ctx, n);
    } else {
        e = raft_disk_uv_new(n->o.uv_loop, n->raft_dir, &n->disk, why);
        if (e != ERR_NONE)
            return e;
        n->inner = raft_disk_uv_io(n->disk);
    }
    n->guard = guard_new(&(struct guard_options){.inner = n->inner,
                                                 .raft = &n->raft,
                                                 .on_fatal = on_guard_fatal,
                                                 .on_restart = on_guard_restart,
                                                 .on_leading = on_guard_leading,
                                                 .ctx = n});
    rv = raft_init(&n->raft, guard_io(n->guard), &n->fsm, 1, n->address);
    if (rv != 0) {
        errmsg_set(why, "%s: %s (%s)", n->raft_dir, raft_strerror(rv), raft_errmsg(&n->raft));
        return ERR_IO;
    }
    n->raft.data = n;
    raft_set_election_timeout(&n->raft, (unsigned)MAX(n->o.election_timeout_ms, 1));
    raft_set_heartbeat_timeout(&n->raft, (unsigned)MAX(n->o.heartbeat_ms, 1));
    raft_set_install_snapshot_timeout(&n->raft, 5000);
    raft_set_pre_vote(&n->raft, true);
    raft_set_snapshot_threshold(&n->raft, SNAPSHOT_NEVER);
    return ERR_NONE;
}

static enum err start_raft(struct raft_node *n, bool fresh, struct errmsg *why)
{
    uint64_t began_ns = env_now_ns(n->o.env);
    enum err e = fresh ? bootstrap(n, why) : ERR_NONE;
    int rv;

    if (e != ERR_NONE)
        return e;
    rv = raft_start(&n->raft);
    if (rv != 0 || n->problem.text[0] != 0) {
        errmsg_set(why, "%s: %s. To give up what cannot be read: fluxmq repair %s", n->raft_dir,
                   n->problem.text[0] != 0 ? n->problem.text : raft_errmsg(&n->raft), n->dir);
        return rv == RAFT_IOERR ? ERR_IO : ERR_CORRUPT;
    }
    e = check_identity(n, why);
    if (e != ERR_NONE)
        return e;
    log_info(n->o.logger, "raft",
             "loaded metadata up to index %" PRIu64 " in %.1f ms: %d topics, %" PRId64
             " partitions, %d brokers",
             image_index(n->image), (double)(env_now_ns(n->o.env) - began_ns) / 1e6,
             image_topic_count(n->image), image_partition_count(n->image),
             image_broker_count(n->image));
    return ERR_NONE;
}

static void on_raft_closed(struct raft *r);

enum err raft_node_new(const struct raft_node_options *o, struct loop *ready_loop,
                       struct message *ready, struct raft_node **out, struct errmsg *why)
{
    struct raft_node *n = node_new(o, ready_loop, ready);
    bool fresh = false;
    enum err e;

    *out = NULL;
    if ((e = check_voters(n, why)) != ERR_NONE || (e = look_at_files(n, &fresh, why)) != ERR_NONE ||
        (fresh && (e = prepare_formation(n, why)) != ERR_NONE)) {
        node_free(n);
        return e;
    }
    e = open_disk(n, why);
    if (e != ERR_NONE) {
        node_free(n);
        return e;
    }
    e = start_raft(n, fresh, why);
    if (e != ERR_NONE) {
        /* libraft frees itself on the loop. */
        n->state = STATE_CLOSING;
        n->close_begun = true;
        raft_close(&n->raft, on_raft_closed);
        return e;
    }
    image_slot_publish(n->o.slot, n->image);
    n->state = STATE_JOINING;
    update_view(n);
    guard_poll(n->guard); /* a single voter leads already: its barrier begins now */
    *out = n;
    return ERR_NONE;
}

/* ---- closing ---- */

static void on_free(struct message *m)
{
    struct raft_node *n = CONTAINER_OF(m, struct raft_node, freeing);
    struct message *closed = n->closed;
    struct loop *loop = n->closed_loop;

    node_free(n);
    if (closed != NULL)
        loop_post(loop, closed);
}

/* After every message that was posted to the loop before: the pump may be among them. */
static void post_free(struct raft_node *n)
{
    n->freeing.run = on_free;
    loop_post(n->o.loop, &n->freeing);
}

static void on_raft_closed(struct raft *r)
{
    post_free(r->data);
}

static void on_abandoned(struct raft_io *io)
{
    post_free(((struct raft_node *)io->data));
}

static void begin_close(struct raft_node *n)
{
    if (n->close_begun)
        return;
    n->close_begun = true;
    if (guard_has_failed(n->guard)) {
        guard_io(n->guard)->data = n;
        guard_abandon(n->guard, on_abandoned);
    } else {
        raft_close(&n->raft, on_raft_closed);
    }
}

void raft_node_close(struct raft_node *n, struct loop *closed_loop, struct message *closed)
{
    bool failed = n->state == STATE_FAILED;

    n->closed_loop = closed_loop;
    n->closed = closed;
    n->state = STATE_CLOSING;
    loop_timer_stop(&n->sweep);
    refuse_waiting(n, ERR_CLOSED);
    if (failed && n->flight.busy) {
        for (int i = 0; i < n->flight.count; i++) {
            if (n->flight.proposals[i] != NULL)
                proposal_answer(n->flight.proposals[i], ERR_IO);
        }
        n->flight.count = 0;
        n->flight.busy = false;
    }
    post_pump(n);
}

void raft_node_register_metrics(struct raft_node *n, struct metrics *m)
{
    metrics_add(m, METRIC_COUNTER, "fluxmq_raft_commands_total", "",
                "Metadata commands applied by this process", &n->commands);
    metrics_add(m, METRIC_COUNTER, "fluxmq_raft_entries_total", "",
                "Raft entries applied by this process", &n->entries);
    metrics_add(m, METRIC_COUNTER, "fluxmq_raft_entry_bytes_total", "",
                "Bytes of the raft entries applied by this process", &n->entry_bytes);
    metrics_add(m, METRIC_COUNTER, "fluxmq_raft_refused_total", "",
                "Metadata commands refused for lack of disk space or too many waiting",
                &n->refused);
    metrics_add(m, METRIC_COUNTER, "fluxmq_raft_snapshots_total", "",
                "Snapshots of the metadata taken by this process", &n->snapshots);
    metrics_add(m, METRIC_GAUGE, "fluxmq_raft_applied_index", "",
                "Index of the last applied raft entry", &n->applied_index);
}
