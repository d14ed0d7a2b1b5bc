/* tests/fuzz/command_fuzz.c -- any bytes as commands to a cluster of two nodes.
 *
 * The first byte chooses: an entry as it is in the log; one command without its frame; the same,
 * completed by the controller. Whatever decodes is applied twice, to equal images: the state
 * machine answers every command, never stops, gives equal digests, and what it made survives a
 * snapshot.
 */
#include <stdlib.h>

#include "raft-meta/command.h"
#include "raft-meta/controller.h"
#include "raft-meta/fsm.h"
#include "raft-meta/image_edit.h"
#include "raft-meta/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum mode { MODE_ENTRY, MODE_COMMAND, MODE_COMPLETED, MODE_COUNT };

static struct image *cluster(void)
{
    struct image *i = image_new();
    struct uuid topic = {{7}}, directory = {{9}};
    int32_t replicas[] = {1, 2};
    struct uuid directories[] = {{{9}}, {{0}}};

    image_set_cluster_id(i, STR_LIT("fuzzed"));
    for (int32_t n = 1; n <= 2; n++)
        image_put_broker(i, &(struct broker_image){.id = n,
                                                   .epoch = n,
                                                   .incarnation = {{(uint8_t)n}},
                                                   .rack = STR_NULL,
                                                   .directories = &directory,
                                                   .directory_count = n == 1 ? 1 : 0,
                                                   .metadata_directory = {{(uint8_t)n}}});
    image_put_topic(i, &topic, STR_LIT("a.b"), 3);
    for (int p = 0; p < 3; p++)
        image_add_partition(i, &topic,
                            &(struct partition_image){.replicas = replicas,
                                                      .replica_count = 2,
                                                      .isr = replicas,
                                                      .isr_count = 2,
                                                      .directories = directories,
                                                      .leader = 1,
                                                      .effective_min_isr = 2});
    image_set_applied(i, 10);
    return i;
}

static bool is_voter(void *ctx, int32_t node)
{
    (void)ctx;
    return node == 1;
}

static void same_random(void *ctx, void *out, size_t size)
{
    uint8_t *n = ctx;

    memset(out, ++*n, size);
}

static void apply(struct fsm_step *s, MetaCommand *c)
{
    MetaOutcome *o = fsm_apply(s, c);

    CHECK(o != NULL);
    meta_outcome__free_unpacked(o, NULL);
}

static void apply_entry(struct fsm_step *s, const uint8_t *data, size_t size)
{
    struct entry_reader r;
    MetaCommand *c;

    entry_reader_init(&r, data, size);
    while (entry_reader_next(&r, &c) == ERR_NONE && c != NULL) {
        apply(s, c);
        meta_command__free_unpacked(c, NULL);
    }
}

static uint64_t run(enum mode mode, const uint8_t *data, size_t size)
{
    struct image *base = cluster();
    struct fsm_step *s = fsm_begin(base, 11);
    uint8_t dice = 0;
    struct controller k = {
        .voter_count = 1, .is_voter = is_voter, .random = same_random, .ctx = &dice};
    MetaCommand *c = mode == MODE_ENTRY ? NULL : meta_command__unpack(NULL, size, data);
    struct snapshot snapshot;
    uint64_t digest;

    if (mode == MODE_ENTRY)
        apply_entry(s, data, size);
    if (c != NULL && mode == MODE_COMPLETED)
        controller_complete(&k, base, 1, c);
    if (c != NULL) {
        apply(s, c);
        meta_command__free_unpacked(c, NULL);
    }
    (void)fsm_finish(s);
    digest = snapshot_digest(fsm_step_image(s));
    snapshot_encode(fsm_step_image(s), &snapshot);
    snapshot_deinit(&snapshot);
    fsm_step_free(s);
    image_unref(base);
    return digest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t first, second;

    if (size == 0 || size > (256 << 10))
        return 0;
    first = run((enum mode)(data[0] % MODE_COUNT), data + 1, size - 1);
    second = run((enum mode)(data[0] % MODE_COUNT), data + 1, size - 1);
    CHECK(first == second);
    return 0;
}
