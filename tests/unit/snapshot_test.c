/* Snapshots: all of the image and nothing else, equal for equal images, and any damage is found. */
#include "meta_fixture.h"

#include <stdio.h>

#include "raft-meta/snapshot.h"

static struct meta *busy_cluster(void)
{
    struct meta *m = meta_new(3);
    char name[16];

    for (int k = 0; k < 60; k++) {
        MetaCommand *c;

        (void)snprintf(name, sizeof name, "t.%d", k);
        c = create_topic(name, 1 + k, 1 + k % 3);
        c->node = 1;
        c->broker_epoch = image_broker(m->image, 1)->epoch;
        c->lane = 20 + (uint32_t)k % 3;
        c->seq = 1 + (uint64_t)k / 3;
        assert_int_equal(meta_do(m, c), ERR_NONE);
        assert_int_equal(meta_do(m, set_config(CONFIG_TOPIC, name, "retention.ms",
                                               META_SET_CONFIGS__OP__SET, "1000")),
                         ERR_NONE);
    }
    assert_int_equal(meta_do(m, fence(m, 2)), ERR_NONE);
    assert_int_equal(meta_do(m, fence(m, 3)), ERR_NONE);
    assert_int_equal(meta_do(m, delete_topic("t.7")), ERR_NONE);
    return m;
}

static uint8_t *flat(const struct image *i, size_t *size)
{
    struct snapshot s;
    uint8_t *bytes;

    snapshot_encode(i, &s);
    bytes = xmalloc(s.bytes_total);
    *size = 0;
    for (size_t k = 0; k < s.part_count; k++) {
        memcpy(bytes + *size, s.parts[k].bytes, s.parts[k].size);
        *size += s.parts[k].size;
    }
    assert_int_equal(*size, s.bytes_total);
    snapshot_deinit(&s);
    return bytes;
}

static void restored_image_is_equal(void **state)
{
    struct meta *m = busy_cluster();
    struct image *restored;
    struct errmsg why;
    size_t size, again_size;
    uint8_t *bytes = flat(m->image, &size), *again;

    (void)state;
    assert_int_equal(snapshot_decode(bytes, size, &restored, &why), ERR_NONE);
    again = flat(restored, &again_size);
    assert_int_equal(again_size, size);
    assert_memory_equal(again, bytes, size);
    assert_true(snapshot_digest(restored) == snapshot_digest(m->image));
    assert_int_equal(image_partition_count(restored), image_partition_count(m->image));
    assert_int_equal(image_index(restored), image_index(m->image));
    assert_int_equal(image_lane(restored, 1, 20)->seq, image_lane(m->image, 1, 20)->seq);
    /* The restored one goes on like the first one: same commands, same digest. */
    image_unref(m->image);
    m->image = restored;
    assert_int_equal(meta_do(m, unfence(m, 2)), ERR_NONE);
    free(bytes);
    free(again);
    meta_free(m);
}

/* Equal content gives equal bytes, whatever the order in which it came to be. */
static void digest_does_not_depend_on_history(void **state)
{
    struct image *a = image_new(), *b = image_new();
    char key[8];

    (void)state;
    for (int k = 0; k < 100; k++) {
        (void)snprintf(key, sizeof key, "%d", k);
        image_put_config(a, CONFIG_GROUP, str_from(key), STR_LIT("k"), STR_LIT("v"));
        (void)snprintf(key, sizeof key, "%d", 99 - k);
        image_put_config(b, CONFIG_GROUP, str_from(key), STR_LIT("k"), STR_LIT("w"));
        image_put_config(b, CONFIG_GROUP, str_from(key), STR_LIT("k"), STR_LIT("v"));
    }
    assert_true(snapshot_digest(a) == snapshot_digest(b));
    image_put_config(b, CONFIG_GROUP, STR_LIT("7"), STR_LIT("k"), STR_LIT("w"));
    assert_false(snapshot_digest(a) == snapshot_digest(b));
    image_unref(a);
    image_unref(b);
}

/* Each byte matters: any one changed, and any cut, is found. */
static void damage_is_found(void **state)
{
    struct meta *m = meta_new(2);
    struct image *restored;
    struct errmsg why;
    size_t size;
    uint8_t *bytes;

    (void)state;
    assert_int_equal(meta_do(m, create_topic("t", 3, 2)), ERR_NONE);
    bytes = flat(m->image, &size);
    for (size_t at = 0; at < size; at++) {
        bytes[at] ^= 0x10;
        assert_int_not_equal(snapshot_decode(bytes, size, &restored, &why), ERR_NONE);
        bytes[at] ^= 0x10;
        assert_int_not_equal(snapshot_decode(bytes, at, &restored, &why), ERR_NONE);
    }
    assert_int_equal(snapshot_decode(bytes, size, &restored, &why), ERR_NONE);
    image_unref(restored);
    bytes = xrealloc(bytes, size + 1);
    bytes[size] = 0;
    assert_int_not_equal(snapshot_decode(bytes, size + 1, &restored, &why), ERR_NONE);
    free(bytes);
    meta_free(m);
}

static void newer_format_is_refused(void **state)
{
    struct meta *m = meta_new(1);
    struct image *restored;
    struct errmsg why;
    size_t size;
    uint8_t *bytes = flat(m->image, &size);

    (void)state;
    store_be16(bytes + 4, SNAPSHOT_FORMAT + 1);
    assert_int_equal(snapshot_decode(bytes, size, &restored, &why), ERR_UNSUPPORTED_VERSION);
    free(bytes);
    meta_free(m);
}

/* What is large is in chunks of 1 MiB. */
static void large_images_are_chunked(void **state)
{
    struct image *i = image_new(), *restored;
    char *value = xcalloc(1, 30001), key[16];
    struct snapshot s;
    struct errmsg why;
    size_t size;
    uint8_t *bytes;

    (void)state;
    memset(value, 'x', 30000);
    for (int k = 0; k < 100; k++) {
        (void)snprintf(key, sizeof key, "%d", k);
        image_put_config(i, CONFIG_GROUP, str_from(key), STR_LIT("k"), str_from(value));
    }
    snapshot_encode(i, &s);
    assert_in_range(s.part_count, 4, 5);
    for (size_t k = 1; k < s.part_count; k++)
        assert_true(s.parts[k].size <= CHUNK_BYTES_MAX);
    snapshot_deinit(&s);
    bytes = flat(i, &size);
    assert_int_equal(snapshot_decode(bytes, size, &restored, &why), ERR_NONE);
    assert_true(snapshot_digest(i) == snapshot_digest(restored));
    image_unref(restored);
    image_unref(i);
    free(bytes);
    free(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(restored_image_is_equal),
        cmocka_unit_test(digest_does_not_depend_on_history),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(newer_format_is_refused),
        cmocka_unit_test(large_images_are_chunked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
