"""Whose fault it is, and how many have it: one tenant's sinks, its server's answers and its events never look like this side's
trouble, in numbers either."""
import asyncio
import contextlib
import re
import threading

import attack
import events
import rig


class Liar:
    """Answers each request with what its path names: a status, or a code of S3's with a 400."""

    def __init__(self):
        ready, self.loop = threading.Event(), asyncio.new_event_loop()
        threading.Thread(target=self.run, args=(ready,), daemon=True).start()
        ready.wait(30)

    def run(self, ready):
        asyncio.set_event_loop(self.loop)
        self.server = self.loop.run_until_complete(asyncio.start_server(self.serve, "0.0.0.0", 0, backlog=256))
        self.port = self.server.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.search(rb"\r\n[cC]ontent-[lL]ength: *(\d+)", head)[1]))
                word = re.match(rb"\S+ /([^/?]+)", head)[1]
                body = b"" if word.isdigit() else b"<Error><Code>%s</Code><Message>m</Message></Error>" % word
                writer.write(b"HTTP/1.1 %s No\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s"
                             % (word if word.isdigit() else b"400", len(body), body))
        writer.close()


class Fault(attack.Case):
    def test_one_tenant_is_one(self):
        """60 destinations at 60 hosts that refuse, sinks that are mistyped, records that can't be read: one workspace, nobody's night"""
        liar = Liar()
        codes = ["BadDigest", "RequestTimeTooSkewed", "IncompleteBody", "XAmzContentSHA256Mismatch", "RequestTimeout"]
        sinks = [{"type": "webhook", "url": f"http://127.88.1.{i + 1}:{liar.port}/{status}?q={i}"}
                 for i, status in enumerate([401, 403, 500] * 10)]
        sinks += [{"type": "s3", "bucket": code, "region": "us-east-1", "accessKeyId": f"AKIA{i:016d}", "secretAccessKey": "attackers",
                   "endpoint": f"http://127.88.2.{i + 1}:{liar.port}"} for i, code in enumerate(codes * 6)]
        typos = [{"type": "s4"}, {"type": "s3", "bucket": 7}, {"type": "webhook"}, {"type": "webhook", "url": [], "skipOnFail": "no"}]
        deep = events.dump(events.run(workspaceId="attackers")).replace(
            b'"reason"', b'"x":' + b"[" * 3000 + b'{"workspaceId":"other"}' + b"]" * 3000 + b',"reason"', 1)
        worker = self.begin(window__age="200ms", retry__delays="300ms", retry__window__webhook="1s", retry__window__s3="1s")
        with self.healthy():
            self.hostile([events.run(sink, id=f"{i}", workspaceId="attackers") for i, sink in enumerate(sinks + typos * 5)] + [deep] * 5)
            rig.await_("all have their end", 30, lambda: worker.metric("runsink_outcomes_total", outcome="dead") == 85, worker)
            rig.await_("50 others are served", 30, lambda: worker.metric("runsink_workspaces") == 51, worker)
        counts = {name: worker.metric(f"runsink_{name}") for name in
                  ("sick_workspaces", "sick_hosts", "hosts", "unfit_workspaces", "unattributed_records_total")}
        self.assertEqual({"sick_workspaces": 1, "sick_hosts": 60, "hosts": 110, "unfit_workspaces": 1, "unattributed_records_total": 0},
                         counts)
        self.assertEqual([60, 25, 0], [worker.metric("runsink_outcomes_total", outcome="dead", fault=fault)
                                       for fault in ("tenant", "data", "system")])
        # Nobody's: the producer wrote it so.
        self.hostile([b"\x00\x01", b"{}", b'{"workspaceId":7}'])
        rig.await_("they are counted", 30, lambda: worker.metric("runsink_unattributed_records_total") == 3, worker)
        self.assertEqual(1, worker.metric("runsink_unfit_workspaces"))
        self.until_settled(worker)
        self.assertEqual([0, 60, 28], [len(self.dead(fault)) for fault in ("system", "tenant", "data")])
        self.judge()


if __name__ == "__main__":
    rig.main()
