/* Whose a directory is: its lock, meta.properties, and what may be taken over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/log_manager.h"

#define META_BYTES_MAX ((size_t)64 << 10)
#define DIR_PATH_MAX   3000

static enum err read_meta(struct log_dir *d, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    struct errmsg detail = {""};
    uint8_t *p;
    size_t size;

    (void)log_dir_path(d, FILE_META, path);

    enum err e = file_slurp(d->env, path, META_BYTES_MAX, &p, &size, why);

    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e != ERR_NONE)
        return e;
    e = meta_properties_parse(p, size, &d->meta, &detail);
    free(p);
    if (e != ERR_NONE) {
        errmsg_set(why, "%s: %s", path, detail.text);
        return ERR_CONFIG;
    }
    d->has_meta = true;
    return ERR_NONE;
}

static enum err write_meta(struct log_dir *d, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    struct text t = {.ptr = NULL};

    (void)log_dir_path(d, FILE_META, path);
    meta_properties_format(&t, &d->meta);

    enum err e = file_replace(d->env, path, t.ptr, t.size, why);

    text_deinit(&t);
    return e;
}

/* What a directory holds, as far as it decides whether we may use it. */
struct survey {
    struct log_dir *dir;
    bool ours, clean;
    bool kafka_data;
    char example[256];
};

static void look_for_records(void *ctx, const struct dir_entry *e)
{
    bool *found = ctx;
    size_t n = strlen(e->name);

    if (!e->is_dir && n > 4 && strcmp(e->name + n - 4, ".log") == 0 && e->size_bytes > 0)
        *found = true;
}

/* `kafka-storage format` leaves a metadata log without records: that is no data. */
static bool holds_data(struct log_dir *d, const char *folder)
{
    char path[LOG_PATH_MAX];
    struct errmsg ignored;
    bool found = false;

    if (strcmp(folder, "__cluster_metadata-0") != 0)
        return true;
    if (!log_dir_path(d, folder, path) ||
        dir_list(d->env, path, look_for_records, &found, &ignored) != ERR_NONE)
        return true;
    return found;
}

static void survey_entry(void *ctx, const struct dir_entry *e)
{
    struct survey *s = ctx;
    struct log_identity id;

    if (strcmp(e->name, FILE_FORMAT) == 0)
        s->ours = true;
    else if (strcmp(e->name, FILE_CLEAN_MARKER) == 0)
        s->clean = true;
    else if (e->is_dir && !s->kafka_data && folder_name_parse(e->name, &id) &&
             holds_data(s->dir, e->name)) {
        s->kafka_data = true;
        (void)snprintf(s->example, sizeof s->example, "%s", e->name);
    }
}

static enum err check_meta(const struct log_manager *m, const struct log_dir *d, struct errmsg *why)
{
    if (d->meta.node_id >= 0 && d->meta.node_id != m->options.node_id) {
        errmsg_set(why, "%s/" FILE_META ": node.id: found %d, expected %d (this node)", d->path,
                   d->meta.node_id, m->options.node_id);
        return ERR_CONFIG;
    }
    if (d->meta.cluster_id[0] != '\0' && m->cluster_id[0] != '\0' &&
        strcmp(d->meta.cluster_id, m->cluster_id) != 0) {
        errmsg_set(why, "%s/" FILE_META ": cluster.id: found %s, expected %s", d->path,
                   d->meta.cluster_id, m->cluster_id);
        return ERR_CONFIG;
    }
    return ERR_NONE;
}

/* Gives the directory an identity where it has none: `kafka-storage format` may have. */
static enum err identify(struct log_dir *d, struct errmsg *why)
{
    bool changed = !d->has_meta || d->meta.version != 1 || d->meta.node_id < 0 ||
                   uuid_is_zero(&d->meta.directory_id);

