"""Transactions that Kafka itself has lost, its coordinator knows nothing of them, by Kafka's own tool. They end as an operator ends
them (config/OPERATIONS.md, "A hanging transaction")."""
import subprocess

TOOL = "org.apache.kafka.tools.TransactionsCommand"
LEAST_MINUTES = 1  # transactions of the workers end within one; whoever asks has waited for longer


def tool(classes, bootstrap, *arguments):
    command = ["java", "-cp", f"{classes}/*", TOOL, "--bootstrap-server", bootstrap, *map(str, arguments)]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=120).stdout


def read(said):
    """(topic, partition, start offset) of each row, of what find-hanging has said."""
    names, *rows = [line.split("\t") for line in said.splitlines() if "\t" in line]
    at = [[name.strip() for name in names].index(name) for name in ("Topic", "Partition", "StartOffset")]
    return [tuple(row[i].strip() for i in at) for row in rows]


def end_all(classes, bootstrap, brokers):
    """Those that there were."""
    found = [one for broker in range(1, brokers + 1)
             for one in read(tool(classes, bootstrap, "find-hanging", "--broker-id", broker, "--max-transaction-timeout", LEAST_MINUTES))]
    for topic, partition, start in found:
        tool(classes, bootstrap, "abort", "--topic", topic, "--partition", partition, "--start-offset", start)
    return found
