/* storage/verify.c -- one partition's folder: which files there are, the walk over them, its end.
 */
#include "storage/verify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/recovery.h"
#include "storage/verify_internal.h"

/* ---- reports ---- */

const char *finding_kind_name(enum finding_kind kind)
{
    static const char *const names[FINDING_KINDS] = {
        "unreadable",
        "damaged batch",
        "CRC",
        "damaged record",
        "offsets",
        "leader epochs",
        "torn tail",
        "log end",
        "offset index",
        "time index",
        "transaction index",
        "producer snapshot",
        "epoch checkpoint",
        "partition.metadata",
        "meta.properties",
        "offset checkpoint",
        "clean state",
        "stray file",
    };

    return kind >= 0 && kind < FINDING_KINDS ? names[kind] : "?";
}

void verify_report_deinit(struct verify_report *r)
{
    for (size_t i = 0; i < r->count; i++) {
        free(r->v[i].path);
        free(r->v[i].text);
    }
    free(r->v);
    *r = (struct verify_report){.v = NULL};
}

static void push(struct verify_report *r, const struct finding *f)
{
    if (r->count == r->capacity) {
        r->capacity = r->capacity == 0 ? 8 : r->capacity * 2;
        r->v = xrealloc(r->v, r->capacity * sizeof *r->v);
    }
    r->v[r->count++] = *f;
}

void verify_report_merge(struct verify_report *to, struct verify_report *from)
{
    for (size_t i = 0; i < from->count; i++)
        push(to, &from->v[i]);
    for (size_t i = 0; i < ARRAY_COUNT(to->weights); i++)
        to->weights[i] += from->weights[i];
    to->bytes += from->bytes;
    to->partitions += from->partitions;
    to->segments += from->segments;
    to->batches += from->batches;
    to->records += from->records;
    free(from->v);
    *from = (struct verify_report){.v = NULL};
}

void verify_report_add(struct verify_report *r, enum finding_kind kind, enum finding_weight weight,
                       const char *path, uint64_t position, int64_t base_offset, int64_t offset,
                       const char *fmt, ...)
{
    char text[640];
    va_list args;

    r->weights[weight]++;
    if (r->count >= FINDINGS_KEPT_MAX)
        return;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    /* Texts quote damaged files; what they hold must not reach a terminal. */
    for (char *c = text; *c != '\0'; c++) {
        if (*c < ' ' || *c > '~')
            *c = '?';
    }
    push(r, &(struct finding){
                .kind = kind,
                .weight = weight,
                .path = xstrdup(path),
                .position = position,
                .base_offset = base_offset,
                .offset = offset,
                .text = xstrdup(text),
            });
}

/* ---- small files ---- */

void walk_path(const struct walk *w, int64_t base, const char *suffix, char out[VERIFY_PATH_MAX])
{
    char name[SEGMENT_NAME_SIZE];

    segment_file_name(base, suffix, name);
    (void)snprintf(out, VERIFY_PATH_MAX, "%s/%s", w->folder, name);
}

uint8_t *walk_slurp(struct walk *w, const char *path, size_t *size)
{
    struct errmsg why = {""};
    uint8_t *p = NULL;
    enum err e = file_slurp(w->env, path, VERIFY_FILE_BYTES_MAX, &p, size, &why);

    if (e == ERR_NONE) {
        w->report->bytes += *size;
        return p;
    }
    if (e != ERR_NOT_FOUND)
        verify_report_add(w->report, FINDING_IO, FINDING_DAMAGE, path, 0, -1, -1, "%s", why.text);
    return NULL;
}

static void folder_file(const struct walk *w, const char *name, char out[VERIFY_PATH_MAX])
{
    (void)snprintf(out, VERIFY_PATH_MAX, "%s/%s", w->folder, name);
}

/* The file must be what its content, written anew, would be: else a byte of it has changed. */
static bool is_canonical(const uint8_t *p, size_t size, const struct text *expected)
{
    size_t n = expected->size;

    if (size == n + 1 && p[n] == '\n')
        size--;
    return size == n && memcmp(p, expected->ptr, n) == 0;
}

static void read_epochs(struct walk *w)
{
    struct text again = {.ptr = NULL};
    struct errmsg why = {""};
    char path[VERIFY_PATH_MAX];
    size_t size;

    folder_file(w, "leader-epoch-checkpoint", path);

    uint8_t *p = walk_slurp(w, path, &size);

    if (p == NULL)
        return;
    w->has_epochs = leader_epochs_parse(p, size, &w->epochs, &why) == ERR_NONE;
    if (w->has_epochs) {
        leader_epochs_format(&w->epochs, &again);
        if (!is_canonical(p, size, &again))
            verify_report_add(w->report, FINDING_EPOCH_CHECKPOINT, FINDING_DAMAGE, path, 0, -1, -1,
                              "not as it is written: something stands in it that does not belong");
        text_deinit(&again);
    } else {
        verify_report_add(w->report, FINDING_EPOCH_CHECKPOINT, FINDING_DAMAGE, path, 0, -1, -1,
                          "%s", why.text);
        leader_epochs_deinit(&w->epochs);
    }
    free(p);
}

