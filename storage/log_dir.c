#include "storage/log_dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/mutant.h"
#include "storage/log_manager.h"

#define SYNC_ROUND_MAX 128 /* logs that one syncer takes at once */

/* ---- references ---- */

void log_manager_ref(struct log_manager *m)
{
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
}

static void deinit_dir(struct log_dir *d)
{
    if (d->lock_file != NULL)
        file_unref(d->lock_file);
    free((char *)(uintptr_t)d->offline);
    free(d->path);
    mutex_deinit(&d->lock);
    mutex_deinit(&d->checkpoint_lock);
}

static void free_dirs(struct log_manager *m)
{
    for (int i = 0; i < m->dir_count; i++)
        deinit_dir(&m->dirs[i]);
    if (m->metadata_apart != NULL)
        deinit_dir(m->metadata_apart);
    free(m->metadata_apart);
    free(m->dirs);
}

void log_manager_unref(struct log_manager *m)
{
    if (atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (struct list_node *n; (n = list_pop_front(&m->removals)) != NULL;) {
        struct removal *r = list_entry(n, struct removal, node);

        free(r->path);
        free(r);
    }
    for (struct list_node *n; (n = list_pop_front(&m->unnamed)) != NULL;)
        free(list_entry(n, struct unnamed, node));
    free_dirs(m);
    hmap_deinit(&m->by_id);
    mutex_deinit(&m->lock);
    free(m);
}

/* ---- small things of a directory ---- */

bool log_dir_path(const struct log_dir *d, const char *name, char out[LOG_PATH_MAX])
{
    int n = snprintf(out, LOG_PATH_MAX, "%s/%s", d->path, name);

    return n > 0 && n < LOG_PATH_MAX;
}

int log_directory_index(const struct log_dir *d)
{
    return d->index;
}

void log_dir_set_offline(struct log_dir *d, const char *why)
{
    const char *none = NULL;
    char *copy = xstrdup(why);

    if (!atomic_compare_exchange_strong(&d->offline, &none, copy)) {
        free(copy);
        return;
    }
    log_error(d->logger, "storage", "log directory %s is offline: %s", d->path, why);

    /* Its logs are offline with it; each tells its owner. */
    size_t count;
    struct log **all = log_manager_all(d->manager, &count);

    for (size_t i = 0; i < count; i++) {
        if (all[i]->dir == d) {
            log_set_offline(all[i], "log directory %s: %s", d->path, why);
            mutex_lock(&all[i]->lock);
            log_want(all[i], LOG_WORK_REPORT_OFFLINE);
            mutex_unlock(&all[i]->lock);
            log_kick(all[i]);
        }
        log_unref(all[i]);
    }
    free(all);
}

void log_dir_no_space(struct log_dir *d)
{
    if (!atomic_exchange(&d->below_reserve, true))
        log_warn(d->logger, "storage", "log directory %s: no space left; appends are refused",
                 d->path);
}

void log_dir_crowded(struct log_dir *d)
{
    if (!atomic_exchange(&d->crowded, true))
        log_warn(
            d->logger, "storage",
            "log directory %s: the descriptor limit is reached: partitions that are not in use "
            "are closed, and others wait for it; raise it (ulimit -Hn, LimitNOFILE=)",
            d->path);
}

void log_dir_start_moved(struct log_dir *d)
{
    mutex_lock(&d->lock);
    d->starts_dirty = true;
    mutex_unlock(&d->lock);
}

int log_dir_io_begin(struct log_dir *d)
{
    struct log_manager *m = d->manager;
    uint64_t now = env_now_ns(d->env);

    for (int i = 0; i < IO_SLOTS; i++) {
        uint64_t none = 0;

        if (atomic_compare_exchange_strong(&m->io_began_ns[i], &none, MAX(now, (uint64_t)1)))
            return i;
    }
    return -1; /* more at once than slots: the oldest are in */
}

void log_dir_io_end(struct log_dir *d, int slot)
{
    if (slot >= 0)
        atomic_store(&d->manager->io_began_ns[slot], 0);
}

uint64_t log_manager_oldest_io_ns(const struct log_manager *m)
{
    uint64_t now = env_now_ns(m->env), oldest = 0;

    for (int i = 0; i < IO_SLOTS; i++) {
        uint64_t began = atomic_load(&m->io_began_ns[i]);

        if (began != 0 && now > began)
            oldest = MAX(oldest, now - began);
    }
    return oldest;
}

/* ---- the syncers: group commit without linger ---- */

struct sync_job {
    struct job job;
    struct log_dir *dir;
};

/* Takes who waits; the syncer ends when nobody does. */
static int take_round(struct log_dir *d, struct log *round[SYNC_ROUND_MAX])
{
    int count = 0;

    mutex_lock(&d->lock);
    for (struct list_node *n;
         count < SYNC_ROUND_MAX && (n = list_pop_front(&d->sync_queue)) != NULL;) {
        struct log *l = list_entry(n, struct log, sync_node);

        l->sync_queued = false; /* who asks from now on is not covered by this round */
        round[count++] = l;
    }
    if (count == 0)
        d->syncers--;
    mutex_unlock(&d->lock);
    return count;
}

static void run_syncer(struct job *j)
{
    struct sync_job *s = CONTAINER_OF(j, struct sync_job, job);
    struct log_dir *d = s->dir;
    struct log *round[SYNC_ROUND_MAX];

    for (int count; (count = take_round(d, round)) > 0;) {
        for (int i = 0; count > 1 && i < count; i++)
            log_sync_begin(round[i]);
        for (int i = 0; i < count; i++) {
            log_sync(round[i]);
            log_unref(round[i]);
        }
    }
    log_manager_unref(d->manager);
    free(s);
}

void log_dir_request_sync(struct log_dir *d, struct log *l)
{
    struct sync_job *s = NULL;

    mutex_lock(&d->lock);
    if (!l->sync_queued) {
        l->sync_queued = true;
        list_push_back(&d->sync_queue, &log_ref(l)->sync_node);
    }
    if (d->syncers < SYNCERS_PER_DIR) {
        d->syncers++;
        s = xcalloc(1, sizeof *s);
        s->dir = d;
        s->job.work = run_syncer;
        log_manager_ref(d->manager);
    }
    mutex_unlock(&d->lock);
    if (s != NULL)
        env_pool_submit(d->env, JOB_SHORT, &s->job);
}

/* ---- directories at start ---- */

void log_dir_init(struct log_dir *d, struct log_manager *m, int i, const char *path)
{
    d->manager = m;
    d->env = m->env;
    d->logger = m->logger;
    d->index = i;
    d->path = xstrdup(path);
    d->meta.node_id = -1;
    atomic_store(&d->space_epoch, 1);
    mutex_init(&d->checkpoint_lock, m->env);
    mutex_init(&d->lock, m->env);
    list_init(&d->sync_queue);
    list_init(&d->active);
}

enum err log_manager_new(const struct log_manager_options *o, bool adopt, struct log_manager **out,
                         struct errmsg *why)
{
    struct log_manager *m = xcalloc(1, sizeof *m);
    enum err e = ERR_NONE;
    int good = 0;

    m->refs = 1;
    m->env = o->env;
    m->logger = o->logger;
    m->options = *o;
    m->options.dirs = NULL;
    if (o->cluster_id != NULL)
        (void)snprintf(m->cluster_id, sizeof m->cluster_id, "%s", o->cluster_id);
    mutex_init(&m->lock, m->env);
    hmap_init(&m->by_id, env_random_u64(m->env));
    list_init(&m->unnamed);
    list_init(&m->removals);
    m->dirs = xcalloc((size_t)o->dir_count, sizeof *m->dirs);
    m->dir_count = o->dir_count;
    m->started_clean = true;
    for (int i = 0; i < o->dir_count; i++)
        log_dir_init(&m->dirs[i], m, i, o->dirs[i]);
    for (int i = 0; i < o->dir_count; i++) {
        struct log_dir *d = &m->dirs[i];

        e = log_dir_open(d, adopt, why);
        if (e == ERR_CONFIG)
            break;
        if (e != ERR_NONE)
            log_dir_set_offline(d, why->text); /* D5: the others serve */
        else
            good++;
        m->started_clean = m->started_clean && d->clean;
    }
    if (e != ERR_CONFIG) {
        enum err metadata = log_manager_open_metadata_dir(m, o->metadata_dir, why);

        if (metadata != ERR_NONE) {
            log_manager_unref(m);
            return metadata;
        }
    }
    if (e != ERR_CONFIG && good == 0)
        e = e == ERR_NONE ? ERR_CONFIG : e;
    else if (e != ERR_CONFIG)
        e = ERR_NONE;
    if (e != ERR_NONE) {
        log_manager_unref(m);
        return e;
    }
    *out = m;
    return ERR_NONE;
}

bool log_manager_started_clean(const struct log_manager *m)
{
    return m->started_clean;
}

/* ---- the table ---- */

static uint64_t hash_id(const struct log_manager *m, const struct uuid *topic_id, int32_t partition)
{
    uint8_t key[20];

    memcpy(key, topic_id->b, sizeof topic_id->b);
    store_be32(key + 16, (uint32_t)partition);
    return hmap_hash(&m->by_id, key, sizeof key);
}

static struct log *find_locked(struct log_manager *m, const struct uuid *topic_id,
                               int32_t partition) REQUIRES(m->lock)
{
    uint64_t hash = hash_id(m, topic_id, partition);

    for (struct hmap_node *n = hmap_first_with_hash(&m->by_id, hash); n != NULL;
         n = hmap_next_with_hash(n)) {
        struct log *l = CONTAINER_OF(n, struct log, by_id);

        if (l->id.partition == partition && uuid_eq(&l->id.topic_id, topic_id))
            return l;
    }
    return NULL;
}

struct log *log_manager_find(struct log_manager *m, const struct uuid *topic_id, int32_t partition)
{
    mutex_lock(&m->lock);
    struct log *l = find_locked(m, topic_id, partition);

    if (l != NULL)
        (void)log_ref(l);
    mutex_unlock(&m->lock);
    return l;
}

void log_manager_insert(struct log_manager *m, struct log *l)
{
    mutex_lock(&m->lock);
    hmap_insert(&m->by_id, &l->by_id, hash_id(m, &l->id.topic_id, l->id.partition));
    atomic_fetch_add(&l->dir->log_count, 1);
    mutex_unlock(&m->lock);
}

static int by_name_and_id(const struct log *x, const struct log *y)
{
    int c = strcmp(x->id.topic, y->id.topic);

    if (c == 0)
        c = (x->id.partition > y->id.partition) - (x->id.partition < y->id.partition);
    return c != 0 ? c : uuid_cmp(&x->id.topic_id, &y->id.topic_id);
}

static int by_name(const void *a, const void *b)
{
    const struct log *x = *(struct log *const *)a, *y = *(struct log *const *)b;
    int c = by_name_and_id(x, y);

    return c != 0 ? c : x->dir->index - y->dir->index;
}

struct log **log_manager_all(struct log_manager *m, size_t *count)
{
    mutex_lock(&m->lock);
    struct log **all = xmalloc((m->by_id.count + 1) * sizeof(struct log *));

    *count = 0;
    for (struct hmap_node *n = hmap_begin(&m->by_id); n != NULL; n = hmap_after(&m->by_id, n))
        all[(*count)++] = log_ref(CONTAINER_OF(n, struct log, by_id));
    mutex_unlock(&m->lock);
    if (*count > 0)
        qsort(all, *count, sizeof(struct log *), by_name);
    return all;
}

void log_manager_each(struct log_manager *m, void (*fn)(void *ctx, struct log *l), void *ctx)
{
    size_t count;
    struct log **all = log_manager_all(m, &count);

    for (size_t i = 0; i < count; i++) {
        fn(ctx, all[i]);
        log_unref(all[i]);
    }
    free(all);
}

/* ---- creating and deleting ---- */

static struct log_dir *emptiest(struct log_manager *m)
{
    struct log_dir *best = NULL;

    for (int i = 0; i < m->dir_count; i++) {
        struct log_dir *d = &m->dirs[i];

        if (atomic_load(&d->offline) == NULL &&
            (best == NULL || atomic_load(&d->log_count) < atomic_load(&best->log_count)))
            best = d;
    }
    return best;
}

void log_manager_remove_later(struct log_manager *m, const char *path, int64_t delay_ms)
{
    struct removal *r = xcalloc(1, sizeof *r);

    r->path = xstrdup(path);
    r->due_ns = env_now_ns(m->env) + (uint64_t)MAX(delay_ms, (int64_t)0) * 1000000u;
    mutex_lock(&m->lock);
    list_push_back(&m->removals, &r->node);
    mutex_unlock(&m->lock);
}

#define KEPT INT64_C(-1) /* instead of a delay */

void log_dir_set_folder_aside(struct log_dir *d, const char *folder, const char *suffix,
                              int64_t delay_ms)
{
    char from[LOG_PATH_MAX], to[LOG_PATH_MAX], name[256];
    struct errmsg why;
    uint64_t id[2] = {env_random_u64(d->env), env_random_u64(d->env)};

    /* TOPIC-N.<32 hex digits>-delete, the topic cut so that it stays a legal name. */
    (void)snprintf(name, sizeof name, "%.*s.%016llx%016llx%s", (int)(254 - 33 - strlen(suffix)),
                   folder, (unsigned long long)id[0], (unsigned long long)id[1], suffix);
    if (!log_dir_path(d, folder, from) || !log_dir_path(d, name, to))
        return;

    enum err e = disk_rename(d->env, from, to, &why);

    if (e == ERR_NONE) { /* what the checkpoints say of the name is of that folder */
        mutex_lock(&d->lock);
        d->checkpoint_stale = true;
        mutex_unlock(&d->lock);
    }
    if (e == ERR_NONE && delay_ms != KEPT)
        log_manager_remove_later(d->manager, to, delay_ms);
    else if (e == ERR_NONE)
        log_warn(d->logger, "storage", "%s: kept as %s until somebody removes it", folder, name);
    else if (e != ERR_NOT_FOUND)
        log_error(d->logger, "storage", "%s", why.text);
}

/* D3: the folder is ours alone once partition.metadata could be made in it. */
static enum err make_folder(struct log_dir *d, const struct log_identity *id, struct errmsg *why)
{
    char folder[300], path[LOG_PATH_MAX], metadata[LOG_PATH_MAX];
    struct text t = {.ptr = NULL};
    struct file *f;

    (void)snprintf(folder, sizeof folder, "%s-%d", id->topic, id->partition);
    (void)log_dir_path(d, folder, path);
    (void)snprintf(folder, sizeof folder, "%s-%d/partition.metadata", id->topic, id->partition);
    (void)log_dir_path(d, folder, metadata);

    enum err e = disk_mkdir(d->env, path, why);

    if (e == ERR_NONE)
        e = file_open(d->env, metadata, FILE_CREATE | FILE_EXCLUSIVE, &f, why);
    if (e != ERR_NONE)
        return e;
    partition_metadata_format(&t, &id->topic_id);
    e = file_write(f, 0, t.ptr, t.size, why);
    file_unref(f);
    text_deinit(&t);
    return e;
}

static void take_out_of_table(struct log_manager *m, struct log *l)
{
    mutex_lock(&m->lock);
    hmap_remove(&m->by_id, &l->by_id);
    atomic_fetch_sub(&l->dir->log_count, 1);
    mutex_unlock(&m->lock);
    mutex_lock(&l->lock);
    l->closed = true;
    log_want(l, LOG_WORK_ROOM);
    mutex_unlock(&l->lock);
}

/* Lets go of a log that has left the table. */
static void let_go(struct log *l)
{
    log_kick(l);
    log_leave_lists(l);
    log_unref(l); /* the table's */
}

/* A log in the table that stands for a folder which is not to be touched: offline, with a reason.
 */
static struct log *stand_in(struct log_dir *d, const struct log_identity *id, int64_t start_offset,
                            int64_t end_offset, const char *why)
{
    struct log *l = log_new(d, id, &d->manager->options.default_config);

    l->start_offset = l->settled_start = start_offset;
    l->end_offset = l->recovery_point = MAX(start_offset, end_offset);
    log_set_offline(l, "%s", why);
    log_manager_insert(d->manager, l);
    return l;
}

/* The folder is there, under this name, and held records: never is an empty log made instead. */
static struct log *claim_unnamed(struct log_manager *m, const struct log_identity *id)
{
    struct unnamed *found = NULL;

    mutex_lock(&m->lock);
    list_for_each_safe (n, &m->unnamed) {
        struct unnamed *u = list_entry(n, struct unnamed, node);

        if (found != NULL || !u->held_records || u->id.partition != id->partition ||
            strcmp(u->id.topic, id->topic) != 0)
            continue;
        list_remove(n);
        found = u;
    }
    mutex_unlock(&m->lock);
    if (found == NULL)
        return NULL;

    struct log *l =
        stand_in(found->dir, id, found->start_offset, found->recovery_point, found->why.text);

    free(found);
    return log_ref(l);
}

/* The image does not know the log. Its folder is kept until somebody removes it: the image may be
 * the one that is wrong (a repaired quorum), and what was acknowledged is never dropped for it. */
static void set_aside(struct log_manager *m, struct log *l)
{
    char name[288];

    log_name(l, name);
    log_warn(m->logger, "storage", "%s is not in the cluster's metadata: set aside", name);
    take_out_of_table(m, l);
    mutex_lock(&l->structure);
    log_dir_set_folder_aside(l->dir, name, "-stray", KEPT);
    mutex_unlock(&l->structure);
    let_go(l);
}

/* Folders of this name that belong to nobody, or to an earlier topic, make way. */
static void clear_name(struct log_manager *m, const struct log_identity *id)
{
    char folder[300];
    size_t count;
    struct log **all = log_manager_all(m, &count);

    (void)snprintf(folder, sizeof folder, "%s-%d", id->topic, id->partition);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(all[i]->id.topic, id->topic) == 0 && all[i]->id.partition == id->partition)
            set_aside(m, all[i]);
        log_unref(all[i]);
    }
    free(all);
    for (int i = 0; i < m->dir_count; i++) {
        if (atomic_load(&m->dirs[i].offline) == NULL)
            log_dir_set_folder_aside(&m->dirs[i], folder, "-stray", KEPT);
    }
}

