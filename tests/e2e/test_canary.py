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
from spellings import spellings


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
        checked = runsink_check(self)
        places["check"] = checked.stdout + checked.stderr
        for number, record in enumerate(records):
            explained = rig.runsink("explain", "--framed", "--config", self.workers[0].config, input=record)
            places[f"explain {number}"] = explained.stdout + explained.stderr
        for topic in self.kafka.topics():
            if topic.startswith(self.topic + "."):
                for record in self.kafka.consume(topic):
                    places[f"{topic}/{record.partition}/{record.offset} headers"] = repr(record.headers).encode() + (record.key or b"")
                    if topic.endswith(".ledger"):
                        places[f"{topic}/{record.partition}/{record.offset}"] = record.value
        for key, body in store.objects(bucket).items():
            places[f"object {key}"] = key.encode() + body
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


def runsink_check(case):
    return rig.runsink("check", "--config", case.workers[0].config)


if __name__ == "__main__":
    rig.main()
