#include "tests/sim/farm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "protocol/base/mutant.h"

#define JOBS_MAX        64
#define EXIT_VIOLATION  3
#define EXIT_HANG       4
#define ALT_STACK_SIZE  (256 * 1024)
#define REPORT_LINE_MAX 1024

void seed_result_deinit(struct seed_result *r)
{
    free(r->counts);
    free(r->output);
    *r = (struct seed_result){.end = SEED_OK};
}

/* ---- the child ---- */

/* What signal handlers need; a child runs one seed. */
struct child {
    struct run run;
    int report;
};
static struct child *the_child; /* in the child alone */

static void report_line(int fd, const char *format, ...) PRINTF(2, 3);
static void report_line(int fd, const char *format, ...)
{
    char line[REPORT_LINE_MAX];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    n = MIN(n, (int)sizeof line - 2);
    for (int i = 0; i < n; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[n++] = '\n';
    (void)!write(fd, line, (size_t)n);
}

static void on_violation(struct sim *s, void *ctx, const char *invariant, const char *text)
{
    struct child *c = ctx;

    report_line(c->report, "V %s %s", invariant, text);
    sim_print_last(s, stderr);
    fflush(NULL);
    _exit(EXIT_VIOLATION);
}

/* Not what a signal handler may do by the book; the process ends anyway, and mostly it works. */
static void on_fatal_signal(int signal_number)
{
    signal(signal_number, SIG_DFL);
    if (the_child->run.sim != NULL) {
        fprintf(stderr, "signal %d at virtual %.6f s\n", signal_number,
                (double)sim_now(the_child->run.sim) / 1e9);
        sim_print_last(the_child->run.sim, stderr);
    }
    fflush(NULL);
    if (signal_number == SIGALRM)
        _exit(EXIT_HANG);
    raise(signal_number);
}

static void catch_signals(unsigned limit_s)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM};
    struct sigaction action = {.sa_handler = on_fatal_signal, .sa_flags = SA_ONSTACK};
    stack_t stack = {.ss_sp = xmalloc(ALT_STACK_SIZE), .ss_size = ALT_STACK_SIZE};

    sigaltstack(&stack, NULL);
    for (size_t i = 0; i < ARRAY_COUNT(fatal); i++)
        sigaction(fatal[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    alarm(limit_s);
}

static void report_count(void *ctx, const char *what, uint64_t count)
{
    report_line(*(const int *)ctx, "C %llu %s", (unsigned long long)count, what);
}

static void report_check(void *ctx, const char *what, uint64_t count)
{
    report_line(*(const int *)ctx, "I %llu %s", (unsigned long long)count, what);
}

_Noreturn static void child_main(const struct plan *p, const struct farm_options *o, int report)
{
    struct child *c = xcalloc(1, sizeof *c);

    c->report = report;
    the_child = c;
#ifdef FLUXMQ_MUTANTS
    mutant_chosen = o->mutant;
#endif
    catch_signals(o->limit_s);
    run_seed(&c->run, p,
             &(struct sim_options){
                 .seed = p->seed, .print = o->trace, .on_violation = on_violation, .ctx = c});
    sim_each_count(c->run.sim, false, report_count, &report);
    sim_each_count(c->run.sim, true, report_check, &report);
    report_line(report, "E %llx %llu %llu", (unsigned long long)sim_trace_hash(c->run.sim),
                (unsigned long long)c->run.operations, (unsigned long long)sim_now(c->run.sim));
    fflush(NULL);
    _exit(0);
}

/* ---- the parent ---- */

struct seed_job {
    pid_t pid;
    int report, output;
    struct plan plan;
    char *text; /* what came through the pipe */
    size_t size, capacity;
};

struct farm {
    struct farm_options o;
    struct seed_job jobs[JOBS_MAX];
    int running;
};

struct farm *farm_new(const struct farm_options *o)
{
    struct farm *f = xcalloc(1, sizeof *f);

    f->o = *o;
    f->o.jobs = MIN(MAX(o->jobs, 1), JOBS_MAX);
    return f;
}

void farm_free(struct farm *f)
{
    free(f);
}

int farm_running(const struct farm *f)
{
    return f->running;
}

void farm_start(struct farm *f, const struct plan *p)
{
    struct seed_job *j = &f->jobs[f->running];
    int ends[2];

    CHECK(f->running < f->o.jobs);
    *j = (struct seed_job){.plan = *p, .output = -1};
    CHECK(pipe(ends) == 0);
    if (!f->o.trace)
        j->output = memfd_create("output", 0);
    fflush(NULL);
    j->pid = fork();
    CHECK(j->pid >= 0);
    if (j->pid == 0) {
        close(ends[0]);
        if (j->output >= 0) {
            dup2(j->output, STDOUT_FILENO);
            dup2(j->output, STDERR_FILENO);
        }
        child_main(p, &f->o, ends[1]);
    }
    close(ends[1]);
    j->report = ends[0];
    f->running++;
}

/* False: the child has closed its end. */
static bool read_report(struct seed_job *j)
{
    ssize_t n;

    if (j->capacity - j->size < 4096) {
        j->capacity = MAX(j->capacity * 2, (size_t)16384);
        j->text = xrealloc(j->text, j->capacity);
    }
    n = read(j->report, j->text + j->size, j->capacity - j->size - 1);
    if (n <= 0)
        return n < 0 && errno == EINTR;
    j->size += (size_t)n;
    return true;
}

static void parse_count(struct seed_result *r, const char *line, bool is_check)
{
    struct seed_count *c;
    char *rest = NULL;
    uint64_t times = strtoull(line, &rest, 10);

    if (r->count == r->capacity) {
        r->capacity = MAX(r->capacity * 2, (size_t)64);
        r->counts = xrealloc(r->counts, r->capacity * sizeof *r->counts);
    }
    c = &r->counts[r->count++];
    *c = (struct seed_count){.is_check = is_check, .times = times};
    snprintf(c->what, sizeof c->what, "%s", *rest == ' ' ? rest + 1 : rest);
}

static void parse_line(struct seed_result *r, char *line)
{
    unsigned long long hash, operations, virtual_ns;

    switch (line[0]) {
    case 'C':
    case 'I':
        parse_count(r, line + 2, line[0] == 'I');
        break;
    case 'E':
        if (sscanf(line + 2, "%llx %llu %llu", &hash, &operations, &virtual_ns) == 3) {
            r->hash = hash;
            r->operations = operations;
            r->virtual_ns = virtual_ns;
        }
        break;
    case 'V': {
        char *space = strchr(line + 2, ' ');

        if (space == NULL)
            break;
        *space = '\0';
        snprintf(r->invariant, sizeof r->invariant, "%s", line + 2);
        snprintf(r->text, sizeof r->text, "%s", space + 1);
        break;
    }
    default:
        break;
    }
}

static void parse_report(struct seed_result *r, struct seed_job *j)
{
    char *save = NULL;

    if (j->text == NULL)
        return;
    j->text[j->size] = '\0';
    for (char *line = strtok_r(j->text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save))
        parse_line(r, line);
}

static void read_output(struct seed_result *r, int fd)
{
    off_t end = lseek(fd, 0, SEEK_END);

    if (end <= 0)
        return;
    r->output = xmalloc((size_t)end + 1);
    if (pread(fd, r->output, (size_t)end, 0) == end)
        r->output_size = (size_t)end;
    r->output[r->output_size] = '\0';
}

static void collect(struct seed_job *j, struct seed_result *out)
{
    int status = 0;

    *out = (struct seed_result){.plan = j->plan};
    while (waitpid(j->pid, &status, 0) < 0 && errno == EINTR)
        ;
    parse_report(out, j);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && out->hash != 0)
        out->end = SEED_OK;
    else if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_VIOLATION)
        out->end = SEED_VIOLATION;
    else if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_HANG)
        out->end = SEED_HANG;
    else
        out->end = SEED_CRASH;
    out->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (j->output >= 0 && out->end != SEED_OK)
        read_output(out, j->output);
    if (j->output >= 0)
        close(j->output);
    close(j->report);
    free(j->text);
}

