/* raft-meta/snapshot.c -- see snapshot.h. */
#include "raft-meta/snapshot.h"

#include <stdlib.h>
#include <string.h>

#include "meta_snapshot.pb-c.h"
#include "protocol/base/hmap.h"
#include "raft-meta/command.h"
#include "raft-meta/fsm.h"
#include "raft-meta/image_edit.h"

#define PARTITIONS_PER_RECORD 64
#define MANIFEST_BYTES_MAX    (1 << 20)
#define BROKER_LIST_MAX       64        /* endpoints or features of one; as in fsm_broker.c */
#define RECORD_BYTES_MAX      (8 << 20) /* a lane's outcome is the longest */

static const uint8_t magic[4] = {'F', 'M', 'Q', 'S'};

/* ---- encoding ---- */

struct encoder {
    struct snapshot *out;
    uint8_t *bytes; /* the chunk being filled */
    size_t size, capacity;
};

static void end_chunk(struct encoder *e)
{
    struct snapshot *s = e->out;

    if (e->size == 0)
        return;
    s->parts = xrealloc(s->parts, (s->part_count + 1) * sizeof *s->parts);
    s->parts[s->part_count++] = (struct snapshot_part){e->bytes, e->size};
    s->bytes_total += e->size;
    e->bytes = NULL;
    e->size = e->capacity = 0;
}

static void put_record(struct encoder *e, const MetaSnapshotRecord *r)
{
    size_t length = meta_snapshot_record__get_packed_size(r);

    if (e->size > 0 && e->size + 4 + length > CHUNK_BYTES_MAX)
        end_chunk(e);
    if (e->size + 4 + length > e->capacity) {
        e->capacity = MAX(2 * e->capacity, e->size + 4 + length + 4096);
        e->bytes = xrealloc(e->bytes, e->capacity);
    }
    store_be32(e->bytes + e->size, (uint32_t)length);
    (void)meta_snapshot_record__pack(r, e->bytes + e->size + 4);
    e->size += 4 + length;
}

/* The generated structs want terminated strings. They live until the record is packed. */
struct texts {
    char *list[512];
    int count;
};

static char *text(struct texts *t, struct str s)
{
    CHECK(t->count < (int)ARRAY_COUNT(t->list));
    return t->list[t->count++] = proto_str(s);
}

static void texts_free(struct texts *t)
{
    while (t->count > 0)
        free(t->list[--t->count]);
}

static ProtobufCBinaryData view(const void *bytes, size_t size)
{
    return (ProtobufCBinaryData){.len = size, .data = (uint8_t *)(uintptr_t)bytes};
}

static void put_cluster(struct encoder *e, const struct image *i)
{
    MetaSnapshotRecord r = META_SNAPSHOT_RECORD__INIT;
    MetaSnapshotCluster c = META_SNAPSHOT_CLUSTER__INIT;

    c.features_epoch = image_features_epoch(i);
    c.next_producer_id = image_next_producer_id(i);
    c.unclean_elections = image_unclean_elections(i);
    r.body_case = META_SNAPSHOT_RECORD__BODY_CLUSTER;
    r.cluster = &c;
    put_record(e, &r);
}

static void put_features(struct encoder *e, const struct image *i)
{
    const struct feature_image *features;
    int32_t count = image_features(i, &features);

    for (int32_t k = 0; k < count; k++) {
        MetaSnapshotRecord r = META_SNAPSHOT_RECORD__INIT;
        MetaSnapshotFeature f = META_SNAPSHOT_FEATURE__INIT;

        f.name = proto_str(features[k].name);
        f.level = features[k].level;
        r.body_case = META_SNAPSHOT_RECORD__BODY_FEATURE;
        r.feature = &f;
        put_record(e, &r);
        free(f.name);
    }
}

