#include "protocol/base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Blocks double from the first, which a reset keeps, up to the largest. What is larger than a
 * quarter of a block gets one of its own, so at most a quarter of each block stays unused. */
#define BLOCK_BYTES_FIRST ((size_t)4096)
#define BLOCK_BYTES_MAX   ((size_t)65536)
#define ALIGNMENT         ((size_t)16)

struct arena_block {
    _Alignas(16) struct arena_block *next; /* older */
    size_t capacity, used;
    _Alignas(16) uint8_t bytes[];
};

struct arena_held {
    struct arena_held *next; /* older */
    void *object;
    void (*release)(void *object);
};

void arena_init(struct arena *a, size_t bytes_max)
{
    *a = (struct arena){.bytes_max = bytes_max};
}

static void release_held(struct arena *a)
{
    /* The list lives in the blocks, and release() may free what others point at: newest first. */
    while (a->held != NULL) {
        struct arena_held *held = a->held;
        a->held = held->next;
        held->release(held->object);
    }
}

void arena_deinit(struct arena *a)
{
    release_held(a);
    while (a->blocks != NULL) {
        struct arena_block *block = a->blocks;
        a->blocks = block->next;
        free(block);
    }
    a->bytes_used = 0;
}

void arena_reset(struct arena *a)
{
    struct arena_block *kept = NULL;

    release_held(a);
    while (a->blocks != NULL) {
        struct arena_block *block = a->blocks;
        a->blocks = block->next;
        if (kept == NULL && block->capacity == BLOCK_BYTES_FIRST)
            kept = block;
        else
            free(block);
    }
    if (kept != NULL) {
        kept->next = NULL;
        kept->used = 0;
    }
    a->blocks = kept;
    a->bytes_used = 0;
}

static struct arena_block *block_new(size_t capacity)
{
    if (capacity > SIZE_MAX - sizeof(struct arena_block))
        return NULL;
    struct arena_block *block = malloc(sizeof *block + capacity);
    if (block == NULL)
        return NULL;
    block->capacity = capacity;
    block->used = 0;
    return block;
}

/* A large one gets a block of its own, which goes behind the newest: that one has room left. */
static void *alloc_alone(struct arena *a, size_t size)
{
    struct arena_block *block = block_new(size);

    if (block == NULL)
        return NULL;
    block->used = size;
    if (a->blocks == NULL) {
        block->next = NULL;
        a->blocks = block;
    } else {
        block->next = a->blocks->next;
        a->blocks->next = block;
    }
    return block->bytes;
}

/* `size` is a multiple of ALIGNMENT. */
static void *alloc_shared(struct arena *a, size_t size)
{
    struct arena_block *block = a->blocks;

    if (block == NULL || block->capacity - block->used < size) {
        size_t capacity = block == NULL ? BLOCK_BYTES_FIRST : block->capacity * 2;
        block = block_new(MAX(MIN(capacity, BLOCK_BYTES_MAX), BLOCK_BYTES_FIRST));
        if (block == NULL)
            return NULL;
        block->next = a->blocks;
        a->blocks = block;
    }
    void *p = block->bytes + block->used;
    block->used += size;
    return p;
}

/* Outside the budget; NULL only when the machine has no memory. */
static void *take(struct arena *a, size_t size)
{
    if (size > SIZE_MAX - ALIGNMENT)
        return NULL;
    size = (MAX(size, (size_t)1) + ALIGNMENT - 1) & ~(ALIGNMENT - 1);

    void *p = size > BLOCK_BYTES_FIRST / 4 ? alloc_alone(a, size) : alloc_shared(a, size);
    if (p == NULL)
        return NULL;
    a->bytes_used += size;
    return memset(p, 0, size);
}

void *arena_alloc(struct arena *a, size_t size)
{
    if (a->bytes_used > a->bytes_max || size > a->bytes_max - a->bytes_used)
        return NULL;
    return take(a, size);
}

void *arena_array(struct arena *a, size_t count, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    return arena_alloc(a, bytes);
}

bool arena_str(struct arena *a, struct str s, struct str *out)
{
    if (str_is_null(s)) {
        *out = STR_NULL;
        return true;
    }
    char *copy = arena_alloc(a, (size_t)s.len);
    if (copy == NULL)
        return false;
    if (s.len > 0)
        memcpy(copy, s.ptr, (size_t)s.len);
    *out = (struct str){copy, s.len};
    return true;
}

struct str arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0)
        return STR_NULL;

    char *text = arena_alloc(a, (size_t)len + 1);
    if (text == NULL)
        return STR_NULL;
    va_start(args, fmt);
    vsnprintf(text, (size_t)len + 1, fmt, args);
    va_end(args);
    return (struct str){text, len};
}

void arena_hold(struct arena *a, void *object, void (*release)(void *object))
{
    struct arena_held *held = take(a, sizeof *held);

    CHECK(held != NULL);
    *held = (struct arena_held){.next = a->held, .object = object, .release = release};
    a->held = held;
}
