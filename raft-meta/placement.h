/* raft-meta/placement.h -- which brokers a new partition's replicas go to.
 *
 * As Kafka's: replicas of a partition go to different racks as long as there are any, to unfenced
 * brokers of a rack before its fenced ones, the leader always to an unfenced one; leaders and
 * followers are spread evenly. Where it begins is drawn from `seed`, which comes from the command
 * (a topic's random id), so that the same command is always placed the same way.
 *
 * A pure function of its arguments.
 */
#ifndef FLUXMQ_RAFT_META_PLACEMENT_H
#define FLUXMQ_RAFT_META_PLACEMENT_H

#include "raft-meta/image.h"

/* Places partitions `first` .. `first + count - 1` of a topic with `factor` replicas each:
 * replicas[(p - first) * factor + r].
 * Errors: ERR_INVALID_REPLICATION_FACTOR with Kafka's words in `why`. */
MUST_USE enum err placement_place(const struct image *i, uint64_t seed, int32_t first,
                                  int32_t count, int32_t factor, int32_t *replicas,
                                  struct errmsg *why);

#endif
