/* Any bytes as an offset or time index: what is taken over ascends, and a lookup answers as a walk
 * over the entries would. First byte: which kind. */
#include "storage/index.h"
#include "tests/support/memory_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct test_env t;
    struct index x;
    struct index_view v;
    struct index_entry e, before = {-1, -1};
    struct errmsg why;
    bool sound;

    if (size < 1)
        return 0;
    test_env_init(&t);
    memory_disk_init(&t);
    memory_disk_put(&t, "/i", data + 1, size - 1);
    index_init(&x, (data[0] & 1) ? INDEX_TIMES : INDEX_OFFSETS, data[0]);
    CHECK(index_load(&x, &t.env, "/i", INT32_MAX, &sound) == ERR_NONE);
    CHECK(file_open(&t.env, "/i", 0, &x.file, &why) == ERR_NONE);
    index_view_take(&x, &v);
    for (uint32_t i = 0; i < index_view_count(&v); i++) {
        CHECK(index_get(&v, i, &e));
        CHECK(e.key > before.key && e.value >= before.value);
        before = e;
        CHECK(index_floor_key(&v, before.key, &e) && e.key == before.key);
        CHECK(index_floor_value(&v, before.value, &e) && e.value == before.value);
    }
    index_view_drop(&v);
    file_unref(x.file);
    x.file = NULL;
    CHECK(index_cut(&x, &t.env, "/i", before.key / 2, &why) == ERR_NONE);
    index_deinit(&x);
    memory_disk_deinit(&t);
    test_env_deinit(&t);
    return 0;
}
