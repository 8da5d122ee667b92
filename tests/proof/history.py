"""An honest history of a source topic, as `runsink verify --export` writes it: made from worker/ledger/README.md alone, with a key
of its own."""
import base64
import hashlib
import json
import random

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SOURCE, GROUP, ZEROS, CLUSTER = "jobs", "runsink", "0" * 64, "MkU3OEVBNTcwNTJENDM2Qg"
FAULTS = {"dead.data": "data", "dead.tenant": "tenant"}
TIERS = ["10s", "20s"]


class Key:
    def __init__(self):
        self.private = Ed25519PrivateKey.generate()
        public = self.private.public_key()
        self.raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.id = hashlib.sha256(self.raw).hexdigest()[:16]

    def sign(self, message):
        return base64.b64encode(self.private.sign(message)).decode()


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def seal(value, key, signed=True):
    """What an entry or an anchor says, with hash and signature: its bytes and the hash."""
    canonical = dump({name: v for name, v in value.items() if name not in ("hash", "sig", "key")})[:-1]
    digest = hashlib.sha256(canonical.encode()).digest()
    end = f',"hash":"{digest.hex()}"' + (f',"sig":"{key.sign(digest)}","key":"{key.id}"' if signed else "") + "}"
    return (canonical + end).encode(), digest.hex()


def ranges(offsets):
    """7, 8, 9 -> [[7, 9]]"""
    found = []
    for o in offsets:
        if found and found[-1][1] + 1 == o:
            found[-1][1] = o
        else:
            found.append([o, o])
    return [r[0] if r[0] == r[1] else r for r in found]


