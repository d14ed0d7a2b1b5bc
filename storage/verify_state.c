/* storage/verify_state.c -- producers and transactions as the batches say, against the files. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/verify_internal.h"

static bool read_snapshot(struct walk *w, int64_t offset, struct producer_state *out,
                          char path[VERIFY_PATH_MAX])
{
    struct errmsg why = {""};
    size_t size;

    walk_path(w, offset, ".snapshot", path);

    uint8_t *p = walk_slurp(w, path, &size);

    if (p == NULL)
        return false;

    bool sound = producer_state_decode(out, p, size, &why) == ERR_NONE;

    free(p);
    if (!sound)
        verify_report_add(w->report, FINDING_SNAPSHOT, FINDING_DAMAGE, path, 0, offset, -1, "%s",
                          why.text);
    return sound;
}

void walk_load_first_snapshot(struct walk *w, int64_t base)
{
    char path[VERIFY_PATH_MAX];

    w->producers_complete = base == 0;
    for (int i = 0; i < w->snapshot_count; i++) {
        if (w->snapshots[i].offset != base)
            continue;
        w->snapshots[i].seen = true;
        if (read_snapshot(w, base, &w->producers, path))
            w->producers_complete = true;
    }
}

void walk_producers(struct walk *w, struct segment_walk *s, const struct record_batch *b)
{
    struct completed_transaction ended;

    /* Nobody expires here: what a snapshot leaves out may have expired by the wall clock. */
    if (producer_state_update(&w->producers, b, INT64_MAX, &ended) && ended.aborted)
        txn_index_append(&s->aborted, &ended);
    w->producers.ended_count = 0; /* what has ended is of no interest here */
}

/* ---- snapshots ---- */

static const struct producer_batch *last_batch(const struct producer *p)
{
    return p->batch_count > 0 ? &p->batches[p->batch_count - 1] : NULL;
}

static void check_producer(struct walk *w, const char *path, int64_t offset,
                           const struct producer *stored, const struct producer *replayed)
{
    const struct producer_batch *a = last_batch(stored);
    const struct producer_batch *b = replayed != NULL ? last_batch(replayed) : NULL;

    /* Where the cleaner has been, batches that counted may be gone. */
    if (w->facts->first_dirty > 0 && (a == NULL || walk_in_cleaned(w, a->last_offset)))
        return;
    if (replayed == NULL) {
        verify_report_add(w->report, FINDING_SNAPSHOT, FINDING_DAMAGE, path, 0, offset, -1,
                          "producer %" PRId64 " has written nothing to this log",
                          stored->producer_id);
        return;
    }
    if (stored->producer_epoch != replayed->producer_epoch ||
        stored->txn_first_offset != replayed->txn_first_offset)
        verify_report_add(w->report, FINDING_SNAPSHOT, FINDING_DAMAGE, path, 0, offset, -1,
                          "producer %" PRId64 ": epoch %d and open transaction at %" PRId64
                          ", the log says %d and %" PRId64,
                          stored->producer_id, stored->producer_epoch, stored->txn_first_offset,
                          replayed->producer_epoch, replayed->txn_first_offset);
    /* One that had expired and ended a transaction has no batch in a snapshot. */
    else if (a != NULL && (b == NULL || a->last_sequence != b->last_sequence ||
                           a->last_offset != b->last_offset || a->offset_delta != b->offset_delta))
        verify_report_add(w->report, FINDING_SNAPSHOT, FINDING_DAMAGE, path, 0, offset, -1,
                          "producer %" PRId64 ": last sequence %d at offset %" PRId64
                          ", the log says %d at %" PRId64,
                          stored->producer_id, a->last_sequence, a->last_offset,
                          b != NULL ? b->last_sequence : -1, b != NULL ? b->last_offset : -1);
}

