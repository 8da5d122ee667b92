#!/usr/bin/env python3
"""A second, independent verifier of exported ledgers, written from worker/ledger/README.md alone: it shares no code with runsink, so
that a fault in one is seen by the other.

    ledger_verifier.py DIR [--key KEY]...    findings, one a line; exit 0 sound, 65 not
    ledger_verifier.py --agree ROOT          every ROOT/NNNN must come out as its file "expect" says
    ledger_verifier.py --forms FILE          each line is + or -, and what is or is not of an entry's form

KEY: a PEM file, or a file with the raw public key in hex. Needs the package "cryptography" for keys.
"""
import base64, collections, hashlib, json, pathlib, re, sys

# ---- the form: what a value looks like, as regular expressions ----

NUMBER, HASH, ID = "(?:0|[1-9][0-9]*)", '"[0-9a-f]{64}"', '"[0-9a-f]{16}"'
TEXT = r'"(?:[^"\\\x00-\x1f]|\\["\\nrt]|\\u00(?:0[0-8bcef]|1[0-9a-f]))*"'
TOPIC = r'"(?!\.{1,2}")[a-zA-Z0-9._-]{1,249}"'
KEY = '"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="'  # 32 bytes in base64, without stray bits; and 64
SIGNATURE = '"[A-Za-z0-9+/]{85}[AQgw]=="'


def listed(one):
    return rf"\[{one}(?:,{one})*\]"


def members(text):
    """"name: VALUE" a line, a "?" behind the name of what may be absent: those members, in that order."""
    pairs = [line.strip().split(": ", 1) for line in text.strip().split("\n")]
    return "".join(rf'(?:(?:(?<=\{{)|,)"{name.rstrip("?")}":{value}){"?" if "?" in name else ""}' for name, value in pairs)


def of(text):
    return rf"\{{(?!,){members(text)}\}}"


RANGES = listed(rf"(?:{NUMBER}|\[{NUMBER},{NUMBER}\])")
ORIGIN = rf"\[{TOPIC},{NUMBER},{RANGES}\]"
RECORDS = f"offsets: {RANGES}\norigin?: {listed(ORIGIN)}"
REQUEST = f"status?: {NUMBER}\nsha256?: {HASH}\nsize?: {NUMBER}\n{RECORDS}"
OBJECT = f"key: {TEXT}\n{REQUEST}"
ROTATE = f"from: {ID}\nto: {KEY}\nsig: {SIGNATURE}"
REASON = f"to?: {TEXT}\ntier?: {TEXT}\nfault?: {TEXT}\nwhy?: {TEXT}\n"
KINDS = {"delivered": of(f"to?: {TEXT}\nobjects?: {listed(of(OBJECT))}\nrequests?: {listed(of(REQUEST))}"),
         **dict.fromkeys(("skipped", "parked", "dead", "redriven"), of(REASON + RECORDS)), "discarded": of(f"{REASON}who?: {TEXT}\n{RECORDS}"),
         "replayed": of(REASON + RECORDS)}
OUTCOMES = "\n".join(f"{kind}?: {listed(one)}" for kind, one in KINDS.items())
SEAL = rf',"hash":(?P<hash>{HASH})(?:,"sig":(?P<sig>{SIGNATURE}),"key":(?P<key>{ID}))?\}}'


def entry_of(form, cluster="", rules="", last="", root=""):
    return re.compile(r"(?P<signed>\{" + members(f"""
        v: {form}\ngroup: {TEXT}{cluster}\nseq: {NUMBER}\ntopic: {TOPIC}\npartition: {NUMBER}\nfirst: {NUMBER}\nnext: {NUMBER}
        opened: {NUMBER}\nsettled: {NUMBER}\nversion: {TEXT}{rules}\nprev: {HASH}
        rotate?: {of(ROTATE)}{last}
        anew?: {NUMBER}\nlost?: {RANGES}\n{OUTCOMES}{root}""") + ")" + SEAL)


ENTRY = {1: entry_of(1), 2: entry_of(2, f"\ncluster: {TEXT}", f"\nrules: {ID}", "\nlast?: " + rf"\[{NUMBER},(?:-1|{NUMBER}),{NUMBER}\]", f"\nroot?: {HASH}")}
ANCHOR = re.compile(rf'(?P<signed>\{{"anchor":1,.*\]){SEAL}')
MANIFEST = re.compile(rf'(?P<signed>\{{"v":[12],.*?){SEAL}\n?')


