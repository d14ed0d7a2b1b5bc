/* storage/log_manager.h -- the inside of the log manager, shared by log_dir.c (directories and
 * the table of logs), log_dir_identity.c (whose a directory is), log_open.c (finding and opening
 * partitions) and log_clock.c (what is done by the clock, and the stop). Nobody else includes it.
 */
#ifndef FLUXMQ_STORAGE_LOG_MANAGER_H
#define FLUXMQ_STORAGE_LOG_MANAGER_H

#include "storage/log_internal.h"

#define IO_SLOTS 64

/* A folder that was renamed and waits to be removed. */
struct removal {
    struct list_node node;
    uint64_t due_ns;
    char *path;
};

/* A folder in which nothing says whose it is. */
struct unnamed {
    struct list_node node;
    struct log_dir *dir;
    struct log_identity id; /* by its name; no topic id */
    int64_t recovery_point, start_offset;
    bool held_records;
    struct errmsg why;
};

#define FILE_META          "meta.properties"
#define FILE_LOCK          ".lock"
#define FILE_FORMAT        "fluxmq-format"
#define FILE_CLEAN_MARKER  ".kafka_cleanshutdown"
#define FILE_CLEAN_STATE   "fluxmq-clean-state"
#define FILE_RECOVERY      "recovery-point-offset-checkpoint"
#define FILE_REPLICATION   "replication-offset-checkpoint"
#define FILE_START_OFFSETS "log-start-offset-checkpoint"

struct log_manager {
    atomic_int refs; /* one of the owner, one of each log, one of each job */
    struct env *env;
    struct logger *logger;
    struct log_manager_options options; /* without the strings */
    struct log_dir *dirs;
    int dir_count;
    struct log_dir *metadata;       /* metadata.log.dir: one of `dirs`, or */
    struct log_dir *metadata_apart; /* one that holds no partitions */
    char cluster_id[64];
    bool started_clean;

    struct mutex lock;
    struct hmap by_id;    /* struct log, one reference each */
    struct list unnamed;  /* struct unnamed */
    struct list removals; /* struct removal: folders that wait for file.delete.delay.ms */
    uint64_t retention_due_ns, checkpoint_due_ns;
    bool ticking, maintaining, removing; /* the job is queued or runs */
    _Atomic bool closing;

    struct loop *loop; /* the clock; NULL until started */
    struct loop_timer timer;
    struct message start_message, stop_message;
    struct job tick_job, maintain_job, removal_job;

    _Atomic uint64_t io_began_ns[IO_SLOTS];
    struct counter cleaner_missing; /* partitions that ask for compaction */
};

/* ---- log_dir_identity.c ---- */

/* Locks, reads and where it is empty formats the directory; see log_manager_new(). */
MUST_USE enum err log_dir_open(struct log_dir *d, bool adopt, struct errmsg *why);
MUST_USE enum err log_manager_open_metadata_dir(struct log_manager *m, const char *path,
                                                struct errmsg *why);

/* ---- log_dir.c ---- */

void log_dir_init(struct log_dir *d, struct log_manager *m, int i, const char *path);
/* Every log with a reference of its own, sorted by topic and partition; malloc'ed. */
struct log **log_manager_all(struct log_manager *m, size_t *count);
void log_manager_insert(struct log_manager *m, struct log *l); /* takes over the reference */
bool log_dir_path(const struct log_dir *d, const char *name, char out[LOG_PATH_MAX]);
/* Renames a folder out of the way, to be removed after file.delete.delay.ms. */
void log_dir_set_folder_aside(struct log_dir *d, const char *folder, const char *suffix,
                              int64_t delay_ms);
/* The tree is removed by the clock, after `delay_ms`. */
void log_manager_remove_later(struct log_manager *m, const char *path, int64_t delay_ms);
/* Writes the checkpoints of a directory. */
MUST_USE enum err log_dir_write_checkpoints(struct log_dir *d, struct errmsg *why);
/* The same at a clean stop: nobody writes them after it. */
MUST_USE enum err log_dir_write_last_checkpoints(struct log_dir *d, struct errmsg *why);
/* The same, by the clock: a failure takes the directory offline. */
void log_dir_checkpoint(struct log_dir *d);
/* Out of the directory's lists of active and of waiting logs. */
void log_leave_lists(struct log *l);
/* "TOPIC-N" -> topic and partition; false for any other name. */
bool folder_name_parse(const char *name, struct log_identity *out);

#endif
