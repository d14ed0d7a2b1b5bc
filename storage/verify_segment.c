/* storage/verify_segment.c -- one log file, batch by batch, and its two indexes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/crc32c.h"
#include "storage/verify_internal.h"

#define BUFFER_BYTES     ((size_t)1 << 20)
#define WHOLE_BYTES_MAX  ((size_t)64 << 20) /* of a batch that is held in memory */
#define DECOMPRESSED_MAX ((size_t)1 << 30)

/* ---- reading ---- */

/* Makes [position, position + size) present; false at the end of the file or when it cannot be
 * read. */
static bool fetch(struct walk *w, struct file *f, uint64_t position, size_t size,
                  const uint8_t **out)
{
    if (w->buffered != f || position < w->buffer_position ||
        position + size > w->buffer_position + w->buffer_have) {
        size_t want = MAX(size, BUFFER_BYTES), kept = 0, n = 0;

        if (want > w->buffer_size) {
            w->buffer = xrealloc(w->buffer, want);
            w->buffer_size = want;
        }
        if (w->buffered == f && position >= w->buffer_position &&
            position < w->buffer_position + w->buffer_have) {
            kept = (size_t)(w->buffer_position + w->buffer_have - position);
            memmove(w->buffer, w->buffer + (position - w->buffer_position), kept);
        }
        w->buffered = f;
        w->buffer_position = position;
        w->buffer_have = kept;
        if (file_read(f, position + kept, w->buffer + kept, want - kept, &n) != ERR_NONE)
            return false;
        w->buffer_have = kept + n;
    }
    *out = w->buffer + (position - w->buffer_position);
    return position + size <= w->buffer_position + w->buffer_have;
}

static bool crc_in_pieces(struct walk *w, struct file *f, uint64_t position, uint64_t size,
                          uint32_t expected)
{
    uint64_t at = position + RECORD_BATCH_CRC_START, end = position + size;
    uint32_t crc = 0;

    while (at < end) {
        size_t n = (size_t)MIN(end - at, (uint64_t)BUFFER_BYTES);
        const uint8_t *p;

        if (!fetch(w, f, at, n, &p))
            return false;
        crc = crc32c(crc, p, n);
        at += n;
    }
    return crc == expected;
}

/* ---- is it a batch? ---- */

enum frame { FRAME_BATCH, FRAME_END, FRAME_ZEROS, FRAME_BROKEN, FRAME_BAD_CRC };

/* `ptr` of the batch is NULL when it is too large to be held. */
static enum frame look(struct walk *w, struct file *f, uint64_t position, uint64_t size,
                       struct record_batch *b, char why[128])
{
    uint64_t left = size - position;
    const uint8_t *p;
    bool zero = false;

    if (left == 0)
        return FRAME_END;
    if (left < RECORD_BATCH_HEADER_SIZE || !fetch(w, f, position, RECORD_BATCH_HEADER_SIZE, &p)) {
        (void)snprintf(why, 128, "%" PRIu64 " bytes are too few for a batch", left);
        if (file_rest_is_zero(f, position, size, &zero) != ERR_NONE)
            (void)snprintf(why, 128, "cannot be read");
        return zero ? FRAME_ZEROS : FRAME_BROKEN;
    }

    int64_t length = (int64_t)(int32_t)load_be32(p + RECORD_BATCH_LENGTH_AT);
    uint64_t whole = (uint64_t)(length + RECORD_BATCH_PREFIX_SIZE);

