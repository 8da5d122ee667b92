#!/usr/bin/env python3
"""A second, independent verifier of exported ledgers, written from worker/ledger/README.md
alone: it shares no code with runsink, so that a fault in one is seen by the other.

    ledger_verifier.py DIR [--key KEY]       findings, one a line; exit 0 sound, 65 not
    ledger_verifier.py --agree ROOT          every ROOT/NNNN must come out as its file "expect" says
    ledger_verifier.py --forms FILE          each line is + or -, and what is or is not of an entry's form

KEY: a PEM file, or a file with the raw public key in hex. Needs the package "cryptography" for keys.
"""
import base64, hashlib, json, pathlib, re, sys

KINDS = ("delivered", "skipped", "parked", "dead", "redriven", "discarded")
ENTRY = re.compile(rb'(\{.*?),"hash":"([0-9a-f]{64})"(?:,"sig":"([^"]{88})","key":"([0-9a-f]{16})")?\}')
ANCHOR = re.compile(rb'(\{"anchor":1,.*?\]),"hash":"([0-9a-f]{64})","sig":"([^"]{88})","key":"([0-9a-f]{16})"\}')
MANIFEST = re.compile(rb'(\{"v":[12],.*?\]),"hash":"([0-9a-f]{64})","sig":"([^"]{88})","key":"([0-9a-f]{16})"\}\n?')
ROTATE = b"runsink-ledger-rotate-1\n"


def key_id(raw):
    return hashlib.sha256(raw).hexdigest()[:16]


def load_key(path):
    data = pathlib.Path(path).read_bytes()
    if b"-----" not in data:
        return bytes.fromhex(data.decode())
    from cryptography.hazmat.primitives import serialization as s
    return s.load_pem_public_key(data).public_bytes(s.Encoding.Raw, s.PublicFormat.Raw)


