/* Any bytes as one of the files of a log directory, beside others that are whole: verify, dump and
 * repair come to an end without harm, and what repair could do leaves nothing for verify to find.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/check.h"
#include "protocol/crc32c.h"
#include "protocol/record_batch.h"
#include "storage/dump.h"
#include "storage/repair.h"
#include "tests/support/test_env.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {
    "t-0/00000000000000000000.log",
    "t-0/00000000000000000000.index",
    "t-0/00000000000000000000.timeindex",
    "t-0/00000000000000000000.txnindex",
    "t-0/00000000000000000000.snapshot",
    "t-0/00000000000000000004.snapshot",
    "t-0/leader-epoch-checkpoint",
    "t-0/partition.metadata",
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "cleaner-offset-checkpoint",
    "meta.properties",
    ".kafka_cleanshutdown",
    "fluxmq-clean-state",
};
#define NAMES ARRAY_COUNT(names)

static void put(struct test_env *t, const char *name, const void *p, size_t size)
{
    struct errmsg why;
    struct file *f;
    char path[512];

    CHECK(file_open(&t->env, test_env_path(t, path, name), FILE_CREATE | FILE_TRUNCATE, &f, &why) ==
          ERR_NONE);
    if (size > 0)
        CHECK(file_write(f, 0, p, size, &why) == ERR_NONE);
    file_unref(f);
}

static void put_text(struct test_env *t, const char *name, const char *text)
{
    put(t, name, text, strlen(text));
}

/* Four records in two batches. */
static void put_whole_files(struct test_env *t, bool clean)
{
    struct record_batch_builder b;
    struct iobuf *one, *two;
    uint8_t log[512];

    record_batch_builder_init(&b, 0);
    for (int i = 0; i < 2; i++) {
        b.base_offset = i * 2;
        b.partition_leader_epoch = 0;
        b.producer_id = 5;
        b.producer_epoch = 0;
        b.base_sequence = i * 2;
        record_batch_builder_add(&b, 10 + i, BYTES_NULL, BYTES_NULL, NULL, 0);
        record_batch_builder_add(&b, 11 + i, BYTES_NULL, BYTES_NULL, NULL, 0);
        CHECK(record_batch_builder_finish(&b, i == 0 ? &one : &two) == ERR_NONE);
    }
    record_batch_builder_deinit(&b);
    CHECK(one->len + two->len <= sizeof log);
    memcpy(log, one->ptr, one->len);
    memcpy(log + one->len, two->ptr, two->len);
    put(t, names[0], log, one->len + two->len);
    iobuf_unref(one);
    iobuf_unref(two);
    put_text(t, "t-0/leader-epoch-checkpoint", "0\n1\n0 0\n");
    put_text(t, "t-0/partition.metadata", "version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw");
    put_text(t, "meta.properties",
             "version=1\ncluster.id=x\nnode.id=1\ndirectory.id=AAECAwQFBgcICQoLDA0ODw\n");
    put_text(t, "recovery-point-offset-checkpoint", "0\n1\nt 0 4\n");
    if (clean)
        put_text(t, ".kafka_cleanshutdown", "{\"version\":0,\"brokerEpoch\":1}");
}

/* Makes the CRCs of the batches right, so that mutations get beyond them. */
static void correct_crcs(uint8_t *p, size_t n)
{
    struct record_batch b;

    while (record_batch_frame(p, n, &b) == ERR_NONE) {
        store_be32(p + 17, crc32c(0, p + RECORD_BATCH_CRC_START,
                                  (size_t)b.size_bytes - RECORD_BATCH_CRC_START));
        p += b.size_bytes;
        n -= (size_t)b.size_bytes;
    }
}

/* Verifies, and plans if there is a plan to fill. */
static uint64_t look(struct test_env *t, struct log_dir_facts *d, struct repair_plan *plan)
{
    const struct verify_options o = {.deep = true};
    struct verify_report dir = {.v = NULL}, partition = {.v = NULL};
    struct partition_facts facts;
    struct partition_summary all;
    bool contradicted = false;
    char path[512];

    log_dir_facts_read(d, &t->env, t->dir, &dir);
    log_dir_facts_of(d, "t", 0, &facts);
    test_env_path(t, path, "t-0");
    verify_partition(&t->env, path, &facts, &o, &partition, &all);
    if (plan != NULL)
        repair_plan_partition(plan, &t->env, path, &facts, &partition);
    for (size_t i = 0; i < partition.count; i++)
        contradicted = contradicted || partition.v[i].kind == FINDING_CHECKPOINT ||
                       partition.v[i].kind == FINDING_LOG_END;
    verify_together(d, 1, &all, 1, &dir);
    if (plan != NULL)
        repair_plan_dir(plan, d, &dir, contradicted);
    verify_report_merge(&dir, &partition);

    uint64_t damages = dir.weights[FINDING_DAMAGE];

    if (plan == NULL && damages > 0 && getenv("VERIFY_FUZZ_TRACE") != NULL) {
        for (size_t i = 0; i < dir.count; i++)
            fprintf(stderr, "%s: %s\n", dir.v[i].path, dir.v[i].text);
    }
    verify_report_deinit(&dir);
    return damages;
}

static void dump(struct test_env *t, const char *name, FILE *null)
{
    const struct dump_options o = {.print_data = true, .bytes_max = INT32_MAX};
    struct dump_complaints *c = dump_complaints_new();
    char path[512];

    (void)!dump_file(&t->env, test_env_path(t, path, name), &o, c, null, null);
    dump_complaints_print(c, null);
    dump_complaints_free(c);
}

/* First byte: which file; second: bit 0 a clean stop, bit 1 correct the CRCs of a log. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct repair_plan plan = {.v = NULL};
    struct log_dir_facts d;
    struct errmsg why = {""};
    struct test_env t;
    char path[512];

    if (size < 2 || size > 65536)
        return 0;

    const char *name = names[data[0] % NAMES];
    uint8_t *bytes = xmalloc(size);
    FILE *null = fopen("/dev/null", "w");

    CHECK(null != NULL);
    memcpy(bytes, data + 2, size - 2);
    if ((data[1] & 2) != 0 && name == names[0])
        correct_crcs(bytes, size - 2);
    test_env_init(&t);
    CHECK(disk_mkdir(&t.env, test_env_path(&t, path, "t-0"), &why) == ERR_NONE);
    put_whole_files(&t, (data[1] & 1) != 0);
    put(&t, name, bytes, size - 2);

    dump(&t, name, null);

    uint64_t damages = look(&t, &d, &plan);

    CHECK(damages > 0 || plan.count == 0);
    if (plan.count > plan.impossible) {
        CHECK(repair_apply(&plan, &t.env, &d, 1, &why) == ERR_NONE);
        log_dir_facts_deinit(&d);
        damages = look(&t, &d, NULL);
        CHECK(damages == 0 || plan.impossible > 0);
    }
    log_dir_facts_deinit(&d);
    repair_plan_deinit(&plan);
    test_env_deinit(&t);
    free(bytes);
    fclose(null);
    return 0;
}
