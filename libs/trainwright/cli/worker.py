"""`trainwright worker …`: list workers, and let one take nothing new."""

from typing import Annotated

import typer

from trainwright.cli.console import duration, json_line, size, table
from trainwright.cli.session import again, connect

app = typer.Typer(help="List, drain and undrain workers.", no_args_is_help=True)


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
            w.reason,
        )
        for w in workers
    ]
    columns = ("ID", "HOST", "STATE", "CPU FREE", "MEMORY FREE", "GPU FREE", "RUNS", "HEARD", "WHY")
    table(columns, rows, "no workers; `trainwright up` starts one with the platform")


@app.command()
def drain(
    worker_id: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option(help="Why; for people.")] = "drained by hand",
) -> None:
    """Let a worker take nothing new; what runs there goes on."""
    with connect() as client:
        client.drain(worker_id, reason=reason)
    typer.echo(f"{worker_id} takes nothing new; {again(f'worker undrain {worker_id}')} takes that back")


@app.command()
def undrain(worker_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Let a worker take attempts again."""
    with connect() as client:
        client.undrain(worker_id)
    typer.echo(f"{worker_id} takes attempts again")
