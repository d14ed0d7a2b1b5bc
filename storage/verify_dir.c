/* storage/verify_dir.c -- a log directory's own files, and what only shows between partitions. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/clean_state.h"
#include "storage/verify_internal.h"

static const char *const checkpoint_names[CHECKPOINT_FILES] = {
    "recovery-point-offset-checkpoint",
    "replication-offset-checkpoint",
    "log-start-offset-checkpoint",
    "cleaner-offset-checkpoint",
};

static void path_in(const char *dir, const char *name, char out[VERIFY_PATH_MAX])
{
    (void)snprintf(out, VERIFY_PATH_MAX, "%s/%s", dir, name);
}

static uint8_t *slurp(struct env *env, const char *path, size_t *size, struct verify_report *r)
{
    struct errmsg why = {""};
    uint8_t *p = NULL;
    enum err e = file_slurp(env, path, VERIFY_FILE_BYTES_MAX, &p, size, &why);

    if (e == ERR_NONE) {
        r->bytes += *size;
        return p;
    }
    if (e != ERR_NOT_FOUND)
        verify_report_add(r, FINDING_IO, FINDING_DAMAGE, path, 0, -1, -1, "%s", why.text);
    return NULL;
}

/* ---- offset checkpoints ---- */

static bool take_line(void *ctx, struct str line)
{
    struct checkpoint_file *f = ctx;
    char folder[300], topic_again[250];
    struct str topic;
    int32_t partition, again;
    int64_t offset;

    if (!checkpoint_line_offset(line, &topic, &partition, &offset) || offset < 0)
        return false;
    (void)snprintf(folder, sizeof folder, "%.*s-%d", MIN(topic.len, 260), topic.ptr, partition);
    if (!partition_folder_parse(folder, topic_again, &again))
        return false;
    if (f->count == f->capacity) {
        f->capacity = f->capacity == 0 ? 16 : f->capacity * 2;
        f->v = xrealloc(f->v, f->capacity * sizeof *f->v);
    }
    f->v[f->count++] = (struct checkpoint_entry){xstrdup(topic_again), partition, offset};
    return true;
}

static int by_partition(const void *x, const void *y)
{
    const struct checkpoint_entry *a = x, *b = y;
    int c = strcmp(a->topic, b->topic);

    return c != 0 ? c : (a->partition > b->partition) - (a->partition < b->partition);
}

/* Byte for byte as both servers write it; Kafka in any order of lines. */
static bool written_so(const struct checkpoint_file *f, const uint8_t *p, size_t size)
{
    struct text again = {.ptr = NULL};

    text_add(&again, "0\n%zu\n", f->count);
    for (size_t i = 0; i < f->count; i++)
        text_add(&again, "%s %d %" PRId64 "\n", f->v[i].topic, f->v[i].partition, f->v[i].offset);

    bool same = size == again.size && memcmp(p, again.ptr, size) == 0;

    text_deinit(&again);
    return same;
}

static void read_checkpoint(struct checkpoint_file *f, struct env *env, const char *dir,
                            const char *name, struct verify_report *r)
{
    char path[VERIFY_PATH_MAX];
    struct errmsg why = {""};
    size_t size;

    path_in(dir, name, path);

    uint8_t *p = slurp(env, path, &size, r);

    f->path = xstrdup(path);
    f->present = p != NULL;
    if (p == NULL)
        return;
    f->sound = checkpoint_parse(p, size, take_line, f, &why) == ERR_NONE;
    if (!f->sound)
        verify_report_add(r, FINDING_CHECKPOINT, FINDING_DAMAGE, path, 0, -1, -1, "%s", why.text);
    else if (!written_so(f, p, size))
        verify_report_add(r, FINDING_CHECKPOINT, FINDING_DAMAGE, path, 0, -1, -1,
                          "not as it is written: something stands in it that does not belong");
    free(p);
    if (f->count > 0)
        qsort(f->v, f->count, sizeof *f->v, by_partition);
    for (size_t i = 1; i < f->count; i++) {
        if (by_partition(&f->v[i - 1], &f->v[i]) == 0)
            verify_report_add(r, FINDING_CHECKPOINT, FINDING_DAMAGE, path, 0, -1, -1,
                              "%s-%d stands in it twice", f->v[i].topic, f->v[i].partition);
    }
}

