#include "storage/producer_state.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base/mutant.h"
#include "protocol/crc32c.h"

#define SNAPSHOT_VERSION      1
#define SNAPSHOT_HEAD_BYTES   10u /* version, CRC, count */
#define SNAPSHOT_CRC_START    6u
#define SNAPSHOT_ENTRY_BYTES  46u
#define EXTENSION_BATCH_BYTES 24u
#define CONTROL_ABORT         0
#define CONTROL_COMMIT        1

void producer_state_init(struct producer_state *s, uint64_t seed)
{
    *s = (struct producer_state){.seed = seed, .log_time_ms = -1};
}

void producer_state_clear(struct producer_state *s)
{
    uint64_t seed = s->seed;

    producer_state_deinit(s);
    producer_state_init(s, seed);
}

void producer_state_deinit(struct producer_state *s)
{
    if (s->made) {
        for (struct hmap_node *n; (n = hmap_begin(&s->producers)) != NULL;) {
            hmap_remove(&s->producers, n);
            free(CONTAINER_OF(n, struct producer, node));
        }
        hmap_deinit(&s->producers);
        s->made = false;
    }
    free(s->ended);
    s->ended = NULL;
    s->ended_count = s->ended_capacity = 0;
}

static struct producer *find(const struct producer_state *s, int64_t producer_id)
{
    if (!s->made)
        return NULL;

    uint64_t hash = hmap_hash(&s->producers, &producer_id, sizeof producer_id);

    for (struct hmap_node *n = hmap_first_with_hash(&s->producers, hash); n != NULL;
         n = hmap_next_with_hash(n)) {
        struct producer *p = CONTAINER_OF(n, struct producer, node);

        if (p->producer_id == producer_id)
            return p;
    }
    return NULL;
}

static struct producer *add(struct producer_state *s, int64_t producer_id)
{
    struct producer *p = xcalloc(1, sizeof *p);

    if (!s->made) {
        hmap_init(&s->producers, s->seed);
        s->made = true;
    }
    p->producer_id = producer_id;
    p->producer_epoch = -1;
    p->coordinator_epoch = -1;
    p->last_timestamp_ms = -1;
    p->txn_first_offset = -1;
    hmap_insert(&s->producers, &p->node,
                hmap_hash(&s->producers, &producer_id, sizeof producer_id));
    return p;
}

static void drop(struct producer_state *s, struct producer *p)
{
    hmap_remove(&s->producers, &p->node);
    free(p);
}

static bool expired(const struct producer_state *s, const struct producer *p, int64_t expiration_ms)
{
    return p->txn_first_offset < 0 && s->log_time_ms - p->last_timestamp_ms >= expiration_ms;
}

void producer_state_expire(struct producer_state *s, int64_t expiration_ms)
{
    if (!s->made)
        return;
    for (struct hmap_node *n = hmap_begin(&s->producers); n != NULL;) {
        struct producer *p = CONTAINER_OF(n, struct producer, node);

        n = hmap_after(&s->producers, n);
        if (expired(s, p, expiration_ms))
            drop(s, p);
    }
}

/* ---- markers ---- */

bool transaction_marker_read(const struct record_batch *b, struct transaction_marker *out)
{
    struct record_iterator it;
    struct record r;
    bool found = false;

    if (!record_batch_is_control(b) || b->ptr == NULL ||
        record_iterator_init(&it, b, RECORDS_WHOLE, NULL, 4096) != ERR_NONE)
        return false;
    /* Key: int16 version, int16 kind. Value: int16 version, int32 coordinator epoch. */
    if (record_iterator_next(&it, &r) == ERR_NONE && r.key.len >= 4) {
        int16_t kind = (int16_t)load_be16(r.key.ptr + 2);

        found = kind == CONTROL_ABORT || kind == CONTROL_COMMIT;
        out->commit = kind == CONTROL_COMMIT;
        out->coordinator_epoch = r.value.len >= 6 ? (int32_t)load_be32(r.value.ptr + 2) : -1;
        found = found && r.value.len >= 6;
    }
    record_iterator_deinit(&it);
    return found;
}

