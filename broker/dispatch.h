/* broker/dispatch.h -- from a frame to a request to its handler, and which APIs there are.
 *
 * An API is advertised if and only if a handler for it stands in the table of dispatch.c: what
 * does not work is not offered.
 */
#ifndef FLUXMQ_BROKER_DISPATCH_H
#define FLUXMQ_BROKER_DISPATCH_H

#include "broker/request.h"

/* A request from a whole frame (whose reference it takes), still undecoded: queued requests keep
 * no more than their bytes. NULL with a reason when it can neither be served nor answered. */
struct request *dispatch_parse(struct conn *c, struct worker *w,
                               const struct listener_config *listener, struct iobuf *frame,
                               const char **reason);
/* Decodes the body and calls the handler. */
void dispatch_start(struct request *r);

/* Whether the API works here, and from which version on it is advertised (Produce: 0, although 0
 * to 2 are refused; KAFKA-18659). */
bool dispatch_has(const struct api_desc *api);
int16_t dispatch_version_min(const struct api_desc *api);

/* The connection has gone or the answer was taken: frees the request, or, when its handler has
 * not ended it yet, leaves it to end as an orphan. */
void request_detach(struct request *r);
/* The node stops: if the request is parked, its deadline is now. */
void request_expire(struct request *r);
bool request_is_produce(const struct request *r);

#endif
