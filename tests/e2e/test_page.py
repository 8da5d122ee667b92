"""The status page in headless Chromium: it renders, lives, sorts and filters, shows hostile text as text, asks nobody else."""
import json
import os
import shlex
import threading
import unittest
from pathlib import Path

import events
import rig
from browser import CHROMIUM, Browser
from receiver import Receiver

# Of each part of a text in a table that holds no mark to break behind: those that stand on more than one line.
BROKEN = r"""(() => {
    const broken = [];
    for (const cell of document.querySelectorAll('td, th')) {
        const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        for (let node; (node = walk.nextNode());)
            for (const run of node.data.matchAll(/[^\s\/:;,.@?&=_*<>(){}[\]-]+/g)) {
                const range = document.createRange();
                range.setStart(node, run.index);
                range.setEnd(node, run.index + run[0].length);
                if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) broken.push(run[0]);
            }
    }
    return broken;
})()"""
# What sticks out of the element that holds it, which does not scroll.
# Labels of a chart's axis that touch the next one, where the figures are long.
TOUCH = """(document.querySelectorAll('.axis span:nth-child(2)').forEach(s => { s.textContent = 'max 12,345/s'; }),
    [...document.querySelectorAll('.axis span')].filter(s => {
        const a = s.getBoundingClientRect(), b = s.nextElementSibling?.getBoundingClientRect();
        return b && b.top < a.bottom && a.top < b.bottom && a.width && b.width && b.left - a.right < 4; }).map(s => s.parentElement.textContent))"""
CUT = """[...document.querySelectorAll('.panel, .card p, #verdict, #troubles li, dd, .tools, .tell')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 120))"""
HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
S3_ERROR = ("<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>&lt;img src=x onerror=window.hacked=1&gt;"
            "&lt;b&gt;bold&lt;/b&gt;</Message></Error>").encode()


