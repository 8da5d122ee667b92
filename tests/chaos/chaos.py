"""Random trouble against the real thing: Kafka brokers, an S3 server behind a proxy that lies, webhooks that lie, a folder on a
small disk, and 2 to 4 workers that are killed, frozen, fenced and replaced while events come in. Afterwards what is there is
judged: objects by checker.py, webhooks' calls by hooks.py, everything that was written down by canaries.py, and all of it once
more by `runsink verify --objects`."""
import argparse
import base64
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

import checker
import coordinators
import hanging
import hooks
from canaries import Canaries, Scraper, cores_are_made, leaks
from fleet import Fleet
from plan import PARTITIONS, SESSION_TIMEOUT_MS, draw_plan
from producer import Feeder, file_sinks, s3_sinks, webhook_sinks
from world import Clock, Disk, Proxy, World

HERE = Path(__file__).parent
# Transactions of killed workers hold up their partitions for as long as this. With a broker that is killed a
# short timeout can leave a transaction hanging for good.
TRANSACTION_TIMEOUT_MS = {False: 10000, True: 60000}
CALM_S = 240
COORDINATOR_S = 20
LIES_S = 5  # of calm, for which servers still lie


def say(*what):
    print(*what, flush=True)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def settings(plan, run, index):
    """A worker's configuration file."""
    broker_dies = any(action.kind in ("broker", "coordinator") for action in plan.actions)
    lines = [f"topics = {run.topic}", f"group = {run.group}", f"lanes = {plan.lanes}", f"archive = {plan.mode}"]
    # All that dies is killed from outside, within seconds: no record is to be blamed for that.
    lines.append("poison.attempts = 6")
    if plan.slots:
        lines.append(f"slot = {run.topic}-{index}")
    listen, level = (f"127.0.0.1:{run.admin_ports[index]}", "trace") if plan.noisy else ("", run.log_level)
    lines += ["[window]", "age = 200ms", "[batch]", "age = 300ms", f"compression = {plan.compression}",
              "[retry]", "delays = 200ms,400ms,800ms", "window.s3 = 1h", "window.webhook = 1h", "window.file = 1h",
              "[breaker]", "probe = 300ms", "[http]", "timeout = 3s", "connect_timeout = 1s",
              "[webhook]", f"signing_secrets = {run.signing_secret}", "[ledger]", f"key = {run.dir / 'ledger.pem'}",
              "[egress]", "allow = 127.0.0.0/8", "http = true", "[file]", f"root = {run.disk.root}",
              "[drain]", "timeout = 5s", "[admin]", f"listen = {listen}", "[log]", f"level = {level}",
              f"format = {plan.random('log').choice(['text', 'json'])}",
              "[kafka]", f"bootstrap.servers = {run.kafka.kafka()}", f"session.timeout.ms = {SESSION_TIMEOUT_MS}",
              "heartbeat.interval.ms = 500", "max.poll.interval.ms = 20000",
              f"transaction.timeout.ms = {TRANSACTION_TIMEOUT_MS[broker_dies]}"]
    lines += ["debug = all"] if plan.noisy else []
    return "\n".join(lines) + "\n"


# ---- a run ------------------------------------------------------------------------------------------------------------


