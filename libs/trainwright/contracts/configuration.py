"""Configurations: task documents that are kept, version by version, to be looked at, compared and run again."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainwright.contracts.base import (
    Contract,
    Event,
    GivenObject,
    Guard,
    JsonObject,
    Name,
    Newer,
    Request,
    Sha256,
    Timestamp,
    Version,
    example,
)
from trainwright.contracts.errors import FieldError
from trainwright.contracts.task_config import Patch

_ID, _MORNING = "config-9a41c07d22e6", "2025-03-03T08:10:00.250000Z"
_HASH = "8b1a9953c4611296a827abf8c47804d7e6c49c6b97a5f2d1c2bb0a9a3f6d1e20"
_CONFIG = {"recipe": "forecast", "parameters": {"model": "tcn", "horizon": 8}}
_ENTRY = {
    "config_id": _ID,
    "version": 2,
    "name": "walmart-weekly",
    "recipe": "forecast",
    "format": "yaml",
    "content_hash": _HASH,
    "actor": "admin",
    "comment": "a longer horizon",
    "created_at": _MORNING,
    "updated_at": _MORNING,
}

ConfigId = Annotated[str, Field(description="The configuration: `config-` and 12 hex digits.")]
Text = Annotated[str, Field(max_length=256 * 1024, description="The document as it is written, comments and all.")]
Expected = Annotated[
    int, Field(ge=1, description="The version that is to be replaced; 409 when it is another one.")
]
Comment = Annotated[str, Field(max_length=1000, description="Why; kept with the version.")]


class DocumentFormat(StrEnum):
    """How a document is written."""

    YAML = "yaml"
    JSON = "json"


class ConfigurationEntry(Contract):
    """A configuration in short: a row of `GET /configs` and of `GET /configs/{id}/versions`."""

    model_config = example(**_ENTRY)

    config_id: ConfigId
    version: Version
    name: str = Field(description="For people; need not be unique.")
    recipe: str = Field(description="Key of its recipe.")
    format: DocumentFormat = Field(description="How it was written.")
    content_hash: Sha256 = Field(description="Of the document as canonical JSON.")
    actor: str = Field(description="Who made this version: the name of an API key.")
    comment: str = Field("", description="Why; for people.")
    restored_from: int | None = Field(None, description="The version that this one brought back.")
    created_at: Timestamp = Field(description="When its first version was made.")
    updated_at: Timestamp = Field(description="When this version was made.")
    deleted_at: Timestamp | None = Field(None, description="When it was deleted; its versions stay readable.")


class Configuration(ConfigurationEntry):
    """The task service's public document of one version; ``version`` grows by one with every change."""

    model_config = example(**_ENTRY, config=_CONFIG)
    config: JsonObject = Field(description="The task document, as it was written.")


class ConfigurationEvent(Event):
    """Any change of a configuration, with the whole document after it."""

    noun: ClassVar[str] = "config"
    configuration: Configuration

    @property
    def subject(self) -> str:
        return self.configuration.config_id

    @property
    def guard(self) -> Guard:
        return Newer(self.configuration.config_id, (0, self.configuration.version))

    @property
    def aggregate_version(self) -> int:
        return self.configuration.version


class ConfigurationCreated(ConfigurationEvent):
    """A configuration was stored."""


class ConfigurationUpdated(ConfigurationEvent):
    """A configuration got a new version, or an old one back."""


class ConfigurationDeleted(ConfigurationEvent):
    """A configuration was deleted: lists leave it out, its versions stay readable."""


class _Document(Request):
    config: GivenObject | None = Field(None, description="The task document; or send it as `text`.")
    text: Text | None = None
    format: Literal["yaml", "json"] = Field("yaml", description="How `text` is written.")

    @model_validator(mode="after")
    def _names_one_document(self) -> Self:
        if (self.config is None) == (self.text is None):
            raise ValueError("send the document once: either `config` or `text`")
        return self


class CreateConfiguration(_Document):
    """`POST /configs`: a document as an object, or as text in YAML or JSON."""

    model_config = example(config=_CONFIG, name="walmart-weekly", comment="first try")
    name: Name | None = Field(None, description="The document's own name, or its recipe, when left out.")
    comment: Comment = ""


