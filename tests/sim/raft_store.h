/* tests/sim/raft_store.h -- raft_uv's files on the simulated disk: term, vote, log, snapshots.
 *
 * raft-meta/raft_files.h has the formats. Every call may wait for the disk; results are libraft's
 * codes, with the reason in `errmsg`.
 *
 * Thread: one fiber at a time for the log, another for snapshots beside it; the loop's for term
 * and vote.
 */
#ifndef FLUXMQ_TESTS_SIM_RAFT_STORE_H
#define FLUXMQ_TESTS_SIM_RAFT_STORE_H

#include <raft.h>

#include "protocol/base/env.h"

struct raft_store;

/* `errmsg` has RAFT_ERRMSG_BUF_SIZE bytes and lives as long. */
struct raft_store *raft_store_new(struct env *env, const char *dir, char *errmsg);

/* Removes what was never finished; reads term and vote. */
MUST_USE int raft_store_init(struct raft_store *s);
raft_term raft_store_term(const struct raft_store *s);
MUST_USE int raft_store_set_term(struct raft_store *s, raft_term term); /* without a vote */
MUST_USE int raft_store_set_vote(struct raft_store *s, raft_id id);

/* Everything, as libraft's load() wants it. Open segments become closed ones. */
MUST_USE int raft_store_load(struct raft_store *s, raft_term *term, raft_id *voted_for,
                             struct raft_snapshot **snapshot, raft_index *start,
                             struct raft_entry *entries[], size_t *count);
/* A closed segment with one entry. */
MUST_USE int raft_store_configure(struct raft_store *s, raft_index index, raft_term term,
                                  const struct raft_configuration *conf);
raft_index raft_store_next_index(const struct raft_store *s);

/* Some appends of libraft, which share one write and one sync. */
struct raft_store_append {
    const struct raft_entry *entries;
    unsigned count;
};
MUST_USE int raft_store_append(struct raft_store *s, const struct raft_store_append *v, size_t n);
MUST_USE int raft_store_truncate(struct raft_store *s, raft_index index);
/* The segment being written is closed: a snapshot comes. `next`: the log goes on there; 0: where
 * it was. */
MUST_USE int raft_store_finish(struct raft_store *s, raft_index next);
void raft_store_close(struct raft_store *s);

MUST_USE int raft_store_put(struct raft_store *s, const struct raft_snapshot *snapshot,
                            unsigned trailing, uint64_t stamp);
MUST_USE int raft_store_get(struct raft_store *s, struct raft_snapshot **out);

#endif
