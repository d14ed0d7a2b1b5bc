#include "tests/sim/oracle.h"

#include <stdlib.h>
#include <string.h>

#define CUTS_MAX    256
#define TOPICS_MAX  512
#define OFFSETS_MAX 4000000 /* of one partition: more is a lie */

/* What is known of one offset. */
struct entry {
    uint64_t value; /* 0: nothing */
    int32_t cuts;   /* it was there after so many cuts */
    bool final;     /* and in the last read */
};

/* After a cut the log ended somewhere in [least, most]. */
struct bounds {
    int64_t least, most;
};

struct part {
    struct entry *entries;
    int64_t entry_count, entry_capacity;
    struct bounds cuts[CUTS_MAX]; /* [i]: of cut number i + 1 */
    int64_t durable_end;          /* below it nothing may be lost */
    int64_t acked_end;            /* greatest end acknowledged with acks=all, in this life */
    int64_t kept_end;             /* greatest end acknowledged or read, since the last cut */
    int64_t start_seen, start_floor;
    int64_t delete_asked; /* someone has asked to delete up to here */
    bool deletion_open;   /* up to the high watermark, wherever that is */
    bool damaged;
    bool read_at_end;
};

#define GROWN_MAX 256 /* growths of one topic in one run */

struct topic {
    char name[ORACLE_TOPIC_NAME_SIZE];
    struct uuid id;
    enum oracle_topic_state state;
    uint64_t there_ns, gone_ns; /* when that was acknowledged */
    int partitions, partitions_asked;
    /* Since when there are at least how many: an answer may be much older than its arrival. */
    struct {
        uint64_t ns;
        int count;
    } grown[GROWN_MAX];
    int grown_count;
    bool setting_on[SETTING_COUNT], setting_ever[SETTING_COUNT];
    int flush_version; /* changes with each change of SETTING_FLUSH */
    bool shown;        /* by the Metadata answer that is being looked at */
    struct part *parts[ORACLE_PARTITIONS_MAX];
};

/* One record. */
struct sent {
    int64_t producer_id;
    int64_t offset; /* -1: not known */
    int32_t offset_cuts;
    int32_t topic, partition;
    int32_t sequence;
    int32_t first_cuts, last_cuts; /* when it was sent first, and last */
    int32_t flush_version;         /* then; -1: flush was off */
    int16_t producer_epoch;
    int16_t acks;
    uint16_t attempts, refused;
    bool acked, by_name;
};

struct oracle {
    struct sim *sim;
    struct topic *topics[TOPICS_MAX];
    int topic_count;
    struct sent *sent; /* by value; 0 is none */
    uint64_t sent_count, sent_capacity;
    int cuts, lives;
    bool disk_failing, sync_failing, final;
    int64_t *producer_ids;
    size_t producer_id_count;
};

struct oracle *oracle_new(struct sim *s)
{
    struct oracle *o = xcalloc(1, sizeof *o);

    o->sim = s;
    o->sent_count = 1;
    return o;
}

static struct topic *topic_at(const struct oracle *o, int topic)
{
    CHECK(topic >= 0 && topic < o->topic_count);
    return o->topics[topic];
}

static struct part *part_at(const struct oracle *o, int topic, int32_t partition)
{
    struct topic *t = topic_at(o, topic);

    CHECK(partition >= 0 && partition < ORACLE_PARTITIONS_MAX);
    if (t->parts[partition] == NULL)
        t->parts[partition] = xcalloc(1, sizeof *t->parts[partition]);
    return t->parts[partition];
}

/* What clients say of a topic that is on its way out may be about its successor. */
static bool counts(const struct oracle *o, int topic, int32_t partition)
{
    return topic_at(o, topic)->state == TOPIC_THERE && !part_at(o, topic, partition)->damaged;
}

/* ---- topics ---- */

int oracle_topic_creating(struct oracle *o, const char *name, int partitions)
{
    struct topic *t = xcalloc(1, sizeof *t);

    CHECK(o->topic_count < TOPICS_MAX && strlen(name) < sizeof t->name &&
          partitions <= ORACLE_PARTITIONS_MAX);
    memcpy(t->name, name, strlen(name) + 1);
    t->partitions_asked = partitions;
    o->topics[o->topic_count] = t;
    return o->topic_count++;
}

static void note_partitions(const struct oracle *o, struct topic *t, int count)
{
    CHECK(t->grown_count < GROWN_MAX);
    t->partitions = count;
    t->grown[t->grown_count].ns = sim_now(o->sim);
    t->grown[t->grown_count++].count = count;
}

