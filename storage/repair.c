#include "storage/repair.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/recovery.h"
#include "storage/verify_internal.h"

#define INDEX_INTERVAL_BYTES 4096 /* Kafka's default; the topic's own is not in its folder */
#define COPY_BYTES           BATCH_READER_LARGE

/* ---- the plan ---- */

void repair_plan_deinit(struct repair_plan *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->v[i].path);
        free(p->v[i].folder);
        free(p->v[i].text);
    }
    free(p->v);
    *p = (struct repair_plan){.v = NULL};
}

static struct repair_step *add_step(struct repair_plan *p, enum repair_kind kind,
                                    const char *folder, const char *path, const char *fmt, ...)
    PRINTF(5, 6);

static struct repair_step *add_step(struct repair_plan *p, enum repair_kind kind,
                                    const char *folder, const char *path, const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (p->count == p->capacity) {
        p->capacity = p->capacity == 0 ? 8 : p->capacity * 2;
        p->v = xrealloc(p->v, p->capacity * sizeof *p->v);
    }
    if (kind == REPAIR_IMPOSSIBLE)
        p->impossible++;
    p->v[p->count] = (struct repair_step){
        .kind = kind,
        .path = xstrdup(path),
        .folder = folder != NULL ? xstrdup(folder) : NULL,
        .base_offset = -1,
        .text = xstrdup(text),
    };
    return &p->v[p->count++];
}

static bool planned(const struct repair_plan *p, enum repair_kind kind, const char *path)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->v[i].kind == kind && strcmp(p->v[i].path, path) == 0)
            return true;
    }
    return false;
}

static void segment_path(const char *folder, int64_t base, const char *suffix,
                         char out[VERIFY_PATH_MAX])
{
    char name[SEGMENT_NAME_SIZE];

    segment_file_name(base, suffix, name);
    (void)snprintf(out, VERIFY_PATH_MAX, "%s/%s", folder, name);
}

static bool read_header(struct file *f, uint64_t position, struct record_batch *b)
{
    uint8_t head[RECORD_BATCH_HEADER_SIZE];
    size_t n;

    if (file_read(f, position, head, sizeof head, &n) != ERR_NONE || n != sizeof head)
        return false;

    int64_t size =
        (int64_t)(int32_t)load_be32(head + RECORD_BATCH_LENGTH_AT) + RECORD_BATCH_PREFIX_SIZE;

    /* Only the header is looked at, and it is there. */
    return size >= RECORD_BATCH_HEADER_SIZE &&
           record_batch_frame(head, (size_t)size, b) == ERR_NONE;
}

/* A batch whose base offset alone is wrong: the next one follows where it should have ended. */
static bool offset_can_be_patched(struct env *env, const struct finding *f)
{
    struct errmsg why = {""};
    struct record_batch b, next;
    struct file *file;
    bool good = false;

    if (file_open(env, f->path, FILE_READ_ONLY, &file, &why) != ERR_NONE)
        return false;
    if (read_header(file, f->position, &b)) {
        uint64_t behind = f->position + (uint64_t)b.size_bytes;

        good =
            behind == file_size(file) || (read_header(file, behind, &next) &&
                                          next.base_offset == f->offset + b.last_offset_delta + 1);
    }
    file_unref(file);
    return good;
}

static bool is_before(const struct finding *a, const struct finding *b)
{
    return a->base_offset != b->base_offset ? a->base_offset < b->base_offset
                                            : a->position < b->position;
}

/* The first damage that costs records, and whether epochs go back somewhere. */
static const struct finding *first_damage(struct env *env, const struct verify_report *r,
                                          bool *epochs_go_back)
{
    const struct finding *first = NULL;

    *epochs_go_back = false;
    for (size_t i = 0; i < r->count; i++) {
        const struct finding *f = &r->v[i];

        if (f->weight != FINDING_DAMAGE)
            continue;
        if (f->kind == FINDING_EPOCHS && strstr(f->text, " behind ") != NULL)
            *epochs_go_back = true;
        if (f->base_offset < 0 || f->offset < 0 ||
            (f->kind != FINDING_BATCH && f->kind != FINDING_CRC && f->kind != FINDING_RECORD &&
             f->kind != FINDING_OFFSETS))
            continue;
        if (f->kind == FINDING_OFFSETS && f->position > 0 && offset_can_be_patched(env, f))
            continue;
        if (first == NULL || is_before(f, first))
            first = f;
    }
    return first;
}

