"""What the end-to-end tests share: real services, the worker as a process, and independent judges (kcat for Kafka, botocore
for S3, the standardwebhooks package for signatures).

Environment: RUNSINK (the binary), SCRIPTS (the scripts' folder), SERVICES (folder of services that already run; without
them they are started for this process alone), CACHE (where scripts/deps puts things).
"""
import atexit
import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import botocore.config
import botocore.exceptions
import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from confluent_kafka import IsolationLevel, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

SCRIPTS = Path(os.environ.get("SCRIPTS", Path(__file__).parents[2] / "scripts"))
RUNSINK = Path(os.environ.get("RUNSINK", Path(__file__).parents[2] / "build/release/runsink")).resolve()
# The same program with hooks by which tests harm it (tests/hooks).
HOOKS = RUNSINK.with_name("runsink-hooks")
CACHE = Path(os.environ["CACHE"])
ALL_SERVICES = ("kafka", "s3proxy", "versitygw", "minio")


# To the worker, variables of that prefix are settings.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RUNSINK")}


def say(*what):
    print("  ", *what, flush=True)


def unique(stem):
    return stem + "-" + "".join(random.choices(string.ascii_lowercase + string.digits, k=6))


def await_(what, seconds, probe, worker=None):
    """Asks probe() until it answers something true, and returns that. A worker that ends meanwhile ends the wait."""
    end = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if worker is not None and worker.exited() is not None:
            raise AssertionError(f"the worker ended with {worker.exited()} while waiting for: {what}\n{worker.tail()}")
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}" + (f"\n{worker.tail()}" if worker else ""))
        time.sleep(0.1)


_ports = []


def free_port():
    """A port that nobody else is given until this process ends. Its sign is an abstract socket, as scripts/services has it."""
    while True:
        port, sign = random.randrange(12000, 32000), socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError), socket.socket() as tried:
            sign.bind(f"\0runsink-port-{port}")
            tried.bind(("127.0.0.1", port))
            _ports.append(sign)
            return port


# ---- services ---------------------------------------------------------------------------------------------------------


class Services:
    """A folder in which scripts/services runs things."""

    def __init__(self, dir, names=(), brokers=1):
        self.dir = Path(dir)
        if names:
            atexit.register(self.stop)
            self.verb("start", "--brokers", str(brokers), *names)
        self.env = {}
        for line in (self.dir / "env").read_text().splitlines():
            name, _, value = line.partition("=")
            self.env[name] = "".join(shlex.split(value))

    def verb(self, verb, *names):
        subprocess.run([SCRIPTS / "services", verb, "--dir", self.dir, *names], check=True, stdin=subprocess.DEVNULL)

    def stop(self):
        self.verb("stop")

    def signal(self, name, which):
        """To a broker, say: SIGSTOP makes it silent, its connections stay."""
        os.kill(int((self.dir / name / "pid").read_text().split()[0]), which)

    def kafka(self):
        return Broker(self.env["KAFKA"])

    def store(self, name):
        """The S3 server of that name, or None when it isn't installed."""
        url = self.env.get(name.upper(), "")
        if not url:
            return None
        key = name.upper()
        return Store(name, url, self.env[key + "_ACCESS_KEY"], self.env[key + "_SECRET_KEY"])


_shared = None


def services():
    global _shared
    if _shared is None:
        if Path(os.environ.get("SERVICES", "none"), "env").exists():
            _shared = Services(os.environ["SERVICES"])
        else:
            dir = Path(tempfile.mkdtemp(prefix="runsink-services-"))
            atexit.register(shutil.rmtree, dir, ignore_errors=True)
            _shared = Services(dir, ALL_SERVICES)
    return _shared


# ---- Kafka ------------------------------------------------------------------------------------------------------------


@dataclass
class Record:
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: dict = field(default_factory=dict)