class ReplaceConfiguration(_Document):
    """`PUT /configs/{id}`: the next version."""

    model_config = example(config=_CONFIG, comment="a longer horizon", expected_version=1)
    name: Name | None = Field(None, description="Stays as it is when left out.")
    comment: Comment = ""
    expected_version: Expected | None = None


class ChangeConfiguration(Request):
    """`PATCH /configs/{id}`: the next version by what is different in it; comments of the text stay."""

    model_config = example(changes={"parameters": {"horizon": 12}}, comment="a quarter", expected_version=1)
    changes: Patch = {}
    name: Name | None = None
    comment: Comment = ""
    expected_version: Expected | None = None


class RestoreConfiguration(Request):
    """`POST /configs/{id}/restore`: an old version becomes the newest; a deleted configuration is back."""

    model_config = example(version=1, comment="the shorter horizon was better")
    version: int = Field(ge=1, description="The version to bring back.")
    comment: Comment = ""
    expected_version: Expected | None = None


class ValidateConfiguration(_Document):
    """`POST /configs/validate`: a document that is not stored."""

    model_config = example(config=_CONFIG)


class Validation(Contract):
    """The answer to `POST /configs/validate`."""

    model_config = example(
        valid=False,
        errors=[{"path": "parameters.horizn", "message": "unknown parameter 'horizn'; did you mean 'horizon'?"}],
    )
    valid: bool
    errors: list[FieldError] = Field(default=[], description="Every field that is wrong.")
    config: JsonObject | None = Field(None, description="The document with all defaults, when it is valid.")


class ConfigurationPage(Contract):
    """`GET /configs`."""

    model_config = example(configs=[_ENTRY], total=1, next_cursor=None)
    configs: list[ConfigurationEntry] = Field(description="The newest change first.")
    total: int = Field(description="Configurations that fit the question, on all pages.")
    next_cursor: str | None = Field(None, description="`cursor` of the next page; null on the last.")


class ConfigurationVersions(Contract):
    """`GET /configs/{id}/versions`."""

    model_config = example(config_id=_ID, versions=[_ENTRY], total=2, next_cursor=None)
    config_id: ConfigId
    versions: list[ConfigurationEntry] = Field(description="The newest first.")
    total: int = Field(description="Versions on all pages.")
    next_cursor: str | None = Field(None, description="`cursor` of the next page; null on the last.")


class Difference(Contract):
    """One place where two documents differ."""

    path: str = Field(description="Dotted path, e.g. `parameters.horizon`; for people.")
    pointer: str = Field(description="The same as JSON Pointer (RFC 6901); for programs.")
    change: Literal["added", "removed", "changed"]
    old: Any = Field(None, description="The value in the first; null when there is none.")
    new: Any = Field(None, description="The value in the second; null when there is none.")


class ConfigurationDiff(Contract):
    """`GET /configs/{id}/diff`."""

    model_config = example(
        config_id=_ID,
        from_version=1,
        to_version=2,
        changes=[
            {
                "path": "parameters.horizon",
                "pointer": "/parameters/horizon",
                "change": "changed",
                "old": 8,
                "new": 12,
            }
        ],
    )
    config_id: ConfigId
    from_version: int = Field(description="The first version.")
    to_version: int = Field(description="The second version.")
    changes: list[Difference] = Field(description="By path; empty when the documents are equal.")


class TemplateEntry(Contract):
    """A template or preset in short."""

    name: str = Field(description="A recipe's name, or `recipe/preset`.")
    recipe: str = Field(description="Key of the recipe.")
    summary: str = Field(description="What it is for.")


class Template(TemplateEntry):
    """`GET /configs/templates/{name}`."""

    model_config = example(
        name="forecast", recipe="forecast", summary="Forecast sales.", text="recipe: forecast\n", config=_CONFIG
    )
    text: str = Field(description="A commented document in YAML.")
    config: JsonObject = Field(description="The same document, read.")


class TemplateList(Contract):
    """`GET /configs/templates`."""

    model_config = example(
        templates=[{"name": "forecast", "recipe": "forecast", "summary": "Forecast sales by product and store."}]
    )
    templates: list[TemplateEntry] = Field(description="By name.")
