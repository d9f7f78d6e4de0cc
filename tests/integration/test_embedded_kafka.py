"""A real Kafka on this machine: what was written survives a crash, and nothing is left running."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.patience import FACTOR
from trainwright.embedded import process
from trainwright.embedded.archive import free_ports
from trainwright.embedded.errors import KafkaError
from trainwright.embedded.kafka import KafkaProcess, ask


def broker(folder: Path, ports: list[int] | None = None) -> KafkaProcess:
    port, controller_port = ports or free_ports(2)
    return KafkaProcess(folder, port=port, controller_port=controller_port)


async def write(bootstrap: str, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id="reader", auto_offset_reset="earliest"
    ) as consumer:
        return [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in range(count)]


async def create(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def test_what_was_acknowledged_survives_kill_9_and_new_ports(tmp_path: Path) -> None:
    with broker(tmp_path) as first:
        identity = first.cluster_id()
        await create(first.bootstrap, "kept")
        await write(first.bootstrap, "kept", *(str(n).encode() for n in range(50)))
        first.kill()
        assert ask(first.port) is None
    with broker(tmp_path) as second:  # other ports: the old ones may be somebody else's by now
        assert second.cluster_id() == identity
        answer = ask(second.port)
        assert answer is not None
        assert answer.cluster_id == identity
        assert await read(second.bootstrap, "kept", 50) == [str(n).encode() for n in range(50)]


async def test_a_topic_nobody_created_is_not_made_up(kafka: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka, request_timeout_ms=2000) as producer:
        with pytest.raises(Exception, match=r"(?i)unknown|timeout"):
            await asyncio.wait_for(producer.send_and_wait("never-created", b"x"), 15)


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    port, controller_port = free_ports(2)
    code = (
        "import sys, time; from pathlib import Path; from trainwright.embedded.kafka import KafkaProcess\n"
        f"k = KafkaProcess(Path(sys.argv[1]), port={port}, controller_port={controller_port})\n"
        "k.start(); k.wait_ready(); print(k.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        mark = process.started(pid)
        assert mark is not None
        owner.send_signal(signal.SIGKILL)
        assert process.wait_gone(pid, mark, 5)


def test_a_second_one_on_the_same_port_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    ports = free_ports(2)
    with broker(tmp_path / "one", ports):
        second = broker(tmp_path / "two", ports)
        with pytest.raises(KafkaError, match="ended with code"), second:
            pytest.fail("it cannot be ready")  # pragma: no cover
        assert second.pid is None
        assert "Address already in use" in second.log.read_text()


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KafkaError, match="a file is in the place of a folder") as raised:
        broker(tmp_path / "file").start()
    assert "\n" not in str(raised.value)


def test_an_interrupted_format_is_done_again(tmp_path: Path) -> None:
    half = tmp_path / "log.new"
    half.mkdir()
    (half / "bootstrap.checkpoint").write_bytes(b"half")
    with broker(tmp_path) as kafka:
        assert not half.exists()
        assert kafka.ready()


def test_it_starts_and_stops_fast(tmp_path: Path) -> None:
    with broker(tmp_path) as kafka:
        kafka.stop()
        began = time.monotonic()
        kafka.start()
        kafka.wait_ready()
        ready = time.monotonic()
        kafka.stop()
        assert ready - began < 8 * FACTOR
        assert time.monotonic() - ready < 5 * FACTOR
