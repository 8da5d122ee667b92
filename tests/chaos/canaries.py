"""Secrets that are known: one of its own in each place of each tenant's sink that can hold one, and the search for them in all
that workers leave behind. They belong on the wire to their destination and into the topics' values, and nowhere else."""
import contextlib
import json
import resource
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

import checker

sys.path.append(str(Path(__file__).parents[1] / "e2e"))
from spellings import spellings  # noqa: E402


class Canaries:
    def __init__(self, plan):
        self.plan, self.made = plan, []

    def new(self, *place, length=32, odd=""):
        """odd: characters that some spellings write in another way; one of each is in it."""
        draw = self.plan.random("canary", *place)
        text = draw.choices(string.ascii_letters + string.digits, k=length - len(odd))
        for character in odd:
            text.insert(draw.randrange(3, len(text) - 2), character)
        self.made.append("".join(text))
        return self.made[-1]

    def search(self, files):
        """[(file, secret)] of those found."""
        if not files:
            return []
        forms = {form: secret for secret in self.made for form in spellings(secret)}
        with tempfile.NamedTemporaryFile() as patterns:
            patterns.write(b"\n".join(forms) + b"\n")
            patterns.flush()
            grep = ["grep", "--binary-files=text", "--only-matching", "--with-filename", "--null", "--fixed-strings", "-f", patterns.name]
            done = subprocess.run([*grep, *files], stdout=subprocess.PIPE, env={"LC_ALL": "C"})
        if done.returncode > 1:
            raise RuntimeError("grep failed")
        hits = {tuple(line.split(b"\0")) for line in done.stdout.splitlines()}
        return sorted((Path(file.decode()).name, forms[form]) for file, form in hits)


def dump_topics(bootstrap, topic, file):
    """Keys and headers of all that workers wrote to Kafka, and the ledger's values. Retry topics and dead letters hold the
    record itself in their values."""
    with open(file, "wb") as out:
        for message in checker.read(bootstrap, *(name for name in checker.topics(bootstrap, topic) if name != topic)):
            out.write(message.key() or b"")
            for header, value in message.headers() or []:
                out.write(b" " + header.encode() + b": " + (value or b""))
            out.write((message.value() or b"" if message.topic().endswith((".ledger", ".outcomes")) else b"") + b"\n")


class Scraper(threading.Thread):
    """Asks each worker's admin server for all it has, again and again, and keeps the answers."""

    PAGES = ("/metrics", "/", "/status.json", "/healthz", "/readyz")

    def __init__(self, ports, directory):
        super().__init__(daemon=True)
        self.ports, self.directory, self.over, self.answers = ports, directory, threading.Event(), 0

    def run(self):
        while not self.over.wait(0.5):
            for index, port in enumerate(self.ports):
                for page in self.PAGES:
                    self.ask(index, f"http://127.0.0.1:{port}{page}")

    def ask(self, index, url):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            with open(self.directory / f"admin-{index}.scraped", "ab") as out:
                out.write(str(answer.headers).encode() + answer.read())
            self.answers += 1


def allow_core():
    """In a child before exec: cores without limit."""
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def cores(directory):
    return sorted(path.name for path in Path(directory).glob("*core*"))


def cores_are_made():
    """Whether a process that allows it leaves a core in its working directory here."""
    directory = tempfile.mkdtemp(prefix="runsink-core-")
    with contextlib.suppress(ValueError, subprocess.SubprocessError):
        process = subprocess.Popen(["sleep", "60"], cwd=directory, preexec_fn=allow_core)
        process.send_signal(signal.SIGSEGV)
        process.wait()
    found = cores(directory)
    shutil.rmtree(directory)
    return bool(found)


def written(run):
    """What a run has left in files, to be searched."""
    return [path for pattern in ("worker-*.log", "*.scraped", "*.dump", "verify.*") for path in run.dir.glob(pattern)]


def leaks(run):
    """Texts of what got out."""
    dump_topics(run.kafka.kafka(), run.topic, run.dir / "topics.dump")
    for file, secret in run.canaries.search(written(run)):
        yield f"{json.dumps(secret)} stands in {file}"
    for name in cores(run.dir):
        yield f"a core was dumped: {name}"
