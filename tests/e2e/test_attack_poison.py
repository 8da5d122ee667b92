"""A record that makes a worker crash, hang or run out of memory each time it is touched: the worker dies a few times, then the
record is set aside, and all others are delivered as if nothing had happened."""
import signal

import events
import rig


def poison(sink, act, **more):
    """A run that does this to a worker of the tests' build: crash, hang or eat, at decode, build or sent."""
    return events.run(sink, reason={"type": "another-job-run-active", "message": f"hook:{act}"}, **more)


class Watchdog(rig.Case):
    def hooked(self, **more):
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


if __name__ == "__main__":
    rig.main()
