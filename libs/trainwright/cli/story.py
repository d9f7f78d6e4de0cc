"""A task told to people: where it stands, its attempts, its checkpoints, what was repaired, and what is news.

Not here: showing it while it runs (watch.py), how it ended (outcome.py).
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trainwright.cli.console import ago, clock, duration, number, one_line, size
from trainwright.cli.outcome import standing, why
from trainwright.cli.session import again

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainwright.contracts.checkpoint import Checkpoint, CheckpointView
    from trainwright.contracts.parameters import ParameterChange
    from trainwright.contracts.task import AttemptSummary, HistoryEntry, MemberSummary, Progress, Repair, TaskView

SHOWN = 5
"""Attempts and repairs that are told in short; there are commands for all of them."""
MEMBERS_SHOWN = 8

HISTORY = ("TIME", "STATUS", "PHASE", "ATTEMPT", "BY", "WHY")
ATTEMPTS = ("ATTEMPT", "WORKER", "FROM", "TO", "STARTED", "RAN", "ENDED", "WHY")
CHANGES = ("REVISION", "CHANGE", "BY", "WHEN", "STATE", "STEP", "WHY")
CHECKPOINTS = ("STEP", "ATTEMPT", "KIND", "SCORE", "SIZE", "SAVED", "")

Facts = list[tuple[str, str]]


class News:
    """What has happened to a task since it was looked at last: repairs, losses, attempts that go on."""

    def __init__(self) -> None:
        self._seen: set[str] | None = None

    def of(self, task: "TaskView") -> list[str]:
        """Return what is new, oldest first; at the first look nothing is."""
        events = [*((repair.attempt, 1, repair_line(repair)) for repair in task.repairs), *_beginnings(task)]
        if task.failure and task.failure.hint and task.repairs and not task.repairs[-1].changes:
            events.append((task.repairs[-1].attempt, 2, one_line(task.failure.hint)))  # a person may be quicker
        lines = [line for _, _, line in sorted(events)]
        before, self._seen = self._seen, {*(self._seen or ()), *lines}
        return [] if before is None else [line for line in lines if line not in before]


def repair_line(repair: "Repair") -> str:
    """Return what was done after an attempt failed, and why, in one line."""
    return one_line(repair.reason or f"attempt {repair.attempt}: {repair.action} ({repair.failure_class})")


def facts(task: "TaskView") -> Facts:
    """Return what is known of a task: labels and texts, of which empty ones are not shown."""
    return [
        ("task", f"{task.task_id}  {task.name}"),
        ("status", standing(task.status, task.phase, task.reason)),
        ("next", _next(task)),
        ("recipe", task.config.recipe),
        ("priority", str(task.config.priority) if task.config.priority else ""),
        ("labels", ", ".join(f"{name}={value}" for name, value in task.config.labels.items())),
        ("made from", f"{task.config_id} version {task.config_version}" if task.config_id else ""),
        ("rerun of", task.rerun_of or ""),
        ("depends on", ", ".join(task.depends_on)),
        ("progress", steps(task.progress) + _left(task)),
        ("metrics", ", ".join(f"{name} {number(value)}" for name, value in task.latest_metrics.items())),
        ("uses", _usage(task)),
        ("worker", task.worker_id or ""),
        ("attempts", _newest([_attempt_line(one) for one in task.attempts], f"task attempts {task.task_id}")),
        ("members", _member_lines(task)),
        ("checkpoints", _checkpoint_lines(task.checkpoints)),
        ("repaired", _newest([repair_line(one) for one in task.repairs], f"task history {task.task_id}")),
        ("changed", ", ".join(f"{one_line(name)} {number(value)}" for name, value in task.overrides.items())),
        (
            "failure" if task.status == "failed" else "last failure",
            "\n".join(why(task.failure)) if task.failure else "",
        ),
        ("", f"See what it wrote with `{again(f'logs {task.task_id}')}`." if task.failure else ""),
        ("created", clock(task.created_at)),
        ("archived", clock(task.archived_at)),
        ("started", clock(task.started_at)),
        ("ended", clock(task.ended_at)),
    ]


def history_rows(entries: "Iterable[HistoryEntry]") -> list[tuple[object, ...]]:
    """Return rows for the columns of `HISTORY`."""
    rows: list[tuple[object, ...]] = []
    before = ""
    for e in entries:  # one that left the reason as it was, such as an archiving, is told by its cause
        news = e.reason if e.reason != before else ""
        rows.append((clock(e.time), e.status, e.phase, e.attempt or "", e.actor, news or e.cause))
        before = e.reason
    return rows


def attempt_rows(attempts: "Iterable[AttemptSummary]") -> list[tuple[object, ...]]:
    """Return rows for the columns of `ATTEMPTS`; those on several workers have one for each of these beneath."""
    rows: list[tuple[object, ...]] = []
    for one in attempts:
        ended = one.outcome or ("running" if one.started_at else "starting")
        final = "" if one.final_step is None else one.final_step
        started = clock(one.started_at)
        rows.append(
            (one.attempt, one.worker_id or "", _from(one), final, started, _ran(one), ended, _because(one))
        )
        rows += [(f"  rank {m.rank}", m.worker_id, "", "", "", "", m.state, _because(m)) for m in one.members]
    return rows


def checkpoint_rows(checkpoints: "Iterable[CheckpointView]") -> list[tuple[object, ...]]:
    """Return rows for the columns of `CHECKPOINTS`."""
    return [
        (
            one.step,
            one.attempt,
            one.kind,
            "" if one.score is None else number(one.score),
            size(one.size),
            ago(one.saved_at),
            "best" if one.best else "" if one.kept else "deleted",
        )
        for one in checkpoints
    ]


def change_rows(changes: "Iterable[ParameterChange]") -> list[tuple[object, ...]]:
    """Return rows for the columns of `CHANGES`."""
    return [
        (
            one.revision,
            ", ".join(f"{name} {number(value.old)} → {number(value.new)}" for name, value in one.changes.items()),
            one.actor + (f", confirmed by {one.confirmed_by}" if one.confirmed_by else ""),
            clock(one.at),
            one.state,
            "" if one.step is None else one.step,
            one.error or one.reason,
        )
        for one in changes
    ]


def steps(progress: "Progress") -> str:
    """Return how far a run has come, as `120/300`."""
    if not progress.current_step and progress.total_steps is None:
        return ""
    of = f"/{progress.total_steps}" if progress.total_steps is not None else ""
    return f"{progress.current_step}{of}"


def _beginnings(task: "TaskView") -> list[tuple[int, int, str]]:
    """Return the starts of later attempts, to be told after what was repaired before them."""
    return [
        (one.attempt, 0, f"attempt {one.attempt} goes on from step {one.resume_step}" + _on(one))
        if one.resume_step
        else (one.attempt, 0, f"attempt {one.attempt} starts from the beginning" + _on(one))
        for one in task.attempts
        if one.attempt > 1 and one.started_at is not None
    ]


def _next(task: "TaskView") -> str:
    """Return what a task that does not run waits for, or what a person can do."""
    if task.not_before is not None and task.status == "pending":
        seconds = (task.not_before - datetime.now(UTC)).total_seconds()
        return f"tries again in {duration(seconds)}"
    if task.phase == "not_started":
        return f"start it with `{again(f'task start {task.task_id}')}`"
    return f"resume it with `{again(f'task resume {task.task_id}')}`" if task.status == "paused" else ""


def _left(task: "TaskView") -> str:
    known = task.eta_seconds is not None and task.status == "running"
    return f", {duration(task.eta_seconds or 0)} left" if known else ""


def _usage(task: "TaskView") -> str:
    usage = task.resource_usage
    used = [f"cpu {usage.cpu:.0f} %"] if usage.cpu is not None else []
    used += [f"memory {size(usage.memory)}"] if usage.memory is not None else []
    return ", ".join(used) if task.status == "running" else ""


def _newest(lines: list[str], command: str) -> str:
    """Return the newest lines, and how to see them all."""
    earlier = [f"… {len(lines) - SHOWN} earlier; see `{again(command)}`"] if len(lines) > SHOWN else []
    return "\n".join([*earlier, *lines[-SHOWN:]])


def _attempt_line(one: "AttemptSummary") -> str:
    ended = one.outcome or ("running" if one.started_at else "starting")
    at = f" at step {one.final_step}" if one.outcome and one.final_step is not None else ""
    since = f", from step {one.resume_step}" if one.resume_step else ""
    because = f" ({one.failure_class})" if one.failure_class else ""
    return f"{one.attempt} {ended}{at}{because}{since}{_on(one)}"


def _because(one: "AttemptSummary | MemberSummary") -> str:
    return ": ".join(text for text in (one.failure_class, one.message) if text)


def _member_lines(task: "TaskView") -> str:
    """Return who runs, or ran, the newest attempt together."""
    members = task.attempts[-1].members if task.attempts else []
    lines = [
        f"rank {one.rank} {one.state}{f' ({one.failure_class})' if one.failure_class else ''}, on {one.worker_id}"
        for one in members[:MEMBERS_SHOWN]
    ]
    more = [f"… {len(members) - MEMBERS_SHOWN} more; see `{again(f'task attempts {task.task_id}')}`"]
    return "\n".join([*lines, *(more if len(members) > MEMBERS_SHOWN else [])])


def _checkpoint_lines(kept: "list[Checkpoint]") -> str:
    """Return how many there are, the newest and the best."""
    from trainwright.contracts.checkpoint import best_of

    if not kept:
        return ""
    newest, best = kept[0], best_of(kept)
    text = f"{len(kept)}, the newest at step {newest.step} ({size(newest.size)}, {ago(newest.saved_at)})"
    if best is not None and best.score is not None:
        text += f", the best at step {best.step} (score {number(best.score)})"
    return text


def _from(one: "AttemptSummary") -> object:
    return "" if one.resume_step is None else one.resume_step


def _ran(one: "AttemptSummary") -> str:
    if one.started_at is None:
        return ""
    return duration(((one.ended_at or datetime.now(UTC)) - one.started_at).total_seconds())


def _on(one: "AttemptSummary") -> str:
    return f", on {one.worker_id}" if one.worker_id else ""
