#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base/hmap.h"
#include "tests/sim/fiber.h"
#include "tests/sim/net.h"
#include "tests/sim/trace.h"

#define COUNTS_MAX       256
#define DEATHS_MAX       16
#define SWITCH_US_MAX    20   /* a fiber that is switched comes back after so long ... */
#define PREEMPTED_US_MAX 2000 /* ... or, now and then, after so long */

/* What is to be done at a time: go on with a fiber, or call a function. */
struct event {
    uint64_t when;
    uint32_t tie; /* seeded: who comes first among those of one time */
    uint64_t sequence;
    struct process *process; /* NULL: of none */
    struct fiber *fiber;     /* or NULL */
    uint64_t generation;     /* of the fiber's sleep; a later one makes this event void */
    void (*fn)(void *arg);
    void *arg;
};

struct events {
    struct event *v; /* a binary heap */
    size_t count, capacity;
};

enum fiber_state { FIBER_RUNNING, FIBER_SLEEPS, FIBER_SLEEPS_ON /* not to be woken */, FIBER_DUE };

struct fiber {
    struct list_node node; /* of its process */
    struct sim *sim;
    struct process *process;
    struct context context;
    enum fiber_state state;
    uint64_t generation;
    bool woken, timed_out, over;
    void *local;
    const char *who; /* "m1/fluxmq-meta" */
    void (*fn)(void *arg);
    void *arg;
};

struct process {
    struct list_node node;
    struct sim *sim;
    char name[32];
    int machine;
    bool alive, paused;
    struct list fibers;
    struct event *deferred; /* of the time in which it was paused */
    size_t deferred_count, deferred_capacity;
    struct {
        void (*fn)(void *arg, bool silent);
        void *arg;
    } deaths[DEATHS_MAX];
    int death_count;
};

struct count {
    char what[64];
    uint64_t count;
    bool check;
};

/* Names of fibers, for the trace: kept for the whole run. */
struct who {
    struct who *next;
    char text[];
};

struct sim {
    struct sim_options options;
    uint64_t now, sequence, ran;
    uint64_t dice[DICE_COUNT];
    uint64_t switch_chance; /* of 2^32, at each yield point */
    struct events events;
    struct stack_pool stacks;
    struct context scheduler;
    struct fiber *current;
    struct list processes, ended; /* fibers */
    struct trace *trace;
    struct who *names;
    struct net *net;
    struct count counts[COUNTS_MAX];
    int count_count;
    bool stopped;
};

/* ---- randomness: splitmix64 ---- */

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t sim_random(struct sim *s, enum sim_dice d)
{
    return splitmix(&s->dice[d]);
}

uint64_t sim_below(struct sim *s, enum sim_dice d, uint64_t n)
{
    CHECK(n > 0);
    return (uint64_t)(((unsigned __int128)sim_random(s, d) * n) >> 64);
}

int64_t sim_between(struct sim *s, enum sim_dice d, int64_t least, int64_t most)
{
    CHECK(least <= most);
    return (int64_t)((uint64_t)least + sim_below(s, d, (uint64_t)most - (uint64_t)least + 1));
}

bool sim_chance(struct sim *s, enum sim_dice d, double p)
{
    return (double)(sim_random(s, d) >> 11) < p * 9007199254740992.0;
}

uint64_t sim_delay_ns(struct sim *s, enum sim_dice d, uint64_t typical)
{
    uint64_t r = sim_random(s, d) % 1000, base = typical / 2 + sim_below(s, d, typical + 1);

    if (r >= 100)
        return base;
    return r >= 10 ? base * (1 + r % 8) : base * (8 + r * 6);
}

/* ---- events ---- */

static bool earlier(const struct event *a, const struct event *b)
{
    if (a->when != b->when)
        return a->when < b->when;
    return a->tie != b->tie ? a->tie < b->tie : a->sequence < b->sequence;
}

static void events_push(struct events *h, const struct event *e)
{
    size_t i = h->count++;

    if (h->count > h->capacity) {
        h->capacity = MAX(h->capacity * 2, (size_t)256);
        h->v = xrealloc(h->v, h->capacity * sizeof *h->v);
    }
    for (; i > 0 && earlier(e, &h->v[(i - 1) / 2]); i = (i - 1) / 2)
        h->v[i] = h->v[(i - 1) / 2];
    h->v[i] = *e;
}

