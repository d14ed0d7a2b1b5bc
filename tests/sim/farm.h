/* tests/sim/farm.h -- runs seeds, each in a process of its own, some at a time.
 *
 * A child tells through a pipe what it counted and how it ended; what it printed is kept in memory
 * and shown only when it failed. One that takes longer than the limit is a finding: a hang.
 */
#ifndef FLUXMQ_TESTS_SIM_FARM_H
#define FLUXMQ_TESTS_SIM_FARM_H

#include "tests/sim/run.h"

enum seed_end { SEED_OK, SEED_VIOLATION, SEED_CRASH, SEED_HANG };

struct seed_count {
    char what[72];
    bool is_check;
    uint64_t times;
};

struct seed_result {
    struct plan plan;
    enum seed_end end;
    int signal;
    char invariant[16];
    char text[600];
    uint64_t hash, operations, virtual_ns;
    struct seed_count *counts;
    size_t count, capacity;
    char *output; /* what it printed; only of a failure */
    size_t output_size;
};
void seed_result_deinit(struct seed_result *r);

struct farm_options {
    int jobs;
    int mutant; /* 0: none */
    bool trace; /* the child prints as it goes */
    unsigned limit_s;
};

struct farm;
struct farm *farm_new(const struct farm_options *o);
void farm_free(struct farm *f);
/* Starts a child; waits for none, so at most `jobs` may run. */
void farm_start(struct farm *f, const struct plan *p);
int farm_running(const struct farm *f);
/* Waits until one of them has ended. */
void farm_wait(struct farm *f, struct seed_result *out);
/* One seed from start to end. */
void farm_run(const struct farm_options *o, const struct plan *p, struct seed_result *out);

/* "w=HEX,f=HEX,s=SECONDS,c=CLIENTS" for --plan: what a shrunk plan differs in from the drawn one.
 */
void plan_format(const struct plan *p, char out[96]);
bool plan_apply(struct plan *p, const char *text);

/* Takes kinds of faults and clients away, one by one, and then time, as long as the same invariant
 * still breaks. */
void shrink(const struct farm_options *o, struct plan *p);

#endif
