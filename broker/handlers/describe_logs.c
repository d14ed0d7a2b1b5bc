/* broker/handlers/describe_logs.c -- DescribeLogDirs and DescribeProducers: what the logs of this
 * node hold.
 */
#include <stdlib.h>

#include "broker/handlers/handlers.h"
#include "broker/handlers/target.h"
#include "broker/node.h"
#include "raft-meta/fsm.h"

/* ---- DescribeLogDirs ---- */

/* The node's logs by topic and partition, each with a reference. */
struct log_list {
    struct log **logs;
    size_t count, capacity;
    struct target_set *wanted; /* NULL: all */
};

static void take_log(void *ctx, struct log *l)
{
    struct log_list *list = ctx;
    const struct log_identity *id = log_identity(l);
    const struct uuid none = {{0}};

    if (list->wanted != NULL &&
        !target_set_has(list->wanted, str_from(id->topic), &none, id->partition))
        return;
    if (list->count == list->capacity) {
        list->capacity = MAX(list->capacity * 2, (size_t)64);
        list->logs = xrealloc(list->logs, list->capacity * sizeof *list->logs);
    }
    list->logs[list->count++] = log_ref(l);
}

static void release_list(void *p)
{
    struct log_list *list = p;

    for (size_t i = 0; i < list->count; i++)
        log_unref(list->logs[i]);
    free(list->logs);
}

/* False without memory. */
static bool read_filter(struct request *r, struct log_list *list)
{
    const struct describe_log_dirs_request *in = r->body;
    const struct uuid none = {{0}};
    int64_t count = 0;

    if (in->topics.n < 0)
        return true; /* null: all */
    for (int32_t t = 0; t < in->topics.n; t++)
        count += in->topics.v[t].partitions.n;
    list->wanted = target_set_new(r, (int32_t)count);
    if (list->wanted == NULL)
        return false;
    for (int32_t t = 0; t < in->topics.n; t++)
        for (int32_t p = 0; p < in->topics.v[t].partitions.n; p++)
            (void)target_set_repeats(list->wanted, in->topics.v[t].topic, &none,
                                     in->topics.v[t].partitions.v[p]);
    return true;
}

static bool in_dir(const struct log *l, int dir)
{
    return log_directory_index(log_directory(l)) == dir;
}

static bool same_topic(const struct log *a, const struct log *b)
{
    return strcmp(log_identity(a)->topic, log_identity(b)->topic) == 0;
}

static void fill_partition(struct request *r, struct log *l,
                           struct describe_log_dirs_response_describe_log_dirs_partition *out)
{
    out->partition_index = log_identity(l)->partition;
    out->partition_size = log_size_bytes(l);
    /* How far the log is behind what is committed; -1: it cannot be used. */
    out->offset_lag =
        log_offline_reason(l) != NULL
            ? -1
            : MAX(replica_manager_high_watermark(r->home->replicas, l) - log_end_offset(l),
                  (int64_t)0);
    out->is_future_key = false;
}

/* The topics of one directory. `list` is sorted, so that a topic's partitions stand together. */
static bool fill_topics(struct request *r, const struct log_list *list, int dir,
                        struct describe_log_dirs_response_describe_log_dirs_result *out)
{
    const struct log *last = NULL;
    int32_t topics = 0;

    for (size_t i = 0; i < list->count; i++) {
        if (!in_dir(list->logs[i], dir))
            continue;
        topics += last == NULL || !same_topic(list->logs[i], last);
        last = list->logs[i];
    }
    if (!CODEC_ARRAY(&r->arena, out->topics, topics,
                     describe_log_dirs_response_describe_log_dirs_topic))
        return false;
    for (size_t i = 0, t = 0; i < list->count; t++) {
        struct log *first = list->logs[i];
        size_t end = i;
        int32_t partitions = 0;

        for (; end < list->count && same_topic(list->logs[end], first); end++)
            partitions += in_dir(list->logs[end], dir);
        if (partitions == 0) {
            i = end;
            t--;
            continue;
        }

        struct describe_log_dirs_response_describe_log_dirs_topic *topic = &out->topics.v[t];

        topic->name = str_from(log_identity(first)->topic);
        if (!CODEC_ARRAY(&r->arena, topic->partitions, partitions,
                         describe_log_dirs_response_describe_log_dirs_partition))
            return false;
        for (int32_t p = 0; i < end; i++)
            if (in_dir(list->logs[i], dir))
                fill_partition(r, list->logs[i], &topic->partitions.v[p++]);
    }
    return true;
}

