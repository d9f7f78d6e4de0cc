"""A task's state machine in every order of requests and facts, with attempts 1 to 3: no state is left out.

Facts may come in any order, doubled, late, or from attempts that were given up. The check itself is checked: it
has to see each bug that is planted below.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.task import domain
from tests.unit.task_facts import LATER, NOW, a_task, at, end, saved
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.errors import IllegalTransition
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.queue import WaitClass
from trainwright.contracts.task import FINAL, StopKind, TaskDocument, TaskPhase, TaskStatus, TaskStatusChanged

REQUESTS: dict[str, Callable[[TaskDocument, datetime], domain.Change | None]] = {
    "start": domain.start,
    "pause": domain.pause,
    "resume": domain.resume,
    "cancel": domain.cancel,
}
ATTEMPTS = (1, 2, 3)
CONFIG = {
    "max_retries": 2,
    "on_timeout": "pause",
    "parameters": {"micro": 64, "accumulate": 1, "rate": 0.1},
    "repairable": {"micro_batch": "micro", "accumulate": "accumulate", "learning_rate": "rate"},
}


@dataclass(frozen=True)
class Fact:
    """A request, or something that is heard of an attempt."""

    kind: str
    attempt: int = 0
    outcome: Outcome | None = None
    failure: FailureClass | None = None


ENDINGS = [
    *((outcome, None) for outcome in Outcome),
    *((Outcome.FAILED, kind) for kind in FailureClass),
]
FACTS = [
    *(Fact(kind) for kind in (*REQUESTS, "queued", "quota")),
    *(Fact(kind, n) for kind in ("placed", "started", "saved", "lost") for n in ATTEMPTS),
    *(Fact("ended", n, outcome, kind) for n in ATTEMPTS for outcome, kind in ENDINGS),
]
Step = Callable[[TaskDocument, Fact], domain.Change | None]


def step(task: TaskDocument, fact: Fact) -> domain.Change | None:
    """Tell a task a fact."""
    number = fact.attempt
    match fact.kind:
        case "queued":
            return domain.queued(task, at(task.attempt, "waiting for a free place"), NOW)
        case "quota":
            held = at(task.attempt, "waiting for the quota").model_copy(update={"waits_for": WaitClass.QUOTA})
            return domain.queued(task, held, NOW)
        case "placed":
            return domain.placed(task, at(number), NOW)
        case "started":
            return domain.started(task, number, "worker-1", NOW)
        case "saved":
            return domain.reported(task, saved(number, 10 * number), NOW)
        case "lost":
            return domain.lost(task, at(number), NOW)
        case "ended":
            assert fact.outcome is not None
            document = end(number, fact.outcome, fact.failure, 10 * number, bad_step=10 * number)
            return domain.ended(task, document, LATER)
    return REQUESTS[fact.kind](task, NOW)


def check(task: TaskDocument, fact: Fact, tell: Step) -> TaskDocument:
    """Tell a task a fact, and check all that has to hold of what it does about it."""
    try:
        change = tell(task, fact)
    except IllegalTransition as error:
        return check_refusal(task, fact, str(error))
    if change is None:
        return task
    after = change.task
    assert task.status not in FINAL, "nothing follows the end"
    assert not has_no_say(task, fact), "an attempt that was given up has no say"
    assert after.version == task.version + 1
    assert after.attempt >= task.attempt
    assert after.status in domain.TRANSITIONS[task.status]
    check_document(after)
    if task.stop is StopKind.CANCEL:
        assert after.stop is StopKind.CANCEL or after.status in FINAL, "a cancel is never forgotten"
    if fact.kind in ("ended", "lost"):
        resting = after.status in FINAL or after.status is TaskStatus.PAUSED
        assert resting or task.stop is None, "a run that was asked to stop and is over leaves its task at rest"
        assert not at_work(after), "no run is thought to be at work after its end"
    try:
        assert tell(after, fact) is None, "the same again changes nothing"
    except IllegalTransition:
        assert fact.kind == "start", "a request alone can be illegal, never a fact"
    return after


def check_refusal(task: TaskDocument, fact: Fact, said: str) -> TaskDocument:
    """Check that what was refused is a request, and that it is told why."""
    assert fact.kind in REQUESTS, "only a request can be illegal, never a fact"
    assert f"is {task.status} and cannot be" in said, "a refusal names the status"
    return task


def check_document(task: TaskDocument) -> None:
    """Check what holds of every task at any time."""
    assert (task.phase is TaskPhase.ENDED) == (task.status in FINAL)
    assert (task.phase is TaskPhase.HELD) == (task.status is TaskStatus.PAUSED)
    assert (task.stop is not None) == (task.phase is TaskPhase.STOPPING), "stop is not None only while stopping"
    if task.status is TaskStatus.RUNNING:
        assert task.phase in domain.LIVE
    assert (task.not_before is not None) == (task.phase is TaskPhase.BACKING_OFF)
    assert all(one.attempt <= task.attempt for one in task.checkpoints)
    assert len({(one.attempt, one.step) for one in task.checkpoints}) == len(task.checkpoints)


def at_work(task: TaskDocument) -> bool:
    """Return whether a run of the task may be at work."""
    return task.phase in domain.LIVE or (task.status is TaskStatus.PAUSED and task.worker_id is not None)


def has_no_say(task: TaskDocument, fact: Fact) -> bool:
    """Return whether a fact is about an attempt that was given up."""
    own = fact.attempt == task.attempt
    return 0 < fact.attempt < task.attempt or (own and fact.attempt > 0 and not at_work(task))


def explore(tell: Step) -> dict[tuple[object, ...], TaskDocument]:
    """Visit every state that any order of facts leads to; return a task for each."""
    first = a_task(**CONFIG)
    seen = {key_of(first): first}
    left = [first]
    while left:
        task = left.pop()
        for fact in FACTS:
            after = check(task, fact, tell)
            if key_of(after) not in seen:
                seen[key_of(after)] = after
                left.append(after)
    return seen


def key_of(task: TaskDocument) -> tuple[object, ...]:
    """Return what decides over a task's future here."""
    steps = tuple(one.step for one in task.checkpoints)
    asked = (task.stop, task.resumed_at is not None)
    return (task.status, task.phase, *asked, task.attempt, task.worker_id, task.retries_used > 1, steps)


