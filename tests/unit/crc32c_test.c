/* Every way to compute CRC-32C gives the value that Kafka's clients compute. */
#include "protocol/crc32c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* The definition, a bit at a time. */
static uint32_t crc_bitwise(uint32_t crc, const uint8_t *p, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* RFC 3720 B.4, and the catalogue's check value. */
static void known_vectors(void **state)
{
    uint8_t b[32];
    (void)state;

    for (int i = 0; i < CRC32C_PATH_COUNT; i++) {
        struct crc32c_path path = crc32c_path(i);
        if (!path.supported)
            continue;
        memset(b, 0, sizeof b);
        assert_int_equal(path.fn(0, b, sizeof b), 0x8a9136aa);
        memset(b, 0xff, sizeof b);
        assert_int_equal(path.fn(0, b, sizeof b), 0x62a8ab43);
        for (size_t k = 0; k < sizeof b; k++)
            b[k] = (uint8_t)k;
        assert_int_equal(path.fn(0, b, sizeof b), 0x46dd794e);
        assert_int_equal(path.fn(0, "123456789", 9), 0xe3069283);
        assert_int_equal(path.fn(0, "", 0), 0);
    }
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
}

/* Each path equals the plain one for every length and alignment, from any seed. */
static void paths_agree(void **state)
{
    enum { LENGTH_MAX = 2100, ALIGNMENTS = 64 };
    uint64_t random = 88172645463325252u;
    uint8_t *b = malloc(LENGTH_MAX + ALIGNMENTS);
    (void)state;

    for (size_t i = 0; i < LENGTH_MAX + ALIGNMENTS; i++)
        b[i] = (uint8_t)next_random(&random);
    const struct crc32c_path scalar = crc32c_path(CRC32C_PATH_COUNT - 1);

    for (size_t at = 0; at < ALIGNMENTS; at++) {
        for (size_t n = 0; n <= LENGTH_MAX; n++) {
            uint32_t seed = (uint32_t)next_random(&random);
            uint32_t want = scalar.fn(seed, b + at, n);
            if ((at == 0 || n < 40) && want != crc_bitwise(seed, b + at, n))
                fail_msg("slice-by-8 is wrong at length %zu, alignment %zu", n, at);
            for (int i = 0; i < CRC32C_PATH_COUNT - 1; i++) {
                struct crc32c_path path = crc32c_path(i);
                if (path.supported && path.fn(seed, b + at, n) != want)
                    fail_msg("%s is wrong at length %zu, alignment %zu", path.name, n, at);
            }
            if (crc32c(seed, b + at, n) != want)
                fail_msg("dispatch is wrong at length %zu, alignment %zu", n, at);
        }
    }
    free(b);
}

/* The long strides (three lanes of 4 KB) agree too, and a CRC may be computed piece by piece. */
static void long_inputs_agree_and_continue(void **state)
{
    enum { TOTAL = 100003 };
    uint64_t random = 1181783497276652981u;
    uint8_t *b = malloc(TOTAL);
    (void)state;

    for (size_t i = 0; i < TOTAL; i++)
        b[i] = (uint8_t)next_random(&random);
    uint32_t want = crc_bitwise(0, b, TOTAL);
    for (int i = 0; i < CRC32C_PATH_COUNT; i++) {
        struct crc32c_path path = crc32c_path(i);
        if (!path.supported)
            continue;
        assert_int_equal(path.fn(0, b, TOTAL), want);
        for (int round = 0; round < 20; round++) {
            size_t cut = next_random(&random) % TOTAL;
            assert_int_equal(path.fn(path.fn(0, b, cut), b + cut, TOTAL - cut), want);
        }
    }
    free(b);
}

/* A report, so that a log of the tests says which paths this machine could try. */
static void at_least_one_path_is_supported(void **state)
{
    (void)state;
    for (int i = 0; i < CRC32C_PATH_COUNT; i++) {
        struct crc32c_path path = crc32c_path(i);
        print_message("%-16s %s\n", path.name, path.supported ? "tested" : "not on this CPU");
    }
    assert_true(crc32c_path(CRC32C_PATH_COUNT - 1).supported);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_vectors),
        cmocka_unit_test(paths_agree),
        cmocka_unit_test(long_inputs_agree_and_continue),
        cmocka_unit_test(at_least_one_path_is_supported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
