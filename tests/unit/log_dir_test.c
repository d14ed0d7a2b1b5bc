/* All logs of a node: directories, clean and unclean starts, creation, deletion, space. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "storage/disk_posix.h"
#include "storage/log_manager.h"
#include "tests/support/log_fixture.h"

static int setup(void **state)
{
    struct log_fixture *f = xcalloc(1, sizeof *f);

    log_fixture_init(f);
    log_fixture_open(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    log_fixture_deinit(*state);
    free(*state);
    return 0;
}

static bool exists(struct log_fixture *f, const char *name)
{
    char path[1024];

    (void)snprintf(path, sizeof path, "%s/%s", f->dir, name);
    return access(path, F_OK) == 0;
}

static void put(struct log_fixture *f, const char *name, const char *text)
{
    char path[1024];

    (void)snprintf(path, sizeof path, "%s/%s", f->dir, name);

    FILE *out = fopen(path, "w");

    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static enum err try_new(struct log_fixture *f, int32_t node_id, const char *cluster_id, bool adopt,
                        struct errmsg *why)
{
    struct log_manager *m;
    struct log_manager_options o = {.env = &f->t.env,
                                    .dirs = f->dirs,
                                    .dir_count = 1,
                                    .node_id = node_id,
                                    .cluster_id = cluster_id,
                                    .default_config = f->config};
    enum err e = log_manager_new(&o, adopt, &m, why);

    if (e == ERR_NONE)
        log_manager_unref(m); /* without a word to the disk */
    return e;
}

/* D1: a directory that another process holds is not touched. */
static void locked_directory_is_refused(void **state)
{
    struct log_fixture *f = *state;
    struct errmsg why = {""};

    assert_int_equal(try_new(f, 1, "cluster", false, &why), ERR_IO);
    assert_non_null(strstr(why.text, "locked"));
}

/* A directory of another node or cluster is refused by name, found and expected. */
static void foreign_directory_is_refused(void **state)
{
    struct log_fixture *f = *state;
    struct errmsg why = {""};

    assert_int_equal(log_manager_set_cluster_id(f->manager, "cluster", &why), ERR_NONE);
    log_fixture_close(f);
    assert_int_equal(try_new(f, 2, "cluster", false, &why), ERR_CONFIG);
    assert_non_null(strstr(why.text, "node.id: found 1, expected 2"));
    assert_int_equal(try_new(f, 1, "other", false, &why), ERR_CONFIG);
    assert_non_null(strstr(why.text, "cluster.id: found cluster, expected other"));
    assert_int_equal(try_new(f, 1, NULL, false, &why), ERR_NONE);
    log_fixture_open(f);
}

/* Kafka's data is taken over on request alone; what `kafka-storage format` leaves is empty. */
static void kafka_data_needs_adoption(void **state)
{
    struct log_fixture *f = *state;
    struct errmsg why = {""};
    char path[1024];

    log_fixture_close(f);
    (void)snprintf(path, sizeof path, "%s/fluxmq-format", f->dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(try_new(f, 1, "cluster", false, &why), ERR_CONFIG);
    assert_non_null(strstr(why.text, "orders-0"));
    assert_int_equal(try_new(f, 1, "cluster", true, &why), ERR_NONE);
    assert_true(exists(f, "fluxmq-format"));

    assert_int_equal(unlink(path), 0);
    (void)snprintf(path, sizeof path, "%s/orders-0", f->dir);
    assert_int_equal(disk_remove_tree(&f->t.env, path, &why), ERR_NONE);
    (void)snprintf(path, sizeof path, "%s/__cluster_metadata-0", f->dir);
    assert_int_equal(mkdir(path, 0755), 0);
    put(f, "__cluster_metadata-0/00000000000000000000-0000000000.checkpoint", "x");
    assert_int_equal(try_new(f, 1, "cluster", false, &why), ERR_NONE);
    log_fixture_open(f);
}

/* D2: the marker and the state beside it are gone as soon as a start begins. */
static void marker_lives_for_one_start(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 3), ERR_NONE);
    log_fixture_close(f);
    assert_true(exists(f, ".kafka_cleanshutdown"));
    assert_true(exists(f, "fluxmq-clean-state"));
    log_fixture_open(f);
    assert_true(log_manager_started_clean(f->manager));
    assert_false(exists(f, ".kafka_cleanshutdown"));
    assert_false(exists(f, "fluxmq-clean-state"));
    assert_int_equal(log_durable_end_offset(f->log), 3);
    log_fixture_crash(f);
    log_fixture_open(f);
    assert_false(log_manager_started_clean(f->manager));
    assert_int_equal(log_end_offset(f->log), 3);
}

