#include "broker/node.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/adopt.h"
#include "broker/conn.h"
#include "broker/features.h"
#include "broker/transitions.h"
#include "protocol/api.h"

#define PROPOSAL_TIMEOUT_NS      30000000000ull
#define RETRY_NS                 500000000u
#define REPLICA_TICK_NS          1000000000u
#define PRODUCER_IDS_SKIPPED_MAX 1000000 /* in one command */
#define RAFT_BALLAST_BYTES       (16ll * 1024 * 1024)

/* A command of the node's own: made, proposed, looked at, freed. */
struct own_proposal {
    struct proposal proposal;
    struct node *node;
    struct arena arena;
    struct uuid topic_id; /* of an ISR proposal */
    int32_t partition, partition_epoch;
    MetaCommand *unpacked; /* a command that does not lie in the arena */
};

struct acceptor;

struct node_private {
    struct node_options options;
    struct node *node;
    struct transitions *transitions;
    struct uuid incarnation;
    /* start, on the meta thread */
    struct message raft_ready, logs_ready, transitions_done, listening, stop;
    bool raft_is_ready, logs_are_ready, stopping;
    enum { STEP_LOADING, STEP_REGISTERING, STEP_UNFENCING, STEP_ADOPTING, STEP_READY } step;
    struct adoption adoption; /* --adopt-log-dirs: what is to be told to the cluster */
    size_t adopted;           /* topics of it that have been */
    bool adoption_read;
    struct loop_timer retry, tick;
    _Atomic int64_t broker_epoch;
    _Atomic bool ready;
    /* listeners: on worker 0 */
    struct listener *listeners[CONFIG_LISTENERS_MAX];
    struct acceptor *acceptors[CONFIG_LISTENERS_MAX];
    _Atomic int ports[CONFIG_LISTENERS_MAX];
    struct message open_listeners, accept_listeners, close_listeners;
    struct errmsg listen_error;
    /* stop */
    struct message raft_closed, workers_quiet, transitions_over;
    _Atomic int quiet_workers;
    struct job close_logs;
};

/* ---- accepting: on worker 0, then to the worker with the fewest ---- */

struct handover {
    struct message message;
    struct worker *worker;
    struct stream *stream;
    const struct listener_config *listener;
};

static void on_handover(struct message *m)
{
    struct handover *h = CONTAINER_OF(m, struct handover, message);

    if (h->worker->closing) {
        connection_limits_close(&h->worker->node->connections, stream_peer_host(h->stream));
        atomic_fetch_sub(&h->worker->conn_count, 1);
        stream_close(h->stream);
    } else {
        conn_open(h->worker, h->stream, h->listener);
    }
    free(h);
}

struct acceptor {
    struct node *node;
    const struct listener_config *listener;
};

static void on_accept(void *ctx, struct stream *s)
{
    const struct acceptor *a = ctx;
    struct node *n = a->node;
    struct worker *w = n->workers[0];

    const struct image *image = worker_image(w);

    int64_t most = config_number(n->config, image, "max.connections");

    if (n->private->options.descriptors > 0)
        most = MIN(most, n->private->options.descriptors / 4 * 3);
    if (!connection_limits_open(&n->connections, stream_peer_host(s), most,
                                config_number(n->config, image, "max.connections.per.ip"))) {
        counter_add(&w->metrics.connections_rejected, 1);
        if (worker_first_offence(w, stream_peer_host(s), "max.connections"))
            log_warn(n->logger, "conn",
                     "%s: closing: max.connections, max.connections.per.ip or what the descriptor "
                     "limit allows is reached (told once for this peer)",
                     stream_peer(s));
        stream_close(s);
        return;
    }
    for (int i = 1; i < n->worker_count; i++) /* ties go to the lowest index */
        if (atomic_load(&n->workers[i]->conn_count) < atomic_load(&w->conn_count))
            w = n->workers[i];
    atomic_fetch_add(&w->conn_count, 1);

    struct handover *h = xcalloc(1, sizeof *h);

    *h = (struct handover){.worker = w, .stream = s, .listener = a->listener};
    h->message.run = on_handover;
    loop_post(w->loop, &h->message);
}

static void on_open_listeners(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, open_listeners);
    struct node *n = p->node;

    for (int i = 0; i < n->config->listener_count; i++) {
        const struct listener_config *c = &n->config->listeners[i];
        struct acceptor *a;

        if (c->controller)
            continue; /* the peer protocol comes with the cluster; nobody to talk to alone */
        a = xcalloc(1, sizeof *a);
        *a = (struct acceptor){.node = n, .listener = c};

        struct listen_options o = {.host = c->host,
                                   .port = c->port,
                                   .backlog = n->config->listen_backlog,
                                   .on_accept = on_accept,
                                   .ctx = a};

        if (env_listen(n->workers[0]->loop, &o, &p->listeners[i], &p->listen_error) != ERR_NONE) {
            free(a);
            break;
        }
        p->acceptors[i] = a;
        listener_pause(p->listeners[i], true);
        atomic_store(&p->ports[i], listener_port(p->listeners[i]));
    }
    loop_post(n->meta_loop, &p->listening);
}

static void on_accept_listeners(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, accept_listeners);

    for (int i = 0; i < CONFIG_LISTENERS_MAX; i++)
        if (p->listeners[i] != NULL)
            listener_pause(p->listeners[i], false);
}

static void on_close_listeners(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, close_listeners);

    for (int i = 0; i < CONFIG_LISTENERS_MAX; i++) {
        if (p->listeners[i] != NULL)
            listener_close(p->listeners[i]);
        p->listeners[i] = NULL;
    }
}

int node_listener_port(const struct node *n, int i)
{
    return atomic_load(&n->private->ports[i]);
}

/* ---- the node's own commands ---- */

static struct own_proposal *own_new(struct node *n, uint32_t lane, void (*done)(struct proposal *p))
{
    struct own_proposal *o = xcalloc(1, sizeof *o);

