#include "protocol/base/bytes.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

struct str str_from(const char *c_string)
{
    if (c_string == NULL)
        return STR_NULL;
    return (struct str){c_string, to_int32_checked((int64_t)strlen(c_string))};
}

bool str_eq(struct str a, struct str b)
{
    return str_cmp(a, b) == 0;
}

bool str_eq_lit(struct str a, const char *c_string)
{
    return str_eq(a, str_from(c_string));
}

int str_cmp(struct str a, struct str b)
{
    int32_t shorter = MIN(a.len, b.len);

    if (shorter > 0) {
        int order = memcmp(a.ptr, b.ptr, (size_t)shorter);
        if (order != 0)
            return order < 0 ? -1 : 1;
    }
    return (a.len > b.len) - (a.len < b.len);
}

bool uuid_eq(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}

int uuid_cmp(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b);
}

bool uuid_is_zero(const struct uuid *u)
{
    static const struct uuid zero;
    return uuid_eq(u, &zero);
}

/* RFC 4648 section 5. */
static const char base64url_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static int base64url_value(char c)
{
    const char *at = c == '\0' ? NULL : strchr(base64url_digits, c);
    return at == NULL ? -1 : (int)(at - base64url_digits);
}

void uuid_format(const struct uuid *u, char out[UUID_TEXT_SIZE])
{
    uint32_t bits = 0;
    unsigned bit_count = 0;
    size_t used = 0;

    for (size_t i = 0; i < sizeof u->b; i++) {
        bits = bits << 8 | u->b[i];
        bit_count += 8;
        while (bit_count >= 6) {
            bit_count -= 6;
            out[used++] = base64url_digits[bits >> bit_count & 63];
        }
    }
    out[used++] = base64url_digits[bits << (6 - bit_count) & 63];
    out[used] = '\0';
}

bool uuid_parse(struct str text, struct uuid *out)
{
    struct uuid parsed;
    uint32_t bits = 0;
    unsigned bit_count = 0;
    size_t used = 0;

    if (text.len == UUID_TEXT_SIZE + 1 && text.ptr[22] == '=' && text.ptr[23] == '=')
        text.len = UUID_TEXT_SIZE - 1;
    if (text.len != UUID_TEXT_SIZE - 1)
        return false;
    for (int32_t i = 0; i < text.len; i++) {
        int value = base64url_value(text.ptr[i]);
        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        bit_count += 6;
        if (bit_count >= 8) {
            bit_count -= 8;
            parsed.b[used++] = (uint8_t)(bits >> bit_count);
        }
    }
    /* The last character carries 4 bits too many. Java ignores them and so must we: people make
     * cluster ids up by hand ("MkU3OEVBNTcwNTJENDM2Qk" of Kafka's quick starts has some set). */
    *out = parsed;
    return true;
}

size_t uvarint32_read(const uint8_t *p, size_t size, uint32_t *out)
{
    uint32_t v = 0;

    for (size_t i = 0; i < VARINT32_MAX && i < size; i++) {
        if (i == VARINT32_MAX - 1 && p[i] > 0x0f)
            return 0; /* more than 32 bits, or a sixth byte */
        v |= (uint32_t)(p[i] & 0x7f) << (7 * i);
        if (p[i] < 0x80) {
            *out = v;
            return i + 1;
        }
    }
    return 0;
}

size_t uvarint64_read(const uint8_t *p, size_t size, uint64_t *out)
{
    uint64_t v = 0;

    for (size_t i = 0; i < VARINT64_MAX && i < size; i++) {
        if (i == VARINT64_MAX - 1 && p[i] > 0x01)
            return 0; /* more than 64 bits, or an eleventh byte */
        v |= (uint64_t)(p[i] & 0x7f) << (7 * i);
        if (p[i] < 0x80) {
            *out = v;
            return i + 1;
        }
    }
    return 0;
}

size_t uvarint32_write(uint8_t *p, uint32_t v)
{
    return uvarint64_write(p, v);
}

size_t uvarint64_write(uint8_t *p, uint64_t v)
{
    size_t used = 0;

    while (v >= 0x80) {
        p[used++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    p[used++] = (uint8_t)v;
    return used;
}

size_t uvarint32_size(uint32_t v)
{
    size_t size = 1;

    while (v >= 0x80) {
        v >>= 7;
        size++;
    }
    return size;
}

int32_t to_int32_checked(int64_t v)
{
    CHECK(v >= INT32_MIN);
    CHECK(v <= INT32_MAX);
    return (int32_t)v;
}

int16_t to_int16_checked(int64_t v)
{
    CHECK(v >= INT16_MIN);
    CHECK(v <= INT16_MAX);
    return (int16_t)v;
}

uint32_t to_uint32_checked(int64_t v)
{
    CHECK(v >= 0);
    CHECK(v <= UINT32_MAX);
    return (uint32_t)v;
}

bool parse_int64(struct str text, int64_t *out)
{
    int32_t i = text.len > 0 && text.ptr[0] == '-' ? 1 : 0;
    bool negative = i == 1;
    int64_t v = 0;

    if (i >= text.len)
        return false;
    /* Built downwards: the negative range is the larger one. */
    for (; i < text.len; i++) {
        unsigned digit = (unsigned)(unsigned char)text.ptr[i] - '0';
        if (digit > 9)
            return false;
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, (int64_t)digit, &v))
            return false;
    }
    if (!negative && __builtin_sub_overflow(INT64_C(0), v, &v))
        return false;
    *out = v;
    return true;
}

bool parse_int32(struct str text, int32_t *out)
{
    int64_t v;

    if (!parse_int64(text, &v) || v < INT32_MIN || v > INT32_MAX)
        return false;
    *out = (int32_t)v;
    return true;
}

bool parse_double(struct str text, double *out)
{
    char copy[64];
    char *end;

    if (text.len <= 0 || (size_t)text.len >= sizeof copy || text.ptr[0] == '+')
        return false;
    memcpy(copy, text.ptr, (size_t)text.len);
    copy[text.len] = '\0';
    /* Keeps out what strtod also takes: spaces, hexadecimal, "inf" and "nan". */
    if (strspn(copy, "0123456789.eE+-") != (size_t)text.len)
        return false;
    double v = strtod(copy, &end);
    if (end != copy + text.len || !isfinite(v))
        return false;
    *out = v;
    return true;
}