    if (length == 0 && file_rest_is_zero(f, position, size, &zero) == ERR_NONE && zero)
        return FRAME_ZEROS;
    if (length + RECORD_BATCH_PREFIX_SIZE < RECORD_BATCH_HEADER_SIZE) {
        (void)snprintf(why, 128, "the batch's length is %" PRId64 ", expected at least 49", length);
        return FRAME_BROKEN;
    }
    if (whole > left) {
        (void)snprintf(why, 128, "the batch has %" PRIu64 " bytes, %" PRIu64 " are left", whole,
                       left);
        return FRAME_BROKEN;
    }
    if (record_batch_frame(p, (size_t)whole, b) != ERR_NONE) {
        (void)snprintf(why, 128, "magic is %d, expected 2", (int8_t)p[16]);
        return FRAME_BROKEN;
    }
    if (whole <= WHOLE_BYTES_MAX && fetch(w, f, position, (size_t)whole, &p) &&
        record_batch_frame(p, (size_t)whole, b) == ERR_NONE && record_batch_crc_ok(b))
        return FRAME_BATCH;
    b->ptr = NULL;
    if (whole > WHOLE_BYTES_MAX && crc_in_pieces(w, f, position, whole, b->crc))
        return FRAME_BATCH;
    (void)snprintf(why, 128, "the CRC of the batch at offset %" PRId64 " is not %u", b->base_offset,
                   b->crc);
    return FRAME_BAD_CRC;
}

/* ---- offsets and epochs ---- */

static void check_offsets(struct walk *w, const struct segment_walk *s, uint64_t position,
                          const struct record_batch *b)
{
    int64_t found = b->base_offset, last = record_batch_last_offset(b);

    if (w->next_offset >= 0 && found != w->next_offset && found != w->other_next) {
        bool gap = found > w->next_offset;

        if (!gap || !walk_in_cleaned(w, found - 1)) {
            verify_report_add(w->report, FINDING_OFFSETS, FINDING_DAMAGE, s->path, position,
                              s->base, w->next_offset,
                              "base offset: found %" PRId64 ", expected %" PRId64, found,
                              w->next_offset);
            w->other_next = last + 1;
            w->next_offset += b->last_offset_delta + 1;
            return;
        }
    }
    if (last - s->base > INT32_MAX || found < s->base)
        verify_report_add(w->report, FINDING_OFFSETS, FINDING_DAMAGE, s->path, position, s->base,
                          MAX(w->next_offset, s->base),
                          "offsets %" PRId64 " to %" PRId64 " do not belong into this segment",
                          found, last);
    w->next_offset = last + 1;
    w->other_next = -1;
}

/* Epoch starts that were passed over without a batch that begins there. */
static void pass_epoch_starts(struct walk *w, const struct segment_walk *s, uint64_t position,
                              const struct record_batch *b)
{
    for (; w->epoch_at < w->epochs.count && w->epochs.v[w->epoch_at].start_offset <= b->base_offset;
         w->epoch_at++) {
        const struct leader_epoch *e = &w->epochs.v[w->epoch_at];

        if (e->start_offset == b->base_offset || e->start_offset == w->log_start ||
            e->start_offset < s->base || walk_in_cleaned(w, e->start_offset) || !w->whole)
            continue;
        verify_report_add(
            w->report, FINDING_EPOCH_CHECKPOINT, FINDING_DAMAGE, s->path, position, s->base, -1,
            "leader-epoch-checkpoint: epoch %d begins at %" PRId64 ", where no batch begins",
            e->epoch, e->start_offset);
    }
}

static void check_epoch(struct walk *w, const struct segment_walk *s, uint64_t position,
                        const struct record_batch *b)
{
    int32_t epoch = b->partition_leader_epoch, expected;

    if (epoch == RECORD_NO_LEADER_EPOCH && !w->has_epochs)
        return;
    if (epoch < w->last_epoch)
        verify_report_add(w->report, FINDING_EPOCHS, FINDING_DAMAGE, s->path, position, s->base,
                          b->base_offset, "leader epoch: found %d behind %d", epoch, w->last_epoch);
    if (w->has_epochs && b->base_offset >= w->log_start) {
        expected = leader_epochs_at(&w->epochs, b->base_offset);
        if (epoch != expected &&
            (epoch != w->complained_epoch || expected != w->complained_expected)) {
            /* After a crash the file may lack the youngest epochs. */
            bool lags = epoch > leader_epochs_latest(&w->epochs);

            verify_report_add(
                w->report, FINDING_EPOCHS, lags ? walk_weight(w, b->base_offset) : FINDING_DAMAGE,
                s->path, position, s->base, lags ? -1 : b->base_offset,
                "leader epoch of offset %" PRId64 ": found %d, leader-epoch-checkpoint says %d",
                b->base_offset, epoch, expected);
            w->complained_epoch = epoch;
            w->complained_expected = expected;
        }
        pass_epoch_starts(w, s, position, b);
    }
    w->last_epoch = MAX(w->last_epoch, epoch);
}

