"""The Compose files as Compose reads them: variables put in, overlays merged, anchors resolved. No Docker."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.house.house import ROOT

BASE = ROOT / "docker-compose.yml"
OVERLAYS = sorted((ROOT / "deploy").glob("compose.*.yml"))
EXAMPLE = ROOT / ".env.example"

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<how>:?[-?+])(?P<word>[^}]*))?\}|(?P<bare>\w+))"
)
_REPLACED = {"command", "entrypoint", "test", "tmpfs"}
"""What an overlay replaces where Compose would; other lists grow."""


class _Loader(yaml.SafeLoader):
    """YAML with Compose's own tags."""


class _Override(list[Any]):
    """A list that an overlay puts in the place of another."""


def _override(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.SequenceNode)
    return _Override(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("!override", _override)


def variables(text: str) -> set[str]:
    """Return the variables that a Compose file asks for."""
    return {found["name"] or found["bare"] for found in _VARIABLE.finditer(text) if not found["escaped"]}


def defaults(text: str) -> dict[str, set[str]]:
    """Return what a Compose file takes for each variable that is not set."""
    found: dict[str, set[str]] = {}
    for match in _VARIABLE.finditer(text):
        if match["name"] and match["how"] in ("-", ":-"):
            found.setdefault(match["name"], set()).add(match["word"])
    return found


def example() -> dict[str, str]:
    """Return the values of `.env.example`."""
    lines = (line.strip() for line in EXAMPLE.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def load(path: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """Return one Compose file with its variables put in; ports, durations and such stay as written."""
    found = yaml.load(path.read_text(), _Loader)
    return dict(_interpolated({k: v for k, v in found.items() if not k.startswith("x-")}, env))


def merged(paths: list[Path], env: Mapping[str, str]) -> dict[str, Any]:
    """Return Compose files merged in their order."""
    whole: dict[str, Any] = {}
    for path in paths:
        whole = _merge(whole, load(path, env))
    return whole


def _interpolated(value: Any, env: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(part, env) for key, part in value.items()}
    if isinstance(value, list):
        return type(value)(_interpolated(part, env) for part in value)
    return _VARIABLE.sub(lambda match: _value(match, env), value) if isinstance(value, str) else value


def _value(match: re.Match[str], env: Mapping[str, str]) -> str:
    if match["escaped"]:
        return "$"
    found = env.get(match["name"] or match["bare"])
    if not found and match["how"] in (":-", "-"):
        return match["word"]
    assert found is not None, f"{match.group()} is set nowhere and has no default"
    return found


def _merge(below: Any, above: Any, key: str = "") -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        result = copy.deepcopy(below)
        for name, value in above.items():
            result[name] = _merge(below[name], value, name) if name in below else copy.deepcopy(value)
        return result
    if isinstance(below, list) and isinstance(above, list) and key not in _REPLACED:
        return list(above) if isinstance(above, _Override) else [*below, *(p for p in above if p not in below)]
    return copy.deepcopy(above)
