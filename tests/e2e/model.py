"""An independent reading of the event model, for comparison with the worker: what a record's payload is, what is secret in
it, and under which key it belongs. Written from the event model's text, sharing nothing with the C code."""
import json
import re
from urllib.parse import quote

MARK = b"[REDACTED]"
TOKEN = re.compile(rb'\s*("(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+)')
OPEN_HEADERS = {"content-type", "accept"}


def camel(name):
    """jobRun, job_run -> jobRun"""
    return re.sub(r"_([a-z])", lambda m: m[1].upper(), name)


def strings(data):
    """(path, start, end) of each string value in a JSON text, quotes excluded; path names in camelCase, None in an array."""
    stack, key, expect_key, found = [], None, False, []
    for match in TOKEN.finditer(data):
        token, start = match[1], match.start(1)
        kind = token[:1]
        if kind in b"{[":
            stack.append((key, kind == b"{"))
            expect_key, key = kind == b"{", None
        elif kind in b"}]":
            key, _ = stack.pop()
            expect_key = False
        elif kind == b",":
            expect_key = stack[-1][1]
            key = None
        elif kind == b":":
            expect_key = False
        elif expect_key:
            key = json.loads(token)
        elif kind == b'"':
            path = [name for name, _ in stack[1:]] + [key]
            found.append((tuple(camel(p) if p is not None else None for p in path), start + 1, start + len(token) - 1))
    return found


def userinfo(text):
    authority = re.match(rb"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//([^/?#]*)@", text)
    return [authority.span(1)] if authority else []


def query_values(text):
    query = re.match(rb"[^?#]*\?([^#]*)", text)
    if not query:
        return []
    spans, at = [], query.start(1)
    for part in query[1].split(b"&"):
        equals = part.find(b"=")
        if equals >= 0:
            spans.append((at + equals + 1, at + len(part)))
        elif part:
            spans.append((at, at + len(part)))
        at += len(part) + 1
    return [span for span in spans if span[1] > span[0]]


def whole(text):
    return [(0, len(text))]


def secret_spans(path, text):
    """Which parts of the string value at this path (below the document's root) are secret."""
    if path[:1] == ("data",):  # a structured CloudEvent
        path = path[1:]
    if path[:1] == ("jobRun",):
        path = path[1:]
    if path == ("results", "signedUrl"):
        return query_values(text) + userinfo(text)
    if path[:1] != ("jobConfigurationSnapshot",):
        return []
    path = path[1:]
    if path in (("proxy",), ("proxy", "url")):
        return userinfo(text)
    if path[:1] != ("sink",):
        return []
    path = path[1:]
    if path in (("accessKeyId",), ("secretAccessKey",), ("sessionToken",)):
        return whole(text)
    if len(path) == 2 and path[0] == "headers":
        return [] if path[1].lower() in OPEN_HEADERS else whole(text)
    if path in (("url",), ("endpoint",)):
        return userinfo(text) + query_values(text)
    return []


def redact(payload):
    out, at = [], 0
    edits = []
    for path, start, end in strings(payload):
        edits += [(start + a, start + b) for a, b in secret_spans(path, payload[start:end])]
    for start, end in sorted(edits):
        out += [payload[at:start], MARK]
        at = end
    return b"".join(out + [payload[at:]])


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
