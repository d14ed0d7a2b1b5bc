/* Which topics a Kafka directory holds, and the commands that tell the cluster of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/adopt.h"
#include "tests/support/test_env.h"

static struct log_identity identity(const char *topic, uint8_t id, int32_t partition)
{
    struct log_identity out = {.partition = partition};

    (void)snprintf(out.topic, sizeof out.topic, "%s", topic);
    memset(out.topic_id.b, id, sizeof out.topic_id.b);
    return out;
}

/* Partitions are counted per topic, whatever the order in which they come. */
static void topics_are_collected(void **state)
{
    struct log_identity ids[] = {identity("b", 2, 1), identity("a", 1, 0), identity("b", 2, 0)};
    struct adoption a;
    struct errmsg why;

    (void)state;
    assert_int_equal(adoption_from(ids, 3, &a, &why), ERR_NONE);
    assert_int_equal(a.count, 2);
    assert_string_equal(a.v[0].name, "a");
    assert_int_equal(a.v[0].partition_count, 1);
    assert_string_equal(a.v[1].name, "b");
    assert_int_equal(a.v[1].partition_count, 2);
    assert_false(a.empty);
    adoption_deinit(&a);
}

/* A directory in which a partition is missing is not a whole node's, and is refused by name. */
static void a_missing_partition_is_refused(void **state)
{
    struct log_identity ids[] = {identity("orders", 1, 0), identity("orders", 1, 2)};
    struct adoption a;
    struct errmsg why;

    (void)state;
    assert_int_equal(adoption_from(ids, 2, &a, &why), ERR_CONFIG);
    assert_non_null(strstr(why.text, "orders"));
    assert_non_null(strstr(why.text, "expected partition 1"));
}

/* Two ids under one name: one of the folders is not what its name says. */
static void two_ids_are_refused(void **state)
{
    struct log_identity ids[] = {identity("orders", 1, 0), identity("orders", 2, 1)};
    struct adoption a;
    struct errmsg why;

    (void)state;
    assert_int_equal(adoption_from(ids, 2, &a, &why), ERR_CONFIG);
    assert_non_null(strstr(why.text, "another topic id"));
}

/* One metadata record: TopicRecord or ConfigRecord, as Kafka frames them. */
static void add_record(struct record_batch_builder *b, const uint8_t *p, size_t n)
{
    record_batch_builder_add(b, 1, BYTES_NULL, (struct bytes){p, (int32_t)n}, NULL, 0);
}

static size_t put_string(uint8_t *p, const char *s)
{
    p[0] = (uint8_t)(strlen(s) + 1);
    memcpy(p + 1, s, strlen(s));
    return strlen(s) + 1;
}

static void add_topic(struct record_batch_builder *b, const char *name)
{
    uint8_t p[64] = {1, 2, 0};
    size_t n = 3 + put_string(p + 3, name);

    add_record(b, p, n + 17); /* the id, no tagged fields */
}

static void add_config(struct record_batch_builder *b, const char *name, const char *key,
                       const char *value)
{
    uint8_t p[128] = {1, 4, 0, CONFIG_TOPIC};
    size_t n = 4;

    n += put_string(p + n, name);
    n += put_string(p + n, key);
    n += value != NULL ? put_string(p + n, value) : 1;
    add_record(b, p, n + 1);
}

/* The last value of each setting counts; a removed one and those of an earlier topic of the same
 * name do not. */
static void settings_come_from_the_metadata_log(void **state)
{
    struct log_identity ids[] = {identity("orders", 1, 0)};
    struct record_batch_builder b;
    struct test_env t;
    struct adoption a;
    struct errmsg why;
    struct iobuf *batch;
    struct file *f;
    char path[512];

    (void)state;
    test_env_init(&t);
    record_batch_builder_init(&b, 0);
    add_topic(&b, "orders");
    add_config(&b, "orders", "segment.bytes", "1");
    add_topic(&b, "orders");
    add_config(&b, "orders", "cleanup.policy", "delete");
    add_config(&b, "orders", "retention.ms", "5");
    add_config(&b, "other", "retention.ms", "7");
    add_config(&b, "orders", "cleanup.policy", "compact");
    add_config(&b, "orders", "retention.ms", NULL);
    assert_int_equal(record_batch_builder_finish(&b, &batch), ERR_NONE);
    record_batch_builder_deinit(&b);
    assert_int_equal(disk_mkdir(&t.env, test_env_path(&t, path, "__cluster_metadata-0"), &why),
                     ERR_NONE);
    test_env_path(&t, path, "__cluster_metadata-0/00000000000000000000.log");
    assert_int_equal(file_open(&t.env, path, FILE_CREATE, &f, &why), ERR_NONE);
    assert_int_equal(file_write(f, 0, batch->ptr, batch->len, &why), ERR_NONE);
    file_unref(f);
    iobuf_unref(batch);

    const char *dirs[] = {t.dir};

    assert_int_equal(adoption_from(ids, 1, &a, &why), ERR_NONE);
    assert_int_equal(adoption_read_configs(&a, &t.env, dirs, 1, &why), ERR_NONE);
    assert_int_equal(a.v[0].config_count, 1);
    assert_string_equal(a.v[0].configs[0].key, "cleanup.policy");
    assert_string_equal(a.v[0].configs[0].value, "compact");
    adoption_deinit(&a);
    test_env_deinit(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topics_are_collected),
        cmocka_unit_test(a_missing_partition_is_refused),
        cmocka_unit_test(two_ids_are_refused),
        cmocka_unit_test(settings_come_from_the_metadata_log),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