static void plan_cut(struct repair_plan *p, struct env *env, const char *folder,
                     const struct finding *f)
{
    struct errmsg why = {""};
    char path[VERIFY_PATH_MAX];
    struct folder files;
    struct repair_step *s;

    segment_path(folder, f->base_offset, ".log", path);
    s = add_step(p, REPAIR_CUT, folder, path,
                 "cut at byte %" PRIu64 ", the log then ends at offset %" PRId64
                 "; the rest is kept as a .cut file",
                 f->position, f->offset);
    s->base_offset = f->base_offset;
    s->position = f->position;
    s->value = f->offset;
    if (folder_read(env, folder, &files, &why) != ERR_NONE)
        return;
    for (int i = 0; i < files.segment_count; i++) {
        if (files.segments[i] <= f->base_offset)
            continue;
        segment_path(folder, files.segments[i], ".log", path);
        s = add_step(p, REPAIR_SET_ASIDE, folder, path, "set aside: it lies behind the cut");
        s->base_offset = files.segments[i];
    }
    for (int i = 0; i < files.snapshot_count; i++) {
        if (files.snapshots[i] <= f->offset)
            continue;
        segment_path(folder, files.snapshots[i], ".snapshot", path);
        (void)add_step(p, REPAIR_SET_ASIDE, folder, path, "set aside: it lies behind the cut");
    }
    folder_deinit(&files);
    segment_path(folder, f->base_offset, ".index", path);
    s = add_step(p, REPAIR_REBUILD_INDEX, folder, path, "make the segment's indexes anew");
    s->base_offset = f->base_offset;
}

static void plan_index(struct repair_plan *p, const char *folder, int64_t base)
{
    char path[VERIFY_PATH_MAX];

    segment_path(folder, base, ".index", path);
    if (planned(p, REPAIR_REBUILD_INDEX, path))
        return;
    add_step(p, REPAIR_REBUILD_INDEX, folder, path, "make the segment's indexes anew")
        ->base_offset = base;
}

static void plan_epochs(struct repair_plan *p, const char *folder)
{
    char path[VERIFY_PATH_MAX];

    (void)snprintf(path, sizeof path, "%s/leader-epoch-checkpoint", folder);
    if (!planned(p, REPAIR_REBUILD_EPOCHS, path))
        (void)add_step(p, REPAIR_REBUILD_EPOCHS, folder, path, "make it anew from the batches");
}

/* The epoch that leader-epoch-checkpoint gives the batch, at the end of the finding's text. */
static void plan_epoch(struct repair_plan *p, const char *folder, const struct finding *f,
                       bool epochs_go_back)
{
    const char *says = strstr(f->text, "checkpoint says ");
    int32_t epoch;

    if (strstr(f->text, " behind ") != NULL)
        return; /* the batch before it is the wrong one */
    if (!epochs_go_back || says == NULL || !parse_int32(str_from(says + 16), &epoch) || epoch < 0) {
        plan_epochs(p, folder);
        return;
    }

    struct repair_step *s =
        add_step(p, REPAIR_PATCH_EPOCH, folder, f->path,
                 "put leader epoch %d into the batch at byte %" PRIu64, epoch, f->position);

    s->position = f->position;
    s->value = epoch;
}

static void plan_finding(struct repair_plan *p, const char *folder, const struct finding *f,
                         const struct partition_facts *facts, bool epochs_go_back)
{
    struct repair_step *s;

    switch (f->kind) {
    case FINDING_OFFSETS:
        s = add_step(p, REPAIR_PATCH_OFFSET, folder, f->path,
                     "put base offset %" PRId64 " into the batch at byte %" PRIu64, f->offset,
                     f->position);
        s->position = f->position;
        s->value = f->offset;
        break;
    case FINDING_EPOCHS:
        plan_epoch(p, folder, f, epochs_go_back);
        break;
    case FINDING_INDEX:
    case FINDING_TIME_INDEX:
    case FINDING_TXN_INDEX:
        plan_index(p, folder, f->base_offset);
        break;
    case FINDING_SNAPSHOT:
        if (!planned(p, REPAIR_SET_ASIDE, f->path))
            (void)add_step(p, REPAIR_SET_ASIDE, folder, f->path,
                           "set aside: the log says what it said");
        break;
    case FINDING_EPOCH_CHECKPOINT:
        plan_epochs(p, folder);
        break;
    case FINDING_PARTITION_METADATA:
        if (facts->has_topic_id)
            add_step(p, REPAIR_REWRITE_METADATA, folder, f->path,
                     "write it anew with the topic id that fluxmq-clean-state knows")
                ->topic_id = facts->topic_id;
        else
            (void)add_step(p, REPAIR_IMPOSSIBLE, folder, f->path,
                           "cannot be derived: put the topic's id there (%s)", f->text);
        break;
    case FINDING_LOG_END:
    case FINDING_CHECKPOINT:
        break; /* the directory's checkpoints are written anew */
    default:
        (void)add_step(p, REPAIR_IMPOSSIBLE, folder, f->path, "cannot be repaired: %s", f->text);
        break;
    }
}