class Run:
    def __init__(self, plan, world, directory, options):
        self.plan, self.dir, self.options, self.log_level = plan, directory, options, options.log
        self.store, self.kafka = world.store, world.kafka(plan.brokers)
        self.topic = f"chaos-{plan.seed}-" + "".join(random.choices(string.ascii_lowercase, k=5))
        self.group = f"{self.topic}-group"
        self.clock, self.trouble_seen, self.disk = Clock(), hooks.Trouble(), Disk(directory)
        self.canaries = Canaries(plan)
        self.signing_secret = "whsec_" + base64.b64encode(self.canaries.new("signing").encode()).decode()
        self.admin = AdminClient({"bootstrap.servers": self.kafka.kafka(), "log_level": 2})
        self.proxy = Proxy("--upstream", self.store.url.removeprefix("http://"), plan.seed, plan.fault_rate, 2)
        self.receiver = Proxy("--record", directory / "calls", plan.seed, plan.fault_rate, 1)
        self.threads, self.coordinators_hit, self.hung = [], [], []
        self.timers = []  # (when, what to do)
        environment = {"HOOK_BREAK": options.broken} if options.broken else {}
        self.fleet = Fleet(plan, directory, options.binary, lambda index: settings(plan, self, index), environment, self.trouble_seen)
        self.admin_ports = [free_port() for _ in range(plan.workers)]
        self.scraper = Scraper(self.admin_ports if plan.noisy else [], directory)

    def places(self):
        return checker.places(self.store.client, self.topic, self.disk.root if self.plan.file_tenants else None)

    def prepare(self):
        for done in self.admin.create_topics([NewTopic(self.topic, PARTITIONS)]).values():
            done.result()
        self.runsink("keygen", str(self.dir / "ledger.pem"))
        tenants = [*s3_sinks(self.plan, self.proxy.endpoints, self.canaries, self.store, lambda i: f"{self.topic}-{i}"),
                   *webhook_sinks(self.plan, self.receiver.endpoints[0], self.canaries), *file_sinks(self.plan)]
        return Feeder(self.plan, self.kafka.kafka(), self.topic, tenants, self.canaries)

    def runsink(self, *arguments):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNSINK")}
        return subprocess.run([self.options.binary, *arguments], capture_output=True, env=environment, stdin=subprocess.DEVNULL)

    def aside(self, work):
        """Does what takes seconds while the trouble goes on, one at a time."""
        def watched():
            try:
                work()
            except Exception:  # a run that could not do what it drew has shown nothing
                self.fleet.bugs.append(traceback.format_exc())

        for thread in self.threads:
            thread.join()
        self.threads = [threading.Thread(target=watched, daemon=True)]
        self.threads[0].start()

    def broker(self, how, name="kafka"):
        """Ends it by a signal and starts it again."""
        start = time.time()
        self.kafka.verb("kill" if how == "KILL" else "stop", name)
        self.kafka.verb("restart", name)
        self.trouble_seen.away.append((start, time.time()))

    def coordinator(self, whose, how):
        """Ends the broker that coordinates now."""
        find = coordinators.of_group if whose == "group" else coordinators.of_transaction
        node, end = -1, time.monotonic() + COORDINATOR_S
        while node < 0 and time.monotonic() < end:
            with contextlib.suppress(KafkaException, KeyError, RuntimeError):  # its topic is only just being made
                node = find(self.kafka.kafka(), self.group)
            time.sleep(0.1)
        if node < 0:
            raise RuntimeError(f"no coordinator of the {whose} within {COORDINATOR_S} s")
        self.coordinators_hit.append(f"{how} {whose}'s: kafka-{node}")
        self.broker(how, f"kafka-{node}")

    def later(self, seconds, what):
        self.timers.append((time.monotonic() + seconds, what))

    def act(self, action):
        members = self.fleet.members
        member = members[action.worker]
        if action.kind == "kill":
            member.kill(action.argument)
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
            self.aside(lambda: self.broker(action.argument))
        elif action.kind == "coordinator":
            self.aside(lambda: self.coordinator(action.whose, action.argument))
        elif action.kind == "outage":
            self.outage(+1)
            self.later(action.argument, lambda: self.outage(-1))
        elif action.kind == "disk":
            self.disk.fill()
            self.later(action.argument, self.disk.free)

    def outage(self, more):
        for proxy in (self.proxy, self.receiver):
            proxy.outage(more)

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
        """Until the group has settled everything; False when it doesn't. At first the store goes on to lie."""
        self.later(LIES_S, self.honest)
        self.fleet.calm()
        end = time.monotonic() + CALM_S
        look = threading.Thread(target=lambda: None)
        left = []

        def count():
            with contextlib.suppress(Exception):  # the broker says "not now" while a transaction is pending
                bootstrap = self.kafka.kafka()
                left[:] = [sum(checker.behind(bootstrap, self.group, self.topic).values()) + checker.hidden(bootstrap, self.topic)]

        while left != [0]:
            if time.monotonic() > end or len(self.fleet.bugs) > 5:
                return False
            if not look.is_alive():
                look = threading.Thread(target=count, daemon=True)
                look.start()
            self.tick()
        return True

    def settle(self):
        """As calm(). What Kafka has lost meanwhile hides records for good, and is ended as the runbook says, once."""
        if self.calm():
            return True
        classes = next(self.options.cache.glob("kafka-*/"))
        self.hung = hanging.end_all(classes, self.kafka.kafka(), self.plan.brokers)
        return bool(self.hung) and self.calm()

    def honest(self):
        for proxy in (self.proxy, self.receiver):
            proxy.tell("rate 0")

    def verify(self):
        """What runsink itself says about it, as its operator would ask it."""
        command = ["verify", "--config", self.dir / "worker-0.ini", "--key", self.dir / "ledger.pem.pub", "--objects", "--records",
                   "--json"]
        done = self.runsink(*map(str, command))
        (self.dir / "verify.out").write_bytes(done.stdout)
        (self.dir / "verify.err").write_bytes(done.stderr)
        if done.returncode not in (0, 65):
            return [checker.Violation("verify", f"exit {done.returncode}: {done.stderr[-500:]}")], "verify failed"
        answer = json.loads(done.stdout)
        found = [f for f in answer["findings"] if not f["note"]]
        unsigned = sum(row["entries"] - row["signed"] for row in answer["partitions"])
        violations = [checker.Violation("verify", json.dumps(one)) for one in found]
        if done.returncode != (65 if found else 0) or unsigned:
            violations.append(checker.Violation("verify", f"exit {done.returncode}, {len(found)} findings, {unsigned} not signed"))
        derived = answer["scope"]["outcomes"]
        return violations, (f"verify: {answer['objects']} objects, {answer['records']} records, {derived['derived']} outcomes derived "
                            f"and {sum(derived['not_judged'].values())} not, {len(answer['findings'])} notes")

    def judge(self, feeder):
        acknowledged = () if self.plan.aborts else feeder.acknowledged
        violations, hooked, summary = checker.check(self.kafka.kafka(), self.topic, self.group, self.plan.mode, self.places(),
                                                    acknowledged)
        self.clock.lap("check")
        called, hooks_summary = hooks.check(self.kafka.kafka(), self.topic, hooked, self.dir / "calls", self.trouble_seen)
        self.clock.lap("hooks")
        unsound, verify_summary = self.verify()
        self.clock.lap("verify")
        leaked = [checker.Violation("leak", text) for text in leaks(self)]
        self.clock.lap("leaks")
        bugs = [checker.Violation("bug", text) for text in self.fleet.bugs]
        return violations + called + unsound + leaked + bugs, f"{summary}, {hooks_summary}; {verify_summary}"

    def go(self):
        """(violations, summary)"""
        feeder = self.prepare()
        self.clock.lap("prepare")
        self.fleet.tend()
        feeder.start()
        self.scraper.start()
        self.trouble(feeder)
        self.clock.lap("trouble")
        settled = self.settle()
        self.clock.lap("calm")
        self.fleet.dismiss()
        self.scraper.over.set()
        self.scraper.join()
        self.honest()
        for proxy in (self.proxy, self.receiver):
            proxy.drain()
        self.clock.lap("dismiss")
        violations, summary = self.judge(feeder)
        if not settled:
            violations.append(checker.Violation("unsettled", f"not all was settled within {CALM_S} s of calm"))
        return violations, summary

    def close(self):
        self.scraper.over.set()
        self.fleet.end()
        for thread in self.threads:
            thread.join()
        did = collections.Counter(self.proxy.quit()) + collections.Counter(self.receiver.quit())
        self.disk.free()
        self.disk.close()
        return did

    def forget(self):
        """Topics of clean runs are removed: brokers that hold few of them start faster."""
        for done in self.admin.delete_topics(checker.topics(self.kafka.kafka(), self.topic)).values():
            done.result()


