"""Which `except` clauses of the libraries and the services no test executes, seen by coverage.

    python -m tests.excepts --tests "tests/unit tests/contract" libs/trainwright/runtime
    python -m tests.excepts --tests "" libs        # only say again what was measured last

A clause is executed when its first statement ran, in whatever process of the tests. What a process saw that was
killed by SIGKILL is lost. Not here: `contextlib.suppress`, which leaves no line to see, and whether the test
asserts anything about what the clause does.
"""

import argparse
import ast
import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coverage.numbits import numbits_to_nums

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "excepts"
"""Where processes leave what they saw; pyproject.toml has it too."""
KEPT = FOLDER / "lines.json"
S3 = "libs/trainwright/storage/s3.py"
MINIO = "wants a MinIO (`make minio`): test_s3_blobs is skipped without one"
EXCUSED: dict[tuple[str, str, str], str] = {
    ("libs/trainwright/embedded/archive.py", "make_archive", "subprocess.TimeoutExpired"): "a JVM has to hang",
    (S3, "S3Blobs.size", "NotFound"): MINIO,
    (S3, "S3Blobs._make_bucket", "S3Error"): MINIO,
    (S3, "S3Blobs._answering", "S3Error"): MINIO,
    (S3, "S3Blobs._answering", "(InvalidResponseError, ServerError, HTTPError)"): MINIO,
}
"""File, function and exception of a clause that no test can execute -> why. A house test holds it to the code."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One `except`: where it stands, what it catches, and the lines of its first statement."""

    file: str
    line: int
    function: str
    catches: str
    first: range

    @property
    def key(self) -> tuple[str, str, str]:
        """What `EXCUSED` calls it."""
        return self.file, self.function, self.catches


def clauses(file: str, source: str) -> Iterator[Clause]:
    """Yield every `except` of a module, in order, with the classes and functions that it stands in."""

    def walk(node: ast.AST, around: tuple[str, ...]) -> Iterator[Clause]:
        if isinstance(node, ast.ExceptHandler):
            catches = ast.unparse(node.type) if node.type else "anything"
            first = node.body[0]
            lines = range(first.lineno, (first.end_lineno or first.lineno) + 1)
            yield Clause(file, node.lineno, ".".join(around) or "the module", catches, lines)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            around = (*around, node.name)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, around)

    yield from walk(ast.parse(source), ())


def clauses_below(places: Sequence[Path]) -> Iterator[Clause]:
    """Yield every `except` of these files and folders."""
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            yield from clauses(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))


def coverage_init(_registry: Any, _options: Any) -> None:
    """Let the guard and the shim be measured too; coverage calls this in every process (`plugins`).

    They start without `site`, where measuring begins; meanwhile they start like any other program.
    """
    begin = subprocess.Popen.__init__

    def begin_with_site(self: Any, args: Any, *others: Any, **named: Any) -> None:
        if isinstance(args, list) and args[:3] == [sys.executable, "-I", "-S"]:
            args = [sys.executable, "-P", *args[3:]]
        begin(self, args, *others, **named)

    subprocess.Popen.__init__ = begin_with_site  # type: ignore[method-assign]


def measure(tests: Sequence[str]) -> int:
    """Run the tests under coverage, add what every process saw to what is kept; return pytest's status."""
    pytest = ["-m", "pytest", "-n", "3", "--dist", "loadfile", *tests]
    status = subprocess.run([sys.executable, "-m", "coverage", "run", *pytest], cwd=ROOT, check=False).returncode
    collect()
    return status


def collect() -> None:
    """Take the lines over from the processes' files, and remove those."""
    seen = kept()
    for path in FOLDER.glob("data.*"):
        # Not `coverage combine`: it gives all up for one file that a full disk of a test left half-written.
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as data:
            for name, bits in data.execute("SELECT path, numbits FROM file JOIN line_bits ON file.id = file_id"):
                file = Path(name).relative_to(ROOT).as_posix()
                seen[file] = sorted({*seen.get(file, ()), *numbits_to_nums(bits)})
        path.unlink()
    KEPT.write_text(json.dumps(seen))


def kept() -> dict[str, list[int]]:
    """Return the lines that were seen, by file."""
    found: dict[str, list[int]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def main() -> int:
    """Measure, list the clauses that never ran and are not excused; return 0 when there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.excepts", description="Which `except` do tests execute?"
    )
    parser.add_argument("places", nargs="+", type=Path, help="files and folders whose clauses are asked for")
    parser.add_argument("--tests", default="tests", help="what pytest runs; nothing for what was measured last")
    parser.add_argument("--keep", action="store_true", help="add to what was measured before")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if options.tests and not options.keep:
        for path in FOLDER.iterdir():
            path.unlink()
    status = measure(options.tests.split()) if options.tests else 0

    seen = {file: set(lines) for file, lines in kept().items()}
    asked = list(clauses_below([place.absolute() for place in options.places]))
    left = [one for one in asked if seen.get(one.file, set()).isdisjoint(one.first)]
    unexcused = [one for one in left if one.key not in EXCUSED]
    for one in unexcused:
        sys.stdout.write(f"{one.file}:{one.line}: except {one.catches} in {one.function}\n")
    sys.stdout.write(
        f"executed {len(asked) - len(left)} of {len(asked)}, {len(left) - len(unexcused)} excused"
        f"{'' if status == 0 else '; some tests failed'}\n"
    )
    return 1 if unexcused else status


if __name__ == "__main__":
    sys.exit(main())
