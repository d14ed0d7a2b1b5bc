/* tests/unit/folder_fixture.h -- a small log directory, written file by file, to be looked at
 * offline.
 *
 * DIR/orders-0: two segments of 20 batches with 3 records each (offsets 0 to 59 and 60 to 119), one
 * idempotent producer and one that aborts a transaction at 114 to 117, leader epochs 0 and 2 (from
 * 60), snapshots at 60 and 120, and the directory's own files, stopped cleanly.
 */
#ifndef FLUXMQ_TESTS_FOLDER_FIXTURE_H
#define FLUXMQ_TESTS_FOLDER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage/leader_epoch.h"
#include "storage/producer_state.h"
#include "storage/segment.h"
#include "storage/txn_index.h"
#include "storage/verify.h"
#include "tests/support/test_env.h"

#define FIXTURE_TIME   INT64_C(1700000000000)
#define FIXTURE_ROLL   60
#define FIXTURE_END    120
#define FIXTURE_LOG_0  "orders-0/00000000000000000000.log"
#define FIXTURE_LOG_60 "orders-0/00000000000000000060.log"
#define FIXTURE_DIR_ID "AAECAwQFBgcICQoLDA0ODw"
#define FIXTURE_TOPIC  "EBESExQVFhcYGRobHB0eHw"

struct folder_fixture {
    struct test_env t;
    struct producer_state producers;
    struct segment *segment; /* for its indexes; writes no log */
    struct file *log;
    uint64_t positions[64]; /* of the batches, counted over both segments */
    int batch_count;
};

static inline const char *fixture_path(struct folder_fixture *f, char out[512], const char *name)
{
    return test_env_path(&f->t, out, name);
}

static inline void fixture_put(struct folder_fixture *f, const char *name, const void *p,
                               size_t size)
{
    struct errmsg why = {""};
    char path[512];

    if (file_replace(&f->t.env, fixture_path(f, path, name), p, size, &why) != ERR_NONE)
        fail_msg("%s", why.text);
}

static inline void fixture_put_text(struct folder_fixture *f, const char *name, const char *text)
{
    fixture_put(f, name, text, strlen(text));
}

/* Changes one byte of a file. */
static inline void fixture_flip(struct folder_fixture *f, const char *name, uint64_t at,
                                uint8_t mask)
{
    struct errmsg why = {""};
    struct file *file;
    char path[512];
    uint8_t byte;
    size_t n;

    assert_int_equal(file_open(&f->t.env, fixture_path(f, path, name), 0, &file, &why), ERR_NONE);
    assert_int_equal(file_read(file, at, &byte, 1, &n), ERR_NONE);
    assert_int_equal(n, 1);
    byte ^= mask;
    assert_int_equal(file_write(file, at, &byte, 1, &why), ERR_NONE);
    file_unref(file);
}

static inline void fixture_cut(struct folder_fixture *f, const char *name, uint64_t size)
{
    struct errmsg why = {""};
    struct file *file;
    char path[512];

    assert_int_equal(file_open(&f->t.env, fixture_path(f, path, name), 0, &file, &why), ERR_NONE);
    assert_int_equal(file_truncate(file, size, &why), ERR_NONE);
    file_unref(file);
}

static inline uint64_t fixture_size(struct folder_fixture *f, const char *name)
{
    struct errmsg why = {""};
    struct file *file;
    char path[512];

    assert_int_equal(file_open(&f->t.env, fixture_path(f, path, name), FILE_READ_ONLY, &file, &why),
                     ERR_NONE);

    uint64_t size = file_size(file);

    file_unref(file);
    return size;
}

static inline bool fixture_has(struct folder_fixture *f, const char *name)
{
    struct errmsg why = {""};
    struct file *file;
    char path[512];

    if (file_open(&f->t.env, fixture_path(f, path, name), FILE_READ_ONLY, &file, &why) != ERR_NONE)
        return false;
    file_unref(file);
    return true;
}

static inline void fixture_append(struct folder_fixture *f, struct record_batch_builder *b)
{
    struct completed_transaction ended;
    struct record_batch batch;
    struct errmsg why = {""};
    struct iobuf *bytes;

    assert_int_equal(record_batch_builder_finish(b, &bytes), ERR_NONE);
    assert_int_equal(record_batch_parse(bytes->ptr, bytes->len, &batch), ERR_NONE);
    f->positions[f->batch_count++] = f->segment->size_bytes;
    assert_int_equal(file_write(f->log, f->segment->size_bytes, bytes->ptr, bytes->len, &why),
                     ERR_NONE);
    segment_account(f->segment, &batch, 300);
    if (producer_state_update(&f->producers, &batch, INT64_MAX, &ended) && ended.aborted) {
        f->segment->aborted = xcalloc(1, sizeof *f->segment->aborted);
        txn_index_append(f->segment->aborted, &ended);
    }
    iobuf_unref(bytes);
}

