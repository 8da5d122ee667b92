"""The container image: what is in it, and that the worker in it delivers as anywhere else, from a broker that wants SCRAM or TLS, by
names that the name service resolves, and drains on SIGTERM."""
import os
import shutil
import stat
import sys
import threading
import unittest

from confluent_kafka import KafkaException

import events
import rig
from container import Container, Image
from netns import Network, Unavailable
from receiver import Receiver

PUBLIC = "93.184.215.14"  # on the network's own loopback
PORT = 8080
SIZE_MB = 35
SECRET = "/run/secrets/kafka-password"

TOOLS = ("buildah", "crun", "mmdebstrap")

_image = None


def image():
    """The image, once for all tests."""
    global _image
    if _image is None:
        _image = Image()
    return _image


class Contents(unittest.TestCase):
    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)
        self.image = image()

    def files(self):
        return [(path, path.lstat()) for path in self.image.root.rglob("*") if not path.is_symlink()]

    def test_small(self):
        """no larger than its libraries make it, and nothing in it can be run but the program"""
        size = sum(info.st_size for _, info in self.files() if stat.S_ISREG(info.st_mode))
        rig.say(f"{size / 1e6:.1f} MB")
        self.assertLess(size / 1e6, SIZE_MB)
        runs = [path for path, info in self.files() if stat.S_ISREG(info.st_mode) and info.st_mode & 0o111 and ".so" not in path.name]
        self.assertEqual(["/usr/bin/runsink"], [f"/{path.relative_to(self.image.root)}" for path in runs])

    def test_owned_by_root(self):
        """nothing that the worker's user could change, nothing setuid"""
        uid = self.image.user()[0]
        for path, info in self.files():
            inside = f"/{path.relative_to(self.image.root)}"
            self.assertEqual(uid if inside == "/var/lib/runsink" else 0, info.st_uid, inside)
            self.assertEqual(0, info.st_mode & 0o6000, inside)
            if inside != "/tmp":
                self.assertEqual(0, info.st_mode & stat.S_IWOTH, inside)
            if stat.S_ISREG(info.st_mode):
                self.assertTrue(info.st_mode & stat.S_IROTH, inside)

    def test_described(self):
        """user, entry point, health check, signal and labels"""
        config = self.image.config
        self.assertEqual("65532:65532", config["User"])
        self.assertEqual((["/usr/bin/runsink"], ["run"]), (config["Entrypoint"], config["Cmd"]))
        self.assertEqual(["CMD", "/usr/bin/runsink", "health"], config["Healthcheck"]["Test"])
        self.assertEqual("SIGTERM", config["StopSignal"])
        self.assertEqual(["9464/tcp"], list(config["ExposedPorts"]))
        labels = config["Labels"]
        version = rig.runsink("--version").stdout.decode().split()[1]
        self.assertEqual(version, labels["org.opencontainers.image.version"])
        self.assertEqual("GPL-3.0-only", labels["org.opencontainers.image.licenses"])
        self.assertRegex(labels["org.opencontainers.image.revision"], r"^([0-9a-f]{40}(-modified)?|unknown)$")

    def test_packages(self):
        """each library's package is named for scanners, and has its copyright file; the program's own says GPL"""
        root = self.image.root
        packages = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
        self.assertLessEqual({"libc6", "librdkafka1", "libssl3t64", "ca-certificates", "base-files"}, packages)
        for name in packages:
            text = (root / "var/lib/dpkg/status.d" / name).read_text()
            self.assertIn(f"Package: {name}\n", text)
            self.assertRegex(text, r"(?m)^Version: \S+$")
            self.assertTrue((root / "usr/share/doc" / name / "copyright").stat().st_size, name)
        self.assertIn("version 3", (root / "usr/share/doc/runsink/copyright").read_text())
        self.assertIn("trixie", (root / "etc/os-release").resolve().name + (root / "usr/lib/os-release").read_text())


