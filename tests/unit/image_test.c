/* Images: immutable, ordered, shared; and the persistent map under them. */
#include "meta_fixture.h"

#include <stdio.h>

#include "raft-meta/pmap.h"

/* ---- the map ---- */

struct entry {
    struct pmap_item item;
    char key[16];
    int value;
};

static struct pmap_item *entry_clone(const struct pmap_item *item);

static void entry_free(struct pmap_item *item)
{
    free(item);
}

static const struct pmap_item_type entry_type = {.clone = entry_clone, .free = entry_free};

static struct entry *entry_new(int key, int value)
{
    struct entry *e = xcalloc(1, sizeof *e);

    pmap_item_init(&e->item, &entry_type);
    (void)snprintf(e->key, sizeof e->key, "%08d", key);
    e->item.key = (struct bytes){(uint8_t *)e->key, 8};
    e->value = value;
    return e;
}

static struct pmap_item *entry_clone(const struct pmap_item *item)
{
    const struct entry *from = CONTAINER_OF(item, const struct entry, item);

    return &entry_new(atoi(from->key), from->value)->item;
}

static int value_of(const struct pmap *m, int key)
{
    struct entry *probe = entry_new(key, 0);
    struct pmap_item *item = pmap_find(m, probe->item.key);

    pmap_item_unref(&probe->item);
    return item != NULL ? CONTAINER_OF(item, struct entry, item)->value : -1;
}

static void remove_key(struct pmap *m, int key)
{
    struct entry *probe = entry_new(key, 0);

    assert_true(pmap_remove(m, probe->item.key));
    pmap_item_unref(&probe->item);
}

/* Whatever was done to a map, its items come in order and its old versions stay as they were. */
static void versions_are_independent(void **state)
{
    enum { COUNT = 1000 };
    struct pmap m = {NULL}, old;
    int previous = -1, seen = 0;

    (void)state;
    for (int k = 0; k < COUNT; k++)
        pmap_put(&m, &entry_new((k * 7919) % COUNT, k)->item);
    assert_int_equal(pmap_count(&m), COUNT);
    old = pmap_share(&m);
    for (int k = 0; k < COUNT; k += 2)
        remove_key(&m, k);
    for (int k = 1; k < COUNT; k += 4) {
        struct entry *probe = entry_new(k, 0);
        struct pmap_item *item = pmap_modify(&m, probe->item.key);

        CONTAINER_OF(item, struct entry, item)->value = -7;
        pmap_item_unref(&probe->item);
    }
    assert_int_equal(pmap_count(&m), COUNT / 2);
    assert_int_equal(pmap_count(&old), COUNT);
    for (int k = 0; k < COUNT; k++) {
        assert_int_equal((value_of(&old, k) * 7919) % COUNT, k);
        assert_int_equal(value_of(&m, k) == -1, k % 2 == 0);
        assert_int_equal(value_of(&m, k) == -7, k % 4 == 1);
    }
    for (struct pmap_item *i = pmap_next(&m, BYTES_NULL, false); i != NULL;
         i = pmap_next(&m, i->key, false)) {
        int key = atoi(CONTAINER_OF(i, struct entry, item)->key);

        assert_true(key > previous);
        previous = key;
        seen++;
    }
    assert_int_equal(seen, COUNT / 2);
    pmap_drop(&m);
    pmap_drop(&old);
}

/* ---- images ---- */

/* Who holds an image sees one state for as long as it holds it. */
static void old_images_do_not_change(void **state)
{
    struct meta *m = meta_new(1);
    struct image *before;
    char name[16];

    (void)state;
    for (int k = 0; k < 200; k++) {
        (void)snprintf(name, sizeof name, "t%03d", k);
        assert_int_equal(meta_do(m, create_topic(name, 100, 1)), ERR_NONE);
    }
    before = image_ref(m->image);
    assert_int_equal(meta_do(m, create_partitions("t007", 300)), ERR_NONE);
    assert_int_equal(meta_do(m, delete_topic("t008")), ERR_NONE);
    assert_int_equal(meta_do(m, fence(m, 1)), ERR_NONE);
    assert_int_equal(image_topic_count(before), 200);
    assert_int_equal(image_partition_count(before), 20000);
    assert_int_equal(image_topic(before, STR_LIT("t007"))->partition_count, 100);
    assert_non_null(image_topic(before, STR_LIT("t008")));
    assert_int_equal(topic_partition(image_topic(before, STR_LIT("t007")), 99)->leader, 1);
    assert_false(image_broker(before, 1)->fenced);
    assert_int_equal(image_topic_count(m->image), 199);
    assert_int_equal(image_partition_count(m->image), 20000 - 100 + 200);
    assert_int_equal(partition_of(m, "t007", 299)->leader, -1);
    image_unref(before);
    meta_free(m);
}

