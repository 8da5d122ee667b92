"""Canary secrets in every place where an event can hold one, everything logged that can be logged, and then a search of all
that the worker leaves behind: nothing is found, except on the wire where it belongs."""
import base64
import os
import re
from pathlib import Path

import events
import model
import rig
from receiver import Receiver
from spellings import distortions, spellings


def canary(name):
    return f"CANARY{name}Zq7w"


class Canary(rig.Case):
    def sinks(self, receiver, store, bucket):
        s3 = {"type": "s3", "bucket": bucket, "accessKeyId": store.access_key, "secretAccessKey": store.secret_key,
              "region": "us-east-1", "endpoint": store.url, "forcePathStyle": True}
        hook = {"type": "webhook", "url": f"http://{canary('User')}:{canary('Pass')}@127.0.0.1:{receiver.port}/ok"
                                          f"?token={canary('Query')}&b={canary('Second')}",
                "headers": {"Authorization": f"Bearer {canary('Bearer')}", "X-Api-Key": canary("Header")}}
        wrong = {**s3, "accessKeyId": canary("AccessKey"), "secretAccessKey": canary("SecretKey"),
                 "sessionToken": canary("Session")}
        echo = f"http://127.0.0.1:{receiver.port}"
        return {
            "delivered webhook": hook,
            "delivered s3": s3,
            "refused s3": wrong,
            "s3 endpoint with userinfo": {**s3, "endpoint": f"http://{canary('EndUser')}:{canary('EndPass')}@127.0.0.1:1?x={canary('EndQuery')}"},
            "webhook that echoes": {**hook, "url": f"{echo}/echo?token={canary('Echoed')}"},
            "s3 that echoes": {**wrong, "endpoint": echo, "secretAccessKey": canary("EchoSecret")},
            "refused webhook": {**hook, "url": f"http://{canary('DeadUser')}@127.0.0.1:1/?q={canary('DeadQuery')}"},
            "bad scheme": {**hook, "url": f"ftp://{canary('FtpUser')}:x@127.0.0.1/?q={canary('FtpQuery')}"},
            "bad header": {**hook, "headers": {"X-Bad": canary("BadHeader") + "\r\nX: y", "Y": canary("Y")}},
            "bad header name": {**hook, "headers": {"X Bad:": canary("BadName")}},
            "unknown type": {"type": "pigeon", "secretAccessKey": canary("Pigeon"), "url": f"http://x/?a={canary('PigeonQ')}"},
            "mistyped": {**s3, "secretAccessKey": canary("Mistyped"), "bucket": 7},
            "missing": {"type": "s3", "accessKeyId": canary("MissKey"), "secretAccessKey": canary("MissSecret")},
            "not an url": {**hook, "url": f"{canary('NoUrl')} ://{canary('NoUrlTwo')}"},
        }

    def records(self, receiver, store, bucket):
        found = []
        for sink in self.sinks(receiver, store, bucket).values():
            one = events.run(sink)
            one["env"] = [{"name": "DB_PASS", "value": canary("Pair")}, {"value": canary("Early"), "key": "api_key"},
                          {"value": {"v": [canary("EarlyInner")]}, "name": "PASSWORD"}]
            one["jobConfigurationSnapshot"]["configuration"]["database"] = (
                f"postgres://u:'{canary('Quote')}@h/p'a,amqp://u:{canary('InPath')}@h/v?a='{canary('QuoteQuery')}")
            one["jobConfigurationSnapshot"]["proxies"] = [f"u:{canary('Listed')}@h:80"]
            one["jobConfigurationSnapshot"]["configuration"]["proxy"] = {
                "server": "h:80", "user": canary("PartUser"), "pass": canary("PartPass")}
            one["jobConfigurationSnapshot"]["proxy"] = {"version": "v1", "url": f"http://u:{canary('Proxy')}@p.example.com"}
            found.append(events.dump(one))
            wrapped = b'{"jobRun":' + events.dump(events.snake_case(one)) + \
                b',"results":{"signed_url":"https://r.example.com/1?X-Amz-Signature=%s"}}' % canary("Signed").encode()
            found.append(wrapped)
            # Escapes, twice over, and a record that breaks off behind its secrets.
            text = events.dump(one, 1)
            found.append(text.replace(b"CANARY", b"\\u0043ANARY").replace(b"://", b":\\/\\/"))
            found.append(text[:-2])
            twice = text.replace(b'"secretAccessKey": "', b'"secretAccessKey": "%s", "secretAccessKey": "' % canary("Twice").encode())
            found.append(twice)
        return found

    def echo(self, handler):
        """An answer made of all that the request held, as S3 would word it."""
        # The secrets first: what is quoted of a message is cut soon.
        names = sorted(handler.headers.keys(), key=lambda name: name.lower() not in ("x-amz-security-token", "authorization"))
        held = " ".join(f"{name}: {handler.headers[name]}" for name in names) + handler.path.replace("&", "&amp;")
        text = (f"<?xml version='1.0'?><Error><Code>{handler.headers.get('x-api-key', 'AccessDenied')}</Code>"
                f"<Message>{held}</Message></Error>").encode()
        handler.send_response(403)
        handler.send_header("content-length", str(len(text)))
        handler.send_header("x-echo", handler.headers.get("authorization", ""))
        handler.end_headers()
        handler.wfile.write(text)

    def left_behind(self, records, store, bucket):
        """All that others can read, but for what the worker said itself: {place: text}."""
        places = {}
        config = str(self.workers[0].config)
        for number, record in enumerate(records):
            explained = rig.runsink("explain", "--framed", "--config", config, input=record)
            places[f"explain {number}"] = explained.stdout + explained.stderr
        for name, arguments in {"check": [], "verify": ["--objects", "--records", "--json"]}.items():
            done = rig.runsink(name, "--config", config, *arguments)
            places[name] = done.stdout + done.stderr
        for topic in self.kafka.topics():
            if topic.startswith(self.topic + "."):
                for record in self.kafka.consume(topic):
                    places[f"{topic}/{record.partition}/{record.offset} headers"] = repr(record.headers).encode() + (record.key or b"")
                    if topic.endswith((".ledger", ".outcomes")):
                        places[f"{topic}/{record.partition}/{record.offset}"] = record.value
        for key, body in store.objects(bucket).items():
            places[f"object {key}"] = body
            places[f"key {key}"] = key.encode()
        return places

    def distort(self, handler):
        """An answer made of the token that came, in forms that no scrubber looks for, wherever an answer can hold something."""
        token = handler.headers.get("x-api-key") or handler.headers.get("x-amz-security-token", "")
        forms = [form.decode() for form in sorted(distortions(token), key=len)]
        code, region = forms[len(self.distorted) % len(forms)], token[::-1].encode().hex()
        self.distorted.append(code)
        if len(self.distorted) % 3 == 0:  # not HTTP: libcurl's words about it are told
            handler.wfile.write(f"HTTP/9.{code} {code}\r\n{code}\r\n\r\n".encode())
            handler.close_connection = True
            return
        text = (f"<Error><Code>{code}</Code><Message>{' '.join(forms)}</Message><Region>{region}</Region>"
                f"<Endpoint>{region}.example.com</Endpoint></Error>").encode()
        handler.send_response(400 if len(self.distorted) % 2 else 403, code)
        for name in ("x-amz-bucket-region", "retry-after", "location", "x-amz-request-id"):
            handler.send_header(name, region)
        handler.send_header("content-length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def named(self, receiver, store, bucket):
        """Runs whose names, in whatever place, are their own secrets, such ones that can't be decoded, and the secrets they are."""
        s3, host = store.sink(bucket), f"http://127.0.0.1:{receiver.port}"
        token = {name: canary(name) for name in ("Path", "Piece", "Query", "Cut", "Encoded", "Dead", "Host", "Member", "Hook",
                                                 "Store", "Prefix", "Bucket", "Endpoint", "Named", "Id", "Part", "When", "Line",
                                                 "Cookie", "Quoted", "Comma", "Digest", "Basic", "Inner", "Unfit", "Spoilt", "Broken")}
        wrong = {**s3, "endpoint": f"{host}/named-store", "sessionToken": canary("Session"), "secretAccessKey": canary("Wrong")}

        def hook(path, secret, base=f"{host}/ok", **more):
            return {"type": "webhook", "url": f"{base}/{path}", "headers": {"X-Api-Key": secret}, **more}

        sinks = [
            hook(token["Path"], token["Path"]), hook(f"a-{token['Piece'].lower()}-b", token["Piece"]),
            hook(f"{token['Query']}?token={token['Query']}", "x"), hook("x" * 155 + token["Cut"], token["Cut"]),
            hook("".join(f"%25{byte:02x}" for byte in token["Encoded"].encode()), token["Encoded"]),
            hook(token["Dead"], token["Dead"], "http://127.0.0.1:1"),
            hook("x", token["Host"], f"http://{token['Host'].upper()}.invalid"),
            hook(token["Member"], "x", signingKey=token["Member"]),
            *[hook("", token["Hook"], f"{host}/distort")] * 6,
            *[{**wrong, "endpoint": f"{host}/distort", "sessionToken": token["Store"]}] * 6,
            *[{**hook(token[name], "x"), "headers": headers} for name, headers in {
                "Cookie": {"Cookie": f"sid={token['Cookie']}; theme=dark"},
                "Quoted": {"Authorization": f'Token token="{token["Quoted"]}"'},
                "Comma": {"Authorization": f"ApiKey id=7,key={token['Comma']}"},
                "Digest": {"X-Sig": f"v1={token['Digest']}"},
                "Basic": {"Authorization": "bASIC " + base64.b64encode(f"u:{token['Basic']}".encode()).decode().rstrip("=")},
            }.items()],
            hook(f"x,http://u:{token['Inner']}@h/", "x"),
            {**wrong, "accessKeyId": token["Prefix"], "prefix": f"x/{token['Prefix']}/"},
            {**wrong, "accessKeyId": token["Bucket"], "bucket": token["Bucket"].lower()},
            {**wrong, "accessKeyId": token["Endpoint"], "endpoint": f"http://{token['Endpoint'].lower()}.invalid"},
            {**s3, "prefix": f"{token['Named']}/", "password": token["Named"]},
            {**hook("", "x"), "headers": {f"Authorization: Bearer {token['Line']}": ""}},
        ]
        runs = [events.run(sink) for sink in sinks]
        for sink in (s3, hook("", "x")):
            mine = {**sink, "password": token["Id"], "more": {"signingKey": token["Part"]}, "privateKey": token["When"]}
            runs.append(events.run(mine, id=token["Id"], workspaceId=f"w-{token['Part']}", projectId=token["Part"], jobId=token["Id"],
                                   updatedAt=token["When"], status=token["Part"]))
        runs.append(events.run({**s3, "more": store.secret_key}, id="x" + store.secret_key))
        unread = [{**events.run(hook("", token[name])), "workspaceId": token[name]} for name in ("Unfit", "Spoilt", "Broken")]
        del unread[0]["status"]
        texts = [events.dump(run) for run in unread]
        texts[1] += b"}"
        texts[2] = texts[2].replace(b'"sink"', b',"sink"')
        return runs, texts, [*token.values(), canary("Session"), canary("Wrong"), store.secret_key]

    def test_no_secret_is_a_name(self):
        """paths, hosts, prefixes, buckets, ids and headers' names that are secrets, and servers that answer by distorted ones"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.distorted = []
        receiver.play("/distort", self.distort)
        receiver.play("/named-store", 403)
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        bucket = store.bucket("named" + rig.unique(""))
        self.kafka.create(self.topic, 1)
        runs, unread, secrets = self.named(receiver, store, bucket)
        records = [events.dump(run) for run in runs]
        records += [events.dump(run, 1) for run in runs[-3:]]  # as a second spelling, and to see that no two share a key
        records += unread
        self.kafka.produce(self.topic, [(b"k", record) for record in records])
        worker = self.worker(self.settings(log__level="info", retry__window__s3="1s", retry__window__webhook="1s"))
        rig.await_("all are settled", 60, self.quiet, worker)
        places = {path: worker.http(path).encode() for path in ("/metrics", "/", "/status.json", "/healthz", "/readyz")}
        self.assertEqual(0, worker.stop(), worker.tail())
        places["log"] = worker.text().encode()
        places.update(self.left_behind(records, store, bucket))
        for arguments in ([], ["--json"]):
            done = rig.runsink("trace", "--config", str(worker.config), canary("Id"), *arguments)
            self.assertIn(b"delivered", done.stdout)
            places[f"trace {arguments}"] = done.stdout + done.stderr
        for request in receiver.requests:
            places[f"body {request.at}"] = request.body

        self.assertGreater(len(self.distorted), 20)
        rig.say(f"{len(secrets)} secrets, {len(self.distorted)} distorted answers, {sum(map(len, places.values()))} bytes searched")
        def forms(place, secret):
            """What is delivered is the tenant's own text: there a secret's value alone is found, as it is spelled."""
            return spellings(secret) if place.startswith(("body ", "explain ", "object ")) else distortions(secret)

        found = {(secret, re.sub(r"[\d.]+", "#", place), text[max(0, text.index(form) - 80):][:200]) for place, text in places.items()
                 for secret in secrets for form in forms(place, secret) if form in text}
        for one in sorted(found)[:12]:
            rig.say(*one)
        self.assertEqual([], sorted({one[:2] for one in found}))
        self.assertEqual(len(records) - len(receiver.to("/ok")) - len(self.dead("tenant") + self.dead("data")), len(store.keys(bucket)),
                         "each has one outcome, and no two objects a key")
        self.assertEqual(4, len(store.keys(bucket)))

    def test_no_secret_leaves(self):
        """canaries in every secret place; logs at trace with librdkafka's debug, dead letters' headers, ledger, metrics"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        receiver.play("/echo", self.echo)
        receiver.play("/" + "canary-bucket", self.echo)
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        bucket = store.bucket("canary-bucket" + rig.unique(""))
        self.kafka.create(self.topic, 1)
        records = self.records(receiver, store, bucket)
        self.kafka.produce(self.topic, [(b"k", record) for record in records])

        places = {}
        for number, fmt in enumerate(("text", "json")):
            self.group = rig.unique("group")
            settings = self.settings(log__level="trace", log__format=fmt, retry__window__s3="1s", retry__window__webhook="1s",
                                     webhook__signing_secrets="whsec_" + base64.b64encode((canary("Signing") * 2).encode()).decode())
            settings["kafka"].update({"debug": "all", "sasl.password": canary("Sasl"), "ssl.key.password": canary("KeyPass")})
            worker = self.worker(settings, env={"RUNSINK_HTTP_CONNECT_TIMEOUT": "2s"})
            self.until_settled(worker)
            rig.await_("retries are over", 30, lambda: len(self.dead("tenant") + self.dead("data")) >= (number + 1) * 20, worker)
            for path in ("/metrics", "/", "/status.json", "/healthz", "/readyz"):
                try:
                    places[f"{fmt} GET {path}"] = worker.http(path).encode()
                except OSError as error:
                    rig.say(f"{path}: {error}")
            memory = Path(f"/proc/{worker.process.pid}/cmdline").read_bytes()
            places[f"{fmt} command line"] = memory
            self.assertEqual(0, worker.stop(), worker.tail())
            places[f"{fmt} log"] = worker.text().encode()
        places.update(self.left_behind(records, store, bucket))
        for request in receiver.requests:
            places[f"body sent to {request.path[:10]} {request.at}"] = request.body

        self.assertTrue(any(b"trace" in text for text in places.values()), "the log was at trace")
        self.assertGreater(len(receiver.to("/ok")), 0)
        wire = "".join(r.path + str(r.headers) for r in receiver.requests)
        self.assertIn(canary("Bearer"), wire)
        self.assertIn(canary("Query"), wire)
        names = sorted({m.decode() for record in records for m in re.findall(rb"CANARY(\w+?)Zq7w", record)} |
                       {"Signing", "Sasl", "KeyPass"})
        rig.say(f"{len(names)} canaries, {len(places)} places, {sum(map(len, places.values()))} bytes searched")
        secrets = [canary(name) for name in names] + [store.secret_key]
        found = [(secret, place, text) for place, text in places.items() for secret in secrets
                 if any(form in text for form in spellings(secret))]
        for secret, place, text in found[:10]:
            at = min(text.index(form) for form in spellings(secret) if form in text)
            rig.say(f"{secret} in {place}: ...{text[max(0, at - 150):at + 60]!r}...")
        self.assertEqual([], sorted({(secret, re.sub(r"[\d.]+", "#", place)) for secret, place, _ in found}))


if __name__ == "__main__":
    rig.main()
