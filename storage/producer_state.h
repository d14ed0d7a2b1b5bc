/* storage/producer_state.h -- what a log remembers of the producers that write to it (P5).
 *
 * For each producer id: its epoch, its last five batches, and the transaction that it has open. A
 * batch whose exact sequences are among the five was stored before and is acknowledged like the
 * original; any other must continue where the last one ended, else it is refused (KIP-98, KIP-360).
 * The state is a function of the log: replaying a log's batches gives the same state on every
 * replica. So a producer expires by log time, the greatest timestamp that was appended.
 *
 * BASE.snapshot is Kafka's ProducerSnapshot, version 1:
 *   int16 version, uint32 CRC-32C of all behind it, int32 count, and for each producer
 *   int64 id, int16 epoch, int32 last sequence, int64 last offset, int32 offset delta,
 *   int64 timestamp, int32 coordinator epoch, int64 first offset of the open transaction (-1).
 * Kafka keeps one batch there, so that after a restart a retry of the last but one is an error. We
 * put the older ones behind Kafka's part, inside the CRC, where its reader does not look:
 *   "FMQ1", int32 count, and for each producer with more than one batch
 *   int64 id, int8 n, and n times int32 last sequence, int64 last offset, int32 delta, int64 time.
 *
 * Thread: belongs to its log's lock.
 */
#ifndef FLUXMQ_STORAGE_PRODUCER_STATE_H
#define FLUXMQ_STORAGE_PRODUCER_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/base/err.h"
#include "protocol/base/hmap.h"
#include "protocol/record_batch.h"
#include "storage/log.h"

#define PRODUCER_BATCHES_KEPT 5
/* More producers than this in one partition are refused (ERR_POLICY_VIOLATION). */
#define PRODUCERS_PER_LOG_MAX 1000000u

struct producer_batch {
    int64_t last_offset, timestamp_ms;
    int32_t last_sequence, offset_delta;
};

struct producer {
    struct hmap_node node;
    int64_t producer_id;
    int64_t last_timestamp_ms; /* log time at its last batch: old timestamps do not age it */
    int64_t txn_first_offset;  /* of the open transaction, -1 */
    int32_t coordinator_epoch;
    int16_t producer_epoch;
    uint8_t batch_count;
    struct producer_batch batches[PRODUCER_BATCHES_KEPT]; /* oldest first */
};

/* A transaction that ended; its marker is at `last_offset`. */
struct completed_transaction {
    int64_t producer_id, first_offset, last_offset, last_stable_offset;
    bool aborted;
};

struct producer_state {
    struct hmap producers;
    bool made; /* the map exists: logs without producers cost nothing */
    uint64_t seed;
    int64_t log_time_ms;
    uint32_t open_count; /* producers with an open transaction */
    /* Ended transactions whose marker may not be replicated yet; see last_stable(). */
    struct completed_transaction *ended;
    uint32_t ended_count, ended_capacity;
};

void producer_state_init(struct producer_state *s, uint64_t seed);
void producer_state_deinit(struct producer_state *s);
void producer_state_clear(struct producer_state *s); /* keeps the seed */

enum append_origin {
    APPEND_CLIENT,      /* everything is checked */
    APPEND_COORDINATOR, /* a transaction marker: epochs are checked */
    APPEND_REPLICA,     /* the leader has checked; also recovery */
};

struct producer_verdict {
    bool duplicate;
    int64_t base_offset, last_offset, timestamp_ms; /* of the original */
};
/* May this batch be appended? Changes nothing. Errors: ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
 * ERR_INVALID_PRODUCER_EPOCH, ERR_INVALID_TXN_STATE, ERR_TRANSACTION_COORDINATOR_FENCED,
 * ERR_POLICY_VIOLATION, ERR_MALFORMED (a control batch that cannot be read). */
MUST_USE enum err producer_state_check(const struct producer_state *s, const struct record_batch *b,
                                       enum append_origin origin, int64_t expiration_ms,
                                       struct producer_verdict *out);
/* The batch, with its final offsets, is in the log. True when it ended a transaction. */
bool producer_state_update(struct producer_state *s, const struct record_batch *b,
                           int64_t expiration_ms, struct completed_transaction *ended);
/* Forgets who has been silent for `expiration_ms` of log time. */
void producer_state_expire(struct producer_state *s, int64_t expiration_ms);

/* First offset of the earliest open transaction; INT64_MAX when none is open. */
int64_t producer_state_first_open(const struct producer_state *s);
/* The same, counting a transaction as open while its marker is not below `high_watermark`: a
 * marker that can still be lost decides nothing (P7). Forgets those below it. */
int64_t producer_state_first_unstable(struct producer_state *s, int64_t high_watermark);

uint32_t producer_state_count(const struct producer_state *s);
/* Sorted by id; malloc'ed. */
const struct producer **producer_state_sorted(const struct producer_state *s, uint32_t *count);

/* The snapshot file's bytes; malloc'ed. */
uint8_t *producer_state_encode(const struct producer_state *s, size_t *size);
/* Replaces the state. ERR_CORRUPT (what, in `why`): then it is empty. */
MUST_USE enum err producer_state_decode(struct producer_state *s, const uint8_t *p, size_t size,
                                        struct errmsg *why);

/* A transaction marker, read from a control batch. */
struct transaction_marker {
    bool commit;
    int32_t coordinator_epoch;
};
/* False: no marker (another kind of control record, or unreadable). */
bool transaction_marker_read(const struct record_batch *b, struct transaction_marker *out);

#endif
