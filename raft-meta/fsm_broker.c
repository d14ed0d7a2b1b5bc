/* raft-meta/fsm_broker.c -- registrations, fencing, leaving.
 *
 * A registration makes a new incarnation, fenced until its node says that it serves. What the old
 * incarnation led or kept in sync is given up in the same apply, so that nobody acts on a promise
 * of a process that is gone [H5, H21b].
 */
#include "raft-meta/fsm_internal.h"

#include <stdlib.h>
#include <string.h>

#define DIRECTORIES_MAX 256
#define ENDPOINTS_MAX   64
#define FEATURES_MAX    64
#define NAME_MAX_BYTES  1024

static bool replicates(const struct partition_image *p, int32_t node)
{
    for (int16_t r = 0; r < p->replica_count; r++) {
        if (p->replicas[r] == node)
            return true;
    }
    return false;
}

/* Calls `visit` for every partition that has a replica on the node, by topic name and index. */
static void for_each_replica_of(struct fsm_step *s, int32_t node,
                                void (*visit)(struct fsm_step *s, const struct topic_image *t,
                                              int32_t partition, void *ctx),
                                void *ctx)
{
    for (const struct topic_image *t = image_topic_next(s->after, STR_NULL); t != NULL;) {
        struct uuid id = t->id;
        int32_t count = t->partition_count;

        for (int32_t i = 0; i < count; i++) {
            /* Looked up anew: the visit may have made another version of the topic. */
            t = image_topic_by_id(s->after, &id);
            if (replicates(topic_partition(t, i), node))
                visit(s, t, i, ctx);
        }
        t = image_topic_next(s->after, image_topic_by_id(s->after, &id)->name);
    }
}

static void visit_apply(struct fsm_step *s, const struct topic_image *t, int32_t partition,
                        void *ctx)
{
    (void)partition_apply(s, t, partition, ctx);
}

static void put_broker(struct fsm_step *s, const struct broker_image *b)
{
    image_put_broker(s->after, b);
    s->brokers_changed = true;
}

/* ---- registration ---- */

struct registration {
    const MetaRegisterBroker *c;
    struct uuid *directories, *suspect;
    int32_t directory_count, suspect_count;
};

static bool among(const struct uuid *list, int32_t count, const struct uuid *id)
{
    for (int32_t i = 0; i < count; i++) {
        if (uuid_eq(&list[i], id))
            return true;
    }
    return false;
}

static bool tail_was_kept(const MetaRegisterBroker *c, const struct uuid *topic, int32_t partition)
{
    for (size_t i = 0; i < c->n_tail_kept; i++) {
        struct uuid id;

        if (c->tail_kept[i]->partition == partition &&
            proto_uuid(&c->tail_kept[i]->topic_id, &id) && uuid_eq(&id, topic))
            return true;
    }
    return false;
}

/* The incarnation before is gone. A replica whose page cache may have gone with it, or whose
 * directory is not there any more, leaves ISR and ELR; the others may lead again (H2, H3). */
static void visit_supersede(struct fsm_step *s, const struct topic_image *t, int32_t partition,
                            void *ctx)
{
    const struct registration *r = ctx;
    const struct partition_image *p = topic_partition(t, partition);
    struct replica_change change = REPLICA_CHANGE_NONE;
    const struct uuid *directory = NULL;
    bool lost;

    for (int16_t i = 0; i < p->replica_count; i++) {
        if (p->replicas[i] == r->c->node)
            directory = &p->directories[i];
    }
    CHECK(directory != NULL);
    lost = uuid_is_zero(directory) ? r->suspect_count > 0
                                   : among(r->suspect, r->suspect_count, directory) ||
                                         !among(r->directories, r->directory_count, directory);
    if (lost && !tail_was_kept(r->c, &t->id, partition))
        change.lost = r->c->node;
    else
        change.remove = r->c->node;

    struct uuid id = t->id;
    struct partition_image n = *p;
    int32_t offline[REPLICAS_MAX];
    int16_t kept = 0;

    (void)partition_apply(s, t, partition, &change);
    /* A new life begins without old verdicts: it reports again what it cannot read. It does so
     * before it is unfenced, and had left ISR and ELR when it was reported. */
    n = *topic_partition(image_topic_by_id(s->after, &id), partition);
    for (int16_t i = 0; i < n.offline_count; i++) {
        if (n.offline[i] != r->c->node)
            offline[kept++] = n.offline[i];
    }
    if (kept == n.offline_count)
        return;
    n.offline = offline;
    n.offline_count = kept;
    partition_store(s, &id, partition, &n);
}

