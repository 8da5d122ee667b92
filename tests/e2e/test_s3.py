"""The S3 sink alone, without Kafka: signed as botocore signs, stored as sent by every server, refused as it should be."""
import base64
import contextlib
import functools
import hashlib
import http.client
import ipaddress
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.auth
import botocore.awsrequest
import botocore.credentials

import netns
import rig

S3PUT = Path(os.environ.get("S3PUT", rig.RUNSINK.parent / "tests/s3put")).resolve()
BASE = {"egress.allow": "127.0.0.0/8", "egress.http": "true"}
KEYS = ["plain.json", "a b/c  d", "a+b", "a=b", "100%", "%2F%20", "(x)", "a&b", "a:b", "a@b", "a?b=c", "a#b", "~tilde",
        "it's", "a,b;c", "a!b$c*d", "é/ü/日本語/🎉", "dots.../..x/x..", "UPPER/lower"]
NAME = "runs/7/100-104"


def run(mode, lines, *arguments):
    done = subprocess.run([S3PUT, mode, *arguments], input="".join(json.dumps(line) + "\n" for line in lines).encode(),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    if b"without libs3" in done.stderr:
        raise unittest.SkipTest("built without libs3")
    assert done.returncode == 0, done.stderr.decode()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    return answers


def put(lines, **settings):
    settings = {**BASE, **{name.replace("__", "."): value for name, value in settings.items()}}
    return run("put", lines, *(f"{name}={value}" for name, value in settings.items()))


_own = None


def services():
    """Those of the whole run, or stores alone."""
    global _own
    if os.environ.get("SERVICES"):
        return rig.services()
    if _own is None:
        dir = tempfile.mkdtemp(prefix="runsink-services-")
        unittest.addModuleCleanup(shutil.rmtree, dir, ignore_errors=True)
        _own = rig.Services(dir, ("s3proxy", "versitygw", "minio"))
    return _own


class Signer(unittest.TestCase):
    def test_as_botocore(self):
        """200 random requests: keys, queries and headers of any kind"""
        rnd = random.Random(20130524)
        anything = [chr(c) for c in range(0x20, 0x7f)] + list("éß日本🎉") + [" ", "+", "%", "/"] * 3
        lines, expected = [], []
        for i in range(200):
            pick = lambda low, high, of=anything: "".join(rnd.choices(of, k=rnd.randint(low, high)))
            key = "/" + pick(1, 40)
            query = {pick(1, 8): pick(0, 8) for _ in range(rnd.choice((0, 0, 1, 4)))}
            names = ["x-amz-meta-" + pick(1, 6, "ab-1") for _ in range(rnd.choice((0, 3, 20)))]
            headers = {name: pick(0, 3, "  ") + "v" + pick(0, 20, "abc  =/,") for name in names}
            if rnd.random() < 0.5:
                headers["x-amz-server-side-encryption"] = "aws:kms"
                headers["x-amz-server-side-encryption-aws-kms-key-id"] = "k"
            method = rnd.choice(("PUT", "GET", "POST"))
            region, body = rnd.choice(("us-east-1", "eu-west-1")), pick(0, 50).encode()
            host = rnd.choice(("example.com", "127.0.0.1:9000", "b.example.com:8443"))
            token = rnd.choice((None, "tok/en+=" + pick(1, 9, "ab")))
            credentials = botocore.credentials.Credentials("AKID" + str(i), pick(1, 70, "abcD/+1"), token)
            path = urllib.parse.quote(key, safe="/-._~")
            request = botocore.awsrequest.AWSRequest(method, f"http://{host}{path}", dict(headers), body, query)
            request.context["payload_signing_enabled"] = True
            botocore.auth.S3SigV4Auth(credentials, "s3", region).add_auth(request)
            sent = {"Host": host, **headers}
            for name in ("X-Amz-Date", "X-Amz-Content-SHA256", "X-Amz-Security-Token"):
                if request.headers.get(name):
                    sent[name] = request.headers[name]
            lines.append({"method": method, "path": key, "query": query, "headers": sent, "region": region,
                          "payload_sha256": hashlib.sha256(body).hexdigest(), "date": request.headers["X-Amz-Date"],
                          "access_key": credentials.access_key, "secret_key": credentials.secret_key})
            expected.append((path, request.headers["Authorization"]))
        for line, answer, (path, authorization) in zip(lines, run("sign", lines), expected):
            self.assertEqual(path, answer["path"])
            self.assertEqual(authorization, answer["authorization"], line)


def on(*names):
    """Runs a test once for each of these servers that is installed."""
    def decorate(test):
        @functools.wraps(test)
        def each(self):
            stores = [store for store in map(services().store, names) if store]
            if not stores:
                self.skipTest(f"none of {', '.join(names)} is installed")
            for store in stores:
                with self.subTest(store=store.name):
                    test(self, store)
        return each
    return decorate


class Stores(unittest.TestCase):
    """Real servers, each as strict in its own way."""

    def check_objects(self, store, bucket, keys, answers):
        for key, answer in zip(keys, answers):
            self.assertEqual("ok", answer["verdict"], (key, answer))
            got = store.root.get_object(Bucket=bucket, Key=key)
            body = json.dumps({"key": key}).encode()
            self.assertEqual(body, got["Body"].read())
            self.assertEqual("application/json", got["ContentType"])
            self.assertEqual({"topic": "runs", "partition": "7", "offsets": "100-104", "count": "5",
                              "sha256": hashlib.sha256(body).hexdigest()}, got["Metadata"])
        self.assertEqual(sorted(keys), sorted(store.keys(bucket)))

    @on("versitygw", "minio", "s3proxy")
    def test_what_is_sent_is_stored(self, store):
        """keys of any kind, the bytes and the metadata, read back by botocore"""
        bucket = store.bucket(rig.unique("keys"))
        sink = store.sink(bucket)
        answers = put([{"sink": sink, "key": key, "body": json.dumps({"key": key})} for key in KEYS])
        self.check_objects(store, bucket, KEYS, answers)
        self.assertEqual(200, answers[0]["status"])

    @on("minio", "s3proxy")
    def test_signature_v2(self, store):
        """the same through libs3, for endpoints that are listed; a key with a space is refused"""
        keys = [key for key in KEYS if " " not in key]
        bucket = store.bucket(rig.unique("vtwo"))
        sink = store.sink(bucket)
        lines = [{"sink": sink, "key": key, "body": json.dumps({"key": key})} for key in keys]
        listed = {"s3__sigv2_endpoints": store.url, "egress__http": "false"}
        self.check_objects(store, bucket, keys, put(lines, **listed))
        big = "x" * 3000000
        answers = put([{"sink": sink, "key": "a b", "body": "x"},
                       {"sink": sink, "key": "big", "body": big},
                       {"sink": {**sink, "secretAccessKey": "wrong-secret"}, "key": "x", "body": "x"},
                       {"sink": {**sink, "bucket": "no-such-bucket"}, "key": "x", "body": "x"},
                       {"sink": sink, "key": "y", "body": "x", "cancel": True}], **listed)
        self.assertEqual(("permanent", "key-has-space"), (answers[0]["verdict"], answers[0]["why"]))
        self.assertEqual("ok", answers[1]["verdict"])
        self.assertEqual(big.encode(), store.get(bucket, "big"))
        self.assertEqual(("permanent", "SignatureDoesNotMatch", 403, True),
                         tuple(answers[2][name] for name in ("verdict", "why", "status", "credential")))
        self.assertEqual(("permanent", "NoSuchBucket", 404, True),
                         tuple(answers[3][name] for name in ("verdict", "why", "status", "credential")))
        self.assertEqual(("retry", "cancelled"), (answers[4]["verdict"], answers[4]["why"]))

    @on("versitygw", "minio", "s3proxy")
    def test_refusals(self, store):
        """wrong secret, unknown key id, missing bucket; nothing of a credential comes out"""
        bucket = store.bucket(rig.unique("refuse"))
        sink = store.sink(bucket)
        cases = [({"secretAccessKey": "canary-secret-key"}, "SignatureDoesNotMatch"),
                 ({"accessKeyId": "canary-key-id"}, "InvalidAccessKeyId"),
                 ({"bucket": "no-such-bucket"}, "NoSuchBucket")]
        answers = put([{"sink": {**sink, **change}, "key": "x", "body": "x"} for change, _ in cases])
        for (change, why), answer in zip(cases, answers):
            self.assertEqual(("permanent", "tenant", why, True),
                             tuple(answer[name] for name in ("verdict", "fault", "why", "credential")), answer)
            self.assertNotIn("canary", json.dumps(answer))
        self.assertEqual([], store.keys(bucket))

    @on("versitygw", "minio")
    def test_wrong_region(self, store):
        """a store that names its region is believed once; the object arrives"""
        bucket = store.bucket(rig.unique("region"))
        answers = put([{"sink": store.sink(bucket, region="eu-south-2"), "key": f"k{i}", "body": "x"} for i in range(3)])
        self.assertEqual([("ok", 200)] * 3, [(a["verdict"], a["status"]) for a in answers], answers)
        self.assertEqual(["k0", "k1", "k2"], sorted(store.keys(bucket)))

    @on("versitygw", "minio")
    def test_configured_headers(self, store):
        """checksums, tags and object lock, where the store knows them"""
        bucket = store.bucket(rig.unique("headers"), ObjectLockEnabledForBucket=True)
        sink = store.sink(bucket)
        for checksum in ("sha256", "crc32"):
            answer, = put([{"sink": sink, "key": checksum, "body": "body"}], s3__checksum=checksum,
                          s3__tagging="team=audit&x=y", s3__lock_mode="GOVERNANCE", s3__lock_days=1)
            self.assertEqual("ok", answer["verdict"], answer)
            head = store.root.head_object(Bucket=bucket, Key=checksum, ChecksumMode="ENABLED")
            self.assertIn(f"Checksum{checksum.upper()}", head)
            self.assertEqual("GOVERNANCE", head["ObjectLockMode"])
            self.assertEqual("00:00:00", head["ObjectLockRetainUntilDate"].strftime("%H:%M:%S"))
            tags = store.root.get_object_tagging(Bucket=bucket, Key=checksum)["TagSet"]
            self.assertEqual({"team": "audit", "x": "y"}, {tag["Key"]: tag["Value"] for tag in tags})

    @on("versitygw", "minio")
    def test_retention_by_default(self, store):
        """a bucket that locks every object takes none without Content-MD5 or a checksum"""
        bucket = store.bucket(rig.unique("worm"), ObjectLockEnabledForBucket=True)
        store.root.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}})
        answer, = put([{"sink": store.sink(bucket), "key": "kept", "body": "body"}])
        self.assertEqual("ok", answer["verdict"], answer)
        if store.name == "minio":  # versitygw tells of no retention that it gave by itself
            self.assertEqual("GOVERNANCE", store.head(bucket, "kept")["ObjectLockMode"])

    def test_content_md5(self):
        """stands in each PUT, unless configuration asks for another checksum; no other digest fits it"""
        Peer.seen, Peer.answers = [], {"bucket": (200, {"ETag": '"0"'}, "")}
        server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        sink = {"type": "s3", "bucket": "bucket", "region": "us-east-1", "accessKeyId": "key", "secretAccessKey": "secret",
                "endpoint": f"http://127.0.0.1:{server.server_port}", "forcePathStyle": True}
        put([{"sink": sink, "key": "k", "body": body} for body in ("", "x" * 100000)])
        put([{"sink": sink, "key": "k", "body": "x"}], s3__checksum="crc32")
        wanted = [base64.b64encode(hashlib.md5(body).digest()).decode() if len(body) != 1 else None
                  for _, _, body in Peer.seen]
        self.assertEqual(wanted, [headers["Content-MD5"] for _, headers, _ in Peer.seen])
        self.assertEqual(3, len(wanted))

    @on("minio")
    def test_region_of_any_name(self, store):
        """with an endpoint the region is only signed; a store's own name for it is learned whatever it looks like"""
        bucket = store.bucket(rig.unique("named"))
        for region in ("RegionOne", "us_east_1", "us-east-1"):
            answer, = put([{"sink": store.sink(bucket, region=region), "key": region, "body": "x"}])
            self.assertEqual("ok", answer["verdict"], (region, answer))

    @on("versitygw", "minio", "s3proxy")
    def test_secrets_of_any_characters(self, store):
        """a blank and characters beyond ASCII are signed as they are: refused by the store alone, for being wrong"""
        bucket = store.bucket(rig.unique("secrets"))
        for secret in ("two words", "schl\u00fcssel", " leading"):
            answer, = put([{"sink": store.sink(bucket, secret_key=secret), "key": "k", "body": "x"}])
            self.assertEqual(("permanent", "SignatureDoesNotMatch"), (answer["verdict"], answer["why"]), answer)

    @on("versitygw")
    def test_right_secrets_of_any_characters(self, store):
        bucket = store.bucket(rig.unique("secrets"))
        for number, secret in enumerate(("two words", "schl\u00fcssel \u9375")):
            name = f"user-{number}-{rig.unique('x')}"
            store.tenant(name, secret)
            store.admin("change-bucket-owner", "--bucket", bucket, "--owner", name)
            answer, = put([{"sink": store.sink(bucket, name, secret), "key": name, "body": "x"}])
            self.assertEqual("ok", answer["verdict"], answer)

    @on("versitygw", "minio")
    def test_key_id_of_sse_kms(self, store):
        """two header names of which one begins with the other: signed rightly, whatever the store thinks of KMS"""
        bucket = store.bucket(rig.unique("kms"))
        answer, = put([{"sink": store.sink(bucket), "key": "x", "body": "x"}], s3__sse="aws:kms", s3__sse_kms_key_id="k")
        self.assertNotIn("Signature", answer["why"])
        self.assertNotEqual(403, answer["status"])

    @on("minio")
    def test_session_token(self, store):
        """temporary credentials"""
        bucket = store.bucket(rig.unique("sts"))
        sts = store.client(store.access_key, store.secret_key, "sts")
        got = sts.assume_role(RoleArn="arn:xxx:xxx:xxx:xxxx", RoleSessionName="session")["Credentials"]
        sink = store.sink(bucket, got["AccessKeyId"], got["SecretAccessKey"], sessionToken=got["SessionToken"])
        answers = put([{"sink": sink, "key": "x", "body": "x"},
                       {"sink": {**sink, "sessionToken": got["SessionToken"][:-4] + "AAAA"}, "key": "y", "body": "x"}])
        self.assertEqual("ok", answers[0]["verdict"], answers[0])
        self.assertEqual(("permanent", True), (answers[1]["verdict"], answers[1]["credential"]), answers[1])

    @on("versitygw", "minio")
    def test_signer_with_metadata_and_query(self, store):
        """20 x-amz-meta headers, ?uploads= and a list query, signed by us and sent by Python"""
        bucket = store.bucket(rig.unique("signer"))
        host = urllib.parse.urlsplit(store.url).netloc
        meta = {f"x-amz-meta-{'m' * (i + 1)}": f"v  {i}" for i in range(20)}
        empty = hashlib.sha256(b"").hexdigest()
        cases = [("PUT", "/x y", {}, meta), ("POST", "/x", {"uploads": ""}, {}),
                 ("GET", "", {"list-type": "2", "prefix": "x y", "delimiter": "/"}, {})]
        for method, key, query, headers in cases:
            date = botocore.auth.get_current_datetime().strftime("%Y%m%dT%H%M%SZ")
            headers = {"Host": host, "x-amz-date": date, "x-amz-content-sha256": empty, **headers}
            signed, = run("sign", [{"method": method, "path": f"/{bucket}{key}", "query": query, "headers": headers,
                                    "region": "us-east-1", "payload_sha256": empty, "date": date,
                                    "access_key": store.access_key, "secret_key": store.secret_key}])
            connection = http.client.HTTPConnection(host)
            connection.request(method, signed["path"] + ("?" + signed["query"] if query else ""), b"",
                               {**headers, "Authorization": signed["authorization"]})
            answer = connection.getresponse()
            self.assertEqual(200, answer.status, (method, key, answer.read()))
            connection.close()
        self.assertEqual(20, len(store.head(bucket, "x y")["Metadata"]))