    o->node = n;
    arena_init(&o->arena, 16 * 1024 * 1024);
    o->proposal.command = arena_alloc(&o->arena, sizeof *o->proposal.command);
    CHECK(o->proposal.command != NULL);
    meta_command__init(o->proposal.command);
    o->proposal.lane = lane;
    o->proposal.deadline_ns = env_now_ns(n->env) + PROPOSAL_TIMEOUT_NS;
    o->proposal.loop = n->meta_loop;
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

static void fill_endpoints(struct node *n, struct own_proposal *o, MetaRegisterBroker *r)
{
    const struct config *c = n->config;

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
        e->port = l->advertised_port != 0 ? l->advertised_port : node_listener_port(n, i);
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

static void fill_directories(struct node *n, struct own_proposal *o, MetaRegisterBroker *r)
{
    int count = log_manager_dir_count(n->logs);

    r->n_directories = (size_t)count;
    r->directories = own_array(o, (size_t)count, sizeof *r->directories);
    for (int i = 0; i < count; i++) {
        struct log_dir_view v;
        struct uuid *id = own_array(o, 1, sizeof *id);

        log_manager_dir_view(n->logs, i, &v);
        *id = v.directory_id;
        r->directories[i] = binary_of(id);
    }
}

static void start_failed(struct node *n, enum err e, const char *why)
{
    n->private->options.on_failed(n->private->options.ctx, e, why);
}

static void step(struct node *n);

static void on_registered(struct proposal *p)
{
    struct own_proposal *o = CONTAINER_OF(p, struct own_proposal, proposal);
    struct node *n = o->node;
    enum err e = p->err != ERR_NONE ? p->err : (enum err)p->outcome->error;

    if (e == ERR_NONE) {
        atomic_store(&n->private->broker_epoch, p->outcome->value);
        n->private->step = STEP_UNFENCING;
        node_after_transitions(n, n->meta_loop, &n->private->transitions_done);
    } else {
        log_warn(n->logger, "node", "registration refused: %s%s%s; trying again", err_name(e),
                 p->outcome != NULL && p->outcome->message[0] != '\0' ? ": " : "",
                 p->outcome != NULL ? p->outcome->message : "");
        loop_timer_set(&n->private->retry, env_now_ns(n->env) + RETRY_NS);
    }
    own_free(o);
}

static void register_broker(struct node *n)
{
    struct own_proposal *o = own_new(n, NODE_LANE_SELF, on_registered);
    MetaRegisterBroker *r = own_array(o, 1, sizeof *r);
    struct log_dir_view first;

    log_manager_dir_view(n->logs, 0, &first);
    meta_register_broker__init(r);
    r->node = n->config->node_id;
    r->incarnation = binary_of(&n->private->incarnation);

    struct uuid *directory = own_array(o, 1, sizeof *directory);

    *directory = first.directory_id;
    r->metadata_directory = binary_of(directory);
    if (n->config->rack != NULL)
        r->rack = (char *)(uintptr_t)n->config->rack;
    fill_endpoints(n, o, r);
    fill_directories(n, o, r);
    fill_features(o, r);
    o->proposal.command->body_case = META_COMMAND__BODY_REGISTER_BROKER;
    o->proposal.command->register_broker = r;
    raft_node_propose(n->raft, &o->proposal);
}

static void on_unfenced(struct proposal *p)
{
    struct own_proposal *o = CONTAINER_OF(p, struct own_proposal, proposal);
    struct node *n = o->node;
    enum err e = p->err != ERR_NONE ? p->err : (enum err)p->outcome->error;

    if (e == ERR_NONE) {
        n->private->step = STEP_ADOPTING;
        node_after_transitions(n, n->meta_loop, &n->private->transitions_done);
    } else {
        log_warn(n->logger, "node", "unfencing refused: %s; registering again", err_name(e));
        n->private->step = STEP_REGISTERING;
        loop_timer_set(&n->private->retry, env_now_ns(n->env) + RETRY_NS);
    }
    own_free(o);
}

static void unfence_broker(struct node *n)
{
    struct own_proposal *o = own_new(n, NODE_LANE_SELF, on_unfenced);
    MetaUnfenceBroker *u = own_array(o, 1, sizeof *u);

    meta_unfence_broker__init(u);
    u->node = n->config->node_id;
    u->broker_epoch = node_broker_epoch(n);
    o->proposal.command->body_case = META_COMMAND__BODY_UNFENCE_BROKER;
    o->proposal.command->unfence_broker = u;
    raft_node_propose(n->raft, &o->proposal);
}

static void on_own_done(struct proposal *p)
{
    own_free(CONTAINER_OF(p, struct own_proposal, proposal));
}

/* Any thread. */
static void propose_offline(void *ctx, const struct log_identity *id, const char *why)
{
    struct node *n = ctx;
    struct own_proposal *o = own_new(n, NODE_LANE_REPLICAS, on_own_done);
    MetaReplicaOffline *r = own_array(o, 1, sizeof *r);
    struct uuid *topic_id = own_array(o, 1, sizeof *topic_id);

    log_error(n->logger, "node", "%s-%d is offline: %s", id->topic, id->partition, why);
    meta_replica_offline__init(r);
    r->node = n->config->node_id;
    r->broker_epoch = node_broker_epoch(n);
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
    if (n->raft == NULL || node_broker_epoch(n) < 0) { /* found at start: the image is told later */
        own_free(o);
        return;
    }
    raft_node_propose(n->raft, &o->proposal);
}

/* Refused, or unknown: then the proposed members stay in the maximal ISR until a newer partition
 * epoch is seen [H4]. What was accepted comes back through the image. */
static void on_isr_outcome(struct proposal *p)
{
    struct own_proposal *o = CONTAINER_OF(p, struct own_proposal, proposal);
    bool refused =
        p->err == ERR_NONE && (p->outcome->error != ERR_NONE || p->outcome->n_items != 1 ||
                               p->outcome->items[0]->error != ERR_NONE);
    struct replica *r = replica_manager_find(o->node->replicas, &o->topic_id, o->partition);

    if (r != NULL && (p->err != ERR_NONE || refused))
        replica_isr_result(r, o->partition_epoch, refused);
    replica_unref(r);
    own_free(o);
}

/* A registration takes every replica for whole; those that recovery found broken are reported
 * before this broker may lead anything. */
static void report_if_offline(void *ctx, struct replica *r)
{
    struct replica_view v;

    replica_look(r, &v);
    if (v.offline_reason != NULL)
        propose_offline(ctx, log_identity(replica_log(r)), v.offline_reason);
}

static void propose_isr(void *ctx, const struct log_identity *id, const struct effect *e)
{
    struct node *n = ctx;
    struct own_proposal *o = own_new(n, NODE_LANE_REPLICAS, on_isr_outcome);
    MetaPartitionChange *c = own_array(o, 1, sizeof *c);
    MetaPartitionChange__Item *item = own_array(o, 1, sizeof *item);

    meta_partition_change__init(c);
    meta_partition_change__item__init(item);
    o->topic_id = id->topic_id;
    o->partition = id->partition;
    o->partition_epoch = e->partition_epoch;
    c->node = n->config->node_id;
    c->broker_epoch = node_broker_epoch(n);
    c->n_items = 1;
    c->items = own_array(o, 1, sizeof *c->items);
    c->items[0] = item;
    item->topic_id = binary_of(&o->topic_id);
    item->partition = id->partition;
    item->expected_leader = n->config->node_id;
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
    raft_node_propose(n->raft, &o->proposal);
}

/* ---- start: one step after the other, on the meta thread ---- */

static bool keep_log(void *ctx, const struct log_identity *id)
{
    struct node *n = ctx;
    struct image *i = image_slot_acquire(&n->images);
    const struct topic_image *t = image_topic_by_id(i, &id->topic_id);
    const struct partition_image *p = t != NULL ? topic_partition(t, id->partition) : NULL;
    bool keep = false;

    for (int r = 0; p != NULL && r < p->replica_count; r++)
        keep = keep || p->replicas[r] == n->config->node_id;
    image_unref(i);
    return keep;
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
    struct node *n = o->node;
    const char *name, *why;
    struct errmsg text = {""};

    if (outcome_refused(p, &name, &why)) {
        errmsg_set(&text, "--adopt-log-dirs: %s cannot be adopted: %s (%s)", name, why,
                   err_name(p->err));
        start_failed(n, ERR_IO, text.text);
    } else {
        node_after_transitions(n, n->meta_loop, &n->private->transitions_done);
    }
    if (o->unpacked != NULL)
        meta_command__free_unpacked(o->unpacked, NULL);
    own_free(o);
}

static enum err read_adoption(struct node *n, struct errmsg *why)
{
    struct node_private *p = n->private;
    const struct config *c = n->config;
    enum err e = adoption_collect(n->logs, &p->adoption, why);

    if (e != ERR_NONE)
        return e;
    p->adoption_read = true;
    e = adoption_read_configs(&p->adoption, n->env, c->log_dirs, c->log_dir_count, why);
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static void greatest_producer_id(void *ctx, struct log *l)
{
    int64_t *greatest = ctx;
    struct producer_view *v = NULL;
    size_t n = log_producers(l, &v);

    for (size_t i = 0; i < n; i++)
        *greatest = MAX(*greatest, v[i].producer_id);
    free(v);
}

/* Producer ids that the adopted logs know must never be given out again: a new producer would
 * find the sequences of an old one under its id. Proposes to take a block of them out; false when
 * none is left. */
static bool skip_producer_ids(struct node *n, const struct image *image)
{
    int64_t greatest = -1, next = image_next_producer_id(image);

    log_manager_each(n->logs, greatest_producer_id, &greatest);
    if (greatest < next)
        return false;

    struct own_proposal *o = own_new(n, NODE_LANE_SELF, on_adopted);
    MetaAllocateProducerIds *a = own_array(o, 1, sizeof *a);

    meta_allocate_producer_ids__init(a);
    a->node = n->config->node_id;
    a->broker_epoch = node_broker_epoch(n);
    a->count = (int32_t)MIN(greatest - next + 1, (int64_t)PRODUCER_IDS_SKIPPED_MAX);
    o->proposal.command->body_case = META_COMMAND__BODY_ALLOCATE_PRODUCER_IDS;
    o->proposal.command->allocate_producer_ids = a;
    raft_node_propose(n->raft, &o->proposal);
    return true;
}

/* Proposes the next topics; false when all have been adopted. */
static bool adopt_some(struct node *n)
{
    struct node_private *p = n->private;
    struct image *image = image_slot_acquire(&n->images);
    MetaCommand *command = NULL;
    struct errmsg why = {""};
    enum err e = p->adoption_read ? ERR_NONE : read_adoption(n, &why);

    if (e == ERR_NONE)
        e = adopt_topics(&p->adoption, image, n->config->node_id, &p->adopted, &command, &why);

    bool skipping = e == ERR_NONE && command == NULL && skip_producer_ids(n, image);

    image_unref(image);
    if (skipping)
        return true;
    if (e != ERR_NONE) {
        start_failed(n, e, why.text);
        return true;
    }
    if (command == NULL) {
        log_info(n->logger, "node", "--adopt-log-dirs: %zu topics adopted", p->adoption.count);
        adoption_deinit(&p->adoption);
        return false;
    }

    struct own_proposal *o = own_new(n, NODE_LANE_SELF, on_adopted);

    o->proposal.command = o->unpacked = command;
    raft_node_propose(n->raft, &o->proposal);
    return true;
}

static void step(struct node *n)
{
    struct node_private *p = n->private;

    switch (p->step) {
    case STEP_LOADING:
        if (!p->raft_is_ready || !p->logs_are_ready)
            return;
        p->step = STEP_REGISTERING;
        if (!n->config->adopt_log_dirs) /* before a folder of the same name is made [H19] */
            log_manager_set_aside_strays(n->logs, keep_log, n);
        transitions_begin(p->transitions);
        register_broker(n);
        return;
    case STEP_REGISTERING:
        register_broker(n);
        return;
    case STEP_UNFENCING:
        replica_manager_each(n->replicas, report_if_offline, n);
        unfence_broker(n);
        return;
    case STEP_ADOPTING:
        if (n->config->adopt_log_dirs) {
            if (adopt_some(n))
                return;
            log_manager_set_aside_strays(n->logs, keep_log, n); /* the image knows them all now */
        }
        p->step = STEP_READY;
        step(n);
        return;
    case STEP_READY:
        if (atomic_load(&p->ready))
            return;
        log_manager_start(n->logs);
        loop_post(n->workers[0]->loop, &p->accept_listeners);
        atomic_store(&p->ready, true);
        loop_timer_set(&p->tick, env_now_ns(n->env) + REPLICA_TICK_NS);
        p->options.on_ready(p->options.ctx);
        return;
    }
}

static void on_retry(struct loop_timer *t)
{
    step(CONTAINER_OF(t, struct node_private, retry)->node);
}

static void on_tick(struct loop_timer *t)
{
    struct node_private *p = CONTAINER_OF(t, struct node_private, tick);

    replica_manager_tick(p->node->replicas, 30000000000ull);
    loop_timer_set(t, env_now_ns(p->node->env) + REPLICA_TICK_NS);
}

static void on_transitions_done(struct message *m)
{
    step(CONTAINER_OF(m, struct node_private, transitions_done)->node);
}

static void on_raft_ready(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, raft_ready);
    struct node *n = p->node;
    struct image *i = image_slot_acquire(&n->images);
    struct str cluster_id = image_cluster_id(i);
    char text[64];
    struct errmsg why = {""};

    (void)snprintf(text, sizeof text, "%.*s", STR_ARG(cluster_id));
    image_unref(i);
    if (log_manager_set_cluster_id(n->logs, text, &why) != ERR_NONE) {
        start_failed(n, ERR_IO, why.text);
        return;
    }
    p->raft_is_ready = true;
    step(n);
}

static void on_logs_ready(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, logs_ready);

    p->logs_are_ready = true;
    step(p->node);
}

static void on_delta(void *ctx, const struct image_delta *delta)
{
    struct node *n = ctx;

    transitions_push(n->private->transitions, delta);
}

static void on_raft_fatal(void *ctx, const char *why)
{
    start_failed(ctx, ERR_IO, why);
}

static enum err on_note_raft_files(void *ctx, struct errmsg *why)
{
    struct node *n = ctx;

