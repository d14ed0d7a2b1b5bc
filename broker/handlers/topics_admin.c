/* broker/handlers/topics_admin.c -- CreateTopics, DeleteTopics, CreatePartitions.
 *
 * What concerns the request alone (duplicates, contradictions, config values) is answered here;
 * the rest goes to the state machine as one command, whose outcomes come back per topic. An item
 * that is refused here has no place in the command: `slot` remembers which answer an outcome is
 * for.
 */
#include <stdlib.h>

#include "broker/config.h"
#include "broker/handlers/admin.h"
#include "broker/handlers/handlers.h"
#include "broker/node.h"

#define WAIT_FOR_LEADERS_MS 500

/* ---- shared with the other admin handlers (admin.h) ---- */

char *admin_text(struct request *r, struct str s)
{
    char *p = arena_alloc(&r->arena, (size_t)MAX(s.len, 0) + 1);

    if (p == NULL)
        return NULL;
    if (s.len > 0)
        memcpy(p, s.ptr, (size_t)s.len);
    return p;
}

bool admin_has_nul(struct str s)
{
    return s.len > 0 && memchr(s.ptr, 0, (size_t)s.len) != NULL;
}

struct str admin_message(struct request *r, const char *message)
{
    return message == NULL || message[0] == '\0' ? STR_NULL : request_text(r, "%s", message);
}

enum err admin_command_error(const struct request *r)
{
    if (r->proposal.err != ERR_NONE)
        return r->proposal.err;
    return (enum err)r->proposal.outcome->error;
}

static void on_followed(struct message *m)
{
    struct request *r = CONTAINER_OF(m, struct request, message);

    request_send(r);
}

void admin_send_when_followed(struct request *r)
{
    r->message.run = on_followed;
    node_after_transitions(r->home, r->worker->loop, &r->message);
}

static int compare_str(const void *a, const void *b)
{
    return str_cmp(*(const struct str *)a, *(const struct str *)b);
}

bool admin_sorted_names(struct request *r, const struct str *names, int32_t n, struct str **out)
{
    struct str *sorted = arena_array(&r->arena, (size_t)n + 1, sizeof *sorted);

    if (sorted == NULL)
        return false;
    memcpy(sorted, names, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_str);
    *out = sorted;
    return true;
}