static inline void fixture_batch(struct folder_fixture *f, int64_t offset, int records,
                                 int64_t producer, int32_t sequence, bool transactional)
{
    struct record_batch_builder b;

    record_batch_builder_init(&b, offset);
    b.partition_leader_epoch = offset < FIXTURE_ROLL ? 0 : 2;
    b.producer_id = producer;
    b.producer_epoch = 0;
    b.base_sequence = sequence;
    b.attributes = transactional ? RECORD_BATCH_TRANSACTIONAL : 0;
    for (int i = 0; i < records; i++) {
        char value[32];
        int n = snprintf(value, sizeof value, "record %lld", (long long)offset + i);

        record_batch_builder_add(&b, FIXTURE_TIME + offset + i,
                                 (struct bytes){(const uint8_t *)"k", 1},
                                 (struct bytes){(const uint8_t *)value, n}, NULL, 0);
    }
    fixture_append(f, &b);
    record_batch_builder_deinit(&b);
}

static inline void fixture_abort(struct folder_fixture *f, int64_t offset, int64_t producer)
{
    static const uint8_t key[] = {0, 0, 0, 0}, value[] = {0, 0, 0, 0, 0, 5};
    struct record_batch_builder b;

    record_batch_builder_init(&b, offset);
    b.partition_leader_epoch = 2;
    b.producer_id = producer;
    b.producer_epoch = 0;
    b.attributes = RECORD_BATCH_TRANSACTIONAL | RECORD_BATCH_CONTROL;
    record_batch_builder_add(&b, FIXTURE_TIME + offset, (struct bytes){key, sizeof key},
                             (struct bytes){value, sizeof value}, NULL, 0);
    fixture_append(f, &b);
    record_batch_builder_deinit(&b);
}

static inline void fixture_begin_segment(struct folder_fixture *f, int64_t base)
{
    struct errmsg why = {""};
    char name[64], file[SEGMENT_NAME_SIZE], path[512];

    segment_file_name(base, ".log", file);
    (void)snprintf(name, sizeof name, "orders-0/%s", file);
    f->segment = segment_new(&f->t.env, base);
    assert_int_equal(file_open(&f->t.env, fixture_path(f, path, name), FILE_CREATE, &f->log, &why),
                     ERR_NONE);
}

static inline void fixture_store(struct folder_fixture *f, struct index *x, const char *suffix)
{
    struct errmsg why = {""};
    char name[64], file[SEGMENT_NAME_SIZE], path[512];
    struct index_view v;
    struct file *stored;

    segment_file_name(x->base_offset, suffix, file);
    (void)snprintf(name, sizeof name, "orders-0/%s", file);
    index_view_take(x, &v);
    assert_int_equal(index_store(&v, &f->t.env, fixture_path(f, path, name), &stored, &why),
                     ERR_NONE);
    file_unref(stored);
    index_view_drop(&v);
}

static inline void fixture_end_segment(struct folder_fixture *f, int64_t end)
{
    char name[64], file[SEGMENT_NAME_SIZE];
    uint8_t *bytes;
    size_t size;

    segment_seal(f->segment);
    fixture_store(f, &f->segment->offsets, ".index");
    fixture_store(f, &f->segment->times, ".timeindex");
    if (f->segment->aborted != NULL) {
        segment_file_name(f->segment->base_offset, ".txnindex", file);
        (void)snprintf(name, sizeof name, "orders-0/%s", file);
        bytes = txn_index_encode(f->segment->aborted, 0, &size);
        fixture_put(f, name, bytes, size);
        free(bytes);
    }
    segment_file_name(end, ".snapshot", file);
    (void)snprintf(name, sizeof name, "orders-0/%s", file);
    bytes = producer_state_encode(&f->producers, &size);
    fixture_put(f, name, bytes, size);
    free(bytes);
    segment_unref(f->segment);
    file_unref(f->log);
}

