#include "broker/handlers/waiter.h"

bool waiter_init(struct waiter *w, struct request *r, int32_t count,
                 void (*check)(struct request *r), void (*expire)(struct request *r))
{
    w->request = r;
    w->check = check;
    w->expire = expire;
    w->count = count;
    w->entries = arena_array(&r->arena, (size_t)MAX(count, 1), sizeof *w->entries);
    return w->entries != NULL;
}

static void on_message(struct request *r)
{
    struct waiter *w = waiter_of(r);

    atomic_store(&w->posted, false); /* before looking: what moves from now on posts again */
    if (w->after != NULL)
        w->after(r);
    else
        w->check(r);
}

/* With the replica's lock held, on any thread. */
static void on_wake(struct replica_wait *wait, enum replica_event event)
{
    struct waiter_entry *e = CONTAINER_OF(wait, struct waiter_entry, wait);
    struct waiter *w = e->waiter;

    (void)event; /* what changed is asked of the replica */
    atomic_store(&e->woken, true);
    if (!atomic_exchange(&w->posted, true))
        request_post(w->request, on_message);
}

static void watch(struct waiter *w, int32_t i, struct replica *replica,
                  const struct replica_wait *how)
{
    struct waiter_entry *e = &w->entries[i];

    CHECK(!e->watched);
    e->replica = replica;
    e->waiter = w;
    e->watched = true;
    e->wait = *how;
    e->wait.wake = on_wake;
    atomic_store(&e->woken, false);
    replica_wait_add(replica, &e->wait);
}

void waiter_watch(struct waiter *w, int32_t i, struct replica *replica, int64_t offset,
                  bool durable)
{
    watch(w, i, replica, &(struct replica_wait){.offset = offset, .durable = durable});
}

void waiter_watch_log_end(struct waiter *w, int32_t i, struct replica *replica, int64_t offset,
                          int64_t high_watermark)
{
    watch(w, i, replica,
          &(struct replica_wait){
              .offset = offset, .log_end = true, .high_watermark = high_watermark});
}

bool waiter_take_woken(struct waiter *w, int32_t i)
{
    struct waiter_entry *e = &w->entries[i];

    if (e->watched && !atomic_load(&e->woken))
        return false;
    e->watched = false; /* waking has unregistered it */
    return true;
}

void waiter_unwatch(struct waiter *w, int32_t i)
{
    struct waiter_entry *e = &w->entries[i];

    if (e->watched)
        replica_wait_remove(e->replica, &e->wait);
    e->watched = false;
}

static void on_deadline(struct request *r)
{
    waiter_of(r)->expire(r);
}

void waiter_set_deadline(struct waiter *w, uint64_t deadline_ns)
{
    request_park(w->request, deadline_ns, on_deadline);
}

void waiter_stop(struct waiter *w, void (*after)(struct request *r))
{
    CHECK(w->after == NULL);
    request_unpark(w->request);
    for (int32_t i = 0; i < w->count; i++)
        waiter_unwatch(w, i);
    /* No replica wakes us any more; one may have done so just now. */
    if (atomic_load(&w->posted)) {
        w->after = after;
        return;
    }
    after(w->request);
}
