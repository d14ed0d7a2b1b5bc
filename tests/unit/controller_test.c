/* The controller writes into a command whatever the state machine must not decide. */
#include "meta_fixture.h"

#include "raft-meta/packing.h"

static int setup(void **state)
{
    *state = meta_new(2);
    return 0;
}

static int teardown(void **state)
{
    meta_free(*state);
    return 0;
}

/* Ids are random version 4 ones: never zero, never reserved, never an option to a tool. */
static void ids_are_usable(void **state)
{
    struct meta *m = *state;

    for (int k = 0; k < 512; k++) {
        struct uuid id;
        char text[UUID_TEXT_SIZE];

        controller_random_uuid(&m->controller, &id);
        uuid_format(&id, text);
        assert_int_equal(id.b[6] >> 4, 4);
        assert_int_equal(id.b[8] >> 6, 2);
        assert_int_not_equal(text[0], '-');
    }
}

static void time_and_id_are_filled_in(void **state)
{
    struct meta *m = *state;
    MetaCommand *c = create_topic("t", 4, 2);

    controller_complete(&m->controller, m->image, 777, c);
    assert_int_equal(c->time_ms, 777);
    assert_int_equal(topic_of(c)->topic_id.len, 16);
    assert_int_equal(topic_of(c)->n_assignments, 4);
    assert_int_equal(topic_of(c)->assignments[3]->n_replicas, 2);
    assert_int_equal(topic_of(c)->resolved_replication_factor, 2);
    /* Completing again (a retry on another leader) replaces, and leaks nothing. */
    controller_complete(&m->controller, m->image, 778, c);
    assert_int_equal(topic_of(c)->n_assignments, 4);
    meta_command__free_unpacked(c, NULL);
}

/* min(3, max(voters, registered nodes)). */
static void default_replication_factor(void **state)
{
    struct meta *m = *state;
    struct image *empty = image_new();

    assert_int_equal(controller_default_replication_factor(&m->controller, m->image), 2);
    m->controller.voter_count = 5;
    assert_int_equal(controller_default_replication_factor(&m->controller, m->image), 3);
    m->controller.voter_count = 1;
    assert_int_equal(controller_default_replication_factor(&m->controller, empty), 1);
    image_unref(empty);
}

/* What cannot be placed is noted, for the state machine to answer after its own checks. */
static void failure_to_place_is_noted(void **state)
{
    struct meta *m = *state;
    MetaCommand *c = create_topic("t", 1, 5);

    controller_complete(&m->controller, m->image, 1, c);
    assert_int_equal(topic_of(c)->placement_error, ERR_INVALID_REPLICATION_FACTOR);
    assert_int_equal(topic_of(c)->n_assignments, 0);
    meta_command__free_unpacked(c, NULL);
    /* A name that is taken is said first, as Kafka does. */
    assert_int_equal(meta_do(m, create_topic("t", 1, 1)), ERR_NONE);
    assert_int_equal(meta_do(m, create_topic("t", 1, 5)), ERR_TOPIC_ALREADY_EXISTS);
}

/* Two commands of one entry are completed against the same image; the second must still fit. */
static void stale_growth_still_fits(void **state)
{
    struct meta *m = *state;
    MetaCommand *first, *second;
    struct fsm_step *s;
    MetaOutcome *o;

    assert_int_equal(meta_do(m, create_topic("t", 1, 2)), ERR_NONE);
    first = create_partitions("t", 3);
    second = create_partitions("t", 6);
    controller_complete(&m->controller, m->image, 1, first);
    controller_complete(&m->controller, m->image, 1, second);
    s = fsm_begin(m->image, m->index + 1);
    o = fsm_apply(s, first);
    assert_int_equal(o->items[0]->error, ERR_NONE);
    meta_outcome__free_unpacked(o, NULL);
    o = fsm_apply(s, second);
    assert_int_equal(o->items[0]->error, ERR_NONE);
    meta_outcome__free_unpacked(o, NULL);
    assert_int_equal(image_topic(fsm_step_image(s), STR_LIT("t"))->partition_count, 6);
    fsm_step_free(s);
    meta_command__free_unpacked(first, NULL);
    meta_command__free_unpacked(second, NULL);
}

