"""Rebuild tasks, attempts, placements, models and metric curves from the topics alone: nothing of Trainwright.

`python examples/rebuild.py 127.0.0.1:9092` prints them as JSON; `trainwright status` shows the address. What it
knows of topics, keys and repeats it reads from `asyncapi.json`. It reads to the end of the log, once.
"""

import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "contracts" / "asyncapi.json"
TASK, QUEUE, ATTEMPT, METRIC, RESULT = (
    f"trainwright.{noun}.v1" for noun in ("task", "queue", "attempt", "metric", "result")
)
Json = dict[str, Any]
Identity = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A record, and what the document says of its kind."""

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
        """Return what a runtime expression of the document points to."""
        part, _, pointer = expression.removeprefix("$message.").partition("#")
        return resolve({"payload": self.payload, "header": self.headers}[part], pointer)

    @property
    def identity(self) -> Identity:
        return tuple(self.at(place) for place in self.kind["x-repeats"]["identity"])


@dataclass(slots=True)
class State:
    """What is known after a number of messages, each folded by the rule that the document has for its kind."""

    documents: dict[tuple[str, Identity], Json] = field(default_factory=dict)
    """The newest document by topic and identity."""
    items: dict[tuple[str, Identity], dict[int, Any]] = field(default_factory=dict)
    """Points and records of batches by topic and identity, each by its number."""
    attempts: dict[tuple[str, int], Json] = field(default_factory=dict)
    """Every attempt's newest document by task and number."""
    repeats: int = 0
    orders: dict[tuple[str, Identity], list[int]] = field(default_factory=dict)

    def fold(self, messages: Iterable[Message]) -> "State":
        """Take messages in; repeats and what is late make no difference."""
        for message in messages:
            repeats = message.kind["x-repeats"]
            subject = (message.topic, message.identity)
            if message.topic == ATTEMPT:
                self._note_attempt(message.payload["attempt"])
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
            if order <= self.orders.get(subject, []):
                return False
            self.orders[subject] = order
        return True

    def _note_attempt(self, attempt: Json) -> None:
        last = self.attempts.setdefault((attempt["task_id"], attempt["attempt"]), attempt)
        if attempt["version"] > last["version"]:
            self.attempts[attempt["task_id"], attempt["attempt"]] = attempt

    def of(self, topic: str) -> dict[Identity, Json]:
        """Return the documents of a topic by identity."""
        return {identity: found for (name, identity), found in self.documents.items() if name == topic}

    def curve(self, task_id: str, name: str) -> list[tuple[int, Any]]:
        """Return (step, value) of what counts of one metric, over all attempts of a task.

        An attempt counts up to the step where a later one went on, and below the first step that a later one
        logged itself; nothing counts of it when a later one began anew.
        """
        logged = self._logged(task_id)
        started = {number: doc["resume_step"] for (task, number), doc in self.attempts.items() if task == task_id}
        counted: dict[int, Any] = {}
        bound: float | None = None
        for number in sorted(logged.keys() | started.keys(), reverse=True):
            points = [(p[2], p[3][name]) for _, p in sorted(logged.get(number, {}).items()) if name in p[3]]
            counted |= {step: value for step, value in points if bound is None or step <= bound}
            bounds = [step - 1 for step, _ in points] if points else []
            if number in started:
                bounds.append(started[number] or float("-inf"))
            bound = min([*bounds, *([] if bound is None else [bound])], default=None)
        return sorted(counted.items())

    def metrics(self, task_id: str) -> set[str]:
        """Return the names of what a task has logged."""
        return {
            name for points in self._logged(task_id).values() for point in points.values() for name in point[3]
        }

    def _logged(self, task_id: str) -> dict[int, dict[int, Any]]:
        """Return a task's points by attempt and number; a point is (number, time, step, values)."""
        subjects = {identity: points for (topic, identity), points in self.items.items() if topic == METRIC}
        return {attempt: points for (task, attempt), points in subjects.items() if task == task_id}

    def told(self) -> Json:
        """Return all of it as JSON."""
        tasks = self.of(TASK)
        return {
            "tasks": {task_id: task for (task_id,), task in tasks.items()},
            "attempts": {f"{task_id}/{number}": found for (task_id, number), found in self.attempts.items()},
            "placements": {task_id: placement for (task_id,), placement in self.of(QUEUE).items()},
            "models": {model_id: model for (model_id,), model in self.of(RESULT).items()},
            "curves": {
                task_id: {name: self.curve(task_id, name) for name in sorted(self.metrics(task_id))}
                for (task_id,) in tasks
            },
        }


def resolve(value: Any, pointer: str) -> Any:
    """Return what a JSON Pointer points to."""
    for step in pointer.split("/")[1:]:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def kinds_by_channel(document: Json) -> dict[str, dict[str, Json]]:
    """Return what the document says of every message, by topic and `ce_type`."""
    found: dict[str, dict[str, Json]] = {}
    for channel in document["channels"].values():
        messages = [resolve(document, each["$ref"].removeprefix("#")) for each in channel["messages"].values()]
        found[channel["address"]] = {message["name"]: message for message in messages}
    return found


def understood(record: ConsumerRecord, kinds: dict[str, dict[str, Json]]) -> Message | None:
    """Return what a record says; None for a kind that the document does not have."""
    headers = {name: value.decode() for name, value in record.headers}
    kind = kinds[record.topic].get(headers.get("ce_type", ""))
    if kind is None:
        return None
    payload = json.loads(record.value)
    return Message(record.topic, record.partition, record.offset, kind, headers, payload)


async def read_all(address: str, topics: Iterable[str]) -> list[ConsumerRecord]:
    """Return every record of the topics, from the beginning to what was the end when asked."""
    async with AIOKafkaConsumer(*topics, bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        records: list[ConsumerRecord] = []
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for found in (await consumer.getmany(timeout_ms=1000)).values():
                records += found
        return records


async def main(address: str) -> None:
    """Print the state that the log tells."""
    kinds = kinds_by_channel(json.loads(DOCUMENT.read_text()))
    state = State()
    for record in await read_all(address, (TASK, QUEUE, ATTEMPT, METRIC, RESULT)):
        message = understood(record, kinds)
        state.fold([] if message is None else [message])
    print(json.dumps(state.told(), indent=2))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
