/* raft-meta/raft_wire.c -- see raft_wire.h. */
#include "raft-meta/raft_wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/api.h"
#include "raft-meta/command.h"
#include "raft-meta/snapshot.h"

#define SERVERS_MAX        64
#define CONFIGURATION_KIND 1 /* libraft's encoding format */

/* ---- addresses ---- */

void wire_address(char out[WIRE_ADDRESS_MAX], int32_t node_id, const struct uuid *directory_id)
{
    char text[UUID_TEXT_SIZE];

    uuid_format(directory_id, text);
    (void)snprintf(out, WIRE_ADDRESS_MAX, "%d@%s", node_id, text);
}

bool wire_address_parse(const char *address, int32_t *node_id, struct uuid *directory_id)
{
    const char *at = strchr(address, '@');

    return at != NULL && at - address < 12 &&
           parse_int32((struct str){address, (int32_t)(at - address)}, node_id) && *node_id >= 0 &&
           uuid_parse(str_from(at + 1), directory_id);
}

/* ---- encoding ---- */

static void put(const struct codec_struct *d, const void *message, struct ioqueue *out)
{
    enum err e = codec_encode(d, 0, message, out);

    CHECK(e == ERR_NONE);
}

static void put_envelope(const struct wire_envelope *e, struct ioqueue *out)
{
    struct peer_raft_envelope p;

    codec_init(&peer_raft_envelope_desc, &p);
    p.from = (int64_t)e->from;
    p.from_directory = e->from_directory;
    p.to = (int64_t)e->to;
    p.to_directory = e->to_directory;
    p.installing = e->installing;
    put(&peer_raft_envelope_desc, &p, out);
}

static void put_request_vote(const struct raft_request_vote *m, struct ioqueue *out)
{
    struct peer_request_vote p;

    codec_init(&peer_request_vote_desc, &p);
    p.term = (int64_t)m->term;
    p.candidate_id = (int64_t)m->candidate_id;
    p.last_log_index = (int64_t)m->last_log_index;
    p.last_log_term = (int64_t)m->last_log_term;
    p.disrupt_leader = m->disrupt_leader;
    p.pre_vote = m->pre_vote;
    put(&peer_request_vote_desc, &p, out);
}

static void put_request_vote_result(const struct raft_request_vote_result *m, struct ioqueue *out)
{
    struct peer_request_vote_result p;

    codec_init(&peer_request_vote_result_desc, &p);
    p.term = (int64_t)m->term;
    p.vote_granted = m->vote_granted;
    p.pre_vote = (int8_t)m->pre_vote;
    put(&peer_request_vote_result_desc, &p, out);
}

static void put_append_entries_result(const struct raft_append_entries_result *m,
                                      struct ioqueue *out)
{
    struct peer_append_entries_result p;

    codec_init(&peer_append_entries_result_desc, &p);
    p.term = (int64_t)m->term;
    p.rejected = (int64_t)m->rejected;
    p.last_log_index = (int64_t)m->last_log_index;
    put(&peer_append_entries_result_desc, &p, out);
}

static void put_timeout_now(const struct raft_timeout_now *m, struct ioqueue *out)
{
    struct peer_timeout_now p;

    codec_init(&peer_timeout_now_desc, &p);
    p.term = (int64_t)m->term;
    p.last_log_index = (int64_t)m->last_log_index;
    p.last_log_term = (int64_t)m->last_log_term;
    put(&peer_timeout_now_desc, &p, out);
}

void wire_encode(const struct wire_envelope *e, const struct raft_message *m, struct ioqueue *out)
{
    struct ioqueue payload;
    enum peer_frame_type type = PEER_TIMEOUT_NOW;

    ioqueue_init(&payload);
    put_envelope(e, &payload);
    switch (m->type) {
    case RAFT_IO_REQUEST_VOTE:
        type = PEER_REQUEST_VOTE;
        put_request_vote(&m->request_vote, &payload);
        break;
    case RAFT_IO_REQUEST_VOTE_RESULT:
        type = PEER_REQUEST_VOTE_RESULT;
        put_request_vote_result(&m->request_vote_result, &payload);
        break;
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        type = PEER_APPEND_ENTRIES_RESULT;
        put_append_entries_result(&m->append_entries_result, &payload);
        break;
    default:
        CHECK(m->type == RAFT_IO_TIMEOUT_NOW);
        put_timeout_now(&m->timeout_now, &payload);
        break;
    }
    peer_frame_write(type, &payload, out);
    ioqueue_deinit(&payload);
}

