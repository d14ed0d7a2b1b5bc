/* tests/wire/conformance.c -- our codec held against the official Java classes, byte for byte.
 *
 *     conformance check FILE           what Java wrote: decode, print, encode again, and encode at
 *                                      other versions; FILE may be gzipped, "-" is standard input
 *     conformance write SEED ROUNDS    random messages of every schema and version, for Java to
 * check
 *
 * tests/wire/README.md describes the text that both sides write and read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

#include "protocol/api.h"

#define LINE_MAX_BYTES  (16u << 20)
#define ARENA_MAX_BYTES (64u << 20)

static const struct codec_struct *message_named(const char *name)
{
    for (size_t i = 0; i < codec_message_count; i++)
        if (strcmp(codec_messages[i]->name, name) == 0)
            return codec_messages[i];
    return NULL;
}

/* ---- hex ---- */

static char *to_hex(const uint8_t *ptr, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    char *hex = xmalloc(2 * size + 2);

    hex[0] = '=';
    for (size_t i = 0; i < size; i++) {
        hex[1 + 2 * i] = digits[ptr[i] >> 4];
        hex[2 + 2 * i] = digits[ptr[i] & 15];
    }
    hex[1 + 2 * size] = '\0';
    return hex;
}

static int digit(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* In place: bytes are shorter than their digits. */
static size_t from_hex(char *hex)
{
    size_t size = strlen(hex + 1) / 2;

    for (size_t i = 0; i < size; i++)
        hex[i] = (char)(digit(hex[1 + 2 * i]) << 4 | digit(hex[2 + 2 * i]));
    return size;
}

static uint8_t *gather(const struct ioqueue *q)
{
    uint8_t *all = xmalloc(q->bytes_total + 1);
    size_t at = 0;

    for (size_t i = 0; i < q->count; i++) {
        const struct ioslice *s = ioqueue_at(q, i);
        memcpy(all + at, s->buf->ptr + s->offset, s->len);
        at += s->len;
    }
    return all;
}

/* "=0a0b" or, when the version cannot carry the message, "-". */
static char *encode_as_text(const struct codec_struct *d, int16_t version, const void *message)
{
    struct ioqueue q;
    char *hex;

    ioqueue_init(&q);
    size_t size = codec_size(d, version, message);
    if (codec_encode(d, version, message, &q) == ERR_NONE) {
        uint8_t *all = gather(&q);
        CHECK(size == q.bytes_total);
        hex = to_hex(all, q.bytes_total);
        free(all);
    } else {
        CHECK(size == SIZE_MAX);
        hex = xstrdup("-");
    }
    ioqueue_deinit(&q);
    return hex;
}

static char *print_as_text(const struct codec_struct *d, int16_t version, const void *message)
{
    size_t size = codec_print(d, version, message, NULL, 0) + 1;
    char *text = xmalloc(size);

    CHECK(codec_print(d, version, message, text, size) == size - 1);
    return text;
}

/* ---- walking a decoded message by its table ---- */

struct array {
    char *v;
    int32_t n;
};

static void move_field_to_queue(const struct codec_field *f, char *p, struct ioqueue *queue);

/* Puts the bytes of each records field into a queue, in two slices: they must come out the same.
 * One queue after another is taken from `queues`. */
static void move_records_to_queues(const struct codec_struct *d, char *message,
                                   struct ioqueue **queues)
{
    for (uint16_t i = 0; i < d->field_count; i++) {
        const struct codec_field *f = &d->fields[i];
        char *p = message + f->offset;

        if (f->type == CODEC_RECORDS) {
            if (((struct records *)p)->len >= 0)
                move_field_to_queue(f, p, (*queues)++);
        } else if (f->type == CODEC_ARRAY_OF && f->element == CODEC_STRUCT) {
            struct array a;
            memcpy(&a, p, sizeof a);
            for (int32_t j = 0; j < a.n; j++)
                move_records_to_queues(f->of, a.v + (size_t)j * f->of->size, queues);
        } else if (f->type == CODEC_STRUCT) {
            move_records_to_queues(f->of, p, queues);
        }
    }
}

static void move_field_to_queue(const struct codec_field *f, char *p, struct ioqueue *queue)
{
    struct records *records = (struct records *)p;
    size_t size = (size_t)records->len;

    CHECK(f->type == CODEC_RECORDS);
    if (size > 1)
        ioqueue_push_copy(queue, records->ptr, size / 2);
    if (size > 0)
        ioqueue_push_copy(queue, records->ptr + (size > 1 ? size / 2 : 0),
                          size - (size > 1 ? size / 2 : 0));
    *records = RECORDS_QUEUE(queue);
}

static bool has_records(const struct codec_struct *d)
{
    for (uint16_t i = 0; i < d->field_count; i++) {
        const struct codec_field *f = &d->fields[i];
        if (f->type == CODEC_RECORDS || (f->of != NULL && has_records(f->of)))
            return true;
    }
    return false;
}

/* ---- check ---- */

struct checker {
    struct arena arena;
    const struct codec_struct *desc;
    void *message; /* the last M line's; NULL when it did not decode */
    char *bytes;   /* what `message` points into */
    uint64_t passed, failed;
    uint8_t *seen; /* per message and version */
};

#define VERSIONS_MAX 64

static void expect(struct checker *c, const char *what, int version, const char *java,
                   const char *ours)
{
    if (strcmp(java, ours) == 0) {
        c->passed++;
        return;
    }
    if (c->failed++ < 10)
        printf("FAILED %s version %d: %s\n  java  %.2000s\n  ours  %.2000s\n", c->desc->name,
               version, what, java, ours);
}

/* On a second decoding of the same bytes, since the queues are emptied. */
static void check_zero_copy(struct checker *c, int16_t version, size_t size, const char *hex)
{
    enum { QUEUES_MAX = 1024 };
    struct ioqueue queues[QUEUES_MAX], *next = queues;
    void *message = arena_alloc(&c->arena, c->desc->size);
    size_t used;

    CHECK(message != NULL);
    for (size_t i = 0; i < QUEUES_MAX; i++)
        ioqueue_init(&queues[i]);
    enum err err = codec_decode(c->desc, version, c->bytes, size, &c->arena, message, &used);
    CHECK(err == ERR_NONE);
    move_records_to_queues(c->desc, message, &next);
    CHECK(next < queues + QUEUES_MAX);
    char *again = encode_as_text(c->desc, version, message);
    expect(c, "bytes with records moved", version, hex, again);
    free(again);
    for (struct ioqueue *q = queues; q < next; q++) {
        if (q->bytes_total != 0)
            expect(c, "queue left behind", version, "empty", "not");
        ioqueue_deinit(q);
    }
}

static void check_message(struct checker *c, char *line)
{
    char *save = NULL;
    const char *name = strtok_r(line, " ", &save);
    int16_t version = (int16_t)atoi(strtok_r(NULL, " ", &save));
    const char *hex = strtok_r(NULL, " ", &save);
    const char *json = strtok_r(NULL, "\n", &save);
    size_t used = 0;

    arena_reset(&c->arena);
    free(c->bytes);
    c->bytes = xstrdup(hex);
    c->message = NULL;
    c->desc = message_named(name);
    if (c->desc == NULL) {
        printf("FAILED no schema of %s\n", name);
        c->failed++;
        return;
    }
    for (size_t i = 0; i < codec_message_count; i++)
        if (codec_messages[i] == c->desc && version >= 0 && version < VERSIONS_MAX)
            c->seen[i * VERSIONS_MAX + (size_t)version] = 1;

    size_t size = from_hex(c->bytes);
    void *message = arena_alloc(&c->arena, c->desc->size);
    CHECK(message != NULL);
    enum err err = codec_decode(c->desc, version, c->bytes, size, &c->arena, message, &used);
    expect(c, "decode", version, "NONE", err == ERR_NONE ? "NONE" : "an error");
    if (err != ERR_NONE)
        return;
    if (used != size)
        expect(c, "length", version, "all", "less");

    char *text = print_as_text(c->desc, version, message);
    char *again = encode_as_text(c->desc, version, message);
    expect(c, "fields", version, json, text);
    expect(c, "bytes", version, hex, again);
    free(again);
    free(text);
    c->message = message;
    if (has_records(c->desc))
        check_zero_copy(c, version, size, hex);
}

static void check_other_version(struct checker *c, char *line)
{
    char *save = NULL;
    int16_t version = (int16_t)atoi(strtok_r(line, " ", &save));
    const char *hex = strtok_r(NULL, " \n", &save);

    if (c->message == NULL)
        return; /* it did not decode, which is counted already */
    char *ours = encode_as_text(c->desc, version, c->message);
    expect(c, "at another version", version, hex, ours);
    free(ours);
}

/* Every version of every schema must have been in the file. */
static void report_coverage(struct checker *c)
{
    unsigned apis = 0, api_versions = 0, others = 0, missing = 0;

    for (size_t i = 0; i < codec_message_count; i++) {
        const struct codec_struct *d = codec_messages[i];
        bool is_request = false, is_response = false;
        for (size_t j = 0; j < api_count; j++) {
            is_request |= api_at(j)->request == d;
            is_response |= api_at(j)->response == d;
        }
        apis += is_request;
        for (int16_t v = d->version_min; v <= d->version_max; v++) {
            if (!c->seen[i * VERSIONS_MAX + (size_t)v]) {
                printf("FAILED %s version %d is not in the file\n", d->name, v);
                missing++;
            }
            api_versions += is_request;
            others += !is_request && !is_response;
        }
    }
    c->failed += missing;
    printf("wire: %u APIs, %u versions of them, x 2 directions; %u versions of other schemas\n",
           apis, api_versions, others);
}

static int check(const char *path)
{
    struct checker c = {.seen = xcalloc(codec_message_count, VERSIONS_MAX)};
    gzFile in = strcmp(path, "-") == 0 ? gzdopen(0, "rb") : gzopen(path, "rb");
    char *line = xmalloc(LINE_MAX_BYTES);

    if (in == NULL) {
        fprintf(stderr, "%s: cannot be opened\n", path);
        return 2;
    }
    arena_init(&c.arena, ARENA_MAX_BYTES);
    while (gzgets(in, line, LINE_MAX_BYTES) != NULL) {
        if (strncmp(line, "M ", 2) == 0)
            check_message(&c, line + 2);
        else if (strncmp(line, "D ", 2) == 0)
            check_other_version(&c, line + 2);
    }
    report_coverage(&c);
    printf("%llu passed, %llu failed\n", (unsigned long long)c.passed,
           (unsigned long long)c.failed);
    gzclose(in);
    free(line);
    free(c.bytes);
    free(c.seen);
    arena_deinit(&c.arena);
    return c.failed > 0 || c.passed == 0;
}

/* ---- write ---- */

struct maker {
    uint64_t state;
    struct arena arena;
    int16_t version;
    bool flexible;
    unsigned density;      /* of 100: how often a field gets a value at all */
    unsigned tags_density; /* of 100: how often a struct gets unknown tags */
    int32_t budget;        /* elements left for this message */
};

/* xorshift64*: any generator will do that repeats. */
static uint64_t random_u64(struct maker *m)
{
    m->state ^= m->state >> 12;
    m->state ^= m->state << 25;
    m->state ^= m->state >> 27;
    return m->state * 2685821657736338717ull;
}

static uint32_t random_below(struct maker *m, uint32_t n)
{
    return (uint32_t)(random_u64(m) >> 33) % n;
}

static bool chance(struct maker *m, unsigned of_100)
{
    return random_below(m, 100) < of_100;
}

static uint64_t random_number(struct maker *m, unsigned bits)
{
    uint64_t max = (1ull << (bits - 1)) - 1;

    switch (random_below(m, 8)) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX;
    case 2:
        return max;
    case 3:
        return max + 1;
    case 4:
        return random_below(m, 200);
    default:
        return random_u64(m);
    }
}

