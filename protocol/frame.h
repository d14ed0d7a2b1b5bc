/* protocol/frame.h -- what surrounds a message on a connection: its length and its header.
 *
 *     request    int32 length | int16 api_key | int16 api_version | int32 correlation_id
 *                             | nullable string client_id (header 1 and 2) | tags (header 2) | body
 *     response   int32 length | int32 correlation_id | tags (header 1) | body
 *
 * A header's version follows from the API and its version: requests have header 2, responses
 * header 1 from the first flexible version on. Two exceptions: the client id is never compact, and
 * the answer to ApiVersions always has header 0, because its reader may not know the version
 * (KIP-511). Request header 0, without client id, was ControlledShutdown's alone, which Kafka 4
 * removed.
 */
#ifndef FLUXMQ_FRAME_H
#define FLUXMQ_FRAME_H

#include "protocol/codec.h"

#define FRAME_LENGTH_SIZE 4
/* Key, version and correlation id: no request is shorter. */
#define REQUEST_HEADER_MIN 8

struct frame_header {
    const struct api_desc *api; /* NULL: no such API */
    int16_t api_key, api_version;
    int32_t correlation_id;
    struct str client_id; /* may be null; points into the frame */
    size_t used;          /* the body begins here */
};

/* The length that starts a frame, itself not counted.
 * Errors: ERR_AGAIN (fewer than FRAME_LENGTH_SIZE bytes), ERR_MALFORMED (too short for any
 * request), ERR_TOO_LARGE (over `length_max`). */
MUST_USE enum err frame_length(const void *ptr, size_t size, size_t length_max, size_t *out);

/* Reads a request's header from a frame without its length. A version that we do not know is no
 * error here: whoever dispatches refuses it, and ApiVersions in his own way. Errors:
 * ERR_UNSUPPORTED_VERSION  no such API, so nobody can tell how long the header is; `out` has
 *                          api_key, api_version and correlation_id
 * ERR_MALFORMED */
MUST_USE enum err request_header_read(const void *ptr, size_t size, struct frame_header *out);

/* Appends a whole response frame. Errors: those of codec_encode(). */
MUST_USE enum err response_encode(const struct api_desc *api, int16_t version,
                                  int32_t correlation_id, const void *message, struct ioqueue *out);

/* ---- the client's side: peers, tools and tests ---- */

/* A longer client id is ERR_TOO_LARGE. */
#define REQUEST_CLIENT_ID_MAX 200

MUST_USE enum err request_encode(const struct api_desc *api, int16_t version,
                                 int32_t correlation_id, struct str client_id, const void *message,
                                 struct ioqueue *out);

/* Reads a response's header from a frame without its length. Error: ERR_MALFORMED. */
MUST_USE enum err response_header_read(const struct api_desc *api, int16_t version, const void *ptr,
                                       size_t size, int32_t *correlation_id, size_t *used);

#endif