/* A clean start opens nothing: no descriptor, no walk; the first read does. */
static void clean_start_opens_no_file(void **state)
{
    struct log_fixture *f = *state;

    for (int i = 0; i < 300; i++)
        assert_int_equal(log_fixture_append(f, .value_bytes = 100), ERR_NONE);
    log_fixture_close(f);
    log_fixture_open(f);
    for (int i = 0; i < f->log->segment_count; i++)
        assert_null(f->log->segments[i]->file);
    assert_null(f->log->hints);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 1000), 300);
}

/* A damaged clean state costs a look at every partition, not a record. */
static void damaged_clean_state_is_passed_over(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 3), ERR_NONE);
    log_fixture_close(f);
    log_fixture_flip(f, "../fluxmq-clean-state", 40);
    log_fixture_open(f);
    assert_int_equal(log_end_offset(f->log), 3);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 1000), 3);
}

/* The high watermark comes back from its checkpoint. */
static void high_watermark_is_checkpointed(void **state)
{
    struct log_fixture *f = *state;

    f->high_watermark = 2;
    assert_int_equal(log_fixture_append(f, .records = 3), ERR_NONE);
    assert_int_equal(log_checkpointed_high_watermark(f->log), -1);
    test_env_advance_ms(&f->t, 61000);
    (void)test_env_run(&f->t);
    log_fixture_crash(f);
    log_fixture_open(f);
    assert_int_equal(log_checkpointed_high_watermark(f->log), 2);
}

/* D3, [H19]: a topic that was deleted and made again begins empty, with nothing of its forerunner:
 * neither records nor a recovery point that would make its log look cut. */
static void recreated_topic_is_new(void **state)
{
    struct log_fixture *f = *state;
    struct errmsg why;

    assert_int_equal(log_fixture_append(f, .records = 50), ERR_NONE);
    log_request_sync(f->log);
    test_env_advance_ms(&f->t, 61000);
    (void)test_env_run(&f->t);
    log_manager_delete(f->manager, f->log);
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_KAFKA_STORAGE_ERROR);
    log_unref(f->log);
    f->id.topic_id.b[0]++;
    assert_int_equal(log_manager_create(f->manager, &f->id, &f->config, &f->log, &why), ERR_NONE);
    assert_int_equal(log_end_offset(f->log), 0);
    assert_int_equal(log_fixture_append(f, .records = 2), ERR_NONE);
    log_fixture_crash(f);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_end_offset(f->log), 2);
}

/* A deleted folder is renamed at once and removed after file.delete.delay.ms; a read in flight
 * keeps its file. */
static void deletion_waits_for_its_delay(void **state)
{
    struct log_fixture *f = *state;
    struct log_read_result r;
    struct log_read_options o = {.offset_limit = INT64_MAX, .bytes_max = 1000};

    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
    assert_int_equal(log_read(f->log, &o, &r), ERR_NONE);
    log_manager_delete(f->manager, f->log);
    assert_false(exists(f, "orders-0"));
    test_env_advance_ms(&f->t, 61000);
    (void)test_env_run(&f->t);

    uint8_t bytes[16];
    size_t n;
    const struct ioslice *s = ioqueue_at(&r.data, 0);

    assert_int_equal(file_read(s->buf->file, 0, bytes, sizeof bytes, &n), ERR_NONE);
    assert_int_equal(n, sizeof bytes);
    ioqueue_deinit(&r.data);
}

static enum log_claim claim_none(void *ctx, const struct log_identity *id, struct uuid *right_id)
{
    (void)ctx;
    (void)id;
    (void)right_id;
    return LOG_STRAY;
}

static void count_stray(void *ctx, const struct dir_entry *e)
{
    size_t n = strlen(e->name);

    *(int *)ctx += n > 6 && strcmp(e->name + n - 6, "-stray") == 0;
}

static int count_strays(struct log_fixture *f)
{
    struct errmsg why;
    int n = 0;

    assert_int_equal(dir_list(&f->t.env, f->dir, count_stray, &n, &why), ERR_NONE);
    return n;
}

