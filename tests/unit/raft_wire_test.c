/* Raft's messages between nodes: what is sent arrives as it was, in bounded pieces; what cannot be
 * right does not reach libraft. */
#include "raft-meta/raft_wire.h"

#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static const struct wire_envelope envelope = {
    .from = 1, .to = 2, .from_directory = {{1}}, .to_directory = {{2}}, .installing = true};

static uint8_t *flatten(struct ioqueue *q, size_t *size)
{
    uint8_t *bytes = xmalloc(q->bytes_total + 1);

    *size = 0;
    for (size_t i = 0; i < q->count; i++) {
        const struct ioslice *s = ioqueue_at(q, i);

        memcpy(bytes + *size, s->buf->ptr + s->offset, s->len);
        *size += s->len;
    }
    ioqueue_deinit(q);
    return bytes;
}

static enum err decode_frame(const uint8_t *bytes, size_t size, struct raft_message *out)
{
    struct wire_envelope e;
    struct peer_frame f;

    assert_int_equal(peer_frame_read(bytes, size, true, &f), ERR_NONE);
    assert_true(peer_frame_check(bytes, &f));
    return wire_decode(f.type, bytes + PEER_FRAME_HEADER_SIZE, f.length, &e, out);
}

/* A follower that lags by 3 MiB is sent several messages, each whole in itself, none much larger
 * than the limit but for one entry that alone is. */
static void entries_are_split(void **state)
{
    enum { COUNT = 40 };
    struct raft_entry entries[COUNT];
    struct raft_append_entries a = {
        .term = 9, .prev_log_index = 100, .prev_log_term = 4, .leader_commit = 101};
    unsigned next = 0, seen = 0, messages = 0;
    bool more = true;

    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        size_t size = i == 20 ? 1 << 20 : (50 << 10) + 8 * i;

        entries[i] = (struct raft_entry){
            .term = 5 + i / 30, .type = RAFT_COMMAND, .buf = {xcalloc(1, size), size}};
        memset(entries[i].buf.base, (int)i, size);
    }
    a.entries = entries;
    a.n_entries = COUNT;
    while (more) {
        struct raft_message m;
        struct ioqueue q;
        uint8_t *bytes;
        size_t size;

        ioqueue_init(&q);
        more = wire_encode_entries(&envelope, &a, next, &next, &q);
        bytes = flatten(&q, &size);
        assert_int_equal(decode_frame(bytes, size, &m), ERR_NONE);
        assert_int_equal(m.append_entries.prev_log_index, 100 + seen);
        assert_int_equal(m.append_entries.prev_log_term, seen > 0 ? entries[seen - 1].term : 4);
        assert_true(size < WIRE_ENTRIES_BYTES_MAX + (8 << 10) || m.append_entries.n_entries == 1);
        for (unsigned i = 0; i < m.append_entries.n_entries; i++, seen++) {
            const struct raft_entry *e = &m.append_entries.entries[i];

            assert_int_equal(e->term, entries[seen].term);
            assert_int_equal(e->buf.len, entries[seen].buf.len);
            assert_memory_equal(e->buf.base, entries[seen].buf.base, e->buf.len);
        }
        wire_drop(&m);
        free(bytes);
        messages++;
    }
    assert_int_equal(seen, COUNT);
    assert_true(messages >= 5);
    for (unsigned i = 0; i < COUNT; i++)
        free(entries[i].buf.base);
}

static enum err decode_entries(const struct raft_append_entries *a)
{
    struct raft_message m;
    struct ioqueue q;
    unsigned next;
    uint8_t *bytes;
    size_t size;
    enum err e;

    ioqueue_init(&q);
    (void)wire_encode_entries(&envelope, a, 0, &next, &q);
    bytes = flatten(&q, &size);
    e = decode_frame(bytes, size, &m);
    if (e == ERR_NONE)
        wire_drop(&m);
    free(bytes);
    return e;
}

/* Orders and lengths that no log can have. */
static void impossible_entries_are_refused(void **state)
{
    char data[16] = "0123456";
    struct raft_entry entry = {.term = 3, .type = RAFT_COMMAND, .buf = {data, 8}};
    const struct raft_append_entries good = {.term = 3,
                                             .prev_log_index = 7,
                                             .prev_log_term = 2,
                                             .leader_commit = 7,
                                             .entries = &entry,
                                             .n_entries = 1};
    struct raft_append_entries a = good;

    (void)state;
    assert_int_equal(decode_entries(&good), ERR_NONE);
    a.term = 0;
    assert_int_equal(decode_entries(&a), ERR_MALFORMED);
    a = good;
    a.term = 2; /* an entry of a later term than the leader's */
    assert_int_equal(decode_entries(&a), ERR_MALFORMED);
    a = good;
    a.prev_log_term = 4;
    assert_int_equal(decode_entries(&a), ERR_MALFORMED);
    a = good;
    a.prev_log_index = 0; /* nothing has no term */
    assert_int_equal(decode_entries(&a), ERR_MALFORMED);
    a = good;
    entry.term = 1; /* terms do not fall */
    assert_int_equal(decode_entries(&a), ERR_MALFORMED);
    entry.term = 3;
    entry.buf.len = 7;
    assert_int_equal(decode_entries(&a), ERR_MALFORMED);
    entry.buf.len = 8;
    entry.type = 9;
    assert_int_equal(decode_entries(&a), ERR_MALFORMED);
    entry.type = RAFT_CHANGE; /* its bytes are no configuration */
    assert_int_equal(decode_entries(&a), ERR_MALFORMED);
}

