"""The drill, as an operator would go through it."""
import subprocess

import rig
import typed


class Drill(typed.Typed):
    def test_drill(self):
        """every line does what the page says"""
        page = (typed.ROOT / "config/drill/README.md").read_text()
        folder = self.home / "drill"
        self.addCleanup(subprocess.run, [rig.SCRIPTS / "services", "stop", "--dir", folder], stdin=subprocess.DEVNULL)
        self.follow(page, {"out/drill": str(folder), "build/release/runsink": str(rig.RUNSINK),
                           "8099": str(rig.free_port()), "9464": str(rig.free_port())})


if __name__ == "__main__":
    rig.main()
