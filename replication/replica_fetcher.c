#include "replication/replica_fetcher.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base/heap.h"
#include "protocol/base/hmap.h"
#include "protocol/base/list.h"
#include "protocol/record_batch.h"

/* The first pause where waiting a moment is likely to help: the peer does not know yet what we
 * know, or is starting. Later ones double, up to the configured one. */
#define BACKOFF_FIRST_NS 10000000ull

/* One in the leader's long poll, and the one that it supersedes (F8). */
#define OUTSTANDING_MAX 2

/* Request epochs (KIP-227): the one that makes a session; those that follow begin at 1. */
#define SESSION_EPOCH_INITIAL 0

enum stage {
    STAGE_READY,
    STAGE_BUSY,    /* an effect is handed out */
    STAGE_NO_ROOM, /* until on_room() */
    STAGE_BACKOFF, /* until its time in `retries` */
};

enum change { CHANGE_NONE, CHANGE_TELL, CHANGE_FORGET };

/* What the leader was asked for by the request `seq` and those after it. */
struct asked {
    uint64_t seq;   /* 0: never */
    int64_t offset; /* -1: not asked for any more */
};

struct followed {
    struct hmap_node node;
    struct list_node order;  /* not while removed */
    struct list_node change; /* in to_tell or to_forget, as change_kind says */
    struct heap_node retry;
    struct fetch_key key;
    struct fetch_follow follow;
    struct fetch_log_view log;
    enum stage stage;
    enum change change_kind;
    bool removed;    /* but the session still names it */
    bool wanted;     /* can take what a request would bring (F6) */
    bool in_session; /* as the last request left it */
    struct fetch_ask told;
    struct asked asked[OUTSTANDING_MAX]; /* newest first */
    uint64_t valid_since;                /* answers to earlier requests are stale (F1) */
    int64_t leader_high_watermark;       /* -1: not known */
    /* The effect that is handed out, and the log before it. */
    uint64_t ticket; /* 0: none */
    enum fetch_effect_kind handed;
    int32_t handed_epoch, epoch_before, diverging_epoch;
    int64_t end_before, diverging_end, diverging_start; /* start: of the leader's log */
    bool handed_records;
    /* Since it was last well. */
    int failures;
    enum fetch_trouble trouble;
    enum err err;
};

struct outstanding {
    uint64_t seq, sent_ns;
    int32_t session_id;
    bool full;
    int32_t bytes_max, partition_bytes_max;
};

enum link_state { LINK_DOWN, LINK_CONNECTING, LINK_UP };

struct replica_fetcher {
    struct replica_fetcher_config config;
    int64_t broker_epoch, told_broker_epoch;
    struct hmap partitions; /* removed ones too, until they are forgotten */
    struct list order;      /* served first comes first */
    struct list to_tell, to_forget;
    struct heap retries;
    int32_t count, wanted_count;
    bool quota_exceeded;

    enum link_state link;
    int link_failures;
    uint64_t link_retry_ns;
    uint64_t pause_until_ns; /* the peer said something that asks for a pause */
    struct outstanding outstanding[OUTSTANDING_MAX];
    int outstanding_count;
    uint64_t seq; /* of the last request */

    int32_t session_id, session_epoch; /* of the next request */
    bool sessionless;                  /* the last attempt to get a session was refused */
    int session_failures;
    enum err peer_err; /* told as trouble, until an answer is well */

    uint64_t tickets;
    struct fetch_effect *effects; /* a queue: [effect_first, effect_end) */
    size_t effect_first, effect_end, effect_capacity;

    struct fetch_ask *asks; /* of the last request */
    struct fetch_key *forgotten;
    size_t ask_capacity, forgotten_capacity;
    struct replica_fetcher_stats stats;
};

/* ---- life and finding ---- */

struct replica_fetcher *replica_fetcher_new(const struct replica_fetcher_config *config,
                                            int64_t broker_epoch, uint64_t seed)
{
    struct replica_fetcher *f = xcalloc(1, sizeof *f);

    f->config = *config;
    f->broker_epoch = f->told_broker_epoch = broker_epoch;
    hmap_init(&f->partitions, seed);
    list_init(&f->order);
    list_init(&f->to_tell);
    list_init(&f->to_forget);
    heap_init(&f->retries);
    return f;
}

void replica_fetcher_free(struct replica_fetcher *f)
{
    struct hmap_node *n;

    if (f == NULL)
        return;
    while ((n = hmap_begin(&f->partitions)) != NULL) {
        hmap_remove(&f->partitions, n);
        free(CONTAINER_OF(n, struct followed, node));
    }
    hmap_deinit(&f->partitions);
    heap_deinit(&f->retries);
    free(f->effects);
    free(f->asks);
    free(f->forgotten);
    free(f);
}

static uint64_t key_hash(const struct replica_fetcher *f, const struct fetch_key *key)
{
    return hash_bytes(f->partitions.seed ^
                          ((uint64_t)(uint32_t)key->partition * 0x9e3779b97f4a7c15ull),
                      key->topic_id.b, sizeof key->topic_id.b);
}

/* Removed ones too. */
static struct followed *find_any(const struct replica_fetcher *f, const struct fetch_key *key)
{
    for (struct hmap_node *n = hmap_first_with_hash(&f->partitions, key_hash(f, key)); n != NULL;
         n = hmap_next_with_hash(n)) {
        struct followed *p = CONTAINER_OF(n, struct followed, node);

        if (p->key.partition == key->partition && uuid_eq(&p->key.topic_id, &key->topic_id))
            return p;
    }
    return NULL;
}

