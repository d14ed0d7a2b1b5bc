#include "broker/membership.h"

#include <stdlib.h>

#include "broker/adopt.h"
#include "broker/features.h"
#include "broker/node.h"

#define PROPOSAL_TIMEOUT_NS      30000000000ull
#define RETRY_NS                 500000000u
#define LEAVE_NS                 5000000000ull
#define LEADERLESS_NS            1000000000u /* nobody can carry out a shutdown */
#define LINGER_NS                200000000u
#define LEAVE_TICK_NS            50000000u
#define PRODUCER_IDS_SKIPPED_MAX 1000000 /* in one command */

/* Controlled shutdown: asked, carried out, followed, told. */
struct leaving {
    bool begun, over;
    int64_t led; /* partitions, when it began */
    uint64_t deadline_ns, leader_seen_ns;
    struct loop_timer timer;
    struct message followed;
};

struct membership {
    struct node *node;
    struct membership_options options;
    struct uuid incarnation;
    _Atomic int64_t broker_epoch;
    /* on the meta thread */
    enum { STEP_REGISTERING, STEP_UNFENCING, STEP_ADOPTING, STEP_MEMBER } step;
    _Atomic bool serving;
    struct leaving leaving;
    bool ended; /* the node stops: what comes in late begins nothing */
    struct loop_timer retry;
    struct loop_timer report_again; /* some report of an offline replica was lost */
    struct message replicas_followed;
    struct adoption adoption; /* --adopt-log-dirs: what is to be told to the cluster */
    size_t adopted;           /* topics of it that have been */
    bool adoption_read;
};

/* A command of the node's own: made, proposed, looked at, freed. */
struct own_proposal {
    struct proposal proposal;
    struct membership *membership;
    struct arena arena;
    struct uuid topic_id; /* of an ISR proposal */
    int32_t partition, partition_epoch;
    MetaCommand *unpacked; /* a command that does not lie in the arena */
};

/* ---- one command ---- */

static struct own_proposal *own_new(struct membership *m, uint32_t lane,
                                    void (*done)(struct proposal *p))
{
    struct own_proposal *o = xcalloc(1, sizeof *o);

    o->membership = m;
    arena_init(&o->arena, 16 * 1024 * 1024);
    o->proposal.command = arena_alloc(&o->arena, sizeof *o->proposal.command);
    CHECK(o->proposal.command != NULL);
    meta_command__init(o->proposal.command);
    o->proposal.lane = lane;
    o->proposal.deadline_ns = env_now_ns(m->node->env) + PROPOSAL_TIMEOUT_NS;
    o->proposal.loop = m->node->meta_loop;
    o->proposal.done = done;
    return o;
}

static void own_free(struct own_proposal *o)
{
    proposal_release(&o->proposal);
    arena_deinit(&o->arena);
    free(o);
}

static void *own_array(struct own_proposal *o, size_t count, size_t size)
{
    void *p = arena_array(&o->arena, MAX(count, (size_t)1), size);

    CHECK(p != NULL);
    return p;
}

static ProtobufCBinaryData binary_of(const struct uuid *u)
{
    return (ProtobufCBinaryData){.len = sizeof u->b, .data = (uint8_t *)(uintptr_t)u->b};
}

/* ---- joining: what comes next ---- */

static void failed(struct membership *m, enum err e, const char *why)
{
    m->options.on_failed(m->options.ctx, e, why);
}

static void try_again(struct membership *m)
{
    if (!m->ended)
        loop_timer_set(&m->retry, env_now_ns(m->node->env) + RETRY_NS);
}

/* The next step begins when this node's replicas have followed what is applied by now. */
static void wait_for_replicas(struct membership *m)
{
    node_after_transitions(m->node, m->node->meta_loop, &m->replicas_followed);
}

/* ---- registering and unfencing ---- */

static void fill_endpoints(struct membership *m, struct own_proposal *o, MetaRegisterBroker *r)
{
    const struct config *c = m->node->config;

    r->endpoints = own_array(o, (size_t)c->listener_count, sizeof *r->endpoints);
    for (int i = 0; i < c->listener_count; i++) {
        const struct listener_config *l = &c->listeners[i];
        MetaEndpoint *e;

        if (l->controller)
            continue;
        e = own_array(o, 1, sizeof *e);
        meta_endpoint__init(e);
        e->listener = (char *)(uintptr_t)l->name;
        e->host = (char *)(uintptr_t)l->advertised_host;
        e->port = l->advertised_port != 0 ? l->advertised_port : node_listener_port(m->node, i);
        e->security_protocol = l->security_protocol;
        r->endpoints[r->n_endpoints++] = e;
    }
}

