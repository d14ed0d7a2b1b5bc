/* The log: append, read, roll, durability, producers, trimming, timestamps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/disk_posix.h"
#include "storage/log_internal.h"
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

/* Offsets are dense and what was appended can be read, from any offset, across segments. */
static void appends_are_read_back(void **state)
{
    struct log_fixture *f = *state;

    for (int i = 0; i < 300; i++) {
        struct log_append_result r;

        assert_int_equal(log_fixture_append_spec(f, (struct batch_spec){.records = 1 + i % 3}, &r),
                         ERR_NONE);
        assert_int_equal(r.last_offset - r.base_offset, i % 3);
    }
    assert_int_equal(log_end_offset(f->log), 600);
    assert_true(log_segment_count(f->log) > 2);
    for (int64_t offset = 0; offset < 600; offset += 7) {
        int64_t first = log_fixture_read(f, offset, INT64_MAX, 1000);

        assert_in_range(first, 600 - offset, 602 - offset); /* whole batches */
    }
    assert_int_equal(log_fixture_read(f, 600, INT64_MAX, 1000), 0);
    assert_int_equal(log_fixture_read(f, 601, INT64_MAX, 1000), -ERR_OFFSET_OUT_OF_RANGE);
}

/* No batch that reaches the limit is returned. */
static void reads_end_below_the_limit(void **state)
{
    struct log_fixture *f = *state;

    for (int i = 0; i < 50; i++)
        assert_int_equal(log_fixture_append(f, .records = 2), ERR_NONE);
    for (int64_t limit = 0; limit <= 100; limit++)
        assert_int_equal(log_fixture_read(f, 0, limit, 1 << 20), limit / 2 * 2);
}

/* KIP-74: the first batch comes whole, however small the limit; without it, nothing. */
static void first_batch_is_whole(void **state)
{
    struct log_fixture *f = *state;
    struct log_read_result r;
    struct log_read_options o = {.offset_limit = INT64_MAX, .bytes_max = 10, .at_least_one = true};

    assert_int_equal(log_fixture_append(f, .value_bytes = 500), ERR_NONE);
    assert_int_equal(log_fixture_append(f, .value_bytes = 500), ERR_NONE);
    assert_int_equal(log_read(f->log, &o, &r), ERR_NONE);
    assert_in_range(r.bytes, 500, 700);
    ioqueue_deinit(&r.data);
    o.at_least_one = false;
    assert_int_equal(log_read(f->log, &o, &r), ERR_NONE);
    assert_int_equal(r.bytes, 0);
    ioqueue_deinit(&r.data);
}

/* What is preallocated is not log size; a roll and a clean stop give it back. */
static void room_is_given_back(void **state)
{
    struct log_fixture *f = *state;

    for (int i = 0; i < 200; i++)
        assert_int_equal(log_fixture_append(f, .value_bytes = 100), ERR_NONE);

    int64_t size = log_size_bytes(f->log);
    uint64_t first = (uint64_t)f->log->segments[0]->size_bytes;

    assert_int_equal(log_fixture_file_size(f, "00000000000000000000.log"), first);
    log_fixture_close(f);
    log_fixture_open(f);
    assert_int_equal(log_size_bytes(f->log), size);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 4096), 200);
}

/* Thirty seconds of silence: synced, room given back, no descriptor left; writing goes on. */
static void silence_puts_a_log_to_rest(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
    assert_non_null(log_active(f->log)->file);
    for (int i = 0; i < 40; i++) {
        test_env_advance_ms(&f->t, 1000);
        (void)test_env_run(&f->t);
    }
    assert_null(log_active(f->log)->file);
    assert_int_equal(log_durable_end_offset(f->log), 1);
    assert_false(list_linked(&f->log->active_node));
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 4096), 2);
}

/* S3: the durable end follows a sync, not an append; the observer hears of it. */
static void count_durable(void *ctx, struct log *l)
{
    (void)l;
    (*(int *)ctx)++;
}

