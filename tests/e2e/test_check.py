"""`check` builds what `run` builds: what one refuses, the other refuses, with the same code and words."""
import rig


class Check(rig.Case):
    BROKERS = "127.0.0.1:1"  # nobody is asked

    def refusals(self):
        (self.dir / "file").write_text("")
        (self.dir / "key.pem").write_text("no key")
        kafka = {"kafka.bootstrap.servers": self.BROKERS}
        return (
            ({**kafka, "kafka.acks": "1"}, "acks"),
            ({**kafka, "kafka.session.timeout.ms": "400000"}, "session.timeout.ms"),
            ({**kafka, "kafka.fetch.max.bytes": "1000"}, "fetch.max.bytes"),
            ({**kafka, "kafka.no.such": "1"}, "no such property"),
            ({"kafka.bootstrap.servers": ""}, "kafka.bootstrap.servers: is empty"),
            ({"kafka.bootstrap.servers": " , "}, "kafka.bootstrap.servers: is empty"),
            ({**kafka, "file.root": self.dir / "absent"}, "file.root: there is no folder"),
            ({**kafka, "file.root": self.dir / "file"}, "is no folder"),
            ({**kafka, "sink.override": f"file:{self.dir}/file/below"}, "sink.override"),
            ({**kafka, "ledger.key": self.dir / "key.pem"}, "key.pem"),
            ({**kafka, "anchor.bucket": "b", "anchor.access_key_id": "a", "anchor.secret_access_key": "s"}, "ledger.key"),
        )

    def said(self, command, settings, *arguments):
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        done = rig.runsink(*command, "--set", "topics=a", "--set", "admin.listen=", *sets, *arguments, seconds=30)
        return done.returncode, done.stderr.decode()

    def test_check_refuses_what_run_refuses(self):
        """properties that exclude each other, no broker, folders and keys that are not there: 78 and the name, both times"""
        for settings, phrase in self.refusals():
            with self.subTest(phrase=phrase, **{name.replace(".", "_"): str(value) for name, value in settings.items()}):
                for command in (("run",), ("check",), ("check", "--config-only")):
                    if command[-1] == "--config-only" and {"anchor.bucket", "file.root", "sink.override"} & set(settings):
                        continue  # the key may come from elsewhere, as topics may, and folders may be another machine's
                    code, said = self.said(command, settings)
                    self.assertEqual(78, code, f"{command}: {said}")
                    self.assertIn(phrase, said, command)

    def test_nothing_is_made(self):
        """a folder that run would make is no mistake, and check does not make it"""
        folder = self.dir / "deep" / "er"
        settings = {"kafka.bootstrap.servers": self.BROKERS, "sink.override": f"file:{folder}", "file.root": self.dir}
        for command in (("check", "--config-only"), ("check",)):
            self.assertNotIn("sink.override:", self.said(command, settings)[1])
        self.assertEqual((0, ""), self.said(("check", "--config-only"), settings))
        self.assertFalse(folder.parent.exists())


if __name__ == "__main__":
    rig.main()
