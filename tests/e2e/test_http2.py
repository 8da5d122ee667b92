"""HTTP/2: connections are kept, bodies wait for the peer's credit, streams and connections end early, and every event
arrives nevertheless."""
import collections
import json

import events
import model
import rig
from http2 import Http2Receiver

FEW, LARGE = 600, 40


class Http2(rig.Case):
    def setUp(self):
        super().setUp()
        self.kafka.create(self.topic, 2)

    def receiver(self, answer, **more):
        receiver = Http2Receiver(self.dir, answer, **more)
        self.addCleanup(receiver.close)
        return receiver

    def deliver(self, receiver, texts, **more):
        """Produces them, and waits until all is settled, retries too; the bodies by webhook-id."""
        for i in range(2):
            self.kafka.produce(self.topic, [(b"k", text) for text in texts[i::2]], partition=i)
        worker = self.worker(self.settings(http__ca_bundle=str(receiver.ca), **more))
        rig.await_("everything is settled, retries too", 120, lambda: self.quiet(), worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        for fault in ("tenant", "data", "system"):
            self.assertEqual([], [r.headers for r in self.dead(fault)])
        bodies = collections.defaultdict(list)
        for stream in receiver.requests:
            bodies[json.loads(bytes(stream.body))["id"]].append(bytes(stream.body))
        wanted = {json.loads(text)["id"]: model.redact(text) for text in texts}
        self.assertEqual(set(wanted), set(bodies))
        for id, text in wanted.items():
            self.assertEqual({text}, set(bodies[id]))
        return bodies

    def texts(self, receiver, count, tenants=4, **more):
        return [events.dump(events.run({"type": "webhook", "url": f"{receiver.url}/t{i % tenants}"}, id=rig.unique(f"h2-{i}"), **more))
                for i in range(count)]

    def test_kept_connections(self):
        """many requests one after another on each connection, each event once"""
        receiver = self.receiver(lambda stream: 200)
        bodies = self.deliver(receiver, self.texts(receiver, FEW))
        self.assertEqual({1}, {len(arrived) for arrived in bodies.values()})
        rig.say(f"{receiver.connections} connections, {receiver.most_at_once} requests at once on one")
        self.assertLessEqual(receiver.connections, FEW // 10)
        self.assertEqual({"POST"}, {stream.headers[":method"] for stream in receiver.requests})
        self.assertEqual({"https"}, {stream.headers[":scheme"] for stream in receiver.requests})

    def test_flow_control(self):
        """bodies ten times the peer's window: each goes on when credit comes"""
        receiver = self.receiver(lambda stream: 200)
        bodies = self.deliver(receiver, self.texts(receiver, LARGE, padding="x" * 700_000))
        self.assertEqual({1}, {len(arrived) for arrived in bodies.values()})

    def test_streams_reset(self):
        """one in five streams is reset and one in seven refused: retried, the others on the connection unharmed"""
        seen = collections.Counter()

        def answer(stream):
            seen["all"] += 1
            return "reset" if seen["all"] % 5 == 0 else 503 if seen["all"] % 7 == 0 else 200
        receiver = self.receiver(answer)
        self.deliver(receiver, self.texts(receiver, FEW), retry__window__webhook="2m", breaker__failures="1000")
        self.assertGreater(seen["all"], FEW)

    def test_head_decides(self):
        """an answer of 200 counts, whatever becomes of its body, its stream and its connection"""
        for untidy in ("half", "hang", "drop"):
            with self.subTest(untidy):
                receiver = self.receiver(lambda stream: untidy)
                self.topic = rig.unique("untidy")
                self.kafka.create(self.topic, 2)
                # One at a time on a connection: another stream on one that is dropped is another story.
                bodies = self.deliver(receiver, self.texts(receiver, 12, tenants=1), dest__concurrency="1", http__answer_wait="100ms" if untidy == "hang" else "20s")
                self.assertEqual({1}, {len(arrived) for arrived in bodies.values()})

    def test_connections_end(self):
        """the peer says GOAWAY after every twentieth answer"""
        seen = collections.Counter()

        def answer(stream):
            seen[stream.connection] += 1
            return "leave" if seen[stream.connection] == 20 else 200
        receiver = self.receiver(answer)
        self.deliver(receiver, self.texts(receiver, FEW), retry__window__webhook="2m", breaker__failures="1000")
        self.assertGreater(receiver.connections, FEW // 40)


if __name__ == "__main__":
    rig.main()
