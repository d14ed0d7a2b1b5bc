/* tests/sim/main.c -- fluxmq_sim: many seeds, one seed, the planted bugs, a smaller failing seed.
 *
 *   fluxmq_sim --seeds N [--first S] [--jobs J] [--resume LEDGER --tree HASH]
 *   fluxmq_sim SEED [--trace] [--plan PLAN] [--mutant M]
 *   fluxmq_sim --mutants [--seeds N] [--only M] [--resume LEDGER --tree HASH]
 *   fluxmq_sim --shrink SEED [--mutant M]
 *   fluxmq_sim --regressions FILE
 *
 * The ledger is a text file: "tree HASH", then a line "FIRST COUNT" for each range of seeds that
 * this tree of sources has run without a finding, and "mutant M SEED" for each planted bug that was
 * caught. Lines of another tree count for nothing.
 *
 * Exit codes: 0 all is well, 1 a finding, 2 wrong usage.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protocol/base/mutant.h"
#include "tests/sim/farm.h"

#define CHUNK            100 /* seeds of one line in the ledger */
#define TOTALS_MAX       256
#define SHOWN_FAILURES   5
#define MUTANT_SEEDS     10000
#define OUTPUT_SHOWN_MAX 60000

/* What must not be rare, besides each kind of fault and client. */
static const char *const expected[] = {
    "connection",
    "produced",
    "produce, acks=0",
    "duplicate answered",
    "fetch",
    "incremental fetch",
    "offset lookup",
    "records deleted",
    "topic created",
    "topic deleted",
    "partition added",
    "config changed",
    "metadata",
    "corrupt batch refused",
    "offset out of range",
    "acknowledged with flush.messages=1",
    "node started",
    "record lost with the page cache",
    "producer id",
    "storage error answered",
    "fetch session lost",
};

struct total {
    char what[72];
    bool is_check;
    uint64_t seeds, times;
};

struct totals {
    struct total v[TOTALS_MAX];
    size_t count;
    uint64_t seeds, failed, operations, virtual_ns, compared;
};

struct arguments {
    uint64_t seeds, first, seed;
    bool has_seed, trace, mutants, shrink;
    int jobs, mutant, only;
    const char *ledger, *tree, *plan, *regressions;
    unsigned limit_s;
};

static struct total *total_of(struct totals *t, const char *what, bool is_check)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->v[i].is_check == is_check && strcmp(t->v[i].what, what) == 0)
            return &t->v[i];
    CHECK(t->count < TOTALS_MAX);
    t->v[t->count].is_check = is_check;
    snprintf(t->v[t->count].what, sizeof t->v[0].what, "%s", what);
    return &t->v[t->count++];
}

static void add_up(struct totals *t, const struct seed_result *r)
{
    t->seeds++;
    t->operations += r->operations;
    t->virtual_ns += r->virtual_ns;
    for (size_t i = 0; i < r->count; i++) {
        struct total *x = total_of(t, r->counts[i].what, r->counts[i].is_check);

        x->seeds += r->counts[i].times > 0;
        x->times += r->counts[i].times;
    }
}

static void print_failure(const struct seed_result *r, int mutant)
{
    static const char *const how[] = {"is well", "broke a promise", "crashed", "hangs"};
    char plan[96];

    plan_format(&r->plan, plan);
    printf("\nseed %" PRIu64 " %s", r->plan.seed, how[r->end]);
    if (r->end == SEED_VIOLATION)
        printf(": %s: %s", r->invariant, r->text);
    else if (r->signal != 0)
        printf(" (%s)", strsignal(r->signal));
    printf("\n  again: ./dev sim %" PRIu64 " --trace --plan %s", r->plan.seed, plan);
    if (mutant != 0)
        printf(" --mutant %d", mutant);
    printf("\n");
    if (r->output == NULL)
        return;

    size_t skip = r->output_size > OUTPUT_SHOWN_MAX ? r->output_size - OUTPUT_SHOWN_MAX : 0;

    printf("%s\n", r->output + skip);
}

static double wall_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- the ledger ---- */

struct ledger {
    char *path;
    struct {
        uint64_t first, count;
    } * ranges;
    size_t range_count;
    uint64_t *mutants; /* [number]: the seed that caught it, + 1 */
};

#define MUTANT_MAX 1000

