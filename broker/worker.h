/* broker/worker.h -- one event loop with the connections that live on it.
 *
 * A connection goes at accept to the worker with the fewest and lives and dies there. The worker
 * owns what its connections share: the image cache, counters, the block of producer ids, the
 * budget of bytes in flight.
 *
 * Thread: its own, but for worker_post_* and the counters.
 */
#ifndef FLUXMQ_BROKER_WORKER_H
#define FLUXMQ_BROKER_WORKER_H

#include "protocol/base/env.h"
#include "protocol/base/hmap.h"
#include "protocol/base/list.h"
#include "protocol/base/metrics.h"
#include "raft-meta/image.h"

struct node;
struct conn;
struct decompressor;
struct topic_settings_cache;

/* Per-worker counters; registered under Kafka's names in node.c. */
struct worker_metrics {
    struct counter bytes_in, bytes_out; /* record bytes of Produce and Fetch */
    struct counter messages_in;
    struct counter produce_requests, fetch_requests;
    struct counter failed_produce_requests, failed_fetch_requests;
    struct counter connections_accepted, connections_closed, connections_rejected;
    struct counter bad_requests;               /* closed for what they sent (P9) */
    struct counter requests[128], errors[128]; /* by API key */
    struct histogram *latency[128];            /* by API key, made at start */
    struct counter duplicate_batches;
};

/* One socket read's worth; idle connections own no buffer. */
#define WORKER_SCRATCH_BYTES (64 * 1024)
/* Receive buffers kept for the next frame, by power of two from 4 KiB to 2 MiB: memory that was
 * free is slow to touch again. As much as one connection may fill while its log makes room, at the
 * default of connection.inflight.bytes.max, and the frames beside that. */
#define FRAME_CLASSES         10
#define FRAME_CACHE_BYTES_MAX (12 * 1024 * 1024)
#define BAD_PEERS_REMEMBERED  1024

struct frame_buffer;

struct worker {
    struct node *node;
    int index;
    struct loop *loop;
    struct image_cache images;
    struct list conns;      /* the longest idle first */
    _Atomic int conn_count; /* read by whoever accepts */
    int64_t inflight_bytes; /* received and not yet answered */
    int64_t inflight_bytes_max;
    struct list starved;    /* connections that wait for inflight_bytes to fall */
    struct conn *finishing; /* the one that may receive beyond inflight_bytes_max; see conn.c */
    struct list flush;      /* connections with answers to send at the end of this turn */
    struct list orphans;    /* requests whose connection has gone, until their handler ends them */
    struct loop_timer tick;
    uint8_t *scratch; /* WORKER_SCRATCH_BYTES */
    struct frame_buffer *frames[FRAME_CLASSES];
    size_t frames_cached_bytes;
    struct hmap bad_peers; /* (host, reason) already logged (P9) */
    bool closing;
    int64_t producer_id_next, producer_id_end; /* the block in hand */
    struct list producer_id_waiters;
    bool producer_id_pending;
    /* Produce's, kept from one request to the next. */
    struct topic_settings_cache *topic_settings;
    struct decompressor *decompressor;
    struct worker_metrics metrics;
};

/* A receive buffer of `size` bytes, from the cache where it can. On the worker. */
struct iobuf *worker_frame_new(struct worker *w, size_t size);
/* Its bytes, writable as long as nobody else holds it. */
uint8_t *worker_frame_bytes(struct iobuf *frame);
/* True the first time this host does this: then the caller logs it. On the worker. */
bool worker_first_offence(struct worker *w, const char *host, const char *reason);
/* The newest image, borrowed until the next call. On the worker. */
struct image *worker_image(struct worker *w);

MUST_USE enum err worker_new(struct node *n, int index, struct worker **out, struct errmsg *why);
/* Closes all connections; requests under way end as orphans. From any thread. */
void worker_close_connections(struct worker *w);
/* Ends the loop, which must have no orphans left. From the main thread. */
void worker_free(struct worker *w);

#endif
