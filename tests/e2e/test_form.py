"""The ledger's entries on a real broker: what they say of where they come from, and by which rules outcomes were decided."""
import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from confluent_kafka import KafkaException

import events
import rig

SECOND_VERIFIER = Path(__file__).with_name("ledger_verifier.py")


class Form(rig.Case):
    def setUp(self):
        super().setUp()
        (self.dir / "root").mkdir()
        self.kafka.create(self.topic, 2)

    def settings(self, **more):
        return super().settings(**{"file__root": self.dir / "root", "retry__delays": "200ms", **more})

    def produce(self, count=12, partition=0):
        good, sick = {"type": "file", "path": "acme"}, {"type": "webhook", "url": "http://127.0.0.1:65535/none"}
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sick if i == 3 else good))) for i in range(count)], partition)

    def work(self, **more):
        self.produce()
        self.produce(5, 1)
        self.kafka.produce(self.topic, [(b"k", None)], 1)
        worker = self.worker(self.settings(**more))
        self.until_settled(worker)
        rig.await_("nothing waits", 30, self.quiet, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.config = worker.config

    def entries(self):
        return [json.loads(r.value) for r in sorted(self.kafka.consume(self.topic + ".ledger"), key=lambda r: (r.partition, r.offset))]

    def verify(self, *arguments, code=0):
        done = rig.runsink("verify", "--json", "--config", self.config, *arguments)
        self.assertEqual(code, done.returncode, done.stdout[:2000] + done.stderr)
        return json.loads(done.stdout)

    def second(self, folder):
        return subprocess.run([sys.executable, SECOND_VERIFIER, folder], capture_output=True).stdout.decode()

    def test_what_entries_say(self):
        """the cluster, the rules, and the newest record of each window, of retry topics too; rules that change are told"""
        self.work()
        entries = self.entries()
        answer = self.verify("--records", "--export", self.dir / "export", self.topic)
        self.assertEqual({2}, {e["v"] for e in entries})
        self.assertEqual({answer["scope"]["cluster"]}, {e["cluster"] for e in entries})
        records = {(t, r.partition, r.offset): r for t in (self.topic, self.topic + ".retry.200ms") for r in self.kafka.consume(t)}
        told = set()
        for e in entries:
            newest = max(offset for topic, partition, offset in records
                         if (topic, partition) == (e["topic"], e["partition"]) and offset < e["next"])
            record = records[e["topic"], e["partition"], newest]
            self.assertEqual([newest, record.timestamp, len(record.value or b"")], e["last"])
            told.add(e["topic"])
        self.assertEqual({self.topic, self.topic + ".retry.200ms"}, told)
        self.assertEqual("sound\n", self.second(self.dir / "export"))
        before = {e["rules"] for e in entries}
        self.assertEqual(1, len(before))
        self.work(statuses="SUCCESS,FAILURE,COMPLETED", window__age="100ms", key__object="{prefix}{id}-{partition}-{offset}.json")
        after = {e["rules"] for e in self.entries()} - before
        self.assertEqual(1, len(after))
        answer = self.verify("--records", self.topic)
        self.assertEqual([*before, *after], [r["rules"] for r in answer["scope"]["rules"]])
        self.assertEqual(0, answer["scope"]["form1_partitions"])
        # Derived again by the rules that verify is given: what others decided otherwise is counted, not held against them.
        self.assertEqual(0, answer["scope"]["outcomes"]["differ"])
        self.assertGreater(answer["scope"]["outcomes"]["not_judged"]["other_configuration"], 0)
        self.assertGreater(answer["scope"]["outcomes"]["derived"], 0)
        self.assertEqual(after, {row["rules"] for row in answer["partitions"] if row["topic"] == self.topic})
        done = rig.runsink("verify", "--config", self.config, self.topic)
        self.assertIn(f"settled by 2 sets of rules, the newest {[*after][0]} since ", done.stdout.decode())

    def test_no_digest_of_what_came(self):
        """a record with a secret that can be guessed: no entry holds anything that guesses could be tried against"""
        sink = {"type": "webhook", "url": "http://127.0.0.1:65535/none", "headers": {"Authorization": "4711"}}
        value = events.dump(events.run(sink))
        self.kafka.produce(self.topic, [(b"k", value)], 0)
        worker = self.worker(self.settings())
        self.until_settled(worker)
        rig.await_("nothing waits", 30, self.quiet, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        entries = self.entries()
        self.assertEqual({len(value)}, {e["last"][2] for e in entries if "last" in e})
        said = json.dumps(entries)
        for name in "md5", "sha1", "sha256", "sha512":
            digest = hashlib.new(name, value).digest()
            self.assertNotIn(digest.hex(), said)
            self.assertNotIn(base64.b64encode(digest).decode(), said)

    def test_from_one_form_to_the_other_and_back(self):
        """a deploy that holds to form 1 until the last older worker is gone: sound for both verifiers at each step"""
        for step, form in enumerate((1, 2, 1, 2)):
            self.work(ledger__form=form)
            folder = self.dir / f"export-{step}"
            answer = self.verify("--records", "--export", folder, self.topic)
            self.assertEqual("sound\n", self.second(folder))
            row = next(r for r in answer["partitions"] if (r["topic"], r["partition"]) == (self.topic, 0))
            self.assertEqual(form == 2, "form2_from" in row)
            self.assertGreater(answer["scope"]["form1_partitions"], 0)
        self.assertEqual({1, 2}, {e["v"] for e in self.entries()})

    def test_another_topic_of_the_name(self):
        """deleted, made anew and filled as far: its offsets are those that the ledger names, its records are not"""
        self.work()
        self.kafka.admin.delete_topics([self.topic])[self.topic].result()

        def made():
            try:
                return self.kafka.create(self.topic, 2)
            except KafkaException:
                return False  # the old one is not gone yet
        rig.await_("the topic is made anew", 30, made)
        self.produce(30)
        answer = self.verify("--records", self.topic, code=65)
        found = {(f["topic"], f["partition"], f["offset"]) for f in answer["findings"] if f["code"] == "other-record"}
        said = {(e["topic"], e["partition"], e["last"][0]) for e in self.entries() if e["topic"] == self.topic and e["partition"] == 0}
        self.assertEqual(said, found)

    def test_another_cluster(self):
        """a ledger that was carried elsewhere"""
        self.work()
        folder = self.dir / "export"
        self.verify("--export", folder, self.topic)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "cluster": "another"}, separators=(",", ":")))
        answer = self.verify(folder, code=65)
        chains = {(row["topic"], row["partition"]) for row in answer["partitions"]}
        self.assertEqual(chains, {(f["topic"], f["partition"]) for f in answer["findings"] if f["code"] == "other-cluster"})
        self.assertEqual({"other-cluster"}, {f["code"] for f in answer["findings"] if not f["note"]})
        self.assertEqual(len(chains), self.second(folder).count(", not another"))


if __name__ == "__main__":
    rig.main()
