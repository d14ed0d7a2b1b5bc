/* raft-meta/raft_quorum.c -- the other voters; see raft_node_internal.h.
 *
 * Forming [H1]. An empty node does not start libraft. It listens to what the other configured
 * voters say of themselves:
 *
 *  - One names a cluster whose configuration holds this node's own pair (node id, directory id):
 *    it joins under the raft id that stands there. (It never had raft files, else it would not be
 *    empty: meta.properties has noted them.) While that configuration is still the first one, it
 *    begins its log with it, as all have, so that it may vote; else with nothing, and waits for
 *    the leader's entries.
 *  - One names a cluster without that pair: it stays out, and says so. An empty directory has
 *    forgotten its votes and what it acknowledged.
 *  - All others are there, empty, and have the same voter list: the one with the lowest node id,
 *    and only that one, writes the first configuration, with the pair of each as it knows it from
 *    the connections that are open at this moment; then the first rule holds for the others. One
 *    author, so there are never two first configurations.
 *
 * Raft ids are 1..n in the order of node ids.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/api.h"
#include "protocol/base/hmap.h"
#include "protocol/base/mutant.h"
#include "raft-meta/raft_node_internal.h"

#define ENTRIES_BACKLOG_MAX (4 << 20) /* to one follower; the rest it is sent as it answers */
#define RANK_NS             100000000u
#define COMPLAIN_NS         5000000000u
#define DIGEST_SEED         0x766f74657273ull

/* ---- who leads ---- */

static raft_id leader_raft_id(const struct raft_node *n, const char **address)
{
    raft_id id = n->guard != NULL ? guard_leader(n->guard) : 0;

    *address = NULL;
    for (unsigned i = 0; id != 0 && i < n->raft.configuration.n; i++) {
        if (n->raft.configuration.servers[i].id == id)
            *address = n->raft.configuration.servers[i].address;
    }
    return *address != NULL ? id : 0;
}

void quorum_refresh_leader(struct raft_node *n)
{
    struct uuid directory;
    const char *address;
    int32_t id = -1;

    if (leader_raft_id(n, &address) == 0 || !wire_address_parse(address, &id, &directory))
        id = -1;
    if (n->guard == NULL || (id == n->leader_id && n->raft.current_term == n->leader_term))
        return;
    if (id >= 0) {
        counter_add(&n->elections, 1);
        log_info(n->o.logger, "raft", "node %d leads the quorum in term %llu", id,
                 n->raft.current_term);
    }
    n->leader_id = id;
    n->leader_term = n->raft.current_term;
}

bool quorum_send_leader(struct raft_node *n, struct ioqueue *frames, bool bulk)
{
    return transport_send(n->transport, n->leader_id, frames, bulk);
}

/* ---- raft's messages, out ---- */

int quorum_send(void *ctx, const struct raft_message *m)
{
    struct raft_node *n = ctx;
    struct wire_envelope e = {.from = n->raft.id,
                              .to = m->server_id,
                              .from_directory = n->o.directory_id,
                              .installing = n->guard != NULL && guard_is_installing(n->guard)};
    struct ioqueue out;
    int32_t node_id;
    int rv = 0;

    if (n->transport == NULL || !wire_address_parse(m->server_address, &node_id, &e.to_directory) ||
        transport_peer(n->transport, node_id) == NULL)
        return RAFT_NOCONNECTION;
    ioqueue_init(&out);
    if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        struct iobuf *data;

        wire_encode_snapshot(&e, &m->install_snapshot, &out, &data);
        if (!transport_send_snapshot(n->transport, node_id, m->install_snapshot.last_index, &out,
                                     data))
            rv = RAFT_NOCONNECTION;
    } else if (m->type == RAFT_IO_APPEND_ENTRIES) {
        unsigned next = 0;
        bool more = true;

        while (more && rv == 0) {
            /* With an error the library goes on from what was acknowledged. */
            if (next < m->append_entries.n_entries &&
                transport_backlog(n->transport, node_id) > ENTRIES_BACKLOG_MAX) {
                rv = RAFT_NOCONNECTION;
                break;
            }
            more = wire_encode_entries(&e, &m->append_entries, next, &next, &out);
            if (!transport_send(n->transport, node_id, &out, false))
                rv = RAFT_NOCONNECTION;
        }
    } else {
        wire_encode(&e, m, &out);
        if (!transport_send(n->transport, node_id, &out, false))
            rv = RAFT_NOCONNECTION;
    }
    ioqueue_deinit(&out);
    return rv;
}

