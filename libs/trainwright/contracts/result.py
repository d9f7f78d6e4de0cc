"""Results: model versions and reports."""

from typing import ClassVar

from pydantic import Field

from trainwright.contracts.attempt import BundleFile
from trainwright.contracts.base import (
    AttemptNumber,
    Contract,
    Event,
    Guard,
    JsonObject,
    Newer,
    Sha256,
    TaskId,
    Timestamp,
    example,
)

_MODEL = {
    "model_id": "store/S001_all/tcn/v4",
    "identity": "store/S001_all/tcn",
    "number": 4,
    "version": 2,
    "task_id": "task-3f9c1a7be042",
    "attempt": 1,
    "task_name": "walmart-weekly",
    "recipe": "forecast",
    "description": "TCN, 8 weeks ahead",
    "bundle": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    "metrics": {"mase": 0.844, "wape": 0.073},
    "created_at": "2025-03-03T08:21:40.750000Z",
}


class ModelVersion(Contract):
    """A model version; ``model_id`` is `{identity}/v{number}`."""

    model_config = example(**_MODEL)

    model_id: str = Field(description="`{identity}/v{number}`; it may hold more slashes.")
    identity: str = Field(description="What the versions count for, e.g. `store/S001_all/tcn`.")
    number: int = Field(ge=1, description="Counts the versions of this identity, from 1.")
    version: int = Field(1, description="Version of this document; grows with every change.")
    task_id: TaskId
    attempt: AttemptNumber
    task_name: str = Field(description="Name of the task.")
    recipe: str = Field(description="Key of the recipe that made it.")
    description: str = Field("", description="What it is; for people.")
    bundle: Sha256
    files: dict[str, BundleFile] = Field(default={}, description="Files by name.")
    metrics: JsonObject = Field(default={}, description="What the run says of its quality.")
    report: Sha256 | None = Field(None, description="The HTML report, once rendered.")
    created_at: Timestamp = Field(description="When it was registered.")


class ResultEvent(Event):
    """Any change of a model version, with the whole document after it."""

    noun: ClassVar[str] = "result"
    model: ModelVersion

    @property
    def subject(self) -> str:
        return self.model.task_id

    @property
    def guard(self) -> Guard:
        return Newer(self.model.model_id, (0, self.model.version))

    @property
    def aggregate_version(self) -> int:
        return self.model.version

    @property
    def attempt_number(self) -> int:
        return self.model.attempt


class ModelVersionRegistered(ResultEvent):
    """A completed task left a model version."""


class ReportGenerated(ResultEvent):
    """A model version's report can be read."""


class Pagination(Contract):
    """Where a page stands."""

    total: int = Field(description="Items on all pages.")
    page: int = Field(description="This page, from 1.")
    page_size: int = Field(description="Items on a full page.")
    total_pages: int = Field(description="Pages that there are.")


class ModelPage(Contract):
    """`GET /models`."""

    model_config = example(
        models=[_MODEL],
        pagination={"total": 1, "page": 1, "page_size": 20, "total_pages": 1},
    )
    models: list[ModelVersion]
    pagination: Pagination