static int64_t shown_bytes(uint64_t bytes)
{
    return bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes;
}

void handle_describe_log_dirs(struct request *r)
{
    struct describe_log_dirs_response *out = request_response(r);
    struct log_manager *logs = r->home->logs;
    struct log_list *list = arena_alloc(&r->arena, sizeof *list);

    /* Authorization, once it exists: DESCRIBE on the cluster. */
    if (list == NULL || !read_filter(r, list)) {
        request_overflow(r);
        return;
    }
    arena_hold(&r->arena, list, release_list);
    log_manager_each(logs, take_log, list);
    REQUEST_ARRAY(r, out->results, log_manager_dir_count(logs),
                  describe_log_dirs_response_describe_log_dirs_result);
    for (int32_t i = 0; i < out->results.n; i++) {
        struct describe_log_dirs_response_describe_log_dirs_result *dir = &out->results.v[i];
        struct log_dir_view view;

        log_manager_dir_view(logs, i, &view);
        dir->log_dir = str_from(view.path);
        if (view.offline_reason != NULL) {
            dir->error_code = err_to_wire(ERR_KAFKA_STORAGE_ERROR);
            continue;
        }
        if (r->version >= 4) {
            dir->total_bytes = shown_bytes(view.space.total_bytes);
            dir->usable_bytes = shown_bytes(view.space.free_bytes);
        }
        if (!fill_topics(r, list, i, dir)) {
            request_overflow(r);
            return;
        }
    }
    request_send(r);
}

/* ---- DescribeProducers ---- */

static void fill_producers(struct request *r, struct replica *replica,
                           struct describe_producers_response_partition_response *out)
{
    struct producer_view *views = NULL;
    size_t count = log_producers(replica_log(replica), &views);

    if (!CODEC_ARRAY(&r->arena, out->active_producers, (int64_t)count,
                     describe_producers_response_producer_state))
        out->error_code = err_to_wire(ERR_UNKNOWN_SERVER_ERROR);
    for (int32_t i = 0; i < out->active_producers.n; i++)
        out->active_producers.v[i] = (struct describe_producers_response_producer_state){
            .producer_id = views[i].producer_id,
            .producer_epoch = views[i].producer_epoch,
            .last_sequence = views[i].last_sequence,
            .last_timestamp = views[i].last_timestamp_ms,
            .coordinator_epoch = views[i].coordinator_epoch,
            .current_txn_start_offset = views[i].current_txn_start_offset,
        };
    free(views);
}

static void describe_partition(struct request *r, struct str topic,
                               struct describe_producers_response_partition_response *out)
{
    struct replica *replica = NULL;
    struct errmsg why = {""};
    int64_t end = 0;
    int32_t epoch = 0;

    if (topic_name_is_bad(topic, &why)) {
        out->error_code = err_to_wire(ERR_INVALID_TOPIC_EXCEPTION);
        out->error_message = request_text(r, "%s", why.text);
        return;
    }

    /* Authorization, once it exists: READ on the topic. */
    enum err e = target_named_replica(r, topic, out->partition_index, &replica);

    if (e == ERR_NONE)
        e = replica_end_offset(replica, -1, REPLICA_END_LOG, false, &end, &epoch);
    if (e == ERR_NONE)
        fill_producers(r, replica, out);
    else
        out->error_code = err_to_wire(e);
    if (target_topic(r, topic, NULL) == NULL)
        out->error_message = STR_LIT("This server does not host this topic-partition.");
    replica_unref(replica);
}

void handle_describe_producers(struct request *r)
{
    const struct describe_producers_request *in = r->body;
    struct describe_producers_response *out = request_response(r);

    REQUEST_ARRAY(r, out->topics, in->topics.n, describe_producers_response_topic_response);
    for (int32_t t = 0; t < in->topics.n; t++) {
        struct describe_producers_response_topic_response *topic = &out->topics.v[t];

        topic->name = in->topics.v[t].name;
        REQUEST_ARRAY(r, topic->partitions, in->topics.v[t].partition_indexes.n,
                      describe_producers_response_partition_response);
        for (int32_t p = 0; p < topic->partitions.n; p++) {
            topic->partitions.v[p].partition_index = in->topics.v[t].partition_indexes.v[p];
            describe_partition(r, topic->name, &topic->partitions.v[p]);
        }
    }
    request_send(r);
}