bool wire_encode_entries(const struct wire_envelope *e, const struct raft_append_entries *a,
                         unsigned first, unsigned *next, struct ioqueue *out)
{
    struct peer_append_entries_peer_entry list[WIRE_ENTRIES_COUNT_MAX];
    struct peer_append_entries p;
    struct ioqueue payload;
    size_t bytes = 0;
    unsigned i = first;

    for (; i < a->n_entries && i - first < WIRE_ENTRIES_COUNT_MAX; i++) {
        const struct raft_entry *entry = &a->entries[i];

        if (i > first && bytes + entry->buf.len > WIRE_ENTRIES_BYTES_MAX)
            break;
        bytes += entry->buf.len;
        list[i - first] = (struct peer_append_entries_peer_entry){
            .term = (int64_t)entry->term,
            .type = (int8_t)entry->type,
            .data = {entry->buf.base, to_int32_checked((int64_t)entry->buf.len)},
        };
    }
    codec_init(&peer_append_entries_desc, &p);
    p.term = (int64_t)a->term;
    p.prev_log_index = (int64_t)(a->prev_log_index + first);
    p.prev_log_term = (int64_t)(first > 0 ? a->entries[first - 1].term : a->prev_log_term);
    p.leader_commit = (int64_t)a->leader_commit;
    p.entries.v = list;
    p.entries.n = (int32_t)(i - first);
    ioqueue_init(&payload);
    put_envelope(e, &payload);
    put(&peer_append_entries_desc, &p, &payload);
    peer_frame_write(PEER_APPEND_ENTRIES, &payload, out);
    ioqueue_deinit(&payload);
    *next = i;
    return i < a->n_entries;
}

void wire_encode_snapshot(const struct wire_envelope *e, const struct raft_install_snapshot *s,
                          struct ioqueue *out, struct iobuf **data)
{
    struct peer_snapshot_begin_peer_snapshot_server servers[SERVERS_MAX];
    struct peer_snapshot_begin p;
    struct ioqueue payload;

    CHECK(s->conf.n <= SERVERS_MAX);
    for (unsigned i = 0; i < s->conf.n; i++)
        servers[i] = (struct peer_snapshot_begin_peer_snapshot_server){
            .id = (int64_t)s->conf.servers[i].id,
            .address = str_from(s->conf.servers[i].address),
            .role = (int8_t)s->conf.servers[i].role,
        };
    codec_init(&peer_snapshot_begin_desc, &p);
    p.term = (int64_t)s->term;
    p.last_index = (int64_t)s->last_index;
    p.last_term = (int64_t)s->last_term;
    p.conf_index = (int64_t)s->conf_index;
    p.servers.v = servers;
    p.servers.n = (int32_t)s->conf.n;
    p.total_bytes = (int64_t)s->data.len;
    ioqueue_init(&payload);
    put_envelope(e, &payload);
    put(&peer_snapshot_begin_desc, &p, &payload);
    peer_frame_write(PEER_SNAPSHOT_BEGIN, &payload, out);
    ioqueue_deinit(&payload);
    *data = iobuf_new(s->data.len);
    memcpy(iobuf_bytes(*data), s->data.base, s->data.len);
}

size_t wire_encode_chunk(raft_index last_index, struct iobuf *data, size_t offset,
                         struct ioqueue *out)
{
    size_t size = MIN(data->len - offset, (size_t)WIRE_CHUNK_BYTES);
    struct peer_snapshot_chunk p;
    struct ioqueue payload;

    codec_init(&peer_snapshot_chunk_desc, &p);
    p.last_index = (int64_t)last_index;
    p.offset = (int64_t)offset;
    p.data = (struct bytes){data->ptr + offset, (int32_t)size};
    ioqueue_init(&payload);
    put(&peer_snapshot_chunk_desc, &p, &payload);
    peer_frame_write(PEER_SNAPSHOT_CHUNK, &payload, out);
    ioqueue_deinit(&payload);
    return offset + size;
}

/* ---- decoding ---- */

struct input {
    const uint8_t *ptr;
    size_t size;
    struct arena arena;
};

static bool get(struct input *in, const struct codec_struct *d, void *out)
{
    size_t used;

    if (codec_decode(d, 0, in->ptr, in->size, &in->arena, out, &used) != ERR_NONE)
        return false;
    in->ptr += used;
    in->size -= used;
    return true;
}

/* Terms and indexes never come near the end of an int64. */
static bool is_number(int64_t v)
{
    return v >= 0 && v < INT64_MAX / 2;
}

