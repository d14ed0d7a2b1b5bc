/* bench/crc32c_bench.c -- how fast a batch is checked on this machine.
 *
 *     crc32c_bench
 *
 * For each path of CRC-32C that the CPU has, and the dispatching function, gigabytes per second by
 * input size; then record_batch_validate() in nanoseconds per record, uncompressed and compressed.
 * Median of nine runs each, input in the cache.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "protocol/base/check.h"
#include "protocol/crc32c.h"
#include "protocol/record_batch.h"

#define RUNS      9
#define RUN_BYTES ((size_t)64 << 20)
#define NOW       INT64_C(1700000000000)

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, RUNS, sizeof *v, compare_doubles);
    return v[RUNS / 2];
}

static double crc_gigabytes_per_second(uint32_t (*fn)(uint32_t, const void *, size_t),
                                       const uint8_t *p, size_t size)
{
    double rates[RUNS];
    uint32_t crc = 0;

    for (int run = 0; run < RUNS; run++) {
        size_t rounds = RUN_BYTES / size / 4;
        double start = seconds();
        for (size_t i = 0; i < rounds; i++)
            crc = fn(crc, p, size);
        rates[run] = (double)(rounds * size) / (seconds() - start) / 1e9;
    }
    __asm__ volatile("" : : "r"(crc));
    return median(rates);
}

static void bench_crc(void)
{
    static const size_t sizes[] = {64, 128, 255, 256, 512, 1024, 4096, 16384, 65536, 1048576};
    uint8_t *p = malloc(sizes[ARRAY_COUNT(sizes) - 1]);

    CHECK(p != NULL);
    memset(p, 0x5a, sizes[ARRAY_COUNT(sizes) - 1]); /* pages of its own, not the zero page */
    printf("%-16s", "GB/s");
    for (size_t s = 0; s < ARRAY_COUNT(sizes); s++)
        printf("%9zu", sizes[s]);
    for (int i = -1; i < CRC32C_PATH_COUNT; i++) {
        const struct crc32c_path path =
            i < 0 ? (struct crc32c_path){"crc32c()", true, crc32c} : crc32c_path(i);
        printf("\n%-16s", path.name);
        for (size_t s = 0; s < ARRAY_COUNT(sizes) && path.supported; s++)
            printf("%9.2f", crc_gigabytes_per_second(path.fn, p, sizes[s]));
    }
    printf("\n\n");
    free(p);
}

static void bench_validate(int codec, int32_t value_bytes, struct decompressor *scratch)
{
    enum { COUNT = 1000 };
    struct record_batch_builder b;
    struct record_verdict v;
    struct iobuf *batch;
    double times[RUNS];
    uint8_t *value = malloc((size_t)value_bytes);
    const struct record_validation rules = {
        .produce_version = 12,
        .max_message_bytes = INT32_MAX,
        .now_unix_ms = NOW,
        .timestamp_before_max_ms = INT64_MAX,
        .timestamp_after_max_ms = INT64_MAX,
        .compression_type = RECORD_COMPRESSION_PRODUCER,
        .decompressed_bytes_max = SIZE_MAX,
        .scratch = scratch,
    };

    CHECK(value != NULL);
    record_batch_builder_init(&b, 0);
    b.codec = codec;
    for (int32_t i = 0; i < COUNT; i++) {
        for (int32_t k = 0; k < value_bytes; k++)
            value[k] = (uint8_t)("0123456789abcdef"[(i * 7 + k * k) & 15]);
        record_batch_builder_add(&b, NOW + i, BYTES_NULL, (struct bytes){value, value_bytes}, NULL,
                                 0);
    }
    CHECK(record_batch_builder_finish(&b, &batch) == ERR_NONE);
    record_batch_builder_deinit(&b);
    for (int run = 0; run < RUNS; run++) {
        double start = seconds();
        for (int i = 0; i < 50; i++)
            CHECK(record_batch_validate(batch->ptr, batch->len, &rules, &v) == ERR_NONE);
        times[run] = (seconds() - start) / 50 / COUNT * 1e9;
    }
    printf("%-8s %6" PRId32 " B values  %7.1f ns/record\n", compression_name(codec), value_bytes,
           median(times));
    iobuf_unref(batch);
    free(value);
}

int main(void)
{
    struct decompressor scratch;

    bench_crc();
    decompressor_init(&scratch);
    for (int codec = COMPRESSION_NONE; codec <= COMPRESSION_ZSTD; codec++) {
        bench_validate(codec, 100, &scratch);
        bench_validate(codec, 1000, &scratch);
    }
    decompressor_deinit(&scratch);
    return 0;
}
