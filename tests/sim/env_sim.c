#include "tests/sim/env_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/heap.h"
#include "tests/sim/disk_sim.h"

#define UNIX_MS_BEGIN     1750000000000 /* the wall clock at virtual time 0 */
#define COST_LEAST_NS     SIM_US(2)     /* of a turn or a job */
#define COST_MOST_NS      SIM_US(50)
#define TIMER_LATE_NS     SIM_MS(1)
#define READS_CUT_ONE_IN  8
#define FILE_SEND_BYTES   ((size_t)32 << 10)
#define ACCEPTS_PER_EVENT 64
#define HANGUPS_ONE_IN    8 /* of the resets are told as such */

/* What a fiber of the process is to the product. */
struct thread {
    struct fiber *fiber;
    struct sim_loop *loop; /* NULL: a pool thread, or the main one */
    int held;              /* locks */
    bool is_worker;
};

struct pool {
    struct list jobs;
    struct list idle; /* struct pool_thread */
    int busy;
    struct fiber *drainer; /* waits for both to be empty */
};

struct pool_thread {
    struct list_node node;
    struct env_sim *env;
    struct pool *pool;
    struct fiber *fiber;
};

struct env_sim {
    struct env env;
    struct env_sim_options o;
    struct sim *sim;
    struct pool pools[2];
    int held; /* locks, of all threads */
};

/* Something that a loop looks at: a stream or a listener. */
struct source {
    struct list_node node; /* in the loop's `ready` or `closed` */
    struct sim_loop *loop; /* NULL: not attached */
    unsigned (*events)(const struct source *s);
    void (*run)(struct source *s, unsigned events);
    bool closed;
};

struct sim_loop {
    struct loop loop;
    struct env_sim *env;
    struct fiber *fiber;
    struct list mailbox;
    struct list ready, closed; /* sources; a closed one is freed when the turn is over */
    struct heap timers;
    int source_count;
    uint64_t now_ns, turn_began_ns;
    void (*turn_end)(void *ctx);
    void *turn_end_ctx;
    void (*on_start)(struct loop *loop, void *ctx);
    void *start_ctx;
    struct message stop;
    bool started, stopping, over;
    struct fiber *waiter; /* for the start, or the end */
    char name[24];
};

static struct env_sim *of(struct env *env)
{
    return CONTAINER_OF(env, struct env_sim, env);
}

struct sim *env_sim_sim(struct env *env)
{
    return of(env)->sim;
}

struct process *env_sim_process(struct env *env)
{
    return of(env)->o.process;
}

struct disk *env_sim_disk(struct env *env)
{
    return of(env)->o.disk;
}

bool env_sim_is_inside(struct env *env)
{
    const struct fiber *f = fiber_current(of(env)->sim);

    return f != NULL && fiber_process(f) == of(env)->o.process;
}

/* NULL: called from outside of the process, by an oracle. */
static struct thread *thread_of(struct env *env)
{
    struct fiber *f = fiber_current(of(env)->sim);
    struct thread *t;

    if (!env_sim_is_inside(env))
        return NULL;
    t = fiber_local(f);
    if (t == NULL) {
        t = xcalloc(1, sizeof *t);
        t->fiber = f;
        fiber_set_local(f, t);
    }
    return t;
}

struct loop *env_sim_current_loop(struct env *env)
{
    const struct thread *t = thread_of(env);

    return t != NULL && t->loop != NULL ? &t->loop->loop : NULL;
}

bool env_sim_is_worker(struct env *env)
{
    const struct thread *t = thread_of(env);

    return t != NULL && t->is_worker;
}

bool env_sim_is_quiet(struct env *env)
{
    return of(env)->held == 0;
}

static void yield(struct env *env)
{
    if (env_sim_is_inside(env))
        fiber_yield_point(of(env)->sim);
}

/* ---- clock and randomness ---- */

static uint64_t sim_now_ns(struct env *env)
{
    return sim_now(of(env)->sim) + SIM_S(1); /* never 0 */
}

static int64_t sim_unix_ms(struct env *env)
{
    return UNIX_MS_BEGIN + (int64_t)(sim_now(of(env)->sim) / 1000000) + *of(env)->o.skew_ms;
}

/* The clock of the process to that of the run. */
static uint64_t run_time(uint64_t env_ns)
{
    return env_ns > SIM_S(1) ? env_ns - SIM_S(1) : 0;
}

