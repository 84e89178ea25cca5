"""docker-compose.yml against the compose specification, and against what it promises. No Docker is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import pytest

from search.cli_serve import SECRETS
from tests.commands import call
from tests.compose.stack import FILE, compose, interpolated

ROOT = FILE.parent
SECRET = dict.fromkeys(SECRETS, "x")
SCHEMA = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
OWN = {"mlflow", "ray-head", "ray-worker", "ray-worker-gpu", "api", "scheduler"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = interpolated(compose(), SECRET)["services"]
    return found


def test_it_keeps_to_the_specification() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    for document in (compose(), interpolated(compose(), SECRET)):
        jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"a": {"imagee": "x"}}}, schema)


@pytest.mark.parametrize("name", SECRETS)
def test_it_does_not_start_without_a_secret(name: str) -> None:
    for value in (None, ""):
        given = SECRET | {name: value}
        with pytest.raises(KeyError, match=f"{name}: missing, so run python -m search env > .env first"):
            interpolated(compose(), {key: text for key, text in given.items() if text is not None})


def test_its_secrets_are_made_anew_each_time() -> None:
    made = [dict(line.split("=", 1) for line in call("env").stdout.splitlines()) for _ in range(2)]
    example = re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    needed = set(re.findall(r"\$\{(\w+):\?", FILE.read_text()))
    assert made[0].keys() == made[1].keys() == dict(example).keys() == needed == set(SECRETS)
    assert {value for _, value in example} == {""}
    values = [value for each in made for value in each.values()]
    assert len(set(values)) == len(values)
    assert all(re.fullmatch(r"[\w-]{32}", value) for value in values)


def test_no_secret_stands_in_the_file() -> None:
    for line in FILE.read_text().splitlines():
        if re.search(r"(PASSWORD|SECRET|TOKEN|ACCESS_KEY\w*): ", line):
            assert re.search(r": \$\{\w+:\?", line), line


def test_no_secret_stands_in_a_command_line() -> None:
    """Every user of the host may read those of containers."""
    made = {name: f"secret-{name}" for name in SECRETS}
    for service in interpolated(compose(), made)["services"].values():
        said = json.dumps([service.get("command"), service.get("healthcheck")])
        assert not [secret for secret in made.values() if secret in said]


def test_nothing_can_be_reached_from_other_machines(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published.keys() == {"postgres", "s3", "mlflow", "api"}
    for ports in published.values():
        assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned_and_ours_runs_as_no_root(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.search(r":\d+\.\d+[\w.-]*$", service["image"]), name
        assert ("build" in service) == (name in OWN)
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (base,) = [line for line in lines if line.startswith("FROM ")]
    assert re.fullmatch(r"FROM python:3\.\d+\.\d+-slim-\w+", base)
    assert [line for line in lines if line.startswith("USER ")] == ["USER search"]
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_a_change_of_the_code_installs_nothing_but_the_code() -> None:
    """Docker makes a layer anew where a file that was copied before it has changed."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    dependencies, code = (i for i, line in enumerate(lines) if "pip install" in line)
    copied = {word for line in lines[:dependencies] if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied == {"pyproject.toml"}
    assert {"--no-deps", "--force-reinstall"} <= set(lines[code].split()), "the version stays the same"


def test_health_checks_ask_through_the_name_that_clients_use(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in ("ray-worker", "ray-worker-gpu", "scheduler"):
            continue  # no client asks them anything; `ray start --block` ends with its node
        asked = " ".join([*service["healthcheck"]["test"], *service.get("environment", {}).values()])
        assert re.search(rf"(http://|-h |--address |@){name}\b", asked), name
    (hosts,) = [
        services["mlflow"]["command"][i + 1]
        for i, word in enumerate(services["mlflow"]["command"])
        if word == "--allowed-hosts"
    ]
    assert "mlflow:5000" in hosts.split(",")
    assert not any("*" in host for host in hosts.split(","))
    for service in services.values():
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in services[needed]
