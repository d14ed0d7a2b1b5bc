/* protocol/codec.h -- the one interpreter of Kafka messages: decode, encode, size, print.
 *
 * Messages are described in protocol/schema/ *.msg; protocol/gen/msgc.py turns them into structs
 * (messages.h) and tables (messages.c). A struct is the same for all versions of its message; the
 * tables say which fields a version carries, and the functions here walk them. Handlers include
 * "protocol/api.h" and see structs that are already checked and filled with defaults.
 *
 *     string            struct str          null: len -1
 *     bytes             struct bytes        null: len -1
 *     records           struct records      null: len -1
 *     uuid              struct uuid
 *     []T               { T *v; int32_t n }  null: n -1
 *     T                 the struct itself, or a pointer where some version lets it be null
 *     every flexible struct also has `unknown_tags`, kept as they came and sent again (KIP-482)
 *
 * Thread:    any; nothing here has state.
 * Ownership: what is decoded points into the input (strings, bytes, records) and into the arena
 *            (arrays, nullable structs, unknown tags); both must outlive it.
 */
#ifndef FLUXMQ_CODEC_H
#define FLUXMQ_CODEC_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/base/arena.h"
#include "protocol/base/bytes.h"
#include "protocol/base/check.h"
#include "protocol/base/err.h"
#include "protocol/base/iobuf.h"

/* Kafka's own readers refuse longer arrays too. */
#define CODEC_ARRAY_MAX 1000000
/* Tagged fields of one struct; likewise. */
#define CODEC_TAGS_MAX 10000
/* Longer strings are refused in both directions, compact ones too. */
#define CODEC_STRING_MAX INT16_MAX

/* Record batches. Decoded, they are `len` bytes at `ptr`. To encode, either those, or a `queue`:
 * its slices are moved into the output, uncopied, and `len` does not count. */
struct records {
    const uint8_t *ptr;
    int32_t len;
    struct ioqueue *queue;
};

#define RECORDS_NULL     ((struct records){NULL, -1, NULL})
#define RECORDS_QUEUE(q) ((struct records){NULL, 0, (q)})

/* Tagged fields that the schema does not know, ascending by tag. */
struct unknown_tags {
    uint32_t tag;
    struct bytes value;
    struct unknown_tags *next;
};

struct int8_array {
    int8_t *v;
    int32_t n;
};
struct int16_array {
    int16_t *v;
    int32_t n;
};
struct int32_array {
    int32_t *v;
    int32_t n;
};
struct int64_array {
    int64_t *v;
    int32_t n;
};
struct str_array {
    struct str *v;
    int32_t n;
};
struct uuid_array {
    struct uuid *v;
    int32_t n;
};

/* ---- the tables: written by msgc.py, read by codec.c ---- */

enum codec_type {
    CODEC_BOOL,
    CODEC_INT8,
    CODEC_INT16,
    CODEC_UINT16,
    CODEC_INT32,
    CODEC_UINT32,
    CODEC_INT64,
    CODEC_FLOAT64,
    CODEC_UUID,
    CODEC_STRING,
    CODEC_BYTES,
    CODEC_RECORDS,
    CODEC_STRUCT,
    CODEC_NULLABLE_STRUCT, /* a pointer */
    CODEC_ARRAY_OF,        /* of codec_field.element, which is one of the above but the pointer */
};

enum codec_flag {
    CODEC_IS_IGNORABLE = 1, /* may be dropped when the version cannot carry it */
    CODEC_DEFAULT_NULL = 2,
    CODEC_NEVER_COMPACT = 4, /* RequestHeader.ClientId */
};

struct codec_struct;

struct codec_field {
    uint8_t type;    /* enum codec_type */
    uint8_t element; /* of arrays: the elements' type */
    uint8_t flags;   /* enum codec_flag */
    int8_t tag;      /* -1: not tagged */
    int16_t version_min, version_max;
    int16_t null_min, null_max; /* where it may be null; nowhere: min > max */
    uint32_t offset;
    int64_t default_value; /* of numbers and bools */
    const struct codec_struct *of;
    const char *name; /* as in Kafka's JSON */
};

struct codec_struct {
    const struct codec_field *fields;
    uint16_t field_count;
    int16_t flexible_min, flexible_max; /* versions with compact lengths and tagged fields */
    int16_t version_min, version_max;   /* of the message it belongs to */
    bool has_unknown_tags;
    uint32_t size;
    uint32_t unknown_tags_offset;
    uint32_t wire_min; /* no version of it takes fewer bytes */
    const char *name;
};

