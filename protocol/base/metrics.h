/* protocol/base/metrics.h -- counters, gauges and latency histograms, summed when scraped.
 *
 * Each worker owns its counters (no cache line is shared while counting); several counters
 * registered under one name and label set are added up in the scrape. Names follow Kafka's where
 * it has one, in Prometheus' spelling (kafka_server_brokertopicmetrics_messagesin_total).
 *
 * Thread: counting by the owner only; scraping from any thread (relaxed atomics). Registration
 * and removal take the registry's lock.
 */
#ifndef FLUXMQ_BASE_METRICS_H
#define FLUXMQ_BASE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "protocol/base/env.h"

struct counter {
    _Atomic uint64_t value;
};

static inline void counter_add(struct counter *c, uint64_t n)
{
    /* One writer: a plain load and store are enough and cheaper than a locked add. */
    atomic_store_explicit(&c->value, atomic_load_explicit(&c->value, memory_order_relaxed) + n,
                          memory_order_relaxed);
}
static inline uint64_t counter_get(const struct counter *c)
{
    return atomic_load_explicit(&c->value, memory_order_relaxed);
}

/* Log-linear: 16 steps per power of two, 1 us to 2^36 us; a quantile is off by at most 1/16. */
#define HISTOGRAM_BUCKETS (33 * 16)
struct histogram {
    struct counter buckets[HISTOGRAM_BUCKETS];
    struct counter count, sum_us;
};

void histogram_record(struct histogram *h, uint64_t value_us);
/* Value at quantile q (0..1) in microseconds, 0 when empty. */
uint64_t histogram_quantile(const struct histogram *h, double q);
void histogram_merge(struct histogram *into, const struct histogram *from);

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE };

struct metrics;

struct metrics *metrics_new(struct env *env);
void metrics_free(struct metrics *m);
/* `labels` is `key="value",...` or "". `help` once per name. The counter outlives its entry. */
void metrics_add(struct metrics *m, enum metric_kind kind, const char *name, const char *labels,
                 const char *help, const struct counter *c);
void metrics_add_histogram(struct metrics *m, const char *name, const char *labels,
                           const char *help, const struct histogram *h);
/* A gauge that is computed at scrape; `read` runs on the scraping thread. */
void metrics_add_callback(struct metrics *m, enum metric_kind kind, const char *name,
                          const char *labels, const char *help, double (*read)(void *ctx),
                          void *ctx);
/* Prometheus text format 0.0.4, sorted by name and labels; malloc'ed, terminated. */
char *metrics_scrape(struct metrics *m, size_t *size);

#endif