/* ---- checking ---- */

static bool follows(int32_t last_sequence, int32_t next)
{
    return last_sequence == INT32_MAX ? next == 0 : next == last_sequence + 1;
}

static enum err check_sequence(const struct producer *p, const struct record_batch *b)
{
    /* A new epoch begins at 0 (KIP-360). */
    if (b->producer_epoch != p->producer_epoch)
        return b->base_sequence == 0 ? ERR_NONE : ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;

    int32_t last = p->batch_count > 0 ? p->batches[p->batch_count - 1].last_sequence : -1;

    return follows(last, b->base_sequence) ? ERR_NONE : ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
}

static bool find_duplicate(const struct producer *p, const struct record_batch *b,
                           struct producer_verdict *out)
{
    if (p->producer_epoch != b->producer_epoch)
        return false;
    for (int i = 0; i < p->batch_count; i++) {
        const struct producer_batch *k = &p->batches[i];

        if (k->last_sequence != record_batch_last_sequence(b) ||
            k->offset_delta != b->last_offset_delta)
            continue;
        *out = (struct producer_verdict){
            .duplicate = true,
            .base_offset = k->last_offset - k->offset_delta,
            .last_offset = k->last_offset,
            .timestamp_ms = k->timestamp_ms,
        };
        return true;
    }
    return false;
}

static enum err check_marker(const struct producer *p, const struct record_batch *b,
                             enum append_origin origin)
{
    struct transaction_marker marker;

    if (!transaction_marker_read(b, &marker))
        return ERR_MALFORMED;
    if (origin == APPEND_REPLICA || p == NULL)
        return ERR_NONE;
    if (b->producer_epoch < p->producer_epoch)
        return ERR_INVALID_PRODUCER_EPOCH;
    if (marker.coordinator_epoch < p->coordinator_epoch)
        return ERR_TRANSACTION_COORDINATOR_FENCED;
    return ERR_NONE;
}

enum err producer_state_check(const struct producer_state *s, const struct record_batch *b,
                              enum append_origin origin, int64_t expiration_ms,
                              struct producer_verdict *out)
{
    *out = (struct producer_verdict){.duplicate = false};
    if (!record_batch_has_producer_id(b))
        return ERR_NONE;

    const struct producer *p = find(s, b->producer_id);

    if (p != NULL && (expired(s, p, expiration_ms) || MUTANT(12)))
        p = NULL;
    if (record_batch_is_control(b))
        return check_marker(p, b, origin);
    if (origin == APPEND_REPLICA)
        return ERR_NONE;
    /* One of whom nothing is known, perhaps any more, may begin with any sequence, as in Kafka. */
    if (p == NULL)
        return producer_state_count(s) < PRODUCERS_PER_LOG_MAX ? ERR_NONE : ERR_POLICY_VIOLATION;
    if (find_duplicate(p, b, out))
        return ERR_NONE;
    if (b->producer_epoch < p->producer_epoch)
        return ERR_INVALID_PRODUCER_EPOCH;

    enum err e = check_sequence(p, b);

    if (e == ERR_NONE && p->txn_first_offset >= 0 && !record_batch_is_transactional(b))
        e = ERR_INVALID_TXN_STATE;
    return e;
}

/* ---- updating ---- */

static void set_epoch(struct producer *p, int16_t epoch)
{
    if (p->producer_epoch != epoch)
        p->batch_count = 0;
    p->producer_epoch = epoch;
}

static void push_batch(struct producer *p, struct producer_batch b)
{
    if (p->batch_count == PRODUCER_BATCHES_KEPT) {
        memmove(&p->batches[0], &p->batches[1], sizeof p->batches - sizeof p->batches[0]);
        p->batch_count--;
    }
    p->batches[p->batch_count++] = b;
}

