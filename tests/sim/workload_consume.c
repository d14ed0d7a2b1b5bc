/* tests/sim/workload_consume.c -- who reads: consumers by assignment, offset lookups,
 * DeleteRecords, and the reader of everything at the end.
 *
 * A consumer keeps some partitions with a position each, and fetches by name or topic id, with a
 * session (KIP-227) or without, with limits from one byte to megabytes; now and then it starts
 * again from the log's start, its end, or anywhere.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/client.h"

#define CURSORS_MAX 6

enum { TIMESTAMP_LATEST = -1, TIMESTAMP_EARLIEST = -2 };

struct cursor {
    int topic;
    int32_t partition;
    int64_t position;
    struct oracle_mark mark; /* of the fetch under way */
    bool dirty;              /* the session does not know the position yet */
    bool lost;               /* the topic is gone */
    bool shown;              /* in the answer */
};

struct consumer {
    struct client *c;
    struct cursor cursors[CURSORS_MAX];
    int count;
    bool session;
    int32_t session_id, session_epoch;
    int32_t max_wait_ms, min_bytes, max_bytes, partition_max_bytes;
    int8_t isolation;
};

static struct oracle *oracle_of(struct client *c)
{
    return c->run->oracle;
}

/* ---- ListOffsets ---- */

/* False without an answer; *offset is -1 after an error. */
static bool list_offset(struct client *c, int topic, int32_t partition, int64_t timestamp,
                        int64_t *offset, int64_t *found_timestamp)
{
    struct list_offsets_request q;
    struct list_offsets_request_list_offsets_topic t;
    struct list_offsets_request_list_offsets_partition p;
    const struct list_offsets_response *a;
    struct oracle_mark mark = oracle_mark(oracle_of(c), topic, partition);
    void *answer = NULL;

    codec_init(&list_offsets_request_desc, &q);
    codec_init(&list_offsets_request_list_offsets_topic_desc, &t);
    codec_init(&list_offsets_request_list_offsets_partition_desc, &p);
    p.partition_index = partition;
    p.timestamp = timestamp;
    t.name = client_topic_name(c, topic);
    t.partitions.v = &p;
    t.partitions.n = 1;
    q.replica_id = -1;
    q.topics.v = &t;
    q.topics.n = 1;
    *offset = -1;
    if (client_call(c, API_LIST_OFFSETS, &q, 0, &answer) != ERR_NONE)
        return false;
    a = answer;
    if (a->topics.n != 1 || a->topics.v[0].partitions.n != 1)
        sim_violation(c->run->sim, "P9", "ListOffsets of one partition is answered with another");

    int16_t code = a->topics.v[0].partitions.v[0].error_code;

    client_check_error(c, API_LIST_OFFSETS, code);
    if (code == ERR_UNKNOWN_TOPIC_OR_PARTITION)
        oracle_topic_unknown(oracle_of(c), mark.asked_ns, topic, partition);
    if (code != ERR_NONE)
        return true;
    *offset = a->topics.v[0].partitions.v[0].offset;
    *found_timestamp = a->topics.v[0].partitions.v[0].timestamp;
    if (timestamp == TIMESTAMP_EARLIEST)
        oracle_listed_start(oracle_of(c), &mark, topic, partition, *offset);
    if (timestamp == TIMESTAMP_LATEST)
        oracle_listed_end(oracle_of(c), &mark, topic, partition, *offset);
    return true;
}

/* ---- fetching ---- */

static void fetch_partition(const struct consumer *k, const struct cursor *at,
                            struct fetch_request_fetch_partition *p)
{
    codec_init(&fetch_request_fetch_partition_desc, p);
    p->partition = at->partition;
    p->fetch_offset = at->position;
    p->partition_max_bytes = k->partition_max_bytes;
}

static bool is_asked(const struct consumer *k, const struct cursor *at)
{
    return !at->lost && (at->dirty || k->session_epoch <= 0);
}

