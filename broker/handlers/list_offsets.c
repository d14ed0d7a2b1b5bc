/* broker/handlers/list_offsets.c -- ListOffsets, versions 1 to 11; OffsetForLeaderEpoch.
 *
 * Looking for a timestamp reads segments: those partitions are answered on the pool, all of a
 * request in one job [H33].
 */
#include "broker/handlers/handlers.h"
#include "broker/handlers/target.h"
#include "broker/node.h"

/* Timestamps with a meaning of their own, and the first version that may ask so. */
enum special_timestamp {
    TIMESTAMP_LATEST = -1,
    TIMESTAMP_EARLIEST = -2,
    TIMESTAMP_MAX = -3,                     /* KIP-734 */
    TIMESTAMP_EARLIEST_LOCAL = -4,          /* KIP-405 */
    TIMESTAMP_LATEST_TIERED = -5,           /* KIP-1005 */
    TIMESTAMP_EARLIEST_PENDING_UPLOAD = -6, /* KIP-1023 */
};

static int16_t version_of_timestamp(int64_t timestamp)
{
    switch (timestamp) {
    case TIMESTAMP_LATEST:
    case TIMESTAMP_EARLIEST:
        return 1;
    case TIMESTAMP_MAX:
        return 7;
    case TIMESTAMP_EARLIEST_LOCAL:
        return 8;
    case TIMESTAMP_LATEST_TIERED:
        return 9;
    case TIMESTAMP_EARLIEST_PENDING_UPLOAD:
        return 11;
    default:
        return timestamp < 0 ? INT16_MAX : 1;
    }
}

/* One partition whose records must be looked into. */
struct search {
    struct list_offsets_response_list_offsets_partition_response *out;
    struct replica *replica;
    int64_t timestamp;
    int64_t limit;    /* exclusive: the last offset that may be answered */
    enum err no_find; /* what is answered when there is none below the limit */
    enum err err;
    struct timestamp_offset found;
};

struct list_offsets {
    enum replica_end end;
    bool anywhere; /* a debugging consumer also asks followers */
    struct search *searches;
    int32_t search_count;
};

static void answer(const struct request *r,
                   struct list_offsets_response_list_offsets_partition_response *out,
                   int64_t timestamp, int64_t offset, int32_t leader_epoch)
{
    out->timestamp = timestamp;
    out->offset = offset;
    if (r->version >= 4)
        out->leader_epoch = leader_epoch;
}

static void answer_error(const struct request *r,
                         struct list_offsets_response_list_offsets_partition_response *out,
                         enum err e)
{
    if (e == ERR_OFFSET_NOT_AVAILABLE && r->version < 5)
        e = ERR_LEADER_NOT_AVAILABLE; /* older clients retry that one */
    out->error_code = err_to_wire(e);
}

static void release_replica(void *p)
{
    replica_unref(p);
}

/* Everything that can be answered without reading; else it becomes a search. */
static void look(struct request *r, struct list_offsets *s, struct str topic,
                 const struct list_offsets_request_list_offsets_partition *in,
                 struct list_offsets_response_list_offsets_partition_response *out)
{
    struct replica *replica = NULL;
    int64_t end = -1;
    int32_t epoch = -1;

    /* Authorization, once it exists: DESCRIBE on the topic. */
    if (r->version < version_of_timestamp(in->timestamp)) {
        answer_error(r, out, ERR_UNSUPPORTED_VERSION);
        return;
    }

    enum err e = target_named_replica(r, topic, in->partition_index, &replica);

    if (e != ERR_NONE) {
        answer_error(r, out, e);
        return;
    }
    arena_hold(&r->arena, replica, release_replica);
    e = replica_end_offset(replica, in->current_leader_epoch, s->end, s->anywhere, &end, &epoch);

    struct log *log = replica_log(replica);
    int64_t start = log_start_offset(log);

    if (e != ERR_NONE && e != ERR_OFFSET_NOT_AVAILABLE) {
        answer_error(r, out, e);
    } else if (in->timestamp == TIMESTAMP_EARLIEST || in->timestamp == TIMESTAMP_EARLIEST_LOCAL) {
        answer(r, out, -1, start, log_leader_epoch_at(log, start));
    } else if (in->timestamp == TIMESTAMP_LATEST_TIERED ||
               in->timestamp == TIMESTAMP_EARLIEST_PENDING_UPLOAD) {
        answer(r, out, -1, -1, -1); /* there is no tier */
    } else if (in->timestamp != TIMESTAMP_LATEST) {
        s->searches[s->search_count++] = (struct search){
            .out = out,
            .replica = replica,
            .timestamp = in->timestamp,
            .limit = end,
            .no_find = e,
        };
    } else if (e == ERR_NONE) {
        answer(r, out, -1, end, epoch);
    } else {
        answer_error(r, out, e); /* R6: where it ends is not known yet [H18] */
    }
}

/* On the pool. */
static void search_all(struct request *r)
{
    struct list_offsets *s = r->handler_state;

    for (int32_t i = 0; i < s->search_count; i++) {
        struct search *x = &s->searches[i];
        struct log *log = replica_log(x->replica);

        x->found = (struct timestamp_offset){-1, -1, -1};
        x->err = x->timestamp == TIMESTAMP_MAX
                     ? log_max_timestamp(log, x->limit, &x->found)
                     : log_offset_for_timestamp(log, x->timestamp, x->limit, &x->found);
    }
}

static void on_searched(struct request *r)
{
    struct list_offsets *s = r->handler_state;

    for (int32_t i = 0; i < s->search_count; i++) {
        struct search *x = &s->searches[i];

        if (x->err != ERR_NONE)
            answer_error(r, x->out, x->err);
        else if (x->found.offset >= 0)
            answer(r, x->out, x->found.timestamp_ms, x->found.offset, x->found.leader_epoch);
        else
            answer_error(r, x->out, x->no_find); /* or -1, -1 without an error: there is none */
    }
    request_send(r);
}

