/* Any bytes as a partition's files: a start never fails, never serves a batch whose CRC is wrong,
 * and cuts nothing below the recovery point.
 *
 * Input: one byte recovery point, one byte flags, then pieces of a 2-byte length and content: the
 * .log, .index, .timeindex, .txnindex, .snapshot and leader-epoch-checkpoint of offset 0; the last
 * piece takes the rest.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/record_batch.h"
#include "storage/log_dir.h"
#include "tests/support/memory_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FOLDER "/data/t-0/"

static void put_pieces(struct test_env *t, const uint8_t *p, size_t size)
{
    static const char *const names[] = {
        FOLDER "00000000000000000000.log",       FOLDER "00000000000000000000.index",
        FOLDER "00000000000000000000.timeindex", FOLDER "00000000000000000000.txnindex",
        FOLDER "00000000000000000000.snapshot",  FOLDER "leader-epoch-checkpoint"};

    for (size_t i = 0; i < ARRAY_COUNT(names) && size >= 2; i++) {
        size_t n = MIN((size_t)load_be16(p), size - 2);

        memory_disk_put(t, names[i], p + 2, n);
        p += 2 + n;
        size -= 2 + n;
    }
}

static void read_all(struct log *l)
{
    struct log_read_options o = {.offset = log_start_offset(l),
                                 .offset_limit = INT64_MAX,
                                 .bytes_max = 1 << 20,
                                 .at_least_one = true,
                                 .need_aborted = true};

    for (;;) {
        struct record_batch_iterator it;
        struct log_read_result r;
        struct record_batch b;
        enum err e = log_read(l, &o, &r);

        if (e == ERR_AGAIN)
            e = log_load(l, o.offset, 1);
        else if (e == ERR_NONE && r.bytes > 0) {
            it = (struct record_batch_iterator){ioqueue_at(&r.data, 0)->buf->ptr, r.bytes};
            while (record_batch_next(&it, &b) == ERR_NONE) {
                CHECK(record_batch_crc_ok(&b));
                o.offset = record_batch_last_offset(&b) + 1;
            }
            CHECK(it.left == 0);
        } else {
            e = ERR_CLOSED;
        }
        free(r.aborted);
        ioqueue_deinit(&r.data);
        if (e != ERR_NONE)
            return;
    }
}

static void on_done(struct message *m)
{
    (void)m;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *dirs[] = {"/data"};
    struct uuid id = {{7}};
    struct message done = {.run = on_done};
    struct test_env t;
    struct log_manager *m;
    struct errmsg why;
    char text[128], uuid[UUID_TEXT_SIZE];
    struct log_manager_options o = {
        .env = &t.env,
        .dirs = dirs,
        .dir_count = 1,
        .node_id = 1,
        .recovery_threads_per_dir = 1,
        .default_config = {.segment_bytes = 1 << 20,
                           .segment_ms = INT64_MAX,
                           .segment_index_bytes = 1 << 20,
                           .index_interval_bytes = 64,
                           .retention_ms = -1,
                           .retention_bytes = -1,
                           .flush_messages = INT64_MAX,
                           .flush_ms = INT64_MAX,
                           .producer_id_expiration_ms = 86400000},
    };

    if (size < 2)
        return 0;
    test_env_init(&t);
    memory_disk_init(&t);
    uuid_format(&id, uuid);
    memory_disk_put(&t, "/data/fluxmq-format", "version=1\n", 10);
    (void)snprintf(text, sizeof text, "version: 0\ntopic_id: %s", uuid);
    memory_disk_put(&t, FOLDER "partition.metadata", text, strlen(text));
    (void)snprintf(text, sizeof text, "0\n1\nt 0 %d\n", data[0] % 16);
    memory_disk_put(&t, "/data/recovery-point-offset-checkpoint", text, strlen(text));
    put_pieces(&t, data + 2, size - 2);

    CHECK(log_manager_new(&o, false, &m, &why) == ERR_NONE);
    log_manager_open_all(m, test_env_loop(&t), &done);
    (void)test_env_run(&t);

    struct log *l = log_manager_find(m, &id, 0);

    CHECK(l != NULL);
    if (log_offline_reason(l) == NULL) {
        struct timestamp_offset at;

        read_all(l);
        for (int64_t timestamp = 0; timestamp < 3000; timestamp += 500) {
            if (log_offset_for_timestamp(l, timestamp, INT64_MAX, &at) != ERR_NONE)
                break;
        }
        if ((data[1] & 1) && log_truncate(l, log_end_offset(l) / 2) == ERR_NONE)
            read_all(l);
    }
    log_unref(l);
    log_manager_close(m);
    memory_disk_deinit(&t);
    test_env_deinit(&t);
    return 0;
}