/* A recovery point that an earlier topic of the same name left behind must not be taken for the
 * new one's: the checkpoints are written anew before the name is used again. */
static enum err forget_deleted(struct log_dir *d, struct errmsg *why)
{
    mutex_lock(&d->lock);
    bool stale = d->checkpoint_stale;

    d->checkpoint_stale = false;
    mutex_unlock(&d->lock);
    return stale ? log_dir_write_checkpoints(d, why) : ERR_NONE;
}

enum err log_manager_create(struct log_manager *m, const struct log_identity *id,
                            const struct log_config *config, struct log **out, struct errmsg *why)
{
    *out = log_manager_find(m, &id->topic_id, id->partition);
    if (*out == NULL)
        *out = claim_unnamed(m, id);
    if (*out != NULL)
        return ERR_NONE;

    struct log_dir *d = emptiest(m);

    if (d == NULL) {
        errmsg_set(why, "every log directory is offline");
        return ERR_KAFKA_STORAGE_ERROR;
    }

    enum err e = make_folder(d, id, why);

    if (e == ERR_EXISTS && MUTANT(34)) {
        e = ERR_NONE;
    } else if (e == ERR_EXISTS) {
        clear_name(m, id);
        e = make_folder(d, id, why);
    }
    if (e == ERR_NONE)
        e = forget_deleted(d, why);
    if (e == ERR_NO_SPACE)
        return e;
    if (e != ERR_NONE) {
        if (e == ERR_IO)
            log_dir_set_offline(d, why->text);
        return ERR_KAFKA_STORAGE_ERROR;
    }

    struct log *l = log_new(d, id, config);

    l->metadata_dirty = l->directory_dirty = true;
    l->folder_number = atomic_fetch_add(&d->folders_made, 1) + 1;
    *out = log_ref(l);
    log_manager_insert(m, l);
    return ERR_NONE;
}

