"""The Helm chart: rendered by helm, held against Kubernetes' own schemas of several versions, and what it says against the
program: its configuration is accepted, its probes are answered, its network policy is the egress guard's table."""
import ipaddress
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import unittest
import urllib.error
from pathlib import Path

import events
import rig
from receiver import Receiver

ROOT = Path(__file__).parents[2]
CHART = ROOT / "config/kubernetes/runsink"
PYTHON = rig.CACHE / "venv-kubernetes/bin/python"
HELM = shutil.which("helm", path=f"{rig.CACHE / 'bin'}:{os.environ['PATH']}")
VERSIONS = ("1.27", "1.30", "1.34", "1.37")
SECRETS = "/run/secrets/runsink/"

# As little as has to be said, and nearly all that can be.
PLAIN = {"config": {"topics": "jobruns", "kafka.bootstrap.servers": "kafka:9092"}}
FULL = {
    "config": {
        "topics": ["jobruns", "other.runs"], "group": "archive", "lanes": 2, "archive": "batch", "batch.records": 2000000,
        "drain.timeout": "2m", "memory.budget": "1GiB", "redact.payload": True,
        "kafka.bootstrap.servers": "kafka-1:9093,kafka-2:9094", "kafka.security.protocol": "SASL_SSL",
        "kafka.sasl.mechanism": "PLAIN", "kafka.sasl.username": "runsink",
        "egress.allow": "10.20.0.0/16, fd00:1::1", "egress.deny": "198.41.0.0/24,2a00:1::/32",
        "egress.ports": "443,8000-9000", "file.root": "/archive",
    },
    "secrets": {"kafka.sasl.password": {"secret": "runsink-kafka", "key": "password"},
                "webhook.signing_secrets": {"secret": "runsink-webhook", "key": "signing"}},
    "files": {"kafka.ssl.ca.location": {"configMap": "kafka-ca", "key": "ca.crt"},
              "ledger.key": {"secret": "runsink-ledger", "key": "ledger.pem"}},
    "slotPrefix": "eu1-", "replicas": 3, "imagePullSecrets": [{"name": "pull"}], "priorityClassName": "high",
    "image": {"repository": "registry.example/runsink", "digest": "sha256:" + "0" * 64},
    "seccompProfile": {"type": "Localhost", "localhostProfile": "runsink.json"},
    "resources": {"limits": {"cpu": "2"}},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/runsink"}},
    "commonLabels": {"cost": "7"}, "commonAnnotations": {"owner": "data"}, "annotations": {"reload": "true"},
    "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/ca/ca.pem"},
                 {"name": "RUNSINK_KAFKA_CLIENT_RACK", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['zone']"}}}],
    "envFrom": [{"configMapRef": {"name": "proxy", "optional": True}}],
    "dnsPolicy": "ClusterFirst", "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
    "podSecurityContext": {"fsGroupChangePolicy": "Always", "supplementalGroups": [4000]},
    "initContainers": [{"name": "wait", "image": "busybox:1", "command": ["true"]}],
    "sidecars": [{"name": "tail", "image": "busybox:1", "command": ["sleep", "inf"]}],
    "podAnnotations": {"a": "b"}, "podLabels": {"team": "archive"}, "nodeSelector": {"a": "b"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "volumes": [{"name": "archive", "persistentVolumeClaim": {"claimName": "archive"}}],
    "volumeMounts": [{"name": "archive", "mountPath": "/archive"}],
    "networkPolicy": {"kafka": {"to": [{"podSelector": {"matchLabels": {"app": "kafka"}}}]}, "except": ["198.41.1.0/24"],
                      "extraEgress": [{"ports": [{"port": 4317, "protocol": "TCP"}]}]},
    "keda": {"enabled": True, "metadata": {"sasl": "plaintext", "tls": "enable"}, "authenticationRef": {"name": "kafka"}},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}, "prometheusRule": {"enabled": True},
    "grafanaDashboard": {"enabled": True},
}


def merged(values, more):
    out = dict(values)
    for name, value in more.items():
        out[name] = merged(out[name], value) if isinstance(value, dict) and isinstance(out.get(name), dict) else value
    return out