class History:
    """topics: (topic, partition) -> the entries of that chain, as they would be written (dicts without hash and signature)."""

    def __init__(self, seed, steps=24):
        """Three of four are of form 2 from some step on; of these one goes back to form 1 for a while."""
        self.random, self.key, self.clock = random.Random(seed), Key(), 1760000000000
        self.form2 = {0: (), 1: range(steps), 2: range(steps // 2, steps), 3: (*range(4, 9), *range(14, steps))}[seed % 4]
        self.chains, self.next, self.lies = {}, {}, {}
        self.anchored = []  # at which steps: time, and how many entries each chain had
        for step in range(steps):
            self.step(step)
            if step % 8 == 7:
                self.anchored.append((self.clock, {c: len(v) for c, v in self.chains.items() if v}))
        self.anchored.append((self.clock, {c: len(v) for c, v in self.chains.items() if v}))

    def step(self, step):
        self.clock += 1000 + self.random.randrange(500)
        self.form, self.rules = 2 if step in self.form2 else 1, f"{1 + step // 10:016x}"
        waiting = [p for p, records in self.lies.items() if records]
        if step < 3 or step % 2 == 0 or not waiting:
            place = SOURCE, step % 2
            first = self.next.get(place, 0)
            taken = [(o, None) for o in range(first, first + self.random.randrange(3, 9)) if o % 7 != 6]
        else:
            place = self.random.choice(sorted(waiting))
            first = self.next.get(place, 0)
            records = [self.lies[place].pop(0) for _ in range(self.random.randrange(1, len(self.lies[place]) + 1))]
            taken = list(zip(range(first, first + len(records)), records))
        after = taken[-1][0] + 1 if taken else first
        self.settle(place, first, after, taken)

    def settle(self, place, first, after, taken):
        topic, partition = place
        kinds = {}
        for offset, origin in taken:
            origin_of = origin or (partition, offset)
            name, more = self.outcome(topic, origin_of)
            kinds.setdefault((name, dump(more)), (more, [], []))
            kinds[name, dump(more)][1].append(offset)
            kinds[name, dump(more)][2].append(origin_of)
        two = self.form == 2
        entry = {"v": self.form, "group": GROUP, **({"cluster": CLUSTER} if two else {}), "seq": len(self.chains.get(place, [])),
                 "topic": topic, "partition": partition, "first": first, "next": after, "opened": self.clock - 700,
                 "settled": self.clock, "version": "1", **({"rules": self.rules} if two else {}), "prev": ZEROS}
        if two and taken and ".dead." not in topic:
            entry["last"] = [taken[-1][0], self.clock - 900, len(repr(taken[-1]))]
        for name in ("delivered", "skipped", "parked", "dead", "redriven", "discarded"):
            for (kind, _), (more, offsets, origins) in kinds.items():
                if kind != name:
                    continue
                group = {**more, "offsets": ranges(offsets)}
                if topic != SOURCE:
                    group["origin"] = [[SOURCE, p, [o]] for p, o in origins]
                if name == "delivered":
                    group = {"to": group.pop("to"), "objects": [group]}
                entry.setdefault(name, []).append(group)
        if two and self.random.random() < 0.2:
            entry["root"] = hashlib.sha256(b"tree").hexdigest()  # as a later version may write it
        self.chains.setdefault(place, []).append(entry)
        self.next[place] = after

    def outcome(self, topic, origin):
        roll = self.random.random()
        if ".dead." in topic:
            if roll < 0.5:
                self.lies.setdefault((f"{SOURCE}.retry.{TIERS[0]}", 0), []).append(origin)
                return "redriven", {"to": "s3://acme", "tier": TIERS[0]}
            return ("redriven", {"to": "s3://acme", "why": "to-origin"}) if roll < 0.7 else ("discarded", {"why": "old", "who": "ada"})
        if roll < 0.45:
            return "delivered", {"to": "s3://acme", "key": f"a/{origin[0]}-{origin[1]}.json", "status": 200,
                                 "sha256": hashlib.sha256(repr(origin).encode()).hexdigest(), "size": 1180}
        if roll < 0.55:
            return "skipped", {"why": "no-sink"}
        if roll < 0.8:
            tier = self.random.choice(TIERS)
            self.lies.setdefault((f"{SOURCE}.retry.{tier}", 0), []).append(origin)
            return "parked", {"to": "s3://acme", "tier": tier, "why": "http-503"}
        dead, fault = self.random.choice(sorted(FAULTS.items()))
        self.lies.setdefault((f"{SOURCE}.{dead}", 0), []).append(origin)
        return "dead", {"to": "s3://acme", "fault": fault, "why": "NoSuchBucket"}

    def files(self, key=None, entries=None):
        """name -> bytes of an export; the entries chained anew, all of them signed by this key."""
        key, entries = key or self.key, entries or self.chains
        files, committed, heads = {}, [], {}
        for (topic, partition), chain in sorted(entries.items()):
            lines, head = [], ZEROS
            for number, entry in enumerate(chain):
                line, head = seal({**entry, "prev": head}, key)
                lines.append(line)
                heads[topic, partition, number + 1] = {"topic": topic, "partition": partition, "seq": entry["seq"],
                                                       "next": entry["next"], "hash": head}
            files[f"{topic}-{partition}.ndjson"] = lines
            committed.append({"topic": topic, "partition": partition, "offset": chain[-1]["next"], "entries": len(chain), "head": head})
        for at, counts in self.anchored:
            anchor = {"anchor": 1, "group": GROUP, "at": at, "version": "1",
                      "heads": [heads[t, p, n] for (t, p), n in sorted(counts.items()) if (t, p, n) in heads]}
            files[f"anchors/{anchor_name(at)}"] = seal(anchor, key)[0]
        return files, {"v": 2, "source": SOURCE, "group": GROUP, "cluster": CLUSTER, "partial": False, "unfinished": False,
                       "anchors": sum(1 for n in files if n.startswith("anchors/")), "committed": committed, "drained": []}


def named(files):
    """What a manifest says of these files, which are bytes or lists of lines."""
    bodies = {name: body if isinstance(body, bytes) else b"".join(line + b"\n" for line in body) for name, body in files.items()}
    return [{"name": name, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in sorted(bodies.items())]


def anchor_name(at):
    import datetime
    when = datetime.datetime.fromtimestamp(at // 1000, datetime.timezone.utc)
    return when.strftime("%Y/%m/%d/%H%M%SZ-") + hashlib.sha256(str(at).encode()).hexdigest()[:16] + ".json"
