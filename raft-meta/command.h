/* raft-meta/command.h -- commands as bytes: what one raft entry holds.
 *
 *   entry  = frame frame ... padding
 *   frame  = u16 version, u16 type, u32 length (big endian), `length` bytes of a packed MetaCommand
 *   padding = zeros up to the next multiple of 8 bytes
 *
 * `type` is the number of the command's oneof case, so that a reader that does not know it can say
 * so. Nobody may skip a committed command: a version or type that is unknown stops the node (the
 * finalized feature `fluxmq.version` keeps such commands from being written too early).
 *
 * All commands that wait go into one entry, control commands first: 187,000 a second against
 * 17,000 one by one (research: one append and one apply each). Bulk stops at ENTRY_BULK_BYTES_MAX,
 * so that a fence or an election never waits behind a long apply [H14 d].
 *
 * Thread: any; no state.
 */
#ifndef FLUXMQ_RAFT_META_COMMAND_H
#define FLUXMQ_RAFT_META_COMMAND_H

#include "meta_command.pb-c.h"
#include "protocol/base/bytes.h"
#include "protocol/base/err.h"

#define COMMAND_VERSION             1
#define COMMAND_FRAME_SIZE          8
#define COMMAND_BYTES_MAX           (4 << 20)   /* one packed command */
#define ENTRY_BULK_BYTES_MAX        (256 << 10) /* after which no further command joins an entry */
#define ENTRY_BYTES_MAX             (8 << 20)   /* a reader's limit */
#define COMMAND_PARTITIONS_MAX      10000       /* created by one command; Kafka's limit */
#define COMMAND_COUNT_PER_ENTRY_MAX 4096

/* Lanes [H13]: one command of a lane is outstanding at a time, or several in one entry in order. */
enum meta_lane {
    META_LANE_CONTROLLER = 0, /* the raft leader's own decisions */
    META_LANE_NODE = 1,       /* registration and lifecycle of the node */
    META_LANE_REPLICA = 2,    /* ISR proposals, replicas offline and online, directories */
    META_LANE_PRODUCER_IDS = 3,
    META_LANE_WORKER_FIRST = 16, /* + index of the worker */
};

/* True for what must not wait behind bulk: lifecycle, elections, ISR, offline replicas. */
bool command_is_control(const MetaCommand *c);
/* "CreateTopics"; "unknown" for a type that is none. */
const char *command_name(uint32_t type);

/* ---- writing ---- */

struct entry_writer {
    uint8_t *bytes; /* malloc'ed; entry_writer_take() hands it over */
    size_t size, capacity;
    int count;
};

void entry_writer_init(struct entry_writer *w);
void entry_writer_deinit(struct entry_writer *w);
/* ERR_TOO_LARGE: the command alone exceeds COMMAND_BYTES_MAX. ERR_AGAIN: no room in this entry
 * any more; it goes into the next. Nothing was written then. */
MUST_USE enum err entry_writer_add(struct entry_writer *w, const MetaCommand *c);
/* Pads to a multiple of 8 and hands the bytes over (free()). */
uint8_t *entry_writer_take(struct entry_writer *w, size_t *size);

/* ---- reading ---- */

struct entry_reader {
    const uint8_t *bytes;
    size_t size, at;
};

void entry_reader_init(struct entry_reader *r, const void *bytes, size_t size);
/* The next command (meta_command__free_unpacked), or NULL in *out at the end.
 * Errors: ERR_MALFORMED (framing, lengths, protobuf, padding), ERR_UNSUPPORTED_VERSION (a command
 * of a newer software). */
MUST_USE enum err entry_reader_next(struct entry_reader *r, MetaCommand **out);

/* ---- outcomes ---- */

/* An empty outcome with an error; `fmt` may be NULL. Freed by meta_outcome__free_unpacked. */
MetaOutcome *outcome_new(enum err error, const char *fmt, ...) PRINTF(2, 3);
/* Gives it `count` items, zeroed, each with name "". */
void outcome_set_items(MetaOutcome *o, size_t count);
void item_set(MetaItemOutcome *item, enum err error, const char *fmt, ...) PRINTF(3, 4);

/* A malloc'ed terminated copy, for fields of unpacked messages. */
char *proto_str(struct str s);
void proto_set_str(char **field, struct str s);
void proto_set_bytes(ProtobufCBinaryData *field, const void *bytes, size_t size);
static inline struct str proto_view(const char *field)
{
    return field != NULL ? str_from(field) : STR_EMPTY;
}
/* False unless the field holds exactly 16 bytes. */
MUST_USE bool proto_uuid(const ProtobufCBinaryData *field, struct uuid *out);

#endif