static int64_t checkpoint_find(const struct checkpoint_file *f, const char *topic,
                               int32_t partition)
{
    struct checkpoint_entry key = {.partition = partition};
    size_t low = 0, high = f->count;

    key.topic = (char *)(uintptr_t)topic;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = by_partition(&f->v[middle], &key);

        if (c == 0)
            return f->v[middle].offset;
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

/* ---- meta.properties, the marker, the clean state ---- */

/* Everything but comments must be one of the known keys, once. */
static bool only_known_keys(const uint8_t *p, size_t size, struct str *unknown)
{
    static const char *const keys[] = {"version",      "cluster.id", "node.id",
                                       "directory.id", "broker.id",  "fluxmq.raft.files"};
    struct str rest = {(const char *)p, (int32_t)MIN(size, (size_t)INT32_MAX)}, line;
    unsigned seen = 0;

    while (text_line(&rest, &line)) {
        bool known = line.len <= 0 || *line.ptr == '#';

        for (size_t i = 0; i < ARRAY_COUNT(keys) && !known; i++) {
            int32_t n = (int32_t)strlen(keys[i]);

            known = line.len > n && line.ptr[n] == '=' &&
                    memcmp(line.ptr, keys[i], (size_t)n) == 0 && (seen & (1u << i)) == 0;
            if (known)
                seen |= 1u << i;
        }
        if (!known) {
            *unknown = line;
            return false;
        }
    }
    return true;
}

/* Kafka's ids are 22 characters of base64, with nothing in the bits that they do not need. */
static bool is_uuid_text(struct str s)
{
    char again[UUID_TEXT_SIZE];
    struct uuid id;

    if (!uuid_parse(s, &id))
        return false;
    uuid_format(&id, again);
    return str_eq_lit(s, again);
}

static void check_meta_values(struct log_dir_facts *f, const char *path, const uint8_t *p,
                              size_t size, struct verify_report *r)
{
    struct str rest = {(const char *)p, (int32_t)MIN(size, (size_t)INT32_MAX)}, line, unknown;

    if (!only_known_keys(p, size, &unknown))
        verify_report_add(r, FINDING_META_PROPERTIES, FINDING_DAMAGE, path,
                          (uint64_t)(unknown.ptr - (const char *)p), -1, -1,
                          "\"%.*s\" is no key of this file, or stands in it twice",
                          STR_ARG(unknown));
    if (f->meta.node_id < 0)
        verify_report_add(r, FINDING_META_PROPERTIES, FINDING_DAMAGE, path, 0, -1, -1,
                          "node.id: found %d, expected a number that is not negative",
                          f->meta.node_id);
    if (f->meta.version == 1 && uuid_is_zero(&f->meta.directory_id))
        verify_report_add(r, FINDING_META_PROPERTIES, FINDING_DAMAGE, path, 0, -1, -1,
                          "directory.id is missing");
    while (text_line(&rest, &line)) {
        struct str value = line;

        if (line.len > 13 && memcmp(line.ptr, "directory.id=", 13) == 0)
            value = (struct str){line.ptr + 13, line.len - 13};
        else
            continue;
        if (!is_uuid_text(value))
            verify_report_add(r, FINDING_META_PROPERTIES, FINDING_DAMAGE, path,
                              (uint64_t)(value.ptr - (const char *)p), -1, -1,
                              "directory.id: \"%.*s\" is not as it is written", STR_ARG(value));
    }
}

static void read_meta(struct log_dir_facts *f, struct env *env, struct verify_report *r)
{
    char path[VERIFY_PATH_MAX];
    struct errmsg why = {""};
    size_t size;

    path_in(f->path, "meta.properties", path);

    uint8_t *p = slurp(env, path, &size, r);

    if (p == NULL)
        return;
    f->is_log_dir = true;
    f->has_meta = meta_properties_parse(p, size, &f->meta, &why) == ERR_NONE;
    if (f->has_meta)
        check_meta_values(f, path, p, size, r);
    else
        verify_report_add(r, FINDING_META_PROPERTIES, FINDING_DAMAGE, path, 0, -1, -1, "%s",
                          why.text);
    free(p);
}

/* Kafka's marker is {"version":0,"brokerEpoch":13}; ours may say the same. */
static void read_marker(struct log_dir_facts *f, struct env *env, struct verify_report *r)
{
    char path[VERIFY_PATH_MAX], again[64], *end;
    size_t size;

    path_in(f->path, ".kafka_cleanshutdown", path);

    uint8_t *p = slurp(env, path, &size, r);

    f->clean = p != NULL;
    if (p == NULL)
        return;

    const char head[] = "{\"version\":0,\"brokerEpoch\":";
    char copy[64] = "";

    memcpy(copy, p, MIN(size, sizeof copy - 1));

    long long epoch =
        strncmp(copy, head, sizeof head - 1) == 0 ? strtoll(copy + sizeof head - 1, &end, 10) : -2;

    (void)snprintf(again, sizeof again, "%s%lld}", head, epoch);
    if (size > 0 && (size != strlen(again) || memcmp(p, again, size) != 0 || epoch < -1))
        verify_report_add(r, FINDING_CLEAN_STATE, FINDING_DAMAGE, path, 0, -1, -1,
                          "not as it is written: something stands in it that does not belong");
    free(p);
}

/* It says whose directory this is: fluxmq's, and not one to be adopted. */
static void read_format(struct log_dir_facts *f, struct env *env, struct verify_report *r)
{
    static const char expected[] = "version=1\n";
    char path[VERIFY_PATH_MAX];
    size_t size;

    path_in(f->path, "fluxmq-format", path);

    uint8_t *p = slurp(env, path, &size, r);

    f->ours = p != NULL;
    if (p != NULL && (size != sizeof expected - 1 || memcmp(p, expected, size) != 0))
        verify_report_add(r, FINDING_META_PROPERTIES, FINDING_DAMAGE, path, 0, -1, -1,
                          "expected one line, version=1");
    free(p);
}

static void read_clean_state(struct log_dir_facts *f, struct env *env, struct verify_report *r)
{
    char path[VERIFY_PATH_MAX];
    struct log_identity id;
    struct clean_reader reader;
    size_t size;

    path_in(f->path, "fluxmq-clean-state", path);

    uint8_t *p = slurp(env, path, &size, r);

    if (p == NULL)
        return;
    if (!clean_reader_init(&reader, p, size)) {
        verify_report_add(r, FINDING_CLEAN_STATE, f->clean ? FINDING_DAMAGE : FINDING_NOTE, path, 0,
                          -1, -1, "its head or its CRC is not right");
        free(p);
        return;
    }
    f->has_clean_state = f->clean;
    while (f->clean && clean_reader_peek(&reader, &id)) {
        f->identities = xrealloc(f->identities, (f->identity_count + 1) * sizeof *f->identities);
        f->identities[f->identity_count++] =
            (struct clean_identity){xstrdup(id.topic), id.partition, id.topic_id};
        clean_reader_skip(&reader);
    }
    free(p);
}

/* ---- what lies in the directory ---- */

struct folder_listing {
    struct log_dir_facts *f;
    struct verify_report *r;
};

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);

    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static const char *stray_reason(const struct dir_entry *e)
{
    if (strcmp(e->name, "fluxmq-raft") == 0 || strcmp(e->name, "fluxmq-raft.ballast") == 0)
        return NULL; /* the quorum's: whoever knows it looks at it */

    static const char *const files[] = {"meta.properties",      ".lock",
                                        ".kafka_cleanshutdown", "fluxmq-clean-state",
                                        "fluxmq-format",        "bootstrap.checkpoint"};

    if (ends_with(e->name, "-delete"))
        return "a partition that waits to be deleted";
    if (ends_with(e->name, "-stray"))
        return "a partition that was set aside: the cluster does not know it";
    if (ends_with(e->name, "-future"))
        return "a partition that was moving to this directory";
    if (e->is_dir)
        return "no partition's folder";
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        if (strcmp(e->name, files[i]) == 0)
            return NULL;
    }
    for (size_t i = 0; i < CHECKPOINT_FILES; i++) {
        if (strcmp(e->name, checkpoint_names[i]) == 0)
            return NULL;
    }
    return ends_with(e->name, ".tmp") ? "an unfinished write" : "nobody knows this file";
}

