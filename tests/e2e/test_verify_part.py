"""A part of the ledger, by time: what is asked for has to be there, partition by partition."""
import json
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import events
import forger
import rig


class Part(rig.Case):
    def setUp(self):
        super().setUp()
        self.kafka.create(self.topic, 2)

    def work(self, partitions):
        for partition in partitions:
            sink = {"type": "s3", "bucket": "acme", "accessKeyId": "k", "secretAccessKey": "s",
                    "endpoint": "https://s3.example.com"}
            self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink))) for _ in range(10)], partition)
        worker = self.worker(self.settings(sink__override=f"file:{self.dir / 'files'}"))
        self.until_settled(worker)
        self.assertEqual(0, worker.stop())
        self.config = str(worker.config)
        time.sleep(1.1)  # times of options are in whole seconds
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def verify(self, *arguments):
        done = rig.runsink("verify", "--config", self.config, "--json", *arguments)
        self.assertIn(done.returncode, (0, 65), done.stderr.decode())
        return [(f["code"], f.get("partition")) for f in json.loads(done.stdout)["findings"] if not f["note"]]

    def verify_all(self, *parts):
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(lambda part: self.verify(*part), parts))

    def test_part(self):
        """an idle partition is fine, one whose entries of that time are gone is named, and the future is no time to prove"""
        first = self.work([0, 1])
        second = self.work([0])
        self.work([0])
        folder, future = self.dir / "export", "2100-01-01T00:00:00Z"
        # Side by side: where the ledger does not reach what is committed, it is waited for.
        *parts, to, start = self.verify_all(
            ("--from", first), ("--to", first), ("--from", first, "--to", second), ("--to", second),
            ("--from", first, "--export", str(folder)), ("--to", future), ("--from", future))
        self.assertEqual([[]] * 5, parts)
        self.assertEqual([("not-covered", None)] * 2, [to[0], start[0]])
        self.assertEqual(0, rig.runsink("verify", str(folder)).returncode)
        # The group has settled what no entry tells of.
        head = json.loads(self.kafka.consume(f"{self.topic}.ledger")[-1].value)
        forger.commit(self.kafka.bootstrap, self.group, {(self.topic, 1): (20, f"rs1 9 {head['hash']}")})
        self.assertEqual([[("not-covered", 1)]] * 2, self.verify_all(("--from", first), ("--from", first, "--to", second)))


if __name__ == "__main__":
    rig.main()
