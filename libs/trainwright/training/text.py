"""Text that a run wrote, made fit to be shown: nothing in it moves a cursor, colours or rings. No I/O."""

import re

_SEQUENCES = re.compile(r"\x1b(?:\[[0-9;:?<=>]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])?")
_CONTROLS = {code: "\ufffd" for code in (*range(32), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\t\n\r"}


def printable(text: str) -> str:
    """Return text without terminal sequences; other control characters but tab, CR and LF show as U+FFFD."""
    return _SEQUENCES.sub("", text).translate(_CONTROLS)