void log_leave_lists(struct log *l)
{
    bool was_active, was_queued;

    mutex_lock(&l->lock);
    was_active = l->in_active;
    l->in_active = false;
    mutex_lock(&l->dir->lock);
    if (was_active)
        list_remove(&l->active_node);
    was_queued = l->sync_queued && list_linked(&l->sync_node);
    if (was_queued) {
        list_remove(&l->sync_node);
        l->sync_queued = false;
    }
    mutex_unlock(&l->dir->lock);
    mutex_unlock(&l->lock);
    if (was_active)
        log_unref(l);
    if (was_queued)
        log_unref(l);
}

void log_manager_delete(struct log_manager *m, struct log *l)
{
    char folder[288];

    mutex_lock(&m->lock);
    bool there = find_locked(m, &l->id.topic_id, l->id.partition) == l;

    if (there) {
        hmap_remove(&m->by_id, &l->by_id);
        atomic_fetch_sub(&l->dir->log_count, 1);
    }
    mutex_unlock(&m->lock);
    if (!there)
        return;

    mutex_lock(&l->lock);
    l->closed = true;
    log_want(l, LOG_WORK_ROOM); /* who waits for room must hear of it */
    mutex_unlock(&l->lock);
    log_name(l, folder);
    mutex_lock(&l->structure); /* nobody makes files in it any more */
    log_dir_set_folder_aside(l->dir, folder, "-delete", l->config.file_delete_delay_ms);
    mutex_unlock(&l->structure);
    log_kick(l);
    log_leave_lists(l);
    log_unref(l); /* the table's */
}

