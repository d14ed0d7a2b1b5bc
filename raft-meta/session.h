/* raft-meta/session.h -- which of the registered nodes are alive, as the controller sees them.
 *
 * Every node has a session with the controller, the node whose raft member leads: a heartbeat now
 * and then over the peer connection, which vouches for its data plane too [H9]. The controller
 * keeps sessions in memory alone; what it decides is a command, fenced by the broker epoch.
 *
 *  - A new controller grants each registered node a full session [H21], and so does one that was
 *    itself away: nobody is judged by time in which nobody listened.
 *  - Silence for the session timeout fences, and so do an image that lags, a turn or a disk
 *    operation that does not end.
 *  - Evidence that the process is gone fences at once. Heard again in the same incarnation, the
 *    node is unfenced and evidence against it is ignored for `ignore_ns`, doubling. Evidence is
 *    kept on a node that is not the controller, too: it may be by the next moment.
 *  - A fenced node that serves, has caught up and is heard is unfenced. So a fence that an earlier
 *    controller had proposed does not stick.
 *
 * Decisions follow from what is, not from what happened: each look compares the image with the
 * sessions, and what was refused or lost is decided again.
 *
 * A pure core: it reads no clock. Thread: the meta loop's. Units: `*_ns` are monotonic.
 */
#ifndef FLUXMQ_RAFT_META_SESSION_H
#define FLUXMQ_RAFT_META_SESSION_H

#include "protocol/base/metrics.h"
#include "raft-meta/image.h"
#include "raft-meta/raft_transport.h"

#define SESSIONS_MAX     1024 /* nodes; the others have none and are never judged */
#define SESSION_LAG_NS   10000000000ull
#define EVIDENCE_REST_NS 30000000000ull

struct session_options {
    uint64_t timeout_ns;  /* of silence */
    uint64_t turn_ns_max; /* age of a worker's turn */
    uint64_t disk_ns_max; /* age of a disk operation */
    uint64_t lag_ns;      /* of the image */
    uint64_t ignore_ns;   /* evidence after a false one */
    uint64_t absence_ns;  /* between two looks: more, and the controller was itself away */
};

struct session_heartbeat {
    int64_t broker_epoch; /* of its registration, as its own image has it; -1: none */
    uint64_t applied_index;
    uint64_t turn_age_ns, disk_age_ns;
    bool serving; /* it has joined: it may be unfenced */
};

enum session_action { SESSION_FENCE, SESSION_UNFENCE };

struct session_decision {
    enum session_action action;
    int32_t node_id;
    int64_t broker_epoch;
    char cause[96];
};

struct sessions;

struct sessions *sessions_new(const struct session_options *o);
void sessions_free(struct sessions *s);

/* This node has become the controller, or is none any more. */
void sessions_begin(struct sessions *s, const struct image *i, uint64_t now_ns);
void sessions_end(struct sessions *s);

void sessions_on_heartbeat(struct sessions *s, const struct image *i,
                           const struct peer_identity *from, const struct session_heartbeat *h,
                           uint64_t now_ns);
/* The connection to that process died and two connects were refused [H9]. */
void sessions_on_gone(struct sessions *s, const struct peer_identity *who);
/* A connection to that process is there. */
void sessions_on_link(struct sessions *s, const struct peer_identity *who);

/* What is to be decided now, at most `most`; each is then under way until sessions_on_outcome(). */
int sessions_decide(struct sessions *s, const struct image *i, uint64_t now_ns,
                    struct session_decision *out, int most);
void sessions_on_outcome(struct sessions *s, const struct session_decision *d, bool applied);

/* The registered incarnation has no valid session: another directory may take its place [H21b]. */
bool sessions_is_over(const struct sessions *s, const struct image *i, int32_t node_id,
                      uint64_t now_ns);

/* How often each happened, since the process began. */
struct session_counts {
    struct counter heartbeats, fences, unfences, false_fences;
    struct counter by_silence, by_evidence, by_lag, by_stall; /* decided */
};
const struct session_counts *sessions_counts(const struct sessions *s);

#endif
