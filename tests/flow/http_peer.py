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


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
# What a server may say: its bytes, and what becomes of the connection (keep, fin, reset, hang: open and silent).
RAW = {
    # The head is whole.
    "short": (b"HTTP/1.1 202 Accepted\r\nContent-Length: 20\r\n\r\nok", "fin"),
    "short-reset": (OK + b"Content-Length: 20\r\n\r\nok", "reset"),
    "none-of-it": (OK + b"Content-Length: 100\r\n\r\n", "fin"),
    "close-reset": (OK + b"Connection: close\r\n\r\nok", "reset"),
    "close": (OK + b"Connection: close\r\n\r\nok", "fin"),
    "close-hang": (OK + b"Connection: close\r\n\r\nok", "hang"),
    "unchunked": (CHUNKED + b"2\r\nok\r\n", "fin"),
    "chunk-cut": (CHUNKED + b"20\r\nok", "fin"),
    "chunk-hang": (CHUNKED + b"2\r\nok\r\n", "hang"),
    "chunk-garbage": (CHUNKED + b"zz\r\nok\r\n", "keep"),
    "chunk-huge": (CHUNKED + b"ffffffffffffffffff\r\nok\r\n", "keep"),
    "chunk-negative": (CHUNKED + b"-1\r\nok\r\n", "keep"),
    "trailers-cut": (CHUNKED + b"0\r\nX-Tail: a", "fin"),
    "trailers-folded": (CHUNKED + b"0\r\n folded: tail\r\nX: y\r\n z\r\n\r\n", "keep"),
    "length-hang": (OK + b"Content-Length: 20\r\n\r\nok", "hang"),
    "endless": (OK + b"\r\n", "hang"),
    "http10": (b"HTTP/1.0 200 OK\r\n\r\n", "hang"),
    "http10-reset": (b"HTTP/1.0 200 OK\r\n\r\nok", "reset"),
    "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", "keep"),
    "more-than-told": (OK + b"Content-Length: 2\r\n\r\nok and more", "keep"),
    "two-answers": (OK + b"Content-Length: 0\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", "keep"),
    "hints": (b"HTTP/1.1 103 Early Hints\r\nA: b\r\n c\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", "keep"),
    "hundreds": (b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + OK + b"Content-Length: 0\r\n\r\n", "keep"),
    "gone": (b"HTTP/1.1 410 Gone\r\nContent-Length: 20\r\n\r\nok", "fin"),
    "too-large": (b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\n", "reset"),
    "later": (b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 20\r\n\r\nok", "hang"),
    "later-reset": (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nConnection: close\r\n\r\n", "reset"),
    "switching": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n\0\0", "hang"),
    "denied": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 400\r\n\r\n<Error><Code>AccessDenied</Code>", "fin"),
    "denied-chunked": (b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n<Error>\r\n", "reset"),
    # It is not.
    "folded-first": (OK + b" folded: first\r\nContent-Length: 0\r\n\r\n", "keep"),
    "tab-first": (OK + b"\tfolded: first\r\nContent-Length: 0\r\n\r\n", "keep"),
    "blank-first": (OK + b" \r\nContent-Length: 0\r\n\r\n", "keep"),
    "folded-status": (b"HTTP/1.1 200\r\n OK\r\nContent-Length: 0\r\n\r\n", "keep"),
    "folded-long": (OK + b"A: " + b"x" * 2000 + b"\r\n" + (b" " + b"y" * 2000 + b"\r\n") * 9 + b"Content-Length: 0\r\n\r\n", "keep"),
    "folded-often": (OK + b"A: b\r\n" + b" c\r\n" * 200 + b"Content-Length: 0\r\n\r\n", "keep"),
    "folded-hints": (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n folded: first\r\nContent-Length: 0\r\n\r\n", "keep"),
    "no-colon": (OK + b"nonsense\r\nContent-Length: 0\r\n\r\n", "keep"),
    "no-name": (OK + b": nothing\r\nContent-Length: 0\r\n\r\n", "keep"),
    "zero-bytes": (OK + b"A\0B: c\0d\r\nContent-Length: 0\r\n\r\n", "keep"),
    "bare-lf": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "keep"),
    "bare-cr": (OK + b"A: b\rContent-Length: 5\r\r\nContent-Length: 0\r\n\r\n", "keep"),
    "negative-length": (OK + b"Content-Length: -5\r\n\r\nok", "fin"),
    "huge-length": (OK + b"Content-Length: 99999999999999999999999\r\n\r\nok", "fin"),
    "two-lengths": (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "fin"),
    "length-and-chunks": (OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "keep"),
    "gzip": (OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00", "keep"),
    "gzip-te": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n4\r\n\x1f\x8b\x08\x00\r\n0\r\n\r\n", "keep"),
    "cookies": (OK + b"Set-Cookie: a=b; Path=/\r\n" * 60 + b"Content-Length: 0\r\n\r\n", "keep"),
    "alt-svc": (OK + b'Alt-Svc: h2="127.0.0.1:1"; ma=86400\r\nStrict-Transport-Security: max-age=9\r\nContent-Length: 0\r\n\r\n', "keep"),
    "auth": (b"HTTP/1.1 401 x\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM abc\r\nWWW-Authenticate: Digest realm=x\r\n"
             b"Content-Length: 0\r\n\r\n", "keep"),
    "proxy-auth": (b"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n", "keep"),
    "see-other": (b"HTTP/1.1 303 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "keep"),
    "expect": (b"HTTP/1.1 417 x\r\nContent-Length: 0\r\n\r\n", "keep"),
    "misdirected": (b"HTTP/1.1 421 x\r\nContent-Length: 0\r\n\r\n", "keep"),
    "range": (b"HTTP/1.1 206 x\r\nContent-Range: bytes 5-9/1\r\nContent-Length: 0\r\n\r\n", "keep"),
    "timeout": (b"HTTP/1.1 408 x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "fin"),
    "head-cut": (OK + b"Content-Length: 0\r\n", "fin"),
    "status-cut": (b"HTTP/1.1 200 OK\r\n", "fin"),
    "status-only": (b"HTTP/1.1 200", "fin"),
    "status-reset": (b"HTTP/1.1 200 OK\r\nA: b", "reset"),
    "status-999": (b"HTTP/1.1 99999999999 x\r\n\r\n", "fin"),
    "version-3": (b"HTTP/3 200 OK\r\nContent-Length: 0\r\n\r\n", "fin"),
    "http2": (b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n", "fin"),
    "preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), "fin"),
    "rtsp": (b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n", "fin"),
    "http09": (b"hello\r\n", "fin"),
    "blank": (b"\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", "fin"),
    "bytes": (bytes(range(256)) * 20, "fin"),
    "nothing": (b"", "fin"),
    "nothing-reset": (b"", "reset"),
}


def raw(conn, name):
    """False: the connection is over."""
    said, ends = RAW[name]
    conn.sendall(said)
    if ends == "reset":
        time.sleep(0.02)  # what was said has arrived before it
        reset(conn)
    elif ends == "hang":
        conn.recv(1)
    return ends == "keep"


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
        if path == "/early":  # answers and is gone before it has read the request
            conn.sendall(answer(413, b"too large", ["Connection: close"]))
            time.sleep(0.1)  # what was said has arrived before it
            reset(conn)
            return
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
        "/raw": answer(200, " ".join(name for name, (_, ends) in RAW.items() if ends != "hang").encode()),
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
    if path.startswith("/raw/"):
        return raw(conn, path[5:])
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


if __name__ == "__main__":
    main()
