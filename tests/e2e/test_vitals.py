"""What keeps events from flowing is told, with its cause: /readyz, metrics, status page and log, at the beginning and at the end."""
import json
import urllib.error

from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

import events
import rig
from receiver import Receiver


class Vitals(rig.Case):
    """A broker of its own, with ACLs, at its SASL listener."""

    def setUp(self):
        super().setUp()
        self.own = rig.Services(self.dir / "services", ("kafka",))
        self.addCleanup(self.own.stop)
        self.kafka = self.own.kafka()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    def settings(self, **more):
        settings = super().settings(ready__patience="6s", **more)
        settings["kafka"].update({"bootstrap.servers": self.own.env["KAFKA_SASL"], "security.protocol": "SASL_PLAINTEXT",
                                  "sasl.mechanism": "PLAIN", "sasl.username": "runsink", "sasl.password": "runsink"})
        return settings

    def send(self, name, topic=None):
        run = events.run({"type": "webhook", "url": self.receiver.url + "/hook"}, id=name)
        self.kafka.produce(topic or self.topic, [(b"k", events.dump(run))])

    def got(self):
        return {json.loads(r.body)["id"] for r in self.receiver.requests}

    def ready(self, worker):
        """(status, text) of /readyz."""
        try:
            return 200, worker.http("/readyz")
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def until_unready(self, worker, words):
        rig.await_(f"it is not ready: {words}", 40, lambda: (r := self.ready(worker))[0] == 503 and words in r[1], worker)

    def until_ready(self, worker):
        rig.await_("it is ready", 40, lambda: self.ready(worker) == (200, "ready\n"), worker)

    def troubles(self, worker):
        return {(t["cause"], t["place"]) for t in json.loads(worker.http("/status.json"))["troubles"]}

    def assertLogged(self, worker, phrase, times=1):
        found = [line for line in worker.text().splitlines() if phrase in line]
        self.assertEqual(times, len(found), worker.tail(60))

    def test_brokers(self):
        """the broker is killed, comes back and refuses the password, then takes it again: told each time, once"""
        self.kafka.create(self.topic, 2)
        self.send("before")
        worker = self.worker()
        rig.await_("the first event", 30, lambda: self.got() == {"before"}, worker)
        self.until_ready(worker)
        self.assertEqual(0, worker.metric("runsink_trouble", cause="brokers-unreachable"))
        self.own.verb("kill", "kafka")
        self.until_unready(worker, "brokers unreachable")
        self.assertEqual({("brokers-unreachable", "")}, {t for t in self.troubles(worker) if t[0] != "no-assignment"})
        self.assertEqual(1, worker.metric("runsink_trouble", cause="brokers-unreachable"))
        self.assertGreaterEqual(worker.metric("runsink_trouble_seconds", cause="brokers-unreachable"), 3)
        self.assertGreaterEqual(worker.metric("runsink_broker_contact_seconds"), 3)
        self.assertEqual(0, worker.metric("runsink_ready"))
        code = rig.runsink("health", "--ready", "--config", worker.config)
        self.assertEqual(69, code.returncode)
        self.assertIn(b"brokers unreachable", code.stderr)

        properties = self.own.dir / "kafka-1/server.properties"
        right = properties.read_text() + ("\nauthorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
                              "super.users=User:ANONYMOUS\nallow.everyone.if.no.acl.found=true\n")
        properties.write_text(right.replace('user_runsink="runsink"', 'user_runsink="rotated"'))
        self.own.verb("restart", "kafka")
        self.until_unready(worker, "refuse the credentials")
        self.assertIn(("credentials-refused", ""), self.troubles(worker))
        properties.write_text(right)
        self.own.verb("restart", "kafka")
        self.until_ready(worker)
        self.send("after")
        rig.await_("an event after it", 60, lambda: "after" in self.got(), worker)
        rig.await_("contact", 10, lambda: worker.metric("runsink_broker_contact_seconds") < 3, worker)
        self.assertEqual(0, worker.metric("runsink_trouble"))
        self.assertLogged(worker, "brokers unreachable")
        self.assertLogged(worker, "the brokers refuse the credentials")
        self.assertNotIn("rotated", worker.text())
        self.assertEqual(0, worker.stop(), worker.tail())


if __name__ == "__main__":
    rig.main()
