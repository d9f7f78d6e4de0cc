"""Figures that are counted where things happen: series of the table, kept by prometheus-client. No HTTP in here.

A figure appears in a process with its first use: a worker shows no queue, a gateway no slots. What is read off at
a scrape instead (depths, lags, slots) is `scraping.py`.
"""

from collections.abc import Iterable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from trainwright.runtime.telemetry.names import Metric

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)
# A second series for each, which no dashboard shows.
disable_created_metrics()  # type: ignore[no-untyped-call]


def count(metric: Metric, *labels: str, by: float = 1) -> None:
    """Add to a counter; with ``by=0`` only show it, so that its first step is seen as one."""
    _counter(metric, labels).inc(by)


def observe(metric: Metric, *labels: str, value: float) -> None:
    """Add a value to a histogram."""
    _histogram(metric, labels).observe(value)


def observe_all(metric: Metric, *labels: str, values: Iterable[float]) -> None:
    """Add values to a histogram."""
    add = _histogram(metric, labels).observe
    for value in values:
        add(value)


def move(metric: Metric, *labels: str, by: float) -> None:
    """Move a gauge that is kept up as things happen."""
    _gauge(metric, labels).inc(by)


# Finding a series by its labels costs more than counting does; labels are few (names.py).
@cache
def _counter(metric: Metric, labels: tuple[str, ...]) -> Counter:
    made = _made(metric)
    assert isinstance(made, Counter), metric.name
    return made.labels(*labels) if labels else made


@cache
def _histogram(metric: Metric, labels: tuple[str, ...]) -> Histogram:
    made = _made(metric)
    assert isinstance(made, Histogram), metric.name
    return made.labels(*labels) if labels else made


@cache
def _gauge(metric: Metric, labels: tuple[str, ...]) -> Gauge:
    made = _made(metric)
    assert isinstance(made, Gauge), metric.name
    return made.labels(*labels) if labels else made


@cache
def _made(metric: Metric) -> Counter | Gauge | Histogram:
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, metric.labels, registry=REGISTRY)
    if metric.kind == "gauge":
        return Gauge(metric.name, metric.help, metric.labels, registry=REGISTRY)
    return Histogram(metric.name, metric.help, metric.labels, registry=REGISTRY, buckets=metric.buckets)
