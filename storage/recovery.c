#include "storage/recovery.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "protocol/base/mutant.h"
#include "storage/log_internal.h"

#define SMALL_FILE_BYTES_MAX ((size_t)256 << 20)
#define CUT_NAME_SIZE        96

/* ---- the folder ---- */

static void push_offset(int64_t **v, int *count, int64_t offset)
{
    if ((*count & (*count - 1)) == 0) /* grows at each power of two */
        *v = xrealloc(*v, (size_t)MAX(*count * 2, 1) * sizeof **v);
    (*v)[(*count)++] = offset;
}

static void push_name(char ***v, int *count, const char *name)
{
    if ((*count & (*count - 1)) == 0)
        *v = xrealloc(*v, (size_t)MAX(*count * 2, 1) * sizeof **v);
    (*v)[(*count)++] = xstrdup(name);
}

static void free_names(char **v, int count)
{
    for (int i = 0; i < count; i++)
        free(v[i]);
    free(v);
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);

    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static void sort_entry(void *ctx, const struct dir_entry *e)
{
    struct folder *f = ctx;
    int64_t offset;

    if (e->is_dir)
        return;
    if (segment_name_offset(e->name, ".log", &offset))
        push_offset(&f->segments, &f->segment_count, offset); /* the list is sorted by name */
    else if (segment_name_offset(e->name, ".snapshot", &offset))
        push_offset(&f->snapshots, &f->snapshot_count, offset);
    else if (ends_with(e->name, LOG_CUT_SUFFIX))
        push_name(&f->cuts, &f->cut_count, e->name);
    else if (ends_with(e->name, ".fluxmq-cut") || ends_with(e->name, ".deleted") ||
             ends_with(e->name, ".cleaned") || ends_with(e->name, ".tmp"))
        push_name(&f->leftovers, &f->leftover_count, e->name);
}

static bool has_segment(const struct folder *f, int64_t base)
{
    for (int i = 0; i < f->segment_count; i++) {
        if (f->segments[i] == base)
            return true;
    }
    return false;
}

/* Hints without records. */
static void sort_orphan(void *ctx, const struct dir_entry *e)
{
    struct folder *f = ctx;
    int64_t offset;

    if (!e->is_dir &&
        (segment_name_offset(e->name, ".index", &offset) ||
         segment_name_offset(e->name, ".timeindex", &offset) ||
         segment_name_offset(e->name, ".txnindex", &offset)) &&
        !has_segment(f, offset))
        push_name(&f->leftovers, &f->leftover_count, e->name);
}

enum err folder_read(struct env *env, const char *path, struct folder *out, struct errmsg *why)
{
    *out = (struct folder){.segment_count = 0};

    enum err e = dir_list(env, path, sort_entry, out, why);

    if (e == ERR_NONE)
        e = dir_list(env, path, sort_orphan, out, why);
    if (e != ERR_NONE)
        folder_deinit(out);
    return e;
}

void folder_deinit(struct folder *f)
{
    free_names(f->leftovers, f->leftover_count);
    free_names(f->cuts, f->cut_count);
    free(f->segments);
    free(f->snapshots);
    *f = (struct folder){.segment_count = 0};
}

/* ---- a recovery in progress ---- */

struct recovery {
    struct log *l;
    struct folder *folder;
    int64_t recovery_point;
    bool ended;      /* the log's end was found; what follows is set aside */
    bool cut;        /* something was */
    int32_t epoch;   /* of the last batch of the tail so far, INT32_MIN: none was read */
    bool scanned;    /* the tail was read: epochs from it are known */
    bool gaps;       /* batches have been seen that a cleaner thinned out: offsets may be missing */
    uint8_t *buffer; /* BATCH_READER_LARGE */
    struct errmsg why;
};

static void path_of(const struct recovery *r, int64_t base, const char *suffix,
                    char out[LOG_PATH_MAX])
{
    char name[SEGMENT_NAME_SIZE];

    segment_file_name(base, suffix, name);
    log_path(r->l, name, out);
}

static enum err found_corrupt(struct recovery *r, const struct segment *s, const char *what)
{
    struct errmsg why; /* `what` may lie in r->why */

    errmsg_set(&why, "%020lld.log: %s; it lies below the recovery point %lld",
               (long long)s->base_offset, what, (long long)r->recovery_point);
    r->why = why;
    return ERR_CORRUPT;
}

/* ---- hints ---- */

static enum err forget_index(struct recovery *r, struct segment *s, struct index *x,
                             const char *suffix)
{
    char path[LOG_PATH_MAX];

    index_deinit(x);
    index_init(x, x->kind, x->base_offset);
    path_of(r, s->base_offset, suffix, path);
    return index_cut(x, r->l->env, path, -1, &r->why);
}

/* Loads both indexes; false when they do not hold together and must be made anew. */
static enum err load_indexes(struct recovery *r, struct segment *s, uint64_t size, int64_t end,
                             bool *sound)
{
    char path[LOG_PATH_MAX];
    bool offsets_sound, times_sound;

    path_of(r, s->base_offset, ".index", path);
    enum err e = index_load(&s->offsets, r->l->env, path, (int64_t)size, &offsets_sound);

    if (e != ERR_NONE)
        return e;
    path_of(r, s->base_offset, ".timeindex", path);
    e = index_load(&s->times, r->l->env, path, end, &times_sound);
    *sound = offsets_sound && times_sound;
    return e;
}

static enum err load_aborted(struct recovery *r, struct segment *s)
{
    char path[LOG_PATH_MAX];
    struct txn_index x = {.count = 0};
    struct errmsg why;
    uint8_t *p;
    size_t size;

    path_of(r, s->base_offset, ".txnindex", path);

