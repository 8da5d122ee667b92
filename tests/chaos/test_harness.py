"""The judge judged: whatever a run could do wrong, the checker names it; and the proxy does to a request what it says."""
import base64
import gzip
import hashlib
import http.client
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from urllib.parse import quote

import checker
import coordinators
import hanging
import hooks
from canaries import Canaries, cores
from checker import Event
from plan import draw_plan

TOPIC = "t-1-x-2"


class Hanging(unittest.TestCase):
    def test_rows(self):
        """as the tool prints them, tabs and padding included"""
        said = "Topic         \tPartition\tProducerId\tProducerEpoch\tCoordinatorEpoch\tStartOffset\tLastTimestamp\tDuration(min)\t\n" \
               "runs.retry.1s \t3        \t12        \t0            \t0               \t42         \t1             \t4            \t\n"
        self.assertEqual([], hanging.read(said.splitlines()[0]))
        self.assertEqual([("runs.retry.1s", "3", "42")], hanging.read(said))


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


def named(window):
    """As keys have it: with a digest of the destination, and the ordinal where one window has several of one place."""
    window, dot, nth = window.partition(".")
    return f"{window}-0123456789ab{dot}{nth}"


class Batches(unittest.TestCase):
    def setUp(self):
        self.events = [event(n) for n in range(6)] + [event(n, partition=1) for n in range(3)]
        self.place = Memory("b")
        self.put("0-0-4", self.events[:4])
        self.put("0-4-9", self.events[4:6])
        self.put("1-0-3", self.events[6:])

    def put(self, window, events, suffix="", prefix=""):
        text = b"".join(e.line + b"\n" for e in events)
        self.place.content[f"{prefix}dt=2026-01-02/{TOPIC}-{named(window)}.ndjson{suffix}"] = gzip.compress(text) if suffix else text

    def drop(self, window):
        del self.place.content[f"dt=2026-01-02/{TOPIC}-{named(window)}.ndjson"]

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
        self.place.content[f"dt=2026-01-02/{TOPIC}-{named('0-4-9')}.ndjson"] += b'{"n":"nobody\'s"}\n'
        self.assertEqual(["changed"], self.kinds())

    def test_last_line_has_no_end(self):
        key = f"dt=2026-01-02/{TOPIC}-{named('0-4-9')}.ndjson"
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
        key = f"dt=2026-01-02/{TOPIC}-{named('0-4-9')}.ndjson"
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
        self.put("0-4-9.2", twins)
        self.assertEqual([], self.kinds())
        self.put("0-4-9.2", [self.events[5], *twins])
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

    def start(self, rate, seed="s", record=None):
        what = ["--record", record] if record else ["--upstream", f"127.0.0.1:{self.store.server_port}"]
        command = [sys.executable, "-B", Path(__file__).with_name("faultproxy.py"), *what, "--rate", str(rate), "--seed", seed]
        proxy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(proxy.stdout.close)
        self.addCleanup(proxy.wait)
        self.addCleanup(proxy.stdin.close)
        self.port = int(proxy.stdout.readline())
        return proxy

    def put(self, path, body=b"body" * 100, method="PUT", headers=()):
        """The status, or the name of what happened to the connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request(method, path, body, dict(headers))
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

    def test_recorder(self):
        file = Path(tempfile.mkdtemp()) / "calls"
        self.addCleanup(shutil.rmtree, file.parent)
        proxy = self.start(0.7, record=file)
        told = {n: self.put("/hook", f"body {n}".encode(), "POST", {"webhook-id": f"id-{n}"}) for n in range(60)}
        self.tell(proxy, "rate 0", "drain")
        proxy.stdout.readline()
        calls = hooks.read_calls(file)
        passed = [n for n, status in told.items() if status == 200]
        self.assertTrue(5 < len(passed) < 55)
        for n in passed:
            self.assertTrue({None, "half-answer"} & {call.fault for call in calls[f"id-{n}"]})
        self.assertTrue(any(call.fault for found in calls.values() for call in found))
        for id_, found in calls.items():
            digest = hashlib.sha256(f"body {id_.removeprefix('id-')}".encode()).hexdigest()
            self.assertEqual({digest}, {call.sha256 for call in found})

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
        self.assertEqual({"kill", "crash", "stop", "leave", "join", "broker", "coordinator", "outage", "disk"}, kinds)

    def test_brokers_and_noise(self):
        plans = [draw_plan(seed) for seed in range(400)]
        self.assertTrue(20 < sum(plan.brokers == 3 for plan in plans) < 70)
        for plan in plans:
            kinds = {action.kind for action in plan.actions}
            self.assertEqual(plan.brokers == 3, "coordinator" in kinds)
            self.assertFalse(plan.brokers == 3 and "broker" in kinds)
        signals = {action.argument for plan in plans if plan.noisy for action in plan.actions if action.kind == "kill"}
        self.assertEqual({"KILL", "SEGV", "ABRT"}, signals)


class Hooks(unittest.TestCase):
    """Calls at 10, settled at 12; everything else is a variation."""

    def setUp(self):
        self.event = event(7, place="hook:")
        self.sha256 = hashlib.sha256(self.event.line).hexdigest()
        self.trouble = hooks.Trouble()

    def call(self, at, fault=None, **other):
        return hooks.Call(**{"at": at, "answered": at, "id": self.event.key, "sha256": self.sha256, "fault": fault, **other})

    def kinds(self, *calls, settled=12.0):
        return [v.kind for v in hooks.judge_event(self.event, list(calls), settled, self.trouble)]

    def test_once(self):
        self.assertEqual([], self.kinds(self.call(10)))

    def test_never(self):
        self.assertEqual(["missing"], self.kinds())

    def test_taken_but_never_told_so(self):
        self.assertEqual(["missing"], self.kinds(self.call(10, "after-500"), self.call(11, "late")))

    def test_not_in_the_ledger(self):
        self.assertEqual(["missing"], self.kinds(self.call(10), settled=None))

    def test_changed(self):
        self.assertEqual(["changed"], self.kinds(self.call(10, sha256="0" * 64)))

    def test_again_without_a_reason(self):
        self.assertEqual(["repeated"], self.kinds(self.call(10), self.call(11)))

    def test_again_after_a_lie(self):
        self.assertEqual([], self.kinds(self.call(10, "after-reset"), self.call(11)))
        self.assertEqual(["repeated"], self.kinds(self.call(10, "after-reset"), self.call(11), self.call(11.5)))

    def test_again_after_a_slow_answer(self):
        self.assertEqual([], self.kinds(self.call(8, answered=10), self.call(11)))

    def test_again_after_trouble_while_it_was_in_flight(self):
        self.trouble.at = [10.5]
        self.assertEqual([], self.kinds(self.call(10), self.call(11)))
        self.assertEqual(["repeated"], self.kinds(self.call(10), self.call(11), self.call(11.5)))

    def test_again_while_trouble_has_consequences(self):
        self.trouble.at = [10 - hooks.REACH_S + 1]
        self.assertEqual([], self.kinds(self.call(10), self.call(11)))

    def test_again_while_a_broker_is_away(self):
        self.trouble.away = [(9.5, 10.5)]
        self.assertEqual([], self.kinds(self.call(10), self.call(11)))
        self.assertEqual(["repeated"], self.kinds(self.call(10), self.call(10.5), self.call(11)))
        self.trouble.away = [(13, 20)]
        self.assertEqual(["repeated"], self.kinds(self.call(10), self.call(11)))

    def test_trouble_at_another_time_is_no_reason(self):
        self.trouble.at = [10 - hooks.REACH_S - 1, 14]
        self.assertEqual(["repeated"], self.kinds(self.call(10), self.call(11)))

    def test_after_it_was_settled(self):
        self.trouble.at = [10.5, 14]
        self.assertEqual(["repeated"], self.kinds(self.call(10), self.call(15)))

    def test_by_a_worker_that_woke_up(self):
        self.trouble.woken = [14.5]
        self.assertEqual([], self.kinds(self.call(10), self.call(15)))
        self.assertEqual(["repeated"], self.kinds(self.call(10), self.call(15), self.call(15.1)))

    def test_unknown_id(self):
        violations, _ = hooks.judge([self.event], {self.event.key: [self.call(10)], "x": [self.call(10, id="x")]}, {(0, 7): 12.0},
                                    self.trouble)
        self.assertEqual(["unexplained"], [v.kind for v in violations])

    def test_ledger(self):
        entries = [{"topic": "t", "partition": 3, "settled": 5000, "delivered": [{"objects": [{"offsets": [9]}]},
                                                                                 {"requests": [{"offsets": [1, [4, 5]]}]}]},
                   {"topic": "t.retry.1s", "partition": 2, "settled": 7500,
                    "delivered": [{"requests": [{"offsets": [[0, 1]], "origin": [["t", 3, [8, 7]]]}]}]}]
        self.assertEqual({(3, 1): 5.0, (3, 4): 5.0, (3, 5): 5.0, (3, 8): 7.5, (3, 7): 7.5}, hooks.settlements(entries, "t"))


class Secrets(unittest.TestCase):
    def setUp(self):
        self.canaries = Canaries(draw_plan(1))
        self.secret = self.canaries.new("here", odd='/+"\\')
        self.dir = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.dir)

    def found(self, content):
        (self.dir / "log").write_bytes(b"before " + content + b" behind")
        return [secret for _, secret in self.canaries.search([self.dir / "log"])]

    def test_repeats_and_differs(self):
        self.assertEqual(self.secret, Canaries(draw_plan(1)).new("here", odd='/+"\\'))
        self.assertNotEqual(self.secret, self.canaries.new("there", odd='/+"\\'))

    def test_nothing(self):
        self.assertEqual([], self.found(self.secret[:-1].encode()))

    def test_spellings(self):
        raw = self.secret.encode()
        basic = [base64.b64encode(before + raw + behind) for before in (b"", b"u", b"us") for behind in (b"", b":", b":p")]
        for form in [raw, json.dumps(self.secret).encode(), quote(self.secret, safe="").encode(), raw.hex().encode(),
                     re.sub("%..", lambda escape: escape[0].lower(), quote(self.secret, safe="")).encode(), *basic]:
            self.assertEqual([self.secret], self.found(b"x" + form + b"x"), form)

    def test_cores(self):
        (self.dir / "core.17").write_bytes(b"")
        self.assertEqual(["core.17"], cores(self.dir))


class Coordinators(unittest.TestCase):
    def test_hash(self):
        # What java.lang.String.hashCode gives, its absolute value.
        self.assertEqual([0, 97, 96354, 99162322], [coordinators.java_hash(text) for text in ("", "a", "abc", "hello")])
        self.assertEqual(1224904141, coordinators.java_hash("hello, wonderful w"))


if __name__ == "__main__":
    unittest.main()
