/* raft-meta/raft_files.c -- see raft_files.h. */
#include "raft-meta/raft_files.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "raft-meta/snapshot.h"

#define DISK_FORMAT       1
#define METADATA_SIZE     32
#define BATCH_COUNT_MAX   262144 /* as libraft */
#define SEGMENT_BYTES_MAX (256u << 20)
#define SNAPSHOT_META_MAX (1u << 21)
#define PATH_BYTES_MAX    4096
#define NAME_BYTES_MAX    128
#define FILES_MAX         65536
#define ZEROS_CHUNK       (64u << 10)
#define FORMING_NAME      "forming"

struct segment {
    char name[NAME_BYTES_MAX];
    bool is_open;
    uint64_t first, last; /* closed */
    uint64_t counter;     /* open */
};

struct snapshot_name {
    char name[NAME_BYTES_MAX]; /* without .meta */
    uint64_t term, index, time;
    bool has_meta, has_data;
};

struct checker {
    const struct raft_files_options *o;
    struct raft_files_report *report;
    struct segment *segments;
    int segment_count;
    int last_with_data; /* index of the last open segment that is not all zeros; -1: none */
    struct snapshot_name *snapshots;
    int snapshot_count;
    bool metadata[2];
    uint64_t next_index, last_term;
    struct segment *corrupt_segment; /* the first one, for the repair */
    uint64_t corrupt_offset, corrupt_kept_last;
    bool corrupt_metadata, corrupt_snapshot;
};

/* ---- small readers ---- */

/* Eight bytes a step: a log of 16 MiB is read at each start. t[0] is the plain table; t[k] advances
 * a byte past k more. */
struct crc_tables {
    uint32_t t[8][256];
};

/* MSB first, polynomial 04C11DB7. */
static void crc_tables_init(struct crc_tables *c)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t v = i << 24;

        for (int k = 0; k < 8; k++)
            v = (v & 0x80000000u) != 0 ? (v << 1) ^ 0x04c11db7u : v << 1;
        c->t[0][i] = v;
    }
    for (int k = 1; k < 8; k++) {
        for (uint32_t i = 0; i < 256; i++)
            c->t[k][i] = (c->t[k - 1][i] << 8) ^ c->t[0][c->t[k - 1][i] >> 24];
    }
}

static uint32_t crc_of(const struct crc_tables *c, const uint8_t *p, size_t size, uint32_t crc)
{
    for (; size >= 8; size -= 8, p += 8) {
        crc ^= load_be32(p);
        crc = c->t[7][crc >> 24] ^ c->t[6][(crc >> 16) & 255] ^ c->t[5][(crc >> 8) & 255] ^
              c->t[4][crc & 255] ^ c->t[3][p[4]] ^ c->t[2][p[5]] ^ c->t[1][p[6]] ^ c->t[0][p[7]];
    }
    while (size-- > 0)
        crc = (crc << 8) ^ c->t[0][(crc >> 24) ^ *p++];
    return crc;
}

/* Decimal digits up to `end` or a character that is none; false without any or on overflow. */
static bool take_number(const char **at, uint64_t *out)
{
    const char *p = *at;

    *out = 0;
    if (*p < '0' || *p > '9')
        return false;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (*out > (UINT64_MAX - 9) / 10)
            return false;
        *out = *out * 10 + (uint64_t)(*p - '0');
    }
    *at = p;
    return true;
}

static bool take_text(const char **at, const char *text)
{
    size_t size = strlen(text);

    if (strncmp(*at, text, size) != 0)
        return false;
    *at += size;
    return true;
}

/* The first byte is zero, and each is like the one before it. */
static bool all_zero(const uint8_t *p, size_t size)
{
    return size == 0 || (p[0] == 0 && memcmp(p, p + 1, size - 1) == 0);
}

static void path_of(const struct checker *c, const char *name, char out[PATH_BYTES_MAX])
{
    (void)snprintf(out, PATH_BYTES_MAX, "%s/%s", c->o->dir, name);
}

/* ---- findings ---- */

