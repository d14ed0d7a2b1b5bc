/* broker/config_keys_topic.c -- the tables of topic, group and client-metrics keys, sorted by name;
 * which broker keys are the default of which topic key; finding a key.
 */
#include "broker/config_keys.h"

const struct config_key config_topic_keys[] = {
    WORKS("cleanup.policy", LIST, "delete", "list:compact|delete", NULL, DYNAMIC,
          "delete lets old segments go by time and size, compact keeps the last value of each key. "
          "Until the cleaner is built, compact alone is kept and never trimmed."),
    WORKS("compression.gzip.level", INT, "-1", "gzip", NULL, DYNAMIC,
          "Level of gzip when compression.type makes the broker compress with it; -1 is the "
          "library's default."),
    WORKS("compression.lz4.level", INT, "9", "[1,17]", NULL, DYNAMIC,
          "Level of lz4 when compression.type makes the broker compress with it."),
    WORKS("compression.type", STRING, "producer", "in:uncompressed|zstd|lz4|snappy|gzip|producer",
          NULL, DYNAMIC,
          "producer keeps batches as they were sent; a codec's name, or uncompressed, makes the "
          "broker rewrite those that differ."),
    WORKS("compression.zstd.level", INT, "3", "[-131072,22]", NULL, DYNAMIC,
          "Level of zstd when compression.type makes the broker compress with it."),
    ACCEPTED("delete.retention.ms", LONG, "86400000", "[0,]", NULL, DYNAMIC,
             "How long compaction keeps a tombstone."),
    ACCEPTED("errors.deadletterqueue.group.enable", BOOLEAN, "false", "", NULL, DYNAMIC,
             "Whether share groups may write dead letters to this topic."),
    WORKS("file.delete.delay.ms", LONG, "60000", "[0,]", NULL, DYNAMIC,
          "How long the files of a deleted segment stay before they are unlinked."),
    WORKS("flush.messages", LONG, "9223372036854775807", "[1,]", NULL, DYNAMIC,
          "After how many records the log is synced to the disk: 1 makes every acknowledgement "
          "wait for a sync, which several share."),
    WORKS("flush.ms", LONG, "9223372036854775807", "[0,]", NULL, DYNAMIC,
          "After how much time the log is synced to the disk."),
    ACCEPTED("follower.replication.throttled.replicas", LIST, "", "throttled", NULL, DYNAMIC,
             "Replicas whose fetching is throttled, partition:broker each, or *."),
    WORKS("index.interval.bytes", INT, "4096", "[0,]", NULL, DYNAMIC,
          "A new index entry after this many bytes of records."),
    ACCEPTED("leader.replication.throttled.replicas", LIST, "", "throttled", NULL, DYNAMIC,
             "Replicas to whom sending is throttled, partition:broker each, or *."),
    ACCEPTED("local.retention.bytes", LONG, "-2", "[-2,]", NULL, DYNAMIC,
             "Size kept on local disks when older segments are in remote storage; -2 is "
             "retention.bytes."),
    ACCEPTED(
        "local.retention.ms", LONG, "-2", "[-2,]", NULL, DYNAMIC,
        "Time kept on local disks when older segments are in remote storage; -2 is retention.ms."),
    ACCEPTED("max.compaction.lag.ms", LONG, "9223372036854775807", "[1,]", NULL, DYNAMIC,
             "A record is compacted at the latest after this time."),
    WORKS("max.decompressed.message.bytes", INT, "2147483639", "[0,]", NULL, DYNAMIC,
          "Largest size of one record of a compressed batch, once decompressed; a batch that has a "
          "larger one is refused."),
    WORKS("max.message.bytes", INT, "1048588", "[0,]", NULL, DYNAMIC,
          "Largest batch that a producer may send, as it is on the wire."),
    WORKS("message.timestamp.after.max.ms", LONG, "3600000", "[0,]", NULL, DYNAMIC,
          "How far a record's timestamp may be ahead of the node's clock."),
    WORKS("message.timestamp.before.max.ms", LONG, "9223372036854775807", "[0,]", NULL, DYNAMIC,
          "How far a record's timestamp may be behind the node's clock."),
    WORKS("message.timestamp.type", STRING, "CreateTime", "in:CreateTime|LogAppendTime", NULL,
          DYNAMIC, "CreateTime keeps the producer's timestamps, LogAppendTime writes the node's."),
    ACCEPTED("min.cleanable.dirty.ratio", DOUBLE, "0.5", "[0,1]", NULL, DYNAMIC,
             "Share of uncompacted bytes from which a log is compacted."),
    ACCEPTED("min.compaction.lag.ms", LONG, "0", "[0,]", NULL, DYNAMIC,
             "A record stays uncompacted for at least this time."),
    WORKS("min.insync.replicas", INT, "2", "[1,]", NULL, DYNAMIC | DEVIATES,
          "How many replicas must have a record before acks=all is answered; never more than the "
          "topic has. Kafka's default is 1."),
    ACCEPTED("preallocate", BOOLEAN, "false", "", NULL, DYNAMIC,
             "Whether a segment's whole file is reserved when it is created; fluxmq always "
             "reserves space in small steps ahead of the writer."),
    ACCEPTED("remote.copy.lag.bytes", LONG, "-1", "[-2,]", NULL, DYNAMIC,
             "How many bytes a segment must lie back before it goes to remote storage."),
    ACCEPTED("remote.copy.lag.ms", LONG, "0", "[-2,]", NULL, DYNAMIC,
             "How old a segment must be before it goes to remote storage."),
    ACCEPTED("remote.log.copy.disable", BOOLEAN, "false", "", NULL, DYNAMIC,
             "Whether nothing more goes to remote storage."),
    ACCEPTED("remote.log.delete.on.disable", BOOLEAN, "false", "", NULL, DYNAMIC,
             "Whether what is in remote storage is deleted when it is switched off."),
    REFUSED("remote.storage.enable", BOOLEAN, "false", "", NULL, DYNAMIC,
            "Whether segments move to remote storage, which is not built."),
    WORKS("retention.bytes", LONG, "-1", "", NULL, DYNAMIC,
          "Size of a partition beyond which the oldest segments go; -1 is no limit."),
    WORKS("retention.ms", LONG, "604800000", "[-1,]", NULL, DYNAMIC,
          "Age from which segments go; -1 keeps everything."),
    WORKS("segment.bytes", INT, "1073741824", "[1048576,]", NULL, DYNAMIC,
          "Size at which a new segment begins."),
    WORKS("segment.index.bytes", INT, "10485760", "[4,]", NULL, DYNAMIC,
          "Largest size of an index file; a new segment begins when it is full."),
    WORKS("segment.jitter.ms", LONG, "0", "[0,]", NULL, DYNAMIC,
          "Random part by which segment.ms is shortened, so that segments do not all end at once."),
    WORKS("segment.ms", LONG, "604800000", "[1,]", NULL, DYNAMIC,
          "Age at which a new segment begins."),
    WORKS("unclean.leader.election.enable", BOOLEAN, "false", "", NULL, DYNAMIC,
          "Whether a replica that may lack acknowledged records may lead when no other is left."),
};