static struct followed *find(const struct replica_fetcher *f, const struct fetch_key *key)
{
    struct followed *p = find_any(f, key);

    return p != NULL && !p->removed ? p : NULL;
}

int32_t replica_fetcher_count(const struct replica_fetcher *f)
{
    return f->count;
}

/* ---- what the leader must be told ---- */

static struct fetch_ask ask_of(const struct followed *p)
{
    const struct fetch_log_view *log = &p->log;

    return (struct fetch_ask){
        .key = p->key,
        .current_leader_epoch = p->follow.leader_epoch,
        .last_fetched_epoch = log->last_epoch,
        .fetch_offset = log->log_end_offset,
        .log_start_offset = log->log_start_offset,
        .durable_end_offset = log->durable_counts ? log->durable_end_offset : -1,
        .high_watermark = log->high_watermark,
    };
}

static bool differs(const struct followed *p)
{
    struct fetch_ask now = ask_of(p);

    return now.current_leader_epoch != p->told.current_leader_epoch ||
           now.last_fetched_epoch != p->told.last_fetched_epoch ||
           now.fetch_offset != p->told.fetch_offset ||
           now.log_start_offset != p->told.log_start_offset ||
           now.durable_end_offset != p->told.durable_end_offset;
}

static bool is_throttled(const struct replica_fetcher *f, const struct followed *p)
{
    bool caught_up =
        p->leader_high_watermark >= 0 && p->log.log_end_offset >= p->leader_high_watermark;

    return p->follow.throttled && f->quota_exceeded && !caught_up;
}

static void set_change(struct replica_fetcher *f, struct followed *p, enum change kind)
{
    if (p->change_kind == kind)
        return;
    if (p->change_kind != CHANGE_NONE)
        list_remove(&p->change);
    p->change_kind = kind;
    if (kind != CHANGE_NONE)
        list_push_back(kind == CHANGE_TELL ? &f->to_tell : &f->to_forget, &p->change);
}

/* After anything about the partition has changed: what of it must the next request say? */
static void touch(struct replica_fetcher *f, struct followed *p)
{
    bool wanted = !p->removed && p->stage == STAGE_READY && !is_throttled(f, p);

    f->wanted_count += (int32_t)wanted - (int32_t)p->wanted;
    p->wanted = wanted;
    if (wanted)
        set_change(f, p, !p->in_session || differs(p) ? CHANGE_TELL : CHANGE_NONE);
    else
        set_change(f, p, p->in_session ? CHANGE_FORGET : CHANGE_NONE);
}

static void set_stage(struct replica_fetcher *f, struct followed *p, enum stage stage)
{
    if (heap_contains(&p->retry))
        heap_remove(&f->retries, &p->retry);
    p->stage = stage;
    touch(f, p);
}

/* The log is as the view says. One that ends earlier than before has been cut: what was asked for
 * until now is stale. */
static void take_view(struct replica_fetcher *f, struct followed *p,
                      const struct fetch_log_view *log)
{
    if (log->log_end_offset < p->log.log_end_offset || log->last_epoch < p->log.last_epoch)
        p->valid_since = f->seq + 1;
    p->log = *log;
}

/* ---- effects ---- */

static struct fetch_effect *push_effect(struct replica_fetcher *f, enum fetch_effect_kind kind)
{
    if (f->effect_first == f->effect_end)
        f->effect_first = f->effect_end = 0;
    if (f->effect_end == f->effect_capacity) {
        f->effect_capacity = MAX(f->effect_capacity * 2, (size_t)16);
        f->effects = xrealloc(f->effects, f->effect_capacity * sizeof *f->effects);
    }

    struct fetch_effect *e = &f->effects[f->effect_end++];

    *e = (struct fetch_effect){.kind = kind, .epoch = -1};
    return e;
}

/* Hands out an effect whose outcome is awaited; until then the partition is not asked for. */
static struct fetch_effect *hand_out(struct replica_fetcher *f, struct followed *p,
                                     enum fetch_effect_kind kind)
{
    struct fetch_effect *e = push_effect(f, kind);

    p->ticket = ++f->tickets;
    p->handed = kind;
    p->handed_epoch = p->follow.leader_epoch;
    p->handed_records = false;
    p->end_before = p->log.log_end_offset;
    p->epoch_before = p->log.last_epoch;
    e->ticket = p->ticket;
    e->key = p->key;
    e->leader_epoch = p->follow.leader_epoch;
    e->throttled = p->follow.throttled;
    set_stage(f, p, STAGE_BUSY);
    return e;
}

static uint64_t growing_backoff(const struct replica_fetcher *f, int failures)
{
    uint64_t pause = BACKOFF_FIRST_NS << MIN(MAX(failures - 1, 0), 20);

    return MIN(pause, MAX(f->config.backoff_ns, BACKOFF_FIRST_NS));
}

/* Leaves the partition alone for a while. `transient`: as happens at every change of leaders. */
static void stand_back(struct replica_fetcher *f, struct followed *p, enum fetch_trouble trouble,
                       enum err err, bool transient, uint64_t now_ns)
{
    f->stats.troubles[trouble]++;
    if (p->trouble != trouble || p->err != err) {
        struct fetch_effect *e = push_effect(f, FETCH_EFFECT_TROUBLE);

        e->key = p->key;
        e->leader_epoch = p->follow.leader_epoch;
        e->offset = p->log.log_end_offset;
        e->trouble = trouble;
        e->err = err;
        e->transient = transient;
    }
    p->trouble = trouble;
    p->err = err;
    p->failures++;
    set_stage(f, p, STAGE_BACKOFF);
    heap_push(&f->retries, &p->retry,
              now_ns + (transient ? growing_backoff(f, p->failures)
                                  : MAX(f->config.backoff_ns, BACKOFF_FIRST_NS)));
}

