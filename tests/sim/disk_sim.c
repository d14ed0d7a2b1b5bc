#include "tests/sim/disk_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/hmap.h"
#include "tests/sim/env_sim.h"
#include "tests/sim/volume.h"

#define PAGE             VOLUME_PAGE
#define PATH_BYTES_MAX   4096
#define WINDOWS_MAX      3 /* as disk_posix: the mapped steps */
#define STEP_UNMAPPED    ((uint64_t)64 << 10)
#define METADATA_NS      SIM_US(15) /* open, rename, ... */
#define COLD_READ_NS     SIM_US(150)
#define BYTES_PER_US     ((uint64_t)1000) /* beside the wait */
#define WRITE_BACK_LEAST SIM_MS(500)
#define WRITE_BACK_MOST  SIM_S(10)
#define FAULT_KINDS      (DISK_FAULT_STALL + 1)
#define WRITE_BACK_ONE_IN                                                                          \
    64 /* writes after which the file's pages reach the disk by themselves                         \
        */

struct fault {
    bool on;
    char pattern[64]; /* "": all */
    int left;         /* INT32_MAX: no end */
    uint64_t ns;
};

struct disk {
    struct sim *sim;
    int machine;
    uint64_t sync_ns; /* typical, of this disk */
    struct volume volume;
    struct list handles;
    struct fault faults[FAULT_KINDS];
    struct list stalled; /* fibers that wait for the end of a stall */
    bool gone;           /* wiped: its write-back ends */
};

struct handle {
    struct file base;
    struct list_node node; /* of the disk */
    struct inode *inode;   /* NULL: the process that held it is dead */
    int refs;
    char *path;
    bool read_only, holds_lock;
    uint64_t size, ready_end;
    struct {
        uint64_t begin, end;
    } windows[WINDOWS_MAX];
    int window_count;
};

static const struct file_ops file_sim_ops;

static struct disk *disk_of(struct env *env)
{
    return env_sim_disk(env);
}

static struct handle *handle_of(const struct file *f)
{
    return CONTAINER_OF((struct file *)(uintptr_t)f, struct handle, base);
}

/* ---- waiting ---- */

struct stalled {
    struct list_node node;
    struct fiber *fiber;
};

static void wait_while_stalled(struct disk *d)
{
    while (d->faults[DISK_FAULT_STALL].on) {
        struct stalled w = {.fiber = fiber_current(d->sim)};

        list_push_back(&d->stalled, &w.node);
        while (list_linked(&w.node))
            (void)fiber_sleep_until(d->sim, UINT64_MAX);
    }
}

/* A [pool] call takes about so long. */
static void wait_for_disk(struct env *env, const char *what, uint64_t typical_ns)
{
    struct disk *d = disk_of(env);
    uint64_t ns;

    if (!env_sim_is_inside(env))
        return;
    if (env_sim_is_worker(env))
        sim_violation(d->sim, "V3", "a worker waits for the disk: %s", what);
    ns = sim_delay_ns(d->sim, DICE_DISK, typical_ns);
    if (d->faults[DISK_FAULT_SLOW].on)
        ns += d->faults[DISK_FAULT_SLOW].ns;
    fiber_sleep(d->sim, ns);
    wait_while_stalled(d);
}

static void switch_point(struct env *env)
{
    if (env_sim_is_inside(env))
        fiber_yield_point(disk_of(env)->sim);
}

/* ---- faults ---- */

/* True when this call is hit; counts it. */
static bool hit(struct disk *d, enum disk_fault kind, const char *path)
{
    struct fault *f = &d->faults[kind];

    if (!f->on || strstr(path, f->pattern) == NULL)
        return false;
    if (f->left != INT32_MAX && --f->left == 0)
        f->on = false;
    sim_trace(d->sim, "m%d: disk fault %d hits %s", d->machine, (int)kind, path);
    return true;
}

static enum err io_error(struct errmsg *why, const char *what, const char *path)
{
    errmsg_set(why, "%s: %s: Input/output error", path, what);
    return ERR_IO;
}

static enum err not_found(struct errmsg *why, const char *what, const char *path)
{
    errmsg_set(why, "%s: %s: No such file or directory", path, what);
    return ERR_NOT_FOUND;
}

