#include "tests/support/test_env.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage/disk_posix.h"

struct test_loop {
    struct loop loop;
    struct list_node node;
    struct list messages;
    struct list timers; /* struct test_timer, in loop_timer.storage */
};

/* Lives in loop_timer.storage. */
struct test_timer {
    struct list_node node;
    uint64_t deadline_ns;
};
_Static_assert(sizeof(struct test_timer) <= sizeof(((struct loop_timer *)0)->storage), "fits");
_Static_assert(sizeof(pthread_mutex_t) <= sizeof(((struct mutex *)0)->storage), "fits");

static struct test_env *of(struct env *env)
{
    return CONTAINER_OF(env, struct test_env, env);
}

static struct test_loop *loop_of(const struct loop *loop)
{
    return CONTAINER_OF((struct loop *)(uintptr_t)loop, struct test_loop, loop);
}

static struct test_timer *timer_of(const struct loop_timer *t)
{
    return (struct test_timer *)(uintptr_t)t->storage;
}

/* ---- clock, randomness, locks ---- */

static uint64_t now_ns(struct env *env)
{
    return of(env)->now_ns;
}

static int64_t unix_ms(struct env *env)
{
    return of(env)->unix_ms;
}

static void random_bytes(struct env *env, void *out, size_t size)
{
    uint8_t *p = out;

    for (size_t i = 0; i < size; i++) {
        uint64_t z = of(env)->random_state += 0x9e3779b97f4a7c15u;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        p[i] = (uint8_t)(z >> 56);
    }
}

static pthread_mutex_t *pthread_of(struct mutex *m)
{
    return (pthread_mutex_t *)(void *)m->storage;
}

static void lock_init(struct mutex *m)
{
    (void)pthread_mutex_init(pthread_of(m), NULL);
}

static void lock_deinit(struct mutex *m)
{
    CHECK(pthread_mutex_destroy(pthread_of(m)) == 0);
}

static void lock(struct mutex *m)
{
    CHECK(pthread_mutex_lock(pthread_of(m)) == 0);
}

static void unlock(struct mutex *m)
{
    CHECK(pthread_mutex_unlock(pthread_of(m)) == 0);
}

/* ---- loops ---- */

static void loop_stop(struct loop *loop)
{
    struct test_loop *l = loop_of(loop);

    for (struct list_node *n; (n = list_pop_front(&l->messages)) != NULL;) {
        struct message *m = list_entry(n, struct message, node);

        m->run(m);
    }
    CHECK(list_empty(&l->timers));
    list_remove(&l->node);
    free(l);
}

static void post(struct loop *loop, struct message *m)
{
    list_push_back(&loop_of(loop)->messages, &m->node);
}

static uint64_t loop_time(const struct loop *loop)
{
    return of(loop->env)->now_ns;
}

static void on_turn_end(struct loop *loop, void (*fn)(void *ctx), void *ctx)
{
    (void)loop;
    (void)fn;
    (void)ctx;
}

static uint64_t turn_began(const struct loop *loop)
{
    (void)loop;
    return 0;
}

static void timer_init(struct loop_timer *t)
{
    *timer_of(t) = (struct test_timer){.deadline_ns = 0};
}

static void timer_stop(struct loop_timer *t)
{
    if (list_linked(&timer_of(t)->node))
        list_remove(&timer_of(t)->node);
}

static void timer_set(struct loop_timer *t, uint64_t deadline_ns)
{
    timer_stop(t);
    timer_of(t)->deadline_ns = deadline_ns;
    list_push_back(&loop_of(t->loop)->timers, &timer_of(t)->node);
}

static bool timer_is_set(const struct loop_timer *t)
{
    return list_linked(&timer_of(t)->node);
}

static enum err no_listener(struct loop *loop, const struct listen_options *o,
                            struct listener **out, struct errmsg *why)
{
    (void)loop;
    (void)o;
    (void)out;
    errmsg_set(why, "the test env has no network");
    return ERR_IO;
}

static const struct loop_ops test_loop_ops = {
    .stop = loop_stop,
    .post = post,
    .now_ns = loop_time,
    .on_turn_end = on_turn_end,
    .turn_began_ns = turn_began,
    .timer_init = timer_init,
    .timer_set = timer_set,
    .timer_stop = timer_stop,
    .timer_is_set = timer_is_set,
    .listen = no_listener,
};

