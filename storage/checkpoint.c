#include "storage/checkpoint.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void text_add(struct text *t, const char *fmt, ...)
{
    va_list args, again;

    va_start(args, fmt);
    va_copy(again, args);

    int size = vsnprintf(NULL, 0, fmt, args);

    va_end(args);
    CHECK(size >= 0);

    size_t need = t->size + (size_t)size + 1;

    if (need > t->capacity) {
        t->capacity = MAX(need, t->capacity * 2);
        t->ptr = xrealloc(t->ptr, t->capacity);
    }
    (void)vsnprintf(t->ptr + t->size, (size_t)size + 1, fmt, again);
    va_end(again);
    t->size += (size_t)size;
}

void text_deinit(struct text *t)
{
    free(t->ptr);
    *t = (struct text){.ptr = NULL};
}

bool text_line(struct str *rest, struct str *line)
{
    if (rest->len <= 0)
        return false;

    const char *end = memchr(rest->ptr, '\n', (size_t)rest->len);
    int32_t len = end != NULL ? (int32_t)(end - rest->ptr) : rest->len;
    int32_t used = end != NULL ? len + 1 : len;

    *line = (struct str){rest->ptr, len};
    if (len > 0 && rest->ptr[len - 1] == '\r')
        line->len--;
    rest->ptr += used;
    rest->len -= used;
    return true;
}

struct str text_word(struct str *rest)
{
    while (rest->len > 0 && (*rest->ptr == ' ' || *rest->ptr == '\t')) {
        rest->ptr++;
        rest->len--;
    }
    if (rest->len <= 0)
        return STR_NULL;

    struct str word = {rest->ptr, 0};

    while (rest->len > 0 && *rest->ptr != ' ' && *rest->ptr != '\t') {
        rest->ptr++;
        rest->len--;
        word.len++;
    }
    return word;
}

enum err checkpoint_parse(const uint8_t *p, size_t size, bool (*fn)(void *ctx, struct str line),
                          void *ctx, struct errmsg *why)
{
    struct str rest = {(const char *)p, (int32_t)MIN(size, (size_t)INT32_MAX)}, line;
    int32_t version, expected, found = 0;

    if (!text_line(&rest, &line) || !parse_int32(line, &version) || version != 0) {
        errmsg_set(why, "line 1: expected version 0");
        return ERR_MALFORMED;
    }
    if (!text_line(&rest, &line) || !parse_int32(line, &expected) || expected < 0) {
        errmsg_set(why, "line 2: expected the number of entries");
        return ERR_MALFORMED;
    }
    while (found < expected && text_line(&rest, &line)) {
        found++;
        if (!fn(ctx, line)) {
            errmsg_set(why, "line %d: malformed", found + 2);
            return ERR_MALFORMED;
        }
    }
    if (found < expected) {
        errmsg_set(why, "%d entries found, %d expected", found, expected);
        return ERR_MALFORMED;
    }
    return ERR_NONE;
}

bool checkpoint_line_offset(struct str line, struct str *topic, int32_t *partition, int64_t *offset)
{
    *topic = text_word(&line);

    struct str a = text_word(&line), b = text_word(&line);

    return topic->len > 0 && text_word(&line).len < 0 && parse_int32(a, partition) &&
           *partition >= 0 && parse_int64(b, offset);
}

/* ---- partition.metadata ---- */

void partition_metadata_format(struct text *t, const struct uuid *topic_id)
{
    char id[UUID_TEXT_SIZE];

    uuid_format(topic_id, id);
    text_add(t, "version: 0\ntopic_id: %s", id);
}

static bool strip_prefix(struct str *s, const char *prefix)
{
    size_t n = strlen(prefix);

    if (s->len < (int32_t)n || memcmp(s->ptr, prefix, n) != 0)
        return false;
    s->ptr += n;
    s->len -= (int32_t)n;
    return true;
}

enum err partition_metadata_parse(const uint8_t *p, size_t size, struct uuid *topic_id,
                                  struct errmsg *why)
{
    struct str rest = {(const char *)p, (int32_t)MIN(size, (size_t)INT32_MAX)}, line;
    int32_t version;

    if (!text_line(&rest, &line) || !strip_prefix(&line, "version: ") ||
        !parse_int32(line, &version) || version != 0) {
        errmsg_set(why, "expected \"version: 0\"");
        return ERR_MALFORMED;
    }
    if (!text_line(&rest, &line) || !strip_prefix(&line, "topic_id: ") ||
        !uuid_parse(line, topic_id)) {
        errmsg_set(why, "expected \"topic_id: \" and an id");
        return ERR_MALFORMED;
    }
    return ERR_NONE;
}

/* ---- meta.properties ---- */

void meta_properties_format(struct text *t, const struct meta_properties *m)
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&m->directory_id, id);
    text_add(t, "#\nversion=1\n");
    if (m->cluster_id[0] != '\0')
        text_add(t, "cluster.id=%s\n", m->cluster_id);
    text_add(t, "node.id=%d\ndirectory.id=%s\n", m->node_id, id);
    if (m->raft_files)
        text_add(t, "fluxmq.raft.files=true\n");
}

static struct str trim(struct str s)
{
    while (s.len > 0 && (*s.ptr == ' ' || *s.ptr == '\t')) {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

static bool take_property(struct meta_properties *m, struct str key, struct str value)
{
    if (str_eq_lit(key, "version"))
        return parse_int32(value, &m->version);
    if (str_eq_lit(key, "node.id") || str_eq_lit(key, "broker.id"))
        return parse_int32(value, &m->node_id);
    if (str_eq_lit(key, "fluxmq.raft.files"))
        return m->raft_files = str_eq_lit(value, "true");
    if (str_eq_lit(key, "directory.id"))
        return uuid_parse(value, &m->directory_id);
    if (str_eq_lit(key, "cluster.id")) {
        if (value.len <= 0 || value.len >= (int32_t)sizeof m->cluster_id)
            return false;
        memcpy(m->cluster_id, value.ptr, (size_t)value.len);
        m->cluster_id[value.len] = '\0';
    }
    return true;
}

enum err meta_properties_parse(const uint8_t *p, size_t size, struct meta_properties *out,
                               struct errmsg *why)
{
    struct str rest = {(const char *)p, (int32_t)MIN(size, (size_t)INT32_MAX)}, line;
    int number = 0;

    *out = (struct meta_properties){.version = -1, .node_id = -1};
    while (text_line(&rest, &line)) {
        number++;
        line = trim(line);
        if (line.len == 0 || *line.ptr == '#' || *line.ptr == '!')
            continue;

        const char *equals = memchr(line.ptr, '=', (size_t)line.len);
        struct str key = line, value = STR_EMPTY;

        if (equals != NULL) {
            key.len = (int32_t)(equals - line.ptr);
            value = (struct str){equals + 1, line.len - key.len - 1};
        }
        if (!take_property(out, trim(key), trim(value))) {
            errmsg_set(why, "line %d: \"%.*s\" cannot be understood", number, STR_ARG(line));
            return ERR_MALFORMED;
        }
    }
    if (out->version != 0 && out->version != 1) {
        errmsg_set(why, "version: found %d, expected 0 or 1", out->version);
        return ERR_MALFORMED;
    }
    return ERR_NONE;
}
