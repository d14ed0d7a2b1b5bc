/* broker/handlers/metadata.c -- Metadata, DescribeTopicPartitions, DescribeCluster, DescribeQuorum.
 *
 * All are answered from one image, so that what they say fits together. Addresses are those of
 * the listener the client came in on [H38].
 */
#include <stdlib.h>

#include "broker/handlers/admin.h"
#include "broker/handlers/handlers.h"
#include "broker/handlers/target.h"
#include "broker/node.h"
#include "raft-meta/fsm.h"

#define AUTO_CREATE_TIMEOUT_MS 5000
#define METADATA_TOPIC         "__cluster_metadata"

/* Without an authorizer everything is allowed; Kafka then answers every operation of the resource
 * as a bit set of AclOperation numbers, and only when asked. */
#define TOPIC_OPERATIONS 0x0DF8 /* READ WRITE CREATE DELETE ALTER DESCRIBE, *_CONFIGS */
#define CLUSTER_OPERATIONS                                                                         \
    0x1FA0 /* CREATE ALTER DESCRIBE CLUSTER_ACTION *_CONFIGS IDEMPOTENT_WRITE */
#define OPERATIONS_OMITTED INT32_MIN

/* ---- brokers ---- */

static bool shown(const struct broker_image *b, const char *listener, bool fenced_too)
{
    return (fenced_too || !b->fenced) && node_endpoint(b, listener) != NULL;
}

static int32_t shown_count(const struct image *i, const char *listener, bool fenced_too)
{
    int32_t n = 0;

    for (const struct broker_image *b = image_broker_next(i, -1); b != NULL;
         b = image_broker_next(i, b->id))
        n += shown(b, listener, fenced_too);
    return n;
}

/* [H36]: a live broker: the one whose raft member leads, when clients can reach it. */
static int32_t controller_of(struct request *r, const struct image *i)
{
    const char *listener = request_listener(r)->name;
    struct quorum_view quorum;
    const struct broker_image *b;

    raft_node_quorum(r->home->raft, &quorum);
    b = image_broker(i, quorum.leader_id);
    if (b != NULL && shown(b, listener, false))
        return b->id;
    for (b = image_broker_next(i, -1); b != NULL; b = image_broker_next(i, b->id))
        if (shown(b, listener, false))
            return b->id;
    return -1;
}

/* Texts of an image live as long as it; the answer is encoded at once, but a handler that waits
 * gets another image: copy. */
static struct str keep(struct request *r, struct str s)
{
    struct str out = STR_NULL;

    if (!str_is_null(s) && !arena_str(&r->arena, s, &out))
        return STR_EMPTY;
    return out;
}

/* ---- partitions ---- */

static enum err leader_error(const struct image *i, const struct partition_image *p,
                             const char *listener, int16_t version, int32_t *leader)
{
    const struct broker_image *b = p->leader >= 0 ? image_broker(i, p->leader) : NULL;

    *leader = -1;
    if (b == NULL || b->fenced)
        return ERR_LEADER_NOT_AVAILABLE;
    if (node_endpoint(b, listener) == NULL)
        return version >= 6 ? ERR_LISTENER_NOT_FOUND : ERR_LEADER_NOT_AVAILABLE;
    *leader = p->leader;
    return ERR_NONE;
}

static bool copy_ids(struct request *r, struct int32_array *out, const int32_t *ids, int32_t n)
{
    if (!CODEC_ARRAY_PLAIN(&r->arena, *out, n))
        return false;
    for (int32_t i = 0; i < n; i++)
        out->v[i] = ids[i];
    return true;
}

static bool is_offline(const struct image *i, const struct partition_image *p, int32_t replica)
{
    const struct broker_image *b = image_broker(i, replica);

    if (b == NULL || b->fenced)
        return true;
    for (int32_t k = 0; k < p->offline_count; k++)
        if (p->offline[k] == replica)
            return true;
    return false;
}

