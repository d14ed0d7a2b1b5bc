/* tests/sim/faults.h -- what is done to the machine, its disk, its clock and its network.
 *
 * Two fibers of the run's driver, so that faults of the machine and of the world around it overlap:
 * one stops, kills and starts the node and breaks its disk, the other pauses it, moves its clock
 * and cuts its network. Each draws from the kinds that the plan has, and tells the oracle what it
 * destroyed.
 */
#ifndef FLUXMQ_TESTS_SIM_FAULTS_H
#define FLUXMQ_TESTS_SIM_FAULTS_H

#include "tests/sim/run.h"

struct faults;

struct faults *faults_new(struct run *r);
/* Starts both fibers; they end by themselves at `until`. */
void faults_begin(struct faults *f, uint64_t until);
bool faults_are_over(const struct faults *f);
/* Takes everything back; starts the node anew if it is down or has an error of its disk. */
void faults_heal(struct faults *f);

/* Starts the node and waits until it is ready; a node that is not in time, or ends, is a finding
 * unless its disk is failing: then false. */
bool faults_start_node(struct faults *f);
/* A clean stop; waits for it. */
void faults_stop_node(struct faults *f);

#endif
