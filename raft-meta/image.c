/* raft-meta/image.c -- see image.h.
 *
 * Brokers, topics, configs and lanes are persistent maps (pmap.h). A topic's partitions are kept
 * in chunks of PARTITIONS_PER_CHUNK, so that one change copies one chunk and the topic's list of
 * chunks, not 10,000 partitions. Every value is one allocation that holds its names and arrays.
 */
#include "raft-meta/image.h"
#include "raft-meta/image_edit.h"

#include <stdlib.h>
#include <string.h>

#include "raft-meta/pmap.h"

#define PARTITIONS_PER_CHUNK 64

struct image {
    atomic_int refs;
    uint64_t index;
    int64_t time_ms, features_epoch, next_producer_id, unclean_elections, partition_count;
    char cluster_id[CLUSTER_ID_MAX + 1];
    struct pmap brokers;       /* node id, big endian */
    struct pmap topics;        /* topic id */
    struct pmap topic_names;   /* name -> id */
    struct pmap topic_unified; /* name with '.' as '_' -> name; only names that hold either */
    struct pmap configs;       /* type, name */
    struct pmap lanes;         /* node, lane, big endian */
    struct pmap features;      /* name; flattened for image_features() */
    struct feature_image *feature_list;
    int32_t feature_count;
};

/* ---- one allocation for a value and all that it points to ---- */

/* Hands out the memory behind a header, front to back; the sizes were added up before. */
struct carver {
    uint8_t *at, *end;
};

static void *carve(struct carver *c, size_t size)
{
    uint8_t *p = c->at;

    size = (size + 7) & ~(size_t)7;
    CHECK((size_t)(c->end - c->at) >= size);
    c->at += size;
    return p;
}

static size_t carved(size_t size)
{
    return (size + 7) & ~(size_t)7;
}

static struct str carve_str(struct carver *c, struct str s)
{
    if (s.len < 0)
        return STR_NULL;

    char *p = carve(c, (size_t)s.len);

    if (s.len > 0)
        memcpy(p, s.ptr, (size_t)s.len);
    return (struct str){p, s.len};
}

static size_t carved_str(struct str s)
{
    return s.len > 0 ? carved((size_t)s.len) : 0;
}

static void *carve_copy(struct carver *c, const void *from, size_t count, size_t size)
{
    if (count == 0)
        return NULL;
    return memcpy(carve(c, count * size), from, count * size);
}

static void free_item(struct pmap_item *item)
{
    free(item);
}

/* ---- keys ---- */

static struct bytes str_key(struct str s)
{
    return (struct bytes){(const uint8_t *)s.ptr, s.len};
}

static struct bytes uuid_key(const struct uuid *id)
{
    return (struct bytes){id->b, sizeof id->b};
}

/* ---- brokers ---- */

struct broker_item {
    struct pmap_item item;
    uint8_t key[4];
    struct broker_image pub;
    uint64_t memory[];
};

static const struct pmap_item_type broker_type = {.free = free_item};

static struct broker_item *broker_of(struct pmap_item *item)
{
    return item != NULL ? CONTAINER_OF(item, struct broker_item, item) : NULL;
}

static size_t broker_memory(const struct broker_image *b)
{
    size_t size = carved_str(b->rack) + carved((size_t)b->endpoint_count * sizeof *b->endpoints) +
                  carved((size_t)b->directory_count * sizeof *b->directories) +
                  carved((size_t)b->feature_count * sizeof *b->features);

    for (int32_t i = 0; i < b->endpoint_count; i++)
        size += carved_str(b->endpoints[i].listener) + carved_str(b->endpoints[i].host);
    for (int32_t i = 0; i < b->feature_count; i++)
        size += carved_str(b->features[i].name);
    return size;
}

