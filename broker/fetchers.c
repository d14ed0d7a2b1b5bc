#include "broker/fetchers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/peer_fetch.h"
#include "protocol/base/hmap.h"

/* What an answer holds beside the records: about 100 bytes for each of the most partitions that a
 * session may have. */
#define ANSWER_OVERHEAD_MAX ((size_t)24 * 1024 * 1024)

/* Another node, and the connections to it; made when it is first heard of. */
struct peer {
    struct list_node node;
    int32_t id;
    char host[256];
    int port;
    struct peer_fetch **shards; /* NULL: not needed yet */
};

/* A replica that follows somebody, and where. */
struct followed {
    struct hmap_node node;
    struct fetch_key key;
    struct peer_fetch *at;
    struct replica_following how; /* as last told there */
    _Atomic bool moved;           /* a message that says so is on its way */
};

struct fetchers {
    struct fetchers_options options;
    struct loop **loops;
    struct mutex lock;
    struct list peers GUARDED_BY(lock);
    struct hmap followed GUARDED_BY(lock);
    int64_t broker_epoch GUARDED_BY(lock);
    struct uuid token GUARDED_BY(lock);
    bool ended GUARDED_BY(lock);
    int closing GUARDED_BY(lock); /* connections that are not quiet yet */
    struct loop *quiet_loop GUARDED_BY(lock);
    struct message *quiet GUARDED_BY(lock);
};

/* ---- messages to the loops ---- */

enum order_kind { ORDER_SELF, ORDER_ADDRESS, ORDER_FOLLOW, ORDER_UNFOLLOW, ORDER_LOG, ORDER_CLOSE };

struct order {
    struct message message;
    enum order_kind kind;
    struct peer_fetch *at;
    struct fetchers *owner;
    struct fetch_key key;
    struct replica *replica; /* ORDER_FOLLOW: one reference */
    struct replica_following how;
    int64_t broker_epoch;
    struct uuid token;
    char host[256];
    int port;
};

static void clear_moved(struct fetchers *f, const struct fetch_key *key);
static void on_quiet(void *ctx);

static void carry_out(struct message *m)
{
    struct order *o = CONTAINER_OF(m, struct order, message);

    switch (o->kind) {
    case ORDER_SELF:
        peer_fetch_set_self(o->at, o->broker_epoch, &o->token);
        break;
    case ORDER_ADDRESS:
        peer_fetch_set_address(o->at, o->host, o->port);
        break;
    case ORDER_FOLLOW:
        peer_fetch_follow(o->at, o->replica, &o->how);
        replica_unref(o->replica);
        break;
    case ORDER_UNFOLLOW:
        peer_fetch_unfollow(o->at, &o->key);
        break;
    case ORDER_LOG:
        clear_moved(o->owner, &o->key); /* before looking: what moves from now on posts again */
        peer_fetch_on_log(o->at, &o->key);
        break;
    case ORDER_CLOSE:
        peer_fetch_close(o->at, on_quiet, o->owner);
        break;
    }
    free(o);
}

static struct order *new_order(enum order_kind kind, struct fetchers *f, struct peer_fetch *at)
{
    struct order *o = xcalloc(1, sizeof *o);

    o->message.run = carry_out;
    o->kind = kind;
    o->owner = f;
    o->at = at;
    return o;
}

/* In the order in which they were given: under the lock. */
static void give(struct order *o)
{
    loop_post(peer_fetch_loop(o->at), &o->message);
}

static void give_self(struct fetchers *f, struct peer_fetch *at) REQUIRES(f->lock)
{
    struct order *o = new_order(ORDER_SELF, f, at);

    o->broker_epoch = f->broker_epoch;
    o->token = f->token;
    give(o);
}

static void give_address(struct fetchers *f, const struct peer *p, struct peer_fetch *at)
{
    struct order *o = new_order(ORDER_ADDRESS, f, at);

    (void)snprintf(o->host, sizeof o->host, "%s", p->host);
    o->port = p->port;
    give(o);
}

/* ---- peers ---- */

