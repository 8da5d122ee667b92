"""What destinations do wrong, one at a time: each fault ends as designed, a delivery after retries or a dead letter that
names its reason and who has to act."""
import socket
import time

import events
import model
import rig
from receiver import BlackHole, Receiver, hang_up, truncated


class Faults(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.kafka.create(self.topic, 2)

    def s3(self, path="/fake", **more):
        """A sink whose store is the scripted receiver."""
        return {"type": "s3", "bucket": "bucket", "accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "s3-secret-canary",
                "region": "us-east-1", "endpoint": self.receiver.url, "forcePathStyle": True,
                "prefix": path.strip("/") + "/", **more}

    def hook(self, path="/hook", **more):
        return {"type": "webhook", "url": self.receiver.url + path, **more}

    def send(self, sink, count=1):
        """Produces runs with this sink, and returns their payloads as they are to be delivered."""
        texts = [events.dump(events.run(sink)) for _ in range(count)]
        self.kafka.produce(self.topic, [(b"k", text) for text in texts])
        self.sent = texts
        return [model.redact(text) for text in texts]

    def finish(self, worker, seconds=60):
        """Until every record of the topic and of its retry topics is settled; then an orderly end."""
        rig.await_("everything is settled, retries too", seconds, lambda: self.quiet(), worker)
        self.assertEqual(0, worker.stop(), worker.tail())

    def one_dead(self, fault, reason=None):
        for other in {"tenant", "data", "system"} - {fault}:
            self.assertEqual([], self.dead(other))
        letters = self.dead(fault)
        self.assertEqual(1, len(letters), f"dead letters of fault {fault}")
        letter = letters[0]
        rig.say({k: v for k, v in letter.headers.items()})
        self.assertEqual(self.sent[0], letter.value)
        self.assertEqual(f"{self.topic}/0/0", letter.headers["runsink-origin"])
        if reason:
            self.assertEqual(reason, letter.headers["runsink-reason"])
        for value in letter.headers.values():
            self.assertNotIn("canary", value)
        return letter

    def none_dead(self):
        for fault in ("tenant", "data", "system"):
            self.assertEqual([], [r.headers for r in self.dead(fault)], f"dead letters of fault {fault}")

    def dies(self, sink, fault, reason=None, **settings):
        self.send(sink)
        worker = self.worker(self.settings(**{"retry__window__s3": "2s", "retry__window__webhook": "2s", **settings}))
        rig.await_("a dead letter", 60, lambda: self.dead(fault) or self.dead("system"), worker)
        self.finish(worker)
        return self.one_dead(fault, reason)

    # ---- a real store refuses ----

    def store(self):
        return rig.services().store("versitygw") or rig.services().store("s3proxy")

    def test_wrong_secret(self):
        """a wrong secret access key: retried (the tenant may mend it), then dead, the tenant's fault"""
        store = self.store()
        bucket = store.bucket(rig.unique("faults"))
        letter = self.dies(store.sink(bucket, secret_key="wrong-canary-secret"), "tenant", "SignatureDoesNotMatch")
        self.assertGreater(int(letter.headers["runsink-attempts"]), 1)
        self.assertEqual([], store.keys(bucket))

    def test_wrong_secret_dead_at_once(self):
        """the same with retry.permanent = dead: one attempt"""
        store = self.store()
        bucket = store.bucket(rig.unique("faults"))
        letter = self.dies(store.sink(bucket, secret_key="wrong-canary-secret"), "tenant", retry__permanent="dead")
        self.assertEqual("1", letter.headers["runsink-attempts"])

    def test_missing_bucket(self):
        """a bucket that does not exist"""
        self.dies(self.store().sink(rig.unique("no-such-bucket")), "tenant", "NoSuchBucket")

    def test_missing_bucket_appears(self):
        """a bucket that appears while the delivery is retried: delivered, nothing dead"""
        store = self.store()
        bucket = rig.unique("late-bucket")
        payload, = self.send(store.sink(bucket))
        worker = self.worker(self.settings(retry__window__s3="60s"))
        rig.await_("the event is parked", 30, lambda: self.kafka.consume(f"{self.topic}.retry.200ms"), worker)
        store.bucket(bucket)
        rig.await_("an object", 30, lambda: store.keys(bucket), worker)
        self.finish(worker)
        self.none_dead()
        self.assertEqual([payload], list(store.objects(bucket).values()))

    def test_wrong_region(self):
        """a region that is not the store's: the store says which it is, and the delivery goes on there"""
        store = rig.services().store("versitygw") or rig.services().store("minio")
        if store is None:
            self.skipTest("no server here looks at the region")
        bucket = store.bucket(rig.unique("faults"))
        payload, = self.send({**store.sink(bucket), "region": "eu-north-7"})
        worker = self.worker()
        self.finish(worker)
        self.none_dead()
        self.assertEqual([payload], list(store.objects(bucket).values()))
        self.assertSays("another region", worker)

    # ---- the network ----

    def test_refused_connection(self):
        """nobody listens"""
        self.dies({**self.s3(), "endpoint": f"http://127.0.0.1:{rig.free_port()}"}, "tenant")

    def test_black_hole(self):
        """a store that accepts connections and never answers holds nobody else up, and its event ends dead"""
        hole = BlackHole()
        self.addCleanup(hole.close)
        store = self.store()
        bucket = store.bucket(rig.unique("healthy"))
        sick = events.dump(events.run({**self.s3(), "endpoint": hole.url}))
        healthy = [events.dump(events.run(store.sink(bucket))) for _ in range(200)]
        self.kafka.produce(self.topic, [(b"sick", sick)] + [(b"healthy", text) for text in healthy])
        self.sent = [sick]
        worker = self.worker(self.settings(http__timeout="1500ms", http__idle_timeout="1s"))
        began = time.monotonic()
        rig.await_("the healthy tenant's objects", 30, lambda: len(store.keys(bucket)) == 200, worker)
        rig.say(f"200 healthy events behind the black hole's were delivered within {time.monotonic() - began:.1f} s of the start")
        rig.await_("a dead letter", 60, lambda: self.dead("tenant"), worker)
        self.finish(worker)
        self.one_dead("tenant")

    # ---- a store that misbehaves ----

    def test_503_then_200(self):
        """503 twice, then 200: delivered by the third attempt with the same bytes under the same key"""
        self.receiver.play("/bucket/fake", 503, 503, 200)
        payload, = self.send(self.s3())
        worker = self.worker()
        rig.await_("three requests", 30, lambda: len(self.receiver.to("/bucket")) == 3, worker)
        self.finish(worker)
        self.none_dead()
        requests = self.receiver.to("/bucket")
        self.assertEqual({("PUT", payload)}, {(r.method, r.body) for r in requests})
        self.assertEqual(1, len({r.path for r in requests}))
        self.assertGreaterEqual(requests[2].at - requests[0].at, 0.5)

    def test_503_for_ever(self):
        """503 until the window is over: dead, with the number of attempts that the schedule allows"""
        self.receiver.play("/bucket/fake", 503)
        letter = self.dies(self.s3(), "tenant", "http-503", retry__window__s3="3s")
        # at 0, 0.2, 0.6, 1.4, 2.2 and 3.0 s
        attempts = int(letter.headers["runsink-attempts"])
        self.assertEqual(attempts, len(self.receiver.to("/bucket")))
        self.assertIn(attempts, (5, 6))

    def test_slow_down(self):
        """S3's own 503 SlowDown, with its code in the body"""
        error = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"
        self.receiver.play("/bucket/fake", (503, {"content-type": "application/xml"}, error), 200)
        self.send(self.s3())
        worker = self.worker()
        rig.await_("two requests", 30, lambda: len(self.receiver.to("/bucket")) == 2, worker)
        self.finish(worker)
        self.none_dead()

    def test_truncated_answer(self):
        """an answer that breaks off: not a delivery; repeated under the same key"""
        self.receiver.play("/bucket/fake", truncated, 200)
        self.send(self.s3())
        worker = self.worker()
        rig.await_("two requests", 30, lambda: len(self.receiver.to("/bucket")) == 2, worker)
        self.finish(worker)
        self.none_dead()
        self.assertEqual(1, len({(r.path, r.body) for r in self.receiver.to("/bucket")}))

    def test_hang_up(self):
        """a connection closed without an answer"""
        self.receiver.play("/bucket/fake", hang_up, 200)
        self.send(self.s3())
        worker = self.worker()
        rig.await_("a delivery", 30, lambda: len(self.receiver.to("/bucket")) >= 2, worker)
        self.finish(worker)
        self.none_dead()

    def test_redirect(self):
        """a redirect is not followed: credentials go nowhere but to the endpoint"""
        self.receiver.play("/bucket/fake", (307, {"location": self.receiver.url + "/elsewhere"}, b""))
        self.receiver.play("/elsewhere", 200)
        self.dies(self.s3(), "tenant", retry__window__s3="1s")
        self.assertEqual([], self.receiver.to("/elsewhere"))

    def test_endless_answer(self):
        """an error answer of 64 MiB: read no further than http.response_max, and dead in the end"""
        def endless(handler):
            handler.send_response(400)
            handler.send_header("content-length", str(64 << 20))
            handler.end_headers()
            try:
                for _ in range(64):
                    handler.wfile.write(b"x" * (1 << 20))
            except OSError:
                pass
            handler.close_connection = True
        self.receiver.play("/bucket/fake", endless)
        self.dies(self.s3(), "tenant", retry__window__s3="1s")

    # ---- webhooks ----

    def test_webhook_statuses(self):
        """201, 202 and 204 are deliveries"""
        for status in (201, 202, 204):
            self.receiver.play(f"/hook/{status}", status)
            self.send(self.hook(f"/hook/{status}"))
        worker = self.worker()
        self.finish(worker)
        self.none_dead()
        self.assertEqual(3, len(self.receiver.to("/hook")))

    def test_webhook_redirect(self):
        """a redirect is a failure and is not followed"""
        self.receiver.play("/hook", (302, {"location": self.receiver.url + "/elsewhere"}, b""))
        self.dies(self.hook(), "tenant", retry__window__webhook="1s")
        self.assertEqual([], self.receiver.to("/elsewhere"))

    def test_webhook_gone(self):
        """410 Gone: the receiver wants no more; dead after one attempt"""
        self.receiver.play("/hook", 410)
        letter = self.dies(self.hook(), "tenant", "http-410")
        self.assertEqual("1", letter.headers["runsink-attempts"])
        self.assertEqual(1, len(self.receiver.to("/hook")))

    def test_webhook_400(self):
        """400: retried through the window, then the tenant's dead letter"""
        self.receiver.play("/hook", 400)
        letter = self.dies(self.hook(), "tenant", "http-400", retry__window__webhook="1s")
        self.assertEqual(int(letter.headers["runsink-attempts"]), len(self.receiver.to("/hook")))

    def test_retry_after(self):
        """429 with Retry-After: 2 is not asked again before two seconds have passed"""
        self.receiver.play("/hook", (429, {"retry-after": "2"}, b""), 200)
        self.send(self.hook())
        worker = self.worker(self.settings(retry__window__webhook="30s"))
        rig.await_("two requests", 30, lambda: len(self.receiver.to("/hook")) == 2, worker)
        self.finish(worker)
        self.none_dead()
        first, second = self.receiver.to("/hook")
        self.assertGreaterEqual(second.at - first.at, 1.9)
        self.assertEqual(first.headers["webhook-id"], second.headers["webhook-id"])

    def test_header_injection(self):
        """a header value with a line break in it reaches nobody as a header of its own"""
        self.send(self.hook(headers={"X-One": "a\r\nX-Injected: b"}))
        worker = self.worker()
        self.finish(worker)
        self.assertEqual([], [r for r in self.receiver.requests if "x-injected" in r.headers])
        self.one_dead("tenant" if self.dead("tenant") else "data")

    # ---- the address guard ----

    def test_egress(self):
        """loopback in every spelling is refused before a connection is made, webhook and S3 alike"""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        port = listener.getsockname()[1]
        hosts = ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "017700000001", "127.1", "0.0.0.0", "[::1]",
                 "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]")
        for host in hosts:
            self.send({"type": "webhook", "url": f"http://{host}:{port}/"})
            self.send({**self.s3(), "endpoint": f"http://{host}:{port}"})
        settings = self.settings(retry__permanent="dead", retry__window__s3="1s", retry__window__webhook="1s")
        del settings["egress.allow"]
        worker = self.worker(settings)
        self.finish(worker)
        letters = self.dead("tenant") + self.dead("data")
        self.assertEqual(2 * len(hosts), len(letters), worker.tail())
        rig.say({letter.headers["runsink-reason"] for letter in letters})
        listener.setblocking(False)
        with self.assertRaises(BlockingIOError, msg="somebody connected"):
            listener.accept()

    def test_plain_http_refused(self):
        """without egress.http a plain http address is refused"""
        settings = self.settings(retry__permanent="dead")
        del settings["egress.http"]
        self.send(self.hook())
        worker = self.worker(settings)
        self.finish(worker)
        self.one_dead("tenant")
        self.assertEqual([], self.receiver.requests)


if __name__ == "__main__":
    rig.main()