/* Leaders go home: only those that are away, whose first replica is in the ISR and may lead. */
static void leaders_go_home(void **state)
{
    struct meta *m = *state;
    const struct partition_image *p;
    MetaCommand *c;
    int32_t home;

    m->controller.voter_count = 2;
    assert_int_equal(meta_do(m, create_topic("t", 4, 2)), ERR_NONE);
    assert_null(controller_balance(m->image));
    home = partition_of(m, "t", 0)->replicas[0];
    assert_int_equal(meta_do(m, fence(m, home)), ERR_NONE);
    assert_null(controller_balance(m->image)); /* the node is not there */
    assert_int_equal(meta_do(m, unfence(m, home)), ERR_NONE);
    assert_null(controller_balance(m->image)); /* it is not in sync */

    /* In sync again, as its leader proposes. */
    for (int32_t i = 0; i < 4; i++) {
        struct partition_image n;
        int32_t isr[2];

        p = partition_of(m, "t", i);
        if (p->isr_count == 2)
            continue;
        n = *p;
        isr[0] = p->replicas[0];
        isr[1] = p->replicas[1];
        n.isr = isr;
        n.isr_count = 2;
        n.elr_count = 0;

        struct image *next = image_edit(m->image);

        image_put_partition(next, &image_topic(m->image, STR_LIT("t"))->id, i, &n);
        image_unref(m->image);
        m->image = next;
    }
    c = controller_balance(m->image);
    assert_non_null(c);
    assert_int_equal(c->elect_leaders->election_type, 0);
    assert_int_equal(c->elect_leaders->n_items, 2);
    assert_int_equal(meta_do(m, c), ERR_NONE);
    for (int32_t i = 0; i < 4; i++)
        assert_int_equal(partition_of(m, "t", i)->leader, partition_of(m, "t", i)->replicas[0]);
    assert_null(controller_balance(m->image));
}

static void no_answer(void *ctx, struct submission *s, enum err e, MetaOutcome *o)
{
    (void)ctx;
    (void)s;
    (void)e;
    (void)o;
    assert_true(false);
}

/* Replicas are placed on whom the image shows alive: so not behind a fence in the same entry. */
static void nothing_is_placed_behind_a_fence(void **state)
{
    struct meta *m = *state;
    struct packing k;
    MetaCommand *commands[] = {create_topic("before", 1, 1), fence(m, 1), create_topic("t", 1, 1)};
    struct list_node *node;

    packing_init(&k, &(struct packing_options){.node_id = 1,
                                               .image = m->image,
                                               .controller = &m->controller,
                                               .unix_ms = 1,
                                               .room = ROOM_ENOUGH,
                                               .answer = no_answer});
    for (int i = 0; i < 3; i++) {
        struct submission *s = submission_new(commands[i], NULL, 1);

        assert_int_equal(packing_add(&k, s), i < 2);
        if (i == 2)
            submission_free(s);
        meta_command__free_unpacked(commands[i], NULL);
    }
    while ((node = list_pop_front(&k.packed)) != NULL)
        submission_free(list_entry(node, struct submission, node));
    packing_deinit(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ids_are_usable, setup, teardown),
        cmocka_unit_test_setup_teardown(time_and_id_are_filled_in, setup, teardown),
        cmocka_unit_test_setup_teardown(default_replication_factor, setup, teardown),
        cmocka_unit_test_setup_teardown(failure_to_place_is_noted, setup, teardown),
        cmocka_unit_test_setup_teardown(stale_growth_still_fits, setup, teardown),
        cmocka_unit_test_setup_teardown(leaders_go_home, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_placed_behind_a_fence, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
