#include "storage/dump.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/crc32c.h"
#include "protocol/record_batch.h"
#include "storage/index.h"
#include "storage/segment.h"
#include "storage/txn_index.h"

#define SMALL_FILE_BYTES_MAX ((size_t)1 << 30)
#define DECOMPRESSED_MAX     ((size_t)1 << 30)
#define FILE_NAME_OFFSET_LEN 20

struct dump {
    struct env *env;
    const struct dump_options *o;
    struct dump_complaints *complaints;
    FILE *out, *err;
    const char *path, *name; /* name: behind the last slash */
    bool good;
};

/* ---- complaints ---- */

/* In the order in which Kafka prints them. */
enum complaint_kind { INDEX_MISMATCH, TIME_MISMATCH, TIME_ORDER, TIME_NOT_FOUND, NOT_CONSECUTIVE };
#define COMPLAINT_KINDS 5

struct complaint {
    enum complaint_kind kind;
    int file;   /* in order of appearance */
    char *path; /* absolute */
    int64_t a, b;
};

struct dump_complaints {
    struct complaint *v;
    size_t count, capacity;
    int files;
};

struct dump_complaints *dump_complaints_new(void)
{
    return xcalloc(1, sizeof(struct dump_complaints));
}

void dump_complaints_free(struct dump_complaints *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->v[i].path);
    free(c->v);
    free(c);
}

static char *absolute(const struct dump *d)
{
    if (d->path[0] == '/' || d->o->directory == NULL)
        return xstrdup(d->path);

    size_t size = strlen(d->o->directory) + strlen(d->path) + 2;
    char *p = xmalloc(size);

    (void)snprintf(p, size, "%s/%s", d->o->directory, d->path);
    return p;
}

static void complain(struct dump *d, enum complaint_kind kind, int64_t a, int64_t b)
{
    struct dump_complaints *c = d->complaints;

    /* Kafka keeps the offsets of one file in maps, so the same first number counts once. */
    for (size_t i = c->count; i > 0 && (kind == INDEX_MISMATCH || kind == NOT_CONSECUTIVE); i--) {
        struct complaint *before = &c->v[i - 1];

        if (before->file != c->files || before->kind != kind)
            break;
        if (before->a == a) {
            before->b = b;
            return;
        }
    }
    if (c->count == c->capacity) {
        c->capacity = c->capacity == 0 ? 16 : c->capacity * 2;
        c->v = xrealloc(c->v, c->capacity * sizeof *c->v);
    }
    c->v[c->count++] =
        (struct complaint){.kind = kind, .file = c->files, .path = absolute(d), .a = a, .b = b};
}

/* Index mismatches from the last to the first, broken sequences ascending, the rest as found. */
static int by_kind_and_file(const void *x, const void *y)
{
    const struct complaint *a = x, *b = y;

    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (a->file != b->file)
        return a->file < b->file ? -1 : 1;
    if (a->kind == INDEX_MISMATCH)
        return (a->a < b->a) - (a->a > b->a);
    if (a->kind == NOT_CONSECUTIVE)
        return (a->a > b->a) - (a->a < b->a);
    return a < b ? -1 : 1; /* glibc's qsort() merges: the order stays */
}

void dump_complaints_print(const struct dump_complaints *c, FILE *err)
{
    static const char *const heads[COMPLAINT_KINDS] = {
        "Mismatches in :%s\n",
        "Found timestamp mismatch in :%s\n",
        "Found out of order timestamp in :%s\n",
        "The following indexed offsets are not found in the log.\n",
        "Non-consecutive offsets in %s\n",
    };
    static const char *const lines[COMPLAINT_KINDS] = {
        "  Index offset: %" PRId64 ", log offset: %" PRId64 "\n",
        "  Index timestamp: %" PRId64 ", log timestamp: %" PRId64 "\n",
        "  Index timestamp: %" PRId64 ", Previously indexed timestamp: %" PRId64 "\n",
        "Indexed offset: %" PRId64 ", found log offset: %" PRId64 "\n",
        "  %" PRId64 " is followed by %" PRId64 "\n",
    };

    if (c->count == 0)
        return;

    struct complaint *sorted = xmalloc(c->count * sizeof *sorted);

    memcpy(sorted, c->v, c->count * sizeof *sorted);
    qsort(sorted, c->count, sizeof *sorted, by_kind_and_file);
    for (size_t i = 0; i < c->count; i++) {
        const struct complaint *x = &sorted[i];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        if (i == 0 || sorted[i - 1].kind != x->kind || sorted[i - 1].file != x->file)
            fprintf(err, heads[x->kind], x->path);
        fprintf(err, lines[x->kind], x->a, x->b);
#pragma GCC diagnostic pop
    }
    free(sorted);
}

