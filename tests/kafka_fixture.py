"""A real Kafka for the tests: one broker per test session, stopped at its end and killed if the session is."""

from collections.abc import Iterator

import pytest

from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import KafkaProcess


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a running broker; tests keep apart by names of topics and groups of their own."""
    port, controller_port = free_ports(2)
    folder = tmp_path_factory.mktemp("kafka")
    with KafkaProcess(folder, port=port, controller_port=controller_port) as broker:
        yield broker.bootstrap


@pytest.fixture
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a broker that nobody else has used: whole services read the log from its beginning."""
    port, controller_port = free_ports(2)
    folder = tmp_path_factory.mktemp("own-kafka")
    with KafkaProcess(folder, port=port, controller_port=controller_port) as broker:
        yield broker.bootstrap