/* ---- raft's messages, in ---- */

static struct seen_peer *seen_of(struct raft_node *n, int32_t node_id)
{
    for (int i = 0; i < n->voter_count; i++) {
        if (n->seen[i].node_id == node_id)
            return &n->seen[i];
    }
    return NULL;
}

/* A joiner's configuration is empty and a lagging voter's is old; both must accept the leader, and
 * may be asked for their vote (Raft 6). But nobody whom we do not know answers what we asked, or
 * disturbs a leader; a raft id that was given out and is there no more does not ask for votes; and
 * it must be one of the nodes that the voter list names. */
static bool may_stranger_speak(struct raft_node *n, const struct peer_identity *from,
                               raft_id greatest, struct raft_message *m)
{
    if (seen_of(n, from->node_id) == NULL)
        return false;
    if (m->type == RAFT_IO_REQUEST_VOTE) {
        m->request_vote.disrupt_leader = false;
        return m->server_id > greatest;
    }
    return m->type == RAFT_IO_APPEND_ENTRIES || m->type == RAFT_IO_INSTALL_SNAPSHOT;
}

/* (G4) Both ends are named by (raft id, directory id). Where the configuration knows one of the
 * two, the other must be the same. */
static bool may_speak(struct raft_node *n, const struct peer_identity *from,
                      const struct wire_envelope *e, const char *address, struct raft_message *m)
{
    const struct raft_configuration *c = &n->raft.configuration;
    raft_id greatest = 0;

    if (MUTANT(25)) /* a voter is its node id, whatever has become of its directory */
        return e->to == n->raft.id;
    if (e->to != n->raft.id || !uuid_eq(&e->to_directory, &n->o.directory_id) ||
        !uuid_eq(&e->from_directory, &from->directory_id) || e->from == n->raft.id)
        return false;
    if (m->type == RAFT_IO_REQUEST_VOTE && m->request_vote.candidate_id != e->from)
        return false;
    for (unsigned i = 0; i < c->n; i++) {
        bool same_id = c->servers[i].id == e->from;

        if (same_id != (strcmp(c->servers[i].address, address) == 0))
            return false;
        if (same_id)
            return true;
        greatest = MAX(greatest, c->servers[i].id);
    }
    return may_stranger_speak(n, from, greatest, m);
}

static bool deliver(struct raft_node *n, const struct peer_identity *from,
                    const struct wire_envelope *e, struct raft_message *m)
{
    char address[WIRE_ADDRESS_MAX];

    wire_address(address, from->node_id, &from->directory_id);
    if (n->guard == NULL || !may_speak(n, from, e, address, m)) {
        counter_add(&n->dropped_messages, 1);
        wire_drop(m);
        return true; /* no fault of the connection: its sender may know an older configuration */
    }
    m->server_address = address;
    guard_receive(n->guard, m, e->installing);
    return true;
}

static bool on_snapshot_frame(struct raft_node *n, const struct peer_identity *from,
                              enum peer_frame_type type, struct bytes payload)
{
    struct seen_peer *s = seen_of(n, from->node_id);
    struct wire_envelope e;
    struct raft_message m;
    bool done;

    if (s == NULL)
        return false;
    if (type == PEER_SNAPSHOT_BEGIN)
        return wire_assembly_begin(&s->assembly, payload.ptr, (size_t)payload.len) == ERR_NONE;
    e = s->assembly.envelope;
    if (wire_assembly_chunk(&s->assembly, payload.ptr, (size_t)payload.len, &done, &m) != ERR_NONE)
        return false;
    return !done || deliver(n, from, &e, &m);
}

/* ---- the view ---- */