static bool get_envelope(struct input *in, struct wire_envelope *out)
{
    struct peer_raft_envelope p;

    if (!get(in, &peer_raft_envelope_desc, &p) || p.from <= 0 || p.to <= 0)
        return false;
    *out = (struct wire_envelope){.from = (raft_id)p.from,
                                  .to = (raft_id)p.to,
                                  .from_directory = p.from_directory,
                                  .to_directory = p.to_directory,
                                  .installing = p.installing};
    return true;
}

static bool get_request_vote(struct input *in, struct raft_message *out)
{
    struct peer_request_vote p;

    if (!get(in, &peer_request_vote_desc, &p) || !is_number(p.term) || p.term == 0 ||
        p.candidate_id <= 0 || !is_number(p.last_log_index) || !is_number(p.last_log_term) ||
        p.last_log_term > p.term)
        return false;
    out->type = RAFT_IO_REQUEST_VOTE;
    out->request_vote = (struct raft_request_vote){
        .term = (raft_term)p.term,
        .candidate_id = (raft_id)p.candidate_id,
        .last_log_index = (raft_index)p.last_log_index,
        .last_log_term = (raft_term)p.last_log_term,
        .disrupt_leader = p.disrupt_leader,
        .pre_vote = p.pre_vote,
    };
    return true;
}

static bool get_request_vote_result(struct input *in, struct raft_message *out)
{
    struct peer_request_vote_result p;

    if (!get(in, &peer_request_vote_result_desc, &p) || !is_number(p.term) || p.pre_vote < 0 ||
        p.pre_vote > 2)
        return false;
    out->type = RAFT_IO_REQUEST_VOTE_RESULT;
    out->request_vote_result =
        (struct raft_request_vote_result){.term = (raft_term)p.term,
                                          .vote_granted = p.vote_granted,
                                          .pre_vote = (raft_tribool)p.pre_vote};
    return true;
}

static bool get_append_entries_result(struct input *in, struct raft_message *out)
{
    struct peer_append_entries_result p;

    if (!get(in, &peer_append_entries_result_desc, &p) || !is_number(p.term) ||
        !is_number(p.rejected) || !is_number(p.last_log_index))
        return false;
    out->type = RAFT_IO_APPEND_ENTRIES_RESULT;
    out->append_entries_result =
        (struct raft_append_entries_result){.term = (raft_term)p.term,
                                            .rejected = (raft_index)p.rejected,
                                            .last_log_index = (raft_index)p.last_log_index};
    return true;
}

static bool get_timeout_now(struct input *in, struct raft_message *out)
{
    struct peer_timeout_now p;

    if (!get(in, &peer_timeout_now_desc, &p) || !is_number(p.term) || p.term == 0 ||
        !is_number(p.last_log_index) || !is_number(p.last_log_term))
        return false;
    out->type = RAFT_IO_TIMEOUT_NOW;
    out->timeout_now = (struct raft_timeout_now){.term = (raft_term)p.term,
                                                 .last_log_index = (raft_index)p.last_log_index,
                                                 .last_log_term = (raft_term)p.last_log_term};
    return true;
}

/* What holds between an entry, the one before it and the message that brings it. */
static bool entry_fits(const struct peer_append_entries_peer_entry *e, int64_t term_before,
                       int64_t term)
{
    if (!is_number(e->term) || e->term < MAX(term_before, (int64_t)1) || e->term > term ||
        e->data.len <= 0 || e->data.len % 8 != 0 || e->data.len > ENTRY_BYTES_MAX)
        return false;
    if (e->type == RAFT_CHANGE)
        return wire_read_configuration(e->data.ptr, (size_t)e->data.len, NULL, NULL) == ERR_NONE;
    return e->type == RAFT_COMMAND || e->type == RAFT_BARRIER;
}

static bool entries_fit(const struct peer_append_entries *p, size_t *bytes)
{
    int64_t term = p->prev_log_term;

    if (!is_number(p->term) || p->term == 0 || !is_number(p->prev_log_index) ||
        !is_number(p->prev_log_term) || !is_number(p->leader_commit) || p->entries.n < 0 ||
        p->prev_log_term > p->term || (p->prev_log_index == 0) != (p->prev_log_term == 0))
        return false;
    *bytes = 0;
    for (int32_t i = 0; i < p->entries.n; i++) {
        if (!entry_fits(&p->entries.v[i], term, p->term))
            return false;
        term = p->entries.v[i].term;
        *bytes += (size_t)p->entries.v[i].data.len;
    }
    return true;
}