static void sim_random_bytes(struct env *env, void *out, size_t size)
{
    uint8_t *p = out;

    while (size > 0) {
        uint64_t v = sim_random(of(env)->sim, DICE_NODE);
        size_t n = MIN(size, sizeof v);

        for (size_t i = 0; i < n; i++)
            p[i] = (uint8_t)(v >> (8 * i));
        p += n;
        size -= n;
    }
    yield(env);
}

uint64_t env_sim_turn_began(struct env *env)
{
    const struct thread *t = thread_of(env);

    return t != NULL && t->loop != NULL ? run_time(t->loop->turn_began_ns) : 0;
}

/* ---- locks ---- */

struct lock {
    struct thread *owner;
    struct list waiters;
};

struct lock_waiter {
    struct list_node node;
    struct fiber *fiber;
};

static struct lock *lock_of(struct mutex *m)
{
    _Static_assert(sizeof(struct lock) <= sizeof m->storage, "mutex storage");
    return (struct lock *)(void *)m->storage;
}

static void sim_mutex_init(struct mutex *m)
{
    lock_of(m)->owner = NULL;
    list_init(&lock_of(m)->waiters);
}

static void sim_mutex_deinit(struct mutex *m)
{
    struct lock *l = lock_of(m);

    if (l->owner != NULL || !list_empty(&l->waiters))
        sim_violation(of(m->env)->sim, "V2", "a lock is destroyed while it is held or waited for");
}

static void sim_mutex_lock(struct mutex *m)
{
    struct env_sim *e = of(m->env);
    struct thread *t = thread_of(m->env);
    struct lock *l = lock_of(m);

    if (t == NULL) { /* an oracle; it has asked env_sim_is_quiet() */
        CHECK(l->owner == NULL);
        return;
    }
    fiber_yield_point(e->sim);
    if (l->owner == t)
        sim_violation(e->sim, "V2", "a lock is taken again by the thread that holds it");
    while (l->owner != NULL) {
        struct lock_waiter w = {.fiber = t->fiber};

        list_push_back(&l->waiters, &w.node);
        while (list_linked(&w.node)) /* until unlock takes it out */
            (void)fiber_sleep_until(e->sim, UINT64_MAX);
    }
    l->owner = t;
    t->held++;
    e->held++;
}

static void sim_mutex_unlock(struct mutex *m)
{
    struct env_sim *e = of(m->env);
    struct thread *t = thread_of(m->env);
    struct lock *l = lock_of(m);
    struct list_node *first;

    if (t == NULL)
        return;
    if (l->owner != t)
        sim_violation(e->sim, "V2", "a lock is released by a thread that does not hold it");
    l->owner = NULL;
    t->held--;
    e->held--;
    first = list_pop_front(&l->waiters);
    if (first != NULL)
        fiber_wake(list_entry(first, struct lock_waiter, node)->fiber);
    fiber_yield_point(e->sim);
}

/* At the end of a turn or a job. */
static void check_no_lock_held(const struct env_sim *e, const struct thread *t, const char *what)
{
    if (t->held != 0)
        sim_violation(e->sim, "V2", "%d locks are held at the end of a %s", t->held, what);
}

static void cost(struct env_sim *e)
{
    fiber_sleep(e->sim,
                COST_LEAST_NS + sim_below(e->sim, DICE_SCHEDULE, COST_MOST_NS - COST_LEAST_NS));
}

/* ---- the pool ---- */

static void job_report(struct message *m)
{
    struct job *j = CONTAINER_OF(m, struct job, message);

    j->done(j);
}

static void run_job(struct pool_thread *p, struct job *j)
{
    struct loop *report_to = j->report_to; /* without one, `work` may free the job */

    j->work(j);
    check_no_lock_held(p->env, thread_of(&p->env->env), "job");
    cost(p->env);
    if (report_to != NULL) {
        j->message.run = job_report;
        loop_post(report_to, &j->message);
    }
}

static void pool_main(void *arg)
{
    struct pool_thread *p = arg;
    struct list_node *n;

    for (;;) {
        while ((n = list_pop_front(&p->pool->jobs)) == NULL) {
            list_push_back(&p->pool->idle, &p->node);
            if (--p->pool->busy == 0 && p->pool->drainer != NULL)
                fiber_wake(p->pool->drainer);
            while (list_linked(&p->node))
                (void)fiber_sleep_until(p->env->sim, UINT64_MAX);
            p->pool->busy++;
        }
        run_job(p, list_entry(n, struct job, node));
    }
}