static struct event events_pop(struct events *h)
{
    struct event first = h->v[0], last = h->v[--h->count];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < h->count) {
        if (child + 1 < h->count && earlier(&h->v[child + 1], &h->v[child]))
            child++;
        if (!earlier(&h->v[child], &last))
            break;
        h->v[i] = h->v[child];
        i = child;
    }
    if (h->count > 0)
        h->v[i] = last;
    return first;
}

static void schedule(struct sim *s, struct event e)
{
    e.when = MAX(e.when, s->now);
    e.tie = (uint32_t)sim_random(s, DICE_SCHEDULE);
    e.sequence = s->sequence++;
    events_push(&s->events, &e);
}

void sim_at(struct sim *s, struct process *p, uint64_t when, void (*fn)(void *arg), void *arg)
{
    schedule(s, (struct event){.when = when, .process = p, .fn = fn, .arg = arg});
}

/* ---- a run ---- */

/* One seed in four may switch at every point [H45], often or seldom. */
static void draw_switching(struct sim *s)
{
    static const uint64_t per_mille[] = {5, 30, 200};

    if (sim_below(s, DICE_SCHEDULE, 4) == 0)
        s->switch_chance = (per_mille[sim_below(s, DICE_SCHEDULE, 3)] << 32) / 1000;
}

struct sim *sim_new(const struct sim_options *o)
{
    struct sim *s = xcalloc(1, sizeof *s);
    uint64_t seed = o->seed;

    s->options = *o;
    for (int i = 0; i < DICE_COUNT; i++)
        s->dice[i] = splitmix(&seed);
    list_init(&s->processes);
    list_init(&s->ended);
    s->trace = trace_new();
    draw_switching(s);
    return s;
}

void sim_shuffle_heap(uint64_t seed)
{
    enum { BLOCKS = 4096 };
    void **blocks = xcalloc(BLOCKS, sizeof *blocks);

    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = xmalloc(16 + (size_t)(splitmix(&seed) % (i % 8 == 0 ? 8192 : 512)));
    for (int i = 0; i < BLOCKS * 4; i++) { /* most of them, in no order */
        void **b = &blocks[splitmix(&seed) % BLOCKS];

        free(*b);
        *b = NULL;
    }
    free(blocks); /* the rest stays where it is */
}

static void resume(struct sim *s, struct fiber *f)
{
    f->state = FIBER_RUNNING;
    s->current = f;
    context_switch(&s->scheduler, &f->context, false);
    s->current = NULL;
    if (f->over) { /* void events may still name it */
        context_deinit(&f->context, &s->stacks);
        f->generation++;
        list_push_back(&s->ended, &f->node);
    }
}

static void defer(struct process *p, const struct event *e)
{
    if (p->deferred_count == p->deferred_capacity) {
        p->deferred_capacity = MAX(p->deferred_capacity * 2, (size_t)16);
        p->deferred = xrealloc(p->deferred, p->deferred_capacity * sizeof *p->deferred);
    }
    p->deferred[p->deferred_count++] = *e;
}

/* The fibers of a dead process are not there any more: the process is asked first. */
static void run_event(struct sim *s, const struct event *e)
{
    struct process *p = e->process;

    if (p != NULL && !p->alive)
        return;
    if (e->fiber != NULL && e->fiber->generation != e->generation)
        return;
    if (p != NULL && p->paused) {
        defer(p, e);
        return;
    }
    s->ran++;
    trace_number(s->trace, e->when ^ (e->sequence << 20));
    if (e->fiber == NULL) {
        e->fn(e->arg);
        return;
    }
    e->fiber->timed_out = e->fiber->state == FIBER_SLEEPS;
    resume(s, e->fiber);
}

void sim_run(struct sim *s, uint64_t until)
{
    CHECK(s->current == NULL);
    s->stopped = false;
    while (!s->stopped && s->events.count > 0 && s->events.v[0].when <= until) {
        struct event e = events_pop(&s->events);

        s->now = e.when;
        run_event(s, &e);
    }
    if (!s->stopped)
        s->now = MAX(s->now, until);
}

void sim_stop(struct sim *s)
{
    s->stopped = true;
}

uint64_t sim_now(const struct sim *s)
{
    return s->now;
}

void sim_set_net(struct sim *s, struct net *n)
{
    s->net = n;
}

struct net *sim_net(struct sim *s)
{
    return s->net;
}

uint64_t sim_seed(const struct sim *s)
{
    return s->options.seed;
}

