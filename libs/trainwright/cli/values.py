"""`PATH=VALUE` and `NAME=VALUE` arguments: values as YAML writes them."""

from collections.abc import Sequence
from typing import Any

from trainwright.cli.console import USAGE, stop
from trainwright.documents.reading import NotADocument, read


def patch_of(assignments: Sequence[str]) -> dict[str, Any]:
    """Return a merge patch from `parameters.horizon=12`; `labels.team=` takes a key away."""
    patch: dict[str, Any] = {}
    for assignment in assignments:
        path, value = _assigned(assignment)
        *sections, last = path.split(".")
        here = patch
        for section in sections:
            here = here.setdefault(section, {})
            if not isinstance(here, dict):
                stop(f"{assignment}: {section} is given a value and keys", USAGE)
        here[last] = value
    return patch


def values_of(assignments: Sequence[str]) -> dict[str, Any]:
    """Return values by name from `learning_rate=0.001`; names may hold dots."""
    return dict(_assigned(assignment) for assignment in assignments)


def _assigned(assignment: str) -> tuple[str, Any]:
    name, sign, text = assignment.partition("=")
    if not sign or not name or ".." in name or name.startswith(".") or name.endswith("."):
        stop(f"{assignment!r} is not NAME=VALUE", USAGE)
    if not text.strip():
        return name, None
    try:
        return name, read(f"value: {text}", "yaml")["value"]
    except NotADocument as error:
        stop(f"{assignment!r}: {error.reason}; put text in quotes", USAGE)
