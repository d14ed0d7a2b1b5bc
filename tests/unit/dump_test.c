/* The lines of dump, as Kafka's DumpLogSegments 4.3.1 prints them over the same bytes. Whole
 * directories are compared with that tool in tests/cluster/dump_compare.py. */
#include "storage/dump.h"
#include "tests/unit/folder_fixture.h"

/* What the dump of one file prints: standard output and standard error; malloc'ed. */
static char *dump_to_text(struct folder_fixture *f, const char *name, struct dump_options o,
                          char **errors, bool *good)
{
    struct dump_complaints *c = dump_complaints_new();
    char *text = NULL, path[512];
    size_t size, error_size;
    FILE *out = open_memstream(&text, &size), *err = open_memstream(errors, &error_size);

    o.bytes_max = o.bytes_max == 0 ? INT32_MAX : o.bytes_max;
    *good = dump_file(&f->t.env, fixture_path(f, path, name), &o, c, out, err);
    dump_complaints_print(c, err);
    dump_complaints_free(c);
    fclose(out);
    fclose(err);
    return text;
}

static void expect(struct folder_fixture *f, const char *name, struct dump_options o,
                   const char *line, const char *error)
{
    char *errors = NULL;
    bool good;
    char *text = dump_to_text(f, name, o, &errors, &good);

    if (line != NULL && strstr(text, line) == NULL)
        fail_msg("expected \"%s\" in:\n%s", line, text);
    if (error != NULL ? strstr(errors, error) == NULL : errors[0] != '\0')
        fail_msg("expected \"%s\" on standard error, found:\n%s", error != NULL ? error : "",
                 errors);
    free(text);
    free(errors);
}

static void batches_and_records(void **state)
{
    struct folder_fixture *f = *state;

    expect(f, FIXTURE_LOG_0, (struct dump_options){.deep = false},
           "\nLog starting offset: 0\n"
           "baseOffset: 0 lastOffset: 2 count: 3 baseSequence: 0 lastSequence: 2 producerId: 7 "
           "producerEpoch: 0 partitionLeaderEpoch: 0 isTransactional: false isControl: false "
           "deleteHorizonMs: OptionalLong.empty position: 0 CreateTime: 1700000000002 size: ",
           NULL);
    expect(f, FIXTURE_LOG_0, (struct dump_options){.print_data = true},
           "| offset: 1 CreateTime: 1700000000001 keySize: 1 valueSize: 8 sequence: 1 "
           "headerKeys: [] key: k payload: record 1\n",
           NULL);
    expect(f, FIXTURE_LOG_0, (struct dump_options){.print_data = true, .skip_metadata = true},
           "\n| key: k payload: record 1\n", NULL);
    /* Each file's first offset is compared with the one before it, which is -1. */
    expect(f, FIXTURE_LOG_60, (struct dump_options){.deep = true},
           " sequence: -1 headerKeys: [] endTxnMarker: ABORT coordinatorEpoch: 5\n",
           "  -1 is followed by 60\n");
}

static void indexes_and_snapshots(void **state)
{
    struct folder_fixture *f = *state;

    expect(f, "orders-0/00000000000000000000.index", (struct dump_options){.deep = false},
           "\noffset: ", NULL);
    expect(f, "orders-0/00000000000000000000.timeindex", (struct dump_options){.deep = false},
           "\ntimestamp: 17000000000", NULL);
    expect(f, "orders-0/00000000000000000000.index", (struct dump_options){.index_sanity = true},
           ".index passed sanity check.\n", NULL);
    expect(f, "orders-0/00000000000000000060.txnindex", (struct dump_options){.deep = false},
           "\nversion: 0 producerId: 8 firstOffset: 114 lastOffset: 117 lastStableOffset: 118\n",
           NULL);
    expect(f, "orders-0/00000000000000000060.snapshot", (struct dump_options){.deep = false},
           "\nproducerId: 7 producerEpoch: 0 coordinatorEpoch: -1 currentTxnFirstOffset: "
           "OptionalLong.empty lastTimestamp: 1700000000059 firstSequence: 57 lastSequence: 59 "
           "lastOffset: 59 offsetDelta: 2 timestamp: 1700000000059\n",
           NULL);
    expect(f, "orders-0/leader-epoch-checkpoint", (struct dump_options){.deep = false},
           "\n0\n2\n0 0\n2 60\n", NULL);
    fixture_flip(f, "orders-0/00000000000000000000.index", 3, 1);
    expect(f, "orders-0/00000000000000000000.index", (struct dump_options){.deep = false}, NULL,
           "Mismatches in :");
}

/* A damaged batch is shown as such, a torn one is counted, and the dump comes to its end. */
static void damage_is_shown(void **state)
{
    struct folder_fixture *f = *state;

    fixture_flip(f, FIXTURE_LOG_0, f->positions[1] + 70, 0x20);
    expect(f, FIXTURE_LOG_0, (struct dump_options){.deep = false}, " isvalid: false\n", NULL);
    fixture_cut(f, FIXTURE_LOG_0, f->positions[3] + 40);
    expect(f, FIXTURE_LOG_0, (struct dump_options){.deep = false},
           "\nFound 40 invalid bytes at the end of 00000000000000000000.log\n", NULL);
    expect(f, "meta.unknown", (struct dump_options){.deep = false}, NULL, "Ignoring unknown file");
}

/* Java's rules for what is no UTF-8: see the comments in dump.c. */
static void text_is_decoded_as_java_does(void **state)
{
    struct folder_fixture *f = *state;
    static const struct {
        const char *bytes, *text;
    } samples[] = {
        {"plain", "plain"},
        {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\xff!", "\xef\xbf\xbd!"},
        {"\xe2\x82!", "\xef\xbf\xbd!"},           /* a beginning: one */
        {"\xed\xa0\x80!", "\xef\xbf\xbd!"},       /* a surrogate: one */
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"}, /* overlong: each byte */
        {"\xf4\x90\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(samples); i++) {
        struct record_batch_builder b;
        struct iobuf *bytes;
        char line[64];

        record_batch_builder_init(&b, 0);
        record_batch_builder_add(
            &b, 1, BYTES_NULL,
            (struct bytes){(const uint8_t *)samples[i].bytes, (int32_t)strlen(samples[i].bytes)},
            NULL, 0);
        assert_int_equal(record_batch_builder_finish(&b, &bytes), ERR_NONE);
        fixture_put(f, "0.log", bytes->ptr, bytes->len);
        iobuf_unref(bytes);
        record_batch_builder_deinit(&b);
        (void)snprintf(line, sizeof line, " payload: %s\n", samples[i].text);
        expect(f, "0.log", (struct dump_options){.print_data = true}, line, NULL);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(batches_and_records),
        TEST(indexes_and_snapshots),
        TEST(damage_is_shown),
        TEST(text_is_decoded_as_java_does),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
