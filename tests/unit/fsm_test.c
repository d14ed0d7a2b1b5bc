/* The state machine: Kafka's answers, leaders and ISR/ELR through lives and deaths of nodes. */
#include "meta_fixture.h"

#include <stdio.h>

/* The members of p's list, in order: assert_ids(p, isr, 1, 2). */
#define assert_ids(p, list, ...)                                                                   \
    do {                                                                                           \
        const int32_t expected_[] = {__VA_ARGS__};                                                 \
        const struct partition_image *p_ = (p);                                                    \
        assert_int_equal(p_->list##_count, ARRAY_COUNT(expected_));                                \
        assert_memory_equal(p_->list, expected_, sizeof expected_);                                \
    } while (0)

static int one_node(void **state)
{
    *state = meta_new(1);
    return 0;
}

static int three_nodes(void **state)
{
    *state = meta_new(3);
    return 0;
}

static int teardown(void **state)
{
    meta_free(*state);
    return 0;
}

/* Topic `t` with one partition on nodes 1, 2, 3; min.insync.replicas is 2. */
static void create_on_three(struct meta *m)
{
    MetaCommand *c = create_topic("t", -1, -1);

    add_manual(c, 0, 3, 1, 2, 3);
    assert_int_equal(meta_do(m, c), ERR_NONE);
}

/* ---- creation ---- */

static void topic_is_created(void **state)
{
    struct meta *m = *state;
    const struct partition_image *p;

    assert_int_equal(meta_do(m, create_topic("t", 3, 1)), ERR_NONE);
    assert_int_equal(m->topics_changed, 1);
    assert_int_equal(m->outcome->items[0]->partition_count, 3);
    assert_int_equal(m->outcome->items[0]->replication_factor, 1);
    assert_int_equal(m->outcome->items[0]->topic_id.len, 16);
    assert_int_equal(image_topic_count(m->image), 1);
    assert_int_equal(image_partition_count(m->image), 3);
    p = partition_of(m, "t", 2);
    assert_int_equal(p->leader, 1);
    assert_int_equal(p->leader_epoch, 0);
    assert_int_equal(p->effective_min_isr, 1); /* never more than the replication factor */
    assert_ids(p, isr, 1);
    /* Where the node has one directory, the replica lives there. */
    assert_true(uuid_eq(&p->directories[0], &image_broker(m->image, 1)->directories[0]));
}

static void defaults_are_filled_in(void **state)
{
    struct meta *m = *state;
    MetaCommand *c = create_topic("a", -1, -1);

    c->create_topics->default_num_partitions = 4;
    c->create_topics->default_replication_factor = 2;
    assert_int_equal(meta_do(m, c), ERR_NONE);
    assert_int_equal(m->outcome->items[0]->partition_count, 4);
    assert_int_equal(m->outcome->items[0]->replication_factor, 2);
    /* Without any: one partition, and as many replicas as there are nodes, at most 3. */
    assert_int_equal(meta_do(m, create_topic("b", -1, -1)), ERR_NONE);
    assert_int_equal(m->outcome->items[0]->partition_count, 1);
    assert_int_equal(m->outcome->items[0]->replication_factor, 3);
}

static void check_refusal(struct meta *m, MetaCommand *c, enum err e, const char *message)
{
    assert_int_equal(meta_do(m, c), e);
    assert_string_equal(meta_message(m), message);
    assert_int_equal(m->topics_changed, 0);
}

static void bad_names_are_refused(void **state)
{
    struct meta *m = *state;
    char longest[251];

    check_refusal(m, create_topic("", 1, 1), ERR_INVALID_TOPIC_EXCEPTION,
                  "Topic name is invalid: the empty string is not allowed");
    check_refusal(m, create_topic("..", 1, 1), ERR_INVALID_TOPIC_EXCEPTION,
                  "Topic name is invalid: '..' is not allowed");
    check_refusal(m, create_topic("a b", 1, 1), ERR_INVALID_TOPIC_EXCEPTION,
                  "Topic name is invalid: 'a b' contains one or more characters other than ASCII "
                  "alphanumerics, '.', '_' and '-'");
    memset(longest, 'x', 250);
    longest[250] = 0;
    assert_int_equal(meta_do(m, create_topic(longest, 1, 1)), ERR_INVALID_TOPIC_EXCEPTION);
    longest[249] = 0;
    assert_int_equal(meta_do(m, create_topic(longest, 1, 1)), ERR_NONE);
    assert_int_equal(meta_do(m, create_topic("a.b_c", 1, 1)), ERR_NONE);
    check_refusal(m, create_topic("a.b_c", 1, 1), ERR_TOPIC_ALREADY_EXISTS,
                  "Topic 'a.b_c' already exists.");
    check_refusal(m, create_topic("a_b.c", 1, 1), ERR_INVALID_TOPIC_EXCEPTION,
                  "Topic 'a_b.c' collides with existing topic: a.b_c");
    assert_int_equal(meta_do(m, delete_topic("a.b_c")), ERR_NONE);
    assert_int_equal(meta_do(m, create_topic("a_b.c", 1, 1)), ERR_NONE);
    assert_int_equal(meta_do(m, create_topic("__cluster_metadata", 1, 1)), ERR_INVALID_REQUEST);
}

static void bad_counts_are_refused(void **state)
{
    struct meta *m = *state;

    check_refusal(m, create_topic("t", 0, 1), ERR_INVALID_PARTITIONS,
                  "Number of partitions was set to an invalid non-positive value.");
    check_refusal(m, create_topic("t", 1, 0), ERR_INVALID_REPLICATION_FACTOR,
                  "Replication factor must be larger than 0, or -1 to use the default value.");
    check_refusal(m, create_topic("t", 1, 3), ERR_INVALID_REPLICATION_FACTOR,
                  "Unable to replicate the partition 3 time(s): The target replication factor of "
                  "3 cannot be reached because only 1 broker(s) are registered or some brokers "
                  "have all their log directories cordoned.");
    check_refusal(m, create_topic("t", 10001, 1), ERR_POLICY_VIOLATION,
                  "Excessively large number of partitions per request.");
    check_refusal(m, create_topic("t", INT32_MAX, INT32_MAX), ERR_POLICY_VIOLATION,
                  "Excessively large number of partitions per request.");
}

static void bad_assignments_are_refused(void **state)
{
    struct meta *m = *state;
    MetaCommand *c = create_topic("t", -1, 1);

    add_manual(c, 0, 1, 1);
    check_refusal(m, c, ERR_INVALID_REQUEST,
                  "A manual partition assignment was specified, but replication factor was not "
                  "set to -1.");
    c = create_topic("t", -1, -1);
    add_manual(c, 0, 2, 1, 9);
    check_refusal(m, c, ERR_INVALID_REPLICA_ASSIGNMENT,
                  "The manual partition assignment includes broker 9, but no such broker is "
                  "registered.");
    c = create_topic("t", -1, -1);
    add_manual(c, 0, 2, 1, 1);
    check_refusal(m, c, ERR_INVALID_REPLICA_ASSIGNMENT,
                  "The manual partition assignment includes the broker 1 more than once.");
    c = create_topic("t", -1, -1);
    add_manual(c, 0, 0);
    check_refusal(m, c, ERR_INVALID_REPLICA_ASSIGNMENT,
                  "The manual partition assignment includes an empty replica list.");
    c = create_topic("t", -1, -1);
    add_manual(c, 0, 1, 1);
    add_manual(c, 2, 1, 1);
    check_refusal(m, c, ERR_INVALID_REPLICA_ASSIGNMENT,
                  "partitions should be a consecutive 0-based integer sequence");
    c = create_topic("t", -1, -1);
    add_manual(c, 0, 1, 1);
    add_manual(c, 0, 1, 2);
    check_refusal(m, c, ERR_INVALID_REPLICA_ASSIGNMENT,
                  "Found multiple manual partition assignments for partition 0");
    c = create_topic("t", -1, -1);
    add_manual(c, 0, 1, 1);
    add_manual(c, 1, 2, 1, 2);
    check_refusal(m, c, ERR_INVALID_REPLICA_ASSIGNMENT,
                  "The manual partition assignment includes a partition with 2 replica(s), but "
                  "this is not consistent with previous partitions, which have 1 replica(s).");
    assert_int_equal(meta_do(m, fence(m, 2)), ERR_NONE);
    c = create_topic("t", -1, -1);
    add_manual(c, 0, 1, 2);
    check_refusal(m, c, ERR_INVALID_REPLICA_ASSIGNMENT,
                  "All brokers specified in the manual partition assignment for partition 0 are "
                  "fenced or in controlled shutdown.");
}

/* A manual assignment may come in any order of partitions. */
static void manual_order_does_not_matter(void **state)
{
    struct meta *m = *state;
    MetaCommand *c = create_topic("t", -1, -1);

    add_manual(c, 1, 2, 2, 3);
    add_manual(c, 0, 2, 1, 2);
    assert_int_equal(meta_do(m, c), ERR_NONE);
    assert_int_equal(partition_of(m, "t", 0)->replicas[0], 1);
    assert_int_equal(partition_of(m, "t", 1)->replicas[0], 2);
    assert_ids(partition_of(m, "t", 1), isr, 2, 3);
}

/* ---- growing and deleting ---- */

static void partitions_are_added(void **state)
{
    struct meta *m = *state;

    assert_int_equal(meta_do(m, create_topic("t", 2, 2)), ERR_NONE);

    struct uuid id = image_topic(m->image, STR_LIT("t"))->id;

    assert_int_equal(meta_do(m, create_partitions("t", 130)), ERR_NONE);
    assert_int_equal(image_topic(m->image, STR_LIT("t"))->partition_count, 130);
    assert_true(uuid_eq(&id, &image_topic(m->image, STR_LIT("t"))->id));
    assert_int_equal(partition_of(m, "t", 129)->replica_count, 2);
    check_refusal(m, create_partitions("t", 130), ERR_INVALID_PARTITIONS,
                  "Topic already has 130 partition(s).");
    check_refusal(m, create_partitions("t", 5), ERR_INVALID_PARTITIONS,
                  "The topic t currently has 130 partition(s); 5 would not be an increase.");
    check_refusal(m, create_partitions("none", 5), ERR_UNKNOWN_TOPIC_OR_PARTITION,
                  "This server does not host this topic-partition.");
}

/* A topic of the same name later is another topic: other id, no configs of the old one [H19]. */
static void deletion_leaves_nothing(void **state)
{
    struct meta *m = *state;
    char value[16];

    assert_int_equal(meta_do(m, create_topic("t", 1, 1)), ERR_NONE);

    struct uuid old = image_topic(m->image, STR_LIT("t"))->id;

    assert_int_equal(
        meta_do(m, set_config(CONFIG_TOPIC, "t", "retention.ms", META_SET_CONFIGS__OP__SET, "5")),
        ERR_NONE);
    assert_int_equal(meta_do(m, delete_topic("t")), ERR_NONE);
    assert_int_equal(image_topic_count(m->image), 0);
    assert_int_equal(image_partition_count(m->image), 0);
    assert_null(image_topic_by_id(m->image, &old));
    assert_int_equal(meta_do(m, create_topic("t", 1, 1)), ERR_NONE);
    assert_false(uuid_eq(&old, &image_topic(m->image, STR_LIT("t"))->id));
    assert_null(config_of(m, CONFIG_TOPIC, "t", "retention.ms", value, sizeof value));
    check_refusal(m, delete_topic("none"), ERR_UNKNOWN_TOPIC_OR_PARTITION,
                  "This server does not host this topic-partition.");
}

/* ---- leaders, ISR, ELR ---- */

static void leader_moves_when_its_node_is_fenced(void **state)
{
    struct meta *m = *state;
    const struct partition_image *p;

    create_on_three(m);
    assert_int_equal(meta_do(m, fence(m, 1)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->leader, 2);
    assert_int_equal(p->leader_epoch, 1);
    assert_ids(p, isr, 2, 3);
    assert_int_equal(p->elr_count, 0);
    /* Back again it does not take the lead, nor is it in sync before it has caught up. */
    assert_int_equal(meta_do(m, unfence(m, 1)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->leader, 2);
    assert_int_equal(p->leader_epoch, 1);
    assert_ids(p, isr, 2, 3);
}

/* Below the min ISR who leaves stays eligible, and leads when nobody of the ISR is left. */
static void elr_keeps_those_who_leave_below_min_isr(void **state)
{
    struct meta *m = *state;
    const struct partition_image *p;

    create_on_three(m);
    assert_int_equal(meta_do(m, fence(m, 1)), ERR_NONE);
    assert_int_equal(meta_do(m, fence(m, 2)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->leader, 3);
    assert_ids(p, isr, 3);
    assert_ids(p, elr, 2);
    assert_int_equal(meta_do(m, fence(m, 3)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->leader, -1);
    assert_int_equal(p->isr_count, 0);
    assert_ids(p, elr, 2, 3);
    assert_ids(p, last_known_elr, 3);
    /* 1 left while the others went on: it may not lead. */
    assert_int_equal(meta_do(m, unfence(m, 1)), ERR_NONE);
    assert_int_equal(partition_of(m, "t", 0)->leader, -1);
    assert_int_equal(meta_do(m, unfence(m, 2)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->leader, 2);
    assert_ids(p, isr, 2);
    assert_ids(p, elr, 3);
    assert_int_equal(p->last_known_elr_count, 0);
    assert_int_equal(image_unclean_elections(m->image), 0);
}

/* A change of the min ISR recomputes the effective one and ends ELR, with a new partition epoch
 * [H6]. */
static void min_isr_change_ends_elr(void **state)
{
    struct meta *m = *state;
    const struct partition_image *p;
    int32_t epoch;

    create_on_three(m);
    assert_int_equal(meta_do(m, fence(m, 1)), ERR_NONE);
    assert_int_equal(meta_do(m, fence(m, 2)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_ids(p, elr, 2);
    epoch = p->partition_epoch;
    assert_int_equal(meta_do(m, set_config(CONFIG_TOPIC, "t", "min.insync.replicas",
                                           META_SET_CONFIGS__OP__SET, "1")),
                     ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->effective_min_isr, 1);
    assert_int_equal(p->elr_count, 0);
    assert_int_equal(p->partition_epoch, epoch + 1);
    /* Back to the cluster's value, and then another value for the cluster. */
    assert_int_equal(meta_do(m, set_config(CONFIG_TOPIC, "t", "min.insync.replicas",
                                           META_SET_CONFIGS__OP__DELETE, "")),
                     ERR_NONE);
    assert_int_equal(partition_of(m, "t", 0)->effective_min_isr, 2);
    assert_int_equal(meta_do(m, set_config(CONFIG_BROKER, "", "min.insync.replicas",
                                           META_SET_CONFIGS__OP__SET, "3")),
                     ERR_NONE);
    assert_int_equal(partition_of(m, "t", 0)->effective_min_isr, 3);
    check_refusal(
        m, set_config(CONFIG_BROKER, "", "min.insync.replicas", META_SET_CONFIGS__OP__DELETE, ""),
        ERR_INVALID_CONFIG,
        "Cluster-level min.insync.replicas cannot be removed while ELR is enabled.");
    check_refusal(
        m, set_config(CONFIG_BROKER, "1", "min.insync.replicas", META_SET_CONFIGS__OP__SET, "1"),
        ERR_INVALID_CONFIG,
        "Broker-level min.insync.replicas cannot be altered while ELR is enabled.");
}

/* One node, one replica: a restart leads again at once, with a new leader epoch [H3, H21b]. */
static void single_replica_leads_after_restart(void **state)
{
    struct meta *m = *state;
    const struct partition_image *p;

    assert_int_equal(meta_do(m, create_topic("t", 1, 1)), ERR_NONE);
    assert_int_equal(meta_do(m, register_broker(1, 2)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->leader, -1);
    assert_ids(p, elr, 1);
    assert_int_equal(meta_do(m, unfence(m, 1)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->leader, 1);
    assert_int_equal(p->leader_epoch, 2);
    assert_ids(p, isr, 1);
    assert_int_equal(p->elr_count, 0);
    assert_int_equal(image_unclean_elections(m->image), 0);
}

/* ...also when it may have lost its page cache; then the election is counted. */
static void suspect_single_replica_leads_and_is_counted(void **state)
{
    struct meta *m = *state;
    MetaCommand *c = register_broker(1, 2);
    const struct partition_image *p;

    assert_int_equal(meta_do(m, create_topic("t", 1, 1)), ERR_NONE);
    c->register_broker->suspect_directories = xcalloc(1, sizeof(ProtobufCBinaryData));
    c->register_broker->suspect_directories[0] = binary_id(1, 1);
    c->register_broker->n_suspect_directories = 1;
    assert_int_equal(meta_do(m, c), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->elr_count, 0);
    assert_ids(p, last_known_elr, 1);
    assert_int_equal(meta_do(m, unfence(m, 1)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->leader, 1);
    assert_ids(p, isr, 1);
    assert_int_equal(p->leader_recovery, LEADER_RECOVERED);
    assert_int_equal(image_unclean_elections(m->image), 1);
}

/* A suspect replica of several leaves ISR and ELR, and does not lead by itself. */
static void suspect_replica_waits_for_others(void **state)
{
    struct meta *m = *state;
    MetaCommand *c;

    create_on_three(m);
    assert_int_equal(meta_do(m, fence(m, 2)), ERR_NONE);
    assert_int_equal(meta_do(m, fence(m, 3)), ERR_NONE);
    c = register_broker(1, 2);
    c->register_broker->suspect_directories = xcalloc(1, sizeof(ProtobufCBinaryData));
    c->register_broker->suspect_directories[0] = binary_id(1, 1);
    c->register_broker->n_suspect_directories = 1;
    assert_int_equal(meta_do(m, c), ERR_NONE);
    assert_ids(partition_of(m, "t", 0), elr, 3);
    assert_int_equal(meta_do(m, unfence(m, 1)), ERR_NONE);
    assert_int_equal(partition_of(m, "t", 0)->leader, -1);
    assert_int_equal(meta_do(m, unfence(m, 3)), ERR_NONE);
    assert_int_equal(partition_of(m, "t", 0)->leader, 3);
}

static MetaCommand *partition_change(struct meta *m, int32_t node, int64_t epoch_2, int count, ...)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_PARTITION_CHANGE);
    MetaPartitionChange *b = xmalloc(sizeof *b);
    MetaPartitionChange__Item *i = xmalloc(sizeof *i);
    const struct topic_image *t = image_topic(m->image, STR_LIT("t"));
    const struct partition_image *p = topic_partition(t, 0);
    va_list ap;

    meta_partition_change__init(b);
    meta_partition_change__item__init(i);
    b->node = node;
    b->broker_epoch = image_broker(m->image, node)->epoch;
    b->items = xcalloc(1, sizeof *b->items);
    b->items[0] = i;
    b->n_items = 1;
    i->topic_id = binary(t->id.b, sizeof t->id.b);
    i->expected_leader = p->leader;
    i->expected_leader_epoch = p->leader_epoch;
    i->expected_partition_epoch = p->partition_epoch;
    i->has_isr = true;
    i->isr = xcalloc((size_t)count + 1, sizeof *i->isr);
    i->n_isr = (size_t)count;
    va_start(ap, count);
    for (int k = 0; k < count; k++) {
        i->isr[k] = xmalloc(sizeof **i->isr);
        meta_broker_epoch__init(i->isr[k]);
        i->isr[k]->node = va_arg(ap, int);
        i->isr[k]->broker_epoch = i->isr[k]->node == 2 ? epoch_2 : -1;
    }
    va_end(ap);
    c->partition_change = b;
    return c;
}

/* ISR proposals are fenced by leader, leader epoch, partition epoch and each member's broker
 * epoch [H5]. */
static void isr_proposals_are_fenced(void **state)
{
    struct meta *m = *state;
    MetaCommand *stale;
    int64_t epoch_2 = image_broker(m->image, 2)->epoch;

    create_on_three(m);
    assert_int_equal(meta_do(m, partition_change(m, 1, -1, 1, 1)), ERR_NONE);
    assert_ids(partition_of(m, "t", 0), isr, 1);
    assert_ids(partition_of(m, "t", 0), elr, 2, 3);
    assert_int_equal(m->outcome->items[0]->partition_epoch, 1);

    stale = partition_change(m, 1, epoch_2, 2, 1, 2);
    stale->partition_change->items[0]->expected_partition_epoch = 0;
    assert_int_equal(meta_do(m, stale), ERR_INVALID_UPDATE_VERSION);
    assert_int_equal(m->outcome->items[0]->partition_epoch, 1); /* told what holds */
    stale = partition_change(m, 1, epoch_2, 2, 1, 2);
    stale->partition_change->items[0]->expected_leader_epoch = -1;
    assert_int_equal(meta_do(m, stale), ERR_FENCED_LEADER_EPOCH);
    stale = partition_change(m, 1, epoch_2, 2, 1, 2);
    stale->partition_change->broker_epoch--;
    assert_int_equal(meta_do(m, stale), ERR_STALE_BROKER_EPOCH);
    assert_int_equal(meta_do(m, partition_change(m, 2, -1, 2, 1, 2)), ERR_INVALID_REQUEST);
    assert_int_equal(meta_do(m, partition_change(m, 1, -1, 1, 3)), ERR_INVALID_REQUEST);
    assert_int_equal(meta_do(m, partition_change(m, 1, -1, 2, 1, 9)), ERR_INVALID_REQUEST);
    assert_int_equal(meta_do(m, partition_change(m, 1, -1, 2, 1, 1)), ERR_INVALID_REQUEST);

    /* KIP-903: node 2 restarts; a proposal that saw its old life is refused, a new one is not. */
    assert_int_equal(meta_do(m, register_broker(2, 2)), ERR_NONE);
    assert_int_equal(meta_do(m, unfence(m, 2)), ERR_NONE);
    assert_int_equal(meta_do(m, partition_change(m, 1, epoch_2, 2, 1, 2)), ERR_INELIGIBLE_REPLICA);
    assert_int_equal(meta_do(m, partition_change(m, 1, image_broker(m->image, 2)->epoch, 2, 1, 2)),
                     ERR_NONE);
    assert_ids(partition_of(m, "t", 0), isr, 1, 2);
    assert_int_equal(partition_of(m, "t", 0)->elr_count, 0);
    assert_int_equal(meta_do(m, fence(m, 3)), ERR_NONE);
    assert_int_equal(meta_do(m, partition_change(m, 1, -1, 3, 1, 2, 3)), ERR_INELIGIBLE_REPLICA);
}

static MetaCommand *replica_offline(struct meta *m, int32_t node, bool offline)
{
    MetaCommand *c = command_new(offline ? META_COMMAND__BODY_REPLICA_OFFLINE
                                         : META_COMMAND__BODY_REPLICA_ONLINE);
    const struct topic_image *t = image_topic(m->image, STR_LIT("t"));
    MetaPartitionRef **refs = xcalloc(1, sizeof *refs);

    refs[0] = xmalloc(sizeof **refs);
    meta_partition_ref__init(refs[0]);
    refs[0]->topic_id = binary(t->id.b, sizeof t->id.b);
    if (offline) {
        c->replica_offline = xmalloc(sizeof *c->replica_offline);
        meta_replica_offline__init(c->replica_offline);
        c->replica_offline->node = node;
        c->replica_offline->broker_epoch = image_broker(m->image, node)->epoch;
        c->replica_offline->replicas = refs;
        c->replica_offline->n_replicas = 1;
    } else {
        c->replica_online = xmalloc(sizeof *c->replica_online);
        meta_replica_online__init(c->replica_online);
        c->replica_online->node = node;
        c->replica_online->broker_epoch = image_broker(m->image, node)->epoch;
        c->replica_online->replicas = refs;
        c->replica_online->n_replicas = 1;
    }
    return c;
}

/* A replica that cannot be read leaves ISR and ELR, the leader moves, and it is eligible again
 * only when it says so [H8]. */
static void offline_replica_leaves(void **state)
{
    struct meta *m = *state;
    const struct partition_image *p;

    create_on_three(m);
    assert_int_equal(meta_do(m, replica_offline(m, 1, true)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->leader, 2);
    assert_ids(p, isr, 2, 3);
    assert_ids(p, offline, 1);
    assert_int_equal(meta_do(m, partition_change(m, 2, image_broker(m->image, 2)->epoch, 2, 2, 1)),
                     ERR_INELIGIBLE_REPLICA);
    assert_int_equal(meta_do(m, replica_offline(m, 1, false)), ERR_NONE);
    p = partition_of(m, "t", 0);
    assert_int_equal(p->offline_count, 0);
    assert_ids(p, isr, 2, 3); /* with an empty claim */
}

/* ---- registrations ---- */

static void other_directory_needs_the_session_to_be_over(void **state)
{
    struct meta *m = *state;
    MetaCommand *c = register_broker(1, 2);

    free(c->register_broker->metadata_directory.data);
    c->register_broker->metadata_directory = binary_id(77, 77);
    assert_int_equal(meta_do(m, c), ERR_DUPLICATE_BROKER_REGISTRATION);
    assert_int_equal(meta_do(m, fence(m, 1)), ERR_NONE);
    c = register_broker(1, 2);
    free(c->register_broker->metadata_directory.data);
    c->register_broker->metadata_directory = binary_id(77, 77);
    assert_int_equal(meta_do(m, c), ERR_NONE);
}

static void registration_is_checked(void **state)
{
    struct meta *m = *state;
    MetaCommand *c = register_broker(2, 1);
    int64_t epoch;

    c->register_broker->cluster_id = xstrdup("another");
    check_refusal(m, c, ERR_INCONSISTENT_CLUSTER_ID,
                  "Expected cluster ID cluster, but got cluster ID another");
    c = register_broker(2, 1);
    free(c->register_broker->directories[0].data);
    c->register_broker->directories[0] = binary_id(1, 1);
    assert_int_equal(meta_do(m, c), ERR_INVALID_REGISTRATION);
    /* The same incarnation again amends its registration and keeps its epoch. */
    epoch = image_broker(m->image, 1)->epoch;
    c = register_broker(1, 1);
    c->register_broker->rack = xstrdup("r1");
    assert_int_equal(meta_do(m, c), ERR_NONE);
    assert_int_equal(m->outcome->value, epoch);
    assert_true(str_eq_lit(image_broker(m->image, 1)->rack, "r1"));
    assert_false(image_broker(m->image, 1)->fenced);
}

static MetaCommand *unregister(int32_t node)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_UNREGISTER_BROKER);

    c->unregister_broker = xmalloc(sizeof *c->unregister_broker);
    meta_unregister_broker__init(c->unregister_broker);
    c->unregister_broker->node = node;
    return c;
}

/* A voter and a member of an ISR stay; others may go [H42]. */
static void unregistering_is_refused_while_needed(void **state)
{
    struct meta *m = *state;

    create_on_three(m);
    assert_int_equal(meta_do(m, unregister(1)), ERR_INVALID_REQUEST);
    assert_int_equal(meta_do(m, unregister(3)), ERR_INVALID_REQUEST);
    assert_int_equal(meta_do(m, fence(m, 3)), ERR_NONE);
    assert_int_equal(meta_do(m, unregister(3)), ERR_NONE);
    assert_null(image_broker(m->image, 3));
    check_refusal(m, unregister(3), ERR_BROKER_ID_NOT_REGISTERED,
                  "Broker ID 3 is not currently registered");
}

/* ---- lanes, time, configs, ids ---- */

static MetaCommand *in_lane(struct meta *m, MetaCommand *c, uint32_t lane, uint64_t seq)
{
    c->node = 1;
    c->broker_epoch = image_broker(m->image, 1)->epoch;
    c->lane = lane;
    c->seq = seq;
    return c;
}

/* A retry gets the first outcome and does nothing; an old duplicate can do nothing either [H13]. */
static void lanes_are_strictly_ordered(void **state)
{
    struct meta *m = *state;

    assert_int_equal(meta_do(m, in_lane(m, create_topic("a", 1, 1), 20, 1)), ERR_NONE);
    assert_int_equal(meta_do(m, in_lane(m, create_topic("a", 1, 1), 20, 1)), ERR_NONE);
    assert_int_equal(m->topics_changed, 0);
    assert_int_equal(m->outcome->items[0]->topic_id.len, 16);
    assert_int_equal(meta_do(m, in_lane(m, create_topic("c", 1, 1), 20, 3)),
                     ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(meta_do(m, in_lane(m, delete_topic("a"), 20, 2)), ERR_NONE);
    assert_int_equal(meta_do(m, in_lane(m, create_topic("a", 1, 1), 20, 1)),
                     ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(image_topic_count(m->image), 0);
    /* Lanes do not know each other, and end with the registration. */
    assert_int_equal(meta_do(m, in_lane(m, create_topic("b", 1, 1), 21, 1)), ERR_NONE);

    MetaCommand *old = in_lane(m, delete_topic("b"), 21, 2);

    assert_int_equal(meta_do(m, register_broker(1, 2)), ERR_NONE);
    assert_null(image_lane(m->image, 1, 21));
    assert_int_equal(meta_do(m, old), ERR_STALE_BROKER_EPOCH);
}

/* Time in the state never goes back, whoever proposes [H40]. */
static void time_never_goes_back(void **state)
{
    struct meta *m = *state;

    m->now_ms = 5000;
    assert_int_equal(meta_do(m, create_topic("a", 1, 1)), ERR_NONE);
    m->now_ms = 10;
    assert_int_equal(meta_do(m, create_topic("b", 1, 1)), ERR_NONE);
    assert_int_equal(image_time_ms(m->image), 5000);
}

static void configs_are_changed(void **state)
{
    struct meta *m = *state;
    char value[64];

    assert_int_equal(meta_do(m, create_topic("t", 1, 1)), ERR_NONE);
    assert_int_equal(meta_do(m, set_config(CONFIG_TOPIC, "t", "cleanup.policy",
                                           META_SET_CONFIGS__OP__APPEND, "compact")),
                     ERR_NONE);
    assert_string_equal(config_of(m, CONFIG_TOPIC, "t", "cleanup.policy", value, sizeof value),
                        "compact");
    assert_int_equal(meta_do(m, set_config(CONFIG_TOPIC, "t", "cleanup.policy",
                                           META_SET_CONFIGS__OP__APPEND, "delete,compact")),
                     ERR_NONE);
    assert_string_equal(config_of(m, CONFIG_TOPIC, "t", "cleanup.policy", value, sizeof value),
                        "compact,delete");
    assert_int_equal(meta_do(m, set_config(CONFIG_TOPIC, "t", "cleanup.policy",
                                           META_SET_CONFIGS__OP__SUBTRACT, "compact")),
                     ERR_NONE);
    assert_string_equal(config_of(m, CONFIG_TOPIC, "t", "cleanup.policy", value, sizeof value),
                        "delete");
    assert_int_equal(meta_do(m, set_config(CONFIG_TOPIC, "t", "cleanup.policy",
                                           META_SET_CONFIGS__OP__DELETE, "")),
                     ERR_NONE);
    assert_null(config_of(m, CONFIG_TOPIC, "t", "cleanup.policy", value, sizeof value));
    check_refusal(
        m, set_config(CONFIG_TOPIC, "none", "cleanup.policy", META_SET_CONFIGS__OP__SET, "delete"),
        ERR_UNKNOWN_TOPIC_OR_PARTITION, "The topic 'none' does not exist.");
    check_refusal(m, set_config(CONFIG_BROKER, "9", "a", META_SET_CONFIGS__OP__SET, "b"),
                  ERR_BROKER_ID_NOT_REGISTERED, "No broker with id 9 found.");
}

/* APPEND to a key without a dynamic value starts from its default. */
static void append_starts_from_the_default(void **state)
{
    struct meta *m = *state;
    MetaCommand *c;
    char value[64];

    assert_int_equal(meta_do(m, create_topic("t", 1, 1)), ERR_NONE);
    c = set_config(CONFIG_TOPIC, "t", "cleanup.policy", META_SET_CONFIGS__OP__APPEND, "compact");
    c->set_configs->resources[0]->entries[0]->default_value = xstrdup("delete");
    assert_int_equal(meta_do(m, c), ERR_NONE);
    assert_string_equal(config_of(m, CONFIG_TOPIC, "t", "cleanup.policy", value, sizeof value),
                        "delete,compact");
}

/* Legacy AlterConfigs: what is not named goes back to its default. */
static void replace_all_removes_the_others(void **state)
{
    struct meta *m = *state;
    MetaCommand *c;
    char value[64];

    assert_int_equal(meta_do(m, create_topic("t", 1, 1)), ERR_NONE);
    assert_int_equal(meta_do(m, set_config(CONFIG_TOPIC, "t", "a", META_SET_CONFIGS__OP__SET, "1")),
                     ERR_NONE);
    assert_int_equal(meta_do(m, set_config(CONFIG_TOPIC, "t", "b", META_SET_CONFIGS__OP__SET, "2")),
                     ERR_NONE);
    c = set_config(CONFIG_TOPIC, "t", "c", META_SET_CONFIGS__OP__SET, "3");
    c->set_configs->resources[0]->replace_all = true;
    assert_int_equal(meta_do(m, c), ERR_NONE);
    assert_null(config_of(m, CONFIG_TOPIC, "t", "a", value, sizeof value));
    assert_null(config_of(m, CONFIG_TOPIC, "t", "b", value, sizeof value));
    assert_string_equal(config_of(m, CONFIG_TOPIC, "t", "c", value, sizeof value), "3");
}

static void producer_ids_are_never_given_twice(void **state)
{
    struct meta *m = *state;
    int64_t first;

    for (int k = 0; k < 2; k++) {
        MetaCommand *c = command_new(META_COMMAND__BODY_ALLOCATE_PRODUCER_IDS);

        c->allocate_producer_ids = xmalloc(sizeof *c->allocate_producer_ids);
        meta_allocate_producer_ids__init(c->allocate_producer_ids);
        c->allocate_producer_ids->node = 1;
        c->allocate_producer_ids->broker_epoch = image_broker(m->image, 1)->epoch;
        assert_int_equal(meta_do(m, c), ERR_NONE);
        assert_int_equal(m->outcome->count, 1000);
        if (k == 0)
            first = m->outcome->value;
        else
            assert_int_equal(m->outcome->value, first + 1000);
    }
}

static MetaCommand *update_feature(const char *name, int32_t level, int32_t type, int32_t max)
{
    MetaCommand *c = command_new(META_COMMAND__BODY_UPDATE_FEATURES);
    MetaUpdateFeatures *b = xmalloc(sizeof *b);

    meta_update_features__init(b);
    b->updates = xcalloc(1, sizeof *b->updates);
    b->updates[0] = xmalloc(sizeof **b->updates);
    meta_update_features__update__init(b->updates[0]);
    b->updates[0]->name = xstrdup(name);
    b->updates[0]->level = level;
    b->updates[0]->upgrade_type = type;
    b->updates[0]->supported_max = max;
    b->n_updates = 1;
    c->update_features = b;
    return c;
}

static void features_are_updated(void **state)
{
    struct meta *m = *state;
    MetaCommand *c = register_broker(1, 1);
    MetaFeatureRange *range = xmalloc(sizeof *range);

    meta_feature_range__init(range);
    range->name = xstrdup("group.version");
    range->max = 1;
    c->register_broker->features = xcalloc(1, sizeof(void *));
    c->register_broker->features[0] = range;
    c->register_broker->n_features = 1;
    assert_int_equal(meta_do(m, c), ERR_NONE);

    assert_int_equal(meta_do(m, update_feature("group.version", 1, 1, 1)), ERR_NONE);
    assert_true(m->features_changed);
    assert_int_equal(image_feature(m->image, "group.version"), 1);
    assert_int_equal(image_features_epoch(m->image), (int64_t)m->index);
    check_refusal(m, update_feature("group.version", 0, 1, 1), ERR_INVALID_UPDATE_VERSION,
                  "Invalid update version 0 for feature group.version. Can't downgrade the version "
                  "of this feature without setting the upgrade type to either safe or unsafe "
                  "downgrade.");
    check_refusal(m, update_feature("group.version", 2, 1, 1), ERR_INVALID_UPDATE_VERSION,
                  "Invalid update version 2 for feature group.version. Local controller 0 only "
                  "supports versions 0-1");
    check_refusal(m, update_feature("nonsense", 1, 1, 0), ERR_INVALID_UPDATE_VERSION,
                  "Invalid update version 1 for feature nonsense. Local controller 0 does not "
                  "support this feature.");
    assert_int_equal(meta_do(m, update_feature("group.version", 0, 2, 1)), ERR_NONE);
    assert_int_equal(image_feature(m->image, "group.version"), 0);
}

/* Nothing comes before the cluster is formed; forming again is harmless, or refused. */
static void formation_is_first_and_once(void **state)
{
    struct meta *m = *state;
    struct image *formed = image_ref(m->image);

    check_refusal(m, form_cluster("other"), ERR_INCONSISTENT_CLUSTER_ID,
                  "Expected cluster ID cluster, but got cluster ID other");
    assert_int_equal(meta_do(m, form_cluster("cluster")), ERR_NONE);
    assert_false(m->features_changed);
    image_unref(m->image);
    m->image = image_new();
    m->index = 0;
    assert_int_not_equal(meta_do(m, register_broker(1, 1)), ERR_NONE);
    image_unref(formed);
}

int main(void)
{
#define ONE(name)   cmocka_unit_test_setup_teardown(name, one_node, teardown)
#define THREE(name) cmocka_unit_test_setup_teardown(name, three_nodes, teardown)
    const struct CMUnitTest tests[] = {
        ONE(topic_is_created),
        THREE(defaults_are_filled_in),
        ONE(bad_names_are_refused),
        ONE(bad_counts_are_refused),
        THREE(bad_assignments_are_refused),
        THREE(manual_order_does_not_matter),
        THREE(partitions_are_added),
        ONE(deletion_leaves_nothing),
        THREE(leader_moves_when_its_node_is_fenced),
        THREE(elr_keeps_those_who_leave_below_min_isr),
        THREE(min_isr_change_ends_elr),
        ONE(single_replica_leads_after_restart),
        ONE(suspect_single_replica_leads_and_is_counted),
        THREE(suspect_replica_waits_for_others),
        THREE(isr_proposals_are_fenced),
        THREE(offline_replica_leaves),
        ONE(other_directory_needs_the_session_to_be_over),
        ONE(registration_is_checked),
        THREE(unregistering_is_refused_while_needed),
        ONE(lanes_are_strictly_ordered),
        ONE(time_never_goes_back),
        ONE(configs_are_changed),
        ONE(append_starts_from_the_default),
        ONE(replace_all_removes_the_others),
        ONE(producer_ids_are_never_given_twice),
        ONE(features_are_updated),
        ONE(formation_is_first_and_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
