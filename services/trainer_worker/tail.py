"""Read what one attempt's files say since the last time, as events ready to be published.

Nothing is published or remembered here: a batch carries the position that becomes true once it is
acknowledged.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.trainer_worker.domain import LATEST_NAMES, Attempt, Read
from services.trainer_worker.lines import cut
from trainwright.contracts.log import LogBatch, LogEvent, LogLevel, LogRecord, LogStream, MemberLogBatch
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.training import layout
from trainwright.training.spool import Position, Record, SpoolReader, segment_path, segments

METRIC_BYTES = 128 * 1024
LOG_BYTES = 128 * 1024
_FILES = {LogStream.STDOUT: layout.STDOUT, LogStream.STDERR: layout.STDERR, LogStream.AGENT: "agent.log"}
_LEVELS = {LogStream.STDOUT: LogLevel.INFO, LogStream.STDERR: LogLevel.WARNING, LogStream.AGENT: LogLevel.INFO}


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one attempt, and how far it has been read once they are acknowledged."""

    events: tuple[MetricBatch | LogEvent, ...]
    read: Read
    full: bool


class Tail:
    """Reads the files of one attempt from where `read` says."""

    def __init__(self, attempt: Attempt, directory: Path, read: Read) -> None:
        self.attempt = attempt
        self.read = read
        self._directory = directory
        self._spool = SpoolReader(directory / layout.SPOOL, Position(read.segment, read.offset))
        self._logs = {stream: _LogFile(directory / name) for stream, name in _FILES.items()}

    def next(self, *, final: bool) -> Batch:
        """Return what is new; with `final`, half lines too, because nothing follows them."""
        events: list[MetricBatch | LogEvent] = []
        read = self.read
        records = self._spool.read(METRIC_BYTES)
        if records:
            events.append(self._metrics(records))
            read = _advance(read, records, self._spool.position)
        full = len(records) > 0
        for stream, file in self._logs.items():
            start = getattr(read, stream.value)
            lines, end, more = file.read(start, _LEVELS[stream], final=final)
            if lines:
                events.append(self._lines(stream, lines))
            if end != start:
                read = read.model_copy(update={stream.value: end})
            full = full or more
        return Batch(tuple(events), read, full)

    def rewind(self) -> None:
        """Go back to the last acknowledged position: what was read since is read again."""
        self._spool.close()
        position = Position(self.read.segment, self.read.offset)
        self._spool = SpoolReader(self._directory / layout.SPOOL, position)

    def behind(self) -> int:
        """Return how many bytes are written beyond the last acknowledged position."""
        folder, read = self._directory / layout.SPOOL, self.read
        newer = [number for number in segments(folder) if number >= read.segment]
        written = sum(_size(segment_path(folder, number)) for number in newer) - read.offset
        logs = 0
        for stream, name in _FILES.items():
            logs += _size(self._directory / name) - int(getattr(read, stream.value))
        return max(0, written) + max(0, logs)

    def close(self) -> None:
        """Close the files."""
        self._spool.close()
        for file in self._logs.values():
            file.close()

    def _lines(self, stream: LogStream, lines: list[LogRecord]) -> LogEvent:
        attempt = self.attempt
        base: dict[str, Any] = {"task_id": attempt.task_id, "attempt": attempt.attempt, "stream": stream}
        if attempt.rank:
            return MemberLogBatch(**base, rank=attempt.rank, records=lines)
        return LogBatch(**base, rank=0 if attempt.members else None, records=lines)

    def _metrics(self, records: list[Record]) -> MetricBatch:
        points = [MetricPoint(r.seq, r.time, r.step, r.values) for r in records]
        # Validation would cost more than the rest: the spool has only what values.py let through.
        return MetricBatch.model_construct(
            task_id=self.attempt.task_id, attempt=self.attempt.attempt, points=points
        )


class _LogFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def read(self, start: int, level: LogLevel, *, final: bool) -> tuple[list[LogRecord], int, bool]:
        """Return the records from `start` on, the offset after them, and whether there is more at once."""
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return [], start, False
        status = os.fstat(self._fd)
        if status.st_size <= start:
            return [], start, False
        chunk = os.pread(self._fd, LOG_BYTES, start)
        at_end = start + len(chunk) >= status.st_size
        lines, end = cut(chunk, start, final=final and at_end)
        # The file's time is when it was last written: right for a live line, better than now after an outage.
        time = datetime.fromtimestamp(status.st_mtime, UTC)
        records = [
            LogRecord(
                seq=line.offset,
                time=time,
                level=LogLevel.ERROR if line.is_traceback else level,
                message=line.text,
            )
            for line in lines
        ]
        return records, end, end > start and end < status.st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _advance(read: Read, records: list[Record], position: Position) -> Read:
    latest = dict(read.latest)
    total = read.total_steps
    for record in records:
        latest.update(record.values)
        total = record.total_steps if record.total_steps is not None else total
    first, last = records[0], records[-1]
    return read.model_copy(
        update={
            "segment": position.segment,
            "offset": position.offset,
            "points": last.seq,
            "step": last.step,
            "total_steps": total,
            "latest": dict(list(latest.items())[-LATEST_NAMES:]),
            "first_time": read.first_time if read.first_time is not None else first.time,
            "first_step": read.first_step if read.first_time is not None else first.step,
            "last_time": last.time,
        }
    )
