/* raft-meta/raft_io_guard.h -- what libraft 0.15.0 needs around it to keep its promises.
 *
 * The library as Debian ships it loses acknowledged commands and crashes. Each rule below stands
 * between it and its disk and network, as a decorator of `struct raft_io`: the library sees
 * `guard_io()`, the guard calls the real one. The numbers are used in the code.
 *
 *  G1  An AppendEntries is acknowledged no further than its last entry (the library claims its
 *      stale tail too, and the leader then counts a conflicting entry as replicated); and its
 *      leader_commit is lowered to that entry (Raft 5.3).
 *  G2  A new leader appends a barrier at once and hears no acknowledgement before that is on its
 *      own disk: entries of older terms are not committed by counting (Raft 5.4.2).
 *  G3  A failed append, truncate, snapshot, term or vote is final: on_fatal, and silence.
 *  G4  A message from anyone but the authenticated peer is dropped (raft_transport's duty).
 *  G9  A message is encoded inside send(): no entry stays referenced for a dead peer.
 *  G10 Entries come out of load() in an allocation each: a shared batch is freed twice.
 *  G11 An append that ends in another term than it began in is answered as rejected.
 *  G12 No log is truncated under an append in flight: such entries are stripped, the leader sends
 *      again.
 *  G13 What is addressed to nobody is not sent.
 *  G14 An InstallSnapshot waits until the disk is quiet; while one is installed there is no
 *      election.
 *  G15 An InstallSnapshot stays open until its receiver has answered, so that a lost one is
 *      repeated at once and not after 30 s.
 *  G16 close() lets disk requests end normally, and closes from the tick, not inside one of their
 *      callbacks.
 *  G17 No change of members before this term's barrier is committed: guard_may_change().
 *  G18 A refused pre-vote tells the true term, else elections can deadlock.
 *  G19 A conflict that rolls back an uncommitted change of members whose predecessor is compacted
 *      needs a restart: on_restart.
 *  G20 No snapshot holds an uncommitted configuration: guard_may_snapshot().
 *  G21 A leader's log that begins below our own snapshot is joined to it, not rejected for ever.
 *
 * Thread: the meta loop's.
 */
#ifndef FLUXMQ_RAFT_META_RAFT_IO_GUARD_H
#define FLUXMQ_RAFT_META_RAFT_IO_GUARD_H

#include <raft.h>
#include <stdbool.h>
#include <stdint.h>

#include "protocol/base/check.h"

struct guard;

struct guard_options {
    struct raft_io *inner;
    struct raft *raft; /* the instance that is given guard_io() */
    /* The disk failed for good (G3). Called once; no callback of libraft runs any more. */
    void (*on_fatal)(void *ctx, const char *what, int raft_error);
    /* This node leads and its barrier is committed (G2). Inside a callback of libraft: post. */
    void (*on_leading)(void *ctx);
    /* Only a new process can go on (G19). */
    void (*on_restart)(void *ctx);
    void *ctx;
};

struct guard *guard_new(const struct guard_options *o);
void guard_free(struct guard *g);
struct raft_io *guard_io(struct guard *g);

/* To be called at the end of each event that entered libraft from outside the guard (after
 * raft_start, raft_apply): notices a new leadership and begins its barrier (G2). */
void guard_poll(struct guard *g);
/* G2 and G17: this node leads, and its barrier of this term is committed. */
bool guard_leads(const struct guard *g);
bool guard_may_change(const struct guard *g);
bool guard_may_snapshot(const struct guard *g); /* G20 */
bool guard_has_failed(const struct guard *g);
/* Milliseconds that the oldest append has been waiting for the disk, 0 for none [H14 b]. */
uint64_t guard_append_age_ms(const struct guard *g);
/* After guard_has_failed(): closes the inner io alone; libraft's own memory is lost. */
void guard_abandon(struct guard *g, raft_io_close_cb cb);

/* For the transport's frames: the flag that a peer's guard reads (G15). */
bool guard_is_installing(const struct guard *g);
/* What the frame being delivered said; -1: unknown. Set before recv is called. */
void guard_set_peer_installing(struct guard *g, int installing);

/* How often each rule acted. */
struct guard_counts {
    uint64_t capped, rejected, stripped, unsent, delayed, retried, rebased;
};
const struct guard_counts *guard_counts(const struct guard *g);

#endif
