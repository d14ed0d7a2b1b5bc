/* broker/env_uv.h -- the real env: libuv loops on threads of their own, sockets, a pool, the clock.
 *
 * Files come from storage/disk_posix.c. One per process.
 */
#ifndef FLUXMQ_BROKER_ENV_UV_H
#define FLUXMQ_BROKER_ENV_UV_H

#include "protocol/base/env.h"

struct uv_loop_s;

/* Starts `pool_threads` threads for each class of jobs. */
MUST_USE enum err env_uv_new(int pool_threads, struct env **out, struct errmsg *why);
/* All loops must have been stopped; jobs still queued are run first. */
void env_uv_free(struct env *env);

/* For raft_disk_uv, which brings libuv requests of its own. */
struct uv_loop_s *env_uv_loop(struct loop *loop);

#endif
