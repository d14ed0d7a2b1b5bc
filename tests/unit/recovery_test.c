/* What a log is after a stop that was not clean [H16]. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "storage/disk_posix.h"
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

    (void)snprintf(name, sizeof name, "00000000000000000000.%lld.unsynced.cut",
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

/* ---- segments that are missing, empty, or one too many ---- */

#define SEGMENT_BYTES_OF_ONE 10000 /* of these tests: some 37 batches each */

static void fill_segments(struct log_fixture *f, int count)
{
    f->config.segment_bytes = SEGMENT_BYTES_OF_ONE;
    log_configure(f->log, &f->config);
    while (log_segment_count(f->log) < count)
        fill(f, 1);
    fill(f, 5);
}

static int64_t base_of(struct log_fixture *f, int segment)
{
    return f->log->segments[segment]->base_offset;
}

static void name_of(int64_t base, const char *suffix, char out[SEGMENT_NAME_SIZE])
{
    segment_file_name(base, suffix, out);
}

static void remove_file(struct log_fixture *f, int64_t base, const char *suffix)
{
    char path[1024], name[SEGMENT_NAME_SIZE];

    name_of(base, suffix, name);
    assert_int_equal(unlink(log_fixture_path(f, path, name)), 0);
}

static void copy_file(struct log_fixture *f, const char *from, const char *to)
{
    char path[1024];
    uint8_t *bytes;
    size_t size;
    struct errmsg why;
    FILE *out;

    assert_int_equal(
        file_slurp(&f->t.env, log_fixture_path(f, path, from), 1 << 20, &bytes, &size, &why),
        ERR_NONE);
    out = fopen(log_fixture_path(f, path, to), "w");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, size, out), size);
    fclose(out);
    free(bytes);
}

static bool has_file(struct log_fixture *f, int64_t base, const char *suffix)
{
    char name[SEGMENT_NAME_SIZE];

    name_of(base, suffix, name);
    return log_fixture_exists(f, name);
}

/* A crash right after a roll: the new segment is there and holds nothing. */
static void empty_active_segment_takes_appends(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 20);
    log_fixture_crash(f);
    overwrite(f, "00000000000000000020.log", "");
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_false(log_was_cut(f->log));
    assert_int_equal(log_end_offset(f->log), 20);
    fill(f, 5);
    reopen(f);
    assert_int_equal(log_end_offset(f->log), 25);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 1000), 25);
}

/* A roll whose new name did not reach the disk: the log ends where the segment before it does. */
static void missing_active_segment_above_is_an_end(void **state)
{
    struct log_fixture *f = *state;
    int64_t base;

    fill_segments(f, 3);
    base = base_of(f, 2);
    log_fixture_crash(f);
    remove_file(f, base, ".log");
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_end_offset(f->log), base);
}

/* The same below the recovery point, where names were synced too, is corruption. */
static void missing_active_segment_below_is_noticed(void **state)
{
    struct log_fixture *f = *state;
    int64_t base;

    fill_segments(f, 3);
    sync_and_checkpoint(f);
    base = base_of(f, 2);
    log_fixture_crash(f);
    remove_file(f, base, ".log");
    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
}

/* A hole in the tail ends the log before it; what lies behind is kept. */
static void missing_middle_segment_above_ends_the_log(void **state)
{
    struct log_fixture *f = *state;
    int64_t middle, last;

    fill_segments(f, 3);
    middle = base_of(f, 1);
    last = base_of(f, 2);
    log_fixture_crash(f);
    remove_file(f, middle, ".log");
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_true(log_was_cut(f->log));
    assert_int_equal(log_end_offset(f->log), middle);
    assert_true(has_file(f, last, ".log.unsynced.cut"));
    assert_false(has_file(f, last, ".log"));
}

static void missing_middle_segment_below_is_noticed(void **state)
{
    struct log_fixture *f = *state;
    int64_t middle, last;

    fill_segments(f, 3);
    sync_and_checkpoint(f);
    middle = base_of(f, 1);
    last = base_of(f, 2);
    log_fixture_crash(f);
    remove_file(f, middle, ".log");
    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
    assert_true(has_file(f, last, ".log"));
}

/* A folder from which every segment went, though records of it were synced, is not a new log:
 * offsets that were given out would be given out again. */
