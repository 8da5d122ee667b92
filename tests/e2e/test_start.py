"""What the process does while it starts, or can't: signals, exit codes, a producer that the broker refuses."""
import os
import signal
import socket
import time
import urllib.error

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
        self.assertSays("stopped before it had started", worker)

    def test_too_few_brokers_for_a_topic(self):
        """own topics can't be made while brokers are away: 69, not 78, after which systemd would not try again"""
        self.kafka.create(self.topic, 1)
        worker = self.worker(self.settings(topics__replication=3))
        self.assertExit(69, worker)
        self.assertSays(f"can't create topic {self.topic}.", worker)
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

    def test_latest_when_offsets_are_lost(self):
        """what the ledger does not know of the group is read from its first record: what came meanwhile is not passed over; a new group says what is"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 2)

        def send(partition, name):
            run = events.run({"type": "webhook", "url": f"{receiver.url}/{name}"}, id=name)
            self.kafka.produce(self.topic, [(b"k", events.dump(run))], partition)
        send(0, "old-0")
        send(1, "old-1")
        settings = self.settings(start="latest")
        worker = self.worker(settings)
        rig.await_("its beginning is committed", 30, lambda: self.kafka.committed(self.group, self.topic) == {0: 1, 1: 1}, worker)
        self.assertSays("passed_over=2", worker)
        send(0, "new-0")
        self.until_settled(worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.forget()
        send(1, "away-1")
        worker = self.worker(settings)
        rig.await_("what came meanwhile", 60, lambda: receiver.to("/away-1"), worker)
        self.assertSays("partitions of which the ledger knows nothing are read from their first record", worker)
        self.until_settled(worker)
        self.assertEqual([0, 1, 1, 1], [len(receiver.to("/" + name)) for name in ("old-0", "new-0", "old-1", "away-1")])
        self.assertEqual(0, worker.stop(), worker.tail())
        worker = self.worker(self.settings(start="latest", ledger="false", group=self.group + "-b"))
        rig.await_("it warns", 30, lambda: worker.says("with ledger = false nothing tells"), worker)
        self.assertIn(" records=4", worker.text())
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_reload_of_what_is_no_file(self):
        """the configuration's place, or a secret's, is taken by a pipe that nobody writes into: the reload is refused, signals go on being taken"""
        self.kafka.create(self.topic, 1)
        secret = self.dir / "secret"
        secret.write_text("whsec_" + "A" * 40)
        worker = self.worker(self.settings(webhook__signing_secrets=f"@{secret}"))
        rig.await_("a member", 30, lambda: self.kafka.members(self.group) == 1, worker)
        for n, (path, why) in enumerate(((worker.config, "Is no regular file"), (secret, "Nobody writes into this pipe")), 1):
            kept = path.read_bytes()
            path.unlink()
            os.mkfifo(path)
            os.kill(worker.process.pid, signal.SIGHUP)
            rig.await_("it is refused", 20, lambda: worker.text().count("could not be read anew") == n and worker.says(why), worker)
            path.unlink()
            path.write_bytes(kept)
        os.kill(worker.process.pid, signal.SIGHUP)
        rig.await_("it is read again", 20, lambda: worker.says("configuration read anew"), worker)
        self.assertEqual(0, worker.stop(20), worker.tail())

    def forget(self):
        """The group's offsets, as after offsets.retention.minutes."""
        for done in self.kafka.admin.delete_consumer_groups([self.group]).values():
            done.result()

    def test_ledger_behind_an_open_transaction(self):
        """the group's offsets have expired, and what the ledger knows lies behind a stranger's open transaction: nobody is called again"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 1)

        def send(name):
            run = events.run({"type": "webhook", "url": receiver.url + "/hook"}, id=name)
            self.kafka.produce(self.topic, [(b"k", events.dump(run))])

        send("first")
        worker = self.worker()
        self.until_settled(worker)
        stranger = self.kafka.open_transaction(f"{self.topic}.ledger")
        send("second")
        self.until_settled(worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.forget()
        stuck = self.worker()
        rig.await_("it says what it waits for", 20, lambda: stuck.says("a transaction is open in the ledger"), stuck)
        told = self.worker()
        rig.await_("it says so, too", 20, lambda: told.says("a transaction is open in the ledger"), told)
        began = time.monotonic()
        self.assertEqual(0, told.stop(20), told.tail())
        rig.say(f"ended {time.monotonic() - began:.1f} s after the signal")
        self.assertExit(75, stuck)
        self.assertRegex(stuck.text(), rf"{self.topic}.ledger/0: .*open transaction")
        worker = self.worker()
        rig.await_("it waits", 20, lambda: worker.says("a transaction is open in the ledger"), worker)
        stranger.abort_transaction(30)
        send("third")
        self.until_settled(worker)
        self.assertEqual(3, len(receiver.requests))
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_refused_producer(self):
        """the broker refuses the producer for good: nothing is read, nobody is called, and everything that tells says why"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "webhook", "url": receiver.url + "/hook"})))])
        settings = self.settings()
        settings["kafka"]["transaction.timeout.ms"] = 950000  # the broker's transaction.max.timeout.ms is 900000
        worker = self.worker(settings)
        rig.await_("it was tried again", 60, lambda: worker.text().count("refuses the lane's producer") >= 3, worker)
        self.assertEqual([], receiver.requests)
        self.assertEqual({}, self.kafka.committed(self.group, self.topic))
        self.assertEqual(0, worker.metric("runsink_ready"))
        self.assertEqual(1, worker.metric("runsink_trouble", cause="producer-refused"))
        with self.assertRaises(urllib.error.HTTPError) as refused:
            worker.http("/readyz")
        self.assertIn("refuse the transactional producer", refused.exception.read().decode())
        checked = rig.runsink("check", "--config", worker.config)
        self.assertEqual(78, checked.returncode, checked.stderr)
        self.assertIn("transaction.max.timeout.ms", checked.stderr.decode())
        began = time.monotonic()
        self.assertEqual(0, worker.stop(20), worker.tail())
        rig.say(f"ended {time.monotonic() - began:.1f} s after the signal")
        worker = self.worker(self.settings())
        self.until_settled(worker)
        self.assertEqual(1, len(receiver.requests))


