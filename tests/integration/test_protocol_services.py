"""What every service's side of the log has in common, told of the real list of services."""

import ast
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from services.app import SERVICES
from tests.harness import services
from tests.integration.runtime_parts import client_of
from tests.kafka_fixture import own_broker
from trainwright.contracts.topics import TOPICS
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.service import Runtime
from trainwright.runtime.settings import RuntimeSettings

ROOT = Path(__file__).resolve().parents[2]
CONSUMERS = {"AIOKafkaConsumer"}
PRODUCERS = {"AIOKafkaProducer"}


def calls(names: set[str]) -> list[tuple[str, dict[str, str]]]:
    """Return where the product makes clients, and with which settings."""
    found = []
    for path in sorted([*(ROOT / "libs").rglob("*.py"), *(ROOT / "services").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                settings = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
                found.append((str(path.relative_to(ROOT)), settings))
    return found


def test_no_consumer_commits_by_itself() -> None:
    """Auto-commit says 'done' of what was only read."""
    found = calls(CONSUMERS)
    assert {"libs/trainwright/runtime/kafka.py", "services/trainer_worker/commands.py"} <= {p for p, _ in found}
    for path, settings in found:
        assert settings.get("enable_auto_commit") == "False", path


def test_producers_are_made_in_one_place_and_durable_by_default() -> None:
    assert [path for path, _ in calls(PRODUCERS)] == ["libs/trainwright/runtime/kafka.py"]
    ((_, settings),) = calls(PRODUCERS)
    assert settings["acks"] == "'all' if durable else 1"
    assert settings["enable_idempotence"] == "durable"


async def test_every_service_and_topic_has_a_group_of_its_own(kafka: str) -> None:
    runtime = Runtime(RuntimeSettings(store="sqlite:/nowhere", blobs="dir:/nowhere", kafka=kafka))
    await client_of(kafka).ensure_topics()
    groups: Counter[str] = Counter()
    for name, build in SERVICES.items():
        service = build(runtime)
        assert service.name == name
        for topic, handlers in service.reactions.items():
            assert topic in TOPICS
            assert set(handlers) <= set(topic.events), "a handler of an event that never comes on its topic"
            async with Kafka(runtime.settings).consumer(name, topic) as consumer:
                assert consumer._enable_auto_commit is False
                assert consumer._auto_offset_reset == "earliest"
                groups[consumer._group_id] += 1
    assert len(groups) == sum(groups.values()) >= 10


@pytest.mark.parametrize("paused", [False, True])
async def test_a_stop_takes_no_longer_than_eight_seconds(tmp_path: Path, paused: bool) -> None:
    """Also with a broker that is there and says nothing: what is committed is safe in the stores."""
    with own_broker(tmp_path / "kafka") as broker, services(["task", "result"], broker.bootstrap, tmp_path) as run:
        assert broker.pid is not None
        await run.ready()
        if paused:
            os.kill(broker.pid, signal.SIGSTOP)
            await run.ready("degraded")
        started = time.monotonic()
        try:
            assert run.stop() == 0, run.log()
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        took = time.monotonic() - started
        assert took < (9.5 if paused else 4), run.log()
        assert "Traceback" not in run.log(), run.log()