static enum err no_space(struct env *env, const char *path, struct errmsg *why)
{
    errmsg_set(why, "%s: cannot be extended: No space left on device", path);
    sim_count(disk_of(env)->sim, "disk: full");
    return ERR_NO_SPACE;
}

static void release_stalled(struct disk *d)
{
    struct list_node *n;

    while ((n = list_pop_front(&d->stalled)) != NULL)
        fiber_wake(list_entry(n, struct stalled, node)->fiber);
}

void disk_set_fault(struct disk *d, const struct disk_fault_options *o)
{
    struct fault *f = &d->faults[o->kind];

    sim_trace(d->sim, "m%d: disk fault %d for %s, %d times, %llu us", d->machine, (int)o->kind,
              o->pattern != NULL ? o->pattern : "all", o->count, (unsigned long long)o->ns / 1000);
    if (o->kind == DISK_FAULT_NONE) {
        memset(d->faults, 0, sizeof d->faults);
        d->volume.hog = 0;
        release_stalled(d);
        return;
    }
    *f = (struct fault){.on = true, .left = o->count > 0 ? o->count : INT32_MAX, .ns = o->ns};
    (void)snprintf(f->pattern, sizeof f->pattern, "%s", o->pattern != NULL ? o->pattern : "");
    if (o->kind == DISK_FAULT_FULL)
        d->volume.hog = volume_free_bytes(&d->volume);
}

/* ---- a file's life ---- */

static enum err sim_open(struct env *env, const char *path, unsigned flags, struct file **out,
                         struct errmsg *why)
{
    struct disk *d = disk_of(env);
    char name[VOLUME_NAME_SIZE];
    struct inode *dir, *i;
    struct handle *h;

    wait_for_disk(env, "open", METADATA_NS);
    dir = volume_walk(&d->volume, path, name);
    i = dir != NULL ? dir_find(dir, name) : NULL;
    if (dir == NULL || (i == NULL && !(flags & FILE_CREATE)))
        return not_found(why, "cannot be opened", path);
    if (i != NULL && (flags & FILE_CREATE) && (flags & FILE_EXCLUSIVE)) {
        errmsg_set(why, "%s: cannot be opened: File exists", path);
        return ERR_EXISTS;
    }
    if (i != NULL && i->is_dir) {
        errmsg_set(why, "%s: is not a regular file", path);
        return ERR_IO;
    }
    if (i == NULL) {
        if (d->faults[DISK_FAULT_FULL].on && volume_free_bytes(&d->volume) == 0) {
            errmsg_set(why, "%s: cannot be opened: No space left on device", path);
            return ERR_NO_SPACE;
        }
        i = dir_make(dir, name, false);
        i->modified_unix_ms = env_unix_ms(env);
        sim_trace(d->sim, "create %s", path);
    }
    if ((flags & FILE_TRUNCATE) && i->size > 0) {
        inode_cut(i, 0);
        inode_give_back(i, 0);
    }
    h = xcalloc(1, sizeof *h);
    h->base = (struct file){.ops = &file_sim_ops, .env = env};
    h->inode = i;
    h->refs = 1;
    h->path = xstrdup(path);
    h->read_only = (flags & FILE_READ_ONLY) != 0;
    h->size = h->ready_end = i->size;
    inode_open(i);
    list_push_back(&d->handles, &h->node);
    *out = &h->base;
    return ERR_NONE;
}

static void sim_ref(struct file *file)
{
    handle_of(file)->refs++;
}

static void sim_unref(struct file *file)
{
    struct handle *h = handle_of(file);

    CHECK(h->refs > 0);
    if (--h->refs > 0)
        return;
    list_remove(&h->node);
    if (h->holds_lock)
        h->inode->locked = false;
    inode_close(h->inode);
    free(h->path);
    free(h);
}

static uint64_t sim_size(const struct file *file)
{
    return handle_of(file)->size;
}

static uint64_t sim_ready_end(const struct file *file)
{
    return handle_of(file)->ready_end;
}