static bool copy_offline(struct request *r, struct int32_array *out, const struct image *i,
                         const struct partition_image *p)
{
    int32_t n = 0;

    if (!CODEC_ARRAY_PLAIN(&r->arena, *out, p->replica_count))
        return false;
    for (int32_t k = 0; k < p->replica_count; k++)
        if (is_offline(i, p, p->replicas[k]))
            out->v[n++] = p->replicas[k];
    out->n = n;
    return true;
}

/* ---- Metadata ---- */

static bool fill_partition(struct request *r, const struct image *i,
                           const struct partition_image *p, int32_t index,
                           struct metadata_response_metadata_response_partition *out)
{
    out->partition_index = index;
    out->error_code =
        err_to_wire(leader_error(i, p, request_listener(r)->name, r->version, &out->leader_id));
    out->leader_epoch = p->leader_epoch;
    return copy_ids(r, &out->replica_nodes, p->replicas, p->replica_count) &&
           copy_ids(r, &out->isr_nodes, p->isr, p->isr_count) &&
           copy_offline(r, &out->offline_replicas, i, p);
}

static bool fill_topic(struct request *r, const struct image *i, const struct topic_image *t,
                       struct metadata_response_metadata_response_topic *out)
{
    const struct metadata_request *in = r->body;

    out->name = keep(r, t->name);
    out->topic_id = t->id;
    out->is_internal = target_is_internal(t->name);
    if (in->include_topic_authorized_operations)
        out->topic_authorized_operations = TOPIC_OPERATIONS;
    if (!CODEC_ARRAY(&r->arena, out->partitions, t->partition_count,
                     metadata_response_metadata_response_partition))
        return false;
    for (int32_t p = 0; p < t->partition_count; p++)
        if (!fill_partition(r, i, topic_partition(t, p), p, &out->partitions.v[p]))
            return false;
    return true;
}

static bool wants_all(const struct request *r)
{
    const struct metadata_request *in = r->body;

    return in->topics.n < 0 || (r->version == 0 && in->topics.n == 0);
}

static bool topic_name_ok(struct str name)
{
    struct errmsg ignored;

    return !topic_name_is_bad(name, &ignored);
}

/* One topic that the client named. */
static bool fill_named(struct request *r, const struct image *i,
                       const struct metadata_request_metadata_request_topic *in,
                       struct metadata_response_metadata_response_topic *out)
{
    bool by_id = str_is_null(in->name);
    const struct topic_image *t =
        by_id ? image_topic_by_id(i, &in->topic_id) : image_topic(i, in->name);

    if (t != NULL)
        return fill_topic(r, i, t, out);
    out->name = in->name;
    out->topic_id = in->topic_id;
    if (by_id)
        out->error_code = err_to_wire(ERR_UNKNOWN_TOPIC_ID);
    else
        out->error_code = err_to_wire(topic_name_ok(in->name) ? ERR_UNKNOWN_TOPIC_OR_PARTITION
                                                              : ERR_INVALID_TOPIC_EXCEPTION);
    return true;
}

static bool fill_all(struct request *r, const struct image *i, struct metadata_response *out)
{
    struct str after = STR_NULL;
    const struct topic_image *t;
    int32_t n = 0;

    if (!CODEC_ARRAY(&r->arena, out->topics, image_topic_count(i),
                     metadata_response_metadata_response_topic))
        return false;
    while ((t = image_topic_next(i, after)) != NULL && n < out->topics.n) {
        if (!fill_topic(r, i, t, &out->topics.v[n++]))
            return false;
        after = t->name;
    }
    return true;
}

static int compare_requested(const void *a, const void *b)
{
    const struct metadata_request_metadata_request_topic *x = a, *y = b;
    int c = str_cmp(x->name, y->name);

    return c != 0 ? c : uuid_cmp(&x->topic_id, &y->topic_id);
}

/* A topic named twice is answered once. */
static int32_t sort_out_duplicates(struct metadata_request *in)
{
    int32_t n = 0;

    if (in->topics.n <= 0)
        return in->topics.n;
    qsort(in->topics.v, (size_t)in->topics.n, sizeof *in->topics.v, compare_requested);
    for (int32_t k = 0; k < in->topics.n; k++)
        if (n == 0 || compare_requested(&in->topics.v[n - 1], &in->topics.v[k]) != 0)
            in->topics.v[n++] = in->topics.v[k];
    return n;
}

