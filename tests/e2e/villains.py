"""Tenants that mean harm, each in another way, and the servers that they have: for attacks in which all of them take part at
once (e2e.attack_fair, scripts/load attack)."""
import asyncio
import contextlib
import itertools
import re
import threading
import time

import events

OK = b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nx-amz-request-id: 1\r\nContent-Length: 0\r\n\r\n"


def answer(status, body=b"", *headers):
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def s3_error(status, code):
    return answer(status, b"<Error><Code>%s</Code><Message>x</Message></Error>" % code, b"Content-Type: application/xml")


class Listener:
    """A server on every loopback address; one() answers a request, and says whether more may come on the connection."""

    def __init__(self):
        ready, self.loop = threading.Event(), asyncio.new_event_loop()
        threading.Thread(target=self.run, args=(ready,), daemon=True).start()
        ready.wait(30)

    def run(self, ready):
        asyncio.set_event_loop(self.loop)
        self.server = self.loop.run_until_complete(asyncio.start_server(self.serve, "0.0.0.0", 0, backlog=1024))
        self.port = self.server.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()
        self.loop.close()

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self.one(reader, writer, await self.request(reader)):
                await writer.drain()
        writer.close()

    async def request(self, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        return head

    def close(self):
        async def end():
            self.server.close()
            serving = asyncio.all_tasks() - {asyncio.current_task()}
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)


class Server(Listener):
    """The first part of a path says what is answered."""

    ANSWERS = {
        "folded": b"HTTP/1.1 200 OK\r\n folded: first\r\ncontent-length: 0\r\n\r\n",
        "later": answer(b"503 Service Unavailable", b"", b"Retry-After: 3600"),
        "long": answer(b"400 Bad Request", b"a" * 65536),
        "unknown": answer(b"401 Unauthorized"),
        "baddigest": s3_error(b"400 Bad Request", b"BadDigest"),
        "skewed": s3_error(b"403 Forbidden", b"RequestTimeTooSkewed"),
    }
    CUT = {
        "short": b"HTTP/1.1 202 Accepted\r\nContent-Length: 20\r\n\r\nok",
        "headless": b"HTTP/1.1 200 OK\r\nContent-Le",
    }

    def __init__(self):
        self.requests = {}  # by a path's first part
        self.begin = time.monotonic()
        super().__init__()

    async def one(self, reader, writer, head):
        name = re.match(rb"\S+ /([a-z]*)", head)[1].decode()
        self.requests[name] = self.requests.get(name, 0) + 1
        if name in self.CUT:
            writer.write(self.CUT[name])
            return False
        if name == "silent":
            await reader.read()  # until it hangs up
            return False
        if name == "trap" and (time.monotonic() - self.begin) % 33 > 5:
            await asyncio.sleep(28)
        if name == "sluggish":
            await asyncio.sleep(0.9)
        writer.write(self.ANSWERS.get(name, OK))
        return True


class Villains:
    """make[name]() is the value of that tenant's next event; weight[name]: how many it sends where others send one."""

    def __init__(self, server):
        self.server, self.n = server, itertools.count()
        self.make = {
            "silent": lambda: self.hook("silent", f"/?q={next(self.n)}"),
            "hosts": lambda: self.hook("silent", "/", host=next(self.n)),
            "trap": lambda: self.hook("trap", f"/{next(self.n) % 40}"),
            "later": lambda: self.store("later"),
            "folded": lambda: self.hook("folded", f"/{next(self.n) % 3}"),
            "secrets": lambda: self.hook("long", headers={f"X-{i}": "a" * (16 + i) + str(next(self.n)) for i in range(28)}),
            "memory": lambda: self.hook("quick", f"/{next(self.n)}", status="FAILURE", skipOnFail=True,
                                        headers={f"X-{i}": f"{next(self.n)}" for i in range(50)}),
            "alarms": lambda: self.store(("baddigest", "skewed")[next(self.n) % 2]),
            "unknown": lambda: self.hook("unknown", f"/?q={next(self.n)}"),
            "names": lambda: self.hook("quick", "/token-of-mine", headers={"Authorization": "Bearer token-of-mine"}),
            "sluggish": lambda: self.hook("sluggish", f"/{next(self.n) % 200}"),
            "big": lambda: self.hook("silent", f"/?big={next(self.n)}", filler="x" * 300_000),
            "cut": lambda: self.hook(("short", "headless")[next(self.n) % 2]),
        }
        self.weight = {"silent": 20, "hosts": 5, "trap": 10, "memory": 5, "sluggish": 10, "folded": 2}

    def event(self, name):
        return events.dump(self.make[name]())

    def round(self):
        """One event of each, or as many as its weight says, mixed."""
        names = [name for name in self.make for _ in range(self.weight.get(name, 1))]
        names.sort(key=lambda name: hash((name, next(self.n))))
        return [self.event(name) for name in names]

    def url(self, host=0):
        return f"http://127.{90 + host // 62500 % 100}.{host // 250 % 250}.{host % 250 + 1}:{self.server.port}"

    def hook(self, name, more="", host=0, status="SUCCESS", filler=None, **sink):
        extra = {"filler": filler} if filler else {}
        return events.run({"type": "webhook", "url": f"{self.url(host)}/{name}{more}", **sink}, status=status,
                          workspaceId=f"villain-{name}", **extra)

    def store(self, name):
        return events.run({"type": "s3", "bucket": name, "accessKeyId": "AKIDVILLAIN", "secretAccessKey": "villains-secret",
                           "region": "us-east-1", "endpoint": self.url(), "forcePathStyle": True}, workspaceId=f"villain-{name}")