static void put_broker(struct encoder *e, const struct broker_image *b)
{
    MetaSnapshotRecord r = META_SNAPSHOT_RECORD__INIT;
    MetaSnapshotBroker m = META_SNAPSHOT_BROKER__INIT;
    size_t n = (size_t)b->endpoint_count, f = (size_t)b->feature_count,
           d = (size_t)b->directory_count;
    MetaSnapshotBroker__Endpoint *endpoints = xcalloc(n + 1, sizeof *endpoints);
    MetaSnapshotBroker__Endpoint **endpoint_list = xcalloc(n + 1, sizeof(void *));
    MetaSnapshotBroker__Feature *features = xcalloc(f + 1, sizeof *features);
    MetaSnapshotBroker__Feature **feature_list = xcalloc(f + 1, sizeof(void *));
    ProtobufCBinaryData *directories = xcalloc(d + 1, sizeof *directories);
    struct texts t = {.count = 0};

    for (size_t k = 0; k < n; k++) {
        meta_snapshot_broker__endpoint__init(&endpoints[k]);
        endpoints[k].listener = text(&t, b->endpoints[k].listener);
        endpoints[k].host = text(&t, b->endpoints[k].host);
        endpoints[k].port = b->endpoints[k].port;
        endpoints[k].security_protocol = b->endpoints[k].security_protocol;
        endpoint_list[k] = &endpoints[k];
    }
    for (size_t k = 0; k < f; k++) {
        meta_snapshot_broker__feature__init(&features[k]);
        features[k].name = text(&t, b->features[k].name);
        features[k].min = b->features[k].min;
        features[k].max = b->features[k].max;
        feature_list[k] = &features[k];
    }
    for (size_t k = 0; k < d; k++)
        directories[k] = view(b->directories[k].b, sizeof b->directories[k].b);
    m.id = b->id;
    m.epoch = b->epoch;
    m.incarnation = view(b->incarnation.b, sizeof b->incarnation.b);
    m.metadata_directory = view(b->metadata_directory.b, sizeof b->metadata_directory.b);
    m.has_rack = !str_is_null(b->rack);
    m.rack = text(&t, b->rack);
    m.n_endpoints = n;
    m.endpoints = endpoint_list;
    m.n_directories = d;
    m.directories = directories;
    m.n_features = f;
    m.features = feature_list;
    m.fenced = b->fenced;
    m.in_controlled_shutdown = b->in_controlled_shutdown;
    r.body_case = META_SNAPSHOT_RECORD__BODY_BROKER;
    r.broker = &m;
    put_record(e, &r);
    texts_free(&t);
    free(endpoints);
    free(endpoint_list);
    free(features);
    free(feature_list);
    free(directories);
}

static void fill_partition(MetaSnapshotPartition *m, const struct partition_image *p)
{
    meta_snapshot_partition__init(m);
    m->n_replicas = (size_t)p->replica_count;
    m->replicas = p->replicas;
    m->n_isr = (size_t)p->isr_count;
    m->isr = p->isr;
    m->n_elr = (size_t)p->elr_count;
    m->elr = p->elr;
    m->n_last_known_elr = (size_t)p->last_known_elr_count;
    m->last_known_elr = p->last_known_elr;
    m->n_adding = (size_t)p->adding_count;
    m->adding = p->adding;
    m->n_removing = (size_t)p->removing_count;
    m->removing = p->removing;
    m->n_offline = (size_t)p->offline_count;
    m->offline = p->offline;
    m->directories = view(p->directories, (size_t)p->replica_count * sizeof *p->directories);
    m->leader = p->leader;
    m->leader_epoch = p->leader_epoch;
    m->partition_epoch = p->partition_epoch;
    m->effective_min_isr = p->effective_min_isr;
    m->leader_recovery = p->leader_recovery;
}

static void put_partitions(struct encoder *e, const struct topic_image *t)
{
    MetaSnapshotPartition storage[PARTITIONS_PER_RECORD], *list[PARTITIONS_PER_RECORD];

    for (int32_t first = 0; first < t->partition_count; first += PARTITIONS_PER_RECORD) {
        MetaSnapshotRecord r = META_SNAPSHOT_RECORD__INIT;
        MetaSnapshotPartitions m = META_SNAPSHOT_PARTITIONS__INIT;
        int32_t count = MIN(PARTITIONS_PER_RECORD, t->partition_count - first);

        for (int32_t k = 0; k < count; k++) {
            fill_partition(&storage[k], topic_partition(t, first + k));
            list[k] = &storage[k];
        }
        m.topic_id = view(t->id.b, sizeof t->id.b);
        m.first = first;
        m.n_partitions = (size_t)count;
        m.partitions = list;
        r.body_case = META_SNAPSHOT_RECORD__BODY_PARTITIONS;
        r.partitions = &m;
        put_record(e, &r);
    }
}