/* D3: what the image does not know is set aside, and its name can be used again. */
static void strays_are_set_aside(void **state)
{
    struct log_fixture *f = *state;
    struct errmsg why;

    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
    log_manager_set_aside_strays(f->manager, claim_none, NULL);
    assert_null(log_manager_find(f->manager, &f->id.topic_id, 0));
    assert_false(exists(f, "orders-0"));
    log_unref(f->log);
    f->id.topic_id.b[0]++;
    assert_int_equal(log_manager_create(f->manager, &f->id, &f->config, &f->log, &why), ERR_NONE);
    assert_int_equal(log_end_offset(f->log), 0);
    test_env_advance_ms(&f->t, 10 * f->config.file_delete_delay_ms);
    (void)test_env_run(&f->t);
    assert_int_equal(count_strays(f), 1); /* nobody but the operator removes it */
}

/* A folder that cannot tell whose it is, and that held records, keeps its name: the partition is
 * offline with a reason, and nothing in the folder is touched. */
static void nameless_folder_keeps_its_place(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
    log_fixture_crash(f);
    put(f, "orders-0/partition.metadata", "rubbish");
    for (int life = 0; life < 2; life++) {
        log_fixture_open(f);
        assert_non_null(log_offline_reason(f->log));
        assert_non_null(strstr(log_offline_reason(f->log), "partition.metadata"));
        assert_int_equal(log_fixture_append(f, .records = 1), ERR_KAFKA_STORAGE_ERROR);
        assert_int_equal(count_strays(f), 0);
        if (life == 0)
            log_fixture_close(f);
        else
            log_fixture_crash(f);
    }
    log_fixture_open(f);
}

/* The same when the file is gone, or empty, and a checkpoint knows of the partition. */
static void lost_name_is_remembered_by_a_checkpoint(void **state)
{
    struct log_fixture *f = *state;
    char path[1024];

    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
    log_request_sync(f->log);
    test_env_advance_ms(&f->t, 61000);
    (void)test_env_run(&f->t);
    log_fixture_crash(f);
    assert_int_equal(unlink(log_fixture_path(f, path, "partition.metadata")), 0);
    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
    assert_non_null(strstr(log_offline_reason(f->log), "is missing"));
    assert_int_equal(log_durable_end_offset(f->log), 5);
}

/* And for as long as nobody has asked for the partition: checkpoints that are written meanwhile do
 * not forget it. */
static void checkpoints_keep_what_they_know_of_the_nameless(void **state)
{
    struct log_fixture *f = *state;

    log_fixture_crash(f);
    put(f, "recovery-point-offset-checkpoint", "0\n2\norders 0 0\nother 3 7\n");
    char path[1024];

    (void)snprintf(path, sizeof path, "%s/other-3", f->dir);
    assert_int_equal(mkdir(path, 0755), 0);
    log_fixture_open(f);
    test_env_advance_ms(&f->t, 61000);
    (void)test_env_run(&f->t);
    log_fixture_close(f);

    char text[256] = "";
    FILE *in;

    (void)snprintf(path, sizeof path, "%s/recovery-point-offset-checkpoint", f->dir);
    in = fopen(path, "r");
    assert_non_null(in);
    assert_true(fread(text, 1, sizeof text - 1, in) > 0);
    fclose(in);
    assert_non_null(strstr(text, "other 3 7"));
    log_fixture_open(f);
}

/* A name that never reached the disk goes with the records that were never safe: the folder makes
 * way, and is kept. */
static void folder_that_was_never_named_makes_way(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
    log_fixture_crash(f);
    put(f, "orders-0/partition.metadata", "");
    log_fixture_open(f); /* creates it anew */
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_end_offset(f->log), 0);
    assert_int_equal(count_strays(f), 1);
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
    log_fixture_crash(f);
    put(f, "orders-0/partition.metadata", "version: 0\ntopic_id: AB"); /* a part of it did */
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(count_strays(f), 2);
}

static enum log_claim claim_wrong(void *ctx, const struct log_identity *id, struct uuid *right_id)
{
    *right_id = *(const struct uuid *)ctx;
    return uuid_eq(right_id, &id->topic_id) ? LOG_OURS : LOG_WRONG_ID;
}

