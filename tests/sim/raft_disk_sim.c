#include "tests/sim/raft_disk_sim.h"

#include <stdlib.h>
#include <string.h>

#include "tests/sim/env_sim.h"
#include "tests/sim/raft_store.h"

#define APPENDS_PER_WRITE 64

enum kind { REQUEST_APPEND, REQUEST_TRUNCATE, REQUEST_PUT, REQUEST_GET, REQUEST_CLOSE };

/* From the loop to a fiber and back. */
struct request {
    struct list_node node;
    struct message message;
    struct raft_disk *disk;
    enum kind kind;
    int status;
    bool cancelled;
    const struct raft_entry *entries; /* APPEND: libraft's, until it is reported */
    unsigned count;
    struct raft_io_append *append;
    raft_index index; /* TRUNCATE */
    struct raft_io_snapshot_put *put;
    const struct raft_snapshot *snapshot;
    unsigned trailing;
    uint64_t stamp; /* in the snapshot's name */
    struct raft_io_snapshot_get *get;
    struct raft_snapshot *got;
};

/* A fiber that serves a queue. */
struct server {
    struct list queue;
    struct fiber *fiber;
    bool busy, over;
    void (*serve)(struct raft_disk *d, struct request *r);
    struct raft_disk *disk;
};

struct work {
    struct job job;
    struct raft_io_async_work *request;
    int status;
};

struct raft_disk {
    struct raft_io io;
    struct env *env;
    struct loop *loop;
    struct raft_store *store;
    struct server log, snapshots;
    struct fiber *close_waits; /* the log's, for the snapshots' end */
    raft_io_tick_cb tick;
    raft_io_recv_cb recv; /* nobody calls it: nothing is received here */
    raft_io_close_cb closed;
    struct loop_timer timer;
    unsigned tick_ms;
    bool closing, errored;
};

static struct raft_disk *disk_of(struct raft_io *io)
{
    return io->impl;
}

static uint64_t now_ms(const struct raft_disk *d)
{
    return env_now_ns(d->env) / 1000000;
}

/* ---- the log's fiber ---- */

static void run_done(struct message *m);

static void report(struct request *r, int status)
{
    r->status = status;
    r->message.run = run_done;
    loop_post(r->disk->loop, &r->message);
}

/* Takes the appends that follow `first` along. */
static void serve_appends(struct raft_disk *d, struct request *first)
{
    struct raft_store_append appends[APPENDS_PER_WRITE];
    struct request *batch[APPENDS_PER_WRITE] = {first};
    size_t n = 1;
    int rv = RAFT_IOERR;

    while (n < APPENDS_PER_WRITE && !list_empty(&d->log.queue)) {
        struct request *r = list_entry(list_first(&d->log.queue), struct request, node);

        if (r->kind != REQUEST_APPEND || r->cancelled)
            break;
        list_remove(&r->node);
        batch[n++] = r;
    }
    for (size_t i = 0; i < n; i++)
        appends[i] = (struct raft_store_append){batch[i]->entries, batch[i]->count};
    if (!d->errored)
        rv = raft_store_append(d->store, appends, n);
    d->errored = d->errored || rv != 0;
    for (size_t i = 0; i < n; i++)
        report(batch[i], rv);
}

static void hand_to(struct server *s, struct request *r)
{
    list_push_back(&s->queue, &r->node);
    fiber_wake(s->fiber);
}

static void wait_for_snapshots(struct raft_disk *d)
{
    d->close_waits = fiber_current(env_sim_sim(d->env));
    while (d->snapshots.busy || !list_empty(&d->snapshots.queue))
        (void)fiber_sleep_until(env_sim_sim(d->env), UINT64_MAX);
    d->close_waits = NULL;
}

static void serve_put(struct raft_disk *d, struct request *r)
{
    bool installs = r->trailing == 0;
    int rv = raft_store_finish(d->store, installs ? r->snapshot->index + 1 : 0);

    if (rv != 0) {
        d->errored = true;
        report(r, rv);
        return;
    }
    hand_to(&d->snapshots, r);
    if (installs) /* appends wait until the log has been replaced */
        wait_for_snapshots(d);
}

static void serve_close(struct raft_disk *d, struct request *r)
{
    wait_for_snapshots(d);
    d->snapshots.over = true;
    fiber_wake(d->snapshots.fiber);
    if (!d->errored)
        raft_store_close(d->store);
    d->log.over = true;
    report(r, 0);
}

static void serve_log(struct raft_disk *d, struct request *r)
{
    int rv;

    if (r->cancelled) {
        report(r, RAFT_CANCELED);
        return;
    }
    switch (r->kind) {
    case REQUEST_APPEND:
        serve_appends(d, r);
        return;
    case REQUEST_TRUNCATE:
        rv = d->errored ? 0 : raft_store_truncate(d->store, r->index);
        d->errored = d->errored || rv != 0;
        report(r, rv);
        return;
    case REQUEST_PUT:
        serve_put(d, r);
        return;
    case REQUEST_GET:
        hand_to(&d->snapshots, r);
        return;
    case REQUEST_CLOSE:
        serve_close(d, r);
        return;
    }
}

