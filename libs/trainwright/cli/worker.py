"""`trainwright worker list`."""

from typing import Annotated

import typer

from trainwright.cli.console import duration, json_line, size, table
from trainwright.cli.session import connect

app = typer.Typer(help="See the workers.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `list` a command of its own while the group has only one."""


@app.command("list")
def list_workers(as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON.")] = False) -> None:
    """List workers: what they have, what is free, what they run."""
    with connect() as client:
        workers = client.workers().workers
    if as_json:
        for worker in workers:
            json_line(worker)
        return
    rows = [
        (
            w.worker_id,
            w.hostname,
            w.state,
            f"{w.free.cpu:g}/{w.cpus:g}",
            f"{size(w.free.memory)}/{size(w.memory)}",
            f"{len(w.free.gpus)}/{len(w.gpus)}",
            ", ".join(attempt.task_id for attempt in w.attempts),
            "" if w.heartbeat_age_seconds is None else f"{duration(w.heartbeat_age_seconds)} ago",
        )
        for w in workers
    ]
    columns = ("ID", "HOST", "STATE", "CPU FREE", "MEMORY FREE", "GPU FREE", "RUNS", "HEARD")
    table(columns, rows, "no workers; `trainwright up` starts one with the platform")