static void put_topics(struct encoder *e, const struct image *i)
{
    for (const struct topic_image *t = image_topic_next(i, STR_NULL); t != NULL;
         t = image_topic_next(i, t->name)) {
        MetaSnapshotRecord r = META_SNAPSHOT_RECORD__INIT;
        MetaSnapshotTopic m = META_SNAPSHOT_TOPIC__INIT;

        m.id = view(t->id.b, sizeof t->id.b);
        m.name = proto_str(t->name);
        m.created_index = t->created_index;
        r.body_case = META_SNAPSHOT_RECORD__BODY_TOPIC;
        r.topic = &m;
        put_record(e, &r);
        free(m.name);
        put_partitions(e, t);
    }
}

static void put_resource(struct encoder *e, const struct image *i, enum config_resource type,
                         struct str name)
{
    MetaSnapshotRecord r = META_SNAPSHOT_RECORD__INIT;
    MetaSnapshotConfigs m = META_SNAPSHOT_CONFIGS__INIT;
    const struct config_entry *entries;
    MetaSnapshotConfigs__Entry *storage, **list;
    int32_t count;

    (void)image_config_entries(i, type, name, &entries, &count);
    storage = xcalloc((size_t)count + 1, sizeof *storage);
    list = xcalloc((size_t)count + 1, sizeof *list);
    for (int32_t k = 0; k < count; k++) {
        meta_snapshot_configs__entry__init(&storage[k]);
        storage[k].key = proto_str(entries[k].key);
        storage[k].value = proto_str(entries[k].value);
        list[k] = &storage[k];
    }
    m.type = (int32_t)type;
    m.name = proto_str(name);
    m.n_entries = (size_t)count;
    m.entries = list;
    r.body_case = META_SNAPSHOT_RECORD__BODY_CONFIGS;
    r.configs = &m;
    put_record(e, &r);
    for (int32_t k = 0; k < count; k++) {
        free(storage[k].key);
        free(storage[k].value);
    }
    free(m.name);
    free(storage);
    free(list);
}

static void put_configs(struct encoder *e, const struct image *i)
{
    static const enum config_resource types[] = {CONFIG_TOPIC, CONFIG_BROKER, CONFIG_BROKER_LOGGER,
                                                 CONFIG_CLIENT_METRICS, CONFIG_GROUP};

    for (size_t k = 0; k < ARRAY_COUNT(types); k++) {
        struct str name = STR_NULL;

        while (image_config_next(i, types[k], name, &name))
            put_resource(e, i, types[k], name);
    }
}

static void put_lanes(struct encoder *e, const struct image *i)
{
    for (const struct lane_image *l = image_lane_next(i, NULL); l != NULL;
         l = image_lane_next(i, l)) {
        MetaSnapshotRecord r = META_SNAPSHOT_RECORD__INIT;
        MetaSnapshotLane m = META_SNAPSHOT_LANE__INIT;

        m.node = l->node;
        m.lane = l->lane;
        m.broker_epoch = l->broker_epoch;
        m.seq = l->seq;
        m.outcome = view(l->outcome.ptr, (size_t)l->outcome.len);
        r.body_case = META_SNAPSHOT_RECORD__BODY_LANE;
        r.lane = &m;
        put_record(e, &r);
    }
}