void farm_wait(struct farm *f, struct seed_result *out)
{
    CHECK(f->running > 0);
    for (;;) {
        struct pollfd polled[JOBS_MAX];

        for (int i = 0; i < f->running; i++)
            polled[i] = (struct pollfd){.fd = f->jobs[i].report, .events = POLLIN};
        if (poll(polled, (nfds_t)f->running, -1) < 0)
            continue;
        for (int i = 0; i < f->running; i++) {
            if (polled[i].revents == 0 || read_report(&f->jobs[i]))
                continue;
            collect(&f->jobs[i], out);
            f->jobs[i] = f->jobs[--f->running];
            return;
        }
    }
}

void farm_run(const struct farm_options *o, const struct plan *p, struct seed_result *out)
{
    struct farm *f = farm_new(o);

    farm_start(f, p);
    farm_wait(f, out);
    farm_free(f);
}

void plan_format(const struct plan *p, char out[96])
{
    int clients = 0;

    for (int i = 0; i < WORKLOAD_COUNT; i++)
        clients = MAX(clients, p->clients[i]);
    snprintf(out, 96, "w=%x,f=%x,s=%llu,c=%d", p->workloads, p->faults,
             (unsigned long long)(p->faults_ns / SIM_MS(1)), clients);
}

bool plan_apply(struct plan *p, const char *text)
{
    unsigned workloads, faults;
    unsigned long long milliseconds;
    int clients;

    if (sscanf(text, "w=%x,f=%x,s=%llu,c=%d", &workloads, &faults, &milliseconds, &clients) != 4)
        return false;
    p->workloads = workloads;
    p->faults = faults;
    p->faults_ns = SIM_MS(milliseconds);
    for (int i = 0; i < WORKLOAD_COUNT; i++)
        p->clients[i] = (workloads & (1u << i)) != 0 ? MIN(MAX(p->clients[i], 1), clients) : 0;
    return true;
}
