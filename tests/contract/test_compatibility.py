"""Nothing that the last release promised is broken; the checker is shown every kind of break."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services import openapi
from tests.contract.released import FOLDER, Release, released
from tests.contract.test_asyncapi import DOCUMENT as ASYNCAPI
from tests.contract.test_frozen_contracts import GOLDENS, SCHEMAS
from tests.contract.test_openapi import DOCUMENT as OPENAPI
from trainwright.contracts.compatibility import breaks, channel_breaks
from trainwright.contracts.topics import EVENT_TYPES

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


def broken_since(release: Release) -> list[str]:
    """Return what today's documents break of a release's."""
    found = channel_breaks(release.documents["asyncapi.json"], ASYNCAPI)
    found += openapi.refusals(release.documents["openapi.json"], OPENAPI)
    for name, schema in release.schemas.items():
        found += (
            [f"{name}: {what}" for what in breaks(schema, SCHEMAS[name])] if name in SCHEMAS else [f"{name}: gone"]
        )
    return found


def test_what_was_released_is_kept() -> None:
    """Against the newest tag; before there is one, every example of every version is read by today's code."""
    release = released(ROOT)
    if release is not None:
        assert broken_since(release) == [], f"against {release.tag}"
        return
    for name, golden in GOLDENS.items():
        EVENT_TYPES[name].model_validate(golden["value"])


def git(root: Path, *words: str) -> None:
    """Run git, with a name and without anybody's settings."""
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=root, capture_output=True, check=True, timeout=30)


def write(root: Path, asyncapi: Json, schemas: Json) -> None:
    """Write contracts as they are committed."""
    for name, document in {"asyncapi": asyncapi, "openapi": OPENAPI, **schemas}.items():
        path = root / FOLDER / ("schemas" if name in schemas else "") / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "contracts", "--allow-empty")


def test_the_newest_tag_that_a_commit_comes_from_is_the_baseline(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    assert released(root) is None, "no git"
    git(root, "init", "-q")
    older = copy.deepcopy(ASYNCAPI)
    older["channels"]["gone"] = {**older["channels"]["task"], "address": "trainwright.gone.v1"}
    write(root, older, SCHEMAS)
    assert released(root) is None, "no tag"
    git(root, "tag", "v0.1.0")
    git(root, "tag", "something-else")
    with_more = copy.deepcopy(SCHEMAS)
    with_more["trainwright.task.TaskForgotten.v1"] = {"title": "TaskForgotten", "properties": {}}
    write(root, ASYNCAPI, with_more)
    first = released(root)
    assert first is not None
    assert (first.tag, first.schemas) == ("v0.1.0", SCHEMAS)
    assert broken_since(first) == ["trainwright.gone.v1: the channel is gone"]
    git(root, "tag", "-a", "v0.2.0", "-m", "second")
    second = released(root)
    assert second is not None
    assert (second.tag, broken_since(second)) == ("v0.2.0", ["trainwright.task.TaskForgotten.v1: gone"])
    git(tmp_path, "clone", "-q", "--depth", "1", "--no-tags", f"file://{root}", "shallow")
    assert released(tmp_path / "shallow") is None


def message(document: Json, name: str) -> Json:
    found: Json = document["components"]["messages"][name]
    return found


CHANNEL_BREAKS: dict[str, Callable[[Json], object]] = {
    "trainwright.log.v1: the channel is gone": lambda d: d["channels"].pop("log"),
    "trainwright.queue.v1: the message trainwright.queue.WorkerLost.v1 is gone": lambda d: d["channels"]["queue"][
        "messages"
    ].pop("WorkerLost"),
    "trainwright.task.v1: records are kept for 1000 ms, not ever": lambda d: d["channels"]["task"]["bindings"][
        "kafka"
    ]["topicConfiguration"].update({"retention.ms": 1000}),
    "trainwright.metric.MetricBatch.v1: the key is at $message.payload#/a, not at $message.payload#/task_id": (
        lambda d: message(d, "MetricBatch")["bindings"]["kafka"]["key"].update({"x-equals": "$message.payload#/a"})
    ),
    "trainwright.task.TaskReady.v1: repeats are known by another rule: once, not newer": lambda d: message(
        d, "TaskReady"
    )["x-repeats"].update(rule="once"),
    "trainwright.task.TaskReady.v1: the header ce_traceparent is gone": lambda d: message(d, "TaskReady")[
        "headers"
    ]["properties"].pop("ce_traceparent"),
    "trainwright.task.TaskReady.v1: the header ce_version is not always there any more": lambda d: message(
        d, "TaskReady"
    )["headers"]["required"].remove("ce_version"),
    "trainwright.task.TaskReady.v1: the header ce_type says something else": lambda d: message(d, "TaskReady")[
        "headers"
    ]["properties"]["ce_type"].update(const="trainwright.task.TaskReady.v2"),
}


@pytest.mark.parametrize("named", CHANNEL_BREAKS)
def test_a_break_of_a_channel_is_named_and_its_opposite_is_none(named: str) -> None:
    changed = copy.deepcopy(ASYNCAPI)
    CHANNEL_BREAKS[named](changed)
    assert channel_breaks(ASYNCAPI, changed) == [named]
    assert channel_breaks(ASYNCAPI, ASYNCAPI) == []
    if "gone" in named or "kept" in named or "always" in named:
        assert channel_breaks(changed, ASYNCAPI) == [], "what is added breaks nobody"


TASKS = "/api/v1/training/tasks"
API_BREAKS: dict[str, Callable[[Json], object]] = {
    f"GET {TASKS}: gone": lambda d: d["paths"][TASKS].pop("get"),
    f"POST {TASKS}: a body of application/json is not taken any more": lambda d: d["paths"][TASKS]["post"][
        "requestBody"
    ].update(content={}),
    f"GET {TASKS}: a body became required": lambda d: d["paths"][TASKS]["get"].update(
        requestBody={"required": True, "content": {}}
    ),
    f"GET {TASKS}: the answer 200 is not application/json any more": lambda d: d["paths"][TASKS]["get"][
        "responses"
    ]["200"].update(content={}),
    f"POST {TASKS}: the body of application/json has another shape": lambda d: d["paths"][TASKS]["post"][
        "requestBody"
    ]["content"]["application/json"].update(schema={"type": "object"}),
    "CreateTask.owner: was added without a default": lambda d: (
        d["components"]["schemas"]["CreateTask"]["properties"].update(owner={"type": "string"}),
        d["components"]["schemas"]["CreateTask"].setdefault("required", []).append("owner"),
    ),
    "TaskView.status: the field is gone": lambda d: d["components"]["schemas"]["TaskView"]["properties"].pop(
        "status"
    ),
    "TaskView.attempt: the type changed": lambda d: d["components"]["schemas"]["TaskView"]["properties"].update(
        attempt={"type": "string"}
    ),
    "TaskStatus: the value 'paused' is gone": lambda d: d["components"]["schemas"]["TaskStatus"]["enum"].remove(
        "paused"
    ),
}


@pytest.mark.parametrize("named", API_BREAKS)
def test_a_break_of_the_api_is_named(named: str) -> None:
    changed = copy.deepcopy(OPENAPI)
    API_BREAKS[named](changed)
    assert openapi.refusals(OPENAPI, changed) == [named]
