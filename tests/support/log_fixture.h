/* tests/support/log_fixture.h -- a log manager with one directory and one log, and batches to put
 * into it, for the unit tests of storage.
 */
#ifndef FLUXMQ_TESTS_LOG_FIXTURE_H
#define FLUXMQ_TESTS_LOG_FIXTURE_H

#include "protocol/record_batch.h"
#include "storage/log_dir.h"
#include "tests/support/test_env.h"

struct log_fixture {
    struct test_env t;
    struct log_config config; /* of the log; change it before log_fixture_open() */
    struct log_manager *manager;
    struct log *log;
    struct log_identity id;
    const char *dirs[1];
    char dir[512];
    int64_t high_watermark; /* -1: the log's end */
    int64_t reserve_bytes;  /* 0 */
    bool opened;            /* open_all has reported */
    struct message done;
    struct file_ops broken; /* for a test that replaces a file's calls */
};

/* Small segments, no time limits. */
/* Limits off, and small index steps; a test changes what it is about. */
struct log_config log_fixture_config(void);
void log_fixture_init(struct log_fixture *f);
void log_fixture_deinit(struct log_fixture *f);
/* Opens the manager and, when it is not there, creates the log "orders"-0. */
void log_fixture_open(struct log_fixture *f);
/* A clean stop. */
void log_fixture_close(struct log_fixture *f);
/* As after kill -9: nothing is synced or written down; what was written stays. */
void log_fixture_crash(struct log_fixture *f);

struct batch_spec {
    int records;          /* 1 */
    int value_bytes;      /* 10 */
    int64_t timestamp_ms; /* of the first record; each further one is 1 ms younger; 1000 */
    int64_t producer_id;  /* 0: none */
    int16_t producer_epoch;
    int32_t sequence;
    int16_t attributes;
    int codec;
    int32_t leader_epoch;
};
/* A whole batch with base offset 0. */
struct iobuf *log_fixture_batch(const struct batch_spec *spec);
/* A transaction marker. */
struct iobuf *log_fixture_marker(int64_t producer_id, int16_t producer_epoch, bool commit,
                                 int32_t coordinator_epoch);
/* Appends; makes room where it is asked for. */
enum err log_fixture_append_buf(struct log_fixture *f, struct iobuf *b, int32_t leader_epoch,
                                struct log_append_result *out);
enum err log_fixture_append_spec(struct log_fixture *f, struct batch_spec spec,
                                 struct log_append_result *out);
/* log_fixture_append(f, .records = 3, .timestamp_ms = 7) */
#define log_fixture_append(f, ...)                                                                 \
    log_fixture_append_spec((f), (struct batch_spec){__VA_ARGS__}, NULL)

/* Reads [offset, limit) and checks that the batches are contiguous and whole. Returns the number of
 * records, or the negative error. Loads what is cold. */
int64_t log_fixture_read(struct log_fixture *f, int64_t offset, int64_t limit, size_t bytes_max);
/* "DIR/orders-0/name" */
const char *log_fixture_path(struct log_fixture *f, char out[1024], const char *name);
bool log_fixture_exists(struct log_fixture *f, const char *name);
uint64_t log_fixture_file_size(struct log_fixture *f, const char *name);
/* Overwrites one byte. */
void log_fixture_flip(struct log_fixture *f, const char *name, uint64_t offset);

#endif
