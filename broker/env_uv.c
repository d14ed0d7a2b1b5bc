#include "broker/env_uv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "protocol/base/heap.h"
#include "storage/disk_posix.h"

#define IOVECS_MAX 64
#define SENDFILE_BYTES_MAX                                                                         \
    (1u << 20) /* one call's share, so that one reader cannot hold a worker */
#define PEER_TEXT_MAX     (INET6_ADDRSTRLEN + 16)
#define ACCEPTS_PER_EVENT 64
#define ACCEPT_RETRY_NS   100000000u

struct pool_queue {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct list jobs;
    bool stopping;
    pthread_t *threads;
    int thread_count;
};

struct env_uv {
    struct env env;
    struct pool_queue pools[2]; /* by enum job_class */
};

struct uv_env_loop {
    struct loop loop;
    uv_loop_t uv;
    uv_async_t wake;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_timer_t timer;
    pthread_t thread;
    pthread_mutex_t lock;
    struct list mailbox; /* under lock */
    bool signalled;      /* under lock: the async was sent and not handled yet */
    struct heap timers;
    uint64_t now_ns;
    _Atomic uint64_t turn_began_ns;
    bool ran; /* something ran since the last turn end */
    void (*turn_end)(void *ctx);
    void *turn_end_ctx;
    /* start */
    void (*on_start)(struct loop *loop, void *ctx);
    void *start_ctx;
    uv_sem_t started;
    struct message stop_message;
    int attempts;  /* connections on their way, cancelled ones included */
    bool stopping; /* when the last of them has ended */
    char name[16];
};

/* ---- clock, randomness, locks ---- */

static uint64_t monotonic_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t env_uv_now_ns(struct env *env)
{
    (void)env;
    return monotonic_ns();
}

