#include "tests/support/log_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/disk_posix.h"
#include "storage/log_manager.h"

struct log_config log_fixture_config(void)
{
    return (struct log_config){
        .segment_bytes = 10000,
        .segment_ms = INT64_MAX,
        .segment_index_bytes = 1 << 20,
        .index_interval_bytes = 400,
        .retention_ms = -1,
        .retention_bytes = -1,
        .flush_messages = INT64_MAX,
        .flush_ms = INT64_MAX,
        .file_delete_delay_ms = 60000,
        .producer_id_expiration_ms = 86400000,
        .cleanup_delete = true,
    };
}

void log_fixture_init(struct log_fixture *f)
{
    *f = (struct log_fixture){
        .config = log_fixture_config(),
        .id = {.topic = "orders", .topic_id = {{1, 2, 3}}, .partition = 0},
        .high_watermark = -1,
    };
    test_env_init(&f->t);
    (void)snprintf(f->dir, sizeof f->dir, "%s/data", f->t.dir);
    f->dirs[0] = f->dir;
}

void log_fixture_deinit(struct log_fixture *f)
{
    if (f->manager != NULL)
        log_fixture_crash(f);
    test_env_deinit(&f->t);
}

static int64_t high_watermark(void *ctx, struct log *l)
{
    const struct log_fixture *f = ctx;

    return f->high_watermark >= 0 ? f->high_watermark : log_end_offset(l);
}

static void on_opened(struct message *m)
{
    CONTAINER_OF(m, struct log_fixture, done)->opened = true;
}

void log_fixture_open(struct log_fixture *f)
{
    struct errmsg why = {""};
    struct log_manager_options o = {
        .env = &f->t.env,
        .dirs = f->dirs,
        .dir_count = 1,
        .node_id = 1,
        .cluster_id = "cluster",
        .reserve_bytes = f->reserve_bytes,
        .recovery_threads_per_dir = 2,
        .retention_check_ms = 300000,
        .checkpoint_interval_ms = 60000,
        .sync_behind_ms = 30000,
        .default_config = f->config,
        .high_watermark = high_watermark,
        .ctx = f,
    };

    if (log_manager_new(&o, false, &f->manager, &why) != ERR_NONE) {
        fprintf(stderr, "log_manager_new: %s\n", why.text);
        abort();
    }
    f->opened = false;
    f->done.run = on_opened;
    log_manager_open_all(f->manager, test_env_loop(&f->t), &f->done);
    (void)test_env_run(&f->t);
    CHECK(f->opened);
    log_manager_start(f->manager);
    (void)test_env_run(&f->t);
    f->log = log_manager_find(f->manager, &f->id.topic_id, f->id.partition);
    if (f->log == NULL &&
        log_manager_create(f->manager, &f->id, &f->config, &f->log, &why) != ERR_NONE) {
        fprintf(stderr, "log_manager_create: %s\n", why.text);
        abort();
    }
    log_configure(f->log, &f->config);
}

void log_fixture_close(struct log_fixture *f)
{
    log_unref(f->log);
    f->log = NULL;
    log_manager_close(f->manager);
    f->manager = NULL;
    (void)test_env_run(&f->t);
}

/* The manager is let go of without a word to the disk: every change of a file or name fails from
 * here on, as if the process were gone. */
static enum err refuse_open(struct env *env, const char *path, unsigned flags, struct file **out,
                            struct errmsg *why)
{
    (void)env;
    (void)path;
    (void)flags;
    (void)out;
    errmsg_set(why, "the process is gone");
    return ERR_IO;
}

void log_fixture_crash(struct log_fixture *f)
{
    f->t.disk.open = refuse_open;
    size_t count;
    struct log **all = log_manager_all(f->manager, &count);

    for (size_t i = 0; i < count; i++) {
        mutex_lock(&all[i]->lock);
        all[i]->closed = true; /* no sync, no trim */
        mutex_unlock(&all[i]->lock);
        log_unref(all[i]);
    }
    free(all);
    log_fixture_close(f);
    f->t.disk = disk_posix_ops;
}

struct iobuf *log_fixture_batch(const struct batch_spec *spec)
{
    struct record_batch_builder b;
    struct iobuf *out;
    int records = spec->records > 0 ? spec->records : 1;
    int value_bytes = spec->value_bytes > 0 ? spec->value_bytes : 10;
    int64_t timestamp = spec->timestamp_ms != 0 ? spec->timestamp_ms : 1000;
    uint8_t *value = xmalloc((size_t)value_bytes);

    memset(value, 'v', (size_t)value_bytes);
    record_batch_builder_init(&b, 0);
    b.codec = spec->codec;
    b.attributes = spec->attributes;
    if (spec->producer_id != 0) {
        b.producer_id = spec->producer_id;
        b.producer_epoch = spec->producer_epoch;
        b.base_sequence = spec->sequence;
    }
    for (int i = 0; i < records; i++)
        record_batch_builder_add(&b, timestamp + i, BYTES_NULL, (struct bytes){value, value_bytes},
                                 NULL, 0);
    CHECK(record_batch_builder_finish(&b, &out) == ERR_NONE);
    record_batch_builder_deinit(&b);
    free(value);
    return out;
}

