/* Connections that the node itself makes: they arrive, are refused, time out or are called off, and
 * a loop can be stopped while one is on its way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "broker/env_uv.h"

struct world {
    struct env *env;
    struct loop *loop;
    struct listener *listener;
    int port;
    struct message begin;
    struct connecting connecting;
    struct stream *accepted, *made;
    enum err err;
    void (*step)(struct world *w);
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done, both;
};

static void finish(struct world *w)
{
    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void on_event(struct stream *s, unsigned events)
{
    (void)s;
    (void)events;
}

static void on_accept(void *ctx, struct stream *s)
{
    struct world *w = ctx;

    stream_attach(s, w->loop, on_event, w);
    w->accepted = s;
    if (w->made != NULL)
        finish(w);
}

static void on_done(struct connecting *c, enum err err, struct stream *s)
{
    struct world *w = CONTAINER_OF(c, struct world, connecting);

    assert_null(c->attempt);
    w->err = err;
    w->made = s;
    if (s != NULL)
        stream_attach(s, w->loop, on_event, w);
    if (s == NULL || w->accepted != NULL)
        finish(w);
}

static void on_begin(struct message *m)
{
    struct world *w = CONTAINER_OF(m, struct world, begin);

    w->step(w);
}

static void run(struct world *w, void (*step)(struct world *w))
{
    w->step = step;
    w->done = false;
    w->begin.run = on_begin;
    loop_post(w->loop, &w->begin);
    pthread_mutex_lock(&w->lock);
    while (!w->done)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static void step_listen(struct world *w)
{
    struct listen_options o = {
        .host = "127.0.0.1", .port = 0, .backlog = 4, .on_accept = on_accept, .ctx = w};
    struct errmsg why;

    assert_int_equal(env_listen(w->loop, &o, &w->listener, &why), ERR_NONE);
    w->port = listener_port(w->listener);
    finish(w);
}

static void connect_to(struct world *w, const char *host, int port, uint64_t within_ns)
{
    w->connecting = (struct connecting){
        .host = host, .port = port, .deadline_ns = env_now_ns(w->env) + within_ns, .done = on_done};
    loop_connect(w->loop, &w->connecting);
}

static void step_connect(struct world *w)
{
    connect_to(w, "localhost", w->port, 5000000000u);
}

static void step_close(struct world *w)
{
    if (w->accepted != NULL)
        stream_close(w->accepted);
    if (w->made != NULL)
        stream_close(w->made);
    w->accepted = w->made = NULL;
    if (w->listener != NULL)
        listener_close(w->listener);
    w->listener = NULL;
    finish(w);
}

static void step_no_such_name(struct world *w)
{
    connect_to(w, "no such name", 1, 5000000000u);
}

static void step_impossible_name(struct world *w)
{
    static char name[1024];

    memset(name, 'a', sizeof name - 1);
    connect_to(w, name, 1, 5000000000u);
}

static void step_too_late(struct world *w)
{
    connect_to(w, "127.0.0.1", w->port, 0);
}

static void step_call_off(struct world *w)
{
    connect_to(w, "localhost", w->port, 5000000000u);
    loop_connect_cancel(&w->connecting);
    assert_null(w->connecting.attempt);
    finish(w);
}

static struct world *world_new(void)
{
    struct world *w = xcalloc(1, sizeof *w);
    struct errmsg why;

    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    assert_int_equal(env_uv_new(1, &w->env, &why), ERR_NONE);
    assert_int_equal(env_loop_new(w->env, "test", NULL, NULL, &w->loop, &why), ERR_NONE);
    run(w, step_listen);
    return w;
}

static void world_free(struct world *w)
{
    run(w, step_close);
    env_loop_stop(w->loop);
    env_uv_free(w->env);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(w);
}

static void a_listener_is_reached_by_name(void **state)
{
    struct world *w = world_new();

    (void)state;
    run(w, step_connect);
    assert_int_equal(w->err, ERR_NONE);
    assert_non_null(w->made);
    assert_string_equal(stream_peer_host(w->made), "127.0.0.1");
    world_free(w);
}

static void where_nobody_listens_it_is_refused(void **state)
{
    struct world *w = world_new();

    (void)state;
    run(w, step_close);
    run(w, step_connect);
    assert_int_equal(w->err, ERR_REFUSED);
    run(w, step_no_such_name);
    assert_int_equal(w->err, ERR_CLOSED);
    run(w, step_impossible_name);
    assert_int_equal(w->err, ERR_CLOSED);
    world_free(w);
}

static void a_deadline_ends_it(void **state)
{
    struct world *w = world_new();

    (void)state;
    run(w, step_too_late);
    assert_true(w->err == ERR_TIMED_OUT || w->err == ERR_NONE);
    world_free(w);
}

static void one_that_is_called_off_says_nothing_and_holds_no_loop(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct world *w = world_new();

        w->err = ERR_EXISTS;
        run(w, step_call_off);
        world_free(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_listener_is_reached_by_name),
        cmocka_unit_test(where_nobody_listens_it_is_refused),
        cmocka_unit_test(a_deadline_ends_it),
        cmocka_unit_test(one_that_is_called_off_says_nothing_and_holds_no_loop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
