#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* fallocate, preadv2, OFD locks */
#endif
#include "storage/disk_posix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#define MEMCPY_BELOW_BYTES ((size_t)32 << 10)
#define MAP_BYTES_MAX      ((uint64_t)64 << 20) /* a larger step is written by pwrite */
#define WINDOWS_MAX        3                    /* the one before, the current, the next */
#define PROBE_EVERY_BYTES  ((uint64_t)128 << 10)
#define PROBES_MAX         64
#define LOAD_CHUNK_BYTES   ((size_t)64 << 10)
#define LIST_ENTRIES_MAX   10000000u
#define DESCRIPTORS_KEPT   ((rlim_t)128) /* or a quarter, where there are few */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* One mapped step of a file. Views hold it, so that it stays mapped while they are out (S2). */
struct window {
    atomic_int refs;
    uint8_t *base;
    uint64_t begin, end; /* file offsets; begin is a page boundary */
};

struct posix_file {
    struct file base;
    atomic_int refs;
    int fd;
    char *path; /* as it was opened, for messages */
    bool read_only, no_fallocate;
    _Atomic uint64_t size, ready_end;
    struct mutex lock;                   /* of the window table */
    struct window *windows[WINDOWS_MAX]; /* oldest first */
    int window_count;
    /* What came since room was made last, by either way: decides whether the next step is mapped.
     */
    _Atomic uint64_t bytes_copied, bytes_pwritten;
};

struct posix_view {
    struct iobuf buf;
    struct window *window; /* NULL: a range of the file alone */
};

static const struct file_ops posix_file_ops;

static struct posix_file *posix(const struct file *f)
{
    return CONTAINER_OF(f, struct posix_file, base);
}

static enum err err_of_errno(int code)
{
    switch (code) {
    case ENOENT:
    case ENOTDIR:
        return ERR_NOT_FOUND;
    case EEXIST:
        return ERR_EXISTS;
    case ENOSPC:
    case EDQUOT:
        return ERR_NO_SPACE;
    case EMFILE:
    case ENFILE:
        return ERR_NO_DESCRIPTORS;
    default:
        return ERR_IO;
    }
}

static enum err fail(struct errmsg *why, const char *what, const char *path)
{
    int code = errno;

    errmsg_set(why, "%s: %s: %s", path, what, strerror(code));
    return err_of_errno(code);
}

/* ---- windows ---- */

static void window_unref(struct window *w)
{
    if (atomic_fetch_sub_explicit(&w->refs, 1, memory_order_acq_rel) != 1)
        return;
    (void)munmap(w->base, (size_t)(w->end - w->begin));
    free(w);
}

static uint64_t page_floor(uint64_t offset)
{
    return offset & ~((uint64_t)sysconf(_SC_PAGESIZE) - 1);
}

/* Makes the pages present and writable, so that a memcpy into them takes no fault. Where the kernel
 * cannot (before 5.14), the first touch faults; the blocks are there, so it cannot fail. */
static void populate(void *p, size_t size)
{
    (void)madvise(p, size, MADV_POPULATE_WRITE);
}

/* Maps [begin, end), which fallocate has made. Failure is no error: pwrite serves as well. */
static struct window *window_new(struct posix_file *f, uint64_t begin, uint64_t end)
{
    uint64_t from = page_floor(begin);

    if (end - from > MAP_BYTES_MAX)
        return NULL;

    void *p =
        mmap(NULL, (size_t)(end - from), PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, (off_t)from);

    if (p == MAP_FAILED)
        return NULL;
    populate(p, (size_t)(end - from));

    struct window *w = xmalloc(sizeof *w);

    *w = (struct window){.refs = 1, .base = p, .begin = from, .end = end};
    return w;
}

/* Puts the new step behind the others; the oldest goes when nothing can be written to it any more.
 * Returns what must be released after the lock. */
static struct window *window_push(struct posix_file *f, struct window *w) REQUIRES(f->lock)
{
    struct window *gone = NULL;

