"""The Debian package, as CPack makes it: what it says of itself, and its life on a Debian with systemd: installed, configured, started,
reloaded, killed, misconfigured, upgraded, removed."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import events
import machine
import rig
from receiver import Receiver

CREDENTIAL = "/run/credentials/runsink.service/secrets_kafka-password"


def release():
    with open("/etc/os-release") as file:
        fields = dict(line.strip().split("=", 1) for line in file if "=" in line)
    return fields.get("VERSION_CODENAME") if fields.get("ID") == "debian" else None


def fields(package):
    text = subprocess.run(["dpkg-deb", "--field", package], check=True, stdout=subprocess.PIPE).stdout.decode()
    return dict(re.findall(r"(?m)^(\S+): (.*)$", text))


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = rig.Path(tempfile.mkdtemp(prefix="runsink-package-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        made = subprocess.run(["cpack", "--config", rig.RUNSINK.parent / "CPackConfig.cmake", "-B", cls.dir], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if made.returncode != 0:
            raise AssertionError(made.stdout.decode())
        [cls.package] = cls.dir.glob("runsink_*.deb")

    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)

    def test_control(self):
        """its fields, its scripts, the libraries it depends on; the debug information apart"""
        said = fields(self.package)
        self.assertEqual("runsink", said["Package"])
        with open("/etc/debian_version") as file:
            version = f"{rig.runsink('--version').stdout.decode().split()[1]}-1~deb{file.read().split('.')[0]}"
        self.assertEqual(version, said["Version"])
        self.assertTrue(self.package.name.startswith(f"runsink_{version}_"), self.package.name)
        needs = {one.split()[0] for one in said["Depends"].split(", ")}
        self.assertLessEqual({"ca-certificates", "libc6", "libzstd1"}, needs)
        self.assertEqual(rig.librdkafka_is_shared(), "librdkafka1" in needs)
        listed = subprocess.run(["dpkg-deb", "--contents", self.package], check=True, stdout=subprocess.PIPE).stdout.decode()
        owners = {line.split()[1] for line in listed.splitlines()}
        self.assertEqual({"root/root"}, owners)
        self.assertRegex(listed, r"(?m)^drwx------ .* \./etc/runsink/secrets/$")
        self.assertEqual(1, len(list(self.dir.glob("runsink-dbgsym_*.ddeb"))))
        if shutil.which("lintian"):
            found = subprocess.run(["lintian", "--allow-root", self.package], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout
            for line in found.decode().splitlines():
                rig.say(line)

    def next_version(self):
        """The same package under a later version, and with another default configuration."""
        tree, after = self.dir / "tree", self.dir / "after.deb"
        subprocess.run(["dpkg-deb", "--raw-extract", self.package, tree], check=True)
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"(?m)^Version: (.*)$", r"Version: \1+after", control.read_text()))
        config = tree / "etc/runsink/runsink.ini"
        config.write_text(config.read_text() + "# a later version\n")
        subprocess.run(["dpkg-deb", "--build", tree, after], check=True, stdout=subprocess.DEVNULL)
        return after

    def test_life(self):
        """installed on a Debian with systemd it delivers, confined, and lives as its unit says"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        kafka, topic = rig.services().kafka(), rig.unique("runs")
        kafka.create(topic, 1)
        debian = machine.Machine(release(), ("systemd", "ca-certificates"),
                                 {"/root/runsink.deb": self.package, "/root/after.deb": self.next_version()})
        self.addCleanup(debian.close)
        install = ("apt-get", "install", "-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold")
        debian.run(*install, "/root/runsink.deb")
        debian.run("runsink", "check", "--config-only", "--set", "topics=jobs")
        debian.boot()
        self.assertEqual("inactive", debian.run("systemctl", "is-active", "runsink", check=False))
        group = rig.unique("group")
        self.configure(debian.root, topic, group)

        def produce(sink):
            kafka.produce(topic, [(b"k", events.dump(events.run(sink)))])

        def unit(name):
            return debian.run("systemctl", "show", "--property", name, "--value", "runsink")

        def log():
            return debian.run("journalctl", "--no-pager", "--quiet", "--unit", "runsink")

        def until(what, probe):
            try:
                rig.await_(what, 60, probe)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{log()}") from None

        def received(path):
            return len(receiver.to(path))

        def settled():
            return kafka.settled(group, topic)

        # Checked before the first start, with what the service alone gets; then it is what it was.
        def check(*options):
            done = debian.run("sh", "-c", 'runsink-check "$@" 2>&1; echo "exit $?"', "sh", *options, check=False)
            self.assertEqual("", debian.run("find", "/run", "-name", "*runsink-check*"))
            return done

        secret = debian.root / "etc/runsink/secrets/kafka-password"
        self.assertRegex(check(), rf"(?s)sasl.password = \*\*\*.*{topic}.*exit 0$")
        self.assertRegex(check("--config-only", "--set", 'group=100% "$HOME" \\'), r'(?m)^group = 100% "\$HOME" \\ (?s:.*)exit 0$')
        secret.rename(secret.with_suffix(".away"))
        self.assertRegex(check(), r"(?s)secrets_kafka-password.*exit 78$")
        secret.with_suffix(".away").rename(secret)
        (debian.root / "etc/default/runsink").write_text("RUNSINK_LANES=many\n")
        self.assertRegex(check("--config-only"), r'(?s)RUNSINK_LANES.*"many".*exit 78$')
        (debian.root / "etc/default/runsink").write_text("RUNSINK_LANES=2\n")
        self.assertRegex(check("--config-only"), r"(?sm)^lanes = 2 .*exit 0$")
        self.assertEqual(("inactive", "success", "exec", "0"), tuple(map(unit, ("ActiveState", "Result", "Type", "NRestarts"))))
        self.assertIn(" run", unit("ExecStart"))

        # Started by hand, as the description says.
        produce({"type": "webhook", "url": receiver.url + "/one"})
        produce({"type": "file", "path": "archive"})
        debian.run("systemctl", "enable", "--now", "runsink")
        archive = debian.root / "var/lib/private/runsink"
        until("both are delivered", lambda: received("/one") == 1 and [p for p in archive.rglob("*.json")])
        pid = int(unit("MainPID"))
        status = dict(re.findall(r"(?m)^(\w+):\s*(.*)$", debian.run("cat", f"/proc/{pid}/status")))
        self.assertNotEqual("0", status["Uid"].split()[0])
        self.assertEqual(("0" * 16, "1", "2"), (status["CapEff"], status["NoNewPrivs"], status["Seccomp"]))
        self.assertIn("ok", debian.run("runsink", "health"))

        self.assertRegex(check(), rf"(?sm)^lanes = 2 .*{topic}.*exit 0$")
        self.assertEqual(str(pid), unit("MainPID"), "a check leaves a service that runs alone")

        # Reloaded, killed, and there again.
        debian.run("systemctl", "reload", "runsink")
        until("it reads its configuration anew", lambda: "read anew" in log())
        until("all is settled, so that nothing is delivered again", settled)
        debian.run("systemctl", "kill", "--signal=KILL", "runsink")
        until("it was restarted", lambda: unit("ActiveState") == "active" and int(unit("MainPID")) not in (0, pid))
        produce({"type": "webhook", "url": receiver.url + "/two"})
        until("the restarted one delivers", lambda: received("/two") == 1)

        # Upgraded: restarted, with its configuration.
        pid = int(unit("MainPID"))
        debian.run(*install, "/root/after.deb")
        self.assertNotEqual(pid, int(unit("MainPID")))
        self.assertIn(topic, (debian.root / "etc/runsink/runsink.ini").read_text())
        produce({"type": "webhook", "url": receiver.url + "/three"})
        until("the upgraded one delivers", lambda: received("/three") == 1)

        # Stopped: drained, which is no failure.
        debian.run("systemctl", "stop", "runsink")
        self.assertEqual(("success", "0"), (unit("Result"), unit("ExecMainStatus")))
        self.assertEqual((1, 1, 1), (received("/one"), received("/two"), received("/three")))

        # A configuration that can't work is not tried again.
        config = debian.root / "etc/runsink/runsink.ini"
        good = config.read_text()
        config.write_text("no such key = 1\n" + good)
        debian.run("systemctl", "start", "runsink", check=False)
        until("it has failed", lambda: unit("ActiveState") == "failed")
        self.assertEqual(("78", "0"), (unit("ExecMainStatus"), unit("NRestarts")))
        config.write_text(good)
        debian.run("systemctl", "reset-failed", "runsink")

        # Removed: stopped in order; purged: what the administrator made stays.
        debian.run("systemctl", "start", "runsink")
        until("it runs", lambda: "partitions assigned" in log().rpartition("Started")[2])
        debian.run("apt-get", "remove", "-y", "-q", "runsink")
        self.assertEqual("event=done", re.search("event=done", log().rpartition("event=draining")[2])[0])
        self.assertTrue(config.exists())
        debian.run("apt-get", "purge", "-y", "-q", "runsink")
        self.assertFalse(config.exists())
        self.assertTrue((debian.root / "etc/runsink/secrets/kafka-password").exists())
        self.assertTrue([p for p in archive.rglob("*.json")])

    @staticmethod
    def configure(root, topic, group):
        (root / "etc/runsink/runsink.ini").write_text(rig.config_text({
            "topics": topic, "group": group, "window.age": "200ms", "egress.allow": "127.0.0.0/8", "egress.http": "true",
            "file.root": "/var/lib/runsink", "admin.listen": f"127.0.0.1:{rig.free_port()}", "slot": "machine",
            "kafka": {"bootstrap.servers": rig.services().env["KAFKA_SASL"], "security.protocol": "SASL_PLAINTEXT",
                      "sasl.mechanism": "PLAIN", "sasl.username": "runsink", "sasl.password": "@" + CREDENTIAL}}))
        secret = root / "etc/runsink/secrets/kafka-password"
        secret.write_text("runsink\n")
        secret.chmod(0o600)
        os.chown(secret, 0, 0)


if __name__ == "__main__":
    lacking = machine.missing() or next((f"{name}: scripts/deps --package" for name in ("dpkg-shlibdeps", "file")
                                         if not shutil.which(name)), None) or (None if release() else "Debian")
    if lacking:
        print(f"skipped: needs {lacking}")
        sys.exit(77)
    rig.main()