static void is_well(struct followed *p)
{
    p->failures = 0;
    p->trouble = FETCH_TROUBLE_NONE;
    p->err = ERR_NONE;
}

static bool is_void(const struct followed *p, const struct fetch_effect *e)
{
    return p == NULL || p->ticket != e->ticket || p->handed_epoch != p->follow.leader_epoch;
}

bool replica_fetcher_next(struct replica_fetcher *f, struct fetch_effect *out)
{
    while (f->effect_first < f->effect_end) {
        struct fetch_effect *e = &f->effects[f->effect_first++];
        struct followed *p = e->ticket != 0 ? find(f, &e->key) : NULL;

        if (e->ticket == 0 || !is_void(p, e)) {
            *out = *e;
            return true;
        }
        if (p != NULL && p->ticket == e->ticket) { /* of an epoch that has passed meanwhile */
            p->ticket = 0;
            set_stage(f, p, STAGE_READY);
        }
    }
    return false;
}

/* ---- what is followed ---- */

static struct followed *new_followed(struct replica_fetcher *f, const struct fetch_key *key)
{
    struct followed *p = xcalloc(1, sizeof *p);

    p->key = *key;
    p->removed = true; /* until replica_fetcher_follow() has taken it in */
    heap_node_init(&p->retry);
    hmap_insert(&f->partitions, &p->node, key_hash(f, key));
    return p;
}

static void free_followed(struct replica_fetcher *f, struct followed *p)
{
    set_change(f, p, CHANGE_NONE);
    hmap_remove(&f->partitions, &p->node);
    free(p);
}

static void take_in(struct replica_fetcher *f, struct followed *p)
{
    p->removed = false;
    p->valid_since = f->seq + 1;
    p->ticket = 0;
    p->stage = STAGE_READY;
    p->leader_high_watermark = -1;
    p->follow.leader_epoch = -1;
    list_push_back(&f->order, &p->order);
    f->count++;
}

void replica_fetcher_follow(struct replica_fetcher *f, const struct fetch_key *key,
                            const struct fetch_follow *follow, const struct fetch_log_view *log,
                            uint64_t now_ns)
{
    struct followed *p = find_any(f, key);

    (void)now_ns;
    if (p == NULL)
        p = new_followed(f, key);
    if (p->removed)
        take_in(f, p);
    if (follow->leader_epoch < p->follow.leader_epoch)
        return;

    bool new_epoch = follow->leader_epoch > p->follow.leader_epoch;

    p->follow = *follow;
    take_view(f, p, log);
    if (new_epoch) {
        p->valid_since = f->seq + 1;
        p->leader_high_watermark = -1;
        is_well(p);
    }
    if (new_epoch && p->stage == STAGE_BACKOFF)
        set_stage(f, p, STAGE_READY);
    else
        touch(f, p);
}

void replica_fetcher_unfollow(struct replica_fetcher *f, const struct fetch_key *key)
{
    struct followed *p = find(f, key);

    if (p == NULL)
        return;
    p->removed = true;
    p->ticket = 0;
    is_well(p);
    list_remove(&p->order);
    f->count--;
    set_stage(f, p, STAGE_READY);
    if (!p->in_session)
        free_followed(f, p);
}

void replica_fetcher_on_log(struct replica_fetcher *f, const struct fetch_key *key,
                            const struct fetch_log_view *log)
{
    struct followed *p = find(f, key);

    if (p == NULL)
        return;
    take_view(f, p, log);
    touch(f, p);
}

void replica_fetcher_on_room(struct replica_fetcher *f, const struct fetch_key *key,
                             const struct fetch_log_view *log)
{
    struct followed *p = find(f, key);

    if (p == NULL)
        return;
    take_view(f, p, log);
    if (p->stage == STAGE_NO_ROOM)
        set_stage(f, p, STAGE_READY);
    else
        touch(f, p);
}

void replica_fetcher_set_quota_exceeded(struct replica_fetcher *f, bool exceeded)
{
    f->quota_exceeded = exceeded;
    list_for_each (n, &f->order) {
        struct followed *p = list_entry(n, struct followed, order);

        if (p->follow.throttled)
            touch(f, p);
    }
}

/* ---- the session ---- */

/* The next request is a full one that closes session `id` (0: none). */
static void reset_session(struct replica_fetcher *f, int32_t id)
{
    f->session_id = id;
    f->session_epoch = SESSION_EPOCH_INITIAL;
    list_for_each (n, &f->order) {
        struct followed *p = list_entry(n, struct followed, order);

        p->in_session = false;
        touch(f, p);
    }
    while (!list_empty(&f->to_forget)) /* only removed ones are left there */
        free_followed(f, list_entry(list_first(&f->to_forget), struct followed, change));
}

void replica_fetcher_configure(struct replica_fetcher *f,
                               const struct replica_fetcher_config *config)
{
    bool told_anew = config->partition_bytes_max != f->config.partition_bytes_max;

    f->config = *config;
    if (told_anew)
        reset_session(f, f->session_id);
}

void replica_fetcher_set_broker_epoch(struct replica_fetcher *f, int64_t broker_epoch)
{
    f->broker_epoch = broker_epoch;
}