static int64_t count_partitions(const struct list_offsets_request *in)
{
    int64_t count = 0;

    for (int32_t t = 0; t < in->topics.n; t++)
        count += in->topics.v[t].partitions.n;
    return count;
}

static struct list_offsets *new_state(struct request *r, int64_t count)
{
    const struct list_offsets_request *in = r->body;
    struct list_offsets *s = arena_alloc(&r->arena, sizeof *s);

    if (s == NULL)
        return NULL;
    s->searches = arena_array(&r->arena, (size_t)count + 1, sizeof *s->searches);
    if (s->searches == NULL)
        return NULL;
    s->anywhere = in->replica_id == -2;
    /* The isolation level is a consumer's; others see the whole log. */
    if (in->replica_id != -1)
        s->end = REPLICA_END_LOG;
    else
        s->end = in->isolation_level == 1 ? REPLICA_END_LAST_STABLE : REPLICA_END_HIGH_WATERMARK;
    return s;
}

/* A partition that is named twice is refused everywhere: which question is meant is not known. */
static void mark_repetitions(struct request *r, int64_t count)
{
    const struct list_offsets_request *in = r->body;
    struct list_offsets_response *out = r->response;
    const struct uuid none = {{0}};
    struct target_set *once = count > 1 ? target_set_new(r, (int32_t)count) : NULL;
    struct target_set *twice = once != NULL ? target_set_new(r, (int32_t)count) : NULL;

    if (twice == NULL)
        return;
    for (int32_t t = 0; t < in->topics.n; t++)
        for (int32_t p = 0; p < in->topics.v[t].partitions.n; p++)
            if (target_set_repeats(once, in->topics.v[t].name, &none,
                                   in->topics.v[t].partitions.v[p].partition_index))
                (void)target_set_repeats(twice, in->topics.v[t].name, &none,
                                         in->topics.v[t].partitions.v[p].partition_index);
    for (int32_t t = 0; t < in->topics.n; t++)
        for (int32_t p = 0; p < in->topics.v[t].partitions.n; p++)
            if (target_set_has(twice, in->topics.v[t].name, &none,
                               in->topics.v[t].partitions.v[p].partition_index))
                out->topics.v[t].partitions.v[p].error_code = err_to_wire(ERR_INVALID_REQUEST);
}

void handle_list_offsets(struct request *r)
{
    const struct list_offsets_request *in = r->body;
    struct list_offsets_response *out = request_response(r);
    int64_t count = count_partitions(in);
    struct list_offsets *s = new_state(r, count);

    if (s == NULL) {
        request_overflow(r);
        return;
    }
    r->handler_state = s;
    REQUEST_ARRAY(r, out->topics, in->topics.n, list_offsets_response_list_offsets_topic_response);
    for (int32_t t = 0; t < in->topics.n; t++) {
        out->topics.v[t].name = in->topics.v[t].name;
        REQUEST_ARRAY(r, out->topics.v[t].partitions, in->topics.v[t].partitions.n,
                      list_offsets_response_list_offsets_partition_response);
        for (int32_t p = 0; p < in->topics.v[t].partitions.n; p++)
            out->topics.v[t].partitions.v[p].partition_index =
                in->topics.v[t].partitions.v[p].partition_index;
    }
    mark_repetitions(r, count);
    for (int32_t t = 0; t < in->topics.n; t++)
        for (int32_t p = 0; p < in->topics.v[t].partitions.n; p++)
            if (out->topics.v[t].partitions.v[p].error_code == 0)
                look(r, s, in->topics.v[t].name, &in->topics.v[t].partitions.v[p],
                     &out->topics.v[t].partitions.v[p]);
    if (s->search_count > 0)
        request_on_pool(r, search_all, on_searched);
    else
        request_send(r);
}

/* ---- OffsetForLeaderEpoch (KIP-320): where did that epoch end? ---- */

static void look_epoch(struct request *r, struct str topic,
                       const struct offset_for_leader_epoch_request_offset_for_leader_partition *in,
                       struct offset_for_leader_epoch_response_epoch_end_offset *out)
{
    struct replica *replica = NULL;
    enum err e = target_named_replica(r, topic, in->partition, &replica);

    out->partition = in->partition;
    /* Authorization, once it exists: DESCRIBE on the topic, or CLUSTER_ACTION. */
    if (e == ERR_NONE)
        e = replica_epoch_end(replica, in->current_leader_epoch, in->leader_epoch,
                              &out->leader_epoch, &out->end_offset);
    out->error_code = err_to_wire(e);
    replica_unref(replica);
}

void handle_offset_for_leader_epoch(struct request *r)
{
    const struct offset_for_leader_epoch_request *in = r->body;
    struct offset_for_leader_epoch_response *out = request_response(r);

    REQUEST_ARRAY(r, out->topics, in->topics.n,
                  offset_for_leader_epoch_response_offset_for_leader_topic_result);
    for (int32_t t = 0; t < in->topics.n; t++) {
        out->topics.v[t].topic = in->topics.v[t].topic;
        REQUEST_ARRAY(r, out->topics.v[t].partitions, in->topics.v[t].partitions.n,
                      offset_for_leader_epoch_response_epoch_end_offset);
        for (int32_t p = 0; p < in->topics.v[t].partitions.n; p++)
            look_epoch(r, in->topics.v[t].topic, &in->topics.v[t].partitions.v[p],
                       &out->topics.v[t].partitions.v[p]);
    }
    request_send(r);
}
