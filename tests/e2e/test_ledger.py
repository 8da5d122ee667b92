"""The ledger on a real broker and a real store: `verify` proves what happened and names what was tampered with, a second
verifier that shares no code agrees, `trace` tells a run's story."""
import json
import subprocess
import sys
import time
import unittest
from pathlib import Path

import events
import forger
import rig
from confluent_kafka import Producer

COUNT = 120
PARTITIONS = 3
SECOND_VERIFIER = Path(__file__).with_name("ledger_verifier.py")


class Ledger(rig.Case):
    def setUp(self):
        super().setUp()
        self.store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        if self.store is None:
            self.skipTest("no S3 server is installed")
        self.bucket = self.store.bucket(rig.unique("ledger"))
        self.kafka.create(self.topic, PARTITIONS)
        self.key = self.dir / "ledger.pem"
        self.assertEqual(0, rig.runsink("keygen", str(self.key)).returncode)
        self.public = f"{self.key}.pub"

    def settings(self, **more):
        # Time for an attempt from each of the retry topics.
        return super().settings(**{"ledger__key": self.key, "retry__window__s3": "2s", **more})

    def produce(self, count=COUNT):
        """Delivered, parked until they are dead, skipped and undecodable ones; returns the runs delivered."""
        good = self.store.sink(self.bucket)
        sick = self.store.sink("no-such-bucket-" + self.bucket)
        runs = []
        for partition in range(PARTITIONS):
            records = []
            for i in range(count // PARTITIONS):
                if i % 10 == 7:
                    records.append((b"k", b"{no json"))
                    continue
                run = events.run("absent" if i % 10 == 8 else sick if i % 10 == 9 else good)
                if i % 10 < 7:
                    runs.append((run, partition, i))
                records.append((b"k", events.dump(run)))
            self.kafka.produce(self.topic, records, partition)
        return runs

    def settled(self, worker):
        """The source, and every retry topic behind it."""
        self.until_settled(worker, 120)
        rig.await_("retries are over", 60, self.idle, worker)

    def idle(self):
        """No retry topic holds anything for later. Records move from one to the other meanwhile: then an end moves too."""
        topics = [f"{self.topic}.retry.{tier}" for tier in ("200ms", "400ms", "800ms")]
        before = [self.kafka.ends(t) for t in topics]
        return not any(self.waiting(t) for t in topics) and before == [self.kafka.ends(t) for t in topics]

    def waiting(self, topic):
        committed = self.kafka.committed(self.group, topic)
        return [r for r in self.kafka.consume(topic) if r.offset >= committed.get(r.partition, 0)]

    def work(self, **more):
        runs = self.produce()
        worker = self.worker(self.settings(**more))
        self.settled(worker)
        self.assertEqual(0, worker.stop())
        self.worker_config = worker.config
        return runs

    def verify(self, *arguments):
        done = rig.runsink("verify", "--config", str(self.worker_config), "--json", *arguments)
        self.assertIn(done.returncode, (0, 65), done.stderr.decode())
        answer = json.loads(done.stdout)
        self.assertEqual(answer["sound"], done.returncode == 0)
        return answer

    def codes(self, answer):
        return {f["code"] for f in answer["findings"] if not f["note"]}

    def assertSound(self, answer):
        self.assertEqual(set(), self.codes(answer), json.dumps(answer["findings"][:5], indent=1))

    def second_opinion(self, folder):
        done = subprocess.run([sys.executable, SECOND_VERIFIER, folder], capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    def test_offsets_that_an_admin_set(self):
        """kafka-consumer-groups --reset-offsets, which knows no metadata: told as what it is, with the records jumped over"""
        for partition in range(PARTITIONS):
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run("absent"))) for _ in range(10)], partition)
        worker = self.worker(self.settings())
        self.settled(worker)
        self.assertEqual(0, worker.stop())
        self.worker_config = worker.config
        for partition in range(PARTITIONS):
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run("absent"))) for _ in range(20)], partition)
        rig.await_("the group is empty", 60, lambda: not self.kafka.members(self.group))
        forger.commit(self.kafka.bootstrap, self.group, {(self.topic, 0): (17, ""), (self.topic, 1): (4, ""), (self.topic, 2): (0, "")})
        worker = self.worker(self.settings())
        self.settled(worker)
        self.assertEqual(0, worker.stop())
        found = {(f["partition"], f["offset"]): f["text"] for f in self.verify("--key", self.public)["findings"]
                 if f["code"] == "begun-again"}
        self.assertEqual({(0, 10), (1, 4), (2, 0)}, set(found))
        self.assertIn("records 10 up to 17 were jumped over", found[0, 10])
        self.assertIn("records 4 up to 10 are settled again", found[1, 4])
        self.assertIn("records 0 up to 10 are settled again", found[2, 0])
        answer = self.verify("--key", self.public, "--records")
        self.assertEqual({"begun-again", "no-outcome"}, self.codes(answer))
        self.assertEqual([(0, offset) for offset in range(10, 17)],
                         sorted((f["partition"], f["offset"]) for f in answer["findings"] if f["code"] == "no-outcome"))

    def check_all(self, **more):
        runs = self.work(**more)
        folder = self.dir / "export"
        answer = self.verify("--key", self.public, "--objects", "--records", "--export", str(folder))
        self.assertSound(answer)
        scope = answer["scope"]
        self.assertEqual((self.group, False, True, True, True, False),
                         tuple(scope[n] for n in ("group", "export", "signatures", "objects", "records", "anchors")))
        self.assertEqual(1, len(scope["keys"]))
        self.assertTrue(scope["cluster"])
        rows = answer["partitions"]
        source = [row for row in rows if row["topic"] == self.topic]
        self.assertEqual(PARTITIONS, len(source))
        self.assertEqual(COUNT, sum(r["delivered"] + r["skipped"] + r["parked"] + r["dead"] for r in source))
        self.assertEqual(len(runs), sum(r["delivered"] for r in rows))
        self.assertEqual((0, COUNT * 2 // 10), (sum(r["pending"] for r in source), sum(r["dead_now"] for r in source)))
        self.assertTrue(all(r["signed"] == r["entries"] for r in rows))
        self.assertEqual(len(self.store.keys(self.bucket)), answer["objects"])
        self.assertGreaterEqual(answer["records"], COUNT)

        self.assertEqual((0, "sound\n"), self.second_opinion(folder))
        done = rig.runsink("verify", "--key", self.public, str(folder))
        self.assertEqual(0, done.returncode, done.stdout.decode())
        self.assertIn(f"verified: group {self.group} of cluster {scope['cluster']}, an export", done.stdout.decode())
        self.assertIn("not verified: objects (--objects),", done.stdout.decode())
        return runs

    def test_object_mode(self):
        """all that a worker did in object mode holds, object by object, record by record, in both verifiers' eyes"""
        runs = self.check_all()
        run, partition, offset = runs[5]
        done = rig.runsink("trace", "--config", str(self.worker_config), "--json", run["id"])
        self.assertEqual(0, done.returncode, done.stderr.decode())
        event = json.loads(done.stdout)
        self.assertEqual((partition, offset), (event["partition"], event["offset"]))
        self.assertEqual(["delivered"], [o["outcome"] for o in event["outcomes"]])
        body = self.store.get(self.bucket, event["outcomes"][0]["key"])
        self.assertEqual(rig.sha256(body), event["outcomes"][0]["sha256"])

    def test_batch_mode(self):
        """the same in batch mode"""
        self.check_all(archive="batch", batch__age="500ms")

    def test_trace_of_a_parked_run(self):
        """trace follows a run through its retries to the dead letters, and finds one that retention took by its key"""
        sink = self.store.sink("no-such-bucket-" + self.bucket)
        run = events.run(sink)
        fine = events.run(self.store.sink(self.bucket))
        self.kafka.produce(self.topic, [(b"k", events.dump(run)), (b"k", events.dump(fine))])
        worker = self.worker(self.settings())
        rig.await_("the dead letter", 60, lambda: self.dead("tenant"), worker)
        self.settled(worker)
        self.assertEqual(0, worker.stop())
        done = rig.runsink("trace", "--config", str(worker.config), "--json", run["id"])
        outcomes = [o["outcome"] for o in json.loads(done.stdout)["outcomes"]]
        self.assertGreaterEqual(len(outcomes), 3)
        self.assertEqual({"parked"}, set(outcomes[:-1]))
        self.assertEqual("dead", outcomes[-1])
        text = rig.runsink("trace", "--config", str(worker.config), run["id"]).stdout.decode()
        self.assertIn("dead to s3://no-such-bucket-", text)

        self.kafka.delete_before(self.topic, {0: 2})
        done = rig.runsink("trace", "--config", str(worker.config), "--json", fine["id"])
        event = json.loads(done.stdout)
        self.assertFalse(event["held"])
        self.assertEqual(1, event["offset"])
        self.assertEqual(66, rig.runsink("trace", "--config", str(worker.config), "no-such-run").returncode)

    def test_tampered_objects(self):
        """an object that was changed, cut or removed is named with the record it came from"""
        self.work()
        keys = sorted(self.store.keys(self.bucket))
        body = self.store.get(self.bucket, keys[0])
        self.store.root.put_object(Bucket=self.bucket, Key=keys[0], Body=body.replace(b"job-123e4567", b"job-123e4568"))
        self.store.root.put_object(Bucket=self.bucket, Key=keys[1], Body=body[:-1])
        self.store.root.delete_object(Bucket=self.bucket, Key=keys[2])
        self.assertSound(self.verify())
        answer = self.verify("--objects")
        self.assertEqual(["missing-object", "object-differs", "object-differs"],
                         sorted(f["code"] for f in answer["findings"]))
        for finding in answer["findings"]:
            self.assertEqual(self.topic, finding["topic"])
            self.assertIn(f"-{finding['partition']}-{finding['offset']}.json", finding["text"])

    def test_files(self):
        """objects in a folder are compared like those in a bucket"""
        folder = self.dir / "files"
        runs = self.work(sink__override=f"file:{folder}")
        answer = self.verify("--objects", "--records")
        self.assertSound(answer)
        files = sorted(f for f in folder.rglob("*.json"))
        self.assertEqual(len(files), answer["objects"])
        self.assertGreaterEqual(len(files), len(runs))
        files[0].write_bytes(files[0].read_bytes() + b" ")
        files[1].unlink()
        self.assertEqual({"missing-object", "object-differs"}, self.codes(self.verify("--objects")))

    def test_objects_after_retention(self):
        """once Kafka has forgotten the records, objects are read with the operator's own credentials, or named"""
        self.work()
        self.kafka.delete_before(self.topic, self.kafka.ends(self.topic))
        answer = self.verify("--objects")
        self.assertEqual({"unreadable-object"}, self.codes(answer))
        answer = self.verify("--objects", "--set", f"verify.access_key_id={self.store.access_key}",
                             "--set", f"verify.secret_access_key={self.store.secret_key}",
                             "--set", f"verify.endpoint={self.store.url}")
        self.assertSound(answer)
        self.assertEqual(len(self.store.keys(self.bucket)), answer["objects"])

    def test_tampered_ledger(self):
        """entries that are forged, repeated or removed in Kafka itself"""
        self.work()
        self.work()  # each chain has two entries at least, whatever the windows hold
        self.assertSound(self.verify("--key", self.public))
        entries = self.kafka.consume(f"{self.topic}.ledger")
        last = max((e for e in entries if e.key == f"{self.topic}/0".encode()), key=lambda e: e.offset)
        ledger = f"{self.topic}.ledger"

        self.kafka.produce(ledger, [(last.key, last.value)], last.partition)
        answer = self.verify("--key", self.public)
        self.assertSound(answer)
        self.assertEqual(["repeated"], [f["code"] for f in answer["findings"]])

        forged = last.value.replace(b'"to":"s3://', b'"to":"s4://', 1)
        self.assertNotEqual(forged, last.value)
        self.kafka.produce(ledger, [(last.key, forged)], last.partition)
        self.assertIn("bad-hash", self.codes(self.verify("--key", self.public)))

        # All that there was, the good repeat included: of this chain only the forgery is left.
        self.kafka.delete_before(ledger, {last.partition: self.kafka.ends(ledger)[last.partition] - 1})
        codes = self.codes(self.verify("--key", self.public))
        self.assertTrue(codes & {"begins-late", "truncated", "missing"}, codes)

    def test_waiting_records_that_are_gone(self):
        """what waits in a retry topic is looked for there: each record that was removed is named, and a topic that was deleted"""
        sick = self.store.sink("no-such-bucket-" + self.bucket)
        for partition in range(PARTITIONS):
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sick))) for _ in range(10)], partition)
        worker = self.worker(self.settings(retry__delays="1h", retry__window__s3="10h"))
        self.until_settled(worker)
        self.assertEqual(0, worker.stop())
        self.worker_config = worker.config
        answer = self.verify("--records")
        self.assertSound(answer)
        self.assertEqual(10 * PARTITIONS, sum(row["pending"] for row in answer["partitions"]))

        retry = f"{self.topic}.retry.1h"
        held = {p: n for p, n in self.kafka.ends(retry).items() if n}
        partition = min(held)
        origins = [dict(one.headers)["runsink-origin"] for one in self.kafka.consume(retry) if one.partition == partition]
        self.kafka.delete_before(retry, {partition: held[partition]})
        gone = [f for f in self.verify()["findings"] if f["code"] == "vanished"]
        self.assertEqual(sorted(origins), sorted(f"{f['topic']}/{f['partition']}/{f['offset']}" for f in gone))

        self.kafka.admin.delete_topics([retry])[retry].result()
        rig.await_("the topic is gone", 30, lambda: retry not in self.kafka.topics())
        gone = [f for f in self.verify()["findings"] if f["code"] == "vanished"]
        self.assertEqual(10 * PARTITIONS, len(gone))

    def test_records_of_a_topic_that_is_gone(self):
        """`verify --records` knows from the metadata that partitions are not there, and waits for none of them"""
        self.work()
        self.kafka.admin.delete_topics([self.topic])[self.topic].result()
        rig.await_("the topic is gone", 30, lambda: self.topic not in self.kafka.topics())
        began = time.monotonic()
        self.verify("--records")
        self.assertLess(time.monotonic() - began, 25)

    def test_nothing_is_not_sound(self):
        """a mistyped group, a time without entries, a folder without anchors: what was not verified is not sound"""
        self.work()
        self.assertEqual({"nothing-verified"}, self.codes(self.verify("--group", "mistyped")))
        self.assertEqual({"not-covered"}, self.codes(self.verify("--from", "2099-01-01T00:00:00Z")))
        (self.dir / "empty").mkdir()
        self.assertEqual({"anchors-none"}, self.codes(self.verify("--anchors", str(self.dir / "empty"))))

    def test_other_key_and_no_key(self):
        """a key that did not sign is told, and without one the report says that nothing was checked"""
        self.work()
        other = self.dir / "other.pem"
        rig.runsink("keygen", str(other))
        self.assertEqual({"unknown-key"}, self.codes(self.verify("--key", f"{other}.pub")))
        self.assertFalse(self.verify()["signatures_checked"])

    def test_rotation(self):
        """after a rotation the old public key alone is enough, and it vouches for the new one"""
        self.produce()
        worker = self.worker(self.settings())
        self.settled(worker)
        self.assertEqual(0, worker.stop())
        old, old_public = self.key, self.public
        self.key = self.dir / "new.pem"
        rig.runsink("keygen", str(self.key))
        self.work(ledger__key_previous=old)
        folder = self.dir / "export"
        answer = self.verify("--key", old_public, "--export", str(folder))
        self.assertSound(answer)
        self.assertIn("rotated", {f["code"] for f in answer["findings"]})
        answer = self.verify_folder(folder, "--key", old_public)
        self.assertSound(answer)
        self.assertTrue(answer["scope"]["manifest_signed"])  # by the new one

    def verify_folder(self, folder, *arguments):
        done = rig.runsink("verify", "--json", *arguments, str(folder))
        self.assertIn(done.returncode, (0, 65), done.stderr.decode())
        return json.loads(done.stdout)

    def test_signed_manifest(self):
        """an export's manifest is signed: one that was altered, or signed by another, is named, and one that is not signed told"""
        self.work()
        folder, other = self.dir / "export", self.dir / "other.pem"
        self.assertSound(self.verify("--key", self.public, "--export", str(folder)))
        manifest = folder / "manifest.json"
        signed = manifest.read_bytes()
        self.assertTrue(self.verify_folder(folder, "--key", self.public)["scope"]["manifest_signed"])
        self.assertEqual((0, "sound\n"), self.second_opinion(folder))

        # One of the files is another, and nothing else could tell: the manifest names them.
        file = folder / f"{self.topic}-0.ndjson"
        entries = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join([*entries, entries[-1]]))
        answer = self.verify_folder(folder, "--key", self.public)
        self.assertEqual([("file-altered", file.name)], [(f["code"], f["found_in"]["name"]) for f in answer["findings"] if not f["note"]])
        self.assertEqual((65, f"{file.name}: not the bytes that the manifest names\n"), self.second_opinion(folder))

        # Ledger and manifest are cut short together, as whoever can change the folder could.
        file.write_bytes(b"".join(entries[:-1]))
        told = json.loads(signed)
        for one in told["committed"]:
            if (one["topic"], one["partition"]) == (self.topic, 0):
                last = json.loads(entries[-1])
                one.update(offset=last["first"], entries=last["seq"], head=last["prev"])
        altered = json.dumps(told, separators=(",", ":")).encode()
        manifest.write_bytes(altered)
        self.assertIn("manifest-altered", self.codes(self.verify_folder(folder, "--key", self.public)))
        self.assertIn("manifest-altered", self.codes(self.verify_folder(folder)))
        code, text = self.second_opinion(folder)
        self.assertEqual(65, code)
        self.assertIn("manifest: hash differs", text)

        rig.runsink("keygen", str(other))
        for name in (other, self.key):
            forged = forger.Forger(name).sealed(altered[:altered.index(b',"hash":"')])
            manifest.write_bytes(forged.replace(forger.Forger(name).id.encode(), forger.Forger(self.key).id.encode()))
            codes = self.codes(self.verify_folder(folder, "--key", self.public))
            self.assertEqual(name == other, "manifest-bad-signature" in codes, codes)
        manifest.write_bytes(forger.Forger(other).sealed(altered[:altered.index(b',"hash":"')]))
        self.assertIn("manifest-unknown-key", self.codes(self.verify_folder(folder, "--key", self.public)))

        manifest.write_bytes(altered[:altered.index(b',"hash":"')] + b"}\n")
        answer = self.verify_folder(folder, "--key", self.public)
        self.assertIn("manifest-unsigned", {f["code"] for f in answer["findings"] if f["note"]})
        self.assertFalse(answer["scope"]["manifest_signed"])
        done = rig.runsink("verify", "--key", self.public, str(folder))
        self.assertIn("whose manifest, NOT SIGNED by a key that was given,", done.stdout.decode())

    def test_after_kills(self):
        """workers that were killed at any moment leave a ledger that holds"""
        # Four deaths of a slow machine's worker may all meet one record, which would be taken for their cause.
        settings = self.settings(lanes=2, slot="one", poison__attempts="0")
        for round in range(4):
            runs = self.produce(60)
            worker = self.worker(settings)
            rig.await_("some of it is delivered", 120,
                       lambda: len(self.store.keys(self.bucket)) > len(runs) * (round + 0.3), worker)
            worker.kill()
        worker = self.worker(settings)
        self.worker_config = worker.config
        self.settled(worker)
        self.assertEqual(0, worker.stop())
        folder = self.dir / "export"
        answer = self.verify("--key", self.public, "--objects", "--records", "--export", str(folder))
        self.assertSound(answer)
        self.assertEqual((0, "sound\n"), self.second_opinion(folder))
        self.assertEqual(4 * len(runs), sum(row["delivered"] for row in answer["partitions"]))

    def test_while_running(self):
        """verify beside a worker that settles all the time finds nothing"""
        self.produce()
        worker = self.worker(self.settings())
        self.worker_config = worker.config
        ledger = f"{self.topic}.ledger"
        rig.await_("the ledger has entries", 30,
                   lambda: ledger in self.kafka.topics() and any(self.kafka.ends(ledger).values()), worker)
        for _ in range(6):
            self.produce(30)
            self.assertSound(self.verify("--key", self.public, "--records"))
        self.settled(worker)
        self.assertEqual(0, worker.stop())
        self.assertSound(self.verify("--key", self.public, "--objects", "--records"))

    def test_open_transaction(self):
        """a transaction that was left open hides entries from readers: verify waits for its end, and then finds nothing"""
        self.work()
        stranger = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": rig.unique("stranger")})
        stranger.init_transactions(30)
        stranger.begin_transaction()
        for partition in range(PARTITIONS):
            stranger.produce(f"{self.topic}.ledger", b"not ours", b"x", partition)
        stranger.flush(30)
        self.work()
        command = [rig.RUNSINK, "verify", "--config", self.worker_config, "--key", self.public, "--records"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=rig.ENVIRONMENT) as verify:
            said = verify.stderr.readline()
            self.assertIn("a transaction is open", said)
            self.assertIsNone(verify.poll())
            stranger.abort_transaction(30)
            report = verify.communicate(timeout=120)[0]
        self.assertEqual(0, verify.returncode, report)
        self.assertIn("\nsound: ", report)


if __name__ == "__main__":
    rig.main()
