"""Positions, filters and the order of pages: what the stream of events is made of, without Kafka."""

import json

import pytest

from services.gateway.stream.events import LOUD, QUIET, Said, filter_of, merged
from services.gateway.stream.position import Position, parse
from tests.runtime_kit import record, task_event
from trainwright.contracts.errors import InvalidInput
from trainwright.contracts.topics import METRIC, QUEUE, TASK
from trainwright.runtime.envelope import Reread


@pytest.mark.parametrize("text", ["3f9a1c07@queue:7,task:1-0-12", "task:0", "abc@", ""])
def test_a_position_is_what_its_text_says(text: str) -> None:
    position = parse(text)
    assert str(position) == text
    assert str(position.copy()) == text


def test_a_position_moves_by_partition() -> None:
    position = Position("c", {(TASK.name, 1): 4})
    assert str(position) == "c@task:0-4"
    position.set((TASK.name, 0), 2)
    position.set((QUEUE.name, 0), 9)
    assert str(position) == "c@queue:9,task:2-4"
    assert (position.get((TASK.name, 1)), position.get((METRIC.name, 0))) == (4, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "no position"),
        ("taks:1", "did you mean 'task'?"),
        ("task:1--2", "has an offset that is none"),
        ("task:99999999999999999999", "has an offset that is none"),
        ("task:1,", "no position"),
        ("task:-1", "has an offset that is none"),
        ("TASK:1", "no position"),
    ],
)
def test_what_is_no_position_is_refused_with_a_reason(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(text, "after")
    assert said in refused.value.detail
    assert [error.path for error in refused.value.errors] == ["after"]


def test_a_filter_takes_names_in_short_and_in_full() -> None:
    assert filter_of([], []).topics == QUIET
    assert not QUIET & LOUD
    assert filter_of([], ["metric", "trainwright.task.v1"]).topics == {METRIC.name, TASK.name}
    by_type = filter_of(["TaskReady", "trainwright.metric.MetricBatch.v1"], [])
    assert by_type.topics == {TASK.name, METRIC.name}
    assert by_type.types == frozenset({"trainwright.task.TaskReady.v1", "trainwright.metric.MetricBatch.v1"})


@pytest.mark.parametrize(
    ("types", "topics", "path", "said"),
    [
        (["TaskRedy"], [], "types", "did you mean 'TaskReady'?"),
        ([], ["tasks"], "topics", "did you mean 'task'?"),
        (["TaskReady"], ["queue"], "types", "leave `topics` out"),
    ],
)
def test_a_filter_names_the_nearest(types: list[str], topics: list[str], path: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        filter_of(types, topics)
    assert said in refused.value.detail
    assert [error.path for error in refused.value.errors] == [path]


def test_an_event_is_one_line_of_cloudevents() -> None:
    said = Said(record(task_event(7, 3), offset=40), 1000)
    assert said.document is not None
    assert b"\n" not in said.document
    document = json.loads(said.document)
    assert document["specversion"] == "1.0"
    assert (document["type"], document["version"]) == ("trainwright.task.TaskReady.v1", 3)
    assert (document["topic"], document["partition"], document["offset"]) == (TASK.name, 0, 40)
    assert document["data"]["task"]["task_id"] == document["subject"] == "task-000000000007"
    assert filter_of([], [], "task-000000000007").wants(said)
    assert not filter_of([], [], "task-000000000008").wants(said)
    assert not filter_of(["TaskCreated"], []).wants(said)


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff", b"NaN"])
def test_what_is_no_event_is_nobodys(value: bytes | None) -> None:
    headers = record(task_event()).headers
    assert not filter_of([], []).wants(Said(Reread(TASK.name, 0, 1, None, value, headers), 0))
    assert not filter_of([], []).wants(Said(Reread(TASK.name, 0, 1, None, b"{}", []), 0))


def said(partition: int, offset: int, time: int) -> Said:
    return Said(Reread(TASK.name, partition, offset, None, None, []), time)


def test_pages_of_partitions_merge_by_time_as_far_as_that_is_certain() -> None:
    one = [said(1, 0, 10), said(1, 1, 30), said(1, 2, 50)]
    two = [said(2, 7, 20), said(2, 8, 40)]
    batches = {(TASK.name, 1): one, (TASK.name, 2): two}

    def order(unfinished: set[tuple[str, int]]) -> list[int]:
        return [each.timestamp for each in merged(batches, unfinished)]

    assert order(set()) == [10, 20, 30, 40, 50]
    assert order({(TASK.name, 2)}) == [10, 20, 30, 40]
    assert order({(TASK.name, 1), (TASK.name, 2)}) == [10, 20, 30, 40]
    assert order({(TASK.name, 1)}) == [10, 20, 30, 40, 50]


def test_a_clock_that_went_back_does_not_turn_a_partition_round() -> None:
    batches = {(TASK.name, 1): [said(1, 0, 90), said(1, 1, 10)], (TASK.name, 2): [said(2, 0, 50)]}
    found = [each.partition[1] * 10 + each.offset for each in merged(batches, {(TASK.name, 1)})]
    assert found == [20, 10, 11]
