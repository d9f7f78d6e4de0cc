"""Follow a task until it ends or rests, by asking for it a few times a second: a live bar, plain lines, or lines
of JSON.

Not here: what is said at the end (outcome.py), what is news (story.py), log records (observe.py).
"""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import typer

from trainwright.cli.console import duration, json_line, number, one_line, rich_console, stop
from trainwright.cli.outcome import standing
from trainwright.cli.session import again
from trainwright.cli.story import News

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import TaskID

    from trainwright.client import Client
    from trainwright.contracts.task import TaskView

POLL_SECONDS = 0.25
PATIENCE_SECONDS = 60.0
PLAIN_SECONDS = 5.0


class View(Protocol):
    """What shows a task while it runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, task: "TaskView") -> None:
        """Show the task as it stands."""

    def silent(self, seconds: float) -> None:
        """Show that nothing has answered for so long."""


class Quiet:
    """Show nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, task: "TaskView") -> None:
        """Show nothing."""

    def silent(self, seconds: float) -> None:
        """Show nothing."""


class JsonLines(Quiet):
    """Write the whole task as a line of JSON whenever it changed."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, task: "TaskView") -> None:
        """Write a line if the task changed."""
        text = task.model_dump_json()
        if text != self._last:
            self._last = text
            json_line(task)


class PlainLines(Quiet):
    """Write a line when the state changes and every few seconds of training: for pipes and logs of CI."""

    def __init__(self) -> None:
        self._news = News()
        self._state = ""
        self._step: int | None = None
        self._at = 0.0

    def show(self, task: "TaskView") -> None:
        """Write a line if there is news."""
        for line in self._news.of(task):
            typer.echo(f"{task.task_id}  {line}")
        state, step = _state(task), task.progress.current_step
        now = time.monotonic()
        moved = step != self._step and now - self._at >= PLAIN_SECONDS
        if state != self._state or moved:
            typer.echo(f"{task.task_id}  {state}  {_figures(task)}".rstrip())
            self._state, self._step, self._at = state, step, now

    def silent(self, seconds: float) -> None:
        """Say once that nothing answers."""
        if self._state != "silent":
            typer.echo("nothing answers; the task goes on, still asking", err=True)
            self._state = "silent"


class Waiting(Quiet):
    """Say on stderr why a task does not run, and what became of it; what it writes is shown by others."""

    def __init__(self, *, patience: float = 2.0) -> None:
        self._news = News()
        self._since = time.monotonic() + patience
        self._said = ""

    def show(self, task: "TaskView") -> None:
        """Say what is new at once, and why it waits when it has waited for a moment."""
        for line in self._news.of(task):
            typer.secho(line, dim=True, err=True)
        state = _state(task)
        waits = task.status == "pending" or task.phase == "stopping"
        if waits and state != self._said and time.monotonic() > self._since:
            typer.secho(state, dim=True, err=True)
            self._said = state


class Bar(Quiet):
    """A live bar in a terminal: state, step of total, loss, time left."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._news = News()
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[figures]}", markup=False),
            console=rich_console(),
            refresh_per_second=8,
        )
        self._row: TaskID = self._progress.add_task("pending", total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, task: "TaskView") -> None:
        """Move the bar; what is new stays above it."""
        for line in self._news.of(task):
            self._progress.console.print(line, markup=False)
        self._progress.update(
            self._row,
            description=_state(task),
            completed=task.progress.current_step,
            total=task.progress.total_steps,
            figures=_figures(task),
        )

    def silent(self, seconds: float) -> None:
        """Show for how long nothing has answered."""
        figures = f"nothing answers for {duration(seconds)}; the task goes on, still asking"
        self._progress.update(self._row, figures=figures)


def view_for(as_json: bool) -> View:
    """Return the view that fits where the output goes."""
    if as_json:
        return JsonLines()
    return Bar() if rich_console().is_terminal else PlainLines()


def rests(task: "TaskView") -> bool:
    """Return whether nothing more happens to a task by itself: it is over, or paused."""
    from trainwright.contracts.task import FINAL

    return task.status in FINAL or (task.status == "paused" and task.phase == "held")


def watch(
    client: "Client",
    task_id: str,
    view: View,
    also: "Callable[[], None] | None" = None,
    until: "Callable[[TaskView], bool]" = rests,
) -> "TaskView":
    """Return the task once it is final or paused, showing it meanwhile; `also` runs at every look.

    A platform that does not answer for a while is waited for: the task does not depend on being watched.
    """
    from trainwright.client import Unavailable

    heard = time.monotonic()
    with view:
        while True:
            try:
                task = client.task(task_id)
                if also is not None:
                    also()
                heard = time.monotonic()
                view.show(task)
                if until(task):
                    return task
            except Unavailable as error:
                silence = time.monotonic() - heard
                if silence > PATIENCE_SECONDS:
                    stop(f"{error}; the task is not affected, look again with `{again(f'task show {task_id}')}`")
                view.silent(silence)
            time.sleep(POLL_SECONDS)


def _state(task: "TaskView") -> str:
    """Return status and phase, with the reason while the task does not train."""
    phase = "training" if task.phase == "checkpointing" and task.stop is None else task.phase
    waits = task.status in ("pending", "paused") or phase == "stopping"
    text = standing(task.status, phase, task.reason if waits else "")
    if task.attempt > 1:
        text += f" · attempt {task.attempt}"
    return text


def _figures(task: "TaskView") -> str:
    """Return step of total, loss, last checkpoint, time left: what is known of them."""
    progress, latest = task.progress, task.latest_metrics
    parts = []
    if progress.current_step or progress.total_steps:
        parts.append(f"step {progress.current_step}/{progress.total_steps or '?'}")
    name = next((n for n in ("loss", "train_loss") if n in latest), next(iter(latest), None))
    if name is not None:
        parts.append(f"{one_line(name)} {number(latest[name])}")
    if task.checkpoints:
        parts.append(f"checkpoint {task.checkpoints[0].step}")
    if task.eta_seconds is not None and task.status == "running":
        parts.append(f"{duration(task.eta_seconds)} left")
    return "  ".join(parts)
