"""A group goes on at the worst moment: between the making of a settlement and the broker's look at it, or before a worker has
given back what it is to give back. What is still its own is settled, what is another's is not."""
import threading
from collections import Counter

import events
import rig
from confluent_kafka import Consumer, Producer, TopicPartition
from receiver import Receiver


def well(handler):
    handler.send_response(204)
    handler.end_headers()


class Member:
    """Somebody else in the group, who polls until told to leave."""

    def __init__(self, bootstrap, group, topic):
        self.assignments, self.has, self.over = 0, set(), threading.Event()
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 2,
                                  "partition.assignment.strategy": "cooperative-sticky", "heartbeat.interval.ms": 100,
                                  "session.timeout.ms": 6000, "enable.auto.commit": False})
        self.consumer.subscribe([topic], on_assign=self.assigned, on_revoke=self.revoked)
        self.thread = threading.Thread(target=self.live)
        self.thread.start()

    def assigned(self, _, partitions):
        self.has = self.has | {one.partition for one in partitions}
        self.assignments += 1

    def revoked(self, _, partitions):
        self.has = self.has - {one.partition for one in partitions}

    def live(self):
        while not self.over.is_set():
            self.consumer.poll(0.05)

    def leave(self):
        if not self.over.is_set():
            self.over.set()
            self.thread.join()
            self.consumer.close()


class Joining(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.sent = 0

    def send(self, n, partition=0):
        sink = {"type": "webhook", "url": self.receiver.url + "/hook"}
        runs = [events.run(sink, id=f"run-{self.sent + i}") for i in range(n)]
        self.sent += n
        self.kafka.produce(self.topic, [(b"k", events.dump(run)) for run in runs], partition)

    def member(self, topic):
        member = Member(self.kafka.bootstrap, self.group, topic)
        self.addCleanup(member.leave)
        return member

    def begin(self):
        """A worker that has settled the first records of each partition."""
        settings = self.settings()
        settings["kafka"].update({"heartbeat.interval.ms": 100, "topic.metadata.refresh.interval.ms": 300})
        worker = self.worker(settings)
        self.until_settled(worker)
        return worker

    def hold(self, *partitions):
        """What is committed of the partitions is unstable until the producer's transaction ends: so long a settlement waits, with
        the generation that it was made in, before it sends its offsets."""
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": rig.unique("stranger"), "log_level": 2})
        producer.init_transactions(30)
        producer.begin_transaction()
        outside = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": self.group, "log_level": 2})
        producer.send_offsets_to_transaction([TopicPartition(self.topic, p, 0) for p in partitions], outside.consumer_group_metadata(), 30)
        outside.close()
        return producer

    def called_once(self):
        got = Counter(request.headers["webhook-id"] for request in self.receiver.requests)
        self.assertEqual(self.sent, len(got))
        self.assertEqual([], [id for id, n in got.items() if n > 1], "called again")

    def test_drain(self):
        """somebody joins while the last settlement of a worker that ends is under way: it is made again in the next generation"""
        other = self.kafka.create(rig.unique("other"))
        self.kafka.create(self.topic)
        self.send(5)
        worker = self.begin()
        held = self.hold(0)
        self.send(5)
        rig.await_("its calls", 30, lambda: len(self.receiver.requests) == self.sent, worker)
        worker.process.send_signal(15)
        rig.await_("it drains", 30, lambda: worker.says("draining"))
        member = self.member(other)
        rig.await_("the next generation", 30, lambda: member.assignments)
        held.abort_transaction(30)
        self.assertEqual(0, worker.wait(), worker.tail())
        self.assertTrue(worker.says("generation id is not valid"), worker.tail())
        self.assertFalse(worker.says("not all was settled"), worker.tail())
        self.assertTrue(self.kafka.settled(self.group, self.topic), worker.tail())
        self.called_once()

    def test_revoke(self):
        """a topic grows while a worker gives partitions back: its client joins again before it has, so they are another member's
        when what was delivered of them could be settled; it is not, and the worker is a member again soon"""
        self.kafka.create(self.topic, 2)
        for partition in (0, 1):
            self.send(1, partition)
        worker = self.begin()
        before = self.kafka.committed(self.group, self.topic)
        answer = threading.Event()
        self.addCleanup(answer.set)
        self.receiver.play("/", lambda handler: answer.wait(30) and well(handler))
        for partition in (0, 1):
            self.send(1, partition)
        rig.await_("its calls", 30, lambda: len(self.receiver.requests) == self.sent, worker)
        member = self.member(self.topic)
        rig.await_("the generation in which it is to give back", 30, lambda: member.assignments)
        self.kafka.grow(self.topic, 4)
        rig.await_("what is not given back is another's", 30, lambda: member.has & {0, 1}, worker)
        answer.set()
        rig.await_("it has given back", 30, lambda: worker.text().count("partitions assigned") > 1, worker)
        committed = self.kafka.committed(self.group, self.topic)
        for partition in member.has & {0, 1}:
            self.assertEqual(before[partition], committed[partition], f"of partition {partition}\n{worker.tail()}")
        rig.await_("it begins anew", 30, lambda: worker.says("the lane starts anew"), worker)
        member.leave()
        self.until_settled(worker)
        self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
