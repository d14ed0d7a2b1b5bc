/* Room for the quorum on a disk that fills up [H8]. */
#include "raft-meta/raft_space.h"

#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1ull << 20)

/* A disk with a ballast file on it, and a clock, and a pool that works at once. */
struct fixture {
    struct env env;
    struct env_ops ops;
    struct disk_ops disk;
    struct loop loop;
    struct file file;
    struct file_ops file_ops;
    uint64_t free_bytes, now_ns, ballast_size;
    bool ballast_exists;
    struct raft_space *space;
};

static struct fixture *fixture_of(struct env *env)
{
    return CONTAINER_OF(env, struct fixture, env);
}

static uint64_t now_ns(struct env *env)
{
    return fixture_of(env)->now_ns;
}

static void pool_submit(struct env *env, enum job_class class, struct job *j)
{
    (void)env;
    (void)class;
    j->work(j);
    j->done(j);
}

static enum err fake_open(struct env *env, const char *path, unsigned flags, struct file **out,
                          struct errmsg *why)
{
    struct fixture *f = fixture_of(env);

    (void)path;
    (void)flags;
    (void)why;
    f->ballast_exists = true;
    *out = &f->file;
    return ERR_NONE;
}

static enum err fake_unlink(struct env *env, const char *path, struct errmsg *why)
{
    struct fixture *f = fixture_of(env);

    (void)path;
    (void)why;
    f->ballast_exists = false;
    f->free_bytes += f->ballast_size;
    f->ballast_size = 0;
    return ERR_NONE;
}

static enum err fake_space(struct env *env, const char *path, struct disk_space *out,
                           struct errmsg *why)
{
    (void)path;
    (void)why;
    out->total_bytes = 1024 * MIB;
    out->free_bytes = fixture_of(env)->free_bytes;
    return ERR_NONE;
}

static void fake_unref(struct file *f)
{
    (void)f;
}

static uint64_t fake_size(const struct file *f)
{
    (void)f;
    return 0;
}

static enum err fake_write(struct file *f, uint64_t offset, const void *p, size_t size,
                           struct errmsg *why)
{
    struct fixture *x = fixture_of(f->env);

    (void)offset;
    (void)p;
    (void)why;
    if (x->free_bytes < size)
        return ERR_NO_SPACE;
    x->free_bytes -= size;
    x->ballast_size += size;
    return ERR_NONE;
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    f->ops = (struct env_ops){.now_ns = now_ns, .pool_submit = pool_submit};
    f->disk = (struct disk_ops){.open = fake_open, .unlink = fake_unlink, .space = fake_space};
    f->file_ops = (struct file_ops){.unref = fake_unref, .size = fake_size, .write = fake_write};
    f->env = (struct env){.ops = &f->ops, .disk = &f->disk};
    f->file = (struct file){.ops = &f->file_ops, .env = &f->env};
    f->free_bytes = 500 * MIB;
    f->now_ns = 1000000000;
    f->space = raft_space_new(&f->env, &f->loop, NULL, "/d", 16 * (int64_t)MIB);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    raft_space_free(f->space);
    free(f);
    return 0;
}

static enum raft_room check(struct fixture *f, uint64_t free_bytes)
{
    f->free_bytes = free_bytes;
    f->now_ns += 1000000000;
    return raft_space_check(f->space, 4096, 0);
}

/* The ballast is there from the start, is given up first, and comes back when there is room. */
static void ballast_is_given_up_first(void **state)
{
    struct fixture *f = *state;

    assert_true(f->ballast_exists);
    assert_int_equal(check(f, 400 * MIB), ROOM_ENOUGH);
    assert_true(f->ballast_exists);
    /* 20 MiB and the ballast's 16 are enough for the next segments. */
    assert_int_equal(check(f, 20 * MIB), ROOM_ENOUGH);
    assert_false(f->ballast_exists);
    assert_int_equal(check(f, 40 * MIB), ROOM_ENOUGH);
    assert_false(f->ballast_exists);
    assert_int_equal(check(f, 400 * MIB), ROOM_ENOUGH);
    assert_true(f->ballast_exists);
}

/* Then what makes room still goes on, and nothing once the last of it is used. */
static void what_makes_room_goes_on(void **state)
{
    struct fixture *f = *state;

    (void)check(f, 1 * MIB); /* the ballast is gone now */
    assert_int_equal(check(f, 20 * MIB), ROOM_RESERVED);
    assert_int_equal(check(f, 5 * MIB), ROOM_RESERVED);
    assert_int_equal(check(f, 2 * MIB), ROOM_NONE);
    assert_int_equal(check(f, 40 * MIB), ROOM_ENOUGH);
}

/* A large snapshot needs its place twice: the old one stays until the new one is whole. */
static void snapshots_are_reckoned_with(void **state)
{
    struct fixture *f = *state;

    (void)check(f, 1 * MIB);
    assert_int_equal(check(f, 60 * MIB), ROOM_ENOUGH);
    f->now_ns += 1000000000;
    assert_int_equal(raft_space_check(f->space, 0, 40 * MIB), ROOM_RESERVED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ballast_is_given_up_first, setup, teardown),
        cmocka_unit_test_setup_teardown(what_makes_room_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(snapshots_are_reckoned_with, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
