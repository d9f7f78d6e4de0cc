"""`trainwright model …`: the model versions that completed tasks left."""

from typing import Annotated

import typer

from trainwright.cli.console import ago, clock, json_line, size, table
from trainwright.cli.session import connect

app = typer.Typer(help="List and show model versions.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="JSON.")]


@app.command("list")
def list_models(
    page: Annotated[int, typer.Option(min=1, help="Which page.")] = 1,
    page_size: Annotated[int, typer.Option(min=1, help="Rows on a page.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List model versions, newest first."""
    with connect() as client:
        answer = client.models(page=page, page_size=page_size)
    if as_json:
        for model in answer.models:
            json_line(model)
        return
    rows = [(m.model_id, m.task_name, m.task_id, len(m.files), ago(m.created_at)) for m in answer.models]
    table(("MODEL", "NAME", "TASK", "FILES", "CREATED"), rows, "no model versions yet")
    place = answer.pagination
    if place.total_pages > 1:
        typer.echo(f"page {place.page} of {place.total_pages}, {place.total} versions in all")


@app.command()
def show(
    model_id: Annotated[str, typer.Argument(help="E.g. store/S1_all/tcn/v1.", metavar="MODEL")],
    as_json: AsJson = False,
) -> None:
    """Show a model version: its figures and its files."""
    from trainwright.cli.outcome import show_errors

    with connect() as client:
        model = client.model(model_id)
    if as_json:
        json_line(model)
        return
    typer.echo(f"{model.model_id}  {model.description}".rstrip())
    typer.echo(f"from {model.task_id} ({model.task_name}), attempt {model.attempt}, {clock(model.created_at)}")
    show_errors(model.metrics)
    typer.echo("")
    rows = [(name, size(file.size), file.sha256) for name, file in sorted(model.files.items())]
    table(("FILE", "SIZE", "SHA256"), rows, "no files")
