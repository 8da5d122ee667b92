"""A webhook endpoint, and an S3 endpoint that misbehaves, for the worker to meet. Each path is played by a script."""
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


@dataclass
class Request:
    method: str
    path: str
    headers: dict
    body: bytes
    at: float
    answered: int = 0  # 0: by a function, or not yet


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that is killed is no news
            super().handle_error(request, client_address)


class Receiver:
    """Answers 200 unless play() says otherwise; keeps every request; checks Standard Webhooks signatures when it has a secret."""

    def __init__(self, secret=None, address=("127.0.0.1", 0)):
        self.requests = []
        self.bad_signatures = []
        self.plays = {}
        self.lock = threading.Lock()
        self.webhook = Webhook(secret) if secret else None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do(self):
                receiver.handle(self)

            do_POST = do_PUT = do_GET = do_HEAD = do

        self.server = _Server(address, Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://{address[0]}:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def play(self, path, *answers):
        """Answers of this path (and those below it), in order, the last one for ever: a status, (status, headers, body), or a
        function that gets the handler."""
        self.plays[path] = list(answers)

    def handle(self, handler):
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        request = Request(handler.command, handler.path, dict((k.lower(), v) for k, v in handler.headers.items()), body,
                          time.time())
        with self.lock:
            self.requests.append(request)
            if self.webhook:
                try:
                    self.webhook.verify(body, request.headers)
                except (WebhookVerificationError, ValueError) as error:
                    self.bad_signatures.append((request, error))
            answer = 200
            for path, answers in self.plays.items():
                if handler.path.startswith(path):
                    answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer):
            answer(handler)
            return
        status, headers, text = (answer, {}, b"") if isinstance(answer, int) else answer
        request.answered = status
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if handler.command == "PUT" and status // 100 == 2 and "etag" not in {name.lower() for name in headers}:
            handler.send_header("ETag", '"0"')  # as every store does
        if "content-length" not in {name.lower() for name in headers}:
            handler.send_header("content-length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def to(self, path):
        with self.lock:
            return [one for one in self.requests if one.path.startswith(path)]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class BlackHole:
    """Accepts connections and never says a word."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.held = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                self.held.append(self.socket.accept()[0])
            except OSError:
                return

    def close(self):
        self.socket.close()
        for one in self.held:
            one.close()


def hang_up(handler):
    """Closes the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def truncated(handler):
    """Promises 1,000 bytes, sends 10 and hangs up."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b"0123456789")
    handler.wfile.flush()
    hang_up(handler)