    d->meta.version = 1;
    d->meta.node_id = d->manager->options.node_id;
    if (uuid_is_zero(&d->meta.directory_id)) {
        /* Random, version 4, as Kafka's; it must not begin with '-' where it is an argument. */
        env_random(d->env, d->meta.directory_id.b, sizeof d->meta.directory_id.b);
        d->meta.directory_id.b[0] &= 0x7f;
        d->meta.directory_id.b[6] = (uint8_t)((d->meta.directory_id.b[6] & 0x0f) | 0x40);
        d->meta.directory_id.b[8] = (uint8_t)((d->meta.directory_id.b[8] & 0x3f) | 0x80);
    }
    return changed ? write_meta(d, why) : ERR_NONE;
}

static enum err format(struct log_dir *d, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    enum err e = identify(d, why);

    if (e != ERR_NONE)
        return e;
    (void)log_dir_path(d, FILE_FORMAT, path);
    return file_replace(d->env, path, "version=1\n", strlen("version=1\n"), why);
}

/* A directory that was just made, and those above it that were made for it, are in their parents
 * for good. A parent that may not be opened is the operator's, who has made what lies in it. */
static void sync_parents(struct log_dir *d)
{
    char path[LOG_PATH_MAX];
    struct errmsg why;
    size_t n = strlen(d->path);

    memcpy(path, d->path, n + 1);
    while (n > 1) {
        while (n > 0 && path[n - 1] == '/')
            n--;
        while (n > 0 && path[n - 1] != '/')
            n--;
        (void)snprintf(path + n, sizeof path - n, "%s", n == 0 ? "." : "");
        if (dir_sync(d->env, path, &why) != ERR_NONE)
            log_info(d->logger, "storage", "%s", why.text);
    }
}

/* Makes it, takes its lock (D1) and reads whose it is. */
static enum err take_dir(struct log_dir *d, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    enum err e;

    if (strlen(d->path) > DIR_PATH_MAX) {
        errmsg_set(why, "log.dirs: a path of %zu bytes is too long", strlen(d->path));
        return ERR_CONFIG;
    }
    e = disk_mkdir(d->env, d->path, why);
    if (e != ERR_NONE)
        return e;
    (void)log_dir_path(d, FILE_LOCK, path);
    e = disk_lock(d->env, path, &d->lock_file, why);
    if (e == ERR_EXISTS)
        return ERR_IO; /* D1: another process has it: nothing is wrong with the configuration */
    if (e == ERR_NONE)
        e = read_meta(d, why);
    if (e == ERR_NONE && d->has_meta)
        e = check_meta(d->manager, d, why);
    if (e == ERR_NONE && !d->has_meta)
        sync_parents(d);
    return e;
}

enum err log_dir_open(struct log_dir *d, bool adopt, struct errmsg *why)
{
    struct log_manager *m = d->manager;
    struct survey s = {.dir = d};
    enum err e = take_dir(d, why);

    if (e == ERR_NONE)
        e = dir_list(m->env, d->path, survey_entry, &s, why);
    if (e != ERR_NONE)
        return e;
    if (s.kafka_data && !s.ours && !adopt) {
        errmsg_set(why,
                   "%s holds data that another program wrote (%s): found no " FILE_FORMAT
                   "; --adopt-log-dirs takes it over",
                   d->path, s.example);
        return ERR_CONFIG;
    }
    if (s.kafka_data && !s.ours && !s.clean) {
        errmsg_set(why,
                   "%s: found no " FILE_CLEAN_MARKER
                   ": only a cleanly stopped data directory can be adopted",
                   d->path);
        return ERR_CONFIG;
    }
    d->clean = s.clean;
    d->adopted = s.kafka_data && !s.ours;
    if (!s.ours)
        e = format(d, why);
    if (e == ERR_NONE && m->cluster_id[0] == '\0')
        (void)snprintf(m->cluster_id, sizeof m->cluster_id, "%s", d->meta.cluster_id);
    return e;
}

/* ---- metadata.log.dir ---- */