static void find(struct checker *c, enum raft_finding_kind kind, const char *file, uint64_t offset,
                 const char *what)
{
    struct raft_finding f = {.kind = kind, .offset = offset};

    (void)snprintf(f.file, sizeof f.file, "%s", file);
    (void)snprintf(f.what, sizeof f.what, "%s", what);
    if (kind == RAFT_TORN) {
        c->report->torn_count++;
    } else if (c->report->corrupt_count++ == 0) {
        c->report->first = f;
    }
    if (c->o->on_finding != NULL)
        c->o->on_finding(c->o->ctx, &f);
}

/* ---- what is there ---- */

static struct snapshot_name *snapshot_named(struct checker *c, const char *name, size_t size)
{
    struct snapshot_name *s;

    for (int i = 0; i < c->snapshot_count; i++) {
        if (strlen(c->snapshots[i].name) == size && strncmp(c->snapshots[i].name, name, size) == 0)
            return &c->snapshots[i];
    }
    c->snapshots = xrealloc(c->snapshots, ((size_t)c->snapshot_count + 1) * sizeof *s);
    s = &c->snapshots[c->snapshot_count++];
    *s = (struct snapshot_name){.has_meta = false};
    memcpy(s->name, name, size);
    return s;
}

static bool note_snapshot(struct checker *c, const char *name)
{
    const char *at = name;
    uint64_t term, index, time;
    struct snapshot_name *s;
    size_t size;

    if (!take_text(&at, "snapshot-") || !take_number(&at, &term) || !take_text(&at, "-") ||
        !take_number(&at, &index) || !take_text(&at, "-") || !take_number(&at, &time))
        return false;
    size = (size_t)(at - name);
    if (*at != 0 && strcmp(at, ".meta") != 0)
        return false;
    s = snapshot_named(c, name, size);
    s->term = term;
    s->index = index;
    s->time = time;
    if (*at == 0)
        s->has_data = true;
    else
        s->has_meta = true;
    return true;
}

static bool note_segment(struct checker *c, const char *name)
{
    struct segment s = {.is_open = false};
    const char *at = name;

    if (take_text(&at, "open-")) {
        s.is_open = true;
        if (!take_number(&at, &s.counter) || *at != 0)
            return false;
    } else if (!take_number(&at, &s.first) || !take_text(&at, "-") || !take_number(&at, &s.last) ||
               *at != 0 || s.first == 0 || s.last < s.first) {
        return false;
    }
    (void)snprintf(s.name, sizeof s.name, "%s", name);
    c->segments = xrealloc(c->segments, ((size_t)c->segment_count + 1) * sizeof s);
    c->segments[c->segment_count++] = s;
    return true;
}

static void on_dir_entry(void *ctx, const struct dir_entry *e)
{
    struct checker *c = ctx;

    if (e->is_dir || strlen(e->name) >= NAME_BYTES_MAX ||
        c->segment_count + c->snapshot_count >= FILES_MAX)
        return;
    if (strcmp(e->name, FORMING_NAME) == 0) {
        c->report->forming = true;
        return;
    }
    if (strcmp(e->name, "metadata1") == 0 || strcmp(e->name, "metadata2") == 0)
        c->metadata[e->name[8] - '1'] = true;
    else if (!note_snapshot(c, e->name) && !note_segment(c, e->name))
        return;
    c->report->any = true;
    c->report->bytes_total += e->size_bytes;
}

/* Closed ones by index, then open ones by counter. */
static int by_order(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;

    if (x->is_open != y->is_open)
        return x->is_open ? 1 : -1;
    if (x->is_open)
        return (x->counter > y->counter) - (x->counter < y->counter);
    return (x->first > y->first) - (x->first < y->first);
}

static bool snapshot_is_newer(const struct snapshot_name *a, const struct snapshot_name *b)
{
    if (a->term != b->term)
        return a->term > b->term;
    if (a->index != b->index)
        return a->index > b->index;
    return a->time > b->time;
}

/* ---- metadata ---- */

static enum err check_metadata(struct checker *c, struct errmsg *why)
{
    uint64_t best = 0;