static void note_asked(struct followed *p, uint64_t seq, int64_t offset)
{
    p->asked[1] = p->asked[0];
    p->asked[0] = (struct asked){seq, offset};
}

/* Where the request `seq` asked for this partition; -1: it did not. */
static int64_t asked_at(const struct followed *p, uint64_t seq)
{
    for (int i = 0; i < OUTSTANDING_MAX; i++)
        if (p->asked[i].seq != 0 && p->asked[i].seq <= seq)
            return p->asked[i].offset;
    return -1;
}

static void grow(void **array, size_t *capacity, size_t needed, size_t item_size)
{
    if (needed <= *capacity)
        return;
    *capacity = MAX(needed, *capacity * 2);
    *array = xrealloc(*array, *capacity * item_size);
}

static void add_ask(struct replica_fetcher *f, struct followed *p, struct fetch_order *out)
{
    p->told = ask_of(p);
    p->in_session = true;
    note_asked(p, f->seq, p->told.fetch_offset);
    f->asks[out->ask_count++] = p->told;
    touch(f, p);
}

static void fill_full(struct replica_fetcher *f, struct fetch_order *out)
{
    reset_session(f, f->session_id);
    grow((void **)&f->asks, &f->ask_capacity, (size_t)f->count, sizeof *f->asks);
    list_for_each (n, &f->order) {
        struct followed *p = list_entry(n, struct followed, order);

        if (p->wanted)
            add_ask(f, p, out);
        else
            note_asked(p, f->seq, -1);
    }
}

static size_t list_count(const struct list *l)
{
    size_t n = 0;

    list_for_each (node, l)
        n++;
    return n;
}

static void fill_changes(struct replica_fetcher *f, struct fetch_order *out)
{
    grow((void **)&f->asks, &f->ask_capacity, list_count(&f->to_tell), sizeof *f->asks);
    grow((void **)&f->forgotten, &f->forgotten_capacity, list_count(&f->to_forget),
         sizeof *f->forgotten);
    while (!list_empty(&f->to_tell))
        add_ask(f, list_entry(list_first(&f->to_tell), struct followed, change), out);
    while (!list_empty(&f->to_forget)) {
        struct followed *p = list_entry(list_first(&f->to_forget), struct followed, change);

        f->forgotten[out->forgotten_count++] = p->key;
        p->in_session = false;
        note_asked(p, f->seq, -1);
        touch(f, p);
        if (p->removed)
            free_followed(f, p);
    }
}

static void make_request(struct replica_fetcher *f, uint64_t now_ns, struct fetch_order *out)
{
    bool full = f->session_epoch == SESSION_EPOCH_INITIAL;
    bool wait = !full || f->sessionless; /* making a session must not hold up what comes next */

    CHECK(f->outstanding_count < OUTSTANDING_MAX);
    f->seq++;
    *out = (struct fetch_order){
        .correlation_id = (int32_t)(f->seq & INT32_MAX),
        .broker_epoch = f->broker_epoch,
        .session_id = f->session_id,
        .session_epoch = f->session_epoch,
        .max_wait_ms = wait ? f->config.max_wait_ms : 0,
        .min_bytes = f->config.min_bytes,
        .max_bytes = f->config.response_bytes_max,
        .partition_max_bytes = f->config.partition_bytes_max,
        .supersedes = f->outstanding_count > 0,
    };
    if (full)
        fill_full(f, out);
    else
        fill_changes(f, out);
    out->asks = f->asks;
    out->forgotten = f->forgotten;
    f->outstanding[f->outstanding_count++] = (struct outstanding){
        .seq = f->seq,
        .sent_ns = now_ns,
        .session_id = f->session_id,
        .full = full,
        .bytes_max = f->config.response_bytes_max,
        .partition_bytes_max = f->config.partition_bytes_max,
    };
    if (!full)
        f->session_epoch = f->session_epoch == INT32_MAX ? 1 : f->session_epoch + 1;
    f->told_broker_epoch = f->broker_epoch;
    f->stats.requests++;
    f->stats.full_requests += full;
    f->stats.superseding_requests += out->supersedes;
}

/* ---- the connection ---- */

static void lose_link(struct replica_fetcher *f, uint64_t now_ns)
{
    f->link = LINK_DOWN;
    f->outstanding_count = 0;
    f->link_failures++;
    f->link_retry_ns = now_ns + growing_backoff(f, f->link_failures);
    reset_session(f, f->session_id); /* the leader may keep the old one for minutes: close it */
}

void replica_fetcher_on_connected(struct replica_fetcher *f, uint64_t now_ns)
{
    (void)now_ns;
    if (f->link == LINK_CONNECTING)
        f->link = LINK_UP;
}

void replica_fetcher_on_disconnected(struct replica_fetcher *f, uint64_t now_ns)
{
    if (f->link != LINK_DOWN)
        lose_link(f, now_ns);
}

static void wake_retries(struct replica_fetcher *f, uint64_t now_ns)
{
    struct heap_node *n;

    while ((n = heap_min(&f->retries)) != NULL && n->key <= now_ns)
        set_stage(f, CONTAINER_OF(n, struct followed, retry), STAGE_READY);
}

/* Whether something is to be asked for, or must be told at once to who waits in the long poll. */
static bool has_request(const struct replica_fetcher *f)
{
    if (f->outstanding_count == 0)
        return f->wanted_count > 0;
    if (f->outstanding_count == OUTSTANDING_MAX || f->outstanding[0].full ||
        f->session_epoch == SESSION_EPOCH_INITIAL)
        return false;
    return !list_empty(&f->to_tell) || f->told_broker_epoch != f->broker_epoch;
}