/* partition.metadata names another topic than the folder does, and the folder is right: a topic
 * never changes its name. */
static void reject_id(struct log_manager *m, struct log *l, const struct uuid *right_id)
{
    char name[288], found[UUID_TEXT_SIZE], expected[UUID_TEXT_SIZE];
    struct log_identity id = l->id;
    struct errmsg why;

    log_name(l, name);
    uuid_format(&l->id.topic_id, found);
    uuid_format(right_id, expected);
    errmsg_set(&why, "%s/%s/partition.metadata: found topic_id %s, expected %s", l->dir->path, name,
               found, expected);
    take_out_of_table(m, l);
    id.topic_id = *right_id;
    (void)stand_in(l->dir, &id, log_start_offset(l), log_end_offset(l), why.text);
    let_go(l);
}

/* Two directories hold the same partition: neither is served, and neither is touched. */
static void reject_both(struct log_manager *m, struct log *first, struct log *second)
{
    char name[288];

    log_name(first, name);
    log_set_offline(first, "%s: found in %s and in %s, expected one: move one away", name,
                    first->dir->path, second->dir->path);
    take_out_of_table(m, second);
    let_go(second);
}

void log_manager_set_aside_strays(struct log_manager *m,
                                  enum log_claim (*claim)(void *ctx, const struct log_identity *id,
                                                          struct uuid *right_id),
                                  void *ctx)
{
    struct log *before = NULL; /* a reference */
    size_t count;
    struct log **all = log_manager_all(m, &count);

    for (size_t i = 0; i < count; i++) {
        struct log *l = all[i];
        struct uuid right_id;
        enum log_claim c = claim(ctx, &l->id, &right_id);

        if (c == LOG_STRAY || (c == LOG_WRONG_ID && log_end_offset(l) == 0)) {
            set_aside(m, l);
        } else if (c == LOG_WRONG_ID) {
            reject_id(m, l, &right_id);
        } else if (before != NULL && by_name_and_id(before, l) == 0) {
            reject_both(m, before, l);
        } else {
            if (before != NULL)
                log_unref(before);
            before = log_ref(l);
        }
        log_unref(l);
    }
    if (before != NULL)
        log_unref(before);
    free(all);
}

