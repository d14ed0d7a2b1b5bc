/* broker/handlers/api_versions.c -- ApiVersions and UpdateFeatures: what this node can do.
 */
#include "broker/dispatch.h"
#include "broker/features.h"
#include "broker/handlers/admin.h"
#include "broker/handlers/handlers.h"
#include "broker/node.h"

static const struct supported_feature *feature_find(struct str name)
{
    for (int32_t i = 0; i < SUPPORTED_FEATURE_COUNT; i++)
        if (str_eq_lit(name, supported_features[i].name))
            return &supported_features[i];
    return NULL;
}

/* ---- ApiVersions ---- */

static int32_t advertised_count(void)
{
    int32_t n = 0;

    for (size_t i = 0; i < api_count; i++)
        n += dispatch_has(api_at(i));
    return n;
}

static void fill_range(struct api_versions_response_api_version *out, const struct api_desc *a)
{
    out->api_key = a->key;
    out->min_version = dispatch_version_min(a);
    out->max_version = a->version_max_stable;
}

/* KIP-511: in version 0, so that any client can read it, with the one range that helps. */
static void answer_unsupported(struct request *r)
{
    struct api_versions_response *out = request_response(r);

    out->error_code = err_to_wire(ERR_UNSUPPORTED_VERSION);
    REQUEST_ARRAY(r, out->api_keys, 1, api_versions_response_api_version);
    fill_range(&out->api_keys.v[0], r->api);
    r->version = 0;
    request_send(r);
}

/* KIP-1242: a client that reached the wrong node is told to look for the cluster again. */
static enum err check_destination(const struct request *r, const struct api_versions_request *in)
{
    if (r->version < 5)
        return ERR_NONE;
    if (!str_is_null(in->cluster_id) && !str_eq(in->cluster_id, image_cluster_id(request_image(r))))
        return ERR_REBOOTSTRAP_REQUIRED;
    if (in->node_id >= 0 && in->node_id != r->home->config->node_id)
        return ERR_REBOOTSTRAP_REQUIRED;
    return ERR_NONE;
}

/* KIP-511: [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])? */
static bool software_text_ok(struct str s)
{
    for (int32_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool alphanumeric =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

        if (!alphanumeric && ((c != '-' && c != '.') || i == 0 || i == s.len - 1))
            return false;
    }
    return s.len > 0;
}

static void fill_features(struct request *r, struct api_versions_response *out)
{
    const struct image *image = request_image(r);
    const struct feature_image *finalized = NULL;
    int32_t n = image_features(image, &finalized);

    REQUEST_ARRAY(r, out->supported_features, SUPPORTED_FEATURE_COUNT,
                  api_versions_response_supported_feature_key);
    for (int32_t i = 0; i < SUPPORTED_FEATURE_COUNT; i++) {
        out->supported_features.v[i].name = str_from(supported_features[i].name);
        out->supported_features.v[i].min_version = supported_features[i].min;
        out->supported_features.v[i].max_version = supported_features[i].max;
    }
    REQUEST_ARRAY(r, out->finalized_features, n, api_versions_response_finalized_feature_key);
    for (int32_t i = 0; i < n; i++) {
        if (!arena_str(&r->arena, finalized[i].name, &out->finalized_features.v[i].name)) {
            request_overflow(r);
            return;
        }
        out->finalized_features.v[i].max_version_level = finalized[i].level;
        out->finalized_features.v[i].min_version_level = finalized[i].level;
    }
    out->finalized_features_epoch = image_features_epoch(image);
    request_send(r);
}

void handle_api_versions(struct request *r)
{
    const struct api_versions_request *in = r->body;
    struct api_versions_response *out;
    int32_t n = 0;

    if (r->version > r->api->version_max || r->version < r->api->version_min) {
        answer_unsupported(r);
        return;
    }
    out = request_response(r);
    if (r->version >= 3 && !(software_text_ok(in->client_software_name) &&
                             software_text_ok(in->client_software_version))) {
        out->error_code = err_to_wire(ERR_INVALID_REQUEST);
        request_send(r);
        return;
    }
    out->error_code = err_to_wire(check_destination(r, in));
    if (out->error_code != ERR_NONE) {
        request_send(r);
        return;
    }
    REQUEST_ARRAY(r, out->api_keys, advertised_count(), api_versions_response_api_version);
    for (size_t i = 0; i < api_count; i++)
        if (dispatch_has(api_at(i)))
            fill_range(&out->api_keys.v[n++], api_at(i));
    fill_features(r, out);
}

/* ---- UpdateFeatures ---- */

static void on_features_updated(struct request *r)
{
    const struct update_features_request *in = r->body;
    struct update_features_response *out = r->response;
    const MetaOutcome *o = r->proposal.outcome;
    enum err whole = admin_command_error(r);

    out->error_code = err_to_wire(whole);
    out->error_message = o != NULL ? admin_message(r, o->message) : STR_NULL;
    if (r->version < 2) { /* later versions answer as a whole */
        REQUEST_ARRAY(r, out->results, whole == ERR_NONE ? in->feature_updates.n : 0,
                      update_features_response_updatable_feature_result);
        for (int32_t i = 0; i < out->results.n; i++) {
            out->results.v[i].feature = in->feature_updates.v[i].feature;
            out->results.v[i].error_code = err_to_wire((enum err)o->items[i]->error);
            out->results.v[i].error_message = admin_message(r, o->items[i]->message);
        }
    }
    for (int32_t i = 0; r->version >= 2 && whole == ERR_NONE && i < in->feature_updates.n; i++) {
        if (o->items[i]->error == ERR_NONE)
            continue;
        out->error_code = err_to_wire((enum err)o->items[i]->error);
        out->error_message = admin_message(r, o->items[i]->message);
        break;
    }
    request_send(r);
}

static MetaUpdateFeatures__Update *update_of(
    struct request *r, const struct update_features_request_feature_update_key *in)
{
    const struct supported_feature *s = feature_find(in->feature);
    MetaUpdateFeatures__Update *u = arena_alloc(&r->arena, sizeof *u);

    if (u == NULL)
        return NULL;
    meta_update_features__update__init(u);
    u->name = admin_text(r, in->feature);
    u->level = in->max_version_level;
    u->upgrade_type = r->version == 0 ? (in->allow_downgrade ? 2 : 1) : in->upgrade_type;
    u->supported_min = s != NULL ? s->min : 0;
    u->supported_max = s != NULL ? s->max : 0;
    return u->name != NULL ? u : NULL;
}

void handle_update_features(struct request *r)
{
    const struct update_features_request *in = r->body;
    MetaCommand *command = arena_alloc(&r->arena, sizeof *command);
    MetaUpdateFeatures *update = arena_alloc(&r->arena, sizeof *update);

    request_response(r);
    if (command == NULL || update == NULL) {
        request_overflow(r);
        return;
    }
    meta_command__init(command);
    meta_update_features__init(update);
    update->validate_only = in->validate_only;
    update->all_or_nothing = r->version >= 2;
    update->updates =
        arena_array(&r->arena, (size_t)in->feature_updates.n + 1, sizeof *update->updates);
    for (int32_t i = 0; i < in->feature_updates.n; i++) {
        MetaUpdateFeatures__Update *u =
            update->updates != NULL ? update_of(r, &in->feature_updates.v[i]) : NULL;

        if (u == NULL) {
            request_overflow(r);
            return;
        }
        update->updates[update->n_updates++] = u;
    }
    command->body_case = META_COMMAND__BODY_UPDATE_FEATURES;
    command->update_features = update;
    request_propose(r, command, in->timeout_ms, on_features_updated);
}
