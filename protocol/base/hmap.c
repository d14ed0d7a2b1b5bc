#include "protocol/base/hmap.h"

#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "protocol/base/check.h"

#define BUCKETS_FIRST 8

/* No bucket is allocated before the first insertion: there are many small maps that stay empty. */
void hmap_init(struct hmap *m, uint64_t seed)
{
    *m = (struct hmap){.seed = seed};
}

void hmap_deinit(struct hmap *m)
{
    free(m->buckets);
    hmap_init(m, m->seed);
}

uint64_t hmap_hash(const struct hmap *m, const void *ptr, size_t size)
{
    return hash_bytes(m->seed, ptr, size);
}

uint64_t hash_bytes(uint64_t seed, const void *ptr, size_t size)
{
    return XXH3_64bits_withSeed(ptr, size, seed);
}

static struct hmap_node **bucket_of(const struct hmap *m, uint64_t hash)
{
    return &m->buckets[hash & (m->bucket_count - 1)];
}

static void grow(struct hmap *m)
{
    struct hmap_node **old = m->buckets;
    size_t old_count = m->bucket_count;

    m->bucket_count = old_count == 0 ? BUCKETS_FIRST : old_count * 2;
    m->buckets = xcalloc(m->bucket_count, sizeof(struct hmap_node *));
    for (size_t i = 0; i < old_count; i++) {
        for (struct hmap_node *n = old[i], *next; n != NULL; n = next) {
            struct hmap_node **bucket = bucket_of(m, n->hash);
            next = n->next;
            n->next = *bucket;
            *bucket = n;
        }
    }
    free(old);
}

void hmap_insert(struct hmap *m, struct hmap_node *n, uint64_t hash)
{
    if (m->count >= m->bucket_count)
        grow(m);

    struct hmap_node **bucket = bucket_of(m, hash);
    n->hash = hash;
    n->next = *bucket;
    *bucket = n;
    m->count++;
}

/* Leaves `n` as it was, so that hmap_after() can go on from a node just removed; for the same
 * reason the map never shrinks. */
void hmap_remove(struct hmap *m, struct hmap_node *n)
{
    CHECK(m->count > 0);

    struct hmap_node **at = bucket_of(m, n->hash);
    while (*at != n) {
        CHECK(*at != NULL);
        at = &(*at)->next;
    }
    *at = n->next;
    m->count--;
}

static struct hmap_node *with_hash(struct hmap_node *n, uint64_t hash)
{
    while (n != NULL && n->hash != hash)
        n = n->next;
    return n;
}

struct hmap_node *hmap_first_with_hash(const struct hmap *m, uint64_t hash)
{
    return m->count == 0 ? NULL : with_hash(*bucket_of(m, hash), hash);
}

struct hmap_node *hmap_next_with_hash(const struct hmap_node *n)
{
    return with_hash(n->next, n->hash);
}

static struct hmap_node *first_from_bucket(const struct hmap *m, size_t i)
{
    for (; i < m->bucket_count; i++) {
        if (m->buckets[i] != NULL)
            return m->buckets[i];
    }
    return NULL;
}

struct hmap_node *hmap_begin(const struct hmap *m)
{
    return first_from_bucket(m, 0);
}

struct hmap_node *hmap_after(const struct hmap *m, const struct hmap_node *n)
{
    if (n->next != NULL)
        return n->next;
    return first_from_bucket(m, (size_t)(n->hash & (m->bucket_count - 1)) + 1);
}