    return log_manager_note_raft_files(n->logs, why);
}

static void fill_raft_options(struct node *n, struct voter *voters, struct raft_node_options *o)
{
    const struct config *c = n->config;
    struct log_dir_view first;

    log_manager_dir_view(n->logs, 0, &first);
    for (int i = 0; i < c->voter_count; i++) {
        voters[i].node_id = c->voters[i].node_id;
        voters[i].port = c->voters[i].port;
        (void)snprintf(voters[i].host, sizeof voters[i].host, "%s", c->voters[i].host);
    }
    *o = (struct raft_node_options){
        .env = n->env,
        .loop = n->meta_loop,
        .logger = n->logger,
        .dir = c->metadata_log_dir,
        .node_id = c->node_id,
        .directory_id = first.directory_id,
        .voters = voters,
        .voter_count = c->voter_count,
        .cluster_id = log_manager_cluster_id(n->logs),
        .had_raft_files = log_manager_had_raft_files(n->logs),
        .ballast_bytes = RAFT_BALLAST_BYTES,
        .election_timeout_ms = c->election_timeout_ms,
        .heartbeat_ms = c->heartbeat_ms,
        .disk_new = n->private->options.raft_disk_new,
        .disk_ctx = n->private->options.raft_disk_ctx,
        .slot = &n->images,
        .on_delta = on_delta,
        .on_note_raft_files = on_note_raft_files,
        .on_fatal = on_raft_fatal,
        .ctx = n,
    };
    if (n->private->options.uv_loop != NULL)
        o->uv_loop = n->private->options.uv_loop(n->meta_loop);
}

static void on_listening(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, listening);
    struct node *n = p->node;
    struct voter voters[CONFIG_VOTERS_MAX];
    struct raft_node_options o;
    struct errmsg why = {""};
    struct feature_image features[SUPPORTED_FEATURE_COUNT];
    /* [H6]: one cluster-wide value, which what forms the cluster begins with. */
    struct config_entry min_isr = {STR_LIT("min.insync.replicas"),
                                   config_value(n->config, NULL, "min.insync.replicas")};

