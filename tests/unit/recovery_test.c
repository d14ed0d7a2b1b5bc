/* What a log is after a stop that was not clean [H16]. */
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

static int setup(void **state)
{
    struct log_fixture *f = xcalloc(1, sizeof *f);

    log_fixture_init(f);
    f->config.segment_bytes = 100000;
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

static void fill(struct log_fixture *f, int batches)
{
    for (int i = 0; i < batches; i++)
        assert_int_equal(log_fixture_append(f, .value_bytes = 200, .timestamp_ms = 1000 + i),
                         ERR_NONE);
}

/* Syncs, and writes the checkpoint that says so. */
static void sync_and_checkpoint(struct log_fixture *f)
{
    log_request_sync(f->log);
    test_env_advance_ms(&f->t, 61000);
    (void)test_env_run(&f->t);
}

static void reopen(struct log_fixture *f)
{
    log_fixture_crash(f);
    log_fixture_open(f);
}

/* The process dies, the page cache stays: nothing is lost, and zeros behind the end are no news. */
static void kill_loses_nothing(void **state)
{
    struct log_fixture *f = *state;

    for (int life = 1; life <= 5; life++) {
        fill(f, 150);
        reopen(f);
        assert_null(log_offline_reason(f->log));
        assert_false(log_was_cut(f->log));
        assert_int_equal(log_end_offset(f->log), life * 150);
        assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 3000), life * 150);
        assert_int_equal(log_durable_end_offset(f->log), 0); /* nothing says more */
    }
}

/* An invalid batch above the recovery point ends the log; the rest is kept. */
static void torn_tail_is_cut_and_kept(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 50);
    sync_and_checkpoint(f);
    fill(f, 50);

    uint64_t size = log_active(f->log)->size_bytes;

    log_fixture_crash(f);
    log_fixture_flip(f, FIRST, size * 4 / 5);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_true(log_was_cut(f->log));
    assert_in_range(log_end_offset(f->log), 75, 84);

    char name[64];

    (void)snprintf(name, sizeof name, "00000000000000000000.%lld.cut",
                   (long long)log_end_offset(f->log));
    assert_true(log_fixture_exists(f, name));
    assert_int_equal(log_durable_end_offset(f->log), 50);
    /* Writing goes on behind what is left, and the next start finds both. */
    int64_t end = log_end_offset(f->log);

    fill(f, 10);
    reopen(f);
    assert_int_equal(log_end_offset(f->log), end + 10);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 3000), end + 10);
}

/* An invalid byte below the recovery point is corruption: nothing is cut, the log is offline. */
static void corruption_below_is_never_cut(void **state)
{
    struct log_fixture *f = *state;

    f->config.index_interval_bytes = 1 << 20; /* no index: the whole segment is read */
    log_configure(f->log, &f->config);
    fill(f, 50);
    sync_and_checkpoint(f);
    fill(f, 50);

    uint64_t size = log_active(f->log)->size_bytes;

    log_fixture_crash(f);
    log_fixture_flip(f, FIRST, size / 5);

    uint64_t bytes = log_fixture_file_size(f, FIRST);

    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
    assert_non_null(strstr(log_offline_reason(f->log), "below the recovery point"));
    assert_int_equal(log_fixture_file_size(f, FIRST), bytes);
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_KAFKA_STORAGE_ERROR);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 100), -ERR_KAFKA_STORAGE_ERROR);
    /* The same at each further start, until somebody repairs it. */
    reopen(f);
    assert_non_null(log_offline_reason(f->log));
}

/* A file that became shorter than the recovery point says is corrupt, not short. */
static void missing_records_are_noticed(void **state)
{
    struct log_fixture *f = *state;
    char path[1024];

    fill(f, 100);
    sync_and_checkpoint(f);

    uint64_t size = log_active(f->log)->size_bytes;

    log_fixture_crash(f);
    assert_int_equal(truncate(log_fixture_path(f, path, FIRST), (off_t)(size / 100 * 60)), 0);
    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
}

/* The same for a segment that is not the last. */
static void missing_records_of_a_sealed_segment_are_noticed(void **state)
{
    struct log_fixture *f = *state;
    char path[1024];

    fill(f, 800);
    assert_true(log_segment_count(f->log) >= 2);
    sync_and_checkpoint(f);

    uint64_t size = f->log->segments[0]->size_bytes, batch = 200 + 61 + 9;

    log_fixture_crash(f);
    assert_int_equal(truncate(log_fixture_path(f, path, FIRST), (off_t)(size - batch)), 0);
    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
}

/* Zeros where records were (power loss: later pages reached the disk, earlier ones did not): the
 * log ends before them, and later segments go aside. */
static void zeroed_page_ends_the_log(void **state)
{
    struct log_fixture *f = *state;
    char path[1024];
    uint8_t zeros[4096] = {0};

    fill(f, 800);
    log_fixture_crash(f);

    int fd = open(log_fixture_path(f, path, FIRST), O_WRONLY);

    assert_int_equal(pwrite(fd, zeros, sizeof zeros, 40960), sizeof zeros);
    assert_int_equal(close(fd), 0);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_true(log_was_cut(f->log));
    assert_in_range(log_end_offset(f->log), 140, 152);
    assert_int_equal(log_segment_count(f->log), 1);
    fill(f, 10);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 3000), log_end_offset(f->log));
}

