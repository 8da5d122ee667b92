"""A record that makes a worker crash, hang or run out of memory each time it is touched: the worker dies a few times, then the
record is set aside, and all others are delivered as if nothing had happened."""
import gzip
import json
import signal
from collections import Counter

import events
import receiver
import rig


def poison(sink, act, **more):
    """A run that does this to a worker of the tests' build: crash, hang, eat or kill, at decode, build or sent."""
    return events.run(sink, reason={"type": "another-job-run-active", "message": f"hook:{act}"}, **more)


class Watchdog(rig.Case):
    def hooked(self, **more):
        (self.dir / "files").mkdir()
        settings = self.settings(watchdog__timeout="2s", file__root=self.dir / "files", **more)
        return self.worker(settings, program=rig.HOOKS, env={"HOOK_RECORDS": "1"})

    def test_a_lane_that_stands_still_ends_the_process(self):
        """A record that is decoded for ever is named in the log, with its place, and the process aborts."""
        self.kafka.create(self.topic, 1)
        sink = {"type": "file", "path": "a"}
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink))) for _ in range(3)] +
                           [(b"k", events.dump(poison(sink, "hang-decode")))])
        worker = self.hooked()
        self.assertEqual(-signal.SIGABRT, worker.wait(30), worker.tail())
        line = next(line for line in worker.text().splitlines() if "a lane stands still" in line)
        for part in ("decoding a record", self.topic, "partition=0", "offset=3"):
            self.assertIn(part, line)

    def test_a_process_that_was_stopped_goes_on(self):
        """SIGSTOP for longer than watchdog.timeout blames no lane: it has its time when the process goes on."""
        self.kafka.create(self.topic, 1)
        worker = self.hooked()
        rig.await_("partitions are assigned", 30, lambda: worker.says("partitions assigned"), worker)
        stopped = rig.time.monotonic()
        worker.process.send_signal(signal.SIGSTOP)
        rig.await_("more than the timeout to pass", 10, lambda: rig.time.monotonic() > stopped + 3)
        worker.process.send_signal(signal.SIGCONT)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "file", "path": "a"})))])
        self.until_settled(worker)
        self.assertEqual(0, worker.stop())
        self.assertEqual(1, len(list((self.dir / "files").rglob("*.json"))))