static inline void fixture_directory_files(struct folder_fixture *f)
{
    fixture_put_text(f, "orders-0/partition.metadata", "version: 0\ntopic_id: " FIXTURE_TOPIC);
    fixture_put_text(f, "orders-0/leader-epoch-checkpoint", "0\n2\n0 0\n2 60\n");
    fixture_put_text(f, "meta.properties",
                     "#\nversion=1\ncluster.id=clusterAAAAAAAAAAAAAAA\nnode.id=1\n"
                     "directory.id=" FIXTURE_DIR_ID "\n");
    fixture_put_text(f, "recovery-point-offset-checkpoint", "0\n1\norders 0 120\n");
    fixture_put_text(f, "replication-offset-checkpoint", "0\n1\norders 0 120\n");
    fixture_put_text(f, "log-start-offset-checkpoint", "0\n0\n");
    fixture_put_text(f, ".kafka_cleanshutdown", "{\"version\":0,\"brokerEpoch\":7}");
}

static inline void fixture_init(struct folder_fixture *f)
{
    struct errmsg why = {""};
    char path[512];
    int64_t offset = 0;

    *f = (struct folder_fixture){.batch_count = 0};
    test_env_init(&f->t);
    producer_state_init(&f->producers, 1);
    assert_int_equal(disk_mkdir(&f->t.env, fixture_path(f, path, "orders-0"), &why), ERR_NONE);
    fixture_begin_segment(f, 0);
    for (; offset < FIXTURE_ROLL; offset += 3)
        fixture_batch(f, offset, 3, 7, (int32_t)offset, false);
    fixture_end_segment(f, FIXTURE_ROLL);
    fixture_begin_segment(f, FIXTURE_ROLL);
    for (; offset < FIXTURE_END - 6; offset += 3)
        fixture_batch(f, offset, 3, 7, (int32_t)offset, false);
    fixture_batch(f, offset, 3, 8, 0, true);
    fixture_abort(f, offset + 3, 8);
    fixture_batch(f, offset + 4, 2, 7, (int32_t)offset, false);
    fixture_end_segment(f, FIXTURE_END);
    fixture_directory_files(f);
}

static inline void fixture_deinit(struct folder_fixture *f)
{
    producer_state_deinit(&f->producers);
    test_env_deinit(&f->t);
}

static inline int folder_setup(void **state)
{
    struct folder_fixture *f = xmalloc(sizeof *f);

    fixture_init(f);
    *state = f;
    return 0;
}

static inline int folder_teardown(void **state)
{
    fixture_deinit(*state);
    free(*state);
    return 0;
}

/* Verifies the whole directory; the report is the caller's. */
static inline void fixture_verify(struct folder_fixture *f, struct verify_report *r)
{
    const struct verify_options o = {.deep = true};
    struct partition_summary all[8];
    struct partition_facts facts;
    struct log_dir_facts d;
    char path[512], topic[250];
    int32_t partition;

    *r = (struct verify_report){.v = NULL};
    log_dir_facts_read(&d, &f->t.env, f->t.dir, r);
    assert_true(d.folder_count <= ARRAY_COUNT(all));
    for (size_t i = 0; i < d.folder_count; i++) {
        assert_true(partition_folder_parse(d.folders[i], topic, &partition));
        log_dir_facts_of(&d, topic, partition, &facts);
        verify_partition(&f->t.env, fixture_path(f, path, d.folders[i]), &facts, &o, r, &all[i]);
    }
    verify_together(&d, 1, all, d.folder_count, r);
    log_dir_facts_deinit(&d);
}

/* That many findings of this weight, the first of them of this kind. */
static inline void fixture_expect(struct folder_fixture *f, enum finding_weight weight,
                                  enum finding_kind kind, const char *text)
{
    struct verify_report r;
    bool found = false;

    fixture_verify(f, &r);
    for (size_t i = 0; i < r.count; i++) {
        found = found || (r.v[i].weight == weight && r.v[i].kind == kind &&
                          strstr(r.v[i].text, text) != NULL);
    }
    if (!found) {
        for (size_t i = 0; i < r.count; i++)
            print_error("%s: %s: %s\n", r.v[i].path, finding_kind_name(r.v[i].kind), r.v[i].text);
        fail_msg("no finding of kind %s with \"%s\"", finding_kind_name(kind), text);
    }
    verify_report_deinit(&r);
}

static inline void fixture_expect_clean(struct folder_fixture *f)
{
    struct verify_report r;

    fixture_verify(f, &r);
    for (size_t i = 0; i < r.count; i++)
        print_error("%s: %s: %s\n", r.v[i].path, finding_kind_name(r.v[i].kind), r.v[i].text);
    assert_int_equal(r.weights[FINDING_DAMAGE], 0);
    verify_report_deinit(&r);
}

#endif
