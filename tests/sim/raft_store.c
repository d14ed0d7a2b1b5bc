#include "tests/sim/raft_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/bytes.h"

#define DISK_FORMAT    1
#define SEGMENT_BYTES  ((uint64_t)128 << 10)
#define FILE_BYTES_MAX ((size_t)64 << 20)
#define PATH_BYTES_MAX 1024
#define NAME_BYTES_MAX 96
#define CLOSED_FORMAT  "%016" PRIu64 "-%016" PRIu64

struct segment_name {
    uint64_t first, last; /* closed */
    uint64_t counter;     /* open, from 1; 0: closed */
    char name[NAME_BYTES_MAX];
};

struct snapshot_name {
    uint64_t term, index, stamp;
    bool has_meta, has_data;
};

struct raft_store {
    struct env *env;
    char dir[PATH_BYTES_MAX];
    char *errmsg;
    uint64_t version, term, vote; /* of the metadata files */
    /* the segment that is written */
    struct file *open;                             /* NULL: none */
    uint64_t open_counter, counter_next, prepared; /* prepared: its counter, 0: none */
    uint64_t used, room;                           /* bytes of it */
    uint64_t first_index, next_index;              /* of it; of the log as written */
    uint32_t crc[256];
};

/* ---- small things ---- */

/* As byteCrc32 of libraft: polynomial 04C11DB7, most significant bit first, not inverted. */
static void crc_init(struct raft_store *d)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t v = i << 24;

        for (int k = 0; k < 8; k++)
            v = (v & 0x80000000u) != 0 ? (v << 1) ^ 0x04c11db7u : v << 1;
        d->crc[i] = v;
    }
}

static uint32_t crc_of(const struct raft_store *d, const void *bytes, size_t size, uint32_t crc)
{
    const uint8_t *p = bytes;

    while (size-- > 0)
        crc = (crc << 8) ^ d->crc[(crc >> 24) ^ *p++];
    return crc;
}

