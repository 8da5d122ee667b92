"""Builds the container image without registry or engine, and runs it as a Kubernetes node would, by an OCI runtime: read-only root,
no capabilities, no new privileges, the seccomp profile of config/seccomp, the image's own user, entry point and command."""
import atexit
import json
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

import rig

PROFILE = Path(__file__).parents[2] / "config/seccomp/runsink.json"
TAG = "localhost/runsink-test:latest"
# A folder of images that is kept; without it the image is built anew.
STORE = os.environ.get("IMAGE_STORE")

# The worker stays in this process's cgroup. crun nonetheless refuses machines that have both versions of cgroups: it sees the new.
UNIFIED = ("unshare", "--mount", "sh", "-c", 'mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec "$@"', "sh")


class Image:
    def __init__(self):
        self.dir = Path(STORE or tempfile.mkdtemp(prefix="runsink-image-"))
        self.dir.mkdir(exist_ok=True)
        if not STORE:
            atexit.register(shutil.rmtree, self.dir, ignore_errors=True)
        storage = self.dir / "storage.conf"
        storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{self.dir}/images"\nrunroot = "{self.dir}/run"\n')
        # buildah would give what it runs more than this process may have.
        limits = [f"{name}={':'.join(map(str, resource.getrlimit(which)))}"
                  for name, which in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))]
        containers = self.dir / "containers.conf"
        containers.write_text(f"[containers]\ndefault_ulimits = {json.dumps(limits)}\n")
        self.env = {**rig.ENVIRONMENT, "CONTAINERS_STORAGE_CONF": str(storage), "CONTAINERS_CONF": str(containers),
                    "BUILDAH_ISOLATION": "chroot"}
        if not self.there():
            subprocess.run([rig.SCRIPTS / "image", "--engine", "buildah", "--bootstrap", "--tag", TAG], env=self.env, check=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=1200)
        described = json.loads(self.buildah("inspect", "--type", "image", TAG))
        self.config = described["Docker"]["config"]
        container = self.buildah("from", "--pull-never", TAG)
        atexit.register(self.buildah, "rm", container)
        self.root = Path(self.buildah("mount", container))

    def there(self):
        return subprocess.run(["buildah", "inspect", "--type", "image", TAG], env=self.env, capture_output=True).returncode == 0

    def buildah(self, *arguments):
        return subprocess.run(["buildah", *arguments], env=self.env, check=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE).stdout.decode().strip()

    def user(self):
        return [int(one) for one in self.config["User"].split(":")]


def bundle(image, command, mounts, network, env):
    """An OCI runtime's description of a container. mounts: {path inside: (path outside, "ro" or "rw")}. network: the path of a network
    namespace; by default this process's."""
    uid, gid = image.user()
    profile = json.loads(PROFILE.read_text())
    for rule in profile["syscalls"]:
        rule.pop("comment", None)
    none = {kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")}
    flags = ["nosuid", "nodev", "noexec"]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(image.root), "readonly": True},
        "process": {"terminal": False, "user": {"uid": uid, "gid": gid}, "args": image.config["Entrypoint"] + command, "cwd": "/",
                    "env": [f"{name}={value}" for name, value in env.items()], "capabilities": none, "noNewPrivileges": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": flags},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            *({"destination": inside, "type": "bind", "source": str(outside), "options": ["bind", mode, *flags]}
              for inside, (outside, mode) in mounts.items())],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                           *([{"type": "network", "path": network}] if network else [])],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": profile},
    }


class Container(rig.Worker):
    """A worker of the image. settings: its configuration, mounted where it looks by default; None: the image's own. secrets: {path
    inside: text}, readable by its user alone."""

    def __init__(self, dir, image, settings, command=None, secrets=None, mounts=None, network=None, env=None):
        rig.Worker.count += 1
        self.name = rig.unique("runsink-test")
        self.dir = Path(dir) / self.name
        self.dir.mkdir(parents=True)
        self.image = image
        self.admin_port = rig.free_port()
        self.log, self.out = self.dir / "log", self.dir / "out"
        mounts = dict(mounts or {})
        files = dict(secrets or {})
        if settings is not None:
            files["/etc/runsink/runsink.ini"] = rig.config_text({"admin.listen": f"127.0.0.1:{self.admin_port}", **settings})
        for number, (inside, text) in enumerate(files.items()):
            outside = self.dir / f"file-{number}"
            outside.write_text(text)
            outside.chmod(0o400)
            os.chown(outside, *image.user())
            mounts[inside] = (outside, "ro")
        command = image.config["Cmd"] if command is None else command
        self.spec = bundle(image, command, mounts, network, env or {})
        (self.dir / "config.json").write_text(json.dumps(self.spec))
        self.runtime = [*UNIFIED, "crun", "--cgroup-manager=disabled", f"--root={self.dir}/state"]
        with open(self.log, "wb") as log, open(self.out, "wb") as out:
            self.process = subprocess.Popen([*self.runtime, "run", "--bundle", self.dir, self.name], stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=log, env=rig.ENVIRONMENT)
        atexit.register(self.kill)

    def signal(self, name):
        subprocess.run([*self.runtime, "kill", self.name, name], check=True, stdin=subprocess.DEVNULL)

    def pid(self):
        state = subprocess.run([*self.runtime, "state", self.name], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        return json.loads(state.stdout)["pid"]

    def execute(self, *command):
        """Another program in the container, confined as the first one: what exec probes and health checks do."""
        process = self.dir / "process.json"
        process.write_text(json.dumps({**self.spec["process"], "args": command}))
        return subprocess.run([*self.runtime, "exec", "--process", process, self.name], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=60)

    def stop(self, seconds=60):
        if self.exited() is None:
            self.signal(self.image.config["StopSignal"])
        return self.wait(seconds)

    def kill(self):
        if self.exited() is None:
            self.signal("SIGKILL")
            self.process.wait()
