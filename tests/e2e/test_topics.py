"""Which topics are read, which are made, where reading starts, and what is said when records are gone."""
import datetime
import json
import time
import urllib.error

from confluent_kafka import Producer

import events
import model
import rig
from receiver import Receiver


class Topics(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    def text(self, name):
        return events.dump(events.run({"type": "webhook", "url": self.receiver.url + "/hook"}, id=name))

    def got(self):
        return sorted(json.loads(r.body)["id"] for r in self.receiver.requests)

    def test_lists_and_expressions(self):
        """names and regular expressions; a topic made later is found; runsink's own topics never match"""
        stem = self.topic
        named, early, late, other = (self.kafka.create(stem + suffix, 2) for suffix in ("", "-x-early", "-x-l", "-other"))
        self.kafka.produce(named, [(b"k", self.text("named"))])
        self.kafka.produce(early, [(b"k", self.text("early")), (b"k", b"broken")], 1)
        self.kafka.produce(other, [(b"k", self.text("other"))])
        worker = self.worker(self.settings(topics=f"{named},^{stem}-x-.*", topics__refresh="500ms"))
        rig.await_("two events", 30, lambda: self.got() == ["early", "named"], worker)
        new = self.kafka.create(stem + "-x-new", 1)
        self.kafka.produce(new, [(b"k", self.text("new"))])
        rig.await_("the new topic's event", 30, lambda: "new" in self.got(), worker)
        for topic in (named, early, late, new):
            self.until_settled(worker, topic=topic)
        rig.await_("the dead letter", 30, lambda: self.dead("data", early), worker)
        # Its dead letter and ledger match the expression too; had they been read, there would be topics of theirs.
        self.kafka.produce(new, [(b"k", self.text("newer"))])
        rig.await_("another event", 30, lambda: "newer" in self.got(), worker)
        self.until_settled(worker, topic=new)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual(["early", "named", "new", "newer"], self.got())
        kinds = ("retry", "dead", "ledger")
        for topic in self.kafka.topics():
            if topic.startswith(stem):
                self.assertLessEqual(sum(part in kinds for part in topic.split(".")), 1, topic)
        self.assertEqual([], [t for t in self.kafka.topics() if t.startswith(other + ".")])

    def test_unserved(self):
        """a topic that matches and can't be served is named; the others run, now and after a restart"""
        stem = self.topic
        long = stem + "-" + "x" * (246 - len(stem) - 1)
        good = self.kafka.create(stem + "-a", 1)
        settings = self.settings(topics=f"^{stem}-.*", topics__refresh="500ms")
        worker = self.worker(settings)
        self.kafka.produce(good, [(b"k", self.text("a"))])
        rig.await_("the first event", 30, lambda: self.got() == ["a"], worker)
        for topic in (stem + "-c", stem + "-c_ledger", long):
            self.kafka.create(topic, 1)
        new = self.kafka.create(stem + "-d", 1)
        self.kafka.produce(new, [(b"k", self.text("d"))])
        rig.await_("a topic that is fine", 30, lambda: "d" in self.got(), worker)
        place = lambda: {t["place"] for t in json.loads(worker.http("/status.json"))["troubles"]}
        rig.await_("both are named", 30, lambda: place() == {stem + "-c", long}, worker)
        self.assertEqual(2, worker.metric("runsink_trouble", cause="topic-not-served"))
        self.assertIn(f"Kafka makes no topic {stem}-c.ledger beside {stem}-c_ledger", worker.http("/readyz"))
        self.assertEqual(0, worker.stop(), worker.tail())
        self.kafka.produce(good, [(b"k", self.text("a2"))])
        worker = self.worker(settings)
        rig.await_("after a restart", 30, lambda: "a2" in self.got(), worker)
        done = rig.runsink("check", "--config", worker.config)
        self.assertEqual(78, done.returncode, done.stdout + done.stderr)
        self.assertIn(f"topic {long} matches and can't be served".encode(), done.stderr)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_nothing_can_be_served(self):
        """the only topic that matches can't be served: it stays up, names it, is not ready; mended it is served; and so again later"""
        only = self.kafka.create(self.topic + "-a", 1)
        settings = self.settings(topics=f"^{self.topic}-.*", topics__refresh="500ms", topics__create="false", ready__patience="3s")
        own = [f"{only}.{kind}" for kind in ("retry.200ms", "retry.400ms", "retry.800ms", "dead.tenant", "dead.data", "dead.system", "ledger", "outcomes")]
        worker = self.worker(settings)
        rig.await_("it listens", 30, lambda: worker.says("admin server listens"), worker)

        def told(kind):
            return worker.metric("runsink_trouble", cause=kind) == 1

        def unserved():
            rig.await_("it is named", 30, lambda: told("topic-not-served") and worker.metric("runsink_ready") == 0, worker)
            with self.assertRaises(urllib.error.HTTPError) as caught:
                worker.http("/readyz")
            said = caught.exception.read().decode()
            self.assertEqual(503, caught.exception.code)
            self.assertIn("nothing to read", said)
            self.assertRegex(said, f"(?m)can't be served.*{only}")
            # Longer than it takes to call brokers unreachable.
            end = time.monotonic() + 5
            while time.monotonic() < end:
                self.assertEqual((0, 1), (worker.metric("runsink_ready"), worker.metric("runsink_trouble")), worker.tail())
                time.sleep(0.2)

        def served(name):
            for topic in own:
                if topic not in self.kafka.topics():
                    self.kafka.create(topic, 1)
            self.kafka.produce(only, [(b"k", self.text(name))])
            self.until_settled(worker, topic=only)
            rig.await_("ready", 30, lambda: worker.metric("runsink_ready") == 1 and not worker.metric("runsink_trouble"), worker)

        self.kafka.produce(only, [(b"k", self.text("first"))])
        unserved()
        self.assertExit(78, self.worker(settings, "--until-end"))
        done = rig.runsink("check", "--config", worker.config)
        self.assertEqual(78, done.returncode, done.stdout + done.stderr)
        served("second")
        self.delete(f"{only}.dead.system")
        unserved()
        served("third")
        self.assertEqual(["first", "second", "third"], self.got())
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_creation(self):
        """missing topics are made, with as many partitions as the source"""
        self.kafka.create(self.topic, 3)
        self.kafka.produce(self.topic, [(b"k", self.text("one"))])
        self.assertExit(0, self.worker(self.settings(), "--until-end"))
        topics = self.kafka.topics()
        wanted = [f"{self.topic}.{kind}" for kind in ("retry.200ms", "retry.400ms", "retry.800ms", "dead.tenant",
                                                      "dead.data", "dead.system", "ledger", "outcomes")]
        for name in wanted:
            self.assertIn(name, topics)
            self.assertEqual(3, len(topics[name].partitions), name)
        self.assertEqual(sorted(wanted + [self.topic]), sorted(t for t in topics if t.startswith(self.topic)))

    def waits(self, topic):
        """Whether the group has not settled a record of that topic yet."""
        committed = self.kafka.committed(self.group, topic)
        return any(r.offset >= committed.get(r.partition, 0) for r in self.kafka.consume(topic))

    def test_leftover_delays(self):
        """retry.delays changed while records wait: those of the old delays are read all the same, and named"""
        self.kafka.create(self.topic, 1)
        self.receiver.play("/hook", 503)
        self.kafka.produce(self.topic, [(b"k", self.text("parked"))])
        worker = self.worker(self.settings(retry__delays="4s,5s", retry__window__webhook="60s"))
        left = f"{self.topic}.retry.4s"
        rig.await_("a parked record", 30, lambda: self.kafka.consume(left), worker)
        self.until_settled(worker)
        worker.kill()
        self.assertTrue(self.waits(left))
        self.receiver.play("/hook", 200)
        worker = self.worker(self.settings(retry__delays="700ms,1700ms"))
        rig.await_("what waited is settled", 40, lambda: not self.waits(left), worker)
        self.assertEqual(["parked"] * 2, self.got())
        for topic in left, f"{self.topic}.retry.5s":
            self.assertTrue([line for line in worker.text().splitlines() if "no such delay any more" in line and topic in line],
                            worker.tail())
        rig.await_("the metric", 10, lambda: worker.metric("runsink_partition_lag_records", topic=left, kind="leftover") == 0, worker)
        checked = rig.runsink("check", "--config", worker.config).stdout.decode()
        self.assertIn("whose delay is not in retry.delays any more: 2", checked)
        self.assertIn(f"{left}: empty for this group", checked)
        self.assertEqual(0, worker.stop(), worker.tail())
        sound = rig.runsink("verify", "--records", "--config", worker.config)
        self.assertEqual(0, sound.returncode, sound.stdout)
        self.assertIn(b"0 records wait in retry topics", sound.stdout)

    def delete(self, *topics):
        for done in self.kafka.admin.delete_topics(list(topics)).values():
            done.result()

    def quick(self, **more):
        """Topics that are gone are missed within a second or so, and called a trouble after nine."""
        settings = self.settings(ready__patience="9s", **more)
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 1000
        worker = self.worker(settings)
        rig.await_("it listens", 30, lambda: worker.says("admin server listens"), worker)
        return worker

    def stays_well(self, worker):
        """For longer than it takes to call a missing topic a trouble, and to be not ready for it."""
        end = time.monotonic() + 11
        while time.monotonic() < end:
            self.assertEqual((1, None), (worker.metric("runsink_ready"), worker.metric("runsink_trouble") or None), worker.tail())
            time.sleep(0.2)

    def test_a_leftover_is_deleted(self):
        """a retry topic of a delay that is not configured any more, deleted while it is read: no trouble, ready all the time"""
        self.kafka.create(self.topic, 1)
        self.assertExit(0, self.worker(self.settings(retry__delays="4s,5s"), "--until-end"))
        left = [f"{self.topic}.retry.{delay}" for delay in ("4s", "5s")]
        worker = self.quick(retry__delays="700ms")
        rig.await_("all four are read", 30, lambda: worker.metric("runsink_partitions_assigned") == 4, worker)
        self.delete(*left)
        rig.await_("two are not read any more", 30, lambda: worker.metric("runsink_partitions_assigned") == 2, worker)
        self.stays_well(worker)
        self.assertNotIn("cause=", worker.text())
        self.kafka.produce(self.topic, [(b"k", self.text("after"))])
        self.until_settled(worker)
        self.assertEqual(["after"], self.got())
        self.assertFalse([topic for topic in left if topic in self.kafka.topics()])
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_a_matching_topic_is_deleted(self):
        """a source that an expression matches, deleted with its own topics: what fails for it ends with it, the others go on"""
        stem = self.topic
        gone, stays = (self.kafka.create(stem + suffix, 1) for suffix in ("-gone", "-stays"))
        worker = self.quick(topics=f"^{stem}-.*", topics__refresh="1s")
        for topic in gone, stays:
            self.kafka.produce(topic, [(b"k", self.text(topic))])
            self.until_settled(worker, topic=topic)
        self.delete(*[topic for topic in self.kafka.topics() if topic.startswith(gone)])
        rig.await_("it is not read any more", 30, lambda: worker.metric("runsink_partitions_assigned") == 4, worker)
        rig.await_("no trouble", 30, lambda: not worker.metric("runsink_trouble") and worker.metric("runsink_ready") == 1, worker)
        self.stays_well(worker)
        self.kafka.produce(stays, [(b"k", self.text("after"))])
        self.until_settled(worker, topic=stays)
        self.assertFalse([topic for topic in self.kafka.topics() if topic.startswith(gone)])
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_no_creation(self):
        """topics.create = false: a start without them ends with 78 and names what is missing"""
        self.kafka.create(self.topic, 1)
        worker = self.worker(self.settings(topics__create="false"))
        self.assertExit(78, worker)
        self.assertTrue(worker.says(f"{self.topic}.retry.200ms") or worker.says(f"{self.topic}.dead"), worker.tail())

    def test_missing_source(self):
        """a named topic that does not exist (yet): 69, and the message names it"""
        worker = self.worker(self.settings())
        self.assertExit(69, worker)
        self.assertSays(self.topic, worker)

    def test_start_latest(self):
        """start = latest: a new group begins behind what is there"""
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", self.text("old"))])
        worker = self.worker(self.settings(start="latest"))
        rig.await_("a member", 30, lambda: self.kafka.members(self.group) == 1, worker)
        # Membership comes before the assignment is in use: events until one arrives.
        def next_one():
            self.kafka.produce(self.topic, [(b"k", self.text("new"))])
            return self.got()
        rig.await_("a new event", 30, next_one, worker)
        self.until_settled(worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual({"new"}, set(self.got()))

    def test_start_at_a_time(self):
        """start = a time or an age: each partition of a new group begins with its first record from then on, or at its end; check said so"""
        self.kafka.create(self.topic, 4)
        now = int(time.time() * 1000)
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap})
        # The third one is older, and comes after the first that is not.
        ages = {0: (9, 7, 10, 5), 1: (10, 9), 2: (3, 2)}
        for partition, hours in ages.items():
            for hour in hours:
                producer.produce(self.topic, self.text(f"{partition}-{hour}"), partition=partition, timestamp=now - hour * 3600000)
        producer.flush(30)
        begins = {0: 1, 1: 2, 2: 0, 3: 0}
        for start in ("8h", datetime.datetime.fromtimestamp(now / 1000 - 8 * 3600, datetime.timezone.utc).isoformat()):
            group = rig.unique("group")
            worker = self.worker(self.settings(start=start, group=group), command="check")
            self.assertEqual(0, worker.wait(), worker.tail())
            for partition, offset in begins.items():
                self.assertRegex(worker.text(), rf"{self.topic}/{partition}: committed none, .* a new group begins at {offset}\n")
            worker = self.worker(self.settings(start=start, group=group))
            rig.await_("its beginning is committed", 30, lambda: self.kafka.committed(group, self.topic).keys() == begins.keys(), worker)
            self.assertSays("passed_over=3", worker)
            self.group = group
            self.until_settled(worker)
            self.assertEqual(0, worker.stop(), worker.tail())
            self.assertEqual(["0-10", "0-5", "0-7", "2-2", "2-3"], sorted(set(self.got())))
            # It has begun: another time changes nothing.
            worker = self.worker(self.settings(start="9999d", group=group), "--until-end")
            self.assertExit(0, worker)
            self.assertEqual(["0-10", "0-5", "0-7", "2-2", "2-3"], sorted(set(self.got())))
            done = rig.runsink("verify", "--config", worker.config, "--records")
            self.assertEqual(0, done.returncode, done.stdout.decode() + done.stderr.decode())
        worker = self.worker(self.settings(start="2999-01-01T00:00:00Z"))
        self.assertExit(78, worker)
        self.assertSays("lies in the future", worker)

    def test_retention_loss(self):
        """records that retention took before they were read are reported: log, metric and ledger"""
        self.retention_loss(self.settings())

    def test_retention_loss_eager(self):
        """the same with an eager assignor"""
        settings = self.settings()
        settings["kafka"]["partition.assignment.strategy"] = "range"
        self.retention_loss(settings)

    def retention_loss(self, settings):
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", self.text(f"run-{i}")) for i in range(100)])
        self.assertExit(0, self.worker(settings, "--until-end"))
        self.assertEqual(100, len(self.got()))
        self.kafka.produce(self.topic, [(b"k", self.text(f"run-{i}")) for i in range(100, 200)])
        self.kafka.delete_before(self.topic, {0: 150})
        worker = self.worker(settings)
        self.until_settled(worker)
        rig.await_("the rest", 30, lambda: len(self.got()) == 150, worker)
        lost = [line for line in worker.text().splitlines() if "lost" in line or "retention" in line]
        self.assertTrue(lost, worker.tail())
        rig.say(lost[0])
        self.assertIn("100", lost[0])
        self.assertIn("150", lost[0])
        metrics = worker.http("/metrics")
        self.assertTrue([l for l in metrics.splitlines() if "lost" in l and l.endswith(" 50")], metrics)
        self.assertEqual(0, worker.stop(), worker.tail())
        ledger = [record.value for record in self.kafka.consume(self.topic + ".ledger")]
        self.assertTrue([entry for entry in ledger if b'"lost"' in entry], ledger[-3:])

    def test_first_start_after_retention(self):
        """a new group on a topic whose beginning is gone: no loss, it starts at what there is"""
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", self.text(f"run-{i}")) for i in range(10)])
        self.kafka.delete_before(self.topic, {0: 5})
        self.assertExit(0, self.worker(self.settings(), "--until-end"))
        self.assertEqual([f"run-{i}" for i in range(5, 10)], self.got())

    def test_sasl_and_tls(self):
        """SASL PLAIN and TLS listeners; the password in a file of its own"""
        env = rig.services().env
        password = self.dir / "password"
        password.write_text("runsink\n")
        password.chmod(0o600)
        self.kafka.create(self.topic, 1)
        for number, kafka in enumerate((
                {"bootstrap.servers": env["KAFKA_SASL"], "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
                 "sasl.username": "runsink", "sasl.password": f"@{password}"},
                {"bootstrap.servers": env["KAFKA_TLS"], "security.protocol": "SSL", "ssl.ca.location": env["KAFKA_CA"]})):
            self.kafka.produce(self.topic, [(b"k", self.text(f"run-{number}"))])
            self.assertExit(0, self.worker(self.settings(kafka=kafka), "--until-end"))
            self.assertEqual(number + 1, len(self.got()))


if __name__ == "__main__":
    rig.main()
