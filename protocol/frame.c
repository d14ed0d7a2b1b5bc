/* protocol/frame.c -- see protocol/frame.h for the layout. */
#include "protocol/frame.h"

enum err frame_length(const void *ptr, size_t size, size_t length_max, size_t *out)
{
    if (size < FRAME_LENGTH_SIZE)
        return ERR_AGAIN;

    int32_t length = (int32_t)load_be32(ptr);
    if (length < REQUEST_HEADER_MIN)
        return ERR_MALFORMED;
    if ((size_t)length > length_max)
        return ERR_TOO_LARGE;
    *out = (size_t)length;
    return ERR_NONE;
}

/* Steps over tagged fields, none of which we know in a header; 0 when they are malformed. */
static size_t skip_tags(const uint8_t *p, size_t size)
{
    uint32_t count = 0;
    size_t used = uvarint32_read(p, size, &count);

    if (used == 0)
        return 0;
    for (; count > 0; count--) {
        uint32_t tag = 0, length = 0;
        size_t n = uvarint32_read(p + used, size - used, &tag);
        used += n;
        size_t m = n > 0 ? uvarint32_read(p + used, size - used, &length) : 0;
        used += m;
        if (m == 0 || length > size - used)
            return 0;
        used += length;
    }
    return used;
}

enum err request_header_read(const void *ptr, size_t size, struct frame_header *out)
{
    const uint8_t *p = ptr;

    *out = (struct frame_header){.client_id = STR_NULL};
    if (size < REQUEST_HEADER_MIN)
        return ERR_MALFORMED;
    out->api_key = (int16_t)load_be16(p);
    out->api_version = (int16_t)load_be16(p + 2);
    out->correlation_id = (int32_t)load_be32(p + 4);
    out->used = REQUEST_HEADER_MIN;
    out->api = api_find(out->api_key);
    if (out->api == NULL)
        return ERR_UNSUPPORTED_VERSION;

    if (size - out->used < 2)
        return ERR_MALFORMED;
    int16_t length = (int16_t)load_be16(p + out->used);
    out->used += 2;
    if (length < -1 || (length > 0 && (size_t)length > size - out->used))
        return ERR_MALFORMED;
    if (length >= 0) {
        out->client_id = (struct str){(const char *)p + out->used, length};
        out->used += (size_t)length;
    }

    if (api_request_header_version(out->api, out->api_version) >= 2) {
        size_t n = skip_tags(p + out->used, size - out->used);
        if (n == 0)
            return ERR_MALFORMED;
        out->used += n;
    }
    return ERR_NONE;
}

enum err response_encode(const struct api_desc *api, int16_t version, int32_t correlation_id,
                         const void *message, struct ioqueue *out)
{
    uint8_t header[5] = {0}; /* the fifth: no tagged fields */
    bool has_tags = api_response_header_version(api, version) >= 1;

    store_be32(header, (uint32_t)correlation_id);
    return codec_encode_framed(api->response, version, message, header, has_tags ? 5 : 4, out);
}

enum err request_encode(const struct api_desc *api, int16_t version, int32_t correlation_id,
                        struct str client_id, const void *message, struct ioqueue *out)
{
    uint8_t header[REQUEST_HEADER_MIN + 2 + REQUEST_CLIENT_ID_MAX + 1];
    size_t used = REQUEST_HEADER_MIN + 2;

    if (client_id.len > REQUEST_CLIENT_ID_MAX)
        return ERR_TOO_LARGE;
    store_be16(header, (uint16_t)api->key);
    store_be16(header + 2, (uint16_t)version);
    store_be32(header + 4, (uint32_t)correlation_id);
    store_be16(header + 8, (uint16_t)client_id.len);
    if (client_id.len > 0) {
        memcpy(header + used, client_id.ptr, (size_t)client_id.len);
        used += (size_t)client_id.len;
    }
    if (api_request_header_version(api, version) >= 2)
        header[used++] = 0;
    return codec_encode_framed(api->request, version, message, header, used, out);
}

enum err response_header_read(const struct api_desc *api, int16_t version, const void *ptr,
                              size_t size, int32_t *correlation_id, size_t *used)
{
    *used = 4;
    if (size < *used)
        return ERR_MALFORMED;
    *correlation_id = (int32_t)load_be32(ptr);
    if (api_response_header_version(api, version) >= 1) {
        size_t n = skip_tags((const uint8_t *)ptr + *used, size - *used);
        if (n == 0)
            return ERR_MALFORMED;
        *used += n;
    }
    return ERR_NONE;
}
