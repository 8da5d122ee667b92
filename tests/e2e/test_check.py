"""`check` builds what `run` builds: what one refuses, the other refuses, with the same code and words."""
import re
import subprocess
import time

from confluent_kafka import Consumer, Producer, TopicPartition

import rig


class Check(rig.Case):
    BROKERS = "127.0.0.1:1"  # nobody is asked

    def refusals(self):
        (self.dir / "file").write_text("")
        (self.dir / "key.pem").write_text("no key")
        kafka = {"kafka.bootstrap.servers": self.BROKERS}
        return (
            ({**kafka, "kafka.acks": "1"}, "acks"),
            ({**kafka, "kafka.session.timeout.ms": "400000"}, "session.timeout.ms"),
            ({**kafka, "kafka.fetch.max.bytes": "1000"}, "fetch.max.bytes"),
            ({**kafka, "kafka.no.such": "1"}, "no such property"),
            ({"kafka.bootstrap.servers": ""}, "kafka.bootstrap.servers: is empty"),
            ({"kafka.bootstrap.servers": " , "}, "kafka.bootstrap.servers: is empty"),
            ({**kafka, "file.root": self.dir / "absent"}, "file.root: there is no folder"),
            ({**kafka, "file.root": self.dir / "file"}, "is no folder"),
            ({**kafka, "sink.override": f"file:{self.dir}/file/below"}, "sink.override"),
            ({**kafka, "ledger.key": self.dir / "key.pem"}, "key.pem"),
            ({**kafka, "anchor.bucket": "b", "anchor.access_key_id": "a", "anchor.secret_access_key": "s"}, "ledger.key"),
        )

    def said(self, command, settings, *arguments):
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        done = rig.runsink(*command, "--set", "topics=a", "--set", "admin.listen=", *sets, *arguments, seconds=30)
        return done.returncode, done.stderr.decode()

    def test_check_refuses_what_run_refuses(self):
        """properties that exclude each other, no broker, folders and keys that are not there: 78 and the name, both times"""
        for settings, phrase in self.refusals():
            with self.subTest(phrase=phrase, **{name.replace(".", "_"): str(value) for name, value in settings.items()}):
                for command in (("run",), ("check",), ("check", "--config-only")):
                    if command[-1] == "--config-only" and {"anchor.bucket", "file.root", "sink.override"} & set(settings):
                        continue  # the key may come from elsewhere, as topics may, and folders may be another machine's
                    code, said = self.said(command, settings)
                    self.assertEqual(78, code, f"{command}: {said}")
                    self.assertIn(phrase, said, command)

    def test_nothing_is_made(self):
        """a folder that run would make is no mistake, and check does not make it"""
        folder = self.dir / "deep" / "er"
        settings = {"kafka.bootstrap.servers": self.BROKERS, "sink.override": f"file:{folder}", "file.root": self.dir}
        for command in (("check", "--config-only"), ("check",)):
            self.assertNotIn("sink.override:", self.said(command, settings)[1])
        self.assertEqual((0, ""), self.said(("check", "--config-only"), settings))
        self.assertFalse(folder.parent.exists())

    def test_no_broker_is_named(self):
        """every command that asks one says so at once, with 78"""
        for command in (("check",), ("run",), ("verify", "runs"), ("redrive", "--topic", "runs", "--dry-run"), ("trace", "run-1")):
            began = time.monotonic()
            done = rig.runsink(*command, "--set", "topics=a", "--set", "admin.listen=", seconds=30)
            said = done.stderr.decode()
            self.assertEqual(78, done.returncode, f"{command}: {said}")
            self.assertIn("kafka.bootstrap.servers: name at least one broker", said, command)
            self.assertLess(time.monotonic() - began, 10, command)

    def test_an_open_transaction_on_the_ledger(self):
        """of a group without committed offsets: named with topic and partition, 75, as run ends; once it is over all is well"""
        self.kafka.create(self.topic)
        self.assertExit(0, self.worker(self.settings(group=rig.unique("other")), "--until-end"))  # makes its topics
        settings = self.settings()
        worker = self.worker(settings, "--until-end")
        self.assertExit(0, worker)
        self.kafka.admin.delete_consumer_groups([self.group])[self.group].result()
        self.assertEqual(0, rig.runsink("check", "--config", worker.config).returncode)
        producer = self.kafka.open_transaction(f"{self.topic}.ledger")
        done = rig.runsink("check", "--config", worker.config)
        said = done.stderr.decode()
        self.assertEqual(75, done.returncode, said)
        self.assertIn(f"held-by-transaction: {self.topic}.ledger/0: an open transaction hides", said)
        self.assertIn("open transaction", done.stdout.decode().splitlines()[-1])
        producer.abort_transaction(30)
        done = rig.runsink("check", "--config", worker.config)
        self.assertEqual(0, done.returncode, done.stderr)

    def begun(self, **settings):
        """A topic of two partitions that a run has read, and the run."""
        self.kafka.create(self.topic, 2)
        worker = self.worker(self.settings(**settings), "--until-end")
        self.assertExit(0, worker)
        return worker

    def test_an_open_transaction_on_the_committed_offsets(self):
        """somebody's, of one partition: named, 75, and the others are shown with their lag; once it is over all is well"""
        worker = self.begun()
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": rig.unique("stranger"), "log_level": 2})
        producer.init_transactions(30)
        producer.begin_transaction()
        outside = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": self.group, "log_level": 2})
        producer.send_offsets_to_transaction([TopicPartition(self.topic, 0, 0)], outside.consumer_group_metadata(), 30)
        outside.close()
        self.kafka.produce(self.topic, [(b"k", b"no event")] * 3, 1)
        done = rig.runsink("check", "--config", worker.config)
        text, said = done.stdout.decode(), done.stderr.decode()
        self.assertEqual(75, done.returncode, said)
        self.assertEqual([f"{self.topic}/0"], re.findall(r"held-by-transaction: (\S+):", said))
        self.assertRegex(text, rf"{self.topic}/0: .*, COMMITTED OFFSET HELD BY AN OPEN TRANSACTION\n")
        self.assertRegex(text, rf"{self.topic}/1: .*, lag 3\n")
        producer.abort_transaction(30)
        done = rig.runsink("check", "--config", worker.config)
        self.assertEqual(0, done.returncode, done.stderr)

    def test_an_open_transaction_on_own_topics(self):
        """of a group that has begun: nothing waits for it, but verify and redrive see nothing of what comes after it"""
        worker = self.begun()
        topics = f"{self.topic}.dead.data", f"{self.topic}.ledger"
        producers = [self.kafka.open_transaction(topic) for topic in topics]
        done = rig.runsink("check", "--config", worker.config)
        self.assertEqual(0, done.returncode, done.stderr)
        for topic in topics:
            self.assertRegex(done.stdout.decode(), rf"{topic}/0: held-by-transaction: an open transaction hides \d+ offsets")
        self.assertIn("2 notes on its topics", done.stdout.decode().splitlines()[-1])
        for producer in producers:
            producer.abort_transaction(30)
        done = rig.runsink("check", "--config", worker.config)
        self.assertEqual((0, False), (done.returncode, b"held-by-transaction" in done.stdout), done.stderr)

    def test_near_misses(self):
        """a mistyped command, or word of an option, is told which was meant"""
        for typed, meant in (("verfy", "verify"), ("chekc", "check"), ("RUN", "run"), ("redrvie", "redrive")):
            for words in ((typed,), ("help", typed), (typed, "--help")):
                done = rig.runsink(*words)
                self.assertEqual((64, b""), (done.returncode, done.stdout), words)
                self.assertEqual(f'runsink: there is no command "{typed}"; did you mean {meant}?', done.stderr.decode().splitlines()[0])
        self.assertNotIn(b"did you mean", rig.runsink("frobnicate").stderr)

    def test_certificates(self):
        """the dates of those that the configuration names, with a warning for one that ends soon; the worker tells them too"""
        for name, days in (("soon", 20), ("later", 400)):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(days),
                            "-subj", "/CN=test", "-keyout", self.dir / f"{name}.key", "-out", self.dir / name], check=True, capture_output=True)
        self.kafka.create(self.topic)
        settings = self.settings(http__ca_bundle=self.dir / "later")
        settings["kafka"] |= {"ssl.ca.location": self.dir / "soon", "security.protocol": "PLAINTEXT"}
        worker = self.worker(settings)
        day = 86400
        rig.await_("ready", 30, lambda: rig.runsink("health", "--ready", "--config", worker.config).returncode == 0, worker)
        left = worker.metric("runsink_certificate_expiry_seconds", key="kafka.ssl.ca.location")
        self.assertTrue(19 * day < left <= 20 * day, left)
        self.assertTrue(worker.metric("runsink_certificate_expiry_seconds", key="http.ca_bundle") > 398 * day)
        self.assertIsNone(worker.metric("runsink_certificate_expiry_seconds", key="http.client_cert"))
        self.assertSays("a certificate expires within 30 days", worker)
        done = rig.runsink("check", "--config", worker.config)
        text = done.stdout.decode()
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertRegex(text, r"(?m)^certificates:\n  kafka.ssl.ca.location +until \S+Z, (19|20) days, EXPIRES SOON\n  http.ca_bundle +until \S+Z, \d+ days$")
        self.assertIn("1 certificate that ends within 30 days", text.splitlines()[-1])


if __name__ == "__main__":
    rig.main()
