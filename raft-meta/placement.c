/* raft-meta/placement.c -- see placement.h.
 *
 * Partition k of R racks begins at rack (start + k) mod R, and inside each rack at broker
 * (offset + k / R): so R consecutive partitions have their leaders in R racks, and after
 * R * (brokers of a rack) partitions every broker has led once. From then on a shift moves the
 * followers against the leader, so that a broker that dies leaves its leaders to many others.
 */
#include "raft-meta/placement.h"

#include <stdlib.h>

#include "raft-meta/fsm.h"

struct candidate {
    int32_t id;
    struct str rack;
    bool fenced;
};

struct rack {
    const struct candidate *brokers; /* unfenced ones first, each part by id */
    int32_t count, unfenced;
    uint32_t offset;
    int32_t taken; /* for the partition at hand */
};

struct placement {
    struct candidate *brokers;
    int32_t broker_count, unfenced_count;
    struct rack *racks;
    int32_t rack_count;
    uint32_t start;
};

static int by_rack(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    int c = str_cmp(x->rack, y->rack);

    if (c == 0)
        c = (x->fenced ? 1 : 0) - (y->fenced ? 1 : 0);
    return c != 0 ? c : (x->id > y->id) - (x->id < y->id);
}

/* splitmix64: the next of a sequence of well mixed numbers. */
static uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void gather(struct placement *p, const struct image *i, uint64_t seed)
{
    p->brokers = xcalloc((size_t)image_broker_count(i) + 1, sizeof *p->brokers);
    p->racks = xcalloc((size_t)image_broker_count(i) + 1, sizeof *p->racks);
    for (const struct broker_image *b = image_broker_next(i, -1); b != NULL;
         b = image_broker_next(i, b->id)) {
        bool fenced = b->fenced || b->in_controlled_shutdown;

        p->brokers[p->broker_count++] = (struct candidate){b->id, b->rack, fenced};
        p->unfenced_count += fenced ? 0 : 1;
    }
    qsort(p->brokers, (size_t)p->broker_count, sizeof *p->brokers, by_rack);
    for (int32_t b = 0; b < p->broker_count; b++) {
        struct rack *r = p->rack_count > 0 ? &p->racks[p->rack_count - 1] : NULL;

        if (r == NULL || str_cmp(r->brokers[0].rack, p->brokers[b].rack) != 0) {
            r = &p->racks[p->rack_count++];
            r->brokers = &p->brokers[b];
            r->offset = (uint32_t)mix(&seed);
        }
        r->count++;
        r->unfenced += p->brokers[b].fenced ? 0 : 1;
    }
    p->start = (uint32_t)mix(&seed);
}

/* The n-th of `count` brokers when the first is at `at` and the others are turned by `shift`. */
static int32_t turned(const struct candidate *brokers, int32_t count, uint32_t at, uint32_t shift,
                      int32_t n)
{
    uint32_t c = (uint32_t)count;

    if (n > 0)
        n = 1 + (int32_t)(((uint32_t)n - 1 + shift) % (c - 1));
    return brokers[(at % c + (uint32_t)n) % c].id;
}

/* The rack's next broker for partition `k`, or -1 when all have a replica of it. */
static int32_t next_of_rack(const struct placement *p, struct rack *r, uint32_t k, bool unfenced)
{
    uint32_t at = r->offset + k / (uint32_t)p->rack_count;
    int32_t n = r->taken, fenced = r->count - r->unfenced;

    if (n < r->unfenced) {
        r->taken++;
        return turned(r->brokers, r->unfenced, at, at / (uint32_t)r->unfenced, n);
    }
    if (unfenced || n == r->count)
        return -1;
    r->taken++;
    return turned(r->brokers + r->unfenced, fenced, at, at / (uint32_t)fenced, n - r->unfenced);
}

static void place_one(struct placement *p, uint32_t k, int32_t factor, int32_t *replicas)
{
    uint32_t first = (p->start + k) % (uint32_t)p->rack_count, at;

    for (int32_t r = 0; r < p->rack_count; r++)
        p->racks[r].taken = 0;
    /* The leader: from the first rack that has an unfenced broker. */
    while ((replicas[0] = next_of_rack(p, &p->racks[first], k, true)) < 0)
        first = (first + 1) % (uint32_t)p->rack_count;
    at = first;
    for (int32_t r = 1; r < factor; r++) {
        do {
            at = (at + 1) % (uint32_t)p->rack_count;
            replicas[r] = next_of_rack(p, &p->racks[at], k, false);
        } while (replicas[r] < 0);
    }
}

enum err placement_place(const struct image *i, uint64_t seed, int32_t first, int32_t count,
                         int32_t factor, int32_t *replicas, struct errmsg *why)
{
    struct placement p = {0};
    enum err e = ERR_INVALID_REPLICATION_FACTOR;

    gather(&p, i, seed);
    if (factor <= 0) {
        errmsg_set(why, "Invalid replication factor %d: the replication factor must be positive.",
                   factor);
    } else if (p.unfenced_count == 0) {
        errmsg_set(why, "All brokers are currently fenced, or have all their log directories "
                        "cordoned.");
    } else if (factor > p.broker_count) {
        errmsg_set(why,
                   "The target replication factor of %d cannot be reached because only %d "
                   "broker(s) are registered or some brokers have all their log directories "
                   "cordoned.",
                   factor, p.broker_count);
    } else if (factor > REPLICAS_MAX) {
        errmsg_set(why, "A partition has at most %d replicas.", REPLICAS_MAX);
    } else {
        for (int32_t k = 0; k < count; k++)
            place_one(&p, (uint32_t)(first + k), factor, replicas + (size_t)k * (size_t)factor);
        e = ERR_NONE;
    }
    free(p.brokers);
    free(p.racks);
    return e;
}
