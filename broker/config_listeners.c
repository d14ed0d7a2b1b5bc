/* broker/config_listeners.c -- listeners, advertised listeners and voters, as people configure
 * them.
 *
 * [H38] A listener is NAME://host:port: the name in any case, IPv6 in brackets, an empty host for
 * all addresses, port 0 for any free one. Its protocol is what listener.security.protocol.map says
 * of the name; without a map a name that is a protocol means itself, and the controller's names
 * mean PLAINTEXT. Only PLAINTEXT is built: whatever asks for more is refused, never weakened.
 *
 * [H27] A node is told of the quorum by controller.quorum.voters, or by
 * controller.quorum.bootstrap.servers alone, or not at all; in the last two cases it is a cluster
 * of one voter if nothing but itself is named.
 */
#include "broker/config_keys.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define MAP_MAX 32

enum security_protocol { PLAINTEXT = 0, SSL = 1, SASL_PLAINTEXT = 2, SASL_SSL = 3 };

static const char *const protocol_names[] = {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"};

static int find_protocol(struct str name)
{
    for (size_t i = 0; i < ARRAY_COUNT(protocol_names); i++)
        if (str_eq_nocase(name, protocol_names[i]))
            return (int)i;
    return -1;
}

static enum err bad(const struct config *c, const char *key, struct errmsg *why, const char *fmt,
                    ...) __attribute__((format(printf, 4, 5)));

/* "file:line: key: " and the rest. */
static enum err bad(const struct config *c, const char *key, struct errmsg *why, const char *fmt,
                    ...)
{
    char where[512], rest[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(rest, sizeof rest, fmt, args);
    va_end(args);
    errmsg_set(why, "%s: %s", config_where(c, key, where), rest);
    return ERR_CONFIG;
}

static bool copy_upper(char *out, size_t size, struct str s)
{
    if (s.len <= 0 || (size_t)s.len >= size)
        return false;
    for (int32_t i = 0; i < s.len; i++) {
        char ch = s.ptr[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
              ch == '_' || ch == '-' || ch == '.'))
            return false;
        out[i] = ch >= 'a' && ch <= 'z' ? (char)(ch - 32) : ch;
    }
    out[s.len] = '\0';
    return true;
}

static bool is_host_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.' || c == '%' || c == ':';
}

bool config_parse_host_port(struct str text, char *host, size_t host_size, int *port)
{
    struct str h = text;
    int32_t v, colon = text.len - 1;

    while (colon >= 0 && text.ptr[colon] != ':')
        colon--;
    if (colon < 0 || !parse_int32((struct str){text.ptr + colon + 1, text.len - colon - 1}, &v) ||
        v < 0 || v > 65535)
        return false;
    h.len = colon;
    if (h.len >= 2 && h.ptr[0] == '[' && h.ptr[h.len - 1] == ']') {
        h.ptr++;
        h.len -= 2;
    } else if (h.len > 0 && memchr(h.ptr, ':', (size_t)h.len) != NULL) {
        return false; /* an IPv6 address without brackets: which colon ends it? */
    }
    for (int32_t i = 0; i < h.len; i++)
        if (!is_host_char(h.ptr[i]))
            return false;
    if ((size_t)h.len >= host_size)
        return false;
    memcpy(host, h.ptr, (size_t)h.len);
    host[h.len] = '\0';
    *port = v;
    return true;
}

/* NAME://host:port */
static bool parse_endpoint(struct str text, char name[64], char host[256], int *port)
{
    const char *mark = text.len > 0 ? memmem(text.ptr, (size_t)text.len, "://", 3) : NULL;

    if (mark == NULL)
        return false;

    int32_t name_size = (int32_t)(mark - text.ptr);

    return copy_upper(name, 64, (struct str){text.ptr, name_size}) &&
           config_parse_host_port((struct str){mark + 3, text.len - name_size - 3}, host, 256,
                                  port);
}

static bool is_any_address(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 ||
           strcmp(host, "0:0:0:0:0:0:0:0") == 0;
}

static bool is_loopback(const char *host)
{
    return strcasecmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 ||
           strcmp(host, "::1") == 0;
}

static bool list_has(struct str list, const char *name)
{
    struct str item;

    while (config_list_next(&list, &item))
        if (str_eq_nocase(item, name))
            return true;
    return false;
}

/* ---- the protocol of a listener's name ---- */

static enum err protocol_of(const struct config *c, struct listener_config *l, struct errmsg *why)
{
    struct str map = config_static_text(c, "listener.security.protocol.map"), item;
    bool found = false;
    int protocol = -1;