class Scenario:
    """A topic with 1,000 healthy events and one that harms; workers that are started again whenever they die."""

    HEALTHY, PARTITIONS, CULPRITS = 1000, 2, ((1, 130),)
    DEATHS = {"crash": -signal.SIGILL, "hang": -signal.SIGABRT, "eat": -signal.SIGABRT, "kill": -signal.SIGKILL}

    def __init__(self, case, act, slot=False, archive="object", workers=1, **more):
        self.case, self.act, self.archive = case, act, archive
        self.name = rig.unique(f"{act}{'-slot' if slot else ''}-{archive}")
        self.topic, self.group = self.name, rig.unique("group")
        self.root = case.dir / self.name
        (self.root / "files").mkdir(parents=True)
        self.settings = {**case.settings(topics=self.topic, group=self.group, archive=archive,
                                         **{"retry__delays": "200ms", "watchdog__timeout": "3s", "window__age": "1s",
                                            "batch__age": "1s", "file__root": self.root / "files", **more})}
        if slot:
            self.settings["slot"] = self.name
        # Not less: a member whose session ends on a busy machine forgets what it had just been told of the dead before it.
        self.settings["kafka"] = {**self.settings["kafka"], "session.timeout.ms": 6000, "transaction.timeout.ms": 3000}
        self.workers, self.deaths = [None] * workers, 0

    def most(self):
        """Deaths that the first culprit may cost, and each further one: one that tells its object, one that tells its line."""
        return 3 + 2 * (len(self.CULPRITS) - 1)

    def late(self):
        """Whether it harms what is delivered along with it, too: then it has a delivery of its own."""
        return self.act.endswith("sent")

    def sink(self, n):
        return {"type": "file", "path": f"tenant-{n % 7}"}

    def culprit_sink(self, culprit):
        return {"type": "file", "path": "villain"} if self.late() else self.sink(3 + culprit)

    def produce(self):
        self.case.kafka.create(self.topic, self.PARTITIONS)
        self.ids = Counter()
        for partition in range(self.PARTITIONS):
            records = []
            for n in range(self.HEALTHY // self.PARTITIONS):
                run = events.run(self.sink(n), id=f"{partition}-{n}")
                self.ids[run["id"]] += 1
                records.append((b"k", events.dump(run)))
            for n, (where, at) in enumerate(self.CULPRITS):
                if where == partition:
                    records.insert(at, (b"k", events.dump(poison(self.culprit_sink(n), self.act, id=f"culprit-{n}"))))
            self.case.kafka.produce(self.topic, records, partition)

    def start(self, harmful=True):
        # As much memory as a process may have where no cgroup says less: the allocator tells of the end.
        wrap = ("prlimit", f"--as={4 << 30}") if self.act.startswith("eat") else ()
        worker = rig.Worker(self.root, self.settings, program=rig.HOOKS, env={"HOOK_RECORDS": "1"} if harmful else {}, wrap=wrap)
        self.case.workers.append(worker)
        return worker

    def bury(self, worker):
        self.deaths += 1
        self.case.assertEqual(self.DEATHS[self.act.partition("-")[0]], worker.exited(), f"{self.name}\n{worker.tail()}")
        if self.act.startswith("eat"):
            self.case.assertTrue(worker.says("out of memory"), worker.tail())
        self.case.assertLessEqual(self.deaths, 3 + self.most(), f"{self.name}: it dies for ever\n{worker.tail()}")

    def tend(self):
        for i, worker in enumerate(self.workers):
            if worker is None or worker.exited() is not None:
                if worker is not None:
                    self.bury(worker)
                self.workers[i] = self.start()

    def ended(self):
        return self.case.quiet(self.topic, self.group)

    def delivered(self):
        found = Counter()
        for file in (self.root / "files").rglob("*.*json*"):
            found.update(ids_in(file.read_bytes(), file.suffix == ".gz"))
        return found

    def judge(self):
        case = self.case
        for worker in self.workers:
            case.assertEqual(0, worker.stop(), worker.tail())
        case.assertEqual({}, dict(self.ids - self.delivered()), f"{self.name}: lost")
        harmless = {"culprit-0": 1} if self.late() else {}  # it was there before the worker died
        case.assertEqual(harmless, dict(self.delivered() - self.ids), f"{self.name}: twice, or delivered though it is poison")
        letters = [dict(one.headers) for one in case.dead("system", self.topic)]
        case.assertEqual({"poison"}, {one["runsink-reason"] for one in letters}, self.name)
        case.assertEqual(sorted(f"{self.topic}/{partition}/{offset}" for partition, offset in self.CULPRITS),
                         sorted(one["runsink-origin"] for one in letters), self.name)
        case.assertLessEqual(self.deaths, self.most(), f"{self.name}: deaths")
        done = rig.runsink("verify", "--config", str(self.workers[0].config))
        case.assertEqual(0, done.returncode, f"{self.name}: verify\n{done.stdout.decode()}{done.stderr.decode()}")


def ids_in(body, packed):
    return [json.loads(line)["id"] for line in (gzip.decompress(body) if packed else body).splitlines()]


class Remote(Scenario):
    """Some events go to a server: a webhook's, or a store's in batch mode."""

    def __init__(self, case, act, **more):
        super().__init__(case, act, **more)
        self.server = receiver.Receiver()
        case.addCleanup(self.server.close)

    def remote_sink(self, tenant):
        if self.archive == "object":
            return {"type": "webhook", "url": f"{self.server.url}/{tenant}"}
        return {"type": "s3", "bucket": tenant, "endpoint": self.server.url, "region": "us-east-1", "accessKeyId": "AKIATESTTEST",
                "secretAccessKey": "a-secret-of-nobody", "forcePathStyle": True}

    def sink(self, n):
        return self.remote_sink("mates") if n % 10 == 3 else super().sink(n)

    def culprit_sink(self, culprit):
        return self.remote_sink("villain" if self.late() else "mates")

    def delivered(self):
        """What came again is the same delivery: a webhook's id, an object's key."""
        taken = {}
        for one in self.server.requests:
            if one.answered == 200:
                taken.setdefault(one.headers.get("webhook-id", one.path), set()).add(one.body)
        self.case.assertEqual([], [key for key, bodies in taken.items() if len(bodies) > 1], f"{self.name}: other bytes")
        found = super().delivered()
        for key, bodies in taken.items():
            for body in bodies:
                found.update(ids_in(body, key.endswith(".gz")))
        return found


class Several(Scenario):
    """Some records of one window whose end is durable: it is settled whole, so each is remembered until all are known."""

    CULPRITS = ((1, 40), (1, 131))

    def __init__(self, case, act, **more):
        super().__init__(case, act, archive="batch", batch__records=5000, batch__age="5s", **more)


class Parked(Remote):
    """Its first attempt found a server that was ill, and it harms when it comes back from a retry topic."""

    def produce(self):
        self.settings.update({"retry.delays": "3s", "retry.window.webhook": "10m", "retry.window.s3": "10m"})
        self.server.play("/", 503)
        super().produce()
        worker = self.start(harmful=False)
        rig.await_("all is settled or parked", 60, lambda: self.case.kafka.settled(self.group, self.topic), worker)
        self.case.assertEqual(0, worker.stop(), worker.tail())
        self.server.play("/", 200)


class Poison(rig.Case):
    def play(self, *scenarios, seconds=300):
        for scenario in scenarios:
            scenario.produce()
        waiting = list(scenarios)
        end = rig.time.monotonic() + seconds
        while waiting:
            for scenario in scenarios:
                if scenario in waiting:
                    scenario.tend()
            scenario = waiting.pop(0)
            if not scenario.ended():
                waiting.append(scenario)
            self.assertLess(rig.time.monotonic(), end, [f"{s.name}: {s.deaths}" for s in waiting])
        for scenario in scenarios:
            scenario.judge()
        rig.say(", ".join(f"{s.name}: {s.deaths}" for s in scenarios))

    def test_all(self):
        """Crash, hang and hunger, with slot and without, in both modes: each while decoding, building and delivering."""
        works = ("decode", "build", "sent")
        self.play(*[Scenario(self, f"{act}-{works[(a + i) % 3]}", slot, archive)
                    for a, act in enumerate(("crash", "hang", "eat"))
                    for i, (slot, archive) in enumerate(((True, "object"), (False, "object"), (True, "batch"), (False, "batch")))])

    def test_elsewhere(self):
        """In a retry topic, in two lanes, with two workers that take it from each other, beside servers: the same judgement."""
        self.play(Parked(self, "crash-decode"), Parked(self, "crash-build", archive="batch"),
                  Several(self, "crash-build"), Scenario(self, "crash-build", lanes=2), Scenario(self, "kill-decode", archive="batch", lanes=2),
                  Scenario(self, "crash-decode", workers=2), Scenario(self, "crash-build", archive="batch", workers=2),
                  Remote(self, "kill-build"), Remote(self, "crash-sent"), Remote(self, "kill-sent", archive="batch"))


class Orderly(rig.Case):
    """What is no death, and what an operator does himself."""

    def started(self, program=None, env=None, **more):
        (self.dir / "files").mkdir(exist_ok=True)
        worker = self.worker(self.settings(file__root=self.dir / "files", **more), program=program or rig.RUNSINK, env=env or {})
        rig.await_("partitions are assigned", 30, lambda: worker.says("partitions assigned"), worker)
        return worker

    def send(self, *ids):
        sink = {"type": "file", "path": "a"}
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink, id=one))) for one in ids])

    def delivered(self):
        return sorted(json.loads(file.read_bytes())["id"] for file in (self.dir / "files").rglob("*.json"))

    def test_an_orderly_end_is_no_death(self):
        """Four starts that end by SIGTERM, each with something to read: nobody reads with care."""
        self.kafka.create(self.topic, 1)
        for n in range(4):
            worker = self.started()
            self.send(f"run-{n}")
            self.until_settled(worker)
            self.assertEqual(0, worker.stop(), worker.tail())
            self.assertFalse(worker.says("read with care"), worker.tail())

    def test_an_orderly_end_amid_careful_reading(self):
        """It counts for nothing: no record is blamed for it, and the next reader knows of the deaths that were before."""
        self.kafka.create(self.topic, 4)
        ids = [f"{partition}-{n}" for partition in range(4) for n in range(250)]
        sink = {"type": "file", "path": "a"}
        for partition in range(4):
            self.kafka.produce(self.topic, [(b"k", events.dump(poison(sink, "crash-decode", id=one) if one == "0-40" else events.run(sink, id=one)))
                                            for one in ids if one.startswith(f"{partition}-")], partition)
        slow = {"window__records": 1, "window__inflight": 2}  # so that there is something left each time

        for _ in range(2):  # deaths, each amid what it read
            worker = self.started(program=rig.HOOKS, env={"HOOK_RECORDS": "1"}, **slow)
            self.assertEqual(-signal.SIGILL, worker.wait(60), worker.tail())
        for _ in range(2):
            worker = self.started(**slow)
            rig.await_("it reads with care", 60, lambda: worker.says("one record at a time"), worker)
            self.assertEqual(0, worker.stop(), worker.tail())
            self.assertFalse(worker.says("not all was settled"), worker.tail())
            self.assertIn("deaths=2", worker.text())
            self.assertNotIn("deaths=3", worker.text())
        worker = self.started()
        self.until_settled(worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual([], self.dead("system"))
        self.assertEqual(sorted(ids), self.delivered())

    def test_offsets_that_are_passed_over(self):
        """skip.offsets, at the start and by SIGHUP: not delivered, and the ledger says so."""
        self.kafka.create(self.topic, 1)
        self.send("run-0", "run-1", "run-2")
        worker = self.started(skip__offsets=f"{self.topic}/0/1")
        rig.await_("two files", 30, lambda: len(self.delivered()) == 2, worker)
        text = worker.config.read_text()
        ahead = self.kafka.ends(self.topic)[0] + 1
        worker.config.write_text(text.replace(f"{self.topic}/0/1", f"{self.topic}/0/1, {self.topic}/0/{ahead}"))
        worker.process.send_signal(signal.SIGHUP)
        rig.await_("the reload", 30, lambda: worker.says("configuration read anew"), worker)
        self.send("run-3")  # once it is delivered the lane has turned, and has the new configuration
        rig.await_("three files", 30, lambda: len(self.delivered()) == 3, worker)
        self.send("run-4", "run-5")
        self.until_settled(worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual(["run-0", "run-2", "run-3", "run-5"], self.delivered())
        skipped = [one for record in self.kafka.consume(f"{self.topic}.ledger") for one in json.loads(record.value).get("skipped", [])]
        self.assertEqual({"operator"}, {one["why"] for one in skipped}, skipped)
        done = rig.runsink("verify", "--config", str(worker.config))
        self.assertEqual(0, done.returncode, done.stdout.decode() + done.stderr.decode())


if __name__ == "__main__":
    rig.main()