static void sim_pool_submit(struct env *env, enum job_class class, struct job *j)
{
    struct pool *p = &of(env)->pools[class];
    struct list_node *n = list_pop_front(&p->idle);

    list_push_back(&p->jobs, &j->node);
    if (n != NULL)
        fiber_wake(list_entry(n, struct pool_thread, node)->fiber);
    yield(env);
}

static void pool_start(struct env_sim *e, struct pool *p, const char *name)
{
    list_init(&p->jobs);
    list_init(&p->idle);
    for (int i = 0; i < e->o.pool_threads; i++) {
        struct pool_thread *t = xcalloc(1, sizeof *t);

        t->env = e;
        t->pool = p;
        p->busy++;
        t->fiber = fiber_spawn(e->o.process, name, pool_main, t);
    }
}

void env_sim_drain(struct env *env)
{
    struct env_sim *e = of(env);

    for (size_t i = 0; i < ARRAY_COUNT(e->pools); i++) {
        struct pool *p = &e->pools[i];

        p->drainer = fiber_current(e->sim);
        while (p->busy > 0 || !list_empty(&p->jobs))
            (void)fiber_sleep_until(e->sim, UINT64_MAX);
        p->drainer = NULL;
    }
}

/* ---- loops ---- */

static struct sim_loop *loop_of(const struct loop *l)
{
    return CONTAINER_OF((struct loop *)(uintptr_t)l, struct sim_loop, loop);
}

static void check_own_thread(const struct sim_loop *l, const char *what)
{
    if (fiber_current(l->env->sim) != l->fiber)
        sim_violation(l->env->sim, "V4", "%s of loop %s is touched by another thread", what,
                      l->name);
}

static void sim_loop_post(struct loop *loop, struct message *m)
{
    struct sim_loop *l = loop_of(loop);

    if (l->over)
        sim_violation(l->env->sim, "V5", "a message is posted to loop %s, which has ended",
                      l->name);
    list_push_back(&l->mailbox, &m->node);
    fiber_wake(l->fiber);
    yield(loop->env);
}

static uint64_t sim_loop_now_ns(const struct loop *loop)
{
    return loop_of(loop)->now_ns;
}

static void sim_loop_on_turn_end(struct loop *loop, void (*fn)(void *ctx), void *ctx)
{
    loop_of(loop)->turn_end = fn;
    loop_of(loop)->turn_end_ctx = ctx;
}

static uint64_t sim_loop_turn_began_ns(const struct loop *loop)
{
    return loop_of(loop)->turn_began_ns;
}

static void hook(struct sim_loop *l)
{
    if (l->turn_end != NULL)
        l->turn_end(l->turn_end_ctx);
}

static void free_closed(struct sim_loop *l)
{
    struct list_node *n;

    while ((n = list_pop_front(&l->closed)) != NULL)
        free(list_entry(n, struct source, node));
}

/* ---- timers ---- */

static struct heap_node *timer_node(const struct loop_timer *t)
{
    _Static_assert(sizeof(struct heap_node) <= sizeof t->storage, "timer storage");
    return (struct heap_node *)(uintptr_t)t->storage;
}

static void sim_timer_init(struct loop_timer *t)
{
    heap_node_init(timer_node(t));
}

static void sim_timer_set(struct loop_timer *t, uint64_t deadline_ns)
{
    struct sim_loop *l = loop_of(t->loop);

    check_own_thread(l, "a timer");
    if (heap_contains(timer_node(t)))
        heap_remove(&l->timers, timer_node(t));
    heap_push(&l->timers, timer_node(t), deadline_ns);
}

static void sim_timer_stop(struct loop_timer *t)
{
    struct sim_loop *l = loop_of(t->loop);

    check_own_thread(l, "a timer");
    if (heap_contains(timer_node(t)))
        heap_remove(&l->timers, timer_node(t));
}

static bool sim_timer_is_set(const struct loop_timer *t)
{
    return heap_contains(timer_node(t));
}

static bool timer_is_due(const struct sim_loop *l, uint64_t now)
{
    const struct heap_node *n = heap_min(&l->timers);

    return n != NULL && n->key <= now;
}

