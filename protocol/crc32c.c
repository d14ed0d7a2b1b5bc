/* A CRC is the remainder of a polynomial over GF(2). Bits are reflected here: the lowest bit of
 * the first byte is the highest power of x. Three facts carry everything below:
 *
 *  1. It is linear: crc(a ^ b) = crc(a) ^ crc(b), without preset and inversion. So a table entry
 *     is the XOR of the entries of its single bits, and long inputs may be cut, computed apart
 *     and put together again.
 *  2. Multiplying by x^d moves a part d bits forward. x^d mod P is a constant for each distance,
 *     so "fold" 128 bits over d bits: multiply their upper half by x^(d+32) mod P and their lower
 *     half by x^(d-32) mod P (the 32 off is what reflection and the width of the product cost)
 *     and XOR both products into the data that lies d bits further on.
 *  3. The instruction crc32q multiplies by x^32 and reduces. It finishes what folding has brought
 *     down to 128 bits, and the tail that is too short for folding.
 *
 * The folding constants are x^n mod P, reflected in 32 bits and shifted left by one, which makes
 * up for the 63 bits (not 64) of a carry-less product of reflected operands. */
#include "protocol/crc32c.h"

#include "protocol/base/bytes.h"
#include "protocol/base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_X86_PATHS 1
#else
#define HAVE_X86_PATHS 0
#endif

/* ---- slice-by-8: eight bytes a step, with one table for each of their positions ---- */

/* Entry i of the table whose single-bit entries are b0..b7. */
#define ENTRY(i, b0, b1, b2, b3, b4, b5, b6, b7)                                                   \
    (((i)&1 ? (b0) : 0) ^ ((i)&2 ? (b1) : 0) ^ ((i)&4 ? (b2) : 0) ^ ((i)&8 ? (b3) : 0) ^           \
     ((i)&16 ? (b4) : 0) ^ ((i)&32 ? (b5) : 0) ^ ((i)&64 ? (b6) : 0) ^ ((i)&128 ? (b7) : 0))
#define ENTRIES_4(i, ...)                                                                          \
    ENTRY((i), __VA_ARGS__), ENTRY((i) + 1, __VA_ARGS__), ENTRY((i) + 2, __VA_ARGS__),             \
        ENTRY((i) + 3, __VA_ARGS__)
#define ENTRIES_16(i, ...)                                                                         \
    ENTRIES_4((i), __VA_ARGS__), ENTRIES_4((i) + 4, __VA_ARGS__), ENTRIES_4((i) + 8, __VA_ARGS__), \
        ENTRIES_4((i) + 12, __VA_ARGS__)
#define ENTRIES_64(i, ...)                                                                         \
    ENTRIES_16((i), __VA_ARGS__), ENTRIES_16((i) + 16, __VA_ARGS__),                               \
        ENTRIES_16((i) + 32, __VA_ARGS__), ENTRIES_16((i) + 48, __VA_ARGS__)
#define TABLE(...)                                                                                 \
    {                                                                                              \
        ENTRIES_64(0, __VA_ARGS__), ENTRIES_64(64, __VA_ARGS__), ENTRIES_64(128, __VA_ARGS__),     \
            ENTRIES_64(192, __VA_ARGS__)                                                           \
    }