    enum err e = file_slurp(r->l->env, path, SMALL_FILE_BYTES_MAX, &p, &size, &why);

    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e != ERR_NONE) {
        r->why = why;
        return e;
    }
    /* What cannot be read is found again when the producers' state is replayed. */
    (void)txn_index_decode(&x, p, size, s->base_offset);
    free(p);
    if (x.count == 0)
        return ERR_NONE;
    s->aborted = xmalloc(sizeof *s->aborted);
    *s->aborted = x;
    return ERR_NONE;
}

/* ---- walking ---- */

/* The tails must not outgrow memory while a whole segment is walked. */
static enum err store_when_large(struct recovery *r, struct segment *s)
{
    if (s->offsets.tail_count < INDEX_TAIL_ENTRIES_MAX &&
        s->times.tail_count < INDEX_TAIL_ENTRIES_MAX)
        return ERR_NONE;
    return log_store_indexes(r->l, s, &r->why);
}

struct walk {
    uint64_t end; /* do not look further */
    bool check_crc, epochs;
    int64_t next_base; /* of the segment behind it, INT64_MAX: none */
    bool dense;        /* offsets must follow each other: no cleaner works on an active segment */
    int64_t doubtful;  /* out: position of a batch that its successor contradicts, -1 */
    uint64_t unsynced; /* out: position of the first one that reaches above the recovery point */
};

/* Base offset and leader epoch lie outside the CRC; what can be told of them is that they grow,
 * from segment to segment too. */
static bool fits(struct recovery *r, const struct segment *s, const struct record_batch *b,
                 const struct walk *w, int32_t epoch_before)
{
    bool gap = b->base_offset != s->next_offset;

    /* Who leaps over a gap into the next segment is contradicted by that one. */
    if (b->base_offset < s->next_offset || (w->dense && gap) ||
        (gap && record_batch_last_offset(b) >= w->next_base) ||
        !segment_can_hold(s, record_batch_last_offset(b))) {
        errmsg_set(&r->why, "position %llu: found base offset %lld, expected %lld",
                   (unsigned long long)s->size_bytes, (long long)b->base_offset,
                   (long long)s->next_offset);
        return false;
    }
    if (b->partition_leader_epoch < epoch_before) {
        errmsg_set(&r->why, "position %llu: found leader epoch %d behind %d",
                   (unsigned long long)s->size_bytes, b->partition_leader_epoch, epoch_before);
        return false;
    }
    return true;
}

/* Accounts for the batches from `position` on until the first that does not fit, or the end.
 * ERR_CORRUPT: r->why says what ended them; s->size_bytes is where. */
static enum err walk(struct recovery *r, struct segment *s, struct file *f, uint64_t position,
                     struct walk *w)
{
    struct batch_reader reader;
    struct record_batch b;
    int32_t epoch = w->epochs ? r->epoch : INT32_MIN;
    int64_t doubtful = -1; /* the batch just accounted for, if it left a gap or began an epoch */
    enum err e;

    w->doubtful = -1;
    w->unsynced = UINT64_MAX;
    r->why.text[0] = '\0';
    batch_reader_init(&reader, f, position, MIN(w->end, file_size(f)), r->buffer,
                      w->check_crc ? BATCH_READER_LARGE : BATCH_READER_SMALL);
    while ((e = batch_reader_next(&reader, w->check_crc && !MUTANT(19), &b, &r->why)) == ERR_NONE) {
        bool gap = b.base_offset != s->next_offset;
        bool new_epoch = epoch != INT32_MIN && b.partition_leader_epoch > epoch;

        if (!fits(r, s, &b, w, epoch)) {
            w->doubtful = doubtful;
            return ERR_CORRUPT;
        }
        e = store_when_large(r, s);
        if (e != ERR_NONE)
            return e;
        if (w->unsynced == UINT64_MAX && record_batch_last_offset(&b) >= r->recovery_point)
            w->unsynced = s->size_bytes;
        r->gaps = r->gaps || gap || b.record_count != b.last_offset_delta + 1;
        doubtful = gap || new_epoch ? (int64_t)s->size_bytes : -1;
        epoch = b.partition_leader_epoch;
        if (w->epochs && epoch > leader_epochs_latest(&r->l->epochs))
            leader_epochs_assign(&r->l->epochs, epoch, b.base_offset);
        segment_account(s, &b, r->l->config.index_interval_bytes);
        if (w->epochs)
            r->epoch = epoch;
        if (w->check_crc)
            checked_add(&s->checked, s->size_bytes - (uint64_t)b.size_bytes, s->size_bytes,
                        s->next_offset);
    }
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static void restart(struct segment *s)
{
    s->size_bytes = 0;
    s->next_offset = s->base_offset;
    s->first_timestamp_ms = s->max_timestamp_ms = s->max_timestamp_offset = -1;
    s->bytes_since_index = 0;
    s->checked.count = 0;
}

static enum err first_timestamp(struct recovery *r, struct segment *s, struct file *f)
{
    struct batch_reader reader;
    struct record_batch b;

    batch_reader_init(&reader, f, 0, file_size(f), r->buffer, BATCH_READER_SMALL);

    enum err e = batch_reader_next(&reader, false, &b, &r->why);

