/* storage/log.h -- the log of one partition replica: Kafka's own files, one directory.
 *
 * TOPIC-N/ holds segments (BASE.log, .index, .timeindex, .txnindex), producer snapshots
 * (BASE.snapshot), leader-epoch-checkpoint and partition.metadata, each in Kafka's format to the
 * byte. A batch is stored exactly as sent; only base offset and leader epoch are patched (they
 * lie outside the CRC).
 *
 * Invariants (cited by checks and tests as Sn; the whole list is in storage/README.md)
 *  S1  log_start_offset <= recovery_point <= log_end_offset; all three only grow, except that a
 *      truncation (replica only) lowers the last two.
 *  S2  Bytes below log_end_offset never change and are never unmapped while referenced [H10].
 *  S3  The recovery point moves only after a successful fsync of everything below it [H16].
 *  S4  A batch is visible whole or not at all: log_end_offset moves after the bytes, the index
 *      entries and the producer state are in place.
 *  S5  No sequence of a producer is stored twice or out of order (P5).
 *
 * Threads:   any; the log has its own short lock. Calls marked [pool] may wait for the disk; the
 *            others never do: where one would have to, it returns ERR_AGAIN and the caller uses
 *            log_wait_for_room() and repeats.
 * Units:     offsets count records; sizes are bytes; times `*_ms` are wall milliseconds unless
 *            named `*_ns`.
 * Ownership: counted (log_ref); the log manager holds one, each borrower takes its own.
 */
#ifndef FLUXMQ_STORAGE_LOG_H
#define FLUXMQ_STORAGE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/base/bytes.h"
#include "protocol/base/env.h"
#include "protocol/base/err.h"
#include "protocol/record_batch.h"

struct log;
struct log_dir;

/* A topic's settings as the log needs them; replaced whole by log_configure(). */
struct log_config {
    int64_t segment_bytes, segment_ms, segment_jitter_ms, segment_index_bytes;
    int64_t index_interval_bytes;
    int64_t retention_ms, retention_bytes; /* -1: no limit */
    int64_t flush_messages, flush_ms;      /* INT64_MAX: leave it to the kernel */
    int64_t file_delete_delay_ms;
    int64_t producer_id_expiration_ms;
    bool cleanup_delete, cleanup_compact; /* compact alone is never trimmed yet [H26] */
};

struct log_identity {
    char topic[250]; /* a legal topic name, terminated */
    struct uuid topic_id;
    int32_t partition;
};

struct log *log_ref(struct log *l);
void log_unref(struct log *l);
const struct log_identity *log_identity(const struct log *l);
struct log_dir *log_directory(const struct log *l);
void log_configure(struct log *l, const struct log_config *config);

/* ---- append ---- */

struct log_append_result {
    int64_t base_offset, last_offset; /* of the original when `duplicate` */
    int64_t log_append_time_ms;       /* -1 under CreateTime */
    bool duplicate;                   /* P5: stored before; acknowledge it only like the original */
};

/* Appends one validated batch (record_batch_validate) as leader: assigns offsets, patches base
 * offset and leader epoch in `batch` (whose bytes belong to the caller and may be written),
 * checks the producer's sequence (KIP-98, KIP-360), records epoch starts, adds index entries,
 * moves log_end_offset.
 * Errors: ERR_AGAIN (no room yet: nothing happened), ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
 * ERR_DUPLICATE_SEQUENCE_NUMBER, ERR_INVALID_PRODUCER_EPOCH, ERR_UNKNOWN_PRODUCER_ID (never for
 * sequence 0), ERR_RECORD_LIST_TOO_LARGE (over segment.bytes), ERR_KAFKA_STORAGE_ERROR (offline,
 * or below the disk's reserve). After an error nothing has changed. */
MUST_USE enum err log_append(struct log *l, struct record_batch *batch, uint8_t *bytes,
                             int32_t leader_epoch, int64_t now_unix_ms,
                             struct log_append_result *out);

/* The same for a batch that comes from the leader (it carries its offsets and epoch, and its CRC
 * has been checked): it must begin at or behind log_end_offset (a compacted log has gaps); the
 * producer's sequence is recorded, not judged. Errors: ERR_AGAIN, ERR_OFFSET_OUT_OF_RANGE,
 * ERR_RECORD_LIST_TOO_LARGE, ERR_KAFKA_STORAGE_ERROR. */
MUST_USE enum err log_append_replicated(struct log *l, const struct record_batch *batch,
                                        const uint8_t *bytes, int64_t now_unix_ms);

/* The log has room (or has gone offline): repeat the append. Runs once, on a pool thread. */
struct log_room_waiter {
    struct list_node node;
    void (*ready)(struct log_room_waiter *w);
};
/* Asks for room for a batch of `size` bytes: growing the step, or rolling, happens on the pool. */
void log_wait_for_room(struct log *l, size_t size, struct log_room_waiter *w);

/* A leader epoch begins at the log's end (KIP-101); recorded before its first append. */
void log_begin_leader_epoch(struct log *l, int32_t leader_epoch);

/* ---- durability ---- */

int64_t log_start_offset(const struct log *l);
int64_t log_end_offset(const struct log *l);
/* Everything below it is on stable storage (fsynced, the directory entry included). */
int64_t log_durable_end_offset(const struct log *l);
/* First offset of the earliest open transaction, or log_end_offset. */
int64_t log_first_unstable_offset(const struct log *l);
/* Up to where read_committed may read (exclusive): the high watermark, or the first offset of the
 * earliest transaction that is open or whose marker is not below the high watermark (P7). */
