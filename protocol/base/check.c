#include "protocol/base/check.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BACKTRACE_FRAMES_MAX 64

_Noreturn void check_failed(const char *file, int line, const char *what)
{
    void *frames[BACKTRACE_FRAMES_MAX];

    dprintf(fileno(stderr), "%s:%d: CHECK failed: %s\n", file, line, what);
    /* The _fd form allocates nothing, so it works when the heap is what is broken. */
    backtrace_symbols_fd(frames, backtrace(frames, BACKTRACE_FRAMES_MAX), fileno(stderr));
    abort();
}

void *xmalloc(size_t size)
{
    void *p = malloc(size > 0 ? size : 1);
    CHECK(p != NULL);
    return p;
}

void *xcalloc(size_t count, size_t size)
{
    void *p = calloc(count > 0 ? count : 1, size > 0 ? size : 1);
    CHECK(p != NULL);
    return p;
}

void *xrealloc(void *old, size_t size)
{
    void *p = realloc(old, size > 0 ? size : 1);
    CHECK(p != NULL);
    return p;
}

char *xstrdup(const char *s)
{
    size_t size = strlen(s) + 1;
    return memcpy(xmalloc(size), s, size);
}
