/* tests/fuzz/replay_main.c -- runs a fuzz target over stored inputs, without libFuzzer.
 *
 *     codec_fuzz FILE-OR-DIRECTORY...
 *
 * So the corpus, to which every input that ever broke a target is added, is part of each test run.
 * An input is copied to memory of exactly its size, that sanitizers see a read beyond it.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    FILE *in = fopen(path, "rb");
    struct stat st;

    if (in == NULL || fstat(fileno(in), &st) != 0) {
        perror(path);
        return -1;
    }
    size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size > 0 ? size : 1);
    if (data == NULL || fread(data, 1, size, in) != size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        free(data);
        fclose(in);
        return -1;
    }
    fclose(in);
    (void)LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

/* The number of inputs, or -1. */
static int replay(const char *path)
{
    struct dirent **entries = NULL;
    struct stat st;
    int count = 0;

    if (stat(path, &st) != 0) {
        perror(path);
        return -1;
    }
    if (!S_ISDIR(st.st_mode))
        return replay_file(path);

    int n = scandir(path, &entries, NULL, alphasort);
    if (n < 0) {
        perror(path);
        return -1;
    }
    for (int i = 0; i < n; i++) {
        char below[4096];
        if (count >= 0 && entries[i]->d_name[0] != '.') {
            (void)snprintf(below, sizeof below, "%s/%s", path, entries[i]->d_name);
            int more = replay(below);
            count = more < 0 ? -1 : count + more;
        }
        free(entries[i]);
    }
    free(entries);
    return count;
}

int main(int argc, char **argv)
{
    int count = 0;

    for (int i = 1; i < argc; i++) {
        int more = replay(argv[i]);
        if (more < 0)
            return 1;
        count += more;
    }
    printf("%d inputs replayed\n", count);
    return count > 0 ? 0 : 1; /* an empty corpus proves nothing */
}