static void fill_features(struct own_proposal *o, MetaRegisterBroker *r)
{
    r->features = own_array(o, (size_t)SUPPORTED_FEATURE_COUNT, sizeof *r->features);
    for (int32_t i = 0; i < SUPPORTED_FEATURE_COUNT; i++) {
        MetaFeatureRange *f = own_array(o, 1, sizeof *f);

        meta_feature_range__init(f);
        f->name = (char *)(uintptr_t)supported_features[i].name;
        f->min = supported_features[i].min;
        f->max = supported_features[i].max;
        r->features[r->n_features++] = f;
    }
}

static void fill_directories(struct membership *m, struct own_proposal *o, MetaRegisterBroker *r)
{
    int count = log_manager_dir_count(m->node->logs);

    r->n_directories = (size_t)count;
    r->directories = own_array(o, (size_t)count, sizeof *r->directories);
    for (int i = 0; i < count; i++) {
        struct log_dir_view v;
        struct uuid *id = own_array(o, 1, sizeof *id);

        log_manager_dir_view(m->node->logs, i, &v);
        *id = v.directory_id;
        r->directories[i] = binary_of(id);
    }
}

static void on_registered(struct proposal *p)
{
    struct own_proposal *o = CONTAINER_OF(p, struct own_proposal, proposal);
    struct membership *m = o->membership;
    enum err e = p->err != ERR_NONE ? p->err : (enum err)p->outcome->error;

    if (e == ERR_NONE) {
        atomic_store(&m->broker_epoch, p->outcome->value);
        m->step = STEP_UNFENCING;
        wait_for_replicas(m);
    } else {
        log_warn(m->node->logger, "node", "registration refused: %s%s%s; trying again", err_name(e),
                 p->outcome != NULL && p->outcome->message[0] != '\0' ? ": " : "",
                 p->outcome != NULL ? p->outcome->message : "");
        try_again(m);
    }
    own_free(o);
}

static void register_broker(struct membership *m)
{
    struct own_proposal *o = own_new(m, NODE_LANE_SELF, on_registered);
    MetaRegisterBroker *r = own_array(o, 1, sizeof *r);

    meta_register_broker__init(r);
    r->node = m->node->config->node_id;
    r->incarnation = binary_of(&m->incarnation);
    r->metadata_directory = binary_of(log_manager_metadata_directory_id(m->node->logs));
    if (m->node->config->rack != NULL)
        r->rack = (char *)(uintptr_t)m->node->config->rack;
    fill_endpoints(m, o, r);
    fill_directories(m, o, r);
    fill_features(o, r);
    o->proposal.command->body_case = META_COMMAND__BODY_REGISTER_BROKER;
    o->proposal.command->register_broker = r;
    raft_node_propose(m->node->raft, &o->proposal);
}

static void on_unfenced(struct proposal *p)
{
    struct own_proposal *o = CONTAINER_OF(p, struct own_proposal, proposal);
    struct membership *m = o->membership;
    enum err e = p->err != ERR_NONE ? p->err : (enum err)p->outcome->error;

    if (e == ERR_NONE) {
        m->step = STEP_ADOPTING;
        atomic_store(&m->serving, true); /* a fence from now on is the controller's to lift */
        raft_node_beat(m->node->raft);
        wait_for_replicas(m);
    } else {
        log_warn(m->node->logger, "node", "unfencing refused: %s; registering again", err_name(e));
        m->step = STEP_REGISTERING;
        try_again(m);
    }
    own_free(o);
}

static void unfence_broker(struct membership *m)
{
    struct own_proposal *o = own_new(m, NODE_LANE_SELF, on_unfenced);
    MetaUnfenceBroker *u = own_array(o, 1, sizeof *u);

    meta_unfence_broker__init(u);
    u->node = m->node->config->node_id;
    u->broker_epoch = membership_broker_epoch(m);
    o->proposal.command->body_case = META_COMMAND__BODY_UNFENCE_BROKER;
    o->proposal.command->unfence_broker = u;
    raft_node_propose(m->node->raft, &o->proposal);
}

