#!/usr/bin/env python3
"""Three nodes on loopback, from three stock property files and a cluster.secret: the quorum and the
membership of real processes.

    form      three empty nodes become one cluster; each lists three brokers
    create    topics through each node; whoever acknowledged one shows it
    follower  kill -9 of a node that does not lead: how long until the others list two brokers
    leader    kill -9 of the quorum's leader while topics are being created through the others: the
              longest time between two acknowledged ones; then it comes back
    each      kill -9 and restart of each node
    stop      SIGTERM of each node while topics are being created: exit code 0, the time it took,
              and the longest time between two acknowledged topics
    all       kill -9 of all three at once, and restart

What must hold at the end and after each part: every acknowledged topic is on all three nodes, with
one id; brokers, controller, leaders, ISRs are the same on all; every acknowledged record is there.
Replication factor 1: what is tested is the metadata.

    quorum.py --fluxmq build/release/fluxmq
    quorum.py --fluxmq ... --plant          # must fail: an acknowledged topic is deleted unseen
"""

import argparse
import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import broker as brokers
import kafka_wire as wire

NODES = 3
PATIENCE = 30.0
SECRET = "not-so-secret"
PAUSE = 0.01  # between two topics of a creator

passed = failed = 0


def check(ok, what, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print("%-5s %s%s" % ("ok" if ok else "FAIL", what, "" if ok else ": " + str(detail)), flush=True)
    return ok


def say(text):
    print("      " + text, flush=True)


class Cluster:
    def __init__(self, options):
        self.nodes = {i: brokers.Broker(fluxmq=options.fluxmq, workers=options.workers)
                      for i in range(1, NODES + 1)}
        voters = ",".join("%d@%s:%d" % (i, b.host, b.controller_port) for i, b in self.nodes.items())
        for i, b in self.nodes.items():
            b.properties = {"node.id": i, "controller.quorum.voters": voters,
                            "cluster.secret": SECRET}
        self.topics = {}   # name: id, acknowledged
        self.records = {}  # name: value, acknowledged
        self.made = 0
        self.trials = options.trials
        self.lock = threading.Lock()

    def remove(self):
        for b in self.nodes.values():
            b.remove()

    def start(self, ids=None):
        for i in ids or self.nodes:
            self.nodes[i].start(wait=False)
        for i in ids or self.nodes:
            self.nodes[i].wait_ready(PATIENCE)

    def look(self, i):
        with self.nodes[i].connect(timeout=10) as conn:
            return wire.metadata(conn)

    def wait_brokers(self, count, ids):
        """Until each of these nodes lists `count` brokers; -> seconds"""
        began = time.monotonic()
        while True:
            seen = {}
            for i in ids:
                try:
                    seen[i] = len(self.look(i).brokers)
                except (OSError, wire.WireError):
                    seen[i] = None
            if all(n == count for n in seen.values()):
                return time.monotonic() - began
            if time.monotonic() - began > PATIENCE:
                raise brokers.NotReady("brokers seen by node: %s, expected %d\n%s" % (
                    seen, count, self.nodes[ids[0]].log_tail()))
            time.sleep(0.002)

    def leader(self, by):
        return self.look(by).controller

    def create(self, i, partitions=1):
        """One topic through node i; its name when it was acknowledged."""
        with self.lock:
            self.made += 1
            name = "topic-%04d" % self.made
        with self.nodes[i].connect(timeout=PATIENCE) as conn:
            error, message, topic_id = wire.create_topics(
                conn, [wire.Topic(name, partitions)], check=False)[name]
            if error:
                raise wire.KafkaError(error, "%s: %s" % (name, message))
            shown = {t.name for t in wire.metadata(conn, [name]).topics if not t.error}
        with self.lock:
            self.topics[name] = topic_id
        if name not in shown:
            check(False, "the node that acknowledged shows the topic", "%s at node %d" % (name, i))
        return name

    def produce(self, name):
        """One record, through whoever leads."""
        deadline = time.monotonic() + PATIENCE
        value = name.encode() * 3
        while True:
            try:
                with self.nodes[1].connect() as conn:
                    leader = wire.metadata(conn, [name]).topics[0].partitions[0].leader
                if leader > 0:
                    with self.nodes[leader].connect() as conn:
                        wire.produce(conn, name, 0, wire.encode_batch([(b"k", value, [])]))
                    self.records[name] = value
                    return
            except (OSError, wire.WireError, wire.KafkaError) as e:
                if time.monotonic() > deadline:
                    raise e
            if time.monotonic() > deadline:
                raise brokers.NotReady("nobody leads %s" % name)
            time.sleep(0.01)

    # ---------------------------------------------------------------- what must hold

    def views(self):
        out = {}
        for i in self.nodes:
            m = self.look(i)
            out[i] = (sorted(b.node_id for b in m.brokers), m.cluster_id, m.controller,
                      {t.name: (t.error, t.topic_id,
                                sorted((p.index, p.error, p.leader, p.leader_epoch,
                                        tuple(p.replicas), tuple(p.isr), tuple(p.offline))
                                       for p in t.partitions)) for t in m.topics})
        return out

    def settle(self):
        """The views once they are equal and every partition has a leader, or as they are then."""
        deadline = time.monotonic() + PATIENCE
        while True:
            views = self.views()
            first = views[1]
            settled = all(v == first for v in views.values()) and len(first[0]) == NODES and all(
                p[2] > 0 for t in first[3].values() for p in t[2])
            if settled or time.monotonic() > deadline:
                return views, settled
            time.sleep(0.02)

    def verify(self, when):
        views, settled = self.settle()
        differ = [(i, [k for k in range(4) if views[i][k] != views[1][k]]) for i in views]
        check(settled, "%s: %d topics, the same on all nodes, each partition with a leader" % (
            when, len(self.topics)), [(d, views[d[0]][:3]) for d in differ])
        missing = [(n, i) for n, topic_id in self.topics.items() for i in views
                   if views[i][3].get(n, (0, None))[1] != topic_id]
        check(not missing, "%s: every acknowledged topic is there, with its id" % when, missing[:5])
        lost = []
        for name, value in self.records.items():
            leader = views[1][3].get(name, (0, 0, [(0, 0, -1)]))[2][0][2]
            if leader < 0:
                lost.append(name)
                continue
            with self.nodes[leader].connect() as conn:
                got = wire.fetch(conn, [(name, [(0, 0)])])
                values = [r[3] for p in got for b in wire.split_batches(p.records)
                          for r in wire.decode_records(b)]
            if value not in values:
                lost.append(name)
        check(not lost, "%s: all %d acknowledged records are there" % (when, len(self.records)),
              lost[:5])


class Creator(threading.Thread):
    """Topics through some of the nodes in turn, one after the other, until told to end."""

    def __init__(self, cluster, nodes):
        super().__init__(daemon=True)
        self.cluster, self.nodes, self.over = cluster, nodes, False
        self.acknowledged, self.errors = [time.monotonic()], []
        self.start()

    def run(self):
        k = 0
        while not self.over:
            k += 1
            time.sleep(PAUSE)
            try:
                self.cluster.create(self.nodes[k % len(self.nodes)])
                self.acknowledged.append(time.monotonic())
            except (OSError, wire.WireError, wire.KafkaError) as e:
                self.errors.append(str(e))

    def end(self):
        """-> the longest time between two acknowledged topics, in ms"""
        self.over = True
        self.join(PATIENCE)
        times = self.acknowledged + [time.monotonic()]
        return 1000 * max(b - a for a, b in zip(times, times[1:]))


def others(i):
    return [k for k in range(1, NODES + 1) if k != i]


def form(c):
    began = time.monotonic()
    c.start()
    c.wait_brokers(NODES, list(c.nodes))
    say("formed in %.0f ms" % (1000 * (time.monotonic() - began)))
    views = c.views()
    check(all(v[0] == [1, 2, 3] for v in views.values()), "form: each node lists three brokers", views)
    check(len({v[1] for v in views.values()}) == 1 and views[1][1], "form: one cluster id", views)


def create(c):
    for i in c.nodes:
        for _ in range(4):
            c.create(i, partitions=3)
    for name in list(c.topics)[:9]:
        c.produce(name)
    c.verify("create")


def follower(c):
    times = []
    for k in range(c.trials):
        victim = others(c.leader(1))[k % 2]
        watcher = c.leader(others(victim)[0])
        conn = c.nodes[watcher].connect()
        began = time.monotonic()
        c.nodes[victim].kill()
        while len(wire.metadata(conn, []).brokers) == NODES and time.monotonic() - began < PATIENCE:
            time.sleep(0.001)
        times.append(1000 * (time.monotonic() - began))
        conn.close()
        c.start([victim])
        c.wait_brokers(NODES, list(c.nodes))
    say("fenced on evidence after %s ms" % ", ".join("%.0f" % t for t in times))
    check(max(times) < 500, "follower: fenced long before its session is over", times)
    c.verify("follower")


def leader(c):
    gaps, errors = [], []
    for _ in range(c.trials):
        victim = c.leader(1)
        creator = Creator(c, others(victim))
        time.sleep(0.5)
        c.nodes[victim].kill()
        time.sleep(2.5)
        gaps.append(creator.end())
        errors += creator.errors
        c.start([victim])
        c.wait_brokers(NODES, list(c.nodes))
    say("topics went on %s ms after the leader's kill -9, %d refused" % (
        ", ".join("%.0f" % g for g in gaps), len(errors)))
    check(max(gaps) < 2000, "leader: topic creation goes on", gaps)
    check(not errors, "leader: nobody is refused", errors[:5])
    c.verify("leader")


def each(c):
    for i in c.nodes:
        c.nodes[i].kill()
        c.start([i])
        c.create(i)
    c.wait_brokers(NODES, list(c.nodes))
    c.verify("each")


def stop(c):
    for i in c.nodes:
        creator = Creator(c, others(i))
        time.sleep(0.3)
        leads = c.leader(others(i)[0]) == i
        began = time.monotonic()
        code = c.nodes[i].stop(timeout=PATIENCE)
        took = time.monotonic() - began
        time.sleep(0.7)
        gap = creator.end()
        say("node %d%s stopped in %.0f ms; longest time between two topics %.0f ms" % (
            i, ", which led," if leads else "", 1000 * took, gap))
        check(code == 0 and took < 3, "stop: node %d ends with exit code 0" % i, (code, took))
        check(not creator.errors, "stop: no topic is refused", creator.errors[:3])
        check(gap < 1000, "stop: topic creation goes on", gap)
        c.start([i])
        c.wait_brokers(NODES, list(c.nodes))
    c.verify("stop")


def everyone(c):
    for b in c.nodes.values():
        b.process.kill()
    for b in c.nodes.values():
        b.kill()
    began = time.monotonic()
    c.start()
    c.wait_brokers(NODES, list(c.nodes))
    say("all three back after %.0f ms" % (1000 * (time.monotonic() - began)))
    for i in c.nodes:
        c.create(i)
    c.verify("all")
    took = []
    for b in c.nodes.values():
        b.process.terminate()
    for b in c.nodes.values():
        began = time.monotonic()
        took.append((b.stop(timeout=PATIENCE), time.monotonic() - began))
    say("all three stopped together in %.0f ms" % (1000 * sum(t for _, t in took)))
    check(all(code == 0 for code, _ in took), "all: they stop together with exit code 0", took)
    check(sum(t for _, t in took) < 8, "all: nobody waits long for a quorum that is gone", took)
    c.start()
    c.verify("all, again")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=brokers.help_formatter)
    parser.add_argument("--fluxmq", required=True, metavar="BIN")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=3, help="of follower and leader")
    parser.add_argument("--only", nargs="*", metavar="PART",
                        help="of create, follower, leader, each, stop")
    parser.add_argument("--plant", action="store_true",
                        help="an acknowledged topic is deleted unseen: must fail")
    parser.add_argument("--logs", action="store_true", help="show the nodes' logs at the end")
    parser.add_argument("--lines", type=int, default=60, help="of each log")
    options = parser.parse_args()
    c = Cluster(options)
    try:
        form(c)
        for part in (create, follower, leader, each, stop):
            if not options.only or part.__name__ in options.only:
                part(c)
        if options.plant:
            with c.nodes[2].connect() as conn:
                wire.delete_topics(conn, [next(iter(c.topics))])
        everyone(c)
    except (brokers.NotReady, OSError, wire.WireError, wire.KafkaError) as e:
        check(False, "the run", e)
    if options.logs or failed:
        for i, b in c.nodes.items():
            print("--- node %d\n%s" % (i, b.log_tail(options.lines)))
    c.remove()
    print("quorum: %d ok, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
