"""`trainwright task …`: list tasks, look at them, follow them, and ask them to start, pause, resume or end.

Not here: how a task is told (story.py) and followed (watch.py).
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainwright.cli import story
from trainwright.cli.console import COMPLETED, FAILED, INTERRUPTED, USAGE, ago, fact, json_line, stop, table
from trainwright.cli.outcome import standing
from trainwright.cli.session import again, connect

if TYPE_CHECKING:
    from trainwright.client import Client
    from trainwright.contracts.task import TaskView, TransitionAnswer

LATEST = 12
"""Transitions that `show` shows; `history` has them all."""

app = typer.Typer(help="List, show, watch, start, pause, resume and cancel tasks.", no_args_is_help=True)

TaskId = Annotated[str, typer.Argument(metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Lines of JSON.")]
Wait = Annotated[
    bool, typer.Option("--wait", "-w", help="Return when it has come to that, not when it is asked for.")
]


@app.command("list")
def list_tasks(
    status: Annotated[str | None, typer.Option(help="Only tasks with this status.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    label: Annotated[str | None, typer.Option(help="Only those with this NAME=VALUE.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Also those that were put aside.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 50,
    as_json: JsonLines = False,
) -> None:
    """List tasks, newest first."""
    from itertools import islice

    filters: dict[str, Any] = {
        "status": status,
        "strategy": strategy,
        "label": label,
        "archived": "show" if archived else None,
    }
    with connect() as client:
        tasks = list(islice(client.all_tasks(**filters), limit))
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
            story.steps(t.progress),
            ago(t.created_at),
            t.reason if _waits(t.status) or t.reason != t.status else "",
        )
        for t in tasks
    ]
    table(("ID", "NAME", "RECIPE", "STATUS", "STEPS", "CREATED", "REASON"), rows, "no tasks")


@app.command()
def show(task_id: TaskId, as_json: AsJson = False) -> None:
    """Show a task: where it stands and why, its attempts, checkpoints and repairs, what it left."""
    with connect() as client:
        task = client.task(task_id)
        if as_json:
            json_line(task)
            return
        entries = client.history(task_id).entries
        models = [m.model_id for m in client.models(task_id=task_id).models if m.task_id == task_id]
    for label, value in [*story.facts(task), ("model", ", ".join(models))]:
        fact(label, value)
    typer.echo("")
    if len(entries) > LATEST:
        typer.echo(
            f"The latest {LATEST} of {len(entries)} changes; all of them: {again(f'task history {task_id}')}"
        )
    table(story.HISTORY, story.history_rows(entries[-LATEST:]), "no history yet")


@app.command()
def watch(task_id: TaskId, as_json: JsonLines = False) -> None:
    """Follow a task until it ends or is paused; Ctrl-C leaves it running."""
    from trainwright.cli.submit import follow

    with connect() as client:
        client.task(task_id)
        raise typer.Exit(follow(client, task_id, as_json=as_json))


@app.command()
def history(task_id: TaskId, as_json: JsonLines = False) -> None:
    """Show everything that happened to a task: when, by whom, why."""
    with connect() as client:
        entries = client.history(task_id).entries
    if as_json:
        for entry in entries:
            json_line(entry)
        return
    table(story.HISTORY, story.history_rows(entries), "no history yet")


@app.command()
def why(task_id: TaskId, as_json: AsJson = False) -> None:
    """Say why a task waits: its position, what blocks it, what would unblock it, when it will start."""
    from trainwright.cli.resource import show_why

    with connect() as client:
        found = client.why(task_id)
    if as_json:
        json_line(found)
    else:
        show_why(found)


@app.command()
def attempts(task_id: TaskId, as_json: JsonLines = False) -> None:
    """List a task's attempts: on which worker, from which step to which, how they ended."""
    with connect() as client:
        found = client.attempts(task_id).attempts
    if as_json:
        for one in found:
            json_line(one)
        return
    table(story.ATTEMPTS, story.attempt_rows(found), "no attempts yet: the task has not got a place so far")


@app.command()
def checkpoints(
    task_id: TaskId,
    show_all: Annotated[bool, typer.Option("--all", "-a", help="Also those that are not kept any more.")] = False,
    as_json: JsonLines = False,
) -> None:
    """List what a task can go on from, newest first: the newest three, the best and the final one are kept."""
    with connect() as client:
        found = client.checkpoints(task_id).checkpoints
    rows = [one for one in found if one.kept or show_all]
    if as_json:
        for one in rows:
            json_line(one)
        return
    table(story.CHECKPOINTS, story.checkpoint_rows(rows), "no checkpoints yet")
    if len(rows) < len(found):
        typer.echo(f"{len(found) - len(rows)} more were saved and are not kept any more; --all lists them")


