"""What happens in a run, drawn from its seed alone: nothing here looks at the clock or at a running process."""
import random
from dataclasses import dataclass, field

PARTITIONS = 6
CRASH_POINTS = ("boundary-before", "boundary-after", "put-before", "put-after", "txn-inside", "txn-sent")
# A point's passage at which a worker crashes is drawn up to this, per 20,000 events: object mode puts often, batch mode rarely.
CRASH_RANGE = {"object": {"put-before": 2000, "put-after": 2000}, "batch": {"put-before": 200, "put-after": 200}}
SESSION_TIMEOUT_MS = 4000


@dataclass
class Action:
    at: float  # seconds from the start
    kind: str  # kill, stop, leave, join, crash, broker, coordinator, outage, disk
    worker: int = 0
    argument: object = None  # stop, leave, outage, disk: seconds. crash: "point:n". kill, broker: a signal's name
    whose: str = ""  # coordinator: "group" or "transaction"

    def __str__(self):
        who = f" of a {self.whose}" if self.whose else ""
        if self.kind not in ("broker", "coordinator", "outage", "disk"):
            who = f" worker {self.worker}"
        what = "" if self.argument is None else f" {self.argument}"
        return f"{self.at:5.1f} s {self.kind}{who}{what}"


@dataclass
class Plan:
    seed: int
    mode: str
    compression: str
    workers: int
    lanes: int
    slots: bool  # static membership, stable transactional ids
    events: int
    seconds: float  # of trouble; the producer works all the while
    tenants: int
    file_tenants: int
    hook_tenants: int
    brokers: int
    noisy: bool  # all is logged, the admin server is asked, cores may be dumped and signals that dump them come
    aborts: bool  # the producer works in transactions, and aborts some
    fault_rate: float
    actions: list = field(default_factory=list)

    def random(self, *what):
        """A generator for one part of the run, the same whatever the other parts draw."""
        return random.Random("/".join(map(str, (self.seed, *what))))

    def first_crash(self, worker):
        """The crash that a worker's first start has in its luggage, or None."""
        draw = self.random("first-crash", worker)
        return crash(draw, self) if draw.random() < 0.5 else None

    def restart_delay(self, worker, nth):
        return self.random("restart", worker, nth).choice([0.1, 0.1, 0.5, 2.0])

    def __str__(self):
        parts = [self.mode if self.mode == "object" else f"batch/{self.compression}",
                 f"{self.workers} workers x {self.lanes} lanes", "static" if self.slots else "dynamic",
                 f"{self.events} events in {self.seconds:.0f} s", f"{self.tenants} tenants ({self.file_tenants} file, {self.hook_tenants} webhook)",
                 f"faults {self.fault_rate:.0%}"]
        parts += ["aborted transactions in the topic"] if self.aborts else []
        parts += [f"{self.brokers} brokers"] if self.brokers > 1 else []
        return f"seed {self.seed}: " + ", ".join(parts + (["noisy"] if self.noisy else []))


def crash(draw, plan):
    point = draw.choice(CRASH_POINTS)
    if plan.mode == "object" and point.startswith("boundary"):
        point = "txn-inside"  # object mode declares no boundaries
    most = CRASH_RANGE[plan.mode].get(point, 40) * plan.events // 20000
    return f"{point}:{1 + int(draw.random() * most)}"


def draw_actions(draw, plan):
    count = max(3, int(plan.seconds / 3.5))
    for _ in range(count):
        at, worker = draw.uniform(0.5, plan.seconds), draw.randrange(plan.workers)
        kind = draw.choices(["kill", "crash", "stop", "leave"], [4, 5, 2, 2])[0]
        argument = None
        if kind == "kill":
            argument = draw.choice(["KILL", "SEGV", "ABRT"] if plan.noisy else ["KILL"])
        elif kind == "crash":
            argument = crash(draw, plan)
        elif kind == "stop":
            # Mostly past the session timeout: the worker wakes up as a zombie.
            argument = round(SESSION_TIMEOUT_MS / 1000 + draw.uniform(-2, 4), 1)
        elif kind == "leave":
            argument = round(draw.uniform(0.5, 5), 1)
        plan.actions.append(Action(at, kind, worker, argument))
    for worker in range(1, plan.workers):
        if draw.random() < 0.3:
            plan.actions.append(Action(draw.uniform(1, plan.seconds), "join", worker))
    if plan.brokers > 1:
        for _ in range(draw.choice([1, 2])):
            plan.actions.append(Action(draw.uniform(2, plan.seconds), "coordinator", argument=draw.choice(["TERM", "KILL"]),
                                       whose=draw.choice(["group", "transaction"])))
    elif draw.random() < 0.2:
        plan.actions.append(Action(draw.uniform(2, plan.seconds), "broker", argument=draw.choice(["TERM", "KILL"])))
    for _ in range(draw.choice([0, 1, 2])):
        plan.actions.append(Action(draw.uniform(1, plan.seconds), "outage", argument=round(draw.uniform(0.5, 4), 1)))
    if plan.file_tenants and draw.random() < 0.7:
        plan.actions.append(Action(draw.uniform(1, plan.seconds / 2), "disk", argument=round(draw.uniform(1, 6), 1)))
    plan.actions.sort(key=lambda action: action.at)


def draw_plan(seed, events=20000, seconds=25.0, mode=None, brokers=None):
    draw = random.Random(f"plan/{seed}")
    plan = Plan(seed=seed, mode=draw.choice(["object", "batch"]), compression=draw.choice(["gzip", "zstd", "none"]),
                workers=draw.randint(2, 4), lanes=draw.choice([1, 1, 2]), slots=draw.random() < 0.5, events=events,
                seconds=seconds, tenants=20, file_tenants=draw.choice([0, 2, 4]), hook_tenants=draw.choice([0, 3, 5, 5]),
                aborts=draw.random() < 0.3, fault_rate=draw.choice([0, 0.02, 0.1, 0.25]), noisy=draw.random() < 0.15,
                brokers=3 if draw.random() < 0.1 else 1)
    plan.mode, plan.brokers = mode or plan.mode, brokers or plan.brokers
    draw_actions(draw, plan)
    return plan