/* The topics of the request; partitions of one topic that follow each other share an entry. */
static void fill_topics(struct consumer *k, struct fetch_request *q)
{
    struct client *c = k->c;
    struct fetch_request_fetch_topic *topics = arena_array(&c->arena, CURSORS_MAX, sizeof *topics);
    struct fetch_request_fetch_partition *partitions =
        arena_array(&c->arena, CURSORS_MAX, sizeof *partitions);
    int32_t n = 0;

    CHECK(topics != NULL && partitions != NULL);
    for (int i = 0, last = -1; i < k->count; i++) {
        struct cursor *at = &k->cursors[i];

        at->mark = oracle_mark(oracle_of(c), at->topic, at->partition);
        at->shown = false;
        if (!is_asked(k, at))
            continue;
        if (last < 0 || k->cursors[last].topic != at->topic) {
            codec_init(&fetch_request_fetch_topic_desc, &topics[n]);
            if (client_version(c, API_FETCH) >= 13)
                topics[n].topic_id = *oracle_topic_id(oracle_of(c), at->topic);
            else
                topics[n].topic = client_topic_name(c, at->topic);
            topics[n].partitions.v = &partitions[i];
            n++;
        }
        fetch_partition(k, at, &topics[n - 1].partitions.v[topics[n - 1].partitions.n++]);
        at->dirty = false;
        last = i;
    }
    q->topics.v = topics;
    q->topics.n = n;
}

static struct cursor *find_cursor(struct consumer *k,
                                  const struct fetch_response_fetchable_topic_response *t,
                                  int32_t partition)
{
    for (int i = 0; i < k->count; i++) {
        struct cursor *at = &k->cursors[i];
        bool same = client_version(k->c, API_FETCH) >= 13
                        ? uuid_eq(&t->topic_id, oracle_topic_id(oracle_of(k->c), at->topic))
                        : str_eq(t->topic, client_topic_name(k->c, at->topic));

        if (same && at->partition == partition)
            return at;
    }
    return NULL;
}

static void after_error(struct consumer *k, struct cursor *at, int16_t code)
{
    struct client *c = k->c;

    client_check_error(c, API_FETCH, code);
    at->dirty = true;
    switch (code) {
    case ERR_OFFSET_OUT_OF_RANGE:
        sim_count(c->run->sim, "offset out of range");
        oracle_out_of_range(oracle_of(c), &at->mark, at->topic, at->partition, at->position);
        at->position = -1;
        break;
    case ERR_UNKNOWN_TOPIC_OR_PARTITION:
    case ERR_UNKNOWN_TOPIC_ID:
    case ERR_INCONSISTENT_TOPIC_ID:
        oracle_topic_unknown(oracle_of(c), at->mark.asked_ns, at->topic, at->partition);
        at->lost = oracle_topic_state(oracle_of(c), at->topic) != TOPIC_THERE;
        break;
    default:
        break;
    }
}

/* Returns how many bytes of records it had. */
static int32_t take_partition(struct consumer *k, struct cursor *at,
                              const struct fetch_response_partition_data *d)
{
    struct client *c = k->c;
    struct oracle_fetch f = {
        .topic = at->topic,
        .partition = at->partition,
        .fetch_offset = at->position,
        .high_watermark = d->high_watermark,
        .last_stable_offset = d->last_stable_offset,
        .log_start_offset = d->log_start_offset,
    };

    at->shown = true;
    if (oracle_topic_state(oracle_of(c), at->topic) != TOPIC_THERE) {
        at->lost = true;
        return MAX(d->records.len, 0);
    }
    if (d->error_code != ERR_NONE) {
        after_error(k, at, d->error_code);
        return 0;
    }
    oracle_fetched(oracle_of(c), &at->mark, &f);
    if (d->records.len <= 0)
        return 0;
    at->position = client_check_records(c, &at->mark, &f, &d->records);
    at->dirty = true;
    return d->records.len;
}

/* An empty answer that waited as long as it may: there was nothing. */
static void check_nothing(struct consumer *k)
{
    for (int i = 0; i < k->count; i++) {
        const struct cursor *at = &k->cursors[i];

        if (!at->lost && at->position >= 0)
            oracle_read_nothing(oracle_of(k->c), &at->mark, at->topic, at->partition, at->position);
    }
}

static void session_reset(struct consumer *k)
{
    k->session_id = 0;
    k->session_epoch = k->session ? 0 : -1;
}

/* The request may have arrived or not. Some begin anew, others go on with the session that they
 * know and hear whether the node still knows it; they repeat all positions. */
static void session_interrupted(struct consumer *k)
{
    if (k->session_id == 0 || client_chance(k->c, 0.5))
        session_reset(k);
    for (int i = 0; i < k->count; i++)
        k->cursors[i].dirty = true;
}

