/* raft-meta/raft_node.h -- this node's member of the quorum: libraft, the state machine, the
 * controller and the connections to the other members, on the meta thread.
 *
 * Everything that changes the cluster is one protobuf command (proto/meta_command.proto), whoever
 * asks; there is no second path for state. A command is proposed from any thread; a copy is
 * numbered in its lane, given to the leader (this node, or over the peer connection), completed
 * there (what must be decided: topic ids, placement, time), packed with all that wait into one raft
 * entry, committed, applied, published, and then answered on the proposer's loop: after the
 * proposer's own image shows it. When the leader changes it is given to the next one under the same
 * number [H13].
 *
 * Invariants are Qn in raft-meta/README.md.
 */
#ifndef FLUXMQ_RAFT_META_RAFT_NODE_H
#define FLUXMQ_RAFT_META_RAFT_NODE_H

#include "meta_command.pb-c.h"
#include "protocol/base/env.h"
#include "protocol/base/logger.h"
#include "protocol/base/metrics.h"
#include "raft-meta/image.h"
#include "raft-meta/raft_transport.h"

struct raft_node;
struct raft_io;

/* What a heartbeat says of the node beside its image [H9]. */
struct node_vitals {
    uint64_t turn_age_ns, disk_age_ns; /* of the oldest unfinished worker turn, disk operation */
    bool serving;                      /* it has joined: when fenced, it may be unfenced */
};

struct raft_node_options {
    struct env *env;
    struct loop *loop; /* the meta thread's */
    void *uv_loop; /* its libuv loop (struct uv_loop_s), for raft_disk_uv; unused with disk_new */
    struct logger *logger;
    const char *dir; /* metadata.log.dir: raft files live in dir/fluxmq-raft/ */
    int32_t node_id;
    struct uuid directory_id;   /* of metadata.log.dir; with the node id it names the voter [H1] */
    struct uuid incarnation;    /* of this process; what it registers with */
    const struct voter *voters; /* as configured, sorted by node id */
    int voter_count;
    /* The controller listener; NULL: none, which only a single voter may do. Borrowed during
     * raft_node_new(), as is the secret. */
    const char *listen_host;
    int listen_port;
    const char *secret; /* cluster.secret; NULL or "": peers must come from loopback [H25] */
    bool allow_insecure_peers;
    const char *cluster_id; /* to form with: from a formatted dir, or "" for a random one */
    bool had_raft_files;    /* meta.properties says that this voter has had them [H1] */
    /* What a cluster formed here begins with: finalized features, and cluster-wide dynamic configs.
     * NULL: no features, and min.insync.replicas=2 [H6]. Borrowed during raft_node_new(). */
    const struct feature_image *form_features;
    int form_feature_count;
    const struct config_entry *form_configs;
    int form_config_count;
    int32_t election_timeout_ms, heartbeat_ms;
    /* The session with the controller (session.h). Several voters and a `vitals` are needed, else
     * there is none. Called on the meta thread. */
    int32_t session_timeout_ms, session_heartbeat_ms;
    void (*vitals)(void *ctx, struct node_vitals *out);
    int64_t balance_interval_ms; /* as the controller, leaders go home so often; 0: never */
    int64_t ballast_bytes;       /* a file that is released first when the disk is full [H8] */
    /* Makes the raft_io under the guard: raft_disk_uv, or the simulator's. NULL: raft_disk_uv. */
    struct raft_io *(*disk_new)(void *ctx, struct raft_node *n);
    void *disk_ctx;
    struct image_slot *slot; /* where new images are published */
    /* After each apply that changed something; meta thread. Runs before the proposers are
     * answered. Work that waits for the disk is posted elsewhere by the callee. What was loaded at
     * the start is published before `ready` and makes no delta; what is applied between the two
     * does. A snapshot of the leader's makes one delta that names every topic and every config of
     * both images, whether or not it changed. */
    void (*on_delta)(void *ctx, const struct image_delta *delta);
    /* The raft files were noted as existing before they are first written; must be durable when
     * it returns. */
    enum err (*on_note_raft_files)(void *ctx, struct errmsg *why);
    /* The quorum's own directory failed, or only a new process can go on: it must stop (P10). */
    void (*on_fatal)(void *ctx, const char *why);
    void *ctx;
};

