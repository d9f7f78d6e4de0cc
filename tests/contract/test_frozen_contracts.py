"""The contracts are frozen: schemas are as committed, examples of every version can be read for ever."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from trainwright.contracts import compatibility, schemas
from trainwright.contracts.base import Event
from trainwright.contracts.topics import EVENT_TYPES, TOPIC_OF
from trainwright.runtime.apply import open_record
from trainwright.runtime.envelope import Reread, from_headers, to_headers

DOCS = Path(__file__).resolve().parents[2] / "docs" / "contracts"
GOLDENS = {path.stem: json.loads(path.read_text()) for path in sorted((DOCS / "golden").glob("*.json"))}
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in sorted((DOCS / "schemas").glob("*.json"))}

every_golden = pytest.mark.parametrize("type_name", GOLDENS)


def record_of(golden: dict[str, Any]) -> Reread:
    """Return a golden example as a record of the log."""
    headers = [(name, value.encode()) for name, value in golden["headers"].items()]
    value = json.dumps(golden["value"]).encode()
    return Reread(golden["topic"], 0, 0, golden["key"].encode(), value, headers)


def test_every_event_has_an_example_and_no_example_was_dropped() -> None:
    assert set(GOLDENS) == set(EVENT_TYPES)


@every_golden
def test_an_example_reads_as_its_event_and_writes_back_the_same(type_name: str) -> None:
    golden = GOLDENS[type_name]
    envelope, event = open_record(record_of(golden))
    assert event is not None
    assert type(event) is EVENT_TYPES[type_name]
    assert json.loads(event.model_dump_json()) == golden["value"]
    assert type(event).model_validate_json(event.model_dump_json()) == event or "NaN" in json.dumps(golden)
    assert (envelope.type, envelope.subject) == (type_name, golden["key"])


@every_golden
def test_an_example_s_envelope_is_what_its_event_says(type_name: str) -> None:
    golden = GOLDENS[type_name]
    envelope, event = open_record(record_of(golden))
    assert event is not None
    assert golden["topic"] == TOPIC_OF[type(event)].name
    assert golden["key"] == event.subject
    assert (envelope.version, envelope.attempt) == (event.aggregate_version, event.attempt_number)
    assert dict(to_headers(envelope)) == golden["headers"]
    assert from_headers([(name, text.encode()) for name, text in to_headers(envelope)]) == envelope


@every_golden
def test_an_example_fits_its_committed_schema(type_name: str) -> None:
    Draft202012Validator(SCHEMAS[type_name]).validate(GOLDENS[type_name]["value"])


@every_golden
def test_an_example_shows_every_field(type_name: str) -> None:
    """An example that leaves fields out would not notice when one is renamed."""
    schema = SCHEMAS[type_name]
    assert set(GOLDENS[type_name]["value"]) == set(schema["properties"])


RUNS_OWN = {"latest_metrics", "metrics", "extra", "points", "overrides"}
PEOPLES_OWN = RUNS_OWN | {"parameters", "data", "labels", "retry", "repairable", "hot", "changes"}
"""Objects whose keys are people's own; in all others they are fields."""


def models_in(value: Any) -> Iterator[dict[str, Any]]:
    """Return every object with fields, from the outside in."""
    if isinstance(value, dict):
        yield value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(value, dict) and key == "config" and "format" in value:
            continue  # of a stored configuration: as it was written
        if key not in PEOPLES_OWN and not (key == "files" and isinstance(item, dict)):
            yield from models_in(item)


@every_golden
def test_fields_that_a_later_version_adds_are_ignored(type_name: str) -> None:
    value = copy.deepcopy(GOLDENS[type_name]["value"])
    kind = EVENT_TYPES[type_name]
    today = kind.model_validate(value)
    for document in list(models_in(value)):
        document["added_later"] = {"deep": [1]}
    assert kind.model_validate(value).model_dump_json() == today.model_dump_json()


@every_golden
def test_a_field_without_default_is_missed(type_name: str) -> None:
    """The example test can fail: take away any field that has no default and the event is refused."""
    for name in SCHEMAS[type_name]["required"]:
        value = {key: item for key, item in GOLDENS[type_name]["value"].items() if key != name}
        with pytest.raises(ValidationError):
            EVENT_TYPES[type_name].model_validate(value)