/* The header and the manifest, for the chunks in parts[1..]. */
static void put_manifest(const struct image *i, struct snapshot *s)
{
    MetaSnapshotManifest m = META_SNAPSHOT_MANIFEST__INIT;
    size_t count = s->part_count - 1, length;
    MetaSnapshotChunk *chunks = xcalloc(count + 1, sizeof *chunks);
    MetaSnapshotChunk **list = xcalloc(count + 1, sizeof *list);
    uint8_t *bytes;

    for (size_t k = 0; k < count; k++) {
        meta_snapshot_chunk__init(&chunks[k]);
        chunks[k].size = s->parts[k + 1].size;
        chunks[k].hash =
            hash_bytes(SNAPSHOT_HASH_SEED, s->parts[k + 1].bytes, s->parts[k + 1].size);
        list[k] = &chunks[k];
    }
    m.format = SNAPSHOT_FORMAT;
    m.cluster_id = proto_str(image_cluster_id(i));
    m.index = image_index(i);
    m.time_ms = image_time_ms(i);
    m.n_chunks = count;
    m.chunks = list;
    length = meta_snapshot_manifest__get_packed_size(&m);
    bytes = xmalloc(SNAPSHOT_HEADER_SIZE + length);
    (void)meta_snapshot_manifest__pack(&m, bytes + SNAPSHOT_HEADER_SIZE);
    memcpy(bytes, magic, sizeof magic);
    store_be16(bytes + 4, SNAPSHOT_FORMAT);
    store_be16(bytes + 6, 0);
    store_be32(bytes + 8, (uint32_t)length);
    store_be64(bytes + 12, hash_bytes(SNAPSHOT_HASH_SEED, bytes + SNAPSHOT_HEADER_SIZE, length));
    s->parts[0] = (struct snapshot_part){bytes, SNAPSHOT_HEADER_SIZE + length};
    s->bytes_total += s->parts[0].size;
    free(m.cluster_id);
    free(chunks);
    free(list);
}

void snapshot_encode(const struct image *i, struct snapshot *out)
{
    struct encoder e = {.out = out};

    *out = (struct snapshot){.parts = xcalloc(1, sizeof *out->parts), .part_count = 1};
    put_cluster(&e, i);
    put_features(&e, i);
    for (const struct broker_image *b = image_broker_next(i, -1); b != NULL;
         b = image_broker_next(i, b->id))
        put_broker(&e, b);
    put_topics(&e, i);
    put_configs(&e, i);
    put_lanes(&e, i);
    end_chunk(&e);
    put_manifest(i, out);
}

void snapshot_deinit(struct snapshot *s)
{
    for (size_t k = 0; k < s->part_count; k++)
        free(s->parts[k].bytes);
    free(s->parts);
    *s = (struct snapshot){0};
}

uint64_t snapshot_digest(const struct image *i)
{
    struct snapshot s;
    uint64_t digest;

    snapshot_encode(i, &s);
    /* The manifest names every chunk by its hash. */
    digest = hash_bytes(SNAPSHOT_HASH_SEED, s.parts[0].bytes, s.parts[0].size);
    snapshot_deinit(&s);
    return digest;
}

/* ---- decoding ---- */

struct decoder {
    struct image *image;
    struct uuid topic; /* whose partitions may follow */
    bool has_topic;
    const char *problem;
};

static bool bad(struct decoder *d, const char *problem)
{
    d->problem = problem;
    return false;
}

static bool take_cluster(struct decoder *d, const MetaSnapshotCluster *c)
{
    if (c->next_producer_id < 0 || c->unclean_elections < 0)
        return bad(d, "a negative counter");
    image_set_features_epoch(d->image, c->features_epoch);
    image_set_next_producer_id(d->image, c->next_producer_id);
    image_set_unclean_elections(d->image, c->unclean_elections);
    return true;
}

static bool take_feature(struct decoder *d, const MetaSnapshotFeature *f)
{
    if (f->name[0] == 0 || f->level <= 0 || f->level > INT16_MAX)
        return bad(d, "a feature without name or level");
    image_put_feature(d->image, str_from(f->name), (int16_t)f->level);
    return true;
}

