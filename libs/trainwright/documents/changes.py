"""What differs between two documents, by path; and documents made from others by differences and merge patches.

Pure. A number, a truth value and text are never equal, nor are 1 and 1.0: they are written differently.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One place where two documents differ; the path has keys, and indices of lists."""

    path: Path
    kind: Literal["added", "removed", "changed"]
    old: Any = None
    new: Any = None


def same(one: Any, other: Any) -> bool:
    """Return whether two values are written the same, whatever the order of keys."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def differences(old: Any, new: Any, path: Path = ()) -> list[Change]:
    """Return where two documents differ, in the order of the old one, then of the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [
            one for key, value in old.items() if key in new for one in differences(value, new[key], (*path, key))
        ]
        found += [Change((*path, key), "removed", old=value) for key, value in old.items() if key not in new]
        return found + [Change((*path, key), "added", new=value) for key, value in new.items() if key not in old]
    if isinstance(old, list) and isinstance(new, list):
        both = min(len(old), len(new))
        found = [one for n in range(both) for one in differences(old[n], new[n], (*path, n))]
        # From the end, so that each index is true while they are taken away one after the other.
        found += [Change((*path, n), "removed", old=old[n]) for n in range(len(old) - 1, both - 1, -1)]
        return found + [Change((*path, n), "added", new=new[n]) for n in range(both, len(new))]
    return [] if same(old, new) else [Change(path, "changed", old, new)]


def applied(document: Any, changes: Sequence[Change]) -> Any:
    """Return a document with differences made; with those between two documents, the second of them."""
    result = deepcopy(document)
    for change in changes:
        if not change.path:
            result = deepcopy(change.new)
            continue
        holder = result
        for key in change.path[:-1]:
            holder = holder[key]
        last = change.path[-1]
        if change.kind == "removed":
            del holder[last]
        elif isinstance(holder, list) and change.kind == "added":
            holder.insert(int(last), deepcopy(change.new))
        else:
            holder[last] = deepcopy(change.new)
    return result


def merged(document: Any, patch: Any) -> Any:
    """Return a document with a merge patch made (RFC 7396): mappings are merged, null takes a key away."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def dotted(path: Path) -> str:
    """Return a path for people: `parameters.horizon`, `files.0.path`; keys that would mislead are quoted."""
    return ".".join(
        str(part) if isinstance(part, int) or re.fullmatch(r"[^.\"\s\[\]]+", part) else json.dumps(part)
        for part in path
    )


def pointer(path: Path) -> str:
    """Return a path as JSON Pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def canonical(document: Any) -> bytes:
    """Return the one text that a document has, whatever the order of its keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def content_hash(document: Any) -> str:
    """Return the SHA-256 of a document's canonical text, in hex."""
    return hashlib.sha256(canonical(document)).hexdigest()
