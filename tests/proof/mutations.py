#!/usr/bin/env python3
"""Exports of honest histories, each changed in one way that an attacker or an accident could: `runsink verify` has to find it, at its
place, or it stands below as harmless, with the reason. And the second verifier has to come to the same verdict.

    mutations.py RUNSINK [--count 2000] [--seed 1] [--jobs 2] [--kinds]     --kinds: how often each kind was tried
"""
import argparse
import collections
import copy
import json
import random
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from history import History, Key, anchor_name, dump, named, seal

sys.path.append(str(Path(__file__).parent.parent / "e2e"))
import ledger_verifier  # noqa: E402

# Kind (a pattern) -> why it is no finding that it is not found.
HARMLESS = {
    r"line:repeat": "a broker that was killed can leave an entry twice; a note says so",
    r"file:rename": "entries say whose they are; the file's name does not",
    r"manifest:same:unsigned": "a note, and the verdict, say that the manifest is not signed",
    r"manifest:(partial|unfinished):(true|other):(unsigned|insider)": "as above, or by whoever has the key",
    r"manifest:anchors:removed:(unsigned|insider)": "as above: the auditor then sees that no anchors were compared",
    r"manifest:committed(\[\])?:(removed|emptied|entries-removed|first-removed|renamed):(unsigned|insider)": "as above",
    r"manifest:(committed\[\]\.)?entries(:zero|:removed)?:(unsigned|insider)":
        "as above: where the group has committed nothing, no entry is missed",
    r"manifest:committed\[\]\.partition:(plus|minus|zero):(unsigned|insider)": "as above: the other partition's own end is told, too",
    r"manifest:committed:first-twice:(unsigned|insider)": "it says the same twice",
    r"anchor\.(version|heads\[\]\.topic|heads):.*:insider": "who has the key may anchor what they like; other anchors stay",
    r"manifest:drained:.*:(unsigned|insider)": "as above; what does not wait there is not missed",
    r"anchors:foreign-file": "what is not named like an anchor is none",
}
SEALS = ["raw", "rehash", "stranger", "forged", "unsigned", "insider", "rewritten"]


def paths(value, at=()):
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*at, key))


