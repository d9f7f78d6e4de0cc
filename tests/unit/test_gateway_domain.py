"""Whose is which path: the table, and what does not fit it."""

import asyncio

import httpx
import pytest

from services.gateway.domain import OFFSETS, ROUTES, owner_of
from services.gateway.openapi import merged
from services.gateway.readiness import platform_readiness


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/tasks", "task"),
        ("/tasks/task-1", "task"),
        ("/tasks/task-1/start", "task"),
        ("/tasks/task-1/metrics", "monitor"),
        ("/tasks/task-1/monitor", "monitor"),
        ("/tasks/task-1/logs", "log"),
        ("/tasks/task-1/report", "result"),
        ("/tasks/task-1/checkpoints", "result"),
        ("/tasks/task-1/attempts", "task"),
        ("/tasks/task-1/pause", "task"),
        ("/tasks/task-1/logs/more", "task"),
        ("/tasks/logs", "task"),
        ("/files/abc", "task"),
        ("/models/store/S001_all/tcn/v1/files/report.html", "result"),
        ("/workers", "scheduler"),
        ("/dead/log/1/replay", "gateway"),
        ("/tasksx", None),
        ("/internal", None),
        ("/", None),
        ("", None),
    ],
)
def test_a_path_has_one_owner(path: str, owner: str | None) -> None:
    assert owner_of(path) == owner


def test_the_table_names_known_services_only() -> None:
    assert {service for _, service in ROUTES} == {*OFFSETS, "gateway"}


def test_two_schemas_of_one_name_both_survive() -> None:
    def document(path: str, fields: dict[str, object]) -> dict[str, object]:
        reference = {"$ref": "#/components/schemas/Thing"}
        operation = {"responses": {"200": {"content": {"application/json": {"schema": reference}}}, "422": {}}}
        return {
            "paths": {path: {"get": operation}},
            "components": {"schemas": {"Thing": {"type": "object", "properties": fields}}},
        }

    documents = {
        "task": document("/api/v1/training/a", {"x": {"type": "string"}}),
        "log": document("/api/v1/training/b", {"y": {"type": "string"}}),
    }
    result = merged(documents)
    schema = result["paths"]["/api/v1/training/b"]["get"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ]
    assert schema == {"$ref": "#/components/schemas/LogThing"}
    assert "x" in result["components"]["schemas"]["Thing"]["properties"]
    assert "y" in result["components"]["schemas"]["LogThing"]["properties"]
    assert "422" not in result["paths"]["/api/v1/training/b"]["get"]["responses"]


async def test_a_service_that_says_nothing_in_time_or_nonsense_is_down_and_the_platform_with_it() -> None:
    async def silent() -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def nonsense() -> httpx.Response:
        return httpx.Response(200, text="hello")

    found = await platform_readiness({"task": silent, "log": nonsense}, within=0.01)
    assert found.status == "down"
    assert [(one.service, one.status, one.detail) for one in found.services] == [
        ("task", "down", "says nothing for 0.01 s"),
        ("log", "down", "does not answer"),
    ]
