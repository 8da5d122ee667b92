#!/usr/bin/env python3
"""A second verifier of exported ledgers, written from worker/ledger/README.md alone: it shares no code with runsink.

    ledger_verifier.py DIR [--key KEY]...    findings, one a line; exit 0 sound, 65 not
    ledger_verifier.py --agree ROOT          every ROOT/NNNN must come out as its file "expect" says
    ledger_verifier.py --forms FILE          each line is + or -, and what is or is not of an entry's form

KEY: a PEM file, or a file with the raw public key in hex. Needs the package "cryptography".
"""
import base64, collections, datetime, hashlib, io, json, pathlib, re, sys
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

# The forms. {member:TYPE member?:TYPE} is an object: its members in this order; one with "?" may be left out. TYPE+ is a list,
# TYPE* one that may be empty. ( | )? are as in a regular expression, which is what each form is made into.
FORMS = {
    "ONE": "1", "TWO": "2", "N": "(?:0|[1-9][0-9]{0,18})", "IS": "(true|false)", "HEX": '"[0-9a-f]{64}"', "ID": '"[0-9a-f]{16}"',
    "TEXT": r'"(?:[^"\\\x00-\x1f]|\\["\\nrt]|\\u00(?:0[0-8bcef]|1[0-9a-f]))*"', "TOPIC": r'"(?!\.\.?")[\w.-]{1,249}"',
    "PUBLIC": '"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="', "SIG": '"[A-Za-z0-9+/]{85}[AQgw]=="'}
GRAMMAR = """
RANGE = N|[N,N];  ORIGIN = [TOPIC,N,RANGE+];  LAST = [N,(-1|N),N];  ROTATE = {from:ID to:PUBLIC sig:SIG}
SENT = status?:N sha256:HEX size:N offsets:RANGE+ origin?:ORIGIN+;  OBJECT = {key:TEXT SENT};  REQUEST = {SENT}
DELIVERED = {to:TEXT (objects:OBJECT+ requests?:REQUEST+|requests:REQUEST+)}
REASON = {to?:TEXT tier?:TEXT fault?:TEXT why?:TEXT offsets:RANGE+ origin?:ORIGIN+}
CLOSED = {to?:TEXT tier?:TEXT fault?:TEXT why?:TEXT who?:TEXT offsets:RANGE+ origin?:ORIGIN+}
GONE = discarded?:CLOSED+ replayed?:REASON+
OUTCOMES = delivered?:DELIVERED+ skipped?:REASON+ parked?:REASON+ dead?:REASON+ redriven?:REASON+ GONE
WINDOW = seq:N topic:TOPIC partition:N first:N next:N opened:N settled:N version:TEXT
FORMONE = v:ONE group:TEXT WINDOW prev:HEX rotate?:ROTATE anew?:N lost?:RANGE+ OUTCOMES
FORMTWO = v:TWO group:TEXT cluster:TEXT WINDOW rules:ID prev:HEX rotate?:ROTATE last?:LAST anew?:N lost?:RANGE+ OUTCOMES root?:HEX
ENTRY = {(FORMONE|FORMTWO) hash:HEX (sig:SIG key:ID)?}
HEAD = {topic:TOPIC partition:N seq:N next:N hash:HEX}
ANCHOR = {anchor:ONE group:TEXT at:N version:TEXT heads:HEAD+ hash:HEX sig:SIG key:ID}
COMMITTED = {topic:TOPIC partition:N offset:N entries?:N head?:HEX};  FILE = {name:TEXT size:N sha256:HEX}
STATE = source:TOPIC group:TEXT cluster?:TEXT partial:IS unfinished:IS anchors?:N committed?:COMMITTED* drained:TOPIC*
MANIFEST = {(v:ONE STATE|v:TWO STATE files:FILE*) (hash:HEX sig:SIG key:ID)?}"""
KINDS = ("delivered", "skipped", "parked", "dead", "redriven", "discarded", "replayed")
SAME = ("first", "next", "anew", "lost", *KINDS)  # what an entry that repeats another says again
LARGEST = {"partition": 2**31 - 1, "first": 2**63 - 2, "next": 2**63 - 2}  # of other numbers 2**63 - 1
ANCHOR_NAME = re.compile(r"^anchors/(?:.*/)?([0-9]{4}/[0-9]{2}/[0-9]{2}/[0-9]{6}Z)-[0-9a-f]{16}\.json(?:\.[0-9]+)?$")


def expand(match):
    member, optional, form, many = match.groups()
    form = FORMS[form] if not many else rf"\[(?:{FORMS[form]}(?:,{FORMS[form]})*){'?' if many == '*' else ''}\]"
    return rf'(?:"{member}":{form}(?:,(?=")|(?=}}))){optional}' if member else form


