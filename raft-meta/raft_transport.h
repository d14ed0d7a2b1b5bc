/* raft-meta/raft_transport.h -- the connections between the nodes of a cluster, on the controller
 * listener.
 *
 * Each node dials each other voter. A connection carries the dialer's messages one way, and the
 * answers to its requests the other way; so between two nodes there are two. Frames are those of
 * peer_frame.h.
 *
 *     dialer    HELLO                 who I am, which cluster, a nonce
 *     acceptor  HELLO, PROOF          the same; HMAC-SHA256 by cluster.secret over both hellos
 *     dialer    PROOF, STATE, ...     the same under another label
 *     acceptor  STATE, ...
 *
 * So each side has proved the secret for these two nonces and identities, and nothing recorded can
 * be played again. Without a secret only peers that come from loopback are heard, unless
 * `allow_insecure` [H25]. What does not fit (bytes that are not ours, another cluster, a used id, a
 * wrong proof, impossible lengths, unknown types) is refused: counted, told to the log once per
 * peer and reason, and the connection closed; nothing else happens.
 *
 * A dialed connection that is lost is dialed again at once, then after 20 ms ... 1 s, with jitter.
 * Two refusals at least 20 ms apart after a loss, when it has no connection to us either, are
 * evidence that its process is gone: on_gone [H9].
 *
 * Bounds: a frame PEER_FRAME_BYTES_MAX, and what waits for one peer TRANSPORT_QUEUE_BYTES_MAX; who
 * does not take it, is silent, or does not introduce himself in time is dropped.
 *
 * Thread: the meta loop's. Callbacks run from the loop, never inside a call of this header; they
 * may call it, but not transport_free().
 */
#ifndef FLUXMQ_RAFT_META_RAFT_TRANSPORT_H
#define FLUXMQ_RAFT_META_RAFT_TRANSPORT_H

#include "protocol/base/bytes.h"
#include "protocol/base/env.h"
#include "protocol/base/logger.h"
#include "protocol/base/metrics.h"
#include "raft-meta/peer_frame.h"

#define TRANSPORT_QUEUE_BYTES_MAX (80 << 20)
#define TRANSPORT_VOTERS_MAX      16
#define CLUSTER_ID_TEXT_MAX       256

struct transport;

struct voter {
    int32_t node_id;
    char host[256];
    int port;
};

/* A process: one incarnation of a node on a directory. */
struct peer_identity {
    int32_t node_id;
    struct uuid directory_id, incarnation;
};

struct quorum_member {
    uint64_t raft_id;
    int32_t node_id;
    struct uuid directory_id;
};

/* What a node tells its peers of itself, again whenever it changes. */
struct peer_state {
    char cluster_id[CLUSTER_ID_TEXT_MAX]; /* "" while it has none */
    bool formed;                          /* it has raft files */
    bool first;             /* `voters` are the cluster's first configuration, entry 1 of its log */
    uint64_t voters_digest; /* of its configured voter list */
    struct quorum_member voters[TRANSPORT_VOTERS_MAX];
    int voter_count;
};

struct transport_options {
    struct env *env;
    struct loop *loop;
    struct logger *logger;
    const char *host; /* of the controller listener; borrowed during transport_new() */
    int port;
    struct peer_identity self;
    const struct voter *voters; /* whom to dial; the own node id is skipped. Borrowed likewise. */
    int voter_count;
    const char *secret; /* "" or NULL: none. Borrowed likewise. */
    bool allow_insecure;
    /* A frame of a peer that has proved who it is. `answer`: it came on a connection that we
     * dialed. Payload valid during the call. False: it makes no sense, the connection is closed. */
    bool (*on_frame)(void *ctx, const struct peer_identity *from, bool answer,
                     enum peer_frame_type type, struct bytes payload);
    void (*on_state)(void *ctx, const struct peer_identity *from, const struct peer_state *s);
    /* The connection that we dial to that node is there, or lost. */
    void (*on_link)(void *ctx, int32_t node_id, bool up);
    /* All of the last transport_send_snapshot() to that node is with the kernel. */
    void (*on_snapshot_sent)(void *ctx, int32_t node_id);
    void (*on_gone)(void *ctx, const struct peer_identity *who);
    void *ctx;
};

/* Errors: those of env_listen(), with "address:port: reason" in `why`. */
MUST_USE enum err transport_new(const struct transport_options *o, const struct peer_state *state,
                                struct transport **out, struct errmsg *why);
/* Closes everything without a word. */
void transport_free(struct transport *t);
int transport_port(const struct transport *t);

void transport_set_state(struct transport *t, const struct peer_state *state);

/* Frames to that node on the connection that we dial; dropped when there is none (false). They are
 * moved out of `frames` in any case. `bulk`: one frame, sent when nothing else waits. */
bool transport_send(struct transport *t, int32_t node_id, struct ioqueue *frames, bool bulk);
/* An answer on the connection that the node dialed. */
bool transport_answer(struct transport *t, int32_t node_id, struct ioqueue *frames);
/* The beginning, and chunks of `data` (a reference that is taken over) when nothing else waits.
 * Replaces one that is on its way to that node. */
bool transport_send_snapshot(struct transport *t, int32_t node_id, uint64_t last_index,
                             struct ioqueue *begin, struct iobuf *data);
/* Whom the dialed connection has reached; NULL when there is none. */
const struct peer_identity *transport_peer(const struct transport *t, int32_t node_id);
/* Bytes that wait to go to that node. */
size_t transport_backlog(const struct transport *t, int32_t node_id);

void transport_register_metrics(struct transport *t, struct metrics *m);
/* How often anybody was refused, for whatever reason. */
uint64_t transport_refused(const struct transport *t);

#endif