static void ledger_line(struct ledger *l, const char *line)
{
    uint64_t a, b;

    if (sscanf(line, "mutant %" SCNu64 " %" SCNu64, &a, &b) == 2 && a < MUTANT_MAX) {
        l->mutants[a] = b + 1;
    } else if (sscanf(line, "%" SCNu64 " %" SCNu64, &a, &b) == 2) {
        l->ranges = xrealloc(l->ranges, (l->range_count + 1) * sizeof *l->ranges);
        l->ranges[l->range_count].first = a;
        l->ranges[l->range_count++].count = b;
    }
}

static void ledger_append(const struct ledger *l, const char *format, ...) PRINTF(2, 3);
static void ledger_append(const struct ledger *l, const char *format, ...)
{
    va_list args;
    FILE *f;

    if (l->path == NULL)
        return;
    f = fopen(l->path, "a");
    if (f == NULL) {
        fprintf(stderr, "%s: %s\n", l->path, strerror(errno));
        exit(2);
    }
    va_start(args, format);
    vfprintf(f, format, args);
    va_end(args);
    fclose(f);
}

static void ledger_open(struct ledger *l, const struct arguments *a)
{
    char line[256], tree[200];
    bool ours = false, found = false;
    FILE *f;

    *l = (struct ledger){.mutants = xcalloc(MUTANT_MAX, sizeof *l->mutants)};
    if (a->ledger == NULL)
        return;
    l->path = xstrdup(a->ledger);
    f = fopen(l->path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "tree %199s", tree) == 1) {
            ours = strcmp(tree, a->tree) == 0;
            found = found || ours;
        } else if (ours) {
            ledger_line(l, line);
        }
    }
    if (f != NULL)
        fclose(f);
    if (!found || !ours)
        ledger_append(l, "tree %s\n", a->tree);
}

static bool ledger_has(const struct ledger *l, uint64_t first, uint64_t count)
{
    for (size_t i = 0; i < l->range_count; i++)
        if (first >= l->ranges[i].first && first + count <= l->ranges[i].first + l->ranges[i].count)
            return true;
    return false;
}

static void ledger_close(struct ledger *l)
{
    free(l->path);
    free(l->ranges);
    free(l->mutants);
}

/* ---- many seeds ---- */

struct many {
    const struct arguments *a;
    struct farm *farm;
    struct totals *totals;
    uint64_t chunk_failed;
};

/* The same seed gives the same hash: for one in a hundred. */
static void compare_hash(struct many *m, const struct seed_result *r)
{
    struct farm_options o = {.jobs = 1, .limit_s = m->a->limit_s};
    struct seed_result again;

    if (r->end != SEED_OK || r->plan.seed % 100 != 7)
        return;
    farm_run(&o, &r->plan, &again);
    m->totals->compared++;
    if (again.hash != r->hash) {
        printf("\nseed %" PRIu64 " is not deterministic: trace hashes %" PRIx64 " and %" PRIx64
               "\n",
               r->plan.seed, r->hash, again.hash);
        m->totals->failed++;
        m->chunk_failed++;
    }
    seed_result_deinit(&again);
}

static void take_one(struct many *m)
{
    struct seed_result r;

    farm_wait(m->farm, &r);
    add_up(m->totals, &r);
    if (r.end != SEED_OK) {
        m->chunk_failed++;
        if (m->totals->failed++ < SHOWN_FAILURES)
            print_failure(&r, 0);
        else
            printf("seed %" PRIu64 ": %s %s\n", r.plan.seed, r.invariant, r.text);
        fflush(stdout);
    }
    compare_hash(m, &r);
    seed_result_deinit(&r);
}

static void run_chunk(struct many *m, struct ledger *l, uint64_t first, uint64_t count)
{
    if (ledger_has(l, first, count))
        return;
    m->chunk_failed = 0;
    for (uint64_t i = 0; i < count; i++) {
        struct plan p;

        plan_draw(&p, first + i);
        if (farm_running(m->farm) >= m->a->jobs)
            take_one(m);
        farm_start(m->farm, &p);
    }
    while (farm_running(m->farm) > 0)
        take_one(m);
    if (m->chunk_failed == 0)
        ledger_append(l, "%" PRIu64 " %" PRIu64 "\n", first, count);
}

static uint64_t seeds_with(struct totals *t, const char *what)
{
    return total_of(t, what, false)->seeds;
}