def test_every_order_of_facts() -> None:
    seen = explore(step)
    assert {task.phase for task in seen.values()} >= {*domain.LIVE, *TaskPhase} - {
        TaskPhase.CHECKPOINTING,  # these two are the run's own words, shown but not kept
        TaskPhase.FINISHING,
        TaskPhase.WAITING_DEPENDENCIES,  # of tasks that depend on others: none of these facts is about them
    }
    assert len(seen) > 100


@given(st.lists(st.sampled_from(FACTS), max_size=40))
def test_long_orders_of_facts(facts: list[Fact]) -> None:
    task = a_task(**CONFIG)
    for fact in facts:
        task = check(task, fact, step)


def believes_zombies(task: TaskDocument, fact: Fact) -> domain.Change | None:
    if fact.kind == "ended" and 0 < fact.attempt < task.attempt:
        return step(task, Fact("ended", task.attempt, fact.outcome, fact.failure))
    return step(task, fact)


def lets_a_pause_undo_a_cancel(task: TaskDocument, fact: Fact) -> domain.Change | None:
    if fact.kind == "pause" and task.stop is StopKind.CANCEL:
        return step(task.model_copy(update={"stop": None}), fact)
    return step(task, fact)


def forgets_the_wish_when_its_worker_is_lost(task: TaskDocument, fact: Fact) -> domain.Change | None:
    told = task.model_copy(update={"stop": None}) if fact.kind == "lost" else task
    return step(told, fact)


def keeps_the_wish_of_a_held_task(task: TaskDocument, fact: Fact) -> domain.Change | None:
    change = step(task, fact)
    if change is None or change.task.status is not TaskStatus.PAUSED:
        return change
    return domain.Change(change.task.model_copy(update={"stop": StopKind.PAUSE}), change.event, change.cause)


def takes_every_repeat_for_news(task: TaskDocument, fact: Fact) -> domain.Change | None:
    change = step(task, fact)
    if change is None and fact.kind == "pause":
        later = task.model_copy(update={"version": task.version + 1})
        return domain.Change(later, TaskStatusChanged, "paused")
    return change


def raises_in_a_handler(task: TaskDocument, fact: Fact) -> domain.Change | None:
    if fact.kind == "ended" and task.status in FINAL:
        raise IllegalTransition("cannot")
    return step(task, fact)


PLANTED: dict[Step, str] = {
    believes_zombies: "has no say",
    lets_a_pause_undo_a_cancel: "never forgotten",
    forgets_the_wish_when_its_worker_is_lost: "never forgotten|at rest",
    keeps_the_wish_of_a_held_task: "stop is not None",
    takes_every_repeat_for_news: "changes nothing|nothing follows the end",
    raises_in_a_handler: "never a fact",
}


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.__name__)
def test_the_check_sees_a_planted_bug(bug: Step) -> None:
    with pytest.raises(AssertionError, match=PLANTED[bug]):
        explore(bug)


def races() -> Iterator[tuple[str, str]]:
    return itertools.permutations(("pause", "resume", "cancel"), 2)


@pytest.mark.parametrize(("one", "other"), list(races()))
def test_two_requests_and_an_ending_between_or_after_them(one: str, other: str) -> None:
    """Whatever the order, one answer of the worker brings the task to rest, and a cancel is obeyed."""
    started = [Fact("start"), Fact("placed", 1), Fact("started", 1)]
    for outcome, kind in ENDINGS:
        over = Fact("ended", 1, outcome, kind)
        for order in (
            [Fact(one), over, Fact(other)],
            [Fact(one), Fact(other), over],
            [over, Fact(one), Fact(other)],
        ):
            task = a_task(**CONFIG)
            for fact in [*started, *order]:
                task = check(task, fact, step)
            assert not at_work(task)
            if "cancel" in (one, other):
                assert task.status in FINAL