class Broker:
    # Neither byte sequence stands in any record that the tests make.
    RECORD_END, KEY_END = "\\x1e\\x1e", "\\x1f\\x1f"

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.admin = self.new_admin()
        self.readers = {}  # consumers that only ask for a group's offsets

    def new_admin(self):
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})

    def create(self, topic, partitions=1, **config):
        config = {k.replace("_", "."): str(v) for k, v in config.items()}
        for done in self.admin.create_topics([NewTopic(topic, partitions, config=config)]).values():
            done.result()
        await_(f"the broker tells of {topic}", 30, lambda: topic in self.topics(topic))
        return topic

    def grow(self, topic, partitions):
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result()

    def topics(self, topic=None):
        """All that there are, or this one if it is there."""
        found = self.admin.list_topics(topic, timeout=10).topics
        return {name: one for name, one in found.items() if one.error != KafkaError.UNKNOWN_TOPIC_OR_PART}

    def produce(self, topic, records, partition=0, headers=()):
        """(key, value) pairs into one partition by kcat; value None makes a tombstone. All of them get these headers."""
        data = b"\x1e\x1e".join(key + b"\x1f\x1f" + (b"" if value is None else value) for key, value in records)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            command = ["kcat", "-q", "-P", "-b", self.bootstrap, "-t", topic, "-p", str(partition)]
            command += ["-D", self.RECORD_END, "-K", self.KEY_END, "-Z", "-l"]
            for name, value in headers:
                command += ["-H", f"{name}={value}"]
            subprocess.run(command + [file.name], check=True, timeout=120, stdin=subprocess.DEVNULL)

    @staticmethod
    def side_by_side(*commands):
        """What they print. Each has to end well."""
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) for command in commands]
        try:
            said = [process.communicate(timeout=120)[0] for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()
        for process in running:
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
        return said

    def waits(self, topic, ends, committed):
        """Whether a committed record lies between these; a transaction's marker is none."""
        for partition, end in ends.items():
            at = committed.get(partition, 0)
            if at < end and subprocess.run(
                    ["kcat", "-q", "-C", "-e", "-b", self.bootstrap, "-t", topic, "-p", str(partition), "-o", str(at), "-c", "1",
                     "-X", "fetch.wait.max.ms=10", "-X", "topic.auto.offset.reset=earliest", "-f", "%o\\n"],
                    check=True, timeout=120, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout:
                return True
        return False

    def consume(self, topic):
        """Every committed record of the topic, by kcat; [] when there is no such topic."""
        if topic not in self.topics(topic) or not any(self.ends(topic).values()):
            return []
        base = ["kcat", "-q", "-C", "-e", "-b", self.bootstrap, "-t", topic, "-o", "beginning", "-X", "fetch.wait.max.ms=10"]
        # kcat's text form of headers is ambiguous, its JSON form of binary values isn't JSON: so each for its part, side by side.
        raw, text = self.side_by_side(base + ["-f", "%p %o %T %K %S\\n%k%s\\n"], base + ["-J"])
        records, at = [], 0
        while at < len(raw):
            line_end = raw.index(b"\n", at)
            partition, offset, stamp, key_n, value_n = map(int, raw[at:line_end].split())
            at = line_end + 1
            key = raw[at:at + key_n] if key_n >= 0 else None
            at += max(key_n, 0)
            value = raw[at:at + value_n] if value_n >= 0 else None
            at += max(value_n, 0) + 1
            records.append(Record(partition, offset, stamp, key, value))
        if records:
            headers = {}
            for line in text.splitlines():
                one = json.loads(re.sub(rb',"key":.*$', b"}", line, flags=re.S).decode("utf-8", "replace"))
                names = one.get("headers", [])
                headers[one["partition"], one["offset"]] = dict(zip(names[::2], names[1::2]))
            # What came between the two is for the next time.
            records = [record for record in records if (record.partition, record.offset) in headers]
            for record in records:
                record.headers = headers[record.partition, record.offset]
        return records

    def ends(self, topic):
        """The partitions' ends, transaction markers included. Of a topic just made, when they are known."""
        return self.ends_of(lambda name: name == topic, topic=topic)[topic]

    def ends_of(self, wanted, visible=False, topic=None):
        """The same of each topic whose name is wanted, by two questions in all; visible: as readers of committed records see them.
        topic: the only one that it can be; there are thousands of others, which would take their time each time."""
        def ask():
            topics = {name: topic.partitions for name, topic in self.topics(topic).items() if wanted(name)}
            places = [TopicPartition(name, p) for name, partitions in topics.items() for p in partitions]
            found = self.admin.list_offsets(
                {place: OffsetSpec.latest() for place in places},
                isolation_level=IsolationLevel.READ_COMMITTED if visible else IsolationLevel.READ_UNCOMMITTED) if places else {}
            ends = {name: {} for name in topics}
            try:
                for place, done in found.items():
                    ends[place.topic][place.partition] = done.result().offset
            except KafkaException:
                return None
            return (ends,)
        return await_("the ends of topics", 30, ask)[0]

    def open_transaction(self, topic, partition=0):
        """A record of somebody else's in a transaction that stays open until the caller ends it: the producer."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "transactional.id": unique("stranger"), "log_level": 2})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(topic, value=b"x", partition=partition)
        producer.flush(30)
        return producer

    def committed(self, group, topic):
        """Committed offsets by partition; a partition without one is absent, and so are those that can't be told now."""
        return self.committed_of(group, {topic: self.topics(topic)[topic].partitions})[topic]

    def committed_of(self, group, topics):
        """The same of several topics, given with their partitions, by one question."""
        # Not by the admin client: librdkafka's crashes when the coordinator moves (it has no group of its own to tell).
        if group not in self.readers:
            self.readers[group] = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 2})
        offsets = {name: {} for name in topics}
        try:
            answer = self.readers[group].committed([TopicPartition(name, p) for name in topics for p in topics[name]], timeout=5)
        except KafkaException:
            self.readers.pop(group)  # librdkafka may never find a coordinator again that came back: the next one asks anew
            return offsets
        for place in answer:
            if place.offset >= 0 and not place.error:
                offsets[place.topic][place.partition] = place.offset
        return offsets

    def settled(self, group, topic):
        """Whether the group's offsets stand at the topic's ends."""
        ends = {p: end for p, end in self.ends(topic).items() if end > 0}
        committed = self.committed(group, topic)
        return all(committed.get(p, -1) >= end for p, end in ends.items())

    def members(self, group):
        found = self.admin.describe_consumer_groups([group], request_timeout=5)  # a coordinator that is just made may not answer
        try:
            return len(found[group].result().members)
        except KafkaException:
            self.admin = self.new_admin()  # this one may never find a coordinator again that came back
            return 0

    def delete_before(self, topic, offsets):
        found = self.admin.delete_records([TopicPartition(topic, p, o) for p, o in offsets.items()])
        for done in found.values():
            done.result()


