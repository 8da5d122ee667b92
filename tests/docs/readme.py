#!/usr/bin/env python3
"""What the documentation names must be there: commands and their options, scripts, files, configuration keys, variables,
metrics, alerts, headers, links. And the dashboard. usage: tests/docs/readme.py RUNSINK_BINARY [UNITTEST_ARGUMENT...]"""
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else ROOT / "build/release/runsink"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RUNSINK")}
FOLDERS = ("config", "scripts", "tests", "worker", "sinks")
DOCUMENTS = tuple(str(page.relative_to(ROOT)) for page in sorted(
    [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]))
# The page that newcomers read first stays short.
README_LINES = 250
# Rooms that have a page of their own.
ROOMS = ("config", "config/drill", "config/kubernetes", "config/kubernetes/runsink", "config/prometheus", "sinks", "tests", "tests/bench",
         "worker", "worker/admin", "worker/base", "worker/event", "worker/kafka", "worker/ledger", "worker/pipeline", "worker/tools")
# What else tells people to type something.
ADVICE = ("config/prometheus/alerts.yml", "config/kubernetes/runsink/values.yaml", "config/kubernetes/runsink/templates/NOTES.txt")

# First words of lines in indented blocks, and what holds for the rest of the line. A block that begins with none of these is a
# new form: it needs a line here, and a check.
SHELL = ("runsink", "build/release/runsink", "scripts/", "helm", "kafka-transactions.sh", "kubectl", "cat", "ctest", "sed -i", "$")
OTHER = ("consume -> decode", "topic jobruns ---", "source topic, retry topics", "base < config", "SELECT", "scrape_configs:", "image: ")


def read(name):
    return (ROOT / name).read_text()


def blocks(text):
    """The indented blocks, as lists of lines without their indent."""
    found, last = [], ""
    for line in text.splitlines():
        if line.startswith("    ") and (found and last == "block" or last == "blank"):
            if last == "blank":
                found.append([])
            found[-1].append(line[4:])
            last = "block"
        else:
            last = "blank" if not line.strip() else "text"
    return found


def spans(text):
    return [re.sub(r"\s+", " ", one) for one in re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"\n\n", "\n``\n", text))]


def everything():
    """(document, text) of each code span and each line of a block."""
    for name in DOCUMENTS:
        text = read(name)
        for one in spans(text):
            yield name, one
        for block in blocks(text):
            for line in block:
                yield name, line
    for name in ADVICE:
        for line in read(name).splitlines():
            yield name, line


@functools.lru_cache(None)
def runsink(*arguments):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, env=ENVIRONMENT, stdin=subprocess.DEVNULL)


@functools.lru_cache(None)
def anchors(page):
    text = page.read_text()
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^    .*$", "", text, flags=re.M), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles} | set(re.findall(r'<a id="([a-z-]+)"></a>', text))


