"""The document that people submit: what to train, on what, and what to do when it fails."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from trainwright.contracts.base import LARGEST, GivenObject, Name, Request, Sha256, example, known_only
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.resource import MOST_WORKERS, Bytes, ResourceRequirements

Labels = Annotated[
    dict[Name, Annotated[str, Field(max_length=200)]],
    Field(max_length=64, description="Names and values to find tasks by."),
]


def _inside(path: str) -> str:
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in path or any(ord(character) < 32 for character in path):
        raise ValueError(f"{path[:80]!r} is not a relative path inside the run's folder, such as 'data/sales.csv'")
    return path


RelativePath = Annotated[
    str,
    Field(min_length=1, max_length=500, description="Relative path inside the run's folder, `/` between parts."),
    AfterValidator(_inside),
]


class FileRef(Request):
    """A file of a task: where it lies in the run's folder, and the content uploaded to ``/files``."""

    path: RelativePath
    sha256: Sha256
    size: int = Field(ge=0, le=LARGEST, description="Bytes.")


def _seconds(value: Any) -> Any:
    """Read `90`, `'90s'`, `'15m'`, `'2h'` or `'1d'` as seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    if not isinstance(value, str):
        return value
    number, unit = (value[:-1], units[value[-1]]) if value[-1:] in units else (value, 1)
    try:
        return float(number) * unit
    except ValueError:
        raise ValueError(f"{value[:80]!r} is not a time: write seconds, or 90s, 15m, 2h, 1d") from None


LONGEST = 3650 * 86_400
"""Ten years in seconds: a moment that is so far off can still be computed, and be read as a date."""

Seconds = Annotated[float, Field(ge=0, le=LONGEST, allow_inf_nan=False), BeforeValidator(_seconds)]
SomeTime = Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False), BeforeValidator(_seconds)]


class RetryRule(Request):
    """How often and how soon a task is tried again after one class of failure."""

    max: Annotated[int, Field(ge=0, le=100)] | None = Field(None, description="Tries; the class's own without.")
    delay: Seconds | None = Field(None, description="Pause before the next try, such as `30s`.")


class Watch(Request):
    """What a worker watches a run for."""

    loss: Name | None = Field("loss", description="The metric that must stay a number; null watches none.")
    divergence: bool = Field(True, description="End a run whose loss is no number any more, or explodes.")
    hang: bool = Field(True, description="End a run that takes no step for much longer than its steps take.")
    hang_after: Seconds = Field(60.0, description="A run is never taken for hung before this time without a step.")
    idle_after: Seconds | None = Field(
        None,
        description="A run whose GPUs (of one without any: whose processes) do nothing for so long saves, is"
        " paused, and its place is free for others; where it is left out, what its worker was told holds.",
    )


class RepairRole(StrEnum):
    """What a repair may change, whatever the parameter is called."""

    BATCH = "batch"
    MICRO_BATCH = "micro_batch"
    ACCUMULATE = "accumulate"
    LEARNING_RATE = "learning_rate"


class HotRule(Request):
    """What a parameter may become while a run trains."""

    minimum: float | None = Field(None, allow_inf_nan=False, description="Least value.")
    maximum: float | None = Field(None, allow_inf_nan=False, description="Greatest value.")
    important: bool = Field(False, description="A change needs a second confirmation.")


def _rules(value: Any) -> Any:
    """Read a list of names as names without limits."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    return value


class TaskConfig(Request):
    """A task document, as people write it in YAML or JSON."""

    model_config = example(
        name="walmart-weekly",
        recipe="forecast",
        parameters={"model": "tcn", "mode": "store", "horizon": 8, "max_steps": 300, "seed": 1},
        data={"path": "examples/data/walmart_sales_weekly.csv", "time": "Date", "target": "Weekly_Sales"},
        resource_requirements={"gpu": 0, "cpu": 1, "memory": 2 * 2**30},
    )
    name: Name | None = Field(None, description="A name for people; the recipe's name when left out.")
    recipe: Name = Field(description="Key of a recipe: `forecast`, `script`, or one that is installed.")
    parameters: GivenObject = Field(default={}, description="The recipe's parameters.")
    data: GivenObject | None = Field(None, description="The data set: a path and what its columns mean.")
    files: list[FileRef] = Field(default=[], max_length=5000, description="Uploaded files, by content hash.")
    resource_requirements: ResourceRequirements = ResourceRequirements()
    priority: int = Field(0, ge=-1000, le=1000, description="Higher goes first.")
    strategy: Name | None = Field(None, description="The tenant that the task counts for.")
    preemptible: bool = Field(
        True,
        description="Whether one of a higher priority, or one that its place was kept for, may take its place; "
        "it goes on later from a checkpoint.",
    )
    labels: Labels = {}
    max_retries: int = Field(3, ge=0, le=100, description="Attempts after failures of the task's own.")
    retry_on: list[FailureClass] | None = Field(None, description="Try again after these only; all without.")
    retry: dict[FailureClass, RetryRule] = Field(default={}, description="Tries and pause by class of failure.")
    timeout: Seconds | None = Field(None, description="Time that it may train, all attempts together: `2h`.")
    on_timeout: Literal["fail", "pause"] = Field("fail", description="What follows then; a checkpoint is kept.")
    on_unreachable: Literal["replace", "wait"] = Field(
        "replace", description="When its worker is silent: start it elsewhere, or wait for that worker."
    )
    repairable: dict[RepairRole, Name] = Field(
        default={}, description="Parameters that a repair may change: role, and the script's name for it."
    )
    hot: Annotated[dict[Name, HotRule], Field(max_length=64), BeforeValidator(_rules)] = Field(
        default={}, description="Parameters that may change while a run trains, with their limits; or their names."
    )
    watch: Watch = Watch()


