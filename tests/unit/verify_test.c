/* What verify finds in a directory of which one thing is not as it was, and what it lets pass. */
#include "tests/unit/folder_fixture.h"

/* Nothing is found in a directory that is as it was written, and everything in it is counted. */
static void a_whole_directory_is_clean(void **state)
{
    struct verify_report r;

    fixture_verify(*state, &r);
    assert_int_equal(r.count, 0);
    assert_int_equal(r.partitions, 1);
    assert_int_equal(r.segments, 2);
    assert_int_equal(r.batches, 41);
    assert_int_equal(r.records, 120);
    verify_report_deinit(&r);
}

/* A bit of a record is found by the CRC, and where. */
static void a_flipped_record_bit_is_found(void **state)
{
    struct folder_fixture *f = *state;
    struct verify_report r;

    fixture_flip(f, FIXTURE_LOG_0, f->positions[4] + 70, 0x10);
    fixture_verify(f, &r);
    assert_int_equal(r.weights[FINDING_DAMAGE], 1);
    assert_int_equal(r.v[0].kind, FINDING_CRC);
    assert_int_equal(r.v[0].position, f->positions[4]);
    assert_int_equal(r.v[0].offset, 12);
    verify_report_deinit(&r);
}

/* The base offset lies outside the CRC: its neighbours say what it was. */
static void a_wrong_base_offset_is_found(void **state)
{
    struct folder_fixture *f = *state;

    fixture_flip(f, FIXTURE_LOG_0, f->positions[5] + 7, 0x40);
    fixture_expect(f, FINDING_DAMAGE, FINDING_OFFSETS, "found 79, expected 15");
}

/* So does the leader epoch: leader-epoch-checkpoint knows it. */
static void a_wrong_leader_epoch_is_found(void **state)
{
    struct folder_fixture *f = *state;

    fixture_flip(f, FIXTURE_LOG_60, f->positions[39] + 15, 0x04);
    fixture_expect(f, FINDING_DAMAGE, FINDING_EPOCHS, "found 6, leader-epoch-checkpoint says 2");
}

/* Without that file -1, a batch that was never numbered, is let pass; any other is found. */
static void a_negative_leader_epoch_is_found(void **state)
{
    struct folder_fixture *f = *state;
    struct errmsg why;
    char path[512];

    assert_int_equal(
        disk_unlink(&f->t.env, fixture_path(f, path, "orders-0/leader-epoch-checkpoint"), &why),
        ERR_NONE);
    fixture_flip(f, FIXTURE_LOG_0, f->positions[3] + 12, 0x80);
    fixture_expect(f, FINDING_DAMAGE, FINDING_EPOCHS, "found -2147483648 behind 0");
}

/* A length that leads astray hides no more than its own batch, for the index knows the next. */
static void the_walk_goes_on_behind_a_broken_frame(void **state)
{
    struct folder_fixture *f = *state;
    struct verify_report r;

    fixture_flip(f, FIXTURE_LOG_0, f->positions[2] + 10, 0xff);
    fixture_verify(f, &r);
    assert_true(r.weights[FINDING_DAMAGE] >= 1);
    assert_int_equal(r.v[0].kind, FINDING_BATCH);
    assert_true(r.batches > 30);
    verify_report_deinit(&r);
}

/* A segment that ends too early, at a batch, leaves a gap to the next one; the last one ends below
 * the recovery point. */
static void missing_ends_are_found(void **state)
{
    struct folder_fixture *f = *state;

    fixture_cut(f, FIXTURE_LOG_60, f->positions[40]);
    fixture_expect(f, FINDING_DAMAGE, FINDING_LOG_END, "ends at offset 118");
    fixture_cut(f, FIXTURE_LOG_0, f->positions[19]);
    fixture_expect(f, FINDING_DAMAGE, FINDING_OFFSETS, "the one before ends at 57");
}

/* What was preallocated behind the last batch is no finding. */
static void zeros_behind_the_log_are_no_finding(void **state)
{
    struct folder_fixture *f = *state;
    uint8_t zeros[5000] = {0};
    struct errmsg why;
    struct file *file;
    char path[512];

    assert_int_equal(file_open(&f->t.env, fixture_path(f, path, FIXTURE_LOG_60), 0, &file, &why),
                     ERR_NONE);
    assert_int_equal(file_write(file, file_size(file), zeros, sizeof zeros, &why), ERR_NONE);
    file_unref(file);
    fixture_expect_clean(f);
    fixture_flip(f, FIXTURE_LOG_60, fixture_size(f, FIXTURE_LOG_60) - 100, 1);
    fixture_expect(f, FINDING_DAMAGE, FINDING_BATCH, "length is 0");
}

