"""`verify --records` derives each outcome again from the record's bytes: what a worker really did holds, and what a ledger says
falsely of an event is named, though it is signed by the right key."""
import json
import unittest

import events
import forger
import rig
from confluent_kafka import Producer
from receiver import Receiver

PARTITIONS = 2
STATUSES = "SUCCESS,FAILURE,CANCELED,COMPLETED"
KINDS = ("delivered", "skipped", "parked", "dead", "redriven", "discarded", "replayed")
TAIL = ("root", "hash", "sig", "key")
SECRET = "s3cr3t-of-a-tenant-0123456789"


class Derive(rig.Case):
    def setUp(self):
        super().setUp()
        self.store = rig.services().store("versitygw")
        if self.store is None:
            self.skipTest("no S3 server is installed")
        self.bucket = self.store.bucket(rig.unique("derive"))
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.kafka.create(self.topic, PARTITIONS)
        self.key = self.dir / "ledger.pem"
        self.assertEqual(0, rig.runsink("keygen", str(self.key)).returncode)

    def settings(self, **more):
        # Time for an attempt from each of the retry topics.
        base = {"ledger__key": self.key, "statuses": STATUSES, "retry__window__s3": "2s", "retry__window__webhook": "2s"}
        return super().settings(**{**base, **more})

    def hook(self, path, **more):
        return {"type": "webhook", "url": self.receiver.url + path, "headers": {"authorization": f"Bearer {SECRET}"}, **more}

    def failing_store(self, *answers, **more):
        """An S3 endpoint that gives these answers first."""
        self.receiver.play("/flaky", *answers, 200)
        return {**self.store.sink("flaky", **more), "endpoint": self.receiver.url}

    def produce(self):
        """Events of every framing, spelling and outcome; returns how many records."""
        good, sick = self.store.sink(self.bucket, prefix="a/b"), self.store.sink("no-such-bucket-" + self.bucket)
        rotated = {**good, "accessKeyId": "another", "secretAccessKey": "another-secret-of-the-tenant"}  # the same place
        self.receiver.play("/twice", 503, 503, 200)
        self.receiver.play("/gone", 410)
        runs = [(style, framing, events.run(sink, status))
                for style in range(3) for framing in events.FRAMINGS
                for sink, status in ((good, "SUCCESS"), (self.hook("/hook"), "CANCELED"))]
        runs += [(0, "bare", one) for one in (
            events.run("absent"), events.run(None), events.run(good, "PENDING"), events.run({**good, "skipOnFail": True}, "FAILURE"),
            events.run(self.hook("/hook", skipOnFail=True), "FAILURE"), events.run(good, "FAILURE"), events.run(sick),
            events.run(rotated), events.run(rotated), events.run(self.hook("/twice")), events.run(self.hook("/gone")),
            events.run(self.failing_store(503, 503)), events.run(self.failing_store(), "COMPLETED"),
            events.run({"type": "pigeon"}), events.run({**good, "bucket": 7}), events.run({**good, "apisToSend": ["one"]}),
            events.run({**good, "apisToSend": ["one"]}, apiInfo={"name": "other"}),
            # What is redacted: by its value in other places too, and in what keys and headers are made of.
            events.run(self.hook("/hook"), reason={"type": "user-request", "message": f"it said {SECRET} to us"}),
            events.run(good, id=f"run-{good['secretAccessKey']}", password="by its name"),
            events.run(good, results={"note": "x" * 900000}), events.run(self.hook("/hook"), note=["\ud83d lone"]))]
        records = []
        for i, (style, framing, run) in enumerate(runs):
            value, headers, _ = events.frame(framing, events.dump(run, 1 if "lone" in str(run) else style), f"event-{i}")
            records.append((value, [(name, str(text)) for name, text in headers]))
        records += [(None, []), (b"{no json", []), (b"", []), (b'{"id":1}', [])]
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap})
        for i, (value, headers) in enumerate(records):
            producer.produce(self.topic, value, b"k", i % PARTITIONS, headers=headers)
        self.assertEqual(0, producer.flush(60))
        return len(records)

    def work(self, **more):
        worker = self.worker(self.settings(**more))
        rig.await_("all is settled", 120, self.quiet, worker)
        self.assertEqual(0, worker.stop())
        self.config = worker.config

    def verify(self, *arguments):
        done = rig.runsink("verify", "--config", str(self.config), "--json", "--key", f"{self.key}.pub", "--records", *arguments)
        self.assertIn(done.returncode, (0, 65), done.stderr.decode())
        for secret in (SECRET, self.store.secret_key):
            self.assertNotIn(secret.encode(), done.stdout + done.stderr)
        return json.loads(done.stdout)

    def entries(self):
        return self.kafka.consume(f"{self.topic}.ledger")

    def check(self, *arguments, gone=0):
        """Nothing is found, and each outcome that the ledger has is either judged or counted with a reason."""
        answer = self.verify(*arguments)
        self.assertEqual([], [f for f in answer["findings"] if not f["note"]])
        outcomes = answer["scope"]["outcomes"]
        self.assertEqual(0, outcomes["differ"])
        self.assertEqual(sum(row[kind] for row in answer["partitions"] for kind in KINDS),
                         outcomes["derived"] + sum(outcomes["not_judged"].values()))
        self.assertEqual({"gone": gone}, {reason: n for reason, n in outcomes["not_judged"].items()
                                          if n and reason not in ("receiver", "operator")} or {"gone": 0})
        return outcomes

    def test_object_mode(self):
        """object mode: every framing, spelling and outcome, retries and dead letters; without a false alarm, and little is not judged"""
        count = self.produce()
        self.work(webhook__signing_secrets="whsec_" + "A" * 32)
        outcomes = self.check()
        # Of each record's outcome in the source topic, but for those that were parked or died at the receiver; and of what came back.
        self.assertGreater(outcomes["derived"], count - 10)
        self.assertGreater(outcomes["not_judged"]["receiver"], 5)
        done = rig.runsink("verify", "--config", str(self.config), "--records")
        self.assertIn(f"{outcomes['derived']} outcomes derived again from their records, 0 differ", done.stdout.decode())
        self.assertIn("not judged: parked or dead by what the receiver answered", done.stdout.decode())

    def test_batch_mode(self):
        """batch mode, each compression: objects of many members, of two destinations in one place, and those that come back"""
        for compression in ("gzip", "zstd", "none"):
            with self.subTest(compression=compression):
                self.topic, self.group = rig.unique("runs"), rig.unique("group")
                self.kafka.create(self.topic, PARTITIONS)
                count = self.produce()
                more = {"key__batch": "{prefix}{topic}-{partition}-{first}-{next}.ndjson"} if compression == "none" else {}
                self.work(archive="batch", batch__age="500ms", batch__compression=compression, **more)
                outcomes = self.check()
                self.assertGreater(outcomes["derived"], count - 20)

    def test_unredacted(self):
        """redact.payload = false, lone surrogates that are replaced, templates with a date, and a folder in the place of sinks"""
        self.produce()
        self.work(redact__payload="false", archive__strict_json="replace", key__object="{prefix}{date}/{id}-{partition}-{offset}.json",
                  sink__override=f"file:{self.dir / 'files'}")
        self.check("--objects")

    def test_redriven(self):
        """dead letters that go back, to be delivered, and those that an operator closes; and records that Kafka no longer holds"""
        sick = "later-" + self.bucket
        for archive in ("object", "batch"):
            with self.subTest(archive=archive):
                self.topic, self.group = rig.unique("runs"), rig.unique("group")
                self.kafka.create(self.topic, PARTITIONS)
                sink = self.store.sink(f"{archive}-{sick}")
                for partition in range(PARTITIONS):
                    self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink))) for _ in range(10)], partition)
                    self.kafka.produce(self.topic, [(b"k", events.dump(events.run("absent")))], partition)
                self.work(archive=archive, retry__permanent="dead")
                self.store.bucket(f"{archive}-{sick}")
                done = rig.runsink("redrive", "--config", str(self.config), "--yes", seconds=150)
                self.assertEqual(0, done.returncode, done.stderr.decode())
                self.work(archive=archive, retry__permanent="dead")
                outcomes = self.check("--objects")
                self.assertEqual(10 * PARTITIONS, outcomes["not_judged"]["operator"])
                self.assertEqual(11 * PARTITIONS, outcomes["derived"])
                self.kafka.delete_before(self.topic, self.kafka.ends(self.topic))
                self.check(gone=11 * PARTITIONS)

    # ---- lies ----

    def forge(self, *lies):
        """The ledger as whoever has broker and key would write it: each lie is told once. Where they are: topic, partition, offset."""
        attacker, untold, places, values = forger.Forger(self.key), list(lies), [], []
        for record in self.entries():
            entry = json.loads(record.value)
            for lie in list(untold):
                told = lie(entry)
                if told is None:
                    continue
                untold.remove(lie)
                places.append((lie.__name__, entry["topic"], entry["partition"], told))
            values.append((record, self.sealed(attacker, entry)))
        self.assertEqual([], untold)
        ledger = f"{self.topic}.ledger"
        self.kafka.delete_before(ledger, self.kafka.ends(ledger))
        for record, value in values:
            self.kafka.produce(ledger, [(record.key, value)], record.partition)
        rig.await_("the group is empty", 60, lambda: not self.kafka.members(self.group))
        forger.commit(self.kafka.bootstrap, self.group,
                      {(topic, partition): (self.kafka.committed(self.group, topic)[partition], f"rs1 {entries} {head}")
                       for (topic, partition), (entries, head) in attacker.heads.items()})
        return places

    def sealed(self, attacker, entry):
        names = [n for n in entry if n not in KINDS + TAIL] + [n for n in KINDS if entry.get(n)] + [n for n in ("root",) if n in entry]
        text = json.dumps({n: entry[n] for n in names}, separators=(",", ":"), ensure_ascii=False)
        return attacker.seal(entry["topic"], entry["partition"], text[:-1])

    def assertNamed(self, places):
        answer = self.verify()
        found = {(f["topic"], f["partition"], f["offset"]): f for f in answer["findings"] if f["code"] == "other-outcome"}
        for lie, *place in places:
            self.assertIn(tuple(place), found, lie)
            self.assertEqual(f"{self.topic}.ledger", found[tuple(place)]["found_in"]["name"])
        self.assertEqual(len(places), len(found), json.dumps(sorted(f["text"] for f in found.values()), indent=1))
        self.assertEqual(len(found), answer["scope"]["outcomes"]["differ"])

    def test_lies_in_object_mode(self):
        """what a ledger says falsely of an event is named with its record, and nothing else is: of objects and requests"""
        source = self.topic
        told = set()

        def once(name, change, list="objects", where=lambda item: True):
            """A lie about the first delivered item of which none was told so far: change(entry, destination, item)."""
            def lie(entry):
                for to in entry.get("delivered", []) if entry["topic"] == source else []:
                    for item in to.get(list, []):
                        at = item["offsets"][0]
                        if isinstance(at, int) and (entry["partition"], at) not in told and where(item):
                            told.add((entry["partition"], at))
                            change(entry, to, item)
                            entry["delivered"] = [{**t, **{n: t[n] for n in ("objects", "requests") if t.get(n)}}
                                                  for t in entry["delivered"]]
                            entry["delivered"] = [{k: v for k, v in t.items() if v} for t in entry["delivered"]]
                            entry["delivered"] = [t for t in entry["delivered"] if t.get("objects") or t.get("requests")]
                            return at
                return None
            lie.__name__ = name
            return lie

        def instead(kind, list="objects", **reason):
            def change(entry, to, item):
                to[list].remove(item)
                label = {"to": to["to"]} if reason.pop("labelled", False) else {}
                entry.setdefault(kind, []).append({**label, **reason, "offsets": item["offsets"]})
            return change

        def set_member(name, value):
            def change(entry, to, item):
                item[name] = value
            return change

        def elsewhere(entry, to, item):
            to["objects"].remove(item)
            entry["delivered"].append({"to": to["to"].replace("derive", "other"), "objects": [item]})

        def as_request(entry, to, item):
            to["objects"].remove(item)
            entry["delivered"].append({"to": to["to"], "requests": [{n: v for n, v in item.items() if n != "key"}]})

        def one_of(kind, why):
            """A reason's first record is told as delivered, or for another reason."""
            def lie(entry):
                for group in entry.get(kind, []) if entry["topic"] == source else []:
                    at = group["offsets"][0]
                    if group["why"] != why or not isinstance(at, int) or len(group["offsets"]) > 1 or not entry.get("delivered"):
                        continue
                    entry[kind].remove(group)
                    to = entry["delivered"][0]
                    to["requests" if "requests" in to else "objects"].append(
                        {**to["requests" if "requests" in to else "objects"][0], "offsets": [at]})
                    told.add((entry["partition"], at))
                    return at
                return None
            lie.__name__ = f"delivered, not {kind} {why}"
            return lie

        self.produce()
        self.work(window__age="2s")
        self.check()
        self.assertNamed(self.forge(
            one_of("skipped", "status"), one_of("skipped", "skipOnFail"), one_of("dead", "invalid-json"),
            once("skipped, not delivered", instead("skipped", why="status")),
            once("skipped without a sink", instead("skipped", why="no-sink")),
            once("a request skipped", instead("skipped", "requests", why="skipOnFail"), "requests"),
            once("dead by its bytes", instead("dead", fault="data", why="invalid-json")),
            once("another body", set_member("sha256", "0" * 64)),
            once("another size", set_member("size", 7)),
            once("another key", set_member("key", "a/b/other.json")),
            once("another bucket", elsewhere),
            once("an object as a request", as_request),
            once("another body of a request", set_member("sha256", "1" * 64), "requests")))

    def test_lies_in_batch_mode(self):
        """the same of objects of many: another body, key or destination, and a member that is told as skipped"""
        source = self.topic

        def of_many(name, change):
            def lie(entry):
                for to in entry.get("delivered", []) if entry["topic"] == source else []:
                    for item in to.get("objects", []):
                        if sum(1 if isinstance(r, int) else r[1] - r[0] + 1 for r in item["offsets"]) > 2:
                            return change(entry, to, item)
                return None
            lie.__name__ = name
            return lie

        def first(item):
            return item["offsets"][0] if isinstance(item["offsets"][0], int) else item["offsets"][0][0]

        def set_member(name, value):
            def change(entry, to, item):
                item[name] = value
                return first(item)
            return change

        def skip_one(entry, to, item):
            last = item["offsets"].pop()
            entry.setdefault("skipped", []).append({"why": "status", "offsets": [last]})
            return first(item)

        for compression in ("gzip", "zstd", "none"):
            for name, change, findings in (("body", set_member("sha256", "0" * 64), 1), ("key", set_member("key", "k.ndjson"), 1),
                                           ("member", skip_one, None)):
                with self.subTest(compression=compression, lie=name):
                    self.topic = source = rig.unique("runs")
                    self.group = rig.unique("group")
                    self.kafka.create(self.topic, PARTITIONS)
                    sinks = [self.store.sink(self.bucket), self.hook("/hook")]
                    for partition in range(PARTITIONS):
                        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sinks[i % 2]))) for i in range(20)], partition)
                    self.work(archive="batch", batch__age="500ms", batch__compression=compression)
                    self.check()
                    place = self.forge(of_many(name, change))[0][1:]
                    found = [(f["topic"], f["partition"], f["offset"]) for f in self.verify()["findings"]
                             if f["code"] == "other-outcome"]
                    self.assertIn(place, found)
                    if findings:
                        self.assertEqual(findings, len(found))


if __name__ == "__main__":
    rig.main()
