"""The pages of guarantees, and of what others have lost, name tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["guarantees.md", "known-losses.md"])
def test_every_test_that_is_named_is_there(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    there = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(rows) >= 15
    for row in rows:
        named = set(re.findall(r"`(test_\w+)`", row))
        assert named, f"no test is named in: {row}"
        assert named <= there, f"{sorted(named - there)} of docs/{name} are no tests"