static void on_entry(void *ctx, const struct dir_entry *e)
{
    struct folder_listing *l = ctx;
    struct log_dir_facts *f = l->f;
    char path[VERIFY_PATH_MAX], topic[250];
    int32_t partition;

    if (e->is_dir && partition_folder_parse(e->name, topic, &partition)) {
        f->folders = xrealloc(f->folders, (f->folder_count + 1) * sizeof *f->folders);
        f->folders[f->folder_count++] = xstrdup(e->name);
        return;
    }

    /* The quorum's own files are raft's business, and begin with its name. */
    const char *reason = strncmp(e->name, "raft", 4) == 0 ? NULL : stray_reason(e);

    path_in(f->path, e->name, path);
    if (reason != NULL)
        verify_report_add(l->r, FINDING_STRAY, FINDING_NOTE, path, 0, -1, -1, "%s", reason);
}

void log_dir_facts_read(struct log_dir_facts *f, struct env *env, const char *path,
                        struct verify_report *r)
{
    struct folder_listing l = {f, r};
    struct errmsg why = {""};

    *f = (struct log_dir_facts){.path = xstrdup(path)};
    read_meta(f, env, r);
    read_marker(f, env, r);
    read_format(f, env, r);
    for (int i = 0; i < CHECKPOINT_FILES; i++) {
        read_checkpoint(&f->checkpoints[i], env, path, checkpoint_names[i], r);
        f->is_log_dir = f->is_log_dir || f->checkpoints[i].present;
    }
    read_clean_state(f, env, r);
    if (dir_list(env, path, on_entry, &l, &why) != ERR_NONE)
        verify_report_add(r, FINDING_IO, FINDING_DAMAGE, path, 0, -1, -1, "%s", why.text);
}