static void say_damaged(struct dump *d, const char *what)
{
    fprintf(d->err, "%s: %s\n", d->path, what);
    d->good = false;
}

/* ---- text ---- */

/* How many bytes a UTF-8 sequence with this first byte has, 0 for none, and what the second may be.
 * Surrogates are let in: Java replaces them as one. */
static int sequence_length(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf)
        return 2;
    if (lead >= 0xe0 && lead <= 0xef) {
        *low = lead == 0xe0 ? 0xa0 : 0x80;
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        *low = lead == 0xf0 ? 0x90 : 0x80;
        *high = lead == 0xf4 ? 0x8f : 0xbf;
        return 4;
    }
    return 0;
}

/* As Java decodes UTF-8: the longest beginning of a character that is not whole, and what is no
 * beginning at all, becomes one U+FFFD. */
static void print_utf8(FILE *out, const uint8_t *p, size_t n)
{
    while (n > 0) {
        uint8_t low, high;
        size_t have = 1, length = (size_t)sequence_length(p[0], &low, &high);

        while (have < length && have < n && p[have] >= low && p[have] <= high) {
            low = 0x80;
            high = 0xbf;
            have++;
        }

        bool surrogate = length == 3 && p[0] == 0xed && have > 1 && p[1] >= 0xa0;

        if (have == length && !surrogate)
            (void)fwrite(p, 1, have, out);
        else
            fputs("\xef\xbf\xbd", out);
        p += have;
        n -= have;
    }
}

/* ---- logs ---- */

static const char *time_type(const struct record_batch *b)
{
    return record_batch_is_log_append_time(b) ? "LogAppendTime" : "CreateTime";
}

static void print_optional(FILE *out, int64_t v)
{
    if (v < 0)
        fputs("OptionalLong.empty", out);
    else
        fprintf(out, "OptionalLong[%" PRId64 "]", v);
}

static void print_batch(struct dump *d, const struct record_batch *b, uint64_t position)
{
    fprintf(d->out,
            "baseOffset: %" PRId64 " lastOffset: %" PRId64 " count: %d baseSequence: %d "
            "lastSequence: %d producerId: %" PRId64 " producerEpoch: %d partitionLeaderEpoch: %d "
            "isTransactional: %s isControl: %s deleteHorizonMs: ",
            b->base_offset, record_batch_last_offset(b), b->record_count, b->base_sequence,
            record_batch_last_sequence(b), b->producer_id, b->producer_epoch,
            b->partition_leader_epoch, record_batch_is_transactional(b) ? "true" : "false",
            record_batch_is_control(b) ? "true" : "false");
    print_optional(d->out, record_batch_delete_horizon(b));
    fprintf(d->out,
            " position: %" PRIu64 " %s: %" PRId64 " size: %d magic: %d compresscodec: %s crc: %u "
            "isvalid: %s\n",
            position, time_type(b), b->max_timestamp, b->size_bytes, b->magic,
            compression_name(record_batch_codec(b)), b->crc,
            record_batch_crc_ok(b) ? "true" : "false");
}

