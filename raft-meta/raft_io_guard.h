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
 *  G4  A message from anyone but the authenticated peer is dropped (raft_quorum.c's duty).
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
 *  G22 No election begins over an append in flight: the library campaigns with entries that are not
 *      on its disk, but with the configuration of before them; two changes behind, its majority
 *      and the true one need not meet (seen: two leaders in one term). TimeoutNow waits for it.
 *  G23 A vote that is given in this term is not given again to the one to whom leadership is being
 *      handed over: the library makes that exception (seen: two leaders in one term).
 *
 * And what the library lacks:
 *
 *  [H14 a] A leader tells each follower of a commit at once, as an empty AppendEntries that ends
 *      where that follower has acknowledged, and not with the next heartbeat.
 *  [H14 b] A leader whose own disk does not finish an append for 2 election timeouts hands its
 *      leadership over; after a third it falls silent until the disk answers.
 *  [H15] guard_leader_gone(): the clock that the library sees jumps, and while the mark holds a
 *      candidate may disrupt that leader.
 *
 * The disk below may have no network at all: then `send` is the way out, and guard_receive() the
 * way in, over any disk.
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
    /* Encodes the message before it returns (G9); 0, or RAFT_NOCONNECTION. It may not call the
     * guard. An InstallSnapshot is then open until guard_snapshot_sent() and the peer's answer, or
     * guard_peer_lost(). NULL: the inner io sends. */
    int (*send)(void *ctx, const struct raft_message *m);
    /* After each event that may have changed anything; may be NULL. Never inside libraft. */
    void (*on_event)(void *ctx);
    /* This voter's address: load() gives the raft instance the id that the newest configuration
     * has for it. NULL: raft_init()'s id stands. Lives as long as the guard. */
    const char *address;
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
/* Who leads in the current term, as far as this node has heard; 0: nobody. (The library keeps the
 * leader of an earlier term until the next one speaks.) */
raft_id guard_leader(const struct guard *g);
/* Milliseconds that the oldest append has been waiting for the disk, 0 for none [H14 b]. */
uint64_t guard_append_age_ms(const struct guard *g);
/* After guard_has_failed(): closes the inner io alone; libraft's own memory is lost. */
void guard_abandon(struct guard *g, raft_io_close_cb cb);

/* For the transport's frames: the flag that a peer's guard reads (G15). */
bool guard_is_installing(const struct guard *g);
/* What the frame being delivered said; -1: unknown. Set before recv is called. */
void guard_set_peer_installing(struct guard *g, int installing);

/* A message that came over `send`'s network; what it holds is taken over. `installing`: the flag of
 * its frame (G15). */
void guard_receive(struct guard *g, struct raft_message *m, bool installing);
void guard_snapshot_sent(struct guard *g, raft_id to);
void guard_peer_lost(struct guard *g, raft_id id);

/* [H15] The process of the leader is gone, if it still leads in that term: marks it, so that a peer
 * may be elected. The mark ends with any message of that leader, and with the term. */
void guard_mark_leader_gone(struct guard *g, raft_id leader, raft_term term);
bool guard_leader_is_marked(const struct guard *g);
/* While the mark holds: the election timer has run out now. */
void guard_jump(struct guard *g);
/* Tries to hand leadership to a follower that has everything. */
void guard_transfer(struct guard *g);

/* What the leader knows of a follower; times are the inner io's milliseconds, 0: never. */
struct guard_follower {
    raft_id id;
    raft_index match;
    raft_time heard, caught_up;
    raft_index told;          /* the commit index that it was told [H14 a] */
    raft_index last_at_heard; /* our last index when it was last heard */
};
/* NULL: unknown. */
const struct guard_follower *guard_follower(const struct guard *g, raft_id id);

/* How often each rule acted. */
struct guard_counts {
    uint64_t capped, rejected, stripped, unsent, delayed, retried, rebased, announced, jumps,
        transfers, silences;
};
const struct guard_counts *guard_counts(const struct guard *g);

#endif
