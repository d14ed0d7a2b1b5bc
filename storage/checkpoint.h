/* storage/checkpoint.h -- the small text files of a log directory, in Kafka's formats.
 *
 *   recovery-point-offset-checkpoint, replication-offset-checkpoint, log-start-offset-checkpoint:
 *     0                           version
 *     2                           number of lines that follow
 *     orders 0 4711               topic, partition, offset
 *     orders 1 12
 *   leader-epoch-checkpoint: the same head, then "epoch start-offset" lines.
 *   partition.metadata: "version: 0" and "topic_id: " with the id in Kafka's base64.
 *   meta.properties: Java properties; version=1, cluster.id, node.id, directory.id.
 *
 * Thread: any; nothing here keeps state.
 */
#ifndef FLUXMQ_STORAGE_CHECKPOINT_H
#define FLUXMQ_STORAGE_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/base/bytes.h"
#include "protocol/base/err.h"

#define CHECKPOINT_BYTES_MAX ((size_t)256 << 20)

/* A text that grows. */
struct text {
    char *ptr; /* malloc'ed, terminated; NULL while empty */
    size_t size, capacity;
};
void text_add(struct text *t, const char *fmt, ...) PRINTF(2, 3);
void text_deinit(struct text *t);

/* Takes one line off the front, without its end; false when there is none left. */
bool text_line(struct str *rest, struct str *line);
/* Takes one word off the front; the null string when there is none. */
struct str text_word(struct str *rest);

/* Reads version and count and calls fn for each line; fn says whether the line was well-formed.
 * ERR_MALFORMED with the line's number. Lines before a malformed one have been given to fn. */
MUST_USE enum err checkpoint_parse(const uint8_t *p, size_t size,
                                   bool (*fn)(void *ctx, struct str line), void *ctx,
                                   struct errmsg *why);
/* Splits "topic partition offset"; false when it is none. */
bool checkpoint_line_offset(struct str line, struct str *topic, int32_t *partition,
                            int64_t *offset);

void partition_metadata_format(struct text *t, const struct uuid *topic_id);
MUST_USE enum err partition_metadata_parse(const uint8_t *p, size_t size, struct uuid *topic_id,
                                           struct errmsg *why);

struct meta_properties {
    int32_t version; /* 0 or 1 */
    char cluster_id[64];
    int32_t node_id;          /* -1: not there */
    struct uuid directory_id; /* zero: not there */
    bool raft_files;          /* ours: this voter has had raft files here [H1] */
};
void meta_properties_format(struct text *t, const struct meta_properties *m);
/* Unknown keys are left out; Kafka's own reader does the same with ours. */
MUST_USE enum err meta_properties_parse(const uint8_t *p, size_t size, struct meta_properties *out,
                                        struct errmsg *why);

#endif