static struct peer *find_peer(struct fetchers *f, int32_t id) REQUIRES(f->lock)
{
    list_for_each (n, &f->peers) {
        struct peer *p = list_entry(n, struct peer, node);

        if (p->id == id)
            return p;
    }

    struct peer *p = xcalloc(1, sizeof *p);

    p->id = id;
    p->shards = xcalloc((size_t)f->options.shards, sizeof *p->shards);
    list_push_back(&f->peers, &p->node);
    return p;
}

static struct peer_fetch *new_shard(struct fetchers *f, const struct peer *p, int shard)
    REQUIRES(f->lock)
{
    const struct fetchers_options *o = &f->options;
    /* Neighbours in number live on different loops. */
    int loop = (int)(((int64_t)p->id * o->shards + shard) % o->loop_count);
    struct peer_fetch *at = peer_fetch_new(&(struct peer_fetch_options){
        .env = o->env,
        .logger = o->logger,
        .loop = f->loops[loop],
        .replicas = o->replicas,
        .node_id = o->node_id,
        .leader = p->id,
        .shard = shard,
        .fetch = o->fetch,
        .answer_bytes_max = (size_t)MAX(o->fetch.response_bytes_max, 0) + o->request_bytes_max +
                            ANSWER_OVERHEAD_MAX,
        .connect_timeout_ns = o->connect_timeout_ns,
    });

    give_self(f, at);
    give_address(f, p, at);
    return at;
}

static struct peer_fetch *place_of(struct fetchers *f, int32_t leader, const struct fetch_key *key)
    REQUIRES(f->lock)
{
    struct peer *p = find_peer(f, leader);
    uint64_t hash =
        hash_bytes((uint64_t)(uint32_t)key->partition, key->topic_id.b, sizeof key->topic_id.b);
    int shard = (int)(hash % (uint64_t)f->options.shards);

    if (p->shards[shard] == NULL)
        p->shards[shard] = new_shard(f, p, shard);
    return p->shards[shard];
}

void fetchers_set_peer(struct fetchers *f, int32_t id, const char *host, int port)
{
    mutex_lock(&f->lock);

    struct peer *p = find_peer(f, id);

    if (strcmp(p->host, host) != 0 || p->port != port) {
        (void)snprintf(p->host, sizeof p->host, "%s", host);
        p->port = port;
        for (int i = 0; i < f->options.shards && !f->ended; i++)
            if (p->shards[i] != NULL)
                give_address(f, p, p->shards[i]);
    }
    mutex_unlock(&f->lock);
}

void fetchers_set_self(struct fetchers *f, int64_t broker_epoch, const struct uuid *token)
{
    mutex_lock(&f->lock);
    if (f->broker_epoch != broker_epoch || !uuid_eq(&f->token, token)) {
        f->broker_epoch = broker_epoch;
        f->token = *token;
        list_for_each (n, &f->peers) {
            struct peer *p = list_entry(n, struct peer, node);

            for (int i = 0; i < f->options.shards && !f->ended; i++)
                if (p->shards[i] != NULL)
                    give_self(f, p->shards[i]);
        }
    }
    mutex_unlock(&f->lock);
}

/* ---- who follows whom ---- */

static uint64_t key_hash(const struct hmap *m, const struct fetch_key *key)
{
    return hash_bytes(m->seed ^ ((uint64_t)(uint32_t)key->partition * 0x9e3779b97f4a7c15ull),
                      key->topic_id.b, sizeof key->topic_id.b);
}

static struct followed *find_followed(struct fetchers *f, const struct fetch_key *key)
    REQUIRES(f->lock)
{
    for (struct hmap_node *n = hmap_first_with_hash(&f->followed, key_hash(&f->followed, key));
         n != NULL; n = hmap_next_with_hash(n)) {
        struct followed *e = CONTAINER_OF(n, struct followed, node);

        if (e->key.partition == key->partition && uuid_eq(&e->key.topic_id, &key->topic_id))
            return e;
    }
    return NULL;
}

static void clear_moved(struct fetchers *f, const struct fetch_key *key)
{
    mutex_lock(&f->lock);

    struct followed *e = find_followed(f, key);

    if (e != NULL)
        atomic_store(&e->moved, false);
    mutex_unlock(&f->lock);
}

