/* Leaders and followers together: replication/partition.h, replication/replica_fetcher.h and
 * replication/fetch_session.h, with logs, a network and a controller that are only numbers here.
 *
 * Each seed runs three nodes and two partitions through some thousand random steps: records are
 * produced, metadata arrives late, leaders change, proposals are lost, connections break, logs have
 * no room, nodes crash (and lose what was not on the disk, where durable ends count). Then all
 * heals.
 *
 * What must hold
 *   - what a high watermark has passed, on a leader, is what it was for ever after, wherever a high
 *     watermark passes it again (P1, P2, consistency.md 2, 3), but after an unclean election;
 *   - no follower's high watermark passes anything else (F5);
 *   - in the end all replicas are in the ISR, all have the same log, byte for byte, and all that
 * was ever passed is in it (P4, F3).
 *
 * A failure prints the seed; `replica_model_test SEED [COUNT]` runs it again.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/record_batch.h"
#include "replication/fetch_session.h"
#include "replication/partition.h"
#include "replication/replica_fetcher.h"
#include "storage/leader_epoch.h"
#include "tests/support/test_env.h"

#define NODES      3
#define PARTITIONS 2
#define BATCH_MAX  192
#define MS         1000000ull
#define LAG_MAX_NS (400 * MS)
#define SEEDS      400
#define STEPS      8000
#define HEAL_STEPS 60000

/* ---- a log ---- */

struct batch {
    int64_t base, last;
    int32_t epoch;
    uint64_t id;
    size_t size;
    uint8_t bytes[BATCH_MAX];
};

struct log_model {
    struct batch *v;
    int count, capacity;
    int64_t start, end, durable_end;
    struct leader_epochs epochs;
};

static void log_append_batch(struct log_model *l, const struct batch *b)
{
    if (l->count == l->capacity) {
        l->capacity = MAX(l->capacity * 2, 64);
        l->v = xrealloc(l->v, (size_t)l->capacity * sizeof *l->v);
    }
    l->v[l->count++] = *b;
    leader_epochs_assign(&l->epochs, b->epoch, b->base);
    l->end = b->last + 1;
}

static void log_cut(struct log_model *l, int64_t offset)
{
    while (l->count > 0 && l->v[l->count - 1].last >= offset) {
        l->count--;
        offset = MIN(offset, l->v[l->count].base);
    }
    l->end = MIN(l->end, offset);
    l->start = MIN(l->start, l->end);
    l->durable_end = MIN(l->durable_end, l->end);
    leader_epochs_truncate_end(&l->epochs, l->end);
}

static void log_restart_at(struct log_model *l, int64_t offset)
{
    l->count = 0;
    l->start = l->end = l->durable_end = offset;
    leader_epochs_deinit(&l->epochs);
}

static void log_move_start(struct log_model *l, int64_t offset)
{
    int gone = 0;

    if (offset <= l->start)
        return;
    while (gone < l->count && l->v[gone].last < offset)
        gone++;
    l->count -= gone;
    memmove(l->v, l->v + gone, (size_t)l->count * sizeof *l->v);
    l->start = offset;
    leader_epochs_truncate_start(&l->epochs, offset);
}

/* ---- the world ---- */

/* What the controller says; each change makes a new version of all. */
struct decree {
    struct partition_state partitions[PARTITIONS];
    int32_t recovering_epoch[PARTITIONS];
    bool elr[PARTITIONS][NODES]; /* eligible leader replicas (KIP-966) */
    int64_t broker_epoch[NODES];
    bool live[NODES];
};

struct proposal {
    bool is_set;
    int partition, from;
    int64_t from_epoch;
    struct effect effect;
};

struct cut { /* a truncation or restart on the pool */
    bool is_set;
    int peer;
    struct fetch_effect effect;
    uint8_t *records;
};

struct replica_model {
    struct partition *p; /* NULL: the process is down */
    struct log_model log;
    int64_t checkpoint;
    int32_t role_epoch;
    struct cut job;
    int no_room; /* peer + 1 whose append found none */
};

struct parked {
    struct fetch_context *context; /* NULL: none */
    int32_t correlation_id;
    int64_t broker_epoch;
    bool may_wait;
};

#define QUEUE_MAX 4
struct wire_request {
    struct fetch_order order;
    struct fetch_ask asks[PARTITIONS];
    struct fetch_key forgotten[PARTITIONS];
};
struct wire_answer {
    struct fetch_answer answer;
    struct fetch_part parts[PARTITIONS];
    uint8_t *records[PARTITIONS];
};

struct link { /* from a follower to a leader */
    struct replica_fetcher *fetcher;
    bool up;
    struct wire_request requests[QUEUE_MAX];
    int request_count;
    struct wire_answer answers[QUEUE_MAX];
    int answer_count;
    struct parked parked;
    /* What the leader remembers beside the session: durable ends, and the high watermark that the
     * follower has, as it said when it last named the partition or as it was answered since. An
     * answer that it dropped as stale told it nothing. */
    int64_t durable[PARTITIONS], high_watermark[PARTITIONS];
};

struct node {
    bool up;
    int64_t broker_epoch;
    int applied; /* decrees */
    struct replica_model replicas[PARTITIONS];
    struct link links[NODES];
    struct fetch_session_cache *sessions;
};

struct ids {
    uint64_t *v;
    int64_t capacity;
};

struct world {
    uint64_t seed, random;
    uint64_t now_ns, id_next;
    struct test_env env;
    struct node nodes[NODES];
    struct decree *decrees;
    int decree_count, decree_capacity;
    struct proposal proposals[8];
    int64_t broker_epoch_next;
    struct ids
        passed[PARTITIONS]; /* batch id of each offset that a leader's high watermark passed */
    bool durable_counts, unclean, healing;
    int lossy;           /* the node that loses its page cache when it crashes; -1: none */
    uint64_t fault_rate; /* in a thousand steps */
    /* How often; a model that does nothing proves nothing. */
    int elections, unclean_elections, elr_elections, truncations, restarts, crashes, passed_count,
        dropped;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    w->random += 0x9e3779b97f4a7c15ull;

