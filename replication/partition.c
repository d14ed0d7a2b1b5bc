#include "replication/partition.h"

#include <stdlib.h>

/* Until partition_on_tick() has brought the configured one. */
#define LAG_MAX_NS_DEFAULT (30ull * 1000000000u)

/* A moment that has not been; the clock may start at it, so moments are kept one later. */
#define NEVER 0

static uint64_t moment(uint64_t now_ns)
{
    return now_ns + 1;
}

/* One replica as the image names it, and what the leader knows of it. */
struct member {
    int32_t id;
    /* Told by the image. */
    int64_t registered_epoch; /* -1: unknown */
    bool live;                /* unfenced and not shutting down */
    bool in_isr;              /* committed in partition_epoch */
    bool proposed;            /* in the proposal in flight (R7) */
    bool unresolved;          /* in one of this partition epoch whose outcome is unknown (R7) */
    /* Told by its fetches in this leader epoch; -1: none yet (R4). */
    int64_t log_end_offset, durable_end_offset, log_start_offset;
    int64_t fetched_epoch; /* the broker epoch that it fetched with */
    /* The leader's end at some earlier fetch, and when that was: once the follower has reached it,
     * it was caught up then, although the log has grown since. */
    int64_t mark_end;
    uint64_t mark_ns, caught_up_ns; /* NEVER, or when */
};

struct partition {
    int32_t node_id;
    enum partition_role role;
    int32_t leader, leader_epoch, partition_epoch;
    int effective_min_isr;
    bool recovering;
    struct member *members; /* all replicas, this node among them, in the image's order */
    int member_count;
    int isr_count;
    bool in_flight; /* a proposal is */
    int64_t high_watermark;
    int64_t epoch_start_offset; /* leader: where its epoch began */
    uint64_t lag_max_ns;
};

struct partition *partition_new(int32_t node_id, int64_t high_watermark_checkpoint)
{
    struct partition *p = xcalloc(1, sizeof *p);

    p->node_id = node_id;
    p->role = PARTITION_OFFLINE;
    p->leader = -1;
    p->leader_epoch = -1;
    p->partition_epoch = -1;
    p->high_watermark = MAX(high_watermark_checkpoint, 0);
    p->lag_max_ns = LAG_MAX_NS_DEFAULT;
    return p;
}

void partition_free(struct partition *p)
{
    if (p == NULL)
        return;
    free(p->members);
    free(p);
}

/* ---- looking ---- */

enum partition_role partition_role(const struct partition *p)
{
    return p->role;
}

int32_t partition_leader(const struct partition *p)
{
    return p->leader;
}

int32_t partition_leader_epoch(const struct partition *p)
{
    return p->leader_epoch;
}

int64_t partition_high_watermark(const struct partition *p)
{
    return p->high_watermark;
}

int partition_isr_count(const struct partition *p)
{
    return p->isr_count;
}

int partition_replica_count(const struct partition *p)
{
    return p->member_count;
}

bool partition_under_min_isr(const struct partition *p)
{
    return p->role == PARTITION_LEADER && p->isr_count < p->effective_min_isr;
}

static struct member *find_member(const struct partition *p, int32_t id)
{
    for (int i = 0; i < p->member_count; i++)
        if (p->members[i].id == id)
            return &p->members[i];
    return NULL;
}

/* Of the union of the committed ISR and of every proposal whose outcome is not known. A shrink
 * never removes anyone before it is committed. */
static bool in_maximal_isr(const struct member *m)
{
    return m->in_isr || m->proposed || m->unresolved;
}

/* ---- effects ---- */

static struct effect *effects_push(struct effects *out, enum effect_kind kind)
{
    CHECK(out->count < EFFECTS_MAX);

    struct effect *e = &out->list[out->count++];

    e->kind = kind;
    e->err = ERR_NONE;
    return e;
}

static void push_high_watermark(struct partition *p, int64_t high_watermark, struct effects *out)
{
    p->high_watermark = high_watermark;
    /* One event may move it twice: only where it ends matters. */
    for (int i = 0; i < out->count; i++) {
        if (out->list[i].kind == EFFECT_HW_ADVANCED) {
            out->list[i].offset = high_watermark;
            return;
        }
    }
    effects_push(out, EFFECT_HW_ADVANCED)->offset = high_watermark;
}

/* ---- the high watermark ---- */

