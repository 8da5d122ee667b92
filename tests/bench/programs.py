"""The programs that are measured: runsink, the floors, and peers. Each run takes a case and answers with a Sample."""
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import rig
import stage as stages

RUN_SECONDS = 900  # longer than any run takes
CONNECTIONS = 32   # of runsink, of the bare clients, and of the peers
# What one destination gets of one window of batch.bytes, 8 MiB: the pieces that the floors compress.
PIECE = (8 << 20) // stages.TENANTS
# The defaults; each run writes below a folder of its own.
KEY_OBJECT = "{prefix}{workspaceId}/{projectId}/{jobId}/{id}/{updatedAt}-{status}-{partition}-{offset}.json"
KEY_BATCH = "{prefix}dt={date}/{topic}-{partition}-{first}-{next}-{destination}.ndjson"


@dataclass
class Sample:
    rate: float  # events a second
    cpu: float   # user and system seconds, for all events
    rss: float   # peak, MiB
    wall: float  # seconds from start to exit


class Process:
    """A command under tests/bench/measure.c."""

    def __init__(self, stage, tag, command):
        self.result, self.out, self.log = (stage.dir / f"{tag}.{kind}" for kind in ("json", "out", "log"))
        self.name, self.begin = tag, time.time()
        with open(self.out, "wb") as out, open(self.log, "wb") as log:
            self.process = subprocess.Popen([stage.programs / "measure", self.result, *map(str, command)], stdout=out,
                                            stderr=log, stdin=subprocess.DEVNULL, env=rig.ENVIRONMENT)

    def exited(self):
        return self.process.poll()

    def tail(self):
        return (self.log.read_text(errors="replace") + self.out.read_text(errors="replace"))[-2000:]

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        try:
            self.process.wait(RUN_SECONDS)
        except BaseException:
            self.terminate()
            raise
        found = json.loads(self.result.read_text())
        if found["exit"] != 0:
            raise AssertionError(f"{self.name} ended with {found['exit']}\n{self.tail()}")
        return found


def sample(topic, costs, begin, arrived):
    """Of processes that shared a topic. arrived: when the first and the last event arrived. In batch mode the rate counts from
    the start of the process: its first object comes late. What delivers at once is counted from its first arrival, since joining
    a group takes as long as thousands of requests; how long that is, the case "life" tells."""
    first, last = arrived
    return Sample(rate=topic.events / (last - (begin if topic.kind == "batch" else first)), cpu=sum(one["cpu"] for one in costs),
                  rss=max(one["rss"] for one in costs) / 1024, wall=max(one["wall"] for one in costs))


# ---- floors -----------------------------------------------------------------------------------------------------------


class Consume:
    def __init__(self, form=None):
        self.form = form
        self.name = "floor: consume" + (f" + {form}" if form else "")

    def run(self, stage, case, topic, tag):
        command = [stage.programs / "consume", stage.kafka.bootstrap, topic.full, stages.PARTITIONS, topic.events]
        process = Process(stage, tag, command + ([self.form, PIECE] if self.form else []))
        cost = process.wait()
        said = json.loads(process.out.read_text())
        if said["events"] != topic.events or said["bytes"] != topic.bytes:
            raise AssertionError(f"{self.name} read {said}, {topic.name} has {topic.events} events, {topic.bytes} bytes")
        return sample(topic, [cost], 0, (0, cost["wall"]))


class Send:
    def __init__(self, verb):
        self.verb = verb
        self.name = {"put": "floor: bare PUT", "lean": "floor: leaner PUT", "post": "floor: bare POST"}[verb]

    def run(self, stage, case, topic, tag):
        process = Process(stage, tag, [stage.programs / "send", self.verb, topic.file, topic.places, topic.events, CONNECTIONS,
                                       tag])
        cost = process.wait()
        if self.verb != "post":
            arrived = stages.check_store(stage, topic, tag, routed=False)
        else:
            arrived = stages.check_receiver(stage, topic, base=10)
        return sample(topic, [cost], process.begin, arrived)