# ---- S3 ---------------------------------------------------------------------------------------------------------------


class Store:
    def __init__(self, name, url, access_key, secret_key):
        self.name, self.url, self.access_key, self.secret_key = name, url, access_key, secret_key
        self.root = self.client(access_key, secret_key)

    def client(self, access_key, secret_key, service="s3", region="us-east-1", token=None):
        session = botocore.session.Session()
        return session.create_client(
            service, region_name=region, endpoint_url=self.url, aws_access_key_id=access_key,
            aws_secret_access_key=secret_key, aws_session_token=token,
            config=botocore.config.Config(signature_version="s3v4" if service == "s3" else None,
                                          s3={"addressing_style": "path"}, retries={"max_attempts": 5},
                                          request_checksum_calculation="when_required",
                                          response_checksum_validation="when_required"))

    def bucket(self, name, owner=None, **more):
        self.root.create_bucket(Bucket=name, **more)
        if owner:
            self.admin("change-bucket-owner", "--bucket", name, "--owner", owner)
        return name

    def tenant(self, access_key, secret_key):
        """A user of versitygw's own."""
        self.admin("create-user", "--access", access_key, "--secret", secret_key, "--role", "user")

    def admin(self, *arguments):
        subprocess.run([CACHE / "bin/versitygw", "admin", "--access", self.access_key, "--secret", self.secret_key,
                        "--endpoint-url", self.url, *arguments], check=True, stdout=subprocess.DEVNULL,
                       stdin=subprocess.DEVNULL)

    def sink(self, bucket, access_key=None, secret_key=None, **more):
        return {"type": "s3", "bucket": bucket, "accessKeyId": access_key or self.access_key,
                "secretAccessKey": secret_key or self.secret_key, "region": "us-east-1", "endpoint": self.url,
                "forcePathStyle": True, **more}

    def keys(self, bucket, client=None):
        """All keys. Page by page from the last key on: S3Proxy's own continuation tokens skip keys that hold a percent sign."""
        keys, page = [], {"IsTruncated": True}
        while page["IsTruncated"]:
            try:
                page = (client or self.root).list_objects_v2(Bucket=bucket, StartAfter=keys[-1] if keys else "")
            except botocore.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 500 or not self.sweep(bucket):
                    raise
                continue
            keys += [one["Key"] for one in page.get("Contents", [])]
        return keys

    def sweep(self, bucket):
        """S3Proxy writes to KEY-UUID first. What is left of a PUT whose connection broke is no object, but ends each listing
        with a 500. Whether there was such a thing."""
        found = False
        for path in services().dir.glob(f"s3proxy/data/{bucket}/**/*") if self.name == "s3proxy" else ():
            if re.search(r"-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", path.name) and path.is_file() \
                    and "user.content-md5" not in os.listxattr(path):
                path.unlink()
                found = True
        return found

    def get(self, bucket, key, client=None):
        return (client or self.root).get_object(Bucket=bucket, Key=key)["Body"].read()

    def bodies(self, bucket, keys, access_key=None, secret_key=None, token=None):
        """(key, body) of each, for many objects: botocore signs, and the rest of it, most of the work, is left out."""
        signer = S3SigV4Auth(Credentials(access_key or self.access_key, secret_key or self.secret_key, token), "s3", "us-east-1")
        with contextlib.closing(http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)) as connection:
            for key in keys:
                request = AWSRequest("GET", f"{self.url}/{bucket}/{quote(key)}")
                signer.add_auth(request)
                connection.request("GET", request.url.removeprefix(self.url), headers=dict(request.headers))
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    raise AssertionError(f"{self.name} answers {answer.status} for {bucket}/{key}: {body[:500]}")
                yield key, body

    def objects(self, bucket):
        return dict(self.bodies(bucket, self.keys(bucket)))

    def head(self, bucket, key):
        return self.root.head_object(Bucket=bucket, Key=key)