/* ---- what happens to its replicas ---- */

/* Told or refused is settled; lost it must not be, or the image would take the replica for whole
 * until the next start (H8). */
static void on_offline_reported(struct proposal *p)
{
    struct own_proposal *o = CONTAINER_OF(p, struct own_proposal, proposal);
    struct membership *m = o->membership;

    if (p->err != ERR_NONE && !m->ended && !loop_timer_is_set(&m->report_again))
        loop_timer_set(&m->report_again, env_now_ns(m->node->env) + RETRY_NS);
    own_free(o);
}

static void propose_offline(struct membership *m, const struct log_identity *id, const char *why)
{
    struct own_proposal *o = own_new(m, NODE_LANE_REPLICAS, on_offline_reported);
    MetaReplicaOffline *r = own_array(o, 1, sizeof *r);
    struct uuid *topic_id = own_array(o, 1, sizeof *topic_id);

    meta_replica_offline__init(r);
    r->node = m->node->config->node_id;
    r->broker_epoch = membership_broker_epoch(m);
    r->cause = (char *)(uintptr_t)arena_printf(&o->arena, "%s", why).ptr;
    r->n_replicas = 1;
    r->replicas = own_array(o, 1, sizeof *r->replicas);
    r->replicas[0] = own_array(o, 1, sizeof **r->replicas);
    meta_partition_ref__init(r->replicas[0]);
    *topic_id = id->topic_id;
    r->replicas[0]->topic_id = binary_of(topic_id);
    r->replicas[0]->partition = id->partition;
    o->proposal.command->body_case = META_COMMAND__BODY_REPLICA_OFFLINE;
    o->proposal.command->replica_offline = r;
    raft_node_propose(m->node->raft, &o->proposal);
}

void membership_report_offline(void *ctx, const struct log_identity *id, const char *why)
{
    struct membership *m = ctx;

    log_error(m->node->logger, "node", "%s-%d is offline: %s", id->topic, id->partition, why);
    if (membership_broker_epoch(m) >= 0) /* else found at start: the image is told later */
        propose_offline(m, id, why);
}

/* Refused, or unknown: then the proposed members stay in the maximal ISR until a newer partition
 * epoch is seen [H4]. What was accepted comes back through the image. */
static void on_isr_outcome(struct proposal *p)
{
    struct own_proposal *o = CONTAINER_OF(p, struct own_proposal, proposal);
    bool refused =
        p->err == ERR_NONE && (p->outcome->error != ERR_NONE || p->outcome->n_items != 1 ||
                               p->outcome->items[0]->error != ERR_NONE);
    struct replica *r =
        replica_manager_find(o->membership->node->replicas, &o->topic_id, o->partition);

    if (r != NULL && (p->err != ERR_NONE || refused))
        replica_isr_result(r, o->partition_epoch, refused);
    replica_unref(r);
    own_free(o);
}

void membership_propose_isr(void *ctx, const struct log_identity *id, const struct effect *e)
{
    struct membership *m = ctx;
    struct own_proposal *o = own_new(m, NODE_LANE_REPLICAS, on_isr_outcome);
    MetaPartitionChange *c = own_array(o, 1, sizeof *c);
    MetaPartitionChange__Item *item = own_array(o, 1, sizeof *item);

    meta_partition_change__init(c);
    meta_partition_change__item__init(item);
    o->topic_id = id->topic_id;
    o->partition = id->partition;
    o->partition_epoch = e->partition_epoch;
    c->node = m->node->config->node_id;
    c->broker_epoch = membership_broker_epoch(m);
    c->n_items = 1;
    c->items = own_array(o, 1, sizeof *c->items);
    c->items[0] = item;
    item->topic_id = binary_of(&o->topic_id);
    item->partition = id->partition;
    item->expected_leader = m->node->config->node_id;
    item->expected_leader_epoch = e->epoch;
    item->expected_partition_epoch = e->partition_epoch;
    item->has_isr = true;
    item->n_isr = (size_t)e->isr_count;
    item->isr = own_array(o, item->n_isr, sizeof *item->isr);
    for (int i = 0; i < e->isr_count; i++) {
        item->isr[i] = own_array(o, 1, sizeof **item->isr);
        meta_broker_epoch__init(item->isr[i]);
        item->isr[i]->node = e->isr[i];
        item->isr[i]->broker_epoch = e->isr_broker_epochs[i];
    }
    item->has_leader_recovery = e->recovered;
    item->leader_recovery = LEADER_RECOVERED;
    o->proposal.command->body_case = META_COMMAND__BODY_PARTITION_CHANGE;
    o->proposal.command->partition_change = c;
    raft_node_propose(m->node->raft, &o->proposal);
}

