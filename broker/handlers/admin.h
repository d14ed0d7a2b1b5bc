/* broker/handlers/admin.h -- what the admin handlers share: texts, duplicates, waiting. */
#ifndef FLUXMQ_BROKER_HANDLERS_ADMIN_H
#define FLUXMQ_BROKER_HANDLERS_ADMIN_H

#include "broker/request.h"

/* A terminated copy in the arena (protobuf-c wants C strings); NULL when the budget is used up. */
char *admin_text(struct request *r, struct str s);
/* C strings cannot carry it, and no name or value of Kafka's has one. */
bool admin_has_nul(struct str s);
/* NULL and "" become the null string. */
struct str admin_message(struct request *r, const char *message);
/* The proposal as a whole: ERR_NONE when there are outcomes per item to look at. */
enum err admin_command_error(const struct request *r);
/* Sends the answer once this node's replicas have followed what the command changed (P8). */
void admin_send_when_followed(struct request *r);

/* A sorted copy, and whether `name` stands in it more than once. */
MUST_USE bool admin_sorted_names(struct request *r, const struct str *names, int32_t n,
                                 struct str **out);
bool admin_is_duplicate(const struct str *sorted, int32_t n, struct str name);

/* A topic of a CreateTopics command with all defaults; NULL when the budget is used up. */
MetaCreateTopics__Topic *admin_create_topic(struct request *r, struct str name);

#endif