static void print_control(struct dump *d, const struct record *r)
{
    static const char *const names[] = {"ABORT",           "COMMIT",          "LEADER_CHANGE",
                                        "SNAPSHOT_HEADER", "SNAPSHOT_FOOTER", "KRAFT_VERSION",
                                        "KRAFT_VOTERS"};
    int16_t kind = r->key.len >= 4 ? (int16_t)load_be16(r->key.ptr + 2) : (int16_t)-1;
    const char *name = kind >= 0 && kind < (int16_t)ARRAY_COUNT(names) ? names[kind] : "UNKNOWN";

    if (kind >= 0 && kind <= 1 && r->value.len >= 6)
        fprintf(d->out, " endTxnMarker: %s coordinatorEpoch: %d", name,
                (int32_t)load_be32(r->value.ptr + 2));
    else
        fprintf(d->out, " controlType: %s(%d)", name, kind);
}

static void print_record_metadata(struct dump *d, const struct record_batch *b,
                                  const struct record *r)
{
    struct bytes headers = r->headers, value;
    struct str key;
    int32_t sequence = b->base_sequence < 0
                           ? RECORD_NO_SEQUENCE
                           : record_sequence_add(b->base_sequence, r->offset_delta);

    fprintf(d->out, "| offset: %" PRId64 " %s: %" PRId64 " keySize: %d valueSize: %d", r->offset,
            time_type(b), r->timestamp, r->key.len, r->value.len);
    fprintf(d->out, " sequence: %d headerKeys: [", sequence);
    for (int32_t i = 0; i < r->header_count && record_header_next(&headers, &key, &value); i++) {
        if (i > 0)
            fputc(',', d->out);
        print_utf8(d->out, (const uint8_t *)key.ptr, (size_t)MAX(key.len, 0));
    }
    fputc(']', d->out);
    if (record_batch_is_control(b))
        print_control(d, r);
}

static void print_record_data(struct dump *d, const struct record *r)
{
    const char *prefix = d->o->skip_metadata ? "| " : " ";

    if (r->key.len >= 0) {
        fprintf(d->out, "%skey: ", prefix);
        print_utf8(d->out, r->key.ptr, (size_t)r->key.len);
        prefix = " ";
    }
    if (r->value.len >= 0) {
        fprintf(d->out, "%spayload: ", prefix);
        print_utf8(d->out, r->value.ptr, (size_t)r->value.len);
    }
}

static void print_records(struct dump *d, const struct record_batch *b, int64_t *last_offset)
{
    struct record_iterator it;
    struct record r;
    enum err e = record_iterator_init(&it, b, RECORDS_WHOLE, NULL, DECOMPRESSED_MAX);

    if (e != ERR_NONE) {
        say_damaged(d, "a batch of an unknown codec");
        return;
    }
    while ((e = record_iterator_next(&it, &r)) == ERR_NONE) {
        if (r.offset != *last_offset + 1)
            complain(d, NOT_CONSECUTIVE, *last_offset, r.offset);
        *last_offset = r.offset;
        if (!d->o->skip_metadata)
            print_record_metadata(d, b, &r);
        if (d->o->print_data && !record_batch_is_control(b))
            print_record_data(d, &r);
        fputc('\n', d->out);
    }
    record_iterator_deinit(&it);
    if (e != ERR_NOT_FOUND) {
        char what[96];

        (void)snprintf(what, sizeof what, "the batch at offset %" PRId64 " holds a damaged record",
                       b->base_offset);
        say_damaged(d, what);
    }
}

/* Reads the batch at `position` into *bytes; false when no batch is there that ends before `end`.
 */
static bool read_batch(struct dump *d, struct file *f, uint64_t position, uint64_t end,
                       uint8_t **bytes, size_t *capacity, struct record_batch *out)
{
    uint8_t head[RECORD_BATCH_PREFIX_SIZE];
    size_t n;

    if (end - position < RECORD_BATCH_HEADER_SIZE ||
        file_read(f, position, head, sizeof head, &n) != ERR_NONE || n != sizeof head)
        return false;

    int64_t size =
        (int64_t)(int32_t)load_be32(head + RECORD_BATCH_LENGTH_AT) + (int64_t)sizeof head;

    if (size < RECORD_BATCH_HEADER_SIZE || (uint64_t)size > end - position)
        return false;
    if ((size_t)size > *capacity) {
        *capacity = (size_t)size;
        *bytes = xrealloc(*bytes, *capacity);
    }
    if (file_read(f, position, *bytes, (size_t)size, &n) != ERR_NONE || n != (size_t)size) {
        say_damaged(d, "cannot be read");
        return false;
    }
    /* A damaged batch is shown with isvalid: false, so only its frame must be right. */
    return record_batch_frame(*bytes, (size_t)size, out) == ERR_NONE;
}

