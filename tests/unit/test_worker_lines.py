"""Output is cut into the same records however it is read: in one piece, byte by byte, or again after a restart."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer_worker.lines import MAX_BLOCK, MAX_LINES, MAX_RECORD, Line, cut

TRACEBACK = b"""Traceback (most recent call last):
  File "train.py", line 3, in <module>
    fit()
ValueError: no

"""
DUMP = b"""Fatal Python error: Aborted

Thread 0x00007f1a (most recent call first):
  File "train.py", line 4 in wait

Current thread 0x00007f1b (most recent call first):
  File "train.py", line 9 in <module>

Extension modules: numpy.core (total: 1)
"""


def read_all(data: bytes, sizes: list[int]) -> list[Line]:
    """Cut `data` as a tail does that sees the file grow by `sizes` bytes at a time."""
    found: list[Line] = []
    offset = end = 0
    for size in [*sizes, len(data)]:
        end = min(len(data), end + size)
        while True:
            lines, after = cut(data[offset:end], offset, final=False)
            found += lines
            if after == offset:
                break
            offset = after
    while offset < len(data):
        lines, offset = cut(data[offset:], offset, final=True)
        found += lines
    return found


def test_a_line_is_a_record_at_its_byte_offset() -> None:
    lines, end = cut("äh\n\n  \nzwei\nhalf".encode(), 100, final=False)
    assert lines == [Line(100, "äh"), Line(108, "zwei")]
    assert end == 113
    assert cut(b"half", 113, final=True) == ([Line(113, "half")], 117)


def test_a_line_redrawn_shows_its_last_state_without_colours() -> None:
    lines, _ = cut(b"\r 1 %\r 50 %\r\x1b[32m100 %\x1b[0m\n", 0, final=False)
    assert lines == [Line(0, "100 %")]


def test_a_traceback_is_one_record_and_what_follows_is_not_part_of_it() -> None:
    lines, _ = cut(b"before\n" + TRACEBACK + b"after\n", 0, final=False)
    assert [line.is_traceback for line in lines] == [False, True, False]
    assert lines[1].text == TRACEBACK.decode().strip()
    assert lines[2].text == "after"


def test_a_traceback_is_held_back_until_it_is_whole() -> None:
    half = TRACEBACK[: TRACEBACK.index(b"ValueError")]
    assert cut(half, 0, final=False) == ([], 0)
    assert len(cut(half, 0, final=True)[0]) == 1


def test_a_syntax_error_has_no_header_and_is_one_record_all_the_same() -> None:
    text = b'  File "train.py", line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax\n'
    (line,), _ = cut(text, 0, final=False)
    assert line.is_traceback


def test_the_stacks_of_a_crash_are_one_record() -> None:
    lines, _ = cut(b"before\n" + DUMP + b"after\n", 0, final=False)
    assert [line.is_traceback for line in lines] == [False, True, False]
    assert lines[1].text == DUMP.decode().strip()
    assert cut(DUMP[:-10], 0, final=False) == ([], 0)


def test_endless_lines_and_blocks_are_cut_at_fixed_lengths() -> None:
    lines = read_all(b"x" * (2 * MAX_RECORD + 7), [100] * 700)
    assert [len(line.text) for line in lines] == [MAX_RECORD, MAX_RECORD, 7]
    endless = b"Traceback (most recent call last):\n" + b"  frame\n" * (MAX_BLOCK // 4)
    assert all(len(line.text) <= MAX_BLOCK for line in read_all(endless, [MAX_BLOCK * 2]))


def test_one_reading_gives_a_bounded_number_of_records() -> None:
    lines, end = cut(b"x\n" * 5000, 0, final=True)
    assert len(lines) == MAX_LINES
    assert end == 2 * MAX_LINES


def test_bytes_that_are_no_text_do_not_hurt() -> None:
    lines, _ = cut(b"\xff\xfe\x00ok\x07\n", 0, final=False)
    assert lines[0].text.endswith("ok\ufffd")


PIECES = st.sampled_from(
    [
        b"a",
        b"\n",
        b"\r",
        b"  b\n",
        b"\xc3",
        TRACEBACK,
        DUMP,
        b"Fatal Python error: x\n",
        b"Traceback (most recent call last):\n",
    ]
)


@given(st.lists(PIECES, max_size=40), st.lists(st.integers(1, 30), max_size=60))
def test_how_a_file_is_read_does_not_change_its_records(pieces: list[bytes], sizes: list[int]) -> None:
    data = b"".join(pieces)
    assert read_all(data, sizes) == read_all(data, [])
