"""A tenant that means harm, against the real worker in a network of its own: there a canary listens on loopback, and nobody
may ever come to it. Whatever a sink says and whatever its server answers, each event ends as designed, the other tenants'
events arrive, and the worker stays alive and small."""
import gzip
import itertools
import json
import re
import threading
import time
import unittest

import events
import rig
from netns import Canary, Network, Unavailable, serve
from receiver import Receiver

PUBLIC = "93.184.215.14"  # on the network's own loopback
PORT = 8080
STORE_PORT = 9000
CANARY_PORTS = (80, 443, 1080, 6379, PORT, STORE_PORT)
# librdkafka, libcurl and their threads take 40 to 60 MiB; the rest is the smallest budget.
MEMORY_MIB = 200


class Hostile(rig.Case):
    def setUp(self):
        super().setUp()
        try:
            self.net = Network([PUBLIC + "/32"])
        except (Unavailable, OSError) as error:
            self.skipTest(f"needs a network namespace: {error}")
        self.addCleanup(self.net.close)
        self.canary = Canary(self.net, CANARY_PORTS)
        self.names = {}
        self.asked = []
        self.net.name_server(self.resolve)
        host, _, port = self.kafka.bootstrap.rpartition(":")
        self.net.forward("127.0.0.1", int(port), (host, int(port)))
        self.receiver = self.net.run(lambda: Receiver(address=(PUBLIC, PORT)))
        self.addCleanup(self.receiver.close)
        self.store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        host, _, port = self.store.url.partition("//")[2].rpartition(":")
        self.net.forward(PUBLIC, STORE_PORT, (host, int(port)))
        self.bucket = self.store.bucket(rig.unique("hostile"))
        self.kafka.create(self.topic, 1, max_message_bytes=4 << 20)
        self.cases = []

    def resolve(self, name, kind):
        self.asked.append((name, kind))
        if name in self.names:
            return self.names[name](kind)
        return [PUBLIC] if kind == "A" and name.endswith("good.example.com") else []

    # ---- events ----

    def add(self, name, sink, **more):
        self.cases.append((name, events.dump(events.run(sink, **more))))

    def healthy(self):
        """Two events of other tenants, to come through between the hostile ones."""
        number = len(self.cases)
        self.add(f"healthy {number}", {"type": "webhook", "url": f"http://www.good.example.com:{PORT}/healthy/{number}"})
        self.add(f"healthy {number + 1}", {**self.store.sink(self.bucket), "endpoint": f"http://{PUBLIC}:{STORE_PORT}"})

    def hook(self, url=None, **more):
        return {"type": "webhook", "url": url or f"http://www.good.example.com:{PORT}/evil", **more}

    def s3(self, **more):
        return {"type": "s3", "bucket": "bucket", "accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "s3-secret-canary",
                "region": "us-east-1", "endpoint": f"http://www.good.example.com:{PORT}", **more}

    # ---- a run ----

    def deliver(self, seconds=90, env=None, **settings):
        """All cases through one worker. Returns {case: reason} of the dead; checks what holds whatever the cases are."""
        self.healthy()
        self.kafka.produce(self.topic, [(b"k", text) for _, text in self.cases])
        settings = self.settings(**{"retry__window__s3": "1s", "retry__window__webhook": "1s", "retry__permanent": "dead",
                                    "memory__budget": "64MiB", "log__level": "debug", **settings})
        del settings["egress.allow"]
        worker = self.worker(settings, wrap=self.net.wrap, env=env)
        rig.await_("everything is settled, retries too", seconds, self.quiet, worker)
        with open(f"/proc/{worker.process.pid}/status") as status:
            peak = int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) // 1024
        self.assertEqual(0, worker.stop(), worker.tail())
        dead = {}
        for fault in ("tenant", "data", "system"):
            for letter in self.dead(fault):
                name = self.cases[int(letter.headers["runsink-origin"].rpartition("/")[2])][0]
                dead[name] = letter.headers["runsink-reason"]
                self.assertNotIn("canary", " ".join(letter.headers.values()))
        rig.say(f"{len(self.cases)} cases, {len(dead)} dead, at most {peak} MiB,", sorted(set(dead.values())))
        self.assertEqual([], self.canary.visits)
        self.assertLess(peak, MEMORY_MIB)
        self.assertNotIn("s3-secret-canary", worker.text())
        self.others_were_served(dead)
        return dead

    def others_were_served(self, dead):
        healthy = [name for name, _ in self.cases if name.startswith("healthy")]
        self.assertEqual([], [name for name in healthy if name in dead])
        self.assertEqual(len(healthy) // 2, len(self.receiver.to("/healthy/")))
        self.assertEqual(len(healthy) // 2, len(self.store.keys(self.bucket)))

    def all_dead(self, dead, reasons, *harmless):
        hostile = {name for name, _ in self.cases if not name.startswith("healthy")}
        self.assertEqual(set(harmless), hostile - set(dead))
        self.assertEqual({}, {name: why for name, why in dead.items() if why not in reasons})

    # ---- addresses ----

    LOOPBACK = ("127.0.0.1", "localhost", "LOCALHOST", "localhost.", "a.localhost", "127.1", "127.0.1", "0x7f.1", "0x7f000001",
                "2130706433", "017700000001", "0177.0.0.1", "127.0.0.1.", "127.255.255.254", "0.0.0.0", "0", "[::1]", "[::]",
                "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
                "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[::1%25lo]", "[fe80::1%25lo]", "1２7.0.0.1", "127。0。0。1", "①②⑦.0.0.1",
                "169.254.169.254", "100.100.100.200", "10.0.0.1", "[fd00:ec2::254]")

    def test_loopback_in_every_spelling(self):
        """as a webhook's host and an S3 endpoint's, http and https, on several ports"""
        for host, (scheme, port) in itertools.product(self.LOOPBACK, (("http", PORT), ("https", 443))):
            self.add(f"webhook {scheme} {host}", self.hook(f"{scheme}://{host}:{port}/"))
            self.add(f"s3 {scheme} {host}", self.s3(endpoint=f"{scheme}://{host}:{port}", forcePathStyle=True))
            self.add(f"s3 virtual {scheme} {host}", self.s3(endpoint=f"{scheme}://{host}:{port}"))
            if len(self.cases) % 30 == 0:
                self.healthy()
        self.all_dead(self.deliver(), {"invalid-url", "egress-denied", "invalid-sink"})

    def test_urls_of_two_minds(self):
        """URLs that two parsers could read differently, other schemes, and buckets that would be another host"""
        good, bad = f"www.good.example.com:{PORT}", f"127.0.0.1:{PORT}"
        for url in (f"http://{good}@{bad}/", f"http://{good}#@{bad}/", f"http://{bad}#@{good}/", f"http://{bad}\\@{good}/",
                    f"http://{good}\\@{bad}/", f"http://a@{good}@{bad}/", f"http://{good}%40{bad}/", f"http://{good}%00.{bad}/",
                    f"http://{good}\t@{bad}/", f"http://{good}\r\nHost: {bad}/", f"http://{good} @{bad}/", f"http:{bad}/",
                    f"http:///{bad}/", f"http:/{bad}/", f"//{bad}/", bad, f"http://{good}:80:{bad}/", f"gopher://{bad}/_x",
                    f"dict://{bad}/x", f"ftp://{bad}/", f"ws://{bad}/", "file:///etc/passwd", f"unix:///{bad}", f"http://{good}:0/",
                    f"http://{good}:99999/", f"http://www.good.example.com:{PORT + 65536}/", "http:// /", "http://", "", "\u0000",
                    f"http://{good}\u0000@{bad}/"):
            self.add(f"webhook {url!r}", self.hook(url or "x"))
            self.add(f"s3 {url!r}", self.s3(endpoint=url or "x"))
        for bucket in (bad, bad + "/", bad + "#", bad + "?", f"x@{bad}", f"x@{bad}/", f"x@{bad}#", "..", "../..", ".", "a/../b", "a b",
                       "a\r\nHost: b", "a\u0000b", "a%2e", "é-bucket", "a" * 300, "", "[::1]", "-bucket", "a:b@c"):
            self.add(f"bucket {bucket!r}", self.s3(bucket=bucket))
        self.add("bucket that completes an address", self.s3(bucket="127", endpoint=f"http://0.0.1:{PORT}"))
        for region in ("x.127.0.0.1/", "x@127.0.0.1/", "x#", "us-east-1\r\n", "..", "a" * 100):
            self.add(f"region {region!r}", self.s3(region=region, endpoint=None))
        self.healthy()
        # To everybody the host of this one is the good one, and the rest a fragment.
        harmless = f"webhook 'http://{good}#@{bad}/'"
        self.all_dead(self.deliver(), {"invalid-url", "egress-denied", "invalid-sink", "bad-value"}, harmless)
        self.assertEqual({good}, {r.headers["host"] for r in self.receiver.requests})

    def test_dotted_bucket(self):
        """a bucket that looks like an address stays a path below its endpoint"""
        for bucket in ("127.0.0.1", "169.254.169.254", "evil.example.com", "a.b"):
            self.add(bucket, self.s3(bucket=bucket))
        self.receiver.play("/", 200)
        self.assertEqual({}, self.deliver())
        puts = [r for r in self.receiver.requests if r.method == "PUT"]
        self.assertEqual(4, len(puts))
        self.assertEqual({f"www.good.example.com:{PORT}"}, {r.headers["host"] for r in puts})

    def test_redirects(self):
        """redirects to loopback are answers, not orders, in every form that clients follow"""
        to = f"http://127.0.0.1:{PORT}/"
        error = f"<Error><Code>%s</Code><Endpoint>127.0.0.1:{PORT}</Endpoint><Region>eu-west-1</Region></Error>"
        for status in (301, 302, 303, 307, 308):
            headers = {"location": to, "refresh": f"0; url={to}", "alt-svc": f'h2="127.0.0.1:{PORT}"; ma=99',
                       "x-amz-bucket-region": "127.0.0.1", "content-location": to}
            self.receiver.play(f"/hook-{status}", (status, headers, b""))
            self.receiver.play(f"/bucket/s3-{status}/", (status, headers, (error % "TemporaryRedirect").encode()))
            self.add(f"webhook {status}", self.hook(f"http://www.good.example.com:{PORT}/hook-{status}"))
            self.add(f"s3 {status}", self.s3(prefix=f"s3-{status}/", forcePathStyle=True))
        dead = self.deliver()
        self.assertEqual(10, len(dead), dead)

    def test_environment_names_a_proxy(self):
        """proxies that the environment or a tenant's proxy field names are not used"""
        env = {name: f"http://127.0.0.1:{PORT}" for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")}
        self.add("with proxy", self.hook(), jobConfigurationSnapshot={"sink": self.hook(), "proxy": f"http://127.0.0.1:{PORT}"})
        self.assertEqual({}, self.deliver(env=env))

    def test_names_that_lead_inside(self):
        """names whose addresses are loopback, private, or public at first and loopback at the next question"""
        closed = "93.184.215.14"
        turn = itertools.count()
        inside = {"A": ["127.0.0.1"], "AAAA": ["::1"]}
        self.names = {
            "loopback.example.com": lambda kind: inside[kind],
            "four.example.com": lambda kind: ["127.0.0.1"] if kind == "A" else [],
            "six.example.com": lambda kind: ["::1"] if kind == "AAAA" else [],
            "mapped.example.com": lambda kind: ["::ffff:127.0.0.1"] if kind == "AAAA" else [],
            "metadata.example.com": lambda kind: ["169.254.169.254"] if kind == "A" else [],
            "any.example.com": lambda kind: ["0.0.0.0"] if kind == "A" else [],
            # The first address refuses the connection: a client goes on to the next.
            "both.example.com": lambda kind: [closed, "127.0.0.1"] if kind == "A" else ["::1"],
        }
        for name in self.names:
            self.add(f"webhook {name}", self.hook(f"http://{name}:1080/"))
            self.add(f"webhook tls {name}", self.hook(f"https://{name}/"))
            self.add(f"s3 {name}", self.s3(endpoint=f"http://{name}:6379"))
        self.names["bucket.six.example.com"] = self.names["six.example.com"]
        for number in range(40):
            name = f"turn-{number}.example.com"
            self.names[name] = lambda kind: [] if kind == "AAAA" else [[PUBLIC, "127.0.0.1"][next(turn) % 2]]
            self.add(f"turning {number}", self.hook(f"http://{name}:{PORT}/turn"))
        dead = self.deliver()
        others = {name: why for name, why in dead.items() if not name.startswith("turning")}
        self.assertEqual(3 * 7, len(others), others)
        self.assertLessEqual(set(others.values()), {"egress-denied", "dns", "refused", "connect"})
        turning = {why for name, why in dead.items() if name.startswith("turning")}
        self.assertEqual({"egress-denied"}, turning)

    def test_rebinding(self):
        """a name that was public when first asked for, with a time to live of 0, and is loopback from then on"""
        moved = threading.Event()
        self.names["rebind.example.com"] = lambda kind: [] if kind == "AAAA" else ["127.0.0.1" if moved.is_set() else PUBLIC]

        def hang_up(handler):
            handler.send_response(200)
            handler.send_header("content-length", "0")
            handler.send_header("connection", "close")
            handler.end_headers()
        self.receiver.play("/first", hang_up)
        sink = self.hook(f"http://rebind.example.com:{PORT}/first")
        settings = self.settings(retry__permanent="dead")
        del settings["egress.allow"]
        worker = self.worker(settings, wrap=self.net.wrap)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink)))])
        rig.await_("the first event arrives", 30, lambda: self.receiver.to("/first"), worker)
        moved.set()
        time.sleep(31)  # libcurl remembers names for 30 s
        asked = len(self.asked)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink)))])
        letters = rig.await_("a dead letter", 30, lambda: self.dead("tenant"), worker)
        self.assertEqual("egress-denied", letters[0].headers["runsink-reason"])
        self.assertGreater(len(self.asked), asked, "the name was asked for again")
        self.assertEqual([], self.canary.visits)
        self.assertEqual(1, len(self.receiver.to("/first")))

    # ---- what a sink puts into requests ----

    def test_requests_cannot_be_bent(self):
        """header injection, reserved headers, giant headers, URLs, keys, prefixes and credentials"""
        headers = [{"X-One": "a\r\nX-Injected: b"}, {"X-One": "a\nb"}, {"X-One": "a\rb"}, {"X-One": "a\u0000b"}, {"X\r\nInjected": "b"},
                   {"X-Injected: b\r\nX": "c"}, {"X:Injected": "b"}, {"X;": "b"}, {" X": "b"}, {"X ": "b"}, {"": "b"}, {"Xé": "b"},
                   {"Host": "127.0.0.1"}, {"host": "x"}, {"Content-Length": "0"}, {"content-length": "999999"},
                   {"Transfer-Encoding": "chunked"}, {"Connection": "upgrade"}, {"Upgrade": "h2c"}, {"HTTP2-Settings": "x"},
                   {"Expect": "100-continue"}, {"TE": "trailers"}, {"Trailer": "X"}, {"Proxy-Authorization": "Basic x"},
                   {"webhook-id": "x"}, {"Webhook-Signature": "v1,x"}, {"X-Amz-Date": "x"}, {"X-One": 1}, {"X-One": None},
                   {"a": "1", "A": "2"}, {f"X-{n}": "v" for n in range(51)}, {"X-Big": "v" * 9000}, {"X" * 9000: "v"}]
        for number, one in enumerate(headers):
            self.add(f"headers {number} {str(one)[:40]}", self.hook(headers=one))
        self.healthy()
        self.add("giant url", self.hook(f"http://www.good.example.com:{PORT}/{'a' * 3000}"))
        self.add("giant host", self.hook(f"http://{'a.' * 200}good.example.com:{PORT}/"))
        for name, more in {
                "giant prefix": {"prefix": "p" * 600}, "climbing prefix": {"prefix": "../../other/"}, "dot prefix": {"prefix": "./"},
                "prefix that ends in dots": {"prefix": "a/.."}, "line break in prefix": {"prefix": "a\r\nb/"},
                "line break in key id": {"accessKeyId": "AKID\r\nX-Injected: b"}, "slash in key id": {"accessKeyId": "a/b"},
                "line break in secret": {"secretAccessKey": "a\r\nb"}, "line break in token": {"sessionToken": "t\r\nX-Injected: b"},
                "giant key id": {"accessKeyId": "A" * 5000}, "giant secret": {"secretAccessKey": "s" * 5000},
                "giant token": {"sessionToken": "t" * 10000}, "giant endpoint": {"endpoint": "http://good.example.com/" + "p" * 2000},
        }.items():
            self.add(name, self.s3(**more))
        self.add("giant job id in a key", self.s3(), jobId="é" * 400)
        self.add("giant id", self.s3(), id="i" * 500_000)
        self.add("deep", {**self.s3(), "x": json.loads("[" * 900 + "]" * 900)})
        self.all_dead(self.deliver(), {"invalid-sink", "invalid-url", "key-too-long", "bad-value", "wrong-type", "too-deep"})
        self.assertEqual([], [r for r in self.receiver.requests if any("inject" in name for name in r.headers)])
        self.assertEqual([], self.receiver.to("/evil"))

    def test_paths_stay_in_their_place(self):
        """ids full of dots, slashes and percent signs make keys with as many folders as any other"""
        for value in ("..", ".", "../../../etc", "a/b", "a\\b", "%2e%2e", "\r\nX-Injected: b", "é\u0001", "?x=y", "#", "+ &=", "\u202e"):
            sink = {**self.store.sink(self.bucket), "endpoint": f"http://{PUBLIC}:{STORE_PORT}", "prefix": "evil/"}
            self.add(f"id {value!r}", sink, id=value, jobId=value, projectId=value, workspaceId=value)
        self.kafka.produce(self.topic, [(b"k", text) for _, text in self.cases])
        settings = self.settings()
        del settings["egress.allow"]
        worker = self.worker(settings, wrap=self.net.wrap)
        rig.await_("everything is settled", 60, self.quiet, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        keys = self.store.keys(self.bucket)
        refused = self.dead("data")
        rig.say(len(keys), "objects,", {letter.headers["runsink-reason"] for letter in refused})
        self.assertEqual(len(self.cases), len(keys) + len(refused))
        self.assertEqual({5}, {key.count("/") for key in keys})
        self.assertEqual({"evil"}, {key.partition("/")[0] for key in keys})

    # ---- what its server answers ----

    def raw(self, port, answers):
        """A server that reads a request and lets answers[path's first part] write to the connection."""
        def handle(one):
            one.settimeout(60)
            head = b""
            while b"\r\n\r\n" not in head:
                piece = one.recv(65536)
                if not piece:
                    return
                head += piece
            path = head.split(b" ")[1].decode().strip("/").split("/")
            answers[path[1] if path[0] == "bucket" else path[0]](one)
        serve(self.net.listen(PUBLIC, port), handle)

    def test_answers(self):
        """endless, huge, slow, malformed, compressed, recursive: each ends in a bounded time and in bounded memory"""
        def send(*pieces, forever=None, pause=0.0):
            def answer(one):
                for piece in pieces:
                    one.sendall(piece)
                while forever is not None:
                    one.sendall(forever)
                    time.sleep(pause)
            return answer

        ok = b"HTTP/1.1 200 OK\r\n"
        bad = b"HTTP/1.1 400 Bad Request\r\n"
        bomb = gzip.compress(b"\0" * (256 << 20), 9)
        entities = b'<!DOCTYPE x [<!ENTITY a0 "lol">' + b"".join(
            b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 20)) + b"]><Error><Code>&a19;</Code></Error>"
        nested = b"<Error>" + b"<a>" * 5000
        answers = {
            "endless-headers": send(ok, forever=b"X-Filler: " + b"x" * 8000 + b"\r\n"),
            "many-headers": send(ok, forever=b"a: b\r\n" * 1000),
            "one-endless-header": send(ok + b"X: ", forever=b"x" * 65536),
            "endless-status": send(b"HTTP/1.1 200 ", forever=b"O" * 65536),
            "endless-interim": send(forever=b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
            "endless-body": send(ok + b"\r\n", forever=b"x" * 65536),
            "endless-error": send(bad + b"\r\n", forever=b"x" * 65536),
            "endless-chunks": send(bad + b"transfer-encoding: chunked\r\n\r\n", forever=b"1\r\nx\r\n" * 1000),
            "endless-chunk-size": send(ok + b"transfer-encoding: chunked\r\n\r\n", forever=b"0" * 65536),
            "endless-trailers": send(ok + b"transfer-encoding: chunked\r\n\r\n0\r\n", forever=b"X: " + b"x" * 8000 + b"\r\n"),
            "slow-headers": send(ok, forever=b"x", pause=0.2),
            "slow-body": send(bad + b"\r\n", forever=b"x", pause=0.2),
            "silence": send(forever=b"", pause=1),
            "gzip-bomb": send(bad + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb) + bomb),
            "gzip-bomb-te": send(bad + b"transfer-encoding: gzip, chunked\r\n\r\n%x\r\n" % len(bomb) + bomb),
            "retry-after": send(b"HTTP/1.1 503 x\r\nretry-after: 99999999999999999999\r\ncontent-length: 0\r\n\r\n"),
            "retry-after-date": send(b"HTTP/1.1 429 x\r\nretry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\ncontent-length: 0\r\n\r\n"),
            "retry-after-negative": send(b"HTTP/1.1 503 x\r\nretry-after: -99999\r\ncontent-length: 0\r\n\r\n"),
            "entities": send(bad + b"content-length: %d\r\n\r\n" % len(entities) + entities),
            "nested": send(bad + b"content-length: %d\r\n\r\n" % len(nested) + nested),
            "control-bytes": send(bad + b"X-A: \x1b[2J\x00\x07\r\ncontent-length: 60\r\n\r\n<Error><Code>\x1b[2J\n\x00</Code>" + b"\xff" * 40),
            "no-http": send(b"220 ready\r\n", bytes(range(256)) * 100),
            "http09": send(b"hello\r\n"),
            "huge-status": send(b"HTTP/1.1 99999999999 x\r\n\r\n"),
            "switching": send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" + b"\0" * 1000),
            "negative-length": send(ok + b"content-length: -5\r\n\r\nhello"),
            "huge-length": send(ok + b"content-length: 99999999999999999999999\r\n\r\nhello"),
            "two-lengths": send(ok + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
            "cookies": send(bad + b"set-cookie: a=b; domain=good.example.com\r\n" * 100 + b"content-length: 0\r\n\r\n"),
            "auth": send(b"HTTP/1.1 401 x\r\nwww-authenticate: Negotiate\r\nwww-authenticate: NTLM\r\ncontent-length: 0\r\n\r\n"),
        }
        self.raw(7070, answers)
        for name in answers:
            self.add(f"webhook {name}", self.hook(f"http://{name}.good.example.com:7070/{name}"))
            self.add(f"s3 {name}", self.s3(endpoint=f"http://{name}.good.example.com:7070", prefix=name + "/", forcePathStyle=True))
            if len(self.cases) % 20 == 0:
                self.healthy()
        dead = self.deliver(seconds=150, http__timeout="2s", http__idle_timeout="1s", http__connect_timeout="2s")
        for name, why in sorted(dead.items()):
            rig.say(f"{name}: {why}")
        delivered = {name for name, _ in self.cases if name not in dead and not name.startswith("healthy")}
        rig.say("delivered:", sorted(delivered))
        self.assertLessEqual(delivered, {f"{kind} {name}" for kind in ("webhook", "s3") for name in (
            "endless-body", "endless-chunk-size", "endless-trailers", "negative-length", "huge-length", "two-lengths")})
        self.assertLessEqual(set(dead.values()), {
            "answer-headers-too-large", "timeout", "http-400", "http-401", "http-429", "http-503", "http-malformed", "no-answer", "reset",
            "truncated", "s3-400", "s3-401", "s3-429", "s3-503", "http-101", "not-a-store",
            "http-999", "s3-999",  # of the huge status: newer libcurl reads its first three digits
        } | {why for why in dead.values() if why.startswith("curl-")})


if __name__ == "__main__":
    rig.main()
