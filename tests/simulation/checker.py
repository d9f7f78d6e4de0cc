"""What must be true of a simulated installation, whatever was done to it: over the log, the stores and the runs.

A reference model of the promises in messaging.md, in as few words as they have: it knows nothing of how the
services keep them. Each broken promise is one line of text. Not here: what was done to the installation.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.bus import SimLog
from tests.simulation.model import life_of_placement, life_of_task
from tests.simulation.programs import SimService
from tests.simulation.witness import Witness
from tests.simulation.workers import SimWorker
from tests.simulation.world import Program, SimClock
from trainwright.contracts.attempt import AttemptEnded, AttemptEvent, Outcome
from trainwright.contracts.base import Contract, Event
from trainwright.contracts.failure import INFRASTRUCTURE
from trainwright.contracts.queue import Placement, PlacementAssigned, PlacementEvent, PlacementState
from trainwright.contracts.task import FINAL, TaskDocument, TaskEvent, TaskStatus
from trainwright.contracts.topics import DEAD, PULSE, TOPICS
from trainwright.contracts.worker import WorkerEvent
from trainwright.runtime.apply import DEAD_LETTERS, Inbound, apply
from trainwright.runtime.envelope import Envelope

Tasks = dict[str, TaskDocument]
"""Every task as its own service has it."""


@dataclass(slots=True)
class Wishes:
    """What people asked for and were promised: the last word on each task."""

    accepted: set[str] = field(default_factory=set)
    last: dict[str, str] = field(default_factory=dict)
    """The last accepted of `start`, `pause`, `resume`, `cancel`, by task."""


@dataclass(slots=True)
class Installation:
    """Everything that there is to look at."""

    log: SimLog
    task: SimService
    schedulers: list[SimService]
    workers: list[SimWorker]
    wishes: Wishes
    witness: Witness

    @property
    def scheduler(self) -> SimService:
        """Return one of the scheduler's processes: they have one store."""
        return self.schedulers[0]

    @property
    def stores(self) -> list[Program]:
        """Return a program of each store."""
        return [self.task, self.scheduler, *self.workers]


def broken(found: Installation) -> list[str]:
    """Return the promises that do not hold, in words."""
    events, tasks = list(found.log.events()), _tasks(found)
    checks = (
        _accepted_is_kept(found, tasks),
        versions_are_one(events),
        _histories_are_legal(events),
        _readers_are_up_to_date(found, events, tasks),
        _everything_is_over(found, tasks),
        _attempts_are_run_once(found, events),
        _ends_are_true(found, events, tasks),
        _only_rubbish_is_put_aside(found),
        _nothing_is_left(found, tasks),
    )
    return [*found.witness.broken, *(line for check in checks for line in check)]


def fingerprint(found: Installation) -> str:
    """Return a hash of all that was said: two runs of one seed have the same.

    Dead letters are left out: they carry traces, which are numbered by the machine.
    """
    digest = hashlib.sha256()
    for topic in TOPICS:
        if topic is DEAD:
            continue
        for record in found.log.all_of(topic.name):
            digest.update(b"\0".join((topic.name.encode(), record.key or b"", record.value or b"")))
    return digest.hexdigest()


async def replayed(found: Installation) -> list[str]:
    """Read every topic again from its beginning: the stores hold what they held.

    Heartbeats are left out: of those only the newest counts, in memory.
    """
    lines = []
    for program in (found.task, *(one for one in found.schedulers if one.lease is not None and one.lease.leads)):
        before, service = _content(program), program.service
        assert service is not None
        for topic, handlers in service.reactions.items():
            if topic is PULSE and program is not found.task:
                continue
            records = [one for one in found.log.all_of(topic.name) if found.log.open(one) is not None]
            await apply(records, Inbound(program.name, topic, handlers, service.store, SimClock(program.world)))
            if _content(program) != before:
                lines.append(f"I2: {program.name} reads {topic.name} again, and its store is another one")
                break
    return lines


