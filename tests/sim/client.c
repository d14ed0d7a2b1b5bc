#include "tests/sim/client.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "protocol/record_batch.h"

#define ARENA_MAX      ((size_t)64 << 20)
#define FRAME_MAX      (32 << 20)
#define RETRY_PAUSE_NS SIM_MS(40)
#define CONTENT_MIN    28
#define CONTENT_MAX    100000
/* What an answer may take in peace beyond the request's own wait. */
#define PEACE_BOUND_NS SIM_S(2)

/* ---- a client ---- */

void client_init(struct client *c, struct run *r, struct process *p, enum client_age age)
{
    *c = (struct client){
        .run = r,
        .process = p,
        .number = process_machine(p),
        .age = age,
        .correlation_next = (int32_t)sim_below(r->sim, DICE_CLIENTS, 1000),
    };
    arena_init(&c->arena, ARENA_MAX);
}

void client_deinit(struct client *c)
{
    client_close(c);
    arena_deinit(&c->arena);
}

bool client_chance(struct client *c, double p)
{
    return sim_chance(c->run->sim, DICE_CLIENTS, p);
}

uint64_t client_below(struct client *c, uint64_t n)
{
    return sim_below(c->run->sim, DICE_CLIENTS, n);
}

void client_close(struct client *c)
{
    if (c->socket != NULL)
        net_close(c->socket);
    c->socket = NULL;
    c->in_flight_count = 0;
}

int16_t client_version(const struct client *c, int16_t api_key)
{
    return c->versions[api_key];
}

static int16_t pick_version(struct client *c, int16_t least, int16_t most)
{
    switch (c->age) {
    case CLIENT_NEWEST:
        return most;
    case CLIENT_OLDEST:
        return least;
    default:
        return (int16_t)(least + (int16_t)client_below(c, (uint64_t)(most - least) + 1));
    }
}

/* What the node offers is the same whenever one asks. */
static void take_versions(struct client *c, const struct api_versions_response *v)
{
    sim_checked(c->run->sim, "P8");
    for (int32_t i = 0; i < v->api_keys.n; i++) {
        const struct api_versions_response_api_version *a = &v->api_keys.v[i];
        const struct api_desc *api = api_find(a->api_key);
        int16_t *bounds;

        if (api == NULL || a->api_key >= CLIENT_API_KEYS)
            sim_violation(c->run->sim, "P9", "API %d is offered, which does not exist", a->api_key);
        bounds = c->version_bounds[a->api_key];
        if (c->versions_known) {
            if (bounds[0] != a->min_version || bounds[1] != a->max_version)
                sim_violation(c->run->sim, "P8", "versions of API %d changed from %d-%d to %d-%d",
                              a->api_key, bounds[0], bounds[1], a->min_version, a->max_version);
            continue;
        }
        bounds[0] = a->min_version;
        bounds[1] = a->max_version;
        c->versions[a->api_key] =
            pick_version(c, to_int16_checked(MAX(a->min_version, api->version_min)),
                         to_int16_checked(MIN(a->max_version, api->version_max_stable)));
    }
    c->versions_known = true;
}

static bool ask_versions(struct client *c)
{
    struct api_versions_request q;
    void *answer = NULL;

    codec_init(&api_versions_request_desc, &q);
    q.client_software_name = STR_LIT("fluxmq-sim");
    q.client_software_version = STR_LIT("1");
    if (!c->versions_known) {
        for (int i = 0; i < CLIENT_API_KEYS; i++)
            c->versions[i] = -1;
        c->versions[API_API_VERSIONS] = pick_version(c, 0, 4);
    }
    if (client_send(c, API_API_VERSIONS, &q, 0) != ERR_NONE ||
        client_receive(c, &answer) != ERR_NONE)
        return false;

    const struct api_versions_response *v = answer;

    if (v->error_code != 0)
        sim_violation(c->run->sim, "P9", "ApiVersions v%d is answered with error %d",
                      c->versions[API_API_VERSIONS], v->error_code);
    take_versions(c, v);
    return true;
}

