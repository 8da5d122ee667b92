"""Analysts read the batch archive as it lies: DuckDB, one query over the Hive-style paths of a tenant, gzip and zstd."""
import duckdb

import events
import model
import rig


class DuckDb(rig.Case):
    EVENTS = 600

    def archive(self, compression):
        """Batches of two tenants, as the worker left them in the store, copied to a folder: {tenant: folder}."""
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        buckets = [store.bucket(rig.unique("duck")) for _ in range(2)]
        self.kafka.create(self.topic, 3)
        for partition in range(3):
            runs = [events.run(store.sink(buckets[n % 2], prefix="runs/"), id=f"run-{partition}-{n}", payloads=n)
                    for n in range(self.EVENTS // 3)]
            self.kafka.produce(self.topic, [(b"k", events.dump(run)) for run in runs], partition)
        worker = self.worker(self.settings(archive="batch", batch__records=50, batch__compression=compression),
                             "--until-end")
        self.assertEqual(worker.wait(), 0, worker.tail())
        folders = {}
        for bucket in buckets:
            folders[bucket] = self.dir / compression / bucket
            for key, body in store.objects(bucket).items():
                file = folders[bucket] / key
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(body)
        return folders

    @staticmethod
    def query(files):
        """As the page of the sinks shows it."""
        return duckdb.sql(f"""
            SELECT status, count(*) AS runs, count(DISTINCT id) AS ids, sum(payloads) AS payloads, min(dt) AS day
            FROM read_json('{files}', format = 'newline_delimited', hive_partitioning = true, ignore_errors = true,
                           columns = {{id: 'VARCHAR', status: 'VARCHAR', payloads: 'BIGINT'}})
            GROUP BY status""").fetchall()

    def check(self, compression, suffix):
        for bucket, folder in self.archive(compression).items():
            rows = self.query(f"{folder}/runs/dt=*/*.ndjson{suffix}")
            self.assertEqual(sum(row[1] for row in rows), self.EVENTS // 2, bucket)
            self.assertEqual(sum(row[2] for row in rows), self.EVENTS // 2, bucket)
            expected = {sum(n for n in range(self.EVENTS // 3) if n % 2 == odd) * 3 for odd in (0, 1)}
            self.assertIn(sum(row[3] for row in rows), expected, bucket)
            self.assertRegex(str(rows[0][4]), r"^20\d\d-\d\d-\d\d$")
        rig.say(f"both tenants' archives in {compression} hold what was produced")

    # Each legal JSON, and each once the end of a whole folder for a reader.
    ODD = ('"\\ud800 half a pair"', '"\\udc00\\ud800"', '"a", "Message": "b"', '"a", "message": "b"', '"\\u0000"', "1e400",
           "9007199254740993", "{}")

    def test_odd_lines(self):
        """an odd event costs itself at most; marked where it is kept as it came, and nothing once it is replaced"""
        store = rig.services().store("versitygw") or rig.services().store("s3proxy")
        for strict in ("keep", "replace"):
            bucket, self.topic, self.group = store.bucket(rig.unique("odd")), rig.unique("runs"), rig.unique("group")
            self.kafka.create(self.topic, 1)
            texts = [events.dump(events.run(store.sink(bucket), id=f"run-{n}", payloads=1))[:-1] + b', "message": %s}' % odd.encode()
                     for n, odd in enumerate(self.ODD)]
            self.kafka.produce(self.topic, [(b"k", text) for text in texts])
            self.assertExit(0, self.worker(self.settings(archive="batch", batch__compression="none",
                                                         archive__strict_json=strict), "--until-end"))
            (key, body), = store.objects(bucket).items()
            self.assertEqual("2", store.head(bucket, key)["Metadata"]["lone-surrogates"])
            expected = b"".join(model.redact(text) + b"\n" for text in texts)
            if strict == "replace":
                expected = expected.replace(rb"\ud800", rb"\ufffd").replace(rb"\udc00", rb"\ufffd")
            self.assertEqual(expected, body)
            file = self.dir / strict / key
            file.parent.mkdir(parents=True)
            file.write_bytes(body)
            read = sum(row[1] for row in self.query(file) if row[0])
            self.assertEqual(len(self.ODD) - (2 if strict == "keep" else 0), read)

    def test_gzip(self):
        """the gzip archive is read with one query"""
        self.check("gzip", ".gz")

    def test_zstd(self):
        """the zstd archive is read with one query"""
        self.check("zstd", ".zst")


if __name__ == "__main__":
    rig.main()