/* A step above 64 KB shows in the file's size and is mapped, as disk_posix does it. */
static enum err sim_ready(struct file *file, uint64_t end, struct errmsg *why)
{
    struct handle *h = handle_of(file);
    uint64_t begin = h->ready_end;

    if (end <= begin)
        return ERR_NONE;
    wait_for_disk(file->env, "fallocate", METADATA_NS);
    if (!inode_allocate(h->inode, end))
        return no_space(file->env, h->path, why);
    if (end - begin > STEP_UNMAPPED) {
        h->inode->size = MAX(h->inode->size, end);
        if (h->window_count == WINDOWS_MAX) {
            memmove(&h->windows[0], &h->windows[1], (WINDOWS_MAX - 1) * sizeof h->windows[0]);
            h->window_count--;
        }
        h->windows[h->window_count].begin = begin / PAGE * PAGE;
        h->windows[h->window_count++].end = end;
    }
    h->ready_end = end;
    sim_trace(disk_of(file->env)->sim, "ready %s to %llu", h->path, (unsigned long long)end);
    return ERR_NONE;
}

static enum err sim_write(struct file *file, uint64_t offset, const void *p, size_t size,
                          struct errmsg *why)
{
    struct handle *h = handle_of(file);
    struct disk *d = disk_of(file->env);

    if (offset + size > h->ready_end)
        wait_for_disk(file->env, "a write where no room was made", METADATA_NS);
    else
        switch_point(file->env);
    if (h->read_only || hit(d, DISK_FAULT_WRITE_EIO, h->path))
        return io_error(why, "write failed", h->path);
    if (!inode_allocate(h->inode, offset + size))
        return no_space(file->env, h->path, why);
    sim_trace(d->sim, "write %s %llu+%zu", h->path, (unsigned long long)offset, size);
    sim_trace_bytes(d->sim, p, size);
    inode_write(h->inode, offset, p, size);
    h->inode->size = MAX(h->inode->size, offset + size);
    h->inode->modified_unix_ms = env_unix_ms(file->env);
    h->size = MAX(h->size, offset + size);
    h->ready_end = MAX(h->ready_end, offset + size);
    if (sim_below(d->sim, DICE_DISK, WRITE_BACK_ONE_IN) == 0)
        inode_commit(h->inode);
    return ERR_NONE;
}

/* What was handed out, and what it was then. */
struct view {
    struct iobuf buf;
    uint64_t hash;
};

/* Of what the file holds there now. */
static uint64_t hash_of_range(const struct handle *h, uint64_t offset, size_t size)
{
    uint8_t bytes[PAGE];
    uint64_t hash = size;

    while (size > 0) {
        size_t n = MIN(size, sizeof bytes);

        inode_read(h->inode, offset, bytes, n);
        hash = hash_bytes(hash, bytes, n);
        offset += n;
        size -= n;
    }
    return hash;
}

static void release_view(struct iobuf *b)
{
    struct view *v = CONTAINER_OF(b, struct view, buf);
    const struct handle *h = handle_of(b->file);
    struct sim *s = disk_of(b->file->env)->sim;

    sim_checked(s, "H48n");
    if (hash_of_range(h, b->file_offset, b->len) != v->hash)
        sim_violation(s, "H48n", "published bytes of %s have changed: %llu+%zu", h->path,
                      (unsigned long long)b->file_offset, b->len);
    file_unref(b->file);
    free(v);
}

/* Within one mapped step, whose pages count as resident. */
static bool in_window(const struct handle *h, uint64_t offset, size_t size)
{
    for (int i = 0; i < h->window_count; i++)
        if (offset >= h->windows[i].begin && offset + size <= h->windows[i].end)
            return true;
    return false;
}

/* In memory when a mapped step and a chunk hold all of it; the very memory, so that a byte that is
 * changed later is seen to change. */
static const uint8_t *mapped(const struct handle *h, uint64_t offset, size_t size)
{
    const uint8_t *page = inode_page(h->inode, (size_t)(offset / PAGE));

    if (page == NULL || size == 0 || offset / VOLUME_CHUNK != (offset + size - 1) / VOLUME_CHUNK)
        return NULL;
    return in_window(h, offset, size) ? page + offset % PAGE : NULL;
}