static bool take_broker(struct decoder *d, const MetaSnapshotBroker *m)
{
    struct broker_image b = {.id = m->id,
                             .epoch = m->epoch,
                             .rack = m->has_rack ? str_from(m->rack) : STR_NULL,
                             .fenced = m->fenced,
                             .in_controlled_shutdown = m->in_controlled_shutdown};
    bool ok = false;

    if (m->n_endpoints > BROKER_LIST_MAX || m->n_features > BROKER_LIST_MAX ||
        m->n_directories > 4 * BROKER_LIST_MAX)
        return bad(d, "a broker's lists");
    if (m->id < 0 || image_broker(d->image, m->id) != NULL ||
        !proto_uuid(&m->incarnation, &b.incarnation) ||
        !proto_uuid(&m->metadata_directory, &b.metadata_directory))
        return bad(d, "a broker's id");
    b.endpoints = xcalloc(m->n_endpoints + 1, sizeof *b.endpoints);
    b.features = xcalloc(m->n_features + 1, sizeof *b.features);
    b.directories = xcalloc(m->n_directories + 1, sizeof *b.directories);
    b.endpoint_count = (int32_t)m->n_endpoints;
    b.feature_count = (int32_t)m->n_features;
    b.directory_count = (int32_t)m->n_directories;
    for (size_t k = 0; k < m->n_endpoints; k++)
        b.endpoints[k] = (struct endpoint_image){.listener = str_from(m->endpoints[k]->listener),
                                                 .host = str_from(m->endpoints[k]->host),
                                                 .port = m->endpoints[k]->port,
                                                 .security_protocol =
                                                     (int16_t)m->endpoints[k]->security_protocol};
    for (size_t k = 0; k < m->n_features; k++)
        b.features[k] = (struct broker_feature){.name = str_from(m->features[k]->name),
                                                .min = (int16_t)m->features[k]->min,
                                                .max = (int16_t)m->features[k]->max};
    for (size_t k = 0; k < m->n_directories; k++) {
        if (!proto_uuid(&m->directories[k], &b.directories[k]))
            goto done;
    }
    image_put_broker(d->image, &b);
    ok = true;

done:
    free(b.endpoints);
    free(b.features);
    free(b.directories);
    return ok ? true : bad(d, "a broker's directory id");
}

static bool take_topic(struct decoder *d, const MetaSnapshotTopic *m)
{
    struct str name = str_from(m->name);
    struct errmsg why;

    if (!proto_uuid(&m->id, &d->topic) || uuid_is_zero(&d->topic) ||
        image_topic_by_id(d->image, &d->topic) != NULL)
        return bad(d, "a topic's id");
    if (topic_name_is_bad(name, &why) || image_topic(d->image, name) != NULL)
        return bad(d, "a topic's name");
    image_put_topic(d->image, &d->topic, name, m->created_index);
    d->has_topic = true;
    return true;
}

static bool take_partition(struct decoder *d, MetaSnapshotPartition *m)
{
    struct partition_image p = {
        .replicas = m->replicas,
        .replica_count = (int16_t)m->n_replicas,
        .isr = m->isr,
        .isr_count = (int16_t)m->n_isr,
        .elr = m->elr,
        .elr_count = (int16_t)m->n_elr,
        .last_known_elr = m->last_known_elr,
        .last_known_elr_count = (int16_t)m->n_last_known_elr,
        .adding = m->adding,
        .adding_count = (int16_t)m->n_adding,
        .removing = m->removing,
        .removing_count = (int16_t)m->n_removing,
        .offline = m->offline,
        .offline_count = (int16_t)m->n_offline,
        .leader = m->leader,
        .leader_epoch = m->leader_epoch,
        .partition_epoch = m->partition_epoch,
        .effective_min_isr = (int16_t)m->effective_min_isr,
        .leader_recovery = (uint8_t)m->leader_recovery,
    };
    struct uuid directories[REPLICAS_MAX];

    if (m->n_replicas == 0 || m->n_replicas > REPLICAS_MAX || m->n_isr > m->n_replicas ||
        m->n_elr > m->n_replicas || m->n_last_known_elr > m->n_replicas ||
        m->n_adding > REPLICAS_MAX || m->n_removing > REPLICAS_MAX ||
        m->n_offline > m->n_replicas || m->directories.len != m->n_replicas * sizeof *directories)
        return bad(d, "a partition's replica lists");
    if (m->effective_min_isr < 1 || m->effective_min_isr > (int32_t)m->n_replicas ||
        m->leader < -1 || m->leader_epoch < 0 || m->partition_epoch < 0 ||
        m->leader_recovery < LEADER_RECOVERED || m->leader_recovery > LEADER_RECOVERING)
        return bad(d, "a partition's epochs or leader");
    memcpy(directories, m->directories.data, m->directories.len);
    p.directories = directories;
    image_add_partition(d->image, &d->topic, &p);
    return true;
}