static bool epoch_is_planned(const struct repair_plan *p, const char *folder)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->v[i].kind == REPAIR_PATCH_EPOCH && strcmp(p->v[i].folder, folder) == 0)
            return true;
    }
    return false;
}

void repair_plan_partition(struct repair_plan *p, struct env *env, const char *folder,
                           const struct partition_facts *facts, const struct verify_report *r)
{
    bool epochs_go_back;
    const struct finding *cut = first_damage(env, r, &epochs_go_back), *goes_back = NULL;

    if (r->weights[FINDING_DAMAGE] == 0)
        return;
    if (cut != NULL) {
        plan_cut(p, env, folder, cut);
        plan_epochs(p, folder);
    }
    for (size_t i = 0; i < r->count; i++) {
        const struct finding *f = &r->v[i];

        if (f->weight != FINDING_DAMAGE)
            continue;
        /* What lies behind the cut goes with it. */
        if (cut != NULL && (f == cut || (f->base_offset >= 0 && !is_before(f, cut) &&
                                         f->kind != FINDING_PARTITION_METADATA)))
            continue;
        if (cut != NULL && f->kind == FINDING_EPOCHS && !epochs_go_back)
            continue;
        if (f->kind == FINDING_EPOCHS && strstr(f->text, " behind ") != NULL && goes_back == NULL)
            goes_back = f;
        plan_finding(p, folder, f, facts, epochs_go_back);
    }
    /* Of two batches one is wrong, and nothing says which. */
    if (goes_back != NULL && !epoch_is_planned(p, folder))
        (void)add_step(p, REPAIR_IMPOSSIBLE, folder, goes_back->path, "cannot be repaired: %s",
                       goes_back->text);
}

void repair_plan_dir(struct repair_plan *p, const struct log_dir_facts *d,
                     const struct verify_report *r, bool contradicted)
{
    bool logs_change = p->count > p->impossible || contradicted, checkpoints = logs_change;
    bool marker_is_bad = false;
    char path[VERIFY_PATH_MAX];

    for (size_t i = 0; i < r->count; i++) {
        const struct finding *f = &r->v[i];

        if (f->weight != FINDING_DAMAGE)
            continue;
        if (f->kind == FINDING_CHECKPOINT || f->kind == FINDING_LOG_END)
            checkpoints = true;
        else if (f->kind == FINDING_CLEAN_STATE)
            marker_is_bad = true;
        else
            (void)add_step(p, REPAIR_IMPOSSIBLE, NULL, f->path, "cannot be repaired: %s", f->text);
    }
    for (int i = 0; i < CHECKPOINT_FILES && checkpoints; i++) {
        if (d->checkpoints[i].present || i == CHECKPOINT_RECOVERY)
            (void)add_step(p, REPAIR_REWRITE_CHECKPOINT, NULL, d->checkpoints[i].path,
                           "write it anew: its sound lines, and what the logs say");
    }
    (void)snprintf(path, sizeof path, "%s/fluxmq-clean-state", d->path);
    if (logs_change || marker_is_bad)
        add_step(p, REPAIR_FORGET_CLEAN_STATE, NULL, path,
                 "remove it and the clean-shutdown marker, if it is there: the next start then "
                 "looks at every partition")
            ->value = marker_is_bad;
}

/* ---- carrying it out ---- */

static enum err patch(struct env *env, const struct repair_step *s, struct errmsg *why)
{
    uint8_t bytes[8];
    struct file *f;
    enum err e = file_open(env, s->path, 0, &f, why);
    bool offset = s->kind == REPAIR_PATCH_OFFSET;

