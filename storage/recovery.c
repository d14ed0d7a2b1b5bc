#include "storage/recovery.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "protocol/base/mutant.h"
#include "storage/log_internal.h"

#define SMALL_FILE_BYTES_MAX ((size_t)256 << 20)

/* ---- the folder ---- */

static void push_offset(int64_t **v, int *count, int64_t offset)
{
    if ((*count & (*count - 1)) == 0) /* grows at each power of two */
        *v = xrealloc(*v, (size_t)MAX(*count * 2, 1) * sizeof **v);
    (*v)[(*count)++] = offset;
}

static void push_name(struct folder *f, const char *name)
{
    if ((f->leftover_count & (f->leftover_count - 1)) == 0)
        f->leftovers =
            xrealloc(f->leftovers, (size_t)MAX(f->leftover_count * 2, 1) * sizeof(char *));
    f->leftovers[f->leftover_count++] = xstrdup(name);
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
        f->has_cut = true;
    else if (ends_with(e->name, ".fluxmq-cut") || ends_with(e->name, ".deleted") ||
             ends_with(e->name, ".cleaned") || ends_with(e->name, ".tmp"))
        push_name(f, e->name);
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
        push_name(f, e->name);
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
    for (int i = 0; i < f->leftover_count; i++)
        free(f->leftovers[i]);
    free(f->leftovers);
    free(f->segments);
    free(f->snapshots);
    *f = (struct folder){.segment_count = 0};
}

/* ---- a recovery in progress ---- */

struct recovery {
    struct log *l;
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
    errmsg_set(&r->why, "%020lld.log: %s; it lies below the recovery point %lld",
               (long long)s->base_offset, what, (long long)r->recovery_point);
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
    bool dense;       /* offsets must follow each other: no cleaner works on an active segment */
    int64_t doubtful; /* out: position of a batch that its successor contradicts, -1 */
};

/* Base offset and leader epoch lie outside the CRC; what can be told of them is that they grow,
 * from segment to segment too. */