const int config_topic_key_count = (int)ARRAY_COUNT(config_topic_keys);

const struct config_key config_group_keys[] = {
    ACCEPTED("consumer.assignment.interval.ms", INT, "1000", "[0,]", NULL, DYNAMIC,
             "Least time between two assignments of this group."),
    ACCEPTED("consumer.heartbeat.interval.ms", INT, "5000", "[1,]", NULL, DYNAMIC,
             "Heartbeat interval told to this group's members."),
    ACCEPTED("consumer.session.timeout.ms", INT, "45000", "[1,]", NULL, DYNAMIC,
             "A member of this group that is silent for this long is removed."),
    ACCEPTED("errors.deadletterqueue.copy.record.enable", BOOLEAN, "false", "", NULL, DYNAMIC,
             "Whether the failed record itself goes to the dead letter topic."),
    ACCEPTED("errors.deadletterqueue.topic.name", STRING, "", "", NULL, DYNAMIC,
             "The dead letter topic of this share group; empty is none."),
    ACCEPTED("share.assignment.interval.ms", INT, "1000", "[0,]", NULL, DYNAMIC,
             "Least time between two assignments of this share group."),
    ACCEPTED(
        "share.auto.offset.reset", STRING, "latest", "offsetreset", NULL, DYNAMIC,
        "Where this share group begins to read: latest, earliest or by_duration:PnDTnHnMn.nS."),
    ACCEPTED("share.delivery.count.limit", INT, "5", "[2,]", NULL, DYNAMIC,
             "How often a record is delivered before it counts as failed."),
    ACCEPTED("share.heartbeat.interval.ms", INT, "5000", "[1,]", NULL, DYNAMIC,
             "Heartbeat interval told to this share group's members."),
    ACCEPTED("share.isolation.level", STRING, "read_uncommitted",
             "in:read_committed|read_uncommitted", NULL, DYNAMIC,
             "Whether this share group sees records of open and aborted transactions."),
    ACCEPTED("share.partition.max.record.locks", INT, "2000", "[100,]", NULL, DYNAMIC,
             "Most records of a partition that this share group has acquired at one time."),
    ACCEPTED("share.record.lock.duration.ms", INT, "30000", "[1000,]", NULL, DYNAMIC,
             "How long a record that a member acquired stays its own."),
    ACCEPTED("share.renew.acknowledge.enable", BOOLEAN, "true", "", NULL, DYNAMIC,
             "Whether a member may lengthen its hold on a record."),
    ACCEPTED("share.session.timeout.ms", INT, "45000", "[1,]", NULL, DYNAMIC,
             "A member of this share group that is silent for this long is removed."),
    ACCEPTED("streams.assignment.interval.ms", INT, "1000", "[0,]", NULL, DYNAMIC,
             "Least time between two assignments of this streams group."),
    ACCEPTED("streams.assignor.name", STRING, "sticky", "", NULL, DYNAMIC,
             "Task assignor of this streams group."),
    ACCEPTED("streams.heartbeat.interval.ms", INT, "5000", "[1,]", NULL, DYNAMIC,
             "Heartbeat interval told to this streams group's members."),
    ACCEPTED("streams.initial.rebalance.delay.ms", INT, "3000", "[0,]", NULL, DYNAMIC,
             "How long the first assignment waits for more members."),
    ACCEPTED("streams.num.standby.replicas", INT, "0", "[0,]", NULL, DYNAMIC,
             "Standby copies of each stateful task."),
    ACCEPTED("streams.rack.aware.assignment.tags", LIST, "", "", NULL, DYNAMIC,
             "Client tags by which standby tasks are spread."),
    ACCEPTED("streams.session.timeout.ms", INT, "45000", "[1,]", NULL, DYNAMIC,
             "A member of this streams group that is silent for this long is removed."),
};

