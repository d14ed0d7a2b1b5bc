#include "broker/request.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/conn.h"
#include "broker/dispatch.h"
#include "broker/node.h"
#include "protocol/frame.h"

/* ---- life ---- */

static void request_free(struct request *r)
{
    loop_timer_stop(&r->timer);
    ioqueue_deinit(&r->out);
    arena_deinit(&r->arena);
    if (r->frame != NULL)
        iobuf_unref(r->frame);
    free(r);
}

void request_detach(struct request *r)
{
    if (r->state == REQUEST_QUEUED || r->state == REQUEST_ANSWERED) {
        request_free(r);
        return;
    }
    r->conn = NULL;
    list_push_back(&r->worker->orphans, &r->node);
}

static void count_answer(struct request *r)
{
    struct worker_metrics *m = &r->worker->metrics;
    uint64_t us = (env_now_ns(r->home->env) - r->received_ns) / 1000;

    counter_add(&m->requests[r->api->key], 1);
    histogram_record(m->latency[r->api->key], us);
}

/* The handler's last word. */
static void request_end(struct request *r)
{
    struct conn *c = r->conn;

    CHECK(r->state == REQUEST_STARTED || r->state == REQUEST_APPENDED);
    r->state = REQUEST_ANSWERED;
    loop_timer_stop(&r->timer);
    if (c == NULL) {
        list_remove(&r->node);
        request_free(r);
        return;
    }
    count_answer(r);
    conn_request_answered(c);
}

void *request_response(struct request *r)
{
    CHECK(r->response == NULL);
    r->response = arena_alloc(&r->arena, r->api->response->size);
    CHECK(r->response != NULL); /* dispatch keeps room for it in the budget */
    codec_init(r->api->response, r->response);
    return r->response;
}

void request_send(struct request *r)
{
    /* ApiVersions of an unknown version is answered in version 0 (KIP-511). */
    enum err e = response_encode(r->api, r->version, r->correlation_id, r->response, &r->out);

    if (e == ERR_TOO_LARGE) {
        request_reject(r, "the answer would be larger than any frame");
        return;
    }
    CHECK(e == ERR_NONE);
    request_end(r);
}

void request_finish_silent(struct request *r, bool failed)
{
    r->silent = true;
    r->close_after = failed;
    request_end(r);
}

void request_reject(struct request *r, const char *reason)
{
    struct worker *w = r->worker;

    counter_add(&w->metrics.bad_requests, 1);
    if (r->conn != NULL && worker_first_offence(w, conn_peer_host(r->conn), reason))
        log_warn(r->home->logger, "conn", "%s: closing after %s v%d: %s (told once for this peer)",
                 conn_peer(r->conn), r->api->name, r->version, reason);
    r->close_after = true;
    request_end(r);
}

void request_overflow(struct request *r)
{
    request_reject(r, "the request needs more memory than one request may have");
}

void request_appended(struct request *r)
{
    CHECK(r->state == REQUEST_STARTED);
    r->state = REQUEST_APPENDED;
    r->client_id = STR_NULL;
    iobuf_unref(r->frame);
    r->frame = NULL;
    if (r->conn != NULL)
        conn_request_appended(r->conn, r);
}

/* ---- waiting ---- */

static void on_resume(struct message *m)
{
    struct request *r = CONTAINER_OF(m, struct request, message);

    r->resume(r);
}

void request_post(struct request *r, void (*resume)(struct request *r))
{
    r->resume = resume;
    r->message.run = on_resume;
    loop_post(r->worker->loop, &r->message);
}

static void on_deadline(struct loop_timer *t)
{
    struct request *r = CONTAINER_OF(t, struct request, timer);

    r->on_deadline(r);
}

void request_park(struct request *r, uint64_t deadline_ns, void (*resume)(struct request *r))
{
    r->on_deadline = resume;
    loop_timer_stop(&r->timer);
    loop_timer_init(&r->timer, r->worker->loop, on_deadline);
    loop_timer_set(&r->timer, deadline_ns);
}

void request_unpark(struct request *r)
{
    loop_timer_stop(&r->timer);
}

void request_expire(struct request *r)
{
    if (!loop_timer_is_set(&r->timer))
        return;
    loop_timer_stop(&r->timer);
    r->on_deadline(r);
}

static void job_work(struct job *j)
{
    struct request *r = CONTAINER_OF(j, struct request, job);

    r->work(r);
}

static void job_done(struct job *j)
{
    struct request *r = CONTAINER_OF(j, struct request, job);

    r->resume(r);
}

void request_on_pool(struct request *r, void (*work)(struct request *r),
                     void (*resume)(struct request *r))
{
    r->work = work;
    r->resume = resume;
    r->job.work = job_work;
    r->job.done = job_done;
    r->job.report_to = r->worker->loop;
    env_pool_submit(r->home->env, JOB_SHORT, &r->job);
}

static void on_outcome_released(void *p)
{
    proposal_release(p);
}

static void on_outcome(struct proposal *p)
{
    struct request *r = CONTAINER_OF(p, struct request, proposal);

    arena_hold(&r->arena, p, on_outcome_released);
    r->resume(r);
}

void request_propose(struct request *r, MetaCommand *command, int32_t timeout_ms,
                     void (*done)(struct request *r))
{
    struct proposal *p = &r->proposal;

    memset(p, 0, sizeof *p);
    p->command = command;
    p->lane = NODE_LANE_WORKER(r->worker->index);
    p->deadline_ns = request_now_ns(r) + (uint64_t)MAX(timeout_ms, 1) * 1000000u;
    p->loop = r->worker->loop;
    p->done = on_outcome;
    r->resume = done;
    raft_node_propose(r->home->raft, p);
}

/* ---- what handlers ask ---- */

uint64_t request_now_ns(const struct request *r)
{
    return env_now_ns(r->home->env);
}

int64_t request_unix_ms(const struct request *r)
{
    return env_unix_ms(r->home->env);
}

const struct image *request_image(const struct request *r)
{
    return worker_image(r->worker);
}

const struct listener_config *request_listener(const struct request *r)
{
    return r->listener;
}

const char *request_peer(const struct request *r)
{
    return r->conn != NULL ? conn_peer(r->conn) : "(gone)";
}

const char *request_peer_host(const struct request *r)
{
    return r->conn != NULL ? conn_peer_host(r->conn) : "(gone)";
}

struct str request_text(struct request *r, const char *fmt, ...)
{
    char text[1024];
    struct str out = STR_NULL;
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!arena_str(&r->arena, str_from(text), &out))
        return STR_NULL;
    return out;
}