static void durable_end_follows_sync(void **state)
{
    struct log_fixture *f = *state;
    int heard = 0;

    log_observe(f->log, &(struct log_observer){.on_durable = count_durable, .ctx = &heard});
    assert_int_equal(log_fixture_append(f, .records = 3), ERR_NONE);
    assert_int_equal(log_durable_end_offset(f->log), 0);
    log_request_sync(f->log);
    (void)test_env_run(&f->t);
    assert_int_equal(log_durable_end_offset(f->log), 3);
    assert_int_equal(heard, 1);
}

static enum err broken_sync(struct file *f, struct errmsg *why)
{
    (void)f;
    errmsg_set(why, "Input/output error");
    return ERR_IO;
}

static void count_offline(void *ctx, struct log *l, const char *why)
{
    (void)l;
    assert_non_null(strstr(why, "Input/output error"));
    (*(int *)ctx)++;
}

/* A failed fsync is final: the log is offline, the recovery point stays. */
static void failed_sync_takes_the_log_offline(void **state)
{
    struct log_fixture *f = *state;
    int heard = 0;

    log_observe(f->log, &(struct log_observer){.on_offline = count_offline, .ctx = &heard});
    assert_int_equal(log_fixture_append(f, .records = 3), ERR_NONE);

    struct file *file = log_active(f->log)->file;

    f->broken = *file->ops;
    f->broken.sync = broken_sync;
    file->ops = &f->broken;
    log_request_sync(f->log);
    (void)test_env_run(&f->t);
    assert_int_equal(heard, 1);
    assert_int_equal(log_durable_end_offset(f->log), 0);
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_KAFKA_STORAGE_ERROR);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 100), -ERR_KAFKA_STORAGE_ERROR);
}

static enum err full_ready(struct file *f, uint64_t end, struct errmsg *why)
{
    (void)f;
    (void)end;
    errmsg_set(why, "No space left on device");
    return ERR_NO_SPACE;
}

/* P10: a full disk refuses appends, reads go on, and writing resumes by itself. */
static void full_disk_refuses_and_resumes(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 3), ERR_NONE);

    struct file *file = log_active(f->log)->file;
    const struct file_ops *whole = file->ops;
    enum err e = ERR_NONE;

    f->broken = *whole;
    f->broken.ready = full_ready;
    file->ops = &f->broken;
    f->config.segment_bytes = 1 << 30; /* a roll would find room in its new file */
    log_configure(f->log, &f->config);
    for (int i = 0; i < 1000 && e == ERR_NONE; i++)
        e = log_fixture_append(f, .value_bytes = 3000);
    assert_int_equal(e, ERR_KAFKA_STORAGE_ERROR);
    assert_null(log_offline_reason(f->log));
    assert_true(log_fixture_read(f, 0, INT64_MAX, 4096) > 3);
    file->ops = whole;
    test_env_advance_ms(&f->t, 1000);
    (void)test_env_run(&f->t);
    assert_int_equal(log_fixture_append(f, .value_bytes = 3000), ERR_NONE);
}

static enum err none_to_hold(struct env *env, const char *path, unsigned flags, struct file **out,
                             struct errmsg *why)
{
    if ((flags & FILE_HELD) == 0)
        return disk_posix_ops.open(env, path, flags, out, why);
    errmsg_set(why, "%s: too many files are open", path);
    return ERR_NO_DESCRIPTORS;
}

static void pass_seconds(struct log_fixture *f, int seconds)
{
    for (int i = 0; i < seconds; i++) {
        test_env_advance_ms(&f->t, 1000);
        (void)test_env_run(&f->t);
    }
}

/* No descriptor to be had: refused like a full disk, nothing goes offline, and it passes. */
static void too_many_open_files_refuse_and_resume(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
    pass_seconds(f, 40);
    assert_null(log_active(f->log)->file);
    f->t.disk.open = none_to_hold;
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_KAFKA_STORAGE_ERROR);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 4096), -ERR_KAFKA_STORAGE_ERROR);
    assert_null(log_offline_reason(f->log));
    assert_null(atomic_load(&f->log->dir->offline));
    f->t.disk.open = disk_posix_ops.open;
    pass_seconds(f, 1);
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 4096), 2);
}