static bool fill_metadata(struct request *r)
{
    const struct metadata_request *in = r->body;
    struct metadata_response *out = r->response;
    const struct image *i = request_image(r);
    const char *listener = request_listener(r)->name;
    int32_t n = 0;

    out->cluster_id = keep(r, image_cluster_id(i));
    out->controller_id = controller_of(r, i);
    if (in->include_cluster_authorized_operations)
        out->cluster_authorized_operations = CLUSTER_OPERATIONS;
    if (!CODEC_ARRAY(&r->arena, out->brokers, shown_count(i, listener, false),
                     metadata_response_metadata_response_broker))
        return false;
    for (const struct broker_image *b = image_broker_next(i, -1); b != NULL;
         b = image_broker_next(i, b->id)) {
        const struct endpoint_image *e = node_endpoint(b, listener);

        if (!shown(b, listener, false))
            continue;
        out->brokers.v[n].node_id = b->id;
        out->brokers.v[n].host = keep(r, e->host);
        out->brokers.v[n].port = e->port;
        out->brokers.v[n++].rack = keep(r, b->rack);
    }
    if (wants_all(r))
        return fill_all(r, i, out);
    if (!CODEC_ARRAY(&r->arena, out->topics, in->topics.n,
                     metadata_response_metadata_response_topic))
        return false;
    for (int32_t k = 0; k < in->topics.n; k++)
        if (!fill_named(r, i, &in->topics.v[k], &out->topics.v[k]))
            return false;
    return true;
}

/* Topic ids came with v10, lookup by them with v12: in between a client that names none, or an id,
 * asks for what Kafka refuses as a whole. */
static bool asks_too_early(const struct request *r)
{
    const struct metadata_request *in = r->body;

    for (int32_t k = 0; r->version < 12 && k < in->topics.n; k++)
        if (str_is_null(in->topics.v[k].name) || !uuid_is_zero(&in->topics.v[k].topic_id))
            return true;
    return false;
}

static void refuse_metadata(struct request *r)
{
    const struct metadata_request *in = r->body;
    struct metadata_response *out = r->response;

    REQUEST_ARRAY(r, out->topics, in->topics.n, metadata_response_metadata_response_topic);
    for (int32_t k = 0; k < in->topics.n; k++) {
        out->topics.v[k].error_code = err_to_wire(ERR_INVALID_REQUEST);
        if (!str_is_null(in->topics.v[k].name))
            out->topics.v[k].name = in->topics.v[k].name;
    }
    request_send(r);
}

static void send_metadata(struct request *r)
{
    if (!fill_metadata(r)) {
        request_overflow(r);
        return;
    }
    request_send(r);
}

/* ---- auto-creation: the answer waits for the topic, so that the client need not ask again ---- */

static void on_followed(struct message *m)
{
    send_metadata(CONTAINER_OF(m, struct request, message));
}

static void on_auto_created(struct request *r)
{
    r->message.run = on_followed;
    node_after_transitions(r->home, r->worker->loop, &r->message);
}

static bool may_create(const struct image *i,
                       const struct metadata_request_metadata_request_topic *t)
{
    return !str_is_null(t->name) && topic_name_ok(t->name) && image_topic(i, t->name) == NULL &&
           !target_is_internal(t->name) && !str_eq_lit(t->name, METADATA_TOPIC);
}

/* NULL: nothing to create, or no memory for it. */
static MetaCommand *auto_create_command(struct request *r)
{
    const struct metadata_request *in = r->body;
    const struct image *i = request_image(r);
    MetaCommand *command = arena_alloc(&r->arena, sizeof *command);
    MetaCreateTopics *create = arena_alloc(&r->arena, sizeof *create);

    if (command == NULL || create == NULL)
        return NULL;
    meta_command__init(command);
    meta_create_topics__init(create);
    create->default_num_partitions = r->home->config->num_partitions;
    create->default_replication_factor = r->home->config->default_replication_factor;
    create->topics = arena_array(&r->arena, (size_t)in->topics.n + 1, sizeof *create->topics);
    for (int32_t k = 0; k < in->topics.n && create->topics != NULL; k++) {
        if (!may_create(i, &in->topics.v[k]))
            continue;
        create->topics[create->n_topics] = admin_create_topic(r, in->topics.v[k].name);
        if (create->topics[create->n_topics] != NULL)
            create->n_topics++;
    }
    command->body_case = META_COMMAND__BODY_CREATE_TOPICS;
    command->create_topics = create;
    return create->n_topics > 0 ? command : NULL;
}

