"""The API against its own OpenAPI description: generated requests, right and wrong ones, in this process."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from search.api.app import application
from search.api.models import SearchRequest
from search.api.supervisor import Supervisor
from search.catalog import Catalog
from search.catalog.tokens import add_token
from search.home import Home
from search.spec import SearchSpec
from tests.api.conftest import Service, record_search


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = Home.at(tmp_path_factory.mktemp("home"), None, None)
    root = tmp_path_factory.mktemp("allowed")
    catalog = Catalog(home.storage)
    record_search(catalog, home, "demo")
    headers = {"Authorization": f"Bearer {add_token(catalog, 'me', 'write')}"}
    app = application(catalog, home, Supervisor(catalog, home, at_once=1), roots=[Path(root)])
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    return schema, headers


OPERATIONS = 11
TAKE_NOTHING = {"GET /health"}
# Of its checks one is left out: whether a path is allowed, or an engine has its endpoint, no schema can say.


def test_a_request_has_every_setting_of_a_search_that_is_not_the_servers_own() -> None:
    theirs = {"adapters", "ray_address", "retries", "checkpoint_seconds", "trust_remote_code"}
    of_series = {"series", "keep", "training_seed"}
    assert {field.name for field in fields(SearchSpec)} - theirs - of_series == set(SearchRequest.model_fields)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_as_described(described: Any, mode: GenerationMode) -> None:
    schema, headers = described
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == OPERATIONS
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.label in TAKE_NOTHING:
            continue

        @settings(max_examples=30, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def answer(case: Any) -> None:
            response = case.call(headers=headers)
            assert response.status_code < 500
            case.validate_response(response, headers=headers, excluded_checks=[positive_data_acceptance])

        answer()


def test_everything_is_described(service: Service) -> None:
    document = service.client("read").get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            answers = operation["responses"]
            if path == "/health":
                assert "security" not in operation
                continue
            assert operation["security"] == [{"HTTPBearer": []}]
            for code, answer in answers.items():
                assert answer["description"]
                if int(code) >= 400:
                    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    for model in document["components"]["schemas"].values():
        assert "HTTPValidationError" not in model.get("title", "")


def test_a_running_server_hides_its_faults(service: Service) -> None:
    service.app.state.catalog = None
    client = TestClient(service.app, raise_server_exceptions=False)
    answer = client.get("/searches", headers={"Authorization": f"Bearer {service.tokens['read']}"})
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
