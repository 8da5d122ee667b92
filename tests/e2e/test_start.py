"""What the process does while it starts, or can't: signals, exit codes, a producer that the broker refuses."""
import os
import signal
import socket
import time

import events
import rig
from receiver import Receiver


def holds_signals(worker):
    """Whether the process has begun to take signals itself."""
    with open(f"/proc/{worker.process.pid}/status") as file:
        for line in file:
            if line.startswith("SigBlk:"):
                return int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1


class Start(rig.Case):
    def test_signals_during_the_start(self):
        """a broker that accepts and says nothing: SIGHUP does not kill a start, SIGTERM ends it at once, with 0"""
        silent = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.addCleanup(silent.close)
        settings = self.settings(kafka={"bootstrap.servers": f"127.0.0.1:{silent.getsockname()[1]}"})
        worker = self.worker(settings)
        rig.await_("signals are held", 30, lambda: holds_signals(worker), worker)
        os.kill(worker.process.pid, signal.SIGHUP)
        began = time.monotonic()
        self.assertEqual(0, worker.stop(20), worker.tail())
        rig.say(f"ended {time.monotonic() - began:.1f} s after the signal")
        self.assertTrue(worker.says("stopped before it had started"), worker.tail())

    def test_too_few_brokers_for_a_topic(self):
        """own topics can't be made while brokers are away: 69, not 78, after which systemd would not try again"""
        self.kafka.create(self.topic, 1)
        worker = self.worker(self.settings(topics__replication=3))
        self.assertExit(69, worker)
        self.assertTrue(worker.says(f"can't create topic {self.topic}."), worker.tail())
        worker = self.worker(self.settings(kafka={"bootstrap.servers": self.kafka.bootstrap, "no.such": 1}))
        self.assertExit(78, worker)

    def test_reloads_have_no_limit(self):
        """the 1,101st SIGHUP is taken as the first one"""
        self.kafka.create(self.topic, 1)
        worker = self.worker(self.settings())
        rig.await_("a member", 30, lambda: self.kafka.members(self.group) == 1, worker)

        def taken():
            for _ in range(100):
                os.kill(worker.process.pid, signal.SIGHUP)
                time.sleep(0.001)  # two that come together count as one
            return worker.text().count("configuration read anew") > 1000
        rig.await_("more than a thousand reloads", 120, taken, worker)
        worker.config.write_text(worker.config.read_text() + "\n[log]\nlevel = debug\n")
        os.kill(worker.process.pid, signal.SIGHUP)
        rig.await_("the change", 30, lambda: worker.says("log.level"), worker)
        self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