for rule in re.split(r";\s*|\n", GRAMMAR.strip()):
    name, form = re.sub(r"([][{}])", r"\\\1", rule).split(" = ")
    FORMS[name] = "(?:" + re.sub(r"(?:(\w+)(\??):)?([A-Z]+)([+*]?)", expand, form).replace(" ", "") + ")"


def read(form, data):
    """What these bytes say, ranges and origins spread out; None where they are not of the form to the byte."""
    try:
        return json.loads(data, object_hook=beside_grammar) if re.fullmatch(FORMS[form], data.decode(), re.ASCII) else None
    except ValueError:
        return None


def beside_grammar(o):
    """What the forms ask of each object beside the grammar."""
    right = [all(v <= LARGEST.get(member, 2**63 - 1) for member, v in o.items() if isinstance(v, int))]
    if "offsets" in o:
        ranges, o["offsets"] = o["offsets"], spread(o["offsets"])
        right += [o["offsets"] == sorted(set(o["offsets"])), o["offsets"][-1] < 2**63 - 1]
        right += [len(ranges) == len({offset - i for i, offset in enumerate(o["offsets"])})]  # adjacent ones are joined
    if "origin" in o:
        o["origin"] = [(topic, partition, offset) for topic, partition, ranges in o["origin"] for offset in spread(ranges)]
        right += [len(o["origin"]) == len(o["offsets"])]
    for ascending in [(h["topic"], h["partition"]) for h in o.get("heads", [])], [f["name"].encode() for f in o.get("files", [])]:
        right += [ascending == sorted(set(ascending))]
    if "prev" in o:
        window, last, alone = [o["first"], o["next"] - 1], o.get("last", [o["first"], 0, 0]), not o.keys() & {"last", *KINDS}
        right += [o["first"] <= o["next"], len(o.get("cluster", "").encode()) <= 64, max(last) < 2**63, last[2] < 2**31]
        right += ["last" not in o or window[0] <= last[0] <= window[1]]
        right += ["lost" not in o or alone and o["lost"] == [window if window[0] < window[1] else window[0]]]
        right += ["anew" not in o or alone and o["first"] == o["next"] and o["seq"] > 0 and "lost" not in o]
    if not all(right):
        raise ValueError
    return o


def spread(ranges):
    """[7,[9,11]] -> [7, 9, 10, 11]; more than a window can have are not followed."""
    ends = [(r, r) if isinstance(r, int) else r for r in ranges]
    if any(not isinstance(r, int) and r[0] >= r[1] for r in ranges) or sum(last - first for first, last in ends) > 10**7:
        raise ValueError
    return [offset for first, last in ends for offset in range(first, last + 1)]


def key_id(key):
    return hashlib.sha256(key).hexdigest()[:16]


def signed(key, sig, message):
    try:
        return Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(sig), message) is None
    except InvalidSignature:
        return False


