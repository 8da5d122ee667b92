"""A source topic that is deleted and made anew under its name: all of the new one is delivered once, and the ledger's chain goes over to
it, in both verifiers' eyes."""
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from confluent_kafka import KafkaException

import events
import rig
from confluent_kafka import Producer
from receiver import Receiver

SECOND_VERIFIER = Path(__file__).with_name("ledger_verifier.py")


class Anew(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.root = self.dir / "root"
        self.root.mkdir()
        self.kafka.create(self.topic, 2)

    def settings(self, **more):
        return super().settings(file__root=self.root, **more)

    def send(self, *names, partition=0, path="/hook"):
        """Each one by a webhook and as an object."""
        sinks = {"type": "webhook", "url": self.receiver.url + path}, {"type": "file", "path": "acme"}
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink, id=name))) for name in names for sink in sinks], partition)

    def got(self, prefix=""):
        """(by webhook, as objects)"""
        called = sorted(json.loads(r.body)["id"] for r in self.receiver.to("/hook"))
        objects = sorted(json.loads(path.read_bytes())["id"] for path in self.root.rglob("*.json"))
        return tuple([name for name in names if name.startswith(prefix)] for names in (called, objects))

    def delete(self, topic=None):
        topic = topic or self.topic
        self.kafka.admin.delete_topics([topic])[topic].result()

    def make(self, topic=None, partitions=2):
        def made():
            try:
                return self.kafka.create(topic or self.topic, partitions)
            except KafkaException:
                return False  # the old one is not gone yet
        rig.await_("the topic is made anew", 30, made)

    def forget_group(self):
        def forgotten():
            try:
                self.kafka.admin.delete_consumer_groups([self.group])[self.group].result()
            except KafkaException as e:
                return e.args[0].name() == "GROUP_ID_NOT_FOUND"  # else it has members yet
            return True
        rig.await_("the group is gone", 30, forgotten)

    def fill_and_wait(self, worker, prefix, n=10):
        names = sorted(f"{prefix}-{i}" for i in range(n))
        self.send(*names)
        self.send(prefix + "-other", partition=1)
        names = sorted([*names, prefix + "-other"])
        rig.await_(f"all of {prefix}", 60, lambda: all(len(got) >= len(names) for got in self.got(prefix)), worker)
        self.until_settled(worker)
        self.assertEqual((names, names), self.got(prefix))

    def assertSound(self, worker, times=1):
        """Sound for both verifiers, with one note for each time and partition."""
        folder = self.dir / rig.unique("export")
        done = rig.runsink("verify", "--records", "--json", "--export", folder, "--config", worker.config, self.topic)
        answer = json.loads(done.stdout)
        self.assertEqual((0, True), (done.returncode, answer["sound"]), answer["findings"])
        notes = [f for f in answer["findings"] if f["code"] == "made-anew"]
        self.assertEqual({(self.topic, 0): times, (self.topic, 1): times},
                         {key: sum((f["topic"], f["partition"]) == key for f in notes) for key in ((self.topic, 0), (self.topic, 1))})
        second = subprocess.run([sys.executable, SECOND_VERIFIER, folder], capture_output=True)
        self.assertEqual((0, b"sound\n"), (second.returncode, second.stdout))
        return answer

    def test_under_a_running_worker(self):
        """at once, between two looks of the worker's: read from its first record; what was parked of the old one comes too"""
        settings = self.settings(retry__delays="3s", retry__window__webhook="60s")
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 60000
        worker = self.worker(settings)
        self.fill_and_wait(worker, "old", 30)
        self.receiver.play("/late", 503)
        self.send("late", path="/late")
        self.until_settled(worker)
        rig.await_("it was tried", 30, lambda: self.receiver.to("/late"), worker)
        self.delete()
        self.make()
        self.receiver.play("/late", 200)
        self.fill_and_wait(worker, "new")
        rig.await_("the late one of the old topic", 30, lambda: self.quiet(), worker)
        self.assertEqual(2, len(self.receiver.to("/late")))
        self.assertSays("deleted and made anew", worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertSound(worker)

    def test_a_topic_that_is_only_written_to(self):
        """emptied by deleting it and making it anew, time and again: the worker, which asks for it by itself, writes to it as before"""
        settings = self.settings()
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 100
        worker = self.worker(settings)
        dead = self.topic + ".dead.data"
        for number in range(5):
            self.kafka.produce(self.topic, [(b"k", b"no event")] * 3, 0)
            self.until_settled(worker)
            self.assertEqual(3, len(self.kafka.consume(dead)), number)
            self.delete(dead)
            self.make(dead)
        self.fill_and_wait(worker, "last")
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_with_fewer_partitions(self):
        """under a running worker: the partition that is gone is named, and not again and again; what there is is delivered, and once it has
        grown, all of it"""
        settings = self.settings(ready__patience="3s")
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 60000  # or the worker loses both
        worker = self.worker(settings)
        self.fill_and_wait(worker, "old", 30)
        self.delete()
        self.make(partitions=1)
        names = sorted(f"new-{i}" for i in range(10))
        self.send(*names)
        rig.await_("all of the new one", 60, lambda: self.got("new") == (names, names), worker)
        rig.await_("the other one is named", 60, lambda: worker.says("a partition of it was not made anew"), worker)
        rig.await_("the trouble", 60, lambda: worker.metric("runsink_trouble", cause="not-readable") == 1, worker)
        self.assertEqual(1, worker.text().count("does not tell the ends"), worker.tail())
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertNotIn("by the next owner", worker.text())
        self.kafka.grow(self.topic, 2)
        worker = self.worker(settings)
        self.fill_and_wait(worker, "grown")
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_gone_for_a_while(self):
        """the running worker has noticed that it is gone, and lost its partitions"""
        settings = self.settings(ready__patience="3s")
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 500
        worker = self.worker(settings)
        self.fill_and_wait(worker, "old", 30)
        self.delete()
        rig.await_("it is missed", 60, lambda: worker.metric("runsink_trouble", cause="topic-unavailable") == 1, worker)
        self.make()
        self.fill_and_wait(worker, "new")
        self.assertSays("deleted and made anew", worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertSound(worker)

    def test_between_two_runs(self):
        """twice, shorter than before and longer: the old run's offsets excuse nothing"""
        settings = self.settings()
        worker = self.worker(settings)
        self.fill_and_wait(worker, "old", 10)
        self.assertEqual(0, worker.stop(), worker.tail())
        for times, (prefix, n) in enumerate((("shorter", 3), ("longer", 30)), 1):
            self.delete()
            self.make()
            worker = self.worker(settings)
            self.fill_and_wait(worker, prefix, n)
            self.assertSays("deleted and made anew", worker)
            self.assertEqual(0, worker.stop(), worker.tail())
            self.assertSound(worker, times)
        # A run that changes nothing adds nothing; a run's story is told without those that had its offsets before.
        worker = self.worker(settings)
        self.fill_and_wait(worker, "last")
        self.assertFalse(worker.says("deleted and made anew"), worker.tail())
        self.assertEqual(0, worker.stop(), worker.tail())
        answer = self.assertSound(worker, 2)
        self.assertEqual({0: 2, 1: 2}, {p["partition"]: p["anew"] for p in answer["partitions"] if p["topic"] == self.topic})
        traced = rig.runsink("trace", "--json", "longer-1", "--config", worker.config)
        told = [json.loads(line)["outcomes"] for line in traced.stdout.splitlines()]
        self.assertEqual([1, 1], [len(outcomes) for outcomes in told], traced.stdout)

    def test_verify_says_what_it_waits_for(self):
        """made anew, and no worker has run since: what the ledger has settled is committed nowhere any more"""
        worker = self.worker(self.settings())
        self.fill_and_wait(worker, "old", 3)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.delete()
        self.make()
        done = rig.runsink("verify", "--records", "--config", worker.config, self.topic)
        self.assertEqual(65, done.returncode, done.stderr)
        self.assertIn(b"waits until the group's offsets are where the ledger is", done.stderr)

    def send_of_old(self, *names, partition=0, age_s=3 * 86400):
        """As send(), with the times of records that were written long ago: what a restored topic has, or a slow producer."""
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap})
        sinks = {"type": "webhook", "url": self.receiver.url + "/hook"}, {"type": "file", "path": "acme"}
        at = int(time.time() - age_s) * 1000
        for number, (name, sink) in enumerate((name, sink) for name in names for sink in sinks):
            producer.produce(self.topic, events.dump(events.run(sink, id=name)), b"k", partition, timestamp=at + number)
        self.assertEqual(0, producer.flush(30))

    def test_records_of_the_past(self):
        """made anew while no worker runs, and filled beyond the old end with records of the past: times say that the group's offsets have
        expired, the record at the old end says that this is another topic"""
        for forget in (False, True):
            with self.subTest(forget=forget):
                self.topic, self.group = self.kafka.create(rig.unique("runs"), 2), rig.unique("group")
                settings, prefix = self.settings(), f"past-{forget}"
                worker = self.worker(settings)
                self.fill_and_wait(worker, f"old-{forget}", 10)
                self.assertEqual(0, worker.stop(), worker.tail())
                self.delete()
                self.make()
                if forget:
                    self.forget_group()
                names = [f"{prefix}-{i:02}" for i in range(30)]
                self.send_of_old(*names)
                self.send_of_old(prefix + "-other", prefix + "-other2", prefix + "-other3", partition=1)
                names = sorted([*names, *(prefix + other for other in ("-other", "-other2", "-other3"))])
                worker = self.worker(settings)
                rig.await_("all of the new one", 60, lambda: all(len(got) >= len(names) for got in self.got(prefix)), worker)
                self.until_settled(worker)
                self.assertEqual((names, names), self.got(prefix))
                self.assertSays("made anew", worker)
                self.assertEqual(0, worker.stop(), worker.tail())
                self.assertSound(worker)

    def test_a_marker_where_the_last_record_was(self):
        """the new topic has no record at that offset: nothing of it is passed over"""
        settings = self.settings()
        send = lambda producer, *names: [producer.produce(
            self.topic, events.dump(events.run({"type": "file", "path": "acme"}, id=name)), b"k", 0, timestamp=int(time.time() - 86400) * 1000)
            for name in names]
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap})
        send(producer, *(f"old-{i}" for i in range(10)))
        producer.flush(30)
        worker = self.worker(settings)
        self.until_settled(worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.delete()
        self.make()
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": rig.unique("t")})
        producer.init_transactions(30)
        names = [f"new-{i:02}" for i in range(20)]
        for some in names[:9], names[9:]:  # the first one's marker is at offset 9
            producer.begin_transaction()
            send(producer, *some)
            producer.commit_transaction(30)
        worker = self.worker(settings)
        rig.await_("all of the new one", 60, lambda: len(self.got("new-")[1]) >= len(names), worker)
        self.assertEqual(names, self.got("new-")[1])
        self.assertSays("made anew", worker)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_offsets_of_records_of_the_past_expire(self):
        """the same topic, of records that were written long ago: nothing is delivered twice"""
        settings = self.settings()
        self.send_of_old(*(f"past-{i}" for i in range(10)))
        worker = self.worker(settings)
        self.until_settled(worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.forget_group()
        self.send_of_old("more", age_s=2 * 86400)
        worker = self.worker(settings)
        rig.await_("the last one", 60, lambda: self.got("more") == (["more"], ["more"]), worker)
        self.until_settled(worker)
        self.assertEqual(([f"past-{i}" for i in range(10)],) * 2, self.got("past-"))
        self.assertFalse(worker.says("made anew"), worker.tail())
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_retry_topic_with_records_of_the_past(self):
        """a retry topic is deleted and restored otherwise, with its records' old times, while no worker runs: all that is in it is tried"""
        settings = self.settings(retry__delays="1s", retry__window__webhook="30d")
        retry = self.topic + ".retry.1s"
        self.kafka.create(retry, 2)
        worker = self.worker(settings)
        self.park(worker, "through")
        self.deliver(worker, "through")
        was = self.kafka.consume(retry)[0]
        self.assertEqual(0, worker.stop(), worker.tail())
        self.delete(retry)
        self.make(retry)
        names = [f"past-{i:02}" for i in range(8)]
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap})
        for number, name in enumerate(names):
            self.receiver.play("/" + name, 200)
            headers = {**was.headers, "runsink-origin": f"{self.topic}/{was.partition}/{1000 + number}"}
            producer.produce(retry, was.value.replace(b"/through", b"/" + name.encode()), was.key, was.partition,
                             timestamp=was.timestamp - 3 * 86400000 + number, headers=list(headers.items()))
        self.assertEqual(0, producer.flush(30))
        worker = self.worker(settings)
        rig.await_("all of them", 60, lambda: all(self.receiver.to("/" + name) for name in names), worker)
        rig.await_("nothing waits", 30, self.quiet, worker)
        self.assertEqual([1] * len(names), [len(self.receiver.to("/" + name)) for name in names], worker.tail())
        self.assertSays("made anew", worker)
        self.assertEqual(0, worker.stop(), worker.tail())

    def park(self, worker, *names):
        """Events that are parked, again and again until their path is played otherwise."""
        for name in names:
            self.receiver.play("/" + name, 503)
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "webhook", "url": f"{self.receiver.url}/{name}"}, id=name)))])
        self.until_settled(worker)
        rig.await_("they are parked", 30, lambda: all(self.receiver.to("/" + name) for name in names), worker)

    def deliver(self, worker, *names):
        for name in names:
            self.receiver.play("/" + name, 200)
        rig.await_(f"{names} are delivered", 60, lambda: all(self.receiver.to("/" + name)[-1].answered == 200 for name in names), worker)
        rig.await_("nothing waits", 30, self.quiet, worker)

    def assertLost(self, worker, retry, offsets, times=1):
        """To an auditor, and to both verifiers of the export, the records of these offsets are gone, and nothing else is wrong. That the
        retry topic was made anew is a note."""
        folder = self.dir / rig.unique("export")
        done = rig.runsink("verify", "--records", "--json", "--export", folder, "--config", worker.config, self.topic)
        answer = json.loads(done.stdout)
        found = sorted((f["code"], f["topic"], f["partition"], f["offset"]) for f in answer["findings"] if f["code"] != "made-anew")
        self.assertEqual([("vanished", self.topic, 0, offset) for offset in offsets], found, answer["findings"])
        self.assertEqual(65 if offsets else 0, done.returncode)
        self.assertEqual([(retry, 0)] * times, [(f["topic"], f["partition"]) for f in answer["findings"] if f["code"] == "made-anew"])
        second = subprocess.run([sys.executable, SECOND_VERIFIER, folder], capture_output=True)
        gone = [f"record (0, {offset}): it does not wait any more where it was parked" for offset in offsets]
        self.assertEqual(gone or ["sound"], second.stdout.decode().splitlines())
        again = json.loads(rig.runsink("verify", "--json", folder).stdout)
        self.assertEqual(found, sorted((f["code"], f["topic"], f["partition"], f["offset"]) for f in again["findings"] if f["code"] != "made-anew"))

    def test_retry_topic_between_two_runs(self):
        """a retry topic is made anew, also with the whole group gone: its chain goes on, and what waited in it is named as lost"""
        settings = self.settings(retry__delays="1s", retry__window__webhook="60s")
        retry = self.topic + ".retry.1s"
        worker = self.worker(settings)
        self.park(worker, "through")
        self.deliver(worker, "through")
        for times, name in enumerate(("lost-1", "lost-2"), 1):
            self.park(worker, name)
            self.assertEqual(0, worker.stop(), worker.tail())
            self.delete(retry)
            self.make(retry)
            if times == 2:
                self.forget_group()
            worker = self.worker(settings)
            self.park(worker, f"new-{times}", f"newer-{times}")
            self.deliver(worker, f"new-{times}", f"newer-{times}")
            self.assertSays("deleted and made anew", worker)
            self.assertLost(worker, retry, [1, 4][:times], times)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_retry_topic_under_a_running_worker(self):
        """deleted, and made again by the worker or at once: what waited in it and was not read yet is named as lost"""
        for name in ("by the worker", "at once"):
            with self.subTest(name):
                self.topic = self.kafka.create(rig.unique("runs"), 2)
                self.group = rig.unique("group")
                settings = self.settings(retry__delays="1s", retry__window__webhook="60s")
                settings["kafka"]["topic.metadata.refresh.interval.ms"] = 60000 if name == "at once" else 500
                retry = self.topic + ".retry.1s"
                worker = self.worker(settings)
                self.park(worker, "through")
                self.deliver(worker, "through")
                self.delete(retry)
                if name == "at once":
                    self.make(retry)
                self.park(worker, "new", "newer")
                self.deliver(worker, "new", "newer")
                self.assertEqual(0, worker.stop(), worker.tail())
                self.assertLost(worker, retry, [])

    def replace(self, worker, topic, refill):
        """Deletes the topic and makes it anew, with more records than the old one had, before the worker can look at anything."""
        worker.process.send_signal(signal.SIGSTOP)
        try:
            self.delete(topic)
            # A broker that has not heard of it yet would take the new records for the old topic.
            rig.await_("it is gone", 30, lambda: topic not in self.kafka.topics())
            self.make(topic)
            refill()
        finally:
            worker.process.send_signal(signal.SIGCONT)

    def test_filled_past_the_old_end_at_once(self):
        """and the worker reads on there: its first records come all the same"""
        settings = self.settings()
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 60000
        worker = self.worker(settings)
        for times, n in enumerate((8, 20, 60), 1):
            names = sorted([*(f"{times}-{i:02}" for i in range(n)), f"{times}-other"])

            def refill():
                self.send(*names[:-1])
                self.send(names[-1], partition=1)
            if times == 1:
                refill()
            else:
                self.replace(worker, self.topic, refill)
            rig.await_(f"all of {times}", 60, lambda: all(set(names) <= set(got) for got in self.got(f"{times}-")), worker)
            self.until_settled(worker)
            self.assertEqual(names, self.got(f"{times}-")[1])  # a webhook may be called again
            self.assertEqual(times > 1, worker.says("deleted and made anew"), worker.tail())
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertSound(worker, 2)

    def test_retry_topic_filled_past_the_old_end_at_once(self):
        """each of the new one's records is tried again, and none of them twice"""
        settings = self.settings(retry__delays="1s", retry__window__webhook="600s")
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 60000
        retry = self.topic + ".retry.1s"
        worker = self.worker(settings)
        self.park(worker, "through")
        self.deliver(worker, "through")
        was = self.kafka.consume(retry)[0]
        for times in (1, 2):
            names = [f"new-{times}-{i:02}" for i in range(times * 8)]
            for name in names:
                self.receiver.play("/" + name, 200)

            def refill():
                for number, name in enumerate(names):
                    headers = {**was.headers, "runsink-origin": f"{self.topic}/{was.partition}/{1000 * times + number}"}
                    self.kafka.produce(retry, [(was.key, was.value.replace(b"/through", b"/" + name.encode()))], was.partition, headers.items())
            self.replace(worker, retry, refill)
            rig.await_(f"all of {times}", 30, lambda: all(self.receiver.to("/" + name) for name in names), worker)
            self.until_settled(worker)
            rig.await_("nothing waits", 30, self.quiet, worker)
            self.assertEqual([1] * len(names), [len(self.receiver.to("/" + name)) for name in names], worker.tail())
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_killed_while_the_old_one_is_not_settled(self):
        """a receiver is slow meanwhile: no offset of the old topic's stands in the new one for a moment, so the next worker reads all"""
        for end in ("kill", "stop"):
            with self.subTest(end):
                self.topic = self.kafka.create(rig.unique("runs"), 2)
                self.group = rig.unique("group")
                settings = self.settings(window__grace="60s", window__records=2, retry__window__webhook="600s", drain__timeout="1s")
                worker = self.worker(settings)
                self.fill_and_wait(worker, end + "-old", 4)
                answer = threading.Event()
                self.addCleanup(answer.set)

                def slow(handler):
                    answer.wait(60)
                    handler.send_response(200)
                    handler.send_header("content-length", "0")
                    handler.end_headers()
                self.receiver.play("/slow", slow)
                names = sorted(f"{end}-new-{i}" for i in range(6))

                def refill():
                    self.send(*names)
                    self.send("slow", path="/slow")
                    self.send(end + "-late")
                self.replace(worker, self.topic, refill)
                rig.await_("the slow one is called", 30, lambda: self.receiver.to("/slow"), worker)
                # An answer of the broker's that lay in the socket may have told before anything was read past the old end.
                missed = rig.await_("it is missed", 30, lambda: next(
                    (text for text in ("is not there any more", "deleted and made anew") if worker.says(text)), None), worker)
                until = time.monotonic() + 3  # some of the windows are settled by then, one is not
                while missed == "is not there any more" and time.monotonic() < until:
                    self.assertNotIn(0, self.kafka.committed(self.group, self.topic), worker.tail())
                worker.kill() if end == "kill" else worker.stop()
                answer.set()
                self.receiver.play("/slow", 200)
                worker = self.worker(settings)
                # A transaction that the killed one left open ends after a minute.
                rig.await_("all of the new one", 120, lambda: all({*names, end + "-late"} <= set(got) for got in self.got(end)), worker)
                self.until_settled(worker, 120)
                self.assertEqual(0, worker.stop(), worker.tail())

    def test_before_the_first_record(self):
        """where nothing is committed, the ledger is read ahead of the first record, and the beginning committed: no tenant can make it be
        read again"""
        settings = self.settings(retry__delays="1s", retry__window__webhook="60s")
        worker = self.worker(settings)
        beginning = {0: 0, 1: 0}
        for topic in (self.topic, self.topic + ".retry.1s"):
            rig.await_(f"the beginning of {topic} is committed", 30, lambda: self.kafka.committed(self.group, topic) == beginning, worker)
        self.park(worker, "first")
        self.deliver(worker, "first")
        self.assertEqual(0, worker.stop(), worker.tail())
        done = rig.runsink("verify", "--records", "--config", worker.config, self.topic)
        self.assertEqual(0, done.returncode, done.stdout)

    def test_batches_of_the_same_offsets(self):
        """on the same day: the new topic's objects lie beside the old one's"""
        settings = self.settings(archive="batch", batch__age="1s", batch__compression="none")
        names = []
        for prefix in ("old", "new"):
            ids = [f"{prefix}-{i}" for i in range(10)]
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "file", "path": "acme"}, id=id))) for id in ids], 0)
            names += ids
            worker = self.worker(settings)
            self.until_settled(worker)
            self.assertEqual(0, worker.stop(), worker.tail())
            if prefix == "old":
                self.delete()
                self.make()
        lines = [line for path in self.root.rglob("*.ndjson") for line in path.read_bytes().splitlines()]
        self.assertEqual(sorted(names), sorted(json.loads(line)["id"] for line in lines))

    def test_the_rest_of_the_group_is_gone_too(self):
        """and with it the offsets of all its topics: the ledger tells one that was made anew from one whose offsets expired"""
        settings = self.settings()
        worker = self.worker(settings)
        self.fill_and_wait(worker, "old", 10)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.delete()
        self.make()
        self.forget_group()
        worker = self.worker(settings)
        self.fill_and_wait(worker, "new", 5)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertSound(worker)


if __name__ == "__main__":
    rig.main()
