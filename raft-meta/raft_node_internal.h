/* raft-meta/raft_node_internal.h -- what the parts of raft_node share. Not for others.
 *
 *     raft_node.c       the life of the node: files, libraft, the state machine, snapshots, closing
 *     raft_proposals.c  the way of commands and barriers: lists, lanes, the leader, the entry
 *     raft_quorum.c     the other voters: forming [H1], whose message is heard (G4), evidence
 *                       [H15], the view
 *     raft_sessions.c   heartbeats; as the controller: sessions, leaders that go home
 */
#ifndef FLUXMQ_RAFT_META_RAFT_NODE_INTERNAL_H
#define FLUXMQ_RAFT_META_RAFT_NODE_INTERNAL_H

#include <raft.h>

#include "raft-meta/command.h"
#include "raft-meta/controller.h"
#include "raft-meta/fsm.h"
#include "raft-meta/image_edit.h"
#include "raft-meta/packing.h"
#include "raft-meta/raft_disk_uv.h"
#include "raft-meta/raft_io_guard.h"
#include "raft-meta/raft_node.h"
#include "raft-meta/raft_space.h"
#include "raft-meta/raft_wire.h"
#include "raft-meta/session.h"
#include "raft-meta/snapshot.h"

#define PATH_BYTES_MAX 4096
#define SWEEP_NS       50000000u

enum state {
    STATE_LOADING, /* inside raft_start(): the log is applied, nobody is told */
    STATE_OUTSIDE, /* an empty node: no libraft until it forms or joins [H1] */
    STATE_JOINING, /* waits to lead, or to have caught up with a leader */
    STATE_FORMING, /* leads; the first command is on its way */
    STATE_READY,
    STATE_CLOSING,
    STATE_FAILED, /* the quorum's own directory failed; on_fatal was called */
};

/* What a configured voter has told of itself. */
struct seen_peer {
    int32_t node_id;
    bool heard; /* over a connection that is still there */
    struct peer_identity who;
    struct peer_state state;
    struct wire_assembly assembly; /* of an InstallSnapshot that it sends */
};

struct raft_node {
    struct raft_node_options o;
    char dir[PATH_BYTES_MAX], raft_dir[PATH_BYTES_MAX];
    char address[WIRE_ADDRESS_MAX]; /* "node id@directory id" [H1] */
    char cluster_id[CLUSTER_ID_MAX + 1];
    bool cluster_id_given;                  /* formatted with it */
    struct voter voters[QUORUM_VOTERS_MAX]; /* as configured */
    int voter_count;
    uint64_t voters_digest;

    struct transport *transport; /* NULL: a single voter without a listener */
    struct seen_peer seen[QUORUM_VOTERS_MAX];
    struct peer_state told; /* what the peers know of us */
    struct loop_timer jump; /* [H15] */
    uint64_t complained_ns;

    struct raft_disk_uv *disk; /* NULL: the simulator's */
    struct raft_io *inner;
    struct guard *guard; /* NULL while outside */
    bool raft_is_open;   /* raft_init() has succeeded: it must be closed */
    struct raft_fsm fsm;
    struct raft raft;
    struct raft_space *space;
    struct controller controller;

    enum state state;
    struct image *image;   /* the newest applied */
    struct errmsg problem; /* why an entry or a snapshot could not be applied */

    /* Commands: those that wait, and this node's that are with a leader or in a log: in the order
     * of their numbers. */
    struct list control, bulk, sent;
    int waiting_count;
    uint64_t next_request_id;
    struct raft_apply apply;
    bool flying;
    struct list resolved; /* answered once the image is published (Q5) */
    struct proposal form;
    bool was_leading;
    /* Barriers: those that wait, those that were asked for, those whose index is known. */
    struct list barriers, barriers_asked, barriers_known;
    struct raft_barrier barrier;
    bool barrier_flying;
    uint64_t barrier_index, barrier_id, barrier_term, barrier_link;
    struct barrier_wait join;
    bool join_asked;

    struct message pump;
    bool pump_posted, close_begun, close_at_once;
    uint64_t close_deadline_ns;
    struct loop_timer sweep;
    /* The leader as this node sees it; link: counts the connections to it that came up. */
    int32_t leader_id; /* -1: none */
    uint64_t leader_term, link;

