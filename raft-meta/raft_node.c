/* raft-meta/raft_node.c -- see raft_node.h and raft_node_internal.h; the invariants are in
 * README.md.
 *
 * libraft is entered only from events of the loop, never from one of its own callbacks: those post
 * `pump`.
 */
#include "raft-meta/raft_node.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "raft-meta/raft_files.h"
#include "raft-meta/raft_node_internal.h"

#define RAFT_DIR_NAME               "fluxmq-raft"
#define FORMING_NAME                "forming"
#define TRAIL_BYTES                 (32 << 20) /* of log kept in memory for peers that lag */
#define TRAIL_BYTES_ALONE           (1 << 20)
#define SNAPSHOT_NEVER              (UINT32_MAX / 4)
#define MIN_INSYNC_REPLICAS_DEFAULT "2"

static const enum config_resource config_types[] = {
    CONFIG_TOPIC, CONFIG_BROKER, CONFIG_BROKER_LOGGER, CONFIG_CLIENT_METRICS, CONFIG_GROUP};

uint64_t node_now_ns(const struct raft_node *n)
{
    return env_now_ns(n->o.env);
}

void node_post_pump(struct raft_node *n)
{
    if (n->pump_posted)
        return;
    n->pump_posted = true;
    loop_post(n->o.loop, &n->pump);
}

void node_fail(struct raft_node *n, const char *why)
{
    if (n->state == STATE_LOADING) /* raft_node_new() will say it */
        errmsg_set(&n->problem, "%s", why);
    if (n->state == STATE_LOADING || n->state == STATE_CLOSING || n->state == STATE_FAILED)
        return;
    n->state = STATE_FAILED;
    log_error(n->o.logger, "raft", "%s", why);
    n->o.on_fatal(n->o.ctx, why);
}

/* ---- the members ---- */

int node_voter_count(const struct raft_node *n)
{
    int count = 0;

    if (n->guard == NULL || n->raft.configuration.n == 0)
        return MAX(n->voter_count, 1);
    for (unsigned i = 0; i < n->raft.configuration.n; i++)
        count += n->raft.configuration.servers[i].role == RAFT_VOTER;
    return count;
}

bool node_is_member(const struct raft_node *n, int32_t node_id)
{
    for (unsigned i = 0; n->guard != NULL && i < n->raft.configuration.n; i++) {
        const struct raft_server *s = &n->raft.configuration.servers[i];
        struct uuid directory;
        int32_t id;

        if (s->role == RAFT_VOTER && wire_address_parse(s->address, &id, &directory) &&
            id == node_id)
            return true;
    }
    return false;
}

/* ---- the state machine under libraft ---- */

static bool delta_is_empty(const struct image_delta *d)
{
    return d->topic_count == 0 && d->config_count == 0 && !d->brokers_changed &&
           !d->features_changed;
}

/* A node finds its own commands by their request ids, whoever led when they were stored. */
static void take_outcome(struct raft_node *n, const MetaCommand *c, uint64_t index, MetaOutcome *o)
{
    if (c->node == n->o.node_id)
        proposals_resolve(n, c, index, o);
    else
        meta_outcome__free_unpacked(o, NULL);
}

static enum err apply_commands(struct raft_node *n, struct fsm_step *s, uint64_t index,
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
        take_outcome(n, c, index, fsm_apply(s, c));
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
    if (n->bytes_since_snapshot >= SNAPSHOT_AFTER_BYTES || n->snapshot_always)
        raft_set_snapshot_threshold(&n->raft, 1);
}

static int on_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct raft_node *n = fsm->data;
    /* libraft counts it as applied only when we have returned. */
    uint64_t index = raft_last_applied(&n->raft) + 1;
    struct fsm_step *s = fsm_begin(n->image, index);
    const struct image_delta *d;

    *result = NULL;
    if (apply_commands(n, s, index, buf) != ERR_NONE) {
        fsm_step_free(s);
        if (n->state != STATE_LOADING)
            node_fail(n, n->problem.text);
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
    proposals_answer_resolved(n);
    count_entry(n, buf->len);
    return 0;
}

/* ---- a snapshot that a leader sent: everything may have changed ---- */

static void add_topics(const struct image *from, struct image_delta *d, struct topic_change *list)
{
    const struct topic_image *t = NULL;

    while ((t = image_topic_next(from, t != NULL ? t->name : STR_NULL)) != NULL) {
        const struct topic_image *before = image_topic_by_id(d->before, &t->id);

        if (from == d->after && before != NULL)
            continue; /* it is there already */
        list[d->topic_count++] = (struct topic_change){
            .id = t->id, .before = before, .after = image_topic_by_id(d->after, &t->id)};
    }
}

