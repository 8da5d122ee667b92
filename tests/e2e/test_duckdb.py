"""Analysts read the batch archive as it lies: DuckDB, one query over the Hive-style paths of a tenant, gzip and zstd."""
import duckdb

import events
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

    def check(self, compression, suffix):
        for bucket, folder in self.archive(compression).items():
            # The README shows this query.
            rows = duckdb.sql(f"""
                SELECT status, count(*) AS runs, count(DISTINCT id) AS ids, sum(payloads) AS payloads, min(dt) AS day
                FROM read_json('{folder}/runs/dt=*/*.ndjson{suffix}', format = 'newline_delimited',
                               hive_partitioning = true)
                GROUP BY status""").fetchall()
            self.assertEqual(sum(row[1] for row in rows), self.EVENTS // 2, bucket)
            self.assertEqual(sum(row[2] for row in rows), self.EVENTS // 2, bucket)
            expected = {sum(n for n in range(self.EVENTS // 3) if n % 2 == odd) * 3 for odd in (0, 1)}
            self.assertIn(sum(row[3] for row in rows), expected, bucket)
            self.assertRegex(str(rows[0][4]), r"^20\d\d-\d\d-\d\d$")
        rig.say(f"both tenants' archives in {compression} hold what was produced")

    def test_gzip(self):
        """the gzip archive is read with one query"""
        self.check("gzip", ".gz")

    def test_zstd(self):
        """the zstd archive is read with one query"""
        self.check("zstd", ".zst")


if __name__ == "__main__":
    rig.main()
