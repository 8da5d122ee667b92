"""What the operator holds is not attempted: it dies `held`, others flow, and what was released goes back and arrives once."""
import json
import re
import signal
import threading
from urllib.parse import unquote

import events
import rig
from receiver import Receiver


class Holds(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.kafka.create(self.topic, 2)

    def hook(self, path):
        return {"type": "webhook", "url": self.receiver.url + path}

    def label(self, path):
        return "webhook" + (self.receiver.url + path).removeprefix("http")

    def bucket(self, name):
        return {"type": "s3", "bucket": name, "accessKeyId": "AKIA-not-shown", "secretAccessKey": "secret-not-shown",
                "region": "us-east-1", "endpoint": self.receiver.url, "forcePathStyle": True}

    def send(self, *runs, partition=0):
        """(id, workspace, sink) each."""
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink, id=id, workspaceId=workspace)))
                                        for id, workspace, sink in runs], partition)

    def delivered(self):
        """Which runs arrived, and where."""
        return sorted((json.loads(one.body)["id"], one.path) for one in self.receiver.requests if one.answered == 200)

    def letters(self):
        return [letter for letter in self.dead("tenant") if letter.headers["runsink-reason"] == "held"]

    def reload(self, worker, settings, taken=True):
        phrase = "configuration read anew" if taken else "could not be read anew"
        before = worker.text().count(phrase)
        worker.config.write_text(rig.config_text({"admin.listen": f"127.0.0.1:{worker.admin_port}", **settings}))
        worker.process.send_signal(signal.SIGHUP)
        rig.await_(phrase, 20, lambda: worker.text().count(phrase) > before, worker)

    def tool(self, worker, command, *arguments, code=0):
        done = rig.runsink(command, "--config", worker.config, *arguments, seconds=120)
        self.assertEqual(code, done.returncode, done.stdout.decode() + done.stderr.decode())
        return done.stdout.decode()

    def redriven(self, worker, count):
        self.assertIn(f"sent {count} of {count}", self.tool(worker, "redrive", "--reason", "held", "--yes"))

    def sound(self, worker, *arguments):
        self.assertIn("\nsound: ", self.tool(worker, "verify", "--records", *arguments))

    def test_workspaces_and_destinations(self):
        """both kinds, by pattern: held ones die at once and unattempted, the others arrive; check, metrics and page say so; released,
        they arrive once"""
        held = {"hold.workspaces": "acme-*, one", "hold.destinations": self.label("/b*")}
        worker = self.worker(self.settings() | held)
        self.send(("r1", "acme-1", self.hook("/a")), ("r2", "acme", self.hook("/a")), ("r3", "one", self.hook("/c")),
                  ("r4", "two", self.hook("/b/x")), ("r5", "ones", self.hook("/a")), ("r6", "two", self.hook("/a?b")),
                  ("r7", "acme-", {"type": "unknown"}))
        self.until_settled(worker)
        self.assertEqual([("r2", "/a"), ("r5", "/a"), ("r6", "/a?b")], self.delivered())
        letters = {json.loads(letter.value)["id"]: letter.headers for letter in self.letters()}
        self.assertEqual({"r1", "r3", "r4"}, set(letters))
        self.assertEqual({"0"}, {headers["runsink-attempts"] for headers in letters.values()})
        self.assertEqual([self.label(path) for path in ("/a", "/c", "/b/x")],
                         [letters[id]["runsink-destination"] for id in ("r1", "r3", "r4")])
        self.assertEqual(["r7"], [json.loads(letter.value)["id"] for letter in self.dead("data")])
        self.assertEqual(3, worker.metric("runsink_outcomes_total", reason="held"))
        self.assertEqual((2, 1), tuple(worker.metric("runsink_holds", by=by) for by in ("workspace", "destination")))
        self.assertEqual(0, worker.metric("runsink_attempts_failed_total"))
        status = json.loads(worker.http("/status.json"))
        self.assertEqual({"workspaces": ["acme-*", "one"], "destinations": [self.label("/b*")], "events": 3}, status["holds"])
        self.assertEqual(["unknown-sink-type"], [letter["why"] for letter in status["dead"]])  # held ones hide nothing
        self.assertNotIn("why=held", worker.text())
        said = self.tool(worker, "check")
        self.assertRegex(said, r"\nheld, not attempted: .*\n  workspace    acme-\*\n  workspace    one\n  destination  webhook:")
        self.assertIn("3 holds are in force", said)
        self.assertEqual(("dead", "held", "tenant"), tuple(json.loads(rig.runsink(
            "explain", "--config", worker.config, input=events.dump(events.run(self.hook("/a"), workspaceId="one"))).stdout)[name]
            for name in ("outcome", "reason", "fault")))
        self.sound(worker)

        self.redriven(worker, 3)
        rig.await_("they are held still", 30, lambda: len(self.letters()) == 6, worker)
        self.reload(worker, self.settings())
        self.redriven(worker, 3)
        rig.await_("all have arrived", 30, lambda: len(self.delivered()) == 6, worker)
        rig.await_("all is settled", 30, self.quiet, worker)
        self.assertEqual(["r1", "r2", "r3", "r4", "r5", "r6"], [id for id, _ in self.delivered()])
        self.assertEqual((0, 0), tuple(worker.metric("runsink_holds", by=by) for by in ("workspace", "destination")))
        self.assertEqual(0, worker.stop(), worker.tail())
        self.sound(worker)

    def test_what_waits(self):
        """SIGHUP: what waits for its turn, or for another attempt, and is held now dies unattempted; a bad pattern changes nothing"""
        free = threading.Event()
        self.addCleanup(free.set)

        def hang(handler):
            free.wait(60)
            handler.send_response(503)
            handler.send_header("content-length", "0")
            handler.end_headers()

        self.receiver.play("/hang", hang)
        self.receiver.play("/sick", 500)
        base = self.settings(dest__concurrency=1, dest__patience="60s", window__grace="60s", http__timeout="60s", retry__permanent="retry",
                             http__idle_timeout="60s", retry__delays="200ms,3s", retry__window__webhook="60s", retry__window__s3="60s")
        worker = self.worker(base)
        self.send(*[("h%d" % i, "acme", self.hook("/hang")) for i in range(10)])
        self.send(("s", "other", self.hook("/sick")), ("o", "other", self.hook("/ok")), partition=1)
        rig.await_("one hangs, one is sick, one has arrived", 30,
                   lambda: len(self.receiver.to("/hang")) == 1 and len(self.receiver.to("/sick")) >= 2 and self.delivered(), worker)
        self.reload(worker, base | {"hold.workspaces": "acme, back\\slash"}, taken=False)
        self.assertSays("has a backslash before neither * nor another backslash", worker)
        self.assertEqual(0, worker.metric("runsink_holds", by="workspace"))
        self.reload(worker, base | {"hold.workspaces": "acme", "hold.destinations": self.label("/sick")})
        rig.await_("nothing of acme waits", 30, lambda: worker.metric("runsink_outcomes_total", reason="held") >= 9, worker)
        self.assertEqual(1, len(self.receiver.to("/hang")))
        free.set()  # what was in flight fails, and is held when it comes back
        rig.await_("all are letters", 30, lambda: len(self.letters()) == 11, worker)
        rig.await_("all is settled", 30, self.quiet, worker)
        self.assertEqual((1, 1), (len(self.receiver.to("/hang")), len(self.delivered())))
        attempts = {json.loads(letter.value)["id"]: int(letter.headers["runsink-attempts"]) for letter in self.letters()}
        self.assertEqual({"h%d" % i: int(i == 0) for i in range(10)} | {"s": len(self.receiver.to("/sick"))}, attempts)
        self.sound(worker)
        for path in ("/hang", "/sick"):
            self.receiver.play(path, 200)
        self.reload(worker, base)
        self.redriven(worker, 11)
        rig.await_("all have arrived", 30, lambda: len(self.delivered()) == 12, worker)
        rig.await_("all is settled", 30, self.quiet, worker)
        self.assertEqual(12, len({id for id, _ in self.delivered()}))
        self.assertEqual(0, worker.stop(), worker.tail())
        self.sound(worker)

    def puts(self, bucket, since=0):
        return [(unquote(one.path), one.body) for one in self.receiver.to(f"/{bucket}/")[since:]]

    def test_batches(self):
        """batch mode: a batch with a held member is held as a whole, new or come back, and goes back under its key with its bytes"""
        self.receiver.play("/late/", 503)
        base = self.settings(archive="batch", batch__age="500ms", retry__delays="2s,3s", retry__window__s3="60s")
        worker = self.worker(base | {"hold.workspaces": "acme"})
        self.send(("n1", "acme", self.bucket("new")), ("n2", "other", self.bucket("new")), ("o", "other", self.bucket("others")),
                  ("l1", "late", self.bucket("late")), ("l2", "other", self.bucket("late")))
        rig.await_("the others arrive, one fails", 30, lambda: self.puts("others") and self.puts("late"), worker)
        tried = self.puts("late")[0]
        self.reload(worker, base | {"hold.workspaces": "acme, late"})
        rig.await_("four letters", 30, lambda: len(self.letters()) == 4, worker)
        rig.await_("all is settled", 30, self.quiet, worker)
        self.assertEqual(([], [tried]), (self.puts("new"), self.puts("late")))
        keys = {letter.headers["runsink-batch-key"]: letter.headers["runsink-batch-count"] for letter in self.letters()}
        self.assertEqual({"2"}, set(keys.values()))
        self.assertEqual(2, len(keys))
        self.receiver.play("/late/", 200)
        self.sound(worker)
        self.reload(worker, base)
        self.redriven(worker, 4)
        rig.await_("both arrive", 30, lambda: self.puts("new") and self.puts("late", 1), worker)
        rig.await_("all is settled", 30, self.quiet, worker)
        self.assertEqual([tried, tried], self.puts("late"))
        self.assertEqual(1, len(self.puts("new")))
        self.assertEqual({"/new/", "/late/"}, {re.match("/[a-z]+/", path)[0] for path, _ in self.puts("new") + self.puts("late")})
        self.assertEqual(set(keys), {path.split("/", 2)[2] for path, _ in self.puts("new") + [tried]})
        self.assertEqual(0, worker.stop(), worker.tail())
        self.sound(worker)


if __name__ == "__main__":
    rig.main()