enum fetch_action replica_fetcher_poll(struct replica_fetcher *f, uint64_t now_ns,
                                       struct fetch_order *out)
{
    *out = (struct fetch_order){.asks = NULL};
    wake_retries(f, now_ns);
    if (f->link == LINK_DOWN && f->count > 0 && now_ns >= f->link_retry_ns) {
        f->link = LINK_CONNECTING;
        return FETCH_CONNECT;
    }
    if (f->link == LINK_UP && f->count == 0) {
        lose_link(f, now_ns);
        f->link_failures = 0;
        f->link_retry_ns = now_ns;
        return FETCH_CLOSE;
    }
    if (f->link != LINK_UP)
        return FETCH_NOTHING;
    if (f->outstanding_count > 0 &&
        now_ns >= f->outstanding[0].sent_ns + f->config.request_timeout_ns) {
        lose_link(f, now_ns);
        return FETCH_CLOSE;
    }
    if (now_ns < f->pause_until_ns || !has_request(f))
        return FETCH_NOTHING;
    make_request(f, now_ns, out);
    return FETCH_SEND;
}

uint64_t replica_fetcher_deadline_ns(const struct replica_fetcher *f)
{
    const struct heap_node *retry = heap_min(&f->retries);
    uint64_t deadline = retry != NULL ? retry->key : UINT64_MAX;

    if (f->link == LINK_DOWN && f->count > 0)
        deadline = MIN(deadline, f->link_retry_ns);
    if (f->link == LINK_UP && f->outstanding_count > 0)
        deadline = MIN(deadline, f->outstanding[0].sent_ns + f->config.request_timeout_ns);
    if (f->link == LINK_UP && has_request(f))
        deadline = MIN(deadline, f->pause_until_ns);
    return deadline;
}

/* ---- answers: validation (F2) ---- */

/* Running totals over one answer. */
struct answer_bytes {
    size_t bytes; /* of the parts so far */
    size_t bytes_max, partition_bytes_max;
};

/* Whether the bytes of one part are no more than what was asked for: a single batch goes beyond the
 * partition's limit, and the first of the answer beyond that of all (KIP-74). */
static bool is_too_large(const struct answer_bytes *so_far, size_t size, int batches)
{
    if (size > so_far->partition_bytes_max && batches > 1)
        return true;
    return so_far->bytes + size > so_far->bytes_max && (batches > 1 || so_far->bytes > 0);
}

static enum fetch_trouble frame_trouble(enum err e)
{
    return e == ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT ? FETCH_TROUBLE_MAGIC : FETCH_TROUBLE_MALFORMED;
}

static bool is_empty(const struct followed *p)
{
    return p->log.log_start_offset == p->log.log_end_offset;
}

/* A leader whose log begins where ours ends has compared nothing of it: what we hold may be of
 * another history. It is deleted there; were it kept here, it could be served again after a crash
 * that forgets our log's start. */
static bool is_not_compared(const struct followed *p, const struct fetch_part *part)
{
    return !is_empty(p) && part->log_start_offset >= p->log.log_end_offset;
}

/* What comes must follow `end` and `last_epoch`. */
struct tail {
    int64_t end;
    int32_t last_epoch;
    bool begins_anew; /* nothing is before it yet, and nothing of what we have stays */
};

/* A log that begins anew at an offset within a batch takes the batch whole: DeleteRecords may name
 * any offset, and batches are never cut. */
static bool follows(const struct followed *p, const struct record_batch *b, const struct tail *tail)
{
    return b->base_offset == tail->end || (b->base_offset > tail->end && p->follow.gaps_allowed) ||
           (tail->begins_anew && b->base_offset < tail->end &&
            record_batch_last_offset(b) >= tail->end);
}

static enum fetch_trouble check_batch(const struct followed *p, const struct record_batch *b,
                                      const struct tail *tail)
{
    if (!record_batch_crc_ok(b))
        return FETCH_TROUBLE_CRC;
    if (!follows(p, b, tail))
        return FETCH_TROUBLE_NOT_CONTIGUOUS;
    if (b->partition_leader_epoch > p->follow.leader_epoch)
        return FETCH_TROUBLE_EPOCH_ABOVE;
    if (b->partition_leader_epoch < MAX(tail->last_epoch, 0))
        return FETCH_TROUBLE_EPOCH_BELOW;
    return FETCH_TROUBLE_NONE;
}

/* *first_offset: where the first batch begins. */
static enum fetch_trouble check_records(const struct followed *p, const struct fetch_part *part,
                                        const struct answer_bytes *so_far, int64_t *first_offset)
{
    struct record_batch_iterator it = {part->records, part->records_size};
    bool anew = is_empty(p) || is_not_compared(p, part);
    struct tail tail = {
        .end = p->log.log_end_offset,
        .last_epoch = anew ? -1 : p->log.last_epoch,
        .begins_anew = anew,
    };
    int batches = 0;

    while (it.left > 0) {
        struct record_batch b;
        enum err e = record_batch_next(&it, &b);

        if (e != ERR_NONE)
            return frame_trouble(e);

        enum fetch_trouble t = check_batch(p, &b, &tail);

        if (t != FETCH_TROUBLE_NONE)
            return t;
        if (batches++ == 0)
            *first_offset = b.base_offset;
        tail = (struct tail){record_batch_last_offset(&b) + 1, b.partition_leader_epoch, false};
    }
    return is_too_large(so_far, part->records_size, batches) ? FETCH_TROUBLE_TOO_LARGE
                                                             : FETCH_TROUBLE_NONE;
}

