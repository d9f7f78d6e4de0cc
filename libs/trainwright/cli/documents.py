"""Task documents: read from YAML or JSON with errors that name line and column, and made ready to be sent.

Relative paths mean the document's own folder; what they name is uploaded by content hash (uploads.py) and the
document then names the file's place in the run's folder. Absolute paths and addresses (`s3://…`) stay.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.cli.console import stop

if TYPE_CHECKING:
    from trainwright.cli.uploads import Upload


MAX_DEPTH = 50
MAX_VALUES = 100_000
"""What a document may hold, so that an alias of aliases ends in a sentence and not in all of the memory."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document ready to be sent, and the files that must be uploaded with it."""

    config: dict[str, Any]
    uploads: "list[Upload]"


def read_document(path: Path) -> dict[str, Any]:
    """Return the task document in `path`, or end the command saying where it is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        stop(f"{path} does not exist")
    except IsADirectoryError:
        stop(f"{path} is a folder; name the task document in it")
    except (OSError, UnicodeDecodeError) as error:
        stop(f"{path} cannot be read: {error}")
    try:
        document = _parse_json(path, text) if path.suffix == ".json" else _parse_yaml(path, text)
        _check_plain(path, document)
    except RecursionError:
        stop(f"{path} is nested deeper than the {MAX_DEPTH} levels that a task document may have")
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        stop(f"{path} holds {found}; a task document is a mapping that begins e.g. with `recipe: script`")
    return document


def prepare(document: dict[str, Any], folder: Path) -> Prepared:
    """Return the document with the files that it names by relative path set aside for upload."""
    from trainwright.cli import uploads

    config = dict(document)
    found: list[Upload] = []
    parameters = config.get("parameters")
    if config.get("recipe") == "script" and isinstance(parameters, dict):
        parameters = config["parameters"] = _at_home(parameters)
        script = _local(parameters.get("path"), folder)
        if script is not None:
            entry, files = uploads.script_files(script, parameters["path"])
            config["parameters"] = {**parameters, "path": entry}
            found += files
    data = config.get("data")
    if isinstance(data, dict):
        data = config["data"] = _at_home(data)
        source = _local(data.get("path"), folder)
        if source is not None:
            place, files = uploads.data_files(source, data["path"])
            config["data"] = {**data, "path": place}
            found += files
    uploads.check_limits(found)
    return Prepared(config, uploads.without_repeats(found))


def _local(value: object, folder: Path) -> Path | None:
    """Return where a relative path of the document lies; None for what is not one."""
    if not isinstance(value, str) or not value or "://" in value:
        return None
    path = Path(value)
    return None if path.is_absolute() else folder / path


def _at_home(section: dict[str, Any]) -> dict[str, Any]:
    """Return a section whose `path` means the reader's own home folder where it begins with `~`."""
    value = section.get("path")
    if not isinstance(value, str) or not value.startswith("~"):
        return section
    try:
        return {**section, "path": str(Path(value).expanduser())}
    except RuntimeError as error:  # no such user
        stop(f"{value}: {error}")


def _check_plain(path: Path, document: Any) -> None:
    """End the command at the first value that JSON cannot hold, or when there are too many or too deep."""
    waiting: list[tuple[str, Any, int]] = [("", document, 0)]
    for _ in range(MAX_VALUES):
        if not waiting:
            return
        place, value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise RecursionError
        if isinstance(value, dict | list):
            waiting += [
                (f"{place}.{key}".lstrip("."), item, depth + 1) for key, item in _items(path, place, value)
            ]
        elif isinstance(value, float) and value - value != 0:
            stop(f"{path}: {place} is {value}, which is not a finite number; write a string if it is meant")
        elif not (value is None or isinstance(value, str | int | float)):
            kind = type(value).__name__
            stop(f"{path}: {place} is a {kind}; use text, numbers, true, false, null, lists and mappings")
    stop(f"{path} holds more than {MAX_VALUES} values; put data in files and name them")


def _items(path: Path, place: str, value: dict[Any, Any] | list[Any]) -> Iterator[tuple[object, Any]]:
    if isinstance(value, list):
        yield from enumerate(value)
        return
    for key, item in value.items():
        if not isinstance(key, str):
            stop(f"{path}: the key {key!r} {f'in {place} ' if place else ''}is not text; put it in quotes")
        yield key, item


def _parse_yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        stop(f"{path}{place}: {error.problem or error.context}")
    except yaml.YAMLError as error:
        stop(f"{path}: {error}")


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _once(path, pairs))
    except json.JSONDecodeError as error:
        stop(f"{path}:{error.lineno}:{error.colno}: {error.msg}")


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            stop(f"{path}: the key {key!r} is written twice")
        found[key] = value
    return found


def _loader() -> Any:
    """Return YAML's safe loader, which also refuses a key that is written twice and leaves dates as text."""
    import yaml

    class Loader(yaml.SafeLoader):
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

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader
