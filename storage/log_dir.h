/* storage/log_dir.h -- all logs of a node, in one or several log directories.
 *
 * Each directory has Kafka's meta.properties (with a directory id of its own), .lock,
 * recovery-point-offset-checkpoint, replication-offset-checkpoint (high watermarks),
 * log-start-offset-checkpoint, .kafka_cleanshutdown, and one folder per partition. A clean start
 * reads one snapshot file of all its partitions (fluxmq-clean-state) instead of opening each; an
 * unclean one recovers in parallel on the pool. metadata.log.dir, where it is none of them, has the
 * first two and no partitions.
 *
 * Invariants
 *  D1  A directory whose lock is held by another process is never touched.
 *  D2  The clean-shutdown marker is deleted, and the deletion synced, before anything is written.
 *  D3  A partition folder whose topic id is not the image's is set aside (-stray), kept, never
 * re-used [H19]; partition.metadata and its directory entries are synced before the log's durable
 * end first moves (three syncs before each first append would cost minutes for 10,000 partitions,
 * and nothing that is not durable has been promised). D4  Below the reserve (log.dir.reserve.bytes)
 * appends are refused while reads, deletion and checkpoints go on; writing resumes by itself (P10,
 * [H8]). D5  One bad file takes its partition offline, one failed directory its partitions; never
 * the process.
 *
 * Thread: any. [pool] as in env.h.
 */
#ifndef FLUXMQ_STORAGE_LOG_DIR_H
#define FLUXMQ_STORAGE_LOG_DIR_H

#include "protocol/base/env.h"
#include "protocol/base/logger.h"
#include "protocol/base/metrics.h"
#include "storage/log.h"

struct log_manager;

struct log_manager_options {
    struct env *env;
    struct logger *logger;
    const char *const *dirs; /* log.dirs, in order */
    int dir_count;
    const char *metadata_dir; /* metadata.log.dir; NULL: the first of `dirs` */
    int32_t node_id;
    const char *cluster_id;         /* NULL: take it from meta.properties, or none yet */
    int64_t reserve_bytes;          /* -1: min(1 GiB, 5 %) per directory */
    int recovery_threads_per_dir;   /* num.recovery.threads.per.data.dir */
    int64_t retention_check_ms;     /* log.retention.check.interval.ms */
    int64_t checkpoint_interval_ms; /* log.flush.offset.checkpoint.interval.ms */
    int64_t sync_behind_ms;         /* every written partition is fdatasynced within this: 30 s */
    /* With more logs than these open (1-3 descriptors each), those not in use are closed sooner,
     * and recovery closes the further ones at once; 0: no limit. */
    int64_t open_logs_max;
    struct log_config default_config; /* until log_configure() */
    /* The high watermark, for retention and for the checkpoint; pool thread. */
    int64_t (*high_watermark)(void *ctx, struct log *l);
    void *ctx;
};

/* Locks and reads the directories (meta.properties, checkpoints); formats empty ones, and takes
 * over those that `kafka-storage format` prepared and that hold no data. ERR_CONFIG with file,
 * found and expected when a directory belongs to another node or cluster, or holds data written
 * by Kafka and `adopt` is false; ERR_IO when another process holds its lock (D1). [start] */
MUST_USE enum err log_manager_new(const struct log_manager_options *o, bool adopt,
                                  struct log_manager **out, struct errmsg *why);
/* Opens every partition folder, recovering where the last stop was not clean, in parallel; then
 * `done` is posted to `loop`. Progress goes to the log once a second. */
void log_manager_open_all(struct log_manager *m, struct loop *loop, struct message *done);
/* Starts retention, checkpoints and the sync behind the tail. */
void log_manager_start(struct log_manager *m);
/* The log start offsets as they are now are on stable storage when it returns: what DeleteRecords
 * has answered survives a crash [H34]. [pool] */
MUST_USE enum err log_manager_save_starts(struct log_manager *m, struct errmsg *why);
/* Clean stop: everything synced, trimmed, checkpointed, the marker written. The manager is gone for
 * the caller; logs that are still borrowed stay readable. [pool or stop] */
void log_manager_close(struct log_manager *m);

/* What meta.properties said or what was chosen at format; "" when there is none yet. */
const char *log_manager_cluster_id(const struct log_manager *m);
/* Writes the cluster id into every meta.properties that has none. */
MUST_USE enum err log_manager_set_cluster_id(struct log_manager *m, const char *cluster_id,
                                             struct errmsg *why);

/* The random id of metadata.log.dir, by which this node is known as a voter [H1]. Where it is none
 * of log.dirs it has a lock and a meta.properties of its own, as Kafka's. */
const struct uuid *log_manager_metadata_directory_id(const struct log_manager *m);
/* A reference to its lock, for who writes there until after the manager has closed (D1); NULL: it
 * has none. */
struct file *log_manager_metadata_lock(const struct log_manager *m);
/* The meta.properties note that this voter has had raft files [H1]: in every directory, and one
 * that says so is enough. */
bool log_manager_had_raft_files(const struct log_manager *m);
MUST_USE enum err log_manager_note_raft_files(struct log_manager *m, struct errmsg *why);

/* A reference, or NULL. */
struct log *log_manager_find(struct log_manager *m, const struct uuid *topic_id, int32_t partition);
/* [pool] Creates the folder in the directory with the fewest partitions (Kafka's rule), or finds
 * the one that is there. ERR_KAFKA_STORAGE_ERROR, ERR_NO_SPACE. */
MUST_USE enum err log_manager_create(struct log_manager *m, const struct log_identity *id,
                                     const struct log_config *config, struct log **out,
                                     struct errmsg *why);
/* [pool] Renames the folder to TOPIC-N.UUID-delete and removes it after file.delete.delay.ms;
 * reads in flight keep their files. */
void log_manager_delete(struct log_manager *m, struct log *l);
/* Whose a folder is, as the image says. */
enum log_claim {
    LOG_OURS,     /* this topic id has this name, and the partition is assigned here */
    LOG_STRAY,    /* neither its id nor its name is one of ours, or another topic had this name */
    LOG_WRONG_ID, /* the name is one of ours, and the id in the folder is a damaged one */
};
/* After the image has caught up: sets aside every folder that is a stray (D3). One whose topic id
 * is damaged, and a partition that two directories hold, stay where they are, offline with a
 * reason. claim() sets *right_id with LOG_WRONG_ID. */
void log_manager_set_aside_strays(struct log_manager *m,
                                  enum log_claim (*claim)(void *ctx, const struct log_identity *id,
                                                          struct uuid *right_id),
                                  void *ctx);

struct log_dir_view {
    const char *path;
    struct uuid directory_id;
    const char *offline_reason; /* NULL: online */
    struct disk_space space;
    bool below_reserve;
};
int log_manager_dir_count(const struct log_manager *m);
void log_manager_dir_view(const struct log_manager *m, int i, struct log_dir_view *out);
int log_directory_index(const struct log_dir *d);
/* Calls fn with each log (a borrowed reference), sorted by topic and partition. */
void log_manager_each(struct log_manager *m, void (*fn)(void *ctx, struct log *l), void *ctx);
/* Age in nanoseconds of the oldest unfinished disk operation [H9]; 0 when none. */
uint64_t log_manager_oldest_io_ns(const struct log_manager *m);
void log_manager_register_metrics(struct log_manager *m, struct metrics *metrics);

/* What replication-offset-checkpoint said at start, 0 when it did not know the log. */
int64_t log_checkpointed_high_watermark(const struct log *l);

/* How recovery left a partition that had been published and was cut (suspect, [H2]). */
bool log_was_cut(const struct log *l);

/* The image says that the replica is a member of the ISR under a live leader, with another one:
 * that one has what was acknowledged. What recovery cut is removed then, once what the log holds is
 * synced. `alone`: the partition has this replica alone, and nobody else has what was cut: of
 * several recoveries the last one's is kept. Any thread. */
void log_set_in_sync(struct log *l, bool in_sync, bool alone);

/* The whole start was clean (every directory had its marker). */
bool log_manager_started_clean(const struct log_manager *m);

#endif
