/* raft-meta/raft_transport.c -- see raft_transport.h. */
#include "raft-meta/raft_transport.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/api.h"
#include "protocol/base/hmap.h"
#include "raft-meta/raft_wire.h"

#define PROTOCOL_VERSION 1
#define NONCE_SIZE       32
#define MAC_SIZE         32
#define READ_BYTES       (64 << 10)
#define READS_PER_EVENT  16
#define CONNECTIONS_MAX  64 /* accepted ones */
#define TOLD_MAX         256
#define MS               1000000ull
#define SWEEP_NS         (100 * MS)
#define HANDSHAKE_NS     (3000 * MS)
#define CONNECT_NS       (2000 * MS)
#define SILENCE_NS       (3000 * MS) /* and for taking what we send */
#define PING_NS          (500 * MS)
#define RETRY_FIRST_NS   (20 * MS)
#define RETRY_MAX_NS     (1000 * MS)
#define RETRY_REFUSED_US 5000 /* jitter of the first retry, on top: refusals >= 20 ms apart */
#define DIALER_LABEL     "fluxmq peer, dialer"
#define ACCEPTOR_LABEL   "fluxmq peer, acceptor"

enum refusal {
    REFUSED_BYTES,
    REFUSED_TYPE,
    REFUSED_LENGTH,
    REFUSED_CHECKSUM,
    REFUSED_MESSAGE,
    REFUSED_VERSION,
    REFUSED_CLUSTER,
    REFUSED_USED_ID,
    REFUSED_OTHER_NODE,
    REFUSED_PROOF,
    REFUSED_INSECURE,
    REFUSED_TOO_MANY,
    REFUSED_LATE,
    REFUSED_SLOW,
    REFUSAL_COUNT,
};

struct refusal_text {
    const char *label, *text;
};

/* `text` is also what the peer is told. */
static const struct refusal_text refusal_texts[REFUSAL_COUNT] = {
    [REFUSED_BYTES] = {"bytes", "sends bytes that are not of this protocol"},
    [REFUSED_TYPE] = {"type", "sends a frame of a type that is unknown or not yet allowed"},
    [REFUSED_LENGTH] = {"length", "sends a frame that is too long"},
    [REFUSED_CHECKSUM] = {"checksum", "sends a frame whose checksum is wrong"},
    [REFUSED_MESSAGE] = {"message", "sends a message that cannot be right"},
    [REFUSED_VERSION] = {"version", "speaks another version of the peer protocol"},
    [REFUSED_CLUSTER] = {"cluster", "belongs to another cluster"},
    [REFUSED_USED_ID] = {"used_id", "claims a node id or directory that is in use"},
    [REFUSED_OTHER_NODE] = {"other_node",
                            "is not the node that controller.quorum.voters names there"},
    [REFUSED_PROOF] = {"proof", "has another cluster.secret"},
    [REFUSED_INSECURE] = {"insecure", "does not come from loopback, and there is no cluster.secret "
                                      "(set the same one on all nodes)"},
    [REFUSED_TOO_MANY] = {"too_many", "is one connection too many"},
    [REFUSED_LATE] = {"late", "did not introduce itself in time"},
    [REFUSED_SLOW] = {"slow", "does not take what it is sent"},
};

enum phase { PHASE_HELLO, PHASE_PROOF, PHASE_OPEN };

struct hello_bytes {
    uint8_t bytes[PEER_HELLO_BYTES_MAX];
    size_t size;
};

struct bulk_frame {
    struct list_node node;
    struct ioqueue bytes;
};

struct peer;

struct peer_conn {
    struct list_node node; /* transport.accepted; unlinked when dialed */
    struct transport *t;
    struct stream *stream;
    struct peer *peer; /* whom we dialed, or NULL */
    enum phase phase;
    bool dead;
    struct peer_identity who;
    uint64_t voters_digest;
    struct hello_bytes mine, theirs;
    uint64_t began_ns, heard_ns, sent_ns, progress_ns;
    /* in */
    uint8_t *in;
    size_t in_size, in_capacity;
    /* out: what is being written; what waits for it to end; a snapshot after that */
    struct ioqueue out;
    struct list bulk;
    size_t bulk_bytes;
    struct iobuf *snapshot;
    size_t snapshot_offset;
    uint64_t snapshot_index;
};

/* A voter that we dial. */
struct peer {
    struct transport *t;
    struct voter voter;
    struct connecting connecting;
    struct loop_timer retry;
    struct peer_conn *conn;
    struct peer_identity last; /* whom the last connection had reached */
    bool has_last;
    int failures;
    uint64_t lost_ns;    /* when that connection was lost; 0: no evidence is being gathered */
    uint64_t refused_ns; /* the first refusal since */
};

