/* protocol/api.h -- what the rest of the house includes to speak Kafka's protocol.
 *
 * messages.h is generated from protocol/schema/ *.msg into the build directory: one struct per
 * message, `struct produce_request`, one per nested type, `struct
 * produce_request_topic_produce_data`, a table for each, `produce_request_desc`, and the numbers
 * of the APIs, API_PRODUCE. protocol/codec.h says how fields look in C.
 */
#ifndef FLUXMQ_API_H
#define FLUXMQ_API_H

#include "protocol/codec.h"
#include "messages.h"

#endif
