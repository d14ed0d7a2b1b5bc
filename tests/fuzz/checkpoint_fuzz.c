/* Any bytes as each of a directory's small files. First byte: which. */
#include <stdlib.h>
#include <string.h>

#include "storage/checkpoint.h"
#include "storage/clean_state.h"
#include "protocol/crc32c.h"
#include "storage/leader_epoch.h"
#include "storage/log_manager.h"
#include "tests/support/memory_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool offset_line(void *ctx, struct str line)
{
    struct str topic;
    int32_t partition;
    int64_t offset;

    (void)ctx;
    return checkpoint_line_offset(line, &topic, &partition, &offset);
}

static void try_epochs(const uint8_t *data, size_t size)
{
    struct leader_epochs a, b;
    struct text t = {.ptr = NULL};
    struct errmsg why;

    if (leader_epochs_parse(data, size, &a, &why) == ERR_NONE) {
        leader_epochs_format(&a, &t);
        CHECK(leader_epochs_parse((const uint8_t *)t.ptr, t.size, &b, &why) == ERR_NONE);
        CHECK(a.count == b.count);
        for (int32_t i = 0; i < a.count; i++) { /* not memcmp: there is padding */
            CHECK(a.v[i].epoch == b.v[i].epoch);
            CHECK(a.v[i].start_offset == b.v[i].start_offset);
        }
        leader_epochs_deinit(&b);
        text_deinit(&t);
    }
    leader_epochs_deinit(&a);
}

static void on_done(struct message *m)
{
    (void)m;
}

/* A clean state that says anything, with its CRC right. */
static void try_clean_state(const uint8_t *data, size_t size)
{
    const char *dirs[] = {"/data"};
    struct message done = {.run = on_done};
    struct test_env t;
    struct log_manager *m;
    struct errmsg why;
    struct log_manager_options o = {
        .env = &t.env, .dirs = dirs, .dir_count = 1, .recovery_threads_per_dir = 1};
    uint8_t *copy = xmalloc(size + 4);

    memcpy(copy, data, size);
    store_be32(copy + size, crc32c(0, copy, size));
    test_env_init(&t);
    memory_disk_init(&t);
    memory_disk_put(&t, "/data/fluxmq-format", "version=1\n", 10);
    memory_disk_put(&t, "/data/.kafka_cleanshutdown", "", 0);
    memory_disk_put(&t, "/data/fluxmq-clean-state", copy, size + 4);
    memory_disk_put(&t, "/data/t-0/x", "", 0);
    CHECK(log_manager_new(&o, false, &m, &why) == ERR_NONE);
    log_manager_open_all(m, test_env_loop(&t), &done);
    (void)test_env_run(&t);
    log_manager_close(m);
    memory_disk_deinit(&t);
    test_env_deinit(&t);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct meta_properties meta;
    struct errmsg why;
    struct uuid id;
    enum err e = ERR_NONE;

    if (size < 1)
        return 0;
    switch (data[0] % 5) {
    case 0:
        e = checkpoint_parse(data + 1, size - 1, offset_line, NULL, &why);
        break;
    case 1:
        try_epochs(data + 1, size - 1);
        break;
    case 2:
        e = partition_metadata_parse(data + 1, size - 1, &id, &why);
        break;
    case 3:
        e = meta_properties_parse(data + 1, size - 1, &meta, &why);
        break;
    default:
        try_clean_state(data + 1, size - 1);
    }
    CHECK(e == ERR_NONE || e == ERR_MALFORMED);
    return 0;
}