/* Every iteration is by key. */
static void iteration_is_by_key(void **state)
{
    static const char *const names[] = {"b", "a.b", "a_c", "Z", "a-b", "zz", "aa"};
    static const char *const sorted[] = {"Z", "a-b", "a.b", "a_c", "aa", "b", "zz"};
    struct meta *m = meta_new(3);
    const struct topic_image *t = NULL;
    int n = 0, node = 0;

    (void)state;
    for (size_t k = 0; k < ARRAY_COUNT(names); k++)
        assert_int_equal(meta_do(m, create_topic(names[k], 1, 1)), ERR_NONE);
    while ((t = image_topic_next(m->image, t != NULL ? t->name : STR_NULL)) != NULL)
        assert_true(str_eq_lit(t->name, sorted[n++]));
    assert_int_equal(n, ARRAY_COUNT(sorted));
    for (const struct broker_image *b = image_broker_next(m->image, -1); b != NULL;
         b = image_broker_next(m->image, b->id))
        assert_int_equal(b->id, ++node);
    assert_int_equal(node, 3);
    meta_free(m);
}

static void lookups_of_what_is_not_there(void **state)
{
    struct meta *m = meta_new(1);
    struct uuid id = {{1}};
    struct str value, name = STR_NULL;
    const struct config_entry *entries;
    int32_t count;

    (void)state;
    assert_null(image_topic(m->image, STR_LIT("none")));
    assert_null(image_topic(m->image, STR_NULL));
    assert_null(image_topic_by_id(m->image, &id));
    assert_null(image_topic_next(m->image, STR_NULL));
    assert_null(image_broker(m->image, -1));
    assert_null(image_broker(m->image, 2));
    assert_false(image_config_get(m->image, CONFIG_TOPIC, STR_LIT("t"), STR_LIT("k"), &value));
    assert_false(image_config_entries(m->image, CONFIG_TOPIC, STR_LIT("t"), &entries, &count));
    assert_int_equal(count, 0);
    assert_false(image_config_next(m->image, CONFIG_TOPIC, STR_NULL, &name));
    assert_true(image_config_next(m->image, CONFIG_BROKER, STR_NULL, &name));
    assert_int_equal(name.len, 0); /* the cluster-wide default */
    assert_int_equal(image_feature(m->image, "none"), 0);
    assert_int_equal(meta_do(m, create_topic("t", 2, 1)), ERR_NONE);
    assert_null(topic_partition(image_topic(m->image, STR_LIT("t")), 2));
    assert_null(topic_partition(image_topic(m->image, STR_LIT("t")), -1));
    meta_free(m);
}

/* The entries of a resource are sorted, and one value never disturbs another. */
static void configs_are_sorted(void **state)
{
    struct meta *m = meta_new(1);
    const struct config_entry *entries;
    int32_t count;

    (void)state;
    for (int k = 9; k >= 0; k--) {
        char key[8] = {(char)('a' + (k * 7) % 10)};

        assert_int_equal(
            meta_do(m, set_config(CONFIG_GROUP, "g", key, META_SET_CONFIGS__OP__SET, key)),
            ERR_NONE);
    }
    assert_true(image_config_entries(m->image, CONFIG_GROUP, STR_LIT("g"), &entries, &count));
    assert_int_equal(count, 10);
    for (int32_t k = 0; k < count; k++) {
        assert_int_equal(entries[k].key.ptr[0], 'a' + k);
        assert_true(str_eq(entries[k].key, entries[k].value));
    }
    meta_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_are_independent),     cmocka_unit_test(old_images_do_not_change),
        cmocka_unit_test(iteration_is_by_key),          cmocka_unit_test(configs_are_sorted),
        cmocka_unit_test(lookups_of_what_is_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