/* Without the marker, at or above the recovery point, a half batch is what a crash leaves. */
static void a_torn_tail_is_no_damage(void **state)
{
    struct folder_fixture *f = *state;
    struct errmsg why;
    char path[512];

    assert_int_equal(disk_unlink(&f->t.env, fixture_path(f, path, ".kafka_cleanshutdown"), &why),
                     ERR_NONE);
    fixture_put_text(f, "recovery-point-offset-checkpoint", "0\n1\norders 0 60\n");
    fixture_put_text(f, "replication-offset-checkpoint", "0\n1\norders 0 60\n");
    fixture_cut(f, FIXTURE_LOG_60, f->positions[40] + 30);
    fixture_expect_clean(f);
    fixture_expect(f, FINDING_CRASH, FINDING_TORN_TAIL, "the log ends at offset 118");
    /* Below the recovery point the same is damage. */
    fixture_put_text(f, "recovery-point-offset-checkpoint", "0\n1\norders 0 120\n");
    fixture_expect(f, FINDING_DAMAGE, FINDING_BATCH, "too few for a batch");
}

/* Each number of an index entry is held to the log; an index may not lack entries either. */
static void indexes_are_held_to_the_log(void **state)
{
    struct folder_fixture *f = *state;
    const char *index = "orders-0/00000000000000000000.index";
    const char *times = "orders-0/00000000000000000000.timeindex";
    uint64_t size = fixture_size(f, times);

    fixture_flip(f, index, 8 + 3, 1);
    fixture_expect(f, FINDING_DAMAGE, FINDING_INDEX, "the batch there ends with");
    fixture_flip(f, index, 8 + 3, 1);
    fixture_flip(f, index, 8 + 7, 1);
    fixture_expect(f, FINDING_DAMAGE, FINDING_INDEX, "no batch begins there");
    fixture_flip(f, index, 8 + 7, 1);
    fixture_flip(f, times, 12 + 7, 1);
    fixture_expect(f, FINDING_DAMAGE, FINDING_TIME_INDEX, "greatest timestamp");
    fixture_flip(f, times, 12 + 7, 1);
    fixture_flip(f, times, 12 + 11, 1);
    fixture_expect(f, FINDING_DAMAGE, FINDING_TIME_INDEX, "no batch ends there");
    fixture_flip(f, times, 12 + 11, 1);
    fixture_expect_clean(f);
    fixture_cut(f, times, size - 12);
    fixture_expect(f, FINDING_DAMAGE, FINDING_TIME_INDEX, "ends with timestamp");
    fixture_cut(f, index, 8);
    fixture_expect(f, FINDING_DAMAGE, FINDING_INDEX, "the time index has");
}

/* Producers and aborted transactions are what replaying the batches gives. */
static void derived_state_is_recomputed(void **state)
{
    struct folder_fixture *f = *state;
    uint8_t *bytes;
    size_t size;

    fixture_flip(f, "orders-0/00000000000000000060.txnindex", 17, 1);
    fixture_expect(f, FINDING_DAMAGE, FINDING_TXN_INDEX, "the log says 8");
    fixture_flip(f, "orders-0/00000000000000000060.txnindex", 17, 1);
    fixture_flip(f, "orders-0/00000000000000000060.snapshot", 20, 1);
    fixture_expect(f, FINDING_DAMAGE, FINDING_SNAPSHOT, "CRC");
    /* A sound file of another moment is as wrong as a damaged one. */
    bytes = producer_state_encode(&f->producers, &size);
    fixture_put(f, "orders-0/00000000000000000060.snapshot", bytes, size);
    free(bytes);
    fixture_expect(f, FINDING_DAMAGE, FINDING_SNAPSHOT, "producer 7: last sequence");
}

