"""`trainwright submit`: send a task document with its files, start it, and watch it if asked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainwright.cli.console import INTERRUPTED, json_line
from trainwright.cli.session import again, connect

if TYPE_CHECKING:
    from trainwright.cli.documents import Prepared
    from trainwright.client import Client
    from trainwright.contracts.task import TaskCreatedAnswer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(submit)


def submit(
    file: Annotated[Path, typer.Argument(help="Task document, YAML or JSON.", metavar="FILE.yaml")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    start: Annotated[bool, typer.Option(help="Start it at once, or only create it.")] = True,
    name: Annotated[str | None, typer.Option(help="A name that wins over the document's.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON.")] = False,
) -> None:
    """Submit a task document; relative paths in it mean its own folder."""
    from trainwright.cli.documents import prepare, read_document

    prepared = prepare(read_document(file), file.absolute().parent)
    over = {key: value for key, value in (("name", name), ("priority", priority)) if value is not None}
    with connect() as client:
        answer = send(client, prepared, start=start, **over)
        if as_json:
            json_line(answer)
        else:
            typer.echo(f"{answer.task_id} {answer.status}")
        if watch and start:
            raise typer.Exit(follow(client, answer.task_id, as_json=as_json))
    if not as_json:
        verb = "task show" if start else "task start"
        typer.echo(f"Next: {again(f'{verb} {answer.task_id}')}")


def send(client: "Client", prepared: "Prepared", *, start: bool, **over: Any) -> "TaskCreatedAnswer":
    """Upload the files of a prepared document and create its task."""
    from trainwright.cli.uploads import send as upload

    files = upload(client, prepared.uploads)
    config = prepared.config
    if files:
        config = {**config, "files": [*config.get("files", []), *files]}
    return client.create_task(config, start=start, **over)


def follow(client: "Client", task_id: str, *, as_json: bool = False) -> int:
    """Watch a task to its end, say how it ended, and return the exit code; Ctrl-C leaves it running."""
    from trainwright.cli import outcome
    from trainwright.cli.watch import view_for, watch

    try:
        task = watch(client, task_id, view_for(as_json))
        if as_json:
            model = outcome.model_of(client, task_id) if task.status == "completed" else None
            json_line({"task_id": task_id, "status": task.status, "model_id": model and model.model_id})
        else:
            outcome.tell(client, task)
    except KeyboardInterrupt:
        left_running(task_id)
        return INTERRUPTED
    return outcome.exit_code(task)


def left_running(task_id: str) -> None:
    """Say that a task goes on although nobody watches it."""
    typer.echo(
        f"\nStopped watching; {task_id} goes on. Cancel it with `{again(f'task cancel {task_id}')}`.", err=True
    )