void oracle_topic_created(struct oracle *o, int topic, const struct uuid *id)
{
    struct topic *t = topic_at(o, topic);

    if (t->state != TOPIC_CREATING)
        return;
    for (int i = 0; i < o->topic_count; i++)
        if (i != topic && uuid_eq(&o->topics[i]->id, id))
            sim_violation(o->sim, "P8", "topics %s and %s have the same id", o->topics[i]->name,
                          t->name);
    t->state = TOPIC_THERE;
    t->id = *id;
    t->there_ns = sim_now(o->sim);
    note_partitions(o, t, t->partitions_asked);
}

void oracle_topic_deleting(struct oracle *o, int topic)
{
    topic_at(o, topic)->state = TOPIC_DELETING;
}

void oracle_topic_deleted(struct oracle *o, int topic)
{
    topic_at(o, topic)->state = TOPIC_GONE;
    topic_at(o, topic)->gone_ns = sim_now(o->sim);
}

int oracle_topic_count(const struct oracle *o)
{
    return o->topic_count;
}

enum oracle_topic_state oracle_topic_state(const struct oracle *o, int topic)
{
    return topic_at(o, topic)->state;
}

const char *oracle_topic_name(const struct oracle *o, int topic)
{
    return topic_at(o, topic)->name;
}

const struct uuid *oracle_topic_id(const struct oracle *o, int topic)
{
    return &topic_at(o, topic)->id;
}

int oracle_topic_partitions(const struct oracle *o, int topic)
{
    return topic_at(o, topic)->partitions;
}

void oracle_partitions_adding(struct oracle *o, int topic, int count)
{
    struct topic *t = topic_at(o, topic);

    t->partitions_asked = MAX(t->partitions_asked, count);
}

void oracle_partitions_added(struct oracle *o, int topic, int count)
{
    struct topic *t = topic_at(o, topic);

    if (count <= t->partitions)
        return;
    note_partitions(o, t, count);
}

void oracle_setting_changing(struct oracle *o, int topic, enum oracle_setting s, bool on)
{
    struct topic *t = topic_at(o, topic);

    if (s == SETTING_FLUSH && t->setting_on[s] != on)
        t->flush_version++;
    if (s == SETTING_FLUSH)
        t->setting_on[s] = false;
    t->setting_ever[s] = t->setting_ever[s] || on;
}

void oracle_setting_changed(struct oracle *o, int topic, enum oracle_setting s, bool on)
{
    topic_at(o, topic)->setting_on[s] = on;
}

void oracle_metadata_begin(struct oracle *o)
{
    for (int i = 0; i < o->topic_count; i++)
        o->topics[i]->shown = false;
}

/* How many partitions must be shown to who asked then. */
static int partitions_at(const struct topic *t, uint64_t asked_ns)
{
    int count = 0;

    for (int i = 0; i < t->grown_count && t->grown[i].ns <= asked_ns; i++)
        count = t->grown[i].count;
    return count;
}

void oracle_metadata_topic(struct oracle *o, uint64_t asked_ns, const char *name,
                           const struct uuid *id, int partitions)
{
    for (int i = 0; i < o->topic_count; i++) {
        struct topic *t = o->topics[i];

        if (strcmp(t->name, name) != 0 ||
            (!uuid_is_zero(id) && !uuid_is_zero(&t->id) && !uuid_eq(&t->id, id)))
            continue;
        if (uuid_is_zero(id) && t->state == TOPIC_GONE)
            continue; /* by its name alone it may be its successor */
        t->shown = true;
        sim_checked(o->sim, "P8");
        if (t->state == TOPIC_GONE && t->gone_ns < asked_ns)
            sim_violation(o->sim, "P8", "topic %s is shown after its deletion was acknowledged",
                          name);
        if (t->state != TOPIC_THERE || t->there_ns >= asked_ns)
            continue;
        if (partitions < partitions_at(t, asked_ns) || partitions > t->partitions_asked)
            sim_violation(o->sim, "P8", "topic %s is shown with %d partitions; it has %d to %d",
                          name, partitions, partitions_at(t, asked_ns), t->partitions_asked);
    }
}

void oracle_metadata_end(struct oracle *o, uint64_t asked_ns)
{
    for (int i = 0; i < o->topic_count; i++) {
        const struct topic *t = o->topics[i];

        if (t->state == TOPIC_THERE && t->there_ns < asked_ns && !t->shown)
            sim_violation(o->sim, "P8",
                          "topic %s is not shown, whose creation was acknowledged before", t->name);
    }
}

void oracle_topic_unknown(struct oracle *o, uint64_t asked_ns, int topic, int32_t partition)
{
    const struct topic *t = topic_at(o, topic);

    sim_checked(o->sim, "P8");
    if (t->state == TOPIC_THERE && t->there_ns < asked_ns && partition < partitions_at(t, asked_ns))
        sim_violation(o->sim, "P8", "%s-%d is unknown, whose creation was acknowledged before",
                      t->name, partition);
}

