"""The judge judged: whatever a run could do wrong, the checker names it; and the proxy does to a request what it says."""
import gzip
import hashlib
import http.client
import http.server
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

import checker
from checker import Event
from plan import draw_plan

TOPIC = "t-1-x-2"


class Memory:
    """A place in memory: key -> content."""

    def __init__(self, name, content=None):
        self.name, self.content, self.metadata = name, dict(content or {}), {}

    def list(self):
        return {key: hashlib.md5(content).hexdigest() for key, content in self.content.items()}

    def get(self, key):
        return self.content[key], self.metadata.get(key, {})


def event(offset, place="b", destination="d", prefix="", partition=0):
    return Event(partition=partition, offset=offset, place=place, destination=destination, prefix=prefix,
                 key=f"{prefix}own-{partition}-{offset}.json", line=f'{{"n":"{place}{destination}{partition}/{offset}"}}'.encode())


class Objects(unittest.TestCase):
    def setUp(self):
        self.events = [event(0), event(1), event(2)]
        self.place = Memory("b", {e.key: e.line for e in self.events})

    def kinds(self):
        return [v.kind for v in checker.check_objects(self.events, [self.place])]

    def test_good(self):
        self.assertEqual([], self.kinds())

    def test_missing(self):
        del self.place.content[self.events[1].key]
        self.assertEqual(["missing"], self.kinds())

    def test_a_second_object(self):
        self.place.content["own-0-1-again.json"] = self.events[1].line
        self.assertEqual(["unexplained"], self.kinds())

    def test_changed(self):
        self.place.content[self.events[1].key] += b" "
        self.assertEqual(["changed"], self.kinds())


class Batches(unittest.TestCase):
    def setUp(self):
        self.events = [event(n) for n in range(6)] + [event(n, partition=1) for n in range(3)]
        self.place = Memory("b")
        self.put("0-0-4", self.events[:4])
        self.put("0-4-9", self.events[4:6])
        self.put("1-0-3", self.events[6:])

    def put(self, window, events, suffix="", prefix=""):
        text = b"".join(e.line + b"\n" for e in events)
        self.place.content[f"{prefix}dt=2026-01-02/{TOPIC}-{window}.ndjson{suffix}"] = gzip.compress(text) if suffix else text

    def drop(self, window):
        del self.place.content[f"dt=2026-01-02/{TOPIC}-{window}.ndjson"]

    def kinds(self):
        return sorted({v.kind for v in checker.check_batches(self.events, [self.place], TOPIC)})

    def test_good(self):
        self.assertEqual([], self.kinds())

    def test_compressed(self):
        self.drop("1-0-3")
        self.put("1-0-3", self.events[6:], ".gz")
        self.assertEqual([], self.kinds())

    def test_missing_object(self):
        self.drop("0-4-9")
        self.assertEqual(["missing"], self.kinds())

    def test_missing_line(self):
        self.put("0-4-9", self.events[4:5])
        self.assertEqual(["missing", "unexplained"], self.kinds())

    def test_same_window_cut_differently(self):
        self.put("0-0-3", self.events[:3])
        self.assertEqual(["duplicate", "overlap"], self.kinds())

    def test_line_twice_in_an_object(self):
        self.put("0-4-9", self.events[4:6] + self.events[5:6])
        self.assertEqual(["duplicate", "unexplained"], self.kinds())

    def test_order(self):
        self.put("0-4-9", [self.events[5], self.events[4]])
        self.assertEqual(["unexplained"], self.kinds())

    def test_changed_line(self):
        self.place.content[f"dt=2026-01-02/{TOPIC}-0-4-9.ndjson"] += b'{"n":"nobody\'s"}\n'
        self.assertEqual(["changed"], self.kinds())

    def test_last_line_has_no_end(self):
        key = f"dt=2026-01-02/{TOPIC}-0-4-9.ndjson"
        self.place.content[key] = self.place.content[key][:-1]
        self.assertIn("unexplained", self.kinds())

    def test_foreign_key(self):
        self.place.content["something"] = b""
        self.assertEqual(["unexplained"], self.kinds())

    def test_wrong_partition_in_the_key(self):
        self.drop("1-0-3")
        self.put("2-0-3", self.events[6:])
        self.assertEqual(["unexplained"], self.kinds())

    def test_wrong_prefix(self):
        self.drop("1-0-3")
        self.put("1-0-3", self.events[6:], prefix="x/")
        self.assertEqual(["unexplained"], self.kinds())

    def test_metadata(self):
        key = f"dt=2026-01-02/{TOPIC}-0-4-9.ndjson"
        self.place.metadata[key] = {"count": "2", "sha256": hashlib.sha256(self.place.content[key]).hexdigest()}
        self.assertEqual([], self.kinds())
        self.place.metadata[key] = {"count": "3"}
        self.assertEqual(["changed"], self.kinds())
        self.place.metadata[key] = {"sha256": "0" * 64}
        self.assertEqual(["changed"], self.kinds())

    def test_two_destinations_in_one_place(self):
        twins = [event(n, destination="e") for n in (6, 7)]
        self.events += twins
        self.drop("0-4-9")
        self.put("0-4-9", self.events[4:6])
        self.put("0-4-9-2", twins)
        self.assertEqual([], self.kinds())
        self.put("0-4-9-2", [self.events[5], *twins])
        self.assertEqual(["duplicate", "unexplained"], self.kinds())