bool client_connect(struct client *c, uint64_t patience_ns)
{
    struct sim *s = c->run->sim;
    uint64_t until = sim_now(s) + patience_ns;

    while (c->socket == NULL) {
        uint64_t deadline = MIN(until, sim_now(s) + SIM_S(3));
        enum err e = net_connect(c->process, machine_number(c->run->machine),
                                 machine_port(c->run->machine), deadline, &c->socket);

        if (e == ERR_NONE) {
            sim_count(s, "connection");
            if (ask_versions(c))
                return true;
        } else {
            c->socket = NULL;
        }
        if (sim_now(s) >= until)
            return false;
        client_pause(c, RETRY_PAUSE_NS);
    }
    return true;
}

/* ---- requests and answers ---- */

enum err client_write(struct client *c, const void *p, size_t size)
{
    enum err e = net_write(c->socket, p, size, sim_now(c->run->sim) + CLIENT_PATIENCE_NS);

    if (e != ERR_NONE)
        client_close(c);
    return e;
}

static bool has_no_bound(int16_t api_key)
{
    switch (api_key) {
    case API_PRODUCE:
    case API_FETCH:
    case API_METADATA:
    case API_API_VERSIONS:
    case API_LIST_OFFSETS:
        return false;
    default:
        return true;
    }
}

enum err client_send(struct client *c, int16_t api_key, const void *request, uint64_t wait_ns)
{
    const struct api_desc *api = api_find(api_key);
    int16_t version = c->versions[api_key];
    int32_t id = c->correlation_next++;
    char name[16];
    struct ioqueue out;
    enum err e;

    CHECK(c->socket != NULL && c->in_flight_count < CLIENT_IN_FLIGHT_MAX && version >= 0);
    snprintf(name, sizeof name, "c%d", c->number);
    ioqueue_init(&out);
    e = request_encode(api, version, id, str_from(name), request, &out);
    CHECK(e == ERR_NONE);
    sim_trace(c->run->sim, "c%d: %s v%d id %d", c->number, api->name, version, id);
    c->in_flight[c->in_flight_count++] = (struct client_request){
        .api_key = api_key,
        .version = version,
        .correlation_id = id,
        .sent_ns = sim_now(c->run->sim),
        .wait_ns = wait_ns,
        .unbounded = has_no_bound(api_key),
    };
    for (size_t i = 0; e == ERR_NONE && i < out.count; i++) {
        const struct ioslice *slice = ioqueue_at(&out, i);

        e = client_write(c, slice->buf->ptr + slice->offset, slice->len);
    }
    ioqueue_deinit(&out);
    return e;
}

void client_forget(struct client *c)
{
    CHECK(c->in_flight_count > 0);
    c->in_flight_count--;
}

/* `since_ns`: from when on the client has looked; before that it may have been there. */
static void check_in_time(struct client *c, const struct client_request *q, uint64_t since_ns)
{
    struct sim *s = c->run->sim;

    if (q->unbounded || !run_was_quiet(c->run, q->sent_ns))
        return;
    sim_checked(s, "H48e");
    if (sim_now(s) > q->sent_ns + q->wait_ns + PEACE_BOUND_NS &&
        sim_now(s) > since_ns + PEACE_BOUND_NS)
        sim_violation(s, "H48e",
                      "%s v%d of client %d, which asked to wait for %llu ms, was answered after "
                      "%llu ms, and nothing disturbed the machine",
                      api_find(q->api_key)->name, q->version, c->number,
                      (unsigned long long)(q->wait_ns / 1000000),
                      (unsigned long long)((sim_now(s) - q->sent_ns) / 1000000));
}

