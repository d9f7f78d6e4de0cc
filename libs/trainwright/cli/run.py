"""`trainwright run`: upload a script, run it as a task, follow what it writes, end with its result."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainwright.cli.console import COMPLETED, INTERRUPTED, stop
from trainwright.cli.session import connect

if TYPE_CHECKING:
    from trainwright.client import Client

QUIET_SECONDS = 0.6


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    script: Annotated[Path, typer.Argument(help="A Python script.", metavar="SCRIPT.py")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Its arguments, after `--`.", metavar="ARGS")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Upload all of this folder; else the script and the modules it imports.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the task.")] = None,
    gpu: Annotated[int, typer.Option(help="Whole GPUs.")] = 0,
    cpu: Annotated[float, typer.Option(help="CPU cores.")] = 1,
    memory: Annotated[str | None, typer.Option(help="Memory, e.g. 2Gi.")] = None,
    workers: Annotated[int, typer.Option(help="Workers that run it together, each with all of this.")] = 1,
) -> None:
    """Run a script as a task and follow what it writes."""
    from trainwright.cli.documents import Prepared
    from trainwright.cli.submit import left_running, send
    from trainwright.cli.uploads import check_limits, folder_files, script_files

    if folder is None:
        entry, files = script_files(script, str(script))
    else:
        entry, files = _inside(script, folder), folder_files(folder)
    check_limits(files)
    needs: dict[str, Any] = {"gpu": gpu, "cpu": cpu} | ({"memory": memory} if memory else {})
    needs |= {"workers": workers} if workers > 1 else {}
    config = {
        "name": name or script.resolve().stem,
        "recipe": "script",
        "parameters": {"path": entry, "args": list(arguments or [])},
        "resource_requirements": needs,
    }
    with connect() as client:
        task_id = send(client, Prepared(config, files), start=True).task_id
        typer.secho(task_id, dim=True, err=True)
        try:
            code = _follow(client, task_id)
        except KeyboardInterrupt:
            left_running(task_id)
            code = INTERRUPTED
    raise typer.Exit(code)


def _inside(script: Path, folder: Path) -> str:
    """Return the script's place in the folder; it may be named from here or from the folder."""
    for candidate in (script, folder / script):
        if candidate.is_file() and candidate.resolve().is_relative_to(folder.resolve()):
            return candidate.resolve().relative_to(folder.resolve()).as_posix()
    stop(f"{script} is not a file in the folder {folder}")


def _follow(client: "Client", task_id: str) -> int:
    from trainwright.cli import outcome
    from trainwright.cli.observe import LogTail
    from trainwright.cli.watch import Waiting, watch

    tail = LogTail(client, task_id)
    task = watch(client, task_id, Waiting(), also=tail.show_new)
    tail.drain(QUIET_SECONDS)
    if task.status == "completed":
        model = outcome.model_of(client, task_id, rendered=False)
        seconds = (task.ended_at - task.started_at).total_seconds() if task.ended_at and task.started_at else 0
        left = f"; left {model.model_id}" if model else ""
        typer.secho(f"completed in {seconds:.1f} s{left}", fg="green", err=True)
        return COMPLETED
    outcome.tell(client, task)
    return outcome.exit_code(task)