    while (config_list_next(&map, &item)) {
        const char *colon = item.len > 0 ? memchr(item.ptr, ':', (size_t)item.len) : NULL;
        struct str name = item, value = item;

        if (colon == NULL) {
            if (item.len == 0)
                continue;
            return bad(c, "listener.security.protocol.map", why,
                       "found %.*s, expected NAME:PROTOCOL", STR_ARG(item));
        }
        name.len = (int32_t)(colon - item.ptr);
        value = config_trim((struct str){colon + 1, item.len - name.len - 1});
        if (find_protocol(value) < 0)
            return bad(c, "listener.security.protocol.map", why,
                       "found the protocol %.*s, expected one of PLAINTEXT, SSL, SASL_PLAINTEXT, "
                       "SASL_SSL",
                       STR_ARG(value));
        if (str_eq_nocase(config_trim(name), l->name)) {
            protocol = find_protocol(value);
            found = true;
        }
    }
    if (!found && l->controller && !config_is_set(c, "listener.security.protocol.map"))
        protocol = PLAINTEXT;
    if (protocol < 0)
        return bad(c, "listeners", why,
                   "found the listener %s, expected a protocol for it in "
                   "listener.security.protocol.map",
                   l->name);
    if (protocol != PLAINTEXT)
        return bad(c, "listeners", why,
                   "the listener %s asks for %s, which is not built yet; fluxmq does not start "
                   "rather than serve it without protection",
                   l->name, protocol_names[protocol]);
    l->security_protocol = (int16_t)protocol;
    return ERR_NONE;
}

/* ---- listeners ---- */

/* Two listeners collide when one address would have to be bound twice. An IPv4 and an IPv6
 * literal never do. */
static bool collide(const struct listener_config *a, const struct listener_config *b)
{
    bool a_any = a->host[0] == '\0' || is_any_address(a->host);
    bool b_any = b->host[0] == '\0' || is_any_address(b->host);

    if (a->port == 0 || a->port != b->port)
        return false;
    if (a->host[0] != '\0' && b->host[0] != '\0' &&
        (strchr(a->host, ':') == NULL) != (strchr(b->host, ':') == NULL))
        return false;
    return a_any || b_any || strcasecmp(a->host, b->host) == 0;
}

static enum err add_listener(struct config *c, struct str text, struct errmsg *why)
{
    struct listener_config *l = &c->listeners[c->listener_count];

    if (c->listener_count == CONFIG_LISTENERS_MAX)
        return bad(c, "listeners", why, "expected at most %d", CONFIG_LISTENERS_MAX);
    *l = (struct listener_config){0};
    if (!parse_endpoint(text, l->name, l->host, &l->port))
        return bad(c, "listeners", why, "found %.*s, expected NAME://host:port", STR_ARG(text));
    l->controller = list_has(config_static_text(c, "controller.listener.names"), l->name);
    for (int i = 0; i < c->listener_count; i++) {
        if (strcmp(c->listeners[i].name, l->name) == 0)
            return bad(c, "listeners", why, "found %s twice, expected different names", l->name);
        if (collide(&c->listeners[i], l))
            return bad(c, "listeners", why,
                       "%s and %s would bind the same port %d, expected different ones",
                       c->listeners[i].name, l->name, l->port);
    }
    c->listener_count++;
    return protocol_of(c, l, why);
}

/* Without `listeners`: one for clients and, on loopback, the controller's first name. */
static const char *default_listeners(struct config *c)
{
    struct str names = config_static_text(c, "controller.listener.names"), first;
    char text[512];

    if (!config_is_set(c, "controller.listener.names") || !config_list_next(&names, &first) ||
        first.len == 0 || first.len > 63)
        return config_static_text(c, "listeners").ptr;
    snprintf(text, sizeof text, "PLAINTEXT://:9092,%.*s://127.0.0.1:9093", STR_ARG(first));
    return config_keep(c->store, str_from(text));
}

static struct listener_config *find_listener(struct config *c, const char *name)
{
    for (int i = 0; i < c->listener_count; i++)
        if (strcasecmp(c->listeners[i].name, name) == 0)
            return &c->listeners[i];
    return NULL;
}

static struct listener_config *first_client_listener(struct config *c)
{
    for (int i = 0; i < c->listener_count; i++)
        if (!c->listeners[i].controller)
            return &c->listeners[i];
    return NULL;
}

