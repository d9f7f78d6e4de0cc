"""Change parameters of a task while it exists: what may change, what needs a second word, what it was before."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from services.task import domain
from services.task.handlers.saving import save
from services.task.store import (
    Confirmation,
    confirmations_of,
    drop_confirmation,
    get_task,
    keep_confirmation,
)
from trainwright import recipes
from trainwright.contracts.base import Event, iso, nearest
from trainwright.contracts.errors import Conflict, FieldError, IllegalTransition, InvalidInput
from trainwright.contracts.parameters import ChangedValue, ChangeState, ParametersAnswer
from trainwright.contracts.task import FINAL, TaskDocument
from trainwright.contracts.task_config import HotRule, SetParameters
from trainwright.documents.changes import content_hash, same
from trainwright.runtime.clock import Clock
from trainwright.storage.document import Transaction

CONFIRM_WITHIN = timedelta(minutes=10)
_KINDS: tuple[tuple[type, Any, str], ...] = (
    (bool, bool, "true or false"),
    (int, int, "a whole number"),
    (float, int | float, "a number"),
    (str, str, "text"),
    (list, list, "a list"),
    (dict, dict, "a mapping"),
)
"""What a value was, what may take its place, and that in words. A whole number stays one: it may be a count."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request, as it is answered."""

    task: TaskDocument
    answer: ParametersAnswer


