/* tests/fuzz/raft_files_fuzz.c -- any bytes as one of raft_uv's files, on a disk in memory.
 *
 * The first byte chooses the file: an open or a closed segment, metadata, a snapshot or its meta.
 * If it is odd, the first batch of a segment gets the checksums that fit it, so that what lies
 * behind them is reached. The reader ends with a report; it never reads outside of the file, and
 * every finding is within it.
 */
#include <stdlib.h>
#include <string.h>

#include "raft-meta/raft_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FILES 5

struct memory_file {
    struct file file;
    const char *name;
    const uint8_t *bytes;
    size_t size;
};

struct memory_disk {
    struct env env;
    struct memory_file files[FILES];
    int count;
};

/* ---- a disk in memory ---- */

static void memory_unref(struct file *f)
{
    (void)f;
}

static uint64_t memory_size(const struct file *f)
{
    return CONTAINER_OF(f, const struct memory_file, file)->size;
}

static enum err memory_read(struct file *f, uint64_t offset, void *p, size_t size, size_t *n_read)
{
    const struct memory_file *m = CONTAINER_OF(f, const struct memory_file, file);

    *n_read = offset < m->size ? MIN(size, m->size - (size_t)offset) : 0;
    if (*n_read > 0)
        memcpy(p, m->bytes + offset, *n_read);
    return ERR_NONE;
}

static enum err memory_open(struct env *env, const char *path, unsigned flags, struct file **out,
                            struct errmsg *why)
{
    struct memory_disk *d = CONTAINER_OF(env, struct memory_disk, env);
    const char *name = strrchr(path, '/') + 1;

    (void)flags;
    (void)why;
    for (int i = 0; i < d->count; i++) {
        if (strcmp(d->files[i].name, name) == 0) {
            *out = &d->files[i].file;
            return ERR_NONE;
        }
    }
    return ERR_NOT_FOUND;
}

static enum err memory_list(struct env *env, const char *path,
                            void (*fn)(void *ctx, const struct dir_entry *e), void *ctx,
                            struct errmsg *why)
{
    struct memory_disk *d = CONTAINER_OF(env, struct memory_disk, env);

    (void)path;
    (void)why;
    for (int i = 0; i < d->count; i++)
        fn(ctx, &(struct dir_entry){.name = d->files[i].name, .size_bytes = d->files[i].size});
    return ERR_NONE;
}

static const struct file_ops memory_file_ops = {
    .unref = memory_unref, .size = memory_size, .read = memory_read};
static const struct disk_ops memory_ops = {.open = memory_open, .dir_list = memory_list};

static void add_file(struct memory_disk *d, const char *name, const uint8_t *bytes, size_t size)
{
    d->files[d->count++] = (struct memory_file){.file = {.ops = &memory_file_ops, .env = &d->env},
                                                .name = name,
                                                .bytes = bytes,
                                                .size = size};
}

/* ---- checksums that fit ---- */

static uint32_t crc(const uint8_t *p, size_t size)
{
    uint32_t c = 0;

    while (size-- > 0) {
        c ^= (uint32_t)*p++ << 24;
        for (int k = 0; k < 8; k++)
            c = (c & 0x80000000u) != 0 ? (c << 1) ^ 0x04c11db7u : c << 1;
    }
    return c;
}

static void fit_checksums(uint8_t *p, size_t size)
{
    uint64_t count, data = 0;
    size_t header;
    uint32_t c;

    if (size < 32)
        return;
    memcpy(p, "\1\0\0\0\0\0\0\0", 8);
    count = load_le64(p + 16);
    if (count == 0 || count > (size - 24) / 16)
        return;
    header = 8 + 16 * (size_t)count;
    c = crc(p + 16, header);
    memcpy(p + 8, &c, 4);
    for (uint64_t i = 0; i < count; i++)
        data += load_le32(p + 24 + 16 * i + 12);
    if (data > size - 16 - header)
        return;
    c = crc(p + 16 + header, (size_t)data);
    memcpy(p + 12, &c, 4);
}

struct seen {
    size_t size;
    uint64_t entries;
};

static void on_finding(void *ctx, const struct raft_finding *f)
{
    const struct seen *s = ctx;

    CHECK(f->what[0] != 0);
    CHECK(f->offset <= MAX(s->size, (size_t)64));
}

static void on_entry(void *ctx, uint64_t index, uint64_t term, int type, struct bytes data)
{
    struct seen *s = ctx;
    uint8_t sum = 0;

    (void)index;
    (void)term;
    (void)type;
    s->entries++;
    for (int32_t i = 0; i < data.len; i++)
        sum = (uint8_t)(sum + data.ptr[i]); /* every byte may be read */
    s->entries += sum & 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"open-1", "0000000000000001-0000000000000002", "metadata2",
                                        "snapshot-1-1-1", "snapshot-1-1-1.meta"};
    static const uint8_t metadata[32] = {1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9};
    struct memory_disk d = {.env = {.disk = &memory_ops}};
    struct raft_files_report report;
    struct errmsg why;
    struct seen seen = {0};
    uint8_t *copy;
    int kind;
    enum err e;

    if (size < 1 || size > (1 << 20))
        return 0;
    kind = (data[0] >> 1) % (int)ARRAY_COUNT(names);
    seen.size = size - 1;
    copy = xmalloc(size);
    memcpy(copy, data + 1, size - 1);
    if (data[0] % 2 == 1 && kind < 2)
        fit_checksums(copy, size - 1);
    add_file(&d, "metadata1", metadata, sizeof metadata);
    add_file(&d, names[kind], copy, size - 1);
    if (kind >= 3)
        add_file(&d, names[kind == 3 ? 4 : 3], metadata, sizeof metadata);
    e = raft_files_check(&(struct raft_files_options){.env = &d.env,
                                                      .dir = "/m",
                                                      .on_finding = on_finding,
                                                      .on_entry = on_entry,
                                                      .ctx = &seen},
                         &report, &why);
    CHECK(e == ERR_NONE);
    CHECK(report.any);
    free(copy);
    return 0;
}
