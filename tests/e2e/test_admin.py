"""The admin server: metrics that say what happened, health and readiness, what it refuses, and bounds that tenants can't move."""
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import events
import rig
from confluent_kafka import Consumer, Producer, TopicPartition
from receiver import Receiver


class Admin(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    def send(self, *sinks, partition=0, **more):
        runs = [events.dump(events.run(sink, id=rig.unique("run"), **more)) for sink in sinks]
        self.kafka.produce(self.topic, [(b"k", run) for run in runs], partition)

    def hook(self, path):
        return {"type": "webhook", "url": self.receiver.url + path}

    def hang(self, path):
        """Requests to this path wait until the event is set."""
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def answer(handler):
            go_on.wait(60)
            handler.send_response(204)
            handler.end_headers()

        self.receiver.play(path, answer)
        return go_on

    def up(self, **more):
        """A worker whose admin server answers."""
        worker = self.worker(self.settings(**more))
        rig.await_("the admin server listens", 30, lambda: worker.says("admin server listens"), worker)
        return worker

    def ask(self, worker, path, method="GET", body=None, headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", worker.admin_port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()

    def status(self, worker):
        return json.loads(worker.http("/status.json"))

    def until_metric(self, worker, value, name, **labels):
        rig.await_(f"{name} {labels} is {value}", 30, lambda: worker.metric(name, **labels) == value, worker)

    def health(self, worker, *arguments):
        done = rig.runsink("health", *arguments, "--config", worker.config)
        return done.returncode, (done.stdout + done.stderr).decode().strip()

    def test_counts(self):
        """/metrics says what became of each record; promtool finds nothing wrong with it"""
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        bucket = store.bucket(rig.unique("counted"))
        self.receiver.play("/bad", 500)
        self.kafka.create(self.topic, 2)
        self.send(*[store.sink(bucket)] * 7, *[self.hook("/ok")] * 3, "absent", self.hook("/bad"), {"type": "ftp"})
        self.kafka.produce(self.topic, [(b"k", b"no json"), (b"k", None)], 1)
        worker = self.up(retry__window__webhook="300ms")
        self.until_settled(worker)
        outcomes = {("delivered", "none", "s3"): 7, ("delivered", "none", "webhook"): 3, ("skipped", "none", "none"): 2,
                    ("dead", "data", "none"): 2, ("dead", "tenant", "webhook"): 1}
        for (outcome, fault, sink), count in outcomes.items():
            self.until_metric(worker, count, "runsink_outcomes_total", outcome=outcome, fault=fault, sink=sink)
        for reason in ("no-sink", "tombstone"):
            self.until_metric(worker, 1, "runsink_outcomes_total", outcome="skipped", reason=reason)
        for reason in ("not-json", "invalid-sink"):
            self.until_metric(worker, 1, "runsink_failures_total", reason=reason)
        self.assertGreaterEqual(worker.metric("runsink_failures_total", reason="http-5xx"), 1)
        self.assertEqual(7, worker.metric("runsink_delivery_seconds_count", sink="s3"))
        self.assertGreater(worker.metric("runsink_delivery_seconds_sum", sink="s3"), 0)
        self.assertGreaterEqual(worker.metric("runsink_attempts_failed_total", sink="webhook"), 1)
        self.assertGreaterEqual(worker.metric("runsink_outcomes_total", outcome="parked", sink="webhook"), 1)
        self.until_metric(worker, 0, "runsink_partition_lag_records", topic=self.topic)
        self.until_metric(worker, worker.metric("runsink_ledger_entries_total"), "runsink_windows_settled_total")
        committed = worker.metric("runsink_transactions_total", result="committed")
        self.assertGreater(committed, 0)
        self.assertEqual(committed, worker.metric("runsink_settlement_seconds_count"))
        for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds",
                     "runsink_memory_budget_bytes", "process_start_time_seconds", "runsink_build_info", "runsink_ready"):
            self.assertGreater(worker.metric(name), 0, name)
        text = worker.http("/metrics")
        self.assertNotIn(bucket, text)
        self.assertNotIn(str(self.receiver.port), text)
        self.assertEqual(0, worker.stop(), worker.tail())
        promtool = Path(__file__).parents[1] / "flow" / "promtool"
        checked = subprocess.run([promtool, "check", "metrics"], input=text.encode(), capture_output=True)
        if checked.returncode == 77:
            self.skipTest("promtool (Debian package prometheus) is not installed")
        self.assertEqual((0, b""), (checked.returncode, checked.stdout + checked.stderr))

    def test_names(self):
        """alerts and dashboard name metrics that exist, and labels that these have"""
        reference = rig.runsink("check", "--reference-metrics").stdout.decode()
        known = set(re.findall(r"^\| `(\w+)`", reference, re.M))
        self.assertGreater(len(known), 30)
        for line in re.findall(r"^\| `(\w+)` \| histogram", reference, re.M):
            known |= {line + end for end in ("_bucket", "_sum", "_count")}
        for name in ("prometheus/alerts.yml", "prometheus/alerts.test.yml", "grafana/runsink.json"):
            text = (Path(rig.__file__).parents[2] / "config" / name).read_text()
            used = set(re.findall(r"\b(?:runsink|process)_[a-z_]+", text))
            self.assertGreater(len(used), 15)
            self.assertEqual(set(), used - known, name)
            labels = set(re.findall(r"([a-z]+) ?(?:=~|!=|=)\\?\"", text)) - {"job", "instance", "severity", "alertname", "alertstate"}
            self.assertEqual(set(), {label for label in labels if f"`{label}`" not in reference}, name)

    def test_lag_and_age(self):
        """a delivery that hangs shows as lag, as age, as a request in flight, and as an open window"""
        go_on = self.hang("/slow")
        self.kafka.create(self.topic, 2)
        self.send(*[self.hook("/slow")] * 4, partition=1)
        worker = self.up(window__grace="1m")
        self.until_metric(worker, 4, "runsink_partition_lag_records", topic=self.topic, partition="1", kind="source")
        self.until_metric(worker, 4, "runsink_deliveries_in_flight")
        rig.await_("age", 30, lambda: worker.metric("runsink_oldest_unsettled_seconds") > 1, worker)
        self.assertEqual(1, worker.metric("runsink_windows_open") + worker.metric("runsink_windows_unsettled"))
        self.assertEqual([4], [p["lag"] for p in self.status(worker)["partitions"]
                               if (p["topic"], p["partition"]) == (self.topic, 1)])
        go_on.set()
        self.until_metric(worker, 0, "runsink_partition_lag_records", topic=self.topic)
        self.until_metric(worker, 0, "runsink_oldest_unsettled_seconds")
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_series_are_bounded(self):
        """a hundred destinations more make no series more"""
        self.kafka.create(self.topic, 1)
        self.send(self.hook("/1"))
        worker = self.up()
        self.until_metric(worker, 1, "runsink_outcomes_total", outcome="delivered", sink="webhook")
        self.until_metric(worker, 0, "runsink_partition_lag_records", topic=self.topic)
        before = len(worker.http("/metrics").splitlines())
        self.send(*[self.hook(f"/{n}") for n in range(2, 102)])
        self.until_metric(worker, 101, "runsink_outcomes_total", outcome="delivered", sink="webhook")
        self.until_metric(worker, 101, "runsink_destinations")
        self.assertEqual(before, len(worker.http("/metrics").splitlines()))

    def test_offsets_unavailable(self):
        """an open transaction hides the committed offset: not ready, with the reason and since when; then ready"""
        self.hidden_offset(committed=True)

    def test_first_offset_unavailable(self):
        """the same where nothing was committed before: then it must begin at the beginning, not wait for ever"""
        self.hidden_offset(committed=False)

    def hidden_offset(self, committed):
        self.kafka.create(self.topic, 1)
        self.send(self.hook("/x"))
        consumer = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": self.group, "log_level": 2})
        consumer.subscribe([self.topic])
        rig.await_("an assignment", 30, lambda: consumer.poll(0.1) or consumer.assignment())
        if committed:
            consumer.commit(offsets=[TopicPartition(self.topic, 0, 0)], asynchronous=False)
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": rig.unique("txn"), "log_level": 2})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.send_offsets_to_transaction([TopicPartition(self.topic, 0, 0)], consumer.consumer_group_metadata())
        consumer.close()
        worker = self.up()
        rig.await_("it is not ready because of the offset", 30,
                   lambda: self.ask(worker, "/readyz")[::2] == (503, "the committed offset of a partition is not available yet\n"),
                   worker)
        rig.await_("since when", 30, lambda: worker.metric("runsink_offsets_unavailable_seconds") > 1, worker)
        self.assertEqual(0, worker.metric("runsink_ready"))
        self.assertEqual(200, self.ask(worker, "/healthz")[0])
        code, said = self.health(worker, "--ready")
        self.assertEqual((69, "the committed offset of a partition is not available yet"), (code, said))
        self.assertEqual((0, "ok"), self.health(worker))
        waits = [p for p in self.status(worker)["partitions"] if p["topic"] == self.topic]
        self.assertEqual("waits for its committed offset", waits[0]["state"])
        producer.abort_transaction(30)
        rig.await_("it is ready", 30, lambda: self.ask(worker, "/readyz")[::2] == (200, "ready\n"), worker)
        self.until_settled(worker)
        self.assertEqual((0, "ready"), self.health(worker, "--ready"))
        self.until_metric(worker, 0, "runsink_offsets_unavailable_seconds")

    def test_drain(self):
        """while it drains it answers: alive, not ready; afterwards nothing answers"""
        self.hang("/slow")
        self.kafka.create(self.topic, 1)
        self.send(self.hook("/slow"))
        worker = self.up(window__grace="1m", drain__timeout="4s")
        self.until_metric(worker, 1, "runsink_deliveries_in_flight")
        worker.process.send_signal(signal.SIGTERM)
        rig.await_("it is not ready", 3, lambda: self.ask(worker, "/readyz")[0] == 503, worker)
        self.assertIn("draining", self.ask(worker, "/readyz")[2])
        self.assertEqual(200, self.ask(worker, "/healthz")[0])
        self.assertEqual(1, worker.metric("runsink_deliveries_in_flight"))
        self.assertEqual(1, self.status(worker)["counts"]["inFlight"])
        self.assertEqual(0, worker.wait(), worker.tail())
        code, said = self.health(worker)
        self.assertEqual(69, code)
        self.assertIn("nothing answers", said)

    def test_taken_port(self):
        """a port that is taken ends the start with 78 and says what to do; an empty address switches the server off"""
        self.kafka.create(self.topic, 1)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            worker = self.worker(self.settings(admin__listen=address))
            self.assertExit(78, worker)
            self.assertIn(f"admin.listen: can't listen at {address}", worker.text())
            self.assertNotIn("consuming", worker.text())
        worker = self.worker(self.settings(admin__listen=""))
        self.send(self.hook("/x"))
        self.until_settled(worker)
        self.assertNotIn("admin server listens", worker.text())
        code, said = self.health(worker)
        self.assertEqual(78, code)
        self.assertIn("admin.listen is empty", said)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_every_address(self):
        """":port" listens everywhere, and `health` asks it at loopback"""
        self.kafka.create(self.topic, 1)
        worker = self.worker(self.settings(admin__listen=f":{rig.free_port()}"))
        rig.await_("it answers", 30, lambda: self.health(worker) == (0, "ok"), worker)

    def test_http(self):
        """GET and HEAD alone, no bodies, nothing beside the five paths, headers that keep browsers strict"""
        self.kafka.create(self.topic, 1)
        worker = self.up()
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
            status, headers, _ = self.ask(worker, "/metrics", method)
            self.assertEqual((405, "GET, HEAD"), (status, headers.get("Allow")), method)
        self.assertEqual(400, self.ask(worker, "/metrics", body=b"x" * 100000)[0])
        self.assertEqual(400, self.ask(worker, "/", headers=[("Transfer-Encoding", "chunked")])[0])
        for path in ("/nothing", "/metrics/", "/../etc/passwd", "/%2e%2e/"):
            self.assertEqual(404, self.ask(worker, path)[0], path)
        self.assertGreaterEqual(self.ask(worker, "/metrics", headers=[("X-Long", "x" * 30000)])[0], 400)
        for path, kind in (("/", "text/html"), ("/metrics", "text/plain; version=0.0.4"), ("/status.json", "application/json"),
                           ("/healthz", "text/plain"), ("/readyz", "text/plain")):
            status, headers, body = self.ask(worker, path + "?a=b")
            self.assertIn(status, (200, 503))
            self.assertTrue(headers["Content-Type"].startswith(kind), headers)
            self.assertTrue(body)
            self.assertTrue(headers["Content-Security-Policy"].startswith("default-src 'none'; "), headers)
            self.assertEqual(("nosniff", "no-store"), (headers["X-Content-Type-Options"], headers["Cache-Control"]))
            self.assertEqual("", self.ask(worker, path, "HEAD")[2])

    def test_connections(self):
        """who opens connections and trickles shuts nobody out, from one address or many"""
        self.kafka.create(self.topic, 1)
        worker = self.up(admin__timeout="3s", admin__connections=64)
        over, begun, ended = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
        self.addCleanup(over.set)

        def trickle(address, path):
            try:
                with socket.create_connection(("127.0.0.1", worker.admin_port), source_address=(address, 0)) as one:
                    one.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
                    begun.release()
                    one.settimeout(0.2)
                    while not over.is_set():
                        one.sendall(b"x")
                        with contextlib.suppress(TimeoutError):
                            if one.recv(1) == b"":
                                return
            except OSError:
                pass
            finally:
                ended.release()

        many = [("127.0.0.1", b"/healthz")] * 64 + [(f"127.0.1.{n}", b"/metrics") for n in range(1, 33)]
        for one in many:
            threading.Thread(target=trickle, args=one, daemon=True).start()
        for _ in many:
            self.assertTrue(begun.acquire(timeout=20))
        for path in ("/healthz", "/metrics", "/readyz", "/status.json") * 2:
            self.assertIn(self.ask(worker, path)[0], (200, 503), path)
        # However they trickle, they have had their time.
        for _ in many:
            self.assertTrue(ended.acquire(timeout=20))
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_closed_at_once(self):
        """who opens connections and closes them at once, for seconds, shuts nobody out either, meanwhile and afterwards"""
        self.kafka.create(self.topic, 1)
        worker = self.up(admin__timeout="1m", admin__connections=64)
        over = threading.Event()
        self.addCleanup(over.set)

        def knock():
            while not over.is_set():
                with contextlib.suppress(OSError):
                    # From elsewhere: who knocks so from the probe's own address may close the probe's connections, too.
                    socket.create_connection(("127.0.0.1", worker.admin_port), timeout=1, source_address=("127.0.2.1", 0)).close()
                    counts[0] += 1

        counts = [0]
        knocking = threading.Thread(target=knock, daemon=True)
        knocking.start()
        for so_far in range(1000, 7000, 1000):
            rig.await_("it knocks", 60, lambda: counts[0] >= so_far, worker)
            self.assertEqual(200, self.ask(worker, "/healthz")[0], counts)
        over.set()
        knocking.join()
        self.assertEqual(200, self.ask(worker, "/healthz")[0], counts)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_hosts(self):
        """only names of this machine, or listed ones, get more than health: no page elsewhere reads it through a name of its own"""
        self.kafka.create(self.topic, 1)
        worker = self.up(admin__hosts="status.example, *.svc.example, 192.0.2.7")
        port = worker.admin_port
        good = ["localhost", f"localhost:{port}", "LOCALHOST.", "127.0.0.1", f"127.0.0.1:{port}", socket.gethostname(), "status.example:80",
                "a.svc.example", "a.b.SVC.example:1", "192.0.2.7", "[::ffff:127.0.0.1]:1"]
        bad = ["evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "svc.example", "xsvc.example", "192.0.2.8",
               "[::2]", "status.example@evil.example", "localhost:80:80", "localhost, evil.example", "[localhost", "", ":80", "x" * 300]
        for host in good + bad:
            for path in ("/", "/metrics", "/status.json"):
                self.assertEqual(200 if host in good else 421, self.ask(worker, path, headers=[("Host", host)])[0], (host, path))
            self.assertEqual(200, self.ask(worker, "/healthz", headers=[("Host", host)])[0], host)
        status, _, body = self.ask(worker, "/status.json", headers=[("Host", "evil.example")])
        self.assertIn("admin.hosts", body)
        self.assertNotIn("evil", body)

        def raw(request):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
                one.sendall(request)
                return one.makefile("rb").readline()

        self.assertIn(b" 421 ", raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"))
        # libmicrohttpd refuses it by itself since 1.0.
        library = int(re.search(rb"(?m)^libmicrohttpd (\d+)\.", rig.runsink("--version").stdout)[1])
        self.assertIn(b" 400 " if library >= 1 else b" 421 ", raw(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n"))
        self.assertIn(b" 200 ", raw(b"GET /metrics HTTP/1.0\r\n\r\n"))

    def test_status(self):
        """who is sick, what died and why; bounded, worst first, without secrets"""
        secret = "canary-" + rig.unique("secret")
        self.receiver.play("/sick", 503)
        self.receiver.play("/gone", 410)
        self.kafka.create(self.topic, 1)
        sinks = [{**self.hook(f"/sick/{n}?token={secret}"), "headers": {"authorization": secret}} for n in range(230)]
        self.send(*sinks, *[sinks[77]] * 5, self.hook("/gone"), {"type": "ftp"})
        self.kafka.produce(self.topic, [(b"k", b"no json")])
        worker = self.up(breaker__failures=3, breaker__probe="1m", retry__delays="30m", retry__window__webhook="1h")
        self.until_settled(worker)
        self.until_metric(worker, 1, "runsink_destinations", state="open")
        status = rig.await_("a snapshot of all", 30, lambda: (s := self.status(worker))["destinationsTroubled"] >= 231 and s, worker)
        self.assertEqual(200, len(status["destinations"]))
        self.assertEqual(231, status["destinationsKnown"])
        worst = status["destinations"][0]
        self.assertTrue(worst["open"], worst)
        self.assertIn("/sick/77", worst["label"])
        self.assertEqual("http-503", worst["why"])
        self.assertGreater(worst["failingMs"], 0)
        dead = {(one["fault"], one["why"]) for one in status["dead"]}
        self.assertEqual({("data", "unknown-sink-type"), ("tenant", "http-410"), ("data", "invalid-json")},
                         dead & {("data", "unknown-sink-type"), ("tenant", "http-410"), ("data", "invalid-json")}, status["dead"])
        self.assertEqual(len(status["dead"]), sum(one["count"] for one in status["reasons"]))
        letter = next(one for one in status["dead"] if one["why"] == "unknown-sink-type")
        self.assertEqual((self.topic, 0, 236), (letter["topic"], letter["partition"], letter["offset"]))
        self.assertNotIn(secret, json.dumps(status))
        self.assertGreaterEqual(len(status["history"]), 1)
        self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