static int64_t unix_of(const struct raft_node *n, raft_time at)
{
    raft_time now = n->inner->time(n->inner);

    return at == 0 ? -1 : env_unix_ms(n->o.env) - (int64_t)(now - MIN(at, now));
}

static void fill_voter(const struct raft_node *n, const struct raft_server *s,
                       struct quorum_voter_view *v)
{
    const struct guard_follower *f = guard_follower(n->guard, s->id);

    *v = (struct quorum_voter_view){
        .node_id = -1, .log_end_offset = -1, .last_fetch_ms = -1, .last_caught_up_ms = -1};
    (void)!wire_address_parse(s->address, &v->node_id, &v->directory_id);
    if (s->id == n->raft.id) {
        v->log_end_offset = (int64_t)raft_last_index((struct raft *)(uintptr_t)&n->raft) + 1;
        v->last_fetch_ms = v->last_caught_up_ms =
            n->leader_id == n->o.node_id ? env_unix_ms(n->o.env) : -1;
    } else if (f != NULL && n->leader_id == n->o.node_id) {
        v->log_end_offset = (int64_t)f->match + 1;
        v->last_fetch_ms = unix_of(n, f->heard);
        v->last_caught_up_ms = unix_of(n, f->caught_up);
    }
}

static void make_view(const struct raft_node *n, struct quorum_view *v)
{
    const struct raft_configuration *c = &n->raft.configuration;

    *v = (struct quorum_view){.leader_id = n->leader_id};
    if (n->guard == NULL)
        return;
    v->leader_epoch = (int32_t)MIN(n->raft.current_term, (raft_term)INT32_MAX);
    v->high_watermark = (int64_t)n->raft.commit_index + 1;
    for (unsigned i = 0; i < c->n; i++) {
        if (c->servers[i].role == RAFT_VOTER && v->voter_count < QUORUM_VOTERS_MAX)
            fill_voter(n, &c->servers[i], &v->voters[v->voter_count++]);
        else if (c->servers[i].role != RAFT_VOTER && v->observer_count < QUORUM_VOTERS_MAX)
            fill_voter(n, &c->servers[i], &v->observers[v->observer_count++]);
    }
    if (n->leader_id != n->o.node_id && n->leader_view_term == n->raft.current_term &&
        n->leader_view.leader_id == n->leader_id) {
        for (int i = 0; i < v->voter_count; i++) {
            for (int k = 0; k < n->leader_view.voter_count; k++) {
                if (n->leader_view.voters[k].node_id == v->voters[i].node_id)
                    v->voters[i] = n->leader_view.voters[k];
            }
        }
    }
}

void raft_node_quorum(struct raft_node *n, struct quorum_view *out)
{
    mutex_lock(&n->view_lock);
    *out = n->view;
    mutex_unlock(&n->view_lock);
}

/* As the leader: all others hear what it knows. */
static void tell_view(struct raft_node *n, const struct quorum_view *v)
{
    struct peer_quorum_view_peer_quorum_voter voters[QUORUM_VOTERS_MAX];
    struct peer_quorum_view m;

    codec_init(&peer_quorum_view_desc, &m);
    m.term = (int64_t)n->raft.current_term;
    m.leader_id = v->leader_id;
    m.high_watermark = v->high_watermark;
    m.voters.v = voters;
    m.voters.n = v->voter_count;
    for (int i = 0; i < v->voter_count; i++)
        voters[i] = (struct peer_quorum_view_peer_quorum_voter){
            .node_id = v->voters[i].node_id,
            .directory_id = v->voters[i].directory_id,
            .log_end_offset = v->voters[i].log_end_offset,
            .last_fetch_ms = v->voters[i].last_fetch_ms,
            .last_caught_up_ms = v->voters[i].last_caught_up_ms};
    for (int i = 0; i < n->voter_count; i++) {
        struct ioqueue payload, out;
        enum err e;

        if (transport_peer(n->transport, n->voters[i].node_id) == NULL)
            continue;
        ioqueue_init(&payload);
        ioqueue_init(&out);
        e = codec_encode(&peer_quorum_view_desc, 0, &m, &payload);
        CHECK(e == ERR_NONE);
        peer_frame_write(PEER_QUORUM_VIEW, &payload, &out);
        (void)transport_send(n->transport, n->voters[i].node_id, &out, true);
        ioqueue_deinit(&payload);
        ioqueue_deinit(&out);
    }
}

