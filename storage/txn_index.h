/* storage/txn_index.h -- the aborted transactions of one segment, in Kafka's format.
 *
 * BASE.txnindex, 34 bytes an entry, in the order of the abort markers: int16 version (0), int64
 * producer id, int64 first offset, int64 last offset (the marker's), int64 last stable offset when
 * the transaction ended. The entries are few and stay in memory while their segment is known.
 *
 * Thread: belongs to its log's lock; storing takes a copy.
 */
#ifndef FLUXMQ_STORAGE_TXN_INDEX_H
#define FLUXMQ_STORAGE_TXN_INDEX_H

#include "protocol/base/env.h"
#include "storage/producer_state.h"

#define TXN_INDEX_ENTRY_BYTES 34u

struct txn_index {
    struct completed_transaction *v;
    uint32_t count, capacity, stored_count;
};

void txn_index_deinit(struct txn_index *x);
void txn_index_append(struct txn_index *x, const struct completed_transaction *t);
/* Appends to *out what overlaps [from, to). */
void txn_index_collect(const struct txn_index *x, int64_t from, int64_t to,
                       struct aborted_transaction **out, size_t *count, size_t *capacity);
/* The bytes of the entries [first, count); malloc'ed. */
uint8_t *txn_index_encode(const struct txn_index *x, uint32_t first, size_t *size);
/* Takes over the entries of a file while they are sound; false when some were not. */
bool txn_index_decode(struct txn_index *x, const uint8_t *p, size_t size, int64_t base_offset);

#endif
