/* client.c -- librdkafka's C interface under the commands of tests/cluster/README.md.
 *
 * One JSON command a line on stdin, one JSON answer a line on stdout. Reads with librdkafka's
 * simple consumer (partitions and offsets given by us, no group). A test program: memory that
 * lives as long as the process is not freed.
 */
#include <jansson.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TIMEOUT_MS       15000
#define READ_SECONDS_MAX 20
#define PARTITIONS_MAX   64

/* An answer {"error": name}; the name is Kafka's where the error came from the broker. */
static json_t *failed(rd_kafka_resp_err_t err)
{
    return json_pack("{s:s}", "error", rd_kafka_err2name(err));
}

static json_t *failed_text(const char *text)
{
    fprintf(stderr, "%s\n", text);
    return json_pack("{s:s}", "error", text);
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static int64_t int_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static int partitions_of(const json_t *c)
{
    int64_t partitions = int_of(c, "partitions");

    if (partitions < 0 || partitions > PARTITIONS_MAX) {
        fprintf(stderr, "more than %d partitions\n", PARTITIONS_MAX);
        exit(2);
    }
    return (int)partitions;
}

static void set(rd_kafka_conf_t *conf, const char *key, const char *value)
{
    char error[256];

    if (rd_kafka_conf_set(conf, key, value, error, sizeof(error)) != RD_KAFKA_CONF_OK) {
        fprintf(stderr, "%s\n", error);
        exit(2);
    }
}

static void set_int(rd_kafka_conf_t *conf, const char *key, const json_t *value)
{
    char text[32];

    if (!json_is_integer(value))
        return;
    snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    set(conf, key, text);
}

static rd_kafka_t *new_handle(rd_kafka_type_t type, rd_kafka_conf_t *conf, const char *bootstrap)
{
    char error[256];

    set(conf, "bootstrap.servers", bootstrap);
    rd_kafka_t *rk = rd_kafka_new(type, conf, error, sizeof(error));

    if (!rk) {
        fprintf(stderr, "%s\n", error);
        exit(2);
    }
    return rk;
}

/* Hexadecimal text of bytes as a JSON string; JSON null for NULL. */
static json_t *hex_json(const void *bytes, size_t length)
{
    static const char digits[] = "0123456789abcdef";

    if (!bytes)
        return json_null();
    char *text = malloc(2 * length + 1);

    for (size_t i = 0; i < length; i++) {
        unsigned char b = ((const unsigned char *)bytes)[i];
        text[2 * i] = digits[b >> 4];
        text[2 * i + 1] = digits[b & 15];
    }
    json_t *json = json_stringn(text, 2 * length);

    free(text);
    return json;
}

static int nibble(char digit)
{
    return digit <= '9' ? digit - '0' : digit - 'a' + 10;
}

/* The reverse of hex_json. An empty string gives a pointer that is not NULL, since Kafka tells them
 * apart. */
static void *unhex(const json_t *json, size_t *length)
{
    *length = json_string_length(json) / 2;
    if (!json_is_string(json))
        return NULL;
    const char *text = json_string_value(json);
    unsigned char *bytes = malloc(*length + 1);

    for (size_t i = 0; i < *length; i++)
        bytes[i] = (unsigned char)(nibble(text[2 * i]) << 4 | nibble(text[2 * i + 1]));
    return bytes;
}

static void write_line(FILE *f, json_t *line)
{
    json_dumpf(line, f, JSON_COMPACT);
    fputc('\n', f);
    json_decref(line);
}

/* --- producing ------------------------------------------------------------------------- */

struct produced {
    json_t *note; /* what was sent; the delivery report adds what was answered */
    rd_kafka_resp_err_t *err;
};

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    struct produced *sent = m->_private;

    (void)rk;
    (void)opaque;
    if (m->err) {
        *sent->err = m->err;
        return;
    }
    json_object_set_new(sent->note, "offset", json_integer(m->offset));
    json_object_set_new(sent->note, "answered_timestamp",
                        json_integer(rd_kafka_message_timestamp(m, NULL)));
}

