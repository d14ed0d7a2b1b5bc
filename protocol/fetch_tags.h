/* protocol/fetch_tags.h -- what our nodes add to each other's Fetch: tagged fields (KIP-482) that
 * Kafka's schema does not have.
 *
 *     request             tag 28001  uuid   the token of the follower's registration: its random
 *                                           incarnation, which only members of the cluster know
 *     request, partition  tag 28002  int64  DurableEndOffset: what the follower has on stable
 *                                           storage, where durable ends count [H12]
 *
 * They travel as unknown tags, so that the schema stays Kafka's; who does not know them skips them.
 * One of another length says nothing.
 *
 * Thread: any.
 */
#ifndef FLUXMQ_FETCH_TAGS_H
#define FLUXMQ_FETCH_TAGS_H

#include "protocol/api.h"

/* False without memory. Once per struct. */
MUST_USE bool fetch_tags_set_token(struct arena *a, struct fetch_request *q,
                                   const struct uuid *token);
MUST_USE bool fetch_tags_set_durable_end(struct arena *a, struct fetch_request_fetch_partition *p,
                                         int64_t durable_end_offset);
/* False: there is none. */
bool fetch_tags_token(const struct fetch_request *q, struct uuid *out);
/* -1: there is none. */
int64_t fetch_tags_durable_end(const struct fetch_request_fetch_partition *p);

#endif