/* A configuration cut or changed anywhere is refused or names the same number of servers; it is
 * never read past its end. */
static void configurations_are_checked(void **state)
{
    struct raft_configuration c;
    struct raft_buffer buf;

    (void)state;
    raft_configuration_init(&c);
    for (raft_id id = 1; id <= 3; id++) {
        char address[WIRE_ADDRESS_MAX];

        wire_address(address, (int32_t)id, &(struct uuid){{(uint8_t)id}});
        assert_int_equal(raft_configuration_add(&c, id, address, RAFT_VOTER), 0);
    }
    assert_int_equal(raft_configuration_encode(&c, &buf), 0);
    assert_int_equal(wire_read_configuration(buf.base, buf.len, NULL, NULL), ERR_NONE);
    for (size_t size = 0; size + 8 < buf.len; size++) {
        uint8_t *part = xmalloc(size + 1); /* so that a sanitizer sees its end */

        memcpy(part, buf.base, size);
        assert_int_equal(wire_read_configuration(part, size, NULL, NULL), ERR_MALFORMED);
        free(part);
    }
    raft_free(buf.base);
    raft_configuration_close(&c);
}

/* An InstallSnapshot arrives in pieces; a piece that is missing or of another one ends it. */
static void snapshots_come_in_pieces(void **state)
{
    enum { SIZE = 3 * WIRE_CHUNK_BYTES / 2 };
    struct raft_install_snapshot s = {.term = 5, .last_index = 90, .last_term = 4, .conf_index = 1};
    struct wire_assembly a = {.active = false};
    uint8_t *data = xmalloc(SIZE), *bytes;
    struct raft_message m;
    struct peer_frame f;
    struct iobuf *held;
    struct ioqueue q;
    size_t size;
    bool done;

    (void)state;
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (uint8_t)(i * 7);
    raft_configuration_init(&s.conf);
    assert_int_equal(raft_configuration_add(&s.conf, 1, "1@AQAAAAAAAAAAAAAAAAAAAA", RAFT_VOTER), 0);
    s.data = (struct raft_buffer){data, SIZE};
    ioqueue_init(&q);
    wire_encode_snapshot(&envelope, &s, &q, &held);
    bytes = flatten(&q, &size);
    assert_int_equal(peer_frame_read(bytes, size, true, &f), ERR_NONE);
    assert_int_equal(wire_assembly_begin(&a, bytes + PEER_FRAME_HEADER_SIZE, f.length), ERR_NONE);
    free(bytes);
    for (size_t offset = 0; offset < SIZE;) {
        size_t next;

        ioqueue_init(&q);
        next = wire_encode_chunk(90, held, offset, &q);
        bytes = flatten(&q, &size);
        assert_int_equal(peer_frame_read(bytes, size, true, &f), ERR_NONE);
        assert_int_equal(
            wire_assembly_chunk(&a, bytes + PEER_FRAME_HEADER_SIZE, f.length, &done, &m), ERR_NONE);
        assert_true(done == (next == SIZE));
        assert_true(a.capacity <= SIZE);
        if (!done) /* the same again does not continue it */
            assert_int_equal(
                wire_assembly_chunk(&a, bytes + PEER_FRAME_HEADER_SIZE, f.length, &done, &m),
                ERR_MALFORMED);
        free(bytes);
        offset = next;
    }
    assert_int_equal(m.install_snapshot.last_index, 90);
    assert_int_equal(m.install_snapshot.conf.n, 1);
    assert_int_equal(m.install_snapshot.data.len, SIZE);
    assert_memory_equal(m.install_snapshot.data.base, data, SIZE);
    wire_drop(&m);
    iobuf_unref(held);
    raft_configuration_close(&s.conf);
    free(data);
}

/* What comes before an introduction is only what introduces. */
static void strangers_may_only_introduce_themselves(void **state)
{
    uint8_t header[PEER_FRAME_HEADER_SIZE] = {0};
    struct peer_frame f;

    (void)state;
    store_be32(header, PEER_FRAME_MAGIC);
    assert_true((int32_t)PEER_FRAME_MAGIC < 0);
    for (uint16_t type = 0; type < 64; type++) {
        store_be16(header + 4, type);
        assert_true((peer_frame_read(header, sizeof header, false, &f) == ERR_NONE) ==
                    (type >= PEER_HELLO && type <= PEER_REFUSAL));
    }
    store_be16(header + 4, PEER_HELLO);
    store_be32(header + 8, PEER_HELLO_BYTES_MAX + 1);
    assert_int_equal(peer_frame_read(header, sizeof header, false, &f), ERR_TOO_LARGE);
    assert_int_equal(peer_frame_read(header, 3, false, &f), ERR_AGAIN);
    assert_int_equal(peer_frame_read((const uint8_t *)"GET", 1, false, &f), ERR_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_are_split),
        cmocka_unit_test(impossible_entries_are_refused),
        cmocka_unit_test(configurations_are_checked),
        cmocka_unit_test(snapshots_come_in_pieces),
        cmocka_unit_test(strangers_may_only_introduce_themselves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
