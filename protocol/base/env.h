/* protocol/base/env.h -- the only door to clock, disk, network, randomness, locks and threads.
 *
 * The real one is broker/env_uv.c (loops, sockets, pool, clock) with storage/disk_posix.c (files);
 * the simulator brings another one with virtual time, simulated streams and a two-image disk, and
 * may switch between loops and pool jobs at every call of this header. So nothing else in the
 * product calls the system.
 *
 * Words:  a *loop* is one thread's event loop; a *message* is run once on the loop it was posted
 *         to; a *job* is run once on a pool thread and may then be reported to a loop; a *turn* is
 *         one round of a loop: messages, timers, streams, then the end-of-turn hook.
 * Units:  `*_ns` are monotonic nanoseconds, `unix_ms` is wall time in milliseconds.
 */
#ifndef FLUXMQ_BASE_ENV_H
#define FLUXMQ_BASE_ENV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/base/check.h"
#include "protocol/base/err.h"
#include "protocol/base/iobuf.h"
#include "protocol/base/list.h"

struct env_ops;
struct disk_ops;
struct loop_ops;
struct stream_ops;

struct env {
    const struct env_ops *ops;
    const struct disk_ops *disk;
};

/* ---- clock and randomness: any thread ---- */

uint64_t env_now_ns(struct env *env);
int64_t env_unix_ms(struct env *env);
void env_random(struct env *env, void *out, size_t size);
uint64_t env_random_u64(struct env *env);

/* ---- locks: short critical sections only; never held across a disk wait on a worker ---- */

struct CAPABILITY("mutex") mutex {
    struct env *env;
    uint64_t storage[6]; /* a pthread_mutex_t, or the simulator's */
};

void mutex_init(struct mutex *m, struct env *env);
void mutex_deinit(struct mutex *m);
void mutex_lock(struct mutex *m) ACQUIRE(m);
void mutex_unlock(struct mutex *m) RELEASE(m);

/* ---- loops and messages ---- */

struct loop {
    const struct loop_ops *ops;
    struct env *env;
    const char *name;
};

/* Embedded in what it carries. May be posted again once run() has begun; not while it waits. */
struct message {
    struct list_node node;
    void (*run)(struct message *m);
};

/* Starts a thread with a loop and runs on_start (may be NULL) on it; returns when on_start has
 * returned. */
MUST_USE enum err env_loop_new(struct env *env, const char *name,
                               void (*on_start)(struct loop *loop, void *ctx), void *ctx,
                               struct loop **out, struct errmsg *why);
/* Ends the loop after the messages already posted, joins its thread and frees it. Not from a loop
 * on itself. All streams, timers and listeners on it must be closed before. */
void env_loop_stop(struct loop *loop);

/* From any thread. Messages of one poster to one loop run in the order they were posted. */
void loop_post(struct loop *loop, struct message *m);
/* The time at which this turn began; only on the loop's own thread. */
uint64_t loop_now_ns(const struct loop *loop);
/* Called at the end of each turn that ran something; one hook per loop. */
void loop_on_turn_end(struct loop *loop, void (*fn)(void *ctx), void *ctx);
/* Monotonic nanoseconds at which the turn in progress began, 0 when idle [H9]; from any thread. */
uint64_t loop_turn_began_ns(const struct loop *loop);

/* ---- timers: on the loop's own thread ---- */

struct loop_timer {
    struct loop *loop;
    void (*fire)(struct loop_timer *t);
    uint64_t storage[5]; /* the loop's heap node */
};

void loop_timer_init(struct loop_timer *t, struct loop *loop, void (*fire)(struct loop_timer *t));
void loop_timer_set(struct loop_timer *t, uint64_t deadline_ns); /* replaces an earlier deadline */
void loop_timer_stop(struct loop_timer *t);                      /* harmless when not set */
bool loop_timer_is_set(const struct loop_timer *t);

/* ---- the pool ---- */

struct job {
    struct list_node node;
    void (*work)(struct job *j); /* on a pool thread; may block on the disk */
    struct loop *report_to;      /* or NULL: then `work` may free the job */
    void (*done)(struct job *j); /* on report_to, after work */
    struct message message;      /* the pool's own */
};

/* Two classes, so that long jobs (recovery, deletion) cannot hold up short ones (growing a
 * segment, fsync, cold reads). */
enum job_class { JOB_SHORT, JOB_LONG };
void env_pool_submit(struct env *env, enum job_class class, struct job *j);

