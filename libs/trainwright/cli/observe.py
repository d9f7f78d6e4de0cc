"""`trainwright metrics`, `logs` and `report`: what a run has reported so far, and what came out."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainwright.cli.console import clock, json_line, number, one_line, stop, table
from trainwright.cli.session import connect

if TYPE_CHECKING:
    from trainwright.client import Client
    from trainwright.contracts.log import LogEntry

FOLLOW_SECONDS = 0.3
LOG_PAGE = 1000
"""Most records that the API gives at a time."""
LEVEL_COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
BARS = "▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(metrics)
    app.command()(logs)
    app.command()(report)


def metrics(
    task_id: Annotated[str, typer.Argument(metavar="ID")],
    name: Annotated[str | None, typer.Option(help="Show one metric by step.")] = None,
    max_points: Annotated[int, typer.Option(help="Reduce a long series to so many points.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="JSON.")] = False,
) -> None:
    """Show a task's metrics: the latest values, or one by step."""
    with connect() as client:
        if name is None:
            overview = client.metrics(task_id)
            if as_json:
                json_line(overview)
            else:
                rows = [(metric, number(overview.latest.get(metric, ""))) for metric in overview.names]
                table(("METRIC", "LATEST"), rows, "no metrics yet")
            return
        series = client.series(task_id, name, max_points=max_points)
    if as_json:
        json_line(series)
        return
    if series.points:
        typer.echo(f"{one_line(name)}  {_curve([value for _, value in series.points])}")
    table(("STEP", name), [(step, number(value)) for step, value in series.points], f"no values of {name} yet")


def logs(
    task_id: Annotated[str, typer.Argument(metavar="ID")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the task ends or is paused.")
    ] = False,
    level: Annotated[str | None, typer.Option(help="Only this level and graver ones.")] = None,
    keyword: Annotated[str | None, typer.Option(help="Only records that hold this text.")] = None,
    rank: Annotated[int | None, typer.Option(help="Only what this one of several workers wrote.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON.")] = False,
) -> None:
    """Show what a task's run has written."""
    from trainwright.cli.outcome import tell_paused
    from trainwright.cli.submit import left_running
    from trainwright.cli.watch import Quiet, watch

    with connect() as client:
        filters = {"level": level, "keyword": keyword, "rank": rank}
        tail = LogTail(client, task_id, as_json=as_json, times=True, **filters)
        if not follow:
            client.task(task_id)
            tail.show_new()
            return
        try:
            task = watch(client, task_id, Quiet(), also=tail.show_new)
            tail.drain(2 * FOLLOW_SECONDS)
            if task.status == "paused":
                tell_paused(task)
        except KeyboardInterrupt:
            left_running(task_id)
            raise typer.Exit(130) from None


def report(
    task_id: Annotated[str, typer.Argument(metavar="ID")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to save it.")] = None,
) -> None:
    """Save the report of a task that is over, a self-contained HTML page, and say where."""
    with connect() as client:
        content = client.report(task_id)
    typer.echo(save_report(content, output or Path(f"report-{task_id}.html")))


def save_report(content: bytes, path: Path) -> Path:
    """Write a report and return its absolute path."""
    try:
        path.write_bytes(content)
    except OSError as error:
        stop(f"cannot save the report: {error}; name another place with --output")
    return path.absolute()


class LogTail:
    """Show a task's log records, each once, as often as asked for new ones."""

    def __init__(
        self,
        client: "Client",
        task_id: str,
        *,
        as_json: bool = False,
        times: bool = False,
        **filters: str | int | None,
    ) -> None:
        self._client, self._task_id, self._filters = client, task_id, filters
        self._as_json, self._times = as_json, times
        self._cursor: str | None = None

    def show_new(self) -> None:
        """Show every record that came since the last call."""
        self._show_pages()

    def drain(self, quiet_seconds: float) -> None:
        """Show what still comes in until nothing has come for so long: logs travel beside the ending."""
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < quiet_seconds:
            if self._show_pages():
                quiet_since = time.monotonic()
            time.sleep(0.1)

    def _show_pages(self) -> int:
        shown = 0
        while True:
            page = self._client.logs(self._task_id, cursor=self._cursor, limit=LOG_PAGE, **self._filters)
            for entry in page.entries:
                self._show(entry)
            shown += len(page.entries)
            if page.next_cursor is not None:
                self._cursor = page.next_cursor
            if not page.entries or page.next_cursor is None:
                return shown

    def _show(self, entry: "LogEntry") -> None:
        rank = entry.extra.get("rank")
        message = entry.message if rank is None else f"[rank {rank}] {entry.message}"
        if self._as_json:
            json_line(entry)
        elif self._times:
            text = f"{clock(entry.time)} {entry.level:<7} {message}"
            typer.secho(text, fg=LEVEL_COLOURS.get(entry.level))
        else:
            stream = sys.stderr if entry.extra.get("stream") == "stderr" else sys.stdout
            stream.write(message + "\n")
            stream.flush()


def _curve(values: list[float]) -> str:
    """Return a line of bars, low to high; values that are no numbers are gaps."""
    finite = [value for value in values if value - value == 0]
    if not finite:
        return ""
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(BARS[int((v - low) / span * 7)] if v - v == 0 else " " for v in values)
