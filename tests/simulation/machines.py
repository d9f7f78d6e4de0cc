"""State machines of task and scheduler: the real handlers, driven step by step and watched by the model.

Each machine keeps every record that anybody has said, and hands any of them over at any time: late, again, out of
order. No event loop: a store in memory never waits. Not here: the worker's
(``worker_machine.py``), faults of programs (``world.py``).
"""

from collections.abc import Coroutine
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.scheduler.handlers import Handlers
from services.scheduler.leases import Leases
from services.scheduler.passes import Passes
from services.scheduler.reactions import reactions as scheduler_reactions
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import COLLECTIONS as SCHEDULER
from services.task import domain
from services.task import handlers as task_service
from services.task.reactions import REACTIONS
from services.task.store import COLLECTIONS as TASKS
from tests.runtime_kit import FastClock
from tests.simulation.model import life_of_placement, life_of_task, room_is_kept
from trainwright.contracts import topics
from trainwright.contracts.attempt import (
    AttemptDocument,
    AttemptEnded,
    AttemptEvent,
    AttemptStarted,
    CheckpointSaved,
)
from trainwright.contracts.attempt import Outcome as Came
from trainwright.contracts.base import Event
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.command import RunAttempt
from trainwright.contracts.errors import IllegalTransition
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.pulse import SchedulerProbed, WorkerHeartbeat
from trainwright.contracts.queue import (
    Placement,
    PlacementAssigned,
    PlacementEvent,
    PlacementState,
    WorkerLost,
)
from trainwright.contracts.task import TaskDocument, TaskEvent, TaskPhase
from trainwright.contracts.task_config import TaskConfig
from trainwright.contracts.worker import AttemptRef, WorkerDocument, WorkerRegistered
from trainwright.runtime.apply import DEAD_LETTERS, Inbound, Reactions, apply, open_record
from trainwright.runtime.envelope import Cause, Reread, to_headers, wrap
from trainwright.runtime.outbox import emit
from trainwright.storage.memory import MemoryStore

OUTCOMES = st.sampled_from(
    [
        (Came.COMPLETED, None),
        (Came.PAUSED, None),
        (Came.CANCELLED, None),
        (Came.INTERRUPTED, FailureClass.PREEMPTED),
        (Came.FAILED, FailureClass.UNKNOWN),
        (Came.FAILED, FailureClass.NODE_BAD),
        (Came.FAILED, FailureClass.USER_ERROR),
    ]
)
REQUESTS = {
    "start": task_service.start_task,
    "pause": task_service.pause_task,
    "resume": task_service.resume_task,
    "cancel": task_service.cancel_task,
}
WHICH = st.integers(min_value=0, max_value=10_000)


def drive(steps: Coroutine[Any, Any, Any]) -> Any:
    """Run to its end what never waits."""
    try:
        steps.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits for something")


class Machine(RuleBasedStateMachine):
    """One service's store, what was said to it so far, and what it said."""

    name: ClassVar[str]

    def __init__(self, collections: Any) -> None:
        super().__init__()
        self.clock = FastClock()
        self.store = MemoryStore((*collections, DEAD_LETTERS))
        self.records: list[Reread] = []
        self.said: list[Event] = []
        self.reactions: Reactions = {}
        self._read = 0

    def hear(self, event: Event) -> None:
        """Hand an event over, and keep it for later."""
        topic = topics.TOPIC_OF[type(event)].name
        time = self.clock.now()
        envelope = wrap(event, id=f"said-{len(self.records)}", source="machine", time=time, traceparent=None)
        headers = [(name, text.encode()) for name, text in to_headers(envelope)]
        value = event.model_dump_json().encode()
        self.records.append(Reread(topic, 0, len(self.records), event.subject.encode(), value, headers))

    def apply(self, record: Reread) -> None:
        topic = next(topic for topic in topics.TOPICS if topic.name == record.topic)
        handlers = self.reactions[topic]
        drive(apply([record], Inbound(self.name, topic, handlers, self.store, self.clock)))
        self.listen()

    def listen(self) -> list[Event]:
        """Take in what the service has said since the last time."""
        news = []
        for seq, row in self.store.state.pending.items():
            if seq > self._read:
                headers = [(name, text.encode()) for name, text in row.headers]
                _, event = open_record(Reread(row.topic, 0, seq, None, row.value, headers))
                assert event is not None
                news.append(event)
                self._read = seq
        self.said += news
        return news

    @precondition(lambda self: self.records)
    @rule(which=WHICH, newest=st.booleans())
    def deliver(self, which: int, newest: bool) -> None:
        """Hand over any record, once more perhaps; mostly a late one."""
        self.apply(self.records[-1 - which % min(3, len(self.records)) if newest else which % len(self.records)])


