"""What the commands say about themselves and about a configuration."""
import json
import re
import subprocess
import time

from confluent_kafka import Producer

import events
import rig
from receiver import Receiver

ROOT = rig.Path(__file__).resolve().parents[2]


class Tools(rig.Case):
    def test_version(self):
        """--version names the version, the commit and each library; the first line is for scripts"""
        lines = rig.runsink("--version").stdout.decode().splitlines()
        self.assertRegex(lines[0], r"^runsink \d+\.\d+\.\d+ \(commit (unknown|[0-9a-f]{12,40}(-modified)?)\)$")
        for name in ("librdkafka", "libcurl/", "OpenSSL", "cJSON", "zstd", "libmicrohttpd", "ISA-L", "libs3"):
            self.assertTrue([line for line in lines[1:] if re.search(name + r"\b ?\d*", line)], name)

    def test_help(self):
        """`help COMMAND` is `COMMAND --help`, for each command of `help`"""
        every = rig.runsink("help")
        self.assertEqual((0, rig.runsink("--help").stdout), (every.returncode, every.stdout))
        commands = re.findall(r"(?m)^  ([a-z]+) ", every.stdout.decode())
        self.assertIn("redrive", commands)
        for command in commands:
            done = rig.runsink("help", command)
            self.assertEqual((0, rig.runsink(command, "--help").stdout), (done.returncode, done.stdout), command)
        for arguments in (["nothing"], ["run", "check"]):
            self.assertEqual(64, rig.runsink("help", *arguments).returncode)

    def test_run_builds_the_program(self):
        """scripts/run builds what it runs, and no test"""
        log, stand_in = self.dir / "log", self.dir / "cmake"
        stand_in.write_text(f'#!/bin/sh\necho "$@" >>{log}\n')
        stand_in.chmod(0o755)
        subprocess.run([ROOT / "scripts/run", "--version"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       env={**rig.ENVIRONMENT, "PATH": f"{self.dir}:{rig.ENVIRONMENT['PATH']}"})
        builds = [line for line in log.read_text().splitlines() if line.startswith("--build")]
        self.assertEqual(["--build --preset release --target runsink"], builds)

    def check(self, *arguments, settings=None):
        path = self.dir / "check.ini"
        path.write_text(rig.config_text(settings or self.settings()))
        done = rig.runsink("check", "--config", path, *arguments)
        return done.returncode, done.stdout.decode()

    def test_check(self):
        """check shows what differs from the defaults, all with --all, and ends in a verdict"""
        self.kafka.create(self.topic, 1)
        code, text = self.check(settings={**self.settings(), "window.records": "1000"})
        self.assertEqual(0, code, text)
        self.assertRegex(text, r"(?m)^window\.age = 200ms +# ")
        self.assertNotRegex(text, r"(?m)^window\.records = |# default$")
        left_out = int(re.search(r"(?m)^# (\d+) others are at their defaults", text).group(1))
        code, full = self.check("--all")
        self.assertEqual(left_out, len(re.findall(r"(?m)# default$", full)))
        verdict = lambda text: text.splitlines()[-1]
        self.assertEqual("verdict: all is as run needs it", verdict(text))
        self.assertEqual("all is as run needs it", json.loads(self.check("--json")[1])["verdict"])
        self.assertIn("no broker was asked", verdict(self.check("--config-only")[1]))
        self.kafka.produce(self.topic, [(b"", b"no json"), (b"", b"nor this")], 0)
        self.assertExit(0, self.worker(self.settings(), "--until-end"))
        code, text = self.check()
        self.assertEqual((0, "verdict: all is as run needs it; to look at: 2 dead letters lie open"), (code, verdict(text)))
        nobody = {**self.settings(), "kafka": {"bootstrap.servers": f"127.0.0.1:{rig.free_port()}"}}
        for settings, expected in ((nobody, 69), ({**self.settings(), "topics.create": "false", "group": rig.unique("g"),
                                                   "topics": self.topic + "-other"}, None), ({"window.age": "x"}, 78)):
            code, text = self.check(settings=settings)
            self.assertTrue(code == expected or expected is None and code, text)
            self.assertRegex(verdict(text), rf"^verdict: .* \(exit code {code}\)$")

    def test_freshness(self):
        """the age of what was delivered, by Kafka's timestamp and type of sink; a retry counts from the first, too"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 1)
        (self.dir / "root").mkdir()
        settings = self.settings(file__root=self.dir / "root", retry__delays="1s")
        receiver.play("/late", 500, 200)
        producer, now = Producer({"bootstrap.servers": self.kafka.bootstrap}), int(time.time() * 1000)
        hook, late = ({"type": "webhook", "url": receiver.url + path} for path in ("/hook", "/late"))
        for sink, age_s in ((hook, 0), (hook, 120), (hook, 7200), (late, 1000), (hook, -3000), ({"type": "file", "path": "x"}, 400000)):
            producer.produce(self.topic, events.dump(events.run(sink)), timestamp=now - age_s * 1000)
        self.assertEqual(0, producer.flush(30))
        worker = self.worker(settings)
        rig.await_("the admin server listens", 30, lambda: worker.says("admin server listens"), worker)
        count = lambda sink: worker.metric("runsink_freshness_seconds_count", sink=sink)
        rig.await_("all are delivered", 60, lambda: (count("webhook"), count("file")) == (5, 1), worker)
        below = lambda sink, le: worker.metric("runsink_freshness_seconds_bucket", sink=sink, le=le)
        self.assertEqual([2, 3, 3, 4, 5], [below("webhook", le) for le in ("60", "300", "900", "3600", "21600")])
        self.assertEqual([0, 1], [below("file", le) for le in ("86400", "+Inf")])
        self.assertGreater(worker.metric("runsink_freshness_seconds_sum", sink="webhook"), 120 + 7200 + 1000)
        self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
