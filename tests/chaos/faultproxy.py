"""An HTTP proxy between runsink and its store that lies: it fails requests before the store has seen them, and after the store
has kept the body. What happens to a request depends on the seed, its path and how often that path was asked for, never on
timing, so a seed repeats a run.

Runs as a process of its own, told what to do by lines on its standard input:
    rate R        the share of requests that go wrong, 0 to 1
    outage on|off every request is refused while on
    drain         answers "drained" once no request is on its way to the store
    quit          prints what it did as one JSON line, and ends
It prints the ports it listens on as its first line.

With --record instead of --upstream it is a webhooks' receiver that lies in the same ways: what it took is written to a file, a
JSON line each, [when it arrived, when it was answered, webhook-id, SHA-256 of the body, what went wrong or null].
"""
import argparse
import asyncio
import collections
import hashlib
import json
import os
import random
import socket
import struct
import sys
import time

# name -> weight. "before": the store sees nothing. "after": the store has the body, the worker is told otherwise, or nothing.
# late: the worker's connection is reset at once and the body still reaches the store, seconds later.
FAULTS = {"before-500": 2, "before-503": 3, "before-reset": 2, "before-hang": 1, "cut": 1,
          "after-500": 3, "after-503": 2, "after-reset": 4, "after-hang": 2, "half-answer": 2, "late": 3}
HANG_S = 6
LATE_S = (0.2, 4.0)


class Gone(Exception):
    """The peer closed its connection."""


def split_head(head):
    """(first line, headers)"""
    headers = {}
    lines = head.decode("latin-1").split("\r\n")
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return lines[0], headers


async def read_head(reader):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        raise Gone from None
    return head, *split_head(head)


async def read_body(reader, headers):
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while True:
                line = await reader.readuntil(b"\r\n")
                size = int(line.split(b";")[0], 16)
                chunk = await reader.readexactly(size + 2)
                body += line + chunk
                if size == 0:
                    return body
        return await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        raise Gone from None


def answer(status, text, retry_after=None):
    body = f"<?xml version=\"1.0\"?><Error><Code>{text}</Code><Message>injected</Message></Error>".encode()
    head = f"HTTP/1.1 {status} {text}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    if retry_after is not None:
        head += f"Retry-After: {retry_after}\r\n"
    return head.encode() + b"\r\n" + body