/* ---- streams ---- */

struct stream {
    const struct stream_ops *ops;
    struct loop *loop; /* NULL until attached */
    void (*on_event)(struct stream *s, unsigned events);
    void *ctx;
};

enum stream_event { STREAM_READABLE = 1, STREAM_WRITABLE = 2, STREAM_HANGUP = 4 };

struct listener;
struct listen_options {
    const char *host; /* empty or "0.0.0.0" or "::": all addresses */
    int port;         /* 0: any free one */
    int backlog;
    /* A connection was accepted, on the listener's loop; attach it to any loop, or close it. */
    void (*on_accept)(void *ctx, struct stream *s);
    void *ctx;
};

/* On `loop`'s own thread. Why says "address:port: reason". */
MUST_USE enum err env_listen(struct loop *loop, const struct listen_options *o,
                             struct listener **out, struct errmsg *why);
int listener_port(const struct listener *l);
void listener_pause(struct listener *l, bool paused); /* stop accepting for a while */
void listener_close(struct listener *l);

/* On the new owner's thread. From then on only that thread touches the stream. */
void stream_attach(struct stream *s, struct loop *loop,
                   void (*on_event)(struct stream *s, unsigned events), void *ctx);
/* Which events are wanted (enum stream_event); level triggered. */
void stream_want(struct stream *s, unsigned events);
/* Non-blocking: bytes read; 0 = the peer has ended its side; ERR_AGAIN, or ERR_CLOSED on reset. */
MUST_USE enum err stream_read(struct stream *s, void *p, size_t size, size_t *n_read);
/* Non-blocking: sends from the front of `q` and consumes what went; ERR_AGAIN when the socket is
 * full (some may have gone), ERR_CLOSED when the peer is away. File slices go by sendfile. */
MUST_USE enum err stream_send(struct stream *s, struct ioqueue *q);
/* "192.0.2.1:4711" or "[::1]:4711"; valid for the stream's life. */
const char *stream_peer(const struct stream *s);
const char *stream_peer_host(const struct stream *s);
void stream_close(struct stream *s); /* and frees it; also for one that was never attached */

/* A connection on its way to host:port. The caller owns it and sets the first part. */
struct connecting {
    const char *host; /* a name or an address; valid until loop_connect() returns */
    int port;
    uint64_t deadline_ns;
    /* Once, on the loop, never inside loop_connect(): a stream to attach or close; or why there is
     * none: ERR_REFUSED (that machine said that nobody listens there: evidence [H9]),
     * ERR_TIMED_OUT, ERR_CLOSED (unreachable, reset, no such name). */
    void (*done)(struct connecting *c, enum err err, struct stream *s);
    struct loop *loop; /* internal, as is the next */
    void *attempt;     /* NULL when nothing is on its way */
};

/* On the loop's own thread. */
void loop_connect(struct loop *loop, struct connecting *c);
/* done() will not run. Harmless when it has. */
void loop_connect_cancel(struct connecting *c);

/* ---- the disk ----
 *
 * Storage never writes through a pointer: the disk decides memcpy or pwrite, map or sendfile.
 * Calls marked [pool] may wait for the disk and are made from pool jobs or at start and stop;
 * the others never wait on a healthy system.
 * Threads: a file's writer calls are serialised by its owner (the partition's lock);
 * file_view, file_read, file_resident and file_sync may run beside them.
 */

struct file; /* counted: iobufs made by file_view hold it */

enum file_open_flags {
    FILE_CREATE = 1,    /* make it when absent */
    FILE_EXCLUSIVE = 2, /* with FILE_CREATE: fail with ERR_EXISTS */
    FILE_READ_ONLY = 4,
    FILE_TRUNCATE = 8,
    FILE_HELD = 16, /* stays open for long: ERR_NO_DESCRIPTORS when only those are left that syncs
                     * and the quorum need */
};

struct disk_space {
    uint64_t total_bytes, free_bytes; /* free to an unprivileged process */
};

struct dir_entry {
    const char *name;
    bool is_dir;
    uint64_t size_bytes;
    int64_t modified_unix_ms;
};

/* [pool] ERR_NOT_FOUND, ERR_EXISTS, ERR_NO_SPACE, ERR_IO. */
MUST_USE enum err file_open(struct env *env, const char *path, unsigned flags, struct file **out,
                            struct errmsg *why);