/* ---- indexes ---- */

/* Entries; those behind the first all-zero one must be zero too, being preallocated. */
static struct index_entry *load_index(struct walk *w, int64_t base, enum index_kind kind,
                                      size_t *count, bool *present)
{
    const char *suffix = kind == INDEX_OFFSETS ? ".index" : ".timeindex";
    enum finding_kind what = kind == INDEX_OFFSETS ? FINDING_INDEX : FINDING_TIME_INDEX;
    size_t entry_size = index_entry_size(kind), size, n = 0;
    static const uint8_t zeros[12];
    char path[VERIFY_PATH_MAX];

    walk_path(w, base, suffix, path);

    uint8_t *p = walk_slurp(w, path, &size);

    *present = p != NULL;
    *count = 0;
    if (p == NULL)
        return NULL;
    if (size % entry_size != 0)
        verify_report_add(w->report, what, walk_weight(w, w->next_base), path,
                          size - size % entry_size, base, -1,
                          "%zu bytes, no multiple of an entry's %zu", size, entry_size);

    struct index_entry *v = xmalloc((size / entry_size + 1) * sizeof *v);

    while (n < size / entry_size && memcmp(p + n * entry_size, zeros, entry_size) != 0) {
        index_entry_decode(kind, base, p + n * entry_size, &v[n]);
        n++;
    }
    for (size_t at = n * entry_size; at < size; at++) {
        if (p[at] == 0)
            continue;
        verify_report_add(w->report, what, FINDING_DAMAGE, path, at, base, -1,
                          "entry %zu behind an empty entry", at / entry_size);
        break;
    }
    free(p);
    *count = n;
    return v;
}

static void bad_entry(struct walk *w, const struct segment_walk *s, enum index_kind kind, size_t i,
                      const char *what, int64_t expected)
{
    const struct index_entry *e = kind == INDEX_OFFSETS ? &s->offsets[i] : &s->times[i];
    char path[VERIFY_PATH_MAX];

    walk_path(w, s->base, kind == INDEX_OFFSETS ? ".index" : ".timeindex", path);
    verify_report_add(w->report, kind == INDEX_OFFSETS ? FINDING_INDEX : FINDING_TIME_INDEX,
                      walk_weight(w, w->next_base), path, i * index_entry_size(kind), s->base, -1,
                      kind == INDEX_OFFSETS
                          ? "entry %zu, offset %" PRId64 " at position %" PRId64 ": %s %" PRId64
                          : "entry %zu, timestamp %" PRId64 " up to offset %" PRId64
                            ": %s %" PRId64,
                      i, e->key, e->value, what, expected);
}

static void check_index_entries(struct walk *w, struct segment_walk *s, uint64_t position,
                                const struct record_batch *b)
{
    int64_t last = record_batch_last_offset(b);

    for (; s->offset_at < s->offset_count && s->offsets[s->offset_at].value < (int64_t)position;
         s->offset_at++)
        bad_entry(w, s, INDEX_OFFSETS, s->offset_at, "no batch begins there; one does at",
                  (int64_t)position);
    if (s->offset_at < s->offset_count && s->offsets[s->offset_at].value == (int64_t)position) {
        if (s->offsets[s->offset_at].key != last)
            bad_entry(w, s, INDEX_OFFSETS, s->offset_at, "the batch there ends with", last);
        s->indexed_max = MAX(s->max_timestamp, b->max_timestamp);
        s->offset_at++;
    }
}

