"""The topic table's promises: names, keys, one home for every event, and what is kept for ever."""

import re

import pytest

from trainwright.contracts import attempt, command, dead, log, metric, pulse, queue, quota, result, task, worker
from trainwright.contracts.base import Event, Newer, Once
from trainwright.contracts.topics import EVENT_TYPES, HOUR_MS, TOPIC_OF, TOPICS, Topic

MODULES = (attempt, command, dead, log, metric, pulse, queue, quota, result, task, worker)
every_topic = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)


def concrete(kind: type[Event]) -> list[type[Event]]:
    """Return the event classes that have no subclasses."""
    below = kind.__subclasses__()
    return [leaf for child in below for leaf in concrete(child)] if below else [kind]


def test_every_event_is_on_exactly_one_topic() -> None:
    ours = {kind for kind in concrete(Event) if kind.__module__.startswith("trainwright.")}
    listed = [kind for topic in TOPICS for kind in topic.events]
    assert sorted(k.__name__ for k in listed) == sorted(k.__name__ for k in ours)
    assert len(listed) == len(set(listed)) == len(TOPIC_OF) == len(EVENT_TYPES)


@every_topic
def test_a_topic_is_named_after_its_noun_and_major_version(topic: Topic) -> None:
    match = re.fullmatch(r"trainwright\.([a-z]+)\.v([0-9]+)", topic.name)
    assert match is not None
    for kind in topic.events:
        assert (kind.noun, str(kind.major)) == match.groups()
        assert kind.type_name() == f"trainwright.{kind.noun}.{kind.__name__}.v{kind.major}"
    assert topic.says
    assert topic.writers
    assert topic.partitions >= 1


@pytest.mark.parametrize(
    ("name", "key", "writers", "partitions", "hours"),
    [
        ("task", "task_id", ("task",), 6, None),
        ("queue", "task_id", ("scheduler",), 6, None),
        ("command", "worker_id", ("scheduler",), 6, 24),
        ("attempt", "task_id", ("trainer_worker",), 6, None),
        ("worker", "worker_id", ("trainer_worker",), 3, None),
        ("pulse", "worker_id", ("trainer_worker", "scheduler"), 3, 1),
        ("metric", "task_id", ("trainer_worker",), 6, 48),
        ("log", "task_id", ("trainer_worker",), 6, 48),
        ("result", "task_id", ("result",), 6, None),
        ("resource", "strategy", ("scheduler",), 3, None),
        ("dead", "consumer", None, 1, 30 * 24),
    ],
)
def test_the_table_is_as_the_design_has_it(
    name: str, key: str, writers: tuple[str, ...] | None, partitions: int, hours: int | None
) -> None:
    (topic,) = [t for t in TOPICS if t.name == f"trainwright.{name}.v1"]
    assert topic.key == key
    assert writers is None or topic.writers == writers
    assert topic.partitions == partitions
    assert topic.retention_ms == (-1 if hours is None else hours * HOUR_MS)


def test_what_grows_without_end_has_a_cap_in_bytes() -> None:
    capped = {topic.name.split(".")[1] for topic in TOPICS if topic.retention_bytes > 0}
    assert capped == {"metric", "log"}


def test_documents_are_guarded_by_version_and_wishes_by_key() -> None:
    """Every event but heartbeats, probes and batches, which carry numbers of their own, is known when repeated."""
    unguarded = {"WorkerHeartbeat", "SchedulerProbed", "MetricBatch", "LogBatch", "MemberLogBatch"}
    for kind in EVENT_TYPES.values():
        overridden = next(base for base in kind.__mro__ if "guard" in vars(base))
        assert (overridden is Event) == (kind.__name__ in unguarded), kind


def test_guards_say_what_is_newer() -> None:
    progressed = pulse.AttemptProgressed(
        task_id="t", attempt=2, worker_id="w", seq=5, phase=task.TaskPhase.TRAINING
    )
    assert progressed.guard == Newer("t", (2, 5))
    wish = {"worker_id": "w", "incarnation": "i", "task_id": "t", "attempt": 2, "kind": "cancel"}
    stop = command.StopAttempt.model_validate(wish)
    assert stop.guard == Once("t/2/StopAttempt/1")
    assert stop.model_copy(update={"revision": 2}).guard == Once("t/2/StopAttempt/2")
