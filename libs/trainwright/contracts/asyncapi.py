"""The topic table as AsyncAPI 3.0: enough for a stranger to write a plain Kafka consumer.

Payloads are in AsyncAPI's own schema format (JSON Schema draft 7), so that every tool can read them. They say what
is written; what is accepted besides (``16Gi`` for bytes) does not concern a reader.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from trainwright.contracts.base import Event
from trainwright.contracts.reading import Reading, reading_of
from trainwright.contracts.topics import TOPICS, Topic

VERSION = "1.1.0"

_INTRODUCTION = """\
Everything that Trainwright's services say to each other, and all of it is public: other systems may subscribe.
Read with any Kafka client; write nothing, and let no group's name begin with `trainwright.`.

**A record** has the event's data alone as its value: JSON in UTF-8, never null. What surrounds it is a
CloudEvents 1.0 envelope in binary mode: headers `ce_*`, each a text in UTF-8, numbers in decimal. `ce_type` says
which message it is: it equals the `name` of one of the channel's messages. The record's key equals `ce_subject`.
Places are given as AsyncAPI's runtime expressions, a JSON Pointer into the payload or a header; `x-equals` says
that a key or a header has the value that is found there.

**What may be added** within a major version: message types, fields, headers, values of enumerations. Ignore what
you do not know. A breaking change comes as a new type on a topic of the next major version.

**Delivery** is at least once, in order per key except after a fault, without order between topics. The same
record again has the same `ce_id`; an event that is said again because somebody should have answered has a new
one. So do not go by `ce_id`; go by the message's `x-repeats`, whose `rule` is one of:

- `newer`: the record holds a whole `document`. Apply it if the numbers at `order` are above those that you
  applied last for the same `identity` in this channel (the first one decides, then the second), else ignore it.
- `once`: apply it if you have not applied one of this `identity`.
- `numbered`: the record is a batch of `items`, each with its own `number` (a pointer within the item). Skip the
  numbers that you have for this `identity`.
- `latest`: it takes the place of the one before, of the same type and `identity`. Repeats do no harm.

**Versions and attempts.** `ce_version` is the version of the owner's document: it grows with every change, and
the highest is the present state, whatever the order of arrival. `ce_attempt` is the number of a try at a task.
The scheduler counts them up; the highest number that you have seen on any topic is the one that counts (a
fence): what a lower one still says is history. Metrics and logs of an attempt that was replaced stay on their
topics.

**Starting.** Topics that are kept for ever hold everything since the beginning: read them from the earliest
offset, fold the documents, and you have the present state. The others tell what happens now. Embedded
installations have one partition per topic; what `partitions` says is a production's default.

**Values.** Times are UTC, ISO-8601 with `Z`. Numbers that JSON does not have are the texts `NaN`, `Infinity` and
`-Infinity`. A field that is missing (in records from before it was added) has its default. No order follows from
times.
"""

_MOMENT = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$"
_TEXT = {"type": "string", "minLength": 1}
_ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {
    "ce_specversion": {"const": "1.0", "type": "string"},
    "ce_id": {**_TEXT, "description": "Identifies the record's event; the same record again has the same one."},
    "ce_type": {**_TEXT, "description": "Which message it is; dispatch on it."},
    "ce_source": {**_TEXT, "description": "Who says it, e.g. `/services/task`."},
    "ce_subject": {**_TEXT, "description": "What it is about; equals the record's key."},
    "ce_time": {**_TEXT, "format": "date-time", "pattern": _MOMENT, "description": "When it was said, UTC."},
    "content-type": {"const": "application/json", "type": "string"},
    "ce_traceparent": {**_TEXT, "description": "W3C Trace Context of what caused the event."},
}
_ALWAYS = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_time", "content-type")
_NUMBER = {"type": "string", "pattern": "^[0-9]+$"}


def asyncapi(goldens: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the AsyncAPI document; ``goldens`` are examples by event type, as they lie on the topic."""
    kinds = [kind for topic in TOPICS for kind in topic.events]
    return {
        "asyncapi": "3.0.0",
        "id": "urn:trainwright:events",
        "info": {
            "title": "Trainwright events",
            "version": VERSION,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "127.0.0.1:9092",
                "protocol": "kafka",
                "description": "An embedded installation chooses its port once: `trainwright status` shows it.",
            }
        },
        "channels": {_channel_id(topic): _channel(topic) for topic in TOPICS},
        "operations": {f"read_{_channel_id(topic)}": _operation(topic) for topic in TOPICS},
        "components": {
            "messages": {kind.__name__: _message(kind, goldens.get(kind.type_name())) for kind in kinds},
            "schemas": _payloads(kinds),
        },
    }


def _channel_id(topic: Topic) -> str:
    return topic.name.split(".")[1]


