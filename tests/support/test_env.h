/* tests/support/test_env.h -- a small env for unit tests: a clock moved by hand, a pool and loops
 * that run when they are told to, and the real disk below a directory of its own.
 *
 * Everything runs on the caller's thread unless `pool_at_once` is false and the test drives
 * test_env_run() from several threads; the mutexes are real ones.
 */
#ifndef FLUXMQ_TESTS_TEST_ENV_H
#define FLUXMQ_TESTS_TEST_ENV_H

#include "protocol/base/env.h"

struct test_env {
    struct env env;
    struct disk_ops disk; /* the real one; a test may replace a call to inject a fault */
    uint64_t now_ns;      /* the test's clock */
    int64_t unix_ms;
    uint64_t random_state;             /* splitmix64: the same numbers in each run */
    bool pool_at_once;                 /* jobs run inside env_pool_submit (the default) */
    struct list jobs;                  /* struct job, waiting */
    struct list loops;                 /* struct test_loop */
    struct memory_file **memory_files; /* tests/support/memory_disk.h */
    char dir[64];                      /* a fresh directory, removed by test_env_deinit */
};

void test_env_init(struct test_env *t);
void test_env_deinit(struct test_env *t);
/* Moves both clocks and fires the timers that are due. */
void test_env_advance_ms(struct test_env *t, int64_t ms);
/* Runs waiting jobs and messages until there are none. Returns how many ran. */
int test_env_run(struct test_env *t);
/* Writes "DIR/name" into `out` and returns it. */
const char *test_env_path(struct test_env *t, char out[512], const char *name);
/* A loop to post to; freed with the env. */
struct loop *test_env_loop(struct test_env *t);

#endif
