"""A strict stranger: the example `rebuild.py` that also checks every record against what `asyncapi.json` says.

Nothing of `trainwright` may be imported here or there (a test sees to that): what cannot be written with the
document alone is missing from the document.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from jsonschema import Draft7Validator, FormatChecker, ValidationError

from examples.rebuild import DOCUMENT, Message, kinds_by_channel, read_all

formats = FormatChecker(())
formats.checks("date-time", raises=ValueError)(
    lambda text: not isinstance(text, str) or bool(datetime.fromisoformat(text))
)


class Strange(Exception):
    """A record that is not as the document has it."""


class Stranger:
    """Knows topics, keys, headers and payloads from the document, and takes it at its word: no field more."""

    def __init__(self) -> None:
        document = json.loads(DOCUMENT.read_text())
        self.kinds = kinds_by_channel(document)
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
        async with AIOKafkaConsumer(*self.kinds, bootstrap_servers=bootstrap) as consumer:
            partitions = consumer.assignment()
            if missing := self.kinds.keys() - {partition.topic for partition in partitions}:
                raise Strange(f"no such topics: {missing}")
            self._check_beginnings(await consumer.beginning_offsets(list(partitions)))
        return await read_all(bootstrap, self.kinds)

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