static MetaOutcome *check_directories(const struct fsm_step *s, const MetaRegisterBroker *c,
                                      const struct uuid *directories)
{
    for (size_t i = 0; i < c->n_directories; i++) {
        if (uuid_is_zero(&directories[i]))
            return outcome_new(ERR_INVALID_REGISTRATION, "Reserved directory ID in request");
        if (among(directories, (int32_t)i, &directories[i]))
            return outcome_new(ERR_INVALID_REGISTRATION, "Duplicate directory ID in request");
    }
    for (const struct broker_image *b = image_broker_next(s->after, -1); b != NULL;
         b = image_broker_next(s->after, b->id)) {
        for (size_t i = 0; b->id != c->node && i < c->n_directories; i++) {
            char text[UUID_TEXT_SIZE];

            if (!among(b->directories, b->directory_count, &directories[i]))
                continue;
            uuid_format(&directories[i], text);
            return outcome_new(ERR_INVALID_REGISTRATION,
                               "Broker %d is already registered with directory %s", b->id, text);
        }
    }
    return NULL;
}

static MetaOutcome *check_features(const struct fsm_step *s, const MetaRegisterBroker *c)
{
    const struct feature_image *finalized;
    int32_t count = image_features(s->after, &finalized);

    for (int32_t f = 0; f < count; f++) {
        int32_t min = 0, max = 0;

        for (size_t i = 0; i < c->n_features; i++) {
            if (str_eq(proto_view(c->features[i]->name), finalized[f].name)) {
                min = c->features[i]->min;
                max = c->features[i]->max;
            }
        }
        if (finalized[f].level < min || finalized[f].level > max)
            return outcome_new(ERR_UNSUPPORTED_VERSION,
                               "Unable to register because the broker does not support finalized "
                               "version %d of %.*s. The broker wants a version between %d and %d, "
                               "inclusive.",
                               finalized[f].level, STR_ARG(finalized[f].name), min, max);
    }
    return NULL;
}

static MetaOutcome *check_shape(const struct fsm_step *s, const MetaRegisterBroker *c)
{
    struct str cluster = image_cluster_id(s->after), theirs = proto_view(c->cluster_id);

    if (theirs.len > 0 && !str_eq(theirs, cluster))
        return outcome_new(ERR_INCONSISTENT_CLUSTER_ID,
                           "Expected cluster ID %.*s, but got cluster ID %.*s", STR_ARG(cluster),
                           STR_ARG(theirs));
    if (c->node < 0 || c->n_endpoints > ENDPOINTS_MAX || c->n_features > FEATURES_MAX ||
        c->n_suspect_directories > DIRECTORIES_MAX || proto_view(c->rack).len > NAME_MAX_BYTES)
        return outcome_new(ERR_INVALID_REGISTRATION, "The registration exceeds a limit");
    if (c->n_directories == 0)
        return outcome_new(ERR_INVALID_REGISTRATION, "No directories specified in request");
    if (c->n_directories > DIRECTORIES_MAX)
        return outcome_new(ERR_INVALID_REGISTRATION, "Too many directories in request");
    for (size_t i = 0; i < c->n_endpoints; i++) {
        if (c->endpoints[i]->port < 0 || c->endpoints[i]->port > 65535 ||
            proto_view(c->endpoints[i]->host).len > NAME_MAX_BYTES)
            return outcome_new(ERR_INVALID_REGISTRATION, "An endpoint is not valid");
    }
    return NULL;
}

/* Broker ids are not shared: a second directory under the id of a live one is a mistake. */
static MetaOutcome *check_incarnation(const struct fsm_step *s, const MetaRegisterBroker *c,
                                      const struct uuid *incarnation,
                                      const struct uuid *metadata_directory)
{
    const struct broker_image *old = image_broker(s->after, c->node);

    if (old == NULL || uuid_eq(&old->incarnation, incarnation))
        return NULL;
    if (old->epoch == (int64_t)s->index)
        return outcome_new(ERR_DUPLICATE_BROKER_REGISTRATION,
                           "Another incarnation registered at the same moment.");
    if (uuid_eq(&old->metadata_directory, metadata_directory)) /* [H21b] */
        return NULL;
    if (!old->fenced && !c->old_session_over)
        return outcome_new(ERR_DUPLICATE_BROKER_REGISTRATION,
                           "Another broker is registered with that broker id. If the broker was "
                           "recently restarted this should self-resolve once the heartbeat "
                           "manager expires the broker's session.");
    return NULL;
}

static void store_registration(struct fsm_step *s, const MetaRegisterBroker *c,
                               const struct broker_image *old, bool same_incarnation,
                               struct broker_image *b)
{
    struct endpoint_image endpoints[ENDPOINTS_MAX];
    struct broker_feature features[FEATURES_MAX];
    struct str rack = proto_view(c->rack);

    for (size_t i = 0; i < c->n_endpoints; i++)
        endpoints[i] = (struct endpoint_image){
            .listener = proto_view(c->endpoints[i]->listener),
            .host = proto_view(c->endpoints[i]->host),
            .port = c->endpoints[i]->port,
            .security_protocol = (int16_t)c->endpoints[i]->security_protocol,
        };
    for (size_t i = 0; i < c->n_features; i++)
        features[i] = (struct broker_feature){.name = proto_view(c->features[i]->name),
                                              .min = (int16_t)c->features[i]->min,
                                              .max = (int16_t)c->features[i]->max};
    b->id = c->node;
    b->epoch = same_incarnation ? old->epoch : (int64_t)s->index;
    b->fenced = same_incarnation ? old->fenced : true;
    b->in_controlled_shutdown = same_incarnation && old->in_controlled_shutdown;
    b->rack = rack.len > 0 ? rack : STR_NULL;
    b->endpoints = endpoints;
    b->endpoint_count = (int32_t)c->n_endpoints;
    b->features = features;
    b->feature_count = (int32_t)c->n_features;
    put_broker(s, b);
}

static MetaOutcome *register_broker(struct fsm_step *s, const MetaRegisterBroker *c,
                                    struct registration *r)
{
    const struct broker_image *old = image_broker(s->after, c->node);
    struct broker_image b = {0};
    MetaOutcome *o;
    bool same;

    if (!proto_uuid(&c->incarnation, &b.incarnation) ||
        !proto_uuid(&c->metadata_directory, &b.metadata_directory))
        return outcome_new(ERR_INVALID_REGISTRATION, "An id is not 16 bytes long");
    for (size_t i = 0; i < c->n_directories; i++) {
        if (!proto_uuid(&c->directories[i], &r->directories[i]))
            return outcome_new(ERR_INVALID_REGISTRATION, "A directory id is not 16 bytes long");
    }
    for (size_t i = 0; i < c->n_suspect_directories; i++) {
        if (!proto_uuid(&c->suspect_directories[i], &r->suspect[i]))
            return outcome_new(ERR_INVALID_REGISTRATION, "A directory id is not 16 bytes long");
    }
    if ((o = check_directories(s, c, r->directories)) != NULL ||
        (o = check_features(s, c)) != NULL ||
        (o = check_incarnation(s, c, &b.incarnation, &b.metadata_directory)) != NULL)
        return o;

    same = old != NULL && uuid_eq(&old->incarnation, &b.incarnation);
    b.directories = r->directories;
    b.directory_count = r->directory_count;
    store_registration(s, c, old, same, &b);
    if (!same) {
        image_drop_lanes(s->after, c->node);
        for_each_replica_of(s, c->node, visit_supersede, r);
    }
    o = outcome_new(ERR_NONE, NULL);
    o->value = image_broker(s->after, c->node)->epoch;
    return o;
}

