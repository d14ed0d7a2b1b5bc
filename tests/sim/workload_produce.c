/* tests/sim/workload_produce.c -- who writes: idempotent producers, and plain ones with all acks.
 *
 * A producer has some partitions (lanes) and up to so many requests in flight on one connection.
 * An idempotent one keeps what is not acknowledged and sends the same batches again, in order, on
 * the next connection; now and then it repeats an acknowledged one, as a network may. When the
 * node refuses a sequence it takes a new producer id and begins at 0, as clients do; whether the
 * node was right to refuse it, the oracle says. A plain one never sends a record twice.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/client.h"

#define LANES_MAX  3
#define FLIGHT_MAX 12

#define REMEMBERED_BATCHES 5

struct out_batch {
    struct out_batch *next;
    struct oracle_batch b;
    struct iobuf *bytes;
    struct oracle_mark mark; /* of the attempt under way */
    int number;              /* in its lane */
    bool in_flight, is_echo;
};

struct lane {
    int topic;
    int32_t partition;
    int32_t sequence_next;
    int cuts_at_first; /* when this producer id was first used here */
    int batch_count;
    bool lost;
    struct out_batch *first; /* not acknowledged, in order of sequences */
    struct out_batch *echo;  /* acknowledged, to be sent once more */
};

struct flight {
    struct out_batch *parts[LANES_MAX];
    struct lane *lanes[LANES_MAX];
    int count;
};

struct producer {
    struct client *c;
    bool idempotent;
    int64_t producer_id; /* -1: none yet */
    int16_t producer_epoch;
    struct lane lanes[LANES_MAX];
    int lane_count;
    struct flight flights[FLIGHT_MAX];
    int flight_count, flight_max;
    bool draining; /* after an error: what is in flight first, then again in order */
    bool reset;    /* a new producer id */
};

static struct oracle *oracle_of(const struct producer *p)
{
    return p->c->run->oracle;
}

/* ---- batches ---- */

static void batch_free(struct out_batch *b)
{
    if (b == NULL)
        return;
    iobuf_unref(b->bytes);
    free(b);
}

static struct out_batch *batch_new(struct producer *p, struct lane *l, int16_t acks)
{
    struct client *c = p->c;
    struct out_batch *b = xcalloc(1, sizeof *b);
    int32_t count = 1 + (int32_t)client_below(c, client_chance(c, 0.1) ? 60 : 8);

    b->b = (struct oracle_batch){
        .topic = l->topic,
        .partition = l->partition,
        .first_value = oracle_values_new(oracle_of(p), count),
        .count = count,
        .producer_id = p->producer_id,
        .producer_epoch = p->idempotent ? p->producer_epoch : (int16_t)-1,
        .base_sequence = p->idempotent ? l->sequence_next : -1,
        .acks = acks,
        .by_name = client_version(c, API_PRODUCE) < 13,
    };
    l->sequence_next += count;
    b->number = l->batch_count++;
    b->bytes = client_make_batch(c, &b->b, client_version(c, API_PRODUCE));
    return b;
}

static void lane_append(struct lane *l, struct out_batch *b)
{
    struct out_batch **at = &l->first;

    while (*at != NULL)
        at = &(*at)->next;
    *at = b;
}

static void lane_remove(struct lane *l, struct out_batch *b)
{
    struct out_batch **at = &l->first;

    while (*at != NULL && *at != b)
        at = &(*at)->next;
    if (*at != NULL)
        *at = b->next;
    b->next = NULL;
}

static void lane_clear(struct lane *l)
{
    while (l->first != NULL) {
        struct out_batch *b = l->first;

        l->first = b->next;
        batch_free(b);
    }
    batch_free(l->echo);
    l->echo = NULL;
}

static void begin_anew(struct producer *p)
{
    for (int i = 0; i < p->lane_count; i++) {
        lane_clear(&p->lanes[i]);
        p->lanes[i].sequence_next = 0;
        p->lanes[i].cuts_at_first = oracle_cuts(oracle_of(p));
    }
    p->producer_id = -1;
    p->reset = false;
}

/* ---- producer ids ---- */

static bool take_producer_id(struct producer *p)
{
    struct client *c = p->c;
    struct init_producer_id_request q;
    void *answer = NULL;

    codec_init(&init_producer_id_request_desc, &q);
    q.transactional_id = STR_NULL;
    q.transaction_timeout_ms = 60000;
    if (client_call(c, API_INIT_PRODUCER_ID, &q, 0, &answer) != ERR_NONE)
        return false;

    const struct init_producer_id_response *a = answer;

    client_check_error(c, API_INIT_PRODUCER_ID, a->error_code);
    if (a->error_code != ERR_NONE)
        return false;
    p->producer_id = a->producer_id;
    p->producer_epoch = a->producer_epoch;
    for (int i = 0; i < p->lane_count; i++)
        p->lanes[i].cuts_at_first = oracle_cuts(oracle_of(p));
    oracle_producer_id(oracle_of(p), a->producer_id);
    sim_count(c->run->sim, "producer id");
    return true;
}