    for (int i = 0; i < 2; i++) {
        char path[PATH_BYTES_MAX], name[] = "metadata1";
        uint8_t *p;
        size_t size;
        enum err e;

        name[8] = (char)('1' + i);
        if (!c->metadata[i])
            continue;
        path_of(c, name, path);
        e = file_slurp(c->o->env, path, METADATA_SIZE + 1, &p, &size, why);
        if (e == ERR_TOO_LARGE) {
            find(c, RAFT_CORRUPT_FILE, name, METADATA_SIZE, "the file is too long");
            c->corrupt_metadata = true;
            continue;
        }
        if (e != ERR_NONE)
            return e;
        if (size < METADATA_SIZE) {
            find(c, RAFT_TORN, name, size, "cut while it was written");
        } else if (size > METADATA_SIZE || load_le64(p) != DISK_FORMAT || load_le64(p + 8) == 0) {
            find(c, RAFT_CORRUPT_FILE, name, size > METADATA_SIZE ? METADATA_SIZE : 0,
                 "not a metadata file of format 1");
            c->corrupt_metadata = true;
        } else if (load_le64(p + 8) > best) {
            best = load_le64(p + 8);
            c->report->term = load_le64(p + 16);
        }
        free(p);
    }
    if (best == 0 && !c->corrupt_metadata && (c->segment_count > 0 || c->snapshot_count > 0)) {
        find(c, RAFT_CORRUPT_FILE, "metadata1", 0, "term and vote are missing");
        c->corrupt_metadata = true;
    }
    return ERR_NONE;
}

/* ---- snapshots ---- */

static bool meta_is_whole(const uint8_t *p, size_t size)
{
    struct crc_tables table;
    uint32_t crc;
    uint64_t length;

    if (size < 32 || load_le64(p) != DISK_FORMAT)
        return false;
    length = load_le64(p + 24);
    if (length == 0 || length > size - 32)
        return false;
    crc_tables_init(&table);
    crc = crc_of(&table, p + 16, 16, 0);
    return crc_of(&table, p + 32, (size_t)length, crc) == (uint32_t)load_le64(p + 8);
}

static enum err check_snapshot(struct checker *c, const struct snapshot_name *s, bool newest,
                               struct errmsg *why)
{
    char path[PATH_BYTES_MAX], meta[NAME_BYTES_MAX + 8];
    struct image *image;
    struct errmsg problem;
    uint8_t *p;
    size_t size;
    enum err e;

    (void)snprintf(meta, sizeof meta, "%s.meta", s->name);
    path_of(c, meta, path);
    e = file_slurp(c->o->env, path, SNAPSHOT_META_MAX, &p, &size, why);
    if (e != ERR_NONE && e != ERR_TOO_LARGE)
        return e;
    if (e == ERR_TOO_LARGE || !meta_is_whole(p, size)) {
        find(c, RAFT_CORRUPT_FILE, meta, 0, "it does not match its checksum");
        c->corrupt_snapshot = c->corrupt_snapshot || newest;
    }
    if (e == ERR_NONE)
        free(p);

    path_of(c, s->name, path);
    e = file_slurp(c->o->env, path, SNAPSHOT_BYTES_MAX, &p, &size, why);
    if (e == ERR_TOO_LARGE) {
        find(c, RAFT_CORRUPT_FILE, s->name, SNAPSHOT_BYTES_MAX, "it is too large");
        c->corrupt_snapshot = c->corrupt_snapshot || newest;
        return ERR_NONE;
    }
    if (e != ERR_NONE)
        return e;
    if (snapshot_decode(p, size, &image, &problem) == ERR_NONE) {
        image_unref(image);
    } else {
        find(c, RAFT_CORRUPT_FILE, s->name, 0, problem.text);
        c->corrupt_snapshot = c->corrupt_snapshot || newest;
    }
    free(p);
    return ERR_NONE;
}

static enum err check_snapshots(struct checker *c, struct errmsg *why)
{
    const struct snapshot_name *newest = NULL;

    for (int i = 0; i < c->snapshot_count; i++) {
        const struct snapshot_name *s = &c->snapshots[i];

        /* A lone half is a snapshot that was never finished; libraft ignores and removes it. */
        if (s->has_meta && s->has_data && (newest == NULL || snapshot_is_newer(s, newest)))
            newest = s;
    }
    for (int i = 0; i < c->snapshot_count; i++) {
        const struct snapshot_name *s = &c->snapshots[i];

        if (s->has_meta && s->has_data) {
            enum err e = check_snapshot(c, s, s == newest, why);

            if (e != ERR_NONE)
                return e;
            c->report->snapshot_count++;
        }
    }
    if (newest != NULL) {
        c->report->snapshot_index = newest->index;
        c->last_term = newest->term;
    }
    return ERR_NONE;
}

