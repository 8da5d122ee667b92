"""`run --until-end` where topics go away under it: what was there at its start and was not read is never "all done"."""
import re
import threading

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

import events
import rig
from receiver import Receiver


class UntilEnd(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.go_on = threading.Event()
        self.addCleanup(self.go_on.set)
        self.receiver.play("/held", self.hold)

    def hold(self, handler):
        self.go_on.wait(120)
        handler.send_response(200)
        handler.send_header("content-length", "0")
        handler.end_headers()

    def settings(self, **more):
        """Windows of two records, two of them at once: a source whose destination holds is read no further."""
        settings = super().settings(**{"window__records": "2", "window__inflight": "2", "window__grace": "60s", "http__timeout": "60s",
                                       "ready__patience": "3s", "drain__timeout": "1s", **more})
        settings["kafka"]["topic.metadata.refresh.interval.ms"] = 500
        return settings

    def source(self, name="", partitions=1):
        """A topic with 20 runs on each partition, for a destination that holds them."""
        topic = self.kafka.create(self.topic + name, partitions)
        for partition in range(partitions):
            self.send(topic, 20, partition)
        return topic

    def send(self, topic, n, partition=0, path="/held"):
        self.kafka.produce(topic, [(b"k", events.dump(events.run({"type": "webhook", "url": f"{self.receiver.url}{path}/{topic}"},
                                                                 id=f"{topic}-{i}"))) for i in range(n)], partition)

    def delete(self, *topics):
        for done in self.kafka.admin.delete_topics(list(topics)).values():
            done.result()

    def make(self, topic):
        def made():
            try:
                return self.kafka.create(topic, 1)
            except KafkaException:
                return False  # the old one is not gone yet
        rig.await_("the topic is made anew", 30, made)

    def begun(self, settings, *topics):
        """A worker that has begun to read each of them."""
        worker = self.worker(settings, "--until-end")
        for topic in topics:
            rig.await_("it is read", 60, lambda: self.receiver.to("/held/" + topic), worker)
        return worker

    def assertLeft(self, worker, topic):
        """It ends with 75, and an error line names the topic."""
        self.assertExit(75, worker)
        lines = [line for line in worker.text().splitlines() if "level=error" in line and "before the end" in line]
        lines = [line for line in lines if f"topic={topic} " in line + " "]
        self.assertTrue(lines, worker.tail())
        return lines

    def test_a_source_is_deleted(self):
        """the only one, with records of the start unread: 75, and the topic is named with how much is not read"""
        topic = self.source()
        worker = self.begun(self.settings(), topic)
        self.delete(topic)
        self.assertRegex("\n".join(self.assertLeft(worker, topic)), "unread=(1[0-9]|20) ")

    def test_one_of_two_sources_is_deleted(self):
        """the other one is delivered to its end"""
        gone, stays = self.source("-gone"), self.source("-stays")
        worker = self.begun(self.settings(topics=f"{gone},{stays}"), gone, stays)
        self.delete(gone)
        rig.await_("it is missed", 60, lambda: worker.says("topic-unavailable"), worker)
        self.go_on.set()
        self.assertLeft(worker, gone)
        self.assertTrue(self.kafka.settled(self.group, stays))

    def test_matched_sources_are_deleted(self):
        """one of those that an expression matches, or all of them"""
        for all_of_them in (False, True):
            with self.subTest(all_of_them=all_of_them):
                self.topic, self.group = rig.unique("runs"), rig.unique("group")
                self.go_on.clear()
                gone, other = self.source("-gone"), self.source("-other")
                worker = self.begun(self.settings(topics=f"^{self.topic}-.*", topics__refresh="500ms"), gone, other)
                self.delete(gone, *[other][not all_of_them:])
                rig.await_("it is missed", 60, lambda: worker.says("topic-unavailable"), worker)
                self.go_on.set()
                self.assertLeft(worker, gone)
                self.assertEqual(not all_of_them, worker.exited() == 75 and other in self.kafka.topics() and self.kafka.settled(self.group, other))

    def test_a_source_that_was_read_is_deleted(self):
        """all that was there at the start is settled, while another source keeps the run going: nothing is left"""
        read, other = self.kafka.create(self.topic + "-read"), self.source("-other")
        self.send(read, 3, path="/free")
        worker = self.begun(self.settings(topics=f"{read},{other}"), other)
        self.until_settled(worker, topic=read)
        self.delete(*[topic for topic in self.kafka.topics() if topic.startswith(read)])
        rig.await_("it is not read any more", 60, lambda: worker.metric("runsink_partitions_assigned") == 4, worker)
        self.go_on.set()
        self.assertExit(0, worker)

    def test_a_source_is_made_anew(self):
        """under the run: the new one is read, and what was not read of the old one is named"""
        topic = self.source()
        worker = self.begun(self.settings(), topic)
        self.delete(topic)
        self.make(topic)
        self.send(topic, 3, path="/free")
        self.go_on.set()
        self.assertLeft(worker, topic)
        lines = [line for line in worker.text().splitlines() if "level=warn" in line and "unread" in line]
        self.assertTrue(any(f"topic={topic} partition=0 " in line for line in lines), worker.tail())

    def test_a_retry_topic_is_deleted(self):
        """and may not be made again: after ready.patience it is named, 75"""
        topic = self.kafka.create(self.topic)
        self.assertExit(0, self.worker(self.settings(), "--until-end"))
        self.send(topic, 20)
        worker = self.begun(self.settings(topics__create="false"), topic)
        self.delete(f"{topic}.retry.400ms")
        rig.await_("it is missed", 60, lambda: worker.says("topic-unavailable"), worker)
        self.go_on.set()
        self.assertLeft(worker, f"{topic}.retry.400ms")
        self.assertTrue(self.kafka.settled(self.group, topic))

    def parked(self, settings, n=4):
        """That many records of the source wait in its only retry topic, and a run has said so; 20 more are held."""
        topic = self.kafka.create(self.topic)
        self.receiver.play("/sick", 503)
        self.send(topic, n, path="/sick")
        self.assertExit(75, self.worker(settings, "--until-end"))
        self.send(topic, 20)
        return topic

    def test_a_retry_topic_is_made_anew(self):
        """what was parked there by an earlier run can't come back: 75, and it is named with how much"""
        settings = self.settings(retry__delays="60s", retry__window__webhook="10m")
        topic = self.parked(settings)
        worker = self.begun(settings, topic)
        retry = f"{topic}.retry.60s"
        self.delete(retry)
        for n in 1, 2:
            rig.await_("it is gone, and the worker makes it anew", 60, lambda: worker.metric("runsink_partitions_assigned") == n, worker)
        self.go_on.set()
        self.assertRegex("\n".join(self.assertLeft(worker, retry)), r"unread=[4-9] ")
        self.assertTrue(self.kafka.settled(self.group, topic))
        self.assertExit(0, self.worker(settings, "--until-end"))

    def test_a_leftover_retry_topic_is_deleted(self):
        """with records of the start in it: the same"""
        topic = self.parked(self.settings(retry__delays="60s", retry__window__webhook="10m"))
        settings = self.settings()
        worker = self.begun(settings, topic)
        retry = f"{topic}.retry.60s"
        self.delete(retry)
        rig.await_("it is not read any more", 60, lambda: worker.metric("runsink_partitions_assigned") == 4, worker)
        self.go_on.set()
        self.assertRegex("\n".join(self.assertLeft(worker, retry)), r"unread=[4-9] ")

    def test_a_source_is_made_anew_before_it_was_read(self):
        """while nothing of it is committed, since what the ledger has of it can't be seen: bigger, smaller or empty, it is another one"""
        other = self.kafka.create(self.topic + "-other")
        self.send(other, 1, path="/free")
        self.assertExit(0, self.worker(self.settings(topics=other), "--until-end"))
        for n in (30, 3, 0):
            with self.subTest(n=n):
                topic = self.kafka.create(rig.unique(self.topic))
                self.send(topic, 20)
                held = self.kafka.open_transaction(self.kafka.create(topic + ".ledger"))
                worker = self.worker(self.settings(topics=f"{topic},{other}", ready__patience="15s"), "--until-end")
                rig.await_("it has seen what there is, and waits", 60,
                           lambda: worker.says("partitions assigned") and re.search(
                               rf'"topic":"{topic}","partition":0,[^}}]*"committed":0', worker.http("/status.json")), worker)
                self.delete(topic)
                self.make(topic)
                self.send(topic, n, path="/free") if n else None
                held.abort_transaction(30)
                lines = self.assertLeft(worker, topic)
                self.assertRegex("\n".join(lines), "unread=20 ")

    def test_a_source_is_made_anew_with_fewer_partitions(self):
        """one of two is gone: 75, and it is named"""
        topic = self.source(partitions=2)
        worker = self.begun(self.settings(), topic)
        self.delete(topic)
        self.make(topic)
        self.send(topic, 3, path="/free")
        self.go_on.set()
        self.assertRegex("\n".join(self.assertLeft(worker, topic)), "partitions=2 ")
        self.assertLessEqual(worker.text().count("does not tell the ends"), 1, worker.tail(60))
        self.assertNotIn("by the next owner", worker.text())

    def test_retention(self):
        """took records of the start before they were read: nothing is left to run again for, and it is not all well"""
        topic = self.kafka.create(self.topic)
        self.send(topic, 10, path="/free")
        self.assertExit(0, self.worker(self.settings(), "--until-end"))
        self.send(topic, 10, path="/free")
        self.kafka.delete_before(topic, {0: 15})
        worker = self.worker(self.settings(), "--until-end")
        self.assertExit(65, worker)
        last = worker.log.read_text().splitlines()[-1]
        self.assertRegex(last, "level=error .*retention.* lost=5( |$)")
        self.assertTrue(self.kafka.settled(self.group, topic))
        self.assertExit(0, self.worker(self.settings(), "--until-end"))

    def test_one_that_matches_is_not_served(self):
        """an expression matches a topic that has the name of another one's ledger: 75, and it is named"""
        self.kafka.create(self.topic, 1)
        other = self.kafka.create(self.topic + "-other", 1)
        self.kafka.create(self.topic + "-other_ledger", 1)
        self.send(self.topic, 4, path="/at-once")
        self.send(other, 4, path="/at-once")
        worker = self.worker(self.settings(topics=f"^{self.topic}.*"), "--until-end")
        self.assertExit(75, worker)
        lines = [line for line in worker.text().splitlines() if "level=error" in line and "can't be served" in line]
        self.assertTrue(lines, worker.tail())

    def test_a_commit_is_held(self):
        """somebody's open transaction holds what is committed of a partition, for good: 75 once a killed member's would be over"""
        self.kafka.create(self.topic, 1)
        settings = self.settings()
        settings["kafka"]["transaction.timeout.ms"] = 3000
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": rig.unique("stranger"), "log_level": 2,
                             "transaction.timeout.ms": 120000})
        producer.init_transactions(30)
        producer.begin_transaction()
        outside = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": self.group, "log_level": 2})
        producer.send_offsets_to_transaction([TopicPartition(self.topic, 0, 0)], outside.consumer_group_metadata(), 30)
        outside.close()
        self.send(self.topic, 4, path="/at-once")
        worker = self.worker(settings, "--until-end")
        self.assertExit(75, worker)
        self.assertTrue([line for line in worker.text().splitlines() if "level=error" in line and f"topic={self.topic} partition=0" in line],
                        worker.tail())
        producer.abort_transaction(30)
        self.assertExit(0, self.worker(settings, "--until-end"))

    def test_behind_a_dead_member(self):
        """the run joins a group of which a member was killed a moment ago: it waits for that one's session, longer than its patience"""
        self.kafka.create(self.topic, 1)
        self.send(self.topic, 4, path="/at-once")
        settings = self.settings()
        killed = self.worker(settings)
        self.until_settled(killed)
        killed.kill()
        self.send(self.topic, 4, path="/at-once")
        worker = self.worker(settings, "--until-end")
        self.assertExit(0, worker)
        self.assertTrue(self.kafka.settled(self.group, self.topic), worker.tail())

    def test_sigterm_before_the_end(self):
        """a run that waits for what does not come, and is told to end: 75"""
        topic = self.kafka.create(self.topic)
        self.assertExit(0, self.worker(self.settings(), "--until-end"))
        self.send(topic, 20)
        worker = self.begun(self.settings(topics__create="false", ready__patience="10m"), topic)
        self.delete(f"{topic}.retry.400ms")
        rig.await_("it is missed", 60, lambda: worker.says("topic-unavailable"), worker)
        self.go_on.set()
        self.until_settled(worker)
        self.assertEqual(75, worker.stop(), worker.tail())
        self.assertIn("parked=0", worker.text())


if __name__ == "__main__":
    rig.main()