void image_put_broker(struct image *i, const struct broker_image *b)
{
    size_t size = broker_memory(b);
    struct broker_item *n = xcalloc(1, sizeof *n + size);
    struct carver c = {(uint8_t *)n->memory, (uint8_t *)n->memory + size};

    pmap_item_init(&n->item, &broker_type);
    store_be32(n->key, (uint32_t)b->id);
    n->item.key = (struct bytes){n->key, sizeof n->key};
    n->pub = *b;
    n->pub.rack = carve_str(&c, b->rack);
    n->pub.endpoints =
        carve_copy(&c, b->endpoints, (size_t)b->endpoint_count, sizeof *b->endpoints);
    for (int32_t k = 0; k < b->endpoint_count; k++) {
        n->pub.endpoints[k].listener = carve_str(&c, b->endpoints[k].listener);
        n->pub.endpoints[k].host = carve_str(&c, b->endpoints[k].host);
    }
    n->pub.directories =
        carve_copy(&c, b->directories, (size_t)b->directory_count, sizeof *b->directories);
    n->pub.features = carve_copy(&c, b->features, (size_t)b->feature_count, sizeof *b->features);
    for (int32_t k = 0; k < b->feature_count; k++)
        n->pub.features[k].name = carve_str(&c, b->features[k].name);
    pmap_put(&i->brokers, &n->item);
}

void image_remove_broker(struct image *i, int32_t id)
{
    uint8_t key[4];

    store_be32(key, (uint32_t)id);
    (void)pmap_remove(&i->brokers, (struct bytes){key, sizeof key});
}

const struct broker_image *image_broker(const struct image *i, int32_t id)
{
    uint8_t key[4];

    if (id < 0)
        return NULL;
    store_be32(key, (uint32_t)id);

    struct broker_item *b = broker_of(pmap_find(&i->brokers, (struct bytes){key, sizeof key}));

    return b != NULL ? &b->pub : NULL;
}

const struct broker_image *image_broker_next(const struct image *i, int32_t after)
{
    uint8_t key[4];

    store_be32(key, after < 0 ? 0 : (uint32_t)after);

    struct broker_item *b =
        broker_of(pmap_next(&i->brokers, (struct bytes){key, sizeof key}, after < 0));

    return b != NULL ? &b->pub : NULL;
}

int32_t image_broker_count(const struct image *i)
{
    return pmap_count(&i->brokers);
}

/* ---- partitions ---- */

struct partition_item {
    atomic_int refs;
    struct partition_image pub;
    uint64_t memory[];
};

struct partition_chunk {
    atomic_int refs;
    int32_t count;
    struct partition_item *partitions[PARTITIONS_PER_CHUNK];
};

static struct partition_item *partition_item_new(const struct partition_image *p)
{
    size_t ids = sizeof(int32_t);
    size_t size = carved((size_t)p->replica_count * ids) + carved((size_t)p->isr_count * ids) +
                  carved((size_t)p->elr_count * ids) +
                  carved((size_t)p->last_known_elr_count * ids) +
                  carved((size_t)p->adding_count * ids) + carved((size_t)p->removing_count * ids) +
                  carved((size_t)p->offline_count * ids) +
                  carved((size_t)p->replica_count * sizeof *p->directories);
    struct partition_item *n = xcalloc(1, sizeof *n + size);
    struct carver c = {(uint8_t *)n->memory, (uint8_t *)n->memory + size};

    atomic_init(&n->refs, 1);
    n->pub = *p;
    n->pub.replicas = carve_copy(&c, p->replicas, (size_t)p->replica_count, ids);
    n->pub.isr = carve_copy(&c, p->isr, (size_t)p->isr_count, ids);
    n->pub.elr = carve_copy(&c, p->elr, (size_t)p->elr_count, ids);
    n->pub.last_known_elr = carve_copy(&c, p->last_known_elr, (size_t)p->last_known_elr_count, ids);
    n->pub.adding = carve_copy(&c, p->adding, (size_t)p->adding_count, ids);
    n->pub.removing = carve_copy(&c, p->removing, (size_t)p->removing_count, ids);
    n->pub.offline = carve_copy(&c, p->offline, (size_t)p->offline_count, ids);
    n->pub.directories =
        carve_copy(&c, p->directories, (size_t)p->replica_count, sizeof *p->directories);
    return n;
}

