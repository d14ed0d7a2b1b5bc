/* protocol/base/mutant.h -- planted bugs (docs/consistency.md section 5): each the smallest edit
 * that breaks a rule, so that the simulator can show that it would notice.
 *
 * In every build but the preset `mutants` MUTANT(n) is the constant false and nothing of it is
 * left. In that build one bug is chosen for the process before anything runs.
 */
#ifndef FLUXMQ_BASE_MUTANT_H
#define FLUXMQ_BASE_MUTANT_H

#include <stdbool.h>

/* Number, and what is broken. A number above 100 is a second way to break the same rule: 112 is
 * another M12. */
#define MUTANTS(X)                                                                                 \
    X(10, "consumers can read past the high watermark")                                            \
    X(12, "sequences of idempotent producers are not checked")                                     \
    X(112, "producer state is not rebuilt after a restart")                                        \
    X(13, "a duplicate batch is answered with a fresh offset")                                     \
    X(19, "recovery does not verify checksums: a torn tail stays")                                 \
    X(119, "checksums are not verified on produce")                                                \
    X(20, "a failed fsync is taken for a success")                                                 \
    X(21, "a full disk leaves half a batch in the log")                                            \
    X(28, "a duplicate is acknowledged before its original is safe")                               \
    X(34, "the directory of a deleted topic is used again")

#ifdef FLUXMQ_MUTANTS
/* 0: none. Set once, before the first thread; the one mutable datum that all nodes of a process
 * share, and no release has it. */
extern int mutant_chosen;
#define MUTANT(n) (mutant_chosen == (n))
#else
#define MUTANT(n) false
#endif

#endif