class TaskMachine(Machine):
    """One task, people with wishes, and a scheduler and worker that say what they may say."""

    name = "task"

    def __init__(self) -> None:
        super().__init__(TASKS)
        self.reactions = REACTIONS
        self.task_id = ""
        self.given = self.placed = 0
        self.held = False
        self.attempt: AttemptDocument | None = None

    async def _ask(self, request: Any, *args: Any, **more: Any) -> Any:
        async with self.store.transaction() as tx:
            answer, events = await request(*args, actor="sim", tx=tx, clock=self.clock, **more)
            await emit(tx, events, source="task", cause=Cause(self.clock.new_id("r")), clock=self.clock)
        return answer

    @precondition(lambda self: not self.task_id)
    @rule(retries=st.integers(0, 2), run=st.booleans())
    def create(self, retries: int, run: bool) -> None:
        config = TaskConfig(recipe="script", parameters={"path": "x.py"}, max_retries=retries)
        self.task_id = drive(self._ask(task_service.create_task, config, run=run)).task_id
        self.listen()

    @precondition(lambda self: self.task_id)
    @rule(wish=st.sampled_from(sorted(REQUESTS)))
    def ask(self, wish: str) -> None:
        try:
            drive(self._ask(REQUESTS[wish], self.task_id))
        except IllegalTransition:
            return
        self.listen()

    def _placement(self, kind: type[PlacementEvent], state: PlacementState) -> None:
        self.placed += 1
        fields: dict[str, Any] = {"worker_id": "worker-1", "incarnation": "one", "updated_at": self.clock.now()}
        placement = Placement(task_id=self.task_id, version=self.placed, state=state, attempt=self.given, **fields)
        self.hear(kind(placement=placement))

    @precondition(lambda self: self.task_id and not self.held and self.given < 5)
    @rule()
    def place(self) -> None:
        self.given, self.held = self.given + 1, True
        self._placement(PlacementAssigned, PlacementState.ASSIGNED)
        self.attempt = AttemptDocument(
            task_id=self.task_id, attempt=self.given, version=1, worker_id="worker-1", incarnation="one"
        )
        self.hear(AttemptStarted(attempt=self.attempt.model_copy(update={"started_at": self.clock.now()})))

    def _attempt(self, kind: type[AttemptEvent], **fields: Any) -> None:
        assert self.attempt is not None
        self.attempt = self.attempt.model_copy(update={**fields, "version": self.attempt.version + 1})
        self.hear(kind(attempt=self.attempt))

    @precondition(lambda self: self.held)
    @rule(step=st.integers(1, 50))
    def save(self, step: int) -> None:
        one = Checkpoint(step=step, attempt=self.given, manifest="0" * 64, saved_at=self.clock.now())
        self._attempt(CheckpointSaved, checkpoints=[one])

    @precondition(lambda self: self.held)
    @rule(came=OUTCOMES)
    def end(self, came: tuple[Came, FailureClass | None]) -> None:
        outcome, kind = came
        failure = None if kind is None else Failure(failure_class=kind, message="as drawn")
        self._attempt(AttemptEnded, outcome=outcome, failure=failure, ended_at=self.clock.now())
        self.held = False

    @precondition(lambda self: self.held)
    @rule()
    def lose(self) -> None:
        self._placement(WorkerLost, PlacementState.RELEASED)
        self.held = False

    @invariant()
    def lives_as_the_model_says(self) -> None:
        history = [event.task for event in self.said if isinstance(event, TaskEvent)]
        assert list(life_of_task(history)) == []
        assert [task.version for task in history] == list(range(1, len(history) + 1)), "each version is told once"

    def teardown(self) -> None:
        """When all was heard, and nothing is at work any more, the task does not wait for a run."""
        for record in self.records:
            self.apply(record)
        self.lives_as_the_model_says()
        tasks = [event.task for event in self.said if isinstance(event, TaskEvent)]
        at_work = {TaskPhase.STARTING, TaskPhase.TRAINING, TaskPhase.CHECKPOINTING, TaskPhase.STOPPING}
        assert not tasks or self.held or tasks[-1].phase not in at_work, f"{tasks[-1].phase}, and nothing runs"


class _Pulses:
    """Where probes go: straight back."""

    def send(self, slot: str, event: Event) -> None:
        """Forget it."""


