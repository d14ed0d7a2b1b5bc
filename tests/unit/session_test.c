/* Who is alive, as the controller sees it: a moved clock, an image that follows the decisions. */
#include "meta_fixture.h"

#include "raft-meta/session.h"

#define MS      ((uint64_t)1000000)
#define TIMEOUT (3000 * MS)
#define TICK    (50 * MS)

struct fixture {
    struct meta *meta;
    struct sessions *s;
    uint64_t now_ns;
    bool silent[4]; /* by node id: it sends no heartbeats */
    struct session_heartbeat h[4];
    uint8_t life[4];
    int fences, unfences;
    char cause[96]; /* of the last fence */
    bool refuse;    /* what is decided is not stored */
    uint64_t beat_ns;
};

static struct peer_identity identity(const struct fixture *f, int32_t node)
{
    return (struct peer_identity){.node_id = node,
                                  .directory_id = {{(uint8_t)node, 1}},
                                  .incarnation = image_broker(f->meta->image, node)->incarnation};
}

static void begin_controller(struct fixture *f)
{
    f->s = sessions_new(&(struct session_options){.timeout_ns = TIMEOUT,
                                                  .turn_ns_max = TIMEOUT / 3,
                                                  .disk_ns_max = TIMEOUT,
                                                  .lag_ns = SESSION_LAG_NS,
                                                  .ignore_ns = EVIDENCE_REST_NS,
                                                  .absence_ns = 1000 * MS});
    sessions_begin(f->s, f->meta->image, f->now_ns);
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    f->meta = meta_new(3);
    f->now_ns = 1000000 * MS;
    for (int n = 1; n <= 3; n++)
        f->h[n].serving = true;
    begin_controller(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    sessions_free(f->s);
    meta_free(f->meta);
    free(f);
    return 0;
}

/* A heartbeat whose image is up to date, but for what f->h[node] says. */
static void beat(struct fixture *f, int32_t node, bool current)
{
    struct peer_identity who = identity(f, node);

    f->h[node].broker_epoch = image_broker(f->meta->image, node)->epoch;
    if (current)
        f->h[node].applied_index = image_index(f->meta->image);
    sessions_on_heartbeat(f->s, f->meta->image, &who, &f->h[node], f->now_ns);
}

static void look(struct fixture *f)
{
    struct session_decision d[8];
    int count = sessions_decide(f->s, f->meta->image, f->now_ns, d, 8);

    for (int k = 0; k < count; k++) {
        bool is_fence = d[k].action == SESSION_FENCE;

        f->fences += is_fence;
        f->unfences += !is_fence;
        if (is_fence)
            memcpy(f->cause, d[k].cause, sizeof f->cause);
        if (!f->refuse)
            assert_int_equal(meta_do(f->meta, is_fence ? fence(f->meta, d[k].node_id)
                                                       : unfence(f->meta, d[k].node_id)),
                             ERR_NONE);
        sessions_on_outcome(f->s, &d[k], !f->refuse);
    }
}

/* Time goes on in ticks; who is not silent sends every 500 ms. */
static void pass(struct fixture *f, uint64_t ns)
{
    for (uint64_t end = f->now_ns + ns; f->now_ns < end;) {
        f->now_ns += TICK;
        if (f->now_ns - f->beat_ns >= 500 * MS) {
            f->beat_ns = f->now_ns;
            for (int n = 1; n <= 3; n++) {
                if (!f->silent[n])
                    beat(f, n, true);
            }
        }
        look(f);
    }
}

/* The image goes on; the node is heard, and has not applied any of it. */
static void lag_behind(struct fixture *f, int32_t node, uint64_t ns)
{
    for (uint64_t end = f->now_ns + ns; f->now_ns < end;) {
        MetaCommand *c = command_new(META_COMMAND__BODY_NO_OP);

        c->no_op = xmalloc(sizeof *c->no_op);
        meta_no_op__init(c->no_op);
        assert_int_equal(meta_do(f->meta, c), ERR_NONE);
        beat(f, node, false);
        pass(f, 250 * MS);
    }
}

static bool is_fenced(const struct fixture *f, int32_t node)
{
    return image_broker(f->meta->image, node)->fenced;
}

static void gone(struct fixture *f, int32_t node)
{
    struct peer_identity who = identity(f, node);

    sessions_on_gone(f->s, &who);
    look(f);
}

/* Nobody who is heard is fenced; who is silent is, not before the time-out and soon after it; who
 * is heard again serves again. */
static void silence(void **state)
{
    struct fixture *f = *state;

    pass(f, 20 * TIMEOUT);
    assert_int_equal(f->fences, 0);
    f->silent[2] = true;
    pass(f, TIMEOUT - 500 * MS);
    assert_false(is_fenced(f, 2));
    pass(f, 500 * MS + 2 * TICK);
    assert_true(is_fenced(f, 2));
    assert_non_null(strstr(f->cause, "silent"));
    pass(f, 10 * TIMEOUT); /* once */
    assert_int_equal(f->fences, 1);
    f->silent[2] = false;
    pass(f, 500 * MS + TICK);
    assert_false(is_fenced(f, 2));
}

/* What was refused is decided again, and nothing twice while it is under way. */
static void a_lost_decision_is_made_again(void **state)
{
    struct fixture *f = *state;
    struct session_decision d[8];

    pass(f, 1000 * MS);
    f->silent[3] = true;
    f->refuse = true;
    pass(f, TIMEOUT + 2 * TICK);
    assert_true(f->fences > 0);
    assert_false(is_fenced(f, 3));
    f->refuse = false;
    look(f);
    assert_true(is_fenced(f, 3));
    f->silent[2] = true;
    f->now_ns += 900 * MS; /* in steps that are no absence */
    for (int k = 0; k < 4; k++, f->now_ns += 900 * MS) {
        beat(f, 1, true);
        if (sessions_decide(f->s, f->meta->image, f->now_ns, d, 8) == 1)
            break;
    }
    assert_int_equal(d[0].node_id, 2);
    assert_int_equal(sessions_decide(f->s, f->meta->image, f->now_ns + TICK, d, 8), 0);
}

/* [H21] A new controller has heard nobody yet: a full session for everyone. */
static void a_new_controller_grants_a_session(void **state)
{
    struct fixture *f = *state;

    pass(f, 5000 * MS);
    f->silent[1] = f->silent[2] = f->silent[3] = true;
    pass(f, TIMEOUT / 2);
    sessions_end(f->s);
    f->now_ns += 100 * TIMEOUT;
    sessions_begin(f->s, f->meta->image, f->now_ns);
    pass(f, TIMEOUT - TICK);
    assert_int_equal(f->fences, 0);
    pass(f, 3 * TICK);
    assert_int_equal(f->fences, 3);
}

/* A controller that was stopped itself holds its absence against nobody. */
static void own_absence_is_forgiven(void **state)
{
    struct fixture *f = *state;

    pass(f, 5000 * MS);
    f->now_ns += 10 * TIMEOUT;
    look(f);
    assert_int_equal(f->fences, 0);
    f->silent[2] = true; /* but from now on it counts */
    pass(f, TIMEOUT + TICK);
    assert_true(is_fenced(f, 2));
}

/* [H9] Evidence fences at once. False, the node is back with its next heartbeat, and evidence
 * against that process is ignored for 30 s, then for 60 s. */
static void evidence(void **state)
{
    struct fixture *f = *state;

    pass(f, 1000 * MS);
    f->silent[2] = true;
    gone(f, 2);
    assert_true(is_fenced(f, 2));
    assert_non_null(strstr(f->cause, "gone"));
    pass(f, 1000 * MS);
    assert_int_equal(f->unfences, 0);

    f->silent[2] = false;
    pass(f, 500 * MS);
    assert_false(is_fenced(f, 2));
    assert_int_equal(counter_get(&sessions_counts(f->s)->false_fences), 1);
    gone(f, 2);
    assert_false(is_fenced(f, 2));
    pass(f, 29000 * MS);
    gone(f, 2);
    assert_false(is_fenced(f, 2));
    pass(f, 2000 * MS);
    gone(f, 2);
    assert_true(is_fenced(f, 2));
    pass(f, 31000 * MS);
    assert_false(is_fenced(f, 2));
    gone(f, 2);
    assert_false(is_fenced(f, 2)); /* 60 s by now */
    f->silent[2] = true;           /* silence counts as ever */
    pass(f, TIMEOUT + TICK);
    assert_true(is_fenced(f, 2));
}

/* Evidence that came before this node was the controller counts when it is; a connection to the
 * same process, made since, ends it. Of another process it says nothing. */
static void evidence_before_the_election(void **state)
{
    struct fixture *f = *state;
    struct peer_identity two = identity(f, 2), three = identity(f, 3), one = identity(f, 1);

    sessions_end(f->s);
    one.incarnation.b[0] ^= 1;
    sessions_on_gone(f->s, &two);
    sessions_on_gone(f->s, &three);
    sessions_on_gone(f->s, &one);
    sessions_on_link(f->s, &three);
    look(f);
    assert_int_equal(f->fences, 0);
    sessions_begin(f->s, f->meta->image, f->now_ns);
    look(f);
    assert_int_equal(f->fences, 1);
    assert_true(is_fenced(f, 2));
    assert_true(sessions_is_over(f->s, f->meta->image, 2, f->now_ns));
    assert_false(sessions_is_over(f->s, f->meta->image, 3, f->now_ns));
}

/* [H21b] A new incarnation has a new session; what was known of the old one is of no account. */
static void a_restart_supersedes(void **state)
{
    struct fixture *f = *state;
    struct peer_identity old = identity(f, 2);

    pass(f, 1000 * MS);
    f->silent[2] = true;
    assert_int_equal(meta_do(f->meta, register_broker(2, 2)), ERR_NONE);
    sessions_on_gone(f->s, &old);
    sessions_on_heartbeat(f->s, f->meta->image, &old, &f->h[2], f->now_ns); /* a late one */
    pass(f, 100 * MS);
    assert_int_equal(f->unfences, 0); /* it has not joined yet, and its old life does not speak */
    assert_int_equal(meta_do(f->meta, unfence(f->meta, 2)), ERR_NONE);
    pass(f, TIMEOUT - 200 * MS);
    assert_int_equal(f->fences, 0);
    f->silent[2] = false;
    pass(f, 2 * TIMEOUT);
    assert_int_equal(f->fences, 0);
    f->silent[2] = true; /* its old life keeps nothing alive either */
    for (int k = 0; k < 14; k++) {
        pass(f, 250 * MS);
        sessions_on_heartbeat(f->s, f->meta->image, &old, &f->h[2], f->now_ns);
    }
    assert_int_equal(f->fences, 1);
}

/* A fence that an earlier controller had proposed, stored late, does not stick [H21]. */
static void a_late_fence_does_not_stick(void **state)
{
    struct fixture *f = *state;

    pass(f, 5000 * MS);
    assert_int_equal(meta_do(f->meta, fence(f->meta, 3)), ERR_NONE);
    pass(f, 500 * MS + TICK);
    assert_false(is_fenced(f, 3));
}

/* Unfenced is only who serves, whose image holds its registration and is not far behind, and who
 * is not on its way out. */
static void who_may_be_unfenced(void **state)
{
    struct fixture *f = *state;

    pass(f, 1000 * MS);
    f->h[2].serving = false;
    assert_int_equal(meta_do(f->meta, fence(f->meta, 2)), ERR_NONE);
    pass(f, TIMEOUT);
    assert_int_equal(f->unfences, 0);
    f->h[2].serving = true;
    pass(f, 500 * MS + TICK);
    assert_int_equal(f->unfences, 1);

    f->silent[2] = true;
    lag_behind(f, 2, TIMEOUT + 500 * MS); /* heard, but its image stands still */
    assert_int_equal(meta_do(f->meta, fence(f->meta, 2)), ERR_NONE);
    lag_behind(f, 2, 1000 * MS);
    assert_int_equal(f->unfences, 1);
    f->silent[2] = false;
    pass(f, 500 * MS + TICK);
    assert_int_equal(f->unfences, 2);
}

/* [H20] An image that stays behind for more than 10 s: fenced, though it is heard. */
static void lag(void **state)
{
    struct fixture *f = *state;

    pass(f, 5000 * MS);
    f->silent[2] = true;
    lag_behind(f, 2, 9500 * MS);
    assert_false(is_fenced(f, 2));
    lag_behind(f, 2, 2000 * MS);
    assert_true(is_fenced(f, 2));
    assert_non_null(strstr(f->cause, "behind"));
}

/* [H9] A heartbeat vouches for the data plane: a turn or a disk operation that does not end. */
static void stuck(void **state)
{
    struct fixture *f = *state;

    pass(f, 1000 * MS);
    f->h[2].turn_age_ns = TIMEOUT / 3;
    f->h[3].disk_age_ns = TIMEOUT;
    pass(f, 2 * TIMEOUT);
    assert_int_equal(f->fences, 0);
    f->h[2].turn_age_ns++;
    pass(f, 500 * MS + TICK);
    assert_true(is_fenced(f, 2));
    assert_non_null(strstr(f->cause, "stuck"));
    f->h[3].disk_age_ns++;
    pass(f, 2 * TIMEOUT);
    assert_true(is_fenced(f, 2) && is_fenced(f, 3));
    assert_int_equal(f->unfences, 0);
    f->h[2].turn_age_ns = f->h[3].disk_age_ns = 0;
    pass(f, 500 * MS + TICK);
    assert_false(is_fenced(f, 2) || is_fenced(f, 3));
}

/* [H21b] Another directory may have the id of a node only when its session is over. */
static void another_directory(void **state)
{
    struct fixture *f = *state;
    MetaCommand *c = register_broker(2, 5);

    pass(f, 1000 * MS);
    c->register_broker->metadata_directory.data[0] ^= 1;
    c->register_broker->directories[0].data[0] ^= 0x41;
    assert_int_equal(meta_do(f->meta, c), ERR_DUPLICATE_BROKER_REGISTRATION);
    assert_false(sessions_is_over(f->s, f->meta->image, 2, f->now_ns));
    assert_true(sessions_is_over(f->s, f->meta->image, 2, f->now_ns + TIMEOUT + 1));
    assert_false(sessions_is_over(f->s, f->meta->image, 9, f->now_ns + TIMEOUT + 1));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(silence),
        TEST(a_lost_decision_is_made_again),
        TEST(a_new_controller_grants_a_session),
        TEST(own_absence_is_forgiven),
        TEST(evidence),
        TEST(evidence_before_the_election),
        TEST(a_restart_supersedes),
        TEST(a_late_fence_does_not_stick),
        TEST(who_may_be_unfenced),
        TEST(lag),
        TEST(stuck),
        TEST(another_directory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