static rd_kafka_headers_t *headers_of(const json_t *list)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(json_array_size(list));
    size_t i, length;
    json_t *header;

    json_array_foreach(list, i, header)
    {
        void *value = unhex(json_array_get(header, 1), &length);
        rd_kafka_header_add(headers, json_string_value(json_array_get(header, 0)), -1, value,
                            (ssize_t)length);
        free(value);
    }
    return headers;
}

static rd_kafka_resp_err_t send_one(rd_kafka_t *rk, const char *topic, struct produced *sent)
{
    size_t key_length, value_length;
    void *key = unhex(json_object_get(sent->note, "key"), &key_length);
    void *value = unhex(json_object_get(sent->note, "value"), &value_length);
    rd_kafka_resp_err_t err;

    do {
        rd_kafka_headers_t *headers = headers_of(json_object_get(sent->note, "headers"));
        err = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic),
                                RD_KAFKA_V_PARTITION((int32_t)int_of(sent->note, "partition")),
                                RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                RD_KAFKA_V_KEY(key, key_length),
                                RD_KAFKA_V_VALUE(value, value_length), RD_KAFKA_V_HEADERS(headers),
                                RD_KAFKA_V_TIMESTAMP(int_of(sent->note, "timestamp")),
                                RD_KAFKA_V_OPAQUE(sent), RD_KAFKA_V_END);
        if (err)
            rd_kafka_headers_destroy(headers); /* else the message has taken them */
        rd_kafka_poll(rk, err ? 50 : 0);
    } while (err == RD_KAFKA_RESP_ERR__QUEUE_FULL);
    free(key);
    free(value);
    return err;
}

static json_t *do_produce(rd_kafka_t *admin, const json_t *c)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    const json_t *idempotent = json_object_get(c, "idempotent");
    json_t *answer = NULL;

    (void)admin;
    set(conf, "linger.ms", "5");
    set(conf, "delivery.timeout.ms", "15000");
    if (text_of(c, "compression"))
        set(conf, "compression.type", text_of(c, "compression"));
    if (json_is_boolean(idempotent))
        set(conf, "enable.idempotence", json_is_true(idempotent) ? "true" : "false");
    set_int(conf, "max.in.flight.requests.per.connection", json_object_get(c, "in_flight"));
    set_int(conf, "batch.size", json_object_get(c, "batch_bytes"));
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);

    rd_kafka_t *rk = new_handle(RD_KAFKA_PRODUCER, conf, text_of(c, "bootstrap"));
    FILE *plan = fopen(text_of(c, "plan"), "r");
    json_t *notes = json_array();
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
    rd_kafka_resp_err_t refused = RD_KAFKA_RESP_ERR_NO_ERROR;
    json_t *note;

    while (!refused && (note = json_loadf(plan, JSON_DISABLE_EOF_CHECK, NULL))) {
        struct produced *sent = malloc(sizeof(*sent));
        *sent = (struct produced){.note = note, .err = &err};
        json_array_append_new(notes, note);
        refused = send_one(rk, text_of(c, "topic"), sent);
    }
    fclose(plan);
    rd_kafka_resp_err_t late = rd_kafka_flush(rk, TIMEOUT_MS + 1000);

    if (refused || err || late) {
        answer = failed(refused ? refused : err ? err : late);
    } else {
        FILE *out = fopen(text_of(c, "out"), "w");
        size_t i;
        json_array_foreach(notes, i, note) write_line(out, json_incref(note));
        fclose(out);
        answer = json_object();
    }
    json_decref(notes);
    rd_kafka_destroy(rk);
    return answer;
}

/* --- reading --------------------------------------------------------------------------- */

static json_t *line_of(const rd_kafka_message_t *m)
{
    rd_kafka_timestamp_type_t type;
    int64_t timestamp = rd_kafka_message_timestamp(m, &type);
    rd_kafka_headers_t *headers = NULL;
    json_t *list = json_array();
    const char *name;
    const void *value;
    size_t length;

    rd_kafka_message_headers(m, &headers);
    for (size_t i = 0; headers && !rd_kafka_header_get_all(headers, i, &name, &value, &length); i++)
        json_array_append_new(list, json_pack("[s, o]", name, hex_json(value, length)));

    return json_pack(
        "{s:i, s:I, s:I, s:s, s:o, s:o, s:o}", "partition", (int)m->partition, "offset",
        (json_int_t)m->offset, "timestamp", (json_int_t)timestamp, "timestamp_type",
        type == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME ? "append" : "create", "key",
        hex_json(m->key, m->key_len), "value", hex_json(m->payload, m->len), "headers", list);
}

