"""A real Kafka for the tests: one broker per test session, stopped at its end and killed if the session is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import KafkaProcess, new_cluster_id

_formatted: dict[str, bytes] = {}
"""What Kafka's own tool, a program of a second, has made of the first folder: only the cluster is another's."""


@contextmanager
def own_broker(folder: Path) -> Iterator[KafkaProcess]:
    """Run a broker that a test may pause, kill and rob of its log."""
    port, controller_port = free_ports(2)
    broker = KafkaProcess(folder, port=port, controller_port=controller_port)
    log = folder / "log"
    if _formatted:
        log.mkdir(parents=True)
        for name, content in _formatted.items():
            (log / name).write_bytes(content)
        _rename(log / "meta.properties")
    else:
        broker.prepare()
        _formatted.update({path.name: path.read_bytes() for path in log.iterdir()})
    with broker:
        yield broker


def _rename(properties: Path) -> None:
    """Make a formatted folder another cluster's."""
    lines = properties.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("cluster.id=")]
    properties.write_text("\n".join([*kept, f"cluster.id={new_cluster_id()}", ""]))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a running broker; tests keep apart by names of topics and groups of their own."""
    with own_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap


@pytest.fixture
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a broker that nobody else has used: whole services read the log from its beginning."""
    with own_broker(tmp_path_factory.mktemp("own-kafka")) as broker:
        yield broker.bootstrap
