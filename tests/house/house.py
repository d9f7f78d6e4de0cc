"""The house as the rules see it: its Python files and its tracked text files."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = ("libs", "services", "tests", "examples", "deploy")


def python_files() -> list[Path]:
    """Return every Python file of the house."""
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def tracked_files() -> list[Path]:
    """Return every file that git tracks, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]
