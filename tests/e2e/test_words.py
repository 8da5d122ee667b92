"""What operators read of deliveries that fail: dead letters name their cause, log lines the event, and neither holds a secret."""
import re

import events
import rig
from receiver import Receiver

SECRET = "Zm9yYmlkZGVuLXRva2Vu"


class Words(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.kafka.create(self.topic, 1)

    def hook(self, path, **headers):
        return {"type": "webhook", "url": self.receiver.url + path, "headers": {"Authorization": f"Bearer {SECRET}", **headers}}

    def send(self, *runs):
        self.kafka.produce(self.topic, [(b"k", events.dump(run)) for run in runs])

    def lines(self, worker, event):
        """As dictionaries, in the order of the log."""
        found = [line for line in worker.text().splitlines() if f'event="{event}"' in line or f"event={event} " in line]
        return [{k: v.strip('"') for k, v in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', line)} for line in found]

    def test_a_shut_breaker_tells_why(self):
        """what was never attempted dies with the last answer of its destination: reason, status, detail and when, not `breaker open`"""
        self.receiver.play("/sick", 418)
        worker = self.worker(self.settings(breaker__failures="1", breaker__probe="10m", retry__window__webhook="2s",
                                           retry__delays="500ms", dest__concurrency="1", log__level="debug"))
        count = 6
        self.send(*[events.run(self.hook("/sick"), id=f"run-{i}") for i in range(count)])
        rig.await_("all are dead letters", 60, lambda: len(self.dead("tenant")) == count, worker)
        letters = [one.headers for one in self.dead("tenant")]
        self.assertEqual({("http-418", "418")}, {(one["runsink-reason"], one["runsink-status"]) for one in letters})
        self.assertEqual([], [one for one in letters if not one["runsink-detail"]])
        # Those that did not die of an attempt of their own say when that answer was. How many there are is a matter of time.
        borrowed = [one for one in letters if "runsink-answered" in one]
        self.assertTrue(borrowed)
        self.assertEqual([], [one for one in letters if one not in borrowed and one["runsink-attempts"] == "0"])
        for one in borrowed:
            self.assertLessEqual(int(one["runsink-answered"]), int(one["runsink-time"]))
            self.assertGreater(int(one["runsink-answered"]), int(one["runsink-time"]) - 60000)
        self.assertNotIn("breaker-open", worker.text())
        parked = self.lines(worker, "parked")
        self.assertEqual({"http-418"}, {one["why"] for one in parked})
        self.assertEqual({f"run-{i}" for i in range(count)}, {one["run"] for one in parked})
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_one_line_for_a_dead_letter(self):
        """one event's name however it died, with workspace, job and run, unless a secret stands there"""
        self.receiver.play("/gone", 410)
        worker = self.worker(self.settings(redact__names="password", log__level="debug"))
        self.send(events.run(self.hook("/gone"), id="of-a-delivery"),
                  events.run({"type": "ftp"}, id="of-a-route", workspaceId="w-2", jobId="j-2"),
                  events.run(self.hook("/gone", password="secret-Run-ID"), id="secret-Run-ID"),
                  events.run(self.hook("/gone"), id="x" * 120 + SECRET),
                  events.run(self.hook("/gone"), id="a b\n\"=\u00e4"))
        self.kafka.produce(self.topic, [(b"k", b"no json")])
        self.send(events.run(self.hook("/well"), id="arrives"))
        self.until_settled(worker)
        well = self.lines(worker, "delivered")
        self.assertEqual([("workspace-1", "job-123e4567", "arrives", "200")],
                         [(one["workspace"], one["job"], one["run"], one["status"]) for one in well])
        found = self.lines(worker, "dead letter")
        told = {int(one["offset"]): (one["workspace"], one["job"], one["run"]) for one in found}
        self.assertEqual(6, len(found), found)
        self.assertEqual(("workspace-1", "job-123e4567", "of-a-delivery"), told[0])
        self.assertEqual(("w-2", "j-2", "of-a-route"), told[1])
        self.assertEqual("[REDACTED]", told[2][2])
        self.assertEqual("[REDACTED]", told[3][2])
        self.assertEqual(("", "", ""), told[5])
        self.assertEqual([set(found[0])] * 6, [set(one) for one in found], "the same fields everywhere")
        self.assertFalse(worker.says("not delivered"))
        self.assertNotIn("secret-Run-ID", worker.text())
        self.assertNotIn(SECRET[:8], worker.text())
        self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
