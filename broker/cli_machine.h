/* broker/cli_machine.h -- what the configuration needs of the machine, before there is an env.
 *
 * Apart from config.c because only main.c and the cli_*.c call the system.
 */
#ifndef FLUXMQ_BROKER_CLI_MACHINE_H
#define FLUXMQ_BROKER_CLI_MACHINE_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/base/err.h"

/* Up to bytes_max + 1 bytes, so that a file that is too long can be seen; *out is malloc'ed.
 * ERR_IO with "path: reason". */
MUST_USE enum err cli_read_file(const char *path, size_t bytes_max, char **out, size_t *size,
                                struct errmsg *why);

/* Cores that this process may run on, at least 1. */
int cli_core_count(void);

#endif