static bool on_view(struct raft_node *n, const struct peer_identity *from, struct bytes payload)
{
    struct peer_quorum_view m;
    struct arena a;
    size_t used;
    bool ok;

    arena_init(&a, PEER_HELLO_BYTES_MAX * 4);
    ok = codec_decode(&peer_quorum_view_desc, 0, payload.ptr, (size_t)payload.len, &a, &m, &used) ==
             ERR_NONE &&
         m.voters.n >= 0 && m.voters.n <= QUORUM_VOTERS_MAX && m.leader_id == from->node_id;
    if (ok) {
        n->leader_view = (struct quorum_view){.leader_id = m.leader_id, .voter_count = m.voters.n};
        n->leader_view_term = (uint64_t)m.term;
        for (int i = 0; i < m.voters.n; i++)
            n->leader_view.voters[i] =
                (struct quorum_voter_view){.node_id = m.voters.v[i].node_id,
                                           .directory_id = m.voters.v[i].directory_id,
                                           .log_end_offset = m.voters.v[i].log_end_offset,
                                           .last_fetch_ms = m.voters.v[i].last_fetch_ms,
                                           .last_caught_up_ms = m.voters.v[i].last_caught_up_ms};
    }
    arena_deinit(&a);
    return ok;
}

/* ---- what the peers know of us ---- */

static void fill_state(const struct raft_node *n, struct peer_state *s)
{
    struct str id = image_cluster_id(n->image);

    memset(s, 0, sizeof *s);
    s->voters_digest = n->voters_digest;
    if (id.len > 0 && id.len < CLUSTER_ID_TEXT_MAX)
        memcpy(s->cluster_id, id.ptr, (size_t)id.len);
    else if (n->cluster_id_given)
        memcpy(s->cluster_id, n->cluster_id, strlen(n->cluster_id));
    if (n->guard == NULL || n->state == STATE_OUTSIDE)
        return;
    s->formed = true;
    s->first = n->raft.configuration_index == 1 && n->raft.configuration_uncommitted_index == 0;
    for (unsigned i = 0; i < n->raft.configuration.n; i++) {
        const struct raft_server *server = &n->raft.configuration.servers[i];
        struct quorum_member *m = &s->voters[s->voter_count];

        if (s->voter_count == TRANSPORT_VOTERS_MAX ||
            !wire_address_parse(server->address, &m->node_id, &m->directory_id))
            continue;
        m->raft_id = server->id;
        s->voter_count++;
    }
}

void quorum_update(struct raft_node *n)
{
    struct peer_state state;
    struct quorum_view v;

    if (n->state == STATE_CLOSING || n->state == STATE_FAILED)
        return;
    quorum_refresh_leader(n);
    make_view(n, &v);
    mutex_lock(&n->view_lock);
    n->view = v;
    mutex_unlock(&n->view_lock);
    if (n->transport == NULL)
        return;
    fill_state(n, &state);
    if (memcmp(&state, &n->told, sizeof state) != 0) {
        memcpy(&n->told, &state, sizeof state);
        transport_set_state(n->transport, &state);
    }
}

/* ---- forming and joining ---- */

static void complain(struct raft_node *n, const char *text)
{
    uint64_t now = node_now_ns(n);

    if (n->complained_ns != 0 && now - n->complained_ns < COMPLAIN_NS)
        return;
    n->complained_ns = now;
    log_warn(n->o.logger, "raft", "%s", text);
}

/* The raft id that a cluster has for this very voter; 0: none. */
static raft_id own_id_in(const struct raft_node *n, const struct peer_state *s)
{
    for (int i = 0; i < s->voter_count; i++) {
        if (s->voters[i].node_id == n->o.node_id &&
            (uuid_eq(&s->voters[i].directory_id, &n->o.directory_id) || MUTANT(25)))
            return s->voters[i].raft_id;
    }
    return 0;
}

