/* tests/unit/meta_fixture.h -- a state machine on its own, and commands in one line each.
 *
 * Commands are built malloc'ed, so that the controller may complete them in place; meta_do()
 * completes, packs, unpacks and applies them as a leader and its entry would.
 */
#ifndef FLUXMQ_TESTS_META_FIXTURE_H
#define FLUXMQ_TESTS_META_FIXTURE_H

#include <stddef.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "raft-meta/command.h"
#include "raft-meta/controller.h"
#include "raft-meta/fsm.h"
#include "raft-meta/image_edit.h"

struct meta {
    struct image *image;
    uint64_t index;
    int64_t now_ms;
    uint8_t dice;
    struct controller controller;
    /* Of the last meta_do(); the outcome lives until the next one. */
    MetaOutcome *outcome;
    int topics_changed, configs_changed;
    bool brokers_changed, features_changed;
};

UNUSED static bool meta_is_voter(void *ctx, int32_t node)
{
    (void)ctx;
    return node == 1;
}

UNUSED static void meta_random(void *ctx, void *out, size_t size)
{
    struct meta *m = ctx;

    m->dice++;
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)out)[i] = (uint8_t)(m->dice + i * 17);
}

UNUSED static MetaCommand *command_new(MetaCommand__BodyCase type)
{
    MetaCommand *c = xmalloc(sizeof *c);

    meta_command__init(c);
    c->body_case = type;
    c->broker_epoch = -1;
    return c;
}

/* Applies and frees; the error of the whole command, or of its first item. */
UNUSED static enum err meta_do(struct meta *m, MetaCommand *c)
{
    struct entry_writer w;
    struct entry_reader r;
    struct fsm_step *s;
    const struct image_delta *d;
    MetaCommand *read;
    uint8_t *bytes;
    size_t size;

    controller_complete(&m->controller, m->image, m->now_ms, c);
    entry_writer_init(&w);
    assert_int_equal(entry_writer_add(&w, c), ERR_NONE);
    bytes = entry_writer_take(&w, &size);
    meta_command__free_unpacked(c, NULL);
    entry_reader_init(&r, bytes, size);
    assert_int_equal(entry_reader_next(&r, &read), ERR_NONE);
    assert_non_null(read);

    s = fsm_begin(m->image, ++m->index);
    if (m->outcome != NULL)
        meta_outcome__free_unpacked(m->outcome, NULL);
    m->outcome = fsm_apply(s, read);
    d = fsm_finish(s);
    m->topics_changed = d->topic_count;
    m->configs_changed = d->config_count;
    m->brokers_changed = d->brokers_changed;
    m->features_changed = d->features_changed;
    image_unref(m->image);
    m->image = image_ref(fsm_step_image(s));
    fsm_step_free(s);
    meta_command__free_unpacked(read, NULL);
    free(bytes);
    if (m->outcome->error != 0 || m->outcome->n_items == 0)
        return (enum err)m->outcome->error;
    return (enum err)m->outcome->items[0]->error;
}

/* The message that goes with the error. */
UNUSED static const char *meta_message(const struct meta *m)
{
    return m->outcome->error != 0 || m->outcome->n_items == 0 ? m->outcome->message
                                                              : m->outcome->items[0]->message;
}

UNUSED static ProtobufCBinaryData binary(const void *bytes, size_t size)
{
    ProtobufCBinaryData b = {0};

    proto_set_bytes(&b, bytes, size);
    return b;
}

UNUSED static ProtobufCBinaryData binary_id(uint8_t first, uint8_t second)
{
    uint8_t id[16] = {first, second, 1};

    return binary(id, sizeof id);
}

UNUSED static MetaCommand *form_cluster(const char *id)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_FORM_CLUSTER);
    MetaFormCluster *f = xmalloc(sizeof *f);

    meta_form_cluster__init(f);
    f->cluster_id = xstrdup(id);
    f->configs = xcalloc(1, sizeof *f->configs);
    f->configs[0] = xmalloc(sizeof **f->configs);
    meta_config_entry__init(f->configs[0]);
    f->configs[0]->key = xstrdup("min.insync.replicas");
    f->configs[0]->value = xstrdup("2");
    f->n_configs = 1;
    c->form_cluster = f;
    return c;
}

/* Node `node` with one directory, in its `life`-th incarnation. */
UNUSED static MetaCommand *register_broker(int32_t node, uint8_t life)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_REGISTER_BROKER);
    MetaRegisterBroker *r = xmalloc(sizeof *r);

    meta_register_broker__init(r);
    r->node = node;
    r->incarnation = binary_id((uint8_t)node, (uint8_t)(100 + life));
    r->metadata_directory = binary_id((uint8_t)node, 1);
    r->directories = xcalloc(1, sizeof *r->directories);
    r->directories[0] = binary_id((uint8_t)node, 1);
    r->n_directories = 1;
    c->register_broker = r;
    return c;
}

UNUSED static MetaCommand *unfence(struct meta *m, int32_t node)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_UNFENCE_BROKER);

    c->unfence_broker = xmalloc(sizeof *c->unfence_broker);
    meta_unfence_broker__init(c->unfence_broker);
    c->unfence_broker->node = node;
    c->unfence_broker->broker_epoch = image_broker(m->image, node)->epoch;
    return c;
}

UNUSED static MetaCommand *fence(struct meta *m, int32_t node)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_FENCE_BROKER);

    c->fence_broker = xmalloc(sizeof *c->fence_broker);
    meta_fence_broker__init(c->fence_broker);
    c->fence_broker->node = node;
    c->fence_broker->broker_epoch = image_broker(m->image, node)->epoch;
    return c;
}