/* ---- sending ---- */

/* The next batch of a lane: one that must be sent again, a new one, or NULL. */
static struct out_batch *next_of(struct producer *p, struct lane *l, int16_t acks)
{
    struct out_batch *b = l->first;

    if (l->lost)
        return NULL;
    if (l->echo != NULL && !l->echo->in_flight && client_chance(p->c, 0.5))
        return l->echo;
    while (b != NULL && b->in_flight)
        b = b->next;
    if (b != NULL)
        return b;
    if (p->c->run->stopping)
        return NULL;
    b = batch_new(p, l, acks);
    lane_append(l, b);
    return b;
}

static void fill_request(struct producer *p, const struct flight *f, struct produce_request *q)
{
    struct client *c = p->c;
    struct produce_request_topic_produce_data *topics =
        arena_array(&c->arena, LANES_MAX, sizeof *topics);
    struct produce_request_partition_produce_data *partitions =
        arena_array(&c->arena, LANES_MAX, sizeof *partitions);

    CHECK(topics != NULL && partitions != NULL);
    for (int i = 0; i < f->count; i++) {
        const struct out_batch *b = f->parts[i];

        codec_init(&produce_request_topic_produce_data_desc, &topics[i]);
        codec_init(&produce_request_partition_produce_data_desc, &partitions[i]);
        if (client_version(c, API_PRODUCE) >= 13)
            topics[i].topic_id = *oracle_topic_id(oracle_of(p), b->b.topic);
        else
            topics[i].name = client_topic_name(c, b->b.topic);
        topics[i].partition_data.v = &partitions[i];
        topics[i].partition_data.n = 1;
        partitions[i].index = b->b.partition;
        partitions[i].records = (struct records){b->bytes->ptr, (int32_t)b->bytes->len, NULL};
    }
    q->topic_data.v = topics;
    q->topic_data.n = f->count;
}

static int16_t pick_acks(const struct producer *p)
{
    if (p->idempotent)
        return -1;
    return (int16_t)((int16_t)client_below(p->c, 3) - 1);
}

static void part_settled(struct producer *p, struct lane *l, struct out_batch *b, bool keep)
{
    b->in_flight = false;
    if (b->is_echo) {
        l->echo = NULL;
        batch_free(b);
        return;
    }
    if (keep && p->idempotent) {
        p->draining = true;
        return;
    }
    lane_remove(l, b);
    batch_free(b);
}

static void connection_lost(struct producer *p)
{
    for (int i = 0; i < p->flight_count; i++) {
        struct flight *f = &p->flights[i];

        for (int k = 0; k < f->count; k++) {
            if (f->parts[k] == NULL)
                continue;
            oracle_sent(oracle_of(p), &f->parts[k]->mark, &f->parts[k]->b, ORACLE_UNKNOWN, -1);
            part_settled(p, f->lanes[k], f->parts[k], true);
        }
    }
    p->flight_count = 0;
    p->draining = false;
}

static void send_one(struct producer *p)
{
    struct client *c = p->c;
    struct flight f = {.count = 0};
    struct produce_request q;
    int16_t acks = pick_acks(p);
    int first = (int)client_below(c, (uint64_t)p->lane_count);
    int want = 1 + (int)client_below(c, (uint64_t)p->lane_count);

    for (int i = 0; i < want; i++) {
        struct lane *l = &p->lanes[(first + i) % p->lane_count];
        struct out_batch *b = next_of(p, l, acks);

        if (b == NULL)
            continue;
        b->in_flight = true;
        b->mark = oracle_sending(oracle_of(p), &b->b);
        sim_trace(c->run->sim,
                  "c%d: to %s-%d %d records from %" PRIu64 ", producer %" PRId64 " sequence %d%s",
                  c->number, oracle_topic_name(oracle_of(p), b->b.topic), b->b.partition,
                  b->b.count, b->b.first_value, b->b.producer_id, b->b.base_sequence,
                  b->is_echo ? ", once more" : "");
        f.lanes[f.count] = l;
        f.parts[f.count++] = b;
    }
    if (f.count == 0)
        return;
    codec_init(&produce_request_desc, &q);
    q.transactional_id = STR_NULL;
    q.acks = acks;
    q.timeout_ms = 100 + (int32_t)client_below(c, 6000);
    fill_request(p, &f, &q);
    p->flights[p->flight_count++] = f;
    if (client_send(c, API_PRODUCE, &q, (uint64_t)q.timeout_ms * 1000000u) != ERR_NONE) {
        connection_lost(p);
    } else if (acks == 0) {
        sim_count(c->run->sim, "produce, acks=0");
        client_forget(c);
        p->flight_count--;
        for (int i = 0; i < f.count; i++) {
            oracle_sent(oracle_of(p), &f.parts[i]->mark, &f.parts[i]->b, ORACLE_UNKNOWN, -1);
            part_settled(p, f.lanes[i], f.parts[i], false);
        }
    }
    c->run->operations++;
}

