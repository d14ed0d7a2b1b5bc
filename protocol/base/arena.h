/* protocol/base/arena.h -- memory that is freed whole.
 *
 * A request's memory is its arena; what outlives it is copied out on purpose. An arena has a
 * budget: input decides how much is asked for, so arena_alloc() can fail and its callers return
 * an error. References taken while it lives (arena_hold) are dropped when it is reset or freed.
 *
 * Thread: one at a time.
 */
#ifndef FLUXMQ_BASE_ARENA_H
#define FLUXMQ_BASE_ARENA_H

#include <stddef.h>

#include "protocol/base/bytes.h"
#include "protocol/base/check.h"

struct arena_block;
struct arena_held;

struct arena {
    struct arena_block *blocks; /* newest first */
    struct arena_held *held;
    size_t bytes_used;
    size_t bytes_max; /* the budget */
};

void arena_init(struct arena *a, size_t bytes_max);
void arena_deinit(struct arena *a);
/* Frees everything but one small block, and drops what is held. */
void arena_reset(struct arena *a);

/* 16-byte aligned and zeroed; NULL when the budget is used up. */
MUST_USE void *arena_alloc(struct arena *a, size_t size);
/* The same for `count` elements, with the multiplication checked. */
MUST_USE void *arena_array(struct arena *a, size_t count, size_t size);
/* Copies; a null string stays null. Returns false when the budget is used up. */
MUST_USE bool arena_str(struct arena *a, struct str s, struct str *out);
/* printf into the arena; the null string when the budget is used up. */
struct str arena_printf(struct arena *a, const char *fmt, ...) PRINTF(2, 3);

/* Calls release(object) when the arena is reset or freed, last held first. */
void arena_hold(struct arena *a, void *object, void (*release)(void *object));

#endif
