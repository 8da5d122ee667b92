"""Load with sick tenants against a real broker, a real S3 server and endpoints on loopback. Three scenarios:

sick  1,000 tenants, one in ten sick in one of eleven ways. Healthy tenants' latencies while the others are well and while
      they are sick, in turn, under the same load, several rounds; then all recover, and every event must have arrived.
hog   one tenant makes 90% of the traffic. The others' latencies while it is quick, and while it takes half a second for each
      request, in turn, under the same load.
attack  100 healthy tenants beside a crowd of hostile ones (tests/e2e/villains.py), each of another kind. The healthy ones'
      latencies without them, with them at another worker on the same machine, and with them, in turn; nothing of theirs is
      lost or doubled, and the ledger is sound.

Latency is from the instant the event was handed to the producer (it stands in the event's id) to its arrival at the endpoint.
"""
import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
import events  # noqa: E402
import rig  # noqa: E402
import villains  # noqa: E402
from endpoints import Endpoints  # noqa: E402
from confluent_kafka import Producer  # noqa: E402

MIB = 1 << 20
RECOVERY_S = 300
CROWD_RATE = 100
ID = re.compile(r"([a-z]\d+)-(\d+)-(\d{16})")
SICK = ("refused", "synhole", "hole", "e503", "e429", "drip", "tls", "nxdomain", "slowdns", "endless", "flood")
# Ways for which a webhook's place differs from an S3 store's only in the request; each second such tenant has a store.
S3_TOO = ("refused", "hole", "e503", "drip", "flood")


class Tenant:
    def __init__(self, name, kind, sink):
        self.name, self.kind, self.sink = name, kind, sink
        self.sent = 0
        text = events.dump(events.run(sink, id="@ID@", workspaceId=name))
        self.before, self.after = text.split(b"@ID@")

    def event(self):
        self.sent += 1
        stamp = f"{self.name}-{self.sent}-{time.time_ns() // 1000:016d}"
        return stamp, self.before + stamp.encode() + self.after


def webhook(url, tenant):
    return {"type": "webhook", "url": f"{url}-{tenant}", "headers": {"Authorization": f"Bearer {tenant}"}}


def s3(endpoint, bucket, tenant):
    return {"type": "s3", "bucket": bucket, "accessKeyId": f"AK{tenant}", "secretAccessKey": f"secret-{tenant}",
            "region": "us-east-1", "endpoint": endpoint, "forcePathStyle": True, "prefix": f"{tenant}/"}


