"""Servers and name servers that mean harm: whatever they answer, in whatever order, however late, the others are served."""
import collections
import contextlib
import os
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

import attack
import events
import netns
import rig

sys.path.append(str(Path(__file__).parents[1] / "flow"))
from http_peer import RAW, raw  # noqa: E402


class Answers(attack.Case):
    def serve(self, one):
        """Requests of a connection: the last part of the path names what is answered."""
        stream = one.makefile("rb")
        while line := stream.readline():
            length = 0
            while header := stream.readline().strip():
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            stream.read(length)
            name = line.split()[1].decode().partition("?")[0].strip("/").split("/")[-1]
            self.asked[name] += 1
            if not raw(one, name):
                return

    def test_every_answer_in_turn(self):
        """each hostile answer three times, by one connection at a time, to webhooks and to stores of both signatures"""
        self.asked = collections.Counter()
        listeners = [socket.create_server(("127.66.0.1", 0), backlog=128) for _ in range(2)]
        for listener in listeners:
            self.addCleanup(listener.close)
            netns.serve(listener, self.serve)
        hook, old = (f"http://127.66.0.1:{listener.getsockname()[1]}" for listener in listeners)
        self.begin(s3__sigv2_endpoints=old, http__timeout="2s", http__idle_timeout="1s", http__answer_wait="200ms",
                   dest__concurrency="1", retry__window__webhook="100ms", retry__window__s3="100ms", key__object="{prefix}{partition}/{offset}/{id}",
                   breaker__failures="1000")
        hostile = []
        for name in sorted(RAW):
            if RAW[name][1] == "hang":
                continue
            sinks = [{"type": "webhook", "url": f"{hook}/{name}"}]
            for url in (hook, old):
                sinks.append({"type": "s3", "bucket": name, "region": "us-east-1", "accessKeyId": "AKIDEXAMPLE",
                              "secretAccessKey": "s3-secret", "endpoint": url, "forcePathStyle": True})
            hostile += [events.run(sink, id=name) for sink in sinks for _ in range(3)]
        with self.healthy():
            self.hostile(hostile)
            rig.await_("everything is settled, retries too", 90, self.quiet, self.attacked)
        self.judge()
        rig.say(len(hostile), "hostile answers,", sum(self.asked.values()), "requests")
        self.assertEqual({name for name in RAW if RAW[name][1] != "hang"}, set(self.asked) & set(RAW))
        self.assertEqual([], [letter.headers for letter in self.dead("system")])


class NameServer:
    """On port 53 of a loopback address: knows some names at once, and is silent about all others."""

    def __init__(self, address, knows):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.knows, self.asked = knows, collections.Counter()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                query, peer = self.socket.recvfrom(512)
                if not query:  # no query is that short: it was shut down
                    return
                labels, at = [], 12
                while query[at]:
                    labels.append(query[at + 1:at + 1 + query[at]].decode())
                    at += 1 + query[at]
                name, kind = ".".join(labels).lower(), struct.unpack_from("!H", query, at + 1)[0]
                self.asked[name] += 1
                if not name.endswith(self.knows):
                    continue
                found = socket.inet_aton("127.66.0.2") if kind == 1 else b""
                head = struct.pack("!2sHHHHH", query[:2], 0x8180, 1, 1 if found else 0, 0, 0)
                body = struct.pack("!HHHIH", 0xc00c, 1, 1, 0, 4) + found if found else b""
                self.socket.sendto(head + query[12:at + 5] + body, peer)

    def close(self):
        with contextlib.suppress(OSError):  # it has no peer, but its reader wakes
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()


