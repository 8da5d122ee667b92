"""Makes the events of a run and puts them on the topic while the trouble goes on."""
import json
import threading
import time
from urllib.parse import quote

from confluent_kafka import KafkaException, Producer

from plan import PARTITIONS

STATUSES = ("SUCCESS", "FAILURE", "PENDING", "CANCELED", "COMPLETED", "TERMINATED")


def s3_sinks(plan, endpoints, canaries, store, bucket):
    """The last two tenants are the same place under two addresses: a bucket that two destinations write to. No session tokens: the
    stores here refuse those that they haven't made."""
    count = plan.tenants - plan.file_tenants - plan.hook_tenants
    for i in range(count):
        twin = i == count - 1
        place = i - 1 if twin else i
        if not twin:
            keys = store.tenant(canaries.new("access", i, length=20), canaries.new("secret", i, length=40, odd="/+"))
            store.make(bucket(place), keys[0])
        yield {"type": "s3", "bucket": bucket(place), "accessKeyId": keys[0], "secretAccessKey": keys[1],
               "region": "us-east-1",
               "endpoint": endpoints[twin], "forcePathStyle": True,
               "prefix": "" if place % 3 == 0 else f"archive of {place}/", "skipOnFail": place % 4 == 1}


def webhook_sinks(plan, endpoint, canaries):
    for i in range(plan.hook_tenants):
        user, password, query = (quote(canaries.new(what, i, odd=odd), safe="")
                                 for what, odd in (("user", ""), ("password", "/+%"), ("query", "/+&")))
        headers = {"X-Api-Key": canaries.new("header", i, odd='"\\'), "content-type": "application/json"}
        if i % 2:  # otherwise made of user and password
            headers["Authorization"] = "Bearer " + canaries.new("bearer", i)
        yield {"type": "webhook", "url": f"{endpoint.replace('//', f'//{user}:{password}@')}/hook/{i}?token={query}&plain=yes",
               "headers": headers, "skipOnFail": i % 4 == 1}


def file_sinks(plan):
    return [{"type": "file", "path": f"tenant-{i}"} for i in range(plan.file_tenants)]


def event(draw, number, sink, proxy_password):
    """The JSON text of one run. Its spelling holds what a rewriting of the JSON would change."""
    note = "".join(draw.choices("abc\u00e4\u65e5\U0001f600\"\\/\n", k=draw.randint(0, 200)))
    run = {"id": f"run-{number}", "startTime": "2024-01-01T00:00:00Z", "workspaceId": f"ws/{draw.randint(1, 5)}",
           "projectId": draw.choice(["p", "..", "project 7"]), "jobId": f"job-{draw.randint(1, 50)}",
           "createdAt": "2024-01-01T00:00:00Z", "updatedAt": "2024-01-01T00:30:00.123Z", "type": "MANUAL",
           "status": draw.choice(STATUSES), "payloads": 9007199254740993, "successfulRuns": 1, "failedRuns": 0,
           "note": note, "filler": "x" * draw.choice([0, 100, 400]),
           "jobConfigurationSnapshot": {"configuration": {}, "sink": sink}}
    if draw.random() < 0.2:
        run["jobConfigurationSnapshot"]["proxy"] = {"version": "v1", "url": f"http://u:{proxy_password}@proxy.example.com"}
    if sink is None:
        del run["jobConfigurationSnapshot"]["sink"]
    text = json.dumps(run, separators=(",", ":"), ensure_ascii=draw.random() < 0.5)
    return text.replace('"failedRuns":0', '"failedRuns":1e400').encode()


class Feeder(threading.Thread):
    """Produces plan.events events over plan.seconds; keeps at it through broker restarts."""

    def __init__(self, plan, bootstrap, topic, tenants, canaries):
        super().__init__(daemon=True)
        self.plan, self.bootstrap, self.topic, self.tenants = plan, bootstrap, topic, tenants
        self.acknowledged = set()  # numbers of events that must be on the topic; without transactions only
        self.error = None
        self.draw = plan.random("events")
        self.proxy_password = canaries.new("proxy")
        self.weights = [self.draw.choice([1, 1, 2, 5]) for _ in range(PARTITIONS)]

    def producer(self):
        settings = {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 2,
                    "message.timeout.ms": 60000}
        if self.plan.aborts:
            settings |= {"transactional.id": f"{self.topic}-feeder", "transaction.timeout.ms": 60000}
        made = Producer(settings)
        if self.plan.aborts:
            made.init_transactions(60)
        return made

    def put(self, producer, number):
        sink = None if self.draw.random() < 0.02 else self.draw.choice(self.tenants)
        partition = self.draw.choices(range(PARTITIONS), self.weights)[0]
        value = event(self.draw, number, sink, self.proxy_password)

        def delivered(error, _message, number=number):
            if error is None:
                self.acknowledged.add(number)

        while True:
            try:
                producer.produce(self.topic, value, partition=partition, on_delivery=delivered)
                return
            except BufferError:
                producer.poll(0.1)

    def pace(self, number):
        due = self.started + self.plan.seconds * number / self.plan.events
        time.sleep(max(0, due - time.monotonic()))

    def plainly(self):
        producer = self.producer()
        for number in range(self.plan.events):
            self.put(producer, number)
            if number % 50 == 0:
                producer.poll(0)
                self.pace(number)
        left = producer.flush(120)
        if left or len(self.acknowledged) != self.plan.events:
            raise RuntimeError(f"the broker did not take {self.plan.events - len(self.acknowledged)} events")

    def in_transactions(self):
        producer, number = self.producer(), 0
        while number < self.plan.events:
            end = min(self.plan.events, number + self.draw.randint(20, 300))
            try:
                producer.begin_transaction()
                for n in range(number, end):
                    self.put(producer, n)
                    producer.poll(0)
                self.pace(end)
                if self.draw.random() < 0.15:
                    producer.flush(60)
                    producer.abort_transaction(60)
                else:
                    producer.commit_transaction(60)
            except KafkaException:
                # Whether it happened doesn't matter: what is on the topic counts. A new producer ends the old one's transaction.
                producer = self.producer()
            number = end

    def run(self):
        self.started = time.monotonic()
        try:
            self.in_transactions() if self.plan.aborts else self.plainly()
        except Exception as error:  # the run's main thread reports it
            self.error = error