def report(run, did, violations, summary, options):
    faults = ", ".join(f"{name} {n}" for name, n in sorted(did.items()) if name != "passed")
    ends = ", ".join(f"{what} {n}" for what, n in sorted(run.fleet.ends.items()))
    left_out = []
    if any(action.kind == "disk" for action in run.plan.actions) and not run.disk.small:
        left_out.append("a full disk (no tmpfs may be mounted here)")
    if run.plan.noisy and not cores_are_made():
        left_out.append("core files (none are made here)")
    seconds = sum(run.clock.took.values())
    verdict = f"{len(violations)} VIOLATIONS" if violations else "ok"
    lines = [str(run.plan)] + [f"  left out: {what}" for what in left_out]
    lines += [f"  hung in Kafka, ended by its own tool: {topic}/{partition} from {start} on" for topic, partition, start in run.hung]
    lines += [f"  workers: {ends} | servers: {faults or 'no faults'}" + "".join(f" | {hit}" for hit in run.coordinators_hit),
              f"  {summary}: {verdict} in {seconds:.0f} s"]
    say("\n".join(lines + [f"    {violation}" for violation in violations[:10]]))
    if options.results:
        plan = {name: value for name, value in vars(run.plan).items() if name != "actions"}
        plan |= {"kinds": sorted({action.kind for action in run.plan.actions}), "violations": dict(collections.Counter(v.kind for v in violations)),
                 "ends": run.fleet.ends, "took": run.clock.took, "summary": summary, "left_out": left_out,
                 "answers": run.scraper.answers}
        with open(options.results, "a") as file:
            file.write(json.dumps(plan) + "\n")


