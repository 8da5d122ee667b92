"""The README's tour, as a newcomer would follow it: each line after "$ " is typed into one shell, and what it prints is compared
with what the README shows."""
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

import rig

ROOT = Path(__file__).parents[2]
SECTION = "## A five-minute tour"
SECONDS = 240


def steps(readme):
    """(command, lines shown after it) of the tour's indented blocks."""
    tour = readme[readme.index(SECTION):]
    tour = tour[:re.search(r"^##", tour[2:], re.M).start() + 2]
    found = []
    for line in tour.splitlines():
        if line.startswith("    $ "):
            found.append((line[6:], []))
        elif line.startswith("    ") and found:
            found[-1][1].append(line[4:])
    return found


def matches(shown, printed):
    """Whether the lines are those shown: "..." alone is any number of lines, within a line any text."""
    pattern = ""
    for line in shown:
        if line == "...":
            pattern += r"(?:.*\n)*"
        else:
            pattern += r".*".join(re.escape(part) for part in line.split("...")) + r"\n"
    return re.fullmatch(pattern, "".join(line + "\n" for line in printed)) is not None


class Matching(unittest.TestCase):
    def test_matching(self):
        """lines that differ, lack or are too many are told from those shown"""
        self.assertTrue(matches(["a", "...", "c ... e"], ["a", "b", "b", "c d e"]))
        self.assertTrue(matches([], []))
        self.assertTrue(matches(["..."], []))
        for shown, printed in ((["a"], ["b"]), (["a"], []), ([], ["a"]), (["a ..."], ["b a "]), (["...", "c"], ["c", "d"]),
                               (["1.0"], ["1x0"])):
            self.assertFalse(matches(shown, printed), (shown, printed))


class Tour(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)
        self.home = Path(tempfile.mkdtemp(prefix="runsink-tour-"))
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)

    def here(self, text):
        """The command with its folder, its binary and its ports replaced by this run's own."""
        # In one pass: this run's own port may hold the digits of another one of the README's.
        return re.sub("|".join(map(re.escape, self.own)), lambda found: self.own[found[0]], text)

    def test_tour(self):
        """every line does what the README says"""
        tour = steps((ROOT / "README.md").read_text())
        self.assertGreater(len(tour), 15)
        folder = self.home / "tour"
        self.own = {"out/tour": str(folder), "build/release/runsink": str(rig.RUNSINK),
                    "8099": str(rig.free_port()), "9464": str(rig.free_port())}
        self.addCleanup(subprocess.run, [rig.SCRIPTS / "services", "stop", "--dir", folder], stdin=subprocess.DEVNULL)
        # What a line prints ends with a line that nothing else prints. Aliases and jobs are as in a shell that is typed into.
        script = ["shopt -s expand_aliases", "set -m"]
        for number, (command, _) in enumerate(tour):
            script += [self.here(command), f"echo; echo '--- end of {number} ---'"]
        typed = self.home / "typed"
        typed.write_text("\n".join(script) + "\n")
        # The cache may be elsewhere, but to runsink RUNSINK_CACHE would be a setting.
        (self.home / "cache").mkdir()
        (self.home / "cache/runsink").symlink_to(rig.CACHE)
        environment = {**rig.ENVIRONMENT, "XDG_CACHE_HOME": str(self.home / "cache")}
        # A session of its own, so that what it left behind ends with it.
        with open(self.home / "out", "wb") as out, open(self.home / "err", "wb") as err:
            shell = subprocess.Popen(["bash", "--norc", typed], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                     env=environment, start_new_session=True)
            try:
                shell.wait(SECONDS)
            except subprocess.TimeoutExpired:
                rig.say(f"not within {SECONDS} s")
            finally:
                self.end(shell)
        said = (self.home / "out").read_text()
        logged = (self.home / "err").read_text()
        for number, (command, shown) in enumerate(tour):
            printed, mark, said = said.partition(f"\n--- end of {number} ---\n")
            self.assertTrue(mark, f"the tour ended in:\n$ {command}\n{printed}\n{logged[-3000:]}")
            lines = printed.splitlines()
            if lines and not lines[-1]:
                lines.pop()
            shown = [self.here(line) for line in shown]
            self.assertTrue(matches(shown, lines),
                            f"$ {command}\nprinted:\n{printed}\nthe README shows:\n" + "\n".join(shown) + f"\n{logged[-3000:]}")

    @staticmethod
    def end(shell):
        """Ends whatever of the shell's session still runs (jobs have process groups of their own)."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    pid, session = int(entry.name), os.getsid(int(entry.name))
                except ProcessLookupError:
                    continue
                if session == shell.pid and pid != shell.pid:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
        shell.kill()
        shell.wait()


if __name__ == "__main__":
    rig.main()
