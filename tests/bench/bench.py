"""Cost and speed of runsink against a real broker, a real S3 server and a receiver on loopback, beside floors (programs that do
one part of the work and nothing else) and, when asked, peers. Each topic is loaded once; in each round each case runs all its
programs one after another. After each run an independent reader looks at what has arrived: every event once, in its tenant's
bucket alone, without a secret. CPU time is the sturdy figure; rates depend on what else the machine does.

The exit code is 0 when every run was correct, whatever the figures say.
"""
import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
import figures  # noqa: E402
import lives  # noqa: E402
import rig  # noqa: E402
from programs import Bento, Consume, Runsink, Send  # noqa: E402
from stage import Stage  # noqa: E402

MILLION, TEN_THOUSAND = 1_000_000, 10_000
KIB = 1024


@dataclass
class Case:
    name: str
    help: str
    topic: str
    settings: dict
    floors: list = field(default_factory=list)
    per: int = MILLION  # events that CPU time is told for; 0: it is told for a GB
    processes: int = 1
    peers: bool = False
    ledger: bool = False  # what it costs is measured here


def batch(compression, **more):
    return {"archive": "batch", "batch.compression": compression, **more}


CASES = [
    Case("batch-gzip", "batch mode, gzip 1", "runs", batch("gzip"), [Consume(), Consume("gzip")], peers=True,
         ledger=True),
    Case("batch-zstd", "batch mode, zstd 1", "runs", batch("zstd"), [Consume("zstd")]),
    Case("batch-plain", "batch mode, no compression", "runs", batch("none"), [Consume("none")], peers=True),
    Case("object", "an object per event", "objects", {}, [Send("lean"), Send("put")], TEN_THOUSAND, peers=True, ledger=True),
    Case("webhook", "a POST per event", "hooks", {}, [Send("post")], TEN_THOUSAND, peers=True),
    Case("object-10k", "an object per event, 10,000 destinations", "objects-10k", {}, [], TEN_THOUSAND),
    Case("webhook-10k", "a POST per event, 10,000 destinations", "hooks-10k", {}, [], TEN_THOUSAND),
    Case("size-8k", "batch-plain, events of 8 KB", "runs-8k", batch("none"), [Consume("none")], 0),
    Case("size-64k", "batch-plain, events of 64 KB", "runs-64k", batch("none"), [Consume("none")], 0),
    Case("lanes-2", "batch-gzip, 2 lanes", "runs", batch("gzip", lanes=2)),
    Case("lanes-4", "batch-gzip, 4 lanes", "runs", batch("gzip", lanes=4)),
    Case("processes-2", "batch-gzip, 2 processes", "runs", batch("gzip"), processes=2),
    Case("processes-4", "batch-gzip, 4 processes", "runs", batch("gzip"), processes=4),
]
VALUES = {"life": "start to first delivery, and the cost of being idle", "binary": "its size, stripped"}
NAMES = [case.name for case in CASES] + list(VALUES)


def load(stage, name, options):
    """A case's topic. --events is what the batch cases read; the others have the same bytes, or what takes about as long."""
    n = options.events
    many = 10_000 if not options.quick else 100
    return {
        "runs": lambda: stage.load(name, "batch", n),
        "runs-8k": lambda: stage.load(name, "batch", n // 7, 8 * KIB),
        "runs-64k": lambda: stage.load(name, "batch", n // 56, 64 * KIB),
        "objects": lambda: stage.load(name, "object", n // 10),
        "hooks": lambda: stage.load(name, "webhook", n // 5),
        "objects-10k": lambda: stage.load(name, "object", n // 10, destinations=many),
        "hooks-10k": lambda: stage.load(name, "webhook", n // 5, destinations=many),
    }[name]()


def contenders(case, options):
    yield from case.floors
    yield Runsink(figures.OURS, rig.RUNSINK)
    if case.ledger:
        yield Runsink(figures.NO_LEDGER, rig.RUNSINK, ledger="off")
    for i, binary in enumerate(options.also):
        yield Runsink(f"also {i + 1}: {binary.name}", binary)
    if case.peers:
        yield from (Bento(path) for path in options.peer)


def run_case(stage, case, number, options, found):
    topic = load(stage, case.topic, options)
    order = list(contenders(case, options))
    # The other way round each second time: what drifts with time hits all alike.
    for program in order[::-1] if number % 2 else order:
        tag = rig.unique(f"{case.name}-{number}")
        sample = program.run(stage, case, topic, tag)
        found.add(case, program.name, topic, sample)
        print(f"  {case.name:12} {program.name:22} {sample.rate:9,.0f} events/s  {sample.cpu:7.2f} CPU-s  "
              f"{sample.rss:6.1f} MiB  {sample.wall:6.1f} s", flush=True)


def run_all(stage, options):
    found = figures.Figures(options.rounds)
    chosen = [case for case in CASES if case.name in options.case]
    for case in chosen:
        load(stage, case.topic, options)
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}, load average {os.getloadavg()[0]:.1f}", flush=True)
        for case in chosen:
            run_case(stage, case, number, options, found)
        if "life" in options.case:
            lives.run(stage, found, options.idle)
    if "binary" in options.case:
        found.add_value("binary", lives.stripped(stage))
    return found


def peer(text):
    name, _, path = text.partition("=")
    if name != "bento" or not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError("bento=PATH, and PATH a program")
    return Path(path)


def main():
    cases = "\n".join(f"  {name:12} {text}" for name, text in [(one.name, one.help) for one in CASES] + list(VALUES.items()))
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, epilog=f"cases:\n{cases}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="default: all")
    parser.add_argument("--rounds", type=int, default=None, help="default: 3")
    parser.add_argument("--events", type=int, default=None, help="of the batch cases, default: 500000; others have a part of it")
    parser.add_argument("--quick", action="store_true", help="1 round of 6000 events: shows that it works, and nothing else")
    parser.add_argument("--idle", type=float, default=20, metavar="SECONDS", help="for how long idleness is watched")
    parser.add_argument("--also", type=Path, action="append", default=[], metavar="BINARY",
                        help="another runsink, run in each case too; repeatable")
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="bento=PATH",
                        help="run this peer in the cases batch-gzip, batch-plain, object and webhook")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--keep", action="store_true", help="keep configurations and logs")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.events = options.events or (6000 if options.quick else 500_000)
    stage = Stage(Path(os.environ["BENCH"]))
    try:
        found = run_all(stage, options)
    finally:
        stage.close(options.keep or sys.exc_info()[0] is not None)
    figures.show(found)
    if options.markdown:
        figures.markdown(found, options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
