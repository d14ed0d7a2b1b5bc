#include "storage/index.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base/bytes.h"

#define LOAD_ENTRIES 4096u

/* Entries are appended in place; a view sees only as many as there were when it was taken. */
struct index_tail {
    atomic_int refs;
    uint32_t capacity;
    struct index_entry entries[];
};

size_t index_entry_size(enum index_kind kind)
{
    return kind == INDEX_OFFSETS ? 8 : 12;
}

static void tail_unref(struct index_tail *t)
{
    if (t != NULL && atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) == 1)
        free(t);
}

static struct index_tail *tail_new(uint32_t capacity)
{
    struct index_tail *t = xmalloc(sizeof *t + capacity * sizeof t->entries[0]);

    t->refs = 1;
    t->capacity = capacity;
    return t;
}

void index_init(struct index *x, enum index_kind kind, int64_t base_offset)
{
    *x = (struct index){.kind = kind, .base_offset = base_offset, .last = {.key = -1}};
}

void index_deinit(struct index *x)
{
    tail_unref(x->tail);
    if (x->file != NULL)
        file_unref(x->file);
    x->tail = NULL;
    x->file = NULL;
}

void index_append(struct index *x, struct index_entry e)
{
    CHECK(index_count(x) == 0 || e.key > x->last.key);
    CHECK(x->tail_count < INDEX_TAIL_ENTRIES_MAX);
    if (x->tail == NULL) {
        x->tail = tail_new(16);
    } else if (x->tail_count == x->tail->capacity) {
        struct index_tail *grown = tail_new(x->tail->capacity * 2);

        memcpy(grown->entries, x->tail->entries, x->tail_count * sizeof grown->entries[0]);
        tail_unref(x->tail);
        x->tail = grown;
    }
    x->tail->entries[x->tail_count++] = e;
    x->last = e;
}

void index_view_take(const struct index *x, struct index_view *out)
{
    *out = (struct index_view){
        .kind = x->kind,
        .base_offset = x->base_offset,
        .file = x->file != NULL ? file_ref(x->file) : NULL,
        .stored_count = x->stored_count,
        .tail_count = x->tail_count,
        .tail = x->tail,
    };
    if (x->tail != NULL)
        atomic_fetch_add_explicit(&x->tail->refs, 1, memory_order_relaxed);
}

void index_view_drop(struct index_view *v)
{
    tail_unref(v->tail);
    if (v->file != NULL)
        file_unref(v->file);
    *v = (struct index_view){.kind = v->kind};
}

static void encode(const struct index_view *v, const struct index_entry *e, uint8_t *p)
{
    if (v->kind == INDEX_OFFSETS) {
        store_be32(p, to_uint32_checked(e->key - v->base_offset));
        store_be32(p + 4, to_uint32_checked(e->value));
    } else {
        store_be64(p, (uint64_t)e->key);
        store_be32(p + 8, to_uint32_checked(e->value - v->base_offset));
    }
}

void index_entry_decode(enum index_kind kind, int64_t base_offset, const uint8_t *p,
                        struct index_entry *out)
{
    if (kind == INDEX_OFFSETS) {
        out->key = base_offset + (int32_t)load_be32(p);
        out->value = (int32_t)load_be32(p + 4);
    } else {
        out->key = (int64_t)load_be64(p);
        out->value = base_offset + (int32_t)load_be32(p + 8);
    }
}

enum err index_store(const struct index_view *v, struct env *env, const char *path,
                     struct file **file, struct errmsg *why)
{
    size_t entry_size = index_entry_size(v->kind);
    struct file *f = v->file != NULL ? file_ref(v->file) : NULL;
    enum err e = ERR_NONE;

    if (f == NULL)
        e = file_open(env, path, FILE_CREATE, &f, why);
    /* What lies behind the entries that count is left from before a crash. */
    if (e == ERR_NONE && file_size(f) > v->stored_count * entry_size)
        e = file_truncate(f, v->stored_count * entry_size, why);
    if (e == ERR_NONE && v->tail_count > 0) {
        uint8_t *bytes = xmalloc(v->tail_count * entry_size);

        for (uint32_t i = 0; i < v->tail_count; i++)
            encode(v, &v->tail->entries[i], bytes + i * entry_size);
        e = file_write(f, v->stored_count * entry_size, bytes, v->tail_count * entry_size, why);
        free(bytes);
    }
    if (e != ERR_NONE) {
        if (f != NULL)
            file_unref(f);
        return e;
    }
    *file = f;
    return ERR_NONE;
}

