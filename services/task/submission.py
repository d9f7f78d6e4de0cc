"""From what a person submits to the resolved document: overrides applied, recipe asked, files found."""

import asyncio
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from services.task.repair import NEVER_AGAIN
from services.task.settings import TaskSettings
from trainwright import recipes
from trainwright.contracts.base import nearest
from trainwright.contracts.errors import FieldError, InvalidInput, TooLarge
from trainwright.contracts.task_config import FileRef, Over, RepairRole, TaskConfig
from trainwright.runtime.http import field_error
from trainwright.storage.blob import BlobStore

OVERRIDES = ("name", "priority", "resource_requirements", "strategy", "labels", "max_retries", "timeout")


async def resolve(config: TaskConfig, over: Over, *, blobs: BlobStore, settings: TaskSettings) -> TaskConfig:
    """Return the document that will run: the body wins over the document, defaults are filled in.

    Raises:
        InvalidInput: A field is wrong, or a file is not there; every one is named.
        TooLarge: The document is over its limit.
    """
    wishes = {name: value for name in OVERRIDES if (value := getattr(over, name)) is not None}
    config, problems = checked(config.model_copy(update=wishes), "config.")
    problems += await _missing(config.files, blobs)
    if not problems:
        config, problems = await _with_script(config, blobs, settings)
    if not problems:
        problems += _unknown_path(config, "data", config.data)
    refuse(problems)
    size = len(config.model_dump_json())
    if size > settings.config_limit:
        raise TooLarge(f"the document has {size} bytes; {settings.config_limit} are allowed: put data in files")
    return config


def refuse(problems: list[FieldError]) -> None:
    """Do nothing when there are no problems.

    Raises:
        InvalidInput: There are; every one is named.
    """
    if problems:
        summary = "; ".join(f"{problem.path}: {problem.message}" for problem in problems[:3])
        raise InvalidInput(summary, problems)


def parsed(document: dict[str, Any], prefix: str = "") -> TaskConfig:
    """Return a document that was kept or merged as what it is.

    Raises:
        InvalidInput: A field is wrong; every one is named, those of the recipe's parameters too.
    """
    config, problems = read_config(document, prefix)
    refuse(problems)
    assert config is not None  # without problems it could be read
    return config


def read_config(document: dict[str, Any], prefix: str = "") -> tuple[TaskConfig | None, list[FieldError]]:
    """Return what a document says with all defaults, and every problem with it, its files aside."""
    try:
        return checked(TaskConfig.model_validate(document), prefix)
    except ValidationError as error:
        problems = [field_error(detail) for detail in error.errors(include_url=False)]
    problems = [FieldError(path=f"{prefix}{one.path}", message=one.message) for one in problems]
    recipe, parameters, data = (document.get(name) for name in ("recipe", "parameters", "data"))
    usable = isinstance(parameters, dict | None) and isinstance(data, dict | None)
    if isinstance(recipe, str) and usable:  # so that all that is wrong is told at once
        _, wrong = recipes.check(recipe, parameters or {}, data)
        told = {one.path for one in problems}
        problems += [
            FieldError(path=f"{prefix}{path}", message=message)
            for path, message in wrong
            if f"{prefix}{path}" not in told
        ]
    return None, problems


def checked(config: TaskConfig, prefix: str) -> tuple[TaskConfig, list[FieldError]]:
    """Return a document with its recipe's defaults and declarations, and what is wrong with it."""
    parameters, wrong = recipes.check(config.recipe, config.parameters, config.data)
    problems = [FieldError(path=f"{prefix}{path}", message=message) for path, message in wrong]
    config = config.model_copy(update={"parameters": parameters, "name": config.name or config.recipe})
    if config.timeout is not None and config.timeout <= 0:
        # No bound of the model: events and stores hold documents of before, and who reads them must not stumble.
        message = f"Input should be greater than 0 (got '{config.timeout:g}'); leave it out for no limit"
        problems.append(FieldError(path=f"{prefix}timeout", message=message))
    for declared in (_with_repairs, _with_hot):
        config, unfit = declared(config)
        problems += [FieldError(path=f"{prefix}{one.path}", message=one.message) for one in unfit]
    return config, problems + [
        FieldError(path=f"{prefix}{one.path}", message=one.message) for one in _named_twice(config.files)
    ]


def _with_repairs(config: TaskConfig) -> tuple[TaskConfig, list[FieldError]]:
    """Write into a document what its recipe lets a repair change; refuse what no repair could follow."""
    problems = []
    for kind, why in NEVER_AGAIN.items():
        wish = config.retry.get(kind)
        if wish is not None and wish.max != 0:
            problems.append(FieldError(path=f"retry.{kind}", message=f"{kind} is never tried again: {why}"))
        if config.retry_on is not None and kind in config.retry_on:
            path = f"retry_on.{config.retry_on.index(kind)}"
            problems.append(FieldError(path=path, message=f"{kind} is never tried again: {why}"))
    if config.recipe not in recipes.entries():
        return config, problems  # said already
    entry = recipes.find(config.recipe)
    for role, name in config.repairable.items():
        message = _cannot_repair(config, entry, role, name)
        if message is not None:
            problems.append(FieldError(path=f"repairable.{role}", message=message))
    return config.model_copy(update={"repairable": {**entry.repairable, **config.repairable}}), problems


