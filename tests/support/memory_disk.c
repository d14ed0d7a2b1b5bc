#include "tests/support/memory_disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX 256

struct memory_file {
    struct file base;
    atomic_int refs;
    char path[512];
    uint8_t *bytes;
    size_t size, ready_end, capacity;
};

static const struct file_ops memory_file_ops;

static struct memory_file *memory(const struct file *f)
{
    return CONTAINER_OF((struct file *)(uintptr_t)f, struct memory_file, base);
}

static struct memory_file **table(struct env *env)
{
    return CONTAINER_OF(env, struct test_env, env)->memory_files;
}

static struct memory_file **slot_of(struct env *env, const char *path)
{
    struct memory_file **v = table(env);

    for (int i = 0; i < FILES_MAX; i++) {
        if (v[i] != NULL && strcmp(v[i]->path, path) == 0)
            return &v[i];
    }
    return NULL;
}

/* ---- a file ---- */

static void ref(struct file *f)
{
    atomic_fetch_add(&memory(f)->refs, 1);
}

static void unref(struct file *f)
{
    if (atomic_fetch_sub(&memory(f)->refs, 1) != 1)
        return;
    free(memory(f)->bytes);
    free(memory(f));
}

static uint64_t size_of(const struct file *f)
{
    return memory(f)->size;
}

static uint64_t ready_end(const struct file *f)
{
    return MAX(memory(f)->ready_end, memory(f)->size);
}

static enum err ready(struct file *f, uint64_t end, struct errmsg *why)
{
    (void)why;
    memory(f)->ready_end = MAX(memory(f)->ready_end, (size_t)end);
    return ERR_NONE;
}

static enum err write_at(struct file *f, uint64_t offset, const void *p, size_t size,
                         struct errmsg *why)
{
    struct memory_file *m = memory(f);
    size_t end = (size_t)offset + size;

    (void)why;
    if (end > m->capacity) {
        m->capacity = MAX(end, m->capacity * 2);
        m->bytes = xrealloc(m->bytes, m->capacity);
    }
    if (offset > m->size)
        memset(m->bytes + m->size, 0, (size_t)offset - m->size);
    if (size > 0)
        memcpy(m->bytes + offset, p, size);
    m->size = MAX(m->size, end);
    return ERR_NONE;
}

static enum err read_at(struct file *f, uint64_t offset, void *p, size_t size, size_t *n_read)
{
    struct memory_file *m = memory(f);

    *n_read = offset >= m->size ? 0 : MIN(size, m->size - (size_t)offset);
    if (*n_read > 0)
        memcpy(p, m->bytes + offset, *n_read);
    return ERR_NONE;
}

static enum err view(struct file *f, uint64_t offset, size_t size, struct iobuf **out)
{
    size_t n;

    if (offset + size > memory(f)->size)
        return ERR_IO;
    *out = iobuf_new(size);
    return read_at(f, offset, iobuf_bytes(*out), size, &n);
}

static bool resident(struct file *f, uint64_t offset, size_t size)
{
    (void)f;
    (void)offset;
    (void)size;
    return true;
}

static enum err load(struct file *f, uint64_t offset, size_t size)
{
    (void)f;
    (void)offset;
    (void)size;
    return ERR_NONE;
}

static enum err nothing(struct file *f, struct errmsg *why)
{
    (void)f;
    (void)why;
    return ERR_NONE;
}

static enum err trim(struct file *f, struct errmsg *why)
{
    (void)why;
    memory(f)->ready_end = 0;
    return ERR_NONE;
}

static enum err truncate_to(struct file *f, uint64_t size, struct errmsg *why)
{
    struct memory_file *m = memory(f);
    enum err e = size > m->size ? write_at(f, size, "", 0, why) : ERR_NONE;

    m->size = (size_t)size;
    m->ready_end = 0;
    return e;
}

static int descriptor(struct file *f)
{
    (void)f;
    return -1;
}

static const struct file_ops memory_file_ops = {
    .ref = ref,
    .unref = unref,
    .size = size_of,
    .ready = ready,
    .ready_end = ready_end,
    .write = write_at,
    .view = view,
    .read = read_at,
    .resident = resident,
    .load = load,
    .sync = nothing,
    .trim = trim,
    .truncate = truncate_to,
    .descriptor = descriptor,
};

/* ---- names ---- */

static enum err open_file(struct env *env, const char *path, unsigned flags, struct file **out,
                          struct errmsg *why)
{
    struct memory_file **s = slot_of(env, path), **v = table(env);

