/* raft-meta/raft_disk_uv.c -- see raft_disk_uv.h. */
#include "raft-meta/raft_disk_uv.h"

#include <errno.h>
#include <pthread.h>
#include <raft/uv.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Two of them are made ahead; small ones keep a small disk usable, and a start after a crash, which
 * reads what was made ahead, short. An entry that is larger gets a segment of its own size. */
#define SEGMENT_BYTES (1u << 20)

struct raft_disk_uv {
    struct raft_io io;
    struct raft_uv_transport transport;
};

/* ---- io_destroy off the loop ----
 *
 * raft_uv makes a kernel AIO context to probe the disk at each start and for each segment, and
 * destroys it on the loop. io_destroy() waits for an RCU grace period: measured 44 ms, which was
 * most of the time from exec to serving, and a stall of the meta loop at every new segment.
 * libraft reaches it through syscall(), whose definition here comes before libc's: that one call
 * is made on a thread of its own. The context is idle by then (raft_uv has reaped its last event),
 * and its number is not used again before it is gone.
 */
#if defined(__x86_64__)

static long raw_syscall(long n, const long a[6])
{
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static void *destroy_context(void *context)
{
    const long a[6] = {(long)(intptr_t)context};

    (void)raw_syscall(SYS_io_destroy, a);
    return NULL;
}

static bool destroy_elsewhere(long context)
{
    pthread_attr_t attr;
    pthread_t thread;
    bool ok = pthread_attr_init(&attr) == 0 &&
              pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0 &&
              pthread_create(&thread, &attr, destroy_context, (void *)(intptr_t)context) == 0;

    (void)pthread_attr_destroy(&attr);
    return ok;
}

long syscall(long number, ...)
{
    long a[6], result;
    va_list ap;

    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    if (number == SYS_io_destroy && destroy_elsewhere(a[0]))
        return 0;
    result = raw_syscall(number, a);
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

#endif

/* ---- the null transport ---- */

static int null_init(struct raft_uv_transport *t, raft_id id, const char *address)
{
    (void)t;
    (void)id;
    (void)address;
    return 0;
}

static int null_listen(struct raft_uv_transport *t, raft_uv_accept_cb cb)
{
    (void)t;
    (void)cb;
    return 0;
}

static int null_connect(struct raft_uv_transport *t, struct raft_uv_connect *request, raft_id id,
                        const char *address, raft_uv_connect_cb cb)
{
    (void)t;
    (void)request;
    (void)id;
    (void)address;
    (void)cb;
    return RAFT_NOCONNECTION;
}

static void null_close(struct raft_uv_transport *t, raft_uv_transport_close_cb cb)
{
    cb(t);
}

/* ---- the disk ---- */

enum err raft_disk_uv_new(struct uv_loop_s *loop, const char *dir, struct raft_disk_uv **out,
                          struct errmsg *why)
{
    struct raft_disk_uv *d = xcalloc(1, sizeof *d);
    int rv;

    *out = NULL;
    d->transport = (struct raft_uv_transport){
        .init = null_init, .listen = null_listen, .connect = null_connect, .close = null_close};
    rv = raft_uv_init(&d->io, loop, dir, &d->transport);
    if (rv != 0) {
        errmsg_set(why, "%s: %s (%s)", dir, raft_strerror(rv), d->io.errmsg);
        free(d);
        return ERR_IO;
    }
    d->io.version = 2; /* 0.15.0 has asynchronous work and forgets to say so */
    raft_uv_set_segment_size(&d->io, SEGMENT_BYTES);
    raft_uv_set_auto_recovery(&d->io, false); /* it moves on past a corrupt segment */
    /* Plain, so that `fluxmq verify` reads what is there; our own hashes guard it. */
    (void)raft_uv_set_snapshot_compression(&d->io, false);
    *out = d;
    return ERR_NONE;
}

struct raft_io *raft_disk_uv_io(struct raft_disk_uv *d)
{
    return &d->io;
}

void raft_disk_uv_free(struct raft_disk_uv *d)
{
    raft_uv_close(&d->io);
    free(d);
}
