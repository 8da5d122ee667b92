"""What a page tells to type, typed: each line after "$ " of its indented blocks goes into one shell, and what it prints is compared
with what the page shows."""
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
SECONDS = 240


def steps(text):
    """(command, lines shown after it) of the text's indented blocks."""
    found = []
    for line in text.splitlines():
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


class Typed(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)
        self.home = Path(tempfile.mkdtemp(prefix="runsink-typed-"))
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)

    def here(self, text):
        """The command with its folder, its binary and its ports replaced by this run's own."""
        # In one pass: this run's own port may hold the digits of another one of the page's.
        return re.sub("|".join(map(re.escape, self.own)), lambda found: self.own[found[0]], text)

    def follow(self, text, own):
        """Types all of it. own: what the page names, by what stands for it here."""
        typed, self.own = steps(text), own
        self.assertGreater(len(typed), 15)
        # What a line prints ends with a line that nothing else prints. Aliases and jobs are as in a shell that is typed into.
        script = ["shopt -s expand_aliases", "set -m"]
        for number, (command, _) in enumerate(typed):
            script += [self.here(command), f"echo; echo '--- end of {number} ---'"]
        script_file = self.home / "typed"
        script_file.write_text("\n".join(script) + "\n")
        # The cache may be elsewhere, but to runsink RUNSINK_CACHE would be a setting.
        (self.home / "cache").mkdir()
        (self.home / "cache/runsink").symlink_to(rig.CACHE)
        # What is built stays as it is: other tests run it, and where the commit was another one by now, it would be linked anew.
        (self.home / "bin").mkdir()
        (self.home / "bin/cmake").symlink_to("/bin/true")
        environment = {**rig.ENVIRONMENT, "XDG_CACHE_HOME": str(self.home / "cache"),
                       "PATH": f"{self.home / 'bin'}:{rig.ENVIRONMENT['PATH']}"}
        # A session of its own, so that what it left behind ends with it.
        with open(self.home / "out", "wb") as out, open(self.home / "err", "wb") as err:
            shell = subprocess.Popen(["bash", "--norc", script_file], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                     env=environment, start_new_session=True)
            try:
                shell.wait(SECONDS)
            except subprocess.TimeoutExpired:
                rig.say(f"not within {SECONDS} s")
            finally:
                self.end(shell)
        said = (self.home / "out").read_text()
        logged = (self.home / "err").read_text()
        for number, (command, shown) in enumerate(typed):
            printed, mark, said = said.partition(f"\n--- end of {number} ---\n")
            self.assertTrue(mark, f"it ended in:\n$ {command}\n{printed}\n{logged[-3000:]}")
            lines = printed.splitlines()
            if lines and not lines[-1]:
                lines.pop()
            shown = [self.here(line) for line in shown]
            with self.subTest(command=command):
                self.assertTrue(matches(shown, lines),
                                f"printed:\n{printed}\nthe page shows:\n" + "\n".join(shown) + f"\n{logged[-3000:]}")

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
