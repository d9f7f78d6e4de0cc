"""A stranger with nothing but asyncapi.json reads the log of a real platform, and everything is as it says.

The stranger knows the document, Kafka and JSON Schema; nothing of this module's reading uses the product's code.
"""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from tests.e2e.platform_up import FINAL, platform, script, submit

DOCUMENT = json.loads((Path(__file__).resolve().parents[2] / "docs" / "contracts" / "asyncapi.json").read_text())
REGISTRY: Registry[Any] = Registry().with_resource("asyncapi", DRAFT7.create_resource(DOCUMENT))
CHANNELS = {channel["address"]: channel for channel in DOCUMENT["channels"].values()}

TRAINING = """
import math, sys, time
import trainwright
run = trainwright.init()
for step in range(1, 4):
    run.log(step, {"loss": math.nan if step == 2 else 1 / step}, total_steps=3)
    print("step", step)
print("careful", file=sys.stderr)
(run.output / "model.txt").write_text("weights")
time.sleep(2.5)
"""


def at(reference: str) -> Any:
    """Return what a reference of the document points to."""
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def wrong_with(record: ConsumerRecord) -> list[str]:
    """Return what a record has that the document does not say."""
    messages = {
        (message := at(ref["$ref"]))["name"]: message for ref in CHANNELS[record.topic]["messages"].values()
    }
    headers = {name: value.decode() for name, value in record.headers}
    message = messages.get(headers.get("ce_type", ""))
    if message is None:
        return [f"{record.topic}: a record of type {headers.get('ce_type')} is not announced"]
    found = [
        f"{message['title']}: {error.message}"
        for error in Draft7Validator(message["headers"]).iter_errors(headers)
    ]
    payload = {"$ref": f"asyncapi{message['payload']['$ref']}"}
    errors = Draft7Validator(payload, registry=REGISTRY).iter_errors(json.loads(record.value))
    found += [f"{message['title']} at {error.json_path}: {error.message}" for error in errors]
    if record.key is None or record.key.decode() != headers["ce_subject"]:
        found.append(f"{message['title']}: the key is not the subject")
    return found


async def everything_on(bootstrap: str) -> list[ConsumerRecord]:
    """Read every announced topic from its beginning to its present end."""
    consumer = AIOKafkaConsumer(*CHANNELS, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions: list[TopicPartition] = list(consumer.assignment())
        assert {partition.topic for partition in partitions} == set(CHANNELS), "every announced topic is there"
        ends = await consumer.end_offsets(partitions)
        records: list[ConsumerRecord] = []
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records += batch
        return records
    finally:
        await consumer.stop()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[ConsumerRecord]:
    """Run one task that ends well and one that fails on a real platform; return what was said meanwhile."""
    folder = tmp_path_factory.mktemp("stranger")
    with platform(folder / "home") as up, up.client() as api:
        tasks = [
            submit(api, script(folder / "good.py", TRAINING)),
            submit(api, script(folder / "bad.py", "raise ValueError('no')")),
        ]
        deadline = time.monotonic() + 90
        while any(api.get(f"/tasks/{task}").json()["status"] not in FINAL for task in tasks):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(2)
        port = json.loads((folder / "home" / "home.json").read_text())["kafka_port"]
        return asyncio.run(everything_on(f"127.0.0.1:{port}"))


def test_every_record_is_as_announced(log: list[ConsumerRecord]) -> None:
    found = Counter(what for record in log for what in wrong_with(record))
    assert not found, found
    assert len(log) > 20


def test_a_whole_life_was_said(log: list[ConsumerRecord]) -> None:
    """Enough kinds were there for the test above to mean something."""
    kinds = {dict(record.headers)["ce_type"].decode().split(".")[2] for record in log}
    assert kinds >= {
        *("TaskCreated", "TaskReady", "TaskStatusChanged", "PlacementAssigned", "PlacementReleased"),
        *("RunAttempt", "AttemptStarted", "AttemptEnded", "WorkerRegistered", "WorkerHeartbeat"),
        *("MetricBatch", "LogBatch", "ModelVersionRegistered"),
    }


def test_identifiers_are_unique_and_versions_rise(log: list[ConsumerRecord]) -> None:
    """Nothing was killed here, so nothing had to be said twice."""
    identifiers = Counter(dict(record.headers)["ce_id"] for record in log)
    assert [name for name, times in identifiers.items() if times > 1] == []
    for topic in ("trainwright.task.v1", "trainwright.queue.v1"):
        versions: dict[bytes, list[int]] = {}
        for record in log:
            if record.topic == topic:
                versions.setdefault(record.key, []).append(int(dict(record.headers)["ce_version"]))
        for key, seen in versions.items():
            assert seen == sorted(set(seen)), (topic, key, seen)


def test_numbers_that_json_lacks_are_texts(log: list[ConsumerRecord]) -> None:
    points = [
        point
        for record in log
        if record.topic == "trainwright.metric.v1"
        for point in json.loads(record.value)["points"]
    ]
    assert [point[3]["loss"] for point in points] == [1.0, "NaN", pytest.approx(1 / 3)]