static void begin_as_peer(struct raft_node *n, raft_id id, const struct peer_state *s)
{
    struct raft_configuration c;
    bool ok = s->first;

    raft_configuration_init(&c);
    for (int i = 0; i < s->voter_count && ok; i++) {
        char address[WIRE_ADDRESS_MAX];

        wire_address(address, s->voters[i].node_id,
                     MUTANT(25) && s->voters[i].node_id == n->o.node_id
                         ? &n->o.directory_id
                         : &s->voters[i].directory_id);
        ok = raft_configuration_add(&c, s->voters[i].raft_id, address, RAFT_VOTER) == 0;
    }
    node_begin(n, id, ok ? &c : NULL);
    raft_configuration_close(&c);
}

/* True when a peer has a cluster: then nothing is formed here. */
static bool join_formed(struct raft_node *n)
{
    struct errmsg why;

    for (int i = 0; i < n->voter_count; i++) {
        const struct seen_peer *s = &n->seen[i];
        raft_id id = s->heard && s->state.formed ? own_id_in(n, &s->state) : 0;

        if (id != 0) {
            log_info(n->o.logger, "raft", "joining cluster %s as voter %llu, known from node %d",
                     s->state.cluster_id[0] != 0 ? s->state.cluster_id : "(forming)", id,
                     s->node_id);
            begin_as_peer(n, id, &s->state);
            return true;
        }
    }
    for (int i = 0; i < n->voter_count; i++) {
        const struct seen_peer *s = &n->seen[i];

        if (!s->heard || !s->state.formed)
            continue;
        errmsg_set(&why,
                   "node %d belongs to cluster %s, which does not know this directory (%s) as a "
                   "voter: it stays out, for an empty directory has forgotten its votes",
                   s->node_id, s->state.cluster_id, n->address);
        complain(n, why.text);
        return true;
    }
    return false;
}

/* All others are there, empty, and name the same voters and no two clusters. */
static bool may_form(struct raft_node *n, struct errmsg *why)
{
    for (int i = 0; i < n->voter_count; i++) {
        const struct seen_peer *s = &n->seen[i];
        const struct peer_identity *now = transport_peer(n->transport, s->node_id);

        if (s->node_id == n->o.node_id)
            continue;
        if (!s->heard || now == NULL || !uuid_eq(&now->directory_id, &s->who.directory_id) ||
            !uuid_eq(&now->incarnation, &s->who.incarnation)) {
            errmsg_set(why, "forming a cluster: waiting for node %d at %s:%d", s->node_id,
                       n->voters[i].host, n->voters[i].port);
            return false;
        }
        if (s->state.voters_digest != n->voters_digest) {
            errmsg_set(why,
                       "forming a cluster: node %d has another controller.quorum.voters; it must "
                       "be the same on all nodes",
                       s->node_id);
            return false;
        }
        if (s->state.cluster_id[0] == 0)
            continue;
        if (!n->cluster_id_given) {
            (void)snprintf(n->cluster_id, sizeof n->cluster_id, "%.*s", CLUSTER_ID_MAX,
                           s->state.cluster_id);
            n->cluster_id_given = true;
        } else if (strcmp(n->cluster_id, s->state.cluster_id) != 0) {
            errmsg_set(why, "forming a cluster: node %d was formatted for cluster %s, not %s",
                       s->node_id, s->state.cluster_id, n->cluster_id);
            return false;
        }
    }
    return true;
}

static void form(struct raft_node *n)
{
    struct raft_configuration c;

    raft_configuration_init(&c);
    for (int i = 0; i < n->voter_count; i++) {
        char address[WIRE_ADDRESS_MAX];
        const struct seen_peer *s = &n->seen[i];
        bool self = s->node_id == n->o.node_id;
        int rv;

        wire_address(address, s->node_id, self ? &n->o.directory_id : &s->who.directory_id);
        rv = raft_configuration_add(&c, (raft_id)i + 1, address, RAFT_VOTER);
        CHECK(rv == 0);
    }
    log_info(n->o.logger, "raft", "all %d voters are here and empty: forming a cluster",
             n->voter_count);
    node_begin(n, 1, &c);
    raft_configuration_close(&c);
}