const int config_group_key_count = (int)ARRAY_COUNT(config_group_keys);

const struct config_key config_metrics_keys[] = {
    ACCEPTED("interval.ms", INT, "300000", "[100,3600000]", NULL, DYNAMIC,
             "How often clients push the metrics of this subscription."),
    ACCEPTED("match", LIST, "", "", NULL, DYNAMIC,
             "Which clients the subscription is for, selector=pattern each; empty is all."),
    ACCEPTED("metrics", LIST, "", "", NULL, DYNAMIC,
             "Prefixes of the names of metrics that clients push; * is all."),
};

const int config_metrics_key_count = (int)ARRAY_COUNT(config_metrics_keys);

static const struct config_synonyms synonyms[] = {
    {"cleanup.policy", {"log.cleanup.policy"}, {1}},
    {"compression.gzip.level", {"compression.gzip.level"}, {1}},
    {"compression.lz4.level", {"compression.lz4.level"}, {1}},
    {"compression.type", {"compression.type"}, {1}},
    {"compression.zstd.level", {"compression.zstd.level"}, {1}},
    {"delete.retention.ms", {"log.cleaner.delete.retention.ms"}, {1}},
    {"file.delete.delay.ms", {"log.segment.delete.delay.ms"}, {1}},
    {"flush.messages", {"log.flush.interval.messages"}, {1}},
    {"flush.ms", {"log.flush.interval.ms", "log.flush.scheduler.interval.ms"}, {1, 1}},
    {"index.interval.bytes", {"log.index.interval.bytes"}, {1}},
    {"local.retention.bytes", {"log.local.retention.bytes"}, {1}},
    {"local.retention.ms", {"log.local.retention.ms"}, {1}},
    {"max.compaction.lag.ms", {"log.cleaner.max.compaction.lag.ms"}, {1}},
    {"max.decompressed.message.bytes", {"max.decompressed.message.bytes"}, {1}},
    {"max.message.bytes", {"message.max.bytes"}, {1}},
    {"message.timestamp.after.max.ms", {"log.message.timestamp.after.max.ms"}, {1}},
    {"message.timestamp.before.max.ms", {"log.message.timestamp.before.max.ms"}, {1}},
    {"message.timestamp.type", {"log.message.timestamp.type"}, {1}},
    {"min.cleanable.dirty.ratio", {"log.cleaner.min.cleanable.ratio"}, {1}},
    {"min.compaction.lag.ms", {"log.cleaner.min.compaction.lag.ms"}, {1}},
    {"min.insync.replicas", {"min.insync.replicas"}, {1}},
    {"preallocate", {"log.preallocate"}, {1}},
    {"remote.copy.lag.bytes", {"log.remote.copy.lag.bytes"}, {1}},
    {"remote.copy.lag.ms", {"log.remote.copy.lag.ms"}, {1}},
    {"retention.bytes", {"log.retention.bytes"}, {1}},
    {"retention.ms",
     {"log.retention.ms", "log.retention.minutes", "log.retention.hours"},
     {1, 60 * 1000, 60 * 60 * 1000}},
    {"segment.bytes", {"log.segment.bytes"}, {1}},
    {"segment.index.bytes", {"log.index.size.max.bytes"}, {1}},
    {"segment.jitter.ms", {"log.roll.jitter.ms", "log.roll.jitter.hours"}, {1, 60 * 60 * 1000}},
    {"segment.ms", {"log.roll.ms", "log.roll.hours"}, {1, 60 * 60 * 1000}},
    {"unclean.leader.election.enable", {"unclean.leader.election.enable"}, {1}},
};

