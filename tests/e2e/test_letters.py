"""`verify --records` compares dead letters with what the ledger says: each has an entry that calls its record dead or one that sent
it back, and what is dead has its letter. What a Kafka admin without the key puts there or takes away is named."""
import json
import unittest

import events
import forger
import rig
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

BROKEN = b"{no json"
MANY = 10**15


class Letters(rig.Case):
    def setUp(self):
        super().setUp()
        self.store = rig.services().store("versitygw")
        if self.store is None:
            self.skipTest("no S3 server is installed")
        self.bucket = rig.unique("letters")  # not made yet
        self.kafka.create(self.topic, 2)
        self.key = self.dir / "ledger.pem"
        self.assertEqual(0, rig.runsink("keygen", str(self.key)).returncode)
        self.data, self.tenant = f"{self.topic}.dead.data", f"{self.topic}.dead.tenant"

    def settings(self, **more):
        return super().settings(**{"ledger__key": self.key, "retry__permanent": "dead", **more})

    def work(self):
        worker = self.worker(self.settings())
        rig.await_("all is settled", 120, self.quiet, worker)
        self.assertEqual(0, worker.stop())
        self.config = str(worker.config)

    def die(self, n=4):
        """In each partition n letters by their bytes and n by their tenant, and one event that is skipped."""
        sick = events.dump(events.run(self.store.sink(self.bucket)))
        for partition in range(2):
            self.kafka.produce(self.topic, [(b"k", BROKEN)] * n + [(b"k", sick)] * n + [(b"k", events.dump(events.run(None)))], partition)
        self.work()

    def verify(self, *arguments):
        done = rig.runsink("verify", "--config", self.config, "--json", "--key", f"{self.key}.pub", "--records", *arguments)
        self.assertIn(done.returncode, (0, 65), done.stderr.decode())
        answer = json.loads(done.stdout)
        return answer, {(f["code"], f["topic"], f["partition"], f["offset"]) for f in answer["findings"] if f["code"] != "rotated"}

    def letters(self, topic):
        return {(r.partition, r.offset): r for r in self.kafka.consume(topic)}

    def put(self, topic, value, headers, partition=0):
        """The record's place in the topic."""
        placed = []
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap})
        producer.produce(topic, value, b"k", partition, headers=list(headers.items()), on_delivery=lambda _, m: placed.append(m.offset()))
        self.assertEqual(0, producer.flush(30))
        return partition, placed[0]

    def retain(self, topic, ms):
        change = [ConfigEntry("retention.ms", str(ms), incremental_operation=AlterConfigOpType.SET)]
        for done in self.kafka.admin.incremental_alter_configs([ConfigResource("topic", topic, incremental_configs=change)]).values():
            done.result(30)

    def test_forged(self):
        """letters that no worker has put there: of a record that did not die, or not so, copies, and what is no letter"""
        self.die()
        answer, found = self.verify()
        self.assertEqual(set(), found)
        self.assertEqual((16, 0, 0), (answer["letters"], answer["letters_uncovered"], answer["letters_expired"]))

        one = self.letters(self.data)[0, 0]
        skipped = {**one.headers, "runsink-origin": f"{self.topic}/0/8"}
        places = {("strange-letter", self.data, *self.put(self.data, one.value, skipped)),
                  ("strange-letter", self.data, *self.put(self.data, one.value, {**one.headers, "runsink-origin": f"{self.topic}/1/77"})),
                  ("strange-letter", self.data, *self.put(self.data, one.value, {}, 1)),
                  ("strange-letter", self.tenant, *self.put(self.tenant, one.value, one.headers))}
        copied = {("letter-repeated", self.data, *self.put(self.data, one.value, one.headers))}
        self.put(self.data, one.value, {**skipped, "runsink-group": "another"})  # whose letters are compared with its own chains
        answer, found = self.verify()
        self.assertEqual(places | copied, found)
        self.assertEqual({True}, {f["note"] for f in answer["findings"] if f["code"] == "letter-repeated"})
        self.assertEqual(65, rig.runsink("verify", "--config", self.config, "--records").returncode)

    def test_deleted(self):
        """letters that are taken away before their time are named by the records that they are of; not those that went back before"""
        self.die()
        letters = self.letters(self.tenant)
        gone = {(int(p), int(o)) for r in letters.values() if r.partition == 0 for _, p, o in [r.headers["runsink-origin"].rsplit("/", 2)]}
        done = rig.runsink("redrive", "--config", self.config, "--yes", "--discard", "--why", "x", "--fault", "tenant", "--offset", "0:0")
        self.assertEqual(0, done.returncode, done.stderr.decode())
        _, partition, offset = letters[0, 0].headers["runsink-origin"].rsplit("/", 2)
        gone.remove((int(partition), int(offset)))
        answer, found = self.verify()
        self.assertEqual((set(), 16), (found, answer["letters"]))

        self.kafka.delete_before(self.tenant, {0: self.kafka.ends(self.tenant)[0]})
        missed = {("letter-gone", self.topic, p, o) for p, o in gone}
        answer, found = self.verify()
        self.assertEqual(missed, found)

        # They may be gone where their topic keeps nothing so long; which is told.
        self.retain(self.tenant, 1000)
        answer, found = self.verify()
        self.assertEqual(set(), found)
        self.assertIn(answer["letters_expired"], (len(gone), len(gone) + 4))  # the broker may have removed those of partition 1

        self.kafka.admin.delete_topics([self.data])[self.data].result(30)
        rig.await_("the topic is gone", 30, lambda: self.data not in self.kafka.topics())
        answer, found = self.verify()
        self.assertEqual({("letter-gone", self.topic, p, o) for p in range(2) for o in range(4)}, found)

    def test_claims(self):
        """a signed entry that says of 10^15 letters that they went back is named, and costs neither time nor memory"""
        self.die()
        done = rig.runsink("redrive", "--config", self.config, "--yes", "--discard", "--why", "x", "--fault", "data", "--offset", "0:0")
        self.assertEqual(0, done.returncode, done.stderr.decode())
        ledger = f"{self.topic}.ledger"
        last = [r for r in self.kafka.consume(ledger) if r.key == f"{self.data}/0".encode()][-1]
        attacker = forger.Forger(self.key)
        attacker.heads[self.data, 0] = 1, json.loads(last.value)["hash"]

        def stretch(text):
            for old, new in (('"seq":0', '"seq":1'), ('"first":0,"next":1', f'"first":1,"next":{MANY}'),
                             ('"offsets":[0]', f'"offsets":[[1,{MANY - 1}]]'), (f'"{self.topic}",0,[0]', f'"{self.topic}",0,[[1,{MANY - 1}]]')):
                self.assertIn(old, text)
                text = text.replace(old, new)
            return text
        self.kafka.produce(ledger, [(last.key, attacker.entry(last.value, stretch))], last.partition)
        answer, found = self.verify()
        self.assertEqual({("implausible", self.data, 0, 1)}, found)
        self.assertEqual(16, answer["letters"])

    def test_there_and_back(self):
        """letters that went back, were delivered or died again; while new ones come"""
        self.die()
        done = rig.runsink("redrive", "--config", self.config, "--yes", "--fault", "tenant")
        self.assertEqual(0, done.returncode, done.stderr.decode())
        self.work()
        answer, found = self.verify()  # they have died again
        self.assertEqual((set(), 24), (found, answer["letters"]))
        self.store.bucket(self.bucket)
        done = rig.runsink("redrive", "--config", self.config, "--yes", "--fault", "tenant")
        self.assertEqual(0, done.returncode, done.stderr.decode())
        self.work()
        answer, found = self.verify()
        self.assertEqual((set(), 24, 0), (found, answer["letters"], answer["letters_expired"]))
        self.kafka.delete_before(self.tenant, self.kafka.ends(self.tenant))
        answer, found = self.verify()
        self.assertEqual((set(), 8, 0), (found, answer["letters"], answer["letters_expired"]))
        answer, found = self.verify("--from", "1h")  # what died before is not known
        self.assertEqual((0, 8), (answer["letters"], answer["letters_uncovered"]))

        worker = self.worker(self.settings())
        for _ in range(6):
            for partition in range(2):
                self.kafka.produce(self.topic, [(b"k", BROKEN)] * 20, partition)
            self.assertEqual(set(), self.verify()[1])
        rig.await_("all is settled", 120, self.quiet, worker)
        self.assertEqual(0, worker.stop())
        answer, found = self.verify()
        self.assertEqual((set(), 248), (found, answer["letters"]))


if __name__ == "__main__":
    rig.main()
