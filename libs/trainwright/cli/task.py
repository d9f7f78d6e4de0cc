"""`trainwright task …`: list, look at, start and cancel tasks."""

from typing import TYPE_CHECKING, Annotated

import typer

from trainwright.cli.console import ago, clock, duration, fact, json_line, number, one_line, size, table
from trainwright.cli.outcome import why
from trainwright.cli.session import again, connect

if TYPE_CHECKING:
    from trainwright.contracts.task import Progress, TaskView, TransitionAnswer

app = typer.Typer(help="List, show, start and cancel tasks.", no_args_is_help=True)

TaskId = Annotated[str, typer.Argument(metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON.")]


@app.command("list")
def list_tasks(
    status: Annotated[str | None, typer.Option(help="Only tasks with this status.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List tasks, newest first."""
    from itertools import islice

    with connect() as client:
        tasks = list(islice(client.all_tasks(status=status), limit))
    if as_json:
        for task in tasks:
            json_line(task)
        return
    rows = [
        (
            t.task_id,
            t.name,
            t.recipe,
            t.status,
            _steps(t.progress),
            ago(t.created_at),
            t.reason if _waits(t.status) else "",
        )
        for t in tasks
    ]
    table(("ID", "NAME", "RECIPE", "STATUS", "STEPS", "CREATED", ""), rows, "no tasks")


@app.command()
def show(task_id: TaskId, as_json: AsJson = False) -> None:
    """Show a task: where it stands and why, its attempts, its history, what it left."""
    with connect() as client:
        task = client.task(task_id)
        if as_json:
            json_line(task)
            return
        history = client.history(task_id)
        models = [m.model_id for m in client.models(task_id=task_id).models if m.task_id == task_id]
    for label, value in [*_facts(task), ("model", ", ".join(models))]:
        fact(label, value)
    typer.echo("")
    rows = [
        (clock(e.time), e.status, e.phase, e.attempt or "", e.actor, e.reason or e.cause) for e in history.entries
    ]
    table(("TIME", "STATUS", "PHASE", "ATTEMPT", "BY", "WHY"), rows, "no history yet")


@app.command()
def start(task_id: TaskId, as_json: AsJson = False) -> None:
    """Ask a task to run."""
    with connect() as client:
        _tell(client.start(task_id), as_json)


@app.command()
def cancel(task_id: TaskId, as_json: AsJson = False) -> None:
    """Ask a task to end."""
    with connect() as client:
        _tell(client.cancel(task_id), as_json)


def _tell(answer: "TransitionAnswer", as_json: bool) -> None:
    if as_json:
        json_line(answer)
    else:
        reason = f": {answer.reason}" if answer.reason else ""
        typer.echo(f"{answer.task_id} {answer.status} · {answer.phase}{reason}")


def _facts(task: "TaskView") -> list[tuple[str, str]]:
    usage, failure = task.resource_usage, task.failure
    used = [f"cpu {usage.cpu:.0f} %"] if usage.cpu is not None else []
    used += [f"memory {size(usage.memory)}"] if usage.memory is not None else []
    attempts = [
        f"{a.attempt} {a.outcome or 'running'}" + (f" ({a.failure_class})" if a.failure_class else "")
        for a in task.attempts
    ]
    left = (
        f", {duration(task.eta_seconds)} left" if task.eta_seconds is not None and task.status == "running" else ""
    )
    return [
        ("task", f"{task.task_id}  {task.name}"),
        ("status", f"{task.status} · {task.phase}" + (f": {one_line(task.reason)}" if task.reason else "")),
        ("recipe", task.config.recipe),
        ("progress", _steps(task.progress) + left),
        ("metrics", ", ".join(f"{name} {number(value)}" for name, value in task.latest_metrics.items())),
        ("uses", ", ".join(used) if task.status == "running" else ""),
        ("worker", task.worker_id or ""),
        ("attempts", ", ".join(attempts)),
        ("failure", "\n".join(why(failure)) if failure else ""),
        ("", f"See what it wrote with `{again(f'logs {task.task_id}')}`." if failure else ""),
        ("created", clock(task.created_at)),
        ("started", clock(task.started_at)),
        ("ended", clock(task.ended_at)),
    ]


def _steps(progress: "Progress") -> str:
    if not progress.current_step and progress.total_steps is None:
        return ""
    of = f"/{progress.total_steps}" if progress.total_steps is not None else ""
    return f"{progress.current_step}{of}"


def _waits(status: str) -> bool:
    return status in ("pending", "paused", "failed")