def run_seed(plan, world, base, options):
    """The violations of a seed."""
    directory = base / f"seed-{plan.seed}-{plan.mode}"
    directory.mkdir()
    run = Run(plan, world, directory, options)
    try:
        violations, summary = run.go()
    except Exception as error:  # the other seeds are run all the same
        say(traceback.format_exc())
        violations, summary = [checker.Violation("broke off", str(error))], "broke off"
    finally:
        did = run.close()
    report(run, did, violations, summary, options)
    if violations:
        (directory / "violations").write_text("\n".join(map(str, violations)) + "\n")
    else:
        run.forget()
        shutil.rmtree(directory, ignore_errors=True)
    return violations


def run_all(options, world, base):
    """(kinds of violations, seeds that failed, how many ran)"""
    found, failed, ran = set(), [], 0
    end = time.monotonic() + options.minutes * 60
    with ThreadPoolExecutor(2 if options.short else 1) as pool:
        waiting = []
        for plan in plans(options):
            if options.minutes and time.monotonic() > end or options.broken and found & NOTICED[options.broken]:
                break
            waiting.append((plan, pool.submit(run_seed, plan, world, base, options)))
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
        # Chosen for what they draw (see --plan): kills, crashes at points, zombies, a full disk, static and dynamic members, all
        # compressions, webhooks, one with all logged and cores allowed; no broker restarts, because two seeds share it at a time.
        return [draw_plan(seed, 3000, 6.0, mode) for seed, mode in SHORT]
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    return (draw_plan(seed, options.events, options.seconds, options.mode, options.brokers) for seed in seeds)


SHORT = ((21, "object"), (57, "object"), (8, "batch"), (14, "batch"), (30, "batch"))


def parse():
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many (10)")
    parser.add_argument("--minutes", type=float, default=0, help="begin no seed after this long; with it --seeds is no limit")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seed", type=int, help="this one alone: repeats a run")
    parser.add_argument("--mode", choices=("object", "batch"), help="instead of what the seed draws")
    parser.add_argument("--events", type=int, default=5000, help="of a seed (5000)")
    parser.add_argument("--seconds", type=float, default=8, help="of trouble in a seed (8)")
    parser.add_argument("--short", action="store_true", help="five chosen seeds, two at a time, about two minutes")
    parser.add_argument("--store", choices=("versitygw", "s3proxy"), help="the S3 server (versitygw, or what is installed)")
    parser.add_argument("--log", default="info", help="level that workers log at (info)")
    parser.add_argument("--brokers", type=int, choices=(1, 3), help="instead of what the seed draws")
    parser.add_argument("--results", metavar="FILE", help="append what each seed drew and did, a JSON line for each")
    parser.add_argument("--plan", action="store_true", help="print what the seeds do, and do nothing")
    parser.add_argument("--broken", metavar="RULE", choices=("no-boundary", "commit-first"),
                        help="workers break this rule of the protocol; passes when a check notices")
    options = parser.parse_args()
    if options.minutes and options.seed is None and options.seeds == 10:
        options.seeds = 1000000
    options.binary = Path(os.environ.get("RUNSINK", HERE.parents[1] / "build/release/runsink-hooks")).resolve()
    options.cache = Path(os.environ["RUNSINK_CACHE"])
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
    stores = [options.store] if options.store else ["versitygw", "s3proxy"]
    with contextlib.closing(World(base, stores, options.cache)) as world:
        found, failed, ran = run_all(options, world, base)
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