    if (e != ERR_NONE)
        return e;
    if (offset)
        store_be64(bytes, (uint64_t)s->value);
    else
        store_be32(bytes, (uint32_t)s->value);
    e = file_write(f, s->position + (offset ? 0 : 12), bytes, offset ? 8 : 4, why);
    if (e == ERR_NONE)
        e = file_sync(f, why);
    file_unref(f);
    return e;
}

static enum err copy_rest(struct file *from, uint64_t position, struct file *to, struct errmsg *why)
{
    uint8_t *buffer = xmalloc(COPY_BYTES);
    uint64_t at = position, size = file_size(from);
    enum err e = ERR_NONE;
    size_t n = 1;

    while (e == ERR_NONE && at < size && n > 0) {
        e = file_read(from, at, buffer, (size_t)MIN(size - at, (uint64_t)COPY_BYTES), &n);
        if (e == ERR_NONE && n > 0)
            e = file_write(to, at - position, buffer, n, why);
        at += n;
    }
    free(buffer);
    if (e == ERR_NONE && at < size) {
        errmsg_set(why, "a file became shorter while it was copied");
        e = ERR_IO;
    }
    return e == ERR_NONE ? file_sync(to, why) : e;
}

static enum err cut(struct env *env, const struct repair_step *s, struct errmsg *why)
{
    char path[VERIFY_PATH_MAX], suffix[40];
    struct file *f, *rest;
    enum err e = file_open(env, s->path, 0, &f, why);

    if (e != ERR_NONE)
        return e;
    (void)snprintf(suffix, sizeof suffix, ".%" PRId64 ".cut", s->value);
    segment_path(s->folder, s->base_offset, suffix, path);
    e = file_open(env, path, FILE_CREATE | FILE_TRUNCATE, &rest, why);
    if (e == ERR_NONE) {
        e = copy_rest(f, s->position, rest, why);
        file_unref(rest);
    }
    /* The copy is safe before anything is taken away. */
    if (e == ERR_NONE)
        e = dir_sync(env, s->folder, why);
    if (e == ERR_NONE)
        e = file_truncate(f, s->position, why);
    if (e == ERR_NONE)
        e = file_sync(f, why);
    file_unref(f);
    return e;
}

static enum err remove_file(struct env *env, const char *path, struct errmsg *why)
{
    enum err e = disk_unlink(env, path, why);

    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err remove_indexes(struct env *env, const char *folder, int64_t base,
                               struct errmsg *why)
{
    static const char *const suffixes[] = {".index", ".timeindex", ".txnindex"};
    char path[VERIFY_PATH_MAX];
    enum err e = ERR_NONE;

    for (size_t i = 0; i < ARRAY_COUNT(suffixes) && e == ERR_NONE; i++) {
        segment_path(folder, base, suffixes[i], path);
        e = remove_file(env, path, why);
    }
    return e;
}

static enum err set_aside(struct env *env, const struct repair_step *s, struct errmsg *why)
{
    char to[VERIFY_PATH_MAX];

    (void)snprintf(to, sizeof to, "%s.cut", s->path);

    enum err e = disk_rename(env, s->path, to, why);

    if (e == ERR_NONE && s->base_offset >= 0)
        e = remove_indexes(env, s->folder, s->base_offset, why);
    return e;
}

/* ---- what the batches say ---- */

static enum err store_index(struct env *env, struct index *x, const char *path, struct errmsg *why)
{
    struct index_view v;
    struct file *f;

    if (x->tail_count == 0)
        return ERR_NONE;
    index_view_take(x, &v);

    enum err e = index_store(&v, env, path, &f, why);

    if (e == ERR_NONE)
        index_stored(x, &v, f);
    index_view_drop(&v);
    return e;
}

static enum err store_indexes(struct env *env, const char *folder, struct segment *s,
                              struct errmsg *why)
{
    char path[VERIFY_PATH_MAX];

    segment_path(folder, s->base_offset, ".index", path);

    enum err e = store_index(env, &s->offsets, path, why);

