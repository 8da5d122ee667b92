"""A hostile tenant beside healthy ones: what a test of promise P4 needs. The healthy tenants' receiver shares nothing with the
attacker but the worker; each of its destinations has an address of its own, as tenants' servers have.

    class Mine(attack.Case):
        def test_it(self):
            self.begin()                      # a worker with a small budget, watched from now on
            with self.healthy():              # 50 destinations get events at an even pace until the block ends
                self.hostile([...])           # values of Kafka records
                ...
            self.judge()                      # all arrived once, soon; small, alive and answering all the time

What is judged here holds on any machine. How much slower the healthy ones get is measured by `scripts/load attack`.
"""
import asyncio
import contextlib
import json
import random
import re
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import events
import rig
from confluent_kafka import Producer

MIB = 1 << 20


class HealthyServers:
    """Answers 200 at once on many loopback addresses; knows when each event came, by its run's id."""

    def __init__(self, count):
        self.addresses = [f"127.77.{i // 250}.{i % 250 + 1}" for i in range(count)]
        self.arrived = {}  # run id -> [seconds]
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.run, daemon=True).start()
        self.ready.wait(30)

    def urls(self):
        return [f"http://{one}:{self.port}/hook" for one in self.addresses]

    def run(self):
        asyncio.set_event_loop(self.loop)
        while True:
            self.port = rig.free_port()
            with contextlib.suppress(OSError):
                self.server = self.loop.run_until_complete(
                    asyncio.start_server(self.serve, self.addresses, self.port, backlog=256))
                break
        self.ready.set()
        self.loop.run_forever()
        self.loop.close()

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(re.search(rb"\r\ncontent-length: *(\d+)", head)[1]))
                self.arrived.setdefault(json.loads(body)["id"], []).append(time.monotonic())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    def close(self):
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def end(self):
        self.server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


class Watch:
    """Asks a worker for its health all the time, as a kubelet does, and how much memory it has."""

    def __init__(self, worker):
        self.worker, self.refused, self.peak = worker, [], 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        answered = False
        while not self.over.wait(0.25) and self.worker.exited() is None:
            with contextlib.suppress(OSError, TypeError):
                status = Path(f"/proc/{self.worker.process.pid}/status").read_text()
                self.peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.worker.admin_port}/healthz", timeout=5) as answer:
                    answered = answered or answer.status == 200
            except (OSError, urllib.error.URLError) as error:
                if answered:  # before its first answer it is starting
                    self.refused.append(repr(error))

    def stop(self):
        self.over.set()
        self.thread.join(10)


class Case(rig.Case):
    HEALTHY = 50
    BUDGET_MIB = 64
    PARTITIONS = 4

    def begin(self, **settings):
        """Starts the worker and awaits its assignment. Settings as rig.Case.settings() has them."""
        self.kafka.create(self.topic, self.PARTITIONS, max_message_bytes=4 << 20)
        self.servers = HealthyServers(self.HEALTHY)
        self.addCleanup(self.servers.close)
        self.sent = {}  # run id of a healthy event -> seconds
        self.producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "linger.ms": 0, "log_level": 2,
                                  "message.max.bytes": 4 << 20})
        budget = {"memory__budget": f"{self.BUDGET_MIB}MiB", "breaker__failures": "5", "breaker__probe": "1s"}
        self.attacked = self.worker(self.settings(**{**budget, **settings}))
        rig.await_("partitions are assigned", 60, lambda: self.attacked.says("partitions assigned"), self.attacked)
        self.watch = Watch(self.attacked)
        self.addCleanup(self.watch.stop)
        return self.attacked

    def hostile(self, values, key=b"attacker", headers=None):
        """Produces records, spread over the partitions; each value is bytes, or a run as events.run() makes it."""
        for i, value in enumerate(values):
            value = events.dump(value) if isinstance(value, dict) else value
            while True:
                try:
                    self.producer.produce(self.topic, value, key=key, partition=i % self.PARTITIONS, headers=headers)
                    break
                except BufferError:
                    self.producer.poll(0.1)
        self.assertEqual(0, self.producer.flush(60))

    @contextlib.contextmanager
    def healthy(self, rate=50, seconds=60):
        """Healthy events at an even pace while the block runs; awaits at its end that all have arrived."""
        over = threading.Event()
        thread = threading.Thread(target=self._produce_healthy, args=(rate, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)
        self.producer.flush(30)
        rig.await_("all healthy events have arrived", seconds, self.all_arrived, self.attacked)

    def _produce_healthy(self, rate, over):
        urls, begin, n = self.servers.urls(), time.monotonic(), 0
        while not over.wait(0.01):
            while n < (time.monotonic() - begin) * rate:
                tenant = n % len(urls)
                id = f"healthy-{len(self.sent)}"
                run = events.run({"type": "webhook", "url": urls[tenant]}, id=id, workspaceId=f"healthy-workspace-{tenant}")
                self.sent[id] = time.monotonic()
                self.producer.produce(self.topic, events.dump(run), key=str(tenant).encode(),
                                      partition=random.randrange(self.PARTITIONS))
                n += 1
            self.producer.poll(0)

    def all_arrived(self):
        return self.sent.keys() <= self.servers.arrived.keys()

    def latencies(self):
        """Of the healthy events, seconds, sorted."""
        return sorted(self.servers.arrived[id][0] - at for id, at in self.sent.items())

    def judge(self, late=10.0):
        """late: seconds that no healthy event may take, far above what an idle machine needs, far below any timeout."""
        self.watch.stop()
        waits = self.latencies()
        p99 = waits[int(len(waits) * 0.99)] if waits else 0
        rig.say(f"{len(waits)} healthy events, p99 {1000 * p99:.0f} ms, at most {1000 * waits[-1]:.0f} ms; "
                f"peak {self.watch.peak:.0f} MiB; {len(self.watch.refused)} health probes failed")
        self.assertIsNone(self.attacked.exited(), self.attacked.tail())
        self.assertFalse(self.attacked.says("starts anew"), self.attacked.tail())
        self.assertEqual([], self.watch.refused)
        self.assertEqual([], [id for id, times in self.servers.arrived.items() if len(times) != 1])
        self.assertLess(waits[-1], late)
        self.assertLess(self.watch.peak, self.BUDGET_MIB + 64)
