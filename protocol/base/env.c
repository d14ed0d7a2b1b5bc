#include "protocol/base/env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES_MAX 4096

uint64_t env_now_ns(struct env *env)
{
    return env->ops->now_ns(env);
}

int64_t env_unix_ms(struct env *env)
{
    return env->ops->unix_ms(env);
}

void env_random(struct env *env, void *out, size_t size)
{
    env->ops->random(env, out, size);
}

uint64_t env_random_u64(struct env *env)
{
    uint64_t v;

    env->ops->random(env, &v, sizeof v);
    return v;
}

void mutex_init(struct mutex *m, struct env *env)
{
    m->env = env;
    env->ops->mutex_init(m);
}

void mutex_deinit(struct mutex *m)
{
    m->env->ops->mutex_deinit(m);
}

void mutex_lock(struct mutex *m) NO_LOCK_CHECK
{
    m->env->ops->mutex_lock(m);
}

void mutex_unlock(struct mutex *m) NO_LOCK_CHECK
{
    m->env->ops->mutex_unlock(m);
}

enum err env_loop_new(struct env *env, const char *name,
                      void (*on_start)(struct loop *loop, void *ctx), void *ctx, struct loop **out,
                      struct errmsg *why)
{
    return env->ops->loop_new(env, name, on_start, ctx, out, why);
}

void env_loop_stop(struct loop *loop)
{
    loop->ops->stop(loop);
}

void loop_post(struct loop *loop, struct message *m)
{
    loop->ops->post(loop, m);
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->ops->now_ns(loop);
}

void loop_on_turn_end(struct loop *loop, void (*fn)(void *ctx), void *ctx)
{
    loop->ops->on_turn_end(loop, fn, ctx);
}

uint64_t loop_turn_began_ns(const struct loop *loop)
{
    return loop->ops->turn_began_ns(loop);
}

void loop_timer_init(struct loop_timer *t, struct loop *loop, void (*fire)(struct loop_timer *t))
{
    t->loop = loop;
    t->fire = fire;
    loop->ops->timer_init(t);
}

void loop_timer_set(struct loop_timer *t, uint64_t deadline_ns)
{
    t->loop->ops->timer_set(t, deadline_ns);
}

void loop_timer_stop(struct loop_timer *t)
{
    t->loop->ops->timer_stop(t);
}

bool loop_timer_is_set(const struct loop_timer *t)
{
    return t->loop->ops->timer_is_set(t);
}

void env_pool_submit(struct env *env, enum job_class class, struct job *j)
{
    env->ops->pool_submit(env, class, j);
}

enum err env_listen(struct loop *loop, const struct listen_options *o, struct listener **out,
                    struct errmsg *why)
{
    return loop->ops->listen(loop, o, out, why);
}

int listener_port(const struct listener *l)
{
    return l->ops->port(l);
}

void listener_pause(struct listener *l, bool paused)
{
    l->ops->pause(l, paused);
}

void listener_close(struct listener *l)
{
    l->ops->close(l);
}

void loop_connect(struct loop *loop, struct connecting *c)
{
    c->loop = loop;
    loop->ops->connect(loop, c);
}

void loop_connect_cancel(struct connecting *c)
{
    if (c->attempt != NULL)
        c->loop->ops->connect_cancel(c->loop, c);
}

void stream_attach(struct stream *s, struct loop *loop,
                   void (*on_event)(struct stream *s, unsigned events), void *ctx)
{
    s->loop = loop;
    s->on_event = on_event;
    s->ctx = ctx;
    s->ops->attach(s);
}

void stream_want(struct stream *s, unsigned events)
{
    s->ops->want(s, events);
}

enum err stream_read(struct stream *s, void *p, size_t size, size_t *n_read)
{
    return s->ops->read(s, p, size, n_read);
}

enum err stream_send(struct stream *s, struct ioqueue *q)
{
    return s->ops->send(s, q);
}

const char *stream_peer(const struct stream *s)
{
    return s->ops->peer(s);
}

const char *stream_peer_host(const struct stream *s)
{
    return s->ops->peer_host(s);
}

void stream_close(struct stream *s)
{
    s->ops->close(s);
}

/* ---- the disk ---- */

enum err file_open(struct env *env, const char *path, unsigned flags, struct file **out,
                   struct errmsg *why)
{
    return env->disk->open(env, path, flags, out, why);
}

struct file *file_ref(struct file *f)
{
    f->ops->ref(f);
    return f;
}

void file_unref(struct file *f)
{
    f->ops->unref(f);
}

uint64_t file_size(const struct file *f)
{
    return f->ops->size(f);
}

enum err file_ready(struct file *f, uint64_t end, struct errmsg *why)
{
    return f->ops->ready(f, end, why);
}

uint64_t file_ready_end(const struct file *f)
{
    return f->ops->ready_end(f);
}

enum err file_write(struct file *f, uint64_t offset, const void *p, size_t size, struct errmsg *why)
{
    return f->ops->write(f, offset, p, size, why);
}

enum err file_view(struct file *f, uint64_t offset, size_t size, struct iobuf **out)
{
    return f->ops->view(f, offset, size, out);
}

enum err file_read(struct file *f, uint64_t offset, void *p, size_t size, size_t *n_read)
{
    return f->ops->read(f, offset, p, size, n_read);
}

bool file_resident(struct file *f, uint64_t offset, size_t size)
{
    return f->ops->resident(f, offset, size);
}