/* Waits for a frame; ERR_TIMED_OUT when its request's time is over. */
static enum err read_frame(struct client *c, const struct client_request *q, uint8_t **frame,
                           size_t *size)
{
    uint64_t deadline = sim_now(c->run->sim) + q->wait_ns + CLIENT_PATIENCE_NS;
    uint8_t length[4];
    enum err e = net_read(c->socket, length, sizeof length, deadline);

    if (e != ERR_NONE)
        return e;
    *size = load_be32(length);
    if (*size < 4 || *size > FRAME_MAX)
        sim_violation(c->run->sim, "P9", "an answer of %zu bytes", *size);
    *frame = arena_alloc(&c->arena, *size);
    CHECK(*frame != NULL);
    return net_read(c->socket, *frame, *size, deadline);
}

enum err client_receive(struct client *c, void **response)
{
    struct client_request q = c->in_flight[0];
    const struct api_desc *api = api_find(q.api_key);
    uint8_t *frame = NULL;
    size_t size = 0, used = 0, body_used = 0;
    int32_t id = 0;
    int16_t version = q.version;
    uint64_t since = sim_now(c->run->sim);
    enum err e;

    CHECK(c->in_flight_count > 0);
    e = read_frame(c, &q, &frame, &size);
    if (e != ERR_NONE) {
        check_in_time(c, &q, since);
        client_close(c);
        return e;
    }
    check_in_time(c, &q, since);
    sim_checked(c->run->sim, "P9");
    if (response_header_read(api, version, frame, size, &id, &used) != ERR_NONE ||
        id != q.correlation_id)
        sim_violation(c->run->sim, "P9",
                      "client %d: the answer to request %d (%s v%d) has the correlation id %d",
                      c->number, q.correlation_id, api->name, version, id);
    *response = arena_alloc(&c->arena, api->response->size);
    CHECK(*response != NULL);
    e = codec_decode(api->response, version, frame + used, size - used, &c->arena, *response,
                     &body_used);
    if (e != ERR_NONE || used + body_used != size)
        sim_violation(c->run->sim, "P9", "client %d: the answer to %s v%d cannot be decoded",
                      c->number, api->name, version);
    sim_trace_bytes(c->run->sim, frame, size);
    c->in_flight_count--;
    memmove(c->in_flight, c->in_flight + 1, (size_t)c->in_flight_count * sizeof c->in_flight[0]);
    return ERR_NONE;
}

enum err client_call(struct client *c, int16_t api_key, const void *request, uint64_t wait_ns,
                     void **response)
{
    enum err e;

    CHECK(c->in_flight_count == 0);
    if (c->socket == NULL)
        return ERR_CLOSED;
    if (c->versions[api_key] < 0)
        sim_violation(c->run->sim, "P9", "%s is not offered", api_find(api_key)->name);
    e = client_send(c, api_key, request, wait_ns);
    return e != ERR_NONE ? e : client_receive(c, response);
}

/* ---- small things ---- */

void client_pause(struct client *c, uint64_t typical_ns)
{
    struct sim *s = c->run->sim;
    uint64_t until = sim_now(s) + sim_delay_ns(s, DICE_CLIENTS, typical_ns);

    do
        fiber_sleep(s, MIN(until - sim_now(s), SIM_MS(500)));
    while (!c->run->stopping && sim_now(s) < until);
}

void client_think(struct client *c)
{
    c->run->operations++;
    arena_reset(&c->arena);
    client_pause(c, c->run->plan.think_ns);
}

int client_pick_topic(struct client *c)
{
    struct oracle *o = c->run->oracle;
    int count = oracle_topic_count(o);

    for (int attempt = 0; attempt < 8 && count > 0; attempt++) {
        /* The newer ones more often: of the older ones many are gone. */
        int back = (int)client_below(c, (uint64_t)MIN(count, c->run->plan.topics + 3));
        int topic = count - 1 - back;

        if (oracle_topic_state(o, topic) == TOPIC_THERE)
            return topic;
    }
    for (int topic = 0; topic < count; topic++)
        if (oracle_topic_state(o, topic) == TOPIC_THERE)
            return topic;
    return -1;
}