/* Where descriptors are short, a log that is not in use is synced and closed within seconds. */
static void crowded_logs_rest_soon(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
    pass_seconds(f, 1); /* it was in use until now */
    log_dir_crowded(f->log->dir);
    pass_seconds(f, 3);
    assert_null(log_active(f->log)->file);
    assert_int_equal(log_durable_end_offset(f->log), 1);
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
}

/* ---- producers ---- */

/* P5: each of the last five batches is known; its retry is answered with its offsets. */
static void retries_are_duplicates(void **state)
{
    struct log_fixture *f = *state;
    struct log_append_result r;

    for (int i = 0; i < 6; i++)
        assert_int_equal(log_fixture_append(f, .records = 2, .producer_id = 7, .sequence = i * 2),
                         ERR_NONE);
    for (int i = 1; i < 6; i++) {
        assert_int_equal(
            log_fixture_append_spec(
                f, (struct batch_spec){.records = 2, .producer_id = 7, .sequence = i * 2}, &r),
            ERR_NONE);
        assert_true(r.duplicate);
        assert_int_equal(r.base_offset, i * 2);
    }
    assert_int_equal(log_fixture_append(f, .records = 2, .producer_id = 7, .sequence = 0),
                     ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(log_fixture_append(f, .records = 2, .producer_id = 7, .sequence = 14),
                     ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(log_end_offset(f->log), 12);
}

/* ... also after a roll, a clean stop and a crash: five batches, not Kafka's one. */
static void retries_survive_restarts(void **state)
{
    struct log_fixture *f = *state;
    struct log_append_result r;

    for (int life = 0; life < 2; life++) {
        int32_t first = life * 5;

        for (int i = 0; i < 5; i++)
            assert_int_equal(
                log_fixture_append(f, .value_bytes = 4000, .producer_id = 7, .sequence = first + i),
                ERR_NONE);
        if (life == 0)
            log_fixture_close(f);
        else
            log_fixture_crash(f);
        log_fixture_open(f);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(log_fixture_append_spec(f,
                                                     (struct batch_spec){.value_bytes = 4000,
                                                                         .producer_id = 7,
                                                                         .sequence = first + i},
                                                     &r),
                             ERR_NONE);
            assert_true(r.duplicate);
            assert_int_equal(r.base_offset, first + i);
        }
    }
}

/* A transaction that is open holds the last stable offset; an aborted one is listed to who reads
 * its range; an end above the high watermark decides nothing. */
static void transactions_hold_the_stable_offset(void **state)
{
    struct log_fixture *f = *state;
    struct log_read_result r;
    struct log_read_options o = {
        .offset_limit = INT64_MAX, .bytes_max = 1 << 20, .need_aborted = true};

    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
    assert_int_equal(
        log_fixture_append(f, .producer_id = 9, .attributes = RECORD_BATCH_TRANSACTIONAL),
        ERR_NONE);
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
    assert_int_equal(log_first_unstable_offset(f->log), 1);
    assert_int_equal(log_fixture_append_buf(f, log_fixture_marker(9, 0, false, 3), 0, NULL),
                     ERR_NONE);
    assert_int_equal(log_first_unstable_offset(f->log), 4);
    assert_int_equal(log_last_stable_offset(f->log, 3), 1);
    assert_int_equal(log_last_stable_offset(f->log, 4), 4);
    for (int life = 0; life < 3; life++) {
        enum err e = log_read(f->log, &o, &r);

        if (e == ERR_AGAIN) {
            assert_int_equal(log_load(f->log, 0, 100), ERR_NONE);
            e = log_read(f->log, &o, &r);
        }
        assert_int_equal(e, ERR_NONE);
        assert_int_equal(r.aborted_count, 1);
        assert_int_equal(r.aborted[0].producer_id, 9);
        assert_int_equal(r.aborted[0].first_offset, 1);
        free(r.aborted);
        ioqueue_deinit(&r.data);
        if (life == 0)
            log_fixture_close(f);
        else
            log_fixture_crash(f);
        log_fixture_open(f);
    }
}

/* ---- epochs ---- */

static void epochs_begin_where_they_began(void **state)
{
    struct log_fixture *f = *state;
    int32_t epoch;
    int64_t end;

    assert_int_equal(log_fixture_append(f, .records = 2, .leader_epoch = 1), ERR_NONE);
    log_begin_leader_epoch(f->log, 4);
    assert_int_equal(log_fixture_append(f, .records = 2, .leader_epoch = 4), ERR_NONE);
    for (int life = 0; life < 3; life++) {
        log_epoch_end_offset(f->log, 2, &epoch, &end);
        assert_int_equal(epoch, 1);
        assert_int_equal(end, 2);
        log_epoch_end_offset(f->log, 4, &epoch, &end);
        assert_int_equal(end, 4);
        log_epoch_end_offset(f->log, 5, &epoch, &end);
        assert_int_equal(epoch, -1);
        assert_int_equal(log_leader_epoch_at(f->log, 1), 1);
        assert_int_equal(log_latest_epoch(f->log), 4);
        if (life == 0)
            log_fixture_close(f);
        else
            log_fixture_crash(f);
        log_fixture_open(f);
    }
}

/* ---- trimming ---- */

/* DeleteRecords: the start moves to a record, whole segments below it go, the start is kept. */
static void start_moves_on_request(void **state)
{
    struct log_fixture *f = *state;

    for (int i = 0; i < 300; i++)
        assert_int_equal(log_fixture_append(f, .records = 1, .value_bytes = 100), ERR_NONE);

    int before = log_segment_count(f->log);

    assert_int_equal(log_advance_start(f->log, 301), ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(log_advance_start(f->log, 150), ERR_NONE);
    (void)test_env_run(&f->t);
    assert_true(log_segment_count(f->log) < before);
    assert_int_equal(log_start_offset(f->log), 150);
    assert_int_equal(log_fixture_read(f, 149, INT64_MAX, 100), -ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(log_fixture_read(f, 150, INT64_MAX, 1000), 150);
    /* Everything: an empty segment keeps the end. */
    assert_int_equal(log_advance_start(f->log, 300), ERR_NONE);
    (void)test_env_run(&f->t);
    test_env_advance_ms(&f->t, 1000);
    (void)test_env_run(&f->t);
    assert_int_equal(log_size_bytes(f->log), 0);
    log_fixture_crash(f);
    log_fixture_open(f);
    assert_int_equal(log_start_offset(f->log), 300);
    assert_int_equal(log_end_offset(f->log), 300);
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
    assert_int_equal(log_end_offset(f->log), 301);
}

/* Retention by size keeps the active segment; by time it takes all; never above the limit. */
static void retention_trims(void **state)
{
    struct log_fixture *f = *state;

    for (int i = 0; i < 300; i++)
        assert_int_equal(log_fixture_append(f, .value_bytes = 100, .timestamp_ms = 1000 + i),
                         ERR_NONE);
    f->config.retention_bytes = 12000;
    log_configure(f->log, &f->config);
    assert_int_equal(log_maintain(f->log, 0, 2000), 0); /* nothing is below the high watermark */
    assert_true(log_maintain(f->log, 300, 2000) > 0);
    assert_in_range(log_size_bytes(f->log), 12000, 22000);
    assert_int_equal(log_fixture_read(f, log_start_offset(f->log), INT64_MAX, 1000),
                     300 - log_start_offset(f->log));
    f->config.retention_bytes = -1;
    f->config.retention_ms = 1000;
    log_configure(f->log, &f->config);
    assert_int_equal(log_maintain(f->log, 300, 1500), 0);
    assert_true(log_maintain(f->log, 300, 3000) > 0);
    assert_int_equal(log_start_offset(f->log), 300);
    assert_int_equal(log_size_bytes(f->log), 0);
}

/* [H26]: compact alone is never trimmed. */
static void compacted_logs_are_not_trimmed(void **state)
{
    struct log_fixture *f = *state;

    f->config.cleanup_delete = false;
    f->config.cleanup_compact = true;
    f->config.retention_bytes = 0;
    f->config.retention_ms = 0;
    log_configure(f->log, &f->config);
    for (int i = 0; i < 300; i++)
        assert_int_equal(log_fixture_append(f, .value_bytes = 100), ERR_NONE);
    assert_int_equal(log_maintain(f->log, 300, 1000000), 0);
    assert_int_equal(log_start_offset(f->log), 0);
}

/* segment.ms rolls by the records' time. */
static void segments_roll_by_record_time(void **state)
{
    struct log_fixture *f = *state;

    f->config.segment_ms = 1000;
    log_configure(f->log, &f->config);
    assert_int_equal(log_fixture_append(f, .timestamp_ms = 5000), ERR_NONE);
    assert_int_equal(log_fixture_append(f, .timestamp_ms = 6000), ERR_NONE);
    assert_int_equal(log_segment_count(f->log), 1);
    assert_int_equal(log_fixture_append(f, .timestamp_ms = 6001), ERR_NONE);
    assert_int_equal(log_segment_count(f->log), 2);
}

/* H10: truncation makes a new file; what was being read stays as it was. */
static void truncation_keeps_what_is_being_read(void **state)
{
    struct log_fixture *f = *state;
    struct log_read_result r;
    struct log_read_options o = {.offset_limit = INT64_MAX, .bytes_max = 1 << 20};

    for (int i = 0; i < 100; i++)
        assert_int_equal(log_fixture_append(f, .records = 2, .leader_epoch = i < 20 ? 1 : 2),
                         ERR_NONE);
    o.offset = 30;
    assert_int_equal(log_read(f->log, &o, &r), ERR_NONE);

    const struct ioslice *s = ioqueue_at(&r.data, 0);
    uint8_t *before = xmalloc(s->len), *after = xmalloc(s->len);
    size_t n;

    assert_int_equal(file_read(s->buf->file, s->buf->file_offset, before, s->len, &n), ERR_NONE);
    assert_int_equal(log_truncate(f->log, 41), ERR_NONE);
    assert_int_equal(log_end_offset(f->log), 40); /* a batch is never cut */
    assert_int_equal(log_latest_epoch(f->log), 1);
    for (int i = 0; i < 10; i++)
        assert_int_equal(log_fixture_append(f, .records = 1, .leader_epoch = 3), ERR_NONE);
    assert_int_equal(file_read(s->buf->file, s->buf->file_offset, after, s->len, &n), ERR_NONE);
    assert_memory_equal(before, after, s->len);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 1000), 50);
    free(before);
    free(after);
    ioqueue_deinit(&r.data);
    log_fixture_crash(f);
    log_fixture_open(f);
    assert_int_equal(log_end_offset(f->log), 50);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 1000), 50);
    assert_int_equal(log_truncate(f->log, 0), ERR_NONE);
    assert_int_equal(log_end_offset(f->log), 0);
    assert_int_equal(log_fixture_append(f, .records = 1), ERR_NONE);
}