/* What counts of this node's own log (R5). */
static int64_t own_end(const struct log_view *log)
{
    return log->durable_counts ? log->durable_end_offset : log->log_end_offset;
}

/* What counts of a follower's log: nothing before it has fetched in this leader and broker epoch
 * (R4). */
static int64_t counted_end(const struct member *m, bool durable_counts)
{
    if (m->fetched_epoch < 0 || m->fetched_epoch != m->registered_epoch)
        return -1;
    return durable_counts ? m->durable_end_offset : m->log_end_offset;
}

/* May be proposed for the ISR: alive, and what we know of it is of its present life (KIP-903). */
static bool is_eligible(const struct member *m)
{
    return m->live && m->fetched_epoch >= 0 && m->fetched_epoch == m->registered_epoch;
}

/* One that fetches but does not get its records onto its disk lags, where that counts (R5): it
 * holds the high watermark back like one that does not fetch. */
static bool is_caught_up(const struct partition *p, const struct member *m,
                         const struct log_view *log, uint64_t now_ns)
{
    if (counted_end(m, log->durable_counts) >= log->log_end_offset)
        return true;
    return m->caught_up_ns != NEVER && moment(now_ns) <= m->caught_up_ns + p->lag_max_ns;
}

/* The lowest end over the maximal ISR and over whoever is caught up and about to join: without
 * the latter a follower could chase a moving high watermark for ever and never get in (R3). It
 * never moves back, for a consumer may have read up to it (R2). */
static void advance_high_watermark(struct partition *p, const struct log_view *log, uint64_t now_ns,
                                   struct effects *out)
{
    CHECK(p->role == PARTITION_LEADER);
    if (partition_under_min_isr(p))
        return; /* an ELR member must hold all that was ever below the HW (KIP-966) */

    int64_t lowest = own_end(log);

    for (int i = 0; i < p->member_count; i++) {
        const struct member *m = &p->members[i];

        if (m->id == p->node_id)
            continue;
        if (in_maximal_isr(m) || (is_eligible(m) && is_caught_up(p, m, log, now_ns)))
            lowest = MIN(lowest, counted_end(m, log->durable_counts));
    }
    if (lowest > p->high_watermark)
        push_high_watermark(p, lowest, out);
}

/* A checkpoint may lie below a start that has moved since, or above a log that was cut. */
static void clamp_high_watermark(struct partition *p, const struct log_view *log)
{
    p->high_watermark = MIN(p->high_watermark, log->log_end_offset);
    p->high_watermark = MAX(p->high_watermark, log->log_start_offset);
}

/* ---- ISR proposals ---- */

static void clear_proposed(struct partition *p)
{
    for (int i = 0; i < p->member_count; i++)
        p->members[i].proposed = false;
}

/* Proposes the members that are marked `proposed`. */
static void propose(struct partition *p, struct effects *out)
{
    struct effect *e = effects_push(out, EFFECT_ALTER_ISR);

    CHECK(!p->in_flight);
    p->in_flight = true;
    e->epoch = p->leader_epoch;
    e->partition_epoch = p->partition_epoch;
    e->recovered = p->recovering;
    e->isr_count = 0;
    for (int i = 0; i < p->member_count; i++) {
        const struct member *m = &p->members[i];

        if (!m->proposed)
            continue;
        e->isr[e->isr_count] = m->id;
        /* A member that has not fetched from this leader is not vouched for; should it have died,
         * its fencing has moved the partition epoch and refuses this proposal. */
        e->isr_broker_epochs[e->isr_count] =
            m->id == p->node_id ? m->registered_epoch : m->fetched_epoch;
        e->isr_count++;
    }
}

/* A follower joins once it has all that consumers may have read and all of earlier epochs: else it
 * could lead before it holds what was committed between the leader's HW and its epoch's start. None
 * joins before an unclean election is settled, which is with the leader alone [H21c]. */
static void maybe_expand_isr(struct partition *p, struct member *joins, const struct log_view *log,
                             struct effects *out)
{
    int64_t end = counted_end(joins, log->durable_counts);

    if (p->in_flight || p->recovering || joins->in_isr || !is_eligible(joins) ||
        end < p->high_watermark || end < p->epoch_start_offset)
        return;
    for (int i = 0; i < p->member_count; i++)
        p->members[i].proposed = p->members[i].in_isr;
    joins->proposed = true;
    propose(p, out);
}

/* Who had fetched all before it was unfenced, or while another proposal was in flight, need not
 * fetch again: that may be as far away as its long poll is long. */