# ---- the worker -------------------------------------------------------------------------------------------------------


def config_text(settings):
    """{"window.age": "1s", "topics": ..., "kafka": {...}} as an INI file."""
    plain, sections = [], {}
    for name, value in settings.items():
        if isinstance(value, dict):
            sections.setdefault(name, {}).update(value)
        elif "." in name:
            section, _, rest = name.partition(".")
            sections.setdefault(section, {})[rest] = value
        else:
            plain.append(f"{name} = {value}")
    for section, entries in sections.items():
        plain += ["", f"[{section}]"] + [f"{name} = {value}" for name, value in entries.items()]
    return "\n".join(plain) + "\n"


class Worker:
    """One runsink process with a configuration file, logs and a folder of its own. wrap: a command that runs it, by exec."""

    count = 0

    def __init__(self, dir, settings, *arguments, env=None, command="run", wrap=(), program=RUNSINK):
        Worker.count += 1
        self.name = f"worker-{Worker.count}"
        self.dir = Path(dir)
        self.admin_port = free_port()
        self.config = self.dir / f"{self.name}.ini"
        self.log = self.dir / f"{self.name}.log"
        self.out = self.dir / f"{self.name}.out"
        self.config.write_text(config_text({"admin.listen": f"127.0.0.1:{self.admin_port}", **settings}))
        self.config.chmod(0o600)
        with open(self.log, "wb") as log, open(self.out, "wb") as out:
            self.process = subprocess.Popen([*wrap, program, command, "--config", self.config, *arguments],
                                            stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                                            env={**ENVIRONMENT, **(env or {})})
        atexit.register(self.kill)

    def exited(self):
        return self.process.poll()

    def wait(self, seconds=60):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"the worker did not end within {seconds} s\n{self.tail()}") from None

    def stop(self, seconds=60):
        """SIGTERM, and its exit code."""
        if self.exited() is None:
            await_("it holds its signals", 30, self.holds_signals)
            self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def holds_signals(self):
        """Whether its main() has begun: before that a SIGTERM ends a process that did nothing yet, whoever wrote it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        masks = [int(mask, 16) for mask in re.findall(r"Sig(?:Blk|Ign|Cgt):\s+(\w+)", status)]
        return self.exited() is not None or any(mask >> signal.SIGTERM - 1 & 1 for mask in masks)

    def kill(self):
        if self.exited() is None:
            self.process.kill()
            self.process.wait()

    def text(self):
        return self.log.read_text(errors="replace") + self.out.read_text(errors="replace")

    def tail(self, lines=30):
        return f"--- end of {self.log}\n" + "\n".join(self.text().splitlines()[-lines:])

    def says(self, phrase):
        return phrase in self.text()

    def http(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name, **labels):
        """Sum of the samples of that name with (at least) those labels; None when there is none."""
        found = None
        for line in self.http("/metrics").splitlines():
            match = re.match(r"([A-Za-z0-9_:]+)(?:\{(.*)\})? (\S+)", line)
            if not match or match[1] != name:
                continue
            have = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            if all(have.get(k) == v for k, v in labels.items()):
                found = (found or 0) + float(match[3])
        return found


def runsink(*arguments, input=b"", seconds=60, env=None):
    return subprocess.run([RUNSINK, *arguments], input=input, capture_output=True, timeout=seconds,
                          env={**ENVIRONMENT, **(env or {})})


def librdkafka_is_shared():
    """Where it has to be mended, it is part of the program (worker/kafka/mend)."""
    return b"librdkafka" in subprocess.run(["ldd", RUNSINK], check=True, stdout=subprocess.PIPE).stdout


# ---- the test case ----------------------------------------------------------------------------------------------------


class Case(unittest.TestCase):
    """Each test has its folder, topic and group; what a failed one leaves is kept and named."""

    maxDiff = 4000

    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)
        self.dir = Path(tempfile.mkdtemp(prefix=f"runsink-{self._testMethodName}-"))
        self.workers = []
        self.kafka = services().kafka()
        self.topic = unique("runs")
        self.group = unique("group")
        self.addCleanup(self._kill_workers)

    def _kill_workers(self):
        for worker in self.workers:
            worker.kill()

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        begin, used = time.monotonic(), sum(os.times()[:4])
        super().run(result)
        # What its workers and tools computed is in it, what the services did is not.
        say(f"{time.monotonic() - begin:.1f} s, {sum(os.times()[:4]) - used:.1f} s of CPU time")
        if len(result.failures) + len(result.errors) > before:
            print(f"   FAILED: configuration and logs are kept in {self.dir}", flush=True)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def settings(self, **more):
        """Configuration for one topic on loopback, quick to react."""
        base = {
            "topics": self.topic, "group": self.group,
            "window.age": "200ms", "window.grace": "1s",
            "retry.delays": "200ms,400ms,800ms", "retry.window.s3": "4s", "retry.window.webhook": "4s",
            "breaker.failures": "100000", "breaker.probe": "50ms",
            "egress.allow": "127.0.0.0/8", "egress.http": "true", "drain.timeout": "5s",
            "kafka": {"bootstrap.servers": self.kafka.bootstrap, "session.timeout.ms": 6000, "heartbeat.interval.ms": 500},
        }
        for name, value in more.items():
            base[name.replace("__", ".")] = value
        return base

    def worker(self, settings=None, *arguments, **options):
        worker = Worker(self.dir, settings or self.settings(), *arguments, **options)
        self.workers.append(worker)
        return worker

    def until_settled(self, worker, seconds=60, topic=None):
        topic = topic or self.topic
        try:
            await_(f"group {self.group} settled all of {topic}", seconds, lambda: self.kafka.settled(self.group, topic), worker)
        except AssertionError as e:
            seen = Broker(self.kafka.bootstrap)  # new clients: is it the worker that is late, or what we asked with?
            told = f"the ends are {seen.ends(topic)}, committed is {seen.committed(self.group, topic)}, {seen.members(self.group)} members"
            raise AssertionError(f"{told}\n{e}") from None

    def quiet(self, topic=None, group=None):
        """Whether every record is settled, in the retry topics too."""
        source, group = topic or self.topic, group or self.group

        def ends():
            return self.kafka.ends_of(lambda name: name == source or name.startswith(source + ".retry."))

        def reached(committed):
            return all(committed[source].get(p, -1) >= end for p, end in before[source].items() if end > 0)

        before = ends()
        # More may come all the time, and be settled a moment later: what was there at first is what is asked for.
        for _ in range(10):
            committed = self.kafka.committed_of(group, before)
            if reached(committed):
                break
            time.sleep(0.1)
        else:
            return False
        for topic in before:
            if topic != source and self.kafka.waits(topic, before[topic], committed[topic]):
                return False
        # A record that went to a retry topic while they were looked at has moved its end, or has brought the topic into being.
        def retried(found):
            return {(topic, p): end for topic in found if topic != source for p, end in found[topic].items() if end > 0}

        if retried(ends()) != retried(before):
            return False

        # A transaction's end shows in the offsets a moment before it shows in each topic.
        def letters(visible):
            return self.kafka.ends_of(lambda name: name.startswith(source + ".dead."), visible)

        return letters(True) == letters(False)

    def dead(self, fault, topic=None):
        return self.kafka.consume(f"{topic or self.topic}.dead.{fault}")

    def assertSays(self, phrase, worker):
        """A thread of its own writes the log, a moment after what it tells of shows elsewhere."""
        end = time.monotonic() + 10
        while not worker.says(phrase) and worker.exited() is None and time.monotonic() < end:
            time.sleep(0.05)
        self.assertTrue(worker.says(phrase), f"it does not say: {phrase}\n{worker.tail()}")

    def assertExit(self, code, worker, seconds=60):
        got = worker.wait(seconds)
        self.assertEqual(code, got, f"exit code\n{worker.tail()}")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def main():
    if not RUNSINK.exists():
        sys.exit(f"{RUNSINK} isn't built: run scripts/build")
    unittest.main(module="__main__", verbosity=0)