UNUSED static MetaCreateTopics__Topic *topic_of(MetaCommand *c)
{
    return c->create_topics->topics[0];
}

UNUSED static MetaCommand *create_topic(const char *name, int32_t partitions, int32_t factor)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_CREATE_TOPICS);
    MetaCreateTopics *b = xmalloc(sizeof *b);
    MetaCreateTopics__Topic *t = xmalloc(sizeof *t);

    meta_create_topics__init(b);
    meta_create_topics__topic__init(t);
    t->name = xstrdup(name);
    t->num_partitions = partitions;
    t->replication_factor = factor;
    b->topics = xcalloc(1, sizeof *b->topics);
    b->topics[0] = t;
    b->n_topics = 1;
    c->create_topics = b;
    return c;
}

/* Adds a manual assignment of `count` replicas to a create_topic(name, -1, -1). */
UNUSED static void add_manual(MetaCommand *c, int32_t partition, int count, ...)
{
    MetaCreateTopics__Topic *t = topic_of(c);
    MetaCreateTopics__Topic__ManualAssignment *a = xmalloc(sizeof *a);
    va_list ap;

    meta_create_topics__topic__manual_assignment__init(a);
    a->partition = partition;
    a->n_replicas = (size_t)count;
    a->replicas = xcalloc((size_t)count + 1, sizeof *a->replicas);
    va_start(ap, count);
    for (int i = 0; i < count; i++)
        a->replicas[i] = va_arg(ap, int);
    va_end(ap);
    t->manual = xrealloc(t->manual, (t->n_manual + 1) * sizeof *t->manual);
    t->manual[t->n_manual++] = a;
}

UNUSED static MetaCommand *delete_topic(const char *name)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_DELETE_TOPICS);
    MetaDeleteTopics *b = xmalloc(sizeof *b);

    meta_delete_topics__init(b);
    b->topics = xcalloc(1, sizeof *b->topics);
    b->topics[0] = xmalloc(sizeof **b->topics);
    meta_delete_topics__topic__init(b->topics[0]);
    b->topics[0]->name = xstrdup(name);
    b->n_topics = 1;
    c->delete_topics = b;
    return c;
}

UNUSED static MetaCommand *create_partitions(const char *name, int32_t count)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_CREATE_PARTITIONS);
    MetaCreatePartitions *b = xmalloc(sizeof *b);

    meta_create_partitions__init(b);
    b->topics = xcalloc(1, sizeof *b->topics);
    b->topics[0] = xmalloc(sizeof **b->topics);
    meta_create_partitions__topic__init(b->topics[0]);
    b->topics[0]->name = xstrdup(name);
    b->topics[0]->count = count;
    b->n_topics = 1;
    c->create_partitions = b;
    return c;
}

UNUSED static MetaCommand *set_config(enum config_resource type, const char *name, const char *key,
                                      MetaSetConfigs__Op op, const char *value)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_SET_CONFIGS);
    MetaSetConfigs *b = xmalloc(sizeof *b);
    MetaSetConfigs__Resource *r = xmalloc(sizeof *r);
    MetaSetConfigs__Entry *e = xmalloc(sizeof *e);

    meta_set_configs__init(b);
    meta_set_configs__resource__init(r);
    meta_set_configs__entry__init(e);
    e->key = xstrdup(key);
    e->op = op;
    e->value = xstrdup(value);
    r->type = (int32_t)type;
    r->name = xstrdup(name);
    r->entries = xcalloc(1, sizeof *r->entries);
    r->entries[0] = e;
    r->n_entries = 1;
    b->resources = xcalloc(1, sizeof *b->resources);
    b->resources[0] = r;
    b->n_resources = 1;
    c->set_configs = b;
    return c;
}

UNUSED static const struct partition_image *partition_of(const struct meta *m, const char *topic,
                                                         int32_t partition)
{
    const struct topic_image *t = image_topic(m->image, str_from(topic));

    assert_non_null(t);
    return topic_partition(t, partition);
}

UNUSED static const char *config_of(const struct meta *m, enum config_resource type,
                                    const char *name, const char *key, char *buffer, size_t size)
{
    struct str value;

    if (!image_config_get(m->image, type, str_from(name), str_from(key), &value))
        return NULL;
    assert_true((size_t)value.len < size);
    memcpy(buffer, value.ptr, (size_t)value.len);
    buffer[value.len] = 0;
    return buffer;
}

/* A formed cluster of `nodes` registered and unfenced nodes 1, 2, ... */
UNUSED static struct meta *meta_new(int nodes)
{
    struct meta *m = xcalloc(1, sizeof *m);

    m->image = image_new();
    m->now_ms = 1000;
    m->controller = (struct controller){
        .voter_count = 1, .is_voter = meta_is_voter, .random = meta_random, .ctx = m};
    assert_int_equal(meta_do(m, form_cluster("cluster")), ERR_NONE);
    for (int32_t n = 1; n <= nodes; n++) {
        assert_int_equal(meta_do(m, register_broker(n, 1)), ERR_NONE);
        assert_int_equal(meta_do(m, unfence(m, n)), ERR_NONE);
    }
    return m;
}

UNUSED static void meta_free(struct meta *m)
{
    if (m->outcome != NULL)
        meta_outcome__free_unpacked(m->outcome, NULL);
    image_unref(m->image);
    free(m);
}

#endif
