#include "broker/cli_machine.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum err cli_read_file(const char *path, size_t bytes_max, char **out, size_t *size,
                       struct errmsg *why)
{
    FILE *f = fopen(path, "rbe");
    char *bytes;
    bool failed;

    if (f == NULL) {
        errmsg_set(why, "%s: %s", path, strerror(errno));
        return ERR_IO;
    }
    bytes = xmalloc(bytes_max + 1);
    *size = fread(bytes, 1, bytes_max + 1, f);
    failed = ferror(f) != 0;
    if (failed)
        errmsg_set(why, "%s: %s", path, strerror(errno));
    fclose(f);
    if (failed) {
        free(bytes);
        return ERR_IO;
    }
    *out = bytes;
    return ERR_NONE;
}

int cli_core_count(void)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? MAX(CPU_COUNT(&set), 1) : 1;
}
