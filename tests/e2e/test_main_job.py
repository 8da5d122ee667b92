"""The main job on real services: 10,000 events of every framing, spelling, sink and outcome, from six partitions, each
accounted for by independent judges."""
import json
import os
import random
import unittest
from collections import Counter, defaultdict

import events
import model
import rig
from receiver import Receiver

COUNT = int(os.environ.get("EVENTS", "10000"))
PARTITIONS = 6
SIGNING_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STATUSES = ("CANCELED", "PENDING", "PAUSED", "PAUSING", "RESUMING", "SUCCESS", "FAILURE", "TERMINATED", "COMPLETED",
            "ARCHIVED")  # the last one is not in the model yet: it is accepted


class Place:
    """A destination with its credentials, and what must be found there in the end."""

    def __init__(self, name, sink, store=None, bucket=None, client=None):
        self.name, self.sink, self.store, self.bucket, self.client = name, sink, store, bucket, client
        self.objects = {}


class Made:
    """One event and what has to become of it."""

    def __init__(self, value, headers=(), outcome="dead", fault="data", why="", place=None, payload=None, run=None, hook=None):
        self.value, self.headers, self.outcome, self.fault, self.why = value, headers, outcome, fault, why
        self.place, self.payload, self.run, self.hook = place, payload, run, hook
        self.partition = self.offset = None


def decorate(rng, run):
    """Things a re-serialising worker would destroy."""
    run["big"] = {"@": "9007199254740993"}
    run["huge"] = {"@": "1e400"}
    run["zero"] = {"@": "-0.0"}
    run["unknown \u00e9\u4e2d\u6587 field"] = ["\u2028", "a/b", {"accessKeyId": "not a secret here"}]
    run["error"] = rng.choice([None, {"message": "quote \" slash / back \\ tab \t", "code": "brand-new-code",
                                      "category": "billing", "details": {"deep": [1, 2, {"x": None}]}}])
    run["workspaceId"] = rng.choice(["workspace-1", "w/../x", "w s+p%41=&", "."])
    run["projectId"] = rng.choice(["project-1", "pr\u00f6jekt \u4e2d\u6587"])
    items = list(run.items())
    rng.shuffle(items)
    return dict(items)


def deliverable(rng, place, framing, event_id):
    status = rng.choice(STATUSES)
    sink = dict(place.sink)
    if rng.random() < 0.3 and status != "FAILURE":
        sink["skipOnFail"] = True
    if rng.random() < 0.2:
        sink["apisToSend"] = ["api1", "api2"]
    run = decorate(rng, events.run(sink, status))
    if rng.random() < 0.2:
        run["jobConfigurationSnapshot"]["proxy"] = rng.choice(
            ["http://proxyuser:proxypass@proxy.example.com:8080", {"version": "v1", "url": "http://u@p.example.com"}])
    if rng.random() < 0.5:
        run = events.snake_case(run)
        if rng.random() < 0.2:  # both spellings, in agreement
            run["jobId"] = run["job_id"]
    if rng.random() < 0.1:
        snapshot = run.get("jobConfigurationSnapshot") or run["job_configuration_snapshot"]
        snapshot["sink"] = {events.snake(k) if k != "headers" else k: v for k, v in snapshot["sink"].items()}
    text = events.dump(run, rng.randrange(3))
    value, headers, payload = events.frame(framing, text, event_id)
    return Made(value, headers, "delivered", None, "", place, payload, run, events.webhook_id(run, framing, event_id))


def undeliverable(rng, place):
    """One of everything that is skipped or dead."""
    def text(run, style=0):
        return events.dump(run, style)

    good = events.run(dict(place.sink), id="dead-" + str(rng.random()))
    missing = {k: v for k, v in good.items() if k != rng.choice(["id", "workspaceId", "status", "updatedAt"])}
    missing.pop("jobId", None)
    two = text(good)[:-1] + b',"status":"FAILURE","job_id":"another"}'
    snapshot = text(good["jobConfigurationSnapshot"])
    other = text({"sink": {**place.sink, "bucket": "other", "url": "http://127.0.0.1:9/other"}})
    dead = [
        (b"this is not JSON", "data"), (text(good)[:-20], "data"), (text(missing), "data"), (two, "data"),
        (text(good).replace(b"SCHEDULED", b"SCHEDU\xff\xfeLED"), "data"),
        (text({**good, "payloads": "many"}), "data"), (text({**good, "id": 7}), "data"),
        (text({**good, "id": ""}), "data"), (text([good]), "data"), (b'"just a string"', "data"),
        (b"Obj\x01\x02avro.schema", "data"), (b"\x00\x00\x00\x00\x07\x0eavro\x02", "data"),
        (b"\x0a\x24protobuf\x12\x04abcd", "data"), (text(good) + b"{}", "data"),
        (text(good).replace(snapshot, snapshot[:-1] + b"," + other[1:]), "data"),
        (text({**good, "jobConfigurationSnapshot": {"sink": {**place.sink, "type": "carrier-pigeon"}}}), None),
        (text({**good, "jobConfigurationSnapshot": {"sink": {"bucket": "b"}}}), None),
        (text({**good, "jobConfigurationSnapshot": {"sink": {"type": "s3", "bucket": "b", "region": "r"}}}), None),
        (text({**good, "jobConfigurationSnapshot": {"sink": "s3://bucket"}}), None),
        (text({**good, "jobConfigurationSnapshot": None}), "data"),
    ]
    skipped = [
        (None, "tombstone"), (text(events.run()), "no-sink"), (text(events.run(None)), "no-sink"),
        (text(events.snake_case(events.run({**place.sink, "skipOnFail": True}, "FAILURE"))), "skipOnFail"),
    ]
    if rng.random() < 0.5:
        value, why = rng.choice(skipped)
        return Made(value, (), "skipped", None, why)
    value, fault = rng.choice(dead)
    return Made(value, (), "dead", fault)