def want(ok, what):
    if not ok:
        raise ValueError(f"not {what}")


def spread(ranges):
    """[5,[7,9]] -> 5, 7, 8, 9"""
    for r in ranges:
        yield from range(r[0], r[1] + 1) if isinstance(r, list) else (r,)


def ends(ranges):
    return [r if isinstance(r, list) else [r, r] for r in ranges]


def count(ranges):
    return sum(z - a + 1 for a, z in ends(ranges))


def groups(entry):
    """(kind, group) of everything that speaks of records."""
    for kind in KINDS:
        for one in entry.get(kind, []):
            for group in one.get("objects", []) + one.get("requests", []) or [one]:
                yield kind, group


def form(value):
    """An entry, and the match of its parts; raises when it is not of its form."""
    match = next(filter(None, (one.fullmatch(value.decode()) for one in ENTRY.values())), None)
    want(match, "of the form of an entry")
    e = json.loads(value)
    offsets, small, big = [e["first"], e["next"], e.get("anew", 0)], [e["partition"]], [e["seq"], e["opened"], e["settled"]]
    want(all("objects" in one or "requests" in one for one in e.get("delivered", [])), "delivered as anything")
    for _, group in groups(e):
        ranges, origins = ends(group["offsets"]), group.get("origin", [])
        every = ranges + [r for o in origins for r in ends(o[2])]
        offsets += [v for r in every for v in r]
        small += [o[1] for o in origins] + [group.get("status", 0)]
        want(all(isinstance(r, int) or r[0] < r[1] for rs in (group["offsets"], *(o[2] for o in origins)) for r in rs), "ranges")
        want(all(a[1] + 1 < b[0] for a, b in zip(ranges, ranges[1:])), "ranges that ascend and don't touch")
        want(not origins or sum(count(o[2]) for o in origins) == count(group["offsets"]), "as many origins as offsets")
        want(("sha256" in group) == ("size" in group) and group.get("size", 0) < 2**64, "a hash with its size")
    if "last" in e:
        offset, at, size = e["last"]
        small, big = [*small, size], [*big, at]
        want(e["first"] <= offset < e["next"] and "lost" not in e, "a record of the window")
    want(e["first"] <= e["next"] and len(e.get("cluster", "").encode()) <= 64, "a window of a cluster")
    want(max(offsets) < 2**63 - 1 and max(small) < 2**31 and max(big) < 2**63, "numbers in their bounds")
    want("anew" not in e or (e["first"] == e["next"] and not e.keys() & {"lost", *KINDS}), "an empty window of a topic made anew")
    want("lost" not in e or ends(e["lost"]) == [[e["first"], e["next"] - 1]], "the window as lost range")
    return e, match


# ---- keys ----


def key_id(raw):
    return hashlib.sha256(raw).hexdigest()[:16]


def load_key(path):
    data = pathlib.Path(path).read_bytes()
    if b"-----" not in data:
        return bytes.fromhex(data.decode())
    from cryptography.hazmat.primitives import serialization as s
    return s.load_pem_public_key(data).public_bytes(s.Encoding.Raw, s.PublicFormat.Raw)


def signed_by(raw, sig, message):
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(base64.b64decode(sig), message)
        return True
    except InvalidSignature:
        return False


def seal_findings(match, keys):
    """Of an entry, an anchor or a manifest: what is wrong with its end."""
    digest, key = hashlib.sha256(match["signed"].encode()).digest(), (match["key"] or "").strip('"')
    if f'"{digest.hex()}"' != match["hash"]:
        yield "hash differs"
    if keys and not match["sig"]:
        yield "not signed"
    elif keys and not (key in keys and signed_by(keys[key], match["sig"], digest)):
        yield "signature is not a given key's"


