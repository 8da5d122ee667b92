"""An independent reading of the event model, for comparison with the worker: what a record's payload is, what is secret in
it, and under which key it belongs. Written from the event model's text, sharing nothing with the C code."""
import functools
import json
import re
from urllib.parse import quote

MARK = b"[REDACTED]"
TOKEN = re.compile(rb'\s*("(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+)')
OPEN_HEADERS = {"content-type", "accept"}


@functools.cache
def camel(name):
    """jobRun, job_run -> jobRun"""
    return re.sub(r"_([a-z])", lambda m: m[1].upper(), name)


def strings(data, names=None, objects=None, others=None):
    """(path, start, end) of each string value in a JSON text, quotes excluded; path names in camelCase, None in an array. The
    places of the members' names are added to names, those of numbers and booleans to others. For each string, objects gets the
    numbers of the objects that it is in, from the outermost on."""
    stack, key, expect_key, found, number, inside = [], None, False, [], 0, []
    for match in TOKEN.finditer(data):
        token, start = match[1], match.start(1)
        kind = token[:1]
        if kind in b"{[":
            stack.append((key, kind == b"{"))
            number += 1
            inside.append(number)
            expect_key, key = kind == b"{", None
        elif kind in b"}]":
            key, _ = stack.pop()
            inside.pop()
            expect_key = False
        elif kind == b",":
            expect_key = stack[-1][1]
            key = None
        elif kind == b":":
            expect_key = False
        elif expect_key:
            key = json.loads(token)
            if names is not None:
                names.append((start + 1, start + len(token) - 1))
        elif token != b"null":
            path = [name for name, _ in stack[1:]] + [key]
            path = tuple(camel(p) if p is not None else None for p in path)
            if kind == b'"':
                found.append((path, start + 1, start + len(token) - 1))
                if objects is not None:
                    objects.append(tuple(inside))
            elif others is not None:
                others.append((path, start, start + len(token)))
    return found


NAMES = ("password", "passwd", "passphrase", "passcode", "pwd", "secret", "token", "authorization", "bearer", "jwt", "cookie", "apikey",
         "accesskey", "privatekey", "signingkey", "encryptionkey", "webhookkey", "connectionstring", "credential", "totp")
LAST = ("pass", "auth", "sessionid", "creds", "otp", "pin")
PROXY_PARTS = {"user", "pass", "auth", "login", "username", "userName", "password"}
OPEN = {"type", "bucket", "region", "prefix"}
LEAST = 6  # bytes of a value that is looked for everywhere
LEAST_IN_NAME = 12


def url_spans(text):
    """The secret parts of a well-formed URL: userinfo, values of the query, fragment; and those of a URL in its path."""
    inner = text.count(b"://") > 1 and re.match(rb"((?:[\w+.-]*:)?/*[^/?#]*[^?#]*?)[\w+.-]*://", text)
    if inner and re.match(rb"(?:[\w+.-]*:)?/*[^/?#]+/", inner[1]):
        at = inner.end(1)
        return url_spans(text[:at]) + [(at + start, at + end) for start, end in url_spans(text[at:])]
    spans = []
    authority = re.match(rb"(?:[A-Za-z0-9+.-]*:)?//([^/?#]*)@", text) or re.match(rb"([^/?#@]*)@", text)
    if authority:
        spans.append(authority.span(1))
    query = re.match(rb"[^?#]*\?(.*)", text, re.S)
    if query:
        at = query.start(1)
        parts = query[1].split(b"&")
        for number, part in enumerate(parts):
            if b"#" in part:  # what follows belongs to the last value
                part = b"&".join(parts[number:])
            equals = part.find(b"=")
            spans.append((at + equals + 1 if equals >= 0 else at, at + len(part)))
            at += len(part) + 1
            if b"#" in part:
                break
    elif b"#" in text:
        spans.append((text.index(b"#") + 1, len(text)))
    return [span for span in spans if span[1] > span[0]]


def whole(text):
    return [(0, len(text))] if text else []


@functools.cache
def named(path):
    return any(tells(part) for part in path if part)


def tells(name):
    words = re.findall("[A-Z]+(?![a-z])|[A-Z]?[^A-Z\\W_]+", name)
    return any(part in re.sub("[^a-z0-9]", "", name.lower()) for part in NAMES) or bool(words) and words[-1].lower() in LAST


def secret_spans(path, text):
    """Which parts of the string value at this path (below the document's root) are secret by place or by name."""
    if named(path):
        return whole(text)
    for place in ("sink", "notifications"):
        if place in path:
            path = tuple(part for part in path[path.index(place) + 1:] if part is not None)
            if path and path[0] == "headers" and len(path) == 2:
                return [] if path[1].lower() in OPEN_HEADERS else whole(text)
            if path in (("url",), ("endpoint",)):
                return url_spans(text)
            return [] if len(path) == 1 and path[0] in OPEN else whole(text)
    around = [part for part in path[:-1] if part is not None]
    if around and around[-1].lower().endswith("proxy") and path[-1] in PROXY_PARTS:
        return whole(text)
    if path[-1:] in (("signedUrl",), ("traceUrl",), ("logUrl",), ("proxy",)) or "proxy" in path and path[-1] == "url":
        return url_spans(text)
    if path[-2:-1] == ("proxies",):
        return url_spans(text)
    if "jobConfigurationSnapshot" in path and (b"://" in text or (path[-1] or "").lower().endswith(("url", "uri", "endpoint"))):
        return url_spans(text)
    return []