/* ---- the snapshots' fiber ---- */

static void serve_snapshots(struct raft_disk *d, struct request *r)
{
    report(r, r->kind == REQUEST_PUT ? raft_store_put(d->store, r->snapshot, r->trailing, r->stamp)
                                     : raft_store_get(d->store, &r->got));
}

static void server_main(void *arg)
{
    struct server *s = arg;
    struct raft_disk *d = s->disk;
    struct list_node *n;

    while (!s->over) {
        n = list_pop_front(&s->queue);
        if (n == NULL) {
            (void)fiber_sleep_until(env_sim_sim(d->env), UINT64_MAX);
            continue;
        }
        s->busy = true;
        s->serve(d, list_entry(n, struct request, node));
        s->busy = false;
        if (s == &d->snapshots && d->close_waits != NULL)
            fiber_wake(d->close_waits);
    }
}

static void server_start(struct raft_disk *d, struct server *s, const char *name,
                         void (*serve)(struct raft_disk *d, struct request *r))
{
    list_init(&s->queue);
    s->serve = serve;
    s->disk = d;
    s->fiber = fiber_spawn(env_sim_process(d->env), name, server_main, s);
}

/* ---- on the loop ---- */

static void run_done(struct message *m)
{
    struct request *r = CONTAINER_OF(m, struct request, message);
    struct raft_disk *d = r->disk;

    switch (r->kind) {
    case REQUEST_APPEND:
        r->append->cb(r->append, r->status);
        break;
    case REQUEST_TRUNCATE: /* a failure is told by the next append */
        break;
    case REQUEST_PUT:
        r->put->cb(r->put, r->status);
        break;
    case REQUEST_GET:
        r->get->cb(r->get, r->got, r->status);
        break;
    case REQUEST_CLOSE:
        d->closed(&d->io);
        break;
    }
    free(r);
}

static struct request *request_new(struct raft_disk *d, enum kind kind)
{
    struct request *r = xcalloc(1, sizeof *r);

    r->disk = d;
    r->kind = kind;
    return r;
}

static int sim_append(struct raft_io *io, struct raft_io_append *req,
                      const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct raft_disk *d = disk_of(io);
    struct request *r;

    if (d->errored)
        return RAFT_IOERR;
    CHECK(!d->closing);
    req->cb = cb;
    r = request_new(d, REQUEST_APPEND);
    r->append = req;
    r->entries = entries;
    r->count = n;
    hand_to(&d->log, r);
    return 0;
}

static int sim_truncate(struct raft_io *io, raft_index index)
{
    struct request *r = request_new(disk_of(io), REQUEST_TRUNCATE);

    r->index = index;
    hand_to(&disk_of(io)->log, r);
    return 0;
}

static int sim_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                            const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct raft_disk *d = disk_of(io);
    struct request *r;

    if (d->closing)
        return RAFT_CANCELED;
    req->cb = cb;
    r = request_new(d, REQUEST_PUT);
    r->put = req;
    r->snapshot = snapshot;
    r->trailing = trailing;
    r->stamp = now_ms(d);
    hand_to(&d->log, r);
    return 0;
}

static int sim_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                            raft_io_snapshot_get_cb cb)
{
    struct request *r = request_new(disk_of(io), REQUEST_GET);

    req->cb = cb;
    r->get = req;
    hand_to(&disk_of(io)->log, r);
    return 0;
}

static void do_work(struct job *j)
{
    struct work *w = CONTAINER_OF(j, struct work, job);

    w->status = w->request->work(w->request);
}

static void on_work_done(struct job *j)
{
    struct work *w = CONTAINER_OF(j, struct work, job);

    w->request->cb(w->request, w->status);
    free(w);
}

static int sim_async_work(struct raft_io *io, struct raft_io_async_work *req,
                          raft_io_async_work_cb cb)
{
    struct work *w = xcalloc(1, sizeof *w);

    req->cb = cb;
    w->request = req;
    w->job = (struct job){.work = do_work, .done = on_work_done, .report_to = disk_of(io)->loop};
    env_pool_submit(disk_of(io)->env, JOB_LONG, &w->job);
    return 0;
}

static int sim_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *m,
                    raft_io_send_cb cb)
{
    (void)io;
    (void)req;
    (void)m;
    (void)cb;
    return RAFT_NOCONNECTION;
}

static raft_time sim_time(struct raft_io *io)
{
    return now_ms(disk_of(io));
}

static int sim_random_between(struct raft_io *io, int min, int max)
{
    return min + (int)(env_random_u64(disk_of(io)->env) % (uint64_t)MAX(max - min, 1));
}

static void on_timer(struct loop_timer *t)
{
    struct raft_disk *d = CONTAINER_OF(t, struct raft_disk, timer);

    loop_timer_set(t, env_now_ns(d->env) + (uint64_t)d->tick_ms * 1000000u);
    d->tick(&d->io);
}