static void overwrite(struct log_fixture *f, const char *name, const char *text)
{
    char path[1024];
    FILE *out = fopen(log_fixture_path(f, path, name), "w");

    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

/* Hints that are gone, cut or lie are made anew. */
static void hints_are_rebuilt(void **state)
{
    struct log_fixture *f = *state;
    struct timestamp_offset at;
    char path[1024];

    fill(f, 1200);
    assert_true(log_segment_count(f->log) >= 3);
    sync_and_checkpoint(f);
    for (int kind = 0; kind < 4; kind++) {
        log_fixture_crash(f);
        if (kind == 0) {
            assert_int_equal(unlink(log_fixture_path(f, path, "00000000000000000000.index")), 0);
        } else if (kind == 1) {
            assert_int_equal(
                truncate(log_fixture_path(f, path, "00000000000000000000.timeindex"), 17), 0);
        } else if (kind == 2) {
            log_fixture_flip(f, "00000000000000000000.index", 8 * 20 + 7);
            log_fixture_flip(f, "00000000000000000000.timeindex", 12 * 20 + 7);
        } else {
            overwrite(f, "leader-epoch-checkpoint", "0\n2\n5 0\n3 1\n");
            overwrite(f, "00000000000000000000.index", "");
        }
        log_fixture_open(f);
        assert_null(log_offline_reason(f->log));
        assert_int_equal(log_end_offset(f->log), 1200);
        assert_int_equal(log_latest_epoch(f->log), 0);
        assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 2000), 1200);
        for (int64_t t = 1000; t < 2200; t += 37) {
            assert_int_equal(log_offset_for_timestamp(f->log, t, INT64_MAX, &at), ERR_NONE);
            assert_int_equal(at.offset, t - 1000);
        }
    }
}

/* A read never trusts an index: one that points elsewhere costs time, not truth. */
static void lying_index_misleads_nobody(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 300);
    log_fixture_close(f);
    for (uint64_t at = 4; at < log_fixture_file_size(f, "00000000000000000000.index"); at += 8)
        log_fixture_flip(f, "00000000000000000000.index", at + 3);
    log_fixture_open(f);
    for (int64_t offset = 0; offset < 300; offset += 11)
        assert_int_equal(log_fixture_read(f, offset, INT64_MAX, 500), 300 - offset);
}

/* What was deleted on request need not be there: a recovery point that only says so is no claim. */
static void deleted_records_may_be_missing(void **state)
{
    struct log_fixture *f = *state;
    char path[1024];

    fill(f, 100);
    assert_int_equal(log_advance_start(f->log, 99), ERR_NONE);
    test_env_advance_ms(&f->t, 1000);
    (void)test_env_run(&f->t); /* the checkpoints know */

    uint64_t size = log_active(f->log)->size_bytes;

    log_fixture_crash(f);
    assert_int_equal(truncate(log_fixture_path(f, path, FIRST), (off_t)(size / 2)), 0);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_start_offset(f->log), 99);
    assert_int_equal(log_end_offset(f->log), 99);
    fill(f, 3);
    assert_int_equal(log_fixture_read(f, 99, INT64_MAX, 100), 3);
}

/* A snapshot that is torn is passed over; the state is replayed from the one before. */
static void torn_snapshot_is_passed_over(void **state)
{
    struct log_fixture *f = *state;
    struct log_append_result r;
    char name[64];

    for (int i = 0; i < 1000; i++)
        assert_int_equal(log_fixture_append(f, .value_bytes = 200, .producer_id = 5, .sequence = i),
                         ERR_NONE);
    segment_file_name(log_active(f->log)->base_offset, ".snapshot", name);
    log_fixture_crash(f);
    log_fixture_flip(f, name, 20);
    log_fixture_open(f);
    for (int i = 995; i < 1000; i++) {
        assert_int_equal(
            log_fixture_append_spec(
                f, (struct batch_spec){.value_bytes = 200, .producer_id = 5, .sequence = i}, &r),
            ERR_NONE);
        assert_true(r.duplicate);
    }
}

/* Any single byte of a log that has been changed: it is found or means nothing, and the start
 * never fails nor serves a record whose CRC is wrong (the fixture's reader checks each). */
static void any_flipped_byte_is_survived(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 20);

    uint64_t size = log_active(f->log)->size_bytes;

    for (uint64_t at = 0; at < size; at += 13) {
        log_fixture_crash(f);
        log_fixture_flip(f, FIRST, at);
        log_fixture_open(f);
        if (log_offline_reason(f->log) == NULL)
            (void)log_fixture_read(f, 0, INT64_MAX, 1000);

        /* Back to the whole log for the next one. */
        int64_t end = log_end_offset(f->log);

        assert_true(end <= 20);
        if (log_offline_reason(f->log) != NULL) {
            log_fixture_crash(f);
            log_fixture_flip(f, FIRST, at);
            log_fixture_open(f);
        }
        fill(f, (int)(20 - log_end_offset(f->log)));
        assert_int_equal(log_active(f->log)->size_bytes, size);
    }
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(kill_loses_nothing),
        TEST(torn_tail_is_cut_and_kept),
        TEST(corruption_below_is_never_cut),
        TEST(missing_records_are_noticed),
        TEST(missing_records_of_a_sealed_segment_are_noticed),
        TEST(zeroed_page_ends_the_log),
        TEST(hints_are_rebuilt),
        TEST(lying_index_misleads_nobody),
        TEST(deleted_records_may_be_missing),
        TEST(torn_snapshot_is_passed_over),
        TEST(any_flipped_byte_is_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
