/* tests/sim/workload_hostile.c -- who does not keep to the protocol: garbage, half frames, frames
 * that lie, batches with a byte changed, and readers that do not read. It gets an error or a closed
 * connection (P9), and nobody else notices.
 */
#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "tests/sim/client.h"

static void random_bytes(struct client *c, uint8_t *p, size_t size)
{
    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)sim_random(c->run->sim, DICE_CLIENTS);
}

/* Whatever comes, until it ends or it takes too long. */
static void drain(struct client *c, uint64_t patience_ns)
{
    uint64_t until = sim_now(c->run->sim) + patience_ns;
    uint8_t p[64];

    while (net_read(c->socket, p, 1, until) == ERR_NONE)
        ;
    client_close(c);
}

static void send_garbage(struct client *c)
{
    uint8_t p[600];
    size_t size = 1 + client_below(c, sizeof p);

    random_bytes(c, p, size);
    if (client_chance(c, 0.7) && size > 8)
        store_be32(p, (uint32_t)(client_chance(c, 0.5) ? size - 4 : client_below(c, 1u << 31)));
    if (client_write(c, p, size) == ERR_NONE)
        drain(c, SIM_MS(200));
}

/* A request without harm, as bytes. */
static size_t make_request(struct client *c, uint8_t *out, size_t size)
{
    struct fetch_request q;
    struct fetch_request_fetch_topic t;
    struct fetch_request_fetch_partition p;
    struct ioqueue queue;
    size_t used = 0;
    int topic = client_pick_topic(c);

    codec_init(&fetch_request_desc, &q);
    codec_init(&fetch_request_fetch_topic_desc, &t);
    codec_init(&fetch_request_fetch_partition_desc, &p);
    p.partition_max_bytes = 1 << 20;
    t.topic = topic >= 0 ? client_topic_name(c, topic) : STR_LIT("none");
    t.partitions.v = &p;
    t.partitions.n = 1;
    q.max_wait_ms = 10;
    q.topics.v = &t;
    q.topics.n = 1;
    ioqueue_init(&queue);
    CHECK(request_encode(api_find(API_FETCH), (int16_t)(4 + client_below(c, 9)), 7,
                         STR_LIT("hostile"), &q, &queue) == ERR_NONE);
    for (size_t i = 0; i < queue.count; i++) {
        const struct ioslice *slice = ioqueue_at(&queue, i);

        CHECK(used + slice->len <= size);
        memcpy(out + used, slice->buf->ptr + slice->offset, slice->len);
        used += slice->len;
    }
    ioqueue_deinit(&queue);
    return used;
}

static void send_mutated(struct client *c)
{
    uint8_t p[400];
    size_t size = make_request(c, p, sizeof p);
    int flips = 1 + (int)client_below(c, 4);

    /* Key and version stay: a mutation must not become a request with effects. */
    for (int i = 0; i < flips; i++)
        p[8 + client_below(c, size - 8)] ^= (uint8_t)(1u << client_below(c, 8));
    if (client_write(c, p, size) == ERR_NONE)
        drain(c, SIM_MS(500));
}

static void send_half(struct client *c)
{
    uint8_t p[400];
    size_t size = make_request(c, p, sizeof p);

    if (client_write(c, p, 1 + client_below(c, size - 1)) != ERR_NONE)
        return;
    client_pause(c, SIM_S(1));
    client_close(c);
}

/* Many requests, no reading. */
static void do_not_read(struct client *c)
{
    uint8_t p[400];

    for (int i = 0; i < 40 && c->socket != NULL; i++) {
        size_t size = make_request(c, p, sizeof p);

        if (net_write(c->socket, p, size, sim_now(c->run->sim) + SIM_MS(500)) != ERR_NONE)
            break;
    }
    client_pause(c, SIM_S(2));
    client_close(c);
}

/* A batch of which a byte under the CRC was changed must be refused and leave nothing. */
static void send_corrupt(struct client *c)
{
    struct oracle *o = c->run->oracle;
    int topic = client_pick_topic(c);
    struct produce_request q;
    struct produce_request_topic_produce_data t;
    struct produce_request_partition_produce_data p;
    struct oracle_batch b;
    struct oracle_mark mark;
    struct iobuf *bytes;
    void *answer = NULL;
    enum err e;

    if (topic < 0)
        return;
    b = (struct oracle_batch){
        .topic = topic,
        .partition = client_pick_partition(c, topic),
        .first_value = oracle_values_new(o, 1),
        .count = 1,
        .producer_id = -1,
        .producer_epoch = -1,
        .base_sequence = -1,
        .acks = 1,
        .by_name = client_version(c, API_PRODUCE) < 13,
    };
    bytes = client_make_batch(c, &b, client_version(c, API_PRODUCE));
    iobuf_bytes(bytes)[21 + client_below(c, bytes->len - 21)] ^=
        (uint8_t)(1u << client_below(c, 8));
    codec_init(&produce_request_desc, &q);
    codec_init(&produce_request_topic_produce_data_desc, &t);
    codec_init(&produce_request_partition_produce_data_desc, &p);
    t.topic_id = *oracle_topic_id(o, topic);
    t.name = client_topic_name(c, topic);
    t.partition_data.v = &p;
    t.partition_data.n = 1;
    p.index = b.partition;
    p.records = (struct records){bytes->ptr, (int32_t)bytes->len, NULL};
    q.transactional_id = STR_NULL;
    q.acks = 1;
    q.timeout_ms = 1000;
    q.topic_data.v = &t;
    q.topic_data.n = 1;
    mark = oracle_sending(o, &b);
    e = client_call(c, API_PRODUCE, &q, SIM_S(1), &answer);
    iobuf_unref(bytes);
    /* Whatever became of the answer: what is corrupt is never written. */
    oracle_sent(o, &mark, &b, ORACLE_REFUSED, -1);
    sim_checked(c->run->sim, "P9");
    if (e == ERR_NONE && ((const struct produce_response *)answer)
                                 ->responses.v[0]
                                 .partition_responses.v[0]
                                 .error_code == ERR_NONE)
        sim_violation(c->run->sim, "P9", "a batch with a wrong CRC is acknowledged");
    if (e == ERR_NONE)
        sim_count(c->run->sim, "corrupt batch refused");
}

void workload_hostile(struct client *c)
{
    while (!c->run->stopping) {
        client_think(c);
        if (!client_connect(c, SIM_S(5)))
            continue;
        switch (client_below(c, 5)) {
        case 0:
            send_garbage(c);
            break;
        case 1:
            send_mutated(c);
            break;
        case 2:
            send_half(c);
            break;
        case 3:
            do_not_read(c);
            break;
        default:
            send_corrupt(c);
            break;
        }
        sim_count(c->run->sim, "hostile act");
    }
}
