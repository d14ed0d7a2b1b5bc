/* protocol/codec.c -- walks the tables of messages.c over bytes and structs.
 *
 * The wire format in short. Numbers are big-endian. Up to a message's flexible versions (KIP-482)
 * a string is int16 length + bytes, bytes and records int32 length + bytes, an array int32 count +
 * elements, and -1 says null. From the first flexible version on each length or count n is the
 * unsigned varint n + 1, 0 says null, and every struct ends with its tagged fields: uvarint count,
 * then per field, ascending, uvarint tag, uvarint size, value; a field equal to its default is not
 * sent. A nullable struct is preceded by an int8: -1 null, 1 present.
 *
 * Decoding recurses as deep as the schema nests, which msgc.py has proved finite.
 * Encoding is one walk that runs twice: first without memory, to count the bytes and find what
 * cannot be encoded, then into a buffer of that size, when nothing can fail any more.
 */
#include "protocol/codec.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum err try_ = (call);                                                                    \
        if (UNLIKELY(try_ != ERR_NONE))                                                            \
            return try_;                                                                           \
    } while (0)

/* Every array member of a message looks like this. */
struct any_array {
    void *v;
    int32_t n;
};

static const uint8_t size_of_type[] = {
    [CODEC_BOOL] = sizeof(bool),          [CODEC_INT8] = sizeof(int8_t),
    [CODEC_INT16] = sizeof(int16_t),      [CODEC_UINT16] = sizeof(uint16_t),
    [CODEC_INT32] = sizeof(int32_t),      [CODEC_UINT32] = sizeof(uint32_t),
    [CODEC_INT64] = sizeof(int64_t),      [CODEC_FLOAT64] = sizeof(double),
    [CODEC_UUID] = sizeof(struct uuid),   [CODEC_STRING] = sizeof(struct str),
    [CODEC_BYTES] = sizeof(struct bytes), [CODEC_RECORDS] = sizeof(struct records),
};

/* The fewest bytes that one takes on the wire, compact or not. */
static const uint8_t wire_min_of_type[] = {
    [CODEC_BOOL] = 1,  [CODEC_INT8] = 1,   [CODEC_INT16] = 2, [CODEC_UINT16] = 2,
    [CODEC_INT32] = 4, [CODEC_UINT32] = 4, [CODEC_INT64] = 8, [CODEC_FLOAT64] = 8,
    [CODEC_UUID] = 16, [CODEC_STRING] = 1, [CODEC_BYTES] = 1, [CODEC_RECORDS] = 1,
};

static bool carries(const struct codec_field *f, int16_t version)
{
    return version >= f->version_min && version <= f->version_max;
}

static bool may_be_null(const struct codec_field *f, int16_t version)
{
    return version >= f->null_min && version <= f->null_max;
}

static size_t element_size(const struct codec_field *f)
{
    return f->element == CODEC_STRUCT ? f->of->size : size_of_type[f->element];
}

static struct any_array load_array(const void *p)
{
    struct any_array array;
    memcpy(&array.v, p, sizeof array.v);
    memcpy(&array.n, (const char *)p + offsetof(struct any_array, n), sizeof array.n);
    return array;
}

static void store_array(void *p, void *v, int32_t n)
{
    memcpy(p, &v, sizeof v);
    memcpy((char *)p + offsetof(struct any_array, n), &n, sizeof n);
}

