"""The log service as a process of its own: told by hand over real Kafka, asked over HTTP."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.harness import Bus, ServiceProcess, eventually, listening, services
from trainwright.contracts.log import LogBatch, LogLevel, LogRecord, LogStream, MemberLogBatch
from trainwright.contracts.queue import (
    Member,
    Placement,
    PlacementEvent,
    PlacementReleased,
    PlacementState,
    WorkerLost,
)
from trainwright.contracts.task import TaskCreated, TaskDocument, TaskPhase, TaskStatus
from trainwright.contracts.task_config import TaskConfig

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


class Story:
    """One task whose words are spoken by the test, and what the service answers about it."""

    def __init__(self, bus: Bus, http: httpx.AsyncClient) -> None:
        self._bus, self._http = bus, http
        self.task_id = f"task-{uuid4().hex[:12]}"

    async def created(self) -> None:
        task = TaskDocument(
            task_id=self.task_id,
            version=1,
            name="story",
            config=TaskConfig(recipe="script"),
            status=TaskStatus.PENDING,
            phase=TaskPhase.NOT_STARTED,
            created_at=NOON,
            updated_at=NOON,
        )
        await self._bus.say(TaskCreated(task=task))

    async def wrote(
        self,
        *messages: str,
        attempt: int = 1,
        rank: int | None = None,
        first: int = 0,
        level: LogLevel = LogLevel.INFO,
        **fields: Any,
    ) -> None:
        """Say lines, one a second from ``first`` on."""
        records = [
            LogRecord(seq=n, time=NOON + timedelta(seconds=n), level=level, message=message, **fields)
            for n, message in enumerate(messages, first)
        ]
        kind = MemberLogBatch if rank else LogBatch
        of: Any = {"task_id": self.task_id, "attempt": attempt, "stream": LogStream.STDOUT, "rank": rank}
        await self._bus.say(kind(**of, records=records))

    async def lost(
        self, attempt: int, second: int, *members: Member, kind: type[PlacementEvent] = WorkerLost
    ) -> None:
        placement = Placement(
            task_id=self.task_id,
            version=attempt,
            state=PlacementState.RELEASED,
            attempt=attempt,
            members=list(members),
            updated_at=NOON + timedelta(seconds=second),
        )
        await self._bus.say(kind(placement=placement))

    async def ask(self, **query: Any) -> httpx.Response:
        return await self._http.get(f"/tasks/{self.task_id}/logs", params=query)

    async def messages(self, **query: Any) -> list[str]:
        answer = await self.ask(**query)
        assert answer.status_code == 200, answer.text
        return [entry["message"] for entry in answer.json()["entries"]]

    async def until(self, *messages: str, **query: Any) -> None:
        """Wait for exactly these messages."""

        async def there() -> bool:
            answer = await self.ask(**query)
            return [e["message"] for e in answer.json().get("entries", [])] == list(messages)

        await eventually(there, within=15, what=f"{messages} of {self.task_id}")


@pytest.fixture(scope="module")
def process(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder: Path = tmp_path_factory.mktemp("log")
    with services(["log"], kafka, folder) as running:
        yield running


@pytest.fixture
async def story(process: ServiceProcess, kafka: str) -> AsyncIterator[Story]:
    await process.ready()
    async with process.client() as http, listening(kafka) as bus:
        yield Story(bus, http)


async def test_what_a_run_wrote_is_found_by_level_text_and_time(story: Story) -> None:
    await story.wrote("epoch 1", "Loss is 100%", "epoch 2")
    await story.wrote("it broke", first=10, level=LogLevel.ERROR, extra={"file": "train.py"})
    await story.until("epoch 1", "Loss is 100%", "epoch 2", "it broke")
    assert await story.messages(level="warning") == ["it broke"]
    assert await story.messages(keyword="EPOCH") == ["epoch 1", "epoch 2"]
    assert await story.messages(keyword="0%") == ["Loss is 100%"]
    assert await story.messages(start_time="2025-06-01T12:00:01Z", end_time="2025-06-01T12:00:02Z") == [
        "Loss is 100%",
        "epoch 2",
    ]
    assert len(await story.messages(level="", keyword="", start_time="", end_time="", limit="", cursor="")) == 4
    (entry,) = (await story.ask(level="ERROR")).json()["entries"]
    assert entry == {
        "time": "2025-06-01T12:00:10.000000Z",
        "level": "ERROR",
        "message": "it broke",
        "extra": {"file": "train.py", "attempt": 1, "stream": "stdout"},
    }


async def test_lines_of_several_workers_are_told_apart_and_who_was_lost_is_cut_off_alone(story: Story) -> None:
    def member(rank: int, second: int | None = None) -> Member:
        lost_at = None if second is None else NOON + timedelta(seconds=second)
        return Member(rank=rank, worker_id=f"w{rank}", incarnation="one", lost_at=lost_at)

    for rank in (0, 1):
        await story.wrote("here I am", f"this is {rank}", rank=rank)
    await story.until("here I am", "this is 0", "here I am", "this is 1")
    assert await story.messages(rank=1, keyword="this") == ["this is 1"]
    assert await story.messages(rank="") == await story.messages()
    (entry,) = (await story.ask(rank=0, keyword="this")).json()["entries"]
    assert entry["extra"] == {"attempt": 1, "stream": "stdout", "rank": 0}
    assert (await story.ask(rank=-1)).status_code == 422
    await story.lost(1, 9, member(0), member(1, second=4), kind=PlacementReleased)
    await story.wrote("in time", first=4, rank=1)
    await story.until("here I am", "this is 1", "in time", rank=1)
    await story.wrote("too late", first=5, rank=1)
    await story.wrote("the last word", first=20, rank=0)
    await story.until("here I am", "this is 0", "the last word", rank=0)
    await story.lost(1, 9, member(0, second=30), member(1, second=4))
    await story.wrote("in time, too", first=25, rank=0)
    await story.until("here I am", "this is 0", "the last word", "in time, too", rank=0)
    assert "too late" not in await story.messages()


async def test_a_follower_gets_each_line_once(story: Story) -> None:
    await story.created()
    empty = (await story.ask()).json()
    assert empty == {"entries": [], "next_cursor": None}
    await story.wrote(*[f"line {n}" for n in range(5)])
    await story.wrote(*[f"line {n}" for n in range(7)])  # an agent that starts again repeats itself
    await story.until(*[f"line {n}" for n in range(7)])
    seen: list[str] = []
    cursor = ""
    for size in (3, 3, 1, 0):
        page = (await story.ask(limit=3, cursor=cursor)).json()
        assert len(page["entries"]) == size
        seen += [entry["message"] for entry in page["entries"]]
        cursor = page["next_cursor"]
        assert cursor
    await story.wrote("line 7", first=7)
    await story.until("line 7", cursor=cursor)
    assert seen == [f"line {n}" for n in range(7)]


async def test_a_given_up_worker_is_heard_up_to_its_loss(story: Story) -> None:
    await story.wrote("one")
    await story.lost(1, second=5)
    await story.until("one")
    await story.wrote("two", attempt=2, first=6)
    await story.until("one", "two")
    await story.wrote("late, from before", "zombie", first=5)
    await story.wrote("three", attempt=2, first=8)
    await story.until("one", "two", "late, from before", "three")
    attempts = [entry["extra"]["attempt"] for entry in (await story.ask()).json()["entries"]]
    assert attempts == [1, 2, 1, 2]


async def test_secrets_are_not_stored(story: Story, process: ServiceProcess, tmp_path_factory: Any) -> None:
    secret = f"hunter-{uuid4().hex}"
    await story.wrote(f"password={secret}", extra={"api_key": secret})
    await story.until("password=***")
    (entry,) = (await story.ask()).json()["entries"]
    assert entry["extra"]["api_key"] == "***"
    store = next(tmp_path_factory.getbasetemp().glob("log*/services/log.db"))
    stored = [path.read_bytes() for path in store.parent.glob("log.db*")]
    assert stored
    assert not any(secret.encode() in content for content in stored)


async def test_an_unknown_task_is_not_found(story: Story) -> None:
    answer = await story.ask()
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"level": "LOUD"}, "level"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"start_time": "yesterday"}, "start_time"),
        ({"start_time": "2025-06-02T00:00:00Z", "end_time": "2025-06-01T00:00:00Z"}, "end_time"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "WzEsIiIsImxvZ3Mgb2YgdGFzay0wIl0"}, "cursor"),
        ({"keyword": "x" * 501}, "keyword"),
        ({"keywrd": "x"}, "keywrd"),
    ],
)
async def test_bad_questions_name_the_field(story: Story, query: dict[str, Any], field: str) -> None:
    await story.created()
    answer = await story.ask(**query)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in answer.json()["errors"]] == [field]


async def test_a_cursor_belongs_to_its_task(story: Story, kafka: str, process: ServiceProcess) -> None:
    await story.wrote("mine")
    await story.until("mine")
    cursor = (await story.ask()).json()["next_cursor"]
    async with listening(kafka) as bus, process.client() as http:
        other = Story(bus, http)
        await other.wrote("other")
        await other.until("other")
        assert (await other.ask(cursor=cursor)).status_code == 422