static bool fits(struct recovery *r, const struct segment *s, const struct record_batch *b,
                 const struct walk *w, int32_t epoch_before)
{
    if (b->base_offset < s->next_offset || (w->dense && b->base_offset != s->next_offset) ||
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
        r->gaps = r->gaps || gap || b.record_count != b.last_offset_delta + 1;
        doubtful = gap || new_epoch ? (int64_t)s->size_bytes : -1;
        epoch = b.partition_leader_epoch;
        if (w->epochs && epoch > leader_epochs_latest(&r->l->epochs))
            leader_epochs_assign(&r->l->epochs, epoch, b.base_offset);
        segment_account(s, &b, r->l->config.index_interval_bytes);
        if (w->epochs)
            r->epoch = epoch;
    }
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static void restart(struct segment *s)
{
    s->size_bytes = 0;
    s->next_offset = s->base_offset;
    s->first_timestamp_ms = s->max_timestamp_ms = s->max_timestamp_offset = -1;
    s->bytes_since_index = 0;
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

static enum err recover_sealed(struct recovery *r, struct segment *s, struct file *f,
                               int64_t next_base)
{
    bool sound, resumed = false;
    enum err e = load_indexes(r, s, file_size(f), next_base, &sound);

    if (e == ERR_NONE && sound && s->times.stored_count > 0)
        e = resume(r, s, f, INT64_MAX, false, &resumed);
    if (e == ERR_NONE && !resumed)
        e = start_over(r, s);
    if (e == ERR_NONE)
        e = walk(r, s, f, s->size_bytes, &(struct walk){.end = UINT64_MAX});
    if (e == ERR_CORRUPT)
        return found_corrupt(r, s, r->why.text);
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

static void note_cut(struct recovery *r)
{
    r->cut = r->ended = true;
    r->l->was_cut = r->l->cut_kept = true;
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
    char log[288], name[96];
    bool zero;
    enum err e = file_rest_is_zero(f, s->size_bytes, file_size(f), &zero);

    if (e != ERR_NONE)
        return e;
    if (!zero) {
        (void)snprintf(name, sizeof name, "%020lld.%lld" LOG_CUT_SUFFIX, (long long)s->base_offset,
                       (long long)s->next_offset);
        log_name(r->l, log);
        log_warn(r->l->logger, "storage",
                 "%s: %020lld.log ends at offset %lld: %s; what is behind it is kept as %s (%llu "
                 "bytes) until the replica is in sync",
                 log, (long long)s->base_offset, (long long)s->next_offset, r->why.text, name,
                 (unsigned long long)(file_size(f) - s->size_bytes));
        note_cut(r);
        e = keep_cut(r, name, s->size_bytes, f);
    }
    if (e == ERR_NONE)
        e = file_truncate(f, s->size_bytes, &r->why);
    return e == ERR_NONE && !zero ? file_sync(f, &r->why) : e;
}

static enum err recover_tail(struct recovery *r, struct segment *s, struct file *f,
                             int64_t next_base)
{
    bool sound, resumed = false;
    int64_t end = s->base_offset + INT32_MAX;
    int32_t epoch_before = r->epoch;
    struct walk w = {
        .end = UINT64_MAX, .check_crc = true, .epochs = true, .dense = next_base == INT64_MAX};
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
    if (s->dirty)
        s->file = file_ref(f); /* stays open until it is synced */
    return ERR_NONE;
}

/* A segment behind the log's end. */
static enum err set_aside(struct recovery *r, int64_t base, const char *reason)
{
    char from[LOG_PATH_MAX], to[LOG_PATH_MAX], name[SEGMENT_NAME_SIZE], log[288];
    struct file *f;
    uint64_t size = 0;

    path_of(r, base, ".log", from);
    segment_file_name(base, ".log" LOG_CUT_SUFFIX, name);
    log_path(r->l, name, to);
    if (file_open(r->l->env, from, FILE_READ_ONLY, &f, &r->why) == ERR_NONE) {
        size = file_size(f);
        file_unref(f);
    }
    log_name(r->l, log);
    log_warn(r->l->logger, "storage",
             "%s: %020lld.log %s; it is kept as %s (%llu bytes) until the replica is in sync", log,
             (long long)base, reason, name, (unsigned long long)size);
    log_discard_file(r->l, base, ".index");
    log_discard_file(r->l, base, ".timeindex");
    log_discard_file(r->l, base, ".txnindex");
    log_discard_file(r->l, base, ".snapshot");
    note_cut(r);
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
    int64_t from;
    bool producers, epochs;
    struct leader_epochs found;
};

static enum err replay_segment(struct replay *p, struct segment *s, struct errmsg *why)
{
    uint8_t buffer[BATCH_READER_SMALL];
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
    batch_reader_init(&reader, v.file, at.position, v.size_bytes, buffer, sizeof buffer);
    while (e == ERR_NONE && (e = batch_reader_next(&reader, false, &b, why)) == ERR_NONE) {
        if (p->epochs && b.partition_leader_epoch > leader_epochs_latest(&p->found))
            leader_epochs_assign(&p->found, b.partition_leader_epoch, b.base_offset);
        if (!p->producers || b.base_offset < p->from || MUTANT(112))
            continue;
        if (!producer_state_update(&p->l->producers, &b, p->l->config.producer_id_expiration_ms,
                                   &ended) ||
            !ended.aborted)
            continue;
        if (s->aborted == NULL)
            s->aborted = xcalloc(1, sizeof *s->aborted);
        if (s->aborted->count == 0 ||
            s->aborted->v[s->aborted->count - 1].last_offset < ended.last_offset)
            txn_index_append(s->aborted, &ended);
    }
    segment_view_drop(&v);
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

static enum err replay(struct replay *p, struct errmsg *why)
{
    enum err e = ERR_NONE;

    for (int i = 0; i < p->l->segment_count && e == ERR_NONE; i++) {
        struct segment *s = p->l->segments[i];

        if (s->next_offset > p->from && s->size_bytes > 0)
            e = replay_segment(p, s, why);
    }
    return e;
}

/* Loads the youngest sound snapshot that does not lie behind the end; *offset is where the replay
 * begins. */
static void load_snapshot(struct log *l, const struct folder *f, int64_t *offset)
{
    char path[LOG_PATH_MAX], name[SEGMENT_NAME_SIZE];
    int64_t end = log_end_offset(l);

    *offset = l->segment_count > 0 ? l->segments[0]->base_offset : end;
    for (int i = f->snapshot_count - 1; i >= 0; i--) {
        struct errmsg why = {""};
        uint8_t *p;
        size_t size;

        if (f->snapshots[i] > end) {
            log_discard_file(l, f->snapshots[i], ".snapshot");
            continue;
        }
        segment_file_name(f->snapshots[i], ".snapshot", name);
        log_path(l, name, path);
        if (file_slurp(l->env, path, SMALL_FILE_BYTES_MAX, &p, &size, &why) != ERR_NONE)
            continue;

        bool sound = producer_state_decode(&l->producers, p, size, &why) == ERR_NONE;

        free(p);
        if (sound) {
            *offset = f->snapshots[i];
            return;
        }
        log_warn(l->logger, "storage", "%s: %s; the one before it serves", path, why.text);
        log_discard_file(l, f->snapshots[i], ".snapshot");
    }
    producer_state_clear(&l->producers);
}

enum err log_reload_producers(struct log *l, struct errmsg *why)
{
    char path[LOG_PATH_MAX];
    struct folder f;
    struct replay p = {.l = l, .producers = true};

    log_path(l, "", path);

    enum err e = folder_read(l->env, path, &f, why);

    if (e != ERR_NONE)
        return e;
    producer_state_clear(&l->producers);
    load_snapshot(l, &f, &p.from);
    folder_deinit(&f);
    e = replay(&p, why);
    for (int i = 0; i < l->segment_count; i++)
        l->producers.log_time_ms = MAX(l->producers.log_time_ms, l->segments[i]->max_timestamp_ms);
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

static void set_numbers(struct recovery *r, int64_t start_offset)
{
    struct log *l = r->l;
    const struct segment *last = log_active(l);
    int64_t first = l->segment_count > 0 ? l->segments[0]->base_offset : 0;

    l->end_offset = last != NULL ? last->next_offset : MAX(start_offset, first);
    l->start_offset = MAX(start_offset, first);
    if (l->start_offset > l->end_offset)
        begin_at(l, l->start_offset);
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
    struct replay p = {.l = r->l, .epochs = true};
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

static enum err recover(struct recovery *r, const struct folder *f, int64_t start_offset)
{
    bool epochs_sound;
    enum err e = read_epochs(r, &epochs_sound);

    if (e == ERR_NONE)
        e = recover_segments(r, f);
    if (e != ERR_NONE)
        return e;
    if (!epochs_sound && r->l->segment_count > 0)
        e = recover_epochs(r);
    set_numbers(r, start_offset);
    if (e == ERR_NONE)
        e = log_reload_producers(r->l, &r->why);
    return e;
}

/* An offline log still says where it began and how far it was known to reach. */
static void numbers_of_offline(struct log *l, const struct folder *f, int64_t recovery_point,
                               int64_t start_offset)
{
    int64_t first = f->segment_count > 0 ? f->segments[0] : 0;

    l->start_offset = MAX(start_offset, first);
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
    /* One that the start has overtaken says nothing of what is left: nothing has to be there. */
    struct recovery r = {.l = l,
                         .epoch = INT32_MIN,
                         .recovery_point = recovery_point > start_offset ? recovery_point : 0};
    char path[LOG_PATH_MAX];
    struct folder f;

    log_path(l, "", path);

    enum err e = folder_read(l->env, path, &f, &r.why);

    if (e == ERR_NONE) {
        r.buffer = xmalloc(BATCH_READER_LARGE);
        l->cut_kept = f.has_cut;
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
    folder_deinit(&f);
}