    uint64_t z = w->random;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) % below;
}

static bool chance(struct world *w, uint64_t percent)
{
    return draw(w, 100) < percent;
}

#define HOLDS(w, cond, ...)                                                                        \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "seed %" PRIu64 ": ", (w)->seed);                                      \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            fail();                                                                                \
        }                                                                                          \
    } while (0)

static struct fetch_key key_of(int partition)
{
    return (struct fetch_key){.topic_id = {{7}}, .partition = partition};
}

static struct log_view view_of(const struct world *w, const struct replica_model *r)
{
    return (struct log_view){.log_start_offset = r->log.start,
                             .log_end_offset = r->log.end,
                             .durable_end_offset = r->log.durable_end,
                             .durable_counts = w->durable_counts};
}

static struct fetch_log_view fetch_view_of(const struct world *w, const struct replica_model *r)
{
    return (struct fetch_log_view){.log_start_offset = r->log.start,
                                   .log_end_offset = r->log.end,
                                   .high_watermark = partition_high_watermark(r->p),
                                   .last_epoch = leader_epochs_latest(&r->log.epochs),
                                   .durable_end_offset = r->log.durable_end,
                                   .durable_counts = w->durable_counts};
}

/* ---- what must hold ---- */

static uint64_t *passed_at(struct ids *ids, int64_t offset)
{
    if (offset >= ids->capacity) {
        int64_t capacity = MAX(offset + 1, ids->capacity * 2);

        ids->v = xrealloc(ids->v, (size_t)capacity * sizeof *ids->v);
        memset(ids->v + ids->capacity, 0, (size_t)(capacity - ids->capacity) * sizeof *ids->v);
        ids->capacity = capacity;
    }
    return &ids->v[offset];
}

/* The high watermark of node `n` has moved. */
static void check_passed(struct world *w, int n, int partition)
{
    struct replica_model *r = &w->nodes[n].replicas[partition];
    bool leads = partition_role(r->p) == PARTITION_LEADER;
    int64_t high_watermark = partition_high_watermark(r->p);

    HOLDS(w, high_watermark <= r->log.end, "node %d: high watermark %" PRId64 " of %" PRId64, n,
          high_watermark, r->log.end);
    for (int i = r->log.count - 1; i >= 0; i--) {
        const struct batch *b = &r->log.v[i];

        if (b->last >= high_watermark)
            continue;

        uint64_t *id = passed_at(&w->passed[partition], b->base);

        if (leads && *id == 0)
            w->passed_count++;
        if (leads && (*id == 0 || w->unclean))
            *id = b->id;
        HOLDS(w, w->unclean || *id == b->id,
              "node %d (%s) passed batch %" PRIu64 " at %d-%" PRId64 ", which was %" PRIu64, n,
              leads ? "leader" : "follower", b->id, partition, b->base, *id);
    }
}

/* ---- the controller ---- */

static struct decree *latest(struct world *w)
{
    return &w->decrees[w->decree_count - 1];
}

/* A copy of the latest, to be changed. */
static struct decree *new_decree(struct world *w)
{
    if (w->decree_count == w->decree_capacity) {
        w->decree_capacity = MAX(w->decree_capacity * 2, 64);
        w->decrees = xrealloc(w->decrees, (size_t)w->decree_capacity * sizeof *w->decrees);
    }
    if (w->decree_count > 0)
        w->decrees[w->decree_count] = w->decrees[w->decree_count - 1];
    else
        memset(&w->decrees[0], 0, sizeof w->decrees[0]);
    w->decree_count++;
    return latest(w);
}

static bool in_isr(const struct partition_state *s, int node)
{
    for (int i = 0; i < s->isr_count; i++)
        if (s->isr[i] == node)
            return true;
    return false;
}

static void fill_epochs(struct decree *d)
{
    for (int p = 0; p < PARTITIONS; p++) {
        struct partition_state *s = &d->partitions[p];

        for (int i = 0; i < s->isr_count; i++)
            s->isr_broker_epochs[i] = d->broker_epoch[s->isr[i]];
        for (int i = 0; i < NODES; i++)
            s->live_broker_epochs[i] = d->live[i] ? d->broker_epoch[i] : -1;
    }
}

/* The ISR is `isr` from now on. Who leaves it while it is too small has all that is committed, for
 * the high watermark stands still from then on [H4]. */
static void set_isr(struct decree *d, int partition, const int32_t *isr, int count)
{
    struct partition_state *s = &d->partitions[partition];
    bool *elr = d->elr[partition];

    for (int i = 0; i < s->isr_count; i++)
        elr[s->isr[i]] = true;
    memmove(s->isr, isr, (size_t)count * sizeof *isr);
    s->isr_count = count;
    for (int i = 0; i < NODES; i++)
        elr[i] = elr[i] && count < s->effective_min_isr && !in_isr(s, i);
    s->partition_epoch++;
}

static void leave_isr(struct decree *d, int partition, int node)
{
    struct partition_state *s = &d->partitions[partition];
    int32_t kept[NODES];
    int count = 0;

    for (int i = 0; i < s->isr_count; i++)
        if (s->isr[i] != node)
            kept[count++] = s->isr[i];
    set_isr(d, partition, kept, count);
}

/* Gives the partition a live leader: from its ISR, else its ELR; when `unclean`, any. */
static void elect(struct world *w, struct decree *d, int partition, bool unclean)
{
    struct partition_state *s = &d->partitions[partition];
    int first = (int)draw(w, NODES), best = 0;
    int32_t chosen = -1;

    for (int i = 0; i < NODES; i++) {
        int n = (first + i) % NODES;
        int rank = unclean ? 1 : in_isr(s, n) ? 3 : d->elr[partition][n] ? 2 : 0;

        if (d->live[n] && rank > best) {
            best = rank;
            chosen = n;
        }
    }
    s->leader = chosen;
    s->leader_epoch++;
    s->partition_epoch++;
    w->elections++;
    if (chosen < 0 || in_isr(s, chosen))
        return;
    if (unclean) {
        memset(d->elr[partition], 0, sizeof d->elr[partition]);
        s->isr_count = 0;
        s->recovering = true;
        d->recovering_epoch[partition] = s->leader_epoch;
        w->unclean_elections++;
    } else {
        w->elr_elections++;
    }
    set_isr(d, partition, &chosen, 1);
}

