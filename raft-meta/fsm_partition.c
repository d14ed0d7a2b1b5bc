/* raft-meta/fsm_partition.c -- ISR, ELR and leaders (KIP-966), and the commands that change them.
 *
 * ISR: replicas that hold everything the leader acknowledges. ELR: replicas that left the ISR while
 * it was below the effective min ISR; since the high watermark stands still then, they hold all
 * that was ever acknowledged, and may lead when the ISR is empty. When both are empty the last
 * known leader is remembered: the only exit that may lose records, and for one replica the only
 * exit there is (H3).
 */
#include "raft-meta/fsm_internal.h"

#include <stdlib.h>
#include <string.h>

/* A partition's state taken apart; `pub` points into the arrays once it is put together. */
struct partition_edit {
    int32_t isr[REPLICAS_MAX], elr[REPLICAS_MAX], last_known, offline[REPLICAS_MAX];
    int16_t isr_count, elr_count, offline_count;
};

static bool contains(const int32_t *v, int16_t count, int32_t id)
{
    for (int16_t i = 0; i < count; i++) {
        if (v[i] == id)
            return true;
    }
    return false;
}

static bool same(const int32_t *a, int16_t a_count, const int32_t *b, int16_t b_count)
{
    return a_count == b_count && (a_count == 0 || memcmp(a, b, (size_t)a_count * sizeof *a) == 0);
}

int16_t effective_min_isr(const struct image *i, struct str topic, int32_t replication_factor)
{
    struct str text;
    int32_t value;

    if (!(image_config_get(i, CONFIG_TOPIC, topic, STR_LIT(MIN_INSYNC_REPLICAS), &text) &&
          parse_int32(text, &value)) &&
        !(image_config_get(i, CONFIG_BROKER, STR_EMPTY, STR_LIT(MIN_INSYNC_REPLICAS), &text) &&
          parse_int32(text, &value)))
        value = 1;
    return (int16_t)MAX(1, MIN(value, replication_factor));
}

static bool unclean_allowed(const struct image *i, struct str topic)
{
    const struct str key = STR_LIT("unclean.leader.election.enable");
    struct str text;

    if (!image_config_get(i, CONFIG_TOPIC, topic, key, &text) &&
        !image_config_get(i, CONFIG_BROKER, STR_EMPTY, key, &text))
        return false;
    return str_eq_lit(text, "true");
}

bool broker_is_active(const struct image *i, int32_t node)
{
    const struct broker_image *b = image_broker(i, node);

    return b != NULL && !b->fenced && !b->in_controlled_shutdown;
}

/* May lead as far as its node and its disk are concerned. */
static bool replica_is_live(const struct image *i, const struct partition_image *p, int32_t node)
{
    const struct broker_image *b = image_broker(i, node);

    if (!broker_is_active(i, node) || contains(p->offline, p->offline_count, node))
        return false;
    for (int16_t r = 0; r < p->replica_count; r++) {
        if (p->replicas[r] != node)
            continue;
        if (uuid_is_zero(&p->directories[r]))
            return true;
        for (int32_t d = 0; d < b->directory_count; d++) {
            if (uuid_eq(&b->directories[d], &p->directories[r]))
                return true;
        }
    }
    return false;
}

void partition_store(struct fsm_step *s, const struct uuid *id, int32_t partition,
                     struct partition_image *p)
{
    p->partition_epoch++;
    image_put_partition(s->after, id, partition, p);
    step_topic_changed(s, id);
}

/* ISR and ELR after the change, before any election. */
static void target_replicas(const struct partition_image *p, const struct replica_change *c,
                            struct partition_edit *e)
{
    const int32_t *isr = c->isr != NULL ? c->isr : p->isr;
    int16_t isr_count = c->isr != NULL ? c->isr_count : p->isr_count;

    e->isr_count = e->elr_count = 0;
    for (int16_t i = 0; i < isr_count; i++) {
        if (isr[i] != c->remove && isr[i] != c->lost)
            e->isr[e->isr_count++] = isr[i];
    }
    if (e->isr_count >= p->effective_min_isr)
        return;
    /* In the order of the assignment, so that the shape has one reason only. */
    for (int16_t r = 0; r < p->replica_count; r++) {
        int32_t id = p->replicas[r];

        if (id != c->lost && !contains(e->isr, e->isr_count, id) &&
            (contains(p->isr, p->isr_count, id) || contains(p->elr, p->elr_count, id)))
            e->elr[e->elr_count++] = id;
    }
}

