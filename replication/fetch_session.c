#include "replication/fetch_session.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base/hmap.h"
#include "protocol/base/list.h"

/* Kafka's min.incremental.fetch.session.eviction.ms. */
#define EVICTION_NS (120ull * 1000000000u)

/* Request epochs with a meaning of their own (KIP-227). */
#define EPOCH_INITIAL 0
#define EPOCH_FINAL   (-1)

/* A partition in a session. Counted under the cache's lock: contexts outlive its removal, and
 * borrow its name. */
struct cached {
    struct list_node order; /* in the session; unlinked once removed */
    struct hmap_node node;
    int refs;
    struct fetch_partition at; /* as last requested; topic_name is `name` or null */
    /* As last told; -1: not, or an error was. */
    int64_t high_watermark, log_start_offset;
    char name[];
};

struct fetch_session {
    struct hmap_node node;      /* in the cache by id, while `cached_here` */
    struct list_node last_used; /* in the cache, the longest unused first */
    int refs;                   /* the cache's and each context's, under the cache's lock */
    bool cached_here;
    int32_t id, epoch;
    bool privileged, by_topic_id;
    /* Kafka decides both when a session is used, not when room is wanted. */
    bool evictable_by_all, evictable_by_privileged;
    uint64_t created_ns, used_ns;
    struct list order;      /* of struct cached */
    struct hmap partitions; /* of struct cached */
};

struct fetch_session_cache {
    struct env *env;
    int32_t slots;
    struct mutex lock;
    struct hmap sessions GUARDED_BY(lock);
    struct list last_used GUARDED_BY(lock);
    int64_t partition_count GUARDED_BY(lock); /* in all sessions */
    _Atomic int64_t shown_sessions, shown_partitions;
    struct counter evictions GUARDED_BY(lock);
    uint64_t seed;
};

enum context_kind { CONTEXT_SESSIONLESS, CONTEXT_FULL, CONTEXT_INCREMENTAL };

struct context_item {
    struct fetch_partition at;
    struct cached *entry; /* incremental: one reference */
    int64_t high_watermark, log_start_offset;
};

struct fetch_context {
    struct fetch_session_cache *cache;
    enum context_kind kind;
    bool privileged, by_topic_id;
    struct fetch_session *session; /* incremental: one reference */
    int32_t session_epoch;         /* as this request left it */
    int32_t count;
    struct context_item items[];
};

/* ---- one session's partitions ---- */

static uint64_t partition_hash(uint64_t seed, const struct fetch_partition *p, bool by_topic_id)
{
    uint64_t s = seed ^ ((uint64_t)(uint32_t)p->partition * 0x9e3779b97f4a7c15ull);

    if (by_topic_id)
        return hash_bytes(s, p->topic_id.b, sizeof p->topic_id.b);
    return hash_bytes(s, p->topic_name.ptr, (size_t)MAX(p->topic_name.len, 0));
}

static bool same_partition(const struct fetch_partition *a, const struct fetch_partition *b,
                           bool by_topic_id)
{
    if (a->partition != b->partition)
        return false;
    return by_topic_id ? uuid_eq(&a->topic_id, &b->topic_id) : str_eq(a->topic_name, b->topic_name);
}

static struct cached *session_find(const struct fetch_session *s, const struct fetch_partition *p)
{
    uint64_t hash = partition_hash(s->partitions.seed, p, s->by_topic_id);

    for (struct hmap_node *n = hmap_first_with_hash(&s->partitions, hash); n != NULL;
         n = hmap_next_with_hash(n)) {
        struct cached *e = CONTAINER_OF(n, struct cached, node);

        if (same_partition(&e->at, p, s->by_topic_id))
            return e;
    }
    return NULL;
}

static void cached_unref(struct cached *e)
{
    if (--e->refs == 0)
        free(e);
}

/* Takes what is requested; the name stays the entry's own. A follower that names a partition says
 * what it has: an answer that it has dropped as stale told it nothing. */
static void cached_request(struct cached *e, const struct fetch_partition *p, bool from_follower)
{
    struct str name = e->at.topic_name;

    e->at = *p;
    e->at.topic_name = name;
    if (from_follower) {
        e->high_watermark = p->high_watermark;
        e->log_start_offset = p->log_start_offset;
    }
}

static struct cached *session_add(struct fetch_session *s, const struct fetch_partition *p)
{
    size_t name_size = s->by_topic_id ? 0 : (size_t)MAX(p->topic_name.len, 0);
    struct cached *e = xcalloc(1, sizeof *e + name_size);