static struct bytes random_bytes(struct maker *m, bool is_text)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz-_.0123456789\"\\\n\t";
    uint32_t size = chance(m, 2) ? 100 + random_below(m, 300) : random_below(m, 9);
    uint8_t *p = arena_alloc(&m->arena, size + 1);

    CHECK(p != NULL);
    for (uint32_t i = 0; i < size; i++)
        p[i] = is_text ? (uint8_t)letters[random_below(m, sizeof letters - 1)]
                       : (uint8_t)random_u64(m);
    return (struct bytes){p, (int32_t)size};
}

static void make_scalar(struct maker *m, enum codec_type type, bool null_allowed, void *p)
{
    bool null = null_allowed && chance(m, 30);
    struct bytes b = {NULL, -1};
    uint64_t number;

    switch (type) {
    case CODEC_BOOL:
        *(bool *)p = random_below(m, 2) != 0;
        return;
    case CODEC_INT8:
        *(int8_t *)p = (int8_t)random_number(m, 8);
        return;
    case CODEC_INT16:
    case CODEC_UINT16:
        *(uint16_t *)p = (uint16_t)random_number(m, 16);
        return;
    case CODEC_INT32:
    case CODEC_UINT32:
        *(uint32_t *)p = (uint32_t)random_number(m, 32);
        return;
    case CODEC_INT64:
        *(int64_t *)p = (int64_t)random_number(m, 64);
        return;
    case CODEC_FLOAT64:
        *(double *)p = (double)(int16_t)random_number(m, 16) / 4;
        return;
    case CODEC_UUID:
        for (size_t i = 0; i < 16; i += 8) {
            number = chance(m, 20) ? 0 : random_u64(m);
            memcpy((char *)p + i, &number, 8);
        }
        return;
    default:
        if (!null)
            b = random_bytes(m, type == CODEC_STRING);
        if (type == CODEC_STRING)
            *(struct str *)p = (struct str){(const char *)b.ptr, b.len};
        else if (type == CODEC_BYTES)
            *(struct bytes *)p = b;
        else
            *(struct records *)p = (struct records){b.ptr, b.len, NULL};
    }
}

