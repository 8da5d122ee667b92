"""A network of its own for the worker: loopback, public-looking addresses on it, a name server that tells what the test
wishes, and forwarders to the real services outside. Nothing in it reaches another machine."""
import ctypes
import os
import socket
import struct
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """This machine lets nobody have a network namespace (it takes root, or user namespaces)."""


class Network:
    def __init__(self, addresses):
        """addresses: those that the machine in there has, beside loopback."""
        self.sockets = []
        file = tempfile.NamedTemporaryFile("w", prefix="resolv-", delete=False)
        with file:
            file.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        setup = ["ip link set lo up", *(f"ip addr add {one} dev lo" for one in addresses),
                 f"mount --bind {file.name} /etc/resolv.conf", "echo up", "exec sleep infinity"]
        self.process = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-ec", "\n".join(setup)], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if self.process.stdout.readline() != b"up\n":
            raise Unavailable(self.process.stderr.read().decode().strip())
        os.unlink(file.name)
        self.wrap = ("nsenter", f"--target={self.process.pid}", "--net", "--mount")

    def run(self, what):
        """what() on a thread that is in the network; the sockets it makes stay there."""
        def inside():
            with open(f"/proc/{self.process.pid}/ns/net") as ns:
                if _libc.setns(ns.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            return what()
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(inside).result()

    def listen(self, address, port=0):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        one = self.run(lambda: socket.create_server((address, port), family=family, backlog=128))
        self.sockets.append(one)
        return one

    def forward(self, address, port, to):
        """Connections to an address in here go on to one outside."""
        serve(self.listen(address, port), lambda one: pump(one, socket.create_connection(to)))

    def name_server(self, answer):
        """answer(name, "A" or "AAAA") gives addresses, in order; every time to live is 0."""
        def make():
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.bind(("127.0.0.1", 53))
            return one
        one = self.run(make)
        self.sockets.append(one)
        threading.Thread(target=_answer_names, args=(one, answer), daemon=True).start()

    def close(self):
        for one in self.sockets:
            one.close()
        self.process.kill()
        self.process.communicate()


def serve(listener, handle):
    """handle(connection) on a thread each, until the listener is closed."""
    def accept():
        while True:
            try:
                one = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=_guarded, args=(handle, one), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()


def _guarded(handle, one):
    try:
        with one:
            handle(one)
    except OSError:
        pass  # the peer is gone


def pump(a, b):
    def copy(to, from_):
        try:
            while piece := from_.recv(65536):
                to.sendall(piece)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass
    back = threading.Thread(target=copy, args=(a, b), daemon=True)
    back.start()
    copy(b, a)
    back.join()
    b.close()


def _answer_names(server, answer):
    while True:
        try:
            query, peer = server.recvfrom(512)
        except OSError:
            return
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode("ascii", "replace"))
            at += 1 + query[at]
        kind = {1: "A", 28: "AAAA"}.get(struct.unpack_from("!H", query, at + 1)[0])
        family = socket.AF_INET if kind == "A" else socket.AF_INET6
        found = answer(".".join(labels).lower(), kind) if kind else []
        head = struct.pack("!2sHHHHH", query[:2], 0x8180, 1, len(found), 0, 0)
        body = b"".join(struct.pack("!HHHIH", 0xc00c, 1 if kind == "A" else 28, 1, 0, len(raw)) + raw
                        for raw in (socket.inet_pton(family, one) for one in found))
        server.sendto(head + query[12:at + 5] + body, peer)


class Canary:
    """Listens where nobody may ever come."""

    def __init__(self, network, ports):
        self.visits = []
        for port in ports:
            for address in ("127.0.0.1", "::1"):
                serve(network.listen(address, port), lambda one, to=f"[{address}]:{port}": self.visited(one, to))

    def visited(self, one, to):
        one.settimeout(1)
        try:
            said = one.recv(200)
        except OSError:
            said = b""
        self.visits.append((to, time.time(), said))