struct transport {
    struct transport_options o;
    struct listener *listener;
    char *secret; /* NULL: none */
    struct peer peers[TRANSPORT_VOTERS_MAX];
    int peer_count;
    struct list accepted;
    int accepted_count;
    struct peer_state state;
    struct loop_timer sweep, reap;
    uint64_t told[TOLD_MAX]; /* hashes of (host, reason) that the log knows of */
    int told_count;
    bool closing;
    struct counter refused[REFUSAL_COUNT];
    struct counter frames_in, frames_out, bytes_in, bytes_out, connects, connections;
};

static uint64_t now_ns(const struct transport *t)
{
    return env_now_ns(t->o.env);
}

/* ---- the end of a connection ---- */

static void retry_later(struct peer *p);

static void drop_snapshot(struct peer_conn *c)
{
    if (c->snapshot != NULL)
        iobuf_unref(c->snapshot);
    c->snapshot = NULL;
}

static void conn_close(struct peer_conn *c)
{
    struct transport *t = c->t;
    struct peer *p = c->peer;
    struct list_node *node;
    bool was_open = c->phase == PHASE_OPEN;

    if (list_linked(&c->node)) {
        list_remove(&c->node);
        t->accepted_count--;
    }
    stream_close(c->stream);
    free(c->in);
    ioqueue_deinit(&c->out);
    while ((node = list_pop_front(&c->bulk)) != NULL) {
        struct bulk_frame *f = list_entry(node, struct bulk_frame, node);

        ioqueue_deinit(&f->bytes);
        free(f);
    }
    drop_snapshot(c);
    if (p != NULL) {
        p->conn = NULL;
        /* One that never opened ends no gathering: a process that is being killed may still have
         * taken it. */
        if (was_open)
            p->lost_ns = now_ns(t);
        p->refused_ns = 0;
        if (was_open)
            p->failures = 0;
    }
    free(c);
    if (p == NULL || t->closing)
        return;
    if (was_open)
        t->o.on_link(t->o.ctx, p->voter.node_id, false);
    retry_later(p);
}

/* Safe anywhere: the connection is closed from the loop. */
static void conn_kill(struct peer_conn *c)
{
    if (c->dead)
        return;
    c->dead = true;
    stream_want(c->stream, 0);
    loop_timer_set(&c->t->reap, now_ns(c->t));
}

static void on_reap(struct loop_timer *timer)
{
    struct transport *t = CONTAINER_OF(timer, struct transport, reap);

    list_for_each_safe (node, &t->accepted) {
        struct peer_conn *c = list_entry(node, struct peer_conn, node);

        if (c->dead)
            conn_close(c);
    }
    for (int i = 0; i < t->peer_count; i++) {
        if (t->peers[i].conn != NULL && t->peers[i].conn->dead)
            conn_close(t->peers[i].conn);
    }
}

/* ---- refusing ---- */

static bool is_news(struct transport *t, const char *host, enum refusal why)
{
    uint64_t hash = hash_bytes((uint64_t)why + 1, host, strlen(host));

    for (int i = 0; i < t->told_count; i++) {
        if (t->told[i] == hash)
            return false;
    }
    if (t->told_count == TOLD_MAX)
        return false;
    t->told[t->told_count++] = hash;
    return true;
}

static void note_refusal(struct transport *t, struct stream *s, enum refusal why)
{
    counter_add(&t->refused[why], 1);
    if (is_news(t, stream_peer_host(s), why))
        log_warn(t->o.logger, "peer", "%s: refused: it %s (told once for this peer)",
                 stream_peer(s), refusal_texts[why].text);
}

static void conn_flush(struct peer_conn *c);

static void send_message(struct peer_conn *c, enum peer_frame_type type,
                         const struct codec_struct *d, const void *message)
{
    struct ioqueue payload;
    enum err e;

    ioqueue_init(&payload);
    e = codec_encode(d, 0, message, &payload);
    CHECK(e == ERR_NONE);
    peer_frame_write(type, &payload, &c->out);
    ioqueue_deinit(&payload);
    counter_add(&c->t->frames_out, 1);
    conn_flush(c);
}

/* Who speaks our protocol is told why; others are not answered. */
static void conn_refuse(struct peer_conn *c, enum refusal why)
{
    struct peer_refusal r;

    if (c->dead)
        return;
    note_refusal(c->t, c->stream, why);
    if (why != REFUSED_BYTES && why != REFUSED_SLOW) {
        codec_init(&peer_refusal_desc, &r);
        r.reason = str_from(refusal_texts[why].text);
        send_message(c, PEER_REFUSAL, &peer_refusal_desc, &r);
    }
    conn_kill(c);
}

/* ---- writing ---- */

/* What waits moves up when nothing more urgent is being written. */
static bool next_bulk(struct peer_conn *c)
{
    struct list_node *node = list_pop_front(&c->bulk);

    if (node != NULL) {
        struct bulk_frame *f = list_entry(node, struct bulk_frame, node);

        c->bulk_bytes -= f->bytes.bytes_total;
        ioqueue_splice(&c->out, &f->bytes);
        ioqueue_deinit(&f->bytes);
        free(f);
        return true;
    }
    if (c->snapshot == NULL)
        return false;
    if (c->snapshot_offset < c->snapshot->len) {
        c->snapshot_offset =
            wire_encode_chunk(c->snapshot_index, c->snapshot, c->snapshot_offset, &c->out);
        return true;
    }
    drop_snapshot(c);
    c->t->o.on_snapshot_sent(c->t->o.ctx, c->who.node_id);
    return c->out.bytes_total > 0;
}