static void check_time_entries(struct walk *w, struct segment_walk *s, const struct record_batch *b)
{
    int64_t last = record_batch_last_offset(b);
    bool newest = b->max_timestamp > s->max_timestamp;

    for (; s->time_at < s->time_count && s->times[s->time_at].value < last; s->time_at++)
        bad_entry(w, s, INDEX_TIMES, s->time_at, "no batch ends there; one does at", last);
    if (s->time_at < s->time_count && s->times[s->time_at].value == last) {
        /* Up to its offset no record is younger, and that batch has the one of its timestamp. */
        if (s->times[s->time_at].key != b->max_timestamp)
            bad_entry(w, s, INDEX_TIMES, s->time_at, "the batch's greatest timestamp is",
                      b->max_timestamp);
        else if (!newest)
            bad_entry(w, s, INDEX_TIMES, s->time_at, "before it there was", s->max_timestamp);
        s->time_at++;
    }
    if (newest) {
        s->max_timestamp = b->max_timestamp;
        s->max_offset = last;
    }
}

static void finish_indexes(struct walk *w, struct segment_walk *s)
{
    const struct index_entry *last_time = s->time_count > 0 ? &s->times[s->time_count - 1] : NULL;
    int64_t last_indexed = s->offset_count > 0 ? s->offsets[s->offset_count - 1].key : -1;
    enum finding_weight weight = walk_weight(w, w->next_base);
    size_t ahead = 0;
    char path[VERIFY_PATH_MAX];

    for (; s->offset_at < s->offset_count; s->offset_at++)
        bad_entry(w, s, INDEX_OFFSETS, s->offset_at,
                  "no batch begins there; the log has bytes:", (int64_t)s->size);
    for (; s->time_at < s->time_count; s->time_at++)
        bad_entry(w, s, INDEX_TIMES, s->time_at, "no batch ends there; the log ends at",
                  w->next_offset);
    if (s->max_timestamp < 0)
        return; /* no record has a timestamp */
    /* Both indexes get their entries together; the time index one more when it is sealed. */
    walk_path(w, s->base, ".timeindex", path);
    if (s->indexed_max >= 0 && (last_time == NULL || last_time->key < s->indexed_max))
        verify_report_add(w->report, FINDING_TIME_INDEX, weight, path,
                          s->time_count * index_entry_size(INDEX_TIMES), s->base, -1,
                          "ends with timestamp %" PRId64 ", expected at least %" PRId64,
                          last_time != NULL ? last_time->key : -1, s->indexed_max);
    else if (!w->last_segment && (last_time == NULL || last_time->key != s->max_timestamp))
        verify_report_add(w->report, FINDING_TIME_INDEX, weight, path,
                          s->time_count * index_entry_size(INDEX_TIMES), s->base, -1,
                          "ends with timestamp %" PRId64 ", the segment's greatest is %" PRId64,
                          last_time != NULL ? last_time->key : -1, s->max_timestamp);
    for (size_t i = s->time_count; i > 0 && s->times[i - 1].value > last_indexed; i--)
        ahead++;
    walk_path(w, s->base, ".index", path);
    if (ahead > 1)
        verify_report_add(w->report, FINDING_INDEX, weight, path,
                          s->offset_count * index_entry_size(INDEX_OFFSETS), s->base, -1,
                          "ends with offset %" PRId64 ", the time index has %zu entries behind it",
                          last_indexed, ahead);
}

/* ---- records ---- */

