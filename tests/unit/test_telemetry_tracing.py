"""Spans: passed through without a collector, sent with one, lost without harm when it is dead."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.runtime_kit import COLLECTIONS, MOMENT, Counting, FastClock, record, task_event
from tests.trace_collector import Collector, collecting, until
from trainwright.runtime.apply import apply
from trainwright.runtime.telemetry.names import PLACE, PROCESS, RUN, Step
from trainwright.runtime.telemetry.tracing import TRACING, Tracing, new_traceparent, unsampled
from trainwright.storage.sqlite import SqliteStore

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WITHIN = 20


@contextmanager
def tracing(endpoint: str | None) -> Iterator[Tracing]:
    """Trace until the end of the block."""
    made = Tracing()
    made.start(endpoint)
    try:
        yield made
    finally:
        made.stop(within=5)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def not_asked() -> dict[str, str | int | None]:
    raise AssertionError("attributes are made although nothing is recorded")


@pytest.mark.parametrize("parent", [PARENT, None, "what others send"])
def test_without_a_collector_a_context_is_passed_on_as_it_is(parent: str | None) -> None:
    with tracing(None) as off:
        with off.begin(PROCESS, "task", "process X", parent, not_asked) as span:
            assert span.traceparent == parent
        assert off.reserve(parent) == parent


def test_a_span_continues_its_parent_in_its_trace(collector: Collector) -> None:
    with (
        tracing(collector.url) as on,
        on.begin(PROCESS, "scheduler", "process TaskReady", PARENT, lambda: {"n": 1, "no": None}) as outer,
    ):
        on.begin(PLACE, "scheduler", "place task", outer.traceparent, dict).end()
    (outer_span,) = collector.named(Step("scheduler", "process TaskReady"))
    (inner,) = collector.named(Step("scheduler", "place task"))
    assert outer_span.trace_id == inner.trace_id == PARENT[3:35]
    assert (outer_span.parent_id, inner.parent_id) == (PARENT[36:52], outer_span.span_id)
    assert outer_span.attributes == {"n": 1}


def test_services_of_one_process_send_their_spans_under_their_own_names(collector: Collector) -> None:
    with tracing(collector.url) as on:
        for service in ("task", "monitor"):
            on.begin(PROCESS, service, "process X", PARENT, dict).end()
    assert {span.step.service for span in collector.spans} == {"task", "monitor"}


@pytest.mark.parametrize("parent", [None, "00-xyz", "", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"])
def test_what_has_no_readable_parent_begins_a_trace(collector: Collector, parent: str | None) -> None:
    with tracing(collector.url) as on, on.begin(PROCESS, "task", "process X", parent, dict) as span:
        assert span.traceparent != parent
    (sent,) = collector.spans
    assert sent.parent_id == ""


@pytest.mark.parametrize("parent", [unsampled(PARENT), new_traceparent(sampled=False)], ids=["given", "begun"])
def test_what_is_not_sampled_is_not_recorded(collector: Collector, parent: str) -> None:
    with tracing(collector.url) as on, on.begin(PROCESS, "task", "process X", parent, not_asked) as span:
        assert span.traceparent == parent
    assert collector.spans == []


def test_of_an_error_only_its_class_is_said(collector: Collector) -> None:
    with (
        tracing(collector.url) as on,
        pytest.raises(ValueError, match="a secret"),
        on.begin(PROCESS, "task", "process X", PARENT, dict),
    ):
        raise ValueError("a secret")
    (sent,) = collector.spans
    assert sent.failed
    assert sent.attributes == {"error.type": "ValueError"}


def test_a_span_that_never_ends_is_not_sent(collector: Collector) -> None:
    with tracing(collector.url) as on:
        on.begin(PROCESS, "task", "process X", PARENT, dict)
    assert collector.spans == []


def test_a_run_is_recorded_by_another_process_than_the_one_that_reserved_it(collector: Collector) -> None:
    with tracing(collector.url) as first:
        reserved = first.reserve(PARENT)
    assert reserved is not None
    assert reserved[:35] == PARENT[:35]
    with tracing(collector.url) as later:
        later.begin(PROCESS, "task", "process X", reserved, dict).end()
        times = MOMENT, MOMENT + timedelta(hours=1)
        later.past(RUN, "trainer_worker", "run attempt", reserved, PARENT, times, {"n": 1}, error="diverged")
    (child,) = collector.named(Step("task", "process X"))
    (run,) = collector.named(Step("trainer_worker", "run attempt"))
    assert child.parent_id == run.span_id == reserved[36:52]
    assert (run.parent_id, run.seconds, run.failed) == (PARENT[36:52], 3600, True)


def test_a_run_that_began_untraced_is_not_recorded(collector: Collector) -> None:
    with tracing(collector.url) as on:
        for reserved, parent in ((PARENT, PARENT), (None, None), (unsampled(PARENT), PARENT)):
            on.past(RUN, "trainer_worker", "run attempt", reserved, parent, (MOMENT, MOMENT), {})
    assert collector.spans == []


def test_the_standards_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch, collector: Collector) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with tracing(collector.url) as off, off.begin(PROCESS, "task", "process X", PARENT, not_asked):
        pass


@pytest.mark.parametrize("answers", [False, True])
def test_a_dead_collector_costs_a_bounded_queue_and_a_bounded_end(answers: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=5) as silent:  # accepts, and never says a word
        port = silent.getsockname()[1]
        if not answers:
            silent.close()
        on = Tracing()
        on.start(f"http://127.0.0.1:{port}")
        recorder = on._recorder
        assert recorder is not None
        queue = recorder._processor._batch_processor._queue
        for _ in range(6000):
            on.begin(PROCESS, "task", "process X", PARENT, dict).end()
        assert len(queue) <= 2048
        on.stop(within=0.2)  # comes back; were it to wait for the collector, this would be its 10 s and more
        assert until(lambda: on.begin(PROCESS, "task", "x", PARENT, not_asked).traceparent == PARENT, WITHIN)


@pytest.mark.parametrize(
    ("age", "time", "spans"),
    [
        (0, None, ["process TaskReady"]),
        (3601, None, []),
        (3601, b"yesterday", ["process TaskReady"]),
        (3601, b"2025-03-03T08:15:30", ["process TaskReady"]),
    ],
    ids=["news", "history", "no time", "a time of nowhere"],
)
async def test_a_service_that_reads_history_does_not_tell_its_traces_again(
    tmp_path: Path, collector: Collector, age: float, time: bytes | None, spans: list[str]
) -> None:
    clock = FastClock()
    clock.slept.append(age)
    store = SqliteStore(tmp_path / "history.db", COLLECTIONS)
    await store.open()
    TRACING.start(collector.url)
    try:
        told = record(task_event(), headers=None if time is None else {"ce_time": time})
        await apply([told], Counting().inbound(store, clock))
        (row,) = await store.outbox_pending("event", 1)
    finally:
        await asyncio.to_thread(TRACING.stop, 5)
        await store.close()
    assert [span.step.span for span in collector.spans] == spans
    assert dict(row.headers)["ce_traceparent"][:35] == PARENT[:35]