static enum err sim_view(struct file *file, uint64_t offset, size_t size, struct iobuf **out)
{
    struct handle *h = handle_of(file);
    struct view *v;

    switch_point(file->env);
    if (offset + size > h->size)
        return ERR_IO;
    v = xcalloc(1, sizeof *v);
    v->hash = hash_of_range(h, offset, size);
    v->buf = (struct iobuf){
        .refs = 1,
        .len = size,
        .ptr = mapped(h, offset, size),
        .file = file_ref(file),
        .file_offset = offset,
        .release = release_view,
    };
    *out = &v->buf;
    return ERR_NONE;
}

/* A worker may have seen that the pages were there, and had no time to read them before they were
 * dropped: then it waits, as it may on any machine, and is not to blame. */
static bool went_cold_meanwhile(struct env *env, const struct inode *i)
{
    return env_sim_is_worker(env) && i->evicted_at >= env_sim_turn_began(env);
}

static enum err sim_read(struct file *file, uint64_t offset, void *p, size_t size, size_t *n_read)
{
    struct handle *h = handle_of(file);

    size = offset >= h->size ? 0 : (size_t)MIN((uint64_t)size, h->size - offset);
    if (inode_is_cold(h->inode, offset, size) && !in_window(h, offset, size) &&
        !went_cold_meanwhile(file->env, h->inode)) {
        wait_for_disk(file->env, "a read of what is not in the page cache",
                      COLD_READ_NS + size / BYTES_PER_US * 1000);
        sim_count(disk_of(file->env)->sim, "disk: cold read");
    } else {
        switch_point(file->env);
    }
    if (hit(disk_of(file->env), DISK_FAULT_READ_EIO, h->path))
        return ERR_IO;
    inode_warm(h->inode, offset, size);
    size = offset >= h->inode->size ? 0 : (size_t)MIN((uint64_t)size, h->inode->size - offset);
    inode_read(h->inode, offset, p, size);
    *n_read = size;
    return ERR_NONE;
}

static bool sim_resident(struct file *file, uint64_t offset, size_t size)
{
    struct handle *h = handle_of(file);

    switch_point(file->env);
    return in_window(h, offset, size) || !inode_is_cold(h->inode, offset, size);
}

static enum err sim_load(struct file *file, uint64_t offset, size_t size)
{
    struct handle *h = handle_of(file);

    wait_for_disk(file->env, "a load", COLD_READ_NS + size / BYTES_PER_US * 1000);
    if (hit(disk_of(file->env), DISK_FAULT_READ_EIO, h->path))
        return ERR_IO;
    inode_warm(h->inode, offset, size);
    return ERR_NONE;
}

bool disk_sim_peek(struct file *f, uint64_t offset, void *p, size_t size)
{
    struct handle *h = handle_of(f);
    struct disk *d = disk_of(f->env);
    bool cold = inode_is_cold(h->inode, offset, size);

    if (offset + size > h->inode->size)
        return false;
    if (cold) {
        sim_count(d->sim, "disk: sendfile of cold pages");
        if (hit(d, DISK_FAULT_READ_EIO, h->path))
            return false;
    }
    inode_warm(h->inode, offset, size);
    inode_read(h->inode, offset, p, size);
    return true;
}

/* ---- durability ---- */

/* What is dirty when it begins is durable when it ends; the seed says at which of the two it
 * becomes so. */
static enum err sim_sync(struct file *file, struct errmsg *why)
{
    struct handle *h = handle_of(file);
    struct disk *d = disk_of(file->env);
    bool early = sim_below(d->sim, DICE_DISK, 2) == 0;

    if (h->inode->failed || hit(d, DISK_FAULT_SYNC_EIO, h->path)) {
        h->inode->failed = false;
        inode_lose(h->inode);
        sim_count(d->sim, "disk: failed sync");
        wait_for_disk(file->env, "fdatasync", d->sync_ns);
        return io_error(why, "fdatasync failed", h->path);
    }
    if (early)
        inode_commit(h->inode);
    wait_for_disk(file->env, "fdatasync", d->sync_ns);
    if (!early)
        inode_commit(h->inode);
    sim_trace(d->sim, "sync %s", h->path);
    return ERR_NONE;
}