    if (p->listen_error.text[0] != '\0') {
        start_failed(n, ERR_IO, p->listen_error.text);
        return;
    }
    fill_raft_options(n, voters, &o);
    for (int32_t i = 0; i < SUPPORTED_FEATURE_COUNT; i++)
        features[i] = (struct feature_image){.name = str_from(supported_features[i].name),
                                             .level = supported_features[i].max};
    o.form_features = features;
    o.form_feature_count = SUPPORTED_FEATURE_COUNT;
    o.form_configs = &min_isr;
    o.form_config_count = 1;

    enum err e = raft_node_new(&o, n->meta_loop, &p->raft_ready, &n->raft, &why);

    if (e != ERR_NONE) {
        start_failed(n, e, why.text);
        return;
    }
    raft_node_register_metrics(n->raft, n->metrics);
}

static void on_meta_start(struct loop *loop, void *ctx)
{
    struct node *n = ctx;
    struct node_private *p = n->private;

    n->meta_loop = loop;
    loop_timer_init(&p->retry, loop, on_retry);
    loop_timer_init(&p->tick, loop, on_tick);
}

static int64_t high_watermark(void *ctx, struct log *l)
{
    struct node *n = ctx;

    return replica_manager_high_watermark(n->replicas, l);
}

static enum err open_logs(struct node *n, struct errmsg *why)
{
    const struct config *c = n->config;
    struct topic_settings defaults;
    struct log_manager_options o = {
        .env = n->env,
        .logger = n->logger,
        .dirs = c->log_dirs,
        .dir_count = c->log_dir_count,
        .node_id = c->node_id,
        .reserve_bytes = c->log_dir_reserve_bytes,
        .recovery_threads_per_dir = c->recovery_threads_per_dir,
        .retention_check_ms = c->retention_check_ms,
        .checkpoint_interval_ms = c->checkpoint_interval_ms,
        .sync_behind_ms = 30000,
        .open_logs_max = n->private->options.descriptors / 4,
        .high_watermark = high_watermark,
        .ctx = n,
    };

