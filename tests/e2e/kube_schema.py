"""YAML documents on standard input -> the same as a JSON list, after each was held against the API schemas of the Kubernetes
versions named. Runs in the Python of scripts/deps --kubernetes. usage: kube_schema.py VERSION... < documents"""
import json
import sys

import kubernetes_validate
import yaml


class OneOfEach(yaml.SafeLoader):
    """A key that stands twice in a map is an error, not the last of them."""


def mapping(loader, node):
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if len(keys) != len(set(map(str, keys))):
        raise yaml.YAMLError(f"a key stands twice: {sorted(map(str, keys))}{node.start_mark}")
    return loader.construct_mapping(node, deep=True)


OneOfEach.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)

documents = [one for one in yaml.load_all(sys.stdin, OneOfEach) if one is not None]
# Not Kubernetes' own: tests/e2e/test_kubernetes.py says what has to be in them.
CUSTOM = ("keda.sh/", "monitoring.coreos.com/")
for one in documents:
    if one.get("apiVersion", "").startswith(CUSTOM):
        continue
    for version in sys.argv[1:]:
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            where = ".".join(map(str, getattr(error, "absolute_path", ())))
            sys.exit(f"{one.get('kind')} in Kubernetes {version}: {where}: {error.message}")
json.dump(documents, sys.stdout)