#define SNAPSHOT_AFTER_BYTES (16 << 20)
#define HANDOVER_MS          500

/* Loads the state (snapshot and log) and joins or forms the quorum. On the meta thread. `ready` is
 * posted when this node's image has caught up with a leader (itself, or another voter) and has a
 * cluster id: with several voters not before a majority of them is there, and for a node whose
 * directory the cluster does not know as a voter, never; the log says every 5 s what it waits for.
 * After an error no callback runs; what libraft still has to close it closes on the loop by itself.
 * Errors: ERR_CONFIG (noted raft files are missing; the voter list does not name this node),
 * ERR_CORRUPT with file and offset and the `fluxmq repair` line that would cut it, ERR_IO (also
 * when the controller listener cannot be opened). */
MUST_USE enum err raft_node_new(const struct raft_node_options *o, struct loop *ready_loop,
                                struct message *ready, struct raft_node **out, struct errmsg *why);
/* Refuses what waits (ERR_CLOSED), lets the entry in flight end, hands leadership over (up to
 * HANDOVER_MS), closes the connections and libraft, frees; on the meta thread; posts `closed` to
 * `closed_loop`. No last snapshot: at most SNAPSHOT_AFTER_BYTES of
 * commands are replayed at the next start, in milliseconds. Nobody may propose any more. */
void raft_node_close(struct raft_node *n, struct loop *closed_loop, struct message *closed);

/* One command on its way. The proposer owns it and its command until `done` has run. */
struct proposal {
    struct message message; /* internal: to the meta thread and back */
    struct raft_node *raft; /* internal */
    MetaCommand *command;   /* a copy of it is completed and sent; texts without NUL */
    uint32_t lane;          /* META_LANE_*, or a worker's; one outstanding per lane [H13] */
    uint64_t deadline_ns;   /* then ERR_REQUEST_TIMED_OUT (outcome unknown) */
    struct loop *loop;      /* where done() runs */
    void (*done)(struct proposal *p);
    /* Results, valid in done(). err: the command as a whole; outcome: per item (owned by the
     * proposal; proposal_release() frees it). */
    enum err err;
    MetaOutcome *outcome;
    uint64_t index;
};
void raft_node_propose(struct raft_node *n, struct proposal *p); /* any thread */
void proposal_release(struct proposal *p);

/* A linearizable point: `done` runs once this node's image has applied everything that was
 * committed when the call was made. One barrier serves all who wait. Any thread. */
struct barrier_wait {
    struct message message;
    struct list_node node;
    struct raft_node *raft; /* internal */
    struct loop *loop;
    void (*done)(struct barrier_wait *w);
    enum err err;
};
void raft_node_barrier(struct raft_node *n, struct barrier_wait *w);

/* [H15] Evidence that the process of this term's leader is gone, beside what the transport finds by
 * itself (the connection to it died, and two connects >= 20 ms apart were refused). On the meta
 * thread. Harmless when it does not lead, or is heard again: a majority must have evidence. */
void raft_node_leader_gone(struct raft_node *n, int64_t term);

/* What the vitals say has changed: the controller hears of it now. On the meta thread. */
void raft_node_beat(struct raft_node *n);

/* For DescribeQuorum and metrics; any thread. What the leader knows, as it tells it to all: on
 * another node up to VIEW_MS old. */
#define VIEW_MS 500
struct quorum_voter_view {
    int32_t node_id;
    struct uuid directory_id;
    int64_t log_end_offset, last_fetch_ms, last_caught_up_ms; /* ms -1: unknown */
};
#define QUORUM_VOTERS_MAX 16
struct quorum_view {
    int32_t leader_id; /* -1: unknown */
    int32_t leader_epoch;
    int64_t high_watermark;
    struct quorum_voter_view voters[QUORUM_VOTERS_MAX], observers[QUORUM_VOTERS_MAX];
    int voter_count, observer_count;
};
void raft_node_quorum(struct raft_node *n, struct quorum_view *out);
int raft_node_port(const struct raft_node *n); /* of the controller listener, -1: none */
void raft_node_register_metrics(struct raft_node *n, struct metrics *m);

#endif