static void no_segment_at_all_is_noticed(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 20);
    sync_and_checkpoint(f);
    log_fixture_crash(f);
    remove_file(f, 0, ".log");
    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
    assert_non_null(strstr(log_offline_reason(f->log), "expected records up to offset 20"));
}

/* One that never had a record has none, and is whole. */
static void no_segment_of_an_empty_log_is_no_news(void **state)
{
    struct log_fixture *f = *state;

    sync_and_checkpoint(f);
    reopen(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_end_offset(f->log), 0);
}

/* Two segments of the tail that hold the same offsets: the one that continues the log is it. */
static void overlap_above_ends_the_log(void **state)
{
    struct log_fixture *f = *state;
    char from[SEGMENT_NAME_SIZE], to[SEGMENT_NAME_SIZE];
    int64_t last;

    fill_segments(f, 2);
    last = base_of(f, 1);
    log_fixture_crash(f);
    name_of(last, ".log", from);
    name_of(last - 3, ".log", to);
    copy_file(f, from, to);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_end_offset(f->log), last);
    assert_true(has_file(f, last - 3, ".log.unsynced.cut"));
    assert_true(has_file(f, last, ".log.unsynced.cut"));
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 20000), last);
}

static void overlap_below_is_noticed(void **state)
{
    struct log_fixture *f = *state;
    char from[SEGMENT_NAME_SIZE], to[SEGMENT_NAME_SIZE];
    int64_t last;

    fill_segments(f, 2);
    sync_and_checkpoint(f);
    last = base_of(f, 1);
    log_fixture_crash(f);
    name_of(last, ".log", from);
    name_of(last - 3, ".log", to);
    copy_file(f, from, to);
    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
    assert_true(has_file(f, last, ".log"));
    assert_true(has_file(f, last - 3, ".log"));
}

/* An empty one among them says nothing: it must not become the end of the log. */
static void empty_overlap_is_removed(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 20);
    log_fixture_crash(f);
    overwrite(f, "00000000000000000011.log", "");
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_false(log_was_cut(f->log));
    assert_int_equal(log_end_offset(f->log), 20);
    assert_false(log_fixture_exists(f, "00000000000000000011.log"));
}

static void set_epoch(struct log_fixture *f, const char *name, off_t batch, uint32_t epoch)
{
    char path[1024];
    uint8_t bytes[4];
    int fd = open(log_fixture_path(f, path, name), O_WRONLY);

    store_be32(bytes, epoch);
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, batch + 12), sizeof bytes);
    assert_int_equal(close(fd), 0);
}

/* A segment that power loss brought back from before a truncation betrays itself by its epoch. */
static void epoch_that_goes_back_ends_the_log(void **state)
{
    struct log_fixture *f = *state;
    char name[SEGMENT_NAME_SIZE];
    int64_t last;

    f->config.segment_bytes = SEGMENT_BYTES_OF_ONE;
    log_configure(f->log, &f->config);
    while (log_segment_count(f->log) < 2)
        assert_int_equal(log_fixture_append(f, .value_bytes = 200, .leader_epoch = 5), ERR_NONE);
    last = base_of(f, 1);
    log_fixture_crash(f);
    name_of(last, ".log", name);
    set_epoch(f, name, 0, 3);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_true(log_was_cut(f->log));
    assert_int_equal(log_end_offset(f->log), last);
    assert_int_equal(log_latest_epoch(f->log), 5);
}

/* ---- hints of another log, or of another time ---- */

static void checkpoint(struct log_fixture *f, const char *name, long long offset)
{
    char text[64], path[64];

    (void)snprintf(path, sizeof path, "../%s", name);
    (void)snprintf(text, sizeof text, "0\n1\norders 0 %lld\n", offset);
    overwrite(f, path, text);
}

/* What was deleted on request need not be there: a recovery point that only says so is no claim. */
static void deleted_records_may_be_missing(void **state)
{
    struct log_fixture *f = *state;
    char path[1024];

    fill(f, 100);
    assert_int_equal(log_advance_start(f->log, 99), ERR_NONE);
    sync_and_checkpoint(f);

    uint64_t size = log_active(f->log)->size_bytes;

    log_fixture_crash(f);
    assert_int_equal(truncate(log_fixture_path(f, path, FIRST), (off_t)(size / 2 + 40)), 0);
    checkpoint(f, "recovery-point-offset-checkpoint", 99);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_start_offset(f->log), 99);
    assert_int_equal(log_end_offset(f->log), 99);
    fill(f, 3);
    assert_int_equal(log_fixture_read(f, 99, INT64_MAX, 100), 3);
}

