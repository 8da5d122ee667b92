"""What the runs came to: medians with their spread, ratios to the floors, goals, and all of it as Markdown."""
import os
import platform
import statistics
import time
from dataclasses import dataclass
from typing import Callable

OURS = "runsink"
NO_LEDGER = "runsink, no ledger"


class Figures:
    """Samples by case and program."""

    def __init__(self, rounds):
        self.rounds, self.samples, self.units, self.values = rounds, {}, {}, {}
        self.load, self.begin = os.getloadavg()[0], time.strftime("%Y-%m-%d %H:%M", time.gmtime())

    def add(self, case, program, topic, sample):
        self.samples.setdefault(case.name, {}).setdefault(program, []).append(sample)
        self.units[case.name] = (topic.events, case.per, topic.bytes)

    def add_value(self, name, value):
        """What is one number: a start's seconds, a size."""
        self.values.setdefault(name, []).append(value)

    def all(self, case, program, what):
        events, per, size = self.units[case]
        scale = {"cpu": per / events if per else 1e9 / size, "cpu_gb": 1e9 / size}.get(what, 1)
        return [getattr(one, what.split("_")[0]) * scale for one in self.samples[case][program]]

    def median(self, case, program, what):
        return statistics.median(self.all(case, program, what))

    def has(self, case, program):
        return program in self.samples.get(case, {})


def spread(values, digits):
    """Median (least to most)."""
    text = f"{statistics.median(values):,.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def rows(figures):
    for case, programs in figures.samples.items():
        floors = [name for name in programs if name.startswith("floor")]
        for program in programs:
            ratio = "" if not floors or program in floors else \
                f"{figures.median(case, program, 'cpu') / figures.median(case, floors[-1], 'cpu'):.2f}"
            yield (case, program, spread(figures.all(case, program, "rate"), 0), spread(figures.all(case, program, "cpu"), 2),
                   ratio, spread(figures.all(case, program, "rss"), 0), spread(figures.all(case, program, "wall"), 1))


# ---- goals ------------------------------------------------------------------------------------------------------------


@dataclass
class Goal:
    case: str
    text: str
    value: Callable  # of the figures; KeyError when they don't have it
    limit: float
    least: bool = False  # the value must be at least the limit


def cost(case, limit, what="cpu", text="CPU-s per million"):
    return Goal(case, text, lambda f: f.median(case, OURS, what), limit)


def ratio(case, program, what, limit, text, least=False, of=None):
    """Ours to another program's, or to ours in another case."""
    return Goal(case, text, lambda f: f.median(case, OURS, what) / f.median(of or case, program, what), limit, least)


def value(name, text, limit):
    return Goal(name, text, lambda f: statistics.median(f.values[name]), limit)


def goals():
    for case, limit in (("batch-gzip", 3.9), ("batch-zstd", 2.4), ("batch-plain", 1.8)):
        yield cost(case, limit)
        yield cost(case, 96, "rss", "peak RSS, MiB")
    for case in ("batch-gzip", "batch-plain"):
        yield ratio(case, "bento", "rate", 1, "rate, to Bento's", least=True)
    yield ratio("batch-gzip", NO_LEDGER, "cpu", 1.05, "CPU, to that without a ledger")
    yield ratio("object", NO_LEDGER, "cpu", 1.1, "CPU, to that without a ledger")
    yield ratio("object", "floor: bare PUT", "rate", 0.9, "rate, to the bare client's", least=True)
    yield ratio("object", "floor: bare PUT", "cpu", 1.3, "CPU, to the bare client's")
    yield cost("webhook", 0.4, text="CPU-s per 10,000")
    yield ratio("webhook", "floor: bare POST", "rate", 0.9, "rate, to the bare client's", least=True)
    for case in ("object", "webhook"):
        many = f"{case}-10k"
        yield ratio(many, OURS, "rate", 1 / 1.3, f"rate, to that of {case}", least=True, of=case)
        yield ratio(many, OURS, "cpu", 1.3, f"CPU per event, to that of {case}", of=case)
    for case in ("size-8k", "size-64k"):
        yield ratio(case, OURS, "cpu_gb", 1.3, "CPU per byte, to that of batch-plain", of="batch-plain")
    for case in ("lanes-2", "lanes-4", "processes-2", "processes-4"):
        yield ratio(case, OURS, "rate", 1, "rate, to that of batch-gzip", least=True, of="batch-gzip")
    yield value("idle", "CPU, % of a core", 0.5)
    yield value("start", "seconds from the assignment to the first arrival", 1)
    yield value("binary", "stripped, bytes", 1_000_000)


def judged(figures):
    """(case, what, measured, limit, met) of each goal that these figures can tell."""
    for goal in goals():
        try:
            measured = goal.value(figures)
        except KeyError:
            continue
        met = measured >= goal.limit if goal.least else measured <= goal.limit
        sign = ">=" if goal.least else "<="
        digits = 0 if goal.limit >= 10 else 2
        yield goal.case, goal.text, f"{measured:,.{digits}f}", f"{sign} {goal.limit:,.{digits}f}", "yes" if met else "no"


# ---- output -----------------------------------------------------------------------------------------------------------

HEAD = ("case", "program", "events/s", "CPU-s*", "to floor", "peak RSS, MiB", "wall, s")
GOALS = ("case", "goal", "measured", "limit", "met")


def plain(head, lines):
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    for line in [head, *lines]:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip(), flush=True)


def markdown_table(head, lines):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(line) + " |" for line in lines]


def about(figures):
    models = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return (f"{figures.begin} UTC, {os.cpu_count()} cores ({models[0] if models else platform.machine()}), load average at start "
            f"{figures.load:.1f}, {figures.rounds} round(s), median (range).")


NOTE = ("\\* User and system seconds of the process: per 10,000 events in object and webhook cases, per GB in size cases, per million "
        "events in the others. Rates are from start to last arrival in batch mode, from first to last arrival in object and "
        "webhook cases.")


def show(figures):
    print("\n" + about(figures), flush=True)
    plain(HEAD, list(rows(figures)))
    print(NOTE.lstrip("\\") + "\n", flush=True)
    plain(GOALS, list(judged(figures)))


def markdown(figures, file):
    lines = [about(figures), "", *markdown_table(HEAD, rows(figures)), "", NOTE, "", *markdown_table(GOALS, judged(figures)), ""]
    file.write_text("\n".join(lines))
