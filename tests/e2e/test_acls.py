"""A cluster with ACLs: the rights of the table in OPERATIONS.md, and no others, are enough for the worker and for the commands."""
import re
import shutil
import tempfile
import threading
import unittest
from pathlib import Path

from confluent_kafka.admin import AclBinding, AclBindingFilter, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

import events
import rig
from receiver import Receiver

PAGE = Path(__file__).parents[2] / "config/OPERATIONS.md"
KINDS = {"topic": ResourceType.TOPIC, "topics": ResourceType.TOPIC, "group": ResourceType.GROUP,
         "transactional ids": ResourceType.TRANSACTIONAL_ID}


def table():
    """(kind, name, pattern type, the worker's operations, those that the commands need beyond) of each row."""
    text = PAGE.read_text()
    text = text[text.index("## What runsink may do in Kafka"):]
    rows = re.findall(r"^\| (topics?|group|transactional ids) `(\S+)`( \(prefixed\))? \| ([^|]+) \|", text, re.M)
    for kind, name, prefixed, operations in rows:
        own, _, more = operations.partition(";")
        pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
        yield KINDS[kind], name, pattern, own.split(", "), more.split()[:1]


class Acls(unittest.TestCase):
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        """One cluster for all: each test has topics and a group of its own, under which the rights are given."""
        folder = Path(tempfile.mkdtemp(prefix="runsink-acls-"))
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        cls.services = rig.Services(folder, ("kafka",))
        cls.addClassCleanup(cls.services.stop)  # before its folder goes
        with open(folder / "kafka-1/server.properties", "a") as file:
            file.write("\nauthorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
                       "super.users=User:ANONYMOUS\n")
        cls.services.verb("restart", "kafka")
        cls.kafka = cls.services.kafka()

    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)
        self.dir = Path(tempfile.mkdtemp(prefix="runsink-acls-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.topic, self.other, self.group = rig.unique("jobruns"), rig.unique("others"), rig.unique("runsink")
        self.config = self.dir / "runsink.ini"
        self.settings = {
            "topics": self.topic, "group": self.group, "admin.listen": "", "file.root": str(self.dir / "archive"),
            "egress.allow": "127.0.0.0/8", "egress.http": "true", "window.age": "200ms",
            "kafka": {"bootstrap.servers": self.services.env["KAFKA_SASL"], "security.protocol": "SASL_PLAINTEXT",
                      "sasl.mechanism": "PLAIN", "sasl.username": "runsink", "sasl.password": "runsink"}}
        self.config.write_text(rig.config_text(self.settings))
        (self.dir / "archive").mkdir()
        self.kafka.create(self.topic, 2)

    def table(self, topic=None):
        """The rows of the page for that topic and the test's group."""
        for kind, name, *more in table():
            yield kind, name.replace("jobruns", topic or self.topic).replace("runsink", self.group), *more

    def allow(self, kind, name, pattern, operations, permission=AclPermissionType.ALLOW):
        bindings = [AclBinding(kind, name, pattern, "User:runsink", "*", AclOperation[one.upper()], permission)
                    for one in operations]
        if bindings:
            for done in self.kafka.admin.create_acls(bindings).values():
                done.result()

    def deny(self, operation, topic):
        self.allow(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, [operation], AclPermissionType.DENY)

    def take_back_denials(self):
        every = AclBindingFilter(ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.DENY)
        for done in self.kafka.admin.delete_acls([every]).values():
            done.result()

    def says(self, code, *arguments):
        done = rig.runsink(*arguments, "--config", str(self.config), seconds=120)
        text = (done.stdout + done.stderr).decode()
        self.assertEqual(code, done.returncode, f"{arguments}: {text}")
        return text

    def test_no_right_to_the_transactional_id(self):
        """nothing is read or delivered, not ready with the cause, check says it; once the right is given it goes on by itself"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "webhook", "url": receiver.url + "/hook"})))])
        rows = list(self.table())
        for kind, name, pattern, own, more in rows:
            if kind != ResourceType.TRANSACTIONAL_ID:
                self.allow(kind, name, pattern, own + more)
        worker = rig.Worker(self.dir, {name: value for name, value in self.settings.items() if name != "admin.listen"})
        self.addCleanup(worker.kill)
        rig.await_("it listens", 60, lambda: worker.says("admin server listens"), worker)
        rig.await_("the cause", 60, lambda: worker.metric("runsink_trouble", cause="producer-refused") == 1, worker)
        self.assertEqual(0, worker.metric("runsink_ready"))
        self.assertIn("transactional id", self.says(78, "check").lower())
        self.assertEqual([], receiver.requests)
        self.assertEqual({}, self.kafka.committed(self.group, self.topic))
        for kind, name, pattern, own, _ in rows:
            if kind == ResourceType.TRANSACTIONAL_ID:
                self.allow(kind, name, pattern, own)
        rig.await_("it is delivered and settled", 120, lambda: self.kafka.settled(self.group, self.topic), worker)
        self.assertEqual(1, len(receiver.requests))
        rig.await_("ready", 60, lambda: worker.metric("runsink_ready") == 1, worker)
        self.assertEqual(0, worker.stop(), worker.tail())

    def two_sources(self, settings):
        """A worker of both topics, with all rights."""
        self.kafka.create(self.other, 1)
        for topic in self.topic, self.other:
            for kind, name, pattern, own, more in self.table(topic):
                self.allow(kind, name, pattern, own + more)
        worker = rig.Worker(self.dir, {**{name: value for name, value in self.settings.items() if name != "admin.listen"},
                                       "topics": f"{self.topic},{self.other}", **settings})
        self.addCleanup(worker.kill)
        return worker

    def test_no_right_to_read_a_source(self):
        """taken back while records of it are to be settled: Kafka refuses its offsets, too; the other source goes on, and so does this one later"""
        def settled(topic):
            return self.kafka.settled(self.group, topic)

        worker = self.two_sources({"window.age": "4s"})
        for topic in self.topic, self.other:
            self.kafka.produce(topic, [(b"k", b"no event at all")])
            rig.await_("it is settled", 60, lambda: settled(topic), worker)
        read = worker.metric("runsink_records_total")
        self.kafka.produce(self.topic, [(b"k", b"no event either")])
        rig.await_("it is read", 60, lambda: worker.metric("runsink_records_total") == read + 1, worker)
        self.deny("Read", self.topic)
        rig.await_("its offset is refused", 60, lambda: re.search(
            rf"{self.topic}\S*\[0\]\(Broker: Topic authorization failed\)", worker.text()), worker)  # librdkafka 2.8 adds the topic's id
        self.kafka.produce(self.other, [(b"k", b"no event at all")])
        rig.await_("the other source is settled", 60, lambda: settled(self.other), worker)
        self.assertFalse(settled(self.topic))
        self.assertEqual((None, 2), (worker.metric("runsink_trouble", cause="settlement-fails") or None,
                                     worker.metric("runsink_trouble", cause="not-readable")))
        self.take_back_denials()
        rig.await_("it is settled", 120, lambda: settled(self.topic), worker)
        rig.await_("no trouble", 60, lambda: not worker.metric("runsink_trouble") and worker.metric("runsink_ready") == 1, worker)
        self.assertEqual(2, len(self.kafka.consume(f"{self.topic}.dead.data")))
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_a_drain_without_a_right(self):
        """Read on a source is taken back while records of it are held: the drain does not call the brokers unreachable, and says what is left"""
        receiver, go_on = Receiver(), threading.Event()
        self.addCleanup(receiver.close)
        self.addCleanup(go_on.set)
        receiver.play("/held", lambda handler: go_on.wait(60))
        worker = self.two_sources({"window.age": "200ms", "drain.timeout": "8s", "http.timeout": "60s", "ready.patience": "3s"})
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "webhook", "url": receiver.url + "/held"})))])
        rig.await_("it is in work", 60, lambda: receiver.requests, worker)
        self.deny("Read", self.topic)
        rig.await_("it is noticed", 60, lambda: worker.says("not-readable"), worker)
        self.assertEqual(75, worker.stop(), worker.tail())
        self.assertNotIn("brokers-unreachable", worker.text())
        self.assertRegex(worker.text(), "by the next owner.* why=\"a partition can't be read\"")
        self.take_back_denials()

    def test_no_death_without_a_right(self):
        """whoever ends in good order, and could not settle, has not died of what it had in work: nothing is set aside as poison"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        worker = self.two_sources({})
        rig.await_("it runs", 60, lambda: worker.says("partitions assigned"), worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        settings = {name: value for name, value in self.settings.items() if name != "admin.listen"}

        def until_end(code):
            worker = rig.Worker(self.dir, {**settings, "topics": self.topic, "ready.patience": "2s"}, "--until-end")
            self.addCleanup(worker.kill)
            self.assertEqual(code, worker.wait(60), worker.tail())
            return worker

        run = events.run({"type": "webhook", "url": receiver.url + "/hook"}, id="innocent")
        self.kafka.produce(self.topic, [(b"k", events.dump(run))])
        self.deny("Write", f"{self.topic}.ledger")
        for n in range(5):
            worker = until_end(75)
            self.assertEqual(n + 1, len(receiver.to("/hook")), worker.tail())
            self.assertNotIn("deaths=", worker.text())
        self.take_back_denials()
        until_end(0)
        self.assertEqual([], self.kafka.consume(f"{self.topic}.dead.system"))
        self.assertTrue(self.kafka.settled(self.group, self.topic))

    def test_no_right_to_write_an_own_topic(self):
        """one source's own topic: that source waits, named, nothing is delivered twice; the other goes on; check names each"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        topics = self.topic, self.other
        worker = self.two_sources({"retry.delays": "1s", "retry.window.webhook": "300s"})
        self.config = worker.config

        def send(topic, name):
            run = events.run({"type": "webhook", "url": receiver.url + "/" + name}, id=name)
            self.kafka.produce(topic, [(b"k", events.dump(run))])

        def settled(topic):
            return self.kafka.settled(self.group, topic)

        for topic in topics:
            send(topic, "first")
            rig.await_("it is settled", 60, lambda: settled(topic), worker)
        denied = [f"{self.topic}.dead.data", f"{self.topic}.ledger", f"{self.topic}.outcomes", f"{self.topic}.retry.1s"]
        for n, topic in enumerate(denied):
            self.deny("Write", topic)
            receiver.play(f"/park-{n}", 503)
            for name in f"good-{n}", f"park-{n}":
                send(self.topic, name)
            self.kafka.produce(self.topic, [(b"k", b"no event at all")])
            rig.await_("the cause", 60, lambda: f"cause=own-topic-unwritable place={topic} " in worker.text(), worker)
            self.assertEqual(0, worker.metric("runsink_ready"))
            send(self.other, f"meanwhile-{n}")
            rig.await_("the other source is settled", 60, lambda: settled(self.other), worker)
            self.assertEqual(1, worker.metric("runsink_trouble", cause="own-topic-unwritable"))
            self.assertFalse(settled(self.topic))
            self.take_back_denials()
            receiver.play(f"/park-{n}", 200)
            rig.await_("it is settled", 120, lambda: settled(self.topic), worker)
            rig.await_("what was parked is delivered", 60, lambda: receiver.to(f"/park-{n}")[-1:] and worker.metric("runsink_parked_records") == 0, worker)
            rig.await_("ready", 60, lambda: worker.metric("runsink_ready") == 1, worker)
            self.assertEqual([1, 1, n + 1], [len(receiver.to(f"/good-{n}")), len(receiver.to(f"/meanwhile-{n}")),
                                             len(self.kafka.consume(f"{self.topic}.dead.data"))])
        self.assertNotIn("cause=settlement-fails", worker.text())
        self.assertNotIn("starts anew", worker.text())
        self.says(0, "check")
        ends = {topic: self.kafka.ends(topic) for topic in self.kafka.topics() if topic.startswith(topics)}
        for topic in *denied, f"{self.other}.dead.tenant":
            self.deny("Write", topic)
        said = self.says(78, "check")
        self.assertEqual([*denied, f"{self.other}.dead.tenant"], re.findall(r"Write on (\S+) is denied", said))
        self.assertEqual(ends, {topic: self.kafka.ends(topic) for topic in ends})
        self.assertEqual(0, worker.stop(), worker.tail())
        # A transaction without offsets: the coordinator has begun nothing that could be aborted.
        said = self.says(69, "redrive", "--fault", "data", "--yes")
        self.assertRegex(said, f"{self.topic}.(retry.1s|ledger): Broker: Topic authorization failed")
        self.take_back_denials()
        self.assertIn("sent 4 of 4", self.says(0, "redrive", "--fault", "data", "--yes"))
        self.assertIn("sound: every record", self.says(0, "verify", "--records"))

    def test_no_right_to_the_group(self):
        """Read on the group is missing from the start: `run --until-end` ends with 75 and says what to allow"""
        for kind, name, pattern, own, more in self.table():
            self.allow(kind, name, pattern, own + more)
        self.kafka.produce(self.topic, [(b"k", b"no event at all")])
        self.allow(ResourceType.GROUP, self.group, ResourcePatternType.LITERAL, ["Read"], AclPermissionType.DENY)
        worker = rig.Worker(self.dir, {**self.settings, "ready.patience": "3s"}, "--until-end")
        self.addCleanup(worker.kill)
        self.assertEqual(75, worker.wait(60), worker.tail())
        lines = [line for line in worker.text().splitlines() if "level=error" in line and "allow Read on group" in line]
        self.assertTrue(lines, worker.tail())
        self.take_back_denials()
        self.says(0, "run", "--until-end")

    def until_end(self, hidden, topics):
        """What `run --until-end` says that loses sight of a topic while a destination holds what it has read: it ends with 75."""
        receiver, go_on = Receiver(), threading.Event()
        self.addCleanup(receiver.close)
        self.addCleanup(go_on.set)

        def hold(handler):
            go_on.wait(60)
            handler.send_response(204)
            handler.send_header("content-length", "0")
            handler.end_headers()
        receiver.play("/held", hold)
        text = events.dump(events.run({"type": "webhook", "url": receiver.url + "/held"}))
        for topic in topics:
            for kind, name, pattern, own, more in self.table(topic):
                self.allow(kind, name, pattern, own + more)
            self.kafka.produce(topic, [(b"k", text)] * 20)
        settings = {**self.settings, "topics": ",".join(topics), "ready.patience": "3s", "window.records": "2", "window.inflight": "2",
                    "window.grace": "60s", "drain.timeout": "1s", "http.timeout": "60s"}
        settings["kafka"] = {**settings["kafka"], "topic.metadata.refresh.interval.ms": 500}
        worker = rig.Worker(self.dir, settings, "--until-end")
        self.addCleanup(worker.kill)
        rig.await_("it has begun", 60, lambda: len(receiver.requests) >= 2 * len(topics), worker)
        self.deny("Describe", hidden)
        rig.await_("it is missed", 60, lambda: worker.says("topic-unavailable"), worker)
        go_on.set()
        self.assertEqual(75, worker.wait(60), worker.tail())
        lines = [line for line in worker.text().splitlines() if "level=error" in line and "before the end" in line]
        self.assertTrue([line for line in lines if f"topic={hidden} " in line + " "], worker.tail())

    def test_until_end_loses_sight_of_a_source(self):
        """Describe is taken back under `run --until-end`: 75, that topic is named, the other source is read to its end"""
        self.kafka.create(self.other, 1)
        self.until_end(self.topic, (self.topic, self.other))
        self.assertTrue(self.kafka.settled(self.group, self.other))

    def test_until_end_loses_sight_of_a_retry_topic(self):
        """the same of a retry topic, in which nothing waits: what can be delivered is, and after ready.patience it ends"""
        self.until_end(f"{self.topic}.retry.10s", (self.topic,))
        self.assertTrue(self.kafka.settled(self.group, self.topic))

    def test_check_names_each_right(self):
        """taken away one at a time: `check` ends with 78 and says what to allow, without having changed anything; run would not do all of its work"""
        for kind, name, pattern, own, more in self.table():
            self.allow(kind, name, pattern, own + more)
        self.kafka.produce(self.topic, [(b"k", b"no event at all")])
        retry, ledger, dead, outcomes = (f"{self.topic}.{name}" for name in ("retry.10s", "ledger", "dead.data", "outcomes"))
        self.says(0, "run", "--until-end")
        self.says(0, "check")
        ends = {topic: self.kafka.ends(topic) for topic in self.kafka.topics() if topic.startswith(self.topic)}
        ids = f"{self.group}/"
        cases = [(ResourceType.TOPIC, name, operation) for name in (self.topic, retry, ledger) for operation in ("Read", "Describe")]
        cases += [(ResourceType.TOPIC, name, "Write") for name in (retry, ledger, dead, outcomes)]
        cases += [(ResourceType.TOPIC, dead, "Read"), (ResourceType.GROUP, self.group, "Read"), (ResourceType.GROUP, self.group, "Describe"),
                  (ResourceType.TRANSACTIONAL_ID, ids, "Write"), (ResourceType.TRANSACTIONAL_ID, ids, "Describe")]
        missed = []
        for kind, name, operation in cases:
            pattern = ResourcePatternType.PREFIXED if kind == ResourceType.TRANSACTIONAL_ID else ResourcePatternType.LITERAL
            self.allow(kind, name, pattern, [operation], AclPermissionType.DENY)
            done = rig.runsink("check", "--config", str(self.config), seconds=120)
            text = (done.stdout + done.stderr).decode()
            what = "Write and Describe on the transactional ids" if kind == ResourceType.TRANSACTIONAL_ID else operation + " on"
            want = rf"allow {what} (group )?{re.escape(name)}"
            if done.returncode != 78 or not re.search(want, text):
                missed.append((name, operation, done.returncode, text[-1500:]))
            self.take_back_denials()
        # A topic that is missing, and no right to make it.
        self.settings["retry.delays"] = "10s,20s,40s,80s,120s,700s"
        self.config.write_text(rig.config_text(self.settings))
        self.deny("Create", f"{self.topic}.retry.700s")
        done = rig.runsink("check", "--config", str(self.config), seconds=120)
        text = (done.stdout + done.stderr).decode()
        if done.returncode != 78 or f"allow Create on {self.topic}.retry.700s" not in text:
            missed.append(("Create", done.returncode, text[-1500:]))
        self.take_back_denials()
        self.says(0, "check")
        self.assertNotIn(f"{self.topic}.retry.700s", self.kafka.topics())
        self.assertEqual(ends, {topic: self.kafka.ends(topic) for topic in ends})
        self.assertEqual([], missed, "\n".join(str(one[:-1]) + "\n" + one[-1] for one in missed))

    def test_acls(self):
        """run settles, parks and buries; check, verify, trace and redrive see what they need to"""
        rows = list(self.table())
        self.assertEqual(8, len(rows))
        nobody = f"http://127.0.0.1:{rig.free_port()}/hook"
        for sink in ({"type": "file", "path": "acme"}, {"type": "webhook", "url": nobody}):
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink)))])
        self.kafka.produce(self.topic, [(b"k", b"no event at all")])
        # The test would say nothing if everything were allowed anyway.
        self.assertNotEqual(0, rig.runsink("check", "--config", str(self.config)).returncode)

        for kind, name, pattern, own, _ in rows:
            self.allow(kind, name, pattern, own)
        text = self.says(75, "run", "--until-end")
        self.assertIn("delivered=1 skipped=0 parked=1 dead_tenant=0 held=0 dead_data=1", text)
        self.assertNotIn("authoriz", text.lower())

        for kind, name, pattern, _, more in rows:
            self.allow(kind, name, pattern, more)
        checked = self.says(0, "check")
        self.assertIn("parked, waiting for another attempt: 1", checked)
        self.assertIn("dead letters that lie open: 1", checked)
        self.assertIn("sound: every record", self.says(0, "verify", "--objects", "--records"))
        self.assertIn("sent 1 of 1", self.says(0, "redrive", "--fault", "data", "--yes"))
        run = self.kafka.consume(self.topic)[0].value
        identity = re.search(rb'"id": ?"([^"]+)"', run)[1].decode()
        self.assertIn("delivered to file://", self.says(0, "trace", identity))


if __name__ == "__main__":
    rig.main()