    if (e == ERR_NONE)
        s->first_timestamp_ms = b.max_timestamp;
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

/* Puts the segment where index entry `e` says, as if everything before had been accounted for. */
static void resume_at(struct segment *s, const struct index_entry *e, int64_t base_offset)
{
    s->size_bytes = (uint64_t)e->value;
    s->next_offset = base_offset;
    s->bytes_since_index = 0;
    if (s->times.stored_count > 0) {
        s->max_timestamp_ms = s->times.last.key;
        s->max_timestamp_offset = s->times.last.value;
    }
}

/* Finds the youngest index entry whose batch ends below `offset` and really stands there; the
 * indexes then end with it. False: begin at the front, with empty indexes. */
static enum err resume(struct recovery *r, struct segment *s, struct file *f, int64_t offset,
                       bool check_crc, bool *resumed)
{
    char path[LOG_PATH_MAX];
    struct batch_reader reader;
    struct record_batch b;
    struct index_entry at = {.key = -1};
    enum err e;

    *resumed = false;
    path_of(r, s->base_offset, ".index", path);
    e = index_cut(&s->offsets, r->l->env, path, offset - 1, &r->why);
    if (e != ERR_NONE)
        return e;
    if (s->offsets.stored_count > 0)
        at = s->offsets.last;
    path_of(r, s->base_offset, ".timeindex", path);
    e = index_cut(&s->times, r->l->env, path, at.key, &r->why);
    if (e != ERR_NONE || at.key < 0)
        return e;
    batch_reader_init(&reader, f, (uint64_t)at.value, file_size(f), r->buffer, BATCH_READER_LARGE);
    if (batch_reader_next(&reader, check_crc && !MUTANT(19), &b, &r->why) != ERR_NONE ||
        record_batch_last_offset(&b) != at.key || b.base_offset < s->base_offset)
        return ERR_NONE;
    *resumed = true;
    e = first_timestamp(r, s, f);
    resume_at(s, &at, b.base_offset);
    return e;
}

static enum err start_over(struct recovery *r, struct segment *s)
{
    enum err e = forget_index(r, s, &s->offsets, ".index");

    if (e == ERR_NONE)
        e = forget_index(r, s, &s->times, ".timeindex");
    restart(s);
    return e;
}

/* ---- a segment below the recovery point ---- */

/* Whether the last entry of the time index, from which the segment's greatest timestamp is known,
 * is about the batch that it names. */
static bool last_time_fits(struct recovery *r, const struct segment *s, struct file *f)
{
    struct segment_view v = {.base_offset = s->base_offset,
                             .next_offset = INT64_MAX,
                             .size_bytes = file_size(f),
                             .file = f};
    char path[LOG_PATH_MAX];
    struct batch_position at;
    struct errmsg why;

    path_of(r, s->base_offset, ".index", path);
    index_view_take(&s->offsets, &v.offsets);
    if (s->offsets.stored_count > 0 &&
        file_open(r->l->env, path, FILE_READ_ONLY, &v.offsets.file, &why) != ERR_NONE)
        v.offsets.stored_count = 0;

    const struct index_entry *t = &s->times.last;
    bool fits = segment_locate(&v, t->value, 0, &at) == ERR_NONE &&
                at.batch.base_offset <= t->value && at.batch.max_timestamp == t->key;

    index_view_drop(&v.offsets);
    return fits;
}

/* The room that a roll gave back is there again after a power failure, for nothing waits until that
 * is on the disk: zeros behind the last record, where the next segment goes on. Anything else that
 * ends the walk is corruption. */
static enum err drop_room(struct recovery *r, struct segment *s, struct file *f, int64_t next_base)
{
    struct errmsg why = r->why;
    bool zero = false;
    enum err e = ERR_NONE;

    if (s->next_offset == next_base)
        e = file_rest_is_zero(f, s->size_bytes, file_size(f), &zero);
    if (e == ERR_NONE && !zero)
        return found_corrupt(r, s, why.text);
    return e == ERR_NONE ? file_truncate(f, s->size_bytes, &r->why) : e;
}

static enum err recover_sealed(struct recovery *r, struct segment *s, struct file *f,
                               int64_t next_base)
{
    bool sound, resumed = false;
    enum err e = load_indexes(r, s, file_size(f), next_base, &sound);

    if (e == ERR_NONE && sound && s->times.stored_count > 0 && last_time_fits(r, s, f))
        e = resume(r, s, f, INT64_MAX, false, &resumed);
    if (e == ERR_NONE && !resumed)
        e = start_over(r, s);
    if (e == ERR_NONE)
        e = walk(r, s, f, s->size_bytes, &(struct walk){.end = UINT64_MAX, .next_base = INT64_MAX});
    if (e == ERR_CORRUPT)
        e = drop_room(r, s, f, next_base);
    if (e != ERR_NONE)
        return e;
    if (s->next_offset > next_base)
        return found_corrupt(r, s, "it reaches into the next segment");
    if (s->next_offset < next_base && !r->gaps)
        return found_corrupt(r, s, "records are missing at its end");
    segment_seal(s);
    return resumed && s->times.tail_count == 0 && s->offsets.tail_count == 0
               ? ERR_NONE
               : log_store_indexes(r->l, s, &r->why);
}

/* ---- the segment that holds the recovery point, and those above ---- */

/* What was cut is there, under its new name, whatever happens to the log from here on. */
static enum err sync_folder(struct recovery *r)
{
    char path[LOG_PATH_MAX];