/* ---- cuts ---- */

static void cuts_narrow(struct oracle *o, const char *name, int32_t partition, const struct part *p,
                        int from, int to)
{
    for (int i = from; i < to; i++)
        if (p->cuts[i].least > p->cuts[i].most)
            sim_violation(o->sim, "P1",
                          "%s-%d: after the power failure or failed sync number %d the log must "
                          "have ended at %lld or above, and at %lld or below: a hole, or a durable "
                          "record is gone",
                          name, partition, i + 1, (long long)p->cuts[i].least,
                          (long long)p->cuts[i].most);
}

static void cut_everything(struct oracle *o)
{
    CHECK(o->cuts < CUTS_MAX);
    for (int t = 0; t < o->topic_count; t++) {
        for (int i = 0; i < ORACLE_PARTITIONS_MAX; i++) {
            struct part *p = o->topics[t]->parts[i];

            if (p == NULL)
                continue;
            p->cuts[o->cuts] = (struct bounds){p->durable_end, INT64_MAX};
            p->kept_end = p->durable_end;
            /* Of which nothing was ever synced may be gone as a whole, its start too. */
            if (p->durable_end == 0)
                p->start_floor = 0;
        }
    }
    o->cuts++;
}

/* What was there after `cuts` cuts up to `end` has survived all that came until `now`. */
static void survived(struct oracle *o, int topic, int32_t partition, int from, int until,
                     int64_t end)
{
    struct part *p = part_at(o, topic, partition);

    for (int i = from; i < until; i++)
        p->cuts[i].least = MAX(p->cuts[i].least, end);
    cuts_narrow(o, topic_at(o, topic)->name, partition, p, from, until);
}

/* What was at `offset` after `from` cuts is not there any more: some cut must have taken it. */
static bool taken(struct oracle *o, int topic, int32_t partition, int from, int64_t offset)
{
    struct part *p = part_at(o, topic, partition);
    int candidates = 0, last = 0;

    for (int i = from; i < o->cuts; i++) {
        if (p->cuts[i].least > offset)
            continue;
        candidates++;
        last = i;
    }
    if (candidates == 1) {
        p->cuts[last].most = MIN(p->cuts[last].most, offset);
        cuts_narrow(o, topic_at(o, topic)->name, partition, p, last, last + 1);
    }
    if (candidates > 0)
        sim_count(o->sim, "record lost with the page cache");
    return candidates > 0;
}

static void durable(struct oracle *o, int topic, int32_t partition, int from, int64_t end)
{
    struct part *p = part_at(o, topic, partition);

    p->durable_end = MAX(p->durable_end, end);
    survived(o, topic, partition, from, o->cuts, end);
}

static void life_ends(struct oracle *o, bool clean)
{
    if (o->sync_failing)
        cut_everything(o);
    for (int t = 0; t < o->topic_count; t++) {
        for (int i = 0; i < ORACLE_PARTITIONS_MAX; i++) {
            struct part *p = o->topics[t]->parts[i];

            if (p == NULL)
                continue;
            p->acked_end = 0;
            if (clean && !o->disk_failing)
                p->durable_end = MAX(p->durable_end, p->kept_end);
            else
                p->start_seen = p->start_floor;
        }
    }
    o->disk_failing = o->sync_failing = false;
    o->lives++;
}

void oracle_started(struct oracle *o)
{
    (void)o;
}

void oracle_killed(struct oracle *o)
{
    life_ends(o, false);
}

void oracle_power_failed(struct oracle *o)
{
    o->sync_failing = true;
    life_ends(o, false);
}

void oracle_stopped(struct oracle *o)
{
    life_ends(o, true);
}

void oracle_disk_failing(struct oracle *o)
{
    o->disk_failing = true;
}

void oracle_sync_failing(struct oracle *o)
{
    o->disk_failing = o->sync_failing = true;
}

bool oracle_damaged(struct oracle *o, const char *path)
{
    for (int t = o->topic_count - 1; t >= 0; t--) {
        const struct topic *topic = o->topics[t];

        if (topic->state == TOPIC_GONE)
            continue;
        for (int i = 0; i < ORACLE_PARTITIONS_MAX; i++) {
            char folder[64];

            snprintf(folder, sizeof folder, "/%s-%d/", topic->name, i);
            if (strstr(path, folder) == NULL)
                continue;
            part_at(o, t, i)->damaged = true;
            sim_trace(o->sim, "oracle: %s-%d is damaged", topic->name, i);
            return true;
        }
    }
    return false;
}

