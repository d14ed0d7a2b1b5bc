/* tests/sim/client.h -- a Kafka client on a fiber: raw, blocking, as old or new as the seed says.
 *
 * One connection; requests leave in order and answers must come back in the same order with their
 * correlation ids (P9); an answer that takes longer than the request itself may take, while nothing
 * disturbs the machine, is a finding (H48 e). Retries are the workloads' own business.
 *
 * Records say themselves what they are: the value holds the record's number, topic, partition and
 * timestamp, and the rest of it, key and headers follow from the number. So a reader knows each
 * byte that it must find.
 */
#ifndef FLUXMQ_TESTS_SIM_CLIENT_H
#define FLUXMQ_TESTS_SIM_CLIENT_H

#include "protocol/api.h"
#include "protocol/base/arena.h"
#include "tests/sim/net.h"
#include "tests/sim/run.h"

#define CLIENT_API_KEYS      128
#define CLIENT_IN_FLIGHT_MAX 16
/* Beyond what a request may take of itself; then the client gives the connection up. */
#define CLIENT_PATIENCE_NS SIM_S(8)

enum client_age { CLIENT_NEWEST, CLIENT_OLDEST, CLIENT_MIXED };

struct client_request {
    int16_t api_key, version;
    int32_t correlation_id;
    uint64_t sent_ns, wait_ns;
    bool unbounded; /* its answer waits for a disk or the quorum: no bound is promised */
};

struct client {
    struct run *run;
    struct process *process;
    int number;
    enum client_age age;
    struct net_socket *socket;                  /* NULL: not connected */
    int16_t versions[CLIENT_API_KEYS];          /* -1: not offered */
    int16_t version_bounds[CLIENT_API_KEYS][2]; /* as first seen: they never change */
    bool versions_known;
    int32_t correlation_next;
    struct client_request in_flight[CLIENT_IN_FLIGHT_MAX];
    int in_flight_count;
    struct arena arena; /* of the operation at hand; the workload resets it */
};

/* A client on a machine of its own. `age` as drawn, or newest for the driver. */
void client_init(struct client *c, struct run *r, struct process *p, enum client_age age);
void client_deinit(struct client *c);

/* Connects if it is not, tries for `patience`; false: could not. */
bool client_connect(struct client *c, uint64_t patience_ns);
void client_close(struct client *c);
int16_t client_version(const struct client *c, int16_t api_key);

/* `wait_ns`: how long the request itself asks to wait (max.wait, timeout). After an error the
 * connection is closed and what was in flight has no answer. */
MUST_USE enum err client_send(struct client *c, int16_t api_key, const void *request,
                              uint64_t wait_ns);
/* The last request sent gets no answer (Produce with acks=0). */
void client_forget(struct client *c);
/* The answer to the oldest request in flight; it lives in the arena. */
MUST_USE enum err client_receive(struct client *c, void **response);
/* Both; nothing may be in flight. Connects first. */
MUST_USE enum err client_call(struct client *c, int16_t api_key, const void *request,
                              uint64_t wait_ns, void **response);
/* Raw bytes, for the hostile. */
MUST_USE enum err client_write(struct client *c, const void *p, size_t size);

/* About so long, but not beyond the end of the clients' time. */
void client_pause(struct client *c, uint64_t typical_ns);
/* Between two operations; counts one. */
void client_think(struct client *c);
bool client_chance(struct client *c, double p);
uint64_t client_below(struct client *c, uint64_t n);

/* A topic that exists as far as is known, or -1. */
int client_pick_topic(struct client *c);
/* One that nobody deletes: for requests by name whose effect must not meet its successor. */
int client_pick_lasting(struct client *c);
int32_t client_pick_partition(struct client *c, int topic);
struct str client_topic_name(struct client *c, int topic);
int64_t client_unix_ms(struct client *c);

/* A batch of `b->count` records; the codec that a producer of this version may use. */
struct iobuf *client_make_batch(struct client *c, const struct oracle_batch *b,
                                int16_t produce_version);

/* Checks the records of a fetched partition, byte by byte, and tells the oracle. Returns the offset
 * behind the last one, or f->fetch_offset. */
int64_t client_check_records(struct client *c, const struct oracle_mark *m, struct oracle_fetch *f,
                             const struct records *records);

/* P9: is it an error that this API may answer? Else a violation. */
void client_check_error(struct client *c, int16_t api_key, int16_t code);

/* Reads all of a partition, from log start to high watermark, with retries until the deadline;
 * then tells the oracle. False: it could not. */
bool client_read_whole(struct client *c, int topic, int32_t partition, uint64_t deadline);

/* ---- workloads: the fiber of a client, until run->stopping ---- */

void workload_idempotent(struct client *c);
void workload_plain(struct client *c);
void workload_consumer(struct client *c);
void workload_lookup(struct client *c);
void workload_deleter(struct client *c);
void workload_topics(struct client *c);
void workload_partitions(struct client *c);
void workload_configs(struct client *c);
void workload_poller(struct client *c);
void workload_hostile(struct client *c);

/* The topics of the start. */
bool workload_create_topic(struct client *c, const char *name, int partitions);

#endif
