"""Judges what a run has left behind, with nothing of runsink's: confluent-kafka reads the topic as it is, botocore the objects
as they are. Every event that names a sink must stand in exactly one object, byte for byte except for its credentials, and every
object must be explained by the records of its window.

By hand:  checker.py --bootstrap HOST:PORT --topic T --group G --mode batch --store URL --access A --secret S --buckets PREFIX
"""
import argparse
import collections
import functools
import gzip
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import botocore.config
import botocore.session
from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

sys.path.append(str(Path(__file__).parents[1] / "e2e"))
import model  # noqa: E402

SAMPLE = 60  # objects that are read back whole where the listing's digest would do


@dataclass(frozen=True)
class Violation:
    kind: str  # missing, duplicate, changed, unexplained, overlap, dead, unsettled, topic, repeated, verify, leak, bug
    text: str

    def __str__(self):
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Event:
    partition: int
    offset: int
    place: str  # bucket, or "file:" for all below file.root, or "hook:" for all webhooks
    destination: str  # two destinations may share a place
    prefix: str
    key: str  # of its own object; a webhook's id
    line: bytes  # as it must be delivered


# ---- Kafka ------------------------------------------------------------------------------------------------------------


def read(bootstrap, *names, start=None):
    """Every committed record of the topics, from these offsets ({(topic, partition): offset}) or the beginning."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "checker", "enable.auto.commit": False,
                         "isolation.level": "read_committed", "enable.partition.eof": True, "log_level": 2,
                         "fetch.wait.max.ms": 20, "auto.offset.reset": "earliest"})
    try:
        known = consumer.list_topics(timeout=30).topics
        left = {(name, p): (start or {}).get((name, p), OFFSET_BEGINNING) for name in names for p in known[name].partitions}
        consumer.assign([TopicPartition(*at, offset) for at, offset in left.items()])
        heard = time.monotonic()
        while left:
            messages = consumer.consume(500, 0.1)  # waits for all 500, or as long as this
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > 60:
                raise RuntimeError(f"{', '.join(names)}: no end in sight after 60 s")
            for message in messages:
                if not message.error():
                    yield message
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    left.pop((message.topic(), message.partition()), None)
                else:
                    raise RuntimeError(f"{message.topic()}: {message.error()}")
    finally:
        consumer.close()


def topics(bootstrap, topic):
    """The topic and those that belong to it."""
    names = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2}).list_topics(timeout=30).topics
    return sorted(name for name in names if name == topic or name.startswith(topic + "."))


def committed(bootstrap, group, places):
    """{(topic, partition): offset}. By a consumer that never joins: librdkafka's admin client can crash when the coordinator moves
    meanwhile."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_committed", "log_level": 2})
    try:
        answer = consumer.committed([TopicPartition(*place) for place in places], timeout=10)
    finally:
        consumer.close()
    wrong = [tp.error for tp in answer if tp.error]
    if wrong:
        raise KafkaException(wrong[0])
    return {(tp.topic, tp.partition): tp.offset for tp in answer if tp.offset >= 0}


def behind(bootstrap, group, topic):
    """How many records of the topic and of its retry topics the group has not settled, by topic and partition."""
    about = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2}).list_topics(timeout=30).topics
    names = [name for name in about if name == topic or name.startswith(f"{topic}.retry.")]
    start = committed(bootstrap, group, [(name, p) for name in names for p in about[name].partitions])
    return collections.Counter(f"{message.topic()}/{message.partition()}" for message in read(bootstrap, *names, start=start))