class Mended(rig.Case):
    def test_refused_producer_is_mended(self):
        """a broker whose transaction.max.timeout.ms is too small: once it is mended the worker goes on, with no restart of its own"""
        own = rig.Services(self.dir / "services", ("kafka",))
        self.addCleanup(own.stop)
        self.kafka = own.kafka()
        receiver = Receiver()
        self.addCleanup(receiver.close)
        properties = self.dir / "services/kafka-1/server.properties"
        kept = properties.read_text()
        properties.write_text(kept + "\ntransaction.max.timeout.ms=30000\n")
        own.verb("restart", "kafka")
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "webhook", "url": receiver.url + "/hook"})))])
        worker = self.worker(self.settings())
        rig.await_("it listens", 60, lambda: worker.says("admin server listens"), worker)
        rig.await_("the cause", 60, lambda: worker.metric("runsink_trouble", cause="producer-refused") == 1, worker)
        self.assertEqual(0, worker.metric("runsink_ready"))
        stuck = self.worker(self.settings(group=self.group + "-b", ready__patience="3s"), "--until-end")
        self.assertExit(75, stuck)
        self.assertSays("the run ends before the end", stuck)
        self.assertSays("refuse the transactional producer", stuck)
        self.assertEqual([], receiver.requests)
        properties.write_text(kept)
        own.verb("restart", "kafka")
        self.until_settled(worker, 120)
        self.assertEqual(1, len(receiver.requests))
        rig.await_("ready", 60, lambda: worker.metric("runsink_ready") == 1, worker)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_broker_lost_in_a_settlement(self):
        """the only broker falls silent before the records' transaction ends, then SIGTERM: 75, and the log says what is in doubt"""
        own = rig.Services(self.dir / "services", ("kafka",))
        self.addCleanup(own.stop)
        self.addCleanup(own.signal, "kafka-1", signal.SIGCONT)
        self.kafka = own.kafka()
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 1)

        def silence(handler):
            own.signal("kafka-1", signal.SIGSTOP)
            handler.send_response(200)
            handler.send_header("content-length", "0")
            handler.end_headers()
        receiver.play("/last", silence)
        settings = self.settings(drain__timeout="2s")
        worker = self.worker(settings)

        def send(name):
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run({"type": "webhook", "url": f"{receiver.url}/{name}"})))])
        send("first")
        self.until_settled(worker)
        send("last")
        rig.await_("it is delivered", 30, lambda: receiver.to("/last"), worker)
        self.assertEqual(75, worker.stop(150), worker.tail())  # librdkafka sends offsets for a minute
        self.assertRegex(worker.text(), rf"it is not known whether these records were settled.* first_topic={self.topic} partition=0 from=1 to=2")
        receiver.play("/last", 200)
        own.signal("kafka-1", signal.SIGCONT)
        worker = self.worker(settings)
        self.until_settled(worker, 120)
        self.assertEqual(0, worker.stop(60), worker.tail())


if __name__ == "__main__":
    rig.main()
