#include "protocol/base/err.h"

#include <stdarg.h>
#include <stdio.h>

void errmsg_set(struct errmsg *m, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(m->text, sizeof m->text, fmt, args);
    va_end(args);
}

const char *err_name(enum err e)
{
    switch (e) {
#define ERR_NAME_(name, code)                                                                      \
    case ERR_##name:                                                                               \
        return #name;
        ERR_WIRE_CODES(ERR_NAME_)
#undef ERR_NAME_
    case ERR_AGAIN:
        return "AGAIN";
    case ERR_IO:
        return "IO";
    case ERR_NO_SPACE:
        return "NO_SPACE";
    case ERR_MALFORMED:
        return "MALFORMED";
    case ERR_TOO_LARGE:
        return "TOO_LARGE";
    case ERR_NOT_FOUND:
        return "NOT_FOUND";
    case ERR_EXISTS:
        return "EXISTS";
    case ERR_CLOSED:
        return "CLOSED";
    case ERR_CONFIG:
        return "CONFIG";
    case ERR_CORRUPT:
        return "CORRUPT";
    case ERR_NO_DESCRIPTORS:
        return "NO_DESCRIPTORS";
    case ERR_REFUSED:
        return "REFUSED";
    case ERR_TIMED_OUT:
        return "TIMED_OUT";
    }
    return "UNKNOWN";
}

int16_t err_to_wire(enum err e)
{
    switch (e) {
#define ERR_WIRE_(name, code)                                                                      \
    case ERR_##name:                                                                               \
        return (code);
        ERR_WIRE_CODES(ERR_WIRE_)
#undef ERR_WIRE_
    case ERR_NO_SPACE:
    case ERR_NO_DESCRIPTORS:
    case ERR_IO:
    case ERR_CORRUPT:
        return ERR_KAFKA_STORAGE_ERROR;
    case ERR_MALFORMED:
        return ERR_INVALID_REQUEST;
    case ERR_AGAIN:
    case ERR_TOO_LARGE:
    case ERR_NOT_FOUND:
    case ERR_EXISTS:
    case ERR_CLOSED:
    case ERR_CONFIG:
    case ERR_REFUSED:
    case ERR_TIMED_OUT:
        break;
    }
    return ERR_UNKNOWN_SERVER_ERROR;
}
