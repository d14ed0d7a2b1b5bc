#include "tests/sim/trace.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/check.h"
#include "protocol/base/hmap.h"

#define EVENTS_KEPT  256
#define PACKED_BYTES 320
#define STRING_MAX   200 /* kept of one string; the hash takes all of it */

/* Arguments one behind the other: integers as 8 bytes, strings as a length byte and bytes. */
struct event {
    uint64_t now_ns;
    const char *who, *format;
    size_t size;
    uint8_t packed[PACKED_BYTES];
};

struct trace {
    uint64_t hash;
    uint64_t count;
    struct event events[EVENTS_KEPT];
};

struct trace *trace_new(void)
{
    return xcalloc(1, sizeof(struct trace));
}

void trace_free(struct trace *t)
{
    free(t);
}

void trace_number(struct trace *t, uint64_t v)
{
    uint64_t h = (t->hash ^ v) * 0x9e3779b97f4a7c15u;

    t->hash = h ^ (h >> 29);
}

void trace_bytes(struct trace *t, const void *p, size_t size)
{
    trace_number(t, hash_bytes(t->hash, p, size));
}

uint64_t trace_hash(const struct trace *t)
{
    return t->hash;
}

/* ---- formats ---- */

struct conversion {
    const char *begin, *end; /* of its text, from the % on */
    char kind; /* 'd' signed, 'u' unsigned, 'c', 's'; 0: none, plain text to the end */
    int size;  /* of the argument as passed: 4 or 8 */
    bool star; /* %.*s */
};

/* The next conversion at or behind `p`; "%%" is plain text. */
static struct conversion next_conversion(const char *p)
{
    struct conversion c = {.size = 4};

    while (*p != '\0' && (p[0] != '%' || p[1] == '%'))
        p += p[0] == '%' ? 2 : 1;
    c.begin = p;
    if (*p == '\0') {
        c.end = p;
        return c;
    }
    for (p++; strchr("0123456789.-+ #*", *p) != NULL; p++)
        c.star = c.star || *p == '*';
    for (; strchr("lhzjt", *p) != NULL; p++)
        c.size = *p == 'h' ? 4 : 8;
    c.kind = *p == 'i' || *p == 'd' ? 'd' : *p == 's' || *p == 'c' ? *p : 'u';
    CHECK(strchr("idsucxXo", *p) != NULL);
    c.end = p + 1;
    return c;
}

/* ---- adding ---- */

static void pack(struct event *e, const void *p, size_t size)
{
    if (e->size + size <= PACKED_BYTES)
        memcpy(e->packed + e->size, p, size);
    e->size += size; /* what does not fit is not shown */
}

static void pack_string(struct trace *t, struct event *e, const char *s, size_t size)
{
    size_t kept = MIN(size, (size_t)STRING_MAX);
    uint8_t length = (uint8_t)kept;

    trace_bytes(t, s, size);
    if (e->size + 1 + kept > PACKED_BYTES) {
        e->size = PACKED_BYTES + 1;
        return;
    }
    pack(e, &length, 1);
    pack(e, s, kept);
}

void trace_add(struct trace *t, uint64_t now_ns, const char *who, const char *format, va_list ap)
{
    struct event *e = &t->events[t->count++ % EVENTS_KEPT];
    struct conversion c;

    e->now_ns = now_ns;
    e->who = who;
    e->format = format;
    e->size = 0;
    trace_number(t, now_ns);
    trace_bytes(t, format, strlen(format));
    for (const char *p = format; (c = next_conversion(p)).kind != 0; p = c.end) {
        int precision = c.star ? va_arg(ap, int) : -1;
        uint64_t v;

        if (c.kind == 's') {
            const char *s = va_arg(ap, const char *);

            pack_string(t, e, s, precision >= 0 ? strnlen(s, (size_t)precision) : strlen(s));
            continue;
        }
        if (c.size == 8)
            v = va_arg(ap, uint64_t);
        else if (c.kind == 'u')
            v = va_arg(ap, unsigned);
        else
            v = (uint64_t)(int64_t)va_arg(ap, int);
        trace_number(t, v);
        pack(e, &v, sizeof v);
    }
}

/* ---- showing ---- */

static void print_plain(const char *p, const char *end, FILE *to)
{
    for (; p < end; p++) {
        if (*p == '%')
            p++; /* "%%" */
        fputc(*p, to);
    }
}

/* Integers are shown by a conversion of our own, with the event's flags and width. */
static void print_number(const struct conversion *c, uint64_t v, FILE *to)
{
    char spec[32];
    size_t n = 0;

    for (const char *p = c->begin; p < c->end - 1 && n < 24; p++)
        if (strchr("lhzjt", *p) == NULL)
            spec[n++] = *p;
    if (c->kind != 'c') {
        spec[n++] = 'l';
        spec[n++] = 'l';
    }
    spec[n++] = c->end[-1];
    spec[n] = '\0';
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (c->kind == 'c')
        fprintf(to, spec, (int)v);
    else
        fprintf(to, spec, (unsigned long long)v);
#pragma GCC diagnostic pop
}

static void print_event(const struct event *e, FILE *to)
{
    struct conversion c;
    size_t at = 0;
    const char *p = e->format;

    fprintf(to, "%5" PRIu64 ".%06" PRIu64 " %-18s ", e->now_ns / 1000000000u,
            e->now_ns / 1000 % 1000000, e->who);
    for (; (c = next_conversion(p)).kind != 0; p = c.end) {
        size_t need = c.kind == 's' ? 1 : 8;
        uint64_t v;

        print_plain(p, c.begin, to);
        if (at + need > MIN(e->size, (size_t)PACKED_BYTES)) {
            fputs("...", to);
            break;
        }
        if (c.kind == 's') {
            fprintf(to, "%.*s", e->packed[at], (const char *)e->packed + at + 1);
            at += 1u + e->packed[at];
        } else {
            memcpy(&v, e->packed + at, sizeof v);
            print_number(&c, v, to);
            at += sizeof v;
        }
    }
    if (c.kind == 0)
        print_plain(p, c.end, to);
    fputc('\n', to);
}

/* With the hash so far: where two runs begin to differ is seen by comparing their output. */
void trace_print_newest(const struct trace *t, FILE *to)
{
    fprintf(to, "%08" PRIx64 " ", t->hash & UINT32_MAX);
    if (t->count > 0)
        print_event(&t->events[(t->count - 1) % EVENTS_KEPT], to);
}

void trace_print_last(const struct trace *t, FILE *to)
{
    uint64_t first = t->count > EVENTS_KEPT ? t->count - EVENTS_KEPT : 0;

    for (uint64_t i = first; i < t->count; i++)
        print_event(&t->events[i % EVENTS_KEPT], to);
}
