/* broker/conn.h -- one client connection: frames in, answers out, in order and within bounds.
 *
 * Rules [H11]
 *  C1  A request starts when all before it on the connection are answered; Produce alone may
 *      start while earlier Produce wait for acknowledgements (they are appended already).
 *      A follower's Fetch in its long poll is ended by the Fetch that follows it [H12].
 *  C2  Answers leave in the order of the requests.
 *  C3  Beyond connection.inflight.requests.max or .bytes.max, or while the peer does not read its
 *      answers, the socket is not read.
 *  C4  What cannot be answered closes the connection, after the earlier answers are out, with one
 *      log line per peer and reason (P9).
 *
 * Thread: the worker's.
 */
#ifndef FLUXMQ_BROKER_CONN_H
#define FLUXMQ_BROKER_CONN_H

#include "broker/worker.h"
#include "protocol/base/list.h"
#include "protocol/base/env.h"

struct conn;
struct listener_config;
struct request;

/* Takes over the stream. */
void conn_open(struct worker *w, struct stream *s, const struct listener_config *listener);
/* At once; requests under way become orphans. */
void conn_close(struct conn *c);
/* The worker's once-a-second look: idle connections and stalled frames. */
void conn_check_idle(struct worker *w, uint64_t now_ns);
/* End of a turn: sends what has gathered. */
void conn_flush_all(struct worker *w);
/* The worker's bytes in flight have fallen: reading may go on. */
void conn_resume_starved(struct worker *w);

/* For request.c. */
void conn_request_answered(struct conn *c);
void conn_request_appended(struct conn *c, struct request *r);
const char *conn_peer(const struct conn *c);
const char *conn_peer_host(const struct conn *c);
/* The connection in worker->conns. */
struct conn *conn_of_node(struct list_node *n);

#endif
