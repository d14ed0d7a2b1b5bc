/* protocol/base/bytes.h -- borrowed strings and bytes, and numbers in them.
 *
 * Bytes become numbers only through load_be32() and friends; narrowing goes through
 * to_int32_checked() and its like. Nothing here owns memory.
 */
#ifndef FLUXMQ_BASE_BYTES_H
#define FLUXMQ_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "protocol/base/check.h"

/* A borrowed string, not terminated. A null string (the protocol's, not C's) has len -1. */
struct str {
    const char *ptr;
    int32_t len;
};

/* Borrowed bytes; null has len -1. */
struct bytes {
    const uint8_t *ptr;
    int32_t len;
};

/* 16 bytes in network order; all zero is "none" (Kafka's Uuid.ZERO_UUID). */
struct uuid {
    uint8_t b[16];
};

#define STR_NULL   ((struct str){NULL, -1})
#define STR_EMPTY  ((struct str){"", 0})
#define STR_LIT(s) ((struct str){"" s, (int32_t)sizeof(s) - 1})
/* For printf("%.*s", STR_ARG(s)); a null string prints as nothing. */
#define STR_ARG(s) ((s).len > 0 ? (s).len : 0), ((s).len > 0 ? (s).ptr : "")
#define BYTES_NULL ((struct bytes){NULL, -1})

struct str str_from(const char *c_string); /* NULL becomes the null string */
bool str_eq(struct str a, struct str b);
bool str_eq_lit(struct str a, const char *c_string);
int str_cmp(struct str a, struct str b); /* bytewise; null sorts first */
static inline bool str_is_null(struct str s)
{
    return s.len < 0;
}

bool uuid_eq(const struct uuid *a, const struct uuid *b);
int uuid_cmp(const struct uuid *a, const struct uuid *b);
bool uuid_is_zero(const struct uuid *u);
/* Kafka's text form: 22 characters of URL-safe base64 without padding, and the terminator. */
#define UUID_TEXT_SIZE 23
void uuid_format(const struct uuid *u, char out[UUID_TEXT_SIZE]);
MUST_USE bool uuid_parse(struct str text, struct uuid *out);

static inline uint16_t load_be16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap16(v);
}
static inline uint32_t load_be32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}
static inline uint64_t load_be64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}
static inline void store_be16(void *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof v);
}
static inline void store_be32(void *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}
static inline void store_be64(void *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof v);
}
static inline uint32_t load_le32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t load_le64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Base-128 varints (protobuf's; signed ones zigzag, as in Kafka records). The readers return the
 * bytes used, 0 when the input ends early or the value does not fit; the writers return the bytes
 * written, at most VARINT32_MAX or VARINT64_MAX. */
#define VARINT32_MAX 5
#define VARINT64_MAX 10
size_t uvarint32_read(const uint8_t *p, size_t size, uint32_t *out);
size_t uvarint64_read(const uint8_t *p, size_t size, uint64_t *out);
size_t uvarint32_write(uint8_t *p, uint32_t v);
size_t uvarint64_write(uint8_t *p, uint64_t v);
size_t uvarint32_size(uint32_t v);
static inline size_t varint32_read(const uint8_t *p, size_t size, int32_t *out)
{
    uint32_t u = 0;
    size_t used = uvarint32_read(p, size, &u);
    *out = (int32_t)((u >> 1) ^ (0u - (u & 1)));
    return used;
}
static inline size_t varint64_read(const uint8_t *p, size_t size, int64_t *out)
{
    uint64_t u = 0;
    size_t used = uvarint64_read(p, size, &u);
    *out = (int64_t)((u >> 1) ^ (0ull - (u & 1)));
    return used;
}
static inline size_t varint32_write(uint8_t *p, int32_t v)
{
    return uvarint32_write(p, ((uint32_t)v << 1) ^ (uint32_t)(v >> 31));
}
static inline size_t varint64_write(uint8_t *p, int64_t v)
{
    return uvarint64_write(p, ((uint64_t)v << 1) ^ (uint64_t)(v >> 63));
}

/* Narrowing of what is known to fit; CHECKs that it does. */
int32_t to_int32_checked(int64_t v);
int16_t to_int16_checked(int64_t v);
uint32_t to_uint32_checked(int64_t v);

/* Numbers in text, whole string, no sign but '-', false on anything else or overflow. */
MUST_USE bool parse_int64(struct str text, int64_t *out);
MUST_USE bool parse_int32(struct str text, int32_t *out);
MUST_USE bool parse_double(struct str text, double *out);

#endif