int64_t log_last_stable_offset(struct log *l, int64_t high_watermark);
/* What replication-offset-checkpoint said at start; -1: nothing. */
int64_t log_checkpointed_high_watermark(const struct log *l);

/* Group commit: asks the log directory's syncer for a sync that covers log_end_offset now; the
 * observer's on_durable follows once it is done. */
void log_request_sync(struct log *l);

/* What the log tells its owner; any pool thread, no lock held. */
struct log_observer {
    void (*on_durable)(void *ctx, struct log *l);                  /* durable end has moved */
    void (*on_start_offset)(void *ctx, struct log *l);             /* retention moved the start */
    void (*on_offline)(void *ctx, struct log *l, const char *why); /* once; [H8] */
    void *ctx;
};
void log_observe(struct log *l, const struct log_observer *o);
/* NULL while the log is whole; else the reason, valid as long as the log is. */
const char *log_offline_reason(const struct log *l);

/* ---- read ---- */

struct log_read_options {
    int64_t offset;
    int64_t offset_limit; /* exclusive: the high watermark, last stable offset or log end */
    size_t bytes_max;
    bool at_least_one; /* KIP-74: return the first batch whole even beyond bytes_max */
    bool need_aborted; /* read_committed: list aborted transactions of the range */
};

struct aborted_transaction {
    int64_t producer_id, first_offset;
};

struct log_read_result {
    struct ioqueue data; /* whole batches, in file order; the caller owns it */
    size_t bytes;
    bool cold; /* the range is not in the page cache: log_load() it on the pool, then use it */
    size_t load_bytes; /* with ERR_AGAIN: how many log_load() must bring; 0: a position alone */
    struct aborted_transaction *aborted; /* malloc'ed, or NULL */
    size_t aborted_count;
};

/* Batches from the one that contains `offset` on (never cut). offset == log_end_offset gives
 * nothing and ERR_NONE.
 * Errors: ERR_OFFSET_OUT_OF_RANGE (below the start or above the end), ERR_KAFKA_STORAGE_ERROR,
 * ERR_AGAIN (a position must be read from a cold index: log_load() first). */
MUST_USE enum err log_read(struct log *l, const struct log_read_options *o,
                           struct log_read_result *out);
/* Brings what log_read() needs into memory. [pool] */
MUST_USE enum err log_load(struct log *l, int64_t offset, size_t bytes);
/* Bytes between two offsets as the indexes estimate them; for min.bytes and lag. */
int64_t log_bytes_between(const struct log *l, int64_t from, int64_t to);

struct timestamp_offset {
    int64_t timestamp_ms, offset; /* -1, -1: none */
    int32_t leader_epoch;         /* of that offset, -1 when unknown */
};
/* First record with timestamp >= t, record granularity, inside compressed batches too [H33];
 * only offsets below `offset_limit` count. [pool] */
MUST_USE enum err log_offset_for_timestamp(struct log *l, int64_t timestamp_ms,
                                           int64_t offset_limit, struct timestamp_offset *out);
/* The record with the greatest timestamp (ListOffsets -3). [pool] */
MUST_USE enum err log_max_timestamp(struct log *l, int64_t offset_limit,
                                    struct timestamp_offset *out);
/* OffsetForLeaderEpoch (KIP-101/279/320): the greatest epoch <= `leader_epoch` that the log
 * knows, and where it ends. -1, -1 when it knows none. */
void log_epoch_end_offset(const struct log *l, int32_t leader_epoch, int32_t *epoch_out,
                          int64_t *end_offset_out);
int32_t log_leader_epoch_at(const struct log *l, int64_t offset); /* -1 when unknown */
int32_t log_latest_epoch(const struct log *l);                    /* -1 when empty */

/* ---- trimming ---- */

/* DeleteRecords [H34]: moves the start to `offset` (<= log_end_offset; segments that lie wholly
 * below go on the pool). ERR_OFFSET_OUT_OF_RANGE. */
MUST_USE enum err log_advance_start(struct log *l, int64_t offset);
/* Whether a crash would bring nothing below `offset` back, once log_manager_save_starts() has
 * succeeded after the start had moved. */
bool log_start_is_settled(struct log *l, int64_t offset);
/* Retention by time and size [H37], rolling by segment.ms, expiry of producers; never at or above
 * `offset_limit`. [pool] Returns the number of segments that went. */
int log_maintain(struct log *l, int64_t offset_limit, int64_t now_unix_ms);
/* Cuts to `offset`: a new file with the kept prefix, renamed over; in-flight reads keep the old
 * inode [H10]. Producer state and epochs roll back with it; a batch that holds the offset goes
 * whole. Where the log ends before, only epochs without records at its end go. [pool] */
MUST_USE enum err log_truncate(struct log *l, int64_t offset);
/* Drops everything: the log is empty and begins at `offset`, which may lie anywhere. [pool] */
MUST_USE enum err log_restart(struct log *l, int64_t offset);
/* The checkpoints of the log's directory, as they are now, are on the disk when it returns: before
 * a cut below the high watermark. [pool] */
MUST_USE enum err log_save_checkpoints(struct log *l);

/* ---- what DescribeProducers and DescribeLogDirs show ---- */

struct producer_view {
    int64_t producer_id, last_timestamp_ms, current_txn_start_offset;
    int32_t producer_epoch, last_sequence, coordinator_epoch;
};
/* Active producers sorted by id; malloc'ed. */
size_t log_producers(const struct log *l, struct producer_view **out);
int64_t log_size_bytes(const struct log *l);
int log_segment_count(const struct log *l);

#endif