bool oracle_is_damaged(const struct oracle *o, int topic, int32_t partition)
{
    return part_at(o, topic, partition)->damaged;
}

int oracle_cuts(const struct oracle *o)
{
    return o->cuts;
}

struct oracle_mark oracle_mark(struct oracle *o, int topic, int32_t partition)
{
    const struct part *p = part_at(o, topic, partition);

    return (struct oracle_mark){
        .asked_ns = sim_now(o->sim),
        .cuts = o->cuts,
        .lives = o->lives,
        .acked_end = p->acked_end,
        .kept_end = p->kept_end,
        .start_seen = p->start_seen,
        .start_floor = p->start_floor,
    };
}

static bool same_life(const struct oracle *o, const struct oracle_mark *m)
{
    return m->lives == o->lives;
}

/* ---- what is known of an offset ---- */

static struct entry *entry_at(struct oracle *o, struct part *p, int64_t offset)
{
    if (offset < 0 || offset >= OFFSETS_MAX)
        sim_violation(o->sim, "P1", "offset %lld in a log that cannot be that long",
                      (long long)offset);
    if (offset >= p->entry_capacity) {
        int64_t capacity = MAX(offset + 1, p->entry_capacity * 2);

        p->entries = xrealloc(p->entries, (size_t)capacity * sizeof *p->entries);
        memset(p->entries + p->entry_capacity, 0,
               (size_t)(capacity - p->entry_capacity) * sizeof *p->entries);
        p->entry_capacity = capacity;
    }
    p->entry_count = MAX(p->entry_count, offset + 1);
    return &p->entries[offset];
}

static void check_replaced(struct oracle *o, const struct sent *v, uint64_t value,
                           const struct entry *e, int64_t offset, int cuts)
{
    sim_checked(o->sim, "P4");
    if (!taken(o, v->topic, v->partition, MIN(e->cuts, cuts), offset))
        sim_violation(o->sim, "P4", "%s-%d: offset %lld held record %llu, and now %llu",
                      topic_at(o, v->topic)->name, v->partition, (long long)offset,
                      (unsigned long long)e->value, (unsigned long long)value);
}

static void check_moved(struct oracle *o, const struct sent *v, uint64_t value, int64_t offset,
                        int cuts)
{
    /* The older of the two places must have been lost before. */
    int64_t lost = v->offset_cuts <= cuts ? v->offset : offset;

    sim_checked(o->sim, "P5");
    if (!taken(o, v->topic, v->partition, MIN(v->offset_cuts, cuts), lost))
        sim_violation(o->sim, v->producer_id >= 0 ? "P5" : "P4",
                      "%s-%d: record %llu of producer %lld (sequence %d) is at offset %lld and at "
                      "%lld",
                      topic_at(o, v->topic)->name, v->partition, (unsigned long long)value,
                      (long long)v->producer_id, v->sequence, (long long)v->offset,
                      (long long)offset);
}

/* `value` was at `offset` at a time when there had been `cuts` cuts. */
static void learn(struct oracle *o, uint64_t value, int64_t offset, int cuts)
{
    struct sent *v = &o->sent[value];
    struct part *p = part_at(o, v->topic, v->partition);
    struct entry *e = entry_at(o, p, offset);

    if (v->offset >= 0 && v->offset != offset)
        check_moved(o, v, value, offset, cuts);
    if (e->value != 0 && e->value != value)
        check_replaced(o, v, value, e, offset, cuts);
    /* Unless it was sent again since: then it may have been lost, and stored anew in its place. */
    if (e->value == value && v->last_cuts <= MIN(e->cuts, cuts))
        survived(o, v->topic, v->partition, MIN(e->cuts, cuts), MAX(e->cuts, cuts), offset + 1);
    /* Appended after the last cut, so the log ended here or below. */
    if (v->first_cuts == o->cuts && o->cuts > 0) {
        p->cuts[o->cuts - 1].most = MIN(p->cuts[o->cuts - 1].most, offset);
        cuts_narrow(o, topic_at(o, v->topic)->name, v->partition, p, o->cuts - 1, o->cuts);
    }
    if (e->value == 0 || e->cuts <= cuts) {
        e->value = value;
        e->cuts = cuts;
        e->final = e->final || o->final;
    }
    if (v->offset < 0 || v->offset_cuts <= cuts) {
        v->offset = offset;
        v->offset_cuts = cuts;
    }
    if (cuts == o->cuts)
        p->kept_end = MAX(p->kept_end, offset + 1);
}

/* ---- producing ---- */