static enum err sim_sync_all(struct file *file, struct errmsg *why)
{
    struct disk *d = disk_of(file->env);

    wait_for_disk(file->env, "syncfs", 2 * d->sync_ns);
    if (hit(d, DISK_FAULT_SYNC_EIO, handle_of(file)->path)) {
        list_for_each (n, &d->volume.inodes) {
            struct inode *i = list_entry(n, struct inode, node);

            i->failed = i->changed_end > 0;
            inode_lose(i);
        }
        return io_error(why, "syncfs failed", handle_of(file)->path);
    }
    volume_commit(&d->volume);
    sim_trace(d->sim, "sync all");
    return ERR_NONE;
}

static enum err sim_trim(struct file *file, struct errmsg *why)
{
    struct handle *h = handle_of(file);

    (void)why;
    if (h->read_only)
        return ERR_NONE;
    wait_for_disk(file->env, "ftruncate", METADATA_NS);
    sim_trace(disk_of(file->env)->sim, "trim %s to %llu", h->path, (unsigned long long)h->size);
    h->ready_end = h->size;
    h->window_count = 0;
    inode_cut(h->inode, h->size);
    inode_give_back(h->inode, h->size);
    return ERR_NONE;
}

static enum err sim_truncate(struct file *file, uint64_t size, struct errmsg *why)
{
    struct handle *h = handle_of(file);

    if (h->read_only || hit(disk_of(file->env), DISK_FAULT_WRITE_EIO, h->path))
        return io_error(why, "truncate failed", h->path);
    wait_for_disk(file->env, "ftruncate", METADATA_NS);
    sim_trace(disk_of(file->env)->sim, "truncate %s to %llu", h->path, (unsigned long long)size);
    h->window_count = 0;
    h->size = h->ready_end = size;
    inode_cut(h->inode, size);
    inode_give_back(h->inode, size);
    return ERR_NONE;
}

static int sim_descriptor(struct file *file)
{
    (void)file;
    return -1;
}

static const struct file_ops file_sim_ops = {
    .ref = sim_ref,
    .unref = sim_unref,
    .size = sim_size,
    .ready = sim_ready,
    .ready_end = sim_ready_end,
    .write = sim_write,
    .view = sim_view,
    .read = sim_read,
    .resident = sim_resident,
    .load = sim_load,
    .sync = sim_sync,
    .sync_all = sim_sync_all,
    .trim = sim_trim,
    .truncate = sim_truncate,
    .descriptor = sim_descriptor,
};

/* ---- directories ---- */

static enum err sim_mkdir(struct env *env, const char *path, struct errmsg *why)
{
    struct disk *d = disk_of(env);
    char part[PATH_BYTES_MAX], name[VOLUME_NAME_SIZE];

    wait_for_disk(env, "mkdir", METADATA_NS);
    for (size_t i = 1;; i++) {
        struct inode *dir, *there;

        if (path[i] != '/' && path[i] != '\0')
            continue;
        CHECK(i < sizeof part);
        memcpy(part, path, i);
        part[i] = '\0';
        dir = volume_walk(&d->volume, part, name);
        CHECK(dir != NULL);
        there = dir_find(dir, name);
        if (there != NULL && !there->is_dir) {
            errmsg_set(why, "%s: is not a directory", part);
            return ERR_EXISTS;
        }
        if (there == NULL) {
            (void)dir_make(dir, name, true);
            sim_trace(d->sim, "mkdir %s", part);
        }
        if (path[i] == '\0')
            return ERR_NONE;
    }
}

static enum err sim_rename(struct env *env, const char *from, const char *to, struct errmsg *why)
{
    struct disk *d = disk_of(env);
    char name[VOLUME_NAME_SIZE], new_name[VOLUME_NAME_SIZE];
    struct inode *dir, *new_dir, *i, *over;

