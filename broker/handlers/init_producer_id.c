/* broker/handlers/init_producer_id.c -- InitProducerId for idempotent producers (KIP-98).
 *
 * Ids come from blocks that the state machine hands out; each worker has a block of its own, and
 * while it fetches the next one those who ask wait in line. What a restart leaves of a block is
 * never used.
 *
 * A producer without a transactional id always gets a new id with epoch 0, also when it names the
 * one it has (KIP-360): its sequences begin again under an id that nobody knows.
 */
#include "broker/handlers/handlers.h"
#include "broker/node.h"

/* A block is asked for on behalf of whoever waits; a client's own timeout is shorter. */
#define ALLOCATE_TIMEOUT_MS 30000

struct id_waiter {
    struct list_node node; /* in worker->producer_id_waiters */
    struct request *request;
};

static void refuse(struct request *r, enum err e)
{
    struct init_producer_id_response *out = r->response;

    out->error_code = err_to_wire(e);
    out->producer_id = -1;
    out->producer_epoch = -1;
    request_send(r);
}

static void give(struct request *r, struct worker *w)
{
    struct init_producer_id_response *out = r->response;

    out->producer_id = w->producer_id_next++;
    out->producer_epoch = 0;
    request_send(r);
}

static bool has_ids(const struct worker *w)
{
    return w->producer_id_next < w->producer_id_end;
}

static void allocate(struct request *r);

/* The first who waits carries the question for all. */
static void ask_again(struct worker *w)
{
    struct list_node *n = list_first(&w->producer_id_waiters);

    w->producer_id_pending = false;
    if (n != NULL)
        allocate(list_entry(n, struct id_waiter, node)->request);
}

static enum err take_block(struct request *r)
{
    const MetaOutcome *o = r->proposal.outcome;

    if (r->proposal.err != ERR_NONE || o == NULL || o->error != 0 || o->count <= 0) {
        log_warn(r->home->logger, "broker", "no block of producer ids: %s",
                 err_name(r->proposal.err != ERR_NONE || o == NULL ? r->proposal.err
                                                                   : (enum err)o->error));
        /* Kafka's answer, which producers try again. */
        return ERR_COORDINATOR_LOAD_IN_PROGRESS;
    }
    r->worker->producer_id_next = o->value;
    r->worker->producer_id_end = o->value + o->count;
    return ERR_NONE;
}

/* On failure all who wait now are told; on success those for whom there are ids. */
static void on_block(struct request *r)
{
    struct worker *w = r->worker;
    enum err e = take_block(r);
    struct list served;
    struct list_node *n;

    list_init(&served);
    list_splice_back(&served, &w->producer_id_waiters);
    while ((e != ERR_NONE || has_ids(w)) && (n = list_pop_front(&served)) != NULL) {
        struct request *waiting = list_entry(n, struct id_waiter, node)->request;

        if (e != ERR_NONE)
            refuse(waiting, e);
        else
            give(waiting, w);
    }
    /* Who came while they were answered stands behind who was here before. */
    list_splice_back(&served, &w->producer_id_waiters);
    list_splice_back(&w->producer_id_waiters, &served);
    ask_again(w);
}

static void allocate(struct request *r)
{
    MetaCommand *command = arena_alloc(&r->arena, sizeof *command);
    MetaAllocateProducerIds *body = arena_alloc(&r->arena, sizeof *body);

    CHECK(command != NULL && body != NULL); /* a request this small is far from its budget */
    meta_command__init(command);
    meta_allocate_producer_ids__init(body);
    body->node = r->home->config->node_id;
    body->broker_epoch = node_broker_epoch(r->home);
    command->body_case = META_COMMAND__BODY_ALLOCATE_PRODUCER_IDS;
    command->allocate_producer_ids = body;
    r->worker->producer_id_pending = true;
    request_propose(r, command, ALLOCATE_TIMEOUT_MS, on_block);
}

static enum err check_request(struct request *r)
{
    const struct init_producer_id_request *in = r->body;

    /* Authorization, once it exists: IDEMPOTENT_WRITE on the cluster, or WRITE on any topic; with
     * a transactional id, WRITE on that. */
    if ((in->producer_id == -1) != (in->producer_epoch == -1))
        return ERR_INVALID_REQUEST;
    if (str_is_null(in->transactional_id))
        return ERR_NONE;
    if (r->conn != NULL &&
        worker_first_offence(r->worker, request_peer_host(r), "transactional id"))
        log_warn(r->home->logger, "broker",
                 "%s asks for transactions (transactional.id %.*s), which do not exist here yet: "
                 "refused (told once for this peer)",
                 request_peer(r), STR_ARG(in->transactional_id));
    return ERR_INVALID_REQUEST;
}

void handle_init_producer_id(struct request *r)
{
    struct worker *w = r->worker;
    enum err e = check_request(r);

    request_response(r);
    if (e != ERR_NONE) {
        refuse(r, e);
        return;
    }
    if (has_ids(w)) {
        give(r, w);
        return;
    }

    struct id_waiter *waiter = arena_alloc(&r->arena, sizeof *waiter);

    if (waiter == NULL) {
        request_overflow(r);
        return;
    }
    waiter->request = r;
    list_push_back(&w->producer_id_waiters, &waiter->node);
    if (!w->producer_id_pending)
        allocate(r);
}
