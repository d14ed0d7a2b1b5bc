/* protocol/base/list.h -- an intrusive doubly linked list with a sentinel. */
#ifndef FLUXMQ_BASE_LIST_H
#define FLUXMQ_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/base/check.h"

struct list_node {
    struct list_node *next, *prev;
};

struct list {
    struct list_node head;
};

static inline void list_init(struct list *l)
{
    l->head.next = l->head.prev = &l->head;
}
static inline void list_node_init(struct list_node *n)
{
    n->next = n->prev = NULL;
}
static inline bool list_empty(const struct list *l)
{
    return l->head.next == &l->head;
}
static inline bool list_linked(const struct list_node *n)
{
    return n->next != NULL;
}
static inline void list_insert_before(struct list_node *at, struct list_node *n)
{
    n->prev = at->prev;
    n->next = at;
    at->prev->next = n;
    at->prev = n;
}
static inline void list_push_back(struct list *l, struct list_node *n)
{
    list_insert_before(&l->head, n);
}
static inline void list_push_front(struct list *l, struct list_node *n)
{
    list_insert_before(l->head.next, n);
}
static inline void list_remove(struct list_node *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->next = n->prev = NULL;
}
static inline struct list_node *list_first(const struct list *l)
{
    return list_empty(l) ? NULL : l->head.next;
}
static inline struct list_node *list_pop_front(struct list *l)
{
    struct list_node *n = list_first(l);
    if (n != NULL)
        list_remove(n);
    return n;
}
/* Moves everything of `from` to the end of `to`. */
static inline void list_splice_back(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->head.next->prev = to->head.prev;
    to->head.prev->next = from->head.next;
    from->head.prev->next = &to->head;
    to->head.prev = from->head.prev;
    list_init(from);
}

#define list_entry(node, type, member) CONTAINER_OF(node, type, member)
#define list_for_each(node, list)                                                                  \
    for (struct list_node *node = (list)->head.next; node != &(list)->head; node = node->next)
/* `node` may be removed inside the body. */
#define list_for_each_safe(node, list)                                                             \
    for (struct list_node *node = (list)->head.next, *node##_next_ = node->next;                   \
         node != &(list)->head; node = node##_next_, node##_next_ = node->next)

#endif