    config_topic_settings(c, NULL, STR_NULL, &defaults);
    o.default_config = defaults.log;
    return log_manager_new(&o, c->adopt_log_dirs, &n->logs, why);
}

static void register_worker_metrics(struct node *n, struct worker *w)
{
    struct metrics *m = n->metrics;
    char label[96];

#define COUNT(field, name, help) metrics_add(m, METRIC_COUNTER, name, "", help, &w->metrics.field)
    COUNT(bytes_in, "kafka_server_brokertopicmetrics_bytesin_total", "Record bytes produced");
    COUNT(bytes_out, "kafka_server_brokertopicmetrics_bytesout_total", "Record bytes fetched");
    COUNT(messages_in, "kafka_server_brokertopicmetrics_messagesin_total", "Records produced");
    COUNT(produce_requests, "kafka_server_brokertopicmetrics_totalproducerequests_total",
          "Partitions produced to");
    COUNT(fetch_requests, "kafka_server_brokertopicmetrics_totalfetchrequests_total",
          "Partitions fetched from");
    COUNT(failed_produce_requests, "kafka_server_brokertopicmetrics_failedproducerequests_total",
          "Partitions whose Produce failed");
    COUNT(failed_fetch_requests, "kafka_server_brokertopicmetrics_failedfetchrequests_total",
          "Partitions whose Fetch failed");
    COUNT(connections_accepted, "fluxmq_connections_accepted_total", "Connections accepted");
    COUNT(connections_closed, "fluxmq_connections_closed_total", "Connections closed");
    COUNT(connections_rejected, "fluxmq_connections_rejected_total",
          "Connections closed at max.connections or max.connections.per.ip");
    COUNT(bad_requests, "fluxmq_bad_requests_total",
          "Connections closed for what they sent, counted by reason in the log");
    COUNT(duplicate_batches, "fluxmq_duplicate_batches_total",
          "Batches of idempotent producers that had been stored before");
#undef COUNT
    for (size_t i = 0; i < api_count; i++) {
        const struct api_desc *a = api_at(i);

        if (a->key >= (int)ARRAY_COUNT(w->metrics.requests) || w->metrics.latency[a->key] == NULL)
            continue;
        (void)snprintf(label, sizeof label, "request=\"%s\"", a->name);
        metrics_add(m, METRIC_COUNTER, "kafka_network_requestmetrics_requests_total", label,
                    "Requests answered", &w->metrics.requests[a->key]);
        metrics_add_histogram(m, "fluxmq_request_duration_seconds", label,
                              "From the whole request to its answer", w->metrics.latency[a->key]);
    }
}