static void remember_ended(struct producer_state *s, const struct completed_transaction *t)
{
    if (s->ended_count == s->ended_capacity) {
        s->ended_capacity = s->ended_capacity == 0 ? 4 : s->ended_capacity * 2;
        s->ended = xrealloc(s->ended, s->ended_capacity * sizeof *s->ended);
    }
    s->ended[s->ended_count++] = *t;
}

static bool end_transaction(struct producer_state *s, struct producer *p,
                            const struct record_batch *b, struct completed_transaction *ended)
{
    struct transaction_marker marker;

    if (!transaction_marker_read(b, &marker))
        return false;
    set_epoch(p, b->producer_epoch);
    p->coordinator_epoch = marker.coordinator_epoch;
    p->last_timestamp_ms = MAX(b->max_timestamp, s->log_time_ms);
    if (p->txn_first_offset < 0)
        return false; /* an empty transaction: nothing depends on it */
    *ended = (struct completed_transaction){
        .producer_id = p->producer_id,
        .first_offset = p->txn_first_offset,
        .last_offset = record_batch_last_offset(b),
        .aborted = !marker.commit,
    };
    p->txn_first_offset = -1;
    s->open_count--;

    int64_t open = producer_state_first_open(s);

    ended->last_stable_offset = open == INT64_MAX ? ended->last_offset + 1 : open;
    remember_ended(s, ended);
    return true;
}

bool producer_state_update(struct producer_state *s, const struct record_batch *b,
                           int64_t expiration_ms, struct completed_transaction *ended)
{
    bool completed = false;

    if (record_batch_has_producer_id(b)) {
        struct producer *p = find(s, b->producer_id);

        if (p != NULL && expired(s, p, expiration_ms)) {
            drop(s, p);
            p = NULL;
        }
        if (p == NULL)
            p = add(s, b->producer_id);
        if (record_batch_is_control(b)) {
            completed = end_transaction(s, p, b, ended);
        } else {
            set_epoch(p, b->producer_epoch);
            push_batch(p, (struct producer_batch){
                              .last_offset = record_batch_last_offset(b),
                              .timestamp_ms = b->max_timestamp,
                              .last_sequence = record_batch_last_sequence(b),
                              .offset_delta = b->last_offset_delta,
                          });
            p->last_timestamp_ms = MAX(b->max_timestamp, s->log_time_ms);
            if (record_batch_is_transactional(b) && p->txn_first_offset < 0) {
                p->txn_first_offset = b->base_offset;
                s->open_count++;
            }
        }
    }
    s->log_time_ms = MAX(s->log_time_ms, b->max_timestamp);
    return completed;
}

int64_t producer_state_first_open(const struct producer_state *s)
{
    int64_t first = INT64_MAX;

    if (!s->made || s->open_count == 0)
        return first;
    for (struct hmap_node *n = hmap_begin(&s->producers); n != NULL;
         n = hmap_after(&s->producers, n)) {
        const struct producer *p = CONTAINER_OF(n, struct producer, node);

        if (p->txn_first_offset >= 0)
            first = MIN(first, p->txn_first_offset);
    }
    return first;
}

int64_t producer_state_first_unstable(struct producer_state *s, int64_t high_watermark)
{
    int64_t first = producer_state_first_open(s);
    uint32_t kept = 0;

    for (uint32_t i = 0; i < s->ended_count; i++) {
        if (s->ended[i].last_offset < high_watermark)
            continue;
        first = MIN(first, s->ended[i].first_offset);
        s->ended[kept++] = s->ended[i];
    }
    s->ended_count = kept;
    return first;
}

/* ---- snapshots ---- */

uint32_t producer_state_count(const struct producer_state *s)
{
    return s->made ? (uint32_t)s->producers.count : 0;
}

static int by_id(const void *a, const void *b)
{
    const struct producer *x = *(const struct producer *const *)a;
    const struct producer *y = *(const struct producer *const *)b;

    return (x->producer_id > y->producer_id) - (x->producer_id < y->producer_id);
}