/* ---- segments ---- */

enum batch_result { BATCH_OK, BATCH_BAD_HEADER, BATCH_BAD_DATA };

struct batch {
    uint64_t count;
    size_t header_at, data_at, end;
};

static enum batch_result read_batch(const struct crc_tables *table, const uint8_t *p, size_t size,
                                    size_t at, struct batch *b)
{
    size_t header_size, data_size = 0;

    if (size - at < 16)
        return BATCH_BAD_HEADER;
    b->header_at = at + 8;
    b->count = load_le64(p + b->header_at);
    if (b->count == 0 || b->count > BATCH_COUNT_MAX)
        return BATCH_BAD_HEADER;
    header_size = 8 + 16 * (size_t)b->count;
    if (header_size > size - b->header_at ||
        crc_of(table, p + b->header_at, header_size, 0) != load_le32(p + at))
        return BATCH_BAD_HEADER;
    b->data_at = b->header_at + header_size;
    for (uint64_t i = 0; i < b->count; i++)
        data_size += load_le32(p + b->header_at + 8 + 16 * i + 12);
    if (data_size > size - b->data_at ||
        crc_of(table, p + b->data_at, data_size, 0) != load_le32(p + at + 4))
        return BATCH_BAD_DATA;
    b->end = b->data_at + data_size;
    return BATCH_OK;
}

/* A whole batch header behind `at`: something was written after what is bad there. Blocks are
 * written anew by each append, so batches begin at multiples of 8. */
static bool batch_follows(const struct crc_tables *table, const uint8_t *p, size_t size, size_t at)
{
    struct batch b;

    for (at += 8; at + 16 <= size; at += 8) {
        uint64_t count = load_le64(p + at + 8);

        if (count != 0 && count <= BATCH_COUNT_MAX &&
            read_batch(table, p, size, at, &b) != BATCH_BAD_HEADER)
            return true;
    }
    return false;
}

static void note_entries(struct checker *c, const struct segment *s, const uint8_t *p,
                         const struct batch *b)
{
    size_t at = b->data_at;

    for (uint64_t i = 0; i < b->count; i++) {
        const uint8_t *h = p + b->header_at + 8 + 16 * i;
        uint64_t term = load_le64(h);
        uint32_t length = load_le32(h + 12);

        if (term < c->last_term && c->next_index > c->report->snapshot_index + 1)
            find(c, RAFT_CORRUPT_FILE, s->name, b->header_at, "a term is less than the one before");
        c->last_term = MAX(c->last_term, term);
        if (c->o->on_entry != NULL)
            c->o->on_entry(c->o->ctx, c->next_index, term, h[8],
                           (struct bytes){p + at, (int32_t)length});
        c->report->last_index = c->next_index++;
        at += length;
    }
}

static void find_corrupt_segment(struct checker *c, struct segment *s, uint64_t offset,
                                 const char *what)
{
    find(c, RAFT_CORRUPT_FILE, s->name, offset, what);
    if (c->corrupt_segment == NULL) {
        c->corrupt_segment = s;
        c->corrupt_offset = offset;
        c->corrupt_kept_last = c->next_index - 1;
    }
}

/* Ends the segment at `at`. What was torn off must not come back and is synced; preallocated zeros
 * may, they say nothing. */
static enum err cut_segment(struct checker *c, const struct segment *s, uint64_t at, bool durably,
                            struct errmsg *why)
{
    char path[PATH_BYTES_MAX];
    struct file *f;
    enum err e;

    path_of(c, s->name, path);
    if (at <= 8) { /* no batch at all: libraft wants no such file */
        e = disk_unlink(c->o->env, path, why);
    } else {
        e = file_open(c->o->env, path, 0, &f, why);
        if (e != ERR_NONE)
            return e;
        e = file_truncate(f, at, why);
        if (e == ERR_NONE && durably)
            e = file_sync(f, why);
        file_unref(f);
    }
    return e != ERR_NONE || !durably ? e : dir_sync(c->o->env, c->o->dir, why);
}