static void run_timers(struct sim_loop *l)
{
    bool ran = false;

    while (timer_is_due(l, l->now_ns)) {
        struct heap_node *n = heap_min(&l->timers);
        struct loop_timer *t =
            (struct loop_timer *)(void *)((char *)n - offsetof(struct loop_timer, storage));

        heap_remove(&l->timers, n);
        t->fire(t);
        ran = true;
    }
    if (ran)
        hook(l);
}

/* ---- turns ---- */

static void run_messages(struct sim_loop *l)
{
    struct list batch;
    struct list_node *n;

    list_init(&batch);
    list_splice_back(&batch, &l->mailbox);
    while ((n = list_pop_front(&batch)) != NULL) {
        struct message *m = list_entry(n, struct message, node);

        m->run(m);
    }
}

/* Puts a source among those that are looked at, when something is there for it. */
static void source_changed(struct source *s)
{
    if (s->loop == NULL || s->closed || list_linked(&s->node) || s->events(s) == 0)
        return;
    list_push_back(&s->loop->ready, &s->node);
    fiber_wake(s->loop->fiber);
}

static void run_sources(struct sim_loop *l)
{
    struct list batch;
    struct list_node *n;

    list_init(&batch);
    list_splice_back(&batch, &l->ready);
    while (!list_empty(&batch)) {
        struct source *s;
        unsigned events;

        n = sim_below(l->env->sim, DICE_SCHEDULE, 2) == 0 ? batch.head.next : batch.head.prev;
        list_remove(n);
        s = list_entry(n, struct source, node);
        events = s->events(s);
        if (events != 0)
            s->run(s, events);
        source_changed(s); /* level triggered */
    }
}

static void run_turn(struct sim_loop *l)
{
    bool messages_first = sim_below(l->env->sim, DICE_SCHEDULE, 2) == 0;

    l->now_ns = l->turn_began_ns = env_now_ns(&l->env->env);
    run_timers(l);
    if (!list_empty(&l->mailbox) || !list_empty(&l->ready)) {
        if (messages_first)
            run_messages(l);
        run_sources(l);
        if (!messages_first)
            run_messages(l);
        hook(l);
    }
    free_closed(l);
    check_no_lock_held(l->env, thread_of(&l->env->env), "turn");
    cost(l->env);
}

static bool loop_has_work(const struct sim_loop *l)
{
    return !list_empty(&l->mailbox) || !list_empty(&l->ready) ||
           timer_is_due(l, env_now_ns(&l->env->env));
}

static void loop_sleep(struct sim_loop *l)
{
    const struct heap_node *n = heap_min(&l->timers);
    uint64_t until = n == NULL
                         ? UINT64_MAX
                         : run_time(n->key) + sim_below(l->env->sim, DICE_SCHEDULE, TIMER_LATE_NS);

    l->turn_began_ns = 0;
    (void)fiber_sleep_until(l->env->sim, until);
}

static void loop_main(void *arg)
{
    struct sim_loop *l = arg;
    struct thread *t = thread_of(&l->env->env);

    t->loop = l;
    t->is_worker = strstr(l->name, "worker") != NULL;
    l->now_ns = l->turn_began_ns = env_now_ns(&l->env->env);
    if (l->on_start != NULL)
        l->on_start(&l->loop, l->start_ctx);
    l->started = true;
    fiber_wake(l->waiter);
    hook(l);
    while (!l->stopping) {
        if (loop_has_work(l))
            run_turn(l);
        else
            loop_sleep(l);
    }
    l->over = true;
    fiber_wake(l->waiter);
}

static void on_stop(struct message *m)
{
    CONTAINER_OF(m, struct sim_loop, stop)->stopping = true;
}

static void sim_loop_stop(struct loop *loop)
{
    struct sim_loop *l = loop_of(loop);

    l->waiter = fiber_current(l->env->sim);
    if (l->waiter == l->fiber)
        sim_violation(l->env->sim, "V4", "loop %s is stopped by itself", l->name);
    l->stop.run = on_stop;
    loop_post(loop, &l->stop);
    while (!l->over)
        (void)fiber_sleep_until(l->env->sim, UINT64_MAX);
    if (l->source_count > 0 || !list_empty(&l->mailbox))
        sim_violation(l->env->sim, "V5", "loop %s is stopped with %d streams or listeners open%s",
                      l->name, l->source_count,
                      list_empty(&l->mailbox) ? "" : " and messages unread");
    free_closed(l);
    heap_deinit(&l->timers);
    free(l);
}

