/* broker/topic_settings_cache.h -- one worker's memory of what topics' configs come to.
 *
 * Resolving a topic's config looks at some forty keys in several places of the image; Produce
 * needs the result for each batch. An entry is good as long as the image is the one that it was
 * made from; any command makes a new image, so an entry costs one resolution per topic and
 * command.
 *
 * Thread: its worker.
 */
#ifndef FLUXMQ_BROKER_TOPIC_SETTINGS_CACHE_H
#define FLUXMQ_BROKER_TOPIC_SETTINGS_CACHE_H

#include "broker/config.h"

/* Topics remembered at a time; beyond it all are forgotten. */
#define TOPIC_SETTINGS_MAX 4096

struct topic_settings_cache;

struct topic_settings_cache *topic_settings_cache_new(const struct config *config, uint64_t seed);
void topic_settings_cache_free(struct topic_settings_cache *c);
/* Borrowed until the next call. */
const struct topic_settings *topic_settings_cache_get(struct topic_settings_cache *c,
                                                      const struct image *i,
                                                      const struct topic_image *t);

#endif