    log_path(r->l, "", path);
    return dir_sync(r->l->env, path, &r->why);
}

static void note_cut(struct recovery *r, const char *name)
{
    r->cut = r->ended = true;
    r->l->was_cut = r->l->cut_kept = true;
    for (int i = 0; i < r->folder->cut_count; i++) {
        if (strcmp(r->folder->cuts[i], name) != 0)
            continue;
        free(r->folder->cuts[i]); /* the same once more */
        r->folder->cuts[i] = r->folder->cuts[--r->folder->cut_count];
        return;
    }
}

/* Whether the file holds the front of what lies behind `from`, or all of it: an earlier recovery
 * cut the same, and did not end. */
static bool holds_front_of(struct recovery *r, const char *path, struct file *f, uint64_t from)
{
    struct file *cut;
    struct errmsg ignored;
    size_t half = BATCH_READER_LARGE / 2, n = 0, m = 0;
    bool same = file_open(r->l->env, path, FILE_READ_ONLY, &cut, &ignored) == ERR_NONE;

    if (!same)
        return false;
    same = file_size(cut) <= file_size(f) - from;
    for (uint64_t at = 0; same && at < file_size(cut); at += n) {
        same = file_read(cut, at, r->buffer, half, &n) == ERR_NONE && n > 0 &&
               file_read(f, from + at, r->buffer + half, n, &m) == ERR_NONE && m == n &&
               memcmp(r->buffer, r->buffer + half, n) == 0;
    }
    file_unref(cut);
    return same;
}

/* STEM.unsynced.cut, or when an earlier recovery has left something else under that name, which may
 * be the last copy: STEM.2.unsynced.cut and so on. `f` NULL: a whole file. */
static void name_cut(struct recovery *r, const char *stem, struct file *f, uint64_t from,
                     char name[CUT_NAME_SIZE])
{
    (void)snprintf(name, CUT_NAME_SIZE, "%s" LOG_CUT_SUFFIX, stem);
    for (int n = 2;; n++) {
        char path[LOG_PATH_MAX];
        bool taken = false;

        for (int i = 0; i < r->folder->cut_count && !taken; i++)
            taken = strcmp(r->folder->cuts[i], name) == 0;
        log_path(r->l, name, path);
        if (!taken || (f != NULL && holds_front_of(r, path, f, from)))
            return;
        (void)snprintf(name, CUT_NAME_SIZE, "%s.%d" LOG_CUT_SUFFIX, stem, n);
    }
}

/* Keeps what lies behind the log's end beside it. */
static enum err keep_cut(struct recovery *r, const char *name, uint64_t from, struct file *f)
{
    char path[LOG_PATH_MAX];
    uint64_t size = file_size(f);
    struct file *cut = NULL;
    size_t n = 0;

    log_path(r->l, name, path);

    enum err e = file_open(r->l->env, path, FILE_CREATE | FILE_TRUNCATE, &cut, &r->why);

    for (uint64_t at = from; e == ERR_NONE && at < size; at += n) {
        e = file_read(f, at, r->buffer, (size_t)MIN(size - at, BATCH_READER_LARGE), &n);
        if (e == ERR_NONE && n == 0)
            break;
        if (e == ERR_NONE)
            e = file_write(cut, at - from, r->buffer, n, &r->why);
    }
    if (e == ERR_NONE)
        e = file_sync(cut, &r->why);
    if (cut != NULL)
        file_unref(cut);
    return e == ERR_NONE ? sync_folder(r) : e;
}

static enum err cut_tail(struct recovery *r, struct segment *s, struct file *f)
{
    char log[288], stem[64], name[CUT_NAME_SIZE];
    struct errmsg why = r->why;
    bool zero;
    enum err e = file_rest_is_zero(f, s->size_bytes, file_size(f), &zero);

    if (e != ERR_NONE)
        return e;
    if (!zero) {
        (void)snprintf(stem, sizeof stem, "%020lld.%lld", (long long)s->base_offset,
                       (long long)s->next_offset);
        name_cut(r, stem, f, s->size_bytes, name);
        log_name(r->l, log);
        log_warn(r->l->logger, "storage",
                 "%s: %020lld.log ends at offset %lld: %s; what is behind it is kept as %s (%llu "
                 "bytes) until another replica has it",
                 log, (long long)s->base_offset, (long long)s->next_offset, why.text, name,
                 (unsigned long long)(file_size(f) - s->size_bytes));
        note_cut(r, name);
        e = keep_cut(r, name, s->size_bytes, f);
    }
    if (e == ERR_NONE)
        e = file_truncate(f, s->size_bytes, &r->why);
    return e == ERR_NONE && !zero ? file_sync(f, &r->why) : e;
}

/* Puts the same bytes into the file once more. After a failed sync, and a restart without a power
 * failure, they may be in the page cache alone, in pages that the kernel takes for clean: a later
 * sync would succeed and write nothing. */
static enum err write_again(struct recovery *r, struct file *f, uint64_t from, uint64_t end)
{
    enum err e = ERR_NONE;
    size_t n = 0;

    for (uint64_t at = from; e == ERR_NONE && at < end; at += n) {
        e = file_read(f, at, r->buffer, (size_t)MIN(end - at, BATCH_READER_LARGE), &n);
        if (e == ERR_NONE && n == 0)
            e = ERR_IO; /* it was there a moment ago */
        if (e == ERR_NONE)
            e = file_write(f, at, r->buffer, n, &r->why);
    }
    return e;
}

static enum err recover_tail(struct recovery *r, struct segment *s, struct file *f,
                             int64_t next_base)
{
    bool sound, resumed = false;
    int64_t end = s->base_offset + INT32_MAX;
    int32_t epoch_before = r->epoch;
    struct walk w = {.end = UINT64_MAX,
                     .check_crc = true,
                     .epochs = true,
                     .next_base = next_base,
                     .dense = next_base == INT64_MAX};
    enum err e = load_indexes(r, s, file_size(f), end, &sound);

    if (e == ERR_NONE)
        e = resume(r, s, f, r->recovery_point, true, &resumed);
    if (e == ERR_NONE && !resumed)
        e = start_over(r, s);
    if (e != ERR_NONE)
        return e;
    if (!r->scanned)
        leader_epochs_truncate_end(&r->l->epochs, s->next_offset);
    r->scanned = true;
    e = walk(r, s, f, s->size_bytes, &w);
    if (e == ERR_CORRUPT && w.doubtful >= 0) {
        /* Of two batches that contradict each other the first may be the one that lies. */
        struct errmsg why = r->why;

        w.end = (uint64_t)w.doubtful;
        leader_epochs_truncate_end(&r->l->epochs, s->base_offset);
        r->epoch = epoch_before;
        e = start_over(r, s);
        if (e == ERR_NONE)
            e = walk(r, s, f, 0, &w);
        if (e == ERR_NONE)
            e = ERR_CORRUPT;
        r->why = why;
    }
    if (e == ERR_CORRUPT) {
        /* Zeros below the recovery point are no preallocation: records were there. */
        if (s->next_offset < r->recovery_point)
            return found_corrupt(r, s, r->why.text);
        e = cut_tail(r, s, f);
    }
    if (e != ERR_NONE)
        return e;
    if (s->next_offset < MIN(r->recovery_point, next_base) && !r->gaps)
        return found_corrupt(r, s, "records are missing at its end");
    s->dirty = s->next_offset > r->recovery_point;
    if (!s->dirty)
        return ERR_NONE;
    s->file = file_ref(f); /* stays open until it is synced */
    return write_again(r, f, w.unsynced, s->size_bytes);
}

/* A segment behind the log's end. */
static enum err set_aside(struct recovery *r, int64_t base, const char *reason)
{
    char from[LOG_PATH_MAX], to[LOG_PATH_MAX], stem[SEGMENT_NAME_SIZE], name[CUT_NAME_SIZE];
    char log[288];
    struct file *f;
    uint64_t size = 0;