static void leave(struct fetchers *f, const struct followed *e) REQUIRES(f->lock)
{
    struct order *o = new_order(ORDER_UNFOLLOW, f, e->at);

    o->key = e->key;
    give(o);
}

static struct fetch_key key_of(struct replica *r)
{
    const struct log_identity *id = log_identity(replica_log(r));

    return (struct fetch_key){.topic_id = id->topic_id, .partition = id->partition};
}

static bool same_following(const struct replica_following *a, const struct replica_following *b)
{
    return a->leader == b->leader && a->leader_epoch == b->leader_epoch &&
           a->recovering_epoch == b->recovering_epoch && a->gaps_allowed == b->gaps_allowed;
}

static void follow(struct fetchers *f, struct followed *e, struct replica *r,
                   const struct replica_following *how) REQUIRES(f->lock)
{
    struct peer_fetch *at = place_of(f, how->leader, &e->key);
    struct order *o;

    if (e->at != NULL && e->at != at)
        leave(f, e);
    e->at = at;
    e->how = *how;
    atomic_store(&e->moved, false);
    o = new_order(ORDER_FOLLOW, f, at);
    o->key = e->key;
    o->replica = replica_ref(r);
    o->how = *how;
    give(o);
}

/* Looked at with the lock held: who looks last sees the newest state and posts last. */
static void on_state(void *ctx, struct replica *r)
{
    struct fetchers *f = ctx;
    struct fetch_key key = key_of(r);
    struct replica_following how;

    mutex_lock(&f->lock);

    bool follows = replica_following(r, &how);
    struct followed *e = f->ended ? NULL : find_followed(f, &key);

    if (f->ended) {
        /* nothing is followed any more */
    } else if (follows && (e == NULL || !same_following(&e->how, &how))) {
        if (e == NULL) {
            e = xcalloc(1, sizeof *e);
            e->key = key;
            hmap_insert(&f->followed, &e->node, key_hash(&f->followed, &key));
        }
        follow(f, e, r, &how);
    } else if (!follows && e != NULL) {
        leave(f, e);
        hmap_remove(&f->followed, &e->node);
        free(e);
    }
    mutex_unlock(&f->lock);
}

static void on_log(void *ctx, struct replica *r)
{
    struct fetchers *f = ctx;
    struct fetch_key key = key_of(r);

    mutex_lock(&f->lock);

    struct followed *e = f->ended ? NULL : find_followed(f, &key);

    if (e != NULL && !atomic_exchange(&e->moved, true)) {
        struct order *o = new_order(ORDER_LOG, f, e->at);

        o->key = key;
        give(o);
    }
    mutex_unlock(&f->lock);
}

/* ---- life ---- */

struct fetchers *fetchers_new(const struct fetchers_options *o)
{
    struct fetchers *f = xcalloc(1, sizeof *f);

    CHECK(o->loop_count > 0);
    f->options = *o;
    f->options.shards = MAX(o->shards, 1);
    f->loops = xcalloc((size_t)o->loop_count, sizeof *f->loops);
    for (int i = 0; i < o->loop_count; i++)
        f->loops[i] = o->loops[i];
    mutex_init(&f->lock, o->env);
    list_init(&f->peers);
    hmap_init(&f->followed, env_random_u64(o->env));
    f->broker_epoch = -1;
    replica_manager_observe_followers(
        o->replicas,
        &(struct replica_follower_observer){.on_state = on_state, .on_log = on_log, .ctx = f});
    return f;
}

/* With the lock held by nobody; the last one tells. */
static void on_quiet(void *ctx)
{
    struct fetchers *f = ctx;

    mutex_lock(&f->lock);
    if (--f->closing == 0)
        loop_post(f->quiet_loop, f->quiet);
    mutex_unlock(&f->lock);
}

