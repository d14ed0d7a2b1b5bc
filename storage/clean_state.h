/* storage/clean_state.h -- fluxmq-clean-state: all partitions of a directory in one file.
 *
 * Written at a clean stop and read at the next start, so that 10,000 partitions need neither be
 * listed nor opened. It is trusted only beside the clean-shutdown marker, with which it is removed
 * before anything else is written.
 *
 * Format, big endian: "FMQCLEAN", int32 version (1), int32 count, that many entries sorted by
 * folder name, and a CRC-32C of everything before it. An entry: see clean_state.c.
 *
 * Thread: any; nothing here keeps state.
 */
#ifndef FLUXMQ_STORAGE_CLEAN_STATE_H
#define FLUXMQ_STORAGE_CLEAN_STATE_H

#include "storage/log_internal.h"

struct clean_writer {
    uint8_t *ptr;
    size_t size, capacity;
    uint32_t count;
};
void clean_writer_init(struct clean_writer *w);
/* The log must be at rest: synced, its indexes stored. Logs come in the order of folder names. */
void clean_writer_add(struct clean_writer *w, const struct log *l);
/* Puts count and CRC in; the bytes are ready to be written. */
void clean_writer_finish(struct clean_writer *w);
void clean_writer_deinit(struct clean_writer *w);

struct clean_reader {
    const uint8_t *ptr, *end;
    uint32_t left; /* entries */
};
/* False: not a sound file of this version. */
bool clean_reader_init(struct clean_reader *r, const uint8_t *p, size_t size);
/* Whose entry is next; false when there is none. */
bool clean_reader_peek(const struct clean_reader *r, struct log_identity *out);
/* Fills a new log from the next entry. False: malformed; the reader then has no entry left. */
bool clean_reader_next(struct clean_reader *r, struct log *l);
void clean_reader_skip(struct clean_reader *r);

#endif