async def set_parameters(
    task_id: str, wish: SetParameters, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[Outcome, list[Event]]:
    """Change hot parameters of a task, or ask for a confirmation first where a change is important.

    Raises:
        InvalidInput: A parameter is not hot, or a value does not fit; every one is named.
        IllegalTransition: The task is over.
        Conflict: What is confirmed is not what was asked for, or its time is over.
    """
    task = await get_task(tx, task_id)
    if task.status in FINAL:
        raise IllegalTransition(f"task {task_id} is {task.status}: its parameters do not change any more")
    values = _checked(task, wish.parameters)
    before = domain.current(task)
    news = {name: value for name, value in values.items() if not same(before.get(name), value)}
    if not news:
        message = "every one of these parameters has that value already"
        answer = ParametersAnswer(
            task_id=task_id, state="unchanged", revision=task.parameter_revision, message=message
        )
        return Outcome(task, answer), []
    confirmed_by = None
    if any(task.config.hot[name].important for name in news):
        asked = await _confirmed(task, news, wish, actor, tx, clock)
        if asked is None:
            return await _ask_again(task, news, wish, actor, tx, clock)
        await drop_confirmation(tx, asked.token)
        actor, confirmed_by = asked.actor, actor
    change = domain.requested(task, news, actor=actor, confirmed_by=confirmed_by, why=wish.reason, now=clock.now())
    answer = answer_of(change.task, change.task.parameter_revision)
    return Outcome(change.task, answer), await save(change, tx, actor)


def answer_of(task: TaskDocument, revision: int) -> ParametersAnswer:
    """Return how a revision of a task's parameters stands."""
    one = next((one for one in task.parameter_changes if one.revision == revision), None)
    if one is None:
        return ParametersAnswer(task_id=task.task_id, state="applied", revision=task.parameter_revision)
    at_work = task.phase in domain.LIVE
    messages = {
        ChangeState.REQUESTED: (
            "goes to the run, which takes it over at its next step"
            if at_work
            else "the next run takes it over at its first step"
        ),
        ChangeState.APPLIED: f"holds from step {one.step}",
        ChangeState.REJECTED: f"the run goes on as before: {one.error}",
    }
    return ParametersAnswer(
        task_id=task.task_id,
        state=one.state,
        revision=revision,
        changes=one.changes,
        step=one.step,
        message=messages[one.state],
    )


def _checked(task: TaskDocument, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the recipe reads them.

    Raises:
        InvalidInput: A parameter is not hot, or a value does not fit.
    """
    hot, before = task.config.hot, domain.current(task)
    problems = [
        FieldError(path=f"parameters.{name}", message=_not_hot(name, task)) for name in wanted if name not in hot
    ]
    for name, value in wanted.items():
        if name in hot and (message := _unfit(before.get(name), value, hot[name])) is not None:
            problems.append(FieldError(path=f"parameters.{name}", message=message))
    values = dict(wanted)
    if not problems:
        resolved, wrong = recipes.check(task.config.recipe, {**before, **wanted}, task.config.data)
        problems = [FieldError(path=path, message=message) for path, message in wrong]
        values = {name: _alike(before.get(name), resolved[name]) for name in wanted if name in resolved}
    if problems:
        raise InvalidInput("; ".join(f"{one.path}: {one.message}" for one in problems[:3]), problems)
    return values


def _not_hot(name: str, task: TaskDocument) -> str:
    hot = task.config.hot
    if name not in domain.current(task):
        return f"the task has no parameter {name[:80]!r}{nearest(name, hot)}"
    if hot:
        return f"{name!r} cannot change while the task exists; these can: {', '.join(hot)}. For others: rerun it"
    return f"{name!r} cannot change while the task exists: nothing is declared `hot`. For another value: rerun it"


def _unfit(before: Any, value: Any, rule: HotRule) -> str | None:
    """Return why a value may not take the place of another one, or None."""
    for kind, takes, words in _KINDS:
        if isinstance(before, kind):
            fits = isinstance(value, takes) and (kind is bool or not isinstance(value, bool))
            if not fits:
                return f"must be {words} like {_json(before)} (got {_json(value)})"
            break
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if rule.minimum is not None and value < rule.minimum:
        return f"must be at least {rule.minimum:g} (got {value})"
    if rule.maximum is not None and value > rule.maximum:
        return f"must be at most {rule.maximum:g} (got {value})"
    return None


def _alike(before: Any, value: Any) -> Any:
    """Return a value in the type of the one before: a fraction that becomes 1 may become 0.5 again."""
    return float(value) if isinstance(before, float) and type(value) is int else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]


async def _confirmed(
    task: TaskDocument, news: Mapping[str, Any], wish: SetParameters, actor: str, tx: Transaction, clock: Clock
) -> Confirmation | None:
    """Return the request that this one confirms: by its token, or because another key asks for the same."""
    waiting = await confirmations_of(tx, task.task_id, clock.now())
    now_is = content_hash(domain.current(task))
    if wish.confirm is None:
        for one in waiting:
            if one.actor != actor and same(one.values, dict(news)) and one.before == now_is:
                return one
        return None
    asked = next((one for one in waiting if one.token == wish.confirm), None)
    if asked is None:
        raise Conflict("this token confirms nothing (any more): send the change again without it for a new one")
    if not same(asked.values, dict(news)):
        raise Conflict("this token confirms other values: send the change again without it for a new one")
    if asked.before != now_is:
        raise Conflict("the parameters have changed meanwhile: send the change again without the token")
    return asked


async def _ask_again(
    task: TaskDocument, news: dict[str, Any], wish: SetParameters, actor: str, tx: Transaction, clock: Clock
) -> tuple[Outcome, list[Event]]:
    before, until = domain.current(task), clock.now() + CONFIRM_WITHIN
    token = clock.new_id("confirm")
    kept = Confirmation(
        token=token,
        task_id=task.task_id,
        values=news,
        before=content_hash(before),
        actor=actor,
        reason=wish.reason,
        expires_at=iso(until),
    )
    await keep_confirmation(tx, kept)
    important = ", ".join(name for name in news if task.config.hot[name].important)
    answer = ParametersAnswer(
        task_id=task.task_id,
        state="confirmation_needed",
        revision=task.parameter_revision,
        changes={name: ChangedValue(old=before.get(name), new=value) for name, value in news.items()},
        message=f"{important} is important: send the same again with this token as `confirm`, or by another key",
        confirm=token,
        expires_at=until,
    )
    return Outcome(task, answer), []
