"""`trainwright config …`: keep task documents version by version, compare them, bring them back; templates.

Not here: running one (`trainwright submit --config ID`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainwright.cli.console import FAILED, ago, fact, json_line, stop, table
from trainwright.cli.documents import read_text
from trainwright.cli.session import again, connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainwright.contracts.configuration import Configuration, ConfigurationEntry

app = typer.Typer(
    help="Keep task documents version by version: create, compare, restore, export, templates.",
    no_args_is_help=True,
)

ConfigId = Annotated[str, typer.Argument(metavar="ID")]
File = Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A task document, YAML or JSON.")]
Comment = Annotated[str, typer.Option("--comment", "-m", help="Why; kept with the version.")]
Expect = Annotated[int | None, typer.Option("--expect", help="Refuse unless this is the newest version.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Lines of JSON.")]


@app.command()
def create(
    file: File,
    name: Annotated[str | None, typer.Option(help="A name; the document's own when left out.")] = None,
    comment: Comment = "",
    as_json: AsJson = False,
) -> None:
    """Keep a task document; its text stays as it is, comments and all."""
    text, format = read_text(file)
    with connect() as client:
        _tell(client.configs.create(text, format=format, name=name, comment=comment), as_json)


@app.command("list")
def list_configs(
    recipe: Annotated[str | None, typer.Option(help="Only those of this recipe.")] = None,
    name: Annotated[str | None, typer.Option(help="Only those of this name.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 50,
    as_json: JsonLines = False,
) -> None:
    """List configurations, the newest change first."""
    from itertools import islice

    with connect() as client:
        found = list(islice(client.configs.all(recipe=recipe, name=name), limit))
    _rows(found, as_json, "no configurations")


@app.command()
def show(
    config_id: ConfigId,
    version: Annotated[int | None, typer.Option(help="A version; the newest when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a configuration: what it is, and its document."""
    with connect() as client:
        config = client.configs.get(config_id, version)
        if as_json:
            json_line(config)
            return
        text = client.configs.export(config_id, version=config.version).decode()
    fact("config", f"{config.config_id}  {config.name}")
    fact("version", f"{config.version}, by {config.actor}, {ago(config.updated_at)}")
    fact("comment", config.comment)
    fact("hash", config.content_hash)
    typer.echo(f"\n{text.rstrip()}")


@app.command()
def update(
    config_id: ConfigId, file: File, comment: Comment = "", expect: Expect = None, as_json: AsJson = False
) -> None:
    """Make a document the next version."""
    text, format = read_text(file)
    with connect() as client:
        config = client.configs.replace(config_id, text, format=format, comment=comment, expected=expect)
    _tell(config, as_json)


@app.command("set")
def set_values(
    config_id: ConfigId,
    values: Annotated[list[str], typer.Argument(metavar="PATH=VALUE", help="Such as parameters.horizon=12.")],
    comment: Comment = "",
    expect: Expect = None,
    as_json: AsJson = False,
) -> None:
    """Make the next version by what is different in it; `PATH=` takes a key away, comments stay."""
    from trainwright.cli.values import patch_of

    with connect() as client:
        _tell(client.configs.change(config_id, patch_of(values), comment=comment, expected=expect), as_json)


@app.command()
def versions(config_id: ConfigId, as_json: JsonLines = False) -> None:
    """List every version of a configuration, the newest first."""
    with connect() as client:
        _rows(client.configs.versions(config_id), as_json, "no versions")


@app.command()
def diff(
    config_id: ConfigId,
    first: Annotated[int, typer.Argument(metavar="FROM", help="A version.")],
    second: Annotated[int | None, typer.Argument(metavar="TO", help="The newest when left out.")] = None,
    as_json: JsonLines = False,
) -> None:
    """Show where two versions differ, by path."""
    with connect() as client:
        found = client.configs.diff(config_id, first, second)
    if as_json:
        for one in found.changes:
            json_line(one)
        return
    rows = [(one.path, one.change, _shown(one.old), _shown(one.new)) for one in found.changes]
    heads = ("PATH", "CHANGE", f"VERSION {found.from_version}", f"VERSION {found.to_version}")
    table(heads, rows, f"versions {found.from_version} and {found.to_version} say the same")