/* S13: a start that was written down has nothing before it but the segment that holds it, lies
 * within the log, and the epochs begin with it. One that says more is damaged, and hides nothing.
 */
static void damaged_start_hides_nothing(void **state)
{
    struct log_fixture *f = *state;
    static const long long claims[] = {5, 200, 299, 301, 99999};

    f->config.segment_bytes = 10000;
    log_configure(f->log, &f->config);
    fill(f, 300);
    assert_true(log_segment_count(f->log) > 3);
    sync_and_checkpoint(f);
    for (size_t i = 0; i < ARRAY_COUNT(claims); i++) {
        log_fixture_crash(f);
        checkpoint(f, "log-start-offset-checkpoint", claims[i]);
        log_fixture_open(f);
        assert_null(log_offline_reason(f->log));
        assert_int_equal(log_start_offset(f->log), 0);
        assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 3000), 300);
    }
}

/* What DeleteRecords has answered survives a crash at once, wherever in the log it is; the records
 * that are not synced yet too. */
static void deleted_start_survives_a_crash(void **state)
{
    struct log_fixture *f = *state;
    static const int64_t starts[] = {3, 120, 250, 299, 300};
    struct errmsg why;

    fill(f, 30); /* of one segment, too */
    assert_int_equal(log_advance_start(f->log, 2), ERR_NONE);
    assert_int_equal(log_manager_save_starts(f->manager, &why), ERR_NONE);
    reopen(f);
    assert_int_equal(log_start_offset(f->log), 2);
    f->config.segment_bytes = 10000;
    log_configure(f->log, &f->config);
    fill(f, 270);
    for (size_t i = 0; i < ARRAY_COUNT(starts); i++) {
        assert_int_equal(log_advance_start(f->log, starts[i]), ERR_NONE);
        assert_int_equal(log_manager_save_starts(f->manager, &why), ERR_NONE);
        reopen(f);
        assert_null(log_offline_reason(f->log));
        assert_int_equal(log_start_offset(f->log), starts[i]);
        assert_int_equal(log_end_offset(f->log), 300);
    }
}

/* Above the recovery point too: a batch that leaps over what follows it is the one that lies, in
 * whatever segment, and does not push out the segments behind. */
static void leap_into_the_next_segment_ends_the_log(void **state)
{
    struct log_fixture *f = *state;
    char name[SEGMENT_NAME_SIZE];
    uint8_t far[8];

    f->config.segment_bytes = 10000;
    log_configure(f->log, &f->config);
    fill(f, 100);
    assert_true(log_segment_count(f->log) >= 3);

    const struct segment *s = f->log->segments[1];
    int64_t base = s->base_offset, last = s->next_offset - 1;
    uint64_t batch = s->size_bytes / (uint64_t)(s->next_offset - s->base_offset);

    log_fixture_crash(f);
    name_of(base, ".log", name);
    store_be64(far, (uint64_t)last + 131072);

    char path[1024];
    int fd = open(log_fixture_path(f, path, name), O_RDWR);

    assert_int_equal(pwrite(fd, far, sizeof far, (off_t)(batch * (uint64_t)(last - base))), 8);
    assert_int_equal(close(fd), 0);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_end_offset(f->log), last);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 3000), last);
}

/* A checkpoint that knows more records than there are: they were synced, and are gone. */
static void recovery_point_behind_the_end_is_noticed(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 50);
    log_fixture_crash(f);
    checkpoint(f, "recovery-point-offset-checkpoint", 51);
    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
    log_fixture_crash(f);
    checkpoint(f, "recovery-point-offset-checkpoint", 50);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_end_offset(f->log), 50);
}

