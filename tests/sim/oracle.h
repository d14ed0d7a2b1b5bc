/* tests/sim/oracle.h -- what must be true of what clients see; it knows nothing of the product's
 * insides.
 *
 * Clients report what they sent, what was answered and what they read, at the moment it happened
 * to them. The oracle keeps for each partition the log as clients know it (offset -> value) and
 * ends the run (sim_violation) at the first contradiction:
 *  P1  an acknowledged record is read back, at its offset, by whoever reads the whole partition;
 *      what a loss within the budget takes is a suffix of the log, never a hole
 *  P2  nothing is read at or above the high watermark that was answered with it; a fetch that began
 *      after an acknowledgement of acks=all shows that high watermark; what was read stays
 *  P4  one offset has one record, whoever reads
 *  P5  a record is stored once, the records of a producer in the order of their sequences; a
 *      duplicate is answered with the offset of the first
 *  P8  what the node has acknowledged of topics and configurations it shows from then on
 *  P9  a request that was refused leaves nothing behind; errors are ones that the request may get
 *  H48 e: no request waits beyond its own deadline; g: a fetch session hides nothing; h: the log
 *      start offset only grows, and deleted records stay deleted; n: bytes that were served stay
 *
 * The budget of losses. With one replica, kill -9 loses nothing. A *cut* is an event after which
 * the log may be shorter: a power failure, or a failed fsync. What was acknowledged, or read and
 * sent, while flush.messages=1 was in force is below every later cut. For each cut and partition
 * the oracle keeps between which bounds the new end must lie, and narrows them with all that is
 * seen later: an old record that is still there, a new one in its place. Bounds that cross are a
 * hole, or a durable record that is gone.
 *
 * Values are small integers, one for each record that is ever sent; a topic is its index here: a
 * name that is created again is another topic.
 */
#ifndef FLUXMQ_TESTS_SIM_ORACLE_H
#define FLUXMQ_TESTS_SIM_ORACLE_H

#include "protocol/base/bytes.h"
#include "tests/sim/sim.h"

struct oracle;

struct oracle *oracle_new(struct sim *s);

/* ---- topics ---- */

#define ORACLE_TOPIC_NAME_SIZE 32
#define ORACLE_PARTITIONS_MAX  16

/* What is known of it. A creation or deletion whose answer was lost is repeated until it is known.
 */
enum oracle_topic_state { TOPIC_CREATING, TOPIC_THERE, TOPIC_DELETING, TOPIC_GONE };

/* Its creation is asked for; returns its index. */
int oracle_topic_creating(struct oracle *o, const char *name, int partitions);
void oracle_topic_created(struct oracle *o, int topic, const struct uuid *id);
/* From the moment the deletion is asked for, nothing is promised but that it goes. */
void oracle_topic_deleting(struct oracle *o, int topic);
void oracle_topic_deleted(struct oracle *o, int topic);

int oracle_topic_count(const struct oracle *o);
enum oracle_topic_state oracle_topic_state(const struct oracle *o, int topic);
const char *oracle_topic_name(const struct oracle *o, int topic);
const struct uuid *oracle_topic_id(const struct oracle *o, int topic);
/* How many partitions it certainly has. */
int oracle_topic_partitions(const struct oracle *o, int topic);
/* CreatePartitions: asked for, and answered. */
void oracle_partitions_adding(struct oracle *o, int topic, int count);
void oracle_partitions_added(struct oracle *o, int topic, int count);

/* Settings that change what is promised. While a change is under way the weaker of both counts. */
enum oracle_setting { SETTING_FLUSH, SETTING_RETENTION, SETTING_COUNT };
void oracle_setting_changing(struct oracle *o, int topic, enum oracle_setting s, bool on);
void oracle_setting_changed(struct oracle *o, int topic, enum oracle_setting s, bool on);

/* One topic of a Metadata answer to a request that was sent at `asked_ns`. `whole`: all topics
 * were asked for, and oracle_metadata_end() follows. */
void oracle_metadata_begin(struct oracle *o);
void oracle_metadata_topic(struct oracle *o, uint64_t asked_ns, const char *name,
                           const struct uuid *id, int partitions);
void oracle_metadata_end(struct oracle *o, uint64_t asked_ns);
/* UNKNOWN_TOPIC_OR_PARTITION or _ID came for it. */
void oracle_topic_unknown(struct oracle *o, uint64_t asked_ns, int topic, int32_t partition);

/* ---- a moment: taken when a request is sent, given with what its answer says ---- */

struct oracle_mark {
    uint64_t asked_ns;
    int cuts;           /* how many there had been */
    int lives;          /* how often the node had been started */
    int64_t acked_end;  /* the high watermark of this life was at least this */
    int64_t kept_end;   /* and the log's end at least this */
    int64_t start_seen; /* the log start offset was at least this in this life */
    int64_t start_floor;
};
struct oracle_mark oracle_mark(struct oracle *o, int topic, int32_t partition);