static bool take_partitions(struct decoder *d, const MetaSnapshotPartitions *m)
{
    struct uuid id;

    if (!d->has_topic || !proto_uuid(&m->topic_id, &id) || !uuid_eq(&id, &d->topic) ||
        m->first != image_topic_by_id(d->image, &d->topic)->partition_count)
        return bad(d, "partitions out of their order");
    for (size_t k = 0; k < m->n_partitions; k++) {
        if (!take_partition(d, m->partitions[k]))
            return false;
    }
    return true;
}

static bool take_configs(struct decoder *d, const MetaSnapshotConfigs *m)
{
    struct str name = str_from(m->name);

    if (m->type < 0 || m->type > 255 || name.len > 500 || m->n_entries == 0)
        return bad(d, "a config's resource");
    for (size_t k = 0; k < m->n_entries; k++)
        image_put_config(d->image, (enum config_resource)m->type, name,
                         str_from(m->entries[k]->key), str_from(m->entries[k]->value));
    return true;
}

static bool take_lane(struct decoder *d, const MetaSnapshotLane *m)
{
    MetaOutcome *o = meta_outcome__unpack(NULL, m->outcome.len, m->outcome.data);

    if (o == NULL || m->node < 0)
        return bad(d, "a lane's outcome");
    meta_outcome__free_unpacked(o, NULL);
    image_put_lane(d->image,
                   &(struct lane_image){.node = m->node,
                                        .lane = m->lane,
                                        .broker_epoch = m->broker_epoch,
                                        .seq = m->seq,
                                        .outcome = {m->outcome.data, (int32_t)m->outcome.len}});
    return true;
}

static bool take_record(struct decoder *d, const uint8_t *bytes, size_t size)
{
    MetaSnapshotRecord *r = meta_snapshot_record__unpack(NULL, size, bytes);
    bool ok;

    if (r == NULL)
        return bad(d, "a record that does not decode");
    switch (r->body_case) {
    case META_SNAPSHOT_RECORD__BODY_CLUSTER:
        ok = take_cluster(d, r->cluster);
        break;
    case META_SNAPSHOT_RECORD__BODY_FEATURE:
        ok = take_feature(d, r->feature);
        break;
    case META_SNAPSHOT_RECORD__BODY_BROKER:
        ok = take_broker(d, r->broker);
        break;
    case META_SNAPSHOT_RECORD__BODY_TOPIC:
        ok = take_topic(d, r->topic);
        break;
    case META_SNAPSHOT_RECORD__BODY_PARTITIONS:
        ok = take_partitions(d, r->partitions);
        break;
    case META_SNAPSHOT_RECORD__BODY_CONFIGS:
        ok = take_configs(d, r->configs);
        break;
    case META_SNAPSHOT_RECORD__BODY_LANE:
        ok = take_lane(d, r->lane);
        break;
    default:
        ok = bad(d, "a record of an unknown kind");
        break;
    }
    meta_snapshot_record__free_unpacked(r, NULL);
    return ok;
}

static bool take_chunk(struct decoder *d, const uint8_t *bytes, size_t size)
{
    size_t at = 0;

    while (at < size) {
        uint32_t length;

        if (size - at < 4)
            return bad(d, "a cut record");
        length = load_be32(bytes + at);
        at += 4;
        if (length > RECORD_BYTES_MAX || length > size - at)
            return bad(d, "a record longer than its chunk");
        if (!take_record(d, bytes + at, length))
            return false;
        at += length;
    }
    return true;
}