static int sim_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct raft_disk *d = disk_of(io);

    d->tick = tick;
    d->recv = recv;
    d->tick_ms = msecs;
    loop_timer_set(&d->timer, env_now_ns(d->env) + (uint64_t)msecs * 1000000u);
    return 0;
}

static int sim_init(struct raft_io *io, raft_id id, const char *address)
{
    (void)id;
    (void)address;
    return raft_store_init(disk_of(io)->store);
}

static int sim_set_term(struct raft_io *io, raft_term term)
{
    return raft_store_set_term(disk_of(io)->store, term);
}

static int sim_set_vote(struct raft_io *io, raft_id id)
{
    return raft_store_set_vote(disk_of(io)->store, id);
}

static int sim_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                    struct raft_snapshot **snapshot, raft_index *start,
                    struct raft_entry *entries[], size_t *count)
{
    return raft_store_load(disk_of(io)->store, term, voted_for, snapshot, start, entries, count);
}

static int sim_bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    struct raft_store *s = disk_of(io)->store;
    int rv;

    if (raft_store_term(s) != 0)
        return RAFT_CANTBOOTSTRAP;
    rv = raft_store_set_term(s, 1);
    return rv != 0 ? rv : raft_store_configure(s, 1, 1, conf);
}

static int sim_recover(struct raft_io *io, const struct raft_configuration *conf)
{
    struct raft_snapshot *snapshot;
    struct raft_entry *entries;
    raft_term term;
    raft_id vote;
    raft_index start;
    size_t count;
    int rv = sim_load(io, &term, &vote, &snapshot, &start, &entries, &count);

    if (rv != 0)
        return rv;
    if (snapshot != NULL) {
        raft_configuration_close(&snapshot->configuration);
        raft_free(snapshot->bufs[0].base);
        raft_free(snapshot->bufs);
        raft_free(snapshot);
    }
    for (size_t i = 0; i < count; i++)
        raft_free(entries[i].batch);
    raft_free(entries);
    return raft_store_configure(disk_of(io)->store, start + count, term, conf);
}

static void sim_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct raft_disk *d = disk_of(io);

    CHECK(!d->closing);
    d->closing = true;
    d->closed = cb;
    loop_timer_stop(&d->timer);
    list_for_each (n, &d->log.queue)
        list_entry(n, struct request, node)->cancelled = true;
    hand_to(&d->log, request_new(d, REQUEST_CLOSE));
}

/* ---- libraft's memory ----
 *
 * A barrier's entry is eight bytes that libraft never sets, and they reach the disk and the peers:
 * with memory that begins as zeros the same seed gives the same bytes (V1).
 */

static void *heap_malloc(void *data, size_t size)
{
    (void)data;
    return calloc(1, size);
}

static void heap_free(void *data, void *p)
{
    (void)data;
    free(p);
}

static void *heap_calloc(void *data, size_t count, size_t size)
{
    (void)data;
    return calloc(count, size);
}

static void *heap_realloc(void *data, void *p, size_t size)
{
    (void)data;
    return realloc(p, size);
}

static void *heap_aligned_alloc(void *data, size_t alignment, size_t size)
{
    void *p = aligned_alloc(alignment, size);

    (void)data;
    return p != NULL ? memset(p, 0, size) : NULL;
}

static void heap_aligned_free(void *data, size_t alignment, void *p)
{
    (void)data;
    (void)alignment;
    free(p);
}

struct raft_io *raft_disk_sim_new(struct env *env, const char *dir)
{
    static struct raft_heap heap = {.malloc = heap_malloc,
                                    .free = heap_free,
                                    .calloc = heap_calloc,
                                    .realloc = heap_realloc,
                                    .aligned_alloc = heap_aligned_alloc,
                                    .aligned_free = heap_aligned_free};
    struct raft_disk *d = xcalloc(1, sizeof *d);

    raft_heap_set(&heap);
    d->env = env;
    d->loop = env_sim_current_loop(env);
    CHECK(d->loop != NULL);
    d->store = raft_store_new(env, dir, d->io.errmsg);
    loop_timer_init(&d->timer, d->loop, on_timer);
    server_start(d, &d->log, "raft-disk", serve_log);
    server_start(d, &d->snapshots, "raft-snapshots", serve_snapshots);
    d->io = (struct raft_io){
        .version = 2, /* it has asynchronous work */
        .impl = d,
        .init = sim_init,
        .close = sim_close,
        .load = sim_load,
        .start = sim_start,
        .bootstrap = sim_bootstrap,
        .recover = sim_recover,
        .set_term = sim_set_term,
        .set_vote = sim_set_vote,
        .send = sim_send,
        .append = sim_append,
        .truncate = sim_truncate,
        .snapshot_put = sim_snapshot_put,
        .snapshot_get = sim_snapshot_get,
        .time = sim_time,
        .random = sim_random_between,
        .async_work = sim_async_work,
    };
    return &d->io;
}
