"""The public API as a document: as committed, complete, and kind to who has only that."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.openapi import document, main, refusals, text
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
    POST /tasks/{task_id}/pause|POST /tasks/{task_id}/resume|GET /tasks/{task_id}/attempts
    GET /tasks/{task_id}/checkpoints|GET /tasks/{task_id}/history|GET /tasks/{task_id}/metrics
    GET /tasks/{task_id}/logs|GET /tasks/{task_id}/report
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


SHOWN = [
    (name, shown)
    for name, shape in DOCUMENT["components"]["schemas"].items()
    for shown in shape.get("examples", [])
]


@pytest.mark.parametrize(("name", "shown"), SHOWN, ids=[name for name, _ in SHOWN])
def test_an_example_fits_its_shape(name: str, shown: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(shown)


@every_operation
def test_what_is_asked_for_in_the_query_is_described(name: str) -> None:
    for parameter in OPERATIONS[name].get("parameters", []):
        assert parameter["in"] == "path" or parameter["description"], parameter["name"]


def test_what_is_not_json_does_not_claim_to_be() -> None:
    for path, kind in (
        ("/files/{sha256}", "application/octet-stream"),
        ("/models/{model_id}/files/{name}", "application/octet-stream"),
        ("/tasks/{task_id}/report", "text/html"),
    ):
        answer = OPERATIONS[f"GET /api/v1/training{path}"]["responses"]["200"]
        assert list(answer["content"]) == [kind]
    assert "content" not in OPERATIONS["HEAD /api/v1/training/files/{sha256}"]["responses"]["200"]


def test_what_would_break_callers_is_named_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promised = copy.deepcopy(DOCUMENT)
    tasks = promised["paths"]["/api/v1/training/tasks"]
    tasks["get"]["parameters"].append({"in": "query", "name": "owner", "schema": {"type": "string"}})
    tasks["post"]["responses"]["207"] = {"description": "some"}
    promised["paths"]["/api/v1/training/queue"] = {"get": tasks["get"]}
    promised["components"]["schemas"]["TaskView"]["properties"]["colour"] = {"type": "string"}
    assert refusals(promised, DOCUMENT) == [
        "GET /api/v1/training/queue: gone",
        "GET /api/v1/training/tasks: the parameter owner (query) is gone",
        "POST /api/v1/training/tasks: the answer 207 is gone",
        "TaskView.colour: the field is gone",
    ]
    stricter = copy.deepcopy(DOCUMENT)
    stricter["paths"]["/api/v1/training/tasks"]["get"]["parameters"][0]["required"] = True
    first = stricter["paths"]["/api/v1/training/tasks"]["get"]["parameters"][0]["name"]
    assert refusals(DOCUMENT, stricter) == [
        f"GET /api/v1/training/tasks: the parameter {first} (query) became required"
    ]
    assert refusals(DOCUMENT, promised) == []
    path = tmp_path / "openapi.json"
    path.write_text(text(promised))
    assert main(path) == 1
    assert "TaskView.colour: the field is gone" in capsys.readouterr().err
    assert path.read_text() == text(promised)
