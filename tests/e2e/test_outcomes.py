"""<topic>.outcomes: what the platform that produced the events hears of them, on a real broker, by CloudEvents' own package
and the schema in config/."""
import collections
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
from cloudevents.core.bindings.kafka import KafkaMessage, from_structured_event
from confluent_kafka import Consumer, TopicPartition

import events
import rig
from receiver import Receiver

ROOT = Path(__file__).parents[2]
SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "config/outcomes.schema.json").read_text()))


def murmur2(data):
    """Where Kafka's own clients put a key: written from their source, not from librdkafka's."""
    m, mask = 0x5bd1e995, 0xffffffff
    h = 0x9747b28c ^ len(data)
    for at in range(0, len(data) & ~3, 4):
        k = int.from_bytes(data[at:at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    rest = data[len(data) & ~3:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7fffffff


class Outcomes(rig.Case):
    def outcomes(self):
        """[(partition, CloudEvent)] as a reader of committed records has them, each of which is as its schema says."""
        name = self.topic + ".outcomes"
        consumer = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": rig.unique("platform"), "log_level": 2,
                             "isolation.level": "read_committed", "enable.partition.eof": True, "enable.auto.commit": False})
        partitions = self.kafka.topics(name)[name].partitions
        consumer.assign([TopicPartition(name, p, 0) for p in partitions])
        found, ended = [], set()
        while len(ended) < len(partitions):
            message = consumer.poll(30)
            self.assertIsNotNone(message, "the broker does not answer")
            if message.error():
                ended.add(message.partition())
                continue
            self.assertEqual([("content-type", b"application/cloudevents+json; charset=UTF-8")], message.headers())
            SCHEMA.validate(json.loads(message.value()))
            event = from_structured_event(KafkaMessage(dict(message.headers()), message.key(), message.value()))
            for one in event.get_time(), *(datetime.datetime.fromisoformat(event.get_data()[name])
                                           for name in ("firstFailure", "nextAttempt", "since") if event.get_data().get(name)):
                self.assertLess(abs(one.timestamp() - message.timestamp()[1] / 1000), 300)
            self.assertEqual(message.key(), event.get_data()["workspaceId"] and event.get_data()["workspaceId"].encode())
            self.assertEqual(murmur2(message.key() or b"") % len(partitions), message.partition())
            found.append((message.partition(), event))
        consumer.close()
        ids = collections.Counter(event.get_id() for _, event in found)
        self.assertEqual([], [one for one, n in ids.items() if n > 1])
        return found

    def told(self):
        """{(partition, offset) of an event: what is told of it, in this order}"""
        told = collections.defaultdict(list)
        for _, event in self.outcomes():
            if event.get_type().startswith("runsink.destination."):
                continue
            at = event.get_data()["event"]
            self.assertEqual((self.topic, f"/runsink/{self.group}/{self.topic}"), (at["topic"], event.get_source()))
            told[at["partition"], at["offset"]].append(event)
        return told

    def words(self, told):
        return {at: [event.get_type().removeprefix("runsink.delivery.") for event in found] for at, found in told.items()}

    def test_once_and_in_order(self):
        """a receiver goes down and up under SIGKILLs and rebalances: of each event its changes, once and in order, whoever wrote them"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 3)
        receiver.play("/gone", 410)
        receiver.play("/down", 503)
        expected, n = {}, 24
        for p in range(3):
            records = []
            for i in range(n):
                path = ("ok", "down", "down", "gone")[i % 4]
                run = events.run({"type": "webhook", "url": f"{receiver.url}/{path}"}, id=f"{path}-{p}-{i}", workspaceId=f"workspace-{i % 7}")
                records.append((b"k", events.dump(run)))
                expected[p, i] = {"ok": [], "down": ["failing", "recovered"], "gone": ["dead"]}[path]
            records.append((b"k", b"no event at all"))
            expected[p, n] = ["dead"]
            self.kafka.produce(self.topic, records, p)
        # What is parked since it waited too long has not failed, and nothing would be told of it.
        settings = self.settings(retry__window__webhook="300s", window__records=5, window__grace="60s")
        settings["retry.delays"] = "200ms,300ms"
        settings["kafka"]["transaction.timeout.ms"] = 6000  # what a killed one leaves open
        workers = [self.worker(settings) for _ in range(2)]
        for killed in range(2):
            rig.await_("attempts are made", 60, lambda: len(receiver.to("/down")) > 30 * killed, workers[-1])
            workers[killed].kill()
            workers.append(self.worker(settings))
        rig.await_("all have failed", 60, lambda: sum("failing" in said for said in self.words(self.told()).values()) == 3 * n // 2, workers[-1])
        receiver.play("/down", 200)
        rig.await_("all is settled", 90, self.quiet, workers[-1])
        told = self.told()
        self.assertEqual({at: words for at, words in expected.items() if words}, self.words(told))
        for p, i in told:
            if i == n:
                continue
            for event in told[p, i]:
                self.assertEqual((f"workspace-{i % 7}", event.get_subject()), (event.get_data()["workspaceId"], event.get_data()["runId"]))
                self.assertEqual(("webhook", None), (event.get_data()["sink"]["type"], event.get_data()["sink"]["key"]))
            first, last = told[p, i][0].get_data(), told[p, i][-1].get_data()
            if len(told[p, i]) == 2:
                self.assertEqual(("http-503", "tenant", 503, 1), (first["reason"], first["fault"], first["httpStatus"], first["attempts"]))
                self.assertEqual((None, None, 200, first["firstFailure"]), (last["reason"], last["fault"], last["httpStatus"], last["firstFailure"]))
                self.assertGreater(last["attempts"], 1)
                self.assertTrue(first["nextAttempt"] and not last["nextAttempt"])
        for worker in workers[2:]:
            self.assertEqual(0, worker.stop(), worker.tail())
        self.assertIn(b"sound: every record", rig.runsink("verify", "--records", "--config", str(workers[-1].config)).stdout)

    def test_all(self):
        """outcomes = all: what is delivered and skipped, too; a letter that is sent back recovers, or dies once more; no ledger is needed"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        store = rig.services().store("versitygw")
        bucket = store.bucket(rig.unique("bucket"))
        receiver.play("/mended", 410, 200)
        receiver.play("/gone", 410)
        hook = [events.run({"type": "webhook", "url": f"{receiver.url}/{name}"}, id=name) for name in ("mended", "gone")]
        sinks = [events.run(store.sink(bucket), id="object"), events.run(id="none"), *hook]
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", events.dump(one)) for one in sinks])
        worker = self.worker(self.settings(outcomes="all", ledger="true"))
        rig.await_("all is settled", 60, self.quiet, worker)
        self.assertEqual(4, worker.metric("runsink_outcome_events_total"))
        self.assertEqual(0, rig.runsink("redrive", "--fault", "tenant", "--yes", "--config", str(worker.config)).returncode)
        rig.await_("the letters are back", 60, lambda: len(receiver.requests) == 4 and self.quiet(), worker)
        told = self.told()
        self.assertEqual({(0, 0): ["delivered"], (0, 1): ["skipped"], (0, 2): ["dead", "recovered"], (0, 3): ["dead", "dead"]}, self.words(told))
        stored, skipped = (told[0, i][0].get_data() for i in range(2))
        self.assertEqual({"type": "s3", "key": store.keys(bucket)[0]}, {k: stored["sink"][k] for k in ("type", "key")})
        self.assertRegex(stored["sink"]["destination"], f"^s3://{bucket}")
        self.assertEqual(("no-sink", 0), (skipped["reason"], skipped["attempts"]))
        self.assertEqual(0, worker.stop(), worker.tail())
        # Without a ledger as well; and nothing, with no topic for it, when it is off.
        for setting, topics in {"changes": 1, "off": 0}.items():
            self.topic, self.group = rig.unique("runs"), rig.unique("group")
            self.kafka.create(self.topic, 1)
            self.kafka.produce(self.topic, [(b"k", events.dump(one)) for one in sinks])
            worker = self.worker(self.settings(outcomes=setting, ledger="false", retry__permanent="dead"), "--until-end")
            self.assertExit(0, worker)
            self.assertEqual(topics, len([name for name in self.kafka.topics() if name == self.topic + ".outcomes"]))
            if topics:
                self.assertEqual({(0, 3): ["dead"]}, self.words(self.told()))

    def test_hostile(self):
        """ids that are as long as they may be, no ASCII, or secrets: whole or hidden, and never more than some KiB"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        receiver.play("/gone", 410)
        secret = "CANARYoutcomes7Zq"
        sink = {"type": "webhook", "url": f"{receiver.url}/gone/{'x' * 300}", "headers": {"Authorization": "Bearer " + secret}}
        long = {"id": "\u00e9" * 512, "workspaceId": "\"" * 1024, "projectId": "p", "jobId": "\U0001f600" * 256, "updatedAt": "\\" * 1024}
        runs = [events.run(sink, **long), events.run(sink, id=secret, workspaceId="w " + secret, jobId=f"-{secret}-")]
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", events.dump(one, 1)) for one in runs])
        worker = self.worker(self.settings(), "--until-end")
        self.assertExit(0, worker)
        told = self.told()
        whole, hidden = (told[0, i][0].get_data() for i in range(2))
        self.assertEqual(long, {"id" if name == "runId" else name: whole[name] for name in ("runId", "workspaceId", "projectId", "jobId", "updatedAt")})
        for name in "runId", "workspaceId", "jobId":
            self.assertRegex(hidden[name], "^redacted-[0-9a-f]{12}$")
        for record in self.kafka.consume(self.topic + ".outcomes"):
            self.assertLess(len(record.value), 16384)
            self.assertNotIn(secret, f"{record.key} {record.value} {record.headers}")

    def test_destination(self):
        """a destination whose breaker opens is told to fail and to recover; not again within a minute"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        receiver.play("/hook", 503)
        self.kafka.create(self.topic, 1)

        def send(*names):
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "webhook", "url": receiver.url + "/hook"}, id=name)))
                                            for name in names])

        def told():
            return [event for _, event in self.outcomes() if event.get_type().startswith("runsink.destination.")]

        send(*"abcd")
        worker = self.worker(self.settings(breaker__failures=3, retry__window__webhook="120s"))
        rig.await_("it is told to fail", 60, lambda: self.topic + ".outcomes" in self.kafka.topics() and told(), worker)
        receiver.play("/hook", 200)
        rig.await_("it is told to recover", 60, lambda: len(told()) == 2, worker)
        rig.await_("all is settled", 60, self.quiet, worker)
        receiver.play("/hook", 503)
        send(*"efgh")
        rig.await_("its breaker is open again", 60, lambda: worker.text().count("breaker opened") == 2, worker)
        receiver.play("/hook", 200)
        rig.await_("all is settled", 60, self.quiet, worker)
        self.assertEqual(["failing", "recovered"], [event.get_type().rpartition(".")[2] for event in told()])
        label = f"webhook://127.0.0.1:{receiver.port}/hook"
        failing, recovered = (event.get_data() for event in told())
        self.assertEqual([(label, "workspace-1", {"type": "webhook", "destination": label})] * 2,
                         [(event.get_subject(), event.get_data()["workspaceId"], event.get_data()["sink"]) for event in told()])
        self.assertEqual((("http-503", "tenant", 503), (None, None, None)),
                         tuple(tuple(one[name] for name in ("reason", "fault", "httpStatus")) for one in (failing, recovered)))
        self.assertLess(failing["since"], recovered["since"])
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_program(self):
        """the program of OPERATIONS.md keeps a delivery log, and says what a tenant is to know"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        code = re.search(r"```python\n(.*?)```", (ROOT / "config/OPERATIONS.md").read_text(), re.S)[1]
        self.assertLessEqual(len(code.splitlines()), 25)
        (self.dir / "follow.py").write_text(code)
        receiver.play("/hook", 503)
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "webhook", "url": receiver.url + "/hook"}, id="mine")))])
        worker = self.worker(self.settings(retry__window__webhook="60s", breaker__failures=1))
        rig.await_("the topic is there", 60, lambda: self.topic + ".outcomes" in self.kafka.topics(), worker)
        platform = subprocess.Popen([sys.executable, "-u", self.dir / "follow.py", self.kafka.bootstrap, self.topic],
                                    stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.addCleanup(platform.stdout.close)
        self.addCleanup(platform.wait)
        self.addCleanup(platform.kill)
        self.assertRegex(platform.stdout.readline(), r"^workspace-1: run mine is failing at webhook://127.0.0.1:\d+/hook \(http-503\)")
        self.assertRegex(platform.stdout.readline(), r"^workspace-1: webhook://127.0.0.1:\d+/hook is failing, \d+ events wait")
        receiver.play("/hook", 200)
        self.assertRegex(platform.stdout.readline(), r"^workspace-1: run mine is recovered at webhook://127.0.0.1:\d+/hook")
        self.assertRegex(platform.stdout.readline(), r"^workspace-1: webhook://127.0.0.1:\d+/hook is recovered, \d+ events wait")
        self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
