/* Any bytes as a producer snapshot or a transaction index: refused, or taken over and written out
 * to something that reads back the same. With its CRC put right, so that more than that is tried.
 */
#include <stdlib.h>
#include <string.h>

#include "protocol/crc32c.h"
#include "storage/producer_state.h"
#include "storage/txn_index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_snapshot(const uint8_t *data, size_t size)
{
    struct producer_state a, b;
    struct errmsg why;

    producer_state_init(&a, 1);
    producer_state_init(&b, 2);
    if (producer_state_decode(&a, data, size, &why) == ERR_NONE) {
        size_t first_size, second_size;
        uint8_t *first = producer_state_encode(&a, &first_size);

        CHECK(producer_state_decode(&b, first, first_size, &why) == ERR_NONE);

        uint8_t *second = producer_state_encode(&b, &second_size);

        CHECK(first_size == second_size && memcmp(first, second, first_size) == 0);
        CHECK(producer_state_first_open(&a) == producer_state_first_open(&b));
        free(first);
        free(second);
    }
    producer_state_deinit(&a);
    producer_state_deinit(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct txn_index x = {.count = 0};
    uint8_t *copy = xmalloc(size + 6);

    try_snapshot(data, size);
    memcpy(copy, data, size);
    if (size >= 6) {
        store_be32(copy + 2, crc32c(0, copy + 6, size - 6));
        try_snapshot(copy, size);
    }
    free(copy);
    if (txn_index_decode(&x, data, size, 0)) {
        size_t again;
        uint8_t *p = txn_index_encode(&x, 0, &again);

        CHECK(again == size && memcmp(p, data, size) == 0);
        free(p);
    }
    txn_index_deinit(&x);
    return 0;
}
