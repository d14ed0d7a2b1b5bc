#include "broker/transitions.h"

#include <stdio.h>
#include <stdlib.h>

#include "broker/fetchers.h"
#include "broker/node.h"

#define RETRY_NS 5000000000u

struct transition {
    struct list_node node;
    struct image *before, *after; /* before: NULL for the whole image at start */
    struct uuid *topics;          /* that changed */
    int32_t topic_count;
    struct str *config_topics; /* whose config changed, in `names` */
    int32_t config_topic_count;
    char *names;
    bool all_configs; /* a broker-level value changed */
    bool brokers;     /* a broker came, went, or changed */
    bool everything;
    bool again;                /* of what could not be made; its reason has been told */
    _Atomic bool *incomplete;  /* set when a log cannot be made */
    const _Atomic bool *ended; /* the node stops: do no more of it */
};

struct waiter {
    struct list_node node;
    uint64_t sequence;
    struct loop *loop;
    struct message *message;
};

struct transitions {
    struct node *owner;
    struct mutex lock;
    struct list queue GUARDED_BY(lock);
    struct list waiters GUARDED_BY(lock);
    uint64_t pushed GUARDED_BY(lock), done GUARDED_BY(lock); /* sequence numbers */
    bool begun GUARDED_BY(lock), running GUARDED_BY(lock);
    _Atomic bool ended, incomplete;
    uint64_t retried_ns; /* by its caller's thread */
    struct job job;
};

/* ---- one partition ---- */

static int replica_index(const struct partition_image *p, int32_t node_id)
{
    for (int i = 0; i < p->replica_count; i++)
        if (p->replicas[i] == node_id)
            return i;
    return -1;
}

static void fill_state(const struct image *i, const struct partition_image *p,
                       struct partition_state *s)
{
    *s = (struct partition_state){
        .leader = p->leader,
        .leader_epoch = p->leader_epoch,
        .partition_epoch = p->partition_epoch,
        .replica_count = MIN(p->replica_count, PARTITION_REPLICAS_MAX),
        .isr_count = MIN(p->isr_count, PARTITION_REPLICAS_MAX),
        .effective_min_isr = p->effective_min_isr,
        .recovering = p->leader_recovery == LEADER_RECOVERING,
        .recovering_epoch = -1,
    };
    for (int r = 0; r < s->replica_count; r++) {
        const struct broker_image *b = image_broker(i, p->replicas[r]);

        s->replicas[r] = p->replicas[r];
        s->live_broker_epochs[r] =
            b != NULL && !b->fenced && !b->in_controlled_shutdown ? b->epoch : -1;
    }
    for (int r = 0; r < s->isr_count; r++) {
        const struct broker_image *b = image_broker(i, p->isr[r]);

        s->isr[r] = p->isr[r];
        s->isr_broker_epochs[r] = b != NULL ? b->epoch : -1;
    }
}

/* Whether this node, in its present registration, is a member of the ISR under a live leader, and
 * another one is too. What an image of an earlier life says is no news. */
static bool in_sync(const struct node *n, const struct image *i, const struct partition_image *p)
{
    const struct broker_image *me = image_broker(i, n->config->node_id);
    bool member = false;

    for (int r = 0; r < p->isr_count; r++)
        member = member || p->isr[r] == n->config->node_id;
    return member && p->isr_count > 1 && p->leader >= 0 && me != NULL && !me->fenced &&
           me->epoch == node_broker_epoch(n);
}

static void tell_replica(struct node *n, const struct image *i, const struct partition_image *p,
                         struct replica *r)
{
    struct partition_state state;

    fill_state(i, p, &state);
    replica_set_state(r, &state);
    log_set_in_sync(replica_log(r), in_sync(n, i, p), p->replica_count == 1);
}

static void drop_partition(struct node *n, const struct uuid *topic_id, int32_t partition)
{
    struct log *l = log_manager_find(n->logs, topic_id, partition);

    replica_manager_remove(n->replicas, topic_id, partition);
    if (l != NULL) {
        log_manager_delete(n->logs, l);
        log_unref(l);
    }
}

