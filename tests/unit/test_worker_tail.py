"""What a run has written and nobody has published yet."""

from datetime import UTC, datetime
from pathlib import Path

from services.trainer_worker import spawn
from services.trainer_worker.domain import Attempt, Read
from services.trainer_worker.tail import Tail
from trainwright.contracts.resource import Slots
from trainwright.contracts.task_config import TaskConfig
from trainwright.training import layout

ATTEMPT = Attempt(
    task_id="task-1", attempt=1, incarnation="now", name="x", config=TaskConfig(recipe="script"), slots=Slots(),
    received_at=datetime.now(UTC),
)  # fmt: skip


def test_a_run_that_has_written_nothing_is_not_behind_and_has_nothing_to_say(tmp_path: Path) -> None:
    spawn.prepare_folder(tmp_path)
    tail = Tail(ATTEMPT, tmp_path, Read())
    assert tail.behind() == 0
    assert tail.next(final=True).events == ()
    (tmp_path / layout.STDOUT).write_text("one\ntwo\n")
    spawn.note(tmp_path, "noted")
    assert tail.behind() == len("one\ntwo\nnoted\n")
    batch = tail.next(final=True)
    assert [record.message for event in batch.events for record in event.records] == ["one", "two", "noted"]  # type: ignore[union-attr]
    tail.read = batch.read
    assert tail.behind() == 0
    (tmp_path / layout.STDOUT).unlink()
    assert tail.behind() == 0, "what a run removes is not waited for"
    tail.close()
