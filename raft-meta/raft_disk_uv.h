/* raft-meta/raft_disk_uv.h -- libraft's own disk layer (raft_uv) and nothing else of it.
 *
 * Its network layer checks no lengths and is never reached: the transport is a null one, and peer
 * messages will travel in frames of our own (raft_transport).
 *
 * Thread: the meta loop's, whose libuv loop raft_uv brings its requests to.
 */
#ifndef FLUXMQ_RAFT_META_RAFT_DISK_UV_H
#define FLUXMQ_RAFT_META_RAFT_DISK_UV_H

#include <raft.h>

#include "protocol/base/err.h"

struct uv_loop_s;
struct raft_disk_uv;

/* `dir` exists and is ours alone. */
MUST_USE enum err raft_disk_uv_new(struct uv_loop_s *loop, const char *dir,
                                   struct raft_disk_uv **out, struct errmsg *why);
struct raft_io *raft_disk_uv_io(struct raft_disk_uv *d);
/* After the io has been closed, or was never initialised. */
void raft_disk_uv_free(struct raft_disk_uv *d);

#endif
