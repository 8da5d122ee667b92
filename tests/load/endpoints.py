"""The tenants' endpoints: tests/bench/peer.c for nearly all, a TLS server here, and names that don't exist."""
import asyncio
import re
import ssl
import subprocess
import threading
import time


class TlsEndpoint:
    """https; its certificate is one that nobody vouches for while it is sick."""

    def __init__(self, dir):
        self.dir, self.seen = dir, []
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=load-test-ca",
                     "-keyout", "ca.key", "-out", "ca.pem")
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "well.key", "-out", "well.csr")
        (dir / "san").write_text("subjectAltName=IP:127.0.0.1")
        self.openssl("x509", "-req", "-in", "well.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                     "-extfile", "san", "-out", "well.pem")
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                     "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "sick.key", "-out", "sick.pem")
        self.connections = set()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A resumed session would not show the new certificate.
        self.context.options |= ssl.OP_NO_TICKET
        self.context.num_tickets = 0
        self.use("well")
        ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.run, args=(ready,), daemon=True).start()
        ready.wait()

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.dir, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def use(self, name):
        self.context.load_cert_chain(self.dir / f"{name}.pem", self.dir / f"{name}.key")

    def switch(self, name):
        self.use(name)
        self.loop.call_soon_threadsafe(lambda: [one.close() for one in self.connections])

    def run(self, ready):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.context))
        # A refused handshake is what this is for.
        self.loop.set_exception_handler(lambda loop, context: None)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()

    async def serve(self, reader, writer):
        self.connections.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                name = re.search(r"(?i)\r\nwebhook-id: *(\S+)", head)
                self.seen.append((time.time_ns() // 1000, "tls", name[1]))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()


class Endpoints:
    def __init__(self, dir, peer, names):
        self.dir = dir
        self.log, self.resolve = dir / "peer.log", dir / "names-resolve"
        self.peer = subprocess.Popen([peer, self.log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ports = dict(one.split("=") for one in self.peer.stdout.readline().split())
        self.port = ports["web"]
        self.web, self.refused, self.synhole = (f"http://127.0.0.1:{ports[name]}" for name in ("web", "refused", "synhole"))
        self.tls_endpoint = TlsEndpoint(dir)
        self.tls, self.ca = f"https://127.0.0.1:{self.tls_endpoint.port}", dir / "ca.pem"
        self.environment = {"LD_PRELOAD": str(names), "NAMES_RESOLVE": str(self.resolve)}
        self.resolve.touch()
        self.read = self.tls_read = 0

    def tell(self, word):
        self.peer.stdin.write(word + "\n")
        self.peer.stdin.flush()
        assert self.peer.stdout.readline().strip() == word

    def sick(self):
        self.resolve.unlink()
        self.tls_endpoint.switch("sick")
        self.tell("sick")

    def well(self):
        self.resolve.touch()
        self.tls_endpoint.switch("well")
        self.tell("well")

    def slow(self):
        self.tell("slow")

    def quick(self):
        self.tell("quick")

    def arrivals(self):
        """(us, place, text that holds the event's id) of each request answered with 2xx since the last call."""
        with open(self.log, "rb") as file:
            file.seek(self.read)
            text = file.read()
        whole = text[:text.rfind(b"\n") + 1]
        self.read += len(whole)
        found = []
        for line in whole.decode().splitlines():
            at, method, path, hook = line.split(" ")
            found.append((int(at), path, path if method == "PUT" else hook))
        secure = self.tls_endpoint.seen[self.tls_read:]
        self.tls_read += len(secure)
        return found + secure

    def close(self):
        self.peer.stdin.close()
        self.peer.wait(10)
