"""What costs a tenant nothing, another destination, another host, another workspace, buys it no more than its share: of the
lane's attention, of its connections, of its memory."""
import json
import threading
import time

import attack
import events
import rig
import villains


class Trap(villains.Listener):
    """Answers at once, until it is told to spring: then nothing but a path that begins with /quick."""

    def __init__(self):
        self.sprung = False
        self.requests = 0
        self.held = 0  # requests that have not been answered
        super().__init__()

    def url(self, path, address="127.88.0.1"):
        return f"http://{address}:{self.port}{path}"

    async def one(self, reader, writer, head):
        self.requests += 1
        if self.sprung and b" /quick" not in head:
            self.held += 1
            await reader.read()  # until it hangs up
            return False
        writer.write(villains.OK)
        return True


class Fair(attack.Case):
    def setUp(self):
        super().setUp()
        self.trap = Trap()
        self.addCleanup(self.trap.close)

    def hook(self, path, address="127.88.0.1", **more):
        return events.run({"type": "webhook", "url": self.trap.url(path, address)}, **more)

    def store(self, bucket, address="127.88.0.1", **more):
        return events.run({"type": "s3", "bucket": bucket, "accessKeyId": "AKIDATTACKER", "secretAccessKey": "attackers-secret",
                           "region": "us-east-1", "endpoint": self.trap.url("", address), "forcePathStyle": True}, **more)

    def test_silent_destinations(self):
        """thousands of events, each to a destination of its own that never answers: by query, host, bucket and workspace"""
        self.trap.sprung = True
        self.begin(window__age="1s", retry__delays="2s,4s,8s", retry__window__webhook="1h", retry__window__s3="1h")
        with self.healthy():
            self.hostile([self.hook(f"/hook?q={i}", workspaceId="queries") for i in range(6000)])
            self.hostile([self.hook("/hook", f"127.88.{i // 250}.{i % 250 + 1}", workspaceId="hosts") for i in range(2000)])
            self.hostile([self.hook(f"/hook?w={i}", workspaceId=f"workspace-{i % 200}") for i in range(2000)])
            self.hostile([self.store(f"bucket-{i}", workspaceId="buckets") for i in range(1000)])
            rig.await_("the trap has what it can get", 30, lambda: self.trap.held >= 100, self.attacked)
            rig.await_("what has no share is parked", 60,
                       lambda: self.attacked.metric("runsink_outcomes_total", outcome="parked") >= 8000, self.attacked)
        self.judge()

    def test_held_connections(self):
        """destinations that were quick once hold every connection they can get; new tenants come in meanwhile"""
        self.begin(window__age="1s", retry__delays="2s,4s,8s", retry__window__webhook="1h", retry__window__s3="1h")
        hostile = [self.hook(f"/trap-{i}", workspaceId=f"workspace-{i % workspaces}") for workspaces in (1, 40)
                   for i in range(40)]
        self.hostile(hostile)
        rig.await_("all are proven", 30, lambda: self.trap.requests >= 80, self.attacked)
        self.trap.sprung = True
        with self.healthy():
            self.hostile(hostile * 8)
            rig.await_("they hold what they can get", 30, lambda: self.trap.held >= 30, self.attacked)
            fresh = [self.hook(f"/quick-{i}", f"127.89.0.{i + 1}", id=f"fresh-{i}", workspaceId=f"fresh-{i}") for i in range(50)]
            before = self.trap.requests
            self.hostile(fresh, key=b"fresh")
            rig.await_("new tenants' events have arrived", 10, lambda: self.trap.requests >= before + 50, self.attacked)
            self.hostile(hostile * 8)
        self.judge()

    def test_dead_tenants_events_come_again(self):
        """forty tenants' sinks die, and what is read of their events again and again would fill the memory; new tenants come"""
        self.begin(window__age="1s", retry__delays="2s,4s,8s", retry__window__webhook="1h", retry__window__s3="1h")
        hostile = [self.hook(f"/trap-{i}", f"127.88.1.{i % 40 + 1}", workspaceId=f"workspace-{i % 40}") for i in range(320)]
        self.hostile(hostile)
        rig.await_("all are proven", 30, lambda: self.trap.requests >= 320, self.attacked)
        self.trap.sprung = True
        begin, pace, fresh = time.monotonic(), threading.Event(), 0
        with self.healthy():
            while time.monotonic() - begin < 26:
                self.hostile(hostile)
                for _ in range(4):
                    id, url = f"fresh-{fresh}", f"{self.servers.urls()[fresh % self.HEALTHY]}?fresh={fresh}"
                    self.sent[id] = time.monotonic()
                    self.hostile([events.run({"type": "webhook", "url": url}, id=id, workspaceId=id)], key=b"fresh")
                    fresh += 1
                    pace.wait(0.1)
        self.judge(late=2.5)


class Mixed(attack.Case):
    HEALTHY = 100
    SECONDS = 12

    def test_mixed(self):
        """all kinds of villains at once: what is healthy arrives once, in buckets too, and the ledger is sound"""
        server = villains.Server()
        self.addCleanup(server.close)
        crowd = villains.Villains(server)
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        buckets = [store.bucket(rig.unique("healthy")) for _ in range(5)]
        self.begin(window__age="1s", retry__delays="2s,4s,8s", retry__window__webhook="1h", retry__window__s3="1h")
        archived, begin, pause = 0, time.monotonic(), threading.Event()
        with self.healthy():
            while time.monotonic() - begin < self.SECONDS:
                self.hostile(crowd.round())
                self.hostile([events.run(store.sink(bucket), workspaceId=f"archive-{bucket}") for bucket in buckets], key=b"healthy")
                archived += 1
                pause.wait(0.3)  # their pace
            rig.await_("the healthy tenants' objects are there", 60,
                       lambda: all(len(store.keys(bucket)) == archived for bucket in buckets), self.attacked)
        rig.say(f"{archived} rounds; the villains' requests: {server.requests}")
        self.judge()
        self.assertEqual(0, self.attacked.stop(), self.attacked.tail())
        self.assertLessEqual({"silent", "trap", "later", "folded", "long", "short"}, server.requests.keys())
        done = rig.runsink("verify", "--config", str(self.attacked.config), "--json", "--objects", "--records", seconds=120)
        findings = [one for one in json.loads(done.stdout)["findings"] if not one["note"]]
        self.assertEqual([], findings[:5])


if __name__ == "__main__":
    rig.main()
