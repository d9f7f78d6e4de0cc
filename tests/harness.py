"""What tests drive the platform with: services as real processes, and a plain Kafka client on the bus."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.patience import patient
from trainwright.contracts.base import Event
from trainwright.contracts.topics import TOPIC_OF, TOPICS
from trainwright.embedded.archive import free_ports
from trainwright.runtime.apply import open_record
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.envelope import to_headers, wrap

E = TypeVar("E", bound=Event)
API = "/api/v1/training"
TOKEN = "internal-token-of-the-tests"

RUN_SOME = """
import importlib, sys
from trainwright.runtime.run import main
names = sys.argv[1].split(",")
main([importlib.import_module(f"services.{name}").build_service for name in names], listening=names[-1])
"""


class Tape:
    """Everything that was said on the log, in order of reading."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one class."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type[E], count: int = 1, *, within: float = 20) -> list[E]:
        """Wait for this many events of one class."""
        await eventually(lambda: len(self.of(kind)) >= count, within=within, what=f"{count} × {kind.__name__}")
        return self.of(kind)


def as_record(event: Event, clock: SystemClock, source: str) -> dict[str, Any]:
    """Return what a producer sends of an event, under a new identifier."""
    envelope = wrap(event, id=clock.new_id("test"), source=source, time=clock.now(), traceparent=None)
    return {
        "topic": TOPIC_OF[type(event)].name,
        "value": event.model_dump_json().encode(),
        "key": event.subject.encode(),
        "headers": [(name, value.encode()) for name, value in to_headers(envelope)],
    }


class Bus:
    """A plain client of the log: it hears everything and can say anything."""

    def __init__(self, producer: AIOKafkaProducer, tape: Tape) -> None:
        self._producer = producer
        self._clock = SystemClock()
        self._background: set[asyncio.Task[None]] = set()
        self.tape = tape

    def background(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside the test, until it ends."""
        task = asyncio.create_task(job)
        self._background.add(task)
        return task

    async def close(self) -> None:
        """End what runs beside the test."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def say(self, event: Event, *, source: str = "tests") -> None:
        """Publish an event with a new identifier."""
        await self._producer.send_and_wait(**as_record(event, self._clock, source))

    async def say_raw(
        self, topic: str, value: bytes | None, headers: Sequence[tuple[str, bytes]] = (), key: bytes = b"raw"
    ) -> None:
        """Publish bytes as they are."""
        await self._producer.send_and_wait(topic, value=value, key=key, headers=list(headers))


@asynccontextmanager
async def listening(bootstrap: str) -> AsyncIterator[Bus]:
    """Hear the whole log from its start; topics must exist."""
    consumer = AIOKafkaConsumer(
        *[topic.name for topic in TOPICS], bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    tape = Tape()

    async def hear() -> None:
        async for record in consumer:
            try:
                _, event = open_record(record)
            except Exception:
                continue
            if event is not None:
                tape.events.append(event)

    await consumer.start()
    await producer.start()
    hearing = asyncio.create_task(hear())
    bus = Bus(producer, tape)
    try:
        yield bus
    finally:
        await bus.close()
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
        await producer.stop()
        await consumer.stop()


class ServiceProcess:
    """Some services in one process; the last one named listens."""

    def __init__(self, names: Sequence[str], env: dict[str, str], port: int, log: Path) -> None:
        self.names = names
        self.url = f"http://127.0.0.1:{port}"
        self._env = {**env, "TRAINWRIGHT_PORT": str(port)}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **env: str) -> None:
        """Start it, or start it again; with more in its environment, this time."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", RUN_SOME, ",".join(self.names)],
                env={**os.environ, **self._env, **env},
                stdout=log,
                stderr=log,
            )

    def stop(self, *, kill: bool = False) -> int:
        """End it, gently or with SIGKILL; return its exit code."""
        assert self._process is not None
        (self._process.kill if kill else self._process.terminate)()
        return self._process.wait(timeout=60)

    def end(self) -> None:
        """End it when its test is over."""
        assert self._process is not None
        end(self._process)

    @property
    def pid(self) -> int:
        """Return the running process's number."""
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        """Stop it where it is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> httpx.AsyncClient:
        """Return a client that carries the internal token."""
        headers = {"x-trainwright-internal": TOKEN, "x-trainwright-actor": "tests"}
        return httpx.AsyncClient(base_url=self.url + API, headers=headers, timeout=90)

    async def ready(self, status: str = "ok") -> None:
        """Wait until it says that it is ready."""

        async def is_ready() -> bool:
            try:
                async with httpx.AsyncClient() as client:
                    answer = await client.get(f"{self.url}/health/ready")
                return bool(answer.json()["status"] == status)
            except (httpx.HTTPError, ValueError):
                return False

        await eventually(is_ready, within=120, what=f"{self.names} to be {status}; see {self._log}")

    def log(self) -> str:
        """Return what it wrote to stderr."""
        return self._log.read_text()


@contextmanager
def services(names: Sequence[str], bootstrap: str, folder: Path, **env: str) -> Iterator[ServiceProcess]:
    """Run some services in one process until the end of the block."""
    port = int(env.get("TRAINWRIGHT_PORT") or free_ports(1)[0])
    settings = {
        "TRAINWRIGHT_KAFKA": bootstrap,
        "TRAINWRIGHT_STORE": f"sqlite:{folder}/services",
        "TRAINWRIGHT_BLOBS": f"dir:{folder}/blobs",
        "TRAINWRIGHT_INTERNAL_TOKEN": TOKEN,
        **env,
    }
    process = ServiceProcess(names, settings, port, folder / f"{'-'.join(names)}.log")
    process.start()
    try:
        yield process
    finally:
        process.end()


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process when its test is over: at once, or in order where coverage is to keep what it has seen."""
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
    process.kill()
    process.wait()


async def eventually(check: Callable[[], Any], *, within: float, what: str, every: float = 0.05) -> Any:
    """Wait until a check gives something true, and return that.

    Raises:
        AssertionError: It did not in time.
    """
    deadline = patient(within)
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within} s for {what}")
        await asyncio.sleep(every)


def reachable(host: str, port: int, within: float) -> None:
    """Wait until somebody listens."""
    deadline = patient(within)
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on {host}:{port} after {within} s"
            time.sleep(0.05)
