#include "broker/node.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/conn.h"
#include "broker/features.h"
#include "broker/fetchers.h"
#include "broker/membership.h"
#include "broker/transitions.h"
#include "protocol/api.h"

#define REPLICA_TICK_NS    1000000000u
#define CONNECT_TIMEOUT_NS 2000000000u
#define WORKERS_MAX        1024
#define RAFT_BALLAST_BYTES (16ll * 1024 * 1024)

struct acceptor;

struct node_private {
    struct node_options options;
    struct node *node;
    struct transitions *transitions;
    struct membership *membership;
    /* start, on the meta thread */
    struct message raft_ready, logs_ready, listening, stop;
    bool raft_is_ready, logs_are_ready, stopping;
    struct loop_timer tick;
    _Atomic bool ready;
    /* listeners: on worker 0 */
    struct listener *listeners[CONFIG_LISTENERS_MAX];
    struct acceptor *acceptors[CONFIG_LISTENERS_MAX];
    _Atomic int ports[CONFIG_LISTENERS_MAX];
    struct message open_listeners, accept_listeners, close_listeners;
    struct errmsg listen_error;
    /* stop */
    struct message fetchers_over, raft_closed, workers_quiet, transitions_over;
    _Atomic int quiet_workers;
    struct job close_logs;
    struct file *metadata_lock; /* raft writes there until it is closed */
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
            continue; /* raft_node's, on the meta thread */
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

/* ---- start: one step after the other, on the meta thread ---- */

static enum log_claim claim_folder(void *ctx, const struct log_identity *id, struct uuid *right_id)
{
    struct node *n = ctx;
    struct image *i = image_slot_acquire(&n->images);
    enum log_claim claim = transitions_claim(i, n->config->node_id, id, right_id);

    image_unref(i);
    return claim;
}

static void start_failed(void *ctx, enum err e, const char *why)
{
    struct node *n = ctx;

    n->private->options.on_failed(n->private->options.ctx, e, why);
}

/* Image and logs are there: folders that the image does not know make way before one of the same
 * name is made [H19]; those that are to be adopted it comes to know first. */
static void join_when_loaded(struct node *n)
{
    struct node_private *p = n->private;

    if (!p->raft_is_ready || !p->logs_are_ready)
        return;
    if (!n->config->adopt_log_dirs)
        log_manager_set_aside_strays(n->logs, claim_folder, n);
    transitions_begin(p->transitions);
    membership_join(p->membership);
}

static void on_joined(void *ctx)
{
    struct node *n = ctx;
    struct node_private *p = n->private;

    if (n->config->adopt_log_dirs)
        log_manager_set_aside_strays(n->logs, claim_folder, n);
    log_manager_start(n->logs);
    loop_post(n->workers[0]->loop, &p->accept_listeners);
    atomic_store(&p->ready, true);
    loop_timer_set(&p->tick, env_now_ns(n->env) + REPLICA_TICK_NS);
    p->options.on_ready(p->options.ctx);
}

static void on_tick(struct loop_timer *t)
{
    struct node_private *p = CONTAINER_OF(t, struct node_private, tick);

    int64_t lag_max_ms = config_number(p->node->config, NULL, "replica.lag.time.max.ms");

    replica_manager_tick(p->node->replicas, (uint64_t)MAX(lag_max_ms, 0) * 1000000u);
    transitions_retry(p->transitions, env_now_ns(p->node->env));
    loop_timer_set(t, env_now_ns(p->node->env) + REPLICA_TICK_NS);
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
    join_when_loaded(n);
}

static void on_logs_ready(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, logs_ready);