class MainJob(rig.Case):
    def places(self):
        services = rig.services()
        found = []
        for name in ("versitygw", "s3proxy", "minio"):
            store = services.store(name)
            if store is None:
                rig.say(f"{name} is not installed: left out")
                continue
            for tenant in ("a", "b", "c") if name == "versitygw" else ("d",):
                bucket, access, secret = rig.unique("main-" + tenant), store.access_key, store.secret_key
                if name == "versitygw":
                    access, secret = rig.unique("AK" + tenant), rig.unique("secret/+" + tenant)
                    store.tenant(access, secret)
                store.bucket(bucket, access if name == "versitygw" else None)
                token = {}
                if name == "minio":  # temporary credentials, which come with a session token
                    given = store.client(access, secret, service="sts").assume_role(
                        RoleArn="arn:aws:iam::1:role/any", RoleSessionName="runsink-test")["Credentials"]
                    access, secret, token = given["AccessKeyId"], given["SecretAccessKey"], {"sessionToken": given["SessionToken"]}
                prefix = {"a": "", "b": "pre fix/", "c": "dt=1/\u00e9+%&/", "d": "p/"}[tenant]
                found.append(Place(f"{name}/{tenant}", store.sink(bucket, access, secret, prefix=prefix, **token), store,
                                   bucket, store.client(access, secret, token=token.get("sessionToken"))))
            if name == "s3proxy":
                # The same server by another name is the endpoint that knows Signature Version 2 only.
                self.sigv2 = store.url.replace("127.0.0.1", "localhost")
                bucket = store.bucket(rig.unique("main-v2"))
                found.append(Place("s3proxy/v2", {**store.sink(bucket, prefix="v2/"), "endpoint": self.sigv2}, store, bucket))
        self.receiver = Receiver(SIGNING_SECRET)
        self.addCleanup(self.receiver.close)
        for tenant in ("e", "f"):
            found.append(Place(f"webhook/{tenant}", {
                "type": "webhook", "url": f"{self.receiver.url}/hook/{tenant}?token=query-secret-{tenant}",
                "headers": {"Content-Type": "application/json", "Authorization": f"Bearer header-secret-{tenant}"}}))
        return found

    def make(self):
        """Partition -> [(headers, [Made])] in the order of production."""
        rng = random.Random(20240101)
        batches = defaultdict(list)  # (partition, framing) -> one run of kcat, with one set of headers
        singles = []
        for i in range(COUNT):
            partition = i % PARTITIONS
            if i % 5 == 4:
                batches[partition, "bare"].append(undeliverable(rng, rng.choice(self.all)))
                continue
            place = self.all[i % len(self.all)]
            framing = events.FRAMINGS[rng.randrange(len(events.FRAMINGS))]
            alone = framing in ("ce-binary", "outbox") and place.store is None
            if alone and len(singles) >= 60:
                framing, alone = "ce-structured", False
            event_id = f"evt-{framing}-{i if alone or framing == 'ce-structured' else partition}"
            made = deliverable(rng, place, framing, event_id)
            if alone:
                singles.append((partition, made))
            else:
                batches[partition, framing].append(made)
        production = [(partition, batch[0].headers, batch) for (partition, _), batch in batches.items()]
        production += [(partition, made.headers, [made]) for partition, made in singles]
        return production

    def produce(self, production):
        ends = Counter()
        for partition, headers, batch in production:
            self.kafka.produce(self.topic, [(b"key-%d" % i, made.value) for i, made in enumerate(batch)], partition, headers)
            for made in batch:
                made.partition, made.offset = partition, ends[partition]
                ends[partition] += 1
        return [made for _, _, batch in production for made in batch]

    def test_every_event_is_accounted_for(self):
        """10,000 events, every framing, sink and outcome"""
        self.all = self.places()
        self.kafka.create(self.topic, PARTITIONS)
        every = self.produce(self.make())
        stored = {(r.partition, r.offset): r.value for r in self.kafka.consume(self.topic)}
        self.assertEqual(stored, {(m.partition, m.offset): m.value for m in every}, "what kcat produced")
        rig.say(f"{len(every)} events produced: " + ", ".join(f"{n} {o}" for o, n in Counter(m.outcome for m in every).items()))

        worker = self.worker(self.settings(s3__sigv2_endpoints=self.sigv2, webhook__signing_secrets=SIGNING_SECRET,
                                           window__grace="10s", lanes=2), "--until-end")
        self.assertExit(0, worker, 300)
        rig.say("run --until-end ended with 0")

        self.assertTrue(self.kafka.settled(self.group, self.topic), "committed offsets equal the ends")
        self.check_objects(every)
        self.check_webhooks(every)
        self.check_dead(every)
        self.check_parked()
        self.check_secrets(worker)

    def check_objects(self, every):
        for made in every:
            if made.outcome == "delivered" and made.place.store:
                key = model.object_key(made.run, made.place.sink["prefix"], made.partition, made.offset)
                made.place.objects[key] = made
        for place in self.all:
            if place.store is None:
                continue
            found = set(place.store.keys(place.bucket, place.client))
            self.assertEqual(set(place.objects), found, f"keys in {place.name}")
            sink = place.sink
            for key, body in place.store.bodies(place.bucket, place.objects, sink["accessKeyId"], sink["secretAccessKey"],
                                                sink.get("sessionToken")):
                self.assertEqual(model.redact(place.objects[key].payload), body, f"{place.name} {key}")
            key, made = next(iter(place.objects.items()))
            if not place.name.endswith("/v2"):
                meta = place.store.head(place.bucket, key)["Metadata"]
                self.assertEqual(meta.get("sha256"), rig.sha256(model.redact(made.payload)), f"x-amz-meta-* of {place.name}: {meta}")
                self.assertEqual(meta.get("partition"), str(made.partition), f"x-amz-meta-* of {place.name}: {meta}")
            rig.say(f"{place.name}: {len(place.objects)} objects, every key and every byte as expected")

    def check_webhooks(self, every):
        expected = Counter((m.place.sink["url"].partition("?")[0].removeprefix(self.receiver.url), m.hook,
                            model.redact(m.payload)) for m in every if m.outcome == "delivered" and not m.place.store)
        got = Counter((r.path.partition("?")[0], r.headers.get("webhook-id"), r.body) for r in self.receiver.requests)
        self.assertEqual([], (expected - got).most_common(3), "missing requests")
        self.assertEqual([], (got - expected).most_common(3), "requests too many")
        self.assertEqual([], self.receiver.bad_signatures[:3])
        for request in self.receiver.requests:
            tenant = request.path[len("/hook/")]
            self.assertEqual(f"Bearer header-secret-{tenant}", request.headers["authorization"])
            self.assertEqual(f"/hook/{tenant}?token=query-secret-{tenant}", request.path)
            self.assertEqual("application/json", request.headers["content-type"])
        rig.say(f"webhooks: {len(self.receiver.requests)} requests, each signature verified")

    def check_dead(self, every):
        letters = {}
        for fault in ("tenant", "data", "system"):
            for record in self.dead(fault):
                self.assertNotIn(record.headers["runsink-origin"], letters, "one dead letter for each record")
                letters[record.headers["runsink-origin"]] = (fault, record)
        expected = {f"{self.topic}/{m.partition}/{m.offset}": m for m in every if m.outcome == "dead"}
        self.assertEqual(set(expected), set(letters), "dead letters")
        for origin, made in expected.items():
            fault, record = letters[origin]
            self.assertEqual(made.value, record.value, "a dead letter keeps the original bytes")
            self.assertEqual(fault, record.headers["runsink-fault"])
            self.assertNotEqual("system", fault, record.headers)
            if made.fault:
                self.assertEqual(made.fault, fault, f"{record.headers} {made.value[:200]}")
            self.assertTrue(record.headers["runsink-reason"], record.headers)
        reasons = Counter(f"{fault}:{record.headers['runsink-reason']}" for fault, record in letters.values())
        rig.say(f"dead letters: {len(letters)}; " + ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()))

    def check_parked(self):
        """Every store here is well: what was parked was so for want of room or time, before any attempt. But for a connection
        now and then that a store closes at the wrong moment."""
        parked = [record for topic in self.kafka.topics() if topic.startswith(self.topic + ".retry.")
                  for record in self.kafka.consume(topic)]
        attempted = [r.headers for r in parked if r.headers["runsink-attempts"] != "0"]
        for headers in attempted:
            self.assertIn(headers["runsink-why"], ("truncated", "reset", "no-answer"), headers)
        self.assertLessEqual(len(attempted), 5, attempted)
        rig.say(f"parked without an attempt: {len(parked)}; {dict(Counter(r.headers['runsink-why'] for r in parked))}")

    def check_secrets(self, worker):
        secrets = set()
        for place in self.all:
            secrets |= {place.sink.get("secretAccessKey"), place.sink.get("sessionToken"), *place.sink.get("headers", {}).values()} - {None, "application/json"}
            secrets |= {f"query-secret-{t}" for t in "ef"} | {f"header-secret-{t}" for t in "ef"}
        for secret in secrets:
            self.assertFalse(worker.says(secret), f"{secret} in the log")


if __name__ == "__main__":
    rig.main()