/* ---- streams ---- */

struct sim_stream {
    struct source source; /* first: it is what is freed */
    struct stream stream;
    struct env_sim *env;
    struct net_end *end;
    unsigned wanted;
    char peer[40], host[24];
};

static struct sim_stream *stream_of(const struct stream *s)
{
    return CONTAINER_OF((struct stream *)(uintptr_t)s, struct sim_stream, stream);
}

static unsigned stream_events(const struct source *source)
{
    const struct sim_stream *s = (const struct sim_stream *)source;
    unsigned events = 0;

    if ((s->wanted & STREAM_READABLE) && net_end_readable(s->end))
        events |= STREAM_READABLE;
    if ((s->wanted & STREAM_WRITABLE) && net_end_writable(s->end))
        events |= STREAM_WRITABLE;
    return events;
}

static void stream_run(struct source *source, unsigned events)
{
    struct sim_stream *s = (struct sim_stream *)source;

    if (net_end_is_reset(s->end) && sim_below(s->env->sim, DICE_NET, HANGUPS_ONE_IN) == 0)
        events = STREAM_HANGUP;
    s->stream.on_event(&s->stream, events);
}

static void on_end_changed(void *ctx)
{
    source_changed(ctx);
}

static void sim_stream_attach(struct stream *stream)
{
    struct sim_stream *s = stream_of(stream);

    s->source.loop = loop_of(stream->loop);
    check_own_thread(s->source.loop, "a stream");
    s->source.loop->source_count++;
    net_end_watch(s->end, on_end_changed, &s->source);
}

static void sim_stream_want(struct stream *stream, unsigned events)
{
    struct sim_stream *s = stream_of(stream);

    check_own_thread(s->source.loop, "a stream");
    s->wanted = events;
    source_changed(&s->source);
}

static enum err sim_stream_read(struct stream *stream, void *p, size_t size, size_t *n_read)
{
    struct sim_stream *s = stream_of(stream);

    if (s->source.loop != NULL)
        check_own_thread(s->source.loop, "a stream");
    if (size > 1 && sim_below(s->env->sim, DICE_NET, READS_CUT_ONE_IN) == 0)
        size = 1 + (size_t)sim_below(s->env->sim, DICE_NET, MIN(size - 1, (size_t)512));
    return net_end_read(s->end, p, size, n_read);
}

/* As sendfile: what is read is what the file holds now. */
static enum err send_file_range(struct sim_stream *s, const struct ioslice *sl, size_t *n,
                                bool *part)
{
    uint8_t bytes[FILE_SEND_BYTES];
    size_t size = MIN(sl->len, sizeof bytes);
    enum err e;

    if (!disk_sim_peek(sl->buf->file, sl->buf->file_offset + sl->offset, bytes, size))
        return ERR_CLOSED; /* the file is shorter than what was published */
    e = net_end_write(s->end, bytes, size, n);
    *part = *n < size;
    return e;
}

static enum err sim_stream_send(struct stream *stream, struct ioqueue *q)
{
    struct sim_stream *s = stream_of(stream);
    const struct ioslice *sl;

    if (s->source.loop != NULL)
        check_own_thread(s->source.loop, "a stream");
    while ((sl = ioqueue_at(q, 0)) != NULL) {
        size_t n = 0;
        bool part = false;
        enum err e;

        if (sl->buf->ptr == NULL) {
            e = send_file_range(s, sl, &n, &part);
        } else {
            e = net_end_write(s->end, sl->buf->ptr + sl->offset, sl->len, &n);
            part = n < sl->len;
        }
        if (e != ERR_NONE)
            return e;
        ioqueue_consume(q, n);
        if (part)
            return ERR_AGAIN;
    }
    return ERR_NONE;
}

static const char *sim_stream_peer(const struct stream *stream)
{
    return stream_of(stream)->peer;
}

static const char *sim_stream_peer_host(const struct stream *stream)
{
    return stream_of(stream)->host;
}

/* Freed when the turn is over, for its event may be running. */
static void source_close(struct source *s)
{
    if (s->loop == NULL) {
        free(s);
        return;
    }
    check_own_thread(s->loop, "a stream or listener");
    CHECK(!s->closed);
    s->closed = true;
    s->loop->source_count--;
    if (list_linked(&s->node))
        list_remove(&s->node);
    list_push_back(&s->loop->closed, &s->node);
}