static void consider(struct raft_node *n)
{
    struct errmsg why;

    if (n->state != STATE_OUTSIDE || join_formed(n))
        return;
    if (!may_form(n, &why)) {
        complain(n, why.text);
        return;
    }
    if (n->voters[0].node_id == n->o.node_id) /* they are sorted */
        form(n);
}

/* ---- the transport's events ---- */

static bool on_frame(void *ctx, const struct peer_identity *from, bool answer,
                     enum peer_frame_type type, struct bytes payload)
{
    struct raft_node *n = ctx;
    struct wire_envelope e;
    struct raft_message m;

    (void)answer;
    if (n->close_begun || n->state == STATE_FAILED) /* who hands over leadership still listens */
        return true;
    switch (type) {
    case PEER_REQUEST_VOTE:
    case PEER_REQUEST_VOTE_RESULT:
    case PEER_APPEND_ENTRIES:
    case PEER_APPEND_ENTRIES_RESULT:
    case PEER_TIMEOUT_NOW:
        return wire_decode(type, payload.ptr, (size_t)payload.len, &e, &m) == ERR_NONE &&
               deliver(n, from, &e, &m);
    case PEER_SNAPSHOT_BEGIN:
    case PEER_SNAPSHOT_CHUNK:
        return on_snapshot_frame(n, from, type, payload);
    case PEER_QUORUM_VIEW:
        return on_view(n, from, payload);
    case PEER_HEARTBEAT:
    case PEER_HEARTBEAT_RESULT:
        return node_sessions_on_frame(n, from, type, payload);
    default:
        return proposals_on_frame(n, from, type, payload);
    }
}

static void on_state(void *ctx, const struct peer_identity *from, const struct peer_state *state)
{
    struct raft_node *n = ctx;
    struct seen_peer *s = seen_of(n, from->node_id);

    if (s == NULL || n->state == STATE_CLOSING || n->state == STATE_FAILED)
        return;
    s->heard = true;
    s->who = *from;
    s->state = *state;
    consider(n);
}

static raft_id raft_id_of(const struct raft_node *n, int32_t node_id)
{
    for (unsigned i = 0; n->guard != NULL && i < n->raft.configuration.n; i++) {
        struct uuid directory;
        int32_t id;

        if (wire_address_parse(n->raft.configuration.servers[i].address, &id, &directory) &&
            id == node_id)
            return n->raft.configuration.servers[i].id;
    }
    return 0;
}

static void on_link(void *ctx, int32_t node_id, bool up)
{
    struct raft_node *n = ctx;
    struct seen_peer *s = seen_of(n, node_id);

    if (n->state == STATE_CLOSING || n->state == STATE_FAILED)
        return;
    if (!up && s != NULL)
        s->heard = false;
    if (!up && n->guard != NULL)
        guard_peer_lost(n->guard, raft_id_of(n, node_id));
    if (up) {
        n->link++;
        node_sessions_on_link(n, node_id);
    }
    node_post_pump(n);
}

static void on_snapshot_sent(void *ctx, int32_t node_id)
{
    struct raft_node *n = ctx;

    if (n->guard != NULL)
        guard_snapshot_sent(n->guard, raft_id_of(n, node_id));
}

/* ---- evidence [H15] ---- */

/* How many voters that are there come before us in the order of ids after the leader. */
static int rank_after(const struct raft_node *n, raft_id leader)
{
    const struct raft_configuration *c = &n->raft.configuration;
    int rank = 0;

    for (unsigned i = 0; i < c->n; i++) {
        struct uuid directory;
        int32_t id;
        raft_id candidate = c->servers[i].id;
        bool before = n->raft.id > leader ? candidate > leader && candidate < n->raft.id
                                          : candidate > leader || candidate < n->raft.id;

        if (before && candidate != leader && c->servers[i].role == RAFT_VOTER &&
            wire_address_parse(c->servers[i].address, &id, &directory) &&
            transport_peer(n->transport, id) != NULL)
            rank++;
    }
    return rank;
}