    segment_path(folder, s->base_offset, ".timeindex", path);
    return e == ERR_NONE ? store_index(env, &s->times, path, why) : e;
}

struct replay {
    struct env *env;
    const char *folder;
    struct producer_state producers;
    struct leader_epochs epochs;
    uint8_t *buffer;
    int64_t first_base, end_offset;
};

static void take(struct replay *p, const struct record_batch *b, struct txn_index *aborted)
{
    struct completed_transaction ended;

    /* The cleaner may have been at the front: the first epoch begins with the log all the same. */
    if (b->partition_leader_epoch > leader_epochs_latest(&p->epochs))
        leader_epochs_assign(&p->epochs, b->partition_leader_epoch,
                             p->epochs.count == 0 ? p->first_base : b->base_offset);
    if (producer_state_update(&p->producers, b, INT64_MAX, &ended) && ended.aborted)
        txn_index_append(aborted, &ended);
    p->producers.ended_count = 0;
    p->end_offset = record_batch_last_offset(b) + 1;
}

static enum err write_aborted(struct replay *p, int64_t base, const struct txn_index *aborted,
                              struct errmsg *why)
{
    char path[VERIFY_PATH_MAX];
    size_t size;

    if (aborted->count == 0)
        return ERR_NONE;
    segment_path(p->folder, base, ".txnindex", path);

    uint8_t *bytes = txn_index_encode(aborted, 0, &size);
    enum err e = file_replace(p->env, path, bytes, size, why);

    free(bytes);
    return e;
}

/* Goes over one segment; with `rebuild` its indexes are made anew. */
static enum err replay_segment(struct replay *p, int64_t base, bool last, bool rebuild,
                               struct errmsg *why)
{
    struct segment *s = segment_new(p->env, base);
    struct txn_index aborted = {.v = NULL};
    char path[VERIFY_PATH_MAX];
    struct batch_reader reader;
    struct record_batch b;
    struct file *f = NULL;
    enum err e;

    segment_path(p->folder, base, ".log", path);
    e = file_open(p->env, path, FILE_READ_ONLY, &f, why);
    if (e == ERR_NONE && rebuild)
        e = remove_indexes(p->env, p->folder, base, why);
    p->end_offset = MAX(p->end_offset, base);
    if (e == ERR_NONE) {
        batch_reader_init(&reader, f, 0, file_size(f), p->buffer, COPY_BYTES);
        while ((e = batch_reader_next(&reader, false, &b, why)) == ERR_NONE) {
            take(p, &b, &aborted);
            if (!rebuild)
                continue;
            segment_account(s, &b, INDEX_INTERVAL_BYTES);
            if (s->offsets.tail_count == INDEX_TAIL_ENTRIES_MAX &&
                (e = store_indexes(p->env, p->folder, s, why)) != ERR_NONE)
                break;
        }
        /* What ends the walk is the end, or a tail that a start will look at. */
        e = e == ERR_NOT_FOUND || e == ERR_CORRUPT ? ERR_NONE : e;
    }
    if (e == ERR_NONE && rebuild) {
        if (!last)
            segment_seal(s);
        e = store_indexes(p->env, p->folder, s, why);
    }
    if (e == ERR_NONE && rebuild)
        e = write_aborted(p, base, &aborted, why);
    if (f != NULL)
        file_unref(f);
    txn_index_deinit(&aborted);
    segment_unref(s);
    return e;
}

static void load_first_snapshot(struct replay *p, int64_t base)
{
    char path[VERIFY_PATH_MAX];
    struct errmsg why = {""};
    uint8_t *bytes;
    size_t size;

    segment_path(p->folder, base, ".snapshot", path);
    if (file_slurp(p->env, path, VERIFY_FILE_BYTES_MAX, &bytes, &size, &why) != ERR_NONE)
        return;
    if (producer_state_decode(&p->producers, bytes, size, &why) != ERR_NONE)
        producer_state_clear(&p->producers);
    free(bytes);
}

static bool wants_rebuild(const struct repair_plan *plan, const char *folder, int64_t base)
{
    for (size_t i = 0; i < plan->count; i++) {
        const struct repair_step *s = &plan->v[i];

        if (s->kind == REPAIR_REBUILD_INDEX && s->base_offset == base &&
            strcmp(s->folder, folder) == 0)
            return true;
    }
    return false;
}

/* One pass over the partition, in which all its rebuilds happen. */
static enum err replay_partition(const struct repair_plan *plan, struct env *env,
                                 const char *folder, int64_t start_offset, bool epochs,
                                 int64_t *first, int64_t *active, int64_t *end, struct errmsg *why)
{
    struct replay p = {.env = env, .folder = folder};
    struct folder files;
    enum err e = folder_read(env, folder, &files, why);

    if (e != ERR_NONE)
        return e;
    producer_state_init(&p.producers, 0);
    p.buffer = xmalloc(COPY_BYTES);
    if (files.segment_count > 0) {
        p.first_base = files.segments[0];
        load_first_snapshot(&p, p.first_base);
    }
    for (int i = 0; i < files.segment_count && e == ERR_NONE; i++)
        e = replay_segment(&p, files.segments[i], i + 1 == files.segment_count,
                           plan != NULL && wants_rebuild(plan, folder, files.segments[i]), why);
    if (e == ERR_NONE && epochs) {
        struct text t = {.ptr = NULL};
        char path[VERIFY_PATH_MAX];

        leader_epochs_truncate_start(&p.epochs, MIN(start_offset, p.end_offset));
        leader_epochs_format(&p.epochs, &t);
        (void)snprintf(path, sizeof path, "%s/leader-epoch-checkpoint", folder);
        e = file_replace(env, path, t.ptr, t.size, why);
        text_deinit(&t);
    }
    *first = p.first_base;
    *active = files.segment_count > 0 ? files.segments[files.segment_count - 1] : 0;
    *end = p.end_offset;
    free(p.buffer);
    producer_state_deinit(&p.producers);
    leader_epochs_deinit(&p.epochs);
    folder_deinit(&files);
    return e;
}

/* ---- checkpoints ---- */

static int64_t line_of(int kind, const struct partition_facts *facts, int64_t first, int64_t active,
                       int64_t end)
{
    int64_t start = MAX(first, MIN(facts->start_offset, end));

    switch (kind) {
    case CHECKPOINT_RECOVERY:
        if (facts->clean)
            return end;
        return facts->recovery_point < 0 ? active : MIN(facts->recovery_point, end);
    case CHECKPOINT_HIGH_WATERMARK:
        return facts->high_watermark < 0 ? end : MAX(MIN(facts->high_watermark, end), start);
    case CHECKPOINT_START:
        return start > first ? start : -1;
    default:
        return facts->first_dirty > 0 ? MIN(facts->first_dirty, end) : -1;
    }
}

static enum err rewrite_checkpoint(struct env *env, const struct log_dir_facts *d, int kind,
                                   struct errmsg *why)
{
    struct text lines = {.ptr = NULL}, t = {.ptr = NULL};
    enum err e = ERR_NONE;
    int count = 0;