/* An index of another segment is found out by the batches. */
static void index_of_another_segment_misleads_nobody(void **state)
{
    struct log_fixture *f = *state;
    struct timestamp_offset at;
    char from[SEGMENT_NAME_SIZE];

    f->config.segment_bytes = SEGMENT_BYTES_OF_ONE;
    log_configure(f->log, &f->config);
    for (int i = 0; i < 120; i++) /* of sizes that no other segment repeats */
        assert_int_equal(
            log_fixture_append(f, .value_bytes = 150 + i * 7 % 113, .timestamp_ms = 1000 + i),
            ERR_NONE);
    assert_true(log_segment_count(f->log) >= 3);
    for (int synced = 0; synced < 2; synced++) {
        if (synced)
            sync_and_checkpoint(f);

        int64_t other = base_of(f, 1);

        log_fixture_crash(f);
        name_of(other, ".index", from);
        copy_file(f, from, "00000000000000000000.index");
        name_of(other, ".timeindex", from);
        copy_file(f, from, "00000000000000000000.timeindex");
        log_fixture_open(f);
        assert_null(log_offline_reason(f->log));
        assert_int_equal(log_end_offset(f->log), 120);
        for (int64_t i = 0; i < 120; i++) {
            assert_int_equal(log_fixture_read(f, i, INT64_MAX, 100000), 120 - i);
            assert_int_equal(log_offset_for_timestamp(f->log, 1000 + i, INT64_MAX, &at), ERR_NONE);
            assert_int_equal(at.offset, i);
        }
    }
}

/* A snapshot of producers from behind the end of the log, whole as it is, speaks of sequences that
 * the log does not hold. */
static void snapshot_ahead_of_the_log_is_passed_over(void **state)
{
    struct log_fixture *f = *state;
    struct log_append_result r;
    char name[SEGMENT_NAME_SIZE];
    int64_t last;

    f->config.segment_bytes = SEGMENT_BYTES_OF_ONE;
    log_configure(f->log, &f->config);
    for (int i = 0; log_segment_count(f->log) < 3; i++)
        assert_int_equal(log_fixture_append(f, .value_bytes = 200, .producer_id = 5, .sequence = i),
                         ERR_NONE);
    last = base_of(f, 1);
    name_of(base_of(f, 2), ".snapshot", name);
    log_fixture_crash(f);
    copy_file(f, name, "00000000000000009999.snapshot");
    log_fixture_flip(f, FIRST, (uint64_t)log_fixture_file_size(f, FIRST) / 2);
    log_fixture_open(f);
    assert_true(log_end_offset(f->log) < last);
    assert_false(log_fixture_exists(f, "00000000000000009999.snapshot"));
    assert_false(log_fixture_exists(f, name));
    assert_int_equal(
        log_fixture_append_spec(f,
                                (struct batch_spec){.value_bytes = 200,
                                                    .producer_id = 5,
                                                    .sequence = (int32_t)log_end_offset(f->log)},
                                &r),
        ERR_NONE);
    assert_false(r.duplicate);
}

/* Epochs that begin behind the end of the log were never written to it. */
static void epochs_ahead_of_the_log_are_forgotten(void **state)
{
    struct log_fixture *f = *state;

    fill_segments(f, 2);
    sync_and_checkpoint(f);
    log_fixture_crash(f);
    overwrite(f, "leader-epoch-checkpoint", "0\n2\n0 0\n7 5000\n");
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_latest_epoch(f->log), 0);
}

/* ---- crashes in the middle of a change ---- */

/* What is written down never says more than the log holds: a crash right after a truncation below
 * the recovery point finds a whole log. */
static void crash_after_truncation_is_no_corruption(void **state)
{
    struct log_fixture *f = *state;

    f->config.segment_bytes = SEGMENT_BYTES_OF_ONE;
    log_configure(f->log, &f->config);
    for (int i = 0; i < 40; i++)
        assert_int_equal(log_fixture_append(f, .records = 3, .value_bytes = 100), ERR_NONE);
    sync_and_checkpoint(f);
    assert_int_equal(log_durable_end_offset(f->log), 120);
    assert_int_equal(log_truncate(f->log, 100), ERR_NONE); /* within a batch */
    assert_int_equal(log_end_offset(f->log), 99);
    reopen(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_end_offset(f->log), 99);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 100000), 99);
}

/* The order of a disk's calls, for the tests below; one at a time. */
static struct {
    int left; /* calls until the process is gone, -1: never */
    bool empty_segment_synced, removed;
    uint64_t size;  /* of the log before it was cut */
    int cut_synced; /* syncs of the folder while it holds a cut file, and the log is still whole */
    struct file_ops ops;
    uint64_t written_from, written_to; /* in FIRST */
} calls;

