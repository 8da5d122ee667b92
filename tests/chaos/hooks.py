"""Judges what webhooks were called with: at least once, never something else under the same webhook-id, and again only for a
reason. A reason is an answer that was a lie, or trouble while the event was in flight, between its first call and its settlement.
What is settled is never sent again, but for what a worker that was frozen has in its hands when it wakes up."""
import collections
import hashlib
import json
import math
from dataclasses import dataclass, field

import checker
from checker import Violation
from plan import SESSION_TIMEOUT_MS

HEARD = (None, "half-answer")  # the worker could read a 200
SLOW_S = 1.0  # an answer that took longer may have come too late for the worker
ZOMBIE_S = 5.0  # for how long a worker that wakes up may act on what it believes
SLACK_S = 0.3
# For how long harm has consequences: a death is noticed after the session timeout; then all members give their partitions back
# within five seconds, and a replay that this interrupts begins anew with the next owner.
REACH_S = SESSION_TIMEOUT_MS / 1000 + 6


@dataclass
class Trouble:
    """When workers or brokers were harmed, or members came and went, by time.time()."""
    at: list = field(default_factory=list)
    woken: list = field(default_factory=list)  # frozen workers that went on
    away: list = field(default_factory=list)  # (from, to): a broker was; every second of it is trouble

    def count(self, start, end):
        """How often there was trouble, or the consequences of some, from start to end."""
        start, end = start - REACH_S, end + SLACK_S
        seconds = sum(math.ceil(max(0, min(end, to) - max(start, since))) for since, to in self.away)
        return sum(start <= at <= end for at in self.at + self.woken) + seconds

    def zombie(self, at):
        return any(0 <= at + SLACK_S - woken <= ZOMBIE_S for woken in self.woken)


@dataclass(frozen=True)
class Call:
    at: float
    answered: float
    id: str
    sha256: str
    fault: str

    def lied(self):
        return self.fault is not None or self.answered - self.at > SLOW_S


def read_calls(file):
    calls = collections.defaultdict(list)
    for line in file.read_text().splitlines():
        call = Call(*json.loads(line))
        calls[call.id].append(call)
    return {id_: sorted(found, key=lambda call: call.at) for id_, found in calls.items()}


def spread(ranges):
    """[5,[7,9]] -> 5, 7, 8, 9"""
    for one in ranges:
        yield from range(one[0], one[1] + 1) if isinstance(one, list) else (one,)


def settlements(entries, topic):
    """{(partition, offset): when it was settled as delivered to a webhook} from the ledger's entries."""
    found = {}
    for entry in entries:
        for request in (r for to in entry.get("delivered", []) for r in to.get("requests", [])):
            if entry["topic"] == topic:
                records = [(entry["partition"], offset) for offset in spread(request["offsets"])]
            else:
                records = [(partition, offset) for _, partition, ranges in request["origin"] for offset in spread(ranges)]
            found |= dict.fromkeys(records, entry["settled"] / 1000)
    return found


def judge_event(event, calls, settled, trouble):
    """Violations, and how many repeats had their reason in a lie or in trouble."""
    where = f"webhook event {event.partition}/{event.offset} ({event.key})"
    digest = hashlib.sha256(event.line).hexdigest()
    if any(call.sha256 != digest for call in calls):
        yield Violation("changed", f"{where}: another body")
    if not any(call.fault in HEARD for call in calls):
        yield Violation("missing", f"{where}: {len(calls)} calls, none answered with 200")
        return
    if settled is None:
        yield Violation("missing", f"{where}: the ledger does not say that it was delivered")
        return
    late = [call for call in calls if call.at > settled + SLACK_S and not trouble.zombie(call.at)]
    if late:
        yield Violation("repeated", f"{where}: called {late[0].at - settled:.1f} s after it was settled")
    lies, reasons = sum(call.lied() for call in calls), trouble.count(calls[0].at, max(settled, calls[-1].at))
    if len(calls) - 1 > lies + reasons:
        yield Violation("repeated", f"{where}: {len(calls)} calls, {lies} lies, trouble {reasons} times while it was in flight")


def judge(events, calls, settled, trouble):
    """(violations, what was there as text)"""
    violations, repeats, lies = [], 0, 0
    calls = dict(calls)
    for event in events:
        mine = calls.pop(event.key, [])
        repeats += max(0, len(mine) - 1)
        lies += sum(call.lied() for call in mine)
        violations += judge_event(event, mine, settled.get((event.partition, event.offset)), trouble)
    violations += [Violation("unexplained", f"webhook-id {id_} belongs to no event") for id_ in calls]
    return violations, f"{len(events)} to webhooks, {repeats} repeats ({lies} lies)"


def check(bootstrap, topic, events, file, trouble):
    entries = [json.loads(message.value()) for message in checker.read(bootstrap, f"{topic}.ledger")]
    return judge(events, read_calls(file), settlements(entries, topic), trouble)
