#!/usr/bin/env python3
"""The comparison sees what no changed byte can show: records lost, twice, moved or out of order."""
import copy
import unittest

import records


def noted():
    out, ends = records.plan("test", 60, 1_000_000), {}
    for r in out:
        r["offset"] = ends.get(r["partition"], 0)
        r["timestamp_type"] = "create"
        ends[r["partition"]] = r["offset"] + 1
    return out


class Comparison(unittest.TestCase):
    def expect(self, rule, read):
        difference = records.compare(noted(), read)
        self.assertTrue(difference and difference.startswith(rule), difference)

    def test_equal_passes_in_any_order_of_partitions(self):
        self.assertIsNone(records.compare(noted(), sorted(noted(), key=lambda r: r["partition"])))

    def test_a_lost_record_is_seen(self):
        self.expect("C3", noted()[:-1])

    def test_a_record_that_nobody_sent_is_seen(self):
        extra = dict(noted()[-1], offset=1000)
        self.expect("C3", noted() + [extra])

    def test_a_record_read_twice_is_seen(self):
        self.expect("C4", noted() + noted()[-1:])

    def test_records_out_of_order_are_seen(self):
        self.expect("C4", noted()[::-1])

    def test_the_order_of_headers_counts(self):
        read = noted()
        several = next(r for r in read if len(r["headers"]) > 1)
        several["headers"] = several["headers"][::-1] + [["more", None]]
        self.expect("C5", read)

    def test_null_is_not_empty(self):
        for field in ("key", "value"):
            read = noted()
            next(r for r in read if r[field] is None)[field] = ""
            self.expect("C5", read)

    def test_time_and_its_type_count(self):
        for field, value in (("timestamp", 1), ("timestamp_type", "append")):
            read = noted()
            read[7][field] = value
            self.expect("C6", read)


class Notes(unittest.TestCase):
    def expect(self, rule, notes, ordered=True):
        difference = records.check_notes(noted(), notes, ordered)
        self.assertTrue(difference and difference.startswith(rule), difference)

    def test_an_answer_for_each_record_in_order_passes(self):
        self.assertIsNone(records.check_notes(noted(), noted()))

    def test_a_missing_answer_is_seen(self):
        self.expect("C1", noted()[1:])

    def test_an_altered_note_is_seen(self):
        notes = copy.deepcopy(noted())
        notes[3]["value"] = "00"
        self.expect("C1", notes)

    def test_a_gap_or_a_duplicate_in_the_offsets_is_seen(self):
        for ordered in (True, False):
            for delta in (1, -1):
                notes = noted()
                for n in notes[30:]:
                    n["offset"] += delta
                self.expect("C2", notes, ordered)


if __name__ == "__main__":
    unittest.main()
