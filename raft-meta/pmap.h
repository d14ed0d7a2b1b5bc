/* raft-meta/pmap.h -- a persistent ordered map: old versions stay whole while a new one is made.
 *
 * A treap whose priorities are a hash of the key under a fixed seed, so that its shape depends on
 * its content alone. A change copies the O(log n) nodes above it, unless nobody else can see them:
 * a node whose only reference is ours is changed in place, so a batch of changes to a private map
 * costs what a mutable map would.
 *
 * Keys are bytes, ordered bytewise; the item holds its key. Items are counted and shared between
 * versions; an item that others may see is cloned before it is changed (pmap_modify).
 *
 * Thread: a root that is being changed belongs to one thread; a shared one may be read by any.
 */
#ifndef FLUXMQ_RAFT_META_PMAP_H
#define FLUXMQ_RAFT_META_PMAP_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/base/bytes.h"
#include "protocol/base/check.h"

struct pmap_item;

struct pmap_item_type {
    struct pmap_item *(*clone)(const struct pmap_item *item); /* one reference; NULL: never asked */
    void (*free)(struct pmap_item *item);
};

/* Embedded first in what the map holds. */
struct pmap_item {
    atomic_int refs;
    const struct pmap_item_type *type;
    struct bytes key; /* inside the item */
};

struct pmap_node;

struct pmap {
    struct pmap_node *root;
};

void pmap_item_init(struct pmap_item *item, const struct pmap_item_type *type);
struct pmap_item *pmap_item_ref(struct pmap_item *item);
void pmap_item_unref(struct pmap_item *item);

/* Another version that begins as this one. */
struct pmap pmap_share(const struct pmap *m);
void pmap_drop(struct pmap *m);

int32_t pmap_count(const struct pmap *m);
struct pmap_item *pmap_find(const struct pmap *m, struct bytes key);
/* The item with the least key greater than `after` (or not less, with `or_equal`); NULL ends. */
struct pmap_item *pmap_next(const struct pmap *m, struct bytes after, bool or_equal);

/* Takes over the caller's reference; replaces an item with the same key. */
void pmap_put(struct pmap *m, struct pmap_item *item);
/* False when there was none. */
bool pmap_remove(struct pmap *m, struct bytes key);
/* The item, in a state that may be changed in place (but for its key); NULL when absent. */
struct pmap_item *pmap_modify(struct pmap *m, struct bytes key);

#endif