static void fence(struct world *w, int node)
{
    struct decree *d = new_decree(w);

    d->live[node] = false;
    for (int p = 0; p < PARTITIONS; p++) {
        struct partition_state *s = &d->partitions[p];

        if (in_isr(s, node) && s->isr_count > 1)
            leave_isr(d, p, node);
        if (s->leader == node)
            elect(w, d, p, false);
    }
    fill_epochs(d);
}

static void enlist(struct world *w, int node)
{
    fence(w, node); /* the life before, if nobody has noticed yet [H21b] */

    struct decree *d = new_decree(w);

    d->live[node] = true;
    d->broker_epoch[node] = ++w->broker_epoch_next;
    w->nodes[node].broker_epoch = d->broker_epoch[node];
    for (int p = 0; p < PARTITIONS; p++) {
        if (w->lossy == node && (in_isr(&d->partitions[p], node) || d->elr[p][node])) {
            leave_isr(d, p, node); /* suspect [H2] */
            d->elr[p][node] = false;
        }
        if (d->partitions[p].leader < 0)
            elect(w, d, p, false);
    }
    fill_epochs(d);
}

static bool is_acceptable(const struct decree *d, const struct proposal *q)
{
    const struct partition_state *s = &d->partitions[q->partition];
    const struct effect *e = &q->effect;

    if (s->leader != q->from || d->broker_epoch[q->from] != q->from_epoch ||
        s->leader_epoch != e->epoch || s->partition_epoch != e->partition_epoch)
        return false;
    for (int i = 0; i < e->isr_count; i++) {
        int32_t n = e->isr[i];

        if (!d->live[n] ||
            (e->isr_broker_epochs[i] >= 0 && e->isr_broker_epochs[i] != d->broker_epoch[n]))
            return false; /* KIP-903 */
    }
    return true;
}

static void handle_effects(struct world *w, int n, int partition, const struct effects *effects);

/* The answer may be lost, whatever became of the proposal. */
static void decide(struct world *w, struct proposal *q)
{
    struct proposal mine = *q;
    struct replica_model *r = &w->nodes[q->from].replicas[q->partition];
    bool accepted = is_acceptable(latest(w), q);
    bool lost = chance(w, 10), never_came = lost && chance(w, 50);

    q->is_set = false;
    if (accepted && !never_came) {
        struct decree *d = new_decree(w);
        struct partition_state *s = &d->partitions[mine.partition];

        set_isr(d, mine.partition, mine.effect.isr, mine.effect.isr_count);
        if (mine.effect.recovered)
            s->recovering = false;
        fill_epochs(d);
    }
    if ((lost || !accepted) && r->p != NULL &&
        w->nodes[mine.from].broker_epoch == mine.from_epoch) {
        struct log_view view = view_of(w, r);
        struct effects effects;

        partition_on_isr_result(r->p, mine.effect.partition_epoch, !lost, &view, w->now_ns,
                                &effects);
        handle_effects(w, mine.from, mine.partition, &effects);
    }
    if (never_came) { /* the next decree settles it; one comes with the next fence or election */
        struct decree *d = new_decree(w);

        d->partitions[mine.partition].partition_epoch++;
        fill_epochs(d);
    }
}

/* ---- replicas ---- */

static void propose(struct world *w, int n, int partition, const struct effect *e)
{
    for (size_t i = 0; i < ARRAY_COUNT(w->proposals); i++) {
        struct proposal *q = &w->proposals[i];

        if (q->is_set)
            continue;
        *q = (struct proposal){.is_set = true,
                               .partition = partition,
                               .from = n,
                               .from_epoch = w->nodes[n].broker_epoch,
                               .effect = *e};
        return;
    }
    HOLDS(w, false, "more proposals than partitions can have in flight");
}

static void handle_effects(struct world *w, int n, int partition, const struct effects *effects)
{
    struct replica_model *r = &w->nodes[n].replicas[partition];

    for (int i = 0; i < effects->count; i++) {
        const struct effect *e = &effects->list[i];

        if (e->kind == EFFECT_BEGIN_EPOCH) {
            if (e->epoch > leader_epochs_latest(&r->log.epochs))
                leader_epochs_assign(&r->log.epochs, e->epoch, r->log.end);
        } else if (e->kind == EFFECT_ALTER_ISR) {
            propose(w, n, partition, e);
        } else if (e->kind == EFFECT_HW_ADVANCED) {
            check_passed(w, n, partition);
        }
    }
}

static void log_moved(struct world *w, int n, int partition)
{
    struct replica_model *r = &w->nodes[n].replicas[partition];
    struct log_view view = view_of(w, r);
    struct effects effects;

    partition_on_log(r->p, &view, w->now_ns, &effects);
    handle_effects(w, n, partition, &effects);
}

/* To the fetcher that follows; unknown to the others. */
static void tell_fetchers(struct world *w, int n, int partition)
{
    struct fetch_key k = key_of(partition);
    struct fetch_log_view view = fetch_view_of(w, &w->nodes[n].replicas[partition]);

    for (int peer = 0; peer < NODES; peer++)
        if (peer != n)
            replica_fetcher_on_log(w->nodes[n].links[peer].fetcher, &k, &view);
}

static void apply_partition(struct world *w, int n, int partition, const struct decree *d)
{
    struct node *node = &w->nodes[n];
    struct replica_model *r = &node->replicas[partition];
    const struct partition_state *s = &d->partitions[partition];
    struct log_view view = view_of(w, r);
    struct fetch_key k = key_of(partition);
    struct effects effects;

    partition_on_state(r->p, s, &view, w->now_ns, &effects);
    handle_effects(w, n, partition, &effects);
    for (int peer = 0; peer < NODES; peer++) {
        if (peer == n)
            continue;
        if (peer != s->leader) {
            replica_fetcher_unfollow(node->links[peer].fetcher, &k);
            continue;
        }

        struct fetch_log_view fetch_view = fetch_view_of(w, r);

        replica_fetcher_follow(
            node->links[peer].fetcher, &k,
            &(struct fetch_follow){.leader_epoch = s->leader_epoch,
                                   .recovering_epoch = d->recovering_epoch[partition]},
            &fetch_view, w->now_ns);
    }
}