static void read_metadata(struct walk *w, struct partition_summary *out)
{
    struct text again = {.ptr = NULL};
    struct errmsg why = {""};
    char path[VERIFY_PATH_MAX], found[UUID_TEXT_SIZE], expected[UUID_TEXT_SIZE];
    size_t size;

    folder_file(w, "partition.metadata", path);

    uint8_t *p = walk_slurp(w, path, &size);

    if (p == NULL) {
        if (w->facts->known)
            verify_report_add(w->report, FINDING_PARTITION_METADATA, FINDING_DAMAGE, path, 0, -1,
                              -1, "is missing: nothing says which topic this is");
        return;
    }
    out->has_id = partition_metadata_parse(p, size, &out->topic_id, &why) == ERR_NONE;
    if (!out->has_id) {
        verify_report_add(w->report, FINDING_PARTITION_METADATA, FINDING_DAMAGE, path, 0, -1, -1,
                          "%s", why.text);
    } else {
        partition_metadata_format(&again, &out->topic_id);
        if (!is_canonical(p, size, &again))
            verify_report_add(w->report, FINDING_PARTITION_METADATA, FINDING_DAMAGE, path, 0, -1,
                              -1,
                              "not as it is written: something stands in it that does not belong");
        text_deinit(&again);
        if (w->facts->has_topic_id && !uuid_eq(&out->topic_id, &w->facts->topic_id)) {
            uuid_format(&out->topic_id, found);
            uuid_format(&w->facts->topic_id, expected);
            verify_report_add(w->report, FINDING_PARTITION_METADATA, FINDING_DAMAGE, path, 21, -1,
                              -1, "topic id: found %s, fluxmq-clean-state says %s", found,
                              expected);
        }
    }
    free(p);
}

/* ---- which files there are ---- */

bool partition_folder_parse(const char *name, char topic[250], int32_t *partition)
{
    const char *dash = strrchr(name, '-');
    size_t n = dash != NULL ? (size_t)(dash - name) : 0;

    if (n == 0 || n > 249 || dash[1] < '0' || dash[1] > '9' ||
        (dash[1] == '0' && dash[2] != '\0') || !parse_int32(str_from(dash + 1), partition))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", name[i]) ==
            NULL)
            return false;
    }
    memcpy(topic, name, n);
    topic[n] = '\0';
    return strcmp(topic, ".") != 0 && strcmp(topic, "..") != 0;
}

struct listing {
    struct walk *w;
    bool metadata_log; /* __cluster_metadata: KRaft keeps more beside it */
    int64_t *logs;
    int log_count;
    bool looks_like_partition;
};

static void note_stray(struct listing *l, const char *name, const char *what)
{
    char path[VERIFY_PATH_MAX];

    folder_file(l->w, name, path);
    verify_report_add(l->w->report, FINDING_STRAY, FINDING_NOTE, path, 0, -1, -1, "%s", what);
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);

    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static void push_snapshot(struct walk *w, int64_t offset)
{
    w->snapshots = xrealloc(w->snapshots, (size_t)(w->snapshot_count + 1) * sizeof *w->snapshots);
    w->snapshots[w->snapshot_count++] = (struct snapshot_file){.offset = offset};
}