def values_of(path, text):
    """What a secret part is by itself, and what else it gives away."""
    yield text
    if text[:7].lower() in (b"bearer ", b"basic "):
        yield text.split(b" ")[-1]
    if re.fullmatch(rb"[^@/\s]*:[^@/\s]*", text):
        yield from text.split(b":", 1)
    if "headers" in path[-2:-1]:
        yield from wrapped(text)


def wrapped(header):
    """The tokens that a header's value wraps: what stands behind a "=", and what looks like no word."""
    yield from header.split(b" ", 1)[1:]
    for piece in re.finditer(rb"""(=["']?)?([^\s;,"'&|()<>\[\]{}=]{8,})""", header):
        token = piece[2]
        letters, digits = re.search(rb"[A-Za-z]", token), re.search(rb"\d", token)
        if not re.match(rb"\d{4}-\d\d-\d\dT", token) and (piece[1] or letters and digits or token.isdigit() or
                                                          re.search(rb"[a-z]", token) and re.search(rb".[A-Z]", token)):
            yield token


def redact(payload):
    edits, values, names, objects, others = [], set(), [], [], []
    places = strings(payload, names, objects, others)
    pairs = {inside[-1] for (path, start, end), inside in zip(places, objects)
             if (path[-1] or "").lower() in ("name", "key") and tells(json.loads(b'"%s"' % payload[start:end]))}
    bare = set()
    for path, start, end in others:
        if named(path) and ("sink" in path or "notifications" in path):
            edits.append((start, end))
            bare.add(start)
            values |= {payload[start:end]} - {b"true", b"false"}
    for (path, start, end), inside in zip(places, objects):
        spans = secret_spans(path, payload[start:end])
        if any((part or "").lower() == "value" and around in pairs for part, around in zip(path, inside)):
            spans = whole(payload[start:end])
        edits += [(start + a, start + b) for a, b in spans]
        if "apisToSend" not in path and path[-2:] != ("sink", "path"):
            for a, b in spans:
                values |= set(values_of(path, json.loads(b'"%s"' % payload[start + a:start + b]).encode()))
    values = {value for value in values if len(value) >= LEAST and value != MARK and value.decode(errors="replace") not in WORDS}
    for where, least in ((places, LEAST), ([((), *span) for span in names], LEAST_IN_NAME)):
        for _, start, end in where:
            for value in values:
                if len(value) >= least:
                    edits += [(start + a, start + b) for a, b in echoes(payload[start:end], value)]
    out, at = [], 0
    for start, end in united(edits):
        out += [payload[at:start], b'"%s"' % MARK if start in bare else MARK]
        at = end
    return b"".join(out + [payload[at:]])


WORDS = {"SUCCESS", "FAILURE", "webhook"}
CHARACTER = re.compile(rb'\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.|[^\\]', re.S)


@functools.lru_cache
def written(text):
    """What a string as it is written says, and where each of its characters begins there."""
    if b"\\" not in text:
        return text, range(len(text) + 1)
    pieces = [(m.span(), json.loads(b'"%s"' % m[0]).encode("utf-8", "surrogatepass") if m[0][:1] == b"\\" else m[0]) for m in CHARACTER.finditer(text)]
    plain = b"".join(piece for _, piece in pieces)
    starts, at = {}, 0
    for (start, end), piece in pieces:
        starts[at] = start
        at += len(piece)
    starts[at] = len(text)
    return plain, starts


def echoes(text, value):
    """Where a value stands in a string as it is written."""
    plain, starts = written(text)
    at = plain.find(value)
    while at >= 0:
        yield starts[at], starts[at + len(value)]
        at = plain.find(value, at + len(value))


def united(edits):
    found = []
    for start, end in sorted(edits):
        if found and start < found[-1][1]:
            found[-1][1] = max(end, found[-1][1])
        else:
            found.append([start, end])
    return found


def escape(value):
    """Percent-encoded outside [A-Za-z0-9._-]; "." and ".." whole."""
    if value in (".", ".."):
        return value.replace(".", "%2E")
    return quote(value, safe="").replace("~", "%7E")


def object_key(run, prefix, partition, offset):
    """The default key.object of a run given as a dictionary in either spelling."""
    run = {camel(k): v for k, v in run.items()}
    parts = [escape(run[name]) for name in ("workspaceId", "projectId", "jobId", "id")]
    return f"{prefix}{'/'.join(parts)}/{escape(run['updatedAt'])}-{escape(run['status'])}-{partition}-{offset}.json"
