/* broker/adopt.h -- taking over the topics of a Kafka data directory (--adopt-log-dirs).
 *
 * The log manager takes over the folders (log_manager_new() with `adopt`: only a single node's,
 * only stopped cleanly, internal topics untouched with a line each). What remains is to tell the
 * cluster: one CreateTopics per topic, with the id that partition.metadata says, so that the
 * folders are found again as theirs.
 *
 * A pure translation of the open logs; the caller proposes the commands and repeats what failed. To
 * repeat is harmless: a topic that the image has under the same id is left out.
 */
#ifndef FLUXMQ_BROKER_ADOPT_H
#define FLUXMQ_BROKER_ADOPT_H

#include "meta_command.pb-c.h"
#include "protocol/base/logger.h"
#include "raft-meta/image.h"
#include "storage/log_dir.h"

/* Partitions created by one command. */
#define ADOPT_PARTITIONS_PER_COMMAND 1000

struct adopted_config {
    char *key, *value;
};

struct adopted_topic {
    char name[250];
    struct uuid id;
    int32_t partition_count;
    struct adopted_config *configs;
    size_t config_count;
};

struct adoption {
    struct adopted_topic *v; /* sorted by name */
    size_t count;
    bool empty; /* no folder of ours: nothing to adopt */
};

/* Collects the topics of all open logs. ERR_CONFIG, with the topic and what is missing, when a
 * topic has no partition 0..n-1 without gaps, or two ids: such a directory is not a whole node's.
 */
MUST_USE enum err adoption_collect(struct log_manager *m, struct adoption *out, struct errmsg *why);
/* The same from identities; for tests. Sorts `ids`. */
MUST_USE enum err adoption_from(struct log_identity *ids, size_t count, struct adoption *out,
                                struct errmsg *why);
void adoption_deinit(struct adoption *a);

/* A topic's own settings stand in Kafka's metadata log alone; without them a compacted topic would
 * be trimmed by time. Reads DIR/__cluster_metadata-0 (its youngest snapshot, then its log), where
 * there is one, and writes nothing. [pool or start] ERR_NOT_FOUND when no directory has one;
 * ERR_CORRUPT. */
MUST_USE enum err adoption_read_configs(struct adoption *a, struct env *env,
                                        const char *const *dirs, int dir_count, struct errmsg *why);

/* The next command: CreateTopics for topics from *at on that `image` has not, all on `node`; moves
 * *at behind them. NULL when none is left. ERR_EXISTS, with the topic, when the image has a name
 * under another id. Freed with meta_command__free_unpacked(). */
MUST_USE enum err adopt_topics(const struct adoption *a, const struct image *image, int32_t node,
                               size_t *at, MetaCommand **out, struct errmsg *why);

#endif