    path_of(r, base, ".log", from);
    segment_file_name(base, ".log", stem);
    name_cut(r, stem, NULL, 0, name);
    log_path(r->l, name, to);
    if (file_open(r->l->env, from, FILE_READ_ONLY, &f, &r->why) == ERR_NONE) {
        size = file_size(f);
        file_unref(f);
    }
    log_name(r->l, log);
    log_warn(r->l->logger, "storage",
             "%s: %020lld.log %s; it is kept as %s (%llu bytes) until another replica has it", log,
             (long long)base, reason, name, (unsigned long long)size);
    log_discard_file(r->l, base, ".index");
    log_discard_file(r->l, base, ".timeindex");
    log_discard_file(r->l, base, ".txnindex");
    log_discard_file(r->l, base, ".snapshot");
    note_cut(r, name);
    return disk_rename(r->l->env, from, to, &r->why);
}

static enum err recover_segment(struct recovery *r, int64_t base, int64_t next_base)
{
    struct log *l = r->l;
    char path[LOG_PATH_MAX];
    struct file *f;
    const struct segment *before = log_active(l);

    path_of(r, base, ".log", path);

    enum err e = file_open(l->env, path, 0, &f, &r->why);

    if (e != ERR_NONE)
        return e;

    struct segment *s = segment_new(l->env, base);

    s->modified_ms = env_unix_ms(l->env);
    if (before != NULL && before->next_offset > base) {
        errmsg_set(&r->why, "%020lld.log: the segment before it ends at %lld", (long long)base,
                   (long long)before->next_offset);
        e = ERR_CORRUPT;
    } else if (next_base <= r->recovery_point) {
        e = recover_sealed(r, s, f, next_base);
    } else {
        e = recover_tail(r, s, f, next_base);
    }
    if (e == ERR_NONE)
        e = load_aborted(r, s);
    file_unref(f);
    if (e != ERR_NONE) {
        segment_unref(s);
        return e;
    }
    log_push_segment(l, s);
    return ERR_NONE;
}

/* In the tail a gap between segments is an end like any other, and so is an overlap: of two
 * segments that hold the same offsets the one that continues what lies before is the log. NULL:
 * the segment continues it, or lies below the recovery point, where nothing is cut. */
static const char *misfit(const struct recovery *r, int64_t base)
{
    const struct segment *last = log_active(r->l);

    if (r->ended)
        return "lies behind the end of the log";
    if (last == NULL || base < r->recovery_point || last->next_offset == base)
        return NULL;
    if (last->next_offset > base)
        return "begins before the segment before it ends";
    return r->gaps ? NULL : "does not follow the segment before it";
}

/* A segment without records in the midst of others: all that its name says is said by them. */
static bool is_void(struct recovery *r, int64_t base)
{
    const struct segment *last = log_active(r->l);
    char path[LOG_PATH_MAX];
    struct file *f;

    if (last == NULL || last->next_offset <= base)
        return false;
    path_of(r, base, ".log", path);
    if (file_open(r->l->env, path, FILE_READ_ONLY, &f, &r->why) != ERR_NONE)
        return false;

    bool empty = file_size(f) == 0;

    file_unref(f);
    return empty;
}

static enum err recover_segments(struct recovery *r, const struct folder *f)
{
    enum err e = ERR_NONE;

    for (int i = 0; i < f->segment_count && e == ERR_NONE; i++) {
        int64_t base = f->segments[i];
        int64_t next = i + 1 < f->segment_count ? f->segments[i + 1] : INT64_MAX;
        const char *reason;

        if (is_void(r, base)) {
            log_discard_file(r->l, base, ".log");
            continue;
        }
        reason = misfit(r, base);
        e = reason != NULL ? set_aside(r, base, reason) : recover_segment(r, base, next);
        /* All but the last one are complete; the seal puts in what their time index lacks. */
        struct segment *s = log_active(r->l);

        if (e == ERR_NONE && s != NULL && !r->ended && i + 1 < f->segment_count && !s->sealed) {
            segment_seal(s);
            e = log_store_indexes(r->l, s, &r->why);
        }
    }
    /* No segment at all: what was synced was there, under a name that was synced. */
    if (e == ERR_NONE && f->segment_count == 0 && r->recovery_point > 0) {
        errmsg_set(&r->why, "no .log file: found none, expected records up to offset %lld",
                   (long long)r->recovery_point);
        e = ERR_CORRUPT;
    }
    return e == ERR_NONE && r->cut ? sync_folder(r) : e;
}

/* ---- epochs and producers ---- */

static enum err read_epochs(struct recovery *r, bool *sound)
{
    char path[LOG_PATH_MAX];
    struct errmsg why;
    uint8_t *p;
    size_t size;