# ---- runsink ----------------------------------------------------------------------------------------------------------


def settings(stage, case, topic, tag):
    return {
        "topics": topic.full, "group": tag, "memory.budget": "64MiB", "http.max_connections": CONNECTIONS,
        "key.object": f"{tag}/{KEY_OBJECT}", "key.batch": f"{tag}/{KEY_BATCH}",
        "egress.allow": "127.0.0.0/8", "egress.http": "true",
        "kafka": {"bootstrap.servers": stage.kafka.bootstrap},
        **case.settings,
    }


def check(stage, topic, tag):
    return stages.check_receiver(stage, topic) if topic.kind == "webhook" else stages.check_store(stage, topic, tag)


class Runsink:
    def __init__(self, name, binary, **more):
        self.name, self.binary, self.more = name, binary, more

    def launch(self, stage, case, topic, tag, i):
        config = stage.dir / f"{tag}-{i}.ini"
        chosen = {**settings(stage, case, topic, tag), **self.more, "admin.listen": f"127.0.0.1:{rig.free_port()}"}
        config.write_text(rig.config_text(chosen))
        return Process(stage, f"{tag}-{i}", [self.binary, "run", "--config", config, "--until-end"])

    def run(self, stage, case, topic, tag):
        processes = [self.launch(stage, case, topic, tag, i) for i in range(case.processes)]
        costs = [one.wait() for one in processes]
        return sample(topic, costs, processes[0].begin, check(stage, topic, tag))


# ---- peers ------------------------------------------------------------------------------------------------------------


class Bento:
    """One bucket and one set of credentials: it can't route by the event's own sink. It knows no zstd. Ends by SIGTERM once the
    group's offsets stand at the topic's ends."""

    def __init__(self, binary):
        self.name, self.binary = "bento", binary

    def output(self, stage, case, topic, tag):
        if topic.kind == "webhook":
            headers = {"Content-Type": "application/json", "webhook-id": "${! content().slice(7, 15) }"}
            return {"http_client": {"url": f"{stage.receiver.url}/ok-bento/hooks/runs", "verb": "POST",
                                    "max_in_flight": CONNECTIONS, "headers": headers}}
        tenant = stage.tenants[0]
        form = case.settings.get("batch.compression")
        suffix = {"gzip": ".ndjson.gz", "none": ".ndjson", None: ".json"}[form]
        s3 = {"bucket": tenant.bucket, "path": f"{tag}/${{! uuid_v4() }}{suffix}", "endpoint": stage.store.url,
              "region": "us-east-1", "force_path_style_urls": True, "max_in_flight": CONNECTIONS,
              "credentials": {"id": tenant.access, "secret": tenant.secret}}
        if form:
            steps = [{"archive": {"format": "lines"}}]
            if form != "none":
                steps.append({"compress": {"algorithm": form, "level": 1}})
            # In the input: what travels as a batch from the start costs half of what is put together at the output.
            self.batching = {"count": 7000, "byte_size": 8 << 20, "period": "1s", "processors": steps}
        return {"aws_s3": s3}

    def run(self, stage, case, topic, tag):
        config, self.batching = stage.dir / f"{tag}-config.json", None
        output = self.output(stage, case, topic, tag)
        source = {"seed_brokers": [stage.kafka.bootstrap], "topics": [topic.full], "consumer_group": tag,
                  "start_from_oldest": True, "checkpoint_limit": 20000, "commit_period": "1s"}
        if self.batching:
            source["batching"] = self.batching
        config.write_text(json.dumps({"http": {"address": f"127.0.0.1:{rig.free_port()}"}, "logger": {"level": "WARN"},
                                      "input": {"kafka_franz": source}, "output": output}))
        process = Process(stage, tag, [self.binary, "-c", config])
        rig.await_("bento has committed all", RUN_SECONDS, lambda: stage.kafka.settled(tag, topic.full), process)
        process.terminate()
        cost = process.wait()
        return sample(topic, [cost], process.begin, stages.check_peer(stage, topic, tag))