/* ---- messages ---- */

/* The schema's defaults; what has none becomes 0, "", an empty array. */
void codec_init(const struct codec_struct *d, void *message);

/* Reads one message from the front of `ptr`; *used says how long it was (what follows is the
 * caller's to judge). Fields that the version does not carry get their defaults. Every count and
 * length is checked before memory is taken, and memory only from the arena's budget.
 * Errors: ERR_UNSUPPORTED_VERSION, ERR_MALFORMED, ERR_TOO_LARGE (the budget is used up). After an
 * error `out` holds nothing to look at. */
MUST_USE enum err codec_decode(const struct codec_struct *d, int16_t version, const void *ptr,
                               size_t size, struct arena *a, void *out, size_t *used);

/* Appends the message to `out`: one buffer of exactly its size, with the slices of records queues
 * moved in between. Nothing is taken or appended when it fails:
 * ERR_UNSUPPORTED_VERSION  no such version, or a field differs from its default, must not be
 *                          dropped, and the version cannot carry it
 * ERR_INVALID_REQUEST      a null where the version allows none; unknown tags that are known, or
 *                          not ascending
 * ERR_TOO_LARGE            a string over CODEC_STRING_MAX, or 2 GB in all */
MUST_USE enum err codec_encode(const struct codec_struct *d, int16_t version, const void *message,
                               struct ioqueue *out);

/* The same as a frame: int32 length of what follows, `header`, message; but for records all in one
 * buffer. protocol/frame.h knows what goes into the header. */
MUST_USE enum err codec_encode_framed(const struct codec_struct *d, int16_t version,
                                      const void *message, const void *header, size_t header_size,
                                      struct ioqueue *out);

/* The bytes that codec_encode would append, records queues included; SIZE_MAX when it would
 * refuse. */
size_t codec_size(const struct codec_struct *d, int16_t version, const void *message);

/* The fields that the version carries, as JSON on one line: named as in Kafka's request log, bytes
 * in base64, of records only the size ("recordsSizeInBytes":70), null where null, tagged fields
 * only where they differ from their defaults. Works like snprintf: always terminates, truncates to
 * fit, returns the full length. */
size_t codec_print(const struct codec_struct *d, int16_t version, const void *message, char *out,
                   size_t size);

/* Sets an array field to `count` elements with the schema's defaults:
 *     if (!CODEC_ARRAY(&r->arena, out->responses, in->topic_data.n,
 *                      produce_response_topic_produce_response))
 * False when the budget is used up; the array is then empty. A count below 0 (a null array that is
 * answered element by element) makes an empty one. */
#define CODEC_ARRAY(arena, field, count, struct_name)                                              \
    ((void)sizeof((field).v == (struct struct_name *)NULL),                                        \
     codec_array_new((arena), (count), &struct_name##_desc, &(field)))

/* The same for numbers, strings and uuids, which start as zeroes (strings: null pointer, length 0,
 * which is ""). */
#define CODEC_ARRAY_PLAIN(arena, field, count)                                                     \
    codec_array_plain_new((arena), (count), sizeof *(field).v, &(field))

/* For the macros: `array` is any { T *v; int32_t n }. */
MUST_USE bool codec_array_new(struct arena *a, int64_t count, const struct codec_struct *d,
                              void *array);
MUST_USE bool codec_array_plain_new(struct arena *a, int64_t count, size_t element_size,
                                    void *array);

/* ---- the table of APIs ---- */

enum api_listener { API_ON_BROKER = 1, API_ON_CONTROLLER = 2 };

struct api_desc {
    int16_t key;
    const char *name; /* as in Kafka's ApiKeys, CamelCase: "Produce" */
    const struct codec_struct *request, *response;
    int16_t version_min, version_max;
    int16_t version_max_stable; /* below version_max where Kafka marks the newest unstable */
    int16_t flexible_from;      /* first flexible request version; INT16_MAX: none */
    int16_t response_flexible_from;
    uint8_t listeners; /* enum api_listener */
};

/* NULL when there is no such API (any more). */
const struct api_desc *api_find(int16_t key);
/* In order of keys. */
extern const size_t api_count;
const struct api_desc *api_at(size_t i);

/* Also for versions newer than we know: the header must be readable to refuse them. */
int16_t api_request_header_version(const struct api_desc *api, int16_t version);
/* ApiVersions is always answered with header version 0 (KIP-511). */
int16_t api_response_header_version(const struct api_desc *api, int16_t version);

#endif