def name_of(path):
    return "".join("[]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def ops_for(value):
    if isinstance(value, bool):
        return ["other"]
    if isinstance(value, int):
        return ["plus", "minus", "zero", "huge", "text"]
    if isinstance(value, str):
        return ["longer", "empty", "number", "last-character"]
    return ["emptied", "first-removed", "first-twice", "reversed"] if isinstance(value, list) else ["emptied", "renamed"]


def changed(value, op):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return {"plus": value + 1, "minus": value - 1, "zero": 0, "huge": 2**62, "text": str(value)}[op]
    if isinstance(value, str):
        return {"longer": value + "x", "empty": "", "number": 7,
                "last-character": value[:-1] + ("0" if value[-1:] != "0" else "1")}[op]
    if isinstance(value, dict):
        return {} if op == "emptied" else {name + "x": v for name, v in value.items()}
    return {"emptied": [], "first-removed": value[1:], "first-twice": value[:1] + value, "reversed": value[::-1]}[op]


def mutate(value, rnd):
    """A copy that differs in one place, and what was done to it."""
    while True:
        path = rnd.choice([p for p in paths(value) if p])
        result = copy.deepcopy(value)
        inner = result
        for part in path[:-1]:
            inner = inner[part]
        if rnd.random() < 0.2 and isinstance(inner, dict):
            del inner[path[-1]]
            op = "removed"
        else:
            op = rnd.choice(ops_for(inner[path[-1]]))
            inner[path[-1]] = changed(inner[path[-1]], op)
        if dump(result) != dump(value):
            return result, f"{name_of(path)}:{op}"


class Case:
    """One export that was changed: its files, its manifest (None: gone; bytes: as they are), the key it is verified by."""

    def __init__(self, seed):
        self.rnd = random.Random(seed)
        self.history = History(seed % 40)
        self.lines, self.manifest = self.history.files()
        self.key, self.places, self.kind = self.history.key, None, ""  # places None: anywhere
        self.seal = self.sealed(self.history.key)
        ways = [self.entry, self.line, self.file, self.state, self.anchors, self.other_key, self.named]
        self.rnd.choices(ways, [67, 10, 3, 8, 8, 1, 3])[0]()

    def at(self, entry, name):
        """Where a finding may name it: the file, the chain, or the records of the source topic that it is about."""
        self.places = {name, (entry["topic"], entry["partition"])}
        for group in re.findall(r'"origin":(\[\[.*?\]\]\])', dump(entry)):
            self.places |= {(topic, partition) for topic, partition, _ in json.loads(group)}

    def pick(self):
        place = self.rnd.choice(sorted(self.history.chains))
        number = self.rnd.randrange(len(self.history.chains[place]))
        name = f"{place[0]}-{place[1]}.ndjson"
        self.at(self.history.chains[place][number], name)
        return place, number, name

    def entry(self):
        place, number, name = self.pick()
        how, stranger = self.rnd.choice(SEALS), Key()
        line = self.lines[name][number]
        whole = json.loads(line)
        value, what = mutate(whole, self.rnd)
        while how == "rewritten" and what.split(":")[0] in ("prev", "hash", "sig", "key"):  # they are made anew
            value, what = mutate(whole, self.rnd)
        self.kind = f"entry.{what}:{how}"
        if how == "raw" or what.split(":")[0] in ("hash", "sig", "key"):
            self.lines[name][number] = dump(value).encode()
        elif how == "rewritten":
            chains = dict(self.history.chains)
            chains[place] = [value if i == number else e for i, e in enumerate(chains[place])]
            self.lines, self.manifest = self.rewritten(chains)
        elif how == "rehash":
            sealed = seal(value, self.key, False)[0]
            self.lines[name][number] = sealed[:-1] + f',"sig":"{whole["sig"]}","key":"{whole["key"]}"}}'.encode()
        elif how == "forged":
            self.lines[name][number] = seal(value, stranger)[0].replace(stranger.id.encode(), self.key.id.encode())
        else:
            self.lines[name][number] = seal(value, stranger if how == "stranger" else self.key, how != "unsigned")[0]

    def rewritten(self, chains):
        """All of it anew, with the right key, but for the anchors, which can't be changed."""
        try:
            lines, manifest = self.history.files(entries=chains)
        except (KeyError, TypeError):  # no end that the group could have committed
            lines, manifest = self.history.files()
            for (topic, partition), chain in chains.items():
                lines[f"{topic}-{partition}.ndjson"] = [seal(e, self.key)[0] for e in chain]
        kept = {name: body for name, body in self.lines.items() if name.startswith("anchors/")}
        return {**lines, **kept}, manifest

    def line(self):
        place, number, name = self.pick()
        lines = self.lines[name]
        op = self.rnd.choice(["drop", "repeat", "swap", "cut-off", "tail-dropped", "head-dropped", "two-in-one", "blank", "junk",
                              "flip", "space", "crlf"])
        if op == "swap" and len(lines) < 2:
            op = "drop"
        self.kind = f"line:{op}"
        if op == "drop":
            del lines[number]
        elif op == "repeat":
            lines.insert(number, lines[number])
        elif op == "swap":
            other = number - 1 if number else 1
            lines[number], lines[other] = lines[other], lines[number]
        elif op == "cut-off":
            lines[number] = lines[number][:self.rnd.randrange(1, len(lines[number]))]
        elif op == "tail-dropped":
            del lines[number:]
        elif op == "head-dropped":
            del lines[:number + 1]
        elif op == "two-in-one":
            lines[number] += lines[number]
        elif op in ("blank", "junk"):
            lines.insert(number, b"" if op == "blank" else bytes(self.rnd.randrange(11, 256) for _ in range(40)))
        elif op == "flip":
            at = self.rnd.randrange(len(lines[number]))
            lines[number] = lines[number][:at] + bytes([lines[number][at] ^ 1 << self.rnd.randrange(8)]) + lines[number][at + 1:]
            lines[number] = lines[number].replace(b"\n", b"\r")
        else:
            at = lines[number].index(b",")
            lines[number] = lines[number] + b"\r" if op == "crlf" else lines[number][:at] + b" " + lines[number][at:]

    def file(self):
        _, _, name = self.pick()
        op = self.rnd.choice(["gone", "empty", "rename"])
        self.kind = f"file:{op}"
        lines = self.lines.pop(name)
        if op != "gone":
            self.lines["zz.ndjson" if op == "rename" else name] = lines if op == "rename" else []

    def anchors(self):
        names = sorted(n for n in self.lines if n.startswith("anchors/"))
        name = self.rnd.choice(names)
        body = self.lines[name]
        op = self.rnd.choice(["gone", "all-gone", "flip", "cut-off", "second-version", "other-name", "other-time", "foreign-file",
                              "change", "change", "change", "change"])
        self.kind = f"anchors:{op}"
        if op in ("gone", "all-gone"):
            for each in names if op == "all-gone" else [name]:
                del self.lines[each]
        elif op == "flip":
            at = self.rnd.randrange(len(body))
            self.lines[name] = body[:at] + bytes([body[at] ^ 1 << self.rnd.randrange(8)]) + body[at + 1:]
        elif op == "cut-off":
            self.lines[name] = body[:self.rnd.randrange(len(body))]
        elif op == "second-version":
            self.lines[name + ".2"] = body
        elif op == "foreign-file":
            self.lines["anchors/README"] = body
        elif op in ("other-name", "other-time"):
            del self.lines[name]
            self.lines["anchors/" + anchor_name(10**12) if op == "other-time" else name + "x"] = body
        else:
            value, what = mutate(json.loads(body), self.rnd)
            how = self.rnd.choice(["raw", "stranger", "insider"])
            self.kind = f"anchor.{what}:{how}"
            key = {"raw": None, "stranger": Key(), "insider": self.key}[how]
            self.lines[name] = seal(value, key)[0] if key and what.split(":")[0] not in ("hash", "sig", "key") else dump(value).encode()

    def named(self):
        """Files that are not those that the manifest names, changed in ways that nothing else may tell."""
        self.manifest["files"] = named(self.lines)
        entries, anchors = (sorted(n for n in self.lines if n.startswith("anchors/") == which) for which in (False, True))
        name, anchor = self.rnd.choice(entries), self.rnd.choice(anchors)
        op = self.rnd.choice(["repeat", "other-group", "renamed", "split", "anchor-exchanged", "anchor-renamed", "foreign-file", "junk",
                              "gone", "anchor-gone"])
        self.kind, self.places = f"named:{op}", None
        lines = self.lines[name]
        other = seal({**json.loads(lines[0]), "group": "other"}, self.key)[0]
        if op == "repeat":
            lines.insert(self.rnd.randrange(len(lines)) + 1, lines[-1])
        elif op == "other-group":
            lines.append(other)
        elif op == "renamed":
            self.lines["zz.ndjson"] = self.lines.pop(name)
        elif op == "split":
            self.lines[name], self.lines["zz.ndjson"] = lines[:-1], lines[-1:]
        elif op in ("anchor-exchanged", "anchor-gone"):
            body = json.loads(self.lines.pop(anchor))
            if op == "anchor-exchanged":  # another one of the same time, that is sound by itself
                self.lines[f"anchors/{anchor_name(body['at'])}"] = seal({**body, "heads": body["heads"][:1], "version": "2"}, self.key)[0]
        elif op == "anchor-renamed":
            self.lines[anchor + ".2"] = self.lines.pop(anchor)
        elif op == "gone":
            del self.lines[name]
        else:
            self.lines["anchors/README" if op == "foreign-file" else "a.ndjson"] = b"" if op == "foreign-file" else other + b"\n"

    def other_key(self):
        self.kind, self.key = "key:another", Key()

    def state(self):
        rnd, m = self.rnd, self.manifest
        m["files"] = named(self.lines)
        before = copy.deepcopy(m)
        op = rnd.choice(["gone", "cut-off", "change", "change", "change", "partial:true", "unfinished:true", "committed:removed",
                         "anchors:removed", "drained:more", "offset", "head", "entries", "no-such-partition", "same", "flip"])
        how = rnd.choice(["raw", "rehash", "stranger", "forged", "unsigned", "insider"])
        self.kind = f"manifest:{op}"
        if op == "gone":
            self.manifest = None
        elif op == "cut-off":
            text = self.seal(m)
            self.manifest = text[:rnd.randrange(len(text))]
        elif op == "flip":
            text = self.seal(m)
            at = rnd.randrange(len(text))
            self.manifest = text[:at] + bytes([text[at] ^ 1 << rnd.randrange(8)]) + text[at + 1:]
        elif op == "same":
            how = rnd.choice(["stranger", "forged", "unsigned"])
        elif op in ("partial:true", "unfinished:true"):
            m[op.split(":")[0]] = True
        elif op in ("committed:removed", "anchors:removed"):
            del m[op.split(":")[0]]
        elif op == "drained:more":
            m["drained"].append("jobs.retry.80s")
        elif op in ("offset", "entries"):
            one = rnd.choice(m["committed"])
            one[op] += rnd.choice([-1, 1]) if one[op] else 1
        elif op == "head":
            one = rnd.choice(m["committed"])
            one["head"] = changed(one["head"], "last-character")
        elif op == "no-such-partition":
            m["committed"].append({**m["committed"][0], "partition": 77})
        else:
            self.manifest, what = mutate(m, rnd)
            self.kind = f"manifest:{what}"
        if isinstance(self.manifest, dict):
            self.seal = {"raw": lambda m, kept=self.seal(before)[len(dump(before)) - 1:]: dump(m)[:-1].encode() + kept,
                         "rehash": lambda m, kept=self.seal(before): self.rehashed(m, kept),
                         "stranger": self.sealed(Key()), "insider": self.sealed(self.history.key), "unsigned": lambda m: dump(m).encode(),
                         "forged": self.sealed(Key(), self.history.key.id)}[how]
            self.kind += f":{how}"

    @staticmethod
    def sealed(key, name=None):
        """How a manifest is sealed, by this key; under the name of another one."""
        return lambda m: seal(m, key)[0].replace(f'"key":"{key.id}"'.encode(), f'"key":"{name or key.id}"'.encode())

    @staticmethod
    def rehashed(m, kept):
        """A signature that stood under another text."""
        return seal(m, None, False)[0][:-1] + kept[kept.index(b',"sig":'):]

    def write(self, folder):
        if isinstance(self.manifest, dict) and self.kind.split(":")[0] not in ("manifest", "named"):
            self.manifest["files"] = named(self.lines)  # who changes files can change what names them
        for name, body in self.lines.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body if isinstance(body, bytes) else b"".join(line + b"\n" for line in body))
        if self.manifest is not None:
            (folder / "manifest.json").write_bytes(self.manifest if isinstance(self.manifest, bytes) else self.seal(self.manifest))
        (folder / "key.pub").write_bytes(self.key.pem)