static bool is_eligible(const struct image *i, const struct partition_image *p,
                        const struct partition_edit *e, int32_t node)
{
    bool member = e->isr_count > 0 ? contains(e->isr, e->isr_count, node)
                                   : contains(e->elr, e->elr_count, node);

    return member && replica_is_live(i, p, node);
}

/* Who leads after the change; *unclean: from outside ISR and ELR. */
static int32_t elect(const struct image *i, const struct topic_image *t,
                     const struct partition_image *p, const struct partition_edit *e,
                     const struct replica_change *c, bool *unclean)
{
    *unclean = false;
    if (c->leader >= 0 && is_eligible(i, p, e, c->leader))
        return c->leader;
    if (c->prefer_first && is_eligible(i, p, e, p->replicas[0]))
        return p->replicas[0];
    if (p->leader >= 0 && is_eligible(i, p, e, p->leader))
        return p->leader;
    for (int16_t r = 0; r < p->replica_count; r++) {
        if (is_eligible(i, p, e, p->replicas[r]))
            return p->replicas[r];
    }

    *unclean = true;
    /* A single replica has nobody to wait for: at once (H3). */
    if (e->isr_count == 0 && e->elr_count == 0 && p->replica_count == 1 &&
        replica_is_live(i, p, p->replicas[0]))
        return p->replicas[0];
    if (c->allow_unclean || unclean_allowed(i, t->name)) {
        for (int16_t r = 0; r < p->replica_count; r++) {
            if (replica_is_live(i, p, p->replicas[r]))
                return p->replicas[r];
        }
    }
    *unclean = false;
    return -1;
}

/* The last known leader: noted when ISR and leader go, forgotten when somebody leads. */
static int32_t last_known_leader(const struct partition_image *p, const struct partition_edit *e,
                                 int32_t leader)
{
    if (leader >= 0)
        return -1;
    if (p->last_known_elr_count > 0)
        return p->last_known_elr[0];
    if (e->isr_count > 0)
        return -1;
    return p->leader >= 0 ? p->leader : p->isr_count > 0 ? p->isr[0] : -1;
}

bool partition_apply(struct fsm_step *s, const struct topic_image *t, int32_t partition,
                     const struct replica_change *c)
{
    const struct partition_image *p = topic_partition(t, partition);
    struct partition_edit e;
    struct partition_image n = *p;
    bool unclean;

    target_replicas(p, c, &e);
    n.leader = elect(s->after, t, p, &e, c, &unclean);
    if (n.leader >= 0 && (unclean || e.isr_count == 0)) {
        int16_t kept = 0;

        for (int16_t i = 0; i < e.elr_count; i++) {
            if (!unclean && e.elr[i] != n.leader)
                e.elr[kept++] = e.elr[i];
        }
        /* A single member may already be enough for the min ISR: then ELR ends here. */
        e.elr_count = p->effective_min_isr <= 1 ? 0 : kept;
        e.isr[0] = n.leader;
        e.isr_count = 1;
    }
    if (unclean) {
        image_set_unclean_elections(s->after, image_unclean_elections(s->after) + 1);
        /* With one replica there is nothing to settle with others. */
        n.leader_recovery = p->replica_count > 1 ? LEADER_RECOVERING : LEADER_RECOVERED;
    } else if (c->recovery >= 0) {
        n.leader_recovery = (uint8_t)c->recovery;
    }
    e.last_known = last_known_leader(p, &e, n.leader);
    n.isr = e.isr;
    n.isr_count = e.isr_count;
    n.elr = e.elr;
    n.elr_count = e.elr_count;
    n.last_known_elr = &e.last_known;
    n.last_known_elr_count = e.last_known >= 0 ? 1 : 0;
    if (n.leader == p->leader && !unclean && n.leader_recovery == p->leader_recovery &&
        same(n.isr, n.isr_count, p->isr, p->isr_count) &&
        same(n.elr, n.elr_count, p->elr, p->elr_count) &&
        same(n.last_known_elr, n.last_known_elr_count, p->last_known_elr, p->last_known_elr_count))
        return false;
    if (n.leader != p->leader || unclean)
        n.leader_epoch++;
    partition_store(s, &t->id, partition, &n);
    return true;
}