/* ---- answers: one partition ---- */

/* Whether an unclean election stands between what our log holds and the present epoch: then what
 * we know as committed may not be [H21c]. */
static bool may_lose_committed(const struct followed *p)
{
    return p->log.last_epoch < p->follow.recovering_epoch;
}

static void restart_at(struct replica_fetcher *f, struct followed *p, int64_t offset,
                       const struct fetch_part *records)
{
    struct fetch_effect *e = hand_out(f, p, FETCH_EFFECT_RESTART);

    e->offset = offset;
    e->below_high_watermark =
        offset < p->log.high_watermark && p->log.log_end_offset > p->log.log_start_offset;
    if (records != NULL) {
        e->records = records->records;
        e->records_size = records->records_size;
        e->leader_high_watermark = records->high_watermark;
        e->leader_log_start_offset = records->log_start_offset;
    }
    f->stats.restarts++;
    f->stats.truncations_below_high_watermark += e->below_high_watermark;
}

/* Begins anew where the leader's log does, which drops all that we have (F4). */
static void start_over(struct replica_fetcher *f, struct followed *p, int64_t start, enum err err,
                       uint64_t now_ns)
{
    if (start >= p->log.high_watermark || is_empty(p) || may_lose_committed(p))
        restart_at(f, p, start, NULL);
    else
        stand_back(f, p, FETCH_TROUBLE_HIGH_WATERMARK, err, false, now_ns);
}

/* The leader knows no place for us in its log (KIP-595): it begins behind our end, or ends before
 * our beginning. */
static void take_out_of_range(struct replica_fetcher *f, struct followed *p,
                              const struct fetch_part *part, uint64_t now_ns)
{
    int64_t start = part->log_start_offset;

    if (start < 0 || (is_empty(p) && start == p->log.log_end_offset)) /* there we are already */
        stand_back(f, p, FETCH_TROUBLE_LEADER, part->err, true, now_ns);
    else
        start_over(f, p, start, part->err, now_ns);
}

static bool passes_with_metadata(enum err e)
{
    switch (e) {
    case ERR_NOT_LEADER_OR_FOLLOWER:
    case ERR_UNKNOWN_LEADER_EPOCH:
    case ERR_FENCED_LEADER_EPOCH:
    case ERR_UNKNOWN_TOPIC_OR_PARTITION:
    case ERR_UNKNOWN_TOPIC_ID:
    case ERR_INCONSISTENT_TOPIC_ID:
        return true;
    default:
        return false;
    }
}

static void take_diverging(struct replica_fetcher *f, struct followed *p,
                           const struct fetch_part *part, uint64_t now_ns)
{
    const struct fetch_log_view *log = &p->log;
    bool diverges =
        part->diverging_epoch < log->last_epoch || part->diverging_end_offset < log->log_end_offset;

    if (part->diverging_end_offset < 0 || part->log_start_offset < 0 ||
        part->diverging_epoch > log->last_epoch || !diverges) {
        stand_back(f, p, FETCH_TROUBLE_ANSWER, ERR_NONE, false, now_ns);
        return;
    }
    p->diverging_epoch = part->diverging_epoch;
    p->diverging_end = part->diverging_end_offset;
    p->diverging_start = part->log_start_offset;
    hand_out(f, p, FETCH_EFFECT_FIND_EPOCH)->epoch = part->diverging_epoch;
}

static void take_records(struct replica_fetcher *f, struct followed *p,
                         const struct fetch_part *part, const struct answer_bytes *so_far,
                         uint64_t now_ns)
{
    int64_t first_offset = p->log.log_end_offset;
    enum fetch_trouble t = check_records(p, part, so_far, &first_offset);

    if (t == FETCH_TROUBLE_NONE && (part->high_watermark < 0 || part->log_start_offset < 0 ||
                                    part->log_start_offset > part->high_watermark))
        t = FETCH_TROUBLE_ANSWER;
    if (t != FETCH_TROUBLE_NONE) {
        stand_back(f, p, t, ERR_NONE, false, now_ns);
        return;
    }
    p->leader_high_watermark = part->high_watermark;
    if (part->records_size > 0) { /* whoever got something stands behind the others */
        list_remove(&p->order);
        list_push_back(&f->order, &p->order);
        f->stats.records_bytes += part->records_size;
    }
    if (first_offset < p->log.log_end_offset || is_not_compared(p, part)) {
        restart_at(f, p, MIN(first_offset, p->log.log_end_offset), part);
        return;
    }

    struct fetch_effect *e = hand_out(f, p, FETCH_EFFECT_TAKE);

    e->offset = p->log.log_end_offset;
    e->records = part->records;
    e->records_size = part->records_size;
    e->leader_high_watermark = part->high_watermark;
    e->leader_log_start_offset = part->log_start_offset;
    p->handed_records = part->records_size > 0;
}