static bool get_append_entries(struct input *in, struct raft_message *out)
{
    struct raft_append_entries *a = &out->append_entries;
    struct peer_append_entries p;
    size_t bytes;
    uint8_t *batch;

    if (!get(in, &peer_append_entries_desc, &p) || !entries_fit(&p, &bytes))
        return false;
    out->type = RAFT_IO_APPEND_ENTRIES;
    *a = (struct raft_append_entries){.term = (raft_term)p.term,
                                      .prev_log_index = (raft_index)p.prev_log_index,
                                      .prev_log_term = (raft_term)p.prev_log_term,
                                      .leader_commit = (raft_index)p.leader_commit,
                                      .n_entries = (unsigned)p.entries.n};
    if (a->n_entries == 0)
        return true;
    batch = raft_malloc(bytes);
    a->entries = raft_calloc(a->n_entries, sizeof *a->entries);
    CHECK(batch != NULL);
    CHECK(a->entries != NULL);
    for (unsigned i = 0, at = 0; i < a->n_entries; i++) {
        const struct peer_append_entries_peer_entry *e = &p.entries.v[i];

        memcpy(batch + at, e->data.ptr, (size_t)e->data.len);
        a->entries[i] = (struct raft_entry){.term = (raft_term)e->term,
                                            .type = (unsigned short)e->type,
                                            .buf = {batch + at, (size_t)e->data.len},
                                            .batch = batch};
        at += (unsigned)e->data.len;
    }
    return true;
}

enum err wire_decode(enum peer_frame_type type, const uint8_t *ptr, size_t size,
                     struct wire_envelope *e, struct raft_message *out)
{
    struct input in = {.ptr = ptr, .size = size};
    bool ok;

    memset(out, 0, sizeof *out);
    arena_init(&in.arena, PEER_FRAME_BYTES_MAX);
    ok = get_envelope(&in, e);
    if (ok && type == PEER_REQUEST_VOTE)
        ok = get_request_vote(&in, out);
    else if (ok && type == PEER_REQUEST_VOTE_RESULT)
        ok = get_request_vote_result(&in, out);
    else if (ok && type == PEER_APPEND_ENTRIES)
        ok = get_append_entries(&in, out);
    else if (ok && type == PEER_APPEND_ENTRIES_RESULT)
        ok = get_append_entries_result(&in, out);
    else if (ok && type == PEER_TIMEOUT_NOW)
        ok = get_timeout_now(&in, out);
    else
        ok = false;
    arena_deinit(&in.arena);
    if (ok && in.size > 0) { /* something behind it */
        wire_drop(out);
        ok = false;
    }
    out->server_id = e->from;
    return ok ? ERR_NONE : ERR_MALFORMED;
}

void wire_drop(struct raft_message *m)
{
    if (m->type == RAFT_IO_APPEND_ENTRIES && m->append_entries.entries != NULL) {
        raft_free(m->append_entries.entries[0].batch);
        raft_free(m->append_entries.entries);
        m->append_entries.entries = NULL;
    }
    if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        raft_configuration_close(&m->install_snapshot.conf);
        raft_free(m->install_snapshot.data.base);
        m->install_snapshot.data.base = NULL;
    }
}

/* ---- an InstallSnapshot, piece by piece ---- */

void wire_assembly_reset(struct wire_assembly *a)
{
    if (a->active) {
        raft_configuration_close(&a->message.conf);
        raft_free(a->message.data.base);
    }
    memset(a, 0, sizeof *a);
}

static bool add_servers(struct raft_configuration *c, const struct peer_snapshot_begin *p)
{
    for (int32_t i = 0; i < p->servers.n; i++) {
        const struct peer_snapshot_begin_peer_snapshot_server *s = &p->servers.v[i];
        char address[WIRE_ADDRESS_MAX];
        struct uuid directory;
        int32_t node;

        if (s->id <= 0 || s->role < RAFT_STANDBY || s->role > RAFT_SPARE || s->address.len <= 0 ||
            s->address.len >= WIRE_ADDRESS_MAX)
            return false;
        memcpy(address, s->address.ptr, (size_t)s->address.len);
        address[s->address.len] = 0;
        if (!wire_address_parse(address, &node, &directory) ||
            raft_configuration_add(c, (raft_id)s->id, address, s->role) != 0)
            return false;
    }
    return true;
}

