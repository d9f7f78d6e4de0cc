"""How tests listen to the stream of events: a gateway of their own, and a reader that stops where it is told."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from services.gateway.stream.feed import Feed
from tests.harness import API, Bus, ServiceProcess, services
from tests.runtime_kit import task_event
from trainwright.contracts.task import TaskReady


@dataclass(frozen=True, slots=True)
class Heard:
    """One event of a stream of server-sent events; ``name`` is empty for a mere position."""

    name: str
    id: str
    data: Any


class Desk:
    """A running gateway whose public door is open to who has the key."""

    def __init__(self, process: ServiceProcess, key: str) -> None:
        self.process, self.key = process, key

    def client(self, **headers: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.key}", **headers}
        return httpx.AsyncClient(base_url=self.process.url + API, headers=headers, timeout=60)

    @asynccontextmanager
    async def stream(self, last: str | None = None, **query: Any) -> AsyncIterator[AsyncIterator[Heard]]:
        """Open a stream; ``last`` goes into the header."""
        headers = {"Last-Event-ID": last} if last else {}
        async with (
            self.client() as client,
            client.stream("GET", "/events", params=query, headers=headers) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            yield parsed(answer.aiter_lines())

    async def hear(
        self, until: Callable[[list[Heard]], bool], last: str | None = None, **query: Any
    ) -> list[Heard]:
        """Return what a stream says up to what is wanted; mere positions are left out."""
        found: list[Heard] = []
        async with asyncio.timeout(120), self.stream(last, **query) as events:
            async for event in events:
                if event.name:
                    found.append(event)
                    if until(found):
                        return found
        raise AssertionError(f"the stream ended after {len(found)} events")


async def parsed(lines: AsyncIterator[str]) -> AsyncIterator[Heard]:
    """Yield what the lines of a stream say."""
    name = id = data = ""
    async for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "id":
            id = value
        elif field == "data":
            data += value
        elif not line and (name or id):
            yield Heard(name, id, json.loads(data) if data else None)
            name = data = ""


def count(wanted: int) -> Callable[[list[Heard]], bool]:
    return lambda found: len(found) >= wanted


def versions(found: list[Heard]) -> list[tuple[str, int]]:
    """Return subjects and versions of what was heard, gaps left out."""
    return [
        (event.data["subject"], event.data["version"]) for event in found if event.name not in ("gap", "waiting")
    ]


async def say(bus: Bus, first: int, count: int, *, tasks: int = 7, kind: str = "") -> list[tuple[str, int]]:
    """Publish events of several tasks; return their subjects and versions."""
    said: list[TaskReady] = [
        task_event(number % tasks, number, name=kind or "example") for number in range(first, first + count)
    ]
    for event in said:
        await bus.say(event)
    return [(event.subject, event.task.version) for event in said]


async def let_go(feed: Feed) -> None:
    """End a feed of this process at once: by itself it stays for a while after its last listener."""
    task = feed._task
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await feed.history.close()


@contextmanager
def desk(bootstrap: str, folder: Path, **env: str) -> Iterator[Desk]:
    """Run a gateway without anything behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = secrets.token_urlsafe(24)
    (folder / "key").write_text(key)
    env = {"TRAINWRIGHT_ADMIN_KEY_FILE": str(folder / "key"), **env}
    with services(["gateway"], bootstrap, folder, **env) as process:
        yield Desk(process, key)
