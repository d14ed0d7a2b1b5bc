/* broker/cli_files.c -- dump, verify and repair: the subcommands that work on files.
 *
 * They need no server and start none; what they know of the formats is in storage/.
 */
#include "broker/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/env_uv.h"
#include "protocol/base/bytes.h"
#include "raft-meta/raft_files.h"
#include "storage/dump.h"
#include "storage/repair.h"
#include "storage/verify.h"

#define RAFT_REPAIR_ROUNDS_MAX 8

static int usage(const char *command, const char *what, const char *found)
{
    fprintf(stderr, "fluxmq %s: %s%s (see `fluxmq %s --help`)\n", command, what,
            found != NULL ? found : "", command);
    return EXIT_USAGE;
}

static struct env *open_env(int threads)
{
    struct errmsg why = {""};
    struct env *env = NULL;

    if (env_uv_new(threads, &env, &why) != ERR_NONE) {
        fprintf(stderr, "fluxmq: %s\n", why.text);
        return NULL;
    }
    return env;
}

/* "--name=value", or "--name value": the value, and how many words that took; NULL: not it. */
static const char *option_value(int argc, char **argv, int i, const char *name, int *used)
{
    size_t n = strlen(name);

    *used = 1;
    if (strncmp(argv[i], name, n) != 0)
        return NULL;
    if (argv[i][n] == '=')
        return argv[i] + n + 1;
    *used = 2;
    return argv[i][n] == '\0' && i + 1 < argc ? argv[i + 1] : NULL;
}

/* ---- dump ---- */

struct dump_arguments {
    struct dump_options options;
    const char **files; /* in argv, or in `split` */
    size_t file_count;
    char *split; /* of --files a,b,c */
};

static void add_files(struct dump_arguments *a, const char *list)
{
    a->split = xstrdup(list);
    for (char *rest = a->split, *name; (name = strsep(&rest, ",")) != NULL;) {
        if (*name == '\0')
            continue;
        a->files = xrealloc(a->files, (a->file_count + 1) * sizeof *a->files);
        a->files[a->file_count++] = name;
    }
}

static bool dump_flag(struct dump_options *o, const char *word)
{
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {
        {"--print-data-log", &o->print_data},
        {"--deep-iteration", &o->deep},
        {"--index-sanity-check", &o->index_sanity},
        {"--verify-index-only", &o->verify_index_only},
        {"--skip-record-metadata", &o->skip_metadata},
    };

    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        if (strcmp(word, flags[i].name) == 0) {
            *flags[i].flag = true;
            return true;
        }
    }
    return false;
}

static int parse_dump(int argc, char **argv, struct dump_arguments *a)
{
    for (int i = 1, used = 1; i < argc; i += used) {
        const char *value;
        int32_t number;

        used = 1;
        if (argv[i][0] != '-') {
            a->files = xrealloc(a->files, (a->file_count + 1) * sizeof *a->files);
            a->files[a->file_count++] = argv[i];
        } else if (dump_flag(&a->options, argv[i])) {
            continue;
        } else if ((value = option_value(argc, argv, i, "--files", &used)) != NULL) {
            if (a->split != NULL)
                return usage("dump", "--files was given twice", NULL);
            add_files(a, value);
        } else if ((value = option_value(argc, argv, i, "--max-bytes", &used)) != NULL) {
            if (!parse_int32(str_from(value), &number) || number < 0)
                return usage("dump", "--max-bytes: expected a number of bytes, found ", value);
            a->options.bytes_max = number;
        } else {
            return usage("dump", "no option ", argv[i]);
        }
    }
    return a->file_count > 0 ? EXIT_OK : usage("dump", "which files?", NULL);
}

static int dump_all(const struct dump_arguments *a)
{
    struct dump_complaints *complaints = dump_complaints_new();
    struct env *env = open_env(1);
    bool good = env != NULL;

    for (size_t i = 0; env != NULL && i < a->file_count; i++)
        good = dump_file(env, a->files[i], &a->options, complaints, stdout, stderr) && good;
    fflush(stdout);
    dump_complaints_print(complaints, stderr);
    dump_complaints_free(complaints);
    if (env != NULL)
        env_uv_free(env);
    return good && ferror(stdout) == 0 ? EXIT_OK : EXIT_FINDING;
}

