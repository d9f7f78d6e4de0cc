"""What a worker does about commands: it keeps them. Acting on what is kept is `attempts.py`.

No Kafka, no processes. A command is refused silently: the scheduler learns from heartbeats what runs here.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from services.trainer_worker import store
from services.trainer_worker.domain import LIVE, Attempt, Concluded, Stop, StopCause, is_late, key_of, with_changes
from trainwright.contracts.base import Event
from trainwright.contracts.command import ConcludeAttempt, RunAttempt, StopAttempt, UpdateParameters
from trainwright.runtime.clock import Clock
from trainwright.runtime.telemetry.tracing import TRACE, TRACING
from trainwright.storage.document import Transaction

logger = logging.getLogger(__name__)

FENCED_GRACE = 0.0


@dataclass(frozen=True, slots=True)
class CommandHandlers:
    """Keeps commands for one incarnation of one worker."""

    incarnation: str

    async def on_run_attempt(self, event: RunAttempt, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Keep an attempt to be started; end older attempts of its task; refuse it when it is out of date."""
        known = await store.attempts_of_task(tx, event.task_id)
        highest = max((attempt.attempt for attempt in known), default=0)
        refusal = self._refusal(event, highest, clock)
        if refusal is not None:
            logger.warning("attempt %d of %s refused: %s", event.attempt, event.task_id, refusal)
            return []
        for older in known:
            if older.state in LIVE:
                fence = Stop(kind=StopCause.FENCED, grace_seconds=FENCED_GRACE)
                stop = fence if older.stop is None else older.stop.then(fence)
                await store.put_attempt(tx, older.model_copy(update={"stop": stop}))
        accepted = Attempt(
            task_id=event.task_id,
            attempt=event.attempt,
            incarnation=self.incarnation,
            name=event.name,
            config=event.config,
            slots=event.slots,
            overrides=event.overrides,
            parameter_changes=event.parameter_changes,
            repairs=event.repairs,
            resume_from=event.resume_from,
            timeout_seconds=event.timeout_seconds,
            rank=event.rank,
            members=event.members,
            rendezvous=event.rendezvous,
            received_at=clock.now(),
            traceparent=TRACING.reserve(TRACE.get()),
            commanded_in=TRACE.get(),
        )
        await store.put_attempt(tx, accepted)
        return []

    async def on_stop_attempt(self, event: StopAttempt, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Keep the wish to stop an attempt, for whichever incarnation it was meant: its number is enough."""
        attempt = await store.attempt_of(tx, key_of(event.task_id, event.attempt))
        if attempt is None or attempt.state not in LIVE:
            logger.info("attempt %d of %s is not running here: no stop", event.attempt, event.task_id)
            return []
        if is_late(event.not_after, clock.now()):
            return []
        stop = Stop(
            kind=StopCause(event.kind.value),
            revision=event.revision,
            grace_seconds=event.grace_seconds,
            reason=event.reason,
        )
        if attempt.stop is not None:
            stop = attempt.stop.then(stop)
        await store.put_attempt(tx, attempt.model_copy(update={"stop": stop}))
        return []

    async def on_update_parameters(
        self, event: UpdateParameters, *, tx: Transaction, clock: Clock
    ) -> Sequence[Event]:
        """Keep changed parameters for a run that is here; those of another one come with its own start."""
        attempt = await store.attempt_of(tx, key_of(event.task_id, event.attempt))
        if attempt is None or attempt.state not in LIVE or is_late(event.not_after, clock.now()):
            logger.info("attempt %d of %s is not running here: no change", event.attempt, event.task_id)
            return []
        changes = with_changes(attempt.parameter_changes, event.changes)
        await store.put_attempt(tx, attempt.model_copy(update={"parameter_changes": changes}))
        return []

    async def on_conclude_attempt(
        self, event: ConcludeAttempt, *, tx: Transaction, clock: Clock
    ) -> Sequence[Event]:
        """Keep how an attempt ended that several workers ran: now its end may be told."""
        attempt = await store.attempt_of(tx, key_of(event.task_id, event.attempt))
        if attempt is not None and attempt.state in LIVE:
            concluded = Concluded(outcome=event.outcome, failure=event.failure)
            await store.put_attempt(tx, attempt.model_copy(update={"concluded": concluded}))
        return []

    def _refusal(self, event: RunAttempt, highest: int, clock: Clock) -> str | None:
        if event.incarnation != self.incarnation:
            return f"it is for incarnation {event.incarnation}, this is {self.incarnation}"
        if is_late(event.not_after, clock.now()):
            return f"it had to be read before {event.not_after}"
        if event.attempt <= highest:
            return f"attempt {highest} is known here"
        return None
