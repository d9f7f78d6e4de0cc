"""Find recipes, and check what a task gives them. No torch, no pandas, no reading of data."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from trainwright.contracts.base import nearest
from trainwright.recipes.table import RECIPES, Entry, Recipe, RecipeConfig

GROUP = "trainwright.recipes"

Problem = tuple[str, str]
"""A path such as `parameters.horizon`, and what is wrong there."""


class UnknownRecipe(LookupError):
    """No recipe has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"unknown recipe {name!r}{nearest(name, names)} (there are: {', '.join(names)})")


@lru_cache(maxsize=1)
def entries() -> Mapping[str, Entry]:
    """Return every recipe by name; those that come with Trainwright win over installed ones."""
    installed = {point.name: point.load() for point in entry_points(group=GROUP)}
    return MappingProxyType({**installed, **RECIPES})


def find(name: str) -> Entry:
    """Return a recipe's entry.

    Raises:
        UnknownRecipe: There is none; the message names the nearest.
    """
    known = entries()
    if name not in known:
        raise UnknownRecipe(name, known)
    return known[name]


def get(name: str) -> type[Recipe]:
    """Import and return the class that trains a recipe.

    Raises:
        UnknownRecipe: There is none of this name.
    """
    return find(name).load()


def config_model(name: str) -> type[RecipeConfig]:
    """Return the model of a recipe's parameters; its JSON Schema draws forms.

    Raises:
        UnknownRecipe: There is none of this name.
    """
    return find(name).config_model()


def check(
    recipe: str, parameters: Mapping[str, Any], data: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[Problem]]:
    """Return a task's parameters with all defaults filled in, and every problem with them or the data section.

    When there is a problem the parameters come back as they were given.
    """
    given = dict(parameters)
    try:
        entry = find(recipe)
    except UnknownRecipe as error:
        return given, [("recipe", str(error))]
    resolved, problems = _validated(entry.config_model(), given, "parameters")
    problems += _data_problems(entry, data)
    if resolved is not None and data is not None and not problems:
        problems += _joint_problems(resolved, data)
    if resolved is None or problems:
        return given, problems
    return resolved.model_dump(mode="json"), []


def _data_problems(entry: Entry, data: Mapping[str, Any] | None) -> list[Problem]:
    model = entry.data_model()
    if data is None:
        wanted = ", ".join(model.model_fields) if model else "path"
        return [("data", f"the recipe {entry.name!r} needs a data section ({wanted})")] if entry.needs_data else []
    return _validated(model, dict(data), "data")[1] if model else []


def _joint_problems(resolved: BaseModel, data: Mapping[str, Any]) -> list[Problem]:
    """Ask a configuration that has an opinion on the data section (a method `problems_with`)."""
    ask = getattr(resolved, "problems_with", None)
    return list(ask(data)) if ask else []


def _validated(
    model: type[BaseModel], given: dict[str, Any], section: str
) -> tuple[BaseModel | None, list[Problem]]:
    try:
        return model.model_validate(given), []
    except ValidationError as error:
        return None, [_problem(detail, model, section) for detail in error.errors(include_url=False)]


def _problem(detail: Any, model: type[BaseModel], section: str) -> Problem:
    location = [str(part) for part in detail["loc"]]
    path = ".".join((section, *location))
    if detail["type"] == "extra_forbidden" and len(location) == 1:
        known = ", ".join(model.model_fields)
        hint = nearest(location[0], model.model_fields) or f" (there are: {known})"
        return path, f"unknown {'parameter' if section == 'parameters' else 'key'} {location[0]!r}{hint}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return path, "this is required"
    value = detail.get("input")
    if detail["type"] == "literal_error" and isinstance(value, str):
        expected = re.findall(r"'([^']+)'", detail["ctx"]["expected"])
        return path, f"{message} (got {value[:80]!r}){nearest(value, expected)}"
    if isinstance(value, str | int | float | bool):
        return path, f"{message} (got {str(value)[:80]!r})"
    return path, message