static int32_t count_configs(const struct image *i)
{
    int32_t count = 0;

    for (size_t k = 0; k < ARRAY_COUNT(config_types); k++) {
        for (struct str name = STR_NULL; image_config_next(i, config_types[k], name, &name);)
            count++;
    }
    return count;
}

static void add_configs(const struct image *from, struct image_delta *d, struct config_change *list)
{
    for (size_t k = 0; k < ARRAY_COUNT(config_types); k++) {
        for (struct str name = STR_NULL; image_config_next(from, config_types[k], name, &name);) {
            const struct config_entry *entries;
            int32_t count;

            if (from == d->after &&
                image_config_entries(d->before, config_types[k], name, &entries, &count))
                continue;
            list[d->config_count++] = (struct config_change){config_types[k], name};
        }
    }
}

static void show_jump(struct raft_node *n, const struct image *before)
{
    struct image_delta d = {
        .before = before, .after = n->image, .brokers_changed = true, .features_changed = true};
    size_t topics = (size_t)image_topic_count(before) + (size_t)image_topic_count(n->image);
    size_t configs = (size_t)count_configs(before) + (size_t)count_configs(n->image);
    struct topic_change *topic_list = xcalloc(topics + 1, sizeof *topic_list);
    struct config_change *config_list = xcalloc(configs + 1, sizeof *config_list);

    add_topics(before, &d, topic_list);
    add_topics(n->image, &d, topic_list);
    add_configs(before, &d, config_list);
    add_configs(n->image, &d, config_list);
    d.topics = topic_list;
    d.configs = config_list;
    n->o.on_delta(n->o.ctx, &d);
    free(topic_list);
    free(config_list);
}

static int on_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct raft_node *n = fsm->data;
    struct image *i, *before;
    struct errmsg why;

    if (snapshot_decode(buf->base, buf->len, &i, &why) != ERR_NONE) {
        errmsg_set(&n->problem, "the newest snapshot: %s", why.text);
        return RAFT_CORRUPT;
    }
    n->snapshot_bytes = buf->len;
    raft_free(buf->base);
    before = n->image;
    n->image = i;
    if (n->state != STATE_LOADING) {
        image_slot_publish(n->o.slot, n->image);
        n->restored++;
        show_jump(n, before);
        proposals_after_restore(n);
    }
    image_unref(before);
    return 0;
}

/* ---- snapshots ---- */