uint64_t oracle_values_new(struct oracle *o, int32_t count)
{
    uint64_t first = o->sent_count;

    o->sent_count += (uint64_t)count;
    if (o->sent_count > o->sent_capacity) {
        uint64_t capacity = MAX(o->sent_count, MAX(o->sent_capacity * 2, UINT64_C(1024)));

        o->sent = xrealloc(o->sent, capacity * sizeof *o->sent);
        memset(o->sent + o->sent_capacity, 0, (capacity - o->sent_capacity) * sizeof *o->sent);
        o->sent_capacity = capacity;
    }
    return first;
}

struct oracle_mark oracle_sending(struct oracle *o, const struct oracle_batch *b)
{
    const struct topic *t = topic_at(o, b->topic);

    for (int32_t i = 0; i < b->count; i++) {
        struct sent *v = &o->sent[b->first_value + (uint64_t)i];

        v->by_name = v->by_name || b->by_name;
        v->last_cuts = o->cuts;
        if (v->attempts++ > 0)
            continue;
        v->topic = b->topic;
        v->partition = b->partition;
        v->producer_id = b->producer_id;
        v->producer_epoch = b->producer_epoch;
        v->sequence = b->producer_id >= 0
                          ? (int32_t)(((uint32_t)b->base_sequence + (uint32_t)i) & INT32_MAX)
                          : -1;
        v->acks = b->acks;
        v->offset = -1;
        v->first_cuts = o->cuts;
        v->flush_version = t->setting_on[SETTING_FLUSH] ? t->flush_version : -1;
    }
    return oracle_mark(o, b->topic, b->partition);
}

static bool flush_held(const struct oracle *o, const struct sent *v)
{
    const struct topic *t = topic_at(o, v->topic);

    return t->setting_on[SETTING_FLUSH] && v->flush_version == t->flush_version;
}

static void acked(struct oracle *o, const struct oracle_mark *m, const struct oracle_batch *b,
                  int64_t base_offset)
{
    struct part *p = part_at(o, b->topic, b->partition);
    int64_t end = base_offset + b->count;

    sim_checked(o->sim, "P1");
    for (int32_t i = 0; i < b->count; i++)
        learn(o, b->first_value + (uint64_t)i, base_offset + i, m->cuts);
    if (b->acks == -1 && same_life(o, m))
        p->acked_end = MAX(p->acked_end, end);
    if (flush_held(o, &o->sent[b->first_value])) {
        sim_count(o->sim, "acknowledged with flush.messages=1");
        durable(o, b->topic, b->partition, m->cuts, end);
    }
}

void oracle_sent(struct oracle *o, const struct oracle_mark *m, const struct oracle_batch *b,
                 enum oracle_outcome outcome, int64_t base_offset)
{
    if (outcome == ORACLE_DUPLICATE) {
        sim_checked(o->sim, "P5");
        if (b->producer_id < 0 || o->sent[b->first_value].attempts < 2)
            sim_violation(o->sim, "P5",
                          "%s-%d: a batch that was sent once is called a duplicate (producer %lld, "
                          "sequence %d)",
                          topic_at(o, b->topic)->name, b->partition, (long long)b->producer_id,
                          b->base_sequence);
    }
    for (int32_t i = 0; i < b->count; i++) {
        struct sent *v = &o->sent[b->first_value + (uint64_t)i];

        if (outcome == ORACLE_REFUSED)
            v->refused++;
        if (outcome == ORACLE_ACKED || outcome == ORACLE_DUPLICATE)
            v->acked = v->acked || !b->by_name || topic_at(o, b->topic)->state == TOPIC_THERE;
    }
    if (outcome == ORACLE_ACKED && base_offset >= 0 && counts(o, b->topic, b->partition))
        acked(o, m, b, base_offset);
}

void oracle_sequence_refused(struct oracle *o, const struct oracle_batch *b, int cuts_at_first)
{
    const struct topic *t = topic_at(o, b->topic);
    const struct part *p = part_at(o, b->topic, b->partition);

    sim_checked(o->sim, "P5");
    /* A producer that the node does not know may begin anywhere, as in Kafka: when its first batch
     * failed, the one behind it was taken, and the first is too late. */
    if (b->base_sequence == 0 && o->sent[b->first_value].attempts > 1)
        return;
    /* Of what was deleted the producers may be forgotten, too. */
    if (!counts(o, b->topic, b->partition) || cuts_at_first != o->cuts || p->delete_asked > 0 ||
        p->deletion_open || t->setting_ever[SETTING_RETENTION])
        return;
    sim_violation(o->sim, "P5",
                  "%s-%d: sequence %d of producer %lld is refused, though all before it are "
                  "acknowledged and nothing was lost",
                  t->name, b->partition, b->base_sequence, (long long)b->producer_id);
}