enum err file_load(struct file *f, uint64_t offset, size_t size)
{
    return f->ops->load(f, offset, size);
}

enum err file_sync(struct file *f, struct errmsg *why)
{
    return f->ops->sync(f, why);
}

void file_sync_begin(struct file *f)
{
    if (f->ops->sync_begin != NULL)
        f->ops->sync_begin(f);
}

enum err file_sync_all(struct file *f, struct errmsg *why)
{
    return f->ops->sync_all != NULL ? f->ops->sync_all(f, why) : ERR_NOT_FOUND;
}

enum err file_trim(struct file *f, struct errmsg *why)
{
    return f->ops->trim(f, why);
}

enum err file_truncate(struct file *f, uint64_t size, struct errmsg *why)
{
    return f->ops->truncate(f, size, why);
}

enum err file_slurp(struct env *env, const char *path, size_t size_max, uint8_t **out, size_t *size,
                    struct errmsg *why)
{
    struct file *f;
    enum err e = file_open(env, path, FILE_READ_ONLY, &f, why);

    if (e != ERR_NONE)
        return e;

    uint64_t want = file_size(f);

    if (want > size_max) {
        errmsg_set(why, "%s: %llu bytes, expected at most %zu", path, (unsigned long long)want,
                   size_max);
        file_unref(f);
        return ERR_TOO_LARGE;
    }

    uint8_t *p = xmalloc((size_t)want + 1);
    size_t got = 0;

    e = file_read(f, 0, p, (size_t)want, &got);
    file_unref(f);
    if (e != ERR_NONE) {
        errmsg_set(why, "%s: cannot be read", path);
        free(p);
        return e;
    }
    p[got] = 0; /* so that text can be parsed as a C string */
    *out = p;
    *size = got;
    return ERR_NONE;
}

/* "a/b/c" -> "a/b"; "c" -> "."; "/c" -> "/". */
static void parent_of(const char *path, char out[PATH_BYTES_MAX])
{
    const char *slash = strrchr(path, '/');

    if (slash == NULL)
        (void)snprintf(out, PATH_BYTES_MAX, ".");
    else if (slash == path)
        (void)snprintf(out, PATH_BYTES_MAX, "/");
    else
        (void)snprintf(out, PATH_BYTES_MAX, "%.*s", (int)(slash - path), path);
}

enum err file_replace(struct env *env, const char *path, const void *p, size_t size,
                      struct errmsg *why)
{
    char temporary[PATH_BYTES_MAX], parent[PATH_BYTES_MAX];
    struct file *f;

    if (snprintf(temporary, sizeof temporary, "%s.tmp", path) >= (int)sizeof temporary) {
        errmsg_set(why, "%s: the path is too long", path);
        return ERR_IO;
    }
    parent_of(path, parent);

    enum err e = file_open(env, temporary, FILE_CREATE | FILE_TRUNCATE, &f, why);

    if (e != ERR_NONE)
        return e;
    e = file_write(f, 0, p, size, why);
    if (e == ERR_NONE)
        e = file_sync(f, why);
    file_unref(f);
    if (e == ERR_NONE)
        e = disk_rename(env, temporary, path, why);
    if (e == ERR_NONE)
        e = dir_sync(env, parent, why);
    return e;
}

enum err disk_mkdir(struct env *env, const char *path, struct errmsg *why)
{
    return env->disk->mkdir(env, path, why);
}

enum err disk_rename(struct env *env, const char *from, const char *to, struct errmsg *why)
{
    return env->disk->rename(env, from, to, why);
}

enum err disk_unlink(struct env *env, const char *path, struct errmsg *why)
{
    return env->disk->unlink(env, path, why);
}

enum err disk_rmdir(struct env *env, const char *path, struct errmsg *why)
{
    return env->disk->rmdir(env, path, why);
}

enum err dir_sync(struct env *env, const char *path, struct errmsg *why)
{
    return env->disk->dir_sync(env, path, why);
}

enum err dir_list(struct env *env, const char *path,
                  void (*fn)(void *ctx, const struct dir_entry *e), void *ctx, struct errmsg *why)
{
    return env->disk->dir_list(env, path, fn, ctx, why);
}

struct removal {
    struct env *env;
    const char *path;
    struct errmsg *why;
    enum err err;
};

static void remove_entry(void *ctx, const struct dir_entry *e)
{
    struct removal *r = ctx;
    char path[PATH_BYTES_MAX];

    if (r->err != ERR_NONE)
        return;
    if (snprintf(path, sizeof path, "%s/%s", r->path, e->name) >= (int)sizeof path) {
        errmsg_set(r->why, "%s: a path below it is too long", r->path);
        r->err = ERR_IO;
        return;
    }
    r->err = e->is_dir ? disk_remove_tree(r->env, path, r->why) : disk_unlink(r->env, path, r->why);
}

enum err disk_remove_tree(struct env *env, const char *path, struct errmsg *why)
{
    struct removal r = {.env = env, .path = path, .why = why, .err = ERR_NONE};
    enum err e = dir_list(env, path, remove_entry, &r, why);

    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e != ERR_NONE)
        return e;
    if (r.err != ERR_NONE)
        return r.err;
    return disk_rmdir(env, path, why);
}

enum err disk_space(struct env *env, const char *path, struct disk_space *out, struct errmsg *why)
{
    return env->disk->space(env, path, out, why);
}

enum err disk_lock(struct env *env, const char *path, struct file **out, struct errmsg *why)
{
    return env->disk->lock(env, path, out, why);
}