struct file *file_ref(struct file *f);
void file_unref(struct file *f); /* the last one closes it */

/* Bytes written so far (the greatest end of a write, or the size at open): not what is
 * preallocated beyond it. */
uint64_t file_size(const struct file *f);
/* Makes room, so that writes below `end` neither wait for allocation nor fail for lack of space:
 * fallocate, and population of the mapped step. [pool] ERR_NO_SPACE, ERR_IO. */
MUST_USE enum err file_ready(struct file *f, uint64_t end, struct errmsg *why);
/* The end up to which file_ready() has made room. */
uint64_t file_ready_end(const struct file *f);
/* Writes whole or not at all. Below file_ready_end() it does not wait; beyond it, it is [pool]. */
MUST_USE enum err file_write(struct file *f, uint64_t offset, const void *p, size_t size,
                             struct errmsg *why);
/* The bytes [offset, offset + size), all below file_size(): in memory (ptr set) where they lie in
 * the mapped tail, else as a range of the file. They never change afterwards [H10]. */
MUST_USE enum err file_view(struct file *f, uint64_t offset, size_t size, struct iobuf **out);
/* Copies; n_read < size at the end of the file. [pool] when not resident. */
MUST_USE enum err file_read(struct file *f, uint64_t offset, void *p, size_t size, size_t *n_read);
/* Whether reading this range would not wait. A hint. */
bool file_resident(struct file *f, uint64_t offset, size_t size);
/* Reads the range into the page cache. [pool] */
MUST_USE enum err file_load(struct file *f, uint64_t offset, size_t size);
/* Data and size on stable storage. A failure is final: never retry, take the file out of use. */
MUST_USE enum err file_sync(struct file *f, struct errmsg *why); /* [pool] */
/* Starts writing to the disk what file_sync() will wait for, so that the syncs of many files share
 * the disk's work. A hint: nothing is promised. [pool] */
void file_sync_begin(struct file *f);
/* Everything that was written to the file system on which `f` lies is on stable storage, names
 * included; whatever could not be written there since `f` was opened is an error, which says no
 * more than that. One of these costs less than the syncs of many files. ERR_NOT_FOUND: there is no
 * such thing here, or it would keep errors to itself. [pool] */
MUST_USE enum err file_sync_all(struct file *f, struct errmsg *why);
/* Gives back what was preallocated beyond file_size() and unmaps the tail. [pool] */
MUST_USE enum err file_trim(struct file *f, struct errmsg *why);
/* Cuts to `size`, which must not have been published beyond [H10]. [pool] */
MUST_USE enum err file_truncate(struct file *f, uint64_t size, struct errmsg *why);
/* Reads a whole small file, at most `size_max`, into malloc'ed memory. [pool] */
MUST_USE enum err file_slurp(struct env *env, const char *path, size_t size_max, uint8_t **out,
                             size_t *size, struct errmsg *why);
/* Writes path.tmp, syncs it, renames it over path and syncs the directory. [pool] */
MUST_USE enum err file_replace(struct env *env, const char *path, const void *p, size_t size,
                               struct errmsg *why);

MUST_USE enum err disk_mkdir(struct env *env, const char *path,
                             struct errmsg *why); /* and parents */
MUST_USE enum err disk_rename(struct env *env, const char *from, const char *to,
                              struct errmsg *why);
MUST_USE enum err disk_unlink(struct env *env, const char *path, struct errmsg *why);
MUST_USE enum err disk_rmdir(struct env *env, const char *path, struct errmsg *why); /* if empty */
MUST_USE enum err disk_remove_tree(struct env *env, const char *path, struct errmsg *why);
MUST_USE enum err dir_sync(struct env *env, const char *path, struct errmsg *why);
/* Calls fn for each entry but "." and "..", sorted by name. */
MUST_USE enum err dir_list(struct env *env, const char *path,
                           void (*fn)(void *ctx, const struct dir_entry *e), void *ctx,
                           struct errmsg *why);
MUST_USE enum err disk_space(struct env *env, const char *path, struct disk_space *out,
                             struct errmsg *why);
/* An exclusive lock on the file for the life of the process; ERR_EXISTS when another holds it. */
MUST_USE enum err disk_lock(struct env *env, const char *path, struct file **out,
                            struct errmsg *why);

/* ---- what an implementation brings ---- */