static void make_struct(struct maker *m, const struct codec_struct *d, char *out);

static size_t size_of_element(const struct codec_field *f)
{
    switch (f->element) {
    case CODEC_STRUCT:
        return f->of->size;
    case CODEC_INT8:
        return 1;
    case CODEC_INT16:
        return 2;
    case CODEC_INT32:
        return 4;
    case CODEC_INT64:
        return 8;
    default:
        return 16; /* string, uuid */
    }
}

static void make_array(struct maker *m, const struct codec_field *f, bool null_allowed, char *p)
{
    struct array a = {NULL, 0};

    if (null_allowed && chance(m, 30))
        a.n = -1;
    else if (!chance(m, 20))
        a.n = MIN(m->budget, chance(m, 3) ? 130 : 1 + (int32_t)random_below(m, 3));
    if (a.n > 0) {
        m->budget -= a.n;
        a.v = arena_array(&m->arena, (size_t)a.n, size_of_element(f));
        CHECK(a.v != NULL);
    }
    for (int32_t i = 0; i < a.n; i++) {
        char *element = a.v + (size_t)i * size_of_element(f);
        if (f->element == CODEC_STRUCT)
            make_struct(m, f->of, element);
        else
            make_scalar(m, f->element, false, element);
    }
    memcpy(p, &a.v, sizeof a.v);
    memcpy(p + offsetof(struct array, n), &a.n, sizeof a.n);
}

