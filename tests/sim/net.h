/* tests/sim/net.h -- the simulated network: machines, links, streams.
 *
 * A machine has a number and is reached by the host name "mN" (nodes: "m1", "m2", ...). Between
 * two connected ends bytes keep their order; each direction has its own latency, a window that
 * fills when the reader is slow, and may be cut. A cut drops silently, so that peers meet
 * time-outs; what was sent before the cut ends is delivered after it, as by TCP's resending, or
 * the connection is reset when the cut lasts longer than the sender's patience.
 *
 * The node's side is behind env.h (streams, listeners); clients use the blocking calls below, each
 * from a fiber of its own process.
 */
#ifndef FLUXMQ_TESTS_SIM_NET_H
#define FLUXMQ_TESTS_SIM_NET_H

#include "protocol/base/err.h"
#include "tests/sim/sim.h"

struct net;
struct net_socket;

/* One for each sim; made before any process uses it. */
struct net *net_new(struct sim *s);
struct net *sim_net(struct sim *s);

/* ---- faults ---- */

/* One direction; both for a full cut. A machine may be cut from itself never. */
void net_cut(struct net *n, int from, int to, bool cut);
bool net_is_cut(const struct net *n, int from, int to);
void net_heal(struct net *n);
/* Resets the connections between two machines (b == -1: and any other). */
void net_reset(struct net *n, int a, int b);
/* Added to each delivery from a to b until changed; 0: none. */
void net_slow(struct net *n, int from, int to, uint64_t extra_ns);
/* New connections to this machine are refused (its process is there and answers nothing). */
void net_refuse(struct net *n, int machine, bool refuse);

/* ---- clients: blocking, each call on a fiber ---- */

/* ERR_CLOSED: refused or reset; ERR_TIMED_OUT at the deadline. */
MUST_USE enum err net_connect(struct process *p, int machine, int port, uint64_t deadline,
                              struct net_socket **out);
/* All of it, or an error. */
MUST_USE enum err net_write(struct net_socket *c, const void *bytes, size_t size,
                            uint64_t deadline);
/* Exactly `size` bytes. */
MUST_USE enum err net_read(struct net_socket *c, void *bytes, size_t size, uint64_t deadline);
/* What is there, at least one byte; ERR_CLOSED at the end of the stream too. */
MUST_USE enum err net_read_some(struct net_socket *c, void *bytes, size_t size, uint64_t deadline,
                                size_t *n_read);
void net_close(struct net_socket *c);

/* ---- for machine.c ---- */

/* A machine without power answers nothing, and what was on its way from it is gone. */
void net_power(struct net *n, int machine, bool on);

/* ---- for env_sim.c: the same without waiting ----
 *
 * An end is one side of a connection; it belongs to a process and dies with it. `changed` runs in
 * an event, when it may have become readable or writable.
 */
struct net_end;
struct net_listener;
struct net_attempt;

/* NULL: the port is taken. port 0: any. */
struct net_listener *net_listen(struct net *n, struct process *p, int port, int backlog,
                                void (*changed)(void *ctx), void *ctx);
int net_listener_port(const struct net_listener *l);
bool net_listener_has(const struct net_listener *l);
struct net_end *net_accept(struct net_listener *l); /* NULL: nobody waits */
void net_listener_close(struct net_listener *l);

/* `done` runs once, in an event: ERR_REFUSED, ERR_TIMED_OUT, or an end. */
struct net_attempt *net_attempt(struct net *n, struct process *p, int machine, int port,
                                uint64_t deadline,
                                void (*done)(void *ctx, enum err e, struct net_end *end),
                                void *ctx);
void net_attempt_cancel(struct net_attempt *a); /* done() will not run */

void net_end_watch(struct net_end *e, void (*changed)(void *ctx), void *ctx);
bool net_end_readable(const struct net_end *e); /* bytes, the end of the stream, or a reset */
bool net_end_writable(const struct net_end *e); /* room, or a reset */
bool net_end_is_reset(const struct net_end *e);
int net_end_peer_machine(const struct net_end *e);
int net_end_peer_port(const struct net_end *e);
MUST_USE enum err net_end_read(struct net_end *e, void *p, size_t size, size_t *n); /* as stream */
MUST_USE enum err net_end_write(struct net_end *e, const void *p, size_t size, size_t *n);
void net_end_close(struct net_end *e);

#endif
