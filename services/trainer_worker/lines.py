"""Cut a run's output into log records by its bytes alone, so that a second reading gives the same records.

A line is a record; of a line redrawn with carriage returns only the last state; a traceback is one record, and
so are the stacks of a crash.
A line that is not ended is held back until it is, or is `MAX_RECORD` long, or the run is over. Not here:
files, publishing.
"""

import re
from dataclasses import dataclass

from trainwright.training.text import printable

MAX_RECORD = 16 * 1024
MAX_BLOCK = 48 * 1024
MAX_LINES = 1500
_TRACE_START = re.compile(rb"Traceback \(most recent call last\):\s*$|  File \"[^\"]*\", line \d+\s*$")
_DUMP_START = b"Fatal Python error: "
_DUMP_LINES = (b"  ", b"\n", b"Thread 0x", b"Current thread 0x", b"Extension modules: ")
"""What `faulthandler` writes of a process that crashes: the stacks of its threads."""


@dataclass(frozen=True, slots=True)
class Line:
    """One record of output: where it begins in its file, its text, and whether it is a traceback."""

    offset: int
    text: str
    is_traceback: bool = False


def cut(chunk: bytes, offset: int, *, final: bool) -> tuple[list[Line], int]:
    """Return up to `MAX_LINES` records of `chunk`, which begins at `offset` of its file, and the offset
    after.
    """
    found: list[Line] = []
    place = 0
    while place < len(chunk) and len(found) < MAX_LINES:
        end = _line_end(chunk, place, final=final)
        if end is None:
            break
        if chunk.startswith(_DUMP_START, place):
            after = _dump_end(chunk, place, end, final=final)
            if after is None:
                break
            _add(found, chunk[place:after], offset + place, is_traceback=True)
            place = after
            continue
        if not _TRACE_START.match(chunk, place, end):
            _add(found, chunk[place:end], offset + place, is_traceback=False)
            place = end
            continue
        block_end, complete = _block_end(chunk, place, end, final=final)
        if block_end is None:
            break
        _add(found, chunk[place:block_end], offset + place, is_traceback=complete)
        place = block_end
    return found, offset + place


def _line_end(chunk: bytes, place: int, *, final: bool) -> int | None:
    newline = chunk.find(b"\n", place, place + MAX_RECORD)
    if newline >= 0:
        return newline + 1
    if len(chunk) - place >= MAX_RECORD:
        return place + MAX_RECORD
    return len(chunk) if final else None


def _block_end(chunk: bytes, start: int, first_end: int, *, final: bool) -> tuple[int | None, bool]:
    """Return where the traceback that starts here ends, and whether it is whole; None: it is not written
    yet.
    """
    place = first_end
    while place < len(chunk):
        end = _line_end(chunk, place, final=final)
        if end is None:
            break
        if end - start > MAX_BLOCK:
            return place, True
        if chunk[place : place + 1] not in (b" ", b"\t", b"\n"):
            return end, True
        if chunk[place:end] == b"\n":
            return place, False
        place = end
    return (place, True) if final else (None, False)


def _dump_end(chunk: bytes, start: int, first_end: int, *, final: bool) -> int | None:
    """Return where the stacks of a crash that start here end; None: they are not written yet."""
    place = first_end
    while place < len(chunk):
        end = _line_end(chunk, place, final=final)
        if end is None:
            return None
        if end - start > MAX_BLOCK or not chunk.startswith(_DUMP_LINES, place):
            return place
        place = end
    return place if final else None


def _add(found: list[Line], raw: bytes, offset: int, *, is_traceback: bool) -> None:
    text = printable(raw.decode("utf-8", "replace")).rstrip("\r\n")
    if not is_traceback:
        text = text.rpartition("\r")[2]
    if text.strip():
        found.append(Line(offset, text, is_traceback))