/* A folder with another topic's id, under a name that is ours, is offline under the right id. */
static void damaged_id_takes_the_partition_offline(void **state)
{
    struct log_fixture *f = *state;
    struct uuid right = f->id.topic_id;

    right.b[3] ^= 4;
    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
    log_manager_set_aside_strays(f->manager, claim_wrong, &right);
    assert_null(log_manager_find(f->manager, &f->id.topic_id, 0));
    log_unref(f->log);
    f->log = log_manager_find(f->manager, &right, 0);
    assert_non_null(f->log);
    assert_non_null(strstr(log_offline_reason(f->log), "partition.metadata: found topic_id"));
    assert_int_equal(count_strays(f), 0);
    assert_true(exists(f, "orders-0"));
}

static enum log_claim claim_all(void *ctx, const struct log_identity *id, struct uuid *right_id)
{
    (void)ctx;
    (void)id;
    (void)right_id;
    return LOG_OURS;
}

static void on_open(struct message *m)
{
    (void)m;
}

/* A partition that lies in two directories: neither is served, the reason names both, and it is the
 * same at each start. */
static void partition_in_two_directories_is_offline(void **state)
{
    struct log_fixture *f = *state;
    char second[600], metadata[700];
    const char *dirs[2] = {f->dir, second};
    struct log_manager_options o = {.env = &f->t.env,
                                    .dirs = dirs,
                                    .dir_count = 2,
                                    .node_id = 1,
                                    .cluster_id = "cluster",
                                    .recovery_threads_per_dir = 1,
                                    .default_config = f->config};
    struct text t = {.ptr = NULL};
    struct errmsg why = {""};
    struct log_manager *m;

    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
    log_fixture_crash(f);
    (void)snprintf(second, sizeof second, "%s2", f->dir);
    assert_int_equal(log_manager_new(&o, false, &m, &why), ERR_NONE); /* makes the second */
    log_manager_close(m);
    (void)snprintf(metadata, sizeof metadata, "%s/orders-0", second);
    assert_int_equal(disk_mkdir(&f->t.env, metadata, &why), ERR_NONE);
    (void)snprintf(metadata, sizeof metadata, "%s/orders-0/partition.metadata", second);
    partition_metadata_format(&t, &f->id.topic_id);
    assert_int_equal(file_replace(&f->t.env, metadata, t.ptr, t.size, &why), ERR_NONE);
    text_deinit(&t);
    for (int life = 0; life < 3; life++) {
        struct message opened = {.run = on_open};

        assert_int_equal(log_manager_new(&o, false, &m, &why), ERR_NONE);
        log_manager_open_all(m, test_env_loop(&f->t), &opened);
        (void)test_env_run(&f->t);
        log_manager_set_aside_strays(m, claim_all, NULL);

        struct log *l = log_manager_find(m, &f->id.topic_id, 0);

        assert_non_null(l);
        assert_int_equal(log_directory_index(log_directory(l)), 0);
        assert_non_null(strstr(log_offline_reason(l), f->dir));
        assert_non_null(strstr(log_offline_reason(l), second));
        log_unref(l);
        log_manager_close(m);
        (void)test_env_run(&f->t);
    }
    log_fixture_open(f);
}

static enum err little_space(struct env *env, const char *path, struct disk_space *out,
                             struct errmsg *why)
{
    (void)env;
    (void)path;
    (void)why;
    *out = (struct disk_space){.total_bytes = 1000000000, .free_bytes = 1000000};
    return ERR_NONE;
}

static enum err much_space(struct env *env, const char *path, struct disk_space *out,
                           struct errmsg *why)
{
    (void)env;
    (void)path;
    (void)why;
    *out = (struct disk_space){.total_bytes = 1000000000, .free_bytes = 900000000};
    return ERR_NONE;
}

/* D4: below the reserve appends are refused, room is given back, reads and deletion go on; writing
 * resumes by itself. */
