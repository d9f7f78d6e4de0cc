"""`trainwright submit`: send a task document with its files, start it, and watch it if asked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainwright.cli.console import INTERRUPTED, USAGE, json_line, stop
from trainwright.cli.session import again, connect

if TYPE_CHECKING:
    from trainwright.cli.documents import Prepared
    from trainwright.client import Client
    from trainwright.contracts.task import TaskCreatedAnswer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(submit)


def submit(
    file: Annotated[
        Path | None, typer.Argument(help="Task document, YAML or JSON; or --config.", metavar="[FILE.yaml]")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="A stored configuration; ID@VERSION for an older version.")
    ] = None,
    values: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Such as parameters.seed=2.")
    ] = None,
    after: Annotated[list[str] | None, typer.Option(help="A task that must complete first.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    start: Annotated[bool, typer.Option(help="Start it at once, or only create it.")] = True,
    name: Annotated[str | None, typer.Option(help="A name that wins over the document's.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON.")] = False,
) -> None:
    """Submit a task document, or a stored one; relative paths mean the document's own folder, or this one."""
    from trainwright.cli.documents import prepare, read_document
    from trainwright.cli.values import patch_of
    from trainwright.documents.changes import merged

    if (file is None) == (config is None):
        stop("name a task document, or a stored one with --config", USAGE)
    wishes = {"name": name, "priority": priority, "depends_on": after}
    over = {key: value for key, value in wishes.items() if value is not None}
    patch = patch_of(values or [])
    with connect() as client:
        if file is not None:
            document = merged(read_document(file), patch)
            answer = send(client, prepare(document, file.absolute().parent), start=start, **over)
        else:
            answer = _send_stored(client, str(config), patch, start=start, **over)
        if as_json:
            json_line(answer)
        else:
            typer.echo(f"{answer.task_id} {answer.status}")
        if watch and start:
            raise typer.Exit(follow(client, answer.task_id, as_json=as_json))
    if not as_json:
        verb = "task show" if start else "task start"
        typer.echo(f"Next: {again(f'{verb} {answer.task_id}')}")


def _send_stored(
    client: "Client", named: str, patch: dict[str, Any], *, start: bool, **over: Any
) -> "TaskCreatedAnswer":
    """Create a task from a stored configuration; what it names by relative path is taken from this folder."""
    from trainwright.cli.documents import prepare
    from trainwright.cli.uploads import send as upload
    from trainwright.documents.changes import merged

    config_id, _, version = named.partition("@")
    if version and not version.isdigit():
        stop(f"{named} is not ID or ID@VERSION", USAGE)
    stored = client.configs.get(config_id, int(version) if version else None)
    document = merged(stored.config, patch)
    prepared = prepare(document, Path.cwd())
    changes = dict(patch)
    for section in ("parameters", "data"):
        path = (prepared.config.get(section) or {}).get("path")
        if path is not None:
            changes[section] = {**changes.get(section, {}), "path": path}
    if files := upload(client, prepared.uploads):
        changes["files"] = [*document.get("files", []), *files]
    return client.create_task(
        config_id=stored.config_id, config_version=stored.version, changes=changes, start=start, **over
    )


def send(client: "Client", prepared: "Prepared", *, start: bool, **over: Any) -> "TaskCreatedAnswer":
    """Upload the files of a prepared document and create its task."""
    from trainwright.cli.uploads import send as upload

    files = upload(client, prepared.uploads)
    config = prepared.config
    if files:
        config = {**config, "files": [*config.get("files", []), *files]}
    return client.create_task(config, start=start, **over)


def follow(client: "Client", task_id: str, *, as_json: bool = False) -> int:
    """Watch a task until it ends or is paused, say how, and return the exit code; Ctrl-C leaves it running."""
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
        f"\nStopped watching; {task_id} goes on. Follow it again with `{again(f'task watch {task_id}')}`,"
        f" cancel it with `{again(f'task cancel {task_id}')}`.",
        err=True,
    )
