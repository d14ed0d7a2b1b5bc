/* raft-meta/peer_frame.h -- the frames that nodes exchange on the controller listener.
 *
 *    0  u32  magic: negative as an int32, so it is no legal length of a Kafka request
 *    4  u16  type, enum peer_frame_type
 *    6  u16  zero
 *    8  u32  length of the payload
 *   12  u32  CRC32C of bytes 0-11 and the payload
 *   16       payload: messages of protocol/schema/peer/ one behind the other, each in version 0
 *
 * Numbers are big endian. What cannot be a frame is refused before memory is taken for it: each
 * type has its own limit, and whoever has not proved who he is may send only what introduces him.
 *
 * Thread: any; no state.
 */
#ifndef FLUXMQ_RAFT_META_PEER_FRAME_H
#define FLUXMQ_RAFT_META_PEER_FRAME_H

#include "protocol/base/err.h"
#include "protocol/base/iobuf.h"

#define PEER_FRAME_MAGIC       0xf10c4d51u
#define PEER_FRAME_HEADER_SIZE 16
#define PEER_FRAME_BYTES_MAX   (64 << 20)
#define PEER_HELLO_BYTES_MAX   4096

enum peer_frame_type {
    /* the connection's own */
    PEER_HELLO = 1,
    PEER_PROOF = 2,
    PEER_REFUSAL = 3,
    PEER_PING = 4,
    PEER_STATE = 5,
    /* raft: an envelope, and what it holds (raft_wire.h) */
    PEER_REQUEST_VOTE = 16,
    PEER_REQUEST_VOTE_RESULT = 17,
    PEER_APPEND_ENTRIES = 18,
    PEER_APPEND_ENTRIES_RESULT = 19,
    PEER_TIMEOUT_NOW = 20,
    PEER_SNAPSHOT_BEGIN = 21,
    PEER_SNAPSHOT_CHUNK = 22,
    /* between the quorum's members (raft_node.c) */
    PEER_FORWARD = 32,
    PEER_FORWARD_RESULT = 33,
    PEER_BARRIER = 34,
    PEER_BARRIER_RESULT = 35,
    PEER_QUORUM_VIEW = 36,
    PEER_HEARTBEAT = 37,
    PEER_HEARTBEAT_RESULT = 38,
};

struct peer_frame {
    enum peer_frame_type type;
    size_t length; /* of the payload */
    uint32_t crc;
};

/* Reads and checks a header. `introduced`: the sender has proved who he is.
 * Errors: ERR_AGAIN (fewer than PEER_FRAME_HEADER_SIZE bytes, and those that are there fit),
 * ERR_MALFORMED (not ours), ERR_UNSUPPORTED_VERSION (no type that we know, or not yet),
 * ERR_TOO_LARGE. */
MUST_USE enum err peer_frame_read(const uint8_t *ptr, size_t size, bool introduced,
                                  struct peer_frame *out);
/* Whether the payload that follows the header at `ptr` is the one that was sent. */
MUST_USE bool peer_frame_check(const uint8_t *ptr, const struct peer_frame *f);

/* Appends a frame of the payload, which is moved. The payload lies in memory. */
void peer_frame_write(enum peer_frame_type type, struct ioqueue *payload, struct ioqueue *out);

#endif
