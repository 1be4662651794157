"""The files in cluster/ against the published schemas, our pinned versions, and what SECURITY.md promises."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests_support import ROOT

CLUSTER = ROOT / "cluster"
KUBERNETES = "1.33"
MANIFESTS = ("kuberay.yaml", "rayjob.yaml", "mlflow/kubernetes.yaml")
FIELDS = json.loads((ROOT / "tests/data/kuberay_fields.json").read_text())
"""Fields of KubeRay's resources: the names in the schemas of its release."""
PINNED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for name in MANIFESTS for one in documents(name) if one["kind"] == kind]


def ray_clusters() -> list[dict[str, Any]]:
    """The clusters of both files: RayCluster's own, and that of RayJob."""
    return [one["spec"] for one in of_kind("RayCluster")] + [one["spec"]["rayClusterSpec"] for one in of_kind("RayJob")]


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_rays_autoscaler_takes_them_and_every_start_has_a_token_and_sends_no_statistics(name: str) -> None:
    schema = json.loads((files("ray.autoscaler") / "ray-schema.json").read_text())
    tree = yaml.safe_load((CLUSTER / name).read_text())
    jsonschema.validate(tree, schema)
    assert tree["head_node_type"] in tree["available_node_types"]
    starts = [
        line
        for part in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in tree[part]
        if "ray start" in line
    ]
    assert len(starts) == 2
    for line in starts:
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/paretune-token RAY_USAGE_STATS_ENABLED=0" in line
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/paretune-token" in tree["file_mounts"]
    labels = [kind.get("labels", {}) for kind in tree["available_node_types"].values()]
    assert {"pool": "train"} in labels
    assert any("board" in one for one in labels)


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_takes_what_is_its_own(name: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    own = [one for one in documents(name) if not one["apiVersion"].startswith("ray.io/")]
    for one in own:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    assert own or name == "rayjob.yaml"


def test_kuberay_has_every_field_and_kubernetes_takes_every_pod() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for kind in ("RayCluster", "RayJob"):
        for one in of_kind(kind):
            assert set(one["spec"]) <= set(FIELDS[kind])
    for cluster in ray_clusters():
        assert set(cluster) <= set(FIELDS["RayCluster"])
        assert set(cluster["headGroupSpec"]) <= set(FIELDS["headGroupSpec"])
        for part in ("autoscalerOptions", "authOptions"):
            assert set(cluster[part]) <= set(FIELDS[part])
        for group in cluster["workerGroupSpecs"]:
            assert set(group) <= set(FIELDS["workerGroupSpecs"])
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        for group in groups(cluster):
            pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
            kubernetes_validate.validate({**pod, "metadata": {**pod["metadata"], "name": "x"}}, KUBERNETES, strict=True)


def test_a_kuberay_cluster_has_a_token_from_a_secret_a_closed_network_and_rays_pinned_version() -> None:
    policies = of_kind("NetworkPolicy")
    for cluster in ray_clusters():
        assert cluster["authOptions"] == {"mode": "token", "secretName": "paretune-token"}
        assert cluster["rayVersion"] == PINNED["ray"]
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        for group in groups(cluster):
            template = group["template"]
            labels = template["metadata"]["labels"].items()
            covering = [one for one in policies if one["spec"]["podSelector"]["matchLabels"].items() <= labels]
            assert covering
            assert all(rule["from"] for policy in covering for rule in policy["spec"]["ingress"])
            (node,) = template["spec"]["containers"]
            assert template["spec"]["securityContext"]["runAsNonRoot"]
            assert node["securityContext"]["allowPrivilegeEscalation"] is False
            locks = next(one["value"] for one in node["env"] if one["name"] == "PARETUNE_LOCKS")
            assert locks in {mount["mountPath"] for mount in node["volumeMounts"]}


def values(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Return names and values of a tree, also of pairs of ``name`` and ``value``."""
    if isinstance(tree, dict):
        if isinstance(tree.get("name"), str) and "value" in tree:
            yield tree["name"], tree["value"]
        for key, value in tree.items():
            yield from values(value, str(key))
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value, name)
    else:
        yield name, tree


@pytest.mark.parametrize("file", [*MANIFESTS, "aws.yaml", "gcp.yaml", "mlflow/compose.yaml"])
def test_no_secret_is_written_into_a_file(file: str) -> None:
    secrets = re.compile(r"PASSWORD|SECRET_ACCESS|TOKEN$|KEY_ID")
    found = {name: value for tree in documents(file) for name, value in values(tree) if secrets.search(name)}
    assert [name for name, value in found.items() if not str(value).startswith("${")] == []


def test_the_compose_file_listens_on_this_machine_only_and_runs_the_pinned_mlflow() -> None:
    (tree,) = documents("mlflow/compose.yaml")
    for name, service in tree["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        assert set(service.get("depends_on", ())) <= set(tree["services"])
        assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= set(tree["volumes"])
        assert set(service.get("secrets", ())) <= set(tree["secrets"])
    server = tree["services"]["mlflow"]
    assert f":v{PINNED['mlflow']}" in server["image"]
    assert "--allowed-hosts" in server["command"]
    (deployment,) = of_kind("Deployment")
    (other,) = deployment["spec"]["template"]["spec"]["containers"]
    assert other["image"] == server["image"]
    assert "--allowed-hosts" in other["args"][0]


def test_slurms_script_is_a_script_with_a_token_of_its_own() -> None:
    file = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", file], check=True)
    text = file.read_text()
    token, start = text.index("export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH"), text.index("ray start")
    assert token < start
    assert text.index("umask 077") < text.index("token_hex")
    assert "RAY_USAGE_STATS_ENABLED=0" in text
    assert "--dashboard-host 127.0.0.1" in text


def test_every_file_is_told_of_in_the_readme() -> None:
    text = (CLUSTER / "README.md").read_text()
    names = [str(file.relative_to(CLUSTER)) for file in CLUSTER.rglob("*") if file.is_file() and file.suffix != ".md"]
    assert [name for name in names if name not in text] == []


def test_the_security_page_names_files_that_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    linked = re.findall(r"\]\(([^)#]+)", text)
    assert linked
    assert all((ROOT / Path(name)).exists() for name in linked)
