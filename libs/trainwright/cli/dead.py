"""`trainwright dead …`: records that a service could not apply, and running them again."""

import base64
from typing import Annotated

import typer

from trainwright.cli.console import ago, json_line, stop, table
from trainwright.cli.session import connect

app = typer.Typer(help="See and replay records that a service could not apply.", no_args_is_help=True)

DeadId = Annotated[str, typer.Argument(metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="Lines of JSON.")]


@app.command("list")
def list_dead(
    consumer: Annotated[str | None, typer.Option(help="Only those of one service.")] = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters."""
    with connect() as client:
        letters = client.dead_letters(consumer).dead_letters
    if as_json:
        for letter in letters:
            json_line(letter)
        return
    rows = [
        (
            d.dead_id,
            d.consumer,
            f"{d.topic}[{d.partition}]@{d.offset}",
            ago(d.time),
            "yes" if d.replayed_at else "",
            d.error,
        )
        for d in letters
    ]
    table(("ID", "SERVICE", "RECORD", "WHEN", "REPLAYED", "ERROR"), rows, "no dead letters")


@app.command()
def show(dead_id: DeadId, as_json: AsJson = False) -> None:
    """Show a dead letter: the record as it was read, and why it failed."""
    with connect() as client:
        letter = next((d for d in client.dead_letters().dead_letters if d.dead_id == dead_id), None)
    if letter is None:
        stop(f"there is no dead letter {dead_id}; `trainwright dead list` shows them all")
    if as_json:
        json_line(letter)
        return
    typer.echo(f"{letter.consumer} could not apply {letter.topic}[{letter.partition}]@{letter.offset}")
    typer.echo(f"after {letter.tries} tries: {letter.error}\n")
    typer.echo(f"key: {_text(letter.key_b64)}")
    for name, value in letter.headers:
        typer.echo(f"{name}: {_text(value)}")
    typer.echo("")
    typer.echo(_text(letter.value_b64) if letter.value_b64 else f"value: blob {letter.value_sha256}")


@app.command()
def replay(dead_id: DeadId, as_json: AsJson = False) -> None:
    """Run a dead letter through its own service again."""
    with connect() as client:
        letter = client.replay(dead_id)
    if as_json:
        json_line(letter)
    else:
        typer.echo(
            f"{letter.dead_id} was applied by {letter.consumer}"
            if letter.replayed_at
            else f"{dead_id} failed again: {letter.error}"
        )


def _text(encoded: str | None) -> str:
    return "(none)" if encoded is None else base64.b64decode(encoded).decode("utf-8", errors="backslashreplace")