def _received(data: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(data)
    except ValidationError:
        return validate(known_only(TaskConfig, data))


ReceivedConfig = Annotated[TaskConfig, WrapValidator(_received)]
"""A task document inside an event: it was accepted when it was sent, perhaps by a later version than this."""


Patch = Annotated[
    GivenObject,
    Field(description="What changes of the document (RFC 7396): sections are merged, null takes a key away."),
]
TaskIds = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100)]],
    Field(max_length=1000, description="Tasks that must complete before this one runs."),
]


class Over(Request):
    """What wins over a document's own fields."""

    name: Name | None = None
    priority: int | None = Field(None, ge=-1000, le=1000)
    resource_requirements: ResourceRequirements | None = None
    strategy: Name | None = None
    labels: Labels | None = None
    max_retries: int | None = Field(None, ge=0, le=100)
    timeout: SomeTime | None = Field(None, description="Time that it may train: `2h`.")


def _or_left_out(schema: dict[str, Any]) -> None:
    """Say of a field that it may be left out, not that it may be null."""
    schema.update(schema.pop("anyOf")[0])


class CreateTask(Over):
    """`POST /tasks`: a document or a stored configuration, and what overrides it."""

    config: TaskConfig | None = Field(
        None, description="The document; or name a stored one by `config_id`.", json_schema_extra=_or_left_out
    )
    config_id: Annotated[str, Field(max_length=100)] | None = Field(None, description="A stored configuration.")
    config_version: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Its version; the newest when left out."
    )
    changes: Patch | None = Field(None, description="What is to be different from the stored configuration.")
    depends_on: TaskIds = []
    on_dependency_failure: Literal["fail", "run"] = Field(
        "fail", description="When one of them fails or is cancelled: so does this task, or it runs all the same."
    )
    start: bool = Field(False, description="Ask it to run at once.")

    @model_validator(mode="after")
    def _names_one_document(self) -> Self:
        if (self.config is None) == (self.config_id is None):
            raise ValueError("name a document: either `config` or `config_id`")
        if self.config_id is None and (self.config_version is not None or self.changes is not None):
            raise ValueError("`config_version` and `changes` go with `config_id`")
        return self


class RerunTask(Over):
    """`POST /tasks/{id}/rerun`: the same document once more as a new task, with what is to be different."""

    model_config = example(changes={"parameters": {"learning_rate": 0.001}}, start=True)
    changes: Patch | None = Field(None, description="What is to be different from the task's document.")
    start: bool = Field(False, description="Ask it to run at once.")


class ChangeTask(Request):
    """`PATCH /tasks/{id}`: what may change of a task that exists; what is left out stays."""

    model_config = example(priority=10, labels={"team": "sales"})
    priority: int | None = Field(None, ge=-1000, le=1000, description="Higher goes first.")
    name: Name | None = None
    labels: Labels | None = None
    depends_on: TaskIds | None = None


class SetParameters(Request):
    """`PATCH /tasks/{id}/parameters`: new values of parameters that are declared hot."""

    model_config = example(parameters={"learning_rate": 0.001}, reason="the loss has stopped falling")
    parameters: Annotated[GivenObject, Field(min_length=1, max_length=64)] = Field(
        description="New values by name."
    )
    reason: Annotated[str, Field(min_length=1, max_length=1000)] = Field(description="Why; kept for ever.")
    confirm: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="The token that the first call answered, where a change is marked important."
    )


class SetResources(Request):
    """`PATCH /tasks/{id}/resources`: what a task that waits or is paused asks for; what is left out stays."""

    model_config = example(gpu=2, memory="32Gi", reason="it ran out of memory")
    gpu: int | None = Field(None, ge=0, le=1024, description="Whole GPUs.")
    cpu: float | None = Field(None, ge=0, le=4096, description="CPU cores.")
    memory: Bytes | None = None
    gpu_memory: Bytes | None = None
    workers: int | None = Field(None, ge=1, le=MOST_WORKERS, description="Workers that run it together.")
    reason: Annotated[str, Field(max_length=1000)] = Field("", description="Why; kept with the history.")
