/* storage/log_internal.h -- the inside of a log and of a log directory, shared by log.c (append and
 * read), log_structure.c (what changes segments), recovery.c and log_dir.c. Nobody else includes
 * it.
 *
 * Locks, outermost first:
 *   log.sync_lock  one sync at a time; held across disk waits, pool threads only
 *   log.structure  one structural change at a time (grow, roll, store indexes, trim, delete,
 *                  truncate, recover); held across disk waits, so only pool threads take it
 *   log.lock       short; the log's fields
 *   log_dir.lock   short; lists of logs
 * `lock` and log_dir.lock are not held when a job is submitted or an observer is called.
 */
#ifndef FLUXMQ_STORAGE_LOG_INTERNAL_H
#define FLUXMQ_STORAGE_LOG_INTERNAL_H

#include "protocol/base/hmap.h"
#include "protocol/base/logger.h"
#include "storage/checkpoint.h"
#include "storage/leader_epoch.h"
#include "storage/log.h"
#include "storage/log_dir.h"
#include "storage/producer_state.h"
#include "storage/segment.h"

#define LOG_PATH_MAX   4096
#define STEP_BYTES_MIN ((uint64_t)64 << 10)
#define STEP_BYTES_MAX ((uint64_t)16 << 20)
/* BASE.OFFSET.unsynced.cut, BASE.log.unsynced.cut: what recovery cut. `fluxmq repair` leaves files
 * of other names, which stay. */
#define LOG_CUT_SUFFIX ".unsynced.cut"
#define IDLE_TICKS_MAX 30 /* seconds of silence until room, descriptors and caches go */

/* Where batches begin, so that readers at the tail and readers who go on need no index. */
struct position_hint {
    int64_t offset; /* the batch's base offset */
    int64_t segment_base;
    uint64_t position;
};
#define HINTS_APPENDED 32
#define HINTS_READ     16
struct position_hints {
    struct position_hint appended[HINTS_APPENDED], read[HINTS_READ];
    unsigned appended_next, read_next;
};

enum log_work {
    LOG_WORK_ROOM = 1,          /* grow or roll */
    LOG_WORK_STORE_INDEXES = 2, /* of the active segment */
    LOG_WORK_DELETE_BELOW = 4,  /* segments that lie below the start offset */
    LOG_WORK_GIVE_BACK = 8,     /* preallocated room */
    LOG_WORK_REST = 16,         /* sync, give back, close: 30 s of silence */
    LOG_WORK_REPORT_OFFLINE = 32,
    LOG_WORK_DISCARD_CUT = 64, /* what recovery had cut, of a replica that is in sync */
};

struct log {
    atomic_int refs;
    struct env *env;
    struct logger *logger;
    struct log_dir *dir;
    struct log_identity id;

    _Atomic int64_t start_offset, end_offset, recovery_point;
    _Atomic(const char *) offline; /* NULL: whole */

    struct mutex sync_lock;
    struct mutex structure;
    /* One opener of segments: whoever appends has a segment that is open, and by then nobody may be
     * looking at how long its file was before. Across disk waits; after `structure`. */
    struct mutex opening;
    struct mutex lock;

    /* ---- under `lock` ---- */
    struct log_config config;
    int64_t roll_jitter_ms;
    struct segment **segments; /* ascending; the last one is active */
    int segment_count, segment_capacity;
    struct leader_epochs epochs;
    struct producer_state producers;
    struct position_hints *hints; /* NULL while nobody writes or reads */
    struct log_observer observer;

    struct list waiters; /* struct log_room_waiter */
    uint64_t room_wanted;
    uint64_t step_bytes, rate_bytes; /* of the last growth; appended since */
    uint64_t rate_began_ns;
    unsigned no_space_epoch; /* log_dir.space_epoch in which there was no room; 0: there is */
    unsigned work;           /* enum log_work wanted */
    bool working;            /* the job is queued or runs */
    bool room_closed;        /* a structural change is under way: appends wait */
    bool roll_wanted;
    bool truncating;      /* the recovery point stays where the truncation put it */
    _Atomic bool closed;  /* deleted, or the manager closes; jobs look without `lock` */
    bool directory_dirty; /* names were added that are not synced */
    bool metadata_dirty;  /* partition.metadata is not synced */
    bool epochs_saved;    /* there is a leader-epoch-checkpoint, which must be kept true */
    bool was_cut;
    bool cut_kept; /* LOG_CUT_SUFFIX files lie beside it; see log_set_in_sync() */
    bool in_sync, alone;
    bool in_sync_synced; /* a sync has succeeded since it is in sync */
    char **older_cuts;   /* names of those that an earlier recovery left, if this one has cut too */
    int older_cut_count;
    bool in_active; /* active_node is linked; its neighbours belong to the directory's lock */
    bool syncing;   /* a sync is under way: what it covers stays open */
    _Atomic bool stopping; /* a clean stop: no appends any more; as `closed` */
    uint8_t idle_ticks;
    _Atomic bool active;    /* touched since the last tick */
    uint32_t truncations;   /* a sync that began before one says nothing */
    uint64_t folder_number; /* of log_dir.folders_made */
    int64_t settled_start;  /* the start as far as it may be written down; log_settle_start() */
    int64_t stray_snapshot; /* offset of a producer snapshot that belongs to no segment, -1 */
    int64_t checkpointed_high_watermark;
    uint64_t dirty_since_ns; /* 0: all synced */
    struct job job;