void index_stored(struct index *x, const struct index_view *v, struct file *file)
{
    CHECK(x->stored_count == v->stored_count && x->tail_count >= v->tail_count);

    uint32_t rest = x->tail_count - v->tail_count;
    struct index_tail *tail = NULL;

    if (rest > 0) {
        tail = tail_new(MAX(rest, 16u));
        memcpy(tail->entries, x->tail->entries + v->tail_count, rest * sizeof tail->entries[0]);
    }
    tail_unref(x->tail);
    x->tail = tail;
    x->tail_count = rest;
    x->stored_count += v->tail_count;
    if (x->file != NULL)
        file_unref(x->file);
    x->file = file;
}

/* ---- reading ---- */

/* Whether `e` may stand behind `before` (NULL: first of all). */
static bool follows(enum index_kind kind, int64_t base_offset, const struct index_entry *before,
                    const struct index_entry *e, int64_t value_limit)
{
    int64_t offset = kind == INDEX_OFFSETS ? e->key : e->value;

    return e->key > (before != NULL ? before->key : -1) && e->value >= 0 &&
           e->value < value_limit && (before == NULL || e->value >= before->value) &&
           offset >= base_offset;
}

enum err index_load(struct index *x, struct env *env, const char *path, int64_t value_limit,
                    bool *sound)
{
    size_t entry_size = index_entry_size(x->kind), n_read = 0;
    struct errmsg why;
    struct file *f;
    enum err e = file_open(env, path, FILE_READ_ONLY, &f, &why);

    *sound = true;
    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e != ERR_NONE)
        return e;

    uint64_t size = file_size(f), at = 0;
    uint8_t *bytes = xmalloc(LOAD_ENTRIES * entry_size);

    *sound = size % entry_size == 0 && size / entry_size <= UINT32_MAX;
    while (*sound && e == ERR_NONE && at < size) {
        e = file_read(f, at, bytes, (size_t)MIN(size - at, LOAD_ENTRIES * entry_size), &n_read);
        *sound = e == ERR_NONE && n_read > 0 && n_read % entry_size == 0;
        for (size_t i = 0; *sound && i < n_read; i += entry_size) {
            struct index_entry found;

            index_entry_decode(x->kind, x->base_offset, bytes + i, &found);
            *sound = follows(x->kind, x->base_offset, x->stored_count > 0 ? &x->last : NULL, &found,
                             value_limit);
            if (*sound) {
                x->last = found;
                x->stored_count++;
            }
        }
        at += n_read;
    }
    free(bytes);
    file_unref(f);
    return e;
}

enum err index_cut(struct index *x, struct env *env, const char *path, int64_t offset_max,
                   struct errmsg *why)
{
    size_t entry_size = index_entry_size(x->kind);
    struct index_entry last = {.key = -1}, e;
    struct file *f;
    uint32_t keep = 0, high = x->stored_count;
    enum err err = file_open(env, path, 0, &f, why);

    CHECK(x->tail_count == 0 && x->file == NULL);
    x->stored_count = 0;
    x->last = last;
    if (err == ERR_NOT_FOUND)
        return ERR_NONE;
    if (err != ERR_NONE)
        return err;

    struct index_view v = {
        .kind = x->kind, .base_offset = x->base_offset, .file = f, .stored_count = high};

    while (keep < high) {
        uint32_t middle = keep + (high - keep) / 2;

        if (index_get(&v, middle, &e) && (x->kind == INDEX_OFFSETS ? e.key : e.value) <= offset_max)
            keep = middle + 1;
        else
            high = middle;
    }
    if (keep > 0 && !index_get(&v, keep - 1, &last))
        keep = 0;
    if (file_size(f) > keep * entry_size)
        err = file_truncate(f, keep * entry_size, why);
    file_unref(f);
    x->stored_count = keep;
    if (keep > 0)
        x->last = last;
    return err;
}

bool index_get(const struct index_view *v, uint32_t i, struct index_entry *out)
{
    size_t entry_size = index_entry_size(v->kind), n_read = 0;
    uint8_t bytes[12];

    if (i >= v->stored_count) {
        if (i - v->stored_count >= v->tail_count)
            return false;
        *out = v->tail->entries[i - v->stored_count];
        return true;
    }
    if (v->file == NULL ||
        file_read(v->file, i * entry_size, bytes, entry_size, &n_read) != ERR_NONE ||
        n_read != entry_size)
        return false;
    index_entry_decode(v->kind, v->base_offset, bytes, out);
    return true;
}