/* Reads all batches; *end is behind the last good one. False: this segment is the last that can
 * be read. */
static bool scan_batches(struct checker *c, struct segment *s, const struct crc_tables *table,
                         const uint8_t *p, size_t size, bool later_data, size_t *end, bool *torn)
{
    enum batch_result r = BATCH_BAD_HEADER;
    struct batch b;
    size_t at = 8;

    *torn = false;
    *end = 8;
    if (size < 8 || load_le64(p) != DISK_FORMAT)
        at = 0;
    while (at >= 8 && at < size && (r = read_batch(table, p, size, at, &b)) == BATCH_OK) {
        note_entries(c, s, p, &b);
        at = b.end;
        *end = at;
    }
    if (at == size && at > 8)
        return true;
    if (!s->is_open) {
        find_corrupt_segment(c, s, at,
                             at == 0 ? "not a segment of format 1"
                             : r == BATCH_BAD_DATA
                                 ? "the data of a batch do not match their checksum"
                                 : "a batch header does not match its checksum");
        return false;
    }
    if (all_zero(p + at, size - at))
        return true; /* preallocated, not yet used */
    if (later_data || batch_follows(table, p, size, at)) {
        find_corrupt_segment(c, s, at,
                             "a batch does not match its checksum, and others were "
                             "stored behind it");
        return false;
    }
    find(c, RAFT_TORN, s->name, at, "the last write was cut by a crash");
    *torn = true;
    return true;
}

static enum err slurp_segment(struct checker *c, const struct segment *s, uint8_t **p, size_t *size,
                              struct errmsg *why)
{
    char path[PATH_BYTES_MAX];

    path_of(c, s->name, path);
    return file_slurp(c->o->env, path, SEGMENT_BYTES_MAX, p, size, why);
}

/* Whether the segment holds more than zeros; one that is too large is not looked through. */
static enum err holds_data(struct checker *c, const struct segment *s, bool *out,
                           struct errmsg *why)
{
    uint8_t *chunk;
    char path[PATH_BYTES_MAX];
    struct file *f;
    size_t n = 1;
    enum err e;

    path_of(c, s->name, path);
    e = file_open(c->o->env, path, FILE_READ_ONLY, &f, why);
    if (e != ERR_NONE)
        return e;
    *out = file_size(f) > SEGMENT_BYTES_MAX;
    chunk = xmalloc(ZEROS_CHUNK);
    for (uint64_t at = 0; e == ERR_NONE && !*out && n > 0 && at < file_size(f); at += n) {
        e = file_read(f, at, chunk, ZEROS_CHUNK, &n);
        if (e == ERR_NONE)
            *out = !all_zero(chunk, n);
        else
            errmsg_set(why, "%s: cannot be read", path);
    }
    free(chunk);
    file_unref(f);
    return e;
}

/* Preallocated segments wait behind the one that is written: each start after a crash finds two. */
static enum err find_last_with_data(struct checker *c, struct errmsg *why)
{
    bool found = false;
    enum err e = ERR_NONE;
    int i = c->segment_count;

    while (e == ERR_NONE && !found && i > 0 && c->segments[i - 1].is_open)
        e = holds_data(c, &c->segments[--i], &found, why);
    c->last_with_data = found ? i : -1;
    return e;
}

static enum err check_segment(struct checker *c, int i, const struct crc_tables *table, bool *go_on,
                              struct errmsg *why)
{
    struct segment *s = &c->segments[i];
    bool torn;
    uint8_t *p = NULL;
    size_t size, end;
    enum err e;

    *go_on = s->is_open && i > c->last_with_data;
    if (*go_on) { /* zeros only */
        c->report->segment_count++;
        return c->o->cut_torn ? cut_segment(c, s, 0, false, why) : ERR_NONE;
    }
    e = slurp_segment(c, s, &p, &size, why);
    if (e == ERR_TOO_LARGE) {
        find_corrupt_segment(c, s, 0, "the segment is too large");
        return ERR_NONE;
    }
    if (e != ERR_NONE)
        return e;
    c->report->segment_count++;
    *go_on = scan_batches(c, s, table, p, size, i < c->last_with_data, &end, &torn);
    if (*go_on && !s->is_open && c->next_index != s->last + 1) {
        find_corrupt_segment(c, s, end, "it holds more or fewer entries than its name says");
        *go_on = false;
    }
    /* libraft would read the zeros twice more and then cut them off. */
    if (*go_on && (torn || end < size) && c->o->cut_torn)
        e = cut_segment(c, s, end, torn, why);
    free(p);
    return e;
}