void handle_metadata(struct request *r)
{
    struct metadata_request *in = r->body;
    MetaCommand *command = NULL;

    request_response(r);
    if (asks_too_early(r)) {
        refuse_metadata(r);
        return;
    }
    in->topics.n = sort_out_duplicates(in);
    /* Before v4 the flag does not exist and means yes. */
    if (in->topics.n > 0 && in->allow_auto_topic_creation && r->home->config->auto_create_topics)
        command = auto_create_command(r);
    if (command != NULL)
        request_propose(r, command, AUTO_CREATE_TIMEOUT_MS, on_auto_created);
    else
        send_metadata(r);
}

/* ---- DescribeTopicPartitions (KIP-966): pages of topics sorted by name ---- */

static bool describe_partition(
    struct request *r, const struct image *i, const struct partition_image *p, int32_t index,
    struct describe_topic_partitions_response_describe_topic_partitions_response_partition *out)
{
    out->partition_index = index;
    out->error_code =
        err_to_wire(leader_error(i, p, request_listener(r)->name, INT16_MAX, &out->leader_id));
    out->leader_epoch = p->leader_epoch;
    return copy_ids(r, &out->replica_nodes, p->replicas, p->replica_count) &&
           copy_ids(r, &out->isr_nodes, p->isr, p->isr_count) &&
           copy_ids(r, &out->eligible_leader_replicas, p->elr, p->elr_count) &&
           copy_ids(r, &out->last_known_elr, p->last_known_elr, p->last_known_elr_count) &&
           copy_offline(r, &out->offline_replicas, i, p);
}

/* From partition `first` on, at most *room; sets the cursor where it had to stop. */
static bool describe_topic(
    struct request *r, const struct image *i, const struct topic_image *t, int32_t first,
    int32_t *room,
    struct describe_topic_partitions_response_describe_topic_partitions_response_topic *out)
{
    struct describe_topic_partitions_response *response = r->response;
    int32_t n = MIN(MAX(t->partition_count - first, 0), *room);

    out->name = t->name;
    out->topic_id = t->id;
    out->is_internal = target_is_internal(t->name);
    out->topic_authorized_operations = TOPIC_OPERATIONS;
    if (!CODEC_ARRAY(
            &r->arena, out->partitions, n,
            describe_topic_partitions_response_describe_topic_partitions_response_partition))
        return false;
    for (int32_t k = 0; k < n; k++)
        if (!describe_partition(r, i, topic_partition(t, first + k), first + k,
                                &out->partitions.v[k]))
            return false;
    *room -= n;
    if (first + n < t->partition_count) {
        response->next_cursor = arena_alloc(&r->arena, sizeof *response->next_cursor);
        if (response->next_cursor == NULL)
            return false;
        codec_init(&describe_topic_partitions_response_cursor_desc, response->next_cursor);
        response->next_cursor->topic_name = t->name;
        response->next_cursor->partition_index = first + n;
    }
    return true;
}

