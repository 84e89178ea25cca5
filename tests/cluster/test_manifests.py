"""What `ray up` and Kubernetes are given is what their own schemas allow, and the commands within are ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from tests.test_docs import complaint

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))


def read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return document


def check(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_ray_up_takes_the_cluster() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(read(CLUSTER / "ray-cluster.yaml"), schema)


def test_kubernetes_takes_the_cron_job() -> None:
    check(read(CLUSTER / "kuberay" / "nights.yaml"))
    wrong = read(CLUSTER / "kuberay" / "nights.yaml")
    wrong["spec"]["jobTemplate"]["spec"]["backofLimit"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong)


def test_kubernetes_takes_every_pod_of_the_ray_job() -> None:
    """KubeRay's own fields have no schema in a Python package; what it makes pods of has Kubernetes'."""
    job = read(CLUSTER / "kuberay" / "search.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        check({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]})


@pytest.mark.parametrize("file", KUBERAY, ids=lambda file: file.name)
def test_the_commands_in_manifests_parse(file: Path) -> None:
    text = " ".join(file.read_text(encoding="utf-8").replace("\\\n", " ").split())
    found = re.findall(r"python -m search ([^|'\"]+)", text.partition("spec:")[2])
    assert len(found) == 2
    for arguments in found:
        assert complaint(arguments.split()) is None, arguments
