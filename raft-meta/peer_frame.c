/* raft-meta/peer_frame.c -- see peer_frame.h. */
#include "raft-meta/peer_frame.h"

#include "protocol/base/bytes.h"
#include "protocol/crc32c.h"

#define SMALL_BYTES_MAX (64 << 10)
#define CRC_OFFSET      12

/* The longest payload that a type may have; 0: no type of ours. */
static size_t length_max(uint16_t type, bool introduced)
{
    switch (type) {
    case PEER_HELLO:
    case PEER_PROOF:
    case PEER_REFUSAL:
        return PEER_HELLO_BYTES_MAX;
    case PEER_PING:
    case PEER_STATE:
    case PEER_REQUEST_VOTE:
    case PEER_REQUEST_VOTE_RESULT:
    case PEER_APPEND_ENTRIES_RESULT:
    case PEER_TIMEOUT_NOW:
    case PEER_SNAPSHOT_BEGIN:
    case PEER_BARRIER:
    case PEER_BARRIER_RESULT:
    case PEER_QUORUM_VIEW:
    case PEER_HEARTBEAT:
    case PEER_HEARTBEAT_RESULT:
        return introduced ? SMALL_BYTES_MAX : 0;
    case PEER_APPEND_ENTRIES:
    case PEER_SNAPSHOT_CHUNK:
    case PEER_FORWARD:
    case PEER_FORWARD_RESULT:
        return introduced ? PEER_FRAME_BYTES_MAX : 0;
    default:
        return 0;
    }
}

enum err peer_frame_read(const uint8_t *ptr, size_t size, bool introduced, struct peer_frame *out)
{
    uint8_t magic[4];
    uint16_t type;
    size_t most;

    /* Refused with the first byte that does not fit: who sends something else may wait for us. */
    store_be32(magic, PEER_FRAME_MAGIC);
    if (memcmp(ptr, magic, MIN(size, sizeof magic)) != 0)
        return ERR_MALFORMED;
    if (size < PEER_FRAME_HEADER_SIZE)
        return ERR_AGAIN;
    type = load_be16(ptr + 4);
    most = length_max(type, introduced);
    if (most == 0)
        return ERR_UNSUPPORTED_VERSION;
    if (load_be16(ptr + 6) != 0)
        return ERR_MALFORMED;
    out->type = (enum peer_frame_type)type;
    out->length = load_be32(ptr + 8);
    out->crc = load_be32(ptr + CRC_OFFSET);
    return out->length > most ? ERR_TOO_LARGE : ERR_NONE;
}

bool peer_frame_check(const uint8_t *ptr, const struct peer_frame *f)
{
    return crc32c(crc32c(0, ptr, CRC_OFFSET), ptr + PEER_FRAME_HEADER_SIZE, f->length) == f->crc;
}

void peer_frame_write(enum peer_frame_type type, struct ioqueue *payload, struct ioqueue *out)
{
    uint8_t header[PEER_FRAME_HEADER_SIZE] = {0};
    uint32_t crc;

    store_be32(header, PEER_FRAME_MAGIC);
    store_be16(header + 4, (uint16_t)type);
    store_be32(header + 8, to_uint32_checked((int64_t)payload->bytes_total));
    crc = crc32c(0, header, CRC_OFFSET);
    for (size_t i = 0; i < payload->count; i++) {
        const struct ioslice *s = ioqueue_at(payload, i);

        CHECK(s->buf->ptr != NULL);
        crc = crc32c(crc, s->buf->ptr + s->offset, s->len);
    }
    store_be32(header + CRC_OFFSET, crc);
    ioqueue_push_copy(out, header, sizeof header);
    ioqueue_splice(out, payload);
}
