"""`trainwright dead …`: records that a service could not apply, and running them again.

Not here: what a worker could not apply; that is in the worker's own store and log.
"""

import base64
from typing import Annotated

import typer

from trainwright.cli.console import ago, json_line, table
from trainwright.cli.session import connect

app = typer.Typer(help="See and replay records that a service could not apply.", no_args_is_help=True)

DeadId = Annotated[str, typer.Argument(metavar="ID")]
Service = Annotated[str | None, typer.Option(help="Look at this service only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Lines of JSON.")]


@app.command("list")
def list_dead(service: Service = None, as_json: AsJson = False) -> None:
    """List dead letters of all services."""
    with connect() as client:
        letters = client.dead_letters(service).dead_letters
    if as_json:
        for letter in letters:
            json_line(letter)
        return
    rows = [
        (d.dead_id, d.consumer, f"{d.topic}[{d.partition}]@{d.offset}", ago(d.time), _yes(d.replayed_at), d.error)
        for d in letters
    ]
    table(("ID", "SERVICE", "RECORD", "WHEN", "REPLAYED", "ERROR"), rows, "no dead letters")


@app.command()
def show(dead_id: DeadId, as_json: AsJson = False) -> None:
    """Show a dead letter: the record as it was read, and why it failed."""
    with connect() as client:
        letter = client.dead_letter(dead_id)
    if as_json:
        json_line(letter)
        return
    typer.echo(f"{letter.consumer} could not apply {letter.topic}[{letter.partition}]@{letter.offset}")
    typer.echo(f"after {letter.tries} tries: {letter.error}\n")
    typer.echo(f"key: {_text(letter.key_b64)}")
    for name, value in letter.headers:
        typer.echo(f"{name}: {_text(value)}")
    typer.echo("")
    typer.echo(f"value: blob {letter.value_sha256}" if letter.value_sha256 else _text(letter.value_b64))


@app.command()
def replay(dead_id: DeadId, as_json: AsJson = False) -> None:
    """Run a dead letter through its own service again."""
    with connect() as client:
        letter = client.replay(dead_id)
    if as_json:
        json_line(letter)
    else:
        typer.echo(f"{letter.dead_id} was applied by {letter.consumer}")


def _yes(value: object) -> str:
    return "yes" if value else ""


def _text(encoded: str | None) -> str:
    return "(none)" if encoded is None else base64.b64decode(encoded).decode("utf-8", errors="backslashreplace")