static void dump_batches(struct dump *d, struct file *f)
{
    uint64_t position = 0, end = MIN(file_size(f), (uint64_t)d->o->bytes_max);
    int64_t last_offset = -1;
    uint8_t *bytes = NULL;
    size_t capacity = 0;
    struct record_batch b;

    while (position < end && read_batch(d, f, position, end, &bytes, &capacity, &b)) {
        print_batch(d, &b, position);
        if (d->o->deep || d->o->print_data)
            print_records(d, &b, &last_offset);
        position += (uint64_t)b.size_bytes;
    }
    free(bytes);
    if (position < end && d->o->bytes_max == INT32_MAX)
        fprintf(d->out, "Found %" PRIu64 " invalid bytes at the end of %s\n", end - position,
                d->name);
}

static struct file *open_file(struct dump *d, const char *path)
{
    struct errmsg why = {""};
    struct file *f;

    if (file_open(d->env, path, FILE_READ_ONLY, &f, &why) == ERR_NONE)
        return f;
    fprintf(d->err, "%s\n", why.text);
    d->good = false;
    return NULL;
}

/* The number before the first dot; false when there is none. */
static bool name_offset(struct dump *d, int64_t *offset)
{
    size_t n = strcspn(d->name, ".");

    if (parse_int64((struct str){d->name, (int32_t)MIN(n, (size_t)64)}, offset))
        return true;
    say_damaged(d, "the name does not begin with an offset");
    return false;
}

static void dump_log(struct dump *d)
{
    int64_t base;

    if (!name_offset(d, &base))
        return;

    struct file *f = open_file(d, d->path);

    if (f == NULL)
        return;
    fprintf(d->out, "Log starting offset: %" PRId64 "\n", base);
    dump_batches(d, f);
    file_unref(f);
}

/* A snapshot of KRaft's metadata: OFFSET-EPOCH.checkpoint, or what a cluster was formed with. */
static void dump_metadata_snapshot(struct dump *d)
{
    struct str rest = {d->name, (int32_t)strcspn(d->name, ".")};
    const char *dash = memchr(rest.ptr, '-', (size_t)rest.len);
    int64_t offset, epoch;
    struct file *f;

    if (strcmp(d->name, "bootstrap.checkpoint") == 0) {
        fputs("KRaft bootstrap snapshot\n", d->out);
    } else if (dash != NULL &&
               parse_int64((struct str){rest.ptr, (int32_t)(dash - rest.ptr)}, &offset) &&
               parse_int64((struct str){dash + 1, rest.len - (int32_t)(dash + 1 - rest.ptr)},
                           &epoch)) {
        fprintf(d->out, "Snapshot end offset: %" PRId64 ", epoch: %" PRId64 "\n", offset, epoch);
    } else {
        say_damaged(d, "the name is not OFFSET-EPOCH.checkpoint");
        return;
    }
    if ((f = open_file(d, d->path)) == NULL)
        return;
    dump_batches(d, f);
    file_unref(f);
}

/* ---- indexes ---- */

/* The neighbour of the same offset with another suffix; malloc'ed. */
static char *neighbour(const struct dump *d, const char *suffix)
{
    size_t stem = (size_t)(d->name - d->path) + strcspn(d->name, ".");
    size_t size = stem + strlen(suffix) + 1;
    char *p = xmalloc(size);

    memcpy(p, d->path, stem);
    memcpy(p + stem, suffix, size - stem);
    return p;
}

struct entries {
    struct index_entry *v;
    size_t count;
    uint64_t file_bytes;
};

static bool load_entries(struct dump *d, const char *path, enum index_kind kind, int64_t base,
                         struct entries *out)
{
    size_t entry_size = index_entry_size(kind), size;
    struct errmsg why = {""};
    uint8_t *p;