static void check_records(struct walk *w, const struct segment_walk *s, uint64_t position,
                          const struct record_batch *b)
{
    struct record_iterator it;
    struct record r;
    int64_t greatest = -1;
    enum err e = record_iterator_init(&it, b, RECORDS_SKIP, &w->scratch, DECOMPRESSED_MAX);

    while (e == ERR_NONE) {
        e = record_iterator_next(&it, &r);
        if (e == ERR_NONE)
            greatest = MAX(greatest, r.timestamp);
        else
            record_iterator_deinit(&it);
    }
    if (e != ERR_NOT_FOUND)
        verify_report_add(w->report, FINDING_RECORD, FINDING_DAMAGE, s->path, position, s->base,
                          b->base_offset, "the batch at offset %" PRId64 " cannot be read: %s",
                          b->base_offset, err_name(e));
    else if (b->record_count > 0 && greatest != b->max_timestamp)
        verify_report_add(w->report, FINDING_RECORD, FINDING_DAMAGE, s->path, position, s->base,
                          b->base_offset,
                          "max timestamp: found %" PRId64 ", the youngest record has %" PRId64,
                          b->max_timestamp, greatest);
}

/* ---- the walk ---- */

/* A batch whose CRC holds. */
static void take_batch(struct walk *w, struct segment_walk *s, uint64_t position,
                       const struct record_batch *b)
{
    struct record_batch parsed;

    w->report->batches++;
    w->report->records += (uint64_t)MAX(b->record_count, 0);
    walk_check_snapshots(w, b->base_offset);
    check_offsets(w, s, position, b);
    check_epoch(w, s, position, b);
    check_index_entries(w, s, position, b);
    check_time_entries(w, s, b);
    walk_producers(w, s, b);
    if (b->ptr == NULL)
        return;
    if (record_batch_parse(b->ptr, (size_t)b->size_bytes, &parsed) != ERR_NONE)
        verify_report_add(w->report, FINDING_BATCH, FINDING_DAMAGE, s->path, position, s->base,
                          b->base_offset,
                          "the header of the batch at offset %" PRId64
                          " contradicts itself, though its CRC holds",
                          b->base_offset);
    else if (w->options->deep)
        check_records(w, s, position, b);
}

/* Behind a fault: the next place that is known to begin a batch, from the batch's own length or
 * from the index; the file's size when there is none. */
static uint64_t resume_at(struct walk *w, struct segment_walk *s, struct file *f, uint64_t position,
                          enum frame frame, int32_t size_bytes)
{
    struct record_batch b;
    char why[128];

    if (frame == FRAME_BAD_CRC) {
        uint64_t next = position + (uint64_t)size_bytes;
        enum frame there = look(w, f, next, s->size, &b, why);

        if (there == FRAME_BATCH || there == FRAME_END || there == FRAME_ZEROS)
            return next;
    }
    for (size_t i = s->offset_at; i < s->offset_count; i++) {
        uint64_t next = (uint64_t)s->offsets[i].value;

        if (s->offsets[i].value > (int64_t)position && next < s->size &&
            look(w, f, next, s->size, &b, why) == FRAME_BATCH &&
            record_batch_last_offset(&b) == s->offsets[i].key)
            return next;
    }
    return s->size;
}

/* Entries about what could not be read are not judged. */
static void skip_entries(struct segment_walk *s, uint64_t position, int64_t next_offset)
{
    while (s->offset_at < s->offset_count && s->offsets[s->offset_at].value < (int64_t)position)
        s->offset_at++;
    while (s->time_at < s->time_count &&
           (next_offset < 0 || s->times[s->time_at].value < next_offset))
        s->time_at++;
}

static uint64_t on_fault(struct walk *w, struct segment_walk *s, struct file *f, uint64_t position,
                         enum frame frame, const struct record_batch *b, const char *why)
{
    int64_t at = MAX(w->next_offset, s->base);
    struct record_batch next_batch;
    char ignored[128];