@unittest.skipUnless(HELM and PYTHON.exists(), "helm or Kubernetes' schemas are not there: run scripts/deps --kubernetes")
class Chart(unittest.TestCase):
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp(prefix="runsink-kubernetes-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir, ignore_errors=True)
        cls.environment = {**os.environ, **{f"HELM_{name}_HOME": str(cls.dir) for name in ("CACHE", "CONFIG", "DATA")}}

    def setUp(self):
        print(f"{self.id().partition('.')[2]}: {(self._testMethodDoc or '').strip()}", flush=True)

    # ---- rendering ----

    def helm(self, *arguments, values):
        file = self.dir / "values.json"
        file.write_text(json.dumps(values))
        return subprocess.run([HELM, *arguments, "--kube-version", VERSIONS[-1], "--values", file], env=self.environment,
                              capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)

    def render(self, values, versions=(), release="rs"):
        """Kind -> document, the dashboard's ConfigMap as "Dashboard"."""
        done = self.helm("template", release, CHART, "--namespace", "prod", values=values)
        self.assertEqual(0, done.returncode, done.stderr)
        checked = subprocess.run([PYTHON, "-B", Path(__file__).parent / "kube_schema.py", *versions], input=done.stdout,
                                 capture_output=True, text=True, timeout=300)
        self.assertEqual(0, checked.returncode, checked.stderr)
        found = {}
        for one in json.loads(checked.stdout):
            kind = "Dashboard" if one["metadata"]["name"].endswith("-dashboard") else one["kind"]
            self.assertNotIn(kind, found)
            found[kind] = one
        return found

    def refused(self, phrase, more):
        done = self.helm("template", "rs", CHART, values=merged(PLAIN, more))
        self.assertNotEqual(0, done.returncode, f"rendered although: {phrase}")
        self.assertIn(phrase, done.stderr)

    @staticmethod
    def container(found):
        pod = found["StatefulSet"]["spec"]["template"]["spec"]
        return pod["containers"][0]

    def configuration(self, found, **files):
        """What `runsink check` makes of the rendered file, its secrets' folder being one of ours: name -> value."""
        folder = self.dir / "secrets"
        folder.mkdir(exist_ok=True)
        text = found["ConfigMap"]["data"]["runsink.ini"].replace(SECRETS, f"{folder}/")
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_bytes(content)
        path = self.dir / "runsink.ini"
        path.write_text(text)
        done = rig.runsink("check", "--config-only", "--json", "--config", str(path))
        said = json.loads(done.stdout)
        self.assertEqual((0, ""), (done.returncode, said["problems"]), text)
        return {name: one["value"] for name, one in said["config"].items() if one["origin"].startswith(str(path))}

    # ---- the tests ----

    def test_schemas(self):
        """helm lint finds nothing, and Kubernetes knows every field, from the oldest version to the newest"""
        for values, kinds in ((PLAIN, set()), (FULL, {"ScaledObject", "PodMonitor", "PrometheusRule", "Dashboard"}),
                              (merged(FULL, {"podMonitor": {"enabled": False}, "serviceMonitor": {"enabled": True}}),
                               {"ScaledObject", "ServiceMonitor", "PrometheusRule", "Dashboard"})):
            done = self.helm("lint", "--strict", CHART, values=values)
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)
            found = self.render(values, VERSIONS)
            self.assertEqual(kinds | {"StatefulSet", "ConfigMap", "Service", "ServiceAccount",
                                      "PodDisruptionBudget", "NetworkPolicy"}, set(found))

    def test_selectors(self):
        """every selector matches the pods, every name and port leads somewhere"""
        found = self.render(FULL, release="another")
        template = found["StatefulSet"]["spec"]["template"]
        labels = template["metadata"]["labels"]
        selectors = [found["StatefulSet"]["spec"]["selector"]["matchLabels"], found["Service"]["spec"]["selector"],
                     found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
                     found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
                     found["PodMonitor"]["spec"]["selector"]["matchLabels"]]
        for selector in selectors:
            self.assertLessEqual(selector.items(), labels.items())
            # No more than this: what changes with a version would leave the old pods behind, or can't be changed at all.
            self.assertEqual({"app.kubernetes.io/name": "runsink", "app.kubernetes.io/instance": "another"}, selector)
        ports = {port["name"]: port["containerPort"] for port in self.container(found)["ports"]}
        self.assertEqual({"admin": 9464}, ports)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertIn(self.container(found)[probe]["httpGet"]["port"], ports)
        self.assertIn(found["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"], ports)
        self.assertEqual("admin", found["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"])
        name = found["StatefulSet"]["metadata"]["name"]
        self.assertEqual(name, found["Service"]["metadata"]["name"])
        self.assertEqual(name, found["StatefulSet"]["spec"]["serviceName"])
        self.assertEqual(("StatefulSet", name), tuple(found["ScaledObject"]["spec"]["scaleTargetRef"][k] for k in ("kind", "name")))
        self.assertNotIn("replicas", found["StatefulSet"]["spec"], "KEDA's number would be reset by each deploy")
        mounts = {one["name"] for one in self.container(found)["volumeMounts"]}
        self.assertEqual(mounts, {one["name"] for one in template["spec"]["volumes"]})

    def test_restricted(self):
        """what Kubernetes' pod security standard "restricted" asks for, and a root that nobody can write to"""
        for values in (PLAIN, FULL):
            found = self.render(values)
            pod = found["StatefulSet"]["spec"]["template"]["spec"]
            own = self.container(found)["securityContext"]
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            self.assertGreater(pod["securityContext"]["runAsUser"], 0)
            self.assertIn(pod["securityContext"]["seccompProfile"]["type"], ("RuntimeDefault", "Localhost"))
            self.assertEqual({"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                              "capabilities": {"drop": ["ALL"]}}, own)
            self.assertFalse(pod["automountServiceAccountToken"])
            self.assertEqual([], [k for k in pod if k.startswith("host")])
            # What the image is built for.
            image = (ROOT / "Dockerfile").read_text()
            self.assertIn(f"\nUSER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}\n", image)
            self.assertIn('ENTRYPOINT ["/usr/bin/runsink"]', image)
            self.assertEqual("run", self.container(found)["args"][0])

    def test_configuration(self):
        """runsink accepts what the ConfigMap holds, and reads from it what the values say"""
        pem = self.dir / "ledger.pem"
        self.assertEqual(0, rig.runsink("keygen", str(pem)).returncode)
        ca = b"".join(p.read_bytes() for p in (Path("/etc/ssl/certs/ca-certificates.crt"),) if p.exists())
        got = self.configuration(self.render(FULL), kafka__sasl__password=b"secret", webhook__signing_secrets=b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                                 ledger__key=pem.read_bytes(), kafka__ssl__ca__location=ca)
        want = {"topics": "jobruns,other.runs", "lanes": "2", "batch.records": "2000000", "drain.timeout": "2m",
                "memory.budget": "1GiB", "redact.payload": "true", "egress.allow": "10.20.0.0/16, fd00:1::1",
                "kafka.bootstrap.servers": "kafka-1:9093,kafka-2:9094", "admin.listen": "0.0.0.0:9464", "log.format": "json"}
        self.assertEqual(want, {name: got.get(name) for name in want})
        self.assertNotIn("secret", got["kafka.sasl.password"])

    def test_every_key(self):
        """every key of the reference can stand in the values, at its default; a secret one can't"""
        table = rig.runsink("check", "--reference").stdout.decode()
        rows = [re.split(r" *(?<!\\)\| *", line)[1:5] for line in table.splitlines() if line.startswith("| `")]
        keys = {name.strip("`"): (default.strip("`"), takes, meaning) for name, default, takes, meaning in rows}
        self.assertGreater(len(keys), 60)
        secret = {name for name, row in keys.items() if re.search(r"\bSecret\.", row[2])}
        self.assertIn("webhook.signing_secrets", secret)
        config = {}
        for name, (default, takes, _) in keys.items():
            if name not in secret | {"slot", "topics", "admin.listen"} and default:
                config[name] = int(default) if default.isdigit() else default == "true" if takes == "true, false" else default
        got = self.configuration(self.render(merged(PLAIN, {"config": config})))
        self.assertEqual({name: keys[name][0] for name in config}, {name: got.get(name) for name in config})
        for name in sorted(secret) + ["kafka.sasl.password", "kafka.ssl.key.password", "kafka.ssl.key.pem",
                                      "kafka.sasl.oauthbearer.client.secret", "kafka.sasl.oauthbearer.config"]:
            self.refused("is a secret", {"config": {name: "x"}})

    def test_whole(self):
        """the chart is whole by itself: copied away it renders the same, and no link leads out of it"""
        self.assertEqual([], [path for path in CHART.rglob("*") if path.is_symlink()])
        copy = self.dir / "copy/runsink"
        shutil.copytree(CHART, copy, symlinks=True)
        self.assertEqual(*(self.helm("template", "rs", chart, values=FULL).stdout for chart in (CHART, copy)))

    def test_schema(self):
        """a wrong key or value of the configuration is refused by helm as runsink would; what is at a key's bounds is not"""
        known = json.loads(rig.runsink("check", "--reference-schema").stdout)["properties"]
        bounded = {name: one["x-takes"].split(" to ") for name, one in known.items() if "x-takes" in one}
        self.assertGreater(len(bounded), 40)
        for place in (0, 1):
            config = {name: takes[place] for name, takes in bounded.items()}
            rendered = self.render(merged(PLAIN, {"config": config}))["ConfigMap"]["data"]["runsink.ini"]
            self.assertLessEqual({f"{name} = {value}" for name, value in config.items()}, set(rendered.splitlines()))
        for name, one in known.items():
            if "enum" in one:
                self.refused("value must be one of", {"config": {name: "other"}})
        for phrase, name, value in (
                ("additional properties 'windw.age'", "windw.age", "5s"), ("additional properties 'kafka'", "kafka", "x"),
                ("out of bounds: 10ms to 1h", "window.age", "9ms"), ("out of bounds: 10ms to 1h", "window.age", "61m"),
                ("out of bounds: 10ms to 1h", "window.age", "0s"), ("out of bounds: 10ms to 1h", "window.age", "9" * 30 + "d"),
                ("is not a time such as 25s", "window.age", "5"), ("is not a time such as 25s", "window.age", "5 s"),
                ("got number", "window.age", 5), ("is not a size such as", "batch.bytes", "1MB"),
                ("out of bounds: 16MiB to 1TiB", "memory.budget", "1MiB"), ("out of bounds: 16MiB to 1TiB", "memory.budget", "2TiB"),
                ("minimum: got 5", "memory.budget", 5), ("maximum: got 65", "lanes", 65), ("out of bounds: 1 to 64", "lanes", "65"),
                ("is not a number such as", "lanes", "0x2"), ("got number, want", "lanes", 1.5), ("is not a number", "lanes", ""),
                ("out of bounds: -1 to 100", "topics.replication", "-2"), ("does not match pattern", "egress.ports", ["80,81"]),
                ("got array", "group", ["a"]), ("minLength", "group", ""), ("got object", "statuses", {"a": 1})):
            self.refused(phrase, {"config": {name: value}})
            if isinstance(value, str) and not name.startswith("kafka"):  # the program agrees
                done = rig.runsink("check", "--config-only", "--set", "topics=a", "--set", "kafka.bootstrap.servers=b",
                                   "--set", f"{name}={value}")
                self.assertEqual(78, done.returncode, f"{name} = {value}")
        self.refused("group is no key that can be read from a Secret", {"secrets": {"group": {"secret": "a", "key": "b"}}})
        self.refused("has no key leger.key", {"files": {"leger.key": {"secret": "a", "key": "b"}}})
        self.refused("is a secret, not the path", {"files": {"kafka.sasl.password": {"secret": "a", "key": "b"}}})
        ini = self.render(merged(PLAIN, {"config": {"group": 1.5}}))["ConfigMap"]["data"]["runsink.ini"]
        self.assertIn("group = 1.5\n", ini + "\n")

    def test_readme(self):
        """the values that the page shows are enough, and the binary accepts what comes of them"""
        text = (CHART.parent / "README.md").read_text()
        shown, = re.findall(r"^    cat > values.yaml <<'E'\n((?:    .*\n)+?)    E$", text, re.M)
        read = subprocess.run([PYTHON, "-c", "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"],
                              input=re.sub(r"^    ", "", shown, flags=re.M), text=True, capture_output=True, check=True)
        values = json.loads(read.stdout)
        got = self.configuration(self.render(values, VERSIONS), kafka__sasl__password=b"secret")
        self.assertEqual(values["config"]["topics"], got["topics"])
        command, = re.findall(r"^    helm upgrade --install \w+ (\S+) ", text, re.M)
        self.assertEqual(CHART, ROOT / command)

    def test_refusals(self):
        """what could not work is refused before it is deployed"""
        self.refused("topics has to be set", {"config": {"topics": ""}})
        self.refused("kafka.bootstrap.servers has to be set", {"config": {"kafka.bootstrap.servers": None}})
        self.refused("slot comes from the pod's name", {"config": {"slot": "a"}})
        self.refused("admin.listen", {"config": {"admin.listen": "127.0.0.1:9464"}})
        self.refused("admin.listen", {"config": {"admin.listen": ""}})
        self.refused("line break", {"config": {"group": "a\ntopics = b"}})
        self.refused("in config and in secrets", {"config": {"kafka.x": "1"}, "secrets": {"kafka.x": {"secret": "a", "key": "b"}}})
        self.refused("killed while it drains", {"terminationGracePeriodSeconds": 25})
        self.refused("is not a time", {"config": {"drain.timeout": "25"}})
        self.refused("is not a size", {"config": {"memory.budget": "1GB"}})
        self.refused("needs keda.triggers", {"config": {"topics": "^jobs"}, "keda": {"enabled": True}})
        self.refused("networkPolicy.proxy", {"secrets": {"egress.proxy": {"secret": "a", "key": "b"}}})
        self.refused("additional", {"replica": 3})
        self.refused("additional", {"networkPolicy": {"kafka": {"port": 1}}})

    def test_grace_and_memory(self):
        """SIGKILL comes after the drain, and the limit leaves room above the budget, whatever their units"""
        for text, seconds in (("500ms", 1), ("25s", 25), ("08s", 8), ("3m", 180), ("1h", 3600)):
            pod = self.render(merged(PLAIN, {"config": {"drain.timeout": text}}))["StatefulSet"]["spec"]["template"]["spec"]
            self.assertEqual(seconds + 30, pod["terminationGracePeriodSeconds"])
        for text, mib in (("268435456", 256), ("65536KiB", 64), ("64MiB", 64), ("2GiB", 2048), ("1TiB", 1 << 20)):
            resources = self.container(self.render(merged(PLAIN, {"config": {"memory.budget": text}})))["resources"]
            self.assertEqual(f"{mib * 5 // 4 + 96}Mi", resources["limits"]["memory"])
            self.assertEqual(resources["limits"]["memory"], resources["requests"]["memory"])
        self.assertEqual("2", self.container(self.render(FULL))["resources"]["limits"]["cpu"])

    def test_slot(self):
        """the slot is the pod's name, and the longest there can be fits"""
        found = self.render(merged(PLAIN, {"slotPrefix": "p" * 40}), release="r" * 53)
        env = {one["name"]: one for one in self.container(found)["env"]}
        self.assertEqual("metadata.name", env["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"])
        self.assertLess(list(env).index("POD_NAME"), list(env).index("RUNSINK_SLOT"), "it would not be expanded")
        name = found["StatefulSet"]["metadata"]["name"]
        self.assertLessEqual(len(name), 52, "the label controller-revision-hash would be too long")
        slot = env["RUNSINK_SLOT"]["value"].replace("$(POD_NAME)", f"{name}-999")
        done = rig.runsink("check", "--config-only", "--set", "topics=a", "--set", "kafka.bootstrap.servers=b", env={"RUNSINK_SLOT": slot})
        self.assertEqual(0, done.returncode, done.stderr)

    def test_egress(self):
        """the network lets through what the egress guard does: the guard's own tables, ports and lists"""
        source = (ROOT / "sinks/egress.c").read_text()
        guard = [ipaddress.ip_network((int(net, 16), int(bits))) for net, bits in re.findall(r"\{(0x[0-9a-f]{8}), (\d+), ", source)]
        self.assertGreater(len(guard), 15)

        def rules(values):
            policy = self.render(values)["NetworkPolicy"]["spec"]
            self.assertEqual(["Ingress", "Egress"], policy["policyTypes"])
            rule = next(r for r in policy["egress"] if any("ipBlock" in to for to in r.get("to", ())))
            blocks = [to["ipBlock"] for to in rule["to"]]
            for block in blocks:
                for inner in block.get("except", ()):
                    self.assertTrue(ipaddress.ip_network(inner).subnet_of(ipaddress.ip_network(block["cidr"])), inner)
            return policy, blocks, [(p["port"], p.get("endPort")) for p in rule["ports"]]

        policy, blocks, ports = rules(PLAIN)
        self.assertEqual(["0.0.0.0/0", "2000::/3"], [block["cidr"] for block in blocks])
        self.assertEqual(set(map(str, guard)), set(blocks[0]["except"]))
        six = self.six(source)
        self.assertGreater(len(six), 3)
        for network in six:
            self.assertTrue(any(network.subnet_of(ipaddress.ip_network(e)) for e in blocks[1]["except"]), network)
        self.assertEqual([(80, None), (443, None), (1024, 65535)], ports)
        self.assertEqual([9092], [p["port"] for p in policy["egress"][1]["ports"]])

        policy, blocks, ports = rules(FULL)
        self.assertEqual([(443, None), (8000, 9000)], ports)
        self.assertEqual(["10.20.0.0/16", "fd00:1::1/128"], [block["cidr"] for block in blocks[2:]])
        self.assertEqual(["198.41.0.0/24", "198.41.1.0/24"], blocks[0]["except"][len(guard):])
        self.assertIn("2a00:1::/32", blocks[1]["except"])
        self.assertEqual([9093, 9094], [p["port"] for p in policy["egress"][1]["ports"]])

        proxied = merged(PLAIN, {"secrets": {"egress.proxy": {"secret": "a", "key": "b"}},
                                 "networkPolicy": {"proxy": {"to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}], "ports": [3128]}}})
        _, blocks, ports = rules(proxied)
        self.assertEqual((["10.0.0.9/32"], [(3128, None)]), ([b["cidr"] for b in blocks], ports))
        closed = self.render(merged(PLAIN, {"networkPolicy": {"monitoring": []}}))
        self.assertEqual([], closed["NetworkPolicy"]["spec"]["ingress"])

    def test_brokers(self):
        """the brokers' ports are open to the brokers alone: by their names, or as the values say; never to every address"""
        def peers(servers, **kafka):
            values = merged(PLAIN, {"config": {"kafka.bootstrap.servers": servers}, "networkPolicy": {"kafka": kafka}})
            rules = self.render(values, VERSIONS)["NetworkPolicy"]["spec"]["egress"]
            for rule in rules:
                self.assertTrue(rule.get("to"), rule)
            return rules[1]["to"]

        def namespace(name):
            return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}

        self.assertEqual([{"podSelector": {}}], peers("kafka-1:9092,kafka-2:9092"))
        self.assertEqual([namespace("data"), namespace("other")],
                         peers("kafka.data.svc:9092, k-0.kafka.data.svc.cluster.local:9092,SASL_SSL://k.other.svc.cluster.local.:9093"))
        self.assertEqual([{"ipBlock": {"cidr": "10.1.2.3/32"}}, {"ipBlock": {"cidr": "fd00::1/128"}}], peers("10.1.2.3:9092,[fd00::1]:9092"))
        mine = [{"ipBlock": {"cidr": "10.9.0.0/16"}}]
        self.assertEqual(mine, peers("b-1.msk.example:9094", to=mine))
        for name in ("b-1.msk.example:9094", "kafka.data:9092", "kafka-1:9092,broker.example", "svc:9092,a.svc:9092"):
            self.refused("networkPolicy.kafka.to", {"config": {"kafka.bootstrap.servers": name}})
        off = self.render(merged(PLAIN, {"config": {"kafka.bootstrap.servers": "b.example:1"}, "networkPolicy": {"enabled": False}}))
        self.assertNotIn("NetworkPolicy", off)

    def test_prometheus(self):
        """the admin port is open to Prometheus' namespace, to the peers that are listed instead, or to nobody"""
        def ingress(**policy):
            return self.render(merged(PLAIN, {"networkPolicy": policy}))["NetworkPolicy"]["spec"]["ingress"]

        def namespace(name):
            return [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}]

        peers = [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
        self.assertEqual([namespace("monitoring")], [rule["from"] for rule in ingress()])
        self.assertEqual([namespace("observability")], [rule["from"] for rule in ingress(prometheusNamespace="observability")])
        self.assertEqual([peers], [rule["from"] for rule in ingress(monitoring=peers, prometheusNamespace="observability")])
        self.assertEqual([], ingress(prometheusNamespace=""))
        self.assertEqual([], ingress(monitoring=[]))

    def test_surroundings(self):
        """labels, annotations, account, variables, DNS, contexts and containers of an installation's own, and none that would break it"""
        found = self.render(FULL)
        template = found["StatefulSet"]["spec"]["template"]
        pod = template["spec"]
        for one in [*found.values(), template]:
            self.assertEqual(("7", "runsink"), tuple(one["metadata"]["labels"][n] for n in ("cost", "app.kubernetes.io/name")))
            self.assertEqual("data", one["metadata"]["annotations"]["owner"])
        self.assertEqual("true", found["StatefulSet"]["metadata"]["annotations"]["reload"])
        self.assertEqual("b", template["metadata"]["annotations"]["a"])
        self.assertRegex(template["metadata"]["annotations"]["checksum/config"], "^[0-9a-f]{64}$")
        account = found["ServiceAccount"]
        self.assertEqual((account["metadata"]["name"], FULL["serviceAccount"]["annotations"]["eks.amazonaws.com/role-arn"]),
                         (pod["serviceAccountName"], account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]))
        self.assertFalse(account["automountServiceAccountToken"])
        for given, name in (({"create": False}, "default"), ({"create": False, "name": "mine"}, "mine")):
            other = self.render(merged(PLAIN, {"serviceAccount": given}))
            self.assertNotIn("ServiceAccount", other)
            self.assertEqual(name, other["StatefulSet"]["spec"]["template"]["spec"]["serviceAccountName"])
        env = self.container(found)["env"]
        self.assertEqual(FULL["extraEnv"], env[-2:])
        self.assertEqual(FULL["envFrom"], self.container(found)["envFrom"])
        self.assertEqual((FULL["dnsPolicy"], FULL["dnsConfig"], FULL["initContainers"], FULL["sidecars"]),
                         (pod["dnsPolicy"], pod["dnsConfig"], pod["initContainers"], pod["containers"][1:]))
        self.assertEqual((True, 65532, "Always", [4000], "Localhost"),
                         (*(pod["securityContext"][n] for n in ("runAsNonRoot", "fsGroup", "fsGroupChangePolicy", "supplementalGroups")),
                          pod["securityContext"]["seccompProfile"]["type"]))
        own = self.container(self.render(merged(PLAIN, {"securityContext": {"runAsUser": 7}})))["securityContext"]
        self.assertEqual((7, False, ["ALL"]), (own["runAsUser"], own["allowPrivilegeEscalation"], own["capabilities"]["drop"]))
        for name in ("commonLabels", "podLabels"):
            self.refused("is the chart's own", {name: {"app.kubernetes.io/name": "x"}})
        self.refused("got number, want string", {"commonLabels": {"cost": 7}})
        self.refused("missing property 'name'", {"sidecars": [{"image": "a"}]})
        for one in ({"name": "RUNSINK_SLOT", "valueFrom": {}}, {"name": "POD_NAME", "value": "a"}, {"name": "RUNSINK_LANES", "value": "2"}):
            self.refused("extraEnv", {"extraEnv": [one]})

    def test_values_described(self):
        """the chart's README has a row for each value, and its example works"""
        text = (CHART / "README.md").read_text()
        values = set(re.findall(r"^([a-zA-Z]+):", (CHART / "values.yaml").read_text(), re.M))
        rows = re.findall(r"^\| (`.*`) \| .+ \|$", text, re.M)
        self.assertEqual(sorted(values), sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)))
        schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
        self.assertEqual(values, set(schema) - {"global"})
        shown = re.search(r"^    image:(?:.*\n    )+.*$", text, re.M)[0]
        self.assertIn(shown + "\n    E\n", (CHART.parent / "README.md").read_text())

    def test_admin_hosts(self):
        """the admin port may be asked by the names that the chart gives it, or by those that the values list"""
        def hosts(values):
            return next((one["value"] for one in self.container(self.render(values))["env"] if one["name"] == "RUNSINK_ADMIN_HOSTS"), None)

        names = hosts(PLAIN).split(",")
        for name in ("rs-runsink", "*.rs-runsink", "rs-runsink.prod.svc", "*.rs-runsink.prod.svc.cluster.local"):
            self.assertIn(name, names)
        done = rig.runsink("check", "--config-only", "--set", "topics=a", "--set", "kafka.bootstrap.servers=b",
                           env={"RUNSINK_ADMIN_HOSTS": ",".join(names)})
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIsNone(hosts(merged(PLAIN, {"config": {"admin.hosts": "status.example"}})))

    @staticmethod
    def six(source):
        """The guard's IPv6 table, of what lies in 2000::/3."""
        found = []
        table = source[source.index("blocks6[] = {"):]
        for octets, bits in re.findall(r"\{\{((?:0x[0-9a-f]{2}(?:, )?)+)\}, (\d+), ", table[:table.index("};")]):
            packed = bytes(int(o, 16) for o in octets.split(", ")).ljust(16, b"\0")
            network = ipaddress.ip_network((packed, int(bits)))
            if network.subnet_of(ipaddress.ip_network("2000::/3")):
                found.append(network)
        return found

    def test_secrets(self):
        """each secret is a file that the mounted volume really has, and none stands in the ConfigMap"""
        found = self.render(FULL)
        pod = found["StatefulSet"]["spec"]["template"]["spec"]
        volume = next(v for v in pod["volumes"] if v["name"] == "secrets")["projected"]
        self.assertEqual(0o440, volume["defaultMode"])
        files = {}
        for source in volume["sources"]:
            (kind, what), = source.items()
            for item in what["items"]:
                files[item["path"]] = (kind, what["name"], item["key"])
        want = {name: ("secret" if "secret" in of else "configMap", of.get("secret", of.get("configMap")), of["key"])
                for name, of in {**FULL["secrets"], **FULL["files"]}.items()}
        self.assertEqual(want, files)
        lines = dict(line.split(" = ", 1) for line in found["ConfigMap"]["data"]["runsink.ini"].splitlines() if " = " in line)
        for name in FULL["secrets"]:
            self.assertEqual(f"@{SECRETS}{name}", lines[name])
        for name in FULL["files"]:
            self.assertEqual(SECRETS + name, lines[name])
        # A configuration that changed rolls the pods.
        other = self.render(merged(FULL, {"config": {"group": "other"}}))
        sums = {one["StatefulSet"]["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for one in (found, other)}
        self.assertEqual(2, len(sums))

    def test_observing(self):
        """alerts and dashboard are those of config/, and the alerts find the job that the PodMonitor makes"""
        found = self.render(FULL, release="other-name")
        rules = found["PrometheusRule"]["spec"]
        again = subprocess.run([PYTHON, "-c", "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"],
                               input=(ROOT / "config/prometheus/alerts.yml").read_bytes(), capture_output=True, check=True)
        self.assertEqual(json.loads(again.stdout), rules)
        readme = "https://wiki.example/runsink?v=1&w=2"
        moved = self.render(merged(FULL, {"prometheusRule": {"readme": readme}}))["PrometheusRule"]["spec"]
        for rule in moved["groups"][0]["rules"]:
            self.assertEqual(f"{readme}#{rule['alert'].lower()}", rule["annotations"]["runbook_url"])
        self.assertEqual(json.loads((ROOT / "config/grafana/runsink.json").read_text()),
                         json.loads(found["Dashboard"]["data"]["runsink.json"]))
        self.assertEqual("1", found["Dashboard"]["metadata"]["labels"]["grafana_dashboard"])
        relabel, = found["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["relabelings"]
        job = relabel["replacement"]
        self.assertEqual(("job", "runsink/prod/other-name"), (relabel["targetLabel"], job))
        service = self.render(merged(FULL, {"podMonitor": {"enabled": False}, "serviceMonitor": {"enabled": True, "labels": {"a": "b"}}}),
                              release="other-name")
        monitor = service["ServiceMonitor"]
        self.assertEqual(found["PodMonitor"]["spec"]["podMetricsEndpoints"], monitor["spec"]["endpoints"])
        self.assertEqual("b", monitor["metadata"]["labels"]["a"])
        self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), service["Service"]["metadata"]["labels"].items())
        self.assertIn(monitor["spec"]["endpoints"][0]["port"], [port["name"] for port in service["Service"]["spec"]["ports"]])
        self.refused("scraped twice", {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}})
        down = next(rule["expr"] for rule in rules["groups"][0]["rules"] if rule["alert"] == "RunsinkDown")
        self.assertTrue(re.fullmatch(re.search(r'job=~"([^"]+)"', down)[1], job), down)

    def test_scaling(self):
        """one trigger for each source topic, of the group that consumes"""
        triggers = self.render(FULL)["ScaledObject"]["spec"]["triggers"]
        self.assertEqual(["jobruns", "other.runs"], [t["metadata"]["topic"] for t in triggers])
        for trigger in triggers:
            data = trigger["metadata"]
            self.assertEqual(("kafka", "archive", "kafka-1:9093,kafka-2:9094", "earliest", "plaintext", {"name": "kafka"}),
                             (trigger["type"], data["consumerGroup"], data["bootstrapServers"], data["offsetResetPolicy"],
                              data["sasl"], trigger["authenticationRef"]))
            self.assertTrue(all(isinstance(value, str) for value in data.values()), "KEDA wants strings")


class Rollout(rig.Case):
    """What the chart relies on in the program: the probes' paths, and a rollout that disturbs nobody."""

    def ready(self, worker):
        try:
            return bool(worker.http("/readyz"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def test_probes(self):
        """the paths of the templates are answered with 200 by a worker that is well"""
        self.kafka.create(self.topic, 1)
        worker = self.worker()
        rig.await_("ready", 30, lambda: self.ready(worker), worker)
        paths = set()
        for template in (CHART / "templates").iterdir():
            paths |= set(re.findall(r"path: (/[a-z]+)\b(?!/)", template.read_text()))
        self.assertEqual({"/healthz", "/readyz", "/metrics"}, paths)
        for path in paths:
            worker.http(path)
        self.assertEqual(0, worker.stop(), worker.tail())

    def test_rollout(self):
        """pods replaced one by one under the same slots: no rebalance reaches the others, and all is delivered"""
        receiver = Receiver()
        self.addCleanup(receiver.close)
        self.kafka.create(self.topic, 6)
        sent = 0

        def send():
            nonlocal sent
            for partition in range(6):
                run = events.run({"type": "webhook", "url": receiver.url + "/hook"})
                self.kafka.produce(self.topic, [(b"k", events.dump(run))], partition)
            sent += 6

        def pod(number):
            settings = self.settings()
            settings["kafka"]["session.timeout.ms"] = 30000
            return self.worker(settings, env={"RUNSINK_SLOT": f"rs-runsink-{number}"})

        pods = [pod(number) for number in range(3)]
        spread = lambda: all(self.ready(p) and p.metric("runsink_partitions_assigned") for p in pods)
        rig.await_("each has a share", 60, spread, pods[0])
        send()
        self.until_settled(pods[0])
        began = time.monotonic()
        for number in (2, 1, 0):
            others = [p for p in pods if p is not pods[number]]
            before = [p.metric("runsink_rebalances_total") for p in others]
            self.assertEqual(0, pods[number].stop(), pods[number].tail())
            send()
            pods[number] = pod(number)
            rig.await_("the new pod is ready", 30, lambda: self.ready(pods[number]), pods[number])
            self.until_settled(pods[number])
            self.assertEqual(before, [p.metric("runsink_rebalances_total") for p in others], "a rebalance reached the others")
        rig.say(f"three pods replaced in {time.monotonic() - began:.1f} s")
        self.assertEqual(sent, len(receiver.requests))
        for one in pods:
            self.assertEqual(0, one.stop(), one.tail())


if __name__ == "__main__":
    rig.main()
