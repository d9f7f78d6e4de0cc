"""A stranger: reads every topic with a plain Kafka consumer, and knows nothing but what `asyncapi.json` says.

Nothing of `trainwright` may be imported here (a test sees to that): what cannot be written with the document alone
is missing from the document.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from jsonschema import Draft7Validator, FormatChecker, ValidationError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "contracts" / "asyncapi.json"
Json = dict[str, Any]
Identity = tuple[Any, ...]

formats = FormatChecker(())
formats.checks("date-time", raises=ValueError)(
    lambda text: not isinstance(text, str) or bool(datetime.fromisoformat(text))
)


class Strange(Exception):
    """A record that is not as the document has it."""


@dataclass(frozen=True, slots=True)
class Message:
    """A record that was understood."""

    topic: str
    partition: int
    offset: int
    kind: Json
    headers: dict[str, str]
    payload: Json

    @property
    def title(self) -> str:
        return str(self.kind["title"])

    def at(self, expression: str) -> Any:
        """Return what a runtime expression points to."""
        part, _, pointer = expression.removeprefix("$message.").partition("#")
        return resolve({"payload": self.payload, "header": self.headers}[part], pointer)

    @property
    def identity(self) -> Identity:
        return tuple(self.at(place) for place in self.kind["x-repeats"]["identity"])


class Stranger:
    """Knows topics, keys, headers and payloads from the document, and takes it at its word: no field more."""

    def __init__(self) -> None:
        document = resolved_messages(json.loads(DOCUMENT.read_text()))
        self.kinds: dict[str, dict[str, Json]] = {
            channel["address"]: {kind["name"]: kind for kind in channel["messages"].values()}
            for channel in document["channels"].values()
        }
        self._keeps = {
            channel["address"]: channel["bindings"]["kafka"]["topicConfiguration"]["retention.ms"] == -1
            for channel in document["channels"].values()
        }
        components = {"schemas": closed(document["components"]["schemas"])}
        self._payloads = {
            kind["name"]: Draft7Validator(
                {"allOf": [kind["payload"]], "components": components}, format_checker=formats
            )
            for kinds in self.kinds.values()
            for kind in kinds.values()
        }

    async def read(self, bootstrap: str) -> list[ConsumerRecord]:
        """Return every record of every topic, from the beginning to what was the end when asked."""
        consumer = AIOKafkaConsumer(*self.kinds, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            partitions = consumer.assignment()
            if missing := self.kinds.keys() - {partition.topic for partition in partitions}:
                raise Strange(f"no such topics: {missing}")
            self._check_beginnings(await consumer.beginning_offsets(list(partitions)))
            ends = await consumer.end_offsets(list(partitions))
            records: list[ConsumerRecord] = []
            while any([await consumer.position(partition) < end for partition, end in ends.items()]):
                for found in (await consumer.getmany(timeout_ms=1000)).values():
                    records += found
            return records
        finally:
            await consumer.stop()

    def _check_beginnings(self, beginnings: dict[TopicPartition, int]) -> None:
        for partition, offset in beginnings.items():
            if offset and self._keeps[partition.topic]:
                raise Strange(f"{partition.topic} is to be kept for ever, but begins at {offset}")

    def understand(self, record: ConsumerRecord) -> Message:
        """Return what a record says.

        Raises:
            Strange: The document does not have such a record.
        """
        try:
            headers = texts(record.headers)
            kind = self.kinds[record.topic][headers["ce_type"]]
            unknown = headers.keys() - kind["headers"]["properties"].keys()
            if unknown:
                raise Strange(f"headers that nobody told of: {unknown}")
            Draft7Validator(kind["headers"], format_checker=formats).validate(headers)
            payload = json.loads(record.value, parse_constant=refuse_constant)
            self._payloads[kind["name"]].validate(payload)
            message = Message(record.topic, record.partition, record.offset, kind, headers, payload)
            self._check_equals(message, record.key.decode())
        except (Strange, KeyError, ValueError, TypeError, AttributeError, ValidationError) as error:
            where = f"{record.topic}/{record.partition}@{record.offset}"
            raise Strange(f"{where}: {type(error).__name__}: {str(error)[:800]}") from error
        return message

    def _check_equals(self, message: Message, key: str) -> None:
        if key != message.at(message.kind["bindings"]["kafka"]["key"]["x-equals"]):
            raise Strange(f"the key is {key!r}")
        if key != message.headers["ce_subject"]:
            raise Strange(f"the key is {key!r}, the subject {message.headers['ce_subject']!r}")
        for name, said in message.kind["headers"]["properties"].items():
            if "x-equals" in said and message.headers.get(name, "0") != str(message.at(said["x-equals"])):
                raise Strange(f"{name} is {message.headers.get(name)!r}, not what is at {said['x-equals']}")


@dataclass(slots=True)
class State:
    """What a stranger knows after a number of messages, each folded by the rule that it comes with."""

    documents: dict[tuple[str, Identity], Json] = field(default_factory=dict)
    items: dict[tuple[str, Identity], dict[int, Any]] = field(default_factory=dict)
    repeats: int = 0
    _orders: dict[tuple[str, Identity], list[int]] = field(default_factory=dict)

    def fold(self, messages: Iterable[Message]) -> "State":
        """Take messages in; repeats and what is late make no difference."""
        for message in messages:
            repeats = message.kind["x-repeats"]
            subject = (message.topic, message.identity)
            if repeats["rule"] == "numbered":
                kept = self.items.setdefault(subject, {})
                for item in message.at(repeats["items"]):
                    kept.setdefault(resolve(item, repeats["number"]), item)
            elif self._is_news(subject, repeats, message):
                self.documents[subject] = message.at(repeats.get("document", "$message.payload#"))
            else:
                self.repeats += 1
        return self

    def _is_news(self, subject: tuple[str, Identity], repeats: Json, message: Message) -> bool:
        if repeats["rule"] == "once":
            return subject not in self.documents
        if repeats["rule"] == "newer":
            order = [message.at(place) for place in repeats["order"]]
            if order <= self._orders.get(subject, []):
                return False
            self._orders[subject] = order
        return True

    def of(self, topic: str) -> dict[Identity, Json]:
        """Return the documents of a topic by identity."""
        return {identity: found for (name, identity), found in self.documents.items() if name == topic}


def resolve(value: Any, pointer: str) -> Any:
    """Return what a JSON Pointer points to."""
    for step in pointer.split("/")[1:]:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def resolved_messages(document: Json) -> Json:
    """Return the document with each channel's messages in the place of references to them."""
    for channel in document["channels"].values():
        channel["messages"] = {
            name: resolve(document, reference["$ref"].removeprefix("#"))
            for name, reference in channel["messages"].items()
        }
    return document


def closed(schema: Any) -> Any:
    """Return a schema that takes no field that it does not name: whatever is sent is to be documented."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        found["additionalProperties"] = False
    return found


def texts(headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Return headers as texts, each there once."""
    found = dict[str, str]()
    for name, value in headers:
        if name in found:
            raise Strange(f"two headers {name}")
        found[name] = value.decode()
    return found


def refuse_constant(name: str) -> Iterator[None]:
    """JSON has no NaN, though Python reads it."""
    raise Strange(f"{name} is not JSON")