static const void *load_pointer(const void *p)
{
    const void *v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ---- defaults ---- */

static void store_number(enum codec_type type, int64_t v, void *p)
{
    switch (type) {
    case CODEC_BOOL:
        *(bool *)p = v != 0;
        return;
    case CODEC_INT8:
        *(int8_t *)p = (int8_t)v;
        return;
    case CODEC_INT16:
        *(int16_t *)p = (int16_t)v;
        return;
    case CODEC_UINT16:
        *(uint16_t *)p = (uint16_t)v;
        return;
    case CODEC_INT32:
        *(int32_t *)p = (int32_t)v;
        return;
    case CODEC_UINT32:
        *(uint32_t *)p = (uint32_t)v;
        return;
    case CODEC_INT64:
        *(int64_t *)p = v;
        return;
    default:
        CHECK(type == CODEC_FLOAT64);
        *(double *)p = (double)v;
    }
}

static int64_t load_number(enum codec_type type, const void *p)
{
    switch (type) {
    case CODEC_BOOL:
        return *(const bool *)p;
    case CODEC_INT8:
        return *(const int8_t *)p;
    case CODEC_INT16:
        return *(const int16_t *)p;
    case CODEC_UINT16:
        return *(const uint16_t *)p;
    case CODEC_INT32:
        return *(const int32_t *)p;
    case CODEC_UINT32:
        return *(const uint32_t *)p;
    default:
        CHECK(type == CODEC_INT64);
        return *(const int64_t *)p;
    }
}

static void set_default(const struct codec_field *f, void *p)
{
    bool null = f->flags & CODEC_DEFAULT_NULL;

    switch (f->type) {
    case CODEC_ARRAY_OF:
        store_array(p, NULL, null ? -1 : 0);
        return;
    case CODEC_NULLABLE_STRUCT:
        memset(p, 0, sizeof(void *));
        return;
    case CODEC_STRUCT:
        codec_init(f->of, p);
        return;
    case CODEC_STRING:
        *(struct str *)p = null ? STR_NULL : STR_EMPTY;
        return;
    case CODEC_BYTES:
        *(struct bytes *)p = null ? BYTES_NULL : (struct bytes){(const uint8_t *)"", 0};
        return;
    case CODEC_RECORDS:
        *(struct records *)p = RECORDS_NULL;
        return;
    case CODEC_UUID:
        memset(p, 0, sizeof(struct uuid));
        return;
    default:
        store_number(f->type, f->default_value, p);
    }
}

void codec_init(const struct codec_struct *d, void *message)
{
    for (uint16_t i = 0; i < d->field_count; i++)
        set_default(&d->fields[i], (char *)message + d->fields[i].offset);
    if (d->has_unknown_tags)
        memset((char *)message + d->unknown_tags_offset, 0, sizeof(void *));
}

static bool struct_is_default(const struct codec_struct *d, const void *message);

static bool is_default(const struct codec_field *f, const void *p)
{
    int32_t default_len = f->flags & CODEC_DEFAULT_NULL ? -1 : 0;

    switch (f->type) {
    case CODEC_ARRAY_OF:
        return load_array(p).n == default_len;
    case CODEC_NULLABLE_STRUCT:
        return load_pointer(p) == NULL;
    case CODEC_STRUCT:
        return struct_is_default(f->of, p);
    case CODEC_STRING:
        return ((const struct str *)p)->len == default_len;
    case CODEC_BYTES:
        return ((const struct bytes *)p)->len == default_len;
    case CODEC_RECORDS:
        return ((const struct records *)p)->len < 0 && ((const struct records *)p)->queue == NULL;
    case CODEC_UUID:
        return uuid_is_zero(p);
    case CODEC_FLOAT64:
        return *(const double *)p == (double)f->default_value;
    default:
        return load_number(f->type, p) == f->default_value;
    }
}

static bool struct_is_default(const struct codec_struct *d, const void *message)
{
    for (uint16_t i = 0; i < d->field_count; i++)
        if (!is_default(&d->fields[i], (const char *)message + d->fields[i].offset))
            return false;
    return !d->has_unknown_tags ||
           load_pointer((const char *)message + d->unknown_tags_offset) == NULL;
}

/* ---- decoding ---- */

/* Each reader takes the position in the input and returns the one behind what it read, or NULL with
 * r->err set: a position that stays in a register is half the time of a message. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

struct reader {
    const uint8_t *end;
    struct arena *arena;
    enum err err;
    int16_t version;
    bool flexible;
};

static const uint8_t *fail(struct reader *r, enum err err)
{
    r->err = err;
    return NULL;
}

static size_t left(const struct reader *r, const uint8_t *at)
{
    return (size_t)(r->end - at);
}

static const uint8_t *read_long_uvarint(struct reader *r, const uint8_t *at, uint32_t *out)
{
    size_t used = uvarint32_read(at, left(r, at), out);

    return used > 0 ? at + used : fail(r, ERR_MALFORMED);
}

static inline const uint8_t *read_uvarint(struct reader *r, const uint8_t *at, uint32_t *out)
{
    if (UNLIKELY(at >= r->end || *at >= 0x80))
        return read_long_uvarint(r, at, out);
    *out = *at;
    return at + 1;
}

/* A length or count, or -1 for null. `wide` is 4 for what has an int32 before it in versions that
 * are not flexible, 2 for an int16. Elements of arrays are never null. */
static ALWAYS_INLINE const uint8_t *read_length(struct reader *r, const uint8_t *at,
                                                const struct codec_field *f, bool is_element,
                                                bool compact, size_t wide, int32_t *out)
{
    int64_t length;

    if (compact) {
        uint32_t plus_one = 0;
        at = read_uvarint(r, at, &plus_one);
        if (UNLIKELY(at == NULL))
            return NULL;
        length = (int64_t)plus_one - 1;
    } else {
        if (UNLIKELY(left(r, at) < wide))
            return fail(r, ERR_MALFORMED);
        length = wide == 2 ? (int16_t)load_be16(at) : (int32_t)load_be32(at);
        at += wide;
    }
    if (UNLIKELY(length < 0) && (length < -1 || is_element || !may_be_null(f, r->version)))
        return fail(r, ERR_MALFORMED);
    if (UNLIKELY(length > INT32_MAX))
        return fail(r, ERR_MALFORMED);
    *out = (int32_t)length;
    return at;
}

/* What has a length of its own: `length_max` bytes at most. */
static ALWAYS_INLINE const uint8_t *read_sized(struct reader *r, const uint8_t *at,
                                               const struct codec_field *f, bool is_element,
                                               bool compact, size_t wide, int32_t length_max,
                                               struct bytes *out)
{
    at = read_length(r, at, f, is_element, compact, wide, &out->len);
    if (UNLIKELY(at == NULL))
        return NULL;
    if (UNLIKELY(out->len < 0)) {
        out->ptr = NULL;
        return at;
    }
    if (UNLIKELY(out->len > length_max || (size_t)out->len > left(r, at)))
        return fail(r, ERR_MALFORMED);
    out->ptr = at;
    return at + out->len;
}

static const uint8_t *read_array(struct reader *r, const uint8_t *at, const struct codec_field *f,
                                 bool compact, void *p);
static const uint8_t *read_pointer(struct reader *r, const uint8_t *at, const struct codec_field *f,
                                   void *p);
static const uint8_t *read_struct(struct reader *r, const uint8_t *at, const struct codec_struct *d,
                                  void *out);
static const uint8_t *read_structs(struct reader *r, const uint8_t *at, const struct codec_field *f,
                                   bool compact, void *p);

#define NEED(count)                                                                                \
    do {                                                                                           \
        if (UNLIKELY(left(r, at) < (count)))                                                       \
            return fail(r, ERR_MALFORMED);                                                         \
    } while (0)

/* A field, or an element of the array that the field is. Inlined into its two callers, so that
 * there is one jump per value. */
static ALWAYS_INLINE const uint8_t *read_value(struct reader *r, const uint8_t *at,
                                               const struct codec_field *f, bool is_element,
                                               bool compact, void *p)
{
    struct bytes sized = {NULL, 0};

    switch (is_element ? f->element : f->type) {
    case CODEC_BOOL:
        NEED(1);
        *(bool *)p = *at != 0;
        return at + 1;
    case CODEC_INT8:
        NEED(1);
        *(int8_t *)p = (int8_t)*at;
        return at + 1;
    case CODEC_INT16:
    case CODEC_UINT16:
        NEED(2);
        *(uint16_t *)p = load_be16(at);
        return at + 2;
    case CODEC_INT32:
    case CODEC_UINT32:
        NEED(4);
        *(uint32_t *)p = load_be32(at);
        return at + 4;
    case CODEC_INT64:
    case CODEC_FLOAT64: {
        NEED(8);
        uint64_t bits = load_be64(at);
        memcpy(p, &bits, sizeof bits);
        return at + 8;
    }
    case CODEC_UUID:
        NEED(16);
        memcpy(p, at, sizeof(struct uuid));
        return at + 16;
    case CODEC_STRING:
        at = read_sized(r, at, f, is_element, compact, 2, CODEC_STRING_MAX, &sized);
        *(struct str *)p = (struct str){(const char *)sized.ptr, sized.len};
        return at;
    case CODEC_BYTES:
        return read_sized(r, at, f, is_element, compact, 4, INT32_MAX, p);
    case CODEC_RECORDS:
        at = read_sized(r, at, f, is_element, compact, 4, INT32_MAX, &sized);
        *(struct records *)p = (struct records){sized.ptr, sized.len, NULL};
        return at;
    case CODEC_STRUCT: /* never an element: read_structs() */
        return read_struct(r, at, f->of, p);
    case CODEC_NULLABLE_STRUCT:
        return read_pointer(r, at, f, p);
    default:
        return f->element == CODEC_STRUCT ? read_structs(r, at, f, compact, p)
                                          : read_array(r, at, f, compact, p);
    }
}

/* The count is held against what is left of the input and against CODEC_ARRAY_MAX before memory is
 * asked for; the arena's budget bounds structs that are much larger than their wire form. */
static ALWAYS_INLINE const uint8_t *read_count(struct reader *r, const uint8_t *at,
                                               const struct codec_field *f, bool compact,
                                               size_t wire_min, size_t size, void *p, char **v,
                                               int32_t *count)
{
    *v = NULL;
    at = read_length(r, at, f, false, compact, 4, count);
    if (UNLIKELY(at == NULL))
        return NULL;
    if (*count > 0) {
        if (UNLIKELY(*count > CODEC_ARRAY_MAX || (uint64_t)*count * wire_min > left(r, at)))
            return fail(r, ERR_MALFORMED);
        *v = arena_array(r->arena, (size_t)*count, size);
        if (UNLIKELY(*v == NULL))
            return fail(r, ERR_TOO_LARGE);
    }
    store_array(p, *v, *count);
    return at;
}

static const uint8_t *read_array(struct reader *r, const uint8_t *at, const struct codec_field *f,
                                 bool compact, void *p)
{
    size_t size = size_of_type[f->element];
    int32_t count = 0;
    char *v;

    at = read_count(r, at, f, compact, wire_min_of_type[f->element], size, p, &v, &count);
    for (; at != NULL && count > 0; count--, v += size)
        at = read_value(r, at, f, true, compact, v);
    return at;
}

static const uint8_t *read_pointer(struct reader *r, const uint8_t *at, const struct codec_field *f,
                                   void *p)
{
    void *v = NULL;

    /* In versions where it may not be null there is no byte before it either. */
    if (may_be_null(f, r->version)) {
        NEED(1);
        if ((int8_t)*at++ < 0) {
            memcpy(p, &v, sizeof v);
            return at;
        }
    }
    v = arena_alloc(r->arena, f->of->size);
    if (v == NULL)
        return fail(r, ERR_TOO_LARGE);
    memcpy(p, &v, sizeof v);
    return read_struct(r, at, f->of, v);
}

static const struct codec_field *field_of_tag(const struct codec_struct *d, uint32_t tag)
{
    for (uint16_t i = 0; i < d->field_count; i++)
        if (d->fields[i].tag >= 0 && (uint32_t)d->fields[i].tag == tag)
            return &d->fields[i];
    return NULL;
}

/* A known tagged field must fill the size that it states. */
static const uint8_t *read_tagged(struct reader *r, const uint8_t *at, const struct codec_field *f,
                                  uint32_t size, void *out)
{
    const uint8_t *end = r->end;

    if (!carries(f, r->version))
        return fail(r, ERR_MALFORMED);
    r->end = at + size;
    at = read_value(r, at, f, false, r->flexible, (char *)out + f->offset);
    if (at != NULL && at != r->end)
        return fail(r, ERR_MALFORMED);
    r->end = end;
    return at;
}

/* Known tags are taken in any order, as Kafka's readers do. Unknown ones must ascend (KIP-482):
 * they are sent on in order, and sorting them for a peer would cost time without bound. */
static const uint8_t *read_tags(struct reader *r, const uint8_t *at, const struct codec_struct *d,
                                void *out)
{
    char *tail = (char *)out + d->unknown_tags_offset;
    int64_t tag_before = -1;
    uint32_t count = 0;

    at = read_uvarint(r, at, &count);
    if (at != NULL && count > CODEC_TAGS_MAX)
        return fail(r, ERR_MALFORMED);
    for (; at != NULL && count > 0; count--) {
        uint32_t tag = 0, size = 0;
        at = read_uvarint(r, at, &tag);
        if (at != NULL)
            at = read_uvarint(r, at, &size);
        if (at == NULL)
            return NULL;
        if (size > left(r, at) || size > INT32_MAX)
            return fail(r, ERR_MALFORMED);

        const struct codec_field *f = field_of_tag(d, tag);
        if (f != NULL) {
            at = read_tagged(r, at, f, size, out);
            continue;
        }
        if (tag <= tag_before || tag > INT32_MAX)
            return fail(r, ERR_MALFORMED);
        tag_before = tag;

        struct unknown_tags *u = arena_alloc(r->arena, sizeof *u);
        if (u == NULL)
            return fail(r, ERR_TOO_LARGE);
        *u = (struct unknown_tags){.tag = tag, .value = {at, (int32_t)size}};
        at += size;
        memcpy(tail, &u, sizeof(void *));
        tail = (char *)&u->next;
    }
    return at;
}

static ALWAYS_INLINE const uint8_t *read_fields(struct reader *r, const uint8_t *at,
                                                const struct codec_struct *d, void *out)
{
    const struct codec_field *f = d->fields, *end = f + d->field_count;
    int16_t version = r->version;
    bool flexible = r->flexible;

    for (; f != end; f++) {
        void *p = (char *)out + f->offset;
        if (UNLIKELY(!carries(f, version) || f->tag >= 0)) {
            set_default(f, p);
            continue;
        }
        at = read_value(r, at, f, false, flexible && !(f->flags & CODEC_NEVER_COMPACT), p);
        if (UNLIKELY(at == NULL))
            return NULL;
    }
    if (d->has_unknown_tags)
        memset((char *)out + d->unknown_tags_offset, 0, sizeof(void *));
    if (!flexible)
        return at;
    if (LIKELY(at < r->end && *at == 0))
        return at + 1;
    return read_tags(r, at, d, out);
}

static const uint8_t *read_struct(struct reader *r, const uint8_t *at, const struct codec_struct *d,
                                  void *out)
{
    return read_fields(r, at, d, out);
}

static const uint8_t *read_structs(struct reader *r, const uint8_t *at, const struct codec_field *f,
                                   bool compact, void *p)
{
    const struct codec_struct *d = f->of;
    int32_t count = 0;
    char *v;

    at = read_count(r, at, f, compact, d->wire_min, d->size, p, &v, &count);
    for (; at != NULL && count > 0; count--, v += d->size)
        at = read_fields(r, at, d, v);
    return at;
}

static bool is_flexible(const struct codec_struct *d, int16_t version)
{
    return version >= d->flexible_min && version <= d->flexible_max;
}

static bool has_version(const struct codec_struct *d, int16_t version)
{
    return version >= d->version_min && version <= d->version_max;
}

enum err codec_decode(const struct codec_struct *d, int16_t version, const void *ptr, size_t size,
                      struct arena *a, void *out, size_t *used)
{
    struct reader r = {
        .arena = a,
        .version = version,
        .flexible = is_flexible(d, version),
    };

    *used = 0;
    if (!has_version(d, version))
        return ERR_UNSUPPORTED_VERSION;
    const uint8_t *begin = size > 0 ? ptr : (const uint8_t *)""; /* NULL means failed, here */
    r.end = begin + size;
    const uint8_t *at = read_struct(&r, begin, d, out);
    if (at == NULL)
        return r.err;
    *used = (size_t)(at - begin);
    return ERR_NONE;
}

/* ---- encoding ---- */

struct writer {
    uint8_t *at;  /* NULL while counting */
    size_t bytes; /* counted, or written to `buffer` */
    size_t moved; /* of records queues, which take no room in the buffer */
    int16_t version;
    bool flexible;

    struct iobuf *buffer;
    size_t pushed; /* so much of the buffer is in `out` already */
    struct ioqueue *out;
};

static void put(struct writer *w, const void *ptr, size_t size)
{
    if (w->at != NULL && size > 0) {
        memcpy(w->at, ptr, size);
        w->at += size;
    }
    w->bytes += size;
}

static void put_be(struct writer *w, uint64_t v, size_t size)
{
    if (w->at != NULL) {
        uint64_t big_endian = __builtin_bswap64(v << (64 - 8 * size));
        memcpy(w->at, &big_endian, size);
        w->at += size;
    }
    w->bytes += size;
}

static void put_uvarint(struct writer *w, uint32_t v)
{
    if (w->at == NULL) {
        w->bytes += uvarint32_size(v);
        return;
    }
    size_t size = uvarint32_write(w->at, v);
    w->at += size;
    w->bytes += size;
}

static void put_length(struct writer *w, bool compact, size_t wide, int32_t length)
{
    if (compact)
        put_uvarint(w, (uint32_t)length + 1);
    else
        put_be(w, (uint64_t)(int64_t)length, wide);
}

/* Everything written since the last push goes to `out` as one slice. */
static void push_written(struct writer *w)
{
    if (w->bytes > w->pushed)
        ioqueue_push(w->out, iobuf_ref(w->buffer), w->pushed, w->bytes - w->pushed);
    w->pushed = w->bytes;
}

static enum err write_records(struct writer *w, bool compact, bool null_allowed,
                              const struct records *records)
{
    struct ioqueue *queue = records->queue;

    if (queue != NULL) {
        if (queue->bytes_total > INT32_MAX)
            return ERR_TOO_LARGE;
        put_length(w, compact, 4, (int32_t)queue->bytes_total);
        w->moved += queue->bytes_total;
        if (w->at != NULL && queue->bytes_total > 0) {
            push_written(w);
            ioqueue_splice(w->out, queue);
        }
        return ERR_NONE;
    }
    if (records->len < (null_allowed ? -1 : 0))
        return ERR_INVALID_REQUEST;
    put_length(w, compact, 4, records->len);
    if (records->len > 0)
        put(w, records->ptr, (size_t)records->len);
    return ERR_NONE;
}

static enum err write_sized(struct writer *w, bool compact, size_t wide, bool null_allowed,
                            const void *ptr, int32_t length)
{
    if (length < (null_allowed ? -1 : 0))
        return ERR_INVALID_REQUEST;
    put_length(w, compact, wide, length);
    if (length > 0)
        put(w, ptr, (size_t)length);
    return ERR_NONE;
}

static enum err write_scalar(struct writer *w, enum codec_type type, bool compact,
                             bool null_allowed, const void *p)
{
    switch (type) {
    case CODEC_STRING: {
        const struct str *s = p;
        if (s->len > CODEC_STRING_MAX)
            return ERR_TOO_LARGE;
        return write_sized(w, compact, 2, null_allowed, s->ptr, s->len);
    }
    case CODEC_BYTES: {
        const struct bytes *b = p;
        return write_sized(w, compact, 4, null_allowed, b->ptr, b->len);
    }
    case CODEC_RECORDS:
        return write_records(w, compact, null_allowed, p);
    case CODEC_UUID:
        put(w, p, sizeof(struct uuid));
        return ERR_NONE;
    case CODEC_FLOAT64: {
        uint64_t bits;
        memcpy(&bits, p, sizeof bits);
        put_be(w, bits, sizeof bits);
        return ERR_NONE;
    }
    default:
        put_be(w, (uint64_t)load_number(type, p), wire_min_of_type[type]);
        return ERR_NONE;
    }
}

static enum err write_struct(struct writer *w, const struct codec_struct *d, const void *message);

static enum err write_array(struct writer *w, const struct codec_field *f, bool compact,
                            const void *p)
{
    struct any_array array = load_array(p);
    size_t size = element_size(f);

    if (array.n < (may_be_null(f, w->version) ? -1 : 0))
        return ERR_INVALID_REQUEST;
    put_length(w, compact, 4, array.n);
    for (int32_t i = 0; i < array.n; i++) {
        const void *element = (const char *)array.v + (size_t)i * size;
        if (f->element == CODEC_STRUCT)
            TRY(write_struct(w, f->of, element));
        else
            TRY(write_scalar(w, f->element, compact, false, element));
    }
    return ERR_NONE;
}

static enum err write_pointer(struct writer *w, const struct codec_field *f, const void *p)
{
    const void *message = load_pointer(p);
    bool null_allowed = may_be_null(f, w->version);

    if (message == NULL && !null_allowed)
        return ERR_INVALID_REQUEST;
    if (null_allowed)
        put_be(w, message == NULL ? UINT64_MAX : 1, 1);
    return message == NULL ? ERR_NONE : write_struct(w, f->of, message);
}

static enum err write_field(struct writer *w, const struct codec_field *f, const void *p)
{
    bool compact = w->flexible && !(f->flags & CODEC_NEVER_COMPACT);

    switch (f->type) {
    case CODEC_ARRAY_OF:
        return write_array(w, f, compact, p);
    case CODEC_STRUCT:
        return write_struct(w, f->of, p);
    case CODEC_NULLABLE_STRUCT:
        return write_pointer(w, f, p);
    default:
        return write_scalar(w, f->type, compact, may_be_null(f, w->version), p);
    }
}

static bool is_sent_tagged(const struct codec_field *f, int16_t version, const void *message)
{
    return f->tag >= 0 && carries(f, version) && !is_default(f, (const char *)message + f->offset);
}

/* The tag's value is counted first, because its size goes before it. */
static enum err write_tagged(struct writer *w, const struct codec_field *f, const void *message)
{
    struct writer counter = {.version = w->version, .flexible = w->flexible};
    const void *p = (const char *)message + f->offset;

    TRY(write_field(&counter, f, p));
    if (counter.bytes + counter.moved > INT32_MAX)
        return ERR_TOO_LARGE;
    put_uvarint(w, (uint32_t)f->tag);
    put_uvarint(w, (uint32_t)(counter.bytes + counter.moved));
    return write_field(w, f, p);
}

/* Known tags are 0, 1, 2, ... (msgc.py sees to it), so unknown ones come after all of them: but
 * one that this version does not define must not be passed off as unknown. */
static enum err write_tags(struct writer *w, const struct codec_struct *d, const void *message)
{
    const struct unknown_tags *unknown =
        load_pointer((const char *)message + d->unknown_tags_offset);
    uint32_t count = 0, known_count = 0;

    for (uint16_t i = 0; i < d->field_count; i++) {
        known_count += d->fields[i].tag >= 0;
        count += is_sent_tagged(&d->fields[i], w->version, message);
    }
    uint32_t tag_min = known_count;
    for (const struct unknown_tags *u = unknown; u != NULL; u = u->next) {
        if (u->tag < tag_min || u->value.len < 0 || u->tag > INT32_MAX)
            return ERR_INVALID_REQUEST;
        tag_min = u->tag + 1;
        count++;
    }

    put_uvarint(w, count);
    for (uint32_t tag = 0; tag < known_count; tag++) {
        const struct codec_field *f = field_of_tag(d, tag);
        if (is_sent_tagged(f, w->version, message))
            TRY(write_tagged(w, f, message));
    }
    for (const struct unknown_tags *u = unknown; u != NULL; u = u->next) {
        put_uvarint(w, u->tag);
        put_uvarint(w, (uint32_t)u->value.len);
        put(w, u->value.ptr, (size_t)u->value.len);
    }
    return ERR_NONE;
}

static enum err write_struct(struct writer *w, const struct codec_struct *d, const void *message)
{
    const struct codec_field *f = d->fields;

    for (uint16_t i = 0; i < d->field_count; i++, f++) {
        const void *p = (const char *)message + f->offset;
        if (LIKELY(carries(f, w->version))) {
            if (f->tag < 0)
                TRY(write_field(w, f, p));
        } else if (!(f->flags & CODEC_IS_IGNORABLE) && !is_default(f, p)) {
            return ERR_UNSUPPORTED_VERSION;
        }
    }
    if (w->flexible)
        return write_tags(w, d, message);
    if (d->has_unknown_tags && load_pointer((const char *)message + d->unknown_tags_offset) != NULL)
        return ERR_UNSUPPORTED_VERSION;
    return ERR_NONE;
}

static enum err count_message(const struct codec_struct *d, int16_t version, const void *message,
                              struct writer *w)
{
    *w = (struct writer){.version = version, .flexible = is_flexible(d, version)};
    if (!has_version(d, version))
        return ERR_UNSUPPORTED_VERSION;
    TRY(write_struct(w, d, message));
    return w->bytes + w->moved > INT32_MAX ? ERR_TOO_LARGE : ERR_NONE;
}

size_t codec_size(const struct codec_struct *d, int16_t version, const void *message)
{
    struct writer w;

    return count_message(d, version, message, &w) == ERR_NONE ? w.bytes + w.moved : SIZE_MAX;
}

/* Writes what `counted` has counted, after `prefix`. */
static void encode_counted(const struct codec_struct *d, const struct writer *counted,
                           const void *message, const void *prefix, size_t prefix_size,
                           const void *header, size_t header_size, struct ioqueue *out)
{
    size_t size = prefix_size + header_size + counted->bytes;

    if (size == 0)
        return;

    struct writer w = {
        .version = counted->version,
        .flexible = counted->flexible,
        .buffer = iobuf_new(size),
        .out = out,
    };
    w.at = iobuf_bytes(w.buffer);
    put(&w, prefix, prefix_size);
    put(&w, header, header_size);
    enum err err = write_struct(&w, d, message);
    CHECK(err == ERR_NONE);
    CHECK(w.bytes == size);
    push_written(&w);
    iobuf_unref(w.buffer);
}

enum err codec_encode(const struct codec_struct *d, int16_t version, const void *message,
                      struct ioqueue *out)
{
    struct writer counted;

    TRY(count_message(d, version, message, &counted));
    encode_counted(d, &counted, message, NULL, 0, NULL, 0, out);
    return ERR_NONE;
}

enum err codec_encode_framed(const struct codec_struct *d, int16_t version, const void *message,
                             const void *header, size_t header_size, struct ioqueue *out)
{
    struct writer counted;
    uint8_t length[4];

    TRY(count_message(d, version, message, &counted));
    size_t total = header_size + counted.bytes + counted.moved;
    if (total > INT32_MAX)
        return ERR_TOO_LARGE;
    store_be32(length, (uint32_t)total);
    encode_counted(d, &counted, message, length, sizeof length, header, header_size, out);
    return ERR_NONE;
}

/* ---- arrays for answers ---- */

bool codec_array_plain_new(struct arena *a, int64_t count, size_t element_size, void *array)
{
    void *v = NULL;

    if (count < 0)
        count = 0;
    if (count > INT32_MAX)
        goto fail;
    if (count > 0) {
        v = arena_array(a, (size_t)count, element_size);
        if (v == NULL)
            goto fail;
    }
    store_array(array, v, (int32_t)count);
    return true;

fail:
    store_array(array, NULL, 0);
    return false;
}

bool codec_array_new(struct arena *a, int64_t count, const struct codec_struct *d, void *array)
{
    if (!codec_array_plain_new(a, count, d->size, array))
        return false;

    struct any_array new = load_array(array);
    for (int32_t i = 0; i < new.n; i++)
        codec_init(d, (char *)new.v + (size_t)i * d->size);
    return true;
}

/* ---- headers ---- */

int16_t api_request_header_version(const struct api_desc *api, int16_t version)
{
    return version >= api->flexible_from ? 2 : 1;
}

int16_t api_response_header_version(const struct api_desc *api, int16_t version)
{
    enum { API_VERSIONS_KEY = 18 };

    if (api->key == API_VERSIONS_KEY)
        return 0;
    return version >= api->response_flexible_from ? 1 : 0;
}

/* ---- printing ---- */

struct text {
    char *out;
    size_t size, len; /* len may grow past size: then it is cut */
};

static void text_char(struct text *t, char c)
{
    if (t->len + 1 < t->size)
        t->out[t->len] = c;
    t->len++;
}

static void text_add(struct text *t, const char *s)
{
    for (; *s != '\0'; s++)
        text_char(t, *s);
}

static void PRINTF(2, 3) text_printf(struct text *t, const char *fmt, ...)
{
    char small[64];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    text_add(t, small);
}

static void text_string(struct text *t, struct str s)
{
    text_char(t, '"');
    for (int32_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '"' || c == '\\') {
            text_char(t, '\\');
            text_char(t, (char)c);
        } else if (c < 0x20 || c == 0x7f) {
            text_printf(t, "\\u%04x", c);
        } else {
            text_char(t, (char)c);
        }
    }
    text_char(t, '"');
}