static void partition_item_unref(struct partition_item *p)
{
    if (atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) == 1)
        free(p);
}

static void chunk_unref(struct partition_chunk *c)
{
    if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (int32_t i = 0; i < c->count; i++)
        partition_item_unref(c->partitions[i]);
    free(c);
}

/* The chunk in a state that may be changed; consumes one reference. */
static struct partition_chunk *chunk_own(struct partition_chunk *c)
{
    if (atomic_load_explicit(&c->refs, memory_order_acquire) == 1)
        return c;

    struct partition_chunk *n = xcalloc(1, sizeof *n);

    atomic_init(&n->refs, 1);
    n->count = c->count;
    for (int32_t i = 0; i < c->count; i++) {
        n->partitions[i] = c->partitions[i];
        atomic_fetch_add_explicit(&n->partitions[i]->refs, 1, memory_order_relaxed);
    }
    chunk_unref(c);
    return n;
}

/* ---- topics ---- */

struct topic_item {
    struct pmap_item item;
    struct topic_image pub;
    struct partition_chunk **chunks;
    int32_t chunk_count;
    char name[];
};

static struct pmap_item *topic_clone(const struct pmap_item *item);

static void topic_free(struct pmap_item *item)
{
    struct topic_item *t = CONTAINER_OF(item, struct topic_item, item);

    for (int32_t i = 0; i < t->chunk_count; i++)
        chunk_unref(t->chunks[i]);
    free(t->chunks);
    free(t);
}

static const struct pmap_item_type topic_type = {.clone = topic_clone, .free = topic_free};

static struct topic_item *topic_new(const struct topic_image *from)
{
    struct topic_item *t = xcalloc(1, sizeof *t + (size_t)from->name.len);

    pmap_item_init(&t->item, &topic_type);
    t->pub = *from;
    memcpy(t->name, from->name.ptr, (size_t)from->name.len);
    t->pub.name.ptr = t->name;
    t->item.key = uuid_key(&t->pub.id);
    return t;
}

static struct pmap_item *topic_clone(const struct pmap_item *item)
{
    const struct topic_item *from = CONTAINER_OF(item, const struct topic_item, item);
    struct topic_item *t = topic_new(&from->pub);

    t->chunk_count = from->chunk_count;
    t->chunks = xmalloc((size_t)from->chunk_count * sizeof *t->chunks + 1);
    for (int32_t i = 0; i < from->chunk_count; i++) {
        t->chunks[i] = from->chunks[i];
        atomic_fetch_add_explicit(&t->chunks[i]->refs, 1, memory_order_relaxed);
    }
    return &t->item;
}

/* name -> id, and unified name -> name. */
struct name_item {
    struct pmap_item item;
    struct uuid id;
    struct str name;
    char memory[];
};

static const struct pmap_item_type name_type = {.free = free_item};

static struct pmap_item *name_item_new(struct str key, struct str name, const struct uuid *id)
{
    struct name_item *n = xcalloc(1, sizeof *n + (size_t)key.len + (size_t)name.len);

    pmap_item_init(&n->item, &name_type);
    n->id = *id;
    memcpy(n->memory, key.ptr, (size_t)key.len);
    memcpy(n->memory + key.len, name.ptr, (size_t)name.len);
    n->item.key = (struct bytes){(uint8_t *)n->memory, key.len};
    n->name = (struct str){n->memory + key.len, name.len};
    return &n->item;
}

#define UNIFIED_MAX 256