enum err node_start(const struct node_options *o, struct node **out, struct errmsg *why)
{
    struct node *n = xcalloc(1, sizeof *n);
    struct node_private *p = xcalloc(1, sizeof *p);

    n->env = o->env;
    n->logger = o->logger;
    n->config = o->config;
    n->private = p;
    p->node = n;
    p->options = *o;
    atomic_store(&p->broker_epoch, -1);
    env_random(n->env, p->incarnation.b, sizeof p->incarnation.b);
    connection_limits_init(&n->connections, n->env);
    image_slot_init(&n->images, n->env);
    n->metrics = metrics_new(n->env);
    p->raft_ready.run = on_raft_ready;
    p->logs_ready.run = on_logs_ready;
    p->transitions_done.run = on_transitions_done;
    p->listening.run = on_listening;
    p->open_listeners.run = on_open_listeners;
    p->accept_listeners.run = on_accept_listeners;
    p->close_listeners.run = on_close_listeners;

    enum err e = open_logs(n, why);

    if (e != ERR_NONE)
        return e; /* the process ends */
    n->replicas = replica_manager_new(&(struct replica_manager_options){
        .env = n->env,
        .logger = n->logger,
        .logs = n->logs,
        .node_id = n->config->node_id,
        .on_alter_isr = propose_isr,
        .on_offline = propose_offline,
        .ctx = n,
    });
    n->fetch_sessions = fetch_session_cache_new(n->env, n->config->fetch_session_slots);
    p->transitions = transitions_new(n);