static void on_jump(struct loop_timer *t)
{
    struct raft_node *n = CONTAINER_OF(t, struct raft_node, jump);

    if (n->guard == NULL || n->state == STATE_CLOSING || n->state == STATE_FAILED)
        return;
    guard_jump(n->guard);
    /* An append in flight has kept it from campaigning (G22): once more. */
    if (guard_leader_is_marked(n->guard))
        loop_timer_set(t, node_now_ns(n) + RANK_NS);
}

void raft_node_leader_gone(struct raft_node *n, int64_t term)
{
    const char *address;
    raft_id leader = leader_raft_id(n, &address);

    if (leader == 0 || leader == n->raft.id || (raft_term)term != n->raft.current_term ||
        n->transport == NULL || n->state == STATE_CLOSING || n->state == STATE_FAILED)
        return;
    guard_mark_leader_gone(n->guard, leader, (raft_term)term);
    if (!guard_leader_is_marked(n->guard))
        return;
    log_info(n->o.logger, "raft", "the process of leader %s is gone", address);
    loop_timer_set(&n->jump, node_now_ns(n) + (uint64_t)rank_after(n, leader) * RANK_NS);
}

static void on_gone(void *ctx, const struct peer_identity *who)
{
    struct raft_node *n = ctx;

    if (n->state == STATE_CLOSING || n->state == STATE_FAILED)
        return;
    quorum_refresh_leader(n);
    node_sessions_on_gone(n, who);
    if (n->guard != NULL && n->leader_id == who->node_id)
        raft_node_leader_gone(n, (int64_t)n->raft.current_term);
}

/* ---- beginning and end ---- */

static uint64_t digest_of(const struct raft_node *n)
{
    uint64_t digest = DIGEST_SEED;

    for (int i = 0; i < n->voter_count; i++) {
        char text[512];

        (void)snprintf(text, sizeof text, "%d@%s:%d", n->voters[i].node_id, n->voters[i].host,
                       n->voters[i].port);
        digest = hash_bytes(digest, text, strlen(text));
    }
    return digest;
}

void quorum_prepare(struct raft_node *n)
{
    n->leader_id = -1;
    loop_timer_init(&n->jump, n->o.loop, on_jump);
}

enum err quorum_init(struct raft_node *n, struct errmsg *why)
{
    n->voters_digest = digest_of(n);
    for (int i = 0; i < n->voter_count; i++)
        n->seen[i].node_id = n->voters[i].node_id;
    if (n->o.listen_host == NULL)
        return ERR_NONE;
    fill_state(n, &n->told);
    return transport_new(
        &(struct transport_options){.env = n->o.env,
                                    .loop = n->o.loop,
                                    .logger = n->o.logger,
                                    .host = n->o.listen_host,
                                    .port = n->o.listen_port,
                                    .self = {n->o.node_id, n->o.directory_id, n->o.incarnation},
                                    .voters = n->voters,
                                    .voter_count = n->voter_count,
                                    .secret = n->o.secret,
                                    .allow_insecure = n->o.allow_insecure_peers,
                                    .on_frame = on_frame,
                                    .on_state = on_state,
                                    .on_link = on_link,
                                    .on_snapshot_sent = on_snapshot_sent,
                                    .on_gone = on_gone,
                                    .ctx = n},
        &n->told, &n->transport, why);
}

void quorum_deinit(struct raft_node *n)
{
    loop_timer_stop(&n->jump);
    if (n->transport != NULL)
        transport_free(n->transport);
    n->transport = NULL;
    for (int i = 0; i < n->voter_count; i++)
        wire_assembly_reset(&n->seen[i].assembly);
}

void quorum_sweep(struct raft_node *n, uint64_t now_ns)
{
    consider(n);
    quorum_update(n);
    if (n->transport == NULL || n->guard == NULL || !guard_leads(n->guard) ||
        now_ns - n->view_told_ns < VIEW_MS * 1000000ull)
        return;
    n->view_told_ns = now_ns;
    tell_view(n, &n->view);
}

int raft_node_port(const struct raft_node *n)
{
    return n->transport != NULL ? transport_port(n->transport) : -1;
}