    if (f->window_count == WINDOWS_MAX) {
        gone = f->windows[0];
        memmove(&f->windows[0], &f->windows[1], (WINDOWS_MAX - 1) * sizeof f->windows[0]);
        f->window_count--;
    }
    f->windows[f->window_count++] = w;
    return gone;
}

static void drop_windows(struct posix_file *f)
{
    struct window *gone[WINDOWS_MAX];

    mutex_lock(&f->lock);
    int count = f->window_count;

    memcpy(gone, f->windows, sizeof gone);
    f->window_count = 0;
    mutex_unlock(&f->lock);
    for (int i = 0; i < count; i++)
        window_unref(gone[i]);
}

/* The window that holds the whole range, with a reference; NULL when none does. */
static struct window *window_of(struct posix_file *f, uint64_t offset, size_t size)
{
    struct window *found = NULL;

    mutex_lock(&f->lock);
    for (int i = f->window_count - 1; i >= 0; i--) {
        struct window *w = f->windows[i];

        if (offset >= w->begin && offset + size <= w->end) {
            atomic_fetch_add_explicit(&w->refs, 1, memory_order_relaxed);
            found = w;
            break;
        }
    }
    mutex_unlock(&f->lock);
    return found;
}

/* ---- a file's life ---- */

/* The lowest free number is given out first: a high one says how many are open. */
static bool is_of_the_last(int fd)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return false;
    return (rlim_t)fd >= limit.rlim_cur - MIN(DESCRIPTORS_KEPT, limit.rlim_cur / 4);
}

static enum err posix_open(struct env *env, const char *path, unsigned flags, struct file **out,
                           struct errmsg *why)
{
    int how = O_CLOEXEC | ((flags & FILE_READ_ONLY) ? O_RDONLY : O_RDWR);
    struct stat st;
    int fd;

    if (flags & FILE_CREATE)
        how |= O_CREAT;
    if (flags & FILE_EXCLUSIVE)
        how |= O_EXCL;
    if (flags & FILE_TRUNCATE)
        how |= O_TRUNC;
    do {
        fd = open(path, how, 0644);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return fail(why, "cannot be opened", path);
    if ((flags & FILE_HELD) && is_of_the_last(fd)) {
        errmsg_set(why, "%s: too many files are open", path);
        (void)close(fd);
        return ERR_NO_DESCRIPTORS;
    }
    if (fstat(fd, &st) != 0) {
        enum err e = fail(why, "cannot be examined", path);

        (void)close(fd);
        return e;
    }
    if (!S_ISREG(st.st_mode)) {
        errmsg_set(why, "%s: is not a regular file", path);
        (void)close(fd);
        return ERR_IO;
    }

    struct posix_file *f = xcalloc(1, sizeof *f);

    f->base = (struct file){.ops = &posix_file_ops, .env = env};
    f->refs = 1;
    f->fd = fd;
    f->path = xstrdup(path);
    f->read_only = (flags & FILE_READ_ONLY) != 0;
    f->size = (uint64_t)st.st_size;
    f->ready_end = (uint64_t)st.st_size;
    mutex_init(&f->lock, env);
    *out = &f->base;
    return ERR_NONE;
}

static void posix_ref(struct file *file)
{
    atomic_fetch_add_explicit(&posix(file)->refs, 1, memory_order_relaxed);
}

static void posix_unref(struct file *file)
{
    struct posix_file *f = posix(file);

    if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    drop_windows(f);
    (void)close(f->fd);
    mutex_deinit(&f->lock);
    free(f->path);
    free(f);
}

static uint64_t posix_size(const struct file *file)
{
    return atomic_load_explicit(&posix(file)->size, memory_order_acquire);
}

static uint64_t posix_ready_end(const struct file *file)
{
    return atomic_load_explicit(&posix(file)->ready_end, memory_order_acquire);
}

/* ---- growing ---- */

static int allocate(int fd, int mode, uint64_t begin, uint64_t end)
{
    int r;

    do {
        r = fallocate(fd, mode, (off_t)begin, (off_t)(end - begin));
    } while (r != 0 && errno == EINTR);
    return r;
}

/* Large batches go by pwrite, which needs no mapping: to populate one for them would zero every
 * page for nothing (measured: half of the CPU of such a load). So small ones must have been seen: a
 * new segment's first step is either too small to map or as long as one large batch. */
static bool is_written_in_small_pieces(struct posix_file *f)
{
    uint64_t copied = atomic_exchange_explicit(&f->bytes_copied, 0, memory_order_relaxed);
    uint64_t pwritten = atomic_exchange_explicit(&f->bytes_pwritten, 0, memory_order_relaxed);

    return copied > 0 && pwritten / 4 <= copied;
}

static enum err posix_ready(struct file *file, uint64_t end, struct errmsg *why)
{
    struct posix_file *f = posix(file);
    uint64_t begin = posix_ready_end(file);

