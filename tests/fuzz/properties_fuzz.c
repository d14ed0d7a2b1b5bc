/* tests/fuzz/properties_fuzz.c -- any bytes as a properties file, and what it says as a
 * configuration.
 *
 * Whatever parses is text: terminated keys and values without a zero byte, lines that count up,
 * and it parses to the same again. Its pairs are then loaded as --override, as a file's would be:
 * the outcome is a configuration or one sentence, and what loaded can be printed, reported,
 * resolved and described.
 */
#include <stdio.h>
#include <stdlib.h>

#include "broker/config.h"
#include "broker/properties.h"
#include "raft-meta/image_edit.h"

#define OVERRIDES_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void load(const struct properties *p)
{
    const char *overrides[OVERRIDES_MAX];
    struct config_arguments a = {.overrides = overrides, .hostname = "fuzzed"};
    struct errmsg why = {""};
    struct config *c = NULL;

    for (size_t i = 0; i < p->count && a.override_count < OVERRIDES_MAX; i++) {
        size_t n = strlen(p->items[i].key) + strlen(p->items[i].value) + 2;
        char *pair = xmalloc(n);

        snprintf(pair, n, "%s=%s", p->items[i].key, p->items[i].value);
        overrides[a.override_count++] = pair;
    }
    if (config_load(&a, &c, &why) == ERR_NONE) {
        struct image *image = image_new();
        struct config_described *all = NULL;
        struct topic_settings settings;
        struct arena arena;
        int32_t count = 0;
        FILE *out = fopen("/dev/null", "we");

        CHECK(c->listener_count > 0 && c->voter_count == 1 && c->log_dir_count > 0);
        arena_init(&arena, 4 << 20);
        config_topic_settings(c, image, STR_LIT("t"), &settings);
        enum err err = config_describe(c, image, CONFIG_BROKER, STR_EMPTY, &arena, &all, &count);
        CHECK(err == ERR_NONE && count == 0);
        config_report(c, NULL);
        if (out != NULL) {
            config_print(c, out);
            fclose(out);
        }
        arena_deinit(&arena);
        image_unref(image);
        config_free(c);
    } else {
        CHECK(why.text[0] != '\0');
    }
    for (int i = 0; i < a.override_count; i++)
        free((char *)(uintptr_t)overrides[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct properties p, again;
    struct errmsg why = {""};

    if (properties_parse(data, size, &p, &why) != ERR_NONE) {
        CHECK(why.text[0] != '\0');
        return 0;
    }
    enum err err = properties_parse(data, size, &again, &why);
    CHECK(err == ERR_NONE && again.count == p.count);
    for (size_t i = 0; i < p.count; i++) {
        CHECK(i == 0 || p.items[i].line > p.items[i - 1].line);
        CHECK(strcmp(p.items[i].key, again.items[i].key) == 0);
        CHECK(strcmp(p.items[i].value, again.items[i].value) == 0);
    }
    load(&p);
    properties_deinit(&again);
    properties_deinit(&p);
    return 0;
}
