"""Documents to begin with: for every recipe one made of its schema, commented, and one for each of its presets.

Pure but for finding recipes. Not here: where they are served, what a task document means.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trainwright.contracts.base import nearest
from trainwright.contracts.task_config import TaskConfig
from trainwright.documents.reading import read, written
from trainwright.recipes.check import entries
from trainwright.recipes.table import Entry

WIDTH = 100
SECTIONS = ("resource_requirements", "priority", "labels", "max_retries", "timeout")
"""What of a task's own fields a template shows beside the recipe's sections."""
EXAMPLES: dict[str, Any] = {
    "path": "data/sales.csv",
    "time": "date",
    "target": "sales",
    "product": "product",
    "store": "store",
}
"""Values of a data section's fields that have no default."""
_SIGNS: dict[type[BaseMetadata], tuple[str, str]] = {
    Ge: ("ge", "at least"),
    Gt: ("gt", "above"),
    Le: ("le", "at most"),
    Lt: ("lt", "below"),
}


@dataclass(frozen=True, slots=True)
class Template:
    """A document to begin with."""

    name: str
    recipe: str
    summary: str
    text: str
    config: dict[str, Any]


@lru_cache(maxsize=1)
def templates() -> tuple[Template, ...]:
    """Return every template and preset, by name."""
    return tuple(_made(entry, name) for entry, name in _known().values())


def template(name: str) -> Template:
    """Return one template or preset.

    Raises:
        LookupError: There is none of this name; the message names the nearest.
    """
    known = {one.name: one for one in templates()}
    if name not in known:
        raise LookupError(
            f"there is no template {name[:80]!r}{nearest(name, known)} (there are: {', '.join(known)})"
        )
    return known[name]


def _known() -> dict[str, tuple[Entry, str]]:
    found = {}
    for entry in sorted(entries().values(), key=lambda one: one.name):
        found[entry.name] = (entry, "")
        found |= {f"{entry.name}/{preset}": (entry, preset) for preset in sorted(entry.presets)}
    return found


def _made(entry: Entry, preset: str) -> Template:
    chosen = entry.presets[preset] if preset else None
    summary = chosen.summary if chosen else entry.summary
    name = f"{entry.name}/{preset}" if preset else entry.name
    text = _text(entry, name, summary, chosen.config if chosen else {})
    return Template(name, entry.name, summary, text, read(text, "yaml"))


def _text(entry: Entry, name: str, summary: str, over: Mapping[str, Any]) -> str:
    """Return a commented document: what a preset sets, what is required, and all else with its default."""
    lines = [*_comment(summary), f"name: {name.replace('/', '-')}", f"recipe: {entry.name}", "", "parameters:"]
    lines += _section(entry.config_model(), over.get("parameters") or {})
    data = entry.data_model()
    if data is not None:
        lines += ["", "data:", *_section(data, over.get("data") or {})]
    lines.append("")
    shown = {**dict.fromkeys(SECTIONS), **over}
    for section in shown:
        if section in ("parameters", "data"):
            continue
        field = TaskConfig.model_fields[section]
        lines += _comment(field.description or "")
        value = over.get(section)
        if value is None:
            lines += _commented_out(section, _default_of(field))
        else:
            lines += written({section: value}, "yaml").splitlines()
    return "\n".join(lines) + "\n"


def _section(model: type[BaseModel], over: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, field in model.model_fields.items():
        lines += _comment(_said(field), "  ")
        if name in over:
            lines += _line(name, over[name])
        elif field.is_required():
            lines += _line(name, "train.py" if model.__name__ == "ScriptConfig" else EXAMPLES.get(name, "…"))
        elif (default := _default_of(field)) is None:
            lines.append(f"  # {name}:")
        else:
            lines += _line(name, default)
    for name in over:
        if name not in model.model_fields:
            lines += _line(name, over[name])
    return lines


def _line(name: str, value: Any) -> list[str]:
    return [f"  {line}" for line in written({name: value}, "yaml").splitlines()]


def _said(field: FieldInfo) -> str:
    """Return a field's description with its choices and limits."""
    parts = [field.description or ""]
    choices = _choices(field.annotation)
    if choices and not all(f"`{one}`" in parts[0] for one in choices):
        parts.append(f"One of {', '.join(map(str, choices))}.")
    limits = [
        f"{words} {_number(getattr(one, attribute))}"
        for one in field.metadata
        for kind, (attribute, words) in _SIGNS.items()
        if isinstance(one, kind) and isinstance(getattr(one, attribute), int | float)
    ]
    if limits:
        parts.append(f"{', '.join(limits)}.")
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    if extra.get("hot"):
        parts.append("May be changed while it trains.")
    return " ".join(part[:1].upper() + part[1:] for part in parts if part)


def _number(value: float) -> str:
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:g}"


def _choices(annotation: Any) -> list[Any]:
    """Return the values of a Literal, also of an optional one."""
    arguments = getattr(annotation, "__args__", ())
    if str(getattr(annotation, "__origin__", "")) == "typing.Literal":
        return list(arguments)
    return [one for argument in arguments for one in _choices(argument)]


def _default_of(field: FieldInfo) -> Any:
    if field.default_factory is not None or field.default is PydanticUndefined:
        return None
    default = field.default
    if isinstance(default, BaseModel):
        return default.model_dump(mode="json")
    return default


def _commented_out(name: str, value: Any) -> list[str]:
    if value is None:
        return [f"# {name}:"]
    return [f"# {line}" for line in written({name: value}, "yaml").splitlines()]


def _comment(text: str, indent: str = "") -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, WIDTH - len(indent) - 2)]