def _channel(topic: Topic) -> dict[str, Any]:
    config: dict[str, Any] = {
        "cleanup.policy": ["delete"],
        "retention.ms": topic.retention_ms,
        "retention.bytes": topic.retention_bytes,
    }
    return {
        "address": topic.name,
        "title": topic.says,
        "description": f"Key: {_keys(topic)}. Written by: {', '.join(topic.writers)}. Kept {_kept(topic)}.",
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in topic.events},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": config,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _keys(topic: Topic) -> str:
    others = [
        f"`{key}` of {kind.__name__}"
        for kind in topic.events
        if (key := reading_of(kind).key.rpartition("/")[2]) != topic.key
    ]
    return ", ".join([f"`{topic.key}`", *others])


def _kept(topic: Topic) -> str:
    return "for ever" if topic.retention_ms < 0 else f"{topic.retention_ms / 3_600_000:g} h"


def _operation(topic: Topic) -> dict[str, Any]:
    channel = f"#/channels/{_channel_id(topic)}"
    return {
        "action": "receive",
        "channel": {"$ref": channel},
        "summary": f"Read {topic.name}: {topic.says}",
        "messages": [{"$ref": f"{channel}/messages/{kind.__name__}"} for kind in topic.events],
    }


def _message(kind: type[Event], golden: Mapping[str, Any] | None) -> dict[str, Any]:
    topic = next(topic for topic in TOPICS if kind in topic.events)
    reading = reading_of(kind)
    key = {"type": "string", "description": f"The {reading.key.rpartition('/')[2]}; equals `ce_subject`."}
    message: dict[str, Any] = {
        "name": kind.type_name(),
        "title": kind.__name__,
        "summary": (kind.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/json",
        "headers": _headers(kind, reading, topic),
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "bindings": {"kafka": {"key": {**key, "x-equals": _at(reading.key)}, "bindingVersion": "0.5.0"}},
        "x-repeats": _repeats(reading),
    }
    if golden is not None:
        message["examples"] = [{"name": kind.__name__, "headers": golden["headers"], "payload": golden["value"]}]
    return message


def _headers(kind: type[Event], reading: Reading, topic: Topic) -> dict[str, Any]:
    attributes: dict[str, Mapping[str, Any]] = {
        **_ATTRIBUTES,
        "ce_type": {**_ATTRIBUTES["ce_type"], "const": kind.type_name()},
        "ce_source": {**_ATTRIBUTES["ce_source"], "enum": [f"/services/{writer}" for writer in topic.writers]},
        "ce_subject": {**_ATTRIBUTES["ce_subject"], "x-equals": _at(reading.key)},
    }
    required = [*_ALWAYS]
    if reading.version is not None:
        words = "Version of the document inside."
        attributes["ce_version"] = {**_NUMBER, "description": words, "x-equals": _at(reading.version)}
        required.append("ce_version")
    if reading.attempt is not None:
        words = "Number of the attempt." if reading.attempt_from_start else "The attempt; left out while it is 0."
        attributes["ce_attempt"] = {**_NUMBER, "description": words, "x-equals": _at(reading.attempt)}
        required += ["ce_attempt"] if reading.attempt_from_start else []
    return {"type": "object", "required": required, "properties": attributes}


def _repeats(reading: Reading) -> dict[str, Any]:
    """Return how a repeat is known, in the words of the introduction."""
    said: dict[str, Any] = {"rule": reading.rule, "identity": [_at(place) for place in reading.identity]}
    if reading.order:
        said["order"] = [_at(place) for place in reading.order]
    if reading.items is not None:
        said |= {"items": _at(reading.items), "number": reading.number}
    if reading.document is not None:
        said["document"] = _at(reading.document)
    return said


def _at(place: str) -> str:
    """Return a place as a runtime expression."""
    return "$message.header#/ce_type" if place == "type" else f"$message.payload#{place}"


def _payloads(kinds: Sequence[type[Event]]) -> dict[str, Any]:
    _, found = models_json_schema(
        [(kind, "serialization") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    payloads: dict[str, Any] = _as_draft_7(open_ended(found["$defs"]))
    return payloads


def open_ended(schema: Any) -> Any:
    """Return a schema that lets unknown fields pass, also where people's requests may have none."""
    if isinstance(schema, list):
        return [open_ended(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = ("additionalProperties", False)
    return {key: open_ended(value) for key, value in schema.items() if (key, value) != closed}


def _as_draft_7(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_as_draft_7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {("items" if key == "prefixItems" else key): _as_draft_7(value) for key, value in schema.items()}
    if "prefixItems" in schema:
        renamed["additionalItems"] = False
    if "$ref" in renamed and len(renamed) > 1:  # draft 7 ignores whatever stands beside a reference
        renamed["allOf"] = [{"$ref": renamed.pop("$ref")}]
    return renamed