/* What should have happened and did not; returns how many. */
static int check_rare(struct totals *t)
{
    uint64_t least = t->seeds >= 10000 ? t->seeds / 100 : 1;
    char what[80];
    int rare = 0;

    for (int i = 0; i < FAULT_COUNT + WORKLOAD_COUNT + (int)ARRAY_COUNT(expected); i++) {
        if (i < FAULT_COUNT)
            snprintf(what, sizeof what, "fault: %s", fault_name((enum fault_kind)i));
        else if (i < FAULT_COUNT + WORKLOAD_COUNT)
            snprintf(what, sizeof what, "client: %s",
                     workload_name((enum workload)(i - FAULT_COUNT)));
        else
            snprintf(what, sizeof what, "%s", expected[i - FAULT_COUNT - WORKLOAD_COUNT]);
        if (seeds_with(t, what) >= least)
            continue;
        printf("too rare: \"%s\" in %" PRIu64 " seeds of %" PRIu64 "\n", what, seeds_with(t, what),
               t->seeds);
        rare++;
    }
    return rare;
}

static int compare_totals(const void *a, const void *b)
{
    return strcmp(((const struct total *)a)->what, ((const struct total *)b)->what);
}

static void print_totals(struct totals *t, double seconds)
{
    qsort(t->v, t->count, sizeof t->v[0], compare_totals);
    printf("\n%-52s %10s %12s\n", "happened", "in seeds", "times");
    for (size_t i = 0; i < t->count; i++)
        if (!t->v[i].is_check)
            printf("%-52s %10" PRIu64 " %12" PRIu64 "\n", t->v[i].what, t->v[i].seeds,
                   t->v[i].times);
    printf("\n%-52s %10s %12s\n", "invariant", "in seeds", "checks");
    for (size_t i = 0; i < t->count; i++)
        if (t->v[i].is_check)
            printf("%-52s %10" PRIu64 " %12" PRIu64 "\n", t->v[i].what, t->v[i].seeds,
                   t->v[i].times);
    printf("\n%" PRIu64 " seeds in %.1f s (%.2f seeds/s), %.0f virtual seconds, %" PRIu64
           " operations, %" PRIu64 " compared with themselves, %" PRIu64 " failed\n",
           t->seeds, seconds, (double)t->seeds / MAX(seconds, 0.001), (double)t->virtual_ns / 1e9,
           t->operations, t->compared, t->failed);
}

static int run_many(const struct arguments *a)
{
    struct totals *t = xcalloc(1, sizeof *t);
    struct farm *farm = farm_new(&(struct farm_options){.jobs = a->jobs, .limit_s = a->limit_s});
    struct many m = {.a = a, .farm = farm, .totals = t};
    struct ledger l;
    double begin = wall_s();
    int rare = 0;

    ledger_open(&l, a);
    for (uint64_t done = 0; done < a->seeds; done += CHUNK)
        run_chunk(&m, &l, a->first + done, MIN(a->seeds - done, (uint64_t)CHUNK));
    print_totals(t, wall_s() - begin);
    if (t->seeds >= CHUNK)
        rare = check_rare(t);
    ledger_close(&l);
    farm_free(farm);

    bool failed = t->failed > 0 || rare > 0;

    free(t);
    return failed ? 1 : 0;
}

/* ---- one seed ---- */

static bool draw_plan(const struct arguments *a, uint64_t seed, struct plan *p)
{
    plan_draw(p, seed);
    if (a->plan == NULL || plan_apply(p, a->plan))
        return true;
    fprintf(stderr, "--plan: expected w=HEX,f=HEX,s=MILLISECONDS,c=CLIENTS, found %s\n", a->plan);
    return false;
}

static void print_plan(const struct plan *p)
{
    char text[96];

    plan_format(p, text);
    printf("seed %" PRIu64 ": plan %s, %d workers, faults:", p->seed, text, p->workers);
    for (int i = 0; i < FAULT_COUNT; i++)
        if ((p->faults & (1u << i)) != 0)
            printf(" [%s]", fault_name((enum fault_kind)i));
    printf("; clients:");
    for (int i = 0; i < WORKLOAD_COUNT; i++)
        if (p->clients[i] > 0)
            printf(" %d [%s]", p->clients[i], workload_name((enum workload)i));
    printf("\n");
}

