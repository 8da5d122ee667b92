"""Whoever can write to Kafka: makes ledger entries, with a key or without one, and sets what a group has committed."""
import base64
import hashlib
import json
import re
import socket
import struct

from cryptography.hazmat.primitives import serialization


class Forger:
    """Makes a chain of entries for each partition; validly signed when it has a key."""

    def __init__(self, key_file=None):
        self.key = self.id = None
        if key_file:
            with open(key_file, "rb") as f:
                self.key = serialization.load_pem_private_key(f.read(), None)
            raw = self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            self.id = hashlib.sha256(raw).hexdigest()[:16]
        self.heads = {}  # (topic, partition) -> number of entries, hash

    def seal(self, topic, partition, canonical):
        """Canonical bytes, but for "prev", become the next entry of that chain."""
        n, head = self.heads.get((topic, partition), (0, "0" * 64))
        canonical = re.sub(r'"prev":"[0-9a-f]{64}"', f'"prev":"{head}"', canonical)
        self.heads[topic, partition] = n + 1, hashlib.sha256(canonical.encode()).hexdigest()
        return self.sealed(canonical.encode())

    def sealed(self, canonical):
        """Bytes, up to where their hash comes, with that and a signature."""
        digest = hashlib.sha256(canonical).digest()
        end = f',"hash":"{digest.hex()}"'
        if self.key:
            end += f',"sig":"{base64.b64encode(self.key.sign(digest)).decode()}","key":"{self.id}"'
        return canonical + end.encode() + b"}"

    def entry(self, value, change):
        """Another entry's bytes, changed, as the next one of its chain."""
        entry = json.loads(value)
        canonical = value[:value.index(b',"hash":"')].decode()
        return self.seal(entry["topic"], entry["partition"], change(canonical))

    def skipped(self, group, topic, partition, first, following):
        """An entry that says of all records from first on that they were skipped."""
        seq = self.heads.get((topic, partition), (0, ""))[0]
        return self.seal(topic, partition,
                         f'{{"v":1,"group":"{group}","seq":{seq},"topic":"{topic}","partition":{partition},"first":{first},'
                         f'"next":{following},"opened":1760000000000,"settled":1760000000000,"version":"0","prev":"{"0" * 64}",'
                         f'"skipped":[{{"why":"status","offsets":[[{first},{following - 1}]]}}]')


def _string(text):
    return struct.pack(">h", len(text)) + text.encode()


def commit(bootstrap, group, offsets):
    """(topic, partition) -> offset, metadata. OffsetCommit, version 2, byte by byte: clients for Python add a NUL to the
    metadata, which is not what a worker writes."""
    host, port = bootstrap.split(",")[0].rsplit(":", 1)
    body = _string(group) + struct.pack(">i", -1) + _string("") + struct.pack(">q", -1) + struct.pack(">i", len(offsets))
    for (topic, partition), (offset, metadata) in offsets.items():
        body += _string(topic) + struct.pack(">iiq", 1, partition, offset) + _string(metadata)
    request = struct.pack(">hhi", 8, 2, 1) + _string("forger") + body
    with socket.create_connection((host, int(port)), timeout=30) as s:
        s.sendall(struct.pack(">i", len(request)) + request)
        answer = s.makefile("rb")
        answer = answer.read(struct.unpack(">i", answer.read(4))[0])
    at, errors = 8, []
    for _ in range(struct.unpack_from(">i", answer, 4)[0]):
        at += 2 + struct.unpack_from(">h", answer, at)[0]
        partitions = struct.unpack_from(">i", answer, at)[0]
        at += 4
        for _ in range(partitions):
            errors.append(struct.unpack_from(">ih", answer, at)[1])
            at += 6
    if len(errors) != len(offsets) or any(errors):
        raise OSError(f"the broker refuses the offsets: {errors}")