/* ---- checkpoints ---- */

static enum err write_text(struct log_dir *d, const char *name, struct text *lines, int count,
                           struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    struct text t = {.ptr = NULL};

    (void)log_dir_path(d, name, path);
    text_add(&t, "0\n%d\n%s", count, lines->size > 0 ? lines->ptr : "");

    enum err e = file_replace(d->env, path, t.ptr, t.size, why);

    text_deinit(&t);
    return e;
}

static void add_line(struct text *t, int *count, const struct log *l, int64_t offset)
{
    text_add(t, "%s %d %lld\n", l->id.topic, l->id.partition, (long long)offset);
    (*count)++;
}

static void add_offset(struct text *t, int *count, const struct log_identity *id, int64_t offset)
{
    if (offset <= 0)
        return;
    text_add(t, "%s %d %lld\n", id->topic, id->partition, (long long)offset);
    (*count)++;
}

/* What was written down of folders that cannot tell whose they are, and that nobody has asked for
 * yet, stays: it says that they held records (D3). */
static void add_unnamed(struct log_dir *d, struct text *recovery, int *recovery_count,
                        struct text *starts, int *start_count)
{
    struct log_manager *m = d->manager;

    mutex_lock(&m->lock);
    list_for_each_safe (n, &m->unnamed) {
        const struct unnamed *u = list_entry(n, struct unnamed, node);

        if (u->dir != d || !u->held_records)
            continue;
        if (recovery != NULL)
            add_offset(recovery, recovery_count, &u->id, u->recovery_point);
        add_offset(starts, start_count, &u->id, u->start_offset);
    }
    mutex_unlock(&m->lock);
}