    e = env_loop_new(n->env, "fluxmq-meta", on_meta_start, n, &n->meta_loop, why);
    if (e != ERR_NONE)
        return e;
    n->workers = xcalloc((size_t)n->config->workers, sizeof *n->workers);
    for (int i = 0; i < n->config->workers; i++) {
        e = worker_new(n, i, &n->workers[i], why);
        if (e != ERR_NONE)
            return e;
        n->worker_count++;
        register_worker_metrics(n, n->workers[i]);
    }
    log_manager_register_metrics(n->logs, n->metrics);
    replica_manager_register_metrics(n->replicas, n->metrics);
    fetch_session_cache_register_metrics(n->fetch_sessions, n->metrics);

    *out = n;
    log_manager_open_all(n->logs, n->meta_loop, &p->logs_ready);
    loop_post(n->workers[0]->loop, &p->open_listeners);
    return ERR_NONE;
}

/* ---- stop ---- */

static void on_raft_closed(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, raft_closed);

    p->options.on_stopped(p->options.ctx);
}

static void work_close_logs(struct job *j)
{
    struct node_private *p = CONTAINER_OF(j, struct node_private, close_logs);

    log_manager_close(p->node->logs);
}

static void on_logs_closed(struct job *j)
{
    struct node_private *p = CONTAINER_OF(j, struct node_private, close_logs);

    p->raft_closed.run = on_raft_closed;
    raft_node_close(p->node->raft, p->node->meta_loop, &p->raft_closed);
}

/* No log is made or deleted any more. */
static void on_transitions_over(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, transitions_over);

    p->close_logs.work = work_close_logs;
    p->close_logs.done = on_logs_closed;
    p->close_logs.report_to = p->node->meta_loop;
    env_pool_submit(p->node->env, JOB_LONG, &p->close_logs);
}

/* The workers have no connection and no request any more; what they had proposed may still be
 * committed. */
static void on_workers_quiet(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, workers_quiet);

    p->transitions_over.run = on_transitions_over;
    transitions_end(p->transitions, p->node->meta_loop, &p->transitions_over);
}

void node_worker_quiet(struct node *n)
{
    struct node_private *p = n->private;

    if (atomic_fetch_add(&p->quiet_workers, 1) + 1 == n->worker_count) {
        p->workers_quiet.run = on_workers_quiet;
        loop_post(n->meta_loop, &p->workers_quiet);
    }
}

static void on_stop(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, stop);
    struct node *n = p->node;

    if (p->stopping)
        return;
    p->stopping = true;
    atomic_store(&p->ready, false);
    loop_timer_stop(&p->tick);
    loop_timer_stop(&p->retry);
    loop_post(n->workers[0]->loop, &p->close_listeners);
    for (int i = 0; i < n->worker_count; i++)
        worker_close_connections(n->workers[i]);
}

void node_stop(struct node *n)
{
    n->private->stop.run = on_stop;
    loop_post(n->meta_loop, &n->private->stop);
}

void node_free(struct node *n)
{
    struct node_private *p = n->private;

    for (int i = 0; i < n->worker_count; i++)
        worker_free(n->workers[i]);
    free(n->workers);
    env_loop_stop(n->meta_loop);
    transitions_free(p->transitions);
    fetch_session_cache_free(n->fetch_sessions);
    replica_manager_free(n->replicas);
    image_slot_deinit(&n->images);
    metrics_free(n->metrics);
    for (int i = 0; i < CONFIG_LISTENERS_MAX; i++)
        free(p->acceptors[i]);
    connection_limits_deinit(&n->connections);
    free(p);
    free(n);
}

/* ---- what others ask ---- */

bool node_is_ready(const struct node *n)
{
    return atomic_load(&n->private->ready);
}

int64_t node_broker_epoch(const struct node *n)
{
    return atomic_load(&n->private->broker_epoch);
}

const struct endpoint_image *node_endpoint(const struct broker_image *b, const char *listener)
{
    for (int32_t i = 0; i < b->endpoint_count; i++)
        if (str_eq_lit(b->endpoints[i].listener, listener))
            return &b->endpoints[i];
    return NULL;
}

void node_after_transitions(struct node *n, struct loop *loop, struct message *m)
{
    transitions_after(n->private->transitions, loop, m);
}