    for (size_t i = 0; i < d->folder_count && e == ERR_NONE; i++) {
        int64_t first, active, end, offset;
        struct partition_facts facts;
        char topic[250], path[VERIFY_PATH_MAX];
        int32_t partition;

        if (!partition_folder_parse(d->folders[i], topic, &partition) ||
            strcmp(topic, "__cluster_metadata") == 0)
            continue;
        log_dir_facts_of(d, topic, partition, &facts);
        (void)snprintf(path, sizeof path, "%s/%s", d->path, d->folders[i]);
        e = replay_partition(NULL, env, path, 0, false, &first, &active, &end, why);
        offset = line_of(kind, &facts, first, active, end);
        if (e == ERR_NONE && offset >= 0) {
            text_add(&lines, "%s %d %" PRId64 "\n", topic, partition, offset);
            count++;
        }
    }
    text_add(&t, "0\n%d\n%s", count, lines.ptr != NULL ? lines.ptr : "");
    if (e == ERR_NONE)
        e = file_replace(env, d->checkpoints[kind].path, t.ptr, t.size, why);
    text_deinit(&lines);
    text_deinit(&t);
    return e;
}

static enum err rewrite_by_path(struct env *env, const struct log_dir_facts *dirs, size_t dir_count,
                                const char *path, struct errmsg *why)
{
    for (size_t i = 0; i < dir_count; i++) {
        for (int kind = 0; kind < CHECKPOINT_FILES; kind++) {
            if (strcmp(dirs[i].checkpoints[kind].path, path) == 0)
                return rewrite_checkpoint(env, &dirs[i], kind, why);
        }
    }
    return ERR_NONE;
}

/* Ours goes with its marker. A marker alone is Kafka's: it goes when it is damaged itself, else the
 * logs are whole again and it is right. */
static enum err forget_clean_state(struct env *env, const struct repair_step *s, struct errmsg *why)
{
    char marker[VERIFY_PATH_MAX];
    enum err e = disk_unlink(env, s->path, why);
    const char *slash = strrchr(s->path, '/');