@unittest.skipUnless(CHROMIUM, "Chromium (Debian package chromium) is not installed")
class Page(rig.Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.browser = Browser()
        self.addCleanup(self.browser.close)
        self.kafka.create(self.topic, 2)

    def send(self, *sinks, **more):
        self.kafka.produce(self.topic, [(b"k", events.dump(events.run(sink, id=rig.unique("run"), **more))) for sink in sinks])

    def hook(self, path):
        return {"type": "webhook", "url": self.receiver.url + path}

    def store(self, path, key="AKIA-not-shown"):
        return {"type": "s3", "bucket": "bucket-" + path, "prefix": "<b>" + path + "</b>/", "accessKeyId": key,
                "secretAccessKey": "secret-not-shown", "region": "us-east-1", "endpoint": self.receiver.url,
                "forcePathStyle": True}

    def open(self, settings=None, size=(1280, 900), **more):
        worker = self.worker(settings or self.settings(**more))
        rig.await_("the admin server listens", 30, lambda: worker.says("admin server listens"), worker)
        self.browser.open(f"http://127.0.0.1:{worker.admin_port}/", *size)
        return worker

    def text(self, selector):
        return self.browser.js(f"[...document.querySelectorAll({selector!r})].map(e => e.textContent)")

    def column(self, table, number):
        return self.text(f"#{table} tbody tr td:nth-child({number})")

    def until_text(self, selector, part, seconds=20):
        self.browser.until(f"[...document.querySelectorAll({selector!r})].some(e => e.textContent.includes({part!r}))", seconds)

    def assertNoComplaints(self):
        self.assertEqual([], self.browser.complaints())

    def picture(self, name):
        """For a person to look at: PICTURES names a folder."""
        if "PICTURES" in os.environ:
            self.browser.screenshot(Path(os.environ["PICTURES"], name + ".png"), whole=True)

    def assertReadable(self, name, worker, dark=(False, True) if "PICTURES" in os.environ else (False,), widths=(1280, 390), drawn="document.title !== 'runsink'"):
        """In each scheme and width nothing sticks out, and no word of a table is broken."""
        for scheme in dark:
            for width in widths:
                self.browser.open(f"http://127.0.0.1:{worker.admin_port}/", width, 900, scheme)
                self.browser.until(drawn)
                self.assertLessEqual(self.browser.js("document.documentElement.scrollWidth"), width, name)
                self.assertEqual([], self.browser.js(BROKEN), (name, width))
                self.assertEqual([], self.browser.js(CUT), (name, width))
                self.assertEqual([], self.browser.js(TOUCH), (name, width))
                self.picture(f"{name}-{'dark' if scheme else 'light'}-{width}")

    def test_live(self):
        """what happens shows within seconds without a reload; the page asks the worker alone"""
        worker = self.open()
        self.until_text("#up .mark", "OK", 40)
        self.until_text("#verdict", "All is well")
        self.browser.js("window.stays = true")
        self.send(*[self.hook("/ok")] * 42, {"type": "ftp"})
        self.until_text("#sums div:nth-child(1)", "43")
        self.until_text("#died .why", "1 data")
        self.until_text("#reasons td", "unknown-sink-type")
        self.until_text("#partitions td", self.topic)
        self.until_text("#whole .why", "settled")
        self.send({"type": "ftp"})
        self.until_text("#died .why", "2 data")
        self.assertTrue(self.browser.js("window.stays"))
        self.browser.until("document.querySelector('.plot path.line').getAttribute('d').length > 10")
        self.assertIn("Lag: now", self.browser.js("document.querySelectorAll('.plot svg')[1].getAttribute('aria-label')"))
        base = f"http://127.0.0.1:{worker.admin_port}/"
        self.assertEqual({base, base + "status.json"}, {u for u in self.browser.requests() if not u.startswith("data:")})
        self.assertNoComplaints()
        worker.kill()
        self.until_text("#verdict", "does not answer")
        self.assertIn("no answer", self.browser.js("document.title"))

    def test_hostile_text(self):
        """what tenants and stores write is text: no element comes of it, and the policy would run no script anyway"""
        self.receiver.play("/bucket-", (403, {"content-type": "application/xml"}, S3_ERROR))
        self.receiver.play("/sick", 500)
        self.send(self.store("one"), self.hook("/sick/<svg/onload=window.hacked=1>"), {"type": HOSTILE})
        self.kafka.produce(self.topic, [(b"k", HOSTILE.encode())])
        self.open(breaker__failures=1, breaker__probe="1m", retry__window__s3="1h", retry__window__webhook="1h")
        self.until_text("#destinations td", "bucket-one")
        self.until_text("#destinations td", "/sick/")
        self.until_text("#sick .why", "worst: ")
        inside = "document.querySelectorAll('main img, main script, main b, main svg:not(.plot svg), main iframe').length"
        self.assertEqual(0, self.browser.js(inside))
        self.assertIsNone(self.browser.js("window.hacked"))
        shown = self.browser.js("document.documentElement.outerHTML")
        for words in ("not-shown", "onerror", "bold"):  # of the store, escaped or not
            self.assertNotIn(words, shown)
        self.assertNoComplaints()
        self.picture("hostile")
        # And were a text to become an element after all:
        self.browser.js(f"document.querySelector('main').insertAdjacentHTML('beforeend', {HOSTILE!r})")
        self.browser.js("(() => { const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s); })()")
        self.browser.until("document.querySelector('main img') !== null")
        self.assertIsNone(self.browser.js("new Promise(done => setTimeout(() => done(window.hacked), 300))"))
        self.assertTrue(any("Content Security Policy" in str(c) for c in self.browser.complaints()))

    def test_tables(self):
        """sorted by mouse and by keyboard, told by aria-sort; filtered; a breaker that opens moves its row up"""
        for path, status in (("/a", 500), ("/b", 404), ("/c", 503)):
            self.receiver.play(path, status)
        self.send(*[self.hook("/a")] * 2, *[self.hook("/b")] * 4, self.hook("/c"), self.hook("/fine"))
        self.open(retry__window__webhook="1h", retry__delays="1h")
        self.browser.until("document.querySelectorAll('#destinations tbody tr').length === 3 && "
                           "document.querySelector('#destinations tbody tr td:nth-child(5)').textContent === '4'")
        labels = [label[-2:] for label in self.column("destinations", 2)]
        self.assertEqual(["/b", "/a", "/c"], labels)
        self.browser.js("document.querySelector('#destinations th:nth-child(5) button').click()")
        self.assertEqual(["4", "2", "1"], self.column("destinations", 5))
        self.assertEqual("descending", self.browser.js("document.querySelector('#destinations th:nth-child(5)').ariaSort"))
        self.browser.js("document.querySelector('#destinations th:nth-child(5) button').focus()")
        self.browser.key("Enter", text="\r")
        self.assertEqual("ascending", self.browser.js("document.querySelector('#destinations th:nth-child(5)').ariaSort"))
        self.assertEqual(["1", "2", "4"], self.column("destinations", 5))
        self.assertEqual(1, self.browser.js("document.querySelectorAll('#destinations th[aria-sort]').length"))
        self.browser.key("Tab")
        self.assertEqual("Waiting", self.browser.js("document.activeElement.textContent"))
        self.assertEqual("solid", self.browser.js("getComputedStyle(document.activeElement).outlineStyle"))
        type_ = "(() => { const f = document.getElementById('filter-destinations'); f.value = %r; f.dispatchEvent(new Event('input')); })()"
        self.browser.js(type_ % "/C")
        self.assertEqual(1, len(self.column("destinations", 2)))
        self.browser.js(type_ % "no such thing")
        self.assertIn("Nothing matches", self.column("destinations", 1)[0])
        self.browser.js(type_ % "")
        self.browser.js("(() => { const o = document.getElementById('only-destinations'); o.value = 'all'; o.dispatchEvent(new Event('input')); })()")
        self.assertEqual(4, len(self.column("destinations", 2)))
        # The order that was chosen stays when the page draws again.
        drawn = self.text("#who")
        self.browser.until(f"document.getElementById('who').textContent !== {drawn[0]!r}")
        self.assertEqual(["0", "1", "2", "4"], self.column("destinations", 5))
        self.assertNoComplaints()

    def test_workspaces(self):
        """which tenants are hit: what waits now, what died, of what last, and the command that sends just that back"""
        hostile = "w's " + "x" * 150 + HOSTILE
        self.receiver.play("/sick", 500)
        self.send(*[self.hook(f"/sick/{n}") for n in range(3)], workspaceId="acme")
        self.send(self.hook("/sick/0"), {"type": "ftp"}, workspaceId="acme")
        self.send({"type": "ftp"}, {"type": "ftp"}, workspaceId=hostile)
        self.send({"type": "ftp"}, workspaceId="Grüße")
        self.send(self.hook("/fine"), workspaceId="well")
        self.kafka.produce(self.topic, [(b"k", b'{"workspaceId":"spoilt",'), (b"k", b"{")])
        worker = self.open(retry__window__webhook="2h", retry__delays="1h", breaker__failures=1)
        self.browser.until("document.querySelectorAll('#workspaces tbody tr').length === 5", 40)
        self.until_text("#workspaces td:nth-child(3)", "4")
        rows = {r["workspace"]: r for r in json.loads(worker.http("/status.json"))["workspaces"]}
        figures = {name[:4]: (r["destinations"], r["sick"], r["waiting"], r["deadTenant"], r["deadData"], r["deadSystem"])
                   for name, r in rows.items()}
        self.assertEqual({"acme": (3, 3, 4, 0, 1, 0), "w's ": (0, 0, 0, 0, 2, 0), "Gr??": (0, 0, 0, 0, 1, 0),
                          "spoi": (0, 0, 0, 0, 1, 0), "": (0, 0, 0, 0, 1, 0)}, figures)
        self.assertEqual("acme", self.column("workspaces", 1)[0])
        self.assertEqual("3, 3 sick", self.column("workspaces", 2)[0])
        self.assertIn("unknown-sink-type", " ".join(self.column("workspaces", 6)))
        self.assertIn("not known", self.column("workspaces", 1))
        # Of one that can't be given to it, or whose letters it would not find, there is no command.
        told = {name[:4] for name, r in rows.items() if "redrive" in r}
        self.assertEqual({"acme", "w's "}, told)
        for name, letters in (("acme", 1), (hostile, 2)):
            command = shlex.split(rows[name]["redrive"])
            self.assertEqual(["runsink", "redrive"], command[:2])
            rig.await_("all is settled", 40, lambda: self.kafka.settled(self.group, self.topic), worker)
            found = rig.runsink(*command[1:], "--dry-run", "--json")
            self.assertEqual(letters, sum(t["selected"] for t in json.loads(found.stdout)["topics"]), found)
        self.assertEqual(6, len(self.text("#dead tbody tr")))
        self.assertEqual({"acme", "not known", "spoilt"}, {n for n in self.column("dead", 4) if len(n) < 20 and "?" not in n})
        shown = max(self.column("workspaces", 1), key=len)
        self.assertLess(len(shown), 140)
        self.assertIn("…", shown)
        self.assertIn(hostile, self.browser.js("[...document.querySelectorAll('#workspaces td')].map(e => e.title)"))
        self.browser.js("document.querySelector('#workspaces tbody button').click()")
        self.until_text("#copied code", rows["acme"]["redrive"])
        self.assertEqual(2, self.browser.js("[...document.querySelectorAll('#workspaces tbody button')].filter(e => !e.hidden).length"))
        self.assertEqual(0, self.browser.js("document.querySelectorAll('main img, main script').length"))
        self.assertReadable("workspaces", worker, drawn="document.querySelectorAll('#workspaces tbody tr').length === 5")
        self.assertNoComplaints()

    def test_what_waits_now(self):
        """waiting is what waits now: it comes down when an attempt succeeds"""
        self.receiver.play("/sick", 500)
        self.send(*[self.hook("/sick")] * 3)
        worker = self.open(retry__window__webhook="1h", retry__delays="1s")
        self.until_text("#destinations td:nth-child(6)", "3", 40)
        self.until_text("#workspaces td:nth-child(3)", "3")
        self.receiver.play("/sick", 200)
        rig.await_("all are delivered", 30, lambda: worker.metric("runsink_outcomes_total", outcome="delivered") == 3, worker)
        self.until_text("#destinations td", "/sick")
        self.until_text("#destinations td:nth-child(6)", "0")
        self.until_text("#workspaces td", "None in trouble.")

    def test_two_credentials_of_one_place(self):
        """are two rows, told apart by an id that shows nothing of them"""
        self.receiver.play("/bucket-", (403, {"content-type": "application/xml"}, S3_ERROR))
        self.send(self.store("one"), self.store("one", "AKIA-not-shown-2"), self.store("two"))
        self.open(retry__window__s3="1h", retry__delays="1h")
        self.browser.until("document.querySelectorAll('#destinations tbody tr').length === 3", 40)
        labels = self.column("destinations", 2)
        self.assertEqual(3, len(set(labels)))
        self.assertEqual(2, sum("bucket-one" in label and " #" in label for label in labels), labels)
        self.assertEqual(1, sum("bucket-two" in label and " #" not in label for label in labels), labels)
        self.assertNotIn("not-shown", self.browser.js("document.documentElement.outerHTML"))

    def test_idle(self):
        """idle, it says that none is in trouble"""
        worker = self.open()
        self.until_text("#verdict", "All is well", 40)
        self.assertEqual(["None in trouble."], self.column("workspaces", 1))
        self.assertIn("None in trouble", self.column("destinations", 1)[0])
        self.assertIn("none in trouble", self.text("#n-destinations")[0])
        self.send(*[self.hook("/ok")] * 3)
        self.until_text("#destinations td", "None in trouble: 1 known.")
        self.assertReadable("idle", worker)

    def test_many_destinations(self):
        """300 of them, long names among them"""
        self.receiver.play("/sick", 500)
        self.send(*[self.hook(f"/{'sick' if n % 3 else 'fine'}/{n}/{'averylongnamewithoutanymark' * (n % 5)}") for n in range(300)])
        worker = self.open(retry__window__webhook="1h", retry__delays="1h", breaker__failures=1)
        rig.await_("all were tried", 60, lambda: self.kafka.settled(self.group, self.topic), worker)
        self.browser.until("document.querySelectorAll('#destinations tbody tr').length === 200", 40)
        self.until_text("#sick .big", "200 shut off")
        self.assertReadable("many", worker, drawn="document.querySelectorAll('#destinations tbody tr').length === 200")

    def test_broker_gone(self):
        """without a broker the page is red and says so, with the cause and what to do"""
        worker = self.open()
        self.until_text("#verdict", "All is well", 40)
        status = json.loads(worker.http("/status.json"))
        gone = {"cause": "brokers-unreachable", "text": "brokers unreachable", "place": "", "forMs": 45000, "unready": True,
                "detail": "10 of 10 brokers are down: " + "kafka-0.kafka-headless.streaming.svc.cluster.local:9092/0: " * 3,
                "advice": "look at bootstrap.servers, the network and the brokers"}
        held = {"cause": "unreadable", "text": "a partition can't be read", "place": "t" * 200 + "/3", "forMs": 1, "unready": False,
                "detail": "", "advice": "see to it"}
        status.update(ready=False, notReady="brokers unreachable for 45 s", troubles=[gone, held])
        played = f"(paused = true, clearTimeout(timer), merge(window.s = {json.dumps(status)}), draw(window.s), !$('troubled').hidden)"
        self.assertReadable("broker", worker, drawn="document.title !== 'runsink' && " + played)
        self.assertEqual("Events do not flow: brokers unreachable.", self.text("#verdict")[0])
        self.assertEqual("bad", self.browser.js("document.getElementById('verdict').className"))
        self.assertEqual(["lag not known"], self.text("#up .big"))
        self.assertIn(gone["advice"], self.text("#troubles li")[0])

    def test_semantics(self):
        """headings, names, table heads and a status that is read out only when it changes"""
        self.send({"type": "ftp"})
        self.open()
        self.until_text("#dead td", "unknown-sink-type", 40)
        nameless = "[...document.querySelectorAll('input, select, button')].filter(e => !(e.labels && e.labels.length) && !e.textContent.trim()).length"
        self.assertEqual(0, self.browser.js(nameless))
        self.assertEqual(0, self.browser.js("[...document.querySelectorAll('th')].filter(e => e.scope !== 'col').length"))
        self.assertEqual(0, self.browser.js("[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex !== 0 || e.getAttribute('role') !== 'region').length"))
        self.assertEqual("en", self.browser.js("document.documentElement.lang"))
        self.assertEqual(["verdict"], self.browser.js("[...document.querySelectorAll('[role=status], [aria-live]')].map(e => e.id)"))
        self.browser.until("document.getElementById('verdict').textContent === 'Events died lately.'")
        self.browser.js("window.said = 0; new MutationObserver(l => window.said += l.length)"
                        ".observe(document.getElementById('verdict'), {childList: true, characterData: true, subtree: true})")
        drawn = self.text("#who")[0]
        self.browser.until(f"document.getElementById('who').textContent !== {drawn!r}")
        self.assertEqual(0, self.browser.js("window.said"))
        self.assertNoComplaints()

    def test_light_and_dark_narrow_and_wide(self):
        """both schemes have contrast, and nothing sticks out of a phone's width"""
        self.receiver.play("/sick", 500)
        self.send(*[self.hook(f"/sick/{'long' * n}") for n in range(12)], {"type": "ftp"}, "absent")
        worker = self.open(breaker__failures=1, retry__window__webhook="1h")
        contrast = """(() => {
            const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
                return .2126 * r + .7152 * g + .0722 * b; };
            const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
            let least = 99, where = '';
            for (const e of document.querySelectorAll('h1, h2, h3, p, td, th button, .mark, .muted, dt, dd, #verdict, .axis span')) {
                if (!e.textContent.trim() || !e.getClientRects().length) continue;
                const [a, b] = [lum(getComputedStyle(e).color), lum(ground(e))].sort((x, y) => y - x), c = (a + .05) / (b + .05);
                if (c < least) { least = c; where = e.outerHTML.slice(0, 80); }
            }
            return [least, where];
        })()"""
        grounds = set()
        for dark in (False, True):
            for width in (1280, 360):
                self.browser.open(f"http://127.0.0.1:{worker.admin_port}/", width, 1200, dark)
                self.until_text("#destinations td", "/sick/", 40)
                self.until_text("#dead td", "unknown-sink-type")
                grounds.add(self.browser.js("getComputedStyle(document.body).backgroundColor"))
                least, where = self.browser.js(contrast)
                self.assertGreaterEqual(least, 4.5, f"dark {dark}: {where}")
                self.assertLessEqual(self.browser.js("document.documentElement.scrollWidth"), width)
                self.picture(f"{'dark' if dark else 'light'}-{width}")
        self.assertEqual(2, len(grounds))
        self.assertNoComplaints()

    def test_asks_seldom_when_hidden(self):
        """a hidden tab asks seldom, a paused one not at all; shown again it asks at once"""
        self.open()
        self.until_text("#live", "live", 40)
        self.browser.js("Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true}); window.away = true;"
                        "document.dispatchEvent(new Event('visibilitychange'))")
        asked = "performance.getEntriesByName(new URL('status.json', location)).length"
        self.browser.js("performance.clearResourceTimings(); ask()")
        self.assertLessEqual(self.browser.js(f"new Promise(r => setTimeout(() => r({asked}), 5000))"), 1)
        before = self.browser.js(asked)
        self.browser.js("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
        self.browser.until(f"{asked} > {before}", 2)
        self.browser.js("document.getElementById('pause').click(); performance.clearResourceTimings()")
        self.assertLessEqual(self.browser.js(f"new Promise(r => setTimeout(() => r({asked}), 5000))"), 1)
        self.assertEqual("true", self.browser.js("document.getElementById('pause').ariaPressed"))
        before = self.browser.js(asked)
        self.browser.js("document.getElementById('pause').click()")
        self.browser.until(f"{asked} > {before}", 2)

    def test_not_ready(self):
        """while it drains the page says so"""
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        self.receiver.play("/hang", lambda handler: go_on.wait(30))
        self.send(self.hook("/hang"))
        worker = self.open(window__grace="1m", drain__timeout="15s")
        self.until_text("#now div:nth-child(1)", "In flight1", 40)
        worker.process.terminate()
        self.until_text("#up .why", "draining", 10)
        self.until_text("#verdict", "It is draining.")


if __name__ == "__main__":
    rig.main()
