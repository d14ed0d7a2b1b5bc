/* broker/connection_limits.h -- max.connections and max.connections.per.ip: who has how many.
 *
 * Thread: any.
 */
#ifndef FLUXMQ_BROKER_CONNECTION_LIMITS_H
#define FLUXMQ_BROKER_CONNECTION_LIMITS_H

#include "protocol/base/env.h"
#include "protocol/base/hmap.h"

struct connection_limits {
    struct mutex lock;
    struct hmap hosts GUARDED_BY(lock);
    int count GUARDED_BY(lock);
};

void connection_limits_init(struct connection_limits *l, struct env *env);
void connection_limits_deinit(struct connection_limits *l);
/* Another connection of `host`: false when that is one too many by the limits as they are now. */
MUST_USE bool connection_limits_open(struct connection_limits *l, const char *host,
                                     int64_t count_max, int64_t per_host_max);
void connection_limits_close(struct connection_limits *l, const char *host);

#endif
