"""From what a person submits to the resolved document: overrides applied, recipe asked, files found."""

import asyncio
from pathlib import Path, PurePosixPath
from typing import Any

from services.task.settings import TaskSettings
from trainwright import recipes
from trainwright.contracts.errors import FieldError, InvalidInput, TooLarge
from trainwright.contracts.task import CreateTask, FileRef, TaskConfig
from trainwright.storage.blob import BlobStore

OVERRIDES = ("name", "priority", "resource_requirements", "strategy", "labels", "max_retries")


async def resolve(request: CreateTask, *, blobs: BlobStore, settings: TaskSettings) -> TaskConfig:
    """Return the document that will run: the body wins over the document, defaults are filled in.

    Raises:
        InvalidInput: A field is wrong, or a file is not there; every one is named.
        TooLarge: The document is over its limit.
    """
    wishes = {name: value for name in OVERRIDES if (value := getattr(request, name)) is not None}
    config = request.config.model_copy(update=wishes)
    parameters, wrong = recipes.check(config.recipe, config.parameters, config.data)
    problems = [FieldError(path=f"config.{path}", message=message) for path, message in wrong]
    config = config.model_copy(update={"parameters": parameters, "name": config.name or config.recipe})
    problems += _named_twice(config.files)
    problems += await _missing(config.files, blobs)
    if not problems:
        config, problems = await _with_script(config, blobs, settings)
    if not problems:
        problems += _unknown_path(config, "data", config.data)
    if problems:
        summary = "; ".join(f"{problem.path}: {problem.message}" for problem in problems[:3])
        raise InvalidInput(summary, problems)
    size = len(config.model_dump_json())
    if size > settings.config_limit:
        raise TooLarge(f"the document has {size} bytes; {settings.config_limit} are allowed: put data in files")
    return config


def _named_twice(files: list[FileRef]) -> list[FieldError]:
    first = {file.path: number for number, file in reversed(list(enumerate(files)))}
    return [
        FieldError(path=f"config.files.{number}.path", message=f"{file.path!r} is named twice")
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