static void check_snapshot(struct walk *w, struct snapshot_file *file)
{
    struct producer_state stored;
    char path[VERIFY_PATH_MAX];
    uint32_t n, m, j = 0;

    file->seen = true;
    producer_state_init(&stored, 0);
    if (!read_snapshot(w, file->offset, &stored, path) || !w->producers_complete) {
        producer_state_deinit(&stored);
        return;
    }

    const struct producer **a = producer_state_sorted(&stored, &n);
    const struct producer **b = producer_state_sorted(&w->producers, &m);

    for (uint32_t i = 0; i < n; i++) {
        while (j < m && b[j]->producer_id < a[i]->producer_id)
            j++;

        bool same = j < m && b[j]->producer_id == a[i]->producer_id;

        check_producer(w, path, file->offset, a[i], same ? b[j] : NULL);
    }
    free(a);
    free(b);
    producer_state_deinit(&stored);
}

void walk_check_snapshots(struct walk *w, int64_t offset)
{
    for (; w->snapshot_at < w->snapshot_count && w->snapshots[w->snapshot_at].offset <= offset;
         w->snapshot_at++) {
        if (!w->snapshots[w->snapshot_at].seen)
            check_snapshot(w, &w->snapshots[w->snapshot_at]);
    }
}

void walk_check_late_snapshots(struct walk *w, int64_t end)
{
    char path[VERIFY_PATH_MAX];

    walk_check_snapshots(w, end);
    for (int i = w->snapshot_at; i < w->snapshot_count; i++) {
        walk_path(w, w->snapshots[i].offset, ".snapshot", path);
        verify_report_add(w->report, FINDING_SNAPSHOT,
                          w->ended ? FINDING_CRASH : walk_weight(w, w->snapshots[i].offset), path,
                          0, w->snapshots[i].offset, -1, "lies behind the log's end, %" PRId64,
                          end);
    }
}

/* ---- aborted transactions ---- */

static bool same_transaction(const struct completed_transaction *a,
                             const struct completed_transaction *b)
{
    return a->producer_id == b->producer_id && a->first_offset == b->first_offset &&
           a->last_offset == b->last_offset && a->last_stable_offset == b->last_stable_offset;
}

static void bad_transaction(struct walk *w, const char *path, const struct segment_walk *s,
                            uint32_t i, const struct completed_transaction *found,
                            const struct completed_transaction *expected)
{
    static const struct completed_transaction none = {-1, -1, -1, -1, true};

    if (expected == NULL)
        expected = &none;
    verify_report_add(w->report, FINDING_TXN_INDEX, FINDING_DAMAGE, path,
                      (uint64_t)i * TXN_INDEX_ENTRY_BYTES, s->base, -1,
                      "entry %u: found producer %" PRId64 ", offsets %" PRId64 " to %" PRId64
                      ", stable %" PRId64 ", the log says %" PRId64 ", %" PRId64 " to %" PRId64
                      ", %" PRId64,
                      i, found->producer_id, found->first_offset, found->last_offset,
                      found->last_stable_offset, expected->producer_id, expected->first_offset,
                      expected->last_offset, expected->last_stable_offset);
}

void walk_check_txn_index(struct walk *w, const struct segment_walk *s)
{
    const struct txn_index *expected = &s->aborted;
    struct txn_index found = {.v = NULL};
    char path[VERIFY_PATH_MAX];
    size_t size = 0;

    walk_path(w, s->base, ".txnindex", path);

    uint8_t *p = walk_slurp(w, path, &size);

    if (p != NULL && !txn_index_decode(&found, p, size, s->base))
        verify_report_add(w->report, FINDING_TXN_INDEX, FINDING_DAMAGE, path,
                          (uint64_t)found.count * TXN_INDEX_ENTRY_BYTES, s->base, -1,
                          "entry %u cannot be", found.count);
    free(p);
    /* The cleaner drops transactions with their records. */
    if (w->producers_complete && !walk_in_cleaned(w, s->base)) {
        for (uint32_t i = 0; i < found.count; i++) {
            const struct completed_transaction *e = i < expected->count ? &expected->v[i] : NULL;

            if (e == NULL || !same_transaction(&found.v[i], e))
                bad_transaction(w, path, s, i, &found.v[i], e);
        }
        if (found.count < expected->count)
            verify_report_add(w->report, FINDING_TXN_INDEX, walk_weight(w, w->next_base), path,
                              (uint64_t)found.count * TXN_INDEX_ENTRY_BYTES, s->base, -1,
                              "%u aborted transactions, the log holds %u", found.count,
                              expected->count);
    }
    txn_index_deinit(&found);
}
