#include "broker/worker.h"

#include <stdio.h>
#include <stdlib.h>

#include "broker/conn.h"
#include "broker/dispatch.h"
#include "broker/node.h"
#include "broker/request.h"
#include "broker/topic_settings_cache.h"
#include "protocol/api.h"
#include "protocol/compress.h"

#define TICK_NS       1000000000u
#define DRAIN_TICK_NS 5000000u

/* ---- receive buffers ---- */

struct frame_buffer {
    struct iobuf iobuf;
    struct frame_buffer *next; /* in the cache */
    struct worker *worker;
    size_t capacity;
    uint8_t bytes[];
};

/* The class whose capacity is the least power of two >= size; FRAME_CLASSES when none is. */
static size_t frame_class(size_t size)
{
    size_t class = 0;

    while (class < FRAME_CLASSES && ((size_t)4096 << class) < size)
        class ++;
    return class;
}

/* Frames live and die on their worker. */
static void frame_release(struct iobuf *b)
{
    struct frame_buffer *f = CONTAINER_OF(b, struct frame_buffer, iobuf);
    struct worker *w = f->worker;
    size_t class = frame_class(f->capacity);

    if (class == FRAME_CLASSES || w->frames_cached_bytes + f->capacity > FRAME_CACHE_BYTES_MAX) {
        free(f);
        return;
    }
    f->next = w->frames[class];
    w->frames[class] = f;
    w->frames_cached_bytes += f->capacity;
}

struct iobuf *worker_frame_new(struct worker *w, size_t size)
{
    size_t class = frame_class(size);
    struct frame_buffer *f = class < FRAME_CLASSES ? w->frames[class] : NULL;

    if (f != NULL) {
        w->frames[class] = f->next;
        w->frames_cached_bytes -= f->capacity;
    } else {
        size_t capacity = class < FRAME_CLASSES ? (size_t)4096 << class : size;

        f = xmalloc(sizeof *f + capacity);
        f->capacity = capacity;
        f->worker = w;
    }
    f->iobuf = (struct iobuf){.len = size, .ptr = f->bytes, .release = frame_release};
    atomic_init(&f->iobuf.refs, 1);
    return &f->iobuf;
}

uint8_t *worker_frame_bytes(struct iobuf *frame)
{
    return CONTAINER_OF(frame, struct frame_buffer, iobuf)->bytes;
}

/* ---- who misbehaved ---- */

struct bad_peer {
    struct hmap_node node;
    char text[96]; /* "host reason" cut to fit */
};

static void forget_bad_peers(struct worker *w)
{
    struct hmap_node *n;

    while ((n = hmap_begin(&w->bad_peers)) != NULL) {
        hmap_remove(&w->bad_peers, n);
        free(CONTAINER_OF(n, struct bad_peer, node));
    }
}

bool worker_first_offence(struct worker *w, const char *host, const char *reason)
{
    struct bad_peer key;

    memset(key.text, 0, sizeof key.text);
    (void)snprintf(key.text, sizeof key.text, "%s %s", host, reason);

    uint64_t hash = hmap_hash(&w->bad_peers, key.text, sizeof key.text);

    for (struct hmap_node *n = hmap_first_with_hash(&w->bad_peers, hash); n != NULL;
         n = hmap_next_with_hash(n))
        if (memcmp(CONTAINER_OF(n, struct bad_peer, node)->text, key.text, sizeof key.text) == 0)
            return false;
    if (w->bad_peers.count >= BAD_PEERS_REMEMBERED)
        forget_bad_peers(w);

    struct bad_peer *p = xcalloc(1, sizeof *p);

    memcpy(p->text, key.text, sizeof p->text);
    hmap_insert(&w->bad_peers, &p->node, hash);
    return true;
}

/* ---- turns ---- */

struct image *worker_image(struct worker *w)
{
    return image_cache_get(&w->images);
}

static void on_turn_end(void *ctx)
{
    conn_flush_all(ctx);
}

/* While closing: requests that wait for an event are told that their time is over; the node hears
 * once the last one has ended. */