    *out = (struct entries){.v = NULL};
    if (file_slurp(d->env, path, SMALL_FILE_BYTES_MAX, &p, &size, &why) != ERR_NONE) {
        fprintf(d->err, "%s\n", why.text);
        d->good = false;
        return false;
    }
    out->file_bytes = size;
    out->count = size / entry_size;
    out->v = xmalloc((out->count + 1) * sizeof *out->v);
    for (size_t i = 0; i < out->count; i++)
        index_entry_decode(kind, base, p + i * entry_size, &out->v[i]);
    free(p);
    return true;
}

/* Kafka's check at start: does the index need to be rebuilt? */
static void check_sanity(struct dump *d, enum index_kind kind, int64_t base,
                         const struct entries *x)
{
    const struct index_entry *last = x->count > 0 ? &x->v[x->count - 1] : NULL;
    char what[160] = "";

    if (last != NULL && (kind == INDEX_OFFSETS ? last->key : last->value) < base)
        (void)snprintf(what, sizeof what, "the last offset lies below the base offset %" PRId64,
                       base);
    else if (last != NULL && kind == INDEX_TIMES && last->key < x->v[0].key)
        (void)snprintf(what, sizeof what,
                       "the last timestamp %" PRId64 " is less than the first %" PRId64, last->key,
                       x->v[0].key);
    else if (x->file_bytes % index_entry_size(kind) != 0)
        (void)snprintf(what, sizeof what, "%" PRIu64 " bytes are no multiple of %zu", x->file_bytes,
                       index_entry_size(kind));
    if (what[0] != '\0')
        say_damaged(d, what);
    else
        fprintf(d->out, "%s passed sanity check.\n", d->path);
}

static void dump_index(struct dump *d)
{
    char *log_path = neighbour(d, ".log");
    struct file *f = open_file(d, log_path);
    struct entries x = {.v = NULL};
    uint8_t *bytes = NULL;
    size_t capacity = 0;
    int64_t base;

    free(log_path);
    if (f == NULL || !name_offset(d, &base) || !load_entries(d, d->path, INDEX_OFFSETS, base, &x))
        goto end;
    if (x.count == 0) {
        fprintf(d->out, "%s is empty.\n", d->path);
        goto end;
    }
    if (d->o->index_sanity) {
        check_sanity(d, INDEX_OFFSETS, base, &x);
        goto end;
    }
    for (size_t i = 0; i < x.count; i++) {
        struct record_batch b;

        if (x.v[i].key == base && i > 0)
            break; /* preallocated */
        if (x.v[i].value < 0 || (uint64_t)x.v[i].value >= file_size(f) ||
            !read_batch(d, f, (uint64_t)x.v[i].value, file_size(f), &bytes, &capacity, &b))
            complain(d, INDEX_MISMATCH, x.v[i].key, -1);
        else if (record_batch_last_offset(&b) != x.v[i].key)
            complain(d, INDEX_MISMATCH, x.v[i].key, record_batch_last_offset(&b));
        if (!d->o->verify_index_only)
            fprintf(d->out, "offset: %" PRId64 " position: %" PRId64 "\n", x.v[i].key,
                    x.v[i].value);
    }
end:
    free(bytes);
    free(x.v);
    if (f != NULL)
        file_unref(f);
}

/* The greatest timestamp of a batch's records, from the records themselves. */
static int64_t max_timestamp(const struct record_batch *b)
{
    struct record r;

    if (record_batch_find_max_timestamp(b, NULL, DECOMPRESSED_MAX, &r) != ERR_NONE)
        return -1;
    return r.timestamp;
}