void topic_recompute_min_isr(struct fsm_step *s, struct str topic)
{
    const struct topic_image *t = image_topic(s->after, topic);
    struct uuid id;
    int32_t count;

    if (t == NULL)
        return;
    id = t->id;
    count = t->partition_count;
    for (int32_t i = 0; i < count; i++) {
        const struct partition_image *p = topic_partition(image_topic_by_id(s->after, &id), i);
        int16_t effective = effective_min_isr(s->after, topic, p->replica_count);
        struct partition_image n = *p;

        if (effective == p->effective_min_isr)
            continue;
        n.effective_min_isr = effective;
        /* H6: under the new value a leader may acknowledge what an ELR member has not got. While
         * there is no leader nobody acknowledges, and the members stay the only safe choice. */
        if (n.leader >= 0)
            n.elr_count = 0;
        partition_store(s, &id, i, &n);
    }
}

/* ---- the commands ---- */

/* The partition that a command names; fills the item's error when there is none. */
static const struct topic_image *find_partition(const struct fsm_step *s,
                                                const ProtobufCBinaryData *id, int32_t partition,
                                                MetaItemOutcome *item)
{
    const struct topic_image *t = NULL;
    struct uuid uuid;

    item->partition = partition;
    if (proto_uuid(id, &uuid)) {
        proto_set_bytes(&item->topic_id, uuid.b, sizeof uuid.b);
        t = image_topic_by_id(s->after, &uuid);
    }
    if (t == NULL) {
        item_set(item, ERR_UNKNOWN_TOPIC_ID, NULL);
        return NULL;
    }
    proto_set_str(&item->name, t->name);
    if (topic_partition(t, partition) == NULL) {
        item_set(item, ERR_UNKNOWN_TOPIC_OR_PARTITION, NULL);
        return NULL;
    }
    return t;
}

static void describe_partition(const struct partition_image *p, MetaItemOutcome *item)
{
    item->leader = p->leader;
    item->leader_epoch = p->leader_epoch;
    item->partition_epoch = p->partition_epoch;
    item->leader_recovery = p->leader_recovery;
    item->isr = xcalloc((size_t)p->isr_count + 1, sizeof *item->isr);
    item->n_isr = (size_t)p->isr_count;
    for (int16_t i = 0; i < p->isr_count; i++)
        item->isr[i] = p->isr[i];
}

/* The ISR that a leader proposes: shape first, then each member's standing [H5, KIP-903]. */
static enum err check_proposed_isr(const struct fsm_step *s, const struct partition_image *p,
                                   const MetaPartitionChange__Item *c)
{
    if (c->n_isr == 0 || c->n_isr > (size_t)p->replica_count)
        return ERR_INVALID_REQUEST;
    if (p->leader_recovery == LEADER_RECOVERING && c->n_isr > 1 &&
        !(c->has_leader_recovery && c->leader_recovery == LEADER_RECOVERED))
        return ERR_INVALID_REQUEST;
    for (size_t i = 0; i < c->n_isr; i++) {
        if (!contains(p->replicas, p->replica_count, c->isr[i]->node))
            return ERR_INVALID_REQUEST;
        for (size_t k = 0; k < i; k++) {
            if (c->isr[k]->node == c->isr[i]->node)
                return ERR_INVALID_REQUEST;
        }
    }
    for (size_t i = 0; i < c->n_isr; i++) {
        const struct broker_image *b = image_broker(s->after, c->isr[i]->node);

        if (!replica_is_live(s->after, p, c->isr[i]->node) ||
            (c->isr[i]->broker_epoch != -1 && c->isr[i]->broker_epoch != b->epoch))
            return ERR_INELIGIBLE_REPLICA;
    }
    return ERR_NONE;
}

static enum err check_change(const struct fsm_step *s, const MetaPartitionChange *c,
                             const MetaPartitionChange__Item *item, const struct partition_image *p)
{
    bool has_leader = false;

    if (item->expected_leader_epoch > p->leader_epoch)
        return ERR_NOT_CONTROLLER; /* the proposer knows more than we do: it must ask again */
    if (item->expected_leader_epoch < p->leader_epoch || item->expected_leader != p->leader)
        return ERR_FENCED_LEADER_EPOCH;
    if (c->node >= 0 && c->node != p->leader)
        return ERR_INVALID_REQUEST;
    if (item->expected_partition_epoch > p->partition_epoch)
        return ERR_NOT_CONTROLLER;
    if (item->expected_partition_epoch < p->partition_epoch)
        return ERR_INVALID_UPDATE_VERSION;
    if (item->has_leader_recovery &&
        (item->leader_recovery < LEADER_RECOVERED || item->leader_recovery > p->leader_recovery))
        return ERR_INVALID_REQUEST;
    if (item->has_isr) {
        enum err e = check_proposed_isr(s, p, item);

        if (e != ERR_NONE)
            return e;
        for (size_t i = 0; i < item->n_isr; i++)
            has_leader = has_leader || item->isr[i]->node == p->leader;
        if (c->node >= 0 && !has_leader)
            return ERR_INVALID_REQUEST;
    }
    if (item->has_leader && !replica_is_live(s->after, p, item->leader))
        return ERR_INELIGIBLE_REPLICA;
    return ERR_NONE;
}