bool admin_is_duplicate(const struct str *sorted, int32_t n, struct str name)
{
    int32_t low = 0, high = n;

    while (low < high) {
        int32_t middle = low + (high - low) / 2;

        if (str_cmp(sorted[middle], name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low + 1 < n && str_eq(sorted[low + 1], name);
}

/* What a handler keeps while its command is on its way. */
struct pending {
    int32_t *slot; /* command item -> answer index */
    int32_t count;
};

static struct pending *pending_new(struct request *r, int32_t items)
{
    struct pending *p = arena_alloc(&r->arena, sizeof *p);

    if (p == NULL || (p->slot = arena_array(&r->arena, (size_t)items + 1, sizeof *p->slot)) == NULL)
        return NULL;
    r->handler_state = p;
    return p;
}

static MetaCommand *command_new(struct request *r)
{
    MetaCommand *c = arena_alloc(&r->arena, sizeof *c);

    if (c != NULL)
        meta_command__init(c);
    return c;
}

/* ---- CreateTopics ---- */

static void topic_refuse(struct request *r,
                         struct create_topics_response_creatable_topic_result *out, enum err e,
                         const char *message)
{
    out->error_code = err_to_wire(e);
    out->error_message = admin_message(r, message);
    out->topic_config_error_code = 0;
}

static enum err check_configs(struct request *r,
                              const struct create_topics_request_creatable_topic *in,
                              struct errmsg *why)
{
    struct config_entry *entries =
        arena_array(&r->arena, (size_t)in->configs.n + 1, sizeof *entries);

    if (entries == NULL)
        return ERR_TOO_LARGE;
    for (int32_t i = 0; i < in->configs.n; i++) {
        struct str value = in->configs.v[i].value;

        if (str_is_null(value)) {
            errmsg_set(why, "Null value not supported for topic configs: %.*s",
                       STR_ARG(in->configs.v[i].name));
            return ERR_INVALID_CONFIG;
        }
        if (admin_has_nul(in->configs.v[i].name) || admin_has_nul(value)) {
            errmsg_set(why, "A topic config contains a zero byte");
            return ERR_INVALID_CONFIG;
        }
        entries[i] = (struct config_entry){in->configs.v[i].name, value};
    }
    return config_check_topic(entries, in->configs.n, why);
}

static bool fill_manual(struct request *r, const struct create_topics_request_creatable_topic *in,
                        MetaCreateTopics__Topic *out)
{
    out->manual = arena_array(&r->arena, (size_t)in->assignments.n + 1, sizeof *out->manual);
    if (out->manual == NULL)
        return false;
    for (int32_t i = 0; i < in->assignments.n; i++) {
        const struct create_topics_request_creatable_replica_assignment *a = &in->assignments.v[i];
        MetaCreateTopics__Topic__ManualAssignment *m = arena_alloc(&r->arena, sizeof *m);

        if (m == NULL)
            return false;
        meta_create_topics__topic__manual_assignment__init(m);
        m->partition = a->partition_index;
        m->n_replicas = (size_t)MAX(a->broker_ids.n, 0);
        m->replicas = a->broker_ids.v;
        out->manual[out->n_manual++] = m;
    }
    return true;
}

static bool fill_configs(struct request *r, const struct create_topics_request_creatable_topic *in,
                         MetaCreateTopics__Topic *out)
{
    out->configs = arena_array(&r->arena, (size_t)in->configs.n + 1, sizeof *out->configs);
    if (out->configs == NULL)
        return false;
    for (int32_t i = 0; i < in->configs.n; i++) {
        MetaConfigEntry *e = arena_alloc(&r->arena, sizeof *e);

        if (e == NULL)
            return false;
        meta_config_entry__init(e);
        e->key = admin_text(r, in->configs.v[i].name);
        e->value = admin_text(r, in->configs.v[i].value);
        if (e->key == NULL || e->value == NULL)
            return false;
        out->configs[out->n_configs++] = e;
    }
    return true;
}

MetaCreateTopics__Topic *admin_create_topic(struct request *r, struct str name)
{
    MetaCreateTopics__Topic *t = arena_alloc(&r->arena, sizeof *t);

    if (t == NULL)
        return NULL;
    meta_create_topics__topic__init(t);
    t->num_partitions = -1;
    t->replication_factor = -1;
    t->name = admin_text(r, name);
    return t->name != NULL ? t : NULL;
}

/* False: no memory left in the request's budget. */
static bool create_one(struct request *r, const struct create_topics_request_creatable_topic *in,
                       MetaCreateTopics *command)
{
    MetaCreateTopics__Topic *t = admin_create_topic(r, in->name);

    if (t == NULL)
        return false;
    t->num_partitions = in->num_partitions;
    t->replication_factor = in->replication_factor;
    if (!fill_manual(r, in, t) || !fill_configs(r, in, t))
        return false;
    command->topics[command->n_topics++] = t;
    return true;
}

static bool describe_created(struct request *r,
                             struct create_topics_response_creatable_topic_result *out)
{
    struct config_described *all = NULL;
    int32_t count = 0;

    if (r->version < 5)
        return true;
    if (config_describe(r->home->config, request_image(r), CONFIG_TOPIC, out->name, &r->arena, &all,
                        &count) != ERR_NONE)
        return true; /* validate_only: there is no such topic to describe */
    if (!CODEC_ARRAY(&r->arena, out->configs, count,
                     create_topics_response_creatable_topic_configs))
        return false;
    for (int32_t i = 0; i < count; i++) {
        out->configs.v[i].name = all[i].name;
        out->configs.v[i].value = all[i].value;
        out->configs.v[i].read_only = all[i].read_only;
        out->configs.v[i].config_source = (int8_t)all[i].source;
        out->configs.v[i].is_sensitive = all[i].sensitive;
    }
    return true;
}

static void on_topics_created(struct request *r)
{
    const struct create_topics_request *in = r->body;
    struct create_topics_response *out = r->response;
    const struct pending *p = r->handler_state;
    enum err whole = admin_command_error(r);

    for (int32_t i = 0; i < p->count; i++) {
        struct create_topics_response_creatable_topic_result *t = &out->topics.v[p->slot[i]];
        const MetaItemOutcome *o = whole == ERR_NONE ? r->proposal.outcome->items[i] : NULL;

        if (o == NULL) {
            topic_refuse(r, t, whole,
                         r->proposal.outcome != NULL ? r->proposal.outcome->message : NULL);
            continue;
        }
        topic_refuse(r, t, (enum err)o->error, o->message);
        if (o->error != ERR_NONE)
            continue;
        if (o->topic_id.len == sizeof t->topic_id.b && !in->validate_only)
            memcpy(t->topic_id.b, o->topic_id.data, sizeof t->topic_id.b);
        t->num_partitions = o->partition_count;
        t->replication_factor = (int16_t)o->replication_factor;
        if (!describe_created(r, t)) {
            request_overflow(r);
            return;
        }
    }
    admin_send_when_followed(r);
}

static bool names_of(struct request *r, const struct create_topics_request *in, struct str **sorted)
{
    struct str *names = arena_array(&r->arena, (size_t)in->topics.n + 1, sizeof *names);

    if (names == NULL)
        return false;
    for (int32_t i = 0; i < in->topics.n; i++)
        names[i] = in->topics.v[i].name;
    return admin_sorted_names(r, names, in->topics.n, sorted);
}

void handle_create_topics(struct request *r)
{
    const struct create_topics_request *in = r->body;
    struct create_topics_response *out = request_response(r);
    MetaCommand *command = command_new(r);
    MetaCreateTopics *create = arena_alloc(&r->arena, sizeof *create);
    struct pending *p = pending_new(r, in->topics.n);
    struct str *sorted = NULL;

    if (command == NULL || create == NULL || p == NULL || !names_of(r, in, &sorted)) {
        request_overflow(r);
        return;
    }
    meta_create_topics__init(create);
    create->validate_only = in->validate_only;
    create->default_num_partitions = r->home->config->num_partitions;
    create->default_replication_factor = r->home->config->default_replication_factor;
    create->topics = arena_array(&r->arena, (size_t)in->topics.n + 1, sizeof *create->topics);
    REQUEST_ARRAY(r, out->topics, in->topics.n, create_topics_response_creatable_topic_result);
    for (int32_t i = 0; i < in->topics.n; i++) {
        struct create_topics_response_creatable_topic_result *t = &out->topics.v[i];
        struct errmsg why = {""};
        enum err e;

        t->name = in->topics.v[i].name;
        if (admin_is_duplicate(sorted, in->topics.n, t->name)) {
            topic_refuse(r, t, ERR_INVALID_REQUEST, "Duplicate topic name.");
        } else if (admin_has_nul(t->name)) {
            topic_refuse(r, t, ERR_INVALID_TOPIC_EXCEPTION, "Topic name contains a zero byte");
        } else if ((e = check_configs(r, &in->topics.v[i], &why)) != ERR_NONE) {
            topic_refuse(r, t, e, why.text);
        } else if (create->topics == NULL || !create_one(r, &in->topics.v[i], create)) {
            request_overflow(r);
            return;
        } else {
            p->slot[p->count++] = i;
        }
    }
    if (p->count == 0) {
        request_send(r);
        return;
    }
    command->body_case = META_COMMAND__BODY_CREATE_TOPICS;
    command->create_topics = create;
    request_propose(r, command, in->timeout_ms, on_topics_created);
}

/* ---- DeleteTopics ---- */

static void on_topics_deleted(struct request *r)
{
    struct delete_topics_response *out = r->response;
    const struct pending *p = r->handler_state;
    enum err whole = admin_command_error(r);

    for (int32_t i = 0; i < p->count; i++) {
        struct delete_topics_response_deletable_topic_result *t = &out->responses.v[p->slot[i]];
        const MetaItemOutcome *o = whole == ERR_NONE ? r->proposal.outcome->items[i] : NULL;

        t->error_code = err_to_wire(o != NULL ? (enum err)o->error : whole);
        t->error_message = o != NULL ? admin_message(r, o->message) : STR_NULL;
        if (o == NULL || o->error != ERR_NONE)
            continue;
        t->name = request_text(r, "%s", o->name);
        if (o->topic_id.len == sizeof t->topic_id.b)
            memcpy(t->topic_id.b, o->topic_id.data, sizeof t->topic_id.b);
    }
    admin_send_when_followed(r);
}

/* What a DeleteTopics request names, sorted, for finding what it names twice: ids as bytes. */
struct deletions {
    struct str *names, *ids;
    int32_t name_count, id_count;
};

static int32_t deletion_count(const struct request *r)
{
    const struct delete_topics_request *in = r->body;

    return MAX(r->version >= 6 ? in->topics.n : in->topic_names.n, 0);
}

/* v6+ names topics by name or id; before, a list of names. */
static void deletion_item(const struct request *r, int32_t i, struct str *name, struct uuid *id)
{
    const struct delete_topics_request *in = r->body;

    memset(id, 0, sizeof *id);
    *name = r->version >= 6 ? in->topics.v[i].name : in->topic_names.v[i];
    if (r->version >= 6)
        *id = in->topics.v[i].topic_id;
}

static struct str id_bytes(const struct uuid *id)
{
    return (struct str){(const char *)id->b, (int32_t)sizeof id->b};
}

static bool collect_deletions(struct request *r, struct deletions *d)
{
    const struct delete_topics_request *in = r->body;
    int32_t n = deletion_count(r);
    struct str *names = arena_array(&r->arena, (size_t)n + 1, sizeof *names);
    struct str *ids = arena_array(&r->arena, (size_t)n + 1, sizeof *ids);

    *d = (struct deletions){.name_count = 0};
    if (names == NULL || ids == NULL)
        return false;
    for (int32_t i = 0; i < n; i++) {
        struct str name;
        struct uuid id;

        deletion_item(r, i, &name, &id);
        if (!str_is_null(name))
            names[d->name_count++] = name;
        if (!uuid_is_zero(&id))
            ids[d->id_count++] = id_bytes(&in->topics.v[i].topic_id);
    }
    return admin_sorted_names(r, names, d->name_count, &d->names) &&
           admin_sorted_names(r, ids, d->id_count, &d->ids);
}

static enum err check_deletion(const struct request *r, const struct deletions *all, int32_t i,
                               const char **why)
{
    struct str name;
    struct uuid id;

    deletion_item(r, i, &name, &id);
    if (!str_is_null(name) && !uuid_is_zero(&id)) {
        *why = "You may not specify both topic name and topic id.";
        return ERR_INVALID_REQUEST;
    }
    if (str_is_null(name) && uuid_is_zero(&id)) {
        *why = "Neither topic name nor id were specified.";
        return ERR_INVALID_REQUEST;
    }
    if (!str_is_null(name) && admin_is_duplicate(all->names, all->name_count, name)) {
        *why = "Duplicate topic name.";
        return ERR_INVALID_REQUEST;
    }
    if (str_is_null(name) && admin_is_duplicate(all->ids, all->id_count, id_bytes(&id))) {
        *why = "Duplicate topic id.";
        return ERR_INVALID_REQUEST;
    }
    if (admin_has_nul(name)) {
        *why = "This server does not host this topic-partition.";
        return ERR_UNKNOWN_TOPIC_OR_PARTITION;
    }
    if (!r->home->config->delete_topic_enable) {
        *why = "Topic deletion is disabled.";
        return r->version < 3 ? ERR_INVALID_REQUEST : ERR_TOPIC_DELETION_DISABLED;
    }
    return ERR_NONE;
}

#define DELETIONS_MAX 10000

void handle_delete_topics(struct request *r)
{
    const struct delete_topics_request *in = r->body;
    int32_t n = deletion_count(r);
    struct delete_topics_response *out = request_response(r);
    struct deletions all;
    MetaCommand *command = command_new(r);
    MetaDeleteTopics *delete = arena_alloc(&r->arena, sizeof *delete);
    struct pending *p = pending_new(r, n);

    if (n > DELETIONS_MAX) {
        request_reject(r, "too many topics in one DeleteTopics");
        return;
    }
    REQUEST_ARRAY(r, out->responses, n, delete_topics_response_deletable_topic_result);
    if (command == NULL || delete == NULL || p == NULL || !collect_deletions(r, &all)) {
        request_overflow(r);
        return;
    }
    meta_delete_topics__init(delete);
    delete->topics = arena_array(&r->arena, (size_t)n + 1, sizeof *delete->topics);
    for (int32_t i = 0; i < n; i++) {
        struct delete_topics_response_deletable_topic_result *t = &out->responses.v[i];
        MetaDeleteTopics__Topic *d = arena_alloc(&r->arena, sizeof *d);
        const char *why = NULL;

        if (d == NULL || delete->topics == NULL) {
            request_overflow(r);
            return;
        }
        deletion_item(r, i, &t->name, &t->topic_id);
        t->error_code = err_to_wire(check_deletion(r, &all, i, &why));
        t->error_message = admin_message(r, why);
        if (t->error_code != ERR_NONE)
            continue;
        meta_delete_topics__topic__init(d);
        if (str_is_null(t->name))
            d->topic_id = (ProtobufCBinaryData){.len = sizeof t->topic_id.b, .data = t->topic_id.b};
        else
            d->name = admin_text(r, t->name);
        if (d->name == NULL) {
            request_overflow(r);
            return;
        }
        delete->topics[delete->n_topics++] = d;
        p->slot[p->count++] = i;
    }
    if (p->count == 0) {
        request_send(r);
        return;
    }
    command->body_case = META_COMMAND__BODY_DELETE_TOPICS;
    command->delete_topics = delete;
    request_propose(r, command, in->timeout_ms, on_topics_deleted);
}

/* ---- CreatePartitions ---- */

static void on_partitions_created(struct request *r)
{
    struct create_partitions_response *out = r->response;
    const struct pending *p = r->handler_state;
    enum err whole = admin_command_error(r);

    for (int32_t i = 0; i < p->count; i++) {
        struct create_partitions_response_create_partitions_topic_result *t =
            &out->results.v[p->slot[i]];
        const MetaItemOutcome *o = whole == ERR_NONE ? r->proposal.outcome->items[i] : NULL;

        t->error_code = err_to_wire(o != NULL ? (enum err)o->error : whole);
        t->error_message = o != NULL ? admin_message(r, o->message) : STR_NULL;
    }
    admin_send_when_followed(r);
}

static MetaCreatePartitions__Topic *partitions_of(
    struct request *r, const struct create_partitions_request_create_partitions_topic *in)
{
    MetaCreatePartitions__Topic *t = arena_alloc(&r->arena, sizeof *t);
    int32_t n = MAX(in->assignments.n, 0);

    if (t == NULL)
        return NULL;
    meta_create_partitions__topic__init(t);
    t->name = admin_text(r, in->name);
    t->count = in->count;
    t->has_manual = in->assignments.n >= 0;
    t->manual = arena_array(&r->arena, (size_t)n + 1, sizeof *t->manual);
    if (t->name == NULL || t->manual == NULL)
        return NULL;
    for (int32_t i = 0; i < n; i++) {
        MetaAssignment *a = arena_alloc(&r->arena, sizeof *a);

        if (a == NULL)
            return NULL;
        meta_assignment__init(a);
        a->n_replicas = (size_t)MAX(in->assignments.v[i].broker_ids.n, 0);
        a->replicas = in->assignments.v[i].broker_ids.v;
        t->manual[t->n_manual++] = a;
    }
    return t;
}

void handle_create_partitions(struct request *r)
{
    const struct create_partitions_request *in = r->body;
    struct create_partitions_response *out = request_response(r);
    MetaCommand *command = command_new(r);
    MetaCreatePartitions *create = arena_alloc(&r->arena, sizeof *create);
    struct pending *p = pending_new(r, in->topics.n);
    struct str *names = arena_array(&r->arena, (size_t)in->topics.n + 1, sizeof *names);
    struct str *sorted = NULL;

    REQUEST_ARRAY(r, out->results, in->topics.n,
                  create_partitions_response_create_partitions_topic_result);
    if (command == NULL || create == NULL || p == NULL || names == NULL) {
        request_overflow(r);
        return;
    }
    for (int32_t i = 0; i < in->topics.n; i++)
        names[i] = in->topics.v[i].name;
    meta_create_partitions__init(create);
    create->validate_only = in->validate_only;
    create->topics = arena_array(&r->arena, (size_t)in->topics.n + 1, sizeof *create->topics);
    if (!admin_sorted_names(r, names, in->topics.n, &sorted) || create->topics == NULL) {
        request_overflow(r);
        return;
    }
    for (int32_t i = 0; i < in->topics.n; i++) {
        struct create_partitions_response_create_partitions_topic_result *t = &out->results.v[i];

        t->name = in->topics.v[i].name;
        if (admin_is_duplicate(sorted, in->topics.n, t->name)) {
            t->error_code = err_to_wire(ERR_INVALID_REQUEST);
            t->error_message = request_text(r, "Duplicate topic name.");
            continue;
        }
        if (admin_has_nul(t->name)) {
            t->error_code = err_to_wire(ERR_UNKNOWN_TOPIC_OR_PARTITION);
            continue;
        }
        create->topics[create->n_topics] = partitions_of(r, &in->topics.v[i]);
        if (create->topics[create->n_topics++] == NULL) {
            request_overflow(r);
            return;
        }
        p->slot[p->count++] = i;
    }
    if (p->count == 0) {
        request_send(r);
        return;
    }
    command->body_case = META_COMMAND__BODY_CREATE_PARTITIONS;
    command->create_partitions = create;
    request_propose(r, command, in->timeout_ms, on_partitions_created);
}