/* The flags --host and --port, and their variables, move the first client listener unless a
 * stronger source has set `listeners`. */
static enum err apply_host_and_port(struct config *c, struct errmsg *why)
{
    const struct config_static_value *host = config_static(c, "host");
    const struct config_static_value *port = config_static(c, "port");
    enum config_origin listeners = config_static(c, "listeners")->origin;
    struct listener_config *l = first_client_listener(c);

    if (l == NULL)
        return ERR_NONE;
    if (host->text != NULL && host->origin >= listeners) {
        struct str h = str_from(host->text);

        if (h.len >= 2 && h.ptr[0] == '[' && h.ptr[h.len - 1] == ']')
            h = (struct str){h.ptr + 1, h.len - 2};
        for (int32_t i = 0; i < h.len; i++)
            if (!is_host_char(h.ptr[i]))
                return bad(c, "host", why, "found %s, expected a host name or an address",
                           host->text);
        if ((size_t)h.len >= sizeof l->host)
            return bad(c, "host", why, "expected at most %zu characters", sizeof l->host - 1);
        memcpy(l->host, h.ptr, (size_t)h.len);
        l->host[h.len] = '\0';
        if (is_any_address(l->host))
            l->host[0] = '\0'; /* advertised as this machine's name */
    }
    if (port->text != NULL && port->origin >= listeners)
        l->port = (int)config_static_number(c, "port");
    for (int i = 0; i < c->listener_count; i++)
        if (&c->listeners[i] != l && collide(&c->listeners[i], l))
            return bad(c, "port", why, "%s and %s would bind the same port %d",
                       c->listeners[i].name, l->name, l->port);
    return ERR_NONE;
}

/* ---- advertised listeners ---- */

static enum err set_advertised(struct config *c, struct str text, struct errmsg *why)
{
    char name[64], host[256];
    int port;

    if (!parse_endpoint(text, name, host, &port))
        return bad(c, "advertised.listeners", why, "found %.*s, expected NAME://host:port",
                   STR_ARG(text));

    struct listener_config *l = find_listener(c, name);

    if (l == NULL)
        return bad(c, "advertised.listeners", why,
                   "found the listener %s, expected one that stands in listeners", name);
    if (l->advertised_host[0] != '\0')
        return bad(c, "advertised.listeners", why, "found %s twice, expected each name once", name);
    snprintf(l->advertised_host, sizeof l->advertised_host, "%s",
             host[0] != '\0' ? host : c->store->hostname);
    l->advertised_port = port;
    return ERR_NONE;
}

static enum err advertise(struct config *c, struct errmsg *why)
{
    struct str list = config_static_text(c, "advertised.listeners"), item;
    bool plain_default = !config_is_set(c, "listeners") && !config_is_set(c, "host");

    while (list.len > 0 && config_list_next(&list, &item)) {
        enum err err = set_advertised(c, item, why);

        if (err != ERR_NONE)
            return err;
    }
    for (int i = 0; i < c->listener_count; i++) {
        struct listener_config *l = &c->listeners[i];
        const char *host = l->host;

        if (l->advertised_host[0] == '\0') {
            if (host[0] == '\0' || (l->controller && is_any_address(host)))
                host = plain_default ? "localhost" : c->store->hostname;
            snprintf(l->advertised_host, sizeof l->advertised_host, "%s", host);
            l->advertised_port = l->port;
        }
        if (!l->controller && is_any_address(l->advertised_host))
            return bad(c, "advertised.listeners", why,
                       "%s would tell clients to connect to %s, which leads nowhere; add "
                       "advertised.listeners=%s://HOST:%d with the name by which clients reach "
                       "this machine",
                       l->name, l->advertised_host, l->name, l->port);
    }
    return ERR_NONE;
}

/* ---- which listener carries replication ---- */

static enum err choose_inter_broker(struct config *c, struct errmsg *why)
{
    struct str name = config_static_text(c, "inter.broker.listener.name");
    struct listener_config *l;
    char upper[64];
    int clients = 0;

