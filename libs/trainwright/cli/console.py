"""How the command line speaks: one error sentence, tables, lines of JSON, exit codes.

Not here: progress views (watch.py).
"""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from trainwright.training.text import printable

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

COMPLAINT = "trainwright: "
"""How a sentence on stderr begins that says why a command ends."""

WIDE = 250
"""Columns of a table in a pipe or a file: nothing is folded there."""

CELL = 160
"""Characters of a table's cell; what somebody wrote may be longer."""

COMPLETED, FAILED, USAGE, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141
"""Unread: who read the output has gone, as in `… | head -1`; a shell says the same of what that signal ends."""

FOLDED = frozenset({"WHY", "ERROR", "RUNS", ""})
"""Columns of free text: only these are folded in a narrow terminal."""

CUT = frozenset({"NAME", "REASON"})
"""Columns that are cut to one line there: an ID is typed in again, and `task show` tells the whole reason."""

STYLES = {
    "completed": "green",
    "running": "cyan",
    "pending": "yellow",
    "paused": "yellow",
    "failed": "red",
    "cancelled": "magenta",
    "alive": "green",
    "lost": "red",
    "draining": "yellow",
}


class CommandError(Exception):
    """Something a person must know in one sentence; ends the command with `exit_code`."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def stop(message: str, exit_code: int = FAILED) -> NoReturn:
    """End the command with one sentence on stderr."""
    raise CommandError(message, exit_code)


def complain(message: str) -> None:
    """Write one sentence to stderr."""
    typer.echo(typer.style(COMPLAINT, fg="red") + printable(message), err=True)


def rich_console(*, stderr: bool = False) -> "Console":
    """Return a console that does not turn values into markup or colour by guess."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDE
    return console


def json_line(value: "BaseModel | dict[str, Any]") -> None:
    """Write one line of JSON to stdout, at once."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value.model_dump_json()
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Show rows under their columns, or the sentence `empty`; statuses have their colour."""
    from rich.table import Table
    from rich.text import Text

    view = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        view.add_column(Text(one_line(column)), overflow="fold", no_wrap=column not in FOLDED | CUT)
    for row in rows:
        cells = [Text(one_line(str(cell)), style=STYLES.get(str(cell), "")) for cell in row]
        for cell, column in zip(cells, columns, strict=False):
            if column in CUT:
                cell.no_wrap, cell.overflow = True, "ellipsis"
        view.add_row(*cells)
    if view.row_count:
        rich_console().print(view)
    else:
        typer.echo(empty)


def one_line(text: str) -> str:
    """Return the first line of a text that somebody else wrote, cut to a readable length."""
    lines = printable(text).split("\n", 1)
    first = lines[0].replace("\r", " ").replace("\t", " ")
    return first if len(lines) == 1 and len(first) <= CELL else f"{first[:CELL].rstrip()} …"


def fact(label: str, value: str) -> None:
    """Write a label and what it stands for, which may have several lines."""
    for line in printable(value).splitlines():
        typer.echo(f"{label:<12} {line}".rstrip())
        label = ""


def clock(moment: datetime | None) -> str:
    """Return a moment in the reader's own time zone."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(moment: datetime | None) -> str:
    """Return how long ago a moment was, in words."""
    return "" if moment is None else f"{duration((datetime.now(UTC) - moment).total_seconds())} ago"


def duration(seconds: float) -> str:
    """Return seconds as `4 s`, `3:05 min` or `2:10 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h" if whole < 172800 else f"{whole // 86400} days"


def size(amount: float) -> str:
    """Return bytes as `512 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def number(value: object) -> str:
    """Return a metric's value in at most seven digits."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