    e->refs = 1;
    e->high_watermark = -1;
    e->log_start_offset = -1;
    if (s->by_topic_id) {
        e->at.topic_name = STR_NULL;
    } else {
        if (name_size > 0)
            memcpy(e->name, p->topic_name.ptr, name_size);
        e->at.topic_name = (struct str){e->name, (int32_t)name_size};
    }
    cached_request(e, p, s->privileged);
    list_push_back(&s->order, &e->order);
    hmap_insert(&s->partitions, &e->node, partition_hash(s->partitions.seed, p, s->by_topic_id));
    return e;
}

static void session_remove(struct fetch_session *s, struct cached *e)
{
    list_remove(&e->order);
    hmap_remove(&s->partitions, &e->node);
    cached_unref(e);
}

static void session_unref(struct fetch_session *s)
{
    struct list_node *n;

    if (--s->refs > 0)
        return;
    CHECK(!s->cached_here);
    while ((n = list_first(&s->order)) != NULL)
        session_remove(s, list_entry(n, struct cached, order));
    hmap_deinit(&s->partitions);
    free(s);
}

/* ---- the cache ---- */

struct fetch_session_cache *fetch_session_cache_new(struct env *env, int32_t slots)
{
    struct fetch_session_cache *c = xcalloc(1, sizeof *c);

    c->env = env;
    c->slots = slots;
    c->seed = env_random_u64(env);
    mutex_init(&c->lock, env);
    hmap_init(&c->sessions, c->seed);
    list_init(&c->last_used);
    return c;
}

static struct fetch_session *cache_find(struct fetch_session_cache *c, int32_t id) REQUIRES(c->lock)
{
    uint64_t hash = hmap_hash(&c->sessions, &id, sizeof id);

    for (struct hmap_node *n = hmap_first_with_hash(&c->sessions, hash); n != NULL;
         n = hmap_next_with_hash(n)) {
        struct fetch_session *s = CONTAINER_OF(n, struct fetch_session, node);

        if (s->id == id)
            return s;
    }
    return NULL;
}

static void show(struct fetch_session_cache *c) REQUIRES(c->lock)
{
    atomic_store_explicit(&c->shown_sessions, (int64_t)c->sessions.count, memory_order_relaxed);
    atomic_store_explicit(&c->shown_partitions, c->partition_count, memory_order_relaxed);
}

static void cache_remove(struct fetch_session_cache *c, struct fetch_session *s) REQUIRES(c->lock)
{
    hmap_remove(&c->sessions, &s->node);
    list_remove(&s->last_used);
    s->cached_here = false;
    c->partition_count -= (int64_t)s->partitions.count;
    session_unref(s);
}

void fetch_session_cache_free(struct fetch_session_cache *c)
{
    struct list_node *n;

    if (c == NULL)
        return;
    mutex_lock(&c->lock);
    while ((n = list_first(&c->last_used)) != NULL)
        cache_remove(c, list_entry(n, struct fetch_session, last_used));
    mutex_unlock(&c->lock);
    hmap_deinit(&c->sessions);
    mutex_deinit(&c->lock);
    free(c);
}

static double read_sessions(void *ctx)
{
    struct fetch_session_cache *c = ctx;

    return (double)atomic_load_explicit(&c->shown_sessions, memory_order_relaxed);
}

static double read_partitions(void *ctx)
{
    struct fetch_session_cache *c = ctx;

    return (double)atomic_load_explicit(&c->shown_partitions, memory_order_relaxed);
}

void fetch_session_cache_register_metrics(struct fetch_session_cache *c, struct metrics *m)
{
    metrics_add_callback(m, METRIC_GAUGE,
                         "kafka_server_fetchsessioncache_numincrementalfetchsessions", "",
                         "Incremental fetch sessions", read_sessions, c);
    metrics_add_callback(m, METRIC_GAUGE,
                         "kafka_server_fetchsessioncache_numincrementalfetchpartitionscached", "",
                         "Partitions in incremental fetch sessions", read_partitions, c);
    metrics_add(m, METRIC_COUNTER,
                "kafka_server_fetchsessioncache_incrementalfetchsessionevictions_total", "",
                "Incremental fetch sessions that made room for others", &c->evictions);
}