static enum err loop_new(struct env *env, const char *name,
                         void (*on_start)(struct loop *loop, void *ctx), void *ctx,
                         struct loop **out, struct errmsg *why)
{
    struct test_loop *l = xcalloc(1, sizeof *l);

    (void)why;
    l->loop = (struct loop){.ops = &test_loop_ops, .env = env, .name = name};
    list_init(&l->messages);
    list_init(&l->timers);
    list_push_back(&of(env)->loops, &l->node);
    *out = &l->loop;
    if (on_start != NULL)
        on_start(&l->loop, ctx);
    return ERR_NONE;
}

struct loop *test_env_loop(struct test_env *t)
{
    struct loop *loop = NULL;

    CHECK(loop_new(&t->env, "test", NULL, NULL, &loop, NULL) == ERR_NONE);
    return loop;
}

/* ---- the pool ---- */

static void report(struct message *m)
{
    struct job *j = CONTAINER_OF(m, struct job, message);

    j->done(j);
}

static void run_job(struct job *j)
{
    struct loop *to = j->report_to;

    j->work(j); /* may free the job when nobody waits for its report */
    if (to == NULL)
        return;
    j->message.run = report;
    loop_post(to, &j->message);
}

static void pool_submit(struct env *env, enum job_class class, struct job *j)
{
    (void)class;
    if (of(env)->pool_at_once)
        run_job(j);
    else
        list_push_back(&of(env)->jobs, &j->node);
}

static int run_messages(struct test_env *t)
{
    int ran = 0;

    list_for_each (n, &t->loops) {
        struct test_loop *l = list_entry(n, struct test_loop, node);

        for (struct list_node *first; (first = list_pop_front(&l->messages)) != NULL; ran++) {
            struct message *m = list_entry(first, struct message, node);

            m->run(m);
        }
    }
    return ran;
}

int test_env_run(struct test_env *t)
{
    int ran = 0;

    for (;;) {
        struct list_node *n = list_pop_front(&t->jobs);
        int messages;

        if (n != NULL) {
            run_job(list_entry(n, struct job, node));
            ran++;
            continue;
        }
        messages = run_messages(t);
        if (messages == 0)
            return ran;
        ran += messages;
    }
}

static struct loop_timer *next_due(struct test_env *t)
{
    list_for_each (n, &t->loops) {
        struct test_loop *l = list_entry(n, struct test_loop, node);

        list_for_each (m, &l->timers) {
            struct test_timer *timer = list_entry(m, struct test_timer, node);

            if (timer->deadline_ns <= t->now_ns)
                return CONTAINER_OF((uint64_t(*)[5])(void *)timer, struct loop_timer, storage);
        }
    }
    return NULL;
}

void test_env_advance_ms(struct test_env *t, int64_t ms)
{
    t->now_ns += (uint64_t)ms * 1000000u;
    t->unix_ms += ms;
    for (struct loop_timer *timer; (timer = next_due(t)) != NULL;) {
        loop_timer_stop(timer);
        timer->fire(timer);
    }
}

/* ---- life ---- */

static const struct env_ops test_env_ops = {
    .now_ns = now_ns,
    .unix_ms = unix_ms,
    .random = random_bytes,
    .mutex_init = lock_init,
    .mutex_deinit = lock_deinit,
    .mutex_lock = lock,
    .mutex_unlock = unlock,
    .loop_new = loop_new,
    .pool_submit = pool_submit,
};

void test_env_init(struct test_env *t)
{
    *t = (struct test_env){
        .disk = disk_posix_ops,
        .now_ns = 1000000000u,
        .unix_ms = 1700000000000,
        .random_state = 1,
        .pool_at_once = true,
    };
    t->env = (struct env){.ops = &test_env_ops, .disk = &t->disk};
    list_init(&t->jobs);
    list_init(&t->loops);
    (void)snprintf(t->dir, sizeof t->dir, "/tmp/fluxmq-test-XXXXXX");
    CHECK(mkdtemp(t->dir) != NULL);
}

void test_env_deinit(struct test_env *t)
{
    struct errmsg why;

    (void)test_env_run(t);
    while (!list_empty(&t->loops))
        loop_stop(&list_entry(list_first(&t->loops), struct test_loop, node)->loop);
    t->disk = disk_posix_ops; /* without the faults of the test */
    CHECK(disk_remove_tree(&t->env, t->dir, &why) == ERR_NONE);
}

const char *test_env_path(struct test_env *t, char out[512], const char *name)
{
    CHECK(snprintf(out, 512, "%s/%s", t->dir, name) < 512);
    return out;
}
