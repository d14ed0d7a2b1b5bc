/* raft-meta/session.c -- see session.h. */
#include "raft-meta/session.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "protocol/base/mutant.h"

struct session {
    int32_t node_id;
    int64_t broker_epoch; /* of the registration that this session is of; -1: none yet */
    struct uuid incarnation;
    bool alive;        /* a heartbeat has come since this began, or since it was fenced */
    uint64_t heard_ns; /* the last one, or when the session was granted */
    struct session_heartbeat last;
    /* Lag: when the node had what the controller had applied by then. */
    uint64_t sample_index, sample_ns, caught_up_ns;
    bool deciding; /* a command about it is under way */
    /* Evidence, against one incarnation. */
    bool has_gone, fenced_by_evidence;
    struct uuid gone;
    uint64_t ignore_until_ns, ignore_for_ns;
};

struct sessions {
    struct session_options o;
    struct session *list; /* sorted by node id */
    int count;
    bool begun;
    uint64_t looked_ns;
    struct session_counts counts;
};

struct sessions *sessions_new(const struct session_options *o)
{
    struct sessions *s = xcalloc(1, sizeof *s);

    s->o = *o;
    return s;
}

void sessions_free(struct sessions *s)
{
    free(s->list);
    free(s);
}

const struct session_counts *sessions_counts(const struct sessions *s)
{
    return &s->counts;
}

/* ---- the table ---- */

static struct session *find(const struct sessions *s, int32_t node_id)
{
    for (int k = 0; k < s->count; k++) {
        if (s->list[k].node_id == node_id)
            return &s->list[k];
    }
    return NULL;
}

/* NULL: there is no room. */
static struct session *of_node(struct sessions *s, int32_t node_id)
{
    struct session *found = find(s, node_id);
    int at = s->count;

    if (found != NULL || s->count == SESSIONS_MAX)
        return found;
    s->list = xrealloc(s->list, ((size_t)s->count + 1) * sizeof *s->list);
    for (; at > 0 && s->list[at - 1].node_id > node_id; at--)
        s->list[at] = s->list[at - 1];
    s->list[at] = (struct session){.node_id = node_id, .broker_epoch = -1};
    s->count++;
    return &s->list[at];
}

static void grant(struct session *e, const struct broker_image *b, uint64_t now_ns)
{
    bool same = uuid_eq(&e->incarnation, &b->incarnation);

    e->broker_epoch = b->epoch;
    e->incarnation = b->incarnation;
    e->alive = e->deciding = e->fenced_by_evidence = false;
    e->heard_ns = e->sample_ns = e->caught_up_ns = now_ns;
    e->sample_index = 0;
    e->last = (struct session_heartbeat){.broker_epoch = -1};
    if (!same)
        e->ignore_until_ns = e->ignore_for_ns = 0;
}

/* The session of a registered node, a new one with each registration. */
static struct session *of_broker(struct sessions *s, const struct broker_image *b, uint64_t now_ns)
{
    struct session *e = of_node(s, b->id);

    if (e != NULL && e->broker_epoch != b->epoch)
        grant(e, b, now_ns);
    return e;
}

void sessions_begin(struct sessions *s, const struct image *i, uint64_t now_ns)
{
    s->begun = true;
    s->looked_ns = now_ns;
    for (int k = 0; k < s->count; k++)
        s->list[k].broker_epoch = -1; /* what an earlier term knew is old */
    for (const struct broker_image *b = image_broker_next(i, -1); b != NULL;
         b = image_broker_next(i, b->id))
        (void)of_broker(s, b, now_ns);
}

void sessions_end(struct sessions *s)
{
    s->begun = false;
}

/* ---- what comes in ---- */

static void take_sample(struct session *e, const struct image *i, uint64_t now_ns)
{
    if (e->last.applied_index < e->sample_index)
        return;
    e->caught_up_ns = e->sample_ns;
    e->sample_index = image_index(i);
    e->sample_ns = now_ns;
    if (e->last.applied_index >= e->sample_index)
        e->caught_up_ns = now_ns;
}

/* It was not gone. When that had fenced it, the next evidence has to wait. */
static void evidence_was_false(struct sessions *s, struct session *e, uint64_t now_ns)
{
    e->has_gone = false;
    if (!e->fenced_by_evidence)
        return;
    e->fenced_by_evidence = false;
    e->ignore_for_ns = e->ignore_for_ns == 0 ? s->o.ignore_ns : 2 * e->ignore_for_ns;
    e->ignore_until_ns = now_ns + e->ignore_for_ns;
    counter_add(&s->counts.false_fences, 1);
}

void sessions_on_heartbeat(struct sessions *s, const struct image *i,
                           const struct peer_identity *from, const struct session_heartbeat *h,
                           uint64_t now_ns)
{
    const struct broker_image *b = image_broker(i, from->node_id);
    struct session *e;

    counter_add(&s->counts.heartbeats, 1);
    /* Of a process that is not, or not any more, the registered one. */
    if (b == NULL || !uuid_eq(&b->incarnation, &from->incarnation))
        return;
    e = of_broker(s, b, now_ns);
    if (e == NULL)
        return;
    if (e->has_gone && uuid_eq(&e->gone, &from->incarnation))
        evidence_was_false(s, e, now_ns);
    e->alive = true;
    e->heard_ns = now_ns;
    e->last = *h;
    take_sample(e, i, now_ns);
}

void sessions_on_gone(struct sessions *s, const struct peer_identity *who)
{
    struct session *e = of_node(s, who->node_id);

    if (e == NULL)
        return;
    e->has_gone = true;
    e->gone = who->incarnation;
}