static void reserve_is_kept(void **state)
{
    struct log_fixture *f = *state;

    log_fixture_close(f);
    f->reserve_bytes = 50000000;
    log_fixture_open(f);
    f->t.disk.space = much_space;
    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
    assert_true(file_ready_end(log_active(f->log)->file) > log_active(f->log)->size_bytes);
    f->t.disk.space = little_space;
    test_env_advance_ms(&f->t, 1000);
    (void)test_env_run(&f->t);
    assert_int_equal(log_fixture_append(f, .records = 5), ERR_KAFKA_STORAGE_ERROR);
    assert_int_equal(file_ready_end(log_active(f->log)->file), log_active(f->log)->size_bytes);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 1000), 5);
    assert_int_equal(log_advance_start(f->log, 2), ERR_NONE);

    struct log_dir_view view;

    log_manager_dir_view(f->manager, 0, &view);
    assert_true(view.below_reserve);
    f->t.disk.space = much_space;
    test_env_advance_ms(&f->t, 1000);
    (void)test_env_run(&f->t);
    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
}

static enum err broken_list(struct env *env, const char *path,
                            void (*fn)(void *ctx, const struct dir_entry *e), void *ctx,
                            struct errmsg *why)
{
    (void)env;
    (void)fn;
    (void)ctx;
    errmsg_set(why, "%s: Input/output error", path);
    return ERR_IO;
}

/* D5: a directory that cannot be read is offline; with another one the node starts. */
static void one_broken_directory_is_not_the_end(void **state)
{
    struct log_fixture *f = *state;
    struct errmsg why = {""};

    log_fixture_close(f);
    f->t.disk.dir_list = broken_list;
    assert_int_equal(try_new(f, 1, "cluster", false, &why), ERR_IO);
    assert_non_null(strstr(why.text, "Input/output error"));
    f->t.disk.dir_list = disk_posix_ops.dir_list;
    log_fixture_open(f);
}

/* Every written partition is synced within sync_behind_ms, for nobody who asked. */
static void sync_follows_behind(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 5), ERR_NONE);
    for (int i = 0; i < 29; i++) {
        test_env_advance_ms(&f->t, 1000);
        (void)test_env_run(&f->t);
        (void)log_fixture_read(f, 0, INT64_MAX, 100); /* not silent */
    }
    assert_int_equal(log_durable_end_offset(f->log), 5);
}

/* ---- a clean stop of many logs ---- */

#define MANY 100

static void write_many(struct log_fixture *f, struct log *logs[MANY])
{
    struct log *first = f->log;
    struct errmsg why;

    for (int i = 0; i < MANY; i++) {
        struct log_identity id = {.topic = "many", .topic_id = {{9}}, .partition = i};

        assert_int_equal(log_manager_create(f->manager, &id, &f->config, &logs[i], &why), ERR_NONE);
        f->log = logs[i];
        assert_int_equal(log_fixture_append(f, .records = 1 + i % 3), ERR_NONE);
    }
    f->log = first;
}

/* After a stop: each partition as it was left. */
static void check_many(struct log_fixture *f, bool clean)
{
    struct log *first;

    log_fixture_open(f);
    first = f->log;
    assert_int_equal(log_manager_started_clean(f->manager), clean);
    for (int i = 0; i < MANY; i++) {
        f->log = log_manager_find(f->manager, &(struct uuid){{9}}, i);
        assert_non_null(f->log);
        assert_int_equal(log_end_offset(f->log), 1 + i % 3);
        assert_int_equal(log_durable_end_offset(f->log), clean ? 1 + i % 3 : 0);
        assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 1000), 1 + i % 3);
        log_unref(f->log);
    }
    f->log = first;
}

static enum err fail_to_sync(struct file *f, struct errmsg *why)
{
    (void)f;
    errmsg_set(why, "Input/output error");
    return ERR_IO;
}

static enum err nothing_to_sync_all(struct file *f, struct errmsg *why)
{
    (void)f;
    (void)why;
    return ERR_NOT_FOUND;
}

static void replace_calls(struct file *file, struct file_ops *ops,
                          enum err (*sync)(struct file *, struct errmsg *),
                          enum err (*sync_all)(struct file *, struct errmsg *))
{
    *ops = *file->ops;
    if (sync != NULL)
        ops->sync = sync;
    if (sync_all != NULL)
        ops->sync_all = sync_all;
    file->ops = ops;
}

/* Many unsynced logs are synced as one: no file of theirs is synced by itself. */
static void many_logs_stop_with_one_sync(void **state)
{
    struct log_fixture *f = *state;
    struct log *logs[MANY];

    write_many(f, logs);
    for (int i = 0; i < MANY; i++) {
        replace_calls(log_active(logs[i])->file, &f->broken, fail_to_sync, NULL);
        log_unref(logs[i]);
    }
    log_fixture_close(f);
    check_many(f, true);
}