int cli_dump(int argc, char **argv)
{
    char directory[PATH_MAX];
    struct dump_arguments a = {.options = {.bytes_max = INT32_MAX}};

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return cli_print_help(stdout, "dump");
    }
    if (getcwd(directory, sizeof directory) != NULL)
        a.options.directory = directory;

    int code = parse_dump(argc, argv, &a);

    if (code == EXIT_OK)
        code = dump_all(&a);
    free(a.files);
    free(a.split);
    return code;
}

/* ---- verify: which directories, and their partitions on the pool ---- */

struct work_item {
    struct job job;
    struct env *env;
    char *path;
    struct partition_facts facts;
    const struct verify_options *options;
    struct verify_report report;
    struct partition_summary summary;
};

struct survey {
    struct env *env;
    struct verify_options options;
    bool strict;
    struct log_dir_facts *dirs; /* of each argument: its own, or its parent's */
    size_t dir_count;
    struct work_item **items;
    size_t item_count;
    struct verify_report report;
};

static void verify_one(struct job *j)
{
    struct work_item *item = CONTAINER_OF(j, struct work_item, job);

    verify_partition(item->env, item->path, &item->facts, item->options, &item->report,
                     &item->summary);
}

static void add_item(struct survey *s, const struct log_dir_facts *facts, const char *path)
{
    const char *slash = strrchr(path, '/');
    struct work_item *item = xcalloc(1, sizeof *item);
    char topic[250] = "";
    int32_t partition = -1;

    (void)partition_folder_parse(slash != NULL ? slash + 1 : path, topic, &partition);
    log_dir_facts_of(facts, topic, partition, &item->facts);
    item->env = s->env;
    item->path = xstrdup(path);
    item->options = &s->options;
    item->job = (struct job){.work = verify_one};
    s->items = xrealloc(s->items, (s->item_count + 1) * sizeof *s->items);
    s->items[s->item_count++] = item;
}

/* Absolute, without what "..", "." and links hide: so a partition's parent can be named. */
static char *resolve(const char *path)
{
    char *real = realpath(path, NULL);

    if (real == NULL)
        fprintf(stderr, "fluxmq: %s: %s\n", path, strerror(errno));
    return real;
}

/* A single partition is judged by what its directory says of it; the directory itself is not. */
static void add_partition(struct survey *s, const char *path)
{
    char *parent = xstrdup(path), *slash = strrchr(parent, '/');
    struct verify_report ignored = {.v = NULL};
    struct log_dir_facts facts;

    *(slash > parent ? slash : slash + 1) = '\0';
    log_dir_facts_read(&facts, s->env, parent, &ignored);
    verify_report_deinit(&ignored);
    add_item(s, &facts, path);
    log_dir_facts_deinit(&facts);
    free(parent);
}

static bool add_directory(struct survey *s, const char *argument)
{
    char *path = resolve(argument);

    if (path == NULL)
        return false;
    if (verify_is_partition(s->env, path)) {
        add_partition(s, path);
        free(path);
        return true;
    }
    s->dirs = xrealloc(s->dirs, (s->dir_count + 1) * sizeof *s->dirs);

    struct log_dir_facts *facts = &s->dirs[s->dir_count++];

    log_dir_facts_read(facts, s->env, path, &s->report);
    for (size_t i = 0; i < facts->folder_count; i++) {
        size_t size = strlen(path) + strlen(facts->folders[i]) + 2;
        char *folder = xmalloc(size);

        (void)snprintf(folder, size, "%s/%s", path, facts->folders[i]);
        add_item(s, facts, folder);
        free(folder);
    }
    if (!facts->is_log_dir && facts->folder_count == 0) {
        fprintf(stderr, "fluxmq: %s: neither a log directory nor a partition's folder\n", path);
        free(path);
        return false;
    }
    free(path);
    return true;
}

/* Whether a server has the directory open. Nothing is made that is not there. */
static bool is_locked(struct env *env, const char *directory, struct file **lock)
{
    struct errmsg why = {""};
    char path[PATH_MAX];
    struct file *f;

    *lock = NULL;
    (void)snprintf(path, sizeof path, "%s/.lock", directory);
    if (file_open(env, path, FILE_READ_ONLY, &f, &why) != ERR_NONE)
        return false;
    file_unref(f);
    return disk_lock(env, path, lock, &why) == ERR_EXISTS;
}

static void warn_of_servers(struct survey *s)
{
    struct file *lock;

    for (size_t i = 0; i < s->dir_count; i++) {
        if (is_locked(s->env, s->dirs[i].path, &lock))
            fprintf(stderr,
                    "fluxmq verify: a server has %s open: what it writes now may look like "
                    "damage\n",
                    s->dirs[i].path);
        if (lock != NULL)
            file_unref(lock);
    }
}

