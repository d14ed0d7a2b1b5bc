/* Finding and opening the partitions of a directory at start. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/clean_state.h"
#include "storage/log_manager.h"

#define CLEAN_STATE_BYTES_MAX ((size_t)1 << 30)
#define METADATA_BYTES_MAX    ((size_t)4 << 10)
#define PROGRESS_NS           UINT64_C(1000000000)

bool folder_name_parse(const char *name, struct log_identity *out)
{
    const char *dash = strrchr(name, '-');
    int32_t partition;

    if (dash == NULL || dash == name || (size_t)(dash - name) >= sizeof out->topic ||
        strspn(dash + 1, "0123456789") != strlen(dash + 1) ||
        !parse_int32(str_from(dash + 1), &partition))
        return false;
    *out = (struct log_identity){.partition = partition};
    memcpy(out->topic, name, (size_t)(dash - name));
    return true;
}

/* Logs of Kafka's own coordinators: nothing of ours, and left as they are. */
static bool is_internal(const struct log_identity *id)
{
    static const char *const names[] = {"__consumer_offsets", "__transaction_state",
                                        "__cluster_metadata", "__share_group_state",
                                        "__remote_log_metadata"};

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(id->topic, names[i]) == 0)
            return true;
    }
    return false;
}

/* ---- what the checkpoints say ---- */

enum { CHECK_RECOVERY, CHECK_REPLICATION, CHECK_START, CHECK_KINDS };

struct checked {
    struct hmap_node node;
    int64_t offsets[CHECK_KINDS]; /* -1: nothing */
    char folder[];
};

struct checks {
    struct log_dir *dir;
    struct hmap by_folder;
    int kind; /* being read */
};

static struct checked *check_find(const struct checks *c, const char *folder)
{
    uint64_t hash = hmap_hash(&c->by_folder, folder, strlen(folder));

    for (struct hmap_node *n = hmap_first_with_hash(&c->by_folder, hash); n != NULL;
         n = hmap_next_with_hash(n)) {
        struct checked *k = CONTAINER_OF(n, struct checked, node);

        if (strcmp(k->folder, folder) == 0)
            return k;
    }
    return NULL;
}

static bool check_line(void *ctx, struct str line)
{
    struct checks *c = ctx;
    char folder[300];
    struct str topic;
    int32_t partition;
    int64_t offset;

    if (!checkpoint_line_offset(line, &topic, &partition, &offset) || offset < 0 ||
        topic.len >= 250)
        return false;
    (void)snprintf(folder, sizeof folder, "%.*s-%d", STR_ARG(topic), partition);

    struct checked *k = check_find(c, folder);

    if (k == NULL) {
        size_t size = strlen(folder) + 1;

        k = xmalloc(sizeof *k + size);
        for (int i = 0; i < CHECK_KINDS; i++)
            k->offsets[i] = -1;
        memcpy(k->folder, folder, size);
        hmap_insert(&c->by_folder, &k->node, hmap_hash(&c->by_folder, folder, size - 1));
    }
    k->offsets[c->kind] = offset;
    return true;
}

/* A checkpoint is a hint: what cannot be read makes the start longer, not wrong. */
static void read_checkpoint(struct checks *c, int kind, const char *name)
{
    char path[LOG_PATH_MAX];
    struct errmsg why = {""};
    uint8_t *p;
    size_t size;

    (void)log_dir_path(c->dir, name, path);

    enum err e = file_slurp(c->dir->env, path, CHECKPOINT_BYTES_MAX, &p, &size, &why);

    if (e == ERR_NOT_FOUND)
        return;
    if (e == ERR_NONE) {
        c->kind = kind;
        e = checkpoint_parse(p, size, check_line, c, &why);
        free(p);
    }
    if (e != ERR_NONE)
        log_warn(c->dir->logger, "storage", "%s: %s; its other entries are used", path, why.text);
}

static void checks_init(struct checks *c, struct log_dir *d)
{
    c->dir = d;
    hmap_init(&c->by_folder, env_random_u64(d->env));
    read_checkpoint(c, CHECK_RECOVERY, FILE_RECOVERY);
    read_checkpoint(c, CHECK_REPLICATION, FILE_REPLICATION);
    read_checkpoint(c, CHECK_START, FILE_START_OFFSETS);
}

static void checks_deinit(struct checks *c)
{
    for (struct hmap_node *n; (n = hmap_begin(&c->by_folder)) != NULL;) {
        hmap_remove(&c->by_folder, n);
        free(CONTAINER_OF(n, struct checked, node));
    }
    hmap_deinit(&c->by_folder);
}

static int64_t checked_offset(const struct checks *c, const char *folder, int kind)
{
    const struct checked *k = check_find(c, folder);

    return k != NULL ? k->offsets[kind] : -1;
}

/* ---- opening a directory ---- */