static void maybe_expand_isr_by_any(struct partition *p, const struct log_view *log,
                                    uint64_t now_ns, struct effects *out)
{
    for (int i = 0; i < p->member_count && !p->in_flight; i++)
        if (p->members[i].id != p->node_id && is_caught_up(p, &p->members[i], log, now_ns))
            maybe_expand_isr(p, &p->members[i], log, out);
}

void partition_on_isr_result(struct partition *p, int32_t partition_epoch, bool refused,
                             const struct log_view *log, uint64_t now_ns, struct effects *out)
{
    out->count = 0;
    if (p->role != PARTITION_LEADER || !p->in_flight || partition_epoch != p->partition_epoch)
        return; /* settled by a newer partition epoch */
    p->in_flight = false;
    for (int i = 0; i < p->member_count; i++) {
        struct member *m = &p->members[i];

        m->unresolved = m->unresolved || (m->proposed && !refused);
        m->proposed = false;
    }
    advance_high_watermark(p, log, now_ns, out);
}

void partition_on_tick(struct partition *p, const struct log_view *log, uint64_t lag_max_ns,
                       uint64_t now_ns, struct effects *out)
{
    out->count = 0;
    p->lag_max_ns = lag_max_ns;
    if (p->role != PARTITION_LEADER)
        return;
    /* A follower outside the ISR may have stopped being caught up: it holds nothing back then. */
    advance_high_watermark(p, log, now_ns, out);
    if (p->in_flight)
        return;

    int lagging = 0;

    for (int i = 0; i < p->member_count; i++) {
        struct member *m = &p->members[i];
        bool lags = m->in_isr && m->id != p->node_id && !is_caught_up(p, m, log, now_ns);

        m->proposed = m->in_isr && !lags;
        lagging += lags;
    }
    if (lagging > 0 || p->recovering)
        propose(p, out);
    else
        clear_proposed(p);
}

/* ---- the image moved ---- */

static int64_t registered_epoch_of(const struct partition_state *s, int i, bool *live)
{
    *live = s->live_broker_epochs[i] >= 0;
    if (*live)
        return s->live_broker_epochs[i];
    for (int j = 0; j < s->isr_count; j++)
        if (s->isr[j] == s->replicas[i])
            return s->isr_broker_epochs[j];
    return -1;
}