static void cache_touch(struct fetch_session_cache *c, struct fetch_session *s, uint64_t now_ns)
    REQUIRES(c->lock)
{
    bool old = now_ns - s->created_ns > EVICTION_NS;

    if (list_linked(&s->last_used))
        list_remove(&s->last_used);
    list_push_back(&c->last_used, &s->last_used);
    s->used_ns = now_ns;
    s->evictable_by_all = old;
    s->evictable_by_privileged = old || !s->privileged;
}

/* Less valuable: not a follower's before a follower's, fewer partitions before more, older id. */
static bool less_valuable(const struct fetch_session *a, const struct fetch_session *b)
{
    if (a->privileged != b->privileged)
        return !a->privileged;
    if (a->partitions.count != b->partitions.count)
        return a->partitions.count < b->partitions.count;
    return a->id < b->id;
}

static struct fetch_session *least_valuable(struct fetch_session_cache *c, bool for_privileged)
    REQUIRES(c->lock)
{
    struct fetch_session *least = NULL;

    list_for_each (n, &c->last_used) {
        struct fetch_session *s = list_entry(n, struct fetch_session, last_used);

        if ((for_privileged ? s->evictable_by_privileged : s->evictable_by_all) &&
            (least == NULL || less_valuable(s, least)))
            least = s;
    }
    return least;
}

/* Kafka's rule: first one that was not used for two minutes, then the least valuable of those
 * that may be evicted, if the new one is worth more. */
static bool make_room(struct fetch_session_cache *c, bool privileged, size_t size, uint64_t now_ns)
    REQUIRES(c->lock)
{
    struct list_node *oldest = list_first(&c->last_used);

    if ((int64_t)c->sessions.count < c->slots)
        return true;
    if (oldest == NULL)
        return false;

    struct fetch_session *s = list_entry(oldest, struct fetch_session, last_used);

    if (now_ns - s->used_ns <= EVICTION_NS) {
        s = least_valuable(c, privileged);
        if (s == NULL || (s->privileged && !privileged) ||
            (s->privileged == privileged && s->partitions.count >= size))
            return false;
    }
    cache_remove(c, s);
    counter_add(&c->evictions, 1);
    return true;
}

static int32_t new_session_id(struct fetch_session_cache *c) REQUIRES(c->lock)
{
    int32_t id;

    do
        id = (int32_t)(env_random_u64(c->env) & INT32_MAX);
    while (id == 0 || cache_find(c, id) != NULL);
    return id;
}

static int32_t next_epoch(int32_t epoch)
{
    return epoch == INT32_MAX ? 1 : epoch + 1;
}

/* ---- contexts ---- */

static struct fetch_context *context_new(struct fetch_session_cache *c, enum context_kind kind,
                                         const struct fetch_request_view *q, size_t capacity)
{
    struct fetch_context *x = xcalloc(1, sizeof *x + capacity * sizeof x->items[0]);

    x->cache = c;
    x->kind = kind;
    x->privileged = q->from_follower;
    x->by_topic_id = q->by_topic_id;
    return x;
}

/* For finding repetitions in one request. */
struct seen {
    struct hmap_node node;
    int32_t item;
};

static int32_t find_seen(const struct hmap *m, const struct fetch_context *x,
                         const struct fetch_partition *p, uint64_t hash)
{
    for (struct hmap_node *n = hmap_first_with_hash(m, hash); n != NULL;
         n = hmap_next_with_hash(n)) {
        int32_t i = CONTAINER_OF(n, struct seen, node)->item;

        if (same_partition(&x->items[i].at, p, x->by_topic_id))
            return i;
    }
    return -1;
}

/* A context of just what the request names. */
static struct fetch_context *context_of_request(struct fetch_session_cache *c,
                                                enum context_kind kind,
                                                const struct fetch_request_view *q)
{
    size_t count = (size_t)q->partition_count;
    struct fetch_context *x = context_new(c, kind, q, count);
    struct seen *seen = count > 1 ? xcalloc(count, sizeof *seen) : NULL;
    struct hmap by_key;

    hmap_init(&by_key, c->seed);
    for (size_t i = 0; i < count; i++) {
        const struct fetch_partition *p = &q->partitions[i];

        if (seen != NULL) {
            uint64_t hash = partition_hash(c->seed, p, q->by_topic_id);
            int32_t before = find_seen(&by_key, x, p, hash);

            if (before >= 0) {
                x->items[before].at = *p;
                continue;
            }
            seen[i].item = x->count;
            hmap_insert(&by_key, &seen[i].node, hash);
        }
        x->items[x->count++].at = *p;
    }
    hmap_deinit(&by_key);
    free(seen);
    return x;
}

