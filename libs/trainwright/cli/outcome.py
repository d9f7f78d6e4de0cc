"""What is said when a task has ended: model version, errors beside the baseline's, report; or why it failed.

Not here: following it (watch.py).
"""

import time
from typing import TYPE_CHECKING, Any

import typer

from trainwright.cli.console import COMPLETED, FAILED, INTERRUPTED, number, one_line, rich_console
from trainwright.cli.session import again
from trainwright.training.text import printable

if TYPE_CHECKING:
    from trainwright.client import Client
    from trainwright.contracts.failure import Failure
    from trainwright.contracts.result import ModelVersion
    from trainwright.contracts.task import TaskView

RESULT_SECONDS = 20.0


def exit_code(task: "TaskView") -> int:
    """Return the exit code that a task stands for which is over, or paused: that one was interrupted."""
    return {"completed": COMPLETED, "paused": INTERRUPTED}.get(task.status, FAILED)


def model_of(
    client: "Client", task_id: str, patience: float = RESULT_SECONDS, *, rendered: bool = True
) -> "ModelVersion | None":
    """Return the model version of a completed task, once it is registered and its report is ``rendered``."""
    deadline = time.monotonic() + patience
    while True:
        page = client.models(task_id=task_id)
        found = next((model for model in page.models if model.task_id == task_id), None)
        if (found is not None and (found.report or not rendered)) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def tell(client: "Client", task: "TaskView", *, report: bool = True) -> None:
    """Say how a task ended and, unless the caller does, where its report is; of a paused one how it goes on."""
    if task.status == "completed":
        _tell_result(client, task, report)
    elif task.status == "paused":
        tell_paused(task)
    elif task.status == "failed":
        _tell_failure(task)
    else:
        typer.echo(f"{task.task_id} was {task.status}" + (f": {one_line(task.reason)}" if task.reason else ""))


def comparison(metrics: dict[str, Any]) -> tuple[str, list[tuple[str, str, str]]]:
    """Return the baseline's name and rows (metric, the model's value, the baseline's)."""
    baseline = metrics.get("baseline")
    beside = baseline if isinstance(baseline, dict) else {}
    plain = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    rows = [(name, number(value), number(beside[name]) if name in beside else "") for name, value in plain.items()]
    return str(beside.get("name", "")), rows


def standing(status: str, phase: str, reason: str) -> str:
    """Return where a task stands and why: `running · stopping: asked to pause`, `paused: resume goes on …`."""
    text = status if phase in ("", "held", "ended", status) else f"{status} · {phase}"
    because = one_line(reason).removeprefix(status).lstrip(":; ")
    return f"{text}: {because}" if because else text


def why(failure: "Failure") -> list[str]:
    """Return why a task failed in lines: class and message, the place in the script, what to do."""
    place = f"at {failure.file}:{failure.line}" if failure.file and failure.line else ""
    lines = [*printable(f"{failure.failure_class}: {failure.message}").splitlines(), printable(place)]
    return [line for line in [*lines, failure.hint or ""] if line.strip()]


def _tell_result(client: "Client", task: "TaskView", report: bool) -> None:
    typer.secho(f"{task.task_id} completed", fg="green")
    model = model_of(client, task.task_id)
    if model is None:
        typer.echo(f"no model version yet; look again with `{again(f'task show {task.task_id}')}`")
        return
    typer.echo(f"model version  {model.model_id}")
    if model.description:
        typer.echo(f"               {model.description}")
    show_errors(model.metrics)
    if model.report and report:
        typer.echo(f"report         {client.report_url(task.task_id)}")
        typer.echo(f"               save it with `{again(f'report {task.task_id}')}`")


def show_errors(metrics: dict[str, Any]) -> None:
    """Show a model version's figures, beside the baseline's where there is one, and what they were measured on."""
    from rich.table import Table
    from rich.text import Text

    baseline, rows = comparison(metrics)
    if not rows:
        return
    view = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("metric", "model", baseline)[: 3 if baseline else 2]:
        view.add_column(Text(one_line(column)), justify="left" if column == "metric" else "right")
    for row in rows:
        view.add_row(*(Text(one_line(cell)) for cell in row[: 3 if baseline else 2]))
    rich_console().print(view)
    if isinstance(metrics.get("evaluation"), str):
        typer.echo(metrics["evaluation"])


def tell_paused(task: "TaskView") -> None:
    """Say on stderr that a task is paused, and how it goes on."""
    typer.secho(f"{task.task_id} {standing(task.status, '', task.reason)}", fg="yellow", err=True)
    typer.echo(
        f"Go on with `{again(f'task resume {task.task_id}')}`, then follow it with"
        f" `{again(f'task watch {task.task_id}')}`.",
        err=True,
    )


def _tell_failure(task: "TaskView") -> None:
    typer.secho(f"{task.task_id} failed", fg="red", err=True)
    failure = task.failure
    if failure is None:
        typer.echo(task.reason or "no reason was given", err=True)
    else:
        for line in why(failure):
            typer.echo(line, err=True)
    typer.echo(f"See what it wrote with `{again(f'logs {task.task_id}')}`.", err=True)
