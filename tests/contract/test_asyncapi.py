"""The AsyncAPI document is enough for a stranger: everything it points to is there, and its examples are true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from trainwright.contracts.topics import TOPICS, Topic

DOCUMENT = json.loads((Path(__file__).resolve().parents[2] / "docs" / "contracts" / "asyncapi.json").read_text())
REGISTRY: Registry[Any] = Registry().with_resource("asyncapi", DRAFT7.create_resource(DOCUMENT))

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


@pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
def test_every_message_has_an_example_that_fits_what_is_said_of_it(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    (example,) = message["examples"]
    Draft7Validator(message["headers"]).validate(example["headers"])
    payload = {"$ref": f"asyncapi{message['payload']['$ref']}"}
    Draft7Validator(payload, registry=REGISTRY).validate(example["payload"])
    assert example["headers"]["ce_type"] == message["name"]


def test_a_wrong_payload_does_not_fit() -> None:
    """The test above can fail."""
    payload = {"$ref": "asyncapi#/components/schemas/MetricBatch"}
    validator = Draft7Validator(payload, registry=REGISTRY)
    good = {"task_id": "t", "attempt": 1, "points": [[1, 2.5, 3, {"loss": "NaN"}]]}
    assert validator.is_valid(good)
    for points in ([], [[1, 2.5, 3]], [[1, 2.5, 3, {}, 5]], [[1, 2.5, 3, {"loss": "many"}]]):
        assert not validator.is_valid({**good, "points": points}), points
