#include "broker/properties.h"

#include <stdlib.h>
#include <string.h>

struct parser {
    const char *p, *end;
    int line;
    char *out; /* where the next unescaped byte goes; unescaping never makes text longer */
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\f';
}

static bool is_line_end(char c)
{
    return c == '\n' || c == '\r';
}

static void skip_blank(struct parser *s)
{
    while (s->p < s->end && is_blank(*s->p))
        s->p++;
}

/* Past one line terminator: \n, \r or \r\n. */
static void skip_line_end(struct parser *s)
{
    if (s->p == s->end)
        return;
    if (*s->p == '\r' && s->end - s->p > 1 && s->p[1] == '\n')
        s->p++;
    s->p++;
    s->line++;
}

/* At a backslash that ends a natural line: goes on with the next one, whose leading blanks do not
 * count. A file may end after the backslash. */
static bool skip_continuation(struct parser *s)
{
    if (*s->p != '\\' || (s->end - s->p > 1 && !is_line_end(s->p[1])))
        return false;
    s->p++;
    skip_line_end(s);
    skip_blank(s);
    return true;
}

static bool read_hex4(struct parser *s, uint32_t *out)
{
    uint32_t v = 0;

    if (s->end - s->p < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        char c = *s->p++;

        v <<= 4;
        if (c >= '0' && c <= '9')
            v |= (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            v |= (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            v |= (uint32_t)(c - 'A' + 10);
        else
            return false;
    }
    *out = v;
    return true;
}

static void put_utf8(struct parser *s, uint32_t c)
{
    if (c < 0x80) {
        *s->out++ = (char)c;
        return;
    }
    if (c < 0x800) {
        *s->out++ = (char)(0xc0 | c >> 6);
    } else if (c < 0x10000) {
        *s->out++ = (char)(0xe0 | c >> 12);
        *s->out++ = (char)(0x80 | (c >> 6 & 0x3f));
    } else {
        *s->out++ = (char)(0xf0 | c >> 18);
        *s->out++ = (char)(0x80 | (c >> 12 & 0x3f));
        *s->out++ = (char)(0x80 | (c >> 6 & 0x3f));
    }
    *s->out++ = (char)(0x80 | (c & 0x3f));
}

/* After "\u". A high surrogate must be followed by an escaped low one: half a character is no
 * text. */
static bool unescape_unicode(struct parser *s, const char **reason)
{
    uint32_t c, low;

    *reason = "a \\u escape needs four hexadecimal digits";
    if (!read_hex4(s, &c))
        return false;
    if (c >= 0xd800 && c < 0xdc00) {
        *reason = "half of a surrogate pair";
        if (s->end - s->p < 6 || s->p[0] != '\\' || s->p[1] != 'u')
            return false;
        s->p += 2;
        if (!read_hex4(s, &low) || low < 0xdc00 || low > 0xdfff)
            return false;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    } else if (c >= 0xdc00 && c < 0xe000) {
        *reason = "half of a surrogate pair";
        return false;
    }
    *reason = "a zero character";
    if (c == 0)
        return false;
    put_utf8(s, c);
    return true;
}

/* One character, escaped or not, to the output. */
static bool read_char(struct parser *s, const char **reason)
{
    char c = *s->p++;

    if (c == '\\' && s->p < s->end) {
        c = *s->p++;
        if (c == 'u')
            return unescape_unicode(s, reason);
        if (c == 't')
            c = '\t';
        else if (c == 'n')
            c = '\n';
        else if (c == 'r')
            c = '\r';
        else if (c == 'f')
            c = '\f';
    }
    *reason = "a zero character";
    if (c == '\0')
        return false;
    *s->out++ = c;
    return true;
}

static bool is_separator(char c)
{
    return c == '=' || c == ':' || is_blank(c);
}

/* Up to the end of the logical line, or for a key up to its separator. */
static bool read_text(struct parser *s, bool key, const char **reason)
{
    while (s->p < s->end && !is_line_end(*s->p)) {
        if (key && is_separator(*s->p))
            break;
        if (!skip_continuation(s) && !read_char(s, reason))
            return false;
    }
    *s->out++ = '\0';
    return true;
}

/* Between key and value: blanks, at most one '=' or ':', blanks; any of them may be continued. */
static void skip_separator(struct parser *s)
{
    bool seen = false;

    while (s->p < s->end) {
        if (is_blank(*s->p)) {
            s->p++;
        } else if ((*s->p == '=' || *s->p == ':') && !seen) {
            seen = true;
            s->p++;
        } else if (!skip_continuation(s)) {
            return;
        }
    }
}

/* To the first character of the next logical line that says something. */
static bool next_logical_line(struct parser *s)
{
    for (;;) {
        skip_blank(s);
        if (s->p == s->end)
            return false;
        if (*s->p == '#' || *s->p == '!') {
            while (s->p < s->end && !is_line_end(*s->p))
                s->p++;
        } else if (!is_line_end(*s->p)) {
            return true;
        }
        skip_line_end(s);
    }
}

static struct property *add_item(struct properties *p, size_t *capacity)
{
    if (p->count == *capacity) {
        *capacity = *capacity == 0 ? 64 : *capacity * 2;
        p->items = xrealloc(p->items, *capacity * sizeof *p->items);
    }
    return &p->items[p->count++];
}

enum err properties_parse(const void *bytes, size_t size, struct properties *out,
                          struct errmsg *why)
{
    struct parser s = {.p = bytes, .line = 1};
    size_t capacity = 0;
    const char *reason = "";

    *out = (struct properties){0};
    if (size > PROPERTIES_FILE_BYTES_MAX) {
        errmsg_set(why, "%zu bytes, expected at most %d", size, PROPERTIES_FILE_BYTES_MAX);
        return ERR_TOO_LARGE;
    }
    s.end = size > 0 ? s.p + size : s.p; /* `bytes` may be NULL then */
    /* A line of n bytes and its end become at most n bytes and two terminators; the last line may
     * have no end. */
    out->text = xmalloc(2 * size + 2);
    s.out = out->text;
    while (size > 0 && next_logical_line(&s)) {
        struct property *item = add_item(out, &capacity);

        *item = (struct property){.key = s.out, .value = "", .line = s.line};
        if (!read_text(&s, true, &reason))
            goto fail;
        skip_separator(&s);
        item->value = s.out;
        if (!read_text(&s, false, &reason))
            goto fail;
    }
    return ERR_NONE;
fail:
    errmsg_set(why, "line %d: %s", s.line, reason);
    properties_deinit(out);
    return ERR_MALFORMED;
}

void properties_deinit(struct properties *p)
{
    free(p->items);
    free(p->text);
    *p = (struct properties){0};
}
