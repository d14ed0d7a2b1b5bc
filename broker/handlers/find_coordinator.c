/* broker/handlers/find_coordinator.c -- FindCoordinator, before there are coordinators.
 *
 * Offered although groups are not built yet, because librdkafka takes the presence of this API for
 * the sign that a broker knows lz4, and otherwise silently stops compressing (RD_KAFKA_FEATURE_LZ4
 * asks for it in version 0). The answer is the truth: no coordinator is available.
 */
#include "broker/handlers/handlers.h"
#include "broker/node.h"

#define NOT_BUILT "consumer groups and transactions are not built yet"

void handle_find_coordinator(struct request *r)
{
    const struct find_coordinator_request *in = r->body;
    struct find_coordinator_response *out = request_response(r);

    if (worker_first_offence(r->worker, request_peer_host(r), NOT_BUILT))
        log_info(r->home->logger, "group",
                 "%s asks for a coordinator, but " NOT_BUILT " (told once for this peer)",
                 request_peer(r));
    if (r->version < 4) {
        out->error_code = err_to_wire(ERR_COORDINATOR_NOT_AVAILABLE);
        out->error_message = r->version >= 1 ? STR_LIT(NOT_BUILT) : STR_NULL;
        out->node_id = -1;
        out->port = -1;
        request_send(r);
        return;
    }
    REQUEST_ARRAY(r, out->coordinators, in->coordinator_keys.n,
                  find_coordinator_response_coordinator);
    for (int32_t i = 0; i < in->coordinator_keys.n; i++) {
        out->coordinators.v[i].key = in->coordinator_keys.v[i];
        out->coordinators.v[i].error_code = err_to_wire(ERR_COORDINATOR_NOT_AVAILABLE);
        out->coordinators.v[i].error_message = STR_LIT(NOT_BUILT);
        out->coordinators.v[i].node_id = -1;
        out->coordinators.v[i].port = -1;
    }
    request_send(r);
}
