/* The ground floor: bytes, errors, arena, heap, hash map, iobuf. */
#include "protocol/base/arena.h"
#include "protocol/base/bytes.h"
#include "protocol/base/err.h"
#include "protocol/base/heap.h"
#include "protocol/base/hmap.h"
#include "protocol/base/iobuf.h"
#include "protocol/base/list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* ---- bytes ---- */

/* Every varint that we write reads back, in as many bytes as were written. */
static void varints_round_trip(void **state)
{
    static const int64_t values[] = {0,         1,         -1,        63,          64,
                                     -64,       -65,       300,       INT32_MAX,   INT32_MIN,
                                     INT64_MAX, INT64_MIN, 1LL << 34, -(1LL << 35)};
    (void)state;

    for (size_t i = 0; i < ARRAY_COUNT(values); i++) {
        uint8_t b[VARINT64_MAX];
        int64_t got64;
        size_t size = varint64_write(b, values[i]);
        assert_int_equal(varint64_read(b, size, &got64), size);
        assert_true(got64 == values[i]);
        assert_int_equal(varint64_read(b, size - 1, &got64), 0);

        if (values[i] < INT32_MIN || values[i] > INT32_MAX)
            continue;
        int32_t got32;
        assert_int_equal(varint32_write(b, (int32_t)values[i]), size);
        assert_int_equal(varint32_read(b, size, &got32), size);
        assert_true(got32 == values[i]);
    }
    for (uint32_t bits = 0; bits < 32; bits++) {
        uint8_t b[VARINT32_MAX];
        assert_int_equal(uvarint32_write(b, 1u << bits), uvarint32_size(1u << bits));
    }
}

