"""The worker as it is deployed: another user than root, no new privileges, a root file system that nobody can write to, and the
seccomp profile of config/seccomp. It delivers to every kind of sink, reloads and drains."""
import os
import shutil
import signal
import stat

import events
import rig
from receiver import Receiver

NOBODY = 65534
PROFILE = rig.Path(__file__).parents[2] / "config/seccomp/runsink.json"
TOOL = rig.Path(__file__).parent / "seccomp_run.py"


class Confined(rig.Case):
    def confine(self, root, *more):
        """A command that runs another as nobody where only root can be written to."""
        if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
            self.skipTest("needs root, unshare and setpriv")
        script = ["mount --make-rprivate /", f"mount --bind {root} {root}", "mount -o remount,bind,ro /",
                  "for at in /tmp /var /run /home /root /dev/shm; do mount --bind $at $at && mount -o remount,bind,ro $at; done 2>/dev/null",
                  f"mount --bind {root} {root}", f"mount -o remount,bind,rw {root}",
                  f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "
                  + " ".join(map(str, more)) + ' "$@"']
        return ("unshare", "--mount", "sh", "-c", "\n".join(script), "sh")

    def run_confined(self, *more):
        receiver = Receiver()
        self.addCleanup(receiver.close)
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        bucket = store.bucket(rig.unique("confined"))
        root = self.dir / "archive"
        root.mkdir()
        os.chown(root, NOBODY, NOBODY)
        # What the worker reads belongs to its user, as a secret mounted into a container does.
        binary = self.dir / "runsink"
        shutil.copy(rig.RUNSINK, binary)
        self.dir.chmod(0o755)
        self.kafka.create(self.topic, 1)
        for sink in ({"type": "webhook", "url": receiver.url + "/hook"}, store.sink(bucket), {"type": "file", "path": "x"}) * 5:
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink)))])
        wrap = self.confine(root, *more)
        rig_runsink, rig.RUNSINK = rig.RUNSINK, binary
        try:
            settings = self.settings(file__root=str(root), http__max_connections="16")
            config = self.dir / f"worker-{rig.Worker.count + 1}.ini"
            config.touch()
            os.chown(config, NOBODY, NOBODY)
            worker = self.worker(settings, wrap=wrap)
        finally:
            rig.RUNSINK = rig_runsink
        rig.await_("everything is settled", 60, self.quiet, worker)
        with open(f"/proc/{worker.process.pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status.read().splitlines() if ":" in line)
        self.assertEqual([str(NOBODY)] * 4, fields["Uid"].split())
        self.assertEqual("1", fields["NoNewPrivs"].strip())
        self.assertEqual("0" * 16, fields["CapEff"].strip())
        worker.process.send_signal(signal.SIGHUP)
        rig.await_("it reads its configuration anew", 20, lambda: worker.says("read anew"), worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        for fault in ("tenant", "data", "system"):
            self.assertEqual([], [r.headers for r in self.dead(fault)])
        self.assertEqual(5, len(receiver.requests))
        self.assertEqual(5, len(store.keys(bucket)))
        files = [path for path in root.rglob("*") if path.is_file()]
        self.assertEqual(5, len(files))
        self.assertEqual({NOBODY}, {path.stat().st_uid for path in files})
        self.assertEqual(0, sum(path.stat().st_mode & (stat.S_IRWXO) for path in files))
        return fields

    def test_read_only_root(self):
        """no root, no capability, nothing writable but file.root"""
        self.run_confined()

    def test_seccomp(self):
        """the same under the profile: whatever is not on its list ends the process"""
        if not PROFILE.exists():
            self.skipTest("no profile")
        fields = self.run_confined("/usr/bin/python3", TOOL, PROFILE)
        self.assertEqual("2", fields["Seccomp"].strip())


if __name__ == "__main__":
    rig.main()
