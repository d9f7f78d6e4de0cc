"""The metric spool: append-only segments of checked frames, one writer (the run), one reader (the agent).

A frame is little-endian u32 length, u32 crc32 of the payload, payload = msgpack of
`[seq, time, step, total_steps | nil, {name: value}]`. A frame that is cut short or damaged is never
returned: at the end of the newest segment it counts as "not written yet", in an older one the rest of that
segment is passed over.
Not here: when to flush (context.py), publishing (the agent).
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

SEGMENT_BYTES = 16 * 1024 * 1024
MAX_PAYLOAD = 128 * 1024
_HEADER = struct.Struct("<II")
_READ_BYTES = 128 * 1024


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Hold what one `run.log()` call reported; `time` is Unix seconds, `seq` counts from 1 within the
    attempt.
    """

    seq: int
    time: float
    step: int
    total_steps: int | None
    values: dict[str, float]


encode_record = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(Record).decode


def frame(payload: bytes) -> bytes:
    """Return `payload` with its length and checksum in front."""
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Name a place in a spool: everything before it has been read."""

    segment: int = 1
    offset: int = 0


def segment_path(directory: Path, number: int) -> Path:
    """Return the path of segment `number`."""
    return directory / f"metrics-{number:08d}.seg"


def segments(directory: Path) -> list[int]:
    """Return the numbers of the segments in `directory`, ascending; none when there is no such directory."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(
        int(name[8:-4])
        for name in names
        if name.startswith("metrics-") and name.endswith(".seg") and name[8:-4].isdigit()
    )


class SpoolWriter:
    """Append payloads to the newest segment; after a crash go on in a new one, with the next sequence
    number.
    """

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._fd = -1
        existing = segments(directory)
        self._number = existing[-1] if existing else 0
        self.last_seq = _last_seq(directory) if existing else 0
        self._size = 0
        self._dirty = False
        self._next_segment()

    def append(self, payloads: Iterable[bytes]) -> None:
        """Write all payloads, or none: what a full disk left half-written is cut off again before OSError
        is raised.
        """
        data = b"".join(map(frame, payloads))
        if not data:
            return
        if self._size >= self._segment_bytes:
            self._next_segment()
        self._dirty = True
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def sync(self) -> None:
        """Force what was written to the disk."""
        if self._dirty:
            os.fsync(self._fd)
            self._dirty = False

    def close(self) -> None:
        """Sync and close; harmless when closed already."""
        if self._fd >= 0:
            self.sync()
            os.close(self._fd)
            self._fd = -1

    def _next_segment(self) -> None:
        self.close()
        self._number += 1
        path = segment_path(self._directory, self._number)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = 0


class SpoolReader:
    """Read whole frames in order from a position; the position moves past exactly what was returned."""

    def __init__(self, directory: Path, position: Position = Position()) -> None:
        self._directory = directory
        self.position = position
        self.damaged = 0
        self._fd = -1
        self._open_segment = 0

    def read(self, max_bytes: int = _READ_BYTES) -> list[Record]:
        """Return the next records, at most about `max_bytes` of them; an empty list means nothing more for
        now.
        """
        while True:
            chunk = self._chunk(max_bytes)
            records, used = _parse(chunk)
            if records:
                self.position = Position(self.position.segment, self.position.offset + used)
                return records
            if self._frame_longer_than(chunk, max_bytes):
                max_bytes = _HEADER.size + MAX_PAYLOAD
                continue
            following = [number for number in segments(self._directory) if number > self.position.segment]
            if not following:
                return []
            if self._chunk(max_bytes) != chunk:
                continue  # the writer appended between our read and its rotation
            self.damaged += 1 if chunk else 0
            self.position = Position(following[0], 0)

    def close(self) -> None:
        """Close the open segment, if any."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _chunk(self, max_bytes: int) -> bytes:
        if self._fd < 0 or self._open_segment != self.position.segment:
            self.close()
            try:
                self._fd = os.open(
                    segment_path(self._directory, self.position.segment), os.O_RDONLY | os.O_CLOEXEC
                )
            except FileNotFoundError:
                return b""
            self._open_segment = self.position.segment
        return os.pread(self._fd, max_bytes, self.position.offset)

    @staticmethod
    def _frame_longer_than(chunk: bytes, max_bytes: int) -> bool:
        if len(chunk) < max_bytes or len(chunk) < _HEADER.size:
            return False
        return bool(max_bytes < _HEADER.size + _HEADER.unpack_from(chunk)[0] <= _HEADER.size + MAX_PAYLOAD)


def _parse(chunk: bytes) -> tuple[list[Record], int]:
    """Return the valid records at the start of `chunk` and how many bytes they take."""
    records: list[Record] = []
    offset = 0
    while offset + _HEADER.size <= len(chunk):
        length, checksum = _HEADER.unpack_from(chunk, offset)
        end = offset + _HEADER.size + length
        if length > MAX_PAYLOAD or end > len(chunk):
            break
        payload = chunk[offset + _HEADER.size : end]
        if zlib.crc32(payload) != checksum:
            break
        try:
            records.append(_decode_record(payload))
        except msgspec.MsgspecError:
            break
        offset = end
    return records, offset


def _last_seq(directory: Path) -> int:
    reader = SpoolReader(directory)
    last = 0
    try:
        while records := reader.read():
            last = records[-1].seq
    finally:
        reader.close()
    return last


def claim(spool: Path) -> int:
    """Lock the spool for this process for as long as it lives; RuntimeError when another one reports
    already.
    """
    spool.mkdir(parents=True, exist_ok=True)
    fd = os.open(spool / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RuntimeError(
            "another process of this run reports already; call trainwright.init() in rank 0 only"
        ) from None
    return fd