/* A varint that is too long, or whose value does not fit, is refused and not cut. */
static void varints_that_do_not_fit_are_refused(void **state)
{
    static const uint8_t six[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x00};
    static const uint8_t bit32[] = {0xff, 0xff, 0xff, 0xff, 0x1f};
    static const uint8_t max32[] = {0xff, 0xff, 0xff, 0xff, 0x0f};
    static const uint8_t bit64[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
    static const uint8_t max64[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
    uint32_t v32;
    uint64_t v64;
    (void)state;

    assert_int_equal(uvarint32_read(six, sizeof six, &v32), 0);
    assert_int_equal(uvarint32_read(bit32, sizeof bit32, &v32), 0);
    assert_int_equal(uvarint32_read(max32, sizeof max32, &v32), 5);
    assert_true(v32 == UINT32_MAX);
    assert_int_equal(uvarint64_read(bit64, sizeof bit64, &v64), 0);
    assert_int_equal(uvarint64_read(max64, sizeof max64, &v64), 10);
    assert_true(v64 == UINT64_MAX);
    assert_int_equal(uvarint32_read(max32, 0, &v32), 0);
}

static void strings_compare_bytewise_with_null_first(void **state)
{
    (void)state;
    assert_true(str_cmp(STR_NULL, STR_EMPTY) < 0);
    assert_true(str_eq(STR_NULL, STR_NULL));
    assert_true(str_cmp(STR_LIT("a"), STR_LIT("ab")) < 0);
    assert_true(str_cmp(STR_LIT("b"), STR_LIT("ab")) > 0);
    assert_true(str_cmp(STR_LIT("\xff"), STR_LIT("a")) > 0);
    assert_true(str_eq_lit(STR_LIT("topic"), "topic"));
    assert_false(str_eq_lit(STR_LIT("topic"), "topi"));
    assert_true(str_is_null(str_from(NULL)));
}

/* A uuid's text is Java's: URL-safe base64 without padding, which reads back. */
static void uuids_have_kafkas_text(void **state)
{
    struct uuid u = {{0xfb, 0xff, 0x00, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xff}}, back;
    char text[UUID_TEXT_SIZE];
    (void)state;

    uuid_format(&u, text);
    assert_string_equal(text, "-_8AAQIDBAUGBwgJCgsM_w");
    assert_true(uuid_parse(str_from(text), &back));
    assert_true(uuid_eq(&u, &back));
    assert_true(uuid_parse(STR_LIT("-_8AAQIDBAUGBwgJCgsM_w=="), &back));
    assert_false(uuid_parse(STR_LIT("-_8AAQIDBAUGBwgJCgsM_"), &back));
    assert_false(uuid_parse(STR_LIT("+/8AAQIDBAUGBwgJCgsM/w"), &back));
    assert_false(uuid_parse(STR_NULL, &back));
    /* Java ignores the spare bits of the last character; the famous cluster id has some set. */
    assert_true(uuid_parse(STR_LIT("MkU3OEVBNTcwNTJENDM2Qk"), &back));
    assert_false(uuid_is_zero(&back));
}

static void numbers_in_text_are_whole_or_refused(void **state)
{
    static const char *const bad[] = {
        "", "-", "+1", " 1", "1 ", "1x", "--1", "0x1", "9223372036854775808"};
    int64_t v;
    int32_t v32;
    double d;
    (void)state;

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(parse_int64(str_from(bad[i]), &v));
    assert_true(parse_int64(STR_LIT("-9223372036854775808"), &v) && v == INT64_MIN);
    assert_true(parse_int64(STR_LIT("9223372036854775807"), &v) && v == INT64_MAX);
    assert_false(parse_int32(STR_LIT("2147483648"), &v32));
    assert_true(parse_int32(STR_LIT("-2147483648"), &v32) && v32 == INT32_MIN);
    assert_true(parse_double(STR_LIT("-0.25"), &d) && d == -0.25);
    assert_false(parse_double(STR_LIT("nan"), &d));
    assert_false(parse_double(STR_LIT(" 1"), &d));
    assert_false(parse_double(STR_LIT("0x10"), &d));
    assert_false(parse_double(STR_LIT("1e999"), &d));
}

/* ---- err ---- */

/* No local code leaves the process. */
static void local_errors_become_wire_codes(void **state)
{
    (void)state;
    for (int e = ERR_CORRUPT; e <= ERR_AGAIN; e++)
        assert_in_range(err_to_wire((enum err)e) + 1, 0, 137);
    assert_int_equal(err_to_wire(ERR_MALFORMED), ERR_INVALID_REQUEST);
    assert_int_equal(err_to_wire(ERR_NO_SPACE), ERR_KAFKA_STORAGE_ERROR);
    assert_int_equal(err_to_wire(ERR_NOT_LEADER_OR_FOLLOWER), 6);
    assert_string_equal(err_name(ERR_CORRUPT_MESSAGE), "CORRUPT_MESSAGE");
    assert_string_equal(err_name(ERR_IO), "IO");
    assert_string_equal(err_name((enum err)9999), "UNKNOWN");
}

/* ---- arena ---- */

static void arena_memory_is_aligned_zeroed_and_within_budget(void **state)
{
    struct arena a;
    (void)state;

    arena_init(&a, 100000);
    for (int round = 0; round < 3; round++) {
        size_t total = 0;
        for (size_t size = 0;; size = (size * 7 + 3) % 5000) {
            uint8_t *p = arena_alloc(&a, size);
            if (p == NULL)
                break;
            assert_int_equal((uintptr_t)p % 16, 0);
            for (size_t i = 0; i < size; i++)
                assert_int_equal(p[i], 0);
            if (size > 0)
                memset(p, 0xee, size);
            total += size;
        }
        assert_in_range(total, 90000, 100000);
        assert_null(arena_alloc(&a, 6000));
        arena_reset(&a);
        assert_int_equal(a.bytes_used, 0);
    }
    assert_null(arena_array(&a, SIZE_MAX / 2, 3));
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_non_null(arena_array(&a, 10, 100));
    arena_deinit(&a);
}

static void arena_copies_strings_and_keeps_null(void **state)
{
    struct arena a;
    struct str s;
    (void)state;

    arena_init(&a, 64);
    assert_true(arena_str(&a, STR_NULL, &s));
    assert_true(str_is_null(s));
    assert_true(arena_str(&a, STR_LIT("orders"), &s));
    assert_true(str_eq_lit(s, "orders"));
    assert_true(str_eq_lit(arena_printf(&a, "%s-%d", "orders", 7), "orders-7"));
    assert_true(str_is_null(arena_printf(&a, "%100d", 7)));
    arena_deinit(&a);
}

struct release_order {
    int released[4];
    int count;
};

struct held_thing {
    struct release_order *order;
    int id;
};

static void note_release(void *object)
{
    struct held_thing *thing = object;
    thing->order->released[thing->order->count++] = thing->id;
}

/* What was held last is released first, also when the budget is used up. */
static void arena_releases_what_it_holds(void **state)
{
    struct release_order order = {0};
    struct held_thing one = {&order, 1}, two = {&order, 2}, three = {&order, 3};
    struct arena a;
    (void)state;

    arena_init(&a, 0);
    arena_hold(&a, &one, note_release);
    arena_hold(&a, &two, note_release);
    arena_reset(&a);
    assert_int_equal(order.count, 2);
    assert_int_equal(order.released[0], 2);
    assert_int_equal(order.released[1], 1);
    arena_hold(&a, &three, note_release);
    arena_deinit(&a);
    assert_int_equal(order.released[2], 3);
}

/* ---- heap ---- */

/* Whatever is removed in between, nodes leave by key, and equal keys in order of insertion. */
static void heap_orders_by_key_then_insertion(void **state)
{
    enum { COUNT = 500 };
    struct heap_node nodes[COUNT];
    struct heap h;
    uint64_t seed = 1;
    (void)state;

    heap_init(&h);
    for (int i = 0; i < COUNT; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        heap_node_init(&nodes[i]);
        heap_push(&h, &nodes[i], seed >> 33 & 31);
    }
    for (int i = 0; i < COUNT; i += 3) {
        heap_remove(&h, &nodes[i]);
        assert_false(heap_contains(&nodes[i]));
    }
    heap_push(&h, &nodes[0], 7);

    struct heap_node *before = NULL;
    size_t left = h.count;
    for (struct heap_node *n; (n = heap_min(&h)) != NULL; before = n, left--) {
        if (before != NULL) {
            assert_true(before->key <= n->key);
            assert_true(before->key < n->key || before->sequence < n->sequence);
        }
        heap_remove(&h, n);
    }
    assert_int_equal(left, 0);
    heap_deinit(&h);
}

/* ---- hmap ---- */

struct entry {
    struct hmap_node node;
    int key;
};

static struct entry *find(const struct hmap *m, int key)
{
    struct hmap_node *n = hmap_first_with_hash(m, hmap_hash(m, &key, sizeof key) & 0xff);

    for (; n != NULL; n = hmap_next_with_hash(n)) {
        struct entry *e = CONTAINER_OF(n, struct entry, node);
        if (e->key == key)
            return e;
    }
    return NULL;
}

/* Entries are found among collisions; all can be removed while walking. */
static void hmap_finds_walks_and_removes(void **state)
{
    enum { COUNT = 1000 };
    static const uint64_t seed = 42;
    struct entry *entries = calloc(COUNT, sizeof *entries);
    struct hmap m;
    (void)state;

    hmap_init(&m, seed);
    assert_null(find(&m, 1));
    assert_null(hmap_begin(&m));
    for (int i = 0; i < COUNT; i++) {
        entries[i].key = i;
        /* Eight bits of hash for a thousand keys: every lookup meets collisions. */
        hmap_insert(&m, &entries[i].node, hmap_hash(&m, &i, sizeof i) & 0xff);
    }
    for (int i = 0; i < COUNT; i++)
        assert_ptr_equal(find(&m, i), &entries[i]);
    assert_null(find(&m, COUNT));

    int seen = 0;
    for (struct hmap_node *n = hmap_begin(&m); n != NULL; n = hmap_after(&m, n)) {
        hmap_remove(&m, n);
        seen++;
    }
    assert_int_equal(seen, COUNT);
    assert_int_equal(m.count, 0);
    assert_null(find(&m, 1));
    hmap_deinit(&m);
    free(entries);
}

static void hash_depends_on_the_seed(void **state)
{
    (void)state;
    assert_true(hash_bytes(1, "topic", 5) != hash_bytes(2, "topic", 5));
    assert_true(hash_bytes(1, "topic", 5) == hash_bytes(1, "topic", 5));
}

/* ---- list ---- */

static void list_splices_and_pops_in_order(void **state)
{
    struct list a, b;
    struct list_node n[4];
    (void)state;

    list_init(&a);
    list_init(&b);
    list_splice_back(&a, &b);
    assert_true(list_empty(&a));
    for (int i = 0; i < 4; i++)
        list_push_back(i < 2 ? &a : &b, &n[i]);
    list_splice_back(&a, &b);
    assert_true(list_empty(&b));
    for (int i = 0; i < 4; i++)
        assert_ptr_equal(list_pop_front(&a), &n[i]);
    assert_null(list_pop_front(&a));
}

/* ---- iobuf ---- */

static size_t queue_read(const struct ioqueue *q, uint8_t *out)
{
    const struct ioslice *s;
    size_t used = 0;

    for (size_t i = 0; (s = ioqueue_at(q, i)) != NULL; i++) {
        memcpy(out + used, s->buf->ptr + s->offset, s->len);
        used += s->len;
    }
    return used;
}

/* Bytes leave in the order they came in, whatever the sizes of pushes and of sends. */
static void ioqueue_keeps_order(void **state)
{
    enum { TOTAL = 200000 };
    uint8_t *got = malloc(TOTAL);
    uint8_t next_in = 0, next_out = 0;
    struct ioqueue q;
    (void)state;

    ioqueue_init(&q);
    for (unsigned round = 1; round < 300; round++) {
        uint8_t piece[5000];
        size_t len = round * 37 % sizeof piece;
        for (size_t i = 0; i < len; i++)
            piece[i] = next_in++;
        if (round % 3 == 0) {
            struct iobuf *b = iobuf_new(len);
            if (len > 0)
                memcpy(iobuf_bytes(b), piece, len);
            ioqueue_push(&q, b, 0, len);
        } else {
            ioqueue_push_copy(&q, piece, len);
        }
        size_t have = q.bytes_total;
        assert_true(have <= TOTAL);
        assert_int_equal(queue_read(&q, got), have);
        for (size_t i = 0; i < have; i++)
            assert_int_equal(got[i], (uint8_t)(next_out + i));
        size_t sent = have > 0 ? round * 101 % (have + 1) : 0;
        ioqueue_consume(&q, sent);
        next_out = (uint8_t)(next_out + sent);
    }
    ioqueue_deinit(&q);
    free(got);
}

/* A ring that is full and begins in its middle grows without losing its order. */
static void ioqueue_grows_around_its_end(void **state)
{
    struct ioqueue q;
    uint8_t next = 0, got[64];
    (void)state;

    ioqueue_init(&q);
    for (int i = 0; i < 60; i++) {
        struct iobuf *b = iobuf_new(1);
        iobuf_bytes(b)[0] = next++;
        ioqueue_push(&q, b, 0, 1);
        if (i == 5)
            ioqueue_consume(&q, 3);
    }
    assert_int_equal(queue_read(&q, got), 57);
    for (int i = 0; i < 57; i++)
        assert_int_equal(got[i], 3 + i);
    ioqueue_deinit(&q);
}

/* Small copies share a chunk, but never grow into a buffer that somebody else pushed or holds. */
static void ioqueue_copies_only_into_its_own_room(void **state)
{
    struct ioqueue q;
    (void)state;

    ioqueue_init(&q);
    ioqueue_push_copy(&q, "ab", 2);
    ioqueue_push_copy(&q, "cd", 2);
    assert_int_equal(q.count, 1);

    struct iobuf *pushed = iobuf_new(100);
    memset(iobuf_bytes(pushed), 'x', 100);
    ioqueue_push(&q, pushed, 0, 10);
    ioqueue_push_copy(&q, "ef", 2);
    assert_int_equal(q.count, 3);
    assert_int_equal(pushed->ptr[10], 'x');

    struct iobuf *held = iobuf_ref(ioqueue_at(&q, 2)->buf);
    ioqueue_push_copy(&q, "gh", 2);
    assert_int_equal(q.count, 4);
    iobuf_unref(held);
    ioqueue_deinit(&q);
}

struct counted_iobuf {
    struct iobuf base;
    int *released;
};

static void count_release(struct iobuf *b)
{
    ++*CONTAINER_OF(b, struct counted_iobuf, base)->released;
}

/* Each slice drops its reference exactly once: when sent, spliced and sent, or left over. */
static void ioqueue_drops_each_reference_once(void **state)
{
    int released = 0;
    struct counted_iobuf b = {.base = {.len = 10, .release = count_release}, .released = &released};
    struct ioqueue q, other;
    (void)state;

    atomic_init(&b.base.refs, 1);
    ioqueue_init(&q);
    ioqueue_init(&other);
    ioqueue_push(&q, iobuf_ref(&b.base), 0, 10);
    ioqueue_push(&q, iobuf_ref(&b.base), 5, 5);
    ioqueue_push(&other, iobuf_ref(&b.base), 0, 0);
    ioqueue_splice(&other, &q);
    assert_int_equal(other.bytes_total, 15);
    assert_int_equal(q.bytes_total, 0);
    ioqueue_consume(&other, 11);
    assert_int_equal(ioqueue_at(&other, 0)->offset, 6);
    ioqueue_deinit(&other);
    ioqueue_deinit(&q);
    assert_int_equal(released, 0);
    iobuf_unref(&b.base);
    assert_int_equal(released, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(varints_round_trip),
        cmocka_unit_test(varints_that_do_not_fit_are_refused),
        cmocka_unit_test(strings_compare_bytewise_with_null_first),
        cmocka_unit_test(uuids_have_kafkas_text),
        cmocka_unit_test(numbers_in_text_are_whole_or_refused),
        cmocka_unit_test(local_errors_become_wire_codes),
        cmocka_unit_test(arena_memory_is_aligned_zeroed_and_within_budget),
        cmocka_unit_test(arena_copies_strings_and_keeps_null),
        cmocka_unit_test(arena_releases_what_it_holds),
        cmocka_unit_test(heap_orders_by_key_then_insertion),
        cmocka_unit_test(hmap_finds_walks_and_removes),
        cmocka_unit_test(hash_depends_on_the_seed),
        cmocka_unit_test(list_splices_and_pops_in_order),
        cmocka_unit_test(ioqueue_keeps_order),
        cmocka_unit_test(ioqueue_grows_around_its_end),
        cmocka_unit_test(ioqueue_copies_only_into_its_own_room),
        cmocka_unit_test(ioqueue_drops_each_reference_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
