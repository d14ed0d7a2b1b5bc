/* tests/sim/shrink.c -- makes a failing seed's plan smaller: without each kind of fault and client
 * that it does not need, with one client of each kind, and shorter. What is left is nearer to the
 * cause and quicker to look at.
 */
#include <stdio.h>
#include <string.h>

#include "tests/sim/farm.h"

struct shrinking {
    struct farm_options o;
    enum seed_end end;
    char invariant[16];
    int tried;
};

static bool still_fails(struct shrinking *s, const struct plan *p)
{
    struct seed_result r;
    bool same;

    farm_run(&s->o, p, &r);
    same = r.end == s->end && strcmp(r.invariant, s->invariant) == 0;
    seed_result_deinit(&r);
    s->tried++;
    return same;
}

static void keep_if_fails(struct shrinking *s, struct plan *p, const struct plan *smaller,
                          const char *what)
{
    if (!still_fails(s, smaller))
        return;
    *p = *smaller;
    printf("  without %s\n", what);
}

static void drop_kinds(struct shrinking *s, struct plan *p)
{
    for (int i = 0; i < FAULT_COUNT; i++) {
        struct plan smaller = *p;

        smaller.faults &= ~(1u << i);
        if (smaller.faults != p->faults)
            keep_if_fails(s, p, &smaller, fault_name((enum fault_kind)i));
    }
    for (int i = 0; i < WORKLOAD_COUNT; i++) {
        struct plan smaller = *p;

        smaller.workloads &= ~(1u << i);
        smaller.clients[i] = 0;
        if (smaller.workloads != p->workloads)
            keep_if_fails(s, p, &smaller, workload_name((enum workload)i));
    }
}

void shrink(const struct farm_options *o, struct plan *p)
{
    struct shrinking s = {.o = *o};
    struct seed_result r;
    struct plan smaller;

    s.o.trace = false;
    farm_run(&s.o, p, &r);
    s.end = r.end;
    snprintf(s.invariant, sizeof s.invariant, "%s", r.invariant);
    seed_result_deinit(&r);
    if (s.end == SEED_OK) {
        printf("seed %llu does not fail\n", (unsigned long long)p->seed);
        return;
    }
    drop_kinds(&s, p);
    smaller = *p;
    for (int i = 0; i < WORKLOAD_COUNT; i++)
        smaller.clients[i] = MIN(smaller.clients[i], 1);
    keep_if_fails(&s, p, &smaller, "second clients of a kind");
    for (uint64_t part = 2; part <= 8; part *= 2) {
        smaller = *p;
        smaller.faults_ns -= smaller.faults_ns / part;
        keep_if_fails(&s, p, &smaller, "a part of the time");
    }
    printf("%d runs\n", s.tried);
}