void oracle_producer_id(struct oracle *o, int64_t producer_id)
{
    sim_checked(o->sim, "P5");
    for (size_t i = 0; i < o->producer_id_count; i++)
        if (o->producer_ids[i] == producer_id)
            sim_violation(o->sim, "P5", "the producer id %lld was given twice",
                          (long long)producer_id);
    o->producer_ids =
        xrealloc(o->producer_ids, (o->producer_id_count + 1) * sizeof *o->producer_ids);
    o->producer_ids[o->producer_id_count++] = producer_id;
}

/* ---- reading ---- */

static void check_start(struct oracle *o, const struct oracle_mark *m, int topic, int32_t partition,
                        int64_t start)
{
    const struct topic *t = topic_at(o, topic);
    struct part *p = part_at(o, topic, partition);

    sim_checked(o->sim, "H48h");
    if (start < m->start_floor)
        sim_violation(o->sim, "H48h",
                      "%s-%d: the log starts at %lld, though DeleteRecords was acknowledged up to "
                      "%lld",
                      t->name, partition, (long long)start, (long long)m->start_floor);
    if (same_life(o, m) && start < m->start_seen)
        sim_violation(o->sim, "H48h", "%s-%d: the log start offset went back from %lld to %lld",
                      t->name, partition, (long long)m->start_seen, (long long)start);
    if (start > p->delete_asked && !p->deletion_open && !t->setting_ever[SETTING_RETENTION])
        sim_violation(o->sim, "H48h",
                      "%s-%d: the log starts at %lld, but nobody deleted beyond %lld", t->name,
                      partition, (long long)start, (long long)p->delete_asked);
    if (same_life(o, m))
        p->start_seen = MAX(p->start_seen, start);
}

static void check_high_watermark(struct oracle *o, const struct oracle_mark *m, int topic,
                                 int32_t partition, int64_t high_watermark)
{
    struct part *p = part_at(o, topic, partition);

    if (!same_life(o, m))
        return;
    sim_checked(o->sim, "P2");
    if (high_watermark < m->acked_end)
        sim_violation(o->sim, "P2",
                      "%s-%d: the high watermark is %lld, though %lld was acknowledged or shown "
                      "before the request",
                      topic_at(o, topic)->name, partition, (long long)high_watermark,
                      (long long)m->acked_end);
    p->acked_end = MAX(p->acked_end, high_watermark);
}

void oracle_fetched(struct oracle *o, const struct oracle_mark *m, const struct oracle_fetch *f)
{
    const char *name = topic_at(o, f->topic)->name;

    if (!counts(o, f->topic, f->partition))
        return;
    sim_checked(o->sim, "P2");
    if (f->last_stable_offset > f->high_watermark || f->log_start_offset > f->high_watermark)
        sim_violation(o->sim, "P2",
                      "%s-%d: log start %lld, last stable offset %lld, high watermark %lld", name,
                      f->partition, (long long)f->log_start_offset,
                      (long long)f->last_stable_offset, (long long)f->high_watermark);
    if (f->log_start_offset >= 0)
        check_start(o, m, f->topic, f->partition, f->log_start_offset);
    check_high_watermark(o, m, f->topic, f->partition, f->high_watermark);
}

void oracle_read_batch(struct oracle *o, const struct oracle_mark *m, struct oracle_fetch *f,
                       int64_t base_offset, int64_t last_offset)
{
    bool first = f->next < 0;
    int64_t next = f->next;

    (void)m;
    f->next = last_offset + 1;
    if (!counts(o, f->topic, f->partition))
        return;
    sim_checked(o->sim, "P1");
    if (first ? base_offset > f->fetch_offset || last_offset < f->fetch_offset
              : base_offset != next)
        sim_violation(o->sim, "P1",
                      "%s-%d: a fetch from %lld got a batch [%lld, %lld] where %lld comes next",
                      topic_at(o, f->topic)->name, f->partition, (long long)f->fetch_offset,
                      (long long)base_offset, (long long)last_offset,
                      (long long)(first ? f->fetch_offset : next));
}

/* Sent by name to a topic that was deleted meanwhile, so that its successor got it. */
static bool is_for_predecessor(const struct oracle *o, const struct oracle_fetch *f,
                               const struct sent *v)
{
    const struct topic *t = topic_at(o, f->topic);

    return v->attempts > 0 && v->topic != f->topic && v->by_name && !v->acked && v->offset < 0 &&
           v->partition == f->partition && strcmp(topic_at(o, v->topic)->name, t->name) == 0;
}