    log_path(r->l, "leader-epoch-checkpoint", path);

    enum err e = file_slurp(r->l->env, path, SMALL_FILE_BYTES_MAX, &p, &size, &why);

    *sound = false;
    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e != ERR_NONE) {
        r->why = why;
        return e;
    }
    r->l->epochs_saved = true;
    *sound = leader_epochs_parse(p, size, &r->l->epochs, &why) == ERR_NONE;
    if (!*sound)
        leader_epochs_deinit(&r->l->epochs);
    free(p);
    return ERR_NONE;
}

struct replay {
    struct log *l;
    int64_t from, until;              /* batches that begin in there */
    struct producer_state *producers; /* NULL: not looked for */
    bool aborted;                     /* transactions, into the segments */
    bool epochs;
    struct leader_epochs found;
};

static enum err replay_segment(struct replay *p, struct segment *s, struct errmsg *why)
{
    struct completed_transaction ended;
    struct batch_reader reader;
    struct record_batch b;
    struct segment_view v;
    struct batch_position at = {.position = 0};
    enum err e = log_view_segment(p->l, s, &v, why);

    if (e != ERR_NONE)
        return e;
    if (p->from > s->base_offset)
        e = segment_locate(&v, p->from, 0, &at);

    /* What a damaged header says of a producer would make a new record look like a duplicate. */
    bool known = p->producers == NULL || checked_covers(&s->checked, at.position, v.size_bytes);
    uint8_t *buffer = xmalloc(BATCH_READER_LARGE);

    batch_reader_init(&reader, v.file, at.position, v.size_bytes, buffer, BATCH_READER_LARGE);
    while (e == ERR_NONE && (e = batch_reader_next(&reader, !known, &b, why)) == ERR_NONE) {
        if (p->epochs && b.partition_leader_epoch > leader_epochs_latest(&p->found))
            leader_epochs_assign(&p->found, b.partition_leader_epoch, b.base_offset);
        if (p->producers == NULL || b.base_offset < p->from || MUTANT(112))
            continue;
        if (!producer_state_update(p->producers, &b, p->l->config.producer_id_expiration_ms,
                                   &ended) ||
            !ended.aborted || !p->aborted)
            continue;
        if (s->aborted == NULL)
            s->aborted = xcalloc(1, sizeof *s->aborted);
        if (s->aborted->count == 0 ||
            s->aborted->v[s->aborted->count - 1].last_offset < ended.last_offset)
            txn_index_append(s->aborted, &ended);
    }
    free(buffer);
    segment_view_drop(&v);
    if (e == ERR_CORRUPT) {
        struct errmsg what = *why;

        errmsg_set(why, "%020lld.log: %s", (long long)s->base_offset, what.text);
    }
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err replay(struct replay *p, struct errmsg *why)
{
    enum err e = ERR_NONE;

    for (int i = 0; i < p->l->segment_count && e == ERR_NONE; i++) {
        struct segment *s = p->l->segments[i];

        if (s->base_offset < p->until && s->next_offset > p->from && s->size_bytes > 0)
            e = replay_segment(p, s, why);
    }
    return e;
}

/* Loads the youngest sound snapshot that does not lie behind `end`; *offset is where the replay
 * begins. */
static void load_snapshot(struct log *l, struct producer_state *into, const struct folder *f,
                          int64_t end, int64_t *offset)
{
    char path[LOG_PATH_MAX], name[SEGMENT_NAME_SIZE];

    *offset = l->segment_count > 0 ? MIN(l->segments[0]->base_offset, end) : end;
    for (int i = f->snapshot_count - 1; i >= 0; i--) {
        struct errmsg why = {""};
        uint8_t *p;
        size_t size;

        if (f->snapshots[i] > end)
            continue;
        segment_file_name(f->snapshots[i], ".snapshot", name);
        log_path(l, name, path);
        if (file_slurp(l->env, path, SMALL_FILE_BYTES_MAX, &p, &size, &why) != ERR_NONE)
            continue;

        bool sound = producer_state_decode(into, p, size, &why) == ERR_NONE;

        free(p);
        if (sound) {
            *offset = f->snapshots[i];
            return;
        }
        log_warn(l->logger, "storage", "%s: %s; the one before it serves", path, why.text);
        log_discard_file(l, f->snapshots[i], ".snapshot");
    }
    producer_state_clear(into);
}

enum err log_reload_producers(struct log *l, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    struct folder f;
    struct replay p = {.l = l, .producers = &l->producers, .aborted = true, .until = INT64_MAX};
    int64_t end = log_end_offset(l);

    log_path(l, "", path);

    enum err e = folder_read(l->env, path, &f, why);

    if (e != ERR_NONE)
        return e;
    producer_state_clear(&l->producers);
    for (int i = 0; i < f.snapshot_count; i++) {
        if (f.snapshots[i] > end)
            log_discard_file(l, f.snapshots[i], ".snapshot");
    }
    load_snapshot(l, &l->producers, &f, end, &p.from);
    folder_deinit(&f);
    e = replay(&p, why);
    for (int i = 0; i < l->segment_count; i++)
        l->producers.log_time_ms = MAX(l->producers.log_time_ms, l->segments[i]->max_timestamp_ms);
    return e;
}

/* True: there is a sound one, which is on stable storage now. */
static enum err sync_snapshot(struct log *l, int64_t offset, bool *sound, struct errmsg *why)
{
    char path[LOG_PATH_MAX], name[SEGMENT_NAME_SIZE];
    struct producer_state state;
    struct errmsg ignored;
    struct file *f;
    uint8_t *p;
    size_t size;