static struct fetch_context *context_of_session(struct fetch_session_cache *c,
                                                const struct fetch_request_view *q,
                                                struct fetch_session *s) REQUIRES(c->lock)
{
    struct fetch_context *x = context_new(c, CONTEXT_INCREMENTAL, q, s->partitions.count);

    s->refs++;
    x->session = s;
    x->session_epoch = s->epoch;
    list_for_each (n, &s->order) {
        struct cached *e = list_entry(n, struct cached, order);

        e->refs++;
        x->items[x->count++] = (struct context_item){
            .at = e->at,
            .entry = e,
            .high_watermark = e->high_watermark,
            .log_start_offset = e->log_start_offset,
        };
    }
    return x;
}

/* What the request adds, changes and forgets; ERR_FETCH_SESSION_ID_NOT_FOUND when the cache
 * cannot hold it: the session is closed, and the client comes back with a full request. */
static enum err session_update(struct fetch_session_cache *c, struct fetch_session *s,
                               const struct fetch_request_view *q) REQUIRES(c->lock)
{
    for (int32_t i = 0; i < q->partition_count; i++) {
        struct cached *e = session_find(s, &q->partitions[i]);

        if (e != NULL) {
            cached_request(e, &q->partitions[i], s->privileged);
            continue;
        }
        if (c->partition_count >= FETCH_SESSION_PARTITIONS_MAX) {
            cache_remove(c, s);
            return ERR_FETCH_SESSION_ID_NOT_FOUND;
        }
        (void)session_add(s, &q->partitions[i]);
        c->partition_count++;
    }
    for (int32_t i = 0; i < q->forgotten_count; i++) {
        struct cached *e = session_find(s, &q->forgotten[i]);

        if (e == NULL)
            continue;
        session_remove(s, e);
        c->partition_count--;
    }
    return ERR_NONE;
}

static enum err begin_incremental(struct fetch_session_cache *c, const struct fetch_request_view *q,
                                  uint64_t now_ns, struct fetch_context **out) REQUIRES(c->lock)
{
    struct fetch_session *s = cache_find(c, q->session_id);

    if (s == NULL)
        return ERR_FETCH_SESSION_ID_NOT_FOUND;
    if (s->epoch != q->session_epoch)
        return ERR_INVALID_FETCH_SESSION_EPOCH;
    if (s->by_topic_id != q->by_topic_id)
        return ERR_FETCH_SESSION_TOPIC_ID_ERROR;
    if (s->privileged != q->from_follower) /* somebody else's */
        return ERR_FETCH_SESSION_ID_NOT_FOUND;

    enum err e = session_update(c, s, q);

    if (e != ERR_NONE)
        return e;
    if (s->partitions.count == 0) {
        cache_remove(c, s);
        *out = context_of_request(c, CONTEXT_SESSIONLESS, q);
        return ERR_NONE;
    }
    cache_touch(c, s, now_ns);
    s->epoch = next_epoch(s->epoch);
    *out = context_of_session(c, q, s);
    return ERR_NONE;
}

enum err fetch_session_begin(struct fetch_session_cache *c, const struct fetch_request_view *q,
                             uint64_t now_ns, struct fetch_context **out)
{
    bool full = q->session_epoch == EPOCH_INITIAL || q->session_epoch == EPOCH_FINAL;
    enum err e = ERR_NONE;

    *out = NULL;
    if (q->partition_count > FETCH_SESSION_PARTITIONS_MAX)
        return ERR_TOO_LARGE;
    if (full && q->session_id == 0) { /* no session is touched: no lock */
        *out = context_of_request(
            c, q->session_epoch == EPOCH_FINAL ? CONTEXT_SESSIONLESS : CONTEXT_FULL, q);
        return ERR_NONE;
    }
    mutex_lock(&c->lock);
    if (full) {
        /* A full request closes the session that it names. */
        struct fetch_session *s = cache_find(c, q->session_id);

        if (s != NULL)
            cache_remove(c, s);
        *out = context_of_request(
            c, q->session_epoch == EPOCH_FINAL ? CONTEXT_SESSIONLESS : CONTEXT_FULL, q);
    } else {
        e = begin_incremental(c, q, now_ns, out);
    }
    show(c);
    mutex_unlock(&c->lock);
    return e;
}