class Chain:
    """The entries of one partition."""

    def __init__(self, keys, cluster):
        self.keys, self.cluster, self.retired, self.tail = dict(keys), cluster, set(), bool(keys)
        self.last = self.value = None
        self.lives, self.ends = 1, {}  # how often the topic was made; entries so far -> hash and end

    def add(self, entry, match):
        """Findings; takes the entry in."""
        key, rotate, last = (match["key"] or "").strip('"'), entry.get("rotate"), self.last
        if self.keys and rotate and key not in self.keys:
            new, old = base64.b64decode(rotate["to"]), self.keys.get(rotate["from"])
            if key_id(new) == key and old and rotate["from"] not in self.retired and signed_by(old, rotate["sig"], b"runsink-ledger-rotate-1\n" + new):
                self.keys[key] = new
                self.retired.add(rotate["from"])
        yield from seal_findings(match, self.keys)
        if match["sig"]:
            self.tail = key in self.retired  # its newest entry is by a key that was replaced
        if self.cluster not in ("", entry.get("cluster", self.cluster)):
            yield f"settled on cluster {entry['cluster']}, not {self.cluster}"
        self.cluster = entry.get("cluster") or self.cluster
        if (entry["seq"], entry["prev"]) != ((last["seq"] + 1, last["hash"]) if last else (0, "0" * 64)):
            yield "does not follow the entry before, or the beginning is missing"
        elif last and entry.get("anew", entry["first"]) != last["next"] and ".dead." not in entry["topic"]:
            yield f"begins elsewhere than at {last['next']}"
        if "anew" in entry:
            self.lives += 1
            if not last:
                yield "nothing was there before the topic was made anew"
        seen = collections.Counter(offset for _, group in groups(entry) for offset in spread(group["offsets"]))
        if any(n > 1 or not entry["first"] <= offset < entry["next"] for offset, n in seen.items()):
            yield "an offset stands twice or outside of the window"
        if "lost" in entry:
            yield "records were lost"
        self.last, self.value = {**entry, "hash": hashlib.sha256(match["signed"].encode()).hexdigest()}, match[0]
        self.ends[entry["seq"] + 1] = self.last["hash"], entry["next"]


# ---- what became of records ----

# How often an outcome ends a record's story, makes it a dead letter, has it wait.
STEPS = {"delivered": (1, 0, 0), "skipped": (1, 0, 0), "parked": (0, 0, 1), "dead": (0, 1, 0), "redriven": (0, -1, 1), "discarded": (1, -1, 0),
         "replayed": (0, 0, 1)}


class Story:
    def __init__(self):
        self.opened = self.final = self.dead = self.waiting = self.replayed = 0
        self.lies, self.late = collections.Counter(), False  # in which topics; parked by an entry younger than the committed state


def tell(entry, source, known, stories):
    """stories: (partition, offset) of the source topic -> what became of it."""
    for kind, group in groups(entry):
        own, back = entry["topic"] == source, kind == "redriven" and "tier" not in group  # back: to the source topic, as a new event
        to = (f"{source}.retry.{group.get('tier')}" if kind in ("parked", "replayed") or kind == "redriven" and not back
              else f"{source}.dead.{group.get('fault')}" if kind == "dead" else None)
        final, dead, waiting = STEPS[kind]
        for p, ranges in [(entry["partition"], group["offsets"])] if own else [o[1:] for o in group["origin"]]:
            for offset in spread(ranges):
                s = stories[p, offset]
                s.opened, s.final, s.dead = s.opened + own, s.final + final + back, s.dead + dead
                s.waiting += waiting - back - (not own and kind not in ("redriven", "discarded", "replayed"))
                s.replayed += kind == "replayed"
                s.lies.update({to: 1} if to else {})
                s.lies.subtract({} if own or kind == "replayed" else {entry["topic"]: 1})
                s.late |= bool(to and ".retry." in to and entry["seq"] >= known)


def story_findings(stories, lives, drained):
    for (p, offset), s in stories.items():
        lies = {place: n for place, n in s.lies.items() if n}
        if min(s.final, s.dead, s.waiting) < 0 or s.final + s.dead + s.waiting != max(1, min(s.opened, lives.get(p, 1))) + s.replayed:
            yield f"record {(p, offset)}: {s.final} delivered, {s.dead} dead, {s.waiting} waiting"
        elif lives.get(p, 1) == 1 and (min(lies.values(), default=0) < 0 or len(lies) != s.waiting + s.dead):
            yield f"record {(p, offset)}: taken from where it did not lie: {lies}"
        elif lives.get(p, 1) == 1 and s.waiting and not s.late and lies.keys() & drained:
            yield f"record {(p, offset)}: it does not wait any more where it was parked"


# ---- a folder ----