/* The node learns of the next decree; not while one of its logs is being cut. */
static void apply_next(struct world *w, int n)
{
    struct node *node = &w->nodes[n];

    if (!node->up || node->applied == w->decree_count)
        return;
    for (int p = 0; p < PARTITIONS; p++)
        if (node->replicas[p].job.is_set)
            return;

    const struct decree d =
        w->decrees[node->applied++]; /* it may move while effects are carried out */

    for (int p = 0; p < PARTITIONS; p++)
        apply_partition(w, n, p, &d);
}

static void produce(struct world *w, int n, int partition)
{
    struct replica_model *r = &w->nodes[n].replicas[partition];
    struct record_batch_builder builder;
    struct iobuf *made = NULL;
    struct batch b = {.base = r->log.end, .id = ++w->id_next};
    int records = 1 + (int)draw(w, 3);

    if (partition_check_append(r->p, chance(w, 70)) != ERR_NONE)
        return;
    b.epoch = partition_leader_epoch(r->p);
    b.last = b.base + records - 1;
    record_batch_builder_init(&builder, b.base);
    builder.partition_leader_epoch = b.epoch;
    for (int i = 0; i < records; i++)
        record_batch_builder_add(&builder, 1, BYTES_NULL,
                                 (struct bytes){(const uint8_t *)&b.id, sizeof b.id}, NULL, 0);
    CHECK(record_batch_builder_finish(&builder, &made) == ERR_NONE);
    b.size = made->len;
    CHECK(b.size <= BATCH_MAX);
    memcpy(b.bytes, made->ptr, b.size);
    iobuf_unref(made);
    record_batch_builder_deinit(&builder);
    log_append_batch(&r->log, &b);
    log_moved(w, n, partition);
}

static void delete_records(struct world *w, int n, int partition)
{
    struct replica_model *r = &w->nodes[n].replicas[partition];
    int64_t high_watermark = partition_high_watermark(r->p);

    if (partition_role(r->p) != PARTITION_LEADER || high_watermark <= r->log.start)
        return;
    log_move_start(&r->log,
                   r->log.start + 1 + (int64_t)draw(w, (uint64_t)(high_watermark - r->log.start)));
    log_moved(w, n, partition);
}

static void sync_log(struct world *w, int n, int partition)
{
    struct replica_model *r = &w->nodes[n].replicas[partition];

    r->log.durable_end = r->log.end;
    log_moved(w, n, partition);
    tell_fetchers(w, n, partition);
}

/* ---- the shell of the follower ---- */

static bool still_follows(const struct replica_model *r, const struct fetch_effect *e)
{
    return partition_role(r->p) == PARTITION_FOLLOWER &&
           partition_leader_epoch(r->p) == e->leader_epoch;
}

static enum err append_records(struct world *w, struct replica_model *r, const uint8_t *records,
                               size_t size)
{
    struct record_batch_iterator it = {records, size};
    struct record_batch b;

    while (it.left > 0) {
        struct batch copy;

        CHECK(record_batch_next(&it, &b) == ERR_NONE);
        if (!w->healing && chance(w, 3))
            return ERR_AGAIN;
        copy = (struct batch){.base = b.base_offset,
                              .last = record_batch_last_offset(&b),
                              .epoch = b.partition_leader_epoch,
                              .size = (size_t)b.size_bytes};
        CHECK(copy.size <= BATCH_MAX);
        memcpy(copy.bytes, b.ptr, copy.size);
        /* The value of the first record: behind length, attributes, deltas, key and its length. */
        memcpy(&copy.id, b.ptr + RECORD_BATCH_HEADER_SIZE + 6, sizeof copy.id);
        log_append_batch(&r->log, &copy);
    }
    return ERR_NONE;
}

static void take_numbers(struct world *w, int n, int partition, const struct fetch_effect *e)
{
    struct replica_model *r = &w->nodes[n].replicas[partition];
    struct log_view view;
    struct effects effects;

    log_moved(w, n, partition);
    view = view_of(w, r);
    partition_on_leader_high_watermark(r->p, e->leader_high_watermark, &view, &effects);
    handle_effects(w, n, partition, &effects);
    log_move_start(&r->log, MIN(e->leader_log_start_offset, partition_high_watermark(r->p)));
}

static void take(struct world *w, int n, int peer, const struct fetch_effect *e)
{
    int partition = e->key.partition;
    struct replica_model *r = &w->nodes[n].replicas[partition];
    enum err err = ERR_NONE;

    if (!still_follows(r, e))
        err = ERR_FENCED_LEADER_EPOCH;
    else if (r->log.end != e->offset)
        err = ERR_OFFSET_OUT_OF_RANGE;
    else
        err = append_records(w, r, e->records, e->records_size);
    if (err == ERR_NONE || err == ERR_AGAIN)
        take_numbers(w, n, partition, e);
    if (err == ERR_AGAIN)
        r->no_room = peer + 1;

    struct fetch_log_view view = fetch_view_of(w, r);

    replica_fetcher_on_done(w->nodes[n].links[peer].fetcher, &e->key, e->ticket, err, &view,
                            w->now_ns);
}

static void find_epoch(struct world *w, int n, int peer, const struct fetch_effect *e)
{
    struct replica_model *r = &w->nodes[n].replicas[e->key.partition];
    struct fetch_log_view view = fetch_view_of(w, r);
    int32_t epoch;
    int64_t end;

    leader_epochs_end_offset(&r->log.epochs, e->epoch, r->log.end, &epoch, &end);
    replica_fetcher_on_epoch_end(w->nodes[n].links[peer].fetcher, &e->key, e->ticket, epoch, end,
                                 &view, w->now_ns);
}

