"""The state machine of a worker: its command handlers, driven step by step, keep what the model says."""

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from services.trainer_worker.domain import LIVE, Attempt, AttemptState
from services.trainer_worker.handlers import CommandHandlers
from services.trainer_worker.store import COLLECTIONS, live_attempts, put_attempt
from tests.simulation.machines import WHICH, Machine, drive
from tests.simulation.model import WorkerModel
from trainwright.contracts import topics
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import StopKind
from trainwright.contracts.task_config import TaskConfig
from trainwright.runtime.apply import open_record
from trainwright.runtime.envelope import Reread

TASKS = st.sampled_from(("task-1", "task-2"))
NUMBERS = st.integers(1, 4)
NEXT = {
    AttemptState.ACCEPTED: AttemptState.RUNNING,
    AttemptState.RUNNING: AttemptState.ENDED,
    AttemptState.ENDED: AttemptState.REPORTED,
}


class WorkerMachine(Machine):
    """A worker that starts anew, runs that go on or are gone by then, and commands of any age."""

    name = "trainer_worker"

    def __init__(self) -> None:
        super().__init__(COLLECTIONS)
        self.model = WorkerModel()
        self.lives = 0
        self.start_anew(goes_on=True)

    @rule(goes_on=st.booleans())
    def start_anew(self, goes_on: bool) -> None:
        self.lives += 1
        self.model.incarnation = f"life-{self.lives}"
        handlers = CommandHandlers(self.model.incarnation)
        self.reactions = {
            topics.COMMAND: {RunAttempt: handlers.on_run_attempt, StopAttempt: handlers.on_stop_attempt}
        }
        for attempt in [] if goes_on else self._live():
            self._becomes(attempt, AttemptState.LOST)

    @rule(task_id=TASKS, attempt=NUMBERS, before=st.booleans())
    def order(self, task_id: str, attempt: int, before: bool) -> None:
        command = RunAttempt(
            worker_id="worker-1",
            incarnation=f"life-{self.lives - before}",
            task_id=task_id,
            attempt=attempt,
            name=task_id,
            config=TaskConfig(recipe="script", parameters={"path": "x.py"}),
            slots=Slots(),
        )
        self.hear(command)

    @rule(task_id=TASKS, attempt=NUMBERS, kind=st.sampled_from(StopKind), revision=st.integers(1, 5))
    def order_stop(self, task_id: str, attempt: int, kind: StopKind, revision: int) -> None:
        command = StopAttempt(
            worker_id="worker-1",
            incarnation=f"life-{self.lives}",
            task_id=task_id,
            attempt=attempt,
            revision=revision,
            kind=kind,
            grace_seconds=10,
            reason="as drawn",
        )
        self.hear(command)

    def apply(self, record: Reread) -> None:
        super().apply(record)
        _, command = open_record(record)
        if isinstance(command, RunAttempt):
            self.model.told_to_run(command.task_id, command.attempt, command.incarnation)
        elif isinstance(command, StopAttempt):
            self.model.told_to_stop(command.task_id, command.attempt, str(command.kind), command.revision)

    @precondition(lambda self: self._live())
    @rule(which=WHICH)
    def go_on(self, which: int) -> None:
        """Let an attempt be started, end, be reported."""
        live = self._live()
        attempt = live[which % len(live)]
        self._becomes(attempt, NEXT[attempt.state])

    def _live(self) -> list[Attempt]:
        found: list[Attempt] = drive(live_attempts(self.store))
        return found

    def _becomes(self, attempt: Attempt, state: AttemptState) -> None:
        async def put() -> None:
            async with self.store.transaction() as tx:
                await put_attempt(tx, attempt.model_copy(update={"state": state}))

        drive(put())
        if state not in LIVE:
            self.model.is_over(attempt.task_id, attempt.attempt)

    @invariant()
    def keeps_what_the_model_says(self) -> None:
        kept = {
            (one.task_id, one.attempt): None if one.stop is None else (str(one.stop.kind), one.stop.revision)
            for one in self._live()
        }
        assert kept == self.model.live
        for task_id in {task_id for task_id, _ in kept}:
            assert len(self.model.unfenced(task_id)) <= 1