def verify(folder, keys):
    raw = (folder / "manifest.json").read_text()
    manifest, sealed = json.loads(raw), MANIFEST.fullmatch(raw)
    source, chains, stories = manifest["source"], {}, collections.defaultdict(Story)
    known = {(c["topic"], c["partition"]): c for c in manifest["committed"]}
    for path in sorted(folder.glob("*.ndjson")):
        for number, value in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            try:
                entry, match = form(value)
                place = entry["topic"], entry["partition"]
                if entry["group"] != manifest["group"] and not any(seal_findings(match, {})):
                    continue  # another group has chains of its own in the same topic
                chain = chains.setdefault(place, Chain(keys, manifest.get("cluster", "")))
                if match[0] == chain.value:
                    continue  # an identical repeat
                yield from (f"{path.name}:{number}: {text}" for text in chain.add(entry, match))
                tell(entry, source, known.get(place, {}).get("entries", 0), stories)
            except (KeyError, TypeError, ValueError) as e:
                yield f"{path.name}:{number}: malformed: {e!r}"
    for place, c in known.items():
        if c.get("entries") and (place not in chains or chains[place].ends.get(c["entries"]) != (c["head"], c["offset"])):
            yield f"{place}: ends elsewhere than the group's committed state"
    yield from (f"{place}: its end is not signed by a current key" for place, chain in chains.items() if chain.tail)
    yield from story_findings(stories, {p: c.lives for (t, p), c in chains.items() if t == source},
                              set() if manifest.get("unfinished") else set(manifest.get("drained", ())))

    every = {k: raw for chain in chains.values() for k, raw in chain.keys.items()}
    current = {k: raw for k, raw in every.items() if not any(k in chain.retired for chain in chains.values())}
    if sealed and sealed["sig"]:
        yield from (f"manifest: {text}" for text in seal_findings(sealed, current))
    elif {"hash", "sig", "key"} & manifest.keys():
        yield "manifest: malformed seal"
    anchors = sorted((folder / "anchors").rglob("*.json*"))
    for path in anchors:
        match = ANCHOR.fullmatch(path.read_text(errors="replace"))
        yield from (f"{path.name}: {text}" for text in (seal_findings(match, every) if match and match["sig"] else ["malformed"]))
        anchor = json.loads(match[0]) if match else {"group": None}
        for h in anchor["heads"] if anchor["group"] == manifest["group"] else ():
            chain = chains.get((h["topic"], h["partition"]))
            if not chain or chain.ends.get(h["seq"] + 1) != (h["hash"], h["next"]):
                yield f"{h['topic']}/{h['partition']}: entry {h['seq']} was anchored otherwise in {path.name}"
    if len(anchors) < manifest.get("anchors", 0):
        yield "anchors that the manifest counts are not there"
    if manifest["v"] > 1:
        there = {p.relative_to(folder).as_posix(): p.read_bytes()
                 for p in (*folder.glob("*.ndjson"), *(folder / "anchors").rglob("*")) if p.is_file()}
        there = {name: (len(body), hashlib.sha256(body).hexdigest()) for name, body in there.items()}
        named = {f["name"]: (f["size"], f["sha256"]) for f in manifest["files"]}
        for name in sorted(name for name in there.keys() | named.keys() if there.get(name) != named.get(name)):
            yield f"{name}: not the bytes that the manifest names"


def agree(root):
    key, folders = load_key(root / "key"), sorted(p for p in root.iterdir() if p.is_dir())
    for folder in folders:
        found = list(verify(folder, {key_id(key): key}))
        if bool(found) != ((folder / "expect").read_text() == "unsound\n"):
            yield f"{folder}: {found[:3] or 'sound'}, against its file expect"
    print(f"{len(folders)} ledgers")


def judge_forms(path):
    lines = path.read_bytes().splitlines()
    for line in lines:
        try:
            good = bool(form(line[1:]))
        except ValueError:
            good = False
        if good != line.startswith(b"+"):
            yield f"taken for {'an' if good else 'no'} entry: {line[1:]}"
    print(f"{len(lines)} forms")


def main(args):
    judge = {"--forms": judge_forms, "--agree": agree}.get(args[0])
    keys = [load_key(path) for option, path in zip(args[1::2], args[2::2]) if option == "--key"]
    found = list(judge(pathlib.Path(args[1])) if judge else verify(pathlib.Path(args[0]), {key_id(k): k for k in keys}))
    print("\n".join(found) or "sound")
    return 65 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