/* Everything on the pool; comes back when all is done. */
static void run_survey(struct survey *s)
{
    for (size_t i = 0; i < s->item_count; i++)
        env_pool_submit(s->env, JOB_LONG, &s->items[i]->job);
    env_uv_free(s->env); /* runs what is queued */
    s->env = NULL;

    struct partition_summary *all = xcalloc(s->item_count + 1, sizeof *all);

    for (size_t i = 0; i < s->item_count; i++) {
        all[i] = s->items[i]->summary;
        verify_report_merge(&s->report, &s->items[i]->report);
    }
    verify_together(s->dirs, s->dir_count, all, s->item_count, &s->report);
    free(all);
}

static void survey_deinit(struct survey *s)
{
    for (size_t i = 0; i < s->item_count; i++) {
        verify_report_deinit(&s->items[i]->report);
        free(s->items[i]->path);
        free(s->items[i]);
    }
    for (size_t i = 0; i < s->dir_count; i++)
        log_dir_facts_deinit(&s->dirs[i]);
    free(s->items);
    free(s->dirs);
    verify_report_deinit(&s->report);
    if (s->env != NULL)
        env_uv_free(s->env);
}

/* ---- verify: what it says ---- */

static const char *weight_name(enum finding_weight weight)
{
    static const char *const names[] = {"note", "after a crash", "damage"};

    return names[weight];
}

static void print_findings(const struct verify_report *r)
{
    for (size_t i = 0; i < r->count; i++) {
        const struct finding *f = &r->v[i];

        printf("%s: %s:%" PRIu64 ": %s: %s\n", weight_name(f->weight), f->path, f->position,
               finding_kind_name(f->kind), f->text);
    }
}

static double seconds_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- the quorum's files, which lie in the first log directory ---- */

struct raft_look {
    char directory[PATH_MAX];
    struct raft_files_report report;
};

static void print_raft_finding(void *ctx, const struct raft_finding *f)
{
    const struct raft_look *l = ctx;

    printf("%s: %s/%s:%" PRIu64 ": raft file: %s\n",
           weight_name(f->kind == RAFT_TORN ? FINDING_CRASH : FINDING_DAMAGE), l->directory,
           f->file, f->offset, f->what);
}

/* False: the directory's raft files cannot be read. */
static bool look_at_raft(struct survey *s, const char *log_dir, struct raft_look *l)
{
    struct errmsg why = {""};
    struct raft_files_options o = {
        .env = s->env, .dir = l->directory, .on_finding = print_raft_finding, .ctx = l};

    (void)snprintf(l->directory, sizeof l->directory, "%s/fluxmq-raft", log_dir);
    if (raft_files_check(&o, &l->report, &why) == ERR_NONE)
        return true;
    fprintf(stderr, "fluxmq: %s\n", why.text);
    return false;
}

static bool check_raft(struct survey *s)
{
    bool ok = true;

    for (size_t i = 0; i < s->dir_count; i++) {
        struct raft_look l = {.directory = ""};

        ok = look_at_raft(s, s->dirs[i].path, &l) && ok;
        s->report.bytes += l.report.bytes_total;
        s->report.weights[FINDING_DAMAGE] += (uint64_t)l.report.corrupt_count;
        s->report.weights[FINDING_CRASH] += (uint64_t)l.report.torn_count;
    }
    return ok;
}

static int print_summary(const struct survey *s, double seconds)
{
    const struct verify_report *r = &s->report;
    uint64_t counted = r->weights[FINDING_DAMAGE] + (s->strict ? r->weights[FINDING_CRASH] : 0);

    printf("checked %" PRIu64 " bytes in %.2f s (%.2f GB/s): %" PRIu64 " partitions, %" PRIu64
           " segments, %" PRIu64 " batches, %" PRIu64 " records\n",
           r->bytes, seconds, seconds > 0 ? (double)r->bytes / 1e9 / seconds : 0.0, r->partitions,
           r->segments, r->batches, r->records);
    printf("found %" PRIu64 " damages, %" PRIu64
           " things that a crash leaves and a start repairs%s, %" PRIu64 " notes\n",
           r->weights[FINDING_DAMAGE], r->weights[FINDING_CRASH],
           s->strict ? " (counted: --strict)" : "", r->weights[FINDING_NOTE]);
    return counted > 0 ? EXIT_FINDING : EXIT_OK;
}

