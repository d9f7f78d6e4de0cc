"""How attempts are led while something of the machine is away: the store, the blobs, room for their folder."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.trainer_worker import store
from services.trainer_worker.attempts import Attempts
from services.trainer_worker.domain import Attempt, AttemptState
from services.trainer_worker.gang import TOLD_EVERY
from services.trainer_worker.place import Workplace
from tests.harness import eventually
from tests.integration.runtime_parts import running
from tests.runtime_kit import FastClock
from tests.worker_place import place_in
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.gang import MemberEnded
from trainwright.contracts.queue import Member
from trainwright.contracts.resource import Slots
from trainwright.contracts.task_config import TaskConfig

FILE = {"path": "train.py", "sha256": "0" * 64, "size": 1}
SILENT = Attempt(
    task_id="task-1", attempt=1, incarnation="now", name="x", slots=Slots(), received_at=datetime.now(UTC), rank=1,
    config=TaskConfig.model_validate({"recipe": "script", "parameters": {"path": "train.py"}, "files": [FILE]}),
    members=[Member(rank=rank, worker_id=f"worker-{rank}", incarnation="now") for rank in (0, 1)],
)  # fmt: skip
"""One that cannot begin, for want of its file; and a member that does not speak, so that its end needs no bus."""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Workplace]:
    made = place_in(tmp_path, FastClock())
    await made.documents.open()
    async with made.documents.transaction() as tx:
        await store.put_attempt(tx, SILENT)
    yield made
    await made.documents.close()


async def until_over(place: Workplace) -> Attempt:
    """Wait until the attempt has ended as it must, and is over for this worker."""

    async def over() -> Attempt | None:
        found = await store.attempt_of(place.documents, SILENT.key)
        return found if found is not None and found.state is AttemptState.REPORTED else None

    found: Attempt = await eventually(over, within=20, what="the attempt's end")
    assert found.outcome is Outcome.FAILED
    assert found.failure is not None
    assert found.failure.failure_class is FailureClass.DATA_ERROR
    assert "file train.py: no content" in found.failure.message
    return found


async def test_attempts_wait_for_a_store_that_is_away(place: Workplace, caplog: Any) -> None:
    await place.documents.close()
    async with running(Attempts(place).run()):
        await eventually(lambda: "attempts wait for the store" in caplog.text, within=20, what="a first look")
        await place.documents.open()
        await until_over(place)


async def test_an_attempt_waits_for_blobs_that_are_away(place: Workplace, caplog: Any) -> None:
    (place.folder / "blobs").write_text("not a folder")
    async with running(Attempts(place).run()):
        await eventually(lambda: "task-1.1 waits for a store" in caplog.text, within=20, what="a first try")
        found = await store.attempt_of(place.documents, SILENT.key)
        assert found is not None
        assert found.state is AttemptState.ACCEPTED
        (place.folder / "blobs").unlink()
        await until_over(place)


async def test_a_step_that_fails_for_whatever_reason_is_tried_again(place: Workplace, caplog: Any) -> None:
    """Something lies where the attempt's folder is to be."""
    (place.folder / SILENT.key).write_text("in the way")
    async with running(Attempts(place).run()):
        await eventually(lambda: "task-1.1: a step failed" in caplog.text, within=20, what="a first try")
        (place.folder / SILENT.key).unlink()
        await until_over(place)


async def test_a_member_that_waits_for_the_others_says_again_that_it_is_over(place: Workplace) -> None:
    """It may have been lost on its way, and nobody else knows: all would wait for one another for ever."""
    async with place.documents.transaction() as tx:
        await store.put_attempt(tx, SILENT.model_copy(update={"rank": 0}))

    began = place.clock.monotonic()

    async def said_thrice() -> bool:
        await place.clock.sleep(TOLD_EVERY + 1)  # at each look: it may take note of having said it late
        rows = await place.documents.outbox_pending("event", 10)
        endings = [MemberEnded.model_validate_json(row.value) for row in rows]
        assert all(one.member.outcome is Outcome.FAILED and one == endings[0] for one in endings)
        times = len({row.id for row in rows})
        assert times <= 1 + (place.clock.monotonic() - began) // TOLD_EVERY
        return times >= 3

    async with running(Attempts(place).run()):
        await eventually(said_thrice, within=20, what="its end, three times")
