/* protocol/base/hmap.h -- an intrusive, seeded hash map with chaining.
 *
 * Clients choose topic and group names, so the hash is keyed by a seed from env. Order of
 * iteration depends on the seed: never let it show (sort, or keep a list beside the map).
 */
#ifndef FLUXMQ_BASE_HMAP_H
#define FLUXMQ_BASE_HMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hmap_node {
    struct hmap_node *next;
    uint64_t hash;
};

struct hmap {
    struct hmap_node **buckets;
    size_t bucket_count; /* a power of two */
    size_t count;
    uint64_t seed;
};

void hmap_init(struct hmap *m, uint64_t seed);
void hmap_deinit(struct hmap *m); /* the nodes are the caller's */

/* xxHash (XXH3, 64 bits) of the bytes under the map's seed. */
uint64_t hmap_hash(const struct hmap *m, const void *ptr, size_t size);
uint64_t hash_bytes(uint64_t seed, const void *ptr, size_t size);

void hmap_insert(struct hmap *m, struct hmap_node *n, uint64_t hash);
void hmap_remove(struct hmap *m, struct hmap_node *n);
/* First node with this hash, then the next: compare the real key yourself. */
struct hmap_node *hmap_first_with_hash(const struct hmap *m, uint64_t hash);
struct hmap_node *hmap_next_with_hash(const struct hmap_node *n);
/* Any order; NULL ends. The node just returned may be removed before the next call. */
struct hmap_node *hmap_begin(const struct hmap *m);
struct hmap_node *hmap_after(const struct hmap *m, const struct hmap_node *n);

#endif