    struct image *frozen; /* of the snapshot being taken */
    struct snapshot encoded;
    uint64_t bytes_since_snapshot, entries_since_snapshot;
    size_t snapshot_bytes;
    _Atomic bool snapshot_always; /* tests: after each entry, and nothing is kept behind it */
    uint64_t restored;            /* snapshots of a leader's that were installed */

    struct message *ready, *closed;
    struct loop *ready_loop, *closed_loop;
    struct message freeing;

    struct mutex view_lock;
    struct quorum_view view GUARDED_BY(view_lock);
    struct quorum_view leader_view; /* what the leader told last */
    uint64_t leader_view_term, view_told_ns;

    struct sessions *sessions; /* NULL: this node has none */
    struct loop_timer beat;
    uint64_t beat_term, beat_link; /* to whom the last heartbeat went */
    bool was_fenced, was_registered;
    uint64_t sessions_term; /* that of the controller whose sessions they are; 0: it is another */
    uint64_t balance_due_ns;

    struct counter commands, entries, entry_bytes, refused, snapshots, applied_index;
    struct counter forwarded, retried, elections, dropped_messages;
    struct counter balanced, controller_index;
};

/* ---- raft_node.c ---- */

void node_post_pump(struct raft_node *n);
void node_fail(struct raft_node *n, const char *why);
/* Starts libraft as the voter of that raft id; with `members` it begins the log. What goes wrong
 * is final. */
void node_begin(struct raft_node *n, raft_id id, const struct raft_configuration *members);
bool node_is_member(const struct raft_node *n, int32_t node_id);
/* Voters of the configuration in force, or as configured. */
int node_voter_count(const struct raft_node *n);
uint64_t node_now_ns(const struct raft_node *n);

/* ---- raft_proposals.c ---- */

void proposals_init(struct raft_node *n);
void proposals_refuse(struct raft_node *n, enum err e);
/* Everything that can go on: to the leader, into an entry, to those who wait for an index. */
void proposals_pump(struct raft_node *n);
void proposals_sweep(struct raft_node *n, uint64_t now_ns);
bool proposals_waiting(const struct raft_node *n);
/* A command of this node was applied; takes the outcome. */
void proposals_resolve(struct raft_node *n, const MetaCommand *c, uint64_t index, MetaOutcome *o);
/* The image has jumped over commands that were not seen. */
void proposals_after_restore(struct raft_node *n);
void proposals_answer_resolved(struct raft_node *n);
/* Frames of other nodes; false: malformed. */
bool proposals_on_frame(struct raft_node *n, const struct peer_identity *from,
                        enum peer_frame_type type, struct bytes payload);

/* ---- raft_quorum.c ---- */

void quorum_prepare(struct raft_node *n); /* before anything else */
MUST_USE enum err quorum_init(struct raft_node *n, struct errmsg *why);
void quorum_deinit(struct raft_node *n);
/* guard_options.send */
int quorum_send(void *ctx, const struct raft_message *m);
/* Tells the peers what they should know, and publishes the view. */
void quorum_update(struct raft_node *n);
void quorum_sweep(struct raft_node *n, uint64_t now_ns);
/* Sends frames to the leader. */
bool quorum_send_leader(struct raft_node *n, struct ioqueue *frames, bool bulk);
void quorum_refresh_leader(struct raft_node *n);

/* ---- raft_sessions.c ---- */

void node_sessions_init(struct raft_node *n);   /* after quorum_init() */
void node_sessions_deinit(struct raft_node *n); /* no heartbeat any more */
void node_sessions_free(struct raft_node *n);
/* Whatever may have changed: who leads, the image, the time. */
void node_sessions_update(struct raft_node *n);
/* False: malformed. */
bool node_sessions_on_frame(struct raft_node *n, const struct peer_identity *from,
                            enum peer_frame_type type, struct bytes payload);
void node_sessions_on_gone(struct raft_node *n, const struct peer_identity *who);
void node_sessions_on_link(struct raft_node *n, int32_t node_id);
bool node_session_is_over(void *ctx, int32_t node_id);
void node_sessions_register_metrics(struct raft_node *n, struct metrics *m);

#endif