static int on_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *count)
{
    struct raft_node *n = fsm->data;
    uint64_t trail = n->snapshot_always        ? 1
                     : node_voter_count(n) > 1 ? TRAIL_BYTES
                                               : TRAIL_BYTES_ALONE;
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

/* ---- the meta loop ---- */

static void begin_close(struct raft_node *n);

static void become_ready(struct raft_node *n)
{
    n->state = STATE_READY;
    quorum_update(n);
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
    if (e != ERR_NONE && image_cluster_id(n->image).len == 0) {
        errmsg_set(&why, "the cluster could not be formed: %s", err_name(e));
        node_fail(n, why.text);
        return;
    }
    log_info(n->o.logger, "raft", "formed cluster %.*s", STR_ARG(image_cluster_id(n->image)));
    become_ready(n);
    node_post_pump(n);
}

/* This node leads, and has applied all that was committed before. */
static void lead(struct raft_node *n)
{
    struct submission *s;

    if (image_cluster_id(n->image).len > 0) {
        become_ready(n);
        return;
    }
    n->state = STATE_FORMING; /* the cluster id is the first command [H1] */
    s = submission_new(n->form.command, &n->form, n->o.node_id);
    s->command->lane = META_LANE_CONTROLLER;
    s->command->request_id = n->next_request_id++;
    n->waiting_count++;
    list_push_front(&n->control, &s->node);
}

/* As a follower: ready when the image holds all that was committed when a leader was asked. */
static void on_joined(struct barrier_wait *w)
{
    struct raft_node *n = CONTAINER_OF(w, struct raft_node, join);

    n->join_asked = false;
    if (n->state != STATE_JOINING || w->err != ERR_NONE)
        return;
    if (image_cluster_id(n->image).len == 0) {
        node_post_pump(n);
        return;
    }
    become_ready(n);
    node_post_pump(n);
}

static void join(struct raft_node *n)
{
    if (guard_leads(n->guard)) {
        lead(n);
    } else if (!n->join_asked && n->leader_id >= 0 && n->leader_id != n->o.node_id) {
        n->join_asked = true;
        n->join.done = on_joined;
        n->join.loop = n->o.loop;
        raft_node_barrier(n, &n->join);
    }
}

static void pump_closing(struct raft_node *n)
{
    /* Whoever is handed the leadership begins at once; without this it waits for the time-out. */
    if (n->guard != NULL && !guard_has_failed(n->guard) && !n->close_at_once &&
        node_voter_count(n) > 1 && guard_leads(n->guard) && node_now_ns(n) < n->close_deadline_ns) {
        guard_transfer(n->guard);
        return;
    }
    if (!n->flying)
        begin_close(n);
}

static void on_pump(struct message *m)
{
    struct raft_node *n = CONTAINER_OF(m, struct raft_node, pump);

    n->pump_posted = false;
    if (n->state == STATE_FAILED) {
        proposals_refuse(n, ERR_IO);
        return;
    }
    if (n->state == STATE_CLOSING) {
        pump_closing(n);
        return;
    }
    if (n->guard == NULL)
        return;
    guard_poll(n->guard);
    quorum_refresh_leader(n);
    if (n->state == STATE_JOINING)
        join(n);
    node_sessions_update(n);
    proposals_pump(n);
    quorum_update(n);
}

/* Called at the end of each event of libraft. */
static void on_guard_event(void *ctx)
{
    struct raft_node *n = ctx;
    bool leads;

    if (n->state == STATE_LOADING)
        return;
    leads = guard_leads(n->guard);
    if (leads != n->was_leading || n->raft.current_term != n->leader_term || n->leader_id < 0 ||
        !list_empty(&n->barriers_known) || n->state == STATE_CLOSING)
        node_post_pump(n);
}

/* Proposals whose time is over; and a look at what no event tells. */
static void on_sweep(struct loop_timer *t)
{
    struct raft_node *n = CONTAINER_OF(t, struct raft_node, sweep);
    uint64_t now_ns = node_now_ns(n);

    if (n->state != STATE_CLOSING && n->state != STATE_FAILED) {
        proposals_sweep(n, now_ns);
        quorum_sweep(n, now_ns);
    }
    node_post_pump(n);
    if (n->transport != NULL || proposals_waiting(n))
        loop_timer_set(t, now_ns + SWEEP_NS);
}

/* ---- starting ---- */

static void on_guard_fatal(void *ctx, const char *what, int raft_error)
{
    struct raft_node *n = ctx;
    struct errmsg why;

    errmsg_set(&why, "%s: %s failed: %s (%s)", n->raft_dir, what, raft_strerror(raft_error),
               n->inner->errmsg);
    node_fail(n, why.text);
    node_post_pump(n);
}

static void on_guard_restart(void *ctx)
{
    node_fail(ctx,
              "the log of this voter was rolled back past a change of members; it must restart");
}

static void on_guard_leading(void *ctx)
{
    node_post_pump(ctx);
}

static bool is_voter(void *ctx, int32_t node)
{
    const struct raft_node *n = ctx;

    if (n->guard != NULL && n->raft.configuration.n > 0)
        return node_is_member(n, node);
    for (int i = 0; i < n->voter_count; i++) {
        if (n->voters[i].node_id == node)
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

/* What exists before libraft may vote: the first configuration, or, for one who joins, a term. */
static enum err first_files(struct raft_node *n, const struct raft_configuration *members,
                            struct errmsg *why)
{
    struct raft_io *io = guard_io(n->guard);
    int rv = members != NULL ? raft_bootstrap(&n->raft, members) : io->set_term(io, 1);

    if (rv != 0 || guard_has_failed(n->guard)) {
        errmsg_set(why, "%s: cannot begin a log: %s (%s)", n->raft_dir, raft_strerror(rv),
                   io->errmsg);
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
    bool named = n->voter_count == 0;

    for (int i = 0; i < n->voter_count; i++)
        named = named || n->voters[i].node_id == n->o.node_id;
    if (!named) {
        errmsg_set(why, "controller.quorum.voters does not name this node (%d)", n->o.node_id);
        return ERR_CONFIG;
    }
    if (n->voter_count > 1 && n->o.listen_host == NULL) {
        errmsg_set(why,
                   "controller.quorum.voters names %d voters, and there is no controller "
                   "listener",
                   n->voter_count);
        return ERR_CONFIG;
    }
    return ERR_NONE;
}

/* The files must be those of this very voter. (One that has joined may have none yet.) */
static enum err check_identity(struct raft_node *n, struct errmsg *why)
{
    const struct raft_configuration *c = &n->raft.configuration;

    for (unsigned i = 0; i < c->n; i++) {
        if (strcmp(c->servers[i].address, n->address) == 0)
            return ERR_NONE;
    }
    if (c->n == 0 && n->voter_count > 1)
        return ERR_NONE;
    errmsg_set(why,
               "%s: the log belongs to voter %s, not to %s (node.id@directory.id, as in "
               "meta.properties)",
               n->raft_dir, c->n > 0 ? c->servers[0].address : "nobody", n->address);
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
        n->cluster_id_given = true;
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

    n->o = *o;
    n->ready_loop = ready_loop;
    n->ready = ready;
    (void)snprintf(n->dir, sizeof n->dir, "%s", o->dir);
    (void)snprintf(n->raft_dir, sizeof n->raft_dir, "%.*s/" RAFT_DIR_NAME,
                   (int)(sizeof n->raft_dir - sizeof RAFT_DIR_NAME - 1), o->dir);
    wire_address(n->address, o->node_id, &o->directory_id);
    n->voter_count = MIN(o->voter_count, QUORUM_VOTERS_MAX);
    for (int i = 0; i < n->voter_count; i++)
        n->voters[i] = o->voters[i];
    n->controller = (struct controller){.voter_count = MAX(n->voter_count, 1),
                                        .is_voter = is_voter,
                                        .session_is_over = node_session_is_over,
                                        .random = random_bytes,
                                        .ctx = n};
    n->state = STATE_LOADING;
    n->image = image_new();
    proposals_init(n);
    quorum_prepare(n);
    n->pump.run = on_pump;
    loop_timer_init(&n->sweep, o->loop, on_sweep);
    mutex_init(&n->view_lock, o->env);
    choose_cluster_id(n);
    n->o.voters = NULL; /* borrowed only until here */
    init_form(n);
    n->o.form_configs = NULL;
    n->o.form_features = NULL;
    n->o.cluster_id = NULL;
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
    quorum_deinit(n);
    node_sessions_free(n);
    free(n);
}

static enum err open_disk(struct raft_node *n, raft_id id, struct errmsg *why)
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
                                                 .on_event = on_guard_event,
                                                 .send = quorum_send,
                                                 .address = n->address,
                                                 .ctx = n});
    rv = raft_init(&n->raft, guard_io(n->guard), &n->fsm, id, n->address);
    if (rv != 0) {
        errmsg_set(why, "%s: %s (%s)", n->raft_dir, raft_strerror(rv), raft_errmsg(&n->raft));
        return ERR_IO;
    }
    n->raft_is_open = true;
    n->raft.data = n;
    raft_set_election_timeout(&n->raft, (unsigned)MAX(n->o.election_timeout_ms, 1));
    raft_set_heartbeat_timeout(&n->raft, (unsigned)MAX(n->o.heartbeat_ms, 1));
    raft_set_install_snapshot_timeout(&n->raft, 5000);
    raft_set_pre_vote(&n->raft, true);
    raft_set_snapshot_threshold(&n->raft, SNAPSHOT_NEVER);
    return ERR_NONE;
}

/* `first`: there are no files yet. */
static enum err start_raft(struct raft_node *n, bool first,
                           const struct raft_configuration *members, struct errmsg *why)
{
    uint64_t began_ns = node_now_ns(n);
    enum err e = first ? first_files(n, members, why) : ERR_NONE;
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
             image_index(n->image), (double)(node_now_ns(n) - began_ns) / 1e6,
             image_topic_count(n->image), image_partition_count(n->image),
             image_broker_count(n->image));
    return ERR_NONE;
}