    /* ---- under the manager's or the directory's lock ---- */
    struct hmap_node by_id;
    struct list_node sync_node;   /* in log_dir.sync_queue */
    struct list_node active_node; /* in log_dir.active */
    bool sync_queued;             /* waiting for a syncer */
};

#define SYNCERS_PER_DIR 2

struct log_dir {
    struct log_manager *manager;
    struct env *env;
    struct logger *logger;
    int index;
    char *path;
    struct meta_properties meta;
    struct file *lock_file;
    bool clean;   /* it had a marker at start */
    bool adopted; /* it was Kafka's until this start */
    bool has_meta;

    _Atomic(const char *) offline;
    _Atomic bool below_reserve;
    _Atomic bool crowded;         /* since the last tick a file could not be opened */
    _Atomic unsigned space_epoch; /* from 1; moves once a second while there is room */
    _Atomic int log_count;
    /* Folders made, and how many of them are known to be in a synced directory. */
    _Atomic uint64_t folders_made, folders_synced;
    _Atomic int64_t reserve_bytes;

    struct mutex checkpoint_lock; /* one writer of the checkpoints; held across disk waits */
    bool stopped;                 /* under it: the last checkpoints are written */
    struct mutex lock;
    struct list sync_queue; /* each holds a reference */
    int syncers;
    struct list active;    /* logs with open files or unsynced records; each holds a reference */
    bool starts_dirty;     /* the log-start-offset checkpoint is behind */
    bool checkpoint_stale; /* names of deleted logs stand in it */
};

/* ---- log.c ---- */

struct log *log_new(struct log_dir *dir, const struct log_identity *id,
                    const struct log_config *config);
/* "DIR/TOPIC-N/name"; name may be empty: the folder itself. */
void log_path(const struct log *l, const char *name, char out[LOG_PATH_MAX]);
/* For the operator's eyes: "TOPIC-N". */
void log_name(const struct log *l, char out[288]);
void log_push_segment(struct log *l, struct segment *s);
static inline struct segment *log_active(const struct log *l)
{
    return l->segment_count > 0 ? l->segments[l->segment_count - 1] : NULL;
}
/* Index of the segment that holds `offset`, or of the first one behind it; segment_count: none. */
int log_find_segment(const struct log *l, int64_t offset);
/* Takes the log out of use, once; the observer hears of it on the pool. `lock` may be held or not;
 * log_kick() must follow without it. */
void log_set_offline(struct log *l, const char *fmt, ...) PRINTF(2, 3);
void log_want(struct log *l, unsigned work); /* under `lock`; log_kick() must follow */
/* Submits the job when there is work; no lock held. */
void log_kick(struct log *l);
/* Puts the log among those that the directory's tick looks at. Under `lock`. */
void log_touch(struct log *l);

/* ---- log_structure.c, log_trim.c, log_lookup.c: all [pool], without `lock` ---- */

void log_work(struct job *j);
/* A view of segment i of those that are there now, with its files open. */
MUST_USE enum err log_view_segment(struct log *l, struct segment *s, struct segment_view *out,
                                   struct errmsg *why);
/* Writes the tails of both indexes (and aborted transactions) to their files. */
MUST_USE enum err log_store_indexes(struct log *l, struct segment *s, struct errmsg *why);
MUST_USE enum err log_write_snapshot(struct log *l, int64_t offset, const uint8_t *p, size_t size,
                                     struct errmsg *why);
/* Removes a file that may not be there; what stays is found again at the next start. */
void log_discard_file(struct log *l, int64_t base_offset, const char *suffix);
/* partition.metadata and the names that lead to it are on stable storage when it returns, as must
 * be before any number that is written down says that the log held records (D3); the folder itself
 * is synced by then. Under `structure`. */