static void conn_flush(struct peer_conn *c)
{
    enum err e = ERR_NONE;

    if (c->dead)
        return;
    if (c->out.bytes_total == 0)
        c->progress_ns = now_ns(c->t);
    while (c->out.bytes_total > 0 || next_bulk(c)) {
        size_t before = c->out.bytes_total;

        e = stream_send(c->stream, &c->out);
        if (c->out.bytes_total < before) {
            counter_add(&c->t->bytes_out, before - c->out.bytes_total);
            c->progress_ns = c->sent_ns = now_ns(c->t);
        }
        if (e != ERR_NONE)
            break;
    }
    if (e == ERR_CLOSED) {
        conn_kill(c);
        return;
    }
    stream_want(c->stream, STREAM_READABLE | (e == ERR_AGAIN ? (unsigned)STREAM_WRITABLE : 0));
}

static size_t conn_backlog(const struct peer_conn *c)
{
    return c->out.bytes_total + c->bulk_bytes;
}

static bool conn_send(struct peer_conn *c, struct ioqueue *frames, bool bulk)
{
    bool was_idle;

    if (c == NULL || c->dead || c->phase != PHASE_OPEN)
        return false;
    if (conn_backlog(c) + frames->bytes_total > TRANSPORT_QUEUE_BYTES_MAX) {
        conn_refuse(c, REFUSED_SLOW);
        return false;
    }
    counter_add(&c->t->frames_out, 1);
    was_idle = c->out.bytes_total == 0;
    if (was_idle)
        c->progress_ns = now_ns(c->t);
    if (bulk && !was_idle) {
        struct bulk_frame *f = xcalloc(1, sizeof *f);

        ioqueue_init(&f->bytes);
        ioqueue_splice(&f->bytes, frames);
        c->bulk_bytes += f->bytes.bytes_total;
        list_push_back(&c->bulk, &f->node);
    } else {
        ioqueue_splice(&c->out, frames);
    }
    if (was_idle)
        conn_flush(c);
    return true;
}

/* ---- who is who ---- */

static struct peer *peer_of(const struct transport *t, int32_t node_id)
{
    for (int i = 0; i < t->peer_count; i++) {
        if (t->peers[i].voter.node_id == node_id)
            return (struct peer *)(uintptr_t)&t->peers[i];
    }
    return NULL;
}

static struct peer_conn *accepted_of(const struct transport *t, int32_t node_id)
{
    list_for_each (node, &t->accepted) {
        struct peer_conn *c = list_entry(node, struct peer_conn, node);

        if (c->phase == PHASE_OPEN && !c->dead && c->who.node_id == node_id)
            return c;
    }
    return NULL;
}

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strncmp(host, "::ffff:127.", 11) == 0;
}

static bool may_be_heard(const struct transport *t, struct stream *s)
{
    return t->secret != NULL || t->o.allow_insecure || is_loopback(stream_peer_host(s));
}

/* ---- introducing each other ---- */

static void proof_of(const struct peer_conn *c, bool by_dialer, uint8_t mac[MAC_SIZE])
{
    const struct hello_bytes *dialer = c->peer != NULL ? &c->mine : &c->theirs;
    const struct hello_bytes *acceptor = c->peer != NULL ? &c->theirs : &c->mine;
    const char *label = by_dialer ? DIALER_LABEL : ACCEPTOR_LABEL;
    uint8_t *text = xmalloc(64 + 2 * PEER_HELLO_BYTES_MAX);
    unsigned mac_size = MAC_SIZE;
    size_t at = strlen(label) + 1;

    memcpy(text, label, at);
    store_be32(text + at, (uint32_t)dialer->size);
    at += 4;
    memcpy(text + at, dialer->bytes, dialer->size);
    at += dialer->size;
    memcpy(text + at, acceptor->bytes, acceptor->size);
    at += acceptor->size;
    CHECK(HMAC(EVP_sha256(), c->t->secret, (int)strlen(c->t->secret), text, at, mac, &mac_size) !=
          NULL);
    free(text);
}