static bool gone(const char *path, struct errmsg *why)
{
    if (strstr(path, "/orders-0") == NULL || strstr(path, "metadata") != NULL || calls.left < 0)
        return false;
    if (calls.left > 0) {
        calls.left--;
        return false;
    }
    errmsg_set(why, "the process is gone");
    return true;
}

static enum err open_or_gone(struct env *env, const char *path, unsigned flags, struct file **out,
                             struct errmsg *why)
{
    return gone(path, why) ? ERR_IO : disk_posix_ops.open(env, path, flags, out, why);
}

static enum err rename_or_gone(struct env *env, const char *from, const char *to,
                               struct errmsg *why)
{
    return gone(from, why) ? ERR_IO : disk_posix_ops.rename(env, from, to, why);
}

static enum err unlink_or_gone(struct env *env, const char *path, struct errmsg *why)
{
    return gone(path, why) ? ERR_IO : disk_posix_ops.unlink(env, path, why);
}

static enum err dir_sync_or_gone(struct env *env, const char *path, struct errmsg *why)
{
    return gone(path, why) ? ERR_IO : disk_posix_ops.dir_sync(env, path, why);
}

/* A recovery that dies at any of its steps leaves what the next one needs: the log ends at the same
 * offset, and everything behind it is kept. */
static void crash_in_recovery_changes_nothing(void **state)
{
    struct log_fixture *f = *state;
    int64_t bases[2], end = -1;
    uint64_t half;

    for (int step = 0;; step++) {
        fill_segments(f, 3);
        bases[0] = base_of(f, 1);
        bases[1] = base_of(f, 2);
        half = f->log->segments[0]->size_bytes / 2;
        log_fixture_crash(f);
        log_fixture_flip(f, FIRST, half);

        calls.left = step;
        f->t.disk.open = open_or_gone;
        f->t.disk.rename = rename_or_gone;
        f->t.disk.unlink = unlink_or_gone;
        f->t.disk.dir_sync = dir_sync_or_gone;
        log_fixture_open(f);

        bool whole = calls.left > 0;

        calls.left = -1;
        reopen(f);
        assert_null(log_offline_reason(f->log));
        end = end < 0 ? log_end_offset(f->log) : end;
        assert_int_equal(log_end_offset(f->log), end);
        for (int i = 0; i < 2; i++) {
            assert_true(has_file(f, bases[i], ".log.unsynced.cut"));
            assert_false(has_file(f, bases[i], ".log"));
        }
        if (whole) {
            assert_true(step > 10);
            return;
        }
        /* From the beginning: an empty log for the next step. */
        log_manager_delete(f->manager, f->log);
        log_fixture_crash(f);
        f->id.topic_id.b[0]++;
        log_fixture_open(f);
        assert_int_equal(log_end_offset(f->log), 0);
    }
}

static enum err note_dir_sync(struct env *env, const char *path, struct errmsg *why)
{
    char name[1100];

    (void)snprintf(name, sizeof name, "%s/00000000000000000020.log", path);
    calls.empty_segment_synced = calls.empty_segment_synced || access(name, F_OK) == 0;
    return disk_posix_ops.dir_sync(env, path, why);
}

static enum err note_unlink(struct env *env, const char *path, struct errmsg *why)
{
    if (strstr(path, FIRST) != NULL)
        calls.removed = calls.empty_segment_synced; /* no assert here: locks are held */
    return disk_posix_ops.unlink(env, path, why);
}

/* When everything is deleted, the empty segment whose name is the log's end is on the disk before
 * the records go: else nothing would say where the log had been. */
static void end_of_an_emptied_log_is_remembered(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 20);
    calls.empty_segment_synced = calls.removed = false;
    f->t.disk.dir_sync = note_dir_sync;
    f->t.disk.unlink = note_unlink;
    assert_int_equal(log_advance_start(f->log, 20), ERR_NONE);
    assert_true(calls.removed);
    reopen(f);
    assert_int_equal(log_end_offset(f->log), 20);
}

static void look_for_cut(void *ctx, const struct dir_entry *e)
{
    bool *found = ctx;

    *found = *found || strstr(e->name, ".unsynced.cut") != NULL;
}

static enum err note_cut_sync(struct env *env, const char *path, struct errmsg *why)
{
    char name[1100];
    bool found = false;
    struct file *log;