/* A cut within the first batch of the log takes it whole: the log goes on where it is, without a
 * hole. */
static void a_cut_within_the_first_batch_leaves_no_hole(void **state)
{
    struct log_fixture *f = *state;

    assert_int_equal(log_fixture_append(f, .records = 10), ERR_NONE);
    assert_int_equal(log_advance_start(f->log, 5), ERR_NONE);
    assert_int_equal(log_truncate(f->log, 7), ERR_NONE);
    assert_int_equal(log_end_offset(f->log), 0);
    assert_true(log_start_offset(f->log) <= log_end_offset(f->log));
    assert_int_equal(log_fixture_append(f, .records = 10), ERR_NONE);
    assert_int_equal(log_fixture_read(f, 0, INT64_MAX, 1000), 10);
    log_fixture_crash(f);
    log_fixture_open(f);
    assert_int_equal(log_fixture_read(f, log_start_offset(f->log), INT64_MAX, 1000), 10);
}

/* An epoch that began at the end and has no records goes when the log is cut there: its leader
 * never wrote here. One that has records stays. */
static void a_cut_at_the_end_drops_epochs_without_records(void **state)
{
    struct log_fixture *f = *state;

    log_begin_leader_epoch(f->log, 3);
    assert_int_equal(log_fixture_append(f, .records = 4, .leader_epoch = 3), ERR_NONE);
    log_begin_leader_epoch(f->log, 5);
    assert_int_equal(log_latest_epoch(f->log), 5);
    assert_int_equal(log_truncate(f->log, 9), ERR_NONE);
    assert_int_equal(log_latest_epoch(f->log), 3);
    assert_int_equal(log_end_offset(f->log), 4);
}

