"""Figures: what a scrape shows, in bounded time whatever is broken; what applying records counts."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.house.house import ROOT
from tests.runtime_kit import COLLECTIONS, Counting, FastClock, record, task_event
from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.apply import apply, apply_each
from trainwright.runtime.telemetry.edge import Observed
from trainwright.runtime.telemetry.names import METRICS, OUTBOX_DEPTH, SPAN_KINDS, STORE_UP, Metric
from trainwright.runtime.telemetry.scraping import Reading, Scrape
from trainwright.storage.sqlite import SqliteStore

DOWN = [Reading(STORE_UP, ("hung",), 0)]


async def nothing(*_: object) -> None:
    """Answer nothing: an app that is never reached."""


async def shown(scrape: Scrape) -> dict[str, dict[str, float]]:
    """Return what `/metrics` shows of gauges and counters: by name and service."""
    transport = httpx.ASGITransport(Observed(nothing, "none", scrape, continues=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels.get("service", "")] = sample.value
    return found


class Store:
    """A store that hangs until it is told not to, and counts who waits."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = asyncio.Event()

    async def read(self) -> Sequence[Reading]:
        self.asked += 1
        await self.answers.wait()
        return [Reading(STORE_UP, ("hung",), 1), Reading(OUTBOX_DEPTH, ("hung",), 7)]


async def test_a_store_that_hangs_is_said_to_be_down_and_not_asked_twice() -> None:
    store, scrape = Store(), Scrape(within=0.05)
    scrape.add(store.read, DOWN)
    for _ in range(3):
        found = await shown(scrape)
        assert found["trainwright_store_up"] == {"hung": 0}
        assert "trainwright_outbox_depth" not in found
    assert store.asked == 1
    store.answers.set()
    await asyncio.sleep(0)
    assert (await shown(scrape))["trainwright_outbox_depth"] == {"hung": 7}


async def test_a_reading_that_fails_leaves_the_others_whole() -> None:
    async def broken() -> Sequence[Reading]:
        raise StoreUnavailable("gone")

    async def well() -> Sequence[Reading]:
        return [Reading(OUTBOX_DEPTH, ("well",), 3)]

    scrape = Scrape()
    scrape.add(broken, DOWN)
    scrape.add(well)
    found = await shown(scrape)
    assert found["trainwright_store_up"] == {"hung": 0}
    assert found["trainwright_outbox_depth"] == {"well": 3}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "figures.db", COLLECTIONS)
    await opened.open()
    yield opened
    await opened.close()


async def test_records_are_counted_when_they_are_committed_and_by_what_became_of_them(store: SqliteStore) -> None:
    counting = Counting(fail_on={"task-000000000002": 100})
    inbound = counting.inbound(store, FastClock())
    well, broken = record(task_event(1), offset=0), record(task_event(2), offset=1)
    before = await _events()
    with pytest.raises(RuntimeError):
        await apply([well, broken], inbound)
    await apply_each([well, broken, record(task_event(1), offset=2)], inbound)
    assert await _events() - before == {
        "trainwright_events_total/applied": 1,
        "trainwright_events_total/repeat": 1,
        "trainwright_handler_seconds_count/": 1,
        "trainwright_handler_failures_total/": 5,
        "trainwright_dead_lettered_total/": 1,
    }


async def _events() -> Counter[str]:
    found: Counter[str] = Counter()
    text = bytes((await Scrape().answer()).body).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("service") == "counting" and not sample.name.endswith(("_bucket", "_sum")):
                found[f"{sample.name}/{sample.labels.get('outcome', '')}"] += int(sample.value)
    return found


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_figure_is_named_as_prometheus_wants_it(metric: Metric) -> None:
    assert re.fullmatch(r"trainwright_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_seconds") == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert bool(metric.buckets) == (metric.kind == "histogram")
    unbounded = {"task", "task_id", "attempt", "worker", "worker_id", "path", "subject", "id"}
    assert not unbounded & set(metric.labels)


def test_the_guide_has_the_table_of_figures_and_of_spans() -> None:
    rows = {f"| `{m.name}` | {m.kind} | {' '.join(m.labels)} | {m.help} |" for m in METRICS}
    rows |= {f"| `{k.name}` | {k.kind} | {' '.join(f'`{a}`' for a in k.attributes)} |" for k in SPAN_KINDS}
    lines = set((ROOT / "docs" / "telemetry.md").read_text().splitlines())
    assert sorted(rows - lines) == []
    named = {line.split("`")[1] for line in lines if line.startswith("| `trainwright_")}
    assert named == {metric.name for metric in METRICS}
