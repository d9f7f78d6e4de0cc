"""The table of crash points is what the code has: each stands in its file, once, and no other anywhere."""

import re

import pytest

from tests.house.house import ROOT
from trainwright import crash

PASSED = re.compile(r"\b(?:crash\.point|_crash)\(\"([^\"]*)\"\)")


def passed(text: str) -> list[str]:
    """Return the points that a text passes."""
    return PASSED.findall(text)


def test_every_point_stands_exactly_where_the_table_says() -> None:
    found = [
        (name, path.as_posix())
        for folder in ("libs", "services")
        for path in (ROOT / folder).rglob("*.py")
        for name in passed(path.read_text(encoding="utf-8"))
    ]
    assert sorted(name for name, _ in found) == sorted(crash.POINTS), "each once, and none that the table lacks"
    elsewhere = [(name, path) for name, path in found if not path.endswith(f"/{crash.POINTS[name].file}")]
    assert elsewhere == []


def test_there_are_as_many_as_the_proof_wants() -> None:
    assert len(crash.POINTS) >= 24


@pytest.mark.parametrize("line", ['crash.point("relay.read")', '        _crash("shim.told")'])
def test_the_rule_sees_a_point(line: str) -> None:
    assert passed(line)