static void list_file(void *ctx, const struct dir_entry *e)
{
    static const struct {
        const char *suffix, *what;
    } strays[] = {
        {".deleted", "waits to be deleted"},
        {".cleaned", "an unfinished compaction"},
        {".swap", "a compaction that was about to take effect"},
        {".cut", "what a recovery or repair has cut off"},
        {".tmp", "an unfinished write"},
    };
    struct listing *l = ctx;
    int64_t offset;

    if (e->is_dir) {
        note_stray(l, e->name, "a directory in a partition's folder");
        return;
    }
    if (segment_name_offset(e->name, ".log", &offset)) {
        l->logs = xrealloc(l->logs, (size_t)(l->log_count + 1) * sizeof *l->logs);
        l->logs[l->log_count++] = offset; /* names come sorted */
        return;
    }
    if (segment_name_offset(e->name, ".snapshot", &offset)) {
        push_snapshot(l->w, offset);
        return;
    }
    if (segment_name_offset(e->name, ".index", &offset) ||
        segment_name_offset(e->name, ".timeindex", &offset) ||
        segment_name_offset(e->name, ".txnindex", &offset)) {
        for (int i = 0; i < l->log_count; i++) {
            if (l->logs[i] == offset)
                return;
        }
        /* ".index" sorts before ".log": look again when all are known. */
        return;
    }
    if (strcmp(e->name, "leader-epoch-checkpoint") == 0 ||
        strcmp(e->name, "partition.metadata") == 0 ||
        (l->metadata_log &&
         (strcmp(e->name, "quorum-state") == 0 || ends_with(e->name, ".checkpoint"))))
        return;
    for (size_t i = 0; i < ARRAY_COUNT(strays); i++) {
        if (ends_with(e->name, strays[i].suffix)) {
            note_stray(l, e->name, strays[i].what);
            return;
        }
    }
    note_stray(l, e->name, "nobody knows this file");
}

static void list_orphan(void *ctx, const struct dir_entry *e)
{
    struct listing *l = ctx;
    int64_t offset;

    if (e->is_dir || (!segment_name_offset(e->name, ".index", &offset) &&
                      !segment_name_offset(e->name, ".timeindex", &offset) &&
                      !segment_name_offset(e->name, ".txnindex", &offset)))
        return;
    for (int i = 0; i < l->log_count; i++) {
        if (l->logs[i] == offset)
            return;
    }
    note_stray(l, e->name, "an index without a log");
}

static void look_for_files(void *ctx, const struct dir_entry *e)
{
    bool *found = ctx;
    int64_t offset;

    if (!e->is_dir && (strcmp(e->name, "partition.metadata") == 0 ||
                       segment_name_offset(e->name, ".log", &offset)))
        *found = true;
}

bool verify_is_partition(struct env *env, const char *path)
{
    struct errmsg why = {""};
    bool found = false;

    return dir_list(env, path, look_for_files, &found, &why) == ERR_NONE && found;
}

/* ---- the end of the log ---- */

static void check_end(struct walk *w, int64_t first, int64_t end)
{
    const struct partition_facts *f = w->facts;
    char path[VERIFY_PATH_MAX];

    folder_file(w, "", path);
    path[strlen(path) - 1] = '\0';
    if (!f->known || !w->whole)
        return;
    if (f->recovery_point > end)
        verify_report_add(w->report, FINDING_LOG_END, FINDING_DAMAGE, path, 0, -1, end,
                          "the log ends at offset %" PRId64 ", its recovery point is %" PRId64
                          ": records are missing",
                          end, f->recovery_point);
    else if (f->clean && f->recovery_point >= 0 && f->recovery_point != end)
        verify_report_add(w->report, FINDING_CHECKPOINT, FINDING_DAMAGE, path, 0, -1, -1,
                          "stopped cleanly at recovery point %" PRId64
                          ", but the log ends at offset %" PRId64,
                          f->recovery_point, end);
    if (f->start_offset > end)
        verify_report_add(w->report, FINDING_CHECKPOINT, FINDING_DAMAGE, path, 0, -1, -1,
                          "log-start-offset-checkpoint says %" PRId64 ", the log ends at %" PRId64,
                          f->start_offset, end);
    if (f->high_watermark > end)
        verify_report_add(w->report, FINDING_CHECKPOINT, walk_weight(w, end), path, 0, -1, -1,
                          "replication-offset-checkpoint says %" PRId64
                          ", the log ends at %" PRId64,
                          f->high_watermark, end);
    if (f->first_dirty > end)
        verify_report_add(w->report, FINDING_CHECKPOINT, walk_weight(w, end), path, 0, -1, -1,
                          "cleaner-offset-checkpoint says %" PRId64 ", the log ends at %" PRId64,
                          f->first_dirty, end);
    if (f->high_watermark >= 0 && f->high_watermark < MAX(first, f->start_offset))
        verify_report_add(w->report, FINDING_CHECKPOINT, walk_weight(w, end), path, 0, -1, -1,
                          "replication-offset-checkpoint says %" PRId64
                          ", the log begins at %" PRId64,
                          f->high_watermark, MAX(first, f->start_offset));
}

