/* A segment's index entries, and the disk under it: mapped steps, views, room, locks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/disk_posix.h"
#include "storage/segment.h"
#include "tests/support/test_env.h"

static int setup(void **state)
{
    struct test_env *t = xcalloc(1, sizeof *t);

    test_env_init(t);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    test_env_deinit(*state);
    free(*state);
    return 0;
}

static struct file *open_new(struct test_env *t)
{
    char path[512];
    struct errmsg why;
    struct file *f;

    assert_int_equal(
        file_open(&t->env, test_env_path(t, path, "f"), FILE_CREATE | FILE_EXCLUSIVE, &f, &why),
        ERR_NONE);
    return f;
}

/* Kafka's rule: the batch that finds more than the interval behind it gets the entry, for its own
 * last offset and position; the time index only when the greatest timestamp has grown. */
static void index_entries_follow_kafkas_rule(void **state)
{
    struct test_env *t = *state;
    struct segment *s = segment_new(&t->env, 100);
    static const int64_t times[] = {50, 60, 40, 70, 70};

    for (int i = 0; i < 5; i++) {
        struct record_batch b = {.base_offset = 100 + i * 2,
                                 .last_offset_delta = 1,
                                 .size_bytes = 150,
                                 .max_timestamp = times[i]};

        segment_account(s, &b, 149);
    }
    /* 150 > 149 bytes are behind each batch but the first. */
    assert_int_equal(index_count(&s->offsets), 4);
    assert_int_equal(s->offsets.last.key, 109);
    assert_int_equal(s->offsets.last.value, 600);
    assert_int_equal(index_count(&s->times), 2); /* 60 and 70 */
    assert_int_equal(s->times.last.key, 70);
    assert_int_equal(s->times.last.value, 107);
    assert_int_equal(s->first_timestamp_ms, 50);
    segment_seal(s);
    assert_int_equal(index_count(&s->times), 2);
    segment_unref(s);
}

static void names_are_kafkas(void **state)
{
    char name[SEGMENT_NAME_SIZE];
    int64_t offset;

    (void)state;
    segment_file_name(42, ".log", name);
    assert_string_equal(name, "00000000000000000042.log");
    assert_true(segment_name_offset(name, ".log", &offset));
    assert_int_equal(offset, 42);
    assert_false(segment_name_offset("42.log", ".log", &offset));
    assert_false(segment_name_offset("00000000000000000042.log.cut", ".log", &offset));
    assert_false(segment_name_offset("99999999999999999999.log", ".log", &offset));
}

/* Both ways in are read by both ways out, across steps; a view outlives trimming and closing. */
static void views_outlive_everything(void **state)
{
    struct test_env *t = *state;
    struct file *f = open_new(t);
    struct iobuf *small, *straddling;
    struct errmsg why;
    uint8_t *p = xmalloc(100000), *q = xmalloc(100000);
    size_t n;

    for (int i = 0; i < 100000; i++)
        p[i] = (uint8_t)(i * 7 + i / 251);
    assert_int_equal(file_ready(f, 1000, &why), ERR_NONE);
    assert_int_equal(file_write(f, 0, p, 1000, &why), ERR_NONE);
    assert_int_equal(file_ready(f, 200000, &why), ERR_NONE); /* small ones came: it is mapped */
    assert_int_equal(file_write(f, 1000, p + 1000, 99000, &why), ERR_NONE);
    assert_int_equal(file_size(f), 100000);
    assert_int_equal(file_view(f, 500, 1000, &small), ERR_NONE);
    assert_non_null(small->ptr);
    assert_int_equal(file_ready(f, 300000, &why), ERR_NONE);
    assert_int_equal(file_write(f, 199990, p, 20, &why), ERR_NONE);
    assert_int_equal(file_view(f, 199990, 20, &straddling), ERR_NONE);
    assert_int_equal(file_read(f, straddling->file_offset, q, 20, &n), ERR_NONE);
    assert_memory_equal(q, p, 20);
    assert_int_equal(file_view(f, 200005, 20, &(struct iobuf *){NULL}), ERR_IO); /* not written */
    assert_int_equal(file_trim(f, &why), ERR_NONE);
    assert_int_equal(file_ready_end(f), 200010);
    file_unref(f);
    assert_memory_equal(small->ptr, p + 500, 1000);
    assert_int_equal(file_read(small->file, 0, q, 100000, &n), ERR_NONE);
    assert_memory_equal(q, p, 100000);
    iobuf_unref(small);
    iobuf_unref(straddling);
    free(p);
    free(q);
}

/* A segment that begins with a large batch is not mapped for it, nor is what follows such ones. */
static void large_pieces_are_not_mapped(void **state)
{
    struct test_env *t = *state;
    struct file *f = open_new(t);
    uint8_t *p = xcalloc(2, 100000);
    struct iobuf *view;
    struct errmsg why;

    for (uint64_t at = 0; at < 200000; at += 100000) {
        assert_int_equal(file_ready(f, at + 100000, &why), ERR_NONE);
        assert_int_equal(file_write(f, at, p, 100000, &why), ERR_NONE);
        assert_int_equal(file_view(f, at, 100, &view), ERR_NONE);
        assert_null(view->ptr);
        iobuf_unref(view);
    }
    file_unref(f);
    free(p);
}

/* A step of the smallest size leaves the file's size alone: it ends with its last byte. */
static void small_steps_do_not_show(void **state)
{
    struct test_env *t = *state;
    struct file *f = open_new(t), *again;
    char path[512];
    struct errmsg why;

    assert_int_equal(file_ready(f, DISK_STEP_UNMAPPED_BYTES, &why), ERR_NONE);
    assert_int_equal(file_write(f, 0, "abc", 3, &why), ERR_NONE);
    assert_int_equal(file_open(&t->env, test_env_path(t, path, "f"), FILE_READ_ONLY, &again, &why),
                     ERR_NONE);
    assert_int_equal(file_size(again), 3);
    file_unref(again);
    file_unref(f);
}

static void errors_have_names(void **state)
{
    struct test_env *t = *state;
    char path[512];
    struct errmsg why = {""};
    struct file *f, *lock;

    assert_int_equal(file_open(&t->env, test_env_path(t, path, "no"), 0, &f, &why), ERR_NOT_FOUND);
    assert_non_null(strstr(why.text, "No such file"));
    assert_int_equal(disk_mkdir(&t->env, test_env_path(t, path, "a/b/c"), &why), ERR_NONE);
    assert_int_equal(disk_mkdir(&t->env, path, &why), ERR_NONE);
    assert_int_equal(file_open(&t->env, path, 0, &f, &why), ERR_IO); /* a directory */
    assert_int_equal(disk_lock(&t->env, test_env_path(t, path, "lock"), &lock, &why), ERR_NONE);
    assert_int_equal(disk_lock(&t->env, path, &f, &why), ERR_EXISTS);
    file_unref(lock);
    assert_int_equal(disk_lock(&t->env, path, &f, &why), ERR_NONE);
    file_unref(f);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(index_entries_follow_kafkas_rule), TEST(names_are_kafkas),
        TEST(views_outlive_everything),         TEST(large_pieces_are_not_mapped),
        TEST(small_steps_do_not_show),          TEST(errors_have_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
