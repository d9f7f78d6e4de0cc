"""The AsyncAPI document is enough for a stranger: everything it points to is there, and its examples are true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from trainwright.contracts.base import Newer, Once
from trainwright.contracts.topics import EVENT_TYPES, TOPICS, Topic

DOCS = Path(__file__).resolve().parents[2] / "docs" / "contracts"
DOCUMENT = json.loads((DOCS / "asyncapi.json").read_text())
GOLDENS = {path.stem: json.loads(path.read_text()) for path in sorted((DOCS / "golden").glob("*.json"))}
REGISTRY: Registry[Any] = Registry().with_resource("asyncapi", DRAFT7.create_resource(DOCUMENT))

every_message = pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
every_topic = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)


def references(part: Any) -> Iterator[str]:
    """Return every reference below a part of the document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for item in part.values():
            yield from references(item)
    elif isinstance(part, list):
        for item in part:
            yield from references(item)


def at(reference: str) -> Any:
    """Return what a reference points to."""
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def channel_of(topic: Topic) -> dict[str, Any]:
    """Return the one channel with a topic's name as its address."""
    (found,) = [channel for channel in DOCUMENT["channels"].values() if channel["address"] == topic.name]
    assert isinstance(found, dict)
    return found


def test_every_reference_points_to_something() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 50
    for reference in found:
        assert at(reference)


def test_it_is_what_it_says() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT["info"].keys() >= {"title", "version", "description"}
    assert len(DOCUMENT["channels"]) == len(TOPICS)


@every_topic
def test_a_channel_says_what_the_topic_table_says(topic: Topic) -> None:
    channel = channel_of(topic)
    kafka = channel["bindings"]["kafka"]
    assert kafka["topic"] == topic.name
    assert kafka["partitions"] == topic.partitions
    assert kafka["topicConfiguration"]["retention.ms"] == topic.retention_ms
    assert topic.key in channel["description"]
    assert set(channel["messages"]) == {kind.__name__ for kind in topic.events}
    names = {at(message["$ref"])["name"] for message in channel["messages"].values()}
    assert names == {kind.type_name() for kind in topic.events}


@every_topic
def test_one_operation_reads_each_channel(topic: Topic) -> None:
    (operation,) = [
        o for o in DOCUMENT["operations"].values() if at(o["channel"]["$ref"])["address"] == topic.name
    ]
    assert operation["action"] == "receive"
    assert len(operation["messages"]) == len(topic.events)


@every_message
def test_every_message_has_an_example_that_fits_what_is_said_of_it(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    (example,) = message["examples"]
    Draft7Validator(message["headers"]).validate(example["headers"])
    payload = {"$ref": f"asyncapi{message['payload']['$ref']}"}
    Draft7Validator(payload, registry=REGISTRY).validate(example["payload"])
    assert example["headers"]["ce_type"] == message["name"]


def value_at(expression: str, golden: dict[str, Any]) -> Any:
    """Return what a runtime expression points to in an example."""
    part, _, pointer = expression.removeprefix("$message.").partition("#")
    found: Any = golden["value" if part == "payload" else "headers"]
    for step in pointer.split("/")[1:]:
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


@every_message
def test_key_and_headers_equal_what_is_said(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    golden = GOLDENS[message["name"]]
    assert golden["key"] == value_at(message["bindings"]["kafka"]["key"]["x-equals"], golden)
    equal = {n: p["x-equals"] for n, p in message["headers"]["properties"].items() if "x-equals" in p}
    assert "ce_subject" in equal
    for header, place in equal.items():
        said = golden["headers"].get(header, "0")
        assert said == str(value_at(place, golden)), header
    assert ("ce_version" in golden["headers"]) == ("ce_version" in message["headers"]["required"])
    assert set(golden["headers"]) <= set(message["headers"]["properties"]), "nothing is sent that is not said"


@every_message
def test_a_repeat_is_known_by_what_our_own_readers_go_by(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    golden, repeats = GOLDENS[message["name"]], message["x-repeats"]
    event = EVENT_TYPES[message["name"]].model_validate(golden["value"])
    identity = [value_at(place, golden) for place in repeats["identity"]]
    if isinstance(event.guard, Newer):
        assert repeats["rule"] == "newer"
        order = [value_at(place, golden) for place in repeats["order"]]
        assert (identity, [0, *order][-2:]) == ([event.guard.subject], list(event.guard.order))
    elif isinstance(event.guard, Once):
        assert repeats["rule"] == "once"
        kind = type(event).__name__
        short = [kind if part == message["name"] else str(part) for part in identity]
        assert "/".join(short) == event.guard.key
    else:
        assert repeats["rule"] in ("latest", "numbered")
    if repeats["rule"] == "numbered":
        items = value_at(repeats["items"], golden)
        numbers = [value_at(f"$message.payload#{repeats['number']}", {"value": item}) for item in items]
        assert numbers == sorted(set(numbers))
    else:
        assert isinstance(value_at(repeats.get("document", "$message.payload#"), golden), dict)


FIELDS = [
    (name, field)
    for name, schema in DOCUMENT["components"]["schemas"].items()
    for field, said in schema.get("properties", {}).items()
    if "$ref" not in said and "allOf" not in said
]


def test_every_field_is_described() -> None:
    """A field that is a model or an enumeration is described where that is."""
    schemas = DOCUMENT["components"]["schemas"]
    mute = [f"{name}.{field}" for name, field in FIELDS if not _said(schemas[name]["properties"][field])]
    assert len(FIELDS) > 100
    assert mute == []


def _said(schema: dict[str, Any]) -> bool:
    return "description" in schema or any("description" in each for each in schema.get("anyOf", ()))


def test_nothing_stands_beside_a_reference() -> None:
    """Draft 7 ignores it."""

    def beside(part: Any) -> Iterator[Any]:
        if isinstance(part, dict):
            if "$ref" in part and len(part) > 1:
                yield part
            for item in part.values():
                yield from beside(item)
        elif isinstance(part, list):
            for item in part:
                yield from beside(item)

    assert list(beside(DOCUMENT["components"]["schemas"])) == []


def test_a_wrong_payload_does_not_fit() -> None:
    """The test above can fail."""
    payload = {"$ref": "asyncapi#/components/schemas/MetricBatch"}
    validator = Draft7Validator(payload, registry=REGISTRY)
    good = {"task_id": "t", "attempt": 1, "points": [[1, 2.5, 3, {"loss": "NaN"}]]}
    assert validator.is_valid(good)
    for points in ([], [[1, 2.5, 3]], [[1, 2.5, 3, {}, 5]], [[1, 2.5, 3, {"loss": "many"}]]):
        assert not validator.is_valid({**good, "points": points}), points