static void put_le(uint8_t *p, uint64_t v, int size)
{
    for (int i = 0; i < size; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static int raft_error(enum err e)
{
    return e == ERR_NONE ? 0 : e == ERR_NO_SPACE ? RAFT_NOSPACE : RAFT_IOERR;
}

/* For the operator, as libraft passes it on. */
static int failed(struct raft_store *d, enum err e, const struct errmsg *why)
{
    (void)snprintf(d->errmsg, RAFT_ERRMSG_BUF_SIZE, "%.200s", why->text);
    return raft_error(e);
}

static int corrupt(struct raft_store *d, const char *name, const char *what)
{
    (void)snprintf(d->errmsg, RAFT_ERRMSG_BUF_SIZE, "%s: %s", name, what);
    return RAFT_CORRUPT;
}

static const char *path_of(const struct raft_store *d, const char *name, char out[PATH_BYTES_MAX])
{
    CHECK(snprintf(out, PATH_BYTES_MAX, "%s/%s", d->dir, name) < PATH_BYTES_MAX);
    return out;
}

/* A whole new file, synced; not its name. */
static enum err make_file(struct raft_store *d, const char *name, const void *p, size_t size,
                          struct errmsg *why)
{
    char path[PATH_BYTES_MAX];
    struct file *f;
    enum err e = file_open(d->env, path_of(d, name, path), FILE_CREATE | FILE_TRUNCATE, &f, why);

    if (e != ERR_NONE)
        return e;
    e = file_write(f, 0, p, size, why);
    if (e == ERR_NONE)
        e = file_sync(f, why);
    file_unref(f);
    return e;
}

static enum err remove_file(struct raft_store *d, const char *name, struct errmsg *why)
{
    char path[PATH_BYTES_MAX];
    enum err e = disk_unlink(d->env, path_of(d, name, path), why);

    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

/* ---- term and vote: two files in turn, the greater version counts ---- */

static int write_metadata(struct raft_store *d)
{
    char name[] = "metadata1", path[PATH_BYTES_MAX];
    uint8_t content[32];
    const uint64_t words[4] = {DISK_FORMAT, d->version, d->term, d->vote};
    struct errmsg why = {""};
    struct file *f = NULL;
    enum err e;
    bool is_new;

    name[8] = d->version % 2 == 1 ? '1' : '2';
    for (int i = 0; i < 4; i++)
        put_le(content + 8 * i, words[i], 8);
    e = file_open(d->env, path_of(d, name, path), FILE_CREATE, &f, &why);
    if (e != ERR_NONE)
        return failed(d, e, &why);
    is_new = file_size(f) == 0;
    e = file_write(f, 0, content, sizeof content, &why);
    if (e == ERR_NONE)
        e = file_sync(f, &why);
    if (e == ERR_NONE && is_new)
        e = dir_sync(d->env, d->dir, &why);
    file_unref(f);
    return e == ERR_NONE ? 0 : failed(d, e, &why);
}

static int load_metadata(struct raft_store *d)
{
    d->version = d->term = d->vote = 0;
    for (int i = 1; i <= 2; i++) {
        char name[] = "metadata1", path[PATH_BYTES_MAX];
        struct errmsg why = {""};
        uint8_t *p;
        size_t size;
        enum err e;

        name[8] = (char)('0' + i);
        e = file_slurp(d->env, path_of(d, name, path), FILE_BYTES_MAX, &p, &size, &why);
        if (e == ERR_NOT_FOUND)
            continue;
        if (e != ERR_NONE)
            return failed(d, e, &why);
        if (size == 32 && load_le64(p) == DISK_FORMAT && load_le64(p + 8) > d->version) {
            d->version = load_le64(p + 8);
            d->term = load_le64(p + 16);
            d->vote = load_le64(p + 24);
        } else if (size < 32) { /* cut while it was written */
            e = remove_file(d, name, &why);
        }
        free(p);
        if (e != ERR_NONE)
            return failed(d, e, &why);
        if (size > 32)
            return corrupt(d, name, "the file is too long");
    }
    return 0;
}

int raft_store_set_term(struct raft_store *d, raft_term term)
{
    d->version++;
    d->term = term;
    d->vote = 0;
    return write_metadata(d);
}

int raft_store_set_vote(struct raft_store *d, raft_id id)
{
    d->version++;
    d->vote = id;
    return write_metadata(d);
}

raft_term raft_store_term(const struct raft_store *d)
{
    return d->term;
}

/* ---- what is in the directory ---- */

struct listing {
    struct segment_name *segments;
    size_t segment_count;
    struct snapshot_name *snapshots;
    size_t snapshot_count;
};

static void note_snapshot(struct listing *l, uint64_t term, uint64_t index, uint64_t stamp,
                          bool is_meta)
{
    struct snapshot_name *s = NULL;

    for (size_t i = 0; i < l->snapshot_count && s == NULL; i++)
        if (l->snapshots[i].term == term && l->snapshots[i].index == index &&
            l->snapshots[i].stamp == stamp)
            s = &l->snapshots[i];
    if (s == NULL) {
        l->snapshots = xrealloc(l->snapshots, (l->snapshot_count + 1) * sizeof *l->snapshots);
        s = &l->snapshots[l->snapshot_count++];
        *s = (struct snapshot_name){.term = term, .index = index, .stamp = stamp};
    }
    s->has_meta = s->has_meta || is_meta;
    s->has_data = s->has_data || !is_meta;
}

static void on_entry(void *ctx, const struct dir_entry *e)
{
    struct listing *l = ctx;
    struct segment_name s = {.counter = 0};
    uint64_t term, index, stamp;
    int end = 0;
    size_t size = strlen(e->name);

    if (size >= sizeof s.name)
        return;
    if (sscanf(e->name, "snapshot-%" SCNu64 "-%" SCNu64 "-%" SCNu64 "%n", &term, &index, &stamp,
               &end) == 3) {
        if ((size_t)end == size || strcmp(e->name + end, ".meta") == 0)
            note_snapshot(l, term, index, stamp, (size_t)end != size);
        return;
    }
    if (!(sscanf(e->name, "open-%" SCNu64 "%n", &s.counter, &end) == 1 && (size_t)end == size)) {
        s.counter = 0;
        if (!(sscanf(e->name, "%" SCNu64 "-%" SCNu64 "%n", &s.first, &s.last, &end) == 2 &&
              (size_t)end == size))
            return;
    }
    memcpy(s.name, e->name, size + 1);
    l->segments = xrealloc(l->segments, (l->segment_count + 1) * sizeof s);
    l->segments[l->segment_count++] = s;
}

static int by_position(const void *a, const void *b)
{
    const struct segment_name *x = a, *y = b;

    if ((x->counter == 0) != (y->counter == 0))
        return x->counter == 0 ? -1 : 1;
    if (x->counter != y->counter)
        return x->counter < y->counter ? -1 : 1;
    return (x->first > y->first) - (x->first < y->first);
}

static int by_age(const void *a, const void *b)
{
    const struct snapshot_name *x = a, *y = b;

    if (x->term != y->term)
        return x->term < y->term ? -1 : 1;
    if (x->index != y->index)
        return x->index < y->index ? -1 : 1;
    return (x->stamp > y->stamp) - (x->stamp < y->stamp);
}

static void listing_deinit(struct listing *l)
{
    free(l->segments);
    free(l->snapshots);
}

/* Segments in order; whole snapshots, the newest last. */
static enum err list_files(struct raft_store *d, struct listing *l, struct errmsg *why)
{
    enum err e;
    size_t whole = 0;

    *l = (struct listing){.segments = NULL};
    e = dir_list(d->env, d->dir, on_entry, l, why);
    if (e != ERR_NONE) {
        listing_deinit(l);
        return e;
    }
    for (size_t i = 0; i < l->snapshot_count; i++)
        if (l->snapshots[i].has_meta && l->snapshots[i].has_data)
            l->snapshots[whole++] = l->snapshots[i];
    l->snapshot_count = whole;
    if (l->segment_count > 0)
        qsort(l->segments, l->segment_count, sizeof *l->segments, by_position);
    if (whole > 0)
        qsort(l->snapshots, whole, sizeof *l->snapshots, by_age);
    return ERR_NONE;
}

static void snapshot_file(const struct snapshot_name *s, bool meta, char out[NAME_BYTES_MAX])
{
    (void)snprintf(out, NAME_BYTES_MAX, "snapshot-%" PRIu64 "-%" PRIu64 "-%" PRIu64 "%s", s->term,
                   s->index, s->stamp, meta ? ".meta" : "");
}

/* ---- loading ---- */

struct loaded {
    struct raft_entry *entries;
    size_t count;
};

static void add_entry(struct loaded *l, raft_term term, int type, const uint8_t *p, size_t size)
{
    struct raft_entry *e;

    l->entries = raft_realloc(l->entries, (l->count + 1) * sizeof *l->entries);
    CHECK(l->entries != NULL);
    e = &l->entries[l->count++];
    *e = (struct raft_entry){.term = term, .type = (unsigned short)type};
    e->buf.len = size;
    e->buf.base = raft_malloc(MAX(size, (size_t)8));
    CHECK(e->buf.base != NULL);
    e->batch = e->buf.base;
    if (size > 0)
        memcpy(e->buf.base, p, size);
}

static void loaded_deinit(struct loaded *l)
{
    for (size_t i = 0; i < l->count; i++)
        raft_free(l->entries[i].batch);
    if (l->entries != NULL)
        raft_free(l->entries);
    *l = (struct loaded){.count = 0};
}

/* Returns the end of the batch at `at`; 0: there is no good one. */
static size_t load_batch(const struct raft_store *d, const uint8_t *p, size_t size, size_t at,
                         struct loaded *l)
{
    size_t header_size, data_size = 0, data;
    uint64_t count;

    if (size - at < 16 || (count = load_le64(p + at + 8)) == 0 || count > (size - at) / 16)
        return 0;
    header_size = 8 + 16 * (size_t)count;
    if (header_size > size - at - 8 || crc_of(d, p + at + 8, header_size, 0) != load_le32(p + at))
        return 0;
    data = at + 8 + header_size;
    for (size_t i = 0; i < count; i++)
        data_size += load_le32(p + at + 16 + 16 * i + 12);
    if (data_size > size - data || crc_of(d, p + data, data_size, 0) != load_le32(p + at + 4))
        return 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *h = p + at + 16 + 16 * i;

        add_entry(l, load_le64(h), h[8], p + data, load_le32(h + 12));
        data += load_le32(h + 12);
    }
    return data;
}

static enum err close_file(struct raft_store *d, const char *from, uint64_t used, uint64_t first,
                           uint64_t last, struct errmsg *why);

/* An open segment becomes a closed one, as at raft_uv's start. */
static int load_segment(struct raft_store *d, const struct segment_name *s, uint64_t next,
                        struct loaded *l)
{
    char path[PATH_BYTES_MAX];
    struct errmsg why = {""};
    size_t size, at = 8, end, before = l->count;
    uint8_t *p;
    enum err e = file_slurp(d->env, path_of(d, s->name, path), FILE_BYTES_MAX, &p, &size, &why);

    if (e != ERR_NONE)
        return failed(d, e, &why);
    if (size >= 8 && load_le64(p) == DISK_FORMAT)
        while (at < size && (end = load_batch(d, p, size, at, l)) != 0)
            at = end;
    free(p);
    if (s->counter == 0)
        return at == size && l->count - before == s->last - s->first + 1
                   ? 0
                   : corrupt(d, s->name, "a batch does not match its checksum");
    if (l->count == before)
        e = remove_file(d, s->name, &why);
    else
        e = close_file(d, s->name, at, next, next + (l->count - before) - 1, &why);
    return e == ERR_NONE ? 0 : failed(d, e, &why);
}

static int decode_configuration(struct raft_store *d, const uint8_t *p, size_t size,
                                struct raft_configuration *c)
{
    size_t at = 9;
    uint64_t count = 0;

    raft_configuration_init(c);
    if (size >= 9) {
        for (int i = 0; i < 8; i++)
            count |= (uint64_t)p[1 + i] << (8 * i);
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t id;
        const char *address = (const char *)p + at + 8;
        size_t length;

        if (size < at + 8 || (length = strnlen(address, size - at - 8)) + 9 >= size - at)
            return corrupt(d, "snapshot", "its configuration is malformed");
        id = load_le64(p + at);
        at += 8 + length + 1;
        if (raft_configuration_add(c, id, address, p[at++]) != 0)
            return corrupt(d, "snapshot", "its configuration is malformed");
    }
    return 0;
}

static int load_snapshot(struct raft_store *d, const struct snapshot_name *s,
                         struct raft_snapshot **out)
{
    char name[NAME_BYTES_MAX], path[PATH_BYTES_MAX];
    struct errmsg why = {""};
    struct raft_snapshot *r;
    uint8_t *meta, *data;
    size_t meta_size, size;
    enum err e;
    int rv = 0;

    snapshot_file(s, true, name);
    e = file_slurp(d->env, path_of(d, name, path), FILE_BYTES_MAX, &meta, &meta_size, &why);
    if (e != ERR_NONE)
        return failed(d, e, &why);
    snapshot_file(s, false, name);
    e = file_slurp(d->env, path_of(d, name, path), FILE_BYTES_MAX, &data, &size, &why);
    if (e != ERR_NONE) {
        free(meta);
        return failed(d, e, &why);
    }
    r = raft_calloc(1, sizeof *r);
    CHECK(r != NULL);
    r->index = s->index;
    r->term = s->term;
    if (meta_size < 32 || load_le64(meta) != DISK_FORMAT || load_le64(meta + 24) > meta_size - 32 ||
        crc_of(d, meta + 32, (size_t)load_le64(meta + 24), crc_of(d, meta + 16, 16, 0)) !=
            (uint32_t)load_le64(meta + 8)) {
        rv = corrupt(d, name, "its .meta does not match its checksum");
    } else {
        r->configuration_index = load_le64(meta + 16);
        rv = decode_configuration(d, meta + 32, (size_t)load_le64(meta + 24), &r->configuration);
    }
    r->n_bufs = 1;
    r->bufs = raft_malloc(sizeof *r->bufs);
    CHECK(r->bufs != NULL);
    r->bufs[0].len = size;
    r->bufs[0].base = raft_malloc(MAX(size, (size_t)8));
    CHECK(r->bufs[0].base != NULL);
    memcpy(r->bufs[0].base, data, size);
    free(meta);
    free(data);
    *out = r;
    return rv;
}

/* The longest run of closed segments without gaps up to the last. */
static size_t first_used(const struct listing *l)
{
    size_t closed = 0, first;

    while (closed < l->segment_count && l->segments[closed].counter == 0)
        closed++;
    first = closed > 0 ? closed - 1 : 0;
    while (first > 0 && l->segments[first - 1].last + 1 == l->segments[first].first)
        first--;
    return first;
}

static int load_files(struct raft_store *d, const struct listing *l,
                      struct raft_snapshot **snapshot, raft_index *start, struct loaded *out)
{
    uint64_t snapshot_index = 0;
    size_t first = first_used(l);
    int rv = 0;

    if (l->snapshot_count > 0) {
        rv = load_snapshot(d, &l->snapshots[l->snapshot_count - 1], snapshot);
        snapshot_index = l->snapshots[l->snapshot_count - 1].index;
    }
    *start = snapshot_index + 1;
    if (first < l->segment_count && l->segments[first].counter == 0) {
        bool behind = l->segments[l->segment_count - 1].counter == 0 &&
                      l->segments[l->segment_count - 1].last < snapshot_index;

        if (behind) /* nothing that the snapshot does not have */
            first = l->segment_count;
        else if (l->segments[first].first > snapshot_index + 1)
            rv = corrupt(d, l->segments[first].name, "the segment before it is missing");
        else
            *start = l->segments[first].first;
    }
    for (size_t i = first; rv == 0 && i < l->segment_count; i++)
        rv = load_segment(d, &l->segments[i], *start + out->count, out);
    return rv;
}

int raft_store_load(struct raft_store *d, raft_term *term, raft_id *voted_for,
                    struct raft_snapshot **snapshot, raft_index *start,
                    struct raft_entry *entries[], size_t *count)
{
    struct errmsg why = {""};
    struct loaded l = {.count = 0};
    struct listing files;
    enum err e = list_files(d, &files, &why);
    int rv;

    *snapshot = NULL;
    if (e != ERR_NONE)
        return failed(d, e, &why);
    rv = load_files(d, &files, snapshot, start, &l);
    listing_deinit(&files);
    if (rv != 0) {
        loaded_deinit(&l);
        return rv;
    }
    *term = d->term;
    *voted_for = d->vote;
    *entries = l.entries;
    *count = l.count;
    d->next_index = *start + l.count;
    return 0;
}

/* ---- segments ---- */

static enum err close_file(struct raft_store *d, const char *from, uint64_t used, uint64_t first,
                           uint64_t last, struct errmsg *why)
{
    char name[NAME_BYTES_MAX], a[PATH_BYTES_MAX], b[PATH_BYTES_MAX];
    struct file *f;
    enum err e = file_open(d->env, path_of(d, from, a), 0, &f, why);

    if (e != ERR_NONE)
        return e;
    e = file_truncate(f, used, why);
    if (e == ERR_NONE)
        e = file_sync(f, why);
    file_unref(f);
    (void)snprintf(name, sizeof name, CLOSED_FORMAT, first, last);
    if (e == ERR_NONE)
        e = disk_rename(d->env, a, path_of(d, name, b), why);
    return e == ERR_NONE ? dir_sync(d->env, d->dir, why) : e;
}

/* Room for a segment under an open name, made ahead of need. */
static enum err prepare(struct raft_store *d, uint64_t counter, uint64_t bytes, struct file **out,
                        struct errmsg *why)
{
    char name[NAME_BYTES_MAX], path[PATH_BYTES_MAX];
    enum err e;

    (void)snprintf(name, sizeof name, "open-%" PRIu64, counter);
    e = file_open(d->env, path_of(d, name, path), FILE_CREATE, out, why);
    if (e != ERR_NONE)
        return e;
    e = file_ready(*out, bytes, why);
    if (e == ERR_NONE)
        e = file_sync(*out, why);
    if (e == ERR_NONE)
        e = dir_sync(d->env, d->dir, why);
    if (e != ERR_NONE) {
        file_unref(*out);
        *out = NULL;
    }
    return e;
}

static enum err prepare_next(struct raft_store *d, struct errmsg *why)
{
    struct file *f;
    uint64_t counter = d->counter_next++;
    enum err e = prepare(d, counter, SEGMENT_BYTES, &f, why);

    if (e != ERR_NONE)
        return e;
    file_unref(f);
    d->prepared = counter;
    return ERR_NONE;
}

static enum err open_segment(struct raft_store *d, uint64_t bytes, struct errmsg *why)
{
    uint64_t counter = d->prepared != 0 ? d->prepared : d->counter_next++;
    enum err e;

    d->prepared = 0;
    d->room = MAX(bytes, SEGMENT_BYTES);
    e = prepare(d, counter, d->room, &d->open, why);
    if (e != ERR_NONE)
        return e;
    d->open_counter = counter;
    d->used = 0;
    d->first_index = d->next_index;
    return prepare_next(d, why);
}

/* What is open becomes a closed segment, or nothing. */
static enum err finish_segment(struct raft_store *d, struct errmsg *why)
{
    char name[NAME_BYTES_MAX];

    if (d->open == NULL)
        return ERR_NONE;
    file_unref(d->open);
    d->open = NULL;
    (void)snprintf(name, sizeof name, "open-%" PRIu64, d->open_counter);
    if (d->next_index == d->first_index)
        return remove_file(d, name, why);
    return close_file(d, name, d->used, d->first_index, d->next_index - 1, why);
}

static size_t batch_bytes(const struct raft_entry *entries, unsigned count)
{
    size_t size = 16 + 16 * (size_t)count;

    for (unsigned i = 0; i < count; i++)
        size += entries[i].buf.len;
    return size;
}

static void encode_batch(const struct raft_store *d, const struct raft_entry *entries,
                         unsigned count, uint8_t *p)
{
    uint8_t *header = p + 8, *data = header + 8 + 16 * (size_t)count, *at = data;

    put_le(header, count, 8);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *h = header + 8 + 16 * (size_t)i;

        put_le(h, entries[i].term, 8);
        put_le(h + 8, entries[i].type & 255u, 4);
        put_le(h + 12, entries[i].buf.len, 4);
        if (entries[i].buf.len > 0)
            memcpy(at, entries[i].buf.base, entries[i].buf.len);
        at += entries[i].buf.len;
    }
    put_le(p, crc_of(d, header, (size_t)(data - header), 0), 4);
    put_le(p + 4, crc_of(d, data, (size_t)(at - data), 0), 4);
}

/* A closed segment with one entry: the configuration. */
int raft_store_configure(struct raft_store *d, raft_index index, raft_term term,
                         const struct raft_configuration *conf)
{
    struct raft_entry entry = {.term = term, .type = RAFT_CHANGE};
    char name[NAME_BYTES_MAX];
    struct errmsg why = {""};
    uint8_t *p;
    size_t size;
    enum err e;
    int rv = raft_configuration_encode(conf, &entry.buf);

    if (rv != 0)
        return rv;
    size = 8 + batch_bytes(&entry, 1);
    p = xcalloc(1, size);
    put_le(p, DISK_FORMAT, 8);
    encode_batch(d, &entry, 1, p + 8);
    (void)snprintf(name, sizeof name, CLOSED_FORMAT, (uint64_t)index, (uint64_t)index);
    e = make_file(d, name, p, size, &why);
    if (e == ERR_NONE)
        e = dir_sync(d->env, d->dir, &why);
    raft_free(entry.buf.base);
    free(p);
    return e == ERR_NONE ? 0 : failed(d, e, &why);
}

/* ---- the log ---- */

static enum err write_batches(struct raft_store *d, const struct raft_store_append *v, size_t n,
                              struct errmsg *why)
{
    size_t size = 0, at;
    uint8_t *p;
    enum err e = ERR_NONE;

    for (size_t i = 0; i < n; i++)
        size += batch_bytes(v[i].entries, v[i].count);
    if (d->open != NULL && d->used + size > d->room)
        e = finish_segment(d, why);
    if (e == ERR_NONE && d->open == NULL)
        e = open_segment(d, size + 8, why);
    if (e != ERR_NONE)
        return e;
    at = d->used == 0 ? 8 : 0;
    size += at;
    p = xcalloc(1, size);
    if (at > 0)
        put_le(p, DISK_FORMAT, 8);
    for (size_t i = 0; i < n; i++) {
        encode_batch(d, v[i].entries, v[i].count, p + at);
        at += batch_bytes(v[i].entries, v[i].count);
    }
    e = file_write(d->open, d->used, p, size, why);
    if (e == ERR_NONE)
        e = file_sync(d->open, why);
    free(p);
    if (e != ERR_NONE)
        return e;
    d->used += size;
    for (size_t i = 0; i < n; i++)
        d->next_index += v[i].count;
    return ERR_NONE;
}

int raft_store_append(struct raft_store *d, const struct raft_store_append *v, size_t n)
{
    struct errmsg why = {""};
    enum err e = write_batches(d, v, n, &why);

    return e == ERR_NONE ? 0 : failed(d, e, &why);
}

/* Cuts the closed segment that holds `index` before it, by a new file under the shorter name. */
static enum err cut_segment(struct raft_store *d, const struct segment_name *s, uint64_t index,
                            struct errmsg *why)
{
    char path[PATH_BYTES_MAX], name[NAME_BYTES_MAX];
    struct loaded l = {.count = 0};
    size_t size, at = 8, end;
    uint8_t *p, *made;
    enum err e = file_slurp(d->env, path_of(d, s->name, path), FILE_BYTES_MAX, &p, &size, why);

    if (e != ERR_NONE)
        return e;
    while (at < size && (end = load_batch(d, p, size, at, &l)) != 0)
        at = end;
    free(p);
    l.count = MIN(l.count, (size_t)(index - s->first));
    size = 8 + batch_bytes(l.entries, (unsigned)l.count);
    made = xcalloc(1, size);
    put_le(made, DISK_FORMAT, 8);
    encode_batch(d, l.entries, (unsigned)l.count, made + 8);
    (void)snprintf(name, sizeof name, CLOSED_FORMAT, s->first, index - 1);
    e = make_file(d, name, made, size, why);
    free(made);
    loaded_deinit(&l);
    return e;
}

static enum err truncate_log(struct raft_store *d, uint64_t index, struct errmsg *why)
{
    struct listing files;
    enum err e = finish_segment(d, why);

    if (e == ERR_NONE)
        e = list_files(d, &files, why);
    if (e != ERR_NONE)
        return e;
    for (size_t i = 0; e == ERR_NONE && i < files.segment_count; i++) {
        const struct segment_name *s = &files.segments[i];

        if (s->counter != 0 || s->last < index)
            continue;
        if (s->first < index)
            e = cut_segment(d, s, index, why);
        if (e == ERR_NONE)
            e = remove_file(d, s->name, why);
    }
    listing_deinit(&files);
    if (e == ERR_NONE)
        e = dir_sync(d->env, d->dir, why);
    d->next_index = index;
    return e;
}

int raft_store_truncate(struct raft_store *d, raft_index index)
{
    struct errmsg why = {""};
    enum err e = truncate_log(d, index, &why);

    return e == ERR_NONE ? 0 : failed(d, e, &why);
}

int raft_store_finish(struct raft_store *d, raft_index next)
{
    struct errmsg why = {""};
    enum err e = finish_segment(d, &why);

    if (next != 0)
        d->next_index = next;
    return e == ERR_NONE ? 0 : failed(d, e, &why);
}

raft_index raft_store_next_index(const struct raft_store *d)
{
    return d->next_index;
}

void raft_store_close(struct raft_store *d)
{
    char name[NAME_BYTES_MAX];
    struct errmsg why = {""};

    if (finish_segment(d, &why) == ERR_NONE && d->prepared != 0) {
        (void)snprintf(name, sizeof name, "open-%" PRIu64, d->prepared);
        (void)remove_file(d, name, &why);
    }
}

/* ---- snapshots ---- */

static enum err write_snapshot_meta(struct raft_store *d, const struct raft_snapshot *snapshot,
                                    const struct snapshot_name *s, struct errmsg *why)
{
    struct raft_buffer conf;
    char name[NAME_BYTES_MAX];
    uint8_t *p;
    uint32_t crc;
    enum err e;

    CHECK(raft_configuration_encode(&snapshot->configuration, &conf) == 0);
    p = xcalloc(1, 32 + conf.len);
    put_le(p, DISK_FORMAT, 8);
    put_le(p + 16, snapshot->configuration_index, 8);
    put_le(p + 24, conf.len, 8);
    memcpy(p + 32, conf.base, conf.len);
    crc = crc_of(d, p + 16, 16, 0);
    put_le(p + 8, crc_of(d, p + 32, conf.len, crc), 8);
    snapshot_file(s, true, name);
    e = make_file(d, name, p, 32 + conf.len, why);
    raft_free(conf.base);
    free(p);
    return e;
}

static enum err write_snapshot_data(struct raft_store *d, const struct raft_snapshot *snapshot,
                                    const struct snapshot_name *s, struct errmsg *why)
{
    char name[NAME_BYTES_MAX];
    size_t size = 0;
    uint8_t *p;
    enum err e;

    for (unsigned i = 0; i < snapshot->n_bufs; i++)
        size += snapshot->bufs[i].len;
    p = xmalloc(size);
    size = 0;
    for (unsigned i = 0; i < snapshot->n_bufs; i++) {
        memcpy(p + size, snapshot->bufs[i].base, snapshot->bufs[i].len);
        size += snapshot->bufs[i].len;
    }
    snapshot_file(s, false, name);
    e = make_file(d, name, p, size, why);
    free(p);
    return e;
}

/* All but the newest two snapshots, and the closed segments below the trail. */
static enum err remove_old(struct raft_store *d, uint64_t index, unsigned trailing,
                           struct errmsg *why)
{
    char name[NAME_BYTES_MAX];
    struct listing files;
    enum err e = list_files(d, &files, why);

    if (e != ERR_NONE)
        return e;
    for (size_t i = 0; e == ERR_NONE && i + 2 < files.snapshot_count; i++) {
        snapshot_file(&files.snapshots[i], false, name);
        e = remove_file(d, name, why);
        snapshot_file(&files.snapshots[i], true, name);
        if (e == ERR_NONE)
            e = remove_file(d, name, why);
    }
    for (size_t i = 0; e == ERR_NONE && i < files.segment_count && index > trailing; i++) {
        const struct segment_name *s = &files.segments[i];

        if (s->counter != 0 || (trailing != 0 && s->last >= index - trailing + 1))
            break;
        e = remove_file(d, s->name, why);
    }
    listing_deinit(&files);
    return e == ERR_NONE ? dir_sync(d->env, d->dir, why) : e;
}

int raft_store_put(struct raft_store *d, const struct raft_snapshot *snapshot, unsigned trailing,
                   uint64_t stamp)
{
    const struct snapshot_name s = {
        .term = snapshot->term, .index = snapshot->index, .stamp = stamp};
    struct errmsg why = {""};
    enum err e = write_snapshot_meta(d, snapshot, &s, &why);

    if (e == ERR_NONE)
        e = write_snapshot_data(d, snapshot, &s, &why);
    if (e == ERR_NONE)
        e = dir_sync(d->env, d->dir, &why);
    if (e == ERR_NONE)
        e = remove_old(d, snapshot->index, trailing, &why);
    return e == ERR_NONE ? 0 : failed(d, e, &why);
}

int raft_store_get(struct raft_store *d, struct raft_snapshot **out)
{
    struct errmsg why = {""};
    struct listing files;
    enum err e = list_files(d, &files, &why);
    int rv;

    if (e != ERR_NONE)
        return failed(d, e, &why);
    rv = files.snapshot_count == 0
             ? RAFT_NOTFOUND
             : load_snapshot(d, &files.snapshots[files.snapshot_count - 1], out);
    listing_deinit(&files);
    return rv;
}

/* ---- life ---- */

/* Half of a snapshot is one that was never finished. */
static enum err remove_halves(struct raft_store *d, struct errmsg *why)
{
    struct listing l = {.segments = NULL};
    char name[NAME_BYTES_MAX];
    enum err e = dir_list(d->env, d->dir, on_entry, &l, why);

    for (size_t i = 0; e == ERR_NONE && i < l.snapshot_count; i++) {
        if (l.snapshots[i].has_meta && l.snapshots[i].has_data)
            continue;
        snapshot_file(&l.snapshots[i], l.snapshots[i].has_meta, name);
        e = remove_file(d, name, why);
    }
    listing_deinit(&l);
    return e;
}

int raft_store_init(struct raft_store *d)
{
    struct errmsg why = {""};
    enum err e = remove_halves(d, &why);

    return e == ERR_NONE ? load_metadata(d) : failed(d, e, &why);
}

struct raft_store *raft_store_new(struct env *env, const char *dir, char *errmsg)
{
    struct raft_store *d = xcalloc(1, sizeof *d);

    CHECK(strlen(dir) < sizeof d->dir - NAME_BYTES_MAX);
    (void)snprintf(d->dir, sizeof d->dir, "%s", dir);
    d->env = env;
    d->errmsg = errmsg;
    d->counter_next = 1;
    crc_init(d);
    return d;
}