/* The names to describe, sorted, each once: those asked for, or all, from the cursor on. */
static bool names_to_describe(struct request *r, const struct image *i, struct str **names,
                              int32_t *count)
{
    const struct describe_topic_partitions_request *in = r->body;
    bool all = in->topics.n == 0;
    int32_t max = all ? image_topic_count(i) : in->topics.n, n = 0, kept = 0;
    struct str from = in->cursor != NULL ? in->cursor->topic_name : STR_EMPTY;
    struct str *v = arena_array(&r->arena, (size_t)max + 1, sizeof *v), after = STR_NULL;
    const struct topic_image *t;

    if (v == NULL)
        return false;
    if (all) {
        while ((t = image_topic_next(i, after)) != NULL && n < max)
            after = v[n++] = t->name;
    } else {
        for (; n < max; n++)
            v[n] = in->topics.v[n].name;
        if (!admin_sorted_names(r, v, n, &v))
            return false;
    }
    for (int32_t k = 0; k < n; k++)
        if (str_cmp(v[k], from) >= 0 && (kept == 0 || !str_eq(v[kept - 1], v[k])))
            v[kept++] = v[k];
    *names = v;
    *count = kept;
    return true;
}

void handle_describe_topic_partitions(struct request *r)
{
    const struct describe_topic_partitions_request *in = r->body;
    struct describe_topic_partitions_response *out = request_response(r);
    const struct image *i = request_image(r);
    int32_t room =
        MIN(in->response_partition_limit, r->home->config->max_request_partition_size_limit);
    int32_t count = 0, n = 0;
    struct str *names = NULL;

    if (!names_to_describe(r, i, &names, &count)) {
        request_overflow(r);
        return;
    }
    room = MAX(room, 1);
    REQUEST_ARRAY(r, out->topics, count,
                  describe_topic_partitions_response_describe_topic_partitions_response_topic);
    for (; n < count && room > 0 && out->next_cursor == NULL; n++) {
        const struct topic_image *t = image_topic(i, names[n]);
        bool resumed = in->cursor != NULL && str_eq(names[n], in->cursor->topic_name);

        if (t == NULL) {
            out->topics.v[n].name = names[n];
            out->topics.v[n].error_code =
                err_to_wire(topic_name_ok(names[n]) ? ERR_UNKNOWN_TOPIC_OR_PARTITION
                                                    : ERR_INVALID_TOPIC_EXCEPTION);
        } else if (!describe_topic(r, i, t, resumed ? MAX(in->cursor->partition_index, 0) : 0,
                                   &room, &out->topics.v[n])) {
            request_overflow(r);
            return;
        }
    }
    if (n < count && out->next_cursor == NULL) { /* the page ended exactly behind a topic */
        out->next_cursor = arena_alloc(&r->arena, sizeof *out->next_cursor);
        if (out->next_cursor == NULL) {
            request_overflow(r);
            return;
        }
        codec_init(&describe_topic_partitions_response_cursor_desc, out->next_cursor);
        out->next_cursor->topic_name = names[n];
    }
    out->topics.n = n;
    request_send(r);
}

/* ---- DescribeCluster ---- */

#define ENDPOINT_BROKERS     1
#define ENDPOINT_CONTROLLERS 2

void handle_describe_cluster(struct request *r)
{
    const struct describe_cluster_request *in = r->body;
    struct describe_cluster_response *out = request_response(r);
    const struct image *i = request_image(r);
    const char *listener = request_listener(r)->name;
    int32_t n = 0;

    out->endpoint_type = ENDPOINT_BROKERS;
    if (in->endpoint_type != ENDPOINT_BROKERS) {
        out->error_code =
            err_to_wire(in->endpoint_type == ENDPOINT_CONTROLLERS ? ERR_MISMATCHED_ENDPOINT_TYPE
                                                                  : ERR_UNSUPPORTED_ENDPOINT_TYPE);
        out->error_message = request_text(
            r,
            in->endpoint_type == ENDPOINT_CONTROLLERS
                ? "The request was sent to an endpoint of type BROKER, but we wanted an endpoint "
                  "of type CONTROLLER"
                : "Unsupported endpoint type %d",
            (int)in->endpoint_type);
        request_send(r);
        return;
    }
    out->cluster_id = image_cluster_id(i);
    out->controller_id = controller_of(r, i);
    if (in->include_cluster_authorized_operations)
        out->cluster_authorized_operations = CLUSTER_OPERATIONS;
    REQUEST_ARRAY(r, out->brokers, shown_count(i, listener, in->include_fenced_brokers),
                  describe_cluster_response_describe_cluster_broker);
    for (const struct broker_image *b = image_broker_next(i, -1); b != NULL;
         b = image_broker_next(i, b->id)) {
        const struct endpoint_image *e = node_endpoint(b, listener);

        if (!shown(b, listener, in->include_fenced_brokers))
            continue;
        out->brokers.v[n].broker_id = b->id;
        out->brokers.v[n].host = e->host;
        out->brokers.v[n].port = e->port;
        out->brokers.v[n].rack = b->rack;
        out->brokers.v[n++].is_fenced = b->fenced;
    }
    request_send(r);
}