static void change_partition(struct fsm_step *s, const MetaPartitionChange *c,
                             const MetaPartitionChange__Item *in, MetaItemOutcome *item)
{
    const struct topic_image *t = find_partition(s, &in->topic_id, in->partition, item);
    struct replica_change change = REPLICA_CHANGE_NONE;
    int32_t isr[REPLICAS_MAX];
    enum err e;

    if (t == NULL)
        return;
    e = check_change(s, c, in, topic_partition(t, in->partition));
    if (e != ERR_NONE) {
        item_set(item, e, NULL);
        describe_partition(topic_partition(t, in->partition), item);
        return;
    }
    if (in->has_isr) {
        for (size_t i = 0; i < in->n_isr; i++)
            isr[i] = in->isr[i]->node;
        change.isr = isr;
        change.isr_count = (int16_t)in->n_isr;
    }
    if (in->has_leader)
        change.leader = in->leader;
    if (in->has_leader_recovery)
        change.recovery = (int8_t)in->leader_recovery;

    struct uuid id = t->id;

    (void)partition_apply(s, t, in->partition, &change);
    t = image_topic_by_id(s->after, &id);
    describe_partition(topic_partition(t, in->partition), item);
}

MetaOutcome *fsm_partition_change(struct fsm_step *s, const MetaPartitionChange *c)
{
    MetaOutcome *o = c->node >= 0 ? check_broker_epoch(s, c->node, c->broker_epoch) : NULL;

    if (o != NULL)
        return o;
    o = outcome_new(ERR_NONE, NULL);
    outcome_set_items(o, c->n_items);
    for (size_t i = 0; i < c->n_items; i++)
        change_partition(s, c, c->items[i], o->items[i]);
    return o;
}

MetaOutcome *fsm_replica_offline(struct fsm_step *s, const MetaReplicaOffline *c)
{
    MetaOutcome *o = check_broker_epoch(s, c->node, c->broker_epoch);

    if (o != NULL)
        return o;
    o = outcome_new(ERR_NONE, NULL);
    outcome_set_items(o, c->n_replicas);
    for (size_t i = 0; i < c->n_replicas; i++) {
        int32_t partition = c->replicas[i]->partition, offline[REPLICAS_MAX];
        struct replica_change change = REPLICA_CHANGE_NONE;
        const struct topic_image *t =
            find_partition(s, &c->replicas[i]->topic_id, partition, o->items[i]);
        struct partition_image n;

        if (t == NULL)
            continue;
        n = *topic_partition(t, partition);
        if (!contains(n.replicas, n.replica_count, c->node)) {
            item_set(o->items[i], ERR_REPLICA_NOT_AVAILABLE, NULL);
            continue;
        }
        if (contains(n.offline, n.offline_count, c->node))
            continue;
        if (n.offline_count > 0)
            memcpy(offline, n.offline, (size_t)n.offline_count * sizeof *offline);
        offline[n.offline_count++] = c->node;
        n.offline = offline;

        struct uuid id = t->id;

        partition_store(s, &id, partition, &n);
        change.lost = c->node;
        (void)partition_apply(s, image_topic_by_id(s->after, &id), partition, &change);
    }
    return o;
}

/* Takes the node out of the offline list; true when it was in it. */
static bool forget_offline(struct fsm_step *s, const struct uuid *id, int32_t partition,
                           int32_t node)
{
    struct partition_image n = *topic_partition(image_topic_by_id(s->after, id), partition);
    int32_t offline[REPLICAS_MAX];
    int16_t kept = 0;

    if (!contains(n.offline, n.offline_count, node))
        return false;
    for (int16_t i = 0; i < n.offline_count; i++) {
        if (n.offline[i] != node)
            offline[kept++] = n.offline[i];
    }
    n.offline = offline;
    n.offline_count = kept;
    partition_store(s, id, partition, &n);
    return true;
}