static void take_answer(struct consumer *k, const struct fetch_response *a)
{
    struct client *c = k->c;
    int64_t bytes = 0;
    bool failed = false;

    client_check_error(c, API_FETCH, a->error_code);
    if (a->error_code != ERR_NONE) {
        sim_count(c->run->sim, "fetch session lost");
        session_reset(k);
        return;
    }
    for (int32_t t = 0; t < a->responses.n; t++) {
        for (int32_t p = 0; p < a->responses.v[t].partitions.n; p++) {
            const struct fetch_response_partition_data *d = &a->responses.v[t].partitions.v[p];
            struct cursor *at = find_cursor(k, &a->responses.v[t], d->partition_index);

            if (at == NULL || (at->shown && !at->lost))
                sim_violation(c->run->sim, "P9", "a fetch is answered with partition %d, %s",
                              d->partition_index, at == NULL ? "not asked for" : "twice");
            failed = failed || d->error_code != ERR_NONE;
            bytes += take_partition(k, at, d);
        }
    }
    if (bytes == 0 && !failed)
        check_nothing(k);
    if (k->session && a->session_id != 0) {
        k->session_id = a->session_id;
        k->session_epoch++;
    } else {
        session_reset(k);
    }
}

static enum err fetch(struct consumer *k)
{
    struct client *c = k->c;
    struct fetch_request q;
    void *answer = NULL;
    enum err e;

    codec_init(&fetch_request_desc, &q);
    q.max_wait_ms = k->max_wait_ms;
    q.min_bytes = k->min_bytes;
    q.max_bytes = k->max_bytes;
    q.isolation_level = k->isolation;
    q.session_id = k->session_id;
    q.session_epoch = k->session_epoch;
    fill_topics(k, &q);
    e = client_call(c, API_FETCH, &q, (uint64_t)k->max_wait_ms * 1000000u, &answer);
    if (e == ERR_NONE)
        take_answer(k, answer);
    else
        session_interrupted(k);
    return e;
}

/* ---- the consumer ---- */

static int32_t pick_bytes(struct client *c)
{
    static const int32_t sizes[] = {1, 100, 2000, 20000, 1 << 20, 50 << 20};

    return sizes[client_below(c, ARRAY_COUNT(sizes))];
}

static void choose_limits(struct consumer *k)
{
    struct client *c = k->c;

    k->session = client_version(c, API_FETCH) >= 7 && client_chance(c, 0.6);
    k->max_wait_ms = client_chance(c, 0.3) ? 0 : (int32_t)client_below(c, 3000);
    k->min_bytes = client_chance(c, 0.7) ? 1 : (int32_t)client_below(c, 5000);
    k->max_bytes = pick_bytes(c);
    k->partition_max_bytes = pick_bytes(c);
    k->isolation = (int8_t)client_below(c, 2);
    session_reset(k);
}

static bool is_assigned(const struct consumer *k, int topic, int32_t partition)
{
    for (int i = 0; i < k->count; i++)
        if (k->cursors[i].topic == topic && k->cursors[i].partition == partition)
            return true;
    return false;
}

static void assign(struct consumer *k)
{
    struct client *c = k->c;
    int want = 1 + (int)client_below(c, CURSORS_MAX);

    k->count = 0;
    for (int i = 0; i < want * 2 && k->count < want; i++) {
        int topic = client_pick_topic(c);
        int32_t partition;

        if (topic < 0)
            break;
        partition = client_pick_partition(c, topic);
        if (is_assigned(k, topic, partition))
            continue;
        k->cursors[k->count++] =
            (struct cursor){.topic = topic, .partition = partition, .position = -1, .dirty = true};
    }
    choose_limits(k);
}

/* A position for who has none: the start, the end, or between. */
static bool seek(struct consumer *k, struct cursor *at)
{
    struct client *c = k->c;
    int64_t start = -1, end = -1, timestamp;

    if (!list_offset(c, at->topic, at->partition, TIMESTAMP_EARLIEST, &start, &timestamp) ||
        !list_offset(c, at->topic, at->partition, TIMESTAMP_LATEST, &end, &timestamp))
        return false;
    if (oracle_topic_state(oracle_of(c), at->topic) != TOPIC_THERE)
        at->lost = true;
    if (start < 0 || end < 0)
        return true;
    switch (client_below(c, 3)) {
    case 0:
        at->position = start;
        break;
    case 1:
        at->position = end;
        break;
    default:
        at->position = start + (int64_t)client_below(c, (uint64_t)MAX(end - start, 0) + 1);
        break;
    }
    at->dirty = true;
    return true;
}

