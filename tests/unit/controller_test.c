/* The controller writes into a command whatever the state machine must not decide. */
#include "meta_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ids_are_usable, setup, teardown),
        cmocka_unit_test_setup_teardown(time_and_id_are_filled_in, setup, teardown),
        cmocka_unit_test_setup_teardown(default_replication_factor, setup, teardown),
        cmocka_unit_test_setup_teardown(failure_to_place_is_noted, setup, teardown),
        cmocka_unit_test_setup_teardown(stale_growth_still_fits, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
