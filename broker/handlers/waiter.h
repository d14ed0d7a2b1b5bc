/* broker/handlers/waiter.h -- a request that waits for replicas: register, then check again.
 *
 * The purgatory is a wait list in each replica (replica_wait) plus a timer on the request's
 * worker; this ties the two to one request. Replicas wake from any thread; several wake-ups that
 * come together are one message to the worker, and the request ends only when none is under way.
 *
 * Thread: the request's worker, but for what happens inside a wake-up.
 */
#ifndef FLUXMQ_BROKER_HANDLERS_WAITER_H
#define FLUXMQ_BROKER_HANDLERS_WAITER_H

#include <stdatomic.h>

#include "broker/request.h"
#include "replication/replica_manager.h"

struct waiter;

/* One partition that is waited for. */
struct waiter_entry {
    struct replica_wait wait;
    struct replica *replica; /* borrowed: the handler's arena holds it */
    struct waiter *waiter;
    _Atomic bool woken; /* since it was last watched */
    bool watched;
};

struct waiter {
    struct request *request;
    struct waiter_entry *entries;
    int32_t count;
    void (*check)(struct request *r);  /* something has moved */
    void (*expire)(struct request *r); /* the deadline has passed */
    void (*after)(struct request *r);  /* what follows waiter_stop() */
    _Atomic bool posted;               /* a message is on its way to the worker */
};

/* Memory from the request's arena; false when its budget is used up. */
MUST_USE bool waiter_init(struct waiter *w, struct request *r, int32_t count,
                          void (*check)(struct request *r), void (*expire)(struct request *r));
/* From now on `check` runs when entry i's replica has reached `offset` (replica_wait) or has
 * changed. Having registered, the caller looks again: it may have been so already. */
void waiter_watch(struct waiter *w, int32_t i, struct replica *replica, int64_t offset,
                  bool durable);
/* The same for a follower: once the log ends at `offset` or beyond, or the high watermark is above
 * the one given. */
void waiter_watch_log_end(struct waiter *w, int32_t i, struct replica *replica, int64_t offset,
                          int64_t high_watermark);
/* Whether entry i was woken (or never watched); clears it. */
bool waiter_take_woken(struct waiter *w, int32_t i);
void waiter_unwatch(struct waiter *w, int32_t i);
void waiter_set_deadline(struct waiter *w, uint64_t deadline_ns);
/* Unregisters everything, stops the timer, and runs `after`: now, or when the message that is on
 * its way has come. */
void waiter_stop(struct waiter *w, void (*after)(struct request *r));

/* The waiter of a request: handler_state begins with it. */
static inline struct waiter *waiter_of(struct request *r)
{
    return r->handler_state;
}

#endif