static int parse_survey(int argc, char **argv, struct survey *s, int32_t *jobs, bool *yes,
                        char **directories, size_t *count)
{
    bool repair = strcmp(argv[0], "repair") == 0;

    for (int i = 1, used = 1; i < argc; i += used) {
        const char *value;

        used = 1;
        if (argv[i][0] != '-')
            directories[(*count)++] = argv[i];
        else if (strcmp(argv[i], "--strict") == 0 && !repair)
            s->strict = true;
        else if (strcmp(argv[i], "--deep") == 0)
            s->options.deep = true;
        else if (strcmp(argv[i], "--allow-gaps") == 0)
            s->options.allow_gaps = true;
        else if (strcmp(argv[i], "--yes") == 0 && repair)
            *yes = true;
        else if ((value = option_value(argc, argv, i, "--jobs", &used)) == NULL)
            return usage(argv[0], "no option ", argv[i]);
        else if (!parse_int32(str_from(value), jobs) || *jobs < 1 || *jobs > 256)
            return usage(argv[0], "--jobs: expected a number from 1 to 256, found ", value);
    }
    return *count > 0 ? EXIT_OK : usage(argv[0], "which directory?", NULL);
}

int cli_verify(int argc, char **argv)
{
    struct survey s = {.strict = false};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int32_t jobs = (int32_t)MIN(MAX(cores, 1L), 64L);
    char **directories;
    size_t count = 0;
    bool yes = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return cli_print_help(stdout, "verify");
    }
    directories = xcalloc((size_t)argc, sizeof *directories);

    double began = seconds_now();
    int code = parse_survey(argc, argv, &s, &jobs, &yes, directories, &count);

    if (code == EXIT_OK && (s.env = open_env(jobs)) == NULL)
        code = EXIT_USAGE;
    for (size_t i = 0; code == EXIT_OK && i < count; i++)
        code = add_directory(&s, directories[i]) ? EXIT_OK : EXIT_USAGE;
    if (code == EXIT_OK) {
        warn_of_servers(&s);

        bool readable = check_raft(&s);

        run_survey(&s);
        print_findings(&s.report);
        code = print_summary(&s, seconds_now() - began);
        if (!readable)
            code = EXIT_FINDING;
    }
    survey_deinit(&s);
    free(directories);
    return code;
}

/* ---- repair ---- */

static bool contradicts_checkpoints(const struct verify_report *r)
{
    for (size_t i = 0; i < r->count; i++) {
        if (r->v[i].weight == FINDING_DAMAGE &&
            (r->v[i].kind == FINDING_CHECKPOINT || r->v[i].kind == FINDING_LOG_END))
            return true;
    }
    return false;
}

/* Looks at everything and plans; the findings are printed on the way. */
static void make_plan(struct survey *s, struct repair_plan *plan)
{
    struct partition_summary *all = xcalloc(s->item_count + 1, sizeof *all);
    bool contradicted = false;

    for (size_t i = 0; i < s->item_count; i++) {
        struct work_item *item = s->items[i];

        verify_one(&item->job);
        print_findings(&item->report);
        repair_plan_partition(plan, s->env, item->path, &item->facts, &item->report);
        contradicted = contradicted || contradicts_checkpoints(&item->report);
        all[i] = item->summary;
    }
    verify_together(s->dirs, s->dir_count, all, s->item_count, &s->report);
    free(all);
    print_findings(&s->report);
    for (size_t i = 0; i < s->dir_count; i++)
        repair_plan_dir(plan, &s->dirs[i], &s->report, contradicted);
}

static void print_plan(const struct repair_plan *plan, bool yes)
{
    printf("%s\n", plan->count == 0                  ? "nothing to repair"
                   : plan->count == plan->impossible ? "nothing can be done:"
                   : yes                             ? "doing:"
                                                     : "plan (carried out with --yes):");
    for (size_t i = 0; i < plan->count; i++)
        printf("  %s: %s\n", plan->v[i].path, plan->v[i].text);
    fflush(stdout);
}

/* Verifies once more what was repaired. */
static int check_again(const char *directory, const struct verify_options *o)
{
    struct survey s = {.options = *o, .env = open_env(1)};
    double began = seconds_now();
    int code = EXIT_USAGE;

    if (s.env != NULL && add_directory(&s, directory)) {
        (void)check_raft(&s);
        run_survey(&s);
        if (s.report.weights[FINDING_DAMAGE] > 0)
            print_findings(&s.report);
        code = print_summary(&s, seconds_now() - began);
    }
    survey_deinit(&s);
    return code;
}

