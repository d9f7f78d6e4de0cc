"""Metrics: what a run logs by step."""

from typing import ClassVar, NamedTuple

from pydantic import Field

from trainwright.contracts.base import (
    AttemptNumber,
    Contract,
    Event,
    LatestMetrics,
    Number,
    TaskId,
    example,
)


class MetricPoint(NamedTuple):
    """One call of `run.log`: its number within the attempt, Unix time in seconds, step, values by name."""

    seq: int
    time: float
    step: int
    values: dict[str, Number]


class MetricBatch(Event):
    """Points of one attempt, in the order of their numbers; a reader skips numbers it has."""

    noun: ClassVar[str] = "metric"
    task_id: TaskId
    attempt: AttemptNumber
    points: list[MetricPoint] = Field(
        min_length=1, description="Each `[number, Unix time in seconds, step, {name: value}]`."
    )

    @property
    def subject(self) -> str:
        return self.task_id

    @property
    def attempt_number(self) -> int:
        return self.attempt


class MetricSeries(Contract):
    """`GET /tasks/{id}/metrics?name=…`: points are `[step, value]`."""

    model_config = example(task_id="task-3f9c1a7be042", name="loss", points=[[1, 0.912], [2, "NaN"], [3, 0.874]])
    task_id: TaskId
    name: str = Field(description="The metric.")
    points: list[tuple[int, Number]] = Field(description="Each `[step, value]`, by step.")


class MetricOverview(Contract):
    """`GET /tasks/{id}/metrics`."""

    model_config = example(task_id="task-3f9c1a7be042", latest={"loss": 0.0731, "lr": 0.001}, names=["loss", "lr"])
    task_id: TaskId
    latest: LatestMetrics
    names: list[str] = Field(description="Every metric that was logged.")
