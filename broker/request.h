/* broker/request.h -- one request from the moment its frame is whole until its answer is queued.
 *
 * A handler translates, authorizes, calls one deep function, and translates back. It owns the
 * request until exactly one of request_send(), request_finish_silent() is called, now or later:
 * a handler that must wait keeps the request and continues on the same worker
 * (request_post(), request_park()).
 *
 * Order on a connection [H11] is the connection's business: it calls a handler only when the
 * request may start, and sends answers in request order.
 *
 * Thread: the worker that owns the connection. Memory: everything of a request lies in its arena
 * or in the receive buffer, and goes with it; the receive buffer of a Produce goes before, when
 * only acknowledgements are waited for.
 */
#ifndef FLUXMQ_BROKER_REQUEST_H
#define FLUXMQ_BROKER_REQUEST_H

#include "protocol/api.h"
#include "protocol/base/arena.h"
#include "protocol/base/env.h"
#include "protocol/base/list.h"
#include "raft-meta/raft_node.h"

struct conn;
struct node;
struct worker;
struct listener_config;

struct request {
    struct list_node node; /* in the connection's queue */
    struct conn *conn;     /* NULL once the connection is gone: answers are dropped */
    struct worker *worker;
    struct node *home; /* the node: replica manager, config, raft node, ... */
    const struct api_desc *api;
    int16_t version;
    int32_t correlation_id;
    struct str client_id; /* null: none */
    void *body;           /* struct x_request, decoded, defaults filled */
    void *response;       /* struct x_response from request_response() */
    uint64_t started_ns;  /* when the handler was called; request_now_ns() for later */
    struct arena arena;
    struct iobuf *frame; /* the receive buffer that body points into; NULL once appended */
    enum { REQUEST_QUEUED, REQUEST_STARTED, REQUEST_APPENDED, REQUEST_ANSWERED } state;
    bool silent;                            /* answered with nothing (acks=0) */
    bool close_after;                       /* close the connection once earlier answers are out */
    struct ioqueue out;                     /* the encoded answer */
    const struct listener_config *listener; /* that the client came in on */
    uint64_t received_ns;                   /* when its frame was whole */
    size_t frame_bytes, body_offset;
    struct message message; /* for request_post() */
    struct job job;         /* for request_on_pool() */
    void (*work)(struct request *r);
    void (*resume)(struct request *r);
    struct loop_timer timer; /* for request_park() */
    void (*on_deadline)(struct request *r);
    /* Set while it waits and the next request of the connection ends the wait: a follower's Fetch
     * [H12]. The handler answers then; it is called once. */
    void (*on_superseded)(struct request *r);
    void *handler_state;      /* the handler's own, in the arena */
    struct proposal proposal; /* for request_propose() */
};

/* The answer's struct, with the schema's defaults; one per request. NULL never: the request is
 * ended with an error instead (the arena's budget is enforced by the connection). */
void *request_response(struct request *r);

/* Makes an array in the answer or anywhere in the arena: sets field.v and field.n, elements with
 * the schema's defaults. Ends the request (closing the connection: no answer could be built) and
 * returns from the calling function when the arena's budget is used up. */
#define REQUEST_ARRAY(r, field, count, struct_name)                                                \
    do {                                                                                           \
        if (!CODEC_ARRAY(&(r)->arena, field, (count), struct_name)) {                              \
            request_overflow(r);                                                                   \
            return;                                                                                \
        }                                                                                          \
    } while (0)
#define REQUEST_ARRAY_PLAIN(r, field, count)                                                       \
    do {                                                                                           \
        if (!CODEC_ARRAY_PLAIN(&(r)->arena, field, (count))) {                                     \
            request_overflow(r);                                                                   \
            return;                                                                                \
        }                                                                                          \
    } while (0)
void request_overflow(struct request *r);

/* Encodes r->response and hands the answer to the connection; the request is gone for the caller.
 * A response that its version cannot carry is a bug of the handler: CHECK. */
void request_send(struct request *r);
/* acks=0: no answer; with `failed`, earlier answers are flushed and the connection closes. */
void request_finish_silent(struct request *r, bool failed);
/* The whole request cannot be served and has no error field that could say so: one log line with
 * peer and reason, earlier answers are flushed, the connection closes. */
void request_reject(struct request *r, const char *reason);
/* From Produce, once everything is appended and only acknowledgements are waited for: the receive
 * buffer goes, and with it every string and record of the body (the answer must not point there
 * any more); the next Produce of the connection may start [H11]. */
void request_appended(struct request *r);

/* Runs `resume(r)` on the request's worker; from any thread, one at a time. The request stays
 * alive meanwhile even when the connection has gone (r->conn is NULL then: still end it). */
void request_post(struct request *r, void (*resume)(struct request *r));
/* Runs `resume(r)` at the deadline unless request_unpark() came before. On the worker. */
void request_park(struct request *r, uint64_t deadline_ns, void (*resume)(struct request *r));
void request_unpark(struct request *r);
/* Runs work(r) on a pool thread, then resume(r) on the worker. */
void request_on_pool(struct request *r, void (*work)(struct request *r),
                     void (*resume)(struct request *r));
/* Proposes `command` (borrowed until `done`; make it in the arena) and then runs done(r) on the
 * worker with r->proposal.err and .outcome set. */
void request_propose(struct request *r, MetaCommand *command, int32_t timeout_ms,
                     void (*done)(struct request *r));

uint64_t request_now_ns(const struct request *r);
int64_t request_unix_ms(const struct request *r);
/* The newest image, borrowed until the handler returns. */
const struct image *request_image(const struct request *r);
/* The listener the client came in on. */
const struct listener_config *request_listener(const struct request *r);
const char *request_peer(const struct request *r);
const char *request_peer_host(const struct request *r);

/* A copy in the arena, the null string when the budget is used up (answers only: error texts). */
struct str request_text(struct request *r, const char *fmt, ...) PRINTF(2, 3);

typedef void handler_fn(struct request *r);

#endif