/* The record can be one that was sent there; false: to its predecessor. */
static bool check_sent(struct oracle *o, const struct oracle_fetch *f, int64_t offset,
                       uint64_t value)
{
    const struct topic *t = topic_at(o, f->topic);
    const struct sent *v;

    if (value == 0 || value >= o->sent_count)
        sim_violation(o->sim, "P4", "%s-%d: offset %lld holds record %llu, which nobody has sent",
                      t->name, f->partition, (long long)offset, (unsigned long long)value);
    v = &o->sent[value];
    if (is_for_predecessor(o, f, v))
        return false;
    if (v->attempts == 0 || v->topic != f->topic || v->partition != f->partition)
        sim_violation(o->sim, "P4",
                      "%s-%d: offset %lld holds record %llu, which was sent to %s-%d (topic %d, "
                      "not %d)",
                      t->name, f->partition, (long long)offset, (unsigned long long)value,
                      v->attempts == 0 ? "nothing" : topic_at(o, v->topic)->name, v->partition,
                      v->topic, f->topic);
    if (v->refused == v->attempts)
        sim_violation(o->sim, "P9",
                      "%s-%d: offset %lld holds record %llu, though each attempt to write it was "
                      "refused",
                      t->name, f->partition, (long long)offset, (unsigned long long)value);
    return true;
}

void oracle_read_record(struct oracle *o, const struct oracle_mark *m, const struct oracle_fetch *f,
                        int64_t offset, int32_t leader_epoch, uint64_t value)
{
    (void)leader_epoch;
    if (topic_at(o, f->topic)->state != TOPIC_THERE)
        return;
    if (!check_sent(o, f, offset, value) || !counts(o, f->topic, f->partition))
        return;
    sim_checked(o->sim, "P2");
    if (offset >= f->high_watermark)
        sim_violation(o->sim, "P2",
                      "%s-%d: offset %lld was read, the high watermark in the answer is %lld",
                      topic_at(o, f->topic)->name, f->partition, (long long)offset,
                      (long long)f->high_watermark);
    if (offset < m->start_floor)
        return; /* a batch is never cut: it may begin below the start */
    learn(o, value, offset, m->cuts);
    if (flush_held(o, &o->sent[value]))
        durable(o, f->topic, f->partition, m->cuts, offset + 1);
}

void oracle_read_garbage(struct oracle *o, int topic, int32_t partition, int64_t offset,
                         const char *what)
{
    if (!counts(o, topic, partition)) {
        sim_count(o->sim, "damage seen by a client");
        return;
    }
    sim_violation(o->sim, "P4", "%s-%d, offset %lld: %s", topic_at(o, topic)->name, partition,
                  (long long)offset, what);
}

void oracle_read_nothing(struct oracle *o, const struct oracle_mark *m, int topic,
                         int32_t partition, int64_t fetch_offset)
{
    if (!counts(o, topic, partition) || !same_life(o, m) || o->disk_failing)
        return;
    sim_checked(o->sim, "H48g");
    if (fetch_offset < m->acked_end)
        sim_violation(o->sim, "H48g",
                      "%s-%d: a fetch from %lld found nothing, though the high watermark was %lld",
                      topic_at(o, topic)->name, partition, (long long)fetch_offset,
                      (long long)m->acked_end);
}

void oracle_out_of_range(struct oracle *o, const struct oracle_mark *m, int topic,
                         int32_t partition, int64_t fetch_offset)
{
    const struct topic *t = topic_at(o, topic);
    const struct part *p = part_at(o, topic, partition);

    if (!counts(o, topic, partition) || fetch_offset < p->delete_asked || p->deletion_open ||
        t->setting_ever[SETTING_RETENTION] || m->cuts != o->cuts)
        return;
    sim_checked(o->sim, "P1");
    if (fetch_offset <= m->kept_end)
        sim_violation(o->sim, "P1",
                      "%s-%d: offset %lld is out of range, though the log reached to %lld", t->name,
                      partition, (long long)fetch_offset, (long long)m->kept_end);
}

void oracle_listed_start(struct oracle *o, const struct oracle_mark *m, int topic,
                         int32_t partition, int64_t offset)
{
    if (counts(o, topic, partition))
        check_start(o, m, topic, partition, offset);
}

void oracle_listed_end(struct oracle *o, const struct oracle_mark *m, int topic, int32_t partition,
                       int64_t offset)
{
    if (counts(o, topic, partition))
        check_high_watermark(o, m, topic, partition, offset);
}

void oracle_deleting(struct oracle *o, int topic, int32_t partition, int64_t before)
{
    struct part *p = part_at(o, topic, partition);

    if (before == INT64_MAX)
        p->deletion_open = true;
    else
        p->delete_asked = MAX(p->delete_asked, before);
}