static bool begin_fits(const struct peer_snapshot_begin *p)
{
    return is_number(p->term) && p->term > 0 && is_number(p->last_index) && p->last_index > 0 &&
           is_number(p->last_term) && p->last_term > 0 && p->last_term <= p->term &&
           is_number(p->conf_index) && p->conf_index <= p->last_index && p->servers.n > 0 &&
           p->servers.n <= SERVERS_MAX && p->total_bytes > 0 &&
           (uint64_t)p->total_bytes <= SNAPSHOT_BYTES_MAX;
}

enum err wire_assembly_begin(struct wire_assembly *a, const uint8_t *ptr, size_t size)
{
    struct input in = {.ptr = ptr, .size = size};
    struct peer_snapshot_begin p;
    bool ok;

    wire_assembly_reset(a);
    arena_init(&in.arena, PEER_HELLO_BYTES_MAX * 16);
    ok = get_envelope(&in, &a->envelope) && get(&in, &peer_snapshot_begin_desc, &p) &&
         in.size == 0 && begin_fits(&p);
    if (ok) {
        raft_configuration_init(&a->message.conf);
        a->active = true;
        ok = add_servers(&a->message.conf, &p);
        a->message.term = (raft_term)p.term;
        a->message.last_index = (raft_index)p.last_index;
        a->message.last_term = (raft_term)p.last_term;
        a->message.conf_index = (raft_index)p.conf_index;
        a->total = (size_t)p.total_bytes;
    }
    arena_deinit(&in.arena);
    if (!ok)
        wire_assembly_reset(a);
    return ok ? ERR_NONE : ERR_MALFORMED;
}

static void grow(struct wire_assembly *a, size_t size)
{
    void *bytes;

    if (a->received + size <= a->capacity)
        return;
    a->capacity = MIN(a->total, MAX(2 * a->capacity, a->received + size));
    bytes = raft_realloc(a->message.data.base, a->capacity);
    CHECK(bytes != NULL);
    a->message.data.base = bytes;
}

enum err wire_assembly_chunk(struct wire_assembly *a, const uint8_t *ptr, size_t size, bool *done,
                             struct raft_message *out)
{
    struct input in = {.ptr = ptr, .size = size};
    struct peer_snapshot_chunk p;
    bool ok;

    *done = false;
    arena_init(&in.arena, PEER_HELLO_BYTES_MAX);
    ok = get(&in, &peer_snapshot_chunk_desc, &p) && in.size == 0 && a->active && p.data.len > 0 &&
         p.last_index == (int64_t)a->message.last_index && p.offset == (int64_t)a->received &&
         (size_t)p.data.len <= a->total - a->received;
    arena_deinit(&in.arena);
    if (!ok)
        return ERR_MALFORMED;
    grow(a, (size_t)p.data.len);
    memcpy((uint8_t *)a->message.data.base + a->received, p.data.ptr, (size_t)p.data.len);
    a->received += (size_t)p.data.len;
    if (a->received < a->total)
        return ERR_NONE;
    a->message.data.len = a->total;
    memset(out, 0, sizeof *out);
    out->type = RAFT_IO_INSTALL_SNAPSHOT;
    out->server_id = a->envelope.from;
    out->install_snapshot = a->message;
    memset(a, 0, sizeof *a);
    *done = true;
    return ERR_NONE;
}

/* ---- libraft's configuration: u8 1, u64 n, n times (u64 id, text 0, u8 role), little endian ----
 */

enum err wire_read_configuration(const uint8_t *ptr, size_t size,
                                 void (*each)(void *ctx, raft_id id, const char *address, int role),
                                 void *ctx)
{
    size_t at = 9;
    uint64_t count;

    if (size < at || ptr[0] != CONFIGURATION_KIND)
        return ERR_MALFORMED;
    count = load_le64(ptr + 1);
    if (count > SERVERS_MAX)
        return ERR_MALFORMED;
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *text, *end;
        uint64_t id;

        if (size - at < 8)
            return ERR_MALFORMED;
        id = load_le64(ptr + at);
        text = ptr + at + 8;
        end = memchr(text, 0, size - at - 8);
        if (end == NULL || end + 1 >= ptr + size || id == 0 || end[1] > RAFT_SPARE ||
            end - text >= WIRE_ADDRESS_MAX)
            return ERR_MALFORMED;
        if (each != NULL)
            each(ctx, id, (const char *)text, end[1]);
        at = (size_t)(end + 2 - ptr);
    }
    return size - at < 8 ? ERR_NONE : ERR_MALFORMED;
}