/* The first closed segment that libraft would use: the longest run without gaps up to the last. */
static int first_used_segment(const struct checker *c)
{
    int closed = 0, first;

    while (closed < c->segment_count && !c->segments[closed].is_open)
        closed++;
    first = closed > 0 ? closed - 1 : 0;
    while (first > 0 && c->segments[first - 1].last + 1 == c->segments[first].first)
        first--;
    return first;
}

static enum err check_segments(struct checker *c, struct errmsg *why)
{
    int first = first_used_segment(c);
    uint64_t start = c->report->snapshot_index + 1;
    struct crc_tables table;
    enum err e = ERR_NONE;
    bool go_on = c->segment_count > 0;

    crc_tables_init(&table);
    e = find_last_with_data(c, why);
    c->next_index = start;
    if (go_on && !c->segments[first].is_open) {
        c->next_index = c->segments[first].first;
        if (c->next_index > start)
            find_corrupt_segment(c, &c->segments[first], 0, "the segment before it is missing");
    }
    c->report->first_index = c->next_index;
    c->last_term = c->next_index > start ? c->last_term : 0;
    for (int i = first; go_on && e == ERR_NONE && i < c->segment_count; i++)
        e = check_segment(c, i, &table, &go_on, why);
    if (e == ERR_NONE && c->report->corrupt_count == 0 && c->last_term > c->report->term) {
        find(c, RAFT_CORRUPT_FILE, "metadata1", 16, "its term is less than that of the log");
        c->corrupt_metadata = true;
    }
    return e;
}

/* ---- the whole ---- */

static enum err run_check(struct checker *c, struct errmsg *why)
{
    enum err e = dir_list(c->o->env, c->o->dir, on_dir_entry, c, why);

    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e != ERR_NONE)
        return e;
    if (!c->report->any)
        return ERR_NONE;
    if (c->segment_count > 0)
        qsort(c->segments, (size_t)c->segment_count, sizeof *c->segments, by_order);
    if ((e = check_metadata(c, why)) != ERR_NONE || (e = check_snapshots(c, why)) != ERR_NONE)
        return e;
    return check_segments(c, why);
}

static void checker_deinit(struct checker *c)
{
    free(c->segments);
    free(c->snapshots);
}

enum err raft_files_check(const struct raft_files_options *o, struct raft_files_report *report,
                          struct errmsg *why)
{
    struct checker c = {.o = o, .report = report};
    enum err e;

    *report = (struct raft_files_report){.any = false};
    e = run_check(&c, why);
    checker_deinit(&c);
    return e;
}

/* ---- repair ---- */

struct repair {
    struct checker *c;
    bool act;
    void (*print)(void *ctx, const char *line);
};

static void say(struct repair *r, const char *fmt, ...) PRINTF(2, 3);
static void say(struct repair *r, const char *fmt, ...)
{
    char line[PATH_BYTES_MAX];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    r->print(r->c->o->ctx, line);
}

static enum err set_aside(struct repair *r, const char *name, struct errmsg *why)
{
    char from[PATH_BYTES_MAX], to[PATH_BYTES_MAX + 8];

    say(r, "set %s aside as %s.cut", name, name);
    if (!r->act)
        return ERR_NONE;
    path_of(r->c, name, from);
    (void)snprintf(to, sizeof to, "%s.cut", from);
    return disk_rename(r->c->o->env, from, to, why);
}

/* Copies the file to NAME.cut, cuts it behind its last good batch, and names it by what it holds.
 */
static enum err cut_corrupt(struct repair *r, struct errmsg *why)
{
    struct checker *c = r->c;
    struct segment *s = c->corrupt_segment;
    char from[PATH_BYTES_MAX], to[PATH_BYTES_MAX], aside[PATH_BYTES_MAX + 8], name[NAME_BYTES_MAX];
    uint64_t first = s->is_open ? 0 : s->first;
    uint8_t *p;
    size_t size;
    enum err e;