    if (end <= begin)
        return ERR_NONE;

    /* An unmapped step leaves the file's size alone: it then ends with its last record. */
    bool map =
        is_written_in_small_pieces(f) && end - begin > DISK_STEP_UNMAPPED_BYTES && !f->no_fallocate;

    if (!f->no_fallocate && allocate(f->fd, map ? 0 : FALLOC_FL_KEEP_SIZE, begin, end) != 0) {
        if (errno != EOPNOTSUPP && errno != ENOSYS)
            return fail(why, "cannot be extended", f->path);
        /* No fallocate here: pwrite alone, which tells of a full disk by itself. */
        f->no_fallocate = true;
        map = false;
    }
    if (map) {
        struct window *w = window_new(f, begin, end);
        struct window *gone = NULL;

        if (w != NULL) {
            mutex_lock(&f->lock);
            gone = window_push(f, w);
            mutex_unlock(&f->lock);
        }
        if (gone != NULL)
            window_unref(gone);
    }
    atomic_store_explicit(&f->ready_end, end, memory_order_release);
    return ERR_NONE;
}

/* ---- writing ---- */

static enum err write_at(struct posix_file *f, uint64_t offset, const uint8_t *p, size_t size,
                         struct errmsg *why)
{
    while (size > 0) {
        ssize_t n = pwrite(f->fd, p, size, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(why, "write failed", f->path);
        if (n == 0) {
            errno = EIO;
            return fail(why, "write failed", f->path);
        }
        p += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return ERR_NONE;
}

static enum err posix_write(struct file *file, uint64_t offset, const void *p, size_t size,
                            struct errmsg *why)
{
    struct posix_file *f = posix(file);
    struct window *w = NULL;

    if (size < MEMCPY_BELOW_BYTES && offset + size <= posix_ready_end(file))
        w = window_of(f, offset, size);
    if (w != NULL) {
        memcpy(w->base + (offset - w->begin), p, size);
        window_unref(w);
        atomic_fetch_add_explicit(&f->bytes_copied, size, memory_order_relaxed);
    } else {
        enum err e = write_at(f, offset, p, size, why);

        if (e != ERR_NONE)
            return e;
        /* A small one that found no window wants one next time. */
        atomic_fetch_add_explicit(size < MEMCPY_BELOW_BYTES ? &f->bytes_copied : &f->bytes_pwritten,
                                  size, memory_order_relaxed);
    }

    uint64_t end = offset + size;

    if (end > posix_size(file))
        atomic_store_explicit(&f->size, end, memory_order_release);
    if (end > posix_ready_end(file))
        atomic_store_explicit(&f->ready_end, end, memory_order_release);
    return ERR_NONE;
}

/* ---- reading ---- */

static void release_view(struct iobuf *b)
{
    struct posix_view *v = CONTAINER_OF(b, struct posix_view, buf);

    if (v->window != NULL)
        window_unref(v->window);
    file_unref(b->file);
    free(v);
}

static enum err posix_view(struct file *file, uint64_t offset, size_t size, struct iobuf **out)
{
    struct posix_file *f = posix(file);

    if (offset + size > posix_size(file))
        return ERR_IO;

    struct posix_view *v = xcalloc(1, sizeof *v);

    v->window = window_of(f, offset, size);
    v->buf = (struct iobuf){
        .refs = 1,
        .len = size,
        .ptr = v->window != NULL ? v->window->base + (offset - v->window->begin) : NULL,
        .file = file_ref(file),
        .file_offset = offset,
        .release = release_view,
    };
    *out = &v->buf;
    return ERR_NONE;
}

static enum err posix_read(struct file *file, uint64_t offset, void *p, size_t size, size_t *n_read)
{
    struct posix_file *f = posix(file);
    uint64_t end = posix_size(file);
    size_t done = 0;

    size = offset >= end ? 0 : (size_t)MIN((uint64_t)size, end - offset);
    while (done < size) {
        ssize_t n = pread(f->fd, (uint8_t *)p + done, size - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_of_errno(errno);
        if (n == 0)
            break; /* cut from outside: the caller sees a short read */
        done += (size_t)n;
    }
    *n_read = done;
    return ERR_NONE;
}

/* For file systems without RWF_NOWAIT. */
static bool resident_by_mincore(int fd, uint64_t offset, size_t size)
{
    uint64_t from = page_floor(offset);
    size_t span = (size_t)(offset - from) + size;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (span + page - 1) / page;
    void *p = mmap(NULL, span, PROT_READ, MAP_SHARED, fd, (off_t)from);

    if (p == MAP_FAILED)
        return false;

    unsigned char *there = xmalloc(pages);
    bool all = mincore(p, span, there) == 0;

    for (size_t i = 0; all && i < pages; i++)
        all = (there[i] & 1) != 0;
    free(there);
    (void)munmap(p, span);
    return all;
}

/* 1: reading this byte would not wait; 0: it would; -1: the file system cannot tell. */
static int probe(int fd, uint64_t at)
{
    char byte;
    struct iovec v = {.iov_base = &byte, .iov_len = 1};
    ssize_t n = preadv2(fd, &v, 1, (off_t)at, RWF_NOWAIT);

    if (n < 0 && errno == EOPNOTSUPP)
        return -1;
    return n == 1;
}

static bool posix_resident(struct file *file, uint64_t offset, size_t size)
{
    struct posix_file *f = posix(file);
    uint64_t every = MAX(PROBE_EVERY_BYTES, (uint64_t)size / PROBES_MAX);
    struct window *w = window_of(f, offset, size);
    int there = 1;

    if (w != NULL) {
        window_unref(w);
        return true;
    }
    for (uint64_t at = 0; there == 1 && at < size; at += every)
        there = probe(f->fd, offset + at);
    if (there == 1 && size > 1)
        there = probe(f->fd, offset + size - 1);
    return there < 0 ? resident_by_mincore(f->fd, offset, size) : there == 1;
}

static enum err posix_load(struct file *file, uint64_t offset, size_t size)
{
    struct posix_file *f = posix(file);
    uint8_t *scratch = xmalloc(LOAD_CHUNK_BYTES);
    enum err e = ERR_NONE;
    size_t n = 1;

    (void)posix_fadvise(f->fd, (off_t)offset, (off_t)size, POSIX_FADV_WILLNEED);
    while (e == ERR_NONE && size > 0 && n > 0) {
        e = posix_read(file, offset, scratch, MIN(size, LOAD_CHUNK_BYTES), &n);
        offset += n;
        size -= n;
    }
    free(scratch);
    return e;
}

/* ---- durability ---- */

static enum err posix_sync(struct file *file, struct errmsg *why)
{
    int r;

    do {
        r = fdatasync(posix(file)->fd);
    } while (r != 0 && errno == EINTR);
    return r == 0 ? ERR_NONE : fail(why, "fdatasync failed", posix(file)->path);
}

static void posix_sync_begin(struct file *file)
{
    (void)sync_file_range(posix(file)->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

/* Linux tells of failed writes through syncfs() from 5.8 on. */
static bool syncfs_tells_errors(void)
{
    struct utsname system;
    char *end;

    if (uname(&system) != 0)
        return false;

    long major = strtol(system.release, &end, 10);
    long minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;

    return major > 5 || (major == 5 && minor >= 8);
}

/* And only of file systems of one device that report what they could not write back: overlayfs, for
 * one, does not pass on what went wrong below it. */
static bool file_system_tells_errors(int fd)
{
    static const uint32_t known[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC,
                                     F2FS_SUPER_MAGIC, TMPFS_MAGIC};
    struct statfs s;

    if (fstatfs(fd, &s) != 0)
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        if ((uint32_t)s.f_type == known[i])
            return true;
    }
    return false;
}

static enum err posix_sync_all(struct file *file, struct errmsg *why)
{
    int r;

    if (!syncfs_tells_errors() || !file_system_tells_errors(posix(file)->fd))
        return ERR_NOT_FOUND;
    do {
        r = syncfs(posix(file)->fd);
    } while (r != 0 && errno == EINTR);
    return r == 0 ? ERR_NONE : fail(why, "its file system cannot be synced", posix(file)->path);
}

static enum err cut_to(struct posix_file *f, uint64_t size, struct errmsg *why)
{
    int r;

    do {
        r = ftruncate(f->fd, (off_t)size);
    } while (r != 0 && errno == EINTR);
    return r == 0 ? ERR_NONE : fail(why, "truncate failed", f->path);
}

/* The windows go first: a page beyond the new end must not be reachable through one. What views
 * still hold lies below the size and stays valid. */
static enum err posix_trim(struct file *file, struct errmsg *why)
{
    struct posix_file *f = posix(file);
    uint64_t size = posix_size(file);

    if (f->read_only)
        return ERR_NONE;
    atomic_store_explicit(&f->ready_end, size, memory_order_release);
    drop_windows(f);
    return cut_to(f, size, why);
}

static enum err posix_truncate(struct file *file, uint64_t size, struct errmsg *why)
{
    struct posix_file *f = posix(file);

    drop_windows(f);

    enum err e = cut_to(f, size, why);

    if (e == ERR_NONE) {
        atomic_store_explicit(&f->size, size, memory_order_release);
        atomic_store_explicit(&f->ready_end, size, memory_order_release);
    }
    return e;
}

static int posix_descriptor(struct file *file)
{
    return posix(file)->fd;
}

static const struct file_ops posix_file_ops = {
    .ref = posix_ref,
    .unref = posix_unref,
    .size = posix_size,
    .ready = posix_ready,
    .ready_end = posix_ready_end,
    .write = posix_write,
    .view = posix_view,
    .read = posix_read,
    .resident = posix_resident,
    .load = posix_load,
    .sync = posix_sync,
    .sync_begin = posix_sync_begin,
    .sync_all = posix_sync_all,
    .trim = posix_trim,
    .truncate = posix_truncate,
    .descriptor = posix_descriptor,
};

/* ---- directories ---- */

static enum err posix_mkdir(struct env *env, const char *path, struct errmsg *why)
{
    char part[PATH_MAX];
    size_t size = strlen(path);

    (void)env;
    if (size >= sizeof part) {
        errno = ENAMETOOLONG;
        return fail(why, "cannot be made", path);
    }
    memcpy(part, path, size + 1);
    for (size_t i = 1; i <= size; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;

        char was = part[i];

        part[i] = '\0';
        if (mkdir(part, 0755) != 0 && errno != EEXIST)
            return fail(why, "cannot be made", part);
        part[i] = was;
    }

    struct stat st;

    if (stat(path, &st) != 0)
        return fail(why, "cannot be made", path);
    if (!S_ISDIR(st.st_mode)) {
        errmsg_set(why, "%s: is not a directory", path);
        return ERR_EXISTS;
    }
    return ERR_NONE;
}

static enum err posix_rename(struct env *env, const char *from, const char *to, struct errmsg *why)
{
    (void)env;
    return rename(from, to) == 0 ? ERR_NONE : fail(why, "cannot be renamed", from);
}

static enum err posix_unlink(struct env *env, const char *path, struct errmsg *why)
{
    (void)env;
    return unlink(path) == 0 ? ERR_NONE : fail(why, "cannot be removed", path);
}

static enum err posix_rmdir(struct env *env, const char *path, struct errmsg *why)
{
    (void)env;
    return rmdir(path) == 0 ? ERR_NONE : fail(why, "cannot be removed", path);
}

static enum err posix_dir_sync(struct env *env, const char *path, struct errmsg *why)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

    (void)env;
    if (fd < 0)
        return fail(why, "cannot be opened", path);
    do {
        r = fsync(fd);
    } while (r != 0 && errno == EINTR);

    enum err e = r == 0 ? ERR_NONE : fail(why, "fsync failed", path);

    (void)close(fd);
    return e;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct dir_entry *)a)->name, ((const struct dir_entry *)b)->name);
}

/* Directories are told by their type alone; a stat of each is spared (10,000 partitions). */
static bool examine(int dir_fd, const struct dirent *d, struct dir_entry *out)
{
    struct stat st;

    *out = (struct dir_entry){.is_dir = d->d_type == DT_DIR};
    if (!out->is_dir) {
        if (fstatat(dir_fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            return false; /* gone meanwhile */
        out->is_dir = S_ISDIR(st.st_mode);
        out->size_bytes = (uint64_t)st.st_size;
        out->modified_unix_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
    }
    out->name = xstrdup(d->d_name);
    return true;
}

static enum err posix_dir_list(struct env *env, const char *path,
                               void (*fn)(void *ctx, const struct dir_entry *e), void *ctx,
                               struct errmsg *why)
{
    DIR *dir = opendir(path);
    struct dir_entry *entries = NULL;
    size_t count = 0, capacity = 0;
    enum err e = ERR_NONE;

    (void)env;
    if (dir == NULL)
        return fail(why, "cannot be listed", path);
    for (;;) {
        errno = 0;

        struct dirent *d = readdir(dir);

        if (d == NULL) {
            if (errno != 0)
                e = fail(why, "cannot be listed", path);
            break;
        }
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        if (count == LIST_ENTRIES_MAX) {
            errmsg_set(why, "%s: more than %u entries", path, LIST_ENTRIES_MAX);
            e = ERR_TOO_LARGE;
            break;
        }
        if (count == capacity) {
            capacity = capacity == 0 ? 64 : capacity * 2;
            entries = xrealloc(entries, capacity * sizeof *entries);
        }
        if (examine(dirfd(dir), d, &entries[count]))
            count++;
    }
    (void)closedir(dir);
    if (count > 0)
        qsort(entries, count, sizeof *entries, by_name);
    for (size_t i = 0; i < count; i++) {
        if (e == ERR_NONE)
            fn(ctx, &entries[i]);
        free((char *)(uintptr_t)entries[i].name);
    }
    free(entries);
    return e;
}

static enum err posix_space(struct env *env, const char *path, struct disk_space *out,
                            struct errmsg *why)
{
    struct statvfs s;

    (void)env;
    if (statvfs(path, &s) != 0)
        return fail(why, "cannot be examined", path);
    out->total_bytes = (uint64_t)s.f_blocks * s.f_frsize;
    out->free_bytes = (uint64_t)s.f_bavail * s.f_frsize;
    return ERR_NONE;
}

/* An open-file-description lock: it excludes another process, Kafka's (which takes a POSIX lock)
 * and another node in this process alike. */
static enum err posix_lock(struct env *env, const char *path, struct file **out, struct errmsg *why)
{
    struct file *f;
    enum err e = posix_open(env, path, FILE_CREATE, &f, why);

    if (e != ERR_NONE)
        return e;

    struct flock how = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    if (fcntl(posix(f)->fd, F_OFD_SETLK, &how) != 0) {
        if (errno == EAGAIN || errno == EACCES) {
            errmsg_set(why, "%s: locked by another process", path);
            e = ERR_EXISTS;
        } else {
            e = fail(why, "cannot be locked", path);
        }
        posix_unref(f);
        return e;
    }
    *out = f;
    return ERR_NONE;
}

const struct disk_ops disk_posix_ops = {
    .open = posix_open,
    .mkdir = posix_mkdir,
    .rename = posix_rename,
    .unlink = posix_unlink,
    .rmdir = posix_rmdir,
    .dir_sync = posix_dir_sync,
    .dir_list = posix_dir_list,
    .space = posix_space,
    .lock = posix_lock,
};
