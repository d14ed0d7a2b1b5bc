#include "broker/http/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTIONS_MAX      64
#define CONNECTION_IDLE_S    10
#define REQUEST_MEMORY_BYTES 16384

struct http_server {
    struct MHD_Daemon *daemon;
    struct node *node;
    int port;
};

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *type,
                              char *text, size_t size, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(size, text, mode);
    enum MHD_Result ok;

    if (r == NULL) {
        if (mode == MHD_RESPMEM_MUST_FREE)
            free(text);
        return MHD_NO;
    }
    (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    ok = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result answer_text(struct MHD_Connection *c, unsigned status, const char *text)
{
    return answer(c, status, "text/plain; charset=utf-8", (char *)(uintptr_t)text, strlen(text),
                  MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *body,
                                  size_t *body_size, void **state)
{
    struct http_server *s = ctx;

    (void)version;
    (void)body;
    (void)state;
    if (*body_size > 0) {
        *body_size = 0;
        return MHD_YES; /* nobody asked for a body: read past it */
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, "GET only\n");
    if (strcmp(url, "/metrics") == 0) {
        size_t size = 0;
        char *text = metrics_scrape(s->node->metrics, &size);

        return answer(c, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", text, size,
                      MHD_RESPMEM_MUST_FREE);
    }
    if (strcmp(url, "/live") == 0)
        return answer_text(c, MHD_HTTP_OK, "live\n");
    if (strcmp(url, "/ready") == 0)
        return node_is_ready(s->node) ? answer_text(c, MHD_HTTP_OK, "ready\n")
                                      : answer_text(c, MHD_HTTP_SERVICE_UNAVAILABLE, "not ready\n");
    return answer_text(c, MHD_HTTP_NOT_FOUND, "try /metrics, /live or /ready\n");
}

enum err http_server_start(struct node *n, const char *host, int port, struct http_server **out,
                           struct errmsg *why)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char service[16];

    (void)snprintf(service, sizeof service, "%d", port);
    if (getaddrinfo(host[0] != '\0' ? host : NULL, service, &hints, &found) != 0) {
        errmsg_set(why, "metrics listener %s:%d: cannot resolve", host, port);
        return ERR_IO;
    }

    struct http_server *s = xcalloc(1, sizeof *s);
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD;

    if (found->ai_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    s->node = n;
    s->daemon = MHD_start_daemon(flags, (uint16_t)port, NULL, NULL, on_request, s,
                                 MHD_OPTION_SOCK_ADDR, found->ai_addr, MHD_OPTION_CONNECTION_LIMIT,
                                 (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
                                 (unsigned)CONNECTION_IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                 (size_t)REQUEST_MEMORY_BYTES, MHD_OPTION_END);

    int saved = errno;

    freeaddrinfo(found);
    if (s->daemon == NULL) {
        errmsg_set(why, "metrics listener %s:%d: %s", host, port, strerror(saved));
        free(s);
        return ERR_IO;
    }

    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);

    s->port = info != NULL ? info->port : port;
    *out = s;
    return ERR_NONE;
}

int http_server_port(const struct http_server *s)
{
    return s->port;
}

void http_server_stop(struct http_server *s)
{
    MHD_stop_daemon(s->daemon);
    free(s);
}