struct opening {
    struct log_manager *manager;
    struct loop *loop;
    struct message *done;
    atomic_int jobs_left;
    uint64_t began_ns;
    _Atomic uint64_t reported_ns;
};

struct dir_opening {
    struct opening *opening;
    struct log_dir *dir;
    struct job job; /* the survey; then freed by the last worker */
    struct checks checks;
    char **folders; /* that must be recovered */
    size_t folder_count, folder_capacity;
    _Atomic size_t next;
    atomic_int workers_left;
    atomic_int recovered;
    size_t clean_count;
};

struct worker {
    struct job job;
    struct dir_opening *dir;
};

static void job_ended(struct opening *o)
{
    if (atomic_fetch_sub(&o->jobs_left, 1) != 1)
        return;

    struct log_manager *m = o->manager;

    log_info(m->logger, "storage", "%d partitions open after %llu ms", (int)m->by_id.count,
             (unsigned long long)((env_now_ns(m->env) - o->began_ns) / 1000000u));
    loop_post(o->loop, o->done);
    free(o);
    log_manager_unref(m);
}

static void dir_ended(struct dir_opening *d)
{
    for (size_t i = 0; i < d->folder_count; i++)
        free(d->folders[i]);
    free(d->folders);
    checks_deinit(&d->checks);

    struct opening *o = d->opening;

    free(d);
    job_ended(o);
}

static void say_progress(struct dir_opening *d)
{
    struct opening *o = d->opening;
    uint64_t now = env_now_ns(d->dir->env), last = atomic_load(&o->reported_ns);

    if (now - last < PROGRESS_NS || !atomic_compare_exchange_strong(&o->reported_ns, &last, now))
        return;
    log_info(d->dir->logger, "storage", "%s: %d of %zu partitions recovered", d->dir->path,
             atomic_load(&d->recovered), d->folder_count);
}

/* Zeros, or the front of an identity and zeros: it was being written, and was not synced, when the
 * power failed. */
static bool is_unfinished(const uint8_t *p, size_t size)
{
    struct text t = {.ptr = NULL};
    struct uuid none = {{0}};
    size_t written = strnlen((const char *)p, size), known;

    for (size_t i = written; i < size; i++) {
        if (p[i] != 0)
            return false;
    }
    partition_metadata_format(&t, &none);
    known = MIN(written, t.size - (UUID_TEXT_SIZE - 1));

    bool unfinished = written < t.size && memcmp(p, t.ptr, known) == 0;

    text_deinit(&t);
    return unfinished;
}

static void look_for_records(void *ctx, const struct dir_entry *e)
{
    int64_t ignored;

    if (!e->is_dir && e->size_bytes > 0 && segment_name_offset(e->name, ".log", &ignored))
        *(bool *)ctx = true;
}

/* The topic id that the folder says; ERR_NOT_FOUND, ERR_MALFORMED: it cannot be told whose it is.
 * *blank: nothing was ever written there, or it did not survive. */
static enum err read_identity(struct log_dir *d, const char *folder, struct log_identity *id,
                              bool *blank, struct errmsg *why)
{
    char path[LOG_PATH_MAX], name[320];
    struct errmsg what = {""};
    uint8_t *p;
    size_t size;

    *blank = true;
    (void)snprintf(name, sizeof name, "%s/partition.metadata", folder);
    (void)log_dir_path(d, name, path);

    enum err e = file_slurp(d->env, path, METADATA_BYTES_MAX, &p, &size, &what);

    if (e == ERR_NOT_FOUND) {
        errmsg_set(why, "%s: is missing", path);
        return e;
    }
    *blank = false;
    if (e == ERR_NONE) {
        *blank = is_unfinished(p, size);
        e = partition_metadata_parse(p, size, &id->topic_id, &what);
        free(p);
    }
    if (e != ERR_NONE)
        errmsg_set(why, "%s: %s", path, what.text);
    return e;
}

/* A folder that cannot tell whose it is. It held records if a checkpoint names it, or if it has
 * some and a name was written once: then nothing else takes its name. Records under a name that
 * never reached the disk, and that no checkpoint knows, were lost together with it. */
static void note_unnamed(struct dir_opening *d, const char *folder, const struct log_identity *id,
                         bool blank, const struct errmsg *why)
{
    struct unnamed *u = xcalloc(1, sizeof *u);
    struct log_manager *m = d->dir->manager;
    char path[LOG_PATH_MAX];
    struct errmsg ignored;
    bool records = false;

    *u = (struct unnamed){.dir = d->dir, .id = *id, .why = *why};
    u->recovery_point = MAX(checked_offset(&d->checks, folder, CHECK_RECOVERY), (int64_t)0);
    u->start_offset = MAX(checked_offset(&d->checks, folder, CHECK_START), (int64_t)0);
    (void)log_dir_path(d->dir, folder, path);
    if (dir_list(d->dir->env, path, look_for_records, &records, &ignored) != ERR_NONE)
        records = true;
    u->held_records = u->recovery_point > 0 || u->start_offset > 0 || (records && !blank);
    log_error(d->dir->logger, "storage", "%s is left as it is and not served: %s", folder,
              why->text);
    mutex_lock(&m->lock);
    list_push_back(&m->unnamed, &u->node);
    mutex_unlock(&m->lock);
}