/* Kafka's metric names cannot tell '.' from '_'. False for a name that holds neither. */
static bool unify(struct str name, char out[UNIFIED_MAX], struct str *unified)
{
    bool collides = false;

    if (name.len <= 0 || name.len > UNIFIED_MAX)
        return false;
    for (int32_t i = 0; i < name.len; i++) {
        collides = collides || name.ptr[i] == '.' || name.ptr[i] == '_';
        out[i] = name.ptr[i] == '.' ? '_' : name.ptr[i];
    }
    *unified = (struct str){out, name.len};
    return collides;
}

void image_put_topic(struct image *i, const struct uuid *id, struct str name,
                     uint64_t created_index)
{
    struct topic_image t = {.id = *id, .name = name, .created_index = created_index};
    char buffer[UNIFIED_MAX];
    struct str unified;

    CHECK(name.len > 0);
    CHECK(image_topic_by_id(i, id) == NULL);
    pmap_put(&i->topics, &topic_new(&t)->item);
    pmap_put(&i->topic_names, name_item_new(name, STR_EMPTY, id));
    if (unify(name, buffer, &unified))
        pmap_put(&i->topic_unified, name_item_new(unified, name, id));
}

void image_remove_topic(struct image *i, const struct uuid *id)
{
    const struct topic_image *t = image_topic_by_id(i, id);
    char buffer[UNIFIED_MAX];
    struct str unified;

    CHECK(t != NULL);
    i->partition_count -= t->partition_count;
    if (unify(t->name, buffer, &unified))
        (void)pmap_remove(&i->topic_unified, str_key(unified));
    (void)pmap_remove(&i->topic_names, str_key(t->name));
    (void)pmap_remove(&i->topics, uuid_key(id));
}

struct str image_colliding_topic(const struct image *i, struct str name)
{
    char buffer[UNIFIED_MAX];
    struct str unified;

    if (!unify(name, buffer, &unified))
        return STR_NULL;

    struct pmap_item *item = pmap_find(&i->topic_unified, str_key(unified));

    return item != NULL ? CONTAINER_OF(item, struct name_item, item)->name : STR_NULL;
}

static struct topic_item *topic_modify(struct image *i, const struct uuid *id)
{
    struct pmap_item *item = pmap_modify(&i->topics, uuid_key(id));

    CHECK(item != NULL);
    return CONTAINER_OF(item, struct topic_item, item);
}

void image_add_partition(struct image *i, const struct uuid *id, const struct partition_image *p)
{
    struct topic_item *t = topic_modify(i, id);
    int32_t at = t->pub.partition_count % PARTITIONS_PER_CHUNK;

    if (at == 0) {
        t->chunks = xrealloc(t->chunks, ((size_t)t->chunk_count + 1) * sizeof *t->chunks);
        t->chunks[t->chunk_count] = xcalloc(1, sizeof **t->chunks);
        atomic_init(&t->chunks[t->chunk_count]->refs, 1);
        t->chunk_count++;
    }

    struct partition_chunk **c = &t->chunks[t->chunk_count - 1];

    *c = chunk_own(*c);
    (*c)->partitions[at] = partition_item_new(p);
    (*c)->count = at + 1;
    t->pub.partition_count++;
    i->partition_count++;
}

void image_put_partition(struct image *i, const struct uuid *id, int32_t partition,
                         const struct partition_image *p)
{
    struct topic_item *t = topic_modify(i, id);

    CHECK(partition >= 0 && partition < t->pub.partition_count);

    struct partition_chunk **c = &t->chunks[partition / PARTITIONS_PER_CHUNK];
    /* Made before the old one goes: `p` may point into it. */
    struct partition_item *n = partition_item_new(p);

    *c = chunk_own(*c);
    partition_item_unref((*c)->partitions[partition % PARTITIONS_PER_CHUNK]);
    (*c)->partitions[partition % PARTITIONS_PER_CHUNK] = n;
}