int client_pick_lasting(struct client *c)
{
    int count = MIN(oracle_topic_count(c->run->oracle), c->run->plan.topics);
    int topic = count > 0 ? (int)client_below(c, (uint64_t)count) : -1;

    return topic >= 0 && oracle_topic_state(c->run->oracle, topic) == TOPIC_THERE ? topic : -1;
}

int32_t client_pick_partition(struct client *c, int topic)
{
    return (int32_t)client_below(c, (uint64_t)oracle_topic_partitions(c->run->oracle, topic));
}

struct str client_topic_name(struct client *c, int topic)
{
    return str_from(oracle_topic_name(c->run->oracle, topic));
}

/* Clients' clocks are right; the machine's may not be. */
int64_t client_unix_ms(struct client *c)
{
    return INT64_C(1750000000000) + (int64_t)(sim_now(c->run->sim) / 1000000u);
}

/* ---- records ---- */

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static void fill(uint8_t *p, size_t size, uint64_t value)
{
    uint64_t x = mix(value);

    for (size_t i = 0; i < size; i++) {
        /* Half of it repeats, so that codecs have something to do. */
        p[i] = (i & 64) != 0 ? (uint8_t)value : (uint8_t)(x >> (8 * (i & 7)));
        if ((i & 7) == 7)
            x = mix(x);
    }
}

static uint32_t content_length(struct client *c, uint64_t value)
{
    uint64_t x = mix(value ^ c->run->plan.seed);
    uint32_t typical = (uint32_t)c->run->plan.value_bytes;

    if (x % 400 == 0)
        return CONTENT_MIN + 33000 + (uint32_t)((x >> 32) % 20000);
    return CONTENT_MIN + (uint32_t)((x >> 32) % (typical + 1));
}

static struct bytes record_key(uint64_t value, uint8_t buffer[8])
{
    if (value % 4 == 0)
        return BYTES_NULL;
    store_be64(buffer, mix(value + 1));
    return (struct bytes){buffer, (int32_t)(value % 4 == 1 ? 0 : 8)};
}

static int32_t record_headers(uint64_t value, uint8_t buffer[8], struct record_header out[2])
{
    store_be64(buffer, mix(value + 2));
    out[0] = (struct record_header){STR_LIT("h"), {buffer, 8}};
    out[1] = (struct record_header){STR_EMPTY, BYTES_NULL};
    return (int32_t)(value % 3);
}

static int pick_codec(struct client *c, int16_t produce_version)
{
    if (client_chance(c, 0.5))
        return COMPRESSION_NONE;
    return (int)client_below(c, produce_version >= 7 ? 5 : 4);
}

struct iobuf *client_make_batch(struct client *c, const struct oracle_batch *b,
                                int16_t produce_version)
{
    struct record_batch_builder builder;
    struct iobuf *out = NULL;
    uint8_t *content = xmalloc(CONTENT_MAX);

    record_batch_builder_init(&builder, 0);
    builder.codec = pick_codec(c, produce_version);
    builder.producer_id = b->producer_id;
    builder.producer_epoch = b->producer_epoch;
    builder.base_sequence = b->base_sequence;
    for (int32_t i = 0; i < b->count; i++) {
        uint64_t value = b->first_value + (uint64_t)i;
        uint32_t length = content_length(c, value);
        int64_t timestamp = client_unix_ms(c) - (int64_t)(mix(value) % 5000);
        uint8_t key[8], header[8];
        struct record_header headers[2];

        store_be64(content, value);
        store_be32(content + 8, (uint32_t)b->topic);
        store_be32(content + 12, (uint32_t)b->partition);
        store_be64(content + 16, (uint64_t)timestamp);
        store_be32(content + 24, length);
        fill(content + CONTENT_MIN, length - CONTENT_MIN, value);
        record_batch_builder_add(&builder, timestamp, record_key(value, key),
                                 (struct bytes){content, (int32_t)length}, headers,
                                 record_headers(value, header, headers));
    }
    CHECK(record_batch_builder_finish(&builder, &out) == ERR_NONE);
    record_batch_builder_deinit(&builder);
    free(content);
    return out;
}

