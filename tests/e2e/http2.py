"""A webhook endpoint that speaks HTTP/2 over TLS and nothing else, on the package h2."""
import datetime
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(dir):
    """For 127.0.0.1, signed by itself; returns the files of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "runsink-test-h2")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256()))
    cert_file, key_file = dir / "h2.pem", dir / "h2.key"
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
    return cert_file, key_file


@dataclass
class Stream:
    connection: int
    headers: dict
    body: bytearray = field(default_factory=bytearray)


class Http2Receiver:
    """answer(stream) is asked once a request is whole: a status, "reset" (the stream alone), or "leave" (200, then GOAWAY and
    the end of the connection, whatever else is under way on it), or what begins as 200 and does not end well: "half" (the stream
is reset within the body), "hang" (the body does not end), "drop" (the connection does). at_once is how many streams a connection may have."""

    def __init__(self, dir, answer, at_once=20):
        self.answer, self.at_once = answer, at_once
        self.requests, self.connections, self.lock = [], 0, threading.Lock()
        self.most_at_once = 0
        cert, key = certificate(dir)
        self.ca = cert
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(cert, key)
        self.context.set_alpn_protocols(["h2"])
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(plain,), daemon=True).start()

    def serve(self, plain):
        try:
            with self.context.wrap_socket(plain, server_side=True) as tls:
                if tls.selected_alpn_protocol() != "h2":
                    return
                with self.lock:
                    self.connections += 1
                    number = self.connections
                Connection(self, tls, number).run()
        except (OSError, ssl.SSLError):
            pass

    def close(self):
        self.listener.close()


class Connection:
    def __init__(self, receiver, tls, number):
        self.receiver, self.tls, self.number = receiver, tls, number
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.streams, self.leaving = {}, False

    def run(self):
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.receiver.at_once})
        self.flush()
        while not self.leaving:
            data = self.tls.recv(65536)
            if not data:
                return
            for event in self.h2.receive_data(data):
                if not self.leaving:
                    self.on(event)
            self.flush()

    def flush(self):
        self.tls.sendall(self.h2.data_to_send())

    def on(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.streams[event.stream_id] = Stream(self.number, dict(event.headers))
            self.receiver.most_at_once = max(self.receiver.most_at_once, len(self.streams))
        elif isinstance(event, h2.events.DataReceived):
            # Credit is given back piece by piece: a body beyond the first window needs it.
            self.streams[event.stream_id].body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.respond(event.stream_id, self.streams.pop(event.stream_id))
        elif isinstance(event, h2.events.StreamReset):
            self.streams.pop(event.stream_id, None)

    def respond(self, id, stream):
        with self.receiver.lock:
            answer = self.receiver.answer(stream)
            if answer in (200, "leave", "half", "hang", "drop"):
                self.receiver.requests.append(stream)
        if answer == "reset":
            self.h2.reset_stream(id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            return
        if answer in ("half", "hang", "drop"):
            self.h2.send_headers(id, [(":status", "200"), ("content-length", "20")])
            self.h2.send_data(id, b"ok")
            self.flush()
            if answer == "half":
                self.h2.reset_stream(id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            if answer == "drop":  # no reset, which could overtake what has been said
                self.tls.shutdown(socket.SHUT_WR)
                while self.tls.recv(65536):
                    pass
                raise ConnectionError("dropped")
            return
        status = 200 if answer == "leave" else answer
        self.h2.send_headers(id, [(":status", str(status)), ("content-length", "0")], end_stream=True)
        if answer == "leave":
            self.leaving = True
            self.h2.close_connection(last_stream_id=id)