MetaOutcome *fsm_replica_online(struct fsm_step *s, const MetaReplicaOnline *c)
{
    MetaOutcome *o = check_broker_epoch(s, c->node, c->broker_epoch);

    if (o != NULL)
        return o;
    o = outcome_new(ERR_NONE, NULL);
    outcome_set_items(o, c->n_replicas);
    for (size_t i = 0; i < c->n_replicas; i++) {
        int32_t partition = c->replicas[i]->partition;
        const struct topic_image *t =
            find_partition(s, &c->replicas[i]->topic_id, partition, o->items[i]);

        if (t == NULL)
            continue;

        struct uuid id = t->id;

        if (forget_offline(s, &id, partition, c->node))
            (void)partition_apply(s, image_topic_by_id(s->after, &id), partition,
                                  &REPLICA_CHANGE_NONE);
    }
    return o;
}

MetaOutcome *fsm_assign_directories(struct fsm_step *s, const MetaAssignDirectories *c)
{
    MetaOutcome *o = check_broker_epoch(s, c->node, c->broker_epoch);

    if (o != NULL)
        return o;
    o = outcome_new(ERR_NONE, NULL);
    outcome_set_items(o, c->n_items);
    for (size_t i = 0; i < c->n_items; i++) {
        const MetaAssignDirectories__Item *in = c->items[i];
        const struct topic_image *t = find_partition(s, &in->topic_id, in->partition, o->items[i]);
        struct uuid directories[REPLICAS_MAX], directory, id;
        struct partition_image n;
        int16_t at = 0;

        if (t == NULL)
            continue;
        id = t->id;
        n = *topic_partition(t, in->partition);
        while (at < n.replica_count && n.replicas[at] != c->node)
            at++;
        if (at == n.replica_count || !proto_uuid(&in->directory, &directory)) {
            item_set(o->items[i], ERR_NOT_LEADER_OR_FOLLOWER, NULL);
            continue;
        }
        if (uuid_eq(&n.directories[at], &directory))
            continue;
        memcpy(directories, n.directories, (size_t)n.replica_count * sizeof *directories);
        directories[at] = directory;
        n.directories = directories;
        partition_store(s, &id, in->partition, &n);
        /* A replica in a directory that its node has not got cannot lead. */
        (void)partition_apply(s, image_topic_by_id(s->after, &id), in->partition,
                              &REPLICA_CHANGE_NONE);
    }
    return o;
}

static void elect_leader(struct fsm_step *s, bool unclean, const MetaElectLeaders__Item *in,
                         MetaItemOutcome *item)
{
    const struct topic_image *t = find_partition(s, &in->topic_id, in->partition, item);
    struct replica_change change = REPLICA_CHANGE_NONE;
    const struct partition_image *p;
    struct uuid id;
    int32_t wanted;

    if (t == NULL)
        return;
    id = t->id;
    p = topic_partition(t, in->partition);
    wanted = p->replicas[0];
    if (unclean ? p->leader >= 0 : p->leader == wanted) {
        item_set(item, ERR_ELECTION_NOT_NEEDED, NULL);
        return;
    }
    change.prefer_first = !unclean;
    change.allow_unclean = unclean;
    (void)partition_apply(s, t, in->partition, &change);
    p = topic_partition(image_topic_by_id(s->after, &id), in->partition);
    if (!unclean && p->leader != wanted)
        item_set(item, ERR_PREFERRED_LEADER_NOT_AVAILABLE, NULL);
    else if (unclean && p->leader < 0)
        item_set(item, ERR_ELIGIBLE_LEADERS_NOT_AVAILABLE, NULL);
    describe_partition(p, item);
}

MetaOutcome *fsm_elect_leaders(struct fsm_step *s, const MetaElectLeaders *c)
{
    MetaOutcome *o;

    if (c->election_type != 0 && c->election_type != 1)
        return outcome_new(ERR_INVALID_REQUEST, "Unknown election type %d", c->election_type);
    o = outcome_new(ERR_NONE, NULL);
    outcome_set_items(o, c->n_items);
    for (size_t i = 0; i < c->n_items; i++)
        elect_leader(s, c->election_type == 1, c->items[i], o->items[i]);
    return o;
}
