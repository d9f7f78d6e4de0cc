"""Topics on a real broker: made once, checked at every start, never altered; kept by the broker's clock."""

import logging
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.integration.runtime_parts import client_of, configs_of
from tests.kafka_fixture import own_broker
from tests.patience import patient
from trainwright.contracts.topics import DEAD, TASK, TOPICS
from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import KafkaProcess
from trainwright.runtime.kafka import UNREACHABLE, Kafka, topic_configs
from trainwright.runtime.settings import RuntimeSettings


async def test_topics_are_made_as_the_table_says_and_twice_is_once(kafka: str) -> None:
    await client_of(kafka).ensure_topics()
    await client_of(kafka).ensure_topics()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        for found in await admin.describe_topics([topic.name for topic in TOPICS]):
            assert (found["error_code"], len(found["partitions"])) == (0, 1)
        for topic in TOPICS:
            configs = await configs_of(admin, topic)
            wanted = topic_configs(topic)
            assert {name: configs[name] for name in wanted} == wanted
            assert configs["cleanup.policy"] == "delete"
            if topic.retention_ms > 0:
                assert int(configs["segment.ms"]) <= topic.retention_ms / 4, "else nothing is deleted for a week"
    finally:
        await admin.close()


async def test_a_clock_that_is_wrong_neither_blocks_nor_deletes(kafka: str) -> None:
    """A worker's clock may be hours off: the broker takes its records, and keeps them by its own time."""
    await client_of(kafka).ensure_topics()
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
        for hours in (-200, 30):
            wrong = int((time.time() + hours * 3600) * 1000)
            ack = await producer.send_and_wait(DEAD.name, b"x", timestamp_ms=wrong)
            assert abs(ack.timestamp / 1000 - time.time()) < 60


async def test_a_broker_that_is_not_ready_yet_is_told_like_one_that_is_away(tmp_path: Path) -> None:
    """Whatever its state while it starts, clients raise what is waited for."""
    port, controller_port = free_ports(2)
    broker = KafkaProcess(tmp_path / "kafka", port=port, controller_port=controller_port)
    broker.start()
    asked, until = Kafka(RuntimeSettings(kafka=broker.bootstrap)), patient(60)
    try:
        while True:
            try:
                await asked.ensure_topics()
                assert await asked.cluster_id() == broker.cluster_id()
                break
            except UNREACHABLE:
                assert time.monotonic() < until
    finally:
        broker.kill()


async def test_other_partitions_than_declared_are_said_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with own_broker(tmp_path / "kafka") as broker:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(TASK.name, num_partitions=3, replication_factor=1)])
            caplog.set_level(logging.WARNING)
            await client_of(broker.bootstrap).ensure_topics()
            assert f"topic {TASK.name} has 3 partitions where 1 are declared" in caplog.text
            caplog.clear()
            production = RuntimeSettings(kafka=broker.bootstrap, topics="production")
            await Kafka(production).ensure_topics()
            assert f"topic {TASK.name} has 3 partitions where 6 are declared" in caplog.text
            (found,) = await admin.describe_topics([TASK.name])
            assert len(found["partitions"]) == 3
        finally:
            await admin.close()


async def test_production_has_the_partitions_of_the_table(tmp_path: Path) -> None:
    with own_broker(tmp_path / "kafka") as broker:
        await Kafka(RuntimeSettings(kafka=broker.bootstrap, topics="production")).ensure_topics()
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        try:
            found = await admin.describe_topics([topic.name for topic in TOPICS])
        finally:
            await admin.close()
        declared = {topic.name: topic.partitions for topic in TOPICS}
        assert {t["topic"]: len(t["partitions"]) for t in found} == declared
