#include "broker/topic_settings_cache.h"

#include <stdlib.h>

#include "protocol/base/hmap.h"

struct entry {
    struct hmap_node node;
    struct uuid topic_id;
    uint64_t image_index;
    struct topic_settings settings;
};

struct topic_settings_cache {
    const struct config *config;
    struct hmap entries;
};

struct topic_settings_cache *topic_settings_cache_new(const struct config *config, uint64_t seed)
{
    struct topic_settings_cache *c = xcalloc(1, sizeof *c);

    c->config = config;
    hmap_init(&c->entries, seed);
    return c;
}

static void forget_all(struct topic_settings_cache *c)
{
    struct hmap_node *n;

    while ((n = hmap_begin(&c->entries)) != NULL) {
        hmap_remove(&c->entries, n);
        free(CONTAINER_OF(n, struct entry, node));
    }
}

void topic_settings_cache_free(struct topic_settings_cache *c)
{
    if (c == NULL)
        return;
    forget_all(c);
    hmap_deinit(&c->entries);
    free(c);
}

static struct entry *find_or_add(struct topic_settings_cache *c, const struct uuid *topic_id)
{
    uint64_t hash = hmap_hash(&c->entries, topic_id->b, sizeof topic_id->b);

    for (struct hmap_node *n = hmap_first_with_hash(&c->entries, hash); n != NULL;
         n = hmap_next_with_hash(n)) {
        struct entry *e = CONTAINER_OF(n, struct entry, node);

        if (uuid_eq(&e->topic_id, topic_id))
            return e;
    }
    if (c->entries.count >= TOPIC_SETTINGS_MAX)
        forget_all(c); /* also what belongs to topics that are gone */

    struct entry *e = xcalloc(1, sizeof *e);

    e->topic_id = *topic_id;
    e->image_index = UINT64_MAX; /* no image's */
    hmap_insert(&c->entries, &e->node, hash);
    return e;
}

const struct topic_settings *topic_settings_cache_get(struct topic_settings_cache *c,
                                                      const struct image *i,
                                                      const struct topic_image *t)
{
    struct entry *e = find_or_add(c, &t->id);

    if (e->image_index != image_index(i)) {
        config_topic_settings(c->config, i, t->name, &e->settings);
        e->image_index = image_index(i);
    }
    return &e->settings;
}