static unsigned no_events(const struct source *s)
{
    (void)s;
    return 0;
}

static void sim_stream_close(struct stream *stream)
{
    struct sim_stream *s = stream_of(stream);

    net_end_watch(s->end, NULL, NULL);
    net_end_close(s->end);
    s->source.events = no_events;
    source_close(&s->source);
}

static const struct stream_ops sim_stream_ops = {
    .attach = sim_stream_attach,
    .want = sim_stream_want,
    .read = sim_stream_read,
    .send = sim_stream_send,
    .peer = sim_stream_peer,
    .peer_host = sim_stream_peer_host,
    .close = sim_stream_close,
};

static struct stream *stream_new(struct env_sim *e, struct net_end *end)
{
    struct sim_stream *s = xcalloc(1, sizeof *s);

    s->source.events = stream_events;
    s->source.run = stream_run;
    s->stream.ops = &sim_stream_ops;
    s->env = e;
    s->end = end;
    (void)snprintf(s->host, sizeof s->host, "10.0.0.%d", net_end_peer_machine(end));
    (void)snprintf(s->peer, sizeof s->peer, "%s:%d", s->host, net_end_peer_port(end));
    return &s->stream;
}

/* ---- listeners ---- */

struct sim_listener {
    struct source source; /* first: it is what is freed */
    struct listener listener;
    struct env_sim *env;
    struct net_listener *net;
    bool paused;
    void (*on_accept)(void *ctx, struct stream *s);
    void *ctx;
};

static struct sim_listener *listener_of(const struct listener *l)
{
    return CONTAINER_OF((struct listener *)(uintptr_t)l, struct sim_listener, listener);
}

static unsigned listener_events(const struct source *source)
{
    const struct sim_listener *l = (const struct sim_listener *)source;

    return !l->paused && net_listener_has(l->net) ? STREAM_READABLE : 0;
}

static void listener_run(struct source *source, unsigned events)
{
    struct sim_listener *l = (struct sim_listener *)source;

    (void)events;
    for (int i = 0; i < ACCEPTS_PER_EVENT && !source->closed && !l->paused; i++) {
        struct net_end *end = net_accept(l->net);

        if (end == NULL)
            return;
        l->on_accept(l->ctx, stream_new(l->env, end));
    }
}

static int sim_listener_port(const struct listener *l)
{
    return net_listener_port(listener_of(l)->net);
}

static void sim_listener_pause(struct listener *listener, bool paused)
{
    struct sim_listener *l = listener_of(listener);

    check_own_thread(l->source.loop, "a listener");
    l->paused = paused;
    source_changed(&l->source);
}

static void sim_listener_close(struct listener *listener)
{
    struct sim_listener *l = listener_of(listener);

    net_listener_close(l->net);
    l->source.events = no_events;
    source_close(&l->source);
}

static const struct listener_ops sim_listener_ops = {
    .port = sim_listener_port,
    .pause = sim_listener_pause,
    .close = sim_listener_close,
};

static enum err sim_listen(struct loop *loop, const struct listen_options *o, struct listener **out,
                           struct errmsg *why)
{
    struct sim_loop *l = loop_of(loop);
    struct sim_listener *n = xcalloc(1, sizeof *n);

    check_own_thread(l, "a listener");
    n->net = net_listen(l->env->o.net, l->env->o.process, o->port, o->backlog, on_end_changed,
                        &n->source);
    if (n->net == NULL) {
        errmsg_set(why, "%s:%d: cannot listen: Address already in use", o->host, o->port);
        free(n);
        return ERR_IO;
    }
    n->source = (struct source){.loop = l, .events = listener_events, .run = listener_run};
    n->listener.ops = &sim_listener_ops;
    n->env = l->env;
    n->on_accept = o->on_accept;
    n->ctx = o->ctx;
    l->source_count++;
    *out = &n->listener;
    return ERR_NONE;
}

/* ---- connecting ---- */

struct attempt {
    struct message message;
    struct sim_loop *loop;
    struct connecting *c; /* NULL: cancelled */
    struct net_attempt *net;
    enum err err;
    struct net_end *end;
};