/* tables[k][i] is the remainder of byte i followed by k zero bytes. */
static const uint32_t tables[8][256] = {
    TABLE(0xf26b8303u, 0xe13b70f7u, 0xc79a971fu, 0x8ad958cfu, 0x105ec76fu, 0x20bd8edeu, 0x417b1dbcu,
          0x82f63b78u),
    TABLE(0x13a29877u, 0x274530eeu, 0x4e8a61dcu, 0x9d14c3b8u, 0x3fc5f181u, 0x7f8be302u, 0xff17c604u,
          0xfbc3faf9u),
    TABLE(0xa541927eu, 0x4f6f520du, 0x9edea41au, 0x38513ec5u, 0x70a27d8au, 0xe144fb14u, 0xc76580d9u,
          0x8b277743u),
    TABLE(0xdd45aab8u, 0xbf672381u, 0x7b2231f3u, 0xf64463e6u, 0xe964b13du, 0xd725148bu, 0xaba65fe7u,
          0x52a0c93fu),
    TABLE(0x38116facu, 0x7022df58u, 0xe045beb0u, 0xc5670b91u, 0x8f2261d3u, 0x1ba8b557u, 0x37516aaeu,
          0x6ea2d55cu),
    TABLE(0xef306b19u, 0xdb8ca0c3u, 0xb2f53777u, 0x6006181fu, 0xc00c303eu, 0x85f4168du, 0x0e045bebu,
          0x1c08b7d6u),
    TABLE(0x68032cc8u, 0xd0065990u, 0xa5e0c5d1u, 0x4e2dfd53u, 0x9c5bfaa6u, 0x3d5b83bdu, 0x7ab7077au,
          0xf56e0ef4u),
    TABLE(0x493c7d27u, 0x9278fa4eu, 0x211d826du, 0x423b04dau, 0x847609b4u, 0x0d006599u, 0x1a00cb32u,
          0x34019664u),
};

static uint32_t crc_table(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *p = data;

    crc = ~crc;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t v = load_le64(p) ^ crc;
        crc = tables[7][v & 255] ^ tables[6][v >> 8 & 255] ^ tables[5][v >> 16 & 255] ^
              tables[4][v >> 24 & 255] ^ tables[3][v >> 32 & 255] ^ tables[2][v >> 40 & 255] ^
              tables[1][v >> 48 & 255] ^ tables[0][v >> 56];
    }
    for (; n > 0; n--)
        crc = tables[0][(crc ^ *p++) & 255] ^ crc >> 8;
    return ~crc;
}

#if HAVE_X86_PATHS

/* ---- crc32q alone ---- */

#define TARGET_SSE42 __attribute__((target("sse4.2")))

/* Below: `crc` is the bare register, without preset and inversion. */
TARGET_SSE42 static inline uint32_t crc_register(uint32_t crc, const uint8_t *p, size_t n)
{
    uint64_t wide = crc;

    for (; n >= 8; p += 8, n -= 8)
        wide = _mm_crc32_u64(wide, load_le64(p));
    crc = (uint32_t)wide;
    if (n & 4) {
        crc = _mm_crc32_u32(crc, load_le32(p));
        p += 4;
    }
    for (n &= 3; n > 0; n--)
        crc = _mm_crc32_u8(crc, *p++);
    return crc;
}

TARGET_SSE42 static uint32_t crc_sse42(uint32_t crc, const void *p, size_t n)
{
    return ~crc_register(~crc, p, n);
}

/* ---- three crc32q streams at once: the instruction takes three cycles but starts each cycle ----
 */

#define TARGET_CLMUL __attribute__((target("sse4.2,pclmul")))

/* Moves the remainder `crc` over the distance that `constant` stands for. */
TARGET_CLMUL static inline uint32_t crc_shift(uint32_t crc, uint64_t constant)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)crc),
                                           _mm_cvtsi64_si128((long long)constant), 0);
    return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* As many triples of `lane`-sized pieces as there are; x1 and x2 move over one and two lanes. */
TARGET_CLMUL static inline uint32_t crc_lanes(uint32_t crc, const uint8_t **p, size_t *n,
                                              size_t lane, uint64_t x1, uint64_t x2)
{
    for (; *n >= 3 * lane; *p += 3 * lane, *n -= 3 * lane) {
        uint64_t a = crc, b = 0, c = 0;
        for (const uint8_t *q = *p, *end = q + lane; q < end; q += 8) {
            a = _mm_crc32_u64(a, load_le64(q));
            b = _mm_crc32_u64(b, load_le64(q + lane));
            c = _mm_crc32_u64(c, load_le64(q + 2 * lane));
        }
        crc = crc_shift((uint32_t)a, x2) ^ crc_shift((uint32_t)b, x1) ^ (uint32_t)c;
    }
    return crc;
}

