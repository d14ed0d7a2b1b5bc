/* faultio.c -- makes chosen system calls of one process fail, switched while it runs.
 *
 *     cc -shared -fPIC -O2 -o faultio.so faultio.c -ldl
 *     FAULTIO=/path/of/control LD_PRELOAD=./faultio.so broker ...
 *
 * The control file holds one line, "CLASS ERRNO PATH": calls of that class on files whose path
 * contains PATH fail with that number. CLASS is write (write, pwrite, writev, pwritev, fallocate,
 * ftruncate) or sync (fsync, fdatasync, syncfs, sync_file_range). An empty or missing file
 * means no faults; it is looked at again at every call.
 *
 * Stores through a mapping are not calls and are not seen here. Calls that the C library makes
 * itself, and io_uring, are not seen either. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct fault {
    char class[16];
    char path[400];
    int number;
};

/* Reads the control file by plain system calls, so that no call of ours comes back to us. */
static bool read_fault(struct fault *f)
{
    const char *control = getenv("FAULTIO");
    char line[512];

    if (control == NULL)
        return false;
    long fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    long n = syscall(SYS_read, fd, line, sizeof(line) - 1);
    syscall(SYS_close, fd);
    if (n <= 0)
        return false;
    line[n] = '\0';
    return sscanf(line, "%15s %d %399s", f->class, &f->number, f->path) == 3;
}

/* Whether a call of this class on this descriptor fails now; sets errno when it does. A file that
 * was renamed or deleted is known by its last name. */
static bool fails(const char *class, int fd)
{
    struct fault f;
    char link[64], path[4096];
    int saved = errno;

    if (!read_fault(&f) || strcmp(f.class, class) != 0) {
        errno = saved;
        return false;
    }
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    errno = saved;
    if (n <= 0)
        return false;
    path[n] = '\0';
    if (strstr(path, f.path) == NULL)
        return false;
    errno = f.number;
    return true;
}

#define WRAP(result, name, class, params, args)                                                    \
    result name params                                                                             \
    {                                                                                              \
        if (fails(class, fd))                                                                      \
            return -1;                                                                             \
        return ((__typeof__(&name))dlsym(RTLD_NEXT, #name))args;                                   \
    }

/* posix_fallocate returns the error number and leaves errno alone. */
#define WRAP_POSIX(name, offset)                                                                   \
    int name(int fd, offset from, offset size)                                                     \
    {                                                                                              \
        int saved = errno;                                                                         \
        if (fails("write", fd)) {                                                                  \
            int number = errno;                                                                    \
            errno = saved;                                                                         \
            return number;                                                                         \
        }                                                                                          \
        return ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(fd, from, size);                       \
    }

WRAP(ssize_t, write, "write", (int fd, const void *b, size_t n), (fd, b, n))
WRAP(ssize_t, pwrite, "write", (int fd, const void *b, size_t n, off_t o), (fd, b, n, o))
WRAP(ssize_t, pwrite64, "write", (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o))
WRAP(ssize_t, writev, "write", (int fd, const struct iovec *v, int c), (fd, v, c))
WRAP(ssize_t, pwritev, "write", (int fd, const struct iovec *v, int c, off_t o), (fd, v, c, o))
WRAP(ssize_t, pwritev64, "write", (int fd, const struct iovec *v, int c, off64_t o), (fd, v, c, o))
WRAP(int, fallocate, "write", (int fd, int m, off_t o, off_t n), (fd, m, o, n))
WRAP(int, fallocate64, "write", (int fd, int m, off64_t o, off64_t n), (fd, m, o, n))
WRAP(int, ftruncate, "write", (int fd, off_t n), (fd, n))
WRAP(int, ftruncate64, "write", (int fd, off64_t n), (fd, n))
WRAP_POSIX(posix_fallocate, off_t)
WRAP_POSIX(posix_fallocate64, off64_t)
WRAP(int, fsync, "sync", (int fd), (fd))
WRAP(int, fdatasync, "sync", (int fd), (fd))
WRAP(int, syncfs, "sync", (int fd), (fd))
WRAP(int, sync_file_range, "sync", (int fd, off64_t o, off64_t n, unsigned int f), (fd, o, n, f))