static enum err write_checkpoints(struct log_dir *d, struct errmsg *why)
{
    struct text recovery = {.ptr = NULL}, replication = recovery, starts = recovery;
    int recovery_count = 0, replication_count = 0, start_count = 0;
    const struct log_manager_options *o = &d->manager->options;
    size_t count;
    struct log **all = log_manager_all(d->manager, &count);

    mutex_lock(&d->lock);
    d->starts_dirty = false;
    mutex_unlock(&d->lock);
    for (size_t i = 0; i < count; i++) {
        struct log *l = all[i];

        if (l->dir == d) {
            mutex_lock(&l->lock);
            int64_t start = l->settled_start, point = l->recovery_point;

            /* A start that has overtaken it has moved it: that is no word about a sync. */
            if (start < l->start_offset && point <= l->start_offset)
                point = start;
            mutex_unlock(&l->lock);
            add_line(&recovery, &recovery_count, l, point);
            int64_t high_watermark = o->high_watermark != NULL ? o->high_watermark(o->ctx, l)
                                                               : l->checkpointed_high_watermark;

            if (high_watermark >= 0)
                add_line(&replication, &replication_count, l, high_watermark);
            if (start > 0)
                add_line(&starts, &start_count, l, start);
        }
        log_unref(l);
    }
    free(all);
    add_unnamed(d, &recovery, &recovery_count, &starts, &start_count);