def verify(folder, given):
    """What is wrong with the export in this folder, to whoever has these public keys; nothing: it is sound."""
    found, keys, replaced = [], {key_id(key): key for key in given}, {}  # replaced: key -> its successor, and since when

    def check(right, where, what):
        if not right:
            found.append(f"{where}: {what}")
        return right

    def sealed(where, data, value):
        """Its hash is right; and to whoever has keys, its signature."""
        digest = hashlib.sha256(data[:data.rindex(b',"hash":"')]).digest()
        return check(digest.hex() == value["hash"], where, "hash differs") and (not keys or (
            check(value.get("key") in keys, where, "not signed by a known key")
            and check(signed(keys[value["key"]], value["sig"], digest), where, "signature differs")))

    # The manifest, and the files that it names.
    paths = [p for p in sorted([*folder.glob("*.ndjson"), *folder.glob("anchors/**/*")]) if not p.is_dir()]
    files = {str(p.relative_to(folder)): p.read_bytes() for p in paths}
    data = b"".join(p.read_bytes() for p in folder.glob("manifest.json"))
    m = read("MANIFEST", data.removesuffix(b"\n"))
    if not check(m, "manifest", "not of its form"):
        return found
    source, partial, named = m["source"], m["partial"], {f["name"]: (f["size"], f["sha256"]) for f in m.get("files", [])}
    for name in sorted(files.keys() | named.keys()) if m["v"] == 2 else ():
        there = name in files and (len(files[name]), hashlib.sha256(files[name]).hexdigest())
        check(named.get(name) == there, name, "not the bytes that the manifest names")

    # The group's entries. With the first one by a new key stands who named it: a key names one successor, for the whole ledger.
    lines = [(f"{name}:{n}", line[:-1], line.endswith(b"\n") and read("ENTRY", line[:-1])) for name, body in files.items()
             if "/" not in name for n, line in enumerate(io.BytesIO(body), 1)]
    entries = [line for line in lines if check(line[2], line[0], "no entry") and line[2]["group"] == m["group"]]
    check(entries, "ledger", "no entry is there: nothing is verified")
    for where, _, e in sorted(entries, key=lambda entry: entry[2]["settled"]) if keys else ():
        new = base64.b64decode(e.get("rotate", {"to": ""})["to"])
        if new and e.get("key") == key_id(new):
            old = e["rotate"]["from"]
            right = old in keys and signed(keys[old], e["rotate"]["sig"], b"runsink-ledger-rotate-1\n" + new)
            first, _ = replaced.setdefault(old, (key_id(new), e["settled"])) if right else (None, None)
            right = right and (first == key_id(new) or key_id(new) in keys)
            if check(right, where, "the key before it has not named its key, or has named another before"):
                keys[key_id(new)] = new
    if "hash" in m and sealed("manifest", data, m):
        check(m["key"] not in replaced, "manifest", "signed by a key that was replaced")

    # Each entry's place in its chain (number -> the entry, and those that repeat it), and what it says of each record.
    chains, clusters, moves, replays = collections.defaultdict(dict), {}, collections.defaultdict(list), collections.Counter()
    committed = {(c["topic"], c["partition"]): c for c in m.get("committed", [])}
    ends_at = {place: c.get("entries", 0) for place, c in committed.items()}
    topics = f"{re.escape(source)}([.]retry[.][0-9]+(ms|[smhd])|[.]dead[.](tenant|data|system)|[.]replay)?"
    for where, line, e in entries:
        topic, seq, place = e["topic"], e["seq"], (e["topic"], e["partition"])
        chain, of_dead = chains[place], topic.startswith(f"{source}.dead.")
        before, there, young = chain.get(seq - 1), chain.get(seq, [e])[0], seq >= ends_at.get(place, 0)
        sealed(where, line, e)
        same = e.get("last", there.get("last")) == there.get("last", e.get("last"))  # form 1 does not say it
        check(same and all(e.get(k) == there.get(k) for k in SAME), where, "stands there already, and says something else")
        check(seq in chain or (seq == max(chain) + 1 if chain else partial or seq == 0), where, "entries before it are missing")
        chained = e["prev"] in [b["hash"] for b in before] if before else seq or e["prev"] == "0" * 64
        check(chained, where, "does not name the hash of the one before it")
        end = before[0]["next"] if before else e.get("anew", e["first"])
        check(of_dead or e.get("anew", e["first"]) == end, where, "does not begin where the one before it ends")
        cluster = clusters.get(place) or m.get("cluster") or e.get("cluster")
        clusters[place] = e.get("cluster") or cluster
        check(clusters[place] == cluster, where, f"should be of cluster {cluster}, not another")
        chain.setdefault(seq, []).append(e)
        if there is not e:
            continue
        told = [(k, one) for k in KINDS for o in e.get(k, []) for one in o.get("objects", []) + o.get("requests", []) or [o]]
        offsets = [offset for _, one in told for offset in one["offsets"]]
        check(re.fullmatch(topics, topic), where, "of another topic")
        check(e["opened"] <= e["settled"], where, "settled before it was opened")
        check("lost" not in e, where, "records were lost before they were read")
        check(len(offsets) == len(set(offsets)), where, "names a record twice")
        check(all(e["first"] <= offset < e["next"] for offset in offsets), where, "names a record outside of its window")
        for kind, one in told:
            waits = kind in ("parked", "replayed") or kind == "redriven" and "tier" in one
            to = f".retry.{one.get('tier')}" if waits else f".dead.{one.get('fault')}" if kind == "dead" else ""
            check(kind != "delivered" or 200 <= one.get("status", 200) < 300, where, "delivered without success")
            check(re.fullmatch(topics, source + to), where, "parked for no delay, or dead without a known fault")
            check((kind in ("redriven", "discarded")) == of_dead, where, "no outcome of such a topic")
            check((kind == "replayed") == (topic == f"{source}.replay"), where, "no outcome of such a topic")
            check(("origin" in one) == (topic != source), where, "an origin too many or too few")
            for origin, partition, offset in one.get("origin") or [(*place, offset) for offset in one["offsets"]]:
                check(origin == source or topic == source, where, "an origin in another topic")
                moves[partition, offset].append((source if kind == "replayed" else topic, source + to, young))
                replays[partition, offset] += kind == "replayed"

    # A record lies in its source topic first, once for each topic of that name, and once more for each replay. It is only ever
    # taken from where it lies.
    for (partition, offset), story in sorted(moves.items()):
        took, put, reached, where = *map(collections.Counter, list(zip(*story))[:2]), {source}, f"record {(partition, offset)}"
        strange = (took - put - collections.Counter({source: len(story)})).total()
        for _ in story:
            reached |= {to for taken, to, _ in story if taken in reached}
        check(partial or not strange and took.keys() <= reached, where, "taken from where it did not lie")
        asked = replays[partition, offset]
        check(partial or not asked or asked < took[source], where, "replayed, and never delivered")
        again = max(took[source], strange) - 1 - asked
        check(again < 1 or again <= sum("anew" in e for e, *_ in chains[source, partition].values()), where, "a second outcome")
        gone = [to for _, to, young in story if to in m["drained"] and put[to] > took[to] and not young]
        check(not gone or m["unfinished"], where, "it does not wait any more where it was parked")

    def head(where, place, seq, end, digest, excused):
        """The ledger has the entry; or its first one names this as the one before; or it begins later still."""
        chain, name = chains.get(place, {}), f"entry {seq} of {place[0]}/{place[1]}"
        if seq in chain:
            return check((digest, end) in [(e["hash"], e["next"]) for e in chain[seq]], where, f"{name} was anchored otherwise")
        check(digest in [e["prev"] for e in chain.get(seq + 1, [{"prev": digest}])], where, f"{name} was anchored otherwise")
        check(excused or seq < min(chain, default=0) or partial and not chain, where, f"{name} is missing")

    # The group's committed state, and anchors.
    for place, c in committed.items():
        if ends_at[place]:
            head("manifest", place, ends_at[place] - 1, c["offset"], c.get("head"), m["unfinished"])
        elif chains.get(place) and not m["unfinished"]:
            end = chains[place][max(chains[place])][0]["next"]
            check(c["offset"] <= end, "manifest", "the ledger ends before the committed offset")
    vouched = collections.defaultdict(lambda: -1)  # up to which entry a key that is in use has anchored a chain
    anchors = {name: len(body) <= 2**20 and read("ANCHOR", body) for name, body in files.items() if ANCHOR_NAME.search(name)}
    ours = [name for name, a in anchors.items() if check(a, name, "no anchor") and a["group"] == m["group"]]
    check(len(ours) == m.get("anchors", len(ours)), "anchors", "not as many as the manifest says")
    check(ours or not anchors and "anchors" not in m, "anchors", "none is of this group")
    for name in ours:
        a = anchors[name]
        at = datetime.datetime.fromtimestamp(min(a["at"] // 1000, 253402300799), datetime.timezone.utc)
        check(at.strftime("%Y/%m/%d/%H%M%SZ") == ANCHOR_NAME.search(name)[1], name, "made at another time than its name says")
        for h in a["heads"] if sealed(name, files[name], a) else ():
            place = h["topic"], h["partition"]
            if re.fullmatch(topics, h["topic"]):
                head(name, place, h["seq"], h["next"], h["hash"], False)
            vouched[place] = max(vouched[place], h["seq"] if a["key"] not in replaced else -1)

    # What a key signed that was replaced: something by a newer one vouches for it, or it is old enough.
    for place, chain in chains.items():
        newest = [chain[seq][0] for seq in sorted(chain)]
        while newest and newest[-1].get("key") in replaced and newest[-1]["seq"] > vouched[place]:
            e = newest.pop()
            stated = any(b["rotate"]["from"] == e["key"] for b in newest if "rotate" in b)
            late = e["settled"] > replaced[e["key"]][1] + 24 * 3600 * 1000
            check(not stated and not late, f"{place[0]}/{place[1]}", f"entry {e['seq']} is by a key that was replaced before")
    return found


def load(path):
    data = pathlib.Path(path).read_bytes()
    pem = load_pem_public_key(data) if data.startswith(b"-----") else None
    return pem.public_bytes(Encoding.Raw, PublicFormat.Raw) if pem else bytes.fromhex(data.decode())


def main():
    match sys.argv[1:]:
        case ["--forms", path]:
            lines = pathlib.Path(path).read_bytes().split(b"\n")[:-1]
            found = [repr(line) for line in lines if line.startswith(b"+") != (read("ENTRY", line[1:]) is not None)]
        case ["--agree", root]:
            found = [path.parent.name for path in sorted(pathlib.Path(root).glob("*/expect"))
                     if (path.read_text() == "sound\n") == bool(verify(path.parent, [load(f"{root}/key")]))]
        case [folder, *options] if options[::2] == ["--key"] * (len(options) // 2):
            found = verify(pathlib.Path(folder), [load(path) for path in options[1::2]])
        case _:
            sys.exit(__doc__)
    print(*found or ["sound"], sep="\n")
    return 65 if found else 0


if __name__ == "__main__":
    sys.exit(main())