/* The log begins anew: nothing of it is left, also after a crash; further on or further back. */
static void a_log_begins_anew(void **state)
{
    static const int64_t begins[] = {500, 7, 0};
    struct log_fixture *f = *state;

    for (size_t i = 0; i < ARRAY_COUNT(begins); i++) {
        int64_t at = begins[i];

        for (int n = 0; n < 60; n++)
            assert_int_equal(log_fixture_append(f, .records = 2, .leader_epoch = (int32_t)i + 1),
                             ERR_NONE);
        assert_int_equal(log_advance_start(f->log, log_start_offset(f->log) + 20), ERR_NONE);
        assert_int_equal(log_restart(f->log, at), ERR_NONE);
        assert_int_equal(log_start_offset(f->log), at);
        assert_int_equal(log_end_offset(f->log), at);
        assert_int_equal(log_latest_epoch(f->log), -1);
        log_fixture_crash(f);
        log_fixture_open(f);
        assert_int_equal(log_start_offset(f->log), at);
        assert_int_equal(log_end_offset(f->log), at);
        assert_int_equal(log_fixture_append(f, .records = 3, .leader_epoch = 9), ERR_NONE);
        assert_int_equal(log_fixture_read(f, at, INT64_MAX, 1000), 3);
        assert_int_equal(log_restart(f->log, 0), ERR_NONE);
    }
}

