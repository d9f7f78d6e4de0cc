"""The public API as a document: as committed, complete, and kind to who has only that."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.openapi import document, text
from tests.contract.test_asyncapi import references

PATH = Path(__file__).resolve().parents[2] / "docs" / "contracts" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(PATH.read_text())
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method in ("get", "put", "post", "patch", "delete", "head")
}
every_operation = pytest.mark.parametrize("name", OPERATIONS)

PROMISED = """
    POST /tasks|GET /tasks|GET /tasks/{task_id}|POST /tasks/{task_id}/start|POST /tasks/{task_id}/cancel
    GET /tasks/{task_id}/history|GET /tasks/{task_id}/metrics|GET /tasks/{task_id}/logs|GET /tasks/{task_id}/report
    POST /files|GET /models|GET /workers|GET /dead
"""


async def test_what_is_committed_is_what_the_gateway_serves() -> None:
    """Run `make contracts` and commit what it writes."""
    assert text(await document()) == PATH.read_text()


def test_every_reference_points_to_something() -> None:
    for reference in set(references(DOCUMENT)):
        found: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
        assert found


def test_what_was_promised_is_there() -> None:
    for promise in PROMISED.replace("\n", "|").split("|"):
        if promise.strip():
            method, path = promise.split()
            assert f"{method} /api/v1/training{path}" in OPERATIONS
    assert {"GET /health/live", "GET /health/ready"} <= set(OPERATIONS)


@every_operation
def test_an_operation_says_what_it_does_and_how_it_fails(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert "application/problem+json" in operation["responses"]["default"]["content"]
    assert (operation["security"] == []) == ("/health/" in name), "health needs no key, all else does"


@every_operation
def test_parameters_of_a_path_are_declared(name: str) -> None:
    declared = {p["name"] for p in OPERATIONS[name].get("parameters", []) if p["in"] == "path"}
    assert declared == {part[1:-1] for part in name.split("/") if part.startswith("{")}


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(names) == len(set(names))


def test_what_is_sent_and_what_is_answered_has_examples() -> None:
    shapes = DOCUMENT["components"]["schemas"]
    for name in ("TaskView", "TaskPage", "History", "LogPage", "ModelPage", "WorkerList", "Problem", "StoredFile"):
        assert shapes[name]["examples"], name
    body = OPERATIONS["POST /api/v1/training/tasks"]["requestBody"]["content"]["application/json"]
    assert body["examples"]