static void text_base64(struct text *t, struct bytes b)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    text_char(t, '"');
    for (int32_t i = 0; i < b.len; i += 3) {
        int32_t n = MIN(3, b.len - i);
        uint32_t v = (uint32_t)b.ptr[i] << 16;
        if (n > 1)
            v |= (uint32_t)b.ptr[i + 1] << 8;
        if (n > 2)
            v |= b.ptr[i + 2];
        text_char(t, digits[v >> 18]);
        text_char(t, digits[v >> 12 & 63]);
        text_char(t, n > 1 ? digits[v >> 6 & 63] : '=');
        text_char(t, n > 2 ? digits[v & 63] : '=');
    }
    text_char(t, '"');
}

static void text_double(struct text *t, double v)
{
    if (isfinite(v))
        text_printf(t, "%.17g", v);
    else
        text_add(t, isnan(v) ? "\"NaN\"" : v > 0 ? "\"Infinity\"" : "\"-Infinity\"");
}

static void print_struct(struct text *t, const struct codec_struct *d, int16_t version,
                         const void *message);

static void print_scalar(struct text *t, enum codec_type type, const void *p)
{
    switch (type) {
    case CODEC_BOOL:
        text_add(t, *(const bool *)p ? "true" : "false");
        return;
    case CODEC_FLOAT64:
        text_double(t, *(const double *)p);
        return;
    case CODEC_UUID: {
        char id[UUID_TEXT_SIZE];
        uuid_format(p, id);
        text_printf(t, "\"%s\"", id);
        return;
    }
    case CODEC_STRING:
        if (str_is_null(*(const struct str *)p))
            text_add(t, "null");
        else
            text_string(t, *(const struct str *)p);
        return;
    case CODEC_BYTES:
        if (((const struct bytes *)p)->len < 0)
            text_add(t, "null");
        else
            text_base64(t, *(const struct bytes *)p);
        return;
    default:
        text_printf(t, "%lld", (long long)load_number(type, p));
    }
}