/* ---- answers ---- */

static void acknowledged(struct producer *p, struct lane *l, struct out_batch *b)
{
    b->in_flight = false;
    if (b->is_echo) {
        sim_count(p->c->run->sim, "duplicate answered");
        l->echo = NULL;
        batch_free(b);
        return;
    }
    lane_remove(l, b);
    /* By name it might meet a successor of the topic. */
    bool may_echo = !b->b.by_name || l->topic < p->c->run->plan.topics;

    if (p->idempotent && l->echo == NULL && may_echo && client_chance(p->c, 0.1)) {
        b->is_echo = true;
        l->echo = b;
        return;
    }
    batch_free(b);
}

static void sequence_refused(struct producer *p, struct lane *l, struct out_batch *b)
{
    struct oracle *o = oracle_of(p);

    if (!p->idempotent)
        sim_violation(p->c->run->sim, "P9", "a batch without producer id has a sequence error");
    oracle_sent(o, &b->mark, &b->b, ORACLE_REFUSED, -1);
    sim_count(p->c->run->sim, "sequence refused");
    if (b->is_echo || b != l->first) {
        part_settled(p, l, b, true);
        return;
    }
    /* The node knows the last five batches of a producer; what is older it may only refuse. */
    if (l->batch_count - b->number <= REMEMBERED_BATCHES)
        oracle_sequence_refused(o, &b->b, l->cuts_at_first);
    p->reset = true;
    part_settled(p, l, b, true);
}

/* `code` for a valid batch that will not be accepted whenever it comes. */
static void refused_for_good(struct producer *p, struct lane *l, struct out_batch *b)
{
    oracle_sent(oracle_of(p), &b->mark, &b->b, ORACLE_REFUSED, -1);
    sim_count(p->c->run->sim, "batch refused");
    p->reset = p->idempotent && !b->is_echo;
    part_settled(p, l, b, true);
}

static void take_part(struct producer *p, struct lane *l, struct out_batch *b,
                      const struct produce_response_partition_produce_response *r)
{
    struct oracle *o = oracle_of(p);
    struct client *c = p->c;

    client_check_error(c, API_PRODUCE, r->error_code);
    sim_trace(c->run->sim, "c%d: records from %" PRIu64 ": error %d, offset %" PRId64, c->number,
              b->b.first_value, r->error_code, r->base_offset);
    switch (r->error_code) {
    case ERR_NONE:
        sim_count(c->run->sim, "produced");
        if (r->base_offset < 0 && client_version(c, API_PRODUCE) >= 0)
            sim_violation(c->run->sim, "P9", "a batch is acknowledged with the offset %lld",
                          (long long)r->base_offset);
        oracle_sent(o, &b->mark, &b->b, ORACLE_ACKED, r->base_offset);
        acknowledged(p, l, b);
        break;
    case ERR_DUPLICATE_SEQUENCE_NUMBER:
        oracle_sent(o, &b->mark, &b->b, ORACLE_DUPLICATE, -1);
        acknowledged(p, l, b);
        break;
    case ERR_OUT_OF_ORDER_SEQUENCE_NUMBER:
    case ERR_UNKNOWN_PRODUCER_ID:
    case ERR_INVALID_PRODUCER_EPOCH:
        sequence_refused(p, l, b);
        break;
    case ERR_CORRUPT_MESSAGE:
        sim_violation(c->run->sim, "P9", "a sound batch is called corrupt");
    case ERR_MESSAGE_TOO_LARGE:
    case ERR_RECORD_LIST_TOO_LARGE:
    case ERR_INVALID_TIMESTAMP:
        refused_for_good(p, l, b);
        break;
    default:
        if (r->error_code == ERR_UNKNOWN_TOPIC_OR_PARTITION ||
            r->error_code == ERR_UNKNOWN_TOPIC_ID) {
            oracle_topic_unknown(o, b->mark.asked_ns, b->b.topic, b->b.partition);
            l->lost = true;
        }
        if (r->error_code == ERR_KAFKA_STORAGE_ERROR)
            sim_count(c->run->sim, "storage error answered");
        oracle_sent(o, &b->mark, &b->b, ORACLE_UNKNOWN, -1);
        part_settled(p, l, b, true);
        break;
    }
}