def hidden(bootstrap, topic):
    """How many records behind open transactions nobody sees yet, in what belongs to the topic: a killed worker's transaction stays
    open until its time is over."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    about = admin.list_topics(timeout=30).topics
    latest = {TopicPartition(name, p): OffsetSpec.latest() for name in about if name.startswith(topic + ".")
              for p in about[name].partitions}

    def ends(level):
        return sum(done.result(30).offset for done in admin.list_offsets(latest, isolation_level=level).values())

    return ends(IsolationLevel.READ_UNCOMMITTED) - ends(IsolationLevel.READ_COMMITTED) if latest else 0


def event_of(message):
    """The delivery that a record asks for, or None: it names no sink, or its sink wants no failed runs."""
    value = message.value()
    run = json.loads(value)
    sink = run["jobConfigurationSnapshot"].get("sink")
    if sink is None or (sink.get("skipOnFail") and run["status"] == "FAILURE"):
        return None
    fields = [run["workspaceId"], run["projectId"], run["jobId"], run["id"], run["updatedAt"], run["status"]]
    ws, project, job, id_, updated, status = map(escape, fields)
    prefix = sink["path"] + "/" if sink["type"] == "file" else sink.get("prefix", "")
    key = f"{prefix}{ws}/{project}/{job}/{id_}/{updated}-{status}-{message.partition()}-{message.offset()}.json"
    if sink["type"] == "webhook":
        key = f"{run['id']}:{run['updatedAt']}:{run['status']}"
    return Event(partition=message.partition(), offset=message.offset(), prefix=prefix,
                 place={"file": "file:", "webhook": "hook:"}.get(sink["type"]) or sink["bucket"],
                 destination=json.dumps(sink, sort_keys=True), key=key, line=model.redact(value))


def escape(text):
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="").replace("~", "%7E")


# ---- places -----------------------------------------------------------------------------------------------------------


class Bucket:
    """Listed once: nothing writes any more."""

    def __init__(self, client, name):
        self.client, self.name = client, name

    @functools.cache
    def list(self):
        """{key: MD5 of the content}"""
        # From the last key on: S3Proxy's own continuation tokens skip keys that hold a percent sign.
        found, last, more = {}, "", True
        while more:
            page = self.client.list_objects_v2(Bucket=self.name, StartAfter=last)
            more = page["IsTruncated"]
            for one in page.get("Contents", []):
                found[one["Key"]], last = one["ETag"].strip('"'), one["Key"]
        return found

    def get(self, key):
        """(content, metadata)"""
        answer = self.client.get_object(Bucket=self.name, Key=key)
        return answer["Body"].read(), answer["Metadata"]


class Folder:
    name = "file:"

    def __init__(self, root):
        self.root = Path(root)

    @functools.cache
    def list(self):
        # Temporary files of killed workers are no objects; they are removed an hour later.
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith(".tmp-")]
        return {str(path.relative_to(self.root)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}

    def get(self, key):
        return (self.root / key).read_bytes(), {}


def connect(store, access_key, secret_key):
    return botocore.session.Session().create_client(
        "s3", region_name="us-east-1", endpoint_url=store, aws_access_key_id=access_key, aws_secret_access_key=secret_key,
        config=botocore.config.Config(s3={"addressing_style": "path"}, signature_version="s3v4",
                                      request_checksum_calculation="when_required",
                                      response_checksum_validation="when_required"))


def places(client, bucket_prefix, folder):
    found = [Bucket(client, one["Name"]) for one in client.list_buckets()["Buckets"] if one["Name"].startswith(bucket_prefix)]
    return found + ([Folder(folder)] if folder else [])


# ---- object mode ------------------------------------------------------------------------------------------------------


def check_objects(events, found_places):
    """An object per event: its key and its content are known beforehand."""
    expected = {(event.place, event.key): event for event in events}
    sample = 0
    for place in found_places:
        for key, digest in place.list().items():
            event = expected.pop((place.name, key), None)
            if event is None:
                yield Violation("unexplained", f"{place.name}/{key} belongs to no event")
                continue
            sample += 1
            if digest != hashlib.md5(event.line).hexdigest() or (sample <= SAMPLE and place.get(key)[0] != event.line):
                yield Violation("changed", f"{place.name}/{key} is not the event's payload")
    for place, key in expected:
        yield Violation("missing", f"{place}/{key}")


# ---- batch mode -------------------------------------------------------------------------------------------------------


def key_pattern(topic):
    # The topic is known, and must be: its own dashes and digits would make the numbers ambiguous.
    return re.compile(r"(?P<prefix>.*)dt=\d{4}-\d\d-\d\d/" + re.escape(topic) +
                      r"-(?P<partition>\d+)-(?P<first>\d+)-(?P<next>\d+)-[0-9a-f]{12}(?:\.(?P<nth>\d+))?\.ndjson(?:|\.gz|\.zst)")


def plain(contents):
    """{key: content} without their compression; one run of zstd for all of them."""
    found = {key: gzip.decompress(content) if key.endswith(".gz") else content for key, content in contents.items()}
    zstd = [key for key in found if key.endswith(".zst")]
    if zstd:
        with tempfile.TemporaryDirectory() as directory:
            paths = [Path(directory, f"{number}.zst") for number in range(len(zstd))]
            for key, path in zip(zstd, paths):
                path.write_bytes(found[key])
            subprocess.run(["zstd", "-dq", *paths], check=True)
            found |= {key: path.with_suffix("").read_bytes() for key, path in zip(zstd, paths)}
    return found


def check_batch(place, key, text, metadata, pattern, by_line, members_of):
    """One object. Yields violations; returns its window (partition, first, next) and the events it holds."""
    match = pattern.fullmatch(key)
    if not match:
        yield Violation("unexplained", f"{place.name}/{key} is no batch's key")
        return None, []
    partition, first, next_ = int(match["partition"]), int(match["first"]), int(match["next"])
    events = []
    for line in text.split(b"\n")[:-1]:
        event = by_line.get((place.name, line))
        if event is None:
            yield Violation("changed", f"{place.name}/{key} holds a line that is no event's payload: {line[:80]!r}")
        else:
            events.append(event)
    offsets = [event.offset for event in events]
    kinds = {(event.destination, event.prefix, event.partition) for event in events}
    if len(kinds) != 1 or not text.endswith(b"\n") or {(e.prefix, e.partition) for e in events} != {(match["prefix"], partition)}:
        yield Violation("unexplained", f"{place.name}/{key} holds events of other destinations or partitions, or none")
    elif offsets != [o for o in members_of[next(iter(kinds))] if first <= o < next_]:
        yield Violation("unexplained", f"{place.name}/{key} does not hold exactly its window's events in their order")
    if "sha256" in metadata and metadata["sha256"] != hashlib.sha256(text).hexdigest():
        yield Violation("changed", f"{place.name}/{key}: x-amz-meta-sha256 is another")
    if "count" in metadata and int(metadata["count"]) != len(events):
        yield Violation("changed", f"{place.name}/{key}: x-amz-meta-count is another")
    return (partition, first, next_), events


def check_batches(events, found_places, topic):
    by_line = {(event.place, event.line): event for event in events}
    members_of = collections.defaultdict(list)
    for event in events:
        members_of[event.destination, event.prefix, event.partition].append(event.offset)
    for offsets in members_of.values():
        offsets.sort()
    holders = collections.defaultdict(list)
    windows = collections.defaultdict(set)
    pattern = key_pattern(topic)
    for place in found_places:
        with ThreadPoolExecutor(4) as pool:
            got = dict(zip(place.list(), pool.map(place.get, place.list())))
        texts = plain({key: content for key, (content, _) in got.items()})
        for key, (_, metadata) in got.items():
            window, held = yield from check_batch(place, key, texts[key], metadata, pattern, by_line, members_of)
            if window:
                windows[window[0]].add(window[1:])
            for event in held:
                holders[event].append(f"{place.name}/{key}")
    for event in events:
        if not holders[event]:
            yield Violation("missing", f"{event.place}: the event at {event.partition}/{event.offset}")
        elif len(holders[event]) > 1:
            yield Violation("duplicate", f"the event at {event.partition}/{event.offset}: {' and '.join(holders[event])}")
    for partition, found in windows.items():
        ordered = sorted(found)
        for one, other in zip(ordered, ordered[1:]):
            if other[0] < one[1]:
                yield Violation("overlap", f"partition {partition}: windows {one} and {other}")


# ---- all of it --------------------------------------------------------------------------------------------------------


def check(bootstrap, topic, group, mode, found_places, acknowledged=()):
    """(violations, the events that webhooks should have had, what was there as text)"""
    violations = [Violation("unsettled", f"{count} records of {where}") for where, count in behind(bootstrap, group, topic).items()]
    for message in read(bootstrap, *(name for name in topics(bootstrap, topic) if name.startswith(f"{topic}.dead."))):
        why = dict(message.headers() or []).get("runsink-reason", b"?").decode()
        violations.append(Violation("dead", f"{message.topic()}/{message.partition()}/{message.offset()}: {why}"))
    messages = list(read(bootstrap, topic))
    events = [event for event in map(event_of, messages) if event]
    lost = set(acknowledged) - {int(json.loads(message.value())["id"].removeprefix("run-")) for message in messages}
    if lost:
        violations.append(Violation("topic", f"{len(lost)} acknowledged events are not on the topic: the broker lost them"))
    archived = [event for event in events if event.place != "hook:"]
    hooked = [event for event in events if event.place == "hook:"]
    judge = check_objects(archived, found_places) if mode == "object" else check_batches(archived, found_places, topic)
    violations += judge
    objects = sum(len(place.list()) for place in found_places)
    return violations, hooked, f"{len(messages)} records, {len(archived)} to archive, {objects} objects"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bootstrap", "topic", "group", "mode", "store", "access", "secret", "buckets"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--folder", help="file.root")
    options = parser.parse_args()
    found_places = places(connect(options.store, options.access, options.secret), options.buckets, options.folder)
    violations, _, summary = check(options.bootstrap, options.topic, options.group, options.mode, found_places)
    print(summary, *violations, sep="\n")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