static int64_t env_uv_unix_ms(struct env *env)
{
    struct timespec t;

    (void)env;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void env_uv_random(struct env *env, void *out, size_t size)
{
    uint8_t *p = out;

    (void)env;
    while (size > 0) {
        ssize_t n = getrandom(p, size, 0);

        CHECK(n > 0 || errno == EINTR);
        if (n > 0) {
            p += n;
            size -= (size_t)n;
        }
    }
}

static pthread_mutex_t *native(struct mutex *m)
{
    _Static_assert(sizeof(pthread_mutex_t) <= sizeof m->storage, "mutex storage");
    return (pthread_mutex_t *)(void *)m->storage;
}

static void env_uv_mutex_init(struct mutex *m)
{
    CHECK(pthread_mutex_init(native(m), NULL) == 0);
}

static void env_uv_mutex_deinit(struct mutex *m)
{
    CHECK(pthread_mutex_destroy(native(m)) == 0);
}

static void env_uv_mutex_lock(struct mutex *m)
{
    CHECK(pthread_mutex_lock(native(m)) == 0);
}

static void env_uv_mutex_unlock(struct mutex *m)
{
    CHECK(pthread_mutex_unlock(native(m)) == 0);
}

/* ---- the pool ---- */

static void job_report(struct message *m)
{
    struct job *j = CONTAINER_OF(m, struct job, message);

    j->done(j);
}

static void *pool_thread(void *arg)
{
    struct pool_queue *q = arg;

    pthread_mutex_lock(&q->lock);
    for (;;) {
        while (list_empty(&q->jobs) && !q->stopping)
            pthread_cond_wait(&q->wake, &q->lock);
        if (list_empty(&q->jobs))
            break;

        struct job *j = list_entry(list_pop_front(&q->jobs), struct job, node);

        pthread_mutex_unlock(&q->lock);

        struct loop *report_to = j->report_to; /* without one, `work` may free the job */

        j->work(j);
        if (report_to != NULL) {
            j->message.run = job_report;
            loop_post(report_to, &j->message);
        }
        pthread_mutex_lock(&q->lock);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

static void env_uv_pool_submit(struct env *env, enum job_class class, struct job *j)
{
    struct pool_queue *q = &CONTAINER_OF(env, struct env_uv, env)->pools[class];

    pthread_mutex_lock(&q->lock);
    list_push_back(&q->jobs, &j->node);
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
}

static enum err pool_start(struct pool_queue *q, int threads, struct errmsg *why)
{
    CHECK(pthread_mutex_init(&q->lock, NULL) == 0);
    CHECK(pthread_cond_init(&q->wake, NULL) == 0);
    list_init(&q->jobs);
    q->threads = xcalloc((size_t)threads, sizeof *q->threads);
    for (int i = 0; i < threads; i++) {
        int rv = pthread_create(&q->threads[i], NULL, pool_thread, q);

        if (rv != 0) {
            errmsg_set(why, "cannot start a pool thread: %s", strerror(rv));
            return ERR_IO;
        }
        pthread_setname_np(q->threads[i], "fluxmq-pool");
        q->thread_count++;
    }
    return ERR_NONE;
}

static void pool_stop(struct pool_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->stopping = true;
    pthread_cond_broadcast(&q->wake);
    pthread_mutex_unlock(&q->lock);
    for (int i = 0; i < q->thread_count; i++)
        pthread_join(q->threads[i], NULL);
    free(q->threads);
    pthread_cond_destroy(&q->wake);
    pthread_mutex_destroy(&q->lock);
}

/* ---- loops ---- */

static struct uv_env_loop *loop_of(const struct loop *l)
{
    return CONTAINER_OF((struct loop *)(uintptr_t)l, struct uv_env_loop, loop);
}

/* Every callback that libuv makes comes through here first. */
static void turn_enter(struct uv_env_loop *l)
{
    l->ran = true;
    if (atomic_load_explicit(&l->turn_began_ns, memory_order_relaxed) == 0) {
        l->now_ns = monotonic_ns();
        atomic_store_explicit(&l->turn_began_ns, l->now_ns, memory_order_relaxed);
    }
}

static void turn_end(struct uv_env_loop *l)
{
    if (l->ran) {
        l->ran = false;
        if (l->turn_end != NULL)
            l->turn_end(l->turn_end_ctx);
    }
}

static void on_check(uv_check_t *h)
{
    turn_end(h->data);
}

/* Before the loop sleeps: what timers did is a turn as well. */
static void on_prepare(uv_prepare_t *h)
{
    struct uv_env_loop *l = h->data;

    turn_end(l);
    atomic_store_explicit(&l->turn_began_ns, 0, memory_order_relaxed);
}

static void on_wake(uv_async_t *h)
{
    struct uv_env_loop *l = h->data;
    struct list batch;

    turn_enter(l);
    list_init(&batch);
    pthread_mutex_lock(&l->lock);
    l->signalled = false;
    list_splice_back(&batch, &l->mailbox);
    pthread_mutex_unlock(&l->lock);

    for (struct list_node *n; (n = list_pop_front(&batch)) != NULL;) {
        struct message *m = list_entry(n, struct message, node);

        m->run(m);
    }
}

static void uv_loop_post(struct loop *loop, struct message *m)
{
    struct uv_env_loop *l = loop_of(loop);

    pthread_mutex_lock(&l->lock);
    list_push_back(&l->mailbox, &m->node);

    bool signal = !l->signalled;

    l->signalled = true;
    pthread_mutex_unlock(&l->lock);
    if (signal)
        CHECK(uv_async_send(&l->wake) == 0);
}

static uint64_t uv_loop_now_ns(const struct loop *loop)
{
    const struct uv_env_loop *l = loop_of(loop);

    return l->now_ns != 0 ? l->now_ns : monotonic_ns();
}

static void uv_loop_on_turn_end(struct loop *loop, void (*fn)(void *ctx), void *ctx)
{
    loop_of(loop)->turn_end = fn;
    loop_of(loop)->turn_end_ctx = ctx;
}

static uint64_t uv_loop_turn_began(const struct loop *loop)
{
    return atomic_load_explicit(&loop_of(loop)->turn_began_ns, memory_order_relaxed);
}

/* ---- timers: one heap and one libuv timer a loop ---- */

static struct heap_node *timer_node(const struct loop_timer *t)
{
    _Static_assert(sizeof(struct heap_node) <= sizeof t->storage, "timer storage");
    return (struct heap_node *)(uintptr_t)t->storage;
}

static void on_timer(uv_timer_t *h);

static void timers_arm(struct uv_env_loop *l)
{
    struct heap_node *n = heap_min(&l->timers);

    if (n == NULL) {
        uv_timer_stop(&l->timer);
        return;
    }

    uint64_t now = monotonic_ns();
    uint64_t wait_ms = n->key <= now ? 0 : (n->key - now + 999999) / 1000000;

    uv_update_time(&l->uv);
    uv_timer_start(&l->timer, on_timer, wait_ms, 0);
}

static void on_timer(uv_timer_t *h)
{
    struct uv_env_loop *l = h->data;
    struct heap_node *n;

    turn_enter(l);

    /* Fresh, so that a timer that is set again from loop_now_ns() is not due at once. */
    uint64_t now = l->now_ns = monotonic_ns();

    while ((n = heap_min(&l->timers)) != NULL && n->key <= now) {
        struct loop_timer *t =
            (struct loop_timer *)(void *)((char *)n - offsetof(struct loop_timer, storage));

        heap_remove(&l->timers, n);
        t->fire(t);
    }
    timers_arm(l);
}

static void uv_timer_init_(struct loop_timer *t)
{
    heap_node_init(timer_node(t));
}

static void uv_timer_set_(struct loop_timer *t, uint64_t deadline_ns)
{
    struct uv_env_loop *l = loop_of(t->loop);
    struct heap_node *n = timer_node(t);

    if (heap_contains(n))
        heap_remove(&l->timers, n);
    heap_push(&l->timers, n, deadline_ns);
    if (heap_min(&l->timers) == n)
        timers_arm(l);
}

static void uv_timer_stop_(struct loop_timer *t)
{
    if (heap_contains(timer_node(t)))
        heap_remove(&loop_of(t->loop)->timers, timer_node(t));
}

static bool uv_timer_is_set_(const struct loop_timer *t)
{
    return heap_contains(timer_node(t));
}

/* ---- life of a loop ---- */

static void *loop_thread(void *arg)
{
    struct uv_env_loop *l = arg;

    pthread_setname_np(pthread_self(), l->name);
    turn_enter(l);
    if (l->on_start != NULL)
        l->on_start(&l->loop, l->start_ctx);
    uv_sem_post(&l->started);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    return NULL;
}

static void on_stop_message(struct message *m)
{
    struct uv_env_loop *l = CONTAINER_OF(m, struct uv_env_loop, stop_message);

    l->stopping = true;
    if (l->attempts > 0)
        return;
    uv_close((uv_handle_t *)&l->wake, NULL);
    uv_close((uv_handle_t *)&l->prepare, NULL);
    uv_close((uv_handle_t *)&l->check, NULL);
    uv_close((uv_handle_t *)&l->timer, NULL);
}

static void uv_loop_stop(struct loop *loop)
{
    struct uv_env_loop *l = loop_of(loop);

    l->stop_message.run = on_stop_message;
    loop_post(loop, &l->stop_message);
    pthread_join(l->thread, NULL);
    CHECK(uv_loop_close(&l->uv) == 0); /* fails when a stream or timer of its own was left open */
    heap_deinit(&l->timers);
    pthread_mutex_destroy(&l->lock);
    uv_sem_destroy(&l->started);
    free(l);
}

static enum err uv_listen_(struct loop *loop, const struct listen_options *o, struct listener **out,
                           struct errmsg *why);

static void uv_connect(struct loop *loop, struct connecting *c);
static void uv_connect_cancel(struct loop *loop, struct connecting *c);

static const struct loop_ops uv_loop_ops = {
    .stop = uv_loop_stop,
    .post = uv_loop_post,
    .now_ns = uv_loop_now_ns,
    .on_turn_end = uv_loop_on_turn_end,
    .turn_began_ns = uv_loop_turn_began,
    .timer_init = uv_timer_init_,
    .timer_set = uv_timer_set_,
    .timer_stop = uv_timer_stop_,
    .timer_is_set = uv_timer_is_set_,
    .listen = uv_listen_,
    .connect = uv_connect,
    .connect_cancel = uv_connect_cancel,
};

static enum err env_uv_loop_new(struct env *env, const char *name,
                                void (*on_start)(struct loop *loop, void *ctx), void *ctx,
                                struct loop **out, struct errmsg *why)
{
    struct uv_env_loop *l = xcalloc(1, sizeof *l);

    l->loop.ops = &uv_loop_ops;
    l->loop.env = env;
    (void)snprintf(l->name, sizeof l->name, "%s", name);
    l->loop.name = l->name;
    l->on_start = on_start;
    l->start_ctx = ctx;
    list_init(&l->mailbox);
    heap_init(&l->timers);
    CHECK(pthread_mutex_init(&l->lock, NULL) == 0);
    CHECK(uv_sem_init(&l->started, 0) == 0);

    int rv = uv_loop_init(&l->uv);

    if (rv != 0) {
        errmsg_set(why, "cannot make an event loop: %s", uv_strerror(rv));
        goto fail;
    }
    CHECK(uv_async_init(&l->uv, &l->wake, on_wake) == 0);
    CHECK(uv_prepare_init(&l->uv, &l->prepare) == 0);
    CHECK(uv_check_init(&l->uv, &l->check) == 0);
    CHECK(uv_timer_init(&l->uv, &l->timer) == 0);
    l->wake.data = l->prepare.data = l->check.data = l->timer.data = l;
    uv_prepare_start(&l->prepare, on_prepare);
    uv_check_start(&l->check, on_check);

    rv = pthread_create(&l->thread, NULL, loop_thread, l);
    CHECK(rv == 0);
    uv_sem_wait(&l->started);
    *out = &l->loop;
    return ERR_NONE;

fail:
    uv_sem_destroy(&l->started);
    pthread_mutex_destroy(&l->lock);
    free(l);
    return ERR_IO;
}

struct uv_loop_s *env_uv_loop(struct loop *loop)
{
    return &loop_of(loop)->uv;
}

/* ---- streams ---- */

struct uv_stream {
    struct stream stream;
    uv_poll_t poll;
    int fd;
    bool attached;
    int wanted; /* libuv's event bits now started */
    char peer[PEER_TEXT_MAX], host[INET6_ADDRSTRLEN];
};

static struct uv_stream *stream_of(const struct stream *s)
{
    return CONTAINER_OF((struct stream *)(uintptr_t)s, struct uv_stream, stream);
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct uv_stream *s = h->data;
    unsigned e = 0;

    turn_enter(loop_of(s->stream.loop));
    if (status < 0)
        e |= STREAM_HANGUP;
    if (events & (UV_READABLE | UV_DISCONNECT))
        e |= STREAM_READABLE;
    if (events & UV_WRITABLE)
        e |= STREAM_WRITABLE;
    s->stream.on_event(&s->stream, e);
}

static void uv_stream_attach(struct stream *stream)
{
    struct uv_stream *s = stream_of(stream);

    CHECK(uv_poll_init(&loop_of(stream->loop)->uv, &s->poll, s->fd) == 0);
    s->poll.data = s;
    s->attached = true;
}

static void uv_stream_want(struct stream *stream, unsigned events)
{
    struct uv_stream *s = stream_of(stream);
    int wanted = ((events & STREAM_READABLE) ? UV_READABLE : 0) |
                 ((events & STREAM_WRITABLE) ? UV_WRITABLE : 0);

    if (wanted == s->wanted)
        return;
    s->wanted = wanted;
    if (wanted == 0)
        uv_poll_stop(&s->poll);
    else
        CHECK(uv_poll_start(&s->poll, wanted, on_poll) == 0);
}

static enum err uv_stream_read(struct stream *stream, void *p, size_t size, size_t *n_read)
{
    struct uv_stream *s = stream_of(stream);
    ssize_t n;

    do
        n = recv(s->fd, p, size, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? ERR_AGAIN : ERR_CLOSED;
    *n_read = (size_t)n;
    return ERR_NONE;
}

static bool slice_in_memory(const struct ioslice *sl)
{
    return sl->buf->ptr != NULL;
}

/* Sends leading memory slices; `more` when a file range follows at once. */
static ssize_t send_memory(int fd, const struct ioqueue *q)
{
    struct iovec iov[IOVECS_MAX];
    size_t n = 0;
    const struct ioslice *sl;

    while (n < IOVECS_MAX && (sl = ioqueue_at(q, n)) != NULL && slice_in_memory(sl)) {
        iov[n].iov_base = (void *)(uintptr_t)(sl->buf->ptr + sl->offset);
        iov[n].iov_len = sl->len;
        n++;
    }

    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
    bool more = ioqueue_at(q, n) != NULL;

    return sendmsg(fd, &msg, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
}

static ssize_t send_file(int fd, const struct ioslice *sl)
{
    off_t offset = (off_t)(sl->buf->file_offset + sl->offset);
    size_t size = MIN(sl->len, (size_t)SENDFILE_BYTES_MAX);
    ssize_t n = sendfile(fd, sl->buf->file->ops->descriptor(sl->buf->file), &offset, size);

    if (n == 0) { /* the file is shorter than what was published: never send something else */
        errno = EIO;
        return -1;
    }
    return n;
}

static enum err uv_stream_send(struct stream *stream, struct ioqueue *q)
{
    struct uv_stream *s = stream_of(stream);
    const struct ioslice *sl;

    while ((sl = ioqueue_at(q, 0)) != NULL) {
        ssize_t n = slice_in_memory(sl) ? send_memory(s->fd, q) : send_file(s->fd, sl);

        if (n >= 0)
            ioqueue_consume(q, (size_t)n);
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return ERR_AGAIN;
        else if (errno != EINTR)
            return ERR_CLOSED;
    }
    return ERR_NONE;
}

static const char *uv_stream_peer(const struct stream *stream)
{
    return stream_of(stream)->peer;
}

static const char *uv_stream_peer_host(const struct stream *stream)
{
    return stream_of(stream)->host;
}

static void on_stream_closed(uv_handle_t *h)
{
    struct uv_stream *s = h->data;

    close(s->fd);
    free(s);
}

static void uv_stream_close(struct stream *stream)
{
    struct uv_stream *s = stream_of(stream);

    if (s->attached) {
        uv_close((uv_handle_t *)&s->poll, on_stream_closed);
    } else {
        close(s->fd);
        free(s);
    }
}

static const struct stream_ops uv_stream_ops = {
    .attach = uv_stream_attach,
    .want = uv_stream_want,
    .read = uv_stream_read,
    .send = uv_stream_send,
    .peer = uv_stream_peer,
    .peer_host = uv_stream_peer_host,
    .close = uv_stream_close,
};

static const void *address_of(const struct sockaddr_storage *s)
{
    return s->ss_family == AF_INET6
               ? (const void *)&((const struct sockaddr_in6 *)(const void *)s)->sin6_addr
               : (const void *)&((const struct sockaddr_in *)(const void *)s)->sin_addr;
}

/* Both ends have one address: the peer is on this machine. */
static bool is_local(int fd, const struct sockaddr_storage *from)
{
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    size_t bytes = from->ss_family == AF_INET6 ? sizeof(struct in6_addr) : sizeof(struct in_addr);

    return getsockname(fd, (struct sockaddr *)&own, &size) == 0 &&
           own.ss_family == from->ss_family &&
           memcmp(address_of(&own), address_of(from), bytes) == 0;
}

/* BBR, where it is the system's default, spaces what is sent by a timer. Inside one machine there
 * is no queue to spare, and the timers cost half of what a large Fetch costs (measured). */
static void send_unpaced(int fd)
{
    (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", sizeof "reno" - 1);
}

static struct stream *stream_new(int fd, const struct sockaddr_storage *from)
{
    struct uv_stream *s = xcalloc(1, sizeof *s);
    int one = 1;

    s->stream.ops = &uv_stream_ops;
    s->fd = fd;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    if (is_local(fd, from))
        send_unpaced(fd);
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *a = (const void *)from;

        if (IN6_IS_ADDR_V4MAPPED(&a->sin6_addr)) {
            inet_ntop(AF_INET, &a->sin6_addr.s6_addr[12], s->host, sizeof s->host);
            (void)snprintf(s->peer, sizeof s->peer, "%s:%d", s->host, ntohs(a->sin6_port));
        } else {
            inet_ntop(AF_INET6, &a->sin6_addr, s->host, sizeof s->host);
            (void)snprintf(s->peer, sizeof s->peer, "[%s]:%d", s->host, ntohs(a->sin6_port));
        }
    } else {
        const struct sockaddr_in *a = (const void *)from;

        inet_ntop(AF_INET, &a->sin_addr, s->host, sizeof s->host);
        (void)snprintf(s->peer, sizeof s->peer, "%s:%d", s->host, ntohs(a->sin_port));
    }
    return &s->stream;
}

/* ---- listeners ---- */

struct uv_listener {
    struct listener listener;
    uv_poll_t poll;
    struct loop *loop;
    struct loop_timer retry; /* out of descriptors: accept again a little later */
    int fd, port;
    void (*on_accept)(void *ctx, struct stream *s);
    void *ctx;
};

static struct uv_listener *listener_of(const struct listener *l)
{
    return CONTAINER_OF((struct listener *)(uintptr_t)l, struct uv_listener, listener);
}

static void on_connection(uv_poll_t *h, int status, int events)
{
    struct uv_listener *l = h->data;

    (void)events;
    turn_enter(loop_of(l->loop));
    if (status < 0)
        return;
    for (int i = 0; i < ACCEPTS_PER_EVENT; i++) {
        struct sockaddr_storage from;
        socklen_t size = sizeof from;
        int fd = accept4(l->fd, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                uv_poll_stop(&l->poll); /* level triggered: it would spin */
                loop_timer_set(&l->retry, monotonic_ns() + ACCEPT_RETRY_NS);
            }
            return;
        }
        l->on_accept(l->ctx, stream_new(fd, &from));
    }
}

static void on_accept_retry(struct loop_timer *t)
{
    struct uv_listener *l = CONTAINER_OF(t, struct uv_listener, retry);

    CHECK(uv_poll_start(&l->poll, UV_READABLE, on_connection) == 0);
}

static void uv_listener_pause(struct listener *listener, bool paused)
{
    struct uv_listener *l = listener_of(listener);

    if (paused)
        uv_poll_stop(&l->poll);
    else
        CHECK(uv_poll_start(&l->poll, UV_READABLE, on_connection) == 0);
}

static int uv_listener_port(const struct listener *l)
{
    return listener_of(l)->port;
}

static void on_listener_closed(uv_handle_t *h)
{
    struct uv_listener *l = h->data;

    close(l->fd);
    free(l);
}

static void uv_listener_close(struct listener *l)
{
    loop_timer_stop(&listener_of(l)->retry);
    uv_close((uv_handle_t *)&listener_of(l)->poll, on_listener_closed);
}

static const struct listener_ops uv_listener_ops = {
    .port = uv_listener_port,
    .pause = uv_listener_pause,
    .close = uv_listener_close,
};

/* All addresses, both families, by one socket where IPv6 exists. */
static int listen_socket(const struct addrinfo *a, int backlog)
{
    int one = 1, zero = 0;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (a->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, backlog) != 0) {
        int saved = errno;

        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static int bound_port(int fd)
{
    struct sockaddr_storage at;
    socklen_t size = sizeof at;

    if (getsockname(fd, (struct sockaddr *)&at, &size) != 0)
        return 0;
    return at.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)(void *)&at)->sin6_port)
                                    : ntohs(((struct sockaddr_in *)(void *)&at)->sin_port);
}

static bool all_addresses(const char *host)
{
    return host[0] == '\0' || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

static enum err uv_listen_(struct loop *loop, const struct listen_options *o, struct listener **out,
                           struct errmsg *why)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    bool any = all_addresses(o->host);
    char port[16];
    int fd = -1;

    (void)snprintf(port, sizeof port, "%d", o->port);

    int rv = getaddrinfo(any ? "::" : o->host, port, &hints, &found);

    if (rv != 0 && any)
        rv = getaddrinfo("0.0.0.0", port, &hints, &found);
    if (rv != 0) {
        errmsg_set(why, "%s:%d: cannot resolve: %s", o->host, o->port, gai_strerror(rv));
        return ERR_IO;
    }
    for (const struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next)
        fd = listen_socket(a, o->backlog);
    freeaddrinfo(found);
    if (fd < 0 && any && errno == EAFNOSUPPORT &&
        getaddrinfo("0.0.0.0", port, &hints, &found) == 0) {
        fd = listen_socket(found, o->backlog);
        freeaddrinfo(found);
    }
    if (fd < 0) {
        errmsg_set(why, "%s:%d: cannot listen: %s", any ? "*" : o->host, o->port, strerror(errno));
        return ERR_IO;
    }

    struct uv_listener *l = xcalloc(1, sizeof *l);

    l->listener.ops = &uv_listener_ops;
    l->loop = loop;
    l->fd = fd;
    l->port = bound_port(fd);
    l->on_accept = o->on_accept;
    l->ctx = o->ctx;
    CHECK(uv_poll_init(&loop_of(loop)->uv, &l->poll, fd) == 0);
    l->poll.data = l;
    loop_timer_init(&l->retry, loop, on_accept_retry);
    CHECK(uv_poll_start(&l->poll, UV_READABLE, on_connection) == 0);
    *out = &l->listener;
    return ERR_NONE;
}

/* ---- connecting: the name is resolved, then each address is tried in turn ---- */

struct attempt {
    struct connecting *c; /* NULL: cancelled */
    struct loop *loop;
    uv_getaddrinfo_t resolve;
    struct addrinfo *found, *next;
    uv_poll_t poll;
    int fd; /* being connected; -1: none */
    struct loop_timer deadline;
    bool no_name;          /* that could be looked up: nothing is under way */
    bool refused, unclear; /* some address was refused; some failed in another way */
};

static void attempt_free(struct attempt *a)
{
    struct uv_env_loop *l = loop_of(a->loop);

    if (a->found != NULL)
        freeaddrinfo(a->found);
    free(a);
    if (--l->attempts == 0 && l->stopping)
        on_stop_message(&l->stop_message);
}

/* Ends it; the attempt lives on until libuv has let go of the poll. */
static void attempt_end(struct attempt *a, enum err err, struct stream *s)
{
    struct connecting *c = a->c;

    loop_timer_stop(&a->deadline);
    a->c = NULL;
    if (c != NULL) {
        c->attempt = NULL;
        c->done(c, err, s);
    } else if (s != NULL) {
        stream_close(s);
    }
}

/* No route for IPv6 on a machine without it says nothing about the other family. */
static void attempt_failed(struct attempt *a, int error)
{
    bool no_such_family = a->next->ai_family == AF_INET6 &&
                          (error == EADDRNOTAVAIL || error == EAFNOSUPPORT || error == ENETUNREACH);

    if (error == ECONNREFUSED)
        a->refused = true;
    else if (!no_such_family)
        a->unclear = true;
}

static void attempt_next(struct attempt *a);

static void on_failed_poll_closed(uv_handle_t *h)
{
    struct attempt *a = h->data;

    close(a->fd);
    a->fd = -1;
    turn_enter(loop_of(a->loop));
    attempt_next(a);
}

static void on_good_poll_closed(uv_handle_t *h)
{
    struct attempt *a = h->data;
    struct sockaddr_storage to = {0};
    int fd = a->fd;

    memcpy(&to, a->next->ai_addr, a->next->ai_addrlen);
    a->fd = -1;
    turn_enter(loop_of(a->loop));
    if (a->c == NULL)
        close(fd);
    else
        attempt_end(a, ERR_NONE, stream_new(fd, &to));
    attempt_free(a);
}

static void on_connect_poll(uv_poll_t *h, int status, int events)
{
    struct attempt *a = h->data;
    int error = 0;
    socklen_t size = sizeof error;

    (void)events;
    turn_enter(loop_of(a->loop));
    if (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0 || (status < 0 && error == 0))
        error = ECONNRESET;
    if (error != 0)
        attempt_failed(a, error);
    uv_close((uv_handle_t *)h, error == 0 ? on_good_poll_closed : on_failed_poll_closed);
}

/* Tries the address after `next`, or ends. */
static void attempt_next(struct attempt *a)
{
    while (a->c != NULL && (a->next = a->next == NULL ? a->found : a->next->ai_next) != NULL) {
        a->fd = socket(a->next->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (a->fd >= 0 &&
            (connect(a->fd, a->next->ai_addr, a->next->ai_addrlen) == 0 || errno == EINPROGRESS)) {
            CHECK(uv_poll_init(&loop_of(a->loop)->uv, &a->poll, a->fd) == 0);
            a->poll.data = a;
            CHECK(uv_poll_start(&a->poll, UV_WRITABLE, on_connect_poll) == 0);
            return;
        }
        attempt_failed(a, errno);
        if (a->fd >= 0)
            close(a->fd);
        a->fd = -1;
    }
    attempt_end(a, a->refused && !a->unclear ? ERR_REFUSED : ERR_CLOSED, NULL);
    attempt_free(a);
}

/* Nobody asks for it any more; it ends with what is under way for it. */
static void attempt_abandon(struct attempt *a)
{
    if (a->no_name)
        attempt_free(a);
    else if (a->fd >= 0 && !uv_is_closing((uv_handle_t *)&a->poll))
        uv_close((uv_handle_t *)&a->poll, on_failed_poll_closed);
}

static void on_connect_deadline(struct loop_timer *t)
{
    struct attempt *a = CONTAINER_OF(t, struct attempt, deadline);

    attempt_end(a, a->no_name ? ERR_CLOSED : ERR_TIMED_OUT, NULL);
    attempt_abandon(a);
}

static void on_resolved(uv_getaddrinfo_t *r, int status, struct addrinfo *found)
{
    struct attempt *a = CONTAINER_OF(r, struct attempt, resolve);

    turn_enter(loop_of(a->loop));
    a->found = status == 0 ? found : NULL;
    attempt_next(a);
}

static void uv_connect(struct loop *loop, struct connecting *c)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct attempt *a = xcalloc(1, sizeof *a);
    char port[16];

    loop_of(loop)->attempts++;
    c->attempt = a;
    a->c = c;
    a->loop = loop;
    a->fd = -1;
    (void)snprintf(port, sizeof port, "%d", c->port);
    loop_timer_init(&a->deadline, loop, on_connect_deadline);
    loop_timer_set(&a->deadline, c->deadline_ns);
    /* Not on our pool, whose threads a dead name server would hold; libuv gives names half of its
     * own at most. */
    if (uv_getaddrinfo(&loop_of(loop)->uv, &a->resolve, on_resolved, c->host, port, &hints) != 0) {
        a->no_name = true; /* said in a later turn */
        loop_timer_set(&a->deadline, 0);
    }
}

static void uv_connect_cancel(struct loop *loop, struct connecting *c)
{
    struct attempt *a = c->attempt;

    (void)loop;
    c->attempt = NULL;
    a->c = NULL;
    loop_timer_stop(&a->deadline);
    attempt_abandon(a);
}

/* ---- the env ---- */

static const struct env_ops env_uv_ops = {
    .now_ns = env_uv_now_ns,
    .unix_ms = env_uv_unix_ms,
    .random = env_uv_random,
    .mutex_init = env_uv_mutex_init,
    .mutex_deinit = env_uv_mutex_deinit,
    .mutex_lock = env_uv_mutex_lock,
    .mutex_unlock = env_uv_mutex_unlock,
    .loop_new = env_uv_loop_new,
    .pool_submit = env_uv_pool_submit,
};

enum err env_uv_new(int pool_threads, struct env **out, struct errmsg *why)
{
    struct env_uv *e = xcalloc(1, sizeof *e);

    e->env.ops = &env_uv_ops;
    e->env.disk = &disk_posix_ops;
    for (size_t i = 0; i < ARRAY_COUNT(e->pools); i++) {
        enum err err = pool_start(&e->pools[i], pool_threads, why);

        if (err != ERR_NONE)
            return err; /* the process ends */
    }
    *out = &e->env;
    return ERR_NONE;
}

void env_uv_free(struct env *env)
{
    struct env_uv *e = CONTAINER_OF(env, struct env_uv, env);

    for (size_t i = 0; i < ARRAY_COUNT(e->pools); i++)
        pool_stop(&e->pools[i]);
    free(e);
}