def _with_hot(config: TaskConfig) -> tuple[TaskConfig, list[FieldError]]:
    """Write into a document what its recipe lets change while a run trains; a script's is what it declares."""
    if config.recipe not in recipes.entries():
        return config, []  # said already
    entry = recipes.find(config.recipe)
    hot, problems = entry.hot(), []
    for name, rule in config.hot.items():
        if entry.recipe is not None and name not in hot:
            allowed = ", ".join(hot) or "none"
            message = f"the recipe {entry.name!r} says itself what may change while it trains ({allowed})"
        elif name not in config.parameters or (entry.recipe is None and name in ("path", "args")):
            message = (
                f"the document has no parameter {name!r} of the script's own{nearest(name, config.parameters)}"
            )
        elif rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
            message = f"minimum ({rule.minimum:g}) is above maximum ({rule.maximum:g})"
        else:
            continue
        problems.append(FieldError(path=f"hot.{name}", message=message))
    return config.model_copy(update={"hot": {**hot, **config.hot}}), problems


def _cannot_repair(config: TaskConfig, entry: recipes.Entry, role: RepairRole, name: str) -> str | None:
    """Return why a repair may not change this parameter in this role, or None."""
    if entry.recipe is not None and entry.repairable.get(role) != name:
        allowed = ", ".join(f"{one}: {parameter}" for one, parameter in entry.repairable.items()) or "none"
        return f"the recipe {entry.name!r} says itself what a repair may change ({allowed}); leave it out"
    if name not in config.parameters:
        return f"the document has no parameter {name!r}{nearest(name, config.parameters)}"
    others = [one for one, parameter in config.repairable.items() if parameter == name and one is not role]
    return f"{name!r} is named as {others[0]} too; every role needs a parameter of its own" if others else None


def _named_twice(files: list[FileRef]) -> list[FieldError]:
    first = {file.path: number for number, file in reversed(list(enumerate(files)))}
    return [
        FieldError(path=f"files.{number}.path", message=f"{file.path!r} is named twice")
        for number, file in enumerate(files)
        if first[file.path] != number
    ]


async def _missing(files: list[FileRef], blobs: BlobStore) -> list[FieldError]:
    problems = []
    for number, file in enumerate(files):
        size = await blobs.size(file.sha256)
        if size is None:
            message = "this content was not uploaded; send it with POST /api/v1/training/files first"
            problems.append(FieldError(path=f"config.files.{number}.sha256", message=message))
        elif size != file.size:
            message = f"the uploaded content has {size} bytes (got {file.size})"
            problems.append(FieldError(path=f"config.files.{number}.size", message=message))
    return problems


async def _with_script(
    config: TaskConfig, blobs: BlobStore, settings: TaskSettings
) -> tuple[TaskConfig, list[FieldError]]:
    """Take a script that is named by an absolute path as it is now, so that a later edit changes nothing."""
    if config.recipe != "script":
        return config, []
    named = str(config.parameters["path"])
    if not Path(named).is_absolute():
        return config, _unknown_path(config, "parameters", config.parameters)
    where = "config.parameters.path"
    if not settings.local_paths:
        message = "absolute paths are switched off here; upload the file with POST /api/v1/training/files"
        return config, [FieldError(path=where, message=message)]
    try:
        content = await asyncio.to_thread(_read_limited, Path(named), settings.script_limit)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return config, [FieldError(path=where, message=f"{named!r} cannot be read on the server: {reason}")]
    blob = await blobs.write_bytes(content)
    name = Path(named).name
    files = [file for file in config.files if file.path != name]
    files.append(FileRef(path=name, sha256=blob.sha256, size=blob.size))
    return config.model_copy(update={"files": files, "parameters": {**config.parameters, "path": name}}), []


def _unknown_path(config: TaskConfig, section: str, named: dict[str, Any] | None) -> list[FieldError]:
    path = None if named is None else named.get("path")
    if not isinstance(path, str) or Path(path).is_absolute() or "://" in path:
        return []
    if str(PurePosixPath(path)) in {str(PurePosixPath(file.path)) for file in config.files}:
        return []
    message = f"{path!r} is not among the task's files: upload it and name it in `files`, or give an absolute path"
    return [FieldError(path=f"config.{section}.path", message=message)]


def _read_limited(path: Path, limit: int) -> bytes:
    if path.is_dir():
        raise ValueError("it is a folder; name the script's file, or submit the folder with the CLI")
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")  # opening a pipe would wait for ever
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return content