    if (find_protocol(config_static_text(c, "security.inter.broker.protocol")) != PLAINTEXT)
        return bad(c, "security.inter.broker.protocol", why,
                   "%.*s is not built yet, expected PLAINTEXT",
                   STR_ARG(config_static_text(c, "security.inter.broker.protocol")));
    for (int i = 0; i < c->listener_count; i++)
        clients += !c->listeners[i].controller;
    if (name.len > 0) {
        if (config_is_set(c, "security.inter.broker.protocol"))
            return bad(c, "inter.broker.listener.name", why,
                       "expected only one of it and security.inter.broker.protocol");
        l = copy_upper(upper, sizeof upper, name) ? find_listener(c, upper) : NULL;
        if (l == NULL || l->controller)
            return bad(c, "inter.broker.listener.name", why,
                       "found %.*s, expected the name of a client listener", STR_ARG(name));
    } else {
        l = clients == 1 ? first_client_listener(c) : find_listener(c, "PLAINTEXT");
        if (l == NULL || l->controller)
            return bad(c, "listeners", why,
                       "%d client listeners and none is named PLAINTEXT; say in "
                       "inter.broker.listener.name by which of them other nodes replicate",
                       clients);
    }
    l->inter_broker = true;
    return ERR_NONE;
}

enum err config_resolve_listeners(struct config *c, struct errmsg *why)
{
    struct str list = config_static_text(c, "listeners"), item;
    bool any_controller = false;
    enum err err;

    if (!config_is_set(c, "listeners"))
        list = str_from(default_listeners(c));
    while (config_list_next(&list, &item)) {
        err = add_listener(c, item, why);
        if (err != ERR_NONE)
            return err;
        any_controller |= c->listeners[c->listener_count - 1].controller;
    }
    if (first_client_listener(c) == NULL)
        return bad(c, "listeners", why,
                   "expected at least one listener that controller.listener.names does not name");
    /* A file for a broker alone has the controller's name, but its listener elsewhere. */
    if (!any_controller && config_is_set(c, "controller.listener.names") &&
        list_has(config_static_text(c, "process.roles"), "controller"))
        return bad(c, "controller.listener.names", why,
                   "found %.*s, expected at least one that stands in listeners",
                   STR_ARG(config_static_text(c, "controller.listener.names")));
    err = apply_host_and_port(c, why);
    if (err == ERR_NONE)
        err = advertise(c, why);
    if (err == ERR_NONE)
        err = choose_inter_broker(c, why);
    return err;
}

/* ---- voters ---- */

static bool names_this_machine(const struct config *c, const char *host)
{
    if (is_loopback(host) || strcasecmp(host, c->store->hostname) == 0)
        return true;
    for (int i = 0; i < c->listener_count; i++)
        if (strcasecmp(host, c->listeners[i].host) == 0 ||
            strcasecmp(host, c->listeners[i].advertised_host) == 0)
            return true;
    return false;
}

const struct listener_config *config_controller_listener(const struct config *c)
{
    for (int i = 0; i < c->listener_count; i++)
        if (c->listeners[i].controller)
            return &c->listeners[i];
    return NULL;
}

/* id@host:port */
static enum err add_voter(struct config *c, struct str text, struct errmsg *why)
{
    const char *key = "controller.quorum.voters";
    const char *at = text.len > 0 ? memchr(text.ptr, '@', (size_t)text.len) : NULL;
    int v = c->voter_count;

    if (v == CONFIG_VOTERS_MAX)
        return bad(c, key, why, "expected at most %d voters", CONFIG_VOTERS_MAX);
    if (at == NULL ||
        !parse_int32((struct str){text.ptr, (int32_t)(at - text.ptr)}, &c->voters[v].node_id) ||
        c->voters[v].node_id < 0 ||
        !config_parse_host_port((struct str){at + 1, text.len - (int32_t)(at - text.ptr) - 1},
                                c->voters[v].host, sizeof c->voters[v].host, &c->voters[v].port) ||
        c->voters[v].host[0] == '\0')
        return bad(c, key, why, "found %.*s, expected id@host:port", STR_ARG(text));
    for (int i = 0; i < v; i++)
        if (c->voters[i].node_id == c->voters[v].node_id)
            return bad(c, key, why, "found node %d twice, expected each once",
                       (int)c->voters[v].node_id);
    c->voter_count++;
    return ERR_NONE;
}

/* [H25] Whoever reaches the controller's port of a node that takes peers from other hosts can
 * rewrite the cluster: so peers elsewhere need a secret. */
static enum err check_peers_protected(const struct config *c, struct errmsg *why)
{
    for (int i = 0; i < c->voter_count; i++) {
        if (c->voters[i].node_id == c->node_id || is_loopback(c->voters[i].host))
            continue;
        if (c->cluster_secret != NULL || c->allow_insecure_peers)
            continue;
        return bad(c, "controller.quorum.voters", why,
                   "names the other host %s, and no secret protects the cluster from whoever "
                   "reaches this port; add the line cluster.secret=SECRET, the same on each node, "
                   "or allow.insecure.peers=true",
                   c->voters[i].host);
    }
    return ERR_NONE;
}