const struct topic_image *image_topic_by_id(const struct image *i, const struct uuid *id)
{
    struct pmap_item *item = pmap_find(&i->topics, uuid_key(id));

    return item != NULL ? &CONTAINER_OF(item, struct topic_item, item)->pub : NULL;
}

static const struct topic_image *topic_of_name(const struct image *i, struct pmap_item *item)
{
    return item != NULL ? image_topic_by_id(i, &CONTAINER_OF(item, struct name_item, item)->id)
                        : NULL;
}

const struct topic_image *image_topic(const struct image *i, struct str name)
{
    return topic_of_name(i, pmap_find(&i->topic_names, str_key(name)));
}

const struct topic_image *image_topic_next(const struct image *i, struct str after)
{
    return topic_of_name(i, pmap_next(&i->topic_names, str_key(after), false));
}

int32_t image_topic_count(const struct image *i)
{
    return pmap_count(&i->topics);
}

int64_t image_partition_count(const struct image *i)
{
    return i->partition_count;
}

const struct partition_image *topic_partition(const struct topic_image *pub, int32_t partition)
{
    const struct topic_item *t = CONTAINER_OF(pub, const struct topic_item, pub);

    if (partition < 0 || partition >= pub->partition_count)
        return NULL;
    return &t->chunks[partition / PARTITIONS_PER_CHUNK]
                ->partitions[partition % PARTITIONS_PER_CHUNK]
                ->pub;
}

/* ---- configs ---- */

struct config_item {
    struct pmap_item item;
    struct config_entry *entries;
    int32_t entry_count;
    uint64_t memory[];
};

static const struct pmap_item_type config_type = {.free = free_item};

#define CONFIG_KEY_MAX 512
struct config_key {
    uint8_t bytes[CONFIG_KEY_MAX];
    struct bytes key;
};

/* One byte of type, then the name. Names are bounded by the state machine. */
static struct bytes config_key(struct config_key *k, enum config_resource type, struct str name)
{
    size_t size = (size_t)MAX(name.len, 0);

    if (size > CONFIG_KEY_MAX - 1)
        size = CONFIG_KEY_MAX - 1; /* longer than any that can have been stored */
    k->bytes[0] = (uint8_t)type;
    if (size > 0)
        memcpy(k->bytes + 1, name.ptr, size);
    k->key = (struct bytes){k->bytes, (int32_t)size + 1};
    return k->key;
}

static struct config_item *config_find(const struct image *i, enum config_resource type,
                                       struct str name)
{
    struct config_key k;
    struct pmap_item *item = pmap_find(&i->configs, config_key(&k, type, name));

    return item != NULL ? CONTAINER_OF(item, struct config_item, item) : NULL;
}

static void config_store(struct image *i, enum config_resource type, struct str name,
                         const struct config_entry *entries, int32_t count)
{
    struct config_key k;
    struct bytes key = config_key(&k, type, name);
    size_t size = carved((size_t)key.len) + carved((size_t)count * sizeof *entries);

    CHECK(name.len < CONFIG_KEY_MAX);
    for (int32_t e = 0; e < count; e++)
        size += carved_str(entries[e].key) + carved_str(entries[e].value);

    struct config_item *n = xcalloc(1, sizeof *n + size);
    struct carver c = {(uint8_t *)n->memory, (uint8_t *)n->memory + size};

    pmap_item_init(&n->item, &config_type);
    n->item.key = (struct bytes){carve_copy(&c, key.ptr, (size_t)key.len, 1), key.len};
    n->entry_count = count;
    n->entries = carve_copy(&c, entries, (size_t)count, sizeof *entries);
    for (int32_t e = 0; e < count; e++) {
        n->entries[e].key = carve_str(&c, entries[e].key);
        n->entries[e].value = carve_str(&c, entries[e].value);
    }
    pmap_put(&i->configs, &n->item);
}