const struct producer **producer_state_sorted(const struct producer_state *s, uint32_t *count)
{
    const struct producer **all = xmalloc((producer_state_count(s) + 1) * sizeof *all);

    *count = 0;
    if (s->made) {
        for (struct hmap_node *n = hmap_begin(&s->producers); n != NULL;
             n = hmap_after(&s->producers, n))
            all[(*count)++] = CONTAINER_OF(n, struct producer, node);
        qsort(all, *count, sizeof *all, by_id);
    }
    return all;
}

static uint8_t *encode_entry(uint8_t *at, const struct producer *p)
{
    const struct producer_batch *last = p->batch_count > 0 ? &p->batches[p->batch_count - 1] : NULL;

    store_be64(at, (uint64_t)p->producer_id);
    store_be16(at + 8, (uint16_t)p->producer_epoch);
    store_be32(at + 10, last != NULL ? (uint32_t)last->last_sequence : UINT32_MAX);
    store_be64(at + 14, last != NULL ? (uint64_t)last->last_offset : UINT64_MAX);
    store_be32(at + 22, last != NULL ? (uint32_t)last->offset_delta : 0);
    store_be64(at + 26, (uint64_t)p->last_timestamp_ms);
    store_be32(at + 34, (uint32_t)p->coordinator_epoch);
    store_be64(at + 38, (uint64_t)p->txn_first_offset);
    return at + SNAPSHOT_ENTRY_BYTES;
}

static uint8_t *encode_older(uint8_t *at, const struct producer *p)
{
    store_be64(at, (uint64_t)p->producer_id);
    at[8] = (uint8_t)(p->batch_count - 1);
    at += 9;
    for (int i = 0; i < p->batch_count - 1; i++) {
        store_be32(at, (uint32_t)p->batches[i].last_sequence);
        store_be64(at + 4, (uint64_t)p->batches[i].last_offset);
        store_be32(at + 12, (uint32_t)p->batches[i].offset_delta);
        store_be64(at + 16, (uint64_t)p->batches[i].timestamp_ms);
        at += EXTENSION_BATCH_BYTES;
    }
    return at;
}

uint8_t *producer_state_encode(const struct producer_state *s, size_t *size)
{
    uint32_t count, with_older = 0;
    const struct producer **all = producer_state_sorted(s, &count);
    size_t extension = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (all[i]->batch_count < 2)
            continue;
        with_older++;
        extension += 9 + (size_t)(all[i]->batch_count - 1) * EXTENSION_BATCH_BYTES;
    }
    *size =
        SNAPSHOT_HEAD_BYTES + count * SNAPSHOT_ENTRY_BYTES + (with_older > 0 ? 8 + extension : 0);

    uint8_t *p = xmalloc(*size), *at = p + SNAPSHOT_HEAD_BYTES;

    store_be16(p, SNAPSHOT_VERSION);
    store_be32(p + 6, count);
    for (uint32_t i = 0; i < count; i++)
        at = encode_entry(at, all[i]);
    if (with_older > 0) {
        memcpy(at, "FMQ1", 4);
        store_be32(at + 4, with_older);
        at += 8;
        for (uint32_t i = 0; i < count; i++) {
            if (all[i]->batch_count >= 2)
                at = encode_older(at, all[i]);
        }
    }
    CHECK(at == p + *size);
    store_be32(p + 2, crc32c(0, p + SNAPSHOT_CRC_START, *size - SNAPSHOT_CRC_START));
    free(all);
    return p;
}

