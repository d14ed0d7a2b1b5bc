/* What repair plans and does, and that verify is content afterwards. */
#include "storage/repair.h"
#include "tests/unit/folder_fixture.h"

static void plan_all(struct folder_fixture *f, struct log_dir_facts *d, struct repair_plan *plan)
{
    const struct verify_options o = {.deep = false};
    struct partition_summary all[8];
    struct partition_facts facts;
    struct verify_report dir = {.v = NULL}, partition_report;
    char path[512], topic[250];
    bool contradicted = false;
    int32_t partition;

    *plan = (struct repair_plan){.v = NULL};
    log_dir_facts_read(d, &f->t.env, f->t.dir, &dir);
    for (size_t i = 0; i < d->folder_count; i++) {
        assert_true(partition_folder_parse(d->folders[i], topic, &partition));
        log_dir_facts_of(d, topic, partition, &facts);
        partition_report = (struct verify_report){.v = NULL};
        fixture_path(f, path, d->folders[i]);
        verify_partition(&f->t.env, path, &facts, &o, &partition_report, &all[i]);
        repair_plan_partition(plan, &f->t.env, path, &facts, &partition_report);
        for (size_t k = 0; k < partition_report.count; k++)
            contradicted = contradicted || partition_report.v[k].kind == FINDING_CHECKPOINT ||
                           partition_report.v[k].kind == FINDING_LOG_END;
        verify_report_deinit(&partition_report);
    }
    verify_together(d, 1, all, d->folder_count, &dir);
    repair_plan_dir(plan, d, &dir, contradicted);
    verify_report_deinit(&dir);
}

/* Plans, checks that `kind` is in the plan, does it, and verifies. */
static void repair(struct folder_fixture *f, enum repair_kind kind)
{
    struct errmsg why = {""};
    struct repair_plan plan;
    struct log_dir_facts d;
    bool found = false;

    plan_all(f, &d, &plan);
    for (size_t i = 0; i < plan.count; i++)
        found = found || plan.v[i].kind == kind;
    assert_true(found);
    if (repair_apply(&plan, &f->t.env, &d, 1, &why) != ERR_NONE)
        fail_msg("%s", why.text);
    repair_plan_deinit(&plan);
    log_dir_facts_deinit(&d);
}

/* A whole directory needs nothing. */
static void nothing_is_planned_for_a_whole_directory(void **state)
{
    struct repair_plan plan;
    struct log_dir_facts d;

    plan_all(*state, &d, &plan);
    assert_int_equal(plan.count, 0);
    repair_plan_deinit(&plan);
    log_dir_facts_deinit(&d);
}

/* Records that cannot be trusted are cut off with what follows, and nothing is thrown away. */
static void a_damaged_batch_is_cut(void **state)
{
    struct folder_fixture *f = *state;
    uint64_t size = fixture_size(f, FIXTURE_LOG_0);

    fixture_flip(f, FIXTURE_LOG_0, f->positions[4] + 70, 0x10);
    repair(f, REPAIR_CUT);
    fixture_expect_clean(f);
    assert_int_equal(fixture_size(f, FIXTURE_LOG_0), f->positions[4]);
    assert_int_equal(fixture_size(f, "orders-0/00000000000000000000.12.cut"),
                     size - f->positions[4]);
    assert_true(fixture_has(f, FIXTURE_LOG_60 ".cut"));
    assert_false(fixture_has(f, FIXTURE_LOG_60));
}

/* What lies outside the CRC is put back without losing a record. */
static void a_base_offset_is_patched(void **state)
{
    struct folder_fixture *f = *state;
    uint64_t size = fixture_size(f, FIXTURE_LOG_0);

    fixture_flip(f, FIXTURE_LOG_0, f->positions[5] + 6, 0x40);
    repair(f, REPAIR_PATCH_OFFSET);
    fixture_expect_clean(f);
    assert_int_equal(fixture_size(f, FIXTURE_LOG_0), size);
    assert_true(fixture_has(f, FIXTURE_LOG_60));
}

/* Epochs that go back show that a batch is wrong, not the checkpoint. */
static void a_leader_epoch_is_patched(void **state)
{
    struct folder_fixture *f = *state;

    fixture_flip(f, FIXTURE_LOG_0, f->positions[5] + 15, 0x01);
    repair(f, REPAIR_PATCH_EPOCH);
    fixture_expect_clean(f);
    assert_true(fixture_has(f, FIXTURE_LOG_60));
}

/* Hints are made anew. */
static void hints_are_rebuilt(void **state)
{
    struct folder_fixture *f = *state;

    fixture_flip(f, "orders-0/00000000000000000000.index", 3, 1);
    repair(f, REPAIR_REBUILD_INDEX);
    fixture_expect_clean(f);
    fixture_flip(f, "orders-0/00000000000000000060.txnindex", 17, 1);
    repair(f, REPAIR_REBUILD_INDEX);
    fixture_expect_clean(f);
    assert_true(fixture_has(f, "orders-0/00000000000000000060.txnindex"));
    fixture_flip(f, "orders-0/00000000000000000060.snapshot", 20, 1);
    repair(f, REPAIR_SET_ASIDE);
    fixture_expect_clean(f);
    fixture_put_text(f, "orders-0/leader-epoch-checkpoint", "0\n1\n3 0\n");
    repair(f, REPAIR_REBUILD_EPOCHS);
    fixture_expect_clean(f);
    fixture_put_text(f, "recovery-point-offset-checkpoint", "0\n1\nor");
    repair(f, REPAIR_REWRITE_CHECKPOINT);
    fixture_expect_clean(f);
}

/* Records that are gone stay gone; the checkpoints then say where the log ends. */
static void a_shortened_log_ends_where_it_ends(void **state)
{
    struct folder_fixture *f = *state;

    fixture_cut(f, FIXTURE_LOG_60, f->positions[40]);
    repair(f, REPAIR_REWRITE_CHECKPOINT);
    fixture_expect_clean(f);
}

/* An id that nothing else knows is not invented. */
static void a_lost_topic_id_is_not_invented(void **state)
{
    struct folder_fixture *f = *state;

    fixture_put_text(f, "orders-0/partition.metadata", "");
    repair(f, REPAIR_IMPOSSIBLE);
    fixture_expect(f, FINDING_DAMAGE, FINDING_PARTITION_METADATA, "version");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_planned_for_a_whole_directory),
        TEST(a_damaged_batch_is_cut),
        TEST(a_base_offset_is_patched),
        TEST(a_leader_epoch_is_patched),
        TEST(hints_are_rebuilt),
        TEST(a_shortened_log_ends_where_it_ends),
        TEST(a_lost_topic_id_is_not_invented),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