    enum err e = write_text(d, FILE_START_OFFSETS, &starts, start_count, why);

    if (e == ERR_NONE)
        e = write_text(d, FILE_RECOVERY, &recovery, recovery_count, why);
    else
        log_dir_start_moved(d);
    if (e == ERR_NONE)
        e = write_text(d, FILE_REPLICATION, &replication, replication_count, why);
    text_deinit(&recovery);
    text_deinit(&replication);
    text_deinit(&starts);
    return e;
}

static enum err write_starts(struct log_dir *d, struct errmsg *why)
{
    struct text starts = {.ptr = NULL};
    int start_count = 0;
    size_t count;
    struct log **all = log_manager_all(d->manager, &count);

    for (size_t i = 0; i < count; i++) {
        mutex_lock(&all[i]->lock);
        int64_t start = all[i]->settled_start;

        mutex_unlock(&all[i]->lock);
        if (all[i]->dir == d && start > 0)
            add_line(&starts, &start_count, all[i], start);
        log_unref(all[i]);
    }
    free(all);
    add_unnamed(d, NULL, NULL, &starts, &start_count);

    enum err e = write_text(d, FILE_START_OFFSETS, &starts, start_count, why);

    text_deinit(&starts);
    return e;
}

static void settle_start(void *ctx, struct log *l)
{
    (void)ctx;
    log_settle_start(l);
}

enum err log_manager_save_starts(struct log_manager *m, struct errmsg *why)
{
    enum err e = ERR_NONE;