static void take_part(struct replica_fetcher *f, const struct fetch_part *part, uint64_t seq,
                      const struct answer_bytes *so_far, uint64_t now_ns)
{
    struct followed *p = find(f, &part->key);

    /* F1: removed, changed, busy or already there. The next request says where we stand. */
    if (p == NULL || p->stage != STAGE_READY || seq < p->valid_since ||
        asked_at(p, seq) != p->log.log_end_offset) {
        f->stats.stale_parts++;
        return;
    }
    if (part->err == ERR_OFFSET_OUT_OF_RANGE)
        take_out_of_range(f, p, part, now_ns);
    else if (part->err != ERR_NONE)
        stand_back(f, p, FETCH_TROUBLE_LEADER, part->err, passes_with_metadata(part->err), now_ns);
    else if (part->diverging_epoch >= 0)
        take_diverging(f, p, part, now_ns);
    else
        take_records(f, p, part, so_far, now_ns);
}

/* ---- answers ---- */

static bool is_session_error(enum err e)
{
    return e == ERR_FETCH_SESSION_ID_NOT_FOUND || e == ERR_INVALID_FETCH_SESSION_EPOCH ||
           e == ERR_FETCH_SESSION_TOPIC_ID_ERROR;
}

static void take_session_error(struct replica_fetcher *f, enum err err, uint64_t now_ns)
{
    f->stats.session_errors++;
    f->session_failures++;
    if (f->session_failures > 1) /* lost again before it was of any use */
        f->pause_until_ns = now_ns + growing_backoff(f, f->session_failures - 1);
    reset_session(f, err == ERR_FETCH_SESSION_ID_NOT_FOUND ? 0 : f->session_id);
}

/* The peer as a whole refuses. What it took in of the request is not known: begin anew. */
static void take_peer_error(struct replica_fetcher *f, enum err err, uint64_t now_ns)
{
    f->stats.troubles[FETCH_TROUBLE_LEADER]++;
    if (f->peer_err != err) {
        struct fetch_effect *e = push_effect(f, FETCH_EFFECT_TROUBLE);

        e->key.partition = -1;
        e->trouble = FETCH_TROUBLE_LEADER;
        e->err = err;
    }
    f->peer_err = err;
    f->pause_until_ns = now_ns + MAX(f->config.backoff_ns, BACKOFF_FIRST_NS);
    reset_session(f, f->session_id);
}

static void take_session(struct replica_fetcher *f, const struct outstanding *o,
                         const struct fetch_answer *answer)
{
    f->link_failures = 0;
    f->peer_err = ERR_NONE;
    if (!o->full) {
        f->session_failures = 0;
        return;
    }
    f->sessionless = answer->session_id == 0;
    f->session_id = answer->session_id;
    f->session_epoch = f->sessionless ? SESSION_EPOCH_INITIAL : 1;
}

enum err replica_fetcher_on_answer(struct replica_fetcher *f, const struct fetch_answer *answer,
                                   uint64_t now_ns)
{
    struct outstanding o = f->outstanding[0];

    if (f->outstanding_count == 0 || answer->correlation_id != (int32_t)(o.seq & INT32_MAX))
        return ERR_MALFORMED;
    if (answer->err == ERR_NONE &&
        (answer->session_id < 0 || (!o.full && answer->session_id != o.session_id)))
        return ERR_MALFORMED;
    f->outstanding[0] = f->outstanding[1];
    f->outstanding_count--;
    f->stats.answers++;
    if (is_session_error(answer->err)) {
        if (f->outstanding_count == 0) /* else it was superseded, or the next one fails too */
            take_session_error(f, answer->err, now_ns);
        return ERR_NONE;
    }
    if (answer->err != ERR_NONE) {
        take_peer_error(f, answer->err, now_ns);
        return ERR_NONE;
    }
    take_session(f, &o, answer);

    struct answer_bytes so_far = {
        .bytes_max = (size_t)MAX(o.bytes_max, 0),
        .partition_bytes_max = (size_t)MAX(o.partition_bytes_max, 0),
    };

    for (int32_t i = 0; i < answer->part_count; i++) {
        take_part(f, &answer->parts[i], o.seq, &so_far, now_ns);
        so_far.bytes += answer->parts[i].records_size;
    }
    return ERR_NONE;
}

/* ---- outcomes ---- */

/* The partition whose effect this is the outcome of; NULL: it is not awaited any more. */
static struct followed *take_ticket(struct replica_fetcher *f, const struct fetch_key *key,
                                    uint64_t ticket, const struct fetch_log_view *log)
{
    struct followed *p = find(f, key);

    if (p == NULL || ticket == 0 || p->ticket != ticket)
        return NULL;
    p->ticket = 0;
    take_view(f, p, log);
    return p;
}

static bool passes_with_state(enum err e)
{
    return e == ERR_OFFSET_OUT_OF_RANGE || e == ERR_FENCED_LEADER_EPOCH ||
           e == ERR_NOT_LEADER_OR_FOLLOWER;
}

static bool has_changed(const struct followed *p)
{
    if (p->handed == FETCH_EFFECT_TAKE)
        return !p->handed_records || p->log.log_end_offset > p->end_before;
    if (p->handed == FETCH_EFFECT_RESTART)
        return true;
    return p->log.log_end_offset < p->end_before || p->log.last_epoch < p->epoch_before;
}

