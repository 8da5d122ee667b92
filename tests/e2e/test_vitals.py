"""What keeps events from flowing is told, with its cause: /readyz, metrics, status page and log, at the beginning and at the end."""
import json
import time
import urllib.error

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import (AclBinding, AclBindingFilter, AclOperation, AclPermissionType, NewPartitions,
                                   ResourcePatternType, ResourceType)

import events
import rig
from browser import CHROMIUM, Browser
from receiver import Receiver


class Vitals(rig.Case):
    """A broker of its own, with ACLs, at its SASL listener."""

    def setUp(self):
        super().setUp()
        self.own = rig.Services(self.dir / "services", ("kafka",))
        self.addCleanup(self.own.stop)
        self.kafka = self.own.kafka()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    def settings(self, **more):
        settings = super().settings(ready__patience="6s", **more)
        settings["kafka"].update({"bootstrap.servers": self.own.env["KAFKA_SASL"], "security.protocol": "SASL_PLAINTEXT",
                                  "sasl.mechanism": "PLAIN", "sasl.username": "runsink", "sasl.password": "runsink"})
        return settings

    def send(self, name, topic=None):
        run = events.run({"type": "webhook", "url": self.receiver.url + "/hook"}, id=name)
        self.kafka.produce(topic or self.topic, [(b"k", events.dump(run))])

    def got(self):
        return {json.loads(r.body)["id"] for r in self.receiver.requests}

    def ready(self, worker):
        """(status, text) of /readyz."""
        try:
            return 200, worker.http("/readyz")
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def until_unready(self, worker, words):
        rig.await_(f"it is not ready: {words}", 40, lambda: (r := self.ready(worker))[0] == 503 and words in r[1], worker)

    def until_ready(self, worker):
        rig.await_("it is ready", 40, lambda: self.ready(worker) == (200, "ready\n"), worker)

    def troubles(self, worker):
        return {(t["cause"], t["place"]) for t in json.loads(worker.http("/status.json"))["troubles"]}

    def acl(self, topic, who, operation, permission):
        binding = AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, who, "*", operation, permission)
        for done in self.kafka.admin.create_acls([binding]).values():
            done.result()

    def page(self, worker):
        """What the status page says first, on a small screen."""
        browser = Browser()
        try:
            browser.open(f"http://127.0.0.1:{worker.admin_port}/", 390, 800)
            browser.until("document.querySelector('#troubles li') !== null", 20)
            return browser.js("[document.getElementById('verdict').className, document.getElementById('verdict').textContent]")
        finally:
            browser.close()

    def assertLogged(self, worker, phrase, times=1):
        found = [line for line in worker.text().splitlines() if phrase in line]
        self.assertEqual(times, len(found), worker.tail(60))

    def test_brokers(self):
        """the broker is killed, comes back and refuses the password, then takes it again: told each time, once"""
        self.kafka.create(self.topic, 2)
        self.send("before")
        worker = self.worker()
        rig.await_("the first event", 30, lambda: self.got() == {"before"}, worker)
        self.until_ready(worker)
        self.assertEqual(0, worker.metric("runsink_trouble", cause="brokers-unreachable"))
        self.own.verb("kill", "kafka")
        self.until_unready(worker, "brokers unreachable")
        self.assertEqual({("brokers-unreachable", "")}, {t for t in self.troubles(worker) if t[0] != "no-assignment"})
        self.assertEqual(1, worker.metric("runsink_trouble", cause="brokers-unreachable"))
        self.assertGreaterEqual(worker.metric("runsink_trouble_seconds", cause="brokers-unreachable"), 3)
        self.assertGreaterEqual(worker.metric("runsink_broker_contact_seconds"), 3)
        self.assertEqual(0, worker.metric("runsink_ready"))
        if CHROMIUM:
            level, text = self.page(worker)
            self.assertEqual(("bad", "Events do not flow: brokers unreachable."), (level, text[:40]))
        code = rig.runsink("health", "--ready", "--config", worker.config)
        self.assertEqual(69, code.returncode)
        self.assertIn(b"brokers unreachable", code.stderr)

        properties = self.own.dir / "kafka-1/server.properties"
        right = properties.read_text() + ("\nauthorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
                              "super.users=User:ANONYMOUS\nallow.everyone.if.no.acl.found=true\n")
        properties.write_text(right.replace('user_runsink="runsink"', 'user_runsink="rotated"'))
        self.own.verb("restart", "kafka")
        self.until_unready(worker, "refuse the credentials")
        self.assertIn(("credentials-refused", ""), self.troubles(worker))
        properties.write_text(right)
        self.own.verb("restart", "kafka")
        self.until_ready(worker)
        self.send("after")
        rig.await_("an event after it", 60, lambda: "after" in self.got(), worker)
        rig.await_("contact", 10, lambda: worker.metric("runsink_broker_contact_seconds") < 3, worker)
        self.assertEqual(0, worker.metric("runsink_trouble"))
        self.assertLogged(worker, "brokers unreachable")
        self.assertLogged(worker, "the brokers refuse the credentials")
        self.assertNotIn("rotated", worker.text())

        # Read on a retry topic and on the source is taken away and given back.
        topics = (f"{self.topic}.retry.400ms", self.topic)
        for topic in topics:
            self.acl(topic, "User:*", AclOperation.ALL, AclPermissionType.ALLOW)
            self.acl(topic, "User:runsink", AclOperation.READ, AclPermissionType.DENY)
        places = {("not-readable", f"{topic}/{partition}") for topic in topics for partition in (0, 1)}
        rig.await_("it is told", 30, lambda: self.troubles(worker) == places, worker)
        self.until_unready(worker, "a partition can't be read: ")
        states = {p["topic"]: p["state"] for p in json.loads(worker.http("/status.json"))["partitions"]}
        self.assertEqual({"not readable"}, {states[topic] for topic in topics})
        done = rig.runsink("check", "--config", worker.config)
        self.assertEqual(78, done.returncode, done.stdout + done.stderr)
        for _, place in places:
            self.assertIn(f"can't read {place}".encode(), done.stderr)
        denied = AclBindingFilter(ResourceType.TOPIC, None, ResourcePatternType.ANY, "User:runsink", "*", AclOperation.READ,
                                  AclPermissionType.DENY)
        for done in self.kafka.admin.delete_acls([denied]).values():
            done.result()
        self.until_ready(worker)
        self.assertEqual(0, worker.stop(), worker.tail())


