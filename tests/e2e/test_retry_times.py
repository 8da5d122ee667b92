"""Retries while something else goes on: restarts all the time, a clock that is wrong, a Retry-After of an hour. Nothing comes too
soon; how late it may come is measured by test_schedule.py."""
import re
import signal
import time
from datetime import datetime

import events
import rig
import test_schedule
from receiver import Receiver
from test_schedule import DELAYS, TOLERANCE, instants


class WrongClock(rig.Case):
    DELAYS = (2, 4, 4, 4)

    def test_wrong_clock(self):
        """five minutes ahead, or behind: what this machine parked comes back after its delay, no sooner"""
        library = rig.RUNSINK.parent / "tests" / "libwrong_clock.so"
        receiver = Receiver()
        self.addCleanup(receiver.close)
        workers = []
        for shift in ("+300", "-300"):
            topic = f"{self.topic}{shift[0].translate(str.maketrans('+-', 'ab'))}"
            self.kafka.create(topic, 1)
            path = f"/{topic}"
            receiver.play(path, 503)
            settings = self.settings(topics=topic, group=f"{self.group}{shift}", retry__delays="2s,4s", retry__window__webhook="60s")
            workers.append((path, self.worker(settings, env={"LD_PRELOAD": str(library), "WRONG_CLOCK": shift})))
            self.kafka.produce(topic, [(b"", events.dump(events.run({"type": "webhook", "url": receiver.url + path})))])
        for path, worker in workers:
            rig.await_("five attempts", 60, lambda path=path: len(receiver.to(path)) >= 1 + len(self.DELAYS), worker)
            at = [request.at for request in receiver.to(path)]
            rig.say(path, [f"{later - sooner:.1f}" for sooner, later in zip(at, at[1:])])
            due = 0
            for n, delay in enumerate(self.DELAYS, 1):
                due += delay
                self.assertGreater(at[n] - at[0], due - TOLERANCE, at)
                # What is behind the schedule catches up, with half of its delays.
                self.assertGreater(at[n] - at[n - 1], delay / 2 - TOLERANCE, at)
            self.assertEqual(0, worker.stop(), worker.tail())


class Disturbed(test_schedule.Timed):
    def test_retry_after_beyond_the_window(self):
        """a store and a webhook that ask for an hour: what comes meanwhile is tried once before it dies"""
        settings = {**self.settings(), "retry.window.webhook": "4s", "retry.window.s3": "3s"}
        worker = self.worker(settings)
        self.warm_up(worker)
        busy = (503, {"Retry-After": "3600"}, b"")
        self.receiver.play("/", busy)
        first = self.produce_busy("first", 1)
        rig.await_("both have asked for an hour", 30, lambda: all(self.receiver.to(path) for path in first), worker)
        rest = self.produce_busy("rest", 3)
        letters = self.until_dead(8, 60)
        self.assertEqual([], [one.headers for one in letters if int(one.headers["runsink-attempts"]) < 1])
        self.assertEqual({"503"}, {one.headers["runsink-status"] for one in letters})
        for path in first + rest:
            self.assertLessEqual(len(self.receiver.to(path)), 8, path)
        # They are well again long before the hour is over: what comes is delivered in its window, and opens the gate.
        self.receiver.play("/", 200)
        before = [len(self.receiver.to(path)) for path in first]
        begin = time.monotonic()
        again = self.produce_busy("again", 1)
        rig.await_("both are asked again", 30, lambda: all(
            len(self.receiver.to(path)) > n for path, n in zip(again, before)), worker)
        rig.say(f"asked again after {time.monotonic() - begin:.1f} s")
        rig.await_("all is settled", 30, self.quiet, worker)
        self.assertEqual(8, len(self.dead("tenant")))
        self.assertEqual(0, worker.stop())

    def produce_busy(self, name, count):
        """Events of one webhook and one store; returns what their paths begin with."""
        runs = [events.run({"type": "webhook", "url": f"{self.receiver.url}/busy-hook"}) for n in range(count)]
        runs += [events.run({"type": "s3", "bucket": "busy-store", "accessKeyId": "a", "secretAccessKey": "secret-of-it",
                             "region": "us-east-1", "endpoint": self.receiver.url, "forcePathStyle": True}, id=f"{name}-{n}")
                 for n in range(count)]
        self.kafka.produce(self.topic, [(b"", events.dump(one)) for one in runs])
        return ["/busy-hook", "/busy-store/"]

    def test_restarts(self):
        """20 restarts in the hour, by SIGTERM and kill -9 in turn: as if it had never stopped"""
        hooks, stores = self.produce(3)
        begin = time.monotonic()
        worker = self.worker()
        for n in range(20):
            time.sleep(max(0.0, begin + 1.5 * (n + 1) - time.monotonic()))
            if n % 2:
                worker.process.send_signal(signal.SIGKILL)
                worker.wait()
            else:
                self.assertEqual(0, worker.stop())
            worker = self.worker()
        letters = self.until_dead(6, 120)
        late = list(self.check_dead(letters, (33, 8)))
        # The last worker began when it had its partitions, which takes a busy machine long, with what those before it had not come to.
        has = next(line for line in worker.text().splitlines() if "partitions assigned" in line)
        has = datetime.fromisoformat(re.search(r"time=(\S+)Z", has)[1] + "+00:00").timestamp()
        first = min(int(letter.headers["runsink-first-failure"]) for letter in letters) / 1000
        before = min(sum(one.at < has for one in self.receiver.to(path)) for path in hooks)
        behind = max(0, has - first + (33 - before) * DELAYS[-1] / 2 - instants(36)[-1])
        rig.say(f"the last worker began after {has - first:.2f} s, with {33 - before} attempts to come")
        for path in hooks + stores:
            seen = len(self.receiver.to(path))
            # An attempt whose settlement a kill -9 prevented is made, and counted, again.
            self.assertGreaterEqual(seen, 33 if path in hooks else 8)
            rig.say(f"{path}: {seen} requests")
        rig.say("late by " + ", ".join(f"{'webhook' if hook else 'S3'} {by:.2f} s" for hook, by in late))
        self.assertLess(max(by for hook, by in late if hook), behind + 3 * DELAYS[-1])
        self.assertEqual(0, worker.stop())


if __name__ == "__main__":
    rig.main()