MetaOutcome *fsm_register_broker(struct fsm_step *s, const MetaRegisterBroker *c)
{
    struct uuid directories[DIRECTORIES_MAX], suspect[DIRECTORIES_MAX];
    struct registration r = {.c = c, .directories = directories, .suspect = suspect};
    MetaOutcome *o = check_shape(s, c);

    if (o != NULL)
        return o;
    r.directory_count = (int32_t)c->n_directories;
    r.suspect_count = (int32_t)c->n_suspect_directories;
    return register_broker(s, c, &r);
}

/* ---- fencing and leaving ---- */

MetaOutcome *fsm_unfence_broker(struct fsm_step *s, const MetaUnfenceBroker *c)
{
    MetaOutcome *o = check_broker_epoch(s, c->node, c->broker_epoch);
    struct replica_change change = REPLICA_CHANGE_NONE;
    struct broker_image b;

    if (o != NULL)
        return o;
    b = *image_broker(s->after, c->node);
    if (!b.fenced)
        return outcome_new(ERR_NONE, NULL);
    if (b.in_controlled_shutdown)
        return outcome_new(ERR_INVALID_REQUEST, "Broker %d is shutting down", c->node);
    b.fenced = false;
    put_broker(s, &b);
    for_each_replica_of(s, c->node, visit_apply, &change);
    return outcome_new(ERR_NONE, NULL);
}

MetaOutcome *fsm_fence_broker(struct fsm_step *s, const MetaFenceBroker *c)
{
    MetaOutcome *o = check_broker_epoch(s, c->node, c->broker_epoch);
    struct replica_change change = REPLICA_CHANGE_NONE;
    struct broker_image b;

    if (o != NULL)
        return o;
    b = *image_broker(s->after, c->node);
    if (b.fenced)
        return outcome_new(ERR_NONE, NULL);
    b.fenced = true;
    put_broker(s, &b);
    change.remove = c->node;
    for_each_replica_of(s, c->node, visit_apply, &change);
    return outcome_new(ERR_NONE, NULL);
}

MetaOutcome *fsm_controlled_shutdown(struct fsm_step *s, const MetaControlledShutdown *c)
{
    MetaOutcome *o = check_broker_epoch(s, c->node, c->broker_epoch);
    struct replica_change change = REPLICA_CHANGE_NONE;
    struct broker_image b;

    if (o != NULL)
        return o;
    b = *image_broker(s->after, c->node);
    if (b.in_controlled_shutdown)
        return outcome_new(ERR_NONE, NULL);
    b.in_controlled_shutdown = true;
    put_broker(s, &b);
    change.remove = c->node; /* leaders move, and no acks=all waits for it any more [H30] */
    for_each_replica_of(s, c->node, visit_apply, &change);
    return outcome_new(ERR_NONE, NULL);
}

struct membership {
    int32_t node;
    int64_t count;
};

static void visit_membership(struct fsm_step *s, const struct topic_image *t, int32_t partition,
                             void *ctx)
{
    const struct partition_image *p = topic_partition(t, partition);
    struct membership *m = ctx;

    (void)s;
    for (int16_t i = 0; i < p->isr_count; i++)
        m->count += p->isr[i] == m->node;
    for (int16_t i = 0; i < p->elr_count; i++)
        m->count += p->elr[i] == m->node;
}

MetaOutcome *fsm_unregister_broker(struct fsm_step *s, const MetaUnregisterBroker *c)
{
    const struct broker_image *b = image_broker(s->after, c->node);
    struct membership m = {.node = c->node};

    if (b == NULL)
        return outcome_new(ERR_BROKER_ID_NOT_REGISTERED, "Broker ID %d is not currently registered",
                           c->node);
    if (c->is_voter)
        return outcome_new(ERR_INVALID_REQUEST,
                           "Broker %d is a voter of the metadata quorum; remove it there first.",
                           c->node);
    for_each_replica_of(s, c->node, visit_membership, &m);
    if (m.count > 0) /* [H42] */
        return outcome_new(ERR_INVALID_REQUEST,
                           "Broker %d is still in the ISR or ELR of %lld partition(s); reassign "
                           "them first.",
                           c->node, (long long)m.count);
    image_remove_broker(s->after, c->node);
    image_drop_lanes(s->after, c->node);
    s->brokers_changed = true;
    return outcome_new(ERR_NONE, NULL);
}