class World:
    """The services, the endpoints, one worker, and what was sent."""

    def __init__(self, options):
        self.options = options
        self.dir = Path(tempfile.mkdtemp(prefix="runsink-load-"))
        self.services = rig.services()
        self.kafka = self.services.kafka()
        self.endpoints = Endpoints(self.dir, options.peer, options.names)
        self.topic, self.group = rig.unique("load"), rig.unique("load")
        self.sent, self.missing = {}, set()  # id -> tenant; ids that have not arrived
        self.arrived = {}  # id -> [(us, place)], over all endpoints
        self.objects = set()  # files of versitygw that are among them
        self.rss = []
        self.kafka.create(self.topic, options.partitions)
        rig.await_("the topic is known", 30, lambda: self.topic in self.kafka.topics())
        self.producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "linger.ms": 0, "log_level": 2})
        self.worker = rig.Worker(self.dir, self.settings(), env=self.endpoints.environment)
        threading.Thread(target=self.watch_memory, daemon=True).start()

    def settings(self):
        return {
            "topics": self.topic, "group": self.group, "memory.budget": "64MiB",
            "retry.delays": self.options.delays, "retry.window.webhook": "1h", "retry.window.s3": "1h",
            "egress.allow": "127.0.0.0/8", "egress.http": "true", "http.ca_bundle": self.endpoints.ca,
            "log.level": self.options.log_level,
            "kafka": {"bootstrap.servers": self.kafka.bootstrap},
            **dict(one.split("=", 1) for one in self.options.set),
        }

    def watch_memory(self):
        status = Path(f"/proc/{self.worker.process.pid}/status")
        while self.worker.exited() is None:
            found = re.search(r"VmRSS:\s+(\d+)", status.read_text())
            if found:
                self.rss.append((time.time(), int(found[1]) * 1024))
            time.sleep(0.25)

    def members(self):
        found = self.kafka.admin.describe_consumer_groups([self.group])[self.group].result()
        return sorted(one.member_id for one in found.members)

    def produce(self, tenants, rate, seconds):
        """Events at an even pace, tenants in turn; returns the interval in which they were made, us."""
        order = list(tenants)
        random.shuffle(order)
        begin = time.time_ns() // 1000
        start, n = time.monotonic(), 0
        while (now := time.monotonic() - start) < seconds:
            while n < now * rate:
                tenant = order[n % len(order)]
                stamp, value = tenant.event()
                self.sent[stamp] = tenant
                self.missing.add(stamp)
                self.producer.produce(self.topic, value, key=tenant.name.encode())
                n += 1
            self.producer.poll(0)
            time.sleep(0.002)
        end = time.time_ns() // 1000
        self.producer.flush(30)
        return begin, end

    def look(self):
        """Takes note of what has arrived since."""
        found = self.endpoints.arrivals()
        data = self.services.dir / "versitygw" / "data"
        for bucket in data.glob(f"{self.topic}-*"):
            for path in bucket.rglob("*.json"):
                if path not in self.objects:
                    self.objects.add(path)
                    found.append((path.stat().st_mtime_ns // 1000, str(path), path.parent.name))
        for at, place, text in found:
            match = ID.search(text)
            if match:
                self.arrived.setdefault(match[0], []).append((at, place))
                self.missing.discard(match[0])

    def all_arrived(self):
        time.sleep(0.4)  # looking costs processor time that the next phase should not have to share
        self.look()
        return not self.missing

    def recover(self, seconds):
        """Until everything sent has arrived and nothing waits for a retry."""
        begin = time.monotonic()
        self.endpoints.well()
        rig.await_("every event has arrived", seconds, self.all_arrived, self.worker)
        topics = [self.topic] + [one for one in self.kafka.topics() if one.startswith(f"{self.topic}.retry.")]
        for topic in topics:
            rig.await_(f"{topic} is settled", seconds, lambda: self.settled(topic), self.worker)
        return time.monotonic() - begin

    def settled(self, topic):
        """Committed offsets at the ends, but for the markers of transactions behind the last record."""
        committed = self.kafka.committed(self.group, topic)
        ends = self.kafka.ends(topic)
        return all(end == 0 or committed.get(p, -1) >= end - 1 for p, end in ends.items())

    def dead(self):
        topics = self.kafka.topics()
        return {fault: sum(self.kafka.ends(name).values()) for fault in ("tenant", "data", "system")
                if (name := f"{self.topic}.dead.{fault}") in topics}

    def close(self, keep):
        code = self.worker.stop()
        self.endpoints.close()
        if keep:
            print(f"kept: {self.dir}", flush=True)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
        return code


# ---- figures ----------------------------------------------------------------------------------------------------------


def quantile(sorted_values, q):
    return sorted_values[min(len(sorted_values) - 1, int(q * len(sorted_values)))]


def latencies(world, interval, tenants):
    """Of these tenants' events made in the interval, ms, sorted; what has not arrived counts as having arrived now."""
    names, now = {one.name for one in tenants}, time.time_ns() // 1000
    found = []
    for stamp, tenant in world.sent.items():
        made = int(stamp[-16:])
        if tenant.name in names and interval[0] <= made <= interval[1]:
            seen = world.arrived.get(stamp)
            found.append((min(at for at, _ in seen) - made if seen else now - made) / 1000)
    return sorted(found)


class Report:
    def __init__(self):
        self.rows, self.failures = [], []

    def phase(self, name, values, **more):
        row = {"phase": name, "events": len(values), "p50": quantile(values, 0.50), "p90": quantile(values, 0.90),
               "p99": quantile(values, 0.99), "max": values[-1], **more}
        self.rows.append(row)
        print(f"  {name:10} " + "  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}"
                                          for k, v in row.items() if k != "phase"), flush=True)

    def check(self, ok, what):
        print(f"{'ok    ' if ok else 'FAILED'} {what}", flush=True)
        if not ok:
            self.failures.append(what)

    def ratios(self, without, with_, limit):
        for q in ("p50", "p99"):
            a = statistics.median(row[q] for row in self.rows if row["phase"] == without)
            b = statistics.median(row[q] for row in self.rows if row["phase"] == with_)
            text = f"{q} {without} {a:.1f} ms, {with_} {b:.1f} ms: {b / a:.2f} times"
            if limit:
                self.check(b <= limit * a, f"{text} (limit {limit})")
            else:
                print(f"       {text}", flush=True)


def check_process(world, report, members, more=32):
    text = world.worker.text()
    assignments = len(re.findall("partitions assigned", text))
    troubles = re.findall("starts anew|partitions lost|settlement failed", text)
    now = world.members()
    report.check(members == now and assignments == len(members) and not troubles,
                 f"no eviction: members {now == members and 'the same' or 'changed'}, {assignments} assignment(s), "
                 f"troubles in the log: {troubles or 'none'}")
    peak = max(rss for _, rss in world.rss)
    report.check(peak <= (64 + more) * MIB, f"peak RSS {peak / MIB:.1f} MiB (limit 64 + {more})")


def check_arrivals(world, report, dead=True):
    report.check(not world.missing, f"{len(world.sent)} events sent, {len(world.missing)} missing")
    hooks = {stamp: seen for stamp, seen in world.arrived.items() if world.sent[stamp].sink["type"] == "webhook"}
    repeats = sum(len(seen) - 1 for seen in hooks.values())
    print(f"       webhooks: {len(hooks)} ids, {repeats} repeated calls")
    objects = {stamp: {place for _, place in seen} for stamp, seen in world.arrived.items() if stamp not in hooks}
    twice = [stamp for stamp, places in objects.items() if len(places) != 1]
    report.check(not twice, f"S3: {len(objects)} objects, {len(twice)} events in more than one")
    if dead:
        found = world.dead()
        report.check(not any(found.values()), f"dead topics are empty: {found}")


# ---- scenarios --------------------------------------------------------------------------------------------------------


def tenant_sink(world, name, kind, store):
    place = world.endpoints
    if kind == "versitygw":
        bucket = f"{world.topic}-{name}"
        store.bucket(bucket)
        return store.sink(bucket)
    if store and kind == "ok":
        return s3(place.web, f"ok-{name}", name)
    url = {"refused": place.refused + "/ok", "synhole": place.synhole + "/ok", "tls": place.tls + "/ok",
           "nxdomain": f"http://{name}.load.invalid:{place.port}/ok",
           "slowdns": f"http://slow-{name}.load.invalid:{place.port}/ok"}.get(kind, f"{place.web}/{kind}")
    if store:
        return s3(url.rsplit("/", 1)[0], f"{url.rsplit('/', 1)[1]}-{name}", name)
    return webhook(url, name)


def make_tenants(world):
    """Seven in ten healthy ones have a webhook, the others a store: the stand-in, or (a few) versitygw."""
    options, healthy, sick = world.options, [], []
    store = world.services.store("versitygw")
    for i in range(options.tenants):
        if i % 10 == 9:
            kind, name = options.ways[i // 10 % len(options.ways)], f"s{i:04}"
            as_s3 = kind in S3_TOO and i // 10 // len(options.ways) % 2 == 1
            sick.append(Tenant(name, kind, tenant_sink(world, name, kind, as_s3)))
        elif i % 10 >= 7:
            name = f"h{i:04}"
            kind = "versitygw" if store and len(healthy) < 9 * options.versitygw and i % 10 == 7 else "ok"
            healthy.append(Tenant(name, kind, tenant_sink(world, name, kind, store if kind == "versitygw" else True)))
        else:
            name = f"h{i:04}"
            healthy.append(Tenant(name, "ok", tenant_sink(world, name, "ok", None)))
    return healthy, sick


def cpu(world):
    fields = Path(f"/proc/{world.worker.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(world, report, name, measure, tenants, rate, seconds):
    """A phase: these tenants produce, and the latencies of some of them count."""
    used, begin = cpu(world), time.time()
    interval = world.produce(tenants, rate, seconds)
    used = (cpu(world) - used) / (time.time() - begin)
    time.sleep(1.5)
    world.look()
    rss = max((rss for at, rss in world.rss if at >= begin), default=0)
    report.phase(name, latencies(world, interval, measure), cpu=round(used, 2), rss=round(rss / MIB, 1))


def sick_scenario(world, report):
    options = world.options
    healthy, sick = make_tenants(world)
    world.produce(healthy + sick, options.rate, 5)  # connections, caches, topics
    world.recover(60)
    members = world.members()
    for _ in range(options.rounds):
        measured(world, report, "healthy", healthy, healthy + sick, options.rate, options.seconds)
        world.endpoints.sick()
        measured(world, report, "sick", healthy, healthy + sick, options.rate, options.seconds)
        waiting = len(world.missing)
        took = world.recover(RECOVERY_S)
        print(f"  recovered  {waiting} undelivered, all arrived and settled after {took:.1f} s", flush=True)
    report.ratios("healthy", "sick", options.limit)
    check_process(world, report, members)
    check_arrivals(world, report)


def hog_scenario(world, report):
    options = world.options
    others = [Tenant(f"h{i:04}", "ok", tenant_sink(world, f"h{i:04}", "ok", i % 10 >= 7)) for i in range(options.tenants // 10)]
    hog = Tenant("s0000", "slow", webhook(world.endpoints.web + "/slow", "s0000"))
    world.endpoints.quick()
    world.produce(others + [hog], options.rate / 10, 5)
    world.recover(60)
    members = world.members()
    for _ in range(options.rounds):
        mixed = [one for other in others for one in (other,) + (hog,) * 9]
        measured(world, report, "quick", others, mixed, options.rate, options.seconds)
        world.endpoints.slow()
        measured(world, report, "slow", others, mixed, options.rate, options.seconds)
        waiting = len(world.missing)
        world.endpoints.quick()
        took = world.recover(RECOVERY_S)
        print(f"  recovered  {waiting} undelivered, all arrived and settled after {took:.1f} s", flush=True)
    report.ratios("quick", "slow", options.limit)
    check_process(world, report, members)
    check_arrivals(world, report)


def crowd(bootstrap, topic, rate, over, told):
    """The hostile tenants, at an even pace until it is over: a process of its own, or their work in this interpreter would
    delay the healthy ones' events and not the worker."""
    server = villains.Server()
    tenants = villains.Villains(server)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "log_level": 2})
    begin, sent = time.monotonic(), 0
    while not over.wait(0.02):
        while sent < (time.monotonic() - begin) * rate:
            for value in tenants.round():
                producer.produce(topic, value)
                producer.poll(0)
                sent += 1
    producer.flush(30)
    told.put((sent, dict(server.requests)))
    server.close()


class Crowd:
    def __init__(self, world, topic, rate):
        spawn = multiprocessing.get_context("spawn")
        self.over, self.told = spawn.Event(), spawn.Queue()
        self.process = spawn.Process(target=crowd, args=(world.kafka.bootstrap, topic, rate, self.over, self.told), daemon=True)
        self.process.start()

    def stop(self):
        self.over.set()
        sent, requests = self.told.get(timeout=60)
        self.process.join(60)
        print(f"  hostile    {sent} events, requests: {requests}", flush=True)


def apart(world, report, healthy, rate, seconds):
    """The crowd has a topic and a worker of its own: what the machine alone adds."""
    topic = rig.unique("crowd")
    world.kafka.create(topic, world.options.partitions)
    worker = rig.Worker(world.dir, {**world.settings(), "topics": topic, "group": rig.unique("crowd")}, env=world.endpoints.environment)
    crowd = Crowd(world, topic, CROWD_RATE)
    measured(world, report, "apart", healthy, healthy, rate, seconds)
    crowd.stop()
    report.check(worker.stop() == 0, "the crowd's own worker ended with 0")


def attack_scenario(world, report):
    """Hostile events fail for an hour, so nothing is awaited but what the healthy ones sent."""
    options = world.options
    options.versitygw = 30
    store = world.services.store("versitygw")
    healthy = [Tenant(f"h{i:04}", "ok", tenant_sink(world, f"h{i:04}", "versitygw" if store and i % 10 >= 7 else "ok", store
                                                   if i % 10 >= 7 else None)) for i in range(100)]
    rate = min(options.rate, 200)
    world.produce(healthy, rate, 5)
    world.recover(60)
    members = world.members()
    for _ in range(options.rounds):
        measured(world, report, "alone", healthy, healthy, rate, options.seconds)
        apart(world, report, healthy, rate, options.seconds)
        crowd = Crowd(world, world.topic, CROWD_RATE)
        measured(world, report, "attacked", healthy, healthy, rate, options.seconds)
        crowd.stop()
        rig.await_("every healthy event has arrived", 60, world.all_arrived, world.worker)
    report.ratios("alone", "apart", None)
    report.ratios("apart", "attacked", None)
    report.ratios("alone", "attacked", options.limit)
    check_process(world, report, members, more=64)
    check_arrivals(world, report, dead=False)
    code = world.worker.stop()
    report.check(code == 0, f"the worker ended with {code}")
    done = rig.runsink("verify", "--config", str(world.worker.config), "--objects", "--records", seconds=600)
    report.check(done.returncode == 0, "verify --objects --records: " + " / ".join(done.stdout.decode().splitlines()[-3:]))


SCENARIOS = {"sick": sick_scenario, "hog": hog_scenario, "attack": attack_scenario}


def main():
    parser = argparse.ArgumentParser(prog="scripts/load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], help="default: all")
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=SICK, help=f"of being sick: {','.join(SICK)}")
    parser.add_argument("--versitygw", type=int, default=20, help="healthy tenants whose store is versitygw")
    parser.add_argument("--rate", type=float, default=500, help="events a second")
    parser.add_argument("--delays", default="10s,20s,40s,80s,120s", help="retry.delays")
    parser.add_argument("--seconds", type=float, help="length of a phase; default 40, of attack 300")
    parser.add_argument("--rounds", type=int, help="default 3, of attack 1")
    parser.add_argument("--limit", type=float, default=1.25, help="how many times the latencies may be (medians over rounds)")
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the worker's configuration")
    parser.add_argument("--keep", action="store_true", help="keep configuration and logs")
    parser.add_argument("--peer", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--names", type=Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    failures, seconds, rounds = [], options.seconds, options.rounds
    for name in options.scenarios or SCENARIOS:
        options.seconds = seconds or (300 if name == "attack" else 40)
        options.rounds = rounds or (1 if name == "attack" else 3)
        print(f"{name}: {options.rounds} rounds of twice {options.seconds:.0f} s, load average {os.getloadavg()[0]:.1f}", flush=True)
        world, report = World(options), Report()
        try:
            SCENARIOS[name](world, report)
        finally:
            failed = bool(report.failures) or sys.exc_info()[0] is not None
            code = world.close(options.keep or failed)
        report.check(code == 0, f"the worker ended with {code}")
        failures += report.failures
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
