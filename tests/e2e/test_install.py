"""What `cmake --install` puts where, and whether the systemd unit says the same as the rest of the project."""
import json
import re
import shutil
import subprocess
import tempfile
import unittest

import rig

ROOT = rig.Path(__file__).parents[2]
UNIT = ROOT / "config/systemd/runsink.service"
PROFILE = ROOT / "config/seccomp/runsink.json"
# What only a container's runtime calls under the profile; systemd is done with these before its filter holds.
RUNTIME_CALLS = {"capset", "setgid", "setgroups", "setuid"}
EXPOSURE = 12  # of 100: systemd-analyze security --threshold


def unit_values(name):
    return re.findall(rf"(?m)^{name}=(.*)$", UNIT.read_text())


class Install(unittest.TestCase):
    # As in the source, so that links between them lead somewhere.
    PAGES = {f"/usr/share/doc/runsink/{page.relative_to(ROOT)}"
             for page in (ROOT / "README.md", *(page for folder in ("config", "sinks", "worker") for page in (ROOT / folder).rglob("*.md")))}

    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)
        self.dir = rig.Path(tempfile.mkdtemp(prefix="runsink-install-"))
        self.addCleanup(shutil.rmtree, self.dir)

    def install(self):
        subprocess.run(["cmake", "--install", rig.RUNSINK.parent, "--prefix", "/usr"], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, env={**rig.ENVIRONMENT, "DESTDIR": str(self.dir)})

    def test_files(self):
        """everything in its place; the secrets' folder is closed"""
        self.install()
        found = {f"/{path.relative_to(self.dir)}": path for path in self.dir.rglob("*") if path.is_file()}
        self.assertEqual({
            "/etc/runsink/runsink.ini", "/usr/bin/runsink", "/usr/sbin/runsink-check",
            "/usr/lib/systemd/system/runsink.service", *self.PAGES,
            *(() if rig.librdkafka_is_shared() else ("/usr/share/doc/runsink/copyright.librdkafka",)),
            "/usr/share/man/man1/runsink.1", "/usr/share/man/man5/runsink.ini.5",
            "/usr/share/bash-completion/completions/runsink", "/usr/share/doc/runsink/copyright", "/usr/share/doc/runsink/runsink.ini", "/usr/share/runsink/grafana/runsink.json",
            "/usr/share/doc/runsink/config/outcomes.schema.json", "/usr/share/runsink/prometheus/alerts.yml", "/usr/share/runsink/seccomp/runsink.json"}, set(found))
        for page in self.PAGES:
            text = found[page].read_text()
            for target in re.findall(r"\]\(([^)\s#]+)(?:#\S*)?\)", text):
                if not re.match(r"https?:|.*(?:tests/|CONTRIBUTING|LICENSE)", target):
                    self.assertTrue((found[page].parent / target).exists(), f"{page}: {target}")
        self.assertEqual(0o700, (self.dir / "etc/runsink/secrets").stat().st_mode & 0o777)
        version = subprocess.run([found["/usr/bin/runsink"], "--version"], check=True, stdout=subprocess.PIPE).stdout
        self.assertEqual(rig.runsink("--version").stdout, version)

    def test_configuration_is_kept(self):
        """installing again leaves a configuration that was changed as it is"""
        self.install()
        config = self.dir / "etc/runsink/runsink.ini"
        config.write_text("topics = mine\n")
        self.install()
        self.assertEqual("topics = mine\n", config.read_text())

    def test_copyright(self):
        """what the binary is under: the GPL where libs3 is in it"""
        self.install()
        text = (self.dir / "usr/share/doc/runsink/copyright").read_text()
        self.assertIn("License: Apache-2.0", text)
        cached = (rig.RUNSINK.parent / "CMakeCache.txt").read_text()
        self.assertEqual("RUNSINK_LIBS3:BOOL=ON" in cached, "License: GPL-3" in text)

    def test_unit_calls(self):
        """the unit allows the system calls of the seccomp profile, and answers the others as it does"""
        profile = json.loads(PROFILE.read_text())
        allowed = {name for rule in profile["syscalls"] for name in rule["names"]}
        self.assertEqual(allowed - RUNTIME_CALLS, {name for line in unit_values("SystemCallFilter") for name in line.split()})
        self.assertEqual((38, ["ENOSYS"]), (profile["defaultErrnoRet"], unit_values("SystemCallErrorNumber")))

    def test_unit_ends(self):
        """it waits for longer than drain.timeout, restarts what may help, and dumps no core"""
        keys = (ROOT / "config/runsink.ini").read_text()
        drain = int(re.search(r"(?ms)^\[drain\]$.*?^#timeout = (\d+)s$", keys)[1])
        self.assertGreater(int(unit_values("TimeoutStopSec")[0].rstrip("s")), drain)
        self.assertEqual((["on-failure"], ["64 78"], ["0"]),
                         tuple(map(unit_values, ("Restart", "RestartPreventExitStatus", "LimitCORE"))))

    def test_version_of_package(self):
        """the package's version names the release that it is built on, and sorts before the next one's"""
        made = dict(re.findall(r'(?m)^set\((\w+) "(.*)"\)$', (rig.RUNSINK.parent / "CPackConfig.cmake").read_text()))
        release = dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)"?$', rig.Path("/etc/os-release").read_text()))
        where = release["ID"].replace("debian", "deb") + release.get("VERSION_ID", release.get("VERSION_CODENAME", ""))
        self.assertEqual(f"1~{where}", made["CPACK_DEBIAN_PACKAGE_RELEASE"].replace("\\", ""))
        if shutil.which("dpkg"):
            for older, newer in (("0.1.0", "0.1.0-1~deb12"), ("0.1.0-1~deb12", "0.1.0-1~deb13"), ("0.1.0-1~deb13", "0.1.1-1~deb12")):
                self.assertEqual(0, subprocess.run(["dpkg", "--compare-versions", older, "lt", newer]).returncode)

    def test_unit_analyzed(self):
        """systemd knows every line of it, and finds it confined"""
        if not shutil.which("systemd-analyze"):
            self.skipTest("needs systemd-analyze")
        unit = self.dir / UNIT.name
        unit.write_text(re.sub("(?m)^ExecStart=runsink", f"ExecStart={rig.RUNSINK}", UNIT.read_text()))
        for command in (["verify"], ["security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager"]):
            done = subprocess.run(["systemd-analyze", *command, unit], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)
            text = done.stdout.decode()
            self.assertEqual(0, done.returncode, text)
            if command == ["verify"]:  # of what it does not know it only warns
                self.assertNotIn(UNIT.name, text)


if __name__ == "__main__":
    rig.main()
