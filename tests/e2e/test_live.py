"""A Kafka admin without the key changes the ledger on the broker itself: entries appended, removed, altered, exchanged, and the group's
committed state beside them. With the public key each change is found at its place; without it what accidents do, and no more."""
import json
import random
import re
import sys
import unittest
from pathlib import Path

import events
import forger
import rig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proof"))
from history import Key, dump, seal  # noqa: E402
from mutations import mutate  # noqa: E402

COUNT = 24


class Live(rig.Case):
    def setUp(self):
        super().setUp()
        self.kafka.create(self.topic, 2)
        self.key = self.dir / "ledger.pem"
        self.assertEqual(0, rig.runsink("keygen", str(self.key)).returncode)
        sink = {"type": "s3", "bucket": "acme", "accessKeyId": "k", "secretAccessKey": "s", "endpoint": "https://s3.example.com"}
        worker = self.worker(self.settings(ledger__key=self.key, sink__override=f"file:{self.dir / 'files'}"))
        for round in range(3):
            for partition in range(2):
                self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink))), (b"k", b"{no json"),
                                                (b"k", events.dump(events.run(None)))] * 2, partition)
            rig.await_("all is settled", 60, self.quiet, worker)
        self.assertEqual(0, worker.stop())
        rig.await_("the group is empty", 60, lambda: not self.kafka.members(self.group))
        self.config, self.ledger = str(worker.config), f"{self.topic}.ledger"
        self.records = [(r.key, r.value, r.partition) for r in self.kafka.consume(self.ledger)]
        self.heads = {}
        for _, value, _ in self.records:
            entry = json.loads(value)
            self.heads[entry["topic"], entry["partition"]] = entry["next"], f"rs1 {entry['seq'] + 1} {entry['hash']}"
        self.assertEqual([], self.verify())

    def verify(self, *arguments, key=True):
        done = rig.runsink("verify", "--config", self.config, "--json", *(["--key", f"{self.key}.pub"] if key else []), *arguments)
        self.assertIn(done.returncode, (0, 65), done.stderr.decode())
        self.answer = json.loads(done.stdout)
        return [f for f in self.answer["findings"] if not f["note"]]

    def put(self, records):
        """The ledger holds these records, and no others."""
        self.kafka.delete_before(self.ledger, self.kafka.ends(self.ledger))
        for key, value, partition in records:
            self.kafka.produce(self.ledger, [(key, value)], partition)

    def alter(self, rnd, value):
        """Another entry in the place of this one: its bytes alone, its hash made right, or by a key of the admin's own."""
        entry, stranger = json.loads(value), Key()
        other, what = mutate(entry, rnd)
        how = rnd.choice(["raw", "rehash", "stranger", "forged", "unsigned"])
        if how == "raw" or what.split(":")[0] in ("hash", "sig", "key"):
            return dump(other).encode(), f"{what}:raw"
        if how == "rehash":
            end = f',"sig":"{entry["sig"]}","key":"{entry["key"]}"}}'.encode()
            return seal(other, None, False)[0][:-1] + end, f"{what}:{how}"
        new = seal(other, stranger, how != "unsigned")[0]
        return (new.replace(stranger.id.encode(), entry["key"].encode()) if how == "forged" else new), f"{what}:{how}"

    def change(self, rnd):
        """One change of the ledger: its records now, the entry that it is about, and what was done."""
        records, at = list(self.records), rnd.randrange(len(self.records))
        key, value, partition = records[at]
        entry = json.loads(value)
        op = rnd.choice(["alter"] * 6 + ["remove", "cut-off", "beginning-removed", "append", "append-junk", "exchange"])
        if op == "alter":
            new, op = self.alter(rnd, value)
            records[at] = key, new, partition
        elif op == "remove":
            del records[at]
        elif op in ("cut-off", "beginning-removed"):
            late = op == "cut-off"
            records = [r for r in records if r[0] != key or (json.loads(r[1])["seq"] < entry["seq"] if late else json.loads(r[1])["seq"] > entry["seq"])]
        elif op == "append":
            attacker = forger.Forger()
            place = entry["topic"], entry["partition"]
            following, metadata = self.heads[place]
            attacker.heads[place] = int(metadata.split()[1]), metadata.split()[2]
            records.append((key, attacker.skipped(self.group, *place, following, following + 3), partition))
        elif op == "append-junk":
            records.append((key, bytes(rnd.randrange(256) for _ in range(60)), partition))
        else:
            same = [i for i, r in enumerate(records) if r[0] == key and i != at]
            if not same:
                del records[at]
            else:
                other = rnd.choice(same)
                records[at], records[other] = records[other], records[at]
        return records, entry, op

    def test_entries(self):
        """one entry at a time: each change is found, at the chain or the records that it is about"""
        for seed in range(COUNT):
            records, entry, what = self.change(random.Random(seed))
            with self.subTest(seed=seed, what=what):
                self.put(records)
                found = self.verify()
                named = {(f["topic"], f["partition"]) for f in found if "topic" in f} | {
                    f["found_in"]["name"] for f in found if f["code"] == "malformed"}
                about = {(entry["topic"], entry["partition"]), self.ledger} | {
                    (self.topic, int(p)) for p in re.findall(rf'\["{re.escape(self.topic)}",(\d+)', dump(entry))}
                self.assertTrue(named & about, f"{what}: {found}")
        self.put(self.records)
        self.assertEqual([], self.verify("--records"))

    def test_without_the_public_key(self):
        """what accidents do, and committed state that does not fit, is found; a ledger that was written anew is not, and that is said"""
        place = self.topic, 0
        entries = {json.loads(value)["seq"]: at for at, (key, value, _) in enumerate(self.records) if key == f"{self.topic}/0".encode()}
        self.assertGreater(len(entries), 1)
        first, last = entries[0], entries[max(entries)]
        for code, change in (("bad-hash", lambda r: r.__setitem__(last, (r[last][0], r[last][1].replace(b'"settled":1', b'"settled":2'), r[last][2]))),
                             ("begins-late", lambda r: r.pop(first)), ("truncated", lambda r: r.pop(last))):
            with self.subTest(code=code):
                records = list(self.records)
                change(records)
                self.put(records)
                self.assertIn((code, *place), {(f["code"], f.get("topic"), f.get("partition")) for f in self.verify(key=False)})

        self.put(self.records)
        before = json.loads(self.records[last][1])
        forger.commit(self.kafka.bootstrap, self.group, {place: (before["first"], f"rs1 {before['seq']} {before['prev']}")})
        self.assertEqual([("committed-older", *place)], [(f["code"], f["topic"], f["partition"]) for f in self.verify(key=False)])

        # All of it anew, by somebody who has no key: other outcomes, and the group's state to match.
        attacker = forger.Forger()
        anew = [(key, attacker.entry(value, lambda text: text.replace('"why":"no-sink"', '"why":"status"')), partition)
                for key, value, partition in self.records]
        self.put(anew)
        forger.commit(self.kafka.bootstrap, self.group, {
            p: (self.heads[p][0], f"rs1 {n} {head}") for p, (n, head) in attacker.heads.items()})
        self.assertEqual([], self.verify(key=False))
        self.assertFalse(self.answer["scope"]["signatures"])
        self.assertEqual({"unsigned"}, {f["code"] for f in self.verify()})
        self.assertIn("other-outcome", {f["code"] for f in self.verify("--records", key=False)})


if __name__ == "__main__":
    rig.main()
