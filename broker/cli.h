/* broker/cli.h -- the subcommands of the binary; each returns the process's exit code.
 *
 *   0  ok    1  finding or refusal    2  usage or configuration    3  not reachable
 */
#ifndef FLUXMQ_BROKER_CLI_H
#define FLUXMQ_BROKER_CLI_H

#include <stdio.h>

enum { EXIT_OK = 0, EXIT_FINDING = 1, EXIT_USAGE = 2, EXIT_UNREACHABLE = 3 };

/* `command` NULL: the program's own help. False when there is no such command. */
int cli_print_help(FILE *out, const char *command);

/* argv[0] is the subcommand's name. */
int cli_dump(int argc, char **argv);
int cli_verify(int argc, char **argv);
int cli_repair(int argc, char **argv);

#endif