/* Every topic has partitions; nothing may rely on what came later in the file. */
static bool check_whole(struct decoder *d)
{
    for (const struct topic_image *t = image_topic_next(d->image, STR_NULL); t != NULL;
         t = image_topic_next(d->image, t->name)) {
        if (t->partition_count == 0)
            return bad(d, "a topic without partitions");
    }
    return true;
}

static enum err read_manifest(const uint8_t *bytes, size_t size, MetaSnapshotManifest **out,
                              struct errmsg *why)
{
    uint32_t length;

    *out = NULL;
    if (size < SNAPSHOT_HEADER_SIZE || size > SNAPSHOT_BYTES_MAX ||
        memcmp(bytes, magic, sizeof magic) != 0) {
        errmsg_set(why, "offset 0: not a snapshot of fluxmq");
        return ERR_CORRUPT;
    }
    if (load_be16(bytes + 4) != SNAPSHOT_FORMAT) {
        errmsg_set(why, "offset 4: snapshot format %u, this software knows %u",
                   load_be16(bytes + 4), SNAPSHOT_FORMAT);
        return ERR_UNSUPPORTED_VERSION;
    }
    length = load_be32(bytes + 8);
    if (load_be16(bytes + 6) != 0 || length > MANIFEST_BYTES_MAX ||
        length > size - SNAPSHOT_HEADER_SIZE ||
        hash_bytes(SNAPSHOT_HASH_SEED, bytes + SNAPSHOT_HEADER_SIZE, length) !=
            load_be64(bytes + 12)) {
        errmsg_set(why, "offset %d: the manifest does not match its hash", SNAPSHOT_HEADER_SIZE);
        return ERR_CORRUPT;
    }
    *out = meta_snapshot_manifest__unpack(NULL, length, bytes + SNAPSHOT_HEADER_SIZE);
    if (*out == NULL || (*out)->format != SNAPSHOT_FORMAT ||
        strlen((*out)->cluster_id) > CLUSTER_ID_MAX) {
        errmsg_set(why, "offset %d: the manifest does not decode", SNAPSHOT_HEADER_SIZE);
        if (*out != NULL)
            meta_snapshot_manifest__free_unpacked(*out, NULL);
        *out = NULL;
        return ERR_CORRUPT;
    }
    return ERR_NONE;
}

enum err snapshot_decode(const uint8_t *bytes, size_t size, struct image **out, struct errmsg *why)
{
    struct decoder d = {.image = NULL};
    MetaSnapshotManifest *m;
    enum err e = read_manifest(bytes, size, &m, why);
    size_t at, chunk = 0;

    *out = NULL;
    if (e != ERR_NONE)
        return e;
    at = SNAPSHOT_HEADER_SIZE + load_be32(bytes + 8);
    d.image = image_new();
    image_set_cluster_id(d.image, str_from(m->cluster_id));
    image_set_applied(d.image, m->index);
    image_advance_time(d.image, m->time_ms);
    for (; chunk < m->n_chunks; chunk++) {
        uint64_t length = m->chunks[chunk]->size;

        if (length > size - at ||
            hash_bytes(SNAPSHOT_HASH_SEED, bytes + at, length) != m->chunks[chunk]->hash) {
            d.problem = "it does not match its hash";
            goto fail;
        }
        if (!take_chunk(&d, bytes + at, (size_t)length))
            goto fail;
        at += (size_t)length;
    }
    if (at != size) {
        d.problem = "bytes after the last chunk";
        goto fail;
    }
    if (!check_whole(&d))
        goto fail;
    meta_snapshot_manifest__free_unpacked(m, NULL);
    *out = d.image;
    return ERR_NONE;

fail:
    errmsg_set(why, "offset %zu: chunk %zu: %s", at, chunk, d.problem);
    meta_snapshot_manifest__free_unpacked(m, NULL);
    image_unref(d.image);
    return ERR_CORRUPT;
}