/* The first epoch begins where the log does, unless its records were never numbered. */
static void check_epoch_ends(struct walk *w, int64_t start, int64_t end)
{
    char path[VERIFY_PATH_MAX];
    const struct leader_epochs *e = &w->epochs;

    folder_file(w, "leader-epoch-checkpoint", path);
    if (!w->has_epochs) {
        /* fluxmq writes it with the second segment: the epochs of one are in its batches. */
        if (w->last_epoch >= 0 && w->facts->known && !(w->facts->ours && w->only_segment))
            verify_report_add(w->report, FINDING_EPOCH_CHECKPOINT, walk_weight(w, start), path, 0,
                              -1, -1, "is missing, the log's epoch is %d", w->last_epoch);
        return;
    }
    if (!w->whole || w->ended || e->count == 0)
        return;
    if (e->v[e->count - 1].start_offset > end)
        verify_report_add(w->report, FINDING_EPOCH_CHECKPOINT, walk_weight(w, end), path, 0, -1, -1,
                          "epoch %d begins at %" PRId64 ", the log ends at %" PRId64,
                          e->v[e->count - 1].epoch, e->v[e->count - 1].start_offset, end);
    if (w->facts->known && start < end && e->v[0].start_offset != start &&
        e->v[0].start_offset < end)
        verify_report_add(w->report, FINDING_EPOCH_CHECKPOINT, walk_weight(w, end), path, 0, -1, -1,
                          "the first epoch begins at %" PRId64 ", the log at %" PRId64,
                          e->v[0].start_offset, start);
}

/* ---- the partition ---- */

static void walk_logs(struct walk *w, const struct listing *l)
{
    char path[VERIFY_PATH_MAX];

    for (int i = 0; i < l->log_count; i++) {
        w->only_segment = l->log_count == 1;
        w->last_segment = i + 1 == l->log_count;
        w->next_base = w->last_segment ? INT64_MAX : l->logs[i + 1];
        if (!w->ended) {
            walk_segment(w, l->logs[i]);
            continue;
        }
        walk_path(w, l->logs[i], ".log", path);
        verify_report_add(w->report, FINDING_TORN_TAIL, FINDING_CRASH, path, 0, l->logs[i],
                          l->logs[i], "lies behind the torn tail (normal after a crash)");
    }
}

static void walk_init(struct walk *w)
{
    w->next_offset = w->other_next = -1;
    w->last_epoch = -1;
    w->complained_epoch = w->complained_expected = -2;
    w->whole = true;
    w->buffer_size = (size_t)1 << 20;
    w->buffer = xmalloc(w->buffer_size);
    producer_state_init(&w->producers, 0);
    decompressor_init(&w->scratch);
}

static void walk_deinit(struct walk *w)
{
    producer_state_deinit(&w->producers);
    leader_epochs_deinit(&w->epochs);
    decompressor_deinit(&w->scratch);
    free(w->snapshots);
    free(w->buffer);
}

void verify_partition(struct env *env, const char *path, const struct partition_facts *facts,
                      const struct verify_options *o, struct verify_report *r,
                      struct partition_summary *out)
{
    const char *slash = strrchr(path, '/');
    struct walk w = {.env = env, .folder = path, .facts = facts, .options = o, .report = r};
    struct listing l = {.w = &w};
    struct errmsg why = {""};

    *out = (struct partition_summary){.partition = -1};
    if (!partition_folder_parse(slash != NULL ? slash + 1 : path, out->topic, &out->partition))
        out->topic[0] = '\0';
    l.metadata_log = strcmp(out->topic, "__cluster_metadata") == 0;
    r->partitions++;
    walk_init(&w);
    if (dir_list(env, path, list_file, &l, &why) != ERR_NONE ||
        dir_list(env, path, list_orphan, &l, &why) != ERR_NONE) {
        verify_report_add(r, FINDING_IO, FINDING_DAMAGE, path, 0, -1, -1, "%s", why.text);
        free(l.logs);
        walk_deinit(&w);
        return;
    }
    read_epochs(&w);
    read_metadata(&w, out);

    int64_t first = l.log_count > 0 ? l.logs[0] : MAX(facts->start_offset, (int64_t)0);

    /* Without its directory's checkpoints, a log begins where its epochs do. */
    w.log_start = MAX(facts->start_offset, (int64_t)0);
    if (!facts->known && w.epochs.count > 0)
        w.log_start = w.epochs.v[0].start_offset;
    if (l.log_count > 0) {
        walk_load_first_snapshot(&w, first);
        walk_logs(&w, &l);
    }
    out->end_offset = l.log_count > 0 ? w.next_offset : first;
    if (l.log_count == 0 && facts->recovery_point > first)
        first = out->end_offset = MAX(first, (int64_t)0);
    out->start_offset = MAX(first, facts->start_offset);
    if (out->end_offset >= 0) {
        walk_check_late_snapshots(&w, out->end_offset);
        check_end(&w, first, out->end_offset);
        check_epoch_ends(&w, out->start_offset, out->end_offset);
    }
    free(l.logs);
    walk_deinit(&w);
}