static void send_hello(struct peer_conn *c)
{
    struct transport *t = c->t;
    uint8_t nonce[NONCE_SIZE];
    struct peer_hello h;
    struct ioqueue payload;
    enum err e;

    env_random(t->o.env, nonce, sizeof nonce);
    codec_init(&peer_hello_desc, &h);
    h.protocol_version = PROTOCOL_VERSION;
    h.cluster_id = str_from(t->state.cluster_id);
    h.node_id = t->o.self.node_id;
    h.directory_id = t->o.self.directory_id;
    h.incarnation = t->o.self.incarnation;
    h.voters_digest = (int64_t)t->state.voters_digest;
    h.nonce = (struct bytes){nonce, sizeof nonce};
    ioqueue_init(&payload);
    e = codec_encode(&peer_hello_desc, 0, &h, &payload);
    CHECK(e == ERR_NONE);
    CHECK(payload.count == 1);
    c->mine.size = payload.bytes_total;
    CHECK(c->mine.size <= sizeof c->mine.bytes);
    memcpy(c->mine.bytes, ioqueue_at(&payload, 0)->buf->ptr + ioqueue_at(&payload, 0)->offset,
           c->mine.size);
    peer_frame_write(PEER_HELLO, &payload, &c->out);
    ioqueue_deinit(&payload);
    conn_flush(c);
}

static void send_proof(struct peer_conn *c)
{
    uint8_t mac[MAC_SIZE];
    struct peer_proof p;

    codec_init(&peer_proof_desc, &p);
    p.mac = (struct bytes){mac, 0};
    if (c->t->secret != NULL) {
        proof_of(c, c->peer != NULL, mac);
        p.mac.len = MAC_SIZE;
    }
    send_message(c, PEER_PROOF, &peer_proof_desc, &p);
}

static void send_state(struct peer_conn *c)
{
    const struct peer_state *s = &c->t->state;
    struct peer_state_message_peer_voter voters[TRANSPORT_VOTERS_MAX];
    struct peer_state_message m;

    codec_init(&peer_state_message_desc, &m);
    m.cluster_id = str_from(s->cluster_id);
    m.formed = s->formed;
    m.first = s->first;
    for (int i = 0; i < s->voter_count; i++)
        voters[i] =
            (struct peer_state_message_peer_voter){.raft_id = (int64_t)s->voters[i].raft_id,
                                                   .node_id = s->voters[i].node_id,
                                                   .directory_id = s->voters[i].directory_id};
    m.voters.v = voters;
    m.voters.n = s->voter_count;
    send_message(c, PEER_STATE, &peer_state_message_desc, &m);
}

static bool is_other_cluster(const struct transport *t, struct str theirs)
{
    return theirs.len > 0 && t->state.cluster_id[0] != 0 &&
           !str_eq_lit(theirs, t->state.cluster_id);
}

/* A peer that came back in a new process, or dialed again before we noticed its loss, takes the
 * place of its old connection; another directory under a node id that is in use does not. */
static bool takes_used_id(struct peer_conn *c)
{
    struct peer_conn *old;

    if (c->who.node_id == c->t->o.self.node_id ||
        uuid_eq(&c->who.directory_id, &c->t->o.self.directory_id))
        return true;
    if (c->peer != NULL)
        return false;
    old = accepted_of(c->t, c->who.node_id);
    return old != NULL && !uuid_eq(&old->who.directory_id, &c->who.directory_id);
}

static void on_hello(struct peer_conn *c, struct bytes payload)
{
    struct peer_hello h;
    struct arena a;
    size_t used;
    enum err e;

    c->theirs.size = (size_t)payload.len;
    memcpy(c->theirs.bytes, payload.ptr, c->theirs.size);
    arena_init(&a, PEER_HELLO_BYTES_MAX * 4);
    e = codec_decode(&peer_hello_desc, 0, payload.ptr, (size_t)payload.len, &a, &h, &used);
    if (e != ERR_NONE || h.node_id < 0 || h.nonce.len != NONCE_SIZE ||
        h.cluster_id.len >= CLUSTER_ID_TEXT_MAX) {
        conn_refuse(c, e == ERR_NONE ? REFUSED_MESSAGE : REFUSED_VERSION);
        arena_deinit(&a);
        return;
    }
    c->who = (struct peer_identity){
        .node_id = h.node_id, .directory_id = h.directory_id, .incarnation = h.incarnation};
    c->voters_digest = (uint64_t)h.voters_digest;
    if (h.protocol_version != PROTOCOL_VERSION)
        conn_refuse(c, REFUSED_VERSION);
    else if (is_other_cluster(c->t, h.cluster_id))
        conn_refuse(c, REFUSED_CLUSTER);
    else if (c->peer != NULL && h.node_id != c->peer->voter.node_id)
        conn_refuse(c, REFUSED_OTHER_NODE);
    else if (takes_used_id(c))
        conn_refuse(c, REFUSED_USED_ID);
    else
        c->phase = PHASE_PROOF;
    arena_deinit(&a);
    if (c->dead || c->peer != NULL)
        return;
    send_hello(c);
    send_proof(c);
}

static bool proof_fits(const struct peer_conn *c, struct bytes mac)
{
    uint8_t expected[MAC_SIZE];

    if (c->t->secret == NULL)
        return mac.len == 0;
    if (mac.len != MAC_SIZE)
        return false;
    proof_of(c, c->peer == NULL, expected);
    return CRYPTO_memcmp(mac.ptr, expected, MAC_SIZE) == 0;
}