/* When that one fails nothing is vouched for: no marker, no recovery point, and every log is looked
 * at by the next start. */
static void failed_sync_of_many_is_no_clean_stop(void **state)
{
    struct log_fixture *f = *state;
    struct log *logs[MANY];

    write_many(f, logs);
    for (int i = 0; i < MANY; i++)
        log_unref(logs[i]);
    replace_calls(f->manager->dirs[0].lock_file, &f->broken, NULL, fail_to_sync);
    log_fixture_close(f);
    assert_false(exists(f, ".kafka_cleanshutdown"));
    check_many(f, false);
}

/* A disk that knows no such sync does with one for each; and one that fails is that log's alone. */
static void logs_stop_with_a_sync_each(void **state)
{
    struct log_fixture *f = *state;
    struct file_ops whole_dir;
    struct log *logs[MANY];

    write_many(f, logs);
    replace_calls(f->manager->dirs[0].lock_file, &whole_dir, NULL, nothing_to_sync_all);
    replace_calls(log_active(logs[7])->file, &f->broken, fail_to_sync, NULL);
    for (int i = 0; i < MANY; i++)
        log_unref(logs[i]);
    log_fixture_close(f);
    log_fixture_open(f);
    assert_true(log_manager_started_clean(f->manager)); /* what it lists is vouched for */
    for (int i = 0; i < MANY; i++) {
        struct log *l = log_manager_find(f->manager, &(struct uuid){{9}}, i);

        assert_int_equal(log_end_offset(l), 1 + i % 3);
        assert_int_equal(log_durable_end_offset(l), i == 7 ? 0 : 1 + i % 3);
        log_unref(l);
    }
}

/* A start does not wait for folders that were deleted before it; they go soon after. */
static void deleted_folders_go_after_the_start(void **state)
{
    struct log_fixture *f = *state;
    char path[1024];

    log_fixture_close(f);
    for (int i = 0; i < 200; i++) {
        (void)snprintf(path, sizeof path, "%s/gone-%d.0123456789abcdef0123456789abcdef-delete",
                       f->dir, i);
        assert_int_equal(mkdir(path, 0755), 0);
    }
    put(f, "gone-0.0123456789abcdef0123456789abcdef-delete/00000000000000000000.log", "x");
    (void)snprintf(path, sizeof path, "%s/do-not-delete", f->dir); /* an operator's */
    assert_int_equal(mkdir(path, 0755), 0);
    log_fixture_open(f);
    assert_true(exists(f, "gone-0.0123456789abcdef0123456789abcdef-delete"));
    assert_true(exists(f, "gone-199.0123456789abcdef0123456789abcdef-delete"));
    test_env_advance_ms(&f->t, 1000);
    (void)test_env_run(&f->t);
    assert_false(exists(f, "gone-0.0123456789abcdef0123456789abcdef-delete"));
    assert_false(exists(f, "gone-199.0123456789abcdef0123456789abcdef-delete"));
    assert_true(exists(f, "do-not-delete"));
}

/* ---- metadata.log.dir ---- */

static struct log_manager *open_with_metadata(struct log_fixture *f, const char *metadata_dir,
                                              enum err expected, struct errmsg *why)
{
    struct log_manager *m = NULL;
    struct log_manager_options o = {.env = &f->t.env,
                                    .dirs = f->dirs,
                                    .dir_count = 1,
                                    .metadata_dir = metadata_dir,
                                    .node_id = 1,
                                    .default_config = f->config};

    assert_int_equal(log_manager_new(&o, false, &m, why), expected);
    return m;
}

/* Outside log.dirs it is known by an id of its own, which stays; it has its own lock, and it is
 * there that the raft files are noted, and the cluster. */