/* ---- timestamps [H33] ---- */

static void timestamps_are_found_by_record(void **state)
{
    struct log_fixture *f = *state;
    struct timestamp_offset at;

    for (int i = 0; i < 200; i++)
        assert_int_equal(log_fixture_append(f, .records = 5, .timestamp_ms = 1000 + i * 10,
                                            .codec = i % 5, .leader_epoch = 2),
                         ERR_NONE);
    for (int life = 0; life < 2; life++) {
        for (int64_t t = 0; t < 3004; t += 13) {
            int64_t expected = -1;

            for (int64_t o = 0; o < 1000 && expected < 0; o++) {
                if (1000 + o / 5 * 10 + o % 5 >= t)
                    expected = o;
            }
            assert_int_equal(log_offset_for_timestamp(f->log, t, INT64_MAX, &at), ERR_NONE);
            assert_int_equal(at.offset, expected);
        }
        assert_int_equal(log_offset_for_timestamp(f->log, 2990, 100, &at), ERR_NONE);
        assert_int_equal(at.offset, -1);
        assert_int_equal(log_max_timestamp(f->log, INT64_MAX, &at), ERR_NONE);
        assert_int_equal(at.offset, 999);
        assert_int_equal(at.timestamp_ms, 2994);
        assert_int_equal(at.leader_epoch, 2);
        assert_int_equal(log_max_timestamp(f->log, 500, &at), ERR_NONE);
        assert_int_equal(at.offset, 499);
        log_fixture_close(f);
        log_fixture_open(f);
    }
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(appends_are_read_back),
        TEST(reads_end_below_the_limit),
        TEST(first_batch_is_whole),
        TEST(room_is_given_back),
        TEST(silence_puts_a_log_to_rest),
        TEST(durable_end_follows_sync),
        TEST(failed_sync_takes_the_log_offline),
        TEST(full_disk_refuses_and_resumes),
        TEST(too_many_open_files_refuse_and_resume),
        TEST(crowded_logs_rest_soon),
        TEST(retries_are_duplicates),
        TEST(retries_survive_restarts),
        TEST(transactions_hold_the_stable_offset),
        TEST(epochs_begin_where_they_began),
        TEST(start_moves_on_request),
        TEST(retention_trims),
        TEST(compacted_logs_are_not_trimmed),
        TEST(segments_roll_by_record_time),
        TEST(truncation_keeps_what_is_being_read),
        TEST(a_cut_within_the_first_batch_leaves_no_hole),
        TEST(a_cut_at_the_end_drops_epochs_without_records),
        TEST(a_log_begins_anew),
        TEST(timestamps_are_found_by_record),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