/* "m3", or an address as stream_peer_host() gives it; 0: no such name. */
static int machine_of_host(const char *host)
{
    int number = 0;

    if (sscanf(host, "m%d", &number) != 1 && sscanf(host, "10.0.0.%d", &number) != 1)
        return 0;
    return number;
}

static void run_attempt_done(struct message *m)
{
    struct attempt *a = CONTAINER_OF(m, struct attempt, message);
    struct connecting *c = a->c;
    struct stream *s = a->end != NULL ? stream_new(a->loop->env, a->end) : NULL;

    if (c != NULL) {
        c->attempt = NULL;
        c->done(c, a->err, s);
    } else if (s != NULL) {
        stream_close(s);
    }
    free(a);
}

static void on_attempt_done(void *ctx, enum err e, struct net_end *end)
{
    struct attempt *a = ctx;

    a->net = NULL;
    a->err = e;
    a->end = end;
    a->message.run = run_attempt_done;
    loop_post(&a->loop->loop, &a->message);
}

static void sim_connect(struct loop *loop, struct connecting *c)
{
    struct sim_loop *l = loop_of(loop);
    struct attempt *a = xcalloc(1, sizeof *a);
    int machine = machine_of_host(c->host);

    check_own_thread(l, "a connection");
    c->attempt = a;
    a->loop = l;
    a->c = c;
    if (machine <= 0)
        on_attempt_done(a, ERR_CLOSED, NULL);
    else
        a->net = net_attempt(l->env->o.net, l->env->o.process, machine, c->port,
                             run_time(c->deadline_ns), on_attempt_done, a);
}

static void sim_connect_cancel(struct loop *loop, struct connecting *c)
{
    struct attempt *a = c->attempt;

    check_own_thread(loop_of(loop), "a connection");
    c->attempt = NULL;
    a->c = NULL;
    if (a->net == NULL)
        return; /* its message is on the way */
    net_attempt_cancel(a->net);
    free(a);
}

static const struct loop_ops sim_loop_ops = {
    .stop = sim_loop_stop,
    .post = sim_loop_post,
    .now_ns = sim_loop_now_ns,
    .on_turn_end = sim_loop_on_turn_end,
    .turn_began_ns = sim_loop_turn_began_ns,
    .timer_init = sim_timer_init,
    .timer_set = sim_timer_set,
    .timer_stop = sim_timer_stop,
    .timer_is_set = sim_timer_is_set,
    .listen = sim_listen,
    .connect = sim_connect,
    .connect_cancel = sim_connect_cancel,
};

static enum err sim_loop_new(struct env *env, const char *name,
                             void (*on_start)(struct loop *loop, void *ctx), void *ctx,
                             struct loop **out, struct errmsg *why)
{
    struct sim_loop *l = xcalloc(1, sizeof *l);

    (void)why;
    l->loop = (struct loop){.ops = &sim_loop_ops, .env = env, .name = l->name};
    l->env = of(env);
    (void)snprintf(l->name, sizeof l->name, "%s", name);
    list_init(&l->mailbox);
    list_init(&l->ready);
    list_init(&l->closed);
    heap_init(&l->timers);
    l->on_start = on_start;
    l->start_ctx = ctx;
    l->waiter = fiber_current(l->env->sim);
    CHECK(l->waiter != NULL);
    l->fiber = fiber_spawn(l->env->o.process, l->name, loop_main, l);
    while (!l->started)
        (void)fiber_sleep_until(l->env->sim, UINT64_MAX);
    *out = &l->loop;
    return ERR_NONE;
}

/* ---- the env ---- */

static const struct env_ops env_sim_ops = {
    .now_ns = sim_now_ns,
    .unix_ms = sim_unix_ms,
    .random = sim_random_bytes,
    .mutex_init = sim_mutex_init,
    .mutex_deinit = sim_mutex_deinit,
    .mutex_lock = sim_mutex_lock,
    .mutex_unlock = sim_mutex_unlock,
    .loop_new = sim_loop_new,
    .pool_submit = sim_pool_submit,
};

struct env *env_sim_new(const struct env_sim_options *o)
{
    struct env_sim *e = xcalloc(1, sizeof *e);

    e->env.ops = &env_sim_ops;
    e->env.disk = &disk_sim_ops;
    e->o = *o;
    e->sim = process_sim(o->process);
    pool_start(e, &e->pools[JOB_SHORT], "short");
    pool_start(e, &e->pools[JOB_LONG], "long");
    return &e->env;
}
