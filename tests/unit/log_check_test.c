/* Nothing is served that this process does not know to be right (S12). */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "storage/log_internal.h"
#include "tests/support/log_fixture.h"

#define FIRST "00000000000000000000.log"
#define INDEX "00000000000000000000.index"
#define TIMES "00000000000000000000.timeindex"
#define COUNT 400
#define T0    INT64_C(1000000)

/* COUNT batches of one record in one segment, ten milliseconds apart, with an index entry for every
 * second or third; then a clean stop. */
static int setup(void **state)
{
    struct log_fixture *f = xcalloc(1, sizeof *f);

    log_fixture_init(f);
    f->config.segment_bytes = 10 << 20;
    log_fixture_open(f);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(log_fixture_append(f, .value_bytes = 200, .timestamp_ms = T0 + i * 10),
                         ERR_NONE);
    log_fixture_close(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    log_fixture_deinit(*state);
    free(*state);
    return 0;
}

static void patch(struct log_fixture *f, const char *name, uint64_t at, const void *p, size_t size)
{
    char path[1024];
    int fd = open(log_fixture_path(f, path, name), O_RDWR);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, p, size, (off_t)at), size);
    assert_int_equal(close(fd), 0);
}

static void get(struct log_fixture *f, const char *name, uint64_t at, void *p, size_t size)
{
    char path[1024];
    int fd = open(log_fixture_path(f, path, name), O_RDONLY);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, p, size, (off_t)at), size);
    assert_int_equal(close(fd), 0);
}

/* All batches are alike. */
static uint64_t batch_bytes(struct log_fixture *f)
{
    return log_fixture_file_size(f, FIRST) / COUNT;
}

/* Whoever reads gets what was written, or an error; afterwards the log is offline with a reason
 * that names file and position. */
static void read_until_refused(struct log_fixture *f)
{
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 700), -ERR_KAFKA_STORAGE_ERROR);
    assert_non_null(log_offline_reason(f->log));
    assert_non_null(strstr(log_offline_reason(f->log), FIRST));
    assert_non_null(strstr(log_offline_reason(f->log), "position"));
}

/* A bit that changed while the log was not open. */
static void flipped_bit_is_never_served(void **state)
{
    struct log_fixture *f = *state;

    log_fixture_flip(f, FIRST, batch_bytes(f) * 77 + 150);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_fixture_read(f, 300, INT64_MAX, 3000), COUNT - 300); /* elsewhere */
    read_until_refused(f);
}

/* Base offset and leader epoch lie outside the CRC: the neighbours contradict. */
static void changed_base_offset_is_never_served(void **state)
{
    struct log_fixture *f = *state;
    static const int64_t wrong[] = {0, 76, 78, 79, 4096 + 77, INT64_MAX - 5, -3};
    uint8_t was[8], is[8];
    uint64_t at = batch_bytes(f) * 77;

    get(f, FIRST, at, was, sizeof was);
    assert_int_equal(load_be64(was), 77);
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        store_be64(is, (uint64_t)wrong[i]);
        patch(f, FIRST, at, is, sizeof is);
        log_fixture_open(f);
        read_until_refused(f);
        log_fixture_crash(f);
        /* An offline log was not part of the clean stop: give it one again. */
        patch(f, FIRST, at, was, sizeof was);
        log_fixture_open(f);
        log_fixture_close(f);
    }
}

static void changed_epoch_is_never_served(void **state)
{
    struct log_fixture *f = *state;
    uint8_t epoch[4];

    store_be32(epoch, 9);
    patch(f, FIRST, batch_bytes(f) * 77 + 12, epoch, sizeof epoch);
    log_fixture_open(f);
    read_until_refused(f);
}

/* Also the very first batch, and the last one. */
static void ends_of_a_segment_are_checked(void **state)
{
    struct log_fixture *f = *state;
    uint8_t is[8];

    store_be64(is, COUNT + 5);
    patch(f, FIRST, batch_bytes(f) * (COUNT - 1), is, sizeof is);
    log_fixture_open(f);
    assert_int_equal(log_fixture_read(f, COUNT - 1, INT64_MAX, 700), -ERR_KAFKA_STORAGE_ERROR);
}

/* What this life has appended is known: readers of the tail never visit the pool. What it has not
 * is checked once, in as many pieces as there are places that are read, up to a limit. */
static void each_byte_is_checked_once(void **state)
{
    struct log_fixture *f = *state;
    struct log_read_options o = {
        .offset = COUNT, .offset_limit = INT64_MAX, .bytes_max = 3000, .at_least_one = true};
    struct log_read_result r;

    log_fixture_open(f);

    struct segment *s = log_active(f->log);

    assert_false(checked_covers(&s->checked, 0, 1));
    assert_int_equal(log_fixture_append(f, .records = 3), ERR_NONE);
    assert_int_equal(log_load(f->log, COUNT, 1), ERR_NONE); /* the index is looked at once */
    assert_int_equal(log_fixture_append(f, .records = 3), ERR_NONE);
    assert_int_equal(log_read(f->log, &o, &r), ERR_NONE);
    assert_true(r.bytes > 0);
    ioqueue_deinit(&r.data);
    assert_int_equal(s->checked.count, 1);

    for (int i = 1; i < 50; i++) {
        int64_t at = (i * 37) % COUNT;

        assert_int_equal(log_fixture_read(f, at, at + 1, 100), 1);
        assert_true(s->checked.count <= CHECKED_RANGES_MAX);
    }
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 700), COUNT + 6);
    assert_int_equal(s->checked.count, 1);
    assert_true(checked_covers(&s->checked, 0, s->size_bytes));
}