    p->logs_are_ready = true;
    join_when_loaded(p->node);
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

static int by_node_id(const void *a, const void *b)
{
    const struct voter *x = a, *y = b;

    return (x->node_id > y->node_id) - (x->node_id < y->node_id);
}

static void fill_voters(const struct config *c, struct voter *voters)
{
    for (int i = 0; i < c->voter_count; i++) {
        voters[i].node_id = c->voters[i].node_id;
        voters[i].port = c->voters[i].port;
        (void)snprintf(voters[i].host, sizeof voters[i].host, "%s", c->voters[i].host);
    }
    qsort(voters, (size_t)c->voter_count, sizeof *voters, by_node_id);
}

/* What a heartbeat vouches for beside the meta thread, which sends it [H9]. */
static void vitals(void *ctx, struct node_vitals *out)
{
    struct node *n = ctx;
    uint64_t now_ns = env_now_ns(n->env);

    *out = (struct node_vitals){.disk_age_ns = log_manager_oldest_io_ns(n->logs),
                                .serving = membership_is_serving(n->private->membership)};
    for (int i = 0; i < n->worker_count; i++) {
        uint64_t began_ns = loop_turn_began_ns(n->workers[i]->loop);

        if (began_ns != 0 && now_ns > began_ns)
            out->turn_age_ns = MAX(out->turn_age_ns, now_ns - began_ns);
    }
}

static int64_t balance_interval_ms(const struct config *c)
{
    if (!str_eq_lit(config_value(c, NULL, "auto.leader.rebalance.enable"), "true"))
        return 0;
    return MIN(config_number(c, NULL, "leader.imbalance.check.interval.seconds"),
               (int64_t)INT32_MAX) *
           1000;
}

static void fill_raft_options(struct node *n, struct voter *voters, struct raft_node_options *o)
{
    const struct config *c = n->config;
    const struct listener_config *l = config_controller_listener(c);

    fill_voters(c, voters);
    *o = (struct raft_node_options){
        .env = n->env,
        .loop = n->meta_loop,
        .logger = n->logger,
        .dir = c->metadata_log_dir,
        .node_id = c->node_id,
        .directory_id = *log_manager_metadata_directory_id(n->logs),
        .incarnation = *membership_incarnation(n->private->membership),
        .voters = voters,
        .voter_count = c->voter_count,
        /* Alone there is nobody to hear. */
        .listen_host = l != NULL && c->voter_count > 1 ? l->host : NULL,
        .listen_port = l != NULL ? l->port : 0,
        .secret = c->cluster_secret,
        .allow_insecure_peers = c->allow_insecure_peers,
        .cluster_id = log_manager_cluster_id(n->logs),
        .had_raft_files = log_manager_had_raft_files(n->logs),
        .ballast_bytes = RAFT_BALLAST_BYTES,
        .election_timeout_ms = c->election_timeout_ms,
        .heartbeat_ms = c->heartbeat_ms,
        .session_timeout_ms = c->broker_session_timeout_ms,
        .session_heartbeat_ms = c->broker_heartbeat_interval_ms,
        .vitals = vitals,
        .balance_interval_ms = balance_interval_ms(c),
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
    membership_attach(p->membership, loop);
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
        .metadata_dir = c->metadata_log_dir,
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

/* Alone there is nobody to follow. */
static void start_fetchers(struct node *n)
{
    const struct config *c = n->config;
    struct loop *loops[WORKERS_MAX];
    int count = MIN(n->worker_count, WORKERS_MAX);

    if (c->voter_count == 1)
        return;
    log_warn(n->logger, "node",
             "clusters of several nodes are under test: a member that lost its page cache is not "
             "told from one that kept it; keep no data that matter on this one");
    for (int i = 0; i < count; i++)
        loops[i] = n->workers[i]->loop;
    n->fetchers = fetchers_new(&(struct fetchers_options){
        .env = n->env,
        .logger = n->logger,
        .replicas = n->replicas,
        .node_id = c->node_id,
        .loops = loops,
        .loop_count = count,
        .shards = (int)config_number(c, NULL, "num.replica.fetchers"),
        .fetch = {.max_wait_ms = (int32_t)config_number(c, NULL, "replica.fetch.wait.max.ms"),
                  .min_bytes = (int32_t)config_number(c, NULL, "replica.fetch.min.bytes"),
                  .response_bytes_max =
                      (int32_t)config_number(c, NULL, "replica.fetch.response.max.bytes"),
                  .partition_bytes_max = (int32_t)config_number(c, NULL, "replica.fetch.max.bytes"),
                  .backoff_ns =
                      (uint64_t)config_number(c, NULL, "replica.fetch.backoff.ms") * 1000000u,
                  .request_timeout_ns =
                      (uint64_t)config_number(c, NULL, "replica.socket.timeout.ms") * 1000000u},
        .request_bytes_max = (size_t)c->socket_request_max_bytes,
        .connect_timeout_ns = CONNECT_TIMEOUT_NS,
    });
    fetchers_register_metrics(n->fetchers, n->metrics);
}

static void on_left(void *ctx);

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
    connection_limits_init(&n->connections, n->env);
    image_slot_init(&n->images, n->env);
    n->metrics = metrics_new(n->env);
    p->raft_ready.run = on_raft_ready;
    p->logs_ready.run = on_logs_ready;
    p->listening.run = on_listening;
    p->open_listeners.run = on_open_listeners;
    p->accept_listeners.run = on_accept_listeners;
    p->close_listeners.run = on_close_listeners;

    enum err e = open_logs(n, why);

    if (e != ERR_NONE)
        return e; /* the process ends */
    p->membership = membership_new(
        n, &(struct membership_options){
               .on_joined = on_joined, .on_left = on_left, .on_failed = start_failed, .ctx = n});
    n->replicas = replica_manager_new(&(struct replica_manager_options){
        .env = n->env,
        .logger = n->logger,
        .logs = n->logs,
        .node_id = n->config->node_id,
        .on_alter_isr = membership_propose_isr,
        .on_offline = membership_report_offline,
        .ctx = p->membership,
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
    start_fetchers(n);
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

    if (p->metadata_lock != NULL)
        file_unref(p->metadata_lock);
    p->options.on_stopped(p->options.ctx);
}

static void work_close_logs(struct job *j)
{
    struct node_private *p = CONTAINER_OF(j, struct node_private, close_logs);

    p->metadata_lock = log_manager_metadata_lock(p->node->logs);
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

static void on_fetchers_over(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, fetchers_over);
    struct node *n = p->node;

    loop_post(n->workers[0]->loop, &p->close_listeners);
    for (int i = 0; i < n->worker_count; i++)
        worker_close_connections(n->workers[i]);
}

/* Nothing here leads any more, as far as others could take over [H30]. */
static void on_left(void *ctx)
{
    struct node *n = ctx;
    struct node_private *p = n->private;

    loop_timer_stop(&p->tick);
    membership_end(p->membership);
    p->fetchers_over.run = on_fetchers_over;
    if (n->fetchers != NULL)
        fetchers_end(n->fetchers, n->meta_loop, &p->fetchers_over);
    else
        on_fetchers_over(&p->fetchers_over);
}

static void on_stop(struct message *m)
{
    struct node_private *p = CONTAINER_OF(m, struct node_private, stop);

    if (p->stopping)
        return;
    p->stopping = true;
    atomic_store(&p->ready, false);
    membership_leave(p->membership);
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
    if (n->fetchers != NULL)
        fetchers_free(n->fetchers);
    membership_free(p->membership);
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
    return membership_broker_epoch(n->private->membership);
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
