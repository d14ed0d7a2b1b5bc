/* raft-meta/image_edit.h -- making the next image; for the state machine and the snapshot alone.
 *
 * image_edit() begins a private copy that shares everything with its base. It may be changed until
 * it is first shown to anyone else; whoever publishes it stops changing it. What is passed in is
 * copied. Nothing here judges: the caller has checked that the change makes sense.
 */
#ifndef FLUXMQ_RAFT_META_IMAGE_EDIT_H
#define FLUXMQ_RAFT_META_IMAGE_EDIT_H

#include "raft-meta/image.h"

#define CLUSTER_ID_MAX 63

struct image *image_new(void);
struct image *image_edit(const struct image *base);

void image_set_applied(struct image *i, uint64_t index);
void image_advance_time(struct image *i, int64_t time_ms); /* never goes back [H40] */
void image_set_cluster_id(struct image *i, struct str id); /* at most CLUSTER_ID_MAX bytes */

void image_put_broker(struct image *i, const struct broker_image *b);
void image_remove_broker(struct image *i, int32_t id);

/* A topic without partitions; name and id are new. */
void image_put_topic(struct image *i, const struct uuid *id, struct str name,
                     uint64_t created_index);
void image_remove_topic(struct image *i, const struct uuid *id);
/* The name that would be the same if '.' were '_' (Kafka's metric names), or the null string. */
struct str image_colliding_topic(const struct image *i, struct str name);
/* Appends one partition to the topic. */
void image_add_partition(struct image *i, const struct uuid *id, const struct partition_image *p);
void image_put_partition(struct image *i, const struct uuid *id, int32_t partition,
                         const struct partition_image *p);

void image_put_config(struct image *i, enum config_resource type, struct str name, struct str key,
                      struct str value);
bool image_remove_config(struct image *i, enum config_resource type, struct str name,
                         struct str key);
void image_remove_config_resource(struct image *i, enum config_resource type, struct str name);

void image_put_feature(struct image *i, struct str name, int16_t level); /* 0 removes */
void image_set_features_epoch(struct image *i, int64_t epoch);
void image_set_next_producer_id(struct image *i, int64_t id);
void image_set_unclean_elections(struct image *i, int64_t count);

/* ---- lanes: the last command of each proposer and what it was answered [H13] ---- */

struct lane_image {
    int32_t node;
    uint32_t lane;
    int64_t broker_epoch;
    uint64_t seq;
    struct bytes outcome; /* a packed MetaOutcome */
};
const struct lane_image *image_lane(const struct image *i, int32_t node, uint32_t lane);
/* The next in order of (node, lane); NULL to start; NULL ends. */
const struct lane_image *image_lane_next(const struct image *i, const struct lane_image *after);
void image_put_lane(struct image *i, const struct lane_image *l);
void image_drop_lanes(struct image *i, int32_t node);

#endif