class Peer(BaseHTTPRequestHandler):
    """Answers as the first segment of the path says, and counts."""
    protocol_version = "HTTP/1.1"
    answers = {}
    seen = []

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.split("/")[1]
        type(self).seen.append((name, self.headers, body))
        status, headers, text = self.answers[name]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Misbehaviour(unittest.TestCase):
    """Stores that answer strangely, or not at all."""

    def setUp(self):
        Peer.seen = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def sink(self, name, url=None, **more):
        return {"type": "s3", "bucket": "bucket", "region": "us-east-1", "accessKeyId": "canary-key",
                "secretAccessKey": "canary-secret", "endpoint": f"{url or self.url}{'/' + name if name else ''}",
                "forcePathStyle": True, **more}

    def test_answers(self):
        other = "http://127.0.0.1:1/"
        Peer.answers = {
            "error200": (200, {}, "<Error><Code>InternalError</Code><Message>we</Message></Error>"),
            "echo": (403, {}, "<Error><Code>AccessDenied</Code><Message>canary-secret of canary-key</Message></Error>"),
            "slow": (503, {"Retry-After": "7"}, "<Error><Code>SlowDown</Code></Error>"),
            "moved": (301, {"Location": other}, "<Error><Code>PermanentRedirect</Code><Endpoint>evil.test</Endpoint></Error>"),
            "temporary": (307, {"Location": other}, ""),
            "teapot": (418, {}, "no xml"),
            "flipping": (400, {"x-amz-bucket-region": "eu-west-1"}, "<Error><Code>AuthorizationHeaderMalformed</Code></Error>"),
            "created": (201, {"ETag": '"0"'}, ""),
            "named": (200, {"x-amz-request-id": "0"}, ""),
            "html-of-nothing": (200, {"ETag": '"0"', "Content-Type": "text/html; charset=UTF-8"}, ""),
            "parked-domain": (200, {}, ""),
        }
        want = {"error200": ("retry", "InternalError"), "echo": ("permanent", "AccessDenied"), "slow": ("retry", "SlowDown"),
                "moved": ("permanent", "PermanentRedirect"), "temporary": ("permanent", "http-307"),
                "teapot": ("permanent", "http-418"), "flipping": ("permanent", "AuthorizationHeaderMalformed"),
                "created": ("ok", ""), "named": ("ok", ""), "html-of-nothing": ("ok", ""),
                "parked-domain": ("retry", "not-a-store")}
        answers = put([{"sink": self.sink(name), "key": "k", "body": "x"} for name in want])
        self.assertEqual(want, {name: (a["verdict"], a["why"]) for name, a in zip(want, answers)})
        self.assertNotIn("canary", json.dumps(answers))
        seen = [name for name, _, _ in Peer.seen]
        self.assertEqual(sorted([*want, "flipping"]), sorted(seen))  # the hint was followed once, no redirect was
        scopes = [headers["Authorization"].split("/")[2] for name, headers, _ in Peer.seen if name == "flipping"]
        self.assertEqual(["us-east-1", "eu-west-1"], scopes)

    def test_what_is_no_store(self):
        """a 2xx with an ETag is a store's when nothing else is in it; by either signature"""
        def said(text="", status="200 OK", etag='"9"', kind="", length=None):
            kind = f"Content-Type: {kind}\r\n" if kind else ""
            return f"HTTP/1.1 {status}\r\n{kind}ETag: {etag}\r\nContent-Length: {length or len(text)}\r\n\r\n{text}".encode()

        no, late = ("retry", "not-a-store"), ("retry", "InternalError")
        code = "<Code>InternalError</Code>"
        plays = {
            "sign-in": (said("<html>Sign in</html>", etag='W/"0"', kind="Text/HTML; charset=utf-8"), no),
            "json": (said('{"ok":true}', etag='W/"b-Ai2R8hgEarLmHKwesT1qcY913ys"', kind="application/json; charset=utf-8"), no),
            "json-error": (said('{"error":"unauthorized"}', etag='W/"9"', kind="application/json"), no),
            "json-of-nothing": (said(etag='W/"0-2jmj7l5rSw0yVb/vlWAYkK/YBwk"'), no),
            "xhtml": (said("<html></html>", kind="application/xhtml+xml"), no),
            "untyped-page": (said("<html></html>"), no),
            "page-until-close": (b"HTTP/1.1 200 OK\r\nETag: \"9\"\r\n\r\n<html></html>", no),
            "page-in-chunks": (b"HTTP/1.1 200 OK\r\nETag: \"9\"\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n<html></html>\r\n0\r\n\r\n", no),
            "plain": (said("login", etag='"5-abc"', kind="text/plain"), no),
            "response": (said(f"<ErrorResponse><Error>{code}</Error></ErrorResponse>", kind="application/xml"), no),
            "comment": (said(f"<!-- c --><Error>{code}</Error>", kind="application/xml"), late),
            "prefix": (said("<s3:Error><s3:Code>InternalError</s3:Code></s3:Error>", kind="application/xml"), late),
            "prefix-of-error": (said(f"<s3:Error>{code}</s3:Error>", kind="application/xml"), late),
            "page-that-is-late": (said(kind="text/html", length=300), no),
            "page-without-length": (b"HTTP/1.1 200 OK\r\nETag: \"9\"\r\nContent-Type: Text/HTML\r\n\r\n", no),
            "accepted": (said(status="202 Accepted"), no),
            "partial": (said(status="206 Partial Content"), no),
            "empty-etag": (said(etag='""'), no),
            "blank": (said("\r\n"), ("ok", "")),
            "nothing": (said(status="204 No Content"), ("ok", "")),
        }
        url = self.raw({name: answer for name, (answer, _) in plays.items()})
        lines = [{"sink": self.sink("", url), "key": name, "body": "xyz"} for name in plays]
        for settings in ({}, {"s3__sigv2_endpoints": url}):
            with self.subTest(**settings), contextlib.suppress(unittest.SkipTest):
                self.assertEqual({name: want for name, (_, want) in plays.items()},
                                 {name: (answer["verdict"], answer["why"]) for name, answer in zip(plays, put(lines, **settings))})

    def test_a_body_that_does_not_come(self):
        """a success has none, so nothing depends on how it ends, however it is announced"""
        for frame in (b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n", b""):
            held = threading.Event()
            self.addCleanup(held.set)
            url = self.raw({"k": b"HTTP/1.1 200 OK\r\nETag: \"9\"\r\n" + frame + b"\r\n"}, held)
            for answer in self.both(url, http__answer_wait="100ms"):
                self.assertEqual(("ok", ""), (answer["verdict"], answer["why"]), frame)

    def both(self, url, **settings):
        """The outcome by way of V4 and, where it is built in, by way of V2."""
        line = [{"sink": self.sink("", url), "key": "k", "body": "xyz"}]
        answers = put(line, **settings)
        with contextlib.suppress(unittest.SkipTest):
            answers += put(line, s3__sigv2_endpoints=url, **settings)
        return answers

    def test_redirects_are_not_followed(self):
        Peer.answers = {"bucket": (307, {"Location": self.url + "/other"}, "")}
        answers = self.both(self.url)
        for answer in answers:
            self.assertEqual(("permanent", "http-307"), (answer["verdict"], answer["why"]))
        self.assertEqual(["bucket"] * len(answers), [name for name, _, _ in Peer.seen])

    def test_no_connection(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))  # bound, not listening: refused
            for answer in self.both(f"http://127.0.0.1:{s.getsockname()[1]}"):
                self.assertEqual(("retry", "tenant", "refused"), (answer["verdict"], answer["fault"], answer["why"]))

    def test_no_answer(self):
        with socket.create_server(("127.0.0.1", 0)) as s:
            for answer in self.both(f"http://127.0.0.1:{s.getsockname()[1]}", http__timeout="500ms"):
                self.assertEqual("retry", answer["verdict"], answer)
                self.assertIn("timeout", answer["why"])

    def raw(self, plays, held=None):
        """A server that says plays[the key] to a PUT, and ends the connection, if need be once it is no longer held."""
        def answer(one):
            said = b""
            while not said.endswith(b"\r\n\r\nxyz"):
                said += one.recv(65536)
                if said.endswith(b"\r\n\r\n") and b"100-continue" in said:  # libs3 does ask
                    one.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            one.sendall(plays[said.split()[1].decode().rpartition("/")[2]])
            if held:
                held.wait()
            time.sleep(0.05)  # it is read before the end comes
            one.shutdown(socket.SHUT_WR)
            one.recv(1)

        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        netns.serve(listener, answer)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def test_answers_that_end_early(self):
        """a success needs its head, whole, and no more; an error has its status, and its code where its body came so far"""
        ok = b"HTTP/1.1 200 OK\r\nETag: \"e\"\r\n"
        bad = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 500\r\n"
        plays = {
            "status-line": (b"HTTP/1.1 200 OK\r\n", ("retry", "truncated")),
            "status-part": (b"HTTP/1.1 200", ("retry", None)),
            "head-cut": (ok + b"Content-Length: 0\r\n", ("retry", "truncated")),
            "head-cut-100": (ok + b"Content-Length: 100\r\n", ("retry", "truncated")),
            "interim-only": (b"HTTP/1.1 100 Continue\r\nETag: \"e\"\r\n\r\n", ("retry", None)),
            "nothing": (b"", ("retry", None)),
            "error-head-cut": (bad, ("retry", "truncated")),
            "whole": (ok + b"Content-Length: 0\r\n\r\n", ("ok", "")),
            "none-of-100": (ok + b"Content-Length: 100\r\n\r\n", ("ok", "")),
            "until-close": (ok + b"\r\n", ("ok", "")),
            "no-chunk": (ok + b"Transfer-Encoding: chunked\r\n\r\n", ("ok", "")),
            "chunk-cut": (ok + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", ("retry", "not-a-store")),
            "error-in-200": (ok + b"Content-Length: 46\r\n\r\n<Error><Code>InternalError</Code></Error>      ", ("retry", "InternalError")),
            "page": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ("retry", "not-a-store")),
            "error-body-cut": (bad + b"\r\n<Error><Code>AccessDenied</Code>", ("permanent", None)),
            "error-no-body": (bad + b"\r\n", ("permanent", "http-403")),
            "folded": (b"HTTP/1.1 200 OK\r\n folded: first\r\nContent-Length: 0\r\n\r\n", ("retry", None)),
        }
        url = self.raw({name: said for name, (said, _) in plays.items()})
        lines = [{"sink": self.sink("", url), "key": name, "body": "xyz"} for name in plays]
        for settings in ({}, {"s3__sigv2_endpoints": url}):
            with self.subTest(**settings), contextlib.suppress(unittest.SkipTest):
                got = {line["key"]: answer for line, answer in zip(lines, put(lines, **settings))}
                self.assertEqual({name: (verdict, why or got[name]["why"]) for name, (_, (verdict, why)) in plays.items()},
                                 {name: (answer["verdict"], answer["why"]) for name, answer in got.items()})
                self.assertEqual({"none", "tenant"}, {answer["fault"] for answer in got.values()})

    def test_denied_when_the_socket_opens(self):
        """a name that leads to loopback, which nothing but the check on the address can tell"""
        for name in ("localhost.localdomain", "ip6-loopback", socket.gethostname()):
            try:
                found = {info[4][0] for info in socket.getaddrinfo(name, 80)}
            except OSError:
                continue
            if found and all(ipaddress.ip_address(address).is_private for address in found):
                break
        else:
            self.skipTest("no name but localhost leads to this machine here")
        url = f"http://{name}:{self.server.server_port}"
        Peer.answers = {"bucket": (200, {}, "")}
        for answer in self.both(url, egress__allow="203.0.113.0/24"):
            self.assertEqual(("permanent", "egress-denied"), (answer["verdict"], answer["why"]), answer)
        self.assertEqual([], Peer.seen)


if __name__ == "__main__":
    if not S3PUT.exists():
        raise SystemExit(f"{S3PUT} isn't built: run scripts/build")
    unittest.main(verbosity=2)