static void follow_partition(struct node *n, const struct transition *x,
                             const struct topic_image *t, int32_t partition,
                             const struct log_config *config)
{
    const struct partition_image *p = topic_partition(t, partition);
    struct replica *r = replica_manager_find(n->replicas, &t->id, partition);
    struct errmsg why = {""};

    if (r == NULL) {
        struct log_identity id = {.topic_id = t->id, .partition = partition};
        struct log *l = NULL;

        (void)snprintf(id.topic, sizeof id.topic, "%.*s", STR_ARG(t->name));

        enum err e = log_manager_create(n->logs, &id, config, &l, &why);

        if (e != ERR_NONE) {
            atomic_store(x->incomplete, true);
            if (!x->again)
                log_error(n->logger, "node", "%s-%d cannot be created, it is tried again: %s",
                          id.topic, partition, why.text);
            return;
        }
        if (x->again)
            log_info(n->logger, "node", "%s-%d is created now", id.topic, partition);
        log_configure(l, config);
        r = replica_manager_add(n->replicas, l, log_checkpointed_high_watermark(l));
        replica_configure(r, config);
        log_unref(l);
    }
    tell_replica(n, x->after, p, r);
    replica_unref(r);
}

/* ---- whose a folder is ---- */

static bool is_assigned(const struct topic_image *t, int32_t partition, int32_t node_id)
{
    const struct partition_image *p = t != NULL ? topic_partition(t, partition) : NULL;

    return p != NULL && replica_index(p, node_id) >= 0;
}

/* Ids are random: two that share half of their bytes are one, of which some bits have changed. */
static bool resembles(const struct uuid *a, const struct uuid *b)
{
    int same = 0;

    for (size_t i = 0; i < sizeof a->b; i++)
        same += a->b[i] == b->b[i];
    return same >= (int)sizeof a->b / 2;
}

enum log_claim transitions_claim(const struct image *i, int32_t node_id,
                                 const struct log_identity *folder, struct uuid *right_id)
{
    const struct topic_image *by_id = image_topic_by_id(i, &folder->topic_id);
    const struct topic_image *by_name = image_topic(i, str_from(folder->topic));

    if (by_id != NULL && by_id == by_name)
        return is_assigned(by_id, folder->partition, node_id) ? LOG_OURS : LOG_STRAY;
    if (!is_assigned(by_name, folder->partition, node_id) ||
        (by_id == NULL && !resembles(&by_name->id, &folder->topic_id)))
        return LOG_STRAY; /* an earlier topic of this name [H19] */
    *right_id = by_name->id;
    return LOG_WRONG_ID;
}

/* ---- one topic ---- */

static void change_topic(struct node *n, const struct transition *x, const struct uuid *topic_id)
{
    const struct topic_image *before =
        x->before != NULL ? image_topic_by_id(x->before, topic_id) : NULL;
    const struct topic_image *after = image_topic_by_id(x->after, topic_id);
    int32_t was = before != NULL ? before->partition_count : 0;
    int32_t is = after != NULL ? after->partition_count : 0;
    struct topic_settings settings;

    if (after != NULL)
        config_topic_settings(n->config, x->after, after->name, &settings);
    for (int32_t p = 0; p < MAX(was, is) && !atomic_load(x->ended); p++) {
        const struct partition_image *old = p < was ? topic_partition(before, p) : NULL;
        const struct partition_image *new = p < is ? topic_partition(after, p) : NULL;
        int32_t me = n->config->node_id;

        if (old == new)
            continue; /* images share what did not change */
        if (new != NULL && replica_index(new, me) >= 0)
            follow_partition(n, x, after, p, &settings.log);
        else if (old != NULL && replica_index(old, me) >= 0)
            drop_partition(n, topic_id, p);
    }
}

static void configure_topic(struct node *n, const struct image *i, const struct topic_image *t)
{
    struct topic_settings settings;

    config_topic_settings(n->config, i, t->name, &settings);
    for (int32_t p = 0; p < t->partition_count; p++) {
        struct replica *r = replica_manager_find(n->replicas, &t->id, p);

        if (r != NULL) {
            replica_configure(r, &settings.log);
            replica_unref(r);
        }
    }
}

/* ---- the brokers ---- */

static const char *inter_broker_listener(const struct config *c)
{
    for (int i = 0; i < c->listener_count; i++)
        if (c->listeners[i].inter_broker)
            return c->listeners[i].name;
    return NULL;
}

