"""What was delivered goes again on demand: the same objects under the same keys, byte for byte, the same webhook-id; the ledger
knows it, and what can't go again is named."""
import collections
import json

import events
import rig
from receiver import Receiver

PARTITIONS = 2


class Replay(rig.Case):
    def setUp(self):
        super().setUp()
        self.store = rig.services().store("versitygw")
        if self.store is None:
            self.skipTest("no S3 server is installed")
        self.bucket = self.store.bucket(rig.unique("replay"))
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.kafka.create(self.topic, PARTITIONS)
        self.key = self.dir / "ledger.pem"
        self.assertEqual(0, rig.runsink("keygen", self.key).returncode)
        self.base = self.settings(ledger__key=self.key)

    def hook(self, path="/hook"):
        return {"type": "webhook", "url": self.receiver.url + path}

    def send(self, *runs, partition=0):
        """(id, workspace, sink) each."""
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink, id=id, workspaceId=workspace), style=i % 3))
                                        for i, (id, workspace, sink) in enumerate(runs)], partition)

    def settle(self, settings=None, code=0):
        worker = self.worker(settings or self.base)
        rig.await_("all is settled", 60, self.quiet, worker)
        self.assertEqual(code, worker.stop(), worker.tail())
        return worker

    def config(self, settings=None):
        path = self.dir / "tool.ini"
        path.write_text(rig.config_text(settings or self.base))
        return path

    def replay(self, *arguments, settings=None, code=0):
        done = rig.runsink("replay", "--config", self.config(settings), "--json", *arguments, seconds=100)
        self.said = done.stderr.decode()
        self.assertEqual(code, done.returncode, self.said + done.stdout.decode())
        return json.loads(done.stdout)["topics"][0] if done.stdout else None

    def verify(self, *arguments, code=0):
        done = rig.runsink("verify", "--config", self.config(), "--key", f"{self.key}.pub", *arguments, seconds=100)
        self.assertEqual(code, done.returncode, done.stdout.decode() + done.stderr.decode())
        return done.stdout.decode()

    def sound(self):
        """To runsink, and to the verifier that shares no code with it."""
        self.assertIn("\nsound: ", self.verify("--objects", "--records", "--export", self.dir / "export"))
        folder = self.dir / "export" / self.topic if (self.dir / "export" / self.topic).exists() else self.dir / "export"
        done = rig.subprocess.run([rig.sys.executable, rig.Path(__file__).with_name("ledger_verifier.py"), folder, "--key", f"{self.key}.pub"],
                                  capture_output=True, text=True)
        self.assertEqual("sound\n", done.stdout, done.stderr)
        rig.shutil.rmtree(self.dir / "export")

    def missing(self, settings, spread):
        """Ten objects are deleted: they, and no others, come back as they were."""
        self.base = settings
        for partition in range(PARTITIONS):
            self.send(*[(f"r{partition}-{i}", f"w{i % 3}", self.store.sink(self.bucket, prefix=f"p{i % spread}/")) for i in range(36)],
                      partition=partition)
        self.settle()
        before = self.store.objects(self.bucket)
        gone = sorted(before)[::max(1, len(before) // 10)][:10]
        self.assertEqual(10, len(gone))
        for key in gone:
            self.store.root.delete_object(Bucket=self.bucket, Key=key)
        said = self.verify("--objects", code=65)
        self.assertEqual(10, said.count("missing-object"), said)
        answer = self.replay("--only-missing", "--all", "--dry-run")
        self.assertEqual((10, len(before) - 10, 0), (answer["selected"], answer["there"], answer["sent_records"]))
        self.assertEqual(10, len(self.verify("--objects", code=65).split("missing-object")) - 1)
        answer = self.replay("--only-missing", "--all", "--yes")
        self.assertEqual(sum(row["records"] for row in answer["rows"]), answer["sent_records"])
        # They wait: nothing goes twice.
        self.assertEqual((0, 10), tuple(self.replay("--only-missing", "--all", "--yes")[name] for name in ("selected", "waiting")))
        kept = [key for key in before if key not in gone][:3]
        versions = {key: self.store.head(self.bucket, key)["LastModified"] for key in kept}
        self.settle()
        self.assertEqual(before, self.store.objects(self.bucket))
        self.assertEqual(versions, {key: self.store.head(self.bucket, key)["LastModified"] for key in kept})
        self.sound()
        self.assertEqual(0, self.replay("--only-missing", "--all", "--yes")["selected"])
        # And once more, all of one place.
        label = next(row["destination"] for row in self.replay("--all", "--dry-run")["rows"])
        answer = self.replay("--destination", label, "--yes")
        self.assertEqual([label], [row["destination"] for row in answer["rows"]])
        self.settle()
        self.assertEqual(before, self.store.objects(self.bucket))
        self.sound()

    def test_missing_objects(self):
        """object mode: ten deleted objects are found missing, come back byte for byte, and the ledger is sound"""
        self.missing(self.base, 4)

    def test_missing_batches(self):
        """the same in batch mode, where an object is many events"""
        self.missing(self.settings(ledger__key=self.key, archive="batch", batch__age="300ms"), 11)

    def test_webhooks(self):
        """requests go again with their ids and bodies: of a workspace, a job, a run, a time; what was parked before, and what dies after"""
        self.receiver.play("/sick", 503, 200)
        self.send(("r1", "acme", self.hook()), ("r2", "other", self.hook()), ("r3", "acme", self.hook("/sick")), ("r4", "acme", None))
        self.settle()
        first = [one for one in self.receiver.requests if one.answered == 200]
        self.assertEqual(3, len(first))
        self.replay("--yes", code=64)
        self.replay("--all", "--id", "r1", code=64)
        self.assertIn("say what to replay", rig.runsink("replay", "--config", self.config()).stderr.decode())
        self.assertEqual([1, 1, 3, 0, 3, 0], [self.replay(*words, "--dry-run")["selected"] for words in (
            ("--workspace", "other"), ("--id", "r3"), ("--job", "job-123e4567"), ("--job", "job-1"), ("--from", "1h"), ("--to", "1h"))])
        self.assertEqual(0, self.replay("--only-missing", "--workspace", "acme", "--dry-run")["selected"])
        answer = self.replay("--workspace", "acme", "--yes")
        self.assertEqual((2, 2, 1), tuple(answer[name] for name in ("selected", "sent_records", "transactions")))
        record = [r for r in self.kafka.consume(f"{self.topic}.retry.200ms") if r.headers["runsink-why"] == "replay"]
        self.assertEqual(2, len(record))
        self.assertRegex(rig.runsink("check", "--config", self.config()).stdout.decode(), r"attempt: 2\n.*\n +1 .* replay +webhook:")
        # One of them is held when it comes back, and goes once it is released.
        self.settle(self.base | {"hold.destinations": "*/sick"})
        self.assertEqual(1, len(self.dead("tenant")))
        self.sound()
        self.assertEqual((0, 1), tuple(self.replay("--id", "r3", "--yes")[name] for name in ("selected", "waiting")))
        done = rig.runsink("redrive", "--config", self.config(), "--reason", "held", "--yes")
        self.assertEqual(0, done.returncode, done.stderr)
        self.settle()
        self.sound()
        again = [one for one in self.receiver.requests if one.answered == 200][3:]
        told = lambda requests: sorted((one.path, one.headers["webhook-id"], one.body) for one in requests)
        self.assertEqual(told(one for one in first if b'"other"' not in one.body), told(again))
        story = rig.runsink("trace", "--config", self.config(), "r3").stdout.decode()
        self.assertEqual(["parked", "delivered", "replayed", "dead", "redriven", "delivered"],
                         [line.split()[1] for line in story.splitlines()[1:]], story)

    def test_killed(self):
        """a replay that is killed, and another that takes over from one that runs: what was sent waits, the rest goes, nothing goes twice"""
        self.send(*[(f"r{i}", "acme", self.hook()) for i in range(160)])
        self.settle()
        retried = lambda: collections.Counter(r.headers["runsink-origin"] for r in self.kafka.consume(f"{self.topic}.retry.200ms"))
        for end in ("kill", "overtaken"):
            sent = len(retried())
            running = rig.subprocess.Popen([rig.RUNSINK, "replay", "--config", self.config(), "--all", "--yes", "--rate", "20"],
                                           stdout=rig.subprocess.DEVNULL, stderr=rig.subprocess.PIPE, text=True)
            self.addCleanup(running.kill)
            rig.await_("two transactions", 30, lambda: len(retried()) >= sent + 40)
            if end == "kill":
                running.kill()
                running.communicate()
        answer = self.replay("--all", "--yes", "--rate", "100000")
        said = running.communicate(timeout=30)[1]
        self.assertEqual((75, True), (running.returncode, "another replay" in said), said)
        self.assertEqual(160, answer["waiting"] + answer["sent_records"], answer)
        self.assertEqual({1}, set(retried().values()))
        self.assertEqual(160, len(retried()))
        self.settle()
        self.assertEqual({2}, set(collections.Counter(one.headers["webhook-id"] for one in self.receiver.requests).values()))
        self.sound()

    def test_what_cannot_go(self):
        """records that Kafka no longer holds, and what another configuration would make otherwise, are named and do not go; the rest does"""
        self.send(*[(f"r{i}", "acme", self.store.sink(self.bucket)) for i in range(6)])
        self.settle()
        before = self.store.objects(self.bucket)
        self.kafka.delete_before(self.topic, {0: 2})
        answer = self.replay("--all", "--yes", code=65)
        self.assertEqual((4, 2, 4), tuple(answer[name] for name in ("selected", "gone", "sent_records")))
        self.assertEqual([0, 1], [one["offset"] for one in answer["gone_deliveries"]])
        self.settle()
        for key in before:
            self.store.root.delete_object(Bucket=self.bucket, Key=key)
        other = self.base | {"key.object": "{prefix}x/{partition}-{offset}.json"}
        answer = self.replay("--all", "--yes", settings=other, code=65)
        self.assertEqual((0, 4, 2, 0), tuple(answer[name] for name in ("selected", "differ", "gone", "sent_records")))
        text = rig.runsink("replay", "--config", self.config(), "--only-missing", "--all", "--dry-run").stdout.decode()
        self.assertIn("         4         4  to replay", text)
        self.assertEqual(2, text.count("gone     "), text)
        answer = self.replay("--only-missing", "--all", "--yes", code=65)
        self.settle()
        after = self.store.objects(self.bucket)
        self.assertEqual(4, len(after))
        self.assertEqual(after, {key: before[key] for key in after})
        self.assertIn("\nsound: ", self.verify("--records"))


if __name__ == "__main__":
    rig.main()