/* A registration takes every replica for whole; those that recovery found broken are reported
 * before this broker may lead anything. */
static void report_if_offline(void *ctx, struct replica *r)
{
    struct replica_view v;

    replica_look(r, &v);
    if (v.offline_reason != NULL)
        membership_report_offline(ctx, log_identity(replica_log(r)), v.offline_reason);
}

struct untold {
    struct membership *membership;
    const struct image *image;
};

static bool is_told(const struct untold *u, const struct log_identity *id)
{
    const struct topic_image *t = image_topic_by_id(u->image, &id->topic_id);
    bool told = false;

    if (t == NULL || id->partition >= t->partition_count)
        return true; /* it is being deleted */

    const struct partition_image *p = topic_partition(t, id->partition);

    for (int i = 0; i < p->offline_count; i++)
        told = told || p->offline[i] == u->membership->node->config->node_id;
    return told;
}

static void propose_if_untold(void *ctx, struct replica *r)
{
    struct untold *u = ctx;
    const struct log_identity *id = log_identity(replica_log(r));
    struct replica_view v;

    replica_look(r, &v);
    if (v.offline_reason != NULL && !is_told(u, id))
        propose_offline(u->membership, id, v.offline_reason);
}

static void on_report_again(struct loop_timer *t)
{
    struct membership *m = CONTAINER_OF(t, struct membership, report_again);
    struct image *image = image_slot_acquire(&m->node->images);
    struct untold u = {.membership = m, .image = image};

    replica_manager_each(m->node->replicas, propose_if_untold, &u);
    image_unref(image);
}

/* ---- --adopt-log-dirs: the topics of a Kafka directory become the cluster's ---- */

static bool outcome_refused(const struct proposal *p, const char **name, const char **why)
{
    *name = "";
    *why = p->outcome != NULL ? p->outcome->message : "";
    if (p->err != ERR_NONE || p->outcome->error != ERR_NONE)
        return true;
    for (size_t i = 0; i < p->outcome->n_items; i++) {
        *name = p->outcome->items[i]->name;
        *why = p->outcome->items[i]->message;
        if (p->outcome->items[i]->error != ERR_NONE)
            return true;
    }
    return false;
}

static void on_adopted(struct proposal *p)
{
    struct own_proposal *o = CONTAINER_OF(p, struct own_proposal, proposal);
    struct membership *m = o->membership;
    const char *name, *why;
    struct errmsg text = {""};

    if (outcome_refused(p, &name, &why)) {
        errmsg_set(&text, "--adopt-log-dirs: %s cannot be adopted: %s (%s)", name, why,
                   err_name(p->err));
        failed(m, ERR_IO, text.text);
    } else {
        wait_for_replicas(m);
    }
    if (o->unpacked != NULL)
        meta_command__free_unpacked(o->unpacked, NULL);
    own_free(o);
}

static enum err read_adoption(struct membership *m, struct errmsg *why)
{
    const struct config *c = m->node->config;
    enum err e = adoption_collect(m->node->logs, &m->adoption, why);

