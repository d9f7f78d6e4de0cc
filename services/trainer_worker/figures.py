"""What a worker shows at `/metrics`, and the span of each of its runs."""

from collections import Counter
from collections.abc import Sequence

from services.trainer_worker import store
from services.trainer_worker.domain import LIVE, Attempt
from services.trainer_worker.place import SOURCE
from services.trainer_worker.publish import Publisher
from trainwright.contracts.attempt import Outcome
from trainwright.runtime.telemetry.figures import count, observe
from trainwright.runtime.telemetry.names import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    ATTEMPTS_ENDED,
    ATTEMPTS_STARTED,
    RUN,
    SPOOL_BYTES,
)
from trainwright.runtime.telemetry.scraping import Reading, Scrape
from trainwright.runtime.telemetry.tracing import TRACING
from trainwright.storage.document import Reader


def show(scrape: Scrape, documents: Reader, publisher: Publisher) -> None:
    """Have the process's figures show this worker's attempts, and what waits to be published."""

    async def attempts() -> Sequence[Reading]:
        states = Counter(attempt.state for attempt in await store.live_attempts(documents))
        return [Reading(ATTEMPTS, (state.value,), states[state]) for state in LIVE]

    async def spool() -> Sequence[Reading]:
        return [Reading(SPOOL_BYTES, (), publisher.behind())]

    scrape.add(attempts)
    scrape.add(spool)
    count(ATTEMPTS_STARTED, by=0)
    for outcome in Outcome:
        if outcome is not Outcome.FAILED:
            count(ATTEMPTS_ENDED, outcome.value, "", by=0)


def started() -> None:
    """Count an attempt that was started."""
    count(ATTEMPTS_STARTED)


def ended(attempt: Attempt) -> None:
    """Count an attempt whose end was reported, and record its run as a span of its trace.

    Only now: a run may outlive its agent, and what an agent keeps in memory until then would be lost with it.
    """
    outcome = attempt.outcome.value if attempt.outcome is not None else ""
    failure = attempt.failure.failure_class.value if attempt.failure is not None else ""
    count(ATTEMPTS_ENDED, outcome, failure)
    began, over = attempt.started_at or attempt.received_at, attempt.ended_at
    if over is None:
        return
    observe(ATTEMPT_SECONDS, outcome, value=max(0.0, (over - began).total_seconds()))
    about = {"trainwright.subject": attempt.task_id, "trainwright.attempt": str(attempt.attempt)}
    about["trainwright.outcome"] = outcome
    times = attempt.received_at, over
    TRACING.past(
        RUN, SOURCE, RUN.name, attempt.traceparent, attempt.commanded_in, times, about, error=failure or None
    )
