/* raft-meta/command.c -- see command.h. */
#include "raft-meta/command.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool command_is_control(const MetaCommand *c)
{
    switch (c->body_case) {
    case META_COMMAND__BODY_FORM_CLUSTER:
    case META_COMMAND__BODY_REGISTER_BROKER:
    case META_COMMAND__BODY_UNFENCE_BROKER:
    case META_COMMAND__BODY_FENCE_BROKER:
    case META_COMMAND__BODY_CONTROLLED_SHUTDOWN:
    case META_COMMAND__BODY_PARTITION_CHANGE:
    case META_COMMAND__BODY_REPLICA_OFFLINE:
    case META_COMMAND__BODY_REPLICA_ONLINE:
    case META_COMMAND__BODY_ELECT_LEADERS:
        return true;
    default:
        return false;
    }
}

const char *command_name(uint32_t type)
{
    switch (type) {
    case META_COMMAND__BODY_FORM_CLUSTER:
        return "FormCluster";
    case META_COMMAND__BODY_REGISTER_BROKER:
        return "RegisterBroker";
    case META_COMMAND__BODY_UNFENCE_BROKER:
        return "UnfenceBroker";
    case META_COMMAND__BODY_FENCE_BROKER:
        return "FenceBroker";
    case META_COMMAND__BODY_CONTROLLED_SHUTDOWN:
        return "ControlledShutdown";
    case META_COMMAND__BODY_UNREGISTER_BROKER:
        return "UnregisterBroker";
    case META_COMMAND__BODY_CREATE_TOPICS:
        return "CreateTopics";
    case META_COMMAND__BODY_DELETE_TOPICS:
        return "DeleteTopics";
    case META_COMMAND__BODY_CREATE_PARTITIONS:
        return "CreatePartitions";
    case META_COMMAND__BODY_SET_CONFIGS:
        return "SetConfigs";
    case META_COMMAND__BODY_ALLOCATE_PRODUCER_IDS:
        return "AllocateProducerIds";
    case META_COMMAND__BODY_UPDATE_FEATURES:
        return "UpdateFeatures";
    case META_COMMAND__BODY_PARTITION_CHANGE:
        return "PartitionChange";
    case META_COMMAND__BODY_REPLICA_OFFLINE:
        return "ReplicaOffline";
    case META_COMMAND__BODY_REPLICA_ONLINE:
        return "ReplicaOnline";
    case META_COMMAND__BODY_ASSIGN_DIRECTORIES:
        return "AssignDirectories";
    case META_COMMAND__BODY_ELECT_LEADERS:
        return "ElectLeaders";
    case META_COMMAND__BODY_NO_OP:
        return "NoOp";
    default:
        return "unknown";
    }
}

/* ---- writing ---- */

void entry_writer_init(struct entry_writer *w)
{
    *w = (struct entry_writer){0};
}

void entry_writer_deinit(struct entry_writer *w)
{
    free(w->bytes);
    entry_writer_init(w);
}

static void reserve(struct entry_writer *w, size_t more)
{
    if (w->size + more <= w->capacity)
        return;
    w->capacity = MAX(2 * w->capacity, w->size + more + 512);
    w->bytes = xrealloc(w->bytes, w->capacity);
}

enum err entry_writer_add(struct entry_writer *w, const MetaCommand *c)
{
    size_t length = meta_command__get_packed_size(c);

    if (length > COMMAND_BYTES_MAX)
        return ERR_TOO_LARGE;
    if (w->count > 0 && (w->size + COMMAND_FRAME_SIZE + length > ENTRY_BULK_BYTES_MAX ||
                         w->count == COMMAND_COUNT_PER_ENTRY_MAX))
        return ERR_AGAIN;
    reserve(w, COMMAND_FRAME_SIZE + length);

    uint8_t *p = w->bytes + w->size;

    store_be16(p, COMMAND_VERSION);
    store_be16(p + 2, (uint16_t)c->body_case);
    store_be32(p + 4, (uint32_t)length);
    (void)meta_command__pack(c, p + COMMAND_FRAME_SIZE);
    w->size += COMMAND_FRAME_SIZE + length;
    w->count++;
    return ERR_NONE;
}