/* Ranges grow together, and the smallest one is forgotten when there are too many. */
static void ranges_are_merged_and_bounded(void **state)
{
    struct checked_ranges c = {.count = 0};

    (void)state;
    checked_add(&c, 100, 200, 2);
    checked_add(&c, 300, 400, 4);
    assert_false(checked_covers(&c, 150, 350));
    checked_add(&c, 200, 300, 3);
    assert_int_equal(c.count, 1);
    assert_true(checked_covers(&c, 100, 400));
    assert_int_equal(checked_at(&c, 250)->next_offset, 4);
    checked_add(&c, 50, 150, 1);
    assert_int_equal(c.count, 1);
    assert_int_equal(checked_at(&c, 60)->next_offset, 4);
    for (uint64_t i = 1; i < 100; i++) {
        checked_add(&c, i * 1000, i * 1000 + i, (int64_t)i);
        assert_true(checked_covers(&c, i * 1000, i * 1000 + i));
    }
    assert_int_equal(c.count, CHECKED_RANGES_MAX);
    assert_true(checked_covers(&c, 50, 400)); /* the largest */
    assert_null(checked_at(&c, 1000));        /* the smallest */
    free(c.v);
}

static void read_each_offset(struct log_fixture *f)
{
    for (int64_t at = 0; at < COUNT; at++)
        assert_int_equal(log_fixture_read(f, at, at + 1, 100), 1);
    assert_null(log_offline_reason(f->log));
}

static void look_up_each_time(struct log_fixture *f)
{
    struct timestamp_offset found;

    for (int64_t at = 0; at < COUNT; at++) {
        assert_int_equal(log_offset_for_timestamp(f->log, T0 + at * 10 - 5, INT64_MAX, &found),
                         ERR_NONE);
        assert_int_equal(found.offset, at);
    }
    assert_null(log_offline_reason(f->log));
}

/* An index that is shorter than it was, gone, or torn is made anew, and every read goes on. */
static void damaged_index_is_made_anew(void **state)
{
    struct log_fixture *f = *state;
    static const char *const names[] = {INDEX, TIMES};
    char path[1024];

    for (int kind = 0; kind < 2; kind++) {
        for (int damage = 0; damage < 4; damage++) {
            uint64_t size = log_fixture_file_size(f, names[kind]);
            uint8_t piece[96];

            (void)log_fixture_path(f, path, names[kind]);
            if (damage == 0)
                assert_int_equal(truncate(path, (off_t)(size / 3)), 0);
            if (damage == 1)
                assert_int_equal(unlink(path), 0);
            if (damage == 2) { /* out of order */
                get(f, names[kind], 96, piece, sizeof piece);
                patch(f, names[kind], 480, piece, sizeof piece);
            }
            if (damage == 3 && kind == 0) { /* in order, and wrong */
                get(f, INDEX, 240, piece, 8);
                store_be32(piece + 4, load_be32(piece + 4) + 1);
                patch(f, INDEX, 240, piece, 8);
            }
            if (damage == 3 && kind == 1) { /* the two batches before it are younger than that */
                get(f, TIMES, 240, piece, 8);
                store_be64(piece, load_be64(piece) - 18);
                patch(f, TIMES, 240, piece, 8);
            }
            log_fixture_open(f);
            read_each_offset(f);
            look_up_each_time(f);
            log_fixture_close(f);
            assert_int_equal(log_fixture_file_size(f, names[kind]), size);
        }
    }
}

/* A cut reads what it keeps; bytes that cannot be vouched for are not renamed over the log. */
static void truncation_checks_what_it_keeps(void **state)
{
    struct log_fixture *f = *state;
    uint64_t size = log_fixture_file_size(f, FIRST);

    log_fixture_flip(f, FIRST, batch_bytes(f) * 77 + 150);
    log_fixture_open(f);
    assert_int_equal(log_truncate(f->log, 300), ERR_KAFKA_STORAGE_ERROR);
    assert_non_null(strstr(log_offline_reason(f->log), "position"));
    assert_int_equal(log_fixture_file_size(f, FIRST), size);
}

/* A batch whose timestamps changed is not passed over: the answer would be a later one. */
static void lookup_by_time_checks_what_it_passes(void **state)
{
    struct log_fixture *f = *state;
    struct timestamp_offset found;
    uint8_t zero[16] = {0};

    patch(f, FIRST, batch_bytes(f) * 77 + 27, zero, sizeof zero);
    log_fixture_open(f);
    assert_int_equal(log_offset_for_timestamp(f->log, T0 + 770, INT64_MAX, &found),
                     ERR_KAFKA_STORAGE_ERROR);
    assert_non_null(strstr(log_offline_reason(f->log), "position"));
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(flipped_bit_is_never_served),
        TEST(changed_base_offset_is_never_served),
        TEST(changed_epoch_is_never_served),
        TEST(ends_of_a_segment_are_checked),
        TEST(each_byte_is_checked_once),
        TEST(ranges_are_merged_and_bounded),
        TEST(damaged_index_is_made_anew),
        TEST(truncation_checks_what_it_keeps),
        TEST(lookup_by_time_checks_what_it_passes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