void fetchers_end(struct fetchers *f, struct loop *loop, struct message *m)
{
    mutex_lock(&f->lock);
    CHECK(!f->ended);
    f->ended = true;
    f->quiet_loop = loop;
    f->quiet = m;
    f->closing = 1; /* this call */
    list_for_each (n, &f->peers) {
        struct peer *p = list_entry(n, struct peer, node);

        for (int i = 0; i < f->options.shards; i++) {
            if (p->shards[i] == NULL)
                continue;
            f->closing++;
            give(new_order(ORDER_CLOSE, f, p->shards[i]));
        }
    }
    mutex_unlock(&f->lock);
    on_quiet(f);
}

void fetchers_free(struct fetchers *f) NO_LOCK_CHECK
{
    struct list_node *n;
    struct hmap_node *e;

    if (f == NULL)
        return;
    while ((n = list_pop_front(&f->peers)) != NULL) {
        struct peer *p = list_entry(n, struct peer, node);

        for (int i = 0; i < f->options.shards; i++)
            peer_fetch_free(p->shards[i]);
        free(p->shards);
        free(p);
    }
    while ((e = hmap_begin(&f->followed)) != NULL) {
        hmap_remove(&f->followed, e);
        free(CONTAINER_OF(e, struct followed, node));
    }
    hmap_deinit(&f->followed);
    mutex_deinit(&f->lock);
    free(f->loops);
    free(f);
}

/* ---- metrics ---- */

static struct peer_fetch_view total(struct fetchers *f)
{
    struct peer_fetch_view sum = {0}, v;

    mutex_lock(&f->lock);
    list_for_each (n, &f->peers) {
        struct peer *p = list_entry(n, struct peer, node);

        for (int i = 0; i < f->options.shards; i++) {
            if (p->shards[i] == NULL)
                continue;
            peer_fetch_look(p->shards[i], &v);
            sum.lag_max = MAX(sum.lag_max, v.lag_max);
            sum.partitions += v.partitions;
            sum.failed += v.failed;
            sum.requests += v.requests;
            sum.records_bytes += v.records_bytes;
            sum.truncations += v.truncations;
            sum.truncations_below_high_watermark += v.truncations_below_high_watermark;
            sum.troubles += v.troubles;
        }
    }
    mutex_unlock(&f->lock);
    return sum;
}

#define READ(field)                                                                                \
    static double read_##field(void *ctx)                                                          \
    {                                                                                              \
        return (double)total(ctx).field;                                                           \
    }
READ(lag_max)
READ(partitions)
READ(failed)
READ(requests)
READ(records_bytes)
READ(truncations)
READ(truncations_below_high_watermark)
READ(troubles)
#undef READ

void fetchers_register_metrics(struct fetchers *f, struct metrics *m)
{
    metrics_add_callback(m, METRIC_GAUGE, "kafka_server_replicafetchermanager_maxlag", "",
                         "Records that a follower here lacks to its leader's high watermark, at "
                         "most",
                         read_lag_max, f);
    metrics_add_callback(m, METRIC_GAUGE,
                         "kafka_server_replicafetchermanager_failedpartitionscount", "",
                         "Followed partitions that fetching has failed for", read_failed, f);
    metrics_add_callback(m, METRIC_GAUGE, "fluxmq_replica_fetcher_partitions", "",
                         "Partitions that this node follows", read_partitions, f);
    metrics_add_callback(m, METRIC_COUNTER, "fluxmq_replica_fetcher_requests_total", "",
                         "Fetches sent to leaders", read_requests, f);
    metrics_add_callback(m, METRIC_COUNTER,
                         "kafka_server_brokertopicmetrics_replicationbytesin_total", "",
                         "Record bytes fetched from leaders", read_records_bytes, f);
    metrics_add_callback(m, METRIC_COUNTER, "fluxmq_replica_fetcher_truncations_total", "",
                         "Logs that were cut, or began anew, to follow a leader", read_truncations,
                         f);
    metrics_add_callback(m, METRIC_COUNTER,
                         "fluxmq_replica_fetcher_truncations_below_high_watermark_total", "",
                         "Those below the high watermark, after an unclean election",
                         read_truncations_below_high_watermark, f);
    metrics_add_callback(m, METRIC_COUNTER, "fluxmq_replica_fetcher_troubles_total", "",
                         "Times that a partition or a leader was left alone for a while",
                         read_troubles, f);
}