static void carry_out(struct world *w, int n, int peer)
{
    struct fetch_effect e;

    while (replica_fetcher_next(w->nodes[n].links[peer].fetcher, &e)) {
        struct cut *job = e.key.partition >= 0 ? &w->nodes[n].replicas[e.key.partition].job : NULL;

        switch (e.kind) {
        case FETCH_EFFECT_TAKE:
            take(w, n, peer, &e);
            break;
        case FETCH_EFFECT_FIND_EPOCH:
            find_epoch(w, n, peer, &e);
            break;
        case FETCH_EFFECT_TRUNCATE:
        case FETCH_EFFECT_RESTART:
            CHECK(!job->is_set);
            HOLDS(w, w->unclean || !e.below_high_watermark, "node %d truncates below its HW", n);
            *job = (struct cut){.is_set = true, .peer = peer, .effect = e};
            if (e.records_size > 0) {
                job->records = xmalloc(e.records_size);
                memcpy(job->records, e.records, e.records_size);
            }
            break;
        case FETCH_EFFECT_TROUBLE:
            HOLDS(w, e.trouble == FETCH_TROUBLE_LEADER || e.trouble == FETCH_TROUBLE_LOG,
                  "node %d, partition %d: %s", n, e.key.partition, fetch_trouble_text(e.trouble));
            break;
        }
    }
}

/* The pool has got to it. */
static void run_job(struct world *w, int n, int partition)
{
    struct replica_model *r = &w->nodes[n].replicas[partition];
    struct cut job = r->job;
    enum err err = ERR_NONE;

    if (!job.is_set)
        return;
    r->job = (struct cut){.is_set = false};
    r->checkpoint = MIN(r->checkpoint, job.effect.offset);
    if (!still_follows(r, &job.effect)) {
        err = ERR_FENCED_LEADER_EPOCH;
    } else if (job.effect.kind == FETCH_EFFECT_TRUNCATE) {
        w->truncations++;
        for (int i = 0; i < r->log.count; i++)
            HOLDS(w, job.effect.offset <= r->log.v[i].base || job.effect.offset > r->log.v[i].last,
                  "node %d cuts a batch at %d-%" PRId64, n, partition, job.effect.offset);
        log_cut(&r->log, job.effect.offset);
        log_moved(w, n, partition);
    } else {
        w->restarts++;
        log_restart_at(&r->log, job.effect.offset);
        log_moved(w, n, partition);
        if (job.effect.records_size > 0) {
            (void)append_records(w, r, job.records, job.effect.records_size);
            take_numbers(w, n, partition, &job.effect);
        }
    }
    free(job.records);

    struct fetch_log_view view = fetch_view_of(w, r);

    replica_fetcher_on_done(w->nodes[n].links[job.peer].fetcher, &job.effect.key, job.effect.ticket,
                            err, &view, w->now_ns);
    carry_out(w, n, job.peer);
}

static void cut_link(struct world *w, int n, int peer);

static void poll_fetcher(struct world *w, int n, int peer)
{
    struct link *l = &w->nodes[n].links[peer];
    struct fetch_order order;
    enum fetch_action action;

    while ((action = replica_fetcher_poll(l->fetcher, w->now_ns, &order)) != FETCH_NOTHING) {
        if (action == FETCH_CLOSE) {
            cut_link(w, n, peer);
        } else if (action == FETCH_CONNECT && w->nodes[peer].up) {
            l->up = true;
            replica_fetcher_on_connected(l->fetcher, w->now_ns);
        } else if (action == FETCH_CONNECT) {
            replica_fetcher_on_disconnected(l->fetcher, w->now_ns);
        } else {
            CHECK(l->up && l->request_count < QUEUE_MAX && order.ask_count <= PARTITIONS);

            struct wire_request *q = &l->requests[l->request_count++];

            q->order = order;
            if (order.ask_count > 0)
                memcpy(q->asks, order.asks, (size_t)order.ask_count * sizeof *q->asks);
            if (order.forgotten_count > 0)
                memcpy(q->forgotten, order.forgotten,
                       (size_t)order.forgotten_count * sizeof *q->forgotten);
        }
    }
}

/* ---- the leader: what handlers/fetch.c and replica_manager.c do ---- */

static void drop_answer(struct wire_answer *a)
{
    for (int i = 0; i < PARTITIONS; i++)
        free(a->records[i]);
}

static void send_error(struct link *l, int32_t correlation_id, enum err err)
{
    CHECK(l->answer_count < QUEUE_MAX);
    l->answers[l->answer_count++] = (struct wire_answer){
        .answer = {.correlation_id = correlation_id, .err = err},
    };
}

static void unpark(struct link *l)
{
    fetch_session_end(l->parked.context);
    l->parked.context = NULL;
}

/* Where a follower asks: must it truncate, or begin anew (KIP-595)? */
static void check_place(const struct log_model *log, const struct fetch_partition *at,
                        struct fetch_part *part)
{
    int32_t epoch = -1;
    int64_t end = -1;

    if (at->last_fetched_epoch >= 0) {
        leader_epochs_end_offset(&log->epochs, at->last_fetched_epoch, log->end, &epoch, &end);
        if (epoch < 0 || at->fetch_offset < log->start) {
            part->err = ERR_OFFSET_OUT_OF_RANGE;
        } else if (epoch < at->last_fetched_epoch || end < at->fetch_offset) {
            part->diverging_epoch = epoch;
            part->diverging_end_offset = end;
        }
    } else if (at->fetch_offset < log->start || at->fetch_offset > log->end) {
        part->err = ERR_OFFSET_OUT_OF_RANGE;
    }
}

static void read_batches(struct world *w, const struct log_model *log, int64_t offset,
                         struct fetch_part *part, uint8_t **records)
{
    int i = 0, most = 1 + (int)draw(w, 4);

    while (i < log->count && log->v[i].last < offset)
        i++;
    for (int n = 0; n < most && i < log->count; n++, i++) {
        *records = xrealloc(*records, part->records_size + log->v[i].size);
        memcpy(*records + part->records_size, log->v[i].bytes, log->v[i].size);
        part->records_size += log->v[i].size;
    }
    part->records = *records;
}

