"""Starts, stops, crashes and rebalances: nothing is lost, and no object holds an event twice."""
import contextlib
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import events
import model
import rig
from confluent_kafka import Producer
from receiver import Receiver


class Feed:
    """Produces runs that carry numbers, while other things happen."""

    def __init__(self, kafka, topic, sink, partitions):
        self.kafka, self.topic, self.sink, self.partitions = kafka, topic, sink, partitions
        self.count = 0

    def send(self, count):
        """count runs to each partition"""
        for partition in range(self.partitions):
            records = []
            for _ in range(count):
                self.count += 1
                run = events.run(self.sink, id=f"run-{self.count}")
                records.append((b"k", events.dump(run)))
            self.kafka.produce(self.topic, records, partition)

    def trickle(self, over):
        """one run at a time to each partition in turn, each alone in its batch, until over is set"""
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "linger.ms": 0})
        while not over.wait(0.003):
            self.count += 1
            run = events.run(self.sink, id=f"run-{self.count}")
            producer.produce(self.topic, events.dump(run), b"k", self.count % self.partitions)
            producer.poll(0)
        producer.flush(30)

    def ids(self):
        return Counter(f"run-{n}" for n in range(1, self.count + 1))


class Lifecycle(rig.Case):
    def setUp(self):
        super().setUp()
        self.store = rig.services().store("versitygw") or rig.services().store("s3proxy")

    def bucket(self):
        return self.store.bucket(rig.unique("life"))

    def batch(self, **more):
        return self.settings(archive="batch", batch__age="300ms", batch__records=200, **more)

    def crashing(self):
        """Settings for members that die: their session, and what they leave open in a transaction, end soon. They are killed from
        outside, again and again within seconds, which after three deaths would be blamed on a record."""
        settings = self.batch(poison__attempts="6")
        settings["kafka"].update({"session.timeout.ms": 2000, "transaction.timeout.ms": 10000})
        return settings

    def archived(self, bucket):
        """How often each run stands in the bucket's batch objects."""
        found = Counter()
        for key, body in self.store.objects(bucket).items():
            lines = (gzip.decompress(body) if key.endswith(".gz") else body).splitlines()
            found.update(json.loads(line)["id"] for line in lines)
        return found

    def assertArchived(self, feed, bucket):
        found, sent = self.archived(bucket), feed.ids()
        self.assertEqual([], (sent - found).most_common(5), "lost")
        self.assertEqual([], (found - sent).most_common(5), "doubled")
        rig.say(f"{feed.count} events, each once, in {len(self.store.keys(bucket))} objects")

    def until_group_is_empty(self):
        rig.await_("the group has no member", 30, lambda: self.kafka.members(self.group) == 0)

    # ---- orderly ends ----

    def test_until_end(self):
        """run --until-end delivers what is there and exits 0; once more: nothing to do, 0 again"""
        bucket = self.bucket()
        self.kafka.create(self.topic, 3)
        feed = Feed(self.kafka, self.topic, self.store.sink(bucket), 3)
        feed.send(300)
        self.assertExit(0, self.worker(self.batch(), "--until-end"))
        self.assertArchived(feed, bucket)
        self.assertTrue(self.kafka.settled(self.group, self.topic))
        self.assertExit(0, self.worker(self.batch(), "--until-end"))
        self.assertArchived(feed, bucket)

    def test_until_end_of_nothing(self):
        """run --until-end on an empty topic exits 0"""
        self.kafka.create(self.topic, 2)
        self.assertExit(0, self.worker(self.settings(), "--until-end"))

    def test_batch_bytes(self):
        """a batch object's name, metadata and bytes: gzip, zstd and none hold the same NDJSON"""
        for compression, suffix in (("gzip", ".ndjson.gz"), ("none", ".ndjson"), ("zstd", ".ndjson.zst")):
            bucket, self.group, self.topic = self.bucket(), rig.unique("group"), rig.unique("runs")
            self.kafka.create(self.topic, 1)
            texts = [events.dump(events.run(self.store.sink(bucket, prefix="p/"), id=f"run-{i}"), i % 3) for i in range(50)]
            self.kafka.produce(self.topic, [(b"k", text) for text in texts])
            self.assertExit(0, self.worker(self.batch(batch__compression=compression), "--until-end"))
            (key, body), = self.store.objects(bucket).items()
            self.assertRegex(key, rf"^p/dt=\d\d\d\d-\d\d-\d\d/{self.topic}-0-0-50-[0-9a-f]{{12}}{suffix.replace('.', '[.]')}$")
            if compression == "gzip":
                body = gzip.decompress(body)
            elif compression == "zstd":
                body = subprocess.run(["zstd", "-dc"], input=body, stdout=subprocess.PIPE, check=True).stdout
            expected = b"".join(model.redact(text).replace(b"\r", b" ").replace(b"\n", b" ") + b"\n" for text in texts)
            head = self.store.head(bucket, key)
            self.assertEqual(rig.sha256(expected), head["Metadata"]["sha256"], head["Metadata"])
            self.assertEqual("50", head["Metadata"]["count"])
            self.assertNotIn("ContentEncoding", head)
            self.assertEqual(expected, body)
            rig.say(f"{key}: {head['ContentLength']} bytes, {head['Metadata']}")

    REFUSED = {"versitygw": set(), "minio": {"runs//"}, "s3proxy": {"/runs/"}}  # by the stores; the others they fold or keep
    SPELLINGS = ("runs/", "/runs/", "runs//", "runs", "RUNS/", "r\u00e9/", "re\u0301/")

    def test_places_that_a_store_folds(self):
        """one bucket, prefixes that differ in spelling only, one window: each event stands in an object, whatever the store folds"""
        for name in ("versitygw", "minio", "s3proxy"):
            store = rig.services().store(name)
            for template in ({}, {"key__batch": "{prefix}{date}/{topic}-{partition}-{first}-{next}.ndjson"}):
                if store is None:
                    continue
                bucket, self.group, self.topic = store.bucket(rig.unique("fold")), rig.unique("group"), rig.unique("runs")
                self.kafka.create(self.topic, 1)
                sent = [(prefix, n) for n in range(3) for prefix in self.SPELLINGS]
                self.kafka.produce(self.topic, [
                    (b"k", events.dump(events.run(store.sink(bucket, prefix=prefix), id=f"run-{prefix}-{n}")))
                    for prefix, n in sent])
                self.assertExit(75 if self.REFUSED[name] else 0, self.worker(self.batch(**template), "--until-end"))
                found = Counter(json.loads(line)["id"] for body in store.objects(bucket).values()
                                for line in gzip.decompress(body).splitlines())
                self.assertEqual(Counter(f"run-{prefix}-{n}" for prefix, n in sent if prefix not in self.REFUSED[name]), found,
                                 name)

    def test_rotation_inside_a_window(self):
        """two secrets for one place in one window: two objects with keys of their own, the second with an ordinal"""
        bucket = self.bucket()
        self.kafka.create(self.topic, 1)
        old, new = self.store.sink(bucket, secret_key="rotated-away"), self.store.sink(bucket)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink, id=f"run-{n}")))
                                        for n, sink in enumerate((old, new, old, new))])
        self.assertExit(75, self.worker(self.batch(), "--until-end"))
        (key, body), = self.store.objects(bucket).items()
        self.assertRegex(key, r"-0-4-[0-9a-f]{12}[.]2[.]ndjson[.]gz$")
        self.assertEqual(["run-1", "run-3"], [json.loads(line)["id"] for line in gzip.decompress(body).splitlines()])

    def test_sigterm_drains(self):
        """SIGTERM in the middle: exit 0 within the drain timeout, each webhook called exactly once over two lives"""
        receiver = Receiver()
        self.addCleanup(receiver.close)

        def slow(handler):
            time.sleep(0.03)
            handler.send_response(200)
            handler.send_header("content-length", "0")
            handler.end_headers()
        receiver.play("/hook", slow)
        self.kafka.create(self.topic, 2)
        feed = Feed(self.kafka, self.topic, {"type": "webhook", "url": receiver.url + "/hook"}, 2)
        feed.send(500)
        worker = self.worker(self.settings(window__records=20, window__inflight=2))
        rig.await_("some requests", 30, lambda: len(receiver.requests) > 100, worker)
        began = time.monotonic()
        self.assertEqual(0, worker.stop(30), worker.tail())
        first = len(receiver.requests)
        rig.say(f"drained and left in {time.monotonic() - began:.1f} s after {first} of {feed.count} requests")
        self.assertLess(first, feed.count, "the signal came too late to test anything")
        self.assertEqual(0, self.kafka.members(self.group), "the member left the group")
        self.assertExit(0, self.worker(self.settings(), "--until-end"), 90)
        calls = Counter(json.loads(r.body)["id"] for r in receiver.requests)
        self.assertEqual([], (feed.ids() - calls).most_common(5), "lost")
        self.assertEqual([], (calls - feed.ids()).most_common(5), "doubled")

    def test_abort_from_outside(self):
        """a SIGABRT that somebody sends, a supervisor's for one, ends it the first time"""
        self.kafka.create(self.topic)
        worker = self.worker(self.batch())
        rig.await_("it runs", 30, lambda: worker.says("partitions assigned"), worker)
        worker.process.send_signal(signal.SIGABRT)
        self.assertEqual(-signal.SIGABRT, worker.process.wait(30))

    def test_second_sigterm_and_black_hole(self):
        """SIGTERM while a destination hangs: parked at the drain timeout, exit 0"""
        from receiver import BlackHole
        hole = BlackHole()
        self.addCleanup(hole.close)
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "webhook", "url": hole.url})))])
        worker = self.worker(self.settings(drain__timeout="1s", window__grace="60s"))
        rig.await_("a connection", 30, lambda: hole.held, worker)
        began = time.monotonic()
        self.assertEqual(0, worker.stop(30), worker.tail())
        self.assertLess(time.monotonic() - began, 10)
        self.assertTrue(self.kafka.settled(self.group, self.topic), worker.tail())
        self.assertEqual(1, sum(len(self.kafka.consume(t)) for t in self.kafka.topics() if t.startswith(self.topic + ".retry.")))

    # ---- rebalances ----

    def test_stderr_that_nobody_reads(self):
        """a full pipe behind stderr holds up neither deliveries nor health nor the end"""
        fifo = self.dir / "stderr"
        os.mkfifo(fifo)
        pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, pipe)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, b"x" * 4096)
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 1)
        settings = self.settings(log__level="trace", log__buffer="64KiB")
        worker = self.worker(settings, wrap=("sh", "-c", f'exec "$@" 2>>{fifo}', "sh"))
        Feed(self.kafka, self.topic, {"type": "webhook", "url": receiver.url}, 1).send(100)
        self.until_settled(worker)
        self.assertEqual(100, len(receiver.requests))
        self.assertEqual("ok\n", worker.http("/healthz"))
        self.assertGreater(worker.metric("runsink_log_lines_lost_total"), 100)
        os.set_blocking(pipe, True)
        os.read(pipe, 1 << 20)
        lines = rig.await_("what was left out is told", 20, lambda: re.search(rb'lines lost" lines=(\d+)', os.read(pipe, 1 << 20)))
        self.assertGreater(int(lines[1]), 100)
        self.assertEqual(0, worker.stop())

    def test_reload(self):
        """SIGHUP with a file that a start would refuse changes nothing, and log and metric say so; the next good one is taken"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 1)
        bundle = self.dir / "ca.pem"
        made = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                               "-subj", "/CN=ca", "-keyout", os.devnull, "-out", bundle], capture_output=True)
        self.assertEqual(0, made.returncode, made.stderr)
        certificate = bundle.read_bytes()
        worker = self.worker(self.settings(log__heartbeat="300ms", http__ca_bundle=bundle))
        rig.await_("it runs", 30, lambda: worker.says("event=heartbeat"), worker)
        good = worker.config.read_text()
        done = "configuration read anew", "could not be read anew"

        def reload(text, outcome):
            """The line that the log then has."""
            worker.config.write_text(text)
            before = [worker.text().count(phrase) for phrase in done]
            worker.process.send_signal(signal.SIGHUP)
            rig.await_("the signal is taken", 20, lambda: [worker.text().count(phrase) for phrase in done] != before, worker)
            line = [line for line in worker.text().splitlines() if any(phrase in line for phrase in done)][-1]
            self.assertIn(done[not outcome], line)
            self.assertEqual(outcome, worker.metric("runsink_config_last_reload_successful"))
            return line

        self.assertEqual(1, worker.metric("runsink_config_last_reload_successful"))
        half = good[:good.index("[kafka]")]
        for text, why in (("", "topics"), (half, "bootstrap.servers"), (good.replace("allow = 127.0.0.0/8", "allow = 127.0.0.0/x"), "CIDR"),
                          (good.rstrip()[:-1], "middle of a line"), (good + "no.such.property = 1\n", "no.such.property"),
                          (good + "[key]\nobject = {prefix}x\n", "key.object"), (good + "[sink]\noverride = file:/proc/none\n", "/proc/none"),
                          (good + "[ledger]\nkey = /dev/null\n", "Ed25519")):
            self.assertIn(why, reload(text, False))
        bundle.write_bytes(certificate[:len(certificate) // 2])
        self.assertIn("http.ca_bundle", reload(good, False))
        bundle.write_bytes(certificate)
        Feed(self.kafka, self.topic, {"type": "webhook", "url": receiver.url}, 1).send(5)
        self.until_settled(worker)
        self.assertEqual(5, len(receiver.requests))
        line = reload(good.replace("session.timeout.ms = 6000", "session.timeout.ms = 7000")
                      .replace("breaker]", "breaker]\nfailures = 9\n[http]\ntimeout = 7s\n[breaker]").replace("failures = 100000\n", ""), True)
        self.assertRegex(line, r'changed="?[^"]*breaker.failures')
        self.assertIn("kafka.session.timeout.ms", line)
        self.assertEqual(0, worker.stop())

    def test_rebalance(self):
        """members come and go while events flow: every event stands in the archive once"""
        bucket = self.bucket()
        self.kafka.create(self.topic, 6)
        feed = Feed(self.kafka, self.topic, self.store.sink(bucket), 6)
        feed.send(20)
        first = self.worker(self.batch())
        rig.await_("a first object", 30, lambda: self.store.keys(bucket), first)
        second = self.worker(self.batch(lanes=2))
        rig.await_("three members", 30, lambda: feed.send(5) or self.kafka.members(self.group) == 3, second)
        for _ in range(10):
            feed.send(5)
        self.assertEqual(0, first.stop(), first.tail())
        for _ in range(5):
            feed.send(5)
        third = self.worker(self.batch())
        rig.await_("three members again", 30, lambda: feed.send(5) or self.kafka.members(self.group) == 3, third)
        feed.send(20)
        self.until_settled(third)
        for worker in (second, third):
            self.assertEqual(0, worker.stop(), worker.tail())
        self.assertArchived(feed, bucket)

    def test_rebalances_at_the_end(self):
        """a member joins and leaves again and again while single records come to partitions read to their end: none is missed"""
        bucket = self.bucket()
        self.kafka.create(self.topic, 6)
        feed = Feed(self.kafka, self.topic, self.store.sink(bucket), 6)
        feed.send(1)
        steady = self.worker(self.batch())
        rig.await_("a first object", 30, lambda: self.store.keys(bucket), steady)
        over = threading.Event()
        trickle = threading.Thread(target=feed.trickle, args=(over,))
        trickle.start()
        try:
            for _ in range(6):
                guest = self.worker(self.batch())
                rig.await_("two members", 30, lambda: self.kafka.members(self.group) == 2, guest)
                self.assertEqual(0, guest.stop(), guest.tail())
                rig.await_("one member", 30, lambda: self.kafka.members(self.group) == 1, steady)
        finally:
            over.set()
            trickle.join()
        self.until_settled(steady)
        self.assertEqual(0, steady.stop(), steady.tail())
        self.assertArchived(feed, bucket)

    def test_slot(self):
        """a stable slot: after kill -9 the restart has its partitions back without waiting out the session"""
        bucket = self.bucket()
        self.kafka.create(self.topic, 2)
        feed = Feed(self.kafka, self.topic, self.store.sink(bucket), 2)
        settings = self.batch(slot="runsink-0")
        settings["kafka"]["session.timeout.ms"] = 30000
        feed.send(20)
        worker = self.worker(settings)
        self.until_settled(worker)
        worker.kill()
        feed.send(20)
        began = time.monotonic()
        worker = self.worker(settings)
        self.until_settled(worker)
        took = time.monotonic() - began
        rig.say(f"settled {took:.1f} s after the restart; the session timeout is 30 s")
        self.assertLess(took, 20)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertArchived(feed, bucket)

    # ---- crashes ----

    def test_kill_9(self):
        """kill -9 at ten moments, two members: no event lost, none twice in the objects"""
        rng = random.Random(int(os.environ.get("SEED", "1")))
        bucket = self.bucket()
        self.kafka.create(self.topic, 4)
        feed = Feed(self.kafka, self.topic, self.store.sink(bucket), 4)
        feed.send(10)
        settings = self.crashing()
        members = [self.worker(settings), self.worker(settings)]
        for _ in range(10):
            before = len(self.store.keys(bucket))
            rig.await_("progress", 60, lambda: feed.send(5) or len(self.store.keys(bucket)) > before, members[0])
            time.sleep(rng.random())  # the moment is random on purpose
            members.pop(0).kill()
            members.append(self.worker(settings))
        feed.send(10)
        self.until_settled(members[0], 90)
        for worker in members:
            self.assertEqual(0, worker.stop(), worker.tail())
        self.assertArchived(feed, bucket)

    def test_zombie(self):
        """SIGSTOP past the session timeout, SIGCONT after another member took over: still each event once"""
        bucket = self.bucket()
        self.kafka.create(self.topic, 2)
        feed = Feed(self.kafka, self.topic, self.store.sink(bucket), 2)
        settings = self.crashing()
        feed.send(50)
        zombie = self.worker(settings)
        rig.await_("a first object", 30, lambda: self.store.keys(bucket), zombie)
        feed.send(100)
        zombie.process.send_signal(signal.SIGSTOP)
        heir = self.worker(settings)
        try:
            self.until_settled(heir)
        finally:
            zombie.process.send_signal(signal.SIGCONT)
        feed.send(50)
        rig.await_("everything is settled", 60, lambda: self.kafka.settled(self.group, self.topic))
        zombie.stop()
        rig.say(f"the zombie ended with {zombie.exited()}")
        self.until_settled(heir)
        self.assertEqual(0, heir.stop(), heir.tail())
        self.assertArchived(feed, bucket)

    # ---- the broker ----

    def test_broker_restart(self):
        """the only broker is restarted, then killed with SIGKILL and restarted: the worker lives on, nothing is lost or doubled"""
        dir = Path(tempfile.mkdtemp(prefix="runsink-broker-"))
        self.addCleanup(shutil.rmtree, dir, ignore_errors=True)
        own = rig.Services(dir, ["kafka"])
        self.addCleanup(own.stop)
        self.kafka = own.kafka()
        bucket = self.bucket()
        self.kafka.create(self.topic, 3)
        feed = Feed(self.kafka, self.topic, self.store.sink(bucket), 3)
        feed.send(100)
        worker = self.worker(self.batch())
        self.until_settled(worker)
        feed.send(100)
        own.verb("restart", "kafka")
        feed.send(50)
        self.until_settled(worker, 120)
        rig.say("settled after a restart")
        feed.send(50)
        own.verb("kill", "kafka")
        own.verb("restart", "kafka")
        feed.send(50)
        self.until_settled(worker, 180)
        rig.say("settled after a kill -9 of the broker")
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertArchived(feed, bucket)

    # ---- the command line ----

    def test_check(self):
        """check: 0 and the settings when all is well; 78 with file and line for a bad setting; not 0 without a broker"""
        self.kafka.create(self.topic, 2)
        config = self.dir / "good.ini"
        config.write_text(rig.config_text(self.settings()))
        done = rig.runsink("check", "--config", str(config))
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        self.assertIn(self.topic.encode(), done.stdout + done.stderr)

        config.write_text(rig.config_text(self.settings()).replace("window.age", "x") + "\n[window]\nage = soon\n")
        done = rig.runsink("check", "--config", str(config))
        self.assertEqual(78, done.returncode, done.stdout + done.stderr)
        self.assertRegex(done.stderr.decode(), r"good\.ini:\d+")
        self.assertIn("window.age", done.stderr.decode())

        config.write_text(rig.config_text(self.settings(nonsense="1")))
        done = rig.runsink("run", "--config", str(config))
        self.assertEqual(78, done.returncode, done.stdout + done.stderr)
        self.assertIn("nonsense", done.stderr.decode())

        settings = self.settings()
        settings["kafka"]["bootstrap.servers"] = f"127.0.0.1:{rig.free_port()}"
        config.write_text(rig.config_text(settings))
        done = rig.runsink("check", "--config", str(config))
        self.assertNotEqual(0, done.returncode, done.stdout + done.stderr)
        self.assertIn("127.0.0.1", done.stderr.decode())

    def explain(self, text, *options):
        done = rig.runsink("explain", "--config", str(self.config), *options, input=text)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        self.assertNotIn(b"canary", done.stdout + done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_explain(self):
        """explain: destination, key, outcome and the redacted body of events, nothing sent"""
        self.config = self.dir / "explain.ini"
        self.config.write_text(rig.config_text(self.settings()))
        receiver = Receiver()
        self.addCleanup(receiver.close)
        run = events.run(self.store.sink("some-bucket", prefix="p/", secret_key="secret-canary"))
        hook = events.run({"type": "webhook", "url": receiver.url + "/hook?a=canary-b"})
        texts = [events.dump(run), events.dump(hook), b"no event", events.dump(events.run())]
        one, two, three, four = self.explain(b"\n".join(texts) + b"\n")
        self.assertEqual(("deliver", "s3"), (one["outcome"], one["sink"]))
        self.assertIn("some-bucket", one["destination"])
        self.assertTrue(one["key"].startswith(f"p/workspace-1/project-1/job-123e4567/{run['id']}/"), one["key"])
        self.assertEqual(model.redact(texts[0]).decode(), one["body"])
        self.assertEqual(("deliver", "webhook"), (two["outcome"], two["sink"]))
        self.assertEqual(model.redact(texts[1]).decode(), two["body"])
        self.assertEqual(("dead", "data"), (three["outcome"], three["fault"]))
        self.assertEqual(("skipped", "no-sink"), (four["outcome"], four["reason"]))
        self.assertEqual([], receiver.requests)
        framed, = self.explain(b"\x00\x00\x00\x00\x07" + events.dump(run, 2), "--framed")
        self.assertEqual(model.redact(events.dump(run, 2)).decode(), framed["body"])
        for sample in sorted((Path(__file__).parents[1] / "data").glob("*.json")):
            said, = self.explain(sample.read_bytes())
            self.assertIn(said["outcome"], ("deliver", "skipped"), sample.name)


if __name__ == "__main__":
    rig.main()