static void become_member(struct raft_node *n)
{
    image_slot_publish(n->o.slot, n->image);
    n->state = STATE_JOINING;
    guard_poll(n->guard); /* a single voter leads already: its barrier begins now */
    quorum_update(n);
    node_post_pump(n);
}

void node_begin(struct raft_node *n, raft_id id, const struct raft_configuration *members)
{
    struct errmsg why = {""};

    CHECK(n->state == STATE_OUTSIDE);
    n->state = STATE_LOADING;
    if (prepare_formation(n, &why) != ERR_NONE || open_disk(n, id, &why) != ERR_NONE ||
        start_raft(n, true, members, &why) != ERR_NONE) {
        n->state = STATE_OUTSIDE;
        node_fail(n, why.text);
        return;
    }
    become_member(n);
}

static void on_raft_closed(struct raft *r);

/* An empty voter among several waits for the others; every other one starts now. */
static enum err begin_now(struct raft_node *n, bool fresh, struct errmsg *why)
{
    struct raft_configuration alone;
    enum err e;

    if (fresh && (e = prepare_formation(n, why)) != ERR_NONE)
        return e;
    e = open_disk(n, 1, why);
    if (e != ERR_NONE)
        return e;
    raft_configuration_init(&alone);
    CHECK(raft_configuration_add(&alone, 1, n->address, RAFT_VOTER) == 0);
    e = start_raft(n, fresh, &alone, why);
    raft_configuration_close(&alone);
    if (e == ERR_NONE)
        become_member(n);
    return e;
}