/* ---- producing ---- */

/* Values of one batch follow each other. */
uint64_t oracle_values_new(struct oracle *o, int32_t count);

struct oracle_batch {
    int topic;
    int32_t partition;
    uint64_t first_value;
    int32_t count;
    int64_t producer_id; /* -1: not idempotent */
    int16_t producer_epoch;
    int32_t base_sequence;
    int16_t acks;
    bool by_name; /* not by topic id: a successor of the same name may get it */
};

enum oracle_outcome {
    ORACLE_ACKED,
    ORACLE_DUPLICATE, /* DUPLICATE_SEQUENCE_NUMBER: it is there, where is not said */
    ORACLE_REFUSED,   /* this attempt has certainly not written it */
    ORACLE_UNKNOWN,
};

/* An attempt; the mark comes back with its outcome. */
struct oracle_mark oracle_sending(struct oracle *o, const struct oracle_batch *b);
void oracle_sent(struct oracle *o, const struct oracle_mark *m, const struct oracle_batch *b,
                 enum oracle_outcome outcome, int64_t base_offset);
/* The node refused the sequence of a batch all of whose predecessors it has acknowledged. */
void oracle_sequence_refused(struct oracle *o, const struct oracle_batch *b, int cuts_at_first);
/* How many cuts there have been. */
int oracle_cuts(const struct oracle *o);
/* An id that InitProducerId gave: nobody had it before. */
void oracle_producer_id(struct oracle *o, int64_t producer_id);

/* ---- reading ---- */

struct oracle_fetch {
    int topic;
    int32_t partition;
    int64_t fetch_offset, high_watermark, last_stable_offset, log_start_offset;
    int64_t next; /* the offset that must come next; -1 at first; kept by oracle_read_batch() */
};
void oracle_fetched(struct oracle *o, const struct oracle_mark *m, const struct oracle_fetch *f);
/* A batch of it, before its records. */
void oracle_read_batch(struct oracle *o, const struct oracle_mark *m, struct oracle_fetch *f,
                       int64_t base_offset, int64_t last_offset);
void oracle_read_record(struct oracle *o, const struct oracle_mark *m, const struct oracle_fetch *f,
                        int64_t offset, int32_t leader_epoch, uint64_t value);
/* Bytes that are no batch, a wrong CRC, a record that nobody has sent: `what` says it. Legal only
 * where the disk was damaged on purpose. */
void oracle_read_garbage(struct oracle *o, int topic, int32_t partition, int64_t offset,
                         const char *what);
/* The answer was empty although it waited for its whole max.wait. */
void oracle_read_nothing(struct oracle *o, const struct oracle_mark *m, int topic,
                         int32_t partition, int64_t fetch_offset);
void oracle_out_of_range(struct oracle *o, const struct oracle_mark *m, int topic,
                         int32_t partition, int64_t fetch_offset);

/* ListOffsets: earliest (-2) and latest (-1); and by timestamp: `found` is the first record at or
 * after it, -1 none. */
void oracle_listed_start(struct oracle *o, const struct oracle_mark *m, int topic,
                         int32_t partition, int64_t offset);
void oracle_listed_end(struct oracle *o, const struct oracle_mark *m, int topic, int32_t partition,
                       int64_t offset);

/* DeleteRecords asked for (INT64_MAX: up to the high watermark), and what became of it. */
void oracle_deleting(struct oracle *o, int topic, int32_t partition, int64_t before);
void oracle_deleted(struct oracle *o, int topic, int32_t partition, int64_t low_watermark);

/* ---- what was done to the machine ---- */

void oracle_started(struct oracle *o);
void oracle_killed(struct oracle *o);       /* kill -9; also: it ended by itself */
void oracle_power_failed(struct oracle *o); /* the page cache is gone */
/* The clean stop is done; with no error of the disk in this life everything is on stable storage.
 */
void oracle_stopped(struct oracle *o);
/* Whoever has an error of the disk in this life may be offline until the next. */
void oracle_disk_failing(struct oracle *o);
/* From the next stop on, what is not durable may be gone: an fsync will fail. */
void oracle_sync_failing(struct oracle *o);
/* A file of this partition was damaged at rest: it may be offline, and its bytes are not believed.
 * By the path: "…/NAME-N/…"; false: of no partition that is known. */
bool oracle_damaged(struct oracle *o, const char *path);
bool oracle_is_damaged(const struct oracle *o, int topic, int32_t partition);

/* ---- the end ---- */

/* After healing: read from its log start to its high watermark, all through oracle_read_record().
 */
void oracle_partition_read(struct oracle *o, const struct oracle_mark *m, int topic,
                           int32_t partition, int64_t log_start_offset, int64_t high_watermark);
/* From now on nobody writes, and each partition is read from start to end. */
void oracle_final_begin(struct oracle *o);
/* All partitions that exist have been read. */
void oracle_finish(struct oracle *o);

#endif
