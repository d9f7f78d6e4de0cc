"""Ask Kafka for the identities of topics, which aiokafka cannot: one that is deleted and made anew has another."""

import uuid
from collections.abc import Collection
from io import BytesIO

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

TEXT, NUMBERS = CompactString("utf-8"), CompactArray(Int32)
TAGS = ("tags", TaggedFields)


class _Uuid:
    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


NO_ID = uuid.UUID(int=0)


class _Metadata12(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT), TAGS)),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", TEXT),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", NUMBERS),
                        ("isr", NUMBERS),
                        ("offline_replicas", NUMBERS),
                        TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                TAGS,
            ),
        ),
        TAGS,
    )


class _AskMetadata12(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _Metadata12
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", TEXT), TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_authorized_operations", Boolean),
        TAGS,
    )


class _AskMetadata(Request[_AskMetadata12]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_AskMetadata12]) -> _AskMetadata12:
        return request_struct_class([(NO_ID, name, {}) for name in self._topics], False, False, {})


async def topic_ids(client: AIOKafkaClient, topics: Collection[str]) -> dict[str, str]:
    """Return the identity of each of these topics that is there; nothing is created by asking."""
    answer = await client.send(client.get_random_node(), _AskMetadata(topics))
    found = {topic["name"]: topic["topic_id"] for topic in answer.to_object()["topics"] if not topic["error_code"]}
    return {name: str(id) for name, id in found.items() if id != NO_ID}