TARGET_CLMUL static uint32_t crc_sse42x3(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *p = data;

    crc = ~crc;
    /* x^(8*lane - 33) and x^(16*lane - 33) mod P, reflected: crc_shift() itself adds the 33. */
    crc = crc_lanes(crc, &p, &n, 4096, 0x82f89c77u, 0x54a86326u);
    crc = crc_lanes(crc, &p, &n, 512, 0xdd7e3b0cu, 0x170076fau);
    crc = crc_lanes(crc, &p, &n, 64, 0x9e4addf8u, 0x0d3b6092u);
    return ~crc_register(crc, p, n);
}

/* ---- folding with carry-less multiplication of 256 and 512 bits ---- */

/* Folding needs some length to pay; measured, crc32q alone is as fast up to here. */
#define FOLD_BYTES_MIN 256

/* Low half x^(d+32), high half x^(d-32): for the upper and the lower 64 bits, in reflected order.
 */
#define FOLD_128  _mm_set_epi64x(0x14cd00bd6ll, 0x0f20c0dfell)
#define FOLD_256  _mm_set_epi64x(0x0ba4fc28ell, 0x1384aa63all)
#define FOLD_512  _mm_set_epi64x(0x09e4addf8ll, 0x0740eef02ll)
#define FOLD_1024 _mm_set_epi64x(0x00d3b6092ll, 0x06992cea2ll)
#define FOLD_2048 _mm_set_epi64x(0x0b9e02b86ll, 0x0dcb17aa4ll)

TARGET_CLMUL static inline __m128i fold128(__m128i x, __m128i over, __m128i onto)
{
    return _mm_xor_si128(
        _mm_xor_si128(_mm_clmulepi64_si128(x, over, 0x00), _mm_clmulepi64_si128(x, over, 0x11)),
        onto);
}

/* The last 128 bits, then a tail of any length: done. */
TARGET_CLMUL static inline uint32_t fold_finish(__m128i x, const uint8_t *p, size_t n)
{
    for (; n >= 16; p += 16, n -= 16)
        x = fold128(x, FOLD_128, _mm_loadu_si128((const void *)p));

    uint64_t crc = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(x));
    crc = _mm_crc32_u64(crc, (uint64_t)_mm_extract_epi64(x, 1));
    return ~crc_register((uint32_t)crc, p, n);
}

#define TARGET_VPCLMUL256 __attribute__((target("avx2,sse4.2,pclmul,vpclmulqdq")))

TARGET_VPCLMUL256 static inline __m256i load256(const uint8_t *p)
{
    return _mm256_loadu_si256((const void *)p);
}

TARGET_VPCLMUL256 static inline __m256i fold256(__m256i x, __m256i over, __m256i onto)
{
    return _mm256_xor_si256(_mm256_xor_si256(_mm256_clmulepi64_epi128(x, over, 0x00),
                                             _mm256_clmulepi64_epi128(x, over, 0x11)),
                            onto);
}

TARGET_VPCLMUL256 static uint32_t crc_vpclmul256(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *p = data;

    if (n < FOLD_BYTES_MIN)
        return crc_sse42(crc, p, n);

    /* Four accumulators, 128 bytes a step; the register's value goes onto the first bytes. */
    __m256i over = _mm256_broadcastsi128_si256(FOLD_1024);
    __m256i a = _mm256_xor_si256(load256(p), _mm256_zextsi128_si256(_mm_cvtsi32_si128((int)~crc)));
    __m256i b = load256(p + 32), c = load256(p + 64), d = load256(p + 96);
    for (p += 128, n -= 128; n >= 128; p += 128, n -= 128) {
        a = fold256(a, over, load256(p));
        b = fold256(b, over, load256(p + 32));
        c = fold256(c, over, load256(p + 64));
        d = fold256(d, over, load256(p + 96));
    }
    over = _mm256_broadcastsi128_si256(FOLD_256);
    b = fold256(a, over, b);
    c = fold256(b, over, c);
    d = fold256(c, over, d);
    for (; n >= 32; p += 32, n -= 32)
        d = fold256(d, over, load256(p));
    __m128i x = fold128(_mm256_castsi256_si128(d), FOLD_128, _mm256_extracti128_si256(d, 1));
    return fold_finish(x, p, n);
}