static void conn_opened(struct peer_conn *c)
{
    struct transport *t = c->t;
    struct peer_conn *old = c->peer == NULL ? accepted_of(t, c->who.node_id) : NULL;

    if (old != NULL)
        conn_kill(old);
    c->phase = PHASE_OPEN;
    if (c->peer != NULL) {
        send_proof(c);
        c->peer->failures = 0;
        c->peer->lost_ns = 0;
        c->peer->last = c->who;
        c->peer->has_last = true;
    }
    counter_add(&t->connections, 1);
    log_debug(t->o.logger, "peer", "%s: node %d, %s", stream_peer(c->stream), c->who.node_id,
              c->peer != NULL ? "dialed" : "accepted");
    send_state(c);
    if (c->peer != NULL && !c->dead)
        t->o.on_link(t->o.ctx, c->who.node_id, true);
}

static void on_proof(struct peer_conn *c, struct bytes payload)
{
    struct peer_proof p;
    struct arena a;
    size_t used;

    arena_init(&a, PEER_HELLO_BYTES_MAX);
    if (codec_decode(&peer_proof_desc, 0, payload.ptr, (size_t)payload.len, &a, &p, &used) !=
            ERR_NONE ||
        !proof_fits(c, p.mac))
        conn_refuse(c, REFUSED_PROOF);
    else if (takes_used_id(c)) /* another one proved itself meanwhile */
        conn_refuse(c, REFUSED_USED_ID);
    else
        conn_opened(c);
    arena_deinit(&a);
}

/* ---- what comes in ---- */

static void on_refusal(struct peer_conn *c, struct bytes payload)
{
    struct transport *t = c->t;
    struct peer_refusal r;
    struct arena a;
    size_t used;

    arena_init(&a, PEER_HELLO_BYTES_MAX);
    if (codec_decode(&peer_refusal_desc, 0, payload.ptr, (size_t)payload.len, &a, &r, &used) ==
            ERR_NONE &&
        is_news(t, stream_peer_host(c->stream), REFUSAL_COUNT)) {
        char text[160];
        size_t n = 0;

        for (int32_t i = 0; i < r.reason.len && n + 1 < sizeof text; i++)
            text[n++] = r.reason.ptr[i] >= ' ' && r.reason.ptr[i] < 127 ? r.reason.ptr[i] : '?';
        text[n] = 0;
        log_warn(t->o.logger, "peer", "%s refuses this node: it %s (told once for this peer)",
                 stream_peer(c->stream), text);
    }
    arena_deinit(&a);
    conn_kill(c);
}

static void on_state_message(struct peer_conn *c, struct bytes payload)
{
    struct peer_state s = {.voters_digest = c->voters_digest};
    struct peer_state_message m;
    struct arena a;
    size_t used;
    enum err e;

    arena_init(&a, PEER_FRAME_HEADER_SIZE * 4096);
    e = codec_decode(&peer_state_message_desc, 0, payload.ptr, (size_t)payload.len, &a, &m, &used);
    if (e != ERR_NONE || m.cluster_id.len < 0 || m.cluster_id.len >= CLUSTER_ID_TEXT_MAX ||
        m.voters.n < 0 || m.voters.n > TRANSPORT_VOTERS_MAX) {
        conn_refuse(c, REFUSED_MESSAGE);
    } else if (is_other_cluster(c->t, m.cluster_id)) {
        conn_refuse(c, REFUSED_CLUSTER);
    } else {
        memcpy(s.cluster_id, m.cluster_id.ptr, (size_t)m.cluster_id.len);
        s.formed = m.formed;
        s.first = m.first;
        s.voter_count = m.voters.n;
        for (int i = 0; i < s.voter_count; i++)
            s.voters[i] = (struct quorum_member){.raft_id = (uint64_t)m.voters.v[i].raft_id,
                                                 .node_id = m.voters.v[i].node_id,
                                                 .directory_id = m.voters.v[i].directory_id};
        c->t->o.on_state(c->t->o.ctx, &c->who, &s);
    }
    arena_deinit(&a);
}

static bool is_answer_type(enum peer_frame_type type)
{
    return type == PEER_FORWARD_RESULT || type == PEER_BARRIER_RESULT ||
           type == PEER_HEARTBEAT_RESULT;
}

static void on_open_frame(struct peer_conn *c, enum peer_frame_type type, struct bytes payload)
{
    bool dialed = c->peer != NULL;

    if (type == PEER_PING) {
        if (!dialed) {
            struct peer_ping p;

            codec_init(&peer_ping_desc, &p);
            send_message(c, PEER_PING, &peer_ping_desc, &p);
        }
    } else if (type == PEER_STATE) {
        on_state_message(c, payload);
    } else if (type <= PEER_STATE || dialed != is_answer_type(type)) {
        conn_refuse(c, REFUSED_TYPE);
    } else if (!c->t->o.on_frame(c->t->o.ctx, &c->who, dialed, type, payload)) {
        conn_refuse(c, REFUSED_MESSAGE);
    }
}

