/* raft-meta/raft_space.c -- see raft_space.h. */
#include "raft-meta/raft_space.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES_MAX 4096
#define CHECK_EVERY_NS 100000000u
#define SEGMENTS_BYTES (3u << 23) /* the open segment and those that raft_uv makes ahead */
#define LAST_BYTES     (4u << 20) /* kept for what makes room: deletions, fencing */
#define BALLAST_STEP   (1u << 20)

struct raft_space {
    struct env *env;
    struct logger *logger;
    char dir[PATH_BYTES_MAX], path[PATH_BYTES_MAX];
    uint64_t ballast_bytes;
    uint64_t checked_ns, free_bytes;
    bool has_ballast, writing, closing, was_low;
    enum err write_error;
    struct job job;
};

/* ---- the ballast ---- */

static void work_write(struct job *j)
{
    struct raft_space *s = CONTAINER_OF(j, struct raft_space, job);
    struct file *f = NULL;
    struct errmsg why;
    uint8_t *zeros = xcalloc(1, BALLAST_STEP);

    s->write_error = file_open(s->env, s->path, FILE_CREATE, &f, &why);
    for (uint64_t at = s->write_error == ERR_NONE ? file_size(f) : 0;
         s->write_error == ERR_NONE && at < s->ballast_bytes;) {
        size_t size = (size_t)MIN((uint64_t)BALLAST_STEP, s->ballast_bytes - at);

        s->write_error = file_write(f, at, zeros, size, &why);
        at += size;
    }
    if (f != NULL)
        file_unref(f);
    if (s->write_error != ERR_NONE && disk_unlink(s->env, s->path, &why) != ERR_NONE)
        s->write_error = ERR_IO;
    free(zeros);
}

static void on_written(struct job *j)
{
    struct raft_space *s = CONTAINER_OF(j, struct raft_space, job);

    s->writing = false;
    s->has_ballast = s->write_error == ERR_NONE;
    if (s->closing)
        free(s);
}

static void write_ballast(struct raft_space *s)
{
    s->writing = true;
    env_pool_submit(s->env, JOB_LONG, &s->job);
}

struct raft_space *raft_space_new(struct env *env, struct loop *loop, struct logger *logger,
                                  const char *dir, int64_t ballast_bytes)
{
    struct raft_space *s = xcalloc(1, sizeof *s);

    s->env = env;
    s->logger = logger;
    s->ballast_bytes = ballast_bytes > 0 ? (uint64_t)ballast_bytes : 0;
    (void)snprintf(s->dir, sizeof s->dir, "%s", dir);
    (void)snprintf(s->path, sizeof s->path, "%s/fluxmq-raft.ballast", dir);
    s->job = (struct job){.work = work_write, .done = on_written, .report_to = loop};
    if (s->ballast_bytes > 0)
        write_ballast(s);
    return s;
}

void raft_space_free(struct raft_space *s)
{
    s->closing = true;
    if (!s->writing)
        free(s);
}

/* ---- judging ---- */

static bool look(struct raft_space *s)
{
    struct disk_space d;
    struct errmsg why;

    if (disk_space(s->env, s->dir, &d, &why) != ERR_NONE)
        return false;
    s->free_bytes = d.free_bytes;
    s->checked_ns = env_now_ns(s->env);
    return true;
}

static void release_ballast(struct raft_space *s)
{
    struct errmsg why;

    if (!s->has_ballast)
        return;
    s->has_ballast = false;
    if (disk_unlink(s->env, s->path, &why) == ERR_NONE)
        log_warn(s->logger, "raft",
                 "the disk of %s is nearly full: gave up the ballast of %" PRIu64 " bytes", s->dir,
                 s->ballast_bytes);
    (void)look(s);
}

static void note_low(struct raft_space *s, bool low)
{
    if (low && !s->was_low)
        log_error(s->logger, "raft",
                  "the disk of %s is full (%" PRIu64 " bytes free): metadata changes are refused "
                  "until there is room; deleting topics still works",
                  s->dir, s->free_bytes);
    if (!low && s->was_low)
        log_info(s->logger, "raft", "the disk of %s has room again", s->dir);
    s->was_low = low;
}

enum raft_room raft_space_check(struct raft_space *s, size_t entry_bytes, size_t snapshot_bytes)
{
    uint64_t need = SEGMENTS_BYTES + LAST_BYTES + 2 * (uint64_t)snapshot_bytes + 2 * entry_bytes;
    bool stale = s->checked_ns == 0 || env_now_ns(s->env) - s->checked_ns > CHECK_EVERY_NS ||
                 entry_bytes > (256u << 10) || s->was_low;

    if (stale && !look(s))
        return ROOM_ENOUGH; /* what cannot be asked is found out by writing */
    if (s->free_bytes < need)
        release_ballast(s);
    note_low(s, s->free_bytes < need);
    if (s->free_bytes >= need) {
        if (!s->has_ballast && !s->writing && s->ballast_bytes > 0 &&
            s->free_bytes > need + 4 * s->ballast_bytes)
            write_ballast(s);
        return ROOM_ENOUGH;
    }
    return s->free_bytes >= LAST_BYTES + 2 * entry_bytes ? ROOM_RESERVED : ROOM_NONE;
}