def unbase64(text):
    """Strictly: RFC 4648 leaves bits in the last digit that could be anything."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data) != (text if isinstance(text, bytes) else text.encode()):
        raise ValueError("stray bits in base64")
    return data


# ---- the form of an entry ----

HEAD = "v group seq topic partition first next opened settled version prev".split()
ORDER = [*HEAD, "rotate", "anew", "lost", *KINDS, "hash", "sig", "key"]
HEAD2 = "v group cluster seq topic partition first next opened settled version rules prev".split()
ORDER2 = [*HEAD2, "rotate", "last", "anew", "lost", *KINDS, "root", "hash", "sig", "key"]
RECORDS = ["offsets", "origin"]
OFFSET_MAX, TIME_MAX = 2**63 - 2, 2**63 - 1


def want(ok, what):
    if not ok:
        raise ValueError(f"not {what}")


def members(value, order, required):
    want(isinstance(value, dict) and list(value) == [n for n in order if n in value], f"an object with {order}, in this order")
    want(all(n in value for n in required), f"an object that has {required}")


def whole(value, most):
    want(type(value) is int and 0 <= value <= most, f"a number up to {most}")


def text(value, pattern="(?s).*"):
    want(isinstance(value, str) and re.fullmatch(pattern, value), f"a text like {pattern}")


def topic(value):
    text(value, r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")


def listed(value, check):
    want(isinstance(value, list) and value, "a list with something in it")
    for one in value:
        check(one)


def span(value):
    ends = value if isinstance(value, list) else [value]
    for end in ends:
        whole(end, OFFSET_MAX)
    want(len(ends) == 1 and ends is not value or len(ends) == 2 and ends[0] < ends[1], "a range")


def records(group):
    listed(group["offsets"], span)
    ends = [one if isinstance(one, list) else [one, one] for one in group["offsets"]]
    want(all(a[1] + 1 < b[0] for a, b in zip(ends, ends[1:])), "ranges that ascend and don't touch")
    if "origin" in group:
        listed(group["origin"], origin)
        count = lambda ranges: sum(1 if isinstance(one, int) else one[1] - one[0] + 1 for one in ranges)
        want(sum(count(one[2]) for one in group["origin"]) == count(group["offsets"]), "as many origins as offsets")


def origin(value):
    want(isinstance(value, list) and len(value) == 3, "an origin")
    topic(value[0]), whole(value[1], 2**31 - 1), listed(value[2], span)


def delivered(value):
    members(value, ["to", "objects", "requests"], [])
    want("objects" in value or "requests" in value, "a list of objects or requests")
    for name in value.keys() & {"objects", "requests"}:
        listed(value[name], lambda one: item(one, ["key"] if name == "objects" else []))
    text(value.get("to", ""))


def item(value, key):
    hashed = ["sha256", "size"] if "sha256" in value or "size" in value else []
    members(value, [*key, "status", *hashed, *RECORDS], [*key, *hashed, "offsets"])
    text(value.get("key", "")), whole(value.get("status", 0), 2**31 - 1)
    text(value.get("sha256", "0" * 64), "[0-9a-f]{64}"), whole(value.get("size", 0), 2**64 - 1)
    records(value)


def reason(value, kind):
    names = ["to", "tier", "fault", "why", *["who"] * (kind == "discarded")]
    members(value, [*names, *RECORDS], ["offsets"])
    for name in names:
        text(value.get(name, ""))
    records(value)


def ending(value):
    text(value["hash"], "[0-9a-f]{64}")
    want(("sig" in value) == ("key" in value), "a signature with its key")
    if "sig" in value:
        want(len(unbase64(value["sig"])) == 64, "a signature"), text(value["key"], "[0-9a-f]{16}")


def form(value):
    """An entry has one form: written again from what was read, it is the same bytes. Raises when it is not of that form."""
    entry = json.loads(value.decode())
    again = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
    again = re.sub(r"\\(.)", lambda found: {"b": "\\u0008", "f": "\\u000c"}.get(found[1], found[0]), again)
    want(again.encode() == value, "in the one form that these members have")
    want(type(entry) is dict and type(entry.get("v")) is int and entry["v"] in (1, 2), "form 1 or 2")
    if entry["v"] == 1:
        members(entry, ORDER, [*HEAD, "hash"])
    else:
        members(entry, ORDER2, [*HEAD2, "hash"])
        text(entry["cluster"]), want(len(entry["cluster"].encode()) <= 64, "a cluster's id"), text(entry["rules"], "[0-9a-f]{16}")
        text(entry.get("root", "0" * 64), "[0-9a-f]{64}")
    text(entry["group"]), topic(entry["topic"]), text(entry["version"])
    for name, most in ("seq", TIME_MAX), ("partition", 2**31 - 1), ("first", OFFSET_MAX), ("next", OFFSET_MAX), ("opened", TIME_MAX), ("settled", TIME_MAX):
        whole(entry[name], most)
    want(entry["first"] <= entry["next"], "a window"), text(entry["prev"], "[0-9a-f]{64}")
    if "rotate" in entry:
        members(entry["rotate"], ["from", "to", "sig"], ["from", "to", "sig"]), text(entry["rotate"]["from"], "[0-9a-f]{16}")
        want((len(unbase64(entry["rotate"]["to"])), len(unbase64(entry["rotate"]["sig"]))) == (32, 64), "a key and a signature")
    if "last" in entry:
        want(isinstance(entry["last"], list) and len(entry["last"]) == 3, "a record")
        offset, at, size = entry["last"]
        whole(offset, OFFSET_MAX), want(type(at) is int and -1 <= at <= TIME_MAX, "a time"), whole(size, 2**31 - 1)
        want(entry["first"] <= offset < entry["next"] and "lost" not in entry, "a record of the window")
    if "anew" in entry:
        whole(entry["anew"], OFFSET_MAX)
        want(entry["first"] == entry["next"] and not entry.keys() & {"lost", *KINDS}, "an empty window of a topic made anew")
    if "lost" in entry:
        listed(entry["lost"], span)
        want(list(spread(entry["lost"])) == list(range(entry["first"], entry["next"])), "the window as lost range")
    for kind in KINDS:
        if kind in entry:
            listed(entry[kind], delivered if kind == "delivered" else lambda one: reason(one, kind))
    ending(entry)
    return entry


def signed_by(raw, sig, message):
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(sig, message)
        return True
    except InvalidSignature:
        return False


def spread(ranges):
    """[5,[7,9]] -> 5, 7, 8, 9"""
    for r in ranges:
        yield from range(r[0], r[1] + 1) if isinstance(r, list) else (r,)


def groups(entry):
    """(kind, group) of everything that speaks of records."""
    for kind in KINDS:
        for item in entry.get(kind, []):
            for group in item.get("objects", []) + item.get("requests", []) or [item]:
                yield kind, group


class Chain:
    """The entries of one partition."""

    def __init__(self, keys, cluster=""):
        self.cluster = cluster
        self.last = self.value = self.head = None
        self.keys, self.retired, self.signed, self.tail = dict(keys), set(), False, 0
        self.lives = 1  # of the topic: how often it was made
        self.ends = {}  # entries so far -> hash and end, to be compared with the committed state

    def signature(self, entry, digest, sig, key):
        if not self.keys:
            return
        if sig is None:
            yield "not signed"
            return
        self.signed, sig, key = True, unbase64(sig), key.decode()
        if (rotate := entry.get("rotate")) and key not in self.keys:
            new, old = unbase64(rotate["to"]), self.keys.get(rotate["from"])
            if (key_id(new) == key and old and rotate["from"] not in self.retired
                    and signed_by(old, unbase64(rotate["sig"]), ROTATE + new)):
                self.keys[key] = new
                self.retired.add(rotate["from"])
        if key not in self.keys or not signed_by(self.keys[key], sig, digest):
            yield "signature is not a given key's"
        self.tail = self.tail + 1 if key in self.retired else 0

    def origin(self, entry):
        """All of a chain is of one cluster, that of the export."""
        if cluster := entry.get("cluster"):
            if self.cluster not in ("", cluster):
                yield f"settled on cluster {cluster}, not {self.cluster}"
            self.cluster = cluster

    def link(self, entry, value, digest):
        """Findings; takes the entry in unless it repeats the last one."""
        last = self.last
        if last is None:
            if entry["seq"] != 0 or entry["prev"] != "0" * 64:
                yield "the chain's beginning is missing"
        elif entry["seq"] != last["seq"] + 1 or entry["prev"] != self.head:
            yield f"does not follow entry {last['seq']}"
        elif (joint := entry.get("anew", entry["first"])) != last["next"] and ".dead." not in entry["topic"]:
            yield f"begins at {joint}, not {last['next']}"
        if "anew" in entry:
            self.lives += 1
            if last is None or entry["first"] != entry["next"] or any(groups(entry)) or "lost" in entry:
                yield "says more than that the topic was made anew"
        self.last, self.value, self.head = entry, value, digest.hex()
        self.ends[entry["seq"] + 1] = self.head, entry["next"]


def entry_findings(entry):
    seen = set()
    for _, group in groups(entry):
        offsets = list(spread(group["offsets"]))
        if "origin" in group and sum(1 for o in group["origin"] for _ in spread(o[2])) != len(offsets):
            yield "origins and offsets differ in number"
        for offset in offsets:
            if offset in seen or not entry["first"] <= offset < entry["next"]:
                yield f"offset {offset} stands twice or outside of the window"
            seen.add(offset)
    if "lost" in entry:
        yield "records were lost"


def tally(entry, source, stories):
    """stories: (partition, offset) -> outcomes of one source record, and how often it was taken on. Where the topic was made
    anew, those of all the records that have been there."""
    for kind, group in groups(entry):
        if entry["topic"] == source:
            told = [(entry["partition"], o) for o in spread(group["offsets"])]
        else:
            told = [(p, o) for _, p, ranges in group["origin"] for o in spread(ranges)]
        for record in told:
            story = stories.setdefault(record, [])
            if entry["topic"] == source:
                story.append("opened")
            story.append(kind if entry["topic"] == source or kind in ("redriven", "discarded") else "taken-" + kind)
            if kind == "redriven" and "tier" not in group:
                story.append("taken-skipped")  # to the source topic, as a new event: this one's story ends


def move(entry, source, known, places, late):
    """places: (partition, offset) -> how often it was moved to each retry or dead topic, less how often it was taken from there.
    late: those that an entry younger than the committed state has parked."""
    for kind, group in groups(entry):
        to = (f"{source}.retry.{group.get('tier')}" if kind == "parked" or kind == "redriven" and "tier" in group
              else f"{source}.dead.{group.get('fault')}" if kind == "dead" else None)
        if entry["topic"] == source:
            records = [(entry["partition"], o) for o in spread(group["offsets"])]
        else:
            records = [(p, o) for _, p, ranges in group["origin"] for o in spread(ranges)]
        for record in records:
            lies = places.setdefault(record, {})
            for place, n in ((to, 1), (entry["topic"], -1)):
                if place not in (None, source):
                    lies[place] = lies.get(place, 0) + n
            if to and ".retry." in to and entry["seq"] >= known:
                late.add(record)


def story_findings(stories, places, late, lives, gone):
    for record, story in stories.items():
        opened = max(1, min(story.count("opened"), lives(record[0])))
        count = lambda name: sum(s.removeprefix("taken-") == name for s in story)
        taken = sum(s.startswith("taken-") for s in story)
        lies = {place: n for place, n in places.get(record, {}).items() if n}
        final = count("delivered") + count("skipped") + count("discarded")
        dead = count("dead") - count("redriven") - count("discarded")
        waiting = count("parked") + count("redriven") - taken
        if min(final, dead, waiting) < 0 or final + dead + waiting != opened:
            yield f"record {record}: {final} delivered, {dead} dead, {waiting} waiting"
        elif lives(record[0]) > 1:
            continue  # records that have had the same offset: which of them an entry is about can't be told
        elif any(n < 0 for n in lies.values()) or len(lies) != waiting + dead:
            yield f"record {record}: taken from where it did not lie: {lies}"
        elif waiting and record not in late and any(gone(place) for place in lies):
            yield f"record {record}: it does not wait any more where it was parked"


def anchor_findings(folder, group, chains, keys):
    """Every head that was anchored for the group is an entry of its chain, by number, end and hash."""
    keys = {k: raw for chain in chains.values() for k, raw in chain.keys.items()} if keys else {}
    for path in sorted((folder / "anchors").rglob("*.json*")):
        try:
            canonical, stated, sig, key = ANCHOR.fullmatch(path.read_bytes()).groups()
            anchor, digest = json.loads(canonical + b"}"), hashlib.sha256(canonical).digest()
            if digest.hex().encode() != stated:
                yield f"{path.name}: hash differs"
            if keys and not (key.decode() in keys and signed_by(keys[key.decode()], unbase64(sig), digest)):
                yield f"{path.name}: signature is not a given key's"
            for h in anchor["heads"] if anchor["group"] == group else ():
                chain = chains.get((h["topic"], h["partition"]))
                if not chain or chain.ends.get(h["seq"] + 1) != (h["hash"], h["next"]):
                    yield f"{h['topic']}/{h['partition']}: entry {h['seq']} was anchored otherwise in {path.name}"
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            yield f"{path.name}: malformed: {e!r}"


def manifest_findings(raw, chains, keys):
    """A manifest that is signed is signed by a key that counts."""
    sealed = MANIFEST.fullmatch(raw)
    if not sealed:
        if {"hash", "sig", "key"} & set(json.loads(raw)):
            yield "manifest: malformed seal"
        return
    canonical, stated, sig, key = sealed.groups()
    digest = hashlib.sha256(canonical).digest()
    retired = {k for chain in chains.values() for k in chain.retired}
    current = {k: one for chain in chains.values() for k, one in chain.keys.items() if k not in retired}
    if digest.hex().encode() != stated:
        yield "manifest: hash differs"
    if keys and not (key.decode() in current and signed_by(current[key.decode()], unbase64(sig), digest)):
        yield "manifest: signature is not a given key's"


def file_findings(folder, manifest):
    """The folder holds the files that the manifest names, and no others that count."""
    there = {p.relative_to(folder).as_posix(): p.read_bytes()
             for p in (*folder.glob("*.ndjson"), *(folder / "anchors").rglob("*")) if p.is_file()}
    named = {f["name"]: (f["size"], f["sha256"]) for f in manifest["files"]}
    for name in sorted(there.keys() ^ named.keys()):
        yield f"{name}: {'the manifest does not name it' if name in there else 'the manifest names it, and it is not there'}"
    for name in sorted(there.keys() & named.keys()):
        if (len(there[name]), hashlib.sha256(there[name]).hexdigest()) != named[name]:
            yield f"{name}: not the bytes that the manifest names"


def verify(folder, keys):
    raw = (folder / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    chains, stories, places, late = {}, {}, {}, set()
    known = {(c["topic"], c["partition"]): c.get("entries", 0) for c in manifest["committed"]}
    for path in sorted(folder.glob("*.ndjson")):
        for number, value in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            try:
                canonical, stated, sig, key = ENTRY.fullmatch(value).groups()
                entry = form(value)
                digest = hashlib.sha256(canonical).digest()
                if entry["group"] != manifest["group"] and digest.hex().encode() == stated:
                    continue  # another group has chains of its own in the same topic
                chain = chains.setdefault((entry["topic"], entry["partition"]), Chain(keys, manifest.get("cluster", "")))
                if value == chain.value:
                    continue  # an identical repeat
                if digest.hex().encode() != stated:
                    yield f"{path.name}:{number}: hash differs"
                for text in (*chain.signature(entry, digest, sig, key),
                             *chain.origin(entry), *chain.link(entry, value, digest), *entry_findings(entry)):
                    yield f"{path.name}:{number}: {text}"
                tally(entry, manifest["source"], stories)
                move(entry, manifest["source"], known.get((entry["topic"], entry["partition"]), 0), places, late)
            except (AttributeError, KeyError, TypeError, ValueError) as e:
                yield f"{path.name}:{number}: malformed: {e!r}"
    for c in manifest["committed"]:
        chain = chains.get((c["topic"], c["partition"]), Chain(keys))
        if c.get("entries") and chain.ends.get(c["entries"]) != (c["head"], c["offset"]):
            yield f"{c['topic']}/{c['partition']}: ends elsewhere than the group's committed state"
    for name, chain in chains.items():
        if keys and (chain.tail or not chain.signed):
            yield f"{name}: its end is not signed by a current key"
    source = manifest["source"]
    drained = () if manifest.get("unfinished") else manifest.get("drained", ())
    yield from story_findings(stories, places, late,
                              lambda partition: chains[source, partition].lives if (source, partition) in chains else 1,
                              lambda place: place in drained)
    yield from anchor_findings(folder, manifest["group"], chains, keys)
    yield from manifest_findings(raw, chains, keys)
    if manifest["v"] > 1:
        yield from file_findings(folder, manifest)
    if sum(1 for _ in (folder / "anchors").rglob("*.json*")) < manifest.get("anchors", 0):
        yield "anchors that the manifest counts are not there"


def agree(root):
    keys = load_key(root / "key")
    wrong = folders = 0
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        found = list(verify(folder, {key_id(keys): keys}))
        folders += 1
        if bool(found) != ((folder / "expect").read_text() == "unsound\n"):
            wrong += 1
            print(f"{folder}: {found[:3] or 'sound'}, against its file expect")
    print(f"{folders} ledgers, {wrong} judged otherwise")
    return wrong or not folders


def judge_forms(path):
    wrong = 0
    lines = path.read_bytes().splitlines()
    for line in lines:
        try:
            form(line[1:])
            good = True
        except (AttributeError, KeyError, TypeError, ValueError):
            good = False
        if good != line.startswith(b"+"):
            wrong += 1
            print(f"taken for {'an' if good else 'no'} entry: {line[1:]}")
    print(f"{len(lines)} forms, {wrong} judged otherwise")
    return wrong or not lines


def main(args):
    if args[0] == "--forms":
        return 1 if judge_forms(pathlib.Path(args[1])) else 0
    if args[0] == "--agree":
        return 1 if agree(pathlib.Path(args[1])) else 0
    keys = [load_key(k) for k in args[2:]] if args[1:2] == ["--key"] else []
    found = list(verify(pathlib.Path(args[0]), {key_id(k): k for k in keys}))
    print("\n".join(found) or "sound")
    return 65 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