static struct fetch_part look_at(struct world *w, int n, int from, const struct fetch_partition *at,
                                 bool count_it, uint8_t **records)
{
    struct node *leader = &w->nodes[n];
    struct replica_model *r = &leader->replicas[at->partition];
    struct link *l = &w->nodes[from].links[n];
    struct fetch_part part = {
        .key = key_of(at->partition), .diverging_epoch = -1, .diverging_end_offset = -1};

    part.err = partition_check_leader(r->p, at->current_leader_epoch);
    if (part.err == ERR_NONE)
        check_place(&r->log, at, &part);
    /* Only what is known to agree with our log is held by the follower. */
    if (count_it && part.err == ERR_NONE && part.diverging_epoch < 0) {
        struct log_view view = view_of(w, r);
        struct effects effects;

        part.err = partition_on_replica_fetch(
            r->p,
            &(struct replica_fetch){.replica = from,
                                    .broker_epoch = l->parked.broker_epoch,
                                    .leader_epoch = at->current_leader_epoch,
                                    .fetch_offset = at->fetch_offset,
                                    .durable_end_offset = l->durable[at->partition],
                                    .log_start_offset = at->log_start_offset},
            &view, w->now_ns, &effects);
        if (part.err == ERR_NONE)
            handle_effects(w, n, at->partition, &effects);
    }
    part.log_start_offset = r->log.start;
    part.high_watermark = part.err == ERR_NONE ? partition_high_watermark(r->p) : -1;
    if (part.err == ERR_NONE && part.diverging_epoch < 0)
        read_batches(w, &r->log, at->fetch_offset, &part, records);
    return part;
}

/* Answers the parked request if there is anything to say, or `now`. */
static void look_at_parked(struct world *w, int n, int from, bool first, bool now)
{
    struct link *l = &w->nodes[from].links[n];
    struct wire_answer a = {.answer = {.correlation_id = l->parked.correlation_id}};
    struct fetch_outcome outcomes[PARTITIONS];
    int32_t session_id = 0;

    if (l->parked.context == NULL || l->answer_count == QUEUE_MAX)
        return;

    int32_t count = fetch_context_count(l->parked.context);

    CHECK(count <= PARTITIONS);
    for (int32_t i = 0; i < count; i++) {
        const struct fetch_partition *at = fetch_context_at(l->parked.context, i);
        int slot = a.answer.part_count;
        struct fetch_part part = look_at(w, n, from, at, first, &a.records[slot]);

        outcomes[i] = (struct fetch_outcome){
            .err = part.err,
            .records_bytes = part.records_size,
            .high_watermark = part.high_watermark,
            .last_stable_offset = part.high_watermark,
            .log_start_offset = part.err == ERR_NONE ? part.log_start_offset : -1,
            .preferred_read_replica = -1,
            .diverging = part.diverging_epoch >= 0,
        };
        if (fetch_context_includes(l->parked.context, i, &outcomes[i]) ||
            part.high_watermark > l->high_watermark[at->partition]) {
            a.parts[slot] = part;
            a.answer.part_count++;
        } else {
            free(a.records[slot]);
            a.records[slot] = NULL;
        }
    }
    if (a.answer.part_count == 0 && !now && l->parked.may_wait) {
        drop_answer(&a);
        return;
    }
    a.answer.err = fetch_session_commit(l->parked.context, outcomes, w->now_ns, &session_id);
    a.answer.session_id = a.answer.err == ERR_NONE ? session_id : 0;
    if (a.answer.err != ERR_NONE)
        a.answer.part_count = 0;
    for (int32_t i = 0; i < a.answer.part_count; i++) {
        int64_t *told = &l->high_watermark[a.parts[i].key.partition];

        *told = MAX(*told, a.parts[i].high_watermark);
    }
    l->answers[l->answer_count++] = a;
    unpark(l);
}

static void receive_request(struct world *w, int n, int from)
{
    struct link *l = &w->nodes[from].links[n];
    struct wire_request q;
    struct fetch_partition named[PARTITIONS], forgotten[PARTITIONS];

    if (l->request_count == 0 || l->answer_count + 2 > QUEUE_MAX)
        return;
    if (l->parked.context != NULL) { /* superseded */
        send_error(l, l->parked.correlation_id, ERR_INVALID_FETCH_SESSION_EPOCH);
        unpark(l);
    }
    q = l->requests[0];
    memmove(l->requests, l->requests + 1, (size_t)--l->request_count * sizeof *l->requests);
    for (int32_t i = 0; i < q.order.ask_count; i++) {
        const struct fetch_ask *a = &q.asks[i];

        l->durable[a->key.partition] = a->durable_end_offset;
        l->high_watermark[a->key.partition] = a->high_watermark;
        named[i] = (struct fetch_partition){
            .topic_id = a->key.topic_id,
            .topic_name = STR_NULL,
            .partition = a->key.partition,
            .fetch_offset = a->fetch_offset,
            .log_start_offset = a->log_start_offset,
            .current_leader_epoch = a->current_leader_epoch,
            .last_fetched_epoch = a->last_fetched_epoch,
            .partition_max_bytes = q.order.partition_max_bytes,
        };
    }
    for (int32_t i = 0; i < q.order.forgotten_count; i++)
        forgotten[i] = (struct fetch_partition){.topic_id = q.forgotten[i].topic_id,
                                                .topic_name = STR_NULL,
                                                .partition = q.forgotten[i].partition};

    enum err err = fetch_session_begin(w->nodes[n].sessions,
                                       &(struct fetch_request_view){
                                           .session_id = q.order.session_id,
                                           .session_epoch = q.order.session_epoch,
                                           .by_topic_id = true,
                                           .from_follower = true,
                                           .partitions = named,
                                           .partition_count = q.order.ask_count,
                                           .forgotten = forgotten,
                                           .forgotten_count = q.order.forgotten_count,
                                       },
                                       w->now_ns, &l->parked.context);

    if (err != ERR_NONE) {
        l->parked.context = NULL;
        send_error(l, q.order.correlation_id, err);
        return;
    }
    l->parked.correlation_id = q.order.correlation_id;
    l->parked.broker_epoch = q.order.broker_epoch;
    l->parked.may_wait = q.order.max_wait_ms > 0;
    look_at_parked(w, n, from, true, false);
}