void replica_fetcher_on_done(struct replica_fetcher *f, const struct fetch_key *key,
                             uint64_t ticket, enum err err, const struct fetch_log_view *log,
                             uint64_t now_ns)
{
    struct followed *p = take_ticket(f, key, ticket, log);

    if (p == NULL)
        return;
    CHECK(p->handed != FETCH_EFFECT_FIND_EPOCH);
    if (p->handed != FETCH_EFFECT_TAKE)
        p->valid_since = f->seq + 1;
    if (p->handed_epoch != p->follow.leader_epoch) { /* refused or not, it is asked anew */
        set_stage(f, p, STAGE_READY);
    } else if (err == ERR_AGAIN && p->handed == FETCH_EFFECT_TAKE) {
        set_stage(f, p, STAGE_NO_ROOM);
    } else if (err != ERR_NONE) {
        stand_back(f, p, FETCH_TROUBLE_LOG, err, passes_with_state(err), now_ns);
    } else if (!has_changed(p)) {
        stand_back(f, p, FETCH_TROUBLE_NO_PROGRESS, ERR_NONE, false, now_ns);
    } else {
        if (p->handed == FETCH_EFFECT_TAKE)
            is_well(p);
        set_stage(f, p, STAGE_READY);
    }
}

void replica_fetcher_on_epoch_end(struct replica_fetcher *f, const struct fetch_key *key,
                                  uint64_t ticket, int32_t epoch, int64_t end_offset,
                                  const struct fetch_log_view *log, uint64_t now_ns)
{
    struct followed *p = take_ticket(f, key, ticket, log);

    if (p == NULL)
        return;
    CHECK(p->handed == FETCH_EFFECT_FIND_EPOCH);
    if (p->handed_epoch != p->follow.leader_epoch || p->log.log_end_offset != p->end_before) {
        set_stage(f, p, STAGE_READY); /* what diverged is not there any more: ask anew */
        return;
    }
    /* All that we have is of later epochs than any that the leader knows. */
    if (epoch < 0)
        end_offset = p->log.log_start_offset;

    /* Where we lack the epoch, its end in the leader's log may lie within a batch of ours: what is
     * of later epochs goes first, and the next answer says the rest (KIP-279). */
    int64_t target = MIN(end_offset, p->log.log_end_offset);

    if (epoch == p->diverging_epoch)
        target = MIN(target, p->diverging_end);

    bool below = target < p->log.high_watermark;

    if (target <= p->diverging_start) { /* nothing of ours is left that it still has */
        start_over(f, p, p->diverging_start, ERR_NONE, now_ns);
        return;
    }
    if (below && !may_lose_committed(p)) {
        stand_back(f, p, FETCH_TROUBLE_HIGH_WATERMARK, ERR_NONE, false, now_ns);
        return;
    }
    if (target <= p->log.log_start_offset) { /* which may lie within a batch */
        restart_at(f, p, target, NULL);
        return;
    }

    struct fetch_effect *e = hand_out(f, p, FETCH_EFFECT_TRUNCATE);

    e->offset = target;
    e->below_high_watermark = below;
    f->stats.truncations++;
    f->stats.truncations_below_high_watermark += below;
}

/* ---- looking ---- */

const char *fetch_trouble_text(enum fetch_trouble t)
{
    switch (t) {
    case FETCH_TROUBLE_NONE:
        return "none";
    case FETCH_TROUBLE_LEADER:
        return "the leader answered an error";
    case FETCH_TROUBLE_MALFORMED:
        return "the leader sent what is no batch";
    case FETCH_TROUBLE_MAGIC:
        return "the leader sent a batch of an old format";
    case FETCH_TROUBLE_CRC:
        return "the leader sent a batch with a wrong CRC";
    case FETCH_TROUBLE_NOT_CONTIGUOUS:
        return "the leader sent a batch that does not continue the log";
    case FETCH_TROUBLE_EPOCH_ABOVE:
        return "the leader sent a batch of a later leader epoch than its own";
    case FETCH_TROUBLE_EPOCH_BELOW:
        return "the leader sent a batch of an earlier leader epoch than the one before it";
    case FETCH_TROUBLE_TOO_LARGE:
        return "the leader sent more than was asked for";
    case FETCH_TROUBLE_ANSWER:
        return "the leader sent numbers that cannot be";
    case FETCH_TROUBLE_HIGH_WATERMARK:
        return "the leader's log parts from ours below the high watermark";
    case FETCH_TROUBLE_NO_PROGRESS:
        return "the log did not change as it was told to";
    case FETCH_TROUBLE_LOG:
        return "our log answered an error";
    case FETCH_TROUBLE_COUNT:
        break;
    }
    return "unknown";
}

const struct replica_fetcher_stats *replica_fetcher_stats(const struct replica_fetcher *f)
{
    return &f->stats;
}

static int64_t lag_of(const struct followed *p)
{
    return p->leader_high_watermark < 0
               ? -1
               : MAX(p->leader_high_watermark - p->log.log_end_offset, INT64_C(0));
}

bool replica_fetcher_status(const struct replica_fetcher *f, const struct fetch_key *key,
                            struct fetch_status *out)
{
    const struct followed *p = find(f, key);

    if (p == NULL)
        return false;
    *out = (struct fetch_status){
        .asked_for = p->wanted,
        .trouble = p->trouble,
        .err = p->err,
        .lag = lag_of(p),
    };
    return true;
}

int64_t replica_fetcher_lag_max(const struct replica_fetcher *f)
{
    int64_t most = 0;

    list_for_each (n, &f->order)
        most = MAX(most, lag_of(list_entry(n, struct followed, order)));
    return most;
}

int32_t replica_fetcher_failed_count(const struct replica_fetcher *f)
{
    int32_t count = 0;

    list_for_each (n, &f->order) {
        enum fetch_trouble t = list_entry(n, struct followed, order)->trouble;

        count += t != FETCH_TROUBLE_NONE && t != FETCH_TROUBLE_LEADER;
    }
    return count;
}