MUST_USE enum err log_sync_identity(struct log *l, struct errmsg *why);
/* Syncs everything below log_end_offset and moves the recovery point; reports to the observer. */
void log_sync(struct log *l);
/* Starts the disk on what log_sync() will wait for. */
void log_sync_begin(struct log *l);
/* Indexes stored, room given back, files closed; asks for a sync first where one is missing. */
void log_rest(struct log *l);
/* The same at once, waiting for the sync; without `structure`. */
void log_close_files(struct log *l);
/* A clean stop, in three steps so that the syncs of many logs can be one. The first ends all
 * writing: nothing is appended or changed any more, and what was in memory alone is in the files,
 * snapshot included; true when a sync is missing. Between them comes a sync of the file system,
 * which log_stop_synced() takes note of, or none. The last one syncs what is not synced by then
 * and closes the files; false when the log cannot be vouched for. Without `structure`. */
bool log_stop_writing(struct log *l);
void log_stop_synced(struct log *l);
MUST_USE bool log_stop_end(struct log *l);
/* Once a second for each active log. True: a sync is due. */
bool log_tick(struct log *l, bool space_is_short, bool crowded, int64_t sync_behind_ms);
/* Ends the active segment where it is and begins a new one at log_end_offset, with room for
 * `want` bytes; under `structure`. */
MUST_USE enum err log_roll(struct log *l, uint64_t want, struct errmsg *why);
/* Removes the segments that lie wholly below the start offset; under `structure`. */
int log_delete_below_start(struct log *l);
/* Removes what lies below the start, and syncs, so that the start may be written down: a start that
 * is found before records that should be gone, or behind the log's end, is then known to be wrong
 * (S13). Without `structure`. */
void log_settle_start(struct log *l);
/* An error that is not a lack of space takes the log offline. */
void log_failed(struct log *l, enum err e, const struct errmsg *why);

/* ---- log_check.c: all [pool], without `lock`. ERR_AGAIN: there are new indexes, so take another
 * view; ERR_CORRUPT: log_failed() must follow. ---- */

/* The indexes of the segment hold what is said of them, in order. Without `structure`. */
MUST_USE enum err log_check_indexes(struct log *l, struct segment *s, const struct segment_view *v,
                                    struct errmsg *why);
/* What is in [from, to), `from` being where a batch should begin, are the batches that were
 * written there. Without `structure`. */
MUST_USE enum err log_check(struct log *l, struct segment *s, const struct segment_view *v,
                            uint64_t from, uint64_t to, struct errmsg *why);
/* The same for all of it, without a look at its indexes. */
MUST_USE enum err log_check_whole(struct log *l, struct segment *s, const struct segment_view *v,
                                  struct errmsg *why);
/* Records and indexes contradict each other: the segment is walked from its front, and is corrupt,
 * or gets new indexes (ERR_AGAIN). Without `structure`. */
MUST_USE enum err log_judge(struct log *l, struct segment *s, struct errmsg *why);

/* ---- recovery.c ---- */

/* Fills a new log from its folder. Never fails: a log that cannot be trusted is offline. */
void log_recover(struct log *l, int64_t recovery_point, int64_t start_offset);

/* A sound snapshot of the producers at `offset`, where a segment begins, is on stable storage when
 * it returns (its name is not): made anew from the segments before it where it is missing. Under
 * `structure`. [pool] */
MUST_USE enum err log_keep_producers(struct log *l, int64_t offset, struct errmsg *why);

/* The producers as the log says, from the youngest snapshot that fits on. [pool] */
MUST_USE enum err log_reload_producers(struct log *l, struct errmsg *why);

/* ---- log_dir.c ---- */

void log_manager_ref(struct log_manager *m);
void log_manager_unref(struct log_manager *m);
void log_dir_request_sync(struct log_dir *d, struct log *l);
void log_dir_set_offline(struct log_dir *d, const char *why);
/* A log start moved: the checkpoint is written soon. */
void log_dir_start_moved(struct log_dir *d);
void log_dir_no_space(struct log_dir *d);
/* Too many files are open: logs that are not used right now come to rest at the next ticks. */
void log_dir_crowded(struct log_dir *d);
/* For log_manager_oldest_io_ns(): brackets a disk operation. */
int log_dir_io_begin(struct log_dir *d);
void log_dir_io_end(struct log_dir *d, int slot);

#endif