@app.command("set")
def set_fields(
    task_id: TaskId,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; NAME= takes one away.")] = None,
    after: Annotated[list[str] | None, typer.Option(help="A task that must complete first.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a task's priority, name, labels, or what it waits for."""
    from trainwright.cli.values import values_of

    wishes: dict[str, Any] = {"priority": priority, "name": name, "depends_on": after}
    if not label and all(wish is None for wish in wishes.values()):
        stop("name what is to be different: --priority, --name, --label or --after", USAGE)
    with connect() as client:
        if label:
            news = {one: None if text is None else str(text) for one, text in values_of(label).items()}
            both = {**client.task(task_id).config.labels, **news}
            wishes["labels"] = {one: text for one, text in both.items() if text is not None}
        task = client.change_task(task_id, **{key: value for key, value in wishes.items() if value is not None})
    _tell(task, as_json)


@app.command("set-parameters")
def set_parameters(
    task_id: TaskId,
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE", help="Such as learning_rate=0.001.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept for ever.")],
    confirm: Annotated[str | None, typer.Option(help="The token that was asked for.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the run's answer.", min=0, max=60)] = 10,
    as_json: AsJson = False,
) -> None:
    """Change parameters while a task runs: those that are declared hot, at its next step."""
    from trainwright.cli.values import values_of

    with connect() as client:
        answer = client.set_parameters(task_id, values_of(values), reason=reason, confirm=confirm, wait=wait)
    if as_json:
        json_line(answer)
    else:
        typer.echo(f"{task_id} revision {answer.revision} {answer.state}: {answer.message}")
        if answer.confirm:
            repeat = f"task set-parameters {task_id} {' '.join(values)} --reason … --confirm {answer.confirm}"
            typer.echo(f"Confirm with `{again(repeat)}`")
    raise typer.Exit(FAILED if answer.state == "rejected" else COMPLETED)


@app.command()
def parameters(task_id: TaskId, as_json: AsJson = False) -> None:
    """Show what holds of a task's parameters, and every change: who, when, why, from which step."""
    with connect() as client:
        found = client.parameters(task_id)
    if as_json:
        json_line(found)
        return
    for name, value in found.parameters.items():
        typer.echo(f"{name} = {value}{'  (hot)' if name in found.hot else ''}")
    typer.echo("")
    table(story.CHANGES, story.change_rows(found.changes), "nothing was changed while it existed")


@app.command()
def resources(
    task_id: TaskId,
    gpu: Annotated[int | None, typer.Option(help="Whole GPUs.")] = None,
    cpu: Annotated[float | None, typer.Option(help="CPU cores.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory, e.g. 16Gi.")] = None,
    gpu_memory: Annotated[str | None, typer.Option(help="Memory of each GPU, e.g. 24Gi.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers that run it together.")] = None,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept with the history.")] = "",
    as_json: AsJson = False,
) -> None:
    """Change what a task asks for, while it waits or is paused."""
    wishes = {"gpu": gpu, "cpu": cpu, "memory": memory, "gpu_memory": gpu_memory, "workers": workers}
    named = {name: value for name, value in wishes.items() if value is not None}
    if not named:
        stop("name what is to be different: --gpu, --cpu, --memory, --gpu-memory or --workers", USAGE)
    with connect() as client:
        _tell(client.set_resources(task_id, reason=reason, **named), as_json)


@app.command()
def archive(task_id: TaskId, as_json: AsJson = False) -> None:
    """Put a task aside that is over: lists leave it out, it stays readable."""
    with connect() as client:
        _tell(client.archive(task_id), as_json)


@app.command()
def rerun(
    task_id: TaskId,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="PATH=VALUE", help="Such as parameters.seed=2.")
    ] = None,
    start: Annotated[bool, typer.Option(help="Start it at once, or only create it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run a task's document again as a new task, with what is to be different."""
    from trainwright.cli.values import patch_of

    with connect() as client:
        answer = client.rerun(task_id, changes=patch_of(values or []), start=start)
    if as_json:
        json_line(answer)
    else:
        typer.echo(f"{answer.task_id} {answer.status}")


@app.command()
def start(task_id: TaskId, wait: Wait = False, as_json: AsJson = False) -> None:
    """Ask a task to run."""
    with connect() as client:
        _ask(client, client.start(task_id), {"running", "completed"}, wait=wait, as_json=as_json)


@app.command()
def pause(task_id: TaskId, wait: Wait = False, as_json: AsJson = False) -> None:
    """Ask a task to save a checkpoint and free its place; `task resume` goes on from there, on any worker."""
    with connect() as client:
        _ask(client, client.pause(task_id), {"paused"}, wait=wait, as_json=as_json)


@app.command()
def resume(task_id: TaskId, wait: Wait = False, as_json: AsJson = False) -> None:
    """Ask a paused task to go on from its newest checkpoint."""
    with connect() as client:
        _ask(client, client.resume(task_id), {"running", "completed"}, wait=wait, as_json=as_json)


@app.command()
def cancel(task_id: TaskId, wait: Wait = False, as_json: AsJson = False) -> None:
    """Ask a task to end for good."""
    with connect() as client:
        _ask(client, client.cancel(task_id), {"cancelled"}, wait=wait, as_json=as_json)


def _ask(client: "Client", answer: "TransitionAnswer", wanted: set[str], *, wait: bool, as_json: bool) -> None:
    """Say where a task stands after a request; with `wait` once it has come to that, or to another end."""
    if not wait:
        _tell(answer, as_json)
        return
    try:
        task = _settled(client, answer.task_id, wanted)
    except KeyboardInterrupt:
        typer.echo(f"\nStopped waiting; what was asked of {answer.task_id} stands.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _tell(task, as_json)
    raise typer.Exit(COMPLETED if task.status in wanted else FAILED)


def _settled(client: "Client", task_id: str, wanted: set[str]) -> "TaskView":
    from trainwright.cli.watch import Waiting, watch
    from trainwright.contracts.task import FINAL

    def there(task: "TaskView") -> bool:
        return task.status in wanted or task.status in FINAL

    return watch(client, task_id, Waiting(patience=1), until=there)


def _tell(answer: "TransitionAnswer | TaskView", as_json: bool) -> None:
    if as_json:
        json_line(answer)
    else:
        typer.echo(f"{answer.task_id} {standing(answer.status, answer.phase, answer.reason)}")


def _waits(status: str) -> bool:
    return status in ("pending", "paused", "failed")