def reset(writer):
    """Closes with a RST instead of a FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


class Proxy:
    def __init__(self, upstream, seed, rate):
        self.upstream, self.seed, self.rate = upstream, seed, rate
        self.outage = False
        self.asked = collections.Counter()
        self.did = collections.Counter()
        self.on_their_way = 0
        self.tasks = set()  # asyncio itself would let them be collected
        self.idle = asyncio.Event()
        self.idle.set()

    def fault(self, method, name):
        """What is to go wrong with this request, or None."""
        nth = self.asked[method, name]
        self.asked[method, name] += 1
        digest = hashlib.blake2b(f"{self.seed}:{method}:{name}:{nth}".encode(), digest_size=8).digest()
        draw = random.Random(digest)
        if self.outage:
            return draw.choice(["before-503", "before-reset"]), draw
        if method not in ("PUT", "POST") or draw.random() >= self.rate:
            return None, draw
        return draw.choices(list(FAULTS), FAULTS.values())[0], draw

    async def connect(self):
        return await asyncio.open_connection(*self.upstream)

    async def forward(self, connection, head, body, _fault, _arrived):
        """To the store and back; the answer's bytes and whether the connection may be used again."""
        self.on_their_way += 1
        self.idle.clear()
        try:
            reader, writer = connection
            writer.write(head + body)
            await writer.drain()
            back, line, headers = await read_head(reader)
            if head.startswith(b"HEAD ") or line.split(" ")[1] in ("204", "304"):
                return back, True
            back += await read_body(reader, headers)
            return back, headers.get("connection", "").lower() != "close"
        finally:
            self.on_their_way -= 1
            if self.on_their_way == 0:
                self.idle.set()

    async def late(self, delay, head, body, arrived):
        # On its way from the moment the worker was told otherwise, so that drain() waits for it.
        self.on_their_way += 1
        self.idle.clear()
        writer = None
        try:
            await asyncio.sleep(delay)
            connection = await self.connect()
            writer = connection[1]
            await self.forward(connection, head, body, "late", arrived)
        except (Gone, OSError):
            self.did["late, refused"] += 1
        finally:
            if writer:
                writer.close()
            self.on_their_way -= 1
            if self.on_their_way == 0:
                self.idle.set()

    async def one(self, client, store, head, line, headers):
        """Serves one request; True when the client's connection goes on. store is a list of at most one connection."""
        reader, writer = client
        method, path, _ = line.split(" ", 2)
        arrived = time.time()
        fault, draw = self.fault(method, headers.get("webhook-id", path))
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault == "cut":  # in the middle of the request's body
            await reader.read(max(1, int(headers.get("content-length", 0)) // 2))
        body = b"" if fault == "cut" else await read_body(reader, headers)
        self.did[fault or "passed"] += 1
        if fault == "late":
            task = asyncio.get_running_loop().create_task(self.late(draw.uniform(*LATE_S), head, body, arrived))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        if fault in ("cut", "before-reset", "late"):
            reset(writer)
            return False
        if fault == "before-hang":
            await asyncio.wait({asyncio.ensure_future(reader.read(1))}, timeout=HANG_S)
            return False
        if fault in ("before-500", "before-503"):
            writer.write(answer(500, "InternalError") if fault == "before-500" else answer(503, "SlowDown", draw.choice([None, 1])))
            return True
        if not store:
            store.append(await self.connect())
        back, more = await self.forward(store[0], head, body, fault, arrived)
        if not more:
            store.pop()[1].close()
        if fault == "after-reset":
            reset(writer)
            return False
        if fault == "after-hang":
            await asyncio.wait({asyncio.ensure_future(reader.read(1))}, timeout=HANG_S)
            return False
        if fault == "half-answer":
            writer.write(back[:max(1, len(back) // 2)])
            await writer.drain()
            return False
        if fault in ("after-500", "after-503"):
            back = answer(500, "InternalError") if fault == "after-500" else answer(503, "SlowDown")
        writer.write(back)
        await writer.drain()
        return True

    async def serve(self, reader, writer):
        store = []
        self.tasks.add(asyncio.current_task())
        try:
            while await self.one((reader, writer), store, *await read_head(reader)):
                pass
        except (Gone, OSError):
            pass
        finally:
            for _, to_store in store:
                to_store.close()
            writer.close()
            self.tasks.discard(asyncio.current_task())

    async def obey(self, commands):
        while True:
            word, _, argument = (await commands.readline()).decode().strip().partition(" ")
            if word == "rate":
                self.rate = float(argument)
            elif word == "outage":
                self.outage = argument == "on"
            elif word == "drain":
                await self.idle.wait()
                print("drained", flush=True)
            elif word in ("quit", ""):  # "": whoever started us is gone
                print(json.dumps(dict(self.did)), flush=True)
                return


class Nothing:
    def close(self):
        pass


class Recorder(Proxy):
    """Has no server behind it: it takes every request itself."""

    def __init__(self, file, seed, rate):
        super().__init__(None, seed, rate)
        self.file = file

    async def connect(self):
        return None, Nothing()

    async def forward(self, _connection, head, body, fault, arrived):
        _, headers = split_head(head)
        taken = [arrived, time.time(), headers.get("webhook-id"), hashlib.sha256(body).hexdigest(), fault]
        self.file.write(json.dumps(taken) + "\n")
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True


async def main(options):
    if options.record:
        proxy = Recorder(open(options.record, "a", buffering=1), options.seed, options.rate)
    else:
        host, _, port = options.upstream.rpartition(":")
        proxy = Proxy((host, int(port)), options.seed, options.rate)
    servers = [await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20) for _ in range(options.ports)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    await proxy.obey(commands)
    os._exit(0)  # connections that still hang are nobody's any more


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--upstream", help="HOST:PORT of the store")
    what.add_argument("--record", help="the file that takes down what came")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--ports", type=int, default=1)
    asyncio.run(main(parser.parse_args()))
