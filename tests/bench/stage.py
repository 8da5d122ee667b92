"""What the benchmark's programs run against: a real broker with topics that are loaded once, a real S3 server with a bucket
and credentials for each tenant, a webhook receiver in C, and an independent reader that says what has arrived."""
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

import rig
from confluent_kafka import Producer

TENANTS = 20
PARTITIONS = 6
FILLERS = 500
ID = re.compile(rb'^\{"id":"([0-9a-f]{8})-', re.M)
WORKSPACE = re.compile(rb'"workspaceId":"(workspace-\d+)"')
WORDS = ("page element selector timeout retry login session browser network request response invoice customer order "
         "upload download validate extract submit waiting loaded missing unexpected value schema result").split()


@dataclass
class Tenant:
    name: str
    bucket: str = ""
    access: str = ""
    secret: str = ""


class Receiver:
    """Webhooks' endpoint: tests/bench/peer.c, which notes each request it has answered."""

    def __init__(self, program, log):
        self.log = log
        self.process = subprocess.Popen([program, log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{re.search(r'web=([0-9]+)', self.process.stdout.readline())[1]}"
        self.read = 0

    def arrivals(self):
        """(us, webhook-id) of what has arrived since the last call."""
        with open(self.log, "rb") as file:
            file.seek(self.read)
            text = file.read()
        text = text[:text.rfind(b"\n") + 1]
        self.read += len(text)
        fields = (line.split(b" ") for line in text.splitlines())
        return [(int(at), name) for at, _, _, name in fields]

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


# ---- events -----------------------------------------------------------------------------------------------------------


def event(tenant, sink, n, rng, filler):
    """The shape of tests/data's examples; about 1.18 KB without a filler. The id begins with n."""
    one = {
        "id": f"{n:08x}-e89b-12d3-a456-{rng.getrandbits(48):012x}",
        "startTime": f"2026-01-{n % 28 + 1:02}T{n % 24:02}:{n % 60:02}:00Z",
        "endTime": f"2026-01-{n % 28 + 1:02}T{n % 24:02}:{n % 60:02}:{rng.randrange(60):02}.{rng.randrange(1000):03}Z",
        "workspaceId": tenant.name,
        "projectId": f"123e4567-e89b-12d3-a456-42661417{rng.randrange(5):04}",
        "jobId": f"job-123e4567-e89b-{rng.randrange(40):04}",
        "createdAt": f"2026-01-{n % 28 + 1:02}T{n % 24:02}:{n % 60:02}:00Z",
        "updatedAt": f"2026-01-{n % 28 + 1:02}T{n % 24:02}:{n % 60:02}:{rng.randrange(60):02}Z",
        "type": "SCHEDULED", "status": ("SUCCESS", "SUCCESS", "SUCCESS", "FAILURE", "PENDING")[n % 5],
        "payloads": rng.randrange(1000), "successfulRuns": rng.randrange(1000), "failedRuns": rng.randrange(20),
        "error": {"message": "An error occurred while executing the job", "code": "internal-server-error",
                  "category": "infrastructure", "correlationId": str(uuid.UUID(int=rng.getrandbits(128))),
                  "docUrl": "https://docs.intunedhq.com/docs/support/errors"},
        "reason": {"type": "another-job-run-active", "message": "<value>",
                   "docUrl": "https://docs.intunedhq.com/docs/support/reasons#no-valid-output-received"},
        "jobConfigurationSnapshot": {
            "configuration": {"retry": {"maximumAttempts": 3}, "maxConcurrentRequests": 13, "requestTimeout": 600},
            "sink": sink, "authSession": {"id": "auth-session-123"}},
    }
    if filler:
        one["error"]["details"] = filler
    return json.dumps(one, separators=(",", ":")).encode()


def fillers(size, rng):
    """What makes an event larger: logs, as runs have them."""
    def entry():
        return {"at": f"2026-01-01T00:{rng.randrange(60):02}:{rng.randrange(60):02}.{rng.randrange(1000):03}Z",
                "level": rng.choice(("info", "warn", "error")), "step": rng.randrange(200),
                "message": " ".join(rng.choices(WORDS, k=12)), "span": f"{rng.getrandbits(64):016x}"}

    def one():
        entries, n = [], 0
        while n < size:
            entries.append(entry())
            n += len(json.dumps(entries[-1], separators=(",", ":"))) + 1
        return {"log": entries}
    return [one() for _ in range(FILLERS)]


# ---- the stage --------------------------------------------------------------------------------------------------------


class Stage:
    def __init__(self, programs):
        self.programs = programs
        self.dir = Path(tempfile.mkdtemp(prefix="runsink-bench-"))
        self.store_name = "versitygw" if (rig.CACHE / "bin/versitygw").exists() else "s3proxy"
        self.services = self.find_services()
        self.kafka, self.store = self.services.kafka(), self.services.store(self.store_name)
        self.receiver = Receiver(programs / "peer", self.dir / "receiver.log")
        self.run_name = rig.unique("bench")
        self.tenants = [self.tenant(i) for i in range(TENANTS)]
        self.topics = {}

    def find_services(self):
        """Those of SERVICES when they run, otherwise some of our own."""
        shared = Path(os.environ.get("SERVICES", "none"))
        if (shared / "env").exists():
            return rig.Services(shared)
        return rig.Services(self.dir / "services", ("kafka", self.store_name))

    def tenant(self, i):
        one = Tenant(f"workspace-{i:02}", f"{self.run_name}-{i:02}")
        if self.store_name == "versitygw":
            one.access, one.secret = f"AK{self.run_name}{i:02}", f"wJalrXUtnFEMI/K7MDENG/{i:02}{uuid.uuid4().hex[:16]}"
            self.store.tenant(one.access, one.secret)
            self.store.bucket(one.bucket, one.access)
        else:  # S3Proxy has one identity
            one.access, one.secret = self.store.access_key, self.store.secret_key
            self.store.bucket(one.bucket)
        return one

    def load(self, name, kind, events, size=0, destinations=TENANTS):
        """A topic with that many events of 1.18 KB (or size), whose sinks are buckets or webhooks; made once."""
        if name in self.topics:
            return self.topics[name]
        topic = Topic(name, f"{self.run_name}.{name}", kind, events, self.dir / f"{name}.ndjson", self.dir / f"{name}.places")
        rng = random.Random(name)
        sinks = [self.sink(kind, i, destinations) for i in range(destinations)]
        places = (self.place(kind, i) for i in range(TENANTS))
        topic.places.write_text("\n".join(places) + "\n")
        filler = fillers(size - 1180, rng) if size else [None]
        self.kafka.create(topic.full, PARTITIONS)
        rig.await_(f"{topic.full} is known", 30, lambda: topic.full in self.kafka.topics())
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "linger.ms": 20, "log_level": 2,
                             "queue.buffering.max.messages": 50000, "queue.buffering.max.kbytes": 65536})
        with open(topic.file, "wb") as file:
            for n in range(events):
                at = n // PARTITIONS % destinations
                value = event(self.tenants[at % TENANTS], sinks[at], n, rng, filler[n % len(filler)])
                topic.bytes += len(value)
                while True:
                    try:
                        producer.produce(topic.full, value, partition=n % PARTITIONS)
                        break
                    except BufferError:
                        producer.poll(0.1)
                if kind != "batch":
                    file.write(value + b"\n")
        if producer.flush(120):
            raise AssertionError(f"{name}: the broker did not take every event")
        self.topics[name] = topic
        return topic

    def sink(self, kind, i, destinations):
        tenant = self.tenants[i % TENANTS]
        if kind == "webhook":
            return {"type": "webhook", "url": f"{self.receiver.url}/ok-{i:05}/hooks/runs", "skipOnFail": False,
                    "headers": {"Authorization": f"Bearer {uuid.uuid4().hex}", "X-Tenant": tenant.name}}
        prefix = "job-runs/" if destinations == TENANTS else f"job-runs-{i:05}/"
        return self.store.sink(tenant.bucket, tenant.access, tenant.secret, skipOnFail=False, prefix=prefix)

    def place(self, kind, i):
        """A destination for tests/bench/send.c."""
        tenant = self.tenants[i]
        if kind == "webhook":
            return f"{self.receiver.url}/ok-{i:05}/hooks/runs"
        return f"{self.store.url}/{tenant.bucket} {tenant.access} {tenant.secret}"

    def files(self, tenant, tag):
        """What the store holds below a run's prefix; both servers keep objects as plain files."""
        folder = self.services.dir / self.store_name / "data" / tenant.bucket / tag
        return [path for path in folder.rglob("*") if path.is_file()]

    def close(self, keep):
        self.receiver.close()
        for tenant in self.tenants:
            shutil.rmtree(self.services.dir / self.store_name / "data" / tenant.bucket, ignore_errors=True)
        if keep:
            print(f"kept: {self.dir}", flush=True)
        else:
            if self.services.dir.is_relative_to(self.dir):
                self.services.stop()
            shutil.rmtree(self.dir, ignore_errors=True)


