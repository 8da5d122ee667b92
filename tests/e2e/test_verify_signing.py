"""What a worker signs: nothing on top of what it has not verified, so that whoever can write to Kafka gets nothing vouched for."""
import json
import unittest
from concurrent.futures import ThreadPoolExecutor

import events
import forger
import rig

COUNT = 60


class Signing(rig.Case):
    def setUp(self):
        super().setUp()
        self.kafka.create(self.topic)
        self.keys = {}
        for name in ("key", "other"):
            self.keys[name] = str(self.dir / f"{name}.pem")
            self.assertEqual(0, rig.runsink("keygen", self.keys[name]).returncode)

    def settings(self, key="key", **more):
        base = {"ledger__key": key and self.keys[key], "sink__override": f"file:{self.dir / 'files'}"}
        return super().settings(**{**base, **more})

    def produce(self, count=COUNT):
        sink = {"type": "s3", "bucket": "acme", "accessKeyId": "k", "secretAccessKey": "s", "endpoint": "https://s3.example.com"}
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink))) for _ in range(count)])

    def work(self, **more):
        """One start of a worker, that settles what there is; its own entries."""
        before = len(self.entries())
        worker = self.worker(self.settings(**more))
        self.until_settled(worker)
        self.assertEqual(0, worker.stop())
        self.last = worker
        return self.entries()[before:]

    def entries(self):
        if f"{self.topic}.ledger" not in self.kafka.topics():
            return []
        return [json.loads(r.value) for r in self.kafka.consume(f"{self.topic}.ledger")]

    def verify(self, *arguments, key="key", worker=None):
        done = rig.runsink("verify", "--config", str((worker or self.last).config), "--json", "--key", self.keys[key] + ".pub", "--records",
                           *arguments)
        self.assertIn(done.returncode, (0, 65), done.stderr.decode())
        return {f["code"] for f in json.loads(done.stdout)["findings"] if not f["note"]}

    def attack(self, key=None, first=0, following=50, chain=None):
        """Says of records that nobody has delivered that they were skipped; the group is to go on behind them."""
        attacker = forger.Forger(key)
        if chain:
            attacker.heads[self.topic, 0] = chain
        ledger = f"{self.topic}.ledger"
        if ledger not in self.kafka.topics():
            self.kafka.create(ledger)
        value = attacker.skipped(self.group, self.topic, 0, first, following)
        self.kafka.produce(ledger, [(f"{self.topic}/0".encode(), value)])
        entries, head = attacker.heads[self.topic, 0]
        forger.commit(self.kafka.bootstrap, self.group, {(self.topic, 0): (following, f"rs1 {entries} {head}")})

    def assertSigned(self, entries, by="key"):
        self.assertTrue(entries)
        ids = {forger.Forger(self.keys[by]).id}
        self.assertEqual(ids, {e.get("key") for e in entries})

    def assertUnsigned(self, entries):
        self.assertTrue(entries)
        self.assertFalse([e for e in entries if "sig" in e])
        self.assertSays("ledger entries are not signed", self.last)

    def test_goes_on(self):
        """each start of a worker signs on what the one before has signed, killed or not"""
        for end in ("stop", "kill", "stop"):
            before = len(self.entries())
            worker = self.worker(self.settings())
            self.produce()
            self.until_settled(worker)
            worker.stop() if end == "stop" else worker.kill()
            self.last = worker
            self.assertSigned(self.entries()[before:])
            self.assertFalse(worker.says("not signed"))
        self.assertEqual(set(), self.verify())

    def test_made_up_beginning(self):
        """a beginning without a key, which the group is set behind, is not signed on, and is found"""
        self.produce()
        self.attack()
        self.assertUnsigned(self.work())
        self.assertIn("unsigned", self.verify())

    def test_made_up_in_the_middle(self):
        """the same behind signed entries; and a signature by a key that the worker does not know"""
        for key in (None, "other"):
            with self.subTest(key=key):
                self.topic, self.group = rig.unique("runs"), rig.unique("group")
                self.kafka.create(self.topic)
                self.produce()
                last = self.work()[-1]
                self.produce()
                self.attack(key and self.keys[key], COUNT, COUNT + 50, (last["seq"] + 1, last["hash"]))
                self.assertUnsigned(self.work())
                self.assertIn("unsigned" if not key else "unknown-key", self.verify())

    def test_made_up_position(self):
        """a signed entry of ours is none that the group's offset, or another number, goes with"""
        self.produce()
        last = self.work()[-1]
        self.produce()
        forger.commit(self.kafka.bootstrap, self.group,
                      {(self.topic, 0): (COUNT + 50, f"rs1 {last['seq'] + 1} {last['hash']}")})
        self.assertUnsigned(self.work())
        self.assertLess({"gap"}, self.verify())

    def test_offsets_gone(self):
        """without offsets the chain goes on from the ledger: from an entry that anybody may have written"""
        self.produce()
        last = self.work()[-1]
        self.produce()
        self.attack(None, COUNT, COUNT + 50, (last["seq"] + 1, last["hash"]))
        self.kafka.admin.delete_consumer_groups([self.group])[self.group].result()
        self.assertUnsigned(self.work())
        self.assertIn("unsigned", self.verify())

    def test_signing_begins_later(self):
        """the operator says that signing begins, the auditor where"""
        self.produce()
        before = len(self.work(key=""))
        self.produce()
        self.assertSigned(self.work(ledger__begin_signing="true"))
        self.produce()
        self.assertSigned(self.work())
        self.assertEqual({"unsigned-beginning"}, self.verify())
        self.assertEqual(set(), self.verify("--unsigned-until", f"{self.topic}/0@{before}"))
        self.assertEqual({"unsigned-beginning"}, self.verify("--unsigned-until", f"{self.topic}/1@{before}"))

    def test_set_behind(self):
        """a group that was set behind records before it settled anything: --records says how many are not covered"""
        self.produce()
        forger.commit(self.kafka.bootstrap, self.group, {(self.topic, 0): (50, "")})
        self.work()
        done = rig.runsink("verify", "--config", str(self.last.config), "--json", "--records")
        answer = json.loads(done.stdout)
        self.assertEqual((COUNT - 50, 50), (answer["records"], answer["records_uncovered"]))
        notes = [f for f in answer["findings"] if f["code"] == "before-beginning"]
        self.assertEqual([(self.topic, 0)], [(f["topic"], f["partition"]) for f in notes])
        self.assertIn(" 50 records ", notes[0]["text"])

    def test_committed_state(self):
        """what the group has committed is absent, empty or older than the ledger: where that ends can't be known"""
        cases = []
        for code in (None, "committed-missing", "committed-missing", "committed-older", "committed-older", "committed-missing"):
            self.topic, self.group = rig.unique("runs"), rig.unique("group")
            self.kafka.create(self.topic)
            self.produce()
            first = self.work()[-1]
            self.produce()
            self.work()
            cases.append((code, self.topic, self.group, self.last, first))
        end, older = 2 * COUNT, cases[4][-1]
        for (_, topic, group, _, _), (offset, metadata) in zip(cases[1:], (
                (end, ""), (end, "another tool's"), (end, f"rs1 0 {'0' * 64}"),
                (older["next"], f"rs1 {older['seq'] + 1} {older['hash']}"))):
            forger.commit(self.kafka.bootstrap, group, {(topic, 0): (offset, metadata)})
        gone = cases[5][2]
        self.kafka.admin.delete_consumer_groups([gone])[gone].result()
        # Side by side: each waits for what may still come.
        with ThreadPoolExecutor(len(cases)) as pool:
            found = list(pool.map(lambda case: self.verify(worker=case[3]), cases))
        self.assertEqual([{code} - {None} for code, *_ in cases], found)

    def test_new_key(self):
        """old and new key in turn, as in a deploy: each knows the other's entries; afterwards the old one is a stranger"""
        both = {"key": "other", "ledger__key_previous": self.keys["key"]}
        self.produce()
        self.assertSigned(self.work())
        for turn in (both, {}, both):
            self.produce()
            self.assertSigned(self.work(**turn), turn.get("key", "key"))
        self.assertEqual(set(), self.verify())
        self.produce()
        self.assertSigned(self.work(key="other"), "other")
        last = self.entries()[-1]
        self.produce()
        self.attack(self.keys["key"], 5 * COUNT, 5 * COUNT + 50, (last["seq"] + 1, last["hash"]))
        self.assertUnsigned(self.work(key="other"))
        self.assertIn("unsigned", self.verify())


if __name__ == "__main__":
    rig.main()