static int run_one(const struct arguments *a)
{
    struct farm_options o = {
        .jobs = 1, .trace = a->trace, .mutant = a->mutant, .limit_s = a->limit_s};
    struct totals *t = xcalloc(1, sizeof *t);
    double begin = wall_s();
    struct seed_result r;
    struct plan p;
    int code;

    if (!draw_plan(a, a->seed, &p))
        return 2;
    print_plan(&p);
    farm_run(&o, &p, &r);
    add_up(t, &r);
    if (r.end != SEED_OK)
        print_failure(&r, a->mutant);
    else
        print_totals(t, wall_s() - begin);
    printf("trace hash %" PRIx64 "\n", r.hash);
    code = r.end == SEED_OK ? 0 : 1;
    seed_result_deinit(&r);
    free(t);
    return code;
}

static int run_shrink(const struct arguments *a)
{
    struct farm_options o = {.jobs = 1, .mutant = a->mutant, .limit_s = a->limit_s};
    char text[96];
    struct plan p;

    if (!draw_plan(a, a->seed, &p))
        return 2;
    print_plan(&p);
    shrink(&o, &p);
    print_plan(&p);
    plan_format(&p, text);
    printf("./dev sim %" PRIu64 " --trace --plan %s\n", p.seed, text);
    return 0;
}

/* ---- regressions: "SEED [PLAN]" on each line, with # comments ---- */

static int run_regressions(const struct arguments *a)
{
    struct farm_options o = {.jobs = 1, .limit_s = a->limit_s};
    FILE *f = fopen(a->regressions, "r");
    char line[512], plan[96];
    int failed = 0, count = 0;

    if (f == NULL) {
        fprintf(stderr, "%s: %s\n", a->regressions, strerror(errno));
        return 2;
    }
    while (fgets(line, sizeof line, f) != NULL) {
        struct seed_result r;
        struct plan p;
        uint64_t seed;
        int fields = sscanf(line, "%" SCNu64 " %95[wfsc=,0-9a-f]", &seed, plan);

        if (fields < 1)
            continue;
        plan_draw(&p, seed);
        if (fields == 2 && !plan_apply(&p, plan)) {
            fprintf(stderr, "%s: not a plan: %s\n", a->regressions, plan);
            fclose(f);
            return 2;
        }
        farm_run(&o, &p, &r);
        count++;
        if (r.end != SEED_OK) {
            failed++;
            print_failure(&r, 0);
        }
        seed_result_deinit(&r);
    }
    fclose(f);
    printf("%d of %d found seeds are well\n", count - failed, count);
    return failed > 0 ? 1 : 0;
}

/* ---- planted bugs ---- */

#ifdef FLUXMQ_MUTANTS

static bool passes_without(const struct arguments *a, uint64_t seed)
{
    struct farm_options o = {.jobs = 1, .limit_s = a->limit_s};
    struct seed_result r;
    struct plan p;
    bool well;

    plan_draw(&p, seed);
    farm_run(&o, &p, &r);
    well = r.end == SEED_OK;
    if (!well)
        printf("seed %" PRIu64 " fails without a planted bug too: %s: %s\n", seed, r.invariant,
               r.text);
    seed_result_deinit(&r);
    return well;
}

/* Caught is what breaks a promise to clients; that it crashes does not count. */
static bool catch_mutant(const struct arguments *a, int number, const char *what,
                         uint64_t *caught_by)
{
    struct farm *farm =
        farm_new(&(struct farm_options){.jobs = a->jobs, .mutant = number, .limit_s = a->limit_s});
    uint64_t next = 0, tried = 0, crashes = 0;
    bool caught = false;

    while ((!caught && next < a->seeds) || farm_running(farm) > 0) {
        struct seed_result r;
        struct plan p;

        if (!caught && next < a->seeds && farm_running(farm) < a->jobs) {
            plan_draw(&p, a->first + next++);
            farm_start(farm, &p);
            continue;
        }
        farm_wait(farm, &r);
        tried++;
        crashes += r.end == SEED_CRASH || r.end == SEED_HANG;
        if (r.end == SEED_VIOLATION && !caught && passes_without(a, r.plan.seed)) {
            caught = true;
            *caught_by = r.plan.seed;
            printf("M%-4d %-58s seed %" PRIu64 " after %" PRIu64 ": %s: %s\n", number, what,
                   r.plan.seed, tried, r.invariant, r.text);
        }
        seed_result_deinit(&r);
    }
    if (!caught)
        printf("M%-4d %-58s SURVIVED %" PRIu64 " seeds (%" PRIu64 " crashes)\n", number, what,
               tried, crashes);
    fflush(stdout);
    farm_free(farm);
    return caught;
}

