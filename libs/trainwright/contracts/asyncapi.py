"""The topic table as AsyncAPI 3.0: enough for a stranger to write a plain Kafka consumer.

Payloads are in AsyncAPI's own schema format (JSON Schema draft 7), so that every tool can read them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from trainwright.contracts.base import Event
from trainwright.contracts.topics import TOPICS, Topic

VERSION = "1.0.0"

_INTRODUCTION = """\
Everything that Trainwright's services say to each other, and all of it is public: other systems may subscribe.

A record's value is the event's data alone, JSON in UTF-8. What surrounds it is a CloudEvents 1.0 envelope in
binary mode: headers `ce_*`, each a text in UTF-8. Dispatch on `ce_type`; ignore types and fields that you do not
know: within a major version changes are additive. A breaking change comes as a new type on a new topic.

Delivery is at least once, in order per key except after a fault. Lifecycle events carry the owner's whole document
and its `version` (also in `ce_version`): apply one if its version is above the last one that you applied for the
same identifier, else ignore it. Of attempts the pair (attempt, version) counts. Batches of metrics and logs number
what they hold: skip the numbers that you have. The same event said again has the same `ce_id`.

Topics without a limit of time hold everything since the beginning: read from the earliest offset and fold the
documents, and you have the present state. Embedded installations have one partition per topic.
"""

_TEXT = {"type": "string"}
_ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {
    "ce_specversion": {"const": "1.0", "type": "string"},
    "ce_id": {**_TEXT, "description": "Identifies the event; a repeat has the same one."},
    "ce_type": {**_TEXT, "description": "Which event it is; dispatch on it."},
    "ce_source": {**_TEXT, "description": "Who says it, e.g. `/services/task`."},
    "ce_subject": {**_TEXT, "description": "What it is about; equals the record's key."},
    "ce_time": {**_TEXT, "format": "date-time", "description": "When it was said, UTC."},
    "content-type": {"const": "application/json", "type": "string"},
    "ce_version": {
        **_TEXT,
        "pattern": "^[0-9]+$",
        "description": "Version of the document inside, where there is one.",
    },
    "ce_attempt": {**_TEXT, "pattern": "^[0-9]+$", "description": "Number of the attempt, where there is one."},
    "ce_traceparent": {**_TEXT, "description": "W3C Trace Context of what caused the event."},
}
_ALWAYS = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_time", "content-type")


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
        "description": f"Key: `{topic.key}`. Written by: {', '.join(topic.writers)}. Kept {_kept(topic)}.",
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
    summary = (kind.__doc__ or "").strip().splitlines()[0]
    message: dict[str, Any] = {
        "name": kind.type_name(),
        "title": kind.__name__,
        "summary": summary,
        "contentType": "application/json",
        "headers": _headers(kind),
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "bindings": {
            "kafka": {"key": {"type": "string", "description": f"The {topic.key}."}, "bindingVersion": "0.5.0"}
        },
    }
    if golden is not None:
        message["examples"] = [{"name": kind.__name__, "headers": golden["headers"], "payload": golden["value"]}]
    return message


def _headers(kind: type[Event]) -> dict[str, Any]:
    attributes = {**_ATTRIBUTES, "ce_type": {**_ATTRIBUTES["ce_type"], "const": kind.type_name()}}
    return {"type": "object", "required": list(_ALWAYS), "properties": attributes}


def _payloads(kinds: Sequence[type[Event]]) -> dict[str, Any]:
    _, found = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
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
    return renamed
