"""What is one number: how soon a worker delivers, what it costs while there is nothing to do, and how large its program is."""
import datetime
import re
import shutil
import subprocess
import time
from pathlib import Path

import rig
import stage as stages

EVENTS = 2000
QUIET = 3  # seconds between the last settlement and the watch


def cpu_ns(pid):
    """Of all threads; finer than the clock ticks of /proc/PID/stat."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def assigned_at(worker):
    found = re.search(r"time=(\S+) level=info event=\"partitions assigned\"", worker.text())
    return datetime.datetime.fromisoformat(found[1].replace("Z", "+00:00")).timestamp()


def run(stage, found, idle):
    topic = stage.load("life", "webhook", EVENTS)
    group = rig.unique("life")
    worker = rig.Worker(stage.dir, {"topics": topic.full, "group": group, "egress.allow": "127.0.0.0/8", "egress.http": "true",
                                    "kafka": {"bootstrap.servers": stage.kafka.bootstrap}})
    arrivals = []

    def all_here():
        arrivals.extend(stage.receiver.arrivals())
        return len(arrivals) >= topic.events
    rig.await_("every event has arrived", 60, all_here, worker)
    stages.complete(topic, {int(name[:8], 16) for _, name in arrivals}, len(arrivals), "the receiver")
    rig.await_("all is settled", 60, lambda: stage.kafka.settled(group, topic.full), worker)
    found.add_value("start", arrivals[0][0] / 1e6 - assigned_at(worker))
    time.sleep(QUIET)
    before, begin = cpu_ns(worker.process.pid), time.monotonic()
    time.sleep(idle)
    found.add_value("idle", (cpu_ns(worker.process.pid) - before) / 1e9 / (time.monotonic() - begin) * 100)
    if worker.stop() != 0:
        raise AssertionError(f"the worker did not end well\n{worker.tail()}")
    print(f"  {'life':12} first delivery {found.values['start'][-1]:.3f} s after the assignment, idle at "
          f"{found.values['idle'][-1]:.2f}% of a core", flush=True)


def stripped(stage):
    copy = stage.dir / "stripped"
    shutil.copy(rig.RUNSINK, copy)
    subprocess.run(["strip", copy], check=True)
    return copy.stat().st_size
