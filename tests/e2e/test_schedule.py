"""The retry schedule that users know, on a clock a hundred times as fast: a webhook that always fails sees exactly 33 attempts,
the last at 58:30 (here 35.1 s), a store 8, the last at 8:30 (5.1 s). This one measures, and nothing runs beside it."""
import events
import rig
from receiver import Receiver

DELAYS = (0.1, 0.2, 0.4, 0.8, 1.2)
TOLERANCE = 0.3


def instants(window):
    """When attempts take place, seconds after the first."""
    found, at, n = [], 0.0, 0
    while at <= window + 1e-9:
        found.append(at)
        at += DELAYS[min(n, len(DELAYS) - 1)]
        n += 1
    return found


class Timed(rig.Case):
    """On that clock."""

    def setUp(self):
        super().setUp()
        self.assertEqual((33, 8), (len(instants(36)), len(instants(6))))
        self.assertAlmostEqual(35.1, instants(36)[-1])
        self.assertAlmostEqual(5.1, instants(6)[-1])
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.kafka.create(self.topic)

    def settings(self):
        return super().settings(**{
            "slot": "a", "window.age": "20ms", "retry.delays": "100ms,200ms,400ms,800ms,1200ms",
            "retry.window.webhook": "36s", "retry.window.s3": "6s", "breaker.probe": "10ms",
        })

    def produce(self, count):
        self.receiver.play("/", 503)
        runs = [events.run({"type": "webhook", "url": f"{self.receiver.url}/hook-{n}"}) for n in range(count)]
        runs += [events.run({"type": "s3", "bucket": f"store-{n}", "accessKeyId": "a", "secretAccessKey": "secret-of-it",
                             "region": "us-east-1", "endpoint": self.receiver.url, "forcePathStyle": True})
                 for n in range(count)]
        self.kafka.produce(self.topic, [(str(n).encode(), events.dump(one)) for n, one in enumerate(runs)])
        return [f"/hook-{n}" for n in range(count)], [f"/store-{n}/" for n in range(count)]

    def warm_up(self, worker):
        """A first settlement takes a second: the producer has to be introduced to its broker."""
        self.receiver.play("/warm", 503, 200)
        self.kafka.produce(self.topic, [(b"", events.dump(events.run({"type": "webhook", "url": f"{self.receiver.url}/warm"})))])
        rig.await_("the first retry", 30, lambda: len(self.receiver.to("/warm")) == 2, worker)

    def until_dead(self, count, seconds):
        dead = f"{self.topic}.dead.tenant"
        rig.await_(f"{count} dead letters", seconds,
                   lambda: dead in self.kafka.topics(dead) and len(self.dead("tenant")) == count)
        return self.dead("tenant")

    def check_dead(self, letters, attempts):
        """attempts: of a webhook, of a store; the label of the destination says which a letter is."""
        for letter in letters:
            hook = letter.headers["runsink-destination"].startswith("webhook:")
            self.assertEqual(str(attempts[0] if hook else attempts[1]), letter.headers["runsink-attempts"])
            age = int(letter.headers["runsink-time"]) - int(letter.headers["runsink-first-failure"])
            last = instants(36 if hook else 6)[-1]
            self.assertGreaterEqual(age / 1000, last - 0.05)
            yield hook, age / 1000 - last


class Schedule(Timed):
    def test_undisturbed(self):
        """33 and 8 attempts, each at its instant"""
        worker = self.worker()
        self.warm_up(worker)
        hooks, stores = self.produce(3)
        letters = self.until_dead(6, 90)
        for path in hooks + stores:
            at = [one.at for one in self.receiver.to(path)]
            want = instants(36 if path in hooks else 6)
            self.assertEqual(len(want), len(at), path)
            for n, (got, due) in enumerate(zip(at, want)):
                self.assertLess(abs(got - at[0] - due), TOLERANCE, f"{path}: attempt {n + 1} at {got - at[0]:.2f}, due {due:.2f}")
        for _, late in self.check_dead(letters, (33, 8)):
            self.assertLess(late, TOLERANCE)
        self.assertEqual(0, worker.stop())


if __name__ == "__main__":
    rig.main()