    wait_for_disk(env, "rename", METADATA_NS);
    dir = volume_walk(&d->volume, from, name);
    new_dir = volume_walk(&d->volume, to, new_name);
    i = dir != NULL ? dir_find(dir, name) : NULL;
    if (i == NULL || new_dir == NULL)
        return not_found(why, "cannot be renamed", from);
    CHECK(dir == new_dir); /* across directories a journal of both would be needed */
    over = dir_find(dir, new_name);
    if (over != NULL && over->is_dir && over->now_count > 0) {
        errmsg_set(why, "%s: cannot be renamed: Directory not empty", from);
        return ERR_EXISTS;
    }
    sim_trace(d->sim, "rename %s to %s", from, to);
    if (strcmp(name, new_name) != 0)
        dir_rename(dir, name, new_name);
    return ERR_NONE;
}

static enum err remove_name(struct env *env, const char *path, bool is_dir, struct errmsg *why)
{
    struct disk *d = disk_of(env);
    char name[VOLUME_NAME_SIZE];
    struct inode *dir, *i;

    wait_for_disk(env, "unlink", METADATA_NS);
    dir = volume_walk(&d->volume, path, name);
    i = dir != NULL ? dir_find(dir, name) : NULL;
    if (i == NULL)
        return not_found(why, "cannot be removed", path);
    if (i->is_dir != is_dir || i->now_count > 0) {
        errmsg_set(why, "%s: cannot be removed: %s", path,
                   i->is_dir != is_dir ? "Is not of that kind" : "Directory not empty");
        return i->is_dir != is_dir ? ERR_IO : ERR_EXISTS;
    }
    sim_trace(d->sim, "remove %s", path);
    dir_remove(dir, name);
    return ERR_NONE;
}

static enum err sim_unlink(struct env *env, const char *path, struct errmsg *why)
{
    return remove_name(env, path, false, why);
}

static enum err sim_rmdir(struct env *env, const char *path, struct errmsg *why)
{
    return remove_name(env, path, true, why);
}

static enum err sim_dir_sync(struct env *env, const char *path, struct errmsg *why)
{
    struct disk *d = disk_of(env);
    struct inode *dir = volume_find(&d->volume, path);

    if (dir == NULL || !dir->is_dir)
        return not_found(why, "cannot be opened", path);
    if (hit(d, DISK_FAULT_SYNC_EIO, path))
        return io_error(why, "fsync failed", path);
    inode_open(dir);
    if (sim_below(d->sim, DICE_DISK, 2) == 0)
        dir_commit(dir);
    wait_for_disk(env, "fsync of a directory", d->sync_ns);
    dir_commit(dir);
    inode_close(dir);
    sim_trace(d->sim, "sync names of %s", path);
    return ERR_NONE;
}

static enum err sim_dir_list(struct env *env, const char *path,
                             void (*fn)(void *ctx, const struct dir_entry *e), void *ctx,
                             struct errmsg *why)
{
    struct inode *dir;
    struct entry *copy;
    struct dir_entry *listed;
    size_t count;

    wait_for_disk(env, "readdir", METADATA_NS);
    dir = volume_find(&disk_of(env)->volume, path);
    if (dir == NULL || !dir->is_dir)
        return not_found(why, "cannot be listed", path);
    count = dir->now_count;
    copy = xcalloc(count, sizeof *copy);
    listed = xcalloc(count, sizeof *listed);
    for (size_t i = 0; i < count; i++) {
        const struct inode *in = dir->now[i].inode;

        copy[i] = dir->now[i];
        listed[i] = (struct dir_entry){.name = copy[i].name,
                                       .is_dir = in->is_dir,
                                       .size_bytes = in->is_dir ? 0 : in->size,
                                       .modified_unix_ms = in->modified_unix_ms};
    }
    for (size_t i = 0; i < count; i++)
        fn(ctx, &listed[i]);
    free(listed);
    free(copy);
    return ERR_NONE;
}

static enum err sim_space(struct env *env, const char *path, struct disk_space *out,
                          struct errmsg *why)
{
    struct disk *d = disk_of(env);

    switch_point(env);
    if (volume_find(&d->volume, path) == NULL)
        return not_found(why, "cannot be examined", path);
    *out = (struct disk_space){.total_bytes = d->volume.total,
                               .free_bytes = volume_free_bytes(&d->volume)};
    return ERR_NONE;
}