static bool decode_entry(struct producer_state *s, const uint8_t *at)
{
    int64_t producer_id = (int64_t)load_be64(at), last_offset = (int64_t)load_be64(at + 14);
    int32_t delta = (int32_t)load_be32(at + 22);

    if (producer_id < 0 || delta < 0 || find(s, producer_id) != NULL ||
        (last_offset >= 0 && last_offset < delta))
        return false;

    struct producer *p = add(s, producer_id);

    p->producer_epoch = (int16_t)load_be16(at + 8);
    p->last_timestamp_ms = (int64_t)load_be64(at + 26);
    p->coordinator_epoch = (int32_t)load_be32(at + 34);
    p->txn_first_offset = MAX((int64_t)load_be64(at + 38), (int64_t)-1);
    if (p->txn_first_offset >= 0)
        s->open_count++;
    if (last_offset >= 0)
        push_batch(p, (struct producer_batch){
                          .last_offset = last_offset,
                          .timestamp_ms = p->last_timestamp_ms,
                          .last_sequence = (int32_t)load_be32(at + 10),
                          .offset_delta = delta,
                      });
    s->log_time_ms = MAX(s->log_time_ms, p->last_timestamp_ms);
    return true;
}

/* The older batches of one producer; the bytes used, 0 when they cannot be. */
static size_t decode_older(struct producer_state *s, const uint8_t *at, size_t left)
{
    if (left < 9)
        return 0;

    struct producer *p = find(s, (int64_t)load_be64(at));
    size_t count = at[8], size = 9 + count * EXTENSION_BATCH_BYTES;

    if (p == NULL || p->batch_count != 1 || count < 1 || count >= PRODUCER_BATCHES_KEPT ||
        left < size)
        return 0;

    struct producer_batch last = p->batches[0];

    p->batch_count = 0;
    for (const uint8_t *b = at + 9; b < at + size; b += EXTENSION_BATCH_BYTES)
        push_batch(p, (struct producer_batch){
                          .last_sequence = (int32_t)load_be32(b),
                          .last_offset = (int64_t)load_be64(b + 4),
                          .offset_delta = (int32_t)load_be32(b + 12),
                          .timestamp_ms = (int64_t)load_be64(b + 16),
                      });
    push_batch(p, last);
    return size;
}

static bool decode_extension(struct producer_state *s, const uint8_t *at, size_t left)
{
    if (left < 8 || memcmp(at, "FMQ1", 4) != 0)
        return true; /* nobody's, or somebody else's: Kafka does not look either */

    uint32_t count = load_be32(at + 4);

    at += 8;
    left -= 8;
    for (uint32_t i = 0; i < count; i++) {
        size_t used = decode_older(s, at, left);

        if (used == 0)
            return false;
        at += used;
        left -= used;
    }
    return true;
}

enum err producer_state_decode(struct producer_state *s, const uint8_t *p, size_t size,
                               struct errmsg *why)
{
    producer_state_clear(s);
    if (size < SNAPSHOT_HEAD_BYTES || load_be16(p) != SNAPSHOT_VERSION) {
        errmsg_set(why, "no producer snapshot of version %d", SNAPSHOT_VERSION);
        return ERR_CORRUPT;
    }

    uint32_t stored = load_be32(p + 2);
    uint32_t found = crc32c(0, p + SNAPSHOT_CRC_START, size - SNAPSHOT_CRC_START);
    uint32_t count = load_be32(p + 6);

    if (stored != found) {
        errmsg_set(why, "CRC found %u, computed %u", stored, found);
        return ERR_CORRUPT;
    }
    if (count > (size - SNAPSHOT_HEAD_BYTES) / SNAPSHOT_ENTRY_BYTES) {
        errmsg_set(why, "%u producers do not fit into %zu bytes", count, size);
        return ERR_CORRUPT;
    }

    const uint8_t *at = p + SNAPSHOT_HEAD_BYTES;
    bool good = true;

    for (uint32_t i = 0; good && i < count; i++, at += SNAPSHOT_ENTRY_BYTES)
        good = decode_entry(s, at);
    good = good && decode_extension(s, at, (size_t)(p + size - at));
    if (!good) {
        producer_state_clear(s);
        errmsg_set(why, "an entry contradicts itself or another");
        return ERR_CORRUPT;
    }
    return ERR_NONE;
}