@dataclass
class Topic:
    name: str
    full: str
    kind: str
    events: int
    file: Path  # the events, one a line, for the floors that read no topic
    places: Path
    bytes: int = 0


# ---- the independent reader -------------------------------------------------------------------------------------------


def content(path):
    data = path.read_bytes()
    if path.suffix == ".gz":
        return zlib.decompress(data, wbits=31)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    return data


def check_store(stage, topic, tag, routed=True):
    """Every event once, in its tenant's bucket alone, without a secret (a floor reads no event: not routed); returns the times of
    the first and the last object, seconds."""
    ids, times, count = set(), [], 0
    for tenant in stage.tenants:
        secret = tenant.secret.encode()
        for path in stage.files(tenant, tag):
            data = content(path)
            found = ID.findall(data)
            if routed and (secret in data or set(WORKSPACE.findall(data)) != {tenant.name.encode()}):
                raise AssertionError(f"{path}: a secret, or another tenant's event")
            count += len(found)
            ids.update(int(one, 16) for one in found)
            times.append(path.stat().st_mtime)
            if path.suffix in (".gz", ".zst", ".ndjson"):
                path.unlink()  # read; the next runs should find room
    complete(topic, ids, count, "the store")
    return min(times), max(times)


def check_receiver(stage, topic, base=16):
    """Every event once; returns the times of the first and the last request, seconds."""
    arrivals = []

    def all_here():
        arrivals.extend(stage.receiver.arrivals())
        return len(arrivals) >= topic.events
    rig.await_("the receiver has noted every request", 10, all_here)
    ids = {int(name[:8], base) for _, name in arrivals}
    complete(topic, ids, len(arrivals), "the receiver")
    return arrivals[0][0] / 1e6, arrivals[-1][0] / 1e6


def check_peer(stage, topic, tag):
    """The same of a program that has one destination for all."""
    if topic.kind == "webhook":
        return check_receiver(stage, topic)
    files = stage.files(stage.tenants[0], tag)
    found = [one for path in files for one in ID.findall(content(path))]
    complete(topic, {int(one, 16) for one in found}, len(found), "the store")
    times = [path.stat().st_mtime for path in files]
    return min(times), max(times)


def complete(topic, ids, count, where):
    if count != topic.events or ids != set(range(topic.events)):
        raise AssertionError(f"{where} has {count} events of {topic.name}, {len(ids)} different ones, of {topic.events}")
