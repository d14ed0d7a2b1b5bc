/* broker/properties.h -- the syntax of Java properties files, as java.util.Properties reads it.
 *
 * A logical line is key, then '=', ':' or white space, then the value up to its end. White space
 * (space, tab, form feed) before the key, around the separator, and at the start of a continued
 * line does not count; at the end of a value it does. A line that begins with '#' or '!' is a
 * comment. A backslash at the end of a line continues it; elsewhere it escapes: \t \n \r \f,
 * \uXXXX (UTF-16, surrogates in pairs), and any other character stands for itself.
 *
 * One difference: Java reads ISO 8859-1, we keep the bytes of the file, which are UTF-8 in
 * practice. A zero character is refused.
 */
#ifndef FLUXMQ_BROKER_PROPERTIES_H
#define FLUXMQ_BROKER_PROPERTIES_H

#include <stddef.h>

#include "protocol/base/bytes.h"
#include "protocol/base/err.h"

#define PROPERTIES_FILE_BYTES_MAX (1024 * 1024)

struct property {
    const char *key, *value; /* terminated, never NULL */
    int line;                /* where the logical line begins, from 1 */
};

struct properties {
    struct property *items; /* in the order of the file, doubles included */
    size_t count;
    char *text; /* all keys and values */
};

/* ERR_MALFORMED with "line N: reason"; ERR_TOO_LARGE beyond PROPERTIES_FILE_BYTES_MAX. */
MUST_USE enum err properties_parse(const void *bytes, size_t size, struct properties *out,
                                   struct errmsg *why);
void properties_deinit(struct properties *p);

#endif