    log_manager_each(m, settle_start, NULL); /* not under a lock that who changes a log may want */
    for (int i = 0; i < m->dir_count && e == ERR_NONE; i++) {
        struct log_dir *d = &m->dirs[i];

        mutex_lock(&d->checkpoint_lock); /* who comes second finds it done by the first */
        mutex_lock(&d->lock);
        bool dirty = d->starts_dirty && !d->stopped && atomic_load(&d->offline) == NULL;

        if (dirty)
            d->starts_dirty = false;
        mutex_unlock(&d->lock);
        if (dirty)
            e = write_starts(d, why);
        if (e != ERR_NONE)
            log_dir_start_moved(d); /* still to be done */
        mutex_unlock(&d->checkpoint_lock);
    }
    return e;
}

enum err log_dir_write_checkpoints(struct log_dir *d, struct errmsg *why)
{
    mutex_lock(&d->checkpoint_lock);
    enum err e = d->stopped ? ERR_NONE : write_checkpoints(d, why);

    mutex_unlock(&d->checkpoint_lock);
    return e;
}

enum err log_dir_write_last_checkpoints(struct log_dir *d, struct errmsg *why)
{
    mutex_lock(&d->checkpoint_lock);
    enum err e = write_checkpoints(d, why);

    d->stopped = true; /* a job that comes later finds no logs to write down */
    mutex_unlock(&d->checkpoint_lock);
    return e;
}

void log_dir_checkpoint(struct log_dir *d)
{
    struct errmsg why;

    if (atomic_load(&d->offline) != NULL)
        return;
    log_manager_each(d->manager, settle_start, NULL);

    enum err e = log_dir_write_checkpoints(d, &why);

    if (e == ERR_NO_SPACE)
        log_dir_no_space(d);
    else if (e != ERR_NONE)
        log_dir_set_offline(d, why.text);
}

/* ---- what is shown ---- */

int log_manager_dir_count(const struct log_manager *m)
{
    return m->dir_count;
}

void log_manager_dir_view(const struct log_manager *m, int i, struct log_dir_view *out)
{
    const struct log_dir *d = &m->dirs[i];
    struct errmsg ignored;

    *out = (struct log_dir_view){
        .path = d->path,
        .directory_id = d->meta.directory_id,
        .offline_reason = atomic_load(&d->offline),
        .below_reserve = atomic_load(&d->below_reserve),
    };
    if (disk_space(m->env, d->path, &out->space, &ignored) != ERR_NONE)
        out->space = (struct disk_space){0, 0};
}

static double count_offline_dirs(void *ctx)
{
    const struct log_manager *m = ctx;
    int n = 0;

    for (int i = 0; i < m->dir_count; i++)
        n += atomic_load(&m->dirs[i].offline) != NULL;
    return n;
}

static double count_refusing_dirs(void *ctx)
{
    const struct log_manager *m = ctx;
    int n = 0;

    for (int i = 0; i < m->dir_count; i++)
        n += atomic_load(&m->dirs[i].below_reserve);
    return n;
}

static double count_logs(void *ctx)
{
    const struct log_manager *m = ctx;
    int n = 0;

    for (int i = 0; i < m->dir_count; i++)
        n += atomic_load(&m->dirs[i].log_count);
    return n;
}

static double oldest_io_seconds(void *ctx)
{
    return (double)log_manager_oldest_io_ns(ctx) / 1e9;
}

void log_manager_register_metrics(struct log_manager *m, struct metrics *metrics)
{
    metrics_add_callback(metrics, METRIC_GAUGE, "kafka_log_logmanager_offlinelogdirectorycount", "",
                         "Log directories that are offline.", count_offline_dirs, m);
    metrics_add_callback(metrics, METRIC_GAUGE, "fluxmq_log_directories_below_reserve", "",
                         "Log directories that refuse appends for lack of space.",
                         count_refusing_dirs, m);
    metrics_add_callback(metrics, METRIC_GAUGE, "fluxmq_log_count", "",
                         "Partition replicas on this node.", count_logs, m);
    metrics_add_callback(metrics, METRIC_GAUGE, "fluxmq_log_oldest_io_seconds", "",
                         "Age of the oldest unfinished disk operation.", oldest_io_seconds, m);
    metrics_add(metrics, METRIC_GAUGE, "fluxmq_log_cleaner_missing", "",
                "Partitions whose topic asks for compaction, which is not done yet.",
                &m->cleaner_missing);
}
