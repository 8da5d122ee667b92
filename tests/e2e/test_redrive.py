"""Dead letters go back, each once: what is selected, what arrives, and what kills, rivals and hidden ledgers can't change."""
import collections
import contextlib
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import Producer

import events
import model
import rig
from receiver import Receiver


class Redrive(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.kafka.create(self.topic, 2)
        self.base = self.settings(retry__permanent="dead", retry__delays="1s,2s", retry__window__webhook="500ms")
        self.count = 0

    def hook(self, path="/hook", **more):
        return {"type": "webhook", "url": self.receiver.url + path, **more}

    def send(self, *values, partition=0):
        self.kafka.produce(self.topic, [(b"k%d" % i, value) for i, value in enumerate(values)], partition,
                           [("ce_id", "a"), ("empty", "")])

    def run_until_end(self, settings=None, code=0):
        """A worker that delivers what is there; then nothing waits any more."""
        self.assertExit(code, self.worker(settings or self.base, "--until-end"))

    def settle(self, settings=None):
        worker = self.worker(settings or self.base)
        rig.await_("all is settled", 60, self.quiet, worker)
        self.assertEqual(0, worker.stop(), worker.tail())

    def config(self, settings=None):
        path = self.dir / f"redrive-{self.count}.ini"
        self.count += 1
        path.write_text(rig.config_text(settings or self.base))
        return path

    def redrive(self, *arguments, settings=None, code=0):
        """What it says, as --json; code None: any."""
        done = rig.runsink("redrive", "--config", self.config(settings), "--json", *arguments, seconds=150)
        if code is not None:
            self.assertEqual(code, done.returncode, done.stderr.decode())
        self.said = done.stderr.decode()
        return json.loads(done.stdout) if done.stdout else None

    def selected(self, *arguments):
        return self.redrive("--dry-run", *arguments)["topics"][0]["selected"]

    def retried(self, delay="1s"):
        return self.kafka.consume(f"{self.topic}.retry.{delay}")

    def origins(self, records):
        return collections.Counter(record.headers["runsink-origin"] for record in records)

    def assertOnce(self, records, count):
        found = self.origins(records)
        self.assertEqual([], [(k, n) for k, n in found.items() if n > 1][:10], "sent back twice")
        self.assertEqual(count, len(found))

    def verify(self, *arguments):
        done = rig.runsink("verify", "--config", self.config(), *arguments)
        self.assertEqual(0, done.returncode, done.stdout.decode() + done.stderr.decode())
        return done.stdout.decode()

    def broken(self, count):
        """That many dead letters, of fault data, over both partitions."""
        for partition in (0, 1):
            self.send(*[b'{"broken": %d' % i for i in range(count // 2)], partition=partition)
        self.run_until_end()
        self.assertEqual(count, len(self.dead("data")))

    # ---- one of each ----

    def test_every_fault(self):
        """letters of all three faults go back, are tried anew, and are not sent again"""
        root = self.dir / "gone"
        root.mkdir()
        self.base |= {"file.root": root, "retry.window.file": "500ms"}
        self.receiver.play("/hook", 500)
        texts = {"tenant": events.dump(events.run(self.hook())), "data": b"\x00no json",
                 "system": events.dump(events.run({"type": "file", "path": "here"}))}
        worker = self.worker(self.base)
        rig.await_("a member", 30, lambda: self.kafka.members(self.group) == 1, worker)
        root.rmdir()  # a start without it is refused
        self.send(*texts.values())
        rig.await_("three dead letters", 60, lambda: all(self.dead(fault) for fault in texts), worker)
        rig.await_("all is settled", 60, self.quiet, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        for fault, text in texts.items():
            self.assertEqual([text], [letter.value for letter in self.dead(fault)], fault)
        answer = self.redrive("--dry-run")
        self.assertEqual(("counted", 3, 0), (answer["result"], answer["topics"][0]["selected"], answer["topics"][0]["sent"]))
        self.assertEqual({"tenant", "data", "system"}, {row["fault"] for row in answer["topics"][0]["rows"]})
        self.assertEqual(len(self.retried()), len([r for r in self.retried() if r.headers["runsink-attempts"] != "0"]))

        before = len(self.receiver.requests)
        self.receiver.play("/hook", 200)
        root.mkdir()
        answer = self.redrive("--yes")
        self.assertEqual(("done", 3, 1), (answer["result"], answer["topics"][0]["sent"], answer["topics"][0]["transactions"]))
        back = [r for r in self.retried() if r.headers["runsink-attempts"] == "0"]
        self.assertEqual(sorted(texts.values()), sorted(r.value for r in back))
        for record in back:
            self.assertEqual(("0", "0", "a", ""), tuple(record.headers[n] for n in (
                "runsink-attempts", "runsink-first-failure", "ce_id", "empty")))
            self.assertNotIn("runsink-reason", record.headers)
            self.assertRegex(record.headers["runsink-origin"], f"^{self.topic}/0/[012]$")
            self.assertIn(record.key, (b"k0", b"k1", b"k2"))
        self.assertEqual("nothing to do", self.redrive("--yes")["result"])
        self.settle()
        self.assertEqual(before + 1, len(self.receiver.requests))
        self.assertEqual(1, len([p for p in root.rglob("*.json")]))
        self.assertEqual([1, 2, 1], [len(self.dead(fault)) for fault in ("tenant", "data", "system")])
        self.verify()
        # What can't be decoded has died again, and can go back again.
        answer = self.redrive("--yes")
        self.assertEqual((1, 3), (answer["topics"][0]["sent"], answer["topics"][0]["redriven_before"]))
        self.settle()
        self.assertEqual(3, len(self.dead("data")))
        self.verify("--records")

    # ---- selection ----

    def test_filters(self):
        """each option selects what it says, alone and together"""
        runs = []
        for i in range(12):
            runs.append(events.run(self.hook(f"/{'ab'[i % 2]}/{i % 3}"), id=f"run-{i}", workspaceId=f"w{i % 4}"))
        self.receiver.play("/a", 500)
        self.receiver.play("/b", 404)
        self.send(*map(events.dump, runs[:8]))
        self.send(*map(events.dump, runs[8:]), b"broken", partition=1)
        self.settle()
        letters = {fault: self.dead(fault) for fault in ("tenant", "data", "system")}
        tenant = letters["tenant"]
        self.assertEqual(12, len(tenant))
        labels = collections.Counter(r.headers["runsink-destination"] for r in tenant)
        label = sorted(labels)[0]
        self.assertEqual(6, len(labels))
        times = sorted(int(r.headers["runsink-time"]) for letters_ in letters.values() for r in letters_)
        self.assertEqual(13, self.selected())
        self.assertEqual(12, self.selected("--fault", "tenant"))
        self.assertEqual(1, self.selected("--fault=data"))
        self.assertEqual(0, self.selected("--fault", "system"))
        for reason in {r.headers["runsink-reason"] for r in tenant}:
            expected = sum(r.headers["runsink-reason"] == reason for r in tenant)
            self.assertEqual(expected, self.selected("--reason", reason), reason)
        self.assertEqual(0, self.selected("--reason", "http-50"))
        self.assertEqual(labels[label], self.selected("--destination", label))
        self.assertEqual(0, self.selected("--destination", label[:-1]))
        self.assertEqual(6, self.selected("--destination", "webhook://*/a/*"))
        self.assertEqual(12, self.selected("--destination", "web*/*"))
        self.assertEqual(3, self.selected("--workspace", "w1"))
        self.assertEqual(1, self.selected("--id", "run-7"))
        self.assertEqual(0, self.selected("--id", "run"))
        self.assertEqual(1, self.selected("--id", "run-5", "--workspace", "w1", "--fault", "tenant"))
        self.assertEqual(0, self.selected("--id", "run-5", "--workspace", "w2"))
        self.assertEqual(13, self.selected("--from", "1h"))
        self.assertEqual(0, self.selected("--to", "1h"))
        later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(times[-1] // 1000 + 2))
        self.assertEqual(13, self.selected("--to", later))
        self.assertEqual(0, self.selected("--from", later))
        middle = sum(r.partition == 0 and 2 <= r.offset <= 4 for r in tenant)
        self.assertEqual(3, middle)
        self.assertEqual(3, self.selected("--fault", "tenant", "--offset", "0:2-4"))
        self.assertEqual(1, self.selected("--fault", "tenant", "--offset", "0:2"))
        self.assertEqual(13, self.selected("--topic", self.topic))
        answer = self.redrive("--yes", "--fault", "tenant", "--workspace", "w3")
        self.assertEqual(3, answer["topics"][0]["sent"])
        sent = [r for r in self.retried() if r.headers["runsink-attempts"] == "0"]
        self.assertEqual({"w3"}, {json.loads(r.value)["workspaceId"] for r in sent})
        self.assertEqual(10, self.selected())
        self.receiver.play("/a", 200)
        self.receiver.play("/b", 200)
        self.settle()
        self.verify()

    def test_bad_options(self):
        """options that make no sense are refused before anything is read"""
        for arguments in (["--fault", "none"], ["--offset", "0:1"], ["--fault", "data", "--offset", "0:5-4"],
                          ["--fault", "data", "--offset", "x"], ["--rate", "0"], ["--rate"], ["--from", "yesterday"],
                          ["--topic", self.topic + ".dead.data"], ["--all"], ["x"]):
            with self.subTest(arguments):
                self.redrive(*arguments, code=64)

    def test_without_ledger(self):
        """ledger = false: refused, and said why"""
        self.redrive("--yes", settings={**self.base, "ledger": "false"}, code=78)
        self.assertIn("twice", self.said)

    # ---- closed ----

    def checked(self, *arguments):
        """The dead letters that check finds open."""
        done = rig.runsink("check", "--json", "--config", self.config(), *arguments)
        return json.loads(done.stdout)["dead"]["records"]

    def test_discard(self):
        """what is garbage is closed, with who and why; it never goes back, and check comes to rest"""
        self.receiver.play("/hook", 404)
        self.send(*[events.dump(events.run(self.hook(), id=f"run-{i}")) for i in range(3)], b"\x00no json", b"\x00nor this")
        self.settle()
        self.assertEqual(5, self.checked())
        for arguments in (["--discard"], ["--discard", "--why", ""], ["--discard", "--why", "a\nb"], ["--why", "x"],
                          ["--discard", "--why", "x" * 201], ["--discard", "--why", "x", "--to-origin"], ["--who", "ada"]):
            self.redrive("--yes", *arguments, code=64)
        words = ("--discard", "--why", 'no JSON: "producer" was broken', "--who", "ada")
        self.assertEqual(("counted", 2), (lambda a: (a["result"], a["topics"][0]["selected"]))(
            self.redrive("--dry-run", "--fault", "data", *words)))
        self.assertIn("discarded", self.redrive("--fault", "data", *words, code=64) and self.said)
        self.assertEqual(5, self.checked())
        answer = self.redrive("--yes", "--fault", "data", *words)["topics"][0]
        self.assertEqual((2, 0, 1), (answer["discarded"], answer["sent"], answer["transactions"]))
        self.assertEqual(3, self.checked())
        answer = self.redrive("--yes", "--fault", "data", *words)
        self.assertEqual(("nothing to do", 2), (answer["result"], answer["topics"][0]["discarded_before"]))
        self.assertEqual(1, self.redrive("--yes", "--id", "run-1", *words)["topics"][0]["discarded"])
        groups = [group for record in self.kafka.consume(self.topic + ".ledger")
                  for group in json.loads(record.value).get("discarded", [])]
        self.assertEqual({("ada", 'no JSON: "producer" was broken')}, {(g["who"], g["why"]) for g in groups})
        story = json.loads(rig.runsink("trace", "--json", "run-1", "--config", self.config()).stdout)["outcomes"]
        self.assertEqual(["dead", "discarded"], [told["outcome"] for told in story[-2:]])
        self.assertEqual(("ada", 'no JSON: "producer" was broken'), (story[-1]["who"], story[-1]["why"]))
        self.assertRegex(rig.runsink("trace", "run-1", "--config", self.config()).stdout.decode(),
                         r" discarded to webhook://\S+ by ada: no JSON: .*\n$")
        # The others go back, and those that were closed don't go with them.
        before = len(self.retried())
        self.receiver.play("/hook", 200)
        answer = self.redrive("--yes")["topics"][0]
        self.assertEqual((2, 3), (answer["sent"], answer["discarded_before"]))
        self.assertEqual(before + 2, len(self.retried()))
        self.settle()
        self.assertEqual(0, self.checked())
        folder = self.dir / "export"
        self.verify("--export", folder)
        done = subprocess.run([sys.executable, Path(__file__).with_name("ledger_verifier.py"), folder], capture_output=True)
        self.assertEqual(b"sound\n", done.stdout)

    def test_other_groups(self):
        """letters of another group that reads the topic are counted as its own, and stay"""
        self.broken(4)
        answer = self.redrive("--yes", settings={**self.base, "group": self.group + "-other"})["topics"][0]
        self.assertEqual((0, 4, 0), (answer["selected"], answer["other_groups"], answer["sent"]))
        self.assertEqual(4, self.redrive("--dry-run")["topics"][0]["selected"])

    def test_discard_batch(self):
        """of a batch exactly what is selected is closed; what is left goes back as new events"""
        settings = {**self.base, "archive": "batch", "batch.age": "500ms", "file.root": self.dir / "root",
                    "retry.window.file": "500ms"}
        (self.dir / "root").mkdir()
        worker = self.worker(settings)
        rig.await_("it has its partitions", 30, lambda: worker.says("partitions assigned"), worker)
        (self.dir / "root").rmdir()  # a start without it is refused
        self.send(*[events.dump(events.run({"type": "file", "path": "x"}, id=f"run-{i}")) for i in range(4)])
        rig.await_("all is settled", 60, self.quiet, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual(4, self.checked())
        (self.dir / "root").mkdir()
        words = ("--yes", "--discard", "--why", "not wanted")
        self.assertEqual(1, self.redrive(*words, "--id", "run-2", settings=settings)["topics"][0]["discarded"])
        self.assertEqual(3, self.redrive("--dry-run", settings=settings)["topics"][0]["incomplete"])
        self.assertEqual(3, self.redrive("--yes", "--to-origin", settings=settings)["topics"][0]["sent"])
        self.assertEqual(0, self.checked())
        worker = self.worker(settings)
        rig.await_("they are written", 30, lambda: any(p.is_file() for p in (self.dir / "root").rglob("*")), worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual(0, self.checked())
        self.verify()

    # ---- the question ----

    def terminal(self, answer):
        parent, child = pty.openpty()
        process = subprocess.Popen([rig.RUNSINK, "redrive", "--config", self.config()], stdin=child, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, env=rig.ENVIRONMENT)
        os.write(parent, answer)
        out = process.communicate(timeout=60)[0].decode()
        os.close(parent)
        os.close(child)
        return process.returncode, out

    def test_confirmation(self):
        """nothing is sent without --yes or a yes on the terminal; a mistyped reason is told which there are"""
        self.broken(4)
        answer = self.redrive("--reason", "invalid-jsn")["topics"][0]
        self.assertEqual((0, [{"reason": "invalid-json", "records": 4}]), (answer["selected"], answer["not_selected"]))
        said = rig.runsink("redrive", "--config", self.config(), "--reason", "invalid-jsn").stdout.decode()
        self.assertRegex(said, r"4  others are open, and not selected; did you mean invalid-json\?\n +4  \S+ +invalid-json\n")
        answer = self.redrive(code=64)
        self.assertEqual(("not confirmed", 4, 0), (answer["result"], answer["topics"][0]["selected"],
                                                   answer["topics"][0]["sent"]))
        self.assertIn("--yes", self.said)
        code, out = self.terminal(b"n\n")
        self.assertEqual(64, code, out)
        self.assertIn("4 dead letters", out)
        self.assertEqual([], self.retried())
        code, out = self.terminal(b"y\n")
        self.assertEqual(0, code, out)
        self.assertEqual(4, len(self.retried()))
        code, out = self.terminal(b"")
        self.assertEqual(0, code, out)
        self.settle()
        self.verify()

    # ---- to the origin ----

    def test_to_origin(self):
        """--to-origin: the original bytes, key and headers stand on the source topic as new events"""
        bad, good = b'{"broken": ', events.dump(events.run(self.hook()))
        self.receiver.play("/hook", 500)
        self.send(bad, good, partition=1)
        self.settle()
        self.receiver.play("/hook", 200)
        requests = len(self.receiver.requests)
        answer = self.redrive("--to-origin", "--yes")
        self.assertEqual(2, answer["topics"][0]["sent"])
        source = [r for r in self.kafka.consume(self.topic) if r.partition == 1]
        self.assertEqual([(b"k0", bad), (b"k1", good)], [(r.key, r.value) for r in source[:2]])
        self.assertEqual(sorted([(b"k0", bad), (b"k1", good)]), sorted((r.key, r.value) for r in source[2:]))
        for record in source:
            self.assertEqual({"ce_id": "a", "empty": ""}, record.headers)
        worker = self.worker(self.base)
        # The transaction's end stands behind its records, so that the group's offset never is the topic's end.
        rig.await_("the good one is delivered", 30, lambda: len(self.receiver.requests) > requests, worker)
        rig.await_("the bad one is dead again", 30, lambda: len(self.dead("data")) == 2, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.assertEqual(requests + 1, len(self.receiver.requests))
        self.assertEqual(2, len(self.dead("data")))
        text = self.verify("--records")
        self.assertIn("0 records wait in retry topics, 1 are dead letters", text)
        self.assertEqual(1, self.selected())

    def cut(self, source, way, dropped):
        """An export without the entries that `dropped` chooses: what verify says of it."""
        folder = self.dir / f"cut-{way}"
        shutil.copytree(source, folder)
        for path in folder.glob("*.ndjson"):
            kept = [line for line in path.read_text().splitlines() if not dropped(json.loads(line))]
            path.write_text("".join(line + "\n" for line in kept))
        done = rig.runsink("verify", "--json", folder)
        return {(f["code"], f.get("topic"), f.get("partition")) for f in json.loads(done.stdout)["findings"]}

    def test_ends_of_chains(self):
        """what redrive did can't be taken out of the ledger's end: the group's committed state names the entry"""
        self.broken(8)
        dead = f"{self.topic}.dead.data"
        for number, way in enumerate((("--to-origin", "--offset", "0:0", "--fault", "data"), ("--discard", "--why", "x", "--fault", "data"))):
            self.redrive("--yes", *way)
            folder = self.dir / f"export-{number}"
            self.verify("--export", str(folder))
            found = self.cut(folder, number, lambda entry: entry["topic"] == dead and entry["seq"] == number)
            self.assertIn(("truncated", dead, 0), found)
        self.verify("--from", "1m")
        manifest = json.loads((folder / "manifest.json").read_text())
        self.assertEqual({0: 2, 1: 1}, {c["partition"]: c["entries"] for c in manifest["committed"] if c["topic"] == dead})

    # ---- exactly once ----

    def back(self):
        """How far the retry topic has grown."""
        return sum(self.kafka.ends(f"{self.topic}.retry.1s").values())

    def test_kills(self):
        """killed at any instant, twenty times over, and run again: each letter goes back once"""
        self.broken(6000)
        config = self.config()
        kills = 0
        for round in range(20):
            before = self.back()
            process = subprocess.Popen([rig.RUNSINK, "redrive", "--config", config, "--yes", "--rate", "300"],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       env=rig.ENVIRONMENT)
            if round % 2:  # at any time at all, or while it sends
                rig.await_("it sends, or is done", 60, lambda: self.back() > before or process.poll() is not None)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(random.uniform(0, 1.2))
            kills += process.poll() is None
            process.kill()
            process.wait()
        sent = len(self.retried())
        rig.say(f"{kills} kills, {sent} of 6000 were sent meanwhile")
        self.assertGreater(kills, 5)
        self.assertGreater(sent, 0)
        self.redrive("--yes")
        self.assertOnce(self.retried(), 6000)
        self.assertEqual("nothing to do", self.redrive("--yes")["result"])
        self.verify()

    def test_terminated(self):
        """SIGTERM: the transaction under way is finished, exit 75; the next run sends the rest"""
        self.broken(600)
        process = subprocess.Popen([rig.RUNSINK, "redrive", "--config", self.config(), "--yes", "--rate", "100", "--json"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=rig.ENVIRONMENT)
        rig.await_("the first were sent", 30, self.retried)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        self.assertEqual(75, process.returncode, err)
        self.assertLess(time.monotonic() - asked, 3)
        answer = json.loads(out)
        sent = answer["topics"][0]["sent"]
        self.assertEqual("interrupted", answer["result"])
        self.assertEqual(sent, len(self.retried()))
        self.assertLess(sent, 600)
        self.assertEqual(600 - sent, self.redrive("--yes")["topics"][0]["sent"])
        self.assertOnce(self.retried(), 600)

    own = None

    def own_broker(self):
        """One that may be stopped, for all who want it."""
        if Redrive.own is None:
            folder = tempfile.mkdtemp(prefix="runsink-broker-")
            self.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
            Redrive.own = rig.Services(folder, ("kafka",))
            self.addClassCleanup(Redrive.own.stop)
        services = Redrive.own
        self.addCleanup(services.signal, "kafka-1", signal.SIGCONT)
        self.kafka = services.kafka()
        self.kafka.create(self.topic, 2)
        self.base["kafka"]["bootstrap.servers"] = self.kafka.bootstrap
        return services

    def tell_to_end(self, process, which=signal.SIGTERM):
        """(exit code, stdout, stderr); within seconds."""
        asked = time.monotonic()
        process.send_signal(which)
        out, err = process.communicate(timeout=60)
        rig.say(f"ended after {time.monotonic() - asked:.1f} s: {err.decode().splitlines()[-1:]}")
        self.assertLess(time.monotonic() - asked, 5, err)
        return process.returncode, out, err.decode()

    def command(self, *arguments):
        return subprocess.Popen([rig.RUNSINK, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=rig.ENVIRONMENT)

    def until_it_asks(self, process):
        """It is connected to the broker, which accepts by its kernel and says nothing."""
        def connected():
            with contextlib.suppress(FileNotFoundError):
                return any(os.readlink(fd).startswith("socket:") for fd in Path(f"/proc/{process.pid}/fd").iterdir())
        rig.await_("it is connected", 30, connected)

    def test_terminated_beside_a_silent_broker(self):
        """whatever it waits for: exit 75 within seconds, and it says what was done; the next run sends the rest, each letter once"""
        services = self.own_broker()
        self.broken(600)
        config, sent = self.config(), 0
        for which in (signal.SIGTERM, signal.SIGINT):
            process = self.command("redrive", "--config", config, "--yes", "--rate", "100", "--json")
            rig.await_("some were sent", 30, lambda: len(self.retried()) > sent)
            services.signal("kafka-1", signal.SIGSTOP)
            time.sleep(2)  # it is in a transaction by now, with the rate above
            code, out, err = self.tell_to_end(process, which)
            answer = json.loads(out)
            self.assertEqual((75, "interrupted"), (code, answer["result"]), err)
            said = answer["topics"][0]
            self.assertGreater(said["undecided"], 0)
            self.assertIn(f"it is not known whether {said['undecided']} more were sent", err)
            services.signal("kafka-1", signal.SIGCONT)
            rig.await_("the broker answers", 30, lambda: self.topic in self.kafka.topics())
            self.assertIn(len(self.retried()) - sent - said["sent"], (0, said["undecided"]))
            sent = len(self.retried())
        services.signal("kafka-1", signal.SIGSTOP)
        process = self.command("redrive", "--config", config, "--yes", "--json")
        self.until_it_asks(process)
        self.assertEqual(75, self.tell_to_end(process)[0])
        services.signal("kafka-1", signal.SIGCONT)
        answer = self.redrive("--yes")
        self.assertEqual("done", answer["result"])
        self.assertOnce(self.retried(), 600)
        self.verify()

    def test_other_commands_beside_a_silent_broker(self):
        """what changes nothing ends at once, with 75 too"""
        services = self.own_broker()
        self.broken(2)
        services.signal("kafka-1", signal.SIGSTOP)
        for command in ("check",), ("verify",), ("verify", "--records"), ("trace", "x"):
            process = self.command(*command, "--config", self.config())
            self.until_it_asks(process)
            code, _, err = self.tell_to_end(process)
            self.assertEqual(75, code, err)
            self.assertIn("interrupted", err)

    def test_rate(self):
        """--rate holds, in transactions no larger than a second's worth"""
        self.broken(100)
        began = time.monotonic()
        answer = self.redrive("--yes", "--rate", "20")
        self.assertGreater(time.monotonic() - began, 4)
        self.assertEqual((100, 5), (answer["topics"][0]["sent"], answer["topics"][0]["transactions"]))

    def test_rivals(self):
        """several at once: whoever comes last goes on with the rest, and each letter goes back once"""
        self.broken(4000)
        config = self.config()
        rivals = []
        for _ in range(4):
            rivals.append(subprocess.Popen([rig.RUNSINK, "redrive", "--config", config, "--yes", "--rate", "1500"],
                                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                           env=rig.ENVIRONMENT))
            time.sleep(random.uniform(0, 0.8))
        codes = []
        for rival in rivals:
            out = rival.communicate(timeout=120)[0].decode()
            codes.append(rival.returncode)
            self.assertIn(rival.returncode, (0, 75), out)
        rig.say("exit codes", codes)
        self.assertIn(0, codes)
        self.assertOnce(self.retried(), 4000)
        self.verify()

    def test_hidden_ledger(self):
        """entries that an open transaction of somebody else hides are waited for"""
        self.broken(2000)
        ledger = self.topic + ".ledger"
        first = subprocess.Popen([rig.RUNSINK, "redrive", "--config", self.config(), "--yes", "--rate", "400"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 env=rig.ENVIRONMENT)
        rig.await_("the first were sent", 30, self.retried)
        blocker = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": rig.unique("blocker")})
        blocker.init_transactions(30)
        blocker.begin_transaction()
        for partition in self.kafka.topics()[ledger].partitions:
            blocker.produce(ledger, key=b"nobody/0", value=b"{}", partition=partition)
        self.assertEqual(0, blocker.flush(30))
        time.sleep(1.5)
        first.kill()
        first.communicate()
        second = subprocess.Popen([rig.RUNSINK, "redrive", "--config", self.config(), "--yes", "--json"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  env=rig.ENVIRONMENT)
        time.sleep(4)
        self.assertIsNone(second.poll(), "did not wait for the end of the ledger")
        blocker.abort_transaction(30)
        out, err = second.communicate(timeout=60)
        self.assertEqual(0, second.returncode, err)
        answer = json.loads(out)["topics"][0]
        rig.say({k: v for k, v in answer.items() if k != "rows"})
        self.assertGreater(answer["sent_elsewhere"], 0)
        self.assertOnce(self.retried(), 2000)
        self.verify()

    def test_hidden_letters(self):
        """letters behind an open transaction are not counted, and that is said; they go back once it has ended"""
        self.run_until_end()
        blocker = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": rig.unique("blocker")})
        blocker.init_transactions(30)
        blocker.begin_transaction()
        blocker.produce(self.topic + ".dead.data", value=b"x", partition=0)
        self.assertEqual(0, blocker.flush(30))
        for partition in (0, 1):
            self.send(b'{"broken', partition=partition)
        self.run_until_end()
        said = self.redrive("--dry-run")["topics"][0]
        self.assertEqual((1, 1), (said["selected"], said["hidden_partitions"]))
        text = rig.runsink("redrive", "--config", self.config(), "--dry-run").stdout.decode()
        self.assertIn("behind a transaction that is open", text)
        blocker.abort_transaction(30)
        said = self.redrive("--yes")["topics"][0]
        self.assertEqual((2, 0, 2), (said["selected"], said["hidden_partitions"], said["sent"]))
        self.verify()

    def test_topic_made_anew(self):
        """a dead topic that was deleted and made again: its letters are not taken for those that went back"""
        self.broken(4)
        self.assertEqual(4, self.redrive("--yes")["topics"][0]["sent"])
        dead = self.topic + ".dead.data"
        for done in self.kafka.admin.delete_topics([dead]).values():
            done.result()
        rig.await_("the topic is gone", 30, lambda: dead not in self.kafka.topics())
        self.settle()
        letters = self.dead("data")
        self.assertEqual([0, 0, 1, 1], sorted(r.offset for r in letters))
        self.assertEqual(4, self.redrive("--yes")["topics"][0]["sent"])
        self.assertEqual(0, self.selected())
        self.verify()

    # ---- batches ----

    def batches(self, prefixes):
        """Two tenants' batches of one window die, and go back."""
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        if store is None:
            self.skipTest("no S3 server is installed")
        buckets = [rig.unique("batch-a"), rig.unique("batch-b")]
        settings = {**self.base, "archive": "batch", "batch.age": "1s", "batch.compression": "none",
                    "retry.window.s3": "500ms"}
        texts = {bucket: [] for bucket in buckets}
        for i in range(30):
            bucket = buckets[i % 2]
            texts[bucket].append(events.dump(events.run(store.sink(bucket, prefix=prefixes[i % 2]), id=f"run-{i}")))
        self.send(*[text for pair in zip(*texts.values()) for text in pair])
        worker = self.worker(settings)
        rig.await_("all died", 60, lambda: len(self.dead("tenant")) == 30, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        letters = self.dead("tenant")
        keys = {r.headers["runsink-batch-key"] for r in letters}
        self.assertEqual({"15"}, {r.headers["runsink-batch-count"] for r in letters})
        answer = self.redrive("--dry-run", "--id", "run-4", settings=settings)["topics"][0]
        self.assertEqual((15, 14), (answer["selected"], answer["along"]))
        for bucket in buckets:
            store.bucket(bucket)
        answer = self.redrive("--yes", "--id", "run-4", "--rate", "3", settings=settings)["topics"][0]
        self.assertEqual((15, 1), (answer["sent"], answer["transactions"]))
        back = [r for r in self.retried() if r.headers["runsink-attempts"] == "0"]
        self.assertEqual([str(i) for i in range(15)], [r.headers["runsink-batch-index"] for r in back])
        self.assertEqual(1, len({r.partition for r in back}))
        self.assertEqual(15, self.redrive("--yes", settings=settings)["topics"][0]["sent"])
        self.settle(settings)
        for bucket in buckets:
            objects = store.objects(bucket)
            self.assertEqual(1, len(objects))
            self.assertLessEqual(set(objects), keys)
            self.assertEqual([model.redact(text) for text in texts[bucket]],
                             b"".join(objects.values()).splitlines())
        self.verify("--objects")

    def test_batches(self):
        """a batch that died goes back whole, under its key, whichever of its members match"""
        self.batches(("a/", "b/"))

    def test_batches_of_one_key(self):
        """two tenants' batches under one key, each in its bucket, come back to each"""
        self.batches(("", ""))

    def test_incomplete_batch(self):
        """a batch that lost members to retention stays, and --to-origin takes what is left"""
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        if store is None:
            self.skipTest("no S3 server is installed")
        bucket = rig.unique("batch-c")
        settings = {**self.base, "archive": "batch", "batch.age": "1s", "retry.window.s3": "500ms"}
        self.send(*[events.dump(events.run(store.sink(bucket))) for _ in range(10)])
        worker = self.worker(settings)
        rig.await_("all died", 60, lambda: len(self.dead("tenant")) == 10, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        self.kafka.delete_before(self.topic + ".dead.tenant", {0: 3})
        answer = self.redrive("--yes", settings=settings)
        self.assertEqual("nothing to do", answer["result"])
        self.assertEqual(7, answer["topics"][0]["incomplete"])
        self.assertEqual(7, self.redrive("--yes", "--to-origin", settings=settings)["topics"][0]["sent"])
        self.assertEqual(17, len(self.kafka.consume(self.topic)))

    # ---- what `check` shows ----

    def check(self):
        done = rig.runsink("check", "--config", self.config(), "--json")
        self.assertEqual(0, done.returncode, done.stderr.decode())
        return json.loads(done.stdout)

    def test_overview(self):
        """check counts what is parked by destination and what died by reason, without what went back"""
        self.base |= {"retry.delays": "3s,300s", "retry.window.webhook": "1h", "retry.permanent": "retry"}
        before = int(time.time() * 1000)
        for path, answer in (("/a", 500), ("/b", 503), ("/c", 200)):
            self.receiver.play(path, answer)
        for path, count in (("/a", 3), ("/b", 2), ("/c", 4)):
            self.send(*[events.dump(events.run(self.hook(path))) for _ in range(count)])
        self.send(*[b"bad %d" % i for i in range(5)], partition=1)
        worker = self.worker(self.base)
        rig.await_("all are parked for long", 60, lambda: len(self.retried("300s")) == 5, worker)
        self.assertEqual(0, worker.stop(), worker.tail())
        seen = self.check()
        self.assertEqual(self.topic, seen["config"]["topics"]["value"])
        self.assertEqual([], seen["missing"])
        self.assertEqual(0, seen["lag"])
        self.assertEqual(self.group, seen["group"]["name"])
        self.assertEqual((5, False), (seen["parked"]["records"], seen["parked"]["more"]))
        waits = {row["destination"].rsplit("/", 1)[1]: row for row in seen["parked"]["destinations"]}
        self.assertEqual({"a": 3, "b": 2}, {path: row["records"] for path, row in waits.items()})
        self.assertEqual({"a": "http-500", "b": "http-503"}, {path: row["why"] for path, row in waits.items()})
        labels = {r.headers["runsink-destination"] for r in self.retried("300s")}
        self.assertEqual(labels, {row["destination"] for row in waits.values()})
        for row in waits.values():
            records = [r.headers for r in self.retried("300s") if r.headers["runsink-destination"] == row["destination"]]
            self.assertEqual(min(int(h["runsink-first-failure"]) for h in records), row["since"])
            self.assertEqual(min(int(h["runsink-due"]) for h in records), row["due"])
            self.assertGreater(row["since"], before)
        dead = seen["dead"]
        self.assertEqual((5, False, False), (dead["records"], dead["more"], dead["some_may_have_gone_back"]))
        self.assertEqual([("data", "invalid-json", 5)], [(r["fault"], r["reason"], r["records"]) for r in dead["reasons"]])
        text = rig.runsink("check", "--config", self.config()).stdout.decode()
        for row in waits.values():
            self.assertRegex(text, rf"(?m)^ +{row['records']} .*{row['why']} +{row['destination']}$")
        self.assertRegex(text, r"(?m)^ +5  data +invalid-json ")
        self.redrive("--yes", "--offset", "1:1-3", "--fault", "data")
        seen = self.check()
        self.assertEqual(2, seen["dead"]["records"])
        self.assertEqual(8, seen["parked"]["records"])
        fresh = [row for row in seen["parked"]["destinations"] if row["destination"] == ""]
        self.assertEqual([(3, 0)], [(row["records"], row["since"]) for row in fresh])
        self.redrive("--yes")
        self.assertEqual((0, []), (self.check()["dead"]["records"], self.check()["dead"]["reasons"]))

    def test_by(self):
        """check counts by workspace, destination or reason, with commands that select just these letters"""
        names = ["w1", "w2", "it's $(touch x)", "w\u00e9\u202e", "--config", "*"]
        self.receiver.play("/a", 404)
        self.receiver.play("/b*", 403)
        self.send(*[events.dump(events.run(self.hook(("/a", "/b*")[i % 2]), workspaceId=names[i % 6])) for i in range(18)], b"\x00x")
        self.settle()
        letters = self.dead("tenant")
        self.assertEqual(18, len(letters))
        truth = {
            "workspace": collections.Counter(json.loads(r.value)["workspaceId"] for r in letters) + collections.Counter([""]),
            "destination": collections.Counter(r.headers["runsink-destination"] for r in letters) + collections.Counter([""]),
            "reason": collections.Counter(r.headers["runsink-reason"] for r in letters + self.dead("data"))}
        for by, expected in truth.items():
            config = self.config()
            done = rig.runsink("check", "--json", f"--by={by}", "--config", config)
            rows = json.loads(done.stdout)["dead"][by + "s"]
            self.assertEqual(expected, {row[by]: row["records"] for row in rows})
            text = rig.runsink("check", "--by", by, "--config", config).stdout.decode()
            if by == "reason":  # in the words of the metric, too
                counted = {"http-404": "no-such-place", "http-403": "credentials", "confluent-not-json": "not-json"}
                self.assertEqual(counted, {row["reason"]: row["counted_as"] for row in rows})
                self.assertRegex(text, "(?m)^ .* http-404 .* no-such-place$")
            for row in rows:
                self.assertEqual(bool(row[by]), "redrive" in row)
                if "redrive" not in row:
                    continue
                self.assertIn("\n             " + row["redrive"] + "\n", text)
                shell = subprocess.run(["bash", "-c", 'runsink() { "$RUNSINK" "$@" --dry-run --json; }; ' + row["redrive"]],
                                       env={**rig.ENVIRONMENT, "RUNSINK": rig.RUNSINK}, capture_output=True, cwd=self.dir)
                self.assertEqual(row["records"], json.loads(shell.stdout)["topics"][0]["selected"], row["redrive"])
        self.assertFalse((self.dir / "x").exists())
        self.assertEqual(64, rig.runsink("check", "--by", "colour", "--config", config).returncode)

    # ---- signed ----

    def test_signed(self):
        """with ledger.key its entries are signed, and verify accepts them"""
        key = self.dir / "key"
        self.assertEqual(0, rig.runsink("keygen", key).returncode)
        self.base["ledger.key"] = key
        self.broken(10)
        self.redrive("--yes")
        self.settle()
        self.redrive("--yes")
        self.settle()
        self.assertIn("signed and checked", self.verify("--key", f"{key}.pub"))


if __name__ == "__main__":
    rig.main()
