/* Logs under real threads: writers, readers, syncs, retention and DeleteRecords at once. It is
 * worth most under TSan. What must hold: each writer's batches get dense offsets, a reader never
 * sees a gap, a batch whose CRC is wrong, or anything at or above the end it was told.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/env_uv.h"
#include "storage/log_dir.h"
#include "tests/support/log_fixture.h"

#define LOGS    4
#define WRITERS 4
#define READERS 2
#define BATCHES 1500

struct room {
    struct log_room_waiter waiter;
    pthread_mutex_t lock;
    pthread_cond_t there;
    bool ready;
};

struct world {
    struct env *env;
    struct loop *loop;
    struct log_manager *manager;
    struct log *logs[LOGS];
    struct message done;
    struct room opened;
    _Atomic bool over;
    char dir[64];
};

static void signal_room(struct room *r)
{
    pthread_mutex_lock(&r->lock);
    r->ready = true;
    pthread_cond_signal(&r->there);
    pthread_mutex_unlock(&r->lock);
}

static void on_room(struct log_room_waiter *w)
{
    signal_room(CONTAINER_OF(w, struct room, waiter));
}

static void wait_room(struct room *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->ready)
        pthread_cond_wait(&r->there, &r->lock);
    r->ready = false;
    pthread_mutex_unlock(&r->lock);
}

static void on_opened(struct message *m)
{
    signal_room(&CONTAINER_OF(m, struct world, done)->opened);
}

static const struct log_config config = {
    .segment_bytes = 200000,
    .segment_ms = INT64_MAX,
    .segment_index_bytes = 1 << 20,
    .index_interval_bytes = 1000,
    .retention_ms = -1,
    .retention_bytes = 2000000,
    .flush_messages = INT64_MAX,
    .flush_ms = INT64_MAX,
    .producer_id_expiration_ms = 86400000,
    .cleanup_delete = true,
};

static void open_world(struct world *w)
{
    const char *dirs[] = {w->dir};
    struct errmsg why = {""};
    struct log_manager_options o = {
        .env = w->env,
        .dirs = dirs,
        .dir_count = 1,
        .node_id = 1,
        .reserve_bytes = 0,
        .recovery_threads_per_dir = 2,
        .retention_check_ms = 1000,
        .checkpoint_interval_ms = 1000,
        .sync_behind_ms = 1000,
        .default_config = config,
    };

    assert_int_equal(log_manager_new(&o, false, &w->manager, &why), ERR_NONE);
    w->done.run = on_opened;
    log_manager_open_all(w->manager, w->loop, &w->done);
    wait_room(&w->opened);
    log_manager_start(w->manager);
    for (int i = 0; i < LOGS; i++) {
        struct log_identity id = {.topic_id = {{(uint8_t)(i + 1)}}, .partition = i};

        (void)snprintf(id.topic, sizeof id.topic, "topic%d", i);
        assert_int_equal(log_manager_create(w->manager, &id, &config, &w->logs[i], &why), ERR_NONE);
    }
}

static void close_world(struct world *w)
{
    for (int i = 0; i < LOGS; i++)
        log_unref(w->logs[i]);
    log_manager_close(w->manager);
}

static void *write_batches(void *ctx)
{
    struct world *w = ctx;
    struct room room = {.waiter = {.ready = on_room}};
    struct batch_spec spec = {.records = 2};

    pthread_mutex_init(&room.lock, NULL);
    pthread_cond_init(&room.there, NULL);
    for (int i = 0; i < BATCHES; i++) {
        struct log *l = w->logs[i % LOGS];
        struct log_append_result r;
        struct record_batch b;

        spec.value_bytes = i % 50 == 0 ? 40000 : 300; /* both ways into the file */

        struct iobuf *buf = log_fixture_batch(&spec);

        CHECK(record_batch_parse(buf->ptr, buf->len, &b) == ERR_NONE);
        for (;;) {
            enum err e = log_append(l, &b, iobuf_bytes(buf), 1, 1000, &r);

            if (e == ERR_NONE)
                break;
            CHECK(e == ERR_AGAIN);
            log_wait_for_room(l, buf->len, &room.waiter);
            wait_room(&room);
        }
        if (i % 100 == 0)
            log_request_sync(l);
        if (i % 400 == 0)
            CHECK(log_advance_start(l, r.base_offset / 2) == ERR_NONE);
        iobuf_unref(buf);
    }
    pthread_mutex_destroy(&room.lock);
    pthread_cond_destroy(&room.there);
    return NULL;
}

