#include "broker/adopt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/record_batch.h"
#include "raft-meta/command.h"

#define METADATA_FOLDER         "__cluster_metadata-0"
#define METADATA_FILE_BYTES_MAX ((size_t)1 << 30)
#define PATH_BYTES_MAX          4096
#define DECOMPRESSED_MAX        ((size_t)256 << 20)

/* ---- which topics ---- */

static int by_topic(const void *x, const void *y)
{
    const struct log_identity *a = x, *b = y;
    int c = strcmp(a->topic, b->topic);

    return c != 0 ? c : (a->partition > b->partition) - (a->partition < b->partition);
}

static struct adopted_topic *add_topic(struct adoption *a, const struct log_identity *id)
{
    a->v = xrealloc(a->v, (a->count + 1) * sizeof *a->v);

    struct adopted_topic *t = &a->v[a->count++];

    *t = (struct adopted_topic){.id = id->topic_id};
    (void)snprintf(t->name, sizeof t->name, "%s", id->topic);
    return t;
}

enum err adoption_from(struct log_identity *ids, size_t count, struct adoption *out,
                       struct errmsg *why)
{
    struct adopted_topic *t = NULL;

    *out = (struct adoption){.v = NULL};
    if (count > 0)
        qsort(ids, count, sizeof *ids, by_topic);
    for (size_t i = 0; i < count; i++) {
        if (t == NULL || strcmp(t->name, ids[i].topic) != 0)
            t = add_topic(out, &ids[i]);
        if (!uuid_eq(&t->id, &ids[i].topic_id)) {
            errmsg_set(why,
                       "cannot adopt topic %s: partition.metadata of partition %d names another "
                       "topic id than that of partition 0",
                       t->name, ids[i].partition);
            goto fail;
        }
        if (ids[i].partition != t->partition_count) {
            errmsg_set(why,
                       "cannot adopt topic %s: found partition %d, expected partition %d; only the "
                       "directories of a node that ran alone hold every partition (are all of "
                       "its log.dirs given?)",
                       t->name, ids[i].partition, t->partition_count);
            goto fail;
        }
        t->partition_count++;
    }
    out->empty = out->count == 0;
    return ERR_NONE;

fail:
    adoption_deinit(out);
    return ERR_CONFIG;
}

struct identities {
    struct log_identity *v;
    size_t count, capacity;
};

static void take_log(void *ctx, struct log *l)
{
    struct identities *ids = ctx;

    if (ids->count == ids->capacity) {
        ids->capacity = ids->capacity == 0 ? 64 : ids->capacity * 2;
        ids->v = xrealloc(ids->v, ids->capacity * sizeof *ids->v);
    }
    ids->v[ids->count++] = *log_identity(l);
}

enum err adoption_collect(struct log_manager *m, struct adoption *out, struct errmsg *why)
{
    struct identities ids = {.v = NULL};

    log_manager_each(m, take_log, &ids);

    enum err e = adoption_from(ids.v, ids.count, out, why);

    free(ids.v);
    return e;
}

static void drop_configs(struct adopted_topic *t)
{
    for (size_t i = 0; i < t->config_count; i++) {
        free(t->configs[i].key);
        free(t->configs[i].value);
    }
    free(t->configs);
    t->configs = NULL;
    t->config_count = 0;
}

void adoption_deinit(struct adoption *a)
{
    for (size_t i = 0; i < a->count; i++)
        drop_configs(&a->v[i]);
    free(a->v);
    *a = (struct adoption){.v = NULL};
}

/* ---- their settings, from Kafka's metadata log ----
 *
 * A record's value: uvarint frame version (1), uvarint kind, uvarint version, and the message, of
 * which two kinds matter: TopicRecord (2): name, topic id; ConfigRecord (4): int8 resource type,
 * name, key, nullable value; the strings are compact. */

enum { FRAME_VERSION = 1, KIND_CONFIG = 4, KIND_TOPIC = 2 };

struct cursor {
    const uint8_t *p;
    size_t left;
    bool bad;
};

static uint32_t take_uvarint(struct cursor *c)
{
    uint32_t v = 0;
    size_t n = c->bad ? 0 : uvarint32_read(c->p, c->left, &v);

    if (n == 0) {
        c->bad = true;
        return 0;
    }
    c->p += n;
    c->left -= n;
    return v;
}

/* A compact string; the null one when it is null, or when there is none. */
static struct str take_string(struct cursor *c)
{
    uint32_t n = take_uvarint(c);

    if (c->bad || n == 0)
        return STR_NULL;
    n--;
    if (n > c->left || n > INT16_MAX) {
        c->bad = true;
        return STR_NULL;
    }

    struct str s = {(const char *)c->p, (int32_t)n};

