"""What contracts take, refuse and name: requests, times, numbers, paths, amounts of memory."""

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainwright.contracts.attempt import AttemptDocument
from trainwright.contracts.base import iso, nearest
from trainwright.contracts.errors import Damaged, InvalidInput, TrainwrightError
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.contracts.resource import ResourceRequirements, parse_bytes
from trainwright.contracts.task import TaskCreatedAnswer
from trainwright.contracts.task_config import CreateTask, FileRef, TaskConfig
from trainwright.contracts.webhook import CreateWebhook


def wrong(model: Any, data: Any) -> dict[str, str]:
    """Return what is refused, by path."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    with pytest.raises(ValidationError):
        model.model_validate_json(orjson.dumps(data, default=str))
    return {".".join(map(str, e["loc"])): e["msg"].removeprefix("Value error, ") for e in caught.value.errors()}


@pytest.mark.parametrize(
    ("data", "path", "says"),
    [
        ({"paramters": {}}, "paramters", "unknown key 'paramters'; did you mean 'parameters'?"),
        ({"zzz": 1}, "zzz", "unknown key 'zzz'"),
        (
            {"resource_requirements": {"memry": "1Gi"}},
            "resource_requirements.memry",
            "unknown key 'memry'; did you mean 'memory'?",
        ),
        (
            {"files": [{"path": "a", "sha256": "0" * 64, "size": 1, "siz": 1}]},
            "files.0.siz",
            "unknown key 'siz'; did you mean 'size'?",
        ),
        ({"priority": "high"}, "priority", "valid integer"),
        ({"priority": 1001}, "priority", "less than or equal to 1000"),
        ({"parameters": {"n": 10**30}}, "parameters", "too large a number"),
        ({"parameters": {"deep": [[[]]]}, "data": []}, "data", "valid dictionary"),
    ],
)
def test_a_mistake_in_a_document_is_named_where_it_is(data: dict[str, Any], path: str, says: str) -> None:
    document = {"recipe": "script", **data} if "n" not in data.get("parameters", {}) else None
    if document is not None:
        found = wrong(TaskConfig, document)
        assert says in found[path]
        nested = wrong(CreateTask, {"config": document, "strt": True})
        assert says in nested[f"config.{path}"]
        assert nested["strt"] == "unknown key 'strt'; did you mean 'start'?"
    else:
        with pytest.raises(ValidationError, match=says):
            TaskConfig.model_validate({"recipe": "script", **data})


def test_all_mistakes_are_named_at_once() -> None:
    found = wrong(TaskConfig, {"recipe": 5, "priority": "x", "lables": {}, "resource_requirements": {"cpu": -1}})
    assert set(found) == {"recipe", "priority", "lables", "resource_requirements.cpu"}


def test_a_word_that_is_like_none_has_no_suggestion() -> None:
    assert nearest("colour", ["name", "recipe"]) == ""
    assert nearest("recipie", ["name", "recipe"]) == "; did you mean 'recipe'?"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.5])
def test_numbers_that_json_lacks_survive_stores_and_the_bus(value: float) -> None:
    """A store writes ``model_dump(mode="json")``: what comes back must be the same number."""
    document = AttemptDocument(
        task_id="t", attempt=1, version=1, worker_id="w", incarnation="i", latest_metrics={"loss": value}
    )
    stored = orjson.loads(orjson.dumps(document.model_dump(mode="json")))
    for back in (
        AttemptDocument.model_validate(stored),
        AttemptDocument.model_validate_json(document.model_dump_json()),
    ):
        assert str(back.latest_metrics["loss"]) == str(value)
    batch = MetricBatch(task_id="t", attempt=1, points=[MetricPoint(1, 0.5, 1, {"loss": value})])
    assert str(MetricBatch.model_validate_json(batch.model_dump_json()).points[0].values["loss"]) == str(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"n": 2**63}, "too large a number"),
        ({"n": [-(2**70)]}, "too large a number"),
        ({"text": "\ud800"}, "half a character"),
        ({"\udfff": 1}, "half a character"),
        ({"when": object()}, "object is not a JSON value"),
    ],
)
def test_what_no_store_could_hold_is_refused(value: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TaskConfig(recipe="script", parameters=value)


def nested(levels: int) -> dict[str, Any]:
    """Return objects inside each other."""
    document: dict[str, Any] = {}
    for _ in range(levels - 1):
        document = {"in": document}
    return document


def test_parameters_may_be_deep_but_not_endless() -> None:
    assert TaskConfig(recipe="script", parameters=nested(64)).parameters == nested(64)
    with pytest.raises(ValidationError, match="nested deeper than 64 levels"):
        TaskConfig(recipe="script", parameters=nested(65))


def test_what_yaml_makes_of_a_date_is_text() -> None:
    config = TaskConfig(recipe="script", parameters={"from": date(2024, 2, 29), "x": [True, None]})
    assert config.parameters == {"from": "2024-02-29", "x": [True, None]}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=9))
def test_parameters_are_refused_or_survive_a_store_exactly(value: Any) -> None:
    try:
        config = TaskConfig(recipe="script", parameters={"x": value})
    except ValidationError:
        return
    assert TaskConfig.model_validate(orjson.loads(orjson.dumps(config.model_dump(mode="json")))) == config
    assert TaskConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("path", ["a", "a/b.csv", "déjà vu/x y.py", "...", "a/..b"])
def test_a_file_lies_inside_the_run_s_folder(path: str) -> None:
    assert FileRef(path=path, sha256="0" * 64, size=0).path == path


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "./a", "a\\b", "a\x00b"]
)
def test_a_file_that_would_lie_elsewhere_is_refused(path: str) -> None:
    assert "path" in wrong(FileRef, {"path": path, "sha256": "0" * 64, "size": 0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1024", 1024),
        ("512Mi", 512 * 2**20),
        ("16Gi", 16 * 2**30),
        (" 1.5 Gi ", 3 * 2**29),
        ("2G", 2 * 10**9),
        ("2GB", 2 * 10**9),
        ("2GiB", 2 * 2**30),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_amounts_of_memory_are_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected
    assert ResourceRequirements.model_validate({"memory": text}).memory == expected


@pytest.mark.parametrize(
    "text", ["", "x", "1 apple", "-1Gi", "1e3", "1,5Gi", "Gi", "٣Gi", "9" * 400 + "Ti", "9999999Ti"]
)
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    assert "memory" in wrong(ResourceRequirements, {"memory": text})


def test_times_are_utc_and_sort_as_text() -> None:
    berlin = timezone(timedelta(hours=2))
    moments = [
        datetime(99, 1, 1, tzinfo=UTC),
        datetime(2025, 1, 1, 1, tzinfo=berlin),
        datetime(2025, 1, 1),
        datetime(2025, 1, 1, 0, 0, 0, 5, tzinfo=UTC),
    ]
    texts = [iso(moment) for moment in moments]
    assert texts == sorted(texts)
    assert texts[0] == "0099-01-01T00:00:00.000000Z"
    assert texts[1] == "2024-12-31T23:00:00.000000Z"
    answer = TaskCreatedAnswer.model_validate({"task_id": "t", "status": "pending", "created_at": texts[1]})
    assert json.loads(answer.model_dump_json())["created_at"] == texts[1]
    assert answer.model_dump(mode="json")["created_at"] == texts[1]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-10:00", "yesterday"])
def test_a_moment_outside_of_the_calendar_is_refused(moment: str) -> None:
    assert "created_at" in wrong(TaskCreatedAnswer, {"task_id": "t", "status": "pending", "created_at": moment})


def errors_below(kind: type[TrainwrightError]) -> list[type[TrainwrightError]]:
    """Return an error and all that derive from it."""
    return [kind, *[below for child in kind.__subclasses__() for below in errors_below(child)]]


def test_every_error_knows_its_status_its_code_and_whether_to_try_again() -> None:
    found = [kind for kind in errors_below(TrainwrightError) if kind.__module__ == TrainwrightError.__module__]
    assert len({kind.code for kind in found}) == len(found), "codes tell errors apart"
    for kind in found:
        problem = kind("what happened").problem()
        assert (problem.status, problem.code, problem.detail) == (kind.status, kind.code, "what happened")
        assert 400 <= kind.status < 600
        assert kind.retryable == (kind.status == 503 or kind.code == "version_conflict")
    assert issubclass(Damaged, TrainwrightError)
    assert InvalidInput("x").errors == []


def test_where_a_listener_begins_is_a_word_or_a_moment() -> None:
    url = {"url": "https://hooks.example.com/here"}
    assert CreateWebhook.model_validate({**url, "start": "beginning"}).start == "beginning"
    assert wrong(CreateWebhook, {**url, "start": "soon"})["start"] == (
        "is not `beginning`, `now`, or a moment like 2025-03-03T08:15:30Z"
    )