static void drain(struct worker *w)
{
    if (list_empty(&w->orphans)) {
        loop_timer_stop(&w->tick);
        node_worker_quiet(w->node);
        return;
    }
    list_for_each_safe (n, &w->orphans)
        request_expire(list_entry(n, struct request, node));
    loop_timer_set(&w->tick, loop_now_ns(w->loop) + DRAIN_TICK_NS);
}

static void on_tick(struct loop_timer *t)
{
    struct worker *w = CONTAINER_OF(t, struct worker, tick);
    uint64_t now_ns = loop_now_ns(w->loop);

    if (w->closing) {
        drain(w);
        return;
    }
    conn_check_idle(w, now_ns);
    loop_timer_set(&w->tick, now_ns + TICK_NS);
}

/* ---- life ---- */

static void on_start(struct loop *loop, void *ctx)
{
    struct worker *w = ctx;

    w->loop = loop;
    loop_on_turn_end(loop, on_turn_end, w);
    loop_timer_init(&w->tick, loop, on_tick);
    loop_timer_set(&w->tick, env_now_ns(loop->env) + TICK_NS);
}

enum err worker_new(struct node *n, int index, struct worker **out, struct errmsg *why)
{
    struct worker *w = xcalloc(1, sizeof *w);
    char name[16];

    w->node = n;
    w->index = index;
    list_init(&w->conns);
    list_init(&w->starved);
    list_init(&w->flush);
    list_init(&w->orphans);
    list_init(&w->producer_id_waiters);
    hmap_init(&w->bad_peers, env_random_u64(n->env));
    image_cache_init(&w->images, &n->images);
    w->scratch = xmalloc(WORKER_SCRATCH_BYTES);
    w->topic_settings = topic_settings_cache_new(n->config, w->bad_peers.seed);
    w->decompressor = xmalloc(sizeof *w->decompressor);
    decompressor_init(w->decompressor);
    w->inflight_bytes_max = n->config->queued_max_request_bytes / n->config->workers;
    for (size_t i = 0; i < ARRAY_COUNT(w->metrics.latency); i++)
        if (api_find((int16_t)i) != NULL)
            w->metrics.latency[i] = xcalloc(1, sizeof *w->metrics.latency[i]);

    (void)snprintf(name, sizeof name, "fluxmq-worker%d", index);

    struct loop *loop; /* w->loop is set by on_start: the thread runs already when this returns */
    enum err e = env_loop_new(n->env, name, on_start, w, &loop, why);

    if (e != ERR_NONE) {
        topic_settings_cache_free(w->topic_settings);
        decompressor_deinit(w->decompressor);
        free(w->decompressor);
        free(w->scratch);
        free(w);
        return e;
    }
    *out = w;
    return ERR_NONE;
}

struct closing {
    struct message message;
    struct worker *worker;
};

static void on_close(struct message *m)
{
    struct worker *w = CONTAINER_OF(m, struct closing, message)->worker;
    struct list_node *n;

    w->closing = true;
    while ((n = list_first(&w->conns)) != NULL)
        conn_close(conn_of_node(n));
    free(CONTAINER_OF(m, struct closing, message));
    loop_timer_set(&w->tick, loop_now_ns(w->loop)); /* drain, after what is posted already */
}

void worker_close_connections(struct worker *w)
{
    struct closing *c = xcalloc(1, sizeof *c);

    c->worker = w;
    c->message.run = on_close;
    loop_post(w->loop, &c->message);
}

void worker_free(struct worker *w)
{
    env_loop_stop(w->loop);
    forget_bad_peers(w);
    hmap_deinit(&w->bad_peers);
    image_cache_deinit(&w->images);
    for (size_t i = 0; i < FRAME_CLASSES; i++) {
        for (struct frame_buffer *f = w->frames[i], *next; f != NULL; f = next) {
            next = f->next;
            free(f);
        }
    }
    for (size_t i = 0; i < ARRAY_COUNT(w->metrics.latency); i++)
        free(w->metrics.latency[i]);
    topic_settings_cache_free(w->topic_settings);
    decompressor_deinit(w->decompressor);
    free(w->decompressor);
    free(w->scratch);
    free(w);
}
