/* broker/handlers/handlers.h -- one function per API; dispatch.c has the table. */
#ifndef FLUXMQ_BROKER_HANDLERS_H
#define FLUXMQ_BROKER_HANDLERS_H

#include "broker/request.h"

handler_fn handle_alter_configs;
handler_fn handle_api_versions;
handler_fn handle_create_partitions;
handler_fn handle_create_topics;
handler_fn handle_delete_records;
handler_fn handle_delete_topics;
handler_fn handle_describe_cluster;
handler_fn handle_describe_configs;
handler_fn handle_describe_log_dirs;
handler_fn handle_describe_producers;
handler_fn handle_describe_quorum;
handler_fn handle_describe_topic_partitions;
handler_fn handle_fetch;
handler_fn handle_find_coordinator;
handler_fn handle_incremental_alter_configs;
handler_fn handle_init_producer_id;
handler_fn handle_list_config_resources;
handler_fn handle_list_offsets;
handler_fn handle_metadata;
handler_fn handle_offset_for_leader_epoch;
handler_fn handle_produce;
handler_fn handle_update_features;

#endif
