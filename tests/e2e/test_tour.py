"""The README's tour, as a newcomer would follow it."""
import re
import subprocess
import unittest

import rig
import typed

SECTION = "## A five-minute tour"


class Matching(unittest.TestCase):
    def test_matching(self):
        """lines that differ, lack or are too many are told from those shown"""
        self.assertTrue(typed.matches(["a", "...", "c ... e"], ["a", "b", "b", "c d e"]))
        self.assertTrue(typed.matches([], []))
        self.assertTrue(typed.matches(["..."], []))
        for shown, printed in ((["a"], ["b"]), (["a"], []), ([], ["a"]), (["a ..."], ["b a "]), (["...", "c"], ["c", "d"]),
                               (["1.0"], ["1x0"])):
            self.assertFalse(typed.matches(shown, printed), (shown, printed))


class Tour(typed.Typed):
    def test_tour(self):
        """every line does what the README says"""
        readme = (typed.ROOT / "README.md").read_text()
        tour = readme[readme.index(SECTION):]
        tour = tour[:re.search(r"^##", tour[2:], re.M).start() + 2]
        folder = self.home / "tour"
        self.addCleanup(subprocess.run, [rig.SCRIPTS / "services", "stop", "--dir", folder], stdin=subprocess.DEVNULL)
        self.follow(tour, {"out/tour": str(folder), "build/release/runsink": str(rig.RUNSINK),
                           "8099": str(rig.free_port()), "9464": str(rig.free_port())})


if __name__ == "__main__":
    rig.main()