void log_dir_facts_deinit(struct log_dir_facts *f)
{
    for (int i = 0; i < CHECKPOINT_FILES; i++) {
        for (size_t j = 0; j < f->checkpoints[i].count; j++)
            free(f->checkpoints[i].v[j].topic);
        free(f->checkpoints[i].v);
        free(f->checkpoints[i].path);
    }
    for (size_t i = 0; i < f->folder_count; i++)
        free(f->folders[i]);
    for (size_t i = 0; i < f->identity_count; i++)
        free(f->identities[i].topic);
    free(f->identities);
    free(f->folders);
    free(f->path);
    *f = (struct log_dir_facts){.path = NULL};
}

void log_dir_facts_of(const struct log_dir_facts *f, const char *topic, int32_t partition,
                      struct partition_facts *out)
{
    /* KRaft's own log is in none of the checkpoints. */
    bool metadata_log = strcmp(topic, "__cluster_metadata") == 0;

    *out = (struct partition_facts){
        .known = f->is_log_dir && !metadata_log,
        .ours = f->ours,
        .clean = f->clean && !f->has_clean_state,
        .recovery_point = checkpoint_find(&f->checkpoints[CHECKPOINT_RECOVERY], topic, partition),
        .high_watermark =
            checkpoint_find(&f->checkpoints[CHECKPOINT_HIGH_WATERMARK], topic, partition),
        .start_offset = checkpoint_find(&f->checkpoints[CHECKPOINT_START], topic, partition),
        .first_dirty =
            MAX(checkpoint_find(&f->checkpoints[CHECKPOINT_CLEANER], topic, partition), (int64_t)0),
    };
    for (size_t i = 0; i < f->identity_count; i++) {
        if (f->identities[i].partition != partition || strcmp(f->identities[i].topic, topic) != 0)
            continue;
        out->clean = out->has_topic_id = true;
        out->topic_id = f->identities[i].topic_id;
    }
}

/* ---- between partitions and directories ---- */