#define TARGET_VPCLMUL512                                                                          \
    __attribute__((target("avx512f,avx512vl,avx512dq,avx2,sse4.2,pclmul,vpclmulqdq")))

TARGET_VPCLMUL512 static inline __m512i load512(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

/* 0x96 is the truth table of a three-way XOR. */
TARGET_VPCLMUL512 static inline __m512i fold512(__m512i x, __m512i over, __m512i onto)
{
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, over, 0x00),
                                     _mm512_clmulepi64_epi128(x, over, 0x11), onto, 0x96);
}

TARGET_VPCLMUL512 static uint32_t crc_vpclmul512(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *p = data;

    if (n < FOLD_BYTES_MIN)
        return crc_sse42(crc, p, n);

    /* Four accumulators, 256 bytes a step: 256 bytes suffice to begin. */
    __m512i over = _mm512_broadcast_i32x4(FOLD_2048);
    __m512i a = _mm512_xor_si512(load512(p), _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~crc)));
    __m512i b = load512(p + 64), c = load512(p + 128), d = load512(p + 192);
    for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
        a = fold512(a, over, load512(p));
        b = fold512(b, over, load512(p + 64));
        c = fold512(c, over, load512(p + 128));
        d = fold512(d, over, load512(p + 192));
    }
    over = _mm512_broadcast_i32x4(FOLD_512);
    b = fold512(a, over, b);
    c = fold512(b, over, c);
    d = fold512(c, over, d);
    for (; n >= 64; p += 64, n -= 64)
        d = fold512(d, over, load512(p));
    __m128i x = fold128(_mm512_castsi512_si128(d), FOLD_128, _mm512_extracti64x2_epi64(d, 1));
    x = fold128(x, FOLD_128, _mm512_extracti64x2_epi64(d, 2));
    x = fold128(x, FOLD_128, _mm512_extracti64x2_epi64(d, 3));
    return fold_finish(x, p, n);
}

/* The compiler's runtime has asked CPUID (and the system, for the wide registers) before main();
 * each question is a load and a test of its flags. */
static inline bool have_sse42(void)
{
    return __builtin_cpu_supports("sse4.2");
}
static inline bool have_clmul(void)
{
    return have_sse42() && __builtin_cpu_supports("pclmul");
}
static inline bool have_vpclmul256(void)
{
    return have_clmul() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("vpclmulqdq");
}
static inline bool have_vpclmul512(void)
{
    return have_vpclmul256() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
    if (n < FOLD_BYTES_MIN)
        return have_sse42() ? crc_sse42(crc, p, n) : crc_table(crc, p, n);
    if (have_vpclmul512())
        return crc_vpclmul512(crc, p, n);
    if (have_vpclmul256())
        return crc_vpclmul256(crc, p, n);
    if (have_clmul())
        return crc_sse42x3(crc, p, n);
    return have_sse42() ? crc_sse42(crc, p, n) : crc_table(crc, p, n);
}

struct crc32c_path crc32c_path(int i)
{
    const struct crc32c_path paths[CRC32C_PATH_COUNT] = {
        {"vpclmulqdq-512", have_vpclmul512(), crc_vpclmul512},
        {"vpclmulqdq-256", have_vpclmul256(), crc_vpclmul256},
        {"sse4.2x3", have_clmul(), crc_sse42x3},
        {"sse4.2", have_sse42(), crc_sse42},
        {"slice-by-8", true, crc_table},
    };
    CHECK(i >= 0);
    CHECK(i < CRC32C_PATH_COUNT);
    return paths[i];
}

#else

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
    return crc_table(crc, p, n);
}

struct crc32c_path crc32c_path(int i)
{
    CHECK(i >= 0);
    CHECK(i < CRC32C_PATH_COUNT);
    return (struct crc32c_path){"slice-by-8", i == CRC32C_PATH_COUNT - 1, crc_table};
}

#endif