enum err raft_node_new(const struct raft_node_options *o, struct loop *ready_loop,
                       struct message *ready, struct raft_node **out, struct errmsg *why)
{
    struct raft_node *n = node_new(o, ready_loop, ready);
    bool fresh = false;
    enum err e;

    *out = NULL;
    if ((e = check_voters(n, why)) != ERR_NONE || (e = look_at_files(n, &fresh, why)) != ERR_NONE ||
        (e = quorum_init(n, why)) != ERR_NONE) {
        node_free(n);
        return e;
    }
    node_sessions_init(n);
    if (fresh && n->voter_count > 1) {
        n->state = STATE_OUTSIDE;
        image_slot_publish(n->o.slot, n->image);
        quorum_update(n);
    } else {
        e = begin_now(n, fresh, why);
    }
    if (e != ERR_NONE && n->raft_is_open) {
        /* libraft frees itself on the loop. */
        n->state = STATE_CLOSING;
        begin_close(n);
        return e;
    }
    if (e != ERR_NONE) {
        node_free(n);
        return e;
    }
    n->o.secret = n->o.listen_host = NULL; /* borrowed only until here */
    if (n->transport != NULL)
        loop_timer_set(&n->sweep, node_now_ns(n) + SWEEP_NS);
    *out = n;
    return ERR_NONE;
}

/* ---- closing ---- */

static void on_free(struct message *m)
{
    struct raft_node *n = CONTAINER_OF(m, struct raft_node, freeing);
    struct message *closed = n->closed;
    struct loop *loop = n->closed_loop;

    if (n->pump_posted || n->join_asked) { /* they come before the next round of this one */
        loop_post(n->o.loop, m);
        return;
    }
    node_free(n);
    if (closed != NULL)
        loop_post(loop, closed);
}

/* After every message that was posted to the loop before: the pump may be among them. */
static void post_free(struct raft_node *n)
{
    proposals_refuse(n, ERR_CLOSED);
    n->freeing.run = on_free;
    loop_post(n->o.loop, &n->freeing);
}

static void on_raft_closed(struct raft *r)
{
    struct raft_node *n = r->data;

    n->flying = n->barrier_flying = false;
    post_free(n);
}

static void on_abandoned(struct raft_io *io)
{
    struct raft_node *n = io->data;

    n->flying = n->barrier_flying = false;
    post_free(n);
}

static void begin_close(struct raft_node *n)
{
    if (n->close_begun)
        return;
    n->close_begun = true;
    loop_timer_stop(&n->sweep);
    node_sessions_deinit(n);
    quorum_deinit(n); /* nothing more is said or heard */
    if (!n->raft_is_open) {
        post_free(n);
    } else if (guard_has_failed(n->guard)) {
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
    n->close_deadline_ns = node_now_ns(n) + HANDOVER_MS * 1000000ull;
    if (failed)
        n->flying = n->barrier_flying = false;
    proposals_refuse(n, failed ? ERR_IO : ERR_CLOSED);
    loop_timer_set(&n->sweep, node_now_ns(n) + SWEEP_NS);
    node_post_pump(n);
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
    metrics_add(m, METRIC_COUNTER, "fluxmq_raft_forwarded_total", "",
                "Metadata commands given to another node that leads", &n->forwarded);
    metrics_add(m, METRIC_COUNTER, "fluxmq_raft_retried_total", "",
                "Metadata commands given to another leader, or again", &n->retried);
    metrics_add(m, METRIC_COUNTER, "fluxmq_raft_leader_changes_total", "",
                "Leaders of the quorum that this process has seen", &n->elections);
    metrics_add(m, METRIC_COUNTER, "fluxmq_raft_dropped_messages_total", "",
                "Raft messages that did not come from or go to the voter that they name",
                &n->dropped_messages);
    node_sessions_register_metrics(n, m);
    if (n->transport != NULL)
        transport_register_metrics(n->transport, m);
}
