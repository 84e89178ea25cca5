"""What `ray up` and Kubernetes are given is what their own schemas allow, and the commands within are ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
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
        assert group["template"]["spec"]["securityContext"]["fsGroup"], "a new volume belongs to root"
        check({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]})


#: Keeps what it is told to do, and the one job that there may be, as Ray does.
RAY = """#!/bin/sh
echo "$*" >> "$LOG"
case "$2" in
  delete) ! grep -q RUNNING job 2> /dev/null && rm job ;;
  submit) [ ! -e job ] && echo "$END" > job ;;
  logs) [ -e job ] && sed -i "s/RUNNING/$END/" job ;;
  status) echo "Job '$3' $(cat job)" ;;
esac
"""
#: Knows a search of that name or not, and cannot continue it.
PYTHON = """#!/bin/sh
echo "$3" >> "$LOG"
case "$3" in show) exit "$UNKNOWN" ;; resume) exit 5 ;; esac
"""


def run(script: str, folder: Path, **variables: str) -> tuple[int, list[str]]:
    """Exit code of a manifest's script, and what it had done."""
    for name, text in (("ray", RAY), ("python", PYTHON)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    log = folder / "log"
    log.write_text("")
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log)} | variables
    done = subprocess.run(["sh", "-c", script], cwd=folder, env=environment, capture_output=True)
    return done.returncode, log.read_text().splitlines()


def test_a_search_is_begun_where_it_is_unknown_and_else_continued_or_failed(tmp_path: Path) -> None:
    entrypoint = read(CLUSTER / "kuberay" / "search.yaml")["spec"]["entrypoint"]
    assert run(entrypoint, tmp_path, UNKNOWN="2") == (0, ["show", "run"])
    assert run(entrypoint, tmp_path, UNKNOWN="0") == (5, ["show", "resume"])


@pytest.mark.parametrize(
    ("job", "end", "code"),
    [(None, "succeeded", 0), (None, "failed", 1), ("RUNNING", "succeeded", 0), ("RUNNING", "failed", 1)],
)
def test_a_night_ends_as_its_job_does_whoever_submitted_it(
    job: str | None, end: str, code: int, tmp_path: Path
) -> None:
    (script,) = _night()["args"]
    if job:
        (tmp_path / "job").write_text(job)
    found, did = run(script, tmp_path, END=end)
    assert found == code
    name = did[0].split()[-1]
    assert re.fullmatch(r"tickets-\d{4}-\d\d-\d\d", name)
    assert [line for line in did if line.startswith("job")] == [
        f"job delete {name}",
        f"job submit --no-wait --submission-id {name} -- sh -c ",
        f"job logs --follow {name}",
        f"job status {name}",
    ]


def test_a_night_that_failed_is_submitted_again_and_continued(tmp_path: Path) -> None:
    (script,) = _night()["args"]
    assert run(script, tmp_path, END="failed")[0] == 1
    assert run(script, tmp_path, END="succeeded")[0] == 0
    submitted = script.partition(' sh -c "')[2].partition('" ||')[0]
    assert run(submitted, tmp_path, UNKNOWN="2", night="tickets") == (0, ["show", "run"])
    assert run(submitted, tmp_path, UNKNOWN="0", night="tickets") == (5, ["show", "resume"])


def _night() -> dict[str, Any]:
    job = read(CLUSTER / "kuberay" / "nights.yaml")["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


@pytest.mark.parametrize("file", KUBERAY, ids=lambda file: file.name)
def test_the_commands_in_manifests_parse(file: Path) -> None:
    text = " ".join(file.read_text(encoding="utf-8").replace("\\\n", " ").split())
    found = re.findall(r"python -m search ([^|'\";>]+?)(?: fi\b| else\b|[|'\";>])", text.partition("spec:")[2])
    assert [arguments.split()[0] for arguments in found] == ["show", "resume", "run"]
    for arguments in found:
        assert complaint(arguments.split()) is None, arguments