static void make_field(struct maker *m, const struct codec_field *f, char *p)
{
    bool null_allowed = m->version >= f->null_min && m->version <= f->null_max;
    void *v;

    if (f->type == CODEC_ARRAY_OF) {
        make_array(m, f, null_allowed, p);
    } else if (f->type == CODEC_NULLABLE_STRUCT) {
        if (null_allowed && chance(m, 30))
            return;
        v = arena_alloc(&m->arena, f->of->size);
        CHECK(v != NULL);
        make_struct(m, f->of, v);
        memcpy(p, &v, sizeof v);
    } else if (f->type == CODEC_STRUCT) {
        make_struct(m, f->of, p);
    } else {
        make_scalar(m, f->type, null_allowed, p);
    }
}

static void make_unknown_tags(struct maker *m, const struct codec_struct *d, char *out)
{
    struct unknown_tags *first = NULL, **tail = &first;
    uint32_t tag = 0;

    for (uint16_t i = 0; i < d->field_count; i++)
        tag += d->fields[i].tag >= 0;
    for (uint32_t i = random_below(m, 3); i < 3; i++) {
        struct unknown_tags *u = arena_alloc(&m->arena, sizeof *u);
        CHECK(u != NULL);
        tag += random_below(m, chance(m, 10) ? 100000 : 3);
        *u = (struct unknown_tags){.tag = tag++, .value = random_bytes(m, false)};
        *tail = u;
        tail = &u->next;
    }
    memcpy(out + d->unknown_tags_offset, &first, sizeof(void *));
}

