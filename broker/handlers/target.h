/* broker/handlers/target.h -- the partition that a client means, and what to tell it when it is
 * elsewhere.
 *
 * Names and ids exist at the edge alone: from here on a partition is (topic id, index) [H19].
 *
 * Thread: the request's worker. What is found is borrowed from the image until the handler
 * returns; a replica is a reference, which the caller gives back or lets the arena hold.
 */
#ifndef FLUXMQ_BROKER_HANDLERS_TARGET_H
#define FLUXMQ_BROKER_HANDLERS_TARGET_H

#include "broker/request.h"
#include "replication/replica_manager.h"

/* By id when `id` is given, else by name. */
const struct topic_image *target_topic(const struct request *r, struct str name,
                                       const struct uuid *id);

/* The replica of a partition on this node. Errors, as Kafka's:
 * ERR_UNKNOWN_TOPIC_ID, ERR_UNKNOWN_TOPIC_OR_PARTITION  there is no such partition
 * ERR_NOT_LEADER_OR_FOLLOWER                            it is not on this node */
MUST_USE enum err target_replica(const struct request *r, const struct topic_image *t, bool by_id,
                                 int32_t partition, struct replica **out);
/* The same for a topic that is named; also whether it is whole: ERR_KAFKA_STORAGE_ERROR. */
MUST_USE enum err target_named_replica(const struct request *r, struct str topic, int32_t partition,
                                       struct replica **out);

/* Kafka keeps its own state in these topics: clients may neither write nor trim them, nor make them
 * by asking for them. (__cluster_metadata is none of them: it is no topic at all.) */
bool target_is_internal(struct str topic);

/* KIP-951: who leads now, so that the client need not ask for metadata first. */
struct leader_hint {
    int32_t id, epoch; /* -1: unknown */
};
struct leader_hint target_leader(const struct request *r, const struct topic_image *t,
                                 int32_t partition);
/* Adds `id` to a set without repetitions, which has room for all. */
void target_add_node(int32_t *ids, int32_t *count, int32_t id);

/* Where clients of this request's listener reach broker `id`; false when it has no such endpoint.
 * Strings are the image's. */
bool target_endpoint(const struct request *r, int32_t id, struct str *host, int32_t *port,
                     struct str *rack);

/* The partitions that a request names; by name where `id` is zero. A set lives in the request's
 * arena and needs no end. NULL, the set without memory, has and keeps nothing. */
struct target_set;
struct target_set *target_set_new(struct request *r, int32_t capacity);
/* Whether it is in the set already; it is afterwards. */
bool target_set_repeats(struct target_set *s, struct str topic, const struct uuid *id,
                        int32_t partition);
bool target_set_has(const struct target_set *s, struct str topic, const struct uuid *id,
                    int32_t partition);

#endif
