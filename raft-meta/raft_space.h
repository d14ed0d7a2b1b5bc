/* raft-meta/raft_space.h -- room for the quorum on a disk that fills up [H8].
 *
 * libraft does not survive a full disk, so it must never meet one: before each entry we ask
 * whether the next segments and the next snapshot still fit. A ballast file beside the raft files
 * is given up first; what then is left is for control commands and deletions, which make room.
 *
 * Thread: the meta loop's; the ballast is written on the pool.
 */
#ifndef FLUXMQ_RAFT_META_RAFT_SPACE_H
#define FLUXMQ_RAFT_META_RAFT_SPACE_H

#include "protocol/base/env.h"
#include "protocol/base/logger.h"

struct raft_space;

enum raft_room {
    ROOM_ENOUGH,   /* for everything */
    ROOM_RESERVED, /* for control commands and deletions only */
    ROOM_NONE,     /* nothing may be written */
};

struct raft_space *raft_space_new(struct env *env, struct loop *loop, struct logger *logger,
                                  const char *dir, int64_t ballast_bytes);
/* The pool may still be writing the ballast: freed when it is done. */
void raft_space_free(struct raft_space *s);

/* Whether an entry of `entry_bytes` may be appended, given the size of the last snapshot. */
enum raft_room raft_space_check(struct raft_space *s, size_t entry_bytes, size_t snapshot_bytes);

#endif
