#include "protocol/base/logger.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "protocol/base/bytes.h"
#include "protocol/base/env.h"

#define LINE_BYTES_MAX 2048

struct line {
    char text[LINE_BYTES_MAX];
    size_t size;
};

void logger_init(struct logger *l, struct env *env, enum log_level level, bool json,
                 void (*sink)(void *ctx, const char *line, size_t size), void *ctx)
{
    l->env = env;
    atomic_store(&l->level, (int)level);
    l->json = json;
    l->sink = sink;
    l->ctx = ctx;
}

static const char *level_name(enum log_level level)
{
    static const char *const names[] = {"ERROR", "WARN", "INFO", "DEBUG", "TRACE"};

    return names[level];
}

bool log_level_parse(const char *text, enum log_level *out)
{
    for (int i = LOG_ERROR; i <= LOG_TRACE; i++) {
        if (strcasecmp(text, level_name((enum log_level)i)) == 0) {
            *out = (enum log_level)i;
            return true;
        }
    }
    return false;
}

/* Room is kept for what must still follow ("\"}\n"). */
static void line_append(struct line *line, const char *text, size_t size)
{
    size_t room = LINE_BYTES_MAX - 4 - line->size;

    if (size > room)
        size = room;
    memcpy(line->text + line->size, text, size);
    line->size += size;
}

static void line_text(struct line *line, const char *text)
{
    line_append(line, text, strlen(text));
}

/* Days since 1970-01-01 to a civil date (proleptic Gregorian). */
static void civil_from_days(int64_t days, int *year, int *month, int *day)
{
    int64_t z = days + 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;

    *day = (int)(doy - (153 * mp + 2) / 5 + 1);
    *month = (int)(mp < 10 ? mp + 3 : mp - 9);
    *year = (int)(yoe + era * 400 + (*month <= 2));
}

static void line_time(struct line *line, int64_t unix_ms)
{
    int64_t days = unix_ms / 86400000, ms = unix_ms % 86400000;
    int year, month, day;
    char text[64];

    if (ms < 0) {
        ms += 86400000;
        days--;
    }
    civil_from_days(days, &year, &month, &day);
    (void)snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", year, month, day,
                   (int)(ms / 3600000), (int)(ms / 60000 % 60), (int)(ms / 1000 % 60),
                   (int)(ms % 1000));
    line_text(line, text);
}

/* Control bytes never reach the sink raw: a message may quote what a client sent. */
static void line_escaped(struct line *line, const char *text, bool json)
{
    char code[8];

    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;

        if (json && (c == '"' || c == '\\')) {
            char pair[2] = {'\\', (char)c};
            line_append(line, pair, 2);
        } else if (c < 0x20 || c == 0x7f) {
            (void)snprintf(code, sizeof code, json ? "\\u%04x" : "\\x%02x", c);
            line_text(line, code);
        } else {
            line_append(line, p, 1);
        }
    }
}

void logger_write(struct logger *l, enum log_level level, const char *module, const char *fmt, ...)
{
    char message[LINE_BYTES_MAX];
    struct line line = {.size = 0};
    va_list ap;

    if (l == NULL || (int)level > atomic_load_explicit(&l->level, memory_order_relaxed))
        return;

    va_start(ap, fmt);
    (void)vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);

    line_text(&line, l->json ? "{\"time\":\"" : "");
    line_time(&line, env_unix_ms(l->env));
    if (l->json) {
        line_text(&line, "\",\"level\":\"");
        line_text(&line, level_name(level));
        line_text(&line, "\",\"module\":\"");
        line_escaped(&line, module, true);
        line_text(&line, "\",\"message\":\"");
        line_escaped(&line, message, true);
        memcpy(line.text + line.size, "\"}\n", 3);
        line.size += 3;
    } else {
        char head[64];

        (void)snprintf(head, sizeof head, " %-5s %s: ", level_name(level), module);
        line_text(&line, head);
        line_escaped(&line, message, false);
        line.text[line.size++] = '\n';
    }
    l->sink(l->ctx, line.text, line.size);
}