uint64_t sim_events(const struct sim *s)
{
    return s->ran;
}

static void free_process(struct sim *s, struct process *p)
{
    struct list_node *n;

    while ((n = list_pop_front(&p->fibers)) != NULL) {
        struct fiber *f = list_entry(n, struct fiber, node);

        context_deinit(&f->context, &s->stacks);
        free(f);
    }
    free(p->deferred);
    free(p);
}

void sim_free(struct sim *s)
{
    struct list_node *n;

    while ((n = list_pop_front(&s->processes)) != NULL)
        free_process(s, list_entry(n, struct process, node));
    while ((n = list_pop_front(&s->ended)) != NULL)
        free(list_entry(n, struct fiber, node));
    for (struct who *w = s->names, *next; w != NULL; w = next) {
        next = w->next;
        free(w);
    }
    stack_pool_deinit(&s->stacks);
    trace_free(s->trace);
    free(s->events.v);
    free(s);
}

/* ---- processes ---- */

struct process *process_new(struct sim *s, int machine, const char *name)
{
    struct process *p = xcalloc(1, sizeof *p);

    p->sim = s;
    p->machine = machine;
    p->alive = true;
    (void)snprintf(p->name, sizeof p->name, "%s", name);
    list_init(&p->fibers);
    list_push_back(&s->processes, &p->node);
    return p;
}

void process_on_death(struct process *p, void (*fn)(void *arg, bool silent), void *arg)
{
    CHECK(p->death_count < DEATHS_MAX);
    p->deaths[p->death_count].fn = fn;
    p->deaths[p->death_count++].arg = arg;
}

void process_kill(struct process *p, bool silent)
{
    struct sim *s = p->sim;

    if (!p->alive)
        return;
    sim_trace(s, "%s dies%s", p->name, silent ? " silently" : "");
    p->alive = p->paused = false;
    p->deferred_count = 0;
    for (int i = p->death_count - 1; i >= 0; i--)
        p->deaths[i].fn(p->deaths[i].arg, silent);
    /* Their stacks stay as they are: what lies there may be linked from somewhere. */
    if (s->current != NULL && s->current->process == p) {
        s->current->state = FIBER_SLEEPS_ON;
        context_switch(&s->current->context, &s->scheduler, true);
    }
}

bool process_alive(const struct process *p)
{
    return p->alive;
}

void process_pause(struct process *p, bool paused)
{
    size_t count = p->deferred_count;

    if (!p->alive || p->paused == paused)
        return;
    sim_trace(p->sim, "%s %s", p->name, paused ? "stops" : "goes on");
    p->paused = paused;
    p->deferred_count = 0;
    for (size_t i = 0; i < count && !paused; i++)
        schedule(p->sim, p->deferred[i]);
}

const char *process_name(const struct process *p)
{
    return p->name;
}

int process_machine(const struct process *p)
{
    return p->machine;
}

struct sim *process_sim(const struct process *p)
{
    return p->sim;
}

/* ---- fibers ---- */

static const char *remember_name(struct sim *s, const char *process, const char *fiber)
{
    size_t size = strlen(process) + strlen(fiber) + 2;
    struct who *w = xmalloc(sizeof *w + size);

    (void)snprintf(w->text, size, "%s/%s", process, fiber);
    w->next = s->names;
    s->names = w;
    return w->text;
}

static void fiber_main(void *arg)
{
    struct fiber *f = arg;

    f->fn(f->arg);
    list_remove(&f->node);
    f->over = true;
    context_switch(&f->context, &f->sim->scheduler, true);
}

struct fiber *fiber_spawn(struct process *p, const char *name, void (*fn)(void *arg), void *arg)
{
    struct sim *s = p->sim;
    struct fiber *f = xcalloc(1, sizeof *f);

    CHECK(p->alive);
    f->sim = s;
    f->process = p;
    f->fn = fn;
    f->arg = arg;
    f->who = remember_name(s, p->name, name);
    f->state = FIBER_DUE;
    list_push_back(&p->fibers, &f->node);
    context_init(&f->context, &s->stacks, fiber_main, f);
    schedule(s, (struct event){.when = s->now, .process = p, .fiber = f});
    return f;
}

struct fiber *fiber_current(struct sim *s)
{
    return s->current;
}

struct process *fiber_process(const struct fiber *f)
{
    return f->process;
}