    (void)snprintf(name, sizeof name, "%s/" FIRST, path);
    assert_int_equal(disk_posix_ops.dir_list(env, path, look_for_cut, &found, why), ERR_NONE);
    if (found && disk_posix_ops.open(env, name, FILE_READ_ONLY, &log, why) == ERR_NONE) {
        calls.cut_synced += file_size(log) == calls.size;
        file_unref(log);
    }
    return disk_posix_ops.dir_sync(env, path, why);
}

/* What is cut is on the disk, name and all, before the log becomes shorter. */
static void cut_is_kept_before_it_is_made(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 50);
    log_fixture_crash(f);
    calls.size = log_fixture_file_size(f, FIRST);
    calls.cut_synced = 0;
    log_fixture_flip(f, FIRST, calls.size / 2);
    f->t.disk.dir_sync = note_cut_sync;
    log_fixture_open(f);
    assert_true(log_was_cut(f->log));
    assert_true(log_fixture_file_size(f, FIRST) < calls.size);
    assert_true(calls.cut_synced >= 1);
}

static enum err note_write(struct file *f, uint64_t offset, const void *p, size_t size,
                           struct errmsg *why)
{
    calls.written_from = MIN(calls.written_from, offset);
    calls.written_to = MAX(calls.written_to, offset + size);
    return file_size(f) > 0 ? calls.ops.write(f, offset, p, size, why) : ERR_IO;
}

static enum err open_noted(struct env *env, const char *path, unsigned flags, struct file **out,
                           struct errmsg *why)
{
    static struct file_ops noted; /* as `calls`: one test at a time */
    enum err e = disk_posix_ops.open(env, path, flags, out, why);

    if (e == ERR_NONE && strstr(path, FIRST) != NULL) {
        calls.ops = noted = *(*out)->ops;
        noted.write = note_write;
        (*out)->ops = &noted;
    }
    return e;
}

/* After a failed sync the page cache may show what the disk does not have. So what a start accepts
 * above the recovery point is written once more, before a sync says that it is there. */
static void unsynced_tail_is_written_again(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 50);
    sync_and_checkpoint(f);

    uint64_t synced = log_active(f->log)->size_bytes;

    fill(f, 20);

    uint64_t size = log_active(f->log)->size_bytes;

    log_fixture_crash(f);
    calls.written_from = UINT64_MAX;
    calls.written_to = 0;
    f->t.disk.open = open_noted;
    log_fixture_open(f);
    f->t.disk.open = disk_posix_ops.open;
    assert_int_equal(calls.written_from, synced);
    assert_int_equal(calls.written_to, size);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 3000), 70);
    sync_and_checkpoint(f);
    assert_int_equal(log_durable_end_offset(f->log), 70);
}

/* ---- what a power failure brings back ---- */

static void append_to(struct log_fixture *f, const char *name, const void *p, size_t size)
{
    char path[1024];
    FILE *out = fopen(log_fixture_path(f, path, name), "a");

    assert_non_null(out);
    assert_int_equal(fwrite(p, 1, size, out), size);
    fclose(out);
}

/* The room that a roll gave back is there again: zeros behind the last record of a sealed segment
 * below the recovery point are dropped. Anything else there is corruption. */
static void room_of_a_roll_comes_back(void **state)
{
    struct log_fixture *f = *state;
    static const uint8_t zeros[70000];

    f->config.segment_bytes = 10000;
    log_configure(f->log, &f->config);
    fill(f, 100);
    assert_true(log_segment_count(f->log) > 1);
    sync_and_checkpoint(f);
    log_fixture_crash(f);

    uint64_t size = log_fixture_file_size(f, FIRST);

    append_to(f, FIRST, zeros, sizeof zeros);
    log_fixture_open(f);
    assert_null(log_offline_reason(f->log));
    assert_int_equal(log_fixture_file_size(f, FIRST), size);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 3000), 100);
    log_fixture_crash(f);
    append_to(f, FIRST, zeros, 5000);
    append_to(f, FIRST, "x", 1);
    log_fixture_open(f);
    assert_non_null(log_offline_reason(f->log));
    assert_int_equal(log_fixture_file_size(f, FIRST), size + 5001);
}

static void fill_in_sequence(struct log_fixture *f, int from, int to)
{
    for (int i = from; i < to; i++)
        assert_int_equal(log_fixture_append(f, .value_bytes = 200, .timestamp_ms = 1000 + i,
                                            .producer_id = 7, .sequence = i),
                         ERR_NONE);
}

