"""Anchors: the ledger's heads in a bucket under Object Lock, so that whoever holds the broker and the signing key can't rewrite
the ledger unnoticed. Against MinIO and versitygw; where neither is installed against S3Proxy, which knows no Object Lock."""
import datetime
import json
import re
import signal
import subprocess
import sys
import unittest
from pathlib import Path

import botocore.exceptions

import events
import forger
import rig

PARTITIONS = 3
SECOND_VERIFIER = Path(__file__).with_name("ledger_verifier.py")
NAME = re.compile(r"\d{4}/\d\d/\d\d/\d{6}Z-[0-9a-f]{16}\.json")


def stores():
    """Those with Object Lock, or at least one."""
    locking = [s for s in map(rig.services().store, ("minio", "versitygw")) if s]
    return locking or [rig.services().store("s3proxy")]


def other_objects(canonical):
    """Says of every delivery that it was another object."""
    assert '"key":"' in canonical
    return canonical.replace('"key":"', '"key":"forged/')


class Anchors(rig.Case):
    def setUp(self):
        super().setUp()
        self.kafka.create(self.topic, PARTITIONS)
        self.key = self.dir / "ledger.pem"
        self.assertEqual(0, rig.runsink("keygen", str(self.key)).returncode)
        self.public = f"{self.key}.pub"
        self.use(stores()[0])

    def use(self, store):
        self.store = store
        self.locks = store.name != "s3proxy"
        if not self.locks:
            rig.say("SKIPPED IN PART: neither minio nor versitygw is installed, s3proxy knows no Object Lock")
        self.bucket = rig.unique("anchors")

    def make_bucket(self):
        self.store.bucket(self.bucket, **({"ObjectLockEnabledForBucket": True} if self.locks else {}))

    def settings(self, **more):
        """Deliveries go to a folder, so that nothing but anchors needs the network, which is closed to events."""
        lock = {"anchor__lock_mode": "GOVERNANCE", "anchor__lock_days": 2} if self.locks else {"anchor__lock_mode": "none"}
        base = {"ledger__key": self.key, "sink__override": f"file:{self.dir / 'files'}",
                "egress__allow": "", "egress__http": "false",
                "anchor__bucket": self.bucket, "anchor__endpoint": self.store.url, "anchor__path_style": "true",
                "anchor__prefix": "proof/", "anchor__interval": "1s",
                "anchor__access_key_id": self.store.access_key, "anchor__secret_access_key": self.store.secret_key}
        return super().settings(**{**base, **lock, **more})

    def produce(self, count=20):
        sink = self.store.sink("acme-runs", endpoint="https://s3.example.com")
        for partition in range(PARTITIONS):
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink))) for _ in range(count)], partition)

    def anchors(self):
        return self.store.objects(self.bucket)

    def heads(self):
        """(topic, partition) -> the highest number anchored."""
        found = {}
        for body in self.anchors().values():
            for head in json.loads(body)["heads"]:
                place = head["topic"], head["partition"]
                found[place] = max(found.get(place, -1), head["seq"])
        return found

    def ledger(self):
        return self.kafka.consume(f"{self.topic}.ledger")

    def newest(self):
        found = {}
        for record in self.ledger():
            entry = json.loads(record.value)
            found[entry["topic"], entry["partition"]] = entry["seq"]
        return found

    def all_anchored(self):
        try:
            return self.heads() == self.newest()
        except self.store.root.exceptions.NoSuchKey:  # S3Proxy lists an object before it can be read
            return False

    def work(self, rounds=3, **more):
        """Several anchors' worth."""
        worker = self.worker(self.settings(**more))
        for _ in range(rounds):
            self.produce()
            self.until_settled(worker)
            rig.await_("all heads are anchored", 60, self.all_anchored, worker)
        self.assertEqual(0, worker.stop())
        self.config = str(worker.config)
        return worker

    def verify(self, *arguments, anchors=True):
        off = () if anchors else ("--set", "anchor.bucket=")
        done = rig.runsink("verify", "--config", self.config, "--key", self.public, "--json", *off, *arguments)
        self.assertIn(done.returncode, (0, 65), done.stderr.decode())
        answer = json.loads(done.stdout)
        self.assertEqual(answer["sound"], done.returncode == 0)
        answer["faults"] = [f for f in answer["findings"] if not f["note"]]
        answer["codes"] = {f["code"] for f in answer["faults"]}
        return answer

    def assertSound(self, answer):
        self.assertEqual(set(), answer["codes"], json.dumps(answer["findings"][:5], indent=1))

    def second_opinion(self, folder):
        done = subprocess.run([sys.executable, SECOND_VERIFIER, folder, "--key", self.public], capture_output=True, text=True,
                              timeout=120)
        return done.returncode, done.stdout + done.stderr

    def rewrite(self, change, keep=lambda entry: True):
        """The ledger from its start, as an attacker with broker and key would, the group's committed state included."""
        ledger, attacker = f"{self.topic}.ledger", forger.Forger(self.key)
        records = [r for r in self.ledger() if keep(json.loads(r.value))]
        self.kafka.admin.delete_topics([ledger])[ledger].result()
        rig.await_("the ledger is gone", 60, lambda: ledger not in self.kafka.topics())
        rig.await_("it can be made again", 60, lambda: self.made(ledger))
        for record in records:
            self.kafka.produce(ledger, [(record.key, attacker.entry(record.value, change))], record.partition)
        self.set_offsets(attacker)

    def set_offsets(self, attacker):
        offsets = {(topic, partition): (self.kafka.committed(self.group, topic)[partition], f"rs1 {entries} {head}")
                   for (topic, partition), (entries, head) in attacker.heads.items()}
        forger.commit(self.kafka.bootstrap, self.group, offsets)

    def made(self, ledger):
        try:
            return self.kafka.create(ledger, PARTITIONS)
        except Exception:  # the broker may still be deleting it
            return None

    def check_locked(self):
        """What Object Lock promises: an anchor stays as long as it was to stay, whoever asks."""
        key = next(iter(self.anchors()))
        head = self.store.head(self.bucket, key)
        self.assertEqual("GOVERNANCE", head["ObjectLockMode"])
        left = head["ObjectLockRetainUntilDate"] - datetime.datetime.now(datetime.timezone.utc)
        self.assertTrue(datetime.timedelta(days=1.9) < left < datetime.timedelta(days=2.1), left)
        with self.assertRaises(botocore.exceptions.ClientError):
            self.store.root.delete_object(Bucket=self.bucket, Key=key, VersionId=head["VersionId"])
        return key

    def test_rewritten_from_the_start(self):
        """a ledger that was rewritten with the right key is sound by itself, and is not what was anchored"""
        for store in stores():
            with self.subTest(store=store.name):
                self.setUp_again(store)
                self.work()
                for key, body in self.anchors().items():
                    self.assertTrue(key.startswith(f"proof/{self.group.replace('.', '_')}/"), key)
                    self.assertRegex(key.split("/", 2)[2], NAME)
                    self.assertEqual(self.group, json.loads(body)["group"])
                if self.locks:
                    self.check_locked()
                answer = self.verify()
                self.assertSound(answer)
                self.assertGreaterEqual(answer["anchors"], 3)
                self.assertEqual(max(json.loads(a)["at"] for a in self.anchors().values()), answer["anchored_last_ms"])
                self.assertEqual(answer["anchored_heads"], answer["anchored_found"])

                self.rewrite(other_objects)
                self.assertSound(self.verify(anchors=False))
                answer = self.verify()
                self.assertEqual({"anchor-differs"}, answer["codes"])
                self.assertEqual({(self.topic, p) for p in range(PARTITIONS)},
                                 {(f["topic"], f["partition"]) for f in answer["faults"]})
                first = answer["faults"][0]
                for text in ("entry ", "anchor 20", "the ledger's is "):
                    self.assertIn(text, first["text"])
                self.assertEqual(2, len(re.findall(r"[0-9a-f]{64}", first["text"])))

    def setUp_again(self, store):
        """A topic, a group and a bucket of their own for each store."""
        if store.name != self.store.name:
            self.use(store)
            self.topic, self.group = rig.unique("runs"), rig.unique("group")
            self.kafka.create(self.topic, PARTITIONS)
        self.make_bucket()

    def test_cut_short(self):
        """a ledger that was rewritten shorter, with the group's committed state to match, lacks what was anchored"""
        self.make_bucket()
        self.work()
        last = self.newest()[self.topic, 0]
        self.rewrite(lambda canonical: canonical,
                     keep=lambda e: (e["topic"], e["partition"]) != (self.topic, 0) or e["seq"] < last)
        answer = self.verify()
        missing = [f for f in answer["findings"] if f["code"] == "anchor-missing"]
        self.assertEqual([(self.topic, 0)], [(f["topic"], f["partition"]) for f in missing])
        self.assertIn(f"entry {last} was anchored", missing[0]["text"])

    def test_redriven(self):
        """what redrive did is anchored too: with its entries cut off, and the committed state with them, the anchor misses them"""
        self.make_bucket()
        self.kafka.produce(self.topic, [(b"k", b'{"broken": ')] * 4, 0)
        worker = self.worker(self.settings())
        self.until_settled(worker)
        rig.await_("all heads are anchored", 60, self.all_anchored, worker)
        self.assertEqual(0, worker.stop())
        self.config, dead = str(worker.config), f"{self.topic}.dead.data"
        done = rig.runsink("redrive", "--config", self.config, "--yes", "--to-origin")
        self.assertEqual(0, done.returncode, done.stderr.decode())
        self.assertEqual(0, self.heads()[dead, 0])
        folder = self.dir / "export"
        answer = self.verify("--export", str(folder))
        self.assertSound(answer)
        self.assertFalse([f for f in answer["findings"] if f["code"] == "anchors-elsewhen"])
        for row in answer["partitions"]:
            self.assertEqual((row["entries"], row["next"]), (row["anchored"], row["anchored_next"]), row)
        self.assertEqual((0, "sound\n"), self.second_opinion(folder))

        file, manifest = folder / f"{dead}-0.ndjson", folder / "manifest.json"
        file.unlink()
        told = json.loads(manifest.read_text())
        told["committed"] = [c for c in told["committed"] if c["topic"] != dead]
        told["files"] = [f for f in told["files"] if f["name"] != file.name]
        # The manifest is signed: who changes it is found by that alone, and who takes the signature off by the anchor.
        for signed in (True, False):
            if not signed:
                told = {name: value for name, value in told.items() if name not in ("hash", "sig", "key")}
            manifest.write_text(json.dumps(told, separators=(",", ":")))
            answer = json.loads(rig.runsink("verify", "--key", self.public, "--json", str(folder)).stdout)
            self.assertEqual([("manifest-altered", None)] * signed + [("anchor-missing", dead)],
                             [(f["code"], f.get("topic")) for f in answer["findings"] if not f["note"]])
            self.assertEqual(65, self.second_opinion(folder)[0])

    def test_redrive_beside_a_bucket_that_fails(self):
        """letters go back while no anchor can be written, and it says so"""
        self.make_bucket()
        self.kafka.produce(self.topic, [(b"k", b'{"broken": ')], 0)
        worker = self.worker(self.settings())
        self.until_settled(worker)
        self.assertEqual(0, worker.stop())
        done = rig.runsink("redrive", "--config", worker.config, "--yes", "--set", "anchor.bucket=no-such-bucket-here")
        self.assertEqual(0, done.returncode, done.stderr.decode())
        self.assertIn("sent 1 of 1", done.stdout.decode())
        self.assertIn("could not be anchored", done.stderr.decode())

    def test_export(self):
        """an export brings the anchors along: an auditor with that alone, and a verifier that shares no code, see the same"""
        self.make_bucket()
        self.work()
        folder = self.dir / "export"
        self.assertSound(self.verify("--export", str(folder)))
        done = rig.runsink("verify", "--key", self.public, "--json", str(folder))
        self.assertEqual(0, done.returncode, done.stdout.decode())
        answer = json.loads(done.stdout)
        self.assertEqual(len(self.anchors()), answer["anchors"])
        self.assertEqual(answer["anchored_heads"], answer["anchored_found"])
        self.assertEqual((0, "sound\n"), self.second_opinion(folder))
        self.assertEqual({"anchors-none"}, self.verify("--set", "anchor.prefix=prof/")["codes"])

        before = folder / "anchors"
        self.rewrite(other_objects)
        rewritten = self.dir / "rewritten"
        self.verify("--export", str(rewritten), anchors=False)
        self.assertEqual((0, "sound\n"), self.second_opinion(rewritten))
        done = rig.runsink("verify", "--key", self.public, "--anchors", str(before), str(rewritten))
        self.assertEqual(65, done.returncode)
        self.assertIn(b"anchor-differs", done.stdout)
        before.rename(rewritten / "anchors")
        code, said = self.second_opinion(rewritten)
        self.assertEqual(65, code)
        self.assertIn("anchored otherwise", said)

        dropped = next(folder.glob("*.ndjson"))
        self.assertTrue(dropped.exists())
        done = rig.runsink("verify", "--key", self.public, "--json", str(folder))
        self.assertIn("anchors-unread", done.stdout.decode(), "anchors that the manifest counts are gone")

    def test_overwritten_and_hidden(self):
        """another version put over an anchor, or a delete marker, hides nothing"""
        if not self.locks:
            self.skipTest("needs a store with versions")
        self.make_bucket()
        self.work()
        before = list(self.anchors())
        key, other = before[:2]
        self.store.root.put_object(Bucket=self.bucket, Key=key, Body=b"{}")
        self.store.root.delete_object(Bucket=self.bucket, Key=other)
        answer = self.verify()
        self.assertEqual({"anchor-overwritten", "anchor-malformed"}, answer["codes"])
        self.assertIn("anchors-hidden", {f["code"] for f in answer["findings"]})
        self.assertEqual(answer["anchored_heads"], answer["anchored_found"])
        self.assertEqual(len(before), answer["anchors"])

    def test_more_than_a_page(self):
        """a thousand and more anchors are listed page by page, each read once"""
        for store in stores():
            with self.subTest(store=store.name):
                self.setUp_again(store)
                self.work(rounds=1)
                anchors = self.anchors()
                key, body = next(iter(anchors.items()))
                for i in range(1100):
                    name = re.sub(r"[0-9a-f]{16}", f"{i:016x}", key)
                    self.store.root.put_object(Bucket=self.bucket, Key=name, Body=body)
                answer = self.verify()
                self.assertSound(answer)
                self.assertEqual(len(anchors) + 1100, answer["anchors"])
                self.assertEqual(answer["anchored_heads"], answer["anchored_found"])

    def test_store_fails_and_recovers(self):
        """without the bucket deliveries go on, metrics and verify say so; once it is there the heads are anchored"""
        worker = self.worker(self.settings())
        self.produce()
        self.until_settled(worker)
        rig.await_("failures are counted", 30, lambda: worker.metric("runsink_anchors_total", result="failed") >= 2, worker)
        rig.await_("it is overdue", 30, lambda: worker.metric("runsink_anchor_overdue_seconds") > 0, worker)
        self.assertEqual(0, worker.metric("runsink_last_anchor_timestamp_seconds"))
        self.assertSays("could not be anchored", worker)
        self.config = str(worker.config)
        answer = self.verify()
        self.assertEqual({"anchors-unread"}, answer["codes"])
        self.assertIn("incomplete", answer["faults"][0]["text"])

        self.make_bucket()
        rig.await_("all heads are anchored", 60, self.all_anchored, worker)
        rig.await_("nothing is overdue", 30, lambda: worker.metric("runsink_anchor_overdue_seconds") == 0, worker)
        self.assertGreater(worker.metric("runsink_last_anchor_timestamp_seconds"), 0)
        self.assertEqual(0, worker.stop())
        self.assertNotIn(self.store.secret_key, worker.text())
        self.assertSound(self.verify())

    def test_new_credentials(self):
        """SIGHUP rereads the credentials of the bucket"""
        self.make_bucket()
        secret = self.dir / "secret"
        secret.write_text("not-the-secret")
        worker = self.worker(self.settings(anchor__secret_access_key=f"@{secret}"))
        self.produce()
        self.until_settled(worker)
        rig.await_("failures are counted", 30, lambda: worker.metric("runsink_anchors_total", result="failed") >= 1, worker)
        self.assertEqual({}, self.anchors())
        secret.write_text(self.store.secret_key)
        worker.process.send_signal(signal.SIGHUP)
        rig.await_("all heads are anchored", 60, self.all_anchored, worker)
        self.assertEqual(0, worker.stop())

    def test_last_anchor(self):
        """a worker that is told to end anchors what it has settled, and the next one anchors what it finds"""
        self.make_bucket()
        worker = self.worker(self.settings(anchor__interval="1h"))
        self.produce()
        self.until_settled(worker)
        self.assertEqual({}, self.heads())
        self.assertEqual(0, worker.stop())
        self.assertEqual(self.newest(), self.heads())
        self.assertEqual(1, len(self.anchors()))

        worker = self.worker(self.settings(anchor__interval="1h"))
        self.produce()
        self.until_settled(worker)
        worker.kill()
        self.assertEqual(1, len(self.anchors()))
        worker = self.worker(self.settings())
        rig.await_("what the killed one had settled is anchored", 60, self.all_anchored, worker)
        self.assertEqual(0, worker.stop())

    def test_refused(self):
        """anchors without a key to sign them, or with a bucket that can't be one, are a configuration error"""
        worker = self.worker({k: v for k, v in self.settings().items() if k != "ledger.key"})
        self.assertExit(78, worker)
        self.assertSays("anchors are signed", worker)
        worker = self.worker(self.settings(anchor__bucket="no bucket"))
        self.assertExit(78, worker)
        self.assertSays("bucket is not a bucket name", worker)


if __name__ == "__main__":
    rig.main()