/* False: the connection is gone, or nothing can be read. */
static bool ready_to_fetch(struct consumer *k)
{
    int able = 0;

    for (int i = 0; i < k->count; i++) {
        struct cursor *at = &k->cursors[i];

        at->lost = at->lost || oracle_topic_state(oracle_of(k->c), at->topic) != TOPIC_THERE;
        if (!at->lost && at->position < 0 && !seek(k, at))
            return false;
        at->lost = at->lost || at->position < 0;
        able += !at->lost;
    }
    return able > 0;
}

void workload_consumer(struct client *c)
{
    struct consumer k = {.c = c};
    int rounds = 0;

    while (!c->run->stopping) {
        client_think(c);
        if (!client_connect(c, SIM_S(5)))
            continue;
        if (rounds-- <= 0) {
            assign(&k);
            rounds = (int)client_below(c, 60);
        }
        if (!ready_to_fetch(&k)) {
            rounds = 0;
            continue;
        }
        if (fetch(&k) == ERR_NONE)
            sim_count(c->run->sim, k.session_epoch > 1 ? "incremental fetch" : "fetch");
        for (int i = 0; i < k.count; i++)
            if (k.cursors[i].position < 0)
                rounds = 0;
    }
}

/* ---- lookups ---- */

static void look_up_time(struct client *c, int topic, int32_t partition)
{
    int64_t t = client_unix_ms(c) - 6000 + (int64_t)client_below(c, 7000);
    int64_t offset = -1, timestamp = -1;

    if (!list_offset(c, topic, partition, t, &offset, &timestamp))
        return;
    sim_checked(c->run->sim, "P2");
    if (offset >= 0 && timestamp < t)
        sim_violation(
            c->run->sim, "P2", "%s-%d: the first record at or after %lld is said to be one of %lld",
            oracle_topic_name(oracle_of(c), topic), partition, (long long)t, (long long)timestamp);
}

static void look_up_epoch(struct client *c, int topic, int32_t partition)
{
    struct offset_for_leader_epoch_request q;
    struct offset_for_leader_epoch_request_offset_for_leader_topic t;
    struct offset_for_leader_epoch_request_offset_for_leader_partition p;
    void *answer = NULL;

    codec_init(&offset_for_leader_epoch_request_desc, &q);
    codec_init(&offset_for_leader_epoch_request_offset_for_leader_topic_desc, &t);
    codec_init(&offset_for_leader_epoch_request_offset_for_leader_partition_desc, &p);
    p.partition = partition;
    p.leader_epoch = (int32_t)client_below(c, 5);
    t.topic = client_topic_name(c, topic);
    t.partitions.v = &p;
    t.partitions.n = 1;
    q.replica_id = -1;
    q.topics.v = &t;
    q.topics.n = 1;
    if (client_call(c, API_OFFSET_FOR_LEADER_EPOCH, &q, 0, &answer) != ERR_NONE)
        return;

    const struct offset_for_leader_epoch_response *a = answer;

    if (a->topics.n != 1 || a->topics.v[0].partitions.n != 1)
        sim_violation(c->run->sim, "P9", "OffsetForLeaderEpoch of one partition got another");
    client_check_error(c, API_OFFSET_FOR_LEADER_EPOCH, a->topics.v[0].partitions.v[0].error_code);
}

void workload_lookup(struct client *c)
{
    while (!c->run->stopping) {
        int64_t offset, timestamp;
        int topic;
        int32_t partition;

        client_think(c);
        topic = client_pick_topic(c);
        if (topic < 0 || !client_connect(c, SIM_S(5)))
            continue;
        partition = client_pick_partition(c, topic);
        switch (client_below(c, 5)) {
        case 0:
            look_up_time(c, topic, partition);
            break;
        case 1:
            look_up_epoch(c, topic, partition);
            break;
        case 2:
            (void)list_offset(c, topic, partition, -3 - (int64_t)client_below(c, 4), &offset,
                              &timestamp);
            break;
        default:
            (void)list_offset(c, topic, partition, -1 - (int64_t)client_below(c, 2), &offset,
                              &timestamp);
            break;
        }
        sim_count(c->run->sim, "offset lookup");
    }
}

/* ---- DeleteRecords ---- */

