"""Task documents: read from YAML or JSON with errors that name line and column, and made ready to be sent.

Relative paths mean the document's own folder; what they name is uploaded by content hash (uploads.py) and the
document then names the file's place in the run's folder. Absolute paths and addresses (`s3://…`) stay.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.cli.console import stop
from trainwright.documents.reading import NotADocument, read

if TYPE_CHECKING:
    from trainwright.cli.uploads import Upload


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document ready to be sent, and the files that must be uploaded with it."""

    config: dict[str, Any]
    uploads: "list[Upload]"


def read_document(path: Path) -> dict[str, Any]:
    """Return the task document in `path`, or end the command saying where it is wrong."""
    text, format = read_text(path)
    try:
        return read(text.removeprefix("\ufeff"), format)
    except NotADocument as error:
        place = f":{error.line}:{error.column}" if error.line else ""
        stop(f"{path}{place}: {error.reason}")


def read_text(path: Path) -> tuple[str, str]:
    """Return a document's text as it is, and its format, or end the command saying why it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8"), "json" if path.suffix == ".json" else "yaml"
    except FileNotFoundError:
        stop(f"{path} does not exist")
    except IsADirectoryError:
        stop(f"{path} is a folder; name the task document in it")
    except (OSError, UnicodeDecodeError) as error:
        stop(f"{path} cannot be read: {error}")


def prepare(document: dict[str, Any], folder: Path) -> Prepared:
    """Return the document with the files that it names by relative path set aside for upload."""
    from trainwright.cli import uploads

    config = dict(document)
    found: list[Upload] = []
    code = _code_folder(config.pop("code", None), folder)
    if code is not None:
        found += uploads.folder_files(code)
    parameters = config.get("parameters")
    if config.get("recipe") == "script" and isinstance(parameters, dict):
        parameters = config["parameters"] = _at_home(parameters)
        script = _local(parameters.get("path"), folder)
        if script is not None and code is not None:
            config["parameters"] = {**parameters, "path": uploads.place_in(code, script, parameters["path"])}
        elif script is not None:
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


def _code_folder(section: object, folder: Path) -> Path | None:
    """Return the folder that a document's `code: {path: .}` takes along; the platform knows no such section."""
    if section is None:
        return None
    named = section.get("path") if isinstance(section, dict) and set(section) == {"path"} else section
    if not isinstance(named, str) or not named:
        stop("code names one folder: `code: {path: .}`")
    found = folder / Path(named).expanduser()
    if not found.is_dir():
        stop(f"code.path: {named} is not a folder (looked for {found})")
    return found


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