struct env_ops {
    uint64_t (*now_ns)(struct env *env);
    int64_t (*unix_ms)(struct env *env);
    void (*random)(struct env *env, void *out, size_t size);
    void (*mutex_init)(struct mutex *m);
    void (*mutex_deinit)(struct mutex *m);
    void (*mutex_lock)(struct mutex *m);
    void (*mutex_unlock)(struct mutex *m);
    enum err (*loop_new)(struct env *env, const char *name,
                         void (*on_start)(struct loop *loop, void *ctx), void *ctx,
                         struct loop **out, struct errmsg *why);
    void (*pool_submit)(struct env *env, enum job_class class, struct job *j);
};

struct loop_ops {
    void (*stop)(struct loop *loop);
    void (*post)(struct loop *loop, struct message *m);
    uint64_t (*now_ns)(const struct loop *loop);
    void (*on_turn_end)(struct loop *loop, void (*fn)(void *ctx), void *ctx);
    uint64_t (*turn_began_ns)(const struct loop *loop);
    void (*timer_init)(struct loop_timer *t);
    void (*timer_set)(struct loop_timer *t, uint64_t deadline_ns);
    void (*timer_stop)(struct loop_timer *t);
    bool (*timer_is_set)(const struct loop_timer *t);
    enum err (*listen)(struct loop *loop, const struct listen_options *o, struct listener **out,
                       struct errmsg *why);
    void (*connect)(struct loop *loop, struct connecting *c);
    void (*connect_cancel)(struct loop *loop, struct connecting *c);
};

struct listener {
    const struct listener_ops *ops;
};

struct listener_ops {
    int (*port)(const struct listener *l);
    void (*pause)(struct listener *l, bool paused);
    void (*close)(struct listener *l);
};

struct stream_ops {
    void (*attach)(struct stream *s);
    void (*want)(struct stream *s, unsigned events);
    enum err (*read)(struct stream *s, void *p, size_t size, size_t *n_read);
    enum err (*send)(struct stream *s, struct ioqueue *q);
    const char *(*peer)(const struct stream *s);
    const char *(*peer_host)(const struct stream *s);
    void (*close)(struct stream *s);
};

struct file_ops;
struct file {
    const struct file_ops *ops;
    struct env *env;
};

struct disk_ops {
    enum err (*open)(struct env *env, const char *path, unsigned flags, struct file **out,
                     struct errmsg *why);
    enum err (*mkdir)(struct env *env, const char *path, struct errmsg *why);
    enum err (*rename)(struct env *env, const char *from, const char *to, struct errmsg *why);
    enum err (*unlink)(struct env *env, const char *path, struct errmsg *why);
    enum err (*rmdir)(struct env *env, const char *path, struct errmsg *why);
    enum err (*dir_sync)(struct env *env, const char *path, struct errmsg *why);
    enum err (*dir_list)(struct env *env, const char *path,
                         void (*fn)(void *ctx, const struct dir_entry *e), void *ctx,
                         struct errmsg *why);
    enum err (*space)(struct env *env, const char *path, struct disk_space *out,
                      struct errmsg *why);
    enum err (*lock)(struct env *env, const char *path, struct file **out, struct errmsg *why);
};

struct file_ops {
    void (*ref)(struct file *f);
    void (*unref)(struct file *f);
    uint64_t (*size)(const struct file *f);
    enum err (*ready)(struct file *f, uint64_t end, struct errmsg *why);
    uint64_t (*ready_end)(const struct file *f);
    enum err (*write)(struct file *f, uint64_t offset, const void *p, size_t size,
                      struct errmsg *why);
    enum err (*view)(struct file *f, uint64_t offset, size_t size, struct iobuf **out);
    enum err (*read)(struct file *f, uint64_t offset, void *p, size_t size, size_t *n_read);
    bool (*resident)(struct file *f, uint64_t offset, size_t size);
    enum err (*load)(struct file *f, uint64_t offset, size_t size);
    enum err (*sync)(struct file *f, struct errmsg *why);
    void (*sync_begin)(struct file *f);                       /* may be NULL */
    enum err (*sync_all)(struct file *f, struct errmsg *why); /* may be NULL */
    enum err (*trim)(struct file *f, struct errmsg *why);
    enum err (*truncate)(struct file *f, uint64_t size, struct errmsg *why);
    /* For stream_send of the same implementation: a descriptor, or -1 (the simulator's). */
    int (*descriptor)(struct file *f);
};

#endif
