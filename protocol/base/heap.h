/* protocol/base/heap.h -- an intrusive binary min-heap; ties leave in the order of insertion. */
#ifndef FLUXMQ_BASE_HEAP_H
#define FLUXMQ_BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEAP_NOT_IN SIZE_MAX

struct heap_node {
    uint64_t key;
    uint64_t sequence; /* breaks ties, so that runs repeat */
    size_t index;      /* HEAP_NOT_IN while outside */
};

struct heap {
    struct heap_node **nodes;
    size_t count, capacity;
    uint64_t sequence_next;
};

void heap_init(struct heap *h);
void heap_deinit(struct heap *h); /* the nodes are the caller's */
static inline void heap_node_init(struct heap_node *n)
{
    n->index = HEAP_NOT_IN;
}
static inline bool heap_contains(const struct heap_node *n)
{
    return n->index != HEAP_NOT_IN;
}
void heap_push(struct heap *h, struct heap_node *n, uint64_t key);
void heap_remove(struct heap *h, struct heap_node *n);
static inline struct heap_node *heap_min(const struct heap *h)
{
    return h->count > 0 ? h->nodes[0] : NULL;
}

#endif
