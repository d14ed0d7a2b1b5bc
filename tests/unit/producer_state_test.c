/* Producers: sequences, epochs, transactions, expiry, snapshots (P5). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/crc32c.h"
#include "storage/producer_state.h"

#define DAY 86400000

static struct record_batch data(int64_t id, int16_t epoch, int32_t sequence, int32_t records,
                                int64_t offset, int64_t timestamp)
{
    return (struct record_batch){.base_offset = offset,
                                 .last_offset_delta = records - 1,
                                 .max_timestamp = timestamp,
                                 .producer_id = id,
                                 .producer_epoch = epoch,
                                 .base_sequence = sequence,
                                 .record_count = records};
}

static enum err check(struct producer_state *s, struct record_batch b, struct producer_verdict *v)
{
    struct producer_verdict ignored;

    return producer_state_check(s, &b, APPEND_CLIENT, DAY, v != NULL ? v : &ignored);
}

static void put(struct producer_state *s, struct record_batch b)
{
    struct completed_transaction ended;

    assert_int_equal(check(s, b, NULL), ERR_NONE);
    assert_false(producer_state_update(s, &b, DAY, &ended));
}

static int setup(void **state)
{
    struct producer_state *s = xcalloc(1, sizeof *s);

    producer_state_init(s, 1);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    producer_state_deinit(*state);
    free(*state);
    return 0;
}

/* Sequences go from 2^31-1 to 0, also inside a batch. */
static void sequences_wrap(void **state)
{
    struct producer_state *s = *state;
    struct producer_verdict v;

    put(s, data(1, 0, INT32_MAX - 3, 2, 0, 1000));
    put(s, data(1, 0, INT32_MAX - 1, 4, 2, 1000)); /* ends with sequence 1 */
    assert_int_equal(check(s, data(1, 0, 3, 1, 6, 1000), NULL), ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    put(s, data(1, 0, 2, 1, 6, 1000));
    assert_int_equal(check(s, data(1, 0, INT32_MAX - 1, 4, 7, 1000), &v), ERR_NONE);
    assert_true(v.duplicate);
    assert_int_equal(v.base_offset, 2);
}

/* KIP-360: a new epoch begins at sequence 0; an old one is fenced. */
static void epochs_fence(void **state)
{
    struct producer_state *s = *state;

    put(s, data(1, 5, 0, 1, 0, 1000));
    assert_int_equal(check(s, data(1, 6, 1, 1, 1, 1000), NULL), ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    put(s, data(1, 6, 0, 1, 1, 1000));
    assert_int_equal(check(s, data(1, 5, 1, 1, 2, 1000), NULL), ERR_INVALID_PRODUCER_EPOCH);
    /* The same sequence of another epoch is no duplicate. */
    struct producer_verdict v;

    assert_int_equal(check(s, data(1, 5, 0, 1, 2, 1000), &v), ERR_INVALID_PRODUCER_EPOCH);
    assert_false(v.duplicate);
}

/* One of whom nothing is known may begin anywhere, as in Kafka. */
static void unknown_producer_may_begin_anywhere(void **state)
{
    put(*state, data(1, 3, 4711, 1, 0, 1000));
}

/* Expiry goes by log time, and old timestamps do not age a producer that writes now. */
static void expiry_goes_by_log_time(void **state)
{
    struct producer_state *s = *state;
    struct producer_verdict v;

    put(s, data(1, 0, 0, 1, 0, 1000));
    put(s, data(2, 0, 0, 1, 1, 1000 + DAY - 1));
    assert_int_equal(check(s, data(1, 0, 0, 1, 2, 1000), &v), ERR_NONE);
    assert_true(v.duplicate);
    put(s, data(2, 0, 1, 1, 2, 1000 + DAY));
    assert_int_equal(check(s, data(1, 0, 0, 1, 3, 1000), &v), ERR_NONE);
    assert_false(v.duplicate); /* forgotten */
    producer_state_expire(s, DAY);
    assert_int_equal(producer_state_count(s), 1);
    put(s, data(3, 0, 0, 1, 3, 5)); /* a back-fill */
    assert_int_equal(check(s, data(3, 0, 0, 1, 4, 5), &v), ERR_NONE);
    assert_true(v.duplicate);
}

/* A transactional producer must not write outside its open transaction. */
static void open_transaction_is_exclusive(void **state)
{
    struct producer_state *s = *state;
    struct record_batch b = data(1, 0, 0, 1, 7, 1000);

    b.attributes = RECORD_BATCH_TRANSACTIONAL;
    put(s, b);
    assert_int_equal(producer_state_first_open(s), 7);
    assert_int_equal(check(s, data(1, 0, 1, 1, 8, 1000), NULL), ERR_INVALID_TXN_STATE);
}

/* A snapshot gives back every batch; cut or changed anywhere it gives back nothing. */
static void snapshots_come_back_whole(void **state)
{
    struct producer_state *s = *state, t;
    struct errmsg why;
    size_t size, again_size;

    for (int id = 1; id <= 3; id++) {
        for (int i = 0; i < id * 3; i++)
            put(s, data(id, 2, i * 2, 2, id * 100 + i * 2, 1000 + i));
    }

    uint8_t *p = producer_state_encode(s, &size);

    producer_state_init(&t, 2);
    assert_int_equal(producer_state_decode(&t, p, size, &why), ERR_NONE);

    uint8_t *again = producer_state_encode(&t, &again_size);

    assert_int_equal(size, again_size);
    assert_memory_equal(p, again, size);
    for (size_t n = 0; n < size; n++) {
        assert_int_equal(producer_state_decode(&t, p, n, &why), ERR_CORRUPT);
        p[n] ^= 1;
        assert_int_equal(producer_state_decode(&t, p, size, &why), ERR_CORRUPT);
        assert_int_equal(producer_state_count(&t), 0);
        p[n] ^= 1;
    }
    /* Without our part it is Kafka's file: one batch for each producer. */
    size_t kafka = 10 + 3 * 46;

    store_be32(p + 2, crc32c(0, p + 6, kafka - 6));
    assert_int_equal(producer_state_decode(&t, p, kafka, &why), ERR_NONE);
    assert_int_equal(producer_state_count(&t), 3);
    producer_state_deinit(&t);
    free(p);
    free(again);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(sequences_wrap),
        TEST(epochs_fence),
        TEST(unknown_producer_may_begin_anywhere),
        TEST(expiry_goes_by_log_time),
        TEST(open_transaction_is_exclusive),
        TEST(snapshots_come_back_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
