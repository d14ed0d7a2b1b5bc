/* broker/http/http.h -- /metrics, /live, /ready on a listener of their own (loopback by default).
 *
 * A thread of libmicrohttpd: it reads counters and the published image, and never touches the
 * data path.
 *
 *   GET /metrics  Prometheus text
 *   GET /live     200 while the process runs
 *   GET /ready    200 once this node is registered, unfenced and accepting; else 503
 */
#ifndef FLUXMQ_BROKER_HTTP_H
#define FLUXMQ_BROKER_HTTP_H

#include "broker/node.h"

struct http_server;

/* `host` must be an address or resolve to one. */
MUST_USE enum err http_server_start(struct node *n, const char *host, int port,
                                    struct http_server **out, struct errmsg *why);
int http_server_port(const struct http_server *s);
void http_server_stop(struct http_server *s);

#endif
