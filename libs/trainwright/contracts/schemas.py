"""The contracts as documents: JSON Schemas, and what AsyncAPI says of them.

``python -m trainwright.contracts.schemas [FOLDER]`` writes ``schemas/*.json`` and ``asyncapi.json`` into the
folder (``docs/contracts``), and refuses to write over a schema that a reader in the field could not follow.
Not here: golden examples (made by hand), OpenAPI (``services.openapi``).
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trainwright.contracts.asyncapi import asyncapi, open_ended
from trainwright.contracts.attempt import BundleManifest
from trainwright.contracts.checkpoint import CheckpointList
from trainwright.contracts.compatibility import Schema, breaks, channel_breaks
from trainwright.contracts.configuration import (
    ChangeConfiguration,
    Configuration,
    ConfigurationDiff,
    ConfigurationPage,
    ConfigurationVersions,
    CreateConfiguration,
    ReplaceConfiguration,
    RestoreConfiguration,
    Template,
    TemplateList,
    ValidateConfiguration,
    Validation,
)
from trainwright.contracts.dead import DeadLetterList
from trainwright.contracts.errors import Problem
from trainwright.contracts.log import LogPage
from trainwright.contracts.metric import MetricOverview, MetricSeries
from trainwright.contracts.parameters import ParameterLog, ParametersAnswer
from trainwright.contracts.result import ModelPage
from trainwright.contracts.task import (
    AttemptList,
    History,
    StoredFile,
    TaskCreatedAnswer,
    TaskPage,
    TaskView,
    TransitionAnswer,
)
from trainwright.contracts.task_config import (
    ChangeTask,
    CreateTask,
    RerunTask,
    SetParameters,
    SetResources,
    TaskConfig,
)
from trainwright.contracts.topics import EVENT_TYPES
from trainwright.contracts.webhook import (
    ChangeWebhook,
    CreateWebhook,
    Delivery,
    DeliveryPage,
    ReplayWebhook,
    RotateSecret,
    WebhookList,
    WebhookSecret,
    WebhookView,
)
from trainwright.contracts.worker import WorkerList

API_MODELS: tuple[type[BaseModel], ...] = (
    AttemptList,
    BundleManifest,
    ChangeConfiguration,
    ChangeTask,
    ChangeWebhook,
    CheckpointList,
    Configuration,
    ConfigurationDiff,
    ConfigurationPage,
    ConfigurationVersions,
    CreateConfiguration,
    CreateTask,
    CreateWebhook,
    DeadLetterList,
    Delivery,
    DeliveryPage,
    History,
    LogPage,
    MetricOverview,
    MetricSeries,
    ModelPage,
    ParameterLog,
    ParametersAnswer,
    Problem,
    ReplaceConfiguration,
    ReplayWebhook,
    RerunTask,
    RestoreConfiguration,
    RotateSecret,
    SetParameters,
    SetResources,
    StoredFile,
    TaskConfig,
    TaskCreatedAnswer,
    TaskPage,
    TaskView,
    Template,
    TemplateList,
    TransitionAnswer,
    ValidateConfiguration,
    Validation,
    WebhookList,
    WebhookSecret,
    WebhookView,
    WorkerList,
)
"""What the API takes and gives, besides the documents inside events."""


def schemas() -> dict[str, Schema]:
    """Return the JSON Schema (2020-12) of every event by type, and of every API model by name."""
    named: dict[str, type[BaseModel]] = {**EVENT_TYPES, **{model.__name__: model for model in API_MODELS}}
    return {name: _schema(name, model) for name, model in sorted(named.items())}


def _schema(name: str, model: type[BaseModel]) -> Schema:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:trainwright:schema:{name}"}
    schema = model.model_json_schema()
    return head | (open_ended(schema) if name in EVENT_TYPES else schema)


def documents(folder: Path) -> dict[Path, Mapping[str, Any]]:
    """Return every generated document by its path; ``folder`` holds the golden examples."""
    goldens = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "golden").glob("*.json"))}
    written: dict[Path, Mapping[str, Any]] = {
        folder / "schemas" / f"{name}.json": schema for name, schema in schemas().items()
    }
    written[folder / "asyncapi.json"] = asyncapi(goldens)
    return written


def text(document: Mapping[str, Any]) -> str:
    """Return a document as it is written to its file."""
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def refusals(folder: Path) -> list[str]:
    """Return what writing would break for readers of what is in the folder now."""
    now = schemas()
    found = []
    if (written := folder / "asyncapi.json").exists():
        found += channel_breaks(json.loads(written.read_text()), asyncapi({}))
    for path in sorted((folder / "schemas").glob("*.json")):
        if path.stem not in now:
            found.append(f"{path.stem}: the contract is gone")
        else:
            found += [f"{path.stem}: {what}" for what in breaks(json.loads(path.read_text()), now[path.stem])]
    return found


def main(arguments: list[str]) -> int:
    """Write the documents, or say why not; return the exit status."""
    folder = Path(arguments[0] if arguments else "docs/contracts")
    if broken := refusals(folder):
        sys.stderr.write("not written; readers in the field could not follow:\n")
        sys.stderr.writelines(f"  {what}\n" for what in broken)
        sys.stderr.write("make it an addition, or a new class on a topic of the next major version\n")
        return 1
    for path, document in documents(folder).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