static rd_kafka_resp_err_t offsets_at_time(rd_kafka_t *rk, const char *topic, int partitions,
                                           int64_t ms, int64_t *offsets)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);

    for (int p = 0; p < partitions; p++)
        rd_kafka_topic_partition_list_add(list, topic, p)->offset = ms;
    rd_kafka_resp_err_t err = rd_kafka_offsets_for_times(rk, list, TIMEOUT_MS);

    for (int i = 0; i < list->cnt; i++) {
        rd_kafka_topic_partition_t *tp = &list->elems[i];
        offsets[tp->partition] = tp->offset < 0 ? -1 : tp->offset;
        if (!err)
            err = tp->err;
    }
    rd_kafka_topic_partition_list_destroy(list);
    return err;
}

static rd_kafka_resp_err_t watermarks(rd_kafka_t *rk, const char *topic, int partitions,
                                      int64_t *low, int64_t *high)
{
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;

    for (int p = 0; p < partitions && !err; p++)
        err = rd_kafka_query_watermark_offsets(rk, topic, p, &low[p], &high[p], TIMEOUT_MS);
    return err;
}

/* Consumes until each partition that starts below its end has reached it. */
static json_t *consume(rd_kafka_t *rk, const char *topic, int partitions, const int64_t *start,
                       const int64_t *end, FILE *out)
{
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    time_t deadline = time(NULL) + READ_SECONDS_MAX;
    json_t *error = NULL;
    int missing = 0;

    for (int p = 0; p < partitions; p++) {
        if (start[p] >= end[p])
            continue;
        missing++;
        rd_kafka_consume_start_queue(rkt, p, start[p], queue);
    }
    while (missing > 0 && !error) {
        rd_kafka_message_t *m = rd_kafka_consume_queue(queue, 200);

        if (time(NULL) > deadline)
            error = failed_text("not at the end in time");
        if (!m)
            continue;
        if (m->err) {
            fprintf(stderr, "%s\n", rd_kafka_message_errstr(m));
            error = failed(m->err);
        } else {
            missing -= m->offset + 1 == end[m->partition];
            write_line(out, line_of(m));
        }
        rd_kafka_message_destroy(m);
    }
    for (int p = 0; p < partitions; p++) {
        if (start[p] < end[p])
            rd_kafka_consume_stop(rkt, p);
    }
    rd_kafka_queue_destroy(queue);
    rd_kafka_topic_destroy(rkt);
    return error ? error : json_object();
}

static json_t *do_read(rd_kafka_t *admin, const json_t *c)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    const char *topic = text_of(c, "topic");
    const json_t *given = json_object_get(c, "offsets");
    const json_t *ms = json_object_get(c, "time");
    int partitions = partitions_of(c);
    int64_t start[PARTITIONS_MAX], end[PARTITIONS_MAX];

    (void)admin;
    set(conf, "auto.offset.reset", "error");
    rd_kafka_t *rk = new_handle(RD_KAFKA_CONSUMER, conf, text_of(c, "bootstrap"));
    rd_kafka_resp_err_t err = watermarks(rk, topic, partitions, start, end);

    if (!err && ms)
        err = offsets_at_time(rk, topic, partitions, json_integer_value(ms), start);
    for (int p = 0; p < partitions; p++) {
        if (given)
            start[p] = json_integer_value(json_array_get(given, (size_t)p));
        if (start[p] < 0)
            start[p] = end[p];
    }
    json_t *answer = NULL;

    if (err) {
        answer = failed(err);
    } else {
        FILE *out = fopen(text_of(c, "out"), "w");
        answer = consume(rk, topic, partitions, start, end, out);
        fclose(out);
    }
    rd_kafka_destroy(rk);
    return answer;
}

/* --- administration -------------------------------------------------------------------- */

/* The error of an admin call about one thing: that of the call, or that of the thing. */
static rd_kafka_resp_err_t topic_error(const rd_kafka_topic_result_t **results)
{
    return rd_kafka_topic_result_error(results[0]);
}