    if (e != ERR_NONE)
        return e;
    m->adoption_read = true;
    e = adoption_read_configs(&m->adoption, m->node->env, c->log_dirs, c->log_dir_count, why);
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static void greatest_producer_id(void *ctx, struct log *l)
{
    int64_t *greatest = ctx;
    struct producer_view *v = NULL;
    size_t count = log_producers(l, &v);

    for (size_t i = 0; i < count; i++)
        *greatest = MAX(*greatest, v[i].producer_id);
    free(v);
}

/* Producer ids that the adopted logs know must never be given out again: a new producer would
 * find the sequences of an old one under its id. Proposes to take a block of them out; false when
 * none is left. */
static bool skip_producer_ids(struct membership *m, const struct image *image)
{
    int64_t greatest = -1, next = image_next_producer_id(image);

    log_manager_each(m->node->logs, greatest_producer_id, &greatest);
    if (greatest < next)
        return false;

    struct own_proposal *o = own_new(m, NODE_LANE_SELF, on_adopted);
    MetaAllocateProducerIds *a = own_array(o, 1, sizeof *a);

    meta_allocate_producer_ids__init(a);
    a->node = m->node->config->node_id;
    a->broker_epoch = membership_broker_epoch(m);
    a->count = (int32_t)MIN(greatest - next + 1, (int64_t)PRODUCER_IDS_SKIPPED_MAX);
    o->proposal.command->body_case = META_COMMAND__BODY_ALLOCATE_PRODUCER_IDS;
    o->proposal.command->allocate_producer_ids = a;
    raft_node_propose(m->node->raft, &o->proposal);
    return true;
}

/* Proposes the next topics; false when all have been adopted. */
static bool adopt_some(struct membership *m)
{
    struct image *image = image_slot_acquire(&m->node->images);
    MetaCommand *command = NULL;
    struct errmsg why = {""};
    enum err e = m->adoption_read ? ERR_NONE : read_adoption(m, &why);

    if (e == ERR_NONE)
        e = adopt_topics(&m->adoption, image, m->node->config->node_id, &m->adopted, &command,
                         &why);

    bool skipping = e == ERR_NONE && command == NULL && skip_producer_ids(m, image);

    image_unref(image);
    if (skipping)
        return true;
    if (e != ERR_NONE) {
        failed(m, e, why.text);
        return true;
    }
    if (command == NULL) {
        log_info(m->node->logger, "node", "--adopt-log-dirs: %zu topics adopted",
                 m->adoption.count);
        adoption_deinit(&m->adoption);
        return false;
    }

    struct own_proposal *o = own_new(m, NODE_LANE_SELF, on_adopted);

    o->proposal.command = o->unpacked = command;
    raft_node_propose(m->node->raft, &o->proposal);
    return true;
}

/* ---- joining: one step after the other, on the meta thread ---- */

static void step(struct membership *m)
{
    if (m->ended)
        return;
    switch (m->step) {
    case STEP_REGISTERING:
        register_broker(m);
        return;
    case STEP_UNFENCING:
        replica_manager_each(m->node->replicas, report_if_offline, m);
        unfence_broker(m);
        return;
    case STEP_ADOPTING:
        if (m->node->config->adopt_log_dirs && adopt_some(m))
            return;
        m->step = STEP_MEMBER;
        m->options.on_joined(m->options.ctx);
        return;
    case STEP_MEMBER:
        return;
    }
}

static void on_retry(struct loop_timer *t)
{
    step(CONTAINER_OF(t, struct membership, retry));
}

static void on_replicas_followed(struct message *msg)
{
    step(CONTAINER_OF(msg, struct membership, replicas_followed));
}

/* ---- leaving ---- */

static int64_t count_led(const struct membership *m)
{
    struct image *image = image_slot_acquire(&m->node->images);
    int64_t count = 0;

    for (const struct topic_image *t = image_topic_next(image, STR_NULL); t != NULL;
         t = image_topic_next(image, t->name)) {
        for (int32_t p = 0; p < t->partition_count; p++)
            count += topic_partition(t, p)->leader == m->node->config->node_id;
    }
    image_unref(image);
    return count;
}

static void leave_over(struct membership *m, const char *how)
{
    struct leaving *l = &m->leaving;

    if (l->over)
        return;
    l->over = true;
    loop_timer_stop(&l->timer);
    if (how != NULL)
        log_info(m->node->logger, "node", "controlled shutdown: %s", how);
    m->options.on_left(m->options.ctx);
}

static void on_leave_tick(struct loop_timer *t)
{
    struct membership *m = CONTAINER_OF(t, struct membership, leaving.timer);
    uint64_t now_ns = env_now_ns(m->node->env);
    struct quorum_view quorum;

    raft_node_quorum(m->node->raft, &quorum);
    if (quorum.leader_id >= 0)
        m->leaving.leader_seen_ns = now_ns;
    if (now_ns >= m->leaving.deadline_ns)
        leave_over(m, "its time is over");
    else if (now_ns - m->leaving.leader_seen_ns >= LEADERLESS_NS)
        leave_over(m, "nobody leads the quorum");
    else
        loop_timer_set(t, now_ns + LEAVE_TICK_NS);
}

/* This node's replicas lead nothing any more, and whoever asks is told so. */
static void on_leave_followed(struct message *msg)
{
    struct membership *m = CONTAINER_OF(msg, struct membership, leaving.followed);
    struct leaving *l = &m->leaving;
    struct image *image;
    bool moved = false;

    if (l->over)
        return;
    image = image_slot_acquire(&m->node->images);
    for (const struct broker_image *b = image_broker_next(image, -1); b != NULL;
         b = image_broker_next(image, b->id))
        moved = moved || (b->id != m->node->config->node_id && !b->fenced);
    image_unref(image);
    if (l->led == 0 || !moved) {
        leave_over(m, l->led == 0 ? "it led nothing" : "nobody could take over");
        return;
    }
    log_info(m->node->logger, "node", "controlled shutdown: %lld leaders given up",
             (long long)l->led);
    l->deadline_ns = env_now_ns(m->node->env) + LINGER_NS;
}

static void on_leave_outcome(struct proposal *p)
{
    struct own_proposal *o = CONTAINER_OF(p, struct own_proposal, proposal);
    struct membership *m = o->membership;
    enum err e = p->err != ERR_NONE ? p->err : (enum err)p->outcome->error;

    own_free(o);
    if (m->leaving.over)
        return;
    if (e != ERR_NONE)
        leave_over(m, err_name(e));
    else
        node_after_transitions(m->node, m->node->meta_loop, &m->leaving.followed);
}

void membership_leave(struct membership *m)
{
    struct leaving *l = &m->leaving;
    uint64_t now_ns = env_now_ns(m->node->env);
    struct own_proposal *o;
    MetaControlledShutdown *c;

    CHECK(!l->begun);
    l->begun = true;
    if (m->node->config->voter_count <= 1 || m->step != STEP_MEMBER) {
        leave_over(m, NULL);
        return;
    }
    l->led = count_led(m);
    l->leader_seen_ns = now_ns;
    l->deadline_ns = now_ns + LEAVE_NS;
    loop_timer_set(&l->timer, now_ns + LEAVE_TICK_NS);
    o = own_new(m, NODE_LANE_SELF, on_leave_outcome);
    o->proposal.deadline_ns = l->deadline_ns;
    c = own_array(o, 1, sizeof *c);
    meta_controlled_shutdown__init(c);
    c->node = m->node->config->node_id;
    c->broker_epoch = membership_broker_epoch(m);
    o->proposal.command->body_case = META_COMMAND__BODY_CONTROLLED_SHUTDOWN;
    o->proposal.command->controlled_shutdown = c;
    raft_node_propose(m->node->raft, &o->proposal);
}

/* ---- its life ---- */

struct membership *membership_new(struct node *n, const struct membership_options *o)
{
    struct membership *m = xcalloc(1, sizeof *m);

    m->node = n;
    m->options = *o;
    atomic_store(&m->broker_epoch, -1);
    env_random(n->env, m->incarnation.b, sizeof m->incarnation.b);
    m->replicas_followed.run = on_replicas_followed;
    m->leaving.followed.run = on_leave_followed;
    return m;
}

void membership_free(struct membership *m)
{
    free(m);
}

void membership_attach(struct membership *m, struct loop *meta_loop)
{
    loop_timer_init(&m->retry, meta_loop, on_retry);
    loop_timer_init(&m->report_again, meta_loop, on_report_again);
    loop_timer_init(&m->leaving.timer, meta_loop, on_leave_tick);
}

void membership_join(struct membership *m)
{
    m->step = STEP_REGISTERING;
    step(m);
}

void membership_end(struct membership *m)
{
    m->ended = true;
    loop_timer_stop(&m->retry);
    loop_timer_stop(&m->report_again);
}

const struct uuid *membership_incarnation(const struct membership *m)
{
    return &m->incarnation;
}

bool membership_is_serving(const struct membership *m)
{
    return atomic_load(&m->serving);
}

int64_t membership_broker_epoch(const struct membership *m)
{
    return atomic_load(&m->broker_epoch);
}