const struct config_synonyms *config_topic_synonyms(const char *topic_key)
{
    for (size_t i = 0; i < ARRAY_COUNT(synonyms); i++)
        if (strcmp(synonyms[i].topic, topic_key) == 0)
            return &synonyms[i];
    return NULL;
}

const struct config_synonyms *config_broker_synonyms(const char *broker_key)
{
    for (size_t i = 0; i < ARRAY_COUNT(synonyms); i++)
        for (size_t b = 0; synonyms[i].broker[1] != NULL && b < 3 && synonyms[i].broker[b]; b++)
            if (strcmp(synonyms[i].broker[b], broker_key) == 0)
                return &synonyms[i];
    return NULL;
}

/* ---- finding a key in its table ---- */

static int find(const struct config_key *keys, int count, struct str name)
{
    int low = 0, high = count;

    while (low < high) {
        int middle = low + (high - low) / 2;
        int order = str_cmp(name, str_from(keys[middle].name));

        if (order == 0)
            return middle;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

int config_key_index(struct str name)
{
    return find(config_broker_keys, config_broker_key_count, name);
}

const struct config_key *config_key_find(struct str name)
{
    int i = config_key_index(name);

    return i < 0 ? NULL : &config_broker_keys[i];
}

const struct config_key *config_resource_key_find(enum config_resource type, struct str name)
{
    const struct config_key *keys = NULL;
    int count = 0, i;

    if (type == CONFIG_TOPIC) {
        keys = config_topic_keys;
        count = config_topic_key_count;
    } else if (type == CONFIG_GROUP) {
        keys = config_group_keys;
        count = config_group_key_count;
    } else if (type == CONFIG_CLIENT_METRICS) {
        keys = config_metrics_keys;
        count = config_metrics_key_count;
    } else if (type == CONFIG_BROKER) {
        keys = config_broker_keys;
        count = config_broker_key_count;
    }
    i = find(keys, count, name);
    return i < 0 ? NULL : &keys[i];
}

const struct config_key *config_topic_key_find(struct str name)
{
    return config_resource_key_find(CONFIG_TOPIC, name);
}