/* The other voters dial what the list says of this one: it must listen there. */
static enum err check_own_voter(const struct config *c, int self, struct errmsg *why)
{
    const char *key = "controller.quorum.voters";
    const struct listener_config *l = config_controller_listener(c);

    if (l == NULL)
        return bad(c, key, why,
                   "names %d voters, and listeners has none that controller.listener.names names; "
                   "add one for port %d, by which the other voters reach this node",
                   c->voter_count, c->voters[self].port);
    if (l->port != c->voters[self].port && l->advertised_port != c->voters[self].port)
        return bad(c, key, why,
                   "says that this node is reached at port %d, but its controller listener %s is "
                   "on port %d",
                   c->voters[self].port, l->name, l->port);
    for (int i = 0; i < c->voter_count; i++)
        for (int k = 0; k < i; k++)
            if (c->voters[i].port == c->voters[k].port &&
                strcasecmp(c->voters[i].host, c->voters[k].host) == 0)
                return bad(c, key, why, "gives node %d and node %d the same address %s:%d",
                           (int)c->voters[k].node_id, (int)c->voters[i].node_id, c->voters[i].host,
                           c->voters[i].port);
    for (int i = 0; i < c->voter_count; i++) {
        if (is_loopback(c->voters[i].host))
            continue;
        if (is_loopback(c->voters[self].host))
            return bad(c, key, why, "names this node by %s, where the voter on %s cannot reach it",
                       c->voters[self].host, c->voters[i].host);
        if (is_loopback(l->host))
            return bad(c, key, why,
                       "names voters on other machines, which cannot reach the controller listener "
                       "%s on %s; say listeners=...,%s://:%d",
                       l->name, l->host, l->name, l->port);
    }
    return ERR_NONE;
}

static enum err resolve_voter_list(struct config *c, struct str list, struct errmsg *why)
{
    const char *key = "controller.quorum.voters";
    int self = -1;
    struct str item;
    enum err err;

    while (config_list_next(&list, &item)) {
        err = add_voter(c, item, why);
        if (err != ERR_NONE)
            return err;
        if (c->voters[c->voter_count - 1].node_id == c->node_id)
            self = c->voter_count - 1;
    }
    err = check_peers_protected(c, why);
    if (err != ERR_NONE)
        return err;
    if (self < 0)
        return bad(c, key, why,
                   "does not name this node, whose node.id is %d; nodes that are no voters are "
                   "not built yet",
                   (int)c->node_id);
    return c->voter_count > 1 ? check_own_voter(c, self, why) : ERR_NONE;
}

/* Every server that is named must be this node: another one has a cluster that we would not be
 * part of. */
static enum err check_bootstrap_servers(const struct config *c, struct str list, struct errmsg *why)
{
    const char *key = "controller.quorum.bootstrap.servers";
    const struct listener_config *l = config_controller_listener(c);
    struct str item;
    char host[256];
    int port;

    while (config_list_next(&list, &item)) {
        if (!config_parse_host_port(item, host, sizeof host, &port) || host[0] == '\0')
            return bad(c, key, why, "found %.*s, expected host:port", STR_ARG(item));
        if (names_this_machine(c, host) &&
            (l == NULL || l->port == 0 || port == l->port || port == l->advertised_port))
            continue;
        return bad(c, key, why,
                   "names %.*s, which is another node; a node that is given "
                   "controller.quorum.bootstrap.servers alone never forms a cluster with others, "
                   "and joining one is not built yet",
                   STR_ARG(item));
    }
    return ERR_NONE;
}

enum err config_resolve_voters(struct config *c, struct errmsg *why)
{
    struct str voters = config_static_text(c, "controller.quorum.voters");
    struct str servers = config_static_text(c, "controller.quorum.bootstrap.servers");
    const struct listener_config *l = config_controller_listener(c);

    if (voters.len > 0)
        return resolve_voter_list(c, voters, why);
    if (servers.len > 0) {
        enum err err = check_bootstrap_servers(c, servers, why);

        if (err != ERR_NONE)
            return err;
    }
    c->voters[0].node_id = c->node_id;
    snprintf(c->voters[0].host, sizeof c->voters[0].host, "%s",
             l != NULL ? l->advertised_host : "localhost");
    c->voters[0].port = l != NULL ? l->advertised_port : 0;
    c->voter_count = 1;
    return ERR_NONE;
}
