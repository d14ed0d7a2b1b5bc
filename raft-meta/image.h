/* raft-meta/image.h -- what the whole cluster agrees on, as one immutable, counted value.
 *
 * The state machine makes a new image from the old one by each applied command, in O(change): the
 * ordered maps inside are persistent trees that share all they can. A node's image only moves
 * forward (P8). Readers take a reference and see one consistent state for as long as they hold it.
 *
 * Order: every iteration is by key (topic name, node id, resource), never by hash or pointer.
 * Thread: any; nothing reachable from an image ever changes. Ownership: what is looked up is
 * borrowed from the image.
 */
#ifndef FLUXMQ_RAFT_META_IMAGE_H
#define FLUXMQ_RAFT_META_IMAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "protocol/base/bytes.h"
#include "protocol/base/env.h"

struct image;

struct image *image_ref(struct image *i);
void image_unref(struct image *i);

uint64_t image_index(const struct image *i);        /* of the last applied raft entry */
int64_t image_time_ms(const struct image *i);       /* of the last command; never goes back [H40] */
struct str image_cluster_id(const struct image *i); /* empty before the first command */

/* ---- brokers ---- */

struct endpoint_image {
    struct str listener, host; /* listener name in upper case as configured */
    int32_t port;
    int16_t
        security_protocol; /* Kafka's number: 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL */
};

struct broker_feature {
    struct str name;
    int16_t min, max; /* levels that this node's software supports */
};

struct broker_image {
    int32_t id;
    int64_t epoch; /* index of its registration */
    struct uuid incarnation;
    struct str rack; /* null: none */
    struct endpoint_image *endpoints;
    int32_t endpoint_count;
    struct uuid *directories; /* its log dirs' ids, in order of log.dirs */
    int32_t directory_count;
    bool fenced, in_controlled_shutdown;
    struct uuid metadata_directory; /* a restart with the same one supersedes at once [H21b] */
    struct broker_feature *features;
    int32_t feature_count;
};

const struct broker_image *image_broker(const struct image *i, int32_t id);
/* The broker with the least id greater than `after`; start with -1; NULL ends. */
const struct broker_image *image_broker_next(const struct image *i, int32_t after);
int32_t image_broker_count(const struct image *i);

/* ---- topics ---- */

enum leader_recovery { LEADER_RECOVERED = 0, LEADER_RECOVERING = 1 };

struct partition_image {
    int32_t *replicas, *isr, *elr, *last_known_elr, *adding, *removing, *offline;
    int16_t replica_count, isr_count, elr_count, last_known_elr_count, adding_count, removing_count,
        offline_count;
    struct uuid *directories; /* one per replica: where it lives; zero: not told yet */
    int32_t leader;           /* -1: none */
    int32_t leader_epoch, partition_epoch;
    int16_t effective_min_isr; /* min(min.insync.replicas, RF), recomputed only by commands [H6] */
    uint8_t leader_recovery;
};

struct topic_image {
    struct uuid id;
    struct str name;
    int32_t partition_count;
    uint64_t created_index;
};

const struct topic_image *image_topic(const struct image *i, struct str name);
const struct topic_image *image_topic_by_id(const struct image *i, const struct uuid *id);
/* The topic with the least name greater than `after`; start with the null string. */
const struct topic_image *image_topic_next(const struct image *i, struct str after);
int32_t image_topic_count(const struct image *i);
int64_t image_partition_count(const struct image *i);
/* NULL when there is no such partition. */
const struct partition_image *topic_partition(const struct topic_image *t, int32_t partition);

/* ---- dynamic configs ---- */

enum config_resource { /* Kafka's numbers */
                       CONFIG_TOPIC = 2,
                       CONFIG_BROKER = 4, /* name "": the cluster-wide default */
                       CONFIG_BROKER_LOGGER = 8,
                       CONFIG_CLIENT_METRICS = 16,
                       CONFIG_GROUP = 32,
};

struct config_entry {
    struct str key, value;
};
/* The value, or false. */
bool image_config_get(const struct image *i, enum config_resource type, struct str name,
                      struct str key, struct str *value);
/* All entries of a resource sorted by key; false when it has none. */
bool image_config_entries(const struct image *i, enum config_resource type, struct str name,
                          const struct config_entry **entries, int32_t *count);
/* The resource with the least name greater than `after` (null string to start); false ends. */
bool image_config_next(const struct image *i, enum config_resource type, struct str after,
                       struct str *name);

/* ---- features, producer ids ---- */

struct feature_image {
    struct str name;
    int16_t level;
};
/* Sorted by name. */
int32_t image_features(const struct image *i, const struct feature_image **out);
int16_t image_feature(const struct image *i, const char *name); /* 0: not finalized */
int64_t image_features_epoch(const struct image *i);            /* index of the last change */
int64_t image_next_producer_id(const struct image *i);
/* Leaders chosen outside ISR and ELR since the cluster was formed (P1's named exception). */
int64_t image_unclean_elections(const struct image *i);

/* ---- what a command changed ---- */

struct topic_change {
    struct uuid id;
    const struct topic_image *before, *after; /* NULL: did not exist; does not exist any more */
};
struct config_change {
    enum config_resource type;
    struct str name;
};
struct image_delta {
    const struct image *before, *after; /* borrowed during the call that shows the delta */
    const struct topic_change *topics;
    int32_t topic_count;
    const struct config_change *configs;
    int32_t config_count;
    bool brokers_changed, features_changed;
};

/* ---- the published image ---- */

/* Where readers find the newest image. The version moves before anyone is told of a command's
 * outcome, so that whoever heard of it also sees it (P8). */
struct image_slot {
    struct mutex lock;
    struct image *current GUARDED_BY(lock);
    _Atomic uint64_t version;
};
void image_slot_init(struct image_slot *s, struct env *env);
void image_slot_deinit(struct image_slot *s);
void image_slot_publish(struct image_slot *s, struct image *i); /* takes its own reference */
struct image *image_slot_acquire(struct image_slot *s);         /* a reference */

/* A reader's cached reference: refreshed only when the version has moved. */
struct image_cache {
    struct image_slot *slot;
    struct image *image;
    uint64_t version;
};
void image_cache_init(struct image_cache *c, struct image_slot *s);
void image_cache_deinit(struct image_cache *c);
/* The newest image, borrowed until the next call. */
struct image *image_cache_get(struct image_cache *c);

#endif