static rd_kafka_resp_err_t error_in(rd_kafka_event_t *event)
{
    size_t n;

    if (rd_kafka_event_error(event))
        return rd_kafka_event_error(event);
    switch (rd_kafka_event_type(event)) {
    case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
        return topic_error(
            rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n));
    case RD_KAFKA_EVENT_DELETETOPICS_RESULT:
        return topic_error(
            rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &n));
    case RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT:
        return topic_error(rd_kafka_CreatePartitions_result_topics(
            rd_kafka_event_CreatePartitions_result(event), &n));
    case RD_KAFKA_EVENT_ALTERCONFIGS_RESULT:
        return rd_kafka_ConfigResource_error(rd_kafka_AlterConfigs_result_resources(
            rd_kafka_event_AlterConfigs_result(event), &n)[0]);
    case RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT:
        return rd_kafka_ConfigResource_error(rd_kafka_DescribeConfigs_result_resources(
            rd_kafka_event_DescribeConfigs_result(event), &n)[0]);
    case RD_KAFKA_EVENT_DELETERECORDS_RESULT: {
        const rd_kafka_topic_partition_list_t *list =
            rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event));
        for (int i = 0; i < list->cnt; i++)
            if (list->elems[i].err)
                return list->elems[i].err;
        return RD_KAFKA_RESP_ERR_NO_ERROR;
    }
    default:
        return RD_KAFKA_RESP_ERR__FAIL;
    }
}

/* Waits for the answer of an admin call; *event is the caller's if it wants it. */
static json_t *admin_answer(rd_kafka_queue_t *queue, rd_kafka_event_t **event)
{
    rd_kafka_event_t *e = rd_kafka_queue_poll(queue, TIMEOUT_MS);
    rd_kafka_resp_err_t err = e ? error_in(e) : RD_KAFKA_RESP_ERR__TIMED_OUT;

    if (event && !err)
        *event = e;
    else if (e)
        rd_kafka_event_destroy(e);
    rd_kafka_queue_destroy(queue);
    return err ? failed(err) : json_object();
}

static json_t *do_create(rd_kafka_t *rk, const json_t *c)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_NewTopic_t *topic =
        rd_kafka_NewTopic_new(text_of(c, "topic"), (int)int_of(c, "partitions"), 1, NULL, 0);
    const char *key;
    json_t *value;

    json_object_foreach(json_object_get(c, "config"), key, value)
        rd_kafka_NewTopic_set_config(topic, key, json_string_value(value));
    rd_kafka_CreateTopics(rk, &topic, 1, NULL, queue);
    rd_kafka_NewTopic_destroy(topic);
    return admin_answer(queue, NULL);
}

static json_t *do_delete(rd_kafka_t *rk, const json_t *c)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(text_of(c, "topic"));

    rd_kafka_DeleteTopics(rk, &topic, 1, NULL, queue);
    rd_kafka_DeleteTopic_destroy(topic);
    return admin_answer(queue, NULL);
}

static json_t *do_grow(rd_kafka_t *rk, const json_t *c)
{
    char error[256];
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_NewPartitions_t *more = rd_kafka_NewPartitions_new(
        text_of(c, "topic"), (size_t)int_of(c, "partitions"), error, sizeof(error));

    rd_kafka_CreatePartitions(rk, &more, 1, NULL, queue);
    rd_kafka_NewPartitions_destroy(more);
    return admin_answer(queue, NULL);
}

static json_t *do_alter(rd_kafka_t *rk, const json_t *c)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_ConfigResource_t *resource =
        rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, text_of(c, "topic"));
    const char *key;
    json_t *value;

    json_object_foreach(json_object_get(c, "config"), key, value)
        rd_kafka_ConfigResource_set_config(resource, key, json_string_value(value));
    rd_kafka_AlterConfigs(rk, &resource, 1, NULL, queue);
    rd_kafka_ConfigResource_destroy(resource);
    return admin_answer(queue, NULL);
}