class Reading(rig.Case):
    """Where reading begins, what holds it, and what is said of it; on the shared broker."""

    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    def text(self, name, path="/hook"):
        return events.dump(events.run({"type": "webhook", "url": self.receiver.url + path}, id=name))

    def send(self, *names, topic=None, partition=0, path="/hook"):
        self.kafka.produce(topic or self.topic, [(b"k", self.text(name, path)) for name in names], partition)

    def got(self):
        return sorted(json.loads(r.body)["id"] for r in self.receiver.requests)

    def check(self, settings, code=0):
        config = self.dir / "check.ini"
        config.write_text(rig.config_text({"admin.listen": "", **settings}))
        done = rig.runsink("check", "--json", "--config", str(config))
        self.assertEqual(code, done.returncode, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def status(self, worker):
        return json.loads(worker.http("/status.json"))

    def state(self, worker, topic=None, partition=0):
        for p in self.status(worker)["partitions"]:
            if (p["topic"], p["partition"]) == (topic or self.topic, partition):
                return p
        return {"state": None}

    def transaction(self):
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": rig.unique("txn"), "log_level": 2})
        producer.init_transactions(30)
        producer.begin_transaction()
        return producer

    def test_new_partition_beside_an_open_transaction(self):
        """its ledger is to be read first, and a stranger's transaction is open there: told, with the ledger as the place; it goes on once that ends"""
        self.kafka.create(self.topic, 1)
        settings = self.settings(ready__patience="2s")
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 500
        worker = self.worker(settings)
        self.send("first")
        self.until_settled(worker)
        ledger = self.topic + ".ledger"
        stranger = self.kafka.open_transaction(ledger)
        self.kafka.admin.create_partitions([NewPartitions(self.topic, 2)])[self.topic].result()
        rig.await_("the broker has it", 30, lambda: len(self.kafka.topics(self.topic)[self.topic].partitions) == 2)
        self.kafka.produce(self.topic, [(b"k", self.text("second"))], 1)
        rig.await_("held is told", 60, lambda: [t for t in self.status(worker)["troubles"] if t["cause"] == "held-by-transaction"], worker)
        trouble, = [t for t in self.status(worker)["troubles"] if t["cause"] == "held-by-transaction"]
        self.assertEqual(ledger + "/0", trouble["place"])
        self.assertEqual("waits until the ledger is read", self.state(worker, partition=1)["state"])
        self.assertEqual(1, worker.metric("runsink_trouble", cause="held-by-transaction"))
        self.assertGreater(worker.metric("runsink_held_by_transaction_seconds"), 1)
        self.assertIn("held-by-transaction", worker.text())
        stranger.abort_transaction(30)
        self.until_settled(worker)
        self.assertEqual(["first", "second"], self.got())
        rig.await_("no trouble", 30, lambda: not worker.metric("runsink_trouble", cause="held-by-transaction"), worker)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_open_transaction(self):
        """records behind an open transaction: told as held, lag counts them; --until-end ends with 75 and says so"""
        self.kafka.create(self.topic, 1)
        self.send("before")
        producer = self.transaction()
        producer.produce(self.topic, self.text("open"))
        producer.flush(30)
        self.send("behind-1", "behind-2")
        settings = self.settings(ready__patience="2s")
        worker = self.worker(settings, "--until-end")
        self.assertExit(75, worker)
        self.assertSays("the end is not reached", worker)
        self.assertSays("open transaction", worker)
        found, = self.check(settings)["partitions"]
        self.assertEqual((1, 4, 3, 3), tuple(found[name] for name in ("committed", "high", "lag", "held")))
        worker = self.worker(settings)
        rig.await_("the admin server listens", 30, lambda: worker.says("admin server listens"), worker)
        # A busy machine's broker may be silent for longer than this short patience, and is heard again.
        held = lambda: [t for t in self.status(worker)["troubles"] if t["cause"] != "brokers-unreachable"]
        rig.await_("held is told", 30, held, worker)
        trouble, = held()
        self.assertEqual(("held-by-transaction", self.topic + "/0", "3 offsets from 1 on"),
                         (trouble["cause"], trouble["place"], trouble["detail"]))
        self.assertEqual(("held by an open transaction", 3), (self.state(worker)["state"], self.state(worker)["lag"]))
        self.assertEqual(3, worker.metric("runsink_partition_lag_records", topic=self.topic))
        self.assertGreaterEqual(worker.metric("runsink_held_by_transaction_seconds"), 1)
        rig.await_("it is ready all the same", 10, lambda: worker.http("/readyz").splitlines()[:1] == ["ready"], worker)
        self.assertIn("open transaction", worker.http("/readyz"))
        self.assertEqual(["before"], self.got())
        producer.commit_transaction(30)
        rig.await_("all that was held", 30, lambda: len(self.got()) == 4, worker)
        rig.await_("no trouble is left", 10, lambda: not self.status(worker)["troubles"], worker)
        rig.await_("it is at the end", 10, lambda: self.state(worker)["state"] == "at the end", worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        # Of what lies between, a marker, no record can come: that is no lag, anywhere.
        producer.begin_transaction()
        producer.produce(self.topic, self.text("aborted"))
        producer.flush(30)
        producer.abort_transaction(30)
        found, = self.check(settings)["partitions"]
        self.assertGreater(found["high"], found["committed"])
        self.assertEqual((0, 0), (found["lag"], found["held"]))
        self.assertExit(0, self.worker(settings, "--until-end"))

    def test_open_transaction_among_parked(self):
        """parked records behind an open transaction: --until-end waits, and ends with 75; once that is over it delivers them"""
        for name, delays in (("configured", "400ms"), ("left over", "500ms")):
            with self.subTest(name):
                topic = self.kafka.create(rig.unique("runs"), 1)
                settings = self.settings(topics=topic, retry__delays="400ms", ready__patience="3s")
                self.assertExit(0, self.worker(settings, "--until-end"))
                producer = self.transaction()
                producer.produce(topic + ".retry.400ms", b"of somebody else", partition=0)
                producer.flush(30)
                self.receiver.play("/hook/" + topic, 503)
                self.send(topic, topic=topic, path="/hook/" + topic)
                self.assertExit(75, self.worker(settings, "--until-end"))  # it was parked by this run
                self.receiver.play("/hook/" + topic, 200)
                settings = {**settings, "retry.delays": delays}
                worker = self.worker(settings, "--until-end")
                self.assertExit(75, worker)
                self.assertSays("the end is not reached", worker)
                self.assertSays("open transaction", worker)
                def waiting():
                    worker = self.worker({**settings, "ready.patience": "60s"}, "--until-end")
                    rig.await_("the admin server listens", 30, lambda: worker.says("admin server listens"), worker)
                    rig.await_("it waits", 30, lambda: worker.metric("runsink_held_by_transaction_seconds"), worker)
                    return worker

                self.assertEqual(75, waiting().stop())
                worker = waiting()
                producer.abort_transaction(30)
                self.assertExit(0, worker)
                self.assertEqual(200, self.receiver.to("/hook/" + topic)[-1].answered)

    def test_latest_begins_once(self):
        """start = latest: what appears after the group has begun, a partition or a topic, is read from its first record"""
        self.kafka.create(self.topic, 1)
        self.send("old")
        settings = self.settings(topics=f"^{self.topic}(-b)?$", start="latest", topics__refresh="500ms", lanes=2)
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 1000
        worker = self.worker(settings)
        rig.await_("the beginning is committed", 30, lambda: self.kafka.committed(self.group, self.topic) == {0: 1}, worker)
        self.kafka.admin.create_partitions([NewPartitions(self.topic, 3)])[self.topic].result()
        late = self.kafka.create(self.topic + "-b", 2)
        rig.await_("the new partitions", 30, lambda: len(self.kafka.topics()[self.topic].partitions) == 3)
        new = []
        for topic, partitions in ((self.topic, (1, 2)), (late, (0, 1))):
            for partition in partitions:
                names = [f"{topic[-2:]}-{partition}-{i}" for i in range(5)]
                self.send(*names, topic=topic, partition=partition)
                new += names
        rig.await_("all of the new", 60, lambda: set(self.got()) >= set(new), worker)
        self.assertEqual(sorted(new), self.got())
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_expired_offsets(self):
        """the group's offsets expired: told, taken from the ledger; nothing, parked records least, is sent twice"""
        self.receiver.play("/sick", 500)
        self.kafka.create(self.topic, 2)
        self.send("a", "b")
        self.send("sick", path="/sick")
        settings = self.settings(retry__delays="1s,1h", retry__window__webhook="2h")
        worker = self.worker(settings)
        calls = lambda: [r.path for r in self.receiver.requests].count("/sick")
        rig.await_("two attempts", 30, lambda: calls() == 2, worker)
        self.until_settled(worker)
        rig.await_("the parked record is settled", 30,
                   lambda: self.kafka.committed(self.group, self.topic + ".retry.1s").get(0) == 1, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        rig.await_("the group is gone", 30, self.forget_group)
        self.send("c")
        self.send("d", partition=1)
        for start in ("latest", "earliest"):
            settings["start"] = start
            worker = self.worker(settings)
            rig.await_("what is new", 30, lambda: {"c", "d"} <= set(self.got()), worker)
            self.until_settled(worker)
            self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual(["a", "b", "c", "d", "sick", "sick"], self.got())
        self.assertIn("they have expired", self.workers[-2].text())
        self.assertEqual({0: 4, 1: 1}, self.kafka.committed(self.group, self.topic))
        done = rig.runsink("verify", "--config", worker.config)
        self.assertIn(b"sound", done.stdout, done.stdout + done.stderr)

    def forget_group(self):
        try:
            self.kafka.admin.delete_consumer_groups([self.group])[self.group].result()
        except KafkaException:
            return False  # it has members yet
        return True

    def test_made_anew(self):
        """the source is deleted and made anew at once: named, and read from its first record"""
        self.kafka.create(self.topic, 1)
        self.send(*[f"old-{i}" for i in range(30)])
        settings = self.settings()
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 60000
        worker = self.worker(settings)
        rig.await_("the old ones", 30, lambda: len(self.got()) == 30, worker)
        self.until_settled(worker)
        self.kafka.admin.delete_topics([self.topic])[self.topic].result()

        def again():
            try:
                return self.kafka.create(self.topic, 1)
            except KafkaException:
                return False  # the old one is not gone yet

        rig.await_("the topic is made anew", 30, again)
        self.send(*[f"new-{i}" for i in range(10)])
        rig.await_("the new ones", 60, lambda: len(self.got()) == 40, worker)
        self.assertEqual({f"new-{i}" for i in range(10)}, set(self.got()[:10]))
        self.assertSays("deleted and made anew", worker)
        self.until_settled(worker)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_wrong_clock(self):
        """a record that a worker with a wrong clock parked holds up nothing for longer than its topic's delay"""
        topics = [self.topic + "-a", self.topic + "-c"]
        for topic, timestamp_type in zip(topics, ("LogAppendTime", "CreateTime")):
            self.kafka.create(topic, 1)
            retry = self.kafka.create(topic + ".retry.1s", 1, message_timestamp_type=timestamp_type)
            for offset, ahead in ((0, 3000), (1, 3000), (2, 0)):
                now = time.time()
                headers = {"runsink-origin": f"{topic}/0/{offset}", "runsink-first-failure": int(now * 1000),
                           "runsink-due": int((now + ahead) * 1000), "runsink-attempts": 1, "runsink-why": "http-500",
                           "runsink-timestamp": int(now * 1000), "runsink-group": self.group}
                self.kafka.produce(retry, [(b"k", self.text(f"{timestamp_type}-{offset}"))], headers=headers.items())
        worker = self.worker(self.settings(topics=",".join(topics), retry__delays="1s"))
        rig.await_("those behind it", 30, lambda: len(self.got()) == 6, worker)
        self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
