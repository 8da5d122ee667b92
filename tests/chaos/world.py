"""What a run stands on: the broker and the store, proxies that lie, a small disk."""
import contextlib
import json
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import checker

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "scripts"
DISK_BYTES = 64 << 20


class Services:
    def __init__(self, directory, names, brokers=1):
        self.dir, self.brokers = directory, brokers
        self.verb("start", "--brokers", str(brokers), *names)
        self.env = {}
        for line in (self.dir / "env").read_text().splitlines():
            name, _, value = line.partition("=")
            self.env[name] = "".join(shlex.split(value))

    def verb(self, verb, *names):
        subprocess.run([SCRIPTS / "services", verb, "--dir", self.dir, *names], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def kafka(self):
        return self.env["KAFKA"]


class Store:
    """The first of the S3 servers that is installed."""

    def __init__(self, directory, names, cache):
        self.cache = cache
        for self.name in names:
            self.services = Services(directory / self.name, [self.name])
            self.url = self.services.env.get(self.name.upper())
            if self.url:
                self.keys = tuple(self.services.env[f"{self.name.upper()}_{key}_KEY"] for key in ("ACCESS", "SECRET"))
                self.client = checker.connect(self.url, *self.keys)
                return
        raise SystemExit("no S3 server is installed; scripts/deps --test installs S3Proxy")

    def tenant(self, access_key, secret_key):
        """A user with these keys, and the keys to use: where the server has no users, its only ones."""
        if self.name != "versitygw":
            return self.keys
        self.admin("create-user", "--access", access_key, "--secret", secret_key, "--role", "user")
        return access_key, secret_key

    def make(self, bucket, access_key):
        """A bucket of that user's."""
        self.client.create_bucket(Bucket=bucket)
        if self.name == "versitygw":
            self.admin("change-bucket-owner", "--bucket", bucket, "--owner", access_key)

    def admin(self, *arguments):
        access_key, secret_key = self.keys
        command = [self.cache / "bin/versitygw", "admin", "--access", access_key, "--secret", secret_key, "--endpoint-url", self.url]
        subprocess.run([*command, *arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class World:
    """All services of all seeds. Three brokers are started when the first seed wants them."""

    def __init__(self, base, stores, cache):
        self.base, self.clusters, self.lock = base, {}, threading.Lock()
        self.store = Store(base, stores, cache)

    def kafka(self, brokers):
        with self.lock:  # two runs may want the first one
            if brokers not in self.clusters:
                self.clusters[brokers] = Services(self.base / f"kafka-of-{brokers}", ["kafka"], brokers)
            return self.clusters[brokers]

    def close(self):
        for services in [self.store.services, *self.clusters.values()]:
            services.verb("stop")


class Proxy:
    """faultproxy.py as a process: before a store ("--upstream", HOST:PORT), or as the webhooks' receiver ("--record", FILE)."""

    def __init__(self, what, argument, seed, rate, ports):
        command = [sys.executable, "-B", HERE / "faultproxy.py", what, argument, "--seed", str(seed), "--rate", str(rate),
                   "--ports", str(ports)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoints = [f"http://127.0.0.1:{port}" for port in self.process.stdout.readline().split()]
        self.outages = 0

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def outage(self, more):
        """Outages may overlap: the last one to end ends it."""
        self.outages += more
        self.tell(f"outage {'on' if self.outages > 0 else 'off'}")

    def drain(self):
        self.tell("drain")
        self.process.stdout.readline()

    def quit(self):
        if self.process.poll() is not None:
            return {}
        self.tell("quit")
        did = json.loads(self.process.stdout.readline())
        self.process.wait()
        return did


class Disk:
    """A small file system for file.root that can be filled up; None of it when we may not mount one."""

    def __init__(self, directory):
        self.root = directory / "files"
        self.root.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", self.root]
        self.small = subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
        self.ballast = self.root / ".tmp-ballast"

    def fill(self):
        if not self.small:
            return
        with open(self.ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self):
        self.ballast.unlink(missing_ok=True)

    def close(self):
        if self.small:
            subprocess.run(["umount", self.root], check=True)


class Clock:
    """Seconds that each phase of a run took."""

    def __init__(self):
        self.at, self.took = time.monotonic(), {}

    def lap(self, phase):
        now = time.monotonic()
        self.took[phase] = round(self.took.get(phase, 0) + now - self.at, 1)
        self.at = now