@app.command()
def restore(
    config_id: ConfigId,
    version: Annotated[int, typer.Argument(metavar="VERSION")],
    comment: Comment = "",
    as_json: AsJson = False,
) -> None:
    """Bring an old version back as the newest one; a deleted configuration is back."""
    with connect() as client:
        _tell(client.configs.restore(config_id, version, comment=comment), as_json)


@app.command()
def validate(file: File, as_json: AsJson = False) -> None:
    """Check a document against its recipe: every wrong field is named; exit code 1 when one is."""
    text, format = read_text(file)
    with connect() as client:
        found = client.configs.validate(text, format=format)
    if as_json:
        json_line(found)
    elif found.valid:
        typer.echo(f"{file} is valid")
    else:
        table(("PATH", "ERROR"), [(one.path, one.message) for one in found.errors], "")
    raise typer.Exit(0 if found.valid else FAILED)


@app.command()
def export(
    config_id: ConfigId,
    version: Annotated[int | None, typer.Option(help="A version; the newest when left out.")] = None,
    format: Annotated[str | None, typer.Option(help="yaml or json; as it was written when left out.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file; else stdout.")] = None,
) -> None:
    """Write a configuration's document as it was written, to the byte, or in the other format."""
    with connect() as client:
        content = client.configs.export(config_id, version=version, format=format)
    _write(content, out)


@app.command()
def delete(config_id: ConfigId, expect: Expect = None) -> None:
    """Delete a configuration; its versions and the tasks made from it stay readable."""
    with connect() as client:
        client.configs.delete(config_id, expected=expect)
    typer.echo(f"{config_id} is deleted; bring it back with `{again(f'config restore {config_id} VERSION')}`")


@app.command()
def templates(
    recipe: Annotated[str | None, typer.Option(help="Only this recipe's.")] = None, as_json: JsonLines = False
) -> None:
    """List documents to begin with: one for each recipe, and its presets."""
    with connect() as client:
        found = client.configs.templates(recipe).templates
    if as_json:
        for one in found:
            json_line(one)
        return
    table(("NAME", "RECIPE", ""), [(one.name, one.recipe, one.summary) for one in found], "no templates")


@app.command()
def new(
    recipe: Annotated[str, typer.Option(help="A recipe, or a preset such as forecast/quick.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file; else stdout.")] = None,
) -> None:
    """Write a commented document to begin with."""
    with connect() as client:
        text = client.configs.template(recipe).text
    if out is not None and out.exists():
        stop(f"{out} exists; name another file")
    _write(text.encode(), out)


def _write(content: bytes, out: Path | None) -> None:
    if out is None:
        typer.echo(content, nl=False)
        return
    try:
        out.write_bytes(content)
    except OSError as error:
        stop(f"{out} cannot be written: {error.strerror}")
    typer.echo(f"wrote {out}", err=True)


def _tell(config: "Configuration", as_json: bool) -> None:
    if as_json:
        json_line(config)
        return
    typer.echo(f"{config.config_id} version {config.version}")
    typer.echo(f"Next: {again(f'submit --config {config.config_id}')}")


def _rows(found: "Iterable[ConfigurationEntry]", as_json: bool, empty: str) -> None:
    if as_json:
        for one in found:
            json_line(one)
        return
    rows = [
        (one.config_id, one.version, one.name, one.recipe, one.actor, ago(one.updated_at), one.comment)
        for one in found
    ]
    table(("ID", "VERSION", "NAME", "RECIPE", "BY", "CHANGED", ""), rows, empty)


def _shown(value: Any) -> str:
    import json

    return "" if value is None else json.dumps(value, ensure_ascii=False)