void fetch_session_end(struct fetch_context *x)
{
    if (x == NULL)
        return;
    if (x->session != NULL) {
        struct fetch_session_cache *c = x->cache;

        mutex_lock(&c->lock);
        for (int32_t i = 0; i < x->count; i++)
            cached_unref(x->items[i].entry);
        session_unref(x->session);
        mutex_unlock(&c->lock);
    }
    free(x);
}

int32_t fetch_context_count(const struct fetch_context *x)
{
    return x->count;
}

const struct fetch_partition *fetch_context_at(const struct fetch_context *x, int32_t i)
{
    CHECK(i >= 0 && i < x->count);
    return &x->items[i].at;
}

int64_t fetch_context_told_high_watermark(const struct fetch_context *x, int32_t i)
{
    CHECK(i >= 0 && i < x->count);

    const struct context_item *item = &x->items[i];

    return x->kind == CONTEXT_INCREMENTAL ? item->high_watermark : item->at.high_watermark;
}

bool fetch_context_includes(const struct fetch_context *x, int32_t i, const struct fetch_outcome *o)
{
    CHECK(i >= 0 && i < x->count);

    const struct context_item *item = &x->items[i];

    if (x->kind != CONTEXT_INCREMENTAL)
        return true;
    return o->records_bytes > 0 || o->err != ERR_NONE || o->diverging ||
           o->preferred_read_replica >= 0 || o->high_watermark != item->high_watermark ||
           o->log_start_offset != item->log_start_offset;
}

/* After an error the high watermark counts as not told, so that the partition is told again once
 * the error is over. */
static void cached_told(struct cached *e, const struct fetch_outcome *o)
{
    e->high_watermark = o->err != ERR_NONE ? -1 : o->high_watermark;
    e->log_start_offset = o->log_start_offset;
}

static enum err commit_incremental(struct fetch_session_cache *c, struct fetch_context *x,
                                   const struct fetch_outcome *outcomes) REQUIRES(c->lock)
{
    CHECK(x->cache == c);

    struct fetch_session *s = x->session;

    if (s->epoch != x->session_epoch)
        return ERR_INVALID_FETCH_SESSION_EPOCH;
    for (int32_t i = 0; i < x->count; i++) {
        struct cached *e = x->items[i].entry;

        if (!fetch_context_includes(x, i, &outcomes[i]))
            continue;
        cached_told(e, &outcomes[i]);
        if (outcomes[i].records_bytes > 0 && list_linked(&e->order)) {
            list_remove(&e->order);
            list_push_back(&s->order, &e->order);
        }
    }
    return ERR_NONE;
}

static int32_t create_session(struct fetch_session_cache *c, struct fetch_context *x,
                              const struct fetch_outcome *outcomes, uint64_t now_ns)
    REQUIRES(c->lock)
{
    if (x->count == 0 || c->partition_count + x->count > FETCH_SESSION_PARTITIONS_MAX ||
        !make_room(c, x->privileged, (size_t)x->count, now_ns))
        return 0;

    struct fetch_session *s = xcalloc(1, sizeof *s);

    s->refs = 1;
    s->cached_here = true;
    s->id = new_session_id(c);
    s->epoch = next_epoch(EPOCH_INITIAL);
    s->privileged = x->privileged;
    s->by_topic_id = x->by_topic_id;
    s->created_ns = now_ns;
    list_init(&s->order);
    hmap_init(&s->partitions, c->seed);
    for (int32_t i = 0; i < x->count; i++)
        cached_told(session_add(s, &x->items[i].at), &outcomes[i]);
    c->partition_count += x->count;
    hmap_insert(&c->sessions, &s->node, hmap_hash(&c->sessions, &s->id, sizeof s->id));
    cache_touch(c, s, now_ns);
    return s->id;
}

enum err fetch_session_commit(struct fetch_context *x, const struct fetch_outcome *outcomes,
                              uint64_t now_ns, int32_t *session_id)
{
    struct fetch_session_cache *c = x->cache;
    enum err e = ERR_NONE;

    *session_id = 0;
    if (x->kind == CONTEXT_SESSIONLESS)
        return ERR_NONE;
    mutex_lock(&c->lock);
    if (x->kind == CONTEXT_INCREMENTAL) {
        e = commit_incremental(c, x, outcomes);
        *session_id = x->session->id;
    } else {
        *session_id = create_session(c, x, outcomes, now_ns);
    }
    show(c);
    mutex_unlock(&c->lock);
    return e;
}