static bool same_bytes(struct bytes a, struct bytes b)
{
    return a.len == b.len && (a.len <= 0 || memcmp(a.ptr, b.ptr, (size_t)a.len) == 0);
}

static bool headers_match(const struct record *r, uint64_t value)
{
    uint8_t buffer[8];
    struct record_header want[2];
    int32_t count = record_headers(value, buffer, want);
    struct bytes left = r->headers, got;
    struct str key;

    if (r->header_count != count)
        return false;
    for (int32_t i = 0; i < count; i++)
        if (!record_header_next(&left, &key, &got) || !str_eq(key, want[i].key) ||
            !same_bytes(got, want[i].value))
            return false;
    return true;
}

/* NULL when the record is one that was made above. */
static const char *record_fault(const struct record_batch *b, const struct record *r,
                                uint64_t *value)
{
    uint8_t key[8], *want;
    bool same;

    if (r->value.len < CONTENT_MIN || load_be32(r->value.ptr + 24) != (uint32_t)r->value.len)
        return "a record that nobody has sent";
    *value = load_be64(r->value.ptr);
    want = xmalloc((size_t)r->value.len);
    fill(want, (size_t)r->value.len - CONTENT_MIN, *value);
    same = memcmp(want, r->value.ptr + CONTENT_MIN, (size_t)r->value.len - CONTENT_MIN) == 0;
    free(want);
    if (!same)
        return "a record whose value has changed";
    if (!same_bytes(r->key, record_key(*value, key)))
        return "a record whose key has changed";
    if (!headers_match(r, *value))
        return "a record whose headers have changed";
    if (!record_batch_is_log_append_time(b) &&
        r->timestamp != (int64_t)load_be64(r->value.ptr + 16))
        return "a record whose timestamp has changed";
    return NULL;
}

static bool check_batch(struct client *c, const struct oracle_mark *m, struct oracle_fetch *f,
                        const struct record_batch *b)
{
    struct oracle *o = c->run->oracle;
    struct record_iterator it;
    struct record r;
    enum err e;

    if (!record_batch_crc_ok(b)) {
        oracle_read_garbage(o, f->topic, f->partition, b->base_offset, "a batch with a wrong CRC");
        return false;
    }
    oracle_read_batch(o, m, f, b->base_offset, record_batch_last_offset(b));
    if (record_iterator_init(&it, b, RECORDS_WHOLE, NULL, (size_t)256 << 20) != ERR_NONE) {
        oracle_read_garbage(o, f->topic, f->partition, b->base_offset, "an unknown codec");
        return false;
    }
    while ((e = record_iterator_next(&it, &r)) == ERR_NONE) {
        uint64_t value = 0;
        const char *fault = record_fault(b, &r, &value);

        if (fault != NULL)
            oracle_read_garbage(o, f->topic, f->partition, r.offset, fault);
        else
            oracle_read_record(o, m, f, r.offset, b->partition_leader_epoch, value);
    }
    record_iterator_deinit(&it);
    if (e != ERR_NOT_FOUND) {
        oracle_read_garbage(o, f->topic, f->partition, b->base_offset,
                            "a batch that cannot be read to its end");
        return false;
    }
    return true;
}

int64_t client_check_records(struct client *c, const struct oracle_mark *m, struct oracle_fetch *f,
                             const struct records *records)
{
    struct record_batch_iterator it = {records->ptr, (size_t)MAX(records->len, 0)};
    struct record_batch b;
    int64_t next = f->fetch_offset;
    enum err e;

    f->next = -1;
    while ((e = record_batch_next(&it, &b)) == ERR_NONE) {
        if (!check_batch(c, m, f, &b))
            return record_batch_last_offset(&b) + 1;
        next = record_batch_last_offset(&b) + 1;
    }
    if (e != ERR_NOT_FOUND)
        oracle_read_garbage(c->run->oracle, f->topic, f->partition, next,
                            e == ERR_AGAIN ? "a batch that ends too early"
                                           : "bytes that are no batch");
    return next;
}