def _content(program: Program) -> tuple[Any, ...]:
    state = program.state
    documents = {
        (name, id): one and one.raw for name, found in state.documents.items() for id, one in found.items()
    }
    return documents, set(state.inbox), dict(state.guards), state.seq


def _tasks(found: Installation) -> Tasks:
    kept = found.task.state.documents["tasks"]
    return {id: TaskDocument.model_validate(one.value) for id, one in kept.items() if one is not None}


def _accepted_is_kept(found: Installation, tasks: Tasks) -> Iterator[str]:
    """I1: what was answered is there."""
    for task_id in found.wishes.accepted - set(tasks):
        yield f"I1: {task_id} was accepted and is not there"


def versions_are_one(events: list[tuple[Envelope, Event]]) -> Iterator[str]:
    """I2, I3: one version of an aggregate is one document, whoever says it again."""
    seen: dict[Any, Contract] = {}
    for envelope, event in events:
        document = _document(event)
        if document is None:
            continue
        name, version, content = document
        known = seen.setdefault((name, version), content)
        if known is not content and known != content:
            yield f"I3: {' '.join(map(str, name))} says two things as version {version} ({envelope.type})"


def _histories_are_legal(events: list[tuple[Envelope, Event]]) -> Iterator[str]:
    """Each task's and each placement's versions, in their order, are a life that the model allows."""
    tasks: dict[str, dict[int, TaskDocument]] = defaultdict(dict)
    placements: dict[str, dict[int, Placement]] = defaultdict(dict)
    for _, event in events:
        if isinstance(event, TaskEvent):
            tasks[event.task.task_id][event.task.version] = event.task
        elif isinstance(event, PlacementEvent):
            placements[event.placement.task_id][event.placement.version] = event.placement
    for versions in tasks.values():
        yield from life_of_task(versions[number] for number in sorted(versions))
    for found in placements.values():
        yield from life_of_placement(found[number] for number in sorted(found))


def _document(event: Event) -> tuple[tuple[str, ...], Any, Contract] | None:
    """Return the aggregate that an event carries: its name, its version, its content."""
    if isinstance(event, TaskEvent):
        return ("task", event.task.task_id), event.task.version, event.task
    if isinstance(event, PlacementEvent):
        placement = event.placement
        return ("placement", placement.task_id), placement.version, placement
    if isinstance(event, AttemptEvent):
        attempt = event.attempt
        return ("attempt", attempt.task_id, str(attempt.attempt)), attempt.version, attempt
    if isinstance(event, WorkerEvent):
        return ("worker", event.worker.worker_id), event.worker.version, event.worker
    return None


def _readers_are_up_to_date(
    found: Installation, events: list[tuple[Envelope, Event]], own: Tasks
) -> Iterator[str]:
    """I3: after the healing the scheduler's copy of each task is the task service's own."""
    newest: dict[str, int] = defaultdict(int)
    for _, event in events:
        if isinstance(event, TaskEvent):
            newest[event.task.task_id] = max(newest[event.task.task_id], event.task.version)
    for id, one in found.scheduler.state.documents["entries"].items():
        version = one.value["task"]["version"] if one is not None else newest[id]
        if version != newest[id]:
            yield f"I3: the scheduler has version {version} of {id}; the log has {newest[id]}"
        if id in own and version > own[id].version:
            yield f"I3: the scheduler has version {version} of {id}; its owner {own[id].version}"


def _everything_is_over(found: Installation, tasks: Tasks) -> Iterator[str]:
    """I4: every task that was to run is final, or parked as somebody wished."""
    for task_id, task in tasks.items():
        wish = found.wishes.last.get(task_id, "start")
        if task.status in FINAL or (task.status is TaskStatus.PAUSED and wish == "pause"):
            continue
        if task_id in found.wishes.accepted:
            yield f"I4: {task_id} is {task.status} ({task.phase}: {task.reason}) after {wish}"