/* ---- DescribeQuorum: our raft group under the name of Kafka's metadata partition ---- */

static bool asks_for_metadata(const struct describe_quorum_request *in)
{
    return in->topics.n == 1 && str_eq_lit(in->topics.v[0].topic_name, METADATA_TOPIC) &&
           in->topics.v[0].partitions.n == 1 &&
           in->topics.v[0].partitions.v[0].partition_index == 0;
}

/* The leader has its own log: it counts as fetched and caught up now, as in Kafka. */
static void fill_replica(const struct request *r, int32_t leader_id,
                         struct describe_quorum_response_replica_state *out,
                         const struct quorum_voter_view *v)
{
    bool leads = v->node_id == leader_id;

    out->replica_id = v->node_id;
    out->replica_directory_id = v->directory_id;
    out->log_end_offset = v->log_end_offset;
    out->last_fetch_timestamp = leads ? request_unix_ms(r) : v->last_fetch_ms;
    out->last_caught_up_timestamp = leads ? request_unix_ms(r) : v->last_caught_up_ms;
}

/* KIP-853: where the voters' controller listeners are. */
static void send_with_nodes(struct request *r)
{
    struct describe_quorum_response *out = r->response;
    const struct config *c = r->home->config;

    REQUEST_ARRAY(r, out->nodes, c->voter_count, describe_quorum_response_node);
    for (int32_t k = 0; k < c->voter_count; k++) {
        struct describe_quorum_response_node *node = &out->nodes.v[k];

        node->node_id = c->voters[k].node_id;
        REQUEST_ARRAY(r, node->listeners, 1, describe_quorum_response_listener);
        node->listeners.v[0].name = STR_LIT("CONTROLLER");
        for (int l = 0; l < c->listener_count; l++)
            if (c->listeners[l].controller)
                node->listeners.v[0].name = str_from(c->listeners[l].name);
        node->listeners.v[0].host = str_from(c->voters[k].host);
        node->listeners.v[0].port = (uint16_t)c->voters[k].port;
    }
    request_send(r);
}

void handle_describe_quorum(struct request *r)
{
    const struct describe_quorum_request *in = r->body;
    struct describe_quorum_response *out = request_response(r);
    struct describe_quorum_response_partition_data *p;
    struct quorum_view q;

    raft_node_quorum(r->home->raft, &q);
    REQUEST_ARRAY(r, out->topics, 1, describe_quorum_response_topic_data);
    out->topics.v[0].topic_name = STR_LIT(METADATA_TOPIC);
    REQUEST_ARRAY(r, out->topics.v[0].partitions, 1, describe_quorum_response_partition_data);
    p = &out->topics.v[0].partitions.v[0];
    if (!asks_for_metadata(in)) {
        p->error_code = err_to_wire(ERR_UNKNOWN_TOPIC_OR_PARTITION);
        request_send(r);
        return;
    }
    p->leader_id = q.leader_id;
    p->leader_epoch = q.leader_epoch;
    p->high_watermark = q.high_watermark;
    REQUEST_ARRAY(r, p->current_voters, q.voter_count, describe_quorum_response_replica_state);
    for (int k = 0; k < q.voter_count; k++)
        fill_replica(r, q.leader_id, &p->current_voters.v[k], &q.voters[k]);
    REQUEST_ARRAY(r, p->observers, q.observer_count, describe_quorum_response_replica_state);
    for (int k = 0; k < q.observer_count; k++)
        fill_replica(r, q.leader_id, &p->observers.v[k], &q.observers[k]);
    send_with_nodes(r);
}