    segment_file_name(offset, ".snapshot", name);
    log_path(l, name, path);
    *sound = false;

    enum err e = file_slurp(l->env, path, SMALL_FILE_BYTES_MAX, &p, &size, why);

    if (e == ERR_NO_DESCRIPTORS)
        return e;
    if (e != ERR_NONE) /* it is a hint: what cannot be read is made anew */
        return ERR_NONE;
    producer_state_init(&state, 0);
    *sound = producer_state_decode(&state, p, size, &ignored) == ERR_NONE;
    producer_state_deinit(&state);
    free(p);
    if (!*sound)
        return ERR_NONE;
    e = file_open(l->env, path, 0, &f, why);
    if (e != ERR_NONE)
        return e;
    e = file_sync(f, why);
    file_unref(f);
    return e;
}

/* The snapshot at `offset` as the log says: from the one before it, and the segments up to there.
 */
static enum err remake_snapshot(struct log *l, int64_t offset, struct errmsg *why)
{
    struct producer_state state;
    char path[LOG_PATH_MAX];
    struct folder f;
    struct replay p = {.l = l, .producers = &state, .until = offset};

    log_path(l, "", path);

    enum err e = folder_read(l->env, path, &f, why);

    if (e != ERR_NONE)
        return e;
    producer_state_init(&state, env_random_u64(l->env));
    load_snapshot(l, &state, &f, offset, &p.from);
    folder_deinit(&f);
    e = replay(&p, why);
    if (e == ERR_NONE) {
        size_t size;
        uint8_t *bytes = producer_state_encode(&state, &size);

        e = log_write_snapshot(l, offset, bytes, size, why);
        free(bytes);
    }
    producer_state_deinit(&state);
    return e;
}

enum err log_keep_producers(struct log *l, int64_t offset, struct errmsg *why)
{
    bool sound;
    enum err e = sync_snapshot(l, offset, &sound, why);

    if (e != ERR_NONE || sound)
        return e;
    e = remake_snapshot(l, offset, why);
    if (e == ERR_NONE)
        e = sync_snapshot(l, offset, &sound, why);
    if (e == ERR_NONE && !sound) {
        errmsg_set(why, "%020lld.snapshot: found other bytes than were written", (long long)offset);
        e = ERR_IO;
    }
    return e;
}

/* ---- the whole ---- */

static void remove_leftovers(struct log *l, const struct folder *f)
{
    char path[LOG_PATH_MAX];
    struct errmsg why;

    for (int i = 0; i < f->leftover_count; i++) {
        log_path(l, f->leftovers[i], path);
        enum err e = disk_unlink(l->env, path, &why);

        if (e != ERR_NONE && e != ERR_NOT_FOUND)
            log_warn(l->logger, "storage", "%s", why.text);
    }
}

/* Deletion had gone further than what is left: the log is empty and begins where it was told. */
static void begin_at(struct log *l, int64_t start_offset)
{
    for (int i = 0; i < l->segment_count; i++) {
        int64_t base = l->segments[i]->base_offset;

        segment_unref(l->segments[i]);
        log_discard_file(l, base, ".log");
        log_discard_file(l, base, ".index");
        log_discard_file(l, base, ".timeindex");
        log_discard_file(l, base, ".txnindex");
    }
    l->segment_count = 0;
    l->end_offset = start_offset;
}

/* A start is written down when the segments below it have gone, everything up to it is synced, and,
 * where it lies within a segment, the epochs begin with it (S13). One that says more is wrong, and
 * hides nothing. */
static int64_t refuse_start(struct recovery *r, int64_t start_offset, int64_t first,
                            const char *what, int64_t limit)
{
    char name[288];

    log_name(r->l, name);
    log_warn(r->l->logger, "storage",
             "%s: log-start-offset-checkpoint: found %lld, which lies %s %lld; the log begins at "
             "%lld, and no record is hidden",
             name, (long long)start_offset, what, (long long)limit, (long long)first);
    return first;
}

static void set_numbers(struct recovery *r, int64_t start_offset)
{
    struct log *l = r->l;
    const struct segment *last = log_active(l);
    int64_t first = l->segment_count > 0 ? l->segments[0]->base_offset : 0;

    if (last != NULL && !r->cut && !l->dir->adopted && start_offset > last->next_offset &&
        last->next_offset > first)
        start_offset =
            refuse_start(r, start_offset, first, "behind the log's end", last->next_offset);

    l->end_offset = last != NULL ? last->next_offset : MAX(start_offset, first);
    l->start_offset = MAX(start_offset, first);
    if (l->start_offset > l->end_offset)
        begin_at(l, l->start_offset);
    l->settled_start = l->segment_count > 1 && l->segments[1]->base_offset <= l->start_offset
                           ? first
                           : l->start_offset;
    l->recovery_point = MAX(MIN(r->recovery_point, l->end_offset), l->start_offset);
    leader_epochs_truncate_end(&l->epochs, l->end_offset);
    leader_epochs_truncate_start(&l->epochs, l->start_offset);
    if (l->recovery_point < l->end_offset || r->ended) {
        l->dirty_since_ns = 1;
        l->directory_dirty = true;
        mutex_lock(&l->lock);
        log_touch(l);
        mutex_unlock(&l->lock);
    }
}

static enum err recover_epochs(struct recovery *r)
{
    struct replay p = {.l = r->l, .epochs = true, .until = INT64_MAX};
    enum err e = replay(&p, &r->why);

