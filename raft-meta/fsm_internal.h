/* raft-meta/fsm_internal.h -- what the parts of the state machine share. Not for others. */
#ifndef FLUXMQ_RAFT_META_FSM_INTERNAL_H
#define FLUXMQ_RAFT_META_FSM_INTERNAL_H

#include "raft-meta/command.h"
#include "raft-meta/fsm.h"
#include "raft-meta/image_edit.h"
#include "raft-meta/pmap.h"

struct fsm_step {
    struct image *before, *after;
    uint64_t index;
    struct pmap changed_topics;  /* by id */
    struct pmap changed_configs; /* by type and name */
    bool brokers_changed, features_changed;
    struct topic_change *topic_changes;
    struct config_change *config_changes;
    struct image_delta delta;
};

void step_topic_changed(struct fsm_step *s, const struct uuid *id);
void step_config_changed(struct fsm_step *s, enum config_resource type, struct str name);

/* The outcome when `node` is not registered with this epoch; NULL when it is. */
MetaOutcome *check_broker_epoch(const struct fsm_step *s, int32_t node, int64_t epoch);

/* ---- fsm_partition.c: who is in ISR and ELR, who leads ---- */

/* min.insync.replicas of the topic, else of the cluster, but never more than the replication
 * factor nor less than 1. Only here [H6]. */
int16_t effective_min_isr(const struct image *i, struct str topic, int32_t replication_factor);

/* Registered, unfenced and not shutting down. */
bool broker_is_active(const struct image *i, int32_t node);

struct replica_change {
    int32_t remove;     /* leaves ISR and leadership but may stay eligible (ELR); -1: nobody */
    int32_t lost;       /* leaves ISR and ELR: its tail may be gone; -1: nobody */
    const int32_t *isr; /* the ISR to begin with; NULL: the present one */
    int16_t isr_count;
    bool prefer_first;  /* let the first replica lead when it may */
    bool allow_unclean; /* any live replica may lead when no eligible one is there */
    int32_t leader;     /* must lead (in the ISR and live); -1: as elected */
    int8_t recovery;    /* enum leader_recovery to set; -1: as it is */
};
#define REPLICA_CHANGE_NONE                                                                        \
    ((struct replica_change){.remove = -1, .lost = -1, .leader = -1, .recovery = -1})

/* Applies the change and the elections it makes necessary; true when anything changed. */
bool partition_apply(struct fsm_step *s, const struct topic_image *t, int32_t partition,
                     const struct replica_change *c);
/* Replaces a partition's state, with a new partition epoch. */
void partition_store(struct fsm_step *s, const struct uuid *id, int32_t partition,
                     struct partition_image *p);
/* Recomputes the effective min ISR of all partitions of a topic; where it changes ELR ends. */
void topic_recompute_min_isr(struct fsm_step *s, struct str topic);

/* ---- the commands ---- */

MetaOutcome *fsm_register_broker(struct fsm_step *s, const MetaRegisterBroker *c);
MetaOutcome *fsm_unfence_broker(struct fsm_step *s, const MetaUnfenceBroker *c);
MetaOutcome *fsm_fence_broker(struct fsm_step *s, const MetaFenceBroker *c);
MetaOutcome *fsm_controlled_shutdown(struct fsm_step *s, const MetaControlledShutdown *c);
MetaOutcome *fsm_unregister_broker(struct fsm_step *s, const MetaUnregisterBroker *c);

MetaOutcome *fsm_create_topics(struct fsm_step *s, const MetaCreateTopics *c);
MetaOutcome *fsm_delete_topics(struct fsm_step *s, const MetaDeleteTopics *c);
MetaOutcome *fsm_create_partitions(struct fsm_step *s, const MetaCreatePartitions *c);

MetaOutcome *fsm_partition_change(struct fsm_step *s, const MetaPartitionChange *c);
MetaOutcome *fsm_replica_offline(struct fsm_step *s, const MetaReplicaOffline *c);
MetaOutcome *fsm_replica_online(struct fsm_step *s, const MetaReplicaOnline *c);
MetaOutcome *fsm_assign_directories(struct fsm_step *s, const MetaAssignDirectories *c);
MetaOutcome *fsm_elect_leaders(struct fsm_step *s, const MetaElectLeaders *c);

MetaOutcome *fsm_form_cluster(struct fsm_step *s, const MetaFormCluster *c);
MetaOutcome *fsm_set_configs(struct fsm_step *s, const MetaSetConfigs *c);
/* `node`: whose software the supported ranges are of. */
MetaOutcome *fsm_update_features(struct fsm_step *s, int32_t node, const MetaUpdateFeatures *c);
MetaOutcome *fsm_allocate_producer_ids(struct fsm_step *s, const MetaAllocateProducerIds *c);

#define MIN_INSYNC_REPLICAS "min.insync.replicas"

#endif
