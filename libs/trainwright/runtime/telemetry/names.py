"""Every name that traces and figures use, in literal tables: figures, spans, who continues whom in a trace.

Dashboards and alerts (`deploy/`) and docs/telemetry.md go by these names; tests hold them together. Labels
are bounded: services, topics, kinds of events, routes as templates; never a task's, an attempt's or a worker's
name. What a span says of those is in its attributes; what an event or a request carries is in neither.
"""

from dataclasses import dataclass
from typing import Literal

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Bounds in seconds of what takes milliseconds: requests, handlers, passes."""
PATIENT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0)
"""Bounds of what may wait for Kafka or for an outside party."""
LONG = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0, 72 * 3600.0)
"""Bounds of trainings."""


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One figure: a counter ends in ``_total``; seconds, bytes and counts without prefixes are the units."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


HTTP_REQUESTS = Metric(
    "trainwright_http_requests_total",
    "counter",
    ("service", "method", "route", "status"),
    "Requests answered; route is the template, status the class (2xx, 4xx, 5xx).",
)
HTTP_SECONDS = Metric(
    "trainwright_http_request_seconds",
    "histogram",
    ("service", "method", "route"),
    "Time to the first byte of an answer.",
    FAST,
)
WEBSOCKETS = Metric("trainwright_websockets_open", "gauge", ("service",), "WebSockets that are open.")
EVENTS = Metric(
    "trainwright_events_total",
    "counter",
    ("service", "topic", "event", "outcome"),
    "Records read; outcome is applied, repeat (seen, or older than known), superseded or foreign (no reaction).",
)
HANDLER_SECONDS = Metric(
    "trainwright_handler_seconds",
    "histogram",
    ("service", "topic", "event"),
    "Time in the handler of an event, its store calls included, the commit not.",
    FAST,
)
HANDLER_FAILURES = Metric(
    "trainwright_handler_failures_total",
    "counter",
    ("service", "topic"),
    "Tries at a single record that failed.",
)
DEAD_LETTERED = Metric(
    "trainwright_dead_lettered_total", "counter", ("service", "topic"), "Records put aside as dead letters."
)
DEAD_LETTERS = Metric("trainwright_dead_letters", "gauge", ("service",), "Dead letters kept, not replayed yet.")
CONSUMER_LAG = Metric(
    "trainwright_consumer_lag_events",
    "gauge",
    ("service", "topic"),
    "Records on the log that are not applied yet, of the partitions that this process reads.",
)
KAFKA_UP = Metric("trainwright_kafka_up", "gauge", ("service",), "1 when Kafka answers every client of a service.")
STORE_UP = Metric("trainwright_store_up", "gauge", ("service",), "1 when the store answered this scrape in time.")
OUTBOX_DEPTH = Metric(
    "trainwright_outbox_depth", "gauge", ("service",), "Events and effects that are saved but not out yet."
)
RELAYED = Metric(
    "trainwright_relay_events_total", "counter", ("service", "topic"), "Events that Kafka has acknowledged."
)
RELAY_SECONDS = Metric(
    "trainwright_relay_seconds",
    "histogram",
    ("service",),
    "Time from an event's being saved to its acknowledgement by Kafka.",
    PATIENT,
)
EFFECTS = Metric(
    "trainwright_effects_total",
    "counter",
    ("service", "effect", "outcome"),
    "Effects that ran; outcome is done, failed (tried again) or given_up.",
)
EFFECT_SECONDS = Metric(
    "trainwright_effect_seconds",
    "histogram",
    ("service", "effect"),
    "Time that one try of an effect took.",
    PATIENT,
)
TASKS = Metric("trainwright_tasks", "gauge", ("status",), "Tasks by status (task).")
QUEUE_LENGTH = Metric("trainwright_queue_length", "gauge", (), "Tasks that wait for a place (scheduler).")
PLACEMENTS = Metric("trainwright_placements_total", "counter", (), "Attempts that were given a place (scheduler).")
PLACING_SECONDS = Metric(
    "trainwright_placing_seconds", "histogram", (), "Time of one placing pass over the queue (scheduler).", FAST
)
WORKERS = Metric(
    "trainwright_workers",
    "gauge",
    ("state",),
    "Workers by state: alive, draining, stopped, lost (scheduler).",
)
SLOT_CPUS = Metric(
    "trainwright_slots_cpus", "gauge", ("state",), "CPU cores of alive workers: total and free (scheduler)."
)
SLOT_MEMORY = Metric(
    "trainwright_slots_memory_bytes", "gauge", ("state",), "Memory of alive workers: total and free (scheduler)."
)
SLOT_GPUS = Metric(
    "trainwright_slots_gpus", "gauge", ("state",), "GPUs of alive workers: total and free (scheduler)."
)
ATTEMPTS = Metric(
    "trainwright_attempts",
    "gauge",
    ("state",),
    "Attempts of this worker: accepted (being prepared), running, ended (being reported).",
)
ATTEMPTS_STARTED = Metric(
    "trainwright_attempts_started_total", "counter", (), "Attempts that this worker has started."
)
ATTEMPTS_ENDED = Metric(
    "trainwright_attempts_ended_total",
    "counter",
    ("outcome", "failure_class"),
    "Attempts whose end this worker has reported; failure_class is empty unless the outcome is failed.",
)
ATTEMPT_SECONDS = Metric(
    "trainwright_attempt_seconds", "histogram", ("outcome",), "Time from an attempt's start to its end.", LONG
)
SPOOL_BYTES = Metric(
    "trainwright_worker_spool_bytes",
    "gauge",
    (),
    "Metrics and log lines that runs of this worker have written and Kafka has not acknowledged.",
)
MACHINES = Metric(
    "trainwright_machines",
    "gauge",
    ("state",),
    "Machines by state: starting, running, ending, over, lost (provisioner).",
)
MACHINES_WANTED = Metric(
    "trainwright_machines_wanted", "gauge", (), "Machines that stay and those that are started (provisioner)."
)
MACHINES_REFUSED = Metric(
    "trainwright_machines_refused_total",
    "counter",
    ("action",),
    "What could not be done: look, start, stop, drain or undrain (provisioner).",
)
SPANS = Metric(
    "trainwright_spans_total",
    "counter",
    ("outcome",),
    "Spans handed to the exporter; outcome is exported or failed. Nothing without an exporter.",
)

METRICS = (
    HTTP_REQUESTS,
    HTTP_SECONDS,
    WEBSOCKETS,
    EVENTS,
    HANDLER_SECONDS,
    HANDLER_FAILURES,
    DEAD_LETTERED,
    DEAD_LETTERS,
    CONSUMER_LAG,
    KAFKA_UP,
    STORE_UP,
    OUTBOX_DEPTH,
    RELAYED,
    RELAY_SECONDS,
    EFFECTS,
    EFFECT_SECONDS,
    TASKS,
    QUEUE_LENGTH,
    PLACEMENTS,
    PLACING_SECONDS,
    WORKERS,
    SLOT_CPUS,
    SLOT_MEMORY,
    SLOT_GPUS,
    ATTEMPTS,
    ATTEMPTS_STARTED,
    ATTEMPTS_ENDED,
    ATTEMPT_SECONDS,
    SPOOL_BYTES,
    MACHINES,
    MACHINES_WANTED,
    MACHINES_REFUSED,
    SPANS,
)
"""Beside them each process shows `process_*` (CPU, memory, descriptors) and `python_gc_*` of prometheus-client."""


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """One kind of span: how its name is made, and what its attributes may be."""

    name: str
    kind: Literal["server", "producer", "consumer", "internal"]
    attributes: tuple[str, ...]


_EVENT = (
    "messaging.system",
    "messaging.operation.type",
    "messaging.destination.name",
    "messaging.message.id",
    "trainwright.subject",
    "trainwright.version",
    "trainwright.attempt",
)

REQUEST = Span("{method} {route}", "server", ("http.request.method", "http.route", "http.response.status_code"))
PUBLISH = Span("publish {event}", "producer", _EVENT)
PROCESS = Span("process {event}", "consumer", _EVENT)
PLACE = Span("place task", "internal", ("trainwright.subject", "trainwright.attempt"))
RUN = Span("run attempt", "internal", ("trainwright.subject", "trainwright.attempt", "trainwright.outcome"))
EFFECT = Span("effect {name}", "internal", ("trainwright.effect",))
RENDER = Span("render report", "internal", ())

SPAN_KINDS = (REQUEST, PUBLISH, PROCESS, PLACE, RUN, EFFECT, RENDER)
"""Every span may also carry ``error.type``: the class of what failed, never its words."""


@dataclass(frozen=True, slots=True)
class Step:
    """A span of a service by its full name."""

    service: str
    span: str


@dataclass(frozen=True, slots=True)
class Edge:
    """A span, and the one that it continues: one of ``parents``, where the last of two facts decides."""

    child: Step
    parents: tuple[Step, ...]


def _edge(parent: str, child: str, *, by: str, after: str | None = None, or_after: str | None = None) -> Edge:
    parents = [Step(after or by, parent)] + ([Step(after or by, or_after)] if or_after else [])
    return Edge(Step(by, child), tuple(parents))


_POST = "POST /api/v1/training/tasks"
_WORKER = "trainer_worker"

EDGES = (
    _edge(_POST, _POST, after="gateway", by="task"),
    _edge(_POST, "publish TaskCreated", by="task"),
    _edge(_POST, "publish TaskReady", by="task"),
    _edge("publish TaskReady", "process TaskReady", after="task", by="scheduler"),
    # One that had to wait was told so, and has another status since.
    _edge("process TaskReady", "place task", by="scheduler", or_after="process TaskStatusChanged"),
    _edge("place task", "publish PlacementAssigned", by="scheduler"),
    _edge("place task", "publish RunAttempt", by="scheduler"),
    _edge("publish PlacementAssigned", "process PlacementAssigned", after="scheduler", by="task"),
    _edge("publish RunAttempt", "process RunAttempt", after="scheduler", by=_WORKER),
    _edge("process RunAttempt", "run attempt", by=_WORKER),
    _edge("run attempt", "publish AttemptStarted", by=_WORKER),
    _edge("run attempt", "publish MetricBatch", by=_WORKER),
    _edge("run attempt", "publish LogBatch", by=_WORKER),
    _edge("run attempt", "publish AttemptEnded", by=_WORKER),
    _edge("publish AttemptStarted", "process AttemptStarted", after=_WORKER, by="task"),
    _edge("publish MetricBatch", "process MetricBatch", after=_WORKER, by="monitor"),
    _edge("publish LogBatch", "process LogBatch", after=_WORKER, by="log"),
    _edge("publish AttemptEnded", "process AttemptEnded", after=_WORKER, by="task"),
    _edge("publish AttemptEnded", "process AttemptEnded", after=_WORKER, by="scheduler"),
    _edge("publish AttemptEnded", "process AttemptEnded", after=_WORKER, by="result"),
    _edge("process AttemptEnded", "publish TaskStatusChanged", by="task"),
    _edge("publish TaskStatusChanged", "process TaskStatusChanged", after="task", by="result"),
    _edge("process TaskStatusChanged", "effect register", by="result", or_after="process AttemptEnded"),
    _edge("effect register", "publish ModelVersionRegistered", by="result"),
    _edge("effect register", "render report", by="result"),
    _edge("render report", "publish ReportGenerated", by="result"),
)
"""The trace of a task that is created with a start, and completed: from the request to the report."""