static void check_time_entry(struct dump *d, struct file *f, const struct entries *offsets,
                             const struct index_entry *e, int64_t before)
{
    uint64_t position = 0;
    uint8_t *bytes = NULL;
    size_t capacity = 0;
    struct record_batch b;
    bool found = false;

    for (size_t i = 0; i < offsets->count && offsets->v[i].key <= e->value; i++)
        position = (uint64_t)MAX(offsets->v[i].value, (int64_t)0);
    while (position < file_size(f) &&
           read_batch(d, f, position, file_size(f), &bytes, &capacity, &b)) {
        found = record_batch_last_offset(&b) >= e->value;
        if (found)
            break;
        position += (uint64_t)b.size_bytes;
    }
    if (!found || record_batch_last_offset(&b) != e->value) {
        complain(d, TIME_NOT_FOUND, e->value, found ? record_batch_last_offset(&b) : -1);
    } else {
        int64_t log_time = max_timestamp(&b);

        if (log_time != e->key)
            complain(d, TIME_MISMATCH, e->key, log_time);
        if (before >= e->key)
            complain(d, TIME_ORDER, e->key, before);
    }
    free(bytes);
}

static void dump_time_index(struct dump *d)
{
    char *log_path = neighbour(d, ".log"), *index_path = neighbour(d, ".index");
    struct entries x = {.v = NULL}, offsets = {.v = NULL};
    struct file *f = open_file(d, log_path);
    struct errmsg why = {""};
    int64_t base, before = -1;
    uint8_t *p;
    size_t size;

    if (f == NULL || !name_offset(d, &base) || !load_entries(d, d->path, INDEX_TIMES, base, &x))
        goto end;
    if (d->o->index_sanity) {
        check_sanity(d, INDEX_TIMES, base, &x);
        goto end;
    }
    /* An offset index that has no entry yet has no file either. */
    if (file_slurp(d->env, index_path, SMALL_FILE_BYTES_MAX, &p, &size, &why) == ERR_NONE) {
        free(p);
        if (!load_entries(d, index_path, INDEX_OFFSETS, base, &offsets))
            goto end;
    }
    for (size_t i = 0; i < x.count; i++) {
        if (x.v[i].value == base && i > 0)
            break; /* preallocated */
        check_time_entry(d, f, &offsets, &x.v[i], before);
        if (!d->o->verify_index_only)
            fprintf(d->out, "timestamp: %" PRId64 " offset: %" PRId64 "\n", x.v[i].key,
                    x.v[i].value);
        before = x.v[i].key;
    }
end:
    free(x.v);
    free(offsets.v);
    free(log_path);
    free(index_path);
    if (f != NULL)
        file_unref(f);
}

static void dump_txn_index(struct dump *d)
{
    struct errmsg why = {""};
    uint8_t *p;
    size_t size;

    if (file_slurp(d->env, d->path, SMALL_FILE_BYTES_MAX, &p, &size, &why) != ERR_NONE) {
        fprintf(d->err, "%s\n", why.text);
        d->good = false;
        return;
    }
    for (size_t at = 0; at + TXN_INDEX_ENTRY_BYTES <= size; at += TXN_INDEX_ENTRY_BYTES)
        fprintf(d->out,
                "version: %d producerId: %" PRId64 " firstOffset: %" PRId64 " lastOffset: %" PRId64
                " lastStableOffset: %" PRId64 "\n",
                (int16_t)load_be16(p + at), (int64_t)load_be64(p + at + 2),
                (int64_t)load_be64(p + at + 10), (int64_t)load_be64(p + at + 18),
                (int64_t)load_be64(p + at + 26));
    if (size % TXN_INDEX_ENTRY_BYTES != 0)
        say_damaged(d, "ends inside an entry");
    free(p);
}

/* ---- producers ---- */

#define SNAPSHOT_HEAD_BYTES  10u
#define SNAPSHOT_ENTRY_BYTES 46u

/* The entries stand in the file's order, so they are read from the bytes. */
static void print_producer(FILE *out, const uint8_t *p)
{
    int32_t last_sequence = (int32_t)load_be32(p + 10), delta = (int32_t)load_be32(p + 22);
    int64_t last_offset = (int64_t)load_be64(p + 14), timestamp = (int64_t)load_be64(p + 26);

    fprintf(out,
            "producerId: %" PRId64 " producerEpoch: %d coordinatorEpoch: %d "
            "currentTxnFirstOffset: ",
            (int64_t)load_be64(p), (int16_t)load_be16(p + 8), (int32_t)load_be32(p + 34));
    print_optional(out, (int64_t)load_be64(p + 38));
    fprintf(out, " lastTimestamp: %" PRId64, timestamp);
    if (last_offset >= 0) {
        /* Sequences go around after 2^31-1. */
        int32_t first = last_sequence < delta
                            ? (int32_t)(INT32_MAX - (uint32_t)(delta - last_sequence) + 1)
                            : last_sequence - delta;

        fprintf(out,
                " firstSequence: %d lastSequence: %d lastOffset: %" PRId64
                " offsetDelta: %d timestamp: %" PRId64,
                first, last_sequence, last_offset, delta, timestamp);
    }
    fputc('\n', out);
}

