"""The workers of a run: started, killed, stopped and continued, asked to leave, and started again when they died."""
import os
import shutil
import signal
import subprocess
import time

from canaries import allow_core

BUGS = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


class Member:
    """One place in the fleet; its process comes and goes."""

    def __init__(self, fleet, index):
        self.fleet, self.index = fleet, index
        self.process = None
        self.starts = 0
        # Start it, and again when it dies. A late one joins while the others work.
        self.wanted = not any(a.kind == "join" and a.worker == index for a in fleet.plan.actions)
        self.leaving = False
        self.stopped_until = None
        self.killed = None  # the signal that it was killed with
        self.restart_at = 0.0
        self.crash = fleet.plan.first_crash(index)

    def start(self):
        self.starts += 1
        # What the scripts export for themselves (RUNSINK_CACHE) is no configuration of the worker's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNSINK")}
        environment |= self.fleet.environment
        if self.crash:
            environment["HOOK_CRASH"] = self.crash
        self.armed, self.crash = self.crash, None
        name = f"worker-{self.index}"
        config = self.fleet.dir / f"{name}.ini"
        config.write_text(self.fleet.config(self.index))
        config.chmod(0o600)
        with open(self.fleet.dir / f"{name}.log", "ab") as log:
            log.write(f"--- start {self.starts}, crash {self.armed}\n".encode())
            log.flush()
            self.process = subprocess.Popen([self.fleet.binary, "run", "--config", config], env=environment, stderr=log,
                                            stdout=log, stdin=subprocess.DEVNULL, cwd=self.fleet.dir,
                                            preexec_fn=allow_core if self.fleet.plan.noisy else None)
        self.fleet.trouble.at.append(time.time())
        self.killed, self.leaving = None, False
        self.stopped_until = None

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self, name="KILL"):
        if self.alive():
            self.killed = signal.Signals[f"SIG{name}"]
            self.process.send_signal(self.killed)
            # A stopped process takes no other signal than SIGKILL.
            self.process.send_signal(signal.SIGCONT)
            self.stopped_until = None
            self.fleet.trouble.at.append(time.time())

    def stop(self, seconds):
        if self.alive() and self.stopped_until is None:
            self.process.send_signal(signal.SIGSTOP)
            self.fleet.trouble.at.append(time.time())
            self.stopped_until = time.monotonic() + seconds

    def leave(self):
        if self.alive() and self.stopped_until is None:
            self.leaving = True
            self.process.send_signal(signal.SIGTERM)
            self.fleet.trouble.at.append(time.time())
        self.wanted = False

    def join(self):
        self.wanted = True

    def tend(self, now):
        """Looks after the process: continues a stopped one, notes a dead one, starts it again when its time has come."""
        if self.stopped_until is not None and now >= self.stopped_until:
            self.stopped_until = None
            self.process.send_signal(signal.SIGCONT)
            self.fleet.trouble.woken.append(time.time())
        if self.process is not None and not self.alive():
            self.note(self.process.returncode)
            self.process = self.stopped_until = None
            self.restart_at = now + self.fleet.plan.restart_delay(self.index, self.starts)
        if self.process is None and self.wanted and now >= self.restart_at:
            self.start()

    def note(self, code):
        """Why it ended: what was done to it is expected; a bug, or an error on leaving, is not."""
        self.fleet.trouble.at.append(time.time())
        if code < 0 and -code == self.killed and self.killed != signal.SIGKILL:
            what = f"killed by {self.killed.name}"
        elif code == -signal.SIGKILL:
            what = "killed" if self.killed else f"crashed at {self.armed.split(':')[0]}" if self.armed else "killed by others"
        elif code < 0:
            what = f"ended by {signal.Signals(-code).name}"
        else:
            what = "left" if self.leaving and code == 0 else f"exit {code}"
        if code in (64, 78):
            raise RuntimeError(f"worker {self.index} does not start\n{self.tail()}")
        self.fleet.ends[what] = self.fleet.ends.get(what, 0) + 1
        sanitizer = code not in (0, -signal.SIGKILL) and "Sanitizer" in self.tail()
        if -code in BUGS and -code != self.killed or sanitizer:
            self.fleet.bugs.append(f"worker {self.index} {what}\n{self.tail()}")
        elif self.leaving and code == -signal.SIGTERM and not self.said():
            pass  # it was asked before it had begun
        elif self.leaving and code == 75 and not self.fleet.calmed and "settle" in self.said():
            pass  # without the broker it can't know what is settled, and says so
        elif self.leaving and code not in (0, -signal.SIGKILL):
            self.fleet.bugs.append(f"worker {self.index} was asked to leave: {what}\n{self.tail()}")

    def stacks(self):
        """What its threads are at."""
        if not shutil.which("gdb"):
            return "(gdb would tell where it hangs)"
        gdb = ["gdb", "-p", str(self.process.pid), "-batch", "-ex", "thread apply all bt 15"]
        lines = subprocess.run(gdb, capture_output=True, text=True, errors="replace").stdout.splitlines()
        return "\n".join(line[:160] for line in lines if line.startswith(("Thread", "#")))

    def said(self):
        """What its last start wrote."""
        return (self.fleet.dir / f"worker-{self.index}.log").read_text(errors="replace").rpartition("--- start ")[2].partition("\n")[2]

    def tail(self):
        lines = (self.fleet.dir / f"worker-{self.index}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-40:])


class Fleet:
    def __init__(self, plan, directory, binary, config, environment, trouble):
        """config(index) is a worker's configuration text; trouble notes when harm was done."""
        self.trouble = trouble
        self.plan, self.dir, self.binary, self.config, self.environment = plan, directory, binary, config, environment
        self.ends, self.bugs = {}, []
        self.members = [Member(self, i) for i in range(plan.workers)]

    def tend(self):
        now = time.monotonic()
        for member in self.members:
            member.tend(now)

    calmed = False

    def calm(self):
        """From now on nobody is harmed: all run, and those with a crash in their luggage start again without."""
        self.calmed = True
        for member in self.members:
            member.wanted, member.crash = True, None
            if member.stopped_until is not None:
                member.stopped_until = 0
            if member.alive() and member.armed:
                member.kill()

    def dismiss(self, seconds=60):
        """SIGTERM for all; each must end in an orderly way."""
        for member in self.members:
            member.leave()
        end = time.monotonic() + seconds
        for member in self.members:
            if member.process is None:
                continue
            try:
                member.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.bugs.append(f"worker {member.index} does not end within {seconds} s of SIGTERM\n{member.stacks()}\n{member.tail()}")
                member.kill()
                member.process.wait()
            member.tend(end)

    def end(self):
        for member in self.members:
            if member.alive():
                member.process.kill()
                member.process.wait()
