/* protocol/base/logger.h -- log lines to one sink, as text or JSON [H44].
 *
 * Text:  2026-01-31T12:00:00.123Z INFO  storage: recovered 12 partitions in 34 ms
 * JSON:  {"time":"...","level":"INFO","module":"storage","message":"..."}
 *
 * A line is formatted on the caller's stack and leaves in one write, so that lines of several
 * threads never mix. The sink must be callable from any thread.
 */
#ifndef FLUXMQ_BASE_LOGGER_H
#define FLUXMQ_BASE_LOGGER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "protocol/base/check.h"

struct env;

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

struct logger {
    struct env *env;   /* for the time */
    _Atomic int level; /* enum log_level; SIGHUP may change it */
    bool json;
    void (*sink)(void *ctx, const char *line, size_t size); /* `line` ends with \n */
    void *ctx;
};

void logger_init(struct logger *l, struct env *env, enum log_level level, bool json,
                 void (*sink)(void *ctx, const char *line, size_t size), void *ctx);
/* A NULL logger swallows everything (tests). */
void logger_write(struct logger *l, enum log_level level, const char *module, const char *fmt, ...)
    PRINTF(4, 5);
/* "error", "warn", "info", "debug", "trace", any case; false on anything else. */
MUST_USE bool log_level_parse(const char *text, enum log_level *out);

#define log_error(l, module, ...) logger_write((l), LOG_ERROR, (module), __VA_ARGS__)
#define log_warn(l, module, ...)  logger_write((l), LOG_WARN, (module), __VA_ARGS__)
#define log_info(l, module, ...)  logger_write((l), LOG_INFO, (module), __VA_ARGS__)
#define log_debug(l, module, ...) logger_write((l), LOG_DEBUG, (module), __VA_ARGS__)

#endif