void oracle_deleted(struct oracle *o, int topic, int32_t partition, int64_t low_watermark)
{
    struct part *p = part_at(o, topic, partition);

    p->start_floor = MAX(p->start_floor, low_watermark);
    p->delete_asked = MAX(p->delete_asked, low_watermark);
}

/* ---- the end ---- */

void oracle_final_begin(struct oracle *o)
{
    o->final = true;
}

/* What is known and was not in the last read must have been lost within the budget. */
static void check_lost(struct oracle *o, int topic, int32_t partition, int64_t start, int64_t end)
{
    struct part *p = part_at(o, topic, partition);

    for (int64_t i = MAX(start, p->start_floor); i < p->entry_count; i++) {
        const struct entry *e = &p->entries[i];

        if (e->value == 0 || e->final)
            continue;

        const struct sent *v = &o->sent[e->value];

        if (i < end || !taken(o, topic, partition, e->cuts, i))
            sim_violation(
                o->sim, "P1",
                "%s-%d: record %llu (acks %d, %s) was at offset %lld and is lost; the log "
                "is [%lld, %lld)",
                topic_at(o, topic)->name, partition, (unsigned long long)e->value, v->acks,
                v->acked ? "acknowledged" : "read", (long long)i, (long long)start, (long long)end);
    }
}

/* What was acknowledged as a duplicate is somewhere. */
static void check_placed(struct oracle *o, int topic, int32_t partition)
{
    const struct part *p = part_at(o, topic, partition);

    if (p->delete_asked > 0 || p->deletion_open ||
        topic_at(o, topic)->setting_ever[SETTING_RETENTION])
        return;
    for (uint64_t i = 1; i < o->sent_count; i++) {
        const struct sent *v = &o->sent[i];

        if (v->topic == topic && v->partition == partition && v->attempts > 0 && v->acked &&
            v->offset < 0 && v->first_cuts == o->cuts)
            sim_violation(o->sim, "P5",
                          "%s-%d: record %llu was acknowledged as a duplicate and is nowhere",
                          topic_at(o, topic)->name, partition, (unsigned long long)i);
    }
}

struct producer_last {
    int64_t producer_id;
    int32_t sequence;
};

/* P5: in the log the sequences of a producer follow each other. */
static void check_sequences(struct oracle *o, int topic, int32_t partition, int64_t start,
                            int64_t end)
{
    struct part *p = part_at(o, topic, partition);
    struct producer_last *last = NULL;
    size_t count = 0;

    for (int64_t i = start; i < MIN(end, p->entry_count); i++) {
        const struct sent *v = &o->sent[p->entries[i].value];
        size_t k = 0;

        if (p->entries[i].value == 0 || v->producer_id < 0)
            continue;
        while (k < count && last[k].producer_id != v->producer_id)
            k++;
        if (k < count && v->sequence <= last[k].sequence)
            sim_violation(o->sim, "P5",
                          "%s-%d, offset %lld: sequence %d of producer %lld comes after %d",
                          topic_at(o, topic)->name, partition, (long long)i, v->sequence,
                          (long long)v->producer_id, last[k].sequence);
        if (k < count && v->sequence != last[k].sequence + 1 && o->cuts == 0)
            sim_violation(o->sim, "P5",
                          "%s-%d, offset %lld: sequence %d of producer %lld comes right after %d",
                          topic_at(o, topic)->name, partition, (long long)i, v->sequence,
                          (long long)v->producer_id, last[k].sequence);
        if (k == count) {
            last = xrealloc(last, (count + 1) * sizeof *last);
            last[count++].producer_id = v->producer_id;
        }
        last[k].sequence = v->sequence;
        sim_checked(o->sim, "P5");
    }
    free(last);
}

void oracle_partition_read(struct oracle *o, const struct oracle_mark *m, int topic,
                           int32_t partition, int64_t log_start_offset, int64_t high_watermark)
{
    struct part *p = part_at(o, topic, partition);

    p->read_at_end = true;
    if (!counts(o, topic, partition))
        return;
    check_start(o, m, topic, partition, log_start_offset);
    check_lost(o, topic, partition, log_start_offset, high_watermark);
    check_placed(o, topic, partition);
    check_sequences(o, topic, partition, log_start_offset, high_watermark);
    sim_checked(o->sim, "P1");
}

void oracle_finish(struct oracle *o)
{
    for (int t = 0; t < o->topic_count; t++) {
        const struct topic *topic = o->topics[t];

        for (int i = 0; topic->state == TOPIC_THERE && i < topic->partitions; i++)
            if (!part_at(o, t, i)->read_at_end && !part_at(o, t, i)->damaged)
                sim_violation(o->sim, "P1", "%s-%d could not be read in the end", topic->name, i);
    }
}
