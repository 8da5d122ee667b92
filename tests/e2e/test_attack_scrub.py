"""Work and memory that a tenant chooses: small events that would take long, or much. Beside them fifty healthy destinations."""
import json
import unittest

import attack
import events
import rig
from receiver import Receiver

FAR = "http://127.88.0.1:9999"  # nobody is there; nothing is ever sent


def nested(depth, inner="1"):
    return json.loads('{"k":' * depth + inner + "}" * depth)


class Work(attack.Case):
    """Rows of one kind: work that grows faster than the bytes that cause it."""

    def sink(self, text):
        """A run whose sink is that text."""
        return events.dump(events.run({"@sink": 1}, workspaceId="attacker")).replace(b'{"@sink":1}', text)

    def test_comparing(self):
        """both spellings of a field with the same deep or wide value; thousands of headers, names, pieces of a query, values"""
        hook = b'{"type":"webhook","url":"%s/x"' % FAR.encode()

        def twice(camel, snake, value):
            return hook + b',"%s":%s,"%s":%s}' % (camel, value, snake, value)
        deep, list_ = json.dumps(nested(60)).encode(), b"[" * 90 + b"]" * 90
        wide = json.dumps({f"k{i}": i for i in range(50000)}, separators=(",", ":")).encode()
        cases = [twice(b"skipOnFail", b"skip_on_fail", value) for value in (deep, list_, wide)]
        cases += [twice(b"apisToSend", b"apis_to_send", value) for value in (deep, list_, wide)]
        cases += [hook + b',"headers":%s,"headers":%s}' % (value, value) for value in (deep, wide)]
        cases.append(hook[:-1] + b"?" + b"&".join(b"a=%d" % i for i in range(100000)) + b'"}')
        cases.append(hook + b',"headers":{' + b",".join(b'"h%d":"%07d"' % (i, i) for i in range(50000)) + b"}}")
        cases.append(hook + b',"apisToSend":[' + b",".join(b'"%d"' % i for i in range(100000)) + b"]}")
        cases.append(hook + b',"x":[' + b"0," * 400000 + b"0]}")
        cases.append(hook + b"," + b",".join(b'"%d":0' % i for i in range(100000)) + b"}")
        cases.append(hook + b',"skipOnFail":0' * 50000 + b"}")
        self.begin(retry__permanent="dead")
        with self.healthy():
            self.hostile([self.sink(one) for one in cases])
            self.hostile([self.sink(hook + b"}")], headers=[(f"h{i}", b"x" * 10) for i in range(20000)])
            self.until_settled(self.attacked, 60)
        self.judge()
        reasons = [letter.headers["runsink-reason"] for letter in self.dead("data")]
        rig.say(sorted(reasons))
        self.assertEqual(len(cases) - 1, len(reasons))  # a long URL is the tenant's
        self.assertEqual({"invalid-sink", "wrong-type"}, set(reasons))

    def test_scrubbing(self):
        """thousands of secrets that are each the beginning of the next, then answers that nearly are one"""
        evil = Receiver()
        self.addCleanup(evil.close)
        body = {"plain": b"a" * 65000, "percent": b"%61" * 21666, "escaped": b"\\u0061" * 10833, "base64": b"QUFB" * 16250}
        for name, text in body.items():
            evil.play("/" + name, (400, {}, text))
            evil.play("/bucket/" + name, (400, {}, b"<Error><Code>InvalidRequest</Code><Message>%s</Message></Error>" % text))
        asked = [{"type": "webhook", "url": f"{evil.url}/{name}"} for name in body]
        asked += [{"type": "s3", "bucket": "bucket", "prefix": name + "/", "region": "us-east-1", "endpoint": evil.url,
                   "accessKeyId": "AKIA", "secretAccessKey": "secret", "forcePathStyle": True} for name in body]
        sinks = [{"type": "webhook", "url": FAR, "skipOnFail": True, "headers": {f"h{n}": letter * n for n in range(first, first + 14)}}
                 for letter in "aA%\\" for first in range(6, 490, 14)]
        self.begin(retry__permanent="dead", log__level="debug", breaker__failures="1000")
        with self.healthy():
            self.hostile([events.run(sink, "FAILURE") for sink in sinks])
            self.until_settled(self.attacked, 60)
            self.hostile([events.run(sink) for sink in asked * 8])
            rig.await_("all have been answered", 60, lambda: len(evil.requests) >= 8 * len(asked), self.attacked)
        self.judge()


class Memory(attack.Case):
    """Rows of one kind: memory that grows with what comes and is not in the budget."""

    def flood(self, kinds, **settings):
        """Each kind: (number, sink -> run)."""
        self.begin(**settings)
        with self.healthy():
            self.hostile(run for make, count in kinds for run in map(make, range(count)))
            self.until_settled(self.attacked, 120)
        self.judge(late=60)  # its own events, ahead in the same partitions, cost what they cost
        self.assertLessEqual(self.attacked.metric("runsink_destinations_bytes"), self.BUDGET_MIB / 4 * attack.MIB)

    def test_small_sinks(self):
        """6,500 sinks of 1.4 KB with 50 tiny headers, skipped; sinks full of queries, names, tokens, values; sinks that are refused"""
        def headers(i):
            return events.run({"type": "webhook", "url": f"{FAR}/{i}", "skipOnFail": True,
                               "headers": {f"h{k}": f"{i * 50 + k:07d}" for k in range(50)}}, "FAILURE")

        def queries(i):
            return events.run({"type": "webhook", "url": f"{FAR}/?" + "&".join(f"%61{i * 200 + k:07d}" for k in range(180)),
                               "skipOnFail": True}, "FAILURE")

        def apis(i):
            return events.run({"type": "webhook", "url": f"{FAR}/{i}", "skipOnFail": True, "apisToSend": [""] * 990}, "FAILURE")

        def token(i):
            return events.run({"type": "s3", "bucket": "bucket", "region": "us-east-1", "accessKeyId": f"AKIA{i:016d}",
                               "secretAccessKey": f"{i:040d}", "sessionToken": f"{i:04000d}", "skipOnFail": True}, "FAILURE")

        def refused(i):
            return events.run({"type": "none", "number": i})
        self.flood([(headers, 6500), (queries, 100), (apis, 200), (token, 500), (refused, 500)])

    def test_large_sinks(self):
        """values of a megabyte that parse to forty times as much, edits by the hundred thousand, headers of Kafka's own"""
        def zeros(i):
            return events.run({"type": "webhook", "url": f"{FAR}/{i}", "skipOnFail": True, "x": [0] * 400000}, "FAILURE")

        def edits(i):
            return events.run({"type": "webhook", "url": f"{FAR}/{i}", "skipOnFail": True, "headers": {str(k): "a" for k in range(80000)}})
        self.flood([(zeros, 20), (edits, 20)], retry__permanent="dead")


if __name__ == "__main__":
    rig.main()