static void on_frame(struct peer_conn *c, enum peer_frame_type type, struct bytes payload)
{
    counter_add(&c->t->frames_in, 1);
    c->heard_ns = now_ns(c->t);
    if (type == PEER_REFUSAL)
        on_refusal(c, payload);
    else if (c->phase == PHASE_HELLO && type == PEER_HELLO)
        on_hello(c, payload);
    else if (c->phase == PHASE_PROOF && type == PEER_PROOF)
        on_proof(c, payload);
    else if (c->phase == PHASE_OPEN)
        on_open_frame(c, type, payload);
    else
        conn_refuse(c, REFUSED_TYPE);
}

static enum refusal refusal_of(enum err e)
{
    return e == ERR_MALFORMED             ? REFUSED_BYTES
           : e == ERR_UNSUPPORTED_VERSION ? REFUSED_TYPE
                                          : REFUSED_LENGTH;
}

/* The whole frames that have come; what is left moves to the front. */
static void parse(struct peer_conn *c)
{
    size_t at = 0;

    while (!c->dead && at < c->in_size) {
        const uint8_t *ptr = c->in + at;
        struct peer_frame f;
        enum err e = peer_frame_read(ptr, c->in_size - at, c->phase == PHASE_OPEN, &f);

        if (e == ERR_AGAIN)
            break;
        if (e != ERR_NONE) {
            conn_refuse(c, refusal_of(e));
            return;
        }
        if (c->in_size - at < PEER_FRAME_HEADER_SIZE + f.length)
            break;
        if (!peer_frame_check(ptr, &f)) {
            conn_refuse(c, REFUSED_CHECKSUM);
            return;
        }
        on_frame(c, f.type,
                 (struct bytes){ptr + PEER_FRAME_HEADER_SIZE, to_int32_checked((int64_t)f.length)});
        at += PEER_FRAME_HEADER_SIZE + f.length;
    }
    c->in_size -= at;
    if (at > 0 && c->in_size > 0)
        memmove(c->in, c->in + at, c->in_size);
    if (c->in_size == 0 && c->in_capacity > 4 * READ_BYTES) {
        free(c->in);
        c->in = NULL;
        c->in_capacity = 0;
    }
}

/* The buffer grows with what has arrived, not with what a header promises. */
static void read_some(struct peer_conn *c)
{
    for (int i = 0; i < READS_PER_EVENT && !c->dead; i++) {
        size_t n = 0;
        enum err e;

        if (c->in_capacity - c->in_size < READ_BYTES) {
            c->in_capacity = MAX(2 * c->in_capacity, c->in_size + READ_BYTES);
            c->in = xrealloc(c->in, c->in_capacity);
        }
        e = stream_read(c->stream, c->in + c->in_size, c->in_capacity - c->in_size, &n);
        if (e == ERR_AGAIN)
            return;
        if (e != ERR_NONE || n == 0) {
            conn_kill(c);
            return;
        }
        counter_add(&c->t->bytes_in, n);
        c->in_size += n;
        parse(c);
    }
}

static void on_event(struct stream *s, unsigned events)
{
    struct peer_conn *c = s->ctx;

    if (!c->dead && (events & (STREAM_READABLE | STREAM_HANGUP)) != 0)
        read_some(c);
    if (!c->dead && (events & STREAM_WRITABLE) != 0)
        conn_flush(c);
    if (c->dead)
        conn_close(c);
}

/* ---- connections come to be ---- */

static struct peer_conn *conn_new(struct transport *t, struct stream *s, struct peer *p)
{
    struct peer_conn *c = xcalloc(1, sizeof *c);

    c->t = t;
    c->stream = s;
    c->peer = p;
    c->began_ns = c->heard_ns = c->sent_ns = c->progress_ns = now_ns(t);
    ioqueue_init(&c->out);
    list_init(&c->bulk);
    stream_attach(s, t->o.loop, on_event, c);
    stream_want(s, STREAM_READABLE);
    return c;
}

/* Whoever has not introduced himself gives way to the next. */
static bool make_room(struct transport *t)
{
    if (t->accepted_count < CONNECTIONS_MAX)
        return true;
    list_for_each (node, &t->accepted) {
        struct peer_conn *c = list_entry(node, struct peer_conn, node);

        if (c->phase != PHASE_OPEN) {
            note_refusal(t, c->stream, REFUSED_TOO_MANY);
            conn_close(c);
            return true;
        }
    }
    return false;
}

static void on_accept(void *ctx, struct stream *s)
{
    struct transport *t = ctx;
    struct peer_conn *c;

    if (!may_be_heard(t, s) || !make_room(t)) {
        note_refusal(t, s, may_be_heard(t, s) ? REFUSED_TOO_MANY : REFUSED_INSECURE);
        stream_close(s);
        return;
    }
    c = conn_new(t, s, NULL);
    list_push_back(&t->accepted, &c->node);
    t->accepted_count++;
}

/* Evidence [H9]: an established connection was lost, the machine said twice that nobody listens
 * there, and the node's own connection to us is gone too: while it is there, its process is. */
