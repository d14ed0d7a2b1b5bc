/* protocol/base/check.h -- the two kinds of wrong, and small macros that every file needs.
 *
 * Bytes from a client, a peer or a disk are input: validate them and return an error. A broken
 * invariant is a bug: CHECK stops the process in every build, DCHECK only in debug builds.
 * Never CHECK input.
 */
#ifndef FLUXMQ_BASE_CHECK_H
#define FLUXMQ_BASE_CHECK_H

#include <stddef.h>

#define MUST_USE        __attribute__((warn_unused_result))
#define PRINTF(fmt, va) __attribute__((format(printf, fmt, va)))
#define UNUSED          __attribute__((unused))
#define LIKELY(x)       __builtin_expect(!!(x), 1)
#define UNLIKELY(x)     __builtin_expect(!!(x), 0)

/* Lock annotations: clang's -Wthread-safety checks them, gcc reads past them. */
#if defined(__clang__)
#define CAPABILITY(name) __attribute__((capability(name)))
#define REQUIRES(...)    __attribute__((requires_capability(__VA_ARGS__)))
#define ACQUIRE(...)     __attribute__((acquire_capability(__VA_ARGS__)))
#define RELEASE(...)     __attribute__((release_capability(__VA_ARGS__)))
#define NO_LOCK_CHECK    __attribute__((no_thread_safety_analysis))
#else
#define CAPABILITY(name)
#define REQUIRES(...)
#define ACQUIRE(...)
#define RELEASE(...)
#define NO_LOCK_CHECK
#endif
/* For the reader: clang 14 cannot check it in C, where members of the same struct are not in scope.
 */
#define GUARDED_BY(x)

/* Each use names its own temporaries, so that they nest. */
#define MIN(a, b)               BASE_PICK_(<, a, b, __COUNTER__)
#define MAX(a, b)               BASE_PICK_(>, a, b, __COUNTER__)
#define BASE_PICK_(op, a, b, n) BASE_PICK2_(op, a, b, n)
#define BASE_PICK2_(op, a, b, n)                                                                   \
    ({                                                                                             \
        __typeof__(a) pick_a##n = (a);                                                             \
        __typeof__(b) pick_b##n = (b);                                                             \
        pick_a##n op pick_b##n ? pick_a##n : pick_b##n;                                            \
    })
#define ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member)                                                            \
    ((type *)(void *)((char *)(ptr) - __builtin_offsetof(type, member)))

/* Prints "file:line: CHECK failed: what" with a backtrace to standard error and aborts. */
_Noreturn void check_failed(const char *file, int line, const char *what);

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (UNLIKELY(!(cond)))                                                                     \
            check_failed(__FILE__, __LINE__, #cond);                                               \
    } while (0)

#ifdef NDEBUG
#define DCHECK(cond)                                                                               \
    do {                                                                                           \
        if (0)                                                                                     \
            (void)(cond);                                                                          \
    } while (0)
#else
#define DCHECK(cond) CHECK(cond)
#endif

/* Small allocations: one that fails ends the process (a replica takes over). Sizes that depend
 * on input are bounded by the caller before they come here. Freed with free(). */
MUST_USE void *xmalloc(size_t size);
MUST_USE void *xcalloc(size_t count, size_t size);
MUST_USE void *xrealloc(void *old, size_t size);
MUST_USE char *xstrdup(const char *s);

#endif
