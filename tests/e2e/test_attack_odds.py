"""Attacks on what stands beside the deliveries: the admin server, the disk, a receiver behind CGI, a terminal."""
import contextlib
import re
import socket
import threading
import time
import unittest
from pathlib import Path

import attack
import events
import rig


class Unit(unittest.TestCase):
    def test_limits(self):
        """the service is bounded by its unit too: more memory than the budget and what stands beside it, no swap, tasks, descriptors"""
        unit = (Path(rig.__file__).parents[2] / "config/systemd/runsink.service").read_text()
        found = dict(re.findall(r"(?m)^(MemoryMax|MemorySwapMax|TasksMax|LimitNOFILE)=(\d+)M?$", unit))
        self.assertEqual({"MemoryMax", "MemorySwapMax", "TasksMax", "LimitNOFILE"}, set(found))
        budget = re.search(r"`memory\.budget` \| `(\d+)MiB`", rig.runsink("check", "--reference").stdout.decode())
        self.assertGreater(int(found["MemoryMax"]), int(budget[1]) * 5 / 4 + 64)
        self.assertEqual("0", found["MemorySwapMax"])
        self.assertGreaterEqual(int(found["TasksMax"]), 512)
        self.assertGreaterEqual(int(found["LimitNOFILE"]), 16384)


class Odds(attack.Case):
    def test_deep_paths_and_trickles(self):
        """paths of many folders, and 96 connections that trickle at the admin port, beside tenants who do neither"""
        root = self.dir / "root"
        root.mkdir()
        worker = self.begin(file__root=root, admin__timeout="2s", retry__window__file="1s")
        over = threading.Event()
        self.addCleanup(over.set)

        def trickle():
            while not over.is_set():
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", worker.admin_port)) as one:
                    one.sendall(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
                    while not over.wait(0.2):
                        one.sendall(b"x")

        for _ in range(96):
            threading.Thread(target=trickle, daemon=True).start()
        deep = [{"type": "file", "path": f"{n}" + "/d" * 250} for n in range(40)]
        deepest = [{"type": "file", "path": f"ok-{n}" + "/d" * 31} for n in range(40)]
        with self.healthy():
            self.hostile([events.run(sink, id=f"deep-{n}") for n, sink in enumerate(deep + deepest)])
            self.until_settled(worker)
            rig.await_("every deep path has its end", 30, lambda: len(self.dead("tenant")) == 40, worker)
            until = time.monotonic() + 3
            rig.await_("some time has passed", 10, lambda: time.monotonic() > until, worker)
        over.set()
        self.assertEqual(40, len(list(root.glob("ok-*" + "/d" * 31 + "/*/*/*/*/*.json"))))
        self.assertEqual([], list(root.glob("[0-9]*")))
        self.judge()


if __name__ == "__main__":
    rig.main()
