"""Which broker coordinates a group or a transaction, by what Kafka's own topics say: it leads the partition of __consumer_offsets
that the hash of the group's name falls on, or the one of __transaction_state that holds the transactional id."""
from confluent_kafka.admin import AdminClient

import checker

GROUPS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"


def java_hash(text):
    """String.hashCode, its absolute value."""
    units, value = text.encode("utf-16-be"), 0
    for at in range(0, len(units), 2):
        value = (31 * value + int.from_bytes(units[at:at + 2], "big")) & 0xffffffff
    return abs(value - (1 << 32) if value >> 31 else value)


def of_group(bootstrap, group):
    """The node's number; -1 while there is none."""
    partitions = leaders(bootstrap, GROUPS)
    return partitions[java_hash(group) % len(partitions)] if partitions else -1


def of_transaction(bootstrap, group):
    """The coordinator of the transaction that the group's workers began last; -1 when there is none."""
    newest = (0, None)
    for message in checker.read(bootstrap, TRANSACTIONS):
        # Two bytes of version, two of length, and the transactional id, which begins with the group's name.
        if message.key()[4:].startswith(f"{group}/".encode()):
            newest = max(newest, (message.timestamp()[1], message.partition()))
    return leaders(bootstrap, TRANSACTIONS).get(newest[1], -1)


def leaders(bootstrap, topic):
    """{partition: node}"""
    about = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2}).list_topics(topic, timeout=10).topics[topic]
    return {number: partition.leader for number, partition in about.partitions.items()}