static int run_mutants(const struct arguments *a)
{
    static const struct {
        int number;
        const char *what;
    } all[] = {
#define MUTANT_ROW_(n, what) {n, what},
        MUTANTS(MUTANT_ROW_)
#undef MUTANT_ROW_
    };
    struct ledger l;
    int survived = 0;

    ledger_open(&l, a);
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        uint64_t seed = 0;

        if (a->only != 0 && a->only != all[i].number)
            continue;
        if (l.mutants[all[i].number] > 0) {
            printf("M%-4d %-58s seed %" PRIu64 " (ledger)\n", all[i].number, all[i].what,
                   l.mutants[all[i].number] - 1);
            continue;
        }
        if (catch_mutant(a, all[i].number, all[i].what, &seed))
            ledger_append(&l, "mutant %d %" PRIu64 "\n", all[i].number, seed);
        else
            survived++;
    }
    ledger_close(&l);
    printf("%d of %zu survived\n", survived, ARRAY_COUNT(all));
    return survived > 0 ? 1 : 0;
}

#else

static int run_mutants(const struct arguments *a)
{
    (void)a;
    fprintf(stderr,
            "this build has no planted bugs: use the preset mutants (./dev sim --mutants)\n");
    return 2;
}

#endif

/* ---- arguments ---- */

static int usage(void)
{
    fprintf(stderr,
            "usage: fluxmq_sim --seeds N [--first S] [--jobs J] [--resume LEDGER --tree HASH]\n"
            "       fluxmq_sim SEED [--trace] [--plan PLAN] [--mutant M]\n"
            "       fluxmq_sim --mutants [--seeds N] [--only M] [--resume LEDGER --tree HASH]\n"
            "       fluxmq_sim --shrink SEED [--plan PLAN] [--mutant M]\n"
            "       fluxmq_sim --regressions FILE\n");
    return 2;
}

static bool parse_number(const char *text, uint64_t *out)
{
    char *end = NULL;

    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0';
}

static bool parse_option(struct arguments *a, const char *name, const char *value)
{
    uint64_t number = 0;
    bool is_number = parse_number(value, &number);

    if (strcmp(name, "--resume") == 0)
        a->ledger = value;
    else if (strcmp(name, "--tree") == 0)
        a->tree = value;
    else if (strcmp(name, "--plan") == 0)
        a->plan = value;
    else if (strcmp(name, "--regressions") == 0)
        a->regressions = value;
    else if (!is_number)
        return false;
    else if (strcmp(name, "--seeds") == 0)
        a->seeds = number;
    else if (strcmp(name, "--first") == 0)
        a->first = number;
    else if (strcmp(name, "--jobs") == 0)
        a->jobs = (int)MIN(MAX(number, UINT64_C(1)), UINT64_C(64));
    else if (strcmp(name, "--mutant") == 0)
        a->mutant = (int)number;
    else if (strcmp(name, "--only") == 0)
        a->only = (int)number;
    else if (strcmp(name, "--limit") == 0)
        a->limit_s = (unsigned)number;
    else
        return false;
    return true;
}

static bool parse_arguments(struct arguments *a, int argc, char **argv)
{
    *a = (struct arguments){.jobs = 2, .limit_s = 120, .tree = "unknown"};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--trace") == 0) {
            a->trace = true;
        } else if (strcmp(argv[i], "--mutants") == 0) {
            a->mutants = true;
        } else if (strcmp(argv[i], "--shrink") == 0) {
            a->shrink = true;
        } else if (argv[i][0] != '-') {
            if (a->has_seed || !parse_number(argv[i], &a->seed))
                return false;
            a->has_seed = true;
        } else if (i + 1 >= argc || !parse_option(a, argv[i], argv[i + 1])) {
            return false;
        } else {
            i++;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    struct arguments a;

    if (!parse_arguments(&a, argc, argv))
        return usage();
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (a.mutants) {
        a.seeds = a.seeds == 0 ? MUTANT_SEEDS : a.seeds;
        return run_mutants(&a);
    }
    if (a.regressions != NULL)
        return run_regressions(&a);
    if (a.has_seed)
        return a.shrink ? run_shrink(&a) : run_one(&a);
    return a.seeds > 0 ? run_many(&a) : usage();
}