static void on_refused(struct peer *p)
{
    struct transport *t = p->t;
    uint64_t now = now_ns(t);

    if (p->lost_ns == 0)
        return;
    if (p->refused_ns == 0) {
        p->refused_ns = now;
        return;
    }
    if (now - p->refused_ns < RETRY_FIRST_NS)
        return;
    if (accepted_of(t, p->voter.node_id) != NULL) { /* or its end has not been read yet */
        p->refused_ns = now;
        return;
    }
    p->lost_ns = 0;
    t->o.on_gone(t->o.ctx, &p->last);
}

static void on_connected(struct connecting *connecting, enum err e, struct stream *s)
{
    struct peer *p = CONTAINER_OF(connecting, struct peer, connecting);
    struct transport *t = p->t;

    if (e == ERR_REFUSED)
        on_refused(p);
    else
        p->refused_ns = 0;
    if (s == NULL) {
        p->failures++;
        retry_later(p);
        return;
    }
    if (!may_be_heard(t, s)) {
        note_refusal(t, s, REFUSED_INSECURE);
        stream_close(s);
        p->failures++;
        retry_later(p);
        return;
    }
    p->failures++; /* until it has opened */
    p->conn = conn_new(t, s, p);
    send_hello(p->conn);
}

static void dial(struct peer *p)
{
    if (p->conn != NULL || p->connecting.attempt != NULL)
        return;
    counter_add(&p->t->connects, 1);
    p->connecting.host = p->voter.host;
    p->connecting.port = p->voter.port;
    p->connecting.deadline_ns = now_ns(p->t) + CONNECT_NS;
    p->connecting.done = on_connected;
    loop_connect(p->t->o.loop, &p->connecting);
}

static void on_retry(struct loop_timer *timer)
{
    dial(CONTAINER_OF(timer, struct peer, retry));
}

static void retry_later(struct peer *p)
{
    struct transport *t = p->t;
    uint64_t wait_ns = 0;

    if (t->closing)
        return;
    if (p->failures == 1) {
        wait_ns = RETRY_FIRST_NS + env_random_u64(t->o.env) % (RETRY_REFUSED_US * 1000ull);
    } else if (p->failures > 1) {
        wait_ns = MIN(RETRY_MAX_NS, RETRY_FIRST_NS << MIN(p->failures - 1, 10));
        wait_ns = wait_ns / 2 + env_random_u64(t->o.env) % (wait_ns / 2);
    }
    loop_timer_set(&p->retry, now_ns(t) + wait_ns);
}

/* ---- time ---- */

static void check_conn(struct peer_conn *c, uint64_t now)
{
    struct peer_ping ping;

    if (c->dead)
        return;
    if (c->phase != PHASE_OPEN) {
        if (now - c->began_ns > HANDSHAKE_NS)
            conn_refuse(c, REFUSED_LATE);
        return;
    }
    if (c->out.bytes_total > 0 && now - c->progress_ns > SILENCE_NS) {
        conn_refuse(c, REFUSED_SLOW);
        return;
    }
    if (now - c->heard_ns > SILENCE_NS) {
        conn_kill(c);
        return;
    }
    if (c->peer == NULL || now - c->sent_ns < PING_NS)
        return;
    codec_init(&peer_ping_desc, &ping);
    c->sent_ns = now;
    send_message(c, PEER_PING, &peer_ping_desc, &ping);
}

static void on_sweep(struct loop_timer *timer)
{
    struct transport *t = CONTAINER_OF(timer, struct transport, sweep);
    uint64_t now = now_ns(t);

    list_for_each_safe (node, &t->accepted)
        check_conn(list_entry(node, struct peer_conn, node), now);
    for (int i = 0; i < t->peer_count; i++) {
        if (t->peers[i].conn != NULL)
            check_conn(t->peers[i].conn, now);
    }
    loop_timer_set(timer, now + SWEEP_NS);
}

/* ---- what others call ---- */

enum err transport_new(const struct transport_options *o, const struct peer_state *state,
                       struct transport **out, struct errmsg *why)
{
    struct transport *t = xcalloc(1, sizeof *t);
    struct listen_options listen = {
        .host = o->host, .port = o->port, .backlog = 64, .on_accept = on_accept, .ctx = t};
    enum err e;

    *out = NULL;
    t->o = *o;
    t->state = *state;
    list_init(&t->accepted);
    e = env_listen(o->loop, &listen, &t->listener, why);
    if (e != ERR_NONE) {
        free(t);
        return e;
    }
    if (o->secret != NULL && o->secret[0] != 0)
        t->secret = xstrdup(o->secret);
    t->o.voters = NULL;
    t->o.secret = t->o.host = NULL;
    loop_timer_init(&t->sweep, o->loop, on_sweep);
    loop_timer_init(&t->reap, o->loop, on_reap);
    loop_timer_set(&t->sweep, now_ns(t) + SWEEP_NS);
    for (int i = 0; i < o->voter_count && t->peer_count < TRANSPORT_VOTERS_MAX; i++) {
        struct peer *p = &t->peers[t->peer_count];

        if (o->voters[i].node_id == o->self.node_id)
            continue;
        p->t = t;
        p->voter = o->voters[i];
        loop_timer_init(&p->retry, o->loop, on_retry);
        loop_timer_set(&p->retry, now_ns(t));
        t->peer_count++;
    }
    *out = t;
    return ERR_NONE;
}