static void print_array(struct text *t, const struct codec_field *f, int16_t version,
                        struct any_array array)
{
    size_t size = element_size(f);

    if (array.n < 0) {
        text_add(t, "null");
        return;
    }
    text_char(t, '[');
    for (int32_t i = 0; i < array.n; i++) {
        const void *element = (const char *)array.v + (size_t)i * size;
        if (i > 0)
            text_char(t, ',');
        if (f->element == CODEC_STRUCT)
            print_struct(t, f->of, version, element);
        else
            print_scalar(t, f->element, element);
    }
    text_char(t, ']');
}

/* Kafka's request log says how large records are, not what is in them. */
static void print_records(struct text *t, const struct codec_field *f,
                          const struct records *records)
{
    if (records->queue == NULL && records->len < 0)
        text_printf(t, "\"%s\":null", f->name);
    else
        text_printf(t, "\"%sSizeInBytes\":%zu", f->name,
                    records->queue != NULL ? records->queue->bytes_total : (size_t)records->len);
}

static void print_field(struct text *t, const struct codec_field *f, int16_t version, const void *p)
{
    if (f->type == CODEC_RECORDS) {
        print_records(t, f, p);
        return;
    }
    text_printf(t, "\"%s\":", f->name);
    switch (f->type) {
    case CODEC_ARRAY_OF:
        print_array(t, f, version, load_array(p));
        return;
    case CODEC_STRUCT:
        print_struct(t, f->of, version, p);
        return;
    case CODEC_NULLABLE_STRUCT:
        if (load_pointer(p) == NULL)
            text_add(t, "null");
        else
            print_struct(t, f->of, version, load_pointer(p));
        return;
    default:
        print_scalar(t, f->type, p);
    }
}

static void print_struct(struct text *t, const struct codec_struct *d, int16_t version,
                         const void *message)
{
    bool is_first = true;

    text_char(t, '{');
    for (uint16_t i = 0; i < d->field_count; i++) {
        const struct codec_field *f = &d->fields[i];
        if (!carries(f, version) || (f->tag >= 0 && !is_sent_tagged(f, version, message)))
            continue;
        if (!is_first)
            text_char(t, ',');
        is_first = false;
        print_field(t, f, version, (const char *)message + f->offset);
    }
    text_char(t, '}');
}

size_t codec_print(const struct codec_struct *d, int16_t version, const void *message, char *out,
                   size_t size)
{
    struct text t = {.out = out, .size = size};

    print_struct(&t, d, version, message);
    if (size > 0)
        out[MIN(t.len, size - 1)] = '\0';
    return t.len;
}