    w->whole = false;
    w->producers_complete = false;
    if (walk_weight(w, at) == FINDING_CRASH) {
        /* As a start would: the log ends here, and all behind it was never acknowledged as durable.
         */
        verify_report_add(w->report, FINDING_TORN_TAIL, FINDING_CRASH, s->path, position, s->base,
                          at,
                          "%s; the log ends at offset %" PRId64 ", %" PRIu64
                          " bytes follow (normal after a crash)",
                          why, at, s->size - position);
        w->ended = true;
        skip_entries(s, s->size, -1);
        return s->size;
    }

    uint64_t next = resume_at(w, s, f, position, frame, frame == FRAME_BAD_CRC ? b->size_bytes : 0);

    verify_report_add(w->report, frame == FRAME_BAD_CRC ? FINDING_CRC : FINDING_BATCH,
                      FINDING_DAMAGE, s->path, position, s->base, at,
                      next < s->size ? "%s; the next whole batch is at %" PRIu64
                                     : "%s; no whole batch follows up to %" PRIu64,
                      why, next);
    w->next_offset = w->other_next = -1;
    if (next < s->size && look(w, f, next, s->size, &next_batch, ignored) == FRAME_BATCH) {
        skip_entries(s, next, next_batch.base_offset);
        s->max_timestamp =
            MAX(s->max_timestamp, s->time_at > 0 ? s->times[s->time_at - 1].key : -1);
    } else {
        skip_entries(s, s->size, -1);
    }
    return next;
}

static void walk_batches(struct walk *w, struct segment_walk *s, struct file *f)
{
    uint64_t position = 0;

    while (!w->ended) {
        struct record_batch b;
        char why[128] = "";
        enum frame frame = look(w, f, position, s->size, &b, why);

        if (frame == FRAME_END)
            break;
        if (frame == FRAME_ZEROS) {
            s->size = position; /* preallocated */
            break;
        }
        if (frame == FRAME_BATCH) {
            take_batch(w, s, position, &b);
            position += (uint64_t)b.size_bytes;
        } else {
            position = on_fault(w, s, f, position, frame, &b, why);
        }
    }
}

static void check_begin(struct walk *w, const struct segment_walk *s)
{
    int64_t expected = MAX(w->next_offset, w->other_next);

    if (w->next_offset < 0 || s->base == w->next_offset || s->base == w->other_next)
        return;
    if (s->base > expected && walk_in_cleaned(w, s->base - 1))
        return;
    verify_report_add(w->report, FINDING_OFFSETS,
                      s->base > expected ? walk_weight(w, w->next_offset) : FINDING_DAMAGE, s->path,
                      0, s->base, w->next_offset,
                      "the segment begins at %" PRId64 ", the one before ends at %" PRId64, s->base,
                      w->next_offset);
}

void walk_segment(struct walk *w, int64_t base)
{
    struct segment_walk s = {
        .base = base, .max_timestamp = -1, .max_offset = -1, .indexed_max = -1};
    struct errmsg why = {""};
    struct file *f;

    walk_path(w, base, ".log", s.path);
    if (file_open(w->env, s.path, FILE_READ_ONLY, &f, &why) != ERR_NONE) {
        verify_report_add(w->report, FINDING_IO, FINDING_DAMAGE, s.path, 0, base, -1, "%s",
                          why.text);
        w->next_offset = -1;
        w->whole = w->producers_complete = false;
        return;
    }
    s.size = file_size(f);
    check_begin(w, &s);
    w->next_offset = base;
    w->other_next = -1;
    s.offsets = load_index(w, base, INDEX_OFFSETS, &s.offset_count, &s.has_offsets);
    s.times = load_index(w, base, INDEX_TIMES, &s.time_count, &s.has_times);
    w->report->segments++;
    w->report->bytes += s.size;
    w->buffered = NULL;
    walk_batches(w, &s, f);
    finish_indexes(w, &s);
    walk_check_txn_index(w, &s);
    w->buffered = NULL;
    file_unref(f);
    free(s.offsets);
    free(s.times);
    txn_index_deinit(&s.aborted);
}