static void delete_before(struct client *c, int topic, int32_t partition, int64_t before)
{
    struct delete_records_request q;
    struct delete_records_request_delete_records_topic t;
    struct delete_records_request_delete_records_partition p;
    uint64_t asked = sim_now(c->run->sim);
    void *answer = NULL;

    codec_init(&delete_records_request_desc, &q);
    codec_init(&delete_records_request_delete_records_topic_desc, &t);
    codec_init(&delete_records_request_delete_records_partition_desc, &p);
    p.partition_index = partition;
    p.offset = before;
    t.name = client_topic_name(c, topic);
    t.partitions.v = &p;
    t.partitions.n = 1;
    q.topics.v = &t;
    q.topics.n = 1;
    q.timeout_ms = 1000 + (int32_t)client_below(c, 4000);
    oracle_deleting(oracle_of(c), topic, partition, before < 0 ? INT64_MAX : before);
    if (client_call(c, API_DELETE_RECORDS, &q, (uint64_t)q.timeout_ms * 1000000u, &answer) !=
        ERR_NONE)
        return;

    const struct delete_records_response *a = answer;

    if (a->topics.n != 1 || a->topics.v[0].partitions.n != 1)
        sim_violation(c->run->sim, "P9", "DeleteRecords of one partition got another");

    const struct delete_records_response_delete_records_partition_result *r =
        &a->topics.v[0].partitions.v[0];

    client_check_error(c, API_DELETE_RECORDS, r->error_code);
    if (r->error_code == ERR_UNKNOWN_TOPIC_OR_PARTITION)
        oracle_topic_unknown(oracle_of(c), asked, topic, partition);
    if (r->error_code != ERR_NONE || oracle_topic_state(oracle_of(c), topic) != TOPIC_THERE)
        return;
    if (r->low_watermark < before)
        sim_violation(c->run->sim, "H48h",
                      "DeleteRecords up to %lld is acknowledged with the low watermark %lld",
                      (long long)before, (long long)r->low_watermark);
    sim_count(c->run->sim, "records deleted");
    oracle_deleted(oracle_of(c), topic, partition, r->low_watermark);
}

void workload_deleter(struct client *c)
{
    while (!c->run->stopping) {
        int64_t start = -1, end = -1, timestamp;
        int topic;
        int32_t partition;

        client_think(c);
        client_pause(c, SIM_S(1));
        topic = client_pick_lasting(c);
        if (topic < 0 || !client_connect(c, SIM_S(5)))
            continue;
        partition = client_pick_partition(c, topic);
        if (!list_offset(c, topic, partition, TIMESTAMP_EARLIEST, &start, &timestamp) ||
            !list_offset(c, topic, partition, TIMESTAMP_LATEST, &end, &timestamp) || start < 0 ||
            end < 0)
            continue;
        delete_before(c, topic, partition,
                      client_chance(c, 0.1)
                          ? -1
                          : start + (int64_t)client_below(c, (uint64_t)MAX(end - start, 0) + 1));
    }
}

/* ---- the last read ---- */

static bool read_through(struct consumer *k, int64_t *start, int64_t *end, struct oracle_mark *mark)
{
    struct client *c = k->c;
    struct cursor *at = &k->cursors[0];
    int64_t timestamp;

    *mark = oracle_mark(oracle_of(c), at->topic, at->partition);
    if (!client_connect(c, SIM_S(1)) ||
        !list_offset(c, at->topic, at->partition, TIMESTAMP_EARLIEST, start, &timestamp) ||
        !list_offset(c, at->topic, at->partition, TIMESTAMP_LATEST, end, &timestamp) ||
        *start < 0 || *end < 0)
        return false;
    at->position = *start;
    while (at->position >= 0 && at->position < *end) {
        int64_t before = at->position;

        arena_reset(&c->arena);
        if (fetch(k) != ERR_NONE)
            return false;
        if (at->position == before)
            return false; /* an error, or nothing yet */
    }
    return at->position >= *end;
}

bool client_read_whole(struct client *c, int topic, int32_t partition, uint64_t deadline)
{
    struct sim *s = c->run->sim;
    struct consumer k = {
        .c = c,
        .count = 1,
        .session_epoch = -1,
        .max_wait_ms = 100,
        .min_bytes = 1,
        .max_bytes = 50 << 20,
        .partition_max_bytes = 1 << 20,
        .cursors = {{.topic = topic, .partition = partition, .dirty = true}},
    };
    struct oracle_mark mark;
    int64_t start = -1, end = -1;

    while (!read_through(&k, &start, &end, &mark)) {
        if (sim_now(s) >= deadline)
            return false;
        k.cursors[0].lost = false;
        arena_reset(&c->arena);
        fiber_sleep(s, SIM_MS(50));
    }
    oracle_partition_read(oracle_of(c), &mark, topic, partition, start, end);
    arena_reset(&c->arena);
    return true;
}
