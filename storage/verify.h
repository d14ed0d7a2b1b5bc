/* storage/verify.h -- checks a log directory's files against each other while nobody writes them.
 *
 * One walk over each log, in which every byte is read, holds it to
 *   the batches themselves   frame, CRC-32C, counts; with `deep` each record too
 *   each other               offsets contiguous (gaps are legal where the cleaner has been), epochs
 *                            never lower, each segment beginning where its name says
 *   leader-epoch-checkpoint  every batch carries the epoch that the file gives its offset
 *   .index .timeindex        entries ascend, point at batches, and say what these say; neither file
 *                            lacks entries that the other shows there must have been
 *   .txnindex .snapshot      what replaying the batches gives
 * and the directory's own files to syntax, to each other and to the logs that are there.
 *
 * Three weights. DAMAGE: something whole once is not any more. CRASH: as a process or a machine
 * that dies leaves it, at or above the recovery point of a directory without a clean-shutdown
 * marker; a start repairs it. NOTE: a file that does nothing.
 *
 * Thread: the facts are shared and read-only; each report belongs to one thread. [pool]
 */
#ifndef FLUXMQ_STORAGE_VERIFY_H
#define FLUXMQ_STORAGE_VERIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/base/bytes.h"
#include "protocol/base/env.h"
#include "storage/checkpoint.h"

enum finding_kind {
    FINDING_IO,
    FINDING_BATCH,
    FINDING_CRC,
    FINDING_RECORD,
    FINDING_OFFSETS,
    FINDING_EPOCHS,
    FINDING_TORN_TAIL,
    FINDING_LOG_END,
    FINDING_INDEX,
    FINDING_TIME_INDEX,
    FINDING_TXN_INDEX,
    FINDING_SNAPSHOT,
    FINDING_EPOCH_CHECKPOINT,
    FINDING_PARTITION_METADATA,
    FINDING_META_PROPERTIES,
    FINDING_CHECKPOINT,
    FINDING_CLEAN_STATE,
    FINDING_STRAY,
    FINDING_KINDS,
};
const char *finding_kind_name(enum finding_kind kind);

enum finding_weight { FINDING_NOTE, FINDING_CRASH, FINDING_DAMAGE };

struct finding {
    enum finding_kind kind;
    enum finding_weight weight;
    char *path;
    uint64_t position;   /* in bytes */
    int64_t base_offset; /* of the segment, -1: none */
    int64_t offset;      /* where the log would have to be cut; -1: nowhere */
    char *text;          /* what was found and what was expected */
};

/* Findings beyond this many of one report are only counted. */
#define FINDINGS_KEPT_MAX 1000

struct verify_report {
    struct finding *v;
    size_t count, capacity;
    uint64_t weights[3]; /* all findings, by weight */
    uint64_t bytes, partitions, segments, batches, records;
};
void verify_report_deinit(struct verify_report *r);
/* Moves everything of `from` behind `to`. */
void verify_report_merge(struct verify_report *to, struct verify_report *from);
/* `position` and `base_offset` as in struct finding. */
void verify_report_add(struct verify_report *r, enum finding_kind kind, enum finding_weight weight,
                       const char *path, uint64_t position, int64_t base_offset, int64_t offset,
                       const char *fmt, ...) PRINTF(8, 9);

struct verify_options {
    bool deep;       /* look into each record, compressed or not */
    bool allow_gaps; /* the topic is compacted, whatever cleaner-offset-checkpoint says */
};

/* ---- what a log directory says of its partitions ---- */

struct partition_facts {
    bool known;             /* the directory's files could be read */
    bool clean;             /* stopped cleanly: everything must be whole */
    int64_t recovery_point; /* -1: no line */
    int64_t start_offset;   /* -1: no line */
    int64_t high_watermark; /* -1: no line */
    int64_t first_dirty;    /* gaps are legal below; 0: the cleaner never was here */
    bool ours;              /* the directory is fluxmq's */
    bool has_topic_id;      /* of fluxmq-clean-state */
    struct uuid topic_id;
};

struct checkpoint_entry {
    char *topic;
    int32_t partition;
    int64_t offset;
};

struct checkpoint_file {
    bool present, sound;
    char *path;
    struct checkpoint_entry *v; /* sorted by topic and partition */
    size_t count, capacity;
};

enum {
    CHECKPOINT_RECOVERY,
    CHECKPOINT_HIGH_WATERMARK,
    CHECKPOINT_START,
    CHECKPOINT_CLEANER,
    CHECKPOINT_FILES
};

struct clean_identity {
    char *topic;
    int32_t partition;
    struct uuid topic_id;
};

struct log_dir_facts {
    char *path;
    bool is_log_dir; /* it has meta.properties or a checkpoint */
    bool ours;       /* fluxmq's, by its fluxmq-format */
    bool clean;
    bool has_clean_state; /* then only the partitions in it were stopped cleanly */
    bool has_meta;
    struct meta_properties meta;
    struct checkpoint_file checkpoints[CHECKPOINT_FILES];
    struct clean_identity *identities; /* of fluxmq-clean-state */
    size_t identity_count;
    char **folders; /* names of partition folders, sorted */
    size_t folder_count;
};
/* Reads the directory's own files; what is wrong with them goes to the report. */
void log_dir_facts_read(struct log_dir_facts *f, struct env *env, const char *path,
                        struct verify_report *r);
void log_dir_facts_deinit(struct log_dir_facts *f);
void log_dir_facts_of(const struct log_dir_facts *f, const char *topic, int32_t partition,
                      struct partition_facts *out);

/* ---- a partition ---- */

struct partition_summary {
    char topic[250];
    int32_t partition;
    bool has_id;
    struct uuid topic_id;
    int64_t start_offset, end_offset;
};

/* "TOPIC-N", with a legal topic name; false for any other. */
bool partition_folder_parse(const char *name, char topic[250], int32_t *partition);

/* Whether a directory looks like a partition's. */
bool verify_is_partition(struct env *env, const char *path);

void verify_partition(struct env *env, const char *path, const struct partition_facts *facts,
                      const struct verify_options *o, struct verify_report *r,
                      struct partition_summary *out);

/* What only shows between partitions and directories: checkpoint lines of partitions that are not
 * here, topics with two ids, ids of two topics, directories of two nodes. */
void verify_together(const struct log_dir_facts *dirs, size_t dir_count,
                     struct partition_summary *all, size_t count, struct verify_report *r);

#endif