class Names(attack.Case):
    THREADS = 8

    def worker(self, settings=None, *arguments, **options):
        """In a namespace of mounts in which resolv.conf is ours."""
        return super().worker(settings, *arguments, wrap=self.wrap, **options)

    def name_server(self, *knows):
        """Of the worker to come. Its names lead to a receiver: the port, and when a path was first asked for."""
        try:
            names = NameServer("127.66.0.53", knows)
        except OSError as error:
            self.skipTest(f"needs port 53 of a loopback address: {error}")
        self.addCleanup(names.close)
        conf = Path(tempfile.mkdtemp(prefix="runsink-names-"))
        self.addCleanup(shutil.rmtree, conf, ignore_errors=True)
        (conf / "resolv.conf").write_text("nameserver 127.66.0.53\n")
        self.wrap = ("unshare", "--mount", "sh", "-c", f'mount --bind {conf}/resolv.conf /etc/resolv.conf; exec "$@"', "sh")
        listener = socket.create_server(("127.66.0.2", 0), backlog=256)
        self.addCleanup(listener.close)
        arrived = {}

        def serve(one):
            stream = one.makefile("rb")
            while line := stream.readline():
                while stream.readline().strip():
                    pass
                arrived.setdefault(line.split()[1].decode(), time.monotonic())
                one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
        netns.serve(listener, serve)
        return names, listener.getsockname()[1], arrived

    def test_domains_are_cheap(self):
        """one workspace has hundreds of silent names below a short domain, and hundreds of silent domains: new tenants don't wait"""
        names, port, arrived = self.name_server(".fine")

        def named(host, path, workspace):
            return events.run({"type": "webhook", "url": f"http://{host}:{port}{path}"}, workspaceId=workspace)
        self.begin()
        sent = {}
        with self.healthy(seconds=90):
            self.hostile([named(f"n{i}.evl.io" if i % 2 else f"www.evl{i}.io", "/", "evil") for i in range(1000)])
            rig.await_("name servers are silent", 30, lambda: len(names.asked) >= 4, self.attacked)
            for i in range(10):
                sent[f"/{i}"] = time.monotonic()
                self.hostile([named(f"hooks.shop{i}.fine", f"/{i}", f"shop{i}")], key=b"good")
                time.sleep(0.5)  # so that they meet the silent names at many moments
            rig.await_("new names are found", 60, lambda: len(arrived) == len(sent), self.attacked)
        self.judge()
        waited = {path: round(arrived[path] - at, 1) for path, at in sent.items()}
        rig.say("new tenants waited", waited, f"{len(names.asked)} names asked for")
        self.assertLess(max(waited.values()), 4, waited)  # less than for one silent name

    def test_silent_name_servers(self):
        """hundreds of names that nobody answers for: few threads and descriptors, and names that are known are found"""
        names, port, arrived = self.name_server(".good.example")
        self.begin(resolver__threads=str(self.THREADS), retry__window__webhook="20s", log__level="debug")
        process = self.attacked.process.pid
        most, over, before = [0, 0], threading.Event(), set()

        def resolvers():
            """Of the process's threads those that resolve; librdkafka begins and ends its own with its brokers."""
            tasks = Path(f"/proc/{process}/task").iterdir()
            return {task.name for task in tasks if (task / "comm").read_text().strip() == "resolver"}

        def count():
            nonlocal before
            while not over.wait(0.05):
                with contextlib.suppress(OSError):
                    now = resolvers()
                    # Seen twice: one that is just ending may be there beside the one that takes its place.
                    most[0] = max(most[0], len(now & before))
                    before = now
                    most[1] = max(most[1], len(os.listdir(f"/proc/{process}/fd")))
        watching = threading.Thread(target=count, daemon=True)
        watching.start()

        def named(host, path):
            return events.run({"type": "webhook", "url": f"http://{host}:{port}{path}"}, workspaceId=host)
        with self.healthy(seconds=90):
            self.hostile([named("www.good.example", "/known")])
            rig.await_("a name is found", 30, lambda: "/known" in arrived, self.attacked)
            self.hostile([named(f"h{i}.evil-{i % 150}.example", "/") for i in range(300)])
            rig.await_("name servers are silent", 30, lambda: len(names.asked) > self.THREADS // 2, self.attacked)
            self.hostile([named(f"h{i}.good.example", f"/{i}") for i in range(30)], key=b"good")
            rig.await_("names that are known are found", 60, lambda: len(arrived) == 31, self.attacked)
        over.set()
        watching.join()
        self.judge()
        rig.say(f"{most[0]} threads resolve; {most[1]} descriptors; {len(names.asked)} names asked for")
        self.assertIn(most[0], range(1, self.THREADS + 1))
        self.assertLessEqual(most[1], 64 + 64 + 256 + 4 * self.THREADS)


if __name__ == "__main__":
    rig.main()