static int part_of(struct producer *p, const struct flight *f,
                   const struct produce_response_topic_produce_response *t, int32_t index)
{
    for (int i = 0; i < f->count; i++) {
        const struct out_batch *b = f->parts[i];
        bool same;

        if (b == NULL || b->b.partition != index)
            continue;
        same = client_version(p->c, API_PRODUCE) >= 13
                   ? uuid_eq(&t->topic_id, oracle_topic_id(oracle_of(p), b->b.topic))
                   : str_eq(t->name, client_topic_name(p->c, b->b.topic));
        if (same)
            return i;
    }
    return -1;
}

static void receive_one(struct producer *p)
{
    struct client *c = p->c;
    void *answer = NULL;
    struct flight f;
    int taken = 0;

    if (client_receive(c, &answer) != ERR_NONE) {
        connection_lost(p);
        return;
    }
    f = p->flights[0];
    p->flight_count--;
    memmove(p->flights, p->flights + 1, (size_t)p->flight_count * sizeof f);

    const struct produce_response *a = answer;

    for (int32_t t = 0; t < a->responses.n; t++) {
        for (int32_t i = 0; i < a->responses.v[t].partition_responses.n; i++) {
            const struct produce_response_partition_produce_response *r =
                &a->responses.v[t].partition_responses.v[i];
            int part = part_of(p, &f, &a->responses.v[t], r->index);

            if (part < 0)
                sim_violation(c->run->sim, "P9", "an answer for partition %d, not asked for",
                              r->index);
            take_part(p, f.lanes[part], f.parts[part], r);
            f.parts[part] = NULL;
            taken++;
        }
    }
    if (taken != f.count)
        sim_violation(c->run->sim, "P9", "a Produce of %d partitions is answered for %d", f.count,
                      taken);
}

/* ---- the fiber ---- */

static bool lane_is_taken(const struct producer *p, int topic, int32_t partition)
{
    for (int i = 0; i < p->lane_count; i++)
        if (p->lanes[i].topic == topic && p->lanes[i].partition == partition)
            return true;
    return false;
}

static void choose_lanes(struct producer *p)
{
    struct client *c = p->c;
    int want = 1 + (int)client_below(c, LANES_MAX);

    for (int i = 0; i < p->lane_count; i++)
        lane_clear(&p->lanes[i]);
    p->lane_count = 0;
    for (int i = 0; i < want * 2 && p->lane_count < want; i++) {
        int topic = client_pick_topic(c);
        int32_t partition;

        if (topic < 0)
            break;
        partition = client_pick_partition(c, topic);
        if (!lane_is_taken(p, topic, partition))
            p->lanes[p->lane_count++] = (struct lane){.topic = topic, .partition = partition};
    }
    p->flight_max = client_chance(c, 0.3) ? 1 : 1 + (int)client_below(c, FLIGHT_MAX);
    /* Sequences of a partition go on; one that was left is not gone back to under the same id. */
    p->producer_id = -1;
}

static void maybe_change(struct producer *p)
{
    bool lost = p->lane_count == 0;

    for (int i = 0; i < p->lane_count; i++)
        lost = lost || p->lanes[i].lost ||
               oracle_topic_state(oracle_of(p), p->lanes[i].topic) != TOPIC_THERE;
    if (lost || client_chance(p->c, 0.003)) {
        choose_lanes(p);
        p->reset = false;
    } else if (p->reset) {
        begin_anew(p);
    }
}

static void turn(struct producer *p)
{
    struct client *c = p->c;

    if (p->flight_count == 0) {
        p->draining = false;
        arena_reset(&c->arena);
        maybe_change(p);
        if (p->lane_count == 0 || !client_connect(c, SIM_S(5)) ||
            (p->idempotent && p->producer_id < 0 && !take_producer_id(p))) {
            fiber_sleep(c->run->sim, SIM_MS(50));
            return;
        }
        send_one(p);
        return;
    }
    if (p->flight_count < p->flight_max && !p->draining && !p->reset && client_chance(c, 0.7))
        send_one(p);
    else
        receive_one(p);
}

static void produce(struct client *c, bool idempotent)
{
    struct producer *p = xcalloc(1, sizeof *p);

    *p = (struct producer){.c = c, .idempotent = idempotent, .producer_id = -1};
    while (!c->run->stopping) {
        turn(p);
        if (client_chance(c, 0.5))
            client_pause(c, c->run->plan.think_ns);
    }
    while (p->flight_count > 0)
        receive_one(p);
    for (int i = 0; i < p->lane_count; i++)
        lane_clear(&p->lanes[i]);
    free(p);
}

void workload_idempotent(struct client *c)
{
    produce(c, true);
}

void workload_plain(struct client *c)
{
    produce(c, false);
}
