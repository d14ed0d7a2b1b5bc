/* storage/dump.h -- prints a partition's files as Kafka's DumpLogSegments prints them, line by
 * line.
 *
 * By the file's suffix: .log and .checkpoint (batches; with `deep` their records too), .index,
 * .timeindex, .txnindex, .snapshot (producers). What is text already (leader-epoch-checkpoint,
 * partition.metadata, meta.properties and the offset checkpoints) is shown as it is.
 *
 * Deviations, all of them where Kafka's tool ends with a stack trace: bytes behind the last batch
 * that are none (preallocated zeros) are counted in its own words, "Found N invalid bytes at the
 * end of FILE"; a damaged record, index or snapshot is one line on `err`, and the dump goes on.
 * KRaft's own control records are named without their fields.
 *
 * Thread: any; the calls are [pool], as in env.h.
 */
#ifndef FLUXMQ_STORAGE_DUMP_H
#define FLUXMQ_STORAGE_DUMP_H

#include <stdbool.h>
#include <stdio.h>

#include "protocol/base/env.h"

struct dump_options {
    bool print_data;        /* --print-data-log: keys and values; implies deep */
    bool deep;              /* --deep-iteration: a line for each record */
    bool index_sanity;      /* --index-sanity-check: one line for each index */
    bool verify_index_only; /* --verify-index-only: compare, but print no entries */
    bool skip_metadata;     /* --skip-record-metadata */
    int64_t bytes_max;      /* --max-bytes: of a log; INT32_MAX is all, as in Kafka */
    const char *directory;  /* what relative paths in complaints are relative to */
};

/* What does not fit together, collected over all files and printed at the end. */
struct dump_complaints;
struct dump_complaints *dump_complaints_new(void);
void dump_complaints_print(const struct dump_complaints *c, FILE *err);
void dump_complaints_free(struct dump_complaints *c);

/* False when the file could not be read or is damaged; `err` then says why. */
MUST_USE bool dump_file(struct env *env, const char *path, const struct dump_options *o,
                        struct dump_complaints *c, FILE *out, FILE *err);

#endif
