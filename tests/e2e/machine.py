"""A Debian of its own, made by mmdebstrap, with systemd as its first process, in namespaces; the network is this machine's."""
import atexit
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import rig

# A cgroup of its own, before it becomes the root of what is seen in there.
ENTER = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/$1
echo $$ >/sys/fs/cgroup/$1/cgroup.procs
exec unshare --mount --cgroup --pid --uts --ipc --fork --kill-child sh -ec "$2" sh "$3"
"""
# What a container's engine prepares: systemd wants /proc, /sys, /dev, its cgroup, and mounts that propagate.
BOOT = """
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mkdir -p .before
pivot_root . .before
umount -l .before
mount --make-rshared /
exec env -i container=runsink-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target --show-status=false
"""
LEAVE = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
find /sys/fs/cgroup/$1 -depth -type d -exec rmdir {} +
"""


class Machine:
    def __init__(self, release, packages, files):
        """files: {path inside: path outside}, copied in before it boots."""
        self.dir = Path(tempfile.mkdtemp(prefix="runsink-machine-"))
        self.dir.chmod(0o755)
        self.root = self.dir / "root"
        self.name = self.dir.name
        self.process = None
        atexit.register(self.close)
        # Its package lists stay, so that packages with dependencies can be installed in it.
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--skip=cleanup/apt/lists", f"--include={','.join(packages)}",
                        release, self.root], check=True, stdin=subprocess.DEVNULL, timeout=1200)
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
        for inside, outside in files.items():
            shutil.copy(outside, f"{self.root}{inside}")

    def boot(self):
        self.process = subprocess.Popen(["unshare", "--mount", "sh", "-ec", ENTER, "sh", self.name, BOOT, self.root],
                                        stdin=subprocess.DEVNULL, start_new_session=True)
        rig.await_("systemd has booted", 90, lambda: self.process.poll() is not None or self.state() in ("running", "degraded"))

    def first(self):
        """The pid of its first process, seen from here."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
            found = children.read().split()
        return found[0] if found else None

    def state(self):
        return self.run("systemctl", "is-system-running", check=False) if self.first() else ""

    def run(self, *command, check=True):
        """Its output. In the machine, or before it boots in its root alone."""
        enter = ["nsenter", f"--target={self.first()}", "--all"] if self.process else ["chroot", self.root]
        done = subprocess.run([*enter, "env", "-i", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        text = done.stdout.decode(errors="replace").strip()
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{text}")
        return text

    def close(self):
        if self.process:
            self.process.kill()  # and with it all that runs in there
            self.process.wait()
            rig.await_("its cgroup is empty", 30, self.gone)
            self.process = None
        shutil.rmtree(self.dir, ignore_errors=True)

    def gone(self):
        return subprocess.run(["unshare", "--mount", "sh", "-ec", LEAVE, "sh", self.name], stdin=subprocess.DEVNULL,
                              capture_output=True).returncode == 0


def missing():
    """What a machine needs and this one lacks, or None."""
    if os.geteuid() != 0:
        return "root"
    tools = [name for name in ("mmdebstrap", "unshare", "nsenter") if not shutil.which(name)]
    return ", ".join(tools) or None