class SchedulerMachine(Machine):
    """Some tasks and two workers as they may speak; the passes run when it is their turn."""

    name = "scheduler"

    def __init__(self) -> None:
        super().__init__(SCHEDULER)
        settings, pulses = SchedulerSettings(), _Pulses()
        self.leases = Leases(self.clock, settings, ["voice"])
        self.passes = Passes(self.store, self.leases, settings, self.clock, pulses)  # type: ignore[arg-type]
        self.reactions = scheduler_reactions(
            Handlers(self.leases, settings, self.passes.note, self.passes.board.has_its_place)
        )
        self.tasks: dict[str, TaskDocument] = {}
        self.workers: dict[str, WorkerDocument] = {}
        self.room = {"worker-1": 1.0, "worker-2": 2.0}
        self.commands: dict[tuple[str, int], str] = {}

    @precondition(lambda self: len(self.tasks) < 4)
    @rule(cpu=st.sampled_from((0.5, 1, 2)), wait=st.booleans())
    def submit(self, cpu: float, wait: bool) -> None:
        needs = {"cpu": cpu, "memory": 0}
        unreachable = "wait" if wait else "replace"
        config = TaskConfig(recipe="script", resource_requirements=needs, on_unreachable=unreachable)
        name, now = f"task-{len(self.tasks)}", self.clock.now()
        ready = domain.start(domain.created(name, config, now).task, now)
        assert ready is not None
        self._change(ready)

    def _change(self, change: domain.Change | None) -> None:
        if change is not None:
            self.tasks[change.task.task_id] = change.task
            self.hear(change.event(task=change.task))

    @precondition(lambda self: self.tasks)
    @rule(which=WHICH, wish=st.sampled_from((domain.pause, domain.resume, domain.cancel)))
    def ask(self, which: int, wish: Any) -> None:
        task = list(self.tasks.values())[which % len(self.tasks)]
        try:
            self._change(wish(task, self.clock.now()))
        except IllegalTransition:
            return

    @precondition(lambda self: any(isinstance(event, PlacementEvent) for event in self.said))
    @rule(which=WHICH)
    def task_hears(self, which: int) -> None:
        """The task's owner hears of a placement, perhaps an old one."""
        events = [event for event in self.said if isinstance(event, PlacementAssigned | WorkerLost)]
        if events:
            event = events[-1 - which % len(events)]
            fold = domain.placed if isinstance(event, PlacementAssigned) else domain.lost
            task = self.tasks[event.placement.task_id]
            self._change(fold(task, event.placement, self.clock.now()))

    @rule(name=st.sampled_from(("worker-1", "worker-2")), adopts=st.booleans())
    def register(self, name: str, adopts: bool) -> None:
        known = self.workers.get(name)
        version = 1 if known is None else known.version + 1
        refs = [AttemptRef(task_id=id, attempt=number) for (id, number), at in self.commands.items() if at == name]
        worker = WorkerDocument(
            worker_id=name,
            incarnation=f"life-{version}",
            version=version,
            cpus=self.room[name],
            hostname=name,
            memory=2**30,
            adopted=refs if adopts else [],
            registered_at=self.clock.now(),
        )
        self.workers[name] = worker
        self.hear(WorkerRegistered(worker=worker))
        self.apply(self.records[-1])

    @precondition(lambda self: self.workers)
    @rule(which=WHICH, all_of_them=st.booleans())
    def beat(self, which: int, all_of_them: bool) -> None:
        worker = list(self.workers.values())[which % len(self.workers)]
        mine = [
            AttemptRef(task_id=id, attempt=n) for (id, n), at in self.commands.items() if at == worker.worker_id
        ]
        beat = WorkerHeartbeat(
            worker_id=worker.worker_id,
            incarnation=worker.incarnation,
            time=self.clock.now(),
            running=mine if all_of_them else [],
        )
        self.hear(beat)
        self.apply(self.records[-1])

    @precondition(lambda self: self.commands)
    @rule(which=WHICH, came=OUTCOMES)
    def end(self, which: int, came: tuple[Came, FailureClass | None]) -> None:
        (task_id, number), worker_id = list(self.commands.items())[which % len(self.commands)]
        failure = None if came[1] is None else Failure(failure_class=came[1], message="as drawn")
        attempt = AttemptDocument(
            task_id=task_id,
            attempt=number,
            version=2,
            worker_id=worker_id,
            incarnation="one",
            outcome=came[0],
            failure=failure,
        )
        self.hear(AttemptEnded(attempt=attempt))
        self._change(domain.ended(self.tasks[task_id], attempt, self.clock.now()))

    @rule(seconds=st.sampled_from((0.5, 2, 9, 31)))
    def time_passes(self, seconds: float) -> None:
        self.clock.slept.append(seconds)
        drive(self.passes.watch())
        drive(self.passes.sweep())
        seq = self.leases.next_probe()
        self.hear(SchedulerProbed(scheduler="voice", seq=seq, time=self.clock.now()))
        self.apply(self.records.pop())

    @rule()
    def place(self) -> None:
        drive(self.passes.place())
        self.listen()

    def listen(self) -> list[Event]:
        news = super().listen()
        for event in news:
            if isinstance(event, RunAttempt):
                key = (event.task_id, event.attempt)
                assert key not in self.commands, f"{key} was ordered twice"
                self.commands[key] = event.worker_id
        return news

    @invariant()
    def places_as_the_model_says(self) -> None:
        held: dict[str, float] = {}
        for one in self.store.state.documents["entries"].values():
            assert one is not None
            placement = one.value["placement"]
            if placement["state"] == PlacementState.ASSIGNED:
                worker = placement["worker_id"]
                held[worker] = held.get(worker, 0.0) + placement["slots"]["cpu"]
        assert list(room_is_kept(held, self.room)) == []
        for task_id in self.tasks:
            mine: dict[int, Placement] = {}
            for event in self.said:
                if isinstance(event, PlacementEvent) and event.placement.task_id == task_id:
                    mine.setdefault(event.placement.version, event.placement)
                    assert event.placement == mine[event.placement.version], "a version is one document"
            assert list(life_of_placement(mine[number] for number in sorted(mine))) == []