/* ---- errors ---- */

static const int16_t produce_errors[] = {
    ERR_NONE,
    ERR_CORRUPT_MESSAGE,
    ERR_UNKNOWN_TOPIC_OR_PARTITION,
    ERR_UNKNOWN_TOPIC_ID,
    ERR_NOT_LEADER_OR_FOLLOWER,
    ERR_REQUEST_TIMED_OUT,
    ERR_MESSAGE_TOO_LARGE,
    ERR_RECORD_LIST_TOO_LARGE,
    ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
    ERR_DUPLICATE_SEQUENCE_NUMBER,
    ERR_INVALID_PRODUCER_EPOCH,
    ERR_UNKNOWN_PRODUCER_ID,
    ERR_KAFKA_STORAGE_ERROR,
    ERR_INVALID_TIMESTAMP,
    ERR_NOT_ENOUGH_REPLICAS,
    ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
};
static const int16_t fetch_errors[] = {
    ERR_NONE,
    ERR_OFFSET_OUT_OF_RANGE,
    ERR_UNKNOWN_TOPIC_OR_PARTITION,
    ERR_UNKNOWN_TOPIC_ID,
    ERR_NOT_LEADER_OR_FOLLOWER,
    ERR_KAFKA_STORAGE_ERROR,
    ERR_FETCH_SESSION_ID_NOT_FOUND,
    ERR_INVALID_FETCH_SESSION_EPOCH,
    ERR_FETCH_SESSION_TOPIC_ID_ERROR,
    ERR_INCONSISTENT_TOPIC_ID,
    ERR_FENCED_LEADER_EPOCH,
    ERR_UNKNOWN_LEADER_EPOCH,
    ERR_UNSUPPORTED_COMPRESSION_TYPE,
    ERR_OFFSET_NOT_AVAILABLE,
};
static const int16_t other_errors[] = {
    ERR_NONE,
    ERR_OFFSET_OUT_OF_RANGE,
    ERR_UNKNOWN_TOPIC_OR_PARTITION,
    ERR_UNKNOWN_TOPIC_ID,
    ERR_LEADER_NOT_AVAILABLE,
    ERR_NOT_LEADER_OR_FOLLOWER,
    ERR_REQUEST_TIMED_OUT,
    ERR_COORDINATOR_LOAD_IN_PROGRESS,
    ERR_NOT_CONTROLLER,
    ERR_TOPIC_ALREADY_EXISTS,
    ERR_INVALID_PARTITIONS,
    ERR_INVALID_REPLICATION_FACTOR,
    ERR_KAFKA_STORAGE_ERROR,
    ERR_OFFSET_NOT_AVAILABLE,
    ERR_UNSUPPORTED_VERSION,
    ERR_FENCED_LEADER_EPOCH,
    ERR_UNKNOWN_LEADER_EPOCH,
    ERR_THROTTLING_QUOTA_EXCEEDED,
};

void client_check_error(struct client *c, int16_t api_key, int16_t code)
{
    const int16_t *legal = other_errors;
    size_t count = ARRAY_COUNT(other_errors);

    if (api_key == API_PRODUCE) {
        legal = produce_errors;
        count = ARRAY_COUNT(produce_errors);
    } else if (api_key == API_FETCH) {
        legal = fetch_errors;
        count = ARRAY_COUNT(fetch_errors);
    }
    sim_checked(c->run->sim, "P9");
    for (size_t i = 0; i < count; i++)
        if (legal[i] == code)
            return;
    sim_violation(c->run->sim, "P9", "%s v%d is answered with error %d (%s)",
                  api_find(api_key)->name, c->versions[api_key], code, err_name((enum err)code));
}