class Store(http.server.BaseHTTPRequestHandler):
    kept = {}
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        Store.kept[self.path] = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Proxy(unittest.TestCase):
    def setUp(self):
        Store.kept = {}
        self.store = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
        threading.Thread(target=self.store.serve_forever, daemon=True).start()
        self.addCleanup(self.store.server_close)
        self.addCleanup(self.store.shutdown)

    def start(self, rate, seed="s"):
        command = [sys.executable, "-B", Path(__file__).with_name("faultproxy.py"), "--upstream",
                   f"127.0.0.1:{self.store.server_port}", "--rate", str(rate), "--seed", seed]
        proxy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(proxy.stdout.close)
        self.addCleanup(proxy.wait)
        self.addCleanup(proxy.stdin.close)
        self.port = int(proxy.stdout.readline())
        return proxy

    def put(self, path, body=b"body" * 100):
        """The status, or the name of what happened to the connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=0.3)
        try:
            connection.request("PUT", path, body)
            return connection.getresponse().status
        except (ConnectionResetError, BrokenPipeError):
            return "reset"
        except TimeoutError:
            return "timeout"
        except http.client.HTTPException:
            return "garbage"
        finally:
            connection.close()

    def tell(self, proxy, *lines):
        proxy.stdin.write("".join(line + "\n" for line in lines))
        proxy.stdin.flush()

    def test_passes(self):
        self.start(0)
        self.assertEqual([200] * 5, [self.put(f"/{n}") for n in range(5)])
        self.assertEqual(5, len(Store.kept))

    def test_lies_and_repeats(self):
        outcomes = []
        for _ in range(2):
            Store.kept = {}
            proxy = self.start(1)
            outcomes.append([self.put(f"/{n}") for n in range(60)])
            self.tell(proxy, "rate 0", "drain")
            self.assertEqual("drained\n", proxy.stdout.readline())
            outcomes.append(sorted(Store.kept))
        self.assertEqual(outcomes[:2], outcomes[2:])
        self.assertEqual({500, 503, "reset", "timeout"}, set(outcomes[0]) - {"garbage", 200})
        # Some were kept and some were not, whatever the worker was told.
        self.assertTrue(10 < len(outcomes[1]) < 55)
        # The same path asked for again has another fate sooner or later: the store recovers.
        self.assertEqual(200, self.put("/again"))

    def test_late_bodies_arrive(self):
        proxy = self.start(1)
        resets = [path for path in map("/late{}".format, range(80)) if self.put(path) == "reset"]
        before = {path for path in resets if path in Store.kept}
        self.tell(proxy, "drain")
        proxy.stdout.readline()
        self.assertGreater(len({path for path in resets if path in Store.kept}), len(before))

    def test_outage(self):
        proxy = self.start(0)
        self.tell(proxy, "outage on", "drain")
        proxy.stdout.readline()
        self.assertEqual({503, "reset"}, {self.put(f"/{n}") for n in range(20)})
        self.assertEqual({}, Store.kept)
        self.tell(proxy, "outage off", "drain")
        proxy.stdout.readline()
        self.assertEqual(200, self.put("/after"))


class Plans(unittest.TestCase):
    def test_a_seed_repeats_its_plan(self):
        for seed in range(50):
            self.assertEqual(draw_plan(seed), draw_plan(seed))
            self.assertEqual(draw_plan(seed).first_crash(0), draw_plan(seed).first_crash(0))

    def test_all_kinds_of_trouble_are_drawn(self):
        kinds = {action.kind for seed in range(50) for action in draw_plan(seed).actions}
        self.assertEqual({"kill", "crash", "stop", "leave", "join", "broker", "outage", "disk"}, kinds)


if __name__ == "__main__":
    unittest.main()