/* The last entry whose key (or value) is <= `wanted`: binary search, both being sorted. */
static bool floor_by(const struct index_view *v, bool by_key, int64_t wanted,
                     struct index_entry *out)
{
    uint32_t low = 0, high = index_view_count(v); /* the answer is before `high` */
    struct index_entry e;
    bool found = false;

    /* The tail is asked first: the youngest entries answer without a read. */
    if (v->tail_count > 0) {
        const struct index_entry *first = &v->tail->entries[0];

        if ((by_key ? first->key : first->value) <= wanted)
            low = v->stored_count;
        else
            high = v->stored_count;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (!index_get(v, middle, &e))
            return false;
        if ((by_key ? e.key : e.value) <= wanted) {
            *out = e;
            found = true;
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return found;
}

bool index_floor_key(const struct index_view *v, int64_t key, struct index_entry *out)
{
    return floor_by(v, true, key, out);
}

bool index_floor_value(const struct index_view *v, int64_t value, struct index_entry *out)
{
    return floor_by(v, false, value, out);
}

static bool resident(const struct index_view *v, bool by_key, int64_t wanted)
{
    if (v->stored_count == 0)
        return true;
    if (v->tail_count > 0) {
        const struct index_entry *first = &v->tail->entries[0];

        if ((by_key ? first->key : first->value) <= wanted)
            return true;
    }
    return v->file != NULL &&
           file_resident(v->file, 0, v->stored_count * index_entry_size(v->kind));
}

bool index_resident_key(const struct index_view *v, int64_t key)
{
    return resident(v, true, key);
}

bool index_resident_value(const struct index_view *v, int64_t value)
{
    return resident(v, false, value);
}

/* ---- looking at all of it ---- */

void index_cursor_init(struct index_cursor *c, const struct index_view *v, int64_t value)
{
    uint32_t low = 0, high = index_view_count(v);
    struct index_entry e;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (index_get(v, middle, &e) && e.value < value)
            low = middle + 1;
        else
            high = middle;
    }
    c->view = v;
    c->next = low;
    c->first = c->count = 0;
}

static bool cursor_fill(struct index_cursor *c)
{
    const struct index_view *v = c->view;
    size_t entry_size = index_entry_size(v->kind), n = 0;
    uint8_t bytes[INDEX_CURSOR_ENTRIES * 12];
    uint32_t count = MIN(v->stored_count - c->next, INDEX_CURSOR_ENTRIES);

    if (v->file == NULL ||
        file_read(v->file, c->next * entry_size, bytes, count * entry_size, &n) != ERR_NONE ||
        n != count * entry_size)
        return false;
    for (uint32_t i = 0; i < count; i++)
        index_entry_decode(v->kind, v->base_offset, bytes + i * entry_size, &c->entries[i]);
    c->first = c->next;
    c->count = count;
    return true;
}

bool index_cursor_peek(struct index_cursor *c, const struct index_entry **out)
{
    const struct index_view *v = c->view;

    *out = NULL;
    if (c->next >= index_view_count(v))
        return true;
    if (c->next >= v->stored_count) {
        *out = &v->tail->entries[c->next - v->stored_count];
        return true;
    }
    if ((c->next < c->first || c->next >= c->first + c->count) && !cursor_fill(c))
        return false;
    *out = &c->entries[c->next - c->first];
    return true;
}

bool index_check(const struct index_view *v, const struct index_entry *last, int64_t end_offset,
                 uint64_t size_bytes)
{
    int64_t limit = v->kind == INDEX_OFFSETS ? (int64_t)size_bytes : end_offset;
    struct index_entry before = {.key = -1};
    const struct index_entry *e;
    struct index_cursor c;

    if (v->stored_count == 0)
        return true;
    if (v->file == NULL || file_size(v->file) < v->stored_count * index_entry_size(v->kind))
        return false;
    index_cursor_init(&c, v, 0);
    c.next = 0;
    for (; index_cursor_peek(&c, &e) && e != NULL; c.next++) {
        if (!follows(v->kind, v->base_offset, c.next > 0 ? &before : NULL, e, limit))
            return false;
        before = *e;
    }
    return c.next == index_view_count(v) && before.key == last->key && before.value == last->value;
}