void transport_free(struct transport *t)
{
    t->closing = true;
    listener_close(t->listener);
    loop_timer_stop(&t->sweep);
    list_for_each_safe (node, &t->accepted)
        conn_close(list_entry(node, struct peer_conn, node));
    for (int i = 0; i < t->peer_count; i++) {
        struct peer *p = &t->peers[i];

        loop_timer_stop(&p->retry);
        if (p->connecting.attempt != NULL)
            loop_connect_cancel(&p->connecting);
        if (p->conn != NULL)
            conn_close(p->conn);
    }
    loop_timer_stop(&t->reap);
    if (t->secret != NULL)
        OPENSSL_cleanse(t->secret, strlen(t->secret));
    free(t->secret);
    free(t);
}

int transport_port(const struct transport *t)
{
    return listener_port(t->listener);
}

void transport_set_state(struct transport *t, const struct peer_state *state)
{
    t->state = *state;
    list_for_each (node, &t->accepted) {
        struct peer_conn *c = list_entry(node, struct peer_conn, node);

        if (c->phase == PHASE_OPEN && !c->dead)
            send_state(c);
    }
    for (int i = 0; i < t->peer_count; i++) {
        struct peer_conn *c = t->peers[i].conn;

        if (c != NULL && c->phase == PHASE_OPEN && !c->dead)
            send_state(c);
    }
}

bool transport_send(struct transport *t, int32_t node_id, struct ioqueue *frames, bool bulk)
{
    struct peer *p = peer_of(t, node_id);
    bool ok = p != NULL && conn_send(p->conn, frames, bulk);

    ioqueue_consume(frames, frames->bytes_total);
    return ok;
}

bool transport_answer(struct transport *t, int32_t node_id, struct ioqueue *frames)
{
    bool ok = conn_send(accepted_of(t, node_id), frames, false);

    ioqueue_consume(frames, frames->bytes_total);
    return ok;
}

bool transport_send_snapshot(struct transport *t, int32_t node_id, uint64_t last_index,
                             struct ioqueue *begin, struct iobuf *data)
{
    struct peer *p = peer_of(t, node_id);
    struct peer_conn *c = p != NULL ? p->conn : NULL;

    if (c == NULL || c->dead || c->phase != PHASE_OPEN) {
        ioqueue_consume(begin, begin->bytes_total);
        iobuf_unref(data);
        return false;
    }
    drop_snapshot(c);
    c->snapshot = data;
    c->snapshot_offset = 0;
    c->snapshot_index = last_index;
    return transport_send(t, node_id, begin, false);
}

const struct peer_identity *transport_peer(const struct transport *t, int32_t node_id)
{
    const struct peer *p = peer_of(t, node_id);

    return p != NULL && p->conn != NULL && p->conn->phase == PHASE_OPEN && !p->conn->dead
               ? &p->conn->who
               : NULL;
}

size_t transport_backlog(const struct transport *t, int32_t node_id)
{
    const struct peer *p = peer_of(t, node_id);

    return p != NULL && p->conn != NULL ? conn_backlog(p->conn) : 0;
}

uint64_t transport_refused(const struct transport *t)
{
    uint64_t sum = 0;

    for (int i = 0; i < REFUSAL_COUNT; i++)
        sum += counter_get(&t->refused[i]);
    return sum;
}

void transport_register_metrics(struct transport *t, struct metrics *m)
{
    metrics_add(m, METRIC_COUNTER, "fluxmq_peer_frames_in_total", "", "Frames received from peers",
                &t->frames_in);
    metrics_add(m, METRIC_COUNTER, "fluxmq_peer_frames_out_total", "", "Frames sent to peers",
                &t->frames_out);
    metrics_add(m, METRIC_COUNTER, "fluxmq_peer_bytes_in_total", "", "Bytes received from peers",
                &t->bytes_in);
    metrics_add(m, METRIC_COUNTER, "fluxmq_peer_bytes_out_total", "", "Bytes sent to peers",
                &t->bytes_out);
    metrics_add(m, METRIC_COUNTER, "fluxmq_peer_connects_total", "", "Peers dialed", &t->connects);
    metrics_add(m, METRIC_COUNTER, "fluxmq_peer_connections_total", "",
                "Peer connections on which both sides proved who they are", &t->connections);
    for (int i = 0; i < REFUSAL_COUNT; i++) {
        char label[64];

        (void)snprintf(label, sizeof label, "reason=\"%s\"", refusal_texts[i].label);
        metrics_add(m, METRIC_COUNTER, "fluxmq_peer_refused_total", label,
                    "Peers and frames refused", &t->refused[i]);
    }
}
