"""10,000 destinations in one batch.age: the flush is spread over the connections that are configured, memory keeps to its budget,
and each destination gets its one object. A window is sealed when its ledger entry fills a Kafka record, which some 1,300
destinations do, so these are several windows, batch.inflight of them flushed at a time."""
import asyncio
import contextlib
import hashlib
import random
import re
import threading
from pathlib import Path

import events
import model
import rig

DESTINATIONS = 10000
BUCKETS = 100
CONNECTIONS = 32
BUDGET_MIB, MORE_MIB = 64, 32


class Counter(threading.Thread):
    """Passes HTTP requests on to a store and counts how many it has at once."""

    def __init__(self, upstream):
        super().__init__(daemon=True)
        host, _, port = upstream.removeprefix("http://").rpartition(":")
        self.upstream = host, int(port)
        self.now = self.peak = self.requests = self.connections = 0
        self.ready, self.loop = threading.Event(), asyncio.new_event_loop()

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.server = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1024))
        self.url = "http://127.0.0.1:%d" % self.server.sockets[0].getsockname()[1]
        self.ready.set()
        self.loop.run_forever()

    def close(self):
        def end():
            self.server.close()
            for task in asyncio.all_tasks():
                task.cancel()
            self.loop.call_soon(self.loop.stop)
        self.loop.call_soon_threadsafe(end)
        self.join()
        self.loop.close()

    async def message(self, reader, writer):
        """One request or answer from here to there."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
        writer.write(head + await reader.readexactly(int(length[1]) if length else 0))
        await writer.drain()

    async def serve(self, reader, writer):
        self.connections += 1
        store = await asyncio.open_connection(*self.upstream)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.now += 1
                self.requests += 1
                self.peak = max(self.peak, self.now)
                length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
                store[1].write(head + await reader.readexactly(int(length[1])))
                await self.message(store[0], writer)
                self.now -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            store[1].close()
            writer.close()


class Many(rig.Case):
    def setUp(self):
        super().setUp()
        # Its 10,000 objects would slow down the store for whoever shares it.
        name = "versitygw" if rig.services().store("versitygw") else "s3proxy"
        own = rig.Services(self.dir / "services", (name,))
        self.addCleanup(own.stop)
        self.store = own.store(name)
        self.counter = Counter(self.store.url)
        self.counter.start()
        self.counter.ready.wait()
        self.addCleanup(self.counter.close)
        self.buckets = [self.store.bucket(rig.unique("many")) for _ in range(BUCKETS)]
        self.kafka.create(self.topic, 1)

    def sink(self, number):
        return {**self.store.sink(self.buckets[number % BUCKETS], prefix=f"tenant {number}/"), "endpoint": self.counter.url}

    def produce(self):
        """{(bucket, prefix): (offset, MD5 of its object)}"""
        numbers, records, expected = [*range(DESTINATIONS)], [], {}
        random.Random(1).shuffle(numbers)
        for offset, number in enumerate(numbers):
            record = events.dump(events.run(self.sink(number)))
            records.append((b"k", record))
            digest = hashlib.md5(model.redact(record) + b"\n").hexdigest()
            expected[self.buckets[number % BUCKETS], f"tenant {number}/"] = offset, digest
        self.kafka.produce(self.topic, records)
        return expected

    def delivered(self):
        """{(bucket, prefix): (first, next, MD5)}, and that there is one object each."""
        found = {}
        name = re.compile(r"(tenant \d+/)dt=[\d-]+/" + self.topic + r"-0-(\d+)-(\d+)-[0-9a-f]{12}\.ndjson")
        for bucket in self.buckets:
            listed = self.store.root.list_objects_v2(Bucket=bucket)
            self.assertFalse(listed["IsTruncated"])
            for one in listed.get("Contents", []):
                prefix, first, next_ = name.fullmatch(one["Key"]).groups()
                self.assertNotIn((bucket, prefix), found)
                found[bucket, prefix] = int(first), int(next_), one["ETag"].strip('"')
        return found

    def test_10000_destinations(self):
        """one object each, no more requests at once than configured, memory within its budget, the lane never silent"""
        expected = self.produce()
        settings = self.settings(archive="batch", batch__age="5s", batch__bytes="32MiB", batch__compression="none",
                                 http__max_connections=CONNECTIONS, memory__budget=f"{BUDGET_MIB}MiB", retry__window__s3="1h")
        worker = self.worker(settings)
        silence = []

        def settled():
            with contextlib.suppress(OSError):  # it is only just starting
                silence.append(worker.metric("runsink_lane_silence_seconds"))
            return self.kafka.settled(self.group, self.topic)

        rig.await_("all is delivered", 80, settled, worker)
        peak_kib = int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.process.pid}/status").read_text())[1])
        self.assertEqual(0, worker.stop(), worker.tail())
        rig.say(f"{self.counter.requests} requests, at most {self.counter.peak} at once, on {self.counter.connections} connections; "
                f"peak RSS {peak_kib / 1024:.0f} MiB; lane silent for {max(silence):.1f} s at most")

        found = self.delivered()
        self.assertEqual(expected.keys(), found.keys())
        for place, (offset, digest) in expected.items():
            first, next_, etag = found[place]
            self.assertEqual(digest, etag, place)
            self.assertTrue(first <= offset < next_, place)
        self.assertEqual(DESTINATIONS, self.counter.requests)
        self.assertLessEqual(self.counter.peak, CONNECTIONS)
        self.assertGreater(self.counter.peak, CONNECTIONS // 4)
        self.assertLessEqual(self.counter.connections, CONNECTIONS)
        self.assertLess(peak_kib, (BUDGET_MIB + MORE_MIB) * 1024)
        self.assertLess(max(silence), 5)


if __name__ == "__main__":
    rig.main()
