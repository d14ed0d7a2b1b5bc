#include "storage/txn_index.h"

#include <stdlib.h>
#include <string.h>

void txn_index_deinit(struct txn_index *x)
{
    free(x->v);
    *x = (struct txn_index){.v = NULL};
}

void txn_index_append(struct txn_index *x, const struct completed_transaction *t)
{
    if (x->count == x->capacity) {
        x->capacity = x->capacity == 0 ? 4 : x->capacity * 2;
        x->v = xrealloc(x->v, x->capacity * sizeof *x->v);
    }
    x->v[x->count++] = *t;
}

void txn_index_collect(const struct txn_index *x, int64_t from, int64_t to,
                       struct aborted_transaction **out, size_t *count, size_t *capacity)
{
    for (uint32_t i = 0; i < x->count; i++) {
        const struct completed_transaction *t = &x->v[i];

        if (t->last_offset < from || t->first_offset >= to)
            continue;
        if (*count == *capacity) {
            *capacity = *capacity == 0 ? 4 : *capacity * 2;
            *out = xrealloc(*out, *capacity * sizeof **out);
        }
        (*out)[(*count)++] = (struct aborted_transaction){t->producer_id, t->first_offset};
    }
}

uint8_t *txn_index_encode(const struct txn_index *x, uint32_t first, size_t *size)
{
    *size = (size_t)(x->count - first) * TXN_INDEX_ENTRY_BYTES;

    uint8_t *p = xmalloc(*size + 1), *at = p;

    for (uint32_t i = first; i < x->count; i++, at += TXN_INDEX_ENTRY_BYTES) {
        store_be16(at, 0);
        store_be64(at + 2, (uint64_t)x->v[i].producer_id);
        store_be64(at + 10, (uint64_t)x->v[i].first_offset);
        store_be64(at + 18, (uint64_t)x->v[i].last_offset);
        store_be64(at + 26, (uint64_t)x->v[i].last_stable_offset);
    }
    return p;
}

bool txn_index_decode(struct txn_index *x, const uint8_t *p, size_t size, int64_t base_offset)
{
    int64_t last = base_offset - 1;

    for (; size >= TXN_INDEX_ENTRY_BYTES;
         p += TXN_INDEX_ENTRY_BYTES, size -= TXN_INDEX_ENTRY_BYTES) {
        struct completed_transaction t = {
            .producer_id = (int64_t)load_be64(p + 2),
            .first_offset = (int64_t)load_be64(p + 10),
            .last_offset = (int64_t)load_be64(p + 18),
            .last_stable_offset = (int64_t)load_be64(p + 26),
            .aborted = true,
        };

        if (load_be16(p) != 0 || t.producer_id < 0 || t.first_offset < 0 || t.last_offset <= last ||
            t.first_offset > t.last_offset)
            return false;
        last = t.last_offset;
        txn_index_append(x, &t);
    }
    x->stored_count = x->count;
    return size == 0;
}
