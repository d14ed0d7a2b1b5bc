#include "broker/handlers/target.h"

#include "broker/node.h"
#include "protocol/base/hmap.h"

const struct topic_image *target_topic(const struct request *r, struct str name,
                                       const struct uuid *id)
{
    const struct image *i = request_image(r);

    return id != NULL ? image_topic_by_id(i, id) : image_topic(i, name);
}

enum err target_replica(const struct request *r, const struct topic_image *t, bool by_id,
                        int32_t partition, struct replica **out)
{
    *out = NULL;
    if (t == NULL)
        return by_id ? ERR_UNKNOWN_TOPIC_ID : ERR_UNKNOWN_TOPIC_OR_PARTITION;
    if (topic_partition(t, partition) == NULL)
        return ERR_UNKNOWN_TOPIC_OR_PARTITION;
    *out = replica_manager_find(r->home->replicas, &t->id, partition);
    return *out != NULL ? ERR_NONE : ERR_NOT_LEADER_OR_FOLLOWER;
}

enum err target_named_replica(const struct request *r, struct str topic, int32_t partition,
                              struct replica **out)
{
    enum err e = target_replica(r, target_topic(r, topic, NULL), false, partition, out);

    if (e == ERR_NONE && log_offline_reason(replica_log(*out)) != NULL) {
        replica_unref(*out);
        *out = NULL;
        e = ERR_KAFKA_STORAGE_ERROR;
    }
    return e;
}

bool target_is_internal(struct str topic)
{
    return str_eq_lit(topic, "__consumer_offsets") || str_eq_lit(topic, "__transaction_state") ||
           str_eq_lit(topic, "__share_group_state");
}

/* ---- KIP-951 ---- */

struct leader_hint target_leader(const struct request *r, const struct topic_image *t,
                                 int32_t partition)
{
    struct leader_hint hint = {-1, -1};
    const struct topic_image *now = t != NULL ? image_topic_by_id(request_image(r), &t->id) : NULL;
    const struct partition_image *p = now != NULL ? topic_partition(now, partition) : NULL;

    if (p != NULL) {
        hint.id = p->leader;
        hint.epoch = p->leader_epoch;
    }
    return hint;
}

void target_add_node(int32_t *ids, int32_t *count, int32_t id)
{
    for (int32_t i = 0; i < *count; i++)
        if (ids[i] == id)
            return;
    ids[(*count)++] = id;
}

bool target_endpoint(const struct request *r, int32_t id, struct str *host, int32_t *port,
                     struct str *rack)
{
    const struct broker_image *b = id >= 0 ? image_broker(request_image(r), id) : NULL;
    const struct endpoint_image *e =
        b != NULL && !b->fenced ? node_endpoint(b, request_listener(r)->name) : NULL;

    if (e == NULL)
        return false;
    *host = e->host;
    *port = e->port;
    *rack = b->rack;
    return true;
}

/* ---- repetitions ---- */

struct target_entry {
    struct hmap_node node;
    struct str topic;
    struct uuid id;
    int32_t partition;
};

struct target_set {
    struct hmap map;
    int32_t used, capacity;
    struct target_entry entries[];
};

static void set_release(void *p)
{
    struct target_set *s = p;

    hmap_deinit(&s->map);
}

struct target_set *target_set_new(struct request *r, int32_t capacity)
{
    struct target_set *s =
        arena_alloc(&r->arena, sizeof *s + (size_t)capacity * sizeof s->entries[0]);

    if (s == NULL)
        return NULL;
    s->capacity = capacity;
    hmap_init(&s->map, r->worker->bad_peers.seed);
    arena_hold(&r->arena, s, set_release);
    return s;
}

static uint64_t set_hash(const struct target_set *s, struct str topic, const struct uuid *id,
                         int32_t partition)
{
    uint64_t seed = s->map.seed ^ (uint32_t)partition;

    return uuid_is_zero(id) ? hash_bytes(seed, topic.ptr, (size_t)MAX(topic.len, 0))
                            : hash_bytes(seed, id->b, sizeof id->b);
}

bool target_set_has(const struct target_set *s, struct str topic, const struct uuid *id,
                    int32_t partition)
{
    if (s == NULL)
        return false;
    for (struct hmap_node *n = hmap_first_with_hash(&s->map, set_hash(s, topic, id, partition));
         n != NULL; n = hmap_next_with_hash(n)) {
        const struct target_entry *e = CONTAINER_OF(n, struct target_entry, node);

        if (e->partition == partition && uuid_eq(&e->id, id) && str_eq(e->topic, topic))
            return true;
    }
    return false;
}

bool target_set_repeats(struct target_set *s, struct str topic, const struct uuid *id,
                        int32_t partition)
{
    if (s == NULL)
        return false;
    if (target_set_has(s, topic, id, partition))
        return true;
    CHECK(s->used < s->capacity);

    struct target_entry *e = &s->entries[s->used++];

    *e = (struct target_entry){.topic = topic, .id = *id, .partition = partition};
    hmap_insert(&s->map, &e->node, set_hash(s, topic, id, partition));
    return false;
}
