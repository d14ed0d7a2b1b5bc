/* Placement: distinct brokers, distinct racks, live leaders, even spread, and always the same. */
#include "meta_fixture.h"

#include "raft-meta/placement.h"

#define PARTITIONS 360

/* `racks`: one letter a broker, '-' for none; upper case: fenced. */
static struct image *brokers(const char *racks)
{
    struct image *i = image_new();

    for (int32_t n = 0; racks[n] != 0; n++) {
        bool fenced = racks[n] >= 'A' && racks[n] <= 'Z';
        char rack = (char)(fenced ? racks[n] + 32 : racks[n]);

        image_put_broker(
            i, &(struct broker_image){.id = n,
                                      .rack = rack == '-' ? STR_NULL : (struct str){&rack, 1},
                                      .fenced = fenced});
    }
    return i;
}

static void place(const struct image *i, int32_t factor, int32_t *out)
{
    struct errmsg why;

    assert_int_equal(placement_place(i, 42, 0, PARTITIONS, factor, out, &why), ERR_NONE);
}

static void check_distinct(const int32_t *v, int32_t factor)
{
    for (int32_t a = 0; a < factor; a++) {
        for (int32_t b = 0; b < a; b++)
            assert_int_not_equal(v[a], v[b]);
    }
}

static void spread_is_even(void **state)
{
    static const char *const clusters[] = {"---", "-----", "aabbcc", "aaabbbccc", "abcdef"};

    (void)state;
    for (size_t c = 0; c < ARRAY_COUNT(clusters); c++) {
        struct image *i = brokers(clusters[c]);
        int32_t *v = xcalloc(PARTITIONS * 3, sizeof *v), leaders[16] = {0}, replicas[16] = {0};
        int32_t nodes = (int32_t)strlen(clusters[c]);

        place(i, 3, v);
        for (int p = 0; p < PARTITIONS; p++) {
            check_distinct(v + p * 3, 3);
            leaders[v[p * 3]]++;
            for (int r = 0; r < 3; r++)
                replicas[v[p * 3 + r]]++;
        }
        for (int32_t n = 0; n < nodes; n++) {
            assert_in_range(leaders[n], PARTITIONS / nodes - 1, PARTITIONS / nodes + 1);
            assert_in_range(replicas[n], 3 * PARTITIONS / nodes - PARTITIONS / 20,
                            3 * PARTITIONS / nodes + PARTITIONS / 20);
        }
        free(v);
        image_unref(i);
    }
}

/* As long as there are racks left, no two replicas share one. */
static void racks_are_used(void **state)
{
    struct image *i = brokers("aaabbbc");
    int32_t v[PARTITIONS * 3];

    (void)state;
    place(i, 3, v);
    for (int p = 0; p < PARTITIONS; p++) {
        bool seen[3] = {false};

        for (int r = 0; r < 3; r++) {
            int rack = v[p * 3 + r] < 3 ? 0 : v[p * 3 + r] < 6 ? 1 : 2;

            assert_false(seen[rack]);
            seen[rack] = true;
        }
    }
    image_unref(i);
}

/* A fenced broker never leads, and has a replica only where nobody else is left. */
static void fenced_brokers_come_last(void **state)
{
    struct image *i = brokers("---E"), *few = brokers("-EE");
    int32_t v[PARTITIONS * 3];

    (void)state;
    place(i, 3, v);
    image_unref(i);
    i = brokers("aAaa"); /* one rack: broker 1 is fenced */
    place(i, 3, v);
    for (int k = 0; k < PARTITIONS * 3; k++)
        assert_int_not_equal(v[k], 1);
    place(few, 3, v);
    for (int p = 0; p < PARTITIONS; p++)
        assert_int_equal(v[p * 3], 0);
    image_unref(i);
    image_unref(few);
}

/* When a broker dies its leaders go to more than one other. */
static void followers_of_a_leader_vary(void **state)
{
    struct image *i = brokers("-----");
    int32_t v[PARTITIONS * 2], second[5] = {0};

    (void)state;
    place(i, 2, v);
    for (int p = 0; p < PARTITIONS; p++) {
        if (v[p * 2] == 0)
            second[v[p * 2 + 1]]++;
    }
    for (int n = 1; n < 5; n++)
        assert_in_range(second[n], 15, 21);
    image_unref(i);
}

static void same_seed_same_placement(void **state)
{
    struct image *i = brokers("aabbcc");
    int32_t a[60], b[60], c[60];
    struct errmsg why;

    (void)state;
    assert_int_equal(placement_place(i, 1, 5, 20, 3, a, &why), ERR_NONE);
    assert_int_equal(placement_place(i, 1, 5, 20, 3, b, &why), ERR_NONE);
    assert_int_equal(placement_place(i, 2, 5, 20, 3, c, &why), ERR_NONE);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    /* Growing a topic goes on where its creation ended. */
    assert_int_equal(placement_place(i, 1, 0, 20, 3, b, &why), ERR_NONE);
    assert_memory_equal(a, b + 15, 15 * sizeof *a);
    image_unref(i);
}

static void impossible_is_refused(void **state)
{
    struct image *i = brokers("--"), *fenced = brokers("EE"), *none = brokers("");
    int32_t v[8];
    struct errmsg why;

    (void)state;
    assert_int_equal(placement_place(i, 1, 0, 1, 3, v, &why), ERR_INVALID_REPLICATION_FACTOR);
    assert_int_equal(placement_place(i, 1, 0, 1, 0, v, &why), ERR_INVALID_REPLICATION_FACTOR);
    assert_int_equal(placement_place(fenced, 1, 0, 1, 1, v, &why), ERR_INVALID_REPLICATION_FACTOR);
    assert_int_equal(placement_place(none, 1, 0, 1, 1, v, &why), ERR_INVALID_REPLICATION_FACTOR);
    image_unref(i);
    image_unref(fenced);
    image_unref(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spread_is_even),           cmocka_unit_test(racks_are_used),
        cmocka_unit_test(fenced_brokers_come_last), cmocka_unit_test(followers_of_a_leader_vary),
        cmocka_unit_test(same_seed_same_placement), cmocka_unit_test(impossible_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