static bool has_folder(const struct log_dir_facts *d, const char *topic, int32_t partition)
{
    char name[300];
    size_t low = 0, high = d->folder_count;

    (void)snprintf(name, sizeof name, "%s-%d", topic, partition);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = strcmp(d->folders[middle], name);

        if (c == 0)
            return true;
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

static void check_lines(const struct log_dir_facts *d, struct verify_report *r)
{
    for (int i = 0; i < CHECKPOINT_FILES; i++) {
        const struct checkpoint_file *f = &d->checkpoints[i];

        for (size_t j = 0; j < f->count; j++) {
            /* After a crash the lines of a deleted topic may still stand there. */
            if (!has_folder(d, f->v[j].topic, f->v[j].partition))
                verify_report_add(r, FINDING_CHECKPOINT, d->clean ? FINDING_DAMAGE : FINDING_CRASH,
                                  f->path, 0, -1, -1, "%s-%d is not in this directory",
                                  f->v[j].topic, f->v[j].partition);
        }
    }
    for (size_t i = 0; i < d->folder_count && d->clean; i++) {
        char topic[250];
        int32_t partition;

        if (!partition_folder_parse(d->folders[i], topic, &partition) ||
            strcmp(topic, "__cluster_metadata") == 0)
            continue;
        if (checkpoint_find(&d->checkpoints[CHECKPOINT_RECOVERY], topic, partition) < 0)
            verify_report_add(r, FINDING_CHECKPOINT, FINDING_DAMAGE,
                              d->checkpoints[CHECKPOINT_RECOVERY].path, 0, -1, -1,
                              "nothing is said of %s, though the stop was clean", d->folders[i]);
    }
}

static int by_topic(const void *x, const void *y)
{
    const struct partition_summary *a = x, *b = y;
    int c = strcmp(a->topic, b->topic);

    return c != 0 ? c : (a->partition > b->partition) - (a->partition < b->partition);
}

static int by_id(const void *x, const void *y)
{
    const struct partition_summary *a = x, *b = y;
    int c = uuid_cmp(&a->topic_id, &b->topic_id);

    return c != 0 ? c : by_topic(x, y);
}

static void check_ids(struct partition_summary *all, size_t count, struct verify_report *r)
{
    char name[300], a[UUID_TEXT_SIZE], b[UUID_TEXT_SIZE];
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        if (all[i].has_id && all[i].topic[0] != '\0')
            all[n++] = all[i];
    }
    qsort(all, n, sizeof *all, by_topic);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(all[i - 1].topic, all[i].topic) != 0 ||
            uuid_eq(&all[i - 1].topic_id, &all[i].topic_id))
            continue;
        uuid_format(&all[i - 1].topic_id, a);
        uuid_format(&all[i].topic_id, b);
        (void)snprintf(name, sizeof name, "%s-%d/partition.metadata", all[i].topic,
                       all[i].partition);
        verify_report_add(r, FINDING_PARTITION_METADATA, FINDING_DAMAGE, name, 21, -1, -1,
                          "topic id: found %s, partition %d has %s", b, all[i - 1].partition, a);
    }
    qsort(all, n, sizeof *all, by_id);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(all[i - 1].topic, all[i].topic) == 0 ||
            !uuid_eq(&all[i - 1].topic_id, &all[i].topic_id))
            continue;
        uuid_format(&all[i].topic_id, a);
        (void)snprintf(name, sizeof name, "%s-%d/partition.metadata", all[i].topic,
                       all[i].partition);
        verify_report_add(r, FINDING_PARTITION_METADATA, FINDING_DAMAGE, name, 21, -1, -1,
                          "topic id %s is that of topic %s too", a, all[i - 1].topic);
    }
}

static void check_identities(const struct log_dir_facts *a, const struct log_dir_facts *b,
                             struct verify_report *r)
{
    char path[VERIFY_PATH_MAX];

    if (!a->has_meta || !b->has_meta)
        return;
    path_in(b->path, "meta.properties", path);
    if (a->meta.node_id != b->meta.node_id || strcmp(a->meta.cluster_id, b->meta.cluster_id) != 0)
        verify_report_add(r, FINDING_META_PROPERTIES, FINDING_DAMAGE, path, 0, -1, -1,
                          "node %d of cluster %s, the other directory %s says %d and %s",
                          b->meta.node_id, b->meta.cluster_id, a->path, a->meta.node_id,
                          a->meta.cluster_id);
    if (uuid_eq(&a->meta.directory_id, &b->meta.directory_id) &&
        !uuid_is_zero(&a->meta.directory_id))
        verify_report_add(r, FINDING_META_PROPERTIES, FINDING_DAMAGE, path, 0, -1, -1,
                          "has the directory id of %s", a->path);
}

void verify_together(const struct log_dir_facts *dirs, size_t dir_count,
                     struct partition_summary *all, size_t count, struct verify_report *r)
{
    for (size_t i = 0; i < dir_count; i++) {
        if (dirs[i].is_log_dir)
            check_lines(&dirs[i], r);
        if (i > 0)
            check_identities(&dirs[0], &dirs[i], r);
    }
    check_ids(all, count, r);
}
