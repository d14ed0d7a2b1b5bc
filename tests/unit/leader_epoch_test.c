/* Leader epochs and the small text files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/leader_epoch.h"

static void expect_end(const struct leader_epochs *e, int32_t asked, int32_t epoch, int64_t end)
{
    int32_t found_epoch;
    int64_t found_end;

    leader_epochs_end_offset(e, asked, 100, &found_epoch, &found_end);
    assert_int_equal(found_epoch, epoch);
    assert_int_equal(found_end, end);
}

/* OffsetForLeaderEpoch (KIP-101, KIP-279): the greatest known epoch at or below, and its end. */
static void epochs_end_where_the_next_begins(void **state)
{
    struct leader_epochs e = {.count = 0};

    (void)state;
    expect_end(&e, 3, -1, -1);
    leader_epochs_assign(&e, 2, 10);
    leader_epochs_assign(&e, 5, 40);
    leader_epochs_assign(&e, 5, 60); /* the same epoch again: nothing new */
    expect_end(&e, 1, 1, 10);
    expect_end(&e, 2, 2, 40);
    expect_end(&e, 4, 2, 40);
    expect_end(&e, 5, 5, 100);
    expect_end(&e, 6, -1, -1);
    assert_int_equal(leader_epochs_at(&e, 9), -1);
    assert_int_equal(leader_epochs_at(&e, 39), 2);
    assert_int_equal(leader_epochs_at(&e, 40), 5);
    leader_epochs_deinit(&e);
}

/* What contradicts a new epoch goes. */
static void contradictions_are_dropped(void **state)
{
    struct leader_epochs e = {.count = 0};

    (void)state;
    leader_epochs_assign(&e, 1, 0);
    leader_epochs_assign(&e, 2, 10);
    leader_epochs_assign(&e, 3, 20);
    leader_epochs_assign(&e, 4, 10);
    assert_int_equal(e.count, 2);
    assert_int_equal(leader_epochs_at(&e, 15), 4);
    leader_epochs_deinit(&e);
}

static void truncation_follows_the_log(void **state)
{
    struct leader_epochs e = {.count = 0};

    (void)state;
    for (int i = 0; i < 5; i++)
        leader_epochs_assign(&e, i, i * 10);
    leader_epochs_truncate_end(&e, 30);
    assert_int_equal(leader_epochs_latest(&e), 2);
    leader_epochs_truncate_start(&e, 15);
    assert_int_equal(e.count, 2);
    assert_int_equal(e.v[0].epoch, 1);
    assert_int_equal(e.v[0].start_offset, 15);
    leader_epochs_truncate_start(&e, 5); /* before everything: no change */
    assert_int_equal(e.v[0].start_offset, 15);
    leader_epochs_deinit(&e);
}

static enum err parse(const char *text, struct leader_epochs *e)
{
    struct errmsg why;

    return leader_epochs_parse((const uint8_t *)text, strlen(text), e, &why);
}

static void file_is_kafkas(void **state)
{
    static const char *const bad[] = {"",
                                      "1\n0\n",
                                      "0\n-1\n",
                                      "0\n2\n1 0\n",
                                      "0\n2\n1 0\n1 5\n",
                                      "0\n1\n1 x\n",
                                      "0\n1\n1\n",
                                      "0\n1\n1 2 3\n",
                                      "0\n2\n2 5\n3 4\n"};
    struct leader_epochs e;
    struct text t = {.ptr = NULL};

    (void)state;
    assert_int_equal(parse("0\n2\n1 0\n3 20\n", &e), ERR_NONE);
    assert_int_equal(e.count, 2);
    leader_epochs_format(&e, &t);
    assert_string_equal(t.ptr, "0\n2\n1 0\n3 20\n");
    text_deinit(&t);
    leader_epochs_deinit(&e);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_int_equal(parse(bad[i], &e), ERR_MALFORMED);
        leader_epochs_deinit(&e);
    }
}

static void meta_properties_are_kafkas(void **state)
{
    const char *text = "#\n#Tue Nov 24\ncluster.id=abc\r\nnode.id = 7\nversion=1\n"
                       "directory.id=AAAAAAAAAAAAAAAAAAAAAQ\n";
    struct meta_properties m;
    struct errmsg why;
    struct text t = {.ptr = NULL};

    (void)state;
    assert_int_equal(meta_properties_parse((const uint8_t *)text, strlen(text), &m, &why),
                     ERR_NONE);
    assert_string_equal(m.cluster_id, "abc");
    assert_int_equal(m.node_id, 7);
    assert_int_equal(m.directory_id.b[15], 1);
    meta_properties_format(&t, &m);
    assert_non_null(strstr(t.ptr, "version=1\ncluster.id=abc\nnode.id=7\ndirectory.id=AAAAAAAA"));
    text_deinit(&t);
    assert_int_equal(meta_properties_parse((const uint8_t *)"node.id=x\n", 10, &m, &why),
                     ERR_MALFORMED);
    text = "version=1\nfluxmq.raft.files=tru?\n"; /* a mark that cannot be read is none that is
                                                     absent */
    assert_int_equal(meta_properties_parse((const uint8_t *)text, strlen(text), &m, &why),
                     ERR_MALFORMED);
    assert_int_equal(meta_properties_parse((const uint8_t *)"version=9\n", 10, &m, &why),
                     ERR_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(epochs_end_where_the_next_begins),
        cmocka_unit_test(contradictions_are_dropped),
        cmocka_unit_test(truncation_follows_the_log),
        cmocka_unit_test(file_is_kafkas),
        cmocka_unit_test(meta_properties_are_kafkas),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
