"""What of a tenant's secrets is in the worker's memory once it has forgotten the destination: no copy that runsink made. Copies
that libraries made and freed are told apart by what stands around them, counted, and shown."""
import base64
import datetime
import hashlib
import hmac
import re
import time
from collections import Counter

import events
import rig
from receiver import Receiver


def memory(pid):
    """(address, name, bytes) of each writable region."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw\S+ \S+ \S+ \S+ *(.*)", line)
            if not match:
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            try:
                mem.seek(start)
                yield start, match[3], mem.read(end - start)
            except OSError:
                continue  # gone, or not to be read


def find(pid, needles):
    """(needle's name, bytes before it, bytes behind it) of each place."""
    pattern = re.compile(b"|".join(re.escape(needle) for needle in needles))
    for _, _, data in memory(pid):
        for match in pattern.finditer(data):
            yield needles[match[0]], data[max(0, match.start() - 1200):match.start()], data[match.end():match.end() + 1200]


PRINTABLE = rb"[ -~]*"
BEHIND_SINK = "behindTheSink"  # a field of each event, so that an event's text is told from a sink object's


def owner(before, behind):
    """Who made a copy, by the text that it stands in. Of an event, librdkafka has the record as it came, and what it is about
    to produce. runsink has the sink object alone, and the events that came as a JSON string, unwrapped."""
    run_before, run_behind = re.search(PRINTABLE + rb"$", before)[0], re.match(PRINTABLE, behind)[0]
    text = run_before + run_behind
    if before[:-len(run_before) or None].endswith(b"\n"):
        return "request"  # a line behind another: libcurl's, on its way out
    if b'\\"' in text:
        return "record"
    if BEHIND_SINK.encode() in text:
        return "runsink" if b'"id":"outbox-' in run_before else "record"
    if b'":"' in run_before[-80:]:
        whole = run_behind.endswith(b"}") and behind[len(run_behind):len(run_behind) + 1] == b"\0"
        return "runsink" if whole else "fragment"  # of a record: what is left where something else overwrote it
    if run_before == b"token=":
        return "url"  # a part that libcurl's parser cut out
    return "runsink"


class SecretsInMemory(rig.Case):
    NAMES = ("User", "Pass", "Query", "Header", "Token", "Bearer", "AccessKey", "SecretKey", "Retried", "Dead")

    def setUp(self):
        super().setUp()
        self.tag = rig.unique("").replace("-", "Z")
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.store = rig.services().store("versitygw")
        if not self.store:
            self.skipTest("versitygw is not installed")
        self.store.tenant(self.canary("AccessKey"), self.canary("SecretKey"))
        self.bucket = self.store.bucket(rig.unique("memory"), self.canary("AccessKey"))
        self.kafka.create(self.topic, 1)

    def canary(self, name):
        return f"CANARY{name}{self.tag}"

    def sinks(self):
        place = f"127.0.0.1:{self.receiver.port}"
        self.receiver.play("/retried", 500, 200)
        self.receiver.play("/dead", 410)
        return [
            {"type": "webhook", "url": f"http://{self.canary('User')}:{self.canary('Pass')}@{place}/ok?token={self.canary('Query')}",
             "headers": {"X-Api-Key": self.canary("Header"), "X-Token": self.canary("Token")}},
            {"type": "webhook", "url": f"http://{place}/bearer", "headers": {"Authorization": f"Bearer {self.canary('Bearer')}"}},
            self.store.sink(self.bucket, self.canary("AccessKey"), self.canary("SecretKey")),
            {"type": "webhook", "url": f"http://{place}/retried", "headers": {"X-Token": self.canary("Retried")}},
            {"type": "webhook", "url": f"http://{place}/dead", "headers": {"X-Token": self.canary("Dead")}},
        ]

    def needles(self):
        found = {self.canary(name).encode(): name for name in self.NAMES}
        basic = f"{self.canary('User')}:{self.canary('Pass')}".encode()
        for name, text in [("userinfo", basic), *((name, self.canary(name).encode()) for name in self.NAMES)]:
            found[base64.b64encode(text)[:20]] = f"{name} in base64"
        today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d")
        key = b"AWS4" + self.canary("SecretKey").encode()
        for step in (today, "us-east-1", "s3", "aws4_request"):
            key = hmac.new(key, step.encode(), hashlib.sha256).digest()
            found[key] = f"signing key, {step}"
        return found

    def count(self, worker, show=False):
        counted = Counter()
        for name, before, behind in find(worker.process.pid, self.needles()):
            who = owner(before, behind)
            counted[who] += 1
            if show and who == "runsink":
                rig.say(name, before[-150:], behind[:150])
        return counted

    def send(self):
        for framing in ("bare", "wrapped", "ce-structured", "outbox") * 3:
            for sink in self.sinks():
                run = events.run(sink, id=rig.unique(framing))
                run["jobConfigurationSnapshot"][BEHIND_SINK] = True
                value, headers, _ = events.frame(framing, events.dump(run), rig.unique("id"))
                self.kafka.produce(self.topic, [(b"k", value)], headers=headers)

    def test_forgotten_destinations(self):
        """canaries are in memory while their destinations are known, and gone with them"""
        for redact in ("true", "false"):
            self.group = rig.unique("group")
            settings = self.settings(dest__idle="8s", redact__payload=redact)
            settings["kafka"]["compression.type"] = "none"  # compressed, a record would be in pieces
            self.send()
            worker = self.worker(settings)
            rig.await_("everything is settled, retries too", 60, self.quiet, worker)
            known = self.count(worker)
            self.assertGreater(known["runsink"], 10, "the search finds what is there")
            # Others' events take the place of these in librdkafka's buffers.
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run(x="f" * 800))) for _ in range(5000)])
            rig.await_("everything is settled, retries too", 60, self.quiet, worker)
            end = time.monotonic() + 30
            while (left := self.count(worker))["runsink"] and time.monotonic() < end:
                time.sleep(1)
            rig.say(f"redact.payload {redact}: known {dict(known)}, forgotten {dict(left)}")
            self.count(worker, show=True)
            self.assertEqual(0, left["runsink"])
            self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