static void tell_peer(struct node *n, const struct broker_image *b)
{
    const char *listener = inter_broker_listener(n->config);
    const struct endpoint_image *e = listener != NULL ? node_endpoint(b, listener) : NULL;
    char host[256] = "";

    if (e != NULL)
        (void)snprintf(host, sizeof host, "%.*s", STR_ARG(e->host));
    fetchers_set_peer(n->fetchers, b->id, host, e != NULL ? e->port : 0);
}

/* Where the others are, and by what they know this node: of its present registration alone. */
static void tell_fetchers(struct node *n, const struct image *i)
{
    const struct broker_image *b;

    if (n->fetchers == NULL)
        return;
    for (int32_t id = -1; (b = image_broker_next(i, id)) != NULL; id = b->id) {
        if (b->id != n->config->node_id)
            tell_peer(n, b);
        else if (b->epoch == node_broker_epoch(n))
            fetchers_set_self(n->fetchers, b->epoch, &b->incarnation);
    }
}

static void tell_partition(struct node *n, const struct image *i, const struct topic_image *t,
                           int32_t partition)
{
    const struct partition_image *p = topic_partition(t, partition);
    struct replica *r = replica_index(p, n->config->node_id) >= 0
                            ? replica_manager_find(n->replicas, &t->id, partition)
                            : NULL;

    if (r != NULL)
        tell_replica(n, i, p, r);
    replica_unref(r);
}

/* Who lives is part of each partition's state. */
static void follow_brokers(struct node *n, const struct transition *x)
{
    struct str after = STR_NULL;
    const struct topic_image *t;

    tell_fetchers(n, x->after);
    while (!x->everything && (t = image_topic_next(x->after, after)) != NULL) {
        for (int32_t p = 0; p < t->partition_count && !atomic_load(x->ended); p++)
            tell_partition(n, x->after, t, p);
        after = t->name;
    }
}

static void carry_out(struct node *n, const struct transition *x)
{
    const struct topic_image *t;

    if (x->brokers)
        follow_brokers(n, x);
    if (x->everything) {
        struct str after = STR_NULL;

        while ((t = image_topic_next(x->after, after)) != NULL) {
            change_topic(n, x, &t->id);
            after = t->name;
        }
        return;
    }
    for (int32_t i = 0; i < x->topic_count; i++)
        change_topic(n, x, &x->topics[i]);
    if (x->all_configs) {
        struct str after = STR_NULL;

        while ((t = image_topic_next(x->after, after)) != NULL) {
            configure_topic(n, x->after, t);
            after = t->name;
        }
        return;
    }
    for (int32_t i = 0; i < x->config_topic_count; i++)
        if ((t = image_topic(x->after, x->config_topics[i])) != NULL)
            configure_topic(n, x->after, t);
}

/* ---- the queue ---- */

static void transition_free(struct transition *x)
{
    if (x->before != NULL)
        image_unref(x->before);
    image_unref(x->after);
    free(x->topics);
    free(x->config_topics);
    free(x->names);
    free(x);
}

static void wake_waiters(struct transitions *t) REQUIRES(t->lock)
{
    list_for_each_safe (node, &t->waiters) {
        struct waiter *w = list_entry(node, struct waiter, node);

        if (w->sequence <= t->done) {
            list_remove(&w->node);
            loop_post(w->loop, w->message);
            free(w);
        }
    }
}

static void work(struct job *j)
{
    struct transitions *t = CONTAINER_OF(j, struct transitions, job);

    mutex_lock(&t->lock);
    while (!list_empty(&t->queue)) {
        struct transition *x = list_entry(list_pop_front(&t->queue), struct transition, node);

        mutex_unlock(&t->lock);
        carry_out(t->owner, x);
        transition_free(x);
        mutex_lock(&t->lock);
        t->done++;
        wake_waiters(t);
    }
    t->running = false;
    mutex_unlock(&t->lock);
}

static void run_if_needed(struct transitions *t) REQUIRES(t->lock)
{
    if (!t->begun || t->running || list_empty(&t->queue))
        return;
    t->running = true;
    t->job.work = work;
    t->job.report_to = NULL;
    env_pool_submit(t->owner->env, JOB_SHORT, &t->job);
}