static void dump_producers(struct dump *d)
{
    struct errmsg why = {""};
    uint8_t *p;
    size_t size;

    if (file_slurp(d->env, d->path, SMALL_FILE_BYTES_MAX, &p, &size, &why) != ERR_NONE) {
        fprintf(d->err, "%s\n", why.text);
        d->good = false;
        return;
    }
    if (size < SNAPSHOT_HEAD_BYTES || load_be16(p) != 1) {
        say_damaged(d, "no producer snapshot of version 1");
        goto end;
    }

    uint32_t stored = load_be32(p + 2), count = load_be32(p + 6);
    uint32_t computed = crc32c(0, p + 6, size - 6);

    if (stored != computed) {
        fprintf(d->err,
                "Snapshot is corrupt (CRC is no longer valid). Stored crc: %u. Computed crc: %u\n",
                stored, computed);
        d->good = false;
        goto end;
    }
    if (count > (size - SNAPSHOT_HEAD_BYTES) / SNAPSHOT_ENTRY_BYTES) {
        say_damaged(d, "holds fewer producers than it says");
        goto end;
    }
    for (uint32_t i = 0; i < count; i++)
        print_producer(d->out, p + SNAPSHOT_HEAD_BYTES + i * SNAPSHOT_ENTRY_BYTES);
end:
    free(p);
}

/* ---- the rest ---- */

static void dump_text(struct dump *d)
{
    struct errmsg why = {""};
    uint8_t *p;
    size_t size;

    if (file_slurp(d->env, d->path, SMALL_FILE_BYTES_MAX, &p, &size, &why) != ERR_NONE) {
        fprintf(d->err, "%s\n", why.text);
        d->good = false;
        return;
    }
    (void)fwrite(p, 1, size, d->out);
    if (size > 0 && p[size - 1] != '\n')
        fputc('\n', d->out);
    free(p);
}

static bool is_text(const char *name)
{
    static const char *const names[] = {
        "leader-epoch-checkpoint",
        "partition.metadata",
        "meta.properties",
        "recovery-point-offset-checkpoint",
        "replication-offset-checkpoint",
        "log-start-offset-checkpoint",
        "cleaner-offset-checkpoint",
        ".kafka_cleanshutdown",
    };

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

bool dump_file(struct env *env, const char *path, const struct dump_options *o,
               struct dump_complaints *c, FILE *out, FILE *err)
{
    static const struct {
        const char *suffix;
        void (*dump)(struct dump *d);
    } kinds[] = {
        {".log", dump_log},
        {".checkpoint", dump_metadata_snapshot},
        {".index", dump_index},
        {".timeindex", dump_time_index},
        {".snapshot", dump_producers},
        {".txnindex", dump_txn_index},
    };
    const char *slash = strrchr(path, '/');
    struct dump d = {
        .env = env,
        .o = o,
        .complaints = c,
        .out = out,
        .err = err,
        .path = path,
        .name = slash != NULL ? slash + 1 : path,
        .good = true,
    };
    const char *suffix = strrchr(d.name, '.');

    c->files++;
    fprintf(out, "Dumping %s\n", path);
    if (is_text(d.name)) {
        dump_text(&d);
        return d.good;
    }
    for (size_t i = 0; suffix != NULL && i < ARRAY_COUNT(kinds); i++) {
        if (strcmp(suffix, kinds[i].suffix) == 0) {
            kinds[i].dump(&d);
            return d.good;
        }
    }
    fprintf(err, "Ignoring unknown file %s\n", path);
    return true;
}
