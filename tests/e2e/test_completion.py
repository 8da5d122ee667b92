"""bash's completion and the manual pages, as they are installed."""
import os
import pty
import re
import shutil
import signal
import subprocess
import unittest

import rig

ROOT = rig.Path(__file__).parents[2]
FILE = ROOT / "config/bash-completion/runsink"


def complete(line):
    """What bash offers at the end of the line, its own words and word breaks."""
    script = f"""
source {FILE}
compopt() {{ :; }}  # of use inside a completion alone
words() {{ COMP_WORDS=(); while [ $# -gt 0 ]; do COMP_WORDS+=("$1"); shift; done; COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); }}
words "$@"
_runsink
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    # As readline does: = is a word of its own.
    broken = [part for word in line.split(" ") for part in (re.findall(r"=|[^=]+", word) or [""])]
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", *broken], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.split(), done.stderr


def press_tab(line):
    """The line of an interactive bash once Tab was pressed at its end."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe("bash", ["bash", "--norc", "-i"], {**rig.ENVIRONMENT, "TERM": "dumb", "HISTFILE": ""})
    seen = b""
    try:
        # What is typed now is printed by a command of its own, so its echo is not taken for it.
        os.write(fd, f"source {FILE}; runsink() {{ printf '<%s>' \"$*\"; printf 'END\\n'; }}\n".encode() + f"{line}\t\n".encode())
        while not re.search(rb"<[^%>]*>END\r?\n", seen):
            seen += os.read(fd, 4096)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)
    return re.search(rb"<([^%>]*)>END", seen)[1].decode()


class Completion(unittest.TestCase):
    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)

    def offers(self, line, *words):
        found, said = complete(line)
        self.assertEqual("", said, line)
        self.assertEqual(sorted(words), sorted(found), line)

    def test_words(self):
        """commands, options, their values, keys and theirs"""
        self.offers("runsink re", "redrive", "replay")
        self.offers("runsink ver", "verify")
        self.offers("runsink check --b", "--by")
        self.offers("runsink check --by ", "workspace", "destination", "reason")
        self.offers("runsink check --by=re", "reason")
        self.offers("runsink redrive --fault d", "data")
        self.offers("runsink redrive --dis", "--discard")
        self.offers("runsink --set archive.s", "archive.strict_json=")
        self.offers("runsink --set archive=b", "batch")
        self.offers("runsink --set=log.level=de", "debug")
        self.offers("runsink run --set topics.create=f", "false")
        self.offers("runsink --set log.level=debug ver", "verify")
        self.offers("runsink --config x.ini check --js", "--json")
        self.offers("runsink help --man", "--man", "--man-config")
        self.offers("runsink trace --from ")
        self.assertIn("keygen", complete("runsink ")[0])

    def test_terminal(self):
        """in an interactive bash"""
        self.assertEqual("check --by=destination", press_tab("runsink che\t--by=d"))
        self.assertEqual("--set log.format=json", press_tab("runsink --set log.fo\tj"))

    def test_files(self):
        """a file where one is meant"""
        found, _ = complete(f"runsink --config {ROOT}/config/runsink.i")
        self.assertEqual([f"{ROOT}/config/runsink.ini"], found)

    def test_every_command(self):
        """each command is completed with just the options that its help names"""
        usage = rig.runsink("--help").stdout.decode()
        commands = re.findall(r"^  ([a-z]+) +\S", usage, re.M)
        self.assertGreater(len(commands), 8)
        for command in commands:
            help = rig.runsink(command, "--help").stdout.decode()
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help)) | {"--config", "--set", "--help", "--version"}
            self.assertEqual(named, {w for w in complete(f"runsink {command} --")[0]}, command)


class Manual(unittest.TestCase):
    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)

    def test_pages(self):
        """groff finds nothing wrong with the pages, and they have every command, option and key"""
        groff = shutil.which("groff")
        if not groff:
            self.skipTest("needs groff")
        text = {}
        for name in ("runsink.1", "runsink.ini.5"):
            done = subprocess.run([groff, "-man", "-Tutf8", "-ww", "-P-cbou", "-rLL=200n", ROOT / "config/man" / name], capture_output=True, text=True)
            self.assertEqual((0, ""), (done.returncode, done.stderr), name)
            text[name] = done.stdout
        usage = rig.runsink("--help").stdout.decode()
        for command in re.findall(r"^  ([a-z]+) +\S", usage, re.M):
            self.assertRegex(text["runsink.1"], rf"(?m)^ +{command}$")
            for option in re.findall(r"(?m)^  (--[a-z-]+)", rig.runsink(command, "--help").stdout.decode()):
                self.assertRegex(text["runsink.1"], rf"(?m)^ +(.*, )?{option}\b")
        for key in re.findall(r"^\| `([a-z0-9_.]+)` \|", rig.runsink("check", "--reference").stdout.decode(), re.M):
            self.assertRegex(text["runsink.ini.5"], rf"(?m)^ +{re.escape(key)}( |$)")


if __name__ == "__main__":
    rig.main()