/* Takes the next name of a path off its front, passing over "." and repeated slashes. */
static struct str next_name(const char **path)
{
    for (;;) {
        *path += strspn(*path, "/");

        struct str name = {*path, (int32_t)strcspn(*path, "/")};

        *path += name.len;
        if (!str_eq_lit(name, "."))
            return name;
    }
}

/* Whether two spellings name one directory; links are not followed: who hides one behind a link
 * finds its lock taken. */
static bool same_path(const char *a, const char *b)
{
    struct str x, y;

    if ((*a == '/') != (*b == '/'))
        return false;
    do {
        x = next_name(&a);
        y = next_name(&b);
    } while (x.len > 0 && str_eq(x, y));
    return x.len == 0 && y.len == 0;
}

enum err log_manager_open_metadata_dir(struct log_manager *m, const char *path, struct errmsg *why)
{
    struct log_dir *d;

    m->metadata = &m->dirs[0];
    if (path == NULL)
        return ERR_NONE;
    for (int i = 0; i < m->dir_count; i++) {
        if (same_path(path, m->dirs[i].path)) {
            m->metadata = &m->dirs[i];
            return ERR_NONE;
        }
    }
    d = m->metadata = m->metadata_apart = xcalloc(1, sizeof *d);
    log_dir_init(d, m, -1, path);

    enum err e = take_dir(d, why);

    if (e == ERR_NONE)
        e = identify(d, why);
    if (e == ERR_NONE && m->cluster_id[0] == '\0')
        (void)snprintf(m->cluster_id, sizeof m->cluster_id, "%s", d->meta.cluster_id);
    return e;
}

const struct uuid *log_manager_metadata_directory_id(const struct log_manager *m)
{
    return &m->metadata->meta.directory_id;
}

struct file *log_manager_metadata_lock(const struct log_manager *m)
{
    return m->metadata->lock_file != NULL ? file_ref(m->metadata->lock_file) : NULL;
}

/* ---- what is noted in them ---- */

const char *log_manager_cluster_id(const struct log_manager *m)
{
    return m->cluster_id;
}

static enum err note_cluster_id(struct log_dir *d, struct errmsg *why)
{
    if (atomic_load(&d->offline) != NULL || d->meta.cluster_id[0] != '\0')
        return ERR_NONE;
    (void)snprintf(d->meta.cluster_id, sizeof d->meta.cluster_id, "%s", d->manager->cluster_id);
    return write_meta(d, why);
}

enum err log_manager_set_cluster_id(struct log_manager *m, const char *cluster_id,
                                    struct errmsg *why)
{
    enum err e = ERR_NONE;

    (void)snprintf(m->cluster_id, sizeof m->cluster_id, "%s", cluster_id);
    for (int i = 0; i < m->dir_count && e == ERR_NONE; i++)
        e = note_cluster_id(&m->dirs[i], why);
    return e == ERR_NONE ? note_cluster_id(m->metadata, why) : e;
}

/* In every directory, and a note in any counts: metadata.log.dir may be lost, or configured to be
 * another, and a voter that forgot what it voted for must not begin anew beside its own records. */
bool log_manager_had_raft_files(const struct log_manager *m)
{
    bool had = m->metadata->meta.raft_files;

    for (int i = 0; i < m->dir_count; i++)
        had = had || m->dirs[i].meta.raft_files;
    return had;
}

static enum err note_raft_files(struct log_dir *d, struct errmsg *why)
{
    if (d->meta.raft_files || atomic_load(&d->offline) != NULL)
        return ERR_NONE;
    d->meta.raft_files = true;
    return write_meta(d, why);
}

enum err log_manager_note_raft_files(struct log_manager *m, struct errmsg *why)
{
    enum err e = note_raft_files(m->metadata, why);

    for (int i = 0; i < m->dir_count && e == ERR_NONE; i++)
        e = note_raft_files(&m->dirs[i], why);
    return e;
}
