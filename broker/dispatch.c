#include "broker/dispatch.h"

#include <stdlib.h>

#include "broker/conn.h"
#include "broker/handlers/handlers.h"
#include "broker/node.h"
#include "protocol/frame.h"

/* One request's memory beyond its frame: decoded arrays and the answer. */
#define REQUEST_ARENA_BYTES_MAX (64u * 1024 * 1024)

/* What works here, by API key. */
static handler_fn *const handlers[] = {
    [API_PRODUCE] = handle_produce,
    [API_FETCH] = handle_fetch,
    [API_LIST_OFFSETS] = handle_list_offsets,
    [API_METADATA] = handle_metadata,
    [API_FIND_COORDINATOR] = handle_find_coordinator,
    [API_API_VERSIONS] = handle_api_versions,
    [API_CREATE_TOPICS] = handle_create_topics,
    [API_DELETE_TOPICS] = handle_delete_topics,
    [API_DELETE_RECORDS] = handle_delete_records,
    [API_INIT_PRODUCER_ID] = handle_init_producer_id,
    [API_OFFSET_FOR_LEADER_EPOCH] = handle_offset_for_leader_epoch,
    [API_DESCRIBE_CONFIGS] = handle_describe_configs,
    [API_ALTER_CONFIGS] = handle_alter_configs,
    [API_DESCRIBE_LOG_DIRS] = handle_describe_log_dirs,
    [API_CREATE_PARTITIONS] = handle_create_partitions,
    [API_INCREMENTAL_ALTER_CONFIGS] = handle_incremental_alter_configs,
    [API_DESCRIBE_QUORUM] = handle_describe_quorum,
    [API_UPDATE_FEATURES] = handle_update_features,
    [API_DESCRIBE_CLUSTER] = handle_describe_cluster,
    [API_DESCRIBE_PRODUCERS] = handle_describe_producers,
    [API_LIST_CONFIG_RESOURCES] = handle_list_config_resources,
    [API_DESCRIBE_TOPIC_PARTITIONS] = handle_describe_topic_partitions,
};

static handler_fn *handler_of(const struct api_desc *api)
{
    size_t key = (size_t)api->key;

    return key < ARRAY_COUNT(handlers) ? handlers[key] : NULL;
}

bool dispatch_has(const struct api_desc *api)
{
    return handler_of(api) != NULL;
}

int16_t dispatch_version_min(const struct api_desc *api)
{
    return api->key == API_PRODUCE ? 0 : api->version_min;
}

bool request_is_produce(const struct request *r)
{
    return r->api->key == API_PRODUCE;
}

/* The request's body is version 0 and empty whatever came: only the refusal matters (KIP-511). */
static bool is_unknown_api_versions(const struct frame_header *h)
{
    return h->api != NULL && h->api->key == API_API_VERSIONS &&
           (h->api_version > h->api->version_max || h->api_version < h->api->version_min);
}

static const char *refusal(const struct frame_header *h)
{
    if (h->api == NULL)
        return "an API key that Kafka does not have";
    if (!dispatch_has(h->api))
        return "an API that is not offered here";
    if (h->api_version < h->api->version_min || h->api_version > h->api->version_max_stable)
        return "a version of the API that is not offered here";
    return NULL;
}

struct request *dispatch_parse(struct conn *c, struct worker *w,
                               const struct listener_config *listener, struct iobuf *frame,
                               const char **reason)
{
    struct frame_header h = {0};
    enum err e = request_header_read(frame->ptr, frame->len, &h);

    if (e == ERR_MALFORMED) {
        *reason = "a request header that cannot be decoded";
        goto fail;
    }
    if (!is_unknown_api_versions(&h) && (*reason = refusal(&h)) != NULL)
        goto fail;

    struct request *r = xcalloc(1, sizeof *r);

    r->conn = c;
    r->worker = w;
    r->home = w->node;
    r->api = h.api;
    r->version = h.api_version;
    r->correlation_id = h.correlation_id;
    r->client_id = h.client_id;
    r->frame = frame;
    r->frame_bytes = frame->len;
    r->body_offset = h.used;
    r->listener = listener;
    r->received_ns = env_now_ns(w->node->env);
    arena_init(&r->arena, REQUEST_ARENA_BYTES_MAX);
    ioqueue_init(&r->out);
    loop_timer_init(&r->timer, w->loop, NULL);
    return r;

fail:
    iobuf_unref(frame);
    return NULL;
}

static bool decode(struct request *r, const char **reason)
{
    const struct codec_struct *d = r->api->request;
    size_t used = 0, size = r->frame->len - r->body_offset;

    r->body = arena_alloc(&r->arena, d->size);
    CHECK(r->body != NULL);

    enum err e = codec_decode(d, r->version, r->frame->ptr + r->body_offset, size, &r->arena,
                              r->body, &used);

    if (e == ERR_TOO_LARGE)
        *reason = "a request that needs more memory than one request may have";
    else if (e != ERR_NONE)
        *reason = "a request body that cannot be decoded";
    else if (used != size)
        *reason = "bytes after the end of a request";
    else
        return true;
    return false;
}

void dispatch_start(struct request *r)
{
    const char *reason = NULL;

    r->state = REQUEST_STARTED;
    r->started_ns = env_now_ns(r->home->env);
    if (r->api->key == API_API_VERSIONS && r->version > r->api->version_max) {
        handle_api_versions(r); /* answers in version 0 and looks at no body */
        return;
    }
    if (!decode(r, &reason)) {
        request_reject(r, reason);
        return;
    }
    handler_of(r->api)(r);
}
