"""What runsink's own topics refuse, and own topics that vanish: the record, or the source, that it concerns, and nobody else."""
import contextlib
import hashlib
import json
import os
import re

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, ResourceType

import events
import rig
from receiver import Receiver


class Refused(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.other = self.topic + "-b"
        self.kafka.create(self.topic, 3)
        self.kafka.create(self.other, 1)
        self.sent = 0

    def event(self, name, bytes=0, path="/hook"):
        """Of about that size, and nothing in it can be compressed."""
        return events.dump(events.run({"type": "webhook", "url": self.receiver.url + path}, id=name, filler=os.urandom(bytes // 2).hex()))

    def got(self, path):
        return sorted({json.loads(r.body)["id"] for r in self.receiver.to(path)})

    def alter(self, topic, **settings):
        entries = [ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
                   for name, value in settings.items()]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for done in self.kafka.admin.incremental_alter_configs([resource]).values():
            done.result()

    def delete(self, *topics):
        for done in self.kafka.admin.delete_topics(list(topics)).values():
            done.result()

    def both(self, **more):
        return self.settings(topics=f"{self.topic},{self.other}", retry__window__webhook="60s", **more)

    def running(self, settings, **options):
        """A worker that has its own topics and has settled something of both sources."""
        worker = self.worker(settings, **options)
        for topic in self.topic, self.other:
            self.kafka.produce(topic, [(b"k", self.event("first", path="/first"))])
            self.until_settled(worker, topic=topic)
        return worker

    def other_goes_on(self, worker):
        self.sent += 1
        self.kafka.produce(self.other, [(b"k", self.event(f"other-{self.sent}", path="/other"))])
        self.until_settled(worker, topic=self.other)

    def assertMarker(self, record, text, offset):
        marker = json.loads(record.value)
        self.assertEqual((self.topic, 0, offset, len(text), hashlib.sha256(text).hexdigest()),
                         (marker["topic"], marker["partition"], marker["offset"], marker["bytes"], marker["sha256"]))
        self.assertEqual(str(len(text)), record.headers["runsink-marker"])
        self.assertEqual(f"{self.topic}/0/{offset}", record.headers["runsink-origin"])

    def test_a_record_too_large(self):
        """a retry and a dead topic that take 20,000 bytes: what is larger is buried by a marker and named, all else goes on"""
        worker = self.running(self.both())
        for topic in self.kafka.topics():
            if topic.startswith(self.topic + ".retry.") or topic == self.topic + ".dead.data":
                self.alter(topic, max_message_bytes=20000)
        self.receiver.play("/hook", 503)
        large, broken = self.event("large", 30000), b"{" + os.urandom(15000).hex().encode()
        start = self.kafka.ends(self.topic)[0]
        # One batch of the producer's holds far more than 20,000 bytes.
        texts = [self.event(f"run-{i}", 3000) for i in range(60)] + [large, broken]
        self.kafka.produce(self.topic, [(b"k", text) for text in texts])
        self.until_settled(worker)
        self.receiver.play("/hook", 200)
        self.other_goes_on(worker)
        rig.await_("the others come back and are delivered", 60, self.quiet, worker)
        self.assertEqual(sorted([f"run-{i}" for i in range(60)] + ["large"]), self.got("/hook"))
        letters = {r.headers["runsink-reason"]: r for r in self.dead("data")}
        self.assertEqual(2, len(letters), letters)
        self.assertMarker(letters.pop("refused-by-topic"), large, start + 60)
        self.assertMarker(letters.popitem()[1], broken, start + 61)
        for offset in start + 60, start + 61:
            self.assertTrue([line for line in worker.text().splitlines()
                             if "a marker stands for it" in line and f"topic={self.topic} partition=0 offset={offset} " in line])
        self.assertEqual(2, worker.metric("runsink_refused_records_total"))
        self.assertEqual(0, worker.stop(), worker.tail())
        sound = rig.runsink("verify", "--records", "--config", worker.config)
        self.assertEqual(0, sound.returncode, sound.stdout)
        dry = rig.runsink("redrive", "--dry-run", "--config", worker.config)
        self.assertIn("2  others only stand for records", dry.stdout.decode())

    def test_timestamps_that_a_topic_refuses(self):
        """a clock five minutes behind, and a retry topic that takes one minute: it takes nothing at all, which is no event's fault: named,
        nothing dies, the other source goes on"""
        library = rig.RUNSINK.parent / "tests" / "libwrong_clock.so"
        worker = self.running(self.both(), env={"LD_PRELOAD": str(library), "WRONG_CLOCK": "-300"})
        retry = self.topic + ".retry.200ms"
        self.alter(retry, message_timestamp_type="CreateTime", message_timestamp_before_max_ms=60000)
        self.receiver.play("/hook", 503)
        self.kafka.produce(self.topic, [(b"k", self.event(f"run-{i}")) for i in range(3)])
        rig.await_("the cause", 60, lambda: f"cause=own-topic-unwritable place={retry} " in worker.text(), worker)
        self.assertSays("message.timestamp.before.max.ms", worker)
        self.other_goes_on(worker)
        self.assertEqual([], self.dead("data") + self.dead("system"))
        said = rig.runsink("check", "--config", worker.config)
        self.assertEqual(78, said.returncode, said.stdout + said.stderr)
        self.assertIn(f"{retry}: message.timestamp.before.max.ms=60000 may have it refuse", said.stdout.decode())
        self.receiver.play("/hook", 200)
        self.alter(retry, message_timestamp_type="LogAppendTime")
        self.until_settled(worker, 90)
        rig.await_("they are delivered", 60, lambda: self.quiet() and len(self.got("/hook")) == 3, worker)
        self.assertEqual([], self.dead("data") + self.dead("system"))
        self.assertEqual(0, worker.metric("runsink_refused_records_total"))
        self.assertEqual(0, rig.runsink("check", "--config", worker.config).returncode)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_redrive_of_a_letter_too_large(self):
        """a letter that the retry topic would not take stays, and the others go back"""
        worker = self.running(self.both(retry__permanent="dead"))
        self.receiver.play("/hook", 410)
        for name, bytes in ("large", 30000), ("small", 100):
            self.kafka.produce(self.topic, [(b"k", self.event(name, bytes))])
        rig.await_("two dead letters", 60, lambda: len(self.dead("tenant")) == 2, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.alter(self.topic + ".retry.200ms", max_message_bytes=20000)
        said = rig.runsink("redrive", "--yes", "--config", worker.config)
        self.assertEqual(0, said.returncode, said.stdout + said.stderr)
        self.assertIn("1  others are larger than the topic takes", said.stdout.decode())
        self.assertIn("sent 1 of 1", said.stdout.decode())

    def test_a_member_of_a_batch(self):
        """a batch that can't be parked whole dies whole: its other members as themselves"""
        sink = {"type": "s3", "bucket": "bucket", "accessKeyId": "key", "secretAccessKey": "secret", "region": "us-east-1",
                "endpoint": self.receiver.url + "/store", "forcePathStyle": True}
        worker = self.running(self.both(archive="batch", batch__age="500ms"))
        for topic in self.kafka.topics():
            if topic.startswith(self.topic + ".retry."):
                self.alter(topic, max_message_bytes=20000)
        self.receiver.play("/store", 503)
        texts = [events.dump(events.run(sink, id=name, filler=os.urandom(n).hex())) for name, n in (("a", 9), ("b", 20000), ("c", 9))]
        start = self.kafka.ends(self.topic)[0]
        self.kafka.produce(self.topic, [(b"k", text) for text in texts])
        rig.await_("three dead letters", 60, lambda: len(self.dead("data")) == 3, worker)
        letters = sorted(self.dead("data"), key=lambda r: r.headers["runsink-origin"])
        self.assertEqual([texts[0], texts[2]], [letters[0].value, letters[2].value])
        self.assertMarker(letters[1], texts[1], start + 1)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual(0, rig.runsink("verify", "--records", "--config", worker.config).returncode)

    def test_a_compacted_topic(self):
        """a record without a key, which a compacted dead topic refuses: a marker with a key stands for it"""
        worker = self.running(self.both())
        self.alter(self.topic + ".dead.data", cleanup_policy="compact")
        start = self.kafka.ends(self.topic)[0]
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap})
        producer.produce(self.topic, b"broken", partition=0)
        producer.flush(30)
        self.until_settled(worker)
        letter, = self.dead("data")
        self.assertMarker(letter, b"broken", start)
        self.assertEqual(f"{self.topic}/0/{start}".encode(), letter.key)

    def test_a_topic_that_takes_nothing(self):
        """a dead topic that refuses even a marker: its source waits, not ready, with the cause; the other source goes on"""
        worker = self.running(self.both())
        dead = self.topic + ".dead.data"
        self.alter(dead, max_message_bytes=200)
        self.kafka.produce(self.topic, [(b"k", b"broken")])
        rig.await_("the cause", 30, lambda: worker.metric("runsink_trouble", cause="own-topic-unwritable") == 1, worker)
        self.assertEqual(0, worker.metric("runsink_ready"))
        self.other_goes_on(worker)
        self.assertFalse(self.kafka.settled(self.group, self.topic))
        self.alter(dead, max_message_bytes=100000)
        self.until_settled(worker)
        rig.await_("ready", 30, lambda: worker.metric("runsink_ready") == 1, worker)
        self.assertEqual(1, len(self.dead("data")))

    def test_it_ends_where_nothing_can_be_settled(self):
        """SIGTERM is not waited out, and --until-end has an end: 75 and the cause; the next run settles what is left"""
        worker = self.running(self.both(drain__timeout="300s"))
        dead = self.topic + ".dead.data"
        self.alter(dead, max_message_bytes=200)
        self.kafka.produce(self.topic, [(b"k", b"broken")])
        rig.await_("the cause", 30, lambda: worker.metric("runsink_trouble", cause="own-topic-unwritable") == 1, worker)
        self.assertEqual(75, worker.stop(), worker.tail())
        self.assertSays("can't be settled now is left", worker)
        self.kafka.produce(self.other, [(b"k", self.event("other", path="/other"))])
        worker = self.worker(self.both(drain__timeout="300s", ready__patience="3s"), "--until-end")
        self.assertExit(75, worker)
        self.assertSays("what is left is for the next run", worker)
        self.assertSays(dead, worker)
        self.assertTrue(self.kafka.settled(self.group, self.other))
        self.assertFalse(self.kafka.settled(self.group, self.topic))
        self.alter(dead, max_message_bytes=100000)
        worker = self.worker(self.both(), "--until-end")
        self.assertExit(0, worker)
        self.assertEqual(1, len(self.dead("data")))

    def test_check_compares_settings(self):
        """check says what to change of own topics that would lose or refuse what lies in them, and exits with 78"""
        self.running(self.both()).stop()
        config = self.workers[0].config
        good = rig.runsink("check", "--config", config)
        self.assertEqual((0, False), (good.returncode, b"HAVE TO CHANGE" in good.stdout), good.stdout)
        self.alter(self.topic + ".retry.400ms", message_timestamp_type="CreateTime")
        good = rig.runsink("check", "--config", config)
        self.assertEqual(0, good.returncode, good.stdout)
        self.assertIn(f"{self.topic}.retry.400ms: message.timestamp.type=CreateTime", good.stdout.decode())
        self.alter(self.topic, max_message_bytes=20000000)
        self.alter(self.topic + ".retry.200ms", retention_ms=3600000)
        self.alter(self.topic + ".dead.tenant", cleanup_policy="compact")
        self.alter(self.topic + ".ledger", max_message_bytes=100000)
        bad = rig.runsink("check", "--config", config)
        said = bad.stdout.decode()
        self.assertEqual(78, bad.returncode, said)
        for topic, advice in (("retry.200ms", "retention.ms=-1"), ("dead.tenant", "cleanup.policy=delete"),
                              ("ledger", "max.message.bytes=16777216"), ("retry.400ms", "max.message.bytes=21048576")):
            self.assertTrue([line for line in said.splitlines() if f"{self.topic}.{topic}: " in line and advice in line], said)
        self.assertNotIn(f"{self.other}.", said[said.index("HAVE TO CHANGE"):said.index("\ngroup ")])
        # Those that are made now are made for what the source takes.
        self.delete(self.topic + ".retry.200ms")
        rig.await_("it is gone", 30, lambda: self.topic + ".retry.200ms" not in self.kafka.topics())
        self.running(self.both()).stop()
        said = rig.runsink("check", "--config", config).stdout.decode()
        self.assertNotIn(f"{self.topic}.retry.200ms: ", said)

    def test_check_compares_partitions(self):
        """a source that has grown: check notes which own topics have fewer partitions, no error; what it advises keeps all sound"""
        self.running(self.both()).stop()
        config = self.workers[0].config
        self.assertNotIn("to be noted", rig.runsink("check", "--config", config).stdout.decode())
        grown = len(self.kafka.ends(self.topic)) + 3
        self.kafka.admin.create_partitions([NewPartitions(self.topic, grown)])[self.topic].result()
        rig.await_("it has grown", 30, lambda: len(self.kafka.ends(self.topic)) == grown)
        done = rig.runsink("check", "--config", config)
        said = done.stdout.decode()
        self.assertEqual(0, done.returncode, said)
        noted = re.findall(r"(?m)^  (\S+): \d+ partitions?, where (\d+) would", said)
        own = [name for name in self.kafka.topics() if name.startswith(self.topic + ".")]
        self.assertEqual({name: str(grown) for name in own}, dict(noted))
        self.assertEqual(len(own), json.loads(rig.runsink("check", "--json", "--config", config).stdout)["notes"].count("\n"))
        for one in self.kafka.admin.create_partitions([NewPartitions(name, grown) for name in own]).values():
            one.result()
        rig.await_("they have grown", 30, lambda: all(len(self.kafka.ends(name)) == grown for name in own))
        self.assertNotIn("to be noted", rig.runsink("check", "--config", config).stdout.decode())
        worker = self.running(self.both())
        self.kafka.produce(self.topic, [(b"%d" % n, b"broken") for n in range(50)])
        self.until_settled(worker)
        worker.stop()
        self.assertEqual(50, len(self.dead("data")))
        done = rig.runsink("verify", "--config", config)
        self.assertEqual(0, done.returncode, done.stdout)

    def test_own_topics_deleted(self):
        """own topics deleted while it runs are made again; the other source goes on meanwhile"""
        worker = self.running(self.both())
        self.delete(self.topic + ".dead.data", self.topic + ".ledger")
        self.kafka.produce(self.topic, [(b"k", b"broken")])
        self.until_settled(worker, 120)
        self.other_goes_on(worker)
        self.assertEqual(1, len(self.dead("data")))
        self.assertTrue(self.kafka.consume(self.topic + ".ledger"))
        rig.await_("ready", 30, lambda: worker.metric("runsink_ready") == 1, worker)

    def test_an_own_topic_made_anew(self):
        """with topics.create = false: not ready, with the cause, until it is there again, with fewer partitions"""
        self.running(self.both()).stop()
        worker = self.running(self.both(topics__create="false"))
        dead = self.topic + ".dead.data"
        self.kafka.produce(self.topic, [(b"k", b"broken")], 2)
        rig.await_("a dead letter", 30, lambda: self.dead("data"), worker)
        self.delete(dead)
        self.kafka.produce(self.topic, [(b"k", b"broken")], 2)
        rig.await_("the cause", 120, lambda: worker.metric("runsink_trouble", cause="own-topic-unwritable") == 1, worker)
        self.assertEqual(0, worker.metric("runsink_ready"))
        self.assertSays(dead, worker)
        self.other_goes_on(worker)
        self.kafka.create(dead, 1)
        self.until_settled(worker, 120)
        self.assertEqual(1, len(self.dead("data")))
        rig.await_("ready", 30, lambda: worker.metric("runsink_ready") == 1, worker)


class Leaderless(rig.Case):
    """Two brokers of its own: all that the group needs is on the first one."""

    def setUp(self):
        super().setUp()
        self.own = rig.Services(self.dir / "services", ("kafka",), brokers=2)
        self.addCleanup(self.own.stop)
        self.kafka = self.own.kafka()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.other = self.topic + "-b"

    def send(self, topic, name):
        run = events.run({"type": "webhook", "url": self.receiver.url + "/hook"}, id=name)
        self.kafka.produce(topic, [(b"k", events.dump(run))])

    def on_second(self, topic):
        self.kafka.admin.delete_topics([topic])[topic].result()
        rig.await_("it is gone", 30, lambda: topic not in self.kafka.topics())
        for done in self.kafka.admin.create_topics([NewTopic(topic, 1, replica_assignment=[[2]])]).values():
            done.result()
        rig.await_("it is there", 30, lambda: topic in self.kafka.topics() and self.kafka.topics()[topic].partitions[0].leader == 2)

    def test_an_own_topic_without_a_leader(self):
        """known before: its source waits, named, the other one goes on; lost meanwhile: Kafka keeps the transaction open, and that is told"""
        self.own.verb("kill", "kafka-2")
        rig.await_("one broker", 30, lambda: len(self.kafka.admin.list_topics(timeout=10).brokers) == 1)
        for topic in self.topic, self.other:
            self.kafka.create(topic, 1)
        settings = self.settings(topics=f"{self.topic},{self.other}")
        worker = self.worker(settings)
        for topic in self.topic, self.other:
            self.send(topic, "first")
            self.until_settled(worker, topic=topic)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.own.verb("restart", "kafka-2")
        dead = self.topic + ".dead.data"
        self.on_second(dead)

        def leaderless():
            self.own.verb("kill", "kafka-2")

            def without():
                with contextlib.suppress(KafkaException):  # the client may ask the dead broker first
                    return self.kafka.topics()[dead].partitions[0].leader == -1

            rig.await_("it has no leader", 60, without)

        leaderless()
        worker = self.worker(settings)
        self.kafka.produce(self.topic, [(b"k", b"broken")])
        rig.await_("the cause", 60, lambda: "own-topic-unwritable" in worker.text(), worker)
        self.assertSays(f"place={dead}", worker)
        self.send(self.other, "meanwhile")
        self.until_settled(worker, topic=self.other)
        self.assertFalse(self.kafka.settled(self.group, self.topic))
        self.own.verb("restart", "kafka-2")
        self.until_settled(worker, 120)

        leaderless()
        self.kafka.produce(self.topic, [(b"k", b"broken")])
        rig.await_("it is told", 60, lambda: worker.metric("runsink_trouble", cause="settlement-fails") == 1, worker)
        self.assertSays("may have lost its leader", worker)
        self.own.verb("restart", "kafka-2")
        self.until_settled(worker, 120)
        rig.await_("it is over", 60, lambda: worker.metric("runsink_trouble", cause="settlement-fails") in (None, 0), worker)
        self.assertEqual(2, len(self.dead("data")))
        self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