static enum err note_snapshot(struct env *env, const char *path, struct errmsg *why)
{
    if (strstr(path, FIRST) != NULL)
        calls.removed = true;
    return disk_posix_ops.unlink(env, path, why);
}

/* Segments go only when a sound snapshot at their end says what they said of producers: a snapshot
 * that a power failure tore is made anew first, from the segments themselves. */
static void deletion_keeps_producers(void **state)
{
    struct log_fixture *f = *state;
    struct producer_state found;
    struct errmsg why;
    char path[1024], name[SEGMENT_NAME_SIZE];
    uint8_t *p;
    size_t size;

    f->config.segment_bytes = 10000;
    log_configure(f->log, &f->config);
    fill_in_sequence(f, 0, 100);
    assert_true(log_segment_count(f->log) > 2);

    int64_t base = f->log->segments[2]->base_offset;

    name_of(base, ".snapshot", name);
    overwrite(f, name, "torn");
    name_of(f->log->segments[1]->base_offset, ".snapshot", name);
    assert_int_equal(unlink(log_fixture_path(f, path, name)), 0);
    calls.removed = false;
    f->t.disk.unlink = note_snapshot;
    assert_int_equal(log_advance_start(f->log, base), ERR_NONE);
    (void)test_env_run(&f->t);
    assert_true(calls.removed);
    name_of(base, ".snapshot", name);
    assert_int_equal(
        file_slurp(&f->t.env, log_fixture_path(f, path, name), 1 << 20, &p, &size, &why), ERR_NONE);
    producer_state_init(&found, 0);
    assert_int_equal(producer_state_decode(&found, p, size, &why), ERR_NONE);
    assert_int_equal(producer_state_count(&found), 1);
    producer_state_deinit(&found);
    free(p);
    reopen(f);
    assert_int_equal(log_fixture_append(f, .producer_id = 7, .sequence = 500),
                     ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    fill_in_sequence(f, 100, 101);
}

/* Until a number that is written down says that the log was synced, its identity may not be: it is
 * synced before the durable end moves, and before a start is written down. */
static void identity_is_synced_before_a_number_counts(void **state)
{
    struct log_fixture *f = *state;
    struct errmsg why;

    fill(f, 10);
    reopen(f);
    assert_true(f->log->metadata_dirty);
    assert_int_equal(log_advance_start(f->log, 10), ERR_NONE);
    assert_int_equal(log_manager_save_starts(f->manager, &why), ERR_NONE);
    assert_true(log_start_is_settled(f->log, 10));
    assert_false(f->log->metadata_dirty);
    reopen(f);
    assert_false(f->log->metadata_dirty);
    assert_int_equal(log_start_offset(f->log), 10);
}

/* ---- what was cut ---- */

/* What an earlier recovery has kept under the same name may be the last copy: it stays. */
static void second_cut_takes_another_name(void **state)
{
    struct log_fixture *f = *state;
    char name[64];

    fill(f, 50);
    log_fixture_crash(f);
    log_fixture_flip(f, FIRST, log_fixture_file_size(f, FIRST) / 2);
    log_fixture_open(f);

    int64_t end = log_end_offset(f->log);
    uint64_t position = log_active(f->log)->size_bytes;

    (void)snprintf(name, sizeof name, "00000000000000000000.%lld.unsynced.cut", (long long)end);

    uint64_t size = log_fixture_file_size(f, name);

    fill(f, 3);
    log_fixture_crash(f);
    log_fixture_flip(f, FIRST, position + 100);
    log_fixture_open(f);
    assert_int_equal(log_end_offset(f->log), end);
    assert_int_equal(log_fixture_file_size(f, name), size);
    (void)snprintf(name, sizeof name, "00000000000000000000.%lld.2.unsynced.cut", (long long)end);
    assert_true(log_fixture_exists(f, name));
}

static int count_cut(struct log_fixture *f, int64_t offset)
{
    char name[64];

    (void)snprintf(name, sizeof name, "00000000000000000000.%lld.unsynced.cut", (long long)offset);
    return log_fixture_exists(f, name);
}

/* It is kept until the replica is in sync again and what it holds is synced, over any kind of stop;
 * what the operator's own repair has kept stays. */
static void what_was_cut_goes_when_in_sync(void **state)
{
    struct log_fixture *f = *state;

    fill(f, 50);
    log_fixture_crash(f);
    log_fixture_flip(f, FIRST, log_fixture_file_size(f, FIRST) / 2);
    overwrite(f, "00000000000000000000.7.cut", "by repair");
    log_fixture_open(f);

    int64_t end = log_end_offset(f->log);

    assert_true(count_cut(f, end));
    sync_and_checkpoint(f); /* a synced log that is not in sync with the others */
    assert_true(count_cut(f, end));
    reopen(f);
    assert_true(count_cut(f, end));
    assert_false(log_was_cut(f->log)); /* nor anything new */
    log_fixture_close(f);
    log_fixture_open(f);
    assert_true(count_cut(f, end));
    assert_int_equal(log_end_offset(f->log), end);

    log_set_in_sync(f->log, true, false);
    (void)test_env_run(&f->t);
    assert_false(count_cut(f, end));
    assert_int_equal(log_durable_end_offset(f->log), end);
    assert_true(log_fixture_exists(f, "00000000000000000000.7.cut"));
    log_fixture_close(f);
    log_fixture_open(f);
    assert_true(log_manager_started_clean(f->manager));
}

/* Of a partition with one replica nobody else has it: it stays, over any kind of stop, until a
 * later recovery cuts something else. */
static void what_was_cut_stays_with_a_single_replica(void **state)
{
    struct log_fixture *f = *state;
    int64_t ends[2];

    fill(f, 50);
    for (int life = 0; life < 2; life++) {
        log_fixture_crash(f);
        log_fixture_flip(f, FIRST, log_fixture_file_size(f, FIRST) * 3 / 4);
        log_fixture_open(f);
        ends[life] = log_end_offset(f->log);
        assert_true(log_was_cut(f->log));
        log_set_in_sync(f->log, false, true);
        (void)test_env_run(&f->t);
        assert_true(count_cut(f, ends[life]));
    }
    assert_true(ends[1] < ends[0]);
    assert_false(count_cut(f, ends[0]));
    for (int life = 0; life < 2; life++) {
        log_fixture_close(f);
        log_fixture_open(f);
        log_set_in_sync(f->log, false, true);
        sync_and_checkpoint(f);
        assert_true(count_cut(f, ends[1]));
    }
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(kill_loses_nothing),
        TEST(unsynced_tail_is_written_again),
        TEST(room_of_a_roll_comes_back),
        TEST(deletion_keeps_producers),
        TEST(identity_is_synced_before_a_number_counts),
        TEST(second_cut_takes_another_name),
        TEST(torn_tail_is_cut_and_kept),
        TEST(corruption_below_is_never_cut),
        TEST(missing_records_are_noticed),
        TEST(missing_records_of_a_sealed_segment_are_noticed),
        TEST(zeroed_page_ends_the_log),
        TEST(hints_are_rebuilt),
        TEST(lying_index_misleads_nobody),
        TEST(deleted_records_may_be_missing),
        TEST(damaged_start_hides_nothing),
        TEST(leap_into_the_next_segment_ends_the_log),
        TEST(deleted_start_survives_a_crash),
        TEST(torn_snapshot_is_passed_over),
        TEST(any_flipped_byte_is_survived),
        TEST(empty_active_segment_takes_appends),
        TEST(missing_active_segment_above_is_an_end),
        TEST(missing_active_segment_below_is_noticed),
        TEST(missing_middle_segment_above_ends_the_log),
        TEST(missing_middle_segment_below_is_noticed),
        TEST(no_segment_at_all_is_noticed),
        TEST(no_segment_of_an_empty_log_is_no_news),
        TEST(overlap_above_ends_the_log),
        TEST(overlap_below_is_noticed),
        TEST(empty_overlap_is_removed),
        TEST(epoch_that_goes_back_ends_the_log),
        TEST(recovery_point_behind_the_end_is_noticed),
        TEST(index_of_another_segment_misleads_nobody),
        TEST(snapshot_ahead_of_the_log_is_passed_over),
        TEST(epochs_ahead_of_the_log_are_forgotten),
        TEST(crash_after_truncation_is_no_corruption),
        TEST(crash_in_recovery_changes_nothing),
        TEST(end_of_an_emptied_log_is_remembered),
        TEST(cut_is_kept_before_it_is_made),
        TEST(what_was_cut_goes_when_in_sync),
        TEST(what_was_cut_stays_with_a_single_replica),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