    c->p += n;
    c->left -= n;
    return s;
}

static char *copy(struct str s)
{
    char *p = xmalloc((size_t)s.len + 1);

    memcpy(p, s.ptr, (size_t)s.len);
    p[s.len] = '\0';
    return p;
}

static void set_config(struct adopted_topic *t, struct str key, struct str value)
{
    size_t i = 0;

    while (i < t->config_count && !str_eq_lit(key, t->configs[i].key))
        i++;
    if (i < t->config_count) {
        free(t->configs[i].value);
        t->configs[i].value = NULL;
        if (!str_is_null(value)) {
            t->configs[i].value = copy(value);
            return;
        }
        free(t->configs[i].key);
        t->configs[i] = t->configs[--t->config_count];
    } else if (!str_is_null(value)) {
        t->configs = xrealloc(t->configs, (t->config_count + 1) * sizeof *t->configs);
        t->configs[t->config_count++] = (struct adopted_config){copy(key), copy(value)};
    }
}

static struct adopted_topic *find_topic(struct adoption *a, struct str name)
{
    for (size_t low = 0, high = a->count; low < high;) {
        size_t middle = low + (high - low) / 2;
        int c = str_cmp(str_from(a->v[middle].name), name);

        if (c == 0)
            return &a->v[middle];
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Settings of a topic of the same name that went before belong to it alone: they are forgotten
 * when the topic that is here begins. Kafka writes a topic's record before its settings'. */
static void on_topic(struct adoption *a, struct cursor *c)
{
    struct str name = take_string(c);
    struct adopted_topic *t = c->bad || str_is_null(name) ? NULL : find_topic(a, name);

    if (t != NULL && c->left >= sizeof t->id.b)
        drop_configs(t);
}

static void on_config(struct adoption *a, struct cursor *c)
{
    if (c->left == 0)
        return;

    uint8_t type = *c->p;

    c->p++;
    c->left--;

    struct str name = take_string(c), key = take_string(c), value = take_string(c);
    struct adopted_topic *t =
        c->bad || type != CONFIG_TOPIC || str_is_null(name) || str_is_null(key)
            ? NULL
            : find_topic(a, name);

    if (t != NULL)
        set_config(t, key, value);
}

static void on_record(struct adoption *a, const struct record *r)
{
    struct cursor c = {r->value.ptr, (size_t)MAX(r->value.len, 0), false};
    uint32_t frame = take_uvarint(&c), kind = take_uvarint(&c);

    (void)take_uvarint(&c);
    if (c.bad || frame != FRAME_VERSION)
        return;
    if (kind == KIND_TOPIC)
        on_topic(a, &c);
    else if (kind == KIND_CONFIG)
        on_config(a, &c);
}

static enum err read_batches(struct adoption *a, struct env *env, const char *path,
                             struct errmsg *why)
{
    struct record_batch_iterator batches;
    struct record_iterator records;
    struct record_batch b;
    struct record r;
    uint8_t *p;
    size_t size;
    enum err e = file_slurp(env, path, METADATA_FILE_BYTES_MAX, &p, &size, why);

    if (e != ERR_NONE)
        return e;
    batches = (struct record_batch_iterator){p, size};
    while ((e = record_batch_next(&batches, &b)) == ERR_NONE) {
        if (!record_batch_crc_ok(&b)) {
            errmsg_set(why, "%s: a batch at offset %lld has a wrong CRC", path,
                       (long long)b.base_offset);
            e = ERR_CORRUPT;
            break;
        }
        if (record_batch_is_control(&b) ||
            record_iterator_init(&records, &b, RECORDS_WHOLE, NULL, DECOMPRESSED_MAX) != ERR_NONE)
            continue;
        while (record_iterator_next(&records, &r) == ERR_NONE)
            on_record(a, &r);
        record_iterator_deinit(&records);
    }
    free(p);
    /* What ends it otherwise is the end, or room that was made for more. */
    return e == ERR_CORRUPT ? e : ERR_NONE;
}

struct metadata_files {
    char snapshot[256]; /* the youngest */
    char **logs;
    size_t log_count;
};

static void list_metadata(void *ctx, const struct dir_entry *e)
{
    struct metadata_files *f = ctx;
    size_t n = strlen(e->name);

    if (e->is_dir)
        return;
    if (n > 11 && n < sizeof f->snapshot && strcmp(e->name + n - 11, ".checkpoint") == 0) {
        (void)snprintf(f->snapshot, sizeof f->snapshot, "%s", e->name); /* names ascend */
    } else if (n == 24 && strcmp(e->name + 20, ".log") == 0) {
        f->logs = xrealloc(f->logs, (f->log_count + 1) * sizeof *f->logs);
        f->logs[f->log_count++] = xstrdup(e->name);
    }
}

/* What lies in the log below the snapshot's end is in it too, and reading it again in order comes
 * to the same end. */
static enum err read_folder(struct adoption *a, struct env *env, const char *folder,
                            struct errmsg *why)
{
    struct metadata_files f = {.snapshot = ""};
    char path[PATH_BYTES_MAX + sizeof f.snapshot + 1];
    enum err e = dir_list(env, folder, list_metadata, &f, why);

    if (e == ERR_NONE && f.log_count == 0 && f.snapshot[0] == '\0')
        e = ERR_NOT_FOUND;
    if (e == ERR_NONE && f.snapshot[0] != '\0') {
        (void)snprintf(path, sizeof path, "%s/%s", folder, f.snapshot);
        e = read_batches(a, env, path, why);
    }
    for (size_t i = 0; i < f.log_count; i++) {
        (void)snprintf(path, sizeof path, "%s/%.24s", folder, f.logs[i]);
        if (e == ERR_NONE)
            e = read_batches(a, env, path, why);
        free(f.logs[i]);
    }
    free(f.logs);
    return e;
}

enum err adoption_read_configs(struct adoption *a, struct env *env, const char *const *dirs,
                               int dir_count, struct errmsg *why)
{
    char folder[PATH_BYTES_MAX];
    enum err e = ERR_NOT_FOUND;

    for (int i = 0; i < dir_count && e == ERR_NOT_FOUND; i++) {
        (void)snprintf(folder, sizeof folder, "%s/" METADATA_FOLDER, dirs[i]);
        e = read_folder(a, env, folder, why);
    }
    if (e == ERR_NOT_FOUND)
        errmsg_set(why, "no log directory holds " METADATA_FOLDER
                        ": the adopted topics get the default settings");
    return e;
}

/* ---- telling the cluster ---- */

static MetaCreateTopics__Topic *topic_message(const struct adopted_topic *t, int32_t node)
{
    MetaCreateTopics__Topic *m = xmalloc(sizeof *m);

    meta_create_topics__topic__init(m);
    proto_set_str(&m->name, str_from(t->name));
    proto_set_bytes(&m->topic_id, t->id.b, sizeof t->id.b);
    m->num_partitions = m->replication_factor = -1; /* the assignment says it */
    m->manual = xcalloc((size_t)t->partition_count, sizeof(void *));
    m->n_manual = (size_t)t->partition_count;
    for (int32_t i = 0; i < t->partition_count; i++) {
        MetaCreateTopics__Topic__ManualAssignment *manual = xmalloc(sizeof *manual);

        meta_create_topics__topic__manual_assignment__init(manual);
        manual->partition = i;
        manual->n_replicas = 1;
        manual->replicas = xmalloc(sizeof *manual->replicas);
        manual->replicas[0] = node;
        m->manual[i] = manual;
    }
    m->configs = xcalloc(t->config_count + 1, sizeof(void *));
    m->n_configs = t->config_count;
    for (size_t i = 0; i < t->config_count; i++) {
        m->configs[i] = xmalloc(sizeof **m->configs);
        meta_config_entry__init(m->configs[i]);
        proto_set_str(&m->configs[i]->key, str_from(t->configs[i].key));
        proto_set_str(&m->configs[i]->value, str_from(t->configs[i].value));
    }
    return m;
}

enum err adopt_topics(const struct adoption *a, const struct image *image, int32_t node, size_t *at,
                      MetaCommand **out, struct errmsg *why)
{
    MetaCreateTopics *body = NULL;
    int64_t partitions = 0;

    *out = NULL;
    for (; *at < a->count && partitions < ADOPT_PARTITIONS_PER_COMMAND; (*at)++) {
        const struct adopted_topic *t = &a->v[*at];
        const struct topic_image *known = image_topic(image, str_from(t->name));

        if (known != NULL && uuid_eq(&known->id, &t->id))
            continue; /* adopted before */
        if (known != NULL) {
            errmsg_set(why, "cannot adopt topic %s: the cluster has another topic of that name",
                       t->name);
            if (body != NULL)
                meta_create_topics__free_unpacked(body, NULL);
            return ERR_EXISTS;
        }
        if (body == NULL) {
            body = xmalloc(sizeof *body);
            meta_create_topics__init(body);
            body->topics = xcalloc(a->count, sizeof(void *));
        }
        body->topics[body->n_topics++] = topic_message(t, node);
        partitions += t->partition_count;
    }
    if (body == NULL)
        return ERR_NONE;
    *out = xmalloc(sizeof **out);
    meta_command__init(*out);
    (*out)->body_case = META_COMMAND__BODY_CREATE_TOPICS;
    (*out)->create_topics = body;
    return ERR_NONE;
}
