#include "protocol/fetch_tags.h"

#include <string.h>

#define TAG_TOKEN       28001
#define TAG_DURABLE_END 28002

static bool add_tag(struct arena *a, struct unknown_tags **tags, uint32_t tag, const void *value,
                    size_t size)
{
    struct unknown_tags *t = arena_alloc(a, sizeof *t + size);

    if (t == NULL)
        return false;
    memcpy(t + 1, value, size);
    *t = (struct unknown_tags){
        .tag = tag, .value = {(const uint8_t *)(t + 1), (int32_t)size}, .next = *tags};
    CHECK(t->next == NULL);
    *tags = t;
    return true;
}

static const uint8_t *find_tag(const struct unknown_tags *tags, uint32_t tag, int32_t size)
{
    for (; tags != NULL && tags->tag <= tag; tags = tags->next)
        if (tags->tag == tag)
            return tags->value.len == size ? tags->value.ptr : NULL;
    return NULL;
}

bool fetch_tags_set_token(struct arena *a, struct fetch_request *q, const struct uuid *token)
{
    return add_tag(a, &q->unknown_tags, TAG_TOKEN, token->b, sizeof token->b);
}

bool fetch_tags_set_durable_end(struct arena *a, struct fetch_request_fetch_partition *p,
                                int64_t durable_end_offset)
{
    uint8_t value[8];

    store_be64(value, (uint64_t)durable_end_offset);
    return add_tag(a, &p->unknown_tags, TAG_DURABLE_END, value, sizeof value);
}

bool fetch_tags_token(const struct fetch_request *q, struct uuid *out)
{
    const uint8_t *p = find_tag(q->unknown_tags, TAG_TOKEN, (int32_t)sizeof out->b);

    if (p != NULL)
        memcpy(out->b, p, sizeof out->b);
    return p != NULL;
}

int64_t fetch_tags_durable_end(const struct fetch_request_fetch_partition *p)
{
    const uint8_t *v = find_tag(p->unknown_tags, TAG_DURABLE_END, 8);
    int64_t end = v != NULL ? (int64_t)load_be64(v) : -1;

    return end >= 0 ? end : -1;
}