static void metadata_directory_is_its_own(void **state)
{
    struct log_fixture *f = *state;
    struct errmsg why = {""};
    struct log_dir_view view;
    char dir[600], path[700];

    log_fixture_close(f);
    (void)snprintf(dir, sizeof dir, "%s/metadata", f->t.dir);

    struct log_manager *m = open_with_metadata(f, dir, ERR_NONE, &why);
    struct uuid id = *log_manager_metadata_directory_id(m);

    log_manager_dir_view(m, 0, &view);
    assert_false(uuid_eq(&id, &view.directory_id));
    assert_false(uuid_is_zero(&id));
    assert_int_equal(log_manager_dir_count(m), 1);
    assert_int_equal(log_manager_set_cluster_id(m, "cluster", &why), ERR_NONE);
    assert_false(log_manager_had_raft_files(m));
    assert_int_equal(log_manager_note_raft_files(m, &why), ERR_NONE);

    (void)snprintf(path, sizeof path, "%s/.lock", dir);

    struct file *lock;

    assert_int_equal(disk_lock(&f->t.env, path, &lock, &why), ERR_EXISTS);
    log_manager_unref(m);

    m = open_with_metadata(f, dir, ERR_NONE, &why);
    assert_true(uuid_eq(&id, log_manager_metadata_directory_id(m)));
    assert_true(log_manager_had_raft_files(m));
    assert_string_equal(log_manager_cluster_id(m), "cluster");
    log_manager_unref(m);

    (void)snprintf(path, sizeof path, "%s/other", f->t.dir);
    m = open_with_metadata(f, path, ERR_NONE, &why); /* the log directory remembers */
    assert_true(log_manager_had_raft_files(m));
    log_manager_unref(m);

    /* One of log.dirs, however it is spelled, is that one. */
    (void)snprintf(path, sizeof path, "%s//./data/", f->t.dir);
    m = open_with_metadata(f, path, ERR_NONE, &why);
    log_manager_dir_view(m, 0, &view);
    assert_true(uuid_eq(&view.directory_id, log_manager_metadata_directory_id(m)));
    log_manager_unref(m);
    log_fixture_open(f);
}

/* One of another node is refused; and a voter whose metadata.log.dir is lost, or has been moved,
 * does not pass for one that never voted. */
static void metadata_directory_is_checked(void **state)
{
    struct log_fixture *f = *state;
    struct errmsg why = {""};
    char dir[600], other[600];

    assert_int_equal(log_manager_note_raft_files(f->manager, &why), ERR_NONE);
    log_fixture_close(f);
    (void)snprintf(dir, sizeof dir, "%s/metadata", f->t.dir);

    struct log_manager *m = open_with_metadata(f, dir, ERR_NONE, &why);

    assert_true(log_manager_had_raft_files(m));
    assert_int_equal(log_manager_note_raft_files(m, &why), ERR_NONE);
    log_manager_unref(m);
    (void)snprintf(other, sizeof other, "%s/other", f->t.dir);
    m = open_with_metadata(f, other, ERR_NONE, &why);
    assert_true(log_manager_had_raft_files(m));
    log_manager_unref(m);
    put(f, "../metadata/meta.properties", "version=1\nnode.id=2\ncluster.id=cluster\n");
    assert_null(open_with_metadata(f, dir, ERR_CONFIG, &why));
    assert_non_null(strstr(why.text, "metadata/meta.properties: node.id: found 2, expected 1"));
    log_fixture_open(f);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(locked_directory_is_refused),
        TEST(foreign_directory_is_refused),
        TEST(kafka_data_needs_adoption),
        TEST(marker_lives_for_one_start),
        TEST(clean_start_opens_no_file),
        TEST(damaged_clean_state_is_passed_over),
        TEST(high_watermark_is_checkpointed),
        TEST(recreated_topic_is_new),
        TEST(deletion_waits_for_its_delay),
        TEST(strays_are_set_aside),
        TEST(nameless_folder_keeps_its_place),
        TEST(lost_name_is_remembered_by_a_checkpoint),
        TEST(folder_that_was_never_named_makes_way),
        TEST(checkpoints_keep_what_they_know_of_the_nameless),
        TEST(damaged_id_takes_the_partition_offline),
        TEST(partition_in_two_directories_is_offline),
        TEST(reserve_is_kept),
        TEST(one_broken_directory_is_not_the_end),
        TEST(sync_follows_behind),
        TEST(many_logs_stop_with_one_sync),
        TEST(failed_sync_of_many_is_no_clean_stop),
        TEST(logs_stop_with_a_sync_each),
        TEST(deleted_folders_go_after_the_start),
        TEST(metadata_directory_is_its_own),
        TEST(metadata_directory_is_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