struct iobuf *log_fixture_marker(int64_t producer_id, int16_t producer_epoch, bool commit,
                                 int32_t coordinator_epoch)
{
    struct record_batch_builder b;
    struct iobuf *out;
    uint8_t key[4] = {0, 0, 0, commit}, value[6] = {0};

    store_be32(value + 2, (uint32_t)coordinator_epoch);
    record_batch_builder_init(&b, 0);
    b.attributes = RECORD_BATCH_TRANSACTIONAL | RECORD_BATCH_CONTROL;
    b.producer_id = producer_id;
    b.producer_epoch = producer_epoch;
    record_batch_builder_add(&b, 1000, (struct bytes){key, sizeof key},
                             (struct bytes){value, sizeof value}, NULL, 0);
    CHECK(record_batch_builder_finish(&b, &out) == ERR_NONE);
    record_batch_builder_deinit(&b);
    return out;
}

static void has_room(struct log_room_waiter *w)
{
    list_node_init(&w->node);
}

enum err log_fixture_append_buf(struct log_fixture *f, struct iobuf *b, int32_t leader_epoch,
                                struct log_append_result *out)
{
    struct log_append_result ignored;
    struct record_batch batch;
    enum err e = ERR_AGAIN;

    CHECK(record_batch_parse(b->ptr, b->len, &batch) == ERR_NONE);
    for (int i = 0; i < 5 && e == ERR_AGAIN; i++) {
        struct log_room_waiter w = {.ready = has_room};

        e = log_append(f->log, &batch, iobuf_bytes(b), leader_epoch, f->t.unix_ms,
                       out != NULL ? out : &ignored);
        if (e != ERR_AGAIN)
            break;
        log_wait_for_room(f->log, b->len, &w);
        (void)test_env_run(&f->t);
    }
    iobuf_unref(b);
    return e;
}

enum err log_fixture_append_spec(struct log_fixture *f, struct batch_spec spec,
                                 struct log_append_result *out)
{
    return log_fixture_append_buf(f, log_fixture_batch(&spec), spec.leader_epoch, out);
}

static int64_t count_records(const uint8_t *p, size_t size, int64_t *expected)
{
    struct record_batch_iterator it = {p, size};
    struct record_batch b;
    int64_t count = 0;

    while (record_batch_next(&it, &b) == ERR_NONE) {
        CHECK(record_batch_crc_ok(&b));
        CHECK(*expected < 0 || b.base_offset == *expected);
        *expected = record_batch_last_offset(&b) + 1;
        count += b.record_count;
    }
    CHECK(it.left == 0);
    return count;
}

int64_t log_fixture_read(struct log_fixture *f, int64_t offset, int64_t limit, size_t bytes_max)
{
    struct log_read_options o = {
        .offset = offset, .offset_limit = limit, .bytes_max = bytes_max, .at_least_one = true};
    int64_t count = 0, expected = -1;

    for (;;) {
        struct log_read_result r;
        enum err e = log_read(f->log, &o, &r);

        if (e == ERR_AGAIN) {
            ioqueue_deinit(&r.data);
            e = log_load(f->log, o.offset, bytes_max);
            if (e != ERR_NONE)
                return e < 0 ? (int64_t)e : -(int64_t)e;
            continue;
        }
        if (e != ERR_NONE) {
            ioqueue_deinit(&r.data);
            return e < 0 ? (int64_t)e : -(int64_t)e;
        }
        if (r.bytes == 0) {
            ioqueue_deinit(&r.data);
            return count;
        }

        const struct ioslice *s = ioqueue_at(&r.data, 0);
        uint8_t *copy = xmalloc(s->len);

        if (s->buf->ptr != NULL) {
            memcpy(copy, s->buf->ptr + s->offset, s->len);
        } else {
            size_t n;

            CHECK(file_read(s->buf->file, s->buf->file_offset + s->offset, copy, s->len, &n) ==
                  ERR_NONE);
            CHECK(n == s->len);
        }
        count += count_records(copy, s->len, &expected);
        free(copy);
        ioqueue_deinit(&r.data);
        o.offset = expected;
    }
}

const char *log_fixture_path(struct log_fixture *f, char out[1024], const char *name)
{
    (void)snprintf(out, 1024, "%s/orders-0/%s", f->dir, name);
    return out;
}

bool log_fixture_exists(struct log_fixture *f, const char *name)
{
    char path[1024];

    return access(log_fixture_path(f, path, name), F_OK) == 0;
}

uint64_t log_fixture_file_size(struct log_fixture *f, const char *name)
{
    char path[1024];
    struct stat st;

    CHECK(stat(log_fixture_path(f, path, name), &st) == 0);
    return (uint64_t)st.st_size;
}

void log_fixture_flip(struct log_fixture *f, const char *name, uint64_t offset)
{
    char path[1024];
    uint8_t byte;
    int fd = open(log_fixture_path(f, path, name), O_RDWR);

    CHECK(fd >= 0);
    CHECK(pread(fd, &byte, 1, (off_t)offset) == 1);
    byte ^= 0x40;
    CHECK(pwrite(fd, &byte, 1, (off_t)offset) == 1);
    CHECK(close(fd) == 0);
}
