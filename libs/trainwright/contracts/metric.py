"""Metrics: what a run logs by step."""

from typing import ClassVar, NamedTuple

from pydantic import Field

from trainwright.contracts.base import Contract, Event, Number, example


class MetricPoint(NamedTuple):
    """One call of `run.log`: its number within the attempt, Unix time in seconds, step, values by name."""

    seq: int
    time: float
    step: int
    values: dict[str, Number]


class MetricBatch(Event):
    """Points of one attempt, in the order of their numbers; a reader skips numbers it has."""

    noun: ClassVar[str] = "metric"
    task_id: str
    attempt: int
    points: list[MetricPoint] = Field(min_length=1)

    @property
    def subject(self) -> str:
        return self.task_id

    @property
    def attempt_number(self) -> int:
        return self.attempt


class MetricSeries(Contract):
    """`GET /tasks/{id}/metrics?name=…`: points are `[step, value]`."""

    model_config = example(task_id="task-3f9c1a7be042", name="loss", points=[[1, 0.912], [2, "NaN"], [3, 0.874]])
    task_id: str
    name: str
    points: list[tuple[int, Number]]


class MetricOverview(Contract):
    """`GET /tasks/{id}/metrics`."""

    model_config = example(task_id="task-3f9c1a7be042", latest={"loss": 0.0731, "lr": 0.001}, names=["loss", "lr"])
    task_id: str
    latest: dict[str, Number]
    names: list[str]