/* A partition of a log directory cannot be repaired without the directory's checkpoints. */
static bool belongs_to_a_directory(struct survey *s, const char *argument)
{
    struct verify_report ignored = {.v = NULL};
    struct log_dir_facts facts;
    char *path = resolve(argument), *slash = path != NULL ? strrchr(path, '/') : NULL;
    bool belongs = false;

    if (slash != NULL && slash > path && verify_is_partition(s->env, path)) {
        *slash = '\0';
        log_dir_facts_read(&facts, s->env, path, &ignored);
        verify_report_deinit(&ignored);
        belongs = facts.is_log_dir;
        log_dir_facts_deinit(&facts);
        if (belongs)
            fprintf(stderr,
                    "fluxmq repair: %s is part of the log directory %s: name that, for its "
                    "checkpoints change with it\n",
                    argument, path);
    }
    free(path);
    return belongs;
}

static void print_raft_plan(void *ctx, const char *line)
{
    (void)ctx;
    printf("  %s\n", line);
}

/* What the only voter cannot load would keep its node from starting: it is cut on request. Each
 * round may uncover the next (a bad snapshot goes before the log behind it). */
static int repair_raft(struct survey *s, bool yes)
{
    int code = EXIT_OK;

    for (size_t i = 0; i < s->dir_count; i++) {
        struct raft_look l = {.directory = ""};
        struct raft_files_options o = {.env = s->env, .dir = l.directory};
        struct errmsg why = {""};

        for (int round = 0; round < RAFT_REPAIR_ROUNDS_MAX; round++) {
            memset(&l.report, 0, sizeof l.report);
            if (!look_at_raft(s, s->dirs[i].path, &l))
                return EXIT_FINDING;
            if (l.report.corrupt_count == 0)
                break;
            printf("%s: what was acknowledged after it is given up: topics, configs, leaders\n",
                   yes ? "doing" : "plan (carried out with --yes)");
            code = EXIT_FINDING;
            if (raft_files_repair(&o, yes, print_raft_plan, &why) != ERR_NONE) {
                fprintf(stderr, "fluxmq repair: stopped: %s\n", why.text);
                return EXIT_FINDING;
            }
            if (!yes)
                break;
            code = EXIT_OK;
        }
    }
    return code;
}

static int repair_locked(struct survey *s, const char *argument, bool yes)
{
    struct repair_plan plan = {.v = NULL};
    struct errmsg why = {""};
    int code = repair_raft(s, yes);

    make_plan(s, &plan);
    print_plan(&plan, yes);
    if (plan.count > 0)
        code = EXIT_FINDING;
    if (yes && plan.count > plan.impossible) {
        if (repair_apply(&plan, s->env, s->dirs, s->dir_count, &why) != ERR_NONE)
            fprintf(stderr, "fluxmq repair: stopped: %s\n", why.text);
        else
            code = check_again(argument, &s->options);
    }
    repair_plan_deinit(&plan);
    return code;
}

static int repair_one(const struct verify_options *o, const char *argument, bool yes)
{
    struct survey s = {.options = *o, .env = open_env(1)};
    struct file *lock = NULL;
    int code = EXIT_USAGE;

    if (s.env != NULL && !belongs_to_a_directory(&s, argument) && add_directory(&s, argument)) {
        if (s.dir_count > 0 && is_locked(s.env, s.dirs[0].path, &lock)) {
            fprintf(stderr, "fluxmq repair: a server has %s open: nothing was done\n",
                    s.dirs[0].path);
            code = EXIT_FINDING;
        } else {
            code = repair_locked(&s, argument, yes);
        }
    }
    if (lock != NULL)
        file_unref(lock);
    survey_deinit(&s);
    return code;
}

int cli_repair(int argc, char **argv)
{
    struct survey s = {.strict = false};
    char **directories;
    size_t count = 0;
    int32_t jobs = 1;
    bool yes = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return cli_print_help(stdout, "repair");
    }
    directories = xcalloc((size_t)argc, sizeof *directories);

    int code = parse_survey(argc, argv, &s, &jobs, &yes, directories, &count);

    for (size_t i = 0; code != EXIT_USAGE && i < count; i++) {
        int one = repair_one(&s.options, directories[i], yes);

        code = MAX(code, one);
    }
    free(directories);
    return code;
}
