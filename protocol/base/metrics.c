#include "protocol/base/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    enum metric_kind kind;
    char *name, *labels, *help;
    const struct counter *counter; /* one of these three */
    const struct histogram *histogram;
    double (*read)(void *ctx);
    void *ctx;
    size_t order; /* of registration: keeps the sort stable */
};

struct metrics {
    struct mutex lock;
    struct entry *entries GUARDED_BY(lock);
    size_t count GUARDED_BY(lock), capacity GUARDED_BY(lock);
};

/* ---- histograms ---- */

/* Bucket 0..15 hold 0..15 us; then 16 linear steps in each power of two. */
static size_t bucket_of(uint64_t us)
{
    if (us < 16)
        return (size_t)us;

    int top = 63 - __builtin_clzll(us); /* >= 4 */
    size_t b = (size_t)(top - 3) * 16 + (size_t)((us >> (top - 4)) & 15);

    return b < HISTOGRAM_BUCKETS ? b : HISTOGRAM_BUCKETS - 1;
}

/* The greatest value that falls into the bucket. */
static uint64_t bucket_limit(size_t b)
{
    if (b < 16)
        return b;

    int top = (int)(b / 16) + 3;

    return ((16 + (uint64_t)(b % 16) + 1) << (top - 4)) - 1;
}

void histogram_record(struct histogram *h, uint64_t value_us)
{
    counter_add(&h->buckets[bucket_of(value_us)], 1);
    counter_add(&h->count, 1);
    counter_add(&h->sum_us, value_us);
}

uint64_t histogram_quantile(const struct histogram *h, double q)
{
    uint64_t count = 0, seen = 0;

    for (size_t b = 0; b < HISTOGRAM_BUCKETS; b++)
        count += counter_get(&h->buckets[b]);
    if (count == 0)
        return 0;

    uint64_t rank = (uint64_t)(q * (double)(count - 1)) + 1;

    for (size_t b = 0; b < HISTOGRAM_BUCKETS; b++) {
        seen += counter_get(&h->buckets[b]);
        if (seen >= rank)
            return bucket_limit(b);
    }
    return bucket_limit(HISTOGRAM_BUCKETS - 1);
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    for (size_t b = 0; b < HISTOGRAM_BUCKETS; b++)
        counter_add(&into->buckets[b], counter_get(&from->buckets[b]));
    counter_add(&into->count, counter_get(&from->count));
    counter_add(&into->sum_us, counter_get(&from->sum_us));
}

/* ---- the registry ---- */

struct metrics *metrics_new(struct env *env)
{
    struct metrics *m = xcalloc(1, sizeof *m);

    mutex_init(&m->lock, env);
    return m;
}

void metrics_free(struct metrics *m) NO_LOCK_CHECK
{
    for (size_t i = 0; i < m->count; i++) {
        free(m->entries[i].name);
        free(m->entries[i].labels);
        free(m->entries[i].help);
    }
    free(m->entries);
    mutex_deinit(&m->lock);
    free(m);
}

static void add_entry(struct metrics *m, struct entry e, const char *name, const char *labels,
                      const char *help)
{
    e.name = xstrdup(name);
    e.labels = xstrdup(labels);
    e.help = xstrdup(help);
    mutex_lock(&m->lock);
    if (m->count == m->capacity) {
        m->capacity = m->capacity == 0 ? 64 : m->capacity * 2;
        m->entries = xrealloc(m->entries, m->capacity * sizeof *m->entries);
    }
    e.order = m->count;
    m->entries[m->count++] = e;
    mutex_unlock(&m->lock);
}

void metrics_add(struct metrics *m, enum metric_kind kind, const char *name, const char *labels,
                 const char *help, const struct counter *c)
{
    add_entry(m, (struct entry){.kind = kind, .counter = c}, name, labels, help);
}

void metrics_add_histogram(struct metrics *m, const char *name, const char *labels,
                           const char *help, const struct histogram *h)
{
    add_entry(m, (struct entry){.kind = METRIC_GAUGE, .histogram = h}, name, labels, help);
}

void metrics_add_callback(struct metrics *m, enum metric_kind kind, const char *name,
                          const char *labels, const char *help, double (*read)(void *ctx),
                          void *ctx)
{
    add_entry(m, (struct entry){.kind = kind, .read = read, .ctx = ctx}, name, labels, help);
}

static int by_name_and_labels(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int c = strcmp(x->name, y->name);

    if (c == 0)
        c = strcmp(x->labels, y->labels);
    if (c == 0)
        c = x->order < y->order ? -1 : 1;
    return c;
}

static void write_histogram(FILE *f, const struct entry *first, const struct histogram *sum)
{
    static const double quantiles[] = {0.5, 0.9, 0.99, 0.999};
    const char *comma = first->labels[0] != '\0' ? "," : "";

    for (size_t i = 0; i < ARRAY_COUNT(quantiles); i++)
        fprintf(f, "%s{%s%squantile=\"%g\"} %g\n", first->name, first->labels, comma, quantiles[i],
                (double)histogram_quantile(sum, quantiles[i]) / 1e6);
    fprintf(f, "%s_sum{%s} %g\n", first->name, first->labels,
            (double)counter_get(&sum->sum_us) / 1e6);
    fprintf(f, "%s_count{%s} %" PRIu64 "\n", first->name, first->labels, counter_get(&sum->count));
}

/* Entries i..end-1 share name and labels: one line (or one summary) for all of them. */
static void write_group(FILE *f, const struct entry *entries, size_t i, size_t end)
{
    const struct entry *first = &entries[i];
    double value = 0;

    if (first->histogram != NULL) {
        struct histogram *sum = xcalloc(1, sizeof *sum);

        for (; i < end; i++)
            histogram_merge(sum, entries[i].histogram);
        write_histogram(f, first, sum);
        free(sum);
        return;
    }
    for (; i < end; i++)
        value += entries[i].counter != NULL ? (double)counter_get(entries[i].counter)
                                            : entries[i].read(entries[i].ctx);
    if (first->labels[0] != '\0')
        fprintf(f, "%s{%s} %.15g\n", first->name, first->labels, value);
    else
        fprintf(f, "%s %.15g\n", first->name, value);
}

char *metrics_scrape(struct metrics *m, size_t *size)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, size);

    CHECK(f != NULL);
    mutex_lock(&m->lock);
    qsort(m->entries, m->count, sizeof *m->entries, by_name_and_labels);
    for (size_t i = 0, end; i < m->count; i = end) {
        const struct entry *e = &m->entries[i];

        if (i == 0 || strcmp(m->entries[i - 1].name, e->name) != 0)
            fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", e->name, e->help, e->name,
                    e->histogram != NULL        ? "summary"
                    : e->kind == METRIC_COUNTER ? "counter"
                                                : "gauge");
        for (end = i + 1; end < m->count && strcmp(m->entries[end].name, e->name) == 0 &&
                          strcmp(m->entries[end].labels, e->labels) == 0;)
            end++;
        write_group(f, m->entries, i, end);
    }
    mutex_unlock(&m->lock);
    CHECK(fclose(f) == 0);
    return text;
}