uint8_t *entry_writer_take(struct entry_writer *w, size_t *size)
{
    size_t padded = (w->size + 7) & ~(size_t)7;
    uint8_t *bytes;

    reserve(w, padded - w->size);
    memset(w->bytes + w->size, 0, padded - w->size);
    bytes = w->bytes;
    *size = padded;
    entry_writer_init(w);
    return bytes;
}

/* ---- reading ---- */

void entry_reader_init(struct entry_reader *r, const void *bytes, size_t size)
{
    *r = (struct entry_reader){bytes, size, 0};
}

/* What is left is too short for a frame: it must be padding. */
static enum err check_padding(const struct entry_reader *r)
{
    for (size_t i = r->at; i < r->size; i++) {
        if (r->bytes[i] != 0)
            return ERR_MALFORMED;
    }
    return ERR_NONE;
}

enum err entry_reader_next(struct entry_reader *r, MetaCommand **out)
{
    size_t left = r->size - r->at;
    const uint8_t *p = r->bytes + r->at;

    *out = NULL;
    if (r->size > ENTRY_BYTES_MAX)
        return ERR_MALFORMED;
    if (left < COMMAND_FRAME_SIZE)
        return check_padding(r);

    uint16_t version = load_be16(p), type = load_be16(p + 2);
    uint32_t length = load_be32(p + 4);

    if (version > COMMAND_VERSION)
        return ERR_UNSUPPORTED_VERSION;
    if (version == 0 || length > COMMAND_BYTES_MAX || length > left - COMMAND_FRAME_SIZE)
        return ERR_MALFORMED;
    if (strcmp(command_name(type), "unknown") == 0)
        return ERR_UNSUPPORTED_VERSION;

    MetaCommand *c = meta_command__unpack(NULL, length, p + COMMAND_FRAME_SIZE);

    if (c == NULL)
        return ERR_MALFORMED;
    if ((uint32_t)c->body_case != type) {
        meta_command__free_unpacked(c, NULL);
        return ERR_MALFORMED;
    }
    r->at += COMMAND_FRAME_SIZE + length;
    *out = c;
    return ERR_NONE;
}

/* ---- outcomes ---- */

char *proto_str(struct str s)
{
    size_t size = (size_t)MAX(s.len, 0);
    char *p = xmalloc(size + 1);

    if (size > 0)
        memcpy(p, s.ptr, size);
    p[size] = 0;
    return p;
}

void proto_set_str(char **field, struct str s)
{
    if (*field != NULL && *field != (char *)protobuf_c_empty_string)
        free(*field);
    *field = proto_str(s);
}

void proto_set_bytes(ProtobufCBinaryData *field, const void *bytes, size_t size)
{
    uint8_t *copy = xmalloc(size + 1);

    memcpy(copy, bytes, size);
    free(field->data);
    *field = (ProtobufCBinaryData){.len = size, .data = copy};
}

bool proto_uuid(const ProtobufCBinaryData *field, struct uuid *out)
{
    if (field->len != sizeof out->b || field->data == NULL)
        return false;
    memcpy(out->b, field->data, sizeof out->b);
    return true;
}

#define MESSAGE_MAX 600

static void set_message(char **field, const char *fmt, va_list ap)
{
    char text[MESSAGE_MAX];
    int n = vsnprintf(text, sizeof text, fmt, ap);

    if (n < 0)
        n = 0;
    proto_set_str(field, (struct str){text, MIN(n, MESSAGE_MAX - 1)});
}

MetaOutcome *outcome_new(enum err error, const char *fmt, ...)
{
    MetaOutcome *o = xmalloc(sizeof *o);

    meta_outcome__init(o);
    o->error = error;
    if (fmt != NULL) {
        va_list ap;

        va_start(ap, fmt);
        set_message(&o->message, fmt, ap);
        va_end(ap);
    }
    return o;
}

void outcome_set_items(MetaOutcome *o, size_t count)
{
    CHECK(o->n_items == 0);
    if (count == 0)
        return;
    o->items = xcalloc(count, sizeof *o->items);
    o->n_items = count;
    for (size_t i = 0; i < count; i++) {
        o->items[i] = xmalloc(sizeof **o->items);
        meta_item_outcome__init(o->items[i]);
    }
}

void item_set(MetaItemOutcome *item, enum err error, const char *fmt, ...)
{
    item->error = error;
    if (fmt != NULL) {
        va_list ap;

        va_start(ap, fmt);
        set_message(&item->message, fmt, ap);
        va_end(ap);
    }
}