/* The cleaner leaves gaps below its checkpoint's offset, and nowhere else. */
static void gaps_are_legal_where_the_cleaner_was(void **state)
{
    struct folder_fixture *f = *state;
    char from[512], to[512];
    struct errmsg why;

    /* The first segment is gone but for its first six batches. */
    fixture_cut(f, FIXTURE_LOG_0, f->positions[6]);
    fixture_put(f, "orders-0/00000000000000000000.index", "", 0);
    fixture_put(f, "orders-0/00000000000000000000.timeindex",
                "\x00\x00\x01\x8b\xcf\xe5\x68\x11\x00\x00\x00\x11", 12);
    assert_int_equal(disk_rename(&f->t.env,
                                 fixture_path(f, from, "orders-0/00000000000000000060.snapshot"),
                                 fixture_path(f, to, "spare.tmp"), &why),
                     ERR_NONE);
    fixture_expect(f, FINDING_DAMAGE, FINDING_OFFSETS, "the one before ends at 18");
    fixture_put_text(f, "cleaner-offset-checkpoint", "0\n1\norders 0 60\n");
    fixture_expect_clean(f);
}

/* Small files must be what they would be if they were written anew, and agree with each other. */
static void small_files_are_checked(void **state)
{
    struct folder_fixture *f = *state;

    fixture_put_text(f, "recovery-point-offset-checkpoint", "0\n1\norders 0 119\n");
    fixture_expect(f, FINDING_DAMAGE, FINDING_CHECKPOINT, "recovery point 119");
    fixture_put_text(f, "recovery-point-offset-checkpoint", "0\n0\norders 0 120\n");
    fixture_expect(f, FINDING_DAMAGE, FINDING_CHECKPOINT, "does not belong");
    fixture_put_text(f, "recovery-point-offset-checkpoint", "0\n1\norderz 0 120\n");
    fixture_expect(f, FINDING_DAMAGE, FINDING_CHECKPOINT, "orderz-0 is not in this directory");
    fixture_directory_files(f);
    fixture_put_text(f, "log-start-offset-checkpoint", "0\n1\norders 0 5\n");
    fixture_expect(f, FINDING_DAMAGE, FINDING_EPOCH_CHECKPOINT, "first epoch begins at 0");
    fixture_directory_files(f);
    fixture_put_text(f, "orders-0/leader-epoch-checkpoint", "0\n2\n0 0\n2 61\n");
    fixture_expect(f, FINDING_DAMAGE, FINDING_EPOCHS, "found 2, leader-epoch-checkpoint says 0");
    fixture_directory_files(f);
    fixture_put_text(f, "orders-0/partition.metadata", "version: 0\ntopic_id: short");
    fixture_expect(f, FINDING_DAMAGE, FINDING_PARTITION_METADATA, "topic_id");
    fixture_directory_files(f);
    fixture_put_text(f, "meta.properties", "version=1\nnode.id=1\nnode.if=2\n");
    fixture_expect(f, FINDING_DAMAGE, FINDING_META_PROPERTIES, "node.if");
    fixture_directory_files(f);
    fixture_put_text(f, "orders-0/strange", "");
    fixture_expect(f, FINDING_NOTE, FINDING_STRAY, "nobody knows");
}

/* One topic has one id in all its partitions. */
static void two_ids_of_one_topic_are_found(void **state)
{
    struct folder_fixture *f = *state;
    struct errmsg why;
    char path[512];

    assert_int_equal(disk_mkdir(&f->t.env, fixture_path(f, path, "orders-1"), &why), ERR_NONE);
    fixture_put_text(f, "orders-1/partition.metadata",
                     "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ");
    fixture_expect(f, FINDING_DAMAGE, FINDING_PARTITION_METADATA, "partition 0 has " FIXTURE_TOPIC);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_whole_directory_is_clean),       TEST(a_flipped_record_bit_is_found),
        TEST(a_wrong_base_offset_is_found),     TEST(a_wrong_leader_epoch_is_found),
        TEST(a_negative_leader_epoch_is_found), TEST(the_walk_goes_on_behind_a_broken_frame),
        TEST(missing_ends_are_found),           TEST(zeros_behind_the_log_are_no_finding),
        TEST(a_torn_tail_is_no_damage),         TEST(indexes_are_held_to_the_log),
        TEST(derived_state_is_recomputed),      TEST(gaps_are_legal_where_the_cleaner_was),
        TEST(small_files_are_checked),          TEST(two_ids_of_one_topic_are_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