    if (c->corrupt_offset <= 8)
        return set_aside(r, s->name, why);
    say(r,
        "cut %s at offset %" PRIu64 " (the log ends with index %" PRIu64
        "); the whole file is kept as %s.cut",
        s->name, c->corrupt_offset, c->corrupt_kept_last, s->name);
    if (!r->act)
        return ERR_NONE;
    path_of(c, s->name, from);
    (void)snprintf(aside, sizeof aside, "%s.cut", from);
    e = file_slurp(c->o->env, from, SEGMENT_BYTES_MAX, &p, &size, why);
    if (e != ERR_NONE)
        return e;
    e = file_replace(c->o->env, aside, p, size, why);
    if (e == ERR_NONE)
        e = cut_segment(c, s, c->corrupt_offset, true, why);
    free(p);
    if (e != ERR_NONE || s->is_open)
        return e;
    (void)snprintf(name, sizeof name, "%016" PRIu64 "-%016" PRIu64, first, c->corrupt_kept_last);
    path_of(c, name, to);
    return disk_rename(c->o->env, from, to, why);
}

static enum err repair_metadata(struct repair *r, struct errmsg *why)
{
    struct checker *c = r->c;
    char path[PATH_BYTES_MAX];
    uint8_t content[METADATA_SIZE] = {0};
    uint64_t words[4] = {DISK_FORMAT, 1, c->last_term + 1, 0};
    enum err e = ERR_NONE;

    for (int i = 0; i < 2; i++) {
        char name[] = "metadata1";

        name[8] = (char)('1' + i);
        if (c->metadata[i] && e == ERR_NONE)
            e = set_aside(r, name, why);
    }
    say(r, "write metadata1 with term %" PRIu64 " and no vote (the only voter needs no other)",
        words[2]);
    if (!r->act || e != ERR_NONE)
        return e;
    memcpy(content, words, sizeof content); /* little endian, like the machines we run on */
    path_of(c, "metadata1", path);
    return file_replace(c->o->env, path, content, sizeof content, why);
}

static enum err repair_snapshot(struct repair *r, struct errmsg *why)
{
    struct checker *c = r->c;
    const struct snapshot_name *newest = NULL;
    char meta[NAME_BYTES_MAX + 8];
    enum err e;

    for (int i = 0; i < c->snapshot_count; i++) {
        const struct snapshot_name *s = &c->snapshots[i];

        if (s->has_meta && s->has_data && (newest == NULL || snapshot_is_newer(s, newest)))
            newest = s;
    }
    (void)snprintf(meta, sizeof meta, "%s.meta", newest->name);
    e = set_aside(r, meta, why);
    return e == ERR_NONE ? set_aside(r, newest->name, why) : e;
}

static enum err repair_segments(struct repair *r, struct errmsg *why)
{
    struct checker *c = r->c;
    int at = (int)(c->corrupt_segment - c->segments);
    enum err e = ERR_NONE;

    for (int i = c->segment_count - 1; i > at && e == ERR_NONE; i--)
        e = set_aside(r, c->segments[i].name, why);
    return e == ERR_NONE ? cut_corrupt(r, why) : e;
}

enum err raft_files_repair(const struct raft_files_options *o, bool act,
                           void (*print)(void *ctx, const char *line), struct errmsg *why)
{
    struct raft_files_report report = {.any = false};
    struct checker c = {.o = o, .report = &report};
    struct repair r = {.c = &c, .act = act, .print = print};
    enum err e = run_check(&c, why);

    if (e != ERR_NONE)
        goto done;
    if (report.corrupt_count == 0) {
        say(&r, "nothing to repair");
        goto done;
    }
    /* A bad snapshot first: whether the log still reaches back far enough is seen by the next
     * check. */
    if (c.corrupt_snapshot)
        e = repair_snapshot(&r, why);
    else if (c.corrupt_segment != NULL)
        e = repair_segments(&r, why);
    if (e == ERR_NONE && c.corrupt_metadata)
        e = repair_metadata(&r, why);
    if (e == ERR_NONE && act)
        e = dir_sync(o->env, o->dir, why);

done:
    checker_deinit(&c);
    return e;
}