static void make_struct(struct maker *m, const struct codec_struct *d, char *out)
{
    codec_init(d, out);
    for (uint16_t i = 0; i < d->field_count; i++) {
        const struct codec_field *f = &d->fields[i];
        /* Records, and a pointer that this version must have, have no default that may be sent. */
        bool must =
            f->type == CODEC_RECORDS || (f->flags & CODEC_DEFAULT_NULL &&
                                         !(m->version >= f->null_min && m->version <= f->null_max));
        if (m->version >= f->version_min && m->version <= f->version_max &&
            (must || chance(m, m->density)))
            make_field(m, f, out + f->offset);
    }
    if (m->flexible && chance(m, m->tags_density))
        make_unknown_tags(m, d, out);
}

static void write_one(struct maker *m, const struct codec_struct *d, int16_t version)
{
    static const unsigned densities[] = {0, 10, 30, 60, 90, 100};
    static const unsigned tags_densities[] = {0, 0, 10, 50};

    arena_reset(&m->arena);
    m->version = version;
    m->flexible = version >= d->flexible_min && version <= d->flexible_max;
    m->density = densities[random_below(m, ARRAY_COUNT(densities))];
    m->tags_density = tags_densities[random_below(m, ARRAY_COUNT(tags_densities))];
    m->budget = chance(m, 5) ? 600 : 60;

    char *message = arena_alloc(&m->arena, d->size);
    CHECK(message != NULL);
    make_struct(m, d, message);
    char *hex = encode_as_text(d, version, message);
    char *text = print_as_text(d, version, message);
    CHECK(hex[0] == '=');
    printf("M %s %d %s %s\n", d->name, version, hex, text);
    free(text);
    free(hex);
    if (version != d->version_min && version != d->version_max)
        return;
    for (int16_t other = d->version_min; other <= d->version_max; other++) {
        if (other == version)
            continue;
        hex = encode_as_text(d, other, message);
        printf("D %d %s\n", other, hex);
        free(hex);
    }
}

static int write_all(uint64_t seed, int rounds)
{
    struct maker m = {.state = seed * 2 + 1};

    arena_init(&m.arena, ARENA_MAX_BYTES);
    for (size_t i = 0; i < codec_message_count; i++)
        for (int16_t v = codec_messages[i]->version_min; v <= codec_messages[i]->version_max; v++)
            for (int round = 0; round < rounds; round++)
                write_one(&m, codec_messages[i], v);
    arena_deinit(&m.arena);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "check") == 0)
        return check(argv[2]);
    if (argc == 4 && strcmp(argv[1], "write") == 0)
        return write_all(strtoull(argv[2], NULL, 10), atoi(argv[3]));
    fprintf(stderr, "usage: conformance check FILE | conformance write SEED ROUNDS\n");
    return 2;
}