def verify(runsink, case):
    """None when it is as it should be, else what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        case.write(Path(folder))
        done = subprocess.run([runsink, "verify", "--json", "--key", f"{folder}/key.pub", folder], capture_output=True, timeout=60)
        second = ledger_verifier.verify(Path(folder), [case.key.raw])
    if (done.returncode == 0) != (not second):
        return f"the second verifier judges otherwise: {second[:2]}"
    if done.returncode in (66, 74):
        return None  # no export at all, and it says so
    if done.returncode not in (0, 65):
        return f"exit code {done.returncode}: {done.stderr[-300:]}"
    found = [f for f in json.loads(done.stdout)["findings"] if not f["note"]]
    if not case.kind:
        return str(found[:2]) if found else None
    if not found:
        harmless = any(re.fullmatch(pattern, case.kind) for pattern in HARMLESS)
        return None if harmless else "not found"
    named = {f["found_in"]["name"] for f in found if "found_in" in f} | {(f["topic"], f["partition"]) for f in found if "topic" in f}
    if case.places and not named & case.places and not any(f["code"].startswith(("anchor", "nothing")) for f in found):
        return f"found elsewhere: {found[:2]}"
    return None


def honest(seed):
    case = Case.__new__(Case)
    case.history = History(seed)
    case.lines, case.manifest = case.history.files()
    case.key, case.kind = case.history.key, ""
    case.seal = case.sealed(case.key)
    return case


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runsink")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kinds", action="store_true")
    options = parser.parse_args()
    kinds, wrong = collections.Counter(), 0
    with ThreadPoolExecutor(options.jobs) as pool:
        cases = [lambda seed=seed: honest(seed) for seed in range(40)]
        cases += [lambda seed=seed: Case(seed) for seed in range(options.seed, options.seed + options.count)]
        for number, (kind, what) in enumerate(pool.map(lambda make: (lambda c: (c.kind, verify(options.runsink, c)))(make()), cases)):
            kinds[kind or "honest"] += 1
            if what:
                wrong += 1
                print(f"{kind or 'honest'} (seed {number - 40 + options.seed}): {what}")
    if options.kinds:
        for kind, count in sorted(kinds.items()):
            print(f"{count:6} {kind}")
    print(f"{sum(kinds.values())} exports, {len(kinds)} kinds, {wrong} judged otherwise")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
