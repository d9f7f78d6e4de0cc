"""Attempts on several workers: what the ends of their members mean together. Pure.

A collective that lost a peer fails on every rank at once: who failed first by itself is the one that knows why.
Clocks of workers are never compared; of equals the end that was heard first counts.
"""

from collections.abc import Sequence

from trainwright.contracts.attempt import Outcome
from trainwright.contracts.base import Contract
from trainwright.contracts.failure import Failure, FailureClass

OWN_WORD = frozenset({Outcome.COMPLETED, Outcome.PAUSED, Outcome.CANCELLED})
"""Ends of rank 0 that are the attempt's, whatever others met meanwhile: it has all that is kept."""
FAILED, INTERRUPTED = Outcome.FAILED, Outcome.INTERRUPTED


class Ending(Contract):
    """How a member ended; without an outcome it was lost, for the reason in ``failure``."""

    rank: int
    worker_id: str
    outcome: Outcome | None = None
    failure: Failure | None = None
    peer_lost: bool = False
    reported: bool = False
    """Of rank 0: whether its worker has said the attempt's end already."""


def lost(rank: int, worker_id: str, why: str) -> Ending:
    """Return the end of a member that is given up."""
    failure = Failure(failure_class=FailureClass.WORKER_LOST, message=why)
    return Ending(rank=rank, worker_id=worker_id, failure=failure)


def is_through(rank: int, outcome: object) -> bool:
    """Return whether one that is over need not be there any more: rank 0 has yet to speak for all."""
    return rank > 0 or outcome is None


def breaks_up(endings: Sequence[Ending]) -> bool:
    """Return whether the members that are left have to stop."""
    return any(one.rank == 0 or one.outcome is not Outcome.COMPLETED for one in endings)


def conclusion(endings: Sequence[Ending]) -> tuple[Outcome, Failure | None]:
    """Return how an attempt ended whose members are all over, given in the order in which that was heard."""
    first = next(one for one in endings if one.rank == 0)
    if first.outcome in OWN_WORD:
        return first.outcome, None
    cause = min(endings, key=_remoteness)
    if cause.outcome is FAILED and cause.peer_lost:
        message = f"its members lost each other, and none failed by itself; {_words(cause)}"
        return INTERRUPTED, Failure(failure_class=FailureClass.WORKER_LOST, message=message)
    if cause.rank == 0 or cause.failure is None:
        return cause.outcome or INTERRUPTED, cause.failure
    return cause.outcome or INTERRUPTED, cause.failure.model_copy(update={"message": _words(cause)})


def _remoteness(ending: Ending) -> int:
    """Return how far an end is from the first cause."""
    if ending.outcome is None or (ending.outcome is FAILED and not ending.peer_lost):
        return 0
    preempted = ending.failure is not None and ending.failure.failure_class is FailureClass.PREEMPTED
    if ending.outcome is INTERRUPTED and not preempted:
        return 1
    return 2 if ending.outcome is FAILED else 3 if preempted else 4


def _words(ending: Ending) -> str:
    said = ending.failure.message if ending.failure is not None else str(ending.outcome)
    return f"member {ending.rank}, on {ending.worker_id}: {said}"