    if (e == ERR_NOT_FOUND && s->value == 0)
        return ERR_NONE;
    (void)snprintf(marker, sizeof marker, "%.*s/.kafka_cleanshutdown", (int)(slash - s->path),
                   s->path);
    return e == ERR_NONE || e == ERR_NOT_FOUND ? remove_file(env, marker, why) : e;
}

static enum err rewrite_metadata(struct env *env, const struct repair_step *s, struct errmsg *why)
{
    struct text t = {.ptr = NULL};

    partition_metadata_format(&t, &s->topic_id);

    enum err e = file_replace(env, s->path, t.ptr, t.size, why);

    text_deinit(&t);
    return e;
}

static int64_t start_of(const struct log_dir_facts *dirs, size_t dir_count, const char *folder)
{
    const char *slash = strrchr(folder, '/');
    struct partition_facts facts;
    char topic[250];
    int32_t partition;

    if (slash == NULL || !partition_folder_parse(slash + 1, topic, &partition))
        return 0;
    for (size_t i = 0; i < dir_count; i++) {
        if (strlen(dirs[i].path) != (size_t)(slash - folder) ||
            strncmp(dirs[i].path, folder, (size_t)(slash - folder)) != 0)
            continue;
        log_dir_facts_of(&dirs[i], topic, partition, &facts);
        return MAX(facts.start_offset, (int64_t)0);
    }
    return 0;
}

/* The rebuilds of one partition are done together, at the last of its steps. */
static bool is_last_of_folder(const struct repair_plan *p, size_t at)
{
    for (size_t i = at + 1; i < p->count; i++) {
        if (p->v[i].folder != NULL && strcmp(p->v[i].folder, p->v[at].folder) == 0)
            return false;
    }
    return true;
}

static enum err rebuild(const struct repair_plan *p, struct env *env, const char *folder,
                        int64_t start_offset, struct errmsg *why)
{
    int64_t first, active, end;
    bool epochs = false, any = false;

    for (size_t i = 0; i < p->count; i++) {
        const struct repair_step *s = &p->v[i];

        if (s->folder == NULL || strcmp(s->folder, folder) != 0)
            continue;
        epochs = epochs || s->kind == REPAIR_REBUILD_EPOCHS;
        any = any || s->kind == REPAIR_REBUILD_EPOCHS || s->kind == REPAIR_REBUILD_INDEX;
    }
    if (!any)
        return ERR_NONE;
    return replay_partition(p, env, folder, start_offset, epochs, &first, &active, &end, why);
}

enum err repair_apply(const struct repair_plan *p, struct env *env,
                      const struct log_dir_facts *dirs, size_t dir_count, struct errmsg *why)
{
    enum err e = ERR_NONE;

    for (size_t i = 0; i < p->count && e == ERR_NONE; i++) {
        const struct repair_step *s = &p->v[i];

        switch (s->kind) {
        case REPAIR_PATCH_OFFSET:
        case REPAIR_PATCH_EPOCH:
            e = patch(env, s, why);
            break;
        case REPAIR_CUT:
            e = cut(env, s, why);
            break;
        case REPAIR_SET_ASIDE:
            e = set_aside(env, s, why);
            break;
        case REPAIR_REWRITE_METADATA:
            e = rewrite_metadata(env, s, why);
            break;
        case REPAIR_REWRITE_CHECKPOINT:
            e = rewrite_by_path(env, dirs, dir_count, s->path, why);
            break;
        case REPAIR_FORGET_CLEAN_STATE:
            e = forget_clean_state(env, s, why);
            break;
        case REPAIR_REBUILD_INDEX:
        case REPAIR_REBUILD_EPOCHS:
        case REPAIR_IMPOSSIBLE:
            break;
        }
        if (e == ERR_NONE && s->folder != NULL && is_last_of_folder(p, i))
            e = rebuild(p, env, s->folder, start_of(dirs, dir_count, s->folder), why);
    }
    for (size_t i = 0; i < p->count && e == ERR_NONE; i++) {
        if (p->v[i].folder != NULL)
            e = dir_sync(env, p->v[i].folder, why);
    }
    return e;
}
