"""What a process says on stderr while its broker is away: its own words, not each retry of the client."""

import subprocess
import sys

from tests.house.house import ROOT
from trainwright.embedded.archive import free_ports

NO_BROKER = """
import asyncio, logging, sys
from aiokafka import AIOKafkaProducer
from trainwright.runtime import own_logs

async def main():
    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{sys.argv[1]}")
    try:
        await producer.start()
    except Exception as error:
        logging.getLogger("mine").warning("waits: %r", error)
    finally:
        await producer.stop()

own_logs.begin()
asyncio.run(main())
"""


def test_a_client_without_a_broker_says_nothing_and_its_caller_one_line() -> None:
    command = [sys.executable, "-c", NO_BROKER, str(free_ports(1)[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (line,) = done.stderr.splitlines()
    assert "WARNING mine: waits: KafkaConnectionError" in line


def test_every_program_of_ours_begins_so() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("libs", "services")
        for path in (ROOT / folder).rglob("*.py")
        if "logging.basicConfig(" in path.read_text(encoding="utf-8")
    ]
    assert found == ["libs/trainwright/runtime/own_logs.py"]