/* The position of `key` among sorted entries, or where it would be. */
static int32_t config_position(const struct config_item *n, struct str key, bool *found)
{
    int32_t low = 0, high = n != NULL ? n->entry_count : 0;

    *found = false;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        int c = str_cmp(n->entries[middle].key, key);

        if (c == 0) {
            *found = true;
            return middle;
        }
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void image_put_config(struct image *i, enum config_resource type, struct str name, struct str key,
                      struct str value)
{
    const struct config_item *old = config_find(i, type, name);
    bool found;
    int32_t at = config_position(old, key, &found);
    int32_t old_count = old != NULL ? old->entry_count : 0, count = old_count + (found ? 0 : 1);
    struct config_entry *entries = xcalloc((size_t)count, sizeof *entries);

    for (int32_t e = 0; e < at; e++)
        entries[e] = old->entries[e];
    entries[at] = (struct config_entry){key, value};
    for (int32_t e = at + (found ? 1 : 0); e < old_count; e++)
        entries[e + (found ? 0 : 1)] = old->entries[e];
    config_store(i, type, name, entries, count);
    free(entries);
}

bool image_remove_config(struct image *i, enum config_resource type, struct str name,
                         struct str key)
{
    const struct config_item *old = config_find(i, type, name);
    bool found;
    int32_t at = config_position(old, key, &found);

    if (!found)
        return false;
    if (old->entry_count == 1) {
        image_remove_config_resource(i, type, name);
        return true;
    }

    struct config_entry *entries = xcalloc((size_t)old->entry_count - 1, sizeof *entries);

    for (int32_t e = 0, to = 0; e < old->entry_count; e++) {
        if (e != at)
            entries[to++] = old->entries[e];
    }
    config_store(i, type, name, entries, old->entry_count - 1);
    free(entries);
    return true;
}

void image_remove_config_resource(struct image *i, enum config_resource type, struct str name)
{
    struct config_key k;

    (void)pmap_remove(&i->configs, config_key(&k, type, name));
}

bool image_config_get(const struct image *i, enum config_resource type, struct str name,
                      struct str key, struct str *value)
{
    const struct config_item *n = config_find(i, type, name);
    bool found;
    int32_t at = config_position(n, key, &found);

    if (found)
        *value = n->entries[at].value;
    return found;
}

bool image_config_entries(const struct image *i, enum config_resource type, struct str name,
                          const struct config_entry **entries, int32_t *count)
{
    const struct config_item *n = config_find(i, type, name);

    *entries = n != NULL ? n->entries : NULL;
    *count = n != NULL ? n->entry_count : 0;
    return n != NULL;
}

bool image_config_next(const struct image *i, enum config_resource type, struct str after,
                       struct str *name)
{
    struct config_key k;
    struct pmap_item *item =
        pmap_next(&i->configs, config_key(&k, type, after), str_is_null(after));

    if (item == NULL || item->key.ptr[0] != (uint8_t)type)
        return false;
    *name = (struct str){(const char *)item->key.ptr + 1, item->key.len - 1};
    return true;
}

/* ---- features ---- */

struct feature_item {
    struct pmap_item item;
    int16_t level;
    char name[];
};

static const struct pmap_item_type feature_type = {.free = free_item};

static void flatten_features(struct image *i)
{
    free(i->feature_list);
    i->feature_count = 0;
    i->feature_list = xcalloc((size_t)pmap_count(&i->features) + 1, sizeof *i->feature_list);
    for (struct pmap_item *at = pmap_next(&i->features, BYTES_NULL, false); at != NULL;
         at = pmap_next(&i->features, at->key, false)) {
        struct feature_image *f = &i->feature_list[i->feature_count++];

        f->name = (struct str){(const char *)at->key.ptr, at->key.len};
        f->level = CONTAINER_OF(at, struct feature_item, item)->level;
    }
}

void image_put_feature(struct image *i, struct str name, int16_t level)
{
    if (level == 0) {
        (void)pmap_remove(&i->features, str_key(name));
    } else {
        struct feature_item *n = xcalloc(1, sizeof *n + (size_t)name.len);

        pmap_item_init(&n->item, &feature_type);
        memcpy(n->name, name.ptr, (size_t)name.len);
        n->item.key = (struct bytes){(uint8_t *)n->name, name.len};
        n->level = level;
        pmap_put(&i->features, &n->item);
    }
    flatten_features(i);
}

int32_t image_features(const struct image *i, const struct feature_image **out)
{
    *out = i->feature_list;
    return i->feature_count;
}

int16_t image_feature(const struct image *i, const char *name)
{
    struct pmap_item *item = pmap_find(&i->features, str_key(str_from(name)));

    return item != NULL ? CONTAINER_OF(item, struct feature_item, item)->level : 0;
}

int64_t image_features_epoch(const struct image *i)
{
    return i->features_epoch;
}

void image_set_features_epoch(struct image *i, int64_t epoch)
{
    i->features_epoch = epoch;
}

/* ---- lanes ---- */

struct lane_item {
    struct pmap_item item;
    uint8_t key[8];
    struct lane_image pub;
    uint8_t outcome[];
};

static const struct pmap_item_type lane_type = {.free = free_item};

static struct bytes lane_key(uint8_t key[8], int32_t node, uint32_t lane)
{
    store_be32(key, (uint32_t)node);
    store_be32(key + 4, lane);
    return (struct bytes){key, 8};
}

static const struct lane_image *lane_of(struct pmap_item *item)
{
    return item != NULL ? &CONTAINER_OF(item, struct lane_item, item)->pub : NULL;
}

const struct lane_image *image_lane(const struct image *i, int32_t node, uint32_t lane)
{
    uint8_t key[8];

    return lane_of(pmap_find(&i->lanes, lane_key(key, node, lane)));
}

const struct lane_image *image_lane_next(const struct image *i, const struct lane_image *after)
{
    uint8_t key[8];

    if (after == NULL)
        return lane_of(pmap_next(&i->lanes, BYTES_NULL, false));
    return lane_of(pmap_next(&i->lanes, lane_key(key, after->node, after->lane), false));
}

void image_put_lane(struct image *i, const struct lane_image *l)
{
    struct lane_item *n = xcalloc(1, sizeof *n + (size_t)MAX(l->outcome.len, 0));

    pmap_item_init(&n->item, &lane_type);
    n->item.key = lane_key(n->key, l->node, l->lane);
    n->pub = *l;
    if (l->outcome.len > 0)
        memcpy(n->outcome, l->outcome.ptr, (size_t)l->outcome.len);
    n->pub.outcome = (struct bytes){n->outcome, MAX(l->outcome.len, 0)};
    pmap_put(&i->lanes, &n->item);
}

void image_drop_lanes(struct image *i, int32_t node)
{
    uint8_t key[8];

    for (;;) {
        const struct lane_image *l = lane_of(pmap_next(&i->lanes, lane_key(key, node, 0), true));

        if (l == NULL || l->node != node)
            return;
        (void)pmap_remove(&i->lanes, lane_key(key, l->node, l->lane));
    }
}

/* ---- the whole ---- */

struct image *image_new(void)
{
    struct image *i = xcalloc(1, sizeof *i);

    atomic_init(&i->refs, 1);
    return i;
}

struct image *image_edit(const struct image *base)
{
    struct image *i = xmalloc(sizeof *i);

    *i = (struct image){
        .index = base->index,
        .time_ms = base->time_ms,
        .features_epoch = base->features_epoch,
        .next_producer_id = base->next_producer_id,
        .unclean_elections = base->unclean_elections,
        .partition_count = base->partition_count,
        .brokers = pmap_share(&base->brokers),
        .topics = pmap_share(&base->topics),
        .topic_names = pmap_share(&base->topic_names),
        .topic_unified = pmap_share(&base->topic_unified),
        .configs = pmap_share(&base->configs),
        .lanes = pmap_share(&base->lanes),
        .features = pmap_share(&base->features),
    };
    atomic_init(&i->refs, 1);
    memcpy(i->cluster_id, base->cluster_id, sizeof i->cluster_id);
    flatten_features(i);
    return i;
}

struct image *image_ref(struct image *i)
{
    atomic_fetch_add_explicit(&i->refs, 1, memory_order_relaxed);
    return i;
}

void image_unref(struct image *i)
{
    if (i == NULL || atomic_fetch_sub_explicit(&i->refs, 1, memory_order_acq_rel) != 1)
        return;
    pmap_drop(&i->brokers);
    pmap_drop(&i->topics);
    pmap_drop(&i->topic_names);
    pmap_drop(&i->topic_unified);
    pmap_drop(&i->configs);
    pmap_drop(&i->lanes);
    pmap_drop(&i->features);
    free(i->feature_list);
    free(i);
}

uint64_t image_index(const struct image *i)
{
    return i->index;
}

int64_t image_time_ms(const struct image *i)
{
    return i->time_ms;
}

struct str image_cluster_id(const struct image *i)
{
    return str_from(i->cluster_id);
}

int64_t image_next_producer_id(const struct image *i)
{
    return i->next_producer_id;
}

int64_t image_unclean_elections(const struct image *i)
{
    return i->unclean_elections;
}

void image_set_applied(struct image *i, uint64_t index)
{
    CHECK(index >= i->index);
    i->index = index;
}

void image_advance_time(struct image *i, int64_t time_ms)
{
    i->time_ms = MAX(i->time_ms, time_ms);
}

void image_set_cluster_id(struct image *i, struct str id)
{
    CHECK(id.len >= 0 && id.len <= CLUSTER_ID_MAX);
    memcpy(i->cluster_id, id.ptr, (size_t)id.len);
    i->cluster_id[id.len] = 0;
}

void image_set_next_producer_id(struct image *i, int64_t id)
{
    i->next_producer_id = id;
}

void image_set_unclean_elections(struct image *i, int64_t count)
{
    i->unclean_elections = count;
}

/* ---- the published image ---- */

void image_slot_init(struct image_slot *s, struct env *env)
{
    mutex_init(&s->lock, env);
    mutex_lock(&s->lock);
    s->current = image_new();
    mutex_unlock(&s->lock);
    atomic_init(&s->version, 1);
}

void image_slot_deinit(struct image_slot *s)
{
    mutex_lock(&s->lock);
    image_unref(s->current);
    s->current = NULL;
    mutex_unlock(&s->lock);
    mutex_deinit(&s->lock);
}

void image_slot_publish(struct image_slot *s, struct image *i)
{
    struct image *old;

    (void)image_ref(i);
    mutex_lock(&s->lock);
    old = s->current;
    s->current = i;
    mutex_unlock(&s->lock);
    atomic_fetch_add_explicit(&s->version, 1, memory_order_release);
    image_unref(old);
}

struct image *image_slot_acquire(struct image_slot *s)
{
    struct image *i;

    mutex_lock(&s->lock);
    i = image_ref(s->current);
    mutex_unlock(&s->lock);
    return i;
}

void image_cache_init(struct image_cache *c, struct image_slot *s)
{
    c->slot = s;
    c->version = atomic_load_explicit(&s->version, memory_order_acquire);
    c->image = image_slot_acquire(s);
}

void image_cache_deinit(struct image_cache *c)
{
    image_unref(c->image);
    c->image = NULL;
}

struct image *image_cache_get(struct image_cache *c)
{
    uint64_t version = atomic_load_explicit(&c->slot->version, memory_order_acquire);

    if (version != c->version) {
        image_unref(c->image);
        c->image = image_slot_acquire(c->slot);
        c->version = version;
    }
    return c->image;
}