/* Nothing says that the folder's identity was ever synced: it is written once more, so that the
 * next sync is certain to write it (after one that failed the page cache alone may have it), and
 * the log's durable end waits for that (D3). */
static void renew_identity(struct log *l)
{
    struct text t = {.ptr = NULL};
    char path[LOG_PATH_MAX];
    struct errmsg why = {""};
    struct file *f;

    log_path(l, "partition.metadata", path);

    enum err e = file_open(l->env, path, 0, &f, &why);

    if (e == ERR_NONE) {
        partition_metadata_format(&t, &l->id.topic_id);
        e = file_write(f, 0, t.ptr, t.size, &why);
        file_unref(f);
        text_deinit(&t);
    }
    if (e != ERR_NONE)
        log_set_offline(l, "%s", why.text);
    l->metadata_dirty = l->directory_dirty = true;
    l->folder_number = atomic_fetch_add(&l->dir->folders_made, 1) + 1;
}

static void recover_folder(struct dir_opening *d, const char *folder)
{
    struct log_manager *m = d->dir->manager;
    struct errmsg why = {""};
    struct log_identity id;
    bool blank;

    if (!folder_name_parse(folder, &id))
        return;
    if (read_identity(d->dir, folder, &id, &blank, &why) != ERR_NONE) {
        note_unnamed(d, folder, &id, blank, &why);
        return;
    }

    struct log *l = log_new(d->dir, &id, &m->options.default_config);
    int64_t recovery_point = checked_offset(&d->checks, folder, CHECK_RECOVERY);
    int64_t start = checked_offset(&d->checks, folder, CHECK_START);

    l->checkpointed_high_watermark = checked_offset(&d->checks, folder, CHECK_REPLICATION);
    log_recover(l, MAX(recovery_point, (int64_t)0), MAX(start, (int64_t)0));
    if (recovery_point <= 0 && start <= 0 && log_offline_reason(l) == NULL)
        renew_identity(l);
    log_manager_insert(m, l);

    int64_t most = m->options.open_logs_max / m->dir_count;

    if (most > 0 && atomic_load(&d->recovered) >= most)
        log_close_files(l); /* whose tail is unsynced: a descriptor that nothing else would free */
}

static void run_worker(struct job *j)
{
    struct worker *w = CONTAINER_OF(j, struct worker, job);
    struct dir_opening *d = w->dir;

    for (;;) {
        size_t i = atomic_fetch_add(&d->next, 1);

        if (i >= d->folder_count)
            break;
        recover_folder(d, d->folders[i]);
        atomic_fetch_add(&d->recovered, 1);
        say_progress(d);
    }
    free(w);
    if (atomic_fetch_sub(&d->workers_left, 1) == 1)
        dir_ended(d);
}

/* ---- the survey ---- */

struct survey {
    struct dir_opening *d;
    struct clean_reader clean;
    uint8_t *clean_bytes; /* NULL: none to trust */
};

static void push_folder(struct dir_opening *d, const char *name)
{
    if (d->folder_count == d->folder_capacity) {
        d->folder_capacity = MAX(d->folder_capacity * 2, (size_t)64);
        d->folders = xrealloc(d->folders, d->folder_capacity * sizeof(char *));
    }
    d->folders[d->folder_count++] = xstrdup(name);
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);

    return n > m && strcmp(name + n - m, suffix) == 0;
}

/* TOPIC-N.<32 hex digits>-delete, as log_dir_set_folder_aside() names it (a long topic is cut), and
 * Kafka. What else an operator calls -delete is his. */
static bool is_deleted(const char *name)
{
    static const char suffix[] = "-delete";
    size_t n = strlen(name), tail = 33 + sizeof suffix - 1;

    return n > tail && ends_with(name, suffix) && name[n - tail] == '.' &&
           strspn(name + n - tail + 1, "0123456789abcdef") >= 32;
}