static json_t *do_config(rd_kafka_t *rk, const json_t *c)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_ConfigResource_t *resource =
        rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, text_of(c, "topic"));
    rd_kafka_event_t *event = NULL;

    rd_kafka_DescribeConfigs(rk, &resource, 1, NULL, queue);
    rd_kafka_ConfigResource_destroy(resource);
    json_t *answer = admin_answer(queue, &event);

    if (!event)
        return answer;
    json_t *found = json_object();
    size_t n, count, i;
    json_t *name;
    const rd_kafka_ConfigEntry_t **entries =
        rd_kafka_ConfigResource_configs(rd_kafka_DescribeConfigs_result_resources(
                                            rd_kafka_event_DescribeConfigs_result(event), &n)[0],
                                        &count);

    for (size_t e = 0; e < count; e++) {
        json_array_foreach(json_object_get(c, "names"), i, name)
        {
            const char *entry = rd_kafka_ConfigEntry_name(entries[e]);
            if (strcmp(entry, json_string_value(name)) == 0)
                json_object_set_new(found, entry,
                                    json_string(rd_kafka_ConfigEntry_value(entries[e])));
        }
    }
    json_object_set_new(answer, "config", found);
    rd_kafka_event_destroy(event);
    return answer;
}

static json_t *do_delete_records(rd_kafka_t *rk, const json_t *c)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(3);
    size_t p;
    json_t *offset;

    json_array_foreach(json_object_get(c, "before"), p, offset)
        rd_kafka_topic_partition_list_add(list, text_of(c, "topic"), (int32_t)p)
            ->offset = json_integer_value(offset);
    rd_kafka_DeleteRecords_t *deletion = rd_kafka_DeleteRecords_new(list);

    rd_kafka_DeleteRecords(rk, &deletion, 1, NULL, queue);
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_DeleteRecords_destroy(deletion);
    return admin_answer(queue, NULL);
}

static json_t *do_describe(rd_kafka_t *rk, const json_t *c)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, text_of(c, "topic"), NULL);
    rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 0, rkt, &metadata, TIMEOUT_MS);
    int led = 0;

    rd_kafka_topic_destroy(rkt);
    if (err)
        return failed(err);
    err = metadata->topics[0].err;
    for (int p = 0; p < metadata->topics[0].partition_cnt; p++)
        led += metadata->topics[0].partitions[p].leader >= 0;
    rd_kafka_metadata_destroy(metadata);
    return err ? failed(err) : json_pack("{s:i}", "partitions", led);
}

static json_t *do_offsets(rd_kafka_t *rk, const json_t *c)
{
    int partitions = partitions_of(c);
    const json_t *at = json_object_get(c, "at");
    int64_t low[PARTITIONS_MAX], high[PARTITIONS_MAX];
    json_t *list = json_array();
    rd_kafka_resp_err_t err =
        json_is_integer(at)
            ? offsets_at_time(rk, text_of(c, "topic"), partitions, json_integer_value(at), low)
            : watermarks(rk, text_of(c, "topic"), partitions, low, high);

    if (err)
        return failed(err);
    const char *word = json_string_value(at);
    const int64_t *found = word && strcmp(word, "latest") == 0 ? high : low;

    for (int p = 0; p < partitions; p++)
        json_array_append_new(list, json_integer(found[p]));
    return json_pack("{s:o}", "offsets", list);
}

static json_t *do_version(rd_kafka_t *rk, const json_t *c)
{
    (void)rk;
    (void)c;
    return json_pack("{s:s}", "version", rd_kafka_version_str());
}

static const struct {
    const char *name;
    json_t *(*run)(rd_kafka_t *admin, const json_t *command);
} commands[] = {
    {"version", do_version},   {"create", do_create},
    {"describe", do_describe}, {"config", do_config},
    {"alter", do_alter},       {"grow", do_grow},
    {"offsets", do_offsets},   {"delete_records", do_delete_records},
    {"delete", do_delete},     {"produce", do_produce},
    {"read", do_read},
};

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s BOOTSTRAP\n", argv[0]);
        return 2;
    }
    rd_kafka_t *admin = new_handle(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), argv[1]);
    json_t *c;

    while ((c = json_loadf(stdin, JSON_DISABLE_EOF_CHECK, NULL))) {
        json_t *answer = NULL;

        for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
            if (strcmp(commands[i].name, text_of(c, "do")) == 0)
                answer = commands[i].run(admin, c);
        }
        write_line(stdout, answer ? answer : failed_text("unknown command"));
        fflush(stdout);
        json_decref(c);
    }
    return 0;
}
