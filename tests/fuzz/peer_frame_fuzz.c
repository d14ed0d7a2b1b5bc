/* tests/fuzz/peer_frame_fuzz.c -- any bytes as frames of a peer, and as the messages in them.
 *
 * The first byte chooses: a stream of frames, as a connection takes it apart (checksums made right,
 * else nothing would come through); the payload of one type; a configuration of libraft's; chunks
 * of a snapshot. What decodes as a message of raft is encoded again and decoded to the same.
 */
#include <stdlib.h>
#include <string.h>

#include "protocol/api.h"
#include "protocol/crc32c.h"
#include "raft-meta/raft_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const enum peer_frame_type raft_types[] = {PEER_REQUEST_VOTE, PEER_REQUEST_VOTE_RESULT,
                                                  PEER_APPEND_ENTRIES, PEER_APPEND_ENTRIES_RESULT,
                                                  PEER_TIMEOUT_NOW};

static size_t flatten(struct ioqueue *q, uint8_t *out)
{
    size_t n = 0;

    for (size_t i = 0; i < q->count; i++) {
        const struct ioslice *s = ioqueue_at(q, i);

        memcpy(out + n, s->buf->ptr + s->offset, s->len);
        n += s->len;
    }
    return n;
}

/* The frames of a message that was decoded; entries come out as they were. */
static void encode_again(const struct wire_envelope *e, const struct raft_message *m)
{
    struct ioqueue q;
    unsigned next = 0;
    uint8_t *bytes;
    size_t size, at = 0;

    ioqueue_init(&q);
    if (m->type == RAFT_IO_APPEND_ENTRIES) {
        while (wire_encode_entries(e, &m->append_entries, next, &next, &q))
            ;
        CHECK(next == m->append_entries.n_entries);
    } else {
        wire_encode(e, m, &q);
    }
    bytes = xmalloc(q.bytes_total + 1);
    size = flatten(&q, bytes);
    while (at < size) {
        struct wire_envelope again;
        struct raft_message same;
        struct peer_frame f;
        enum err err = peer_frame_read(bytes + at, size - at, true, &f);

        CHECK(err == ERR_NONE);
        CHECK(peer_frame_check(bytes + at, &f));
        err = wire_decode(f.type, bytes + at + PEER_FRAME_HEADER_SIZE, f.length, &again, &same);
        CHECK(err == ERR_NONE);
        CHECK(again.from == e->from && again.to == e->to && again.installing == e->installing);
        CHECK(same.type == m->type);
        wire_drop(&same);
        at += PEER_FRAME_HEADER_SIZE + f.length;
    }
    ioqueue_deinit(&q);
    free(bytes);
}

static void one_message(enum peer_frame_type type, const uint8_t *data, size_t size)
{
    struct wire_envelope e;
    struct raft_message m;

    if (wire_decode(type, data, size, &e, &m) != ERR_NONE)
        return;
    encode_again(&e, &m);
    wire_drop(&m);
}

static void one_payload(struct wire_assembly *a, enum peer_frame_type type, const uint8_t *data,
                        size_t size)
{
    struct raft_message m;
    bool done = false;

    if (type == PEER_SNAPSHOT_BEGIN) {
        (void)!wire_assembly_begin(a, data, size);
    } else if (type == PEER_SNAPSHOT_CHUNK) {
        (void)!wire_assembly_chunk(a, data, size, &done, &m);
        if (done)
            wire_drop(&m);
    } else {
        one_message(type, data, size);
    }
}

static void stream_of_frames(const uint8_t *data, size_t size)
{
    uint8_t *bytes = xmalloc(size + 1);
    struct wire_assembly a = {.active = false};
    size_t at = 0;

    memcpy(bytes, data, size);
    while (at < size) {
        struct peer_frame f;
        uint32_t crc;

        if (size - at >= 4)
            store_be32(bytes + at, PEER_FRAME_MAGIC);
        if (peer_frame_read(bytes + at, size - at, true, &f) != ERR_NONE ||
            size - at < PEER_FRAME_HEADER_SIZE + f.length)
            break;
        crc = crc32c(crc32c(0, bytes + at, 12), bytes + at + PEER_FRAME_HEADER_SIZE, f.length);
        CHECK(peer_frame_check(bytes + at, &f) == (crc == f.crc));
        one_payload(&a, f.type, bytes + at + PEER_FRAME_HEADER_SIZE, f.length);
        at += PEER_FRAME_HEADER_SIZE + f.length;
    }
    wire_assembly_reset(&a);
    free(bytes);
}

static void each_member(void *ctx, raft_id id, const char *address, int role)
{
    struct uuid directory;
    int32_t node;

    (void)id;
    (void)role;
    *(size_t *)ctx += strlen(address);
    (void)!wire_address_parse(address, &node, &directory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_assembly a = {.active = false};
    size_t sum = 0;

    if (size == 0 || size > (1 << 20))
        return 0;
    switch (data[0] % 8) {
    case 0:
    case 1:
        stream_of_frames(data + 1, size - 1);
        break;
    case 2:
        (void)!wire_read_configuration(data + 1, size - 1, each_member, &sum);
        break;
    case 3: /* a beginning and what follows it as one chunk */
        one_payload(&a, PEER_SNAPSHOT_BEGIN, data + 1, MIN(size - 1, (size_t)200));
        one_payload(&a, PEER_SNAPSHOT_CHUNK, data + 1, size - 1);
        wire_assembly_reset(&a);
        break;
    default:
        one_message(raft_types[data[0] / 8 % ARRAY_COUNT(raft_types)], data + 1, size - 1);
        break;
    }
    return 0;
}