    if (s == NULL && !(flags & FILE_CREATE)) {
        errmsg_set(why, "%s: not found", path);
        return ERR_NOT_FOUND;
    }
    if (s != NULL && (flags & FILE_EXCLUSIVE))
        return ERR_EXISTS;
    if (s == NULL) {
        struct memory_file *m = xcalloc(1, sizeof *m);
        int i = 0;

        while (i < FILES_MAX && v[i] != NULL)
            i++;
        CHECK(i < FILES_MAX);
        m->base = (struct file){.ops = &memory_file_ops, .env = env};
        m->refs = 1; /* the table's */
        (void)snprintf(m->path, sizeof m->path, "%s", path);
        v[i] = m;
        s = &v[i];
    }
    if (flags & FILE_TRUNCATE)
        (*s)->size = 0;
    *out = file_ref(&(*s)->base);
    return ERR_NONE;
}

static enum err unlink_file(struct env *env, const char *path, struct errmsg *why)
{
    struct memory_file **s = slot_of(env, path);

    if (s == NULL) {
        errmsg_set(why, "%s: not found", path);
        return ERR_NOT_FOUND;
    }
    file_unref(&(*s)->base);
    *s = NULL;
    return ERR_NONE;
}

/* Of a file, or of everything below a directory. */
static enum err rename_path(struct env *env, const char *from, const char *to, struct errmsg *why)
{
    struct memory_file **v = table(env);
    size_t n = strlen(from);
    enum err e = ERR_NOT_FOUND;

    for (int i = 0; i < FILES_MAX; i++) {
        char path[sizeof v[i]->path];

        if (v[i] == NULL || strncmp(v[i]->path, from, n) != 0 ||
            (v[i]->path[n] != '\0' && v[i]->path[n] != '/'))
            continue;
        (void)snprintf(path, sizeof path, "%.250s%.250s", to, v[i]->path + n);
        if (v[i]->path[n] == '\0' && unlink_file(env, to, why) != ERR_NONE)
            errmsg_set(why, "nothing was there");
        (void)snprintf(v[i]->path, sizeof v[i]->path, "%s", path);
        e = ERR_NONE;
    }
    return e;
}

static enum err fine(struct env *env, const char *path, struct errmsg *why)
{
    (void)env;
    (void)path;
    (void)why;
    return ERR_NONE;
}

static int by_path(const void *a, const void *b)
{
    return strcmp((*(struct memory_file *const *)a)->path, (*(struct memory_file *const *)b)->path);
}

static enum err list(struct env *env, const char *path,
                     void (*fn)(void *ctx, const struct dir_entry *e), void *ctx,
                     struct errmsg *why)
{
    struct memory_file *found[FILES_MAX], **v = table(env);
    size_t n = strlen(path), count = 0;

    (void)why;
    for (int i = 0; i < FILES_MAX; i++) {
        if (v[i] != NULL && strncmp(v[i]->path, path, n) == 0 && v[i]->path[n] == '/')
            found[count++] = v[i];
    }
    qsort(found, count, sizeof found[0], by_path);
    for (size_t i = 0; i < count; i++) {
        char name[256];
        const char *rest = found[i]->path + n + 1, *slash = strchr(rest, '/');

        (void)snprintf(name, sizeof name, "%.*s", (int)(slash != NULL ? slash - rest : 250), rest);
        if (slash == NULL || i == 0 ||
            strncmp(found[i - 1]->path, found[i]->path, (size_t)(slash - found[i]->path) + 1) != 0)
            fn(ctx, &(struct dir_entry){.name = name,
                                        .is_dir = slash != NULL,
                                        .size_bytes = slash != NULL ? 0 : found[i]->size});
    }
    return ERR_NONE;
}

static enum err space(struct env *env, const char *path, struct disk_space *out, struct errmsg *why)
{
    (void)env;
    (void)path;
    (void)why;
    *out = (struct disk_space){UINT64_C(1) << 40, UINT64_C(1) << 39};
    return ERR_NONE;
}

static enum err lock(struct env *env, const char *path, struct file **out, struct errmsg *why)
{
    return open_file(env, path, FILE_CREATE, out, why);
}

static const struct disk_ops memory_disk_ops = {
    .open = open_file,
    .mkdir = fine,
    .rename = rename_path,
    .unlink = unlink_file,
    .rmdir = fine,
    .dir_sync = fine,
    .dir_list = list,
    .space = space,
    .lock = lock,
};

void memory_disk_init(struct test_env *t)
{
    t->memory_files = xcalloc(FILES_MAX, sizeof(struct memory_file *));
    t->disk = memory_disk_ops;
}

void memory_disk_deinit(struct test_env *t)
{
    for (int i = 0; i < FILES_MAX; i++) {
        if (t->memory_files[i] != NULL)
            file_unref(&t->memory_files[i]->base);
    }
    free(t->memory_files);
    t->memory_files = NULL;
}

void memory_disk_put(struct test_env *t, const char *path, const void *p, size_t size)
{
    struct errmsg why;
    struct file *f;

    CHECK(open_file(&t->env, path, FILE_CREATE | FILE_TRUNCATE, &f, &why) == ERR_NONE);
    CHECK(write_at(f, 0, p, size, &why) == ERR_NONE);
    file_unref(f);
}