def options(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


@functools.lru_cache(None)
def keys():
    return re.findall(r"^\| `([a-z0-9_.]+)` \|", runsink("check", "--reference").stdout, re.M)


class Documentation(unittest.TestCase):
    maxDiff = None

    def none(self, wrong):
        self.assertEqual([], sorted(set(wrong)))

    def test_commands(self):
        """each subcommand of runsink that is named exists, and knows the options it is named with"""
        usage = runsink("--help").stdout
        commands = set(re.findall(r"^  ([a-z]+)  ", usage, re.M)) | {"help"}
        self.assertGreater(len(commands), 6)
        wrong, seen = [], 0
        for document, text in everything():
            if text.lstrip().startswith(("helm ", "kubectl ")):
                continue  # there runsink is the name of a release, of a namespace
            calls = re.findall(r"(?:^|[\s`(|;/])runsink ((?:[a-z]+(?![\w/-])|--)[^|;`]*)", text)
            bare = re.match(r"([a-z]+) --", text)
            if bare and bare[1] in commands:
                calls.append(text)
            for call in calls:
                command = call.split()[0]
                if command not in commands:
                    if re.match(r"[a-z]+\W*$", command) and not options(call):
                        continue  # prose, not a command
                    if not command.startswith("--"):
                        wrong.append(f"{document}: runsink {call}: no such command")
                        continue
                    command = "run"
                seen += 1
                unknown = options(call) - options(usage) - options(runsink(command, "--help").stdout)
                wrong += [f"{document}: runsink {call}: {one}" for one in unknown]
        self.assertGreater(seen, 25)
        self.none(wrong)

    def test_scripts(self):
        """each script that is named exists, and knows the options it is named with"""
        wrong, seen = [], 0
        for document, text in everything():
            for name, rest in re.findall(r"(?<![\w/])scripts/([a-z]+)\b([^|;`#&]*)", text):
                script = ROOT / "scripts" / name
                if not script.exists():
                    wrong.append(f"{document}: scripts/{name}")
                    continue
                seen += 1
                known = script.read_text() + "".join(p.read_text() for p in (ROOT / "tests" / name).glob("*.py"))
                if name == "run" and "--local" not in rest:
                    known += runsink("--help").stdout + runsink("run", "--help").stdout
                wrong += [f"{document}: scripts/{name} {one}" for one in options(rest) - options(known)]
        self.assertGreater(seen, 12)
        self.none(wrong)

    def test_paths(self):
        """each file that is named is there"""
        files = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
        names = {Path(one).name for one in files.stdout.splitlines()} or {p.name for p in ROOT.rglob("*") if p.is_file()}
        wrong, seen = [], 0
        for document, text in everything():
            for path in re.findall(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w)", text):
                seen += 1
                if "NAME" not in path and not (ROOT / path).exists():
                    wrong.append(f"{document}: {path}")
            for name in re.findall(r"^([a-z_.0-9]+\.(?:py|c|h|yml|def|json))$", text):
                seen += 1
                if name not in names:
                    wrong.append(f"{document}: {name}")
        self.assertGreater(seen, 40)
        self.none(wrong)

    def test_keys(self):
        """each configuration key that is named is one"""
        known = keys()
        self.assertGreater(len(known), 60)
        sections = {name.split(".")[0] for name in known if "." in name}
        values = read("config/kubernetes/runsink/values.yaml")
        variables = {"RUNSINK_" + name.upper().replace(".", "_") for name in known} | {"RUNSINK_CONFIG", "RUNSINK_CACHE"}
        kafka, wrong, seen = set(), [], 0
        for document in DOCUMENTS:
            text = read(document)
            named = []
            for one in spans(text):
                match = re.match(r"([a-z0-9_]+(?:\.[a-z0-9_*]+)+)(?: ?= ?\S.*)?$", one)
                named += [match[1]] if match else []
            for name in re.findall(r"--set ([a-z0-9_.]+)=", text):
                wrong += [] if name in known or name.startswith("kafka.") else [f"{document}: --set {name}"]
            for name in named + re.findall(r"--set (kafka[a-z0-9_.]+)=", text):
                seen += 1
                section = name.split(".")[0]
                if name.startswith("kafka."):
                    kafka.add(name[len("kafka."):])
                elif section in sections and not name.endswith((".py", ".c", ".h", ".def", ".yml")):
                    found = [one for one in known if re.fullmatch(re.escape(name).replace(r"\*", ".+"), one)]
                    wrong += [] if found else [f"{document}: {name}"]
                elif name.endswith(".ms"):
                    kafka.add(name)
            for name in re.findall(r"`(\w+)\.enabled`", text):
                if not re.search(rf"^{name}:\n(?:  .*\n)*?  enabled:", values, re.M):
                    wrong.append(f"{document}: {name}.enabled is no value of the chart")
            for name in re.findall(r"(?<!-D)\bRUNSINK_[A-Z0-9_]*[A-Z0-9]\b", text):
                if name not in variables and not name.startswith("RUNSINK_KAFKA_"):
                    wrong.append(f"{document}: {name}")
        self.assertGreater(seen, 80)
        for name in kafka - {"retention.ms"}:  # a topic's, not librdkafka's
            said = runsink("check", "--config-only", "--set", "topics=a", "--set", "kafka.bootstrap.servers=b", "--set", f"kafka.{name}=1")
            if "no such property" in said.stdout + said.stderr:
                wrong.append(f"kafka.{name}")
        self.none(wrong)

    def test_metrics(self):
        """each metric that is named is served"""
        known = set(re.findall(r"^\| `(\w+)`", runsink("check", "--reference-metrics").stdout, re.M))
        self.assertGreater(len(known), 30)
        named = set()
        for document in DOCUMENTS:
            named |= set(re.findall(r"`((?:runsink|process)_[a-z_]+)`", read(document)))
        self.none(named - known - {name + suffix for name in known for suffix in ("_sum", "_count", "_bucket")})

    def test_alerts(self):
        """the table of alerts is that of the rules; each says what to do, and where in the table it is"""
        rules = re.split(r"^      - alert: ", read("config/prometheus/alerts.yml"), flags=re.M)[1:]
        self.assertGreater(len(rules), 10)
        rows = re.findall(r"^\| (?:<a id=\"(\w+)\"></a>)?`(Runsink\w+)` \| (\w+) \|", read("config/prometheus/README.md"), re.M)
        found, wrong = [], []
        for rule in rules:
            name = rule.splitlines()[0]
            says = dict(re.findall(r"^          (\w+): (.*)$", rule, re.M))
            wrong += [f"{name}: its annotations are {sorted(says)}"] if set(says) != {"summary", "description", "runbook_url"} else []
            link = re.fullmatch(r"file:///usr/share/doc/runsink/config/prometheus/README\.md#(\w+)", says.get("runbook_url", ""))
            wrong += [] if link else [f"{name}: runbook_url: {says.get('runbook_url')}"]
            found.append((link and link[1], name, re.search(r"^        labels: \{severity: (\w+)\}$", rule, re.M)[1]))
        self.none(wrong)
        self.assertEqual(sorted(found), sorted(rows), 'a row of the table: | <a id="name in lower case"></a>`Name` | severity |')
        named = {name for document in DOCUMENTS for name in re.findall(r"`(Runsink[A-Z]\w+)`", read(document))}
        self.none(named - {name for _, name, _ in found})
        tested = set(re.findall(r'alertname(?:=|: )"?(\w+)', read("config/prometheus/alerts.test.yml")))
        self.none(name for _, name, _ in found if name not in tested)

    def test_headers(self):
        """each header of a dead letter that is named is written, and each program beside runsink is there"""
        source = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.c"))
        named = {name for document in DOCUMENTS for name in re.findall(r"`(runsink-[a-z-]+[a-z])`", read(document))}
        self.assertGreater(len(named), 5)
        self.none(name for name in named if f'"{name}"' not in source and not (ROOT / "config/systemd" / name).exists())

    def test_exit_codes(self):
        """the list in OPERATIONS.md and that of `runsink --help` have each exit code that is used, and no other"""
        names = dict(OK=0, USAGE=64, DATAERR=65, NOINPUT=66, UNAVAILABLE=69, SOFTWARE=70, OSERR=71, CANTCREAT=73, IOERR=74, TEMPFAIL=75,
                     CONFIG=78)
        used = {names[name] for path in (ROOT / "worker").rglob("*.c") for name in re.findall(r"\bEX_([A-Z]+)\b", path.read_text())}
        section = re.search(r"^## Exit codes\n(.*?)^## ", read("config/OPERATIONS.md"), re.M | re.S)[1]
        self.assertEqual(used, {int(code) for code in re.findall(r"^\| (\d+) \| ", section, re.M)})
        listed = runsink("--help").stdout.split("Exit codes:")[1]
        self.assertEqual(used, {int(code) for code in re.findall(r"\b(\d+)\b", listed)})

    def test_links(self):
        """each link leads to a file, and in it to a heading"""
        wrong, seen = [], 0
        for document in DOCUMENTS:
            for target in re.findall(r"\]\(([^)\s]+)\)", read(document)):
                if re.match(r"https?:", target):
                    continue
                seen += 1
                path, _, anchor = target.partition("#")
                page = (ROOT / document).parent / path if path else ROOT / document
                if not page.is_file() or anchor and anchor not in anchors(page.resolve()):
                    wrong.append(f"{document}: {target}")
        self.assertGreater(seen, 80)
        self.none(wrong)

    def test_rooms(self):
        """each room has its page, each page is one that another leads to, and the first one stays short"""
        self.none(room for room in ROOMS if f"{room}/README.md" not in DOCUMENTS)
        led = {str(((ROOT / document).parent / target.partition("#")[0]).resolve().relative_to(ROOT))
               for document in DOCUMENTS for target in re.findall(r"\]\(([^)\s#:]+\.md[^)\s]*)\)", read(document))}
        self.none(set(DOCUMENTS) - led - {"README.md"})
        self.assertLessEqual(len(read("README.md").splitlines()), README_LINES)

    def test_blocks(self):
        """each indented block is of a form that is tried: by the tests above, or by the tour's"""
        wrong = []
        for document in DOCUMENTS:
            for block in blocks(read(document)):
                section = re.match(r"\[(\w+)\]$", block[0])
                if section:  # a configuration
                    names = [line.split(" = ")[0] for line in block[1:] if " = " in line]
                    wrong += [f"{document}: [{section[1]}] {name}" for name in names if f"{section[1]}.{name}" not in keys()]
                elif not block[0].startswith(SHELL + OTHER):
                    wrong.append(f"{document}: {block[0]}")
        self.none(wrong)


class Dashboard(unittest.TestCase):
    maxDiff = None

    # Of two processes with one job: what each panel that is named by its title has to show.
    SERIES = {
        'runsink_memory_held_bytes{job="runsink", instance="%s"}': ("50x20", "150x20"),
        'runsink_memory_budget_bytes{job="runsink", instance="%s"}': ("100x20", "200x20"),
        'runsink_partition_lag_records{job="runsink", instance="%s", topic="t", partition="0", kind="source"}': ("600x20", "0x20"),
        'runsink_partition_lag_records{job="runsink", instance="%s", topic="t.retry.10s", partition="0", kind="retry"}': ("9000x20", "0x20"),
        'runsink_records_total{job="runsink", instance="%s"}': ("0+60x20", "0+540x20"),
        'runsink_oldest_record_age_seconds{job="runsink", instance="%s"}': ("7x20", "9x20"),
        'process_start_time_seconds{job="runsink", instance="%s"}': ("2x20", "3x20"),
        'runsink_config_last_reload_successful{job="runsink", instance="%s"}': ("1x20", "0x20"),
        'runsink_trouble_seconds{job="runsink", instance="%s", cause="not-readable"}': ("0x20", "90x20"),
        'runsink_lane_restarts_total{job="runsink", instance="%s"}': ("0x20", "0x9 1x11"),
    }
    A, B, JOB = '{job="runsink", instance="a"}', '{job="runsink", instance="b"}', '{job="runsink"}'
    SHOWN = {
        "Memory held": [{'{instance="a"}': 50, '{instance="b"}': 150}, {'{instance="a"}': 100, '{instance="b"}': 200}],
        "Lag": [{"{}": 60}, {"{}": 600}],
        "Lag in seconds": [{JOB: 60}, {JOB: 9}],
        "What keeps events from flowing": [{'{cause="not-readable"}': 90}],
        "Starts": [{A: 2000, B: 3000}],
        "Lanes that start anew": [{B: 1}],
        "Reloads refused": [{B: 1}],
    }

    @classmethod
    def setUpClass(cls):
        cls.board = json.loads(read("config/grafana/runsink.json"))
        cls.panels = [panel for panel in cls.board["panels"] if panel["type"] != "row"]

    def test_layout(self):
        """no panel lies on another one or beside the page, each says what it shows, and of which processes"""
        for one, other in itertools.combinations(self.board["panels"], 2):
            self.assertNotEqual(one["id"], other["id"])
            a, b = one["gridPos"], other["gridPos"]
            apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
            self.assertTrue(apart, f"{one['title']} lies on {other['title']}")
            self.assertLessEqual(a["x"] + a["w"], 24)
        for panel in self.panels:
            self.assertTrue(panel["description"], panel["title"])
            for target in panel["targets"]:
                names = re.findall(r"\b(?:runsink|process)_\w+(.{0,40})", target["expr"])
                self.assertTrue(names)
                for rest in names:
                    self.assertTrue(rest.startswith('{job=~"$job", instance=~"$instance"'), target["expr"])

    def test_links(self):
        """a line of one process leads to its status page; alerts and Kafka's dashboards are one click away"""
        for panel in self.panels:
            links = [link["url"] for link in panel["fieldConfig"]["defaults"].get("links", ())]
            of_one = any("{{instance}}" in target["legendFormat"] for target in panel["targets"])
            self.assertEqual(["http://${__field.labels.instance}/"] if of_one else [], links, panel["title"])
        self.assertEqual(["link", "dashboards"], [link["type"] for link in self.board["links"]])

    def test_shown(self):
        """Prometheus answers what the panels and annotations ask: the budget by process, the lag in seconds, each start and reload"""
        asked = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in self.panels}
        asked |= {one["name"]: [one["expr"]] for one in self.board["annotations"]["list"]}
        self.assertLessEqual(set(self.SHOWN), set(asked))
        units = {panel["title"]: panel["fieldConfig"]["defaults"]["unit"] for panel in self.panels}
        self.assertEqual(("s", "s", "bytes"), (units["Lag"], units["Lag in seconds"], units["Memory held"]))
        # A start stands where it was, whenever it was scraped first: the value is the time, in milliseconds.
        starts, = (one for one in self.board["annotations"]["list"] if one["name"] == "Starts")
        self.assertIs(True, starts["useValueForTime"])

        def concrete(expr):
            return expr.replace("$__rate_interval", "5m").replace("$__range", "5m").replace("$job", ".+").replace("$instance", ".+")

        series = [{"series": name % instance, "values": values[place]} for name, values in self.SERIES.items()
                  for place, instance in enumerate("ab")]
        expected = {(title, n): samples for title, found in self.SHOWN.items() for n, samples in enumerate(found)}
        # At 10 minutes.
        exprs = [{"expr": concrete(expr), "eval_time": "10m",
                  "exp_samples": [{"labels": labels, "value": value} for labels, value in expected[title, n].items()]}
                 for title, exprs in asked.items() for n, expr in enumerate(exprs) if (title, n) in expected]
        self.assertEqual(len(expected), len(exprs))
        rules = [{"record": "x", "expr": concrete(expr)} for exprs in asked.values() for expr in exprs]
        with tempfile.TemporaryDirectory() as folder:
            names = {"rules.json": {"groups": [{"name": "dashboard", "rules": rules}]},
                     "test.json": {"rule_files": [], "evaluation_interval": "1m", "tests": [
                         {"interval": "1m", "input_series": series, "promql_expr_test": exprs}]}}
            for name, content in names.items():
                (Path(folder) / name).write_text(json.dumps(content))
            for arguments in (("check", "rules", "--lint=none", "rules.json"), ("test", "rules", "test.json")):
                done = subprocess.run([ROOT / "tests/flow/promtool", *arguments], cwd=folder, capture_output=True, text=True)
                if done.returncode == 77:
                    self.skipTest(done.stderr)
                self.assertEqual(0, done.returncode, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