static void receive_answer(struct world *w, int n, int peer)
{
    struct link *l = &w->nodes[n].links[peer];
    struct wire_answer a;

    if (l->answer_count == 0)
        return;
    a = l->answers[0];
    memmove(l->answers, l->answers + 1, (size_t)--l->answer_count * sizeof *l->answers);
    a.answer.parts = a.parts;
    HOLDS(w, replica_fetcher_on_answer(l->fetcher, &a.answer, w->now_ns) == ERR_NONE,
          "node %d does not know what it was answered", n);
    carry_out(w, n, peer);
    drop_answer(&a);
    poll_fetcher(w, n, peer);
}

/* ---- faults ---- */

static void clear_link(struct link *l)
{
    for (int i = 0; i < l->answer_count; i++)
        drop_answer(&l->answers[i]);
    l->answer_count = l->request_count = 0;
    unpark(l);
    l->up = false;
}

static void cut_link(struct world *w, int n, int peer)
{
    struct link *l = &w->nodes[n].links[peer];

    clear_link(l);
    if (l->fetcher != NULL)
        replica_fetcher_on_disconnected(l->fetcher, w->now_ns);
}

static void crash(struct world *w, int n)
{
    struct node *node = &w->nodes[n];

    if (!node->up)
        return;
    w->crashes++;
    node->up = false;
    for (int p = 0; p < PARTITIONS; p++) {
        struct replica_model *r = &node->replicas[p];

        partition_free(r->p);
        r->p = NULL;
        free(r->job.records);
        r->job = (struct cut){.is_set = false};
        r->no_room = 0;
        if (w->durable_counts || w->lossy == n) /* the power went */
            log_cut(&r->log, r->log.durable_end);
        else if (chance(w, 50)) /* an epoch without records may be forgotten */
            leader_epochs_truncate_end(&r->log.epochs, r->log.end);
    }
    for (int peer = 0; peer < NODES; peer++) {
        struct link *out = &node->links[peer];

        clear_link(out);
        replica_fetcher_free(out->fetcher);
        out->fetcher = NULL;
        if (peer != n)
            cut_link(w, peer, n);
    }
    fetch_session_cache_free(node->sessions);
    node->sessions = NULL;
}

static void start(struct world *w, int n)
{
    struct node *node = &w->nodes[n];

    if (node->up)
        return;
    enlist(w, n);
    node->up = true;
    node->applied = w->decree_count - 1; /* it begins with the image of its registration */
    node->sessions = fetch_session_cache_new(&w->env.env, 10);
    for (int p = 0; p < PARTITIONS; p++)
        node->replicas[p].p =
            partition_new(n, MIN(node->replicas[p].checkpoint, node->replicas[p].log.end));
    for (int peer = 0; peer < NODES; peer++)
        node->links[peer].fetcher =
            peer == n ? NULL
                      : replica_fetcher_new(
                            &(struct replica_fetcher_config){.max_wait_ms = 500,
                                                             .min_bytes = 1,
                                                             .response_bytes_max = 1 << 20,
                                                             .partition_bytes_max = 1 << 20,
                                                             .backoff_ns = 50 * MS,
                                                             .request_timeout_ns = 30000 * MS},
                            node->broker_epoch, draw(w, UINT64_MAX));
    apply_next(w, n);
}

/* ---- a run ---- */

static void begin_world(struct world *w, uint64_t seed)
{
    *w = (struct world){.seed = seed, .random = seed * 0x2545f4914f6cdd1dull, .now_ns = MS};
    test_env_init(&w->env);
    w->durable_counts = chance(w, 30);
    w->unclean = !w->durable_counts && chance(w, 25);
    w->lossy = !w->durable_counts && chance(w, 50) ? (int)draw(w, NODES) : -1;
    w->fault_rate = 1 + draw(w, 10);

    struct decree *d = new_decree(w);

    for (int p = 0; p < PARTITIONS; p++) {
        struct partition_state *s = &d->partitions[p];

        s->leader = -1;
        s->replica_count = s->isr_count = NODES;
        s->effective_min_isr = 2;
        for (int i = 0; i < NODES; i++)
            s->replicas[i] = s->isr[i] = i;
        d->recovering_epoch[p] = -1;
    }
    fill_epochs(d);
    for (int n = 0; n < NODES; n++)
        start(w, n);
}

static void end_world(struct world *w)
{
    for (int n = 0; n < NODES; n++) {
        crash(w, n);
        for (int p = 0; p < PARTITIONS; p++) {
            free(w->nodes[n].replicas[p].log.v);
            leader_epochs_deinit(&w->nodes[n].replicas[p].log.epochs);
        }
    }
    for (int p = 0; p < PARTITIONS; p++)
        free(w->passed[p].v);
    free(w->decrees);
    test_env_deinit(&w->env);
}

/* Something that goes on by itself, on node `n`. */
static void step_node(struct world *w, int n)
{
    struct node *node = &w->nodes[n];
    int partition = (int)draw(w, PARTITIONS), peer = (int)draw(w, NODES);
    struct replica_model *r = &node->replicas[partition];
    struct link *l = &node->links[peer];
    struct fetch_key k = key_of(partition);

    switch (draw(w, 9)) {
    case 0:
        apply_next(w, n);
        break;
    case 1:
        run_job(w, n, partition);
        break;
    case 2:
        if (r->no_room > 0) {
            struct fetch_log_view view = fetch_view_of(w, r);

            replica_fetcher_on_room(node->links[r->no_room - 1].fetcher, &k, &view);
            r->no_room = 0;
        }
        break;
    case 3:
        sync_log(w, n, partition);
        break;
    case 4:
        if (peer != n)
            look_at_parked(w, n, peer, false, chance(w, 20));
        break;
    case 5: {
        struct log_view view = view_of(w, r);
        struct effects effects;

        partition_on_tick(r->p, &view, LAG_MAX_NS, w->now_ns, &effects);
        handle_effects(w, n, partition, &effects);
        if (chance(w, 10))
            r->checkpoint = partition_high_watermark(r->p);
        break;
    }
    case 6:
        if (peer != n && w->nodes[peer].links[n].up)
            receive_request(w, n, peer);
        break;
    case 7:
        if (peer != n && l->up)
            receive_answer(w, n, peer);
        break;
    default:
        if (peer != n)
            poll_fetcher(w, n, peer);
        break;
    }
}

