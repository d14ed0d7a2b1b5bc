#include "protocol/base/heap.h"

#include <stdlib.h>

#include "protocol/base/check.h"

#define CAPACITY_FIRST 16

void heap_init(struct heap *h)
{
    *h = (struct heap){0};
}

void heap_deinit(struct heap *h)
{
    free(h->nodes);
    heap_init(h);
}

static bool less(const struct heap_node *a, const struct heap_node *b)
{
    return a->key != b->key ? a->key < b->key : a->sequence < b->sequence;
}

static void place(struct heap *h, struct heap_node *n, size_t index)
{
    h->nodes[index] = n;
    n->index = index;
}

static void sift_up(struct heap *h, struct heap_node *n, size_t index)
{
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (!less(n, h->nodes[parent]))
            break;
        place(h, h->nodes[parent], index);
        index = parent;
    }
    place(h, n, index);
}

static void sift_down(struct heap *h, struct heap_node *n, size_t index)
{
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= h->count)
            break;
        if (child + 1 < h->count && less(h->nodes[child + 1], h->nodes[child]))
            child++;
        if (!less(h->nodes[child], n))
            break;
        place(h, h->nodes[child], index);
        index = child;
    }
    place(h, n, index);
}

void heap_push(struct heap *h, struct heap_node *n, uint64_t key)
{
    CHECK(!heap_contains(n));
    if (h->count == h->capacity) {
        h->capacity = h->capacity == 0 ? CAPACITY_FIRST : h->capacity * 2;
        h->nodes = xrealloc(h->nodes, h->capacity * sizeof h->nodes[0]);
    }
    n->key = key;
    n->sequence = h->sequence_next++;
    sift_up(h, n, h->count++);
}

void heap_remove(struct heap *h, struct heap_node *n)
{
    size_t hole = n->index;

    CHECK(hole < h->count);
    CHECK(h->nodes[hole] == n);

    struct heap_node *last = h->nodes[--h->count];
    n->index = HEAP_NOT_IN;
    if (last == n)
        return;
    if (hole > 0 && less(last, h->nodes[(hole - 1) / 2]))
        sift_up(h, last, hole);
    else
        sift_down(h, last, hole);
}