def test_what_is_committed_is_what_the_code_generates() -> None:
    """Run `make contracts` and commit what it writes."""
    for path, document in schemas.documents(DOCS).items():
        assert path.is_file(), f"{path.name} is not committed"
        assert path.read_text() == schemas.text(document), f"{path.name} is out of date"
    generated = {path.name for path in schemas.documents(DOCS)}
    assert {path.name for path in (DOCS / "schemas").iterdir()} <= generated


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    for path in (DOCS / "golden").iterdir():
        (tmp_path / "golden" / path.name).write_text(path.read_text())
    assert schemas.main([str(tmp_path)]) == 0
    assert schemas.main([str(tmp_path)]) == 0
    assert (tmp_path / "asyncapi.json").read_text() == (DOCS / "asyncapi.json").read_text()


def changed(change: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return TaskCreated's schema before and after a change, said as `model.field=schema`, `-` for gone."""
    before = SCHEMAS["trainwright.task.TaskCreated.v1"]
    after = copy.deepcopy(before)
    place, _, value = change.partition("=")
    model, _, field = place.partition(".")
    part = after if model == after["title"] else after["$defs"][model]
    if value == "-":
        del part["properties"][field]
    elif value == "required":
        part.setdefault("required", []).append(field)
    elif value == "no value":
        part["enum"].remove(field)
    elif value == "new value":
        part["enum"].append(field)
    else:
        part["properties"][field] = json.loads(value)
    return before, after


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("TaskDocument.reason=-", ["TaskDocument.reason: the field is gone"]),
        ('TaskDocument.attempt={"type":"string"}', ["TaskDocument.attempt: the type changed"]),
        ("TaskDocument.reason=required", ["TaskDocument.reason: became required"]),
        ("TaskStatus.paused=no value", ["TaskStatus: the value 'paused' is gone"]),
        ("TaskCreated.task=-", ["TaskCreated.task: the field is gone"]),
        ('TaskDocument.added={"type":"string","default":""}', []),
        ('TaskDocument.reason={"type":"string","default":"-","description":"new words"}', []),
        ("TaskPhase.evaluating=new value", []),
    ],
)
def test_additions_are_allowed_and_nothing_else(change: str, named: list[str]) -> None:
    assert compatibility.breaks(*changed(change)) == named


def test_a_model_that_is_gone_and_a_field_without_default_are_named() -> None:
    before, after = changed('TaskDocument.added={"type":"string"}')
    after["$defs"]["TaskDocument"]["required"].append("added")
    del after["$defs"]["Failure"]
    assert compatibility.breaks(before, after) == [
        "Failure: the model is gone",
        "TaskDocument.added: was added without a default",
    ]


def test_a_contract_that_breaks_readers_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir(parents=True)
    committed = copy.deepcopy(SCHEMAS["trainwright.task.TaskCreated.v1"])
    committed["$defs"]["TaskDocument"]["properties"]["colour"] = {"type": "string"}
    (folder / "trainwright.task.TaskCreated.v1.json").write_text(json.dumps(committed))
    (folder / "trainwright.task.TaskForgotten.v1.json").write_text("{}")
    assert schemas.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "trainwright.task.TaskCreated.v1: TaskDocument.colour: the field is gone" in said
    assert "trainwright.task.TaskForgotten.v1: the contract is gone" in said
    assert not (tmp_path / "asyncapi.json").exists()


@pytest.mark.parametrize("model", schemas.API_MODELS, ids=lambda model: model.__name__)
def test_what_people_are_shown_as_an_example_is_one(model: type[BaseModel]) -> None:
    schema = SCHEMAS[model.__name__]
    for shown in schema.get("examples", []):
        model.model_validate(shown)
        Draft202012Validator(schema).validate(shown)
    without = {"BundleManifest", "CreateTask", "DeadLetterList"}
    assert bool(schema.get("examples")) != (model.__name__ in without), "CreateTask's are beside its route"


def test_what_an_event_says_of_itself_is_complete() -> None:
    """Each event answers the questions of the envelope from its own data."""
    for golden in GOLDENS.values():
        event = EVENT_TYPES[golden["headers"]["ce_type"]].model_validate(golden["value"])
        assert isinstance(event, Event)
        assert event.subject