void fiber_set_local(struct fiber *f, void *local)
{
    f->local = local;
}

void *fiber_local(const struct fiber *f)
{
    return f->local;
}

/* To the scheduler, until an event of this generation. */
static void leave(struct sim *s, struct fiber *f, enum fiber_state state)
{
    f->state = state;
    context_switch(&f->context, &s->scheduler, false);
}

bool fiber_sleep_until(struct sim *s, uint64_t deadline)
{
    struct fiber *f = s->current;

    CHECK(f != NULL);
    if (f->woken) {
        f->woken = false;
        return true;
    }
    f->generation++;
    if (deadline != UINT64_MAX)
        schedule(s, (struct event){.when = deadline,
                                   .process = f->process,
                                   .fiber = f,
                                   .generation = f->generation});
    leave(s, f, FIBER_SLEEPS);
    return !f->timed_out;
}

void fiber_sleep(struct sim *s, uint64_t ns)
{
    struct fiber *f = s->current;

    CHECK(f != NULL);
    f->generation++;
    schedule(s, (struct event){.when = s->now + ns,
                               .process = f->process,
                               .fiber = f,
                               .generation = f->generation});
    leave(s, f, FIBER_SLEEPS_ON);
}

void fiber_wake(struct fiber *f)
{
    if (f->state != FIBER_SLEEPS) {
        f->woken = true;
        return;
    }
    f->state = FIBER_DUE;
    f->generation++;
    schedule(f->sim, (struct event){.when = f->sim->now,
                                    .process = f->process,
                                    .fiber = f,
                                    .generation = f->generation});
}

void fiber_yield_point(struct sim *s)
{
    uint64_t r, most;

    if (s->switch_chance == 0 || s->current == NULL)
        return;
    r = sim_random(s, DICE_SCHEDULE);
    if ((r & UINT32_MAX) >= s->switch_chance)
        return;
    most = (r >> 32) % 16 == 0 ? SIM_US(PREEMPTED_US_MAX) : SIM_US(SWITCH_US_MAX);
    fiber_sleep(s, sim_below(s, DICE_SCHEDULE, most));
}

/* ---- the trace ---- */

static const char *who(const struct sim *s)
{
    return s->current != NULL ? s->current->who : "-";
}

static void trace_event(struct sim *s, const char *format, va_list ap)
{
    trace_add(s->trace, s->now, who(s), format, ap);
    if (s->options.print)
        trace_print_newest(s->trace, stdout);
}

void sim_trace(struct sim *s, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    trace_event(s, format, ap);
    va_end(ap);
}

void sim_trace_bytes(struct sim *s, const void *p, size_t size)
{
    trace_bytes(s->trace, p, size);
}

uint64_t sim_trace_hash(const struct sim *s)
{
    return trace_hash(s->trace);
}

void sim_print_last(struct sim *s, FILE *to)
{
    trace_print_last(s->trace, to);
}

/* ---- findings and figures ---- */

void sim_violation(struct sim *s, const char *invariant, const char *format, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    sim_trace(s, "violation of %s: %s", invariant, text);
    if (s->options.on_violation != NULL)
        s->options.on_violation(s, s->options.ctx, invariant, text);
    sim_print_last(s, stderr);
    fprintf(stderr, "seed %llu: %s: %s\n", (unsigned long long)s->options.seed, invariant, text);
    (void)fflush(NULL);
    _Exit(1);
}

static void count(struct sim *s, const char *what, bool check)
{
    struct count *c = NULL;

    for (int i = 0; i < s->count_count && c == NULL; i++)
        if (s->counts[i].check == check && strcmp(s->counts[i].what, what) == 0)
            c = &s->counts[i];
    if (c == NULL) {
        CHECK(s->count_count < COUNTS_MAX);
        c = &s->counts[s->count_count++];
        (void)snprintf(c->what, sizeof c->what, "%s", what);
        c->check = check;
    }
    c->count++;
}

void sim_count(struct sim *s, const char *what)
{
    count(s, what, false);
}

void sim_checked(struct sim *s, const char *invariant)
{
    count(s, invariant, true);
}

void sim_each_count(const struct sim *s, bool checks,
                    void (*fn)(void *ctx, const char *what, uint64_t count), void *ctx)
{
    for (int i = 0; i < s->count_count; i++)
        if (s->counts[i].check == checks)
            fn(ctx, s->counts[i].what, s->counts[i].count);
}
