"""Random trouble against the real thing: a Kafka broker, an S3 server behind a proxy that lies, a folder on a small disk, and 2 to
4 workers that are killed, frozen, fenced and replaced while events come in. Afterwards checker.py judges what is there."""
import argparse
import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

import checker
from fleet import Fleet
from plan import PARTITIONS, SESSION_TIMEOUT_MS, draw_plan
from producer import Feeder, sinks

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "scripts"
# Transactions of killed workers hold up their partitions for as long as this and up to 10 s more. With a broker that is killed a
# short timeout can leave a transaction hanging for good.
TRANSACTION_TIMEOUT_MS = {False: 15000, True: 60000}
CALM_S = 240
DISK_BYTES = 64 << 20


def say(*what):
    print(*what, flush=True)


# ---- what a run stands on ---------------------------------------------------------------------------------------------


class Services:
    def __init__(self, directory, stores):
        """The first of the stores that is installed."""
        self.dir = directory
        for self.store in stores:
            self.verb("start", "kafka", self.store)
            self.env = {}
            for line in (self.dir / "env").read_text().splitlines():
                name, _, value = line.partition("=")
                self.env[name] = "".join(shlex.split(value))
            if self.env.get(self.store.upper()):
                return
            self.verb("stop")
        raise SystemExit("no S3 server is installed; scripts/deps --test installs S3Proxy")

    def verb(self, verb, *names):
        subprocess.run([SCRIPTS / "services", verb, "--dir", self.dir, *names], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def keys(self):
        return self.env[self.store.upper() + "_ACCESS_KEY"], self.env[self.store.upper() + "_SECRET_KEY"]

    def url(self):
        return self.env[self.store.upper()]


class Proxy:
    """faultproxy.py as a process."""

    def __init__(self, store, seed, rate):
        command = [sys.executable, "-B", HERE / "faultproxy.py", "--upstream", store.removeprefix("http://"), "--seed", str(seed),
                   "--rate", str(rate), "--ports", "2"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoints = [f"http://127.0.0.1:{port}" for port in self.process.stdout.readline().split()]
        self.outages = 0

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def outage(self, more):
        """Outages may overlap: the last one to end ends it."""
        self.outages += more
        self.tell(f"outage {'on' if self.outages > 0 else 'off'}")

    def drain(self):
        self.tell("drain")
        self.process.stdout.readline()

    def quit(self):
        if self.process.poll() is not None:
            return {}
        self.tell("quit")
        did = json.loads(self.process.stdout.readline())
        self.process.wait()
        return did


class Disk:
    """A small file system for file.root that can be filled up; None of it when we may not mount one."""

    def __init__(self, directory):
        self.root = directory / "files"
        self.root.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", self.root]
        self.small = subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
        self.ballast = self.root / ".tmp-ballast"

    def fill(self):
        if not self.small:
            return
        with open(self.ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self):
        self.ballast.unlink(missing_ok=True)

    def close(self):
        if self.small:
            subprocess.run(["umount", self.root], check=True)


def settings(plan, run, index):
    """A worker's configuration file."""
    broker_dies = any(action.kind == "broker" for action in plan.actions)
    lines = [f"topics = {run.topic}", f"group = {run.topic}-group", f"lanes = {plan.lanes}", f"archive = {plan.mode}"]
    if plan.slots:
        lines.append(f"slot = {run.topic}-{index}")
    lines += ["[window]", "age = 200ms", "[batch]", "age = 300ms", f"compression = {plan.compression}",
              "[retry]", "delays = 200ms,400ms,800ms", "window.s3 = 1h", "window.file = 1h",
              "[breaker]", "probe = 300ms", "[http]", "timeout = 3s", "connect_timeout = 1s",
              "[egress]", "allow = 127.0.0.0/8", "http = true", "[file]", f"root = {run.disk.root}",
              "[drain]", "timeout = 5s", "[admin]", "listen =", "[log]", f"level = {run.log_level}",
              "[kafka]", f"bootstrap.servers = {run.services.env['KAFKA']}", f"session.timeout.ms = {SESSION_TIMEOUT_MS}",
              "heartbeat.interval.ms = 500", "max.poll.interval.ms = 20000",
              f"transaction.timeout.ms = {TRANSACTION_TIMEOUT_MS[broker_dies]}"]
    return "\n".join(lines) + "\n"


# ---- a run ------------------------------------------------------------------------------------------------------------


class Run:
    def __init__(self, plan, services, directory, options):
        self.plan, self.services, self.dir, self.log_level = plan, services, directory, options.log
        self.topic = f"chaos-{plan.seed}-" + "".join(random.choices(string.ascii_lowercase, k=5))
        self.disk = Disk(directory)
        self.admin = AdminClient({"bootstrap.servers": services.env["KAFKA"], "log_level": 2})
        self.store = checker.connect(services.url(), *services.keys())
        self.proxy = Proxy(services.url(), plan.seed, plan.fault_rate)
        self.threads = []
        self.timers = []  # (when, what to do)
        environment = {"RUNSINK_TEST_BREAK": options.broken} if options.broken else {}
        self.fleet = Fleet(plan, directory, options.binary, lambda index: settings(plan, self, index), environment)

    def places(self):
        return checker.places(self.store, self.topic, self.disk.root if self.plan.file_tenants else None)

    def prepare(self):
        for done in self.admin.create_topics([NewTopic(self.topic, PARTITIONS)]).values():
            done.result()
        tenants = sinks(self.plan, self.proxy.endpoints, *self.services.keys(), lambda i: f"{self.topic}-{i}")
        for bucket in {tenant["bucket"] for tenant in tenants if tenant["type"] == "s3"}:
            self.store.create_bucket(Bucket=bucket)
        return Feeder(self.plan, self.services.env["KAFKA"], self.topic, tenants)

    def broker(self, how):
        """Ends it by a signal and starts it again; takes seconds, meanwhile the trouble goes on."""
        def work():
            self.services.verb("kill" if how == "KILL" else "stop", "kafka")
            self.services.verb("restart", "kafka")
        for thread in self.threads:
            thread.join()
        self.threads = [threading.Thread(target=work, daemon=True)]
        self.threads[0].start()

    def later(self, seconds, what):
        self.timers.append((time.monotonic() + seconds, what))

    def act(self, action):
        members = self.fleet.members
        member = members[action.worker]
        if action.kind == "kill":
            member.kill()
        elif action.kind == "crash":
            member.crash = action.argument
            member.kill()
        elif action.kind == "stop":
            member.stop(action.argument)
        elif action.kind == "leave" and sum(m.wanted for m in members) > 1:
            member.leave()
            self.later(action.argument, member.join)
        elif action.kind == "join":
            member.join()
        elif action.kind == "broker":
            self.broker(action.argument)
        elif action.kind == "outage":
            self.proxy.outage(+1)
            self.later(action.argument, lambda: self.proxy.outage(-1))
        elif action.kind == "disk":
            self.disk.fill()
            self.later(action.argument, self.disk.free)

    def tick(self):
        now = time.monotonic()
        for timer in [timer for timer in self.timers if timer[0] <= now]:
            self.timers.remove(timer)
            timer[1]()
        self.fleet.tend()
        time.sleep(0.05)

    def trouble(self, feeder):
        start = time.monotonic()
        actions = list(self.plan.actions)
        while feeder.is_alive() or actions or self.timers or any(thread.is_alive() for thread in self.threads):
            while actions and time.monotonic() - start >= actions[0].at:
                self.act(actions.pop(0))
            self.tick()
        if feeder.error:
            raise feeder.error

    def calm(self):
        """Until the group has settled everything; False when it doesn't."""
        self.proxy.tell("rate 0")
        self.fleet.calm()
        end = time.monotonic() + CALM_S
        look = threading.Thread(target=lambda: None)
        left = []

        def count():
            with contextlib.suppress(Exception):  # the broker says "not now" while a transaction is pending
                left[:] = [sum(checker.behind(self.services.env["KAFKA"], self.fleet_group(), self.topic).values())]

        while left != [0]:
            if time.monotonic() > end or len(self.fleet.bugs) > 5:
                return False
            if not look.is_alive():
                look = threading.Thread(target=count, daemon=True)
                look.start()
            self.tick()
        return True

    def fleet_group(self):
        return f"{self.topic}-group"

    def judge(self, feeder):
        acknowledged = () if self.plan.aborts else feeder.acknowledged
        violations, summary = checker.check(self.services.env["KAFKA"], self.topic, self.fleet_group(), self.plan.mode,
                                            self.places(), acknowledged)
        return violations + [checker.Violation("bug", text) for text in self.fleet.bugs], summary

    def go(self):
        """(violations, summary)"""
        feeder = self.prepare()
        self.fleet.tend()
        feeder.start()
        self.trouble(feeder)
        settled = self.calm()
        self.fleet.dismiss()
        self.proxy.drain()
        violations, summary = self.judge(feeder)
        if not settled:
            violations.append(checker.Violation("unsettled", f"not all was settled within {CALM_S} s of calm"))
        return violations, summary

    def close(self):
        self.fleet.end()
        for thread in self.threads:
            thread.join()
        did = self.proxy.quit()
        self.disk.free()
        self.disk.close()
        return did


def report(run, did, violations, summary, seconds):
    faults = ", ".join(f"{name} {n}" for name, n in sorted(did.items()) if name != "passed")
    ends = ", ".join(f"{what} {n}" for what, n in sorted(run.fleet.ends.items()))
    lines = [str(run.plan)]
    if any(action.kind == "disk" for action in run.plan.actions) and not run.disk.small:
        lines.append("  left out: a full disk (no tmpfs may be mounted here)")
    verdict = f"{len(violations)} VIOLATIONS" if violations else "ok"
    lines += [f"  workers: {ends} | store: {faults or 'no faults'}", f"  {summary}: {verdict} in {seconds:.0f} s"]
    say("\n".join(lines + [f"    {violation}" for violation in violations[:10]]))


def run_seed(plan, services, base, options):
    """The violations of a seed."""
    directory = base / f"seed-{plan.seed}-{plan.mode}"
    directory.mkdir()
    start = time.monotonic()
    run = Run(plan, services, directory, options)
    try:
        violations, summary = run.go()
    except Exception:
        say(plan, f"\n  broke off; logs are kept in {directory}")
        raise
    finally:
        did = run.close()
    report(run, did, violations, summary, time.monotonic() - start)
    if violations:
        (directory / "violations").write_text("\n".join(map(str, violations)) + "\n")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return violations


def run_all(options, services, base):
    """(kinds of violations, seeds that failed, how many ran)"""
    found, failed, ran = set(), [], 0
    end = time.monotonic() + options.minutes * 60
    with ThreadPoolExecutor(2 if options.short else 1) as pool:
        waiting = []
        for plan in plans(options):
            if options.minutes and time.monotonic() > end or options.broken and found & NOTICED[options.broken]:
                break
            waiting.append((plan, pool.submit(run_seed, plan, services, base, options)))
            while waiting and (not options.short or waiting[0][1].done()):
                ran += collect(waiting.pop(0), found, failed)
        for one in waiting:
            ran += collect(one, found, failed)
    return found, failed, ran


def collect(one, found, failed):
    plan, future = one
    violations = future.result()
    found |= {violation.kind for violation in violations}
    if violations:
        failed.append(plan.seed)
    return 1


# ---- the command ------------------------------------------------------------------------------------------------------


def plans(options):
    if options.short:
        # Chosen for what they draw (see --plan): kills, crashes at points, zombies, a full disk, static and dynamic members,
        # all compressions, and no restart of the broker, because two seeds share it at a time.
        return [draw_plan(seed, 3000, 6.0, mode) for seed, mode in SHORT]
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    return (draw_plan(seed, options.events, options.seconds, options.mode) for seed in seeds)


SHORT = ((18, "object"), (41, "object"), (2, "batch"), (21, "batch"))


def parse():
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many (10)")
    parser.add_argument("--minutes", type=float, default=0, help="begin no seed after this long; with it --seeds is no limit")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seed", type=int, help="this one alone: repeats a run")
    parser.add_argument("--mode", choices=("object", "batch"), help="instead of what the seed draws")
    parser.add_argument("--events", type=int, default=20000, help="of a seed (20000)")
    parser.add_argument("--seconds", type=float, default=25, help="of trouble in a seed (25)")
    parser.add_argument("--short", action="store_true", help="two seeds of each mode, two at a time, about a minute")
    parser.add_argument("--store", choices=("versitygw", "s3proxy"), help="the S3 server (versitygw, or what is installed)")
    parser.add_argument("--log", default="info", help="level that workers log at (info)")
    parser.add_argument("--plan", action="store_true", help="print what the seeds do, and do nothing")
    parser.add_argument("--broken", metavar="RULE", choices=("no-boundary", "commit-first"),
                        help="workers break this rule of the protocol; passes when a check notices")
    options = parser.parse_args()
    if options.minutes and options.seed is None and options.seeds == 10:
        options.seeds = 1000000
    options.binary = Path(os.environ.get("RUNSINK", HERE.parents[1] / "build/release/runsink")).resolve()
    return options


# What a broken rule must be found out by.
NOTICED = {"no-boundary": {"duplicate", "overlap"}, "commit-first": {"missing"}}


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # end what was started
    if options.plan:
        for plan in plans(options):
            say(plan, *(f"\n    {action}" for action in plan.actions))
        return 0
    if not options.binary.exists():
        sys.exit(f"{options.binary} isn't built: run scripts/build")
    base = Path(tempfile.mkdtemp(prefix="runsink-chaos-"))
    services = Services(base / "services", [options.store] if options.store else ["versitygw", "s3proxy"])
    try:
        found, failed, ran = run_all(options, services, base)
    finally:
        services.verb("stop")
    if options.broken:
        noticed = found & NOTICED[options.broken]
        say(f"{options.broken}: {'noticed: ' + ', '.join(sorted(noticed)) if noticed else 'NOT NOTICED'}")
        shutil.rmtree(base, ignore_errors=True)
        return 0 if noticed else 1
    say(f"{ran} seeds, " + (f"FAILED: {failed}; logs are kept in {base}" if failed else "no violation"))
    if not failed:
        shutil.rmtree(base, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