static void step_controller(struct world *w)
{
    struct proposal *q = &w->proposals[draw(w, ARRAY_COUNT(w->proposals))];

    if (q->is_set)
        decide(w, q);
}

static void fault(struct world *w)
{
    int n = (int)draw(w, NODES), partition = (int)draw(w, PARTITIONS);

    switch (draw(w, 5)) {
    case 0:
        if (w->nodes[n].up)
            crash(w, n);
        else
            start(w, n);
        break;
    case 1:
        if (!w->nodes[n].up && latest(w)->live[n])
            fence(w, n);
        else
            start(w, n);
        break;
    case 2: {
        struct decree *d = new_decree(w);

        elect(w, d, partition, w->unclean && chance(w, 60));
        fill_epochs(d);
        break;
    }
    case 3:
        if (w->nodes[n].up)
            cut_link(w, n, (n + 1 + (int)draw(w, NODES - 1)) % NODES);
        break;
    default:
        if (w->nodes[n].up)
            delete_records(w, n, partition);
        break;
    }
}

static void step(struct world *w)
{
    int n = (int)draw(w, NODES);

    w->now_ns += draw(w, 2 * MS);
    if (w->nodes[n].up && chance(w, w->healing ? 0 : 6))
        produce(w, n, (int)draw(w, PARTITIONS));
    else if (!w->healing && draw(w, 1000) < w->fault_rate)
        fault(w);
    else if (chance(w, 10))
        step_controller(w);
    else if (w->nodes[n].up)
        step_node(w, n);
}

static bool has_converged(struct world *w)
{
    for (int p = 0; p < PARTITIONS; p++) {
        const struct partition_state *s = &latest(w)->partitions[p];

        if (s->leader < 0 || s->isr_count < NODES || s->recovering)
            return false;
        for (int n = 0; n < NODES; n++) {
            const struct replica_model *r = &w->nodes[n].replicas[p];

            if (w->nodes[n].applied != w->decree_count || r->job.is_set ||
                r->log.end != w->nodes[s->leader].replicas[p].log.end ||
                partition_high_watermark(r->p) != r->log.end)
                return false;
        }
    }
    return true;
}

static const struct batch *batch_at(const struct log_model *l, int64_t base)
{
    for (int i = 0; i < l->count; i++)
        if (l->v[i].base == base)
            return &l->v[i];
    return NULL;
}

static void check_equal(struct world *w, int partition)
{
    const struct log_model *a = &w->nodes[0].replicas[partition].log;

    for (int n = 0; n < NODES; n++) {
        const struct log_model *l = &w->nodes[n].replicas[partition].log;

        for (int i = 0; i < a->count; i++) {
            const struct batch *b = batch_at(l, a->v[i].base);

            if (a->v[i].last < l->start)
                continue;
            HOLDS(w,
                  b != NULL && b->size == a->v[i].size &&
                      memcmp(b->bytes, a->v[i].bytes, b->size) == 0,
                  "nodes 0 and %d differ at %d-%" PRId64, n, partition, a->v[i].base);
        }
        for (int64_t o = l->start; o < w->passed[partition].capacity && !w->unclean; o++) {
            uint64_t id = w->passed[partition].v[o];
            const struct batch *b = id != 0 ? batch_at(l, o) : NULL;

            HOLDS(w, id == 0 || (b != NULL && b->id == id),
                  "node %d lost batch %" PRIu64 " at %d-%" PRId64, n, id, partition, o);
        }
    }
}

static void run_seed(uint64_t seed, struct world *totals)
{
    struct world w;
    int steps = 0;

    begin_world(&w, seed);
    for (int i = 0; i < STEPS; i++)
        step(&w);
    w.healing = true;
    for (int n = 0; n < NODES; n++)
        start(&w, n);
    for (int p = 0; p < PARTITIONS; p++) { /* who was elected uncleanly may have lost all again */
        struct decree *d = new_decree(&w);

        if (d->partitions[p].leader < 0)
            elect(&w, d, p, w.unclean);
        fill_epochs(d);
    }
    while (!has_converged(&w) && steps++ < HEAL_STEPS)
        step(&w);
    HOLDS(&w, has_converged(&w), "has not healed");
    for (int p = 0; p < PARTITIONS; p++)
        check_equal(&w, p);
    totals->elections += w.elections;
    totals->elr_elections += w.elr_elections;
    totals->unclean_elections += w.unclean_elections;
    totals->truncations += w.truncations;
    totals->restarts += w.restarts;
    totals->crashes += w.crashes;
    totals->passed_count += w.passed_count;
    w.lossy = -1;
    end_world(&w);
}

struct seeds {
    uint64_t first, count;
};

static void logs_agree_and_nothing_passed_is_lost(void **state)
{
    const struct seeds *seeds = *state;
    struct world totals = {.seed = 0};

    for (uint64_t s = seeds->first; s < seeds->first + seeds->count; s++)
        run_seed(s, &totals);
    printf(
        "%" PRIu64
        " seeds: %d elections, %d from ELR, %d unclean, %d crashes, %d truncations, %d restarts, "
        "%d batches passed\n",
        seeds->count, totals.elections, totals.elr_elections, totals.unclean_elections,
        totals.crashes, totals.truncations, totals.restarts, totals.passed_count);
    if (seeds->count < SEEDS)
        return;
    /* It was put to the test. */
    assert_true(totals.elections > 3000 && totals.elr_elections > 500 &&
                totals.unclean_elections > 50);
    assert_true(totals.truncations > 100 && totals.restarts > 10 && totals.passed_count > 5000);
}

int main(int argc, char **argv)
{
    struct seeds seeds = {1, SEEDS};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(logs_agree_and_nothing_passed_is_lost, &seeds),
    };

    if (argc > 1)
        seeds.first = strtoull(argv[1], NULL, 10);
    if (argc > 1)
        seeds.count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