static void enqueue(struct transitions *t, struct transition *x) REQUIRES(t->lock)
{
    x->ended = &t->ended;
    x->incomplete = &t->incomplete;
    list_push_back(&t->queue, &x->node);
    t->pushed++;
    run_if_needed(t);
}

struct transitions *transitions_new(struct node *n)
{
    struct transitions *t = xcalloc(1, sizeof *t);

    t->owner = n;
    mutex_init(&t->lock, n->env);
    list_init(&t->queue);
    list_init(&t->waiters);
    return t;
}

void transitions_free(struct transitions *t) NO_LOCK_CHECK
{
    struct list_node *n;

    while ((n = list_pop_front(&t->queue)) != NULL)
        transition_free(list_entry(n, struct transition, node));
    while ((n = list_pop_front(&t->waiters)) != NULL)
        free(list_entry(n, struct waiter, node));
    mutex_deinit(&t->lock);
    free(t);
}

void transitions_begin(struct transitions *t)
{
    struct transition *x = xcalloc(1, sizeof *x);

    x->after = image_slot_acquire(&t->owner->images);
    x->everything = x->brokers = true;
    mutex_lock(&t->lock);
    t->begun = true;
    enqueue(t, x);
    mutex_unlock(&t->lock);
}

void transitions_retry(struct transitions *t, uint64_t now_ns)
{
    if (now_ns - t->retried_ns < RETRY_NS || !atomic_exchange(&t->incomplete, false))
        return;
    t->retried_ns = now_ns;

    struct transition *x = xcalloc(1, sizeof *x);

    x->after = image_slot_acquire(&t->owner->images);
    x->everything = x->again = true;
    mutex_lock(&t->lock);
    enqueue(t, x);
    mutex_unlock(&t->lock);
}

static void copy_configs(struct transition *x, const struct image_delta *d)
{
    size_t bytes = 0, used = 0;

    for (int32_t i = 0; i < d->config_count; i++) {
        if (d->configs[i].type == CONFIG_BROKER)
            x->all_configs = true;
        else if (d->configs[i].type == CONFIG_TOPIC)
            bytes += (size_t)d->configs[i].name.len;
    }
    x->names = xmalloc(bytes + 1);
    x->config_topics = xcalloc((size_t)d->config_count + 1, sizeof *x->config_topics);
    for (int32_t i = 0; i < d->config_count; i++) {
        struct str name = d->configs[i].name;

        if (d->configs[i].type != CONFIG_TOPIC)
            continue;
        memcpy(x->names + used, name.ptr, (size_t)name.len);
        x->config_topics[x->config_topic_count++] = (struct str){x->names + used, name.len};
        used += (size_t)name.len;
    }
}

void transitions_push(struct transitions *t, const struct image_delta *d)
{
    mutex_lock(&t->lock);
    if (t->begun && (d->topic_count > 0 || d->config_count > 0 || d->brokers_changed)) {
        struct transition *x = xcalloc(1, sizeof *x);

        x->before = image_ref((struct image *)(uintptr_t)d->before);
        x->after = image_ref((struct image *)(uintptr_t)d->after);
        x->brokers = d->brokers_changed;
        x->topic_count = d->topic_count;
        x->topics = xcalloc((size_t)d->topic_count + 1, sizeof *x->topics);
        for (int32_t i = 0; i < d->topic_count; i++)
            x->topics[i] = d->topics[i].id;
        copy_configs(x, d);
        enqueue(t, x);
    }
    mutex_unlock(&t->lock);
}

void transitions_after(struct transitions *t, struct loop *loop, struct message *m)
{
    mutex_lock(&t->lock);
    if (t->done >= t->pushed) {
        loop_post(loop, m);
    } else {
        struct waiter *w = xcalloc(1, sizeof *w);

        *w = (struct waiter){.sequence = t->pushed, .loop = loop, .message = m};
        list_push_back(&t->waiters, &w->node);
    }
    mutex_unlock(&t->lock);
}

void transitions_end(struct transitions *t, struct loop *loop, struct message *m)
{
    struct list_node *n;

    atomic_store(&t->ended, true);
    mutex_lock(&t->lock);
    t->begun = false;
    while ((n = list_pop_front(&t->queue)) != NULL) {
        transition_free(list_entry(n, struct transition, node));
        t->done++;
    }
    mutex_unlock(&t->lock);
    transitions_after(t, loop, m);
}
