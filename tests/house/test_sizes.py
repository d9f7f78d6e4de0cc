"""No room swallows the house: files of at most 400 lines, functions of at most 60."""

import ast
from pathlib import Path

import pytest

from tests.house.house import ROOT, python_files

MAX_FILE, MAX_FUNCTION = 400, 60


def long_functions(source: str) -> list[str]:
    """Return the functions of a module that are too long, with their length."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION:
                found.append(f"{node.name}: {lines} lines")
    return found


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE
    assert long_functions(source) == []


def test_the_rule_sees_a_long_function() -> None:
    body = "\n".join(f"    x = {n}" for n in range(MAX_FUNCTION))
    assert long_functions(f"async def swallow():\n{body}\n") == ["swallow: 61 lines"]