/* The clean state has its entries in the order of folder names, as the listing has. */
static bool open_clean(struct survey *s, const char *folder)
{
    struct dir_opening *d = s->d;
    struct log_identity id;
    char name[288];

    while (clean_reader_peek(&s->clean, &id)) {
        (void)snprintf(name, sizeof name, "%s-%d", id.topic, id.partition);

        int order = strcmp(name, folder);

        if (order > 0)
            return false;
        if (order < 0) {
            log_error(d->dir->logger, "storage", "%s: the folder %s is gone", d->dir->path, name);
            clean_reader_skip(&s->clean);
            continue;
        }

        struct log *l = log_new(d->dir, &id, &d->dir->manager->options.default_config);

        l->checkpointed_high_watermark = checked_offset(&d->checks, folder, CHECK_REPLICATION);
        if (!clean_reader_next(&s->clean, l)) {
            log_unref(l);
            return false;
        }
        log_manager_insert(d->dir->manager, l);
        d->clean_count++;
        return true;
    }
    return false;
}

static void survey_entry(void *ctx, const struct dir_entry *e)
{
    struct survey *s = ctx;
    struct dir_opening *d = s->d;
    struct log_identity id;
    char path[LOG_PATH_MAX];

    if (!e->is_dir)
        return;
    if (is_deleted(e->name)) { /* of a topic with many partitions it takes seconds */
        if (log_dir_path(d->dir, e->name, path))
            log_manager_remove_later(d->dir->manager, path, 0);
        return;
    }
    if (ends_with(e->name, "-stray") || ends_with(e->name, "-delete") ||
        !folder_name_parse(e->name, &id))
        return;
    if (is_internal(&id)) {
        log_info(d->dir->logger, "storage", "%s/%s: Kafka's internal log is left untouched",
                 d->dir->path, e->name);
        return;
    }
    if (!open_clean(s, e->name))
        push_folder(d, e->name);
}

/* D2: the marker goes, durably, before anything is written. */
static enum err take_marker(struct survey *s, struct errmsg *why)
{
    struct log_dir *d = s->d->dir;
    char path[LOG_PATH_MAX];
    size_t size;
    enum err e = ERR_NONE;

    (void)log_dir_path(d, FILE_CLEAN_STATE, path);
    if (d->clean &&
        file_slurp(d->env, path, CLEAN_STATE_BYTES_MAX, &s->clean_bytes, &size, why) == ERR_NONE &&
        !clean_reader_init(&s->clean, s->clean_bytes, size))
        log_warn(d->logger, "storage", "%s: cannot be used; every partition is looked at", path);
    e = disk_unlink(d->env, path, why);
    if (e == ERR_NONE || e == ERR_NOT_FOUND) {
        (void)log_dir_path(d, FILE_CLEAN_MARKER, path);
        e = disk_unlink(d->env, path, why);
    }
    if (e == ERR_NOT_FOUND)
        e = ERR_NONE;
    return e == ERR_NONE ? dir_sync(d->env, d->path, why) : e;
}

static void start_workers(struct dir_opening *d)
{
    int count = MAX(d->dir->manager->options.recovery_threads_per_dir, 1);

    count = (int)MIN((size_t)count, d->folder_count);
    if (count == 0) {
        dir_ended(d);
        return;
    }
    atomic_store(&d->workers_left, count);
    for (int i = 0; i < count; i++) {
        struct worker *w = xcalloc(1, sizeof *w);

        w->dir = d;
        w->job.work = run_worker;
        env_pool_submit(d->dir->env, JOB_LONG, &w->job);
    }
}

static void run_survey(struct job *j)
{
    struct dir_opening *d = CONTAINER_OF(j, struct dir_opening, job);
    struct survey s = {.d = d};
    struct errmsg why = {""};
    bool clean = d->dir->clean;

    checks_init(&d->checks, d->dir);

    enum err e = take_marker(&s, &why);

    if (e == ERR_NONE)
        e = dir_list(d->dir->env, d->dir->path, survey_entry, &s, &why);
    free(s.clean_bytes);
    if (e != ERR_NONE)
        log_dir_set_offline(d->dir, why.text);
    log_info(d->dir->logger, "storage", "%s: %s, %zu partitions as they were left, %zu to look at",
             d->dir->path, clean ? "stopped cleanly" : "not stopped cleanly", d->clean_count,
             d->folder_count);
    start_workers(d);
}

void log_manager_open_all(struct log_manager *m, struct loop *loop, struct message *done)
{
    struct opening *o = xcalloc(1, sizeof *o);

    o->manager = m;
    o->loop = loop;
    o->done = done;
    o->began_ns = env_now_ns(m->env);
    atomic_store(&o->reported_ns, o->began_ns);
    atomic_store(&o->jobs_left, 1); /* this function's own */
    log_manager_ref(m);
    for (int i = 0; i < m->dir_count; i++) {
        if (atomic_load(&m->dirs[i].offline) != NULL)
            continue;

        struct dir_opening *d = xcalloc(1, sizeof *d);

        d->opening = o;
        d->dir = &m->dirs[i];
        d->job.work = run_survey;
        atomic_fetch_add(&o->jobs_left, 1);
        env_pool_submit(m->env, JOB_LONG, &d->job);
    }
    job_ended(o);
}
