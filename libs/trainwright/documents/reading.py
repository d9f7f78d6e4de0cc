"""Read YAML and JSON into plain values that JSON can hold, with errors that name line and column; and write them.

YAML as people mean it: a key that is written twice is refused, dates stay text, `1e-3` is a number.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NoReturn

MAX_DEPTH = 50
MAX_VALUES = 100_000
"""What a document may hold, so that an alias of aliases ends in a sentence and not in all of the memory."""

_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*|[0-9][0-9_]*\.[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$")
"""Numbers that YAML 1.1 takes for text: `1e-3`, `2.5E4`."""
_FLOAT, _TIMESTAMP = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"


class NotADocument(ValueError):
    """A text is no document: ``reason`` says why, ``line`` and ``column`` where, from 1; 0 when not known."""

    def __init__(self, reason: str, line: int = 0, column: int = 0) -> None:
        super().__init__(f"{line}:{column}: {reason}" if line else reason)
        self.reason = reason
        self.line = line
        self.column = column


def read(text: str, format: str) -> dict[str, Any]:
    """Return the mapping that a text in `yaml` or `json` holds.

    Raises:
        NotADocument: It holds none, or values that JSON has not.
    """
    try:
        document = _parse_json(text) if format == "json" else _parse_yaml(text)
        _check_plain(document)
    except RecursionError:
        raise NotADocument(f"nested deeper than the {MAX_DEPTH} levels that a document may have") from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        raise NotADocument(f"holds {found}; a task document is a mapping that begins e.g. with `recipe: script`")
    return document


def written(document: dict[str, Any], format: str) -> str:
    """Return a document as text that reads as exactly the same document."""
    if format == "json":
        return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    import yaml

    _, dumper = _languages()
    return str(yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100))


def _parse_yaml(text: str) -> Any:
    import yaml

    loader, _ = _languages()
    try:
        _check_depth(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = str(error.problem or error.context)
        raise NotADocument(reason, *((mark.line + 1, mark.column + 1) if mark else ())) from None
    except (yaml.YAMLError, ValueError) as error:  # also a number with more digits than Python reads
        raise NotADocument(" ".join(str(error).split())) from None


def _check_depth(events: Iterable[Any]) -> None:
    """Refuse deep nesting before it is composed: libyaml's composer has no limit but the stack's end."""
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH + 1:
            raise RecursionError


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise NotADocument(error.msg, error.lineno, error.colno) from None
    except NotADocument:
        raise
    except ValueError as error:
        raise NotADocument(str(error)) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise NotADocument(f"the key {key!r} is written twice")
        found[key] = value
    return found


def _check_plain(document: Any) -> None:
    """Refuse the first value that JSON cannot hold, and too many or too deep ones."""
    waiting: list[tuple[str, Any, int]] = [("", document, 0)]
    for _ in range(MAX_VALUES):
        if not waiting:
            return
        place, value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise RecursionError
        if isinstance(value, dict | list):
            waiting += [(f"{place}.{key}".lstrip("."), item, depth + 1) for key, item in _items(place, value)]
        elif isinstance(value, float) and value - value != 0:
            _refuse(f"{place} is {value}, which is not a finite number; write a string if it is meant")
        elif isinstance(value, str) and not _is_text(value):
            _refuse(f"{place} holds half a character (a lone surrogate)")
        elif not (value is None or isinstance(value, str | int | float)):
            kind = type(value).__name__
            _refuse(f"{place} is a {kind}; use text, numbers, true, false, null, lists and mappings")
    _refuse(f"holds more than {MAX_VALUES} values; put data in files and name them")


def _items(place: str, value: dict[Any, Any] | list[Any]) -> Iterator[tuple[object, Any]]:
    if isinstance(value, list):
        yield from enumerate(value)
        return
    where = f"in {place} " if place else ""
    for key, item in value.items():
        if isinstance(key, bool):  # JSON's keys are text
            what = f"{str(key).lower()}: so YAML reads {'yes, on and true' if key else 'no, off and false'}"
            _refuse(f"a key {where}was read as {what}; put it in quotes if it is a name")
        if not isinstance(key, str):
            _refuse(f"the key {key!r} {where}is not text; put it in quotes")
        if not _is_text(key):
            _refuse(f"a key {where}holds half a character (a lone surrogate)")
        yield key, item


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(reason: str) -> NoReturn:
    raise NotADocument(reason)


@lru_cache(maxsize=1)
def _languages() -> tuple[Any, Any]:
    """Return YAML's safe loader and dumper as they are used here: what is written reads as what it was."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[object] = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, str) and key in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key!r} is written twice", problem_mark=key_node.start_mark
                    )
                seen.add(key if isinstance(key, str) else id(key_node))
            return dict(super().construct_mapping(node, deep))

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def represent_str(self, data: str) -> yaml.ScalarNode:
            # PyYAML breaks lines at these in single quotes, and reads them back as a space.
            style = '"' if re.search("[\x85\u2028\u2029]", data) else None
            return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    Dumper.add_representer(str, Dumper.represent_str)

    exponents = (_FLOAT, _EXPONENT)
    for language in (Loader, Dumper):
        language.yaml_implicit_resolvers = {
            first: [
                (tag, pattern) for tag, pattern in resolvers if language is Dumper or tag != _TIMESTAMP
            ]  # the dumper quotes what others read as a date
            + ([exponents] if first in "+-.0123456789" else [])
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }
    return Loader, Dumper
