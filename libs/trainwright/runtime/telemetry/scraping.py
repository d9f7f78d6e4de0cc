"""What `/metrics` answers: the counted figures, and gauges that are read off at the scrape, in bounded time.

A reading that does not come in time (a store that hangs) leaves its gauges out, or shows what is said for that
case; it is not cut off, and not begun again before it ends: a scrape never hangs, breaks or piles up work.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from starlette.responses import Response

from trainwright.runtime.telemetry.figures import REGISTRY
from trainwright.runtime.telemetry.names import Metric

logger = logging.getLogger(__name__)

WITHIN = 2.0
"""Seconds that readings may take; a scraper gives up after ten."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A gauge's value now."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


Read = Callable[[], Awaitable[Sequence[Reading]]]


@dataclass(slots=True, eq=False)
class _Probe:
    read: Read
    otherwise: Sequence[Reading]
    running: "asyncio.Task[Sequence[Reading]] | None" = None

    def begin(self) -> "asyncio.Task[Sequence[Reading]]":
        if self.running is None or self.running.done():
            self.running = asyncio.ensure_future(self.read())
        return self.running

    def found(self) -> Sequence[Reading]:
        task = self.running
        if task is None or not task.done() or task.cancelled():
            return self.otherwise
        if (error := task.exception()) is not None:
            logger.debug("a figure cannot be read: %r", error)
            return self.otherwise
        return task.result()


@dataclass(slots=True)
class Scrape:
    """What one process shows."""

    within: float = WITHIN
    _probes: list[_Probe] = field(default_factory=list)

    def add(self, read: Read, otherwise: Sequence[Reading] = ()) -> None:
        """Read gauges at each scrape; show ``otherwise`` when that fails or takes too long."""
        self._probes.append(_Probe(read, otherwise))

    async def answer(self) -> Response:
        """Return all figures of this process in Prometheus' text format."""
        tasks = [probe.begin() for probe in self._probes]
        if tasks:
            await asyncio.wait(tasks, timeout=self.within)
        readings = [reading for probe in self._probes for reading in probe.found()]
        return Response(generate_latest(_Shown(readings)), media_type=CONTENT_TYPE_LATEST)


class _Shown(Collector):
    """The counted figures and these readings; what `generate_latest` takes in place of a registry."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Family]:
        yield from REGISTRY.collect()
        by_metric: dict[Metric, list[Reading]] = defaultdict(list)
        for reading in self._readings:
            by_metric[reading.metric].append(reading)
        for metric, readings in by_metric.items():
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for reading in readings:
                family.add_metric(reading.labels, reading.value)
            yield family
