#!/usr/bin/env python3
"""What `runsink verify` takes for a long ledger: makes one on a real broker (source topic, signed entries of form 2, the group's
committed state), verifies it in each way, and prints time and peak memory as a table. Beside SERVICES, if that is set.

    scripts/bench ledger [--entries 1000000] [--records 2] [--dead 0] [--partitions 12]

--records: of the source topic, for each entry. --dead: of a thousand entries so many call a record dead, whose letter is there.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
import events
import forger
import rig
from confluent_kafka import Producer

RULES = "0123456789abcdef"


class Sender:
    """A producer that does not outrun its queue."""

    def __init__(self, bootstrap):
        self.kafka = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 200000})

    def send(self, topic, value, key, partition, stamp, headers=()):
        while True:
            try:
                return self.kafka.produce(topic, value, key, partition, timestamp=stamp, headers=list(headers))
            except BufferError:
                self.kafka.poll(0.05)

    def flush(self):
        self.kafka.flush(300)


def make(kafka, topic, group, key, options):
    cluster = kafka.admin.describe_cluster().result(30).cluster_id
    signer, sender = forger.Forger(key), Sender(kafka.bootstrap)
    skipped, broken = events.dump(events.run(None)), b"{no json"
    begin, each = int(time.time() * 1000) - options.entries, options.records
    letters = 0
    for number in range(options.entries):
        partition, seq, stamp = number % options.partitions, number // options.partitions, begin + number
        first = seq * each
        dies = number * options.dead // 1000 != (number + 1) * options.dead // 1000
        for i in range(each):
            sender.send(topic, broken if dies and i == 0 else skipped, b"k", partition, stamp)
        last = first + each - 1
        body = f',"skipped":[{{"why":"no-sink","offsets":[{f"[{first + dies},{last}]" if last > first + dies else last}]}}]' if each > dies else ""
        if dies:
            body += f',"dead":[{{"fault":"data","why":"invalid-json","offsets":[{first}]}}]'
            sender.send(f"{topic}.dead.data", broken, b"k", partition, stamp, [
                ("runsink-origin", f"{topic}/{partition}/{first}"), ("runsink-fault", "data"), ("runsink-reason", "invalid-json"),
                ("runsink-attempts", "0"), ("runsink-first-failure", str(stamp)), ("runsink-time", str(stamp)), ("runsink-group", group)])
            letters += 1
        size = len(broken) if dies and each == 1 else len(skipped)
        value = signer.seal(topic, partition,
                            f'{{"v":2,"group":"{group}","cluster":"{cluster}","seq":{seq},"topic":"{topic}","partition":{partition},'
                            f'"first":{first},"next":{first + each},"opened":{stamp},"settled":{stamp},"version":"0.1.0","rules":"{RULES}",'
                            f'"prev":"{"0" * 64}","last":[{last},{stamp},{size}]{body}')
        sender.send(f"{topic}.ledger", value, f"{topic}/{partition}", partition % 3, stamp)
        if number % 100000 == 99999:
            rig.say(f"{number + 1} entries")
    sender.flush()
    forger.commit(kafka.bootstrap, group, {(t, p): (-(-(options.entries - p) // options.partitions) * each, f"rs1 {n} {head}")
                                           for (t, p), (n, head) in signer.heads.items()})
    return letters


def measure(program, name, *arguments):
    """Prints a row: seconds and peak memory of one command, and what it found."""
    with tempfile.TemporaryDirectory() as folder:
        cost = Path(folder) / "cost"
        done = subprocess.run([program, cost, rig.RUNSINK, *arguments], stdout=subprocess.PIPE)
        cost = json.loads(cost.read_text())
    lines = done.stdout.decode().splitlines()
    verdict = next((line for line in reversed(lines) if line.startswith(("sound", "NOT SOUND"))), "?")
    print(f"| {name} | {cost['wall']:.0f} | {cost['cpu']:.0f} | {cost['rss'] / 1024:.0f} | {verdict.split(':')[0]} |", flush=True)
    if done.returncode:
        print("\n".join(lines[:5] + lines[-12:]), file=sys.stderr)
    return done.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in ("entries", 1000000), ("records", 2), ("dead", 0), ("partitions", 12):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    kafka, topic, group = rig.services().kafka(), rig.unique("runs"), rig.unique("group")
    folder = Path(tempfile.mkdtemp(prefix="runsink-ledger-"))
    key, program = folder / "ledger.pem", folder / "measure"
    subprocess.run(["cc", "-O2", Path(__file__).parent / "measure.c", "-o", program], check=True)
    rig.runsink("keygen", key)
    kafka.create(topic, options.partitions)
    kafka.create(f"{topic}.ledger", 3, **{"retention.ms": "-1"})
    if options.dead:
        kafka.create(f"{topic}.dead.data", options.partitions, **{"retention.ms": "-1"})
    begin = time.monotonic()
    letters = make(kafka, topic, group, key, options)
    rig.say(f"made in {time.monotonic() - begin:.0f} s, load average {os.getloadavg()[0]:.1f}")
    config = folder / "runsink.ini"
    config.write_text(f"topics = {topic}\ngroup = {group}\n[kafka]\nbootstrap.servers = {kafka.bootstrap}\n")
    print(f"{options.entries} entries of {options.records} records in {options.partitions} partitions, {letters} dead letters\n")
    print("| | wall, s | CPU, s | peak RSS, MiB | |\n|---|---|---|---|---|")
    live = ["verify", "--config", config, "--key", f"{key}.pub"]
    failed = [measure(program, name, *command) for name, command in (
        ("a topic, `--key`", live), ("without `--key`", live[:3]), ("`--key --records`", [*live, "--records"]),
        ("`--key --export`", [*live, "--export", folder / "export"]),
        ("the exported folder, `--key`", ["verify", "--key", f"{key}.pub", folder / "export"]))]
    print(f"\nthe export has {sum(p.stat().st_size for p in (folder / 'export').rglob('*')) / 2**20:.0f} MiB; load average {os.getloadavg()[0]:.1f}")
    shutil.rmtree(folder)
    return 1 if any(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
