/* The sparse indexes: format, lookups, storing while entries are added, cutting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base/bytes.h"
#include "storage/index.h"
#include "tests/support/test_env.h"

struct fixture {
    struct test_env t;
    struct index x;
    char path[512];
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    test_env_init(&f->t);
    (void)test_env_path(&f->t, f->path, "i");
    index_init(&f->x, INDEX_OFFSETS, 1000);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    index_deinit(&f->x);
    test_env_deinit(&f->t);
    free(f);
    return 0;
}

static void store(struct fixture *f)
{
    struct index_view v;
    struct errmsg why;
    struct file *file;

    index_view_take(&f->x, &v);
    assert_int_equal(index_store(&v, &f->t.env, f->path, &file, &why), ERR_NONE);
    index_append(&f->x, (struct index_entry){f->x.last.key + 10, f->x.last.value + 100});
    index_stored(&f->x, &v, file);
    index_view_drop(&v);
}

/* Entries are found whether they lie in the file, in memory, or moved while they were stored. */
static void lookups_see_file_and_tail(void **state)
{
    struct fixture *f = *state;
    struct index_view v;
    struct index_entry e;

    for (int i = 0; i < 100; i++) {
        index_append(&f->x, (struct index_entry){1010 + 20 * i, 100 + 200 * i});
        store(f); /* and adds one, 10 offsets and 100 bytes on */
    }
    assert_int_equal(f->x.stored_count, 199);
    assert_int_equal(f->x.tail_count, 1);
    index_view_take(&f->x, &v);
    assert_false(index_floor_key(&v, 1009, &e));
    assert_false(index_floor_value(&v, 99, &e));
    for (int64_t key = 1010; key < 3100; key++) {
        assert_true(index_floor_key(&v, key, &e));
        assert_int_equal(e.key, MIN(key / 10 * 10, (int64_t)3000));
        assert_true(index_floor_value(&v, e.value + 99, &e));
        assert_int_equal(e.key, MIN(key / 10 * 10, (int64_t)3000));
    }
    index_view_drop(&v);
}

/* Kafka's bytes. */
static void format_is_kafkas(void **state)
{
    struct fixture *f = *state;
    const uint8_t expected[8] = {0, 0, 0, 42, 0, 0, 1, 2};
    struct errmsg why;
    uint8_t *p;
    size_t size;

    index_append(&f->x, (struct index_entry){1042, 258});
    store(f);
    assert_int_equal(file_slurp(&f->t.env, f->path, 100, &p, &size, &why), ERR_NONE);
    assert_int_equal(size, 8);
    assert_memory_equal(p, expected, 8);
    free(p);
}

/* What does not ascend, or points beyond the log, is not taken over. */
static void unsound_entries_are_refused(void **state)
{
    struct fixture *f = *state;
    struct index y;
    bool sound;

    for (int i = 0; i < 10; i++)
        index_append(&f->x, (struct index_entry){1010 + 20 * i, 100 + 200 * i});
    store(f);
    index_init(&y, INDEX_OFFSETS, 1000);
    assert_int_equal(index_load(&y, &f->t.env, f->path, 1000, &sound), ERR_NONE);
    assert_false(sound);
    assert_int_equal(y.stored_count, 5);
    index_init(&y, INDEX_OFFSETS, 1000);
    assert_int_equal(index_load(&y, &f->t.env, f->path, 100000, &sound), ERR_NONE);
    assert_true(sound);
    assert_int_equal(y.stored_count, 10);

    struct errmsg why;

    assert_int_equal(index_cut(&y, &f->t.env, f->path, 1050, &why), ERR_NONE);
    assert_int_equal(y.stored_count, 3);
    assert_int_equal(y.last.key, 1050);

    struct file *file;

    assert_int_equal(file_open(&f->t.env, f->path, FILE_READ_ONLY, &file, &why), ERR_NONE);
    assert_int_equal(file_size(file), 24);
    file_unref(file);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(lookups_see_file_and_tail),
        TEST(format_is_kafkas),
        TEST(unsound_entries_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
