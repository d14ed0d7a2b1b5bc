#include "storage/leader_epoch.h"

#include <stdlib.h>
#include <string.h>

#define EPOCHS_MAX (1 << 20) /* of a file; a log gains one per election */

void leader_epochs_deinit(struct leader_epochs *e)
{
    free(e->v);
    *e = (struct leader_epochs){.v = NULL};
}

static void push(struct leader_epochs *e, int32_t epoch, int64_t start_offset)
{
    if (e->count == e->capacity) {
        e->capacity = e->capacity == 0 ? 1 : e->capacity * 2;
        e->v = xrealloc(e->v, (size_t)e->capacity * sizeof *e->v);
    }
    e->v[e->count++] = (struct leader_epoch){epoch, start_offset};
}

void leader_epochs_assign(struct leader_epochs *e, int32_t epoch, int64_t start_offset)
{
    CHECK(epoch >= 0 && start_offset >= 0);
    if (e->count > 0) {
        const struct leader_epoch *last = &e->v[e->count - 1];

        if (last->epoch == epoch && start_offset >= last->start_offset)
            return;
    }
    while (e->count > 0 &&
           (e->v[e->count - 1].epoch >= epoch || e->v[e->count - 1].start_offset >= start_offset))
        e->count--;
    push(e, epoch, start_offset);
    e->dirty = true;
}

void leader_epochs_truncate_end(struct leader_epochs *e, int64_t offset)
{
    while (e->count > 0 && e->v[e->count - 1].start_offset >= offset) {
        e->count--;
        e->dirty = true;
    }
}

void leader_epochs_truncate_start(struct leader_epochs *e, int64_t offset)
{
    int32_t below = 0; /* epochs that begin at or before the new start */

    while (below < e->count && e->v[below].start_offset <= offset)
        below++;
    if (below == 0 || (below == 1 && e->v[0].start_offset == offset))
        return;
    e->v[below - 1].start_offset = offset;
    e->count -= below - 1;
    memmove(e->v, e->v + (below - 1), (size_t)e->count * sizeof *e->v);
    e->dirty = true;
}

int32_t leader_epochs_latest(const struct leader_epochs *e)
{
    return e->count > 0 ? e->v[e->count - 1].epoch : -1;
}

/* How many entries begin at or before `offset`. */
static int32_t count_until(const struct leader_epochs *e, int64_t offset)
{
    int32_t low = 0, high = e->count;

    while (low < high) {
        int32_t middle = low + (high - low) / 2;

        if (e->v[middle].start_offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int32_t leader_epochs_at(const struct leader_epochs *e, int64_t offset)
{
    int32_t n = count_until(e, offset);

    return n > 0 ? e->v[n - 1].epoch : -1;
}

void leader_epochs_end_offset(const struct leader_epochs *e, int32_t requested,
                              int64_t log_end_offset, int32_t *epoch_out, int64_t *end_out)
{
    *epoch_out = -1;
    *end_out = -1;
    if (e->count == 0 || requested < 0 || requested > e->v[e->count - 1].epoch)
        return;
    if (requested == e->v[e->count - 1].epoch) {
        *epoch_out = requested;
        *end_out = log_end_offset;
        return;
    }

    int32_t higher = 0; /* the first epoch above the requested one */

    while (e->v[higher].epoch <= requested)
        higher++;
    /* Below the first known epoch: Kafka answers the question's own epoch, ending there. */
    *epoch_out = higher == 0 ? requested : e->v[higher - 1].epoch;
    *end_out = e->v[higher].start_offset;
}

void leader_epochs_format(const struct leader_epochs *e, struct text *t)
{
    text_add(t, "0\n%d\n", e->count);
    for (int32_t i = 0; i < e->count; i++)
        text_add(t, "%d %lld\n", e->v[i].epoch, (long long)e->v[i].start_offset);
}

static bool take_line(void *ctx, struct str line)
{
    struct leader_epochs *e = ctx;
    struct str a = text_word(&line), b = text_word(&line);
    int32_t epoch;
    int64_t start_offset;

    if (text_word(&line).len >= 0 || !parse_int32(a, &epoch) || !parse_int64(b, &start_offset) ||
        epoch < 0 || start_offset < 0 || e->count == EPOCHS_MAX)
        return false;
    if (e->count > 0 &&
        (epoch <= e->v[e->count - 1].epoch || start_offset < e->v[e->count - 1].start_offset))
        return false;
    push(e, epoch, start_offset);
    return true;
}

enum err leader_epochs_parse(const uint8_t *p, size_t size, struct leader_epochs *out,
                             struct errmsg *why)
{
    *out = (struct leader_epochs){.v = NULL};
    return checkpoint_parse(p, size, take_line, out, why);
}