static enum err sim_lock(struct env *env, const char *path, struct file **out, struct errmsg *why)
{
    struct file *f;
    enum err e = sim_open(env, path, FILE_CREATE, &f, why);

    if (e != ERR_NONE)
        return e;
    if (handle_of(f)->inode->locked) {
        errmsg_set(why, "%s: locked by another process", path);
        sim_unref(f);
        return ERR_EXISTS;
    }
    handle_of(f)->inode->locked = handle_of(f)->holds_lock = true;
    *out = f;
    return ERR_NONE;
}

const struct disk_ops disk_sim_ops = {
    .open = sim_open,
    .mkdir = sim_mkdir,
    .rename = sim_rename,
    .unlink = sim_unlink,
    .rmdir = sim_rmdir,
    .dir_sync = sim_dir_sync,
    .dir_list = sim_dir_list,
    .space = sim_space,
    .lock = sim_lock,
};

/* ---- the disk's own life ---- */

static void on_write_back(void *arg);

static void schedule_write_back(struct disk *d)
{
    sim_at(d->sim, NULL,
           sim_now(d->sim) + WRITE_BACK_LEAST +
               sim_below(d->sim, DICE_DISK, WRITE_BACK_MOST - WRITE_BACK_LEAST),
           on_write_back, d);
}

/* As the kernel's flusher: all that is dirty, or some of it; and some clean pages are dropped. */
static void on_write_back(void *arg)
{
    struct disk *d = arg;

    if (d->gone) {
        free(d);
        return;
    }
    schedule_write_back(d);
    if (d->faults[DISK_FAULT_STALL].on || d->faults[DISK_FAULT_SYNC_EIO].on)
        return;
    if (sim_below(d->sim, DICE_DISK, 2) == 0)
        volume_commit(&d->volume);
    list_for_each (n, &d->volume.inodes) {
        struct inode *i = list_entry(n, struct inode, node);
        uint64_t r = sim_below(d->sim, DICE_DISK, 8);

        if (i->is_dir)
            continue;
        if (r < 3)
            inode_commit(i);
        if (r == 0)
            inode_evict(i);
    }
}

struct disk *disk_new(struct sim *s, int machine, int64_t bytes)
{
    struct disk *d = xcalloc(1, sizeof *d);

    d->sim = s;
    d->machine = machine;
    d->sync_ns = SIM_US(50) << sim_below(s, DICE_DISK, 8);
    list_init(&d->handles);
    list_init(&d->stalled);
    volume_init(&d->volume, s, (uint64_t)bytes);
    schedule_write_back(d);
    return d;
}

void disk_make_directory(struct disk *d, const char *path)
{
    char name[VOLUME_NAME_SIZE];
    struct inode *dir = volume_walk(&d->volume, path, name);

    CHECK(dir != NULL && dir_find(dir, name) == NULL);
    (void)dir_make(dir, name, true);
    dir_commit(dir);
}

/* The memory of the disk itself goes with its next write-back, which an event still holds. */
void disk_free(struct disk *d)
{
    volume_deinit(&d->volume);
    d->gone = true;
}

/* The dead process's memory stays as it is: handles are left to it. */
void disk_on_crash(struct disk *d)
{
    struct list_node *n;

    list_init(&d->stalled);
    while ((n = list_pop_front(&d->handles)) != NULL) {
        struct handle *h = list_entry(n, struct handle, node);

        if (h->holds_lock)
            h->inode->locked = false;
        inode_close(h->inode);
        h->inode = NULL;
    }
    list_for_each (node, &d->volume.inodes) {
        struct inode *i = list_entry(node, struct inode, node);

        if (sim_below(d->sim, DICE_DISK, 4) == 0 && !i->is_dir)
            inode_evict(i);
    }
}

void disk_on_power_failure(struct disk *d)
{
    sim_trace(d->sim, "m%d: the page cache is gone", d->machine);
    volume_power_failure(&d->volume);
}

bool disk_flip_bit(struct disk *d, const char *pattern, char what[256])
{
    if (!volume_flip_bit(&d->volume, pattern, what))
        return false;
    sim_trace(d->sim, "m%d: a bit flips in %s", d->machine, what);
    return true;
}
