"""A scripted HTTP peer on loopback: the request's path chooses what goes wrong.

Prints one line, "name=value ...", with its ports and the folder of its certificates, and serves
until its standard input closes. Only the standard library, and the openssl command for the
certificates.
"""

import email.utils
import hashlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

HOST = "127.0.0.1"
counts = {"connections": 0, "canary": 0}
last = {"request": b""}
lock = threading.Lock()


def count(what):
    with lock:
        counts[what] = counts.get(what, 0) + 1


def answer(status, body=b"", headers=(), version="HTTP/1.1"):
    lines = [f"{version} {status} Reason", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def reset(conn):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def forever(conn, head, piece, pause=0.0):
    conn.sendall(head)
    while True:
        conn.sendall(piece)
        if pause:
            time.sleep(pause)


def echo(method, path, headers, body):
    text = json.dumps({"method": method, "path": path, "headers": headers, "length": len(body),
                       "sha256": hashlib.sha256(body).hexdigest()})
    return answer(200, text.encode(), ["Content-Type: application/json"])


def serve(conn, canary):
    """Requests of one connection. False from a handler's script ends the connection."""
    stream = conn.makefile("rb")
    while True:
        line = stream.readline()
        if not line:
            return
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers = []
        length = 0
        while (header := stream.readline().strip()):
            name, value = header.decode("latin-1").split(":", 1)
            headers.append([name, value.strip()])
            if name.lower() == "content-length":
                length = int(value)
        body = stream.read(length)
        count(path)
        if not respond(conn, method, path, headers, body, canary):
            return


def respond(conn, method, path, headers, body, canary):
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    if path.startswith("/hook/"):
        last["request"] = echo(method, path, headers, body)
        conn.sendall(answer(int(path[6:9]), b"", ["Retry-After: 3"]))
        return True
    whole = {
        "/last": last["request"],
        "/ok": answer(200, b"fine", ['ETag: "e1"', "X-Other: 1"]),
        "/echo": echo(method, path, headers, body),
        "/counts": answer(200, json.dumps(counts).encode()),
        "/later-seconds": answer(503, b"busy", ["Retry-After: 7"]),
        "/later-date": answer(503, b"busy", ["Retry-After: " + date]),
        "/later-century": answer(503, b"busy", ["retry-after: 99999999999999999999"]),
        "/later-nonsense": answer(503, b"busy", ["Retry-After: soon"]),
        "/redirect": answer(302, b"", [f"Location: http://{HOST}:{canary}/"]),
        "/hints": b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\nETag: early\r\n\r\n"
                  + answer(200, b"", ["X-Late: 1"]),
        "/trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: head\r\n\r\n"
                    b"4\r\nfine\r\n0\r\nETag: tail\r\nRetry-After: 5\r\n\r\n",
        "/big": answer(200, b"x" * 300000),
    }
    if path.startswith("/status/"):
        conn.sendall(answer(int(path[8:])))
    elif path.partition("?")[0] in whole:
        conn.sendall(whole[path.partition("?")[0]])
    elif path == "/slow":
        time.sleep(0.1)
        conn.sendall(answer(200, b"slow"))
    elif path == "/drip":
        forever(conn, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x", 0.02)
    elif path == "/endless":
        forever(conn, chunked, b"1000\r\n" + b"y" * 4096 + b"\r\n")
    elif path == "/endless-headers":
        forever(conn, b"HTTP/1.1 200 OK\r\n", b"X-Filler: " + b"z" * 1000 + b"\r\n")
    elif path == "/many-headers":
        conn.sendall(answer(200, b"", ["A: b"] * 600))
    elif path == "/endless-line":
        forever(conn, b"HTTP/1.1 200 OK\r\nX-Filler: ", b"z" * 4096)
    elif path == "/endless-hints":
        forever(conn, b"", b"HTTP/1.1 103 Early Hints\r\nX-Filler: zzzzzzzzzzzz\r\n\r\n")
    elif path == "/truncated":
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        return False
    elif path == "/truncated-head":
        conn.sendall(b"HTTP/1.1 200 OK\r\nX-Filler: z")
        return False
    elif path == "/interim-only":
        conn.sendall(b"HTTP/1.1 103 Early Hints\r\nX-Filler: z\r\n\r\n")
        return False
    elif path == "/closed-10":
        conn.sendall(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
        return False
    elif path == "/garbage":
        conn.sendall(b"+PONG\r\nwhat is this?\r\n")
        return False
    elif path == "/nothing":
        return False
    elif path == "/reset":
        reset(conn)
        return False
    elif path == "/reset-middle":
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of")
        time.sleep(0.05)
        reset(conn)
        return False
    elif path == "/silent":
        conn.recv(1)
        return False
    else:
        conn.sendall(answer(404))
    return True


def listen(backlog=512):
    sock = socket.socket()
    sock.bind((HOST, 0))
    sock.listen(backlog)
    return sock, sock.getsockname()[1]


def accept_loop(sock, handler, context=None):
    def one(conn):
        try:
            handler(context.wrap_socket(conn, server_side=True) if context else conn)
        except (OSError, ValueError):
            pass  # the client went away, as the tests intend
        finally:
            conn.close()

    while True:
        conn, _ = sock.accept()
        count("connections")
        threading.Thread(target=one, args=(conn,), daemon=True).start()


def background(sock, handler, context=None):
    threading.Thread(target=accept_loop, args=(sock, handler, context), daemon=True).start()


def tunnel(conn):
    """A proxy that knows CONNECT; the host's name chooses its answer."""
    stream = conn.makefile("rb")
    target = stream.readline().decode().split(" ")[1]
    while stream.readline().strip():
        pass
    count("CONNECT " + target)
    host, port = target.rsplit(":", 1)
    if host.startswith("answer-"):
        conn.sendall(answer(int(host[7:10])))
        return
    with socket.create_connection((HOST, int(port))) as far:
        conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=pump, args=(far, conn), daemon=True).start()
        pump(conn, far)


def pump(source, sink):
    try:
        while (data := source.recv(65536)):
            sink.sendall(data)
    except OSError:
        pass


def certificates(folder):
    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
           "-days", "2"]
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test ca")
    for name, subject, names in (("server", "/CN=server", "subjectAltName=DNS:good.test"),
                                 ("client", "/CN=client", "subjectAltName=DNS:client")):
        openssl(*new, "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", name + ".key", "-out",
                name + ".pem", "-subj", subject, "-addext", names)


def context(folder, client=False):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(os.path.join(folder, "server.pem"), os.path.join(folder, "server.key"))
    if client:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(os.path.join(folder, "ca.pem"))
    return made


def main():
    with tempfile.TemporaryDirectory() as folder:
        certificates(folder)
        socks = {name: listen() for name in ("plain", "tls", "mtls", "deaf", "canary", "proxy")}
        socks["full"] = listen(0)
        socks["gone"] = listen()
        canary = socks["canary"][1]

        def handler(conn):
            serve(conn, canary)

        background(socks["plain"][0], handler)
        background(socks["tls"][0], handler, context(folder))
        background(socks["mtls"][0], handler, context(folder, client=True))
        background(socks["canary"][0], lambda conn: count("canary"))
        background(socks["proxy"][0], tunnel)
        # "deaf" never accepts; "full" has no place left for a connection; "gone" refuses.
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((HOST, socks["full"][1]))
        socks["gone"][0].close()
        print(*(f"{name}={port}" for name, (_, port) in socks.items()), f"dir={folder}",
              flush=True)
        sys.stdin.read()


main()