class Running(rig.Case):
    def setUp(self):
        self.image = image()
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    def container(self, settings, **options):
        one = Container(self.dir, self.image, settings, **options)
        self.workers.append(one)
        return one

    def scram(self, mechanism, password="runsink"):
        settings = self.settings()
        settings["kafka"] = {**settings["kafka"], "bootstrap.servers": rig.services().env["KAFKA_SASL"],
                             "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": mechanism, "sasl.username": "runsink",
                             "sasl.password": "@" + SECRET}
        return settings, {SECRET: password + "\n"}

    def checkable(self):
        """Waits for the group's coordinator, which a new broker does not have at once, and which `runsink check` asks."""
        self.kafka.create(self.topic, 1)
        group = self.group

        def answers():
            try:
                return self.kafka.admin.describe_consumer_groups([group])[group].result()
            except KafkaException:
                return None
        rig.await_("the group's coordinator answers", 30, answers)

    def hook(self, path="/hook"):
        return {"type": "webhook", "url": self.receiver.url + path}

    def test_delivers(self):
        """from a broker that wants SCRAM-SHA-512 to every kind of sink, confined; healthy, and 0 after SIGTERM"""
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        bucket = store.bucket(rig.unique("image"))
        archive = self.dir / "archive"
        archive.mkdir()
        os.chown(archive, *self.image.user())
        self.kafka.create(self.topic, 1)
        for sink in (self.hook(), store.sink(bucket), {"type": "file", "path": "x"}) * 5:
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink)))])
        settings, secrets = self.scram("SCRAM-SHA-512")
        worker = self.container({**settings, "file.root": "/var/lib/runsink"}, secrets=secrets,
                                mounts={"/var/lib/runsink": (archive, "rw")})
        rig.await_("everything is settled", 60, self.quiet, worker)
        with open(f"/proc/{worker.pid()}/status") as status:
            fields = {name: value.strip() for name, _, value in (line.partition(":") for line in status)}
        self.assertEqual(["65532"] * 4, fields["Uid"].split())
        self.assertEqual(["65532"] * 4, fields["Gid"].split())
        self.assertEqual(("", "1", "2"), (fields["Groups"], fields["NoNewPrivs"], fields["Seccomp"]))
        self.assertEqual({"0" * 16}, {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")})
        with open(f"/proc/{worker.pid()}/mountinfo") as mounts:
            options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
        self.assertIn("ro", options["/"])
        for probe in (self.image.config["Healthcheck"]["Test"][1:], ["/usr/bin/runsink", "health", "--ready"]):
            answer = worker.execute(*probe)
            self.assertEqual(0, answer.returncode, answer)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual((5, 5, 5), (len(self.receiver.requests), len(store.keys(bucket)),
                                     sum(path.is_file() for path in archive.rglob("*"))))
        for fault in ("tenant", "data", "system"):
            self.assertEqual([], [r.headers for r in self.dead(fault)])

    def test_scram(self):
        """SCRAM-SHA-256 too; a wrong password is an error that says so, without the password"""
        self.checkable()
        settings, secrets = self.scram("SCRAM-SHA-256")
        good = self.container(settings, command=["check"], secrets=secrets)
        self.assertExit(0, good)
        settings, secrets = self.scram("SCRAM-SHA-256", password="wrong-canary")
        bad = self.container(settings, command=["check"], secrets=secrets)
        self.assertExit(69, bad)
        self.assertIn("uthentication failed", bad.text())
        self.assertNotIn("wrong-canary", bad.text())

    def test_certificates(self):
        """a broker's certificate is judged by the image's CA bundle, or by the one that is mounted there"""
        self.checkable()
        settings = self.settings()
        settings["kafka"] = {**settings["kafka"], "bootstrap.servers": rig.services().env["KAFKA_TLS"], "security.protocol": "SSL"}
        ours = rig.Path(rig.services().env["KAFKA_CA"]).read_text()
        trusted = self.container(settings, command=["check"], secrets={"/etc/ssl/certs/ca-certificates.crt": ours})
        self.assertExit(0, trusted)
        unknown = self.container(settings, command=["check"])
        self.assertExit(69, unknown)
        self.assertIn("certificate verify failed", unknown.text())

    def test_own_configuration(self):
        """without a mounted configuration: the image's, in which the admin port is reached from outside; variables win"""
        worker = self.container(None, command=["check", "--config-only"], env={"RUNSINK_TOPICS": "jobs"})
        self.assertExit(0, worker)
        self.assertRegex(worker.text(), r"(?m)^admin\.listen = 0\.0\.0\.0:9464 ")
        self.assertRegex(worker.text(), r"(?m)^topics = jobs ")

    def test_names(self):
        """names are resolved, by a name server and by /etc/hosts"""
        try:
            net = Network([PUBLIC + "/32"])
        except (Unavailable, OSError) as error:
            self.skipTest(f"needs a network namespace: {error}")
        self.addCleanup(net.close)
        net.name_server(lambda name, kind: [PUBLIC] if kind == "A" and name == "hook.example.com" else [])
        host, _, port = self.kafka.bootstrap.rpartition(":")
        net.forward("127.0.0.1", int(port), (host, int(port)))
        receiver = net.run(lambda: Receiver(address=(PUBLIC, PORT)))
        self.addCleanup(receiver.close)
        resolv, hosts = self.dir / "resolv.conf", self.dir / "hosts"
        resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        hosts.write_text(f"127.0.0.1 localhost\n{PUBLIC} other.example.net\n")
        self.kafka.create(self.topic, 1)
        for name in ("hook.example.com", "other.example.net"):
            sink = {"type": "webhook", "url": f"http://{name}:{PORT}/{name}"}
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink)))])
        worker = self.container(self.settings(), mounts={"/etc/resolv.conf": (resolv, "ro"), "/etc/hosts": (hosts, "ro")},
                                network=f"/proc/{net.process.pid}/ns/net")
        rig.await_("everything is settled", 60, self.quiet, worker)
        self.assertEqual({"/hook.example.com", "/other.example.net"}, {one.path for one in receiver.requests})
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_sigterm_drains(self):
        """what flies when SIGTERM comes is finished and settled, and nothing is delivered twice afterwards"""
        release = threading.Event()
        self.addCleanup(release.set)

        def answer(handler):
            release.wait(30)
            handler.send_response(200)
            handler.send_header("content-length", "0")
            handler.end_headers()

        self.receiver.play("/slow", answer)
        self.kafka.create(self.topic, 1)
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(self.hook("/slow")))) for _ in range(3)])
        settings = self.settings(drain__timeout="30s")
        first = self.container(settings)
        rig.await_("three requests in flight", 60, lambda: len(self.receiver.to("/slow")) == 3, first)
        first.signal(self.image.config["StopSignal"])
        rig.await_("it says that it drains", 20, lambda: "drain" in first.text(), first)
        release.set()
        self.assertExit(0, first)
        self.assertTrue(self.kafka.settled(self.group, self.topic))
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(self.hook("/after"))))])
        second = self.container(settings)
        rig.await_("the next one is delivered", 60, lambda: self.receiver.to("/after") and self.quiet(), second)
        self.assertEqual(0, second.stop(), second.tail())
        self.assertEqual(3, len(self.receiver.to("/slow")))


if __name__ == "__main__":
    lacking = "root" if os.geteuid() != 0 else ", ".join(name for name in TOOLS if not shutil.which(name))
    if lacking:
        print(f"skipped: needs {lacking} (scripts/deps --image)")
        sys.exit(77)
    rig.main()
