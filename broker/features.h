/* broker/features.h -- the features that this software knows, and at which levels.
 *
 * They appear only when their behaviour is there [H43]: clients change theirs on them.
 */
#ifndef FLUXMQ_BROKER_FEATURES_H
#define FLUXMQ_BROKER_FEATURES_H

#include "protocol/base/bytes.h"
#include "protocol/base/check.h"

struct supported_feature {
    const char *name;
    int16_t min, max;
};

/* `fluxmq.version` gates commands and snapshots of newer software (DESIGN section 7). A new cluster
 * finalizes each at its greatest level. */
static const struct supported_feature supported_features[] = {
    {"fluxmq.version", 1, 1},
};
#define SUPPORTED_FEATURE_COUNT ((int32_t)ARRAY_COUNT(supported_features))

#endif
