"""The spool: what was written whole is read once, in order; what was cut short or damaged is never read."""

import errno
import os
from pathlib import Path

import pytest

from trainwright.training.spool import (
    Position,
    Record,
    SpoolReader,
    SpoolWriter,
    encode_record,
    frame,
    segment_path,
    segments,
)


def payload(seq: int, **values: float) -> bytes:
    return encode_record((seq, 1000.0 + seq, seq * 10, None, values or {"loss": 1 / seq}))


def drain(reader: SpoolReader, max_bytes: int = 4096) -> list[int]:
    found: list[int] = []
    while records := reader.read(max_bytes):
        found += [record.seq for record in records]
    return found


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append([encode_record((1, 12.5, 3, 100, {"loss": 0.25, "bad": float("inf")}))])
    assert SpoolReader(tmp_path).read() == [
        Record(seq=1, time=12.5, step=3, total_steps=100, values={"loss": 0.25, "bad": float("inf")})
    ]
    writer.close()


def test_a_reader_goes_on_where_another_stopped_over_rotated_segments(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, segment_bytes=300)
    for seq in range(1, 101):
        writer.append([payload(seq)])
    writer.close()
    assert len(segments(tmp_path)) > 5
    first = SpoolReader(tmp_path)
    seen = [record.seq for _ in range(7) for record in first.read(100)]
    second = SpoolReader(tmp_path, first.position)
    assert seen + drain(second) == list(range(1, 101))
    assert second.damaged == 0


def test_nothing_written_yet_is_not_an_error(tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path / "not-there")
    assert reader.read() == []
    writer = SpoolWriter(tmp_path / "not-there")
    assert reader.read() == []
    writer.append([payload(1)])
    assert drain(reader) == [1]
    writer.close()


@pytest.mark.parametrize("missing", [1, 4, 8, 9, 20])
def test_a_frame_cut_short_is_not_read_and_appears_once_it_is_whole(tmp_path: Path, missing: int) -> None:
    data = frame(payload(1)) + frame(payload(2))
    segment_path(tmp_path, 1).write_bytes(data[:-missing])
    reader = SpoolReader(tmp_path)
    assert drain(reader) == [1]
    with open(segment_path(tmp_path, 1), "ab") as file:
        file.write(data[-missing:])
    assert drain(reader) == [2]


def test_after_a_crash_the_writer_goes_on_in_a_new_segment_with_the_next_number(tmp_path: Path) -> None:
    segment_path(tmp_path, 1).write_bytes(frame(payload(1)) + frame(payload(2)) + frame(payload(3))[:-5])
    writer = SpoolWriter(tmp_path)
    assert writer.last_seq == 2
    writer.append([payload(3)])
    reader = SpoolReader(tmp_path)
    assert drain(reader) == [1, 2, 3]
    assert reader.damaged == 1
    writer.close()


def test_a_flipped_bit_stops_the_reader_before_the_damaged_frame(tmp_path: Path) -> None:
    data = bytearray(frame(payload(1)) + frame(payload(2)) + frame(payload(3)))
    data[len(frame(payload(1))) + 12] ^= 1
    segment_path(tmp_path, 1).write_bytes(data)
    assert drain(SpoolReader(tmp_path)) == [1]


def test_a_frame_longer_than_the_read_size_is_read_whole(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append([payload(1), payload(2, **{f"metric-{n}": n for n in range(2000)}), payload(3)])
    assert drain(SpoolReader(tmp_path), max_bytes=64) == [1, 2, 3]
    writer.close()


def test_zeroes_at_the_end_as_after_a_power_cut_are_not_records(tmp_path: Path) -> None:
    segment_path(tmp_path, 1).write_bytes(frame(payload(1)) + bytes(100))
    assert drain(SpoolReader(tmp_path)) == [1]


@pytest.mark.parametrize("other", [b"\xc1", b"\x80"], ids=["no msgpack", "no record"])
def test_a_whole_frame_that_holds_no_record_stops_the_reader_before_it(tmp_path: Path, other: bytes) -> None:
    segment_path(tmp_path, 1).write_bytes(frame(payload(1)) + frame(other) + frame(payload(2)))
    assert drain(SpoolReader(tmp_path)) == [1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_raises_and_keeps_what_was_whole(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append([payload(1)])
    good, full = writer._fd, os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, good)
    with pytest.raises(OSError, match=r"No space|Invalid") as caught:
        writer.append([payload(2)])
    assert caught.value.errno in (errno.ENOSPC, errno.EINVAL)
    os.close(full)
    assert drain(SpoolReader(tmp_path)) == [1]
    os.close(good)


def test_positions_compare_in_reading_order() -> None:
    assert Position(1, 900) < Position(2, 0) < Position(2, 8)
