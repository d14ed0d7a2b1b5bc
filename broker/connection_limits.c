#include "broker/connection_limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct host_count {
    struct hmap_node node;
    int count;
    char host[64];
};

void connection_limits_init(struct connection_limits *l, struct env *env)
{
    mutex_init(&l->lock, env);
    hmap_init(&l->hosts, env_random_u64(env));
    l->count = 0;
}

void connection_limits_deinit(struct connection_limits *l)
{
    CHECK(l->hosts.count == 0);
    hmap_deinit(&l->hosts);
    mutex_deinit(&l->lock);
}

static struct host_count *find(struct connection_limits *l, const char *host, uint64_t hash)
{
    for (struct hmap_node *n = hmap_first_with_hash(&l->hosts, hash); n != NULL;
         n = hmap_next_with_hash(n)) {
        struct host_count *h = CONTAINER_OF(n, struct host_count, node);

        if (strcmp(h->host, host) == 0)
            return h;
    }
    return NULL;
}

bool connection_limits_open(struct connection_limits *l, const char *host, int64_t count_max,
                            int64_t per_host_max)
{
    bool ok = false;

    mutex_lock(&l->lock);

    uint64_t hash = hmap_hash(&l->hosts, host, strlen(host));
    struct host_count *h = find(l, host, hash);

    if (l->count < count_max && (h == NULL ? 0 : h->count) < per_host_max) {
        if (h == NULL) {
            h = xcalloc(1, sizeof *h);
            (void)snprintf(h->host, sizeof h->host, "%s", host);
            hmap_insert(&l->hosts, &h->node, hash);
        }
        h->count++;
        l->count++;
        ok = true;
    }
    mutex_unlock(&l->lock);
    return ok;
}

void connection_limits_close(struct connection_limits *l, const char *host)
{
    mutex_lock(&l->lock);

    struct host_count *h = find(l, host, hmap_hash(&l->hosts, host, strlen(host)));

    CHECK(h != NULL);
    l->count--;
    if (--h->count == 0) {
        hmap_remove(&l->hosts, &h->node);
        free(h);
    }
    mutex_unlock(&l->lock);
}