def workers_given(events: Iterable[Event]) -> dict[tuple[str, int], set[str]]:
    """Return the workers that each attempt was given to, those of a gang in one text."""
    given: dict[tuple[str, int], set[str]] = defaultdict(set)
    for event in events:
        if isinstance(event, PlacementAssigned):
            placement = event.placement
            members = [one.worker_id for one in placement.members] or [str(placement.worker_id)]
            given[placement.task_id, placement.attempt].add(" and ".join(members))
    return given


def numbers_are_given_once(given: dict[tuple[str, int], set[str]]) -> Iterator[str]:
    """I2: an attempt has one worker, a gang one for each rank."""
    for (task_id, attempt), workers in given.items():
        if len(workers) > 1:
            yield f"I2: attempt {attempt} of {task_id} was given to {'; '.join(sorted(workers))}"


def _attempts_are_run_once(found: Installation, events: list[tuple[Envelope, Event]]) -> Iterator[str]:
    """I2: a number is given once, a run of it started once; and nothing unfenced runs beside another."""
    given = workers_given(event for _, event in events)
    yield from numbers_are_given_once(given)
    begun: dict[tuple[str, int], list[int]] = defaultdict(list)
    for worker in found.workers:
        for run in worker.begun:
            begun[run.task_id, run.attempt].append(run.rank)
    for (task_id, attempt), ranks in begun.items():
        if len(ranks) > len(set(ranks)):
            yield f"I2: attempt {attempt} of {task_id} was started {len(ranks)} times: ranks {sorted(ranks)}"
        if (task_id, attempt) not in given and not found.log.lost:
            yield f"I2: attempt {attempt} of {task_id} ran and was never given"


def _ends_are_true(found: Installation, events: list[tuple[Envelope, Event]], tasks: Tasks) -> Iterator[str]:
    """A task's end is what its newest attempt came to; what its own failures cost it is what it paid."""
    ended: dict[tuple[str, int], AttemptEnded] = {}
    for _, event in events:
        if isinstance(event, AttemptEnded):
            ended[event.attempt.task_id, event.attempt.attempt] = event
    for task_id, task in tasks.items():
        last = ended.get((task_id, task.attempt))
        outcome = last.attempt.outcome if last is not None else None
        if task.status is TaskStatus.COMPLETED and outcome is not Outcome.COMPLETED and not found.log.lost:
            yield f"I2: {task_id} is completed, but its attempt {task.attempt} came to {outcome}"
        if task.retries_used > task.config.max_retries:
            yield f"I2: {task_id} was charged {task.retries_used} retries of {task.config.max_retries}"
        own = sum(one.failure_class not in INFRASTRUCTURE for one in task.repairs)
        if own != task.retries_used:
            yield f"I2: {task_id} was charged {task.retries_used} retries for {own} failures of its own"
        if task.status is TaskStatus.CANCELLED and found.wishes.last.get(task_id) != "cancel":
            yield f"I2: {task_id} is cancelled, and nobody asked for that"


def _only_rubbish_is_put_aside(found: Installation) -> Iterator[str]:
    """I2: a record that can be read is applied, whenever it comes; only what cannot becomes a dead letter."""
    for program in found.stores:
        for letter in program.state.documents[DEAD_LETTERS.name].values():
            if letter is not None and not letter.value["error"].startswith("Poison:"):
                yield f"I2: {program.name} put a record of {letter.value['topic']} aside: {letter.value['error']}"


def _nothing_is_left(found: Installation, tasks: Tasks) -> Iterator[str]:
    """Nothing runs for a task that is over, no slot is held for it, nothing waits to be said."""
    for worker in found.workers:
        for run in worker.runs.values():
            if run.verdict is None and tasks[run.task_id].status in FINAL | {TaskStatus.PAUSED}:
                yield f"left: {run.task_id} is {tasks[run.task_id].status} and still runs on {worker.name}"
    for id, one in found.scheduler.state.documents["entries"].items():
        state = one.value["state"] if one is not None else None
        if state == PlacementState.ASSIGNED and tasks[id].status in FINAL:
            yield f"left: a slot is held for {id}, which is {tasks[id].status}"
    for program in found.stores:
        if program.state.pending:
            yield f"left: {len(program.state.pending)} events of {program.name} were never sent"