static bool is_in(const int32_t *ids, int count, int32_t id)
{
    for (int i = 0; i < count; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static struct member new_member(int32_t id)
{
    return (struct member){
        .id = id,
        .registered_epoch = -1,
        .log_end_offset = -1,
        .durable_end_offset = -1,
        .log_start_offset = -1,
        .fetched_epoch = -1,
    };
}

/* Takes over the replicas, keeping what is known of those that stay. A newer partition epoch has
 * settled all proposals of the one before. */
static void take_members(struct partition *p, const struct partition_state *s, uint64_t now_ns)
{
    struct member *members = xcalloc((size_t)MAX(s->replica_count, 1), sizeof *members);
    bool newer = s->partition_epoch > p->partition_epoch;
    int isr_found = 0;

    for (int i = 0; i < s->replica_count; i++) {
        const struct member *old = find_member(p, s->replicas[i]);

        members[i] = old != NULL ? *old : new_member(s->replicas[i]);
        members[i].registered_epoch = registered_epoch_of(s, i, &members[i].live);
        members[i].in_isr = is_in(s->isr, s->isr_count, s->replicas[i]);
        isr_found += members[i].in_isr;
        if (members[i].in_isr && members[i].caught_up_ns == NEVER)
            members[i].caught_up_ns = moment(now_ns); /* the full lag time to be heard of */
        if (newer)
            members[i].proposed = members[i].unresolved = false;
    }
    CHECK(isr_found == s->isr_count); /* the state machine keeps the ISR inside the replicas */
    free(p->members);
    p->members = members;
    p->member_count = s->replica_count;
    p->isr_count = s->isr_count;
    if (newer)
        p->in_flight = false;
}

static void become_leader(struct partition *p, const struct log_view *log, uint64_t now_ns,
                          struct effects *out)
{
    p->epoch_start_offset = log->log_end_offset;
    for (int i = 0; i < p->member_count; i++) {
        struct member *m = &p->members[i];

        m->log_end_offset = m->durable_end_offset = m->log_start_offset = -1;
        m->fetched_epoch = -1;
        m->mark_ns = NEVER;
        m->caught_up_ns = m->in_isr ? moment(now_ns) : NEVER;
    }
    effects_push(out, EFFECT_BEGIN_EPOCH)->epoch = p->leader_epoch;
}

static enum partition_role role_in(const struct partition *p, const struct partition_state *s)
{
    if (s->leader == p->node_id)
        return PARTITION_LEADER;
    return is_in(s->replicas, s->replica_count, p->node_id) ? PARTITION_FOLLOWER
                                                            : PARTITION_OFFLINE;
}

void partition_on_state(struct partition *p, const struct partition_state *s,
                        const struct log_view *log, uint64_t now_ns, struct effects *out)
{
    out->count = 0;
    CHECK(s->replica_count >= 0 && s->replica_count <= PARTITION_REPLICAS_MAX);
    CHECK(s->isr_count >= 0 && s->isr_count <= s->replica_count);
    if (s->partition_epoch < p->partition_epoch || s->leader_epoch < p->leader_epoch)
        return; /* R1 */

    bool led = p->role == PARTITION_LEADER;
    bool new_epoch = s->leader_epoch > p->leader_epoch;

    take_members(p, s, now_ns);
    p->role = role_in(p, s);
    p->leader = s->leader;
    p->leader_epoch = s->leader_epoch;
    p->partition_epoch = s->partition_epoch;
    p->effective_min_isr = s->effective_min_isr;
    p->recovering = s->recovering;
    if (!led)
        clamp_high_watermark(p, log);

    if (led && (p->role != PARTITION_LEADER || new_epoch))
        effects_push(out, EFFECT_FAIL_WAITERS)->err = ERR_NOT_LEADER_OR_FOLLOWER;
    if (p->role != PARTITION_LEADER)
        return;
    if (!led || new_epoch)
        become_leader(p, log, now_ns, out);
    /* First the proposal: who joins must hold the high watermark from this moment on. */
    maybe_expand_isr_by_any(p, log, now_ns, out);
    advance_high_watermark(p, log, now_ns, out);
    if (p->recovering && !p->in_flight) {
        for (int i = 0; i < p->member_count; i++)
            p->members[i].proposed = p->members[i].in_isr;
        propose(p, out);
    }
}

/* ---- clients ---- */

static enum err check_epoch(const struct partition *p, int32_t leader_epoch)
{
    if (leader_epoch < 0 || leader_epoch == p->leader_epoch)
        return ERR_NONE;
    return leader_epoch < p->leader_epoch ? ERR_FENCED_LEADER_EPOCH : ERR_UNKNOWN_LEADER_EPOCH;
}

enum err partition_check_leader(const struct partition *p, int32_t leader_epoch)
{
    enum err e = check_epoch(p, leader_epoch);

    if (e != ERR_NONE)
        return e;
    return p->role == PARTITION_LEADER ? ERR_NONE : ERR_NOT_LEADER_OR_FOLLOWER;
}

enum err partition_check_append(const struct partition *p, bool acks_all)
{
    if (p->role != PARTITION_LEADER)
        return ERR_NOT_LEADER_OR_FOLLOWER;
    return acks_all && partition_under_min_isr(p) ? ERR_NOT_ENOUGH_REPLICAS : ERR_NONE;
}

enum err partition_readable_end(const struct partition *p, int64_t first_unstable_offset,
                                bool read_committed, int64_t *end)
{
    *end = read_committed ? MIN(p->high_watermark, first_unstable_offset) : p->high_watermark;
    if (p->role == PARTITION_LEADER && p->high_watermark < p->epoch_start_offset)
        return ERR_OFFSET_NOT_AVAILABLE;
    return ERR_NONE;
}

int64_t partition_low_watermark(const struct partition *p, const struct log_view *log)
{
    int64_t lowest = log->log_start_offset;

    for (int i = 0; i < p->member_count; i++)
        if (p->members[i].id != p->node_id && p->members[i].live)
            lowest = MIN(lowest, p->members[i].log_start_offset);
    return lowest;
}

int32_t partition_preferred_replica(const struct partition *p, int64_t offset,
                                    const struct log_view *log,
                                    bool (*wanted)(void *ctx, int32_t replica), void *ctx)
{
    int32_t best = -1;
    int64_t best_end = -1;

    if (p->role != PARTITION_LEADER)
        return -1;
    for (int i = 0; i < p->member_count; i++) {
        const struct member *m = &p->members[i];
        bool self = m->id == p->node_id;
        int64_t start = self ? log->log_start_offset : m->log_start_offset;
        int64_t end = self ? log->log_end_offset : m->log_end_offset;

        if (!m->in_isr || !m->live || end < offset || start > offset || !wanted(ctx, m->id))
            continue;
        if (self)
            return m->id;
        if (end > best_end) {
            best = m->id;
            best_end = end;
        }
    }
    return best;
}

/* ---- the log and the followers ---- */

void partition_on_log(struct partition *p, const struct log_view *log, uint64_t now_ns,
                      struct effects *out)
{
    out->count = 0;
    if (p->role == PARTITION_LEADER) {
        /* DeleteRecords and retention stay below it; only a start that was recovered from a
         * checkpoint can lie above. */
        if (p->high_watermark < log->log_start_offset)
            push_high_watermark(p, log->log_start_offset, out);
        advance_high_watermark(p, log, now_ns, out);
    } else {
        clamp_high_watermark(p, log);
    }
}

static void note_fetch(struct member *m, const struct replica_fetch *f, const struct log_view *log,
                       uint64_t now_ns)
{
    m->log_end_offset = f->fetch_offset;
    m->durable_end_offset =
        f->durable_end_offset >= 0 ? MIN(f->durable_end_offset, f->fetch_offset) : -1;
    m->log_start_offset = f->log_start_offset;
    m->fetched_epoch = f->broker_epoch >= 0 ? f->broker_epoch : m->registered_epoch;

    int64_t end = log->durable_counts ? m->durable_end_offset : m->log_end_offset;

    if (end >= log->log_end_offset)
        m->caught_up_ns = moment(now_ns);
    else if (m->mark_ns != NEVER && end >= m->mark_end)
        m->caught_up_ns = MAX(m->caught_up_ns, m->mark_ns);
    if (m->mark_ns == NEVER || end >= m->mark_end) { /* a sync may take longer than many fetches */
        m->mark_end = log->log_end_offset;
        m->mark_ns = moment(now_ns);
    }
}

enum err partition_on_replica_fetch(struct partition *p, const struct replica_fetch *f,
                                    const struct log_view *log, uint64_t now_ns,
                                    struct effects *out)
{
    out->count = 0;

    enum err e = partition_check_leader(p, f->leader_epoch);

    if (e != ERR_NONE)
        return e;

    struct member *m = f->replica == p->node_id ? NULL : find_member(p, f->replica);

    if (m == NULL) /* assigned in a state that has not reached us, or not any more: it retries */
        return f->leader_epoch >= 0 ? ERR_UNKNOWN_LEADER_EPOCH : ERR_NOT_LEADER_OR_FOLLOWER;
    if (f->broker_epoch >= 0 && f->broker_epoch < MAX(m->fetched_epoch, m->registered_epoch))
        return ERR_NOT_LEADER_OR_FOLLOWER; /* sent by an incarnation that is gone [H5] */
    if (f->fetch_offset < 0 || f->fetch_offset > log->log_end_offset)
        return ERR_OFFSET_OUT_OF_RANGE; /* it cannot have what we do not */
    if (m->fetched_epoch >= 0 && f->broker_epoch >= 0 && f->broker_epoch != m->fetched_epoch) {
        m->mark_ns = NEVER; /* nothing carries over from the life before, but that a member */
        if (!m->in_isr)     /* keeps its time to be caught up again */
            m->caught_up_ns = NEVER;
    }
    note_fetch(m, f, log, now_ns);
    /* First the proposal: who joins must hold the high watermark from this moment on. */
    maybe_expand_isr(p, m, log, out);
    advance_high_watermark(p, log, now_ns, out);
    return ERR_NONE;
}

bool partition_lower_high_watermark(struct partition *p, int64_t offset)
{
    CHECK(p->role != PARTITION_LEADER); /* R2 */
    if (offset >= p->high_watermark)
        return false;
    p->high_watermark = MAX(offset, 0);
    return true;
}

void partition_on_leader_high_watermark(struct partition *p, int64_t high_watermark,
                                        const struct log_view *log, struct effects *out)
{
    out->count = 0;
    if (p->role != PARTITION_FOLLOWER)
        return;

    int64_t reached = MIN(high_watermark, log->log_end_offset);

    if (reached > p->high_watermark)
        push_high_watermark(p, reached, out);
}