static void check_slice(const struct ioslice *s, int64_t end, int64_t *next)
{
    uint8_t *copy = xmalloc(s->len);
    struct record_batch_iterator it = {copy, s->len};
    struct record_batch b;
    size_t n = 0;

    if (s->buf->ptr != NULL)
        memcpy(copy, s->buf->ptr + s->offset, s->len);
    else
        CHECK(file_read(s->buf->file, s->buf->file_offset + s->offset, copy, s->len, &n) ==
                  ERR_NONE &&
              n == s->len);
    while (record_batch_next(&it, &b) == ERR_NONE) {
        CHECK(record_batch_crc_ok(&b));
        CHECK(*next < 0 || b.base_offset == *next);
        *next = record_batch_last_offset(&b) + 1;
        CHECK(*next <= end);
    }
    CHECK(it.left == 0);
    free(copy);
}

static void *read_batches(void *ctx)
{
    struct world *w = ctx;
    int64_t at[LOGS] = {0};
    bool follows[LOGS] = {false};

    for (int i = 0; !atomic_load(&w->over); i = (i + 1) % LOGS) {
        struct log *l = w->logs[i];
        int64_t end = log_end_offset(l);
        struct log_read_options o = {
            .offset = at[i], .offset_limit = end, .bytes_max = 100000, .at_least_one = true};
        struct log_read_result r;
        enum err e = log_read(l, &o, &r);

        if (e == ERR_AGAIN) {
            CHECK(log_load(l, at[i], 1000) == ERR_NONE);
        } else if (e == ERR_OFFSET_OUT_OF_RANGE) {
            at[i] = log_start_offset(l);
            follows[i] = false;
        } else {
            CHECK(e == ERR_NONE);
            if (r.bytes > 0) {
                int64_t next = follows[i] ? at[i] : -1;

                check_slice(ioqueue_at(&r.data, 0), end, &next);
                at[i] = next;
                follows[i] = true;
            }
        }
        ioqueue_deinit(&r.data);
    }
    return NULL;
}

static void logs_hold_under_threads(void **state)
{
    struct world w = {.dir = "/tmp/fluxmq-test-XXXXXX"};
    pthread_t writers[WRITERS], readers[READERS];
    struct errmsg why = {""};
    int64_t ends[LOGS];

    (void)state;
    pthread_mutex_init(&w.opened.lock, NULL);
    pthread_cond_init(&w.opened.there, NULL);
    assert_non_null(mkdtemp(w.dir));
    assert_int_equal(env_uv_new(2, &w.env, &why), ERR_NONE);
    assert_int_equal(env_loop_new(w.env, "test", NULL, NULL, &w.loop, &why), ERR_NONE);
    open_world(&w);
    for (int i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, read_batches, &w);
    for (int i = 0; i < WRITERS; i++)
        pthread_create(&writers[i], NULL, write_batches, &w);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    atomic_store(&w.over, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    for (int i = 0; i < LOGS; i++) {
        ends[i] = log_end_offset(w.logs[i]);
        assert_int_equal(ends[i], 2 * WRITERS * BATCHES / LOGS);
        assert_null(log_offline_reason(w.logs[i]));
    }
    close_world(&w);
    open_world(&w);
    assert_true(log_manager_started_clean(w.manager));
    for (int i = 0; i < LOGS; i++)
        assert_int_equal(log_end_offset(w.logs[i]), ends[i]);
    close_world(&w);
    env_loop_stop(w.loop);
    assert_int_equal(disk_remove_tree(w.env, w.dir, &why), ERR_NONE);
    env_uv_free(w.env);
    pthread_mutex_destroy(&w.opened.lock);
    pthread_cond_destroy(&w.opened.there);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logs_hold_under_threads)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
