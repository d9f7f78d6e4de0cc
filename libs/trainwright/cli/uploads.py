"""Which files a task takes along, and sending them by content hash.

A script brings the modules that it imports from its own folder; a folder brings everything in it but caches and
what its `.gitignore` files name.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from trainwright.cli.console import size, stop

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

    from trainwright.client import Client

IGNORED = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".trainwright", "trainwright-runs", "node_modules"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".DS_Store"}
)
ENTRY_NAMES = ("main.py", "train.py", "__main__.py")
MAX_FILE = 256 * 2**20
MAX_TOTAL = 512 * 2**20
MAX_FILES = 300


Rules = Sequence["tuple[PurePosixPath, GitIgnoreSpec]"]
"""The `.gitignore` files that hold somewhere, each with its place, outermost first."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A local file and its place in the run's folder."""

    source: Path
    place: str


def script_files(script: Path, written: str) -> tuple[str, list[Upload]]:
    """Return the entry script's place in the run's folder and all files that go along.

    `script` is a file (which brings the local modules it imports) or a folder with one of the entry names.
    """
    if script.is_dir():
        entry = next((name for name in ENTRY_NAMES if (script / name).is_file()), None)
        if entry is None:
            stop(f"the folder {written} has none of {', '.join(ENTRY_NAMES)}; name the script itself as `path`")
        return entry, list(_folder(script, PurePosixPath()))
    if not script.is_file():
        stop(f"the script {written} does not exist{_looked_for(script, written)}")
    root = script.parent
    files = sorted({script, *_local_modules(script, root)})
    return script.name, [Upload(file, file.relative_to(root).as_posix()) for file in files]


def data_files(source: Path, written: str) -> tuple[str, list[Upload]]:
    """Return the data's place in the run's folder, `data/<name>`, and the files that go along."""
    place = PurePosixPath("data") / source.resolve().name
    if source.is_dir():
        stop(f"the data {written} is a folder; name a file in it, or the folder by its absolute path")
    if not source.is_file():
        stop(f"the data {written} does not exist{_looked_for(source, written)}")
    return str(place), [Upload(source, str(place))]


def folder_files(folder: Path) -> list[Upload]:
    """Return everything in a folder but caches and version control."""
    return list(_folder(folder, PurePosixPath()))


def place_in(folder: Path, script: Path, written: str) -> str:
    """Return a script's place in a folder that goes along as a whole, or end the command."""
    inside = script if script.is_file() else folder / written
    if not inside.is_file():
        stop(f"the script {written} does not exist (looked for {script} and {inside})")
    if not inside.resolve().is_relative_to(folder.resolve()):
        stop(f"the script {written} does not lie in the folder {folder} that `code` names")
    place = inside.resolve().relative_to(folder.resolve()).as_posix()
    if all(one.place != place for one in folder_files(folder)):
        stop(f"the script {written} is left out by a .gitignore of {folder}; take it out of there")
    return place


def check_limits(uploads: list[Upload]) -> None:
    """End the command when the files are too many or too large to travel with a task."""
    if len(uploads) > MAX_FILES:
        stop(
            f"{len(uploads)} files are more than the {MAX_FILES} that a task may take along; choose a smaller"
            " folder, name what it does not need in .gitignore, and name data by its absolute path"
        )
    total = 0
    for upload in uploads:
        amount = upload.source.stat().st_size
        total += amount
        if amount > MAX_FILE:
            stop(
                f"{upload.source} has {size(amount)}, more than the {size(MAX_FILE)} that one file of a task may"
                " have; leave it where it is and name its absolute path instead"
            )
    if total > MAX_TOTAL:
        stop(
            f"the files have {size(total)} together, more than the {size(MAX_TOTAL)} that a task may take along"
            f" (the largest: {_largest(uploads)}); name large data by its absolute path instead, and what the task"
            " does not need in .gitignore"
        )


def _largest(uploads: list[Upload]) -> str:
    sizes = sorted(((one.source.stat().st_size, one.place) for one in uploads), reverse=True)
    return ", ".join(f"{place} {size(amount)}" for amount, place in sizes[:5])


def without_repeats(uploads: Iterable[Upload]) -> list[Upload]:
    """Return one upload per place, in order."""
    return list({upload.place: upload for upload in uploads}.values())


def send(client: "Client", uploads: Iterable[Upload]) -> list[dict[str, object]]:
    """Store every file and return the references that a task document carries in `files`."""
    references: list[dict[str, object]] = []
    for upload in uploads:
        stored = client.upload(upload.source)
        references.append({"path": upload.place, "sha256": stored.sha256, "size": stored.size})
    return references


def _looked_for(path: Path, written: str) -> str:
    return "" if str(path) == written else f" (looked for {path})"


def _folder(folder: Path, place: PurePosixPath, rules: "Rules" = ()) -> Iterator[Upload]:
    """Yield what a folder takes along: not what its `.gitignore` files name, those below before those above."""
    rules = (*rules, *_gitignore(folder, place))
    for item in sorted(folder.iterdir()):
        here = place / item.name
        if item.name in IGNORED or item.suffix == ".pyc":
            continue
        if item.is_dir() and not item.is_symlink():
            if not _is_ignored(f"{here}/", rules):
                yield from _folder(item, here, rules)
        elif item.is_file() and not _is_ignored(str(here), rules):
            yield Upload(item, str(here))


def _gitignore(folder: Path, place: PurePosixPath) -> "Rules":
    """Return the rules that a folder's own `.gitignore` adds; as in git, they are about what lies below it."""
    try:
        lines = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    from pathspec import GitIgnoreSpec

    try:
        return ((place, GitIgnoreSpec.from_lines(lines)),)
    except ValueError as error:
        stop(f"{folder / '.gitignore'} cannot be read: {error}")


def _is_ignored(path: str, rules: "Rules") -> bool:
    for place, spec in reversed(rules):
        below = path if place == PurePosixPath() else path.removeprefix(f"{place}/")
        verdict = spec.check_file(below).include
        if verdict is not None:
            return bool(verdict)
    return False


def _local_modules(script: Path, root: Path) -> set[Path]:
    """Return the Python files under `root` that `script` imports, directly or through one another."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        file = waiting.pop()
        for name in _imports(file, root):
            for candidate in _candidates(root / name):
                if candidate not in found and candidate != script:
                    found.add(candidate)
                    waiting.append(candidate)
    return found


def _candidates(base: Path) -> Iterator[Path]:
    if base.with_suffix(".py").is_file():
        yield base.with_suffix(".py")
    elif base.is_dir() and any(base.glob("*.py")):
        yield from (upload.source for upload in _folder(base, PurePosixPath()) if upload.source.suffix == ".py")


def _imports(file: Path, root: Path) -> Iterator[str]:
    """Yield the first names that a file imports; a package of that name brings all its Python files."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError):
        return  # the run itself will show it, with the trace
    package = file.parent.relative_to(root).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield from package[:1]
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]