    if (e == ERR_NONE) {
        leader_epochs_deinit(&r->l->epochs);
        r->l->epochs = p.found;
        r->l->epochs.dirty = p.found.count > 0;
    } else {
        leader_epochs_deinit(&p.found);
    }
    return e;
}

/* The first offset >= the log's end at which a segment must have begun, for its index or the
 * snapshot of its roll are there; -1: none. (A clean stop leaves a snapshot at its end too, but
 * then everything before it is synced.) */
static int64_t missing_segment(const struct recovery *r, const struct folder *f)
{
    int64_t end = log_end_offset(r->l), found = -1, offset;

    for (int i = 0; i < f->leftover_count; i++) {
        if ((segment_name_offset(f->leftovers[i], ".index", &offset) ||
             segment_name_offset(f->leftovers[i], ".timeindex", &offset)) &&
            offset >= end && (found < 0 || offset < found))
            found = offset;
    }
    for (int i = 0; i < f->snapshot_count; i++) {
        offset = f->snapshots[i];
        if (offset >= end && offset > r->recovery_point && !has_segment(f, offset) &&
            (found < 0 || offset < found))
            found = offset;
    }
    return found;
}

/* Nothing synced is missing, and a log that ends where a segment does is whole: but what is known
 * to have been there is not lost without a word. */
static void tell_missing_segment(struct recovery *r, const struct folder *f)
{
    int64_t missing = r->cut ? -1 : missing_segment(r, f);
    char name[288];

    if (missing < 0)
        return;
    log_name(r->l, name);
    log_warn(
        r->l->logger, "storage",
        "%s ends at offset %lld: found files of a segment %020lld, expected its .log; what was "
        "in it had not been synced and is lost",
        name, (long long)log_end_offset(r->l), (long long)missing);
}

/* The start, unless something contradicts it. */
static int64_t check_start(struct recovery *r, const struct folder *f, int64_t start_offset,
                           bool epochs_sound)
{
    const struct leader_epochs *epochs = &r->l->epochs;

    if (r->l->dir->adopted || f->segment_count == 0 || start_offset <= f->segments[0])
        return start_offset;
    if (f->segment_count > 1 && f->segments[1] <= start_offset)
        return refuse_start(r, start_offset, f->segments[0],
                            "behind the second segment's first offset", f->segments[1]);
    if (!r->l->epochs_saved)
        return refuse_start(r, start_offset, f->segments[0],
                            "without a leader-epoch-checkpoint behind", f->segments[0]);
    if (epochs_sound && epochs->count > 0 && epochs->v[0].start_offset < start_offset)
        return refuse_start(r, start_offset, f->segments[0],
                            "behind where leader-epoch-checkpoint begins,",
                            epochs->v[0].start_offset);
    return start_offset;
}

static enum err recover(struct recovery *r, const struct folder *f, int64_t start_offset)
{
    bool epochs_sound;
    enum err e = read_epochs(r, &epochs_sound);

    if (e == ERR_NONE)
        start_offset = check_start(r, f, start_offset, epochs_sound);
    /* One that the start has overtaken says nothing of what is left: nothing has to be there. */
    if (r->recovery_point <= start_offset)
        r->recovery_point = 0;
    if (e == ERR_NONE)
        e = recover_segments(r, f);
    if (e != ERR_NONE)
        return e;
    if (!epochs_sound && r->l->segment_count > 0)
        e = recover_epochs(r);
    set_numbers(r, start_offset);
    tell_missing_segment(r, f);
    if (e == ERR_NONE)
        e = log_reload_producers(r->l, &r->why);
    return e;
}

/* An offline log still says where it began and how far it was known to reach. */
static void numbers_of_offline(struct log *l, const struct folder *f, int64_t recovery_point,
                               int64_t start_offset)
{
    int64_t first = f->segment_count > 0 ? f->segments[0] : 0;

    l->start_offset = l->settled_start = MAX(start_offset, first);
    l->end_offset = MAX(recovery_point, l->start_offset);
    l->recovery_point = l->end_offset;
    for (int i = 0; i < l->segment_count; i++)
        l->segments[i]->dirty = l->segments[i]->index_dirty = false;
}

/* What needs no sync needs no descriptor: the first reader opens it again. */
static void close_files(struct log *l)
{
    for (int i = 0; i < l->segment_count; i++) {
        struct segment *s = l->segments[i];
        struct file **places[3] = {&s->file, &s->offsets.file, &s->times.file};

        for (int k = s->dirty || s->index_dirty ? 3 : 0; k < 3; k++) {
            if (*places[k] != NULL)
                file_unref(*places[k]);
            *places[k] = NULL;
        }
    }
}

void log_recover(struct log *l, int64_t recovery_point, int64_t start_offset)
{
    struct recovery r = {.l = l, .epoch = INT32_MIN, .recovery_point = recovery_point};
    char path[LOG_PATH_MAX];
    struct folder f;

    log_path(l, "", path);

    enum err e = folder_read(l->env, path, &f, &r.why);

    if (e == ERR_NONE) {
        r.buffer = xmalloc(BATCH_READER_LARGE);
        r.folder = &f;
        l->cut_kept = f.cut_count > 0;
        remove_leftovers(l, &f);
        e = recover(&r, &f, start_offset);
        free(r.buffer);
    }
    if (e != ERR_NONE) {
        if (r.why.text[0] == '\0')
            errmsg_set(&r.why, "%s: cannot be read", path);
        log_set_offline(l, "%s", r.why.text);
        numbers_of_offline(l, &f, recovery_point, start_offset);
    }
    close_files(l);
    if (r.cut) {
        l->older_cuts = f.cuts;
        l->older_cut_count = f.cut_count;
        f.cuts = NULL;
        f.cut_count = 0;
    }
    folder_deinit(&f);
}
