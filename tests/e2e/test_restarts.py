"""The broker is restarted while webhooks are called: what was delivered is settled once the broker is back, and not sent again."""
import json
import shutil
import tempfile
import threading
from collections import Counter
from pathlib import Path

import rig
from receiver import Receiver
from test_lifecycle import Feed

RESTARTS = 3


class Restarts(rig.Case):
    def test_webhooks(self):
        """an orderly restart of the only broker, again and again: each event is sent once, though its settlement was interrupted"""
        dir = Path(tempfile.mkdtemp(prefix="runsink-broker-"))
        self.addCleanup(shutil.rmtree, dir, ignore_errors=True)
        own = rig.Services(dir, ["kafka"])
        self.addCleanup(own.stop)
        self.kafka = own.kafka()
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 3)
        feed = Feed(self.kafka, self.topic, {"type": "webhook", "url": receiver.url}, 3)
        settings = self.settings(window__age="50ms")
        settings["kafka"]["session.timeout.ms"] = 45000  # librdkafka's default: no restart takes so long
        worker = self.worker(settings)
        over = threading.Event()
        thread = threading.Thread(target=feed.trickle, args=[over])
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(over.set)
        for _ in range(RESTARTS):
            before = len(receiver.requests)
            rig.await_("events flow", 60, lambda: len(receiver.requests) > before + 300, worker)
            own.verb("restart", "kafka")
        before = len(receiver.requests)
        rig.await_("events flow", 60, lambda: len(receiver.requests) > before + 300, worker)
        over.set()
        thread.join()
        self.until_settled(worker, 120)
        # A producer may send an event twice when it loses the broker: as often it stands in the topic.
        there = Counter(json.loads(one.value)["id"] for one in self.kafka.consume(self.topic))
        calls = Counter(json.loads(one.body)["id"] for one in receiver.requests)
        rig.say(f"{there.total()} events, {calls.total()} calls, {worker.text().count('starts anew')} lanes began anew")
        self.assertEqual([], (there - calls).most_common(5), "lost")
        self.assertEqual([], (calls - there).most_common(5), "sent again")


if __name__ == "__main__":
    rig.main()
