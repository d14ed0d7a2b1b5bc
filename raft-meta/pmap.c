/* raft-meta/pmap.c -- see pmap.h. Functions that take a node by value consume one reference to it
 * and return one to the result. */
#include "raft-meta/pmap.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base/hmap.h"

/* Fixed for ever: every node must build the same shape. */
#define PRIORITY_SEED 0x666c75786d71ull

struct pmap_node {
    atomic_int refs;
    int32_t count; /* items in this subtree */
    uint64_t priority;
    struct pmap_item *item;
    struct pmap_node *left, *right;
};

static int compare(struct bytes a, struct bytes b)
{
    int32_t n = MIN(a.len, b.len);
    int c = n > 0 ? memcmp(a.ptr, b.ptr, (size_t)n) : 0;

    return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

void pmap_item_init(struct pmap_item *item, const struct pmap_item_type *type)
{
    atomic_init(&item->refs, 1);
    item->type = type;
}

struct pmap_item *pmap_item_ref(struct pmap_item *item)
{
    atomic_fetch_add_explicit(&item->refs, 1, memory_order_relaxed);
    return item;
}

void pmap_item_unref(struct pmap_item *item)
{
    if (atomic_fetch_sub_explicit(&item->refs, 1, memory_order_acq_rel) == 1)
        item->type->free(item);
}

static struct pmap_node *node_ref(struct pmap_node *n)
{
    if (n != NULL)
        atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
    return n;
}

static void node_unref(struct pmap_node *n)
{
    while (n != NULL && atomic_fetch_sub_explicit(&n->refs, 1, memory_order_acq_rel) == 1) {
        struct pmap_node *right = n->right;

        node_unref(n->left);
        pmap_item_unref(n->item);
        free(n);
        n = right;
    }
}

static struct pmap_node *node_new(struct pmap_item *item)
{
    struct pmap_node *n = xcalloc(1, sizeof *n);

    atomic_init(&n->refs, 1);
    n->count = 1;
    n->priority = hash_bytes(PRIORITY_SEED, item->key.ptr, (size_t)item->key.len);
    n->item = item;
    return n;
}

/* The node itself when nobody else can see it, else a copy. */
static struct pmap_node *own(struct pmap_node *n)
{
    if (atomic_load_explicit(&n->refs, memory_order_acquire) == 1)
        return n;

    struct pmap_node *copy = xmalloc(sizeof *copy);

    atomic_init(&copy->refs, 1);
    copy->count = n->count;
    copy->priority = n->priority;
    copy->item = pmap_item_ref(n->item);
    copy->left = node_ref(n->left);
    copy->right = node_ref(n->right);
    node_unref(n);
    return copy;
}

static int32_t count_of(const struct pmap_node *n)
{
    return n != NULL ? n->count : 0;
}

static void recount(struct pmap_node *n)
{
    n->count = 1 + count_of(n->left) + count_of(n->right);
}

/* Of two nodes with equal priority the one with the lesser key is above. */
static struct pmap_node *insert(struct pmap_node *n, struct pmap_item *item)
{
    if (n == NULL)
        return node_new(item);
    n = own(n);

    int c = compare(item->key, n->item->key);

    if (c == 0) {
        pmap_item_unref(n->item);
        n->item = item;
        return n;
    }
    if (c < 0) {
        struct pmap_node *l = insert(n->left, item);

        n->left = l;
        recount(n);
        if (l->priority < n->priority)
            return n;
        n->left = l->right;
        recount(n);
        l->right = n;
        recount(l);
        return l;
    }

    struct pmap_node *r = insert(n->right, item);

    n->right = r;
    recount(n);
    if (r->priority <= n->priority)
        return n;
    n->right = r->left;
    recount(n);
    r->left = n;
    recount(r);
    return r;
}

/* Every key of `l` is below every key of `r`. */
static struct pmap_node *merge(struct pmap_node *l, struct pmap_node *r)
{
    if (l == NULL)
        return r;
    if (r == NULL)
        return l;
    if (l->priority >= r->priority) {
        l = own(l);
        l->right = merge(l->right, r);
        recount(l);
        return l;
    }
    r = own(r);
    r->left = merge(l, r->left);
    recount(r);
    return r;
}

/* The key is present. */
static struct pmap_node *erase(struct pmap_node *n, struct bytes key)
{
    int c = compare(key, n->item->key);

    if (c == 0) {
        struct pmap_node *l = node_ref(n->left), *r = node_ref(n->right);

        node_unref(n);
        return merge(l, r);
    }
    n = own(n);
    if (c < 0)
        n->left = erase(n->left, key);
    else
        n->right = erase(n->right, key);
    recount(n);
    return n;
}

struct pmap pmap_share(const struct pmap *m)
{
    return (struct pmap){node_ref(m->root)};
}

void pmap_drop(struct pmap *m)
{
    node_unref(m->root);
    m->root = NULL;
}

int32_t pmap_count(const struct pmap *m)
{
    return count_of(m->root);
}

struct pmap_item *pmap_find(const struct pmap *m, struct bytes key)
{
    for (struct pmap_node *n = m->root; n != NULL;) {
        int c = compare(key, n->item->key);

        if (c == 0)
            return n->item;
        n = c < 0 ? n->left : n->right;
    }
    return NULL;
}

struct pmap_item *pmap_next(const struct pmap *m, struct bytes after, bool or_equal)
{
    struct pmap_item *best = NULL;

    for (struct pmap_node *n = m->root; n != NULL;) {
        int c = compare(after, n->item->key);

        if (c < 0 || (c == 0 && or_equal)) {
            best = n->item;
            n = n->left;
        } else {
            n = n->right;
        }
    }
    return best;
}

void pmap_put(struct pmap *m, struct pmap_item *item)
{
    m->root = insert(m->root, item);
}

bool pmap_remove(struct pmap *m, struct bytes key)
{
    if (pmap_find(m, key) == NULL)
        return false;
    m->root = erase(m->root, key);
    return true;
}

struct pmap_item *pmap_modify(struct pmap *m, struct bytes key)
{
    if (pmap_find(m, key) == NULL)
        return NULL;

    struct pmap_node **at = &m->root;

    for (;;) {
        struct pmap_node *n = *at = own(*at);
        int c = compare(key, n->item->key);

        if (c != 0) {
            at = c < 0 ? &n->left : &n->right;
            continue;
        }
        if (atomic_load_explicit(&n->item->refs, memory_order_acquire) != 1) {
            struct pmap_item *copy = n->item->type->clone(n->item);

            pmap_item_unref(n->item);
            n->item = copy;
        }
        return n->item;
    }
}