void sessions_on_link(struct sessions *s, const struct peer_identity *who)
{
    struct session *e = find(s, who->node_id);

    /* The controller waits for the heartbeat, which also says that the fence was false. */
    if (e != NULL && !e->fenced_by_evidence && uuid_eq(&e->gone, &who->incarnation))
        e->has_gone = false;
}

/* ---- deciding ---- */

static bool is_stalled(const struct sessions *s, const struct session *e)
{
    return e->last.turn_age_ns > s->o.turn_ns_max || e->last.disk_age_ns > s->o.disk_ns_max;
}

/* `now` is later than `then`, or a tick of the same moment. */
static uint64_t since(uint64_t now_ns, uint64_t then_ns)
{
    return now_ns > then_ns ? now_ns - then_ns : 0;
}

static void say(struct session_decision *d, const char *fmt, ...) PRINTF(2, 3);
static void say(struct session_decision *d, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(d->cause, sizeof d->cause, fmt, args);
    va_end(args);
}

static bool should_fence(struct sessions *s, struct session *e, const struct broker_image *b,
                         uint64_t now_ns, struct session_decision *d)
{
    uint64_t silence = since(now_ns, e->heard_ns), lag = since(now_ns, e->caught_up_ns);

    if (e->has_gone && uuid_eq(&e->gone, &b->incarnation) && now_ns >= e->ignore_until_ns) {
        say(d, "its process is gone: the connection died and two connects were refused");
        e->fenced_by_evidence = true;
        counter_add(&s->counts.by_evidence, 1);
    } else if (silence > s->o.timeout_ns) {
        say(d, "silent for %" PRIu64 " ms", silence / 1000000);
        counter_add(&s->counts.by_silence, 1);
    } else if (e->alive && is_stalled(s, e)) {
        say(d, "stuck: a turn of a worker takes %" PRIu64 " ms, a disk operation %" PRIu64 " ms",
            e->last.turn_age_ns / 1000000, e->last.disk_age_ns / 1000000);
        counter_add(&s->counts.by_stall, 1);
    } else if (e->alive && lag > s->o.lag_ns) {
        say(d, "its image is %" PRIu64 " ms behind", lag / 1000000);
        counter_add(&s->counts.by_lag, 1);
    } else {
        return false;
    }
    return true;
}

static bool should_unfence(const struct sessions *s, const struct session *e,
                           const struct broker_image *b, uint64_t now_ns)
{
    return e->alive && e->last.serving && !b->in_controlled_shutdown &&
           e->last.broker_epoch == b->epoch && !is_stalled(s, e) &&
           !(e->has_gone && uuid_eq(&e->gone, &b->incarnation)) &&
           since(now_ns, e->heard_ns) <= s->o.timeout_ns &&
           since(now_ns, e->caught_up_ns) <= s->o.timeout_ns;
}

static bool decide(struct sessions *s, struct session *e, const struct broker_image *b,
                   uint64_t now_ns, struct session_decision *d)
{
    if (e->deciding)
        return false;
    *d = (struct session_decision){.node_id = b->id, .broker_epoch = b->epoch};
    if (!b->fenced && should_fence(s, e, b, now_ns, d)) {
        d->action = SESSION_FENCE;
        e->alive = false; /* what is heard from now on counts */
    } else if (b->fenced && should_unfence(s, e, b, now_ns)) {
        d->action = SESSION_UNFENCE;
        say(d, "heard, and caught up");
    } else {
        return false;
    }
    e->deciding = true;
    return true;
}

/* A controller that was stopped for a while has heard nobody, and must not hold it against them. */
static void forgive_own_absence(struct sessions *s, uint64_t now_ns)
{
    uint64_t away = since(now_ns, s->looked_ns);

    s->looked_ns = now_ns;
    if (away <= s->o.absence_ns || MUTANT(22))
        return;
    for (int k = 0; k < s->count; k++) {
        s->list[k].heard_ns += away;
        s->list[k].caught_up_ns += away;
        s->list[k].sample_ns += away;
    }
}

int sessions_decide(struct sessions *s, const struct image *i, uint64_t now_ns,
                    struct session_decision *out, int most)
{
    int count = 0;

    if (!s->begun)
        return 0;
    forgive_own_absence(s, now_ns);
    for (const struct broker_image *b = image_broker_next(i, -1); b != NULL && count < most;
         b = image_broker_next(i, b->id)) {
        struct session *e = of_broker(s, b, now_ns);

        if (e != NULL && decide(s, e, b, now_ns, &out[count]))
            count++;
    }
    return count;
}

void sessions_on_outcome(struct sessions *s, const struct session_decision *d, bool applied)
{
    struct session *e = find(s, d->node_id);

    if (applied)
        counter_add(d->action == SESSION_FENCE ? &s->counts.fences : &s->counts.unfences, 1);
    if (e != NULL && e->broker_epoch == d->broker_epoch)
        e->deciding = false;
}

bool sessions_is_over(const struct sessions *s, const struct image *i, int32_t node_id,
                      uint64_t now_ns)
{
    const struct broker_image *b = image_broker(i, node_id);
    const struct session *e = find(s, node_id);

    if (b == NULL || e == NULL || !s->begun || e->broker_epoch != b->epoch)
        return false;
    return (e->has_gone && uuid_eq(&e->gone, &b->incarnation)) ||
           since(now_ns, e->heard_ns) > s->o.timeout_ns;
}
