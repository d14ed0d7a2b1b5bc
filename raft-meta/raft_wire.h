/* raft-meta/raft_wire.h -- the messages of libraft as frames between nodes, and back.
 *
 * libraft's own encoding is never used: its reader checks no lengths. Here every count, length and
 * order is checked, down to the bytes of a configuration, which libraft reads without looking. A
 * message is encoded whole inside send() (G9).
 *
 * An AppendEntries becomes several of at most WIRE_ENTRIES_BYTES_MAX each (a larger entry goes
 * alone), each complete in itself: a follower that lags is not sent everything in one.
 * An InstallSnapshot becomes a beginning and chunks, which raft_transport sends when nothing else
 * waits; wire_assembly puts them together again, and its memory grows with what has arrived.
 *
 * Thread: the meta loop's.
 */
#ifndef FLUXMQ_RAFT_META_RAFT_WIRE_H
#define FLUXMQ_RAFT_META_RAFT_WIRE_H

#include <raft.h>

#include "protocol/base/bytes.h"
#include "raft-meta/peer_frame.h"

#define WIRE_ENTRIES_BYTES_MAX (512 << 10)
#define WIRE_ENTRIES_COUNT_MAX 1024
#define WIRE_CHUNK_BYTES       (256 << 10)
#define WIRE_ADDRESS_MAX       64

/* Who sends and to whom: (raft id, directory id) of both ends (G4). */
struct wire_envelope {
    raft_id from, to;
    struct uuid from_directory, to_directory;
    bool installing; /* G15 */
};

/* "7@9qKHcHHDTGyPzPwIRyDw8A": how a configuration names a voter. */
void wire_address(char out[WIRE_ADDRESS_MAX], int32_t node_id, const struct uuid *directory_id);
/* False unless the text is what wire_address() writes. */
MUST_USE bool wire_address_parse(const char *address, int32_t *node_id, struct uuid *directory_id);

/* A frame of one message that is no AppendEntries and no InstallSnapshot. */
void wire_encode(const struct wire_envelope *e, const struct raft_message *m, struct ioqueue *out);
/* Frames of entries [first, *next) as one AppendEntries; true when more follow. Begin with 0. */
bool wire_encode_entries(const struct wire_envelope *e, const struct raft_append_entries *a,
                         unsigned first, unsigned *next, struct ioqueue *out);
/* The beginning of an InstallSnapshot, and its data as one buffer, for wire_encode_chunk(). */
void wire_encode_snapshot(const struct wire_envelope *e, const struct raft_install_snapshot *s,
                          struct ioqueue *out, struct iobuf **data);
/* A frame of the data from `offset` on; returns the offset behind it. */
size_t wire_encode_chunk(raft_index last_index, struct iobuf *data, size_t offset,
                         struct ioqueue *out);

/* Decodes the payload of a frame of RequestVote ... TimeoutNow. What libraft takes over (entries,
 * one batch) comes from raft_malloc; wire_drop() frees it. Errors: ERR_MALFORMED. */
MUST_USE enum err wire_decode(enum peer_frame_type type, const uint8_t *ptr, size_t size,
                              struct wire_envelope *e, struct raft_message *out);
void wire_drop(struct raft_message *m);

/* One InstallSnapshot on its way in. */
struct wire_assembly {
    struct raft_install_snapshot message;
    struct wire_envelope envelope;
    size_t received, capacity, total;
    bool active;
};
void wire_assembly_reset(struct wire_assembly *a);
/* Errors: ERR_MALFORMED. A new beginning gives up what was there. */
MUST_USE enum err wire_assembly_begin(struct wire_assembly *a, const uint8_t *ptr, size_t size);
/* Sets *done when `out` is whole and handed over. Errors: ERR_MALFORMED (also a chunk that does
 * not continue what is there). */
MUST_USE enum err wire_assembly_chunk(struct wire_assembly *a, const uint8_t *ptr, size_t size,
                                      bool *done, struct raft_message *out);

/* Reads libraft's encoding of a configuration, which its own reader trusts.
 * each() may be NULL. Errors: ERR_MALFORMED. */
MUST_USE enum err wire_read_configuration(const uint8_t *ptr, size_t size,
                                          void (*each)(void *ctx, raft_id id, const char *address,
                                                       int role),
                                          void *ctx);

#endif
