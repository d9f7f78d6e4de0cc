"""The contracts as they were released: read out of git, at the newest version tag that this commit comes from."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "docs/contracts"


@dataclass(frozen=True, slots=True)
class Release:
    """A tag, and the documents of its contracts by path below their folder."""

    tag: str
    documents: dict[str, dict[str, Any]]

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """Return the JSON Schemas by name."""
        found = {Path(path): document for path, document in self.documents.items()}
        return {path.stem: document for path, document in found.items() if path.parent.name == "schemas"}


def released(root: Path) -> Release | None:
    """Return the newest release; None without one: no tag yet, a shallow clone, or no git at all."""
    tag = newest_tag(root)
    if tag is None:
        return None
    paths = (_git(root, "ls-tree", "-r", "--name-only", tag, f"{FOLDER}/") or "").splitlines()
    documents = {
        path.removeprefix(f"{FOLDER}/"): json.loads(_git(root, "show", f"{tag}:{path}") or "{}")
        for path in paths
        if path.endswith(".json") and "/golden/" not in path
    }
    return Release(tag, documents) if documents else None


def newest_tag(root: Path) -> str | None:
    """Return the tag of the newest version."""
    found = _git(root, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*")
    return None if found is None else found.strip()


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=300, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
